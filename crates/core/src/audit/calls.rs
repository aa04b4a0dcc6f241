//! The rules that a call's records keep among themselves.
//!
//! 1. Each record names the leaf hash of the call's previous one (`prev`), the first names none.
//! 2. `invocation.start` comes after quote, consent and decision, and never after a refusal.
//! 3. `invocation.result` comes after `invocation.start`.
//! 4. `ledger.impact` commits to every earlier record of the call, in order, and comes once. If
//!    the upstream was called it comes after a result; if it captures, the upstream was called.
//! 5. After `ledger.impact` there are refunds and operators' records only.
//!
//! A call is closed by `ledger.impact` or by a refusal; until then it is listed as open, or in
//! doubt once a record said so. Starts and results may repeat: a tool that the operator marked
//! idempotent is called again after a crash.

use super::{
    finding::{Finding, Findings},
    record::{Kind, Outcome, Record},
};
use crate::{digest::Digest, ids::CallId, time::UnixMs};
use serde::Serialize;
use std::collections::HashMap;

/// A call that no record has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OpenCall {
    /// The call.
    pub call: CallId,
    /// Index of its last record.
    pub index: u64,
    /// Kind of its last record.
    pub kind: Kind,
    /// When that was written.
    pub time: UnixMs,
    /// Whether it is known that nobody knows if the upstream ran.
    pub in_doubt: bool,
}

/// Calls by how they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCounts {
    /// The upstream was called, and the call is closed.
    pub executed: u64,
    /// Refused before the upstream was called.
    pub refused: u64,
    /// Closed without a call of the upstream and without a refusal.
    pub released: u64,
    /// Not closed.
    pub open: u64,
}

/// The calls of a log, record by record.
#[derive(Debug, Default)]
pub(super) struct Calls(HashMap<CallId, State>);

#[derive(Debug)]
struct State {
    open: OpenCall,
    last: Digest,
    // Emptied once the call is closed.
    records: Vec<Digest>,
    seen: Seen,
    closed: bool,
}

/// The kinds of records that a call has.
#[derive(Clone, Copy, Debug, Default)]
struct Seen(u16);

impl Seen {
    const fn bit(kind: Kind) -> u16 {
        match kind {
            Kind::Quote => 1,
            Kind::Consent => 2,
            Kind::Decision => 4,
            Kind::InvocationStart => 8,
            Kind::InvocationResult => 16,
            Kind::LedgerImpact => 32,
            Kind::Refusal => 64,
            Kind::Refund => 128,
            Kind::RefusedAggregate => 256,
            Kind::Admin => 512,
        }
    }

    const fn has(self, kind: Kind) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    const fn add(&mut self, kind: Kind) {
        self.0 |= Self::bit(kind);
    }
}

impl Calls {
    /// Takes in the next record of the log.
    pub(super) fn observe(
        &mut self,
        index: u64,
        leaf: Digest,
        record: &Record,
        findings: &mut Findings,
    ) {
        let Some(entry) = record.draft.call() else { return };
        let (call, kind, time) = (entry.call, record.draft.kind, record.draft.time);
        let previous = self.0.get(&call).map(|state| state.last);
        if record.prev != previous {
            findings.push(Finding::BrokenChain { index, call });
        }
        let open = OpenCall { call, index, kind, time, in_doubt: false };
        let seen = Seen::default();
        let state = self.0.entry(call).or_insert_with(|| State {
            open,
            last: leaf,
            records: Vec::new(),
            seen,
            closed: false,
        });
        state.check_order(index, record, findings);
        let in_doubt = match record.draft.outcome {
            Some(Outcome::InDoubt) => true,
            Some(_) if kind == Kind::InvocationResult => false,
            _ => state.open.in_doubt,
        };
        state.open = OpenCall { in_doubt, ..open };
        state.last = leaf;
        state.seen.add(kind);
        if kind == Kind::LedgerImpact {
            if record.draft.records != state.records {
                findings.push(Finding::WrongCommitment { index, call });
            }
            state.closed = true;
            state.records = Vec::new();
        } else if !state.closed {
            state.records.push(leaf);
        }
    }

    /// How the calls stand: counted, and those that are open listed by their last index.
    pub(super) fn finish(self) -> (CallCounts, Vec<OpenCall>) {
        let mut counts = CallCounts::default();
        let mut open = Vec::new();
        for state in self.0.into_values() {
            let (ran, refused) =
                (state.seen.has(Kind::InvocationStart), state.seen.has(Kind::Refusal));
            if !state.closed && (ran || !refused) {
                counts.open += 1;
                open.push(state.open);
            } else if ran {
                counts.executed += 1;
            } else if refused {
                counts.refused += 1;
            } else {
                counts.released += 1;
            }
        }
        open.sort_by_key(|call| call.index);
        (counts, open)
    }
}

impl State {
    fn check_order(&self, index: u64, record: &Record, findings: &mut Findings) {
        let (call, kind) = (self.open.call, record.draft.kind);
        let mut require = |kind| {
            if !self.seen.has(kind) {
                findings.push(Finding::MissingStage { index, call, kind });
            }
        };
        match kind {
            Kind::InvocationStart => {
                require(Kind::Quote);
                require(Kind::Consent);
                require(Kind::Decision);
                if self.seen.has(Kind::Refusal) {
                    findings.push(Finding::StartedAfterRefusal { index, call });
                }
            }
            Kind::InvocationResult => require(Kind::InvocationStart),
            Kind::LedgerImpact => {
                let ran = self.seen.has(Kind::InvocationStart);
                if ran {
                    require(Kind::InvocationResult);
                } else if record.draft.outcome == Some(Outcome::Captured) {
                    require(Kind::InvocationStart);
                }
            }
            Kind::Quote
            | Kind::Consent
            | Kind::Decision
            | Kind::Refusal
            | Kind::Refund
            | Kind::RefusedAggregate
            | Kind::Admin => {}
        }
        if self.closed && !matches!(kind, Kind::Refund | Kind::Admin) {
            findings.push(Finding::AfterClosing { index, call });
        }
    }
}
