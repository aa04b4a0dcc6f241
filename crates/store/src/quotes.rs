//! Quotes: the prices that are open, and the challenges that offer them.
//!
//! INVARIANT: a quote is durable, with its credential and the attempt's records, before its
//! challenge is shown; a principal has a bounded number of open ones.

use crate::{
    attempt::{Attempt, draft, entry_of, proofs_of},
    calls::{self, CallFacts, NewRow},
    credentials::{self, NewCredential},
    fault::Fault,
    log::Chain,
    schema::{int, json, one, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    audit::record::{AmountEntry, CallEntry, Kind, Outcome, RecordDraft},
    digest::Digest,
    ids::QuoteId,
    ledger::CallState,
    proof::Principal,
    quote::Quote,
    refusal::{Code, Lights, Refusal},
    time::UnixMs,
};
use rusqlite::{Connection, OptionalExtension as _};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A quote that waits for its payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenQuote {
    /// The quote.
    pub quote: Quote,
    /// The principal it was made for.
    pub principal: Digest,
    /// The credential that was minted for it.
    pub credential: Option<Digest>,
}

/// A challenge about to be shown.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The attempt that is asked to pay.
    pub attempt: Attempt,
    /// The quote.
    pub quote: Quote,
    /// The credential, where Lightning is among the offers.
    pub credential: Option<NewCredential>,
    /// How the proofs stand.
    pub lights: Lights,
    /// What the challenge answers: that nothing was paid, or what is wrong with what was.
    pub code: Code,
}

/// The quotes in memory: those that have not expired.
#[derive(Debug, Default)]
pub(crate) struct Quotes {
    by_id: HashMap<QuoteId, Arc<OpenQuote>>,
    by_call: HashMap<(Digest, Digest), QuoteId>,
    counts: HashMap<Digest, usize>,
    by_expiry: BTreeMap<(UnixMs, QuoteId), Digest>,
}

impl Quotes {
    fn put(&mut self, open: OpenQuote) {
        let (id, principal) = (open.quote.id(), open.principal);
        let expiry = (open.quote.expires_at(), id);
        if self.by_expiry.insert(expiry, principal).is_none() {
            let count = self.counts.entry(principal).or_default();
            *count = count.saturating_add(1);
        }
        self.by_call.insert((principal, open.quote.call_digest()), id);
        self.by_id.insert(id, Arc::new(open));
    }

    /// The quote is paid: the same call asks for a new one from now on. It stays known by its
    /// identifier, for a repeated request.
    fn close(&mut self, id: QuoteId) {
        let Some(open) = self.by_id.get(&id) else { return };
        let key = (open.principal, open.quote.call_digest());
        if self.by_call.get(&key) == Some(&id) {
            self.by_call.remove(&key);
        }
        if self.by_expiry.remove(&(open.quote.expires_at(), id)).is_some() {
            self.by_expiry.insert((open.quote.expires_at(), id), CLOSED);
            let principal = open.principal;
            self.uncount(principal);
        }
    }

    fn uncount(&mut self, principal: Digest) {
        if let Some(count) = self.counts.get_mut(&principal) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&principal);
            }
        }
    }

    /// Forgets what expired; rows stay until they are swept.
    pub(crate) fn prune(&mut self, now: UnixMs) {
        while let Some(((expires_at, id), principal)) =
            self.by_expiry.first_key_value().map(|(key, principal)| (*key, *principal))
        {
            if now < expires_at {
                return;
            }
            self.by_expiry.remove(&(expires_at, id));
            if principal != CLOSED {
                self.uncount(principal);
            }
            if let Some(open) = self.by_id.remove(&id) {
                let key = (open.principal, open.quote.call_digest());
                if self.by_call.get(&key) == Some(&id) {
                    self.by_call.remove(&key);
                }
            }
        }
    }

    fn count(&self, principal: Digest) -> usize {
        self.counts.get(&principal).copied().unwrap_or(0)
    }

    fn for_call(&self, principal: Digest, call: Digest, now: UnixMs) -> Option<Arc<OpenQuote>> {
        let open = self.by_id.get(self.by_call.get(&(principal, call))?)?;
        (now < open.quote.expires_at()).then(|| Arc::clone(open))
    }

    /// Reads those that have not expired.
    pub(crate) fn load(conn: &Connection, now: UnixMs) -> Result<Self, Fault> {
        let mut quotes = Self::default();
        let mut statement = conn.prepare(
            "SELECT principal, body, credential, closed FROM quotes WHERE expires_at > ?
             ORDER BY id",
        )?;
        let mut rows = statement.query([int(now.0)])?;
        while let Some(row) = rows.next()? {
            let open = read(row)?;
            let id = open.quote.id();
            quotes.put(open);
            if row.get::<_, i64>(3)? != 0 {
                quotes.close(id);
            }
        }
        Ok(quotes)
    }
}

/// Marks a quote as paid.
pub(crate) fn close(batch: &Batch<'_>, id: QuoteId) -> Result<(), Fault> {
    let mut state = batch.state();
    if !state.quotes.by_id.contains_key(&id) {
        return Ok(());
    }
    state.quotes.close(id);
    drop(state);
    batch
        .conn
        .prepare_cached("UPDATE quotes SET closed = 1 WHERE id = ?")?
        .execute([id.as_bytes()])?;
    Ok(())
}

/// Stands for the principal of a quote that is no longer counted.
const CLOSED: Digest = Digest::from_bytes([0; 32]);

fn read(row: &rusqlite::Row<'_>) -> Result<OpenQuote, Fault> {
    let credential: Option<[u8; 32]> = row.get(2)?;
    Ok(OpenQuote {
        quote: json(row.get_ref(1)?.as_str().unwrap_or(""), "quote")?,
        principal: Digest::from_bytes(row.get(0)?),
        credential: credential.map(Digest::from_bytes),
    })
}

impl Store {
    /// The open quote of a principal for a call.
    #[must_use]
    pub fn open_quote(
        &self,
        principal: Digest,
        call_digest: Digest,
        now: UnixMs,
    ) -> Option<Arc<OpenQuote>> {
        self.shared().state().quotes.for_call(principal, call_digest, now)
    }

    /// A quote by its identifier, expired or paid ones too. Reads the disk for one that is not in
    /// memory.
    ///
    /// # Errors
    /// `StoreFault` when the disk cannot be read.
    pub fn quote_by_id(&self, id: QuoteId) -> Result<Option<Arc<OpenQuote>>, Refusal> {
        if let Some(found) = self.shared().state().quotes.by_id.get(&id) {
            return Ok(Some(Arc::clone(found)));
        }
        self.read(|conn| {
            let mut statement =
                conn.prepare_cached("SELECT principal, body, credential FROM quotes WHERE id = ?")?;
            let found = statement.query_row([id.as_bytes()], |row| Ok(read(row))).optional()?;
            Ok(found.transpose()?.map(Arc::new))
        })
    }

    /// Stores a quote, its credential, and the records of the attempt that is asked to pay: to be
    /// awaited before the challenge is shown.
    ///
    /// # Errors
    /// `TooManyOpenQuotes`, `Overloaded`, `StoreFault`.
    pub async fn challenge(&self, challenge: Challenge) -> Result<(), Refusal> {
        let salt = self.shared().world.random();
        let attempt = &challenge.attempt;
        let entry = entry_of(
            attempt.call,
            attempt.call_digest,
            (&attempt.principal, &attempt.tool),
            &attempt.evidence,
            (&self.shared().pseudonym_key, &salt),
        )?;
        let principal = attempt.principal.key();
        self.enter(move |batch| open(batch, challenge, principal, &entry, &salt)).await?
    }
}

fn open(
    batch: &mut Batch<'_>,
    challenge: Challenge,
    principal: Digest,
    entry: &Arc<CallEntry>,
    salt: &[u8; 32],
) -> Result<Result<(), Refusal>, Fault> {
    let Challenge { quote, credential, lights, code, .. } = challenge;
    let (now, limits) = (batch.now, &batch.shared().limits);
    let mut state = batch.state();
    state.quotes.prune(now);
    // Nobody in particular is many: they share half of what there is, not one person's part.
    let most = if principal == Principal::anonymous().key() {
        limits.open_quotes / 2
    } else {
        limits.open_quotes_per_principal
    };
    let is_full = state.quotes.count(principal) >= most;
    if is_full || state.quotes.by_id.len() >= limits.open_quotes {
        return Ok(Err(Refusal::new(Code::TooManyOpenQuotes).call(entry.call)));
    }
    drop(state);
    let id = *quote.id().as_bytes();
    let is_known = one::<i64>(batch.conn, "SELECT 1 FROM quotes WHERE id = ?", [id])?.is_some();
    if is_known || calls::exists(batch, entry.call)? {
        return Ok(Err(Refusal::new(Code::InternalFault).call(entry.call)));
    }
    let key = credential.as_ref().map(|credential| credential.key);
    if let Some(credential) = credential
        && !credentials::insert(batch, credential)?
    {
        return Ok(Err(Refusal::new(Code::InternalFault).call(entry.call)));
    }
    batch.conn.prepare_cached("INSERT INTO quotes VALUES (?, ?, ?, ?, ?, 0)")?.execute((
        id,
        principal.as_bytes(),
        to_json(&quote)?,
        key.map(|key| *key.as_bytes()),
        int(quote.expires_at().0),
    ))?;
    let drafts = challenge_records(entry, &quote, lights, code);
    write_refused(batch, entry, salt, code, drafts)?;
    batch.state().quotes.put(OpenQuote { quote, principal, credential: key });
    Ok(Ok(()))
}

fn challenge_records(
    entry: &Arc<CallEntry>,
    quote: &Quote,
    lights: Lights,
    code: Code,
) -> Vec<RecordDraft> {
    let mut refused = draft(Kind::Refusal, entry);
    refused.outcome = Some(Outcome::Challenged);
    refused.quote = Some(quote.id());
    refused.refusal = Some(code.text().into());
    refused.proofs = Some(proofs_of(lights));
    vec![quote_record(entry, quote), refused]
}

/// The record of a quote. With several offers the dearest stands for them.
pub(crate) fn quote_record(entry: &Arc<CallEntry>, quote: &Quote) -> RecordDraft {
    let mut quoted = draft(Kind::Quote, entry);
    quoted.quote = Some(quote.id());
    let dearest = quote.offers().iter().max_by_key(|offer| offer.micros);
    quoted.amount = dearest.map(|offer| AmountEntry::new(offer.amount.clone(), offer.micros));
    quoted
}

/// Writes a refused call that has no row yet: its row and its records.
pub(crate) fn write_refused(
    batch: &mut Batch<'_>,
    entry: &Arc<CallEntry>,
    salt: &[u8; 32],
    code: Code,
    drafts: Vec<RecordDraft>,
) -> Result<(), Fault> {
    let mut chain = Chain::new();
    for mut draft in drafts {
        draft.time = batch.now;
        batch.log.extend(batch.conn, &mut chain, &mut draft)?;
    }
    let facts_json = to_json(&CallFacts::of(entry, None))?;
    let row = NewRow {
        call: entry.call,
        state: CallState::Refused,
        tenant: &entry.tenant,
        facts_json: &facts_json,
        salt,
        code: Some(code.text()),
        chain: &chain,
    };
    calls::insert(batch, &row)?;
    Ok(())
}
