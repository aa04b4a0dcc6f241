//! The policy bundle that answers beside the one in force, and what it answered otherwise.
//!
//! INVARIANT: one at most. Setting and ending it are in one transaction with their `admin` record.

use crate::{
    fault::Fault,
    policies::{NewPolicy, record},
    schema::{int, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{digest::Digest, refusal::Refusal, time::UnixMs};
use rusqlite::OptionalExtension as _;

/// The shadow bundle that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptShadow {
    /// The bundle; `by` says who set it.
    pub policy: NewPolicy,
    /// When.
    pub at: UnixMs,
    /// What it answered otherwise, as the gateway writes that down; empty for nothing yet.
    pub report: String,
}

impl Store {
    /// Keeps a shadow bundle in place of any other; durable when this returns.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn shadow_set(&self, new: NewPolicy) -> Result<(), Refusal> {
        self.enter(move |batch| set(batch, &new)).await
    }

    /// Ends the shadow bundle; `false` when there is none.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn shadow_stop(&self, by: &str) -> Result<bool, Refusal> {
        let by = by.to_owned();
        self.enter(move |batch| stop(batch, &by)).await
    }

    /// Writes down what the shadow bundle of this digest answered otherwise; nothing happens when
    /// it is another one by now.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn shadow_report(&self, digest: Digest, report: String) -> Result<(), Refusal> {
        self.enter(move |batch| {
            let sql = "UPDATE shadow SET report = ? WHERE digest = ?";
            batch.conn.prepare_cached(sql)?.execute((&report, digest.as_bytes()))?;
            Ok(())
        })
        .await
    }

    /// The shadow bundle.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn shadow(&self) -> Result<Option<KeptShadow>, Refusal> {
        let sql = "SELECT revision, digest, at, by_whom, body, report FROM shadow";
        self.read(|conn| {
            let kept = conn.prepare_cached(sql)?.query_row([], |row| {
                Ok(KeptShadow {
                    policy: NewPolicy {
                        revision: uint(row, 0)?,
                        digest: Digest::from_bytes(row.get(1)?),
                        by: row.get(3)?,
                        body: row.get(4)?,
                    },
                    at: UnixMs(uint(row, 2)?),
                    report: row.get(5)?,
                })
            });
            Ok(kept.optional()?)
        })
    }
}

fn set(batch: &mut Batch<'_>, new: &NewPolicy) -> Result<(), Fault> {
    batch.conn.prepare_cached("DELETE FROM shadow")?.execute([])?;
    batch.conn.prepare_cached("INSERT INTO shadow VALUES (1, ?, ?, ?, ?, ?, '')")?.execute((
        int(new.revision),
        new.digest.as_bytes(),
        int(batch.now.0),
        &new.by,
        &new.body,
    ))?;
    record(batch, ("policy.shadow.set", &new.by), (new.revision, new.digest), None)
}

fn stop(batch: &mut Batch<'_>, by: &str) -> Result<bool, Fault> {
    let sql = "DELETE FROM shadow RETURNING revision, digest";
    let ended = batch
        .conn
        .prepare_cached(sql)?
        .query_row([], |row| Ok((uint(row, 0)?, Digest::from_bytes(row.get(1)?))));
    let Some(ended) = ended.optional()? else { return Ok(false) };
    record(batch, ("policy.shadow.stop", by), ended, None)?;
    Ok(true)
}
