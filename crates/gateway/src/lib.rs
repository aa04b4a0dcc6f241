//! The gateway: all I/O of Countersign.

pub mod admin;
pub mod allowance;
pub mod answer;
pub mod body;
pub mod buy;
pub mod call;
pub mod cli;
pub mod conclude;
pub mod config;
mod console;
pub mod demo;
pub mod fetch;
pub mod gate;
pub mod hold;
pub mod keys;
pub mod liquidity;
pub mod mcp;
mod metrics;
pub mod notify;
pub mod oblige;
mod payback;
pub mod places;
pub mod problem;
pub mod prove;
mod push;
pub mod rails;
pub mod recover;
mod refund;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod sse;
pub mod start;
pub mod upstream;
mod work;

pub use countersign_client::world;
