#!/usr/bin/env bash
# Installs what the tests need and runs them all. A missing part fails; nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
# The Lightning daemon is a workspace of its own.
lightning=(--locked --manifest-path crates/lightning/Cargo.toml --target-dir "$target")
step() { printf '\n== %s\n' "$*"; }

step "formatting"
cargo fmt --all --check
cargo fmt --manifest-path crates/lightning/Cargo.toml --check

step "parts of the end-to-end tests (Debian, npm and pip packages)"
./scripts/install-e2e.sh

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy "${lightning[@]}" --all-targets -- -D warnings

step "unit, property, compile-fail, golden, store and integration tests"
cargo test --workspace --locked --no-fail-fast
cargo test "${lightning[@]}"

step "end to end: real clients, real chains, a real Lightning network, a real issuer"
# The client's examples are there: cargo builds them with its tests.
cargo build --locked -p countersign
# Both at once: the chain's features and the daemon's are then resolved, and built, only once.
cargo build "${lightning[@]}" --bins --examples
# Most of their time is waiting: four files at once keep two cores busy.
COUNTERSIGN_BIN="$target/debug/countersign" \
  COUNTERSIGN_LIGHTNING_BIN="$target/debug/countersign-lightning" \
  node --test --test-concurrency=4 e2e/*.test.mjs

step "the demonstration"
"$target/debug/countersign" demo --once
