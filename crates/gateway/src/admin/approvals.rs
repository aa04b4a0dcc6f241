//! Approvals: a person's answer to one very call.

use super::{
    ask::{Asked, Named, Sent},
    denied::Denied,
    form::{ApprovalView, Items, Reason},
    peer::Approver,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State};
use countersign_core::{
    ids::ApprovalId,
    refusal::{Code, Refusal},
};
use countersign_store::{ApprovalStatus, Verdict};
use serde::Deserialize;
use std::sync::Arc;

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Which approvals.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    status: Option<ApprovalStatus>,
}

/// Lists those that are open or ended a short while ago, the newest first.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Asked(filter): Asked<Filter>,
) -> Json<Items<ApprovalView>> {
    let all = gate.store.approvals().into_iter();
    let wanted = all.filter(|a| filter.status.is_none_or(|status| status == a.status));
    Json(Items { items: wanted.map(ApprovalView::from).collect() })
}

/// Shows one.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Named(id): Named<ApprovalId>,
) -> Result<Json<ApprovalView>, Denied> {
    let approval = gate.store.approval(id).ok_or(Denied::NotFound("approval"))?;
    Ok(Json(approval.into()))
}

/// Says yes to one.
pub(super) async fn approve(
    gate: State<Arc<Gate>>,
    approver: Extension<Approver>,
    id: Named<ApprovalId>,
    reason: Sent<Reason>,
) -> Result<Json<ApprovalView>, Denied> {
    decide(gate, approver, id, reason, Verdict::Approve).await
}

/// Says no to one.
pub(super) async fn deny(
    gate: State<Arc<Gate>>,
    approver: Extension<Approver>,
    id: Named<ApprovalId>,
    reason: Sent<Reason>,
) -> Result<Json<ApprovalView>, Denied> {
    decide(gate, approver, id, reason, Verdict::Deny).await
}

async fn decide(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Named(id): Named<ApprovalId>,
    Sent(Reason { reason }): Sent<Reason>,
    verdict: Verdict,
) -> Result<Json<ApprovalView>, Denied> {
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(Denied::invalid("reason", "at most 1024 bytes"));
    }
    let found = gate.store.approval(id).ok_or(Denied::NotFound("approval"))?;
    match found.status {
        ApprovalStatus::Pending => {}
        ApprovalStatus::Expired => return Err(Refusal::new(Code::ApprovalExpired).into()),
        ApprovalStatus::Approved | ApprovalStatus::Denied | ApprovalStatus::Consumed => {
            return Err(Denied::Conflict("the approval was answered before"));
        }
    }
    let decided = gate.store.approval_decide(id, verdict, approver.text(), reason.as_deref());
    Ok(Json(decided.await?.into()))
}
