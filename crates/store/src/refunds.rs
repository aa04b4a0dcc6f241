//! What is owed back for credentials, and how it goes: offered once over Lightning to whoever shows
//! the credential, then booked when the node says that it was taken; or paid by a treasury
//! (`payback`).
//!
//! INVARIANT: a refund is booked as offered before a node is told of it, under the one key that the
//! node knows it by; it is booked as paid once, and only for what was owed.
//! INVARIANT: it is offered by a node or paid by a treasury, never both.

use crate::{
    accounts::{AccountName, Step, Transfer},
    fault::Fault,
    grants::admin,
    payback::{self, Debt},
    schema::{int, minor_blob, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{digest::Digest, money::Amount, refusal::Refusal, time::UnixMs};
use rusqlite::{Connection, OptionalExtension as _, Row};
use std::sync::Arc;

/// Money that is owed back for a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// Its own key, at the node too.
    pub key: Digest,
    /// The credential.
    pub credential: Digest,
    /// Tenant.
    pub tenant: Arc<str>,
    /// How much.
    pub amount: Amount,
    /// The node that offers it, once one does.
    pub node: Option<String>,
    /// When it came to be owed.
    pub since: UnixMs,
}

/// What became of a refund that a person wants to book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandPaid {
    /// It is booked.
    Booked,
    /// Nothing is owed under this key, any more.
    NotOwed,
    /// A node offers it, or a treasury is paying it.
    UnderWay,
}

const SELECT: &str =
    "SELECT key, credential, tenant, asset, minor, node, at FROM refunds WHERE paid = 0";

fn read(row: &Row<'_>) -> rusqlite::Result<Refund> {
    let asset: String = row.get(3)?;
    Ok(Refund {
        key: Digest::from_bytes(row.get(0)?),
        credential: Digest::from_bytes(row.get(1)?),
        tenant: row.get::<_, String>(2)?.into(),
        amount: Amount { asset: asset.as_str().into(), minor: u128::from_be_bytes(row.get(4)?) },
        node: row.get(5)?,
        since: UnixMs(uint(row, 6)?),
    })
}

/// Notes that a credential's money is owed back. `subject` is what it is booked under: the
/// credential, or a call that gave its use back after the end.
pub(crate) fn owe(
    batch: &Batch<'_>,
    credential: Digest,
    subject: &[u8],
    tenant: &Arc<str>,
    amount: &Amount,
) -> Result<(), Fault> {
    let key = Digest::of_parts(&[b"refund", credential.as_bytes(), subject]);
    batch.conn.prepare_cached("INSERT INTO refunds VALUES (?, ?, ?, ?, ?, NULL, 0, ?)")?.execute(
        (
            key.as_bytes(),
            credential.as_bytes(),
            &**tenant,
            &*amount.asset.0,
            minor_blob(amount.minor),
            int(batch.now.0),
        ),
    )?;
    Ok(())
}

/// What is owed under a key.
pub(crate) fn find(conn: &Connection, key: Digest) -> Result<Option<Refund>, Fault> {
    let mut statement = conn.prepare_cached(&format!("{SELECT} AND key = ?"))?;
    Ok(statement.query_row([key.as_bytes()], read).optional()?)
}

/// No node offers it any more.
pub(crate) fn withdraw(batch: &Batch<'_>, key: Digest) -> Result<(), Fault> {
    batch
        .conn
        .prepare_cached("UPDATE refunds SET node = NULL WHERE key = ?")?
        .execute([key.as_bytes()])?;
    Ok(())
}

/// Books that it was paid, once, as `by` says.
pub(crate) fn paid(
    batch: &mut Batch<'_>,
    key: Digest,
    reference: &str,
    by: &str,
) -> Result<(), Fault> {
    let Some(refund) = find(batch.conn, key)? else { return Ok(()) };
    let transfer = Transfer {
        subject: key.as_bytes(),
        stage: "refund",
        tenant: &refund.tenant,
        debit: AccountName::RefundsDue,
        credit: AccountName::Funding,
        amount: &refund.amount,
        step: Step::Post,
    };
    batch.shared().accounts().book(batch.conn, &transfer, batch.now)?;
    let details = [
        ("credential", refund.credential.to_hex()),
        ("minor", refund.amount.minor.to_string()),
        ("reference", reference.chars().take(256).collect()),
    ];
    admin(batch, &refund.tenant, "credential.refund", by, &details)?;
    batch
        .conn
        .prepare_cached("UPDATE refunds SET paid = 1 WHERE key = ?")?
        .execute([key.as_bytes()])?;
    payback::close(batch, Debt::Refund(key))
}

/// Who books what nodes and treasuries paid.
pub(crate) const GATEWAY: &str = "countersign";

impl Store {
    /// All that is owed back for credentials, the oldest first.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn unclaimed(&self) -> Result<Vec<Refund>, Refusal> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} ORDER BY at, key"))?;
            let rows = statement.query_map([], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// What is owed under a key.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn refund(&self, key: Digest) -> Result<Option<Refund>, Refusal> {
        self.read(|conn| find(conn, key))
    }

    /// A person paid a refund in their own way: books it, unless another may still pay it. `lapsed`
    /// names the node whose offer of it came to nothing.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn refund_paid_by_hand(
        &self,
        key: Digest,
        lapsed: Option<String>,
        reference: &str,
        by: &str,
    ) -> Result<HandPaid, Refusal> {
        let (reference, by) = (reference.to_owned(), by.to_owned());
        let book = move |batch: &mut Batch<'_>| {
            let Some(refund) = find(batch.conn, key)? else { return Ok(HandPaid::NotOwed) };
            let is_offered = refund.node.is_some() && refund.node != lapsed;
            if is_offered || batch.state().paybacks.has(Debt::Refund(key)) {
                return Ok(HandPaid::UnderWay);
            }
            paid(batch, key, &reference, &by)?;
            Ok(HandPaid::Booked)
        };
        self.carry_on(book, |_| None).await
    }

    /// What is owed back for a credential and was not taken yet.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn refunds_of(&self, credential: Digest) -> Result<Vec<Refund>, Refusal> {
        self.read(|conn| {
            let sql = format!("{SELECT} AND credential = ?");
            let mut statement = conn.prepare_cached(&sql)?;
            let rows = statement.query_map([credential.as_bytes()], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Refunds that a node offers, by key: those after one, then those before it.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn offered_refunds(&self, after: Digest, most: u32) -> Result<Vec<Refund>, Refusal> {
        self.read(|conn| {
            let sql = format!(
                "SELECT * FROM ({SELECT} AND node IS NOT NULL AND key > ?1 ORDER BY key LIMIT ?2)
                 UNION ALL
                 SELECT * FROM ({SELECT} AND node IS NOT NULL AND key <= ?1 ORDER BY key LIMIT ?2)
                 LIMIT ?2"
            );
            let mut statement = conn.prepare_cached(&sql)?;
            let rows = statement.query_map((after.as_bytes(), most), read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// A node is about to offer a refund: it and no other one from now on, until it says that the
    /// offer came to nothing. Gives the node's name; none where a treasury pays it.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn offer_refund(&self, key: Digest, node: &str) -> Result<Option<String>, Refusal> {
        let node = node.to_owned();
        let offer = move |batch: &mut Batch<'_>| {
            if batch.state().paybacks.has(Debt::Refund(key)) {
                return Ok(None);
            }
            batch
                .conn
                .prepare_cached("UPDATE refunds SET node = ? WHERE key = ? AND node IS NULL")?
                .execute((&node, key.as_bytes()))?;
            Ok(find(batch.conn, key)?.and_then(|refund| refund.node))
        };
        self.carry_on(offer, |_| None).await
    }

    /// The money of a refund was taken.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn refund_paid(&self, key: Digest, reference: &str) -> Result<(), Refusal> {
        let reference = reference.to_owned();
        self.carry_on(move |batch| paid(batch, key, &reference, GATEWAY), |()| None).await
    }
}
