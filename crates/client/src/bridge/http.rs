//! The bridge over HTTP: one endpoint of this machine, `/mcp`, for clients that speak streamable
//! HTTP and can do nothing else.
//!
//! INVARIANT: only who shows the token is served, under a name of this machine, and no page of
//! another origin: neither another user here nor a web site can spend.
//! INVARIANT: an answer does not need its connection: what pays is finished and kept.

use super::Bridge;
use crate::{passage::Downstream, rpc::SESSION, secret::Secret};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use countersign_core::{
    digest::Digest,
    wire::jsonrpc::{Message, Request as Asked},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

/// The path of the endpoint.
const PATH: &str = "/mcp";
/// Largest message.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Most sessions at a time.
const SESSIONS_MAX: usize = 64;
/// Messages that wait to be sent to one client.
const WAITING_MAX: usize = 64;

/// An answer: a message, or a stream of them.
enum Out {
    Whole(Option<Bytes>),
    Events(mpsc::Receiver<String>),
}

impl Body for Out {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(messages) => messages.poll_recv(context).map(|message| {
                let event = format!("event: message\ndata: {}\n\n", message?);
                Some(Ok(Frame::data(event.into())))
            }),
        }
    }
}

/// The endpoint.
struct Endpoint {
    bridge: Arc<Bridge>,
    token: Secret,
    port: u16,
    sessions: Mutex<BTreeMap<String, Arc<Downstream>>>,
    /// Everybody whose requests may still run.
    clients: Mutex<Vec<Weak<Downstream>>>,
    /// Held by whatever runs.
    running: mpsc::Sender<()>,
}

impl Bridge {
    /// Serves the clients of this machine that show the token, until `stop` becomes true.
    ///
    /// # Errors
    /// The listener is not one of this machine.
    pub async fn serve_http(
        self: Arc<Self>,
        listener: TcpListener,
        token: Secret,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (running, mut all) = mpsc::channel(1);
        let endpoint = Arc::new(Endpoint {
            bridge: self,
            token,
            port: address.port(),
            sessions: Mutex::default(),
            clients: Mutex::default(),
            running,
        });
        loop {
            let stream = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            let endpoint = Arc::downgrade(&endpoint);
            let service = service_fn(move |request| {
                let endpoint = endpoint.upgrade();
                async move {
                    Ok::<_, Infallible>(match endpoint {
                        Some(endpoint) => endpoint.answer(request).await,
                        None => plain(StatusCode::SERVICE_UNAVAILABLE),
                    })
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
        for client in endpoint.clients().drain(..).filter_map(|client| client.upgrade()) {
            client.withdraw_all();
        }
        drop(endpoint);
        // Ends once nothing runs any more.
        while all.recv().await.is_some() {}
        Ok(())
    }
}

impl Endpoint {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Out> {
        if let Err(status) = self.admits(request.headers()) {
            return refused(status);
        }
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND);
        }
        let named = match self.session(request.headers()) {
            Ok(named) => named,
            Err(status) => return plain(status),
        };
        match (request.method().clone(), named) {
            (Method::POST, named) => self.post(request, named).await,
            (Method::GET, Some((_, of))) => self.follow(of),
            (Method::DELETE, Some((name, of))) => {
                self.sessions().remove(&name);
                // The server's side of it ends by itself, too.
                let _unended = self.bridge.client.close_for(&of).await;
                plain(StatusCode::OK)
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    /// Whether the request comes from here, and from somebody who has the token.
    fn admits(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
        let is_here = |text: &str| {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, "80"));
            port == self.port.to_string() && matches!(host, "127.0.0.1" | "localhost" | "[::1]")
        };
        if !text(header::HOST).is_some_and(is_here) {
            return Err(StatusCode::FORBIDDEN);
        }
        let origin = text(header::ORIGIN);
        if !origin.is_none_or(|origin| origin.strip_prefix("http://").is_some_and(is_here)) {
            return Err(StatusCode::FORBIDDEN);
        }
        let shown = text(header::AUTHORIZATION).and_then(|value| value.split_once(' '));
        let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let digest = |text: &str| Digest::of(text.trim().as_bytes());
        let expected = digest(self.token.expose());
        let is_shown = shown.is_some_and(|(_, token)| {
            verify_slices_are_equal(digest(token).as_bytes(), expected.as_bytes()).is_ok()
        });
        if is_shown { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }

    /// The session that a request names.
    fn session(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<(String, Arc<Downstream>)>, StatusCode> {
        let Some(name) = headers.get(SESSION) else { return Ok(None) };
        let name = name.to_str().unwrap_or_default();
        let found = self.sessions().get(name).cloned();
        found.map(|of| Some((name.to_owned(), of))).ok_or(StatusCode::NOT_FOUND)
    }

    async fn post(
        self: Arc<Self>,
        request: Request<Incoming>,
        named: Option<(String, Arc<Downstream>)>,
    ) -> Response<Out> {
        let takes_events = request.headers().get(header::ACCEPT).is_some_and(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream"))
        });
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json")) {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let body = Limited::new(request.into_body(), MESSAGE_BYTES_MAX).collect().await;
        let Ok(body) = body.map(http_body_util::Collected::to_bytes) else {
            return plain(StatusCode::PAYLOAD_TOO_LARGE);
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        let of = named.map_or_else(Arc::default, |(_, of)| of);
        self.remember(&of);
        let (out, mut messages) = mpsc::channel(WAITING_MAX);
        let asked = match Message::parse_relayed(text.as_bytes(), text.len()) {
            Ok(Message::Request(Asked { method, .. })) => Some(method.into_owned()),
            Ok(Message::Notification(_) | Message::Response(_)) => None,
            Err(_) => Some(String::new()),
        };
        let (bridge, client, running) = (self.bridge.clone(), of.clone(), self.running.clone());
        let taken = tokio::spawn(async move {
            bridge.take(&client, out, &text).await;
            drop(running);
        });
        let Some(method) = asked else {
            let _panicked = taken.await;
            return plain(StatusCode::ACCEPTED);
        };
        if takes_events && method != "initialize" {
            return with_kind(Out::Events(messages), "text/event-stream");
        }
        // Whoever reads no events gets the answer alone.
        let mut last = None;
        while let Some(message) = messages.recv().await {
            last = Some(message.into());
        }
        let mut answer = with_kind(Out::Whole(last), "application/json");
        if method == "initialize" && of.has_session() {
            self.name(&mut answer, of);
        }
        answer
    }

    /// Gives a session a name of ours.
    fn name(&self, answer: &mut Response<Out>, of: Arc<Downstream>) {
        let name = hex::encode(self.bridge.client.options.world.random::<16>());
        let mut sessions = self.sessions();
        if sessions.len() >= SESSIONS_MAX {
            *answer = plain(StatusCode::SERVICE_UNAVAILABLE);
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&name) {
            answer.headers_mut().insert(SESSION, value);
            sessions.insert(name, of);
        }
    }

    /// What the server sends by itself.
    fn follow(&self, of: Arc<Downstream>) -> Response<Out> {
        let (out, messages) = mpsc::channel(WAITING_MAX);
        let bridge = self.bridge.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = bridge.follow(&of, &out) => out.closed().await,
                () = out.closed() => {}
            }
        });
        with_kind(Out::Events(messages), "text/event-stream")
    }

    fn remember(&self, of: &Arc<Downstream>) {
        let mut clients = self.clients();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(of));
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Downstream>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Downstream>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plain(status: StatusCode) -> Response<Out> {
    let mut answer = Response::new(Out::Whole(None));
    *answer.status_mut() = status;
    answer
}

fn refused(status: StatusCode) -> Response<Out> {
    let mut answer = plain(status);
    if status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    answer
}

fn with_kind(body: Out, kind: &'static str) -> Response<Out> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
