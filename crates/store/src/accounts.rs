//! Double entry: accounts of a tenant in one asset, and transfers between two of them.
//!
//! A transfer is posted at once, or pending and later posted or voided by a second one; rows of
//! transfers are never changed. Its identifier follows from its subject and its stage, so that
//! the same step cannot be booked twice.
//! INVARIANT: each transfer debits one account and credits another of the same tenant and asset
//! by the same amount, so the posted balances of a (tenant, asset) always sum to zero.
#![deny(clippy::arithmetic_side_effects)]

use crate::{
    fault::Fault,
    schema::{balance_blob, int, minor_blob},
};
use countersign_core::{
    digest::Digest,
    ids::TransferId,
    money::{Amount, AssetCode},
    time::UnixMs,
};
use rusqlite::Connection;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

/// The largest amount of one transfer: 2⁹⁶, so that no balance can overflow.
pub(crate) const LARGEST_MINOR: u128 = 1 << 96;

/// The accounts of one tenant and asset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AccountName {
    /// The world outside: what payers brought in, negative, less what went back to them.
    Funding,
    /// Paid in advance and not used yet.
    Available,
    /// The same of one principal, by the hex of its key: its credit.
    Credit(Arc<str>),
    /// Taken for a call that has not ended.
    Held,
    /// Earned by a server.
    Payable(Arc<str>),
    /// Kept by the operator.
    Fees,
    /// Owed to payers.
    RefundsDue,
    /// Taken for a call of which nobody knows the outcome.
    Suspense,
    /// Borne by the operator: results withheld.
    OperatorLoss,
    /// The organisation's own wallet: what it paid out, negative, less what came back to it.
    Treasury,
    /// Paid out to the payees of a server.
    PaidOut(Arc<str>),
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Funding => f.write_str("funding"),
            Self::Available => f.write_str("available"),
            Self::Credit(principal) => write!(f, "credit:{principal}"),
            Self::Held => f.write_str("held"),
            Self::Payable(server) => write!(f, "payable:{server}"),
            Self::Fees => f.write_str("fees"),
            Self::RefundsDue => f.write_str("refunds_due"),
            Self::Suspense => f.write_str("suspense"),
            Self::OperatorLoss => f.write_str("operator_loss"),
            Self::Treasury => f.write_str("treasury"),
            Self::PaidOut(server) => write!(f, "paid_out:{server}"),
        }
    }
}

impl AccountName {
    /// The credit of a principal, by its key.
    pub(crate) fn credit_of(principal: Digest) -> Self {
        Self::Credit(principal.to_hex().into())
    }

    /// The account of a stored name.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let plain = [
            Self::Funding,
            Self::Available,
            Self::Held,
            Self::Fees,
            Self::RefundsDue,
            Self::Suspense,
            Self::OperatorLoss,
            Self::Treasury,
        ];
        match text.split_once(':') {
            Some(("payable", server)) => Some(Self::Payable(server.into())),
            Some(("paid_out", server)) => Some(Self::PaidOut(server.into())),
            Some(("credit", principal)) => Some(Self::Credit(principal.into())),
            Some(_) | None => plain.into_iter().find(|name| name.to_string() == text),
        }
    }
}

/// One account's balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Asset.
    pub asset: AssetCode,
    /// Account.
    pub account: AccountName,
    /// Credits less debits that are posted, in minor units.
    pub posted_minor: i128,
    /// Credits pending.
    pub pending_in_minor: u128,
    /// Debits pending.
    pub pending_out_minor: u128,
}

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Moves at once.
    Post,
    /// Will move, or not.
    Pend,
    /// Moves what was pending.
    PostPending(TransferId),
    /// Gives up what was pending.
    VoidPending(TransferId),
}

impl Step {
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Post => 0,
            Self::Pend => 1,
            Self::PostPending(_) => 2,
            Self::VoidPending(_) => 3,
        }
    }

    const fn pending(self) -> Option<TransferId> {
        match self {
            Self::Post | Self::Pend => None,
            Self::PostPending(id) | Self::VoidPending(id) => Some(id),
        }
    }
}

/// A transfer to be booked.
#[derive(Clone, Debug)]
pub(crate) struct Transfer<'a> {
    /// The call, or the credential's key: 16 bytes or 32.
    pub(crate) subject: &'a [u8],
    /// Which of the subject's steps; with it, names the transfer.
    pub(crate) stage: &'static str,
    pub(crate) tenant: &'a Arc<str>,
    pub(crate) debit: AccountName,
    pub(crate) credit: AccountName,
    pub(crate) amount: &'a Amount,
    pub(crate) step: Step,
}

/// The identifier of a subject's transfer at a stage. It begins as the subject does, so the
/// transfers of calls sort by time as calls do.
pub(crate) fn transfer_id(subject: &[u8], stage: &str) -> TransferId {
    let digest = Digest::of_parts(&[b"transfer", subject, stage.as_bytes()]);
    let mut bytes = [0u8; 16];
    let prefix = subject.iter().take(6);
    for (to, from) in bytes.iter_mut().zip(prefix.chain(digest.as_bytes())) {
        *to = *from;
    }
    TransferId::from_bytes(bytes)
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_key: HashMap<(Arc<str>, AssetCode, AccountName), usize>,
    all: Vec<Account>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct Account {
    id: i64,
    balance: Balance,
}

impl Accounts {
    /// Books one transfer: its row now, the balances at the end of the batch.
    pub(crate) fn book(
        &mut self,
        conn: &Connection,
        transfer: &Transfer<'_>,
        at: UnixMs,
    ) -> Result<TransferId, Fault> {
        let id = transfer_id(transfer.subject, transfer.stage);
        let debit = self.index(conn, transfer, &transfer.debit)?;
        let credit = self.index(conn, transfer, &transfer.credit)?;
        let ids = (self.row(debit)?.id, self.row(credit)?.id);
        let minor = transfer.amount.minor;
        self.row(debit)?.balance.debit(minor, transfer.step)?;
        self.row(credit)?.balance.credit(minor, transfer.step)?;
        self.dirty.extend([debit, credit]);
        conn.prepare_cached("INSERT INTO transfers VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?.execute((
            id.as_bytes(),
            transfer.subject,
            transfer.step.number(),
            ids.0,
            ids.1,
            minor_blob(minor),
            transfer.step.pending().map(|id| *id.as_bytes()),
            int(at.0),
        ))?;
        Ok(id)
    }

    fn row(&mut self, index: usize) -> Result<&mut Account, Fault> {
        self.all.get_mut(index).ok_or(Fault::Corrupt("account"))
    }

    fn index(
        &mut self,
        conn: &Connection,
        transfer: &Transfer<'_>,
        name: &AccountName,
    ) -> Result<usize, Fault> {
        let key = (Arc::clone(transfer.tenant), transfer.amount.asset.clone(), name.clone());
        if let Some(index) = self.by_key.get(&key) {
            return Ok(*index);
        }
        let (tenant, asset, account) = key.clone();
        conn.prepare_cached(
            "INSERT INTO accounts (tenant, asset, name, posted, pending_in, pending_out)
             VALUES (?, ?, ?, ?4, ?4, ?4)",
        )?
        .execute((&*tenant, &*asset.0, account.to_string(), [0u8; 16]))?;
        let id = conn.last_insert_rowid();
        let balance = Balance {
            tenant,
            asset,
            account,
            posted_minor: 0,
            pending_in_minor: 0,
            pending_out_minor: 0,
        };
        Ok(self.add(key, Account { id, balance }))
    }

    fn add(&mut self, key: (Arc<str>, AssetCode, AccountName), account: Account) -> usize {
        let index = self.all.len();
        self.all.push(account);
        self.by_key.insert(key, index);
        index
    }

    /// Writes the balances that this batch changed.
    pub(crate) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        for index in std::mem::take(&mut self.dirty) {
            let Account { id, balance } = self.row(index)?;
            conn.prepare_cached(
                "UPDATE accounts SET posted = ?, pending_in = ?, pending_out = ? WHERE id = ?",
            )?
            .execute((
                balance_blob(balance.posted_minor),
                minor_blob(balance.pending_in_minor),
                minor_blob(balance.pending_out_minor),
                *id,
            ))?;
        }
        Ok(())
    }

    /// What is posted to an account, in minor units.
    pub(crate) fn posted_minor(
        &self,
        tenant: &Arc<str>,
        asset: &AssetCode,
        name: AccountName,
    ) -> i128 {
        let found = self.by_key.get(&(Arc::clone(tenant), asset.clone(), name));
        found.and_then(|index| self.all.get(*index)).map_or(0, |a| a.balance.posted_minor)
    }

    /// Every balance.
    pub(crate) fn balances(&self) -> Vec<Balance> {
        self.all.iter().map(|account| account.balance.clone()).collect()
    }

    /// Reads all accounts.
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut accounts = Self::default();
        for (id, balance) in read_balances(conn)? {
            let key = (Arc::clone(&balance.tenant), balance.asset.clone(), balance.account.clone());
            accounts.add(key, Account { id, balance });
        }
        Ok(accounts)
    }
}

/// The stored balances by their row.
pub(crate) fn read_balances(conn: &Connection) -> Result<Vec<(i64, Balance)>, Fault> {
    let mut statement = conn.prepare("SELECT * FROM accounts ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut balances = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(3)?;
        let asset: String = row.get(2)?;
        let balance = Balance {
            tenant: row.get::<_, String>(1)?.into(),
            asset: asset.as_str().into(),
            account: AccountName::from_text(&name).ok_or(Fault::Corrupt("account name"))?,
            posted_minor: i128::from_be_bytes(row.get(4)?),
            pending_in_minor: u128::from_be_bytes(row.get(5)?),
            pending_out_minor: u128::from_be_bytes(row.get(6)?),
        };
        balances.push((row.get(0)?, balance));
    }
    Ok(balances)
}

impl Balance {
    pub(crate) fn debit(&mut self, minor: u128, step: Step) -> Result<(), Fault> {
        self.pending_out_minor = pending(self.pending_out_minor, minor, step)?;
        self.posted_minor = match step {
            Step::Post | Step::PostPending(_) => {
                self.posted_minor.checked_sub(signed(minor)?).ok_or(OVERFLOW)?
            }
            Step::Pend | Step::VoidPending(_) => self.posted_minor,
        };
        Ok(())
    }

    pub(crate) fn credit(&mut self, minor: u128, step: Step) -> Result<(), Fault> {
        self.pending_in_minor = pending(self.pending_in_minor, minor, step)?;
        self.posted_minor = match step {
            Step::Post | Step::PostPending(_) => {
                self.posted_minor.checked_add(signed(minor)?).ok_or(OVERFLOW)?
            }
            Step::Pend | Step::VoidPending(_) => self.posted_minor,
        };
        Ok(())
    }
}

const OVERFLOW: Fault = Fault::Corrupt("balance out of range");

fn signed(minor: u128) -> Result<i128, Fault> {
    i128::try_from(minor).map_err(|_| OVERFLOW)
}

fn pending(sum: u128, minor: u128, step: Step) -> Result<u128, Fault> {
    match step {
        Step::Post => Some(sum),
        Step::Pend => sum.checked_add(minor),
        Step::PostPending(_) | Step::VoidPending(_) => sum.checked_sub(minor),
    }
    .ok_or(OVERFLOW)
}
