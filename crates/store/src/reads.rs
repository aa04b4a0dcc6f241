//! Reads: calls, outcomes, balances, the log. They look at durable rows, each on a connection of
//! its own, and can block on the disk.

use crate::{
    accounts::Balance,
    calls::{self, CallView},
    capture::Captured,
    fault::Fault,
    log::{Inclusion, LoggedRecord, Tree},
    schema::{int, json, uint},
    store::Store,
};
use countersign_core::{
    audit::merkle::leaf_hash,
    digest::Digest,
    ids::CallId,
    ledger::CallState,
    money::{Amount, Micros},
    quote::Quote,
    refusal::Refusal,
};
use rusqlite::{Connection, OptionalExtension as _};
use std::{fmt, sync::atomic::Ordering};

/// The salts of a call's commitments. Whoever has them can check a commitment against a value;
/// destroying them erases. They are secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Salts {
    /// Of the arguments.
    pub arguments: [u8; 32],
    /// Of the result, where there is one.
    pub result: Option<[u8; 32]>,
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts")
    }
}

impl Store {
    /// Every account's balance.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        self.shared().accounts().balances()
    }

    /// Held, spent from the beginning, and spent within the longest window, under a counter's
    /// key; `None` for a key nothing was counted under.
    #[must_use]
    pub fn counter(&self, key: &str) -> Option<(Micros, Micros, Micros)> {
        let (held, total, window) = self.shared().state().counters.inspect(key)?;
        Some((Micros(held), Micros(total), Micros(window)))
    }

    /// One call.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn call(&self, call: CallId) -> Result<Option<CallView>, Refusal> {
        self.read(|conn| {
            let sql = format!("SELECT {} FROM calls WHERE id = ?", calls::VIEW_COLUMNS);
            let mut statement = conn.prepare_cached(&sql)?;
            let view = |row: &rusqlite::Row<'_>| Ok(calls::view(row));
            statement.query_row([call.as_bytes()], view).optional()?.transpose()
        })
    }

    /// The latest calls, of one tenant or of all, the newest first; `before` continues a list.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn calls(
        &self,
        tenant: Option<&str>,
        before: Option<CallId>,
        limit: u32,
    ) -> Result<Vec<CallView>, Refusal> {
        self.read(|conn| {
            let of_tenant = tenant.map_or("", |_| "tenant = ?3 AND");
            let sql = format!(
                "SELECT {} FROM calls WHERE {of_tenant} id < ?1 ORDER BY id DESC LIMIT ?2",
                calls::VIEW_COLUMNS
            );
            let before = before.map_or([0xff; 16], |call| *call.as_bytes());
            let mut statement = conn.prepare_cached(&sql)?;
            let mut rows = match tenant {
                Some(tenant) => statement.query((before, limit, tenant))?,
                None => statement.query((before, limit))?,
            };
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(calls::view(row)?);
            }
            Ok(found)
        })
    }

    /// The call that a payment for one call was used for, when it was this very call: wherever it
    /// stands, a request repeated under that payment is about it.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn standing_for(
        &self,
        nonce: Digest,
        call_digest: Digest,
    ) -> Result<Option<CallView>, Refusal> {
        let found = self.read(|conn| {
            let sql = "SELECT call FROM nonces WHERE key = ? AND call_digest = ? AND max_uses = 1";
            let found: Option<[u8; 16]> = conn
                .prepare_cached(sql)?
                .query_row((nonce.as_bytes(), call_digest.as_bytes()), |row| row.get(0))
                .optional()?;
            Ok(found.map(CallId::from_bytes))
        })?;
        found.map_or(Ok(None), |call| self.call(call))
    }

    /// The call that a payment counts for at present.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn call_under(&self, nonce: Digest) -> Result<Option<CallView>, Refusal> {
        let found = self.read(|conn| {
            let found: Option<[u8; 16]> = conn
                .prepare_cached("SELECT call FROM nonces WHERE key = ?")?
                .query_row([nonce.as_bytes()], |row| row.get(0))
                .optional()?;
            Ok(found.map(CallId::from_bytes))
        })?;
        found.map_or(Ok(None), |call| self.call(call))
    }

    /// The payment as it was taken for this very call: canonical JSON.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn payload_of(
        &self,
        nonce: Digest,
        call_digest: Digest,
    ) -> Result<Option<String>, Refusal> {
        self.read(|conn| {
            let sql = "SELECT facts FROM calls WHERE id = (SELECT call FROM nonces
                       WHERE key = ? AND call_digest = ? AND max_uses = 1)";
            let found: Option<String> = conn
                .prepare_cached(sql)?
                .query_row((nonce.as_bytes(), call_digest.as_bytes()), |row| row.get(0))
                .optional()?;
            let Some(facts) = found else { return Ok(None) };
            let facts: calls::CallFacts = json(&facts, "call facts")?;
            Ok(facts.money.and_then(|money| money.payload).map(|payload| payload.to_string()))
        })
    }

    /// The quote that a call was reserved under.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn quote_of(&self, call: CallId) -> Result<Option<Quote>, Refusal> {
        let id = self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT facts FROM calls WHERE id = ?")?;
            let found: Option<String> =
                statement.query_row([call.as_bytes()], |row| row.get(0)).optional()?;
            let Some(facts) = found else { return Ok(None) };
            let facts: calls::CallFacts = json(&facts, "call facts")?;
            Ok(facts.money.map(|money| money.quote))
        })?;
        let open = id.map(|id| self.quote_by_id(id)).transpose()?;
        Ok(open.flatten().map(|open| open.quote.clone()))
    }

    /// How many calls have used a payment.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn uses_of(&self, nonce: Digest) -> Result<u32, Refusal> {
        let in_memory = self.shared().state().credentials.uses(nonce);
        if let Some(uses) = in_memory {
            return Ok(uses);
        }
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT uses FROM nonces WHERE key = ?")?;
            let uses = statement.query_row([nonce.as_bytes()], |row| row.get(0)).optional()?;
            Ok(uses.unwrap_or(0))
        })
    }

    /// The outcome of the call that a payment paid for, for a request repeated after its quote.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn outcome_for(
        &self,
        nonce: Digest,
        call_digest: Digest,
    ) -> Result<Option<Captured>, Refusal> {
        let published = self.shared().published.size();
        self.read(|conn| {
            let sql = "SELECT call FROM nonces WHERE key = ? AND call_digest = ? AND max_uses = 1";
            let found: Option<[u8; 16]> = conn
                .prepare_cached(sql)?
                .query_row((nonce.as_bytes(), call_digest.as_bytes()), |row| row.get(0))
                .optional()?;
            let call = found.map(CallId::from_bytes);
            call.map_or(Ok(None), |call| stored_outcome(conn, call, published))
        })
    }

    /// Records in the log that are durable.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        self.shared().durable_size.load(Ordering::Acquire)
    }

    /// Records from an index on.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn tail(&self, from: u64, limit: u64) -> Result<Vec<LoggedRecord>, Refusal> {
        self.read(|conn| Tree { conn }.leaves(from, limit))
    }

    /// One record.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn record(&self, seq: u64) -> Result<Option<LoggedRecord>, Refusal> {
        let leaf = self.read(|conn| Tree { conn }.leaf(seq))?;
        Ok(leaf.map(|leaf| LoggedRecord { seq, leaf }))
    }

    /// The records of one call, in log order.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn call_records(&self, call: CallId) -> Result<Vec<LoggedRecord>, Refusal> {
        self.read(|conn| {
            let sql = "SELECT records FROM calls WHERE id = ?";
            let packed: Option<Vec<u8>> = crate::schema::one(conn, sql, [call.as_bytes()])?;
            let mut records = Vec::new();
            for seq in packed.map(|packed| calls::unpack(&packed)).unwrap_or_default() {
                let leaf = Tree { conn }.leaf(seq)?.ok_or(Fault::Corrupt("record missing"))?;
                records.push(LoggedRecord { seq, leaf });
            }
            Ok(records)
        })
    }

    /// The proof that a record is in the tree of `size` leaves; `None` outside of it.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn inclusion(&self, seq: u64, size: u64) -> Result<Option<Inclusion>, Refusal> {
        let size = size.min(self.log_size());
        self.read(|conn| Tree { conn }.inclusion(seq, size))
    }

    /// The salts of a call's commitments.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn salts(&self, call: CallId) -> Result<Option<Salts>, Refusal> {
        self.read(|conn| {
            let sql = "SELECT salt, result_salt FROM calls WHERE id = ?";
            let read =
                |row: &rusqlite::Row<'_>| Ok(Salts { arguments: row.get(0)?, result: row.get(1)? });
            Ok(conn.prepare_cached(sql)?.query_row([call.as_bytes()], read).optional()?)
        })
    }
}

/// The stored outcome of a captured call.
pub(crate) fn stored_outcome(
    conn: &Connection,
    call: CallId,
    published: u64,
) -> Result<Option<Captured>, Fault> {
    let mut statement = conn.prepare_cached(
        "SELECT n, facts, settlement, paid, spent, records FROM calls WHERE id = ? AND state = ?",
    )?;
    let captured = calls::state_number(CallState::Captured);
    let found = statement
        .query_row((call.as_bytes(), captured), |row| {
            let (facts, settlement): (String, Option<String>) = (row.get(1)?, row.get(2)?);
            let (paid, spent): (Option<[u8; 16]>, u64) = (row.get(3)?, uint(row, 4)?);
            let last = calls::unpack(row.get_ref(5)?.as_blob()?).pop();
            Ok((row.get::<_, i64>(0)?, facts, settlement, paid, Micros(spent), last))
        })
        .optional()?;
    let Some((n, facts, settlement, paid, micros, last)) = found else { return Ok(None) };
    let Some((result, is_error, digest)) = stored_outcome_of(conn, n)? else { return Ok(None) };
    let facts: calls::CallFacts = json(&facts, "call facts")?;
    let (money, index) = facts.money.zip(last).ok_or(Fault::Corrupt("captured call"))?;
    let leaf: Vec<u8> = conn
        .prepare_cached("SELECT leaf FROM records WHERE seq = ?")?
        .query_row([int(index)], |row| row.get(0))?;
    let paid = money.price.as_ref().zip(paid).map(|(price, minor)| Amount {
        asset: price.amount.asset.clone(),
        minor: u128::from_be_bytes(minor),
    });
    let settlement = settlement.map(|text| json(&text, "settlement")).transpose()?;
    Ok(Some(Captured {
        call,
        call_digest: facts.call_digest,
        quote: money.quote,
        decision: money.decision,
        grant: money.grant,
        rail: money.price.map(|price| price.rail),
        paid,
        micros,
        settlement,
        payment: money.nonce.map(|(key, _)| key),
        result_digest: digest,
        index,
        leaf: leaf_hash(&leaf),
        published,
        result,
        is_error,
    }))
}

/// What is kept of an outcome: bytes, whether it is an error, SHA-256.
type Kept = (Option<Vec<u8>>, bool, Digest);

/// The stored outcome of a row.
pub(crate) fn stored_outcome_of(conn: &Connection, n: i64) -> Result<Option<Kept>, Fault> {
    let mut statement =
        conn.prepare_cached("SELECT result, is_error, digest FROM outcomes WHERE n = ?")?;
    let read =
        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, Digest::from_bytes(row.get(2)?)));
    Ok(statement.query_row([n], read).optional()?)
}
