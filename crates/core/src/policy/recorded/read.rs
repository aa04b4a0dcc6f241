//! From the record of a decision to the question that was asked.

use super::{CUT, role_digest};
use crate::{
    audit::record::{CallEntry, RecordDraft},
    digest::Digest,
    ids::{DecisionId, GrantId, QuoteId},
    money::Micros,
    policy::{
        AnswerWord, Covered, History, Intent, IntentSource, Pin, Point, ProofState, Question,
        Resource, Risk, Session, Signal, Tier, Trust,
    },
    time::UnixMs,
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Names that records do not say: those that policies speak of, so that they are known again.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// People, by pseudonym.
    humans: BTreeMap<Digest, Arc<str>>,
    /// Roles, by their digests.
    roles: BTreeMap<String, Arc<str>>,
}

impl Names {
    /// A person (`issuer|subject`) of this pseudonym.
    pub fn human(&mut self, pseudonym: Digest, name: &str) {
        self.humans.insert(pseudonym, name.into());
    }

    /// A role of a tenant, as its issuer writes it.
    pub fn role(&mut self, tenant: &str, role: &str) {
        self.roles.insert(role_digest(tenant, role), role.into());
    }
}

/// Why a record does not say what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotRecorded {
    /// Policy was not asked: the call was refused before, or the record is of another kind.
    NotAsked,
    /// The record is older than the form.
    Older,
    /// A text was too long for the record.
    Cut,
    /// There were more roles than fit, and policies speak of roles.
    Roles,
    /// A member is missing or not of its form.
    Malformed(&'static str),
}

impl fmt::Display for NotRecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("refused before policy was asked"),
            Self::Older => f.write_str("recorded by an older version, without what was asked"),
            Self::Cut => f.write_str("a text was too long for the record"),
            Self::Roles => f.write_str("more roles than a record holds, and a policy names one"),
            Self::Malformed(name) => write!(f, "`{name}` is not of its form"),
        }
    }
}

/// A decision as it was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What was asked.
    pub question: Question,
    /// What was answered.
    pub answer: AnswerWord,
    /// Words of the obligations that came with it.
    pub obligations: Vec<String>,
    /// The policies that decided.
    pub policies: Vec<String>,
}

/// The words of one detail: `first name=value flag`.
struct Words<'a> {
    detail: &'static str,
    text: &'a str,
}

impl Recorded {
    /// Reads the record of a decision.
    ///
    /// # Errors
    /// What is missing there.
    pub fn read(draft: &RecordDraft, names: &Names) -> Result<Self, NotRecorded> {
        let Some(id) = draft.decision else { return Err(NotRecorded::NotAsked) };
        let call = draft.call().ok_or(NotRecorded::NotAsked)?;
        let answer = match detail(draft, "answer") {
            Err(_) => return Err(NotRecorded::Older),
            Ok("allow") => AnswerWord::Allow,
            Ok("challenge") => AnswerWord::Challenge,
            Ok("deny") => AnswerWord::Deny,
            Ok(_) => return Err(NotRecorded::Malformed("answer")),
        };
        let question = question(draft, call, id, names)?;
        let word = |text: &str| text.split('#').next().unwrap_or_default().to_owned();
        let words = |name| listed(draft, name).map(word).collect();
        let (obligations, policies) = (words("obligations"), words("reasons"));
        Ok(Self { question, answer, obligations, policies })
    }

    /// The evaluation.
    #[must_use]
    pub const fn id(&self) -> DecisionId {
        self.question.id
    }
}

fn question(
    draft: &RecordDraft,
    call: &CallEntry,
    id: DecisionId,
    names: &Names,
) -> Result<Question, NotRecorded> {
    use NotRecorded::Malformed;
    let of = |name| Ok(Words { detail: name, text: detail(draft, name)? });
    let (facts, tool, caller, intent) = (of("facts")?, of("tool")?, of("caller")?, of("intent")?);
    if facts.has(CUT) {
        return Err(NotRecorded::Cut);
    }
    let entry = call.tool.as_ref().ok_or(Malformed("tool"))?;
    let points = detail(draft, "risk.points").unwrap_or_default();
    Ok(Question {
        id,
        call_digest: call.call_digest,
        tenant: Arc::clone(&call.tenant),
        human: human(call, names),
        is_human: caller.number("human")?,
        roles: roles(listed(draft, "roles.digests"), names)?,
        acr: detail(draft, "acr").ok().map(Arc::from),
        sign_in_age_s: facts.optional("sign_in_age_s")?,
        agent: call.agent.clone().ok_or(Malformed("agent"))?,
        assurance: caller.number("assurance")?,
        chain_depth: caller.number("chain")?,
        server: Arc::clone(&entry.server),
        tool: Arc::clone(&entry.name),
        resource: resource(detail(draft, "resource")?)?,
        arguments: Digest::from_bytes([0; 32]),
        sensitivity: tool.number("sensitivity")?,
        is_reversible: tool.number("reversible")?,
        is_open_world: tool.number("open_world")?,
        definition: entry.definition,
        pin: tool.one_of("definition", &Pin::ALL, Pin::text)?,
        intent: intent.first(Intent::from_text)?,
        derived: intent.one_of("derived", &Intent::ALL, Intent::text)?,
        declared: declared(&intent)?,
        source: intent.one_of("from", &IntentSource::ALL, IntentSource::text)?,
        purpose: None,
        quote: draft.quote.unwrap_or_else(|| QuoteId::from_bytes([0; 16])),
        terms: Digest::from_bytes([0; 32]),
        price: Micros(of("micros")?.first(|text| text.parse().ok())?),
        price_text: detail(draft, "price")?.to_owned(),
        identity: facts.one_of("identity", &ProofState::ALL, ProofState::text)?,
        payment: facts.one_of("payment", &ProofState::ALL, ProofState::text)?,
        consent: facts.one_of("consent", &ProofState::ALL, ProofState::text)?,
        grant: grant(&facts)?,
        remaining: remaining(detail(draft, "remaining")?)?,
        tightest: detail(draft, "tightest").ok().map(Arc::from),
        history: read_history(&of("history")?)?,
        risk: risk(&of("risk")?, points)?,
        trust: trust(&of("tier")?)?,
        session: read_session(&of("session")?)?,
        fulfilled: listed(draft, "fulfilled").map(Arc::from).collect(),
        now: UnixMs(facts.number("at")?),
    })
}

fn detail<'a>(draft: &'a RecordDraft, name: &'static str) -> Result<&'a str, NotRecorded> {
    draft.detail.get(name).map(String::as_str).ok_or(NotRecorded::Malformed(name))
}

fn listed<'a>(draft: &'a RecordDraft, name: &'static str) -> impl Iterator<Item = &'a str> {
    detail(draft, name).unwrap_or_default().split_whitespace()
}

fn human(call: &CallEntry, names: &Names) -> Arc<str> {
    let Some(pseudonym) = &call.delegator else { return "anonymous".into() };
    names.humans.get(pseudonym).cloned().unwrap_or_else(|| pseudonym.to_hex().into())
}

fn declared(text: &Words<'_>) -> Result<Option<Intent>, NotRecorded> {
    match text.value("declared").ok_or(text.malformed())? {
        "none" => Ok(None),
        word => Intent::from_text(word).map(Some).ok_or(text.malformed()),
    }
}

fn remaining(text: &str) -> Result<Option<Micros>, NotRecorded> {
    match text {
        "none" => Ok(None),
        left => {
            let left = left.parse().map_err(|_| NotRecorded::Malformed("remaining"))?;
            Ok(Some(Micros(left)))
        }
    }
}

/// Those whose names are known under them; the others under their digests, which no policy names.
fn roles<'a>(
    digests: impl Iterator<Item = &'a str>,
    names: &Names,
) -> Result<Vec<Arc<str>>, NotRecorded> {
    let mut roles = Vec::new();
    for digest in digests {
        if digest.starts_with('+') {
            if names.roles.is_empty() { break } else { return Err(NotRecorded::Roles) }
        }
        roles.push(names.roles.get(digest).cloned().unwrap_or_else(|| digest.into()));
    }
    Ok(roles)
}

fn resource(text: &str) -> Result<Resource, NotRecorded> {
    let (kind, id) = text.split_once(' ').ok_or(NotRecorded::Malformed("resource"))?;
    Ok(Resource { kind: kind.into(), id: id.into() })
}

fn grant(facts: &Words<'_>) -> Result<Option<Covered>, NotRecorded> {
    let (per_call, expires) = (facts.optional("per_call")?, facts.optional("expires")?);
    let words = facts.value("intents").unwrap_or_default().split(',');
    let intents = words.filter(|word| !word.is_empty()).map(Intent::from_text);
    let intents: Option<Vec<Intent>> = intents.collect();
    let (intents, left) = (intents.ok_or(facts.malformed())?, facts.optional("left")?);
    Ok(per_call.zip(expires).map(|(per_call, expires)| Covered {
        id: GrantId::from_bytes([0; 16]),
        per_call: Micros(per_call),
        remaining: left.map(Micros),
        intents,
        expires_at: UnixMs(expires),
    }))
}

fn read_history(text: &Words<'_>) -> Result<History, NotRecorded> {
    Ok(History {
        is_judged: text.has("judged"),
        median: text.optional("median")?.map(Micros),
        is_payee_first: text.has("payee_first"),
        is_payee_changed: text.has("payee_changed"),
        is_asset_changed: text.has("asset_changed"),
        is_tool_first: text.has("tool_first"),
        server_age_s: text.optional("server_age_s")?,
        calls_this_hour: text.number("calls")?,
        hourly_mean: text.optional("mean")?,
        same_calls: text.number("same")?,
        budget_percent: text.number("budget")?,
    })
}

fn read_session(text: &Words<'_>) -> Result<Session, NotRecorded> {
    let id = text.value("id").map(|hex| Digest::from_hex(hex).map_err(|_| text.malformed()));
    Ok(Session {
        id: id.transpose()?,
        is_tainted: text.number("tainted")?,
        is_private: text.number("private")?,
        calls_last_minute: text.number("calls")?,
    })
}

/// The points but one are for looking: what counts is the score. A provider's are kept.
fn risk(text: &Words<'_>, points: &str) -> Result<Risk, NotRecorded> {
    let (_, band) = text.text.split_once(' ').ok_or(text.malformed())?;
    let provider = points.split_whitespace().find_map(|point| {
        let (code, points) = point.split_once('+')?;
        let is_provider = code == Signal::Provider.code();
        is_provider.then_some(Point { code: Signal::Provider, points: points.parse().ok()? })
    });
    Ok(Risk {
        score: text.first(|word| word.parse().ok())?,
        band: band.into(),
        points: provider.into_iter().collect(),
        model: Digest::from_bytes([0; 32]),
    })
}

/// What the tier allows is not recorded: it follows from the tables of whoever answers.
fn trust(text: &Words<'_>) -> Result<Trust, NotRecorded> {
    let tier = |name| text.one_of(name, &Tier::ALL, Tier::text);
    Ok(Trust {
        agent: tier("agent")?,
        human: tier("human")?,
        consent: tier("consent")?,
        server: tier("server")?,
        may: false,
        price_cap: Micros(0),
        max_risk: 0,
    })
}

impl<'a> Words<'a> {
    fn malformed(&self) -> NotRecorded {
        NotRecorded::Malformed(self.detail)
    }

    fn words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text.split_whitespace()
    }

    fn has(&self, flag: &str) -> bool {
        self.words().any(|word| word == flag)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.words()
            .filter_map(|word| word.split_once('='))
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    fn first<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<T, NotRecorded> {
        self.words().next().and_then(read).ok_or(self.malformed())
    }

    /// A number, or `true` or `false`.
    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, NotRecorded> {
        self.value(name).and_then(|text| text.parse().ok()).ok_or(self.malformed())
    }

    fn optional<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, NotRecorded> {
        if self.value(name).is_some() { self.number(name).map(Some) } else { Ok(None) }
    }

    fn one_of<T: Copy>(
        &self,
        name: &str,
        all: &[T],
        text: impl Fn(T) -> &'static str,
    ) -> Result<T, NotRecorded> {
        let found = self.value(name);
        let found = all.iter().find(|one| found == Some(text(**one)));
        found.copied().ok_or(self.malformed())
    }
}
