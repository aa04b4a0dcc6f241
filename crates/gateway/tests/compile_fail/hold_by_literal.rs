//! A hold is not built by hand, not even out of a permit.

use countersign_core::{ids::CallId, proof::Permit};
use countersign_store::{Hold, Settling};

fn forge(permit: Box<Permit>, call: CallId) -> Hold {
    Hold { permit, call, price: None, payload: None, limit: None }
}

fn settle(hold: Hold) -> Settling {
    Settling { hold }
}

fn main() {}
