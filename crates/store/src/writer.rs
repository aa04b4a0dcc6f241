//! The writer: one thread, one connection, one transaction at a time.
//!
//! A job is a verb's work in the transaction. It checks everything before it writes anything, so
//! that a refusal leaves the batch untouched and needs no savepoint. Its answer leaves after the
//! commit.
//! INVARIANT: an error of any job or of the commit ends the writer; what was queued gets no
//! answer and nothing is tried again.

use crate::{budgets, failpoint, fault::Fault, grants, log::Log, state::State, store::Shared};
use countersign_core::time::UnixMs;
use rusqlite::{Connection, DEFAULT_NAME, ErrorCode, config::DbConfig, wal::CheckpointMode};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicI32, Ordering},
    },
};
use tokio::sync::mpsc;

/// A verb's work in the transaction.
pub(crate) type Job = Box<dyn FnOnce(&mut Batch<'_>) -> Result<Answer, Fault> + Send>;

/// Hands the result to its caller; gives work back when the caller is gone.
pub(crate) struct Answer(Box<dyn FnOnce() -> Option<Job> + Send>);

impl Answer {
    pub(crate) fn new(give: impl FnOnce() -> Option<Job> + Send + 'static) -> Self {
        Self(Box::new(give))
    }

    /// Nobody waits.
    pub(crate) fn none() -> Self {
        Self::new(|| None)
    }
}

/// The transaction that jobs work in.
pub(crate) struct Batch<'a> {
    /// The connection, in a transaction.
    pub(crate) conn: &'a Connection,
    /// Now, by the wall clock.
    pub(crate) now: UnixMs,
    /// Now, never going back: what budgets count by.
    pub(crate) ledger_now: UnixMs,
    pub(crate) log: &'a mut Log,
    shared: &'a Shared,
}

impl<'a> Batch<'a> {
    /// The state; hold it shortly.
    pub(crate) fn state(&self) -> MutexGuard<'a, State> {
        self.shared.state()
    }

    pub(crate) const fn shared(&self) -> &'a Shared {
        self.shared
    }
}

/// The write-ahead log is copied into the database once it has so many pages.
const CHECKPOINT_PAGES: i32 = 2_000;

/// What the writer thread owns.
pub(crate) struct Writer {
    conn: Connection,
    log: Log,
    last: UnixMs,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicI32>,
}

impl Writer {
    pub(crate) fn new(mut conn: Connection, log: Log, last: UnixMs) -> rusqlite::Result<Self> {
        // Closing must not try again what failed, and remove the log thereafter.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let wal_pages = Arc::<AtomicI32>::default();
        let told = Arc::clone(&wal_pages);
        conn.wal_hook(Some(move |_: &mut _, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self { conn, log, last, wal_pages })
    }

    /// Works until every handle is gone or something breaks.
    pub(crate) fn run(mut self, shared: &Shared, mut queue: mpsc::Receiver<Job>) {
        let batch_max = shared.limits.batch_max.max(1);
        let mut jobs: Vec<Job> = Vec::with_capacity(batch_max);
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), Fault> {
            loop {
                if jobs.is_empty() && queue.blocking_recv_many(&mut jobs, batch_max) == 0 {
                    return Ok(());
                }
                let answers = self.commit(shared, std::mem::take(&mut jobs))?;
                jobs.extend(answers.into_iter().filter_map(|answer| (answer.0)()));
                self.checkpoint()?;
            }
        }));
        // Whoever knows of the end is told that nothing of theirs was begun.
        queue.close();
        match outcome {
            Ok(Ok(())) => drop(self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")),
            Ok(Err(fault)) => shared.poison(&fault.to_string()),
            Err(_) => shared.poison("the writer panicked"),
        }
    }

    /// Copies a long write-ahead log into the database. SQLite would by itself, as a part of the
    /// commit: its answers would wait, and a failed sync would be forgotten.
    fn checkpoint(&self) -> Result<(), Fault> {
        if self.wal_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return Ok(());
        }
        match self.conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE) {
            Ok(_) => Ok(()),
            // Another process is at it: the next commit asks again.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn commit(&mut self, shared: &Shared, jobs: Vec<Job>) -> Result<Vec<Answer>, Fault> {
        let now = shared.world.now();
        self.last = self.last.max(now);
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let (log, ledger_now) = (&mut self.log, self.last);
        let mut batch = Batch { conn: &self.conn, now, ledger_now, log, shared };
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(job(&mut batch)?);
        }
        self.write_back(shared, ledger_now)?;
        let has_grown = shared.durable_size.load(Ordering::Acquire) < self.log.size();
        if has_grown {
            failpoint("store.commit");
        }
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        if has_grown {
            failpoint("store.committed");
            shared.durable_size.store(self.log.size(), Ordering::Release);
            shared.wake_publisher();
        }
        Ok(answers)
    }

    /// Writes the hot rows that the batch changed, once each.
    fn write_back(&self, shared: &Shared, ledger_now: UnixMs) -> Result<(), Fault> {
        let counters = shared.state().counters.take_dirty();
        let ids = budgets::write(&self.conn, counters, ledger_now)?;
        shared.state().counters.set_ids(ids);
        let grants = shared.state().grants.take_dirty();
        grants::write(&self.conn, grants)?;
        shared.accounts().flush(&self.conn)
    }
}
