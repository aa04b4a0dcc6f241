//! A transport for `rmcp` clients that pays, asks for approvals and signs in: `countersign connect`
//! within the process.

use crate::{
    bridge::{Bridge, BridgeOptions},
    error::ClientError,
    options::Options,
};
use rmcp::{
    RoleClient,
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::{Transport, async_rw::AsyncRwTransport},
};
use std::{fmt, future::Future, io, sync::Arc};
use tokio::{
    io::{DuplexStream, duplex},
    sync::watch,
    task::JoinHandle,
};

/// Bytes on their way to or from the client.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// A transport that pays: `client.serve(PayTransport::new(url, options, people)?)`.
pub struct PayTransport {
    messages: AsyncRwTransport<RoleClient, DuplexStream, DuplexStream>,
    serving: Option<JoinHandle<io::Result<()>>>,
    _stop: watch::Sender<bool>,
}

impl fmt::Debug for PayTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayTransport")
    }
}

impl PayTransport {
    /// A transport to the server at this URL. Nothing is sent until the client sends something.
    /// Within a Tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], [`ClientError::PlainHttp`], [`ClientError::BadInput`].
    pub fn new(url: &str, options: Options, people: BridgeOptions) -> Result<Self, ClientError> {
        let bridge = Arc::new(Bridge::new(url, options, people)?);
        let (to_bridge, input) = duplex(WAITING_BYTES_MAX);
        let (from_bridge, output) = duplex(WAITING_BYTES_MAX);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(bridge.serve_stdio(input, output, stopped));
        let messages = AsyncRwTransport::new(from_bridge, to_bridge);
        Ok(Self { messages, serving: Some(serving), _stop: stop })
    }
}

impl Transport<RoleClient> for PayTransport {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.messages.send(message)
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleClient>>> + Send {
        self.messages.receive()
    }

    /// Returns once what pays is finished and kept.
    async fn close(&mut self) -> io::Result<()> {
        self.messages.close().await?;
        // Nobody else reads what is still said.
        while self.messages.receive().await.is_some() {}
        match self.serving.take() {
            Some(serving) => serving.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
            None => Ok(()),
        }
    }
}
