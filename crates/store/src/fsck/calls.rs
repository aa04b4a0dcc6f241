//! Calls: states and records tell the same story; payments are used as often as they pay for.

use super::{Findings, Invariant, log::AllTold, log::Told};
use crate::{
    calls::{CallFacts, Reservation, state_of, unpack},
    fault::Fault,
    schema::{json, uint},
};
use countersign_core::{
    audit::record::{Kind, Outcome},
    digest::Digest,
    ids::CallId,
    ledger::CallState,
    money::Micros,
};
use rusqlite::Connection;
use std::collections::HashMap;

/// A call's row.
pub(super) struct Row {
    pub(super) n: i64,
    pub(super) call: CallId,
    pub(super) state: CallState,
    pub(super) money: Option<Reservation>,
    pub(super) tenant: String,
    pub(super) records: Vec<u64>,
    pub(super) has_settlement: bool,
    pub(super) spent: Option<Micros>,
    pub(super) paid: Option<u128>,
}

impl Row {
    /// Held by a call that has not ended.
    pub(super) const fn is_held(&self) -> bool {
        matches!(
            self.state,
            CallState::Reserved
                | CallState::Settling
                | CallState::Settled
                | CallState::Starting
                | CallState::Finished
                | CallState::InDoubt
        )
    }

    /// Spent: it counts in budgets and grants.
    pub(super) const fn is_spent(&self) -> bool {
        matches!(self.state, CallState::Captured | CallState::RefundDue)
    }

    /// Released after its result was withheld: its payment stays used.
    const fn is_withheld(&self) -> bool {
        matches!(self.state, CallState::Released) && self.spent.is_some()
    }

    /// Whether its money has moved.
    pub(super) fn is_settled(&self) -> bool {
        self.has_settlement || self.money.as_ref().is_some_and(Reservation::is_prepaid)
    }
}

pub(super) fn read(conn: &Connection) -> Result<Vec<Row>, Fault> {
    let mut statement = conn.prepare(
        "SELECT n, id, state, facts, records, settlement IS NOT NULL, spent, paid FROM calls
         ORDER BY n",
    )?;
    let mut rows = statement.query([])?;
    let mut calls = Vec::new();
    while let Some(row) = rows.next()? {
        let facts: CallFacts = json(row.get_ref(3)?.as_str().unwrap_or(""), "call facts")?;
        let spent: Option<i64> = row.get(6)?;
        let spent = if spent.is_some() { Some(Micros(uint(row, 6)?)) } else { None };
        let paid: Option<[u8; 16]> = row.get(7)?;
        calls.push(Row {
            n: row.get(0)?,
            call: CallId::from_bytes(row.get(1)?),
            state: state_of(row.get(2)?).ok_or(Fault::Corrupt("call state"))?,
            money: facts.money,
            tenant: facts.tenant.to_string(),
            records: unpack(row.get_ref(4)?.as_blob().unwrap_or(&[])),
            has_settlement: row.get(5)?,
            spent,
            paid: paid.map(u128::from_be_bytes),
        });
    }
    Ok(calls)
}

/// Each call's row lists exactly its records, and they are those of its state.
pub(super) fn check_records(calls: &[Row], told: &AllTold, findings: &mut Findings) {
    let empty = Told::default();
    for row in calls {
        let told = told.get(&row.call).unwrap_or(&empty);
        let indices: Vec<u64> = told.records.iter().map(|(seq, _, _)| *seq).collect();
        let what = format!("{}: its row lists other records than the log", row.call);
        findings.unless(indices == row.records, Invariant::RecordsComplete, what);
        let what = format!("{}: its records are not those of `{}`", row.call, row.state.text());
        findings.unless(fits(row, told), Invariant::RecordsComplete, what);
    }
    let known = calls.iter().filter(|row| told.contains_key(&row.call)).count();
    let all = format!("{} calls of the log have no row", told.len().saturating_sub(known));
    findings.unless(known == told.len(), Invariant::RecordsComplete, all);
}

fn fits(row: &Row, told: &Told) -> bool {
    let has = |kind| told.has(kind, None);
    let ended = |outcome| told.has(Kind::LedgerImpact, Some(outcome));
    let allowed = has(Kind::Quote) && has(Kind::Consent) && has(Kind::Decision);
    let ran = allowed && has(Kind::InvocationStart) && has(Kind::InvocationResult);
    let open = allowed && !has(Kind::LedgerImpact);
    match row.state {
        CallState::Refused => has(Kind::Refusal) && !has(Kind::InvocationStart),
        CallState::Reserved | CallState::Settling | CallState::Settled => {
            open && !has(Kind::InvocationStart)
        }
        CallState::Starting => open && has(Kind::InvocationStart) && !has(Kind::InvocationResult),
        CallState::Finished => open && ran,
        CallState::Captured => ran && ended(Outcome::Captured),
        CallState::Released => {
            let is_whole = ran || !has(Kind::InvocationStart);
            allowed && is_whole && ended(Outcome::Released)
        }
        CallState::InDoubt => open && told.has(Kind::InvocationResult, Some(Outcome::InDoubt)),
        CallState::RefundDue => allowed && ended(Outcome::RefundDue) && !has(Kind::Refund),
        CallState::Refunded => allowed && ended(Outcome::RefundDue) && has(Kind::Refund),
    }
}

/// A payment's uses are those of the calls that carry it and were not released (work is spent all
/// the same), and no more than it pays for.
pub(super) fn check_nonces(
    conn: &Connection,
    calls: &[Row],
    findings: &mut Findings,
) -> Result<(), Fault> {
    let mut expected: HashMap<Digest, u64> = HashMap::new();
    for row in calls {
        let nonce = row.money.as_ref().and_then(|money| money.nonce);
        let is_work = row.money.as_ref().is_some_and(Reservation::is_work);
        let is_used = row.state != CallState::Released || row.is_withheld() || is_work;
        if let Some((key, _)) = nonce.filter(|_| is_used) {
            let count = expected.entry(key).or_default();
            *count = count.saturating_add(1);
        }
    }
    let mut statement = conn.prepare("SELECT key, uses, max_uses FROM nonces")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = Digest::from_bytes(row.get(0)?);
        let (uses, max_uses) = (uint(row, 1)?, uint(row, 2)?);
        let counted = expected.remove(&key).unwrap_or(0);
        let what = format!("{key}: {uses} uses, {counted} calls, pays for {max_uses}");
        findings.unless(uses == counted && uses <= max_uses, Invariant::NonceOnce, what);
    }
    for key in expected.keys() {
        findings.add(Invariant::NonceOnce, format_args!("{key}: used but not counted"));
    }
    Ok(())
}

/// Outcomes are those of calls that ran.
pub(super) fn check_outcomes(
    conn: &Connection,
    calls: &[Row],
    findings: &mut Findings,
) -> Result<(), Fault> {
    let states: HashMap<i64, CallState> = calls.iter().map(|row| (row.n, row.state)).collect();
    let mut statement = conn.prepare("SELECT n FROM outcomes")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let state = states.get(&row.get(0)?);
        let holds = matches!(state, Some(CallState::Captured | CallState::Finished));
        findings.unless(holds, Invariant::OutcomesOwned, "an outcome without its call");
    }
    Ok(())
}
