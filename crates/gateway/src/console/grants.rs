//! Grants: searched, and ended.

use super::{
    Console,
    page::{Failed, Page, framed, heads, icon, key_field, likeness, moment, name, nothing},
    sign_in::go,
    visitor::{Posted, Visitor},
};
use crate::{
    admin::{actor::Need, denied::Denied, grants},
    fetch::form_pairs,
};
use axum::{
    extract::{Path, State},
    response::Response,
};
use countersign_core::{
    grant::{Grant, GrantStatus, Source},
    ids::GrantId,
    time::UnixMs,
};
use http::Uri;
use maud::{Markup, html};
use std::sync::Arc;

/// All grants, or those that a word is found in.
pub(super) async fn list(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let pairs = form_pairs(uri.query().unwrap_or(""));
    let word = pairs.into_iter().find(|(name, _)| name == "q").map(|(_, word)| word);
    let word = word.unwrap_or_default().trim().to_lowercase();
    let all = console.gate().store.grants();
    let seen: Vec<_> = all
        .iter()
        .filter(|grant| visitor.actor().sees(&grant.terms.tenant) && speaks_of(grant, &word))
        .collect();
    let content = html! {
        div.head {
            h1 { "Grants" }
            p.lead { "Standing consents: what agents may do without asking again. Revoking one holds from the next call on, and for calls that have not started." }
        }
        form.filter method="get" action="/grants" role="search" {
            div {
                label for="q" { "Agent, person, tool or purpose" }
                input id="q" name="q" type="search" value=(word);
            }
            button type="submit" { "Search" }
        }
        @if seen.is_empty() {
            (nothing("No grants", &html! {
                p { "A grant is made when an approver answers a request with “Approve as a grant”, or with " code { "countersign grant create" } "." }
            }))
        } @else { (grant_table(&console, &visitor, &seen)) }
    };
    Ok(framed(&visitor, "/grants", "Grants", &content))
}

fn speaks_of(grant: &Grant, word: &str) -> bool {
    let terms = &grant.terms;
    let names = [&*terms.agent, &*terms.subject, &*terms.server, &*terms.purpose];
    let tools = terms.tools.iter().map(|tool| &**tool);
    names.into_iter().chain(tools).any(|name| name.to_lowercase().contains(word))
        || grant.id.to_string() == word
}

fn grant_table(console: &Console, visitor: &Visitor, grants: &[&Arc<Grant>]) -> Markup {
    let now = console.gate().world.now();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Grants" {
            table {
                (heads(&["Agent", "For", "May use", "#A call", "#Used", "Ends", "State", "Act"]))
                tbody {
                    @for grant in grants.iter().take(500) {
                        @let terms = &grant.terms;
                        tr id=(grant.id) {
                            th scope="row" { (name(&terms.agent)) (likeness(&terms.agent)) }
                            td { (terms.subject) }
                            td {
                                code { (terms.server) "/" (terms.tools.join(", ")) }
                                @if !terms.purpose.is_empty() { br; span.small { (terms.purpose) } }
                                @if let Some(source) = source(grant) { br; span.small { (source) } }
                            }
                            td.num { (terms.per_call) }
                            td.num {
                                (grant.used) @if let Some(total) = terms.total { " of " (total) }
                                br; span.small { (grant.calls) " calls" }
                            }
                            td { (moment(terms.expires_at)) }
                            td { (grant_state(grant, now)) }
                            td { (grant_acts(visitor, grant)) }
                        }
                    }
                }
            }
        }
    }
}

/// Where it came from, if nobody made it here.
fn source(grant: &Grant) -> Option<&'static str> {
    grant.brought.as_ref().map(|brought| match brought.source {
        Source::Rar => "consented to at their sign-in",
        Source::Jws => "signed by their own key",
    })
}

fn grant_state(grant: &Grant, now: UnixMs) -> Markup {
    let word = grant.standing(now);
    let (class, shape) = match word {
        "active" => ("badge yes", "✓"),
        "revoked" => ("badge no", "✕"),
        "suspended" => ("badge wait", "◔"),
        _over => ("badge off", "–"),
    };
    html! { span class=(class) { (icon(shape)) (word) } }
}

fn grant_acts(visitor: &Visitor, grant: &Grant) -> Markup {
    let at = format!("/grants/{}", grant.id);
    let actor = visitor.actor();
    let (agent, subject) = (&grant.terms.agent, &grant.terms.subject);
    let act = |verb: &str, label: &str| {
        let full = format!("{label} the grant of {agent} for {subject}, {}", grant.id);
        html! {
            form.inline method="post" action={ (at) "/" (verb) } {
                (key_field(visitor))
                button.quiet type="submit" aria-label=(full) { (label) }
            }
        }
    };
    html! {
        @if grant.status == GrantStatus::Active && actor.can(Need::Stop) {
            (act("revoke", "Revoke")) " " (act("suspend", "Suspend"))
        }
        @if grant.status == GrantStatus::Suspended {
            @if actor.can(Need::Stop) { (act("revoke", "Revoke")) " " }
            @if actor.can(Need::Answer) { (act("resume", "Resume")) }
        }
    }
}

/// Ends, pauses or takes up again a grant.
pub(super) async fn change(
    State(console): State<Arc<Console>>,
    Path((id, verb)): Path<(String, String)>,
    posted: Posted,
) -> Result<Response, Failed> {
    let status = match &*verb {
        "revoke" => GrantStatus::Revoked,
        "suspend" => GrantStatus::Suspended,
        "resume" => GrantStatus::Active,
        _ => return Err(Denied::not_found("page").into()),
    };
    let id: GrantId = id.parse().map_err(|_| Denied::not_found("grant"))?;
    grants::set_status(&console.gate(), posted.visitor.actor(), id, status).await?;
    Ok(go(&format!("/grants#{id}")))
}
