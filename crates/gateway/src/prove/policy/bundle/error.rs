//! Why a bundle is not accepted.

use super::super::{problem::PolicyLoadError, trial::TrialFailure};
use countersign_core::{
    audit::checkpoint::NoteError,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use std::fmt;

/// The longest reason that is told through the admin API, in bytes.
const REASON_BYTES_MAX: usize = 4 << 10;

/// Why not. What was in force before stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// A file or directory cannot be read or written, and why.
    Unreadable(String),
    /// A file that no bundle has.
    UnknownFile(String),
    /// A file that every bundle has is missing.
    Missing(&'static str),
    /// Too many files, or too long ones.
    TooLarge,
    /// The manifest is not of the form it must have.
    Manifest(String),
    /// There is no manifest, where a revision or a signature is needed.
    NoManifest,
    /// There is no signature.
    NotSigned,
    /// The signature does not hold.
    Signature(NoteError),
    /// Files that are not as the manifest lists them.
    Changed(Vec<String>),
    /// Not to be used before this moment.
    NotYet(UnixMs),
    /// Not to be used since this moment.
    Expired(UnixMs),
    /// Its revision is not above all that were ever in force.
    NotAbove {
        /// Its own.
        revision: u64,
        /// The highest so far.
        highest: u64,
    },
    /// There is no bundle to go back to, or none of that revision is kept.
    NothingKept,
    /// Schema, policies or data have problems.
    Load(PolicyLoadError),
    /// Tests of its own fail.
    Trials(Vec<TrialFailure>),
}

impl BundleError {
    /// The step that stopped it, as a stable word.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Unreadable(_)
            | Self::UnknownFile(_)
            | Self::Missing(_)
            | Self::TooLarge
            | Self::Manifest(_) => "form",
            Self::NoManifest | Self::NotSigned | Self::Signature(_) => "signature",
            Self::Changed(_) => "digest",
            Self::NotYet(_) | Self::Expired(_) => "validity",
            Self::NotAbove { .. } | Self::NothingKept => "revision",
            Self::Load(_) => "policies",
            Self::Trials(_) => "tests",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn next(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "look at the path and its permissions",
            Self::UnknownFile(_) | Self::Missing(_) => {
                "a bundle has schema.cedarschema and policies.cedar, and may have manifest.json, \
                 manifest.sig, intents.json, risk.json, tiers.json, reasons.json and tests/*.json"
            }
            Self::TooLarge => "a bundle has at most 512 files of 1 MiB, 4 MiB together",
            Self::Manifest(_) | Self::NoManifest => {
                "write the manifest with `countersign policy bundle`"
            }
            Self::NotSigned | Self::Signature(_) => {
                "sign it with `countersign policy sign` and the key whose public half is \
                 `policy.key`"
            }
            Self::Changed(_) => {
                "if the change is yours, write the manifest anew with `countersign policy \
                 bundle` and sign it; else find out whose it is"
            }
            Self::NotYet(_) => "activate it when its time has come",
            Self::Expired(_) => "make a bundle with a later end",
            Self::NotAbove { .. } => {
                "give it a higher revision; to go back to an older one use `countersign policy \
                 rollback`"
            }
            Self::NothingKept => "see what is kept with `countersign policy show`",
            Self::Load(_) => "mend what is named; `countersign policy check` says the same",
            Self::Trials(_) => "mend the policies, or the tests if they are what is wrong",
        }
    }
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => f.write_str(why),
            Self::UnknownFile(name) => write!(f, "no bundle has a file `{}`", name.escape_debug()),
            Self::Missing(name) => write!(f, "the bundle has no `{name}`"),
            Self::TooLarge => f.write_str("the bundle is too large"),
            Self::Manifest(why) => write!(f, "`manifest.json`: {why}"),
            Self::NoManifest => f.write_str("the bundle has no `manifest.json`"),
            Self::NotSigned => f.write_str("the bundle is not signed: it has no `manifest.sig`"),
            Self::Signature(error) => write!(f, "`manifest.sig`: {error}"),
            Self::Changed(files) => {
                write!(f, "not as the manifest lists them: `{}`", files.join("`, `"))
            }
            Self::NotYet(from) => write!(f, "the bundle is not valid before {}", from.rfc3339()),
            Self::Expired(end) => write!(f, "the bundle was valid until {}", end.rfc3339()),
            Self::NotAbove { revision, highest } => {
                write!(f, "revision {revision} is not above {highest}, which was in force")
            }
            Self::NothingKept => f.write_str("no such bundle is kept to go back to"),
            Self::Load(error) => write!(f, "{error}"),
            Self::Trials(failures) => {
                for (at, failure) in failures.iter().enumerate() {
                    let line_break = if at == 0 { "" } else { "\n" };
                    write!(f, "{line_break}{failure}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for BundleError {}

impl From<PolicyLoadError> for BundleError {
    fn from(error: PolicyLoadError) -> Self {
        Self::Load(error)
    }
}

impl From<BundleError> for Refusal {
    fn from(error: BundleError) -> Self {
        let mut reason = format!("{error}: {}", error.next());
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Self::new(Code::BundleRefused).with("cause", error.cause()).with("reason", reason)
    }
}
