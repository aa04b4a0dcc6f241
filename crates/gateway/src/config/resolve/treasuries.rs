//! Treasuries: the organisation's own wallets, which servers they pay, and which one pays back.

use super::{Vault, name};
use crate::config::{
    Treasury,
    finding::nearest,
    raw::{RawConfig, RawDefault, RawPrice, RawPriceList, RawServer, RawTerms, RawTreasury},
    report::{At, Report},
};
use countersign_client::{Secret, Wallet};
use countersign_core::money::{Asset, Assets};
use std::{collections::BTreeMap, sync::Arc};

/// All of them, if all are right: one that cannot pay must not turn into none.
pub(super) fn treasuries(
    raw: &RawConfig,
    assets: &Assets,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<BTreeMap<Arc<str>, Treasury>> {
    let top = At::top().key("treasuries");
    let mut all = BTreeMap::new();
    let mut is_good = true;
    for (written, raw_one) in &raw.treasuries {
        let at = top.key(written);
        let named = name(written, &at, report);
        let one = treasury(raw_one, assets, &at, vault, report);
        let (Some(named), Some(one)) = (named, one) else {
            is_good = false;
            continue;
        };
        let pays_back = raw.rails.refund_from.as_deref() == Some(written);
        let is_used = raw.servers.values().any(|server| server.pay.as_deref() == Some(written));
        if !is_used && !pays_back {
            let hint = "name it as `pay` of a server or as `rails.refund_from`, or remove it";
            report.warn(&at, "nobody is paid from this treasury", hint);
        }
        all.insert(named, one);
    }
    for (server, raw_server) in &raw.servers {
        is_good &= pays(raw_server, raw, &At::top().key("servers").key(server), report);
    }
    if let Some(named) = &raw.rails.refund_from {
        is_good &= is_there(named, raw, &At::top().key("rails").key("refund_from"), report);
    }
    is_good.then_some(all)
}

fn treasury(
    raw: &RawTreasury,
    assets: &Assets,
    at: &At,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<Treasury> {
    let text = vault.open(&raw.wallet, &at.key("wallet"), report);
    let phrase = match &raw.passphrase {
        Some(reference) => {
            let phrase = vault.open(reference, &at.key("passphrase"), report)?;
            Some(Secret::new(phrase.expose()))
        }
        None => None,
    };
    if raw.per_call.0 > raw.per_day.0 || raw.per_call.0.0 == 0 {
        let hint = "choose limits above zero, that of a day not below that of a call";
        report.problem(&at.key("per_call"), "with these limits nothing is ever paid", hint);
        return None;
    }
    let text = Secret::new(text?.expose());
    let wallets = match Wallet::of_secret(&text, phrase.as_ref()) {
        Ok(wallets) if !wallets.is_empty() => wallets,
        Ok(_) => {
            report.problem(&at.key("wallet"), "the wallet is empty", "name a wallet in it");
            return None;
        }
        Err(error) => {
            let hint = "see the forms of a wallet file in `docs/cli.md`";
            report.problem(&at.key("wallet"), error.to_string(), hint);
            return None;
        }
    };
    let pays_in = |wallet: &Wallet, asset: &Asset| match wallet {
        Wallet::Evm(_) => asset.caip.starts_with("eip155:"),
        Wallet::Lightning(_) => &*asset.code.0 == "BTC",
    };
    for wallet in &wallets {
        if !assets.iter().any(|asset| pays_in(wallet, asset)) {
            let hint = "add what it pays with to `assets`: a rate is needed to count it";
            report.problem(&at.key("wallet"), "no asset is configured that it pays in", hint);
            return None;
        }
    }
    Some(Treasury { wallets, per_call: raw.per_call.0, per_day: raw.per_day.0 })
}

/// Whether the treasury that a server names is there, and used.
fn pays(raw: &RawServer, all: &RawConfig, at: &At, report: &mut Report) -> bool {
    let Some(named) = &raw.pay else { return true };
    if !is_there(named, all, &at.key("pay"), report) {
        return false;
    }
    let default = match &raw.default {
        Some(RawDefault::Terms(terms)) => Some(&**terms),
        Some(RawDefault::Word(_)) | None => None,
    };
    if !raw.tools.values().chain(default).any(is_bought) {
        let hint = "write `price: upstream` for the tools that it pays for, or remove `pay`";
        report.warn(&at.key("pay"), "the treasury pays for no tool of this server", hint);
    }
    true
}

/// Whether there is a treasury of this name.
fn is_there(named: &str, all: &RawConfig, at: &At, report: &mut Report) -> bool {
    if all.treasuries.contains_key(named) {
        return true;
    }
    let hint = match nearest(named, all.treasuries.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "add it to `treasuries`".to_owned(),
    };
    report.problem(at, "no treasury of this name is configured", hint);
    false
}

fn is_bought(terms: &RawTerms) -> bool {
    match &terms.price {
        RawPriceList::One(text) => text == "upstream",
        RawPriceList::Several(_) => false,
        RawPriceList::Rules(rules) => rules
            .iter()
            .any(|rule| matches!(&rule.price, RawPrice::One(text) if text == "upstream")),
    }
}
