//! How hard the free lane's proof of work is: the controller, in whole numbers.
//!
//! Each tick the difficulty follows the load: `D *= clamp(sqrt(u / 0.7), 0.7, 2.0)`, where `u` is
//! the valid proofs of the tick over what the lane serves. Every valid proof counts one, whatever
//! work went into it: a controller that looks at the effort its attacker claims can be driven up
//! by it until nobody else can afford a call. For the same reason no proof is served before
//! another: when more come than are served, chance decides.
//!
//! The gateway and the simulation in `bench` run this same code. No clock and no randomness here.

use crate::time::UnixMs;

/// Length of a tick, in milliseconds.
pub const TICK_MS: u64 = 10_000;

/// One, in the fixed-point numbers of this module.
const ONE: u64 = 1 << 16;
/// The least and the greatest step: 0.7 and 2.0.
const STEP: [u64; 2] = [45_875, 2 * ONE];
/// Idle ticks after which any difficulty has come down to its least.
const TICKS_MAX: u64 = 160;
/// A subject's difficulty is doubled this often at most.
const DOUBLINGS_MAX: u32 = 16;

/// What the operator gives the free lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Calls served in one tick.
    pub capacity: u64,
    /// The least difficulty: hashes that a proof takes on average.
    pub least: u64,
    /// The greatest.
    pub most: u64,
}

/// The difficulty after a tick in which `proofs` valid proofs came.
#[must_use]
pub fn retarget(difficulty: u64, proofs: u64, lane: &Lane) -> u64 {
    // u / 0.7 with 32 binary places, so that its root has 16.
    let load = u128::from(proofs).saturating_mul(10 << 32) / (u128::from(lane.capacity.max(1)) * 7);
    let step = u64::try_from(load.isqrt()).unwrap_or(u64::MAX).clamp(STEP[0], STEP[1]);
    scaled(difficulty, step).clamp(lane.least, lane.most)
}

/// A subject's own difficulty: `difficulty * 2^(used / quota)`, straight between the powers of two.
#[must_use]
pub fn for_subject(difficulty: u64, used: u64, quota: u64) -> u64 {
    let quota = quota.max(1);
    let doublings = u32::try_from(used / quota).map_or(DOUBLINGS_MAX, |n| n.min(DOUBLINGS_MAX));
    let part = u128::from(used % quota) * u128::from(ONE) / u128::from(quota);
    let part = u64::try_from(part).unwrap_or(0);
    scaled(difficulty.saturating_mul(1 << doublings), ONE.saturating_add(part))
}

fn scaled(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 16).unwrap_or(u64::MAX)
}

/// The controller's state.
#[derive(Clone, Debug)]
pub struct Controller {
    lane: Lane,
    difficulty: u64,
    began: UnixMs,
    /// Valid proofs of this tick, and as many as the one before lets expect.
    proofs: u64,
    expected: u64,
    admitted: u64,
}

impl Controller {
    /// A lane that nobody uses yet.
    #[must_use]
    pub const fn new(lane: Lane, now: UnixMs) -> Self {
        let difficulty = lane.least;
        Self { lane, difficulty, began: now, proofs: 0, expected: 0, admitted: 0 }
    }

    /// The difficulty now.
    #[must_use]
    pub fn difficulty(&mut self, now: UnixMs) -> u64 {
        self.advance(now);
        self.difficulty
    }

    /// Counts a valid proof, and says whether its call is served. `draw` is random: with more
    /// proofs than places each has the same chance.
    #[must_use]
    pub fn admit(&mut self, draw: u64, now: UnixMs) -> bool {
        self.advance(now);
        self.proofs = self.proofs.saturating_add(1);
        let expected = u128::from(self.proofs.max(self.expected));
        let places = u128::from(self.lane.capacity) << 64;
        let is_lucky = u128::from(draw) * expected < places;
        let is_served = is_lucky && self.admitted < self.lane.capacity;
        self.admitted = self.admitted.saturating_add(u64::from(is_served));
        is_served
    }

    /// Ends the ticks that are over.
    fn advance(&mut self, now: UnixMs) {
        let over = now.since_ms(self.began) / TICK_MS;
        for _ in 0..over.min(TICKS_MAX) {
            let was = self.difficulty;
            self.difficulty = retarget(was, self.proofs, &self.lane);
            // The same hashes make fewer proofs as they get harder.
            let next =
                u128::from(self.proofs) * u128::from(was) / u128::from(self.difficulty.max(1));
            self.expected = u64::try_from(next).unwrap_or(u64::MAX);
            (self.proofs, self.admitted) = (0, 0);
        }
        self.began = self.began.plus_ms(over.saturating_mul(TICK_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LANE: Lane = Lane { capacity: 500, least: 50_000, most: 4_000_000 };

    #[test]
    fn the_step_is_the_root_of_the_load_within_its_clamps() {
        let at = |proofs| retarget(1_000_000, proofs, &LANE);
        assert_eq!(at(350), 1_000_000, "u = 0.7");
        assert_eq!(at(0), 699_996, "never below 0.7");
        assert_eq!(at(1_000_000), 2_000_000, "never above 2.0");
        assert_eq!(at(700), 1_414_199, "sqrt(2), to 16 places");
        assert_eq!(retarget(3_000_000, 9_000, &LANE), LANE.most);
        assert_eq!(retarget(50_000, 0, &LANE), LANE.least);
    }

    #[test]
    fn a_subject_pays_double_for_each_quota_that_it_has_used() {
        assert_eq!(for_subject(50_000, 0, 100), 50_000);
        assert_eq!(for_subject(50_000, 50, 100), 75_000);
        assert_eq!(for_subject(50_000, 100, 100), 100_000);
        assert_eq!(for_subject(50_000, 250, 100), 300_000);
        assert_eq!(for_subject(u64::MAX, u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn an_idle_lane_comes_down_and_a_full_one_serves_what_it_can() {
        let mut lane = Controller::new(LANE, UnixMs(0));
        for tick in 0..20 {
            let served = (0..2_000).filter(|n| lane.admit(n << 53, UnixMs(tick * TICK_MS)));
            assert!(served.count() <= 500);
        }
        assert_eq!(lane.difficulty(UnixMs(20 * TICK_MS)), LANE.most);
        assert_eq!(lane.difficulty(UnixMs(34 * TICK_MS)), LANE.least, "idle");
        assert!(lane.admit(u64::MAX, UnixMs(35 * TICK_MS)), "there is room for all");
        assert_eq!(lane.difficulty(UnixMs(u64::MAX)), LANE.least, "years later");
        assert_eq!(lane.difficulty(UnixMs(0)), LANE.least, "a clock that went back");
    }

    #[test]
    fn over_capacity_chance_decides_and_not_the_order() {
        let mut lane = Controller::new(LANE, UnixMs(0));
        // Draws in even steps: of 2000 proofs in each tick, about a quarter is served.
        let mut tick =
            |at| (0..2_000u64).filter(|n| lane.admit((n * 617 % 2_000) << 53, at)).count();
        for n in 0..5 {
            let served = tick(UnixMs(n * TICK_MS));
            assert!((400..=500).contains(&served), "tick {n}: {served}");
        }
    }

    proptest! {
        #[test]
        fn the_difficulty_stays_in_its_bounds(d in 50_000u64..=4_000_000, proofs: u64) {
            let next = retarget(d, proofs, &LANE);
            prop_assert!((LANE.least..=LANE.most).contains(&next));
        }

        #[test]
        fn what_a_subject_has_used_never_makes_it_easier(
            d in 0..1u64 << 40,
            used in 0..1u64 << 40,
            quota in 0..1u64 << 40,
        ) {
            let now = for_subject(d, used, quota);
            prop_assert!(now >= d);
            prop_assert!(used / quota.max(1) >= 16 || for_subject(d, used + 1, quota) >= now);
        }
    }
}
