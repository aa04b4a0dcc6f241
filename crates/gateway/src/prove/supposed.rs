//! What would be decided of a call that nobody has made: the same facts, the same policy, and no
//! effect.
//!
//! INVARIANT: nothing is opened, counted, reserved or asked of people here. Whoever is named proved
//! nothing, so what comes out is no proof either: a real call is decided anew.
//! INVARIANT: price, terms, tiers, budgets, definitions and grants are the gateway's own. Who asks
//! says only for whom the agent acts and what it would send.

use super::{
    consent::nearer,
    policy::Engine,
    signals::{Caller, Picture},
};
use crate::gate::Gate;
use countersign_core::{
    approval::{Approval, ApprovalStatus},
    call::{Call, Era},
    grant::Asked,
    ids::{CallId, GrantId},
    ledger::Spender,
    policy::{Answer, Decision, ProofState, Session},
    proof::{Principal, SignIn},
    quote::Quote,
    refusal::{Code, Refusal},
    terms::{ConsentRule, IdentityRule, Terms, ToolRef},
    time::UnixMs,
};
use std::sync::Arc;

/// A call that nobody has made.
#[derive(Clone, Debug)]
pub(crate) struct Supposed {
    /// For whom, and by which agent.
    pub(crate) principal: Principal,
    /// How that person signed in.
    pub(crate) sign_in: SignIn,
    /// Which tool.
    pub(crate) tool: ToolRef,
    /// What the agent would declare.
    pub(crate) declared: Option<String>,
    /// What it would send: a JSON object.
    pub(crate) arguments: String,
}

/// What would become of it.
#[derive(Debug)]
pub(crate) struct Outlook {
    /// What policy says.
    pub(crate) decision: Decision,
    /// What it costs.
    pub(crate) price: String,
    /// Budgets that it would exceed, and that let a person decide.
    pub(crate) over: Vec<Arc<str>>,
}

impl Outlook {
    /// It would run, once it is paid for.
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self.decision.answer, Answer::Allow(_)) && self.over.is_empty()
    }
}

impl Gate {
    /// What would become of a call.
    ///
    /// # Errors
    /// What refuses it before policy is asked, or instead: [`Code::UnknownTool`], identity,
    /// consent, price, budgets, the external service.
    pub(crate) async fn suppose(&self, it: &Supposed) -> Result<Outlook, Refusal> {
        let policy = self.policy.engine();
        let (call, now) = (self.supposed_call(&policy, it)?, self.world.now());
        let quote = self.price(&call, (&it.principal, it.principal.key()))?;
        let grant = self.supposed_grant(&call, &it.principal, &quote, now)?;
        let charges = self.charged(&Spender {
            principal: &it.principal,
            tool: &it.tool,
            intent: call.intent(),
            session: "",
            grant,
        });
        let (remaining, tightest) = self.store.tightest(&charges, grant, now).unzip();
        if let Some(left) = remaining.filter(|left| *left < quote.asked()) {
            let refusal = Refusal::new(Code::BudgetExceeded);
            return Err(refusal.with("remaining", left).with("price", quote.asked()));
        }
        let picture = Picture {
            policy: &policy,
            call: &call,
            caller: Caller { principal: &it.principal, sign_in: &it.sign_in },
            quote: &quote,
            grant: grant.and_then(|id| self.covered(id)),
            is_judged: false,
            remaining,
            tightest,
            charges: &charges,
            session: Session::default(),
            pinned: self.pinned(&call.terms),
            now,
        };
        let consent = if grant.is_some() { ProofState::Valid } else { ProofState::NotRequired };
        let mut question = self.question(&picture, consent, false);
        self.raise_risk(&mut question, &policy).await;
        let (decision, _) = self.put(&policy, &mut question, &it.principal).await?;
        self.ask_outside(&decision, &question).await?;
        let over = self.over(&charges, &quote, Default::default(), now);
        Ok(Outlook { decision, price: self.price_text(&quote), over })
    }

    /// The request for approval that is open about this very call: the agent's own attempt opened
    /// it.
    pub(crate) fn open_request(&self, it: &Supposed) -> Option<Approval> {
        let call = self.supposed_call(&self.policy.engine(), it).ok()?;
        let (digest, now) = (call.digest(&it.principal), self.world.now());
        let found = self.store.approvals_for(it.principal.key(), digest, now);
        found.into_iter().find(|approval| approval.status == ApprovalStatus::Pending)
    }

    fn supposed_call(&self, policy: &Engine, it: &Supposed) -> Result<Call, Refusal> {
        let server = self.server(&it.tool.server).ok_or(Code::UnknownServer)?;
        let terms = server.terms(&it.tool.tool).ok_or(Code::UnknownTool)?;
        may_call(&terms, &it.principal)?;
        let declared = (it.declared.as_deref(), None);
        let intent = self.intent(policy, &server, &terms, &it.arguments, declared);
        if !intent.is_covered() {
            let refusal = Refusal::new(Code::IntentMismatch);
            return Err(refusal.with("effective", intent.effective().text()));
        }
        let at = self.world.now();
        Ok(Call {
            id: CallId::new(at, self.world.random()),
            terms,
            arguments: it.arguments.clone(),
            input: None,
            request_id: String::new(),
            params: String::new(),
            intent,
            purpose: None,
            traceparent: None,
            era: Era::Modern,
            at,
        })
    }

    /// The grant that would cover it, where one is needed.
    fn supposed_grant(
        &self,
        call: &Call,
        principal: &Principal,
        quote: &Quote,
        now: UnixMs,
    ) -> Result<Option<GrantId>, Refusal> {
        if call.terms.consent == ConsentRule::NotRequired {
            return Ok(None);
        }
        let asked = Asked { arguments: &call.arguments, ..Asked::of(call.intent()) };
        let mut nearest = None;
        for grant in self.store.grants_for(principal, &call.terms.tool) {
            if !grant.concerns(principal, &call.terms.tool) {
                continue;
            }
            match grant.covers(quote, &asked, now) {
                Ok(()) => return Ok(Some(grant.id)),
                Err(code) => {
                    nearest = Some(nearer(nearest, Refusal::new(code).with("grant", grant.id)));
                }
            }
        }
        let refusal = nearest.unwrap_or_else(|| Code::NoGrant.into());
        Err(self.ask_for_grant(refusal, call, principal, quote))
    }
}

/// Whether the terms let somebody like this call at all.
fn may_call(terms: &Terms, principal: &Principal) -> Result<(), Refusal> {
    match (&principal.delegator, terms.identity) {
        (None, IdentityRule::Human | IdentityRule::Required) => Err(Code::TokenMissing.into()),
        (Some(delegator), IdentityRule::Human) if !delegator.is_human => {
            Err(Code::HumanRequired.into())
        }
        (_, IdentityRule::Human | IdentityRule::Required | IdentityRule::Anonymous) => Ok(()),
    }
}
