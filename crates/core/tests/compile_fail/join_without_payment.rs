//! A permit needs payment.

use countersign_core::{
    ids::CallId,
    proof::{Authorization, Consent, Identity, Permit},
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
    authorization: Authorization,
    now: UnixMs,
) -> Result<Permit, Refusal> {
    Permit::join(call, terms, quote, identity, consent, authorization, now)
}

fn main() {}
