//! No proof can be cloned.

use countersign_core::proof::{Authorization, Consent, Identity, Payment, Permit};

fn clone<T: Clone>() {}

fn main() {
    clone::<Identity>();
    clone::<Consent>();
    clone::<Payment>();
    clone::<Authorization>();
    clone::<Permit>();
}
