//! Grants: a person's standing consent to spend, within limits, for a purpose.
//!
//! The row in the store is authoritative; the signed receipt is a portable copy.
//! INVARIANT: whatever a grant does not list, it does not cover.
#![deny(clippy::arithmetic_side_effects)]

use crate::{
    ids::GrantId, money::Micros, policy::Intent, proof::Principal, quote::Quote, refusal::Code,
    terms::ToolRef, time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a grant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantStatus {
    /// Usable.
    Active,
    /// Paused, until somebody reviews a change.
    Suspended,
    /// Ended by a person.
    Revoked,
}

/// Spend over a rolling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowLimit {
    /// Length of the window in milliseconds.
    pub length_ms: u64,
    /// The most within any window of that length.
    pub limit: Micros,
}

/// What a person agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// Tenant it belongs to.
    pub tenant: Arc<str>,
    /// Delegator's issuer.
    pub issuer: Arc<str>,
    /// Delegator's subject.
    pub subject: Arc<str>,
    /// Agent it is for.
    pub agent: Arc<str>,
    /// Server.
    pub server: Arc<str>,
    /// Tools of it; `*` is every tool, now and later.
    pub tools: Vec<Arc<str>>,
    /// Intents; empty covers none.
    pub intents: Vec<Intent>,
    /// The most one call may cost.
    pub per_call: Micros,
    /// Rolling budgets.
    pub windows: Vec<WindowLimit>,
    /// The most all calls may cost.
    pub total: Option<Micros>,
    /// The most calls.
    pub max_calls: Option<u64>,
    /// What for.
    pub purpose: String,
    /// From when.
    pub not_before: UnixMs,
    /// Until when; at most [`GrantTerms::LONGEST_MS`] after `not_before`.
    pub expires_at: UnixMs,
}

impl GrantTerms {
    /// Longest life: 30 days.
    pub const LONGEST_MS: u64 = 30 * 24 * 3_600_000;
}

/// A grant as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Identifier.
    pub id: GrantId,
    /// Grows with each change.
    pub version: u32,
    /// Status.
    pub status: GrantStatus,
    /// What was agreed.
    pub terms: GrantTerms,
    /// The verified person who approved.
    pub approved_by: String,
    /// When.
    pub approved_at: UnixMs,
    /// Spent and held so far.
    pub used: Micros,
    /// Calls so far.
    pub calls: u64,
}

impl Grant {
    /// Whether this grant speaks of this principal and tool at all.
    #[must_use]
    pub fn concerns(&self, principal: &Principal, tool: &ToolRef) -> bool {
        let terms = &self.terms;
        let delegator = principal.delegator.as_ref();
        terms.tenant == principal.tenant
            && delegator.is_some_and(|d| d.issuer == terms.issuer && d.subject == terms.subject)
            && terms.agent == principal.agent
            && terms.server == tool.server
            && terms.tools.iter().any(|name| *name == tool.tool || &**name == "*")
    }

    /// Checks all that does not need the ledger's current sums.
    ///
    /// # Errors
    /// The code of the first limit that the call would break.
    pub fn covers(&self, quote: &Quote, intent: Intent, now: UnixMs) -> Result<(), Code> {
        let terms = &self.terms;
        match self.status {
            GrantStatus::Active => {}
            GrantStatus::Suspended => return Err(Code::GrantSuspended),
            GrantStatus::Revoked => return Err(Code::GrantRevoked),
        }
        if now < terms.not_before || now >= terms.expires_at {
            return Err(Code::GrantExpired);
        }
        if !terms.intents.contains(&intent) {
            return Err(Code::IntentNotGranted);
        }
        if quote.micros() > terms.per_call {
            return Err(Code::OverPerCallCap);
        }
        self.leaves_room(quote.micros())
    }

    /// Checks total and number of calls.
    ///
    /// # Errors
    /// [`Code::GrantExhausted`].
    pub fn leaves_room(&self, amount: Micros) -> Result<(), Code> {
        let used = self.used.plus(amount).ok_or(Code::GrantExhausted)?;
        let over_total = self.terms.total.is_some_and(|total| used > total);
        let over_calls = self.terms.max_calls.is_some_and(|max| self.calls >= max);
        if over_total || over_calls { Err(Code::GrantExhausted) } else { Ok(()) }
    }
}
