//! Lightning: how nodes stand, what room to receive costs, and buying it.

use super::{
    actor::Actor,
    ask::Sent,
    denied::Denied,
    form::{Items, LightningView, RoomAsked},
    log,
};
use crate::{
    gate::Gate,
    liquidity::rebalance::{Advice, Offer, Rebalance},
};
use axum::{Extension, Json, extract::State};
use countersign_core::refusal::{Code, Refusal};
use std::sync::Arc;

/// How nodes stand, and the rebalances that are remembered.
pub(super) async fn show(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<LightningView>, Denied> {
    actor.may_here()?;
    let standing = log::standing(&gate);
    let rebalances = super::read(&gate, Gate::rebalances).await?;
    Ok(Json(LightningView { nodes: standing.nodes, held: standing.held, rebalances }))
}

/// What room to receive costs. Nothing is paid; a provider may remember that it was asked.
pub(super) async fn quote(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(asked): Sent<RoomAsked>,
) -> Result<Json<Offer>, Denied> {
    actor.may_here()?;
    Ok(Json(gate.room_quote(asked.via, asked.amount_sat, asked.max_fee_sat).await?))
}

/// What is advised now.
pub(super) async fn advise(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Items<Advice>>, Denied> {
    actor.may_here()?;
    Ok(Json(Items { items: gate.room_advice().await?, next: None }))
}

/// Buys room to receive, within the configured limits. Goes on whether or not who asked stays.
pub(super) async fn rebalance(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(asked): Sent<RoomAsked>,
) -> Result<Json<Rebalance>, Denied> {
    actor.may_here()?;
    let by = actor.text();
    let wanted = (asked.via, asked.amount_sat, asked.max_fee_sat);
    let bought = tokio::spawn(async move { gate.rebalance(wanted, &by).await }).await;
    Ok(Json(bought.map_err(|_panicked| Refusal::new(Code::InternalFault))??))
}
