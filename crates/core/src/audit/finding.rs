//! What the verifier can find wrong with a log.

use super::{checkpoint::NoteError, receipt::ReceiptError, record::Kind, record::RecordError};
use crate::ids::CallId;
use serde::Serialize;
use std::fmt;

/// One thing wrong with a log. Its JSON form is tagged `finding`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// There is no checkpoint, so nothing is attested.
    MissingCheckpoint,
    /// The checkpoint is not one of this log's key.
    BadCheckpoint {
        /// Why.
        reason: NoteError,
    },
    /// An entry bundle is missing.
    MissingBundle {
        /// Its path.
        path: String,
    },
    /// An entry bundle cannot be read: cut, or with another number of leaves.
    MalformedBundle {
        /// Its path.
        path: String,
    },
    /// A hash tile is missing.
    MissingTile {
        /// Its path.
        path: String,
    },
    /// A hash tile is not that of the signed tree.
    AlteredTile {
        /// Its path.
        path: String,
    },
    /// A leaf is not the one in the signed tree.
    AlteredLeaf {
        /// Its index.
        index: u64,
    },
    /// A leaf and its hash tile differ, and neither fits the signed tree.
    LeafNotInTile {
        /// Its index.
        index: u64,
    },
    /// The files lead to another root than the signed one: some leaf before the checkpoint was
    /// altered, dropped, added or moved, or the checkpoint is of other files.
    RootMismatch,
    /// Neither leaves nor hashes of some range are there, so that the root cannot be computed.
    RootUnknown,
    /// A leaf is not a record in canonical form.
    BadRecord {
        /// Its index.
        index: u64,
        /// Why.
        reason: RecordError,
    },
    /// A record carries another sequence number than its index.
    WrongSequence {
        /// Its index.
        index: u64,
        /// The number in the record.
        seq: u64,
    },
    /// A record does not name the call's previous record: one was dropped, moved or altered.
    BrokenChain {
        /// Its index.
        index: u64,
        /// The call.
        call: CallId,
    },
    /// A call lacks a record that must have come before this one.
    MissingStage {
        /// Index of the record that needed it.
        index: u64,
        /// The call.
        call: CallId,
        /// What is missing.
        kind: Kind,
    },
    /// The upstream was called after the call had been refused.
    StartedAfterRefusal {
        /// Index of the start record.
        index: u64,
        /// The call.
        call: CallId,
    },
    /// A closing record does not commit to exactly the call's other records.
    WrongCommitment {
        /// Index of the `ledger.impact` record.
        index: u64,
        /// The call.
        call: CallId,
    },
    /// A record of a call after its closing one, other than a refund or an operator's.
    AfterClosing {
        /// Its index.
        index: u64,
        /// The call.
        call: CallId,
    },
    /// The kept checkpoint is itself not one of this log's key.
    BadKeptCheckpoint {
        /// Why.
        reason: NoteError,
    },
    /// The log is shorter than it was: its tail was cut, or it is an older copy.
    ShorterThanKept {
        /// Leaves now.
        size: u64,
        /// Leaves under the kept checkpoint.
        kept: u64,
    },
    /// The log's first `size` leaves are not those under the kept checkpoint.
    Forked {
        /// Leaves under the kept checkpoint.
        size: u64,
    },
    /// The receipt is itself not one of this log's key.
    BadReceipt {
        /// Why.
        reason: ReceiptError,
    },
    /// The receipt names an index beyond the log: its tail was cut, or it is an older copy, or
    /// its last checkpoint is older than the receipt.
    ReceiptBeyondLog {
        /// The receipt's index.
        index: u64,
        /// Leaves in the log.
        size: u64,
    },
    /// The record at the receipt's index is another one.
    ReceiptMismatch {
        /// The receipt's index.
        index: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingCheckpoint => f.write_str("the log has no checkpoint"),
            Self::BadCheckpoint { reason } => write!(f, "checkpoint: {reason}"),
            Self::MissingBundle { path } => write!(f, "`{path}` is missing: its records are lost"),
            Self::MalformedBundle { path } => write!(f, "`{path}` is cut or malformed"),
            Self::MissingTile { path } => write!(f, "`{path}` is missing"),
            Self::AlteredTile { path } => write!(f, "`{path}` is not that of the signed tree"),
            Self::AlteredLeaf { index } => write!(f, "record {index} was altered"),
            Self::LeafNotInTile { index } => write!(f, "record {index} and its hash tile differ"),
            Self::RootMismatch => f.write_str("the records are not those that were signed"),
            Self::RootUnknown => f.write_str("too much is missing to compute the root"),
            Self::BadRecord { index, reason } => write!(f, "record {index}: {reason}"),
            Self::WrongSequence { index, seq } => {
                write!(f, "record {index} says that it is number {seq}")
            }
            Self::BrokenChain { index, call } => {
                write!(f, "record {index} does not follow the previous record of {call}")
            }
            Self::MissingStage { index, call, kind } => {
                write!(f, "record {index} of {call} lacks a {} record before it", kind.name())
            }
            Self::StartedAfterRefusal { index, call } => {
                write!(f, "record {index} starts {call}, which had been refused")
            }
            Self::WrongCommitment { index, call } => {
                write!(f, "record {index} does not commit to all records of {call}")
            }
            Self::AfterClosing { index, call } => {
                write!(f, "record {index} comes after {call} was closed")
            }
            Self::BadKeptCheckpoint { reason } => write!(f, "kept checkpoint: {reason}"),
            Self::ShorterThanKept { size, kept } => {
                write!(f, "the log has {size} records, but had {kept}: its tail was cut")
            }
            Self::Forked { size } => {
                write!(f, "the first {size} records are not those of the kept checkpoint")
            }
            Self::BadReceipt { reason } => write!(f, "receipt: {reason}"),
            Self::ReceiptBeyondLog { index, size } => {
                write!(
                    f,
                    "the receipt names record {index}, but the log has {size} records: a call of a \
                     moment ago is in it from the next checkpoint on; else the tail was cut"
                )
            }
            Self::ReceiptMismatch { index } => {
                write!(f, "record {index} is not the one that the receipt names")
            }
        }
    }
}

/// Findings up to a bound; beyond it they are counted.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    pub(super) omitted: u64,
}

/// Findings that are listed one by one.
const MAX_FINDINGS: usize = 1000;

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(finding);
        } else {
            self.omitted += 1;
        }
    }
}
