//! One proof cannot stand in for another.

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
    (identity, consent, again, authorization): (Identity, Consent, Consent, Authorization),
    now: UnixMs,
) -> Result<Permit, Refusal> {
    Permit::join(call, terms, quote, identity, consent, again, authorization, now)
}

fn main() {}
