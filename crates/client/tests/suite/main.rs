//! The client against servers that ask for money, answer late, lie, and vanish.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets what it did not expect fails"
)]

mod ahead;
mod bridge;
mod fixture;
mod l402;
mod layer;
mod opening;
mod server;
mod wallets;
mod x402;

use countersign_client::{Client, Outcome, ToolCall};

/// A call of the tool `paid`.
pub(crate) fn call() -> ToolCall {
    ToolCall::new("paid", r#"{"b":123456789012345678901,"a":"x"}"#).unwrap()
}

/// Calls it.
pub(crate) async fn run(client: &Client) -> Outcome {
    client.call_tool(&call()).await.unwrap()
}
