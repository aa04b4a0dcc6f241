//! The rails against sandbox parts and a chain of their own, over HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests fail by panicking, as tests do"
)]

#[path = "rails/chain.rs"]
mod chain;
#[path = "rails/lightning.rs"]
mod lightning;
#[path = "rails/x402.rs"]
mod x402;

use countersign_gateway::fetch::{Fetch, FetchRules};
use std::net::SocketAddr;

fn fetch(timeout_ms: u64) -> Fetch {
    Fetch::new(FetchRules { allow_private: true, max_bytes: 1 << 20, timeout_ms })
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}
