//! Lightning nodes: invoices made, followed, settled or cancelled, and how much can still be
//! received.
//!
//! Owns the one interface to whatever node there is. Plain invoices take the payer's money as it
//! comes, and their preimages stay at the node; a hold invoice's preimage is ours, and the node
//! keeps the payer's money in suspense until it is told to take it or to give it back.
//!
//! INVARIANT: an invoice leaves this module only after it was parsed and its amount, payment hash
//! and network compared with what was asked: no node can make us offer another one.
//! INVARIANT: an answer that leaves open whether money moved is an error, never a state.

mod alarms;
mod bolt11;
mod cln;
mod daemon;
mod grpc;
mod lnd;
mod loopd;
mod nodes;
mod phoenixd;
mod pool;
mod takings;

pub use self::{
    alarms::{Alarms, Alert, Change, Thresholds},
    bolt11::Invoice,
    cln::Cln,
    daemon::{Daemon, Order, Paid},
    lnd::Lnd,
    loopd::{Loopd, SwapCost},
    nodes::{Nodes, Sight, Stock, Want},
    phoenixd::Phoenixd,
    pool::Ready,
    takings::{Figures, Takings},
};

use crate::fetch::{FetchError, Reply};
use lightning_invoice::Currency;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// A Lightning node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in the configuration: the payee of its offers.
    pub name: Arc<str>,
    /// The network whose money it takes.
    pub network: Currency,
    /// How it is spoken to.
    pub backend: Backend,
}

/// What speaks for a node.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The sandbox: invoices that no real wallet pays.
    Sandbox(Daemon),
    /// `countersign-lightning`, an embedded LDK node as a daemon.
    Ldk(Daemon),
    /// LND, over its REST API.
    Lnd(Lnd),
    /// phoenixd.
    Phoenixd(Phoenixd),
    /// Core Lightning, over clnrest.
    Cln(Cln),
}

/// What a node can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Invoices whose money can be held, then taken or given back.
    pub has_hold: bool,
    /// Amounts below a satoshi.
    pub has_msat: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// How much.
    pub amount_msat: u64,
    /// What the payer's wallet shows.
    pub memo: &'a str,
    /// How long the invoice can be paid.
    pub expiry_s: u64,
    /// Of a preimage of ours: the money is to be held.
    pub hold: Option<[u8; 32]>,
}

/// What became of an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvoiceState {
    /// Neither paid nor lapsed.
    Open,
    /// The money is held.
    Accepted {
        /// How much.
        amount_msat: u64,
        /// Blocks until it goes back by itself, where the node says so.
        blocks_left: Option<u32>,
    },
    /// Paid.
    Settled,
    /// Given back, or withdrawn.
    Cancelled,
    /// Lapsed unpaid. A payment that was on its way can still come.
    Expired,
    /// The node has no such invoice.
    Missing,
}

/// What happened at a node since its cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Where to ask on.
    pub cursor: String,
    /// Payment hashes whose money is held.
    pub accepted: Vec<[u8; 32]>,
    /// Payment hashes whose money was taken.
    pub settled: Vec<[u8; 32]>,
}

/// What a node can receive and send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    /// The most that it can receive.
    pub inbound_msat: u64,
    /// The most that it can send.
    pub outbound_msat: u64,
}

/// How room to receive is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// Money in channels is swapped for money on the chain, by the loop daemon.
    Loop,
    /// An inbound channel is bought of a provider (LSPS1).
    Lsps1,
    /// A provider opens a channel with a payment that comes (LSPS2).
    Lsps2,
}

impl Means {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Lsps1 => "lsps1",
            Self::Lsps2 => "lsps2",
        }
    }

    /// What a word means.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Loop, Self::Lsps1, Self::Lsps2].into_iter().find(|means| means.text() == text)
    }
}

/// How an attempt to settle or to cancel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// The money is ours.
    Settled,
    /// It went back, or never came.
    Gone,
}

/// Money that a node gives to whoever claims it.
#[derive(Clone, Copy, Debug)]
pub struct Give<'a> {
    /// Whatever is asked with one key again is the same gift.
    pub key: &'a str,
    /// How much.
    pub amount_msat: u64,
    /// How long it can be claimed.
    pub expiry_s: u64,
    /// The most that sending it may cost.
    pub max_fee_msat: u64,
}

/// How such a gift stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// What a wallet claims it with (BOLT12, `lnr1…`).
    pub refund: String,
    /// The payment hash, once the money has gone.
    pub taken: Option<String>,
    /// It can be claimed still.
    pub is_open: bool,
}

/// Why a node gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeError {
    /// It cannot be reached, or is not ready.
    Unreachable,
    /// It refuses.
    Refused,
    /// It answered something else than what was asked.
    Nonsense,
    /// It cannot do that.
    Unsupported,
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the Lightning node cannot be reached",
            Self::Refused => "the Lightning node refuses",
            Self::Nonsense => "the Lightning node answered with nonsense",
            Self::Unsupported => "the Lightning node cannot do that",
        })
    }
}

impl std::error::Error for NodeError {}

impl From<FetchError> for NodeError {
    fn from(_: FetchError) -> Self {
        Self::Unreachable
    }
}

impl Node {
    /// Whether it moves no real money.
    #[must_use]
    pub const fn is_sandbox(&self) -> bool {
        matches!(self.backend, Backend::Sandbox(_))
    }

    /// What it can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        match self.backend {
            Backend::Sandbox(_) | Backend::Ldk(_) | Backend::Lnd(_) => {
                Capabilities { has_hold: true, has_msat: true }
            }
            Backend::Cln(_) => Capabilities { has_hold: false, has_msat: true },
            Backend::Phoenixd(_) => Capabilities { has_hold: false, has_msat: false },
        }
    }

    /// What it asks for a price: rounded up to whole satoshis where it knows no smaller unit.
    #[must_use]
    pub const fn amount_to_ask_msat(&self, price_msat: u64) -> u64 {
        if self.capabilities().has_msat {
            price_msat
        } else {
            price_msat.div_ceil(1000).saturating_mul(1000)
        }
    }

    /// How long an invoice of the node can be paid that should be for so long: some make none
    /// that lapses sooner.
    fn expiry_s(&self, wanted_s: u64) -> u64 {
        let shortest_s = match self.backend {
            Backend::Ldk(_) => 60,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => 1,
        };
        wanted_s.max(shortest_s)
    }

    /// Makes an invoice.
    ///
    /// # Errors
    /// No usable answer; nothing is owed to anybody then.
    pub async fn create(&self, ask: &Ask<'_>) -> Result<Invoice, NodeError> {
        if ask.hold.is_some() && !self.capabilities().has_hold {
            return Err(NodeError::Unsupported);
        }
        let bolt11 = match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.create(ask).await,
            Backend::Lnd(node) => node.create(ask).await,
            Backend::Phoenixd(node) => node.create(ask).await,
            Backend::Cln(node) => node.create(ask).await,
        }?;
        let invoice = Invoice::read(&bolt11, &self.network)?;
        let is_asked = invoice.amount_msat == ask.amount_msat
            && ask.hold.is_none_or(|hash| hash == invoice.payment_hash);
        if is_asked { Ok(invoice) } else { Err(NodeError::Nonsense) }
    }

    /// Looks an invoice up.
    ///
    /// # Errors
    /// No usable answer: the state is unknown.
    pub async fn lookup(&self, payment_hash: &[u8; 32]) -> Result<InvoiceState, NodeError> {
        match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.lookup(payment_hash).await,
            Backend::Lnd(node) => node.lookup(payment_hash).await,
            Backend::Phoenixd(node) => node.lookup(payment_hash).await,
            Backend::Cln(node) => node.lookup(payment_hash).await,
        }
    }

    /// Takes the money that is held. May be repeated.
    ///
    /// # Errors
    /// No usable answer: the money may have been taken, or not.
    pub async fn settle(&self, preimage: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.settle(preimage).await,
            Backend::Lnd(node) => node.settle(preimage).await,
            Backend::Phoenixd(_) | Backend::Cln(_) => Err(NodeError::Unsupported),
        }
    }

    /// Gives back what is held, and lets nobody pay any more. May be repeated.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn cancel(&self, payment_hash: &[u8; 32]) -> Result<HoldEnd, NodeError> {
        match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.cancel(payment_hash).await,
            Backend::Lnd(node) => node.cancel(payment_hash).await,
            Backend::Phoenixd(_) | Backend::Cln(_) => Err(NodeError::Unsupported),
        }
    }

    /// Offers money to whoever claims it (a BOLT12 refund). May be repeated: one key is one gift.
    ///
    /// # Errors
    /// [`NodeError::Unsupported`]; no usable answer: it may be offered, or not.
    pub async fn give(&self, give: &Give<'_>) -> Result<Given, NodeError> {
        match &self.backend {
            Backend::Ldk(node) => node.give(give).await,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => {
                Err(NodeError::Unsupported)
            }
        }
    }

    /// How a gift stands; `None` when the node knows none of this key.
    ///
    /// # Errors
    /// [`NodeError::Unsupported`]; no usable answer.
    pub async fn given(&self, key: &str) -> Result<Option<Given>, NodeError> {
        match &self.backend {
            Backend::Ldk(node) => node.given(key).await,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => {
                Err(NodeError::Unsupported)
            }
        }
    }

    /// Whether it can send money back to who has no invoice of its own.
    #[must_use]
    pub const fn can_give(&self) -> bool {
        matches!(self.backend, Backend::Ldk(_))
    }

    /// What happened after `cursor`; waits a while for something to happen. An empty cursor is
    /// the beginning, or now where the node has no memory of its own.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn news(&self, cursor: &str) -> Result<News, NodeError> {
        match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.news(cursor).await,
            Backend::Lnd(node) => node.news(cursor).await,
            Backend::Phoenixd(node) => node.news(cursor).await,
            Backend::Cln(node) => node.news(cursor).await,
        }
    }

    /// Asks its provider for an inbound channel (LSPS1).
    ///
    /// # Errors
    /// [`NodeError::Unsupported`] but for the LDK daemon; no usable answer.
    pub async fn order(&self, inbound_sat: u64) -> Result<Order, NodeError> {
        match &self.backend {
            Backend::Ldk(node) => node.order(inbound_sat, &self.network).await,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => {
                Err(NodeError::Unsupported)
            }
        }
    }

    /// Whether its provider opens a channel with a payment of so much (LSPS2) for at most so much.
    ///
    /// # Errors
    /// [`NodeError::Refused`]: not for that; [`NodeError::Unsupported`] but for the LDK daemon.
    pub async fn just_in_time(&self, amount_msat: u64, max_fee_msat: u64) -> Result<(), NodeError> {
        match &self.backend {
            Backend::Ldk(node) => node.just_in_time(amount_msat, max_fee_msat).await,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => {
                Err(NodeError::Unsupported)
            }
        }
    }

    /// Pays an invoice of somebody else's, once however often it is asked.
    ///
    /// # Errors
    /// [`NodeError::Refused`], [`NodeError::Unsupported`]: it was not begun. Any other: it may
    /// have been.
    pub async fn pay(&self, bolt11: &str, max_fee_msat: u64) -> Result<Paid, NodeError> {
        match &self.backend {
            Backend::Ldk(node) => node.pay(bolt11, max_fee_msat).await,
            Backend::Sandbox(_) | Backend::Lnd(_) | Backend::Phoenixd(_) | Backend::Cln(_) => {
                Err(NodeError::Unsupported)
            }
        }
    }

    /// What it can receive and send. Its answer is also its sign of life.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn balances(&self) -> Result<Balances, NodeError> {
        match &self.backend {
            Backend::Sandbox(node) | Backend::Ldk(node) => node.balances().await,
            Backend::Lnd(node) => node.balances().await,
            Backend::Phoenixd(node) => node.balances().await,
            Backend::Cln(node) => node.balances().await,
        }
    }
}

/// The JSON of a good answer.
fn read<T: for<'de> Deserialize<'de>>(reply: &Reply) -> Result<T, NodeError> {
    match reply.status {
        200 | 201 => serde_json::from_slice(&reply.body).map_err(|_| NodeError::Nonsense),
        400..=499 => Err(NodeError::Refused),
        _ => Err(NodeError::Unreachable),
    }
}

/// A payment hash in hex.
fn hash(text: &str) -> Result<[u8; 32], NodeError> {
    let mut hash = [0u8; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|_| NodeError::Nonsense)?;
    Ok(hash)
}
