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
use serde_json::{Value, json};
use std::sync::Arc;

/// Tools and prices.
pub(super) async fn tools(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let config = &console.gate().config;
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
                    @for terms in server.tools.values() {
                        (tool(console, visitor, &terms.tool.tool, terms))
                    }
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
    let assets = &console.gate().config.assets;
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
                    @let work = rule.work.then(|| "proof of work".to_owned());
                    @let amounts = rule.amounts.iter().map(|a| assets.show(a)).chain(work);
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
    let config = &console.gate().config;
    let content = html! {
        div.head {
            h1 { "Connect a client" }
            p.lead { "An MCP client needs the address of a server here. It finds the sign-in by itself: the gateway's answer names the issuer." }
        }
        @if config.servers.is_empty() {
            (nothing("No servers", &html! { p { "Name an MCP server under " code { "servers" } " in the configuration; each gets an address of its own here." } }))
        }
        @for server in config.servers.values() {
            @let url = format!("{}/{}/mcp", config.public_url, server.name);
            h2 { (server.name) }
            (copyable(&url))
            @for (index, client) in clients(&server.name, &url).into_iter().enumerate() {
                details open[index == 0] {
                    summary { (client.name) }
                    p.small { (client.note) }
                    (copyable(&client.text))
                }
            }
        }
    };
    Ok(framed(&visitor, "/connect", "Connect a client", &content))
}

/// What is pasted into one client.
struct Client {
    name: &'static str,
    note: &'static str,
    text: String,
}

/// What is pasted into each client that we know of. Those with a browser sign in by themselves.
fn clients(name: &str, url: &str) -> [Client; 6] {
    let pretty = |value: Value| serde_json::to_string_pretty(&value).unwrap_or_default();
    [
        Client {
            name: "Claude Code",
            note: "In a shell. Then /mcp within Claude Code signs you in.",
            text: format!("claude mcp add --transport http {name} {url}"),
        },
        Client {
            name: "Claude Desktop",
            note: "In claude_desktop_config.json (Settings, Developer, Edit Config), which starts local programs alone: mcp-remote of npm carries the messages and signs you in. An address that the Internet reaches can be added under Settings, Connectors instead.",
            text: pretty(json!({ "mcpServers": { name: {
                "command": "npx", "args": ["-y", "mcp-remote", url],
            } } })),
        },
        Client {
            name: "Cursor",
            note: "In .cursor/mcp.json, or ~/.cursor/mcp.json for every project. Leave headers out to sign in with the browser.",
            text: pretty(json!({ "mcpServers": { name: {
                "url": url, "headers": { "Authorization": "Bearer ${env:TOKEN}" },
            } } })),
        },
        Client {
            name: "VS Code",
            note: "In .vscode/mcp.json. It signs you in with the browser.",
            text: pretty(json!({ "servers": { name: { "type": "http", "url": url } } })),
        },
        Client {
            name: "Python",
            note: "The official SDK, PyPI mcp. The access token is in the environment as TOKEN.",
            text: PYTHON.replace("{url}", url),
        },
        Client {
            name: "TypeScript",
            note: "The official SDK, npm @modelcontextprotocol/sdk. The access token is in the environment as TOKEN.",
            text: TYPESCRIPT.replace("{url}", url),
        },
    ]
}

const PYTHON: &str = r#"import asyncio
import os

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main():
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with (
        httpx.AsyncClient(headers=headers, timeout=60) as http,
        streamable_http_client("{url}", http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        for tool in (await session.list_tools()).tools:
            print(tool.name)


asyncio.run(main())"#;

const TYPESCRIPT: &str = r#"import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const client = new Client({ name: 'my-agent', version: '1.0.0' });
const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
await client.connect(new StreamableHTTPClientTransport(new URL('{url}'), { requestInit: { headers } }));
for (const tool of (await client.listTools()).tools) console.log(tool.name);
await client.close();"#;
