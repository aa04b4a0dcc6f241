//! How the gateway stands, and the newest of its log.

use super::{
    ask::Asked,
    denied::Denied,
    form::{IssuerStatus, Status, Tail},
    read,
};
use crate::{gate::Gate, prove::identity::IssuerReport};
use axum::{Json, extract::State};
use countersign_core::{
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::ApprovalStatus;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::sync::Arc;

/// Records in one answer.
const RECORDS_MAX: u64 = 1000;

/// Whether calls can be taken.
pub(super) async fn health(State(gate): State<Arc<Gate>>) -> Result<Json<Value>, Denied> {
    tokio::select! {
        biased;
        _why = gate.store.poisoned() => Err(Refusal::new(Code::StoreFault).into()),
        () = std::future::ready(()) => Ok(Json(json!({ "status": "ok" }))),
    }
}

/// How the gateway stands.
pub(super) async fn status(State(gate): State<Arc<Gate>>) -> Json<Status> {
    let config = &gate.config;
    let pending = gate.store.approvals().into_iter();
    let pending = pending.filter(|approval| approval.status == ApprovalStatus::Pending);
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandbox: config.sandbox,
        listen: config.listen.to_string(),
        public_url: config.public_url.to_string(),
        log_key: gate.signer.verifier().to_string(),
        records: gate.store.log_size(),
        published: gate.store.published_size(),
        policy: gate.policy.bundle_digest().to_hex(),
        issuers: gate.verifier.report().into_iter().map(issuer).collect(),
        approvals_pending: pending.count(),
        in_doubt: gate.store.in_doubt().len(),
        refunds_due: gate.store.refunds_due().len(),
    })
}

fn issuer(report: IssuerReport) -> IssuerStatus {
    IssuerStatus {
        issuer: report.issuer.to_string(),
        keys: report.keys,
        fetched_at: report.fetched_at.map(UnixMs::rfc3339),
        problem: report.problem.map(|problem| problem.to_string()),
    }
}

/// Which records: from an index on, or the last ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stretch {
    from: Option<u64>,
    limit: Option<u64>,
}

/// A stretch of the log.
pub(super) async fn tail(
    State(gate): State<Arc<Gate>>,
    Asked(stretch): Asked<Stretch>,
) -> Result<Json<Tail>, Denied> {
    let limit = stretch.limit.unwrap_or(20).min(RECORDS_MAX);
    let size = gate.store.log_size();
    let from = stretch.from.unwrap_or_else(|| size.saturating_sub(limit));
    let found = read(&gate, move |gate| gate.store.tail(from, limit)).await?;
    let next = found.last().map_or(from, |record| record.seq.saturating_add(1));
    let records = found.into_iter().map(|record| raw(record.leaf)).collect::<Result<_, _>>()?;
    Ok(Json(Tail { size, published: gate.store.published_size(), next, records }))
}

/// A leaf as the JSON that it is.
pub(super) fn raw(leaf: Vec<u8>) -> Result<Box<RawValue>, Denied> {
    let text = String::from_utf8(leaf).ok();
    let raw = text.and_then(|text| RawValue::from_string(text).ok());
    raw.ok_or_else(|| Refusal::new(Code::InternalFault).into())
}
