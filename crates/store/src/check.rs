//! What a reservation checks on current state, before anything is written.
//!
//! INVARIANT: a check changes nothing; a refusal leaves the batch as it was.

use crate::{
    accounts::LARGEST_MINOR,
    approvals,
    budgets::grant_charges,
    calls::{self, CallFacts, Course, Reservation},
    capture::Captured,
    credentials::{self, Credential},
    fault::Fault,
    free, notes,
    reads::stored_outcome,
    reserve::Request,
    schema::to_json,
    state::State,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    grant::GrantStatus,
    ids::{CallId, GrantId},
    ledger::{CallState, OnExceed},
    money::Micros,
    person::Person,
    proof::Nonce,
    quote::Rail,
    refusal::{Charged, Code, Refusal},
    terms::PayerRule,
};
use rusqlite::OptionalExtension as _;
use std::sync::Arc;

/// What the checks say.
pub(crate) enum Admission {
    Admit(Option<Arc<Credential>>),
    Replay(Box<Captured>),
    CarryOn(CallId),
}

/// Everything that can say no, before anything is written. A repeated request is looked at
/// first: what it did before has used its approvals and budgets already.
pub(crate) fn check(
    batch: &Batch<'_>,
    request: &mut Request,
) -> Result<Result<Admission, Refusal>, Fault> {
    let mut credential = None;
    if let Some(nonce) = request.permit.payment().nonce() {
        if let Some(earlier) = nonce_conflict(batch, request, nonce)? {
            return Ok(earlier);
        }
        if request.money.course == Course::Prepaid {
            match usable_credential(batch, nonce.key)? {
                Ok(found) => {
                    if request.money.share != found.minted.uses.max(1) {
                        share_later(request, &found)?;
                    }
                    credential = Some(found);
                }
                Err(code) => return Ok(Err(code.into())),
            }
        }
    }
    if calls::exists(batch, request.permit.call())? {
        return Ok(Err(Code::InternalFault.into()));
    }
    if let Some(free) = request.permit.payment().free_use()
        && let Err(refusal) = free::check(batch, free)?
    {
        return Ok(Err(refusal));
    }
    let checked = check_ages(batch, request)
        .and_then(|()| check_size(batch, request))
        .and_then(|()| check_payer(batch, request))
        .and_then(|()| check_credit(batch, request))
        .and_then(|()| check_grant(batch, request))
        .and_then(|()| approvals::check(batch, &request.permit, request.principal))
        .and_then(|()| check_budgets(batch, request))
        .and_then(|()| check_rates(batch, request));
    if let Err(refusal) = checked {
        return Ok(Err(refusal));
    }
    let has_room = notes::check(batch, &request.notes)?;
    Ok(has_room.map(|()| Admission::Admit(credential)))
}

/// What an earlier use of the payment means for this one; `None` when it may be used (again).
fn nonce_conflict(
    batch: &Batch<'_>,
    request: &Request,
    nonce: Nonce,
) -> Result<Option<Result<Admission, Refusal>>, Fault> {
    let mut statement =
        batch.conn.prepare_cached("SELECT uses, call, call_digest FROM nonces WHERE key = ?")?;
    let found = statement
        .query_row([nonce.key.as_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?, row.get::<_, [u8; 32]>(2)?))
        })
        .optional()?;
    let Some((uses, call, digest)) = found else { return Ok(None) };
    if uses < i64::from(nonce.max_uses) {
        return Ok(None);
    }
    let is_l402 = request.money.course != Course::Credit
        && request.money.price.as_ref().is_some_and(|price| price.rail == Rail::L402);
    let same_call = Digest::from_bytes(digest) == request.permit.quote().call_digest();
    if nonce.max_uses == 1 && same_call {
        return repeated(batch, CallId::from_bytes(call), &request.money).map(Some);
    }
    let code = if is_l402 { Code::CredentialExhausted } else { Code::IdempotencyConflict };
    Ok(Some(Err(code.into())))
}

/// The same call under the same payment: where the first attempt stands decides. It is carried on
/// only on the terms it began with.
fn repeated(
    batch: &Batch<'_>,
    call: CallId,
    money: &Reservation,
) -> Result<Result<Admission, Refusal>, Fault> {
    let live = batch.state().calls.get(&call).map(|live| {
        let same_terms = live.money.quote == money.quote && live.money.course == money.course;
        let may_resume = live.money.idempotent && live.starts < STARTS_MAX;
        (live.state, !live.is_owned(batch.now) && same_terms, live.is_settled(), may_resume)
    });
    let Some((state, is_free, settled, may_resume)) = live else {
        let published = batch.shared().published.size();
        return Ok(match stored_outcome(batch.conn, call, published)? {
            Some(outcome) => Ok(Admission::Replay(Box::new(outcome))),
            None => Err(Refusal::new(Code::PaymentUsed).with("call", call)),
        });
    };
    let charged = if settled { Charged::Yes } else { Charged::No };
    let refused = |code, charged| Ok(Err(Refusal::new(code).with("call", call).charged(charged)));
    match state {
        CallState::Settling if is_free => Ok(Ok(Admission::CarryOn(call))),
        CallState::Starting if is_free && may_resume => Ok(Ok(Admission::CarryOn(call))),
        CallState::Settling | CallState::Finished => {
            refused(Code::SettlementUnknown, Charged::Unknown)
        }
        CallState::InDoubt => refused(Code::UpstreamTimeout, charged),
        CallState::RefundDue => refused(Code::PaymentUsed, Charged::Yes),
        CallState::Reserved
        | CallState::Settled
        | CallState::Starting
        | CallState::Captured
        | CallState::Released
        | CallState::Refused
        | CallState::Refunded => refused(Code::InProgress, Charged::Unknown),
    }
}

/// Starts of one idempotent call.
const STARTS_MAX: u32 = 8;

fn usable_credential(
    batch: &Batch<'_>,
    key: Digest,
) -> Result<Result<Arc<Credential>, Code>, Fault> {
    Ok(match credentials::find(batch, key)? {
        None => Err(Code::CredentialInvalid),
        Some(found) if found.revoked => Err(Code::CredentialInvalid),
        // What it left is owed back, even if the clock was set back since.
        Some(found) if found.closed || batch.now >= found.minted.expires_at => {
            Err(Code::QuoteExpired)
        }
        Some(found) => Ok(found),
    })
}

/// A credential's price is that of all its uses: a call holds and takes its share.
pub(crate) fn count_one_use(money: &mut Reservation, credential: &Credential) {
    let Some(price) = &mut money.price else { return };
    money.share = credential.minted.uses.max(1);
    price.amount.minor = credential.share_minor();
    price.micros = Micros(price.micros.0.div_ceil(u64::from(money.share)));
    money.held = price.micros;
}

/// The same for a credential that was not in memory.
fn share_later(request: &mut Request, credential: &Credential) -> Result<(), Fault> {
    let mut money = Reservation::clone(&request.money);
    count_one_use(&mut money, credential);
    let facts = CallFacts { money: Some(money.clone()), ..CallFacts::clone(&request.facts) };
    request.facts_json = to_json(&facts)?;
    request.facts = Arc::new(facts);
    request.money = Arc::new(money);
    Ok(())
}

fn check_ages(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let (now, permit) = (batch.now, &request.permit);
    if permit.identity().expires_at().is_some_and(|end| now >= end) {
        return Err(Code::TokenExpired.into());
    }
    if now >= permit.quote().expires_at() {
        return Err(Code::QuoteExpired.into());
    }
    if permit.authorization().is_fresh(now) { Ok(()) } else { Err(Code::DecisionStale.into()) }
}

fn check_size(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let is_full = batch.state().calls.at_work() >= batch.shared().limits.live_calls;
    if is_full {
        return Err(Code::Overloaded.into());
    }
    let minor = request.money.price.as_ref().map_or(0, |price| price.amount.minor);
    let fits = minor <= LARGEST_MINOR && i64::try_from(request.money.held.0).is_ok();
    if fits { Ok(()) } else { Err(Refusal::new(Code::BudgetExceeded).with("limit", "amount")) }
}

/// Whether there is enough credit. Nothing else spends it between this and the reservation.
fn check_credit(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let money = &request.money;
    let Some(price) = money.price.as_ref().filter(|_| money.course == Course::Credit) else {
        return Ok(());
    };
    let Some(account) = money.credit() else { return Err(Code::TokenMissing.into()) };
    let (tenant, asset) = (&request.entry.tenant, &price.amount.asset);
    let posted_minor = batch.shared().accounts().posted_minor(tenant, asset, account);
    let has_enough = i128::try_from(price.amount.minor).is_ok_and(|minor| minor <= posted_minor);
    if has_enough { Ok(()) } else { Err(Code::PayerFunds.into()) }
}

/// Whether whoever pays is linked to the person, where the operator's terms want that.
fn check_payer(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let terms = request.permit.terms();
    let payer = request.permit.payment().payer();
    let is_wanted = terms.payer == PayerRule::Linked && request.money.is_paid();
    if !is_wanted || is_linked(&batch.state(), request, payer.as_deref()) {
        return Ok(());
    }
    Err(Refusal::new(Code::PayerNotLinked).with("tool", &terms.tool))
}

fn is_linked(state: &State, request: &Request, payer: Option<&str>) -> bool {
    let person = Person::of(request.permit.identity().principal());
    matches!((payer, person), (Some(payer), Some(person)) if state.links.pays_for(payer, &person))
}

/// The grant and those that it is a part of, with the sums as they are now.
fn check_grant(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let Some((id, version)) = request.permit.consent().grant() else { return Ok(()) };
    check_grant_row(batch, id, version)?;
    let state = batch.state();
    let (held, payer) = (request.money.held, request.permit.payment().payer());
    let is_linked = is_linked(&state, request, payer.as_deref());
    for grant in state.grants.line(id) {
        let refused = |code| Err(Refusal::new(code).with("grant", grant.id));
        let admitted = match request.money.is_paid() {
            true => grant.terms.bounds.admits_payer(payer.as_deref(), is_linked),
            false => Ok(()),
        };
        if let Err(code) = admitted.and_then(|()| grant.leaves_room(held)) {
            return refused(code);
        }
        let windows = grant_charges(&grant);
        if state.counters.first_exceeded(&windows, held, batch.ledger_now).is_some() {
            return refused(Code::BudgetExceeded);
        }
    }
    Ok(())
}

/// Whether the grant still is what the proof was made from, and those that it is a part of hold.
pub(crate) fn check_grant_row(batch: &Batch<'_>, id: GrantId, version: u32) -> Result<(), Refusal> {
    let line = batch.state().grants.line(id);
    let refused = |id, code| Err(Refusal::new(code).with("grant", id));
    let is_whole = line.last().is_some_and(|eldest| eldest.terms.bounds.parent.is_none());
    if !is_whole {
        return refused(id, Code::NoGrant);
    }
    for grant in &line {
        let code = match grant.status {
            GrantStatus::Revoked => Code::GrantRevoked,
            GrantStatus::Suspended => Code::GrantSuspended,
            GrantStatus::Active if grant.id == id && grant.version != version => {
                Code::GrantSuspended
            }
            GrantStatus::Active if batch.now >= grant.terms.expires_at => Code::GrantExpired,
            GrantStatus::Active => continue,
        };
        return refused(grant.id, code);
    }
    Ok(())
}

/// Every budget at once. One that lets a person decide may be exceeded by a call that a person
/// confirmed in that knowledge.
fn check_budgets(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let (held, now) = (request.money.held, batch.ledger_now);
    let exceeded = batch.state().counters.exceeded(&request.charges, held, now);
    for charge in exceeded {
        let refused = |code| Err(Refusal::new(code).with("budget", charge.name()));
        match charge.on_exceed {
            OnExceed::Deny => return refused(Code::BudgetExceeded),
            OnExceed::Confirm
                if approvals::knew(batch, &request.money.approvals, charge.name()) => {}
            OnExceed::Confirm => return refused(Code::ApprovalPending),
        }
    }
    Ok(())
}

/// Every rate at once; one call counts one.
fn check_rates(batch: &Batch<'_>, request: &Request) -> Result<(), Refusal> {
    let now = batch.ledger_now;
    let exceeded = batch.state().counters.first_exceeded(&request.rates, Micros(1), now).cloned();
    match exceeded {
        Some(rate) => Err(Refusal::new(Code::RateLimited).with("calls", rate.limit.0)),
        None => Ok(()),
    }
}
