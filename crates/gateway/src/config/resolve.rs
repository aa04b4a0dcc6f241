//! From what was written to what it means: the whole, the listener, secrets and limits.
//!
//! Every part is looked at even when another is wrong. A part that is wrong returns `None` after
//! having said so in the report.

mod budgets;
mod console;
mod issuers;
mod lightning;
mod money;
mod policy;
mod servers;
mod terms;
mod treasuries;
mod urls;

use super::{
    Audit, Config, Console, Limits, Push, Secret, Webhook,
    finding::nearest,
    raw::{RawAudit, RawConfig, RawLimits, RawPush, RawWebhook},
    report::{At, Report},
    scalar::{Place, SecretRef, Size, Span, show_size, show_span},
    source::{Surroundings, read_text},
    tree::printable,
};
use http::{HeaderValue, Uri};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use urls::{is_loopback, public_url, secure_url, web_url, without_user};

/// Longest path of a Unix socket.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Largest file with a secret.
const MAX_SECRET_BYTES: u64 = 64 << 10;

fn admin_socket(raw: &RawConfig, dir: &Path, data_dir: &Path, report: &mut Report) -> PathBuf {
    let path = match &raw.admin_socket {
        Some(path) => beside(dir, path),
        None => data_dir.join("admin.sock"),
    };
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        let message = format!("a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes");
        report.problem(&At::top().key("admin_socket"), message, "choose a shorter path");
    }
    path
}

/// Resolves everything.
pub(super) fn resolve(
    raw: RawConfig,
    dir: &Path,
    surroundings: &Surroundings,
    report: &mut Report,
) -> Option<Config> {
    let top = At::top();
    let vault = Vault { dir, surroundings };
    let listen = listen(raw.listen.as_deref(), report);
    let public_url = public_url(raw.public_url.as_deref(), listen, report);
    let tenant = raw.tenant.as_deref().unwrap_or("default");
    let tenant = name_of_tenant(tenant, &top.key("tenant"), report);
    let data_dir = beside(dir, raw.data_dir.as_deref().unwrap_or("data"));
    let admin_socket = admin_socket(&raw, dir, &data_dir, report);
    let issuers = issuers::issuers(&raw.issuers, tenant.as_ref(), report);
    let assets = money::assets(&raw.assets, report);
    let rails = money::rails(&raw.rails, &assets, &raw.webhooks, &vault, report);
    let market = terms::Market {
        assets: &assets.known,
        written: raw.assets.keys().map(String::as_str).collect(),
        rails: &raw.rails,
        has_issuers: !raw.issuers.is_empty(),
        has_credit: raw.credit,
    };
    let treasuries = treasuries::treasuries(&raw, &assets.known, &vault, report);
    let base = public_url.as_deref().unwrap_or("");
    let servers = servers::servers(&raw.servers, base, listen, &market, &vault, report);
    let budgets = budgets::budgets(&raw.budgets, &raw.servers, report);
    let public_host = public_url.as_deref().and_then(|url| url.parse::<Uri>().ok());
    let allowed_origins = origins(&raw.allowed_origins, report);
    let approve_url = approve_url(raw.consent.approve_url.as_deref(), report);
    let push = push(&raw, report);
    let policy_key = policy::key(&raw.policy, report);
    let policy = policy::source(&raw.policy, dir, report);
    let pdp = policy::pdp(raw.policy.pdp.as_ref(), &vault, report);
    let risk_provider = policy::risk_provider(raw.policy.risk_provider.as_ref(), &vault, report);
    let webhooks = webhooks(&raw.webhooks, &vault, report);
    let limits = limits(&raw.limits, report);
    let audit = audit(&raw.audit, public_host.as_ref(), report);
    let metrics = raw.metrics.as_ref().map(|raw| metrics(&raw.listen, report));
    let whole = console::Whole { listen, public_url: base, tenant: tenant.as_ref() };
    let console = raw.console.as_ref().map(|raw| console::console(raw, &whole, &vault, report));
    let listens = [
        (top.key("listen"), listen),
        (top.key("metrics").key("listen"), metrics.flatten()),
        (top.key("console").key("listen"), console.iter().flatten().next().map(|it| it.listen)),
    ];
    sandbox(&raw, &listens, public_host.as_ref(), report);
    // Everything has been looked at; only now may something missing end it.
    Some(Config {
        read_from: None,
        listen: listen?,
        public_url: public_url?,
        data_dir,
        admin_socket,
        allowed_origins,
        tenant: tenant?,
        issuers: issuers?,
        assets: assets.known,
        rails: rails?,
        treasuries: treasuries?,
        credit: raw.credit,
        push: push?,
        approve_url: approve_url.or_else(|| own_page(console.as_ref()?.as_ref()?)),
        servers,
        policy,
        policy_key,
        pdp,
        risk_provider,
        webhooks,
        budgets,
        limits,
        audit: audit?,
        metrics: metrics.map_or(Some(None), |metrics| metrics.map(Some))?,
        console: console.map_or(Some(None), |console| console.map(Some))?,
        sandbox: raw.sandbox,
    })
}

/// A secret shorter than this can be guessed, in bytes.
const WEBHOOK_SECRET_MIN: usize = 24;

fn webhooks(
    raw: &BTreeMap<String, RawWebhook>,
    vault: &Vault<'_>,
    report: &mut Report,
) -> BTreeMap<Arc<str>, Webhook> {
    let mut webhooks = BTreeMap::new();
    for (name, raw) in raw {
        let at = At::top().key("webhooks").key(name);
        let url = secure_url(&raw.url, &at.key("url"), report);
        let Some(secret) = vault.open(&raw.secret, &at.key("secret"), report) else { continue };
        if secret.expose().len() < WEBHOOK_SECRET_MIN {
            let hint = "write one with `openssl rand -base64 32`";
            report.problem(&at.key("secret"), "the secret is shorter than 24 bytes", hint);
        }
        let Some(url) = url else { continue };
        let allow_private_network = raw.allow_private_network;
        webhooks.insert(name.as_str().into(), Webhook { url, secret, allow_private_network });
    }
    webhooks
}

/// A path relative to the file's directory, without `.` in it.
fn beside(dir: &Path, written: &str) -> PathBuf {
    dir.join(written).components().collect()
}

/// Where secrets and files are found.
pub(super) struct Vault<'a> {
    dir: &'a Path,
    surroundings: &'a Surroundings,
}

impl Vault<'_> {
    /// The value behind a reference, without a final line break.
    fn open(&self, reference: &SecretRef, at: &At, report: &mut Report) -> Option<Secret> {
        let value = match &reference.place {
            Place::Env(name) => {
                let value = self.surroundings.env(name).map(ToOwned::to_owned);
                value.ok_or_else(|| format!("the environment variable `{name}` is not set"))
            }
            Place::File(path) => {
                let file = self.dir.join(path);
                read_text(&file, MAX_SECRET_BYTES)
                    .map_err(|message| format!("`{}` {message}", printable(path)))
            }
        };
        let value = match value {
            Ok(value) => value,
            Err(message) => {
                report.problem(at, message, "a secret must be there when the gateway starts");
                return None;
            }
        };
        let value = value.trim_end_matches(['\r', '\n']);
        if value.is_empty() {
            report.problem(at, "the secret is empty", "put the secret there");
            return None;
        }
        Some(Secret::new(value, &reference.place))
    }

    /// The same as a header's value, with its scheme.
    fn open_header(
        &self,
        reference: &SecretRef,
        at: &At,
        report: &mut Report,
    ) -> Option<HeaderValue> {
        let secret = self.open(reference, at, report)?;
        let text = match &reference.scheme {
            Some(scheme) => format!("{scheme} {}", secret.expose()),
            None => secret.expose().to_owned(),
        };
        let value = HeaderValue::try_from(text).ok().filter(|value| value.to_str().is_ok());
        let Some(mut value) = value else {
            let hint = "it must be one line of printable ASCII";
            report.problem(at, "the secret cannot be a header's value", hint);
            return None;
        };
        value.set_sensitive(true);
        Some(value)
    }
}

fn listen(written: Option<&str>, report: &mut Report) -> Option<SocketAddr> {
    let text = written.unwrap_or("127.0.0.1:8402");
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let message = format!("`{}` is not an IP address and a port", printable(text));
        report.problem(&At::top().key("listen"), message, "write it as `127.0.0.1:8402`");
    }
    parsed
}

fn metrics(written: &str, report: &mut Report) -> Option<SocketAddr> {
    let at = At::top().key("metrics").key("listen");
    let Ok(listen) = written.parse::<SocketAddr>() else {
        let message = format!("`{}` is not an IP address and a port", printable(written));
        report.problem(&at, message, "write it as `127.0.0.1:9464`");
        return None;
    };
    if !listen.ip().is_loopback() {
        let hint = "let nobody but your monitoring reach it";
        report.warn(&at, "whoever reaches this listener can read amounts and counts", hint);
    }
    Some(listen)
}

/// Where people approve when nothing else is said: the console's page of one request.
fn own_page(console: &Console) -> Option<Arc<str>> {
    Some(format!("{}/approvals/{{approval}}", console.public_url).into())
}

fn approve_url(written: Option<&str>, report: &mut Report) -> Option<Arc<str>> {
    let at = At::top().key("consent").key("approve_url");
    let text = written?;
    secure_url(text, &at, report).map(|_| text.into())
}

fn push(raw: &RawConfig, report: &mut Report) -> Option<Vec<Push>> {
    let one = |(index, written): (usize, &RawPush)| {
        let at = At::top().key("consent").key("push").index(index);
        let name = webhook(&written.webhook, &raw.webhooks, &at.key("webhook"), report)?;
        let tenant =
            written.tenant.as_deref().map(|t| name_of_tenant(t, &at.key("tenant"), report));
        let person = written.delegator.as_deref().map(|d| plain(d, &at.key("delegator"), report));
        // One that is wrong must not turn into everybody's.
        let (tenant, person) = (tenant.map(|t| t.ok_or(())), person.map(|p| p.ok_or(())));
        Some(Push {
            webhook: name,
            tenant: tenant.transpose().ok()?,
            delegator: person.transpose().ok()?,
        })
    };
    let all: Vec<Option<Push>> = raw.consent.push.iter().enumerate().map(one).collect();
    all.into_iter().collect()
}

/// The name of a webhook that is configured.
fn webhook(
    name: &str,
    webhooks: &BTreeMap<String, RawWebhook>,
    at: &At,
    report: &mut Report,
) -> Option<Arc<str>> {
    if !webhooks.contains_key(name) {
        let hint = match nearest(name, webhooks.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it to `webhooks`".to_owned(),
        };
        report.problem(at, "no webhook of this name is configured", hint);
        return None;
    }
    Some(name.into())
}

fn origins(written: &[String], report: &mut Report) -> Vec<String> {
    for (index, origin) in written.iter().enumerate() {
        let at = At::top().key("allowed_origins").index(index);
        let hint = "write each as `https://app.example.com`: scheme, host and port, no path";
        let Some(uri) = origin.parse::<Uri>().ok().filter(|uri| uri.scheme().is_some()) else {
            let message = format!("`{}` is not an origin", without_user(origin));
            report.problem(&at, message, hint);
            continue;
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if *origin != format!("{}://{authority}", uri.scheme_str().unwrap_or("")) {
            let message = format!("`{}` is not an origin", without_user(origin));
            report.problem(&at, message, hint);
        }
    }
    written.to_vec()
}

/// A tenant's name: printable, and not the one that stands for nobody.
fn name_of_tenant(text: &str, at: &At, report: &mut Report) -> Option<Arc<str>> {
    if text == "anonymous" {
        let hint = "choose another name";
        report.problem(at, "`anonymous` is the tenant of callers without a token", hint);
        return None;
    }
    plain(text, at, report)
}

/// A value that becomes part of keys and records: not empty, no control characters.
fn plain(text: &str, at: &At, report: &mut Report) -> Option<Arc<str>> {
    if text.is_empty() || text.len() > 512 || text.contains(char::is_control) {
        let message = "expected 1 to 512 bytes without control characters";
        report.problem(at, message, "write a plain name");
        return None;
    }
    Some(text.into())
}

/// A name of ours: `[a-z0-9-]+`.
fn name(text: &str, at: &At, report: &mut Report) -> Option<Arc<str>> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 63 || !text.bytes().all(good) {
        let message = format!("`{}` is not a name", printable(text));
        report.problem(at, message, "use `a` to `z`, `0` to `9` and `-`, at most 63 characters");
        return None;
    }
    Some(text.into())
}

/// Scopes as RFC 6749 allows them.
fn scopes(written: &[String], at: &At, report: &mut Report) -> Vec<Arc<str>> {
    let good = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    for (index, scope) in written.iter().enumerate() {
        if scope.is_empty() || !scope.bytes().all(good) {
            let message = format!("`{}` is not a scope", printable(scope));
            report.problem(&at.index(index), message, "write one scope, without blanks");
        }
    }
    written.iter().map(|scope| scope.as_str().into()).collect()
}

/// A span within bounds.
fn span(
    written: Option<Span>,
    default: Span,
    bounds: [Span; 2],
    at: &At,
    report: &mut Report,
) -> u64 {
    let span = written.unwrap_or(default);
    let [low, high] = bounds;
    if span < low || span > high {
        let message = format!("`{}` is out of bounds", show_span(span.0));
        let hint = format!("choose between {} and {}", show_span(low.0), show_span(high.0));
        report.problem(at, message, hint);
    }
    span.0
}

fn size(
    written: Option<Size>,
    default: usize,
    bounds: [usize; 2],
    at: &At,
    report: &mut Report,
) -> usize {
    let size = written.map_or(default, |size| size.0);
    let [low, high] = bounds;
    if size < low || size > high {
        let message = format!("`{}` is out of bounds", show_size(size));
        let hint = format!("choose between {} and {}", show_size(low), show_size(high));
        report.problem(at, message, hint);
    }
    size
}

fn limits(raw: &RawLimits, report: &mut Report) -> Limits {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let s = Span::seconds;
    let at = |name: &str| At::top().key("limits").key(name);
    Limits {
        body_bytes: size(raw.body, MIB, [KIB, 64 * MIB], &at("body"), report),
        result_bytes: size(raw.result, 8 * MIB, [KIB, 256 * MIB], &at("result"), report),
        json_depth: raw.depth.unwrap_or(64),
        header_bytes: size(raw.headers, 32 * KIB, [8 * KIB, 256 * KIB], &at("headers"), report),
        connections: raw.connections.unwrap_or(4096),
        connections_per_address: raw.connections_per_address.unwrap_or(512),
        calls: raw.calls.unwrap_or(1024),
        open_quotes_per_principal: raw.open_quotes_per_principal.unwrap_or(64),
        pending_approvals_per_principal: raw.pending_approvals_per_principal.unwrap_or(16),
        asks_per_agent_per_hour: raw.asks_per_agent_per_hour.unwrap_or(60),
        failed_payments_per_principal_per_minute: raw
            .failed_payments_per_principal_per_minute
            .unwrap_or(120),
        failed_payments_per_address_per_minute: raw
            .failed_payments_per_address_per_minute
            .unwrap_or(1200),
        invoices_per_principal_per_minute: raw.invoices_per_principal_per_minute.unwrap_or(120),
        invoices_per_address_per_minute: raw.invoices_per_address_per_minute.unwrap_or(600),
        quote_ttl_ms: span(raw.quote_ttl, s(300), [s(10), s(3600)], &at("quote_ttl"), report),
        approval_ttl_ms: span(
            raw.approval_ttl,
            s(900),
            [s(30), s(86_400)],
            &at("approval_ttl"),
            report,
        ),
        header_timeout_ms: span(
            raw.header_timeout,
            s(10),
            [s(1), s(60)],
            &at("header_timeout"),
            report,
        ),
        body_timeout_ms: span(raw.body_timeout, s(30), [s(1), s(300)], &at("body_timeout"), report),
    }
}

fn audit(raw: &RawAudit, public: Option<&Uri>, report: &mut Report) -> Option<Audit> {
    let at = At::top().key("audit");
    let bounds = [Span(100), Span::seconds(3600)];
    let checkpoint_ms =
        span(raw.checkpoint, Span::seconds(1), bounds, &at.key("checkpoint"), report);
    let origin = match &raw.origin {
        Some(origin) => origin.as_str(),
        None => public?.authority()?.as_str(),
    };
    let good = |b: u8| b.is_ascii_graphic() && b != b'+';
    if origin.is_empty() || origin.len() > 255 || !origin.bytes().all(good) {
        let hint = "write it like a host and a path: `gateway.example.com/log`";
        report.problem(&at.key("origin"), "the log's name has blanks, `+` or is empty", hint);
        return None;
    }
    Some(Audit { origin: origin.into(), checkpoint_ms })
}

/// INVARIANT: sandbox parts are asked for by name, and nothing of them leaves this machine.
fn sandbox(
    raw: &RawConfig,
    listens: &[(At, Option<SocketAddr>)],
    public: Option<&Uri>,
    report: &mut Report,
) {
    let parts = money::sandbox_parts(&raw.rails);
    let top = At::top();
    for part in &parts {
        if !raw.sandbox {
            let hint = "add `sandbox: true`, on a machine where no real money is meant";
            report.problem(part, "this is a sandbox part, it moves play money", hint);
        }
    }
    if !raw.sandbox {
        return;
    }
    for (at, listen) in listens {
        if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
            let hint = "listen on `127.0.0.1`, or use real parts and remove `sandbox`";
            report.problem(at, "the sandbox must stay on loopback", hint);
        }
    }
    if public.is_some_and(|public| !is_loopback(public)) {
        let hint = "remove `public_url`, or use real parts and remove `sandbox`";
        report.problem(&top.key("public_url"), "the sandbox must stay on loopback", hint);
    }
    if parts.is_empty() {
        report.warn(&top.key("sandbox"), "no sandbox part is configured", "remove `sandbox`");
    }
}
