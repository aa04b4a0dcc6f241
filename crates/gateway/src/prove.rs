//! The steps of the path that gather evidence and turn it into proofs.
//!
//! INVARIANT: a step either returns its proof or a refusal; none of them has an effect that a
//! later refusal would have to undo (an opened approval or an issued challenge is itself the
//! refusal's answer).

pub mod ask;
pub mod bring;
pub mod consent;
pub mod credential;
pub mod decision;
pub mod definitions;
pub mod evidence;
pub mod identity;
pub(crate) mod jws;
pub mod lightning;
mod mandate;
pub mod metadata;
pub mod nonce;
pub mod past;
pub mod patience;
pub mod payment;
pub mod pdp;
pub mod policy;
pub mod provider;
mod signals;
pub(crate) mod siwx;
pub mod standing;
pub mod state;
pub(crate) mod supposed;

pub use evidence::Evidence;

use crate::buy::Inquired;
use countersign_core::{
    digest::Digest,
    ids::GrantId,
    policy::Decided,
    proof::{Consent, Identity, Payment, Principal},
    quote::Quote,
    refusal::{Code, Family, Light, Lights, Refusal},
};

/// What the path has learned of a call so far, for its answer and its records.
#[derive(Debug)]
pub struct Known {
    /// Whom the call is for, once known.
    pub principal: Option<Principal>,
    /// What it costs, bound to the call's digest.
    pub quote: Option<Quote>,
    /// The four lights.
    pub lights: Lights,
    /// A good prepaid credential came along: its key and how many calls it pays for.
    pub prepaid: Option<(Digest, u32)>,
    /// The grant to which it is tied, as its caveat says it.
    pub tied: Option<Digest>,
    /// The grant that covers the call.
    pub grant: Option<GrantId>,
    /// What policy decided last.
    pub decided: Option<Decided>,
    /// What the server behind asks to be paid.
    pub asked: Option<Inquired>,
    /// The four proofs were joined.
    pub is_permitted: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            principal: None,
            quote: None,
            lights: Lights::DARK,
            prepaid: None,
            tied: None,
            grant: None,
            decided: None,
            asked: None,
            is_permitted: false,
        }
    }
}

impl Known {
    /// Proof one holds.
    pub fn identified(&mut self, identity: &Identity) {
        self.principal = Some(identity.principal().clone());
        self.lights.identity = if identity.is_anonymous() { Light::NotRequired } else { Light::Ok };
    }

    /// Proof two holds.
    pub fn consented(&mut self, consent: &Consent) {
        self.grant = consent.grant().map(|(id, _)| id);
        self.lights.consent = if self.grant.is_some() { Light::Ok } else { Light::NotRequired };
    }

    /// Proof four holds.
    pub fn authorized(&mut self) {
        self.lights.authorization = Light::Ok;
    }

    /// Proof three holds.
    pub fn paid(&mut self, payment: &Payment) {
        self.lights.payment =
            if payment.offer().is_some() { Light::Ok } else { Light::NotRequired };
    }

    /// The lights with the one that `refusal` speaks of turned.
    #[must_use]
    pub fn lights_after(&self, refusal: &Refusal) -> Lights {
        lit(self.lights, refusal)
    }
}

/// The lights, with that of a refusal.
pub(crate) fn lit(mut lights: Lights, refusal: &Refusal) -> Lights {
    let light = light_of(refusal.code());
    match refusal.code().row().family {
        Family::Identity => lights.identity = light,
        Family::Consent if refusal.code() == Code::ApprovalPending => {
            lights.authorization = light;
        }
        Family::Consent => lights.consent = light,
        Family::Payment => lights.payment = light,
        Family::Policy | Family::Budget => lights.authorization = light,
        Family::Request | Family::Upstream | Family::Fault | Family::Admin => {}
    }
    lights
}

fn light_of(code: Code) -> Light {
    if matches!(code, Code::TokenMissing | Code::NoGrant | Code::PaymentRequired) {
        Light::Missing
    } else if matches!(code, Code::ApprovalPending | Code::SettlementUnknown) {
        Light::Pending
    } else {
        Light::Refused
    }
}
