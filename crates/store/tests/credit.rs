//! Credit: topped up by paid calls and by what is owed back, spent once, never beyond what there is;
//! and what credentials leave, which goes back once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    digest::Digest,
    ledger::CallState,
    money::AssetCode,
    proof::Payment,
    refusal::{Charged, Code, Refusal},
    terms::{DoubtRule, Flow, IdentityRule, Uses},
    time::UnixMs,
};
use countersign_store::{FailCause, Reserved, Store};
use support::*;

fn paid_kind(price: u64) -> Kind {
    kind(Pay::X402(Flow::Upfront)).by("alice").price(price).with(|terms| {
        terms.identity = IdentityRule::Required;
    })
}

fn kind_of_nobody() -> Kind {
    kind(Pay::X402(Flow::Upfront)).price(250)
}

fn credit(store: &Store, kind: &Kind, now: UnixMs) -> u128 {
    store.credit(kind.identity(now).principal(), &AssetCode::from("USDC"))
}

/// Pays for a top-up, upfront or after.
async fn top_up(store: &Store, flow: Flow, price: u64, now: UnixMs) {
    let mut kind = paid_kind(price).with(|terms| (terms.top_up, terms.flow) = (true, flow));
    kind.pay = Pay::X402(flow);
    let permit = any_permit(&kind, "{}", now);
    match store.reserve(permit, Vec::new(), &evidence("{}")).await.unwrap() {
        Reserved::Settle(settling) => {
            let hold = store.settled(settling, receipt("0x1")).await.unwrap();
            let captured = store.capture(hold, outcome("{}")).await.unwrap();
            assert_eq!(captured.micros.0, 0, "it counts when it is spent");
        }
        Reserved::Run(hold) => {
            let finished = store.finish(hold, outcome("{}")).await.unwrap();
            store.capture_settled(finished, receipt("0x2")).await.unwrap();
        }
        Reserved::Replay(_) => panic!("never ran before"),
    }
}

async fn by_credit(
    store: &Store,
    kind: &Kind,
    (arguments, name): (&str, &str),
    now: UnixMs,
) -> Result<Reserved, Refusal> {
    let quote = kind.quote(arguments, now);
    let principal = kind.identity(now).principal().clone();
    let payment = Payment::credit(name, &principal, &quote.offers()[0], &quote).unwrap();
    store.reserve(permit(kind, &quote, payment, now), Vec::new(), &evidence(arguments)).await
}

fn refused(reserved: Result<Reserved, Refusal>) -> (Code, Charged) {
    let refusal = reserved.unwrap_err();
    (refusal.code(), refusal.is_charged())
}

#[tokio::test]
async fn it_comes_of_paid_calls_and_pays_for_others_once() {
    let (dir, clock) = (Dir::new("credit"), Clock::new());
    let (store, now) = (open(&dir, &clock), clock.now());
    let kind = paid_kind(400);
    assert_eq!(refused(by_credit(&store, &kind, ("{}", "first"), now).await).0, Code::PayerFunds);
    top_up(&store, Flow::Upfront, 700, now).await;
    top_up(&store, Flow::Authorization, 300, now).await;
    assert_eq!(credit(&store, &kind, now), 1_000);
    let hold = running(by_credit(&store, &kind, ("{}", "first"), now).await);
    assert_eq!(credit(&store, &kind, now), 600, "held from the reservation on");
    assert_sound(&store);
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!((captured.paid.unwrap().minor, captured.micros.0), (400, 400));
    let again = by_credit(&store, &kind, ("{}", "first"), now).await.unwrap();
    assert!(matches!(again, Reserved::Replay(_)), "one name, one payment");
    let other = by_credit(&store, &kind, ("{\"a\":1}", "first"), now).await;
    assert_eq!(refused(other), (Code::IdempotencyConflict, Charged::No));
    let bob = Kind { who: Some("bob"), ..kind.clone() };
    assert_eq!(refused(by_credit(&store, &bob, ("{}", "first"), now).await).0, Code::PayerFunds);
    assert_eq!(credit(&store, &kind, now), 600);
    assert_sound(&store);
    drop(store);
    assert_eq!(credit(&open(&dir, &clock), &kind, now), 600, "a restart forgets nothing");
}

#[tokio::test]
async fn many_at_once_spend_no_more_than_there_is() {
    let (dir, clock) = (Dir::new("credit-race"), Clock::new());
    let (store, now) = (open(&dir, &clock), clock.now());
    top_up(&store, Flow::Upfront, 1_000, now).await;
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..64 {
        let (store, kind) = (store.clone(), paid_kind(150));
        calls.spawn(async move {
            let name = format!("call-{at}");
            by_credit(&store, &kind, ("{}", &name), now).await.is_ok()
        });
    }
    assert_eq!(calls.join_all().await.into_iter().filter(|ran| *ran).count(), 6);
    assert_eq!(credit(&store, &paid_kind(1), now), 100);
    assert_sound(&store);
}

#[tokio::test]
async fn what_does_not_run_gives_it_back() {
    let (dir, clock) = (Dir::new("credit-back"), Clock::new());
    let (store, now, kind) = (open(&dir, &clock), clock.now(), paid_kind(100));
    top_up(&store, Flow::Upfront, 100, now).await;
    for (cause, name) in [(FailCause::ToolError, "one"), (FailCause::NotExecuted, "two")] {
        let hold = running(by_credit(&store, &kind, ("{}", name), now).await);
        assert_eq!(store.fail(hold, cause).await.unwrap(), Charged::No);
        assert_eq!(credit(&store, &kind, now), 100);
    }
    for (rule, left) in [(DoubtRule::Refund, 100), (DoubtRule::Capture, 0)] {
        let hold = running(by_credit(&store, &kind, ("{}", "three"), now).await);
        let call = hold.call();
        assert_eq!(store.fail(hold, FailCause::InDoubt).await.unwrap(), Charged::Yes);
        assert_eq!(credit(&store, &kind, now), 0, "it waits");
        assert_sound(&store);
        store.resolve(call, rule, "operator").await.unwrap();
        assert_eq!(credit(&store, &kind, now), left);
    }
    assert_sound(&store);
}

#[tokio::test]
async fn what_is_owed_back_becomes_it_once() {
    let (dir, clock) = (Dir::new("credit-owed"), Clock::new());
    let (store, now, kind) = (open(&dir, &clock), clock.now(), paid_kind(250));
    let permit = any_permit(&kind, "{}", now);
    let taking = settling(store.reserve(permit, Vec::new(), &evidence("{}")).await);
    let hold = store.settled(taking, receipt("0x1")).await.unwrap();
    let call = hold.call();
    store.fail(hold, FailCause::ToolError).await.unwrap();
    assert!(store.refunds_due()[0].is_of_somebody);
    store.refund_to_credit(call).await.unwrap();
    assert_eq!(state_of(&store, call), CallState::Refunded);
    assert_eq!((credit(&store, &kind, now), posted(&store, "refunds_due")), (250, 0));
    let again = store.refund_to_credit(call).await.unwrap_err();
    assert_eq!(again.code(), Code::InternalFault);
    assert_sound(&store);

    let anonymous = any_permit(&kind_of_nobody(), "{}", now);
    let taking = settling(store.reserve(anonymous, Vec::new(), &evidence("{}")).await);
    let hold = store.settled(taking, receipt("0x2")).await.unwrap();
    let call = hold.call();
    store.fail(hold, FailCause::ToolError).await.unwrap();
    assert!(!store.refunds_due()[0].is_of_somebody);
    assert!(store.refund_to_credit(call).await.is_err(), "nobody's");
    assert_sound(&store);
}

#[tokio::test]
async fn what_a_credential_leaves_goes_back_once() {
    let (dir, clock) = (Dir::new("refunds"), Clock::new());
    let (store, now) = (open(&dir, &clock), clock.now());
    let kind = kind(Pay::L402).with(|terms| terms.uses = Uses(4));
    let quote = kind.quote("{}", now);
    let bought = buy_l402(&kind, &quote, now);
    let key = bought.new.key;
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now);
    store.challenge(asked).await.unwrap();
    let next = || {
        let quote = kind.quote("{}", now);
        permit(&kind, &quote, bought.payment(&kind, &quote, now), now)
    };
    let hold = run(&store, next(), "{}").await;
    store.capture(hold, outcome("x")).await.unwrap();
    let running = run(&store, next(), "{}").await;
    assert_eq!(store.refunds_of(key).unwrap(), []);
    store.credential_revoke(key, "operator").await.unwrap();
    store.credential_revoke(key, "operator").await.unwrap();
    store.fail(running, FailCause::ToolError).await.unwrap();
    let owed = store.refunds_of(key).unwrap();
    let minor: Vec<u128> = owed.iter().map(|refund| refund.amount.minor).collect();
    assert_eq!(
        (minor.len(), minor.iter().sum::<u128>()),
        (2, 15_000),
        "two unused, one given back"
    );
    assert_eq!(posted(&store, "refunds_due"), 15_000);
    assert_sound(&store);

    let refund = owed[0].key;
    let offered = |after| store.offered_refunds(Digest::from_bytes([after; 32]), 9).unwrap();
    assert_eq!(store.offer_refund(refund, "one").await.unwrap().as_deref(), Some("one"));
    assert_eq!(store.offer_refund(refund, "two").await.unwrap().as_deref(), Some("one"));
    // It is found from any key on.
    assert_eq!([0, 0xff].map(|after| offered(after).len()), [1, 1]);
    for _ in 0..2 {
        store.refund_paid(refund, "hash").await.unwrap();
    }
    let left = store.refunds_of(key).unwrap();
    assert_eq!((left.len(), offered(0).len()), (1, 0));
    assert_eq!(posted(&store, "refunds_due"), left[0].amount.minor.try_into().unwrap());
    assert_sound(&store);
    drop(store);
    assert_eq!(open(&dir, &clock).refunds_of(key).unwrap(), left);
}
