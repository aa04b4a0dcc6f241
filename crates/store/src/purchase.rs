//! What the treasury pays a server behind: the intent of a payment outward, and its outcome.
//!
//! A call that the treasury pays for is reserved as `settling`: its budgets hold the quoted price,
//! and nothing is booked. [`Store::intend`] writes down the very payment before anything of it
//! leaves; from then on it is this payment or none.
//! INVARIANT: one call intends one payment, of no more than its quoted price, and what recovery
//! repeats is that payment.
//! INVARIANT: the treasury's own limit counts a payment from its intent on; it is given back only
//! where our own wallet says that it did not pay, never on the word of who was to be paid.

use crate::{
    accounts::{AccountName, Step},
    calls::{CallFacts, CallView, Change, Course, Live, Outward, SettlementReceipt},
    capture::{Captured, FailCause, Outcome, close, doubt, ending, gone, result_record},
    fault::Fault,
    reserve::{Hold, start_record},
    schema::to_json,
    settle::{Settling, may_start, post_pending, price_micros, release, take},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    audit::record::Outcome as Ended,
    digest::Digest,
    ids::{CallId, TransferId},
    ledger::{CallState, Charge},
    money::{Amount, Micros},
    quote::{Offer, Quote},
    refusal::{Charged, Code, Refusal},
    time::UnixMs,
};
use std::{slice, sync::Arc};

/// A payment outward that is about to be made.
#[derive(Clone)]
pub struct Purchase {
    /// What is paid: the quoted price, or less of the same.
    pub amount: Amount,
    /// Its value in reference micros.
    pub micros: Micros,
    /// The rail's reference: a payment hash, a nonce.
    pub reference: String,
    /// What is paid with, the same at each try. A bearer instrument.
    pub payload: String,
    /// The treasury's limit.
    pub limit: Charge,
}

impl std::fmt::Debug for Purchase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Purchase").field(&self.amount).field(&self.reference).finish()
    }
}

/// What is known of a payment that left with its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlay {
    /// It was not taken.
    Untouched,
    /// It was taken.
    Taken(SettlementReceipt),
    /// Nobody knows.
    Unknown,
}

impl Store {
    /// Writes down the payment that is about to be made, in place of the quoted price.
    ///
    /// # Errors
    /// What changed since the permit, `BudgetExceeded` for the treasury's limit: the call is
    /// released, nothing was paid. `StoreFault`.
    pub async fn intend(
        &self,
        settling: Settling,
        purchase: Purchase,
    ) -> Result<Settling, Refusal> {
        let hold = settling.hold;
        let intended =
            self.carry_on(move |batch| intend(batch, hold, purchase, Next::Pays), |_| None).await?;
        intended.map(Settling::new)
    }

    /// The same for a payment that is made by presenting it with the call: it starts.
    ///
    /// # Errors
    /// As [`Self::intend`].
    pub async fn start_paying(
        &self,
        settling: Settling,
        purchase: Purchase,
    ) -> Result<Hold, Refusal> {
        let hold = settling.hold;
        self.carry_on(move |batch| intend(batch, hold, purchase, Next::Starts), |_| None).await?
    }

    /// Posts a call that ran and was paid for outward, with what is kept of the server's word.
    ///
    /// # Errors
    /// As [`Store::capture`].
    pub async fn capture_bought(
        &self,
        hold: Hold,
        outcome: Outcome,
        receipt: SettlementReceipt,
    ) -> Result<Captured, Refusal> {
        self.capture_with(hold, outcome, Some(receipt)).await
    }

    /// Ends a call that was paid for outward and is not to be captured. What was taken is owed back
    /// by the server.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn fail_bought(
        &self,
        hold: Hold,
        cause: FailCause,
        outlay: Outlay,
    ) -> Result<Charged, Refusal> {
        let call = hold.call;
        self.carry_on(move |batch| fail_bought(batch, call, cause, outlay), |_| None).await
    }

    /// The call of this digest that the treasury is paying for, or may have paid for, and the quote
    /// under which it may be carried on until `until`; no quote while somebody carries it on.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn buying(
        &self,
        call_digest: Digest,
        until: UnixMs,
    ) -> Result<Option<(CallView, Option<Quote>)>, Refusal> {
        let now = self.shared().world.now();
        let is_it = |live: &&Live| {
            live.money.course == Course::Treasury
                && live.facts.call_digest == call_digest
                && live.state != CallState::RefundDue
        };
        let state = self.shared().state();
        let found = state.calls.values().find(is_it).map(|live| {
            let quote = if live.is_owned(now) { None } else { quote_of(live, now, until) };
            (live.call(), quote)
        });
        drop(state);
        let Some((call, quote)) = found else { return Ok(None) };
        Ok(self.call(call)?.map(|view| (view, quote)))
    }
}

impl Hold {
    /// What the treasury pays with: kept before it was paid or shown.
    #[must_use]
    pub fn payload(&self) -> Option<&str> {
        self.payload.as_deref()
    }

    /// The counter of the limit of the treasury that pays: it tells which one it is.
    #[must_use]
    pub fn limit(&self) -> Option<&str> {
        self.limit.as_deref()
    }
}

/// The quote of a call that may be carried on: its payment as it is intended.
fn quote_of(live: &Live, now: UnixMs, until: UnixMs) -> Option<Quote> {
    let may = match live.state {
        CallState::Settling => true,
        CallState::Starting => live.money.idempotent,
        CallState::Reserved
        | CallState::Settled
        | CallState::Finished
        | CallState::Captured
        | CallState::Released
        | CallState::Refused
        | CallState::InDoubt
        | CallState::RefundDue
        | CallState::Refunded => false,
    };
    let price = live.money.price.as_ref().filter(|_| may)?;
    let offer = Offer::treasury(price.amount.clone(), price.payee.clone(), price.micros);
    Some(Quote::new(live.money.quote, live.facts.call_digest, vec![offer], now, until))
}

/// What follows on the intent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The wallet pays.
    Pays,
    /// The call starts, its payment with it.
    Starts,
}

fn intend(
    batch: &mut Batch<'_>,
    mut hold: Hold,
    purchase: Purchase,
    step: Next,
) -> Result<Result<Hold, Refusal>, Fault> {
    let call = hold.call;
    let Some(mut live) = take(batch, call, CallState::Settling) else { return Ok(Err(gone(call))) };
    let allowed = may_start(batch, &hold.permit)
        .and_then(|()| is_quoted(&live, &purchase))
        .and_then(|()| leaves_room(batch, &purchase));
    if let Err(refusal) = allowed {
        release(batch, live, Some(refusal.code()))?;
        return Ok(Err(refusal.call(call)));
    }
    let outward = Outward {
        key: purchase.limit.key.clone(),
        micros: purchase.micros,
        reference: purchase.reference,
    };
    let money = Arc::make_mut(&mut live.money);
    if let Some(price) = &mut money.price {
        price.amount = purchase.amount;
        price.micros = purchase.micros;
    }
    money.payload = Some(purchase.payload.into());
    money.outward = Some(outward.clone());
    write_facts(batch, &mut live)?;
    hold.price.clone_from(&live.money.price);
    hold.payload.clone_from(&live.money.payload);
    hold.limit = live.money.limit();
    let key = slice::from_ref(&outward.key);
    batch.state().counters.watch(slice::from_ref(&purchase.limit));
    if step == Next::Starts {
        batch.state().counters.close(key, Micros(0), outward.micros, batch.ledger_now);
        let start = start_record(&live, Vec::new(), None);
        live.record(batch, start)?;
        live.save(batch, &Change::to(CallState::Starting))?;
    } else {
        batch.state().counters.hold(key, outward.micros);
    }
    batch.state().calls.insert(call, live);
    Ok(Ok(hold))
}

/// Whether it is the quoted price or less of the same, and the first payment of this call.
fn is_quoted(live: &Live, purchase: &Purchase) -> Result<(), Refusal> {
    let Some(price) = &live.money.price else { return Err(Code::InternalFault.into()) };
    let fits = live.money.course == Course::Treasury
        && live.money.payload.is_none()
        && price.amount.asset == purchase.amount.asset
        && purchase.amount.minor <= price.amount.minor
        && purchase.micros <= price.micros;
    if fits { Ok(()) } else { Err(Code::InternalFault.into()) }
}

fn leaves_room(batch: &Batch<'_>, purchase: &Purchase) -> Result<(), Refusal> {
    let (charges, micros) = (slice::from_ref(&purchase.limit), purchase.micros);
    let state = batch.state();
    match state.counters.first_exceeded(charges, micros, batch.ledger_now) {
        None => Ok(()),
        Some(limit) => Err(Refusal::new(Code::BudgetExceeded).with("limit", limit.name())),
    }
}

/// The wallet has paid: what its limit held is spent.
pub(crate) fn count(batch: &Batch<'_>, live: &Live) {
    let Some(outward) = live.money.outward.as_ref().filter(|_| live.is_intended()) else { return };
    let (key, micros) = (slice::from_ref(&outward.key), outward.micros);
    batch.state().counters.close(key, micros, micros, batch.ledger_now);
}

/// The wallet has not paid, and will not: its limit gets back what it held.
pub(crate) fn forget(batch: &Batch<'_>, live: &mut Live) -> Result<(), Fault> {
    let Some(outward) = live.money.outward.clone().filter(|_| live.is_intended()) else {
        return Ok(());
    };
    let key = slice::from_ref(&outward.key);
    batch.state().counters.close(key, outward.micros, Micros(0), batch.ledger_now);
    Arc::make_mut(&mut live.money).outward = None;
    write_facts(batch, live)
}

/// Books a payment that left with its call, unless it is booked; keeps the receipt.
pub(crate) fn settle(
    batch: &Batch<'_>,
    live: &mut Live,
    receipt: &SettlementReceipt,
) -> Result<Vec<TransferId>, Fault> {
    let is_booked = live.is_settled();
    live.receipt = Some(Arc::new(receipt.clone()));
    if is_booked { Ok(Vec::new()) } else { post_pending(batch, live) }
}

fn fail_bought(
    batch: &mut Batch<'_>,
    call: CallId,
    cause: FailCause,
    outlay: Outlay,
) -> Result<Charged, Fault> {
    let Some(mut live) = take(batch, call, CallState::Starting) else {
        return Ok(Charged::Unknown);
    };
    let receipt = match outlay {
        Outlay::Unknown if !live.is_settled() => return doubt(batch, live),
        Outlay::Taken(receipt) => Some(receipt),
        Outlay::Untouched | Outlay::Unknown => None,
    };
    if cause == FailCause::NotExecuted {
        live.return_approvals(batch)?;
    }
    let mut result = result_record(&live, Ended::Failed, None);
    let said = match cause {
        FailCause::NotExecuted => "not_executed",
        FailCause::Unfinished => "input_required",
        FailCause::ToolError | FailCause::InDoubt => "tool_error",
    };
    result.note("cause", said.to_owned());
    live.record(batch, result)?;
    let transfers = match &receipt {
        Some(receipt) => settle(batch, &mut live, receipt)?,
        None if live.is_settled() => Vec::new(),
        None => {
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), Vec::new())?;
            return Ok(Charged::No);
        }
    };
    owed_by_server(batch, live, transfers)?;
    Ok(Charged::Yes)
}

/// What was taken is owed back by the server; it counts as spent until then.
fn owed_by_server(
    batch: &mut Batch<'_>,
    mut live: Live,
    mut transfers: Vec<TransferId>,
) -> Result<(), Fault> {
    let names = (AccountName::Held, AccountName::RefundsDue);
    transfers.extend(live.transfer(batch, "refund_due", names, None, Step::Post)?);
    let spent = price_micros(live.money.price.as_ref());
    live.close_hold(batch, spent);
    let impact = ending(&live, Ended::RefundDue, transfers);
    live.record(batch, impact)?;
    let settlement = live.receipt.as_deref().map(to_json).transpose()?;
    let minor = live.money.price.as_ref().map(|price| price.amount.minor);
    live.save(
        batch,
        &Change {
            spent: Some((spent, minor)),
            settlement: settlement.as_deref(),
            ..Change::to(CallState::RefundDue)
        },
    )?;
    live.owned_at = None;
    batch.state().calls.insert(live.call(), live);
    Ok(())
}

/// Writes what is known of the call anew.
fn write_facts(batch: &Batch<'_>, live: &mut Live) -> Result<(), Fault> {
    let money = Some((*live.money).clone());
    live.facts = Arc::new(CallFacts { money, ..(*live.facts).clone() });
    batch
        .conn
        .prepare_cached("UPDATE calls SET facts = ? WHERE n = ?")?
        .execute((to_json(&*live.facts)?, live.n))?;
    Ok(())
}
