//! How the gateway stands, and the newest of its log.

use super::{
    actor::{Actor, Need},
    ask::Asked,
    denied::Denied,
    form::{Health, HeldStatus, IssuerStatus, NodeStatus, Status, Tail},
    read,
};
use crate::{
    gate::Gate,
    prove::{identity::IssuerReport, lightning::L402Rail},
    rails::lightning::Sight,
};
use axum::{Extension, Json, extract::State};
use countersign_core::{
    approval::ApprovalStatus,
    audit::record::{Record, Subject},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::sync::Arc;

/// Records in one answer.
const RECORDS_MAX: u64 = 1000;
/// The highest index that is asked for: the largest whole number that all of JSON's readers know.
const INDEX_MAX: u64 = (1 << 53) - 1;

/// Whether calls can be taken.
pub(super) async fn health(State(gate): State<Arc<Gate>>) -> Result<Json<Health>, Denied> {
    tokio::select! {
        biased;
        _why = gate.store.poisoned() => Err(Refusal::new(Code::StoreFault).into()),
        () = std::future::ready(()) => Ok(Json(Health::ok())),
    }
}

/// How the gateway stands.
pub(super) async fn status(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Status>, Denied> {
    actor.may(Need::See)?;
    Ok(Json(standing(&gate)))
}

/// How the gateway stands.
pub(crate) fn standing(gate: &Gate) -> Status {
    let config = &gate.config;
    let pending = gate.store.approvals().into_iter();
    let pending = pending.filter(|approval| approval.status == ApprovalStatus::Pending);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sandbox: config.sandbox,
        listen: config.listen.to_string(),
        public_url: config.public_url.to_string(),
        log_key: gate.signer.verifier().to_string(),
        records: gate.store.log_size(),
        published: gate.store.published_size(),
        policy: gate.policy.engine().bundle_digest().to_hex(),
        issuers: gate.verifier.report().into_iter().map(issuer).collect(),
        approvals_pending: pending.count(),
        in_doubt: gate.store.in_doubt().len(),
        refunds_due: gate.store.refunds_due().len(),
        nodes: nodes(gate),
        held: held(gate),
    }
}

fn nodes(gate: &Gate) -> Vec<NodeStatus> {
    let Some(rail) = &gate.rails.l402 else { return Vec::new() };
    let now = gate.world.now();
    let status = |(name, sight): (Arc<str>, Option<Sight>)| {
        let balances = sight.and_then(|sight| sight.balances.ok());
        let figures = rail.takings.figures(&name, now);
        NodeStatus {
            name: name.to_string(),
            seen_at: sight.map(|sight| sight.at.rfc3339()),
            inbound_msat: balances.map(|balances| balances.inbound_msat),
            outbound_msat: balances.map(|balances| balances.outbound_msat),
            problem: sight.and_then(|s| s.balances.err()).map(|error| error.to_string()),
            invoices_ready: rail.nodes.ready(&name),
            invoices_shown: figures.shown,
            invoices_paid: figures.paid,
            success_percent: figures.success_percent,
            p50_ms: figures.p50_ms,
            p99_ms: figures.p99_ms,
            alerts: rail.alarms.standing(&name).iter().map(|a| a.text().to_owned()).collect(),
        }
    };
    rail.nodes.sights().into_iter().map(status).collect()
}

fn held(gate: &Gate) -> HeldStatus {
    let holding = gate.rails.l402.as_ref().map(L402Rail::holding);
    holding.map_or_else(HeldStatus::default, |(calls, msat)| HeldStatus { calls, msat })
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
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stretch {
    /// The index of the first; `next` of the stretch before.
    #[schemars(range(max = INDEX_MAX))]
    from: Option<u64>,
    /// The most records.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u64>,
}

/// A stretch of the log.
pub(super) async fn tail(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Asked(stretch): Asked<Stretch>,
) -> Result<Json<Tail>, Denied> {
    actor.may(Need::See)?;
    let limit = stretch.limit.unwrap_or(20);
    if !(1..=RECORDS_MAX).contains(&limit) {
        return Err(Denied::invalid("limit", "expected 1 to 1000"));
    }
    if stretch.from.is_some_and(|from| from > INDEX_MAX) {
        return Err(Denied::invalid("from", "no log is that long"));
    }
    let size = gate.store.log_size();
    let from = stretch.from.unwrap_or_else(|| size.saturating_sub(limit));
    let found = read(&gate, move |gate| gate.store.tail(from, limit)).await?;
    let next = found.last().map_or(from, |record| record.seq.saturating_add(1));
    let found = found.into_iter().filter(|record| may_read(&actor, &record.leaf));
    let records = found.map(|record| raw(record.leaf)).collect::<Result<_, _>>()?;
    Ok(Json(Tail { size, published: gate.store.published_size(), next, records }))
}

/// Whether a record is about the actor's tenant. Those about the whole deployment are for the
/// socket's users.
pub(crate) fn may_read(actor: &Actor, leaf: &[u8]) -> bool {
    if actor.is_local() {
        return true;
    }
    let record: Option<Value> = serde_json::from_slice(leaf).ok();
    let tenant = record.as_ref().and_then(|record| record.get("tenant")?.as_str());
    tenant.is_some_and(|tenant| actor.sees(tenant))
}

/// The same of a record that was read.
pub(crate) fn concerns(actor: &Actor, record: &Record) -> bool {
    let tenant = match &record.draft.subject {
        Subject::Call(call) => &call.tenant,
        Subject::Tenant(tenant) => tenant,
        Subject::Deployment => return actor.is_local(),
    };
    actor.sees(tenant)
}

/// A leaf as the JSON that it is.
pub(super) fn raw(leaf: Vec<u8>) -> Result<Box<RawValue>, Denied> {
    let text = String::from_utf8(leaf).ok();
    let raw = text.and_then(|text| RawValue::from_string(text).ok());
    raw.ok_or_else(|| Refusal::new(Code::InternalFault).into())
}
