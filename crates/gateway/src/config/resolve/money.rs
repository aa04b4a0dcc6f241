//! Assets and rails.

use super::{
    Vault, is_loopback,
    lightning::{self, Webhooks},
    secure_url, span, web_url,
};
use crate::config::{
    Facilitator, Pow, Rails, Token, X402,
    raw::{RawAsset, RawBuiltin, RawFacilitator, RawPow, RawRails, RawX402},
    report::{At, Report},
    scalar::{Span, evm_address},
    tree::printable,
};
use countersign_core::{
    money::{Asset, AssetCode, Assets, Rate},
    wire::pow::TTL_MAX_MS,
};
use http::{HeaderValue, Uri};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Bitcoin's CAIP-19 identifier.
const BTC_CAIP: &str = "bip122:000000000019d6689c085ae165831e93/slip44:0";
/// Decimal places of a millisatoshi.
const BTC_DECIMALS: u8 = 11;
/// Most decimal places of a token.
const MAX_DECIMALS: u8 = 18;
/// What whoever reads a receipt or an offer takes amounts in USDC to be counted in.
const USDC_DECIMALS: u8 = 6;

/// The assets that are right.
#[derive(Default)]
pub(super) struct Known {
    pub(super) known: Assets,
    tokens: BTreeMap<AssetCode, Token>,
}

pub(super) fn assets(raw: &BTreeMap<String, RawAsset>, report: &mut Report) -> Known {
    let mut all = Known::default();
    for (code, raw) in raw {
        let at = At::top().key("assets").key(code);
        let Some((asset, token)) = asset(code, raw, &at, report) else { continue };
        if let Some(token) = token {
            all.tokens.insert(asset.code.clone(), token);
        }
        all.known.insert(asset);
    }
    all
}

fn asset(
    code: &str,
    raw: &RawAsset,
    at: &At,
    report: &mut Report,
) -> Option<(Asset, Option<Token>)> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    if code.is_empty() || code.len() > 16 || !code.bytes().all(good) {
        let hint = "use letters, digits, `.` and `-`, at most 16 characters";
        report.problem(at, format!("`{}` is not a code", printable(code)), hint);
        return None;
    }
    if ["USD", "sat", "msat", "free", "work", "upstream"].contains(&code) {
        let hint = "USD is the unit of limits; sat and msat are units of `BTC`";
        report.problem(at, format!("`{code}` has a meaning of its own"), hint);
        return None;
    }
    if raw.rate.0.0 == 0 {
        let hint = "write what one whole unit is worth";
        report.problem(&at.key("rate"), "a rate of zero would make budgets count nothing", hint);
        return None;
    }
    if raw.network == "lightning" || code == "BTC" {
        let asset = bitcoin(code, raw, at, report)?;
        return Some((asset, None));
    }
    let token = token(raw, at, report);
    let decimals = raw.decimals.filter(|decimals| *decimals <= MAX_DECIMALS);
    if decimals.is_none() {
        let hint = "write the token's `decimals`, 0 to 18";
        report.problem(&at.key("decimals"), "the token's decimal places are not known", hint);
    }
    if code == "USDC" && decimals.is_some_and(|decimals| decimals != USDC_DECIMALS) {
        let hint = "give a token with other places a code of its own, like `USDC-BSC`";
        report.problem(&at.key("decimals"), "amounts in `USDC` are read with 6 places", hint);
    }
    let (token, decimals) = (token?, decimals?);
    let asset = Asset {
        code: code.into(),
        caip: format!("{}/erc20:{}", token.network, token.address).into(),
        decimals,
        rate: rate(raw, decimals),
    };
    Some((asset, Some(token)))
}

fn rate(raw: &RawAsset, decimals: u8) -> Rate {
    let per_minor = 10u64.checked_pow(decimals.into()).unwrap_or(u64::MAX);
    Rate { micros: raw.rate.0.0, per_minor }
}

fn bitcoin(code: &str, raw: &RawAsset, at: &At, report: &mut Report) -> Option<Asset> {
    if code != "BTC" || raw.network != "lightning" {
        let hint = "write `BTC: { network: lightning, rate: \"60000 USD\" }`";
        report.problem(at, "Lightning carries `BTC`, and `BTC` is carried by Lightning", hint);
        return None;
    }
    let surplus = [("address", &raw.address), ("name", &raw.name), ("version", &raw.version)];
    for (name, _) in surplus.into_iter().filter(|(_, value)| value.is_some()) {
        report.problem(&at.key(name), "this is for tokens", "remove it");
    }
    if raw.decimals.is_some_and(|decimals| decimals != BTC_DECIMALS) {
        let hint = "remove `decimals`";
        report.problem(&at.key("decimals"), "`BTC` counts in millisatoshi: 11 places", hint);
    }
    Some(Asset {
        code: code.into(),
        caip: BTC_CAIP.into(),
        decimals: BTC_DECIMALS,
        rate: rate(raw, BTC_DECIMALS),
    })
}

fn token(raw: &RawAsset, at: &At, report: &mut Report) -> Option<Token> {
    let chain = raw.network.strip_prefix("eip155:");
    let chain = chain.filter(|id| !id.starts_with(['0', '+'])).and_then(|id| id.parse().ok());
    if chain.is_none() {
        let message = format!("`{}` is not a network", printable(&raw.network));
        let hint = "write `eip155:` and a chain id (Base: `eip155:8453`), or `lightning`";
        report.problem(&at.key("network"), message, hint);
    }
    let address = match raw.address.as_deref().map(evm_address) {
        Some(Ok(address)) => Some(address),
        Some(Err(why)) => {
            let message = format!("this is not a token's address: {why}");
            report.problem(&at.key("address"), message, "copy it again, in quotes");
            None
        }
        None => {
            report.problem(at, "`address` is missing", "write the token's contract");
            None
        }
    };
    let mut domain = |name: &str, value: &Option<String>| {
        if value.as_deref().is_none_or(str::is_empty) {
            let hint = "write it as the token's contract returns it (EIP-712); USDC: name `USDC` \
                        or `USD Coin`, version `2`";
            report.problem(at, format!("`{name}` is missing"), hint);
        }
        value.as_deref().map(Arc::from)
    };
    let (name, version) = (domain("name", &raw.name), domain("version", &raw.version));
    Some(Token {
        network: raw.network.as_str().into(),
        chain_id: chain?,
        address: address?.into(),
        name: name?,
        version: version?,
    })
}

pub(super) fn rails(
    raw: &RawRails,
    assets: &Known,
    webhooks: &Webhooks,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<Rails> {
    let x402 = raw.x402.as_ref().map(|raw| x402(raw, assets, vault, report));
    let l402 = raw.l402.as_ref().map(|raw| lightning::l402(raw, assets, webhooks, vault, report));
    let (x402, l402) = (x402.map(|rail| rail.ok_or(())), l402.map(|rail| rail.ok_or(())));
    let pow = raw.pow.as_ref().map(|raw| pow(raw, report));
    Some(Rails {
        x402: x402.transpose().ok()?,
        l402: l402.transpose().ok()?,
        pow,
        refund_from: raw.refund_from.as_deref().map(Arc::from),
    })
}

fn pow(raw: &RawPow, report: &mut Report) -> Pow {
    let at = At::top().key("rails").key("pow");
    let least = raw.min_difficulty.unwrap_or(50_000);
    // Without a word of its own, the greatest leaves the controller room above the least.
    let most = raw.max_difficulty.unwrap_or_else(|| least.saturating_mul(4).max(4_000_000));
    if most < least {
        let hint = "write it at least as large as `min_difficulty`";
        report.problem(&at.key("max_difficulty"), "it is below `min_difficulty`", hint);
    }
    let bounds = [Span::seconds(10), Span(TTL_MAX_MS)];
    Pow {
        capacity_per_s: raw.capacity_per_s.unwrap_or(50),
        daily_quota: raw.daily_quota.unwrap_or(100),
        min_difficulty: least,
        max_difficulty: most,
        ttl_ms: span(raw.ttl, Span::seconds(60), bounds, &at.key("ttl"), report),
    }
}

fn x402(raw: &RawX402, assets: &Known, vault: &Vault<'_>, report: &mut Report) -> Option<X402> {
    let at = At::top().key("rails").key("x402");
    let pay_to = match evm_address(&raw.pay_to) {
        Ok(address) => Some(address),
        Err(why) => {
            let message = format!("this is not an address: {why}");
            report.problem(&at.key("pay_to"), message, "copy it again, in quotes");
            None
        }
    };
    if assets.tokens.values().any(|token| Some(&*token.address) == pay_to.as_deref()) {
        let hint = "write your own address";
        report.problem(&at.key("pay_to"), "this is the token's contract: money is lost", hint);
    }
    if assets.tokens.is_empty() {
        let hint = "add the token to `assets`, for example USDC on `eip155:8453`";
        report.warn(&at, "no asset is paid over x402", hint);
    }
    let is_builtin = matches!(raw.facilitator, RawFacilitator::Builtin(_));
    if is_builtin && assets.tokens.len() != 1 {
        let hint = "keep one token in `assets`, or use a facilitator's `url`";
        report.problem(&at.key("facilitator"), "the built-in one serves exactly one token", hint);
    }
    let bounds = [Span::seconds(10), Span::seconds(900)];
    let max_timeout_ms =
        span(raw.max_timeout, Span::seconds(60), bounds, &at.key("max_timeout"), report);
    let rpc = raw.rpc.as_deref().and_then(|url| secure_url(url, &at.key("rpc"), report));
    let networks: BTreeSet<_> = assets.tokens.values().map(|token| token.chain_id).collect();
    if rpc.is_some() && networks.len() > 1 {
        let hint = "keep the tokens of one network in `assets`";
        report.problem(&at.key("rpc"), "one node cannot speak for several networks", hint);
    }
    if rpc.is_some() && !matches!(raw.facilitator, RawFacilitator::Url(_)) {
        let hint = "remove it: it is for a facilitator's `url`";
        report.problem(&at.key("rpc"), "this facilitator has no word to check", hint);
    }
    let authorization = authorization(raw, &at.key("authorization"), vault, report);
    let facilitator = facilitator(&raw.facilitator, &at.key("facilitator"), vault, report);
    let facilitator = facilitator.map(|facilitator| match facilitator {
        Facilitator::Remote { url, .. } => Facilitator::Remote { url, rpc, authorization },
        Facilitator::Builtin { .. } | Facilitator::Sandbox { .. } => facilitator,
    });
    Some(X402 {
        pay_to: pay_to?.into(),
        facilitator: facilitator?,
        tokens: assets.tokens.clone(),
        max_timeout_s: max_timeout_ms / 1000,
    })
}

/// What a facilitator is shown; no other than one by its `url` asks who is there.
fn authorization(
    raw: &RawX402,
    at: &At,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<HeaderValue> {
    let reference = raw.authorization.as_ref()?;
    if !matches!(raw.facilitator, RawFacilitator::Url(_)) {
        let hint = "remove it: it is for a facilitator's `url`";
        report.problem(at, "nobody is shown this", hint);
        return None;
    }
    vault.open_header(reference, at, report)
}

fn facilitator(
    raw: &RawFacilitator,
    at: &At,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<Facilitator> {
    match raw {
        RawFacilitator::Url(url) => {
            let url = secure_url(url, &at.key("url"), report)?;
            Some(Facilitator::Remote { url, rpc: None, authorization: None })
        }
        RawFacilitator::Sandbox(url) => {
            sandbox_url(url, &at.key("sandbox"), report).map(|url| Facilitator::Sandbox { url })
        }
        RawFacilitator::Builtin(RawBuiltin { rpc, key }) => {
            let at = at.key("builtin");
            let rpc = secure_url(rpc, &at.key("rpc"), report);
            let key = vault.open(key, &at.key("key"), report);
            let is_key = |text: &str| {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if key.as_ref().is_some_and(|key| !is_key(key.expose())) {
                let hint = "put 64 hex characters there";
                report.problem(&at.key("key"), "the secret is not a 32-byte key in hex", hint);
            }
            Some(Facilitator::Builtin { rpc: rpc?, key: key? })
        }
    }
}

pub(super) fn sandbox_url(text: &str, at: &At, report: &mut Report) -> Option<Uri> {
    let uri = web_url(text, at, report)?;
    if !is_loopback(&uri) {
        report.problem(at, "the sandbox must stay on loopback", "write `http://127.0.0.1:9740`");
        return None;
    }
    Some(uri)
}

/// Where sandbox parts are configured.
pub(super) fn sandbox_parts(raw: &RawRails) -> Vec<At> {
    let at = At::top().key("rails");
    let mut parts = Vec::new();
    if let Some(RawX402 { facilitator: RawFacilitator::Sandbox(_), .. }) = &raw.x402 {
        parts.push(at.key("x402").key("facilitator").key("sandbox"));
    }
    if raw.l402.as_ref().is_some_and(lightning::has_sandbox) {
        parts.push(at.key("l402").key("source").key("sandbox"));
    }
    parts
}
