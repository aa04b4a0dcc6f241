//! Work that a crash or an unknown settlement left: asked for at start and then now and again.
//!
//! INVARIANT: a settlement is repeated with the same authorization or not at all; a hold whose
//! money may be on its way is never released on a time-out.
//! INVARIANT: as long as its quote is open, a call that has not run is left to its caller, who was
//! told to repeat it. After that no money is taken for it where somebody can say whether it moved.

use crate::{conclude::Settled, gate::Gate, rails::x402::Attempt, reload::Gates};
use countersign_core::{ids::CallId, quote::Rail, refusal::Refusal};
use countersign_store::{Due, Unfinished, Unsettled, failpoint};
use std::time::Duration;
use tokio::sync::watch;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(5);

/// Recovers until `stop`; the first round runs at once. Paying back has rounds of its own: a wallet
/// that takes its time keeps nothing else waiting.
pub async fn run(gates: &Gates, stop: watch::Receiver<bool>) {
    let rounds = || {
        let gate = gates.now();
        async move { round(&gate).await }
    };
    let paying = || {
        let gate = gates.now();
        Box::pin(async move { gate.pay_back().await })
    };
    tokio::join!(repeat(rounds, stop.clone()), repeat(paying, stop));
}

async fn repeat<F>(round: impl Fn() -> F, mut stop: watch::Receiver<bool>)
where
    F: Future<Output = Result<(), Refusal>>,
{
    loop {
        // A store that fails poisons itself; the server ends for that elsewhere.
        let _faulted = round().await;
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
            Unfinished::Settling(item) if item.rail() == Some(Rail::Treasury) => {
                let is_callers = is_callers(gate, item.call())?;
                gate.recover_purchase(item, is_callers).await?;
            }
            Unfinished::Settling(item) if is_callers(gate, item.call())? => {
                gate.store.recover_unknown(item).await;
            }
            Unfinished::Settling(item) => {
                let settled = gate.ask_or_settle(item.payload()).await;
                end(gate, item, settled).await?;
            }
            Unfinished::Finished(item) => {
                let settled = gate.settle(item.payload(), Attempt::Again).await;
                end(gate, item, settled).await?;
            }
            // Only the caller's own request can run it again: it has what to send.
            Unfinished::Starting(item) if is_callers(gate, item.call)? => {}
            Unfinished::Starting(item) => gate.store.give_up(item.call).await?,
        }
    }
    gate.release_held_doubts().await?;
    owed_to_credit(gate).await?;
    gate.book_refunds().await
}

/// What is owed back to somebody who is known becomes their credit, where that is kept.
async fn owed_to_credit(gate: &Gate) -> Result<(), Refusal> {
    if !gate.config.credit {
        return Ok(());
    }
    let is_to_credit = |due: &Due| due.is_of_somebody && !due.is_under_way;
    for due in gate.store.refunds_due().into_iter().filter(is_to_credit) {
        gate.store.refund_to_credit(due.call).await?;
    }
    Ok(())
}

/// Whether the caller's own request may still carry the call on: once its quote is over, none
/// will.
fn is_callers(gate: &Gate, call: CallId) -> Result<bool, Refusal> {
    let opened = gate.store.call(call)?.map(|call| call.opened_at);
    let patience = gate.config.limits.quote_ttl_ms;
    Ok(opened.is_some_and(|at| gate.world.now().since_ms(at) <= patience))
}

async fn end(gate: &Gate, item: Unsettled, settled: Settled) -> Result<(), Refusal> {
    match settled {
        Settled::Taken(receipt) => {
            gate.store.recover_settled(item, receipt).await?;
            failpoint("recovered");
            Ok(())
        }
        Settled::Refused(code) => gate.store.recover_failed(item, code).await,
        Settled::Unknown => {
            gate.store.recover_unknown(item).await;
            Ok(())
        }
    }
}
