//! The nodes of a deployment, the preferred one first: which of them makes the next invoice.
//!
//! INVARIANT: no invoice is asked for that the node could not receive: with too little inbound
//! liquidity the rail is not offered.

use super::{Ask, Balances, Invoice, Node, NodeError};
use countersign_core::{time::UnixMs, world::World};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was last seen of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When.
    pub at: UnixMs,
    /// What it had then, or why it gave no answer.
    pub balances: Result<Balances, NodeError>,
}

/// The nodes.
#[derive(Debug)]
pub struct Nodes {
    nodes: Vec<Node>,
    seen: Mutex<Vec<Option<Sight>>>,
    /// So many times an invoice's amount must be receivable.
    inbound_factor: u64,
    world: World,
}

impl Nodes {
    /// The nodes, the preferred one first.
    #[must_use]
    pub fn new(nodes: Vec<Node>, inbound_factor: u64, world: World) -> Self {
        let seen = Mutex::new(vec![None; nodes.len()]);
        Self { nodes, seen, inbound_factor, world }
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

    /// Who is paid: the operator, under the name of the preferred node.
    #[must_use]
    pub fn payee(&self) -> Option<&Arc<str>> {
        self.nodes.first().map(|node| &node.name)
    }

    /// What was last seen of each.
    #[must_use]
    pub fn sights(&self) -> Vec<(Arc<str>, Option<Sight>)> {
        let names = self.nodes.iter().map(|node| Arc::clone(&node.name));
        names.zip(self.seen().iter().copied()).collect()
    }

    /// Looks at every node.
    pub async fn look(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let balances = node.balances().await;
            self.saw(index, balances);
        }
    }

    /// An invoice from the first node that can make one and receive its money. `ask` says what
    /// to ask of a node.
    ///
    /// # Errors
    /// That of the last node tried; [`NodeError::Refused`] when none has the liquidity.
    pub async fn create<'a>(
        &self,
        ask: impl Fn(&Node) -> Ask<'a>,
    ) -> Result<(&Node, Invoice), NodeError> {
        let mut last = NodeError::Refused;
        for (index, node) in self.nodes.iter().enumerate() {
            let ask = ask(node);
            if !self.can_receive(index, ask.amount_msat) {
                continue;
            }
            match node.create(&ask).await {
                Ok(invoice) => return Ok((node, invoice)),
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

    /// Whether a node was there when it was last looked at, and can receive so much. One that was
    /// never looked at is believed.
    fn can_receive(&self, index: usize, amount_msat: u64) -> bool {
        let Some(Some(sight)) = self.seen().get(index).copied() else { return true };
        let wanted = amount_msat.saturating_mul(self.inbound_factor);
        sight.balances.is_ok_and(|balances| balances.inbound_msat >= wanted)
    }

    fn saw(&self, index: usize, balances: Result<Balances, NodeError>) {
        let at = self.world.now();
        if let Some(seen) = self.seen().get_mut(index) {
            *seen = Some(Sight { at, balances });
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Option<Sight>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
