//! Sandbox parts: an issuer, a facilitator, a Lightning node and an MCP server, so that everything
//! can be tried, demonstrated and tested on one machine, without accounts and without money.
//!
//! INVARIANT: a sandbox part listens on loopback only, and says `sandbox` in what it answers.

pub mod facilitator;
pub mod issuer;
pub mod lightning;
pub mod server;

use std::{fmt, io, net::SocketAddr};
use tokio::net::TcpListener;

/// Why a sandbox part does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxError {
    /// The address is not on loopback.
    NotLoopback,
    /// The address cannot be bound.
    Bind(io::ErrorKind),
    /// No key could be made.
    Key,
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback => f.write_str("sandbox parts listen on loopback only"),
            Self::Bind(kind) => write!(f, "the sandbox part cannot listen: {kind}"),
            Self::Key => f.write_str("the sandbox part has no working key"),
        }
    }
}

impl std::error::Error for SandboxError {}

/// Listens on a loopback address; the URL is without a slash at its end.
async fn listen(address: SocketAddr) -> Result<(TcpListener, String), SandboxError> {
    if !address.ip().is_loopback() {
        return Err(SandboxError::NotLoopback);
    }
    let bind = |error: io::Error| SandboxError::Bind(error.kind());
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let url = format!("http://{}", listener.local_addr().map_err(bind)?);
    Ok((listener, url))
}
