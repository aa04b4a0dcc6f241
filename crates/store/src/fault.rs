//! How the store breaks: a closed list. A fault in a batch poisons the writer.

use countersign_core::audit::{checkpoint::NoteError, record::RecordError};
use std::{fmt, io};

/// Why a batch cannot be committed. Never shown to a caller: the batch's verbs answer
/// `StoreFault`.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Record(RecordError),
    /// A row is not what this program writes.
    Corrupt(&'static str),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(error) => write!(f, "the database failed: {error}"),
            Self::Record(error) => write!(f, "a record could not be written: {error}"),
            Self::Corrupt(what) => write!(f, "a stored row is malformed: {what}"),
        }
    }
}

/// Why a store does not open.
#[derive(Debug)]
pub enum OpenError {
    /// A file or directory cannot be used.
    Io(io::Error),
    /// The database cannot be used.
    Database(rusqlite::Error),
    /// A stored row is not what this program writes.
    Corrupt(&'static str),
    /// The database was written by a newer program.
    NewerSchema(i64),
    /// The database was written by an older program, and is only read here.
    OlderSchema,
    /// The database does not sync each commit.
    NotDurable,
    /// Another process has this store open.
    Locked,
    /// The published checkpoint cannot be read with the configured key.
    Checkpoint(NoteError),
    /// The log has fewer records than were published: an older copy of the database.
    RolledBack {
        /// Records under the published checkpoint.
        published: u64,
        /// Records in the database.
        stored: u64,
    },
    /// The log's records are not those that were published.
    Forked {
        /// Records under the published checkpoint.
        published: u64,
    },
}

impl OpenError {
    /// A word for programs; stable.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io(_) | Self::Database(_) => "DATA-UNUSABLE",
            Self::Corrupt(_) => "DATA-MALFORMED",
            Self::NewerSchema(_) => "DATA-NEWER",
            Self::OlderSchema => "DATA-OLDER",
            Self::NotDurable => "DATA-NOT-DURABLE",
            Self::Locked => "DATA-IN-USE",
            Self::Checkpoint(_) => "DATA-OTHER-KEY",
            Self::RolledBack { .. } => "DATA-OLDER-COPY",
            Self::Forked { .. } => "DATA-FORKED",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn next(&self) -> &'static str {
        match self {
            Self::Io(_) | Self::Database(_) | Self::NotDurable => {
                "look at the disk, its space and the owner of the directory"
            }
            Self::Corrupt(_) | Self::Forked { .. } => {
                "something else wrote into it: keep all of it, and restore the newest whole copy"
            }
            Self::NewerSchema(_) => "start it with the version that wrote it, or a newer one",
            Self::OlderSchema => "start the gateway once: it brings the database up to its version",
            Self::Locked => "end the other process first: one gateway serves one data directory",
            Self::Checkpoint(_) => "restore the keys that belong to this log",
            Self::RolledBack { .. } => {
                "restore the database that belongs to this log; what was spent since the copy is \
                 not in it"
            }
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot use the store's directory: {error}"),
            Self::Database(error) => write!(f, "cannot use the database: {error}"),
            Self::Corrupt(what) => write!(f, "a stored row is malformed: {what}"),
            Self::NewerSchema(version) => {
                write!(f, "the database has schema {version}, written by a newer version")
            }
            Self::OlderSchema => f.write_str("the database was written by an older version"),
            Self::NotDurable => f.write_str("the database does not sync each commit"),
            Self::Locked => f.write_str("another process has it"),
            Self::Checkpoint(error) => {
                write!(f, "the published checkpoint does not verify: {error}")
            }
            Self::RolledBack { published, stored } => write!(
                f,
                "the log has {stored} records but {published} were published: the database is \
                 an older copy"
            ),
            Self::Forked { published } => {
                write!(f, "the log's first {published} records are not the published ones")
            }
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => Self::Database(error),
            Fault::Record(_) => Self::Corrupt("record"),
            Fault::Corrupt(what) => Self::Corrupt(what),
        }
    }
}
