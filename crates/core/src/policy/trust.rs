//! Trust: four tiers, what each may do, and how behaviour lowers them (`tiers.json` of a bundle).
//!
//! INVARIANT: a call's tier is the least of agent, person, consent and server. Behaviour only
//! lowers, for a time; only a person's word raises.

use super::{
    data::{self, DataError},
    intent::Intent,
    question::Trust,
};
use crate::{digest::Digest, money::Micros};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// How far somebody is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Observe.
    T0,
    /// Assist.
    T1,
    /// Operate.
    T2,
    /// Trusted.
    T3,
}

impl Tier {
    /// All tiers, least trusted first.
    pub const ALL: [Self; 4] = [Self::T0, Self::T1, Self::T2, Self::T3];

    /// Its name.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::T0 => "T0",
            Self::T1 => "T1",
            Self::T2 => "T2",
            Self::T3 => "T3",
        }
    }

    /// The tier of a name.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.text() == text)
    }

    /// 0 to 3.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::T0 => 0,
            Self::T1 => 1,
            Self::T2 => 2,
            Self::T3 => 3,
        }
    }

    /// So many tiers lower, never below the lowest.
    #[must_use]
    pub fn lowered(self, steps: u8) -> Self {
        let level = usize::from(self.level().saturating_sub(steps));
        Self::ALL.get(level).copied().unwrap_or(Self::T0)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What lowers an agent's tier when it happens too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Policy refused a call.
    Denied,
    /// The declared intent did not cover what the tool does.
    IntentMismatch,
    /// A payment did not hold.
    PaymentFailed,
    /// A call of high risk.
    Anomaly,
}

impl Behaviour {
    /// All there are.
    pub const ALL: [Self; 4] =
        [Self::Denied, Self::IntentMismatch, Self::PaymentFailed, Self::Anomaly];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::IntentMismatch => "intent_mismatch",
            Self::PaymentFailed => "payment_failed",
            Self::Anomaly => "anomaly",
        }
    }
}

/// What a tier may do.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TierRule {
    /// Which.
    pub tier: Tier,
    /// What people call it.
    pub word: String,
    /// What it may.
    pub intents: Vec<Intent>,
    /// Whether it may anything, but for spending and changing rights, that can be undone.
    pub reversible: bool,
    /// The most a call may cost without asking, in micros; `null` for free calls only.
    pub price: Option<Micros>,
    /// The highest risk without asking.
    pub max_risk: u8,
}

impl TierRule {
    /// Whether it may do this at all.
    #[must_use]
    pub fn may(&self, intent: Intent, is_reversible: bool, price: Micros) -> bool {
        let undone =
            self.reversible && is_reversible && !matches!(intent, Intent::Spend | Intent::Admin);
        let is_payable = price == Micros(0) || self.price.is_some();
        (self.intents.contains(&intent) || undone) && is_payable
    }
}

/// Where everybody starts.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// An agent.
    pub agent: Tier,
    /// A person: the most that agents acting for them reach.
    pub human: Tier,
    /// A server.
    pub server: Tier,
    /// A call that a grant covers.
    pub granted: Tier,
    /// A call for which the operator asks no consent.
    pub ungranted: Tier,
    /// A caller that nobody knows.
    pub anonymous: Tier,
}

/// Too much of a behaviour lowers a tier for a time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fall {
    /// Of what.
    pub because: Behaviour,
    /// How often.
    pub count: u32,
    /// Within how many seconds.
    pub within_s: u64,
    /// By how many tiers.
    pub steps: u8,
    /// For how many seconds.
    pub for_s: u64,
}

/// The tiers of a bundle (`tiers.json`).
#[derive(Debug)]
pub struct Tiers {
    raw: Raw,
    digest: Digest,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    tiers: Vec<TierRule>,
    start: Start,
    /// Tiers of agents (`tenant/agent`) that differ from the start.
    agents: BTreeMap<String, Tier>,
    /// Tiers of people (`issuer|subject`).
    humans: BTreeMap<String, Tier>,
    /// Tiers of servers.
    servers: BTreeMap<String, Tier>,
    /// From this score on, a call counts as an anomaly.
    anomaly_from: u8,
    falls: Vec<Fall>,
}

/// The longest that behaviour is looked back on, in seconds.
const WITHIN_MAX_S: u64 = 86_400;
/// The most events that a rule counts.
const COUNT_MAX: u32 = 1_000;

impl Tiers {
    /// Reads `tiers.json`.
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

    /// What a tier may do.
    #[must_use]
    pub fn rule(&self, tier: Tier) -> Option<&TierRule> {
        self.raw.tiers.iter().find(|rule| rule.tier == tier)
    }

    /// What the least trusted in a call may do.
    #[must_use]
    pub fn allow(&self, who: Trust, intent: Intent, is_reversible: bool, price: Micros) -> Trust {
        let mut trust = Trust { may: false, price_cap: Micros(0), max_risk: 0, ..who };
        if let Some(rule) = self.rule(trust.effective()) {
            trust.may = rule.may(intent, is_reversible, price);
            trust.price_cap = rule.price.unwrap_or_default();
            trust.max_risk = rule.max_risk;
        }
        trust
    }

    /// Where everybody starts.
    #[must_use]
    pub const fn start(&self) -> &Start {
        &self.raw.start
    }

    /// Where an agent starts; `key` is `tenant/agent`.
    #[must_use]
    pub fn agent(&self, key: &str) -> Tier {
        self.raw.agents.get(key).copied().unwrap_or(self.raw.start.agent)
    }

    /// A person's ceiling; `key` is `issuer|subject`.
    #[must_use]
    pub fn human(&self, key: &str) -> Tier {
        self.raw.humans.get(key).copied().unwrap_or(self.raw.start.human)
    }

    /// A server's tier.
    #[must_use]
    pub fn server(&self, name: &str) -> Tier {
        self.raw.servers.get(name).copied().unwrap_or(self.raw.start.server)
    }

    /// Whether a call of this risk is an anomaly.
    #[must_use]
    pub const fn is_anomaly(&self, score: u8) -> bool {
        score >= self.raw.anomaly_from
    }

    /// The rule about a behaviour, if there is one.
    #[must_use]
    pub fn fall(&self, because: Behaviour) -> Option<&Fall> {
        self.raw.falls.iter().find(|fall| fall.because == because)
    }
}

impl Raw {
    fn check(&self) -> Result<(), DataError> {
        let tiers: Vec<Tier> = self.tiers.iter().map(|rule| rule.tier).collect();
        if tiers != Tier::ALL {
            return Err(DataError::rule("`tiers` are T0, T1, T2 and T3, in this order"));
        }
        for (lower, higher) in self.tiers.iter().zip(self.tiers.iter().skip(1)) {
            let widens = lower.intents.iter().all(|intent| higher.intents.contains(intent))
                && (!lower.reversible || higher.reversible)
                && lower.price <= higher.price
                && lower.max_risk <= higher.max_risk;
            if !widens {
                let (lower, higher) = (lower.tier, higher.tier);
                return Err(DataError::rule(format!("{higher} may less than {lower}")));
            }
        }
        for (at, fall) in self.falls.iter().enumerate() {
            let fits = (1..=COUNT_MAX).contains(&fall.count)
                && (1..=WITHIN_MAX_S).contains(&fall.within_s)
                && (1..=3).contains(&fall.steps)
                && fall.for_s > 0;
            if !fits {
                return Err(DataError::rule(format!(
                    "`falls`: `count` is from 1 to {COUNT_MAX}, `within_s` from 1 to \
                     {WITHIN_MAX_S}, `steps` from 1 to 3, `for_s` at least 1"
                )));
            }
            if self.falls.iter().take(at).any(|other| other.because == fall.because) {
                let word = fall.because.text();
                return Err(DataError::rule(format!("`falls`: `{word}` stands twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../gateway/policy/tiers.json");

    #[test]
    fn a_tier_may_what_it_lists() {
        let tiers = Tiers::parse(TEXT).unwrap();
        let may = |tier, intent, reversible, price| {
            tiers.rule(tier).unwrap().may(intent, reversible, Micros(price))
        };
        assert!(may(Tier::T0, Intent::Read, false, 0));
        assert!(!may(Tier::T0, Intent::Read, false, 1), "free only");
        assert!(!may(Tier::T1, Intent::Write, false, 0));
        assert!(may(Tier::T2, Intent::Write, false, 1));
        assert!(!may(Tier::T2, Intent::Delete, false, 0));
        assert!(may(Tier::T2, Intent::Delete, true, 0), "it can be undone");
        assert!(!may(Tier::T2, Intent::Spend, true, 0), "spending cannot");
        assert!(may(Tier::T3, Intent::Execute, false, 0));
    }

    #[test]
    fn lowering_ends_at_the_lowest() {
        assert_eq!(Tier::T3.lowered(1), Tier::T2);
        assert_eq!(Tier::T1.lowered(9), Tier::T0);
        assert!(Tier::T0 < Tier::T3);
        assert!(Tier::ALL.iter().all(|tier| Tier::from_text(tier.text()) == Some(*tier)));
    }

    #[test]
    fn tiers_that_make_no_sense_are_refused() {
        let refused = |from: &str, to: &str| {
            let changed = TEXT.replacen(from, to, 1);
            assert_ne!(TEXT, changed);
            Tiers::parse(&changed).unwrap_err().to_string()
        };
        assert!(refused("\"tier\": \"T0\"", "\"tier\": \"T1\"").contains("in this order"));
        assert!(refused("\"max_risk\": 19", "\"max_risk\": 30").contains("may less than"));
        assert!(refused("\"count\": 3", "\"count\": 0").contains("`count`"));
        assert!(refused("\"payment_failed\"", "\"denied\"").contains("stands twice"));
        assert!(refused("\"agents\"", "\"agent\"").contains("unknown field"));
    }
}
