//! LND, over its REST API (lnd 0.18: `lnrpc`, `invoicesrpc`). Its macaroon needs the permissions
//! `invoices:read invoices:write info:read offchain:read`.

use super::{
    Ask, Balances, HoldEnd, InvoiceState, News, NodeError,
    grpc::{Gateway, Number},
    read,
};
use crate::{
    config::Secret,
    fetch::{Fetch, Reply},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two looks at the invoices that are pending.
const POLL: Duration = Duration::from_millis(500);
/// The most invoices that one look sees.
const PENDING_MAX: u32 = 1_000;

/// LND.
#[derive(Clone, Debug)]
pub struct Lnd(Gateway);

#[derive(Deserialize)]
struct Found {
    state: State,
    #[serde(default)]
    r_hash: String,
    #[serde(default)]
    amt_paid_msat: Number,
    #[serde(default)]
    htlcs: Vec<Htlc>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum State {
    Open,
    Settled,
    Canceled,
    Accepted,
}

#[derive(Deserialize)]
struct Htlc {
    #[serde(default)]
    expiry_height: u32,
    #[serde(default)]
    state: String,
}

impl Lnd {
    /// LND at `url`, by a macaroon in hex.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, macaroon: Secret) -> Self {
        Self(Gateway::new(fetch, url, macaroon))
    }

    pub(super) async fn create(&self, ask: &Ask<'_>) -> Result<String, NodeError> {
        #[derive(Deserialize)]
        struct Made {
            payment_request: String,
        }
        let mut body = json!({
            "value_msat": ask.amount_msat.to_string(),
            "memo": ask.memo,
            "expiry": ask.expiry_s.to_string(),
        });
        let mut path = "/v1/invoices";
        if let (Some(hash), Some(body)) = (ask.hold, body.as_object_mut()) {
            body.insert("hash".to_owned(), STANDARD.encode(hash).into());
            path = "/v2/invoices/hodl";
        }
        let reply = self.0.ask(Method::POST, path, Some(body)).await?;
        Ok(read::<Made>(&reply)?.payment_request)
    }

    pub(super) async fn lookup(&self, hash: &[u8; 32]) -> Result<InvoiceState, NodeError> {
        let Some(found) = self.find(hash).await? else { return Ok(InvoiceState::Missing) };
        Ok(match found.state {
            State::Open => InvoiceState::Open,
            State::Accepted => InvoiceState::Accepted {
                amount_msat: found.amt_paid_msat.0,
                blocks_left: Some(self.blocks_left(&found.htlcs).await?),
            },
            State::Settled => InvoiceState::Settled,
            State::Canceled => InvoiceState::Cancelled,
        })
    }

    async fn find(&self, hash: &[u8; 32]) -> Result<Option<Found>, NodeError> {
        let reply =
            self.0.ask(Method::GET, &format!("/v1/invoice/{}", hex::encode(hash)), None).await?;
        // An unknown invoice is a status of gRPC's: NOT_FOUND (5) on 404, older versions 500.
        if reply.status >= 400 && is_not_found(&reply) {
            return Ok(None);
        }
        read(&reply).map(Some)
    }

    /// Blocks until the first part of the payment goes back by itself.
    async fn blocks_left(&self, htlcs: &[Htlc]) -> Result<u32, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            block_height: u32,
        }
        let held = htlcs.iter().filter(|htlc| htlc.state == "ACCEPTED");
        let first = held.map(|htlc| htlc.expiry_height).min().ok_or(NodeError::Nonsense)?;
        let told: Told = read(&self.0.ask(Method::GET, "/v1/getinfo", None).await?)?;
        Ok(first.saturating_sub(told.block_height))
    }

    pub(super) async fn settle(&self, preimage: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        let body = json!({ "preimage": STANDARD.encode(preimage) });
        let reply = self.0.ask(Method::POST, "/v2/invoices/settle", Some(body)).await?;
        if reply.status == 200 {
            return Ok(HoldEnd::Settled);
        }
        let hash = countersign_core::digest::Digest::of(preimage);
        self.ended(hash.as_bytes()).await
    }

    pub(super) async fn cancel(&self, hash: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        let body = json!({ "payment_hash": STANDARD.encode(hash) });
        let reply = self.0.ask(Method::POST, "/v2/invoices/cancel", Some(body)).await?;
        if reply.status == 200 {
            return Ok(HoldEnd::Gone);
        }
        self.ended(hash).await
    }

    /// What an invoice that can be neither settled nor cancelled has come to.
    async fn ended(&self, hash: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        match self.find(hash).await?.map(|found| found.state) {
            Some(State::Settled) => Ok(HoldEnd::Settled),
            Some(State::Canceled) | None => Ok(HoldEnd::Gone),
            Some(State::Open | State::Accepted) => Err(NodeError::Refused),
        }
    }

    /// Held payments have no event of their own for whoever follows all invoices, so the pending
    /// ones are looked at; taken ones are found by their lapsed invoices.
    pub(super) async fn news(&self, _cursor: &str) -> Result<News, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            invoices: Vec<Found>,
        }
        tokio::time::sleep(POLL).await;
        let path =
            format!("/v1/invoices?pending_only=true&reversed=true&num_max_invoices={PENDING_MAX}");
        let told: Told = read(&self.0.ask(Method::GET, &path, None).await?)?;
        let accepted = told.invoices.iter().filter(|found| found.state == State::Accepted);
        let accepted = accepted.map(|found| bytes(&found.r_hash)).collect::<Result<_, _>>()?;
        Ok(News { accepted, ..News::default() })
    }

    pub(super) async fn balances(&self) -> Result<Balances, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            local_balance: Amount,
            remote_balance: Amount,
        }
        #[derive(Deserialize)]
        struct Amount {
            #[serde(default)]
            msat: Number,
        }
        let told: Told = read(&self.0.ask(Method::GET, "/v1/balance/channels", None).await?)?;
        Ok(Balances {
            inbound_msat: told.remote_balance.msat.0,
            outbound_msat: told.local_balance.msat.0,
        })
    }
}

fn is_not_found(reply: &Reply) -> bool {
    let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let code = body.as_ref().and_then(|body| body.get("code")?.as_i64());
    let message = body.as_ref().and_then(|body| body.get("message")?.as_str());
    code == Some(5) || message.is_some_and(|text| text.contains("unable to locate invoice"))
}

/// Bytes as LND's JSON writes them.
fn bytes(text: &str) -> Result<[u8; 32], NodeError> {
    let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    decoded.ok().and_then(|bytes| bytes.try_into().ok()).ok_or(NodeError::Nonsense)
}
