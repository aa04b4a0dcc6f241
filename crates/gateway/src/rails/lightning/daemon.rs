//! `countersign-lightning`, and the sandbox, which answers in the same form
//! (`docs/guides/lightning.md`).

use super::{
    Ask, Balances, Give, Given, HoldEnd, Invoice, InvoiceState, News, NodeError, hash, read,
};
use crate::{
    config::Secret,
    fetch::{Fetch, Reply},
};
use bytes::Bytes;
use countersign_core::digest::Digest;
use http::Method;
use lightning_invoice::Currency;
use serde::Deserialize;
use serde_json::{Value, json};

/// How long one request for news waits, in seconds: less than a fetch may take.
const NEWS_WAIT_S: u64 = 20;
/// The most events in one answer.
const NEWS_MAX: u64 = 200;

/// The daemon's HTTP API.
#[derive(Clone, Debug)]
pub struct Daemon {
    fetch: Fetch,
    url: String,
    token: Option<Secret>,
}

#[derive(Deserialize)]
struct Found {
    state: State,
    amount_received_msat: Option<u64>,
    claim_deadline_height: Option<u32>,
    #[serde(default)]
    height: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Open,
    Accepted,
    Settled,
    Cancelled,
    Expired,
}

impl Daemon {
    /// The daemon at `url`.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, token: Option<Secret>) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned(), token }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Reply, NodeError> {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {}", token.expose()));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let url = format!("{}{path}", self.url);
        Ok(self.fetch.ask(method, &url, &headers, body).await?)
    }

    pub(super) async fn create(&self, ask: &Ask<'_>) -> Result<String, NodeError> {
        #[derive(Deserialize)]
        struct Made {
            bolt11: String,
        }
        let mut body = json!({
            "amount_msat": ask.amount_msat, "memo": ask.memo, "expiry_s": ask.expiry_s,
        });
        if let (Some(hash), Some(body)) = (ask.hold, body.as_object_mut()) {
            body.insert("payment_hash".to_owned(), hex::encode(hash).into());
        }
        let reply = self.ask(Method::POST, "/v1/invoices", Some(body)).await?;
        Ok(read::<Made>(&reply)?.bolt11)
    }

    pub(super) async fn lookup(&self, hash: &[u8; 32]) -> Result<InvoiceState, NodeError> {
        let path = format!("/v1/invoices/{}", hex::encode(hash));
        let reply = self.ask(Method::GET, &path, None).await?;
        if reply.status == 404 {
            return Ok(InvoiceState::Missing);
        }
        let found: Found = read(&reply)?;
        Ok(match found.state {
            State::Open => InvoiceState::Open,
            State::Accepted => InvoiceState::Accepted {
                amount_msat: found.amount_received_msat.ok_or(NodeError::Nonsense)?,
                blocks_left: found
                    .claim_deadline_height
                    .map(|deadline| deadline.saturating_sub(found.height)),
            },
            State::Settled => InvoiceState::Settled,
            State::Cancelled => InvoiceState::Cancelled,
            State::Expired => InvoiceState::Expired,
        })
    }

    pub(super) async fn settle(&self, preimage: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        let hash = Digest::of(preimage);
        let path = format!("/v1/invoices/{hash}/settle");
        let body = json!({ "preimage": hex::encode(preimage) });
        let reply = self.ask(Method::POST, &path, Some(body)).await?;
        match reply.status {
            409 => Ok(HoldEnd::Gone),
            _ => read::<Found>(&reply).map(|_| HoldEnd::Settled),
        }
    }

    pub(super) async fn cancel(&self, hash: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        let path = format!("/v1/invoices/{}/cancel", hex::encode(hash));
        let reply = self.ask(Method::POST, &path, Some(json!({}))).await?;
        match reply.status {
            404 => Ok(HoldEnd::Gone),
            409 => Ok(HoldEnd::Settled),
            _ => read::<Found>(&reply).map(|_| HoldEnd::Gone),
        }
    }

    pub(super) async fn give(&self, give: &Give<'_>) -> Result<Given, NodeError> {
        let body = json!({
            "key": give.key, "amount_msat": give.amount_msat, "expiry_s": give.expiry_s,
            "max_fee_msat": give.max_fee_msat,
        });
        given(&self.ask(Method::POST, "/v1/refunds", Some(body)).await?)
    }

    pub(super) async fn given(&self, key: &str) -> Result<Option<Given>, NodeError> {
        let reply = self.ask(Method::GET, &format!("/v1/refunds/{key}"), None).await?;
        if reply.status == 404 {
            return Ok(None);
        }
        given(&reply).map(Some)
    }

    pub(super) async fn news(&self, cursor: &str) -> Result<News, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            cursor: u64,
            events: Vec<Event>,
        }
        #[derive(Deserialize)]
        struct Event {
            kind: String,
            payment_hash: Option<String>,
        }
        let cursor: u64 = cursor.parse().unwrap_or(0);
        let path = format!("/v1/events?cursor={cursor}&wait_s={NEWS_WAIT_S}&limit={NEWS_MAX}");
        let reply = self.ask(Method::GET, &path, None).await?;
        if reply.status == 410 {
            // What was missed is found by looking the open invoices up.
            return Ok(News { cursor: gone(&reply)?.to_string(), ..News::default() });
        }
        let told: Told = read(&reply)?;
        let mut news = News { cursor: told.cursor.to_string(), ..News::default() };
        for event in told.events {
            let of_kind = match &*event.kind {
                "accepted" => &mut news.accepted,
                "settled" => &mut news.settled,
                _ => continue,
            };
            of_kind.push(hash(event.payment_hash.as_deref().ok_or(NodeError::Nonsense)?)?);
        }
        Ok(news)
    }

    pub(super) async fn balances(&self) -> Result<Balances, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            inbound_msat: u64,
            outbound_msat: u64,
        }
        let told: Told = read(&self.ask(Method::GET, "/v1/balances", None).await?)?;
        Ok(Balances { inbound_msat: told.inbound_msat, outbound_msat: told.outbound_msat })
    }
}

fn given(reply: &Reply) -> Result<Given, NodeError> {
    #[derive(Deserialize)]
    struct Told {
        refund: String,
        state: String,
        payment_hash: Option<String>,
    }
    let told: Told = read(reply)?;
    let taken = match &*told.state {
        "succeeded" => Some(told.payment_hash.ok_or(NodeError::Nonsense)?),
        _ => None,
    };
    Ok(Given { refund: told.refund, taken, is_open: told.state == "offered" })
}

/// An inbound channel that a provider offers (LSPS1): nothing happens before its invoice is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The provider's name for it.
    pub id: String,
    /// What it costs.
    pub fee_sat: u64,
    /// The invoice, which asks as much.
    pub invoice: Invoice,
}

/// How a payment of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// It is made.
    Done,
    /// No part of it is on its way.
    Failed,
    /// It may still be made.
    Pending,
}

/// How long a bought channel stays open, in blocks: thirty days.
const CHANNEL_BLOCKS: u32 = 4_320;
/// How long the end of a payment is waited for, in seconds: less than a fetch may take.
const PAY_WAIT_S: u64 = 15;

impl Daemon {
    /// Asks the provider for an inbound channel.
    ///
    /// # Errors
    /// No usable answer, or no provider.
    pub(super) async fn order(
        &self,
        inbound_sat: u64,
        network: &Currency,
    ) -> Result<Order, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            id: String,
            total_sat: u64,
            bolt11: String,
        }
        let body = json!({ "inbound_sat": inbound_sat, "expiry_blocks": CHANNEL_BLOCKS });
        let reply = self.ask(Method::POST, "/v1/lsps1/orders", Some(body)).await?;
        let told: Told = read(&reply)?;
        let invoice = Invoice::read(&told.bolt11, network)?;
        if told.total_sat.checked_mul(1000) != Some(invoice.amount_msat) {
            return Err(NodeError::Nonsense);
        }
        Ok(Order { id: told.id, fee_sat: told.total_sat, invoice })
    }

    /// Whether the provider opens a channel with a payment of so much (LSPS2) for at most so much.
    ///
    /// # Errors
    /// [`NodeError::Refused`]: there is no provider, or it wants more. No usable answer.
    pub(super) async fn just_in_time(
        &self,
        amount_msat: u64,
        max_fee_msat: u64,
    ) -> Result<(), NodeError> {
        let body = json!({
            "amount_msat": amount_msat, "memo": "a quote", "expiry_s": 60, "jit": true,
            "max_jit_fee_msat": max_fee_msat,
        });
        let reply = self.ask(Method::POST, "/v1/invoices", Some(body)).await?;
        read::<Value>(&reply).map(drop)
    }

    /// Pays an invoice, once however often it is asked.
    ///
    /// # Errors
    /// [`NodeError::Refused`]: it was not begun. Any other: it may have been.
    pub(super) async fn pay(&self, bolt11: &str, max_fee_msat: u64) -> Result<Paid, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            state: String,
        }
        let body = json!({
            "bolt11": bolt11, "max_fee_msat": max_fee_msat, "wait_s": PAY_WAIT_S,
        });
        let told: Told = read(&self.ask(Method::POST, "/v1/payments", Some(body)).await?)?;
        match &*told.state {
            "succeeded" => Ok(Paid::Done),
            "failed" => Ok(Paid::Failed),
            "pending" => Ok(Paid::Pending),
            _ => Err(NodeError::Nonsense),
        }
    }
}

/// The cursor to go on from, after the journal was shortened.
fn gone(reply: &Reply) -> Result<u64, NodeError> {
    let body: Value = serde_json::from_slice(&reply.body).map_err(|_| NodeError::Nonsense)?;
    body.pointer("/error/cursor").and_then(Value::as_u64).ok_or(NodeError::Nonsense)
}
