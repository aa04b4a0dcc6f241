//! Proofs are used once.

use countersign_core::{
    ids::CallId,
    proof::{Authorization, Consent, Identity, Payment, Permit},
    quote::Quote,
    refusal::Refusal,
    terms::Terms,
    time::UnixMs,
};
use std::sync::Arc;

fn join_twice(
    (first, second): (CallId, CallId),
    terms: Arc<Terms>,
    quote: Quote,
    (identity, consent): (Identity, Consent),
    (payment, authorization): (Payment, Authorization),
    now: UnixMs,
) -> [Result<Permit, Refusal>; 2] {
    let (again, price) = (Arc::clone(&terms), quote.clone());
    [
        Permit::join(first, terms, quote, identity, consent, payment, authorization, now),
        Permit::join(second, again, price, identity, consent, payment, authorization, now),
    ]
}

fn main() {}
