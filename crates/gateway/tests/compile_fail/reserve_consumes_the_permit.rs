//! One permit is one reservation.

use countersign_core::{ledger::Charge, proof::Permit};
use countersign_store::{Evidence, Store};

async fn reserve_twice(store: &Store, permit: Permit, charges: Vec<Charge>, evidence: &Evidence) {
    let _first = store.reserve(permit, charges.clone(), evidence).await;
    let _second = store.reserve(permit, charges, evidence).await;
}

fn main() {}
