//! A permit needs authorization.

use countersign_core::{
    ids::CallId,
    proof::{Consent, Identity, Payment, Permit},
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
    identity: Identity,
    consent: Consent,
    payment: Payment,
    now: UnixMs,
) -> Result<Permit, Refusal> {
    Permit::join(call, terms, quote, identity, consent, payment, now)
}

fn main() {}
