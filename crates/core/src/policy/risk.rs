//! Risk: integer points for what is unusual or powerful about one call.
//!
//! Points are counted in groups, each with a cap; the score is their sum, at most 100. The
//! numbers are a file of the bundle (`risk.json`).
//!
//! INVARIANT: one more signal never lowers the score. A mean would: many harmless facts would
//! drown the one that matters.
//!
//! Does not decide. What a score leads to is said by policies and by tiers.

use super::{
    data::{self, DataError},
    intent::{Intent, IntentSource},
};
use crate::{digest::Digest, money::Micros};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The highest score.
pub const SCORE_MAX: u8 = 100;

/// What a point is for. Its code stands in the decision's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Signal {
    /// What the call does.
    Effect,
    /// How sensitive the tool's data is.
    Sensitivity,
    /// The price, as a part of the cap per call.
    PriceNearCap,
    /// The price, as a multiple of the usual one.
    PriceUnusual,
    /// The agent has paid this payee never before.
    PayeeFirst,
    /// The tool's payee is another one than last time.
    PayeeChanged,
    /// The tool is paid in another asset, or on another network, than last time.
    AssetChanged,
    /// The agent has called this tool never before.
    ToolFirst,
    /// The server is new.
    ServerNew,
    /// Nobody has approved the tool's definition.
    DefinitionUnapproved,
    /// More calls in this hour than usual.
    RateUnusual,
    /// The same call again and again.
    CallRepeated,
    /// A budget is nearly used up.
    BudgetNear,
    /// The session has seen content that anybody can write.
    FlowUntrusted,
    /// The session has seen private data.
    FlowPrivate,
    /// The call can tell, send or change something.
    FlowChanging,
    /// How well the caller is known.
    Assurance,
    /// Delegations beyond the first.
    DelegationHops,
    /// The person signed in long ago.
    SignInOld,
    /// The caller does not say what the call is for.
    IntentUndeclared,
    /// The caller says less than the call does.
    IntentMismatch,
    /// The intent is guessed from the tool's name.
    IntentFromName,
    /// The intent is unknown.
    IntentUnknown,
    /// An outside provider asks for more care, or could not be asked.
    Provider,
}

impl Signal {
    /// Its code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Effect => "EFFECT",
            Self::Sensitivity => "SENSITIVITY",
            Self::PriceNearCap => "PRICE_NEAR_CAP",
            Self::PriceUnusual => "PRICE_UNUSUAL",
            Self::PayeeFirst => "PAYEE_FIRST",
            Self::PayeeChanged => "PAYEE_CHANGED",
            Self::AssetChanged => "ASSET_CHANGED",
            Self::ToolFirst => "TOOL_FIRST",
            Self::ServerNew => "SERVER_NEW",
            Self::DefinitionUnapproved => "DEFINITION_UNAPPROVED",
            Self::RateUnusual => "RATE_UNUSUAL",
            Self::CallRepeated => "CALL_REPEATED",
            Self::BudgetNear => "BUDGET_NEAR",
            Self::FlowUntrusted => "FLOW_UNTRUSTED",
            Self::FlowPrivate => "FLOW_PRIVATE",
            Self::FlowChanging => "FLOW_CHANGING",
            Self::Assurance => "ASSURANCE",
            Self::DelegationHops => "DELEGATION_HOPS",
            Self::SignInOld => "SIGN_IN_OLD",
            Self::IntentUndeclared => "INTENT_UNDECLARED",
            Self::IntentMismatch => "INTENT_MISMATCH",
            Self::IntentFromName => "INTENT_FROM_NAME",
            Self::IntentUnknown => "INTENT_UNKNOWN",
            Self::Provider => "PROVIDER",
        }
    }

    /// What it means, to somebody who is asked to approve the call.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Effect => "What it does is powerful, or nobody knows what it does",
            Self::Sensitivity => "The tool's data is sensitive, or nobody has said that it is not",
            Self::PriceNearCap => "The price comes close to the most that one call may cost",
            Self::PriceUnusual => "The price is a multiple of what this tool usually costs",
            Self::PayeeFirst => "This agent has never paid this payee",
            Self::PayeeChanged => "The tool's payee is another one than last time",
            Self::AssetChanged => {
                "It is paid in another asset, or on another network, than last time"
            }
            Self::ToolFirst => "This agent has never called this tool",
            Self::ServerNew => "The server is new here",
            Self::DefinitionUnapproved => "Nobody has approved the tool's definition",
            Self::RateUnusual => "The agent calls far more often than it usually does",
            Self::CallRepeated => "The same call came several times within a minute",
            Self::BudgetNear => "A budget is nearly used up",
            Self::FlowUntrusted => "The session has read content that anybody can write",
            Self::FlowPrivate => "The session has seen private data",
            Self::FlowChanging => "The call can send, change or delete something",
            Self::Assurance => "The gateway knows little of who stands behind the call",
            Self::DelegationHops => "The agent acts through other agents",
            Self::SignInOld => "The person behind the agent signed in long ago",
            Self::IntentUndeclared => "The agent does not say what the call is for",
            Self::IntentMismatch => "The agent says less than what the tool does",
            Self::IntentFromName => "What the tool does is guessed from its name",
            Self::IntentUnknown => "Nothing tells what the tool does",
            Self::Provider => "An outside service asks for more care, or could not be asked",
        }
    }
}

/// Points for one signal, before its group's cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// What for.
    pub code: Signal,
    /// How many.
    pub points: u8,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    /// 0 to 100.
    pub score: u8,
    /// A word for it.
    pub band: std::sync::Arc<str>,
    /// What it is made of, in the order of the table.
    pub points: Vec<Point>,
    /// Digest of the numbers.
    pub model: Digest,
}

impl Default for Risk {
    /// None, by nobody's numbers.
    fn default() -> Self {
        let model = Digest::from_bytes([0; 32]);
        Self { score: 0, band: "".into(), points: Vec::new(), model }
    }
}

/// Everything that points are given for.
#[derive(Clone, Debug)]
pub struct Signals {
    /// What the call does.
    pub intent: Intent,
    /// How that is known.
    pub source: IntentSource,
    /// The caller said what it is for.
    pub is_declared: bool,
    /// That does not cover what the call does.
    pub is_mismatch: bool,
    /// 0 public to 3 secret; `None` when nobody said.
    pub sensitivity: Option<u8>,
    /// The price.
    pub price: Micros,
    /// The grant's cap per call.
    pub cap: Option<Micros>,
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
    /// The definition is not approved.
    pub is_definition_unapproved: bool,
    /// Calls of the agent in this hour, this one included.
    pub calls_this_hour: u64,
    /// Its mean an hour; `None` for too little history.
    pub hourly_mean: Option<u64>,
    /// The same call within the last minute, this one included.
    pub same_calls: u64,
    /// The fullest window after this call, in percent.
    pub budget_percent: u64,
    /// The session saw content that anybody can write.
    pub is_tainted: bool,
    /// The session saw private data.
    pub is_private: bool,
    /// 0 nobody, 1 a program, 2 a person, 3 a person who signed in for this.
    pub assurance: u8,
    /// Delegations beyond the first.
    pub extra_hops: u64,
    /// Since the person signed in, in seconds.
    pub sign_in_age_s: Option<u64>,
}

/// The numbers of a bundle (`risk.json`).
#[derive(Debug)]
pub struct RiskModel {
    raw: Raw,
    digest: Digest,
}

/// From here on, so many points.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: u64,
    points: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    model: String,
    bands: Vec<Band>,
    effect: Effect,
    sensitivity: Sensitivity,
    price: Price,
    novelty: Novelty,
    rate: Rate,
    budget: Budget,
    flow: Flow,
    identity: Identity,
    intent: Declared,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Band {
    from: u8,
    word: std::sync::Arc<str>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Effect {
    cap: u8,
    intents: BTreeMap<Intent, u8>,
    /// An intent that nothing tells.
    unknown: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sensitivity {
    cap: u8,
    levels: [u8; 4],
    unknown_level: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Price {
    cap: u8,
    /// Above this part of the cap per call.
    over_cap_percent: Vec<Step>,
    median_times: Vec<Step>,
    payee_first: u8,
    payee_changed: u8,
    asset_changed: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Novelty {
    cap: u8,
    tool_first: u8,
    server_new: u8,
    server_new_for_s: u64,
    definition_unapproved: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    cap: u8,
    hourly_mean_times: Vec<Step>,
    /// Fewer calls in an hour are never unusual.
    least_calls: u64,
    same_call_a_minute: Vec<Step>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    cap: u8,
    used_percent: Vec<Step>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Flow {
    cap: u8,
    untrusted: u8,
    private: u8,
    changing: u8,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    cap: u8,
    assurance: [u8; 4],
    hop: u8,
    sign_in_old: u8,
    sign_in_old_after_s: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    cap: u8,
    undeclared: u8,
    mismatch: u8,
    from_name: u8,
    unknown: u8,
}

/// The points so far.
struct Tally {
    points: Vec<Point>,
    score: u16,
}

impl RiskModel {
    /// Reads `risk.json`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let raw: Raw = data::parse(text)?;
        data::version(raw.v)?;
        raw.check()?;
        Ok(Self { raw, digest: Digest::of(text.as_bytes()) })
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Its name: `builtin/1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.raw.model
    }

    /// How long a server counts as new, in seconds.
    #[must_use]
    pub const fn server_new_for_s(&self) -> u64 {
        self.raw.novelty.server_new_for_s
    }

    /// Counts the points of a call.
    #[must_use]
    pub fn assess(&self, signals: &Signals) -> Risk {
        let mut tally = Tally { points: Vec::with_capacity(12), score: 0 };
        self.count_effect(signals, &mut tally);
        self.count_price(signals, &mut tally);
        self.count_novelty(signals, &mut tally);
        self.count_use(signals, &mut tally);
        self.count_flow(signals, &mut tally);
        self.count_identity(signals, &mut tally);
        self.count_intent(signals, &mut tally);
        let score = u8::try_from(tally.score).unwrap_or(SCORE_MAX).min(SCORE_MAX);
        Risk { score, band: self.band(score), points: tally.points, model: self.digest }
    }

    /// The same risk with more points by an outside provider, which may only raise it.
    #[must_use]
    pub fn raised(&self, mut risk: Risk, points: u8) -> Risk {
        if points > 0 {
            risk.score = risk.score.saturating_add(points).min(SCORE_MAX);
            risk.band = self.band(risk.score);
            risk.points.push(Point { code: Signal::Provider, points });
        }
        risk
    }

    fn band(&self, score: u8) -> std::sync::Arc<str> {
        let band = self.raw.bands.iter().rev().find(|band| score >= band.from);
        band.map_or_else(|| "critical".into(), |band| std::sync::Arc::clone(&band.word))
    }

    fn count_effect(&self, signals: &Signals, tally: &mut Tally) {
        let (effect, sensitivity) = (&self.raw.effect, &self.raw.sensitivity);
        let known = effect.intents.get(&signals.intent).copied().unwrap_or(effect.unknown);
        let points = match signals.source {
            IntentSource::Default => known.max(effect.unknown),
            IntentSource::Catalogue | IntentSource::Annotations | IntentSource::Lexicon => known,
        };
        tally.group(effect.cap, &[(Signal::Effect, points)]);
        let level = signals.sensitivity.unwrap_or(sensitivity.unknown_level);
        let points = sensitivity.levels.get(usize::from(level)).or(sensitivity.levels.last());
        let points = points.copied().unwrap_or(sensitivity.cap);
        tally.group(sensitivity.cap, &[(Signal::Sensitivity, points)]);
    }

    fn count_price(&self, signals: &Signals, tally: &mut Tally) {
        let (rule, price) = (&self.raw.price, signals.price.0);
        if price == 0 {
            return;
        }
        // What is above a part of the cap is at least one more than it.
        let near = signals.cap.map_or(0, |cap| {
            let over = |step: &&Step| {
                u128::from(price).saturating_mul(100)
                    > u128::from(cap.0).saturating_mul(step.at.into())
            };
            rule.over_cap_percent.iter().rev().find(over).map_or(0, |step| step.points)
        });
        let unusual = signals.median.map_or(0, |median| {
            let times = |step: &&Step| {
                u128::from(price) >= u128::from(median.0).saturating_mul(step.at.into())
            };
            rule.median_times.iter().rev().find(times).map_or(0, |step| step.points)
        });
        tally.group(
            rule.cap,
            &[
                (Signal::PriceNearCap, near),
                (Signal::PriceUnusual, unusual),
                (Signal::PayeeFirst, points_if(signals.is_payee_first, rule.payee_first)),
                (Signal::PayeeChanged, points_if(signals.is_payee_changed, rule.payee_changed)),
                (Signal::AssetChanged, points_if(signals.is_asset_changed, rule.asset_changed)),
            ],
        );
    }

    fn count_novelty(&self, signals: &Signals, tally: &mut Tally) {
        let rule = &self.raw.novelty;
        let is_new = signals.server_age_s.is_some_and(|age| age < rule.server_new_for_s);
        let unapproved = points_if(signals.is_definition_unapproved, rule.definition_unapproved);
        tally.group(
            rule.cap,
            &[
                (Signal::ToolFirst, points_if(signals.is_tool_first, rule.tool_first)),
                (Signal::ServerNew, points_if(is_new, rule.server_new)),
                (Signal::DefinitionUnapproved, unapproved),
            ],
        );
    }

    /// Rate and budgets.
    fn count_use(&self, signals: &Signals, tally: &mut Tally) {
        let (rate, budget) = (&self.raw.rate, &self.raw.budget);
        let unusual = signals.hourly_mean.map_or(0, |mean| {
            let calls = signals.calls_this_hour;
            let times = |step: &&Step| {
                calls >= rate.least_calls && calls >= mean.max(1).saturating_mul(step.at)
            };
            rate.hourly_mean_times.iter().rev().find(times).map_or(0, |step| step.points)
        });
        let repeated = reached(&rate.same_call_a_minute, signals.same_calls);
        tally.group(rate.cap, &[(Signal::RateUnusual, unusual), (Signal::CallRepeated, repeated)]);
        let near = reached(&budget.used_percent, signals.budget_percent);
        tally.group(budget.cap, &[(Signal::BudgetNear, near)]);
    }

    fn count_flow(&self, signals: &Signals, tally: &mut Tally) {
        let rule = &self.raw.flow;
        let changing = points_if(signals.intent.can_change(), rule.changing);
        tally.group(
            rule.cap,
            &[
                (Signal::FlowUntrusted, points_if(signals.is_tainted, rule.untrusted)),
                (Signal::FlowPrivate, points_if(signals.is_private, rule.private)),
                (Signal::FlowChanging, changing),
            ],
        );
    }

    fn count_identity(&self, signals: &Signals, tally: &mut Tally) {
        let rule = &self.raw.identity;
        let assurance = rule.assurance.get(usize::from(signals.assurance));
        let assurance = assurance.or(rule.assurance.last()).copied().unwrap_or(rule.cap);
        let hops = u64::from(rule.hop).saturating_mul(signals.extra_hops);
        let hops = u8::try_from(hops).unwrap_or(u8::MAX);
        let is_old = signals.sign_in_age_s.is_some_and(|age| age > rule.sign_in_old_after_s);
        tally.group(
            rule.cap,
            &[
                (Signal::Assurance, assurance),
                (Signal::DelegationHops, hops),
                (Signal::SignInOld, points_if(is_old, rule.sign_in_old)),
            ],
        );
    }

    fn count_intent(&self, signals: &Signals, tally: &mut Tally) {
        let rule = &self.raw.intent;
        let from_name = signals.source == IntentSource::Lexicon;
        let unknown = signals.source == IntentSource::Default;
        tally.group(
            rule.cap,
            &[
                (Signal::IntentUndeclared, points_if(!signals.is_declared, rule.undeclared)),
                (Signal::IntentMismatch, points_if(signals.is_mismatch, rule.mismatch)),
                (Signal::IntentFromName, points_if(from_name, rule.from_name)),
                (Signal::IntentUnknown, points_if(unknown, rule.unknown)),
            ],
        );
    }
}

impl Raw {
    fn check(&self) -> Result<(), DataError> {
        let rising = |steps: &[Step], what: &str| {
            let pairs = steps.iter().zip(steps.iter().skip(1));
            let is_rising = pairs.into_iter().all(|(a, b)| a.at < b.at && a.points <= b.points);
            let message = || DataError::rule(format!("`{what}`: steps must rise"));
            if is_rising { Ok(()) } else { Err(message()) }
        };
        rising(&self.price.over_cap_percent, "price.over_cap_percent")?;
        rising(&self.price.median_times, "price.median_times")?;
        rising(&self.rate.hourly_mean_times, "rate.hourly_mean_times")?;
        rising(&self.rate.same_call_a_minute, "rate.same_call_a_minute")?;
        rising(&self.budget.used_percent, "budget.used_percent")?;
        let bands: Vec<Step> =
            self.bands.iter().map(|band| Step { at: band.from.into(), points: 0 }).collect();
        rising(&bands, "bands")?;
        if self.bands.first().is_none_or(|first| first.from != 0) {
            return Err(DataError::rule("`bands`: the first is from 0"));
        }
        if let Some(missing) = Intent::ALL.iter().find(|i| !self.effect.intents.contains_key(i)) {
            let word = missing.text();
            return Err(DataError::rule(format!("`effect.intents`: `{word}` is missing")));
        }
        if self.sensitivity.unknown_level > 3 {
            return Err(DataError::rule("`sensitivity.unknown_level` is from 0 to 3"));
        }
        if !self.sensitivity.levels.is_sorted() {
            return Err(DataError::rule("`sensitivity.levels` must rise"));
        }
        if !self.identity.assurance.is_sorted_by(|a, b| a >= b) {
            return Err(DataError::rule("`identity.assurance` must fall"));
        }
        Ok(())
    }
}

impl Tally {
    fn group(&mut self, cap: u8, given: &[(Signal, u8)]) {
        let mut sum = 0u16;
        for (code, points) in given {
            if *points > 0 {
                self.points.push(Point { code: *code, points: *points });
                sum = sum.saturating_add((*points).into());
            }
        }
        self.score = self.score.saturating_add(sum.min(cap.into()));
    }
}

const fn points_if(is_so: bool, points: u8) -> u8 {
    if is_so { points } else { 0 }
}

/// The points of the highest step that `value` reaches.
fn reached(steps: &[Step], value: u64) -> u8 {
    steps.iter().rev().find(|step| value >= step.at).map_or(0, |step| step.points)
}

#[cfg(test)]
mod tests;
