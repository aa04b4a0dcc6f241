//! A bundle that answers beside the one in force, and decides nothing.
//!
//! INVARIANT: off the path. A decision that was made is offered to a bounded queue and forgotten;
//! when the queue is full it is dropped and counted. Nothing waits for the shadow, and nothing that
//! it says is looked at by a call.
//! INVARIANT: a shadow bundle goes through the same checks as one that is put in force, but that of
//! its revision. One that cannot be used any more after a restart is said to be so, and does not
//! stop the start.

use super::{
    Bundle, BundleError, Delta, Engine, Files,
    activation::{off_the_path, to_keep, unkept},
    live::{open, reopen},
};
use crate::{gate::Gate, reload::Gates};
use countersign_core::{
    audit::checkpoint::VerifierKey,
    digest::Digest,
    ids::CallId,
    policy::{Decision, Obligation, Question, Recorded},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{KeptShadow, NewPolicy, Store};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Decisions that wait at most.
const QUEUE_MAX: usize = 1_024;
/// Between two looks at whether there is something to write down.
const WRITE_PAUSE: Duration = Duration::from_secs(5);

/// A shadow bundle at work.
#[derive(Debug)]
pub struct Shadow {
    digest: Digest,
    revision: u64,
    queue: SyncSender<Offered>,
    counted: Arc<Mutex<Counted>>,
    dropped: AtomicU64,
}

/// What it counted since a moment; dropped decisions as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Since when.
    pub since: UnixMs,
    /// Decisions that were not compared, because too many waited.
    pub dropped: u64,
    /// What came out otherwise.
    pub delta: Delta,
}

/// A decision of the bundle in force.
#[derive(Debug)]
struct Offered {
    decided: Recorded,
    call: CallId,
}

impl Shadow {
    fn start(engine: Engine, revision: u64, counted: Counted) -> Result<Self, Refusal> {
        let (queue, offered) = sync_channel(QUEUE_MAX);
        let dropped = AtomicU64::new(counted.dropped);
        let counted = Arc::new(Mutex::new(counted));
        let (digest, results) = (engine.bundle_digest(), Arc::clone(&counted));
        // A thread of its own: no call waits behind an evaluation. It ends with the queue.
        let work = move || answer(&engine, &offered, &results);
        let spawned = std::thread::Builder::new().name("policy-shadow".to_owned()).spawn(work);
        spawned.map_err(|_| Refusal::new(Code::InternalFault))?;
        Ok(Self { digest, revision, queue, counted, dropped })
    }

    /// Offers a decision.
    pub fn offer(&self, question: &Question, decision: &Decision, call: CallId) {
        let duties = decision.answer.obligations().iter().map(Obligation::word);
        let decided = Recorded {
            question: question.clone(),
            answer: decision.answer.word(),
            obligations: duties.map(str::to_owned).collect(),
            policies: decision.reasons.iter().map(|reason| reason.policy.clone()).collect(),
        };
        match self.queue.try_send(Offered { decided, call }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The bundle's digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The bundle's revision.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What it counted so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Counted { dropped: self.dropped.load(Ordering::Relaxed), ..counted }
    }

    /// Begins to count anew: another bundle is in force.
    pub(super) fn begin(&self, now: UnixMs) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted = Counted { since: now, ..Counted::default() };
        self.dropped.store(0, Ordering::Relaxed);
    }
}

fn answer(engine: &Engine, offered: &Receiver<Offered>, counted: &Mutex<Counted>) {
    while let Ok(Offered { decided, call }) = offered.recv() {
        let compared = engine.compare(decided);
        counted.lock().unwrap_or_else(PoisonError::into_inner).delta.count(compared, call);
    }
}

/// The shadow bundle that was kept; `Err` says why it cannot be used.
pub(super) fn resume(
    store: &Store,
    key: Option<&VerifierKey>,
    now: UnixMs,
) -> Result<Option<Shadow>, BundleError> {
    let Some(KeptShadow { policy, at, report }) = store.shadow().map_err(unkept)? else {
        return Ok(None);
    };
    let engine = reopen(&policy.body, key, now)?;
    // What cannot be read is counted anew.
    let fresh = Counted { since: at, ..Counted::default() };
    let counted = serde_json::from_str(&report).unwrap_or(fresh);
    Shadow::start(engine, policy.revision, counted).map(Some).map_err(unkept)
}

impl Gate {
    /// Lets a bundle answer beside the one in force.
    ///
    /// # Errors
    /// [`Code::BundleRefused`] with the step that failed and why; `StoreFault`.
    pub async fn set_shadow(&self, files: Files, by: &str) -> Result<(), Refusal> {
        let bundle = Bundle::of_files(files)?;
        let _changing = self.policy.changing.lock().await;
        let (key, now) = (self.config.policy_key.clone(), self.world.now());
        let (bundle, engine) = off_the_path(move || {
            let engine = open(&bundle, key.as_ref(), now)?;
            Ok((bundle, engine))
        })
        .await?;
        let new: NewPolicy = to_keep(&bundle, &engine, by)?.ok_or(BundleError::NoManifest)?;
        let counted = Counted { since: now, ..Counted::default() };
        let shadow = Shadow::start(engine, new.revision, counted)?;
        self.store.shadow_set(new).await?;
        self.policy.cast(Some(shadow));
        Ok(())
    }

    /// Ends the shadow bundle; `false` when there is none.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn stop_shadow(&self, by: &str) -> Result<bool, Refusal> {
        let _changing = self.policy.changing.lock().await;
        let was_there = self.store.shadow_stop(by).await?;
        self.policy.cast(None);
        Ok(was_there)
    }

    /// Writes down what the shadow bundle counted, if that is news. Counts are for people: what a
    /// crash takes of the last seconds is not missed by any call.
    pub async fn keep_shadow_report(&self, written: &mut Option<Counted>) {
        let Some(shadow) = self.policy.shadow() else { return };
        let counted = shadow.counted();
        if written.as_ref() == Some(&counted) {
            return;
        }
        let Ok(report) = serde_json::to_string(&counted) else { return };
        if self.store.shadow_report(shadow.digest(), report).await.is_ok() {
            *written = Some(counted);
        }
    }
}

/// Writes the counts down every few seconds, and once more at the end.
pub async fn run(gates: &Gates, mut stop: watch::Receiver<bool>) {
    let mut written = None;
    loop {
        tokio::select! {
            _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => break,
            () = tokio::time::sleep(WRITE_PAUSE) => {
                gates.now().keep_shadow_report(&mut written).await;
            }
        }
    }
    gates.now().keep_shadow_report(&mut written).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: &str = r#"@id("stop") @reason("STOPPED") forbid (principal, action, resource);"#;

    fn decided() -> (Question, Decision) {
        let engine = Engine::builtin().unwrap();
        let question = Engine::sample_question().by(engine.tables());
        let decision = engine.decide(&question);
        (question, decision)
    }

    #[test]
    fn what_is_offered_is_compared_off_the_path() {
        let engine = Engine::load(Engine::BUILTIN_SCHEMA, STOP).unwrap();
        let shadow = Shadow::start(engine, 1, Counted::default()).unwrap();
        let (question, decision) = decided();
        for at in 0..20 {
            shadow.offer(&question, &decision, CallId::from_bytes([at; 16]));
        }
        while shadow.counted().delta.compared < 20 {
            std::thread::yield_now();
        }
        let found = shadow.counted();
        assert_eq!((found.dropped, found.delta.changed), (0, 20));
        let row = &found.delta.rows[0];
        assert_eq!((row.from.as_str(), row.to.as_str()), ("allow", "deny"));
        assert_eq!(found.delta.clone().of_tenant("tenant").changed, 20);
        assert_eq!(found.delta.of_tenant("other"), Delta::default());
        shadow.begin(UnixMs(7));
        assert_eq!(shadow.counted(), Counted { since: UnixMs(7), ..Counted::default() });
    }

    /// Nobody takes from the queue: offering returns all the same, and nothing grows.
    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (queue, _offered) = sync_channel(QUEUE_MAX);
        let (counted, dropped) = (Arc::default(), AtomicU64::new(0));
        let digest = Digest::from_bytes([0; 32]);
        let shadow = Shadow { digest, revision: 1, queue, counted, dropped };
        let (question, decision) = decided();
        for _ in 0..QUEUE_MAX + 300 {
            shadow.offer(&question, &decision, CallId::from_bytes([0; 16]));
        }
        assert_eq!(shadow.counted().dropped, 300);
    }

    #[test]
    fn counts_survive_being_written_down() {
        let engine = Engine::load(Engine::BUILTIN_SCHEMA, STOP).unwrap();
        let (question, decision) = decided();
        let mut counted = Counted { since: UnixMs(5), dropped: 3, ..Counted::default() };
        let recorded = Recorded {
            question,
            answer: decision.answer.word(),
            obligations: Vec::new(),
            policies: Vec::new(),
        };
        counted.delta.count(engine.compare(recorded), CallId::from_bytes([1; 16]));
        let text = serde_json::to_string(&counted).unwrap();
        assert_eq!(serde_json::from_str::<Counted>(&text).unwrap(), counted);
    }
}
