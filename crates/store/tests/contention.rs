//! Many callers at once: no limit is ever exceeded, no payment used twice.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    ids::GrantId,
    ledger::{Charge, Window},
    money::Micros,
    refusal::Code,
    terms::{ConsentRule, Flow},
};
use countersign_store::{FailCause, Reserved, Store};
use support::*;

const CALLERS: u64 = 64;

/// All callers want 100 each, several times; some give theirs back. Returns how often it was
/// refused, after checking that at most `most` was ever held and spent.
async fn race(store: &Store, clock: &Clock, charges: Vec<Charge>, grant: Option<GrantId>) -> u64 {
    let kind = kind(Pay::X402(Flow::Upfront)).by("alice").price(100).with(|terms| {
        if grant.is_some() {
            terms.consent = ConsentRule::Required;
        }
    });
    let mut tasks = Vec::new();
    for caller in 0..CALLERS {
        let (store, kind, charges, now) =
            (store.clone(), kind.clone(), charges.clone(), clock.now());
        tasks.push(tokio::spawn(async move {
            let mut refused = 0;
            for round in 0..4 {
                let quote = kind.quote("{}", now);
                let payment = pay_x402(&kind, &quote, random(), now);
                let grant = grant.map(|id| store.grant(id).unwrap());
                let joined = join(&kind, &quote, payment, (grant.as_deref(), vec![]), now);
                let reserved = match joined {
                    Ok(permit) => store.reserve(permit, charges.clone(), &evidence("{}")).await,
                    Err(refusal) => Err(refusal),
                };
                let settling = match reserved {
                    Ok(reserved) => settling(Ok(reserved)),
                    Err(refusal) => {
                        let code = refusal.code();
                        assert!(matches!(code, Code::BudgetExceeded | Code::GrantExhausted));
                        refused += 1;
                        continue;
                    }
                };
                if (caller + round) % 3 == 0 {
                    store.settle_failed(settling, Code::PayerFunds).await.unwrap();
                    continue;
                }
                let hold = store.settled(settling, receipt("0x1")).await.unwrap();
                if (caller + round) % 7 == 0 {
                    store.fail(hold, FailCause::ToolError).await.unwrap();
                } else {
                    store.capture(hold, outcome("x")).await.unwrap();
                }
            }
            refused
        }));
    }
    let mut refused = 0;
    for task in tasks {
        refused += task.await.unwrap();
    }
    refused
}

fn threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

#[test]
fn a_rolling_budget_is_never_exceeded() {
    let (dir, clock) = (Dir::new("rolling"), Clock::new());
    threads().block_on(async {
        let store = open(&dir, &clock);
        let charges = vec![charge("team", 6_300, Window::Rolling(60_000))];
        assert!(race(&store, &clock, charges.clone(), None).await > 0);
        let (held, spent, window) = store.counter("budget:team").unwrap();
        assert_eq!((held, spent), (Micros(0), window));
        assert!(spent.0 > 0 && spent.0 <= 6_300, "{spent}");
        clock.pass(60_000);
        assert_eq!(store.remaining(&charges, None, clock.now()), Some(Micros(6_300)));
        assert_sound(&store);
    });
}

#[test]
fn a_lifetime_budget_is_never_exceeded() {
    let (dir, clock) = (Dir::new("lifetime"), Clock::new());
    threads().block_on(async {
        let store = open(&dir, &clock);
        let charges = vec![
            charge("wide", 1_000_000, Window::Rolling(60_000)),
            charge("narrow", 1_250, Window::Lifetime),
        ];
        assert!(race(&store, &clock, charges, None).await > 0);
        let (held, spent, _) = store.counter("budget:narrow").unwrap();
        assert!(held.0 == 0 && spent.0 > 0 && spent.0 <= 1_200, "{spent}");
        assert_sound(&store);
        store.close().await;
        let store = open(&dir, &clock);
        assert_eq!(store.counter("budget:narrow").unwrap().1, spent);
    });
}

#[test]
fn a_grant_s_total_calls_and_windows_are_never_exceeded() {
    for (total, calls, window) in
        [(Some(2_000), None, None), (None, Some(21), None), (None, None, Some(2_000))]
    {
        let (dir, clock) = (Dir::new("grant"), Clock::new());
        threads().block_on(async {
            let store = open(&dir, &clock);
            let mut terms = grant_terms("alice", clock.now());
            terms.total = total.map(Micros);
            terms.max_calls = calls;
            terms.windows = window.map(|limit| rolling(60_000, limit)).into_iter().collect();
            let id = store.grant_create(new_grant(terms, clock.now())).await.unwrap().id;
            assert!(race(&store, &clock, Vec::new(), Some(id)).await > 0);
            let grant = store.grant(id).unwrap();
            assert!(grant.used.0 > 0 && grant.used.0 <= 2_100, "{}", grant.used);
            assert!(total.is_none_or(|total| grant.used.0 <= total));
            assert!(window.is_none_or(|limit| grant.used.0 <= limit));
            assert!(calls.is_none_or(|max| grant.calls <= max));
            assert_sound(&store);
        });
    }
}

#[test]
fn one_payment_runs_once_among_32() {
    let (dir, clock) = (Dir::new("nonce"), Clock::new());
    threads().block_on(async {
        let store = open(&dir, &clock);
        let kind = kind(Pay::X402(Flow::Authorization));
        let quotes = [kind.quote("{}", clock.now()), kind.quote("[]", clock.now())];
        let nonce = random();
        let mut tasks = Vec::new();
        for caller in 0..32 {
            let quote = &quotes[caller % 2];
            let payment = pay_x402(&kind, quote, nonce, clock.now());
            let permit = permit(&kind, quote, payment, clock.now());
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                store.reserve(permit, Vec::new(), &evidence("{}")).await
            }));
        }
        let (mut holds, mut conflicts) = (Vec::new(), 0);
        for task in tasks {
            match task.await.unwrap() {
                Ok(Reserved::Run(hold)) => holds.push(hold),
                Ok(other @ (Reserved::Settle(_) | Reserved::Replay(_))) => panic!("{other:?}"),
                Err(refusal) if refusal.code() == Code::IdempotencyConflict => conflicts += 1,
                Err(refusal) => assert_eq!(refusal.code(), Code::InProgress),
            }
        }
        assert_eq!((holds.len(), conflicts), (1, 16));
        assert_sound(&store);
    });
}
