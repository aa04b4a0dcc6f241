//! Tool calls that a program sends by itself: paid for, approved and answered as those of any
//! client behind the bridge.

use super::{
    Bridge,
    answer::{Answered, Words},
};
use crate::{
    courier::{Courier, Told},
    passage::Passage,
};
use countersign_core::wire::{
    jsonrpc::{Message, Request},
    mcp::Meta,
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What such a program is answered.
#[derive(Debug)]
pub(crate) struct Carried {
    /// The message, under the program's own id.
    pub(crate) answered: Answered,
    /// What the server answered last. Its body is the program's as it is where `is_raw`.
    pub(crate) told: Option<Told>,
    /// The server's answer is no message: it is HTTP's own, and passes as it came.
    pub(crate) is_raw: bool,
}

/// The tool call that a body is.
pub(crate) fn tool_call(body: &[u8]) -> Option<Request<'_>> {
    match Message::parse_relayed(body, body.len()) {
        Ok(Message::Request(request)) if request.method == "tools/call" => Some(request),
        Ok(_) | Err(_) => None,
    }
}

impl Bridge {
    /// Makes the call that `body` is; what the server says before its answer goes to `out`. `None`
    /// when nobody waits for it any more.
    pub(crate) async fn carry(
        &self,
        courier: Courier,
        body: &[u8],
        out: &mpsc::Sender<String>,
    ) -> Option<Carried> {
        let request = tool_call(body)?;
        let meta = match Meta::of_params(request.params) {
            Ok(meta) => meta,
            Err(error) => {
                let answered = Answered::refused(request.id, &error.to_string());
                return Some(Carried { answered, told: None, is_raw: false });
            }
        };
        let passage = Arc::new(Passage::carried(courier, out, &meta));
        let (answered, _next) = passage.unless_withdrawn(self.call(&passage, &request)).await?;
        let is_raw = answered.words == Words::Servers && passage.last().is_none();
        let told = passage.courier.as_ref().and_then(Courier::told);
        Some(Carried { answered, told, is_raw })
    }
}
