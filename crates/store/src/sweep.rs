//! The sweep, once a minute: what ended is booked, forgotten or deleted, a bounded part at a time.

use crate::{
    budgets, credentials,
    fault::Fault,
    free,
    schema::int,
    writer::{Answer, Batch, Job},
};

/// Rows deleted from one table in one sweep.
const ROWS: i64 = 4096;
/// How long the row of an expired quote is kept, in milliseconds.
const QUOTE_KEEP_MS: u64 = 7 * 24 * 3_600_000;
/// How long the row of an expired credential that was never used is kept, in milliseconds.
const CREDENTIAL_KEEP_MS: u64 = 30 * 24 * 3_600_000;
/// How long the row of an ended approval is kept, in milliseconds.
const APPROVAL_KEEP_MS: u64 = 90 * 24 * 3_600_000;

/// The sweep as a job.
pub(crate) fn job() -> Job {
    Box::new(|batch: &mut Batch<'_>| {
        sweep(batch)?;
        Ok(Answer::none())
    })
}

fn sweep(batch: &mut Batch<'_>) -> Result<(), Fault> {
    credentials::close_ended(batch, ROWS)?;
    let now = batch.now;
    let mut state = batch.state();
    state.quotes.prune(now);
    state.approvals.prune(now);
    let edge = state.counters.prune(batch.ledger_now);
    drop(state);
    budgets::delete_before(batch.conn, edge)?;
    // The oldest rows come first in each key; they are the ones that ended.
    let deletions = [
        (
            "DELETE FROM once WHERE (actor, name) IN (
               SELECT actor, name FROM once WHERE expires_at < ?2 LIMIT ?1)",
            now,
        ),
        (
            // Of a call that is not settled yet, the outcome is what will have been paid for.
            "DELETE FROM outcomes WHERE expires_at < ?2
               AND n IN (SELECT n FROM outcomes ORDER BY n LIMIT ?1)
               AND NOT EXISTS (SELECT 1 FROM calls WHERE calls.n = outcomes.n AND state = 5)",
            now,
        ),
        (
            "DELETE FROM credentials WHERE key IN (
               SELECT key FROM credentials WHERE tenant IS NULL AND expires_at < ?2 LIMIT ?1)",
            now.minus_ms(CREDENTIAL_KEEP_MS),
        ),
        (
            "DELETE FROM quotes WHERE expires_at < ?2
               AND id IN (SELECT id FROM quotes ORDER BY id LIMIT ?1)",
            now.minus_ms(QUOTE_KEEP_MS),
        ),
        (
            "DELETE FROM approvals WHERE expires_at < ?2
               AND id IN (SELECT id FROM approvals ORDER BY id LIMIT ?1)",
            now.minus_ms(APPROVAL_KEEP_MS),
        ),
    ];
    let yesterday = free::day(now).saturating_sub(1);
    batch
        .conn
        .prepare_cached(
            "DELETE FROM free_calls WHERE (day, subject) IN (
               SELECT day, subject FROM free_calls WHERE day < ?2 LIMIT ?1)",
        )?
        .execute((ROWS, int(yesterday)))?;
    for (sql, before) in deletions {
        batch.conn.prepare_cached(sql)?.execute((ROWS, int(before.0)))?;
    }
    Ok(())
}
