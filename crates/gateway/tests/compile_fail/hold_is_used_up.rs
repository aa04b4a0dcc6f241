//! A call is captured or failed once.

use countersign_store::{FailCause, Hold, Outcome, Store};

async fn end_twice(store: &Store, hold: Hold, outcome: Outcome) {
    let _captured = store.capture(hold, outcome).await;
    let _failed = store.fail(hold, FailCause::InDoubt).await;
}

fn main() {}
