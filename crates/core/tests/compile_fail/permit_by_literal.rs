//! A permit is not built by hand, even out of real proofs.

use countersign_core::{
    ids::CallId,
    proof::{Authorization, Consent, Identity, Payment, Permit},
    quote::Quote,
    terms::Terms,
    time::UnixMs,
};
use std::sync::Arc;

fn forge(
    call: CallId,
    terms: Arc<Terms>,
    quote: Quote,
    (identity, consent): (Identity, Consent),
    (payment, authorization): (Payment, Authorization),
    at: UnixMs,
) -> Permit {
    Permit { call, terms, quote, identity, consent, payment, authorization, at }
}

fn main() {}
