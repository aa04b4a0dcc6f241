//! Asking people: what an approval is asked for, what it answers, and where people give it.
//!
//! INVARIANT: nobody is asked about a call that policy or a budget would refuse all the same; a
//! flood of requests ends in the store's limits, not at a person.

use crate::{call::Attempt, gate::Gate};
use countersign_core::{
    approval::{Approval, ApprovalStatus, Ask, AskKind, Quorum, offers_digest},
    call::Call,
    digest::Digest,
    ids::ApprovalId,
    policy::{Obligation, Risk},
    proof::{Identity, Principal},
    quote::Quote,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{ApprovalRequest, CallView};
use std::sync::Arc;

/// Who must act, and for how long they are waited for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// How many, and who.
    pub(super) quorum: Quorum,
    /// How long, in milliseconds.
    pub(super) ttl_ms: u64,
    /// Why, in stable words.
    pub(super) reasons: Vec<String>,
    /// Budgets that would be exceeded.
    pub(super) over: Vec<Arc<str>>,
    /// How risky policy found the call.
    pub(super) risk: Option<Risk>,
}

impl Wanted {
    /// One person, within the longest time there is.
    pub(super) const fn one(reasons: Vec<String>) -> Self {
        Self { quorum: Quorum::ONE, ttl_ms: u64::MAX, reasons, over: Vec::new(), risk: None }
    }

    /// The same, for a call that exceeds these budgets too.
    pub(super) fn over(mut self, budgets: Vec<Arc<str>>) -> Self {
        self.reasons.extend(budgets.iter().map(|name| format!("budget {name}")));
        self.over = budgets;
        self
    }

    /// The same, for a call of this risk.
    pub(super) fn at(mut self, risk: Risk) -> Self {
        self.risk = Some(risk);
        self
    }

    /// What the obligations want of people; `None` when no approval would meet them all: two sets
    /// of roles of which nobody is in both are asked for by two approvals, and a call has one.
    pub(super) fn by(obligations: &[Obligation], reasons: Vec<String>) -> Option<Self> {
        let mut wanted = Self::one(reasons);
        let mut is_for_people = false;
        for obligation in obligations {
            let ttl_s = match obligation {
                Obligation::HumanConfirm { ttl_s } => *ttl_s,
                Obligation::MOfN { m, roles, ttl_s } => {
                    // Those that go together were made one before.
                    if wanted.quorum.needed > 1 {
                        return None;
                    }
                    wanted.quorum = Quorum { needed: *m, roles: roles.clone() };
                    *ttl_s
                }
                Obligation::StepUp { .. }
                | Obligation::TighterBudget { .. }
                | Obligation::Rate { .. }
                | Obligation::MaskArguments { .. }
                | Obligation::Redact { .. }
                | Obligation::CapRows { .. }
                | Obligation::CapBytes { .. }
                | Obligation::Notify { .. }
                | Obligation::EnhancedAudit => continue,
            };
            is_for_people = true;
            wanted.ttl_ms = wanted.ttl_ms.min(ttl_s.saturating_mul(1000));
        }
        is_for_people.then_some(wanted)
    }
}

/// The longest purpose that people are asked to read.
const PURPOSE_BYTES_MAX: usize = 1024;

/// What people are shown of a call: its arguments, and its answers to the server's own questions.
fn all_that_is_sent(call: &Call) -> Arc<str> {
    match &call.input {
        None => call.arguments.as_str().into(),
        Some(input) => format!(r#"{{"arguments":{},"answers":{input}}}"#, call.arguments).into(),
    }
}

impl Gate {
    /// What is asked about a call.
    pub(super) fn ask(
        &self,
        kind: AskKind,
        call: &Call,
        principal: &Principal,
        quote: &Quote,
        wanted: &Wanted,
    ) -> Ask {
        let delegator = principal.delegator.as_ref();
        let name = |of: fn(&countersign_core::proof::Delegator) -> &Arc<str>| {
            delegator.map_or_else(|| Arc::from(""), |d| Arc::clone(of(d)))
        };
        Ask {
            kind,
            call_digest: quote.call_digest(),
            offers: offers_digest(quote),
            tenant: Arc::clone(&principal.tenant),
            issuer: name(|d| &d.issuer),
            subject: name(|d| &d.subject),
            agent: Arc::clone(&principal.agent),
            server: Arc::clone(&call.terms.tool.server),
            tool: Arc::clone(&call.terms.tool.tool),
            definition: self.pinned(&call.terms).digest,
            intent: call.intent(),
            purpose: call.purpose.as_deref().map(Arc::from),
            price: self.price_text(quote),
            micros: quote.micros(),
            payees: quote.for_money().map(|offer| offer.payee.clone()).collect(),
            over: wanted.over.clone(),
            quorum: wanted.quorum.clone(),
        }
    }

    /// What people said of this call. What a call that was begun used is still its own.
    pub(super) fn approvals(
        &self,
        identity: &Identity,
        quote: &Quote,
        begun: Option<&CallView>,
        now: UnixMs,
    ) -> Vec<Approval> {
        let mut found = self.store.approvals_for(identity.key(), quote.call_digest(), now);
        let is_own = |approval: &Approval| begun.is_some_and(|b| approval.used_by == Some(b.call));
        for approval in found.iter_mut().filter(|approval| is_own(approval)) {
            approval.status = ApprovalStatus::Approved;
            approval.expires_at = approval.expires_at.max(now.plus_ms(1));
        }
        found
    }

    /// Asks, or finds that it was asked already.
    ///
    /// # Errors
    /// As [`countersign_store::Store::approval_open`].
    pub(super) async fn open_approval(
        &self,
        call: &Call,
        principal: &Principal,
        ask: Ask,
        wanted: Wanted,
    ) -> Result<Approval, Refusal> {
        if ask.purpose.as_ref().is_some_and(|purpose| purpose.len() > PURPOSE_BYTES_MAX) {
            return Err(Refusal::new(Code::TooLarge).with("member", "purpose"));
        }
        let id = ApprovalId::new(self.world.now(), self.world.random());
        let ttl_ms = wanted.ttl_ms.min(self.config.limits.approval_ttl_ms);
        let request = ApprovalRequest {
            id,
            principal: principal.key(),
            tell: self.push_notes(id, &ask, ttl_ms),
            ask,
            arguments: all_that_is_sent(call),
            reasons: wanted.reasons,
            risk: wanted.risk,
            ttl_ms,
        };
        self.store.approval_open(request).await
    }

    /// What came back of our asking is of this very call, and comes once.
    ///
    /// # Errors
    /// [`Code::RequestState`].
    pub(super) async fn check_returned(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        quote: &Quote,
    ) -> Result<(), Refusal> {
        let Some(state) = &attempt.returned else { return Ok(()) };
        let about = (identity.key(), quote.call_digest());
        let id = self.state_key.open(state, about).ok_or(Code::RequestState)?;
        match self.store.approval_returned(id, Digest::of(state.as_bytes())).await? {
            true => Ok(()),
            false => Err(Code::RequestState.into()),
        }
    }

    /// A fresh state for the client that is asked to show its user an approval.
    #[must_use]
    pub fn request_state(&self, approval: &Approval) -> Option<String> {
        let about = (approval.principal, approval.ask.call_digest);
        self.state_key.seal(approval.id, about, self.world.random())
    }

    /// Where people answer a request.
    #[must_use]
    pub fn approval_url(&self, id: ApprovalId) -> Option<String> {
        let url = self.config.approve_url.as_ref()?;
        Some(url.replace("{approval}", &id.to_string()))
    }

    /// Says that an approval is waited for, and where it is given.
    pub(super) fn pending(&self, refusal: Refusal, approval: &Approval) -> Refusal {
        let id = approval.id;
        let command = format!("countersign approvals approve {id}");
        let refusal = match self.approval_url(id) {
            Some(url) => refusal.next(url, Some(approval.expires_at)),
            None => refusal,
        };
        let refusal = refusal.with("approval", id);
        let refusal = if refusal.code() == Code::ApprovalPending {
            refusal.with("approve_with", command)
        } else {
            refusal.with("approve_once_with", command)
        };
        refusal.with("until", approval.expires_at.rfc3339())
    }
}

/// A person's no to this very call, with what they said.
///
/// # Errors
/// [`Code::ApprovalDenied`].
pub(super) fn refuse_denied(approvals: &[Approval]) -> Result<(), Refusal> {
    let denied = approvals.iter().find(|a| a.status == ApprovalStatus::Denied);
    let Some(approval) = denied else { return Ok(()) };
    let reason = approval.last().and_then(|given| given.reason.as_deref());
    Err(Refusal::new(Code::ApprovalDenied)
        .with("approval", approval.id)
        .with("reason", reason.unwrap_or("no reason given")))
}

/// The words of the obligations that an approval of this ask meets.
pub(super) fn met(obligations: &[Obligation]) -> Vec<Arc<str>> {
    let is_for_people =
        |o: &&Obligation| matches!(o, Obligation::HumanConfirm { .. } | Obligation::MOfN { .. });
    obligations.iter().filter(is_for_people).map(|o| o.word().into()).collect()
}
