//! The verbs, one by one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    audit::{
        merkle,
        record::{Details, Kind as RecordKind, Record},
    },
    digest::Digest,
    grant::GrantStatus,
    ids::DecisionId,
    ledger::{CallState, Window},
    policy::{Decided, add_details},
    quote::Quote,
    refusal::{Charged, Code, Light, Lights, Refusal},
    terms::{ConsentRule, DoubtRule, Flow, Uses},
    time::UnixMs,
};
use countersign_store::{
    FailCause, InvoicePlace, OpenInvoice, Outcome, Reserved, SettlementEvidence, Take,
};
use std::sync::Arc;
use support::*;

fn kinds(store: &countersign_store::Store, call: countersign_core::ids::CallId) -> Vec<RecordKind> {
    let records = store.call_records(call).unwrap();
    records.iter().map(|record| Record::decode(&record.leaf).unwrap().draft.kind).collect()
}

#[tokio::test]
async fn a_free_call_has_six_records_and_one_proof() {
    use RecordKind::{Consent, Decision, InvocationResult, InvocationStart, LedgerImpact, Quote};
    let (dir, clock) = (Dir::new("free"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::Free);
    let hold = run(&store, any_permit(&kind, "{}", clock.now()), "{}").await;
    let call = hold.call();
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!((captured.call, captured.paid), (call, None));
    let six = [Quote, Consent, Decision, InvocationStart, InvocationResult, LedgerImpact];
    assert_eq!(kinds(&store, call), six);
    let records = store.call_records(call).unwrap();
    let last = Record::decode(&records[5].leaf).unwrap();
    assert_eq!(last.draft.records.len(), 5);
    assert_eq!(captured.leaf, merkle::leaf_hash(&records[5].leaf));
    let proof = store.inclusion(captured.index, store.log_size()).unwrap().unwrap();
    merkle::verify_inclusion(&proof.leaf_hash, proof.seq, proof.size, &proof.path, &proof.root)
        .unwrap();
    assert_eq!(state_of(&store, call), CallState::Captured);
    assert_sound(&store);
}

#[tokio::test]
async fn an_upfront_call_settles_then_runs_then_posts() {
    let (dir, clock) = (Dir::new("upfront"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = async || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        let permit = permit(&kind, &quote, payment, clock.now());
        store.reserve(permit, Vec::new(), &evidence("{}")).await
    };
    let first = settling(again().await);
    assert!(first.payload().unwrap().contains("authorization"));
    assert_sound(&store);
    assert_eq!(again().await.unwrap_err().code(), Code::SettlementUnknown);
    let hold = store.settled(first, receipt("0xabc")).await.unwrap();
    assert_eq!(posted(&store, "held"), 10_000);
    assert_eq!(again().await.unwrap_err().code(), Code::InProgress);
    let captured = store.capture(hold, outcome("sunny")).await.unwrap();
    assert_eq!(captured.settlement.unwrap().transaction, "0xabc");
    let Reserved::Replay(stored) = again().await.unwrap() else { panic!("not replayed") };
    assert_eq!(stored.result.unwrap(), b"sunny");
    let other = kind.quote(r#"{"a":1}"#, clock.now());
    let payment = pay_x402(&kind, &other, nonce, clock.now());
    let other = permit(&kind, &other, payment, clock.now());
    let refused = store.reserve(other, Vec::new(), &evidence(r#"{"a":1}"#)).await;
    assert_eq!(refused.unwrap_err().code(), Code::IdempotencyConflict);
    let accounts = ["funding", "held", "payable:weather"].map(|name| posted(&store, name));
    assert_eq!(accounts, [-10_000, 0, 10_000]);
    assert_sound(&store);
    clock.pass(23 * 3_600_000);
    let kept = store.outcome_for(nonce_of(&kind, &quote, nonce, clock.now()), quote.call_digest());
    assert_eq!(kept.unwrap().unwrap().result.unwrap(), b"sunny");
}

fn nonce_of(kind: &Kind, quote: &Quote, nonce: [u8; 32], now: UnixMs) -> Digest {
    pay_x402(kind, quote, nonce, now).nonce().unwrap().key
}

#[tokio::test]
async fn a_call_settled_after_its_run_is_posted_or_withheld() {
    let (dir, clock) = (Dir::new("authorization"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Authorization));
    let hold = run(&store, any_permit(&kind, "{}", clock.now()), "{}").await;
    let paid = hold.call();
    let finished = store.finish(hold, outcome("sunny")).await.unwrap();
    assert_eq!(state_of(&store, paid), CallState::Finished);
    assert_sound(&store);
    let captured = store.capture_settled(finished, receipt("0xabc")).await.unwrap();
    assert_eq!(captured.result.as_deref(), Some(b"sunny".as_slice()));
    let hold = run(&store, any_permit(&kind, "{}", clock.now()), "{}").await;
    let unpaid = hold.call();
    let finished = store.finish(hold, outcome("sunny")).await.unwrap();
    store.withhold(finished, Code::ResultWithheld).await.unwrap();
    assert_eq!(state_of(&store, unpaid), CallState::Released);
    assert_eq!(posted(&store, "operator_loss"), -10_000);
    assert_eq!(posted(&store, "payable:weather"), 20_000);
    let hold = run(&store, any_permit(&kind, "{}", clock.now()), "{}").await;
    let refused = store.capture(hold, outcome("x")).await;
    assert_eq!(refused.unwrap_err().code(), Code::InternalFault, "not settled yet");
    assert_sound(&store);
}

#[tokio::test]
async fn a_failed_settlement_leaves_the_payment_usable() {
    let (dir, clock) = (Dir::new("settle-failed"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let nonce = random();
    let again = async || {
        let payment = pay_x402(&kind, &quote, nonce, clock.now());
        let permit = permit(&kind, &quote, payment, clock.now());
        settling(store.reserve(permit, Vec::new(), &evidence("{}")).await)
    };
    let first = again().await;
    let call = first.call();
    store.settle_failed(first, Code::PayerFunds).await.unwrap();
    assert_eq!(state_of(&store, call), CallState::Released);
    assert_sound(&store);
    let unknown = store.settle_unknown(again().await).await;
    assert_eq!((unknown.code(), unknown.is_charged()), (Code::SettlementUnknown, Charged::Unknown));
    let carried_on = again().await;
    let hold = store.settled(carried_on, receipt("0xabc")).await.unwrap();
    store.capture(hold, outcome("x")).await.unwrap();
    assert_sound(&store);
}

#[tokio::test]
async fn a_person_ends_a_settlement_that_nobody_knows_of() {
    let (dir, clock) = (Dir::new("by-hand"), Clock::new());
    let store = open(&dir, &clock);
    let end = async |call, evidence| store.end_settlement(call, evidence, "ada").await;
    let paid = || SettlementEvidence::Paid(receipt("0xabc"));
    let upfront = kind(Pay::X402(Flow::Upfront));
    let begin = async || {
        let permit = any_permit(&upfront, "{}", clock.now());
        settling(store.reserve(permit, Vec::new(), &evidence("{}")).await)
    };
    let asked = begin().await;
    let call = asked.call();
    let refused = end(call, paid()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InProgress, "the rail is being asked");
    store.settle_unknown(asked).await;
    let open_now = store.open_settlements();
    assert_eq!((open_now.len(), open_now[0].call, open_now[0].is_asked), (1, call, false));
    assert_eq!(end(call, paid()).await.unwrap(), CallState::RefundDue);
    assert!(end(call, paid()).await.is_err(), "once");
    let asked = begin().await;
    let call = asked.call();
    store.settle_unknown(asked).await;
    assert_eq!(end(call, SettlementEvidence::Unpaid).await.unwrap(), CallState::Released);
    let after = kind(Pay::X402(Flow::Authorization));
    let mut ran = Vec::new();
    for _ in 0..2 {
        let hold = run(&store, any_permit(&after, "{}", clock.now()), "{}").await;
        ran.push(hold.call());
        drop(store.finish(hold, outcome("sunny")).await.unwrap());
    }
    // Whoever asked the rail is believed lost after ten minutes.
    clock.pass(700_000);
    assert_eq!(end(ran[0], paid()).await.unwrap(), CallState::Captured);
    assert_eq!(end(ran[1], SettlementEvidence::Unpaid).await.unwrap(), CallState::Released);
    assert_eq!(posted(&store, "operator_loss"), -10_000);
    assert!(store.open_settlements().is_empty());
    assert_sound(&store);
}

#[tokio::test]
async fn revocation_while_the_rail_works_is_owed_back() {
    let (dir, clock) = (Dir::new("revoked"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront))
        .by("alice")
        .with(|terms| terms.consent = ConsentRule::Required);
    let mut terms = grant_terms("alice", clock.now());
    terms.windows = vec![rolling(60_000, 15_000)];
    let grant = store.grant_create(new_grant(terms, clock.now())).await.unwrap();
    let reserve = async || {
        let quote = kind.quote("{}", clock.now());
        let payment = pay_x402(&kind, &quote, random(), clock.now());
        let grant = store.grant(grant.id).unwrap();
        let permit = join(&kind, &quote, payment, (Some(&grant), vec![]), clock.now())?;
        store.reserve(permit, Vec::new(), &evidence("{}")).await
    };
    let first = settling(reserve().await);
    let call = first.call();
    assert_eq!(store.remaining(&[], Some(grant.id), clock.now()).unwrap().0, 5_000);
    assert_eq!(reserve().await.unwrap_err().code(), Code::BudgetExceeded);
    store.grant_revoke(grant.id, "alice@acme.example").await.unwrap();
    let refused = store.settled(first, receipt("0xabc")).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_charged()), (Code::GrantRevoked, Charged::Yes));
    assert_eq!(state_of(&store, call), CallState::RefundDue);
    let due = store.refunds_due();
    assert_eq!((due.len(), due[0].call), (1, call));
    assert_eq!(due[0].settlement.as_ref().unwrap().transaction, "0xabc");
    assert_eq!(reserve().await.unwrap_err().code(), Code::GrantRevoked);
    assert_sound(&store);
    store.refunded(call, receipt("0xdef")).await.unwrap();
    assert_eq!(state_of(&store, call), CallState::Refunded);
    assert_eq!(posted(&store, "refunds_due"), 0);
    assert_eq!(store.grant(grant.id).unwrap().used.0, 0);
    let leaves = store.tail(0, 100).unwrap();
    let text: String = leaves.iter().map(|l| String::from_utf8_lossy(&l.leaf)).collect();
    assert!(!text.contains("alice"), "names stay out of the log");
    assert_sound(&store);
}

#[tokio::test]
async fn grants_stay_revoked_and_say_so() {
    let (dir, clock) = (Dir::new("grants"), Clock::new());
    let store = open(&dir, &clock);
    let new = new_grant(grant_terms("alice", clock.now()), clock.now());
    let id = new.id;
    store.grant_create(new.clone()).await.unwrap();
    assert!(store.grant_create(new).await.is_err(), "one identifier, one grant");
    store.grant_status(id, GrantStatus::Suspended, "bob").await.unwrap();
    store.grant_status(id, GrantStatus::Active, "bob").await.unwrap();
    store.grant_revoke(id, "bob").await.unwrap();
    let resumed = store.grant_status(id, GrantStatus::Active, "bob").await;
    assert_eq!(resumed.unwrap_err().code(), Code::GrantRevoked);
    let mut endless = grant_terms("alice", clock.now());
    endless.expires_at = clock.now().plus_ms(31 * 86_400_000);
    assert!(store.grant_create(new_grant(endless, clock.now())).await.is_err());
    let kind = kind(Pay::Free).by("alice");
    let identity = kind.identity(clock.now());
    let found = store.grants_for(identity.principal(), &kind.terms.tool);
    assert_eq!(found[0].status, GrantStatus::Revoked);
    assert_eq!(store.log_size(), 4);
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.grant(id).unwrap().version, 4);
}

#[tokio::test]
async fn a_credential_pays_for_its_uses_and_gives_one_back() {
    let (dir, clock) = (Dir::new("l402"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::L402).with(|terms| terms.uses = Uses(3));
    let now = clock.now();
    let quote = kind.quote("{}", now);
    let bought = buy_l402(&kind, &quote, now);
    let unknown = permit(&kind, &quote, bought.payment(&kind, &quote, now), now);
    let refused = store.reserve(unknown, Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::CredentialInvalid);
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now);
    store.challenge(asked).await.unwrap();
    let principal = kind.identity(now).principal().key();
    assert_eq!(store.open_quote(principal, quote.call_digest(), now).unwrap().quote, quote);
    let next = || {
        let quote = kind.quote("{}", now);
        permit(&kind, &quote, bought.payment(&kind, &quote, now), now)
    };
    for _ in 0..2 {
        let hold = run(&store, next(), "{}").await;
        let captured = store.capture(hold, outcome("x")).await.unwrap();
        assert_eq!((captured.paid.unwrap().minor, captured.micros.0), (6_666, 3_334));
    }
    let hold = run(&store, next(), "{}").await;
    assert_eq!(store.fail(hold, FailCause::NotExecuted).await.unwrap(), Charged::Unused);
    assert_eq!(posted(&store, "available"), 6_666);
    assert_sound(&store);
    clock.pass(121_000);
    close_ended(&store, &clock).await;
    assert_eq!((posted(&store, "available"), posted(&store, "refunds_due")), (0, 6_666));
    assert_eq!(posted(&store, "fees"), 2, "what does not divide");
    assert_sound(&store);
    clock.0.store(now.0, std::sync::atomic::Ordering::SeqCst);
    let late = store.reserve(next(), Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!(late.code(), Code::QuoteExpired, "what it left is owed back");
    assert_eq!(posted(&store, "available"), 0);
}

#[tokio::test]
async fn a_narrowed_copy_counts_with_the_credential_it_was_made_of() {
    let (dir, clock) = (Dir::new("narrowed"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::L402).with(|terms| terms.uses = Uses(3));
    let now = clock.now();
    let quote = kind.quote("{}", now);
    let wide = buy_l402(&kind, &quote, now);
    store.challenge(challenge(&kind, &quote, "{}", Some(wide.new.clone()), now)).await.unwrap();
    let narrow = wide.narrowed();
    let show = async |bought: &Bought| {
        let quote = kind.quote("{}", now);
        let permit = permit(&kind, &quote, bought.payment(&kind, &quote, now), now);
        store.reserve(permit, Vec::new(), &evidence("{}")).await
    };
    let hold = running(show(&narrow).await);
    let first = store.capture(hold, outcome("x")).await.unwrap();
    assert_sound(&store);
    let again = show(&narrow).await.unwrap();
    assert!(matches!(again, Reserved::Replay(stored) if stored.call == first.call), "one call");
    for _ in 0..2 {
        let hold = running(show(&wide).await);
        store.capture(hold, outcome("x")).await.unwrap();
        assert_sound(&store);
    }
    assert_eq!(show(&wide).await.unwrap_err().code(), Code::CredentialExhausted);
}

/// Makes the store sweep: opening it does.
async fn close_ended(store: &countersign_store::Store, clock: &Clock) {
    let until = std::time::Duration::from_millis(50);
    clock.pass(61_000);
    for _ in 0..100 {
        store.count_refusal(Code::TokenMissing);
        let new = new_grant(grant_terms("zoe", clock.now()), clock.now());
        store.grant_create(new).await.unwrap();
        if posted(store, "available") == 0 {
            return;
        }
        tokio::time::sleep(until).await;
    }
    panic!("no sweep");
}

#[tokio::test]
async fn lapsed_invoices_of_a_silent_node_keep_no_others() {
    let (dir, clock) = (Dir::new("lapsed"), Clock::new());
    let store = open(&dir, &clock);
    let (kind, now) = (kind(Pay::L402), clock.now());
    for (node, arguments, life_ms) in
        [("one", "1", 1_000), ("one", "2", 1_000), ("two", "3", 2_000)]
    {
        let quote = kind.quote(arguments, now);
        let mut new = buy_l402(&kind, &quote, now).new;
        (new.node, new.invoice_expires_at) = (node.into(), now.plus_ms(life_ms));
        store.challenge(challenge(&kind, &quote, arguments, Some(new), now)).await.unwrap();
    }
    clock.pass(200_000);
    let page = |except: &[&str], from: InvoicePlace| {
        let except: Vec<String> = except.iter().map(|name| (*name).to_owned()).collect();
        store.lapsed_invoices((clock.now(), clock.now()), (&except, from), 2).unwrap()
    };
    let nodes =
        |found: &[OpenInvoice]| found.iter().map(|open| open.node.clone()).collect::<Vec<_>>();
    let lapsed = |except: &[&str]| nodes(&page(except, InvoicePlace::default()));
    assert_eq!(lapsed(&[]), ["one", "one"], "a page of the oldest");
    assert_eq!(lapsed(&["one"]), ["two"]);
    assert_eq!(lapsed(&["one", "two"]), [""; 0]);
    let all = page(&[], InvoicePlace::default());
    assert_eq!(nodes(&page(&[], all[0].place())), ["one", "two"], "of two that lapse at once");
    assert_eq!(nodes(&page(&[], all[1].place())), ["two"], "those that stay open keep no others");
    assert_ne!(all[0].payment_hash, all[1].payment_hash);
}

#[tokio::test]
async fn a_used_up_credential_is_refused_and_costs_nothing() {
    let (dir, clock) = (Dir::new("l402-once"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::L402);
    let now = clock.now();
    let quote = kind.quote("{}", now);
    let bought = buy_l402(&kind, &quote, now);
    let asked = challenge(&kind, &quote, "{}", Some(bought.new.clone()), now);
    store.challenge(asked).await.unwrap();
    let next = || permit(&kind, &quote, bought.payment(&kind, &quote, now), now);
    let hold = run(&store, next(), "{}").await;
    assert!(
        store.open_quote(kind.identity(now).principal().key(), quote.call_digest(), now).is_none()
    );
    assert_eq!(store.quote_by_id(quote.id()).unwrap().unwrap().quote, quote);
    assert_eq!(store.fail(hold, FailCause::ToolError).await.unwrap(), Charged::Unused);
    let hold = run(&store, next(), "{}").await;
    store.capture(hold, outcome("x")).await.unwrap();
    let again = store.reserve(next(), Vec::new(), &evidence("{}")).await.unwrap();
    assert!(matches!(again, Reserved::Replay(_)));
    store.credential_revoke(bought.new.key, "operator").await.unwrap();
    assert!(store.credential(bought.new.key).unwrap().unwrap().revoked);
    assert_sound(&store);
    store.close().await;
    let store = open(&dir, &clock);
    let credential = store.credential(bought.new.key).unwrap().unwrap();
    assert_eq!((credential.root_key, credential.revoked), (bought.new.root_key, true));
    assert!(!format!("{credential:?}").contains("root_key"));
}

#[tokio::test]
async fn open_quotes_are_bounded() {
    let (dir, clock) = (Dir::new("quotes"), Clock::new());
    let mut options = options(&dir.0);
    options.limits.open_quotes_per_principal = 2;
    options.limits.open_quotes = 8;
    let store = countersign_store::Store::open(options, clock.world()).unwrap();
    let (nobody, alice) = (kind(Pay::X402(Flow::Upfront)), kind(Pay::X402(Flow::Upfront)));
    let alice = alice.by("alice");
    let ask = async |kind: &Kind, arguments: &str| {
        let quote = kind.quote(arguments, clock.now());
        store.challenge(challenge(kind, &quote, arguments, None, clock.now())).await
    };
    ask(&alice, "1").await.unwrap();
    ask(&alice, "2").await.unwrap();
    assert_eq!(ask(&alice, "3").await.unwrap_err().code(), Code::TooManyOpenQuotes);
    for n in 0..4 {
        ask(&nobody, &n.to_string()).await.unwrap();
    }
    let full = ask(&nobody, "4").await.unwrap_err();
    assert_eq!(full.code(), Code::TooManyOpenQuotes, "half of all");
    clock.pass(60_000);
    ask(&alice, "3").await.unwrap();
    assert_eq!(store.log_size(), 14, "a quote and a refusal each");
    assert_sound(&store);
}

#[tokio::test]
async fn calls_at_work_are_bounded_and_those_that_wait_for_a_person_are_none() {
    let (dir, clock) = (Dir::new("at-work"), Clock::new());
    let mut options = options(&dir.0);
    options.limits.live_calls = 2;
    let kind = kind(Pay::X402(Flow::Authorization)).by("alice");
    let begin = async |store: &countersign_store::Store, arguments: &str| {
        let permit = any_permit(&kind, arguments, clock.now());
        store.reserve(permit, Vec::new(), &evidence(arguments)).await
    };
    let store = countersign_store::Store::open(options.clone(), clock.world()).unwrap();
    for arguments in ["1", "2", "3"] {
        let hold = running(begin(&store, arguments).await);
        store.fail(hold, FailCause::InDoubt).await.unwrap();
    }
    assert_eq!(store.in_doubt().len(), 3);
    store.close().await;
    let store = countersign_store::Store::open(options, clock.world()).unwrap();
    let held = [running(begin(&store, "4").await), running(begin(&store, "5").await)];
    assert_eq!(begin(&store, "6").await.unwrap_err().code(), Code::Overloaded);
    let [ended, _held] = held;
    store.fail(ended, FailCause::NotExecuted).await.unwrap();
    running(begin(&store, "6").await);
    assert_sound(&store);
}

/// As many details as a decision has.
const DETAILS: [&str; 26] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
    "t", "u", "v", "w", "x", "y", "z",
];

#[tokio::test]
async fn refused_calls_have_records_once() {
    let (dir, clock) = (Dir::new("refused"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront)).by("alice");
    let attempt = kind.attempt(r#"{"secret":"hunter2"}"#, clock.now());
    let lights = Lights { identity: Light::Ok, consent: Light::Refused, ..Lights::DARK };
    let refusal = Refusal::new(Code::NoGrant).lights(lights);
    let quote = kind.quote(r#"{"secret":"hunter2"}"#, clock.now());
    store.refuse(&attempt, Some(&quote), &refusal).await.unwrap();
    store.refuse(&attempt, Some(&quote), &refusal).await.unwrap();
    use RecordKind::{Consent, Quote as Quoted, Refusal as Refused};
    assert_eq!(kinds(&store, attempt.call), [Quoted, Consent, Refused]);
    let view = store.call(attempt.call).unwrap().unwrap();
    assert_eq!((view.state, view.code.as_deref()), (CallState::Refused, Some("CNS-001")));
    let records = store.call_records(attempt.call).unwrap();
    assert!(records.iter().all(|r| !String::from_utf8_lossy(&r.leaf).contains("hunter2")));
    let mut huge = kind.attempt("{}", clock.now());
    huge.principal.agent = "\u{1}".repeat(10_000).into();
    let refused = store.refuse(&huge, None, &refusal).await;
    assert_eq!(refused.unwrap_err().code(), Code::TooLarge, "never a broken batch");
    let mut long = kind.attempt("{}", clock.now());
    long.principal.agent = "\u{1}".repeat(500).into();
    long.evidence.trace = Some("\u{1}".repeat(128).into());
    let mut input = Details::default();
    add_details(&mut input, DETAILS.map(|name| (name, "\u{1}".repeat(400))));
    long.decided = Some(Decided {
        id: DecisionId::from_bytes(random()),
        bundle: Digest::of(b"bundle"),
        input: Arc::new(input),
    });
    let denied = refusal.clone().lights(Lights { authorization: Light::Refused, ..lights });
    store.refuse(&long, Some(&quote), &denied).await.unwrap();
    assert_eq!(kinds(&store, long.call).len(), 4);
    for _ in 0..1_000 {
        store.count_refusal(Code::TokenMissing);
    }
    assert_eq!(store.log_size(), 7);
    store.close().await;
    let store = open(&dir, &clock);
    let last = Record::decode(&store.record(7).unwrap().unwrap().leaf).unwrap();
    assert_eq!(last.draft.kind, RecordKind::RefusedAggregate);
    assert_eq!(last.draft.detail["idn-001"], "1000");
    assert_sound(&store);
}

#[tokio::test]
async fn refusals_of_nobody_in_particular_are_counted_and_their_new_quotes_recorded() {
    let (dir, clock) = (Dir::new("nobody"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    store.challenge(challenge(&kind, &quote, "{}", None, clock.now())).await.unwrap();
    assert_eq!(store.log_size(), 2, "a new quote has its records");
    let attempt = kind.attempt("{}", clock.now());
    for code in [Code::PaymentRequired, Code::PaymentRequired, Code::BudgetExceeded] {
        store.refuse(&attempt, Some(&quote), &Refusal::new(code)).await.unwrap();
    }
    assert_eq!(store.log_size(), 2);
    assert!(store.call(attempt.call).unwrap().is_none(), "no row either");
    store.close().await;
    let store = open(&dir, &clock);
    let last = Record::decode(&store.record(2).unwrap().unwrap().leaf).unwrap();
    assert_eq!(last.draft.kind, RecordKind::RefusedAggregate);
    assert_eq!((&*last.draft.detail["pay-001"], &*last.draft.detail["bud-001"]), ("2", "1"));
    assert_sound(&store);
}

#[tokio::test]
async fn less_than_the_price_can_be_taken_and_never_more() {
    let (dir, clock) = (Dir::new("part"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Upfront));
    let start = async || {
        let permit = any_permit(&kind, "{}", clock.now());
        let settling = settling(store.reserve(permit, Vec::new(), &evidence("{}")).await);
        store.settled(settling, receipt("0xabc")).await.unwrap()
    };
    let part = |minor| Outcome { take: Take::Minor(minor), ..outcome("x") };
    let captured = store.capture(start().await, part(3_333)).await.unwrap();
    assert_eq!((captured.paid.unwrap().minor, captured.micros.0), (3_333, 3_333));
    assert_eq!(posted(&store, "refunds_due"), 6_667);
    assert!(store.capture(start().await, part(10_001)).await.is_err());
    assert_sound(&store);
}

#[tokio::test]
async fn doubt_is_resolved_by_a_person() {
    let (dir, clock) = (Dir::new("doubt"), Clock::new());
    let store = open(&dir, &clock);
    let upfront = kind(Pay::X402(Flow::Upfront));
    let start = async || {
        let permit = any_permit(&upfront, "{}", clock.now());
        let settling = settling(store.reserve(permit, Vec::new(), &evidence("{}")).await);
        store.settled(settling, receipt("0xabc")).await.unwrap()
    };
    let mut calls = Vec::new();
    for _ in 0..2 {
        let hold = start().await;
        calls.push(hold.call());
        assert_eq!(store.fail(hold, FailCause::InDoubt).await.unwrap(), Charged::Yes);
    }
    let after = kind(Pay::X402(Flow::Authorization));
    let hold = run(&store, any_permit(&after, "{}", clock.now()), "{}").await;
    calls.push(hold.call());
    assert_eq!(store.fail(hold, FailCause::InDoubt).await.unwrap(), Charged::No);
    assert_eq!(store.in_doubt().len(), 3);
    assert_eq!(posted(&store, "suspense"), 20_000);
    assert_sound(&store);
    let resolve = async |n: usize, rule| store.resolve(calls[n], rule, "operator").await.unwrap();
    assert_eq!(resolve(0, DoubtRule::Refund).await, CallState::RefundDue);
    assert_eq!(resolve(1, DoubtRule::Capture).await, CallState::Captured);
    assert_eq!(resolve(2, DoubtRule::Capture).await, CallState::Released, "never charged");
    assert!(store.resolve(calls[0], DoubtRule::Refund, "operator").await.is_err());
    assert_eq!((posted(&store, "suspense"), posted(&store, "payable:weather")), (0, 10_000));
    assert_sound(&store);
}

#[tokio::test]
async fn a_stale_permit_is_refused() {
    let (dir, clock) = (Dir::new("stale"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::Free);
    let permit = any_permit(&kind, "{}", clock.now());
    clock.pass(30_001);
    let refused = store.reserve(permit, Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::DecisionStale);
    let permit = any_permit(&kind, "{}", clock.now());
    clock.pass(60_000);
    let refused = store.reserve(permit, Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::QuoteExpired);
    assert_eq!(store.log_size(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_holds_nothing() {
    let (dir, clock) = (Dir::new("left"), Clock::new());
    let store = open(&dir, &clock);
    let kind = kind(Pay::X402(Flow::Authorization));
    let budget = charge("b", 10_000, Window::Lifetime);
    let permit = any_permit(&kind, "{}", clock.now());
    let (sent, payment) = (evidence("{}"), vec![budget.clone()]);
    let leaving = store.reserve(permit, payment, &sent);
    match tokio::time::timeout(std::time::Duration::ZERO, leaving).await {
        // The writer was faster than the clock: this caller has its hold, and ends it itself.
        Ok(reserved) => {
            let Ok(Reserved::Run(hold)) = reserved else { panic!("{reserved:?}") };
            store.fail(hold, FailCause::NotExecuted).await.unwrap();
        }
        // The answer finds nobody; the release comes with a batch after it.
        Err(_) => {
            let released = async {
                while store.log_size() < 6 {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(10), released).await.unwrap();
        }
    }
    assert_eq!(store.remaining(&[budget], None, clock.now()).unwrap().0, 10_000);
    assert_sound(&store);
}

#[tokio::test]
async fn a_full_queue_refuses_and_never_loses() {
    let (dir, clock) = (Dir::new("full"), Clock::new());
    let mut options = options(&dir.0);
    options.limits.queue_max = 4;
    options.limits.batch_max = 2;
    let store = countersign_store::Store::open(options, clock.world()).unwrap();
    let kind = kind(Pay::Free);
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let (store, permit) = (store.clone(), any_permit(&kind, "{}", clock.now()));
        tasks.push(tokio::spawn(async move {
            match store.reserve(permit, Vec::new(), &evidence("{}")).await {
                Ok(reserved) => {
                    store.capture(running(Ok(reserved)), outcome("x")).await.unwrap();
                    true
                }
                Err(refusal) => {
                    assert_eq!(refusal.code(), Code::Overloaded);
                    false
                }
            }
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += u64::from(task.await.unwrap());
    }
    assert!(done > 0);
    assert_eq!(store.log_size(), done * 6);
    assert_sound(&store);
}

#[tokio::test]
async fn the_calls_of_one_tenant_are_found_behind_those_of_others() {
    let (dir, clock) = (Dir::new("calls-of-tenant"), Clock::new());
    let store = open(&dir, &clock);
    let (theirs, other) = (kind(Pay::Free), kind(Pay::Free).by("alice"));
    let call = async |kind: &Kind| {
        clock.pass(1);
        let hold = run(&store, any_permit(kind, "{}", clock.now()), "{}").await;
        store.capture(hold, outcome("sunny")).await.unwrap().call
    };
    let own = [call(&theirs).await, call(&theirs).await];
    for _ in 0..4 {
        call(&other).await;
    }
    let seen = |tenant, before, limit| {
        let calls = store.calls(tenant, before, limit).unwrap();
        calls.iter().map(|view| view.call).collect::<Vec<_>>()
    };
    assert_eq!(seen(Some("anonymous"), None, 2), [own[1], own[0]], "filtered before the limit");
    assert_eq!(seen(Some("anonymous"), Some(own[1]), 2), [own[0]]);
    assert_eq!(seen(Some("acme"), None, 9).len(), 4);
    assert_eq!((seen(None, None, 9).len(), seen(Some("nobody"), None, 9).len()), (6, 0));
}
