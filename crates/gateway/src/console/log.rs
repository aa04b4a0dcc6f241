//! The log: its head, its records from the newest on, each with the call that it belongs to.

use super::{
    Console,
    live::look,
    page::{Failed, Page, copyable, framed, heads, nothing},
    visitor::Visitor,
};
use crate::{
    admin::{actor::Need, log},
    fetch::form_pairs,
};
use axum::extract::State;
use http::Uri;
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

/// Records on one page.
const RECORDS: u64 = 100;

/// A page of records, the newest first; `before` continues it.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let size = console.gate.store.log_size();
    let pairs = form_pairs(uri.query().unwrap_or(""));
    let before = pairs.iter().find(|(name, _)| name == "before");
    let before = before.and_then(|(_, text)| text.parse::<u64>().ok()).unwrap_or(size).min(size);
    let from = before.saturating_sub(RECORDS);
    let found = look(&console, move |gate| gate.store.tail(from, before.saturating_sub(from)));
    let records = found.await?.into_iter().rev();
    let records = records.filter(|record| log::may_read(visitor.actor(), &record.leaf));
    let records: Vec<Value> =
        records.filter_map(|record| serde_json::from_slice(&record.leaf).ok()).collect();
    let key = console.gate.signer.verifier().to_string();
    let content = html! {
        div.head {
            h1 { "Log" }
            p.lead { "Every fact that was acknowledged, in a tree whose heads are signed: nothing can be changed, dropped or put in between unseen." }
        }
        dl.tiles {
            div.tile { dt { "Records" } dd { (size) } }
            div.tile { dt { "Published" } dd { (console.gate.store.published_size()) } }
        }
        @if records.is_empty() {
            (nothing("No records here", &html! { p { "Calls of your tenant write here: six records for one that ran, one or more for one that was refused." } }))
        } @else { (table(&records)) }
        @if from > 0 { p { a.button href={ "/log?before=" (from) } { "Older" } } }
        h2 { "Verify it yourself" }
        p { "A call's page verifies its records and exports a proof. The whole log is checked from its files with the public key alone:" }
        (copyable(&format!("countersign audit verify --key '{key}'")))
    };
    Ok(framed(&visitor, "/log", "Log", &content))
}

fn table(records: &[Value]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Records" {
            table {
                (heads(&["#Record", "Kind", "Outcome", "Agent", "Tool", "Call"]))
                tbody {
                    @for record in records {
                        @let text = |name: &str| {
                            record.get(name).and_then(Value::as_str).unwrap_or("–")
                        };
                        @let tool = record.get("tool");
                        @let part = |name: &str| tool.and_then(|tool| tool.get(name)?.as_str());
                        @let call = text("call");
                        tr {
                            td.num { (record.get("seq").and_then(Value::as_u64).unwrap_or_default()) }
                            th scope="row" { (text("kind")) }
                            td { (text("outcome").replace('_', " ")) }
                            td { (text("agent")) }
                            td {
                                @match (part("server"), part("name")) {
                                    (Some(server), Some(name)) => { code { (server) "/" (name) } }
                                    _ => "–"
                                }
                            }
                            td {
                                @if call.starts_with("call_") {
                                    a href={ "/live/" (call) } { "open" span.hidden { " call " (call) } }
                                } @else { "–" }
                            }
                        }
                    }
                }
            }
        }
    }
}
