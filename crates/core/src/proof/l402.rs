//! L402 credentials: a macaroon of ours with the preimage of its invoice. (Being written.)

use crate::{digest::Digest, money::Amount, quote::Quote, refusal::Refusal, terms::ToolRef, time::UnixMs};

use super::Principal;

/// A credential whose signature, caveats and preimage were checked.
#[derive(Debug)]
pub struct VerifiedCredential {
    key: Digest,
    principal: Option<Principal>,
    token_reference: Option<Digest>,
    uses: u32,
    expires_at: UnixMs,
}

impl VerifiedCredential {
    /// SHA-256 of the identifier: what uses are counted under.
    #[must_use]
    pub const fn key(&self) -> Digest {
        self.key
    }
    /// Whom it was minted for.
    #[must_use]
    pub const fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }
    /// The access token it was minted under.
    #[must_use]
    pub const fn token_reference(&self) -> Option<Digest> {
        self.token_reference
    }
    /// How many calls it pays for.
    #[must_use]
    pub const fn uses(&self) -> u32 {
        self.uses
    }
    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }
    /// Whether it pays for this call.
    ///
    /// # Errors
    /// `CredentialExhausted` when it was paid for something else or at another price.
    pub fn covers(
        &self,
        _principal: &Principal,
        _tool: &ToolRef,
        _quote: &Quote,
        _price: &Amount,
    ) -> Result<(), Refusal> {
        Err(crate::refusal::Code::CredentialExhausted.into())
    }
}
