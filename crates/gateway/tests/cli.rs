//! The binary as people run it: what it prints, where, and how it ends.
//!
//! The first half needs nothing; the second starts the sandbox and a gateway on free ports.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests fail by panicking, as tests do"
)]

#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/rmcp.rs"]
mod rmcp;
#[path = "cli/run.rs"]
mod run;
#[path = "cli/running.rs"]
mod running;
