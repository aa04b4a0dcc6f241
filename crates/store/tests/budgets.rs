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
    collections::BTreeSet,
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

/// Every scope with every window, as they apply to one caller.
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
            let budget = budget(format!("b-{i}-{j}"), scope.clone(), window);
            let charges = budget.charges(&spender);
            assert_eq!(charges.len(), 1, "{}", budget.name);
            all.extend(charges);
        }
    }
    all
}

fn principal(identity: &Identity) -> Principal {
    Principal { roles: vec!["research".into()], ..identity.principal().clone() }
}

/// One call of 100: refused, given back, or captured (`said` tells).
async fn spend(store: &Store, clock: &Clock, charges: Vec<Charge>, give_back: bool) -> bool {
    let kind = kind(Pay::X402(Flow::Upfront)).by("alice").price(100);
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
    println!("captured");
    true
}

/// 64 callers, until each was refused.
async fn race(store: &Store, clock: &Clock) {
    let identity = kind(Pay::Free).by("alice").identity(clock.now());
    let charges = charges(&principal(&identity));
    let tasks: Vec<_> = (0..64)
        .map(|caller| {
            let (store, clock, charges) = (store.clone(), clock.clone(), charges.clone());
            tokio::spawn(async move {
                let mut round = caller;
                while spend(&store, &clock, charges.clone(), round % 3 == 0).await {
                    round += 1;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// What is held and spent under every counter.
fn used(store: &Store, clock: &Clock) -> BTreeSet<u64> {
    let identity = kind(Pay::Free).by("alice").identity(clock.now());
    let all = charges(&principal(&identity));
    let counted = all.iter().filter(|charge| charge.window != Window::PerCall);
    counted
        .map(|charge| {
            let room = store.rooms(std::slice::from_ref(charge), clock.now());
            LIMIT - room.first().unwrap().0
        })
        .collect()
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
        race(&store, &clock).await;
    });
}

fn run_child(dir: &Dir, lines: usize) -> usize {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "child", "--nocapture"]).env(DIR, &dir.0);
    command.env_remove("STORE_TEST_DIR").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let said = output.lines().map_while(Result::ok).filter(|line| line.contains("captured"));
    let said = said.take(lines).count();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[test]
fn no_kind_is_ever_exceeded_by_64_callers() {
    let (dir, clock) = (Dir::new("budgets"), Clock::new());
    threads().block_on(async {
        let store = open(&dir, &clock);
        race(&store, &clock).await;
        assert_eq!(used(&store, &clock), BTreeSet::from([6_300]), "full, and never over");
        assert_sound(&store);
        store.close().await;
        let store = open(&dir, &clock);
        assert_eq!(used(&store, &clock), BTreeSet::from([6_300]), "a restart forgets nothing");
        race(&store, &clock).await;
        assert_eq!(used(&store, &clock), BTreeSet::from([6_300]));
    });
}

#[test]
fn no_kind_is_exceeded_through_kills_and_restarts() {
    let dir = Dir::new("budgets-killed");
    let mut captured = 0;
    for lines in [1, 7, 13, 20] {
        captured += run_child(&dir, lines);
        let clock = Clock::new();
        let store = open(&dir, &clock);
        assert_sound(&store);
        let used = used(&store, &clock);
        assert_eq!(used.len(), 1, "all counters took the same: {used:?}");
        let used = used.first().copied().unwrap();
        assert!(
            used <= LIMIT && used >= u64::try_from(captured).unwrap() * 100,
            "{used} of {captured}"
        );
    }
    let clock = Clock::new();
    threads().block_on(async {
        let store = open(&dir, &clock);
        race(&store, &clock).await;
        assert_eq!(used(&store, &clock), BTreeSet::from([6_300]));
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
