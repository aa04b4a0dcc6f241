//! The servers behind. The only code that talks to an MCP server.
//!
//! INVARIANT: `tools/call` is sent by [`Upstream::run`], which takes a [`Hold`]; and, without a
//! payment, by [`Upstream::inquire`], to a server that is set to ask for one: that takes an
//! [`Inquiry`]. [`Upstream::relay`] takes a [`NoCall`].
//! INVARIANT: no header of the client reaches an upstream unless it is on [`FORWARDED`]; the
//! client's token never does.

use crate::{
    body::{self, Body, ReadError},
    config::Server,
    fetch::Reachable,
    lanes::Each,
    session::{Session, Sessions},
    sse::Cutter,
};
use bytes::Bytes;
use countersign_client::{Buyer, Heard, Reply, Voucher};
use countersign_core::{
    call::Call,
    digest::Digest,
    proof::Inquiry,
    wire::{
        json::{self, Limits},
        jsonrpc::Message,
        mcp,
    },
    world::World,
};
use countersign_store::Hold;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Request headers that pass, besides `mcp-param-*`.
/// Not `last-event-id`: what a stream had shown could be had again without the path.
const FORWARDED: [HeaderName; 5] = [
    CONTENT_TYPE,
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
    HeaderName::from_static("mcp-name"),
    HeaderName::from_static("traceparent"),
];

/// The legacy era's session header.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Lets an upstream that knows it recognise a repeated call.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long the head of a relayed answer may take.
const RELAY_TIMEOUT: Duration = Duration::from_secs(60);

/// A message to relay: the client's headers (filtered on the way) and its body.
#[derive(Clone, Debug)]
pub struct Relay<'a> {
    /// POST, GET (legacy event stream) or DELETE (legacy end of session).
    pub method: Method,
    /// As they came.
    pub headers: &'a HeaderMap,
    /// As it came.
    pub body: Bytes,
    /// Legacy session, if there is one.
    pub session: Option<&'a Arc<Session>>,
    /// Of a call, whom it is from: only a call is worth a session of ours, where its caller brings
    /// none to a server that wants one. Who speaks MCP opens its own.
    pub caller: Option<Digest>,
}

/// Leave to relay a message: it is no `tools/call`.
#[derive(Clone, Copy, Debug)]
pub struct NoCall(());

impl NoCall {
    /// Of a message's method, empty where it has none; `None` for `tools/call`.
    #[must_use]
    pub fn of(method: &str) -> Option<Self> {
        (method != "tools/call").then_some(Self(()))
    }
}

/// What a tool answered.
#[derive(Debug)]
pub enum Ran {
    /// A JSON-RPC result, raw.
    Result(String),
    /// A JSON-RPC error object, raw: the call was refused or failed.
    Error(String),
    /// Either, or a refusal, with what the server says of the payment that came with the call.
    Bought(Box<Heard>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request did not reach the server: nothing ran.
    NotExecuted,
    /// The server refused the request before looking at the tool.
    Refused(StatusCode),
    /// No answer in time: it may have run.
    Timeout,
    /// The answer broke off or made no sense: it may have run.
    Broken,
    /// The answer is larger than the limit: it ran.
    TooLarge,
}

/// Where events go that come before the answer. Sending never blocks the call for long: a client
/// that stopped reading loses progress, not the call.
pub type Progress = mpsc::Sender<Bytes>;

/// One configured server.
#[derive(Debug)]
pub struct Upstream {
    /// Sessions of its callers.
    pub sessions: Sessions,
    /// Sessions of our own, for callers that bring none to a server that wants one: payment
    /// clients over plain HTTP know no sessions. One a principal.
    own: Sessions,
    /// Connections are kept where they are used.
    clients: Each<Client<HttpsConnector<HttpConnector<Reachable>>, Full<Bytes>>>,
    uri: Uri,
    allow_private: bool,
    headers: HeaderMap,
    max_result_bytes: usize,
}

impl Upstream {
    /// A server as configured; results of up to `limit` bytes.
    #[must_use]
    pub fn new(server: &Server, limit: usize, world: World) -> Self {
        let allow_private = server.allow_private_network;
        let mut tcp = HttpConnector::new_with_resolver(Reachable { allow_private });
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let clients = Each::new(|| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(https.clone())
        });
        Self {
            sessions: Sessions::new(world.clone(), SESSIONS_MAX),
            own: Sessions::new(world, OWN_SESSIONS_MAX),
            clients,
            uri: server.upstream.clone(),
            allow_private,
            headers: server.headers.clone(),
            max_result_bytes: limit,
        }
    }

    /// Whether this is the way to a server as it is configured now.
    pub(crate) fn leads_to(&self, server: &Server) -> bool {
        self.uri == server.upstream
            && self.headers == server.headers
            && self.allow_private == server.allow_private_network
    }

    /// Relays a message other than `tools/call`, renewing a forgotten session once.
    ///
    /// # Errors
    /// [`Failure::NotExecuted`] or [`Failure::Broken`].
    pub async fn relay(
        &self,
        _leave: NoCall,
        relay: &Relay<'_>,
    ) -> Result<Response<Body>, Failure> {
        let none = HeaderMap::new();
        let sending = self.send_in_session(relay, &none);
        // An event stream may stay silent for long; an answer may not.
        if relay.method == Method::GET {
            return sending.await;
        }
        tokio::time::timeout(RELAY_TIMEOUT, sending).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Runs the tool. The only way to it.
    ///
    /// # Errors
    /// See [`Failure`]; which of them leave the call in doubt is said there.
    pub async fn run(
        &self,
        hold: &Hold,
        call: &Call,
        relay: &Relay<'_>,
        (progress, voucher): (Option<&Progress>, Option<&Voucher>),
    ) -> Result<Ran, Failure> {
        let deadline = Duration::from_millis(call.terms.deadline_ms);
        let running = async {
            match voucher {
                None => self.run_once(hold, call, relay, progress).await,
                Some(voucher) => self.run_paid(hold, call, relay, (progress, voucher)).await,
            }
        };
        match tokio::time::timeout(deadline, running).await {
            Ok(ended) => ended,
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn run_once(
        &self,
        hold: &Hold,
        call: &Call,
        relay: &Relay<'_>,
        progress: Option<&Progress>,
    ) -> Result<Ran, Failure> {
        let answer = self.send_in_session(relay, &own_headers(hold)?).await?;
        let is_late = is_late(answer.status());
        if answer.status().is_client_error() && !is_late {
            return Box::pin(self.refused(answer, &call.request_id)).await;
        }
        if !answer.status().is_success() {
            return Err(Failure::Broken);
        }
        if is_event_stream(&answer) {
            return self.read_events(answer.into_body(), &call.request_id, progress).await;
        }
        let bytes = self.read_whole(answer.into_body()).await?;
        answer_of(&bytes)?.ok_or(Failure::Broken)
    }

    /// Runs a tool with what shows that it is paid.
    async fn run_paid(
        &self,
        hold: &Hold,
        call: &Call,
        relay: &Relay<'_>,
        (progress, voucher): (Option<&Progress>, &Voucher),
    ) -> Result<Ran, Failure> {
        let mut own = own_headers(hold)?;
        let body = match voucher {
            Voucher::Meta(key, json) => {
                with_meta(&relay.body, (*key, json)).ok_or(Failure::NotExecuted)?
            }
            Voucher::Header(name, value) => {
                let mut value = HeaderValue::from_str(value).map_err(|_| Failure::NotExecuted)?;
                value.set_sensitive(true);
                own.insert(name, value);
                relay.body.clone()
            }
        };
        let relay = Relay { body, ..relay.clone() };
        let answer = self.send_in_session(&relay, &own).await?;
        let status = answer.status();
        let heard = Buyer::hear(self.reply(answer, &call.request_id, progress).await?);
        // Who stands before a server says nothing of what the server did.
        let is_untold = status.is_server_error() || is_late(status);
        if matches!(&heard, Heard::Refused(word) if is_untold && word.code.is_none()) {
            return Err(Failure::Broken);
        }
        Ok(Ran::Bought(Box::new(heard)))
    }

    /// Sends a call without a payment, to be told its price.
    ///
    /// # Errors
    /// See [`Failure`]: nobody knows the price.
    pub async fn inquire(
        &self,
        _leave: &Inquiry,
        call: &Call,
        relay: &Relay<'_>,
    ) -> Result<Reply, Failure> {
        let deadline = Duration::from_millis(call.terms.deadline_ms);
        let asking = async {
            // A key of its own: the server must not take it for the call.
            let key = HeaderValue::from_str(&format!("price-{}", call.id));
            let key = key.map_err(|_| Failure::NotExecuted)?;
            let own = HeaderMap::from_iter([(IDEMPOTENCY_KEY, key)]);
            let answer = self.send_in_session(relay, &own).await?;
            self.reply(answer, &call.request_id, None).await
        };
        tokio::time::timeout(deadline, asking).await.unwrap_or(Err(Failure::Timeout))
    }

    /// An answer, whole, as whoever pays reads it.
    async fn reply(
        &self,
        answer: Response<Body>,
        id: &str,
        progress: Option<&Progress>,
    ) -> Result<Reply, Failure> {
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        let answer = Response::from_parts(head.clone(), ());
        let ran = if is_event_stream(&answer) {
            self.read_events(body, id, progress).await?
        } else {
            let bytes = self.read_whole(body).await?;
            match answer_of(&bytes) {
                Ok(Some(ran)) => ran,
                Ok(None) | Err(_) => return Ok(Reply::new(status, head.headers, id, &bytes)),
            }
        };
        let message = match ran {
            Ran::Result(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
            Ran::Error(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
            Ran::Bought(_) => return Err(Failure::Broken),
        };
        Ok(Reply::new(status, head.headers, id, message.as_bytes()))
    }

    /// A 4xx: with a JSON-RPC error the server's own words, else a refusal before the tool.
    async fn refused(&self, answer: Response<Body>, id: &str) -> Result<Ran, Failure> {
        let status = answer.status();
        let bytes = self.read_whole(answer.into_body()).await?;
        match answer_in(&bytes, id) {
            Ok(Some(Ran::Error(error))) => Ok(Ran::Error(error)),
            Ok(_) | Err(_) => Err(Failure::Refused(status)),
        }
    }

    async fn read_whole(&self, body: Body) -> Result<Bytes, Failure> {
        body::read(body, self.max_result_bytes).await.map_err(|error| match error {
            ReadError::TooLarge => Failure::TooLarge,
            ReadError::Broken => Failure::Broken,
        })
    }

    /// Reads events until the answer; everything before it goes to the client as it comes.
    async fn read_events(
        &self,
        mut body: Body,
        id: &str,
        progress: Option<&Progress>,
    ) -> Result<Ran, Failure> {
        let mut cutter = Cutter::default();
        let mut seen_bytes = 0usize;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Err(Failure::Broken) };
            let Ok(data) = frame.into_data() else { continue };
            seen_bytes = seen_bytes.saturating_add(data.len());
            if seen_bytes > self.max_result_bytes {
                return Err(Failure::TooLarge);
            }
            cutter.push(&data);
            while let Some(block) = cutter.next_block() {
                let data = block.data();
                if data.is_empty() {
                    continue;
                }
                match answer_in(data.as_bytes(), id)? {
                    Some(ran) => return Ok(ran),
                    None => pass_on(progress, block.without_id()),
                }
            }
        }
        Err(Failure::Broken)
    }

    /// Sends; a session that the upstream has forgotten is renewed, one that it wants and the
    /// caller has not is opened, and the message is sent again. That is safe for a call too: a
    /// server that knows no session has run nothing.
    async fn send_in_session(
        &self,
        relay: &Relay<'_>,
        own_headers: &HeaderMap,
    ) -> Result<Response<Body>, Failure> {
        let own = match (relay.session, relay.caller) {
            (None, Some(caller)) => self.own.find(&own_id(caller), caller),
            (Some(_), _) | (None, None) => None,
        };
        let session = relay.session.or(own.as_ref());
        let used = session.map(|session| session.upstream());
        let answer = self.send(relay, used.as_ref(), own_headers).await?;
        let may_mend = session.is_some() || relay.caller.is_some();
        if !may_mend || !may_mean_forgotten(answer.status()) {
            return Ok(answer.map(Body::Relay));
        }
        let (head, body) = answer.into_parts();
        let bytes = self.read_whole(Body::Relay(body)).await?;
        if !is_forgotten(head.status, (&relay.body, &bytes), session.is_some()) {
            return Ok(Response::from_parts(head, Body::full(bytes)));
        }
        // Without a session the message itself was not taken: nothing ran.
        let begun = match (session.zip(used), relay.caller) {
            (Some((session, used)), _) => Box::pin(self.renew(session, used, relay)).await,
            (None, Some(caller)) => Box::pin(self.open(caller, relay)).await,
            (None, None) => return Ok(Response::from_parts(head, Body::full(bytes))),
        };
        let id = begun.map_err(|_| Failure::NotExecuted)?;
        Ok(self.send(relay, Some(&id), own_headers).await?.map(Body::Relay))
    }

    /// Opens a session of our own for a caller that has none.
    async fn open(&self, caller: Digest, relay: &Relay<'_>) -> Result<HeaderValue, Failure> {
        let initialize = Bytes::from_static(INITIALIZE.as_bytes());
        let id = self.begin(&initialize, relay).await?;
        self.own.open_as(own_id(caller), caller, (initialize, id.clone()));
        Ok(id)
    }

    async fn send(
        &self,
        relay: &Relay<'_>,
        session: Option<&HeaderValue>,
        own_headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::new(relay.body.clone()));
        *request.method_mut() = relay.method.clone();
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        copy_headers(relay.headers, headers);
        let is_post = relay.method == Method::POST;
        headers.insert(ACCEPT, HeaderValue::from_static(if is_post { BOTH } else { EVENTS }));
        if let Some(session) = session {
            headers.insert(SESSION, session.clone());
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        for (name, value) in own_headers {
            headers.append(name, value.clone());
        }
        self.clients.here().request(request).await.map_err(|error| {
            if error.is_connect() { Failure::NotExecuted } else { Failure::Broken }
        })
    }

    /// Opens a new upstream session with the client's own `initialize`, unless somebody else has
    /// renewed the one that was `used` meanwhile; the upstream's id of it.
    async fn renew(
        &self,
        session: &Arc<Session>,
        used: HeaderValue,
        relay: &Relay<'_>,
    ) -> Result<HeaderValue, Failure> {
        let _one_at_a_time = session.renewing.lock().await;
        let now = session.upstream();
        if now != used {
            return Ok(now);
        }
        let id = self.begin(&session.initialize, relay).await?;
        session.renew(id.clone());
        Ok(id)
    }

    /// Begins a session of the upstream's, whole: a client that goes away meanwhile leaves none
    /// that is half begun.
    async fn begin(&self, initialize: &Bytes, relay: &Relay<'_>) -> Result<HeaderValue, Failure> {
        let none = HeaderMap::new();
        let relay = Relay { method: Method::POST, body: initialize.clone(), ..relay.clone() };
        let answer = self.send(&relay, None, &none).await?;
        let id = answer.headers().get(SESSION).cloned().ok_or(Failure::NotExecuted)?;
        self.read_whole(Body::Relay(answer.into_body())).await?;
        let relay = Relay { body: Bytes::from_static(INITIALIZED.as_bytes()), ..relay };
        let answer = self.send(&relay, Some(&id), &none).await?;
        self.read_whole(Body::Relay(answer.into_body())).await?;
        Ok(id)
    }
}

/// What we can read, whatever the client can.
const BOTH: &str = "application/json, text/event-stream";
const EVENTS: &str = "text/event-stream";
/// Sessions of callers, a server.
const SESSIONS_MAX: usize = 10_000;
/// Sessions of our own, a server.
const OWN_SESSIONS_MAX: usize = 1_000;
const INITIALIZE: &str = concat!(
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","#,
    r#""capabilities":{},"clientInfo":{"name":"countersign","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}}"#
);
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn may_mean_forgotten(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::BAD_REQUEST
}

/// 404 is the protocol's word for a session that has ended; a 400 that speaks of the session is
/// what widespread servers say, also to a caller that has none.
/// An answer to our own request is the tool's, whatever it speaks of: that call has run. An error
/// under another id (`server-error`) is the server's word of the session.
fn is_forgotten(status: StatusCode, (sent, body): (&[u8], &[u8]), has_session: bool) -> bool {
    let is_answered = match answer_of(body) {
        Ok(Some(Ran::Error(_))) => is_answer_to(sent, body),
        Ok(answer) => answer.is_some(),
        Err(_) => false,
    };
    if is_answered {
        return false;
    }
    let text = String::from_utf8_lossy(body).to_lowercase();
    let speaks_of_session = text.contains("session") || text.contains("initializ");
    (status == StatusCode::NOT_FOUND && has_session)
        || (status == StatusCode::BAD_REQUEST && speaks_of_session)
}

/// Whether an answer names the request that was sent; what was no request has no other.
fn is_answer_to(sent: &[u8], answer: &[u8]) -> bool {
    match Message::parse_relayed(sent, usize::MAX) {
        Ok(Message::Request(asked)) => matches!(answer_in(answer, asked.id.get()), Ok(Some(_))),
        Ok(_) | Err(_) => true,
    }
}

fn own_id(principal: Digest) -> String {
    principal.to_hex()
}

/// Whether the answer is a stream of events.
#[must_use]
pub fn is_event_stream<B>(answer: &Response<B>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        if FORWARDED.contains(name) || name.as_str().starts_with("mcp-param-") {
            to.append(name, value.clone());
        }
    }
}

/// Headers of ours for a call: lets a server that knows it recognise a repeated one.
fn own_headers(hold: &Hold) -> Result<HeaderMap, Failure> {
    let key = HeaderValue::from_str(&hold.call().to_string());
    let key = key.map_err(|_| Failure::NotExecuted)?;
    Ok(HeaderMap::from_iter([(IDEMPOTENCY_KEY, key)]))
}

/// A proxy's own time-out says nothing of what the server did.
fn is_late(status: StatusCode) -> bool {
    [408, 499].contains(&status.as_u16())
}

/// A request with one more member in the `_meta` of its `params`.
fn with_meta(message: &Bytes, member: (&str, &str)) -> Option<Bytes> {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        params: &'a RawValue,
    }
    #[derive(serde::Deserialize)]
    struct Params<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let raw: &RawValue = serde_json::from_slice(message).ok()?;
    let params = serde_json::from_str::<Head<'_>>(raw.get()).ok()?.params;
    let meta = serde_json::from_str::<Params<'_>>(params.get()).ok()?.meta;
    let empty = RawValue::from_string("{}".to_owned()).ok()?;
    let meta = mcp::with_members(meta.unwrap_or(&empty), &[member]).ok()?;
    let params = mcp::with_members(params, &[("_meta", &meta)]).ok()?;
    mcp::with_members(raw, &[("params", &params)]).ok().map(Bytes::from)
}

/// The answer in these bytes, whichever request it names: to a request of its own connection
/// there is no other.
fn answer_of(bytes: &[u8]) -> Result<Option<Ran>, Failure> {
    answer_to(bytes, |_| true)
}

/// Whether two ids are one, however they are spelled.
fn is_same_id(a: &str, b: &str) -> bool {
    let canonical = |id: &str| json::canonical(id.as_bytes(), &Limits::PROOF);
    a == b || matches!((canonical(a), canonical(b)), (Ok(a), Ok(b)) if a == b)
}

/// The answer to request `id` in these bytes, `None` when they are another message.
fn answer_in(bytes: &[u8], id: &str) -> Result<Option<Ran>, Failure> {
    answer_to(bytes, |to| is_same_id(to, id))
}

fn answer_to(bytes: &[u8], is_it: impl Fn(&str) -> bool) -> Result<Option<Ran>, Failure> {
    match Message::parse_relayed(bytes, usize::MAX) {
        Ok(Message::Response(answer)) if answer.id.is_some_and(|to| is_it(to.get())) => {
            Ok(Some(match answer.outcome {
                Ok(result) => Ran::Result(result.get().to_owned()),
                Err(error) => Ran::Error(error.get().to_owned()),
            }))
        }
        Ok(_) => Ok(None),
        Err(_) => Err(Failure::Broken),
    }
}

/// A client that does not read fast enough loses this event, and never slows the call.
fn pass_on(progress: Option<&Progress>, event: Bytes) {
    if let Some(progress) = progress {
        let _lost = progress.try_send(event);
    }
}
