//! What a policy's annotations say: its reason, and the obligation that lifts it.
//!
//! INVARIANT: obligations are a closed list; an annotation that is not understood is kept as
//! [`Duty::Unknown`], which denies.

use super::{duties, problem::Flaw};
use cedar_policy::{Effect, Policy};
use countersign_core::policy::{Obligation, Reason};

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
        self.duty.known().map(|duty| format!("`{}`: {}", self.id, duties::sentence(duty)))
    }
}

fn is_reason(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(word)
}

fn duty(policy: &Policy) -> Result<Duty, Flaw> {
    let params = policy.annotation("params");
    let Some(word) = policy.annotation("obligation") else {
        return if params.is_some() { Err(Flaw::ParamsAlone) } else { Ok(Duty::None) };
    };
    duties::read(word, params).map(Duty::Known)
}
