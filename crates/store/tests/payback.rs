//! Paying back from a treasury: one payment for a debt, counted in the treasury's limit, and after
//! a crash in every state neither made twice nor forgotten.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    digest::Digest,
    ids::CallId,
    ledger::{CallState, Charge, Window},
    money::Micros,
    refusal::Code,
    terms::{Flow, IdentityRule, Uses},
};
use countersign_store::{Debt, FailCause, HandPaid, Intent, Payback, Store};
use support::*;

const DAY_LIMIT: u64 = 25_000;

fn limit() -> Charge {
    let window = Window::Rolling(86_400_000);
    Charge::hard("treasury\u{1f}back".to_owned(), Micros(DAY_LIMIT), window)
}

fn left(store: &Store, clock: &Clock) -> u64 {
    store.remaining(&[limit()], None, clock.now()).unwrap().0
}

fn payback(debt: Debt, reference: &str) -> Payback {
    Payback {
        debt,
        treasury: "back".into(),
        micros: Micros(10_000),
        reference: reference.to_owned(),
        payload: "signed".to_owned(),
    }
}

async fn begin(store: &Store, debt: Debt, reference: &str) -> Result<Intent, Code> {
    let begun = store.begin_payback(payback(debt, reference), limit(), None).await;
    begun.map_err(|refusal| refusal.code())
}

/// A call whose upfront payment was taken and whose tool did not run.
async fn due(store: &Store, clock: &Clock) -> CallId {
    let kind = kind(Pay::X402(Flow::Upfront)).by("alice");
    let kind = kind.with(|terms| terms.identity = IdentityRule::Required);
    let permit = any_permit(&kind, "{}", clock.now());
    let settling = settling(store.reserve(permit, Vec::new(), &evidence("{}")).await);
    let hold = store.settled(settling, receipt("0xabc")).await.unwrap();
    let call = hold.call();
    store.fail(hold, FailCause::NotExecuted).await.unwrap();
    call
}

fn reopen(dir: &Dir, clock: &Clock) -> (Dir, Store) {
    let copy = crash(dir);
    let store = open(&copy, clock);
    assert_sound(&store);
    (copy, store)
}

#[tokio::test]
async fn a_call_is_paid_back_once_over_crashes_and_counts() {
    let (dir, clock) = (Dir::new("once"), Clock::new());
    let store = open(&dir, &clock);
    let call = due(&store, &clock).await;
    let debt = Debt::Call(call);
    assert!(store.refunds_due()[0].payload.as_deref().unwrap().contains("authorization"));
    assert_eq!(begin(&store, debt, "n1").await, Ok(Intent::Written));
    assert_eq!(left(&store, &clock), 15_000);
    assert_eq!(begin(&store, debt, "n2").await, Ok(Intent::UnderWay(payback(debt, "n1"))));
    assert_eq!(store.take_paybacks(9).await.unwrap(), [], "it is its maker's");
    assert!(store.refunds_due()[0].is_under_way);
    assert!(store.refund_to_credit(call).await.is_err(), "no credit beside it");
    let (dir, store) = reopen(&dir, &clock);
    assert_eq!(left(&store, &clock), 15_000, "held over a crash");
    clock.pass(9 * 86_400_000);
    assert_eq!(left(&store, &clock), 15_000, "however long it takes");
    assert_eq!(store.take_paybacks(9).await.unwrap(), [payback(debt, "n1")]);
    assert_eq!(store.take_paybacks(9).await.unwrap(), [], "one owner at a time");
    store.payback_again(debt, "signed anew".to_owned()).await.unwrap();
    store.payback_unknown(debt).await.unwrap();
    let taken = store.take_paybacks(9).await.unwrap();
    assert_eq!((taken.len(), &*taken[0].payload), (1, "signed anew"));
    store.payback_made(debt, "0xback").await.unwrap();
    store.payback_made(debt, "0xback").await.unwrap();
    assert_eq!(state_of(&store, call), CallState::Refunded);
    assert_eq!((posted(&store, "refunds_due"), left(&store, &clock)), (0, 15_000));
    assert_sound(&store);
    let (_copy, store) = reopen(&dir, &clock);
    assert_eq!(store.payback_by("n1").unwrap(), Some((debt, true)));
    assert_eq!(begin(&store, debt, "n3").await, Ok(Intent::Barred), "nothing is owed any more");
    assert_eq!(left(&store, &clock), 15_000);
    clock.pass(86_400_001);
    assert_eq!(left(&store, &clock), DAY_LIMIT);
}

#[tokio::test]
async fn what_surely_failed_is_free_for_another() {
    let (dir, clock) = (Dir::new("failed"), Clock::new());
    let store = open(&dir, &clock);
    let debt = Debt::Call(due(&store, &clock).await);
    assert_eq!(begin(&store, debt, "n1").await, Ok(Intent::Written));
    store.payback_failed(debt).await.unwrap();
    assert_eq!((left(&store, &clock), store.payback_by("n1").unwrap()), (DAY_LIMIT, None));
    let (_copy, store) = reopen(&dir, &clock);
    assert!(!store.refunds_due()[0].is_under_way);
    assert_eq!(begin(&store, debt, "n2").await, Ok(Intent::Written));
    assert_sound(&store);
}

#[tokio::test]
async fn a_reference_pays_one_debt_and_a_day_has_an_end() {
    let (dir, clock) = (Dir::new("bounds"), Clock::new());
    let store = open(&dir, &clock);
    let mut debts = Vec::new();
    for _ in 0..3 {
        debts.push(Debt::Call(due(&store, &clock).await));
    }
    assert_eq!(begin(&store, debts[0], "n").await, Ok(Intent::Written));
    assert_eq!(begin(&store, debts[1], "n").await, Ok(Intent::Barred));
    assert_eq!(begin(&store, debts[1], "m").await, Ok(Intent::Written));
    assert_eq!(begin(&store, debts[2], "o").await, Err(Code::BudgetExceeded));
    store.payback_made(debts[0], "0x1").await.unwrap();
    assert_eq!(begin(&store, debts[2], "o").await, Err(Code::BudgetExceeded), "spent is spent");
    clock.pass(86_400_001);
    assert_eq!(begin(&store, debts[2], "n").await, Ok(Intent::Barred), "for ever");
    assert_eq!(begin(&store, debts[2], "o").await, Ok(Intent::Written));
    assert_sound(&store);
}

#[tokio::test]
async fn who_books_it_by_hand_ends_what_was_under_way() {
    let (dir, clock) = (Dir::new("by-hand"), Clock::new());
    let store = open(&dir, &clock);
    let call = due(&store, &clock).await;
    assert_eq!(begin(&store, Debt::Call(call), "n").await, Ok(Intent::Written));
    store.refunded(call, receipt("0xhand")).await.unwrap();
    store.payback_made(Debt::Call(call), "0xback").await.unwrap();
    store.payback_failed(Debt::Call(call)).await.unwrap();
    assert_eq!(left(&store, &clock), 15_000, "it may have left: it counts");
    assert_eq!(posted(&store, "refunds_due"), 0);
    assert_sound(&store);
}

#[tokio::test]
async fn a_refund_is_offered_by_a_node_or_paid_never_both() {
    let (dir, clock) = (Dir::new("either"), Clock::new());
    let store = open(&dir, &clock);
    let credential = revoked(&store, &clock).await;
    let refund = store.refunds_of(credential).unwrap().pop().unwrap();
    let debt = Debt::Refund(refund.key);
    assert_eq!(store.owed_for(debt).unwrap(), Some(credential));
    assert_eq!(begin(&store, debt, "h1").await, Ok(Intent::Written));
    assert_eq!(store.offer_refund(refund.key, "node").await.unwrap(), None);
    store.payback_failed(debt).await.unwrap();
    let offered = store.offer_refund(refund.key, "node").await.unwrap();
    assert_eq!(offered.as_deref(), Some("node"));
    assert_eq!(begin(&store, debt, "h1").await, Ok(Intent::Barred));
    let lapsed = async |node: &str| {
        store.begin_payback(payback(debt, "h1"), limit(), Some(node.to_owned())).await.unwrap()
    };
    assert_eq!(lapsed("other").await, Intent::Barred);
    assert_eq!(lapsed("node").await, Intent::Written);
    assert_eq!(store.offered_refunds(Digest::from_bytes([0; 32]), 9).unwrap(), []);
    let (_copy, store) = reopen(&dir, &clock);
    assert!(store.is_paying_back(debt));
    assert_eq!(store.take_paybacks(9).await.unwrap(), [payback(debt, "h1")]);
    store.payback_made(debt, "h1").await.unwrap();
    assert_eq!(store.refunds_of(credential).unwrap(), []);
    assert_eq!(posted(&store, "refunds_due"), 0);
    assert_sound(&store);
}

#[tokio::test]
async fn a_refund_paid_by_hand_is_booked_once_unless_another_may_pay_it() {
    let (dir, clock) = (Dir::new("by-hand"), Clock::new());
    let store = open(&dir, &clock);
    let credential = revoked(&store, &clock).await;
    let refund = store.unclaimed().unwrap().pop().unwrap();
    assert_eq!(refund, store.refunds_of(credential).unwrap().pop().unwrap());
    let by_hand = async || store.refund_paid_by_hand(refund.key, None, "tx", "ada").await.unwrap();
    let debt = Debt::Refund(refund.key);
    assert_eq!(begin(&store, debt, "h1").await, Ok(Intent::Written));
    assert_eq!(by_hand().await, HandPaid::UnderWay);
    store.payback_failed(debt).await.unwrap();
    assert_eq!(by_hand().await, HandPaid::Booked);
    assert_eq!(by_hand().await, HandPaid::NotOwed);
    assert_eq!(store.offer_refund(refund.key, "node").await.unwrap(), None);
    assert_eq!(begin(&store, debt, "h2").await, Ok(Intent::Barred));
    assert_eq!(store.unclaimed().unwrap(), []);
    assert_eq!(store.refund(refund.key).unwrap(), None);
    assert_eq!(posted(&store, "refunds_due"), 0);
    assert_sound(&store);

    let credential = revoked(&store, &clock).await;
    let offered = store.refunds_of(credential).unwrap().pop().unwrap().key;
    store.offer_refund(offered, "node").await.unwrap();
    let lapsed = |node: Option<&str>| {
        store.refund_paid_by_hand(offered, node.map(str::to_owned), "tx", "ada")
    };
    assert_eq!(lapsed(Some("other")).await.unwrap(), HandPaid::UnderWay);
    let by_hand = lapsed(None).await.unwrap();
    assert_eq!(by_hand, HandPaid::UnderWay);
    assert_eq!(lapsed(Some("node")).await.unwrap(), HandPaid::Booked, "its offer came to nothing");
    assert_sound(&store);
}

/// A credential that paid for one of its four calls, and was revoked then.
async fn revoked(store: &Store, clock: &Clock) -> Digest {
    let now = clock.now();
    let kind = kind(Pay::L402).with(|terms| terms.uses = Uses(4));
    let quote = kind.quote("{}", now);
    let bought = buy_l402(&kind, &quote, now);
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now);
    store.challenge(asked).await.unwrap();
    let permit = permit(&kind, &quote, bought.payment(&kind, &quote, now), now);
    let hold = run(store, permit, "{}").await;
    store.capture(hold, outcome("x")).await.unwrap();
    store.credential_revoke(bought.new.key, "operator").await.unwrap();
    bought.new.key
}
