//! Spend: what calls held, settled, gave back; by agent and by tool, over time; and what budgets
//! leave. A table stands under each chart and says the same.

use super::{
    Console,
    live::look,
    page::{Failed, Page, framed, heads, icon, moment, nothing},
    visitor::Visitor,
};
use crate::{
    admin::{
        actor::{Actor, Need},
        budgets::{self, BurnDown, burn_downs},
        form::BudgetView,
        log,
    },
    gate::Gate,
};
use axum::extract::State;
use countersign_core::{
    audit::record::Record, ledger::CallState, money::Micros, refusal::Refusal, time::UnixMs,
};
use countersign_store::CallView;
use maud::{Markup, html};
use std::{collections::BTreeMap, sync::Arc};

/// Calls that are looked at: the latest ones.
const CALLS: u32 = 5000;
/// Records among which notes of budgets are looked for: the latest ones.
const RECORDS: u64 = 2000;
/// Notes that are shown.
const WARNINGS: usize = 20;
/// Points of the chart.
const POINTS: usize = 60;

/// Sums of one group, in micros of the reference currency.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    calls: u64,
    held: u64,
    settled: u64,
    released: u64,
    refunded: u64,
}

impl Sums {
    fn add(&mut self, call: &CallView) {
        self.calls = self.calls.saturating_add(1);
        let sum = match call.state {
            CallState::Refused => return,
            CallState::Captured => &mut self.settled,
            CallState::Released => &mut self.released,
            CallState::RefundDue | CallState::Refunded => &mut self.refunded,
            CallState::Reserved
            | CallState::Settling
            | CallState::Settled
            | CallState::Starting
            | CallState::Finished
            | CallState::InDoubt => &mut self.held,
        };
        *sum = sum.saturating_add(call.micros.0);
    }
}

/// The page.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let actor = visitor.actor().clone();
    let calls = look(&console, move |gate| gate.store.calls(actor.tenant(), None, CALLS)).await?;
    let seeing = visitor.actor().clone();
    let warned = look(&console, move |gate| warned(gate, &seeing)).await?;
    let budgets = budgets::seen_by(&console.gate(), visitor.actor());
    let total = calls.iter().fold(Sums::default(), |mut sums, call| {
        sums.add(call);
        sums
    });
    let content = html! {
        div.head {
            h1 { "Spend" }
            p.lead { "The latest " (calls.len()) " calls, in the reference currency." }
        }
        @if calls.is_empty() {
            (nothing("Nothing spent", &html! {
                p { "Sums appear with the first call. Set a budget first: " code { "countersign budget set" } " or " code { "budgets" } " in the configuration." }
            }))
        } @else {
            dl.tiles {
                (tile("Held", total.held)) (tile("Settled", total.settled))
                (tile("Released", total.released)) (tile("Owed back or refunded", total.refunded))
            }
            h2 { "Over time" }
            (over_time(&calls))
            h2 { "By team" }
            p.small { "The roles and groups of the person, as budgets count them: who has several is counted in each. Calls that were refused belong to no team." }
            (groups("Team", "Spend by team", &calls, teams))
            h2 { "By agent" }
            (groups("Agent", "Spend by agent", &calls, |call| vec![call.agent.to_string()]))
            h2 { "By tool" }
            (groups("Tool", "Spend by tool", &calls, |call| vec![format!("{}/{}", call.server, call.tool)]))
        }
        h2 { "Budgets" }
        (budget_table(&budgets))
        (warnings(&warned))
        @for burn in burn_downs(&console.gate(), visitor.actor()) { (burn_down(&burn)) }
    };
    Ok(framed(&visitor, "/spend", "Spend", &content))
}

/// Notes of budgets among the latest records, the newest first.
fn warned(gate: &Gate, actor: &Actor) -> Result<Vec<Record>, Refusal> {
    let size = gate.store.log_size();
    let from = size.saturating_sub(RECORDS);
    let latest = gate.store.tail(from, size.saturating_sub(from))?.into_iter().rev();
    let is_note =
        |record: &Record| detail(record, "action") == "budget.warn" && log::concerns(actor, record);
    let records = latest.filter_map(|record| Record::decode(&record.leaf).ok());
    Ok(records.filter(is_note).take(WARNINGS).collect())
}

fn detail<'a>(record: &'a Record, name: &str) -> &'a str {
    record.draft.detail.get(name).map_or("", String::as_str)
}

fn budget_table(budgets: &[BudgetView]) -> Markup {
    html! {
        @if budgets.is_empty() { p { "No budget is set." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Budgets" {
                table {
                    (heads(&["Budget", "Counts", "Window", "#Limit", "#Held", "#Left", "State"]))
                    tbody {
                        @for budget in budgets {
                            tr {
                                th scope="row" { (budget.name) }
                                td { (budget.scope) }
                                td { (budget.window) }
                                td.num { (budget.limit) }
                                td.num { (budget.held.as_deref().unwrap_or("–")) }
                                td.num {
                                    @match &budget.remaining {
                                        Some(left) => (left),
                                        None => { "for each " (budget.needs.join(", ")) }
                                    }
                                }
                                td { (openness(budget)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a budget left, from the beginning of its window on; drawn from its own table.
fn burn_down(burn: &BurnDown) -> Markup {
    let label = format!("What {} left", burn.name);
    html! {
        h3 { "Budget " (burn.name) ": " (burn.limit) " within " (burn.window) }
        figure data-chart data-steps {
            div.plot aria-hidden="true" {}
            div.scroll.short tabindex="0" role="region" aria-label=(label) {
                table {
                    (heads(&["When", "#Left"]))
                    tbody {
                        @for (at, left) in &burn.left {
                            tr data-at=(at.0 / 1000) {
                                td { (moment(*at)) }
                                td.num data-value=(left.0) { (left) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The latest notes that a budget's part was reached, as the log tells them.
fn warnings(records: &[Record]) -> Markup {
    html! {
        @if !records.is_empty() {
            h3 { "Noted lately" }
            div.scroll tabindex="0" role="region" aria-label="Budget warnings" {
                table {
                    (heads(&["When", "Budget", "#Reached", "#Record"]))
                    tbody {
                        @for record in records {
                            tr {
                                td { (moment(record.draft.time)) }
                                th scope="row" { (detail(record, "budget")) }
                                td.num { (detail(record, "percent")) " %" }
                                td.num {
                                    a href={ "/log?before=" (record.seq.saturating_add(1)) } {
                                        (record.seq)
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The teams that a call counts in.
fn teams(call: &CallView) -> Vec<String> {
    match (call.state, call.teams.as_slice()) {
        (CallState::Refused, _) => Vec::new(),
        (_, []) => vec!["no team".to_owned()],
        (_, teams) => teams.iter().map(ToString::to_string).collect(),
    }
}

fn openness(budget: &BudgetView) -> Markup {
    let is_used_up = budget.remaining.as_deref().is_some_and(|left| left.starts_with("0 "));
    html! {
        @if is_used_up { span.badge.no { (icon("✕")) "used up" } }
        @else { span.badge.yes { (icon("✓")) "open" } }
    }
}

fn tile(name: &str, micros: u64) -> Markup {
    html! { div.tile { dt { (name) } dd { (Micros(micros)) } } }
}

fn groups(
    head: &str,
    label: &str,
    calls: &[CallView],
    names: impl Fn(&CallView) -> Vec<String>,
) -> Markup {
    let mut groups: BTreeMap<String, Sums> = BTreeMap::new();
    for call in calls {
        for name in names(call) {
            groups.entry(name).or_default().add(call);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.settled));
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                (heads(&[head, "#Calls", "#Held", "#Settled", "#Released", "#Refunded"]))
                tbody {
                    @for (name, sums) in groups.iter().take(100) {
                        tr {
                            th scope="row" { (name) }
                            td.num { (sums.calls) }
                            td.num { (Micros(sums.held)) }
                            td.num { (Micros(sums.settled)) }
                            td.num { (Micros(sums.released)) }
                            td.num { (Micros(sums.refunded)) }
                        }
                    }
                }
            }
        }
    }
}

/// Settled in all, after each of the latest payments; drawn from its own table.
fn over_time(calls: &[CallView]) -> Markup {
    let is_paid = |call: &&CallView| call.state == CallState::Captured && call.micros.0 > 0;
    let mut sum = 0u64;
    let mut points: Vec<(UnixMs, u64)> = Vec::new();
    for call in calls.iter().rev().filter(is_paid) {
        sum = sum.saturating_add(call.micros.0);
        points.push((call.changed_at, sum));
    }
    let shown = points.len().saturating_sub(POINTS);
    html! {
        @if points.is_empty() { p { "No call was paid yet." } } @else {
            figure data-chart {
                div.plot aria-hidden="true" {}
                div.scroll.short tabindex="0" role="region" aria-label="Settled over time" {
                    table {
                        (heads(&["When", "#Settled in all"]))
                        tbody {
                            @for (at, sum) in points.iter().skip(shown) {
                                tr data-at=(at.0 / 1000) {
                                    td { (moment(*at)) }
                                    td.num data-value=(sum) { (Micros(*sum)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
