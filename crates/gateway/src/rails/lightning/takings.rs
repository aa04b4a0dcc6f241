//! What becomes of invoices: how many of those that were shown are paid, and how soon.
//!
//! In memory, since the process began: figures for people who watch, of which nothing else depends.
//! What is owed to whom is the ledger's.
//!
//! INVARIANT: tables have a limit; an invoice beyond it is not counted at all.

use countersign_core::time::UnixMs;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Invoices whose end is waited for.
const OPEN_MAX: usize = 100_000;
/// Ends that rate and latency are of, at most, and for how long, in milliseconds.
const LATEST_MAX: usize = 1_000;
const LATEST_MS: u64 = 3_600_000;
/// Money that came and is neither taken nor given back is no longer waited for, in milliseconds.
const UNDECIDED_MS: u64 = 24 * 3_600_000;

/// What becomes of invoices, by node.
#[derive(Debug, Default)]
pub struct Takings(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    open: HashMap<[u8; 32], Open>,
    nodes: HashMap<Arc<str>, Node>,
}

#[derive(Debug)]
struct Open {
    node: Arc<str>,
    shown_at: UnixMs,
    lapses_at: UnixMs,
    arrived_at: Option<UnixMs>,
}

#[derive(Debug, Default)]
struct Node {
    shown: u64,
    paid: u64,
    lapsed: u64,
    returned: u64,
    waited_ms: u64,
    /// How each of the latest ended: paid after so long, or not.
    latest: VecDeque<(UnixMs, Option<u64>)>,
}

/// Figures of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Invoices that were shown.
    pub shown: u64,
    /// Those whose money came.
    pub paid: u64,
    /// Those that lapsed without.
    pub lapsed: u64,
    /// Those whose money came and was given back.
    pub returned: u64,
    /// From the invoice to its money, all of them together, in milliseconds.
    pub waited_ms: u64,
    /// How many ended within the last hour, at most the last thousand.
    pub ended: u64,
    /// How many of a hundred of these were paid.
    pub success_percent: Option<u8>,
    /// From the invoice to its money: half of these took no longer, in milliseconds.
    pub p50_ms: Option<u64>,
    /// The same for 99 of a hundred.
    pub p99_ms: Option<u64>,
}

impl Takings {
    /// An invoice is shown to a payer.
    pub fn shown(&self, hash: [u8; 32], node: &Arc<str>, (now, lapses_at): (UnixMs, UnixMs)) {
        let mut book = self.lock();
        if book.open.len() >= OPEN_MAX {
            return;
        }
        let node = Arc::clone(node);
        let of_node = book.nodes.entry(Arc::clone(&node)).or_default();
        of_node.shown = of_node.shown.saturating_add(1);
        book.open.insert(hash, Open { node, shown_at: now, lapses_at, arrived_at: None });
    }

    /// Its money is held. Repeats, and invoices that are not ours, count nothing.
    pub fn arrived(&self, hash: &[u8; 32], now: UnixMs) {
        let mut book = self.lock();
        let Some(open) = book.open.get_mut(hash).filter(|open| open.arrived_at.is_none()) else {
            return;
        };
        open.arrived_at = Some(now);
        let (node, waited_ms) = (Arc::clone(&open.node), now.since_ms(open.shown_at));
        let node = book.nodes.entry(node).or_default();
        node.paid = node.paid.saturating_add(1);
        node.waited_ms = node.waited_ms.saturating_add(waited_ms);
        node.ended((now, Some(waited_ms)));
    }

    /// Its money was taken.
    pub fn taken(&self, hash: &[u8; 32], now: UnixMs) {
        self.arrived(hash, now);
        self.lock().open.remove(hash);
    }

    /// Its money was given back, or can no longer come.
    pub fn returned(&self, hash: &[u8; 32]) {
        let mut book = self.lock();
        let Some(open) = book.open.get(hash).filter(|open| open.arrived_at.is_some()) else {
            return;
        };
        let node = Arc::clone(&open.node);
        book.open.remove(hash);
        let node = book.nodes.entry(node).or_default();
        node.returned = node.returned.saturating_add(1);
    }

    /// Ends what lapsed.
    pub fn lapse(&self, now: UnixMs) {
        let mut book = self.lock();
        let Book { open, nodes } = &mut *book;
        open.retain(|_, open| match open.arrived_at {
            Some(at) => now.since_ms(at) < UNDECIDED_MS,
            None if now < open.lapses_at => true,
            None => {
                let node = nodes.entry(Arc::clone(&open.node)).or_default();
                node.lapsed = node.lapsed.saturating_add(1);
                node.ended((now, None));
                false
            }
        });
    }

    /// A node's figures.
    #[must_use]
    pub fn figures(&self, node: &str, now: UnixMs) -> Figures {
        self.lock().nodes.get(node).map_or_else(Figures::default, |node| node.figures(now))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn ended(&mut self, end: (UnixMs, Option<u64>)) {
        if self.latest.len() >= LATEST_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(end);
    }

    fn figures(&self, now: UnixMs) -> Figures {
        let latest = self.latest.iter().filter(|(at, _)| now.since_ms(*at) < LATEST_MS);
        let ended: Vec<Option<u64>> = latest.map(|(_, waited_ms)| *waited_ms).collect();
        let mut waited_ms: Vec<u64> = ended.iter().copied().flatten().collect();
        waited_ms.sort_unstable();
        let percent = waited_ms.len().saturating_mul(100).checked_div(ended.len());
        let quantile = |percent: usize| {
            let rank = waited_ms.len().saturating_mul(percent).div_ceil(100);
            waited_ms.get(rank.saturating_sub(1)).copied()
        };
        Figures {
            shown: self.shown,
            paid: self.paid,
            lapsed: self.lapsed,
            returned: self.returned,
            waited_ms: self.waited_ms,
            ended: u64::try_from(ended.len()).unwrap_or(u64::MAX),
            success_percent: percent.and_then(|percent| u8::try_from(percent).ok()),
            p50_ms: quantile(50),
            p99_ms: quantile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn shown(takings: &Takings, n: u8) {
        takings.shown([n; 32], &"ldk".into(), (NOW, NOW.plus_ms(300_000)));
    }

    #[test]
    fn each_invoice_ends_once() {
        let takings = Takings::default();
        assert_eq!(takings.figures("ldk", NOW), Figures::default());
        for n in 0..4 {
            shown(&takings, n);
        }
        // One is held and taken, one is held and given back, one is paid outright, one lapses.
        takings.arrived(&[0; 32], NOW.plus_ms(1_000));
        takings.arrived(&[0; 32], NOW.plus_ms(9_000));
        takings.taken(&[0; 32], NOW.plus_ms(9_000));
        takings.arrived(&[1; 32], NOW.plus_ms(2_000));
        takings.returned(&[1; 32]);
        takings.taken(&[2; 32], NOW.plus_ms(3_000));
        takings.taken(&[2; 32], NOW.plus_ms(4_000));
        takings.taken(&[9; 32], NOW.plus_ms(4_000));
        takings.lapse(NOW.plus_ms(299_999));
        let later = NOW.plus_ms(300_000);
        takings.lapse(later);
        takings.lapse(later);
        let figures = Figures {
            shown: 4,
            paid: 3,
            lapsed: 1,
            returned: 1,
            waited_ms: 6_000,
            ended: 4,
            success_percent: Some(75),
            p50_ms: Some(2_000),
            p99_ms: Some(3_000),
        };
        assert_eq!(takings.figures("ldk", later), figures);
        assert_eq!(takings.figures("lnd", later), Figures::default());
        let tomorrow = NOW.plus_ms(24 * 3_600_000);
        let past = takings.figures("ldk", tomorrow);
        assert_eq!((past.paid, past.ended, past.success_percent, past.p50_ms), (3, 0, None, None));
    }

    #[test]
    fn quantiles_are_of_the_latest() {
        let takings = Takings::default();
        for n in 1..=100u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            takings.shown(hash, &"ldk".into(), (NOW, NOW.plus_ms(300_000)));
            takings.taken(&hash, NOW.plus_ms(n * 10));
        }
        let figures = takings.figures("ldk", NOW.plus_ms(1_000));
        assert_eq!((figures.p50_ms, figures.p99_ms), (Some(500), Some(990)));
    }
}
