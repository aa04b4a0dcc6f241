//! The end of a call: its outcome stored, its hold posted or given back.
//!
//! INVARIANT: an answer leaves only after its outcome, its postings and their records are
//! durable. A result whose payment did not settle is withheld.

use crate::{
    accounts::{AccountName, Step},
    attempt::draft,
    calls::{Change, Course, Live, Price, SettlementReceipt},
    credentials,
    fault::Fault,
    purchase, refunds,
    reserve::Hold,
    schema::{int, minor_blob, to_json},
    settle::{post_pending, price_micros, take, void_pending},
    store::Store,
    writer::{Answer, Batch, Job},
};
use countersign_core::{
    audit::record::{AmountEntry, Kind, Outcome as Ended, RecordDraft, commitment},
    digest::Digest,
    ids::{CallId, DecisionId, GrantId, QuoteId, TransferId},
    ledger::CallState,
    money::{Amount, Micros},
    proof::Permit,
    quote::Rail,
    refusal::{Charged, Code, Refusal},
};
use std::sync::Arc;

/// How much of the hold to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Take {
    /// The price.
    #[default]
    All,
    /// Less: this many minor units.
    Minor(u128),
}

/// What the tool answered.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The result's bytes, kept for a repeated request where there can be one.
    pub result: Vec<u8>,
    /// The tool reported an error.
    pub is_error: bool,
    /// SHA-256 of the result.
    pub digest: Digest,
    /// How much to take.
    pub take: Take,
}

/// Why a call that started is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailCause {
    /// The upstream was not reached: nothing ran.
    NotExecuted,
    /// It ran and failed; by the operator's rules that costs nothing.
    ToolError,
    /// It did not end: it asks its caller something, who answers with another request.
    Unfinished,
    /// Nobody knows whether it ran.
    InDoubt,
}

/// A call that was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The call.
    pub call: CallId,
    /// Its digest.
    pub call_digest: Digest,
    /// The quote.
    pub quote: QuoteId,
    /// The decision.
    pub decision: DecisionId,
    /// The grant.
    pub grant: Option<GrantId>,
    /// The rail.
    pub rail: Option<Rail>,
    /// What was taken.
    pub paid: Option<Amount>,
    /// The same in reference micros.
    pub micros: Micros,
    /// The settlement on its rail.
    pub settlement: Option<SettlementReceipt>,
    /// Under which key its payment is counted, as in the record of the decision.
    pub payment: Option<Digest>,
    /// SHA-256 of the result.
    pub result_digest: Digest,
    /// Index of the call's `ledger.impact` record.
    pub index: u64,
    /// Hash of that leaf.
    pub leaf: Digest,
    /// Records under the last checkpoint that was published.
    pub published: u64,
    /// The result's bytes; `None` when a repeated request asks for one that was larger than what
    /// is kept.
    pub result: Option<Vec<u8>>,
    /// The tool reported an error.
    pub is_error: bool,
}

/// A call that ran and whose payment is about to be settled.
#[derive(Debug)]
pub struct Finished {
    hold: Hold,
    outcome: Outcome,
}

impl Finished {
    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.hold.permit
    }

    /// The call.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.hold.call
    }

    /// What to settle with: the payload as stored, the same at each try.
    #[must_use]
    pub fn payload(&self) -> Option<&str> {
        self.hold.payload.as_deref()
    }

    /// What is to be settled.
    #[must_use]
    pub fn amount(&self) -> Option<&Amount> {
        self.hold.price.as_ref().map(|price| &price.amount)
    }
}

impl Store {
    /// Posts a call that ran: outcome, postings and records in one transaction.
    ///
    /// # Errors
    /// `InternalFault` when more than the price would be taken, or the payment is still to be
    /// settled ([`Store::finish`]): a fault of the caller's, which leaves the call in doubt.
    /// `StoreFault`.
    pub async fn capture(&self, hold: Hold, outcome: Outcome) -> Result<Captured, Refusal> {
        self.capture_with(hold, outcome, None).await
    }

    /// As [`Self::capture`]; a payment of the treasury that was made by presenting it is booked with
    /// it, and `receipt` is what is kept of the server's word.
    pub(crate) async fn capture_with(
        &self,
        hold: Hold,
        outcome: Outcome,
        receipt: Option<SettlementReceipt>,
    ) -> Result<Captured, Refusal> {
        let salts = (self.shared().world.random(), hold.call);
        let result = commitment(&salts.0, &outcome.result);
        self.carry_on(
            move |batch| capture(batch, salts.1, (outcome, receipt), (salts.0, result)),
            |_| None,
        )
        .await?
    }

    /// Stores the outcome of a call whose payment is settled after the run.
    ///
    /// # Errors
    /// `InternalFault` for a call of another flow, which it leaves in doubt; `StoreFault`.
    pub async fn finish(&self, hold: Hold, outcome: Outcome) -> Result<Finished, Refusal> {
        let salt = self.shared().world.random();
        let result = commitment(&salt, &outcome.result);
        self.carry_on(move |batch| finish(batch, hold, outcome, (salt, result)), unreceived).await?
    }

    /// The rail took the money of a call that ran: posts it.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn capture_settled(
        &self,
        finished: Finished,
        receipt: SettlementReceipt,
    ) -> Result<Captured, Refusal> {
        let Finished { hold, outcome } = finished;
        let call = hold.call;
        let captured = self.carry_on(
            move |batch| {
                let Some(live) = take(batch, call, CallState::Finished) else {
                    return Ok(Err(gone(call)));
                };
                let facts = (outcome.digest, outcome.is_error, outcome.result);
                post_finished(batch, live, facts, &receipt).map(Ok)
            },
            |_| None,
        );
        captured.await?
    }

    /// The rail refused the money of a call that ran: the result is withheld, and the loss is the
    /// operator's.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn withhold(&self, finished: Finished, code: Code) -> Result<(), Refusal> {
        let call = finished.hold.call;
        self.carry_on(
            move |batch| match take(batch, call, CallState::Finished) {
                Some(live) => withhold(batch, live, code),
                None => Ok(()),
            },
            |()| None,
        )
        .await
    }

    /// Nobody knows whether the rail took the money of a call that ran. Returns what to answer.
    pub async fn settle_unknown_finished(&self, finished: Finished) -> Refusal {
        self.disown(finished.hold.call).await
    }

    /// Ends a call that started and is not to be captured. Returns whether the caller was
    /// charged: what was taken before is owed back.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn fail(&self, hold: Hold, cause: FailCause) -> Result<Charged, Refusal> {
        let call = hold.call;
        self.carry_on(move |batch| fail(batch, call, cause), |_| None).await
    }
}

/// A token that nobody received: the settlement is recovery's.
fn unreceived(finished: Result<Finished, Refusal>) -> Option<Job> {
    let call = finished.ok()?.hold.call;
    Some(Box::new(move |batch: &mut Batch<'_>| {
        batch.state().calls.disown(&call);
        Ok(Answer::none())
    }))
}

pub(crate) fn gone(call: CallId) -> Refusal {
    Refusal::new(Code::InternalFault).call(call).charged(Charged::Unknown)
}

/// What a take comes to; `None` when it is more than the price.
fn taken(price: Option<&Price>, take: Take) -> Option<(Micros, Option<u128>)> {
    let Some(price) = price else {
        let is_nothing = matches!(take, Take::All | Take::Minor(0));
        return is_nothing.then_some((Micros(0), None));
    };
    match take {
        Take::All => Some((price.micros, Some(price.amount.minor))),
        Take::Minor(minor) if minor > price.amount.minor => None,
        Take::Minor(minor) => {
            let whole = price.amount.minor.max(1);
            let micros = u128::from(price.micros.0).checked_mul(minor)?.div_ceil(whole);
            Some((Micros(u64::try_from(micros).ok()?), Some(minor)))
        }
    }
}

fn capture(
    batch: &mut Batch<'_>,
    call: CallId,
    (outcome, receipt): (Outcome, Option<SettlementReceipt>),
    (salt, result): ([u8; 32], Digest),
) -> Result<Result<Captured, Refusal>, Fault> {
    let Some(mut live) = take(batch, call, CallState::Starting) else { return Ok(Err(gone(call))) };
    let sum = taken(live.money.price.as_ref(), outcome.take);
    let is_known = match live.money.course {
        Course::Authorization => false,
        Course::Treasury => live.is_settled() || receipt.is_some(),
        Course::Free | Course::Prepaid | Course::Upfront | Course::Credit => true,
    };
    let Some((micros, minor)) = sum.filter(|_| is_known) else {
        doubt(batch, live)?;
        return Ok(Err(gone(call)));
    };
    let micros = counted(&live, micros);
    let settlement = receipt.as_ref().map(to_json).transpose()?;
    let mut transfers = match &receipt {
        Some(receipt) => purchase::settle(batch, &mut live, receipt)?,
        None => Vec::new(),
    };
    if let Some(minor) = minor {
        let earned = (AccountName::Held, earner(&live));
        transfers.extend(live.transfer(batch, "capture", earned, Some(minor), Step::Post)?);
        let rest = live.money.price.as_ref().map_or(0, |p| p.amount.minor.saturating_sub(minor));
        let back = (AccountName::Held, AccountName::RefundsDue);
        transfers.extend(live.transfer(batch, "remainder", back, Some(rest), Step::Post)?);
    }
    live.record(batch, result_record(&live, ended(outcome.is_error), Some(result)))?;
    store_outcome(batch, &live, (&outcome.result, outcome.is_error, outcome.digest), minor)?;
    let facts = (outcome.digest, outcome.is_error, outcome.result);
    let change = Change {
        result_salt: Some(&salt),
        spent: Some((micros, minor)),
        settlement: settlement.as_deref(),
        ..Change::to(CallState::Captured)
    };
    post(batch, live, facts, transfers, &change).map(Ok)
}

/// Records and saves a call whose transfers are booked.
fn post(
    batch: &mut Batch<'_>,
    mut live: Live,
    (digest, is_error, result): (Digest, bool, Vec<u8>),
    transfers: Vec<TransferId>,
    change: &Change<'_>,
) -> Result<Captured, Fault> {
    let (micros, minor) = change.spent.unwrap_or_default();
    live.close_hold(batch, micros);
    let price = live.money.price.as_ref();
    let paid =
        price.zip(minor).map(|(price, minor)| Amount { asset: price.amount.asset.clone(), minor });
    let mut impact = ending(&live, Ended::Captured, transfers);
    impact.amount = paid.clone().map(|paid| AmountEntry::new(paid, micros));
    live.record(batch, impact)?;
    live.save(batch, change)?;
    let (index, leaf) = live.chain.last().copied().ok_or(Fault::Corrupt("call records"))?;
    Ok(Captured {
        call: live.call(),
        call_digest: live.facts.call_digest,
        quote: live.money.quote,
        decision: live.money.decision,
        grant: live.money.grant,
        rail: live.money.price.as_ref().map(|price| price.rail),
        paid,
        micros,
        settlement: live.receipt.as_deref().cloned(),
        payment: live.money.nonce.map(|(key, _)| key),
        result_digest: digest,
        index,
        leaf,
        published: batch.shared().published.size(),
        result: Some(result),
        is_error,
    })
}

fn finish(
    batch: &mut Batch<'_>,
    hold: Hold,
    outcome: Outcome,
    (salt, result): ([u8; 32], Digest),
) -> Result<Result<Finished, Refusal>, Fault> {
    let call = hold.call;
    let Some(mut live) = take(batch, call, CallState::Starting) else { return Ok(Err(gone(call))) };
    if live.money.course != Course::Authorization || outcome.take != Take::All {
        doubt(batch, live)?;
        return Ok(Err(gone(call)));
    }
    live.record(batch, result_record(&live, ended(outcome.is_error), Some(result)))?;
    let minor = live.money.price.as_ref().map(|price| price.amount.minor);
    store_outcome(batch, &live, (&outcome.result, outcome.is_error, outcome.digest), minor)?;
    live.save(batch, &Change { result_salt: Some(&salt), ..Change::to(CallState::Finished) })?;
    live.owned_at = Some(batch.now);
    batch.state().calls.insert(call, live);
    Ok(Ok(Finished { hold, outcome }))
}

/// Posts a call that ran and whose payment settled since.
pub(crate) fn post_finished(
    batch: &mut Batch<'_>,
    mut live: Live,
    facts: (Digest, bool, Vec<u8>),
    receipt: &SettlementReceipt,
) -> Result<Captured, Fault> {
    let mut transfers = post_pending(batch, &live)?;
    let earned = (AccountName::Held, earner(&live));
    transfers.extend(live.transfer(batch, "capture", earned, None, Step::Post)?);
    let settlement = to_json(receipt)?;
    let minor = live.money.price.as_ref().map(|price| price.amount.minor);
    let change = Change {
        settlement: Some(&settlement),
        spent: Some((counted(&live, price_micros(live.money.price.as_ref())), minor)),
        ..Change::to(CallState::Captured)
    };
    live.receipt = Some(Arc::new(receipt.clone()));
    // It is paid for now: who repeats the request has as long as ever to fetch it.
    let until = batch.now.plus_ms(batch.shared().limits.outcome_keep_ms);
    batch
        .conn
        .prepare_cached("UPDATE outcomes SET expires_at = max(expires_at, ?2) WHERE n = ?1")?
        .execute((live.n, int(until.0)))?;
    post(batch, live, facts, transfers, &change)
}

/// Ends a call that ran and will never be paid.
pub(crate) fn withhold(batch: &mut Batch<'_>, mut live: Live, code: Code) -> Result<(), Fault> {
    let mut transfers = void_pending(batch, &live)?;
    let lost = (AccountName::OperatorLoss, payable(&live));
    transfers.extend(live.transfer(batch, "loss", lost, None, Step::Post)?);
    live.close_hold(batch, Micros(0));
    if let Some(grant) = live.money.grant {
        batch.state().grants.forget_call(grant);
    }
    batch.conn.prepare_cached("DELETE FROM outcomes WHERE n = ?")?.execute([live.n])?;
    let mut impact = ending(&live, Ended::Released, transfers);
    impact.note("withheld", code.text().to_owned());
    live.record(batch, impact)?;
    let spent = Some((Micros(0), None));
    live.save(batch, &Change { code: Some(code.text()), spent, ..Change::to(CallState::Released) })
}

fn fail(batch: &mut Batch<'_>, call: CallId, cause: FailCause) -> Result<Charged, Fault> {
    let Some(mut live) = take(batch, call, CallState::Starting) else {
        return Ok(Charged::Unknown);
    };
    let is_untold = live.money.course == Course::Treasury && !live.is_settled();
    let seen = match cause {
        FailCause::InDoubt => return doubt(batch, live),
        // The payment left with the call, and nobody said what became of it.
        FailCause::Unfinished | FailCause::ToolError if is_untold => return doubt(batch, live),
        FailCause::NotExecuted => {
            live.return_approvals(batch)?;
            "not_executed"
        }
        // It ran, if not to its end: its approval was for that.
        FailCause::Unfinished => "input_required",
        FailCause::ToolError => "tool_error",
    };
    let mut result = result_record(&live, Ended::Failed, None);
    result.note("cause", seen.to_owned());
    live.record(batch, result)?;
    match live.money.course {
        Course::Free => {
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), Vec::new())?;
            Ok(Charged::No)
        }
        Course::Authorization => {
            let transfers = void_pending(batch, &live)?;
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), transfers)?;
            Ok(Charged::No)
        }
        course @ (Course::Prepaid | Course::Credit) => {
            let transfers = return_use(batch, &live, AccountName::Held)?;
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), transfers)?;
            Ok(if course == Course::Credit { Charged::No } else { Charged::Unused })
        }
        Course::Upfront => {
            refund_due(batch, live, AccountName::Held)?;
            Ok(Charged::Yes)
        }
        Course::Treasury if live.is_settled() => {
            refund_due(batch, live, AccountName::Held)?;
            Ok(Charged::Yes)
        }
        Course::Treasury => {
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), Vec::new())?;
            Ok(Charged::No)
        }
    }
}

/// Gives back what was paid before: to the principal's credit; to what its credential has left,
/// or what is owed back when that has ended.
pub(crate) fn return_use(
    batch: &Batch<'_>,
    live: &Live,
    from: AccountName,
) -> Result<Vec<TransferId>, Fault> {
    if let Some(account) = live.money.credit().filter(|_| live.money.course == Course::Credit) {
        return live.transfer(batch, "return", (from, account), None, Step::Post);
    }
    let key = live.money.nonce.map(|(key, _)| key);
    let credential = key.map(|key| credentials::find(batch, key)).transpose()?.flatten();
    let is_closed = credential.is_none_or(|credential| credential.closed);
    let owed = credentials::owed_to(batch, live.money.principal);
    let to = if is_closed { owed } else { AccountName::Available };
    if let (AccountName::RefundsDue, Some(key), Some(price)) = (&to, key, &live.money.price) {
        let call = live.call();
        refunds::owe(batch, key, call.as_bytes(), &live.facts.tenant, &price.amount)?;
    }
    live.transfer(batch, "return", (from, to), None, Step::Post)
}

/// What was taken is owed back.
pub(crate) fn refund_due(
    batch: &mut Batch<'_>,
    mut live: Live,
    from: AccountName,
) -> Result<(), Fault> {
    let names = (from, AccountName::RefundsDue);
    let transfers = live.transfer(batch, "refund_due", names, None, Step::Post)?;
    let spent = price_micros(live.money.price.as_ref());
    live.close_hold(batch, spent);
    let impact = ending(&live, Ended::RefundDue, transfers);
    live.record(batch, impact)?;
    let minor = live.money.price.as_ref().map(|price| price.amount.minor);
    live.save(batch, &Change { spent: Some((spent, minor)), ..Change::to(CallState::RefundDue) })?;
    live.owned_at = None;
    batch.state().calls.insert(live.call(), live);
    Ok(())
}

/// Nobody knows whether the tool ran: what was taken waits in suspense, the hold stays. A call that
/// costs nothing leaves nothing to decide: it ends, and its record says that it is in doubt.
pub(crate) fn doubt(batch: &mut Batch<'_>, mut live: Live) -> Result<Charged, Fault> {
    let mut result = result_record(&live, Ended::InDoubt, None);
    if live.money.course == Course::Free {
        live.record(batch, result)?;
        live.give_back(batch)?;
        close(batch, live, (CallState::Released, Ended::Released), Vec::new())?;
        return Ok(Charged::No);
    }
    if live.is_settled() {
        let names = (AccountName::Held, AccountName::Suspense);
        result.transfers = live.transfer(batch, "doubt", names, None, Step::Post)?;
    }
    live.record(batch, result)?;
    live.save(batch, &Change::to(CallState::InDoubt))?;
    live.owned_at = None;
    let charged = match (live.is_settled(), live.money.course) {
        (true, _) => Charged::Yes,
        (false, Course::Treasury) => Charged::Unknown,
        (
            false,
            Course::Free
            | Course::Prepaid
            | Course::Upfront
            | Course::Authorization
            | Course::Credit,
        ) => Charged::No,
    };
    batch.state().calls.insert(live.call(), live);
    Ok(charged)
}

/// Records the end and saves the row.
pub(crate) fn close(
    batch: &mut Batch<'_>,
    mut live: Live,
    (state, outcome): (CallState, Ended),
    transfers: Vec<TransferId>,
) -> Result<(), Fault> {
    let impact = ending(&live, outcome, transfers);
    live.record(batch, impact)?;
    live.save(batch, &Change::to(state))
}

/// Work that ends a call whose token nobody received.
pub(crate) fn fail_job(hold: Hold, cause: FailCause) -> Job {
    let call = hold.call;
    Box::new(move |batch: &mut Batch<'_>| {
        fail(batch, call, cause)?;
        Ok(Answer::none())
    })
}

const fn ended(is_error: bool) -> Ended {
    if is_error { Ended::Failed } else { Ended::Succeeded }
}

/// Who earns what a call costs: the server, or the caller itself where it tops its credit up.
pub(crate) fn earner(live: &Live) -> AccountName {
    match live.money.credit().filter(|_| live.money.top_up) {
        Some(credit) => credit,
        None => payable(live),
    }
}

/// What a call counts in budgets: what is paid for credit counts when that is spent.
pub(crate) fn counted(live: &Live, micros: Micros) -> Micros {
    if live.money.top_up { Micros(0) } else { micros }
}

/// Whose the money is once the call has run: the server's, or, where it was paid outward, that of
/// the payees it names.
pub(crate) fn payable(live: &Live) -> AccountName {
    let server = live.facts.server.clone();
    match live.money.course {
        Course::Treasury => AccountName::PaidOut(server),
        Course::Free
        | Course::Prepaid
        | Course::Upfront
        | Course::Authorization
        | Course::Credit => AccountName::Payable(server),
    }
}

pub(crate) fn result_record(live: &Live, outcome: Ended, result: Option<Digest>) -> RecordDraft {
    let mut record = draft(Kind::InvocationResult, &live.entry);
    record.outcome = Some(outcome);
    record.result = result;
    record
}

/// The closing record of a call: what it did to the ledger.
pub(crate) fn ending(live: &Live, outcome: Ended, transfers: Vec<TransferId>) -> RecordDraft {
    let mut impact = draft(Kind::LedgerImpact, &live.entry);
    impact.outcome = Some(outcome);
    impact.quote = Some(live.money.quote);
    impact.decision = Some(live.money.decision);
    impact.policy = Some(live.money.policy);
    impact.amount = live.money.amount_entry();
    impact.transfers = transfers;
    impact
}

/// Keeps the outcome of a call that a repeated request can ask for: one payment, one call.
fn store_outcome(
    batch: &Batch<'_>,
    live: &Live,
    (result, is_error, digest): (&[u8], bool, Digest),
    minor: Option<u128>,
) -> Result<(), Fault> {
    if live.money.nonce.is_none_or(|(_, max_uses)| max_uses != 1) {
        return Ok(());
    }
    let limits = &batch.shared().limits;
    let kept = (result.len() <= limits.outcome_bytes).then_some(result);
    let until = live.money.quote_expires.plus_ms(limits.outcome_keep_ms);
    batch.conn.prepare_cached("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?)")?.execute((
        live.n,
        is_error,
        digest.as_bytes(),
        kept,
        minor_blob(minor.unwrap_or(0)),
        int(until.0),
    ))?;
    Ok(())
}
