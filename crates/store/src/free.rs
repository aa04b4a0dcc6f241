//! Calls for work: how many each subject has had today.
//!
//! INVARIANT: a call for work is counted in the transaction that reserves it, and never given back:
//! one that fails must not let its caller call again for the same work.

use crate::{
    fault::Fault,
    schema::{int, one},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    proof::FreeUse,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::Connection;

const DAY_MS: u64 = 24 * 3_600_000;

/// Days since the epoch, in UTC.
pub(crate) const fn day(now: UnixMs) -> u64 {
    now.0 / DAY_MS
}

fn used(conn: &Connection, subject: Digest, now: UnixMs) -> Result<u32, Fault> {
    let sql = "SELECT calls FROM free_calls WHERE day = ? AND subject = ?";
    let calls: Option<i64> = one(conn, sql, (int(day(now)), subject.as_bytes()))?;
    Ok(calls.and_then(|calls| u32::try_from(calls).ok()).unwrap_or(0))
}

/// Whether the subject has a call left today.
pub(crate) fn check(batch: &Batch<'_>, free: FreeUse) -> Result<Result<(), Refusal>, Fault> {
    let is_left = used(batch.conn, free.subject, batch.now)? < free.daily_quota;
    Ok(if is_left { Ok(()) } else { Err(quota_used(free.daily_quota)) })
}

/// Counts a call.
pub(crate) fn count(batch: &Batch<'_>, free: FreeUse) -> Result<(), Fault> {
    batch
        .conn
        .prepare_cached(
            "INSERT INTO free_calls VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET calls = calls + 1",
        )?
        .execute((int(day(batch.now)), free.subject.as_bytes()))?;
    Ok(())
}

/// The day's quota is used up.
#[must_use]
pub fn quota_used(daily_quota: u32) -> Refusal {
    Refusal::new(Code::FreeQuotaUsed).with("daily_quota", daily_quota)
}

impl Store {
    /// How many calls for work a subject has had today.
    ///
    /// # Errors
    /// `StoreFault` when the disk cannot be read.
    pub fn free_calls(&self, subject: Digest, now: UnixMs) -> Result<u32, Refusal> {
        self.read(|conn| used(conn, subject, now))
    }
}
