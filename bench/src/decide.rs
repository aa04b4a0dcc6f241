//! One decision, alone: input put to the engine, answer had. Bundles of the default policies and
//! many more of one's own, spread over tenants and intents as those of a shared gateway are.

use anyhow::{Result, anyhow};
use countersign_core::policy::{Intent, Question};
use countersign_gateway::prove::policy::Engine;
use std::{
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

/// Decisions of one measurement, and measurements of which the best counts.
const DECISIONS: u32 = 1_000;
const ROUNDS: usize = 10;

/// Prints how long decisions take, and how 1,000 policies compare with 50.
pub(crate) fn role() -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("note: a debug build; only the ratios mean something");
    }
    let few = bundle(50, 20)?;
    let many = bundle(1_000, 20)?;
    let one_tenant = bundle(1_000, 1)?;
    let naming = naming(1_000)?;
    let (firm, large_firm) = (firm(50)?, firm(1_000)?);
    let mut times = Vec::new();
    for (name, engine) in [
        ("default bundle and 50 policies, 20 tenants", &few),
        ("default bundle and 1,000 policies, 20 tenants", &many),
        ("default bundle and 1,000 policies, one tenant", &one_tenant),
        ("the same, each naming a tool in its condition", &naming),
        ("one firm's 50 rules on roles, teams, agents, tools and servers", &firm),
        ("one firm's 1,000", &large_firm),
    ] {
        let best = best_of(engine, &question(Intent::Read));
        println!("{name}: {:.1} µs", best.as_secs_f64() * 1e6);
        times.push(best);
    }
    for (name, engine) in [("the first", &few), ("the second", &many)] {
        let challenged = best_of(engine, &question(Intent::Delete));
        println!("{name}, with a challenge: {:.1} µs", challenged.as_secs_f64() * 1e6);
    }
    if let [few, many, one, naming, firm, large_firm] = times.as_slice() {
        let ratio = |time: &Duration| time.as_secs_f64() / few.as_secs_f64();
        println!(
            "1,000 take {:.2} times as long as 50; in one tenant {:.2}, naming tools {:.2}",
            ratio(many),
            ratio(one),
            ratio(naming)
        );
        let grown = large_firm.as_secs_f64() / firm.as_secs_f64();
        println!("one firm's 1,000 take {grown:.2} times as long as its 50");
    }
    Ok(())
}

fn best_of(engine: &Engine, question: &Question) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..DECISIONS {
            black_box(engine.decide(black_box(question)));
        }
        best = best.min(start.elapsed());
    }
    best / DECISIONS
}

fn question(intent: Intent) -> Question {
    let roles = vec!["finance-0".into(), "team:t-0".into()];
    Question { tenant: "t0".into(), roles, intent, ..Engine::sample_question() }
}

/// Policies of one tenant about any intent, each about one tool by its condition alone.
fn naming(count: usize) -> Result<Engine> {
    let mut text = Engine::BUILTIN_POLICIES.to_owned();
    for n in 0..count {
        write!(
            text,
            "@id(\"named.r{n}\") @reason(\"R\") forbid (principal, action, resource) \
             when {{ context.price.micros > {} && resource == Tool::\"server/tool-{n}\" }};",
            n + 1_000,
        )?;
    }
    Engine::load(Engine::BUILTIN_SCHEMA, &text).map_err(|error| anyhow!("{error}"))
}

/// Policies of one tenant as a firm writes them: each on a price or a state, for a role, a team, an
/// agent, a tool or a server, named in its scope or in its condition.
fn firm(count: usize) -> Result<Engine> {
    let mut text = Engine::BUILTIN_POLICIES.to_owned();
    for n in 0..count {
        let whom = match n % 5 {
            0 => format!("principal.acting_for in Role::\"t0/finance-{n}\""),
            1 => format!("principal.acting_for in Team::\"t0/t-{n}\""),
            2 => format!("principal == Agent::\"t0/agent-{n}\""),
            3 => format!("resource == Tool::\"server/tool-{n}\""),
            _ => format!("resource in Server::\"server-{n}\""),
        };
        write!(
            text,
            "@id(\"firm.r{n}\") @reason(\"R\") forbid (principal, action, resource) \
             when {{ principal in Tenant::\"t0\" && {whom} && context.price.micros > {} }};",
            n + 1_000,
        )?;
    }
    Engine::load(Engine::BUILTIN_SCHEMA, &text).map_err(|error| anyhow!("{error}"))
}

/// Half of the policies are about one intent, half about any.
fn bundle(count: usize, tenants: usize) -> Result<Engine> {
    let mut text = Engine::BUILTIN_POLICIES.to_owned();
    for n in 0..count {
        let tenant = n % tenants;
        let intent = Intent::ALL.get(n / 2 % Intent::ALL.len()).copied().unwrap_or(Intent::Read);
        let action = match n % 2 {
            0 => format!("action == Action::\"{}\"", intent.text()),
            _ => "action".to_owned(),
        };
        write!(
            text,
            "@id(\"t{tenant}.r{n}\") @reason(\"R\") forbid (principal in Tenant::\"t{tenant}\", \
             {action}, resource) when {{ context.price.micros > {} && resource.sensitivity > 2 }};",
            n + 1_000,
        )?;
    }
    Engine::load(Engine::BUILTIN_SCHEMA, &text).map_err(|error| anyhow!("{error}"))
}
