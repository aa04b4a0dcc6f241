//! Lightning invoices: made, and looked up.
//!
//! Owns the interface to whatever makes invoices. Preimages stay there: a payer learns one by
//! paying, and the credential's check needs no more than the payment hash.
//!
//! INVARIANT: an invoice leaves this module only after it was parsed and its amount, payment hash
//! and network compared with what was asked: whoever makes it cannot make us offer another one.

use crate::fetch::{Fetch, FetchError, Reply};
use countersign_core::time::UnixMs;
use lightning_invoice::{Bolt11Invoice, Currency};
use serde::Deserialize;
use serde_json::json;
use std::{fmt, str::FromStr};

/// What makes invoices.
#[derive(Clone, Debug)]
pub enum InvoiceSource {
    /// The sandbox: invoices that no real wallet pays.
    Sandbox(SandboxNode),
}

/// What a source can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Invoices whose money can be held, then taken or given back.
    pub has_hold: bool,
    /// Amounts below a satoshi.
    pub has_msat: bool,
    /// Channels opened when a payment arrives.
    pub has_jit: bool,
    /// BOLT12 offers and refunds.
    pub has_bolt12: bool,
}

/// A BOLT11 invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// Its text.
    pub bolt11: String,
    /// SHA-256 of the preimage.
    pub payment_hash: [u8; 32],
    /// What it asks, in millisatoshi.
    pub amount_msat: u64,
    /// When it lapses.
    pub expires_at: UnixMs,
}

/// What became of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceState {
    /// Neither paid nor lapsed.
    Open,
    /// Paid.
    Settled,
    /// Lapsed unpaid.
    Expired,
    /// The source has no such invoice.
    Missing,
}

/// Why a source gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceError {
    /// It cannot be reached.
    Unreachable,
    /// It refuses.
    Refused,
    /// It answered something else than what was asked.
    Nonsense,
}

impl fmt::Display for InvoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the invoice source cannot be reached",
            Self::Refused => "the invoice source refuses",
            Self::Nonsense => "the invoice source answered with nonsense",
        })
    }
}

impl std::error::Error for InvoiceError {}

impl From<FetchError> for InvoiceError {
    fn from(_: FetchError) -> Self {
        Self::Unreachable
    }
}

impl InvoiceSource {
    /// Its name: the payee of its offers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sandbox(_) => "sandbox",
        }
    }

    /// Whether it moves no real money.
    #[must_use]
    pub const fn is_sandbox(&self) -> bool {
        match self {
            Self::Sandbox(_) => true,
        }
    }

    /// What it can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        match self {
            Self::Sandbox(_) => {
                Capabilities { has_hold: false, has_msat: true, has_jit: false, has_bolt12: false }
            }
        }
    }

    /// What it asks for a price: rounded up to whole satoshis where it knows no smaller unit.
    #[must_use]
    pub const fn amount_to_ask_msat(&self, price_msat: u64) -> u64 {
        if self.capabilities().has_msat {
            price_msat
        } else {
            price_msat.div_ceil(1000).saturating_mul(1000)
        }
    }

    /// Makes an invoice.
    ///
    /// # Errors
    /// No usable answer; nothing is owed to anybody then.
    pub async fn create(
        &self,
        amount_msat: u64,
        memo: &str,
        expiry_s: u64,
    ) -> Result<Invoice, InvoiceError> {
        match self {
            Self::Sandbox(node) => node.create(amount_msat, memo, expiry_s).await,
        }
    }

    /// Looks an invoice up.
    ///
    /// # Errors
    /// No usable answer: the state is unknown.
    pub async fn lookup(&self, payment_hash: &[u8; 32]) -> Result<InvoiceState, InvoiceError> {
        match self {
            Self::Sandbox(node) => node.lookup(payment_hash).await,
        }
    }
}

/// The sandbox's Lightning node, over HTTP.
#[derive(Clone, Debug)]
pub struct SandboxNode {
    fetch: Fetch,
    url: String,
}

impl SandboxNode {
    /// The node at `url`.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned() }
    }

    async fn create(
        &self,
        amount_msat: u64,
        memo: &str,
        expiry_s: u64,
    ) -> Result<Invoice, InvoiceError> {
        #[derive(Deserialize)]
        struct Made {
            bolt11: String,
        }
        let body = json!({ "amount_msat": amount_msat, "memo": memo, "expiry_s": expiry_s });
        let url = format!("{}/v1/invoices", self.url);
        let reply = self.fetch.post(&url, "application/json", &[], body.to_string()).await?;
        let made: Made = read(&reply)?;
        let invoice = parse(&made.bolt11)?;
        if invoice.amount_msat != amount_msat {
            return Err(InvoiceError::Nonsense);
        }
        Ok(invoice)
    }

    async fn lookup(&self, payment_hash: &[u8; 32]) -> Result<InvoiceState, InvoiceError> {
        #[derive(Deserialize)]
        struct Found {
            state: State,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum State {
            Open,
            Settled,
            Expired,
        }
        let url = format!("{}/v1/invoices/{}", self.url, hex::encode(payment_hash));
        let reply = self.fetch.get(&url).await?;
        if reply.status == 404 {
            return Ok(InvoiceState::Missing);
        }
        Ok(match read::<Found>(&reply)?.state {
            State::Open => InvoiceState::Open,
            State::Settled => InvoiceState::Settled,
            State::Expired => InvoiceState::Expired,
        })
    }
}

fn read<T: for<'de> Deserialize<'de>>(reply: &Reply) -> Result<T, InvoiceError> {
    match reply.status {
        200 => serde_json::from_slice(&reply.body).map_err(|_| InvoiceError::Nonsense),
        400..=499 => Err(InvoiceError::Refused),
        _ => Err(InvoiceError::Unreachable),
    }
}

/// Reads a regtest invoice: signature, checksum and required fields are the parser's business.
fn parse(bolt11: &str) -> Result<Invoice, InvoiceError> {
    let invoice = Bolt11Invoice::from_str(bolt11).map_err(|_| InvoiceError::Nonsense)?;
    if invoice.currency() != Currency::Regtest {
        return Err(InvoiceError::Nonsense);
    }
    let amount_msat = invoice.amount_milli_satoshis().ok_or(InvoiceError::Nonsense)?;
    let expires_at = invoice.expires_at().ok_or(InvoiceError::Nonsense)?;
    let expires_at_ms =
        u64::try_from(expires_at.as_millis()).map_err(|_| InvoiceError::Nonsense)?;
    let mut payment_hash = [0u8; 32];
    hex::decode_to_slice(invoice.payment_hash().to_string(), &mut payment_hash)
        .map_err(|_| InvoiceError::Nonsense)?;
    Ok(Invoice {
        bolt11: bolt11.to_owned(),
        payment_hash,
        amount_msat,
        expires_at: UnixMs(expires_at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_for_real_money_is_nonsense_in_the_sandbox() {
        // The specification's example for mainnet.
        let mainnet = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5\
                       qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxq\
                       zpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3\
                       qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
        assert!(Bolt11Invoice::from_str(mainnet).is_ok());
        assert_eq!(parse(mainnet), Err(InvoiceError::Nonsense));
        assert_eq!(parse("lnbcrt1"), Err(InvoiceError::Nonsense));
    }
}
