//! Upfront settlement: the rail takes the payer's money between two durable states.
//!
//! INVARIANT: `settling` ends by a known outcome only, never by time. When the money was taken but
//! the call may no longer start, it is owed back.

use crate::{
    accounts::{AccountName, Step},
    attempt::draft,
    calls::{Change, Course, Live, Price, SettlementReceipt},
    capture::ending,
    check::check_grant_row,
    fault::Fault,
    purchase,
    reserve::{Hold, start_record},
    schema::to_json,
    store::Store,
    writer::{Answer, Batch, Job},
};
use countersign_core::{
    audit::record::{Kind, Outcome},
    ids::{CallId, TransferId},
    ledger::CallState,
    money::{Amount, Micros},
    policy::Decision,
    proof::Permit,
    refusal::{Charged, Code, Refusal},
};
use std::sync::Arc;

/// A call whose payment is about to be settled.
#[derive(Debug)]
pub struct Settling {
    pub(crate) hold: Hold,
}

impl Settling {
    pub(crate) const fn new(hold: Hold) -> Self {
        Self { hold }
    }

    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.hold.permit
    }

    /// The call; that of the first attempt when a repeated request carries it on.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.hold.call
    }

    /// What to settle with: the payload as stored, the same at each try.
    #[must_use]
    pub fn payload(&self) -> Option<&str> {
        self.hold.payload.as_deref()
    }

    /// The counter of the limit of the treasury that is paying, once its payment is intended.
    #[must_use]
    pub fn limit(&self) -> Option<&str> {
        self.hold.limit.as_deref()
    }

    /// What is to be settled.
    #[must_use]
    pub fn amount(&self) -> Option<&Amount> {
        self.hold.price.as_ref().map(|price| &price.amount)
    }

    /// To whom.
    #[must_use]
    pub fn payee(&self) -> Option<&str> {
        self.hold.price.as_ref().map(|price| price.payee.as_str())
    }

    /// Work that releases it when nobody received it: nothing was sent to the rail.
    pub(crate) fn abandon(self) -> Job {
        let call = self.hold.call;
        Box::new(move |batch: &mut Batch<'_>| {
            if let Some(live) = take(batch, call, CallState::Settling) {
                release(batch, live, None)?;
            }
            Ok(Answer::none())
        })
    }
}

impl Store {
    /// The rail took the money: the call starts, if it still may.
    ///
    /// # Errors
    /// `GrantRevoked` and its kin, `DecisionStale`: it may not, and the money is owed back.
    /// `StoreFault`.
    pub async fn settled(
        &self,
        settling: Settling,
        receipt: SettlementReceipt,
    ) -> Result<Hold, Refusal> {
        let hold = settling.hold;
        self.carry_on(move |batch| settled(batch, hold, &receipt), abandoned).await?
    }

    /// The rail refused, and has not taken the money: the call is released, and the payment may
    /// be presented again.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn settle_failed(&self, settling: Settling, code: Code) -> Result<(), Refusal> {
        let call = settling.hold.call;
        self.carry_on(
            move |batch| {
                if let Some(live) = take(batch, call, CallState::Settling) {
                    release(batch, live, Some(code))?;
                }
                Ok(())
            },
            |()| None,
        )
        .await
    }

    /// Nobody knows whether the rail took the money: the call stays `settling`, for a repeated
    /// request or for recovery to carry on. Returns what to answer.
    pub async fn settle_unknown(&self, settling: Settling) -> Refusal {
        self.disown(settling.hold.call).await
    }

    pub(crate) async fn disown(&self, call: CallId) -> Refusal {
        let disowned = self.carry_on(
            move |batch| {
                batch.state().calls.disown(&call);
                Ok(())
            },
            |()| None,
        );
        let code = match disowned.await {
            Ok(()) => Code::SettlementUnknown,
            Err(refusal) => refusal.code(),
        };
        Refusal::new(code).call(call).charged(Charged::Unknown)
    }
}

/// A hold that nobody received: the tool never ran, the money is owed back.
fn abandoned(result: Result<Hold, Refusal>) -> Option<Job> {
    let hold = result.ok()?;
    Some(crate::capture::fail_job(hold, crate::capture::FailCause::NotExecuted))
}

fn settled(
    batch: &mut Batch<'_>,
    hold: Hold,
    receipt: &SettlementReceipt,
) -> Result<Result<Hold, Refusal>, Fault> {
    let call = hold.call;
    let Some(mut live) = take(batch, call, CallState::Settling) else {
        return Ok(Err(Refusal::new(Code::InternalFault).call(call).charged(Charged::Unknown)));
    };
    let settlement = to_json(receipt)?;
    let transfers = post_pending(batch, &live)?;
    live.receipt = Some(Arc::new(receipt.clone()));
    if let Err(refusal) = may_start(batch, &hold.permit) {
        owe_back(batch, live, transfers, (&settlement, refusal.code()))?;
        return Ok(Err(refusal.call(call).charged(Charged::Yes)));
    }
    let start = start_record(&live, transfers, None);
    live.record(batch, start)?;
    let change = Change { settlement: Some(&settlement), ..Change::to(CallState::Starting) };
    live.save(batch, &change)?;
    batch.state().calls.insert(call, live);
    Ok(Ok(hold))
}

/// The longest that a settlement may take, in milliseconds, before its call is not run any more.
const SETTLEMENT_MS: u64 = 60_000;

/// What could have changed while the rail worked.
pub(crate) fn may_start(batch: &Batch<'_>, permit: &Permit) -> Result<(), Refusal> {
    // The rail may have taken its time, and the money: a token that ended meanwhile was good when
    // the money left, and a decision is given the time of a settlement on top of its own.
    if batch.now.since_ms(permit.at()) > Decision::VALID_MS + SETTLEMENT_MS {
        return Err(Code::DecisionStale.into());
    }
    match permit.consent().grant() {
        Some((id, version)) => check_grant_row(batch, id, version),
        None => Ok(()),
    }
}

/// Takes a live call in this state out of memory, to be put back or ended.
pub(crate) fn take(batch: &Batch<'_>, call: CallId, state: CallState) -> Option<Live> {
    let mut shared = batch.state();
    let is_there = shared.calls.get(&call).is_some_and(|live| live.state == state);
    if is_there { shared.calls.remove(&call) } else { None }
}

/// Posts what the reservation left pending: the rail took it. What the treasury pays was not
/// pending, it is booked now; its limit counts it.
pub(crate) fn post_pending(batch: &Batch<'_>, live: &Live) -> Result<Vec<TransferId>, Fault> {
    let names = (live.source(), AccountName::Held);
    if live.money.course == Course::Treasury {
        purchase::count(batch, live);
        return live.transfer(batch, "settle", names, None, Step::Post);
    }
    live.transfer(batch, "settle", names, None, Step::PostPending(live.pending()))
}

/// Voids what the reservation left pending: the rail will not take it.
pub(crate) fn void_pending(batch: &Batch<'_>, live: &Live) -> Result<Vec<TransferId>, Fault> {
    if live.money.course == Course::Treasury {
        return Ok(Vec::new());
    }
    let names = (AccountName::Funding, AccountName::Held);
    live.transfer(batch, "void", names, None, Step::VoidPending(live.pending()))
}

/// Ends a call before its start, nothing taken.
pub(crate) fn release(
    batch: &mut Batch<'_>,
    mut live: Live,
    code: Option<Code>,
) -> Result<(), Fault> {
    let transfers = void_pending(batch, &live)?;
    purchase::forget(batch, &mut live)?;
    live.give_back(batch)?;
    live.return_approvals(batch)?;
    if let Some(code) = code {
        live.record(batch, refusal_record(&live, code))?;
    }
    let impact = ending(&live, Outcome::Released, transfers);
    live.record(batch, impact)?;
    let change = Change { code: code.map(Code::text), ..Change::to(CallState::Released) };
    live.save(batch, &change)
}

/// The money was taken, and the call did not start: it is owed back.
pub(crate) fn owe_back(
    batch: &mut Batch<'_>,
    mut live: Live,
    mut transfers: Vec<TransferId>,
    (settlement, code): (&str, Code),
) -> Result<(), Fault> {
    let names = (AccountName::Held, AccountName::RefundsDue);
    transfers.extend(live.transfer(batch, "refund_due", names, None, Step::Post)?);
    let spent = price_micros(live.money.price.as_ref());
    live.close_hold(batch, spent);
    live.return_approvals(batch)?;
    live.record(batch, refusal_record(&live, code))?;
    let impact = ending(&live, Outcome::RefundDue, transfers);
    live.record(batch, impact)?;
    let change = Change {
        settlement: Some(settlement),
        spent: Some((spent, live.money.price.as_ref().map(|price| price.amount.minor))),
        code: Some(code.text()),
        ..Change::to(CallState::RefundDue)
    };
    live.save(batch, &change)?;
    live.owned_at = None;
    batch.state().calls.insert(live.call(), live);
    Ok(())
}

fn refusal_record(live: &Live, code: Code) -> countersign_core::audit::record::RecordDraft {
    let mut refused = draft(Kind::Refusal, &live.entry);
    refused.outcome = Some(Outcome::Denied);
    refused.quote = Some(live.money.quote);
    refused.refusal = Some(Arc::from(code.text()));
    refused
}

/// The reference value of what is paid.
pub(crate) fn price_micros(price: Option<&Price>) -> Micros {
    price.map_or(Micros(0), |price| price.micros)
}
