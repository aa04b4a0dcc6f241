//! Requests that their sender named, so that each is done once however often it comes, and the
//! answer that the first one got.
//!
//! INVARIANT: that a named request began is durable before it does anything. One that began and
//! was never answered is not begun again.
//! INVARIANT: names are bounded in time and in number for each actor, and one actor's mean nothing
//! to another.

use crate::{fault::Fault, schema::int, store::Store, writer::Batch};
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
};
use rusqlite::OptionalExtension as _;

/// How long a name is kept, in milliseconds.
const KEEP_MS: u64 = 24 * 3_600_000;
/// Names of one actor at a time.
const EACH_MAX: u64 = 4096;

/// A request that its sender named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Digest of who sent it.
    pub actor: Digest,
    /// Digest of the name.
    pub name: Digest,
    /// Digest of all that the request says.
    pub request: Digest,
}

/// An answer that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// HTTP status.
    pub status: u16,
    /// `content-type`.
    pub kind: String,
    /// Body.
    pub body: Vec<u8>,
}

/// How a named request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is the first one: do it.
    Now,
    /// It was done; this was the answer.
    Answered(Given),
    /// It began, and has no answer.
    Unanswered,
    /// The name is another request's.
    Other,
}

impl Store {
    /// Begins a named request, unless it began before; durable when this returns.
    ///
    /// # Errors
    /// `RateLimited` when the actor has too many names; `Overloaded`, `StoreFault`.
    pub async fn once_begin(&self, named: Named) -> Result<Begun, Refusal> {
        self.enter(move |batch| begin(batch, &named)).await?
    }

    /// Keeps the answer to a named request that began.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn once_answer(&self, named: Named, given: Given) -> Result<(), Refusal> {
        let keep = move |batch: &mut Batch<'_>| {
            let sql = "UPDATE once SET status = ?, kind = ?, body = ? WHERE actor = ? AND name = ?";
            let Given { status, kind, body } = &given;
            let (actor, name) = (named.actor.as_bytes(), named.name.as_bytes());
            batch.conn.prepare_cached(sql)?.execute((status, kind, body, actor, name))?;
            Ok(())
        };
        self.carry_on(keep, |()| None).await
    }

    /// Forgets a named request that did nothing, so that it can be sent again.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn once_forget(&self, named: Named) -> Result<(), Refusal> {
        let forget = move |batch: &mut Batch<'_>| {
            let sql = "DELETE FROM once WHERE actor = ? AND name = ?";
            let row = (named.actor.as_bytes(), named.name.as_bytes());
            batch.conn.prepare_cached(sql)?.execute(row)?;
            Ok(())
        };
        self.carry_on(forget, |()| None).await
    }
}

fn begin(batch: &Batch<'_>, named: &Named) -> Result<Result<Begun, Refusal>, Fault> {
    let (actor, now) = (named.actor.as_bytes(), int(batch.now.0));
    batch
        .conn
        .prepare_cached("DELETE FROM once WHERE actor = ? AND expires_at <= ?")?
        .execute((actor, now))?;
    if let Some(standing) = standing(batch, named)? {
        return Ok(Ok(standing));
    }
    let sql = "SELECT count(*) FROM once WHERE actor = ?";
    let count: i64 = batch.conn.prepare_cached(sql)?.query_row([actor], |row| row.get(0))?;
    if count >= int(EACH_MAX) {
        return Ok(Err(Refusal::new(Code::RateLimited).with("idempotency_keys", EACH_MAX)));
    }
    let ends = int(batch.now.plus_ms(KEEP_MS).0);
    batch
        .conn
        .prepare_cached("INSERT INTO once (actor, name, request, expires_at) VALUES (?, ?, ?, ?)")?
        .execute((actor, named.name.as_bytes(), named.request.as_bytes(), ends))?;
    Ok(Ok(Begun::Now))
}

/// How a request of this name stands, if there is one.
fn standing(batch: &Batch<'_>, named: &Named) -> Result<Option<Begun>, Fault> {
    let sql = "SELECT request, status, kind, body FROM once WHERE actor = ? AND name = ?";
    let row = (named.actor.as_bytes(), named.name.as_bytes());
    let read = |row: &rusqlite::Row<'_>| {
        let request = Digest::from_bytes(row.get(0)?);
        let status: Option<u16> = row.get(1)?;
        Ok(match status {
            _ if request != named.request => Begun::Other,
            None => Begun::Unanswered,
            Some(status) => Begun::Answered(Given { status, kind: row.get(2)?, body: row.get(3)? }),
        })
    };
    Ok(batch.conn.prepare_cached(sql)?.query_row(row, read).optional()?)
}
