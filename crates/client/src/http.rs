//! One HTTP exchange: a request out, status, headers and body in.
//!
//! Owns connections, the time limits and the size limits. Follows no redirect: a credential goes
//! where it was meant to go or nowhere.
//!
//! INVARIANT: [`TransportError::Unreachable`] means that no byte of the request left.

use crate::error::{ClientError, TransportError};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{future::Future, time::Duration};

/// A pool of connections with its limits.
#[derive(Clone)]
pub(crate) struct Http {
    pool: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    connector: HttpsConnector<HttpConnector>,
    pub(crate) max_answer_bytes: usize,
    timeout: Duration,
}

impl Http {
    /// A pool without connections.
    pub(crate) fn new(connect_timeout_ms: u64, timeout_ms: u64, max_answer_bytes: usize) -> Self {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp(connect_timeout_ms));
        Self::over(connector, timeout_ms, max_answer_bytes)
    }

    /// A pool that trusts one certificate, in PEM, and no authority; `None` when it is none.
    pub(crate) fn pinned(
        pem: &str,
        (connect_timeout_ms, timeout_ms): (u64, u64),
        max_answer_bytes: usize,
    ) -> Option<Self> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(crate::pin::trusting(pem)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp(connect_timeout_ms));
        Some(Self::over(connector, timeout_ms, max_answer_bytes))
    }

    fn over(connector: HttpsConnector<HttpConnector>, timeout_ms: u64, max: usize) -> Self {
        let pool = Client::builder(TokioExecutor::new()).build(connector.clone());
        let timeout = Duration::from_millis(timeout_ms);
        Self { pool, connector, max_answer_bytes: max, timeout }
    }

    /// What opens its connections, for those that speak something else than HTTP over them.
    pub(crate) fn connector(&self) -> HttpsConnector<HttpConnector> {
        self.connector.clone()
    }

    /// Ends what takes longer than an exchange may.
    pub(crate) async fn in_time<T>(
        &self,
        exchange: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(TransportError::TimedOut))
    }

    /// Sends a JSON body; the answer's body is still to be read.
    pub(crate) async fn post(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        body: String,
    ) -> Result<Response<Incoming>, TransportError> {
        let mut headers = headers;
        let json = http::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        self.send(Method::POST, uri, headers, body).await
    }

    /// Sends any request; the answer's body is still to be read.
    pub(crate) async fn send(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        body: String,
    ) -> Result<Response<Incoming>, TransportError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let sent = self.pool.request(request).await;
        sent.map_err(|error| match error.is_connect() {
            true => TransportError::Unreachable,
            false => TransportError::Lost,
        })
    }

    /// The whole body, within the limit.
    pub(crate) async fn read<B>(&self, body: B) -> Result<Bytes, TransportError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        read_within(body, self.max_answer_bytes).await
    }
}

/// The whole body, within this many bytes.
pub(crate) async fn read_within<B>(body: B, bytes_max: usize) -> Result<Bytes, TransportError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, bytes_max).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| {
        match error.is::<http_body_util::LengthLimitError>() {
            true => TransportError::TooLarge,
            false => TransportError::Lost,
        }
    })
}

fn tcp(connect_timeout_ms: u64) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_millis(connect_timeout_ms)));
    tcp
}

/// Whether a request to this address stays on this machine or is encrypted on its way.
pub(crate) fn is_private_way(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let is_loopback = host.parse::<std::net::IpAddr>().map(|ip| ip.is_loopback());
    uri.scheme_str() == Some("https") || is_loopback.unwrap_or(host == "localhost")
}

/// An http or https URL with a host, and without user information.
pub(crate) fn parse_url(text: &str, allow_plain_http: bool) -> Result<Uri, ClientError> {
    let uri: Uri = text.parse().map_err(|_| ClientError::BadUrl)?;
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() || has_user {
        return Err(ClientError::BadUrl);
    }
    if !allow_plain_http && !is_private_way(&uri) {
        return Err(ClientError::PlainHttp);
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for url in ["http://127.0.0.1:1/mcp", "http://[::1]/", "http://localhost", "https://a.b/"] {
            assert!(parse_url(url, false).is_ok(), "{url}");
        }
        for url in ["http://10.0.0.1/", "http://localhost.example/", "http://127.0.0.1.nip.io/"] {
            assert!(matches!(parse_url(url, false), Err(ClientError::PlainHttp)), "{url}");
            assert!(parse_url(url, true).is_ok(), "{url}");
        }
        for url in ["ftp://a.b", "/mcp", "https://user:pw@a.b/", "nonsense"] {
            assert!(matches!(parse_url(url, true), Err(ClientError::BadUrl)), "{url}");
        }
    }
}
