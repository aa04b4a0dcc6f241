//! Obligations as policies write them: a word and its parameters, what they mean together, and
//! what each does in a sentence.
//!
//! INVARIANT: a parameter that is unknown, out of range or does not compile refuses the bundle.

use super::problem::Flaw;
use countersign_core::{money::Micros, policy::Obligation};
use regex::RegexBuilder;
use serde::Deserialize;
use std::{collections::BTreeSet, sync::Arc};

/// How long people have, when nothing is said, in seconds.
const TTL_S: u64 = 300;
/// Most entries of a list of parameters.
const LIST_MAX: usize = 64;
/// The most memory that one pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HumanConfirm {
    #[serde(default = "ttl")]
    ttl_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MOfN {
    m: u8,
    #[serde(default)]
    roles: Vec<Arc<str>>,
    #[serde(default = "ttl")]
    ttl_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepUp {
    #[serde(default)]
    acr_values: Vec<Arc<str>>,
    max_age_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TighterBudget {
    micros: u64,
    window_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    calls: u32,
    per_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskArguments {
    pointers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redact {
    #[serde(default)]
    pointers: Vec<String>,
    #[serde(default)]
    patterns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapRows {
    rows: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapBytes {
    bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Notify {
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

const fn ttl() -> u64 {
    TTL_S
}

/// The obligation of an annotation.
pub(super) fn read(word: &str, params: Option<&str>) -> Result<Obligation, Flaw> {
    let params = params.unwrap_or("{}");
    match word {
        "human_confirm" => {
            let HumanConfirm { ttl_s } = parsed(params)?;
            within("ttl_s", ttl_s, 1, 86_400)?;
            Ok(Obligation::HumanConfirm { ttl_s })
        }
        "m_of_n" => {
            let MOfN { m, roles, ttl_s } = parsed(params)?;
            within("m", m.into(), 2, 16)?;
            within("ttl_s", ttl_s, 1, 86_400)?;
            check_list("roles", roles.len(), 0)?;
            if roles.iter().any(|role| role.is_empty()) {
                return Err(bad("a role has a name"));
            }
            Ok(Obligation::MOfN { m, roles, ttl_s })
        }
        "step_up" => step_up(parsed(params)?),
        "tighter_budget" => {
            let TighterBudget { micros, window_s } = parsed(params)?;
            within("window_s", window_s, 1, 31 * 86_400)?;
            Ok(Obligation::TighterBudget { limit: Micros(micros), window_s })
        }
        "rate" => {
            let Rate { calls, per_s } = parsed(params)?;
            within("calls", calls.into(), 1, 10_000)?;
            within("per_s", per_s, 1, 86_400)?;
            Ok(Obligation::Rate { calls, per_s })
        }
        "mask_arguments" => {
            let MaskArguments { pointers } = parsed(params)?;
            check_pointers(&pointers, 1)?;
            Ok(Obligation::MaskArguments { pointers })
        }
        "redact" => redact(parsed(params)?),
        "cap_rows" => {
            let CapRows { rows } = parsed(params)?;
            within("rows", rows, 1, u64::MAX)?;
            Ok(Obligation::CapRows { rows })
        }
        "cap_bytes" => {
            let CapBytes { bytes } = parsed(params)?;
            within("bytes", bytes, 1, u64::MAX)?;
            Ok(Obligation::CapBytes { bytes })
        }
        "notify" => {
            let Notify { to } = parsed(params)?;
            check_list("to", to.len(), 1)?;
            Ok(Obligation::Notify { to })
        }
        "enhanced_audit" => {
            let Nothing {} = parsed(params)?;
            Ok(Obligation::EnhancedAudit)
        }
        other => Err(Flaw::UnknownObligation(other.to_owned())),
    }
}

fn step_up(StepUp { acr_values, max_age_s }: StepUp) -> Result<Obligation, Flaw> {
    if acr_values.is_empty() && max_age_s.is_none() {
        return Err(bad("`acr_values` or `max_age_s` is needed"));
    }
    check_list("acr_values", acr_values.len(), 0)?;
    // They go into a header (RFC 9470 section 3), separated by spaces.
    let plain = |b: u8| (b'!'..=b'~').contains(&b) && b != b'"' && b != b'\\';
    if acr_values.iter().any(|acr| acr.is_empty() || !acr.bytes().all(plain)) {
        return Err(bad("`acr_values` are words of printable ASCII"));
    }
    if let Some(max_age_s) = max_age_s {
        within("max_age_s", max_age_s, 1, 31 * 86_400)?;
    }
    Ok(Obligation::StepUp { acr_values, max_age_s })
}

fn redact(Redact { pointers, patterns }: Redact) -> Result<Obligation, Flaw> {
    if pointers.is_empty() && patterns.is_empty() {
        return Err(bad("`pointers` or `patterns` is needed"));
    }
    check_pointers(&pointers, 0)?;
    check_list("patterns", patterns.len(), 0)?;
    for pattern in &patterns {
        let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        let is_empty = compiled.as_ref().is_ok_and(|compiled| compiled.is_match(""));
        if compiled.is_err() || is_empty {
            return Err(bad(&format!("`{pattern}` is no regular expression of something")));
        }
    }
    Ok(Obligation::Redact { pointers, patterns })
}

fn check_pointers(pointers: &[String], least: usize) -> Result<(), Flaw> {
    check_list("pointers", pointers.len(), least)?;
    match pointers.iter().find(|pointer| !is_pointer(pointer)) {
        Some(pointer) => Err(bad(&format!("`{pointer}` is not a JSON pointer (RFC 6901)"))),
        None => Ok(()),
    }
}

/// Below the root.
fn is_pointer(text: &str) -> bool {
    let escapes_fit = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && escapes_fit
}

fn check_list(name: &str, length: usize, least: usize) -> Result<(), Flaw> {
    if (least..=LIST_MAX).contains(&length) {
        return Ok(());
    }
    Err(bad(&format!("`{name}` has from {least} to {LIST_MAX} entries")))
}

fn within(name: &str, value: u64, least: u64, most: u64) -> Result<(), Flaw> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    if most == u64::MAX {
        return Err(bad(&format!("`{name}` is at least {least}")));
    }
    Err(bad(&format!("`{name}` is from {least} to {most}")))
}

fn parsed<'a, T: Deserialize<'a>>(params: &'a str) -> Result<T, Flaw> {
    serde_json::from_str(params).map_err(|error| bad(&error.to_string()))
}

fn bad(text: &str) -> Flaw {
    Flaw::BadParams(text.to_owned())
}

/// What several come to: the strictest of a kind where that is one, else each of them.
pub(super) fn merged(duties: &[&Obligation]) -> Vec<Obligation> {
    let mut merged: Vec<Obligation> = Vec::with_capacity(duties.len());
    for duty in duties {
        let taken = merged.iter_mut().any(|known| join(known, duty));
        if !taken {
            merged.push((*duty).clone());
        }
    }
    merged.sort_by_key(|duty| Obligation::WORDS.iter().position(|word| *word == duty.word()));
    merged
}

/// Makes `known` as strict as both; `false` when they are two duties.
fn join(known: &mut Obligation, more: &Obligation) -> bool {
    use Obligation::{CapBytes, CapRows, HumanConfirm, MOfN, MaskArguments, Notify, Redact};
    match (&mut *known, more) {
        (HumanConfirm { ttl_s }, HumanConfirm { ttl_s: other }) => *ttl_s = (*ttl_s).min(*other),
        (MOfN { m, roles, ttl_s }, MOfN { m: more, roles: others, ttl_s: other }) => {
            let Some(both) = in_both(roles, others) else { return false };
            *roles = both;
            (*m, *ttl_s) = ((*m).max(*more), (*ttl_s).min(*other));
        }
        (MaskArguments { pointers }, MaskArguments { pointers: more })
        | (Notify { to: pointers }, Notify { to: more }) => unite(pointers, more),
        (Redact { pointers, patterns }, Redact { pointers: more, patterns: others }) => {
            unite(pointers, more);
            unite(patterns, others);
        }
        (CapRows { rows }, CapRows { rows: other }) => *rows = (*rows).min(*other),
        (CapBytes { bytes }, CapBytes { bytes: other }) => *bytes = (*bytes).min(*other),
        (known, more) => return known == more,
    }
    true
}

/// The roles that fulfil both; `None` where no role does.
fn in_both(roles: &[Arc<str>], others: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
    if roles.is_empty() || others.is_empty() {
        return Some([roles, others].concat());
    }
    let both: Vec<_> = roles.iter().filter(|role| others.contains(role)).cloned().collect();
    (!both.is_empty()).then_some(both)
}

fn unite(list: &mut Vec<String>, more: &[String]) {
    let all: BTreeSet<String> = list.drain(..).chain(more.iter().cloned()).collect();
    list.extend(all);
}

/// What an obligation does.
pub(super) fn sentence(duty: &Obligation) -> String {
    match duty {
        Obligation::HumanConfirm { ttl_s } => {
            format!("a person confirms the call within {ttl_s} s.")
        }
        Obligation::MOfN { m, roles, ttl_s } => {
            let who = if roles.is_empty() {
                String::new()
            } else {
                format!(" with the role {}", roles.join(" or "))
            };
            format!("{m} different people{who} confirm the call within {ttl_s} s.")
        }
        Obligation::StepUp { acr_values, max_age_s } => {
            let class = if acr_values.is_empty() {
                String::new()
            } else {
                format!(" as {}", acr_values.join(" or "))
            };
            let age = max_age_s.map_or(String::new(), |age| format!(" within the last {age} s"));
            format!("the person has signed in{class}{age}.")
        }
        Obligation::TighterBudget { limit, window_s } => {
            format!("the agent spends at most {limit} within {window_s} s.")
        }
        Obligation::Rate { calls, per_s } => {
            format!("at most {calls} calls of the tool by the agent within {per_s} s.")
        }
        Obligation::MaskArguments { pointers } => {
            format!("{} removed from the arguments.", pointers.join(", "))
        }
        Obligation::Redact { pointers, patterns } => {
            let all = [pointers.as_slice(), patterns.as_slice()].concat();
            format!("{} removed from the result.", all.join(", "))
        }
        Obligation::CapRows { rows } => {
            format!("each list of the result is cut after {rows} entries.")
        }
        Obligation::CapBytes { bytes } => {
            format!("the result's text is cut beyond {bytes} bytes.")
        }
        Obligation::Notify { to } => format!("{} is told.", to.join(", ")),
        Obligation::EnhancedAudit => "the decision's record says more.".to_owned(),
    }
}
