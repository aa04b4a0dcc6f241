//! Budgets that people set while the gateway runs: durable, and recorded with who set them.
//!
//! Those of the configuration are not here; the caller keeps the names apart. What is counted is
//! in [`crate::budgets`].

use crate::{
    fault::Fault,
    grants::admin,
    schema::{json, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    approval::Approver,
    digest::Digest,
    ledger::Budget,
    refusal::{Code, Refusal},
};
use rusqlite::Connection;
use std::{collections::BTreeMap, sync::Arc};

/// Most budgets that can be set: each call looks at all.
const MOST: usize = 1024;

/// The budgets that were set, by name.
#[derive(Debug, Default)]
pub(crate) struct Declared(BTreeMap<Arc<str>, Arc<Budget>>);

impl Declared {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut declared = Self::default();
        let mut statement = conn.prepare("SELECT body FROM budgets")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let budget: Budget = json(row.get_ref(0)?.as_str().unwrap_or(""), "budget")?;
            declared.0.insert(Arc::clone(&budget.name), Arc::new(budget));
        }
        Ok(declared)
    }
}

impl Store {
    /// Sets a budget, or replaces the one of this name. What its counters hold stays counted.
    ///
    /// # Errors
    /// `TooLarge` beyond 1024 budgets; `Overloaded`, `StoreFault`.
    pub async fn budget_set(&self, budget: Budget, by: &Approver) -> Result<Arc<Budget>, Refusal> {
        let by = by.to_string();
        self.enter(move |batch| set(batch, budget, &by)).await?
    }

    /// Ends a budget that was set. Returns whether there was one.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn budget_remove(&self, name: &str, by: &Approver) -> Result<bool, Refusal> {
        let (name, by) = (name.to_owned(), by.to_string());
        self.enter(move |batch| remove(batch, &name, &by)).await
    }

    /// The budgets that were set, by name.
    #[must_use]
    pub fn budgets(&self) -> Vec<Arc<Budget>> {
        self.shared().state().declared.0.values().cloned().collect()
    }
}

fn set(
    batch: &mut Batch<'_>,
    budget: Budget,
    by: &str,
) -> Result<Result<Arc<Budget>, Refusal>, Fault> {
    let state = batch.state();
    let is_new = !state.declared.0.contains_key(&budget.name);
    let is_full = is_new && state.declared.0.len() >= MOST;
    drop(state);
    if is_full {
        return Ok(Err(Refusal::new(Code::TooLarge).with("budgets", MOST)));
    }
    let body = to_json(&budget)?;
    batch
        .conn
        .prepare_cached("INSERT OR REPLACE INTO budgets VALUES (?, ?)")?
        .execute((&*budget.name, &body))?;
    record(batch, &budget, "budget.set", by)?;
    let budget = Arc::new(budget);
    batch.state().declared.0.insert(Arc::clone(&budget.name), Arc::clone(&budget));
    Ok(Ok(budget))
}

fn remove(batch: &mut Batch<'_>, name: &str, by: &str) -> Result<bool, Fault> {
    let Some(budget) = batch.state().declared.0.get(name).cloned() else { return Ok(false) };
    batch.conn.prepare_cached("DELETE FROM budgets WHERE name = ?")?.execute([name])?;
    record(batch, &budget, "budget.remove", by)?;
    batch.state().declared.0.remove(name);
    Ok(true)
}

/// The record names the budget and commits to its terms: they can name people.
fn record(batch: &mut Batch<'_>, budget: &Budget, action: &str, by: &str) -> Result<(), Fault> {
    let terms = Digest::of(to_json(budget)?.as_bytes()).to_hex();
    let details = [("budget", budget.name.to_string()), ("terms", terms)];
    admin(batch, &"gateway".into(), action, by, &details)
}
