//! A permit needs consent.

use countersign_core::{
    ids::CallId,
    proof::{Authorization, Identity, Payment, Permit},
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
    payment: Payment,
    authorization: Authorization,
    now: UnixMs,
) -> Result<Permit, Refusal> {
    Permit::join(call, terms, quote, identity, payment, authorization, now)
}

fn main() {}
