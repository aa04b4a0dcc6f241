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
