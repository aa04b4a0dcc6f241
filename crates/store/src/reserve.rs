//! The reservation: one transaction joins a permit to the ledger.
//!
//! It checks, on current state, all that could have changed since the proofs were made: the
//! nonce, the grant, approvals, budgets, ages. Then it counts, books, records and hands out the
//! token without which nothing runs.
//! INVARIANT: a [`Hold`] comes from here (or, through a settlement, from a `Settling` made here),
//! after its transaction is durable.

use crate::{
    accounts::{AccountName, Step},
    approvals,
    attempt::{Evidence, draft, entry_of},
    budgets::{self, grant_charges},
    calls::{self, CallFacts, Course, Live, NewRow, Price, Reservation},
    capture::{Captured, FailCause, fail_job},
    check::{Admission, check, count_one_use},
    credentials::{self, Credential},
    fault::Fault,
    free,
    grants::admin,
    notes::{self, Note},
    quotes::{self, quote_record},
    schema::to_json,
    settle::Settling,
    store::Store,
    writer::{Batch, Job},
};
use countersign_core::{
    audit::record::{CallEntry, Kind, Outcome, ProofEntries, ProofEntry, ProofState, RecordDraft},
    digest::Digest,
    ids::{CallId, TransferId},
    ledger::{CallState, Charge, Window},
    money::Micros,
    policy::Obligation,
    proof::{Permit, Principal, Settlement},
    refusal::{Charged, Code, Refusal},
    terms::{DoubtRule, Flow, ToolRef},
};
use std::sync::Arc;

/// What a reservation leads to.
#[derive(Debug)]
pub enum Reserved {
    /// The rail must take the payer's money first.
    Settle(Settling),
    /// The tool may run.
    Run(Hold),
    /// The same call ran before under the same payment: this is its outcome.
    Replay(Box<Captured>),
}

/// The right to run one call's tool once: durable, counted, recorded as started.
#[derive(Debug)]
pub struct Hold {
    // Moved from step to step, so by its address.
    pub(crate) permit: Box<Permit>,
    pub(crate) call: CallId,
    pub(crate) price: Option<Price>,
    pub(crate) payload: Option<Arc<str>>,
    /// The counter of the limit of the treasury that pays.
    pub(crate) limit: Option<Arc<str>>,
}

impl Hold {
    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The call; that of the first attempt when a repeated request carries it on.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.call
    }
}

/// A reservation on its way to the writer.
pub(crate) struct Request {
    pub(crate) permit: Box<Permit>,
    pub(crate) charges: Vec<Charge>,
    pub(crate) rates: Vec<Charge>,
    pub(crate) notes: Vec<Note>,
    pub(crate) entry: Arc<CallEntry>,
    pub(crate) facts: Arc<CallFacts>,
    pub(crate) money: Arc<Reservation>,
    pub(crate) facts_json: String,
    pub(crate) salt: [u8; 32],
    pub(crate) drafts: Vec<RecordDraft>,
    pub(crate) principal: Digest,
}

impl Store {
    /// Reserves: consumes the permit and gives the only way to run the call.
    ///
    /// # Errors
    /// Whatever does not hold on current state; see the module.
    pub async fn reserve(
        &self,
        permit: Permit,
        charges: Vec<Charge>,
        evidence: &Evidence,
    ) -> Result<Reserved, Refusal> {
        self.reserve_noting(Box::new(permit), charges, Vec::new(), evidence).await
    }

    /// As [`Self::reserve`]; where the call is admitted, `notes` of one kind are written with it.
    ///
    /// # Errors
    /// As [`Self::reserve`], and as [`Self::note_put`].
    pub async fn reserve_noting(
        &self,
        permit: Box<Permit>,
        charges: Vec<Charge>,
        notes: Vec<Note>,
        evidence: &Evidence,
    ) -> Result<Reserved, Refusal> {
        notes.iter().try_for_each(Note::check_size)?;
        let salt = self.shared().world.random();
        let principal = permit.identity().principal();
        let entry = entry_of(
            permit.call(),
            permit.quote().call_digest(),
            (principal, &permit.terms().tool),
            evidence,
            (&self.shared().pseudonym_key, &salt),
        )?;
        let rates = rates(principal, &permit.terms().tool, permit.authorization().obligations());
        let principal = permit.identity().key();
        let mut money = self.reservation(&permit, &charges);
        money.rates = budgets::keys(&rates, &[]);
        let drafts = records(&permit, &entry, &money);
        let facts = Arc::new(CallFacts::of(&entry, Some(money.clone())));
        let facts_json = to_json(&*facts).map_err(|_| Code::InternalFault)?;
        let money = Arc::new(money);
        let request = Request {
            permit,
            charges,
            rates,
            notes,
            entry,
            facts,
            money,
            facts_json,
            salt,
            drafts,
            principal,
        };
        self.enter_or(move |batch| reserve(batch, request), abandoned).await?
    }

    /// What the permit means for the ledger.
    fn reservation(&self, permit: &Permit, charges: &[Charge]) -> Reservation {
        let state = self.shared().state();
        let grant = permit.consent().grant();
        let line = grant.map(|(id, _)| state.grants.line(id)).unwrap_or_default();
        let counters = budgets::keys(charges, &line);
        let nonce = permit.payment().nonce();
        let credential = nonce.and_then(|nonce| state.credentials.get(nonce.key));
        drop(state);
        let mut money = reservation(permit, counters);
        if let (Course::Prepaid, Some(credential)) = (money.course, credential) {
            count_one_use(&mut money, &credential);
        }
        money
    }
}

/// Teams kept with a call.
const TEAMS_MAX: usize = 64;

fn reservation(permit: &Permit, counters: Vec<String>) -> Reservation {
    let (quote, payment, terms) = (permit.quote(), permit.payment(), permit.terms());
    let is_work = payment.free_use().is_some();
    let course = match (payment.settlement(), payment.nonce()) {
        (Settlement::Due(Flow::Upfront), _) => Course::Upfront,
        (Settlement::Due(Flow::Authorization), _) => Course::Authorization,
        (Settlement::Outward, _) => Course::Treasury,
        (Settlement::Done, Some(_)) if payment.is_credit() => Course::Credit,
        (Settlement::Done, Some(_)) if !is_work => Course::Prepaid,
        (Settlement::Done, _) => Course::Free,
    };
    let roles = &permit.identity().principal().roles;
    Reservation {
        quote: quote.id(),
        quote_expires: quote.expires_at(),
        decision: permit.authorization().decision(),
        policy: permit.authorization().bundle(),
        grant: permit.consent().grant().map(|(id, _)| id),
        teams: roles.iter().take(TEAMS_MAX).cloned().collect(),
        nonce: payment.nonce().map(|nonce| (nonce.key, nonce.max_uses)),
        approvals: approvals::of(permit),
        price: payment.offer().map(|offer| Price {
            rail: offer.rail,
            amount: offer.amount.clone(),
            micros: offer.micros,
            payee: offer.payee.clone(),
        }),
        held: if is_work { Micros(0) } else { quote.micros() },
        share: 1,
        counters,
        rates: Vec::new(),
        course,
        idempotent: terms.idempotent,
        refund_in_doubt: terms.doubt == DoubtRule::Refund,
        payload: payment.settle_payload().map(Arc::from),
        outward: None,
        // What the treasury pays is nobody's credit.
        principal: (!permit.identity().is_anonymous() && course != Course::Treasury)
            .then(|| permit.identity().key()),
        top_up: terms.top_up,
    }
}

/// The counters of the rates among obligations: calls of a tool by an agent, each counted as one.
#[must_use]
pub fn rates(principal: &Principal, tool: &ToolRef, obligations: &[Obligation]) -> Vec<Charge> {
    let rates = obligations.iter().filter_map(|obligation| {
        let Obligation::Rate { calls, per_s } = obligation else { return None };
        let (tenant, agent) = (&principal.tenant, &principal.agent);
        let key = format!("rate\u{1f}{tenant}\u{1f}{agent}\u{1f}{tool}\u{1f}{per_s}");
        let window = Window::Rolling(per_s.saturating_mul(1000));
        Some(Charge::hard(key, Micros((*calls).into()), window))
    });
    rates.collect()
}

/// What to do with a reservation whose caller is gone: nothing was sent to anybody.
fn abandoned(result: Result<Reserved, Refusal>) -> Option<Job> {
    match result {
        Ok(Reserved::Run(hold)) => Some(fail_job(hold, FailCause::NotExecuted)),
        Ok(Reserved::Settle(settling)) => Some(settling.abandon()),
        Ok(Reserved::Replay(_)) | Err(_) => None,
    }
}

fn records(permit: &Permit, entry: &Arc<CallEntry>, money: &Reservation) -> Vec<RecordDraft> {
    let quote = quote_record(entry, permit.quote());
    let mut consent = draft(Kind::Consent, entry);
    consent.outcome = Some(Outcome::Allowed);
    consent.quote = Some(money.quote);
    if let Some((grant, version)) = permit.consent().grant() {
        consent.note("grant", grant.to_string());
        consent.note("version", version.to_string());
    }
    if let Some(approval) = permit.consent().approval() {
        consent.note("approval", approval.to_string());
    }
    let mut decision = draft(Kind::Decision, entry);
    decision.outcome = Some(Outcome::Allowed);
    decision.quote = Some(money.quote);
    decision.decision = Some(money.decision);
    decision.policy = Some(money.policy);
    decision.proofs = Some(proofs(permit, money));
    decision.detail = Arc::clone(permit.authorization().input());
    for (index, approval) in permit.authorization().approvals().iter().take(8).enumerate() {
        decision.note(format!("approval.{index}"), approval.to_string());
    }
    vec![quote, consent, decision]
}

fn proofs(permit: &Permit, money: &Reservation) -> ProofEntries {
    let proven = |reference: String| ProofEntry {
        state: ProofState::Proven,
        reference: Some(reference.into()),
    };
    let absent = |state| ProofEntry { state, reference: None };
    let identity = permit.identity();
    ProofEntries {
        authorization: proven(money.decision.to_string()),
        consent: match (money.grant, permit.consent().approval()) {
            (Some(grant), _) => proven(grant.to_string()),
            (None, Some(approval)) => proven(approval.to_string()),
            (None, None) => absent(ProofState::NotRequired),
        },
        identity: if identity.is_anonymous() {
            absent(ProofState::NotRequired)
        } else {
            proven(identity.reference().to_hex())
        },
        payment: match (money.nonce, money.course) {
            (Some((key, _)), Course::Upfront | Course::Authorization | Course::Treasury) => {
                ProofEntry { state: ProofState::Pending, reference: Some(key.to_hex().into()) }
            }
            (Some((key, _)), Course::Prepaid | Course::Credit | Course::Free) => {
                proven(key.to_hex())
            }
            (None, _) => absent(ProofState::NotRequired),
        },
    }
}

fn reserve(
    batch: &mut Batch<'_>,
    mut request: Request,
) -> Result<Result<Reserved, Refusal>, Fault> {
    match check(batch, &mut request)? {
        Ok(Admission::Admit(credential)) => admit(batch, request, credential.as_deref()),
        Ok(Admission::Replay(outcome)) => Ok(Ok(Reserved::Replay(outcome))),
        Ok(Admission::CarryOn(call)) => carry_on(batch, request, call),
        Err(refusal) => {
            let charged = match request.money.course {
                Course::Prepaid if refusal.is_charged() == Charged::No => Charged::Unused,
                Course::Free
                | Course::Prepaid
                | Course::Upfront
                | Course::Authorization
                | Course::Treasury
                | Course::Credit => refusal.is_charged(),
            };
            Ok(Err(refusal.charged(charged).call(request.permit.call())))
        }
    }
}

/// Counts, books and records a call that passed every check.
fn admit(
    batch: &mut Batch<'_>,
    request: Request,
    credential: Option<&Credential>,
) -> Result<Result<Reserved, Refusal>, Fault> {
    let Request { permit, charges, rates, notes, entry, facts, money, .. } = request;
    let Request { facts_json, salt, drafts, .. } = request;
    warn(batch, &charges, &money, &entry.tenant)?;
    hold(batch, &charges, &money);
    count_rates(batch, &rates, &money);
    for note in &notes {
        notes::write(batch, note.kind, &note.key, &note.body)?;
    }
    let state = match money.course {
        Course::Upfront | Course::Treasury => CallState::Settling,
        Course::Free | Course::Prepaid | Course::Authorization | Course::Credit => {
            CallState::Starting
        }
    };
    count_nonce(batch, &money, entry.call, entry.call_digest)?;
    if let Some(free) = permit.payment().free_use() {
        free::count(batch, free)?;
    }
    approvals::consume(batch, &money.approvals, entry.call)?;
    quotes::close(batch, money.quote)?;
    if let Some(credential) = credential {
        credentials::present(batch, credential, &entry.tenant)?;
    }
    let mut live = Live {
        n: 0,
        state,
        owned_at: Some(batch.now),
        receipt: None,
        facts,
        money,
        entry,
        chain: Vec::with_capacity(6),
        starts: 0,
    };
    record(batch, &mut live, drafts)?;
    let (call, chain) = (live.call(), &live.chain);
    let (tenant, facts_json) = (&*live.facts.tenant, &*facts_json);
    let row = NewRow { call, state, tenant, facts_json, salt: &salt, code: None, chain };
    live.n = calls::insert(batch, &row)?;
    let reserved = token(permit, &live);
    batch.state().calls.insert(live.call(), live);
    Ok(Ok(reserved))
}

/// Books the reservation and appends its records; the last of them names the transfer.
fn record(
    batch: &mut Batch<'_>,
    live: &mut Live,
    mut drafts: Vec<RecordDraft>,
) -> Result<(), Fault> {
    let transfers = book_reservation(batch, live)?;
    if live.state == CallState::Starting {
        drafts.push(start_record(live, transfers, None));
    } else if let Some(last) = drafts.last_mut() {
        last.transfers = transfers;
    }
    drafts.into_iter().try_for_each(|draft| live.record(batch, draft))
}

/// Notes the budgets of which this call is the first to reach the part that is to be noted.
fn warn(
    batch: &mut Batch<'_>,
    charges: &[Charge],
    money: &Reservation,
    tenant: &Arc<str>,
) -> Result<(), Fault> {
    if charges.iter().all(|charge| charge.warn_percent.is_none()) {
        return Ok(());
    }
    let now = batch.ledger_now;
    let warned = batch.state().counters.warned(charges, money.held, now);
    for charge in warned {
        let percent = charge.warn_percent.unwrap_or_default().to_string();
        let details = [("budget", charge.name().to_owned()), ("percent", percent)];
        admin(batch, tenant, "budget.warn", "gateway", &details)?;
    }
    Ok(())
}

fn hold(batch: &Batch<'_>, charges: &[Charge], money: &Reservation) {
    let mut state = batch.state();
    state.counters.watch(charges);
    if let Some(id) = money.grant {
        for grant in state.grants.line(id) {
            state.counters.watch(&grant_charges(&grant));
        }
        state.grants.hold(id, money.held);
    }
    state.counters.hold(&money.counters, money.held);
}

fn count_rates(batch: &Batch<'_>, rates: &[Charge], money: &Reservation) {
    let mut state = batch.state();
    state.counters.watch(rates);
    state.counters.close(&money.rates, Micros(0), Micros(1), batch.ledger_now);
}

fn count_nonce(
    batch: &Batch<'_>,
    money: &Reservation,
    call: CallId,
    call_digest: Digest,
) -> Result<(), Fault> {
    let Some((key, max_uses)) = money.nonce else { return Ok(()) };
    batch
        .conn
        .prepare_cached(
            "INSERT INTO nonces VALUES (?1, 1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET uses = uses + 1, max_uses = max(max_uses, ?2),
               call = ?3, call_digest = ?4",
        )?
        .execute((key.as_bytes(), max_uses, call.as_bytes(), call_digest.as_bytes()))?;
    batch.state().credentials.begin_use(key);
    Ok(())
}

fn book_reservation(batch: &Batch<'_>, live: &Live) -> Result<Vec<TransferId>, Fault> {
    let (source, step) = match live.money.course {
        Course::Free | Course::Treasury => return Ok(Vec::new()),
        Course::Prepaid => (AccountName::Available, Step::Post),
        Course::Credit => {
            (live.money.credit().ok_or(Fault::Corrupt("credit of nobody"))?, Step::Post)
        }
        Course::Upfront | Course::Authorization => (AccountName::Funding, Step::Pend),
    };
    live.transfer(batch, "reserve", (source, AccountName::Held), None, step)
}

/// The record that the upstream is about to be called.
pub(crate) fn start_record(
    live: &Live,
    transfers: Vec<TransferId>,
    retry: Option<CallId>,
) -> RecordDraft {
    let mut start = draft(Kind::InvocationStart, &live.entry);
    start.quote = Some(live.money.quote);
    start.decision = Some(live.money.decision);
    start.amount = live.money.amount_entry();
    start.transfers = transfers;
    if let Some(outward) = &live.money.outward {
        start.note("outward", outward.reference.clone());
    }
    if let Some(retry) = retry {
        start.note("retry", retry.to_string());
    }
    start
}

fn token(permit: Box<Permit>, live: &Live) -> Reserved {
    let hold = Hold {
        permit,
        call: live.call(),
        price: live.money.price.clone(),
        payload: live.money.payload.clone(),
        limit: live.money.limit(),
    };
    match live.state {
        CallState::Settling => Reserved::Settle(Settling::new(hold)),
        CallState::Reserved
        | CallState::Settled
        | CallState::Starting
        | CallState::Finished
        | CallState::Captured
        | CallState::Released
        | CallState::Refused
        | CallState::InDoubt
        | CallState::RefundDue
        | CallState::Refunded => Reserved::Run(hold),
    }
}

/// A repeated request takes up a call that nobody carries on: its settlement with the same
/// authorization, or an idempotent tool that was interrupted.
fn carry_on(
    batch: &mut Batch<'_>,
    request: Request,
    call: CallId,
) -> Result<Result<Reserved, Refusal>, Fault> {
    let found = batch.state().calls.get(&call).cloned();
    let Some(mut live) = found else { return Ok(Err(Code::InProgress.into())) };
    let retry = request.permit.call();
    live.owned_at = Some(batch.now);
    if live.state == CallState::Starting {
        let record = start_record(&live, Vec::new(), Some(retry));
        live.record(batch, record)?;
        calls::set_records(batch, live.n, &live.chain)?;
    }
    let reserved = token(request.permit, &live);
    batch.state().calls.insert(call, live);
    Ok(Ok(reserved))
}
