//! Lightning invoices that may still be paid: whose credential they buy, and what runs when their
//! money is held.
//!
//! INVARIANT: an invoice is in its row before its challenge is shown, and stays there until its
//! node has said what became of it: nothing that is paid is overlooked, whoever was down.

use crate::{
    fault::Fault,
    schema::{int, to_json, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{digest::Digest, refusal::Refusal, time::UnixMs};
use rusqlite::{OptionalExtension as _, Row};
use std::fmt;

/// An invoice of which the end is not known.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenInvoice {
    /// Of the invoice.
    pub payment_hash: [u8; 32],
    /// The credential that it buys.
    pub credential: Digest,
    /// The node that made it.
    pub node: String,
    /// The sealed request that runs when the money is held, empty once it was begun; none for an
    /// invoice whose money is taken as it comes.
    pub request: Option<Vec<u8>>,
    /// When it lapses.
    pub expires_at: UnixMs,
}

/// A place in the list of open invoices: when one lapses, and its payment hash.
pub type InvoicePlace = (UnixMs, [u8; 32]);

impl OpenInvoice {
    /// Where it stands in the list.
    #[must_use]
    pub const fn place(&self) -> InvoicePlace {
        (self.expires_at, self.payment_hash)
    }
}

impl fmt::Debug for OpenInvoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenInvoice")
            .field("credential", &self.credential)
            .field("node", &self.node)
            .field("is_hold", &self.request.is_some())
            .finish_non_exhaustive()
    }
}

const SELECT: &str = "SELECT payment_hash, credential, node, request, expires_at FROM invoices";

fn read(row: &Row<'_>) -> rusqlite::Result<OpenInvoice> {
    Ok(OpenInvoice {
        payment_hash: row.get(0)?,
        credential: Digest::from_bytes(row.get(1)?),
        node: row.get(2)?,
        request: row.get(3)?,
        expires_at: UnixMs(uint(row, 4)?),
    })
}

/// Makes an invoice's row.
pub(crate) fn insert(batch: &Batch<'_>, invoice: &OpenInvoice) -> Result<(), Fault> {
    batch.conn.prepare_cached("INSERT INTO invoices VALUES (?, ?, ?, ?, ?)")?.execute((
        invoice.payment_hash,
        invoice.credential.as_bytes(),
        &invoice.node,
        &invoice.request,
        int(invoice.expires_at.0),
    ))?;
    Ok(())
}

fn begin(batch: &Batch<'_>, hash: &[u8; 32]) -> Result<Option<OpenInvoice>, Fault> {
    let mut statement = batch
        .conn
        .prepare_cached(&format!("{SELECT} WHERE payment_hash = ? AND request <> x''"))?;
    let found = statement.query_row([hash], read).optional()?;
    if found.is_some() {
        batch
            .conn
            .prepare_cached("UPDATE invoices SET request = x'' WHERE payment_hash = ?")?
            .execute([hash])?;
    }
    Ok(found)
}

/// A credential was presented: its invoice was paid.
pub(crate) fn paid(batch: &Batch<'_>, credential: Digest) -> Result<(), Fault> {
    batch
        .conn
        .prepare_cached("DELETE FROM invoices WHERE credential = ?")?
        .execute([credential.as_bytes()])?;
    Ok(())
}

impl Store {
    /// An open invoice by its payment hash.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn open_invoice(&self, payment_hash: &[u8; 32]) -> Result<Option<OpenInvoice>, Refusal> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE payment_hash = ?"))?;
            Ok(statement.query_row([payment_hash], read).optional()?)
        })
    }

    /// The open invoice that buys a credential.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn invoice_of(&self, credential: Digest) -> Result<Option<OpenInvoice>, Refusal> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE credential = ?"))?;
            Ok(statement.query_row([credential.as_bytes()], read).optional()?)
        })
    }

    /// Open invoices that lapsed, but for those of some nodes: those whose money is held before one
    /// moment, the others before another. The oldest first, from a place on.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn lapsed_invoices(
        &self,
        (hold, plain): (UnixMs, UnixMs),
        (except, (after, hash)): (&[String], InvoicePlace),
        most: u32,
    ) -> Result<Vec<OpenInvoice>, Refusal> {
        self.read(|conn| {
            let sql = format!(
                "{SELECT} WHERE expires_at < ?1 AND (request IS NOT NULL OR expires_at < ?2)
                   AND node NOT IN (SELECT value FROM json_each(?3))
                   AND (expires_at, payment_hash) > (?4, ?5)
                 ORDER BY expires_at, payment_hash LIMIT ?6"
            );
            let mut statement = conn.prepare_cached(&sql)?;
            let given = (int(hold.0), int(plain.0), to_json(&except)?, int(after.0), hash, most);
            let rows = statement.query_map(given, read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Open invoices of a node whose money is held when it comes, the newest first.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn hold_invoices(&self, node: &str, most: u32) -> Result<Vec<OpenInvoice>, Refusal> {
        self.read(|conn| {
            let sql = format!(
                "{SELECT} WHERE node = ? AND request IS NOT NULL ORDER BY expires_at DESC LIMIT ?"
            );
            let mut statement = conn.prepare_cached(&sql)?;
            let rows = statement.query_map((node, most), read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Takes the request that runs now that its money is held: once, whatever happens to it.
    /// `None` when there is none, or it was begun.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn begin_held(&self, payment_hash: [u8; 32]) -> Result<Option<OpenInvoice>, Refusal> {
        self.carry_on(move |batch| begin(batch, &payment_hash), |_| None).await
    }

    /// The node said what became of an invoice: it is closed.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn close_invoice(&self, payment_hash: [u8; 32]) -> Result<(), Refusal> {
        self.carry_on(
            move |batch| {
                batch
                    .conn
                    .prepare_cached("DELETE FROM invoices WHERE payment_hash = ?")?
                    .execute([payment_hash])?;
                Ok(())
            },
            |()| None,
        )
        .await
    }
}
