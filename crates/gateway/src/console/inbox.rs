//! The inbox: requests that wait for a person, one request with all that a decision needs, and the
//! answers to it.
//!
//! INVARIANT: an answer carries the digest of what its page showed; when that has changed since,
//! it counts for nothing.

use super::{
    Console,
    live::look,
    page::{
        Failed, Page, framed, heads, icon, key_field, likeness, moment, name, nothing, sentence,
        until,
    },
    sign_in::{go, step_up_to},
    visitor::{Posted, Visitor},
};
use crate::{
    admin::{
        actor::Need,
        approvals::{self, Said},
        denied::Denied,
        form::{ApprovalView, Caps, Proposal, Reply, RiskView},
        grants,
    },
    gate::Gate,
};
use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use countersign_core::{
    approval::{Approval, ApprovalStatus, AskKind},
    ids::ApprovalId,
    ledger::{Charge, Spender, Window},
    money::Micros,
    proof::{Delegator, Principal},
    refusal::Code,
    terms::ToolRef,
    time::UnixMs,
};
use http::{HeaderValue, StatusCode, header};
use maud::{Markup, html};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The page of all requests.
pub(super) async fn list(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let content = html! {
        div.head {
            h1 { "Inbox" }
            p.lead { "What agents want to do and may not without a person." }
        }
        div hx-ext="sse" sse-connect="/events" {
            div hx-get="/inbox/rows" hx-trigger="sse:changed" hx-swap="innerHTML" {
                (all_rows(&console.gate(), &visitor))
            }
        }
        (key_help())
    };
    framed(&visitor, "/", "Inbox", &content)
}

/// Only its rows, for the live view.
pub(super) async fn rows(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    Page(all_rows(&console.gate(), &visitor))
}

fn all_rows(gate: &Gate, visitor: &Visitor) -> Markup {
    let seen = gate.store.approvals().into_iter().filter(|a| visitor.actor().may_see(a));
    let (waiting, answered): (Vec<_>, Vec<_>) =
        seen.partition(|approval| approval.status == ApprovalStatus::Pending);
    let now = gate.world.now();
    html! {
        @if waiting.is_empty() {
            (nothing("Nothing waits for you", &html! {
                p { "A request appears here when a call has no grant that covers it, or when policy wants a person to confirm it. The agent gets a link to it and waits; it is charged nothing meanwhile." }
                p { "This page updates by itself." }
            }))
        } @else {
            ul.cards aria-label="Waiting requests" {
                @for approval in &waiting { (card(approval, now)) }
            }
        }
        @if !answered.is_empty() {
            h2 { "Answered in the last hour" }
            div.scroll tabindex="0" role="region" aria-label="Answered requests" {
                table {
                    (heads(&["Request", "Price", "Answer", "By", "When"]))
                    tbody { @for approval in answered.iter().take(50) { (answered_row(approval)) } }
                }
            }
        }
    }
}

fn card(approval: &Approval, now: UnixMs) -> Markup {
    let ask = &approval.ask;
    html! {
        li.card {
            a.row href={ "/approvals/" (approval.id) } data-row {
                span.what { strong { (name(&ask.agent)) } " wants " code { (ask.server) "/" (ask.tool) } }
                span.price { (ask.price) }
                span.meta {
                    span.tag { (ask.intent.text()) }
                    @if ask.quorum.needed > 1 {
                        span.tag { (approval.yes.len()) " of " (ask.quorum.needed) " agreed" }
                    }
                    @if let Some(risk) = &approval.risk {
                        @let risk = RiskView::of(risk);
                        (risk_badge(&risk))
                        @if let Some(worst) = risk.points.first() { span { (worst.says) } }
                    }
                    span { "for " (ask.subject) }
                    span.time { (until(approval.expires_at, now)) }
                }
            }
        }
    }
}

fn answered_row(approval: &Approval) -> Markup {
    let (ask, last) = (&approval.ask, approval.last());
    html! {
        tr {
            td { a href={ "/approvals/" (approval.id) } { (name(&ask.agent)) " → " (ask.server) "/" (ask.tool) } }
            td.num { (ask.price) }
            td { (status_badge(approval.status)) }
            td { @if let Some(given) = last { (given.by.subject) } @else { "–" } }
            td { @if let Some(given) = last { (moment(given.at)) } @else { "–" } }
        }
    }
}

/// Where a request stands: a shape and a word.
fn status_badge(status: ApprovalStatus) -> Markup {
    let (class, shape, word) = match status {
        ApprovalStatus::Pending => ("badge wait", "◔", "waiting"),
        ApprovalStatus::Approved => ("badge yes", "✓", "approved"),
        ApprovalStatus::Denied => ("badge no", "✕", "denied"),
        ApprovalStatus::Expired => ("badge off", "–", "expired"),
        ApprovalStatus::Consumed => ("badge yes", "✓", "approved and used"),
        ApprovalStatus::Void => ("badge off", "–", "void: asked anew"),
    };
    html! { span class=(class) { (icon(shape)) (word) } }
}

/// A call's risk: a shape by its height, the bundle's word and the score.
fn risk_badge(risk: &RiskView) -> Markup {
    let (class, shape) = match risk.score {
        0..30 => ("badge off", "▁"),
        30..70 => ("badge wait", "▄"),
        _ => ("badge no", "█"),
    };
    html! { span class=(class) { (icon(shape)) (risk.band) " risk, " (risk.score) } }
}

/// What makes the call risky, each with its weight.
fn risk(risk: &RiskView) -> Markup {
    html! {
        section id="risk" {
            h2 { "Why this is risky" }
            p { (risk_badge(risk)) " " span.small { "of 100, when it was asked" } }
            @if risk.points.is_empty() { p { "Nothing about this call is unusual or powerful." } }
            @else {
                ul.points {
                    @for point in &risk.points {
                        li {
                            span.tag { "+" (point.points) } " " (point.says) " "
                            code.small { (point.code) }
                        }
                    }
                }
            }
        }
    }
}

fn key_help() -> Markup {
    html! {
        p.keys { "Keys: " kbd { "j" } " " kbd { "k" } " next, previous · " kbd { "Enter" } " open · " kbd { "a" } " approve · " kbd { "d" } " deny. A key only leads to the button: " kbd { "Enter" } " presses it." }
    }
}

/// One request: the page that agents hand to their humans.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Page, Failed> {
    let approval = visible(&console.gate(), &visitor, &id)?;
    let asked = approval.clone();
    let view = look(&console, move |gate| approvals::view(gate, &asked)).await?;
    let content = html! {
        p.crumb { a href="/" { "← Inbox" } }
        div.head {
            h1 { (ask_title(&approval)) }
            p { (status_badge(approval.status)) " " (standing(&approval, console.gate().world.now())) }
        }
        (facts(&console.gate(), &approval, &view))
        @if approval.status == ApprovalStatus::Pending {
            h2 { "Your answer" }
            (step_up_note(&console, &visitor))
            (answers(&visitor, &approval, &view))
        }
        (bound_to(&approval, &view))
    };
    Ok(framed(&visitor, "/", "Request", &content))
}

fn visible(gate: &Gate, visitor: &Visitor, id: &str) -> Result<Approval, Failed> {
    let found = id.parse::<ApprovalId>().ok().and_then(|id| gate.store.approval(id));
    let found = found.filter(|approval| visitor.actor().may_see(approval));
    found.ok_or_else(|| Denied::not_found("approval").into())
}

fn ask_title(approval: &Approval) -> Markup {
    let ask = &approval.ask;
    html! { "May " strong { (name(&ask.agent)) } " use " code { (ask.server) "/" (ask.tool) } "?" }
}

/// Where it stands, in a sentence.
fn standing(approval: &Approval, now: UnixMs) -> Markup {
    let by = approval.last().map(|given| given.by.to_string()).unwrap_or_default();
    let reason = approval.last().and_then(|given| given.reason.as_deref());
    html! {
        @match approval.status {
            ApprovalStatus::Pending => {
                @if approval.ask.quorum.needed > 1 {
                    (approval.yes.len()) " of " (approval.ask.quorum.needed) " people agreed. "
                }
                (until(approval.expires_at, now)) "."
            }
            ApprovalStatus::Approved => {
                "By " (by) ". The agent can make this very call now, once; it runs when the agent repeats it."
            }
            ApprovalStatus::Denied => {
                "By " (by) @if let Some(reason) = reason { ": “" (reason) "”" } ". The agent is told."
            }
            ApprovalStatus::Expired => "Nobody answered, or the answer was not used in time. When the agent asks again, a new request appears."
            ApprovalStatus::Consumed => { "By " (by) ". The call was made." }
            ApprovalStatus::Void => "What was asked has changed since; the agent asks anew."
        }
    }
}

/// That a yes can want a new sign-in, where the one at hand would not do.
fn step_up_note(console: &Console, visitor: &Visitor) -> Markup {
    let step_up = console.config.step_up.as_ref();
    let step_up = step_up.filter(|up| !visitor.session.entry.meets(up, console.gate().world.now()));
    html! {
        @if let Some(step_up) = step_up {
            p.note { "A yes to more than " strong { (step_up.above) } " asks you to sign in again, and leads back here. A grant counts with all that it allows." }
        }
    }
}

/// The three answers.
fn answers(visitor: &Visitor, approval: &Approval, view: &ApprovalView) -> Markup {
    if visitor.actor().may_answer(approval).is_err() {
        return html! { p.note { "You may see this request, but your role does not answer it." } };
    }
    if let Err(refusal) = approval.admits(&visitor.actor().approver()) {
        let rule = refusal.facts().iter().find(|fact| fact.name == "rule");
        let rule = rule.map(|fact| fact.value.as_str()).unwrap_or("you may not answer this");
        return html! { p.note { "Your yes does not count here: " (rule) "." } };
    }
    let at = format!("/approvals/{}", approval.id);
    let hidden = html! {
        (key_field(visitor))
        input type="hidden" name="content" value=(view.content);
    };
    html! {
        div.answers {
            form.once method="post" action={ (at) "/approve" } {
                (hidden)
                input type="hidden" name="as" value="once";
                @if let Some(proposal) = &view.proposal {
                    h2 { "The grant that was proposed" }
                    (proposed(proposal))
                    button.yes id="approve" type="submit" { (icon("✓")) "Agree to this grant" }
                } @else {
                    h2 { "This once" }
                    p { "The agent may make this very call one time, at " strong { (approval.ask.price) } "." }
                    button.yes id="approve" type="submit" { (icon("✓")) "Approve once" }
                }
            }
            form.deny method="post" action={ (at) "/deny" } {
                (hidden)
                h2 { "No" }
                label for="reason" { "Reason, told to the agent" }
                textarea id="reason" name="reason" rows="2" maxlength="1000" {}
                button.no id="deny" type="submit" { (icon("✕")) "Deny" }
            }
            @if approval.ask.kind == AskKind::Consent { (grant_form(&at, &hidden, approval)) }
        }
    }
}

/// What others agreed to already: a yes makes it a grant.
fn proposed(proposal: &Proposal) -> Markup {
    let tools = proposal.tools.join(", ");
    let intents: Vec<&str> = proposal.intents.iter().map(|intent| intent.text()).collect();
    html! {
        p { "A yes lets the agent use this without asking, within these limits:" }
        dl.facts {
            dt { "Tools" } dd { code { (tools) } " " (intents.join(", ")) }
            dt { "At most a call" } dd { (proposal.per_call) }
            dt { "At most in all" } dd { (proposal.total.as_deref().unwrap_or("no limit")) }
            @if !proposal.windows.is_empty() {
                dt { "Within" } dd { (proposal.windows.join(", ")) }
            }
            dt { "Calls, at most" }
            dd { @if let Some(calls) = proposal.max_calls { (calls) } @else { "no limit" } }
            dt { "Ends" } dd { time datetime=(proposal.expires_at) { (proposal.expires_at) } }
        }
    }
}

/// Yes from now on, within limits.
fn grant_form(at: &str, hidden: &Markup, approval: &Approval) -> Markup {
    let price = approval.ask.micros;
    let ten = Micros(price.0.saturating_mul(10));
    html! {
        form.grant method="post" action={ (at) "/approve" } {
            (hidden)
            input type="hidden" name="as" value="grant";
            h2 { "From now on, within limits" }
            p { "A grant lets this agent use this tool again without asking, until a limit is reached or you revoke it." }
            div.fields {
                div {
                    label for="per_call" { "At most a call" }
                    input id="per_call" name="per_call" value=(price) required;
                }
                div {
                    label for="total" { "At most in all" }
                    input id="total" name="total" value=(ten);
                }
                div {
                    label for="max_calls" { "Calls, at most" }
                    input id="max_calls" name="max_calls" inputmode="numeric" pattern="[0-9]*"
                        placeholder="no limit";
                }
                div {
                    label for="expires" { "Ends after" }
                    select id="expires" name="expires" {
                        option value="1h" { "1 hour" }
                        option value="24h" selected { "24 hours" }
                        option value="7d" { "7 days" }
                        option value="30d" { "30 days" }
                    }
                }
                div.wide {
                    label for="purpose" { "What for" }
                    input id="purpose" name="purpose" maxlength="1000"
                        value=[approval.ask.purpose.as_deref()];
                }
            }
            button id="grant" type="submit" { (icon("✓")) "Approve as a grant" }
        }
    }
}

/// All that was asked.
fn facts(gate: &Gate, approval: &Approval, view: &ApprovalView) -> Markup {
    let ask = &approval.ask;
    html! {
        section {
            h2 { "What is asked" }
            dl.facts {
                dt { "Agent" } dd { (name(&ask.agent)) (likeness(&ask.agent)) }
                dt { "For" } dd { (name(&ask.subject)) " " span.small { "at " (ask.issuer) } }
                dt { "Tool" } dd { code { (ask.server) "/" (ask.tool) } " " span.tag { (ask.intent.text()) } }
                @if let Some(purpose) = &ask.purpose {
                    dt { "Purpose, by the agent's word" } dd { (purpose) }
                }
                dt { "Price" } dd { strong { (ask.price) } " " span.small { "counts as " (ask.micros) } }
                dt { "Paid to" }
                dd {
                    @if ask.payees.is_empty() { "nobody" }
                    @for payee in &ask.payees { code.wrap { (payee) } " " }
                }
                dt { "Why you are asked" }
                dd { ul.plain { @for reason in &view.reasons { li { (reason_words(reason)) } } } }
                dt { "Asked" } dd { (moment(approval.requested_at)) }
                @if !approval.yes.is_empty() {
                    @let who: Vec<&str> = approval.yes.iter().map(|g| &*g.by.subject).collect();
                    dt { "Agreed" } dd { (who.join(", ")) }
                }
                @if let Some(grant) = approval.grant {
                    dt { "Grant made" } dd { a href={ "/grants#" (grant) } { (grant) } }
                }
            }
        }
        @if let Some(seen) = &view.risk { (risk(seen)) }
        section {
            h2 { "Arguments" }
            (arguments(view))
        }
        section {
            h2 { "Budgets after this call" }
            (budgets(gate, approval))
        }
    }
}

fn bound_to(approval: &Approval, view: &ApprovalView) -> Markup {
    html! {
        details {
            summary { "What an answer is bound to" }
            dl.facts {
                dt { "Request" } dd { code.wrap { (approval.id) } }
                dt { "Call digest" } dd { code.wrap { (view.call_digest) } }
                dt { "Content shown" } dd { code.wrap { (view.content) } }
            }
        }
    }
}

/// A reason in words: a refusal's sentence, or policy's own code made readable.
fn reason_words(reason: &str) -> String {
    if let Some(code) = Code::from_text(reason) {
        return format!("{} ({reason})", sentence(code.row().title));
    }
    match reason {
        "HUMAN_CONFIRM_REQUIRED" => {
            "Policy wants a person to confirm calls like this one".to_owned()
        }
        other => format!("{} ({other})", sentence(&other.to_lowercase().replace('_', " "))),
    }
}

/// Each argument, marked where it differs from the last call that was agreed to.
fn arguments(view: &ApprovalView) -> Markup {
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(&view.arguments) else {
        return html! {
            p { "They are long; this is their beginning." }
            pre.block tabindex="0" { code { (view.arguments) } }
        };
    };
    let is_new = view.changed.is_none();
    let is_changed = |name: &str| {
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        view.changed.as_ref().is_some_and(|changed| changed.contains(&pointer))
    };
    html! {
        @if is_new { p.small { "There is no earlier call of this kind to compare with." } }
        @else { p.small { "Compared with the last call of this agent to this tool that was agreed to." } }
        @if members.is_empty() { p { "None." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Arguments" {
                table {
                    (heads(&["Name", "Value", "Since last time"]))
                    tbody {
                        @for (name, value) in &members {
                            tr {
                                th scope="row" { (name) }
                                td { (value_cell(value)) }
                                td {
                                    @if is_new { "–" }
                                    @else if is_changed(name) { span.badge.wait { (icon("≠")) "changed" } }
                                    @else { span.badge.off { (icon("=")) "same" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn value_cell(value: &Value) -> Markup {
    match value {
        Value::String(text) => html! { span.value { (text) } },
        Value::Array(_) | Value::Object(_) => {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            html! { pre.block { code { (text) } } }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => html! { code { (value) } },
    }
}

/// What each budget that the call is charged to leaves now, and after it.
fn budgets(gate: &Gate, approval: &Approval) -> Markup {
    let ask = &approval.ask;
    let principal = Principal {
        tenant: Arc::clone(&ask.tenant),
        delegator: Some(Delegator {
            issuer: Arc::clone(&ask.issuer),
            subject: Arc::clone(&ask.subject),
            is_human: true,
        }),
        agent: Arc::clone(&ask.agent),
        chain: Vec::new(),
        roles: Vec::new(),
    };
    let tool = ToolRef { server: Arc::clone(&ask.server), tool: Arc::clone(&ask.tool) };
    let now = gate.world.now();
    // What depends on a team, a session or a grant is known only when the call comes.
    let spender = Spender {
        principal: &principal,
        tool: &tool,
        intent: ask.intent,
        session: "",
        grant: None,
    };
    let set = gate.store.budgets();
    let all = gate.config.budgets.iter().chain(set.iter().map(|budget| &**budget));
    let charges: Vec<Charge> = all
        .filter(|budget| budget.window != Window::Session)
        .flat_map(|budget| budget.charges(&spender))
        .collect();
    let left: Vec<(&str, Micros, Micros)> = charges
        .iter()
        .map(|charge| (charge.name(), charge.limit, gate.store.room(charge, now)))
        .collect();
    html! {
        @if left.is_empty() { p { "No budget counts this call." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Budgets" {
                table {
                    (heads(&["Budget", "#Limit", "#Left now", "#Left after"]))
                    tbody {
                        @for (name, limit, left) in &left {
                            tr {
                                th scope="row" { (name) }
                                td.num { (limit) }
                                td.num { (left) }
                                td.num {
                                    @match left.0.checked_sub(ask.micros.0) {
                                        Some(after) => (Micros(after)),
                                        None => span.badge.no { (icon("✕")) "not enough" },
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

/// Says yes.
pub(super) async fn approve(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Failed> {
    let grant = match posted.get("as") {
        Some("once") => None,
        Some("grant") => Some(caps(&posted)?),
        Some(_) | None => return Err(Denied::invalid("as", "expected `once` or `grant`").into()),
    };
    answer(&console, &id, &posted, grant, Said::Yes).await
}

/// Says no.
pub(super) async fn deny(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    posted: Posted,
) -> Result<Response, Failed> {
    answer(&console, &id, &posted, None, Said::No).await
}

/// The limits of a grant, from the form.
fn caps(posted: &Posted) -> Result<Caps, Denied> {
    let max_calls = posted.get("max_calls").map(|text| {
        text.parse().map_err(|_| Denied::invalid("max_calls", "expected a whole number"))
    });
    Ok(Caps {
        per_call: posted.get("per_call").map(str::to_owned),
        total: posted.get("total").map(str::to_owned),
        windows: Vec::new(),
        max_calls: max_calls.transpose()?,
        expires: posted.text("expires"),
        purpose: posted.text("purpose"),
        ..Caps::default()
    })
}

async fn answer(
    console: &Console,
    id: &str,
    posted: &Posted,
    grant: Option<Caps>,
    said: Said,
) -> Result<Response, Failed> {
    let gate = &console.gate();
    let actor = posted.visitor.actor();
    let approval = visible(gate, &posted.visitor, id)?;
    if grant.is_some() {
        may_grant(&posted.visitor, &approval)?;
    }
    if said == Said::Yes
        && !is_signed_in_for((console, gate), &posted.visitor, &approval, grant.as_ref())?
    {
        actor.may_answer(&approval)?;
        let to = step_up_to(&format!("/approvals/{}", approval.id));
        return Ok(anew(&posted.visitor, &to));
    }
    let content = posted.get("content").map(str::to_owned);
    let content = content.ok_or_else(|| Denied::invalid("content", "expected what was shown"))?;
    let reason = posted.get("reason").map(str::to_owned);
    let reply = Reply { reason, content: Some(content), grant };
    approvals::answer(gate, approval.id, actor, reply, said).await?;
    Ok(go(&format!("/approvals/{}", approval.id)))
}

/// Whether the visitor's sign-in is fresh and strong enough for this yes.
fn is_signed_in_for(
    (console, gate): (&Console, &Gate),
    visitor: &Visitor,
    approval: &Approval,
    grant: Option<&Caps>,
) -> Result<bool, Failed> {
    let Some(step_up) = &console.config.step_up else { return Ok(true) };
    let entry = &visitor.session.entry;
    let is_small = allowed(gate, approval, grant)? <= step_up.above;
    Ok(is_small || entry.meets(step_up, gate.world.now()))
}

/// The most that a yes lets the agent spend.
fn allowed(gate: &Gate, approval: &Approval, grant: Option<&Caps>) -> Result<Micros, Failed> {
    let no_limit = Micros(u64::MAX);
    let in_all = match (grant, &approval.proposal) {
        (Some(caps), _) => match &caps.total {
            Some(total) => grants::money(gate, "total", total)?,
            None => no_limit,
        },
        (None, Some(proposal)) => proposal.total.unwrap_or(no_limit),
        (None, None) => approval.ask.micros,
    };
    Ok(in_all.max(approval.ask.micros))
}

/// Leads to a sign-in. A form's answer may not redirect to another origin (`form-action`), so the
/// page that it leads to goes on by itself.
fn anew(visitor: &Visitor, to: &str) -> Response {
    let content = html! {
        div.empty {
            h1 { "Sign in again" }
            p { "A yes to this amount wants a fresh sign-in. Nothing was answered; from the sign-in you come back to the request." }
            p { a.button href=(to) { "Sign in" } }
        }
    };
    let mut response = framed(visitor, "/", "Sign in again", &content).into_response();
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    if let Ok(refresh) = HeaderValue::from_str(&format!("0; url={to}")) {
        response.headers_mut().insert(header::REFRESH, refresh);
    }
    response
}

/// A grant is made by an approver, or by the person whose agent it is for.
fn may_grant(visitor: &Visitor, approval: &Approval) -> Result<(), Failed> {
    if visitor.actor().is_asked_for(approval) { Ok(()) } else { visitor.may(Need::Answer) }
}
