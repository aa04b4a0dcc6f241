//! Access tokens: which are one, and what they say. (Being written.)

use crate::{digest::Digest, time::UnixMs};
use std::sync::Arc;

use super::Principal;

/// What a token must match.
#[derive(Debug)]
pub struct Expected;
/// A token's header.
#[derive(Debug)]
pub struct Header;
/// Why not.
#[derive(Debug)]
pub enum TokenError {}

/// A token whose signature and claims were checked.
#[derive(Debug)]
pub struct VerifiedToken {
    principal: Principal,
    scopes: Vec<Arc<str>>,
    reference: Digest,
    expires_at: UnixMs,
}

impl VerifiedToken {
    /// Whom it names.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }
    /// Its scopes.
    #[must_use]
    pub fn scopes(&self) -> &[Arc<str>] {
        &self.scopes
    }
    /// Digest of (iss, jti).
    #[must_use]
    pub const fn reference(&self) -> Digest {
        self.reference
    }
    /// `exp`.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }
}
