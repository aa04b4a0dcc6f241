//! The public listener: connections, limits, routing. Knows nothing of money.
//!
//! INVARIANT: every connection, header block, body and idle time has a limit; the admin API is
//! not reachable from here.

use crate::{
    ask_quote, body::Body, config::Config, gate::Gate, lanes::Lanes, mcp, places::Places, problem,
    push, reload::Gates, work,
};
use anyhow::{Context as _, Result, anyhow};
use countersign_core::refusal::{Code, Refusal};
use http::{Method, Request, Response, StatusCode, Uri, header, request::Parts, uri::Authority};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

/// The most header lines of a request.
const HEADERS_MAX: usize = 64;
/// The most that the HTTP library reads, without an allocation: beyond it answers 431 itself.
const HEADERS_READ: usize = 100;
/// Room for a request beyond its headers: above it the HTTP library answers 431 itself, below it
/// we can say why.
const BUFFER_SPARE: usize = 16 << 10;

/// How long connections may go on once the gateway stops, whatever they are doing.
const DRAIN: Duration = Duration::from_secs(10);
/// What a call may take besides its tool: its payment is verified and settled.
const AROUND_A_TOOL: Duration = Duration::from_secs(90);
/// How long the last answers have to leave.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until `stop` becomes true, then lets calls end, for as long as a tool may take; or until
/// the store fails, then says so to whoever waits for it.
///
/// # Errors
/// The store failed, or the system gives no threads.
pub async fn serve(
    gates: Gates,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let gate = gates.now();
    let store = gate.store.clone();
    let (ending, ends) = watch::channel(false);
    let limits = &gate.config.limits;
    let header_timeout = Duration::from_millis(limits.header_timeout_ms);
    let header_bytes = limits.header_bytes;
    let places = Arc::new(Semaphore::new(limits.connections));
    let (mut peers, each_most) = (Places::default(), limits.connections_per_address);
    drop(gate);
    let lanes = Lanes::start().context("starting the threads of the path")?;
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => break,
            _why = store.poisoned() => break,
            Some(_) = connections.join_next() => continue,
        };
        // A failed accept (too many open files, a peer gone) must not end the server.
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let Some(own_place) = peers.take(network(peer.ip()), each_most) else { continue };
        let _best_effort = stream.set_nodelay(true);
        let Some((lane, stream)) = lanes.freest().zip(stream.into_std().ok()) else { continue };
        let (gates, mut ends) = (gates.clone(), ends.clone());
        let on_lane = lane.handle.clone();
        let serving = async move {
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(network(peer.ip())));
                route(gates.now(), request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(header_timeout)
                .max_headers(HEADERS_READ)
                .max_buf_size(header_bytes.saturating_add(BUFFER_SPARE))
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            // A connection's own errors concern only its peer.
            let ending = async { ends.wait_for(|is_over| *is_over).await.map(drop) };
            let _ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _over = ending => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            drop((place, own_place, lane));
        };
        connections.spawn_on(serving, &on_lane);
    }
    drop(listener);
    ending.send_replace(true);
    let why = tokio::select! {
        biased;
        why = store.poisoned() => why,
        () = drain(&gates, &mut connections) => return Ok(()),
    };
    let _late = timeout(LAST_ANSWERS, emptied(&mut connections)).await;
    Err(anyhow!("the store failed ({why}): start again to recover"))
}

/// Lets what runs end: connections for a while, calls until the longest deadline of a tool is over,
/// also those whose client has gone.
async fn drain(gates: &Gates, connections: &mut JoinSet<()>) {
    let longest = Duration::from_millis(gates.longest_deadline_ms()) + AROUND_A_TOOL;
    let gate = gates.now();
    let drained = async {
        let _late = timeout(DRAIN, emptied(connections)).await;
        gate.calling.closed().await;
        let _late = timeout(LAST_ANSWERS, emptied(connections)).await;
    };
    let _late = timeout(longest, drained).await;
}

async fn emptied(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// The part of an IPv6 address that is one customer's.
const IPV6_NETWORK: u128 = !0 << 64;

/// Whom an address belongs to: an IPv6 network has as many addresses as it likes.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
    }
}

/// Whom the address that a request came from belongs to.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

/// Whom the address that a request came from belongs to.
#[must_use]
pub(crate) fn peer(head: &Parts) -> IpAddr {
    let peer = head.extensions.get::<Peer>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
}

async fn route(gate: Arc<Gate>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let refused = |code: Code| {
        gate.store.count_refusal(code);
        problem::http(&Refusal::new(code))
    };
    let header_bytes: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if header_bytes > gate.config.limits.header_bytes || request.headers().len() > HEADERS_MAX {
        return Ok(refused(Code::HeadersTooLarge));
    }
    if !is_own_origin(&gate, &request) || !is_own_host(&gate.config, &request) {
        return Ok(refused(Code::ForeignOrigin));
    }
    let path = request.uri().path();
    if let Some(server) = path.strip_prefix('/').and_then(|p| p.strip_suffix("/mcp"))
        && let Some(server) = gate.server(server)
    {
        return Ok(mcp::answer(gate, server, request).await);
    }
    if let Some(server) = ask_quote::server(&gate, path) {
        return Ok(ask_quote::answer(gate, server, request).await);
    }
    if let Some(step) = work::Step::of(&gate, path) {
        return Ok(work::answer(&gate, step, request).await);
    }
    if path == push::PATH {
        return Ok(push::answer(&gate, request).await);
    }
    let is_get = request.method() == Method::GET || request.method() == Method::HEAD;
    Ok(match path {
        "/healthz" if is_get => text(StatusCode::OK, "ok\n"),
        "/healthz" => refused(Code::MethodNotAllowed),
        path => match path.strip_prefix("/.well-known/oauth-protected-resource") {
            Some(rest) if is_get => match gate.resource_metadata(rest) {
                Some(json) => json_answer(json),
                None => refused(Code::UnknownServer),
            },
            _ => refused(Code::UnknownServer),
        },
    })
}

/// Browsers send `Origin`; anything but our own or a configured one is refused (DNS rebinding).
fn is_own_origin(gate: &Gate, request: &Request<Incoming>) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    gate.config.allowed_origins.iter().any(|allowed| allowed == origin)
        || gate.config.public_url.trim_end_matches('/') == origin
}

/// A page that had its own name resolve to loopback (DNS rebinding) still sends that name: a
/// gateway on loopback answers to loopback's names and to those that its operator wrote down.
/// Elsewhere whoever sends requests is no browser's neighbour, and proxies say what they like.
fn is_own_host<B>(config: &Config, request: &Request<B>) -> bool {
    if !config.listen.ip().is_loopback() {
        return true;
    }
    let written = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .filter(|host| !is_public_name(config, host))
        .map(|host| host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()));
    let target = request.uri().authority().cloned().map(Some);
    written.chain(target).all(|host| host.is_some_and(|host| is_known_host(config, host.host())))
}

/// Whether a `Host` header is the very name that clients are told to use.
fn is_public_name(config: &Config, host: &http::HeaderValue) -> bool {
    let authority = config.public_url.split_once("://").map(|(_, rest)| rest.split('/').next());
    authority.flatten().is_some_and(|authority| host == authority)
}

fn is_known_host(config: &Config, host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if literal.is_ok_and(|ip| ip.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
    {
        return true;
    }
    let resources = config.servers.values().map(|server| &*server.resource);
    let origins = config.allowed_origins.iter().map(|origin| &**origin);
    let urls = std::iter::once(&*config.public_url).chain(resources).chain(origins);
    let mut hosts = urls.filter_map(|url| url.parse::<Uri>().ok());
    hosts.any(|url| url.host().is_some_and(|known| known.eq_ignore_ascii_case(host)))
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::full(text));
    *answer.status_mut() = status;
    answer
}

fn json_answer(json: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(json));
    let kind = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, Surroundings, load_text};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn on(listen: &str) -> Config {
        let text = format!(
            "listen: {listen}:8402\npublic_url: https://gateway.example.com\n\
             allowed_origins: [\"https://app.example.com\"]\n\
             servers:\n  own:\n    upstream: http://127.0.0.1:1/mcp\n    \
             resource: https://api.example.com/own\n    relay: {{ anonymous: true }}\n"
        );
        let (dir, around) = (std::path::Path::new("."), Surroundings::default());
        load_text(&text, Format::Yaml, dir, &around).unwrap().0
    }

    fn is_answered(config: &Config, uri: &str, hosts: &[&str]) -> bool {
        let request = hosts.iter().fold(Request::get(uri), |all, host| all.header("host", *host));
        is_own_host(config, &request.body(()).unwrap())
    }

    #[test]
    fn on_loopback_only_names_of_ours_are_answered() {
        let local = on("127.0.0.1");
        for host in [
            "127.0.0.1:8402",
            "127.0.0.2",
            "[::1]:8402",
            "localhost:8402",
            "LOCALHOST",
            "gateway.example.com",
            "Gateway.Example.com:443",
            "api.example.com",
            "app.example.com",
        ] {
            assert!(is_answered(&local, "/healthz", &[host]), "{host}");
        }
        assert!(is_answered(&local, "/healthz", &[]), "no browser leaves it out");
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "8.8.8.8"]
        {
            assert!(!is_answered(&local, "/healthz", &[host]), "{host}");
            assert!(!is_answered(&local, "/healthz", &["localhost", host]), "a second {host}");
            let target = format!("http://{host}/healthz");
            assert!(!is_answered(&local, &target, &["localhost"]), "{target}");
            assert!(is_answered(&on("0.0.0.0"), "/healthz", &[host]), "not on loopback");
        }
        for host in ["", "a b", "evil.example/localhost"] {
            assert!(!is_answered(&local, "/healthz", &[host]), "`{host}`");
        }
    }

    #[test]
    fn an_address_is_one_however_it_is_written_and_an_ipv6_network_too() {
        assert_eq!(network(ip("::ffff:192.0.2.1")), network(ip("192.0.2.1")));
        assert_ne!(network(ip("192.0.2.2")), network(ip("192.0.2.1")));
        assert_eq!(network(ip("2001:db8::1")), network(ip("2001:db8::ffff:2")));
        assert_ne!(network(ip("2001:db8:0:1::1")), network(ip("2001:db8::1")));
    }
}
