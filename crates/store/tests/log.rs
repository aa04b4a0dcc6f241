//! The published log, and what a store refuses to open.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use countersign_core::{
    audit::{
        checkpoint::Checkpoint,
        verify::{Options as VerifyOptions, verify_log},
    },
    refusal::{Charged, Code},
};
use countersign_store::{OpenError, Store, fsck};
use rusqlite::Connection;
use std::{fs, path::Path, time::Duration};
use support::*;

async fn work(store: &Store, clock: &Clock, calls: usize) {
    let kind = kind(Pay::Free);
    for _ in 0..calls {
        let hold = run(store, any_permit(&kind, "{}", clock.now()), "{}").await;
        store.capture(hold, outcome("x")).await.unwrap();
    }
}

#[tokio::test]
async fn the_write_ahead_log_is_copied_while_the_store_works() {
    let (dir, clock) = (Dir::new("ahead"), Clock::new());
    let store = open(&dir, &clock);
    let size = |name: &str| fs::metadata(dir.0.join(name)).unwrap().len();
    for n in 0..3_000 {
        let body = format!("{n:016}").repeat(1_000);
        store.note_put("bulk", &(n % 100).to_string(), &body).await.unwrap();
    }
    assert!(size("countersign.db") > 100 * 16_000, "copied");
    assert!(size("countersign.db-wal") < 3_000 * 16_000 / 2, "and begun anew");
    work(&store, &clock, 1).await;
    store.close().await;
    assert_eq!(fsck(&dir.0).unwrap().findings.len(), 0);
}

fn checkpoint(dir: &Dir) -> Checkpoint {
    let note = fs::read_to_string(dir.0.join("log/checkpoint")).unwrap();
    Checkpoint::open(&note, signer().verifier()).unwrap()
}

/// What the outsider's verifier finds in the published files.
fn verify(dir: &Dir) -> (u64, Vec<String>) {
    let read = |path: &str| match fs::read(dir.0.join("log").join(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let report = verify_log(&read, signer().verifier(), &VerifyOptions::default()).unwrap();
    let findings = report.findings.iter().map(|finding| format!("{finding:?}")).collect();
    (report.attested.map_or(0, |attested| attested.size), findings)
}

#[tokio::test]
async fn outsiders_can_verify_what_is_published() {
    let (dir, clock) = (Dir::new("publish"), Clock::new());
    let store = open(&dir, &clock);
    for calls in [1, 41, 60, 3] {
        work(&store, &clock, calls).await;
        while store.published_size() < store.log_size() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(verify(&dir), (store.log_size(), Vec::new()));
    }
    work(&store, &clock, 5).await;
    let size = store.log_size();
    store.close().await;
    assert_eq!(checkpoint(&dir).size, size, "the last checkpoint covers all");
    assert_eq!(verify(&dir), (size, Vec::new()));
    let store = open(&dir, &clock);
    work(&store, &clock, 1).await;
    store.close().await;
    assert_eq!(verify(&dir), (size + 6, Vec::new()));
}

#[tokio::test]
async fn files_that_a_power_cut_took_are_written_again() {
    let (dir, clock) = (Dir::new("repair"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 100).await;
    store.close().await;
    fs::write(dir.0.join("log-synced"), "0").unwrap();
    fs::remove_file(dir.0.join("log/tile/0/000")).unwrap();
    fs::write(dir.0.join("log/tile/entries/001"), "").unwrap();
    let store = open(&dir, &clock);
    store.close().await;
    assert_eq!(verify(&dir), (600, Vec::new()));
}

#[tokio::test]
async fn every_proof_of_inclusion_holds() {
    let (dir, clock) = (Dir::new("inclusion"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 90).await;
    for size in [1, 2, 255, 256, 257, 511, 512, 513, 540] {
        for seq in [0, 1, 254, 255, 256, 511, 512, 539] {
            let found = store.inclusion(seq, size).unwrap();
            assert_eq!(found.is_some(), seq < size);
            let Some(proof) = found else { continue };
            countersign_core::audit::merkle::verify_inclusion(
                &proof.leaf_hash,
                seq,
                size,
                &proof.path,
                &proof.root,
            )
            .unwrap();
        }
    }
}

#[tokio::test]
async fn an_older_copy_of_the_database_is_refused() {
    let (dir, clock) = (Dir::new("rollback"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 2).await;
    store.close().await;
    let older = crash(&dir);
    let store = open(&dir, &clock);
    work(&store, &clock, 2).await;
    store.close().await;
    fs::copy(older.0.join("countersign.db"), dir.0.join("countersign.db")).unwrap();
    let refused = Store::open(options(&dir.0), clock.world());
    let expected = matches!(refused, Err(OpenError::RolledBack { published: 24, stored: 12 }));
    assert!(expected, "{refused:?}");
}

#[tokio::test]
async fn altered_records_are_refused() {
    let (dir, clock) = (Dir::new("fork"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 2).await;
    store.close().await;
    edit(
        &dir.0,
        "UPDATE records SET leaf = (SELECT leaf FROM records WHERE seq = 3) WHERE seq = 2",
    );
    let refused = Store::open(options(&dir.0), clock.world());
    assert!(matches!(refused, Err(OpenError::Forked { published: 12 })), "{refused:?}");
}

fn edit(dir: &Path, sql: &str) {
    Connection::open(dir.join("countersign.db")).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn tampering_is_found() {
    for sql in [
        "UPDATE accounts SET posted = zeroblob(16)",
        "DELETE FROM transfers WHERE kind = 2",
        "UPDATE nonces SET uses = uses + 1",
        "DELETE FROM nonces",
        "UPDATE calls SET state = 7 WHERE state = 6",
        "UPDATE calls SET records = zeroblob(8)",
        "UPDATE counters SET total = total - 1",
        "UPDATE grants SET used = used + 1",
        "UPDATE grants SET calls = 0",
        "UPDATE calls SET facts = '{' WHERE n = 1",
        "UPDATE records SET leaf = cast('{}' AS BLOB) WHERE seq = 4",
        "INSERT INTO outcomes VALUES (99, 0, zeroblob(32), NULL, zeroblob(16), 0)",
    ] {
        let (dir, clock) = (Dir::new("tampering"), Clock::new());
        let store = open(&dir, &clock);
        paid(&store, &clock).await;
        assert_sound(&store);
        edit(&dir.0, sql);
        assert!(!store.fsck().unwrap().findings.is_empty(), "{sql}");
        assert_eq!(fsck(&dir.0).unwrap(), store.fsck().unwrap(), "{sql}");
    }
}

#[tokio::test]
async fn a_check_wants_a_database_of_this_version() {
    let (dir, clock) = (Dir::new("versions"), Clock::new());
    assert_eq!(fsck(&dir.0).unwrap_err().code(), "DATA-UNUSABLE", "there is none");
    open(&dir, &clock).close().await;
    assert_eq!(fsck(&dir.0).unwrap().findings, []);
    for (version, code) in [(3, "DATA-OLDER"), (999, "DATA-NEWER")] {
        edit(&dir.0, &format!("PRAGMA user_version = {version}"));
        assert_eq!(fsck(&dir.0).unwrap_err().code(), code);
    }
}

/// One call with everything: grant, budget, payment.
async fn paid(store: &Store, clock: &Clock) {
    let kind = kind(Pay::X402(countersign_core::terms::Flow::Upfront))
        .by("alice")
        .with(|terms| terms.consent = countersign_core::terms::ConsentRule::Required);
    let mut terms = grant_terms("alice", clock.now());
    terms.windows = vec![rolling(60_000, 1_000_000)];
    let grant = store.grant_create(new_grant(terms, clock.now())).await.unwrap();
    let quote = kind.quote("{}", clock.now());
    let payment = pay_x402(&kind, &quote, random(), clock.now());
    let permit = join(&kind, &quote, payment, (Some(&grant), vec![]), clock.now()).unwrap();
    let settling = settling(store.reserve(permit, Vec::new(), &evidence("{}")).await);
    let hold = store.settled(settling, receipt("0xabc")).await.unwrap();
    store.capture(hold, outcome("x")).await.unwrap();
}

#[tokio::test]
async fn one_process_at_a_time() {
    let (dir, clock) = (Dir::new("lock"), Clock::new());
    let store = open(&dir, &clock);
    let path = dir.0.clone();
    let world = clock.world();
    let second = tokio::task::spawn_blocking(move || Store::open(options(&path), world));
    assert!(matches!(second.await.unwrap(), Err(OpenError::Locked)));
    store.close().await;
    drop(open(&dir, &clock));
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, clock) = (Dir::new("modes"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 50).await;
    store.close().await;
    let mut waiting = vec![dir.0.clone()];
    while let Some(path) = waiting.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
        }
    }
}

#[tokio::test]
async fn the_first_error_ends_all() {
    let (dir, clock) = (Dir::new("poison"), Clock::new());
    let store = open(&dir, &clock);
    work(&store, &clock, 1).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.poisoned().await }
    });
    edit(&dir.0, "DROP TABLE records");
    let permit = any_permit(&kind(Pay::Free), "{}", clock.now());
    let refused = store.reserve(permit, Vec::new(), &evidence("{}")).await.unwrap_err();
    // It was in hand when the disk broke.
    assert_eq!((refused.code(), refused.is_charged()), (Code::StoreFault, Charged::Unknown));
    assert!(waiting.await.unwrap().contains("records"));
    let later = any_permit(&kind(Pay::Free), "{}", clock.now());
    let refused = store.reserve(later, Vec::new(), &evidence("{}")).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_charged()), (Code::StoreFault, Charged::No));
    let new = new_grant(grant_terms("alice", clock.now()), clock.now());
    assert_eq!(store.grant_create(new).await.unwrap_err().code(), Code::StoreFault);
    assert_eq!(store.record(0).unwrap_err().code(), Code::StoreFault);
}
