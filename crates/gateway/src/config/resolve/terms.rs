//! Terms of one tool: prices, rules, and the contradictions between them.

use super::{name_of_tenant, plain, scopes, span};
use crate::config::{
    finding::nearest,
    raw::{
        RawConsentRule, RawDoubt, RawFlow, RawIdentity, RawPayer, RawPrice, RawPriceList,
        RawPriceRule, RawRails, RawTerms,
    },
    report::{At, Report},
    scalar::Span,
    tree::printable,
};
use countersign_core::{
    money::{Amount, Assets, Micros, MoneyError},
    terms::{
        ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, PriceRule, Terms, ToolRef, Uses,
    },
};
use std::{collections::BTreeSet, sync::Arc};

/// Above this price, stock x402 clients refuse to pay; above the lower one, some do.
const CLIENT_CAPS: [(Micros, &str); 2] = [
    (Micros(1_000_000), "the reference x402 client refuses to pay more than 1 USD"),
    (Micros(100_000), "some x402 clients refuse to pay more than 0.10 USD"),
];

/// What prices may be in, and who can be known.
pub(super) struct Market<'a> {
    pub(super) assets: &'a Assets,
    /// Codes as written, whether or not they were right.
    pub(super) written: BTreeSet<&'a str>,
    pub(super) rails: &'a RawRails,
    pub(super) has_issuers: bool,
    pub(super) has_credit: bool,
}

/// The server that a tool is of.
pub(super) struct Here {
    pub(super) server: Arc<str>,
    pub(super) resource: Arc<str>,
    /// A treasury pays what it asks.
    pub(super) has_treasury: bool,
}

pub(super) fn terms(
    raw: &RawTerms,
    tool: ToolRef,
    here: &Here,
    market: &Market<'_>,
    at: &At,
    report: &mut Report,
) -> Option<Terms> {
    let prices = price_list(&raw.price, (here, market), &at.key("price"), report);
    let is_priced = prices.iter().flatten().any(|rule| !rule.amounts.is_empty() || rule.upstream);
    let identity = match raw.identity {
        Some(RawIdentity::Human) => IdentityRule::Human,
        Some(RawIdentity::Anonymous) => IdentityRule::Anonymous,
        None | Some(RawIdentity::Required) => IdentityRule::Required,
    };
    let is_anonymous = identity == IdentityRule::Anonymous;
    let consent = match raw.consent {
        Some(RawConsentRule::Required) => ConsentRule::Required,
        Some(RawConsentRule::None) => ConsentRule::NotRequired,
        None if is_priced && !is_anonymous => ConsentRule::Required,
        None => ConsentRule::NotRequired,
    };
    let scopes = scopes(&raw.scopes, &at.key("scopes"), report);
    if is_anonymous && consent == ConsentRule::Required {
        let hint = "write `identity: required`, or `consent: none`";
        report.problem(at, "nobody can have agreed for an anonymous caller", hint);
    }
    if is_anonymous && !scopes.is_empty() {
        let hint = "write `identity: required`, or remove `scopes`";
        report.problem(at, "callers without a token have no scopes", hint);
    }
    let flow = raw.flow.or(market.rails.x402.as_ref().and_then(|rail| rail.flow));
    let terms = Terms {
        tool,
        resource: Arc::clone(&here.resource),
        identity,
        scopes,
        consent,
        prices: prices?,
        flow: match flow {
            Some(RawFlow::Authorization) => Flow::Authorization,
            None | Some(RawFlow::Upfront) => Flow::Upfront,
        },
        idempotent: raw.idempotent,
        doubt: match raw.in_doubt {
            None | Some(RawDoubt::Refund) => DoubtRule::Refund,
            Some(RawDoubt::Capture) => DoubtRule::Capture,
        },
        uses: Uses(raw.uses.unwrap_or(1)),
        intent: raw.intent,
        sensitivity: raw.sensitivity.unwrap_or(1),
        is_reversible: raw.reversible,
        open_world: raw.open_world,
        deadline_ms: span(
            raw.deadline,
            Span::seconds(30),
            [Span(100), Span::seconds(600)],
            &at.key("deadline"),
            report,
        ),
        payer: match raw.payer {
            None | Some(RawPayer::Any) => PayerRule::Any,
            Some(RawPayer::Linked) => PayerRule::Linked,
        },
        keep_output_schema: raw.keep_output_schema,
        top_up: raw.top_up,
    };
    coherence(raw, &terms, market, at, report);
    Some(terms)
}

/// Credit is somebody's, and comes of money.
fn top_up(terms: &Terms, market: &Market<'_>, at: &At, report: &mut Report) {
    let at = at.key("top_up");
    if !market.has_credit {
        report.problem(&at, "nobody can pay from credit here", "add `credit: true`");
    }
    if &*terms.tool.tool == "*" {
        report.problem(&at, "a top-up is a tool with a name", "list it under `tools`");
    }
    if terms.identity == IdentityRule::Anonymous {
        let hint = "write `identity: required`";
        report.problem(&at, "nobody is known whose credit it could be", hint);
    }
    if terms.prices.iter().any(|rule| rule.work || rule.amounts.is_empty()) {
        report.problem(
            &at,
            "credit comes of money alone",
            "write a price in money for each caller",
        );
    }
    if terms.prices.is_empty() || terms.uses.0 > 1 {
        report.problem(&at, "a top-up is one payment", "write its `price`, and remove `uses`");
    }
}

/// What only shows when the terms are seen whole.
fn coherence(raw: &RawTerms, terms: &Terms, market: &Market<'_>, at: &At, report: &mut Report) {
    let amounts = || terms.prices.iter().flat_map(|rule| &rule.amounts);
    let on_lightning = |amount: &&Amount| &*amount.asset.0 == "BTC";
    let on_x402 = amounts().any(|amount| !on_lightning(&amount));
    if terms.payer == PayerRule::Linked {
        let hint =
            "remove `payer`, or price the tool in x402 assets alone, for callers with a token";
        if amounts().any(|amount| on_lightning(&amount)) {
            report.problem(&at.key("payer"), "Lightning does not tell who pays", hint);
        }
        if terms.identity == IdentityRule::Anonymous {
            report.problem(&at.key("payer"), "nobody is known whose wallet it could be", hint);
        }
    }
    if terms.prices.iter().any(|rule| rule.upstream) {
        bought(terms, at, report);
    }
    if terms.uses.0 > 1 && !amounts().any(|amount| on_lightning(&amount)) {
        let hint = "remove `uses`, or add a price in sat";
        report.warn(&at.key("uses"), "`uses` matters for L402 prices only", hint);
    }
    if terms.uses.0 > 1 && terms.is_sensitive() {
        let hint = "remove `uses`, or lower `sensitivity`";
        report.problem(&at.key("uses"), "one payment for a sensitive tool is one call", hint);
    }
    if terms.top_up {
        top_up(terms, market, at, report);
    }
    if raw.flow.is_some() && !on_x402 {
        let hint = "remove `flow`; on Lightning the money always comes first";
        report.warn(&at.key("flow"), "`flow` matters for x402 prices only", hint);
    }
    let x402_micros = amounts().filter(|amount| !on_lightning(amount));
    let dearest = x402_micros.filter_map(|amount| market.assets.micros(amount)).max();
    let exceeded = CLIENT_CAPS.iter().find(|(cap, _)| dearest.is_some_and(|price| price > *cap));
    if let Some((_, text)) = exceeded {
        let hint = "lower the price, or tell your clients to raise their cap";
        report.warn(&at.key("price"), *text, hint);
    }
}

/// What only shows of a tool that the treasury pays for.
fn bought(terms: &Terms, at: &At, report: &mut Report) {
    if terms.identity == IdentityRule::Anonymous {
        let hint = "write `identity: required`, or set a price of your own";
        report.problem(at, "anybody could spend what is in the treasury", hint);
    }
    if terms.payer == PayerRule::Linked {
        let hint = "remove `payer`, or set a price of your own";
        report.problem(&at.key("payer"), "the treasury pays, and no wallet of a person", hint);
    }
    if terms.consent == ConsentRule::NotRequired {
        let hint = "leave `consent` out, unless every caller may spend up to the limits";
        report.warn(at, "the treasury pays, and nobody needs to have agreed", hint);
    }
}

/// The rules in order; empty is free for all.
fn price_list(
    raw: &RawPriceList,
    market: (&Here, &Market<'_>),
    at: &At,
    report: &mut Report,
) -> Option<Vec<PriceRule>> {
    let for_all = |means: Means| {
        let is_free = means == Means::default();
        let Means { amounts, work, upstream } = means;
        let rule = PriceRule { tenant: None, agent: None, amounts, work, upstream };
        if is_free { Vec::new() } else { vec![rule] }
    };
    match raw {
        RawPriceList::One(text) => one(text, market, at, report).map(for_all),
        RawPriceList::Several(texts) => several(texts, market, at, report).map(for_all),
        RawPriceList::Rules(rules) => {
            let mut all = Vec::new();
            let mut is_closed = false;
            for (index, raw) in rules.iter().enumerate() {
                let at = at.index(index);
                if is_closed {
                    let hint = "move the rule for everybody to the end";
                    report.problem(&at, "an earlier rule applies to everybody", hint);
                }
                is_closed |= raw.tenant.is_none() && raw.agent.is_none();
                all.push(rule(raw, market, &at, report));
            }
            all.into_iter().collect()
        }
    }
}

fn rule(
    raw: &RawPriceRule,
    market: (&Here, &Market<'_>),
    at: &At,
    report: &mut Report,
) -> Option<PriceRule> {
    let price_at = at.key("price");
    let means = match &raw.price {
        RawPrice::One(text) => one(text, market, &price_at, report),
        RawPrice::Several(texts) => several(texts, market, &price_at, report),
    };
    let tenant = raw.tenant.as_deref().map(|t| name_of_tenant(t, &at.key("tenant"), report));
    let agent = raw.agent.as_deref().map(|agent| plain(agent, &at.key("agent"), report));
    // A rule whose condition is wrong must not turn into one without a condition.
    let (tenant, agent) = (tenant.map(|t| t.ok_or(())), agent.map(|agent| agent.ok_or(())));
    let Means { amounts, work, upstream } = means?;
    Some(PriceRule {
        tenant: tenant.transpose().ok()?,
        agent: agent.transpose().ok()?,
        amounts,
        work,
        upstream,
    })
}

/// What a price is in; nothing is free.
#[derive(Default, PartialEq, Eq)]
struct Means {
    amounts: Vec<Amount>,
    /// Work will do as well.
    work: bool,
    /// The server behind asks it, and the treasury pays.
    upstream: bool,
}

/// The word for proof of work among prices.
const WORK: &str = "work";
/// The word for what the server behind asks.
const UPSTREAM: &str = "upstream";

/// `free`, one amount, work, or what the server asks.
fn one(
    text: &str,
    (here, market): (&Here, &Market<'_>),
    at: &At,
    report: &mut Report,
) -> Option<Means> {
    match text {
        "free" => Some(Means::default()),
        WORK => work(market, at, report).then(|| Means { work: true, ..Means::default() }),
        UPSTREAM if here.has_treasury => Some(Means { upstream: true, ..Means::default() }),
        UPSTREAM => {
            let hint = "name one of `treasuries` as `pay` of the server";
            report.problem(at, "no treasury pays what this server asks", hint);
            None
        }
        _ => {
            let amounts = vec![amount(text, market, at, report)?];
            Some(Means { amounts, ..Means::default() })
        }
    }
}

/// Whether work is accepted at all.
fn work(market: &Market<'_>, at: &At, report: &mut Report) -> bool {
    if market.rails.pow.is_none() {
        let hint = "add `rails.pow: {}`, or remove `work`";
        report.problem(at, "no rail takes work", hint);
    }
    market.rails.pow.is_some()
}

fn several(
    texts: &[String],
    (_, market): (&Here, &Market<'_>),
    at: &At,
    report: &mut Report,
) -> Option<Means> {
    if texts.is_empty() {
        report.problem(at, "the list of prices is empty", "write `free` if it is free");
        return None;
    }
    let mut amounts: Vec<Amount> = Vec::new();
    let mut is_good = true;
    let mut takes_work = false;
    for (index, text) in texts.iter().enumerate() {
        let at = at.index(index);
        if text == UPSTREAM {
            let hint = "write `price: upstream` alone: what the server asks is the price";
            report.problem(&at, "`upstream` is no alternative to a price of your own", hint);
            is_good = false;
            continue;
        }
        if text == WORK {
            takes_work = true;
            is_good &= work(market, &at, report);
            continue;
        }
        match amount(text, market, &at, report) {
            Some(amount) if amounts.iter().any(|other| other.asset == amount.asset) => {
                let hint = "keep one price in each asset";
                report.problem(&at, format!("there is a price in {} already", amount.asset), hint);
                is_good = false;
            }
            Some(amount) => amounts.push(amount),
            None => is_good = false,
        }
    }
    is_good.then_some(Means { amounts, work: takes_work, upstream: false })
}

fn amount(text: &str, market: &Market<'_>, at: &At, report: &mut Report) -> Option<Amount> {
    let amount = match market.assets.parse(text) {
        Ok(amount) => amount,
        Err(MoneyError::UnknownUnit(unit)) => {
            unknown_unit(&unit, market, at, report);
            return None;
        }
        Err(error) => {
            let message = format!("`{}` is not a price: {error}", printable(text));
            report.problem(at, message, "write it as `0.01 USDC` or `3 sat`, or `free`");
            return None;
        }
    };
    if amount.minor == 0 {
        report.problem(at, "a price of zero", "write `free` if it is free");
        return None;
    }
    if market.assets.micros(&amount).is_none_or(|micros| micros.0 > i64::MAX.unsigned_abs()) {
        report.problem(at, "the price is too large to be counted", "lower the price");
        return None;
    }
    let is_bitcoin = &*amount.asset.0 == "BTC";
    let (rail, is_there) = if is_bitcoin {
        ("l402", market.rails.l402.is_some())
    } else {
        ("x402", market.rails.x402.is_some())
    };
    if !is_there {
        let message = format!("no rail takes {}", amount.asset);
        report.problem(at, message, format!("add `rails.{rail}`, or price it in another asset"));
        return None;
    }
    if is_bitcoin && amount.minor % 1000 != 0 {
        let hint = "price it in whole sat";
        report.warn(at, "many wallets cannot pay fractions of a satoshi", hint);
    }
    Some(amount)
}

fn unknown_unit(unit: &str, market: &Market<'_>, at: &At, report: &mut Report) {
    let code = if matches!(unit, "sat" | "msat") { "BTC" } else { unit };
    if market.written.contains(code) {
        // The asset itself has a problem, which is reported there.
        return;
    }
    let hint = match (code, nearest(unit, market.written.iter().copied())) {
        ("BTC", _) => {
            "add `BTC: { network: lightning, rate: \"60000 USD\" }` to `assets`".to_owned()
        }
        ("USD", _) => "USD is the unit of limits; price it in an asset, as in `0.01 USDC`".into(),
        (_, Some(near)) => format!("did you mean `{near}`?"),
        (_, None) => format!("add `{}` to `assets`", printable(unit)),
    };
    report.problem(at, format!("no asset `{}` is configured", printable(unit)), hint);
}
