//! What a decision is made of and what it says. The engine lives in the gateway; its input and
//! output are plain values here, bound to one call digest. Intents, risk and trust are computed
//! here too, by the numbers and words of a bundle's data files.

mod data;
mod intent;
mod lexicon;
mod obligation;
mod question;
mod reasons;
mod recorded;
mod risk;
mod trust;

pub use self::{
    data::DataError,
    intent::{Annotations, CallIntent, Intent, IntentSource},
    lexicon::{Lexicon, ToolWord},
    obligation::Obligation,
    question::{Covered, History, Pin, ProofState, Question, Resource, Session, Trust},
    reasons::Reasons,
    recorded::{Names, NotRecorded, Recorded, add as add_details, recorded},
    risk::{Point, Risk, RiskModel, SCORE_MAX, Signal, Signals},
    trust::{Behaviour, Fall, Start, Tier, TierRule, Tiers},
};

use crate::{audit::record::Details, digest::Digest, ids::DecisionId, time::UnixMs};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The data files of a bundle, read.
#[derive(Debug)]
pub struct Tables {
    /// `intents.json`.
    pub lexicon: Lexicon,
    /// `risk.json`.
    pub risk: RiskModel,
    /// `tiers.json`.
    pub tiers: Tiers,
    /// `reasons.json`.
    pub reasons: Reasons,
}

/// Why, with the policy that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable word from the policy's `@reason`.
    pub code: String,
    /// Policy id.
    pub policy: String,
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

/// An answer without what comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerWord {
    /// May run.
    Allow,
    /// May run once something is fulfilled.
    Challenge,
    /// May not run.
    Deny,
}

impl AnswerWord {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Challenge => "challenge",
            Self::Deny => "deny",
        }
    }
}

impl Answer {
    /// The answer alone.
    #[must_use]
    pub const fn word(&self) -> AnswerWord {
        match self {
            Self::Allow(_) => AnswerWord::Allow,
            Self::Challenge(_) => AnswerWord::Challenge,
            Self::Deny(_) => AnswerWord::Deny,
        }
    }

    /// The obligations that come with it.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        match self {
            Self::Allow(obligations) | Self::Challenge(obligations) => obligations,
            Self::Deny(_) => &[],
        }
    }
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
    /// Its revision, if it has one.
    pub revision: Option<u64>,
    /// When.
    pub at: UnixMs,
    /// How long the evaluation took, in milliseconds.
    pub took_ms: u64,
    /// What it was made of, for the log: short texts by name.
    pub input: Arc<Details>,
}

/// What the log says of a decision about a call that was refused.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The evaluation.
    pub id: DecisionId,
    /// SHA-256 of the policy bundle.
    pub bundle: Digest,
    /// What it was made of.
    pub input: Arc<Details>,
}

impl Decided {
    /// Of a decision.
    #[must_use]
    pub fn of(decision: &Decision) -> Self {
        let Decision { id, bundle, input, .. } = decision;
        Self { id: *id, bundle: *bundle, input: Arc::clone(input) }
    }
}

impl Decision {
    /// How long a decision may be acted on, in milliseconds.
    pub const VALID_MS: u64 = 30_000;
}
