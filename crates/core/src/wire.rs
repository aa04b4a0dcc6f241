//! Codecs for what crosses the network: bytes in, checked values out, and back.
//!
//! Owns lexical and structural rules only. Whether a payment covers a quote, whether a caveat
//! holds now and whether an identity is known are decided elsewhere.
//!
//! INVARIANT: every parser here is total. It ends in a value or in a closed error, takes time
//! about linear in its input, and bounds its recursion.

mod base64;
pub mod caveat;
pub mod eip712;
pub mod form;
pub mod headers;
pub mod json;
pub mod jsonrpc;
pub mod l402;
pub mod macaroon;
pub mod mcp;
mod number;
mod object;
pub mod pow;
pub mod rar;
pub mod x402;
