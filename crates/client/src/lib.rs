//! An MCP client that pays: ask, choose an offer, pay once, present once.
//!
//! Used by the command line, by the gateway when it is itself the payer, and as a library. Speaks
//! streamable HTTP in both eras; pays x402 `exact` transfers from a key and Lightning invoices
//! through a wallet; does work where that is taken instead; keeps what is paid for and not used up.
//!
//! INVARIANT: no call is paid twice. What is sent again after a lost or unknown answer is the same
//! payment; a second challenge ends the call.
//!
//! [`Client`] calls by itself. [`Bridge`] puts all of that before clients that know nothing of it,
//! [`PayLayer`] into a stack of `tower`, `PayClient` (feature `reqwest`) around a `reqwest` client,
//! `PayTransport` (feature `rmcp`) under an `rmcp` client.
//!
//! Does not: follow redirects, run stdio servers, verify receipts.
#![deny(missing_docs)]

mod ahead;
mod bridge;
mod buyer;
mod cache;
mod challenge;
mod client;
mod courier;
mod error;
mod evm;
mod http;
mod layer;
mod lightning;
mod means;
mod options;
mod outcome;
mod passage;
mod pay;
#[cfg(feature = "reqwest")]
mod pay_client;
mod pin;
mod problem;
mod purchase;
mod rpc;
mod secret;
mod sign_in;
mod spend;
mod sse;
#[cfg(feature = "rmcp")]
mod transport;
mod verdict;
mod wallet;
mod work;
pub mod world;

#[cfg(feature = "reqwest")]
pub use crate::pay_client::PayClient;
#[cfg(feature = "rmcp")]
pub use crate::transport::PayTransport;
pub use crate::{
    ahead::{Prepared, Quoted, QuotedOffer},
    bridge::{Bridge, BridgeOptions},
    buyer::{Asked, Buyer, Heard, NotAsked, Order, Reply, Standing, Unpaid, Voucher, Word},
    cache::{CredentialCache, Paid},
    client::{Client, Tool, ToolCall},
    error::{ClientError, TransportError},
    evm::EvmWallet,
    layer::{Pay, PayBody, PayError, PayLayer},
    lightning::{LightningWallet, OfferFault},
    means::{Caps, DeclineReason, KnownAsset, Means, OfferSummary, show_amount},
    options::{EraChoice, Options},
    outcome::{Completed, Declined, Failed, InDoubt, Outcome, Refused, exit, family_exit_code},
    pin::trusting,
    problem::{Problem, REFUSAL_META},
    rpc::Observer,
    secret::{Secret, SecretError},
    sign_in::{SignIn, SignInError},
    spend::{Ceiling, SpendLimits, SpendLog},
    wallet::{Wallet, WalletError, seal},
    work::{Solver, WorkObserver, WorkProgress},
};
pub use countersign_core;
