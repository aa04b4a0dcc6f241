//! Budgets: counters of what is held and of what was spent, over exact rolling windows.
//!
//! A counter has one key (a budget and the concrete values of its scope, or a grant). What is
//! held counts for as long as it is held; what was spent counts from its capture until the window
//! has passed.
//! INVARIANT: held + spent within any window ≤ limit, at each moment at which something is
//! admitted, and nothing else raises the sum.
//! INVARIANT: only the writer changes a counter, at moments that never go back.
#![deny(clippy::arithmetic_side_effects)]

use crate::{fault::Fault, schema::int, schema::uint};
use countersign_core::{
    grant::Grant,
    ledger::{Charge, Window},
    money::Micros,
    time::UnixMs,
};
use rusqlite::Connection;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

/// Entries of one counter beyond which neighbours are joined, at the later's moment.
const ENTRIES_MAX: usize = 1 << 16;

/// All counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_key: HashMap<String, usize>,
    all: Vec<Counter>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct Counter {
    /// Row, once it has one.
    id: Option<i64>,
    key: String,
    held: u64,
    /// Spent ever.
    total: u64,
    longest_ms: u64,
    // INVARIANT: in the order of their moments.
    entries: VecDeque<Entry>,
    /// Entries that were dropped from the front; the absolute index of the first one kept.
    dropped: u64,
    cursors: Vec<Cursor>,
    /// Spent in this batch: not yet a row.
    fresh: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    micros: u64,
}

/// The sum over one window.
#[derive(Clone, Debug)]
struct Cursor {
    window: Window,
    /// Absolute index of the first entry within the window.
    first: u64,
    sum: u64,
}

/// The windows of a grant as charges on its counter.
pub(crate) fn grant_charges(grant: &Grant) -> Vec<Charge> {
    let key = grant_key(grant);
    let charge = |window: &countersign_core::grant::WindowLimit| {
        Charge::hard(key.clone(), window.limit, Window::Rolling(window.length_ms))
    };
    grant.terms.windows.iter().map(charge).collect()
}

fn grant_key(grant: &Grant) -> String {
    format!("grant:{}", grant.id)
}

/// The distinct keys under which a call is counted.
pub(crate) fn keys(charges: &[Charge], grants: &[Arc<Grant>]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(charges.len().saturating_add(1));
    for charge in charges {
        if !keys.contains(&charge.key) {
            keys.push(charge.key.clone());
        }
    }
    let windowed = grants.iter().filter(|grant| !grant.terms.windows.is_empty());
    keys.extend(windowed.map(|grant| grant_key(grant)));
    keys
}

impl Counters {
    /// What a charge leaves at `now`.
    pub(crate) fn room(&self, charge: &Charge, now: UnixMs) -> Micros {
        let counter = self.by_key.get(&charge.key).and_then(|index| self.all.get(*index));
        let used = counter.map_or(0, |counter| counter.used(&charge.window, now));
        Micros(charge.limit.0.saturating_sub(used))
    }

    /// The charges of which `amount` is the first to reach the part that is to be noted.
    pub(crate) fn warned<'a>(
        &self,
        charges: &'a [Charge],
        amount: Micros,
        now: UnixMs,
    ) -> Vec<&'a Charge> {
        let reaches = |charge: &&Charge| {
            let used = charge.limit.0.saturating_sub(self.room(charge, now).0);
            let then = Micros(used.saturating_add(amount.0));
            charge.warns_at(then) && !charge.warns_at(Micros(used))
        };
        charges.iter().filter(reaches).collect()
    }

    /// The first charge that `amount` does not fit into.
    pub(crate) fn first_exceeded<'a>(
        &self,
        charges: &'a [Charge],
        amount: Micros,
        now: UnixMs,
    ) -> Option<&'a Charge> {
        charges.iter().find(|charge| self.room(charge, now) < amount)
    }

    /// Every charge that `amount` does not fit into.
    pub(crate) fn exceeded<'a>(
        &self,
        charges: &'a [Charge],
        amount: Micros,
        now: UnixMs,
    ) -> Vec<&'a Charge> {
        charges.iter().filter(|charge| self.room(charge, now) < amount).collect()
    }

    /// Watches the charges' windows from now on.
    pub(crate) fn watch(&mut self, charges: &[Charge]) {
        for charge in charges {
            let index = self.index(&charge.key);
            if self.all.get_mut(index).is_some_and(|counter| counter.watch(&charge.window)) {
                self.dirty.insert(index);
            }
        }
    }

    /// Holds `amount` under each key.
    pub(crate) fn hold(&mut self, keys: &[String], amount: Micros) {
        for key in keys {
            let index = self.index(key);
            if let Some(counter) = self.all.get_mut(index) {
                counter.held = counter.held.saturating_add(amount.0);
            }
        }
    }

    /// Ends a hold; `spent` of it counts from now on.
    pub(crate) fn close(&mut self, keys: &[String], held: Micros, spent: Micros, now: UnixMs) {
        for key in keys {
            let index = self.index(key);
            let Some(counter) = self.all.get_mut(index) else { continue };
            counter.held = counter.held.saturating_sub(held.0);
            if spent.0 > 0 {
                counter.spend(spent.0, now);
                self.dirty.insert(index);
            }
        }
    }

    /// Gives back what was refunded, to what counts from the beginning. Rolling windows keep it:
    /// taking it out of a later window than the one it fell into would admit too much.
    pub(crate) fn refund(&mut self, keys: &[String], spent: Micros) {
        for key in keys {
            let index = self.index(key);
            if let Some(counter) = self.all.get_mut(index) {
                counter.total = counter.total.saturating_sub(spent.0);
                self.dirty.insert(index);
            }
        }
    }

    fn index(&mut self, key: &str) -> usize {
        if let Some(index) = self.by_key.get(key) {
            return *index;
        }
        let index = self.all.len();
        self.all.push(Counter::new(key));
        self.by_key.insert(key.to_owned(), index);
        index
    }

    /// What this batch changed.
    pub(crate) fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut dirty = Vec::with_capacity(self.dirty.len());
        for index in std::mem::take(&mut self.dirty) {
            let Some(counter) = self.all.get_mut(index) else { continue };
            let fresh = std::mem::take(&mut counter.fresh);
            dirty.push(Dirty {
                index,
                id: counter.id,
                key: counter.id.is_none().then(|| counter.key.clone()),
                total: counter.total,
                longest_ms: counter.longest_ms,
                fresh: if counter.longest_ms > 0 { fresh } else { 0 },
            });
        }
        dirty
    }

    /// Takes the rows that new counters got.
    pub(crate) fn set_ids(&mut self, ids: Vec<(usize, i64)>) {
        for (index, id) in ids {
            if let Some(counter) = self.all.get_mut(index) {
                counter.id = Some(id);
            }
        }
    }

    /// Forgets what left every window. Returns the moment before which no counter counts anything:
    /// rows of a shorter window than the longest stay until then.
    pub(crate) fn prune(&mut self, now: UnixMs) -> u64 {
        for counter in &mut self.all {
            counter.advance(now);
        }
        let longest_ms = self.all.iter().map(|counter| counter.longest_ms).max().unwrap_or(0);
        edge(&Window::Rolling(longest_ms), now)
    }

    /// Reads all counters, with what their windows still hold.
    pub(crate) fn load(conn: &Connection, now: UnixMs) -> Result<Self, Fault> {
        let mut counters = Self::default();
        let mut by_id = HashMap::new();
        let mut statement = conn.prepare("SELECT id, key, total, longest_ms FROM counters")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let key: String = row.get(1)?;
            let index = counters.index(&key);
            let Some(counter) = counters.all.get_mut(index) else { continue };
            counter.id = Some(id);
            counter.total = uint(row, 2)?;
            counter.watch(&Window::Rolling(uint(row, 3)?));
            by_id.insert(id, index);
        }
        let mut statement = conn.prepare("SELECT counter, at, micros FROM spends ORDER BY at")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let index = by_id.get(&row.get(0)?).copied().ok_or(Fault::Corrupt("spend"))?;
            let (at, micros) = (uint(row, 1)?, uint(row, 2)?);
            let Some(counter) = counters.all.get_mut(index) else { continue };
            if at >= edge(&Window::Rolling(counter.longest_ms), now) {
                counter.push(Entry { at, micros });
            }
        }
        Ok(counters)
    }

    /// Held, spent ever, and the entries of one key.
    pub(crate) fn inspect(&self, key: &str) -> Option<(u64, u64, u64)> {
        let counter = self.by_key.get(key).and_then(|index| self.all.get(*index))?;
        let entries = counter.entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.micros));
        Some((counter.held, counter.total, entries))
    }

    /// What was spent within a charge's window, in the order of time; nothing for a window that has
    /// no beginning in time.
    pub(crate) fn spends(&self, charge: &Charge, now: UnixMs) -> Vec<(UnixMs, Micros)> {
        let counter = self.by_key.get(&charge.key).and_then(|index| self.all.get(*index));
        let edge = match &charge.window {
            Window::Rolling(_) | Window::Fixed(_) => edge(&charge.window, now),
            Window::PerCall | Window::Lifetime | Window::Session => return Vec::new(),
        };
        let entries = counter.into_iter().flat_map(|counter| &counter.entries);
        let within = entries.skip_while(|entry| entry.at < edge);
        within.map(|entry| (UnixMs(entry.at), Micros(entry.micros))).collect()
    }

    /// The latest moment of any entry.
    pub(crate) fn latest(&self) -> UnixMs {
        let last = |counter: &Counter| counter.entries.back().map(|entry| entry.at);
        UnixMs(self.all.iter().filter_map(last).max().unwrap_or(0))
    }
}

impl Counter {
    fn new(key: &str) -> Self {
        Self {
            id: None,
            key: key.to_owned(),
            held: 0,
            total: 0,
            longest_ms: 0,
            entries: VecDeque::new(),
            dropped: 0,
            cursors: Vec::new(),
            fresh: 0,
        }
    }

    /// Held, and spent within the window that ends now.
    fn used(&self, window: &Window, now: UnixMs) -> u64 {
        let spent = match window {
            // Nothing of another call counts.
            Window::PerCall => return 0,
            Window::Lifetime | Window::Session => self.total,
            Window::Rolling(_) | Window::Fixed(_) => self.spent_within(window, now),
        };
        self.held.saturating_add(spent)
    }

    fn spent_within(&self, window: &Window, now: UnixMs) -> u64 {
        let cursor = self.cursors.iter().find(|cursor| cursor.window == *window);
        let (first, sum) = match cursor {
            Some(cursor) => (cursor.first, cursor.sum),
            None => (self.dropped, self.sum_from(self.dropped)),
        };
        let skip = usize::try_from(first.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        let edge = edge(window, now);
        let passed = self.entries.iter().skip(skip).take_while(|entry| entry.at < edge);
        passed.fold(sum, |sum, entry| sum.saturating_sub(entry.micros))
    }

    fn sum_from(&self, first: u64) -> u64 {
        let skip = usize::try_from(first.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).fold(0, |sum, entry| sum.saturating_add(entry.micros))
    }

    /// Keeps a sum for this window from now on; whether it is the longest so far.
    fn watch(&mut self, window: &Window) -> bool {
        let length_ms = match window {
            Window::Rolling(length_ms) => *length_ms,
            Window::Fixed(calendar) => calendar.longest_ms(),
            Window::PerCall | Window::Lifetime | Window::Session => 0,
        };
        if length_ms == 0 || self.cursors.iter().any(|cursor| cursor.window == *window) {
            return false;
        }
        let sum = self.sum_from(self.dropped);
        self.cursors.push(Cursor { window: window.clone(), first: self.dropped, sum });
        let longer = length_ms > self.longest_ms;
        self.longest_ms = self.longest_ms.max(length_ms);
        longer
    }

    fn spend(&mut self, micros: u64, now: UnixMs) {
        self.total = self.total.saturating_add(micros);
        self.fresh = self.fresh.saturating_add(micros);
        self.advance(now);
        if !self.cursors.is_empty() {
            self.push(Entry { at: now.0, micros });
        }
    }

    fn push(&mut self, entry: Entry) {
        match self.entries.back_mut() {
            Some(last) if last.at >= entry.at => {
                last.micros = last.micros.saturating_add(entry.micros);
            }
            _ => self.entries.push_back(entry),
        }
        for cursor in &mut self.cursors {
            cursor.sum = cursor.sum.saturating_add(entry.micros);
        }
        if self.entries.len() > ENTRIES_MAX {
            self.join_neighbours();
        }
    }

    /// Moves each window's edge to `now` and drops what left the longest.
    fn advance(&mut self, now: UnixMs) {
        for cursor in &mut self.cursors {
            let edge = edge(&cursor.window, now);
            loop {
                let offset = usize::try_from(cursor.first.saturating_sub(self.dropped));
                let entry = offset.ok().and_then(|offset| self.entries.get(offset));
                let Some(entry) = entry.filter(|entry| entry.at < edge) else {
                    break;
                };
                cursor.sum = cursor.sum.saturating_sub(entry.micros);
                cursor.first = cursor.first.saturating_add(1);
            }
        }
        let Some(keep) = self.cursors.iter().map(|cursor| cursor.first).min() else { return };
        while self.dropped < keep && self.entries.pop_front().is_some() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Halves the entries: each pair counts from the later's moment, so longer, never shorter.
    fn join_neighbours(&mut self) {
        let mut joined = VecDeque::with_capacity(self.entries.len());
        let mut waiting: Option<Entry> = None;
        for entry in self.entries.drain(..) {
            match waiting.take() {
                None => waiting = Some(entry),
                Some(earlier) => joined.push_back(Entry {
                    at: entry.at,
                    micros: earlier.micros.saturating_add(entry.micros),
                }),
            }
        }
        joined.extend(waiting);
        self.entries = joined;
        self.dropped = 0;
        let total = self.sum_from(0);
        for cursor in &mut self.cursors {
            (cursor.first, cursor.sum) = (0, total);
        }
    }
}

/// A counter that a batch changed.
#[derive(Debug)]
pub(crate) struct Dirty {
    index: usize,
    id: Option<i64>,
    key: Option<String>,
    total: u64,
    longest_ms: u64,
    fresh: u64,
}

/// Writes changed counters and what was spent; returns the rows of new ones.
pub(crate) fn write(
    conn: &Connection,
    dirty: Vec<Dirty>,
    now: UnixMs,
) -> Result<Vec<(usize, i64)>, Fault> {
    let mut ids = Vec::new();
    for counter in dirty {
        let (total, longest) = (int(counter.total), int(counter.longest_ms));
        let id = match counter.id {
            Some(id) => {
                conn.prepare_cached("UPDATE counters SET total = ?, longest_ms = ? WHERE id = ?")?
                    .execute((total, longest, id))?;
                id
            }
            None => {
                conn.prepare_cached(
                    "INSERT INTO counters (key, total, longest_ms) VALUES (?, ?, ?)",
                )?
                .execute((counter.key.unwrap_or_default(), total, longest))?;
                ids.push((counter.index, conn.last_insert_rowid()));
                conn.last_insert_rowid()
            }
        };
        if counter.fresh > 0 {
            conn.prepare_cached(
                "INSERT INTO spends VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET micros = micros + ?3",
            )?
            .execute((int(now.0), id, int(counter.fresh)))?;
        }
    }
    Ok(ids)
}

/// Deletes the spends before a moment that [`Counters::prune`] named.
pub(crate) fn delete_before(conn: &Connection, edge: u64) -> Result<(), Fault> {
    conn.prepare_cached("DELETE FROM spends WHERE at < ?")?.execute([int(edge)])?;
    Ok(())
}

/// The moment before which a spend is outside the window that `now` lies in.
fn edge(window: &Window, now: UnixMs) -> u64 {
    match window {
        Window::Rolling(length_ms) if *length_ms <= now.0 => {
            now.0.saturating_sub(*length_ms).saturating_add(1)
        }
        Window::Fixed(calendar) => calendar.start(now).0,
        Window::Rolling(_) | Window::PerCall | Window::Lifetime | Window::Session => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test")]
    use super::*;
    use crate::schema::{self, STEPS};
    use countersign_core::ledger::{Calendar, Every};
    use proptest::prelude::*;

    fn charge(length_ms: u64, limit: u64) -> Charge {
        Charge::hard("k".into(), Micros(limit), Window::Rolling(length_ms))
    }

    fn hold(counters: &mut Counters, charges: &[Charge], amount: u64) -> Vec<String> {
        let keys = keys(charges, &[]);
        counters.watch(charges);
        counters.hold(&keys, Micros(amount));
        keys
    }

    proptest! {
        /// Whatever is admitted, no window of any position holds more than the limit.
        #[test]
        fn no_window_ever_exceeds(
            steps in prop::collection::vec((0u64..40, 1u64..30, 0u64..30), 1..200),
            limit in 20u64..100,
        ) {
            let (short, long) = (charge(50, limit), charge(170, limit * 2));
            let charges = [short, long];
            let mut counters = Counters::default();
            let (mut now, mut spends) = (0u64, Vec::<(u64, u64)>::new());
            for (pause, amount, part) in steps {
                now += pause;
                if counters.first_exceeded(&charges, Micros(amount), UnixMs(now)).is_some() {
                    continue;
                }
                let keys = hold(&mut counters, &charges, amount);
                let spent = part.min(amount);
                counters.close(&keys, Micros(amount), Micros(spent), UnixMs(now));
                spends.push((now, spent));
                for (length, limit) in [(50, limit), (170, limit * 2)] {
                    for (end, _) in &spends {
                        let within = |at: u64| at <= *end && at + length > *end;
                        let sum: u64 =
                            spends.iter().filter(|(at, _)| within(*at)).map(|(_, m)| m).sum();
                        prop_assert!(sum <= limit);
                    }
                }
            }
        }

        /// The sum kept is the sum that a scan finds.
        #[test]
        fn sums_are_exact(steps in prop::collection::vec((0u64..40, 1u64..30), 1..200)) {
            let charges = [charge(50, u64::MAX), charge(170, u64::MAX)];
            let mut counters = Counters::default();
            let (mut now, mut spends) = (0u64, Vec::<(u64, u64)>::new());
            for (pause, amount) in steps {
                now += pause;
                let keys = hold(&mut counters, &charges, amount);
                counters.close(&keys, Micros(amount), Micros(amount), UnixMs(now));
                spends.push((now, amount));
                for (charge, length) in charges.iter().zip([50, 170]) {
                    for ahead in [0, 7, 60, 200] {
                        let at = now + ahead;
                        let sum: u64 =
                            spends.iter().filter(|(t, _)| t + length > at).map(|(_, m)| m).sum();
                        prop_assert_eq!(counters.room(charge, UnixMs(at)).0, u64::MAX - sum);
                    }
                }
            }
        }
    }

    fn berlin(every: Every, limit: u64) -> Charge {
        let calendar = Calendar { every, zone: "Europe/Berlin".parse().unwrap() };
        Charge::hard("k".into(), Micros(limit), Window::Fixed(calendar))
    }

    proptest! {
        /// Whatever is admitted, no day and no month of the calendar holds more than its limit,
        /// and what is left is what a scan finds.
        #[test]
        fn no_calendar_window_ever_exceeds(
            steps in prop::collection::vec((0u64..40_000_000, 1u64..30), 1..150),
            limit in 20u64..100,
        ) {
            let charges = [berlin(Every::Day, limit), berlin(Every::Month, limit * 4)];
            let start_of = |charge: &Charge, at: u64| match &charge.window {
                Window::Fixed(calendar) => calendar.start(UnixMs(at)).0,
                Window::PerCall | Window::Rolling(_) | Window::Lifetime | Window::Session => 0,
            };
            let mut counters = Counters::default();
            let (mut now, mut spends) = (1_790_000_000_000u64, Vec::<(u64, u64)>::new());
            for (pause, amount) in steps {
                now += pause;
                for charge in &charges {
                    let start = start_of(charge, now);
                    let sum: u64 = spends.iter().filter(|(t, _)| *t >= start).map(|(_, m)| m).sum();
                    prop_assert!(sum <= charge.limit.0);
                    prop_assert_eq!(counters.room(charge, UnixMs(now)).0, charge.limit.0 - sum);
                }
                if counters.first_exceeded(&charges, Micros(amount), UnixMs(now)).is_some() {
                    continue;
                }
                let keys = hold(&mut counters, &charges, amount);
                counters.close(&keys, Micros(amount), Micros(amount), UnixMs(now));
                spends.push((now, amount));
            }
        }
    }

    #[test]
    fn one_call_is_judged_by_itself() {
        let charges = [Charge::hard("k".into(), Micros(10), Window::PerCall)];
        let mut counters = Counters::default();
        for _ in 0..5 {
            assert!(counters.first_exceeded(&charges, Micros(10), UnixMs(1)).is_none());
            hold(&mut counters, &charges, 10);
        }
        assert!(counters.first_exceeded(&charges, Micros(11), UnixMs(1)).is_some());
    }

    #[test]
    fn a_live_hold_counts_beyond_the_window() {
        let charges = [charge(50, 10)];
        let mut counters = Counters::default();
        let keys = hold(&mut counters, &charges, 10);
        assert!(counters.first_exceeded(&charges, Micros(1), UnixMs(1_000)).is_some());
        counters.close(&keys, Micros(10), Micros(10), UnixMs(2_000));
        assert_eq!(counters.room(&charges[0], UnixMs(2_049)), Micros(0));
        assert_eq!(counters.room(&charges[0], UnixMs(2_050)), Micros(10));
    }

    /// The tables of a version, with these spends: counter, moment, micros.
    fn tables(version: usize, columns: &str, spends: &[(i64, i64, i64)]) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&STEPS[..version].concat()).unwrap();
        let counters = "INSERT INTO counters VALUES (1, 'short', 100, 50), (2, 'long', 100, 500)";
        conn.execute_batch(counters).unwrap();
        let insert = format!("INSERT INTO spends {columns} VALUES (?, ?, ?)");
        for row in spends {
            conn.execute(&insert, *row).unwrap();
        }
        conn
    }

    #[test]
    fn an_older_database_keeps_its_spends() {
        let spends = [(1, 1_000, 3), (1, 1_010, 4), (2, 1_000, 5)];
        let conn = tables(16, "(counter, at, micros)", &spends);
        conn.execute_batch(STEPS[16]).unwrap();
        let counters = Counters::load(&conn, UnixMs(1_010)).unwrap();
        assert_eq!(counters.inspect("short"), Some((0, 100, 7)));
        assert_eq!(counters.inspect("long"), Some((0, 100, 5)));
    }

    #[test]
    fn rows_stay_as_long_as_the_longest_window_and_count_only_within_their_own() {
        let spends = [(1, 1_000, 3), (1, 1_490, 4), (2, 1_000, 5)];
        let conn = tables(STEPS.len(), "(counter, at, micros)", &spends);
        let mut counters = Counters::load(&conn, UnixMs(1_499)).unwrap();
        let rows = || schema::one::<i64>(&conn, "SELECT count(*) FROM spends", []).unwrap();
        assert_eq!(counters.inspect("short"), Some((0, 100, 4)));
        assert_eq!(counters.inspect("long"), Some((0, 100, 5)));
        delete_before(&conn, counters.prune(UnixMs(1_499))).unwrap();
        assert_eq!(rows(), Some(3));
        delete_before(&conn, counters.prune(UnixMs(1_539))).unwrap();
        assert_eq!(rows(), Some(1));
        assert_eq!(counters.inspect("short"), Some((0, 100, 4)));
        assert_eq!(counters.inspect("long"), Some((0, 100, 0)));
        delete_before(&conn, counters.prune(UnixMs(1_540))).unwrap();
        assert_eq!(rows(), Some(1), "the longest window has not passed");
        assert_eq!(counters.inspect("short"), Some((0, 100, 0)));
    }

    #[test]
    fn joined_entries_count_longer_never_shorter() {
        let charges = [charge(1 << 40, u64::MAX)];
        let mut counters = Counters::default();
        let count = u64::try_from(ENTRIES_MAX).unwrap() + 10;
        for now in 0..count {
            let keys = hold(&mut counters, &charges, 1);
            counters.close(&keys, Micros(1), Micros(1), UnixMs(now * 2));
        }
        assert_eq!(counters.room(&charges[0], UnixMs(0)).0, u64::MAX - count);
        assert!(counters.all[0].entries.len() <= ENTRIES_MAX);
    }
}
