//! The ledger's vocabulary: states of a call, budgets, transfers.

use crate::{money::Micros, proof::Principal, terms::ToolRef};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a call stands, durably. External effects happen only between a durable intent and a
/// durable outcome; what each state means after a crash is in [`CallState::recovery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// Refused; nothing is held.
    Refused,
    /// Money is held, nothing was sent.
    Reserved,
    /// A settlement may be on its way.
    Settling,
    /// Paid; the tool has not started.
    Settled,
    /// The tool ran once or not at all.
    Starting,
    /// The outcome is stored.
    Finished,
    /// The hold is posted.
    Captured,
    /// The hold is voided; nothing was taken.
    Released,
    /// Started, outcome unknown.
    InDoubt,
    /// The payer must get money back.
    RefundDue,
    /// The payer got it back.
    Refunded,
}

/// What recovery does with a state found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing: a final state.
    Nothing,
    /// Void the hold.
    Release,
    /// Ask the rail, or settle again with the same authorization.
    Settle,
    /// The tool never started: start is no longer wanted, so refund.
    Refund,
    /// Run again if the operator vouches for idempotency, else in doubt.
    InDoubt,
    /// Post the stored outcome.
    Capture,
}

impl CallState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::Reserved,
        Self::Settling,
        Self::Settled,
        Self::Starting,
        Self::Finished,
        Self::Captured,
        Self::Released,
        Self::InDoubt,
        Self::RefundDue,
        Self::Refunded,
    ];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reserved => "reserved",
            Self::Settling => "settling",
            Self::Settled => "settled",
            Self::Starting => "starting",
            Self::Finished => "finished",
            Self::Captured => "captured",
            Self::Released => "released",
            Self::InDoubt => "in_doubt",
            Self::RefundDue => "refund_due",
            Self::Refunded => "refunded",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.text() == text)
    }

    /// What to do after a crash.
    #[must_use]
    pub const fn recovery(self) -> Recovery {
        match self {
            Self::Reserved => Recovery::Release,
            Self::Settling => Recovery::Settle,
            Self::Settled => Recovery::Refund,
            Self::Starting => Recovery::InDoubt,
            Self::Finished => Recovery::Capture,
            Self::Refused
            | Self::Captured
            | Self::Released
            | Self::InDoubt
            | Self::RefundDue
            | Self::Refunded => Recovery::Nothing,
        }
    }
}

/// The part of a principal that a budget counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetScope {
    /// This tenant, or each (`*`).
    pub tenant: Option<Arc<str>>,
    /// This delegator (`iss|sub`), or each.
    pub delegator: Option<Arc<str>>,
    /// This agent, or each.
    pub agent: Option<Arc<str>>,
    /// This tool (`server/tool`), or each.
    pub tool: Option<Arc<str>>,
}

/// How a budget's window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Any span of this many milliseconds.
    Rolling(u64),
    /// From the beginning.
    Lifetime,
}

/// A configured budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub scope: BudgetScope,
    /// The most within the window.
    pub limit: Micros,
    /// The window.
    pub window: Window,
}

/// One budget as it applies to one call: a counter's key and its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Counter: the budget's name and the concrete values of its scope.
    pub key: String,
    /// The most within the window.
    pub limit: Micros,
    /// The window.
    pub window: Window,
}

impl Budget {
    /// The counter this call falls into, or `None` when the budget is not about it.
    #[must_use]
    pub fn charge(&self, principal: &Principal, tool: &ToolRef) -> Option<Charge> {
        let mut key = format!("budget:{}", self.name);
        let delegator = principal.delegator_text();
        let tool = tool.to_string();
        let parts = [
            (&self.scope.tenant, &*principal.tenant),
            (&self.scope.delegator, &*delegator),
            (&self.scope.agent, &*principal.agent),
            (&self.scope.tool, &*tool),
        ];
        for (wanted, actual) in parts {
            let Some(wanted) = wanted else { continue };
            if &**wanted != "*" && &**wanted != actual {
                return None;
            }
            key.push('\u{1f}');
            key.push_str(actual);
        }
        Some(Charge { key, limit: self.limit, window: self.window })
    }
}
