#!/usr/bin/env bash
# Installs what the tests need and runs them all. A missing part fails; nothing is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "parts of the end-to-end tests (pinned npm and pip packages)"
./scripts/install-e2e.sh

step "unit, property, compile-fail, golden, store and integration tests"
cargo test --workspace --locked

step "end to end: real clients, a real chain, a real issuer"
cargo build --locked -p countersign
COUNTERSIGN_BIN="${CARGO_TARGET_DIR:-$PWD/target}/debug/countersign" \
  node --test --test-concurrency=2 e2e/*.test.mjs

step "the demonstration"
"${CARGO_TARGET_DIR:-$PWD/target}/debug/countersign" demo --once
