//! Calls for work: one use a challenge, a quota a day, nothing given back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    digest::Digest,
    ledger::CallState,
    proof::FreeUse,
    quote::{Quote, Rail},
    refusal::{Charged, Code, Refusal},
    time::UnixMs,
};
use countersign_store::{FailCause, Reserved, Store};
use support::*;

const HOUR_MS: u64 = 3_600_000;

fn free(daily_quota: u32) -> FreeUse {
    FreeUse { subject: Digest::of(b"somebody"), daily_quota }
}

async fn reserve(
    store: &Store,
    kind: &Kind,
    quote: &Quote,
    (id, free): ([u8; 16], FreeUse),
    now: UnixMs,
) -> Result<Reserved, Refusal> {
    let payment = pay_work(id, quote, free, now);
    store.reserve(permit(kind, quote, payment, now), Vec::new(), &evidence("{}")).await
}

fn refused(reserved: Result<Reserved, Refusal>) -> (Code, Charged) {
    let refusal = reserved.unwrap_err();
    (refusal.code(), refusal.is_charged())
}

#[tokio::test]
async fn it_pays_for_one_call_that_costs_nothing() {
    let (dir, clock) = (Dir::new("work"), Clock::new());
    let (store, kind, id) = (open(&dir, &clock), kind(Pay::Work), random());
    let quote = kind.quote("{}", clock.now());
    let again = || reserve(&store, &kind, &quote, (id, free(5)), clock.now());
    let hold = running(again().await);
    assert_eq!(refused(again().await), (Code::InProgress, Charged::Unknown));
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!((captured.rail, captured.micros.0), (Some(Rail::Pow), 0));
    assert_eq!(captured.paid.unwrap().minor, 0);
    let Reserved::Replay(stored) = again().await.unwrap() else { panic!("ran twice") };
    assert_eq!(stored.call, captured.call);
    assert_eq!(store.free_calls(free(5).subject, clock.now()), Ok(1));
    assert_sound(&store);
    drop(store);
    let store = open(&dir, &clock);
    let replay = reserve(&store, &kind, &quote, (id, free(5)), clock.now()).await.unwrap();
    assert!(matches!(replay, Reserved::Replay(_)), "a restart forgets nothing");
    assert_eq!(store.free_calls(free(5).subject, clock.now()), Ok(1));
}

#[tokio::test]
async fn what_failed_is_spent_all_the_same() {
    let (dir, clock) = (Dir::new("work-failed"), Clock::new());
    let (store, kind) = (open(&dir, &clock), kind(Pay::Work));
    for cause in [FailCause::ToolError, FailCause::Unfinished, FailCause::NotExecuted] {
        let (quote, id) = (kind.quote("{}", clock.now()), random());
        let again = || reserve(&store, &kind, &quote, (id, free(5)), clock.now());
        let hold = running(again().await);
        let call = hold.call();
        assert_eq!(store.fail(hold, cause).await.unwrap(), Charged::No);
        assert_eq!(state_of(&store, call), CallState::Released);
        assert_eq!(refused(again().await).0, Code::PaymentUsed);
    }
    assert_eq!(store.free_calls(free(5).subject, clock.now()), Ok(3));
    assert_sound(&store);
}

#[tokio::test]
async fn a_day_has_its_quota_and_the_next_another() {
    let (dir, clock) = (Dir::new("work-quota"), Clock::new());
    let (store, kind) = (open(&dir, &clock), kind(Pay::Work));
    let call = async |free: FreeUse| {
        let quote = kind.quote("{}", clock.now());
        reserve(&store, &kind, &quote, (random(), free), clock.now()).await
    };
    for _ in 0..2 {
        let hold = running(call(free(2)).await);
        store.capture(hold, outcome("sunny")).await.unwrap();
    }
    assert_eq!(refused(call(free(2)).await), (Code::FreeQuotaUsed, Charged::No));
    let other = FreeUse { subject: Digest::of(b"other"), daily_quota: 2 };
    running(call(other).await);
    assert_eq!(store.free_calls(free(2).subject, clock.now()), Ok(2));
    clock.pass(24 * HOUR_MS);
    assert_eq!(store.free_calls(free(2).subject, clock.now()), Ok(0));
    running(call(free(2)).await);
    assert_sound(&store);
}

#[tokio::test]
async fn many_at_once_get_no_more_than_the_quota() {
    let (dir, clock) = (Dir::new("work-race"), Clock::new());
    let (store, kind) = (open(&dir, &clock), kind(Pay::Work));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (store, kind, now) = (store.clone(), kind.clone(), clock.now());
        calls.spawn(async move {
            let quote = kind.quote("{}", now);
            reserve(&store, &kind, &quote, (random(), free(7)), now).await.is_ok()
        });
    }
    assert_eq!(calls.join_all().await.into_iter().filter(|ran| *ran).count(), 7);
    assert_sound(&store);
}
