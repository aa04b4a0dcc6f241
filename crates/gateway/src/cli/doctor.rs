//! `doctor`: everything that a gateway needs, looked at one by one, each with what to do.
//!
//! Changes nothing and moves no money. Looks at the running gateway through its socket only.

use super::{
    Shared,
    audit::report,
    link::Link,
    out::{Out, table},
    stop::Stop,
};
use crate::{
    config::{self, Config, Facilitator, Issuer, Server},
    fetch::{Fetch, FetchRules, Reply},
    keys,
    prove::identity::{Discovery, IssuerConfig, Verifier},
    rails::{
        lightning::Balances,
        x402::{self, Remote},
    },
    start, world,
};
use countersign_core::{
    audit::{checkpoint::VerifierKey, verify::Options},
    time::UnixMs,
    wire::eip712::Address,
    world::World,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

/// The longest wait for one answer, in milliseconds.
const TIMEOUT_MS: u64 = 5_000;
/// Beyond this difference to another machine's clock, tokens and payments fail, in seconds.
const SKEW_S: u64 = 30;
/// 2026-01-01: no clock that is right shows less.
const EARLIEST: UnixMs = UnixMs(1_767_225_600_000);

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Line {
    what: String,
    health: Health,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Line {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), health: Health::Ok, found: found.into(), next: None }
    }

    fn warn(what: impl Into<String>, found: impl Into<String>, next: &str) -> Self {
        let next = Some(next.to_owned());
        Self { what: what.into(), health: Health::Warn, found: found.into(), next }
    }

    fn fail(what: impl Into<String>, found: impl Into<String>, next: &str) -> Self {
        Self { health: Health::Fail, ..Self::warn(what, found, next) }
    }
}

/// Looks at everything. Ends badly when something fails.
pub(super) async fn run(shared: &Shared, out: Out) -> Result<(), Stop> {
    let lines = match config::load(&shared.config) {
        Ok((config, warnings)) => {
            let mut lines = vec![match warnings.len() {
                0 => Line::ok("configuration", "loads"),
                n => Line::warn("configuration", format!("{n} warnings"), "countersign check"),
            }];
            lines.extend(look(shared, &config).await);
            lines
        }
        Err(errors) => {
            let count = errors.findings.len().saturating_add(errors.more);
            let found = format!("{count} problems in {}", errors.file);
            vec![Line::fail("configuration", found, "countersign check")]
        }
    };
    out.show(&lines, |lines| {
        let row = |line: &Line| {
            let health = match line.health {
                Health::Ok => "ok",
                Health::Warn => "warn",
                Health::Fail => "FAIL",
            };
            let next = line.next.clone().unwrap_or_default();
            vec![health.to_owned(), line.what.clone(), line.found.clone(), next]
        };
        table(&["", "what", "found", "what to do"], &lines.iter().map(row).collect::<Vec<_>>())
    })?;
    match lines.iter().any(|line| line.health == Health::Fail) {
        true => Err(Stop::failed()),
        false => Ok(()),
    }
}

async fn look(shared: &Shared, config: &Config) -> Vec<Line> {
    let now = world::system().now();
    let mut lines =
        vec![data_dir(&config.data_dir), key_files(&config.data_dir, &config.audit.origin)];
    lines.push(database(&config.data_dir));
    lines.push(log(config, now));
    lines.push(socket(shared, config).await);
    lines.push(clock(now));
    let own = lines.len();
    for issuer in &config.issuers {
        lines.extend(self::issuer(issuer, now).await);
    }
    lines.extend(facilitator(config).await);
    lines.extend(invoices(config, &world::system()).await);
    lines.extend(treasuries(config, &world::system()).await);
    for server in config.servers.values() {
        lines.push(upstream(server).await);
    }
    let is_silent = lines.iter().skip(own).any(|line| line.health == Health::Fail);
    if config.sandbox && is_silent {
        let next = "`countersign sandbox` starts those that `countersign init` names";
        lines.push(Line::warn("sandbox", "parts beside the gateway do not answer", next));
    }
    lines
}

/// The organisation's own wallets: whether they answer. What they hold is not looked at.
async fn treasuries(config: &Config, world: &World) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, buyer) in start::buyers(config, world) {
        let what = format!("treasury {name}");
        lines.push(match buyer.is_answering().await {
            None => Line::ok(what, "signs with a key of its own"),
            Some(true) => Line::ok(what, "its Lightning wallet answers"),
            Some(false) => {
                let next = "look at the wallet: tools that it pays for are refused (PAY-027)";
                Line::fail(what, "its Lightning wallet does not answer", next)
            }
        });
    }
    lines
}

/// The permissions of a path, without its type.
fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

fn data_dir(dir: &Path) -> Line {
    let what = "data directory";
    match mode(dir) {
        Some(_) if !dir.is_dir() => {
            let found = format!("{} is no directory", dir.display());
            Line::fail(what, found, "name another `data_dir`")
        }
        None => Line::warn(what, "not there yet", "it is made by `countersign serve`"),
        Some(mode) if mode & 0o077 != 0 => {
            let found = format!("{} has mode {mode:03o}", dir.display());
            Line::fail(what, found, &format!("chmod 700 {}", dir.display()))
        }
        Some(_) => Line::ok(what, format!("{} is private", dir.display())),
    }
}

/// Only what can be said of it in no time; `serve` looks at all of it.
fn database(dir: &Path) -> Line {
    match countersign_store::has_database(dir) {
        Ok(true) => Line::ok("database", "can be read"),
        Ok(false) => Line::warn("database", "not there yet", "it is made by `countersign serve`"),
        Err(why) => Line::fail("database", format!("{}: {why}", why.code()), why.next()),
    }
}

fn key_files(data_dir: &Path, origin: &str) -> Line {
    let dir = data_dir.join("keys");
    let secrets = ["log.key", "challenge.key", "pseudonym.key"].map(|name| dir.join(name));
    let open = secrets.iter().find(|path| mode(path).is_some_and(|mode| mode & 0o077 != 0));
    if let Some(path) = open {
        let found = format!("{} is open to others", path.display());
        return Line::fail("keys", found, &format!("chmod 600 {}", path.display()));
    }
    let missing = secrets.iter().filter(|path| !path.exists()).count();
    if missing > 0 {
        let next = "they are made by `countersign keys init` or `serve`";
        return Line::warn("keys", format!("{missing} are not there yet"), next);
    }
    match public_key(data_dir) {
        Some(key) if key.name() != origin => {
            let found = format!("the log key is for {}, audit.origin is {origin}", key.name());
            let next = format!("write `audit: {{ origin: {} }}`, or a new `data_dir`", key.name());
            Line::fail("keys", found, &next)
        }
        Some(key) => Line::ok("keys", format!("log key {}", key.kid())),
        None => Line::fail("keys", "log.pub holds no key", "remove it; `keys init` makes it anew"),
    }
}

fn public_key(data_dir: &Path) -> Option<VerifierKey> {
    fs::read_to_string(keys::public_path(data_dir)).ok()?.trim().parse().ok()
}

fn log(config: &Config, now: UnixMs) -> Line {
    let dir = config.data_dir.join("log");
    let Some(key) = public_key(&config.data_dir).filter(|_| dir.join("checkpoint").exists()) else {
        return Line::warn("log", "nothing is published yet", "it begins with the first call");
    };
    let Ok(report) = report(&dir, &key, &Options::default()) else {
        return Line::fail("log", "cannot be read", "countersign audit verify");
    };
    if !report.is_sound() {
        let found = report.findings.first().map(ToString::to_string).unwrap_or_default();
        return Line::fail("log", found, "countersign audit verify; then ask who changed it");
    }
    let attested = report.attested.as_ref();
    if attested.and_then(|attested| attested.last_record).is_some_and(|last| last > now) {
        return Line::fail("log", "its last record is in the future", "set the clock right");
    }
    let doubts = report.open.iter().filter(|open| open.in_doubt).count();
    if doubts > 0 {
        let found = format!("sound; {doubts} calls in doubt");
        return Line::warn("log", found, "countersign ledger in-doubt");
    }
    Line::ok("log", format!("sound: {} records", report.records))
}

async fn socket(shared: &Shared, config: &Config) -> Line {
    let path = shared.socket.as_deref().unwrap_or(&config.admin_socket);
    let what = "admin socket";
    if mode(path).is_some_and(|mode| mode & 0o077 != 0) {
        let found = format!("{} is open to others", path.display());
        return Line::fail(what, found, &format!("chmod 600 {}", path.display()));
    }
    match Link::new(path).get::<Value>("/v1/health").await {
        Ok(_) => Line::ok(what, format!("answers at {}", path.display())),
        Err(_) if !path.exists() => {
            Line::warn(what, "the gateway does not run", "countersign serve")
        }
        Err(stop) => Line::fail(what, stop.to_string(), "start the gateway again"),
    }
}

fn clock(now: UnixMs) -> Line {
    if now < EARLIEST {
        return Line::fail("clock", now.rfc3339(), "set the clock right");
    }
    Line::ok("clock", now.rfc3339())
}

fn fetch(allow_private: bool) -> Fetch {
    Fetch::new(FetchRules { allow_private, timeout_ms: TIMEOUT_MS, ..FetchRules::PUBLIC })
}

/// An issuer's keys, and what its clock says of ours.
async fn issuer(issuer: &Issuer, now: UnixMs) -> Vec<Line> {
    let what = format!("issuer {}", issuer.issuer);
    let discovery = match &issuer.keys {
        config::Keys::WellKnown => Discovery::WellKnown,
        config::Keys::Document(url) => Discovery::Document(url.to_string()),
        config::Keys::Jwks(url) => Discovery::Keys(url.to_string()),
    };
    let config = IssuerConfig {
        discovery,
        allow_private_network: issuer.allow_private_network,
        ..IssuerConfig::new(&*issuer.issuer)
    };
    let verifier = match Verifier::new(vec![config], world::system()) {
        Ok(verifier) => verifier,
        Err(problem) => return vec![Line::fail(what, problem.to_string(), "countersign check")],
    };
    let Some(report) = verifier.warm().await.into_iter().next() else { return Vec::new() };
    let mut lines = vec![match report.problem {
        Some(problem) => {
            let next = "check its URL, its certificate and the way there";
            Line::fail(what.clone(), problem.to_string(), next)
        }
        None if report.keys == 0 => {
            let next = "it must publish RSA, EC or Ed25519 keys for signatures";
            Line::fail(what.clone(), "no usable keys", next)
        }
        None => Line::ok(what.clone(), format!("{} keys", report.keys)),
    }];
    let answer = fetch(issuer.allow_private_network).get(&issuer.issuer).await;
    let skew = answer.ok().and_then(|reply| date_of(&reply)).map(|then| {
        let (ours, theirs) = (now.seconds(), then.seconds());
        ours.abs_diff(theirs)
    });
    if let Some(skew) = skew.filter(|skew| *skew > SKEW_S) {
        let found = format!("our clock is {skew} s off the issuer's");
        lines.push(Line::fail(what, found, "set the clock right: tokens and payments expire"));
    }
    lines
}

/// When an answer was made, by its `date` header (RFC 9110 §5.6.7, the one form that is sent).
fn date_of(reply: &Reply) -> Option<UnixMs> {
    parse_date(reply.headers.get(http::header::DATE)?.to_str().ok()?)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<UnixMs> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let (time, zone) = (words.next()?, words.next()?);
    let month = (1u64..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut parts = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if zone != "GMT" || !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil (Howard Hinnant), for years after the epoch.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (y / 400, y % 400);
    let day_of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * m + 2) / 5 + day - 1;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(UnixMs::from_seconds(days * 86_400 + hour * 3_600 + minute * 60 + second))
}

/// Whether payments can be settled, for each token.
async fn facilitator(config: &Config) -> Vec<Line> {
    let Some(x402) = &config.rails.x402 else { return Vec::new() };
    let mut lines = Vec::new();
    for (asset, token) in &x402.tokens {
        let what = format!("x402 {asset}");
        let (url, is_ready) = match &x402.facilitator {
            Facilitator::Remote { url, .. } | Facilitator::Sandbox { url } => {
                let authorization = match &x402.facilitator {
                    Facilitator::Remote { authorization, .. } => authorization.clone(),
                    Facilitator::Sandbox { .. } | Facilitator::Builtin { .. } => None,
                };
                let remote = Remote::new(fetch(true), &url.to_string(), authorization);
                let Ok(address) = Address::from_hex(&token.address) else { continue };
                let facilitator = x402::Facilitator::Remote(remote);
                (url, facilitator.is_ready(&token.network, address).await)
            }
            Facilitator::Builtin { rpc, .. } => (rpc, is_chain(rpc, token.chain_id).await),
        };
        if let Facilitator::Remote { rpc: Some(rpc), .. } = &x402.facilitator
            && !is_chain(rpc, token.chain_id).await
        {
            let found = format!("{rpc} does not serve {}", token.network);
            lines.push(Line::fail(what.clone(), found, "check `rails.x402.rpc`"));
        }
        lines.push(if is_ready {
            Line::ok(what, format!("{url} serves {}", token.network))
        } else {
            let found = format!("{url} does not serve {}", token.network);
            Line::fail(what, found, "check `rails.x402.facilitator` and the way there")
        });
    }
    lines
}

/// Whether a node serves this chain.
async fn is_chain(rpc: &http::Uri, chain_id: u64) -> bool {
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let url = rpc.to_string();
    let sent = fetch(true).post(&url, "application/json", &[], ask.to_string()).await;
    let told: Option<Value> = sent.ok().and_then(|reply| serde_json::from_slice(&reply.body).ok());
    let id = told.as_ref().and_then(|told| told.get("result")?.as_str()?.strip_prefix("0x"));
    id.and_then(|id| u64::from_str_radix(id, 16).ok()) == Some(chain_id)
}

/// Each Lightning node: whether it answers, and what it can receive.
async fn invoices(config: &Config, world: &World) -> Vec<Line> {
    let Some(l402) = &config.rails.l402 else { return Vec::new() };
    if l402.nodes.is_empty() {
        let next = "set `rails.l402.source`";
        return vec![Line::warn("l402 invoices", "no source is configured", next)];
    }
    let wanted_msat = l402.alerts.as_ref().and_then(|alerts| alerts.thresholds.inbound_below_msat);
    let mut lines = Vec::new();
    for node in start::lightning_nodes(l402, world) {
        let what = format!("l402 {}", node.name);
        lines.push(match node.balances().await {
            Ok(Balances { inbound_msat: 0, .. }) => {
                let next = "open a channel towards it: L402 is not offered until then";
                Line::warn(what, "answers, and can receive nothing", next)
            }
            Ok(Balances { inbound_msat, .. })
                if wanted_msat.is_some_and(|wanted| inbound_msat < wanted) =>
            {
                let sat = inbound_msat / 1000;
                let found = format!("answers, and can receive only {sat} sat");
                Line::warn(what, found, "ask `countersign lightning suggest` for more room")
            }
            Ok(balances) => {
                let sat = balances.inbound_msat / 1000;
                Line::ok(what, format!("answers, and can receive {sat} sat"))
            }
            Err(error) => {
                Line::fail(what, error.to_string(), "start it, or check its URL and its access")
            }
        });
    }
    lines
}

/// Whether a server answers at all; a ping outside of a session need not be understood.
async fn upstream(server: &Server) -> Line {
    let what = format!("server {}", server.name);
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
    let accept = ("accept", "application/json, text/event-stream");
    let url = server.upstream.to_string();
    let fetch = fetch(server.allow_private_network);
    match fetch.post(&url, "application/json", &[accept], ping).await {
        Ok(reply) if reply.status == 404 => {
            Line::fail(what, format!("nothing at {url}"), "check the path in `upstream`")
        }
        Ok(reply) if reply.status >= 500 => {
            Line::warn(what, format!("{url} answers {}", reply.status), "look at its own log")
        }
        Ok(_) => Line::ok(what, format!("{url} answers")),
        Err(error) => Line::fail(what, format!("{url}: {error}"), "start it, or check `upstream`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http() {
        let at = |text: &str| parse_date(text).map(UnixMs::rfc3339);
        let shown = |text: &str| Some(text.to_owned());
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), shown("1994-11-06T08:49:37.000Z"));
        assert_eq!(at("Thu, 29 Feb 2024 12:34:56 GMT"), shown("2024-02-29T12:34:56.000Z"));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), shown("1970-01-01T00:00:00.000Z"));
        for text in ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(at(text), None, "{text}");
        }
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 CET"), None);
    }

    #[test]
    fn what_is_open_to_others_fails() {
        let dir = std::env::temp_dir().join(format!("cs-doctor-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(data_dir(&dir).health, Health::Warn);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let line = data_dir(&dir);
        assert_eq!(line.health, Health::Fail);
        assert!(line.next.unwrap().starts_with("chmod 700"));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(data_dir(&dir).health, Health::Ok);
        assert_eq!(key_files(&dir, "log.example").health, Health::Warn);
        keys::open(&dir, "log.example", &world::system()).unwrap();
        assert_eq!(key_files(&dir, "log.example").health, Health::Ok);
        assert_eq!(key_files(&dir, "other.example").health, Health::Fail);
        fs::remove_dir_all(dir).unwrap();
    }
}
