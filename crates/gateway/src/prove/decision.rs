//! Proof four: asking policy, with everything known now; opening an approval when a person must
//! confirm.
//!
//! INVARIANT: budgets and grant sums are read here only to refuse early; what counts is the check
//! in the reservation's transaction.

use super::{
    Known,
    ask::{Wanted, met, refuse_denied},
    policy::Engine,
    signals::{Picture, assurance},
};
use crate::{call::Attempt, gate::Gate, oblige};
use countersign_core::{
    approval::{Approval, ApprovalStatus, AskKind},
    call::Call,
    digest::Digest,
    ids::{ApprovalId, DecisionId, GrantId},
    ledger::{Charge, OnExceed},
    money::Micros,
    policy::{
        Answer, AnswerWord, Behaviour, Covered, Decided, Decision, Obligation, ProofState,
        Question, Resource, Risk, Session, add_details, recorded,
    },
    proof::{Authorization, Consent, Identity, Principal},
    quote::Quote,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{CallView, rates};
use std::sync::Arc;

impl Gate {
    /// Policy's yes, on current state. A payment that was brought is looked at later.
    /// `begun`: the call holds its own already, and nobody is asked about it again.
    /// What policy says stays in `known`, for the record of a refusal.
    ///
    /// # Errors
    /// [`Code::BudgetExceeded`], [`Code::IntentMismatch`], the policy's refusal with its reasons,
    /// [`Code::ApprovalPending`] naming the approval, [`Code::ApprovalDenied`],
    /// [`Code::StepUpRequired`] with what the sign-in must be, [`Code::ExternalDenied`],
    /// [`Code::ExternalUnavailable`].
    pub async fn decide(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        quote: &Quote,
        consent: &Consent,
        begun: Option<&CallView>,
        known: &mut Known,
    ) -> Result<Authorization, Refusal> {
        let is_paid_for = quote.of_treasury().is_some() || self.brings_payment(attempt, known);
        let has_paid = begun.is_some() || is_paid_for;
        let (call, now) = (&attempt.call, self.world.now());
        if !call.intent.is_covered() {
            return Err(Refusal::new(Code::IntentMismatch).with("effective", call.intent().text()));
        }
        let principal = identity.principal();
        let grant = consent.grant().map(|(id, _)| id);
        let mut charges = self.charges(call, identity, grant, &attempt.evidence);
        let held = begun.map_or(Micros(0), |begun| begun.micros);
        // An offer that pays for several calls asks for them all at once.
        let wanted = if has_paid { quote.micros() } else { quote.asked() };
        let (remaining, tightest) = self.afford(wanted, (&charges, grant), held, now)?;
        let approvals = self.approvals(identity, quote, begun, now);
        refuse_denied(&approvals)?;
        let picture = self.picture(attempt, identity, quote, (grant, remaining, &charges), now);
        let is_judged = consent.approval().is_some();
        let picture = Picture { is_judged, tightest, ..picture };
        let mut question = self.question(&picture, state_of(consent), has_paid);
        self.raise_risk(&mut question, &attempt.policy).await;
        // Once a call: asking again while people look at it is no second one.
        if approvals.is_empty() && attempt.policy.tables().tiers.is_anomaly(question.risk.score) {
            Box::pin(self.behaved(principal, Behaviour::Anomaly)).await;
        }
        let (mut decision, tighter) =
            self.put(&attempt.policy, &mut question, identity.principal()).await?;
        self.standing.asked();
        self.note(&mut decision, attempt, &question, known);
        self.ask_outside(&decision, &question).await?;
        let over = self.over(&charges, quote, held, now);
        charges.extend(tighter);
        let obligations = match &decision.answer {
            Answer::Challenge(obligations) => obligations.as_slice(),
            Answer::Allow(_) if !over.is_empty() => &[],
            Answer::Allow(_) | Answer::Deny(_) => {
                self.leaves_rate(&decision, principal, call, begun)?;
                return self.authorized(decision, Vec::new(), charges);
            }
        };
        // An approval is for somebody; nobody in particular cannot be approved.
        if identity.is_anonymous() {
            return Err(Code::TokenMissing.into());
        }
        if let Some(refusal) = obligations.iter().find_map(step_up_refusal) {
            return Err(refusal);
        }
        let why = decision.reasons.iter().map(|reason| reason.code.clone()).collect();
        let wanted = if obligations.is_empty() {
            Wanted::one(Vec::new())
        } else {
            Wanted::by(obligations, why).ok_or(Code::UnknownObligation)?
        };
        let wanted = wanted.over(over).at(question.risk.clone());
        let ask = self.ask(AskKind::Confirm, call, principal, quote, &wanted);
        // INVARIANT: what was fulfilled is evaluated anew, never assumed to be enough.
        let is_agreed = |a: &&Approval| a.status == ApprovalStatus::Approved && a.answers(&ask);
        if let Some(agreed) = approvals.iter().find(is_agreed) {
            question.id = DecisionId::new(now, self.world.random());
            question.fulfilled.extend(met(obligations));
            let mut decision = self.evaluate(&attempt.policy, &question).await?;
            self.note(&mut decision, attempt, &question, known);
            self.leaves_rate(&decision, principal, call, begun)?;
            return self.authorized(decision, vec![agreed.id], charges);
        }
        if begun.is_some() {
            return Err(Code::ApprovalPending.into());
        }
        let approval = Box::pin(self.open_approval(call, principal, ask, wanted)).await?;
        Err(self.pending(Code::ApprovalPending.into(), &approval))
    }

    /// Policy's yes to something that the gateway does itself, and that is no call: nobody is
    /// asked, and nothing is done to what comes back.
    ///
    /// # Errors
    /// The external service's no; [`Code::AdminConflict`] with what policy wants.
    pub(crate) async fn agree(&self, question: &Question) -> Result<(), Refusal> {
        let decision = self.evaluate(&self.policy.engine(), question).await?;
        self.ask_outside(&decision, question).await?;
        let wants = match &decision.answer {
            Answer::Allow(duties) if duties.is_empty() => return Ok(()),
            Answer::Allow(duties) | Answer::Challenge(duties) => {
                duties.iter().map(Obligation::word).collect::<Vec<_>>().join(", ")
            }
            Answer::Deny(_) => {
                let codes = decision.reasons.iter().map(|reason| &*reason.code);
                codes.collect::<Vec<_>>().join(", ")
            }
        };
        let reason = format!("policy does not let it pass: {wants}");
        Err(Refusal::new(Code::AdminConflict).with("reason", reason))
    }

    /// What the budgets and the grant leave, and which of them leaves least, if it is enough.
    fn afford(
        &self,
        wanted: Micros,
        (charges, grant): (&[Charge], Option<GrantId>),
        held: Micros,
        now: UnixMs,
    ) -> Result<(Option<Micros>, Option<Arc<str>>), Refusal> {
        let (remaining, tightest) = self.store.tightest(charges, grant, now).unzip();
        let remaining = with_own(remaining, held);
        if let Some(left) = remaining.filter(|left| *left < wanted) {
            let refusal = Refusal::new(Code::BudgetExceeded);
            return Err(refusal.with("remaining", left).with("price", wanted));
        }
        Ok((remaining, tightest))
    }

    /// Whether a payment came along that is still to be used. A credential that is used up pays
    /// for nothing: the call is asked for money as if none had come.
    fn brings_payment(&self, attempt: &Attempt, known: &Known) -> bool {
        attempt.evidence.x402.is_some() || self.has_uses(known)
    }

    /// The yes of the external service, where one is configured, to what our own policy lets pass:
    /// nobody is asked to approve what it denies.
    pub(super) async fn ask_outside(
        &self,
        decision: &Decision,
        question: &Question,
    ) -> Result<(), Refusal> {
        match (&self.pdp, &decision.answer) {
            (None, _) | (Some(_), Answer::Deny(_)) => Ok(()),
            // What it decides alone it was asked already.
            (Some(pdp), Answer::Allow(_) | Answer::Challenge(_)) if pdp.is_sole() => Ok(()),
            (Some(pdp), Answer::Allow(_) | Answer::Challenge(_)) => {
                Box::pin(pdp.ask(question, question.now)).await
            }
        }
    }

    /// What policy says: the bundle's, or that of the external service which decides alone.
    ///
    /// # Errors
    /// The external service's no, or that it gave no usable answer.
    async fn evaluate(&self, policy: &Engine, question: &Question) -> Result<Decision, Refusal> {
        match self.pdp.as_ref().filter(|pdp| pdp.is_sole()) {
            None => Ok(self.timed(policy, question)),
            // INVARIANT: this is an allow only because its yes stands before it.
            Some(pdp) => {
                Box::pin(pdp.ask(question, question.now)).await?;
                Ok(policy.decided_outside(question))
            }
        }
    }

    /// Adds what an outside provider says, where there is one.
    pub(super) async fn raise_risk(&self, question: &mut Question, policy: &Engine) {
        if let Some(provider) = &self.risk_provider {
            Box::pin(provider.raise(question, policy.tables())).await;
        }
    }

    fn timed(&self, policy: &Engine, question: &Question) -> Decision {
        let before = self.world.now();
        let decision = policy.decide(question);
        Decision { took_ms: self.world.now().since_ms(before), ..decision }
    }

    /// The budgets that the call would exceed and that let a person decide. `held`: what it holds
    /// of them already.
    pub(super) fn over(
        &self,
        charges: &[Charge],
        quote: &Quote,
        held: Micros,
        now: UnixMs,
    ) -> Vec<Arc<str>> {
        let asking = charges.iter().filter(|charge| charge.on_exceed == OnExceed::Confirm);
        let is_over = |charge: &&Charge| {
            let room = self.store.room(charge, now).plus(held);
            room.is_some_and(|room| room < quote.micros())
        };
        asking.filter(is_over).map(|charge| Arc::from(charge.name())).collect()
    }

    /// What policy and budgets would want of people if the call had consent.
    ///
    /// # Errors
    /// They refuse it whatever anybody says.
    pub(super) async fn would_want(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        quote: &Quote,
        reason: String,
        begun: Option<&CallView>,
        known: &Known,
    ) -> Result<Wanted, Refusal> {
        let (call, now) = (&attempt.call, self.world.now());
        let charges = self.charges(call, identity, None, &attempt.evidence);
        let held = begun.map_or(Micros(0), |begun| begun.micros);
        let over = self.over(&charges, quote, held, now);
        let remaining = with_own(self.store.remaining(&charges, None, now), held);
        let is_paid_for = quote.of_treasury().is_some() || self.brings_payment(attempt, known);
        let has_paid = begun.is_some() || is_paid_for;
        let wanted = if has_paid { quote.micros() } else { quote.asked() };
        if !call.intent.is_covered() || remaining.is_some_and(|left| left < wanted) {
            return Err(Code::BudgetExceeded.into());
        }
        let picture = self.picture(attempt, identity, quote, (None, remaining, &charges), now);
        // What people are shown is the call as it is before any of them has looked at it.
        let risk = self.question(&picture, ProofState::Missing, has_paid).risk;
        let picture = Picture { is_judged: true, ..picture };
        let mut question = self.question(&picture, ProofState::Valid, has_paid);
        self.raise_risk(&mut question, &attempt.policy).await;
        let (decision, _) = self.put(&attempt.policy, &mut question, identity.principal()).await?;
        self.ask_outside(&decision, &question).await?;
        let why = decision.reasons.iter().map(|reason| reason.code.clone());
        let wanted = match &decision.answer {
            Answer::Allow(_) => Wanted::one(vec![reason]),
            Answer::Challenge(obligations) => {
                let reasons = std::iter::once(reason).chain(why).collect();
                Wanted::by(obligations, reasons).ok_or(Code::UnknownObligation)?
            }
            Answer::Deny(_) => return Err(Code::Forbidden.into()),
        };
        Ok(wanted.over(over).at(risk))
    }

    /// What policy demands of a call before anybody knows what it costs: its server is asked for
    /// the price only where policy would let the call pass at the lowest one, and is shown no more
    /// than it may see. The call itself is decided when its price is known.
    ///
    /// # Errors
    /// Policy, a budget or the external service refuses it at any price.
    pub(crate) async fn foresee(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        known: &mut Known,
    ) -> Result<Vec<Obligation>, Refusal> {
        let (call, now) = (&attempt.call, self.world.now());
        if !call.intent.is_covered() {
            return Err(Refusal::new(Code::IntentMismatch).with("effective", call.intent().text()));
        }
        let quote = self.least_quote(call, identity.principal());
        let charges = self.charges(call, identity, None, &attempt.evidence);
        let remaining = self.store.remaining(&charges, None, now);
        if remaining == Some(Micros(0)) {
            return Err(Refusal::new(Code::BudgetExceeded).with("remaining", Micros(0)));
        }
        let picture = self.picture(attempt, identity, &quote, (None, remaining, &charges), now);
        let picture = Picture { is_judged: true, ..picture };
        let mut question = self.question(&picture, ProofState::Valid, true);
        self.raise_risk(&mut question, &attempt.policy).await;
        let (mut decision, _) =
            self.put(&attempt.policy, &mut question, identity.principal()).await?;
        self.ask_outside(&decision, &question).await?;
        match &decision.answer {
            Answer::Allow(obligations) | Answer::Challenge(obligations) => Ok(obligations.clone()),
            Answer::Deny(_) => {
                self.note(&mut decision, attempt, &question, known);
                let denied = self.authorized(decision, Vec::new(), Vec::new());
                Err(denied.err().unwrap_or_else(|| Code::Forbidden.into()))
            }
        }
    }

    /// What the decision's record will say, whatever becomes of the call.
    fn note(
        &self,
        decision: &mut Decision,
        attempt: &Attempt,
        question: &Question,
        known: &mut Known,
    ) {
        let mut input = recorded(question, decision);
        let duties = decision.answer.obligations();
        let mut more = Vec::new();
        if duties.contains(&Obligation::EnhancedAudit) {
            more.extend(enhanced(attempt, question));
        }
        if self.pdp.is_some() && decision.answer.word() != AnswerWord::Deny {
            // What it does not permit is refused with a code of its own.
            more.push(("pdp", "permit".to_owned()));
        }
        add_details(&mut input, more);
        decision.input = Arc::new(input);
        known.decided = Some(Decided::of(decision));
        if let Some(shadow) = self.policy.shadow() {
            shadow.offer(question, decision, attempt.call.id);
        }
    }

    /// Whether the rates that come with a yes have room: before money is asked for. What counts is
    /// the reservation's look.
    fn leaves_rate(
        &self,
        decision: &Decision,
        principal: &Principal,
        call: &Call,
        begun: Option<&CallView>,
    ) -> Result<(), Refusal> {
        let Answer::Allow(obligations) = &decision.answer else { return Ok(()) };
        let rates = rates(principal, &call.terms.tool, obligations);
        // What was begun is counted already.
        if begun.is_some() || rates.is_empty() {
            return Ok(());
        }
        let now = self.world.now();
        let full = rates.iter().find(|rate| self.store.room(rate, now) == Micros(0));
        full.map_or(Ok(()), |rate| Err(Refusal::new(Code::RateLimited).with("calls", rate.limit.0)))
    }

    /// The proof, with the budgets it rests on.
    fn authorized(
        &self,
        decision: Decision,
        approvals: Vec<ApprovalId>,
        charges: Vec<Charge>,
    ) -> Result<Authorization, Refusal> {
        if let Answer::Allow(obligations) = &decision.answer {
            self.can_perform(obligations)?;
        }
        if matches!(decision.answer, Answer::Deny(_)) {
            self.standing.refused_by(&decision.reasons);
        }
        Ok(Authorization::of(decision, approvals)?.charged_to(charges))
    }

    fn picture<'a>(
        &self,
        attempt: &'a Attempt,
        identity: &'a Identity,
        quote: &'a Quote,
        (grant, remaining, charges): (Option<GrantId>, Option<Micros>, &'a [Charge]),
        now: UnixMs,
    ) -> Picture<'a> {
        let call = &attempt.call;
        Picture {
            policy: &attempt.policy,
            call,
            caller: identity.into(),
            quote,
            grant: grant.and_then(|id| self.covered(id)),
            is_judged: false,
            remaining,
            tightest: None,
            charges,
            session: self.session_of(attempt, identity),
            pinned: self.pinned(&call.terms),
            now,
        }
    }

    /// Asks policy; what it wants to be shown and is at hand is shown, and it is asked again. With
    /// the budgets that the call is then charged to besides.
    pub(super) async fn put(
        &self,
        policy: &Engine,
        question: &mut Question,
        principal: &Principal,
    ) -> Result<(Decision, Vec<Charge>), Refusal> {
        let decision = self.evaluate(policy, question).await?;
        let Answer::Challenge(obligations) = &decision.answer else {
            return Ok((decision, Vec::new()));
        };
        let tighter = oblige::charges(principal, obligations);
        let mut is_any = false;
        for word in ["step_up", "tighter_budget"] {
            let mut own = obligations.iter().filter(|duty| duty.word() == word).peekable();
            if own.peek().is_none() {
                continue;
            }
            let mut is_met = true;
            for duty in own {
                is_met &= self.is_met(duty, question, principal)?;
            }
            if is_met {
                question.fulfilled.push(word.into());
                is_any = true;
            }
        }
        let decision = if is_any { self.timed(policy, question) } else { decision };
        Ok((decision, tighter))
    }

    /// Whether evidence at hand meets an obligation: the sign-in that the token speaks of, or room
    /// in the budget, which the reservation counts.
    fn is_met(
        &self,
        duty: &Obligation,
        question: &Question,
        principal: &Principal,
    ) -> Result<bool, Refusal> {
        match duty {
            Obligation::StepUp { acr_values, max_age_s } => {
                let is_class = acr_values.is_empty()
                    || question.acr.as_ref().is_some_and(|acr| acr_values.contains(acr));
                let is_recent = max_age_s
                    .is_none_or(|most| question.sign_in_age_s.is_some_and(|age| age <= most));
                Ok(is_class && is_recent)
            }
            Obligation::TighterBudget { limit, window_s } => {
                let charge = oblige::charge(principal, *limit, *window_s);
                let left = self.store.remaining(&[charge], None, question.now);
                let left = left.unwrap_or_default();
                if left < question.price {
                    return Err(Refusal::new(Code::BudgetExceeded)
                        .with("remaining", left)
                        .with("price", question.price));
                }
                Ok(true)
            }
            Obligation::HumanConfirm { .. }
            | Obligation::MOfN { .. }
            | Obligation::Rate { .. }
            | Obligation::MaskArguments { .. }
            | Obligation::Redact { .. }
            | Obligation::CapRows { .. }
            | Obligation::CapBytes { .. }
            | Obligation::Notify { .. }
            | Obligation::EnhancedAudit => Ok(false),
        }
    }

    pub(super) fn covered(&self, id: GrantId) -> Option<Covered> {
        let grant = self.store.grant(id)?;
        let terms = &grant.terms;
        Some(Covered {
            id,
            per_call: terms.per_call,
            remaining: self.store.grant_left(id, self.world.now()),
            intents: terms.intents.clone(),
            expires_at: terms.expires_at,
        })
    }

    pub(super) fn question(
        &self,
        picture: &Picture<'_>,
        consent: ProofState,
        has_paid: bool,
    ) -> Question {
        let Picture { call, caller, quote, pinned, now, .. } = picture;
        let (principal, sign_in) = (caller.principal, caller.sign_in);
        let (history, calls_last_minute) = self.history(picture);
        let question = Question {
            id: DecisionId::new(*now, self.world.random()),
            call_digest: quote.call_digest(),
            tenant: Arc::clone(&principal.tenant),
            human: principal.delegator_text(),
            is_human: principal.delegator.as_ref().is_some_and(|d| d.is_human),
            roles: principal.roles.clone(),
            acr: sign_in.acr.clone(),
            sign_in_age_s: sign_in.at.map(|at| now.since_ms(at) / 1000),
            agent: Arc::clone(&principal.agent),
            assurance: assurance(*caller),
            chain_depth: u32::try_from(principal.chain.len()).unwrap_or(u32::MAX),
            server: Arc::clone(&call.terms.tool.server),
            tool: Arc::clone(&call.terms.tool.tool),
            resource: Resource { kind: Resource::MCP.into(), id: Arc::clone(&call.terms.resource) },
            arguments: Digest::of(call.arguments.as_bytes()),
            sensitivity: call.terms.sensitivity,
            is_reversible: call.terms.is_reversible,
            is_open_world: self.is_open_world(&call.terms, pinned),
            definition: pinned.digest,
            pin: pinned.pin,
            intent: call.intent(),
            derived: call.intent.derived,
            declared: call.intent.declared,
            source: call.intent.source,
            purpose: call.intent.purpose,
            quote: quote.id(),
            terms: quote.digest(),
            price: quote.micros(),
            price_text: self.price_text(quote),
            identity: match &principal.delegator {
                Some(_) => ProofState::Valid,
                None => ProofState::NotRequired,
            },
            payment: match (quote.is_free(), has_paid) {
                (true, _) => ProofState::NotRequired,
                (false, true) => ProofState::Valid,
                (false, false) => ProofState::Missing,
            },
            consent,
            grant: picture.grant.clone(),
            remaining: picture.remaining,
            tightest: picture.tightest.clone(),
            history,
            risk: Risk::default(),
            trust: self.trust(picture),
            session: Session { calls_last_minute, ..picture.session },
            fulfilled: Vec::new(),
            now: *now,
        };
        question.by(picture.policy.tables())
    }
}

fn state_of(consent: &Consent) -> ProofState {
    match (consent.grant(), consent.approval()) {
        (None, None) => ProofState::NotRequired,
        _ => ProofState::Valid,
    }
}

/// What is left for a call that holds some of it already.
fn with_own(remaining: Option<Micros>, held: Micros) -> Option<Micros> {
    remaining.map(|left| left.plus(held).unwrap_or(left))
}

/// What the person's sign-in must be (RFC 9470 section 3).
fn step_up_refusal(obligation: &Obligation) -> Option<Refusal> {
    let Obligation::StepUp { acr_values, max_age_s } = obligation else { return None };
    let mut refusal = Refusal::new(Code::StepUpRequired);
    if !acr_values.is_empty() {
        refusal = refusal.with("acr_values", acr_values.join(" "));
    }
    Some(match max_age_s {
        Some(age_s) => refusal.with("max_age", age_s),
        None => refusal,
    })
}

/// Under `enhanced_audit` the record says more: roles, the purpose's digest, the session, and the
/// shape of the arguments, never their values.
fn enhanced(attempt: &Attempt, question: &Question) -> [(&'static str, String); 4] {
    [
        ("arguments.shape", oblige::shape(&attempt.call.arguments)),
        ("roles", question.roles.join(" ")),
        ("purpose", question.purpose.map_or("none".to_owned(), |digest| digest.to_hex())),
        ("session.named", attempt.session.is_some().to_string()),
    ]
}
