//! Settlements that only a person can end: the rail does not say whether the money moved.

use crate::{
    calls::{Live, SettlementReceipt},
    capture::withhold,
    fault::Fault,
    grants::admin,
    recover::{Recovered, recover_settled},
    settle::{release, take},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    ids::CallId,
    ledger::CallState,
    money::Amount,
    quote::Rail,
    refusal::{Code, Refusal},
    terms::ToolRef,
    time::UnixMs,
};
use std::sync::Arc;

/// A payment of which nobody knows whether it moved.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenSettlement {
    /// The call.
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The tool.
    pub tool: ToolRef,
    /// `settling`: the call has not run. `finished`: it has.
    pub state: CallState,
    /// The rail.
    pub rail: Option<Rail>,
    /// How much.
    pub amount: Option<Amount>,
    /// To whom.
    pub payee: Option<String>,
    /// What is settled with. A bearer instrument until then.
    pub payload: Option<Arc<str>>,
    /// Somebody is asking the rail at this moment.
    pub is_asked: bool,
}

impl std::fmt::Debug for OpenSettlement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenSettlement").field(&self.call).field(&self.state).finish()
    }
}

/// What a person found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The money moved.
    Paid(SettlementReceipt),
    /// It did not, and cannot any more.
    Unpaid,
}

impl Store {
    /// Payments of which nobody knows whether they moved, the oldest first.
    #[must_use]
    pub fn open_settlements(&self) -> Vec<OpenSettlement> {
        let now = self.shared().world.now();
        let mut found = self.list(CallState::Settling, |live| open(live, now));
        found.extend(self.list(CallState::Finished, |live| open(live, now)));
        found.sort_by_key(|item| item.call);
        found
    }

    /// Ends a settlement by what a person found out: a call that has run is posted, or its result
    /// withheld for good; for one that has not, the money is owed back, or the hold released.
    ///
    /// # Errors
    /// `InProgress` while somebody asks the rail; `InternalFault` when nothing is open;
    /// `StoreFault`.
    pub async fn end_settlement(
        &self,
        call: CallId,
        evidence: Evidence,
        by: &str,
    ) -> Result<CallState, Refusal> {
        let by = by.to_owned();
        self.carry_on(move |batch| end(batch, call, &evidence, &by), |_| None).await?
    }
}

fn open(live: &Live, now: UnixMs) -> OpenSettlement {
    let price = live.money.price.as_ref();
    OpenSettlement {
        call: live.call(),
        tenant: Arc::clone(&live.facts.tenant),
        tool: live.tool_ref(),
        state: live.state,
        rail: price.map(|price| price.rail),
        amount: price.map(|price| price.amount.clone()),
        payee: price.map(|price| price.payee.clone()),
        payload: live.money.payload.clone(),
        is_asked: live.is_owned(now),
    }
}

fn end(
    batch: &mut Batch<'_>,
    call: CallId,
    evidence: &Evidence,
    by: &str,
) -> Result<Result<CallState, Refusal>, Fault> {
    let found = batch
        .state()
        .calls
        .get(&call)
        .map(|live| (live.state, live.is_owned(batch.now), Arc::clone(&live.facts.tenant)));
    let (state, tenant) = match found {
        Some((_, true, _)) => return Ok(Err(Refusal::new(Code::InProgress).call(call))),
        Some((state @ (CallState::Settling | CallState::Finished), false, tenant)) => {
            (state, tenant)
        }
        Some(_) | None => return Ok(Err(Refusal::new(Code::InternalFault).call(call))),
    };
    let (word, reference) = match evidence {
        Evidence::Paid(receipt) => ("paid", receipt.transaction.chars().take(128).collect()),
        Evidence::Unpaid => ("unpaid", String::new()),
    };
    let details = [("call", call.to_string()), ("end", word.to_owned()), ("reference", reference)];
    admin(batch, &tenant, "settlement.end", by, &details)?;
    let Evidence::Paid(receipt) = evidence else {
        return unpaid(batch, call, state, Code::SettlementFailed);
    };
    Ok(recover_settled(batch, call, receipt)?.map(|recovered| match recovered {
        Recovered::Captured(_) => CallState::Captured,
        Recovered::RefundDue(_) => CallState::RefundDue,
    }))
}

/// A settlement that failed for good.
pub(crate) fn unpaid(
    batch: &mut Batch<'_>,
    call: CallId,
    state: CallState,
    code: Code,
) -> Result<Result<CallState, Refusal>, Fault> {
    let Some(live) = take(batch, call, state) else {
        return Ok(Err(Refusal::new(Code::InternalFault).call(call)));
    };
    if state == CallState::Settling {
        release(batch, live, Some(code))?;
    } else {
        withhold(batch, live, code)?;
    }
    Ok(Ok(CallState::Released))
}
