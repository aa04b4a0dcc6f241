//! The free lane: proof of work instead of money.
//!
//! Owns the difficulty, the draw among too many, and which proofs have had theirs. What a proof is
//! worth is checked in `countersign_core::proof`; that it is used once, and each caller's day,
//! are the ledger's.
//!
//! INVARIANT: a proof is counted once, however often it is sent: else one proof, sent again and
//! again, would drive the difficulty up for everybody.
//! INVARIANT: calls for money never come here.

use crate::config;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use countersign_core::{
    difficulty::{Controller, Lane, TICK_MS, for_subject},
    digest::Digest,
    proof::VerifiedWork,
    refusal::{Code, Refusal},
    time::UnixMs,
    wire::pow::{Challenge, Key, TTL_MAX_MS},
    world::World,
};
use std::{
    collections::HashMap,
    fmt, mem,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Proofs remembered for as long as one can be good, in the smallest lane; more are not served.
const SEEN_MIN: usize = 1 << 16;

/// As many as a lane serves in that time, and as many again that come in vain.
fn seen_max(capacity_per_s: u32) -> usize {
    let served = u64::from(capacity_per_s).saturating_mul(TTL_MAX_MS / 1_000);
    usize::try_from(served.saturating_mul(2)).unwrap_or(usize::MAX).max(SEEN_MIN)
}

/// Proof of work.
pub struct PowRail {
    key: Key,
    daily_quota: u32,
    ttl_ms: u64,
    state: Mutex<State>,
}

impl fmt::Debug for PowRail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowRail").field("key", &self.key).finish_non_exhaustive()
    }
}

struct State {
    controller: Controller,
    /// Whether a proof's call was served; those of this period, and of the one before.
    seen: [HashMap<Digest, bool>; 2],
    seen_max: usize,
    since: UnixMs,
}

impl PowRail {
    /// The lane that is configured, under a key of the deployment.
    #[must_use]
    pub fn new(config: &config::Pow, secret: &[u8; 32], now: UnixMs) -> Self {
        let lane = Lane {
            capacity: u64::from(config.capacity_per_s) * TICK_MS / 1000,
            least: config.min_difficulty,
            most: config.max_difficulty,
        };
        let state = State {
            controller: Controller::new(lane, now),
            seen: Default::default(),
            seen_max: seen_max(config.capacity_per_s),
            since: now,
        };
        Self {
            key: Key::of(secret),
            daily_quota: config.daily_quota,
            ttl_ms: config.ttl_ms,
            state: Mutex::new(state),
        }
    }

    /// What seals challenges.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Calls that each subject has in a day.
    #[must_use]
    pub const fn daily_quota(&self) -> u32 {
        self.daily_quota
    }

    /// The subject that an address is. Keyed, so that nobody can try addresses against it.
    #[must_use]
    pub fn subject_of(&self, address: IpAddr) -> Digest {
        Digest::from_bytes(self.key.derive("address", address.to_string().as_bytes()))
    }

    /// A challenge for a subject that has had `used` calls today.
    #[must_use]
    pub fn challenge(&self, call: Digest, subject: Digest, used: u32, world: &World) -> Challenge {
        let now = world.now();
        let difficulty = self.state().controller.difficulty(now);
        Challenge {
            id: world.random(),
            expires_at: now.plus_ms(self.ttl_ms),
            difficulty: for_subject(difficulty, u64::from(used), u64::from(self.daily_quota)),
            call,
            subject,
        }
    }

    /// Whether a valid proof's call is served.
    ///
    /// # Errors
    /// [`Code::FreeLaneFull`].
    pub fn admit(&self, work: &VerifiedWork, world: &World) -> Result<(), Refusal> {
        let draw = u64::from_be_bytes(world.random());
        if self.state().draw(work.key(), draw, world.now()) {
            return Ok(());
        }
        Err(Refusal::new(Code::FreeLaneFull).retry_after_s(TICK_MS / 1000))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn draw(&mut self, key: Digest, draw: u64, now: UnixMs) -> bool {
        if now.since_ms(self.since) >= TTL_MAX_MS {
            let [current, before] = &mut self.seen;
            *before = mem::take(current);
            self.since = now;
        }
        let [current, before] = &mut self.seen;
        if let Some(served) = current.get(&key).or_else(|| before.get(&key)) {
            return *served;
        }
        if current.len() >= self.seen_max {
            return false;
        }
        let served = self.controller.admit(draw, now);
        current.insert(key, served);
        served
    }
}

/// SHA-1, which hashcash stamps are made with: leading zeros, no collisions, are asked of it.
#[must_use]
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let found = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let mut hash = [0; 20];
    hash.iter_mut().zip(found.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(capacity: u64) -> State {
        let lane = Lane { capacity, least: 1, most: 1_000 };
        let controller = Controller::new(lane, UnixMs(0));
        let seen_max = seen_max(u32::try_from(capacity * 1_000 / TICK_MS).unwrap());
        State { controller, seen: Default::default(), seen_max, since: UnixMs(0) }
    }

    fn key(n: u64) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    #[test]
    fn a_proof_has_one_draw_and_counts_once() {
        let mut state = state(2);
        for n in 0..4 {
            state.draw(key(n), 0, UnixMs(0));
        }
        for _ in 0..1_000 {
            assert!(state.draw(key(0), u64::MAX, UnixMs(0)), "it was served, and is again");
            assert!(!state.draw(key(3), 0, UnixMs(0)), "it was not, and never is");
        }
        // Four proofs in a lane of two: sqrt((4 / 2) / 0.7) = 1.69, not the clamp's 2.0.
        assert_eq!(state.controller.difficulty(UnixMs(TICK_MS)), 1);
        assert!(!state.draw(key(3), 0, UnixMs(TTL_MAX_MS)), "for as long as it can be good");
        assert!(!state.draw(key(3), 0, UnixMs(2 * TTL_MAX_MS - 1)));
    }

    #[test]
    fn a_large_lane_remembers_what_it_serves() {
        let served = |capacity, proofs| {
            let mut state = state(capacity);
            (0..proofs).filter(|n| state.draw(key(*n), 0, UnixMs(0))).count()
        };
        assert_eq!(served(100_000, 80_000), 80_000);
        assert_eq!(seen_max(10_000), 2 * 10_000 * 120, "two minutes, and as many in vain");
        assert_eq!(seen_max(1), SEEN_MIN);
    }

    #[test]
    fn sha1_is_sha1() {
        assert_eq!(hex::encode(sha1(b"abc")), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }
}
