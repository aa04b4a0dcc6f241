//! The JSON template with `mcp_server.{transport, auth, tools}`: read, and turned into what our
//! own file would say.
//!
//! A member without an equivalent gets a warning of its own; a member that would loosen something
//! silently is refused. What the template leaves open stays strict.

use super::{
    raw::{
        RawAsset, RawConfig, RawConsentRule, RawIdentity, RawInvoiceSource, RawIssuer, RawL402,
        RawPow, RawPriceList, RawProfile, RawRelay, RawServer, RawSources, RawTerms,
    },
    report::{At, Found, Report},
    scalar::{Span, Usd},
    source::Surroundings,
    tree::{Step, printable, show},
};
use countersign_core::money::Micros;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name that the template's one server gets.
const SERVER: &str = "main";
/// Where the server is taken to be when nothing says.
const UPSTREAM: &str = "http://127.0.0.1:3000/mcp";
/// Variable that says where the server is.
const UPSTREAM_VARIABLE: &str = "COUNTERSIGN_UPSTREAM";
/// What a bitcoin counts for when nothing says: 1 sat = 0.01 USD. Limits bind early rather than
/// late if a bitcoin is counted too high, so this is far above any price it has had.
const RATE: Usd = Usd(Micros(1_000_000_000_000));

/// The file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTemplateFile {
    /// The server and how it is guarded.
    mcp_server: RawTemplate,
}

/// The server and how it is guarded.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    /// Always `http_streamable`.
    transport: Option<RawTransport>,
    /// The server's endpoint. An addition of ours.
    upstream: Option<String>,
    /// Identity and payment.
    auth: RawAuth,
    /// The tools.
    tools: Vec<RawTool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RawTransport {
    HttpStreamable,
}

/// Identity and payment.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    /// Who issues tokens.
    identity: Option<RawIdentityPart>,
    /// How money comes in.
    payment: Option<RawPaymentPart>,
}

/// Who issues tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawIdentityPart {
    /// Kind of issuer.
    provider: RawProfile,
    /// The issuer's host.
    tenant: String,
    /// Audience of its tokens.
    audience: Option<String>,
    /// Exchange tokens on behalf of the caller.
    obo_enabled: Option<bool>,
}

/// How money comes in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawPaymentPart {
    /// Always `l402`.
    protocol: RawProtocol,
    /// A payment gateway's URL.
    gateway: Option<String>,
    /// Validity of a paid credential.
    #[schemars(range(min = 1, max = 86400))]
    macaroon_ttl_seconds: Option<u32>,
    /// Accept proof of work.
    pow_enabled: Option<bool>,
    /// Leading zero bits of proof of work while nobody else calls; under load it takes more.
    /// Default: what `rails.pow` has.
    #[schemars(range(min = 1, max = 32))]
    pow_difficulty: Option<u32>,
    /// Price by tool.
    #[serde(default)]
    pricing: BTreeMap<String, RawSats>,
    /// Who makes invoices. An addition of ours, as `rails.l402.source`.
    source: Option<RawInvoiceSource>,
    /// What a bitcoin counts for. An addition of ours, as `assets.BTC.rate`.
    rate: Option<Usd>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RawProtocol {
    L402,
}

/// A price in satoshi.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawSats {
    /// Satoshi.
    sats: u64,
}

impl RawSats {
    /// The price as our own file would say it.
    fn list(&self, takes_work: bool) -> RawPriceList {
        let sats = format!("{} sat", self.sats);
        if takes_work {
            RawPriceList::Several(vec![sats, "work".to_owned()])
        } else {
            RawPriceList::One(sats)
        }
    }
}

/// A tool.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawTool {
    /// Its name.
    name: String,
    /// It has a price.
    requires_payment: bool,
    /// Callers need a token.
    requires_identity: bool,
    /// Whether a person must have agreed. An addition of ours.
    consent: Option<RawConsentRule>,
}

/// What our own file would say.
pub(super) fn convert(
    file: RawTemplateFile,
    surroundings: &Surroundings,
    report: &mut Report,
) -> Option<RawConfig> {
    let template = file.mcp_server;
    let (Some(RawTransport::HttpStreamable) | None) = template.transport;
    let top = At::top().key("mcp_server");
    let auth_at = top.key("auth");
    let mut raw = RawConfig::default();
    let upstream = upstream(&template, surroundings, &top, report);
    let tools = tools(&template, &top, report)?;
    if let Some(identity) = &template.auth.identity {
        raw.issuers.push(issuer(identity, &auth_at.key("identity"), report));
    }
    if let Some(payment) = template.auth.payment {
        pay(payment, &mut raw, &auth_at.key("payment"), report);
    }
    let resource = template.auth.identity.and_then(|identity| identity.audience);
    let is_open = template.tools.iter().any(|tool| !tool.requires_identity);
    if is_open {
        let message = "a tool that needs no token can only be found without one: every method but \
            `tools/call` is open to anybody, and so are the names of all tools";
        let hint = "let every tool have `\"requires_identity\": true` if that is not meant";
        report.warn(&top.key("tools"), message, hint);
    }
    let server = RawServer {
        upstream,
        allow_private_network: None,
        resource,
        headers: BTreeMap::new(),
        pay: None,
        default: None,
        relay: RawRelay { anonymous: is_open, scopes: Vec::new() },
        trust_annotations: false,
        payment_form: None,
        tools,
    };
    raw.servers.insert(SERVER.to_owned(), server);
    Some(raw)
}

fn upstream(
    template: &RawTemplate,
    surroundings: &Surroundings,
    at: &At,
    report: &mut Report,
) -> String {
    let said = surroundings.env(UPSTREAM_VARIABLE).or(template.upstream.as_deref());
    said.map_or_else(
        || {
            let message = format!("the template does not say where the server is: `{UPSTREAM}`");
            let hint = format!("add `upstream` here, or set `{UPSTREAM_VARIABLE}`");
            report.warn(at, message, hint);
            UPSTREAM.to_owned()
        },
        ToOwned::to_owned,
    )
}

/// The audience is not said here: it is the server's resource URI.
fn issuer(part: &RawIdentityPart, at: &At, report: &mut Report) -> RawIssuer {
    if part.audience.is_some() {
        let message = "this becomes the server's resource URI: clients that discover where to get \
                       a token expect there the URL that they call";
        report.warn(&at.key("audience"), message, "let it be that URL if such clients are to come");
    }
    if part.obo_enabled == Some(true) {
        let message = "on-behalf-of exchange is not offered";
        let hint = "the caller's token never reaches the server, exchanged or not";
        report.warn(&at.key("obo_enabled"), message, hint);
    }
    if part.tenant.contains("://") {
        let hint = "write it as `your-tenant.auth0.com`";
        report.problem(&at.key("tenant"), "expected a host, not a URL", hint);
    }
    // Auth0 writes its issuer with a final slash, and a token must match exactly.
    let slash = if matches!(part.provider, RawProfile::Auth0) { "/" } else { "" };
    RawIssuer {
        issuer: format!("https://{}{slash}", part.tenant),
        profile: Some(part.provider),
        ..RawIssuer::default()
    }
}

fn pay(part: RawPaymentPart, raw: &mut RawConfig, at: &At, report: &mut Report) {
    let RawProtocol::L402 = part.protocol;
    if part.gateway.is_some() {
        let hint = "it serves challenges itself; `source` says who makes invoices";
        report.warn(&at.key("gateway"), "there is no payment gateway beside this one", hint);
    }
    raw.rails.pow = pow(&part, at, report);
    if part.source.is_none() {
        let message = if raw.rails.pow.is_some() {
            "the template does not say who makes invoices: priced tools take work alone"
        } else {
            "the template does not say who makes invoices: priced tools are refused with PAY-018"
        };
        let hint = "add `source`, for example `{ \"sandbox\": \"http://127.0.0.1:9740\" }`";
        report.warn(at, message, hint);
    }
    if part.rate.is_none() {
        let message = "the template does not say what a bitcoin is worth: it counts as 1000000 \
                       USD in budgets and caps, too high on purpose, so that limits bind early";
        report.warn(at, message, "add `rate`, for example `\"60000 USD\"`");
    }
    let asset = RawAsset {
        network: "lightning".to_owned(),
        address: None,
        decimals: None,
        name: None,
        version: None,
        rate: part.rate.unwrap_or(RATE),
    };
    raw.assets.insert("BTC".to_owned(), asset);
    raw.sandbox = matches!(part.source, Some(RawInvoiceSource::Sandbox(_)));
    raw.rails.l402 = Some(RawL402 {
        source: RawSources::One(part.source.unwrap_or(RawInvoiceSource::Missing)),
        network: None,
        credential_ttl: part.macaroon_ttl_seconds.map(|s| Span::seconds(s.into())),
        hold: None,
        hold_max_sat: None,
        inbound_factor: None,
        prefetch: None,
        alerts: None,
        loopd: None,
        rebalance: None,
    });
}

/// Work instead of money, where the template says so.
fn pow(part: &RawPaymentPart, at: &At, report: &mut Report) -> Option<RawPow> {
    let bits = part.pow_difficulty;
    if bits.is_some_and(|bits| !(1..=32).contains(&bits)) {
        let hint = "write a number of bits from 1 to 32";
        report.problem(&at.key("pow_difficulty"), "nobody can solve that", hint);
    }
    if part.pow_enabled != Some(true) {
        if bits.is_some() {
            let hint = "set `pow_enabled` to `true`, or remove it";
            report.warn(&at.key("pow_difficulty"), "proof of work is not offered", hint);
        }
        return None;
    }
    let min_difficulty = bits.and_then(|bits| 1u64.checked_shl(bits));
    Some(RawPow { min_difficulty, ..RawPow::default() })
}

/// Terms by tool: those listed, and those that only have a price.
fn tools(
    template: &RawTemplate,
    top: &At,
    report: &mut Report,
) -> Option<BTreeMap<String, RawTerms>> {
    let nothing = BTreeMap::new();
    let pricing = template.auth.payment.as_ref().map_or(&nothing, |payment| &payment.pricing);
    let takes_work =
        template.auth.payment.as_ref().is_some_and(|payment| payment.pow_enabled == Some(true));
    let pricing_at = top.key("auth").key("payment").key("pricing");
    let mut tools = BTreeMap::new();
    let mut is_good = true;
    for (index, tool) in template.tools.iter().enumerate() {
        let at = top.key("tools").index(index);
        let price = match (tool.requires_payment, pricing.get(&tool.name)) {
            (true, Some(price)) => price.list(takes_work),
            (false, None) => RawPriceList::One("free".to_owned()),
            (true, None) => {
                let message = format!("`{}` requires payment and has no price", shown(tool));
                report.problem(&at, message, "add it to `auth.payment.pricing`");
                is_good = false;
                continue;
            }
            (false, Some(_)) => {
                let message = format!("`{}` has a price and requires no payment", shown(tool));
                report.problem(&at, message, "set `requires_payment`, or remove its price");
                is_good = false;
                continue;
            }
        };
        let mut terms = RawTerms::priced(price);
        if !tool.requires_identity {
            terms.identity = Some(RawIdentity::Anonymous);
        }
        if tool.requires_payment && tool.requires_identity && tool.consent.is_none() {
            let message = format!("the template does not speak of consent: `{}`", shown(tool));
            let hint = "a person must have agreed; add `\"consent\": \"none\"` if nobody need";
            report.warn(&at, message, hint);
        }
        terms.consent = tool.consent;
        if tools.insert(tool.name.clone(), terms).is_some() {
            let message = format!("`{}` is listed twice", shown(tool));
            report.problem(&at, message, "keep one of them");
            is_good = false;
        }
    }
    for (name, price) in pricing {
        if !template.tools.iter().any(|tool| tool.name == *name) {
            let message = "a price without an entry in `tools`: offered to callers with a token, \
                           with consent";
            report.warn(&pricing_at.key(name), message, "add the tool to `tools`");
            tools.insert(name.clone(), RawTerms::priced(price.list(takes_work)));
        }
    }
    is_good.then_some(tools)
}

fn shown(tool: &RawTool) -> String {
    printable(&tool.name)
}

/// A finding about what our own file would say, at the place where the template says it.
pub(super) fn translate(mut found: Found) -> Found {
    let keys: Vec<&str> = found
        .at
        .0
        .iter()
        .map(|step| match step {
            Step::Key(key) => key.as_str(),
            Step::Index(_) => "",
        })
        .collect();
    let payment = At::top().key("mcp_server").key("auth").key("payment");
    let server = At::top().key("mcp_server");
    found.at = match keys.as_slice() {
        ["issuers", ..] => server.key("auth").key("identity"),
        ["assets", ..] => payment.key("rate"),
        ["rails", "l402", "source", ..] => payment.key("source"),
        ["rails", "pow", ..] => payment.key("pow_difficulty"),
        ["rails", "l402", "credential_ttl"] => payment.key("macaroon_ttl_seconds"),
        ["rails", ..] => payment,
        ["servers", _, "resource"] => server.key("auth").key("identity").key("audience"),
        ["servers", _, "upstream"] => server.key("upstream"),
        ["servers", _, "tools", name, "price", ..] => payment.key("pricing").key(name),
        ["servers", _, "tools", ..] => server.key("tools"),
        _ => server,
    };
    found.finding.path = show(&found.at.0);
    found
}
