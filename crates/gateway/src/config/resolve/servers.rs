//! Servers: endpoints, headers, and who may relay.

use super::{Vault, is_loopback, name, scopes, terms, web_url};
use crate::{
    config::{
        DefaultTool, PaymentForm, Relay, Server,
        raw::{RawDefault, RawDefaultWord, RawPaymentForm, RawPriceList, RawServer, RawTerms},
        report::{At, Report},
        tree::printable,
    },
    fetch::Reachable,
};
use countersign_core::terms::{IdentityRule, Terms, ToolRef};
use http::{HeaderMap, HeaderName, Uri};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// Headers that are never the operator's to set.
const OURS: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "upgrade",
    "accept",
    "txn-token",
    "idempotency-key",
    "traceparent",
    "last-event-id",
];
/// Members of a URL's query that look like secrets.
const SECRET_WORDS: [&str; 5] = ["key", "token", "secret", "password", "auth"];

/// All servers that are right.
pub(super) fn servers(
    raw: &BTreeMap<String, RawServer>,
    public_url: &str,
    listen: Option<SocketAddr>,
    market: &terms::Market<'_>,
    vault: &Vault<'_>,
    report: &mut Report,
) -> BTreeMap<Arc<str>, Arc<Server>> {
    let top = At::top().key("servers");
    if raw.is_empty() {
        let hint = "add one: `servers: { weather: { upstream: \"http://127.0.0.1:3001/mcp\" } }`";
        report.problem(&top, "no server is configured", hint);
    }
    let mut servers = BTreeMap::new();
    for (written, raw) in raw {
        let at = top.key(written);
        let name = name(written, &at, report);
        let allow_private = raw.allow_private_network.unwrap_or(true);
        let reachable = Reachable { allow_private };
        let upstream = upstream(&raw.upstream, reachable, listen, &at.key("upstream"), report);
        let headers = headers(raw, &at.key("headers"), vault, report);
        let resource = resource(raw, public_url, written, &at, report);
        let here = terms::Here {
            server: written.as_str().into(),
            resource: Arc::clone(&resource),
            has_treasury: raw.pay.is_some(),
        };
        let tools = tools(raw, &at, &here, market, report);
        let default = default_tool(raw.default.as_ref(), &at, &here, market, report);
        let relay = relay(raw, &at, report);
        coherence(raw, &tools, &default, &relay, market, &at, report);
        let (Some(name), Some(upstream)) = (name, upstream) else { continue };
        let server = Server {
            name: Arc::clone(&name),
            upstream,
            allow_private_network: allow_private,
            headers,
            resource,
            treasury: raw.pay.as_deref().map(Arc::from),
            tools,
            default,
            relay,
            trusts_annotations: raw.trust_annotations,
            payment_form: match raw.payment_form {
                None | Some(RawPaymentForm::Auto) => PaymentForm::Auto,
                Some(RawPaymentForm::Mcp) => PaymentForm::Mcp,
                Some(RawPaymentForm::Http) => PaymentForm::Http,
            },
        };
        servers.insert(name, Arc::new(server));
    }
    servers
}

/// The resource URI (RFC 8707): absolute, without fragment; a trailing slash would be part of it.
fn resource(
    raw: &RawServer,
    public_url: &str,
    name: &str,
    at: &At,
    report: &mut Report,
) -> Arc<str> {
    match raw.resource.as_deref() {
        Some(said) if web_url(said, &at.key("resource"), report).is_some() => said.into(),
        Some(_) | None => format!("{public_url}/{name}/mcp").into(),
    }
}

fn upstream(
    text: &str,
    reachable: Reachable,
    listen: Option<SocketAddr>,
    at: &At,
    report: &mut Report,
) -> Option<Uri> {
    let uri = web_url(text, at, report)?;
    let query = uri.query().unwrap_or("").to_ascii_lowercase();
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or(pair));
    if names.into_iter().any(|name| SECRET_WORDS.iter().any(|word| name.contains(word))) {
        let hint = "send it in `headers` by reference: `authorization: Bearer env:NAME`";
        report.problem(at, "the URL's query seems to hold a secret", hint);
    }
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    if is_loopback(&uri) && listen.is_some_and(|listen| listen.port() == port) {
        let hint = "write the MCP server's own port";
        report.problem(at, "this is the gateway itself", hint);
    }
    if !reachable.allows_literal(&uri) {
        let hint = "write a public address, or `allow_private_network: true`; link local \
                    addresses are never called";
        report.problem(at, "the address may not be called", hint);
    }
    Some(uri)
}

fn headers(raw: &RawServer, at: &At, vault: &Vault<'_>, report: &mut Report) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (written, reference) in &raw.headers {
        let at = at.key(written);
        let lower = written.to_ascii_lowercase();
        let reserved = OURS.contains(&lower.as_str()) || lower.starts_with("mcp-");
        let Some(name) = HeaderName::try_from(&lower).ok().filter(|_| !reserved) else {
            let message = format!("`{}` is not a header to set", printable(written));
            report.problem(&at, message, "use another header, for example `authorization`");
            continue;
        };
        if let Some(value) = vault.open_header(reference, &at, report) {
            headers.insert(name, value);
        }
    }
    headers
}

fn tools(
    raw: &RawServer,
    at: &At,
    here: &terms::Here,
    market: &terms::Market<'_>,
    report: &mut Report,
) -> BTreeMap<Arc<str>, Arc<Terms>> {
    let mut tools = BTreeMap::new();
    for (written, raw) in &raw.tools {
        let at = at.key("tools").key(written);
        let good =
            !written.is_empty() && written.len() <= 128 && !written.contains(char::is_control);
        if !good || written == "*" {
            let message = format!("`{}` is not a tool's name", printable(written));
            let hint = "write each tool's name; terms for all others go to `default`";
            report.problem(&at, message, hint);
            continue;
        }
        let tool = ToolRef { server: Arc::clone(&here.server), tool: written.as_str().into() };
        if let Some(terms) = terms::terms(raw, tool, here, market, &at, report) {
            tools.insert(Arc::clone(&terms.tool.tool), Arc::new(terms));
        }
    }
    tools
}

fn default_tool(
    raw: Option<&RawDefault>,
    at: &At,
    here: &terms::Here,
    market: &terms::Market<'_>,
    report: &mut Report,
) -> DefaultTool {
    let tool = ToolRef { server: Arc::clone(&here.server), tool: "*".into() };
    let free;
    let raw = match raw {
        None | Some(RawDefault::Word(RawDefaultWord::Refuse)) => return DefaultTool::Refuse,
        Some(RawDefault::Word(RawDefaultWord::Free)) => {
            free = RawTerms::priced(RawPriceList::One("free".to_owned()));
            &free
        }
        Some(RawDefault::Terms(terms)) => &**terms,
    };
    match terms::terms(raw, tool, here, market, &at.key("default"), report) {
        Some(terms) => DefaultTool::Terms(Arc::new(terms)),
        None => DefaultTool::Refuse,
    }
}

fn relay(raw: &RawServer, at: &At, report: &mut Report) -> Relay {
    let at = at.key("relay");
    let scopes = scopes(&raw.relay.scopes, &at.key("scopes"), report);
    if raw.relay.anonymous && !scopes.is_empty() {
        let hint = "remove `scopes`, or `anonymous`";
        report.problem(&at, "callers without a token have no scopes", hint);
    }
    Relay { anonymous: raw.relay.anonymous, scopes }
}

/// What only shows when a server is seen whole.
fn coherence(
    raw: &RawServer,
    tools: &BTreeMap<Arc<str>, Arc<Terms>>,
    default: &DefaultTool,
    relay: &Relay,
    market: &terms::Market<'_>,
    at: &At,
    report: &mut Report,
) {
    let default = match default {
        DefaultTool::Refuse => None,
        DefaultTool::Terms(terms) => Some(terms),
    };
    if raw.tools.is_empty() && default.is_none() {
        let hint = "list its tools, or write `default: free`";
        report.warn(at, "this server offers no tool", hint);
    }
    let is_anonymous = |terms: &&Arc<Terms>| terms.identity == IdentityRule::Anonymous;
    let mut all = tools.values().chain(default);
    if !market.has_issuers && (!relay.anonymous || !all.clone().all(|t| is_anonymous(&t))) {
        let hint = "add an issuer to `issuers`, or write `identity: anonymous` on each tool and \
                    `relay: { anonymous: true }`";
        report.problem(at, "callers need a token, and nobody may issue one", hint);
    }
    if !relay.anonymous && all.any(|terms| is_anonymous(&terms)) {
        let hint = "add `relay: { anonymous: true }` if callers without a token should see it";
        report.warn(at, "a tool is anonymous, but listing tools needs a token", hint);
    }
}
