//! phoenixd (0.7), over its HTTP API, by its limited-access password. It knows neither hold
//! invoices nor amounts below a satoshi.

use super::{Ask, Balances, InvoiceState, News, NodeError, hash, read};
use crate::{
    config::Secret,
    fetch::{Fetch, Reply, form_encode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use std::time::Duration;

/// Between two looks at what came in.
const POLL: Duration = Duration::from_secs(2);
/// The most payments that one look sees.
const LOOK_MAX: u32 = 500;
/// Payments are looked for from this long before the last one that was seen, in milliseconds:
/// several may carry one time.
const OVERLAP_MS: u64 = 60_000;

/// phoenixd.
#[derive(Clone, Debug)]
pub struct Phoenixd {
    fetch: Fetch,
    url: String,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    payment_hash: String,
    is_paid: bool,
    #[serde(default)]
    is_expired: bool,
    #[serde(default)]
    completed_at: Option<u64>,
}

impl Phoenixd {
    /// phoenixd at `url`.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, password: Secret) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned(), password }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        form: Option<String>,
    ) -> Result<Reply, NodeError> {
        let basic = STANDARD.encode(format!(":{}", self.password.expose().trim()));
        let basic = format!("Basic {basic}");
        let headers = [("authorization", basic.as_str())];
        let body = form.map(|form| ("application/x-www-form-urlencoded", Bytes::from(form)));
        let url = format!("{}{path}", self.url);
        Ok(self.fetch.ask(method, &url, &headers, body).await?)
    }

    pub(super) async fn create(&self, ask: &Ask<'_>) -> Result<String, NodeError> {
        #[derive(Deserialize)]
        struct Made {
            serialized: String,
        }
        let (amount, expiry) = ((ask.amount_msat / 1000).to_string(), ask.expiry_s.to_string());
        let form = form_encode(&[
            ("amountSat", &amount),
            ("description", ask.memo),
            ("expirySeconds", &expiry),
        ]);
        let reply = self.ask(Method::POST, "/createinvoice", Some(form)).await?;
        Ok(read::<Made>(&reply)?.serialized)
    }

    pub(super) async fn lookup(&self, hash: &[u8; 32]) -> Result<InvoiceState, NodeError> {
        let path = format!("/payments/incoming/{}", hex::encode(hash));
        let reply = self.ask(Method::GET, &path, None).await?;
        if reply.status == 404 {
            return Ok(InvoiceState::Missing);
        }
        let found: Incoming = read(&reply)?;
        Ok(match (found.is_paid, found.is_expired) {
            (true, _) => InvoiceState::Settled,
            (false, true) => InvoiceState::Expired,
            (false, false) => InvoiceState::Open,
        })
    }

    /// The cursor is the latest time at which a payment that was seen came.
    pub(super) async fn news(&self, cursor: &str) -> Result<News, NodeError> {
        tokio::time::sleep(POLL).await;
        let seen: u64 = cursor.parse().unwrap_or(0);
        let from = seen.saturating_sub(OVERLAP_MS);
        let path = format!("/payments/incoming?from={from}&limit={LOOK_MAX}");
        let found: Vec<Incoming> = read(&self.ask(Method::GET, &path, None).await?)?;
        let paid = || found.iter().filter(|payment| payment.is_paid);
        let latest = paid().filter_map(|payment| payment.completed_at).max().unwrap_or(0);
        let settled =
            paid().map(|payment| hash(&payment.payment_hash)).collect::<Result<_, _>>()?;
        Ok(News { cursor: latest.max(seen).to_string(), settled, ..News::default() })
    }

    pub(super) async fn balances(&self) -> Result<Balances, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            channels: Vec<Channel>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Channel {
            #[serde(default)]
            balance_sat: u64,
            #[serde(default)]
            inbound_liquidity_sat: u64,
        }
        let told: Told = read(&self.ask(Method::GET, "/getinfo", None).await?)?;
        let sum = |of: fn(&Channel) -> u64| {
            told.channels.iter().map(of).fold(0u64, u64::saturating_add).saturating_mul(1000)
        };
        Ok(Balances {
            inbound_msat: sum(|channel| channel.inbound_liquidity_sat),
            outbound_msat: sum(|channel| channel.balance_sat),
        })
    }
}
