//! The MCP endpoint of one server: which message this is, in which era, and what to do with it.
//!
//! INVARIANT: the body decides, headers are only checked against it; `tools/call` never takes the
//! relay's way.

use crate::{
    allowance::Caller,
    answer::{self, Form, Shape, accepts_events},
    body::{self, Body},
    call::{self, Attempt, Original, Refused},
    config::Server,
    gate::Gate,
    places::Place,
    problem,
    prove::{
        Evidence,
        evidence::{META_CREDIT, META_MANDATE, META_REFUND_INVOICE},
        state,
    },
    server,
    session::Session,
    sse,
    upstream::{Failure, Relay, SESSION, is_event_stream},
};
use bytes::Bytes;
use countersign_core::{
    call::{Call, Era},
    proof::Principal,
    refusal::{Charged, Code, Refusal},
    terms::{Terms, ToolRef},
    wire::{
        headers::{Mirrored, Mirrors, check_param},
        json::{self, JsonError},
        jsonrpc::{self, EnvelopeError, Message},
        mcp::{self as wire, ClientCapabilities, Meta, Modern, ToolCall, ToolEdit},
        pow,
    },
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    request::Parts,
};
use hyper::body::Incoming;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    sync::{Arc, PoisonError},
    time::Duration,
};
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
        let mut answer = problem::json_rpc(&self.refusal, self.id.as_deref());
        gate.challenge_identity(server, &self.refusal, answer.headers_mut());
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
            relay(gate, server, &head, &bytes, Some(request)).await.map_err(|mut stopped| {
                stopped.id = Some(request.id.get().to_owned());
                stopped
            })
        }
        // A call without an id would run without an answer, and so without a proof.
        Message::Notification(note) if note.method == "tools/call" => {
            Err(Refusal::new(Code::NotJsonRpc).with("detail", "`tools/call` needs an `id`").into())
        }
        Message::Notification(_) | Message::Response(_) => {
            relay(gate, server, &head, &bytes, None).await
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

/// Which era the message speaks, with its mirrored headers checked against the body; those of
/// arguments against what `schema` says that they mirror.
fn era(
    head: &Parts,
    request: &jsonrpc::Request<'_>,
    meta: &Meta<'_>,
    schema: &[Mirrored],
) -> Result<Era, Refusal> {
    let modern = Modern::of(meta)
        .map_err(|error| Refusal::new(Code::MissingModernMeta).with("detail", error))?;
    let Some(modern) = modern else { return legacy(&head.headers, &request.method) };
    let mirrors = Mirrors {
        protocol_version: single(&head.headers, "mcp-protocol-version")?,
        method: single(&head.headers, "mcp-method")?,
        name: single(&head.headers, "mcp-name")?,
    };
    let differs = |error| Refusal::new(Code::HeaderMismatch).with("detail", error);
    mirrors.check(&request.method, request.params, &modern.protocol_version).map_err(differs)?;
    for mirrored in schema {
        let said = single(&head.headers, &mirrored.header)?;
        mirrored.check(said, request.params).map_err(differs)?;
    }
    let is_known = |name: &HeaderName| schema.iter().any(|known| known.header == name.as_str());
    for name in head.headers.keys().filter(|name| is_param(name) && !is_known(name)) {
        let value = single(&head.headers, name.as_str())?.unwrap_or_default();
        check_param(value, request.params).map_err(differs)?;
    }
    Ok(Era::Modern)
}

/// A request without the modern members is a legacy one, unless its headers are of the modern era:
/// who routes by them must not be told another era than who reads the body. `initialize` is how
/// the legacy era opens, whatever the client goes on to speak.
fn legacy(headers: &HeaderMap, method: &str) -> Result<Era, Refusal> {
    let version = single(headers, "mcp-protocol-version")?;
    let is_modern = version.is_some_and(|version| version >= MODERN)
        || single(headers, "mcp-method")?.is_some();
    if is_modern && method != "initialize" {
        let detail = "the headers are of a protocol that wants members in `_meta`";
        return Err(Refusal::new(Code::MissingModernMeta).with("detail", detail));
    }
    Ok(Era::Legacy)
}

/// The first protocol version that mirrors its requests in headers. Versions are dates: later ones
/// sort behind it.
const MODERN: &str = "2026-07-28";

/// The headers to forward. In the legacy era nothing has compared the mirrored ones with the body,
/// so they stay here.
fn forwardable(headers: &HeaderMap, era: Era) -> Cow<'_, HeaderMap> {
    let is_mirror = |name: &str| name.starts_with("mcp-name") || name.starts_with("mcp-method");
    let has_mirror = headers.keys().any(|name| is_mirror(name.as_str()) || is_param(name));
    if era == Era::Modern || !has_mirror {
        return Cow::Borrowed(headers);
    }
    let kept = headers.iter().filter(|(name, _)| !is_mirror(name.as_str()) && !is_param(name));
    Cow::Owned(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn is_param(name: &HeaderName) -> bool {
    name.as_str().starts_with("mcp-param-")
}

/// The value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Code::AmbiguousHeaders).with("header", name));
    }
    first
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| Refusal::new(Code::HeaderMismatch).with("header", name))
}

/// `_meta` keys that carry credentials, or are between the caller and us: never forwarded.
const CREDENTIALS: [&str; 8] = [
    "x402/payment",
    "x402.payment",
    "ai.bolthub/payment",
    "org.paymentauth/credential",
    pow::META,
    META_MANDATE,
    META_CREDIT,
    META_REFUND_INVOICE,
];

/// `_meta` key under which a client declares what a call is for.
const INTENT: &str = "countersign/intent";

async fn attempt(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    request: &jsonrpc::Request<'_>,
) -> Result<Attempt, Stopped> {
    let params = request
        .params
        .ok_or_else(|| Refusal::new(Code::NotJsonRpc).with("detail", "`params` is missing"))?;
    let tool = ToolCall::parse(params).map_err(refused_envelope)?;
    let named = ToolRef { server: Arc::clone(&server.name), tool: (*tool.name).into() };
    let era = era(head, request, &tool.meta, &gate.definitions.mirrored(&named))?;
    Ok(attempt_of(gate, server, head, &tool, (request.id.get(), era))?)
}

/// A question about a call with these `params`: an attempt that ends before anything is sent, and
/// that is answered in plain HTTP, whatever era the call will be of.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn question(
    gate: &Gate,
    server: &Server,
    head: &Parts,
    params: &RawValue,
) -> Result<Attempt, Refusal> {
    let tool = ToolCall::parse(params).map_err(refused_envelope)?;
    let attempt = attempt_of(gate, server, head, &tool, ("null", Era::Legacy))?;
    Ok(Attempt { is_question: true, ..attempt })
}

fn attempt_of(
    gate: &Gate,
    server: &Server,
    head: &Parts,
    tool: &ToolCall<'_>,
    (request_id, era): (&str, Era),
) -> Result<Attempt, Refusal> {
    if tool.other("task").is_some() {
        // Its result would be fetched by messages that are only relayed.
        let detail = "task-augmented calls are not accepted";
        return Err(Refusal::new(Code::NotJsonRpc).with("detail", detail));
    }
    let terms = server.terms(&tool.name).ok_or(Code::UnknownTool)?;
    let arguments = tool.arguments.map_or("{}", RawValue::get);
    let canonical = json::canonical(arguments.as_bytes(), &gate.json_limits())
        .map_err(|error| refused_envelope(error.into()))?;
    let evidence = Evidence::of(&head.headers, &tool.meta)?.from(server::peer(head));
    let now = gate.world.now();
    let returned = returned(tool);
    let params = forwarded_params(tool);
    let params = if returned.is_some() { without_ours(&params)? } else { params };
    let input = if returned.is_some() { None } else { input(gate, tool)? };
    let has_input = input.is_some();
    let arguments = String::from_utf8_lossy(&canonical).into_owned();
    let (declared, purpose) = declared(&tool.meta);
    let policy = gate.policy.engine();
    let said = (declared.as_deref(), purpose.as_deref());
    let intent = gate.intent(&policy, server, &terms, &arguments, said);
    let call = Call {
        id: countersign_core::ids::CallId::new(now, gate.world.random()),
        terms,
        arguments,
        input,
        request_id: request_id.to_owned(),
        intent,
        purpose,
        traceparent: tool.meta.text("traceparent").map(|text| text.into_owned()),
        era,
        at: now,
        params,
    };
    let message = jsonrpc::request(&call.request_id, "tools/call", Some(&call.params));
    Ok(Attempt {
        call,
        evidence,
        headers: forwardable(&head.headers, era).into_owned(),
        message: Bytes::from(message),
        original: None,
        is_question: false,
        // A server's own question is not lost for ours: then the answer says where to approve.
        can_ask: !has_input && can_open_links(gate, head, &tool.meta)?,
        returned,
        session: single(&head.headers, SESSION.as_str())?.map(str::to_owned),
        progress: None,
        policy,
    })
}

/// The attempt with its request as it came, where it may have to wait for its money.
fn waiting(gate: &Gate, attempt: Attempt, head: &Parts, body: &Bytes) -> Attempt {
    let may_wait = gate.rails.l402.as_ref().is_some_and(|rail| rail.may_hold(&attempt.call.terms));
    let original = may_wait.then(|| Original {
        headers: head.headers.clone(),
        body: body.clone(),
        peer: server::peer(head),
    });
    Attempt { original, ..attempt }
}

/// A request that waited for its money, as a new attempt.
///
/// # Errors
/// What is wrong with it by now.
pub(crate) async fn again(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    body: &Bytes,
) -> Result<Attempt, Refusal> {
    match Message::parse(body, &gate.json_limits()).map_err(refused_envelope)? {
        Message::Request(request) if request.method == "tools/call" => {
            attempt(gate, server, head, &request).await.map_err(|stopped| stopped.refusal)
        }
        Message::Request(_) | Message::Notification(_) | Message::Response(_) => {
            Err(Code::NotJsonRpc.into())
        }
    }
}

/// A request state of ours that the client brings back.
fn returned(tool: &ToolCall<'_>) -> Option<String> {
    let state: String = serde_json::from_str(tool.other("requestState")?.get()).ok()?;
    state::is_ours(&state).then_some(state)
}

/// The params without what answers us.
fn without_ours(params: &str) -> Result<String, Refusal> {
    let raw: &RawValue = serde_json::from_str(params).map_err(|_| Code::NotJsonRpc)?;
    wire::without_members(raw, &["requestState", "inputResponses"]).map_err(refused_envelope)
}

/// Answers to the server's own questions, canonically: they are a part of the call.
fn input(gate: &Gate, tool: &ToolCall<'_>) -> Result<Option<String>, Refusal> {
    let parts = ["inputResponses", "requestState"].map(|name| tool.other(name));
    if parts.iter().all(Option::is_none) {
        return Ok(None);
    }
    let texts = parts.map(|part| part.map_or("null", RawValue::get));
    let both = format!("[{},{}]", texts[0], texts[1]);
    let canonical = json::canonical(both.as_bytes(), &gate.json_limits())
        .map_err(|error| refused_envelope(error.into()))?;
    Ok(Some(String::from_utf8_lossy(&canonical).into_owned()))
}

/// Whether the client said that it can show its user a link: with this request, or when its
/// session began.
fn can_open_links(gate: &Gate, head: &Parts, meta: &Meta<'_>) -> Result<bool, Refusal> {
    let modern = Modern::of(meta)
        .map_err(|error| Refusal::new(Code::MissingModernMeta).with("detail", error))?;
    if let Some(modern) = modern {
        return Ok(modern.capabilities.elicitation_url);
    }
    let Some(id) = single(&head.headers, SESSION.as_str())? else { return Ok(false) };
    Ok(gate.sessions.initialize_of(id).is_some_and(|initialize| {
        let Ok(Message::Request(request)) = Message::parse(&initialize, &gate.json_limits()) else {
            return false;
        };
        request.params.is_some_and(opens_links)
    }))
}

/// Whether an `initialize` declares `capabilities.elicitation.url`.
fn opens_links(params: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Initialize<'a> {
        #[serde(borrow)]
        capabilities: &'a RawValue,
    }
    let read = serde_json::from_str::<Initialize<'_>>(params.get());
    let read = read.ok().and_then(|read| ClientCapabilities::parse(read.capabilities).ok());
    read.is_some_and(|capabilities| capabilities.elicitation_url)
}

/// The params without credentials; the original bytes where there are none.
fn forwarded_params(tool: &ToolCall<'_>) -> String {
    if tool.meta.is_empty() {
        return wire::rewrite_params(tool, None);
    }
    wire::rewrite_params(tool, Some(&tool.meta.without(&CREDENTIALS)))
}

/// The intent and the purpose that the caller declares.
fn declared(meta: &Meta<'_>) -> (Option<String>, Option<String>) {
    #[derive(Default, serde::Deserialize)]
    struct Raw {
        intent: Option<String>,
        purpose: Option<String>,
    }
    let raw = meta.get(INTENT).and_then(|raw| serde_json::from_str::<Raw>(raw.get()).ok());
    let Raw { intent, purpose } = raw.unwrap_or_default();
    (intent, purpose)
}

/// Takes the path; answers with JSON, or with an event stream once progress has to be shown.
async fn run(
    gate: Arc<Gate>,
    server: Arc<Server>,
    mut attempt: Box<Attempt>,
    form: Form,
) -> Response<Body> {
    let can_ask = attempt.can_ask && attempt.returned.is_none();
    let shape = Shape::of(&attempt.call, form, accepts_events(&attempt.headers), can_ask);
    let (progress, mut events) = mpsc::channel(64);
    attempt.progress = shape.can_stream().then_some(progress);
    let taking = tokio::spawn(call::take(Arc::clone(&gate), attempt));
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

/// Relays GET (the legacy event stream) and DELETE (the legacy end of a session).
async fn relay_bodiless(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: Parts,
) -> Result<Response<Body>, Stopped> {
    let principal = gate.identify_relay(server, &head.headers).await?;
    let session = session(gate, server, &head.headers, &principal)?.ok_or(Code::UnknownSession)?;
    let place = if head.method == Method::GET { Some(stream(gate, &principal)?) } else { None };
    let method = head.method.clone();
    if method == Method::DELETE
        && let Some(id) = single(&head.headers, SESSION.as_str())?
    {
        gate.sessions.close(id);
    }
    let relay = Relay {
        method,
        headers: &head.headers,
        body: Bytes::new(),
        session: Some(&session),
        caller: None,
    };
    let answer = gate.upstream(&server.name)?.relay(&relay).await.map_err(refused_upstream)?;
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
async fn relay(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    bytes: &Bytes,
    request: Option<&jsonrpc::Request<'_>>,
) -> Result<Response<Body>, Stopped> {
    let principal = gate.identify_relay(server, &head.headers).await?;
    let mut forwarded = bytes.clone();
    let mut headers = Cow::Borrowed(&head.headers);
    if let Some(request) = request {
        let meta = Meta::of_params(request.params).map_err(refused_envelope)?;
        headers = forwardable(&head.headers, era(head, request, &meta, &[])?);
        if let Some(message) = without_credentials(request, &meta)? {
            forwarded = Bytes::from(message);
        }
    }
    if request.is_some_and(|r| r.method == "initialize") && bytes.len() > INITIALIZE_BYTES_MAX {
        return Err(Code::TooLarge.into());
    }
    let session = session(gate, server, &head.headers, &principal)?;
    let place = match request.filter(|request| request.method == LISTEN) {
        Some(_) => Some(stream(gate, &principal)?),
        None => None,
    };
    let relay = Relay {
        method: Method::POST,
        headers: &headers,
        body: forwarded,
        session: session.as_ref(),
        caller: None,
    };
    let answer = gate.upstream(&server.name)?.relay(&relay).await.map_err(refused_upstream)?;
    match request.map(|request| &*request.method) {
        Some("initialize") => Ok(opened(gate, server, &principal, bytes, answer)),
        Some("tools/list") if answer.status().is_success() => {
            list_tools(gate, server, &principal, answer).await
        }
        _ => Ok(passed(answer).map(|body| body.holding(place))),
    }
}

/// A request whose `_meta` carries a payment, without it; `None` for one that may pass as it is.
fn without_credentials(
    request: &jsonrpc::Request<'_>,
    meta: &Meta<'_>,
) -> Result<Option<String>, Refusal> {
    let is_ours = |key: &str| CREDENTIALS.iter().any(|ours| ours.eq_ignore_ascii_case(key));
    let (Some(params), true) = (request.params, meta.iter().any(|(key, _)| is_ours(key))) else {
        return Ok(None);
    };
    let own = meta.without(&CREDENTIALS);
    let params = wire::with_members(params, &[("_meta", &own)]).map_err(refused_envelope)?;
    Ok(Some(jsonrpc::request(request.id.get(), &request.method, Some(&params))))
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
    let found = gate.sessions.find(id, &server.name, principal.key());
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
    if let Some(inside) = inside {
        let name = Arc::clone(&server.name);
        let id = gate.sessions.open(name, principal.key(), initialize.clone(), inside);
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
