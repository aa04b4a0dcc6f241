//! Payments outward: intended once, counted, and after a crash in every state neither made twice
//! nor forgotten.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    audit::record::Record,
    ids::QuoteId,
    ledger::{CallState, Charge, Window},
    money::{Amount, Micros},
    proof::{Payment, Permit},
    quote::{Offer, Quote},
    refusal::{Charged, Code},
    terms::{DoubtRule, PriceRule},
    time::UnixMs,
};
use countersign_store::{
    FailCause, Hold, Outlay, Purchase, Recovered, Settling, Store, Unfinished, Unsettled,
};
use support::*;

const QUOTED: u64 = 10_000;
const DAY_LIMIT: u64 = 25_000;

fn bought() -> Kind {
    let rule =
        PriceRule { tenant: None, agent: None, amounts: vec![], work: false, upstream: true };
    kind(Pay::Free).by("alice").with(|terms| terms.prices = vec![rule])
}

fn quote(kind: &Kind, now: UnixMs) -> Quote {
    let amount = Amount { asset: "USDC".into(), minor: QUOTED.into() };
    let offer = Offer::treasury(amount, "payee".to_owned(), Micros(QUOTED));
    let id = QuoteId::new(now, random());
    Quote::new(id, kind.digest("{}", now), vec![offer], now, now.plus_ms(60_000))
}

fn permit_of(kind: &Kind, quote: &Quote, now: UnixMs) -> Permit {
    let principal = kind.identity(now).principal().clone();
    let payment = Payment::by_treasury(&kind.terms, &principal, quote, Micros(QUOTED)).unwrap();
    permit(kind, quote, payment, now)
}

fn budget() -> Vec<Charge> {
    vec![charge("b", 100_000, Window::Lifetime)]
}

fn limit() -> Charge {
    let window = Window::Rolling(86_400_000);
    Charge::hard("treasury\u{1f}main".to_owned(), Micros(DAY_LIMIT), window)
}

fn purchase(minor: u64) -> Purchase {
    Purchase {
        amount: Amount { asset: "USDC".into(), minor: minor.into() },
        micros: Micros(minor),
        reference: "ab".repeat(32),
        payload: r#"{"outward":1}"#.to_owned(),
        limit: limit(),
    }
}

async fn begin(store: &Store, clock: &Clock) -> Settling {
    let kind = bought();
    let quote = quote(&kind, clock.now());
    let permit = permit_of(&kind, &quote, clock.now());
    settling(store.reserve(permit, budget(), &evidence("{}")).await)
}

/// What is left of the budget, and of the treasury's day.
fn left(store: &Store, clock: &Clock) -> (u64, u64) {
    let of = |charge: &[Charge]| store.remaining(charge, None, clock.now()).unwrap().0;
    (of(&budget()), of(&[limit()]))
}

fn ledger(store: &Store) -> [i128; 5] {
    ["treasury", "held", "suspense", "refunds_due", "paid_out:weather"]
        .map(|account| posted(store, account))
}

fn reopen(dir: &Dir, clock: &Clock) -> (Dir, Store) {
    let copy = crash(dir);
    let store = open(&copy, clock);
    assert_sound(&store);
    (copy, store)
}

async fn unsettled(store: &Store) -> Unsettled {
    match store.unfinished().await.unwrap().pop() {
        Some(Unfinished::Settling(item)) => item,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_invoice_is_intended_paid_run_and_posted() {
    let (dir, clock) = (Dir::new("invoice"), Clock::new());
    let store = open(&dir, &clock);
    let settling = begin(&store, &clock).await;
    let call = settling.call();
    assert_eq!((left(&store, &clock), ledger(&store)), ((90_000, 25_000), [0; 5]));
    let settling = store.intend(settling, purchase(9_000)).await.unwrap();
    assert_eq!(settling.payload(), Some(r#"{"outward":1}"#));
    assert_eq!((left(&store, &clock), ledger(&store)), ((90_000, 16_000), [0; 5]));
    assert_sound(&store);
    let hold = store.settled(settling, receipt("hash")).await.unwrap();
    assert_eq!(ledger(&store), [-9_000, 9_000, 0, 0, 0]);
    let captured = store.capture_bought(hold, outcome("sunny"), receipt("hash")).await.unwrap();
    assert_eq!(captured.paid.unwrap().minor, 9_000, "less than was quoted");
    assert_eq!(
        (left(&store, &clock), ledger(&store)),
        ((91_000, 16_000), [-9_000, 0, 0, 0, 9_000])
    );
    let records = store.call_records(call).unwrap();
    assert_eq!(records.len(), 6);
    let start = Record::decode(&records[3].leaf).unwrap();
    assert_eq!(start.draft.detail["outward"], "ab".repeat(32));
    assert_sound(&store);
}

#[tokio::test]
async fn a_signature_starts_with_its_call_and_is_booked_with_the_outcome() {
    let (dir, clock) = (Dir::new("signature"), Clock::new());
    let store = open(&dir, &clock);
    let start = async || {
        let settling = begin(&store, &clock).await;
        store.start_paying(settling, purchase(QUOTED)).await
    };
    let hold: Hold = start().await.unwrap();
    assert_eq!((left(&store, &clock), ledger(&store)), ((90_000, 15_000), [0; 5]));
    store.capture_bought(hold, outcome("sunny"), receipt("0x1")).await.unwrap();
    assert_eq!(ledger(&store), [-10_000, 0, 0, 0, 10_000]);
    // The server says that it took nothing: the budget is free, the treasury's day is not, since
    // the signature was in its hands.
    let hold = start().await.unwrap();
    let charged = store.fail_bought(hold, FailCause::ToolError, Outlay::Untouched).await.unwrap();
    assert_eq!((charged, left(&store, &clock)), (Charged::No, (90_000, 5_000)));
    // So its third word does not matter.
    let over = start().await.unwrap_err();
    assert_eq!((over.code(), over.is_charged()), (Code::BudgetExceeded, Charged::No));
    assert_eq!(left(&store, &clock), (90_000, 5_000));
    assert_eq!(store.refunds_due(), []);
    clock.pass(86_400_001);
    // It took the money and the tool failed: owed back, by the server.
    let hold = start().await.unwrap();
    let taken = Outlay::Taken(receipt("0x2"));
    let charged = store.fail_bought(hold, FailCause::ToolError, taken).await.unwrap();
    assert_eq!((charged, ledger(&store)), (Charged::Yes, [-20_000, 0, 0, 10_000, 10_000]));
    let due = store.refunds_due().pop().unwrap();
    assert_eq!(due.settlement.unwrap().transaction, "0x2");
    let (_copy, after) = reopen(&dir, &clock);
    after.refunded(due.call, receipt("back")).await.unwrap();
    assert_eq!(ledger(&after), [-10_000, 0, 0, 0, 10_000]);
    assert_sound(&after);
}

#[tokio::test]
async fn nothing_above_the_quote_and_no_second_payment_is_intended() {
    let (dir, clock) = (Dir::new("above"), Clock::new());
    let store = open(&dir, &clock);
    let above = store.intend(begin(&store, &clock).await, purchase(QUOTED + 1)).await;
    assert_eq!(above.unwrap_err().code(), Code::InternalFault);
    assert_eq!((left(&store, &clock), ledger(&store)), ((100_000, 25_000), [0; 5]));
    let dearer = Purchase { micros: Micros(QUOTED + 1), ..purchase(1) };
    let dearer = store.intend(begin(&store, &clock).await, dearer).await;
    assert_eq!(dearer.unwrap_err().code(), Code::InternalFault);
    let other = Amount { asset: "BTC".into(), minor: 1 };
    let other = Purchase { amount: other, ..purchase(1) };
    assert!(store.intend(begin(&store, &clock).await, other).await.is_err());
    let once = store.intend(begin(&store, &clock).await, purchase(QUOTED)).await.unwrap();
    let twice = store.intend(once, purchase(QUOTED)).await;
    assert_eq!(twice.unwrap_err().code(), Code::InternalFault);
    assert_sound(&store);
}

#[tokio::test]
async fn many_at_once_do_not_exceed_the_treasurys_day() {
    let (dir, clock) = (Dir::new("many"), Clock::new());
    let store = open(&dir, &clock);
    let mut begun = Vec::new();
    for _ in 0..8 {
        begun.push(begin(&store, &clock).await);
    }
    let tasks = begun.into_iter().map(|settling| {
        let store = store.clone();
        tokio::spawn(async move { store.start_paying(settling, purchase(QUOTED)).await.is_ok() })
    });
    let mut paid = 0;
    for task in tasks.collect::<Vec<_>>() {
        paid += u64::from(task.await.unwrap());
    }
    assert_eq!(paid, DAY_LIMIT / QUOTED);
    assert_eq!(left(&store, &clock), (100_000 - paid * QUOTED, DAY_LIMIT - paid * QUOTED));
    assert_sound(&store);
}

#[tokio::test]
async fn a_crash_before_the_intent_leaves_nothing() {
    let (dir, clock) = (Dir::new("before"), Clock::new());
    let store = open(&dir, &clock);
    let call = begin(&store, &clock).await.call();
    let (_copy, after) = reopen(&dir, &clock);
    assert_eq!(state_of(&after, call), CallState::Released);
    assert_eq!((left(&after, &clock), ledger(&after)), ((100_000, 25_000), [0; 5]));
    assert!(after.unfinished().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_crash_after_the_intent_leaves_that_very_payment() {
    let (dir, clock) = (Dir::new("after"), Clock::new());
    let store = open(&dir, &clock);
    let call = begin(&store, &clock).await;
    let call = store.intend(call, purchase(QUOTED)).await.unwrap().call();
    // Not paid, says our own wallet: both limits are free again.
    let (_copy, after) = reopen(&dir, &clock);
    assert_eq!(left(&after, &clock), (90_000, 15_000), "the hold stays");
    let item = unsettled(&after).await;
    assert_eq!(item.payload(), Some(r#"{"outward":1}"#));
    after.recover_failed(item, Code::TreasuryUnpaid).await.unwrap();
    assert_eq!(state_of(&after, call), CallState::Released);
    assert_eq!((left(&after, &clock), ledger(&after)), ((100_000, 25_000), [0; 5]));
    assert_sound(&after);
    // Paid, and its call never ran: owed back, and spent until then.
    let (_copy, after) = reopen(&dir, &clock);
    let item = unsettled(&after).await;
    let recovered = after.recover_settled(item, receipt("hash")).await.unwrap();
    assert!(matches!(recovered, Recovered::RefundDue(_)), "{recovered:?}");
    assert_eq!(
        (left(&after, &clock), ledger(&after)),
        ((90_000, 15_000), [-10_000, 0, 0, 10_000, 0])
    );
    assert_sound(&after);
    let (_copy, after) = reopen(&_copy, &clock);
    assert_eq!(left(&after, &clock), (90_000, 15_000));
}

#[tokio::test]
async fn its_callers_repetition_carries_that_payment_on() {
    let (dir, clock) = (Dir::new("carried-on"), Clock::new());
    let store = open(&dir, &clock);
    let kind = bought();
    let digest = kind.digest("{}", clock.now());
    let until = clock.now().plus_ms(60_000);
    assert!(store.buying(digest, until).unwrap().is_none());
    let first = store.intend(begin(&store, &clock).await, purchase(9_000)).await.unwrap();
    let (_, quote) = store.buying(digest, until).unwrap().unwrap();
    assert!(quote.is_none(), "somebody carries it on");
    let (_copy, after) = reopen(&dir, &clock);
    let (view, quote) = after.buying(digest, until).unwrap().unwrap();
    assert_eq!(view.call, first.call());
    let quote = quote.unwrap();
    assert_eq!(quote.of_treasury().unwrap().amount.minor, 9_000);
    let again = permit_of(&kind, &quote, clock.now());
    let again = settling(after.reserve(again, budget(), &evidence("{}")).await);
    assert_eq!((again.call(), again.payload()), (first.call(), first.payload()));
    let hold = after.settled(again, receipt("hash")).await.unwrap();
    after.capture_bought(hold, outcome("sunny"), receipt("hash")).await.unwrap();
    assert_eq!(
        (left(&after, &clock), ledger(&after)),
        ((91_000, 16_000), [-9_000, 0, 0, 0, 9_000])
    );
    assert!(after.buying(digest, until).unwrap().is_none());
    assert_sound(&after);
}

#[tokio::test]
async fn a_crash_while_the_tool_runs_is_a_doubt_that_a_person_ends() {
    for is_invoice in [true, false] {
        let (dir, clock) = (Dir::new("doubt"), Clock::new());
        let store = open(&dir, &clock);
        let settling = begin(&store, &clock).await;
        let call = settling.call();
        let _hold = if is_invoice {
            let settling = store.intend(settling, purchase(QUOTED)).await.unwrap();
            store.settled(settling, receipt("hash")).await.unwrap()
        } else {
            store.start_paying(settling, purchase(QUOTED)).await.unwrap()
        };
        let (copy, after) = reopen(&dir, &clock);
        assert_eq!(state_of(&after, call), CallState::InDoubt);
        let suspense = if is_invoice { [-10_000, 0, 10_000, 0, 0] } else { [0; 5] };
        assert_eq!((left(&after, &clock), ledger(&after)), ((90_000, 15_000), suspense));
        // It was worth the money.
        let (_copy, kept) = reopen(&copy, &clock);
        kept.resolve(call, DoubtRule::Capture, "ada").await.unwrap();
        assert_eq!(
            (left(&kept, &clock), ledger(&kept)),
            ((90_000, 15_000), [-10_000, 0, 0, 0, 10_000])
        );
        assert_sound(&kept);
        // It was not, or the money has not moved.
        let state = after.resolve(call, DoubtRule::Refund, "ada").await.unwrap();
        let (wanted, budget, books) = match is_invoice {
            true => (CallState::RefundDue, 90_000, [-10_000, 0, 0, 10_000, 0]),
            false => (CallState::Released, 100_000, [0; 5]),
        };
        assert_eq!(
            (state, left(&after, &clock), ledger(&after)),
            (wanted, (budget, 15_000), books)
        );
        assert_sound(&after);
    }
}

#[tokio::test]
async fn no_word_of_the_server_is_a_doubt() {
    let (dir, clock) = (Dir::new("no-word"), Clock::new());
    let store = open(&dir, &clock);
    for (cause, outlay) in
        [(FailCause::ToolError, Outlay::Unknown), (FailCause::NotExecuted, Outlay::Unknown)]
    {
        let hold = store.start_paying(begin(&store, &clock).await, purchase(100)).await.unwrap();
        let call = hold.call();
        let charged = store.fail_bought(hold, cause, outlay).await.unwrap();
        assert_eq!((charged, state_of(&store, call)), (Charged::Unknown, CallState::InDoubt));
    }
    let hold = store.start_paying(begin(&store, &clock).await, purchase(100)).await.unwrap();
    assert_eq!(store.fail(hold, FailCause::InDoubt).await.unwrap(), Charged::Unknown);
    assert_eq!(store.in_doubt().len(), 3);
    assert_sound(&store);
}

#[tokio::test]
async fn what_is_owed_back_is_the_treasurys_and_never_the_callers_credit() {
    let (dir, clock) = (Dir::new("owed"), Clock::new());
    let store = open(&dir, &clock);
    let settling = begin(&store, &clock).await;
    let call = settling.call();
    let settling = store.intend(settling, purchase(QUOTED)).await.unwrap();
    let hold = store.settled(settling, receipt("hash")).await.unwrap();
    assert_eq!(store.fail(hold, FailCause::ToolError).await.unwrap(), Charged::Yes);
    assert_eq!(ledger(&store), [-10_000, 0, 0, 10_000, 0]);
    assert_eq!(store.refund_to_credit(call).await.unwrap_err().code(), Code::InternalFault);
    let (copy, store) = reopen(&dir, &clock);
    assert_eq!(store.refund_to_credit(call).await.unwrap_err().code(), Code::InternalFault);
    assert_eq!(ledger(&store), [-10_000, 0, 0, 10_000, 0]);
    store.refunded(call, receipt("back")).await.unwrap();
    assert_eq!(ledger(&store), [0; 5]);
    let principal = bought().identity(clock.now()).principal().clone();
    assert_eq!(store.credit(&principal, &"USDC".into()), 0);
    assert_sound(&store);
    drop(copy);
}
