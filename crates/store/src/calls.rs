//! Calls: one row each, from the reservation (or the refusal) to the end.
//!
//! INVARIANT: a call that has not ended is in memory with its hold, its place in the log and all
//! that is needed to end it; its row says the same.

use crate::{
    accounts::{AccountName, Step, Transfer, transfer_id},
    approvals,
    fault::Fault,
    log::Chain,
    schema::{self, int, uint},
    state::State,
    writer::Batch,
};
use countersign_core::{
    audit::{
        merkle::leaf_hash,
        record::{AmountEntry, CallEntry, Kind, RecordDraft, ToolEntry},
    },
    digest::Digest,
    ids::{ApprovalId, CallId, DecisionId, GrantId, QuoteId, TransferId},
    ledger::CallState,
    money::{Amount, Micros},
    quote::Rail,
    terms::DoubtRule,
    time::UnixMs,
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a rail said about a settlement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettlementReceipt {
    /// The rail's reference: a transaction hash, a payment hash.
    pub transaction: String,
    /// Who paid, by the rail's address.
    pub payer: Option<String>,
    /// The rail's answer as it came.
    pub raw: String,
}

/// A call as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallView {
    /// The call.
    pub call: CallId,
    /// Where it stands.
    pub state: CallState,
    /// When it came.
    pub opened_at: UnixMs,
    /// When it changed last.
    pub changed_at: UnixMs,
    /// The call digest; attempts, an approval and the retry share it.
    pub call_digest: Digest,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Pseudonym of the delegator.
    pub delegator: Option<Digest>,
    /// Agent.
    pub agent: Arc<str>,
    /// Server.
    pub server: Arc<str>,
    /// Tool.
    pub tool: Arc<str>,
    /// Teams of the delegator, as budgets count them; none for a call that reserved nothing.
    pub teams: Vec<Arc<str>>,
    /// Grant.
    pub grant: Option<GrantId>,
    /// Rail.
    pub rail: Option<Rail>,
    /// The money was here before the call came: a credential's use, or credit.
    pub is_prepaid: bool,
    /// What was or is to be paid.
    pub price: Option<Amount>,
    /// Held or spent, in reference micros.
    pub micros: Micros,
    /// The settlement on its rail.
    pub settlement: Option<SettlementReceipt>,
    /// Code of the refusal or of the failure.
    pub code: Option<String>,
    /// Indices of its records in the log.
    pub records: Vec<u64>,
}

/// How a call's money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Course {
    /// Nothing is to be paid.
    Free,
    /// Paid before: a credential's use.
    Prepaid,
    /// Taken before the run.
    Upfront,
    /// Taken after the run.
    Authorization,
    /// Paid outward by the treasury. Nothing is booked before the money has moved.
    Treasury,
    /// Paid before: the principal's credit.
    Credit,
}

/// What is known of a call from its reservation on, and does not change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CallFacts {
    pub(crate) call_digest: Digest,
    pub(crate) attempt: u32,
    pub(crate) tenant: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) delegator: Option<Digest>,
    pub(crate) agent: Arc<str>,
    pub(crate) server: Arc<str>,
    pub(crate) tool: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) definition: Option<Digest>,
    pub(crate) arguments: Digest,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) trace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) money: Option<Reservation>,
}

/// What a reservation adds to an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) quote: QuoteId,
    pub(crate) quote_expires: UnixMs,
    pub(crate) decision: DecisionId,
    pub(crate) policy: Digest,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) grant: Option<GrantId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) nonce: Option<(Digest, u32)>,
    /// Roles and groups of the delegator at the time: its teams.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) teams: Vec<Arc<str>>,
    /// Approvals that it used.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) approvals: Vec<ApprovalId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) price: Option<Price>,
    /// Held: the most that the quote can cost.
    pub(crate) held: Micros,
    /// The price is one of this many shares of the offer: a credential's uses.
    pub(crate) share: u32,
    /// Keys of the counters that hold it.
    pub(crate) counters: Vec<String>,
    /// Keys of the rates that count it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) rates: Vec<String>,
    pub(crate) course: Course,
    pub(crate) idempotent: bool,
    pub(crate) refund_in_doubt: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) payload: Option<Arc<str>>,
    /// How a payment of the treasury counts in its limit, from its intent on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) outward: Option<Outward>,
    /// Whose credit pays for it, or takes what is owed back; nobody's for the anonymous.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) principal: Option<Digest>,
    /// What it earns is credit.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) top_up: bool,
}

/// A payment of the treasury in the treasury's own limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outward {
    /// The limit's counter.
    pub(crate) key: String,
    pub(crate) micros: Micros,
    /// The rail's reference: a payment hash, a nonce.
    pub(crate) reference: String,
}

/// The offer that was accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Price {
    pub(crate) rail: Rail,
    pub(crate) amount: Amount,
    pub(crate) micros: Micros,
    pub(crate) payee: String,
}

impl Reservation {
    /// Whether work stands for its money.
    pub(crate) fn is_work(&self) -> bool {
        self.price.as_ref().is_some_and(|price| price.rail == Rail::Pow)
    }

    /// Whether the money was here before the call came.
    pub(crate) const fn is_prepaid(&self) -> bool {
        matches!(self.course, Course::Prepaid | Course::Credit)
    }

    /// The counter of the limit of the treasury that pays.
    pub(crate) fn limit(&self) -> Option<Arc<str>> {
        self.outward.as_ref().map(|outward| outward.key.as_str().into())
    }

    /// The account of its principal's credit.
    pub(crate) fn credit(&self) -> Option<AccountName> {
        self.principal.map(AccountName::credit_of)
    }

    /// Whether money pays for it.
    pub(crate) fn is_paid(&self) -> bool {
        self.price.is_some() && !self.is_work()
    }

    pub(crate) const fn doubt(&self) -> DoubtRule {
        if self.refund_in_doubt { DoubtRule::Refund } else { DoubtRule::Capture }
    }

    /// The price as a record carries it.
    pub(crate) fn amount_entry(&self) -> Option<AmountEntry> {
        let price = self.price.as_ref()?;
        Some(AmountEntry::new(price.amount.clone(), price.micros))
    }
}

impl CallFacts {
    /// The facts of an attempt, from its entry.
    pub(crate) fn of(entry: &CallEntry, money: Option<Reservation>) -> Self {
        let empty = || Arc::from("");
        let tool = entry.tool.as_ref();
        Self {
            call_digest: entry.call_digest,
            attempt: entry.attempt,
            tenant: Arc::clone(&entry.tenant),
            delegator: entry.delegator,
            agent: entry.agent.clone().unwrap_or_else(empty),
            server: tool.map_or_else(empty, |tool| Arc::clone(&tool.server)),
            tool: tool.map_or_else(empty, |tool| Arc::clone(&tool.name)),
            definition: tool.and_then(|tool| tool.definition),
            arguments: entry.arguments.unwrap_or_else(|| Digest::of(b"")),
            trace: entry.trace.clone(),
            money,
        }
    }

    /// The entry of the call's records.
    pub(crate) fn entry(&self, call: CallId) -> Arc<CallEntry> {
        Arc::new(CallEntry {
            call,
            call_digest: self.call_digest,
            attempt: self.attempt,
            tenant: Arc::clone(&self.tenant),
            delegator: self.delegator,
            agent: Some(Arc::clone(&self.agent)),
            tool: Some(ToolEntry {
                definition: self.definition,
                name: Arc::clone(&self.tool),
                server: Arc::clone(&self.server),
            }),
            arguments: Some(self.arguments),
            trace: self.trace.clone(),
        })
    }
}

/// How long a settlement belongs to whoever began it, in milliseconds.
const ASKING_MS: u64 = 600_000;

/// A call that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Its row.
    pub(crate) n: i64,
    pub(crate) state: CallState,
    /// Since when somebody holds its token.
    pub(crate) owned_at: Option<UnixMs>,
    /// What the rail said, once it took the money.
    pub(crate) receipt: Option<Arc<SettlementReceipt>>,
    pub(crate) facts: Arc<CallFacts>,
    pub(crate) money: Arc<Reservation>,
    pub(crate) entry: Arc<CallEntry>,
    pub(crate) chain: Chain,
    /// Starts recorded: a repeated one is bounded.
    pub(crate) starts: u32,
}

/// What a step of a call writes.
pub(crate) struct Change<'a> {
    pub(crate) state: CallState,
    pub(crate) settlement: Option<&'a str>,
    pub(crate) result_salt: Option<&'a [u8; 32]>,
    pub(crate) spent: Option<(Micros, Option<u128>)>,
    pub(crate) code: Option<&'a str>,
}

impl Change<'_> {
    /// Only the state.
    pub(crate) const fn to(state: CallState) -> Self {
        Self { state, settlement: None, result_salt: None, spent: None, code: None }
    }
}

impl Live {
    pub(crate) fn call(&self) -> CallId {
        self.entry.call
    }

    /// Whether somebody carries the call on. Whoever asks a rail is believed lost after a while:
    /// settling again with the same authorization harms nobody. A tool that runs is not.
    pub(crate) fn is_owned(&self, now: UnixMs) -> bool {
        let is_asking = matches!(self.state, CallState::Settling | CallState::Finished);
        self.owned_at.is_some_and(|since| !is_asking || now.since_ms(since) < ASKING_MS)
    }

    /// Whether the treasury is about to pay: its limit holds the payment.
    pub(crate) const fn is_intended(&self) -> bool {
        matches!(self.state, CallState::Settling)
    }

    /// Where the money of this call comes from, and where it goes back to.
    pub(crate) fn source(&self) -> AccountName {
        match self.money.course {
            Course::Treasury => AccountName::Treasury,
            Course::Credit => self.money.credit().unwrap_or(AccountName::Funding),
            Course::Free | Course::Prepaid | Course::Upfront | Course::Authorization => {
                AccountName::Funding
            }
        }
    }

    /// Whether the payer's money has moved.
    pub(crate) fn is_settled(&self) -> bool {
        self.receipt.is_some() || self.money.is_prepaid()
    }

    /// Appends a record of this call.
    pub(crate) fn record(
        &mut self,
        batch: &mut Batch<'_>,
        mut draft: RecordDraft,
    ) -> Result<(), Fault> {
        draft.time = batch.now;
        if draft.kind == Kind::InvocationStart {
            self.starts = self.starts.saturating_add(1);
        }
        batch.log.extend(batch.conn, &mut self.chain, &mut draft)
    }

    /// Books a transfer of this call's money; none when it is free.
    pub(crate) fn transfer(
        &self,
        batch: &Batch<'_>,
        stage: &'static str,
        (debit, credit): (AccountName, AccountName),
        minor: Option<u128>,
        step: Step,
    ) -> Result<Vec<TransferId>, Fault> {
        let Some(price) = &self.money.price else { return Ok(Vec::new()) };
        let minor = minor.unwrap_or(price.amount.minor);
        if minor == 0 {
            return Ok(Vec::new());
        }
        let call = self.call();
        let transfer = Transfer {
            subject: call.as_bytes(),
            stage,
            tenant: &self.facts.tenant,
            debit,
            credit,
            amount: &Amount { asset: price.amount.asset.clone(), minor },
            step,
        };
        let id = batch.shared().accounts().book(batch.conn, &transfer, batch.now)?;
        Ok(vec![id])
    }

    /// The transfer that is pending since the reservation.
    pub(crate) fn pending(&self) -> TransferId {
        transfer_id(self.call().as_bytes(), "reserve")
    }

    /// Writes the row as it stands now.
    pub(crate) fn save(&mut self, batch: &Batch<'_>, change: &Change<'_>) -> Result<(), Fault> {
        self.state = change.state;
        let spent = change.spent.map(|(micros, _)| int(micros.0));
        let paid = change.spent.and_then(|(_, minor)| minor).map(schema::minor_blob);
        batch
            .conn
            .prepare_cached(
                "UPDATE calls SET state = ?2, changed_at = ?3, records = ?4,
                   settlement = coalesce(?5, settlement),
                   result_salt = coalesce(?6, result_salt), spent = coalesce(?7, spent),
                   paid = coalesce(?8, paid), code = coalesce(?9, code)
                 WHERE n = ?1",
            )?
            .execute((
                self.n,
                state_number(self.state),
                int(batch.now.0),
                pack(&self.chain),
                change.settlement,
                change.result_salt,
                spent,
                paid,
                change.code,
            ))?;
        Ok(())
    }

    /// Ends the hold on every counter; `spent` of it counts from now on.
    pub(crate) fn close_hold(&self, batch: &Batch<'_>, spent: Micros) {
        let money = &self.money;
        let mut state = batch.state();
        state.counters.close(&money.counters, money.held, spent, batch.ledger_now);
        if let Some(grant) = money.grant {
            state.grants.settle(grant, money.held, spent);
        }
    }

    /// Gives back the approvals of a call that never ran: one approval is one execution.
    pub(crate) fn return_approvals(&self, batch: &Batch<'_>) -> Result<(), Fault> {
        approvals::give_back(batch, &self.money.approvals, self.call())
    }

    /// Gives back everything but approvals: the hold, the grant's call, the nonce's use. Work is
    /// spent all the same: a call that fails each time must not be had again for it.
    pub(crate) fn give_back(&self, batch: &Batch<'_>) -> Result<(), Fault> {
        self.close_hold(batch, Micros(0));
        if let Some(grant) = self.money.grant {
            batch.state().grants.forget_call(grant);
        }
        if let Some((key, _)) = self.money.nonce.filter(|_| !self.money.is_work()) {
            batch.state().credentials.give_use_back(key);
            let key = key.as_bytes();
            batch
                .conn
                .prepare_cached("UPDATE nonces SET uses = uses - 1 WHERE key = ? AND uses > 0")?
                .execute([key])?;
            batch
                .conn
                .prepare_cached("DELETE FROM nonces WHERE key = ? AND uses = 0 AND max_uses = 1")?
                .execute([key])?;
        }
        Ok(())
    }
}

/// What a call's row is made with.
pub(crate) struct NewRow<'a> {
    pub(crate) call: CallId,
    pub(crate) state: CallState,
    pub(crate) tenant: &'a str,
    pub(crate) facts_json: &'a str,
    pub(crate) salt: &'a [u8; 32],
    pub(crate) code: Option<&'a str>,
    pub(crate) chain: &'a Chain,
}

/// Makes the row of a call that has none.
pub(crate) fn insert(batch: &Batch<'_>, row: &NewRow<'_>) -> Result<i64, Fault> {
    let now = int(batch.now.0);
    batch
        .conn
        .prepare_cached(
            "INSERT INTO calls (id, state, opened_at, changed_at, tenant, facts, records, salt, code)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            row.call.as_bytes(),
            state_number(row.state),
            now,
            now,
            row.tenant,
            row.facts_json,
            pack(row.chain),
            row.salt,
            row.code,
        ))?;
    Ok(batch.conn.last_insert_rowid())
}

/// Whether a call has a row.
pub(crate) fn exists(batch: &Batch<'_>, call: CallId) -> Result<bool, Fault> {
    let found: Option<i64> =
        schema::one(batch.conn, "SELECT 1 FROM calls WHERE id = ?", [call.as_bytes()])?;
    Ok(found.is_some())
}

/// Sets the records of a row that has got one more.
pub(crate) fn set_records(batch: &Batch<'_>, n: i64, chain: &Chain) -> Result<(), Fault> {
    batch
        .conn
        .prepare_cached("UPDATE calls SET records = ? WHERE n = ?")?
        .execute((pack(chain), n))?;
    Ok(())
}

/// Reads every call that has not ended, and takes its hold up again.
pub(crate) fn load(conn: &Connection, state: &mut State) -> Result<(), Fault> {
    let mut statement = conn.prepare(
        "SELECT n, id, state, facts, records, settlement FROM calls
         WHERE state <> 0 AND state <> 6 AND state <> 7 AND state <> 10",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let call = CallId::from_bytes(row.get(1)?);
        let facts: CallFacts = schema::json(row.get_ref(3)?.as_str().unwrap_or(""), "call facts")?;
        let money = facts.money.clone().ok_or(Fault::Corrupt("call without a reservation"))?;
        let call_state = state_of(row.get(2)?).ok_or(Fault::Corrupt("call state"))?;
        let settlement: Option<String> = row.get(5)?;
        let live = Live {
            n: row.get(0)?,
            state: call_state,
            owned_at: None,
            receipt: settlement.map(|text| schema::json(&text, "settlement")).transpose()?,
            entry: facts.entry(call),
            facts: Arc::new(facts),
            chain: read_chain(conn, row.get_ref(4)?.as_blob().unwrap_or(&[]))?,
            starts: 1,
            money: Arc::new(money),
        };
        if call_state != CallState::RefundDue {
            state.counters.hold(&live.money.counters, live.money.held);
        }
        if let Some(outward) = live.money.outward.as_ref().filter(|_| live.is_intended()) {
            state.counters.hold(std::slice::from_ref(&outward.key), outward.micros);
        }
        state.calls.insert(call, live);
    }
    Ok(())
}

fn read_chain(conn: &Connection, packed: &[u8]) -> Result<Chain, Fault> {
    let mut statement = conn.prepare_cached("SELECT leaf FROM records WHERE seq = ?")?;
    let read = |seq: u64| -> Result<(u64, Digest), Fault> {
        let leaf: Vec<u8> = statement.query_row([int(seq)], |row| row.get(0))?;
        Ok((seq, leaf_hash(&leaf)))
    };
    unpack(packed).into_iter().map(read).collect()
}

/// The indices of a chain as eight bytes each.
pub(crate) fn pack(chain: &Chain) -> Vec<u8> {
    chain.iter().flat_map(|(seq, _)| seq.to_be_bytes()).collect()
}

/// The indices of a packed chain.
pub(crate) fn unpack(packed: &[u8]) -> Vec<u64> {
    let (indices, _) = packed.as_chunks::<8>();
    indices.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect()
}

/// The number of a state in its row. The partial index of live calls leaves out those that end it.
pub(crate) const fn state_number(state: CallState) -> i64 {
    match state {
        CallState::Refused => 0,
        CallState::Reserved => 1,
        CallState::Settling => 2,
        CallState::Settled => 3,
        CallState::Starting => 4,
        CallState::Finished => 5,
        CallState::Captured => 6,
        CallState::Released => 7,
        CallState::InDoubt => 8,
        CallState::RefundDue => 9,
        CallState::Refunded => 10,
    }
}

/// The state of a number.
pub(crate) fn state_of(number: i64) -> Option<CallState> {
    CallState::ALL.into_iter().find(|state| state_number(*state) == number)
}

/// The view of a row of `SELECT id, state, opened_at, changed_at, facts, records, settlement,
/// spent, code`.
pub(crate) fn view(row: &rusqlite::Row<'_>) -> Result<CallView, Fault> {
    let facts: CallFacts = schema::json(row.get_ref(4)?.as_str().unwrap_or(""), "call facts")?;
    let settlement: Option<String> = row.get(6)?;
    let settlement = settlement.map(|text| schema::json(&text, "settlement")).transpose()?;
    let spent: Option<i64> = row.get(7)?;
    let spent = spent.and_then(|spent| u64::try_from(spent).ok()).map(Micros);
    let money = facts.money.as_ref();
    Ok(CallView {
        call: CallId::from_bytes(row.get(0)?),
        state: state_of(row.get(1)?).ok_or(Fault::Corrupt("call state"))?,
        opened_at: UnixMs(uint(row, 2)?),
        changed_at: UnixMs(uint(row, 3)?),
        call_digest: facts.call_digest,
        is_prepaid: money.is_some_and(Reservation::is_prepaid),
        teams: money.map(|money| money.teams.clone()).unwrap_or_default(),
        grant: money.and_then(|money| money.grant),
        rail: money.and_then(|money| money.price.as_ref()).map(|price| price.rail),
        price: money.and_then(|money| money.price.as_ref()).map(|price| price.amount.clone()),
        micros: spent.or_else(|| money.map(|money| money.held)).unwrap_or_default(),
        tenant: facts.tenant,
        delegator: facts.delegator,
        agent: facts.agent,
        server: facts.server,
        tool: facts.tool,
        settlement,
        code: row.get(8)?,
        records: unpack(row.get_ref(5)?.as_blob().unwrap_or(&[])),
    })
}

/// The columns that [`view`] reads.
pub(crate) const VIEW_COLUMNS: &str =
    "id, state, opened_at, changed_at, facts, records, settlement, spent, code";
