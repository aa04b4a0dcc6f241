//! What a decision is made of: everything known of one attempt, as plain values.

use super::{
    Tables,
    intent::{Intent, IntentSource},
    risk::{Risk, Signal, Signals},
    trust::Tier,
};
use crate::{
    digest::Digest,
    ids::{DecisionId, GrantId, QuoteId},
    money::Micros,
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How far an optional proof is when policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofState {
    /// There and valid.
    Valid,
    /// Not needed by configuration.
    NotRequired,
    /// Not there yet.
    Missing,
}

impl ProofState {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Valid, Self::NotRequired, Self::Missing];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::NotRequired => "not_required",
            Self::Missing => "missing",
        }
    }
}

/// Where a tool's definition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// No list of tools has passed yet.
    Unseen,
    /// Seen, and nobody has approved it.
    Seen,
    /// Approved: by a person, or by the operator who listed the tool.
    Approved,
    /// It is another one than was approved.
    Changed,
}

impl Pin {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Unseen, Self::Seen, Self::Approved, Self::Changed];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unseen => "unseen",
            Self::Seen => "seen",
            Self::Approved => "approved",
            Self::Changed => "changed",
        }
    }
}

/// The grant that covers a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covered {
    /// Which.
    pub id: GrantId,
    /// Its cap per call.
    pub per_call: Micros,
    /// What it and those that it is a part of leave; `None` for no limit.
    #[serde(default)]
    pub remaining: Option<Micros>,
    /// What it is for.
    #[serde(default)]
    pub intents: Vec<Intent>,
    /// When it ends.
    pub expires_at: UnixMs,
}

/// The protected resource that a tool is a part of (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// Its identifier: that of tokens for it.
    pub id: Arc<str>,
}

impl Resource {
    /// What an MCP server is.
    pub const MCP: &str = "mcp";
}

/// How far everybody in a call is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// The agent.
    pub agent: Tier,
    /// The person's ceiling.
    pub human: Tier,
    /// What the consent carries.
    pub consent: Tier,
    /// The server.
    pub server: Tier,
    /// The least tier may do this at all.
    pub may: bool,
    /// The most a call may cost there without asking.
    pub price_cap: Micros,
    /// The highest risk there without asking.
    pub max_risk: u8,
}

impl Trust {
    /// The least of them.
    #[must_use]
    pub fn effective(&self) -> Tier {
        self.agent.min(self.human).min(self.consent).min(self.server)
    }
}

/// What happened in a caller's session before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Digest of its name under its principal; none for one without a name.
    #[serde(default)]
    pub id: Option<Digest>,
    /// It saw content that anybody can write.
    pub is_tainted: bool,
    /// It saw private data.
    pub is_private: bool,
    /// Calls of the agent within the last minute.
    pub calls_last_minute: u64,
}

/// What of a call is unusual beside what was before it. Policies see the points that it gives;
/// with it they can be counted anew, by other numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// A person has looked at the call, or named its tool for this agent.
    pub is_judged: bool,
    /// Median of the latest prices of the tool; `None` for no history.
    pub median: Option<Micros>,
    /// No payment to this payee before.
    pub is_payee_first: bool,
    /// Another payee than last time.
    pub is_payee_changed: bool,
    /// Another asset or network than last time.
    pub is_asset_changed: bool,
    /// The agent's first call of the tool.
    pub is_tool_first: bool,
    /// How long the server has been known, in seconds; `None` for always.
    pub server_age_s: Option<u64>,
    /// Calls of the agent in this hour, this one included.
    pub calls_this_hour: u64,
    /// Its mean an hour; `None` for too little history.
    pub hourly_mean: Option<u64>,
    /// The same call within the last minute, this one included.
    pub same_calls: u64,
    /// The fullest window after this call, in percent.
    pub budget_percent: u64,
}

/// Everything policy decides on, for one attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Roles, groups and teams of the delegator.
    pub roles: Vec<Arc<str>>,
    /// `acr` of the person's sign-in.
    pub acr: Option<Arc<str>>,
    /// How long ago that was, in seconds.
    pub sign_in_age_s: Option<u64>,
    /// Acting agent.
    pub agent: Arc<str>,
    /// How well the caller is known: 0 nobody, 1 a program, 2 a person, 3 one who signed in anew.
    pub assurance: u8,
    /// Length of the delegation chain.
    pub chain_depth: u32,
    /// Server.
    pub server: Arc<str>,
    /// Tool.
    pub tool: Arc<str>,
    /// What that is a part of.
    pub resource: Resource,
    /// SHA-256 of the canonical arguments. The record has a salted one, and policies see none.
    pub arguments: Digest,
    /// 0 public to 3 secret.
    pub sensitivity: u8,
    /// What it does can be undone.
    pub is_reversible: bool,
    /// It deals with what is outside of the server's domain.
    pub is_open_world: bool,
    /// Digest of the tool's definition.
    pub definition: Option<Digest>,
    /// Where that stands.
    pub pin: Pin,
    /// Effective intent: the action.
    pub intent: Intent,
    /// What the tool and its arguments say.
    pub derived: Intent,
    /// Declared intent, if any.
    pub declared: Option<Intent>,
    /// What the derived intent rests on.
    pub source: IntentSource,
    /// SHA-256 of the declared purpose.
    pub purpose: Option<Digest>,
    /// The quote.
    pub quote: QuoteId,
    /// Its digest: every offer, payee and the expiry.
    pub terms: Digest,
    /// Price in reference micros.
    pub price: Micros,
    /// Price as quoted.
    pub price_text: String,
    /// Identity state.
    pub identity: ProofState,
    /// Payment state.
    pub payment: ProofState,
    /// Consent state.
    pub consent: ProofState,
    /// The grant that covers the call.
    pub grant: Option<Covered>,
    /// What the grant and the budgets leave, the tightest of them; `None` for no limit.
    pub remaining: Option<Micros>,
    /// The name of that: a budget's, or `grant`.
    pub tightest: Option<Arc<str>>,
    /// What is unusual about the call.
    pub history: History,
    /// What that and all else comes to.
    pub risk: Risk,
    /// How far everybody in it is trusted.
    pub trust: Trust,
    /// What happened before.
    pub session: Session,
    /// Obligations already fulfilled for this very call, by evidence the server holds.
    pub fulfilled: Vec<Arc<str>>,
    /// Now.
    pub now: UnixMs,
}

impl Question {
    /// Everything that points of risk are given for.
    #[must_use]
    pub fn signals(&self) -> Signals {
        let history = &self.history;
        Signals {
            intent: self.intent,
            source: if history.is_judged { IntentSource::Catalogue } else { self.source },
            is_declared: self.declared.is_some(),
            is_mismatch: self.declared.is_some_and(|declared| declared < self.intent),
            sensitivity: Some(self.sensitivity),
            price: self.price,
            cap: self.grant.as_ref().map(|grant| grant.per_call),
            median: history.median,
            is_payee_first: history.is_payee_first,
            is_payee_changed: history.is_payee_changed,
            is_asset_changed: history.is_asset_changed,
            is_tool_first: history.is_tool_first,
            server_age_s: history.server_age_s,
            is_definition_unapproved: self.pin != Pin::Approved,
            calls_this_hour: history.calls_this_hour,
            hourly_mean: history.hourly_mean,
            same_calls: history.same_calls,
            budget_percent: history.budget_percent,
            is_tainted: self.session.is_tainted,
            is_private: self.session.is_private,
            assurance: self.assurance,
            extra_hops: self.chain_depth.into(),
            sign_in_age_s: self.sign_in_age_s,
        }
    }

    /// The same question as these numbers see it: risk counted anew, and what the least trusted
    /// in it may do. What an outside provider added to the risk stays.
    #[must_use]
    pub fn by(self, tables: &Tables) -> Self {
        let provider = self.risk.points.iter().find(|point| point.code == Signal::Provider);
        let risk = tables.risk.assess(&self.signals());
        let risk = tables.risk.raised(risk, provider.map_or(0, |point| point.points));
        let trust = tables.tiers.allow(self.trust, self.intent, self.is_reversible, self.price);
        Self { risk, trust, ..self }
    }
}
