//! Named requests: begun once, answered alike, over a restart too, and forgotten in time.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use countersign_core::{digest::Digest, refusal::Code};
use countersign_store::{Begun, Given, Named};
use support::*;

fn named(actor: &str, name: &str, request: &str) -> Named {
    let of = |text: &str| Digest::of(text.as_bytes());
    Named { actor: of(actor), name: of(name), request: of(request) }
}

fn given() -> Given {
    Given { status: 201, kind: "application/json".to_owned(), body: b"{}".to_vec() }
}

#[tokio::test]
async fn a_name_is_for_one_request_of_one_actor() {
    let (dir, clock) = (Dir::new("once"), Clock::new());
    let store = open(&dir, &clock);
    let first = named("ada", "k", "grant");
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Now);
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Unanswered);
    let other = named("ada", "k", "another grant");
    assert_eq!(store.once_begin(other).await.unwrap(), Begun::Other);
    assert_eq!(store.once_begin(named("ben", "k", "grant")).await.unwrap(), Begun::Now);
    store.close().await;

    let store = open(&dir, &clock);
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Unanswered, "over a restart too");
    store.once_answer(first, given()).await.unwrap();
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Answered(given()));
    store.close().await;

    let store = open(&dir, &clock);
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Answered(given()));
    assert_eq!(store.once_begin(other).await.unwrap(), Begun::Other);
    clock.pass(24 * 3_600_000 - 1);
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Answered(given()));
    clock.pass(1);
    assert_eq!(store.once_begin(other).await.unwrap(), Begun::Now, "its day is over");
    store.once_forget(other).await.unwrap();
    assert_eq!(store.once_begin(first).await.unwrap(), Begun::Now);
    store.close().await;
}

#[tokio::test]
async fn an_actor_has_so_many_names_and_no_more() {
    let (dir, clock) = (Dir::new("once-many"), Clock::new());
    let store = open(&dir, &clock);
    let mut all = tokio::task::JoinSet::new();
    for name in 0..4096 {
        let store = store.clone();
        all.spawn(async move { store.once_begin(named("ada", &name.to_string(), "r")).await });
        if all.len() == 512 {
            assert_eq!(all.join_next().await.unwrap().unwrap().unwrap(), Begun::Now);
        }
    }
    while let Some(begun) = all.join_next().await {
        assert_eq!(begun.unwrap().unwrap(), Begun::Now);
    }
    let refused = store.once_begin(named("ada", "one more", "r")).await;
    assert_eq!(refused.unwrap_err().code(), Code::RateLimited);
    assert_eq!(store.once_begin(named("ada", "0", "r")).await.unwrap(), Begun::Unanswered);
    assert_eq!(store.once_begin(named("ben", "k", "r")).await.unwrap(), Begun::Now);
    store.close().await;
}
