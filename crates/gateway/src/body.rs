//! Bodies of our answers: whole, relayed from upstream as they arrive, or a stream of events.

use crate::places::Place;
use bytes::Bytes;
use countersign_core::refusal::Code;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;

/// A response body.
#[derive(Debug)]
pub enum Body {
    /// Known whole.
    Full(Full<Bytes>),
    /// The upstream's own body.
    Relay(Incoming),
    /// The same, while it holds its reader's place.
    Stream(Incoming, Place),
    /// Server-sent events, ended by the sender's drop.
    Events(mpsc::Receiver<Bytes>),
}

impl Body {
    /// A body from bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }

    /// Holds a place for as long as it is relayed.
    #[must_use]
    pub fn holding(self, place: Option<Place>) -> Self {
        match (self, place) {
            (Self::Relay(incoming), Some(place)) => Self::Stream(incoming, place),
            (body, _) => body,
        }
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::Full(Full::default())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never: std::convert::Infallible| match never {}),
            Self::Relay(incoming) | Self::Stream(incoming, _) => Pin::new(incoming).poll_frame(cx),
            Self::Events(events) => {
                events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Relay(incoming) | Self::Stream(incoming, _) => incoming.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Relay(incoming) | Self::Stream(incoming, _) => incoming.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// Why a body was not read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Larger than the limit.
    TooLarge,
    /// The peer went away or broke the protocol.
    Broken,
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// See [`ReadError`].
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(ReadError::TooLarge);
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge),
        Err(_) => Err(ReadError::Broken),
    }
}

/// Reads a client's body of at most `limit` bytes, for `patience_ms` at most.
///
/// # Errors
/// [`Code::TooLarge`]; [`Code::MalformedJson`] for one that did not come whole.
pub(crate) async fn read_from_client(
    body: Incoming,
    limit: usize,
    patience_ms: u64,
) -> Result<Bytes, Code> {
    let reading = read(body, limit);
    let read = tokio::time::timeout(Duration::from_millis(patience_ms), reading).await;
    read.unwrap_or(Err(ReadError::Broken)).map_err(|error| match error {
        ReadError::TooLarge => Code::TooLarge,
        ReadError::Broken => Code::MalformedJson,
    })
}
