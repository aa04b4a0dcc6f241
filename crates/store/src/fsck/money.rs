//! Money: balances follow from transfers, transfers from calls; budgets and grants from both.

use super::{
    Findings, Invariant,
    calls::Row,
    log::{AllTold, Told},
};
use crate::{
    accounts::{AccountName, Balance, Step, read_balances},
    calls::Course,
    fault::Fault,
    grants::Grants,
    schema::{json, uint},
};
use countersign_core::{
    grant::Grant,
    ids::{CallId, GrantId, TransferId},
    ledger::CallState,
    money::Micros,
};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Tenant, asset, account.
type Key = (String, String, String);

/// Transfers balance, pending ones end once, and rows, records and calls agree. Gives their number.
pub(super) fn check_transfers(
    conn: &Connection,
    calls: &[Row],
    told: &AllTold,
    findings: &mut Findings,
) -> Result<usize, Fault> {
    let stored: BTreeMap<i64, Balance> = read_balances(conn)?.into_iter().collect();
    let mut computed: BTreeMap<i64, Balance> = stored.clone();
    for balance in computed.values_mut() {
        balance.posted_minor = 0;
        balance.pending_in_minor = 0;
        balance.pending_out_minor = 0;
    }
    let mut booked: HashMap<Vec<u8>, HashSet<TransferId>> = HashMap::new();
    let mut pending: HashMap<TransferId, u128> = HashMap::new();
    let mut statement = conn.prepare(
        "SELECT id, subject, kind, debit, credit, minor, pending FROM transfers ORDER BY kind",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = TransferId::from_bytes(row.get(0)?);
        let minor = u128::from_be_bytes(row.get(5)?);
        let of: Option<[u8; 16]> = row.get(6)?;
        let step = step_of(row.get(2)?, of).ok_or(Fault::Corrupt("transfer"))?;
        booked.entry(row.get(1)?).or_default().insert(id);
        match step {
            Step::Post => {}
            Step::Pend => drop(pending.insert(id, minor)),
            Step::PostPending(of) | Step::VoidPending(of) => {
                let what = format!("{id}: ends what is not pending");
                findings.unless(
                    pending.remove(&of) == Some(minor),
                    Invariant::MoneyConserved,
                    what,
                );
            }
        }
        let (debit, credit): (i64, i64) = (row.get(3)?, row.get(4)?);
        if !apply(&mut computed, (debit, credit), minor, step) {
            findings.add(Invariant::MoneyConserved, format_args!("{id}: unfit accounts"));
        }
    }
    for (id, balance) in &stored {
        let what = format!("account {id} ({}) differs from its transfers", balance.account);
        findings.unless(computed.get(id) == Some(balance), Invariant::MoneyConserved, what);
    }
    check_sums(&stored, calls, findings);
    check_told(&booked, told, findings);
    Ok(booked.values().map(HashSet::len).sum())
}

fn step_of(number: i64, of: Option<[u8; 16]>) -> Option<Step> {
    let of = of.map(TransferId::from_bytes);
    match (number, of) {
        (0, None) => Some(Step::Post),
        (1, None) => Some(Step::Pend),
        (2, Some(of)) => Some(Step::PostPending(of)),
        (3, Some(of)) => Some(Step::VoidPending(of)),
        _ => None,
    }
}

/// Both accounts must be there, of one tenant and asset.
fn apply(
    balances: &mut BTreeMap<i64, Balance>,
    (debit, credit): (i64, i64),
    minor: u128,
    step: Step,
) -> bool {
    let place = |b: &Balance| (b.tenant.clone(), b.asset.clone());
    let places = (balances.get(&debit).map(place), balances.get(&credit).map(place));
    if places.0.is_none() || places.0 != places.1 {
        return false;
    }
    let debited = balances.get_mut(&debit).is_some_and(|b| b.debit(minor, step).is_ok());
    let credited = balances.get_mut(&credit).is_some_and(|b| b.credit(minor, step).is_ok());
    debited && credited
}

/// All posted balances of a tenant and asset sum to zero; what is held, in suspense and pending
/// is that of the calls in those states.
fn check_sums(stored: &BTreeMap<i64, Balance>, calls: &[Row], findings: &mut Findings) {
    let mut sums: HashMap<(String, String), (i128, i128)> = HashMap::new();
    let mut actual: HashMap<Key, (i128, u128)> = HashMap::new();
    for balance in stored.values() {
        let place = (balance.tenant.to_string(), balance.asset.to_string());
        let sum = sums.entry(place.clone()).or_default();
        sum.0 = sum.0.saturating_add(balance.posted_minor);
        let pending = |minor| i128::try_from(minor).unwrap_or(i128::MAX);
        sum.1 = sum.1.saturating_add(pending(balance.pending_in_minor));
        sum.1 = sum.1.saturating_sub(pending(balance.pending_out_minor));
        let is_spent_once =
            balance.posted_minor >= 0 || !matches!(balance.account, AccountName::Credit(_));
        let what = format!("{}: more was spent than there was", balance.account);
        findings.unless(is_spent_once, Invariant::MoneyConserved, what);
        let key = (place.0, place.1, balance.account.to_string());
        actual.insert(key, (balance.posted_minor, balance.pending_in_minor));
    }
    for ((tenant, asset), sum) in &sums {
        let what = format!("{tenant}, {asset}: balances do not sum to zero");
        findings.unless(*sum == (0, 0), Invariant::MoneyConserved, what);
    }
    let mut expected: HashMap<Key, (i128, u128)> = HashMap::new();
    for row in calls {
        expect(row, &mut expected);
        let price = row.money.as_ref().and_then(|money| money.price.as_ref());
        let reserved = price.map_or(0, |price| price.amount.minor);
        let fits = row.paid.is_none_or(|paid| paid <= reserved);
        let what = format!("{}: captured more than reserved", row.call);
        findings.unless(fits, Invariant::MoneyConserved, what);
    }
    let watched = [AccountName::Held.to_string(), AccountName::Suspense.to_string()];
    for (key, found) in &actual {
        let wanted = expected.remove(key).unwrap_or_default();
        let what = format!("{key:?}: calls account for {wanted:?}, booked are {found:?}");
        let holds = !watched.contains(&key.2) || *found == wanted;
        findings.unless(holds, Invariant::MoneyConserved, what);
    }
    expected.retain(|_, wanted| *wanted != (0, 0));
    for key in expected.keys() {
        findings.add(Invariant::MoneyConserved, format_args!("{key:?}: account missing"));
    }
}

/// Adds what a live call holds: posted when the money has moved, pending before.
fn expect(row: &Row, expected: &mut HashMap<Key, (i128, u128)>) {
    let Some(money) = row.money.as_ref().filter(|_| row.is_held()) else { return };
    let Some(price) = &money.price else { return };
    // What the treasury pays is booked when it has moved.
    if money.course == Course::Treasury && !row.is_settled() {
        return;
    }
    let account = match row.state {
        CallState::InDoubt if row.is_settled() => AccountName::Suspense,
        CallState::InDoubt
        | CallState::Reserved
        | CallState::Settling
        | CallState::Settled
        | CallState::Starting
        | CallState::Finished
        | CallState::Refused
        | CallState::Captured
        | CallState::Released
        | CallState::RefundDue
        | CallState::Refunded => AccountName::Held,
    };
    let key = (row.tenant.clone(), price.amount.asset.to_string(), account.to_string());
    let sum = expected.entry(key).or_default();
    let minor = price.amount.minor;
    let is_posted = row.is_settled() && money.course != Course::Free;
    if is_posted {
        sum.0 = sum.0.saturating_add(i128::try_from(minor).unwrap_or(i128::MAX));
    } else {
        sum.1 = sum.1.saturating_add(minor);
    }
}

/// The transfers that a call's records name are exactly those that were booked for it.
fn check_told(
    booked: &HashMap<Vec<u8>, HashSet<TransferId>>,
    told: &AllTold,
    findings: &mut Findings,
) {
    let empty = HashSet::new();
    let mut check = |call: CallId, told: &Told| {
        let named: HashSet<TransferId> = told.transfers.iter().copied().collect();
        let rows = booked.get(&call.as_bytes()[..]).unwrap_or(&empty);
        let is_same = named == *rows && named.len() == told.transfers.len();
        let what = format!("{call}: records and postings differ");
        findings.unless(is_same, Invariant::RecordsComplete, what);
    };
    for (call, told) in told {
        check(*call, told);
    }
    for subject in booked.keys() {
        let call = <[u8; 16]>::try_from(subject.as_slice()).map(CallId::from_bytes);
        let is_told = call.map_or(true, |call| told.contains_key(&call));
        findings.unless(is_told, Invariant::RecordsComplete, "a posting without records");
    }
}

/// What treasuries paid back, by the counter of their limits; and each debt that one paid is paid.
fn read_paybacks(conn: &Connection, findings: &mut Findings) -> Result<Vec<(String, u64)>, Fault> {
    let mut statement = conn.prepare(
        "SELECT counter, micros, hex(subject), CASE length(subject)
           WHEN 16 THEN EXISTS (SELECT 1 FROM calls WHERE id = subject AND state = 10)
           ELSE coalesce((SELECT paid FROM refunds WHERE key = subject), 0) END
         FROM paybacks WHERE paid = 1",
    )?;
    let mut rows = statement.query([])?;
    let mut paid = Vec::new();
    while let Some(row) = rows.next()? {
        let what = format!("{}: paid back, and still owed", row.get::<_, String>(2)?);
        findings.unless(row.get(3)?, Invariant::MoneyConserved, what);
        paid.push((row.get(0)?, uint(row, 1)?));
    }
    Ok(paid)
}

/// What each counter spent is the sum over its calls; a rate counts them.
pub(super) fn check_budgets(
    conn: &Connection,
    calls: &[Row],
    findings: &mut Findings,
) -> Result<(), Fault> {
    let paid_back = read_paybacks(conn, findings)?;
    let mut totals: HashMap<&str, u64> = HashMap::new();
    let mut ever: HashMap<&str, u64> = HashMap::new();
    for (key, micros) in &paid_back {
        for count in [&mut ever, &mut totals] {
            let count = count.entry(key).or_default();
            *count = count.saturating_add(*micros);
        }
    }
    for row in calls {
        let Some(money) = &row.money else { continue };
        for key in &money.rates {
            for count in [&mut ever, &mut totals] {
                let count = count.entry(key).or_default();
                *count = count.saturating_add(1);
            }
        }
        if let Some(outward) = money.outward.as_ref().filter(|_| row.state != CallState::Settling) {
            for count in [&mut ever, &mut totals] {
                let count = count.entry(&outward.key).or_default();
                *count = count.saturating_add(outward.micros.0);
            }
        }
        let spent = row.spent.unwrap_or_default().0;
        for key in &money.counters {
            let sum = ever.entry(key).or_default();
            *sum = sum.saturating_add(spent);
            if row.is_spent() {
                let sum = totals.entry(key).or_default();
                *sum = sum.saturating_add(spent);
            }
        }
    }
    let mut statement = conn.prepare(
        "SELECT key, total, coalesce(spent, 0) FROM counters LEFT JOIN
           (SELECT counter, sum(micros) AS spent FROM spends GROUP BY counter) ON counter = id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let (total, entries) = (uint(row, 1)?, uint(row, 2)?);
        let expected = totals.remove(key.as_str()).unwrap_or(0);
        let most = ever.get(key.as_str()).copied().unwrap_or(0);
        let what = format!("counter {key:?}: counted {total}, calls spent {expected}");
        let holds = total == expected && entries <= most;
        findings.unless(holds, Invariant::WithinLimits, what);
    }
    totals.retain(|_, total| *total > 0);
    for key in totals.keys() {
        findings.add(Invariant::WithinLimits, format_args!("counter {key:?} is missing"));
    }
    Ok(())
}

/// A grant's use is that of its calls, and within its limits.
pub(super) fn check_grants(
    conn: &Connection,
    calls: &[Row],
    findings: &mut Findings,
) -> Result<(), Fault> {
    let grants = Grants::load(conn)?;
    let mut uses: HashMap<GrantId, (u64, u64)> = HashMap::new();
    for row in calls {
        let Some(money) = &row.money else { continue };
        let amount = if row.is_held() { money.held } else { row.spent.unwrap_or_default() };
        for grant in money.grant.map(|id| grants.line(id)).unwrap_or_default() {
            let (used, count) = uses.entry(grant.id).or_default();
            if row.is_held() || row.is_spent() {
                *used = used.saturating_add(amount.0);
            }
            if row.state != CallState::Released {
                *count = count.saturating_add(1);
            }
        }
    }
    let mut statement = conn.prepare("SELECT body, used, calls FROM grants")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let grant: Grant = json(row.get_ref(0)?.as_str().unwrap_or(""), "grant")?;
        let found = (uint(row, 1)?, uint(row, 2)?);
        let expected = uses.remove(&grant.id).unwrap_or_default();
        let what = format!("{}: counted {found:?}, its calls say {expected:?}", grant.id);
        findings.unless(found == expected, Invariant::WithinLimits, what);
        let fits = grant.terms.total.is_none_or(|total| Micros(found.0) <= total)
            && grant.terms.max_calls.is_none_or(|max| found.1 <= max);
        let what = format!("{}: over its limit", grant.id);
        findings.unless(fits, Invariant::WithinLimits, what);
    }
    for id in uses.keys() {
        findings.add(Invariant::WithinLimits, format_args!("{id}: used but not stored"));
    }
    Ok(())
}
