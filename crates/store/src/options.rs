//! What a store is opened with.

use countersign_core::audit::checkpoint::SignerKey;
use std::{fmt, path::PathBuf};

/// How durable an acknowledged verb is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut: each commit is synced.
    #[default]
    Full,
    /// Survives a crash of the process only. Exists as the control of power-cut tests.
    Normal,
}

/// The audit log's keys. The log's origin is the name of its signing key.
#[derive(Clone)]
pub struct LogOptions {
    /// Signs checkpoints.
    pub signer: SignerKey,
    /// Keys the pseudonyms of delegators and approvers.
    pub pseudonym_key: [u8; 32],
    /// Milliseconds between two checkpoints while the log grows.
    pub interval_ms: u64,
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions").field("signer", &self.signer).finish_non_exhaustive()
    }
}

/// Limits of one store.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Verbs that wait for the writer; one more is refused as overloaded.
    pub queue_max: usize,
    /// Verbs in one transaction.
    pub batch_max: usize,
    /// Open quotes of one principal.
    pub open_quotes_per_principal: usize,
    /// Open quotes in all.
    pub open_quotes: usize,
    /// Pending approvals of one principal.
    pub pending_approvals_per_principal: usize,
    /// Requests for approval that one agent may open within an hour.
    pub asks_per_agent_per_hour: usize,
    /// Calls that have not ended.
    pub live_calls: usize,
    /// Largest result kept for a repeated request; of a larger one the digest is kept.
    pub outcome_bytes: usize,
    /// How long a result is kept beyond its quote, in milliseconds.
    pub outcome_keep_ms: u64,
    /// Credentials kept in memory; others are read from disk.
    pub credentials_in_memory: usize,
    /// What is owed back to somebody who is known becomes their credit.
    pub credit: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_max: 4096,
            batch_max: 512,
            open_quotes_per_principal: 64,
            open_quotes: 200_000,
            pending_approvals_per_principal: 16,
            asks_per_agent_per_hour: 60,
            live_calls: 100_000,
            outcome_bytes: 1 << 20,
            outcome_keep_ms: 24 * 3_600_000,
            credentials_in_memory: 100_000,
            credit: false,
        }
    }
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the database and the published log; created with mode 0700.
    pub dir: PathBuf,
    /// How durable.
    pub durability: Durability,
    /// The audit log's keys.
    pub log: LogOptions,
    /// Limits.
    pub limits: Limits,
}
