//! Payments of which nobody knows whether they moved, and what a person found out.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{FoundOut, Items, OpenView, Standing},
    page::{Listed, Order, Unfiltered},
};
use crate::{gate::Gate, rails::x402::SignedPayment};
use axum::{Extension, Json, extract::State};
use countersign_core::{
    ids::CallId,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{OpenSettlement, SettlementEvidence, SettlementReceipt};
use std::sync::Arc;

/// The longest reference of a payment, in bytes.
const REFERENCE_BYTES_MAX: usize = 256;

pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<OpenView>>, Denied> {
    let keyed = open(&gate, &actor)?.into_iter().map(|item| (item.call.to_string(), item));
    Ok(Json(page.cut(Order::Rising, keyed, |item| item)))
}

/// Those of the actor's tenant that nobody is asking about at this moment.
///
/// # Errors
/// A role that is missing.
pub(crate) fn open(gate: &Gate, actor: &Actor) -> Result<Vec<OpenView>, Denied> {
    actor.may(Need::See)?;
    let open = gate.store.open_settlements().into_iter();
    let shown = open.filter(|item| !item.is_asked && actor.sees(&item.tenant));
    Ok(shown.map(|item| view(gate, item)).collect())
}

fn view(gate: &Gate, item: OpenSettlement) -> OpenView {
    let signed = item.payload.as_deref().and_then(SignedPayment::from_stored);
    let authorization = signed.as_ref().map(|signed| signed.transfer().authorization);
    OpenView {
        call: item.call,
        tenant: item.tenant,
        tool: item.tool.to_string(),
        state: item.state,
        rail: item.rail,
        amount: item.amount.map(|amount| gate.config.assets.show(&amount)),
        payer: authorization.map(|a| a.from.to_string()),
        payee: item.payee,
        nonce: authorization.map(|a| format!("0x{}", hex::encode(a.nonce))),
        usable_until: authorization
            .and_then(|a| usable_until(a.valid_before_s))
            .map(UnixMs::rfc3339),
    }
}

fn usable_until(valid_before_s: u64) -> Option<UnixMs> {
    valid_before_s.checked_mul(1000).map(UnixMs)
}

pub(super) async fn end(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(call): Named<CallId>,
    Sent(FoundOut { reference }): Sent<FoundOut>,
) -> Result<Json<Standing>, Denied> {
    end_open(&gate, &actor, call, reference).await.map(Json)
}

/// Ends one by what a person found out.
///
/// # Errors
/// None is open in the actor's tenant, somebody is asking about it, or the payment can still be
/// used; a role that is missing; no reference.
pub(crate) async fn end_open(
    gate: &Gate,
    actor: &Actor,
    call: CallId,
    reference: Option<String>,
) -> Result<Standing, Denied> {
    actor.may(Need::Settle)?;
    let mut all = gate.store.open_settlements().into_iter();
    let open = all.find(|item| item.call == call && actor.sees(&item.tenant));
    let open = open.ok_or(Denied::conflict("the payment of this call is not open"))?;
    let evidence = evidence(gate, &open, reference, &actor.text())?;
    let ended = gate.store.end_settlement(call, evidence, &actor.text()).await;
    let is_asked = |refusal: &Refusal| refusal.code() == Code::InProgress;
    if ended.as_ref().is_err_and(is_asked) {
        return Err(Denied::conflict("the rail is being asked: try again in a minute"));
    }
    Ok(Standing { call, state: ended? })
}

fn evidence(
    gate: &Gate,
    open: &OpenSettlement,
    reference: Option<String>,
    by: &str,
) -> Result<SettlementEvidence, Denied> {
    let signed = open.payload.as_deref().and_then(SignedPayment::from_stored);
    let Some(transaction) = reference else {
        let until = signed.and_then(|s| usable_until(s.transfer().authorization.valid_before_s));
        let order = open.payload.as_deref().and_then(countersign_client::Order::from_stored);
        let until = until.or_else(|| order.map(|order| order.expires_at()));
        if until.is_none_or(|until| gate.world.now() <= until) {
            return Err(Denied::conflict("the payment can still be used: wait until it cannot"));
        }
        return Ok(SettlementEvidence::Unpaid);
    };
    check_reference(&transaction)?;
    let raw = serde_json::json!({ "recorded_by": by }).to_string();
    let payer = signed.map(|signed| signed.payer().to_string());
    Ok(SettlementEvidence::Paid(SettlementReceipt { transaction, payer, raw }))
}

/// A payment's reference, as a person wrote it down.
///
/// # Errors
/// It is empty or too long.
pub(super) fn check_reference(reference: &str) -> Result<(), Denied> {
    let is_good = (1..=REFERENCE_BYTES_MAX).contains(&reference.len());
    is_good.then_some(()).ok_or(Denied::invalid("reference", "expected 1 to 256 bytes"))
}
