//! L402 credentials: what we minted, under which key, for how many calls.
//!
//! INVARIANT: a credential is durable before its invoice is shown. Its uses are counted under
//! SHA-256 of its identifier in `nonces`; what is unused when it ends is booked as refund due.

use crate::{
    accounts::{AccountName, Step, Transfer},
    fault::Fault,
    grants::admin,
    invoices::{self, OpenInvoice},
    refunds,
    schema::{int, json, one, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    money::Amount,
    proof::l402::Minted,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, sync::Arc};

/// A credential to be stored with its challenge.
#[derive(Clone)]
pub struct NewCredential {
    /// SHA-256 of the identifier.
    pub key: Digest,
    /// The macaroon's root key.
    pub root_key: [u8; 32],
    /// The invoice's payment hash.
    pub payment_hash: Digest,
    /// The invoice.
    pub bolt11: String,
    /// When the invoice lapses.
    pub invoice_expires_at: UnixMs,
    /// The node that made it.
    pub node: String,
    /// The sealed request that runs when the money is held.
    pub request: Option<Vec<u8>>,
    /// What was agreed at minting. Its price is that of all uses together.
    pub minted: Minted,
}

impl fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCredential").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A stored credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// SHA-256 of the identifier.
    pub key: Digest,
    /// The macaroon's root key.
    pub root_key: [u8; 32],
    /// The invoice's payment hash.
    pub payment_hash: Digest,
    /// The invoice.
    pub bolt11: String,
    /// What was agreed at minting. Its price is that of all uses together.
    pub minted: Minted,
    /// Whether somebody ended it.
    pub revoked: bool,
    /// Tenant of its first use, once it was used.
    pub used_by: Option<Arc<str>>,
    /// Whether what was unused has been booked as refund due.
    pub closed: bool,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("key", &self.key)
            .field("uses", &self.minted.uses)
            .field("expires_at", &self.minted.expires_at)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// What one use takes of the price; what does not divide goes to the fees.
    pub(crate) fn share_minor(&self) -> u128 {
        self.minted.price.minor / u128::from(self.minted.uses.max(1))
    }
}

#[derive(Serialize, Deserialize)]
struct Body {
    payment_hash: Digest,
    bolt11: String,
    minted: Minted,
}

/// Credentials in memory: those that have not ended, up to a limit.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    by_key: HashMap<Digest, Kept>,
}

/// A credential, and how often it was used: as its row in `nonces` says.
#[derive(Debug)]
struct Kept {
    credential: Arc<Credential>,
    uses: u32,
}

impl Credentials {
    pub(crate) fn get(&self, key: Digest) -> Option<Arc<Credential>> {
        self.by_key.get(&key).map(|kept| Arc::clone(&kept.credential))
    }

    /// How often it was used; `None` when it is not in memory.
    pub(crate) fn uses(&self, key: Digest) -> Option<u32> {
        self.by_key.get(&key).map(|kept| kept.uses)
    }

    /// Counts a use that begins.
    pub(crate) fn begin_use(&mut self, key: Digest) {
        if let Some(kept) = self.by_key.get_mut(&key) {
            kept.uses = kept.uses.saturating_add(1);
        }
    }

    /// Takes back a use that came to nothing.
    pub(crate) fn give_use_back(&mut self, key: Digest) {
        if let Some(kept) = self.by_key.get_mut(&key) {
            kept.uses = kept.uses.saturating_sub(1);
        }
    }

    /// One that is new, or what has become of one.
    fn put(&mut self, credential: Arc<Credential>, limit: usize) {
        let is_full = self.by_key.len() >= limit;
        match self.by_key.get_mut(&credential.key) {
            Some(kept) => kept.credential = credential,
            None if is_full => {}
            None => drop(self.by_key.insert(credential.key, Kept { credential, uses: 0 })),
        }
    }

    /// Forgets what ended; rows stay.
    pub(crate) fn prune(&mut self, now: UnixMs) {
        self.by_key.retain(|_, kept| now < kept.credential.minted.expires_at);
    }

    /// Reads those that have not ended.
    pub(crate) fn load(conn: &Connection, now: UnixMs, limit: usize) -> Result<Self, Fault> {
        let sql = format!("{WITH_USES} ORDER BY expires_at LIMIT ?");
        let mut statement = conn.prepare(&sql)?;
        let mut rows = statement.query((int(now.0), i64::try_from(limit).unwrap_or(i64::MAX)))?;
        let mut by_key = HashMap::new();
        while let Some(row) = rows.next()? {
            let (credential, uses) = read_with_uses(row)?;
            by_key.insert(credential.key, Kept { credential: Arc::new(credential), uses });
        }
        Ok(Self { by_key })
    }
}

const SELECT: &str = "SELECT key, root_key, body, revoked, tenant, closed FROM credentials";
/// Those that have not ended, with how often each was used.
const WITH_USES: &str = "SELECT c.key, root_key, body, revoked, tenant, closed, coalesce(uses, 0)
    FROM credentials c LEFT JOIN nonces n ON n.key = c.key WHERE expires_at > ?";

fn read(row: &rusqlite::Row<'_>) -> Result<Credential, Fault> {
    let body: Body = json(row.get_ref(2)?.as_str().unwrap_or(""), "credential")?;
    let tenant: Option<String> = row.get(4)?;
    Ok(Credential {
        key: Digest::from_bytes(row.get(0)?),
        root_key: row.get(1)?,
        payment_hash: body.payment_hash,
        bolt11: body.bolt11,
        minted: body.minted,
        revoked: row.get::<_, i64>(3)? != 0,
        used_by: tenant.map(Arc::from),
        closed: row.get::<_, i64>(5)? != 0,
    })
}

fn read_with_uses(row: &rusqlite::Row<'_>) -> Result<(Credential, u32), Fault> {
    Ok((read(row)?, u32::try_from(row.get::<_, i64>(6)?).unwrap_or(u32::MAX)))
}

/// A credential's row.
pub(crate) fn select(conn: &Connection, key: Digest) -> Result<Option<Credential>, Fault> {
    let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE key = ?"))?;
    let found = statement.query_row([key.as_bytes()], |row| Ok(read(row))).optional()?;
    found.transpose()
}

/// A credential, from memory or from its row.
pub(crate) fn find(batch: &Batch<'_>, key: Digest) -> Result<Option<Arc<Credential>>, Fault> {
    let found = batch.state().credentials.get(key);
    match found {
        Some(found) => Ok(Some(found)),
        None => Ok(select(batch.conn, key)?.map(Arc::new)),
    }
}

/// Makes the row of a credential; `false` when the key is in use.
pub(crate) fn insert(batch: &Batch<'_>, new: NewCredential) -> Result<bool, Fault> {
    let NewCredential { key, root_key, payment_hash, bolt11, minted, .. } = new;
    let invoice = OpenInvoice {
        payment_hash: *payment_hash.as_bytes(),
        credential: key,
        node: new.node,
        request: new.request,
        expires_at: new.invoice_expires_at,
    };
    let expires_at = int(minted.expires_at.0);
    let body = Body { payment_hash, bolt11, minted };
    let added = batch
        .conn
        .prepare_cached("INSERT OR IGNORE INTO credentials VALUES (?, ?, ?, 0, NULL, 0, ?)")?
        .execute((key.as_bytes(), to_json(&body)?, root_key, expires_at))?;
    if added == 0 {
        return Ok(false);
    }
    invoices::insert(batch, &invoice)?;
    let Body { payment_hash, bolt11, minted } = body;
    let (revoked, used_by, closed) = (false, None, false);
    keep(
        batch,
        Credential { key, root_key, payment_hash, bolt11, minted, revoked, used_by, closed },
    );
    Ok(true)
}

/// Books the whole purchase at a credential's first use.
pub(crate) fn present(
    batch: &Batch<'_>,
    credential: &Credential,
    tenant: &Arc<str>,
) -> Result<(), Fault> {
    if credential.used_by.is_some() {
        return Ok(());
    }
    let usable = credential.share_minor().saturating_mul(u128::from(credential.minted.uses));
    let rest = credential.minted.price.minor.saturating_sub(usable);
    let names = (AccountName::Funding, AccountName::Available);
    book(batch, credential, "purchase", tenant, names, usable)?;
    let names = (AccountName::Funding, AccountName::Fees);
    book(batch, credential, "rounding", tenant, names, rest)?;
    batch
        .conn
        .prepare_cached("UPDATE credentials SET tenant = ? WHERE key = ?")?
        .execute((&**tenant, credential.key.as_bytes()))?;
    invoices::paid(batch, credential.key)?;
    let used_by = Some(Arc::clone(tenant));
    keep(batch, Credential { used_by, ..credential.clone() });
    Ok(())
}

/// Books what an ended credential leaves as refund due. Calls that still run give their use back
/// to the refunds themselves.
pub(crate) fn close_ended(batch: &mut Batch<'_>, limit: i64) -> Result<(), Fault> {
    let sql =
        format!("{SELECT} WHERE expires_at <= ? AND closed = 0 AND tenant IS NOT NULL LIMIT ?");
    let mut ended = Vec::new();
    let mut statement = batch.conn.prepare_cached(&sql)?;
    let mut rows = statement.query((int(batch.now.0), limit))?;
    while let Some(row) = rows.next()? {
        ended.push(read(row)?);
    }
    for credential in ended {
        close(batch, &credential)?;
    }
    let now = batch.now;
    batch.state().credentials.prune(now);
    Ok(())
}

/// Where what is owed back goes: to the credit of whom it is known to be of, where that is kept.
pub(crate) fn owed_to(batch: &Batch<'_>, principal: Option<Digest>) -> AccountName {
    match principal.filter(|_| batch.shared().limits.credit) {
        Some(principal) => AccountName::credit_of(principal),
        None => AccountName::RefundsDue,
    }
}

/// Books what a credential leaves as owed back; nothing of one that was never paid.
fn close(batch: &mut Batch<'_>, credential: &Credential) -> Result<(), Fault> {
    let Some(tenant) = credential.used_by.clone().filter(|_| !credential.closed) else {
        return Ok(());
    };
    let key = credential.key.as_bytes();
    let used = one::<i64>(batch.conn, "SELECT uses FROM nonces WHERE key = ?", [key])?;
    let used = used.and_then(|used| u32::try_from(used).ok()).unwrap_or(0);
    let unused = u128::from(credential.minted.uses.saturating_sub(used));
    batch.conn.prepare_cached("UPDATE credentials SET closed = 1 WHERE key = ?")?.execute([key])?;
    keep(batch, Credential { closed: true, ..credential.clone() });
    let minor = credential.share_minor().saturating_mul(unused);
    if minor > 0 {
        let bearer = credential.minted.bearer.as_ref().map(|bearer| bearer.principal.key());
        let to = owed_to(batch, bearer);
        let is_credit = if to == AccountName::RefundsDue { "no" } else { "yes" };
        if to == AccountName::RefundsDue {
            let asset = credential.minted.price.asset.clone();
            let owed = Amount { asset, minor };
            refunds::owe(batch, credential.key, credential.key.as_bytes(), &tenant, &owed)?;
        }
        let names = (AccountName::Available, to);
        book(batch, credential, "expire", &tenant, names, minor)?;
        let details = [
            ("credential", credential.key.to_hex()),
            ("minor", minor.to_string()),
            ("credit", is_credit.to_owned()),
        ];
        admin(batch, &tenant, "credential.expire", refunds::GATEWAY, &details)?;
    }
    Ok(())
}

fn book(
    batch: &Batch<'_>,
    credential: &Credential,
    stage: &'static str,
    tenant: &Arc<str>,
    (debit, credit): (AccountName, AccountName),
    minor: u128,
) -> Result<(), Fault> {
    if minor == 0 {
        return Ok(());
    }
    let transfer = Transfer {
        subject: credential.key.as_bytes(),
        stage,
        tenant,
        debit,
        credit,
        amount: &Amount { asset: credential.minted.price.asset.clone(), minor },
        step: Step::Post,
    };
    batch.shared().accounts().book(batch.conn, &transfer, batch.now)?;
    Ok(())
}

fn keep(batch: &Batch<'_>, credential: Credential) {
    let limit = batch.shared().limits.credentials_in_memory;
    batch.state().credentials.put(Arc::new(credential), limit);
}

impl Store {
    /// A credential by SHA-256 of its identifier. Reads the disk for one that is not in memory.
    ///
    /// # Errors
    /// `StoreFault` when the disk cannot be read.
    pub fn credential(&self, key: Digest) -> Result<Option<Arc<Credential>>, Refusal> {
        let found = self.shared().state().credentials.get(key);
        match found {
            Some(found) => Ok(Some(found)),
            None => self.read(|conn| Ok(select(conn, key)?.map(Arc::new))),
        }
    }

    /// Credentials that have not ended, with how often each was used.
    ///
    /// # Errors
    /// `StoreFault` when the disk cannot be read.
    pub fn open_credentials(&self) -> Result<Vec<(Credential, u32)>, Refusal> {
        let now = self.shared().world.now();
        self.read(|conn| {
            let mut statement = conn.prepare_cached(WITH_USES)?;
            let mut rows = statement.query([int(now.0)])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read_with_uses(row)?);
            }
            Ok(found)
        })
    }

    /// The rail says that a credential's invoice was paid, whether or not it is ever used: what is
    /// unused when it ends is owed back. `tenant` is whose books it enters.
    ///
    /// # Errors
    /// `CredentialInvalid` when there is none.
    pub async fn credential_paid(&self, key: Digest, tenant: &str) -> Result<(), Refusal> {
        let tenant: Arc<str> = tenant.into();
        self.enter(move |batch| {
            let Some(found) = find(batch, key)? else {
                return Ok(Err(Code::CredentialInvalid.into()));
            };
            present(batch, &found, &tenant).map(Ok)
        })
        .await?
    }

    /// Ends a credential: it pays for nothing any more, and what is unused of it is owed back.
    ///
    /// # Errors
    /// `CredentialInvalid` when there is none.
    pub async fn credential_revoke(&self, key: Digest, by: &str) -> Result<(), Refusal> {
        let by = by.to_owned();
        self.enter(move |batch| revoke(batch, key, &by)).await?
    }
}

fn revoke(batch: &mut Batch<'_>, key: Digest, by: &str) -> Result<Result<(), Refusal>, Fault> {
    let Some(found) = find(batch, key)? else {
        return Ok(Err(Code::CredentialInvalid.into()));
    };
    batch
        .conn
        .prepare_cached("UPDATE credentials SET revoked = 1 WHERE key = ?")?
        .execute([key.as_bytes()])?;
    let tenant = found.used_by.clone().unwrap_or_else(|| "anonymous".into());
    admin(batch, &tenant, "credential.revoke", by, &[("credential", key.to_hex())])?;
    let revoked = Credential { revoked: true, ..Credential::clone(&found) };
    keep(batch, revoked.clone());
    close(batch, &revoked)?;
    Ok(Ok(()))
}
