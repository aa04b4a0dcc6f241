//! A `reqwest` client that pays for the tool calls among its requests.

use crate::{
    bridge::tool_call,
    layer::{Pay, PayError, PayLayer},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use reqwest::{Body, Client, ResponseBuilderExt as _};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tower_layer::Layer as _;
use tower_service::Service;

/// A `reqwest` client that pays. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PayClient {
    plain: Client,
    paying: Pay<Carrier>,
}

impl PayClient {
    /// Pays over this client.
    #[must_use]
    pub fn new(client: Client, layer: &PayLayer) -> Self {
        Self { paying: layer.layer(Carrier(client.clone())), plain: client }
    }

    /// The client itself, to build requests with.
    #[must_use]
    pub const fn plain(&self) -> &Client {
        &self.plain
    }

    /// Sends a request; a tool call is paid for if it must and may be.
    ///
    /// # Errors
    /// See [`PayError`].
    pub async fn execute(
        &self,
        request: reqwest::Request,
    ) -> Result<reqwest::Response, PayError<reqwest::Error>> {
        let body = request.body().and_then(Body::as_bytes);
        let Some(body) = body.filter(|body| tool_call(body).is_some()) else {
            return self.plain.execute(request).await.map_err(PayError::Inner);
        };
        let (body, url) = (Bytes::copy_from_slice(body), request.url().clone());
        let request = Request::<Body>::try_from(request).map_err(PayError::Inner)?;
        let paid = self.paying.clone().call(request.map(|_| Full::new(body))).await?;
        let (head, body) = paid.into_parts();
        let mut named = Response::builder().url(url).body(Body::wrap(body)).unwrap_or_default();
        *named.status_mut() = head.status;
        *named.headers_mut() = head.headers;
        Ok(named.into())
    }
}

/// `reqwest` as a service of plain HTTP.
#[derive(Clone, Debug)]
struct Carrier(Client);

impl Service<Request<Full<Bytes>>> for Carrier {
    type Response = Response<Body>;
    type Error = reqwest::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, reqwest::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            // As a stream, it is sent once: no payment follows a redirect.
            let request = reqwest::Request::try_from(request.map(Body::wrap))?;
            Ok(client.execute(request).await?.into())
        })
    }
}
