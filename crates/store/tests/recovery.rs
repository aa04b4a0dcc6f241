//! A crash in every state, and what becomes of the call.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    ledger::{CallState, Window},
    refusal::{Charged, Code},
    terms::{DoubtRule, Flow},
};
use countersign_store::{Recovered, Reserved, Store, Unfinished};
use support::*;

/// Opens what a crash at this moment leaves.
fn reopen(dir: &Dir, clock: &Clock) -> (Dir, Store) {
    let copy = crash(dir);
    let store = open(&copy, clock);
    assert_sound(&store);
    (copy, store)
}

async fn upfront(store: &Store, clock: &Clock) -> countersign_store::Settling {
    let kind = kind(Pay::X402(Flow::Upfront));
    let budget = vec![charge("b", 100_000, Window::Rolling(60_000))];
    let permit = any_permit(&kind, "{}", clock.now());
    settling(store.reserve(permit, budget, &evidence("{}")).await)
}

fn left(store: &Store, clock: &Clock) -> u64 {
    let budget = [charge("b", 100_000, Window::Rolling(60_000))];
    store.remaining(&budget, None, clock.now()).unwrap().0
}

async fn only_settling(store: &Store) -> countersign_store::Unsettled {
    let mut items = store.unfinished().await.unwrap();
    match (items.pop(), items.len()) {
        (Some(Unfinished::Settling(item)), 0) => item,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn in_settling_the_rail_decides() {
    let (dir, clock) = (Dir::new("settling"), Clock::new());
    let store = open(&dir, &clock);
    let call = upfront(&store, &clock).await.call();
    let (_dir, after) = reopen(&dir, &clock);
    assert_eq!(left(&after, &clock), 90_000, "the hold stays");
    clock.pass(10 * 86_400_000);
    assert_eq!(left(&after, &clock), 90_000, "however long it takes");
    let item = only_settling(&after).await;
    assert_eq!(item.call(), call);
    assert!(item.payload().unwrap().contains("authorization"));
    assert!(after.unfinished().await.unwrap().is_empty(), "one owner at a time");
    after.recover_unknown(item).await;
    let item = only_settling(&after).await;
    after.recover_failed(item, Code::SettlementFailed).await.unwrap();
    assert_eq!(state_of(&after, call), CallState::Released);
    assert_eq!(left(&after, &clock), 100_000);
    assert_sound(&after);
    let (_dir, after) = reopen(&dir, &clock);
    let item = only_settling(&after).await;
    let recovered = after.recover_settled(item, receipt("0xabc")).await.unwrap();
    let Recovered::RefundDue(due) = recovered else { panic!("{recovered:?}") };
    assert_eq!(due.settlement.unwrap().transaction, "0xabc");
    assert_eq!(state_of(&after, call), CallState::RefundDue);
    assert_sound(&after);
    let (_dir, after) = reopen(&_dir, &clock);
    assert_eq!(after.refunds_due().len(), 1);
    after.refunded(call, receipt("0xdef")).await.unwrap();
    assert_sound(&after);
}

#[tokio::test]
async fn in_settling_a_repeated_request_carries_on() {
    let (dir, clock) = (Dir::new("carry-on"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        permit(&kind, &quote, payment, clock.now())
    };
    let first = settling(store.reserve(again(), Vec::new(), &evidence("{}")).await);
    let (_dir, after) = reopen(&dir, &clock);
    let second = settling(after.reserve(again(), Vec::new(), &evidence("{}")).await);
    assert_eq!((second.call(), second.payload()), (first.call(), first.payload()));
    let third = after.reserve(again(), Vec::new(), &evidence("{}")).await;
    assert_eq!(third.unwrap_err().code(), Code::SettlementUnknown);
    let hold = after.settled(second, receipt("0xabc")).await.unwrap();
    after.capture(hold, outcome("x")).await.unwrap();
    assert_sound(&after);
}

#[tokio::test]
async fn in_starting_the_call_is_in_doubt() {
    let (dir, clock) = (Dir::new("starting"), Clock::new());
    let store = open(&dir, &clock);
    let settling = upfront(&store, &clock).await;
    let hold = store.settled(settling, receipt("0xabc")).await.unwrap();
    let call = hold.call();
    let free = run(&store, any_permit(&kind(Pay::Free), "{}", clock.now()), "{}").await;
    let (copy, after) = reopen(&dir, &clock);
    assert!(after.unfinished().await.unwrap().is_empty(), "never again");
    let doubts = after.in_doubt();
    assert_eq!(doubts.len(), 1);
    assert!(doubts.iter().any(|d| d.call == call && d.is_settled));
    assert_eq!(state_of(&after, free.call()), CallState::Released, "nothing to decide");
    assert_eq!(left(&after, &clock), 90_000);
    let rule = doubts.iter().find(|d| d.call == call).unwrap().rule;
    assert_eq!(rule, DoubtRule::Refund);
    after.resolve(call, rule, "operator").await.unwrap();
    assert_eq!(state_of(&after, call), CallState::RefundDue);
    assert_sound(&after);
    after.close().await;
    assert_sound(&open(&copy, &clock));
}

#[tokio::test]
async fn in_starting_an_idempotent_tool_may_run_again_for_its_caller() {
    let (dir, clock) = (Dir::new("idempotent"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Authorization)).with(|terms| terms.idempotent = true);
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        permit(&kind, &quote, payment, clock.now())
    };
    let first = running(store.reserve(again(), Vec::new(), &evidence("{}")).await);
    let (_a, after) = reopen(&dir, &clock);
    let items = after.unfinished().await.unwrap();
    assert!(matches!(&items[..], [Unfinished::Starting(item)] if item.call == first.call()));
    let hold = running(after.reserve(again(), Vec::new(), &evidence("{}")).await);
    assert_eq!(hold.call(), first.call());
    let other = after.reserve(again(), Vec::new(), &evidence("{}")).await;
    assert_eq!(other.unwrap_err().code(), Code::InProgress);
    let finished = after.finish(hold, outcome("x")).await.unwrap();
    after.capture_settled(finished, receipt("0xabc")).await.unwrap();
    assert_eq!(after.call_records(first.call()).unwrap().len(), 7, "started twice");
    assert_sound(&after);
    let (_b, after) = reopen(&dir, &clock);
    after.give_up(first.call()).await.unwrap();
    assert_eq!(state_of(&after, first.call()), CallState::InDoubt);
    assert_sound(&after);
}

#[tokio::test]
async fn in_finished_the_outcome_waits_for_the_rail() {
    let (dir, clock) = (Dir::new("finished"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Authorization));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        permit(&kind, &quote, payment, clock.now())
    };
    let hold = running(store.reserve(again(), Vec::new(), &evidence("{}")).await);
    let call = hold.call();
    store.finish(hold, outcome("sunny")).await.unwrap();
    for settles in [true, false] {
        let (_dir, after) = reopen(&dir, &clock);
        let refused = after.reserve(again(), Vec::new(), &evidence("{}")).await.unwrap_err();
        assert_eq!(refused.code(), Code::SettlementUnknown, "nothing for free");
        let mut items = after.unfinished().await.unwrap();
        let Some(Unfinished::Finished(item)) = items.pop() else { panic!("{items:?}") };
        if settles {
            let recovered = after.recover_settled(item, receipt("0xabc")).await.unwrap();
            let Recovered::Captured(captured) = recovered else { panic!("{recovered:?}") };
            assert_eq!(captured.result.as_deref(), Some(b"sunny".as_slice()));
            let replay = after.reserve(again(), Vec::new(), &evidence("{}")).await.unwrap();
            assert!(matches!(replay, Reserved::Replay(stored) if stored.call == call));
        } else {
            after.recover_failed(item, Code::SettlementFailed).await.unwrap();
            assert_eq!(state_of(&after, call), CallState::Released);
            let spent = after.reserve(again(), Vec::new(), &evidence("{}")).await.unwrap_err();
            assert_eq!(spent.code(), Code::PaymentUsed);
        }
        assert_sound(&after);
    }
}

#[tokio::test]
async fn the_outcome_waits_for_its_settlement_however_long_that_takes() {
    let (dir, clock) = (Dir::new("waits"), Clock::new());
    let store = open(&dir, &clock);
    let hold = store.settled(upfront(&store, &clock).await, receipt("0x1")).await.unwrap();
    store.capture(hold, outcome("swept")).await.unwrap();
    let later = kind(Pay::X402(Flow::Authorization));
    let hold = run(&store, any_permit(&later, "{}", clock.now()), "{}").await;
    store.finish(hold, outcome("sunny")).await.unwrap();
    let (copy, after) = reopen(&dir, &clock);
    let outcomes = || {
        let conn = rusqlite::Connection::open(copy.0.join("countersign.db")).unwrap();
        conn.query_row("SELECT count(*) FROM outcomes", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(outcomes(), 2);
    clock.pass(25 * 3_600_000);
    let mut rounds = 0;
    while outcomes() == 2 {
        rounds += 1;
        assert!(rounds < 200, "no sweep");
        // New records wake whoever sweeps, once a minute.
        clock.pass(61_000);
        after.grant_create(new_grant(grant_terms("zoe", clock.now()), clock.now())).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(outcomes(), 1);
    let Some(Unfinished::Finished(item)) = after.unfinished().await.unwrap().pop() else {
        panic!("it was to be settled")
    };
    let recovered = after.recover_settled(item, receipt("0x2")).await.unwrap();
    let Recovered::Captured(captured) = recovered else { panic!("{recovered:?}") };
    assert_eq!(captured.result.as_deref(), Some(b"sunny".as_slice()));
    assert_sound(&after);
}

#[tokio::test]
async fn after_capture_the_answer_can_be_had_again() {
    let (dir, clock) = (Dir::new("captured"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        permit(&kind, &quote, payment, clock.now())
    };
    let first = settling(store.reserve(again(), Vec::new(), &evidence("{}")).await);
    let hold = store.settled(first, receipt("0xabc")).await.unwrap();
    store.capture(hold, outcome("sunny")).await.unwrap();
    let (_dir, after) = reopen(&dir, &clock);
    let replay = after.reserve(again(), Vec::new(), &evidence("{}")).await.unwrap();
    let Reserved::Replay(stored) = replay else { panic!("{replay:?}") };
    assert_eq!(stored.result.unwrap(), b"sunny");
    assert_eq!(stored.settlement.unwrap().transaction, "0xabc");
    assert_eq!(stored.paid.unwrap().minor, 10_000);
}

#[tokio::test]
async fn windows_are_as_they_were() {
    let (dir, clock) = (Dir::new("windows"), Clock::new());
    let store = open(&dir, &clock);
    for _ in 0..3 {
        let settling = upfront(&store, &clock).await;
        let hold = store.settled(settling, receipt("0xabc")).await.unwrap();
        store.capture(hold, outcome("x")).await.unwrap();
        clock.pass(20_000);
    }
    let (_dir, after) = reopen(&dir, &clock);
    for expected in [80_000, 90_000, 100_000] {
        assert_eq!((left(&store, &clock), left(&after, &clock)), (expected, expected));
        clock.pass(20_000);
    }
}

#[tokio::test]
async fn the_loss_of_a_token_is_seen_at_the_next_start() {
    let (dir, clock) = (Dir::new("lost"), Clock::new());
    let store = open(&dir, &clock);
    let settling = upfront(&store, &clock).await;
    drop(store.settled(settling, receipt("0xabc")).await.unwrap());
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.in_doubt().len(), 1);
    let call = store.in_doubt()[0].call;
    let kept = store.resolve(call, DoubtRule::Capture, "operator").await.unwrap();
    assert_eq!(kept, CallState::Captured);
    let refunded = store.refunded(call, receipt("0xdef")).await.unwrap_err();
    assert_eq!(refunded.is_charged(), Charged::No);
    assert_sound(&store);
}
