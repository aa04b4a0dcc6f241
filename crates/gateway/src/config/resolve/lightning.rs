//! The Lightning rail: nodes, and how their invoices are used.

use super::{
    MAX_SECRET_BYTES, Vault, beside,
    money::{Known, sandbox_url},
    secure_url, span, webhook,
};
use crate::{
    config::{
        L402, LightningAlerts, LightningNetwork, LightningNode, LoopDaemon, NodeAccess,
        RebalanceLimits, Rule, Secret,
        raw::{
            RawInvoiceSource, RawL402, RawLightningAlerts, RawLightningNetwork, RawLoopd, RawMeans,
            RawRebalance, RawWebhook,
        },
        report::{At, Report},
        scalar::Span,
        source::read_text,
        tree::printable,
    },
    fetch::Pin,
    rails::lightning::{Means, Thresholds},
};
use http::Uri;
use std::collections::{BTreeMap, HashMap};

/// The most that is held at once, in satoshi, unless the operator says otherwise.
const HOLD_MAX_SAT: u64 = 1_000_000;
/// Invoices kept ready of each kind, likewise.
const PREFETCH: usize = 4;

pub(super) fn l402(
    raw: &RawL402,
    assets: &Known,
    webhooks: &Webhooks,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<L402> {
    let at = At::top().key("rails").key("l402");
    if assets.known.get(&"BTC".into()).is_none() {
        let hint = "add `BTC: { network: lightning, rate: \"60000 USD\" }` to `assets`";
        report.warn(&at, "no asset is paid over L402", hint);
    }
    let bounds = [Span::seconds(30), Span::seconds(86_400)];
    let default = Span::seconds(600);
    let credential_ttl_ms =
        span(raw.credential_ttl, default, bounds, &at.key("credential_ttl"), report);
    let inbound_factor = raw.inbound_factor.unwrap_or(1);
    if !(1..=1000).contains(&inbound_factor) {
        report.problem(&at.key("inbound_factor"), "this is not from 1 to 1000", "write `1`");
    }
    let hold_max_sat = raw.hold_max_sat.unwrap_or(HOLD_MAX_SAT);
    let hold_max_msat = hold_max_sat.checked_mul(1000).filter(|msat| *msat > 0);
    if hold_max_msat.is_none() {
        let hint = "write a number of satoshi; `hold: false` holds nothing";
        report.problem(&at.key("hold_max_sat"), "this is no such amount", hint);
    }
    Some(L402 {
        nodes: nodes(raw, vault, report)?,
        network: network(raw, &at, report)?,
        credential_ttl_ms,
        hold: raw.hold.unwrap_or(true),
        hold_max_msat: hold_max_msat?,
        inbound_factor,
        prefetch: raw.prefetch.unwrap_or(PREFETCH),
        alerts: match &raw.alerts {
            Some(alerts) => Some(self::alerts(alerts, webhooks, report)?),
            None => None,
        },
        loopd: match &raw.loopd {
            Some(loopd) => Some(self::loopd(loopd, vault, report)?),
            None => None,
        },
        rebalance: match &raw.rebalance {
            Some(limits) => Some(rebalance(limits, raw, report)?),
            None => None,
        },
    })
}

/// Webhooks as they are written, by name.
pub(super) type Webhooks = BTreeMap<String, RawWebhook>;

fn alerts(
    raw: &RawLightningAlerts,
    webhooks: &Webhooks,
    report: &mut Report,
) -> Option<LightningAlerts> {
    let at = At::top().key("rails").key("l402").key("alerts");
    let webhook = match &raw.webhook {
        Some(name) => Some(webhook(name, webhooks, &at.key("webhook"), report)?),
        None => None,
    };
    let msat = |sat: Option<u64>| sat.map(|sat| sat.saturating_mul(1000));
    let thresholds = Thresholds {
        inbound_below_msat: msat(raw.inbound_below_sat),
        outbound_below_msat: msat(raw.outbound_below_sat),
        success_below_percent: raw.success_below_percent,
        p99_above_ms: raw.p99_above.map(|Span(ms)| ms),
    };
    Some(LightningAlerts { webhook, thresholds })
}

fn loopd(raw: &RawLoopd, vault: &Vault<'_>, report: &mut Report) -> Option<LoopDaemon> {
    let at = At::top().key("rails").key("l402").key("loop");
    let macaroon = vault.open(&raw.macaroon, &at.key("macaroon"), report);
    let pin = pin(raw.certificate.as_deref(), &at, vault, report);
    let url = secure_url(&raw.url, &at.key("url"), report)?;
    let macaroon = macaroon.filter(|macaroon| is_hex(macaroon, &at.key("macaroon"), report))?;
    Some(LoopDaemon { url, macaroon, pin: pin? })
}

fn rebalance(raw: &RawRebalance, whole: &RawL402, report: &mut Report) -> Option<RebalanceLimits> {
    let at = At::top().key("rails").key("l402").key("rebalance").key("rule");
    let rule = raw.rule.as_ref().map(|rule| {
        let (via, is_there, hint) = match rule.via {
            RawMeans::Loop => (Means::Loop, whole.loopd.is_some(), "add `rails.l402.loop`"),
            RawMeans::Lsps1 => {
                let is_ldk = |source: &RawInvoiceSource| matches!(source, RawInvoiceSource::Ldk(_));
                let is_there = whole.source.all().iter().any(is_ldk);
                (Means::Lsps1, is_there, "it takes a source `ldk` with a provider")
            }
        };
        if !is_there {
            report.problem(&at.key("via"), "nobody is configured who could do that", hint);
        }
        if rule.amount_sat > raw.max_per_day_sat {
            let hint = "lower it, or raise `max_per_day_sat`";
            report.problem(&at.key("amount_sat"), "it is more than a day's limit", hint);
        }
        let (inbound_below_sat, amount_sat) = (rule.inbound_below_sat, rule.amount_sat);
        Rule { inbound_below_sat, amount_sat, via }
    });
    let (max_fee_sat, max_per_day_sat) = (raw.max_fee_sat, raw.max_per_day_sat);
    Some(RebalanceLimits { max_fee_sat, max_per_day_sat, rule })
}

fn is_hex(macaroon: &Secret, at: &At, report: &mut Report) -> bool {
    let is_hex = hex::decode(macaroon.expose().trim()).is_ok();
    if !is_hex {
        let hint = "write it out: `xxd -p -c 1000 invoice.macaroon > invoice.hex`";
        report.problem(at, "this is not hex", hint);
    }
    is_hex
}

fn network(raw: &RawL402, at: &At, report: &mut Report) -> Option<LightningNetwork> {
    let network = match raw.network {
        None if has_sandbox(raw) => LightningNetwork::Regtest,
        None | Some(RawLightningNetwork::Bitcoin) => LightningNetwork::Bitcoin,
        Some(RawLightningNetwork::Testnet) => LightningNetwork::Testnet,
        Some(RawLightningNetwork::Signet) => LightningNetwork::Signet,
        Some(RawLightningNetwork::Regtest) => LightningNetwork::Regtest,
    };
    if has_sandbox(raw) && network != LightningNetwork::Regtest {
        let hint = "leave it out, or write `regtest`";
        report.problem(&at.key("network"), "the sandbox is on no other network", hint);
        return None;
    }
    Some(network)
}

fn nodes(raw: &RawL402, vault: &Vault<'_>, report: &mut Report) -> Option<Vec<LightningNode>> {
    let at = At::top().key("rails").key("l402").key("source");
    let mut counts: HashMap<&'static str, u32> = HashMap::new();
    let mut nodes = Vec::new();
    for source in raw.source.all() {
        let kind = kind(source);
        if matches!(source, RawInvoiceSource::Missing) {
            continue;
        }
        let count = counts.entry(kind).or_default();
        *count = count.saturating_add(1);
        let name = if *count == 1 { kind.to_owned() } else { format!("{kind}-{count}") };
        let (url, access) = access(source, &at.key(kind), vault, report)?;
        nodes.push(LightningNode { name: name.into(), url, access });
    }
    let is_open = matches!(raw.source.all(), [RawInvoiceSource::Missing]);
    if nodes.is_empty() && !is_open {
        report.problem(&at, "the list is empty", "name a node");
        return None;
    }
    Some(nodes)
}

const fn kind(source: &RawInvoiceSource) -> &'static str {
    match source {
        RawInvoiceSource::Missing => "",
        RawInvoiceSource::Sandbox(_) => "sandbox",
        RawInvoiceSource::Ldk(_) => "ldk",
        RawInvoiceSource::Lnd(_) => "lnd",
        RawInvoiceSource::Phoenixd(_) => "phoenixd",
        RawInvoiceSource::Cln(_) => "cln",
    }
}

fn access(
    source: &RawInvoiceSource,
    at: &At,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<(Uri, NodeAccess)> {
    let url_at = at.key("url");
    match source {
        RawInvoiceSource::Missing => None,
        RawInvoiceSource::Sandbox(url) => {
            sandbox_url(url, at, report).map(|url| (url, NodeAccess::Sandbox))
        }
        RawInvoiceSource::Ldk(raw) => {
            let token = vault.open(&raw.token, &at.key("token"), report);
            Some((secure_url(&raw.url, &url_at, report)?, NodeAccess::Ldk { token: token? }))
        }
        RawInvoiceSource::Lnd(raw) => {
            let macaroon = vault.open(&raw.macaroon, &at.key("macaroon"), report);
            let pin = pin(raw.certificate.as_deref(), at, vault, report);
            let url = secure_url(&raw.url, &url_at, report)?;
            let macaroon = macaroon.filter(|found| is_hex(found, &at.key("macaroon"), report))?;
            Some((url, NodeAccess::Lnd { macaroon, pin: pin? }))
        }
        RawInvoiceSource::Phoenixd(raw) => {
            let password = vault.open(&raw.password, &at.key("password"), report);
            let url = secure_url(&raw.url, &url_at, report)?;
            Some((url, NodeAccess::Phoenixd { password: password? }))
        }
        RawInvoiceSource::Cln(raw) => {
            let rune = vault.open(&raw.rune, &at.key("rune"), report);
            let pin = pin(raw.certificate.as_deref(), at, vault, report);
            let url = secure_url(&raw.url, &url_at, report)?;
            Some((url, NodeAccess::Cln { rune: rune?, pin: pin? }))
        }
    }
}

/// The pinned certificate; the outer `None` when it cannot be read.
fn pin(path: Option<&str>, at: &At, vault: &Vault<'_>, report: &mut Report) -> Option<Option<Pin>> {
    let Some(path) = path else { return Some(None) };
    let text = read_text(&beside(vault.dir, path), MAX_SECRET_BYTES);
    let pin = text
        .map_err(|why| format!("`{}` {why}", printable(path)))
        .and_then(|text| Pin::from_pem(&text).map_err(|error| error.to_string()));
    match pin {
        Ok(pin) => Some(Some(pin)),
        Err(why) => {
            report.problem(&at.key("certificate"), why, "name the node's `tls.cert`");
            None
        }
    }
}

/// Whether a source is the sandbox.
pub(super) fn has_sandbox(raw: &RawL402) -> bool {
    raw.source.all().iter().any(|source| matches!(source, RawInvoiceSource::Sandbox(_)))
}
