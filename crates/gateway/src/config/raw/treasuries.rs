//! Treasuries, as they are written.

use crate::config::scalar::{SecretRef, Usd};
use schemars::JsonSchema;
use serde::Deserialize;

/// A wallet of the organisation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Treasury")]
pub(in crate::config) struct RawTreasury {
    /// The wallet, by reference: the JSON of a wallet file, a private key in hex, the URL of a
    /// Lightning wallet, or a Nostr Wallet Connect string.
    pub(in crate::config) wallet: SecretRef,
    /// Pass phrase of a wallet file that is sealed, by reference.
    pub(in crate::config) passphrase: Option<SecretRef>,
    /// The most that one call may cost.
    pub(in crate::config) per_call: Usd,
    /// The most that may leave the wallet within any 24 hours, for all servers and callers.
    pub(in crate::config) per_day: Usd,
}
