//! Invoices made ahead, so that a challenge waits for no node.
//!
//! An invoice that is ready is for nobody yet: it says what it is for, and which node takes how
//! much. Quote, credential and kept request are bound to its payment hash when it is handed out;
//! until then nobody knows it, so nobody can pay it.
//!
//! INVARIANT: an invoice is handed out once, lapses no later than what it is asked for, and no
//! sooner than in half of that time.
//! INVARIANT: what a node made before it was lost is never handed out.

use super::Invoice;
use countersign_core::time::UnixMs;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Kinds of invoices that are kept ready; others are made when they are asked for.
const KINDS_MAX: usize = 256;
/// A kind that nobody asked for is kept ready so long, in milliseconds.
const IDLE_MS: u64 = 10 * 60_000;

/// What an invoice is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// The node, by its place in the order of preference.
    pub(super) node: usize,
    pub(super) amount_msat: u64,
    pub(super) memo: Arc<str>,
    pub(super) is_hold: bool,
}

/// An invoice with the root key of the credential that it is to buy.
pub struct Ready {
    /// The invoice.
    pub invoice: Invoice,
    /// Of the credential; the preimage of a hold invoice is made of it.
    pub root_key: [u8; 32],
    /// Its money is held.
    pub is_hold: bool,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("invoice", &self.invoice).finish_non_exhaustive()
    }
}

/// Invoices that are ready, by kind.
#[derive(Debug)]
pub(super) struct Pool {
    /// How many are ready of each kind; none keeps the pool empty.
    size: usize,
    shelves: Mutex<HashMap<Kind, Shelf>>,
    /// Something was taken.
    pub(super) taken: Notify,
}

#[derive(Debug)]
struct Shelf {
    ready: VecDeque<Ready>,
    asked_at: UnixMs,
}

impl Pool {
    pub(super) fn new(size: usize) -> Self {
        Self { size, shelves: Mutex::default(), taken: Notify::new() }
    }

    /// One of a kind that lapses within `expiry_s`. From now on that kind is kept ready.
    pub(super) fn take(&self, kind: &Kind, expiry_s: u64, now: UnixMs) -> Option<Ready> {
        if self.size == 0 {
            return None;
        }
        let mut shelves = self.shelves();
        if shelves.len() >= KINDS_MAX && !shelves.contains_key(kind) {
            shelves.retain(|_, shelf| !shelf.is_idle(now));
            if shelves.len() >= KINDS_MAX {
                return None;
            }
        }
        let shelf = shelves
            .entry(kind.clone())
            .or_insert_with(|| Shelf { ready: VecDeque::new(), asked_at: now });
        shelf.asked_at = now;
        let fits = |ready: &Ready| is_fresh(ready, expiry_s, now);
        let found = shelf.ready.iter().position(fits).and_then(|at| shelf.ready.remove(at));
        drop(shelves);
        self.taken.notify_one();
        found
    }

    /// What is missing, and how many of it. What lapses soon, or is for a kind that nobody asks
    /// for any more, is thrown away.
    pub(super) fn missing(
        &self,
        expiry_s: impl Fn(&Kind) -> u64,
        now: UnixMs,
    ) -> Vec<(Kind, usize)> {
        let mut shelves = self.shelves();
        shelves.retain(|_, shelf| !shelf.is_idle(now));
        let mut missing = Vec::new();
        for (kind, shelf) in shelves.iter_mut() {
            let expiry_s = expiry_s(kind);
            shelf.ready.retain(|ready| is_fresh(ready, expiry_s, now));
            let count = self.size.saturating_sub(shelf.ready.len());
            if count > 0 {
                missing.push((kind.clone(), count));
            }
        }
        missing
    }

    /// Keeps an invoice ready; one whose kind was given up meanwhile is left to lapse.
    pub(super) fn put(&self, kind: &Kind, ready: Ready) {
        if let Some(shelf) = self.shelves().get_mut(kind) {
            shelf.ready.push_back(ready);
        }
    }

    /// Gives up all of a node.
    pub(super) fn forget(&self, node: usize) {
        self.shelves().retain(|kind, _| kind.node != node);
    }

    /// How many are ready of a node.
    pub(super) fn ready(&self, node: usize) -> usize {
        let shelves = self.shelves();
        let of_node = shelves.iter().filter(|(kind, _)| kind.node == node);
        of_node.map(|(_, shelf)| shelf.ready.len()).sum()
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<Kind, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn is_idle(&self, now: UnixMs) -> bool {
        now.since_ms(self.asked_at) >= IDLE_MS
    }
}

/// Whether an invoice lapses within `expiry_s`, and not before half of it. A second is lost when
/// times are rounded to seconds.
fn is_fresh(ready: &Ready, expiry_s: u64, now: UnixMs) -> bool {
    let left_ms = ready.invoice.expires_at.since_ms(now);
    let most_ms = expiry_s.saturating_mul(1000);
    left_ms <= most_ms.saturating_add(1000) && left_ms >= most_ms / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn kind(node: usize, memo: &str) -> Kind {
        Kind { node, amount_msat: 3_000, memo: memo.into(), is_hold: false }
    }

    fn ready(n: u8, expires_at: UnixMs) -> Ready {
        let (bolt11, payment_hash) = (format!("lnbcrt{n}"), [n; 32]);
        let invoice = Invoice { bolt11, payment_hash, amount_msat: 3_000, expires_at };
        Ready { invoice, root_key: [n; 32], is_hold: false }
    }

    fn taken(pool: &Pool, kind: &Kind, now: UnixMs) -> Option<u8> {
        pool.take(kind, 300, now).map(|ready| ready.root_key[0])
    }

    #[test]
    fn what_is_asked_for_is_kept_ready_and_handed_out_once() {
        let pool = Pool::new(2);
        let forecast = kind(0, "weather/get_forecast");
        assert!(pool.missing(|_| 300, NOW).is_empty(), "nobody asked");
        assert_eq!(taken(&pool, &forecast, NOW), None);
        assert_eq!(pool.missing(|_| 300, NOW), [(forecast.clone(), 2)]);
        for n in [1, 2] {
            pool.put(&forecast, ready(n, NOW.plus_ms(300_000)));
        }
        assert!(pool.missing(|_| 300, NOW).is_empty());
        assert_eq!(taken(&pool, &kind(0, "weather/other"), NOW), None, "of another tool");
        assert_eq!(taken(&pool, &kind(1, "weather/get_forecast"), NOW), None, "of another node");
        let all = [(); 3].map(|()| taken(&pool, &forecast, NOW));
        assert_eq!(all, [Some(1), Some(2), None]);
    }

    #[test]
    fn one_that_lapses_soon_or_late_is_not_handed_out() {
        let pool = Pool::new(1);
        let forecast = kind(0, "weather/get_forecast");
        assert_eq!(taken(&pool, &forecast, NOW), None);
        pool.put(&forecast, ready(1, NOW.plus_ms(300_000)));
        let (soon, late) = (NOW.plus_ms(150_001), NOW.minus_ms(2_000));
        assert_eq!(taken(&pool, &forecast, soon), None);
        assert_eq!(taken(&pool, &forecast, late), None, "longer than its quote");
        assert_eq!(pool.missing(|_| 300, NOW.plus_ms(150_000)), [], "half of its time is left");
        assert_eq!(pool.missing(|_| 300, soon), [(forecast.clone(), 1)], "it is replaced");
        assert_eq!(pool.ready(0), 0);
    }

    #[test]
    fn what_a_lost_node_made_is_gone() {
        let pool = Pool::new(1);
        for node in [0, 1] {
            assert_eq!(taken(&pool, &kind(node, "a"), NOW), None);
            pool.put(&kind(node, "a"), ready(1, NOW.plus_ms(300_000)));
        }
        pool.forget(0);
        // What was being made when it was lost comes too late.
        pool.put(&kind(0, "a"), ready(2, NOW.plus_ms(300_000)));
        assert_eq!([pool.ready(0), pool.ready(1)], [0, 1]);
        assert_eq!(taken(&pool, &kind(0, "a"), NOW), None);
        assert_eq!(taken(&pool, &kind(1, "a"), NOW), Some(1));
    }

    #[test]
    fn kinds_have_a_limit_and_idle_ones_end() {
        let pool = Pool::new(1);
        for n in 0..KINDS_MAX + 10 {
            assert_eq!(taken(&pool, &kind(0, &n.to_string()), NOW), None);
        }
        assert_eq!(pool.missing(|_| 300, NOW).len(), KINDS_MAX);
        let later = NOW.plus_ms(IDLE_MS);
        assert_eq!(taken(&pool, &kind(0, "new"), later), None);
        assert_eq!(pool.missing(|_| 300, later), [(kind(0, "new"), 1)]);
        let none = Pool::new(0);
        assert_eq!(taken(&none, &kind(0, "a"), NOW), None);
        assert!(none.missing(|_| 300, NOW).is_empty(), "off");
    }
}
