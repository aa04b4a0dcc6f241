//! Policy bundles that were in force, and which one is.
//!
//! INVARIANT: a bundle's revision is above all before it, whatever is in force; going back is an
//! act of its own. Each change is in one transaction with its `admin` record.
//! INVARIANT: of the highest revision something is always kept, so that no older one passes.

use crate::{
    attempt::pseudonym,
    fault::Fault,
    schema::{int, one, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    audit::record::{Kind, RecordDraft, Subject},
    digest::Digest,
    refusal::{Code, Refusal},
    time::UnixMs,
};

/// Bundles that are kept; the oldest go.
const KEPT_MAX: u64 = 16;
/// The longest reason, in bytes.
const REASON_MAX: usize = 512;

/// A bundle to be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPolicy {
    /// Its revision.
    pub revision: u64,
    /// Digest of its files.
    pub digest: Digest,
    /// Its files, as the gateway writes them down.
    pub body: String,
    /// The verified person, or what else put it in force.
    pub by: String,
}

/// A bundle that is or was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPolicy {
    /// Its revision.
    pub revision: u64,
    /// Digest of its files.
    pub digest: Digest,
    /// When it was activated.
    pub at: UnixMs,
    /// By whom.
    pub by: String,
    /// It is the one in force.
    pub is_in_force: bool,
}

impl Store {
    /// Keeps a bundle and says that it is in force; durable when this returns. The inner error is
    /// the highest revision so far, which the bundle's is not above.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn policy_activate(&self, new: NewPolicy) -> Result<Result<(), u64>, Refusal> {
        self.enter(move |batch| activate(batch, &new)).await
    }

    /// Says that a bundle that is kept is in force again.
    ///
    /// # Errors
    /// `AdminNotFound` when it is not kept, `TooLarge` for a long reason; `Overloaded`,
    /// `StoreFault`.
    pub async fn policy_roll_back(
        &self,
        revision: u64,
        by: &str,
        reason: &str,
    ) -> Result<(), Refusal> {
        if reason.len() > REASON_MAX {
            return Err(Code::TooLarge.into());
        }
        let (by, reason) = (by.to_owned(), reason.to_owned());
        self.enter(move |batch| roll_back(batch, revision, &by, reason)).await?
    }

    /// Every bundle that is kept, the highest revision first.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn policies(&self) -> Result<Vec<KeptPolicy>, Refusal> {
        self.read(|conn| {
            let sql = "SELECT revision, digest, at, by_whom, in_force FROM policies \
                       ORDER BY revision DESC";
            let mut statement = conn.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            let mut kept = Vec::new();
            while let Some(row) = rows.next()? {
                kept.push(KeptPolicy {
                    revision: uint(row, 0)?,
                    digest: Digest::from_bytes(row.get(1)?),
                    at: UnixMs(uint(row, 2)?),
                    by: row.get(3)?,
                    is_in_force: row.get(4)?,
                });
            }
            Ok(kept)
        })
    }

    /// The files of a bundle that is kept.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn policy(&self, revision: u64) -> Result<Option<String>, Refusal> {
        let sql = "SELECT body FROM policies WHERE revision = ?";
        self.read(|conn| Ok(one(conn, sql, [int(revision)])?))
    }
}

fn activate(batch: &mut Batch<'_>, new: &NewPolicy) -> Result<Result<(), u64>, Fault> {
    let highest: Option<i64> = one(batch.conn, "SELECT max(revision) FROM policies", [])?.flatten();
    let highest = highest.and_then(|highest| u64::try_from(highest).ok());
    if let Some(highest) = highest.filter(|highest| new.revision <= *highest) {
        return Ok(Err(highest));
    }
    batch.conn.prepare_cached("UPDATE policies SET in_force = 0")?.execute([])?;
    batch.conn.prepare_cached("INSERT INTO policies VALUES (?, ?, ?, ?, ?, 1)")?.execute((
        int(new.revision),
        new.digest.as_bytes(),
        int(batch.now.0),
        &new.by,
        &new.body,
    ))?;
    batch
        .conn
        .prepare_cached(
            "DELETE FROM policies WHERE revision NOT IN \
             (SELECT revision FROM policies ORDER BY revision DESC LIMIT ?)",
        )?
        .execute([int(KEPT_MAX)])?;
    record(batch, ("policy.activate", &new.by), (new.revision, new.digest), None)?;
    Ok(Ok(()))
}

fn roll_back(
    batch: &mut Batch<'_>,
    revision: u64,
    by: &str,
    reason: String,
) -> Result<Result<(), Refusal>, Fault> {
    let sql = "SELECT digest FROM policies WHERE revision = ?";
    let Some(digest) = one::<[u8; 32]>(batch.conn, sql, [int(revision)])? else {
        return Ok(Err(Code::AdminNotFound.into()));
    };
    batch
        .conn
        .prepare_cached("UPDATE policies SET in_force = (revision = ?)")?
        .execute([int(revision)])?;
    let bundle = (revision, Digest::from_bytes(digest));
    record(batch, ("policy.rollback", by), bundle, Some(reason))?;
    Ok(Ok(()))
}

/// Appends the `admin` record; the person is named by pseudonym.
pub(crate) fn record(
    batch: &mut Batch<'_>,
    (action, by): (&str, &str),
    (revision, digest): (u64, Digest),
    reason: Option<String>,
) -> Result<(), Fault> {
    let mut draft = RecordDraft::new(Kind::Admin, batch.now, Subject::Deployment);
    draft.policy = Some(digest);
    let operator = pseudonym(&batch.shared().pseudonym_key, by).to_hex();
    let details = [
        ("action", Some(action.to_owned())),
        ("operator", Some(operator)),
        ("reason", reason),
        ("revision", Some(revision.to_string())),
    ];
    for (name, value) in details {
        value.into_iter().for_each(|value| draft.note(name, value));
    }
    batch.log.append(batch.conn, &draft)?;
    Ok(())
}
