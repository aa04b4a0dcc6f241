//! The way to a running gateway: its admin API, over the Unix socket.

use super::stop::Stop;
use crate::admin::{form::Items, page::LIMIT_MAX};
use bytes::Bytes;
use countersign_client::Problem;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The longest exchange.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The way to one gateway.
#[derive(Clone, Debug)]
pub(super) struct Link {
    socket: PathBuf,
}

impl Link {
    /// The way through a socket.
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Stop> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// A whole list, or the first `most` of it, page by page.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        most: Option<u32>,
    ) -> Result<Items<T>, Stop> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut left = most.unwrap_or(u32::MAX);
        let mut all = Items { items: Vec::new(), next: None };
        while left > 0 {
            let limit = left.min(LIMIT_MAX);
            let cursor = all.next.map(|next| format!("&cursor={next}")).unwrap_or_default();
            let page: Items<T> = self.get(&format!("{path}{mark}limit={limit}{cursor}")).await?;
            left = left.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX));
            all.items.extend(page.items);
            all.next = page.next;
            if all.next.is_none() {
                break;
            }
        }
        Ok(Items { next: None, ..all })
    }

    /// Changes something.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Stop> {
        let body = serde_json::to_vec(body).map_err(Stop::internal)?;
        self.exchange(Method::POST, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Stop> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok::<_, Stop>((status, body.map_err(|_| self.broken())?.to_bytes()))
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await;
        let (status, bytes) = answer.map_err(|_| self.broken())??;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|_| self.broken());
        }
        let problem = serde_json::from_slice::<Box<RawValue>>(&bytes).ok();
        let problem = problem.and_then(|raw| Problem::parse(&raw));
        Err(problem.map_or_else(|| self.broken(), |problem| Stop::from(&problem)))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Stop> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.display();
            Stop::unreachable(format_args!("no gateway answers at `{socket}`: {error}"))
                .next("start it with `countersign serve`, as the same user")
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| self.broken())?;
        // Its errors are those of the exchange.
        tokio::spawn(async move { connection.await.is_ok() });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "countersign")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(Stop::usage)?;
        sender.send_request(request).await.map_err(|_| self.broken())
    }

    fn broken(&self) -> Stop {
        let socket = self.socket.display();
        Stop::unreachable(format_args!("`{socket}` did not answer as a gateway does"))
            .next("look whether the gateway runs, and in which version")
    }
}
