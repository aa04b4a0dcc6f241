//! The pure rules of Countersign.
//!
//! Owns what a call, a quote, the four proofs, a permit, a grant, a budget and an audit record
//! *are*, and when they hold. Time and identifiers are arguments.
//!
//! INVARIANT: nothing here performs I/O, reads a clock or draws randomness.
#![deny(missing_docs)]

pub mod approval;
pub mod audit;
pub mod call;
pub mod difficulty;
pub mod digest;
pub mod grant;
pub mod ids;
pub mod ledger;
pub mod money;
pub mod person;
pub mod policy;
pub mod proof;
pub mod quote;
pub mod refusal;
pub mod terms;
pub mod time;
pub mod wire;
pub mod world;
