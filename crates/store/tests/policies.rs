//! Policy bundles: revisions rise, over a rollback and a restart too, and each act is recorded.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{audit::record::Record, digest::Digest, refusal::Code};
use countersign_store::{NewPolicy, Store};
use support::*;

fn bundle(revision: u64) -> NewPolicy {
    let body = format!("{{\"policies.cedar\":\"// {revision}\"}}");
    NewPolicy { revision, digest: Digest::of(body.as_bytes()), body, by: "os:1000:ada".to_owned() }
}

fn in_force(store: &Store) -> Vec<u64> {
    let kept = store.policies().unwrap();
    kept.iter().filter(|kept| kept.is_in_force).map(|kept| kept.revision).collect()
}

#[tokio::test]
async fn revisions_rise_whatever_is_in_force() {
    let (dir, clock) = (Dir::new("policies"), Clock::new());
    let store = open(&dir, &clock);
    assert!(store.policies().unwrap().is_empty());
    for revision in [3, 5] {
        store.policy_activate(bundle(revision)).await.unwrap().unwrap();
    }
    assert_eq!(store.policy_activate(bundle(5)).await.unwrap(), Err(5));
    assert_eq!(store.policy_activate(bundle(4)).await.unwrap(), Err(5));
    assert_eq!(in_force(&store), [5]);

    store.policy_roll_back(3, "os:1000:ada", "5 denies too much").await.unwrap();
    let unkept = store.policy_roll_back(4, "os:1000:ada", "why not").await;
    assert_eq!(unkept.unwrap_err().code(), Code::AdminNotFound);
    store.close().await;

    let store = open(&dir, &clock);
    assert_eq!(in_force(&store), [3]);
    assert_eq!(store.policy(3).unwrap().unwrap(), bundle(3).body);
    assert_eq!(store.policy_activate(bundle(5)).await.unwrap(), Err(5), "also after a rollback");
    store.policy_activate(bundle(6)).await.unwrap().unwrap();
    assert_eq!(in_force(&store), [6]);

    let records = store.tail(0, 10).unwrap();
    let records = records.iter().map(|logged| Record::decode(&logged.leaf).unwrap().draft);
    let acts: Vec<_> = records
        .map(|draft| {
            let said = |name: &str| draft.detail.get(name).cloned().unwrap_or_default();
            assert!(draft.policy.is_some());
            assert_eq!(said("operator").len(), 64, "a pseudonym");
            format!("{} {} {}", said("action"), said("revision"), said("reason"))
        })
        .collect();
    let expected = [
        "policy.activate 3 ",
        "policy.activate 5 ",
        "policy.rollback 3 5 denies too much",
        "policy.activate 6 ",
    ];
    assert_eq!(acts, expected);
}

#[tokio::test]
async fn the_oldest_bundles_go_and_the_highest_revision_stays() {
    let (dir, clock) = (Dir::new("policies-kept"), Clock::new());
    let store = open(&dir, &clock);
    for revision in 1..=20 {
        store.policy_activate(bundle(revision)).await.unwrap().unwrap();
    }
    let kept: Vec<u64> = store.policies().unwrap().iter().map(|kept| kept.revision).collect();
    assert_eq!(kept, (5..=20).rev().collect::<Vec<_>>());
    store.policy_roll_back(5, "os:1000:ada", "back").await.unwrap();
    assert_eq!(store.policy_activate(bundle(20)).await.unwrap(), Err(20));
}

#[tokio::test]
async fn one_shadow_at_most_and_its_report_is_its_own() {
    let (dir, clock) = (Dir::new("shadow"), Clock::new());
    let store = open(&dir, &clock);
    assert_eq!(store.shadow().unwrap(), None);
    assert!(!store.shadow_stop("os:1000:ada").await.unwrap());
    store.shadow_set(bundle(7)).await.unwrap();
    store.shadow_set(bundle(2)).await.unwrap();
    store.shadow_report(bundle(7).digest, "of another".to_owned()).await.unwrap();
    store.shadow_report(bundle(2).digest, "its own".to_owned()).await.unwrap();
    store.close().await;

    let store = open(&dir, &clock);
    let kept = store.shadow().unwrap().unwrap();
    assert_eq!((kept.policy, kept.report.as_str()), (bundle(2), "its own"));
    assert_eq!(in_force(&store), [0u64; 0], "it is not in force");
    assert!(store.shadow_stop("os:1000:ada").await.unwrap());
    assert_eq!(store.shadow().unwrap(), None);
    let records = store.tail(0, 10).unwrap();
    let records = records.iter().map(|logged| Record::decode(&logged.leaf).unwrap().draft);
    let acts: Vec<_> = records.map(|draft| draft.detail["action"].clone()).collect();
    assert_eq!(acts, ["policy.shadow.set", "policy.shadow.set", "policy.shadow.stop"]);
}
