//! Budgets of every scope and window: 64 callers, a kill at any moment, and a restart never take
//! more than the limit; those that people set are durable.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod support;

use countersign_core::{
    approval::Approver,
    ids::GrantId,
    ledger::{Budget, BudgetScope, Calendar, Charge, Every, OnExceed, Spender, Window},
    money::Micros,
    policy::Intent,
    proof::{Identity, Principal},
    refusal::Code,
    terms::Flow,
};
use countersign_store::Store;
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};
use support::*;

const DIR: &str = "STORE_TEST_BUDGETS";
/// What each counter may take; a call is 100.
const LIMIT: u64 = 6_350;

fn windows() -> [Window; 5] {
    let calendar = Calendar { every: Every::Month, zone: "Europe/Berlin".parse().unwrap() };
    [
        Window::Rolling(86_400_000),
        Window::Fixed(calendar),
        Window::Lifetime,
        Window::Session,
        Window::PerCall,
    ]
}

/// A scope of each kind, each value counted by itself.
fn scopes() -> [BudgetScope; 8] {
    let each = || Some("*".into());
    let none = BudgetScope::default;
    [
        BudgetScope { tenant: each(), ..none() },
        BudgetScope { team: each(), ..none() },
        BudgetScope { delegator: each(), ..none() },
        BudgetScope { agent: each(), ..none() },
        BudgetScope { server: each(), ..none() },
        BudgetScope { tool: each(), intent: each(), ..none() },
        BudgetScope { grant: each(), ..none() },
        none(),
    ]
}

fn budget(name: String, scope: BudgetScope, window: Window) -> Budget {
    Budget {
        name: name.into(),
        scope,
        limit: Micros(LIMIT),
        window,
        on_exceed: OnExceed::Deny,
        warn_percent: Some(80),
    }
}

/// Every scope with every window, as they apply to one caller. Each is raced by itself: beside
/// others, one that stopped to count would go unnoticed.
fn charges(principal: &Principal) -> Vec<Charge> {
    let kind = kind(Pay::X402(Flow::Upfront));
    let spender = Spender {
        principal,
        tool: &kind.terms.tool,
        intent: Intent::Read,
        session: "session",
        grant: Some(GrantId::from_bytes([7; 16])),
    };
    let mut all = Vec::new();
    for (i, scope) in scopes().into_iter().enumerate() {
        for (j, window) in windows().into_iter().enumerate() {
            let is_per_call = window == Window::PerCall;
            let mut budget = budget(format!("b-{i}-{j}"), scope.clone(), window);
            // Dearer than one call may be: none is ever admitted.
            budget.limit = if is_per_call { Micros(99) } else { budget.limit };
            let charges = budget.charges(&spender);
            assert_eq!(charges.len(), 1, "{}", budget.name);
            all.extend(charges);
        }
    }
    assert_eq!(all.len(), 40);
    all
}

fn charges_of_alice(clock: &Clock) -> Vec<Charge> {
    charges(&principal(&kind(Pay::Free).by("alice").identity(clock.now())))
}

fn principal(identity: &Identity) -> Principal {
    Principal { roles: vec!["research".into()], ..identity.principal().clone() }
}

/// One call of 100: refused, given back, or captured (`said` tells).
async fn spend(store: &Store, clock: &Clock, charges: Vec<Charge>, give_back: bool) -> bool {
    let kind = kind(Pay::X402(Flow::Upfront)).by("alice").price(100);
    let name = charges.first().unwrap().name().to_owned();
    let permit = any_permit(&kind, "{}", clock.now());
    let settling = match store.reserve(permit, charges, &evidence("{}")).await {
        Ok(reserved) => settling(Ok(reserved)),
        Err(refusal) => {
            assert_eq!(refusal.code(), Code::BudgetExceeded);
            return false;
        }
    };
    if give_back {
        store.settle_failed(settling, Code::PayerFunds).await.unwrap();
        return true;
    }
    let hold = store.settled(settling, receipt("0x1")).await.unwrap();
    store.capture(hold, outcome("x")).await.unwrap();
    println!("captured {name}");
    true
}

/// 64 callers, until each was refused.
async fn race(store: &Store, clock: &Clock, charge: &Charge) {
    let tasks: Vec<_> = (0..64)
        .map(|caller| {
            let (store, clock, charge) = (store.clone(), clock.clone(), charge.clone());
            tokio::spawn(async move {
                let mut round = caller;
                while spend(&store, &clock, vec![charge.clone()], round % 3 == 0).await {
                    round += 1;
                    assert!(round < caller + 200, "{}: never refused", charge.name());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// What is held and spent under a counter.
fn used(store: &Store, clock: &Clock, charge: &Charge) -> u64 {
    charge.limit.0 - store.room(charge, clock.now()).0
}

/// Each kind is raced: it ends full and not over, and one for single calls admits none.
async fn race_each(store: &Store, clock: &Clock) {
    for charge in charges_of_alice(clock) {
        let before = store.log_size();
        race(store, clock, &charge).await;
        let is_per_call = charge.window == Window::PerCall;
        assert!(!is_per_call || store.log_size() == before, "{}: none is admitted", charge.name());
        let full = if is_per_call { 0 } else { 6_300 };
        assert_eq!(used(store, clock, &charge), full, "{}: full, never over", charge.name());
    }
}

fn threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// Not a test of its own: what the killed process does, until it is killed.
#[test]
#[ignore = "run by the others"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    threads().block_on(async {
        let clock = Clock::new();
        let store = Store::open(options(&dir), clock.world()).unwrap();
        let all = charges_of_alice(&clock).into_iter().map(|charge| {
            let (store, clock) = (store.clone(), clock.clone());
            tokio::spawn(async move { race(&store, &clock, &charge).await })
        });
        for one in all.collect::<Vec<_>>() {
            one.await.unwrap();
        }
    });
}

/// Kills it after so many calls; the names of the budgets that they were charged to.
fn run_child(dir: &Dir, lines: usize) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "child", "--nocapture"]).env(DIR, &dir.0);
    command.env_remove("STORE_TEST_DIR").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let said = output.lines().map_while(Result::ok);
    let said = said.filter_map(|line| Some(line.split_once("captured ")?.1.to_owned()));
    let said = said.take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[test]
fn no_kind_is_ever_exceeded_by_64_callers() {
    let (dir, clock) = (Dir::new("budgets"), Clock::new());
    threads().block_on(async {
        let store = open(&dir, &clock);
        race_each(&store, &clock).await;
        assert_sound(&store);
        store.close().await;
        // A restart forgets nothing: not one more is admitted.
        let store = open(&dir, &clock);
        race_each(&store, &clock).await;
    });
}

#[test]
fn no_kind_is_exceeded_through_kills_and_restarts() {
    let dir = Dir::new("budgets-killed");
    let mut captured = Vec::new();
    for lines in [1, 50, 200, 400] {
        captured.extend(run_child(&dir, lines));
        let clock = Clock::new();
        let store = open(&dir, &clock);
        assert_sound(&store);
        for charge in charges_of_alice(&clock) {
            let used = used(&store, &clock, &charge);
            let own = captured.iter().filter(|name| **name == charge.name()).count();
            let least = u64::try_from(own).unwrap() * 100;
            let limit = charge.limit.0;
            assert!(used <= limit && used >= least, "{}: {used} of {least}", charge.name());
        }
    }
    let clock = Clock::new();
    threads().block_on(async {
        let store = open(&dir, &clock);
        race_each(&store, &clock).await;
        assert_sound(&store);
    });
}

#[tokio::test]
async fn what_people_set_is_durable_recorded_and_ended() {
    let (dir, clock) = (Dir::new("budgets-set"), Clock::new());
    let store = open(&dir, &clock);
    let ada = Approver::local("os:1000:ada");
    let wanted = budget("team-month".into(), scopes()[1].clone(), windows()[1].clone());
    store.budget_set(wanted.clone(), &ada).await.unwrap();
    let size = store.log_size();
    assert_eq!(size, 1, "an admin record");
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.budgets().iter().map(|b| (**b).clone()).collect::<Vec<_>>(), [wanted]);
    assert!(store.budget_remove("team-month", &ada).await.unwrap());
    assert!(!store.budget_remove("team-month", &ada).await.unwrap());
    assert_eq!(store.log_size(), 2);
    store.close().await;
    assert!(open(&dir, &clock).budgets().is_empty());
}

#[tokio::test]
async fn the_call_that_reaches_the_part_to_be_noted_is_noted_once() {
    let (dir, clock) = (Dir::new("budgets-warn"), Clock::new());
    let store = open(&dir, &clock);
    let charge = Charge {
        warn_percent: Some(50),
        ..Charge::hard("budget:b".into(), Micros(400), Window::Lifetime)
    };
    let warnings = || {
        let records = (0..store.log_size()).map(|seq| store.record(seq).unwrap().unwrap().leaf);
        records.filter(|leaf| String::from_utf8_lossy(leaf).contains("budget.warn")).count()
    };
    for expected in [0, 1, 1, 1] {
        assert!(spend(&store, &clock, vec![charge.clone()], false).await);
        assert_eq!(warnings(), expected);
    }
    assert!(!spend(&store, &clock, vec![charge.clone()], false).await);
}

/// A window goes by the ledger's own time, which never turns back: not when the system's clock
/// does, nor over a restart; and a call at its very edge is within it.
#[tokio::test]
async fn a_clock_that_jumps_opens_no_window() {
    const DAY_MS: u64 = 86_400_000;
    let (dir, clock) = (Dir::new("budgets-clock"), Clock::new());
    let store = open(&dir, &clock);
    let charges = || vec![charge("day", 200, Window::Rolling(DAY_MS))];
    assert!(spend(&store, &clock, charges(), false).await);
    assert!(spend(&store, &clock, charges(), false).await);
    assert!(!spend(&store, &clock, charges(), false).await, "full");
    let began = clock.now();
    clock.0.fetch_sub(3 * DAY_MS, std::sync::atomic::Ordering::SeqCst);
    assert!(!spend(&store, &clock, charges(), false).await, "three days back");
    store.close().await;
    let store = open(&dir, &clock);
    assert!(!spend(&store, &clock, charges(), false).await, "and a restart there");
    clock.0.store(began.0 + DAY_MS - 1, std::sync::atomic::Ordering::SeqCst);
    assert!(!spend(&store, &clock, charges(), false).await, "the last moment of the window");
    clock.pass(2);
    assert!(spend(&store, &clock, charges(), false).await, "it has passed");
    clock.pass(400 * DAY_MS);
    assert!(spend(&store, &clock, charges(), false).await);
    clock.0.fetch_sub(400 * DAY_MS, std::sync::atomic::Ordering::SeqCst);
    assert!(spend(&store, &clock, charges(), false).await, "two within the day that counts");
    assert!(!spend(&store, &clock, charges(), false).await, "and no third");
    assert_sound(&store);
}
