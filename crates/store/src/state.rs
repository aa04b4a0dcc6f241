//! What is in memory: all that the writer checks before it writes and that callers read.
//!
//! INVARIANT: only the writer changes it, under a lock that is not held while rows are written; it
//! is rebuilt from the rows when the store opens.

use crate::{
    approvals::Approvals, approvers::Withdrawn, budgets::Counters, calls::Live,
    credentials::Credentials, declared::Declared, grants::Grants, links::Links, payback::Paybacks,
    quotes::Quotes,
};
use countersign_core::{ids::CallId, ledger::CallState};
use std::{collections::HashMap, ops::Deref};

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
    pub(crate) calls: LiveCalls,
}

/// Calls that have not ended.
///
/// INVARIANT: a call's state changes only while it is taken out.
#[derive(Debug, Default)]
pub(crate) struct LiveCalls {
    by_id: HashMap<CallId, Live>,
    parked: usize,
}

impl LiveCalls {
    pub(crate) fn insert(&mut self, call: CallId, live: Live) {
        self.parked = self.parked.saturating_add(usize::from(is_parked(&live)));
        if let Some(before) = self.by_id.insert(call, live) {
            self.parked = self.parked.saturating_sub(usize::from(is_parked(&before)));
        }
    }

    pub(crate) fn remove(&mut self, call: &CallId) -> Option<Live> {
        let live = self.by_id.remove(call)?;
        self.parked = self.parked.saturating_sub(usize::from(is_parked(&live)));
        Some(live)
    }

    /// Nobody holds its token any more: it is recovery's.
    pub(crate) fn disown(&mut self, call: &CallId) {
        if let Some(live) = self.by_id.get_mut(call) {
            live.owned_at = None;
        }
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Live> {
        self.by_id.values_mut()
    }

    /// How many are a load. Those that wait for a person are none: they must not keep others out.
    pub(crate) fn at_work(&self) -> usize {
        self.by_id.len().saturating_sub(self.parked)
    }
}

impl Deref for LiveCalls {
    type Target = HashMap<CallId, Live>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

const fn is_parked(live: &Live) -> bool {
    matches!(live.state, CallState::InDoubt | CallState::RefundDue)
}
