//! Recovery: what a crash left, and what people must look at.
//!
//! Each state of `ledger.md`'s table has one way on. What needs nobody is done when the store
//! opens; what needs the rail is handed out as a token; what needs a person is listed.
//! INVARIANT: a tool that is not marked idempotent is never called again.

use crate::{
    accounts::{AccountName, Step},
    attempt::draft,
    calls::{Change, Course, Live, SettlementReceipt},
    capture::{
        Captured, close, counted, doubt, earner, ending, post_finished, refund_due, return_use,
    },
    fault::Fault,
    grants::admin,
    payback::{self, Debt},
    reads::stored_outcome_of,
    schema::to_json,
    settle::{owe_back, post_pending, price_micros, release, take, void_pending},
    store::Store,
    unsettled::unpaid,
    writer::Batch,
};
use countersign_core::{
    audit::record::{Kind, Outcome as Ended},
    ids::CallId,
    ledger::CallState,
    money::{Amount, AssetCode, Micros},
    proof::Principal,
    quote::Rail,
    refusal::{Code, Refusal},
    terms::{DoubtRule, ToolRef},
};
use std::sync::Arc;

/// Work that a crash or an unknown settlement left.
#[derive(Debug)]
pub enum Unfinished {
    /// An upfront payment may be on its way: ask the rail, or settle again with the same payload.
    Settling(Unsettled),
    /// The call ran, and its payment may be on its way: the same.
    Finished(Unsettled),
    /// An idempotent tool was interrupted. The caller's repeated request carries it on; without
    /// one, [`Store::give_up`].
    Starting(Interrupted),
}

/// A settlement of which the outcome is not known. One owner at a time.
#[derive(Debug)]
pub struct Unsettled {
    call: CallId,
    rail: Option<Rail>,
    amount: Option<Amount>,
    payee: Option<String>,
    payload: Option<Arc<str>>,
    limit: Option<Arc<str>>,
}

impl Unsettled {
    /// The call.
    #[must_use]
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// The rail.
    #[must_use]
    pub const fn rail(&self) -> Option<Rail> {
        self.rail
    }

    /// What is to be settled.
    #[must_use]
    pub const fn amount(&self) -> Option<&Amount> {
        self.amount.as_ref()
    }

    /// To whom.
    #[must_use]
    pub fn payee(&self) -> Option<&str> {
        self.payee.as_deref()
    }

    /// What to settle with: the payload as stored, the same at each try.
    #[must_use]
    pub fn payload(&self) -> Option<&str> {
        self.payload.as_deref()
    }

    /// The counter of the limit of the treasury that was paying.
    #[must_use]
    pub fn limit(&self) -> Option<&str> {
        self.limit.as_deref()
    }
}

/// A call of an idempotent tool that a crash interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The call.
    pub call: CallId,
    /// The tool.
    pub tool: ToolRef,
}

/// How a recovered settlement ended.
#[derive(Debug)]
pub enum Recovered {
    /// The call never started: the money is owed back.
    RefundDue(Due),
    /// The call had run: it is posted, and a repeated request gets its outcome.
    Captured(Box<Captured>),
}

/// Money that is owed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The call.
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The rail.
    pub rail: Option<Rail>,
    /// How much.
    pub amount: Option<Amount>,
    /// The settlement that took it.
    pub settlement: Option<SettlementReceipt>,
    /// What it was taken with, as stored.
    pub payload: Option<Arc<str>>,
    /// Whether it can become somebody's credit.
    pub is_of_somebody: bool,
    /// Whether a treasury is paying it back.
    pub is_under_way: bool,
}

/// A call that started and of which nobody knows the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The call.
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The tool.
    pub tool: ToolRef,
    /// What was taken or is held.
    pub amount: Option<Amount>,
    /// Whether the money was taken.
    pub is_settled: bool,
    /// What the operator's terms say.
    pub rule: DoubtRule,
    /// What it would be settled with.
    pub payload: Option<Arc<str>>,
}

impl Live {
    pub(crate) fn tool_ref(&self) -> ToolRef {
        ToolRef { server: Arc::clone(&self.facts.server), tool: Arc::clone(&self.facts.tool) }
    }

    fn amount(&self) -> Option<Amount> {
        self.money.price.as_ref().map(|price| price.amount.clone())
    }

    fn due(&self) -> Due {
        Due {
            call: self.call(),
            tenant: Arc::clone(&self.facts.tenant),
            rail: self.money.price.as_ref().map(|price| price.rail),
            amount: self.amount(),
            settlement: self.receipt.as_deref().cloned(),
            payload: self.money.payload.clone(),
            is_of_somebody: self.money.principal.is_some(),
            is_under_way: false,
        }
    }

    fn unsettled(&self) -> Unsettled {
        let price = self.money.price.as_ref();
        Unsettled {
            call: self.call(),
            rail: price.map(|price| price.rail),
            amount: self.amount(),
            payee: price.map(|price| price.payee.clone()),
            payload: self.money.payload.clone(),
            limit: self.money.limit(),
        }
    }

    /// Whether the treasury is to pay for it and has not begun to.
    fn is_unbegun(&self) -> bool {
        self.money.course == Course::Treasury && self.money.payload.is_none()
    }

    /// Whether a repeated request can carry on an interrupted start.
    fn can_resume(&self) -> bool {
        self.money.idempotent && self.money.nonce.is_some_and(|(_, max_uses)| max_uses == 1)
    }
}

/// What needs nobody, at open: nothing was sent, or nobody can know.
pub(crate) fn at_open(batch: &mut Batch<'_>) -> Result<(), Fault> {
    let calls: Vec<Live> = batch.state().calls.values().cloned().collect();
    for live in calls {
        let call = live.call();
        match live.state {
            CallState::Reserved => {
                batch.state().calls.remove(&call);
                release(batch, live, None)?;
            }
            // The treasury had not begun to pay.
            CallState::Settling if live.is_unbegun() => {
                batch.state().calls.remove(&call);
                release(batch, live, None)?;
            }
            CallState::Settled => {
                batch.state().calls.remove(&call);
                refund_due(batch, live, AccountName::Held)?;
            }
            CallState::Starting if !live.can_resume() => {
                batch.state().calls.remove(&call);
                doubt(batch, live)?;
            }
            CallState::Starting
            | CallState::Settling
            | CallState::Finished
            | CallState::InDoubt
            | CallState::RefundDue
            | CallState::Refused
            | CallState::Captured
            | CallState::Released
            | CallState::Refunded => {}
        }
    }
    Ok(())
}

impl Store {
    /// The work that nobody owns: after a crash, and after settlements whose outcome was not
    /// known. Settlements become the caller's; ask again for what it gave back.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, Refusal> {
        self.carry_on(|batch| Ok(take_unowned(batch)), |_| None).await
    }

    /// The rail took the money after all.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn recover_settled(
        &self,
        item: Unsettled,
        receipt: SettlementReceipt,
    ) -> Result<Recovered, Refusal> {
        let call = item.call;
        self.carry_on(move |batch| recover_settled(batch, call, &receipt), |_| None).await?
    }

    /// The rail has not taken the money, and will not: the call is released, or its result
    /// withheld for good.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn recover_failed(&self, item: Unsettled, code: Code) -> Result<(), Refusal> {
        let call = item.call;
        self.carry_on(
            move |batch| {
                for state in [CallState::Settling, CallState::Finished] {
                    let _not_there = unpaid(batch, call, state, code)?;
                }
                Ok(())
            },
            |()| None,
        )
        .await
    }

    /// Still nobody knows: the item can be had again.
    pub async fn recover_unknown(&self, item: Unsettled) {
        let _ = self.disown(item.call).await;
    }

    /// Nobody repeated the request of an interrupted idempotent call: it is in doubt.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn give_up(&self, call: CallId) -> Result<(), Refusal> {
        self.carry_on(
            move |batch| {
                let unowned =
                    batch.state().calls.get(&call).is_some_and(|live| live.owned_at.is_none());
                match unowned.then(|| take(batch, call, CallState::Starting)).flatten() {
                    Some(live) => doubt(batch, live).map(drop),
                    None => Ok(()),
                }
            },
            |()| None,
        )
        .await
    }

    /// Calls of which nobody knows the outcome, the oldest first.
    #[must_use]
    pub fn in_doubt(&self) -> Vec<Doubt> {
        self.list(CallState::InDoubt, |live| Doubt {
            call: live.call(),
            tenant: Arc::clone(&live.facts.tenant),
            tool: live.tool_ref(),
            amount: live.amount(),
            is_settled: live.is_settled(),
            rule: live.money.doubt(),
            payload: live.money.payload.clone(),
        })
    }

    /// Money that is owed back, the oldest first.
    #[must_use]
    pub fn refunds_due(&self) -> Vec<Due> {
        let mut dues = self.list(CallState::RefundDue, Live::due);
        let state = self.shared().state();
        for due in &mut dues {
            due.is_under_way = state.paybacks.has(Debt::Call(due.call));
        }
        dues
    }

    pub(crate) fn list<T>(&self, wanted: CallState, show: impl Fn(&Live) -> T) -> Vec<T> {
        let state = self.shared().state();
        let mut found: Vec<&Live> =
            state.calls.values().filter(|live| live.state == wanted).collect();
        found.sort_by_key(|live| live.call());
        found.into_iter().map(show).collect()
    }

    /// Ends a call in doubt: what was taken is kept or owed back. What was not taken is released
    /// either way, since nobody is charged without a stored result.
    ///
    /// # Errors
    /// `InternalFault` when the call is not in doubt; `StoreFault`.
    pub async fn resolve(
        &self,
        call: CallId,
        rule: DoubtRule,
        by: &str,
    ) -> Result<CallState, Refusal> {
        let by = by.to_owned();
        self.carry_on(move |batch| resolve(batch, call, rule, &by), |_| None).await?
    }

    /// The money went back.
    ///
    /// # Errors
    /// `InternalFault` when none was due; `StoreFault`.
    pub async fn refunded(&self, call: CallId, receipt: SettlementReceipt) -> Result<(), Refusal> {
        let refund = move |batch: &mut Batch<'_>| {
            refunded(batch, call, &receipt.transaction, AccountName::Funding)
        };
        self.carry_on(refund, |_| None).await?
    }

    /// What is owed back becomes its principal's credit.
    ///
    /// # Errors
    /// `InternalFault` when none was due, or of nobody in particular, or a treasury is paying it
    /// back; `StoreFault`.
    pub async fn refund_to_credit(&self, call: CallId) -> Result<(), Refusal> {
        let refund = move |batch: &mut Batch<'_>| {
            let state = batch.state();
            let found = state.calls.get(&call).and_then(|live| live.money.credit());
            let found = found.filter(|_| !state.paybacks.has(Debt::Call(call)));
            drop(state);
            match found {
                Some(account) => refunded(batch, call, "credit", account),
                None => Ok(Err(Refusal::new(Code::InternalFault).call(call))),
            }
        };
        self.carry_on(refund, |_| None).await?
    }

    /// The credit of a principal in an asset, in minor units.
    #[must_use]
    pub fn credit(&self, principal: &Principal, asset: &AssetCode) -> u128 {
        let account = AccountName::credit_of(principal.key());
        let posted = self.shared().accounts().posted_minor(&principal.tenant, asset, account);
        u128::try_from(posted).unwrap_or(0)
    }
}

fn take_unowned(batch: &Batch<'_>) -> Vec<Unfinished> {
    let (mut state, now) = (batch.state(), batch.now);
    let mut found: Vec<&mut Live> =
        state.calls.values_mut().filter(|live| !live.is_owned(now)).collect();
    found.sort_by_key(|live| live.call());
    let mut items = Vec::new();
    for live in found {
        match live.state {
            CallState::Settling => {
                live.owned_at = Some(now);
                items.push(Unfinished::Settling(live.unsettled()));
            }
            CallState::Finished => {
                live.owned_at = Some(now);
                items.push(Unfinished::Finished(live.unsettled()));
            }
            CallState::Starting => {
                let (call, tool) = (live.call(), live.tool_ref());
                items.push(Unfinished::Starting(Interrupted { call, tool }));
            }
            CallState::Reserved
            | CallState::Settled
            | CallState::InDoubt
            | CallState::RefundDue
            | CallState::Refused
            | CallState::Captured
            | CallState::Released
            | CallState::Refunded => {}
        }
    }
    items
}

pub(crate) fn recover_settled(
    batch: &mut Batch<'_>,
    call: CallId,
    receipt: &SettlementReceipt,
) -> Result<Result<Recovered, Refusal>, Fault> {
    if let Some(live) = take(batch, call, CallState::Finished) {
        let outcome = stored_outcome_of(batch.conn, live.n)?;
        let (result, is_error, digest) = outcome.ok_or(Fault::Corrupt("finished call"))?;
        let facts = (digest, is_error, result.unwrap_or_default());
        let captured = post_finished(batch, live, facts, receipt)?;
        return Ok(Ok(Recovered::Captured(Box::new(captured))));
    }
    let Some(mut live) = take(batch, call, CallState::Settling) else {
        return Ok(Err(Refusal::new(Code::InternalFault).call(call)));
    };
    let transfers = post_pending(batch, &live)?;
    live.receipt = Some(Arc::new(receipt.clone()));
    let due = live.due();
    owe_back(batch, live, transfers, (&to_json(receipt)?, Code::SettlementUnknown))?;
    Ok(Ok(Recovered::RefundDue(due)))
}

fn resolve(
    batch: &mut Batch<'_>,
    call: CallId,
    rule: DoubtRule,
    by: &str,
) -> Result<Result<CallState, Refusal>, Fault> {
    let Some(live) = take(batch, call, CallState::InDoubt) else {
        return Ok(Err(Refusal::new(Code::InternalFault).call(call)));
    };
    let word = match rule {
        DoubtRule::Refund => "refund",
        DoubtRule::Capture => "capture",
    };
    let details = [("call", call.to_string()), ("rule", word.to_owned())];
    admin(batch, &live.facts.tenant, "doubt.resolve", by, &details)?;
    let state = match (rule, live.money.course) {
        (
            DoubtRule::Capture,
            Course::Free | Course::Prepaid | Course::Upfront | Course::Treasury | Course::Credit,
        ) => {
            keep(batch, live)?;
            CallState::Captured
        }
        (DoubtRule::Refund, Course::Treasury) if live.is_settled() => {
            refund_due(batch, live, AccountName::Suspense)?;
            CallState::RefundDue
        }
        (DoubtRule::Refund, Course::Upfront) => {
            refund_due(batch, live, AccountName::Suspense)?;
            CallState::RefundDue
        }
        (DoubtRule::Refund, Course::Prepaid | Course::Credit) => {
            let transfers = return_use(batch, &live, AccountName::Suspense)?;
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), transfers)?;
            CallState::Released
        }
        (DoubtRule::Refund, Course::Free | Course::Treasury) | (_, Course::Authorization) => {
            let transfers = match live.money.course {
                Course::Authorization => void_pending(batch, &live)?,
                Course::Free
                | Course::Prepaid
                | Course::Upfront
                | Course::Treasury
                | Course::Credit => Vec::new(),
            };
            live.give_back(batch)?;
            close(batch, live, (CallState::Released, Ended::Released), transfers)?;
            CallState::Released
        }
    };
    Ok(Ok(state))
}

/// The operator keeps what was taken.
fn keep(batch: &mut Batch<'_>, mut live: Live) -> Result<(), Fault> {
    let is_untold = live.money.course == Course::Treasury && !live.is_settled();
    let mut transfers = if is_untold { post_pending(batch, &live)? } else { Vec::new() };
    let from = if is_untold { AccountName::Held } else { AccountName::Suspense };
    let names = (from, earner(&live));
    transfers.extend(live.transfer(batch, "resolve", names, None, Step::Post)?);
    let spent = counted(&live, price_micros(live.money.price.as_ref()));
    live.close_hold(batch, spent);
    let impact = ending(&live, Ended::Captured, transfers);
    live.record(batch, impact)?;
    let minor = live.money.price.as_ref().map(|price| price.amount.minor);
    live.save(batch, &Change { spent: Some((spent, minor)), ..Change::to(CallState::Captured) })
}

/// Books that a call's money went back, and ends what was paying it back.
pub(crate) fn refunded(
    batch: &mut Batch<'_>,
    call: CallId,
    reference: &str,
    to: AccountName,
) -> Result<Result<(), Refusal>, Fault> {
    let Some(mut live) = take(batch, call, CallState::RefundDue) else {
        return Ok(Err(Refusal::new(Code::InternalFault).call(call)));
    };
    // What the treasury paid goes back to it, and never to the caller.
    let to = if live.money.course == Course::Treasury { live.source() } else { to };
    let names = (AccountName::RefundsDue, to);
    let transfers = live.transfer(batch, "refund", names, None, Step::Post)?;
    let spent = price_micros(live.money.price.as_ref());
    let mut state = batch.state();
    state.counters.refund(&live.money.counters, spent);
    if let Some(grant) = live.money.grant {
        state.grants.settle(grant, spent, Micros(0));
    }
    drop(state);
    let mut refund = draft(Kind::Refund, &live.entry);
    refund.outcome = Some(Ended::Refunded);
    refund.amount = live.money.amount_entry();
    refund.transfers = transfers;
    refund.note("transaction", reference.chars().take(128).collect());
    live.record(batch, refund)?;
    live.save(batch, &Change::to(CallState::Refunded))?;
    payback::close(batch, Debt::Call(call))?;
    Ok(Ok(()))
}
