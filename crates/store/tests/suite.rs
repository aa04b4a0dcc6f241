//! The verbs, one by one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    audit::{merkle, record::Record},
    ledger::CallState,
    proof::Payment,
    refusal::Code,
    terms::Flow,
};
use countersign_store::{FailCause, Hold, Reserved, Store};
use support::*;

async fn run(store: &Store, permit: countersign_core::proof::Permit, args: &str) -> Hold {
    match store.reserve(permit, Vec::new(), &evidence(args)).await.unwrap() {
        Reserved::Run(hold) => hold,
        other @ (Reserved::Settle(_) | Reserved::Replay(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_free_call_has_six_records_and_one_proof() {
    let (dir, clock) = (Dir::new("free"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::Free);
    let hold = run(&store, any_permit(&kind, "{}", clock.now()), "{}").await;
    let call = hold.call();
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!(captured.call, call);
    assert_eq!(captured.paid, None);
    let records = store.call_records(call).unwrap();
    let kinds: Vec<_> = records
        .iter()
        .map(|r| format!("{:?}", Record::decode(&r.leaf).unwrap().draft.kind))
        .collect();
    assert_eq!(
        kinds,
        ["Quote", "Consent", "Decision", "InvocationStart", "InvocationResult", "LedgerImpact"]
    );
    let last = Record::decode(&records[5].leaf).unwrap();
    assert_eq!(last.draft.records.len(), 5);
    assert_eq!(captured.leaf, merkle::leaf_hash(&records[5].leaf));
    let proof = store.inclusion(captured.index, store.log_size()).unwrap().unwrap();
    merkle::verify_inclusion(&proof.leaf_hash, proof.seq, proof.size, &proof.path, &proof.root)
        .unwrap();
    assert_eq!(store.call(call).unwrap().unwrap().state, CallState::Captured);
    store.close().await;
}

#[tokio::test]
async fn an_upfront_call_settles_then_runs_then_posts() {
    let (dir, clock) = (Dir::new("upfront"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let permit_for =
        |nonce| permit(&kind, &quote, pay_x402(&kind, &quote, nonce, clock.now()), clock.now());
    let nonce = random();
    let reserved = store.reserve(permit_for(nonce), Vec::new(), &evidence("{}")).await.unwrap();
    let Reserved::Settle(settling) = reserved else { panic!("{reserved:?}") };
    assert!(settling.payload().unwrap().contains("authorization"));
    let again = store.reserve(permit_for(nonce), Vec::new(), &evidence("{}")).await;
    assert_eq!(again.unwrap_err().code(), Code::SettlementUnknown);
    let hold = store.settled(settling, receipt("0xabc")).await.unwrap();
    let again = store.reserve(permit_for(nonce), Vec::new(), &evidence("{}")).await;
    assert_eq!(again.unwrap_err().code(), Code::InProgress);
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!(captured.settlement.unwrap().transaction, "0xabc");
    let again = store.reserve(permit_for(nonce), Vec::new(), &evidence("{}")).await.unwrap();
    let Reserved::Replay(stored) = again else { panic!("{again:?}") };
    assert_eq!(stored.result.unwrap(), b"sunny");
    let other = kind.quote("{\"a\":1}", clock.now());
    let payment = pay_x402(&kind, &other, nonce, clock.now());
    let other = permit(&kind, &other, payment, clock.now());
    let refused = store.reserve(other, Vec::new(), &evidence("{\"a\":1}")).await;
    assert_eq!(refused.unwrap_err().code(), Code::IdempotencyConflict);
    let balances = store.balances();
    let posted = |name: &str| {
        balances.iter().find(|b| b.account.to_string() == name).map(|b| b.posted_minor)
    };
    assert_eq!(posted("funding"), Some(-10_000));
    assert_eq!(posted("held"), Some(0));
    assert_eq!(posted("payable:weather"), Some(10_000));
    store.close().await;
}

#[tokio::test]
async fn a_credential_pays_for_its_uses_and_gives_one_back() {
    let (dir, clock) = (Dir::new("l402"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::L402).with(|terms| terms.uses = countersign_core::terms::Uses(3));
    let quote = kind.quote("{}", clock.now());
    let bought = buy_l402(&kind, &quote, clock.now());
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), clock.now());
    store.challenge(asked).await.unwrap();
    assert!(store.credential(bought.new.key).unwrap().is_some());
    let principal = kind.identity(clock.now()).principal().key();
    let open = store.open_quote(principal, quote.call_digest(), clock.now()).unwrap();
    assert_eq!(open.quote, quote);
    let now = clock.now();
    let next = || {
        let quote = kind.quote("{}", now);
        permit(&kind, &quote, bought.payment(&kind, &quote, now), now)
    };
    for _ in 0..2 {
        let hold = run(&store, next(), "{}").await;
        store.capture(hold, outcome("x")).await.unwrap();
    }
    let hold = run(&store, next(), "{}").await;
    assert_eq!(
        store.fail(hold, FailCause::NotExecuted).await.unwrap(),
        countersign_core::refusal::Charged::Unused
    );
    let hold = run(&store, next(), "{}").await;
    store.capture(hold, outcome("x")).await.unwrap();
    let refused = store.reserve(next(), Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::CredentialExhausted);
    store.close().await;
}

#[tokio::test]
async fn the_first_payment_of_one_nonce_wins() {
    let (dir, clock) = (Dir::new("nonce"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Authorization));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let mut tasks = Vec::new();
    for _ in 0..32 {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        let permit = permit(&kind, &quote, payment, clock.now());
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            store.reserve(permit, Vec::new(), &evidence("{}")).await
        }));
    }
    let mut holds = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(Reserved::Run(_)) => holds += 1,
            Err(refusal) => assert_eq!(refusal.code(), Code::InProgress),
            Ok(other @ (Reserved::Settle(_) | Reserved::Replay(_))) => panic!("{other:?}"),
        }
    }
    assert_eq!(holds, 1);
    let _ = Payment::not_required(&quote).unwrap_err();
}
