//! The forms of requests for approval, and of people's answers.

use super::{SPAN, WINDOW, show_window};
use crate::admin::{
    object::{nullable, object},
    schema::{BoundsForm, Hex, Id, Money, Word},
};
use countersign_core::{
    approval::{Approval, ApprovalStatus, AskKind},
    grant::{Bounds, GrantTerms},
    ids::{ApprovalId, GrantId},
    policy::{Intent, Point, Risk},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

/// A request that people approve one call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    /// Identifier.
    #[schemars(with = "Id<ApprovalId>")]
    pub id: ApprovalId,
    /// Where it stands.
    #[schemars(with = "Word<ApprovalStatus>")]
    pub status: ApprovalStatus,
    /// `confirm`: a person is wanted besides the grant; `consent`: no grant covers the call.
    #[schemars(with = "Word<AskKind>")]
    pub kind: AskKind,
    /// Tenant.
    pub tenant: Arc<str>,
    /// For whom: `iss|sub`.
    pub delegator: String,
    /// Who asks.
    pub agent: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// What it does.
    #[schemars(with = "Word<Intent>")]
    pub intent: Intent,
    /// What the agent says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Arc<str>>,
    /// What it costs.
    pub price: String,
    /// Who would be paid.
    pub payees: Vec<String>,
    /// The arguments, as canonical JSON; the first 16 KiB of long ones.
    pub arguments: Arc<str>,
    /// Members of the arguments that differ from those of the last call that was agreed to, as JSON
    /// pointers; absent when there is none to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
    /// Why it is asked: codes of refusals and of policy.
    pub reasons: Vec<String>,
    /// How risky policy found the call when it was asked about; an answer is not bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskView>,
    /// How many distinct people must agree.
    pub needed: u8,
    /// Roles of which they must have one; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Arc<str>>,
    /// Who agreed so far.
    pub agreed: Vec<String>,
    /// The grant that they would make of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
    /// The grant that was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Id<GrantId>>")]
    pub grant: Option<GrantId>,
    /// Digest of the very call.
    pub call_digest: String,
    /// Digest of all that is shown: an answer is bound to it.
    pub content: String,
    /// When it was asked for.
    pub requested_at: String,
    /// When it ends.
    pub expires_at: String,
    /// Who answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<String>,
}

impl ApprovalView {
    /// An approval, beside the one that was agreed to before it.
    #[must_use]
    pub fn of(approval: &Approval, before: Option<&Approval>) -> Self {
        let (ask, last) = (&approval.ask, approval.last());
        Self {
            id: approval.id,
            status: approval.status,
            kind: ask.kind,
            tenant: Arc::clone(&ask.tenant),
            delegator: format!("{}|{}", ask.issuer, ask.subject),
            agent: Arc::clone(&ask.agent),
            tool: format!("{}/{}", ask.server, ask.tool),
            intent: ask.intent,
            purpose: ask.purpose.clone(),
            price: ask.price.clone(),
            payees: ask.payees.clone(),
            arguments: Arc::clone(&approval.arguments),
            changed: before.map(|before| changed(&before.arguments, &approval.arguments)),
            reasons: approval.reasons.clone(),
            risk: approval.risk.as_ref().map(RiskView::of),
            needed: ask.quorum.needed,
            roles: ask.quorum.roles.clone(),
            agreed: approval.yes.iter().map(|given| given.by.to_string()).collect(),
            proposal: approval.proposal.as_ref().map(Proposal::of),
            grant: approval.grant,
            call_digest: ask.call_digest.to_hex(),
            content: approval.content.to_hex(),
            requested_at: approval.requested_at.rfc3339(),
            expires_at: approval.expires_at.rfc3339(),
            approver: last.map(|given| given.by.to_string()),
            reason: last.and_then(|given| given.reason.clone()),
            decided_at: last.map(|given| given.at.rfc3339()),
        }
    }
}

/// A call's risk, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RiskView {
    /// 0 to 100.
    #[schemars(range(max = 100))]
    pub score: u8,
    /// The bundle's word for it.
    pub band: Arc<str>,
    /// What raised it, the heaviest first.
    pub points: Vec<PointView>,
}

/// One thing that raises a call's risk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PointView {
    /// Its code, as in the decision's record.
    pub code: String,
    /// Its points, before the cap of its group.
    pub points: u8,
    /// The same in words.
    pub says: String,
}

impl RiskView {
    /// A risk, in words too.
    #[must_use]
    pub fn of(risk: &Risk) -> Self {
        let view = |point: &Point| PointView {
            code: point.code.code().to_owned(),
            points: point.points,
            says: point.code.sentence().to_owned(),
        };
        let mut points: Vec<PointView> = risk.points.iter().map(view).collect();
        points.sort_by_key(|point| std::cmp::Reverse(point.points));
        Self { score: risk.score, band: Arc::clone(&risk.band), points }
    }
}

/// Members that differ between two objects of arguments, as JSON pointers.
fn changed(before: &str, now: &str) -> Vec<String> {
    let read = |text: &str| serde_json::from_str::<serde_json::Map<String, Value>>(text);
    let (Ok(before), Ok(now)) = (read(before), read(now)) else { return vec![String::new()] };
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differs = |name: &&String| before.get(*name) != now.get(*name);
    let pointer = |name: &String| format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    names.into_iter().filter(differs).map(pointer).collect()
}

/// The limits of a grant that is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Proposal {
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
    /// Until when.
    pub expires_at: String,
}

impl Proposal {
    fn of(terms: &GrantTerms) -> Self {
        Self {
            tools: terms.tools.clone(),
            intents: terms.intents.clone(),
            per_call: terms.per_call.to_string(),
            total: terms.total.map(|total| total.to_string()),
            windows: terms.windows.iter().map(show_window).collect(),
            max_calls: terms.max_calls,
            expires_at: terms.expires_at.rfc3339(),
        }
    }
}

/// A person's answer: no, or yes, with what they have to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// What they say; the agent is told why it was denied.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The content that they were shown, if the answer shall count for nothing else.
    #[schemars(with = "Option<Hex>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Yes from now on, within these limits, instead of this once.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    pub grant: Option<Caps>,
}

/// Limits of a grant for whoever asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// The most one call may cost; this call's price when absent.
    #[schemars(with = "Option<Money>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_call: Option<String>,
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

/// A person who may no longer answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The issuer that knows them; none for a user of the admin socket.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `sub`, or the user (`os:1000:ada`).
    #[schemars(length(min = 1, max = 512))]
    pub subject: String,
}

/// What became of their answers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Withdrawn {
    /// Approvals that rested on them and wait again.
    pub approvals: usize,
}

/// A person whose answers count no more.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WithdrawnView {
    /// The issuer that knows them; none for a user of the admin socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Arc<str>>,
    /// `sub`, or the user.
    pub subject: Arc<str>,
    /// Since when.
    pub at: String,
}
