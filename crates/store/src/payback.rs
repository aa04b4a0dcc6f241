//! What a treasury pays back by itself: the one payment of each debt, from its intent to its end.
//!
//! INVARIANT: a payment back is written down before anything of it leaves, one for each debt;
//! another follows only where the first surely moved nothing.
//! INVARIANT: one reference (a payment hash, a nonce) pays one debt, and no other ever.
//! INVARIANT: it counts in the treasury's own limit from its intent on.

use crate::{
    accounts::AccountName,
    budgets::Counters,
    fault::Fault,
    recover::refunded,
    refunds,
    schema::{int, one, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    ids::CallId,
    ledger::{CallState, Charge},
    money::Micros,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::{Connection, OptionalExtension as _, Row};
use std::{collections::HashMap, slice, sync::Arc};

/// What is owed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Debt {
    /// What a credential left, by its refund's key.
    Refund(Digest),
    /// What was taken for a call that did not run.
    Call(CallId),
}

impl Debt {
    fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Refund(key) => key.as_bytes().to_vec(),
            Self::Call(call) => call.as_bytes().to_vec(),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(key) = <[u8; 32]>::try_from(bytes) {
            return Some(Self::Refund(Digest::from_bytes(key)));
        }
        <[u8; 16]>::try_from(bytes).ok().map(|call| Self::Call(CallId::from_bytes(call)))
    }
}

/// A payment back.
#[derive(Clone, PartialEq, Eq)]
pub struct Payback {
    /// For what.
    pub debt: Debt,
    /// Name of the treasury that pays.
    pub treasury: Arc<str>,
    /// Its value in reference micros.
    pub micros: Micros,
    /// The rail's reference: a payment hash, a nonce.
    pub reference: String,
    /// What is paid with, kept before it is used. A bearer instrument.
    pub payload: String,
}

impl std::fmt::Debug for Payback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Payback").field(&self.debt).field(&self.reference).finish()
    }
}

/// What the intent to pay back comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It is written down; whoever asked makes the payment.
    Written,
    /// A payment of this debt is on its way already.
    UnderWay(Payback),
    /// Nothing is owed, a node offers it, or the reference has paid something else.
    Barred,
}

/// Payments back that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Paybacks(HashMap<Debt, Open>);

#[derive(Clone, Debug)]
struct Open {
    payback: Payback,
    /// Key of the treasury's limit.
    counter: String,
    /// Somebody makes it at this moment.
    is_owned: bool,
    /// When it was looked at last.
    asked_at: UnixMs,
}

impl Paybacks {
    /// Reads those that have not ended, and holds them in their treasuries' limits.
    pub(crate) fn load(conn: &Connection, counters: &mut Counters) -> Result<Self, Fault> {
        let mut statement = conn.prepare(
            "SELECT subject, treasury, micros, reference, payload, counter FROM paybacks
             WHERE paid = 0",
        )?;
        let mut rows = statement.query([])?;
        let mut all = Self::default();
        while let Some(row) = rows.next()? {
            let (payback, counter) = (read(row)?, row.get::<_, String>(5)?);
            counters.hold(slice::from_ref(&counter), payback.micros);
            let open = Open { payback, counter, is_owned: false, asked_at: UnixMs(0) };
            all.0.insert(open.payback.debt, open);
        }
        Ok(all)
    }

    pub(crate) fn has(&self, debt: Debt) -> bool {
        self.0.contains_key(&debt)
    }
}

fn read(row: &Row<'_>) -> Result<Payback, Fault> {
    let subject: Vec<u8> = row.get(0)?;
    Ok(Payback {
        debt: Debt::from_bytes(&subject).ok_or(Fault::Corrupt("payback"))?,
        treasury: row.get::<_, String>(1)?.into(),
        micros: Micros(uint(row, 2)?),
        reference: row.get(3)?,
        payload: row.get(4)?,
    })
}

impl Store {
    /// Writes down a payment back that is about to be made. `lapsed` names the node whose offer of
    /// the same refund came to nothing.
    ///
    /// # Errors
    /// `BudgetExceeded` for the treasury's limit; `StoreFault`.
    pub async fn begin_payback(
        &self,
        payback: Payback,
        limit: Charge,
        lapsed: Option<String>,
    ) -> Result<Intent, Refusal> {
        self.carry_on(move |batch| begin(batch, payback, &limit, lapsed.as_deref()), |_| None)
            .await?
    }

    /// Payments back that nobody makes at this moment, those first that were not looked at for the
    /// longest: they become the caller's.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn take_paybacks(&self, most: usize) -> Result<Vec<Payback>, Refusal> {
        self.carry_on(move |batch| Ok(take(batch, most)), |_| None).await
    }

    /// The money moved: the debt is paid.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn payback_made(&self, debt: Debt, transaction: &str) -> Result<(), Refusal> {
        let transaction = transaction.to_owned();
        self.carry_on(move |batch| made(batch, debt, &transaction), |()| None).await
    }

    /// The money did not move, and will not: another payment may follow.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn payback_failed(&self, debt: Debt) -> Result<(), Refusal> {
        self.carry_on(move |batch| failed(batch, debt), |()| None).await
    }

    /// Nobody knows whether the money moved: it can be taken again.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn payback_unknown(&self, debt: Debt) -> Result<(), Refusal> {
        let disown = move |batch: &mut Batch<'_>| {
            if let Some(open) = batch.state().paybacks.0.get_mut(&debt) {
                open.is_owned = false;
            }
            Ok(())
        };
        self.carry_on(disown, |()| None).await
    }

    /// The same payment under a new signature.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn payback_again(&self, debt: Debt, payload: String) -> Result<(), Refusal> {
        let renew = move |batch: &mut Batch<'_>| {
            batch
                .conn
                .prepare_cached("UPDATE paybacks SET payload = ? WHERE subject = ? AND paid = 0")?
                .execute((&payload, debt.to_bytes()))?;
            if let Some(open) = batch.state().paybacks.0.get_mut(&debt) {
                open.payback.payload = payload;
            }
            Ok(())
        };
        self.carry_on(renew, |()| None).await
    }

    /// Whether a treasury is paying a debt.
    #[must_use]
    pub fn is_paying_back(&self, debt: Debt) -> bool {
        self.shared().state().paybacks.has(debt)
    }

    /// The credential that a debt is owed for; none for a call's.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn owed_for(&self, debt: Debt) -> Result<Option<Digest>, Refusal> {
        let Debt::Refund(key) = debt else { return Ok(None) };
        self.read(|conn| {
            let sql = "SELECT credential FROM refunds WHERE key = ?";
            Ok(one::<[u8; 32]>(conn, sql, [key.as_bytes()])?.map(Digest::from_bytes))
        })
    }

    /// The debt that a reference pays, and whether it is paid.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn payback_by(&self, reference: &str) -> Result<Option<(Debt, bool)>, Refusal> {
        self.read(|conn| {
            let sql = "SELECT subject, paid FROM paybacks WHERE reference = ?";
            let found = conn
                .prepare_cached(sql)?
                .query_row([reference], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)))
                .optional()?;
            Ok(found.and_then(|(subject, paid)| Some((Debt::from_bytes(&subject)?, paid))))
        })
    }
}

fn begin(
    batch: &mut Batch<'_>,
    payback: Payback,
    limit: &Charge,
    lapsed: Option<&str>,
) -> Result<Result<Intent, Refusal>, Fault> {
    let debt = payback.debt;
    let open = batch.state().paybacks.0.get(&debt).map(|open| open.payback.clone());
    if let Some(open) = open {
        return Ok(Ok(Intent::UnderWay(open)));
    }
    if !is_free(batch, debt, lapsed)? || is_known(batch, &payback.reference)? {
        return Ok(Ok(Intent::Barred));
    }
    let (charges, now) = (slice::from_ref(limit), batch.ledger_now);
    if batch.state().counters.first_exceeded(charges, payback.micros, now).is_some() {
        return Ok(Err(Refusal::new(Code::BudgetExceeded).with("limit", limit.name())));
    }
    if let Debt::Refund(key) = debt {
        refunds::withdraw(batch, key)?;
    }
    batch.conn.prepare_cached("INSERT INTO paybacks VALUES (?, ?, ?, ?, ?, ?, 0)")?.execute((
        debt.to_bytes(),
        &*payback.treasury,
        &limit.key,
        int(payback.micros.0),
        &payback.reference,
        &payback.payload,
    ))?;
    let mut state = batch.state();
    state.counters.watch(charges);
    state.counters.hold(slice::from_ref(&limit.key), payback.micros);
    let open = Open { payback, counter: limit.key.clone(), is_owned: true, asked_at: batch.now };
    state.paybacks.0.insert(debt, open);
    Ok(Ok(Intent::Written))
}

/// Whether it is owed, and nobody else is about to give it.
fn is_free(batch: &Batch<'_>, debt: Debt, lapsed: Option<&str>) -> Result<bool, Fault> {
    match debt {
        Debt::Refund(key) => {
            let refund = refunds::find(batch.conn, key)?;
            Ok(refund.is_some_and(|it| it.node.is_none() || it.node.as_deref() == lapsed))
        }
        Debt::Call(call) => {
            let state = batch.state();
            Ok(state.calls.get(&call).is_some_and(|live| live.state == CallState::RefundDue))
        }
    }
}

fn is_known(batch: &Batch<'_>, reference: &str) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM paybacks WHERE reference = ?";
    Ok(one::<i64>(batch.conn, sql, [reference])?.is_some())
}

fn take(batch: &Batch<'_>, most: usize) -> Vec<Payback> {
    let mut state = batch.state();
    let free = state.paybacks.0.values_mut().filter(|open| !open.is_owned);
    let mut free: Vec<&mut Open> = free.collect();
    free.sort_by_key(|open| (open.asked_at, open.payback.debt));
    let taken = free.into_iter().take(most).map(|open| {
        (open.is_owned, open.asked_at) = (true, batch.now);
        open.payback.clone()
    });
    taken.collect()
}

fn made(batch: &mut Batch<'_>, debt: Debt, transaction: &str) -> Result<(), Fault> {
    match debt {
        Debt::Refund(key) => refunds::paid(batch, key, transaction, refunds::GATEWAY),
        // Whoever booked it in between has closed it, too.
        Debt::Call(call) => refunded(batch, call, transaction, AccountName::Funding).map(drop),
    }
}

/// The debt is paid: what its treasury's limit held for it is spent.
pub(crate) fn close(batch: &Batch<'_>, debt: Debt) -> Result<(), Fault> {
    let Some(open) = batch.state().paybacks.0.remove(&debt) else { return Ok(()) };
    batch
        .conn
        .prepare_cached("UPDATE paybacks SET paid = 1 WHERE subject = ?")?
        .execute([debt.to_bytes()])?;
    let (key, micros) = (slice::from_ref(&open.counter), open.payback.micros);
    batch.state().counters.close(key, micros, micros, batch.ledger_now);
    Ok(())
}

fn failed(batch: &Batch<'_>, debt: Debt) -> Result<(), Fault> {
    let Some(open) = batch.state().paybacks.0.remove(&debt) else { return Ok(()) };
    batch
        .conn
        .prepare_cached("DELETE FROM paybacks WHERE subject = ? AND paid = 0")?
        .execute([debt.to_bytes()])?;
    let (key, micros) = (slice::from_ref(&open.counter), open.payback.micros);
    batch.state().counters.close(key, micros, Micros(0), batch.ledger_now);
    Ok(())
}
