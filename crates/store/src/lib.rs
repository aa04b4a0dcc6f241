//! Durable verbs of Countersign over one embedded database.
//!
//! Owns what is durable: quotes, credentials, grants, approvals, budgets, calls, the ledger and
//! the audit log, each state change and its records in one transaction. One writer thread owns
//! the connection: it drains the queue, commits once, answers all, and repeats. What the hot path
//! reads is in memory, rebuilt from the rows when the store opens.
//!
//! INVARIANT: a verb's answer is given only after its transaction is durable. A read can be one
//! batch ahead of the disk; a verb queued after it is behind what it saw.
//! INVARIANT: the first error of the database poisons the store; nothing is retried.
//! It knows no HTTP, and draws time and randomness from the `World` only.

mod accounts;
mod approvals;
mod approvers;
mod attempt;
mod brought;
mod budgets;
mod calls;
mod capture;
mod check;
mod configured;
mod credentials;
mod declared;
mod failpoint;
mod fault;
mod free;
mod fsck;
mod grants;
mod invoices;
mod links;
mod log;
mod notes;
mod once;
mod open;
mod options;
mod payback;
mod policies;
mod publish;
mod purchase;
mod quotes;
mod reads;
mod recover;
mod refunds;
mod refuse;
mod reserve;
mod schema;
mod settle;
mod shadow;
mod state;
mod store;
mod sweep;
mod unsettled;
mod writer;

pub use accounts::{AccountName, Balance};
pub use approvals::{Answer, ApprovalRequest, Verdict};
pub use approvers::WithdrawnApprover;
pub use attempt::{Attempt, Evidence, pseudonym};
pub use calls::{CallView, SettlementReceipt};
pub use capture::{Captured, FailCause, Finished, Outcome, Take};
pub use credentials::{Credential, NewCredential};
pub use failpoint::failpoint;
pub use fault::OpenError;
pub use free::quota_used;
pub use fsck::{Checked, Finding, Invariant, fsck};
pub use grants::NewGrant;
pub use invoices::{InvoicePlace, OpenInvoice};
pub use log::{Inclusion, LoggedRecord};
pub use notes::Note;
pub use once::{Begun, Given, Named};
pub use open::{Claim, has_database};
pub use options::{Durability, Limits, LogOptions, Options};
pub use payback::{Debt, Intent, Payback};
pub use policies::{KeptPolicy, NewPolicy};
pub use purchase::{Outlay, Purchase};
pub use quotes::{Challenge, OpenQuote};
pub use reads::Salts;
pub use recover::{Doubt, Due, Interrupted, Recovered, Unfinished, Unsettled};
pub use refunds::{HandPaid, Refund};
pub use reserve::{Hold, Reserved, rates};
pub use settle::Settling;
pub use shadow::KeptShadow;
pub use store::Store;
pub use unsettled::{Evidence as SettlementEvidence, OpenSettlement};
