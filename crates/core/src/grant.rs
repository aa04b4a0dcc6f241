//! Grants: a person's standing consent to spend, within limits, for a purpose.
//!
//! The row in the store is authoritative; the signed receipt is a portable copy.
//! INVARIANT: whatever a grant does not list, it does not cover.
#![deny(clippy::arithmetic_side_effects)]

use crate::{
    digest::Digest,
    ids::GrantId,
    money::Micros,
    policy::Intent,
    proof::Principal,
    quote::{Offer, Quote, Rail},
    refusal::Code,
    terms::ToolRef,
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Where a grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantStatus {
    /// Usable.
    Active,
    /// Paused, until somebody reviews a change.
    Suspended,
    /// Ended by a person.
    Revoked,
}

/// Spend over a rolling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowLimit {
    /// Length of the window in milliseconds.
    pub length_ms: u64,
    /// The most within any window of that length.
    pub limit: Micros,
}

/// What a person agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// Tenant it belongs to.
    pub tenant: Arc<str>,
    /// Delegator's issuer.
    pub issuer: Arc<str>,
    /// Delegator's subject.
    pub subject: Arc<str>,
    /// Agent it is for.
    pub agent: Arc<str>,
    /// Server.
    pub server: Arc<str>,
    /// Tools of it; `*` is every tool, now and later.
    pub tools: Vec<Arc<str>>,
    /// Intents; empty covers none.
    pub intents: Vec<Intent>,
    /// The most one call may cost.
    pub per_call: Micros,
    /// Rolling budgets.
    pub windows: Vec<WindowLimit>,
    /// The most all calls may cost.
    pub total: Option<Micros>,
    /// The most calls.
    pub max_calls: Option<u64>,
    /// What for.
    pub purpose: String,
    /// From when.
    pub not_before: UnixMs,
    /// Until when; at most [`GrantTerms::LONGEST_MS`] after `not_before`.
    pub expires_at: UnixMs,
    /// What narrows it further.
    #[serde(default)]
    pub bounds: Bounds,
}

/// What narrows a grant further. Whatever is empty does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// The purpose that a call must declare, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose_code: Option<Arc<str>>,
    /// Who may be paid: every offer of a quote must be to one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub payees: Vec<String>,
    /// Wallets that may pay, as addresses, or [`Self::LINKED`]: only on rails that tell the payer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub payers: Vec<String>,
    /// What must hold of the arguments: all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentRule>,
    /// The most agents that may stand between the acting one and the person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u8>,
    /// Only in this session: an MCP session, else the reference of an access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<str>>,
    /// The grant that it is a part of: what it uses is used of that one, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<GrantId>,
}

/// A member of the arguments and the values that it may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgumentRule {
    /// JSON pointer (RFC 6901) into the arguments.
    pub pointer: String,
    /// One of these; a member that is missing has none.
    pub one_of: Vec<Value>,
}

/// What a call asks of a grant, besides its price.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What it does.
    pub intent: Intent,
    /// What it declares to be for.
    pub purpose: Option<&'a str>,
    /// Its arguments, as JSON.
    pub arguments: &'a str,
    /// Its session.
    pub session: &'a str,
}

impl Asked<'_> {
    /// A call that declares nothing and has no arguments.
    #[must_use]
    pub const fn of(intent: Intent) -> Self {
        Self { intent, purpose: None, arguments: "{}", session: "" }
    }
}

impl Bounds {
    /// Among the payers: any wallet that is linked to the person.
    pub const LINKED: &'static str = "linked";

    fn cover(&self, quote: &Quote, asked: &Asked<'_>) -> Result<(), Code> {
        if self.purpose_code.as_deref().is_some_and(|code| asked.purpose != Some(code)) {
            return Err(Code::PurposeNotGranted);
        }
        if self.session.as_deref().is_some_and(|session| session != asked.session) {
            return Err(Code::NoGrant);
        }
        let is_listed = |offer: &Offer| self.payees.iter().any(|payee| same(payee, &offer.payee));
        if !self.payees.is_empty() && !quote.for_money().all(is_listed) {
            return Err(Code::PayeeNotGranted);
        }
        let tells = |offer: &Offer| offer.rail == Rail::X402;
        if !self.payers.is_empty() && !quote.for_money().all(tells) {
            return Err(Code::PayerNotGranted);
        }
        if self.arguments.is_empty() {
            return Ok(());
        }
        let arguments: Value =
            serde_json::from_str(asked.arguments).map_err(|_| Code::ArgumentsNotGranted)?;
        let holds = |rule: &ArgumentRule| {
            arguments.pointer(&rule.pointer).is_some_and(|value| rule.one_of.contains(value))
        };
        if self.arguments.iter().all(holds) { Ok(()) } else { Err(Code::ArgumentsNotGranted) }
    }

    /// Whether this payer may pay; `None` where the rail does not tell who it is.
    ///
    /// # Errors
    /// [`Code::PayerNotGranted`]; [`Code::PayerNotLinked`] where a link would do.
    pub fn admits_payer(&self, payer: Option<&str>, is_linked: bool) -> Result<(), Code> {
        let is_listed = |payer| self.payers.iter().any(|listed| same(listed, payer));
        let is_link_enough = is_listed(Self::LINKED);
        if self.payers.is_empty()
            || payer.is_some_and(is_listed)
            || (is_link_enough && is_linked && payer.is_some())
        {
            Ok(())
        } else if is_link_enough {
            Err(Code::PayerNotLinked)
        } else {
            Err(Code::PayerNotGranted)
        }
    }

    /// Whether only a linked wallet can pay.
    #[must_use]
    pub fn wants_link(&self) -> bool {
        !self.payers.is_empty() && self.payers.iter().all(|listed| same(listed, Self::LINKED))
    }

    /// The first dimension in which this is wider than `parent`.
    fn wider_than(&self, parent: &Self) -> Option<&'static str> {
        let narrows = |child: &[String], parent: &[String]| {
            let listed = |one: &String| parent.iter().any(|other| same(one, other));
            parent.is_empty() || (!child.is_empty() && child.iter().all(listed))
        };
        let keeps = |rule: &ArgumentRule| {
            let same = self.arguments.iter().filter(|own| own.pointer == rule.pointer);
            same.into_iter().any(|own| own.one_of.iter().all(|value| rule.one_of.contains(value)))
        };
        let depth = match (self.max_depth, parent.max_depth) {
            (_, None) => true,
            (Some(own), Some(most)) => own <= most,
            (None, Some(_)) => false,
        };
        let checks = [
            ("purpose", parent.purpose_code.is_none() || self.purpose_code == parent.purpose_code),
            ("session", parent.session.is_none() || self.session == parent.session),
            ("payees", narrows(&self.payees, &parent.payees)),
            ("payers", narrows(&self.payers, &parent.payers)),
            ("arguments", parent.arguments.iter().all(keeps)),
            ("depth", depth),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }
}

/// Addresses are the same in any case.
fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

impl GrantTerms {
    /// Longest life: 30 days.
    pub const LONGEST_MS: u64 = 30 * 24 * 3_600_000;
    /// Most grants in a line from a child to its eldest ancestor.
    pub const LINE_MAX: usize = 5;

    /// The first dimension in which a child is wider than its parent; `None` when it covers
    /// nothing that the parent does not.
    #[must_use]
    pub fn wider_than(&self, parent: &Self) -> Option<&'static str> {
        let has_tool = |tool: &Arc<str>| parent.tools.iter().any(|t| t == tool || &**t == "*");
        let within = |own: Option<u64>, most: Option<u64>| match (own, most) {
            (_, None) => true,
            (Some(own), Some(most)) => own <= most,
            (None, Some(_)) => false,
        };
        let micros = |limit: Option<Micros>| limit.map(|limit| limit.0);
        // As much over as long a span, or in all.
        let keeps = |window: &WindowLimit| {
            let as_tight =
                |w: &WindowLimit| w.limit <= window.limit && w.length_ms >= window.length_ms;
            self.windows.iter().any(as_tight) || within(micros(self.total), Some(window.limit.0))
        };
        let checks = [
            ("tenant", self.tenant == parent.tenant),
            ("delegator", (&self.issuer, &self.subject) == (&parent.issuer, &parent.subject)),
            ("agent", self.agent == parent.agent),
            ("server", self.server == parent.server),
            ("tools", self.tools.iter().all(has_tool)),
            ("intents", self.intents.iter().all(|intent| parent.intents.contains(intent))),
            ("per_call", self.per_call <= parent.per_call),
            ("windows", parent.windows.iter().all(keeps)),
            ("total", within(micros(self.total), micros(parent.total))),
            ("max_calls", within(self.max_calls, parent.max_calls)),
            ("not_before", self.not_before >= parent.not_before),
            ("expires", self.expires_at <= parent.expires_at),
        ];
        let wider = checks.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name);
        wider.or_else(|| self.bounds.wider_than(&parent.bounds))
    }
}

/// How the evidence came that a grant was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In an access token (RFC 9396).
    Rar,
    /// Signed by a person's own key.
    Jws,
}

impl Source {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Rar => "rar",
            Self::Jws => "jws",
        }
    }
}

/// The evidence that a grant was made of. It counts once: whatever comes under the same key is
/// this grant, whether it still holds or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// How it came.
    pub source: Source,
    /// Names the evidence.
    pub key: Digest,
    /// Digest of what it says.
    pub content: Digest,
    /// The key that signed it, where that is a person's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Arc<str>>,
}

/// How people here agreed to a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    /// How many had to.
    pub m: u8,
    /// The roles of those whose answers counted; empty for anybody who may answer.
    pub eligible: Vec<Arc<str>>,
    /// Who did.
    pub got: Vec<String>,
    /// Digest of the content that they were shown.
    pub shown: Digest,
    /// Digests of the definitions that the named tools had then, as far as they were known.
    pub definitions: BTreeMap<Arc<str>, Digest>,
}

/// A grant as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Identifier.
    pub id: GrantId,
    /// Grows with each change.
    pub version: u32,
    /// Status.
    pub status: GrantStatus,
    /// What was agreed.
    pub terms: GrantTerms,
    /// The verified person who approved.
    pub approved_by: String,
    /// When.
    pub approved_at: UnixMs,
    /// The evidence that it was made of; `None` for one that a person made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brought: Option<Brought>,
    /// How people agreed to it here; `None` for one made of evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Agreed>,
    /// Spent and held so far.
    pub used: Micros,
    /// Calls so far.
    pub calls: u64,
}

impl Grant {
    /// The grant as it was before a call that holds this much of it.
    #[must_use]
    pub fn without(&self, held: Micros) -> Self {
        let used = self.used.minus(held).unwrap_or_default();
        Self { used, calls: self.calls.saturating_sub(1), ..self.clone() }
    }

    /// Where it stands at `now`, in a word: time and use end one that nobody has ended.
    #[must_use]
    pub fn standing(&self, now: UnixMs) -> &'static str {
        match self.status {
            GrantStatus::Revoked => "revoked",
            GrantStatus::Active | GrantStatus::Suspended if now >= self.terms.expires_at => {
                "expired"
            }
            GrantStatus::Suspended => "suspended",
            GrantStatus::Active if self.leaves_room(Micros(1)).is_err() => "exhausted",
            GrantStatus::Active => "active",
        }
    }

    /// Where it comes from: `page` for a person here, else the form of the evidence.
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.brought.as_ref().map_or("page", |brought| brought.source.text())
    }

    /// Whether this grant speaks of this principal and tool at all.
    #[must_use]
    pub fn concerns(&self, principal: &Principal, tool: &ToolRef) -> bool {
        let terms = &self.terms;
        let delegator = principal.delegator.as_ref();
        terms.tenant == principal.tenant
            && delegator.is_some_and(|d| d.issuer == terms.issuer && d.subject == terms.subject)
            && terms.agent == principal.agent
            && terms.bounds.max_depth.is_none_or(|most| principal.chain.len() <= most.into())
            && terms.server == tool.server
            && terms.tools.iter().any(|name| *name == tool.tool || &**name == "*")
    }

    /// Checks all that does not need the ledger's current sums.
    ///
    /// # Errors
    /// The code of the first limit that the call would break.
    pub fn covers(&self, quote: &Quote, asked: &Asked<'_>, now: UnixMs) -> Result<(), Code> {
        let terms = &self.terms;
        match self.status {
            GrantStatus::Active => {}
            GrantStatus::Suspended => return Err(Code::GrantSuspended),
            GrantStatus::Revoked => return Err(Code::GrantRevoked),
        }
        if now < terms.not_before || now >= terms.expires_at {
            return Err(Code::GrantExpired);
        }
        if !terms.intents.contains(&asked.intent) {
            return Err(Code::IntentNotGranted);
        }
        terms.bounds.cover(quote, asked)?;
        if quote.micros() > terms.per_call {
            return Err(Code::OverPerCallCap);
        }
        self.leaves_room(quote.micros())
    }

    /// Checks total and number of calls.
    ///
    /// # Errors
    /// [`Code::GrantExhausted`].
    pub fn leaves_room(&self, amount: Micros) -> Result<(), Code> {
        let used = self.used.plus(amount).ok_or(Code::GrantExhausted)?;
        let over_total = self.terms.total.is_some_and(|total| used > total);
        let over_calls = self.terms.max_calls.is_some_and(|max| self.calls >= max);
        if over_total || over_calls { Err(Code::GrantExhausted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects, reason = "a test")]
    use super::*;
    use crate::{
        ids::QuoteId,
        money::Amount,
        proof::{Delegator, Principal},
    };
    use proptest::prelude::*;

    fn pick(of: &'static [&'static str]) -> impl Strategy<Value = Vec<Arc<str>>> {
        proptest::sample::subsequence(of, 1..=of.len())
            .prop_map(|some| some.into_iter().map(Arc::from).collect())
    }

    fn words(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence(of, 0..=of.len())
            .prop_map(|some| some.into_iter().map(str::to_owned).collect())
    }

    fn rules() -> impl Strategy<Value = Vec<ArgumentRule>> {
        let value = proptest::sample::subsequence(&["a", "b", "c"], 1..=3);
        let rule = value.prop_map(|values| ArgumentRule {
            pointer: "/city".to_owned(),
            one_of: values.into_iter().map(Value::from).collect(),
        });
        proptest::collection::vec(rule, 0..=1)
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        let code = proptest::option::of(Just(Arc::<str>::from("trip")));
        let depth = proptest::option::of(0u8..3);
        let session = proptest::option::of(Just(Arc::<str>::from("s1")));
        (code, words(&["0xA", "0xB"]), words(&["0xC", "0xD"]), rules(), depth, session).prop_map(
            |(purpose_code, payees, payers, arguments, max_depth, session)| Bounds {
                purpose_code,
                payees,
                payers,
                arguments,
                max_depth,
                session,
                parent: None,
            },
        )
    }

    fn terms() -> impl Strategy<Value = GrantTerms> {
        let window = (1u64..4, 1u64..9)
            .prop_map(|(length_ms, limit)| WindowLimit { length_ms, limit: Micros(limit) });
        let intents = proptest::sample::subsequence(&Intent::ALL[..4], 1..=4);
        let limits = (
            1u64..9,
            proptest::collection::vec(window, 0..3),
            proptest::option::of(1u64..30),
            proptest::option::of(1u64..5),
        );
        let times = (0u64..5, 5u64..10);
        (pick(&["*", "get", "put"]), intents, limits, times, bounds()).prop_map(
            |(tools, intents, (per_call, windows, total, max_calls), (from, until), bounds)| {
                GrantTerms {
                    tenant: "acme".into(),
                    issuer: "https://idp.example".into(),
                    subject: "alice".into(),
                    agent: "bot".into(),
                    server: "weather".into(),
                    tools,
                    intents,
                    per_call: Micros(per_call),
                    windows,
                    total: total.map(Micros),
                    max_calls,
                    purpose: String::new(),
                    not_before: UnixMs(from),
                    expires_at: UnixMs(until),
                    bounds,
                }
            },
        )
    }

    /// Takes some dimensions from the parent: most pairs have none in common.
    fn inherit(child: &mut GrantTerms, parent: &GrantTerms, keep: &[bool]) {
        let mut keep = keep.iter();
        let mut takes = || keep.next().copied().unwrap_or_default();
        let theirs = parent.clone();
        macro_rules! inherit {
            ($($($field:ident).+),*) => {
                $(if takes() { child.$($field).+ = theirs.$($field).+; })*
            };
        }
        inherit!(tools, intents, per_call, windows, total, max_calls, not_before, expires_at);
        inherit!(bounds.purpose_code, bounds.payees, bounds.payers, bounds.arguments);
        inherit!(bounds.max_depth, bounds.session);
    }

    fn grant(terms: GrantTerms, used: u64, calls: u64) -> Grant {
        Grant {
            id: GrantId::from_bytes([1; 16]),
            version: 1,
            status: GrantStatus::Active,
            terms,
            approved_by: String::new(),
            approved_at: UnixMs(0),
            brought: None,
            agreed: None,
            used: Micros(used),
            calls,
        }
    }

    fn quote(micros: u64, payee: &str) -> Quote {
        let offer = Offer {
            rail: Rail::X402,
            amount: Amount { asset: "USDC".into(), minor: micros.into() },
            payee: payee.to_owned(),
            micros: Micros(micros),
            uses: std::num::NonZeroU32::MIN,
        };
        let id = QuoteId::from_bytes([2; 16]);
        Quote::new(id, Digest::of(b"call"), vec![offer], UnixMs(0), UnixMs(99))
    }

    fn principal(hops: usize) -> Principal {
        Principal {
            tenant: "acme".into(),
            delegator: Some(Delegator {
                issuer: "https://idp.example".into(),
                subject: "alice".into(),
                is_human: true,
            }),
            agent: "bot".into(),
            chain: vec!["hop".into(); hops],
            roles: Vec::new(),
        }
    }

    #[test]
    fn time_and_use_end_a_grant_that_nobody_ended() {
        let terms = GrantTerms {
            tenant: "acme".into(),
            issuer: "https://idp.example/".into(),
            subject: "alice".into(),
            agent: "bot".into(),
            server: "weather".into(),
            tools: vec!["forecast".into()],
            intents: vec![Intent::Read],
            per_call: Micros(10),
            windows: Vec::new(),
            total: Some(Micros(100)),
            max_calls: Some(3),
            bounds: Bounds::default(),
            purpose: String::new(),
            not_before: UnixMs(0),
            expires_at: UnixMs(1_000),
        };
        let (end, live) = (terms.expires_at, grant(terms.clone(), 99, 2));
        let before = UnixMs(999);
        assert_eq!(live.standing(before), "active");
        assert_eq!(live.standing(end), "expired");
        assert_eq!(grant(terms.clone(), 100, 2).standing(before), "exhausted");
        assert_eq!(grant(terms.clone(), 0, 3).standing(before), "exhausted");
        let of = |status| Grant { status, ..live.clone() };
        assert_eq!(of(GrantStatus::Suspended).standing(before), "suspended");
        assert_eq!(of(GrantStatus::Suspended).standing(end), "expired");
        assert_eq!(of(GrantStatus::Revoked).standing(end), "revoked");
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 1_000,
            max_global_rejects: 200_000,
            ..ProptestConfig::default()
        })]

        /// Whatever a child that is not wider covers, its parent covers.
        #[test]
        fn a_child_never_exceeds_its_parent(
            (mut child, parent) in (terms(), terms()),
            keep in proptest::collection::vec(proptest::bool::weighted(0.75), 14),
            (price, payee, payer) in (1u64..9, "0x[AB]", "0x[cd]"),
            (tool, intent) in ("get|put|all", 0usize..4),
            (purpose, city) in (proptest::option::of(Just("trip")), "a|b|c"),
            (session, hops, now) in ("s1|s2", 0usize..3, 0u64..10),
            (used, calls) in (0u64..30, 0u64..5),
        ) {
            inherit(&mut child, &parent, &keep);
            prop_assume!(child.wider_than(&parent).is_none());
            let arguments = format!(r#"{{"city":"{city}"}}"#);
            let asked = Asked {
                intent: Intent::ALL[intent],
                purpose,
                arguments: &arguments,
                session: &session,
            };
            let quote = quote(price, &payee);
            let tool = ToolRef { server: "weather".into(), tool: tool.as_str().into() };
            let covers = |terms: &GrantTerms| {
                let grant = grant(terms.clone(), used, calls);
                grant.concerns(&principal(hops), &tool)
                    && grant.covers(&quote, &asked, UnixMs(now)).is_ok()
                    && terms.bounds.admits_payer(Some(&payer), false).is_ok()
            };
            prop_assert!(!covers(&child) || covers(&parent), "{child:?} {parent:?}");
            // Windows: whatever the child may spend in a span, the parent may too.
            for window in &parent.windows {
                let least = child.windows.iter().filter(|w| w.length_ms >= window.length_ms);
                let least = least.map(|w| w.limit).chain(child.total).min();
                prop_assert!(least.is_some_and(|limit| limit <= window.limit));
            }
        }

        /// The same terms are never wider, and a copy with one limit lifted is.
        #[test]
        fn equal_is_not_wider_and_more_is(terms in terms()) {
            prop_assert_eq!(terms.wider_than(&terms), None);
            let dearer = GrantTerms { per_call: Micros(terms.per_call.0 + 1), ..terms.clone() };
            prop_assert_eq!(dearer.wider_than(&terms), Some("per_call"));
            let longer = GrantTerms { expires_at: UnixMs(terms.expires_at.0 + 1), ..terms.clone() };
            prop_assert_eq!(longer.wider_than(&terms), Some("expires"));
        }
    }
}
