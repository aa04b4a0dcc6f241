//! The policy: the bundle in force, its history, a request to try, and the bundle in the shadow.
//!
//! Trying is looking: a form that is sent by GET, answered by the engine in force, and recorded
//! nowhere. What is tried is not believed by anybody.

mod attempt;

use super::{
    Console,
    live::look,
    page::{Failed, Page, framed, heads, nothing},
    visitor::Visitor,
};
use crate::{
    admin::{
        actor::Need,
        form::{ChangeView, ShadowBundle},
        policies::shadow_view,
    },
    config::PolicySource,
    fetch::form_pairs,
    prove::policy::{Clauses, Engine, Explanation, answer_text},
};
use attempt::Tried;
use axum::extract::State;
use countersign_core::policy::AnswerWord;
use countersign_store::KeptPolicy;
use http::Uri;
use maud::{Markup, html};
use std::sync::Arc;

/// The page; with a request in its query, what the policy says to it.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let (gate, actor) = (&console.gate(), visitor.actor());
    let engine = gate.policy.engine();
    let tried = Tried::of(form_pairs(uri.query().unwrap_or("")));
    let kept = look(&console, |gate| gate.store.policies()).await?;
    let shadow = shadow_view(gate, actor).await?.shadow;
    let tools: Vec<String> = gate
        .config
        .servers
        .values()
        .flat_map(|server| server.tools.keys().map(move |tool| format!("{}/{tool}", server.name)))
        .collect();
    let answer = tried.is_asked().then(|| {
        let tenant = actor.tenant().unwrap_or(&gate.config.tenant);
        tried.question(tenant, engine.tables()).map(|question| engine.explain(&question))
    });
    let content = html! {
        div.head {
            h1 { "Policy" }
            p.lead { "The bundle that decides on every attempt. No decision is ever reused." }
        }
        (in_force(&console, &engine))
        h2 id="try" { "Try a request" }
        p.small { "Nothing is called, paid or recorded: the policy in force says what it would answer." }
        (tried.form(&tools))
        @match &answer {
            None => {}
            Some(Err(problem)) => { div.note role="alert" { p { (problem) } } }
            Some(Ok(explanation)) => { (explained(&engine, explanation)) }
        }
        h2 { "In the shadow" }
        (in_shadow(shadow.as_ref()))
        h2 { "History" }
        (history(&kept))
    };
    Ok(framed(&visitor, "/policy", "Policy", &content))
}

fn in_force(console: &Console, engine: &Engine) -> Markup {
    let source = match (engine.manifest(), &console.gate().config.policy) {
        (Some(manifest), _) => format!("revision {}", manifest.revision),
        (None, PolicySource::Builtin) => "built into this version".to_owned(),
        (None, PolicySource::Dir(dir)) => dir.display().to_string(),
    };
    let until = engine.manifest().and_then(|manifest| manifest.not_after_ms);
    let is_signed = console.gate().config.policy_key.is_some();
    html! {
        dl.facts {
            dt { "Bundle" } dd { (source) }
            @if let Some(until) = until { dt { "Valid until" } dd { (super::page::moment(until)) } }
            dt { "Signature" } dd { @if is_signed { "asked for" } @else { "not asked for" } }
            dt { "Digest" } dd { code.wrap { (engine.bundle_digest().to_hex()) } }
        }
        h2 { "What it says" }
        ul { @for sentence in engine.describe() { li { (with_names(&sentence)) } } }
        p.small { "Each call's own decision, with its reasons, is on its page under " a href="/live" { "Live" } "." }
    }
}

/// A sentence in which names stand between backticks.
fn with_names(sentence: &str) -> Markup {
    html! {
        @for (at, part) in sentence.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// The answer, who gave it, and what would have permitted.
fn explained(engine: &Engine, explanation: &Explanation) -> Markup {
    let decision = &explanation.decision;
    let (badge, shape) = match decision.answer.word() {
        AnswerWord::Allow => ("badge yes", "✓"),
        AnswerWord::Challenge => ("badge wait", "…"),
        AnswerWord::Deny => ("badge no", "✕"),
    };
    let sentence = |code: &str| engine.tables().reasons.sentence(code).map(str::to_owned);
    html! {
        section.note id="answer" aria-label="Answer" {
            p { span class=(badge) { (super::page::icon(shape)) (answer_text(&decision.answer)) } }
            ul {
                @for reason in &decision.reasons {
                    li {
                        @if let Some(sentence) = sentence(&reason.code) {
                            (super::page::sentence(&sentence)) " "
                        }
                        code { (reason.code) } " by " code { (reason.policy) }
                    }
                }
            }
            @for rule in &explanation.decided { (clauses("Because", rule)) }
            @if let Some(rule) = &explanation.nearest { (clauses("The permit that came nearest failed in", rule)) }
        }
    }
}

fn clauses(what: &str, rule: &Clauses) -> Markup {
    html! {
        @if !rule.clauses.is_empty() {
            h3 { (what) " " code { (rule.policy) } }
            @for clause in &rule.clauses {
                pre.block tabindex="0" { code { (clause.text) } }
                @if !clause.values.is_empty() {
                    dl.facts {
                        @for (name, value) in &clause.values {
                            dt { code.wrap { (name) } }
                            dd { code.wrap { (value) } }
                        }
                    }
                }
            }
        }
    }
}

fn in_shadow(shadow: Option<&ShadowBundle>) -> Markup {
    let Some(shadow) = shadow else {
        return nothing(
            "No bundle in the shadow",
            &html! {
                p { "A second bundle can answer every decision beside this one and change nothing, to see where it differs before it is put in force:" }
                p { code.wrap { "countersign policy shadow set DIR" } }
            },
        );
    };
    html! {
        dl.tiles {
            div.tile { dt { "Revision" } dd { (shadow.revision) } }
            div.tile { dt { "Compared" } dd { (shadow.compared) } }
            div.tile { dt { "Answered otherwise" } dd { (shadow.changed) } }
            @if shadow.dropped > 0 { div.tile { dt { "Not compared" } dd { (shadow.dropped) } } }
        }
        p.small { "Set by " (super::page::name(&shadow.set_by)) ". Counted since " (shadow.since) "." }
        @if let Some(problem) = &shadow.problem {
            div.note role="alert" { p { "It does not answer: " (problem) "." } }
        }
        @if shadow.rows.is_empty() {
            p { "So far it answers as the bundle in force does." }
        } @else { (changes(&shadow.rows)) }
    }
}

fn changes(rows: &[ChangeView]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="What the shadow bundle answers otherwise" {
            table {
                (heads(&["In force", "In the shadow", "Policies behind it", "Tool", "#Calls", "Such as"]))
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row.from) }
                            td { (row.to) }
                            td { (row.policies.join(", ")) }
                            td { code { (row.tool) } }
                            td.num { (row.count) }
                            td {
                                @if let Some(call) = row.calls.last() {
                                    a href={ "/live/" (call) } { "open" span.hidden { " call " (call) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn history(kept: &[KeptPolicy]) -> Markup {
    if kept.is_empty() {
        return nothing(
            "Nothing was activated yet",
            &html! {
                p { "Bundles that are put in force while the gateway runs are kept here, to go back to:" }
                p { code.wrap { "countersign policy activate DIR" } }
            },
        );
    }
    html! {
        div.scroll tabindex="0" role="region" aria-label="Bundles that were in force" {
            table {
                (heads(&["#Revision", "State", "Activated", "By", "Digest"]))
                tbody {
                    @for policy in kept {
                        @let digest = policy.digest.to_hex();
                        tr {
                            td.num { (policy.revision) }
                            td {
                                @if policy.is_in_force {
                                    span class="badge yes" { (super::page::icon("✓")) "in force" }
                                } @else { "kept" }
                            }
                            td { (super::page::moment(policy.at)) }
                            td { (super::page::name(&policy.by)) }
                            td { code { (digest.get(..16).unwrap_or_default()) "…" } }
                        }
                    }
                }
            }
        }
        p.small { "An operator at the gateway's machine goes back with " code { "countersign policy rollback REVISION" } "." }
    }
}
