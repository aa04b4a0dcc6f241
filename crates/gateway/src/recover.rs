//! Work that a crash or an unknown settlement left: asked for at start and then now and again.
//!
//! INVARIANT: a settlement is repeated with the same authorization or not at all; a hold whose
//! money may be on its way is never released on a time-out.

use crate::{conclude::Settled, gate::Gate, rails::x402::Attempt};
use countersign_core::refusal::Refusal;
use countersign_store::{Unfinished, Unsettled};
use std::time::Duration;
use tokio::sync::watch;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(10);

/// Recovers until `stop`; the first round runs at once.
pub async fn run(gate: &Gate, mut stop: watch::Receiver<bool>) {
    loop {
        // A store that fails poisons itself; the server ends for that elsewhere.
        let _faulted = round(gate).await;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => return,
        }
    }
}

/// One round over everything unfinished.
///
/// # Errors
/// The store failed.
pub async fn round(gate: &Gate) -> Result<(), Refusal> {
    for item in gate.store.unfinished().await? {
        match item {
            Unfinished::Settling(item) | Unfinished::Finished(item) => settle(gate, item).await?,
            // Only the caller's own request can run it again: it has what to send. Once its quote
            // is over, nobody will.
            Unfinished::Starting(item) => {
                let opened = gate.store.call(item.call)?.map(|call| call.opened_at);
                let patience = gate.config.limits.quote_ttl_ms;
                if opened.is_some_and(|at| gate.world.now().since_ms(at) > patience) {
                    gate.store.give_up(item.call).await?;
                }
            }
        }
    }
    Ok(())
}

async fn settle(gate: &Gate, item: Unsettled) -> Result<(), Refusal> {
    match gate.settle(item.payload(), Attempt::Again).await {
        Settled::Taken(receipt) => gate.store.recover_settled(item, receipt).await.map(drop),
        Settled::Refused(code) => gate.store.recover_failed(item, code).await,
        Settled::Unknown => {
            gate.store.recover_unknown(item).await;
            Ok(())
        }
    }
}
