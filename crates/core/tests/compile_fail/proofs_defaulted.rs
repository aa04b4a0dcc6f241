//! No proof can be defaulted.

use countersign_core::proof::{Authorization, Consent, Identity, Payment, Permit};

fn default<T: Default>() {}

fn main() {
    default::<Identity>();
    default::<Consent>();
    default::<Payment>();
    default::<Authorization>();
    default::<Permit>();
}
