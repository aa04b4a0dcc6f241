//! The MCP endpoint of one server: which message this is, and what to do with it.
//!
//! INVARIANT: the body decides, headers are only checked against it; `tools/call` never takes the
//! relay's way.

mod attempt;
mod era;
mod relay;

pub(crate) use attempt::{again, question};

use crate::{
    allowance::Caller,
    answer::{self, Form, Shape},
    body::{self, Body},
    call::{self, Attempt, Refused},
    config::Server,
    gate::Gate,
    problem,
    prove::lit,
    server, sse,
    upstream::{NoCall, SESSION},
};
use attempt::{attempt, waiting};
use countersign_core::{
    refusal::{Charged, Code, Refusal},
    wire::{
        json::JsonError,
        jsonrpc::{EnvelopeError, Message},
    },
};
use http::{HeaderValue, Method, Request, Response, header, request::Parts};
use hyper::body::Incoming;
use relay::{relay, relay_bodiless};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Answers one HTTP request to `/{server}/mcp`.
pub async fn answer(
    gate: Arc<Gate>,
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let caller = Caller::new(None, server::peer(&head));
    match dispatch(&gate, &server, head, body).await {
        Ok(answer) => answer,
        Err(Stopped { refusal, id }) => {
            let refusal = gate.borne(&caller, refusal);
            Stopped { refusal, id }.into_response(&gate, &server)
        }
    }
}

/// A request that ended before it became a call.
#[derive(Debug)]
struct Stopped {
    refusal: Refusal,
    /// JSON-RPC id, when it could be read.
    id: Option<String>,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, id: None }
    }
}

impl From<Code> for Stopped {
    fn from(code: Code) -> Self {
        Refusal::new(code).into()
    }
}

impl Stopped {
    fn into_response(self, gate: &Gate, server: &Server) -> Response<Body> {
        gate.store.count_refusal(self.refusal.code());
        let lights = lit(self.refusal.proofs(), &self.refusal);
        let refusal = self.refusal.lights(lights);
        let mut answer = problem::json_rpc(&refusal, self.id.as_deref());
        gate.challenge_identity(server, &refusal, answer.headers_mut());
        answer
    }
}

async fn dispatch(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: Parts,
    body: Incoming,
) -> Result<Response<Body>, Stopped> {
    if crate::prove::identity::query_has_token(&head.uri) {
        return Err(Code::TokenInQuery.into());
    }
    match head.method {
        Method::POST => {}
        Method::GET | Method::DELETE if head.headers.contains_key(SESSION) => {
            return relay_bodiless(gate, server, head).await;
        }
        _ => return Err(Code::MethodNotAllowed.into()),
    }
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(Code::UnsupportedMedia.into());
    }
    let limits = gate.json_limits();
    let patience_ms = gate.config.limits.body_timeout_ms;
    let bytes = body::read_from_client(body, limits.max_bytes, patience_ms).await?;
    let message = Message::parse(&bytes, &limits).map_err(refused_envelope)?;
    match &message {
        Message::Request(request) if request.method == "tools/call" => {
            let attempt = attempt(gate, server, &head, request).await;
            let attempt = attempt.map(|attempt| waiting(gate, attempt, &head, &bytes));
            let attempt = attempt.map_err(|mut stopped| {
                stopped.id = Some(request.id.get().to_owned());
                stopped
            })?;
            let form = Form::of(server, &head);
            Ok(run(Arc::clone(gate), Arc::clone(server), Box::new(attempt), form).await)
        }
        Message::Request(request) => {
            let leave = NoCall::of(&request.method).ok_or(Code::InternalFault)?;
            let relayed = relay(leave, gate, server, &head, &bytes, &message).await;
            relayed.map_err(|mut stopped| {
                stopped.id = Some(request.id.get().to_owned());
                stopped
            })
        }
        Message::Notification(note) => match NoCall::of(&note.method) {
            Some(leave) => relay(leave, gate, server, &head, &bytes, &message).await,
            // A call without an id would run without an answer, and so without a proof.
            None => {
                let detail = "`tools/call` needs an `id`";
                Err(Refusal::new(Code::NotJsonRpc).with("detail", detail).into())
            }
        },
        Message::Response(_) => {
            let leave = NoCall::of("").ok_or(Code::InternalFault)?;
            relay(leave, gate, server, &head, &bytes, &message).await
        }
    }
}

/// The refusal that an envelope error means.
pub(crate) fn refused_envelope(error: EnvelopeError) -> Refusal {
    let code = match error {
        EnvelopeError::Json(JsonError::TooLarge) => Code::TooLarge,
        EnvelopeError::Json(JsonError::TooDeep) => Code::TooDeep,
        EnvelopeError::Json(JsonError::DuplicateKey) => Code::DuplicateKey,
        EnvelopeError::Json(_) => Code::MalformedJson,
        EnvelopeError::Batch => Code::Batch,
        EnvelopeError::NotJsonRpc
        | EnvelopeError::BadId
        | EnvelopeError::BadMember { .. }
        | EnvelopeError::UnknownMember
        | EnvelopeError::Ambiguous => Code::NotJsonRpc,
    };
    Refusal::new(code).with("detail", error)
}

/// Takes the path; answers with JSON, or with an event stream once progress has to be shown.
async fn run(
    gate: Arc<Gate>,
    server: Arc<Server>,
    mut attempt: Box<Attempt>,
    form: Form,
) -> Response<Body> {
    let shape = Shape::of(&attempt, form);
    let (progress, mut events) = mpsc::channel(64);
    attempt.progress = shape.can_stream().then_some(progress);
    // By its address: a future is copied some times on its way into a task.
    let taking = tokio::spawn(Box::pin(call::take(Arc::clone(&gate), attempt)));
    let mut taking = Box::pin(async { taking.await.unwrap_or_else(|_panicked| Err(broken())) });
    tokio::select! {
        biased;
        taken = &mut taking => answer::of(&gate, &server, &shape, &taken),
        Some(first) = events.recv() => {
            let (out, body) = mpsc::channel(64);
            tokio::spawn(async move {
                let _gone = out.send(first).await;
                let taken = loop {
                    tokio::select! {
                        biased;
                        Some(event) = events.recv() => { let _gone = out.send(event).await; }
                        taken = &mut taking => break taken,
                    }
                };
                let last = answer::message_of(&gate, &shape, &taken);
                let _gone = out.send(sse::message_event(&last)).await;
            });
            event_stream(Body::Events(body))
        }
    }
}

/// A call that broke in our hands: what became of its money is found at recovery.
fn broken() -> Refused {
    let refusal = Refusal::new(Code::InternalFault).charged(Charged::Unknown);
    Refused { refusal, challenge: None }
}

fn event_stream(body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    answer
}
