//! The forms of what is linked to people: keys and wallets.

use countersign_core::person::Link;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A public key (RFC 7517, 8037): `OKP` with `Ed25519`, or `EC` with `P-256`. A private one is
/// refused, as is any other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    /// `OKP` or `EC`.
    pub kty: String,
    /// `Ed25519` or `P-256`.
    pub crv: String,
    /// 32 bytes.
    pub x: String,
    /// 32 bytes, of a P-256 key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// `EdDSA` or `ES256`.
    #[serde(default, skip_serializing)]
    pub alg: Option<String>,
    /// `sig`.
    #[serde(default, rename = "use", skip_serializing)]
    pub purpose: Option<String>,
    /// Means nothing: a key is named by its thumbprint.
    #[serde(default, skip_serializing)]
    pub kid: Option<String>,
}

/// A key that a person signs with, to be registered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Tenant; the actor's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tenant: Option<String>,
    /// The person's issuer.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// The person's subject.
    #[schemars(length(min = 1, max = 512))]
    pub subject: String,
    /// What the person calls it.
    #[serde(default)]
    pub name: String,
    /// The public key: Ed25519 or P-256.
    pub jwk: Jwk,
}

/// A wallet that is to be linked to a person: the actor themself when nobody is named.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalletAsk {
    /// Tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tenant: Option<String>,
    /// The person's issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub issuer: Option<String>,
    /// The person's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub subject: Option<String>,
    /// Its address.
    #[schemars(regex(pattern = "^0x[0-9a-fA-F]{40}$"))]
    pub address: String,
    /// Its chain (EIP-155); the one that is paid on when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
}

/// What the wallet signs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WalletMessage {
    /// The text (EIP-4361), to be signed as it is (EIP-191, `personal_sign`).
    pub message: String,
}

/// The signature of a wallet under such a text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalletProof {
    /// Tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub tenant: Option<String>,
    /// The person's issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub issuer: Option<String>,
    /// The person's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub subject: Option<String>,
    /// The text.
    pub message: String,
    /// 65 bytes in hex.
    pub signature: String,
    /// What the person calls it.
    #[serde(default)]
    pub name: String,
}

/// A key or a wallet of a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LinkView {
    /// A key's thumbprint (RFC 7638), or a wallet's address in lower case.
    pub id: Arc<str>,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The person's issuer.
    pub issuer: Arc<str>,
    /// The person's subject.
    pub subject: Arc<str>,
    /// What the person calls it.
    pub name: String,
    /// The public key as a JWK, or the address.
    pub public: Arc<str>,
    /// Who linked it.
    pub by: String,
    /// When.
    pub at: String,
}

impl LinkView {
    /// A link.
    #[must_use]
    pub fn of(link: &Link) -> Self {
        Self {
            id: Arc::clone(&link.id),
            tenant: Arc::clone(&link.person.tenant),
            issuer: Arc::clone(&link.person.issuer),
            subject: Arc::clone(&link.person.subject),
            name: link.name.clone(),
            public: Arc::clone(&link.public),
            by: link.by.clone(),
            at: link.at.rfc3339(),
        }
    }
}
