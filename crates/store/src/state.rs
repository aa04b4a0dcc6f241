//! What is in memory: all that the writer checks before it writes and that callers read.
//!
//! INVARIANT: only the writer changes it, under a lock that is not held while rows are written; it
//! is rebuilt from the rows when the store opens.

use crate::{
    approvals::Approvals, approvers::Withdrawn, budgets::Counters, calls::Live,
    credentials::Credentials, declared::Declared, grants::Grants, links::Links, payback::Paybacks,
    quotes::Quotes,
};
use countersign_core::ids::CallId;
use std::collections::HashMap;

/// Everything that is in memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) quotes: Quotes,
    pub(crate) credentials: Credentials,
    pub(crate) grants: Grants,
    pub(crate) links: Links,
    pub(crate) approvals: Approvals,
    pub(crate) withdrawn: Withdrawn,
    pub(crate) counters: Counters,
    pub(crate) declared: Declared,
    pub(crate) paybacks: Paybacks,
    /// Calls that have not ended.
    pub(crate) calls: HashMap<CallId, Live>,
}
