//! Proof of work, alone: how many honest calls the free lane serves under attack, by the gateway's
//! own controller, and what minting and verifying cost.
//!
//! Time is simulated in ticks of ten seconds. Honest callers make `HONEST_PER_S` calls a second for
//! as long as one core solves a challenge within `PATIENCE_S`; the attacker comes for twenty
//! minutes. The controller that honours the effort its callers claim is here for comparison only.

use anyhow::{Context as _, Result, anyhow};
use countersign_core::{
    difficulty::{Controller, Lane, TICK_MS, retarget},
    digest::Digest,
    proof::VerifiedWork,
    time::UnixMs,
    wire::pow::{Challenge, Key, Presented},
};
use countersign_gateway::rails::pow::sha1;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const TICK_S: u64 = TICK_MS / 1000;
const CAPACITY_PER_S: u64 = 50;
const HONEST_PER_S: u64 = 15;
/// What one core of a caller hashes in a second, and how long it would.
const HONEST_HASHES_PER_S: u64 = 400_000;
const PATIENCE_S: u64 = 10;
const LANE: Lane = Lane { capacity: CAPACITY_PER_S * TICK_S, least: 50_000, most: 4_000_000 };
/// Ticks in all, and those of the attack.
const TICKS: u64 = 360;
const ATTACK: std::ops::Range<u64> = 60..180;
/// Calls that an attacker sends in a tick at most.
const FLOOD_MAX: u64 = 20 * LANE.capacity;
const SEED: u64 = 1;

/// What an attacker does with its hashes.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// It stays away.
    Idle,
    /// As many proofs as it can make.
    Flood,
    /// A few more proofs than the lane has places, with all its work in them.
    Inflation,
}

/// Who is served first, and what drives the difficulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Ours: every proof counts one, chance decides.
    Chance,
    /// By the effort that callers claim.
    Effort,
}

/// What came of a run, in percent of the honest calls.
struct Served {
    during: f64,
    after: f64,
    peak: u64,
}

/// Prints the simulation, then the costs.
pub(crate) fn role() -> Result<()> {
    println!(
        "free lane: {CAPACITY_PER_S} calls a second, {HONEST_PER_S} of them honest; 20 minutes of \
         attack; seed {SEED}"
    );
    println!("{:<44} {:>14} {:>14} {:>10}", "", "honest served", "10 min after", "peak D");
    for (name, attack, hashes_per_s, order) in [
        ("idle", Attack::Idle, 0, Order::Chance),
        ("flood, 50 MH/s", Attack::Flood, 50_000_000, Order::Chance),
        ("flood, 1 GH/s", Attack::Flood, 1_000_000_000, Order::Chance),
        ("inflation, 50 MH/s", Attack::Inflation, 50_000_000, Order::Chance),
        ("inflation, 1 GH/s", Attack::Inflation, 1_000_000_000, Order::Chance),
        ("inflation, 50 MH/s, effort not capped", Attack::Inflation, 50_000_000, Order::Effort),
        ("inflation, 1 GH/s, effort not capped", Attack::Inflation, 1_000_000_000, Order::Effort),
    ] {
        let Served { during, after, peak } = simulate(attack, hashes_per_s, order);
        println!("{name:<44} {during:>12.0} % {after:>12.0} % {peak:>10}");
    }
    costs()
}

fn simulate(attack: Attack, hashes_per_s: u64, order: Order) -> Served {
    let mut random = Random(SEED);
    let mut controller = Controller::new(LANE, UnixMs(0));
    let mut difficulty = LANE.least;
    let (mut peak, mut during, mut after) = (0, Vec::new(), Vec::new());
    for tick in 0..TICKS {
        let now = UnixMs(tick * TICK_MS);
        if order == Order::Chance {
            difficulty = controller.difficulty(now);
        }
        peak = peak.max(difficulty);
        let is_solvable = difficulty <= HONEST_HASHES_PER_S * PATIENCE_S;
        let honest = if is_solvable { HONEST_PER_S * TICK_S } else { 0 };
        let hashes = hashes_per_s * TICK_S;
        let (hostile, effort) = match attack {
            Attack::Flood if ATTACK.contains(&tick) => {
                ((hashes / difficulty.max(1_000)).min(FLOOD_MAX), difficulty)
            }
            Attack::Inflation if ATTACK.contains(&tick) => {
                let calls = LANE.capacity * 105 / 100;
                (calls.min(hashes / difficulty), hashes / calls)
            }
            Attack::Idle | Attack::Flood | Attack::Inflation => (0, 0),
        };
        let served = match order {
            Order::Chance => by_chance(&mut controller, &mut random, (honest, hostile), now),
            Order::Effort => {
                let is_first = effort > difficulty;
                difficulty = retarget(difficulty, honest + hostile, &LANE);
                by_effort((honest, hostile), is_first)
            }
        };
        let part = served * 100.0 / (HONEST_PER_S * TICK_S) as f64;
        if ATTACK.contains(&tick) {
            during.push(part);
        } else if (ATTACK.end..ATTACK.end + 600 / TICK_S).contains(&tick) {
            after.push(part);
        }
    }
    Served { during: mean(&during), after: mean(&after), peak }
}

/// Honest calls that the gateway's controller serves, arrivals mixed.
fn by_chance(
    controller: &mut Controller,
    random: &mut Random,
    (mut honest, mut hostile): (u64, u64),
    now: UnixMs,
) -> f64 {
    let mut served = 0u64;
    while honest + hostile > 0 {
        let is_honest = random.next() % (honest + hostile) < honest;
        let is_served = controller.admit(random.next(), now);
        if is_honest {
            honest -= 1;
            served += u64::from(is_served);
        } else {
            hostile -= 1;
        }
    }
    served as f64
}

/// Honest calls served where whoever claims more effort comes first.
fn by_effort((honest, hostile): (u64, u64), is_hostile_first: bool) -> f64 {
    if is_hostile_first {
        return honest.min(LANE.capacity.saturating_sub(hostile)) as f64;
    }
    let share = LANE.capacity as f64 / (honest + hostile).max(1) as f64;
    honest as f64 * share.min(1.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// SplitMix64: the same run each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Operations of one measurement, and measurements of which the best counts.
const OPERATIONS: u32 = 20_000;
const ROUNDS: usize = 5;

/// What the gateway's own part of a challenge and of a solution costs.
fn costs() -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("note: a debug build; the costs mean nothing");
    }
    let key = Key::of(&[1; 32]);
    let challenge = Challenge {
        id: [2; 16],
        expires_at: UnixMs(1_795_000_000_000),
        difficulty: 1,
        call: Digest::of(b"call"),
        subject: Digest::of(b"subject"),
    };
    let text = challenge.seal(&key);
    let counter = Presented::of(&text, "0").map_err(|error| anyhow!("{error}"))?;
    let stamp = format!("1:0:261201:{text}::bench:0");
    let stamp = Presented::of(&text, &stamp).map_err(|error| anyhow!("{error}"))?;
    let verify = |presented: &Presented| VerifiedWork::verify(presented, &key, sha1).is_ok();
    verify(&counter).then_some(()).context("no solution")?;
    println!("\nseal a challenge: {:.2} µs", best_us(|| challenge.seal(&key)));
    println!(
        "make the whole offer, ALTCHA's form included: {:.2} µs",
        best_us(|| challenge.offer(&key))
    );
    println!("verify a solution: {:.2} µs", best_us(|| verify(&counter)));
    println!("verify a hashcash stamp: {:.2} µs", best_us(|| verify(&stamp)));
    Ok(())
}

fn best_us<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..OPERATIONS {
            black_box(work());
        }
        best = best.min(start.elapsed());
    }
    best.as_secs_f64() * 1e6 / f64::from(OPERATIONS)
}
