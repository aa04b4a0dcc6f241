//! The next credential for several calls of a tool, bought while no call waits for it.
//!
//! INVARIANT: nothing is begun for a client that has gone or a program that stops; what has begun
//! to pay is finished and kept, like a call that pays.

use super::{Bridge, answer};
use crate::{ahead::Prepared, client::ToolCall, error::ClientError, passage::Passage};
use countersign_core::wire::mcp::Meta;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A purchase, counted among the requests of the client whose call it follows.
pub(super) struct Ahead {
    id: String,
    call: ToolCall,
    passage: Arc<Passage>,
    /// Nobody is answered, and so nobody goes.
    _unread: mpsc::Receiver<String>,
}

impl Ahead {
    /// Counts it in while the call before it still is, so that no end comes between the two;
    /// `None` where nobody hears that call any more.
    pub(super) fn begin(bridge: &Bridge, call: ToolCall, before: &Passage) -> Option<Self> {
        let (out, unread) = mpsc::channel(1);
        let passage = Arc::new(Passage::new(&before.of, &out, &Meta::default()));
        let id = bridge.client.endpoint.own_id();
        if !before.of.begin(&id, &passage) {
            return None;
        }
        let call = ToolCall { passage: Some(Arc::clone(&passage)), ..call };
        let ahead = Self { id, call, passage, _unread: unread };
        if before.is_heard() {
            return Some(ahead);
        }
        ahead.end();
        None
    }

    /// Buys it, and says what came of it.
    pub(super) async fn buy(self, bridge: &Bridge) {
        let bought = self.passage.unless_withdrawn(self.bought(bridge)).await;
        self.end();
        let tool = &self.call.name;
        match bought {
            None => {}
            Some(Ok(Prepared::Ready(paid))) if paid.earlier => {}
            Some(Ok(Prepared::Ready(paid))) => {
                bridge.say(&format!("bought ahead for {tool}: {}", answer::paid_text(&paid)));
            }
            Some(Ok(Prepared::Nothing)) => {
                bridge.say(&format!("nothing is to be bought ahead for {tool}"));
            }
            Some(Ok(Prepared::Not(outcome))) => {
                bridge.say(&format!("not bought ahead for {tool}: {}", answer::one_line(&outcome)));
            }
            Some(Err(error)) => bridge.say(&format!("not bought ahead for {tool}: {error}")),
        }
    }

    async fn bought(&self, bridge: &Bridge) -> Result<Prepared, ClientError> {
        let scope = bridge.client.scope(&self.call)?;
        bridge.client.buy_ahead(&self.call, &scope).await
    }

    fn end(&self) {
        self.passage.of.end(&self.id);
    }
}
