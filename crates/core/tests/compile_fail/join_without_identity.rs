//! A permit needs identity.

use countersign_core::{
    ids::CallId,
    proof::{Authorization, Consent, Payment, Permit},
    quote::Quote,
    refusal::Refusal,
    terms::Terms,
    time::UnixMs,
};
use std::sync::Arc;

fn join(
    call: CallId,
    terms: Arc<Terms>,
    quote: Quote,
    consent: Consent,
    payment: Payment,
    authorization: Authorization,
    now: UnixMs,
) -> Result<Permit, Refusal> {
    Permit::join(call, terms, quote, consent, payment, authorization, now)
}

fn main() {}
