//! One MCP message over streamable HTTP: a request out, its answer in, as JSON or as the last
//! event of a stream.
//!
//! Owns framing, mirrored headers and what a server may send before its answer: for ourselves,
//! notifications go to the observer, a ping is answered, any other request is refused; for a
//! client behind us, all of it is passed on as it came.
//!
//! Does not know of payments: those arrive as `_meta` or headers that the caller brings.

use crate::{
    error::{ClientError, TransportError},
    http::Http,
    secret::Secret,
    sign_in::{Access, Wanted},
    sse::Decoder,
};
use bytes::Bytes;
use countersign_core::wire::{
    headers::{self, METHOD, NAME, PROTOCOL_VERSION},
    json::quote,
    jsonrpc::{self, Message},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

/// The header that names a legacy session.
pub(crate) const SESSION: &str = "mcp-session-id";

/// Receives texts: the notifications that a server sends before its answer, as JSON; what a person
/// should read.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(&str) + Send + Sync>);

impl Observer {
    /// An observer from a function that returns quickly.
    #[must_use]
    pub fn new(see: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }

    /// Hands it a text.
    pub(crate) fn see(&self, text: &str) {
        (self.0)(text);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
}

/// What was in it.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// A JSON-RPC result.
    Result(Box<RawValue>),
    /// A JSON-RPC error.
    Error(RpcError),
    /// Another JSON object: problem details, a 402 body.
    Object(Box<RawValue>),
    /// Nothing that we read.
    Other,
}

/// A JSON-RPC error.
#[derive(Debug, Deserialize)]
pub(crate) struct RpcError {
    pub(crate) code: i64,
    #[serde(default)]
    pub(crate) message: String,
    pub(crate) data: Option<Box<RawValue>>,
    /// The object, as it came.
    #[serde(skip)]
    pub(crate) raw: Option<Box<RawValue>>,
}

/// Who hears what a server sends before its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ear<'a> {
    /// We, through the observer.
    Own,
    /// A client behind us: it gets each message, on one line.
    Client(&'a mpsc::Sender<String>),
}

/// The headers that a modern request mirrors its body in.
#[derive(Debug)]
pub(crate) struct Mirror<'a> {
    pub(crate) version: &'a str,
    pub(crate) name: Option<&'a str>,
    /// `Mcp-Param-*`: what follows the prefix, and the value.
    pub(crate) params: &'a [(String, String)],
}

/// One server's MCP endpoint.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) http: Http,
    pub(crate) uri: Uri,
    pub(crate) access: Arc<Access>,
    pub(crate) observer: Option<Observer>,
    next_id: Arc<AtomicU64>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.uri)
    }
}

impl Endpoint {
    /// An endpoint; nothing is sent yet.
    pub(crate) fn new(http: Http, uri: Uri, access: Access, observer: Option<Observer>) -> Self {
        let access = Arc::new(access);
        Self { http, uri, access, observer, next_id: Arc::new(AtomicU64::new(1)) }
    }

    /// The headers of every request: what we accept, and who we are.
    pub(crate) fn headers(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(header::ACCEPT, accept);
        if let Some(bearer) = self.access.bearer() {
            set_secret(&mut headers, header::AUTHORIZATION, &bearer_value(&bearer))?;
        }
        Ok(headers)
    }

    /// Sends a request under a new id and reads its answer.
    pub(crate) async fn request(
        &self,
        method: &str,
        params: &str,
        headers: HeaderMap,
    ) -> Result<Answer, TransportError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let body = jsonrpc::request(&id, method, Some(params));
        self.http.in_time(self.exchange(&id, headers, body, Ear::Own)).await
    }

    /// An id that no client behind us uses, as JSON.
    pub(crate) fn own_id(&self) -> String {
        quote(&format!("countersign-{}", self.next_id.fetch_add(1, Ordering::Relaxed)))
    }

    /// Sends a notification or a response; the answer's body is of no interest.
    pub(crate) async fn tell(
        &self,
        body: String,
        headers: HeaderMap,
    ) -> Result<u16, TransportError> {
        let sent = async {
            let response = self.http.post(&self.uri, headers, body).await?;
            Ok(response.status().as_u16())
        };
        self.http.in_time(sent).await
    }

    /// Sends a message that is written already and reads the answer to this id. Where the server
    /// wants a token, or another one, and there is one to be had, it is sent once more with that:
    /// the server has said that it did nothing.
    pub(crate) async fn exchange(
        &self,
        id: &str,
        mut headers: HeaderMap,
        body: String,
        ear: Ear<'_>,
    ) -> Result<Answer, TransportError> {
        let sent = self.access.bearer();
        let answer = self.exchange_once(id, headers.clone(), body.clone(), ear).await?;
        let Some(wanted) = Wanted::of(&answer) else { return Ok(answer) };
        let value = |bearer: &Secret| HeaderValue::from_str(&bearer_value(bearer)).ok();
        // A payment in the place of the token is not replaced by one.
        let is_own = headers.get(header::AUTHORIZATION) == sent.as_ref().and_then(value).as_ref();
        if !is_own || !self.access.renew(&self.http, &self.uri, sent.as_ref(), &wanted).await {
            return Ok(answer);
        }
        let renewed = self.access.bearer();
        let Some(mut renewed) = renewed.as_ref().and_then(value) else { return Ok(answer) };
        renewed.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, renewed);
        self.exchange_once(id, headers, body, ear).await
    }

    async fn exchange_once(
        &self,
        id: &str,
        headers: HeaderMap,
        body: String,
        ear: Ear<'_>,
    ) -> Result<Answer, TransportError> {
        let response = self.http.post(&self.uri, headers.clone(), body).await?;
        let (head, body) = response.into_parts();
        let body = match is_stream(&head.headers) {
            true => self.read_stream((id, ear), &headers, body).await?,
            false => read_body(id, &self.http.read(body).await?),
        };
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Passes on what a server sends by itself, until it ends the stream; `false` when it has none.
    pub(crate) async fn follow(
        &self,
        headers: HeaderMap,
        client: &mpsc::Sender<String>,
    ) -> Result<bool, TransportError> {
        let response = self.http.send(Method::GET, &self.uri, headers.clone(), String::new());
        let response = self.http.in_time(response).await?;
        if !response.status().is_success() || !is_stream(response.headers()) {
            return Ok(false);
        }
        // No answer has an empty id, so it ends with the stream.
        let ended = self.read_stream(("", Ear::Client(client)), &headers, response.into_body());
        ended.await.map(|_| true).or(Ok(true))
    }

    /// Ends a legacy session.
    pub(crate) async fn end(&self, headers: HeaderMap) -> Result<(), TransportError> {
        let ended = self.http.send(Method::DELETE, &self.uri, headers, String::new());
        self.http.in_time(ended).await.map(drop)
    }

    /// Reads events up to the answer. A stream that ends before it has lost it.
    pub(crate) async fn read_stream(
        &self,
        wanted: (&str, Ear<'_>),
        headers: &HeaderMap,
        mut body: impl Body<Data = Bytes> + Unpin,
    ) -> Result<AnswerBody, TransportError> {
        let mut decoder = Decoder::new(self.http.max_answer_bytes);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| TransportError::Lost)?;
            let Ok(data) = frame.into_data() else { continue };
            for event in decoder.push(&data).map_err(|_| TransportError::TooLarge)? {
                if let Some(answer) = self.event(wanted, headers, &event).await? {
                    return Ok(answer);
                }
            }
        }
        Err(TransportError::Lost)
    }

    /// One event: the answer, or something on the way to it.
    async fn event(
        &self,
        (id, ear): (&str, Ear<'_>),
        headers: &HeaderMap,
        event: &[u8],
    ) -> Result<Option<AnswerBody>, TransportError> {
        let message = Message::parse_relayed(event, self.http.max_answer_bytes)
            .map_err(|_| TransportError::NotMcp)?;
        match (message, ear) {
            (Message::Response(response), _) => {
                if response.id.is_some_and(|found| found.get() != id) {
                    return Ok(None);
                }
                read_outcome(response.outcome).map(Some)
            }
            (Message::Notification(_) | Message::Request(_), Ear::Client(client)) => {
                // Whoever has gone hears nothing more.
                let _gone = client.send(one_line(event)).await;
                Ok(None)
            }
            (Message::Notification(_), Ear::Own) => {
                if let (Some(observer), Ok(text)) = (&self.observer, std::str::from_utf8(event)) {
                    observer.see(text);
                }
                Ok(None)
            }
            (Message::Request(request), Ear::Own) => {
                let reply = match &*request.method {
                    "ping" => jsonrpc::result(request.id, "{}"),
                    _ => jsonrpc::error(Some(request.id), -32601, "not supported", None),
                };
                // A server that does not take the reply may still answer.
                let _ = self.http.post(&self.uri, headers.clone(), reply).await;
                Ok(None)
            }
        }
    }
}

/// Whether a body is a stream of events.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"))
}

/// A body that is no stream. What is not our answer is kept if it is an object: HTTP's own
/// refusals look like that.
pub(crate) fn read_body(id: &str, body: &Bytes) -> AnswerBody {
    if let Ok(Message::Response(response)) = Message::parse_relayed(body, body.len())
        && response.id.is_none_or(|found| found.get() == id)
        && let Ok(answer) = read_outcome(response.outcome)
    {
        return answer;
    }
    match serde_json::from_slice::<Box<RawValue>>(body) {
        Ok(raw) if raw.get().starts_with('{') => AnswerBody::Object(raw),
        _ => AnswerBody::Other,
    }
}

fn read_outcome(outcome: Result<&RawValue, &RawValue>) -> Result<AnswerBody, TransportError> {
    match outcome {
        Ok(result) => Ok(AnswerBody::Result(result.to_owned())),
        Err(raw) => {
            let error = serde_json::from_str::<RpcError>(raw.get());
            let error = error.map_err(|_| TransportError::NotMcp)?;
            Ok(AnswerBody::Error(RpcError { raw: Some(raw.to_owned()), ..error }))
        }
    }
}

fn bearer_value(bearer: &Secret) -> String {
    format!("Bearer {}", bearer.expose())
}

/// A JSON text on one line: in JSON a line break is white space between tokens, never a part of
/// one.
pub(crate) fn one_line(json: &[u8]) -> String {
    String::from_utf8_lossy(json).replace(['\n', '\r'], " ")
}

/// Sets a header whose value must not be shown.
pub(crate) fn set_secret(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: &str,
) -> Result<(), ClientError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| ClientError::BadInput)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// Sets a header.
pub(crate) fn set(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), ClientError> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| ClientError::BadInput)?;
    let value = HeaderValue::from_str(value).map_err(|_| ClientError::BadInput)?;
    headers.insert(name, value);
    Ok(())
}

/// Sets the headers that mirror a modern request.
pub(crate) fn set_mirrors(
    headers: &mut HeaderMap,
    method: &str,
    mirror: &Mirror<'_>,
) -> Result<(), ClientError> {
    set(headers, PROTOCOL_VERSION, mirror.version)?;
    set(headers, METHOD, method)?;
    if let Some(name) = mirror.name {
        set(headers, NAME, &headers::encode(name))?;
    }
    for (name, value) in mirror.params {
        set(headers, &format!("{}{name}", headers::PARAM), &headers::encode(value))?;
    }
    Ok(())
}

/// A JSON object from plain keys and JSON values.
pub(crate) fn object(entries: &[(&str, &str)]) -> String {
    let members: Vec<String> =
        entries.iter().map(|(key, value)| format!("{}:{value}", quote(key))).collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_our_answer_or_what_it_is() {
        let read = |text: &'static str| read_body("7", &Bytes::from_static(text.as_bytes()));
        let ours = read(r#"{"jsonrpc":"2.0","id":7,"result":{"n":123456789012345678901}}"#);
        assert!(matches!(ours, AnswerBody::Result(raw) if raw.get().contains("8901")));
        let error = read(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"m"}}"#);
        assert!(matches!(error, AnswerBody::Error(error) if error.code == -32020));
        let foreign = read(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#);
        assert!(matches!(foreign, AnswerBody::Object(_)), "another request's answer is not ours");
        assert!(matches!(read("<html>"), AnswerBody::Other));
    }
}
