//! The admin API: JSON over a Unix socket, for the people who run the gateway and approve.
//!
//! Owns the listener, who may speak to it, and the routes. What each route means is in the
//! modules below; the command line and programs share their forms ([`form`]).
//!
//! INVARIANT: who approves is never who asks: only the socket's owner and root are answered, and
//! every change carries the verified user of the connection ([`peer::Approver`]).
//! INVARIANT: bodies, headers, connections and times have limits; unknown members are refused.

pub mod form;
pub mod receipt;

mod approvals;
mod ask;
mod budgets;
mod denied;
mod grants;
mod ledger;
mod log;
mod peer;
mod socket;

use crate::gate::Gate;
use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use countersign_core::refusal::{Code, Refusal};
use denied::Denied;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use peer::Approver;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
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

/// Serves until `stop` becomes true.
///
/// # Errors
/// The socket cannot be made: its directory is open to others, something else lies there, or
/// another process serves it.
pub async fn serve(gate: Arc<Gate>, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let path = gate.config.admin_socket.clone();
    let bound = socket::bind(&path, &gate.world).await?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let routes = routes(gate);
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
        let Some(approver) = Approver::of(&stream, bound.owner) else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let service = routes.clone().layer(Extension(approver));
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

/// Answers one connection's requests. Its own errors concern only its peer.
async fn converse(stream: UnixStream, service: Router, mut stop: watch::Receiver<bool>) {
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

fn routes(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/v1/health", get(log::health))
        .route("/v1/status", get(log::status))
        .route("/v1/grants", get(grants::list).post(grants::create))
        .route("/v1/grants/{id}", get(grants::show))
        .route("/v1/grants/{id}/revoke", post(grants::revoke))
        .route("/v1/grants/{id}/suspend", post(grants::suspend))
        .route("/v1/grants/{id}/resume", post(grants::resume))
        .route("/v1/approvals", get(approvals::list))
        .route("/v1/approvals/{id}", get(approvals::show))
        .route("/v1/approvals/{id}/approve", post(approvals::approve))
        .route("/v1/approvals/{id}/deny", post(approvals::deny))
        .route("/v1/ledger/balances", get(ledger::balances))
        .route("/v1/ledger/in-doubt", get(ledger::in_doubt))
        .route("/v1/ledger/in-doubt/{id}", post(ledger::resolve))
        .route("/v1/ledger/refunds", get(ledger::refunds))
        .route("/v1/ledger/refunds/{id}", post(ledger::refunded))
        .route("/v1/budgets", get(budgets::list))
        .route("/v1/calls", get(ledger::calls))
        .route("/v1/calls/{id}", get(ledger::call))
        .route("/v1/quotes/{id}", get(ledger::quote))
        .route("/v1/credentials/{id}/revoke", post(ledger::revoke_credential))
        .route("/v1/audit", get(log::tail))
        .fallback(async || Denied::NotFound("route"))
        .method_not_allowed_fallback(async || Denied::from(Refusal::new(Code::MethodNotAllowed)))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(gate)
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
