//! Live: calls as they come, each with its four lights; one call with its whole decision, its
//! records, and the proof that the log holds them.

use super::{
    Console,
    page::{Failed, Page, framed, heads, icon, moment, name, nothing, sentence},
    visitor::Visitor,
};
use crate::{
    admin::{actor::Need, denied::Denied},
    gate::Gate,
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use countersign_core::{
    audit::proof::{ProofBundle, Target, prove_call},
    ids::CallId,
    ledger::CallState,
    refusal::{Code, Refusal},
};
use countersign_store::CallView;
use http::{HeaderValue, header};
use maud::{Markup, html};
use serde_json::Value;
use std::{fs, io::ErrorKind, sync::Arc};

/// Calls on the page.
const CALLS: u32 = 50;
/// The proofs in the order in which they are looked at.
const PROOFS: [&str; 4] = ["identity", "consent", "payment", "authorization"];

/// A call with its records as JSON.
type Told = (CallView, Vec<Value>);

/// The page.
pub(super) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    let rows = latest(&console, &visitor).await?;
    let content = html! {
        div.head {
            h1 { "Live" }
            p.lead { "The latest calls. Each ran only if all four proofs held: identity, consent, payment, authorization." }
        }
        div hx-ext="sse" sse-connect="/events" {
            div id="calls" hx-get="/live/rows" hx-trigger="sse:changed" hx-swap="innerHTML" {
                (rows)
            }
        }
    };
    Ok(framed(&visitor, "/live", "Live", &content))
}

/// Only its rows.
pub(super) async fn rows(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    Ok(Page(latest(&console, &visitor).await?))
}

async fn latest(console: &Console, visitor: &Visitor) -> Result<Markup, Failed> {
    visitor.may(Need::See)?;
    let actor = visitor.actor().clone();
    let found = look(console, move |gate| {
        let calls = gate.store.calls(actor.tenant(), None, CALLS)?.into_iter();
        calls.map(|call| tell(gate, call)).collect::<Result<Vec<Told>, Refusal>>()
    });
    Ok(table(&found.await?))
}

/// Runs a read of the store, which may block on the disk.
pub(super) async fn look<T: Send + 'static>(
    console: &Console,
    read: impl FnOnce(&Gate) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Failed> {
    let gate = console.gate();
    let done = tokio::task::spawn_blocking(move || read(&gate)).await;
    Ok(done.map_err(|_panicked| Refusal::new(Code::InternalFault))??)
}

fn tell(gate: &Gate, call: CallView) -> Result<Told, Refusal> {
    let records = gate.store.call_records(call.call)?;
    let read = |leaf: &[u8]| serde_json::from_slice(leaf).unwrap_or_default();
    Ok((call, records.iter().map(|record| read(&record.leaf)).collect()))
}

fn table(calls: &[Told]) -> Markup {
    html! {
        @if calls.is_empty() {
            (nothing("No calls yet", &html! {
                p { "Every call that is named by a token or a payment appears here, refused ones too." }
                p { a href="/connect" { "Connect a client" } " and call a tool." }
            }))
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Calls" {
                table {
                    (heads(&["When", "Agent", "Tool", "#Price", "Proofs", "Outcome"]))
                    tbody { @for (call, records) in calls { (row(call, records)) } }
                }
            }
        }
    }
}

fn row(call: &CallView, records: &[Value]) -> Markup {
    html! {
        tr {
            td { a href={ "/live/" (call.call) } { (moment(call.opened_at)) } }
            td { (name(&call.agent)) }
            td { code { (call.server) "/" (call.tool) } }
            td.num { (price(call)) }
            td { (lights(call, records)) }
            td { (outcome(call)) }
        }
    }
}

fn price(call: &CallView) -> String {
    match &call.price {
        Some(_) => call.micros.to_string(),
        None => "–".to_owned(),
    }
}

/// The four lights: a shape and a word each.
fn lights(call: &CallView, records: &[Value]) -> Markup {
    let proofs = records.iter().rev().find_map(|record| record.get("proofs"));
    html! {
        span.lights {
            @for name in PROOFS {
                @let state = proofs.and_then(|p| p.get(name)?.get("state")?.as_str());
                (light(name, now(call, name, state.unwrap_or("unchecked"))))
            }
        }
    }
}

/// A payment that was pending when the call was decided holds once it is settled.
fn now<'a>(call: &CallView, name: &str, state: &'a str) -> &'a str {
    let is_settled = name == "payment" && call.settlement.is_some();
    if is_settled && state == "pending" { "proven" } else { state }
}

fn light(name: &str, state: &str) -> Markup {
    let (class, shape) = match state {
        "proven" => ("badge yes", "✓"),
        "not_required" => ("badge off", "○"),
        "missing" => ("badge wait", "…"),
        "pending" => ("badge wait", "◔"),
        "refused" => ("badge no", "✕"),
        _ => ("badge off", "–"),
    };
    let words = format!("{name}: {}", state.replace('_', " "));
    html! { span class=(class) title=(words) { (icon(shape)) (name) } }
}

fn outcome(call: &CallView) -> Markup {
    let (class, shape, word) = match call.state {
        CallState::Captured => ("badge yes", "✓", "ran"),
        CallState::Refused => match call.code.as_deref() {
            Some("PAY-001") => ("badge wait", "…", "asked to pay"),
            Some("CNS-001" | "CNS-008") => ("badge wait", "◔", "asked a person"),
            _ => ("badge no", "✕", "refused"),
        },
        CallState::Released => ("badge off", "–", "released"),
        CallState::InDoubt => ("badge no", "?", "in doubt"),
        CallState::RefundDue => ("badge wait", "↩", "refund due"),
        CallState::Refunded => ("badge off", "↩", "refunded"),
        CallState::Reserved
        | CallState::Settling
        | CallState::Settled
        | CallState::Starting
        | CallState::Finished => ("badge wait", "◔", "under way"),
    };
    html! {
        span class=(class) { (icon(shape)) (word) }
        @if let Some(code) = &call.code { " " code title=(code_words(code)) { (code) } }
    }
}

fn code_words(code: &str) -> &'static str {
    Code::from_text(code).map_or("", |code| code.row().title)
}

/// One call.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let (call, records) = one(&console, &visitor, &id).await?;
    let proof = prove(&console, call.call).await;
    let content = html! {
        p.crumb { a href="/live" { "← Live" } }
        div.head {
            h1 { (name(&call.agent)) " → " code { (call.server) "/" (call.tool) } }
            p {
                (outcome(&call)) " "
                @if let Some(code) = &call.code { (sentence(code_words(code))) "." }
            }
        }
        h2 { "Proofs" }
        (proofs(&call, &records))
        h2 { "The call" }
        (facts(&call))
        h2 { "Records" }
        (steps(&records))
        h2 { "In the log" }
        @match &proof {
            Ok(bundle) => {
                p { span.badge.yes { (icon("✓")) "verified" } " Each of its " (bundle.records.len() + 1) " records was found in the published log, under a checkpoint that the log's key signed." }
                p {
                    a.button href={ "/live/" (call.call) "/proof" } download={ (call.call) ".json" } {
                        "Export the proof"
                    }
                }
                p.small { "Anybody checks it offline with the public key: " code { "countersign audit verify-proof FILE --key KEY" } }
            }
            Err(why) => p { span.badge.wait { (icon("◔")) "not provable yet" } " " (sentence(why)) "." }
        }
    };
    Ok(framed(&visitor, "/live", "Call", &content))
}

async fn one(console: &Console, visitor: &Visitor, id: &str) -> Result<Told, Failed> {
    let missing = || Failed::from(Denied::not_found("call"));
    let id: CallId = id.parse().map_err(|_| missing())?;
    let found =
        look(console, move |gate| gate.store.call(id)?.map(|call| tell(gate, call)).transpose());
    let found = found.await?.filter(|(call, _)| visitor.actor().sees(&call.tenant));
    found.ok_or_else(missing)
}

/// What each proof rests on.
fn proofs(call: &CallView, records: &[Value]) -> Markup {
    let all = records.iter().rev().find_map(|record| record.get("proofs"));
    html! {
        div.scroll tabindex="0" role="region" aria-label="Proofs" {
            table {
                (heads(&["Proof", "State", "Rests on"]))
                tbody {
                    @for name in PROOFS {
                        @let proof = all.and_then(|all| all.get(name));
                        @let text = |member: &str| proof.and_then(|p| p.get(member)?.as_str());
                        @let state = now(call, name, text("state").unwrap_or("unchecked"));
                        tr {
                            th scope="row" { (sentence(name)) }
                            td { (light(name, state)) " " (state.replace('_', " ")) }
                            td { code.wrap { (text("ref").unwrap_or("–")) } }
                        }
                    }
                }
            }
        }
    }
}

fn facts(call: &CallView) -> Markup {
    html! {
        dl.facts {
            dt { "Call" } dd { code.wrap { (call.call) } }
            dt { "Came" } dd { (moment(call.opened_at)) }
            dt { "Changed last" } dd { (moment(call.changed_at)) }
            dt { "Counts for" } dd { (price(call)) }
            @if let Some(rail) = call.rail { dt { "Paid over" } dd { (rail.text()) } }
            @if let Some(settlement) = &call.settlement {
                dt { "Settlement" } dd { code.wrap { (settlement.transaction) } }
            }
            @if let Some(grant) = call.grant {
                dt { "Grant" } dd { a href={ "/grants#" (grant) } { (grant) } }
            }
            dt { "Call digest" } dd { code.wrap { (call.call_digest.to_hex()) } }
        }
    }
}

/// The records, in the order of the log.
fn steps(records: &[Value]) -> Markup {
    html! {
        ol.steps {
            @for record in records {
                @let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or("");
                li {
                    strong { (text("kind")) }
                    @if !text("outcome").is_empty() { " · " (text("outcome").replace('_', " ")) }
                    @if !text("refusal").is_empty() { " · " code { (text("refusal")) } }
                    @if let Some(seq) = record.get("seq") { " " span.small { "record " (seq) } }
                    (details(record))
                }
            }
        }
    }
}

fn details(record: &Value) -> Markup {
    let detail = record.get("detail").and_then(Value::as_object);
    html! {
        @if let Some(detail) = detail {
            dl.facts {
                @for (name, value) in detail {
                    dt { (name) } dd { (value.as_str().unwrap_or_default()) }
                }
            }
        }
        details {
            summary { "As it lies in the log" }
            pre.block tabindex="0" {
                code { (serde_json::to_string_pretty(record).unwrap_or_default()) }
            }
        }
    }
}

/// The proof as a file.
pub(super) async fn proof(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    visitor.may(Need::See)?;
    let (call, _) = one(&console, &visitor, &id).await?;
    let bundle = prove(&console, call.call).await;
    let bundle = bundle.map_err(|_| Denied::conflict("the call cannot be proven yet"))?;
    let text = serde_json::to_string_pretty(&bundle);
    let mut response = text.map_err(|_| Refusal::new(Code::InternalFault))?.into_response();
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// A call's proof from the published log, verified; or why there is none.
async fn prove(console: &Console, call: CallId) -> Result<ProofBundle, String> {
    let dir = console.gate().config.data_dir.join("log");
    let key = console.gate().signer.verifier().clone();
    let proving = tokio::task::spawn_blocking(move || {
        let read = |path: &str| match fs::read(dir.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        prove_call(&read, &key, Target::Call(call)).map_err(|error| error.to_string())
    });
    proving.await.unwrap_or_else(|_panicked| Err("the proof could not be made".to_owned()))
}
