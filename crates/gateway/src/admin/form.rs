//! The forms that the admin API speaks, for both of its ends. Money, spans and moments are text as
//! people write them.

use countersign_core::{
    grant::{Grant, GrantStatus, WindowLimit},
    ids::{ApprovalId, CallId, GrantId, QuoteId},
    ledger::CallState,
    policy::Intent,
    quote::Rail,
    time::UnixMs,
};
use countersign_store::{Approval, ApprovalStatus};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// A list under its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Items<T> {
    /// What there is.
    pub items: Vec<T>,
}

/// How the gateway stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Money is play money.
    pub sandbox: bool,
    /// Address of the public listener.
    pub listen: String,
    /// How clients reach it.
    pub public_url: String,
    /// The log's public key.
    pub log_key: String,
    /// Records in the log.
    pub records: u64,
    /// Records under its last checkpoint.
    pub published: u64,
    /// Digest of the policy bundle.
    pub policy: String,
    /// Issuers and their keys.
    pub issuers: Vec<IssuerStatus>,
    /// Approvals that wait for a person.
    pub approvals_pending: usize,
    /// Calls of which nobody knows the outcome.
    pub in_doubt: usize,
    /// Calls whose money is owed back.
    pub refunds_due: usize,
}

/// How an issuer's keys stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuerStatus {
    /// `iss`.
    pub issuer: String,
    /// Usable keys; none are fetched before the first token comes.
    pub keys: usize,
    /// When they were fetched.
    pub fetched_at: Option<String>,
    /// Why the last fetch failed.
    pub problem: Option<String>,
}

/// A grant to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Tenant; the configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Delegator's issuer.
    pub issuer: String,
    /// Delegator's subject.
    pub subject: String,
    /// Agent.
    pub agent: String,
    /// Server.
    pub server: String,
    /// Tools; `*` is every tool, now and later.
    pub tools: Vec<String>,
    /// Intents.
    pub intents: Vec<Intent>,
    /// The most one call may cost: `0.05 USD`.
    pub per_call: String,
    /// The most all calls may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Rolling limits: `1 USD/24h`.
    #[serde(default)]
    pub windows: Vec<String>,
    /// The most calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<u64>,
    /// How long it lasts: `24h`, at most `30d`.
    pub expires: String,
    /// What for.
    #[serde(default)]
    pub purpose: String,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Identifier.
    pub id: GrantId,
    /// Grows with each change.
    pub version: u32,
    /// Where it stands.
    pub status: GrantStatus,
    /// Its time is over.
    pub is_expired: bool,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Delegator's issuer.
    pub issuer: Arc<str>,
    /// Delegator's subject.
    pub subject: Arc<str>,
    /// Agent.
    pub agent: Arc<str>,
    /// Server.
    pub server: Arc<str>,
    /// Tools.
    pub tools: Vec<Arc<str>>,
    /// Intents.
    pub intents: Vec<Intent>,
    /// The most one call may cost.
    pub per_call: String,
    /// The most all calls may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Rolling limits.
    pub windows: Vec<String>,
    /// The most calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<u64>,
    /// What for.
    pub purpose: String,
    /// From when.
    pub not_before: String,
    /// Until when.
    pub expires_at: String,
    /// Who approved.
    pub approved_by: String,
    /// When.
    pub approved_at: String,
    /// Spent and held.
    pub used: String,
    /// Calls so far.
    pub calls: u64,
}

impl GrantView {
    /// A grant as it is at `now`.
    #[must_use]
    pub fn of(grant: &Grant, now: UnixMs) -> Self {
        let terms = &grant.terms;
        Self {
            id: grant.id,
            version: grant.version,
            status: grant.status,
            is_expired: now >= terms.expires_at,
            tenant: Arc::clone(&terms.tenant),
            issuer: Arc::clone(&terms.issuer),
            subject: Arc::clone(&terms.subject),
            agent: Arc::clone(&terms.agent),
            server: Arc::clone(&terms.server),
            tools: terms.tools.clone(),
            intents: terms.intents.clone(),
            per_call: terms.per_call.to_string(),
            total: terms.total.map(|total| total.to_string()),
            windows: terms.windows.iter().map(show_window).collect(),
            max_calls: terms.max_calls,
            purpose: terms.purpose.clone(),
            not_before: terms.not_before.rfc3339(),
            expires_at: terms.expires_at.rfc3339(),
            approved_by: grant.approved_by.clone(),
            approved_at: grant.approved_at.rfc3339(),
            used: grant.used.to_string(),
            calls: grant.calls,
        }
    }
}

/// A new grant with its portable copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantMade {
    /// The grant.
    pub grant: GrantView,
    /// The same, signed by the gateway: a compact JWS of type `consent-grant+jwt`.
    pub receipt: String,
}

/// A request that a person approve one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApprovalView {
    /// Identifier.
    pub id: ApprovalId,
    /// Where it stands.
    pub status: ApprovalStatus,
    /// Tenant.
    pub tenant: Arc<str>,
    /// For whom.
    pub delegator: Arc<str>,
    /// Who asks.
    pub agent: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// What it does.
    pub intent: Intent,
    /// What it costs.
    pub price: String,
    /// Digest of the very call.
    pub call_digest: String,
    /// When it was asked for.
    pub requested_at: String,
    /// When it ends.
    pub expires_at: String,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
}

impl From<Approval> for ApprovalView {
    fn from(approval: Approval) -> Self {
        Self {
            id: approval.id,
            status: approval.status,
            tenant: approval.tenant,
            delegator: approval.delegator,
            agent: approval.agent,
            tool: approval.tool,
            intent: approval.intent,
            price: approval.price,
            call_digest: approval.call_digest.to_hex(),
            requested_at: approval.requested_at.rfc3339(),
            expires_at: approval.expires_at.rfc3339(),
            approver: approval.approver,
            reason: approval.reason,
            decided_at: approval.decided_at.map(UnixMs::rfc3339),
        }
    }
}

/// A person's no, or yes, with what they have to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// What they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BalanceView {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Account.
    pub account: String,
    /// Credits less debits.
    pub posted: String,
    /// Credits that are pending.
    pub pending_in: String,
    /// Debits that are pending.
    pub pending_out: String,
}

/// One budget as it concerns somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts: `each delegator`, `tool weather/get_forecast`.
    pub scope: String,
    /// The most.
    pub limit: String,
    /// Within which span.
    pub window: String,
    /// What is left; absent until `needs` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,
    /// What must be named to tell what is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// A call of which nobody knows the outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoubtView {
    /// The call.
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// What was taken or is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Whether the money was taken.
    pub is_settled: bool,
    /// What the operator's terms say.
    pub rule: Rule,
}

/// What becomes of the money of a call in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is owed back.
    Refund,
    /// It is kept.
    Capture,
}

/// An end to a doubt.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// Which.
    pub rule: Rule,
}

/// Where a call stands now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The call.
    pub call: CallId,
    /// Its state.
    pub state: CallState,
}

/// Money that is owed back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DueView {
    /// The call.
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<Rail>,
    /// How much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Who paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// The rail's reference of what was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<String>,
}

/// Money that went back outside of the gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaidBack {
    /// The rail's reference of the payment.
    pub reference: String,
}

/// A call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallLine {
    /// The call.
    pub call: CallId,
    /// Where it stands.
    pub state: CallState,
    /// When it came.
    pub opened_at: String,
    /// When it changed last.
    pub changed_at: String,
    /// Its digest.
    pub call_digest: String,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Pseudonym of the delegator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegator: Option<String>,
    /// Agent.
    pub agent: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// Grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// Rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<Rail>,
    /// What was or is to be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Held or spent, in the reference currency.
    pub counted: String,
    /// The rail's reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<String>,
    /// Code of the refusal or of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Indices of its records in the log.
    pub records: Vec<u64>,
}

/// A call with its records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallFull {
    /// The call.
    pub call: CallLine,
    /// Its records, in log order.
    pub log: Vec<Box<RawValue>>,
}

/// A quote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuoteView {
    /// Identifier.
    pub id: QuoteId,
    /// The call.
    pub call_digest: String,
    /// Its own digest.
    pub digest: String,
    /// When it was made.
    pub issued_at: String,
    /// When it ends.
    pub expires_at: String,
    /// The ways to pay; none is free.
    pub offers: Vec<OfferView>,
}

/// A way to pay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfferView {
    /// The rail.
    pub rail: Rail,
    /// Exactly this.
    pub amount: String,
    /// To whom.
    pub payee: String,
    /// Its reference value.
    pub counted: String,
}

/// A stretch of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tail {
    /// Records in the log.
    pub size: u64,
    /// Records under its last checkpoint.
    pub published: u64,
    /// The index to ask for next.
    pub next: u64,
    /// The records, as they lie in the log.
    pub records: Vec<Box<RawValue>>,
}

/// A credential that was ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// SHA-256 of its identifier.
    pub credential: String,
}

/// `1 USD/24h`.
pub(super) fn show_window(window: &WindowLimit) -> String {
    format!("{}/{}", window.limit, show_span(window.length_ms))
}

/// Units of spans, the longest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A span in the longest unit that needs no fraction, below two days in hours.
pub(super) fn show_span(ms: u64) -> String {
    let fits = |(unit, length): &&(&str, u64)| {
        ms.is_multiple_of(*length) && ms >= *length && !(*unit == "d" && ms < 2 * length)
    };
    let (unit, length) = UNITS.iter().find(fits).unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / length)
}

/// A span as people write it: a whole number and a unit.
pub(super) fn parse_span(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_they_are_shown() {
        for text in ["500ms", "30s", "15m", "24h", "7d", "36h"] {
            assert_eq!(show_span(parse_span(text).unwrap()), text);
        }
        for text in ["", "5", "h", "1.5h", "-1h", " 1h", "1 h", "1w", "99999999999999999999d"] {
            assert_eq!(parse_span(text), None, "{text}");
        }
    }

    #[test]
    fn requests_are_read_strictly() {
        let good = r#"{"issuer":"i","subject":"s","agent":"a","server":"w","tools":["t"],
            "intents":["read"],"per_call":"1 USD","expires":"1h"}"#;
        assert!(serde_json::from_str::<GrantRequest>(good).is_ok());
        let unknown = good.replacen('{', r#"{"approved_by":"me","#, 1);
        assert!(serde_json::from_str::<GrantRequest>(&unknown).is_err());
        let intent = good.replace("read", "everything");
        assert!(serde_json::from_str::<GrantRequest>(&intent).is_err());
    }
}
