//! What a policy's annotations say: its reason, and the obligation that lifts it.
//!
//! INVARIANT: obligations are a closed list; an annotation that is not understood is kept as
//! [`Duty::Unknown`], which denies.

use super::problem::Flaw;
use cedar_policy::{Effect, Policy};
use countersign_core::policy::{Obligation, Reason};
use serde::Deserialize;
use std::collections::BTreeSet;

/// One policy, as far as the engine needs to know it after Cedar has matched it.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) effect: Effect,
    pub(super) duty: Duty,
    code: String,
}

/// What lifts a forbid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing.
    None,
    /// Meeting this.
    Known(Obligation),
    /// Nobody knows.
    Unknown,
}

impl Duty {
    pub(super) const fn known(&self) -> Option<&Obligation> {
        match self {
            Self::Known(obligation) => Some(obligation),
            Self::None | Self::Unknown => None,
        }
    }
}

impl Rule {
    /// The rule of a policy whose id is set, and what is wrong with its annotations.
    pub(super) fn read(policy: &Policy) -> (Self, Vec<Flaw>) {
        let mut flaws: Vec<Flaw> = policy
            .annotations()
            .filter(|(name, _)| !["id", "reason", "obligation", "params"].contains(name))
            .map(|(name, _)| Flaw::UnknownAnnotation(name.to_owned()))
            .collect();
        let code = policy.annotation("reason").unwrap_or_default().to_owned();
        match policy.annotation("reason") {
            None => flaws.push(Flaw::NoReason),
            Some(reason) if !is_reason(reason) => flaws.push(Flaw::BadReason(reason.to_owned())),
            Some(_) => {}
        }
        let duty = duty(policy).unwrap_or_else(|flaw| {
            flaws.push(flaw);
            Duty::Unknown
        });
        if duty != Duty::None && policy.effect() == Effect::Permit {
            flaws.push(Flaw::ObligationOnPermit);
        }
        (Self { id: policy.id().to_string(), effect: policy.effect(), duty, code }, flaws)
    }

    pub(super) fn reason(&self) -> Reason {
        Reason { code: self.code.clone(), policy: self.id.clone() }
    }

    /// What its obligation does, in a sentence.
    pub(super) fn sentence(&self) -> Option<String> {
        let id = &self.id;
        self.duty.known().map(|obligation| match obligation {
            Obligation::HumanConfirm { ttl_s } => {
                format!("`{id}`: a person confirms the call within {ttl_s} s.")
            }
            Obligation::Redact { pointers } => {
                format!("`{id}`: {} removed from the result.", pointers.join(", "))
            }
            Obligation::CapBytes { bytes } => {
                format!("`{id}`: the result's text is cut beyond {bytes} bytes.")
            }
        })
    }
}

/// The strictest of each kind: the shortest time, every pointer, the smallest cap.
pub(super) fn merged(duties: &[&Obligation]) -> Vec<Obligation> {
    let (mut ttl, mut all_pointers, mut cap) = (None, BTreeSet::new(), None);
    for duty in duties {
        match duty {
            Obligation::HumanConfirm { ttl_s } => {
                ttl = Some(ttl.map_or(*ttl_s, |least: u64| least.min(*ttl_s)));
            }
            Obligation::Redact { pointers } => all_pointers.extend(pointers.iter().cloned()),
            Obligation::CapBytes { bytes } => {
                cap = Some(cap.map_or(*bytes, |least: u64| least.min(*bytes)));
            }
        }
    }
    let confirm = ttl.map(|ttl_s| Obligation::HumanConfirm { ttl_s });
    let redact = (!all_pointers.is_empty())
        .then(|| Obligation::Redact { pointers: all_pointers.into_iter().collect() });
    let cap = cap.map(|bytes| Obligation::CapBytes { bytes });
    confirm.into_iter().chain(redact).chain(cap).collect()
}

fn is_reason(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(word)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HumanConfirmParams {
    ttl_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedactParams {
    pointers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapBytesParams {
    bytes: u64,
}

fn duty(policy: &Policy) -> Result<Duty, Flaw> {
    let params = policy.annotation("params");
    let Some(word) = policy.annotation("obligation") else {
        return if params.is_some() { Err(Flaw::ParamsAlone) } else { Ok(Duty::None) };
    };
    match word {
        "human_confirm" => human_confirm(params),
        "redact" => redact(params),
        "cap_bytes" => cap_bytes(params),
        other => Err(Flaw::UnknownObligation(other.to_owned())),
    }
    .map(Duty::Known)
}

/// Between a second and a day; five minutes when nothing is said.
fn human_confirm(params: Option<&str>) -> Result<Obligation, Flaw> {
    let HumanConfirmParams { ttl_s } = parsed(params.unwrap_or(r#"{"ttl_s":300}"#))?;
    if !(1..=86_400).contains(&ttl_s) {
        return Err(bad_params("`ttl_s` is from 1 to 86400"));
    }
    Ok(Obligation::HumanConfirm { ttl_s })
}

/// At least one pointer below the root.
fn redact(params: Option<&str>) -> Result<Obligation, Flaw> {
    let RedactParams { pointers } =
        parsed(params.ok_or_else(|| bad_params("`pointers` is needed"))?)?;
    if pointers.is_empty() || pointers.len() > 64 {
        return Err(bad_params("`pointers` has from 1 to 64 entries"));
    }
    match pointers.iter().find(|pointer| !is_pointer(pointer)) {
        Some(pointer) => Err(bad_params(&format!("`{pointer}` is not a JSON pointer (RFC 6901)"))),
        None => Ok(Obligation::Redact { pointers }),
    }
}

fn cap_bytes(params: Option<&str>) -> Result<Obligation, Flaw> {
    let CapBytesParams { bytes } = parsed(params.ok_or_else(|| bad_params("`bytes` is needed"))?)?;
    if bytes == 0 {
        return Err(bad_params("`bytes` is at least 1"));
    }
    Ok(Obligation::CapBytes { bytes })
}

fn is_pointer(text: &str) -> bool {
    let escapes_fit = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && escapes_fit
}

fn parsed<'a, T: Deserialize<'a>>(params: &'a str) -> Result<T, Flaw> {
    serde_json::from_str(params).map_err(|error| bad_params(&error.to_string()))
}

fn bad_params(text: &str) -> Flaw {
    Flaw::BadParams(text.to_owned())
}
