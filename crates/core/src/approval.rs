//! Approvals: people's answers to one very call, as pure rules.
//!
//! INVARIANT: an answer is bound to the content that was shown; whatever changes the content makes
//! another content, for which nobody has answered.
//! INVARIANT: the agent never answers; where several must agree they are distinct people, none of
//! them the one for whom the agent asks.

use crate::{
    digest::Digest,
    grant::GrantTerms,
    ids::{ApprovalId, CallId, GrantId},
    money::Micros,
    policy::{Intent, Risk},
    proof::Principal,
    quote::Quote,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Too few have answered.
    Pending,
    /// Yes; not used yet.
    Approved,
    /// No.
    Denied,
    /// Too few answered, or nobody used the answer, in time.
    Expired,
    /// Used by one call.
    Consumed,
    /// What was shown has changed since; it is asked anew.
    Void,
}

/// What an approval is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskKind {
    /// A grant covers the call, and policy or a budget wants a person besides.
    Confirm,
    /// No grant covers the call: this once, or by a grant.
    Consent,
}

/// A person whose identity somebody vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// The issuer that vouches; none for a user of the admin socket, for whom the kernel does.
    pub issuer: Option<Arc<str>>,
    /// `sub`, or the user of the socket (`os:1000:ada`).
    pub subject: Arc<str>,
    /// Roles, by the issuer's word at the time of the answer.
    #[serde(skip)]
    pub roles: Vec<Arc<str>>,
}

impl Approver {
    /// The user of an admin socket.
    #[must_use]
    pub fn local(user: &str) -> Self {
        Self { issuer: None, subject: user.into(), roles: Vec::new() }
    }

    /// A person known by an issuer.
    #[must_use]
    pub fn person(issuer: &str, subject: &str, roles: Vec<Arc<str>>) -> Self {
        Self { issuer: Some(issuer.into()), subject: subject.into(), roles }
    }

    /// The same person, whatever their roles.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.subject == other.subject
    }
}

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.issuer {
            Some(issuer) => write!(f, "{issuer}|{}", self.subject),
            None => f.write_str(&self.subject),
        }
    }
}

/// How many must agree, and who may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// This many distinct people.
    pub needed: u8,
    /// Each has one of these roles; empty for anybody whom the gateway lets answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Arc<str>>,
}

impl Quorum {
    /// One person.
    pub const ONE: Self = Self { needed: 1, roles: Vec::new() };

    /// Whether an agreement under this quorum is one under `other` too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let has_roles = other.roles.is_empty()
            || (!self.roles.is_empty() && self.roles.iter().all(|role| other.roles.contains(role)));
        self.needed >= other.needed && has_roles
    }
}

/// What a person is asked: all that they are shown and that their answer is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// For what.
    pub kind: AskKind,
    /// The call.
    pub call_digest: Digest,
    /// Digest of the offers that were shown; see [`offers_digest`].
    pub offers: Digest,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Delegator's issuer.
    pub issuer: Arc<str>,
    /// Delegator's subject.
    pub subject: Arc<str>,
    /// Agent.
    pub agent: Arc<str>,
    /// Server.
    pub server: Arc<str>,
    /// Tool.
    pub tool: Arc<str>,
    /// Digest of the tool's definition, as approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Digest>,
    /// What it does.
    pub intent: Intent,
    /// What the agent says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Arc<str>>,
    /// The price, as people write it.
    pub price: String,
    /// The most it can cost.
    pub micros: Micros,
    /// Who would be paid.
    pub payees: Vec<String>,
    /// Budgets that it would exceed, and that let a person decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<Arc<str>>,
    /// How many must agree.
    pub quorum: Quorum,
}

impl Ask {
    /// Whether the same is asked: an answer to one answers the other.
    fn is_same(&self, other: &Self) -> bool {
        let about = |ask: &Self| (ask.call_digest, ask.offers, ask.intent, ask.purpose.clone());
        about(self) == about(other)
    }

    /// Digest of what is shown, with the grant that is proposed in its place.
    #[must_use]
    pub fn content(&self, proposal: Option<&GrantTerms>) -> Digest {
        let shown = serde_json::to_vec(&(self, proposal)).unwrap_or_default();
        Digest::of(&shown)
    }
}

/// Digest of a quote's offers alone: the same price quoted again has the same.
#[must_use]
pub fn offers_digest(quote: &Quote) -> Digest {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for offer in quote.offers() {
        parts.push(offer.rail.text().into());
        parts.push(offer.amount.asset.0.as_bytes().to_vec());
        parts.push(offer.amount.minor.to_be_bytes().to_vec());
        parts.push(offer.payee.clone().into_bytes());
        parts.push(offer.micros.0.to_be_bytes().to_vec());
    }
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Digest::of_parts(&slices)
}

/// One person's yes or no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Who.
    pub by: Approver,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: UnixMs,
}

/// A request that people approve one call, and their answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Identifier.
    pub id: ApprovalId,
    /// The principal that asks.
    pub principal: Digest,
    /// What is asked.
    pub ask: Ask,
    /// Digest of what is shown now; each answer is bound to it.
    pub content: Digest,
    /// Canonical JSON of the arguments; a part of them where they are long.
    pub arguments: Arc<str>,
    /// Why it is asked, in stable words.
    pub reasons: Vec<String>,
    /// The risk of the call when it was asked about. No part of the content: it moves with each
    /// look, and an answer would never hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// The grant that the approvers would make of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<GrantTerms>,
    /// Who said yes to this content.
    pub yes: Vec<Given>,
    /// Who said no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no: Option<Given>,
    /// The grant that was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// The call that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<CallId>,
    /// Digests of the request states that came back: each counts once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<Digest>,
    /// When it was asked for.
    pub requested_at: UnixMs,
    /// Until when it may be answered.
    pub answer_by: UnixMs,
    /// When it ends: unanswered, or unused.
    pub expires_at: UnixMs,
    /// Where it stands.
    pub status: ApprovalStatus,
}

impl Approval {
    /// As it is at `now`: an unanswered or unused one expires.
    #[must_use]
    pub fn at(&self, now: UnixMs) -> Self {
        let mut seen = self.clone();
        let is_open = matches!(self.status, ApprovalStatus::Pending | ApprovalStatus::Approved);
        if is_open && now >= self.expires_at {
            seen.status = ApprovalStatus::Expired;
        }
        seen
    }

    /// The last answer.
    #[must_use]
    pub fn last(&self) -> Option<&Given> {
        self.no.as_ref().or_else(|| self.yes.last())
    }

    /// Whether its yes, once given, answers `ask`: the same call at the same price, asked of at
    /// least as many.
    #[must_use]
    pub fn answers(&self, ask: &Ask) -> bool {
        let knew = |name| self.ask.over.contains(name);
        self.ask.is_same(ask) && self.ask.quorum.covers(&ask.quorum) && ask.over.iter().all(knew)
    }

    /// Whether it asks `ask`, and so need not be asked anew.
    #[must_use]
    pub fn asks(&self, ask: &Ask) -> bool {
        self.answers(ask) && self.ask.kind == ask.kind
    }

    /// Takes back each yes that `is_void`; what was not used waits for others, or is over. Whether
    /// there was any.
    pub fn strike(&mut self, is_void: impl Fn(&Given) -> bool) -> bool {
        let before = self.yes.len();
        self.yes.retain(|given| !is_void(given));
        if self.yes.len() == before {
            return false;
        }
        self.status = ApprovalStatus::Pending;
        self.expires_at = self.answer_by;
        true
    }

    /// Whether `by` may say yes.
    ///
    /// # Errors
    /// [`Code::ApproverNotEligible`] with the rule that stands against it.
    pub fn admits(&self, by: &Approver) -> Result<(), Refusal> {
        let ask = &self.ask;
        let is_requester = by.issuer.as_ref() == Some(&ask.issuer) && by.subject == ask.subject;
        // A program that acts for itself has nobody behind it.
        let is_vouched = by.issuer.as_ref() == Some(&ask.issuer) || ask.subject == ask.agent;
        let has_role = |role| by.roles.contains(role);
        let against = if by.subject == ask.agent {
            "the agent that asks never counts"
        } else if !ask.quorum.roles.is_empty() && !ask.quorum.roles.iter().any(has_role) {
            "a role that this request wants is missing"
        } else if ask.quorum.needed > 1 && by.issuer.is_none() {
            "several people must agree: each signs in as themself"
        } else if ask.quorum.needed > 1 && is_requester {
            "several people must agree, besides the one for whom it is asked"
        } else if ask.quorum.needed > 1 && !is_vouched {
            "another issuer vouches for the one for whom it is asked: it could be the same person"
        } else if self.yes.iter().any(|given| given.by.is(by)) {
            "this person has agreed already"
        } else if self.yes.iter().any(|given| given.by.issuer != by.issuer) {
            "another issuer vouched for the others: it could be the same person"
        } else {
            return Ok(());
        };
        Err(Refusal::new(Code::ApproverNotEligible).with("approval", self.id).with("rule", against))
    }

    /// Whether it is this principal's.
    #[must_use]
    pub fn is_of(&self, principal: &Principal) -> bool {
        self.principal == principal.key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(needed: u8, roles: &[&str]) -> Approval {
        let ask = Ask {
            kind: AskKind::Confirm,
            call_digest: Digest::of(b"call"),
            offers: Digest::of(b"offers"),
            tenant: "acme".into(),
            issuer: "https://idp.example".into(),
            subject: "alice".into(),
            agent: "bot".into(),
            server: "weather".into(),
            tool: "forecast".into(),
            definition: None,
            intent: Intent::Read,
            purpose: None,
            price: "free".into(),
            micros: Micros(0),
            payees: Vec::new(),
            over: Vec::new(),
            quorum: Quorum { needed, roles: roles.iter().map(|r| Arc::from(*r)).collect() },
        };
        Approval {
            id: ApprovalId::from_bytes([1; 16]),
            principal: Digest::of(b"principal"),
            content: ask.content(None),
            ask,
            arguments: "{}".into(),
            reasons: Vec::new(),
            risk: None,
            proposal: None,
            yes: Vec::new(),
            no: None,
            grant: None,
            used_by: None,
            states: Vec::new(),
            requested_at: UnixMs(0),
            answer_by: UnixMs(10),
            expires_at: UnixMs(10),
            status: ApprovalStatus::Pending,
        }
    }

    fn person(subject: &str) -> Approver {
        Approver::person("https://idp.example", subject, Vec::new())
    }

    fn says_yes(approval: &mut Approval, by: Approver) -> bool {
        let admitted = approval.admits(&by).is_ok();
        if admitted {
            approval.yes.push(Given { by, reason: None, at: UnixMs(1) });
        }
        admitted
    }

    #[test]
    fn one_may_be_the_person_for_whom_it_is_asked_but_never_the_agent() {
        assert!(says_yes(&mut approval(1, &[]), person("alice")));
        assert!(says_yes(&mut approval(1, &[]), Approver::local("os:1000:ada")));
        assert!(!says_yes(&mut approval(1, &[]), person("bot")));
    }

    #[test]
    fn several_are_distinct_people_whom_one_issuer_knows() {
        let mut two = approval(2, &[]);
        assert!(!says_yes(&mut two, person("alice")), "she is the one for whom it is asked");
        assert!(!says_yes(&mut two, Approver::local("os:1000:ada")), "who is that?");
        assert!(says_yes(&mut two, person("bob")));
        assert!(!says_yes(&mut two, person("bob")), "once is once");
        let elsewhere = Approver::person("https://other.example", "bob", Vec::new());
        assert!(!says_yes(&mut two, elsewhere), "could be the same bob");
        assert!(says_yes(&mut two, person("carol")));
    }

    #[test]
    fn a_role_that_is_wanted_must_be_there() {
        let mut one = approval(1, &["finance"]);
        assert!(!says_yes(&mut one, person("bob")));
        assert!(!says_yes(&mut one, Approver::local("os:0:root")));
        let finance = Approver::person("https://idp.example", "bob", vec!["finance".into()]);
        assert!(says_yes(&mut one, finance));
    }

    #[test]
    fn a_weaker_agreement_does_not_answer_a_stronger_request() {
        let (one, two) = (approval(1, &[]), approval(2, &[]));
        assert!(two.answers(&one.ask) && !one.answers(&two.ask));
        let by_role = approval(1, &["finance"]);
        assert!(by_role.answers(&one.ask) && !one.answers(&by_role.ask));
        let mut dearer = one.ask.clone();
        dearer.offers = Digest::of(b"dearer");
        assert!(!one.answers(&dearer));
        assert_ne!(one.ask.content(None), dearer.content(None));
    }
}
