//! The rails: how a payer's money is checked, taken and looked for.
//!
//! Owns the talk with facilitators, chains and invoice sources. Whether a payment covers a quote is
//! decided in `countersign_core::proof`; what has been taken for which call, by the ledger.
//!
//! INVARIANT: an answer that leaves open whether money moved is reported as unknown, never as a
//! failure; nothing here retries on its own.

pub mod evm;
pub mod lightning;
pub mod pow;
pub mod x402;
