//! The process is killed at any moment: what was acknowledged is there, and the store is sound.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod support;

use countersign_core::{ids::CallId, ledger::CallState, terms::Flow};
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};
use support::*;

const DIR: &str = "STORE_TEST_CHILD";

/// Not a test of its own: what the killed process does, until it is killed.
#[test]
#[ignore = "run by the others"]
fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let clock = Clock::new();
        let store = countersign_store::Store::open(options(&dir), clock.world()).unwrap();
        let mut tasks = Vec::new();
        for _ in 0..16 {
            let (store, now) = (store.clone(), clock.now());
            tasks.push(tokio::spawn(async move {
                let kind = kind(Pay::X402(Flow::Upfront)).by("alice");
                loop {
                    let permit = any_permit(&kind, "{}", now);
                    let reserved = store.reserve(permit, Vec::new(), &evidence("{}")).await;
                    let settling = settling(reserved);
                    println!("settling {}", settling.call());
                    let hold = store.settled(settling, receipt("0x1")).await.unwrap();
                    println!("starting {}", hold.call());
                    let call = hold.call();
                    store.capture(hold, outcome("x")).await.unwrap();
                    println!("captured {call}");
                }
            }));
        }
        // They work until the process is killed.
        for task in tasks {
            let _ended = task.await;
        }
    });
}

/// Runs the child until it has said `lines` lines or died of itself; returns what it said.
fn run_child(dir: &Dir, lines: usize, failpoint: Option<&str>) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "child", "--nocapture"]).env(DIR, &dir.0);
    command.env_remove("STORE_TEST_DIR").stdout(Stdio::piped()).stderr(Stdio::null());
    if let Some(failpoint) = failpoint {
        command.env("COUNTERSIGN_FAILPOINT", failpoint);
    }
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let said = output.lines().map_while(Result::ok).take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

/// Every line that was said is true of the store now, or was overtaken.
fn check(dir: &Dir, said: &[String]) {
    let store = open(dir, &Clock::new());
    assert_sound(&store);
    for line in said {
        let Some((state, call)) = line.split_once(' ') else { continue };
        let Ok(call) = call.parse::<CallId>() else { continue };
        let found = state_of(&store, call);
        match state {
            "captured" => assert_eq!(found, CallState::Captured),
            "starting" => assert!(matches!(found, CallState::Captured | CallState::InDoubt)),
            "settling" => assert_ne!(found, CallState::Released),
            _ => {}
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let dir = Dir::new("killed");
    for lines in [1, 7, 60, 333, 900] {
        let said = run_child(&dir, lines, None);
        assert_eq!(said.len(), lines);
        check(&dir, &said);
    }
}

#[test]
fn a_death_before_or_after_a_commit_leaves_all_or_nothing() {
    for point in ["store.commit", "store.committed"] {
        let dir = Dir::new("failpoint");
        drop(open(&dir, &Clock::new()));
        for _ in 0..3 {
            let said = run_child(&dir, usize::MAX, Some(point));
            check(&dir, &said);
        }
    }
}
