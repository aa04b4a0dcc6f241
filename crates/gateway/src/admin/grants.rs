//! Grants: made, listed and ended by people.

use super::{
    ask::{Asked, Named, Sent},
    denied::Denied,
    form::{GrantMade, GrantRequest, GrantView, Items, parse_span},
    peer::Approver,
    receipt,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State, http::StatusCode};
use countersign_core::{
    grant::{Grant, GrantStatus, GrantTerms, WindowLimit},
    ids::GrantId,
    money::{Micros, parse_micros},
    policy::Intent,
};
use countersign_store::NewGrant;
use serde::Deserialize;
use std::sync::Arc;

/// The longest name in a grant, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// The longest purpose, in bytes.
const PURPOSE_BYTES_MAX: usize = 1024;
/// Most tools or windows of one grant.
const LIST_MAX: usize = 64;

/// Which grants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    agent: Option<String>,
    server: Option<String>,
    status: Option<GrantStatus>,
}

/// Makes a grant.
pub(super) async fn create(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Sent(request): Sent<GrantRequest>,
) -> Result<(StatusCode, Json<GrantMade>), Denied> {
    let terms = terms(&gate, request)?;
    let now = gate.world.now();
    let id = GrantId::new(now, gate.world.random());
    let approved_by = approver.text().to_owned();
    let grant = gate.store.grant_create(NewGrant { id, terms, approved_by }).await?;
    let made = GrantMade {
        grant: GrantView::of(&grant, now),
        receipt: receipt::sign(&grant, &gate.signer, now)?,
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lists grants, the newest first.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Asked(filter): Asked<Filter>,
) -> Json<Items<GrantView>> {
    let now = gate.world.now();
    let fits = |grant: &&Arc<Grant>| {
        let terms = &grant.terms;
        filter.agent.as_deref().is_none_or(|agent| agent == &*terms.agent)
            && filter.server.as_deref().is_none_or(|server| server == &*terms.server)
            && filter.status.is_none_or(|status| status == grant.status)
    };
    let all = gate.store.grants();
    Json(Items { items: all.iter().filter(fits).map(|g| GrantView::of(g, now)).collect() })
}

/// Shows one.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Named(id): Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    let grant = gate.store.grant(id).ok_or(Denied::NotFound("grant"))?;
    Ok(Json(GrantView::of(&grant, gate.world.now())))
}

/// Ends one for good.
pub(super) async fn revoke(
    gate: State<Arc<Gate>>,
    approver: Extension<Approver>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, approver, id, GrantStatus::Revoked).await
}

/// Pauses one.
pub(super) async fn suspend(
    gate: State<Arc<Gate>>,
    approver: Extension<Approver>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, approver, id, GrantStatus::Suspended).await
}

/// Takes one up again that was paused.
pub(super) async fn resume(
    gate: State<Arc<Gate>>,
    approver: Extension<Approver>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, approver, id, GrantStatus::Active).await
}

async fn change(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Named(id): Named<GrantId>,
    status: GrantStatus,
) -> Result<Json<GrantView>, Denied> {
    if gate.store.grant(id).is_none() {
        return Err(Denied::NotFound("grant"));
    }
    let grant = gate.store.grant_status(id, status, approver.text()).await?;
    Ok(Json(GrantView::of(&grant, gate.world.now())))
}

/// What was asked for, as terms. A grant that could cover nothing is refused.
fn terms(gate: &Gate, request: GrantRequest) -> Result<GrantTerms, Denied> {
    let tenant = request.tenant.unwrap_or_else(|| gate.config.tenant.to_string());
    let names = [
        ("tenant", &tenant),
        ("issuer", &request.issuer),
        ("subject", &request.subject),
        ("agent", &request.agent),
    ];
    for (member, name) in names {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Denied::invalid(member, "expected 1 to 512 bytes"));
        }
    }
    if request.purpose.len() > PURPOSE_BYTES_MAX {
        return Err(Denied::invalid("purpose", "at most 1024 bytes"));
    }
    check_tools(gate, &request.server, &request.tools)?;
    let intents = intents(request.intents)?;
    if request.windows.len() > LIST_MAX {
        return Err(Denied::invalid("windows", "at most 64"));
    }
    let windows = request.windows.iter().map(|text| window(gate, text)).collect::<Result<_, _>>();
    let total = request.total.map(|text| money(gate, "total", &text)).transpose()?;
    let life_ms = parse_span(&request.expires)
        .filter(|ms| (1..=GrantTerms::LONGEST_MS).contains(ms))
        .ok_or_else(|| {
            Denied::invalid("expires", "expected a span such as `24h`, at most `30d`")
        })?;
    let not_before = gate.world.now();
    Ok(GrantTerms {
        tenant: tenant.into(),
        issuer: request.issuer.into(),
        subject: request.subject.into(),
        agent: request.agent.into(),
        server: request.server.into(),
        tools: request.tools.into_iter().map(Arc::from).collect(),
        intents,
        per_call: money(gate, "per_call", &request.per_call)?,
        windows: windows?,
        total,
        max_calls: request.max_calls,
        purpose: request.purpose,
        not_before,
        expires_at: not_before.plus_ms(life_ms),
    })
}

/// The server is configured and offers each tool.
fn check_tools(gate: &Gate, server: &str, tools: &[String]) -> Result<(), Denied> {
    let Some(server) = gate.server(server) else {
        let known: Vec<&str> = gate.config.servers.keys().map(|name| &**name).collect();
        let reason = format!("not configured; there is: {}", known.join(", "));
        return Err(Denied::invalid("server", reason));
    };
    if tools.is_empty() || tools.len() > LIST_MAX {
        return Err(Denied::invalid("tools", "expected 1 to 64 names, or `*`"));
    }
    match tools.iter().find(|tool| *tool != "*" && server.terms(tool).is_none()) {
        Some(unknown) => {
            let reason = format!("`{unknown}` is not offered by `{}`", server.name);
            Err(Denied::invalid("tools", reason))
        }
        None => Ok(()),
    }
}

fn intents(mut intents: Vec<Intent>) -> Result<Vec<Intent>, Denied> {
    intents.sort_unstable();
    intents.dedup();
    if intents.is_empty() {
        return Err(Denied::invalid("intents", "expected at least one, such as `read`"));
    }
    Ok(intents)
}

/// Money in the reference currency, or in an asset at its configured rate.
fn money(gate: &Gate, member: &'static str, text: &str) -> Result<Micros, Denied> {
    let in_asset = || {
        let assets = &gate.config.assets;
        assets.parse(text).ok().and_then(|amount| assets.micros(&amount))
    };
    // As in the configuration: money has a unit.
    let in_reference = parse_micros(text).ok().filter(|_| text.contains(' '));
    let parsed = in_reference.or_else(in_asset);
    parsed.ok_or_else(|| Denied::invalid(member, "expected an amount such as `0.05 USD`"))
}

fn window(gate: &Gate, text: &str) -> Result<WindowLimit, Denied> {
    let parts = text.split_once('/').and_then(|(limit, length)| {
        let length_ms = parse_span(length).filter(|ms| (1..=GrantTerms::LONGEST_MS).contains(ms));
        Some((limit, length_ms?))
    });
    let (limit, length_ms) =
        parts.ok_or_else(|| Denied::invalid("windows", "expected a limit such as `1 USD/24h`"))?;
    Ok(WindowLimit { length_ms, limit: money(gate, "windows", limit)? })
}
