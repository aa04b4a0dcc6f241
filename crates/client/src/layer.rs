//! What pays for the tool calls that pass through an HTTP client: a layer of `tower`.
//!
//! A request that is no `tools/call` passes untouched. A call that is answered with a challenge is
//! paid for and sent once more, over the same client and with the same headers. What the server
//! says passes as it came; where we did not pay, or nobody can tell what became of a payment, the
//! answer is a tool result of ours that says so.
//!
//! INVARIANT: what pays runs to its end, also when whoever waits for it has gone.

use crate::{
    bridge::{Bridge, BridgeOptions, Carried, Words, tool_call},
    courier::Courier,
    error::{ClientError, TransportError},
    http::read_within,
    options::Options,
    rpc::is_stream,
};
use bytes::Bytes;
use countersign_core::wire::x402::PAYMENT_REQUIRED;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::sync::{mpsc, oneshot};
use tower_layer::Layer;
use tower_service::Service;

/// Largest request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Messages that wait to be read.
const WAITING_MAX: usize = 64;
/// Most servers that are remembered.
const SERVERS_MAX: usize = 64;

/// Pays for the tool calls that pass through an HTTP client. Cheap to clone; clones share what is
/// spent and kept.
#[derive(Clone, Debug)]
pub struct PayLayer(Arc<Payer>);

#[derive(Debug)]
struct Payer {
    options: Options,
    people: BridgeOptions,
    /// By the URL of the server.
    bridges: Mutex<BTreeMap<String, Arc<Bridge>>>,
}

/// An HTTP client that pays.
#[derive(Clone, Debug)]
pub struct Pay<S> {
    inner: S,
    payer: Arc<Payer>,
}

/// Why there is no answer. Nothing was paid.
#[derive(Debug)]
pub enum PayError<E> {
    /// The client's own error.
    Inner(E),
    /// The request cannot be paid for as it is.
    Refused(ClientError),
}

impl<E: fmt::Display> fmt::Display for PayError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl<E: Error + 'static> Error for PayError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Inner(error) => Some(error),
            Self::Refused(error) => Some(error),
        }
    }
}

impl PayLayer {
    /// Pays within these options, and shows people what they must approve. Tokens are those that
    /// the requests carry: `bearer`, `sign_in`, `era`, `capabilities`, `name` and `observer` of
    /// the options are for [`crate::Client`] and are not looked at.
    #[must_use]
    pub fn new(options: Options, people: BridgeOptions) -> Self {
        let options = Options { bearer: None, sign_in: None, ..options };
        Self(Arc::new(Payer { options, people, bridges: Mutex::default() }))
    }
}

impl<S> Layer<S> for PayLayer {
    type Service = Pay<S>;

    fn layer(&self, inner: S) -> Pay<S> {
        Pay { inner, payer: Arc::clone(&self.0) }
    }
}

impl Payer {
    /// The bridge to the server that a request is for.
    fn bridge(&self, head: &request::Parts) -> Result<Arc<Bridge>, ClientError> {
        let url = head.uri.to_string();
        let mut bridges = lock(&self.bridges);
        if let Some(bridge) = bridges.get(&url) {
            return Ok(Arc::clone(bridge));
        }
        let bridge = Bridge::new(&url, self.options.clone(), self.people.clone())?;
        let bridge = Arc::new(bridge);
        if bridges.len() >= SERVERS_MAX {
            bridges.pop_first();
        }
        bridges.insert(url, Arc::clone(&bridge));
        Ok(bridge)
    }
}

impl<S, B, R> Service<Request<B>> for Pay<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    R: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<PayBody<R>>;
    type Error = PayError<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(PayError::Inner)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let payer = Arc::clone(&self.payer);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = read_within(body, REQUEST_BYTES_MAX).await;
            let body = body.map_err(|error| PayError::Refused(error.into()))?;
            let id = tool_call(&body).map(|request| request.id.get().to_owned());
            let Some(id) = id.filter(|_| head.method == Method::POST) else {
                let passed = ready.call(Request::from_parts(head, Full::new(body))).await;
                return Ok(passed.map_err(PayError::Inner)?.map(PayBody::inner));
            };
            let bridge = payer.bridge(&head).map_err(PayError::Refused)?;
            // What is sent waits for its own turn: this one is not kept from others meanwhile.
            let idle = ready.clone();
            drop(ready);
            carry(idle, bridge, (&id, head), body).await
        })
    }
}

/// Makes a tool call over `inner`, paid for if it must and may be.
async fn carry<S, R>(
    inner: S,
    bridge: Arc<Bridge>,
    (id, head): (&str, request::Parts),
    body: Bytes,
) -> Result<Response<PayBody<R>>, PayError<S::Error>>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
{
    let takes_events = head.headers.get(header::ACCEPT).is_some_and(|accept| {
        accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream"))
    });
    let failed: Arc<Mutex<Option<S::Error>>> = Arc::default();
    let courier = {
        let failed = Arc::clone(&failed);
        Courier::new(id, head, move |request| {
            let (mut inner, failed) = (inner.clone(), Arc::clone(&failed));
            Box::pin(async move {
                let sent = async {
                    poll_fn(|context| inner.poll_ready(context)).await?;
                    inner.call(request).await
                };
                match sent.await {
                    Ok(response) => {
                        let lost = |_| TransportError::Lost;
                        Some(response.map(|body| body.map_err(lost).boxed_unsync()))
                    }
                    Err(error) => {
                        *lock(&failed) = Some(error);
                        None
                    }
                }
            })
        })
    };
    let (out, mut messages) = mpsc::channel(WAITING_MAX);
    let (done, mut answered) = oneshot::channel();
    tokio::spawn(async move {
        let carried = bridge.carry(courier, &body, &out).await;
        // Whoever has gone hears nothing more.
        let _gone = done.send(carried);
    });
    let carried = loop {
        tokio::select! {
            biased;
            Some(message) = messages.recv() => {
                if takes_events {
                    let events = Events { first: Some(message), messages, answered };
                    return Ok(streamed(events));
                }
            }
            carried = &mut answered => break carried.ok().flatten(),
        }
    };
    let lost = || PayError::Refused(TransportError::Lost.into());
    let carried = carried.ok_or_else(lost)?;
    if carried.answered.words == Words::Nobodys
        && let Some(error) = lock(&failed).take()
    {
        return Err(PayError::Inner(error));
    }
    Ok(whole(carried))
}

/// The answer to a call, as HTTP: in the server's own terms as far as they go.
fn whole<R>(carried: Carried) -> Response<PayBody<R>> {
    let Carried { answered, told, is_raw } = carried;
    let (mut response, mut text) = (Response::new(()), answered.text.into_bytes());
    if let Some(told) = told {
        *response.status_mut() = told.status;
        *response.headers_mut() = told.headers;
        if is_raw {
            text = told.body.into();
        }
    }
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    if answered.words != Words::Servers {
        // Nobody is to pay what we did not.
        for name in [&header::WWW_AUTHENTICATE, &HeaderName::from_static("pow-challenge")] {
            headers.remove(name);
        }
        headers.remove(PAYMENT_REQUIRED);
        set_kind(headers, "application/json");
    }
    let text = match is_stream(headers) && !is_raw {
        true => event(&String::from_utf8_lossy(&text)),
        false => text.into(),
    };
    response.map(|()| PayBody(Shape::Whole(Some(text))))
}

fn streamed<R>(events: Events) -> Response<PayBody<R>> {
    let mut response = Response::new(PayBody(Shape::Events(Box::new(events))));
    set_kind(response.headers_mut(), "text/event-stream");
    response
}

fn set_kind(headers: &mut HeaderMap, kind: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
}

fn event(message: &str) -> Bytes {
    format!("event: message\ndata: {message}\n\n").into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of an answer: the client's own, or one of ours.
pub struct PayBody<R>(Shape<R>);

enum Shape<R> {
    Inner(Pin<Box<R>>),
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

/// What the server says on the way, and the answer at last.
struct Events {
    first: Option<String>,
    messages: mpsc::Receiver<String>,
    answered: oneshot::Receiver<Option<Carried>>,
}

impl<R> fmt::Debug for PayBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayBody")
    }
}

impl<R> PayBody<R> {
    fn inner(body: R) -> Self {
        Self(Shape::Inner(Box::pin(body)))
    }
}

impl<R: Body<Data = Bytes>> Body for PayBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        match &mut self.get_mut().0 {
            Shape::Inner(body) => body.as_mut().poll_frame(context),
            Shape::Whole(bytes) => bytes.take().map_or(Poll::Ready(None), frame),
            Shape::Events(events) => match std::task::ready!(events.poll_next(context)) {
                Some(message) => frame(event(&message)),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Shape::Inner(body) => body.is_end_stream(),
            Shape::Whole(bytes) => bytes.is_none(),
            Shape::Events(_) => false,
        }
    }
}

impl Events {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<String>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if let Some(message) = std::task::ready!(self.messages.poll_recv(context)) {
            return Poll::Ready(Some(message));
        }
        if self.answered.is_terminated() {
            return Poll::Ready(None);
        }
        let answered = std::task::ready!(Pin::new(&mut self.answered).poll(context));
        Poll::Ready(answered.ok().flatten().map(|carried| carried.answered.text))
    }
}
