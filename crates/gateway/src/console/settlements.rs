//! Money that needs a person: looked at, and settled.

use super::{
    Console,
    page::{Failed, Page, framed, heads, key_field, nothing},
    sign_in::go,
    visitor::{Posted, Visitor},
};
use crate::admin::{
    actor::Need,
    denied::Denied,
    form::{OpenView, Repayer, Rule, UnclaimedView},
    ledger,
    settlements::{end_open, open},
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use countersign_core::{ids::CallId, money::Amount};
use countersign_store::{Doubt, Due};
use maud::{Markup, html};
use std::sync::Arc;

/// Payments that nobody knows of, doubts, refunds, and what ended credentials left.
pub(super) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let sees = |tenant: &str| visitor.actor().sees(tenant);
    let doubts = console.gate().store.in_doubt().into_iter().filter(|doubt| sees(&doubt.tenant));
    let dues = console.gate().store.refunds_due().into_iter().filter(|due| sees(&due.tenant));
    let (doubts, dues): (Vec<_>, Vec<_>) = (doubts.collect(), dues.collect());
    let unsettled = open(&console.gate(), visitor.actor())?;
    let unclaimed = ledger::left_unclaimed(&console.gate(), visitor.actor()).await?;
    let content = html! {
        div.head {
            h1 { "Settlements" }
            p.lead { "Money that waits for a person: payments of which nobody knows whether they moved, calls of which nobody knows whether they ran, and what is owed back." }
        }
        @if unsettled.is_empty() && doubts.is_empty() && dues.is_empty() {
            (nothing("Nothing needs a person", &html! {
                p { "A payment is not known to have moved when nobody answered whether it did. A call is in doubt when its server did not answer in time, or the machine stopped while it ran. A refund is due when money was taken for a call that did not run." }
                p { "Look at them here before the payer asks." }
            }))
        }
        @if !unsettled.is_empty() {
            h2 { "Not known to have moved" }
            (unsettled_table(&visitor, &unsettled))
        }
        @if !doubts.is_empty() {
            h2 { "In doubt" }
            (doubt_table(&console, &visitor, &doubts))
        }
        @if !dues.is_empty() {
            h2 { "To be paid back" }
            (due_table(&console, &visitor, &dues))
        }
        @if !unclaimed.is_empty() {
            h2 { "Unclaimed" }
            p { "What credentials left when they ended. Whoever shows one with its preimage is paid by a node or a treasury that can. What you paid in another way, " code { "countersign ledger claimed REFUND --reference …" } " records." }
            (unclaimed_table(&unclaimed))
        }
    };
    Ok(framed(&visitor, "/settlements", "Settlements", &content))
}

fn amount(console: &Console, amount: Option<&Amount>) -> String {
    amount.map_or_else(|| "–".to_owned(), |amount| console.gate().config.assets.show(amount))
}

fn unclaimed_table(items: &[UnclaimedView]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Unclaimed refunds" {
            table {
                (heads(&["Refund", "#Money", "Since", "Offered by", "Credential"]))
                tbody {
                    @for item in items {
                        tr {
                            td { code.wrap { (item.refund) } }
                            td.num { (item.amount) }
                            td { time datetime=(item.since) { (item.since) } }
                            td { (item.offered_by.as_deref().unwrap_or("–")) }
                            td { code.wrap { (item.credential) } }
                        }
                    }
                }
            }
        }
    }
}

fn unsettled_table(visitor: &Visitor, items: &[OpenView]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Payments not known to have moved" {
            table {
                (heads(&["Call", "State", "#Money", "Payer", "Nonce", "Usable until", "End it"]))
                tbody {
                    @for item in items {
                        tr {
                            td { a.id href={ "/live/" (item.call) } { (item.call) } }
                            td { (item.state.text()) }
                            td.num { (item.amount.as_deref().unwrap_or("–")) }
                            td { code.wrap { (item.payer.as_deref().unwrap_or("–")) } }
                            td { code.wrap { (item.nonce.as_deref().unwrap_or("–")) } }
                            td {
                                @match item.usable_until.as_deref() {
                                    Some(at) => time datetime=(at) { (at) },
                                    None => "–",
                                }
                            }
                            td { (found_form(visitor, item.call)) }
                        }
                    }
                }
            }
        }
    }
}

fn found_form(visitor: &Visitor, call: CallId) -> Markup {
    if !visitor.actor().can(Need::Settle) {
        return html! { "an operator ends it" };
    }
    let label = format!("Transaction that moved the money of {call}");
    html! {
        form.inline method="post" action={ "/settlements/" (call) "/moved" } {
            (key_field(visitor))
            input name="reference" required maxlength="256" aria-label=(label)
                placeholder="transaction";
            button.quiet type="submit" { "It moved" }
        }
        form.inline method="post" action={ "/settlements/" (call) "/unmoved" } {
            (key_field(visitor))
            button.quiet type="submit" { "It did not, and cannot any more" }
        }
    }
}

fn doubt_table(console: &Console, visitor: &Visitor, doubts: &[Doubt]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Calls in doubt" {
            table {
                (heads(&["Call", "Tool", "#Money", "Taken", "End it"]))
                tbody {
                    @for doubt in doubts {
                        tr {
                            td { a.id href={ "/live/" (doubt.call) } { (doubt.call) } }
                            td { code { (doubt.tool) } }
                            td.num { (amount(console, doubt.amount.as_ref())) }
                            td { @if doubt.is_settled { "yes" } @else { "held" } }
                            td { (end_form(visitor, doubt.call)) }
                        }
                    }
                }
            }
        }
    }
}

fn end_form(visitor: &Visitor, call: CallId) -> Markup {
    if !visitor.actor().can(Need::Settle) {
        return html! { "an operator ends it" };
    }
    html! {
        form.inline method="post" action={ "/settlements/" (call) "/end" } {
            (key_field(visitor))
            button.quiet name="rule" value="refund" type="submit" {
                "It did not run: give back"
            }
            button.quiet name="rule" value="capture" type="submit" { "It ran: keep" }
        }
    }
}

fn due_table(console: &Console, visitor: &Visitor, dues: &[Due]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Refunds due" {
            table {
                (heads(&["Call", "Rail", "#Money", "Payer", "Settlement", "Book it"]))
                tbody {
                    @for due in dues {
                        @let settlement = due.settlement.as_ref();
                        @let payer = settlement.and_then(|s| s.payer.as_deref());
                        tr {
                            td { a.id href={ "/live/" (due.call) } { (due.call) } }
                            td { @if let Some(rail) = due.rail { (rail.text()) } }
                            td.num { (amount(console, due.amount.as_ref())) }
                            td { code.wrap { (payer.unwrap_or("–")) } }
                            td { code.wrap { (settlement.map_or("–", |s| &s.transaction)) } }
                            td {
                                @match ledger::repayer(&console.gate(), due) {
                                    Repayer::Gateway => "the gateway pays it back",
                                    Repayer::Operator => (refund_form(visitor, due.call)),
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn refund_form(visitor: &Visitor, call: CallId) -> Markup {
    if !visitor.actor().can(Need::Settle) {
        return html! { "an operator books it" };
    }
    let label = format!("Reference of the payment back for {call}");
    html! {
        form.inline method="post" action={ "/settlements/" (call) "/refunded" } {
            (key_field(visitor))
            input name="reference" required maxlength="256" aria-label=(label)
                placeholder="reference";
            button.quiet type="submit" { "Paid back" }
        }
    }
}

/// Ends a payment or a doubt, or books a refund.
pub(super) async fn settle(
    State(console): State<Arc<Console>>,
    Path((id, verb)): Path<(String, String)>,
    posted: Posted,
) -> Result<Response, Failed> {
    let id: CallId = id.parse().map_err(|_| Denied::not_found("call"))?;
    let (gate, actor) = (&console.gate(), posted.visitor.actor());
    match &*verb {
        "end" => {
            let rule = match posted.get("rule") {
                Some("refund") => Rule::Refund,
                Some("capture") => Rule::Capture,
                Some(_) | None => return Err(Denied::invalid("rule", "expected a rule").into()),
            };
            ledger::end_doubt(gate, actor, id, rule).await?;
        }
        "moved" => {
            end_open(gate, actor, id, Some(posted.text("reference"))).await?;
        }
        "unmoved" => {
            end_open(gate, actor, id, None).await?;
        }
        "refunded" => {
            ledger::book_refund(gate, actor, id, posted.text("reference")).await?;
        }
        _ => return Err(Denied::not_found("page").into()),
    }
    Ok(go("/settlements"))
}
