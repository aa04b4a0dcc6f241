//! What holds: the tools with their prices, and how a client is connected.

use super::{
    Console,
    page::{Failed, Page, copyable, framed, heads, nothing},
    visitor::Visitor,
};
use crate::{
    admin::actor::Need,
    config::{DefaultTool, Server},
};
use axum::extract::State;
use countersign_core::terms::{ConsentRule, IdentityRule, PriceRule, Terms};
use maud::{Markup, html};
use std::sync::Arc;

/// Tools and prices.
pub(super) async fn tools(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let config = &console.gate.config;
    let content = html! {
        div.head {
            h1 { "Tools and prices" }
            p.lead { "What agents may call, what it costs, and what it asks of them. Prices and terms are the configuration's." }
        }
        @if config.servers.is_empty() {
            (nothing("No servers", &html! { p { "Name an MCP server under " code { "servers" } " in the configuration, and its tools with their prices." } }))
        }
        @for server in config.servers.values() { (server_tools(&console, &visitor, server)) }
    };
    Ok(framed(&visitor, "/tools", "Tools and prices", &content))
}

fn server_tools(console: &Console, visitor: &Visitor, server: &Server) -> Markup {
    html! {
        h2 { (server.name) }
        p.small { code.wrap { (server.resource) } }
        div.scroll tabindex="0" role="region" aria-label={ "Tools of " (server.name) } {
            table {
                (heads(&["Tool", "Price", "Who may call", "Consent", "Intent", "#Sensitivity"]))
                tbody {
                    @for terms in server.tools.values() { (tool(console, visitor, &terms.tool.tool, terms)) }
                    @match &server.default {
                        DefaultTool::Refuse => {
                            tr {
                                th scope="row" { "every other" }
                                td colspan="5" { "hidden and refused" }
                            }
                        }
                        DefaultTool::Terms(terms) => { (tool(console, visitor, "every other", terms)) }
                    }
                }
            }
        }
    }
}

fn tool(console: &Console, visitor: &Visitor, name: &str, terms: &Terms) -> Markup {
    let assets = &console.gate.config.assets;
    let who = match terms.identity {
        IdentityRule::Human => "people's agents",
        IdentityRule::Required => "any token",
        IdentityRule::Anonymous => "anybody",
    };
    html! {
        tr {
            th scope="row" { code { (name) } }
            td {
                @if terms.prices.is_empty() { "free" }
                @let seen = seen_by(visitor, &terms.prices);
                @if seen.is_empty() && !terms.prices.is_empty() { "not for your tenant" }
                @for rule in seen {
                    @let amounts = rule.amounts.iter().map(|a| assets.show(a));
                    @let amounts: Vec<String> = amounts.collect();
                    @if amounts.is_empty() { "free" } @else { (amounts.join(" or ")) }
                    @if let Some(tenant) = &rule.tenant { " for tenant " (tenant) }
                    @if let Some(agent) = &rule.agent { " for agent " (agent) }
                    br;
                }
            }
            td { (who) }
            td { @if terms.consent == ConsentRule::NotRequired { "not needed" } @else { "a grant or an approval" } }
            td { @match terms.intent { Some(intent) => (intent.text()), None => "by its name" } }
            td.num { (terms.sensitivity) }
        }
    }
}

/// The prices that concern the visitor: what another tenant pays is not theirs to see.
fn seen_by<'a>(visitor: &Visitor, prices: &'a [PriceRule]) -> Vec<&'a PriceRule> {
    let is_seen = |rule: &&PriceRule| {
        rule.tenant.as_deref().is_none_or(|tenant| visitor.actor().sees(tenant))
    };
    prices.iter().filter(is_seen).collect()
}

/// How a client is connected.
pub(super) async fn connect(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    visitor.may(Need::Known)?;
    let config = &console.gate.config;
    let content = html! {
        div.head {
            h1 { "Connect a client" }
            p.lead { "An MCP client needs the address of a server here. It finds the sign-in by itself: the gateway's answer names the issuer." }
        }
        @for server in config.servers.values() {
            @let url = format!("{}/{}/mcp", config.public_url, server.name);
            h2 { (server.name) }
            (copyable(&url))
            h3 { "Claude Code" }
            (copyable(&format!("claude mcp add --transport http {} {url}", server.name)))
            h3 { "VS Code, Cursor and others with an mcp.json" }
            (copyable(&format!("{{\n  \"servers\": {{\n    \"{}\": {{ \"type\": \"http\", \"url\": \"{url}\" }}\n  }}\n}}", server.name)))
            h3 { "TypeScript SDK" }
            (copyable(&format!("const transport = new StreamableHTTPClientTransport(new URL(\"{url}\"));\nawait client.connect(transport);")))
        }
    };
    Ok(framed(&visitor, "/connect", "Connect a client", &content))
}
