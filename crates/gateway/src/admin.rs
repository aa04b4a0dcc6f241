//! The admin API: JSON over a Unix socket, for the people who run the gateway and approve.
//!
//! Owns the listener, who may speak to it, and the routes. What each route means is in the
//! modules below; the command line and programs share their forms ([`form`]).
//!
//! INVARIANT: who approves is never who asks: only the socket's owner and root are answered, and
//! every change carries the verified user of the connection ([`actor::Actor`]).
//! INVARIANT: bodies, headers, connections and times have limits; unknown members are refused.

pub mod form;
pub mod receipt;
pub(crate) mod settlements;

pub(crate) mod actor;
pub(crate) mod approvals;
mod ask;
pub(crate) mod authzen;
pub(crate) mod budgets;
pub(crate) mod denied;
pub(crate) mod grants;
mod idempotency;
pub(crate) mod ledger;
mod lightning;
pub(crate) mod log;
mod object;
pub mod openapi;
pub(crate) mod page;
mod peer;
pub(crate) mod people;
pub(crate) mod policies;
mod reload;
mod routes;
mod schema;
mod socket;
mod tools;
mod trust;

use crate::{gate::Gate, reload::Gates};
use actor::Actor;
use axum::{
    Extension, Router,
    body::{Body, HttpBody as _, to_bytes},
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use countersign_core::refusal::{Code, Refusal};
use denied::Denied;
use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// The largest body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest wait for a request's header on a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests may take to end after `stop`.
const DRAIN: Duration = Duration::from_secs(10);

/// The same where people and monitors look.
const DRAIN_OF_PAGES: Duration = Duration::from_secs(5);

/// Serves until `stop` becomes true.
///
/// # Errors
/// The socket cannot be made: its directory is open to others, something else lies there, or
/// another process serves it.
pub async fn serve(gates: Gates, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let gate = gates.now();
    let path = gate.config.admin_socket.clone();
    let bound = socket::bind(&path, &gate.world).await?;
    drop(gate);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let routes = routes(gates);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept() => accepted,
            _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => break,
            Some(_) = connections.join_next() => continue,
        };
        // A failed accept must not end the server.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(peer) = peer::user_of(&stream, bound.owner) else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let service = routes.clone().layer(Extension(Actor::local(&peer)));
        let stop = stop.clone();
        connections.spawn(async move {
            converse(stream, service, stop).await;
            drop(place);
        });
    }
    socket::remove(&path, bound.inode);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _late = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}

/// Answers whoever connects, `most` at a time, until `stop`; then lets what runs end.
pub(crate) async fn answer(
    listener: TcpListener,
    routes: Router,
    most: usize,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => break,
            Some(_) = connections.join_next() => continue,
        };
        // A failed accept must not end the server.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (routes, stop) = (routes.clone(), stop.clone());
        connections.spawn(async move {
            converse(stream, routes, stop).await;
            drop(place);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _late = tokio::time::timeout(DRAIN_OF_PAGES, drained).await;
}

/// Answers one connection's requests. Its own errors concern only its peer.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: Router,
    mut stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(32)
        .max_buf_size(32 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let _ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _stop = async { stop.wait_for(|stop| *stop).await.map(drop) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

pub(crate) fn routes(gates: Gates) -> Router {
    routes::table()
        .router
        .route_layer(middleware::from_fn_with_state(gates.clone(), idempotency::once))
        .fallback(async || Denied::not_found("route"))
        .method_not_allowed_fallback(async || Denied::from(Refusal::new(Code::MethodNotAllowed)))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(take_in))
        .layer(middleware::from_fn(authzen::echo))
        .with_state(gates)
}

/// Takes a short body in before anything else, so that a refusal leaves nothing of it on the
/// connection for the next request to trip over; where a long one is refused, the connection ends.
async fn take_in(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let short = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX);
    if body.size_hint().upper().is_some_and(|most| most <= short) {
        let Ok(bytes) = to_bytes(body, BODY_BYTES_MAX).await else {
            return Denied::from(Code::TooLarge).into_response();
        };
        return next.run(Request::from_parts(parts, Body::from(bytes))).await;
    }
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Runs a read of the store that may block on the disk.
async fn read<T: Send + 'static>(
    gate: &Arc<Gate>,
    read: impl FnOnce(&Gate) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Denied> {
    let gate = Arc::clone(gate);
    let done = tokio::task::spawn_blocking(move || read(&gate)).await;
    Ok(done.map_err(|_panicked| Refusal::new(Code::InternalFault))??)
}

/// A listener whose socket only its owner can reach.
struct Bound {
    listener: UnixListener,
    /// Whose socket it is.
    owner: u32,
    inode: u64,
}
