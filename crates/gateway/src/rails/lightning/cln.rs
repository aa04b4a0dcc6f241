//! Core Lightning (24.11 and later), over clnrest, by a rune for the methods `invoice`,
//! `listinvoices`, `waitanyinvoice` and `listpeerchannels`. Hold invoices need a plugin there, so
//! its invoices are plain.

use super::{Ask, Balances, InvoiceState, News, NodeError, hash, read};
use crate::{
    config::Secret,
    fetch::{Fetch, Reply},
};
use bytes::Bytes;
use countersign_core::world::World;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

/// How long one request for news waits, in seconds: less than a fetch may take.
const NEWS_WAIT_S: u64 = 20;
/// The error of `waitanyinvoice` when nothing was paid in time.
const TIMED_OUT: i64 = 904;

/// Core Lightning.
#[derive(Clone, Debug)]
pub struct Cln {
    fetch: Fetch,
    url: String,
    rune: Secret,
    world: World,
}

impl Cln {
    /// clnrest at `url`.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, rune: Secret, world: World) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned(), rune, world }
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Reply, NodeError> {
        let headers = [("rune", self.rune.expose().trim())];
        let body = Some(("application/json", Bytes::from(params.to_string())));
        let url = format!("{}/v1/{method}", self.url);
        Ok(self.fetch.ask(Method::POST, &url, &headers, body).await?)
    }

    pub(super) async fn create(&self, ask: &Ask<'_>) -> Result<String, NodeError> {
        #[derive(Deserialize)]
        struct Made {
            bolt11: String,
        }
        // Every invoice has a label there, used once.
        let label = format!("countersign-{}", hex::encode(self.world.random::<16>()));
        let params = json!({
            "amount_msat": ask.amount_msat,
            "label": label,
            "description": ask.memo,
            "expiry": ask.expiry_s,
        });
        Ok(read::<Made>(&self.ask("invoice", params).await?)?.bolt11)
    }

    pub(super) async fn lookup(&self, hash: &[u8; 32]) -> Result<InvoiceState, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            invoices: Vec<Found>,
        }
        #[derive(Deserialize)]
        struct Found {
            status: Status,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Status {
            Unpaid,
            Paid,
            Expired,
        }
        let params = json!({ "payment_hash": hex::encode(hash) });
        let told: Told = read(&self.ask("listinvoices", params).await?)?;
        Ok(match told.invoices.first().map(|found| &found.status) {
            None => InvoiceState::Missing,
            Some(Status::Unpaid) => InvoiceState::Open,
            Some(Status::Paid) => InvoiceState::Settled,
            Some(Status::Expired) => InvoiceState::Expired,
        })
    }

    /// The cursor is the index of the last payment.
    pub(super) async fn news(&self, cursor: &str) -> Result<News, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            pay_index: u64,
            payment_hash: String,
        }
        let last: u64 = cursor.parse().unwrap_or(0);
        let params = json!({ "lastpay_index": last, "timeout": NEWS_WAIT_S });
        let reply = self.ask("waitanyinvoice", params).await?;
        if is_timed_out(&reply) {
            return Ok(News { cursor: last.to_string(), ..News::default() });
        }
        let told: Told = read(&reply)?;
        let settled = vec![hash(&told.payment_hash)?];
        Ok(News { cursor: told.pay_index.to_string(), settled, ..News::default() })
    }

    pub(super) async fn balances(&self) -> Result<Balances, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            channels: Vec<Channel>,
        }
        #[derive(Deserialize)]
        struct Channel {
            #[serde(default)]
            state: String,
            #[serde(default)]
            receivable_msat: u64,
            #[serde(default)]
            spendable_msat: u64,
        }
        let told: Told = read(&self.ask("listpeerchannels", json!({})).await?)?;
        let open = || told.channels.iter().filter(|channel| channel.state == "CHANNELD_NORMAL");
        Ok(Balances {
            inbound_msat: open().map(|c| c.receivable_msat).fold(0, u64::saturating_add),
            outbound_msat: open().map(|c| c.spendable_msat).fold(0, u64::saturating_add),
        })
    }
}

fn is_timed_out(reply: &Reply) -> bool {
    let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
    body.and_then(|body| body.get("code")?.as_i64()) == Some(TIMED_OUT)
}
