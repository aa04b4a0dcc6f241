//! All messages but `tools/call`: relayed under identity, with what the gateway adds to them
//! (sessions of ours, prices in lists).
//!
//! INVARIANT: `tools/call` never takes this way.

use super::{
    Stopped,
    attempt::CREDENTIALS,
    era::{era, forwardable, forwardable_beside, single},
    refused_envelope,
};
use crate::{
    body::{self, Body},
    config::Server,
    gate::Gate,
    places::Place,
    session::Session,
    sse,
    upstream::{Failure, NoCall, Relay, SESSION, is_event_stream},
};
use bytes::Bytes;
use countersign_core::{
    proof::Principal,
    refusal::{Code, Refusal},
    terms::Terms,
    wire::{
        jsonrpc::{self, EnvelopeError, Message},
        mcp::{self as wire, Meta, ToolEdit},
    },
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde_json::value::RawValue;
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

/// Relays GET (the legacy event stream) and DELETE (the legacy end of a session).
pub(super) async fn relay_bodiless(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: Parts,
) -> Result<Response<Body>, Stopped> {
    let leave = NoCall::of("").ok_or(Code::InternalFault)?;
    let principal = gate.identify_relay(server, &head.headers).await?;
    let session = session(gate, server, &head.headers, &principal)?.ok_or(Code::UnknownSession)?;
    let place = if head.method == Method::GET { Some(stream(gate, &principal)?) } else { None };
    let method = head.method.clone();
    if method == Method::DELETE
        && let Some(id) = single(&head.headers, SESSION.as_str())?
    {
        gate.upstream(&server.name)?.sessions.close(id);
    }
    let relay = Relay {
        method,
        headers: &head.headers,
        body: Bytes::new(),
        session: Some(&session),
        caller: None,
    };
    let answer = gate.upstream(&server.name)?.relay(leave, &relay).await;
    let answer = answer.map_err(refused_upstream)?;
    Ok(passed(answer).map(|body| body.holding(place)))
}

/// The most event streams that one principal keeps open. Nobody in particular is many: they share
/// half of all connections.
const STREAMS_MAX: usize = 16;
/// How the modern era opens an event stream.
const LISTEN: &str = "subscriptions/listen";

/// A place for one more event stream, which may stay open for as long as its reader likes.
fn stream(gate: &Gate, principal: &Principal) -> Result<Place, Refusal> {
    let most = match &principal.delegator {
        Some(_) => STREAMS_MAX,
        None => gate.config.limits.connections.div_ceil(2),
    };
    let mut streams = gate.streams.lock().unwrap_or_else(PoisonError::into_inner);
    let place = streams.take(principal.key(), most);
    place.ok_or_else(|| Refusal::new(Code::RateLimited).with("open_streams", most))
}

/// How long a list of tools may take to arrive.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest `initialize`: each is kept as long as its session.
const INITIALIZE_BYTES_MAX: usize = 16 << 10;

/// Relays any message but `tools/call`.
pub(super) async fn relay(
    leave: NoCall,
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    bytes: &Bytes,
    message: &Message<'_>,
) -> Result<Response<Body>, Stopped> {
    let principal = gate.identify_relay(server, &head.headers).await?;
    let (method, headers, cleaned) = match message {
        Message::Request(request) => {
            let meta = Meta::of_params(request.params).map_err(refused_envelope)?;
            let headers = forwardable(&head.headers, era(head, request, &meta, &[])?);
            let (id, method) = (request.id.get(), &*request.method);
            let params = without_credentials(request.params, &meta)?;
            (method, headers, params.map(|params| jsonrpc::request(id, method, Some(&params))))
        }
        Message::Notification(note) => {
            let meta = Meta::of_params(note.params).map_err(refused_envelope)?;
            let headers = forwardable_beside(&head.headers, Some(&note.method))?;
            let params = without_credentials(note.params, &meta)?;
            let note = |params: String| jsonrpc::notification(&note.method, Some(&params));
            ("", headers, params.map(note))
        }
        Message::Response(_) => ("", forwardable_beside(&head.headers, None)?, None),
    };
    let forwarded = cleaned.map_or_else(|| bytes.clone(), Bytes::from);
    if method == "initialize" && bytes.len() > INITIALIZE_BYTES_MAX {
        return Err(Code::TooLarge.into());
    }
    let session = session(gate, server, &head.headers, &principal)?;
    let place = if method == LISTEN { Some(stream(gate, &principal)?) } else { None };
    let relay = Relay {
        method: Method::POST,
        headers: &headers,
        body: forwarded,
        session: session.as_ref(),
        caller: None,
    };
    let answer = gate.upstream(&server.name)?.relay(leave, &relay).await;
    let answer = answer.map_err(refused_upstream)?;
    match method {
        "initialize" => Ok(opened(gate, server, &principal, bytes, answer)),
        "tools/list" if answer.status().is_success() => {
            list_tools(gate, server, &principal, answer).await
        }
        _ => Ok(passed(answer).map(|body| body.holding(place))),
    }
}

/// Parameters whose `_meta` carries a payment, without it; `None` where they may pass as they are.
fn without_credentials(
    params: Option<&RawValue>,
    meta: &Meta<'_>,
) -> Result<Option<String>, Refusal> {
    let is_ours = |key: &str| CREDENTIALS.iter().any(|ours| ours.eq_ignore_ascii_case(key));
    let (Some(params), true) = (params, meta.iter().any(|(key, _)| is_ours(key))) else {
        return Ok(None);
    };
    let own = meta.without(&CREDENTIALS);
    wire::with_members(params, &[("_meta", &own)]).map(Some).map_err(refused_envelope)
}

fn refused_upstream(failure: Failure) -> Refusal {
    Refusal::new(match failure {
        Failure::NotExecuted | Failure::Refused(_) => Code::UpstreamUnreachable,
        Failure::Timeout => Code::UpstreamTimeout,
        Failure::Broken => Code::UpstreamBroken,
        Failure::TooLarge => Code::ResultTooLarge,
    })
}

fn session(
    gate: &Gate,
    server: &Server,
    headers: &HeaderMap,
    principal: &Principal,
) -> Result<Option<Arc<Session>>, Refusal> {
    let Some(id) = single(headers, SESSION.as_str())? else { return Ok(None) };
    let found = gate.upstream(&server.name)?.sessions.find(id, principal.key());
    found.map(Some).ok_or_else(|| Code::UnknownSession.into())
}

/// The answer to `initialize`, with a session id of ours in place of the upstream's.
fn opened(
    gate: &Gate,
    server: &Server,
    principal: &Principal,
    initialize: &Bytes,
    answer: Response<Body>,
) -> Response<Body> {
    let inside = answer.headers().get(SESSION).cloned();
    let mut answer = passed(answer);
    if let (Some(inside), Ok(upstream)) = (inside, gate.upstream(&server.name)) {
        let id = upstream.sessions.open(principal.key(), initialize.clone(), inside);
        if let Ok(id) = HeaderValue::from_str(&id) {
            answer.headers_mut().insert(SESSION, id);
        }
    }
    answer
}

/// An upstream's answer with only the headers that may pass.
fn passed(answer: Response<Body>) -> Response<Body> {
    let (head, body) = answer.into_parts();
    let mut out = Response::new(body);
    *out.status_mut() = head.status;
    for name in [header::CONTENT_TYPE, header::CACHE_CONTROL, header::ALLOW] {
        if let Some(value) = head.headers.get(&name) {
            out.headers_mut().insert(name, value.clone());
        }
    }
    out
}

/// `tools/list` with prices shown and with what may not be called left out.
async fn list_tools(
    gate: &Gate,
    server: &Server,
    principal: &Principal,
    answer: Response<Body>,
) -> Result<Response<Body>, Stopped> {
    let in_events = is_event_stream(&answer);
    let reading = body::read(answer.into_body(), gate.config.limits.result_bytes);
    let bytes = tokio::time::timeout(LIST_TIMEOUT, reading)
        .await
        .map_err(|_| Code::UpstreamTimeout)?
        .map_err(|_| Code::UpstreamBroken)?;
    let json = if in_events { last_message(&bytes) } else { Some(bytes) };
    let json = json.ok_or(Code::UpstreamBroken)?;
    let message = Message::parse_relayed(&json, usize::MAX).map_err(|_| Code::UpstreamBroken)?;
    let Message::Response(jsonrpc::Response { id: Some(id), outcome: Ok(result) }) = message else {
        return Ok(json_answer(StatusCode::OK, json));
    };
    gate.pin(server, result).await?;
    let own: Vec<(&str, String)> =
        server.top_ups().map(|terms| (&*terms.tool.tool, top_up(terms))).collect();
    let edited = wire::edit_tools_list(result, &own, |tool| match server.terms(tool) {
        Some(terms) => shown(gate, &terms, principal),
        None => ToolEdit { hide: true, ..ToolEdit::default() },
    });
    let edited = edited.map_err(|_| Code::UpstreamBroken)?;
    let private = RawValue::from_string(edited)
        .map_err(|_| Code::InternalFault)
        .and_then(|raw| privately(&raw).map_err(|_| Code::UpstreamBroken))?;
    Ok(json_answer(StatusCode::OK, jsonrpc::result(id, &private)))
}

/// A list that depends on the principal is private (modern `cacheScope`).
fn privately(result: &RawValue) -> Result<String, EnvelopeError> {
    if result.get().contains("\"cacheScope\"") {
        wire::with_members(result, &[("cacheScope", "\"private\"")])
    } else {
        Ok(result.get().to_owned())
    }
}

/// A tool of ours, as a list shows it.
fn top_up(terms: &Terms) -> String {
    let description = "Adds what it costs to your credit here, from which later calls are paid.";
    serde_json::json!({
        "name": &*terms.tool.tool,
        "description": description,
        "inputSchema": { "type": "object", "additionalProperties": false },
    })
    .to_string()
}

fn shown(gate: &Gate, terms: &Terms, principal: &Principal) -> ToolEdit {
    let Some(price) = terms.price_for(&principal.tenant, &principal.agent) else {
        return ToolEdit { hide: true, ..ToolEdit::default() };
    };
    if price.is_free() {
        return ToolEdit::default();
    }
    let amounts = price.amounts.iter().map(|amount| gate.config.assets.show(amount));
    let words = [(price.work, "work"), (price.upstream, "upstream")];
    let words = words.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word.to_owned());
    let prices: Vec<String> = amounts.chain(words).collect();
    let price = serde_json::json!({
        "price": prices,
        "consent": terms.consent == countersign_core::terms::ConsentRule::Required,
        "flow": terms.flow.text(),
    });
    ToolEdit {
        hide: false,
        drop_output_schema: !terms.keep_output_schema,
        meta: vec![("countersign/price".to_owned(), price.to_string())],
    }
}

/// The last message of a finished event stream.
fn last_message(bytes: &Bytes) -> Option<Bytes> {
    let mut cutter = sse::Cutter::default();
    cutter.push(bytes);
    let blocks = std::iter::from_fn(|| cutter.next_block());
    blocks.map(|block| block.data()).filter(|data| !data.is_empty()).last().map(Bytes::from)
}

fn json_answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::full(body));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
