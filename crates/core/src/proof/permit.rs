//! The permit: the four proofs, joined for one call at one moment.

use crate::{
    ids::CallId,
    ledger::Charge,
    quote::Quote,
    refusal::{Code, Refusal},
    terms::Terms,
    time::UnixMs,
};
use std::sync::Arc;

use super::{Authorization, Consent, Identity, Payment};

/// Permission to reserve. Consumed by the reservation, from which alone a hold comes.
#[derive(Debug)]
pub struct Permit {
    call: CallId,
    terms: Arc<Terms>,
    quote: Quote,
    identity: Identity,
    consent: Consent,
    payment: Payment,
    authorization: Authorization,
    at: UnixMs,
}

impl Permit {
    /// Joins the four: same call digest, same quote, price within consent, decision fresh,
    /// identity unexpired.
    ///
    /// # Errors
    /// The code of whatever does not fit. A mismatch of stamps is a fault of ours, refused as
    /// [`Code::InternalFault`].
    #[allow(clippy::too_many_arguments, reason = "four proofs and what binds them")]
    pub fn join(
        call: CallId,
        terms: Arc<Terms>,
        quote: Quote,
        identity: Identity,
        consent: Consent,
        payment: Payment,
        authorization: Authorization,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let digest = quote.call_digest();
        let same_call = consent.call_digest() == digest
            && payment.call_digest() == digest
            && authorization.call_digest() == digest;
        let same_quote =
            consent.quote_digest() == quote.digest() && payment.quote_digest() == quote.digest();
        if !same_call || !same_quote {
            return Err(Code::InternalFault.into());
        }
        if identity.expires_at().is_some_and(|end| now >= end) {
            return Err(Code::TokenExpired.into());
        }
        if consent.cap().is_some_and(|cap| quote.micros() > cap) {
            return Err(Code::OverPerCallCap.into());
        }
        if now >= quote.expires_at() {
            return Err(Code::QuoteExpired.into());
        }
        if !authorization.is_fresh(now) {
            return Err(Code::DecisionStale.into());
        }
        Ok(Self { call, terms, quote, identity, consent, payment, authorization, at: now })
    }

    /// The call.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// The tool's terms.
    #[must_use]
    pub const fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// The quote.
    #[must_use]
    pub const fn quote(&self) -> &Quote {
        &self.quote
    }

    /// Proof one.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Proof two.
    #[must_use]
    pub const fn consent(&self) -> &Consent {
        &self.consent
    }

    /// Proof three.
    #[must_use]
    pub const fn payment(&self) -> &Payment {
        &self.payment
    }

    /// Proof four.
    #[must_use]
    pub const fn authorization(&self) -> &Authorization {
        &self.authorization
    }

    /// Takes the budgets that policy's yes rests on, for the reservation, which counts them.
    #[must_use]
    pub fn take_charges(&mut self) -> Vec<Charge> {
        self.authorization.take_charges()
    }

    /// When they were joined.
    #[must_use]
    pub const fn at(&self) -> UnixMs {
        self.at
    }
}
