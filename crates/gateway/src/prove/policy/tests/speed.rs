//! Figures, not verdicts: `cargo test --release policy::tests::speed -- --ignored --nocapture`.

use super::*;
use std::{fmt::Write as _, hint::black_box, time::Duration};

fn report(name: &str, engine: &Engine, question: &Question) {
    #[expect(clippy::disallowed_methods, reason = "measures real time")]
    let now = std::time::Instant::now;
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = now();
        for _ in 0..1000 {
            black_box(engine.decide(black_box(question)));
        }
        best = best.min(start.elapsed());
    }
    println!("{name}: {:?}, {}", best / 1000, line(&engine.decide(question)));
}

/// `count` policies over `tenants` tenants, of the shape of real ones.
fn bundle(count: usize, tenants: usize) -> Engine {
    let mut text = ALLOW.to_owned();
    for n in 0..count {
        let t = n % tenants;
        write!(
            text,
            "@id(\"t{t}.r{n}\") @reason(\"R\") forbid (principal in Tenant::\"t{t}\", action, \
             resource) when {{ context.price.micros > {n} && resource.sensitivity > 2 }};"
        )
        .unwrap();
    }
    with(&text)
}

#[test]
#[ignore = "a benchmark"]
fn of_a_decision() {
    let mut q = question();
    report("default bundle, allow", &builtin(), &q);
    q.intent = Intent::Delete;
    report("default bundle, challenge", &builtin(), &q);
    q.tenant = "t3".into();
    for (count, tenants) in [(50, 50), (50, 1), (1000, 1000), (1000, 20), (1000, 1)] {
        q.tenant = format!("t{}", tenants - 1).into();
        report(&format!("{count} policies, {tenants} tenants"), &bundle(count, tenants), &q);
    }
}

/// A policy that names its tool in a `when` is passed over for all other tools, and found for its
/// own, whichever part of the condition says so.
#[test]
fn what_a_condition_names_is_indexed_too() {
    let engine = with(
        r#"
        @id("allow") @reason("A") permit (principal, action, resource);
        @id("equal") @reason("B") forbid (principal, action, resource)
        when { context.price.micros > 5 && resource == Tool::"files/read_file" };
        @id("server") @reason("C") forbid (principal, action, resource)
        when { resource in Server::"mail" } unless { resource == Tool::"mail/open" };
        @id("either") @reason("D") forbid (principal, action, resource)
        when { resource == Tool::"x/y" || context.price.micros > 50000 };
        @id("tenant") @reason("E") forbid (principal, action, resource)
        when { principal in Tenant::"rival" };"#,
    );
    let asked = |server: &str, tool: &str, tenant: &str, price: u64| {
        let question = Question {
            server: server.into(),
            tool: tool.into(),
            tenant: tenant.into(),
            price: Micros(price),
            ..question()
        };
        let seen =
            super::super::facts::Scene::new(&engine.vocabulary, &question, None).ok().unwrap();
        let seen: usize = engine.slices.looked_at(&seen).count();
        let decision = engine.decide(&question);
        (
            seen,
            decision
                .reasons
                .iter()
                .map(|reason| reason.policy.clone())
                .collect::<Vec<_>>()
                .join(" "),
        )
    };
    let found = |seen: usize, policies: &str| (seen, policies.to_owned());
    assert_eq!(asked("files", "read_file", "acme", 7), found(3, "equal"));
    assert_eq!(asked("files", "read_file", "acme", 1), found(3, "allow"));
    assert_eq!(asked("files", "other", "acme", 7), found(2, "allow"));
    assert_eq!(asked("mail", "send", "acme", 7), found(3, "server"));
    assert_eq!(asked("mail", "open", "acme", 7), found(3, "allow"));
    assert_eq!(asked("files", "other", "acme", 60_000), found(2, "either"), "an alternative");
    assert_eq!(asked("files", "other", "rival", 7), found(3, "tenant"));
}

/// So is one that names for whom the agent acts: the person, or a role or team of theirs.
#[test]
fn whom_an_agent_acts_for_is_indexed_too() {
    let engine = with(
        r#"
        @id("allow") @reason("A") permit (principal, action, resource);
        @id("role") @reason("B") forbid (principal, action, resource)
        when { principal.acting_for in Role::"acme/finance" && context.price.micros > 5 };
        @id("team") @reason("C") forbid (principal, action, resource)
        when { principal.acting_for in Team::"acme/red" };
        @id("person") @reason("D") forbid (principal, action, resource)
        when { principal.acting_for == Human::"https://id.acme.example|bob" };
        @id("tenant") @reason("E") forbid (principal, action, resource)
        when { principal.tenant == Tenant::"rival" };
        @id("not") @reason("F") forbid (principal, action, resource)
        when { !(principal.acting_for in Role::"acme/finance") && context.price.micros > 50000 };"#,
    );
    let asked = |tenant: &str, human: &str, role: &str, price: u64| {
        let question = Question {
            tenant: tenant.into(),
            human: human.into(),
            roles: vec![role.into()],
            price: Micros(price),
            ..question()
        };
        let scene =
            super::super::facts::Scene::new(&engine.vocabulary, &question, None).ok().unwrap();
        let seen: usize = engine.slices.looked_at(&scene).count();
        let reasons = engine.decide(&question).reasons;
        (seen, reasons.into_iter().map(|reason| reason.policy).collect::<Vec<_>>().join(" "))
    };
    let found = |seen: usize, policies: &str| (seen, policies.to_owned());
    let (alice, bob) = ("https://id.acme.example|alice", "https://id.acme.example|bob");
    assert_eq!(asked("acme", alice, "finance", 7), found(3, "role"));
    assert_eq!(asked("acme", alice, "finance", 1), found(3, "allow"));
    assert_eq!(asked("acme", alice, "sales", 7), found(2, "allow"));
    assert_eq!(asked("acme", alice, "sales", 60_000), found(2, "not"));
    assert_eq!(asked("acme", alice, "team:red", 7), found(3, "team"));
    assert_eq!(asked("acme", bob, "sales", 7), found(3, "person"));
    assert_eq!(asked("rival", alice, "sales", 7), found(3, "tenant"));
}
