//! The tests inside a bundle: what it must answer to questions of its own.
//!
//! A file in `tests/` is `{"version": 1, "tests": [{"name", "question", "expect"}]}`. A question is
//! the members that differ from a harmless one: somebody's agent reads something for next to
//! nothing. What is expected is the answer, and, where they are given, the reasons' codes and the
//! obligations' words, all of them. Instead of a `question` about a call there can be an `access`
//! to things of the bundle's own, as AuthZEN writes it.

use super::{Access, Bundle, Engine, Thing};
use countersign_core::{
    policy::{Answer, AnswerWord, DenyCause, Question, Reason},
    time::UnixMs,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::BTreeSet, fmt};

/// The version of the files' form.
const VERSION: u32 = 1;

/// One test that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// In which file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// The policies that decided it.
    pub decided_by: Vec<String>,
    /// What was expected and did not come; `None` when all came as expected.
    pub failure: Option<String>,
}

/// A test that failed, or a file that holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialFailure {
    /// In which file.
    pub file: String,
    /// Its name; empty for the whole file.
    pub name: String,
    /// How.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: u32,
    tests: Vec<RawTest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    name: String,
    #[serde(default)]
    question: Value,
    access: Option<RawAccess>,
    expect: RawExpect,
}

/// A question of AuthZEN.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccess {
    subject: RawThing,
    action: RawAction,
    resource: RawThing,
    #[serde(default)]
    context: Map<String, Value>,
    #[serde(default)]
    now_ms: UnixMs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThing {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAction {
    name: String,
    #[serde(default)]
    properties: Map<String, Value>,
}

impl RawAccess {
    fn access(&self) -> Access {
        let thing = |raw: &RawThing| Thing {
            kind: raw.kind.clone(),
            id: raw.id.clone(),
            properties: raw.properties.clone(),
        };
        Access {
            subject: thing(&self.subject),
            action: self.action.name.clone(),
            action_properties: self.action.properties.clone(),
            resource: thing(&self.resource),
            context: self.context.clone(),
            now: self.now_ms,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    answer: AnswerWord,
    reasons: Option<BTreeSet<String>>,
    obligations: Option<BTreeSet<String>>,
}

/// Runs all tests of a bundle on the engine that was made of it.
///
/// # Errors
/// Files that cannot be read as tests.
pub fn run(bundle: &Bundle, engine: &Engine) -> Result<Vec<Trial>, Vec<TrialFailure>> {
    let (mut trials, mut flaws) = (Vec::new(), Vec::new());
    for (file, text) in bundle.tests() {
        match read(text) {
            Ok(tests) => trials.extend(tests.iter().map(|test| put(file, test, engine))),
            Err(message) => {
                let (file, name) = (file.to_owned(), String::new());
                flaws.push(TrialFailure { file, name, message });
            }
        }
    }
    if flaws.is_empty() { Ok(trials) } else { Err(flaws) }
}

/// As [`run`], for those who want only to know whether all is well.
///
/// # Errors
/// What failed.
pub(super) fn check(bundle: &Bundle, engine: &Engine) -> Result<(), Vec<TrialFailure>> {
    let failed = |trial: Trial| {
        let message = trial.failure?;
        Some(TrialFailure { file: trial.file, name: trial.name, message })
    };
    let failures: Vec<_> = run(bundle, engine)?.into_iter().filter_map(failed).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn read(text: &str) -> Result<Vec<RawTest>, String> {
    let file: RawFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.version == VERSION {
        return Ok(file.tests);
    }
    Err(format!("version {} is unknown: this is version {VERSION}", file.version))
}

fn put(file: &str, test: &RawTest, engine: &Engine) -> Trial {
    let (decided_by, failure) = match answered(test, engine) {
        Ok((answer, reasons)) => {
            let by = reasons.iter().map(|reason| reason.policy.clone()).collect();
            (by, test.expect.differs(&answer, &reasons))
        }
        Err(message) => (Vec::new(), Some(message)),
    };
    Trial { file: file.to_owned(), name: test.name.clone(), decided_by, failure }
}

/// What the bundle says to a test.
fn answered(test: &RawTest, engine: &Engine) -> Result<(Answer, Vec<Reason>), String> {
    let Some(access) = &test.access else {
        let decision = engine.decide(&Engine::patched_question(&test.question)?);
        return Ok((decision.answer, decision.reasons));
    };
    if !test.question.is_null() {
        return Err("a test asks one thing: `question` or `access`".to_owned());
    }
    let answered = engine.decide_access(&access.access());
    let answer = match answered.is_allowed {
        true => Answer::Allow(Vec::new()),
        false => Answer::Deny(DenyCause::Rule),
    };
    Ok((answer, answered.reasons))
}

impl RawExpect {
    fn differs(&self, answer: &Answer, reasons: &[Reason]) -> Option<String> {
        let found = words(answer);
        let answer = answer.word();
        let reasons: BTreeSet<_> = reasons.iter().map(|reason| reason.code.clone()).collect();
        if answer != self.answer {
            return Some(format!(
                "expected {:?}, got {answer:?} for {}",
                self.answer,
                listed(&reasons)
            ));
        }
        let other = |name: &str, expected: &Option<BTreeSet<String>>, found: &BTreeSet<String>| {
            let expected = expected.as_ref().filter(|expected| *expected != found)?;
            Some(format!("expected {name} {}, got {}", listed(expected), listed(found)))
        };
        other("reasons", &self.reasons, &reasons)
            .or_else(|| other("obligations", &self.obligations, &found))
    }
}

/// The words of the obligations.
fn words(answer: &Answer) -> BTreeSet<String> {
    answer.obligations().iter().map(|duty| duty.word().to_owned()).collect()
}

fn listed(words: &BTreeSet<String>) -> String {
    let all: Vec<&str> = words.iter().map(String::as_str).collect();
    format!("[{}]", all.join(", "))
}

impl Engine {
    /// The harmless question, changed by a merge patch.
    ///
    /// # Errors
    /// What does not fit.
    pub fn patched_question(patch: &Value) -> Result<Question, String> {
        let told = |error: serde_json::Error| format!("the question: {error}");
        let mut question = serde_json::to_value(Self::sample_question()).map_err(told)?;
        if !patch.is_null() && !patch.is_object() {
            return Err("the question is not an object".to_owned());
        }
        merge(&mut question, patch);
        serde_json::from_value(question).map_err(told)
    }
}

/// RFC 7396, but that a `null` is kept: here it says that something is not there.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    let Value::Object(members) = target else { return };
    for (name, value) in patch {
        match members.get_mut(name) {
            Some(old @ Value::Object(_)) if value.is_object() => merge(old, value),
            _ => {
                members.insert(name.clone(), value.clone());
            }
        }
    }
}

impl fmt::Display for TrialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.is_empty() {
            true => write!(f, "{}: {}", self.file, self.message),
            false => write!(f, "{}: `{}`: {}", self.file, self.name, self.message),
        }
    }
}
