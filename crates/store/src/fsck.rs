//! The check of a whole store: does it keep the ledger's invariants?
//!
//! Reads durable rows in one snapshot and computes everything again: the tree from the leaves,
//! balances from transfers, budgets and grants from calls, records from states. It changes
//! nothing, and says what does not fit.

mod calls;
mod log;
mod money;

use crate::{
    fault::{Fault, OpenError},
    open,
    store::Store,
};
use countersign_core::refusal::Refusal;
use rusqlite::Connection;
use serde::Serialize;
use std::{fmt, path::Path};

/// An invariant of the ledger, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// 1: what ran was allowed, consented to, reserved and paid before.
    StartedWithProofs,
    /// 2: a payment is used at most as often as it pays for.
    NonceOnce,
    /// 3: budgets and grants count what calls hold and spent, and no grant is exceeded. What a
    /// budget allows is configuration, and not known here.
    WithinLimits,
    /// 4: debits equal credits; no more is captured than was reserved.
    MoneyConserved,
    /// 6: each call has its records, and records and postings match one to one.
    RecordsComplete,
    /// 8: the log is one growing tree.
    LogConsistent,
    /// 9: an outcome belongs to the call it is stored for.
    OutcomesOwned,
    /// The database itself is sound.
    Database,
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is broken.
    pub invariant: Invariant,
    /// Where and how; identifiers and sums only.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// What was looked at, and what does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Records of the log.
    pub records: u64,
    /// Calls, refused ones too.
    pub calls: usize,
    /// Bookings of money.
    pub transfers: usize,
    /// Empty when all is well.
    pub findings: Vec<Finding>,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, invariant: Invariant, what: impl fmt::Display) {
        self.0.push(Finding { invariant, what: what.to_string() });
    }

    fn unless(&mut self, holds: bool, invariant: Invariant, what: impl fmt::Display) {
        if !holds {
            self.add(invariant, what);
        }
    }
}

/// Checks everything that is durable in a data directory, whether a gateway serves from it or not.
/// Takes time and memory in proportion to its size.
///
/// # Errors
/// [`OpenError::Database`] when there is none;
/// [`OpenError::OlderSchema`], [`OpenError::NewerSchema`].
pub fn fsck(dir: &Path) -> Result<Checked, OpenError> {
    let conn = open::reader(dir)?;
    if !open::steps_from(&conn)?.is_empty() {
        return Err(OpenError::OlderSchema);
    }
    Ok(snapshot(&conn)?)
}

impl Store {
    /// The same of an open store.
    ///
    /// # Errors
    /// `StoreFault` when the database cannot be opened.
    pub fn fsck(&self) -> Result<Checked, Refusal> {
        self.read(snapshot)
    }
}

/// Whatever is committed meanwhile is not seen.
fn snapshot(conn: &Connection) -> Result<Checked, Fault> {
    conn.execute_batch("BEGIN")?;
    let checked = check(conn);
    conn.execute_batch("ROLLBACK")?;
    Ok(checked)
}

/// What cannot be read is a finding, and ends the check.
fn check(conn: &Connection) -> Checked {
    let mut findings = Findings::default();
    let mut checked = Checked::default();
    if let Err(fault) = look(conn, &mut checked, &mut findings) {
        findings.add(Invariant::Database, format_args!("{fault}; nothing after it was looked at"));
    }
    Checked { findings: findings.0, ..checked }
}

fn look(conn: &Connection, checked: &mut Checked, findings: &mut Findings) -> Result<(), Fault> {
    let mut statement = conn.prepare("PRAGMA integrity_check(8)")?;
    for said in statement.query_map([], |row| row.get::<_, String>(0))? {
        let said = said?;
        findings.unless(said == "ok", Invariant::Database, said);
    }
    let (records, told) = log::check(conn, findings)?;
    checked.records = records;
    let calls = calls::read(conn)?;
    checked.calls = calls.len();
    calls::check_records(&calls, &told, findings);
    calls::check_nonces(conn, &calls, findings)?;
    calls::check_outcomes(conn, &calls, findings)?;
    checked.transfers = money::check_transfers(conn, &calls, &told, findings)?;
    money::check_budgets(conn, &calls, findings)?;
    money::check_grants(conn, &calls, findings)
}
