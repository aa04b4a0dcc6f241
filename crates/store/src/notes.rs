//! Notes: small facts that the gateway keeps for itself, by kind and key, and that money does not
//! hang on: what tools said of themselves, how far agents are trusted, messages yet to be sent.
//!
//! INVARIANT: a note is written whole or not at all, and each kind is bounded.

use crate::{
    attempt::pseudonym, fault::Fault, grants::admin, schema::int, store::Store, writer::Batch,
};
use countersign_core::refusal::{Code, Refusal};
use rusqlite::Connection;
use std::sync::Arc;

/// The most notes of one kind.
const EACH_MAX: u64 = 10_000;
/// The longest key and the longest body, in bytes.
const KEY_MAX: usize = 1_024;
const BODY_MAX: usize = 256 << 10;
/// Characters of a key that a record shows.
const RECORDED_MAX: usize = 200;

/// A note, to be written with something else.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its kind.
    pub kind: &'static str,
    /// Its key.
    pub key: String,
    /// What it says.
    pub body: String,
}

impl Note {
    pub(crate) fn check_size(&self) -> Result<(), Refusal> {
        let fits = self.key.len() <= KEY_MAX && self.body.len() <= BODY_MAX;
        if fits { Ok(()) } else { Err(Code::TooLarge.into()) }
    }
}

impl Store {
    /// Writes a note in place of any other of its kind and key; durable when this returns.
    ///
    /// # Errors
    /// `TooLarge`; `Overloaded` when there are too many of the kind; `StoreFault`.
    pub async fn note_put(&self, kind: &'static str, key: &str, body: &str) -> Result<(), Refusal> {
        let note = Note { kind, key: key.to_owned(), body: body.to_owned() };
        note.check_size()?;
        self.enter(move |batch| put(batch, note.kind, &note.key, &note.body)).await?
    }

    /// Writes a note on a person's word, or removes it, with a record of who said so.
    ///
    /// # Errors
    /// As [`Self::note_put`].
    pub async fn note_set(
        &self,
        (kind, key): (&'static str, &str),
        body: Option<&str>,
        (tenant, action, by): (&str, &'static str, &str),
    ) -> Result<(), Refusal> {
        if key.len() > KEY_MAX || body.is_some_and(|body| body.len() > BODY_MAX) {
            return Err(Code::TooLarge.into());
        }
        let (key, body) = (key.to_owned(), body.map(ToOwned::to_owned));
        let (tenant, by) = (Arc::<str>::from(tenant), by.to_owned());
        // Names of persons stay out of the log.
        let shown = match key.strip_prefix("human:") {
            Some(name) => {
                format!("human:{}", pseudonym(&self.shared().pseudonym_key, name).to_hex())
            }
            None => key.chars().take(RECORDED_MAX).collect(),
        };
        self.enter(move |batch| {
            match &body {
                Some(body) => {
                    if let Err(refusal) = put(batch, kind, &key, body)? {
                        return Ok(Err(refusal));
                    }
                }
                None => remove(batch, kind, &key)?,
            }
            admin(batch, &tenant, action, &by, &[("subject", shown)])?;
            Ok(Ok(()))
        })
        .await?
    }

    /// Removes a note, if it is there.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn note_remove(&self, kind: &'static str, key: &str) -> Result<(), Refusal> {
        let key = key.to_owned();
        self.enter(move |batch| remove(batch, kind, &key)).await
    }

    /// All notes of a kind, by key.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn notes(&self, kind: &'static str) -> Result<Vec<(String, String)>, Refusal> {
        self.read(|conn| read(conn, kind))
    }
}

pub(crate) fn read(conn: &Connection, kind: &str) -> Result<Vec<(String, String)>, Fault> {
    let sql = "SELECT key, body FROM notes WHERE kind = ? ORDER BY key";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn remove(batch: &Batch<'_>, kind: &str, key: &str) -> Result<(), Fault> {
    let sql = "DELETE FROM notes WHERE kind = ? AND key = ?";
    batch.conn.prepare_cached(sql)?.execute((kind, key))?;
    Ok(())
}

pub(crate) fn put(
    batch: &Batch<'_>,
    kind: &str,
    key: &str,
    body: &str,
) -> Result<Result<(), Refusal>, Fault> {
    if is_full(batch.conn, (kind, key), 1)? {
        return Ok(Err(Code::Overloaded.into()));
    }
    write(batch, kind, key, body)?;
    Ok(Ok(()))
}

/// Whether there is room for new notes, of one kind.
pub(crate) fn check(batch: &Batch<'_>, notes: &[Note]) -> Result<Result<(), Refusal>, Fault> {
    let Some(first) = notes.first() else { return Ok(Ok(())) };
    let more = u64::try_from(notes.len()).unwrap_or(u64::MAX);
    let is_full = is_full(batch.conn, (first.kind, &first.key), more)?;
    Ok(if is_full { Err(Code::Overloaded.into()) } else { Ok(()) })
}

/// Writes a note for which there is room.
pub(crate) fn write(batch: &Batch<'_>, kind: &str, key: &str, body: &str) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)";
    batch.conn.prepare_cached(sql)?.execute((kind, key, body))?;
    Ok(())
}

fn is_full(conn: &Connection, (kind, key): (&str, &str), more: u64) -> Result<bool, Fault> {
    let sql = "SELECT count(*) FROM notes WHERE kind = ? AND key <> ?";
    let others: i64 = conn.prepare_cached(sql)?.query_row((kind, key), |row| row.get(0))?;
    Ok(others > int(EACH_MAX.saturating_sub(more)))
}
