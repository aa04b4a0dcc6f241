//! What stands in the record of a decision, and the way back from it to the question.
//!
//! INVARIANT: no name of a person and no argument enters: a person is the record's pseudonym, a
//! role a digest of eight bytes. What the record says anyway (tenant, agent, tool) is not said
//! twice.
//! INVARIANT: what was put on record answers as it did: a question that is read back differs from
//! the one that was asked only in what no policy can see (identifiers, digests), and in names that
//! nobody gave ([`Names`]).

mod read;

pub use read::{Names, NotRecorded, Recorded};

use super::{
    Decision,
    intent::Intent,
    obligation::Obligation,
    question::{History, ProofState, Question, Session, Trust},
    risk::Risk,
};
use crate::{audit::record::Details, digest::Digest, wire::json};
use std::{borrow::Cow, fmt::Write as _};

/// What one detail may take as JSON, in bytes.
const DETAIL_BYTES_MAX: usize = 400;
/// What all of them may take together: with the longest names that a call may have, and all else
/// that a record says, less than a record may be.
const DETAILS_BYTES_MAX: usize = 3 * 1024;
/// Quotes, colon and comma around a detail's name and value.
const AROUND: usize = 6;
/// Digests of roles that fit.
const ROLES_MAX: usize = 22;
/// What tells of the answer, not of the question: it may be cut.
const LISTS: [&str; 2] = ["obligations", "reasons"];
/// The first of the facts when a text did not fit.
const CUT: &str = "cut";

/// What a decision was made of and what it says, for its record: short texts by name.
#[must_use]
pub fn recorded(question: &Question, decision: &Decision) -> Details {
    let answer = &decision.answer;
    let reasons = decision.reasons.iter().map(|reason| &*reason.policy);
    let optional = [
        ("acr", question.acr.as_deref().map(str::to_owned)),
        ("fulfilled", words(question.fulfilled.iter().map(|word| &**word))),
        ("bundle.revision", decision.revision.map(|revision| revision.to_string())),
        ("obligations", obligations(answer.obligations())),
        ("reasons", words(reasons)),
        ("roles.digests", role_digests(question)),
        ("tightest", question.tightest.as_deref().map(str::to_owned)),
    ];
    let mut details: Details = [
        ("answer", answer.word().text().to_owned()),
        ("caller", caller(question)),
        ("evaluation.ms", decision.took_ms.to_string()),
        ("facts", facts(question)),
        ("history", history(&question.history)),
        ("intent", intent(question)),
        ("micros", question.price.0.to_string()),
        ("price", question.price_text.clone()),
        ("remaining", question.remaining.map_or("none".to_owned(), |left| left.0.to_string())),
        ("resource", format!("{} {}", question.resource.kind, question.resource.id)),
        ("risk", format!("{} {}", question.risk.score, question.risk.band)),
        ("risk.model", question.risk.model.to_hex()),
        ("risk.points", points(&question.risk)),
        ("session", session(&question.session)),
        ("tier", tiers(&question.trust)),
        ("tool", tool(question)),
    ]
    .into_iter()
    .chain(optional.into_iter().filter_map(|(name, value)| Some((name, value?))))
    .map(|(name, value)| (Cow::Borrowed(name), value))
    .collect();
    cut_to_fit(&mut details);
    details
}

/// Adds what else the record says, as far as there is room.
pub fn add(details: &mut Details, more: impl IntoIterator<Item = (&'static str, String)>) {
    for (name, mut value) in more {
        let taken = taken(details, &sizes(details), DETAIL_BYTES_MAX) + name.len() + AROUND;
        let left = DETAILS_BYTES_MAX.saturating_sub(taken);
        value.truncate(fitting(&value, left.min(DETAIL_BYTES_MAX)));
        details.insert(Cow::Borrowed(name), value);
    }
}

/// Cuts the longest so that all of them fit; the facts say so unless only lists were cut.
fn cut_to_fit(details: &mut Details) {
    let sizes = sizes(details);
    let most = room_each(details, &sizes);
    if sizes.iter().all(|size| *size <= most) {
        return;
    }
    let mut sized = details.keys().zip(sizes);
    if sized.any(|(name, size)| !LISTS.contains(&&**name) && size > most)
        && let Some(facts) = details.get_mut("facts")
    {
        facts.insert_str(0, &format!("{CUT} "));
    }
    for value in details.values_mut() {
        value.truncate(fitting(value, most));
    }
}

/// What one detail may take here, so that all of them fit.
fn room_each(details: &Details, sizes: &[usize]) -> usize {
    let fits = |most: &usize| taken(details, sizes, *most) <= DETAILS_BYTES_MAX;
    let halves = std::iter::successors(Some(DETAIL_BYTES_MAX), |most| Some(most / 2));
    halves.take_while(|most| *most > 0).find(fits).unwrap_or(0)
}

/// What each value takes as JSON.
fn sizes(details: &Details) -> Vec<usize> {
    details.values().map(|value| json::escaped_bytes(value)).collect()
}

/// What details take as JSON, each value at most so much.
fn taken(details: &Details, sizes: &[usize], most: usize) -> usize {
    let each = details
        .keys()
        .zip(sizes)
        .map(|(name, size)| name.len().saturating_add(*size.min(&most)).saturating_add(AROUND));
    each.sum()
}

/// How much of a text takes at most so many bytes: a control character takes six.
fn fitting(text: &str, most: usize) -> usize {
    let mut left = most;
    for (at, char) in text.char_indices() {
        let bytes = json::escaped_bytes(char.encode_utf8(&mut [0; 4]));
        let Some(rest) = left.checked_sub(bytes) else { return at };
        left = rest;
    }
    text.len()
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let words: Vec<&str> = words.collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Each with its identifier within the decision.
fn obligations(obligations: &[Obligation]) -> Option<String> {
    let named = obligations.iter().zip(1..).map(|(duty, id)| format!("{}#{id}", duty.word()));
    let named: Vec<String> = named.collect();
    words(named.iter().map(String::as_str))
}

fn points(risk: &Risk) -> String {
    let mut text = String::with_capacity(160);
    for point in &risk.points {
        let gap = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{gap}{}+{}", point.code.code(), point.points);
    }
    text
}

fn intent(question: &Question) -> String {
    format!(
        "{} derived={} declared={} from={}",
        question.intent.text(),
        question.derived.text(),
        question.declared.map_or("none", Intent::text),
        question.source.text(),
    )
}

fn tiers(trust: &Trust) -> String {
    format!(
        "{} agent={} human={} consent={} server={}",
        trust.effective(),
        trust.agent,
        trust.human,
        trust.consent,
        trust.server,
    )
}

fn tool(question: &Question) -> String {
    format!(
        "sensitivity={} reversible={} open_world={} definition={}",
        question.sensitivity,
        question.is_reversible,
        question.is_open_world,
        question.pin.text(),
    )
}

fn session(session: &Session) -> String {
    let mut text = format!(
        "tainted={} private={} calls={}",
        session.is_tainted, session.is_private, session.calls_last_minute
    );
    if let Some(id) = &session.id {
        let _ = write!(text, " id={}", id.to_hex());
    }
    text
}

fn caller(question: &Question) -> String {
    format!(
        "human={} assurance={} chain={}",
        question.is_human, question.assurance, question.chain_depth
    )
}

/// What else policies see, and no other detail says.
fn facts(question: &Question) -> String {
    let proof = |state: ProofState| state.text();
    let mut text = format!(
        "at={} identity={} payment={} consent={}",
        question.now.0,
        proof(question.identity),
        proof(question.payment),
        proof(question.consent),
    );
    if let Some(grant) = &question.grant {
        let _ = write!(text, " per_call={} expires={}", grant.per_call.0, grant.expires_at.0);
        if let Some(left) = grant.remaining {
            let _ = write!(text, " left={}", left.0);
        }
        let intents: Vec<&str> = grant.intents.iter().map(|intent| intent.text()).collect();
        let _ = write!(text, " intents={}", intents.join(","));
    }
    if let Some(age_s) = question.sign_in_age_s {
        let _ = write!(text, " sign_in_age_s={age_s}");
    }
    text
}

fn history(history: &History) -> String {
    let mut text = format!(
        "calls={} same={} budget={}",
        history.calls_this_hour, history.same_calls, history.budget_percent
    );
    let numbers = [
        ("median", history.median.map(|median| median.0)),
        ("server_age_s", history.server_age_s),
        ("mean", history.hourly_mean),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            let _ = write!(text, " {name}={number}");
        }
    }
    let marks = [
        ("judged", history.is_judged),
        ("payee_first", history.is_payee_first),
        ("payee_changed", history.is_payee_changed),
        ("asset_changed", history.is_asset_changed),
        ("tool_first", history.is_tool_first),
    ];
    for (name, _) in marks.into_iter().filter(|(_, is_so)| *is_so) {
        let _ = write!(text, " {name}");
    }
    text
}

/// Of as many roles as fit, and how many more there are.
fn role_digests(question: &Question) -> Option<String> {
    let more = question.roles.len().saturating_sub(ROLES_MAX);
    let digests = question.roles.iter().take(ROLES_MAX);
    let digests: Vec<String> = digests.map(|role| role_digest(&question.tenant, role)).collect();
    let text = words(digests.iter().map(String::as_str))?;
    Some(if more == 0 { text } else { format!("{text} +{more}") })
}

/// How a role stands in a record.
fn role_digest(tenant: &str, role: &str) -> String {
    let digest = Digest::of_parts(&[b"role", tenant.as_bytes(), role.as_bytes()]);
    digest.to_hex().chars().take(16).collect()
}

#[cfg(test)]
mod tests;
