//! Approvals: one is one execution, of what was shown, by people who count.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    approval::{Approval, ApprovalStatus, Approver, Ask, AskKind, Quorum, offers_digest},
    digest::Digest,
    grant::{GrantStatus, GrantTerms},
    ids::ApprovalId,
    ledger::{CallState, Charge, OnExceed, Window},
    money::Micros,
    policy::Intent,
    proof::Payment,
    quote::Quote,
    refusal::{Code, Refusal},
    terms::Flow,
    time::UnixMs,
};
use countersign_store::{
    Answer, ApprovalRequest, FailCause, Hold, Reserved, Settling, Store, Unfinished, Verdict,
};
use support::*;

fn ask(kind: &Kind, quote: &Quote, now: UnixMs, needed: u8) -> Ask {
    let identity = kind.identity(now);
    let principal = identity.principal();
    let delegator = principal.delegator.as_ref().unwrap();
    Ask {
        kind: AskKind::Confirm,
        call_digest: quote.call_digest(),
        offers: offers_digest(quote),
        tenant: principal.tenant.clone(),
        issuer: delegator.issuer.clone(),
        subject: delegator.subject.clone(),
        agent: principal.agent.clone(),
        server: kind.terms.tool.server.clone(),
        tool: kind.terms.tool.tool.clone(),
        definition: Some(Digest::of(b"definition")),
        intent: Intent::Read,
        purpose: None,
        price: "0.01 USDC".into(),
        micros: quote.micros(),
        payees: Vec::new(),
        over: Vec::new(),
        quorum: Quorum { needed, roles: Vec::new() },
    }
}

fn request(kind: &Kind, quote: &Quote, now: UnixMs, needed: u8) -> ApprovalRequest {
    ApprovalRequest {
        id: ApprovalId::new(now, random()),
        principal: kind.identity(now).principal().key(),
        ask: ask(kind, quote, now, needed),
        arguments: "{}".into(),
        reasons: vec!["HUMAN_CONFIRM_REQUIRED".into()],
        risk: None,
        ttl_ms: 300_000,
        tell: Vec::new(),
    }
}

fn person(name: &str) -> Approver {
    Approver::person("https://idp.example/", name, Vec::new())
}

async fn says(
    store: &Store,
    id: ApprovalId,
    by: Approver,
    verdict: Verdict,
) -> Result<Approval, Refusal> {
    store.approval_answer(id, Answer { by, verdict, reason: None, content: None }).await
}

async fn yes(store: &Store, id: ApprovalId, name: &str) -> Result<Approval, Refusal> {
    says(store, id, person(name), Verdict::Approve).await
}

/// Reserves a call of this kind on the strength of an approval.
async fn reserve(
    store: &Store,
    kind: &Kind,
    quote: &Quote,
    approval: ApprovalId,
    now: UnixMs,
) -> Result<Reserved, Refusal> {
    let payment = match kind.pay {
        Pay::Free => Payment::not_required(quote).unwrap(),
        Pay::X402(_) | Pay::L402 | Pay::Work => pay_x402(kind, quote, random(), now),
    };
    let permit = join(kind, quote, payment, (None, vec![approval]), now).unwrap();
    store.reserve(permit, Vec::new(), &evidence("{}")).await
}

fn alice(pay: Pay) -> Kind {
    kind(pay).by("alice")
}

#[tokio::test]
async fn one_approval_is_one_execution() {
    let (dir, clock) = (Dir::new("approvals"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let quote = kind.quote("{}", clock.now());
    let asked = store.approval_open(request(&kind, &quote, clock.now(), 1)).await.unwrap();
    let same = store.approval_open(request(&kind, &quote, clock.now(), 1)).await.unwrap();
    assert_eq!(asked.id, same.id);
    store.close().await;
    let store = open(&dir, &clock);
    let reserve = async || reserve(&store, &kind, &quote, asked.id, clock.now()).await;
    assert_eq!(reserve().await.unwrap_err().code(), Code::ApprovalPending);
    yes(&store, asked.id, "bob").await.unwrap();
    let late = says(&store, asked.id, person("bob"), Verdict::Deny).await;
    assert_eq!(late.unwrap_err().code(), Code::ApprovalExpired);
    let (first, second) = tokio::join!(reserve(), reserve());
    assert!(first.is_ok() != second.is_ok(), "one of two at once");
    let hold = running(first.or(second));
    assert_eq!(reserve().await.unwrap_err().code(), Code::ApprovalPending, "consumed");
    store.capture(hold, outcome("x")).await.unwrap();
    assert_eq!(store.approval(asked.id).unwrap().status, ApprovalStatus::Consumed);
    let next = store.approval_open(request(&kind, &quote, clock.now(), 1)).await.unwrap();
    assert_ne!(next.id, asked.id);
    clock.pass(300_000);
    assert_eq!(store.approval(next.id).unwrap().status, ApprovalStatus::Expired);
    let late = yes(&store, next.id, "bob").await;
    assert_eq!(late.unwrap_err().code(), Code::ApprovalExpired);
    assert_sound(&store);
}

/// An approval of a call, given.
async fn approved(store: &Store, kind: &Kind, quote: &Quote, now: UnixMs) -> ApprovalId {
    let id = store.approval_open(request(kind, quote, now, 1)).await.unwrap().id;
    yes(store, id, "bob").await.unwrap();
    id
}

#[tokio::test]
async fn it_is_given_back_only_when_the_call_never_ran() {
    let (dir, clock) = (Dir::new("approvals-back"), Clock::new());
    let store = open(&dir, &clock);
    let status = |id| store.approval(id).unwrap().status;
    for (cause, then) in [
        (FailCause::NotExecuted, ApprovalStatus::Approved),
        (FailCause::ToolError, ApprovalStatus::Consumed),
        (FailCause::InDoubt, ApprovalStatus::Consumed),
    ] {
        let kind = alice(Pay::Free);
        let quote = kind.quote(&format!("{cause:?}"), clock.now());
        let id = approved(&store, &kind, &quote, clock.now()).await;
        let hold: Hold = running(reserve(&store, &kind, &quote, id, clock.now()).await);
        store.fail(hold, cause).await.unwrap();
        assert_eq!(status(id), then, "{cause:?}");
        let again = reserve(&store, &kind, &quote, id, clock.now()).await;
        assert_eq!(again.is_ok(), then == ApprovalStatus::Approved);
    }
    let kind = alice(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let id = approved(&store, &kind, &quote, clock.now()).await;
    let first: Settling = settling(reserve(&store, &kind, &quote, id, clock.now()).await);
    assert_eq!(status(id), ApprovalStatus::Consumed);
    store.settle_failed(first, Code::SettlementFailed).await.unwrap();
    assert_eq!(status(id), ApprovalStatus::Approved, "the rail refused: nothing ran");
    let second = settling(reserve(&store, &kind, &quote, id, clock.now()).await);
    let hold = store.settled(second, receipt("0x1")).await.unwrap();
    store.capture(hold, outcome("x")).await.unwrap();
    assert_eq!(status(id), ApprovalStatus::Consumed);
    assert_sound(&store);
}

#[tokio::test]
async fn a_crash_in_settling_keeps_it_and_a_release_gives_it_back() {
    let (dir, clock) = (Dir::new("approvals-crash"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let id = approved(&store, &kind, &quote, clock.now()).await;
    let lost = settling(reserve(&store, &kind, &quote, id, clock.now()).await);
    let call = lost.call();
    drop(lost);
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(state_of(&store, call), CallState::Settling);
    assert_eq!(store.approval(id).unwrap().status, ApprovalStatus::Consumed);
    let mut found = store.unfinished().await.unwrap();
    let Some(Unfinished::Settling(lost)) = found.pop() else { panic!("{found:?}") };
    store.recover_failed(lost, Code::SettlementFailed).await.unwrap();
    assert_eq!(store.approval(id).unwrap().status, ApprovalStatus::Approved);
    assert_sound(&store);
}

#[tokio::test]
async fn two_distinct_people_agree_to_one_content() {
    let (dir, clock) = (Dir::new("approvals-two"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let quote = kind.quote("{}", clock.now());
    let id = store.approval_open(request(&kind, &quote, clock.now(), 2)).await.unwrap().id;
    for nobody in [person("alice"), person("bot"), Approver::local("os:0:root")] {
        let refused = says(&store, id, nobody, Verdict::Approve).await;
        assert_eq!(refused.unwrap_err().code(), Code::ApproverNotEligible);
    }
    assert_eq!(yes(&store, id, "bob").await.unwrap().status, ApprovalStatus::Pending);
    assert_eq!(yes(&store, id, "bob").await.unwrap_err().code(), Code::ApproverNotEligible);
    let refused = reserve(&store, &kind, &quote, id, clock.now()).await;
    assert_eq!(refused.unwrap_err().code(), Code::ApprovalPending, "one is not two");
    // The two last ones race: both are admitted or one comes too late, and it is used once.
    let (carol, dan) = tokio::join!(yes(&store, id, "carol"), yes(&store, id, "dan"));
    assert_eq!([carol.is_ok(), dan.is_ok()].iter().filter(|ok| **ok).count(), 1);
    assert_eq!(store.approval(id).unwrap().yes.len(), 2);
    running(reserve(&store, &kind, &quote, id, clock.now()).await);
    let again = reserve(&store, &kind, &quote, id, clock.now()).await;
    assert_eq!(again.unwrap_err().code(), Code::ApprovalPending);
}

fn terms(total: u64, now: UnixMs) -> GrantTerms {
    GrantTerms { total: Some(Micros(total)), ..grant_terms("alice", now) }
}

#[tokio::test]
async fn a_grant_comes_of_a_request_once_enough_agreed_to_the_same_terms() {
    let (dir, clock) = (Dir::new("approvals-grant"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let quote = kind.quote("{}", clock.now());
    let now = clock.now();
    let id = store.approval_open(request(&kind, &quote, now, 2)).await.unwrap().id;
    let small = Verdict::Grant(Box::new(terms(1_000_000, now)));
    let large = Verdict::Grant(Box::new(terms(9_000_000, now)));
    let first = says(&store, id, person("bob"), small.clone()).await.unwrap();
    assert_eq!(first.yes.len(), 1);
    let edited = says(&store, id, person("carol"), large.clone()).await.unwrap();
    assert_eq!((edited.status, edited.yes.len()), (ApprovalStatus::Pending, 1), "an edit voids");
    assert_eq!(edited.yes[0].by, person("carol"));
    let stale = Answer {
        by: person("bob"),
        verdict: Verdict::Approve,
        reason: None,
        content: Some(first.content),
    };
    let stale = store.approval_answer(id, stale).await;
    assert_eq!(stale.unwrap_err().code(), Code::ApprovalExpired, "bob saw the smaller one");
    let blind = says(&store, id, person("bob"), Verdict::Approve).await;
    assert_eq!(blind.unwrap_err().code(), Code::ApprovalExpired, "a yes to what nobody showed");
    let other = Verdict::Grant(Box::new(GrantTerms { subject: "mallory".into(), ..terms(1, now) }));
    assert!(says(&store, id, person("bob"), other).await.is_err(), "for somebody else");
    let done = says(&store, id, person("bob"), large).await.unwrap();
    assert_eq!(done.status, ApprovalStatus::Approved);
    let grant = store.grant(done.grant.unwrap()).unwrap();
    assert_eq!((grant.status, grant.terms.total), (GrantStatus::Active, Some(Micros(9_000_000))));
    assert_eq!(grant.approved_by, "https://idp.example/|carol, https://idp.example/|bob");
    let agreed = grant.agreed.clone().unwrap();
    assert_eq!((agreed.m, agreed.shown), (2, done.content));
    assert_eq!(agreed.got, ["https://idp.example/|carol", "https://idp.example/|bob"]);
    let pinned: Vec<_> = agreed.definitions.into_iter().collect();
    assert_eq!(pinned, [("forecast".into(), Digest::of(b"definition"))]);
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.grant(grant.id).unwrap().agreed, grant.agreed, "durable");
    assert_sound(&store);
}

#[tokio::test]
async fn a_grant_that_cannot_be_made_refuses_the_answer_and_leaves_the_request() {
    let (dir, clock) = (Dir::new("approvals-orphan"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let (quote, now) = (kind.quote("{}", clock.now()), clock.now());
    let id = store.approval_open(request(&kind, &quote, now, 1)).await.unwrap().id;
    let mut orphan = terms(1_000_000, now);
    orphan.bounds.parent = Some(countersign_core::ids::GrantId::from_bytes([7; 16]));
    assert!(says(&store, id, person("bob"), Verdict::Grant(Box::new(orphan))).await.is_err());
    assert_eq!(store.approval(id).unwrap().status, ApprovalStatus::Pending);
    let good = Verdict::Grant(Box::new(terms(1_000_000, now)));
    let done = says(&store, id, person("bob"), good).await.unwrap();
    assert_eq!(done.status, ApprovalStatus::Approved, "the store goes on");
    assert_sound(&store);
}

#[tokio::test]
async fn another_price_or_a_stronger_rule_asks_anew() {
    let (dir, clock) = (Dir::new("approvals-void"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let id = approved(&store, &kind, &quote, clock.now()).await;
    let dearer = alice(Pay::X402(Flow::Upfront)).price(20_000);
    let new_quote = dearer.quote("{}", clock.now());
    assert_eq!(quote.call_digest(), new_quote.call_digest());
    let refused = reserve(&store, &dearer, &new_quote, id, clock.now()).await;
    assert_eq!(refused.unwrap_err().code(), Code::ApprovalPending, "bound to the price shown");
    let asked = store.approval_open(request(&dearer, &new_quote, clock.now(), 1)).await.unwrap();
    assert_ne!(asked.id, id);
    assert_eq!(store.approval(id).unwrap().status, ApprovalStatus::Void);
    let stronger = store.approval_open(request(&dearer, &new_quote, clock.now(), 2)).await;
    assert_ne!(stronger.unwrap().id, asked.id);
    assert_eq!(store.approval(asked.id).unwrap().status, ApprovalStatus::Void);
}

#[tokio::test]
async fn who_was_removed_meanwhile_does_not_count() {
    let (dir, clock) = (Dir::new("approvals-removed"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let quote = kind.quote("{}", clock.now());
    let id = approved(&store, &kind, &quote, clock.now()).await;
    let admin = Approver::local("os:0:root");
    assert_eq!(store.approver_withdraw(person("bob"), &admin).await.unwrap(), 1);
    let refused = reserve(&store, &kind, &quote, id, clock.now()).await;
    assert_eq!(refused.unwrap_err().code(), Code::ApprovalPending);
    let again = yes(&store, id, "bob").await.unwrap_err();
    assert_eq!(again.code(), Code::ApproverNotEligible, "once removed, always removed");
    store.close().await;
    let store = open(&dir, &clock);
    let denied = says(&store, id, person("bob"), Verdict::Deny).await.unwrap_err();
    assert_eq!(denied.code(), Code::ApproverNotEligible, "after a restart, and for a no");
    let who: Vec<_> = store.approvers_withdrawn().into_iter().map(|w| w.who).collect();
    assert_eq!(who, [person("bob")]);
    yes(&store, id, "carol").await.unwrap();
    let hold = running(reserve(&store, &kind, &quote, id, clock.now()).await);
    assert_eq!(store.approver_withdraw(person("carol"), &admin).await.unwrap(), 0, "used");
    store.fail(hold, FailCause::NotExecuted).await.unwrap();
    assert_eq!(store.approval(id).unwrap().status, ApprovalStatus::Pending, "given back unagreed");
    assert!(store.approver_reinstate(person("bob"), &admin).await.unwrap());
    assert!(!store.approver_reinstate(person("bob"), &admin).await.unwrap());
    assert_eq!(yes(&store, id, "bob").await.unwrap().status, ApprovalStatus::Approved);
}

#[tokio::test]
async fn requests_are_bounded() {
    let (dir, clock) = (Dir::new("approvals-many"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let ask = async |n: u32| {
        let quote = kind.quote(&n.to_string(), clock.now());
        store.approval_open(request(&kind, &quote, clock.now(), 1)).await
    };
    for n in 0..16 {
        ask(n).await.unwrap();
    }
    assert_eq!(ask(16).await.unwrap_err().code(), Code::RateLimited, "too many wait");
    // Denied at once each time, an agent still cannot go on asking.
    for n in 16..60 {
        let waiting = store.approvals().into_iter().find(|a| a.status == ApprovalStatus::Pending);
        says(&store, waiting.unwrap().id, person("bob"), Verdict::Deny).await.unwrap();
        ask(n).await.unwrap();
    }
    let waiting = store.approvals().into_iter().find(|a| a.status == ApprovalStatus::Pending);
    says(&store, waiting.unwrap().id, person("bob"), Verdict::Deny).await.unwrap();
    assert_eq!(ask(60).await.unwrap_err().code(), Code::RateLimited, "too many in an hour");
    clock.pass(3_600_000);
    ask(60).await.unwrap();
}

#[tokio::test]
async fn a_budget_that_asks_is_exceeded_only_in_that_knowledge() {
    let (dir, clock) = (Dir::new("approvals-over"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let asks = Charge {
        on_exceed: OnExceed::Confirm,
        ..Charge::hard("budget:soft".into(), Micros(1), Window::Lifetime)
    };
    let reserve = async |ids: Vec<ApprovalId>| {
        let payment = pay_x402(&kind, &quote, random(), clock.now());
        let permit = join(&kind, &quote, payment, (None, ids), clock.now()).unwrap();
        store.reserve(permit, vec![asks.clone()], &evidence("{}")).await
    };
    assert_eq!(reserve(vec![]).await.unwrap_err().code(), Code::ApprovalPending);
    let unaware = approved(&store, &kind, &quote, clock.now()).await;
    assert_eq!(reserve(vec![unaware]).await.unwrap_err().code(), Code::ApprovalPending);
    let mut aware = request(&kind, &quote, clock.now(), 1);
    aware.ask.over = vec!["soft".into()];
    let aware = store.approval_open(aware).await.unwrap().id;
    assert_eq!(store.approval(unaware).unwrap().status, ApprovalStatus::Void);
    yes(&store, aware, "bob").await.unwrap();
    settling(reserve(vec![aware]).await);
    assert!(reserve(vec![aware]).await.is_err(), "once");
}

#[tokio::test]
async fn a_request_is_compared_with_the_last_one_agreed_to_however_old() {
    let (dir, clock) = (Dir::new("approvals-before"), Clock::new());
    let store = open(&dir, &clock);
    let kind = alice(Pay::Free);
    let first = approved(&store, &kind, &kind.quote("{}", clock.now()), clock.now()).await;
    clock.pass(1);
    let other = kind.quote(r#"{"city":"Rome"}"#, clock.now());
    let refused = store.approval_open(request(&kind, &other, clock.now(), 1)).await.unwrap();
    says(&store, refused.id, person("bob"), Verdict::Deny).await.unwrap();
    clock.pass(90 * 86_400_000);
    store.close().await;
    let store = open(&dir, &clock);
    assert!(store.approvals().is_empty(), "both are out of memory");
    let asked = request(&kind, &kind.quote("{}", clock.now()), clock.now(), 1);
    let now = store.approval_open(asked).await.unwrap();
    let before = |one: &Approval| store.approval_before(one).unwrap().map(|before| before.id);
    assert_eq!(before(&now), Some(first), "the one that was refused is no measure");
    let bob = alice(Pay::Free).by("bob");
    let theirs = request(&bob, &bob.quote("{}", clock.now()), clock.now(), 1);
    let theirs = store.approval_open(theirs).await.unwrap();
    assert_eq!(before(&theirs), None, "nor is another person's");
    store.close().await;
    let rows = rusqlite::Connection::open(dir.0.join("countersign.db")).unwrap();
    let plan: String = rows
        .query_row(
            "EXPLAIN QUERY PLAN SELECT body FROM approvals
             WHERE json_extract(body, '$.principal') = '' AND json_extract(body, '$.ask.server') = ''
               AND json_extract(body, '$.ask.tool') = '' AND id < x'00'
               AND json_extract(body, '$.status') IN ('approved', 'consumed')
             ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get(3),
        )
        .unwrap();
    assert!(plan.contains("approvals_agreed"), "{plan}");
}
