//! The audit log: what a record is, how records become a tree, and how an outsider checks them.
//!
//! A record ([`record`]) is one leaf of an RFC 6962 Merkle tree ([`merkle`]), published as C2SP
//! tlog-tiles ([`tiles`]) under signed checkpoints ([`checkpoint`]). A caller receives a signed
//! [`receipt`]; anyone with the log's public key can run [`verify`] over the files or check one
//! call's [`proof`].
//!
//! INVARIANT: the log holds digests, commitments and identifiers. No argument value, no result
//! and no name of a person enters a record here.

pub mod calls;
pub mod checkpoint;
pub mod finding;
pub mod merkle;
pub mod proof;
pub mod receipt;
pub mod record;
#[cfg(test)]
mod testlog;
pub mod tiles;
pub mod verify;
