//! What a configuration means, in sentences: who may call, what it costs, when money is taken,
//! what happens in doubt, and what is refused.
//!
//! Everything is said that the operator could have said otherwise, also where the default holds.

use super::{
    Config, DefaultTool, Facilitator, Issuer, L402, NodeAccess, PolicySource, Server, TenantRule,
    Treasury,
    scalar::{show_size, show_span},
};
use countersign_client::Wallet;
use countersign_core::{
    ledger::{Budget, BudgetScope, Calendar, Every, OnExceed, Window},
    money::Amount,
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, PriceRule, Terms},
};

/// One sentence or paragraph a line: the whole first, then each server and tool.
#[must_use]
pub fn explain(config: &Config) -> Vec<String> {
    let mut lines = whole(config);
    lines.extend(config.issuers.iter().map(|issuer| self::issuer(issuer)));
    lines.extend(rails(config));
    lines.extend(config.treasuries.iter().map(|(name, it)| treasury(name, it)));
    lines.extend(refunds(config));
    for server in config.servers.values() {
        lines.push(self::server(server, config));
        for terms in server.tools.values() {
            lines.push(format!("{}: {}", terms.tool, tool(terms, config)));
        }
        lines.push(match &server.default {
            DefaultTool::Refuse => {
                format!("{}: every other tool is hidden and refused (REQ-015).", server.name)
            }
            DefaultTool::Terms(terms) => {
                format!("{}: every other tool: {}", server.name, tool(terms, config))
            }
        });
    }
    lines.extend(config.budgets.iter().map(budget));
    lines.push(refused(config));
    lines
}

fn whole(config: &Config) -> Vec<String> {
    let mut lines = vec![format!(
        "Listens on {}; clients reach it at {}. Data is kept in {}; people administer it through {}.",
        config.listen,
        config.public_url,
        config.data_dir.display(),
        config.admin_socket.display(),
    )];
    if config.sandbox {
        lines.push("Sandbox: money is play money, and nothing leaves this machine.".to_owned());
    }
    lines.push(match &config.policy {
        PolicySource::Builtin => "Policy: the built-in bundle decides on every attempt.".to_owned(),
        PolicySource::Dir(dir) => {
            format!("Policy: the bundle in {} decides on every attempt.", dir.display())
        }
    });
    if config.pdp.as_ref().is_some_and(|pdp| pdp.is_sole) {
        // The bundle in force is not asked.
        lines.pop();
    }
    if let Some(key) = &config.policy_key {
        lines.push(format!("Policy bundles are accepted only if `{}` signed them.", key.name()));
    }
    if let Some(pdp) = &config.pdp {
        let says = match pdp.is_sole {
            true => "alone decides instead of the bundle's policies",
            false => "must say yes as well",
        };
        lines.push(format!("Policy: {} {says}, within {} ms.", pdp.url, pdp.timeout_ms));
    }
    if let Some(provider) = &config.risk_provider {
        lines.push(format!("Risk: {} may raise it, within 50 ms.", provider.url));
    }
    if let Some(console) = &config.console {
        lines.push(format!(
            "Console: listens on {}; browsers reach it at {}; {} signs people in.",
            console.listen, console.public_url, console.sign_in.issuer,
        ));
    }
    for push in &config.push {
        let whose = match (&push.tenant, &push.delegator) {
            (_, Some(person)) => format!("requests for {person}"),
            (Some(tenant), None) => format!("requests of tenant `{tenant}`"),
            (None, None) => "every request".to_owned(),
        };
        lines.push(format!("Webhook `{}` is told of {whose} for approval.", push.webhook));
    }
    if let Some(url) = &config.approve_url {
        lines.push(format!("People approve at {url}."));
    }
    lines
}

fn issuer(issuer: &Issuer) -> String {
    let tenant = match &issuer.tenant {
        TenantRule::Fixed(tenant) => format!("its principals are of tenant `{tenant}`"),
        TenantRule::Claim { name, known } if known.is_empty() => {
            format!("claim `{name}` names the tenant")
        }
        TenantRule::Claim { name, known } => {
            format!("claim `{name}` names the tenant, one of {}", known.join(", "))
        }
    };
    let audience = match &issuer.audience {
        None => "for the server's resource URI".to_owned(),
        Some(audience) => format!("for audience `{audience}`"),
    };
    let clients = match issuer.clients.as_slice() {
        [] => String::new(),
        clients => format!(" from clients {}", clients.join(", ")),
    };
    let typ = if issuer.accept_typ_missing { ", whatever their `typ`" } else { "" };
    let private = if issuer.allow_private_network {
        "; it may be in a private network, over plain http too"
    } else {
        ""
    };
    let consent = issuer.consent.map_or_else(String::new, |most| {
        let (per_call, total) = (most.per_call, most.total);
        format!("; they may carry consent, at most {per_call} a call and {total} in all")
    });
    let name = &issuer.issuer;
    format!("Tokens of {name} are accepted {audience}{clients}{typ}; {tenant}{private}{consent}.")
}

fn rails(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(rail) = &config.rails.x402 {
        let who = match &rail.facilitator {
            Facilitator::Remote { url, rpc: None, .. } => format!("{url} verifies and settles"),
            Facilitator::Remote { url, rpc: Some(rpc), .. } => {
                format!("{url} verifies and settles, and {rpc} must show it")
            }
            Facilitator::Builtin { rpc, .. } => {
                let host = rpc.host().unwrap_or("");
                format!("this gateway verifies and settles through the node at {host}")
            }
            Facilitator::Sandbox { url } => format!("the sandbox at {url} pretends to settle"),
        };
        let assets: Vec<&str> = rail.tokens.keys().map(|code| &*code.0).collect();
        lines.push(format!("x402: {} to {}; {who}.", assets.join(", "), rail.pay_to));
    }
    if let Some(rail) = &config.rails.l402 {
        let ttl = show_span(rail.credential_ttl_ms);
        lines.push(format!("L402: {}; a paid credential is valid for {ttl}.", invoices(rail)));
    }
    if let Some(rail) = &config.rails.pow {
        lines.push(format!(
            "Proof of work: {} calls a second, {} a day for each caller, {} to {} hashes each; a \
             challenge is good for {}.",
            rail.capacity_per_s,
            rail.daily_quota,
            rail.min_difficulty,
            rail.max_difficulty,
            show_span(rail.ttl_ms)
        ));
    }
    lines
}

fn treasury(name: &str, treasury: &Treasury) -> String {
    let from = treasury.wallets.iter().map(|wallet| match wallet {
        Wallet::Evm(wallet) => format!("x402 from {}", wallet.address()),
        Wallet::Lightning(_) => "Lightning invoices".to_owned(),
    });
    format!(
        "Treasury {name}: pays {}; at most {} a call, and {} within any 24h.",
        from.collect::<Vec<_>>().join(" and "),
        treasury.per_call,
        treasury.per_day,
    )
}

/// What goes back without a person.
fn refunds(config: &Config) -> Option<String> {
    let name = config.rails.refund_from.as_deref()?;
    let treasury = config.treasuries.get(name)?;
    let one = |wallet: &Wallet| match wallet {
        Wallet::Evm(_) if config.rails.x402.is_some() => {
            Some("x402 payments for calls that did not run, to whoever paid them")
        }
        Wallet::Lightning(_) if config.rails.l402.is_some() => {
            Some("what ended or revoked credentials leave, to an invoice that their holder shows")
        }
        Wallet::Evm(_) | Wallet::Lightning(_) => None,
    };
    let what: Vec<&str> = treasury.wallets.iter().filter_map(one).collect();
    if what.is_empty() {
        return Some(format!("Treasury {name} pays back nothing: its wallet fits no rail."));
    }
    Some(format!(
        "Treasury {name} pays back {}; above {} each, and where it pays nothing back, a person does.",
        what.join(", and "),
        treasury.per_call,
    ))
}

/// Who makes invoices, and when their money is taken.
fn invoices(rail: &L402) -> String {
    let nodes: Vec<String> = rail
        .nodes
        .iter()
        .map(|node| match node.access {
            NodeAccess::Sandbox => format!("the sandbox at {} pretends invoices", node.url),
            NodeAccess::Ldk { .. }
            | NodeAccess::Lnd { .. }
            | NodeAccess::Phoenixd { .. }
            | NodeAccess::Cln { .. } => {
                let host = node.url.host().unwrap_or("");
                format!("{} at {host} makes invoices", node.name)
            }
        })
        .collect();
    if nodes.is_empty() {
        return "nobody makes invoices, so prices in sat cannot be paid (PAY-018)".to_owned();
    }
    let holds = rail.hold && rail.nodes.iter().any(|node| node.access.can_hold());
    let taken = if holds {
        "money for one call is taken when it has run"
    } else {
        "money is taken before the run"
    };
    format!("{}; {taken}", nodes.join(", else "))
}

fn server(server: &Server, config: &Config) -> String {
    let path = server.upstream.path();
    let host = server.upstream.authority().map_or("", |authority| authority.as_str());
    let scheme = server.upstream.scheme_str().unwrap_or("http");
    let relay = match (server.relay.anonymous, server.relay.scopes.as_slice()) {
        (true, _) => "open to anybody".to_owned(),
        (false, []) => "open to any token".to_owned(),
        (false, scopes) => format!("open to tokens with {}", scopes.join(" ")),
    };
    let url = format!("{}/{}/mcp", config.public_url, server.name);
    let audience = if *server.resource == *url {
        String::new()
    } else {
        format!("; tokens must be for {}", server.resource)
    };
    format!(
        "{}: {url} in front of {scheme}://{host}{path}; methods other than tools/call are \
         {relay}{audience}.",
        server.name
    )
}

fn tool(terms: &Terms, config: &Config) -> String {
    let mut parts = vec![who(terms), cost(&terms.prices, config)];
    if let Some(treasury) = buys(terms, config) {
        parts.push(format!(
            "treasury {treasury} pays that, under the hold of the call, and the caller's budgets \
             and grant count it"
        ));
    }
    if let Some(when) = taken(terms) {
        parts.push(when.to_owned());
    }
    if terms.payer == PayerRule::Linked {
        parts.push("paid from a wallet that is linked to the person".to_owned());
    }
    parts.push(match terms.consent {
        ConsentRule::Required => "a person must have agreed".to_owned(),
        ConsentRule::NotRequired => "nobody needs to have agreed".to_owned(),
    });
    if is_priced(terms) {
        parts.push(match terms.doubt {
            DoubtRule::Refund => "in doubt, the money goes back to the caller".to_owned(),
            DoubtRule::Capture => "in doubt, you keep the money".to_owned(),
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
fn taken(terms: &Terms) -> Option<&'static str> {
    let amounts = || terms.prices.iter().flat_map(|rule| &rule.amounts);
    let lightning = amounts().any(|amount| &*amount.asset.0 == "BTC");
    let x402 = amounts().any(|amount| &*amount.asset.0 != "BTC");
    match (x402, lightning, terms.flow) {
        (false, false, _) => None,
        (true, false, Flow::Authorization) => {
            Some("money is taken after it ran, and the result is withheld if that fails")
        }
        (true, true, Flow::Authorization) => Some(
            "x402 money is taken after it ran, and the result is withheld if that fails; \
             Lightning money comes first",
        ),
        (_, _, Flow::Upfront) | (false, true, Flow::Authorization) => {
            Some("money is taken before it runs")
        }
    }
}

fn budget(budget: &Budget) -> String {
    let window = match &budget.window {
        Window::PerCall => "a call".to_owned(),
        Window::Rolling(ms) => format!("within any {}", show_span(*ms)),
        Window::Fixed(Calendar { every: Every::Day, zone }) => format!("each day in {zone}"),
        Window::Fixed(Calendar { every: Every::Week, zone }) => format!("each week in {zone}"),
        Window::Fixed(Calendar { every: Every::Month, zone }) => format!("each month in {zone}"),
        Window::Lifetime => "ever".to_owned(),
        Window::Session => "a session".to_owned(),
    };
    let beyond = match budget.on_exceed {
        OnExceed::Deny => "",
        OnExceed::Confirm => "; beyond it a person must confirm",
    };
    let warn = budget.warn_percent.map(|p| format!("; noted from {p} %")).unwrap_or_default();
    let scope = scope(&budget.scope);
    format!("Budget {}: at most {} {window}, {scope}{beyond}{warn}.", budget.name, budget.limit)
}

fn scope(scope: &BudgetScope) -> String {
    let parts = scope.parts();
    let one = |(what, value): (&str, &Option<_>)| {
        let value: &str = value.as_deref()?;
        let what = if what == "delegator" { "person" } else { what };
        Some(if value == "*" { format!("each {what}") } else { format!("{what} `{value}`") })
    };
    let parts: Vec<String> = parts.into_iter().filter_map(one).collect();
    if parts.is_empty() {
        return "all callers together".to_owned();
    }
    format!("counted for {}", parts.join(" and "))
}

fn refused(config: &Config) -> String {
    let limits = &config.limits;
    format!(
        "Refused besides: bodies over {}, headers over {}, JSON deeper than {}, results over {}, \
         more than {} calls at once, {} unpaid quotes or {} pending approvals of \
         one principal, {} requests for approval of one agent an hour; {} failed payments of one \
         principal and {} of one address a minute, {} and {} unpaid invoices; browsers from {}.",
        show_size(limits.body_bytes),
        show_size(limits.header_bytes),
        limits.json_depth,
        show_size(limits.result_bytes),
        limits.calls,
        limits.open_quotes_per_principal,
        limits.pending_approvals_per_principal,
        limits.asks_per_agent_per_hour,
        limits.failed_payments_per_principal_per_minute,
        limits.failed_payments_per_address_per_minute,
        limits.invoices_per_principal_per_minute,
        limits.invoices_per_address_per_minute,
        match config.allowed_origins.as_slice() {
            [] => format!("anywhere but {}", config.public_url),
            origins => format!("anywhere but {} and {}", config.public_url, origins.join(", ")),
        },
    )
}
