//! The forms that the admin API speaks, for both of its ends. Money, spans and moments are text as
//! people write them.

mod approvals;
mod money;
mod people;
mod policy;
mod reload;
mod tools;

pub use approvals::{
    ApprovalView, Caps, Person, PointView, Proposal, Reply, RiskView, Withdrawn, WithdrawnView,
};
pub use money::{
    BalanceView, BudgetRequest, BudgetState, BudgetView, CallFull, CallLine, Claimed,
    CredentialState, CredentialView, DoubtView, DueView, FoundOut, OfferView, OpenView, PaidBack,
    QuoteView, Removed, Repayer, Resolution, Revoked, Rule, Standing, UnclaimedView,
};
pub use people::{Jwk, KeyRequest, LinkView, WalletAsk, WalletMessage, WalletProof};
pub use policy::{BundleFiles, ChangeView, GoBack, KeptView, PolicyView, ShadowBundle, ShadowView};
pub use reload::ReloadView;
pub use tools::{RuleView, SetTier, TierView, ToolName, ToolView};

use super::object::object;
use super::schema::{BoundsForm, Id, Money, Word};
use crate::{liquidity::rebalance::Rebalance, rails::lightning::Means};
use countersign_core::{
    grant::{Agreed, Bounds, Grant, GrantStatus, WindowLimit},
    ids::GrantId,
    money::Micros,
    policy::Intent,
    time::UnixMs,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::{collections::BTreeMap, sync::Arc};

/// Money as it is written: a number, a unit of the reference currency or of an asset.
pub(super) const MONEY: &str = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})? [A-Za-z0-9._-]{1,32}$";
/// A span as it is written.
const SPAN: &str = "^[0-9]{1,15}(ms|s|m|h|d)$";
/// A limit within a rolling window, as it is written.
const WINDOW: &str = "^[^/]+ [^/]+/[0-9]{1,15}(ms|s|m|h|d)$";

/// A list, or a page of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct Items<T> {
    /// What there is.
    pub items: Vec<T>,
    /// The cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Whether calls can be taken.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

impl Health {
    /// They can.
    #[must_use]
    pub fn ok() -> Self {
        Self { status: "ok".to_owned() }
    }
}

/// How the gateway stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// Lightning nodes, the preferred one first.
    pub nodes: Vec<NodeStatus>,
    /// Lightning payments that are held for calls that run now.
    pub held: HeldStatus,
}

/// What was last seen of a Lightning node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// When; none before the first look.
    pub seen_at: Option<String>,
    /// The most that it can receive, in millisatoshi.
    pub inbound_msat: Option<u64>,
    /// The most that it can send, in millisatoshi.
    pub outbound_msat: Option<u64>,
    /// Why it gave no answer.
    pub problem: Option<String>,
    /// Invoices that it made ahead.
    pub invoices_ready: usize,
    /// Invoices that were shown since the gateway began.
    pub invoices_shown: u64,
    /// Those of them that were paid.
    pub invoices_paid: u64,
    /// How many of a hundred invoices that ended within an hour were paid.
    pub success_percent: Option<u8>,
    /// From an invoice to its money within an hour: half of them took no longer, in milliseconds.
    pub p50_ms: Option<u64>,
    /// The same for 99 of a hundred.
    pub p99_ms: Option<u64>,
    /// What is wrong with it, by the configured thresholds.
    pub alerts: Vec<String>,
}

/// Lightning payments that are held.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct HeldStatus {
    /// How many.
    pub calls: usize,
    /// How much together, in millisatoshi.
    pub msat: u64,
}

/// How Lightning stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LightningView {
    /// Nodes, the preferred one first.
    pub nodes: Vec<NodeStatus>,
    /// Payments that are held for calls that run now.
    pub held: HeldStatus,
    /// Rebalances, the newest first.
    pub rebalances: Vec<Rebalance>,
}

/// Room to receive that is asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoomAsked {
    /// How it is to be had.
    pub via: Means,
    /// How much, in satoshi.
    #[schemars(range(min = 1))]
    pub amount_sat: u64,
    /// The most that it may cost, in satoshi; what is configured when absent. `lsps2` needs it.
    #[serde(default)]
    pub max_fee_sat: Option<u64>,
}

/// How an issuer's keys stand.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Tenant; the configured one when absent.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Delegator's issuer; a new grant's is a configured one.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// Delegator's subject.
    #[schemars(length(min = 1, max = 512))]
    pub subject: String,
    /// Agent.
    #[schemars(length(min = 1, max = 512))]
    pub agent: String,
    /// Server.
    pub server: String,
    /// Tools; `*` is every tool, now and later.
    #[schemars(length(min = 1, max = 64))]
    pub tools: Vec<String>,
    /// Intents.
    #[schemars(length(min = 1))]
    #[schemars(with = "Vec<Word<Intent>>")]
    pub intents: Vec<Intent>,
    /// The most one call may cost: `0.05 USD`.
    #[schemars(with = "Money")]
    pub per_call: String,
    /// The most all calls may cost.
    #[schemars(with = "Option<Money>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Rolling limits: `1 USD/24h`.
    #[schemars(length(max = 64), inner(regex(pattern = WINDOW)))]
    #[serde(default)]
    pub windows: Vec<String>,
    /// The most calls.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<u64>,
    /// How long it lasts: `24h`, at most `30d`.
    #[schemars(regex(pattern = SPAN))]
    pub expires: String,
    /// What for.
    #[schemars(length(max = 1024))]
    #[serde(default)]
    pub purpose: String,
    /// What narrows it further.
    #[serde(default, deserialize_with = "object")]
    #[schemars(with = "BoundsForm")]
    pub bounds: Bounds,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrantView {
    /// Identifier.
    #[schemars(with = "Id<GrantId>")]
    pub id: GrantId,
    /// Grows with each change.
    pub version: u32,
    /// Where it stands.
    #[schemars(with = "Word<GrantStatus>")]
    pub status: GrantStatus,
    /// Its time is over.
    pub is_expired: bool,
    /// The same with what time and use did: `active`, `suspended`, `revoked`, `expired`,
    /// `exhausted`.
    #[serde(default)]
    pub state: String,
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
    #[schemars(with = "Vec<Word<Intent>>")]
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
    /// Where it comes from: `page`, `rar` (in an access token) or `jws` (signed by the person).
    #[serde(default)]
    pub source: String,
    /// Who approved.
    pub approved_by: String,
    /// When.
    pub approved_at: String,
    /// Spent and held.
    pub used: String,
    /// Calls so far.
    pub calls: u64,
    /// Nothing is left of its total or its calls.
    #[serde(default)]
    pub is_exhausted: bool,
    /// What narrows it further.
    #[serde(default)]
    #[schemars(with = "BoundsForm")]
    pub bounds: Bounds,
    /// How people agreed to it here; absent for one made of evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<AgreedView>,
}

/// How people agreed to a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgreedView {
    /// How many had to.
    pub m: u8,
    /// The roles of those whose answers counted; empty for anybody who may answer.
    pub eligible: Vec<Arc<str>>,
    /// Who did.
    pub got: Vec<String>,
    /// SHA-256 of the content that they were shown.
    pub shown: String,
    /// SHA-256 of the definitions that the named tools had then.
    pub definitions: BTreeMap<String, String>,
}

impl AgreedView {
    fn of(agreed: &Agreed) -> Self {
        let definitions = agreed.definitions.iter();
        Self {
            m: agreed.m,
            eligible: agreed.eligible.clone(),
            got: agreed.got.clone(),
            shown: agreed.shown.to_hex(),
            definitions: definitions.map(|(tool, d)| (tool.to_string(), d.to_hex())).collect(),
        }
    }
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
            state: grant.standing(now).to_owned(),
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
            source: grant.source().to_owned(),
            approved_by: grant.approved_by.clone(),
            approved_at: grant.approved_at.rfc3339(),
            used: grant.used.to_string(),
            calls: grant.calls,
            is_exhausted: grant.leaves_room(Micros(1)).is_err(),
            bounds: terms.bounds.clone(),
            agreed: grant.agreed.as_ref().map(AgreedView::of),
        }
    }
}

/// A new grant with its portable copy.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GrantMade {
    /// The grant.
    pub grant: GrantView,
    /// The same, signed by the gateway: a compact JWS of type `consent-grant+jwt`.
    pub receipt: String,
}

/// A stretch of the log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Tail {
    /// Records in the log.
    pub size: u64,
    /// Records under its last checkpoint.
    pub published: u64,
    /// The index to ask for next.
    pub next: u64,
    /// The records, as they lie in the log.
    #[schemars(with = "Vec<Value>")]
    pub records: Vec<Box<RawValue>>,
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
