//! Grants: made, listed and ended by people.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{GrantMade, GrantRequest, GrantView, Items, parse_span},
    page::{Listed, Order},
    receipt,
    schema::Word,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State, http::StatusCode};
use countersign_core::{
    digest::Digest,
    grant::{Agreed, Bounds, Grant, GrantStatus, GrantTerms, WindowLimit},
    ids::GrantId,
    money::{Micros, parse_micros},
    policy::Intent,
    time::UnixMs,
};
use countersign_store::NewGrant;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// The longest name in a grant, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 512;
/// The longest purpose, in bytes.
const PURPOSE_BYTES_MAX: usize = 1024;
/// How old a grant is that counts as never used, in milliseconds.
const UNUSED_AFTER_MS: u64 = 7 * 24 * 3_600_000;
/// Most tools or windows of one grant.
const LIST_MAX: usize = 64;

/// Which grants.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Those of this agent.
    agent: Option<String>,
    /// Those for this server.
    server: Option<String>,
    /// Those that stand so.
    #[schemars(with = "Option<Word<GrantStatus>>")]
    status: Option<GrantStatus>,
    /// Active ones of a week and more that no call has used.
    #[serde(default)]
    unused: bool,
}

/// What one person agrees to who writes the terms: those, and the tools as they are.
fn agreed(gate: &Gate, terms: &GrantTerms, by: &str) -> Agreed {
    let known = gate.definitions.list().into_iter();
    let named =
        known.filter(|(tool, _)| tool.server == terms.server && terms.tools.contains(&tool.tool));
    Agreed {
        m: 1,
        eligible: Vec::new(),
        got: vec![by.to_owned()],
        shown: Digest::of(&serde_json::to_vec(terms).unwrap_or_default()),
        definitions: named.map(|(tool, known)| (tool.tool, known.pinned.digest)).collect(),
    }
}

/// Makes a grant.
pub(super) async fn create(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(request): Sent<GrantRequest>,
) -> Result<(StatusCode, Json<GrantMade>), Denied> {
    actor.may(Need::Answer)?;
    check_issuer(&gate, &request.issuer)?;
    let terms = terms(&gate, request)?;
    if !actor.sees(&terms.tenant) {
        return Err(Denied::not_found("tenant"));
    }
    let now = gate.world.now();
    let id = GrantId::new(now, gate.world.random());
    let approved_by = actor.text();
    let agreed = Some(agreed(&gate, &terms, &approved_by));
    let new = NewGrant { id, terms, approved_by, brought: None, agreed };
    let grant = gate.store.grant_create(new).await?;
    let made = GrantMade {
        grant: GrantView::of(&grant, now),
        receipt: receipt::sign(&grant, &gate.signer, now)?,
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lists grants, the newest first.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Result<Json<Items<GrantView>>, Denied> {
    actor.may(Need::See)?;
    let now = gate.world.now();
    let fits = |grant: &&Arc<Grant>| {
        let terms = &grant.terms;
        actor.sees(&terms.tenant)
            && filter.agent.as_deref().is_none_or(|agent| agent == &*terms.agent)
            && filter.server.as_deref().is_none_or(|server| server == &*terms.server)
            && filter.status.is_none_or(|status| status == grant.status)
            && (!filter.unused || is_unused(grant, now))
    };
    let all = gate.store.grants();
    let keyed = all.iter().filter(fits).map(|grant| (grant.id.to_string(), grant));
    Ok(Json(page.cut(Order::Falling, keyed, |grant| GrantView::of(grant, now))))
}

/// Whether nobody has used it in a week.
fn is_unused(grant: &Grant, now: UnixMs) -> bool {
    grant.status == GrantStatus::Active
        && grant.calls == 0
        && now.since_ms(grant.approved_at) >= UNUSED_AFTER_MS
}

/// Shows one.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    actor.may(Need::See)?;
    let grant = gate.store.grant(id).filter(|grant| actor.sees(&grant.terms.tenant));
    let grant = grant.ok_or(Denied::not_found("grant"))?;
    Ok(Json(GrantView::of(&grant, gate.world.now())))
}

/// Ends one for good.
pub(super) async fn revoke(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, actor, id, GrantStatus::Revoked).await
}

/// Pauses one.
pub(super) async fn suspend(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, actor, id, GrantStatus::Suspended).await
}

/// Takes one up again that was paused.
pub(super) async fn resume(
    gate: State<Arc<Gate>>,
    actor: Extension<Actor>,
    id: Named<GrantId>,
) -> Result<Json<GrantView>, Denied> {
    change(gate, actor, id, GrantStatus::Active).await
}

async fn change(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<GrantId>,
    status: GrantStatus,
) -> Result<Json<GrantView>, Denied> {
    let grant = set_status(&gate, &actor, id, status).await?;
    Ok(Json(GrantView::of(&grant, gate.world.now())))
}

/// Ends, pauses or takes up again a grant.
///
/// # Errors
/// No such grant in the actor's tenant; a role that is missing; one that was revoked before.
pub(crate) async fn set_status(
    gate: &Gate,
    actor: &Actor,
    id: GrantId,
    status: GrantStatus,
) -> Result<Arc<Grant>, Denied> {
    // Who pauses need not be one who may say yes; who lets it go on must be.
    let need = if status == GrantStatus::Active { Need::Answer } else { Need::Stop };
    actor.may(need)?;
    let found = gate.store.grant(id).filter(|grant| actor.sees(&grant.terms.tenant));
    found.ok_or(Denied::not_found("grant"))?;
    Ok(gate.store.grant_status(id, status, &actor.text()).await?)
}

/// What was asked for, as terms. A grant that could cover nothing is refused.
pub(crate) fn terms(gate: &Gate, request: GrantRequest) -> Result<GrantTerms, Denied> {
    let life_ms = parse_span(&request.expires)
        .filter(|ms| (1..=GrantTerms::LONGEST_MS).contains(ms))
        .ok_or_else(|| {
            Denied::invalid("expires", "expected a span such as `24h`, at most `30d`")
        })?;
    let now = gate.world.now();
    terms_for(gate, request, (now, now.plus_ms(life_ms)))
}

/// The same for a life that is said otherwise than by `expires`; the store bounds it.
pub(crate) fn terms_for(
    gate: &Gate,
    request: GrantRequest,
    (not_before, expires_at): (UnixMs, UnixMs),
) -> Result<GrantTerms, Denied> {
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
        max_calls: request.max_calls.map(calls).transpose()?,
        purpose: request.purpose,
        bounds: bounds(request.bounds)?,
        not_before,
        expires_at,
    })
}

/// Whoever types an issuer means one whose tokens are taken.
fn check_issuer(gate: &Gate, issuer: &str) -> Result<(), Denied> {
    let known: Vec<&str> = gate.config.issuers.iter().map(|known| &*known.issuer).collect();
    if known.contains(&issuer) { Ok(()) } else { Err(unconfigured("issuer", &known)) }
}

fn unconfigured(member: &'static str, known: &[&str]) -> Denied {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Denied::invalid(member, format!("not configured; there is: {known}"))
}

/// The server is configured and offers each tool.
fn check_tools(gate: &Gate, server: &str, tools: &[String]) -> Result<(), Denied> {
    let Some(server) = gate.server(server) else {
        let known: Vec<&str> = gate.config.servers.keys().map(|name| &**name).collect();
        return Err(unconfigured("server", &known));
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

/// What narrows a grant further: short lists of short values.
fn bounds(bounds: Bounds) -> Result<Bounds, Denied> {
    let lists = [bounds.payees.len(), bounds.payers.len(), bounds.arguments.len()];
    let values = bounds.arguments.iter().map(|rule| rule.one_of.len());
    if lists.into_iter().chain(values).any(|length| length > LIST_MAX) {
        return Err(Denied::invalid("bounds", "at most 64 entries a list"));
    }
    let names = bounds.payees.iter().chain(&bounds.payers).map(String::as_str);
    let names = names.chain(bounds.arguments.iter().map(|rule| &*rule.pointer));
    let names = names.chain(bounds.purpose_code.as_deref()).chain(bounds.session.as_deref());
    if names.into_iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        return Err(Denied::invalid("bounds", "expected 1 to 512 bytes a value"));
    }
    match bounds.arguments.iter().find(|rule| !rule.pointer.starts_with('/')) {
        Some(_) => Err(Denied::invalid("bounds", "a pointer starts with `/`")),
        None => Ok(bounds),
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
pub(crate) fn money(gate: &Gate, member: &'static str, text: &str) -> Result<Micros, Denied> {
    let in_asset = || {
        let assets = &gate.config.assets;
        assets.parse(text).ok().and_then(|amount| assets.micros(&amount))
    };
    // As in the configuration: money has a unit.
    let in_reference = parse_micros(text).ok().filter(|_| text.contains(' '));
    let parsed = in_reference.or_else(in_asset);
    parsed.ok_or_else(|| Denied::invalid(member, "expected an amount such as `0.05 USD`"))
}

/// The largest integer that every reader of JSON reads alike (RFC 7493 section 2.2).
const MOST_CALLS: u64 = (1 << 53) - 1;

fn calls(most: u64) -> Result<u64, Denied> {
    match most {
        0 => Err(Denied::invalid("max_calls", "expected at least 1")),
        1..=MOST_CALLS => Ok(most),
        _ => Err(Denied::invalid("max_calls", "too many")),
    }
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
