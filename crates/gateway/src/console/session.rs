//! Sessions: who is signed in at which browser. They live in memory and end with the process.
//!
//! INVARIANT: a session's secret is known to its browser alone; what is kept is its digest.
//! INVARIANT: there is a bounded number of sessions, and of each person's; each ends at a fixed
//! time, when the issuer is asked again.

use crate::{admin::actor::Actor, config::StepUp};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{digest::Digest, time::UnixMs, world::World};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Sessions in all.
const SESSIONS_MAX: usize = 4096;
/// Sessions of one person.
const OWN_MAX: usize = 16;

/// A sign-in at the issuer, as its ID token tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// When; `None` where that is not said.
    pub(super) at: Option<UnixMs>,
    /// Its class.
    pub(super) acr: Option<Arc<str>>,
}

impl Entry {
    /// Whether it is fresh and strong enough.
    pub(super) fn meets(&self, step_up: &StepUp, now: UnixMs) -> bool {
        let is_fresh = self.at.is_some_and(|at| now.since_ms(at) / 1000 <= step_up.max_age_s);
        let is_one = |acr: &Arc<str>| step_up.acr_values.contains(acr);
        is_fresh && (step_up.acr_values.is_empty() || self.acr.as_ref().is_some_and(is_one))
    }
}

/// One browser that somebody signed in at.
pub(super) struct Session {
    /// Who.
    pub(super) actor: Actor,
    /// How they signed in at the issuer.
    pub(super) entry: Entry,
    /// What the forms of this session carry, and no other site knows.
    pub(super) form_key: String,
    /// When it began.
    pub(super) began_at: UnixMs,
    /// When it ends.
    pub(super) ends_at: UnixMs,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// All sessions.
pub(super) struct Sessions {
    open: Mutex<HashMap<Digest, Arc<Session>>>,
    world: World,
    life_ms: u64,
}

impl Sessions {
    pub(super) fn new(world: World, life_ms: u64) -> Self {
        Self { open: Mutex::default(), world, life_ms }
    }

    /// Opens a session; returns the secret for its cookie.
    pub(super) fn open(&self, actor: Actor, entry: Entry) -> String {
        let secret = URL_SAFE_NO_PAD.encode(self.world.random::<32>());
        let form_key = URL_SAFE_NO_PAD.encode(self.world.random::<32>());
        let now = self.world.now();
        let mut open = self.all();
        open.retain(|_, session| now < session.ends_at);
        let is_own = |s: &Session| s.actor.approver().is(&actor.approver());
        if open.values().filter(|session| is_own(session)).count() >= OWN_MAX {
            drop_oldest(&mut open, is_own);
        }
        if open.len() >= SESSIONS_MAX {
            drop_oldest(&mut open, |_| true);
        }
        let ends_at = now.plus_ms(self.life_ms);
        let session = Session { actor, entry, form_key, began_at: now, ends_at };
        open.insert(Digest::of(secret.as_bytes()), Arc::new(session));
        secret
    }

    /// The session of a secret.
    pub(super) fn of(&self, secret: &str) -> Option<Arc<Session>> {
        let found = self.all().get(&Digest::of(secret.as_bytes())).cloned();
        found.filter(|session| self.world.now() < session.ends_at)
    }

    /// Ends a session.
    pub(super) fn end(&self, secret: &str) {
        self.all().remove(&Digest::of(secret.as_bytes()));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_oldest(open: &mut HashMap<Digest, Arc<Session>>, among: impl Fn(&Session) -> bool) {
    let candidates = open.iter().filter(|(_, session)| among(session));
    let oldest = candidates.min_by_key(|(_, session)| session.ends_at).map(|(key, _)| *key);
    if let Some(key) = oldest {
        open.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    static NOW: AtomicU64 = AtomicU64::new(1_000);
    static NEXT: AtomicU64 = AtomicU64::new(1);

    fn sessions() -> Sessions {
        let fill = |bytes: &mut [u8]| {
            bytes.fill(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            bytes[..8].copy_from_slice(&next);
        };
        Sessions::new(World::new(|| UnixMs(NOW.load(Ordering::Relaxed)), fill), 60_000)
    }

    fn actor(subject: &str) -> Actor {
        Actor::person(("https://idp", subject, subject), "acme".into(), vec![], &[])
    }

    #[test]
    fn a_session_is_found_by_its_secret_until_it_ends() {
        let sessions = sessions();
        let secret = sessions.open(actor("ada"), Entry::default());
        assert_eq!(sessions.of(&secret).unwrap().actor, actor("ada"));
        assert!(sessions.of("guess").is_none());
        assert_ne!(
            secret,
            sessions.open(actor("ada"), Entry::default()),
            "each sign-in has a secret of its own"
        );
        sessions.end(&secret);
        assert!(sessions.of(&secret).is_none());
        let late = sessions.open(actor("ada"), Entry::default());
        NOW.fetch_add(60_000, Ordering::Relaxed);
        assert!(sessions.of(&late).is_none(), "its time is over");
    }

    #[test]
    fn one_person_cannot_crowd_out_the_others() {
        let sessions = Sessions { life_ms: u64::MAX >> 1, ..sessions() };
        let other = sessions.open(actor("bob"), Entry::default());
        for _ in 0..50 {
            sessions.open(actor("ada"), Entry::default());
        }
        assert!(sessions.of(&other).is_some());
        assert_eq!(sessions.all().len(), OWN_MAX + 1);
    }

    #[test]
    fn a_sign_in_that_is_old_weak_or_unknown_does_not_do() {
        let step_up = |acr: &[&str]| StepUp {
            above: countersign_core::money::Micros(0),
            max_age_s: 300,
            acr_values: acr.iter().map(|acr| Arc::from(*acr)).collect(),
        };
        let now = UnixMs(1_000_000);
        let entry = |age_s: u64, acr: Option<&str>| Entry {
            at: Some(now.minus_ms(age_s * 1000)),
            acr: acr.map(Arc::from),
        };
        assert!(entry(300, None).meets(&step_up(&[]), now));
        assert!(!entry(301, None).meets(&step_up(&[]), now));
        assert!(entry(1, Some("mfa")).meets(&step_up(&["hw", "mfa"]), now));
        assert!(!entry(1, Some("pwd")).meets(&step_up(&["mfa"]), now));
        assert!(!entry(1, None).meets(&step_up(&["mfa"]), now));
        assert!(!Entry::default().meets(&step_up(&[]), now), "nobody said when");
    }
}
