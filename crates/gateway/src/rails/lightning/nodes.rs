//! The nodes of a deployment, the preferred one first: which of them makes the next invoice.
//!
//! INVARIANT: no invoice is asked for that the node could not receive: with too little inbound
//! liquidity the rail is not offered.
//! INVARIANT: an invoice that was made ahead is handed out only while its node answers.

use super::{
    Ask, Backend, Balances, Node, NodeError,
    pool::{Kind, Pool, Ready},
};
use countersign_core::{digest::Digest, proof::hold_preimage, time::UnixMs, world::World};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

/// A node that was not looked at for so long hands out nothing that was made ahead, in
/// milliseconds.
const SEEN_MS: u64 = 15_000;
/// A node that could receive nothing when it was last looked at is looked at for a caller, at most
/// once in so long, in milliseconds: one that is back takes money at once.
const AGAIN_MS: u64 = 250;
/// Between two looks at what is ready.
const RESTOCK: Duration = Duration::from_secs(5);
/// Invoices that are made ahead at once.
const MAKING_MAX: usize = 16;

/// What is to be paid.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// The price.
    pub price_msat: u64,
    /// What the payer's wallet shows.
    pub memo: &'a str,
    /// How long it can be paid.
    pub expiry_s: u64,
    /// Its money may be held, where the node can do it.
    pub may_hold: bool,
}

/// How many invoices are made ahead.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    /// Of each kind that is asked for.
    pub size: usize,
    /// How long they can be paid.
    pub expiry_s: u64,
}

/// What was last seen of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When.
    pub at: UnixMs,
    /// What it had then, or why it gave no answer.
    pub balances: Result<Balances, NodeError>,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sight: Option<Sight>,
    /// When a caller last had it looked at.
    asked: Option<UnixMs>,
}

/// The nodes.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    seen: Mutex<Vec<Seen>>,
    /// So many times an invoice's amount must be receivable.
    inbound_factor: u64,
    pool: Pool,
    ahead_expiry_s: u64,
    world: World,
}

impl Nodes {
    /// The nodes, the preferred one first.
    #[must_use]
    pub fn new(nodes: Vec<Node>, inbound_factor: u64, stock: Stock, world: World) -> Self {
        let seen = Mutex::new(vec![Seen::default(); nodes.len()]);
        let (pool, ahead_expiry_s) = (Pool::new(stock.size), stock.expiry_s);
        Self { nodes, seen, inbound_factor, pool, ahead_expiry_s, world }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// A node by its name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| &*node.name == name)
    }

    /// The node that can buy channels, if there is one.
    #[must_use]
    pub fn liquid(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| matches!(node.backend, Backend::Ldk(_)))
    }

    /// Who is paid: the operator, under the name of the preferred node.
    #[must_use]
    pub fn payee(&self) -> Option<&Arc<str>> {
        self.nodes.first().map(|node| &node.name)
    }

    /// What was last seen of each.
    #[must_use]
    pub fn sights(&self) -> Vec<(Arc<str>, Option<Sight>)> {
        let names = self.nodes.iter().map(|node| Arc::clone(&node.name));
        names.zip(self.seen().iter().map(|seen| seen.sight)).collect()
    }

    /// Looks at every node.
    pub async fn look(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let balances = node.balances().await;
            self.saw(index, balances);
        }
    }

    /// An invoice of the first node that has one or can make one, and can receive its money.
    ///
    /// # Errors
    /// That of the last node tried; [`NodeError::Refused`] when none has the liquidity.
    pub async fn invoice(&self, want: &Want<'_>) -> Result<(&Node, Ready), NodeError> {
        let mut last = NodeError::Refused;
        for (index, node) in self.nodes.iter().enumerate() {
            let kind = Kind {
                node: index,
                amount_msat: node.amount_to_ask_msat(want.price_msat),
                memo: want.memo.into(),
                is_hold: want.may_hold && node.capabilities().has_hold,
            };
            if !self.can_receive(index, kind.amount_msat)
                && !self.can_again(index, kind.amount_msat).await
            {
                continue;
            }
            let expiry_s = node.expiry_s(want.expiry_s);
            let is_there = self.answers(index);
            if is_there && let Some(ready) = self.pool.take(&kind, expiry_s, self.world.now()) {
                return Ok((node, ready));
            }
            match make(node, &kind, expiry_s, &self.world).await {
                Ok(ready) => return Ok((node, ready)),
                Err(error) => {
                    if error == NodeError::Unreachable {
                        self.saw(index, Err(error));
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Keeps invoices ready of every kind that is asked for, for ever.
    pub async fn keep_stocked(&self) {
        loop {
            let _time_is_over = timeout(RESTOCK, self.pool.taken.notified()).await;
            self.restock().await;
        }
    }

    /// Makes what is missing.
    async fn restock(&self) {
        let expiry_s = |kind: &Kind| {
            self.nodes.get(kind.node).map_or(0, |node| node.expiry_s(self.ahead_expiry_s))
        };
        let missing = self.pool.missing(expiry_s, self.world.now());
        let able = missing.into_iter().filter(|(kind, _)| {
            self.answers(kind.node) && self.can_receive(kind.node, kind.amount_msat)
        });
        let mut orders = able.flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
        let mut making = JoinSet::new();
        loop {
            while making.len() < MAKING_MAX
                && let Some(kind) = orders.next()
            {
                let Some(node) = self.nodes.get(kind.node).cloned() else { continue };
                let (world, expiry_s) = (self.world.clone(), expiry_s(&kind));
                making.spawn(async move {
                    let made = make(&node, &kind, expiry_s, &world).await;
                    (kind, made)
                });
            }
            match making.join_next().await {
                Some(Ok((kind, Ok(ready)))) => self.pool.put(&kind, ready),
                Some(Ok((kind, Err(error)))) => {
                    if error == NodeError::Unreachable {
                        self.saw(kind.node, Err(error));
                    }
                }
                Some(Err(_broke)) => {}
                None => return,
            }
        }
    }

    /// A node was lost sight of: what it made ahead is given up.
    pub fn lost(&self, name: &str) {
        if let Some(index) = self.nodes.iter().position(|node| &*node.name == name) {
            self.pool.forget(index);
        }
    }

    /// How many invoices a node made ahead.
    #[must_use]
    pub fn ready(&self, name: &str) -> usize {
        let index = self.nodes.iter().position(|node| &*node.name == name);
        index.map_or(0, |index| self.pool.ready(index))
    }

    /// Whether a node answered lately.
    fn answers(&self, index: usize) -> bool {
        let Some(sight) = self.sight(index) else { return false };
        sight.balances.is_ok() && self.world.now().since_ms(sight.at) < SEEN_MS
    }

    /// Whether a node was there when it was last looked at, and can receive so much. One that was
    /// never looked at is believed.
    fn can_receive(&self, index: usize, amount_msat: u64) -> bool {
        let Some(sight) = self.sight(index) else { return true };
        let wanted = amount_msat.saturating_mul(self.inbound_factor);
        sight.balances.is_ok_and(|balances| balances.inbound_msat >= wanted)
    }

    /// Whether a node that could not receive so much can do it now. Of callers at once, one waits
    /// for its answer.
    async fn can_again(&self, index: usize, amount_msat: u64) -> bool {
        let Some(node) = self.nodes.get(index).filter(|_| self.may_ask(index)) else {
            return false;
        };
        let balances = node.balances().await;
        self.saw(index, balances);
        self.can_receive(index, amount_msat)
    }

    /// Whether a node was not asked on behalf of a caller a moment ago. It is, then.
    fn may_ask(&self, index: usize) -> bool {
        let now = self.world.now();
        let mut all = self.seen();
        let Some(seen) = all.get_mut(index) else { return false };
        let may = seen.asked.is_none_or(|asked| now.since_ms(asked) >= AGAIN_MS);
        if may {
            seen.asked = Some(now);
        }
        may
    }

    fn sight(&self, index: usize) -> Option<Sight> {
        self.seen().get(index).and_then(|seen| seen.sight)
    }

    fn saw(&self, index: usize, balances: Result<Balances, NodeError>) {
        let at = self.world.now();
        if balances.is_err() {
            self.pool.forget(index);
        }
        if let Some(seen) = self.seen().get_mut(index) {
            seen.sight = Some(Sight { at, balances });
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an invoice of a kind.
async fn make(node: &Node, kind: &Kind, expiry_s: u64, world: &World) -> Result<Ready, NodeError> {
    let root_key = world.random();
    let hash = || *Digest::of(&hold_preimage(&root_key)).as_bytes();
    let ask = Ask {
        amount_msat: kind.amount_msat,
        memo: &kind.memo,
        expiry_s,
        hold: kind.is_hold.then(hash),
    };
    let invoice = node.create(&ask).await?;
    Ok(Ready { invoice, root_key, is_hold: kind.is_hold })
}
