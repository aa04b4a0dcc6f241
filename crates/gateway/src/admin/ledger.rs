//! Money and calls: balances, doubts, refunds, calls, quotes, credentials.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{
        BalanceView, CallFull, CallLine, Claimed, CredentialState, CredentialView, DoubtView,
        DueView, Items, OfferView, PaidBack, QuoteView, Repayer, Resolution, Revoked, Rule,
        Standing, UnclaimedView,
    },
    log::raw,
    page::{Listed, Order, Unfiltered},
    read,
    schema::Id,
    settlements::check_reference,
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
use countersign_store::{
    Balance, CallView, Credential, Doubt, Due, HandPaid, Refund, SettlementReceipt,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Every account.
pub(super) async fn balances(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<BalanceView>>, Denied> {
    actor.may(Need::See)?;
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
    let all = gate.store.balances().into_iter().filter(|balance| actor.sees(&balance.tenant));
    let keyed = all.map(|balance| {
        let key = format!("{}\u{1f}{}\u{1f}{}", balance.tenant, balance.account, balance.asset.0);
        (key, balance)
    });
    Ok(Json(page.cut(Order::Rising, keyed, view)))
}

/// Calls of which nobody knows the outcome.
pub(super) async fn in_doubt(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<DoubtView>>, Denied> {
    actor.may(Need::See)?;
    let assets = &gate.config.assets;
    let seen = gate.store.in_doubt().into_iter().filter(|doubt| actor.sees(&doubt.tenant));
    let keyed = seen.map(|doubt| (doubt.call.to_string(), doubt));
    let view = |doubt: Doubt| DoubtView {
        call: doubt.call,
        tenant: doubt.tenant,
        tool: doubt.tool.to_string(),
        amount: doubt.amount.map(|amount| assets.show(&amount)),
        is_settled: doubt.is_settled,
        rule: match doubt.rule {
            DoubtRule::Refund => Rule::Refund,
            DoubtRule::Capture => Rule::Capture,
        },
    };
    Ok(Json(page.cut(Order::Rising, keyed, view)))
}

/// Ends a doubt.
pub(super) async fn resolve(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(call): Named<CallId>,
    Sent(Resolution { rule }): Sent<Resolution>,
) -> Result<Json<Standing>, Denied> {
    end_doubt(&gate, &actor, call, rule).await.map(Json)
}

/// Ends a doubt.
///
/// # Errors
/// No such doubt in the actor's tenant; a role that is missing.
pub(crate) async fn end_doubt(
    gate: &Gate,
    actor: &Actor,
    call: CallId,
    rule: Rule,
) -> Result<Standing, Denied> {
    actor.may(Need::Settle)?;
    let is_it = |doubt: &Doubt| doubt.call == call && actor.sees(&doubt.tenant);
    if !gate.store.in_doubt().iter().any(is_it) {
        return Err(Denied::conflict("the call is not in doubt"));
    }
    let rule = match rule {
        Rule::Refund => DoubtRule::Refund,
        Rule::Capture => DoubtRule::Capture,
    };
    let state = gate.store.resolve(call, rule, &actor.text()).await?;
    Ok(Standing { call, state })
}

/// Money that is owed back.
pub(super) async fn refunds(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<DueView>>, Denied> {
    actor.may(Need::See)?;
    let assets = &gate.config.assets;
    let seen = gate.store.refunds_due().into_iter().filter(|due| actor.sees(&due.tenant));
    let keyed = seen.map(|due| (due.call.to_string(), due));
    let view = |due: Due| {
        let by = repayer(&gate, &due);
        let (settlement, payer) =
            due.settlement.map(|s| (Some(s.transaction), s.payer)).unwrap_or_default();
        DueView {
            call: due.call,
            tenant: due.tenant,
            rail: due.rail,
            amount: due.amount.map(|amount| assets.show(&amount)),
            payer,
            settlement,
            by,
        }
    };
    Ok(Json(page.cut(Order::Rising, keyed, view)))
}

/// Who pays it back.
pub(crate) fn repayer(gate: &Gate, due: &Due) -> Repayer {
    if gate.pays_back(due) { Repayer::Gateway } else { Repayer::Operator }
}

/// Records that the money of a call went back, outside of the gateway.
pub(super) async fn refunded(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(call): Named<CallId>,
    Sent(PaidBack { reference }): Sent<PaidBack>,
) -> Result<Json<Standing>, Denied> {
    book_refund(&gate, &actor, call, reference).await.map(Json)
}

/// Books that the money of a call went back.
///
/// # Errors
/// Nothing is owed for it in the actor's tenant; the gateway pays it back by itself; a role that is
/// missing; no reference.
pub(crate) async fn book_refund(
    gate: &Gate,
    actor: &Actor,
    call: CallId,
    reference: String,
) -> Result<Standing, Denied> {
    actor.may(Need::Settle)?;
    check_reference(&reference)?;
    let is_it = |due: &Due| due.call == call && actor.sees(&due.tenant);
    let dues = gate.store.refunds_due();
    let Some(due) = dues.iter().find(|due| is_it(due)) else {
        return Err(Denied::conflict("nothing is owed back for this call"));
    };
    if repayer(gate, due) == Repayer::Gateway {
        return Err(Denied::conflict("the gateway pays this back by itself"));
    }
    let raw = serde_json::json!({ "recorded_by": actor.text() }).to_string();
    let receipt = SettlementReceipt { transaction: reference, payer: None, raw };
    gate.store.refunded(call, receipt).await?;
    Ok(Standing { call, state: CallState::Refunded })
}

/// What credentials left when they ended, and nobody claimed yet.
pub(super) async fn unclaimed(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<UnclaimedView>>, Denied> {
    let all = left_unclaimed(&gate, &actor).await?.into_iter();
    let keyed = all.map(|left| (format!("{} {}", left.since, left.refund), left));
    Ok(Json(page.cut(Order::Rising, keyed, |left| left)))
}

/// What credentials of the actor's tenant left, the oldest first.
///
/// # Errors
/// A role that is missing; `StoreFault`.
pub(crate) async fn left_unclaimed(
    gate: &Arc<Gate>,
    actor: &Actor,
) -> Result<Vec<UnclaimedView>, Denied> {
    actor.may(Need::See)?;
    let all = read(gate, |gate| gate.store.unclaimed()).await?.into_iter();
    let view = |refund: Refund| UnclaimedView {
        refund: refund.key.to_hex(),
        credential: refund.credential.to_hex(),
        tenant: refund.tenant,
        amount: gate.config.assets.show(&refund.amount),
        since: refund.since.rfc3339(),
        offered_by: refund.node,
    };
    Ok(all.filter(|refund| actor.sees(&refund.tenant)).map(view).collect())
}

/// Records that a credential's holder was paid, outside of the gateway.
pub(super) async fn claimed(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<String>,
    Sent(PaidBack { reference }): Sent<PaidBack>,
) -> Result<Json<Claimed>, Denied> {
    actor.may(Need::Settle)?;
    check_reference(&reference)?;
    let key = digest(&id, "a refund is named by 64 hex digits")?;
    let owed = read(&gate, move |gate| gate.store.refund(key)).await?;
    let owed = owed.filter(|refund| actor.sees(&refund.tenant));
    let owed = owed.ok_or(Denied::not_found("refund"))?;
    // While its node offers it, or does not say, somebody may take it still.
    let lapsed = gate.offer_lapsed(&owed).await.unwrap_or(None);
    match gate.store.refund_paid_by_hand(key, lapsed, &reference, &actor.text()).await? {
        HandPaid::Booked => Ok(Json(Claimed { refund: key.to_hex() })),
        HandPaid::NotOwed => Err(Denied::not_found("refund")),
        HandPaid::UnderWay => Err(Denied::conflict(
            "a Lightning node offers it, or does not answer, or the treasury is paying it",
        )),
    }
}

fn digest(id: &str, expected: &'static str) -> Result<Digest, Denied> {
    Digest::from_hex(id).map_err(|_| Denied::invalid("", expected))
}

/// Which calls.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Those that came before this one.
    #[schemars(with = "Option<Id<CallId>>")]
    before: Option<CallId>,
}

/// The latest calls, the newest first.
pub(super) async fn calls(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Result<Json<Items<CallLine>>, Denied> {
    actor.may(Need::See)?;
    let after = page.after().map(str::parse).transpose();
    let after =
        after.map_err(|_| Denied::invalid("cursor", "it is not one that this list gave"))?;
    let before = filter.before.into_iter().chain(after).min();
    let limit = page.limit();
    let found = read(&gate, move |gate| gate.store.calls(actor.tenant(), before, limit)).await?;
    let is_full = u32::try_from(found.len()).is_ok_and(|length| length >= limit);
    let next = found.last().filter(|_| is_full).map(|view| page.cursor(&view.call.to_string()));
    let line = |view| line(view, &gate.config.assets);
    Ok(Json(Items { items: found.into_iter().map(line).collect(), next }))
}

/// One call with its records.
pub(super) async fn call(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<CallId>,
) -> Result<Json<CallFull>, Denied> {
    actor.may(Need::See)?;
    let found = read(&gate, move |gate| {
        let Some(view) = gate.store.call(id)? else { return Ok(None) };
        Ok(Some((view, gate.store.call_records(id)?)))
    });
    let found = found.await?.filter(|(view, _)| actor.sees(&view.tenant));
    let (view, records) = found.ok_or(Denied::not_found("call"))?;
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
    Extension(actor): Extension<Actor>,
    Named(id): Named<QuoteId>,
) -> Result<Json<QuoteView>, Denied> {
    actor.may(Need::See)?;
    let found = read(&gate, move |gate| gate.store.quote_by_id(id)).await?;
    // A quote does not say whose it is: only who sees every tenant may look.
    let found = found.filter(|_| actor.is_local()).ok_or(Denied::not_found("quote"))?;
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

/// L402 credentials that have not ended.
pub(super) async fn credentials(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(Unfiltered {}, page): Listed<Unfiltered>,
) -> Result<Json<Items<CredentialView>>, Denied> {
    actor.may(Need::See)?;
    let found = read(&gate, |gate| gate.store.open_credentials()).await?;
    let seen = found.into_iter().filter(|(credential, _)| is_seen(&actor, credential));
    let keyed = seen.map(|found| (found.0.key.to_hex(), found));
    let view = |(credential, used): (Credential, u32)| {
        let bearer = credential.minted.bearer.map(|bearer| bearer.principal);
        CredentialView {
            credential: credential.key.to_hex(),
            tenant: bearer.as_ref().map(|principal| Arc::clone(&principal.tenant)),
            agent: bearer.map(|principal| principal.agent),
            price: gate.config.assets.show(&credential.minted.price),
            uses: credential.minted.uses,
            used,
            state: match credential.used_by {
                _ if credential.revoked => CredentialState::Revoked,
                Some(_) => CredentialState::Paid,
                None => CredentialState::Offered,
            },
            expires_at: credential.minted.expires_at.rfc3339(),
        }
    };
    Ok(Json(page.cut(Order::Rising, keyed, view)))
}

/// One that names nobody is the operator's alone.
fn is_seen(actor: &Actor, credential: &Credential) -> bool {
    match &credential.minted.bearer {
        Some(bearer) => actor.sees(&bearer.principal.tenant),
        None => actor.is_local(),
    }
}

/// Ends a credential by the digest of its identifier.
pub(super) async fn revoke_credential(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(id): Named<String>,
) -> Result<Json<Revoked>, Denied> {
    actor.may(Need::Administer)?;
    let key = digest(&id, "a credential is named by 64 hex digits")?;
    let found = read(&gate, move |gate| gate.store.credential(key)).await?;
    if !found.is_some_and(|credential| is_seen(&actor, &credential)) {
        return Err(Denied::not_found("credential"));
    }
    gate.store.credential_revoke(key, &actor.text()).await?;
    Ok(Json(Revoked { credential: key.to_hex() }))
}
