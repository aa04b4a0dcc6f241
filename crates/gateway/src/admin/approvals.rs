//! Approvals: people's answers to one very call.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{ApprovalView, Caps, GrantRequest, Items, Person, Reply, Withdrawn, WithdrawnView},
    grants::{self, NAME_BYTES_MAX},
    page::{Listed, Order, Unfiltered},
    read,
    schema::Word,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State};
use countersign_core::{
    approval::{Approval, ApprovalStatus, Approver},
    digest::Digest,
    grant::GrantTerms,
    ids::ApprovalId,
    refusal::{Code, Refusal},
};
use countersign_store::{Answer, Verdict};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Which approvals.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Those that stand so.
    #[schemars(with = "Option<Word<ApprovalStatus>>")]
    status: Option<ApprovalStatus>,
}

/// Lists those that are open or ended a short while ago, the newest first.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Result<Json<Items<ApprovalView>>, Denied> {
    let all = gate.store.approvals().into_iter().filter(|a| actor.may_see(a));
    let wanted = all.filter(|a| filter.status.is_none_or(|status| status == a.status));
    let keyed = wanted.map(|approval| (approval.id.to_string(), approval));
    let Items { items, next } = page.cut(Order::Falling, keyed, |approval| approval);
    let views = read(&gate, move |gate| items.iter().map(|a| view(gate, a)).collect()).await?;
    Ok(Json(Items { items: views, next }))
}

/// Shows one.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<ApprovalId>,
) -> Result<Json<ApprovalView>, Denied> {
    let approval = gate.store.approval(id).filter(|approval| actor.may_see(approval));
    let approval = approval.ok_or(Denied::not_found("approval"))?;
    Ok(Json(read(&gate, move |gate| view(gate, &approval)).await?))
}

/// Says yes to one: this once, or by a grant.
pub(super) async fn approve(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<ApprovalId>,
    Sent(reply): Sent<Reply>,
) -> Result<Json<ApprovalView>, Denied> {
    let answered = answer(&gate, id, &actor, reply, Said::Yes).await?;
    Ok(Json(read(&gate, move |gate| view(gate, &answered)).await?))
}

/// Says no to one.
pub(super) async fn deny(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<ApprovalId>,
    Sent(reply): Sent<Reply>,
) -> Result<Json<ApprovalView>, Denied> {
    let answered = answer(&gate, id, &actor, reply, Said::No).await?;
    Ok(Json(read(&gate, move |gate| view(gate, &answered)).await?))
}

/// Takes no more answers of a person, and voids those that were not used.
pub(super) async fn withdraw(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(person): Sent<Person>,
) -> Result<Json<Withdrawn>, Denied> {
    let who = approver(&actor, person)?;
    let approvals = gate.store.approver_withdraw(who, &actor.approver()).await?;
    Ok(Json(Withdrawn { approvals }))
}

/// Takes the answers of a person again.
pub(super) async fn reinstate(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(person): Sent<Person>,
) -> Result<Json<Person>, Denied> {
    let who = approver(&actor, person.clone())?;
    if !gate.store.approver_reinstate(who, &actor.approver()).await? {
        return Err(Denied::not_found("withdrawn approver"));
    }
    Ok(Json(person))
}

/// Lists those whose answers count no more, by issuer and subject.
pub(super) async fn withdrawn(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<WithdrawnView>>, Denied> {
    of_any_tenant(&actor)?;
    let all = gate.store.approvers_withdrawn().into_iter();
    let keyed = all.map(|withdrawn| (withdrawn.who.to_string(), withdrawn));
    Ok(Json(page.cut(Order::Rising, keyed, |withdrawn| WithdrawnView {
        issuer: withdrawn.who.issuer,
        subject: withdrawn.who.subject,
        at: withdrawn.at.rfc3339(),
    })))
}

fn approver(actor: &Actor, person: Person) -> Result<Approver, Denied> {
    of_any_tenant(actor)?;
    let names = [("issuer", person.issuer.as_ref()), ("subject", Some(&person.subject))];
    for (member, name) in names {
        if name.is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(Denied::invalid(member, "expected 1 to 512 bytes"));
        }
    }
    let Person { issuer, subject } = person;
    Ok(Approver { issuer: issuer.map(Arc::from), subject: subject.into(), roles: Vec::new() })
}

/// A person's answers can lie in any tenant.
fn of_any_tenant(actor: &Actor) -> Result<(), Denied> {
    actor.may(Need::Administer)?;
    if actor.is_local() { Ok(()) } else { Err(Denied::not_found("route")) }
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Yes,
    No,
}

/// A verified person's answer. Whether theirs counts is checked with the answer.
///
/// # Errors
/// What is wrong with the answer, or where the approval stands.
pub(crate) async fn answer(
    gate: &Gate,
    id: ApprovalId,
    actor: &Actor,
    reply: Reply,
    said: Said,
) -> Result<Approval, Denied> {
    if reply.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(Denied::invalid("reason", "at most 1024 bytes"));
    }
    let malformed = || Denied::invalid("content", "expected 64 hex characters");
    let content = reply.content.map(|text| Digest::from_hex(&text).map_err(|_| malformed()));
    let found = gate.store.approval(id).ok_or(Denied::not_found("approval"))?;
    actor.may_answer(&found)?;
    match found.status {
        ApprovalStatus::Pending => {}
        ApprovalStatus::Expired | ApprovalStatus::Void => {
            return Err(Refusal::new(Code::ApprovalExpired).into());
        }
        ApprovalStatus::Approved | ApprovalStatus::Denied | ApprovalStatus::Consumed => {
            return Err(Denied::conflict("the approval was answered before"));
        }
    }
    let verdict = match (said, reply.grant) {
        (Said::Yes, None) => Verdict::Approve,
        (Said::Yes, Some(caps)) => Verdict::Grant(Box::new(granted(gate, &found, caps)?)),
        (Said::No, None) => Verdict::Deny,
        (Said::No, Some(_)) => {
            return Err(Denied::invalid("grant", "a denial makes no grant"));
        }
    };
    let answer = Answer {
        by: actor.approver(),
        verdict,
        reason: reply.reason,
        content: content.transpose()?,
    };
    Ok(gate.store.approval_answer(id, answer).await?)
}

/// A grant for whoever asked, for the tool and the intent that they asked for.
fn granted(gate: &Gate, approval: &Approval, caps: Caps) -> Result<GrantTerms, Denied> {
    let ask = &approval.ask;
    let request = GrantRequest {
        tenant: Some(ask.tenant.to_string()),
        issuer: ask.issuer.to_string(),
        subject: ask.subject.to_string(),
        agent: ask.agent.to_string(),
        server: ask.server.to_string(),
        tools: vec![ask.tool.to_string()],
        intents: vec![ask.intent],
        per_call: caps.per_call.unwrap_or_else(|| ask.micros.to_string()),
        total: caps.total,
        windows: caps.windows,
        max_calls: caps.max_calls,
        expires: caps.expires,
        purpose: caps.purpose,
        bounds: caps.bounds,
    };
    grants::terms(gate, request)
}

/// An approval as people see it. Looks at the disk.
pub(crate) fn view(gate: &Gate, approval: &Approval) -> Result<ApprovalView, Refusal> {
    Ok(ApprovalView::of(approval, gate.store.approval_before(approval)?.as_ref()))
}
