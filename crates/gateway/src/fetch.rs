//! Requests to third parties: issuers, facilitators, chain nodes, policy services. Not the path
//! to the servers behind the gateway, but for which addresses it may take ([`Reachable`]).
//!
//! Owns who may be called and how much they may answer: time, size, addresses, no redirects.
//!
//! INVARIANT: a name is resolved once; every address it has is checked, and the connection goes
//! to a checked address, never to the name again.
//! INVARIANT: without `allow_private` only public addresses are called, and only over TLS. Link
//! local addresses, where clouds keep their metadata, are never called.
//! INVARIANT: no URL, header or body enters an error.

mod address;
mod pin;
mod reachable;

pub use countersign_core::wire::form::{form_encode, form_pairs};
pub use pin::{Pin, PinError};
pub use reachable::Reachable;

use bytes::Bytes;
use countersign_client::trusting;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Hosts whose connections are kept for reuse.
const MAX_HOSTS: usize = 64;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 3;

/// What a fetch may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRules {
    /// Loopback and private networks may be called, over plain HTTP too.
    pub allow_private: bool,
    /// The longest answer, in bytes.
    pub max_bytes: usize,
    /// The longest time from start to end, in milliseconds.
    pub timeout_ms: u64,
}

impl FetchRules {
    /// Public addresses, 256 KiB, 5 seconds.
    pub const PUBLIC: Self =
        Self { allow_private: false, max_bytes: 256 * 1024, timeout_ms: 5_000 };
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `content-type`, lower case, without parameters.
    pub content_type: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The URL or a header is not acceptable.
    Url,
    /// Plain HTTP to a public address.
    Plain,
    /// The name does not resolve in time.
    Resolve,
    /// The name has an address that may not be called.
    Address,
    /// No connection, or no TLS.
    Connect,
    /// No whole answer in time.
    Timeout,
    /// The connection broke.
    Broken,
    /// The answer is a redirect.
    Redirect,
    /// The answer is too large.
    TooLarge,
}

impl FetchError {
    /// Whether the other side may have seen the request, so that a retry could act twice.
    #[must_use]
    pub const fn may_have_arrived(&self) -> bool {
        match self {
            Self::Url | Self::Plain | Self::Resolve | Self::Address | Self::Connect => false,
            Self::Timeout | Self::Broken | Self::Redirect | Self::TooLarge => true,
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "the URL or a header is not acceptable",
            Self::Plain => "plain HTTP to a public address",
            Self::Resolve => "the name does not resolve",
            Self::Address => "the name has an address that may not be called",
            Self::Connect => "no connection",
            Self::Timeout => "no whole answer in time",
            Self::Broken => "the connection broke",
            Self::Redirect => "the answer is a redirect",
            Self::TooLarge => "the answer is too large",
        })
    }
}

impl std::error::Error for FetchError {}

type HostClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Fetches under one set of rules. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Fetch {
    rules: FetchRules,
    pin: Option<Pin>,
    clients: Arc<Mutex<HashMap<String, HostClient>>>,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetch").field(&self.rules).finish()
    }
}

impl Fetch {
    /// Fetches under `rules`.
    #[must_use]
    pub fn new(rules: FetchRules) -> Self {
        Self { rules, pin: None, clients: Arc::default() }
    }

    /// The same, over TLS to nobody but who has this certificate.
    #[must_use]
    pub fn pinned(self, pin: Pin) -> Self {
        Self { pin: Some(pin), clients: Arc::default(), ..self }
    }

    /// `GET`.
    ///
    /// # Errors
    /// No answer under the rules.
    pub async fn get(&self, url: &str) -> Result<Reply, FetchError> {
        self.get_with(url, HeaderMap::new()).await
    }

    /// `GET` with headers.
    ///
    /// # Errors
    /// No answer under the rules.
    pub async fn get_with(&self, url: &str, headers: HeaderMap) -> Result<Reply, FetchError> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// `POST` with headers, the content type among them.
    ///
    /// # Errors
    /// No answer under the rules.
    pub async fn post_with(
        &self,
        url: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Reply, FetchError> {
        self.send(Method::POST, url, headers, body.into()).await
    }

    /// `POST`. Header values are treated as secrets.
    ///
    /// # Errors
    /// No answer under the rules.
    pub async fn post(
        &self,
        url: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, FetchError> {
        self.ask(Method::POST, url, headers, Some((content_type, body.into()))).await
    }

    /// Any request. Header values are treated as secrets.
    ///
    /// # Errors
    /// No answer under the rules.
    pub async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, Bytes)>,
    ) -> Result<Reply, FetchError> {
        let mut map = secret_headers(headers)?;
        let mut bytes = Bytes::new();
        if let Some((content_type, body)) = body {
            let content_type = HeaderValue::from_str(content_type).map_err(|_| FetchError::Url)?;
            map.insert(CONTENT_TYPE, content_type);
            bytes = body;
        }
        self.send(method, url, map, bytes).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, FetchError> {
        let target = Target::parse(url)?;
        let was_resolved = AtomicBool::new(false);
        let exchange = async {
            let addresses = self.resolve(&target).await?;
            was_resolved.store(true, Ordering::Relaxed);
            let mut result = Err(FetchError::Resolve);
            for address in addresses.into_iter().take(MAX_ADDRESSES) {
                let request = target.request(address, &method, &headers, body.clone())?;
                result = self.exchange(&target, request).await;
                if !matches!(result, Err(FetchError::Connect)) {
                    break;
                }
            }
            result
        };
        let time = Duration::from_millis(self.rules.timeout_ms);
        match tokio::time::timeout(time, exchange).await {
            Ok(result) => result,
            Err(_) if was_resolved.load(Ordering::Relaxed) => Err(FetchError::Timeout),
            Err(_) => Err(FetchError::Resolve),
        }
    }

    /// The addresses of the target, all of them checked.
    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, FetchError> {
        let found = tokio::net::lookup_host((target.bare_host(), target.port)).await;
        let found: Vec<_> = found.map_err(|_| FetchError::Resolve)?.collect();
        if found.is_empty() {
            return Err(FetchError::Resolve);
        }
        check_addresses(&found, target.is_tls(), self.rules.allow_private)?;
        Ok(found)
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<Reply, FetchError> {
        let sent = self.client_of(target)?.request(request).await;
        let response = sent.map_err(|error| match error.is_connect() {
            true => FetchError::Connect,
            false => FetchError::Broken,
        })?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() {
            return Err(FetchError::Redirect);
        }
        let body = Limited::new(body, self.rules.max_bytes).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => FetchError::TooLarge,
            false => FetchError::Broken,
        })?;
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.and_then(|value| value.split(';').next());
        Ok(Reply {
            status: head.status.as_u16(),
            content_type: content_type.map(|kind| kind.trim().to_ascii_lowercase()),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// The client whose TLS sessions are for the target's name, whatever address they go to.
    fn client_of(&self, target: &Target) -> Result<HostClient, FetchError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(target.bare_host()) {
            return Ok(client.clone());
        }
        let name = target.bare_host().to_owned().try_into().map_err(|_| FetchError::Url)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_millis(self.rules.timeout_ms / 2)));
        let builder = HttpsConnectorBuilder::new();
        let builder = match &self.pin {
            Some(pin) => builder.with_tls_config(trusting(pin.pem()).ok_or(FetchError::Connect)?),
            None => builder.with_webpki_roots(),
        };
        let connector = builder
            .https_or_http()
            .with_server_name_resolver(FixedServerNameResolver::new(name))
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4)
            .build(connector);
        if clients.len() >= MAX_HOSTS {
            clients.clear();
        }
        clients.insert(target.bare_host().to_owned(), client.clone());
        Ok(client)
    }
}

fn secret_headers(headers: &[(&str, &str)]) -> Result<HeaderMap, FetchError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::try_from(*name).map_err(|_| FetchError::Url)?;
        let mut value = HeaderValue::from_str(value).map_err(|_| FetchError::Url)?;
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}

/// Where a URL leads.
struct Target {
    scheme: Scheme,
    authority: Authority,
    path: PathAndQuery,
    port: u16,
}

impl Target {
    fn parse(url: &str) -> Result<Self, FetchError> {
        let parts = url.parse::<Uri>().map_err(|_| FetchError::Url)?.into_parts();
        let scheme = parts.scheme.ok_or(FetchError::Url)?;
        let authority = parts.authority.ok_or(FetchError::Url)?;
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return Err(FetchError::Url),
        };
        if authority.as_str().contains('@') || !address::is_plain_host(authority.host()) {
            return Err(FetchError::Url);
        }
        let port = authority.port_u16().unwrap_or(default_port);
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { scheme, authority, path, port })
    }

    fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// A request that goes to `address` and speaks to the host.
    fn request(
        &self,
        address: SocketAddr,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(address.to_string())
            .path_and_query(self.path.clone())
            .build()
            .map_err(|_| FetchError::Url)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers.clone();
        let host = HeaderValue::from_str(self.authority.as_str()).map_err(|_| FetchError::Url)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("countersign"));
        if !request.headers().contains_key(ACCEPT) {
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }
}

/// All addresses of a name must be allowed: one forbidden among them is an attempt.
fn check_addresses(
    addresses: &[SocketAddr],
    is_tls: bool,
    allow_private: bool,
) -> Result<(), FetchError> {
    for address in addresses {
        match address::reach(address.ip()) {
            address::Reach::Public if is_tls => {}
            address::Reach::Public => return Err(FetchError::Plain),
            address::Reach::Private if allow_private => {}
            address::Reach::Private | address::Reach::Never => return Err(FetchError::Address),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for url in [
            "ftp://example.com/",
            "file:///etc/passwd",
            "/relative",
            "https://user:secret@example.com/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://127.0.0.0x1/",
            "https:///x",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
        let target = Target::parse("https://idp.example:8443/a?b=c").unwrap();
        assert_eq!((target.bare_host(), target.port), ("idp.example", 8443));
        assert_eq!(Target::parse("http://[::1]:80/").unwrap().bare_host(), "::1");
    }

    #[test]
    fn one_forbidden_address_forbids_the_name() {
        let public: SocketAddr = "93.184.215.14:443".parse().unwrap();
        let private: SocketAddr = "10.0.0.1:443".parse().unwrap();
        let metadata: SocketAddr = "169.254.169.254:80".parse().unwrap();
        assert_eq!(check_addresses(&[public], true, false), Ok(()));
        assert_eq!(check_addresses(&[public], false, true), Err(FetchError::Plain));
        assert_eq!(check_addresses(&[public, private], true, false), Err(FetchError::Address));
        assert_eq!(check_addresses(&[private], false, true), Ok(()));
        assert_eq!(check_addresses(&[metadata], false, true), Err(FetchError::Address));
    }

    #[tokio::test]
    async fn loopback_is_refused_unless_allowed() {
        let fetch = Fetch::new(FetchRules::PUBLIC);
        for url in ["https://127.0.0.1/", "https://localhost/", "https://[::ffff:127.0.0.1]/"] {
            assert_eq!(fetch.get(url).await.unwrap_err(), FetchError::Address, "{url}");
        }
    }
}
