//! Proof four: asking policy, with everything known now; opening an approval when a person must
//! confirm.
//!
//! INVARIANT: budgets and grant sums are read here only to refuse early; what counts is the check
//! in the reservation's transaction.

use crate::{gate::Gate, prove::Evidence};
use countersign_core::{
    call::Call,
    ids::{ApprovalId, DecisionId},
    money::Micros,
    policy::{Answer, Obligation, ProofState, Question},
    proof::{Authorization, Consent, Identity},
    quote::Quote,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{Approval, ApprovalRequest, ApprovalStatus};
use std::sync::Arc;

impl Gate {
    /// Policy's yes, on current state.
    ///
    /// # Errors
    /// [`Code::BudgetExceeded`], [`Code::IntentMismatch`], the policy's refusal with its reasons,
    /// [`Code::ApprovalPending`] naming the approval, [`Code::ApprovalDenied`].
    pub async fn decide(
        &self,
        call: &Call,
        identity: &Identity,
        quote: &Quote,
        consent: &Consent,
        evidence: &Evidence,
    ) -> Result<Authorization, Refusal> {
        let now = self.world.now();
        if !call.is_intent_covered() {
            return Err(Refusal::new(Code::IntentMismatch).with("effective", call.intent().text()));
        }
        let principal = identity.principal();
        let charges = self.charges(principal, &call.terms.tool);
        let grant = consent.grant().map(|(id, _)| id);
        let remaining = self.store.remaining(&charges, grant, now);
        if remaining.is_some_and(|left| left < quote.micros()) {
            let left = remaining.unwrap_or_default();
            return Err(Refusal::new(Code::BudgetExceeded)
                .with("remaining", left)
                .with("price", quote.micros()));
        }
        let approval = self.store.approval_for(principal.key(), quote.call_digest(), now);
        let (fulfilled, approvals) = fulfilled(approval.as_ref())?;
        let has_paid = evidence.x402.is_some() || evidence.l402.is_some();
        let question =
            self.question(call, identity, quote, consent, remaining, fulfilled, has_paid, now);
        let decision = self.policy.decide(&question);
        if let Answer::Challenge(obligations) = &decision.answer {
            // An approval is for somebody; nobody in particular cannot be approved.
            if identity.is_anonymous() {
                return Err(Code::TokenMissing.into());
            }
            let pending = approval.filter(|a| a.status == ApprovalStatus::Pending);
            return Err(match pending {
                Some(approval) => pending_refusal(&approval),
                None => self.open_approval(call, identity, quote, obligations, now).await,
            });
        }
        Authorization::of(decision, approvals)
    }

    #[allow(clippy::too_many_arguments, reason = "a question is made of everything known")]
    fn question(
        &self,
        call: &Call,
        identity: &Identity,
        quote: &Quote,
        consent: &Consent,
        remaining: Option<Micros>,
        fulfilled: Vec<Arc<str>>,
        has_paid: bool,
        now: UnixMs,
    ) -> Question {
        let principal = identity.principal();
        Question {
            id: DecisionId::new(now, self.world.random()),
            call_digest: quote.call_digest(),
            tenant: Arc::clone(&principal.tenant),
            human: principal.delegator_text(),
            is_human: principal.delegator.as_ref().is_some_and(|d| d.is_human),
            roles: principal.roles.clone(),
            agent: Arc::clone(&principal.agent),
            chain_depth: u32::try_from(principal.chain.len()).unwrap_or(u32::MAX),
            server: Arc::clone(&call.terms.tool.server),
            tool: Arc::clone(&call.terms.tool.tool),
            sensitivity: call.terms.sensitivity,
            intent: call.intent(),
            declared: call.declared.as_ref().and_then(|declared| declared.intent),
            price: quote.micros(),
            price_text: self.price_text(quote),
            payment: match (quote.is_free(), has_paid) {
                (true, _) => ProofState::NotRequired,
                (false, true) => ProofState::Valid,
                (false, false) => ProofState::Missing,
            },
            consent: match consent.grant() {
                Some(_) => ProofState::Valid,
                None => ProofState::NotRequired,
            },
            remaining,
            fulfilled,
            now,
        }
    }

    async fn open_approval(
        &self,
        call: &Call,
        identity: &Identity,
        quote: &Quote,
        obligations: &[Obligation],
        now: UnixMs,
    ) -> Refusal {
        let ttl_s = obligations.iter().find_map(|obligation| match obligation {
            Obligation::HumanConfirm { ttl_s } => Some(*ttl_s),
            Obligation::Redact { .. } | Obligation::CapBytes { .. } => None,
        });
        let Some(ttl_s) = ttl_s else { return Code::UnknownObligation.into() };
        let principal = identity.principal();
        let request = ApprovalRequest {
            id: ApprovalId::new(now, self.world.random()),
            principal: principal.key(),
            call_digest: quote.call_digest(),
            quote_digest: None,
            tenant: Arc::clone(&principal.tenant),
            delegator: principal.delegator_text(),
            agent: Arc::clone(&principal.agent),
            tool: call.terms.tool.to_string(),
            intent: call.intent(),
            price: self.price_text(quote),
            ttl_ms: ttl_s.saturating_mul(1000).min(self.config.limits.approval_ttl_ms),
        };
        match self.store.approval_open(request).await {
            Ok(approval) => pending_refusal(&approval),
            Err(refusal) => refusal,
        }
    }
}

/// The obligations that a decided approval fulfils.
fn fulfilled(approval: Option<&Approval>) -> Result<(Vec<Arc<str>>, Vec<ApprovalId>), Refusal> {
    let Some(approval) = approval else { return Ok(Default::default()) };
    match approval.status {
        ApprovalStatus::Approved => Ok((vec!["human_confirm".into()], vec![approval.id])),
        ApprovalStatus::Denied => {
            let reason = approval.reason.as_deref().unwrap_or("no reason given");
            Err(Refusal::new(Code::ApprovalDenied)
                .with("approval", approval.id)
                .with("reason", reason))
        }
        ApprovalStatus::Pending | ApprovalStatus::Expired | ApprovalStatus::Consumed => {
            Ok(Default::default())
        }
    }
}

fn pending_refusal(approval: &Approval) -> Refusal {
    let id = approval.id;
    Refusal::new(Code::ApprovalPending)
        .with("approval", id)
        .with("approve_with", format_args!("countersign approvals approve {id}"))
        .with("until", approval.expires_at.rfc3339())
}
