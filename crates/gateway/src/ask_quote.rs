//! What a call would still have to pay, asked without making it: `/{server}/mcp/quote`.
//!
//! The question takes the call's own path, to where that would be reserved: identity, consent,
//! policy and budgets say yes before money is asked for, and the challenge is the call's own, in
//! its HTTP form, recorded and limited like it.
//!
//! INVARIANT: no question runs anything, now or when what it asks is paid: no request is kept for
//! it, nothing is reserved, taken, or sent to the server behind.

use crate::{
    answer::{self, Form, Shape},
    beside::{self, Asked},
    body::Body,
    call::{self, Attempt, Refused},
    config::Server,
    gate::Gate,
    mcp,
};
use countersign_core::refusal::{Code, Refusal};
use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The answer where nothing more would have to be paid.
const NOTHING_DUE: &str = r#"{"due":false,"ran":false,"charged":"no"}"#;

/// The server whose endpoint a path is.
pub(crate) fn server(gate: &Gate, path: &str) -> Option<Arc<Server>> {
    beside::server_at(gate, path.strip_prefix('/')?.strip_suffix("mcp/quote")?)
}

/// Answers one request.
pub(crate) async fn answer(
    gate: Arc<Gate>,
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let attempt = match attempt(&gate, &server, &head, body).await {
        Ok(attempt) => attempt,
        Err(refusal) => {
            return beside::refused(&gate, &server, &beside::counted(&gate, &head, refusal));
        }
    };
    let shape = Shape::of(&attempt, Form::Http);
    // A challenge that is being made is finished also for who has gone.
    let asking = tokio::spawn(call::ask(Arc::clone(&gate), attempt));
    match asking.await.unwrap_or_else(|_panicked| Err(broken())) {
        Ok(()) => beside::private(StatusCode::OK, NOTHING_DUE.to_owned()),
        Err(refused) => answer::of(&gate, &server, &shape, &Err(refused)),
    }
}

async fn attempt(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    body: Incoming,
) -> Result<Attempt, Refusal> {
    let asked = Asked::read(&beside::read(gate, head, body).await?)?;
    let params = RawValue::from_string(asked.params()).map_err(|_| Code::MalformedJson)?;
    mcp::question(gate, server, head, &params)
}

fn broken() -> Refused {
    Refused { refusal: Code::InternalFault.into(), challenge: None }
}
