//! What a configuration means, in sentences: who may call, what it costs, when money is taken,
//! what happens in doubt, and what is refused.
//!
//! Everything is said that the operator could have said otherwise, also where the default holds.

mod tool;

use super::{
    Config, DefaultTool, Facilitator, Issuer, L402, NodeAccess, PaymentForm, PolicySource,
    RebalanceLimits, Rule, Server, TenantRule, Treasury,
    scalar::{show_size, show_span},
};
use countersign_client::Wallet;
use countersign_core::{
    ledger::{Budget, BudgetScope, Calendar, Every, OnExceed, Window},
    money::Asset,
};
use tool::tool;

/// One sentence or paragraph a line: the whole first, then each server and tool.
#[must_use]
pub fn explain(config: &Config) -> Vec<String> {
    let mut lines = whole(config);
    lines.extend(beside(config));
    lines.extend(config.issuers.iter().map(|issuer| self::issuer(issuer)));
    lines.extend(rails(config));
    lines.extend(config.treasuries.iter().map(|(name, it)| treasury(name, it)));
    lines.extend(refunds(config));
    lines.push(money(config));
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

/// What is served beside calls: console, metrics, the log.
fn beside(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(console) = &config.console {
        let step_up = console.step_up.as_ref().map_or_else(String::new, |step_up| {
            let age = show_span(step_up.max_age_s.saturating_mul(1000));
            format!("; who approves more than {} signed in within {age}", step_up.above)
        });
        let programs = match console.api_clients.as_slice() {
            [] => "no program".to_owned(),
            clients => clients.join(", "),
        };
        lines.push(format!(
            "Console: listens on {}; browsers reach it at {}; {} signs people in, for {}{step_up}; \
             {programs} may use the admin API there.",
            console.listen,
            console.public_url,
            console.sign_in.issuer,
            show_span(console.session_ms),
        ));
    }
    if let Some(listen) = config.metrics {
        lines.push(format!("Metrics: anybody who reaches {listen} reads them."));
    }
    lines.push(format!(
        "Log: its name is {}; what is new gets a signed checkpoint within {}.",
        config.audit.origin,
        show_span(config.audit.checkpoint_ms),
    ));
    lines
}

/// What money is worth here, and how long a price holds.
fn money(config: &Config) -> String {
    let one = |asset: &Asset| {
        let whole = 10u128.checked_pow(asset.decimals.into());
        let worth = whole.and_then(|whole| asset.rate.micros_of(whole));
        Some(format!("1 {} as {}", asset.code.0, worth?))
    };
    let worth: Vec<String> = config.assets.iter().filter_map(one).collect();
    let worth = match worth.as_slice() {
        [] => String::new(),
        all => format!("budgets and caps count {}; ", all.join(", ")),
    };
    let credit = match config.credit {
        true => "callers with a token may have credit, and what is owed back to them becomes it",
        false => "nobody has credit",
    };
    let ttl = show_span(config.limits.quote_ttl_ms);
    format!("Money: {worth}a price once quoted holds for {ttl}; {credit}.")
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
    let human = issuer.human_claim.as_ref().map_or_else(String::new, |claim| {
        format!("; only claim `{claim}` makes its subject a person")
    });
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
    format!(
        "Tokens of {name} are accepted {audience}{clients}{typ}; {tenant}{human}{private}{consent}."
    )
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
        let window = show_span(rail.max_timeout_s.saturating_mul(1000));
        lines.push(format!(
            "x402: {} to {}; {who}; a payment is good for at most {window}.",
            assets.join(", "),
            rail.pay_to
        ));
    }
    if let Some(rail) = &config.rails.l402 {
        let ttl = show_span(rail.credential_ttl_ms);
        lines.push(format!("L402: {}; a paid credential is valid for {ttl}.", invoices(rail)));
        lines.extend(rail.rebalance.as_ref().map(rebalance));
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

/// What is spent on room to receive, and whether anybody is asked.
fn rebalance(limits: &RebalanceLimits) -> String {
    let who = match &limits.rule {
        None => "when a person orders it".to_owned(),
        Some(Rule { inbound_below_sat, amount_sat, via }) => format!(
            "when a person orders it, and without one: {amount_sat} sat over {} whenever less than \
             {inbound_below_sat} sat can be received",
            via.text()
        ),
    };
    format!(
        "Room to receive is bought {who}; at most {} sat of fees each time, {} sat a day.",
        limits.max_fee_sat, limits.max_per_day_sat
    )
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
    let taken = if holds(rail) {
        "money for one call is taken when it has run"
    } else {
        "money is taken before the run"
    };
    format!("{}; {taken}", nodes.join(", else "))
}

/// Whether money for one call can wait until it has run.
fn holds(rail: &L402) -> bool {
    rail.hold && rail.nodes.iter().any(|node| node.access.can_hold())
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
    let trusts = match server.trusts_annotations {
        true => "; what its tools say of themselves is believed",
        false => "",
    };
    let form = match server.payment_form {
        PaymentForm::Auto => "",
        PaymentForm::Mcp => "; payment is always asked for in MCP's form",
        PaymentForm::Http => "; payment is always asked for with HTTP 402",
    };
    format!(
        "{}: {url} in front of {scheme}://{host}{path}; methods other than tools/call are \
         {relay}{audience}{trusts}{form}.",
        server.name
    )
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
