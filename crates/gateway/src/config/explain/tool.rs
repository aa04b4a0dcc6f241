//! What the terms of one tool mean.

use super::holds;
use crate::config::{Config, scalar::show_span};
use countersign_core::{
    ledger::Budget,
    money::Amount,
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, PriceRule, Terms},
};

const BEFORE: &str = "before it runs";

/// What one tool's terms mean.
pub(super) fn tool(terms: &Terms, config: &Config) -> String {
    let mut parts = vec![who(terms), cost(&terms.prices, config)];
    if let Some(treasury) = buys(terms, config) {
        parts.push(format!(
            "treasury {treasury} pays that, under the hold of the call, and the caller's budgets \
             and grant count it"
        ));
    }
    parts.extend(taken(terms, config));
    if terms.payer == PayerRule::Linked {
        parts.push("paid from a wallet that is linked to the person".to_owned());
    }
    parts.push(match terms.consent {
        ConsentRule::Required => "a person must have agreed".to_owned(),
        ConsentRule::NotRequired => "nobody needs to have agreed".to_owned(),
    });
    if is_priced(terms) {
        parts.push(match terms.doubt {
            DoubtRule::Refund => {
                "in doubt, a person decides, and is told to give the money back".to_owned()
            }
            DoubtRule::Capture => {
                "in doubt, a person decides, and is told to keep the money".to_owned()
            }
        });
        let name = terms.tool.to_string();
        let about = |budget: &&Budget| {
            budget.scope.tool.as_deref().is_none_or(|tool| tool == "*" || tool == name)
        };
        let budgets: Vec<&str> =
            config.budgets.iter().filter(about).map(|budget| &*budget.name).collect();
        parts.push(match budgets.as_slice() {
            [] => "no budget limits it".to_owned(),
            names => format!("it counts in {}", names.join(", ")),
        });
    }
    parts.push(format!("it has {}", show_span(terms.deadline_ms)));
    parts.extend(character(terms));
    format!("{}.", parts.join("; "))
}

fn is_priced(terms: &Terms) -> bool {
    terms.prices.iter().any(|rule| !rule.amounts.is_empty() || rule.upstream)
}

/// The treasury that pays for a tool.
fn buys<'a>(terms: &Terms, config: &'a Config) -> Option<&'a str> {
    let server = config.servers.get(&terms.tool.server)?;
    let is_bought = terms.prices.iter().any(|rule| rule.upstream);
    server.treasury.as_deref().filter(|_| is_bought)
}

fn who(terms: &Terms) -> String {
    let who = match terms.identity {
        IdentityRule::Human => "a person's delegate may call",
        IdentityRule::Required => "any token may call",
        IdentityRule::Anonymous => "anybody may call",
    };
    match terms.scopes.as_slice() {
        [] => who.to_owned(),
        scopes => format!("{who} with {}", scopes.join(" ")),
    }
}

fn cost(prices: &[PriceRule], config: &Config) -> String {
    if prices.is_empty() {
        return "it is free".to_owned();
    }
    let mut is_closed = false;
    let mut parts = Vec::new();
    for rule in prices {
        is_closed |= rule.tenant.is_none() && rule.agent.is_none();
        parts.push(format!("{}{}", means(rule, config), condition(rule)));
    }
    if !is_closed {
        parts.push("nobody else may call (PAY-020)".to_owned());
    }
    format!("it costs {}", parts.join(", then "))
}

fn means(rule: &PriceRule, config: &Config) -> String {
    if rule.upstream {
        return "what its server asks".to_owned();
    }
    if rule.amounts.is_empty() && !rule.work {
        return "nothing".to_owned();
    }
    let one = |amount: &Amount| {
        let rail = if &*amount.asset.0 == "BTC" { "L402" } else { "x402" };
        format!("{} over {rail}", config.assets.show(amount))
    };
    let work = rule.work.then(|| "proof of work".to_owned());
    rule.amounts.iter().map(one).chain(work).collect::<Vec<_>>().join(" or ")
}

fn condition(rule: &PriceRule) -> String {
    match (&rule.tenant, &rule.agent) {
        (None, None) => String::new(),
        (Some(tenant), None) => format!(" for tenant `{tenant}`"),
        (None, Some(agent)) => format!(" for agent `{agent}`"),
        (Some(tenant), Some(agent)) => format!(" for agent `{agent}` of tenant `{tenant}`"),
    }
}

/// When money is taken, if any is.
fn taken(terms: &Terms, config: &Config) -> Option<String> {
    let amounts = || terms.prices.iter().flat_map(|rule| &rule.amounts);
    let is_lightning = |amount: &&Amount| &*amount.asset.0 == "BTC";
    let x402 = amounts().any(|amount| !is_lightning(&amount)).then_some(match terms.flow {
        Flow::Upfront => BEFORE,
        Flow::Authorization => "after it ran, and the result is withheld if that fails",
    });
    let can_hold = config.rails.l402.as_ref().filter(|rail| terms.uses.0 == 1 && holds(rail));
    let is_held = |amount: &Amount| {
        can_hold.is_some_and(|rail| amount.minor <= u128::from(rail.hold_max_msat))
    };
    let lightning = amounts().any(|amount| is_lightning(&amount)).then(|| {
        match amounts().filter(is_lightning).all(is_held) {
            true => "when it has run, and goes back if it fails",
            false => BEFORE,
        }
    });
    match (x402, lightning) {
        (None, None) => None,
        (Some(when), None) | (None, Some(when)) => Some(format!("money is taken {when}")),
        (Some(when), Some(same)) if when == same => Some(format!("money is taken {when}")),
        (Some(x402), Some(lightning)) => {
            Some(format!("x402 money is taken {x402}; Lightning money is taken {lightning}"))
        }
    }
}

/// What policy is told of it, where the operator says so, and what is not as usual.
fn character(terms: &Terms) -> Vec<String> {
    let is_open = terms.open_world.map(|is_open| match is_open {
        true => "about the world outside of its server",
        false => "about nothing outside of its server",
    });
    let told = [
        terms.intent.map(|intent| format!("intent `{}`", intent.text())),
        Some(format!("sensitivity {} of 3", terms.sensitivity)),
        Some(if terms.is_reversible { "reversible" } else { "not reversible" }.to_owned()),
        is_open.map(str::to_owned),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    let several = (terms.uses.0 > 1).then(|| match terms.is_sensitive() {
        true => "one payment is one call, because it is sensitive".to_owned(),
        false => format!("one L402 credential pays for {} calls", terms.uses.0),
    });
    let run_again = "run again with the same key after a failure of ours";
    let unusual = [
        several,
        terms.idempotent.then(|| run_again.to_owned()),
        terms.top_up.then(|| "what it costs becomes the caller's credit".to_owned()),
        terms.keep_output_schema.then(|| "lists keep its `outputSchema`".to_owned()),
    ];
    let policy = format!("policy is told: {}", told.join(", "));
    std::iter::once(policy).chain(unusual.into_iter().flatten()).collect()
}
