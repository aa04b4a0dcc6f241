//! What a call's reservation does with it: rates are counted and messages written down, whole, and
//! only for a call that is admitted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use countersign_core::{
    ledger::{Charge, Window},
    policy::Obligation,
    refusal::{Code, Refusal},
    terms::Flow,
};
use countersign_store::{Note, Reserved, Store};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use support::*;

const PER_S: u64 = 60;

fn rate(calls: u32) -> Vec<Obligation> {
    vec![Obligation::Rate { calls, per_s: PER_S }]
}

fn note(key: &str) -> Note {
    Note { kind: "notice", key: key.to_owned(), body: "{}".to_owned() }
}

/// One call of alice's agent, paid under `nonce`.
async fn attempt(
    store: &Store,
    clock: &Clock,
    (obligations, charges, notes): (Vec<Obligation>, Vec<Charge>, Vec<Note>),
    nonce: [u8; 32],
) -> Result<Reserved, Refusal> {
    let kind = kind(Pay::X402(Flow::Authorization)).by("alice").price(100);
    let quote = kind.quote("{}", clock.now());
    let payment = pay_x402(&kind, &quote, nonce, clock.now());
    let under = (None, Vec::new(), obligations);
    let permit = join_under(&kind, &quote, payment, under, clock.now()).unwrap();
    store.reserve_noting(Box::new(permit), charges, notes, &evidence("{}")).await
}

fn refused(reserved: Result<Reserved, Refusal>) -> Code {
    reserved.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rate_holds_for_64_callers_and_through_a_restart() {
    let (dir, clock) = (Dir::new("rate"), Clock::new());
    let store = open(&dir, &clock);
    let admitted = Arc::new(AtomicU64::new(0));
    let callers = (0..64).map(|_| {
        let (store, clock, admitted) = (store.clone(), clock.clone(), Arc::clone(&admitted));
        tokio::spawn(async move {
            match attempt(&store, &clock, (rate(5), vec![], vec![]), random()).await {
                Ok(_) => _ = admitted.fetch_add(1, Ordering::SeqCst),
                Err(refusal) => assert_eq!(refusal.code(), Code::RateLimited),
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(admitted.load(Ordering::SeqCst), 5);
    assert_sound(&store);
    store.close().await;
    let store = open(&dir, &clock);
    let again =
        async |calls| attempt(&store, &clock, (rate(calls), vec![], vec![]), random()).await;
    assert_eq!(refused(again(5).await), Code::RateLimited, "a restart forgets nothing");
    again(6).await.unwrap();
    clock.pass(PER_S * 1000 - 1);
    assert_eq!(refused(again(6).await), Code::RateLimited, "the last moment");
    clock.pass(1);
    again(1).await.unwrap();
    assert_eq!(refused(again(1).await), Code::RateLimited);
    assert_sound(&store);
}

#[tokio::test]
async fn what_is_not_admitted_takes_no_place_and_tells_nobody() {
    let (dir, clock) = (Dir::new("obliged"), Clock::new());
    let store = open(&dir, &clock);
    let told =
        || store.notes("notice").unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let full = vec![charge("full", 99, Window::Lifetime)];
    let over = attempt(&store, &clock, (rate(1), full, vec![note("over")]), random()).await;
    assert_eq!(refused(over), Code::BudgetExceeded);
    assert!(told().is_empty(), "refused");
    let large = Note { body: "x".repeat(1 << 20), ..note("large") };
    let large = attempt(&store, &clock, (rate(1), vec![], vec![large]), random()).await;
    assert_eq!(refused(large), Code::TooLarge, "what cannot be told is not run");
    let nonce = random();
    let first = attempt(&store, &clock, (rate(1), vec![], vec![note("first")]), nonce).await;
    let hold = running(first);
    assert_eq!(told(), ["first"], "with the reservation");
    let late = attempt(&store, &clock, (rate(1), vec![], vec![note("late")]), random()).await;
    assert_eq!(refused(late), Code::RateLimited);
    // The same call under the same payment: its outcome, whatever the rate, and nothing is told.
    let receipt = receipt("0x1");
    let finished = store.finish(hold, outcome("x")).await.unwrap();
    store.capture_settled(finished, receipt).await.unwrap();
    let again = attempt(&store, &clock, (rate(1), vec![], vec![note("again")]), nonce).await;
    assert!(matches!(again.unwrap(), Reserved::Replay(_)));
    assert_eq!(told(), ["first"]);
    assert_sound(&store);
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.notes("notice").unwrap().len(), 1, "durable");
}
