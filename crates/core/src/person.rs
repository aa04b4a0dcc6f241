//! People, and what is linked to them: keys that they sign with, wallets that they pay from.

use crate::{digest::Digest, proof::Principal, time::UnixMs};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// A person, as the issuer of their tokens names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    /// Tenant.
    pub tenant: Arc<str>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
}

impl Person {
    /// Whom a principal acts for; nobody for an anonymous one.
    #[must_use]
    pub fn of(principal: &Principal) -> Option<Self> {
        let delegator = principal.delegator.as_ref()?;
        Some(Self {
            tenant: Arc::clone(&principal.tenant),
            issuer: Arc::clone(&delegator.issuer),
            subject: Arc::clone(&delegator.subject),
        })
    }
}

/// `iss|sub`.
impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.issuer, self.subject)
    }
}

/// What is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A public key, by its thumbprint (RFC 7638).
    Key,
    /// A wallet, by its address in lower case.
    Wallet,
}

impl LinkKind {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Wallet => "wallet",
        }
    }
}

/// A key or a wallet of a person. At one time it is linked to one person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Which one.
    pub id: Arc<str>,
    /// Whose.
    pub person: Person,
    /// What the person calls it.
    pub name: String,
    /// The public key as a JWK, or the address (EIP-55).
    pub public: Arc<str>,
    /// The challenge that was answered for it: each counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Digest>,
    /// The verified person who linked it.
    pub by: String,
    /// When.
    pub at: UnixMs,
    /// When it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
}
