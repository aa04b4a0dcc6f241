//! No proof comes from outside as bytes.

use countersign_core::proof::{Authorization, Consent, Identity, Payment, Permit};
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>() {}

fn main() {
    read::<Identity>();
    read::<Consent>();
    read::<Payment>();
    read::<Authorization>();
    read::<Permit>();
}
