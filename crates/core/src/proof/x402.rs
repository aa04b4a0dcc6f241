//! x402 `exact` authorizations (EIP-3009). (Being written.)

use crate::digest::Digest;

/// The operator's terms for one EVM asset.
#[derive(Clone, Debug)]
pub struct X402Terms;

/// A payment whose signature, terms and window were checked.
#[derive(Debug)]
pub struct PaidX402 {
    quote_digest: Digest,
    nonce_key: Digest,
    amount_minor: u128,
    payload: String,
}

impl PaidX402 {
    /// The quote it was checked against.
    #[must_use]
    pub const fn quote_digest(&self) -> Digest {
        self.quote_digest
    }
    /// Digest of (chain, asset, from, nonce).
    #[must_use]
    pub const fn nonce_key(&self) -> Digest {
        self.nonce_key
    }
    /// What it transfers.
    #[must_use]
    pub const fn amount_minor(&self) -> u128 {
        self.amount_minor
    }
    /// The payload as settled: canonical JSON.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }
}
