//! Side-by-side benchmarks, in one run: `countersign-bench [--seconds N] [--rounds N] [--quick]
//! [--only relay|free|work|ways|minting|paid] [--callers N,N] [--gateway PATH] [--dir DIR]`.
//! `countersign-bench decide` measures decisions alone; `countersign-bench pow` simulates the free
//! lane under attack, and measures proofs of work alone.
//!
//! Owns the plan: what is measured beside what, in which order. The process starts itself again in
//! other roles (upstream, bare proxy, gateway, store alone), so that each one's CPU time can be
//! read alone; the load generator is this process. Nothing here is a test: timings fail nothing.
//! INVARIANT: every process listens on loopback, runs for a bounded time and ends with this one.
#![allow(
    clippy::as_conversions,
    clippy::float_arithmetic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a program for developers: it measures time, computes ratios and prints them"
)]

mod alone;
mod child;
mod cpu;
mod decide;
mod disk;
mod gateway;
mod l402;
mod load;
mod messages;
mod options;
mod pow;
mod proxy;
mod report;
mod sample;
mod upstream;

use crate::{
    child::Child,
    gateway::{Gateway, Lightning},
    load::Script,
    options::{Options, Part},
    report::Section,
    sample::Sample,
};
use anyhow::{Context as _, Result, bail};
use std::{path::Path, process::ExitCode, time::Duration};

/// The gateway's own: it is this process, in another role, that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match begin(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            eprintln!("{}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

/// A role of its own, or the whole run.
fn begin(words: &[&str]) -> Result<()> {
    match words {
        ["decide"] => decide::role(),
        ["pow"] => pow::role(),
        ["upstream"] => upstream::role(),
        ["proxy", upstream] => proxy::role(upstream),
        ["gateway", config] => gateway::role(Path::new(config)),
        ["store", config, shape, callers, warm_ms, time_ms] => {
            let ms = |text: &str| text.parse().map(Duration::from_millis);
            let shape = shape.parse()?;
            alone::role(Path::new(config), shape, callers.parse()?, ms(warm_ms)?, ms(time_ms)?)
        }
        words => run(&Options::parse(words)?),
    }
}

/// The plan.
fn run(options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("note: a debug build; its figures mean nothing");
    }
    let dir = disk::Dir::new(&options.dir)?;
    report::machine(&dir, options)?;
    let upstream = Child::start(&["upstream"])?;
    let mut sections = Vec::new();
    if options.wants(Part::Relay) {
        sections.push(relay(options, &dir, &upstream)?);
    }
    if options.wants(Part::Free) {
        sections.push(free(options, &dir, &upstream)?);
    }
    if options.wants(Part::Work) {
        sections.push(work(options, &dir, &upstream)?);
    }
    if options.wants(Part::Ways) {
        sections.push(ways(options, &dir, &upstream)?);
        l402::costs()?;
    }
    if options.wants(Part::Minting) {
        sections.push(minting(options, &dir, &upstream)?);
    }
    if options.wants(Part::Paid) {
        sections.push(paid(options, &dir, &upstream)?);
    }
    report::targets(&sections);
    Ok(())
}

/// (a), (b0), (b1): one relayed method, direct, through a bare proxy, through the gateway.
fn relay(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let proxy = Child::start(&["proxy", upstream.url()?])?;
    let gateway = Gateway::start(options, dir, "relay", upstream.url()?)?;
    let mut section = Section::new(
        "relayed method",
        &["(a) upstream direct", "(b0) bare proxy", "(b1) gateway relay"],
    );
    for callers in options.callers.iter().copied() {
        for _ in 0..options.rounds {
            for (index, child) in [upstream, &proxy, gateway.child()].into_iter().enumerate() {
                let request = messages::relayed(child.authority()?, gateway.path_for(child));
                let scripts = vec![Script::Same(request); callers];
                section.push(callers, index, load::drive(options, child, &scripts)?);
            }
        }
        section.print(callers);
    }
    section.compare("b1 / b0 throughput", 2, 1, 0.85);
    Ok(section)
}

/// (b2): a free, anonymous tool with its hold and records, and the store doing the same alone.
fn free(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let gateway = Gateway::start(options, dir, "free", upstream.url()?)?;
    let mut section =
        Section::new("free, anonymous tool", &["(b2) gateway", "store alone, same records"]);
    for callers in options.callers.iter().copied() {
        for _ in 0..options.rounds {
            let child = gateway.child();
            let scripts = vec![Script::Same(messages::free(child.authority()?)); callers];
            section.push(callers, 0, load::drive(options, child, &scripts)?);
            section.push(callers, 1, store_alone(options, dir, "free", callers)?);
        }
        section.print(callers);
    }
    section.compare("b2 / store throughput", 0, 1, 0.7);
    Ok(section)
}

/// (w): an anonymous tool for work, a challenge and a call each time, and the store doing the same
/// alone. The work itself is left out: any text solves these challenges.
fn work(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let gateway = Gateway::start(options, dir, "work", upstream.url()?)?;
    let mut section = Section::new(
        "anonymous tool for work",
        &["(w) challenge and call", "store alone, same records"],
    );
    for callers in options.callers.iter().copied() {
        for _ in 0..options.rounds {
            let child = gateway.child();
            let scripts = vec![Script::Worked(child.authority()?.to_owned()); callers];
            section.push(callers, 0, load::drive(options, child, &scripts)?);
            section.push(callers, 1, store_alone(options, dir, "work", callers)?);
        }
        section.print(callers);
    }
    section.compare("w / store throughput", 0, 1, 0.7);
    Ok(section)
}

/// (l), (o), (h), (w): an anonymous tool, paid for with a credential of many calls, with one bought
/// for each call, with one whose money is held, and with work.
fn ways(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let start =
        |name, lightning| Gateway::start_with(options, dir, name, upstream.url()?, lightning);
    let plain = start("ways", Lightning { hold: false, prefetch: 256 })?;
    let held = start("ways-held", Lightning { hold: true, prefetch: 256 })?;
    let most = options.callers.iter().copied().max().unwrap_or(0);
    let bundles = plain.buy_bundles(most).context("buying L402 credentials")?;
    let mut section = Section::new(
        "anonymous tool, ways to pay",
        &["(l) L402 reuse", "(o) L402 one-time", "(h) L402 one-time, held", "(w) work"],
    );
    for callers in options.callers.iter().copied() {
        let Some(bundles) = bundles.get(..callers) else { bail!("too few credentials") };
        for _ in 0..options.rounds {
            let reuse: Vec<Script> = bundles.iter().cloned().map(Script::Same).collect();
            section.push(callers, 0, load::drive(options, plain.child(), &reuse)?);
            for (index, gateway) in [(1, &plain), (2, &held)] {
                let scripts = vec![Script::Bought(gateway.shop()?); callers];
                section.push(callers, index, load::drive(options, gateway.child(), &scripts)?);
            }
            let work = vec![Script::Worked(plain.child().authority()?.to_owned()); callers];
            section.push(callers, 3, load::drive(options, plain.child(), &work)?);
        }
        section.print(callers);
    }
    Ok(section)
}

/// (m): challenges with a fresh invoice each, which the node makes ahead, or when it is asked for.
fn minting(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let start = |name, prefetch| {
        let lightning = Lightning { hold: false, prefetch };
        Gateway::start_with(options, dir, name, upstream.url()?, lightning)
    };
    let (ahead, asked) = (start("minting-ahead", 256)?, start("minting-asked", 0)?);
    let mut section =
        Section::new("challenges, one invoice each", &["(m) made ahead", "made when asked for"]);
    // More callers than the node has places for would only wait for it.
    for callers in [1, 4, 16] {
        for _ in 0..options.rounds {
            for (index, gateway) in [&ahead, &asked].into_iter().enumerate() {
                let scripts = vec![Script::Asked(gateway.shop()?); callers];
                section.push(callers, index, load::drive(options, gateway.child(), &scripts)?);
            }
        }
        section.print(callers);
    }
    Ok(section)
}

/// (c): four proofs, and the store doing the same alone.
fn paid(options: &Options, dir: &disk::Dir, upstream: &Child) -> Result<Section> {
    let mut gateway = Gateway::start(options, dir, "paid", upstream.url()?)?;
    let most = options.callers.iter().copied().max().unwrap_or(0);
    let bought = gateway.buy(most).context("buying L402 credentials")?;
    let scripts: Vec<Script> = bought.into_iter().map(Script::Same).collect();
    let mut section = Section::new(
        "four proofs: JWT, grant, L402 credential, Cedar",
        &["(c) gateway", "store alone, same records"],
    );
    for callers in options.callers.iter().copied() {
        let Some(scripts) = scripts.get(..callers) else { bail!("too few credentials") };
        for _ in 0..options.rounds {
            section.push(callers, 0, load::drive(options, gateway.child(), scripts)?);
            section.push(callers, 1, store_alone(options, dir, "paid", callers)?);
        }
        section.print(callers);
    }
    section.compare("c / store throughput", 0, 1, 0.7);
    section.limit("c CPU µs a call", 0, 150.0);
    Ok(section)
}

/// The store alone, in a process and a directory of its own.
fn store_alone(options: &Options, dir: &disk::Dir, shape: &str, callers: usize) -> Result<Sample> {
    let config = gateway::config_for_store(dir, shape)?;
    let ms = |time: Duration| time.as_millis().to_string();
    let (callers, warm, time) = (callers.to_string(), ms(options.warm), ms(options.time));
    let config = config.to_str().context("the directory's name is not UTF-8")?;
    let line = child::output(&["store", config, shape, &callers, &warm, &time])?;
    serde_json::from_str(&line).with_context(|| format!("the store said `{line}`"))
}
