//! Money and calls: balances, doubts, refunds, calls, quotes, credentials.

use super::{
    ask::{Asked, Named, Sent},
    denied::Denied,
    form::{
        BalanceView, CallFull, CallLine, DoubtView, DueView, Items, OfferView, PaidBack, QuoteView,
        Resolution, Revoked, Rule, Standing,
    },
    log::raw,
    peer::Approver,
    read,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State};
use countersign_core::{
    digest::Digest,
    ids::{CallId, QuoteId},
    ledger::CallState,
    money::{Amount, Assets},
    terms::DoubtRule,
};
use countersign_store::{Balance, CallView, SettlementReceipt};
use serde::Deserialize;
use std::sync::Arc;

/// Calls in one answer.
const CALLS_MAX: u32 = 1000;
/// The longest reference of a payment, in bytes.
const REFERENCE_BYTES_MAX: usize = 256;

/// Every account.
pub(super) async fn balances(State(gate): State<Arc<Gate>>) -> Json<Items<BalanceView>> {
    let assets = &gate.config.assets;
    let view = |balance: Balance| {
        let show = |minor| assets.show(&Amount { asset: balance.asset.clone(), minor });
        let sign = if balance.posted_minor < 0 { "-" } else { "" };
        BalanceView {
            account: balance.account.to_string(),
            posted: format!("{sign}{}", show(balance.posted_minor.unsigned_abs())),
            pending_in: show(balance.pending_in_minor),
            pending_out: show(balance.pending_out_minor),
            tenant: Arc::clone(&balance.tenant),
        }
    };
    Json(Items { items: gate.store.balances().into_iter().map(view).collect() })
}

/// Calls of which nobody knows the outcome.
pub(super) async fn in_doubt(State(gate): State<Arc<Gate>>) -> Json<Items<DoubtView>> {
    let assets = &gate.config.assets;
    let items = gate.store.in_doubt().into_iter().map(|doubt| DoubtView {
        call: doubt.call,
        tenant: doubt.tenant,
        tool: doubt.tool.to_string(),
        amount: doubt.amount.map(|amount| assets.show(&amount)),
        is_settled: doubt.is_settled,
        rule: match doubt.rule {
            DoubtRule::Refund => Rule::Refund,
            DoubtRule::Capture => Rule::Capture,
        },
    });
    Json(Items { items: items.collect() })
}

/// Ends a doubt.
pub(super) async fn resolve(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Named(call): Named<CallId>,
    Sent(Resolution { rule }): Sent<Resolution>,
) -> Result<Json<Standing>, Denied> {
    if !gate.store.in_doubt().iter().any(|doubt| doubt.call == call) {
        return Err(Denied::Conflict("the call is not in doubt"));
    }
    let rule = match rule {
        Rule::Refund => DoubtRule::Refund,
        Rule::Capture => DoubtRule::Capture,
    };
    let state = gate.store.resolve(call, rule, approver.text()).await?;
    Ok(Json(Standing { call, state }))
}

/// Money that is owed back.
pub(super) async fn refunds(State(gate): State<Arc<Gate>>) -> Json<Items<DueView>> {
    let assets = &gate.config.assets;
    let items = gate.store.refunds_due().into_iter().map(|due| {
        let (settlement, payer) =
            due.settlement.map(|s| (Some(s.transaction), s.payer)).unwrap_or_default();
        DueView {
            call: due.call,
            tenant: due.tenant,
            rail: due.rail,
            amount: due.amount.map(|amount| assets.show(&amount)),
            payer,
            settlement,
        }
    });
    Json(Items { items: items.collect() })
}

/// Records that the money of a call went back, outside of the gateway.
pub(super) async fn refunded(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Named(call): Named<CallId>,
    Sent(PaidBack { reference }): Sent<PaidBack>,
) -> Result<Json<Standing>, Denied> {
    if reference.is_empty() || reference.len() > REFERENCE_BYTES_MAX {
        return Err(Denied::invalid("reference", "expected 1 to 256 bytes"));
    }
    if !gate.store.refunds_due().iter().any(|due| due.call == call) {
        return Err(Denied::Conflict("nothing is owed back for this call"));
    }
    let raw = serde_json::json!({ "recorded_by": approver.text() }).to_string();
    let receipt = SettlementReceipt { transaction: reference, payer: None, raw };
    gate.store.refunded(call, receipt).await?;
    Ok(Json(Standing { call, state: CallState::Refunded }))
}

/// Which calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    before: Option<CallId>,
    limit: Option<u32>,
}

/// The latest calls, the newest first.
pub(super) async fn calls(
    State(gate): State<Arc<Gate>>,
    Asked(page): Asked<Page>,
) -> Result<Json<Items<CallLine>>, Denied> {
    let limit = page.limit.unwrap_or(50).min(CALLS_MAX);
    let found = read(&gate, move |gate| gate.store.calls(page.before, limit)).await?;
    let line = |view| line(view, &gate.config.assets);
    Ok(Json(Items { items: found.into_iter().map(line).collect() }))
}

/// One call with its records.
pub(super) async fn call(
    State(gate): State<Arc<Gate>>,
    Named(id): Named<CallId>,
) -> Result<Json<CallFull>, Denied> {
    let found = read(&gate, move |gate| {
        let Some(view) = gate.store.call(id)? else { return Ok(None) };
        Ok(Some((view, gate.store.call_records(id)?)))
    });
    let (view, records) = found.await?.ok_or(Denied::NotFound("call"))?;
    let log = records.into_iter().map(|record| raw(record.leaf)).collect::<Result<_, _>>()?;
    Ok(Json(CallFull { call: line(view, &gate.config.assets), log }))
}

fn line(view: CallView, assets: &Assets) -> CallLine {
    CallLine {
        call: view.call,
        state: view.state,
        opened_at: view.opened_at.rfc3339(),
        changed_at: view.changed_at.rfc3339(),
        call_digest: view.call_digest.to_hex(),
        tenant: view.tenant,
        delegator: view.delegator.map(Digest::to_hex),
        agent: view.agent,
        tool: format!("{}/{}", view.server, view.tool),
        grant: view.grant,
        rail: view.rail,
        price: view.price.map(|price| assets.show(&price)),
        counted: view.micros.to_string(),
        settlement: view.settlement.map(|settlement| settlement.transaction),
        code: view.code,
        records: view.records,
    }
}

/// One quote, an expired or paid one too.
pub(super) async fn quote(
    State(gate): State<Arc<Gate>>,
    Named(id): Named<QuoteId>,
) -> Result<Json<QuoteView>, Denied> {
    let found = read(&gate, move |gate| gate.store.quote_by_id(id)).await?;
    let found = found.ok_or(Denied::NotFound("quote"))?;
    let quote = &found.quote;
    let offers = quote.offers().iter().map(|offer| OfferView {
        rail: offer.rail,
        amount: gate.config.assets.show(&offer.amount),
        payee: offer.payee.clone(),
        counted: offer.micros.to_string(),
    });
    Ok(Json(QuoteView {
        id: quote.id(),
        call_digest: quote.call_digest().to_hex(),
        digest: quote.digest().to_hex(),
        issued_at: quote.issued_at().rfc3339(),
        expires_at: quote.expires_at().rfc3339(),
        offers: offers.collect(),
    }))
}

/// Ends a credential by the digest of its identifier.
pub(super) async fn revoke_credential(
    State(gate): State<Arc<Gate>>,
    Extension(approver): Extension<Approver>,
    Named(id): Named<String>,
) -> Result<Json<Revoked>, Denied> {
    let key = Digest::from_hex(&id)
        .map_err(|_| Denied::invalid("", "a credential is named by 64 hex digits"))?;
    if read(&gate, move |gate| gate.store.credential(key)).await?.is_none() {
        return Err(Denied::NotFound("credential"));
    }
    gate.store.credential_revoke(key, approver.text()).await?;
    Ok(Json(Revoked { credential: key.to_hex() }))
}
