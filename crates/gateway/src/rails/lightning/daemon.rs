//! `countersign-lightning`, and the sandbox, which answers in the same form
//! (`docs/guides/lightning.md`).

use super::{Ask, Balances, HoldEnd, InvoiceState, News, NodeError, hash, read};
use crate::{
    config::Secret,
    fetch::{Fetch, Reply},
};
use bytes::Bytes;
use countersign_core::digest::Digest;
use http::Method;
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

/// The cursor to go on from, after the journal was shortened.
fn gone(reply: &Reply) -> Result<u64, NodeError> {
    let body: Value = serde_json::from_slice(&reply.body).map_err(|_| NodeError::Nonsense)?;
    body.pointer("/error/cursor").and_then(Value::as_u64).ok_or(NodeError::Nonsense)
}
