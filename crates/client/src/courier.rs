//! Tool calls of a program that sends its requests by itself: with its own headers and token, over
//! its own connections. Only what pays is ours.
//!
//! Owns what is sent in such a program's name, and the head of what it was answered.

use crate::{
    client::Client,
    error::{ClientError, TransportError},
    http::read_within,
    passage::Sent,
    rpc::{Answer, Ear, is_stream, read_body, set_secret},
    secret::Secret,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
};
use tokio::sync::mpsc;

/// An answer that is to be read.
pub(crate) type Arriving = Response<UnsyncBoxBody<Bytes, TransportError>>;
/// A request on its way. `None`: there is no answer, and the program has the reason.
pub(crate) type Sending = Pin<Box<dyn Future<Output = Option<Arriving>> + Send>>;

/// One request of such a program, to be sent as often as its payment needs.
pub(crate) struct Courier {
    /// The request's id, as JSON.
    pub(crate) id: String,
    head: request::Parts,
    send: Box<dyn Fn(Request<Full<Bytes>>) -> Sending + Send + Sync>,
    told: Mutex<Option<Told>>,
}

/// What the server answered last, as HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body; nothing of a stream.
    pub(crate) body: Bytes,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Courier({})", self.head.uri)
    }
}

impl Courier {
    /// A request with this id and head, and what sends it.
    pub(crate) fn new(
        id: &str,
        head: request::Parts,
        send: impl Fn(Request<Full<Bytes>>) -> Sending + Send + Sync + 'static,
    ) -> Self {
        Self { id: id.to_owned(), head, send: Box::new(send), told: Mutex::new(None) }
    }

    /// The token that the program shows: whatever is in the place of one.
    pub(crate) fn bearer(&self) -> Option<Secret> {
        let shown = self.head.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let bearer = shown.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        Some(Secret::new(bearer.map_or(shown, |(_, token)| token.trim())))
    }

    /// What the server answered last.
    pub(crate) fn told(&self) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    fn request(&self, sent: &Sent<'_>) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut head = self.head.clone();
        head.headers.remove(header::CONTENT_LENGTH);
        for (name, value) in sent.secret_headers {
            set_secret(&mut head.headers, name.clone(), value)?;
        }
        Ok(Request::from_parts(head, Full::new(Bytes::from(sent.body.clone()))))
    }
}

impl Client {
    /// Sends a request as its program would, and reads its answer.
    pub(crate) async fn carry(
        &self,
        sent: &Sent<'_>,
        courier: &Courier,
        out: &mpsc::Sender<String>,
    ) -> Result<Answer, ClientError> {
        let request = courier.request(sent)?;
        // Whether it has left is the program's to know.
        let response = (courier.send)(request).await.ok_or(TransportError::Lost)?;
        let (head, body) = response.into_parts();
        let mut told =
            Told { status: head.status, headers: head.headers.clone(), body: Bytes::new() };
        let body = if is_stream(&head.headers) {
            courier.hear(told);
            self.endpoint.read_stream((sent.id, Ear::Client(out)), &head.headers, body).await?
        } else {
            told.body = read_within(body, self.options.max_answer_bytes).await?;
            courier.hear(told.clone());
            read_body(sent.id, &told.body)
        };
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}
