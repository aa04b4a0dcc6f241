//! The policy in force: shown, replaced, and taken back.
//!
//! INVARIANT: what decides about every tenant is changed by users of the socket alone.

use super::{
    actor::{Actor, Need},
    ask::{Sent, SentFiles},
    denied::Denied,
    form::{BundleFiles, GoBack, KeptView, PolicyView, ShadowBundle, ShadowView},
    read,
};
use crate::{gate::Gate, prove::policy::shadow::Counted};
use axum::{Extension, Json, extract::State};
use countersign_core::{refusal::Code, time::UnixMs};
use countersign_store::KeptPolicy;
use std::sync::Arc;

/// The largest body: a bundle of the largest size, its texts escaped.
pub(super) const BODY_BYTES_MAX: usize = 10 << 20;

/// What is in force, and what was.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<PolicyView>, Denied> {
    actor.may(Need::See)?;
    view(&gate).await
}

/// Puts a bundle in force.
pub(super) async fn activate(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    SentFiles(bundle): SentFiles<BundleFiles>,
) -> Result<Json<PolicyView>, Denied> {
    actor.may_here()?;
    let (changed, by) = (Arc::clone(&gate), actor.text());
    // It goes on when its caller has gone, so that store and memory say the same.
    let changing = tokio::spawn(async move { changed.activate(bundle.files, &by).await });
    changing.await.map_err(|_| Code::InternalFault)??;
    view(&gate).await
}

/// Puts a bundle in force again that was so before.
pub(super) async fn roll_back(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(back): Sent<GoBack>,
) -> Result<Json<PolicyView>, Denied> {
    actor.may_here()?;
    if back.reason.trim().is_empty() {
        return Err(Denied::invalid("reason", "say why"));
    }
    let (changed, by) = (Arc::clone(&gate), actor.text());
    let changing =
        tokio::spawn(async move { changed.roll_back(back.revision, &by, &back.reason).await });
    changing.await.map_err(|_| Code::InternalFault)??;
    view(&gate).await
}

/// The shadow bundle, and what it answers otherwise.
pub(super) async fn shadow(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<ShadowView>, Denied> {
    actor.may(Need::See)?;
    shadow_view(&gate, &actor).await.map(Json)
}

/// Lets a bundle answer beside the one in force.
pub(super) async fn set_shadow(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    SentFiles(bundle): SentFiles<BundleFiles>,
) -> Result<Json<ShadowView>, Denied> {
    actor.may_here()?;
    let (changed, by) = (Arc::clone(&gate), actor.text());
    let changing = tokio::spawn(async move { changed.set_shadow(bundle.files, &by).await });
    changing.await.map_err(|_| Code::InternalFault)??;
    shadow_view(&gate, &actor).await.map(Json)
}

/// Ends it.
pub(super) async fn stop_shadow(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<ShadowView>, Denied> {
    actor.may_here()?;
    let (changed, by) = (Arc::clone(&gate), actor.text());
    let changing = tokio::spawn(async move { changed.stop_shadow(&by).await });
    if changing.await.map_err(|_| Code::InternalFault)?? {
        return shadow_view(&gate, &actor).await.map(Json);
    }
    Err(Denied::not_found("shadow bundle"))
}

/// The shadow bundle as it is shown: counts of the tenants that the actor sees.
pub(crate) async fn shadow_view(gate: &Arc<Gate>, actor: &Actor) -> Result<ShadowView, Denied> {
    let Some(kept) = read(gate, |gate| gate.store.shadow()).await? else {
        return Ok(ShadowView { shadow: None });
    };
    let running = gate.policy.shadow().filter(|shadow| shadow.digest() == kept.policy.digest);
    let mut counted = match running {
        Some(running) => running.counted(),
        None => serde_json::from_str(&kept.report).unwrap_or_default(),
    };
    if let Some(tenant) = actor.tenant() {
        counted = Counted { dropped: 0, delta: counted.delta.of_tenant(tenant), ..counted };
    }
    let shadow = ShadowBundle {
        digest: kept.policy.digest.to_hex(),
        revision: kept.policy.revision,
        set_at: kept.at.rfc3339(),
        set_by: kept.policy.by,
        problem: gate.policy.missing_shadow(),
        since: counted.since.rfc3339(),
        compared: counted.delta.compared,
        changed: counted.delta.changed,
        dropped: counted.dropped,
        rows: counted.delta.rows.into_iter().map(Into::into).collect(),
        beyond: counted.delta.beyond,
    };
    Ok(ShadowView { shadow: Some(shadow) })
}

async fn view(gate: &Arc<Gate>) -> Result<Json<PolicyView>, Denied> {
    let kept = read(gate, |gate| gate.store.policies()).await?;
    let engine = gate.policy.engine();
    let manifest = engine.manifest();
    Ok(Json(PolicyView {
        digest: engine.bundle_digest().to_hex(),
        revision: manifest.map(|manifest| manifest.revision),
        valid_until: manifest.and_then(|manifest| manifest.not_after_ms).map(UnixMs::rfc3339),
        key: gate.config.policy_key.as_ref().map(ToString::to_string),
        says: engine.describe(),
        kept: kept.into_iter().map(kept_view).collect(),
    }))
}

fn kept_view(kept: KeptPolicy) -> KeptView {
    KeptView {
        revision: kept.revision,
        digest: kept.digest.to_hex(),
        activated_at: kept.at.rfc3339(),
        activated_by: kept.by,
        is_in_force: kept.is_in_force,
    }
}
