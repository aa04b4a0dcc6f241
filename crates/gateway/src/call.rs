//! THE PATH: the whole life of a paid call, on one screen.
//!
//! The first attempt and the paid retry take it alike: policy, consent and budget say yes before
//! any money is asked for, and again, on current state, when the money is there. Cheapest refusal
//! first. From `reserve` on, the call no longer depends on the client's connection.
//! The rarer turnings are boxed: what is spawned for a call is copied, whole, twice.

use crate::{
    answer::Done,
    buy::Inquired,
    conclude,
    gate::{Gate, Presented},
    prove::{
        Evidence, Known,
        payment::{Challenge, Earlier, Repeat, prepaid, unfinished},
        policy::Engine,
    },
    upstream::Progress,
};
use bytes::Bytes;
use countersign_core::{
    call::Call,
    proof::{Identity, Permit, VerifiedCredential},
    refusal::{Family, Refusal},
};
use countersign_store::{Reserved, failpoint};
use http::HeaderMap;
use std::{net::IpAddr, sync::Arc};

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
    /// The request as it came, where it may have to run again by itself.
    pub original: Option<Original>,
    /// It only asks what the call would be told: the server behind hears nothing of it.
    pub is_question: bool,
    /// Legacy session id, ours.
    pub session: Option<String>,
    /// The client can show its user a link (`elicitation.url`).
    pub can_ask: bool,
    /// The client reads payment challenges in the form of the x402 extension.
    pub has_extension: bool,
    /// A request state of ours that came back.
    pub returned: Option<String>,
    /// Where events go that come before the answer.
    pub progress: Option<Progress>,
    /// The policy in force when it came; it decides the whole attempt.
    pub policy: Arc<Engine>,
}

/// A request as it came: what runs when a payment that is held arrives.
#[derive(Debug)]
pub struct Original {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The address that it came from.
    pub peer: IpAddr,
}

/// A recorded refusal, with the ways to pay when money is what is missing.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// How to pay.
    pub challenge: Option<Box<Challenge>>,
}

/// Takes a call from its evidence to its receipt. To be spawned: from the reservation on, nothing
/// may end it with the client's connection.
///
/// # Errors
/// The refusal, recorded.
pub async fn take(gate: Arc<Gate>, attempt: Box<Attempt>) -> Result<Done, Refused> {
    let _calling = gate.calling.subscribe();
    let mut known = Known::default();
    let ended = match join(&gate, &attempt, &mut known).await {
        Ok(Joined::Before(done)) => Ok(*done),
        Ok(Joined::Now(permit)) => {
            known.is_permitted = true;
            execute(&gate, &attempt, permit, known.asked.take()).await
        }
        Err(refusal) => Err(refusal),
    };
    match ended {
        Ok(done) => {
            if known.is_permitted && !matches!(done, Done::Replayed(_)) {
                gate.has_paid(&attempt, &known);
            }
            Ok(done)
        }
        Err(refusal) => Err(refused(&gate, &attempt, known, refusal).await),
    }
}

/// Takes a question along the same path, to where its call would be reserved: the permit ends
/// there. `Ok` when nothing more would have to be paid.
///
/// # Errors
/// The refusal that the call would get, recorded.
pub async fn ask(gate: Arc<Gate>, question: Attempt) -> Result<(), Refused> {
    let _calling = gate.calling.subscribe();
    let mut known = Known::default();
    let joined = join(&gate, &question, &mut known).await;
    match joined.and_then(|_permit| gate.leaves_use(&known)) {
        Ok(()) => Ok(()),
        Err(refusal) => Err(refused(&gate, &question, known, refusal).await),
    }
}

/// A refusal with what is owed, recorded, and with the ways to pay.
async fn refused(gate: &Gate, attempt: &Attempt, known: Known, refusal: Refusal) -> Refused {
    let refusal = Box::pin(gate.owing(&attempt.evidence, refusal)).await;
    gate.misbehaved(known.principal.as_ref(), refusal.code()).await;
    Box::pin(gate.refuse(attempt, known, refusal)).await
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
    let (identity, credential) = gate.identify(&call.terms, evidence).await?;
    known.identified(&identity);
    let is_usable = |credential: &&VerifiedCredential| !credential.is_over(gate.world.now());
    let usable = credential.as_ref().and_then(|c| c.as_deref().ok()).filter(is_usable);
    known.prepaid = usable.map(prepaid);
    known.tied = usable.and_then(VerifiedCredential::grant);
    gate.session(attempt, &identity)?;
    gate.await_capture(call, identity.principal(), credential.as_ref()).await?;
    let earlier = match gate.repeat(call, identity.principal(), evidence, credential.as_ref())? {
        Repeat::Fresh => None,
        Repeat::Done(done) => return Ok(Joined::Before(done)),
        Repeat::Again(earlier) => Some(earlier),
    };
    let principal = identity.principal().clone();
    gate.may_ask(attempt, &principal)?;
    let proven = prove(gate, attempt, known, (identity, credential), earlier.as_deref()).await;
    match (proven, earlier) {
        // A call that was begun is never asked for anything again.
        (Err(_), Some(earlier)) => Err(unfinished(&earlier.call)),
        (Err(refusal), None) if evidence.x402.is_some() && is_about_payment(&refusal) => {
            Box::pin(gate.twin(call, &principal, evidence, refusal)).await.map(Joined::Before)
        }
        (proven, _) => proven,
    }
}

fn is_about_payment(refusal: &Refusal) -> bool {
    refusal.code().row().family == Family::Payment
}

/// The quote, the other three proofs, and the permit.
async fn prove(
    gate: &Gate,
    attempt: &Attempt,
    known: &mut Known,
    (identity, credential): (Identity, Option<Presented>),
    earlier: Option<&Earlier>,
) -> Result<Joined, Refusal> {
    let (call, evidence) = (&attempt.call, &attempt.evidence);
    let quote = match earlier {
        Some(earlier) => earlier.quote.clone(),
        None if !attempt.is_question && gate.is_bought(call, identity.principal()) => {
            Box::pin(gate.ask_price(attempt, &identity, known)).await?
        }
        None => gate.quote(call, &identity)?,
    };
    let begun = earlier.map(|earlier| &earlier.call);
    known.quote = Some(quote.clone());
    let consent = gate.consent(attempt, &identity, &quote, begun, known).await?;
    known.consented(&consent);
    let authorization = gate.decide(attempt, &identity, &quote, &consent, begun, known).await?;
    known.authorized();
    let is_begun = begun.is_some();
    let priced = (&quote, known.grant);
    let payment = gate.pay(call, &identity, priced, credential, evidence, is_begun).await?;
    known.paid(&payment);
    let (now, terms) = (gate.world.now(), Arc::clone(&call.terms));
    Permit::join(call.id, terms, quote, identity, consent, payment, authorization, now)
        .map(|permit| Joined::Now(Box::new(permit)))
}

/// Reserves, settles, runs and captures.
async fn execute(
    gate: &Gate,
    attempt: &Attempt,
    mut permit: Box<Permit>,
    asked: Option<Inquired>,
) -> Result<Done, Refusal> {
    let charges = permit.take_charges();
    let notices = gate.notices(&permit)?;
    failpoint("permitted");
    let evidence = conclude::evidence(&attempt.call);
    let (hold, voucher) =
        match gate.store.reserve_noting(permit, charges, notices, &evidence).await? {
            Reserved::Replay(stored) => return Done::replayed(*stored),
            Reserved::Run(hold) => gate.voucher(hold).await?,
            Reserved::Settle(settling) => {
                let settled = Box::pin(gate.settle_before(settling, attempt, asked)).await;
                settled.map_err(conclude::truthful)?
            }
        };
    failpoint("started");
    gate.remember(&hold, attempt);
    let ran = gate.run(&hold, attempt, voucher.as_ref()).await;
    failpoint("ran");
    let done = gate.conclude(hold, ran).await.map_err(conclude::truthful)?;
    failpoint("captured");
    Ok(done)
}
