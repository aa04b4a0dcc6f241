//! The JSON side of a gRPC daemon, as LND and loop have it: a macaroon in a header, 64-bit integers
//! as strings.

use super::NodeError;
use crate::{
    config::Secret,
    fetch::{Fetch, Reply},
};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

/// The daemon.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    fetch: Fetch,
    url: String,
    macaroon: Secret,
}

impl Gateway {
    /// The daemon at `url`, by a macaroon in hex.
    pub(super) fn new(fetch: Fetch, url: &str, macaroon: Secret) -> Self {
        Self { fetch, url: url.trim_end_matches('/').to_owned(), macaroon }
    }

    /// Asks it.
    ///
    /// # Errors
    /// No answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Reply, NodeError> {
        let headers = [("grpc-metadata-macaroon", self.macaroon.expose().trim())];
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        let url = format!("{}{path}", self.url);
        Ok(self.fetch.ask(method, &url, &headers, body).await?)
    }
}

/// A 64-bit integer, which its JSON writes as a string.
#[derive(Default, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Number(pub(super) u64);

impl TryFrom<Value> for Number {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Self).ok_or("not a number")
    }
}
