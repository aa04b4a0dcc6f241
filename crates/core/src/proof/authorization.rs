//! Proof four: policy said yes, on everything known now.

use crate::{
    audit::record::Details,
    digest::Digest,
    ids::{ApprovalId, DecisionId},
    ledger::Charge,
    policy::{Answer, Decision, DenyCause, Obligation, Reason},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use std::sync::Arc;

/// A positive decision about one call, with the inline obligations that come with it.
#[derive(Debug)]
pub struct Authorization {
    decision: DecisionId,
    call_digest: Digest,
    bundle: Digest,
    reasons: Vec<Reason>,
    obligations: Vec<Obligation>,
    approvals: Vec<ApprovalId>,
    input: Arc<Details>,
    charges: Vec<Charge>,
    at: UnixMs,
}

impl Authorization {
    /// Turns an allowing decision into the proof; `approvals` are the ones it rested on, consumed
    /// by the reservation.
    ///
    /// # Errors
    /// The refusal that the decision means; [`Code::ApprovalPending`] for a challenge.
    pub fn of(decision: Decision, approvals: Vec<ApprovalId>) -> Result<Self, Refusal> {
        let obligations = match decision.answer {
            Answer::Allow(obligations) => obligations,
            Answer::Challenge(_) => return Err(Code::ApprovalPending.into()),
            Answer::Deny(cause) => return Err(denied(cause, &decision.reasons)),
        };
        if obligations.iter().any(Obligation::is_interactive) {
            return Err(Code::UnknownObligation.into());
        }
        Ok(Self {
            decision: decision.id,
            call_digest: decision.call_digest,
            bundle: decision.bundle,
            reasons: decision.reasons,
            obligations,
            approvals,
            input: decision.input,
            charges: Vec::new(),
            at: decision.at,
        })
    }

    /// The same proof, resting on these budgets: the reservation counts them.
    #[must_use]
    pub fn charged_to(self, charges: Vec<Charge>) -> Self {
        Self { charges, ..self }
    }

    /// Takes the budgets that it rests on.
    pub(super) fn take_charges(&mut self) -> Vec<Charge> {
        std::mem::take(&mut self.charges)
    }

    /// The decision.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        self.decision
    }

    /// The call it is about.
    #[must_use]
    pub const fn call_digest(&self) -> Digest {
        self.call_digest
    }

    /// Digest of the policy bundle.
    #[must_use]
    pub const fn bundle(&self) -> Digest {
        self.bundle
    }

    /// Determining policies.
    #[must_use]
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// Inline obligations.
    #[must_use]
    pub fn obligations(&self) -> &[Obligation] {
        &self.obligations
    }

    /// Approvals it rests on.
    #[must_use]
    pub fn approvals(&self) -> &[ApprovalId] {
        &self.approvals
    }

    /// What the decision was made of, for its record.
    #[must_use]
    pub fn input(&self) -> &Arc<Details> {
        &self.input
    }

    /// When policy was asked.
    #[must_use]
    pub const fn at(&self) -> UnixMs {
        self.at
    }

    /// Whether it may still be acted on.
    #[must_use]
    pub fn is_fresh(&self, now: UnixMs) -> bool {
        now.since_ms(self.at) <= Decision::VALID_MS
    }
}

fn denied(cause: DenyCause, reasons: &[Reason]) -> Refusal {
    let code = match cause {
        DenyCause::Rule => Code::Forbidden,
        DenyCause::Error => Code::PolicyError,
        DenyCause::Obligation => Code::UnknownObligation,
    };
    reasons.iter().fold(Refusal::new(code), |refusal, reason| {
        refusal.with("reason", format_args!("{} ({})", reason.code, reason.policy))
    })
}
