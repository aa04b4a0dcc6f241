//! Allowances: how often within a minute callers may do something that costs others, counted for
//! who they are and for the address they come from.
//!
//! What was used comes back evenly. Who has no name shares half of an address's allowance with
//! everybody who has none; the other half is left to those who have one, so that a flood from
//! behind the same address does not shut them out.
//!
//! INVARIANT: tables have a limit. Only who has a full allowance again is forgotten; those for whom
//! there is no room share one allowance, so that a crowd of addresses gives nobody a fresh start.

use countersign_core::{digest::Digest, proof::Principal, time::UnixMs};
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    mem,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The span of an allowance.
const MINUTE_MS: u64 = 60_000;
/// Holders remembered of each minute.
const HOLDERS_MAX: usize = 1 << 16;

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    principal: Option<Digest>,
    address: IpAddr,
}

impl Caller {
    /// Somebody at an address; nobody in particular is only the address.
    #[must_use]
    pub fn new(principal: Option<&Principal>, address: IpAddr) -> Self {
        let named = principal.filter(|principal| !principal.is_anonymous());
        Self { principal: named.map(Principal::key), address }
    }
}

/// How often everybody may do one thing.
#[derive(Debug)]
pub struct Allowances(Mutex<Tables>);

#[derive(Debug)]
struct Tables {
    principals: Table<Digest>,
    addresses: Table<IpAddr>,
}

impl Allowances {
    /// So often within a minute: each principal, and each address.
    #[must_use]
    pub fn new(per_principal: u32, per_address: u32) -> Self {
        let (principals, addresses) = (Table::new(per_principal), Table::new(per_address));
        Self(Mutex::new(Tables { principals, addresses }))
    }

    /// Counts once more.
    ///
    /// # Errors
    /// In how many seconds it may be: nothing was counted.
    pub fn take(&self, caller: &Caller, now: UnixMs) -> Result<(), u64> {
        let mut tables = self.lock();
        tables.left(caller, now)?;
        tables.addresses.take(caller.address, now);
        if let Some(principal) = caller.principal {
            tables.principals.take(principal, now);
        }
        Ok(())
    }

    /// Whether once more is allowed.
    ///
    /// # Errors
    /// In how many seconds it is.
    pub fn left(&self, caller: &Caller, now: UnixMs) -> Result<(), u64> {
        self.lock().left(caller, now)
    }

    /// What was counted once was all right in the end.
    pub fn give_back(&self, caller: &Caller, now: UnixMs) {
        let mut tables = self.lock();
        tables.addresses.give_back(&caller.address, now);
        if let Some(principal) = caller.principal {
            tables.principals.give_back(&principal, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn left(&self, caller: &Caller, now: UnixMs) -> Result<(), u64> {
        let whole = self.addresses.per_minute;
        let own = caller.principal.map_or(0, |principal| {
            self.principals.wait_ms(&principal, self.principals.per_minute, now)
        });
        let most = if caller.principal.is_some() { whole } else { whole.div_ceil(2) };
        let wait_ms = own.max(self.addresses.wait_ms(&caller.address, most, now));
        if wait_ms == 0 { Ok(()) } else { Err(wait_ms.div_ceil(1000)) }
    }
}

/// What was used of an allowance, as it stood at a moment: each use is [`MINUTE_MS`], of which as
/// much as there is in a minute comes back each millisecond.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    debt: u64,
    at: UnixMs,
}

/// The allowance of each holder. What is young was used in this minute, what is old in the one
/// before.
#[derive(Debug)]
struct Table<K> {
    per_minute: u64,
    young: HashMap<K, Used>,
    old: HashMap<K, Used>,
    since: UnixMs,
    /// Of all those for whom there is no room.
    others: Used,
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn new(per_minute: u32) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        Self {
            per_minute: per_minute.into(),
            young,
            old,
            since: UnixMs(0),
            others: Used::default(),
        }
    }

    fn debt(&self, used: Used, now: UnixMs) -> u64 {
        let back = now.since_ms(used.at).saturating_mul(self.per_minute);
        used.debt.saturating_sub(back)
    }

    /// How long until the holder may be counted once more and has used `most` at the most.
    fn wait_ms(&self, holder: &K, most: u64, now: UnixMs) -> u64 {
        let has_room = self.young.len() < HOLDERS_MAX;
        let young = self.young.get(holder).copied();
        let known = young.or_else(|| self.old.get(holder).copied().filter(|_| has_room));
        let used = known.unwrap_or(if has_room { Used::default() } else { self.others });
        let then = self.debt(used, now).saturating_add(MINUTE_MS);
        then.saturating_sub(most.saturating_mul(MINUTE_MS)).div_ceil(self.per_minute.max(1))
    }

    fn take(&mut self, holder: K, now: UnixMs) {
        self.turn(now);
        let per_minute = self.per_minute;
        let known = self.old.remove(&holder);
        let has_room = self.young.len() < HOLDERS_MAX;
        let used = match self.young.entry(holder) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if has_room => entry.insert(known.unwrap_or_default()),
            Entry::Vacant(_) => &mut self.others,
        };
        let back = now.since_ms(used.at).saturating_mul(per_minute);
        let debt = used.debt.saturating_sub(back).saturating_add(MINUTE_MS);
        *used = Used { debt, at: now.max(used.at) };
    }

    fn give_back(&mut self, holder: &K, now: UnixMs) {
        self.turn(now);
        for table in [&mut self.young, &mut self.old] {
            let Some(used) = table.get_mut(holder) else { continue };
            used.debt = used.debt.saturating_sub(MINUTE_MS);
            if used.debt == 0 {
                table.remove(holder);
            }
            return;
        }
    }

    /// A minute is over. Whoever is old now has not been counted for that long: what they used has
    /// come back, and they are forgotten.
    fn turn(&mut self, now: UnixMs) {
        if now.since_ms(self.since) >= MINUTE_MS {
            self.old = mem::take(&mut self.young);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + n).into()
    }

    fn nobody(n: u32) -> Caller {
        Caller::new(Some(&Principal::anonymous()), address(n))
    }

    fn agent(name: &str, n: u32) -> Caller {
        let principal = Principal { agent: name.into(), ..Principal::anonymous() };
        Caller::new(Some(&principal), address(n))
    }

    fn taken(allowances: &Allowances, caller: &Caller, now: UnixMs) -> usize {
        (0..10_000).take_while(|_| allowances.take(caller, now).is_ok()).count()
    }

    #[test]
    fn a_principal_has_so_many_a_minute_and_they_come_back_evenly() {
        let allowances = Allowances::new(60, 1_000);
        let (alice, bob) = (agent("alice", 1), agent("bob", 1));
        assert_eq!(taken(&allowances, &alice, NOW), 60);
        assert_eq!(allowances.take(&alice, NOW), Err(1));
        assert_eq!(taken(&allowances, &bob, NOW), 60, "another one is not concerned");
        assert_eq!(taken(&allowances, &alice, NOW.plus_ms(999)), 0);
        assert_eq!(taken(&allowances, &alice, NOW.plus_ms(3_000)), 3);
        assert_eq!(taken(&allowances, &alice, NOW.plus_ms(63_000)), 60);
        assert_eq!(allowances.take(&agent("alice", 2), NOW.plus_ms(63_000)), Err(1), "elsewhere");
    }

    #[test]
    fn a_minute_with_few_says_how_long_they_take() {
        let allowances = Allowances::new(2, 1_000);
        let alice = agent("alice", 1);
        assert_eq!(taken(&allowances, &alice, NOW), 2);
        assert_eq!(allowances.take(&alice, NOW), Err(30));
        assert_eq!(allowances.left(&alice, NOW.plus_ms(29_000)), Err(1));
        assert_eq!(allowances.left(&alice, NOW.plus_ms(30_000)), Ok(()));
    }

    #[test]
    fn those_without_a_name_share_half_of_their_address() {
        let allowances = Allowances::new(1_000, 100);
        assert_eq!(taken(&allowances, &nobody(1), NOW), 50);
        assert_eq!(taken(&allowances, &nobody(2), NOW), 50, "another address is not concerned");
        assert_eq!(taken(&allowances, &agent("alice", 1), NOW), 50, "what is left of the address");
        assert_eq!(taken(&allowances, &agent("bob", 1), NOW), 0);
    }

    #[test]
    fn what_was_refused_is_not_counted_and_what_was_given_back_is_had_again() {
        let allowances = Allowances::new(10, 1_000);
        let alice = agent("alice", 1);
        assert_eq!(taken(&allowances, &alice, NOW), 10);
        for _ in 0..100 {
            assert!(allowances.take(&alice, NOW).is_err());
        }
        assert_eq!(allowances.left(&alice, NOW.plus_ms(6_000)), Ok(()));
        allowances.give_back(&alice, NOW);
        assert_eq!(taken(&allowances, &alice, NOW), 1);
        for _ in 0..100 {
            allowances.give_back(&alice, NOW);
        }
        assert_eq!(taken(&allowances, &alice, NOW), 10, "never more than all of it");
    }

    #[test]
    fn a_crowd_makes_nobody_forgotten_and_shares_one_allowance_where_it_is_too_large() {
        let allowances = Allowances::new(1_000, 4);
        assert_eq!(taken(&allowances, &nobody(0), NOW), 2);
        let most = u32::try_from(HOLDERS_MAX).unwrap();
        for n in 1..most {
            assert!(allowances.take(&nobody(n), NOW).is_ok());
        }
        assert!(allowances.take(&nobody(0), NOW.plus_ms(1)).is_err(), "still known");
        let late: usize = (most..most + 50).map(|n| taken(&allowances, &nobody(n), NOW)).sum();
        assert_eq!(late, 2, "all of them together");
        let tables = allowances.lock();
        assert_eq!(tables.addresses.young.len(), HOLDERS_MAX);
        drop(tables);
        let later = NOW.plus_ms(2 * MINUTE_MS);
        assert_eq!(taken(&allowances, &nobody(most + 1), later), 2, "there is room again");
        assert!(allowances.lock().addresses.old.len() <= HOLDERS_MAX);
    }

    #[test]
    fn whoever_was_counted_in_the_minute_before_is_known_in_the_next() {
        let allowances = Allowances::new(60, 1_000);
        let (alice, bob) = (agent("alice", 1), agent("bob", 2));
        assert_eq!(taken(&allowances, &bob, NOW), 60);
        assert_eq!(taken(&allowances, &alice, NOW.plus_ms(59_999)), 60);
        assert_eq!(taken(&allowances, &bob, NOW.plus_ms(60_000)), 60, "a turn of the table");
        assert_eq!(taken(&allowances, &alice, NOW.plus_ms(60_999)), 1);
    }
}
