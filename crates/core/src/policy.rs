//! What a decision is made of and what it says. The engine lives in the gateway; its input and
//! output are plain values here, bound to one call digest.

use crate::{digest::Digest, ids::DecisionId, money::Micros, time::UnixMs};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a call does, from harmless to powerful. The policy's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Returns what is there.
    Read,
    /// Looks something up by a query.
    Search,
    /// Condenses.
    Summarize,
    /// Labels.
    Classify,
    /// Tells somebody.
    Notify,
    /// Takes data out.
    Export,
    /// Changes something.
    Write,
    /// Moves money.
    Spend,
    /// Runs code or commands.
    Execute,
    /// Removes something.
    Delete,
    /// Changes who may do what.
    Admin,
}

impl Intent {
    /// All intents, least powerful first.
    pub const ALL: [Self; 11] = [
        Self::Read,
        Self::Search,
        Self::Summarize,
        Self::Classify,
        Self::Notify,
        Self::Export,
        Self::Write,
        Self::Spend,
        Self::Execute,
        Self::Delete,
        Self::Admin,
    ];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Search => "search",
            Self::Summarize => "summarize",
            Self::Classify => "classify",
            Self::Notify => "notify",
            Self::Export => "export",
            Self::Write => "write",
            Self::Spend => "spend",
            Self::Execute => "execute",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// The intent of a word.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|intent| intent.text() == text)
    }
}

/// How far an optional proof is when policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofState {
    /// There and valid.
    Valid,
    /// Not needed by configuration.
    NotRequired,
    /// Not there yet.
    Missing,
}

/// Everything policy decides on, for one attempt.
#[derive(Clone, Debug)]
pub struct Question {
    /// This evaluation.
    pub id: DecisionId,
    /// Binds it to the call.
    pub call_digest: Digest,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Delegating person's `iss|sub`, or `anonymous`.
    pub human: Arc<str>,
    /// Whether the delegator is a person.
    pub is_human: bool,
    /// Roles and groups of the delegator.
    pub roles: Vec<Arc<str>>,
    /// Acting agent.
    pub agent: Arc<str>,
    /// Length of the delegation chain.
    pub chain_depth: u32,
    /// Server.
    pub server: Arc<str>,
    /// Tool.
    pub tool: Arc<str>,
    /// 0 public to 3 secret.
    pub sensitivity: u8,
    /// Effective intent: the action.
    pub intent: Intent,
    /// Declared intent, if any.
    pub declared: Option<Intent>,
    /// Price in reference micros.
    pub price: Micros,
    /// Price as quoted.
    pub price_text: String,
    /// Payment state.
    pub payment: ProofState,
    /// Consent state.
    pub consent: ProofState,
    /// What the grant and the budgets leave, the tightest of them; `None` for no limit.
    pub remaining: Option<Micros>,
    /// Obligations already fulfilled for this very call, by evidence the server holds.
    pub fulfilled: Vec<Arc<str>>,
    /// Now.
    pub now: UnixMs,
}

/// Why, with the policy that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable word from the policy's `@reason`.
    pub code: String,
    /// Policy id.
    pub policy: String,
}

/// A duty that comes with a decision. Closed: an unknown one denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Obligation {
    /// Interactive: a person confirms this very call.
    HumanConfirm {
        /// How long the request stays open, in seconds.
        ttl_s: u64,
    },
    /// Inline: remove members from the structured result.
    Redact {
        /// JSON pointers (RFC 6901) into the result.
        pointers: Vec<String>,
    },
    /// Inline: cut the result's text beyond this many bytes.
    CapBytes {
        /// The cap.
        bytes: u64,
    },
}

impl Obligation {
    /// Whether somebody must act before the call may run.
    #[must_use]
    pub const fn is_interactive(&self) -> bool {
        match self {
            Self::HumanConfirm { .. } => true,
            Self::Redact { .. } | Self::CapBytes { .. } => false,
        }
    }

    /// The word under which a fulfilled one is reported to policy.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::HumanConfirm { .. } => "human_confirm",
            Self::Redact { .. } => "redact",
            Self::CapBytes { .. } => "cap_bytes",
        }
    }
}

/// The engine's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// May run; inline obligations apply.
    Allow(Vec<Obligation>),
    /// May run once these are fulfilled.
    Challenge(Vec<Obligation>),
    /// May not run.
    Deny(DenyCause),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyCause {
    /// A rule forbids, or no rule permits.
    Rule,
    /// A rule could not be evaluated.
    Error,
    /// An obligation is unknown or malformed.
    Obligation,
}

/// One decision: an answer, its reasons and the policy it came from. Single use, valid
/// [`Decision::VALID_MS`].
#[derive(Debug)]
pub struct Decision {
    /// This evaluation.
    pub id: DecisionId,
    /// The call it is about.
    pub call_digest: Digest,
    /// The answer.
    pub answer: Answer,
    /// Determining policies.
    pub reasons: Vec<Reason>,
    /// SHA-256 of the policy bundle.
    pub bundle: Digest,
    /// When.
    pub at: UnixMs,
}

impl Decision {
    /// How long a decision may be acted on, in milliseconds.
    pub const VALID_MS: u64 = 30_000;
}
