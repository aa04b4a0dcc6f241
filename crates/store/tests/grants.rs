//! Grants: children within their parents, payers, and tools that changed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use countersign_core::{
    digest::Digest,
    grant::{Bounds, Brought, Grant, GrantStatus, GrantTerms, Source},
    ids::GrantId,
    money::Micros,
    person::{Link, LinkKind, Person},
    proof::Payment,
    refusal::{Code, Refusal},
    terms::{ConsentRule, Flow, ToolRef},
    time::UnixMs,
};
use countersign_store::{Hold, NewGrant, Note, Store};
use std::sync::Arc;
use support::*;

fn needs_consent(pay: Pay) -> Kind {
    kind(pay).by("alice").price(100).with(|terms| terms.consent = ConsentRule::Required)
}

async fn spend(store: &Store, clock: &Clock, grant: GrantId) -> Result<Hold, Refusal> {
    let kind = needs_consent(Pay::X402(Flow::Upfront));
    let quote = kind.quote("{}", clock.now());
    let payment = pay_x402(&kind, &quote, random(), clock.now());
    let grant = store.grant(grant).unwrap();
    let permit = join(&kind, &quote, payment, (Some(&grant), vec![]), clock.now())?;
    let settling = settling(Ok(store.reserve(permit, Vec::new(), &evidence("{}")).await?));
    store.settled(settling, receipt("0x1")).await
}

async fn create(store: &Store, clock: &Clock, terms: GrantTerms) -> Result<Arc<Grant>, Refusal> {
    store.grant_create(new_grant(terms, clock.now())).await
}

fn child(parent: &Grant, change: impl FnOnce(&mut GrantTerms)) -> GrantTerms {
    let mut terms = parent.terms.clone();
    terms.bounds.parent = Some(parent.id);
    change(&mut terms);
    terms
}

#[tokio::test]
async fn what_children_use_is_used_of_their_parent() {
    let (dir, clock) = (Dir::new("children"), Clock::new());
    let store = open(&dir, &clock);
    let mut terms = grant_terms("alice", clock.now());
    terms.total = Some(Micros(250));
    terms.max_calls = Some(9);
    let parent = create(&store, &clock, terms).await.unwrap();
    let wider = child(&parent, |terms| terms.total = Some(Micros(251)));
    let refused = create(&store, &clock, wider).await.unwrap_err();
    assert_eq!(refused.code(), Code::NoGrant);
    assert!(refused.to_string().contains("total"), "{refused}");
    let one = create(&store, &clock, child(&parent, |t| t.per_call = Micros(200))).await.unwrap();
    let two = create(&store, &clock, child(&parent, |_| {})).await.unwrap();
    for id in [one.id, two.id] {
        let hold = spend(&store, &clock, id).await.unwrap();
        store.capture(hold, outcome("x")).await.unwrap();
    }
    let used = |id| store.grant(id).unwrap().used.0;
    assert_eq!([used(one.id), used(two.id), used(parent.id)], [100, 100, 200]);
    let refused = spend(&store, &clock, one.id).await.unwrap_err();
    assert_eq!(refused.code(), Code::GrantExhausted, "its own total has room, its parent's not");
    store.close().await;
    let store = open(&dir, &clock);
    assert_eq!(store.grant(parent.id).unwrap().used.0, 200);
    store.grant_revoke(parent.id, "os:0:root").await.unwrap();
    assert_eq!(spend(&store, &clock, two.id).await.unwrap_err().code(), Code::GrantRevoked);
    let late = create(&store, &clock, child(&parent, |_| {})).await;
    assert_eq!(late.unwrap_err().code(), Code::GrantRevoked);
    assert_sound(&store);
}

#[tokio::test]
async fn only_listed_wallets_pay() {
    let (dir, clock) = (Dir::new("payers"), Clock::new());
    let store = open(&dir, &clock);
    let with = |payer: &str| GrantTerms {
        bounds: Bounds { payers: vec![payer.to_owned()], ..Bounds::default() },
        ..grant_terms("alice", clock.now())
    };
    let other = create(&store, &clock, with("0x2222222222222222222222222222222222222222")).await;
    let refused = spend(&store, &clock, other.unwrap().id).await.unwrap_err();
    assert_eq!(refused.code(), Code::PayerNotGranted);
    let own = create(&store, &clock, with("0x1111111111111111111111111111111111111111")).await;
    spend(&store, &clock, own.unwrap().id).await.unwrap();
}

fn changed(size: usize) -> Note {
    Note { kind: "definition", key: "weather/forecast".to_owned(), body: "x".repeat(size) }
}

#[tokio::test]
async fn a_tool_that_changed_suspends_its_grants() {
    let (dir, clock) = (Dir::new("suspended"), Clock::new());
    let store = open(&dir, &clock);
    let named =
        |tool: &str| GrantTerms { tools: vec![tool.into()], ..grant_terms("alice", clock.now()) };
    let own = create(&store, &clock, named("forecast")).await.unwrap();
    let other = create(&store, &clock, named("other")).await.unwrap();
    let every = create(&store, &clock, named("*")).await.unwrap();
    let tool = ToolRef { server: "weather".into(), tool: "forecast".into() };
    let kind = needs_consent(Pay::Free);
    let quote = kind.quote("{}", clock.now());
    let payment = Payment::not_required(&quote).unwrap();
    let before = join(&kind, &quote, payment, (Some(&own), vec![]), clock.now()).unwrap();
    let suspended = store.tool_changed(&tool, changed(1)).await.unwrap();
    assert_eq!(suspended, [own.id]);
    let late = store.reserve(before, Vec::new(), &evidence("{}")).await;
    assert_eq!(late.unwrap_err().code(), Code::GrantSuspended, "decided before, not reserved");
    for kept in [&other, &every] {
        assert_eq!(store.grant(kept.id).unwrap().status, GrantStatus::Active);
    }
    store.grant_status(own.id, GrantStatus::Active, "os:0:root").await.unwrap();
    spend(&store, &clock, own.id).await.unwrap();
    assert!(store.tool_changed(&tool, changed(2)).await.unwrap().len() == 1);
}

/// The note and the suspension are one transaction: what a crash at any moment leaves on disk has
/// both or neither, and a note that cannot be kept suspends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_noted_and_suspends_or_neither() {
    let (dir, clock) = (Dir::new("suspended-whole"), Clock::new());
    let store = open(&dir, &clock);
    let terms = GrantTerms { tools: vec!["forecast".into()], ..grant_terms("alice", clock.now()) };
    let mut grants = Vec::new();
    for _ in 0..20 {
        grants.push(create(&store, &clock, terms.clone()).await.unwrap().id);
    }
    let tool = ToolRef { server: "weather".into(), tool: "forecast".into() };
    let refused = store.tool_changed(&tool, changed(1 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::TooLarge);
    let is = |status| grants.iter().all(|id| store.grant(*id).unwrap().status == status);
    assert!(is(GrantStatus::Active));
    let changing = tokio::spawn({
        let (store, tool) = (store.clone(), tool.clone());
        async move { store.tool_changed(&tool, changed(1)).await.unwrap() }
    });
    let copies: Vec<Dir> = (0..40).map(|_| crash(&dir)).collect();
    assert_eq!(changing.await.unwrap().len(), 20);
    assert!(is(GrantStatus::Suspended));
    for copy in copies.iter().chain([&crash(&dir)]) {
        let after = open(copy, &clock);
        let is_noted = !after.notes("definition").unwrap().is_empty();
        for id in &grants {
            let is_suspended = after.grant(*id).unwrap().status == GrantStatus::Suspended;
            assert_eq!(is_suspended, is_noted);
        }
        after.close().await;
    }
}

fn brought(content: &str) -> Brought {
    Brought {
        source: Source::Rar,
        key: Digest::of(b"alice's consent"),
        content: Digest::of(content.as_bytes()),
        signer: None,
    }
}

#[tokio::test]
async fn evidence_makes_one_grant_that_lives_as_long_as_it_says() {
    let (dir, clock) = (Dir::new("brought"), Clock::new());
    let store = open(&dir, &clock);
    let bring = async |store: &Store, content: &str, life_ms: u64| {
        let mut terms = grant_terms("alice", clock.now());
        terms.expires_at = clock.now().plus_ms(life_ms);
        let new = new_grant(terms, clock.now());
        store.grant_bring(NewGrant { brought: Some(brought(content)), ..new }).await
    };
    let first = bring(&store, "a", 1_000).await.unwrap();
    spend(&store, &clock, first.id).await.unwrap();
    let longer = bring(&store, "a", 5_000).await.unwrap();
    assert_eq!((longer.id, longer.version), (first.id, first.version));
    assert_eq!(longer.terms.expires_at, clock.now().plus_ms(5_000));
    assert_eq!(longer.calls, 1, "what is used stays used");
    let shorter = bring(&store, "a", 2_000).await.unwrap();
    assert_eq!(shorter.terms.expires_at, longer.terms.expires_at);
    let other = bring(&store, "b", 1_000).await.unwrap_err();
    assert_eq!(other.code(), Code::ConsentEvidence, "something else under its name");
    clock.pass(29 * 24 * 3_600_000);
    let longest = bring(&store, "a", GrantTerms::LONGEST_MS).await.unwrap();
    assert_eq!(
        longest.terms.expires_at.since_ms(longest.terms.not_before),
        GrantTerms::LONGEST_MS,
        "however often it comes"
    );
    store.grant_revoke(first.id, "os:0:root").await.unwrap();
    store.close().await;
    let store = open(&dir, &clock);
    let again = bring(&store, "a", 9_000).await.unwrap();
    assert_eq!((again.id, again.status), (first.id, GrantStatus::Revoked));
    assert_eq!(store.grants().len(), 1);
    assert_sound(&store);
}

#[tokio::test]
async fn what_comes_along_is_bounded() {
    let (dir, clock) = (Dir::new("bounded"), Clock::new());
    let store = open(&dir, &clock);
    let bring = async |n: u8| {
        let brought = Brought { key: Digest::of(&[n]), ..brought("a") };
        let new = new_grant(grant_terms("alice", clock.now()), clock.now());
        store.grant_bring(NewGrant { brought: Some(brought), ..new }).await
    };
    for n in 0..64 {
        bring(n).await.unwrap();
    }
    assert_eq!(bring(64).await.unwrap_err().code(), Code::RateLimited);
    bring(0).await.unwrap();
}

fn link(kind: LinkKind, id: &str, subject: &str, challenge: Option<&[u8]>) -> Link {
    Link {
        kind,
        id: id.into(),
        person: Person {
            tenant: "acme".into(),
            issuer: grant_terms("alice", UnixMs(0)).issuer,
            subject: subject.into(),
        },
        name: String::new(),
        public: id.into(),
        challenge: challenge.map(Digest::of),
        by: "os:0:root".to_owned(),
        at: UnixMs(0),
        ended_at: None,
    }
}

#[tokio::test]
async fn a_link_is_one_persons_and_its_challenge_counts_once() {
    let (dir, clock) = (Dir::new("links"), Clock::new());
    let store = open(&dir, &clock);
    let wallet = |subject, challenge: &[u8]| {
        store.link_add(link(LinkKind::Wallet, "0x11", subject, Some(challenge)))
    };
    wallet("alice", b"1").await.unwrap();
    assert_eq!(wallet("bob", b"2").await.unwrap_err().code(), Code::AdminConflict);
    store.link_end(LinkKind::Wallet, "0x11", "os:0:root").await.unwrap();
    let ended = store.link_end(LinkKind::Wallet, "0x11", "os:0:root").await;
    assert_eq!(ended.unwrap_err().code(), Code::AdminNotFound);
    assert_eq!(wallet("bob", b"1").await.unwrap_err().code(), Code::AdminConflict, "used");
    wallet("bob", b"3").await.unwrap();
    store.close().await;
    let store = open(&dir, &clock);
    let held = store.link(LinkKind::Wallet, "0x11").unwrap();
    assert_eq!(&*held.person.subject, "bob");
    store.link_end(LinkKind::Wallet, "0x11", "os:0:root").await.unwrap();
    let again = link(LinkKind::Wallet, "0x11", "bob", Some(b"1"));
    assert_eq!(store.link_add(again).await.unwrap_err().code(), Code::AdminConflict);
    assert_sound(&store);
}

#[tokio::test]
async fn a_key_that_ends_takes_what_it_signed_along() {
    let (dir, clock) = (Dir::new("keys"), Clock::new());
    let store = open(&dir, &clock);
    store.link_add(link(LinkKind::Key, "kid", "alice", None)).await.unwrap();
    let signed = Brought { signer: Some("kid".into()), source: Source::Jws, ..brought("a") };
    let new = new_grant(grant_terms("alice", clock.now()), clock.now());
    let own = store.grant_bring(NewGrant { brought: Some(signed), ..new }).await.unwrap();
    let other = create(&store, &clock, grant_terms("alice", clock.now())).await.unwrap();
    spend(&store, &clock, own.id).await.unwrap();
    store.link_end(LinkKind::Key, "kid", "os:0:root").await.unwrap();
    assert_eq!(spend(&store, &clock, own.id).await.unwrap_err().code(), Code::GrantSuspended);
    spend(&store, &clock, other.id).await.unwrap();
}

#[tokio::test]
async fn linked_wallets_pay_where_that_is_wanted() {
    let (dir, clock) = (Dir::new("linked"), Clock::new());
    let store = open(&dir, &clock);
    let terms = GrantTerms {
        bounds: Bounds { payers: vec![Bounds::LINKED.to_owned()], ..Bounds::default() },
        ..grant_terms("alice", clock.now())
    };
    let grant = create(&store, &clock, terms).await.unwrap();
    let refused = async |store: &Store| spend(store, &clock, grant.id).await.unwrap_err().code();
    assert_eq!(refused(&store).await, Code::PayerNotLinked);
    let payer = "0x1111111111111111111111111111111111111111";
    store.link_add(link(LinkKind::Wallet, payer, "bob", Some(b"1"))).await.unwrap();
    assert_eq!(refused(&store).await, Code::PayerNotLinked, "another person's");
    store.link_end(LinkKind::Wallet, payer, "os:0:root").await.unwrap();
    store.link_add(link(LinkKind::Wallet, payer, "alice", Some(b"2"))).await.unwrap();
    spend(&store, &clock, grant.id).await.unwrap();
    store.link_end(LinkKind::Wallet, payer, "os:0:root").await.unwrap();
    assert_eq!(refused(&store).await, Code::PayerNotLinked, "no longer");
    assert_sound(&store);
}
