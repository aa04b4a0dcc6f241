//! THE PATH: the whole life of a paid call, on one screen.
//!
//! The first attempt and the paid retry take it alike: policy, consent and budget say yes before
//! any money is asked for, and again, on current state, when the money is there. Cheapest refusal
//! first. From `reserve` on, the call no longer depends on the client's connection.

use crate::{
    answer::Done,
    conclude,
    gate::Gate,
    prove::{Evidence, Known, payment::Challenge},
    upstream::Progress,
};
use bytes::Bytes;
use countersign_core::{
    call::Call,
    proof::Permit,
    refusal::{Charged, Code, Refusal},
};
use countersign_store::{Reserved, failpoint};
use http::HeaderMap;
use std::sync::Arc;

/// A `tools/call` and everything that came with it.
#[derive(Debug)]
pub struct Attempt {
    /// The call.
    pub call: Call,
    /// Credentials, not believed yet.
    pub evidence: Evidence,
    /// The client's headers, for what is forwarded of them.
    pub headers: HeaderMap,
    /// The message to forward, credentials removed.
    pub message: Bytes,
    /// Legacy session id, ours.
    pub session: Option<String>,
    /// Where events go that come before the answer.
    pub progress: Option<Progress>,
}

/// A recorded refusal, with the ways to pay when money is what is missing.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// How to pay.
    pub challenge: Option<Box<Challenge>>,
}

/// Takes a call from its evidence to its receipt.
///
/// # Errors
/// The refusal, recorded.
pub async fn take(gate: Arc<Gate>, attempt: Arc<Attempt>) -> Result<Done, Refused> {
    let mut known = Known::default();
    let ended = match join(&gate, &attempt, &mut known).await {
        Ok(Joined::Before(done)) => Ok(*done),
        Ok(Joined::Now(permit)) => {
            known.is_permitted = true;
            let running = tokio::spawn(execute(Arc::clone(&gate), Arc::clone(&attempt), permit));
            running.await.unwrap_or_else(|_panicked| {
                Err(Refusal::new(Code::InternalFault).charged(Charged::Unknown))
            })
        }
        Err(refusal) => Err(refusal),
    };
    match ended {
        Ok(done) => Ok(done),
        Err(refusal) => Err(gate.refuse(&attempt, known, refusal).await),
    }
}

/// What the proofs come to.
enum Joined {
    /// This very call was paid and ran before: its outcome.
    Before(Box<Done>),
    /// It may run now.
    Now(Box<Permit>),
}

/// Gathers the four proofs and joins them.
async fn join(gate: &Gate, attempt: &Attempt, known: &mut Known) -> Result<Joined, Refusal> {
    let (call, evidence) = (&attempt.call, &attempt.evidence);
    let (identity, credential) = gate.identify(call, evidence).await?;
    known.identified(&identity);
    known.is_prepaid = matches!(credential, Some(Ok(_)));
    gate.session(attempt, identity.principal())?;
    if let Some(done) = gate.replay(call, &identity, evidence)? {
        return Ok(Joined::Before(Box::new(done)));
    }
    let quote = gate.quote(call, &identity)?;
    known.quote = Some(quote.clone());
    let consent = gate.consent(call, &identity, &quote)?;
    known.consented(&consent);
    let authorization = gate.decide(call, &identity, &quote, &consent, evidence).await?;
    known.authorized();
    let payment = gate.pay(call, &identity, &quote, credential, evidence).await?;
    known.paid(&payment);
    let (now, terms) = (gate.world.now(), Arc::clone(&call.terms));
    Permit::join(call.id, terms, quote, identity, consent, payment, authorization, now)
        .map(|permit| Joined::Now(Box::new(permit)))
}

/// Reserves, settles, runs and captures. Nothing here is cancelled by the client's leaving.
async fn execute(
    gate: Arc<Gate>,
    attempt: Arc<Attempt>,
    permit: Box<Permit>,
) -> Result<Done, Refusal> {
    let charges = gate.charges(permit.identity().principal(), &permit.terms().tool);
    failpoint("permitted");
    let evidence = conclude::evidence(&attempt.call);
    let hold = match gate.store.reserve(*permit, charges, &evidence).await? {
        Reserved::Replay(stored) => return Done::replayed(stored),
        Reserved::Run(hold) => hold,
        Reserved::Settle(settling) => gate.settle_upfront(settling).await?,
    };
    failpoint("started");
    let ran = gate.run(&hold, &attempt).await;
    failpoint("ran");
    gate.conclude(hold, ran).await.map_err(conclude::truthful)
}
