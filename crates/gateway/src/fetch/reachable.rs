//! Name resolution for connections that are kept: every address of a name is checked each time it
//! is resolved, and the connection goes to a checked one.

use super::address::{Reach, reach};
use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    vec,
};
use tower_service::Service;

/// Resolves names to addresses that may be called. Link local ones, where clouds keep their
/// metadata, never may.
#[derive(Clone, Copy, Debug)]
pub struct Reachable {
    /// Loopback and private networks may be called.
    pub allow_private: bool,
}

impl Reachable {
    fn allows(self, address: IpAddr) -> bool {
        match reach(address) {
            Reach::Public => true,
            Reach::Private => self.allow_private,
            Reach::Never => false,
        }
    }

    /// Whether the URL's host is no address that may not be called. Connectors do not ask a
    /// resolver for the address of an address.
    #[must_use]
    pub fn allows_literal(self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        host.parse().map_or(true, |address| self.allows(address))
    }

    /// All addresses must be allowed: one forbidden among them is an attempt.
    fn checked(self, found: Vec<SocketAddr>) -> io::Result<vec::IntoIter<SocketAddr>> {
        if found.iter().all(|address| self.allows(address.ip())) {
            return Ok(found.into_iter());
        }
        let message = "the name has an address that may not be called";
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

impl Service<Name> for Reachable {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let rules = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            rules.checked(found.collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_only_as_good_as_its_addresses() {
        let resolve = |allow_private| async move {
            let name = "localhost".parse().unwrap();
            Reachable { allow_private }.call(name).await.is_ok()
        };
        assert!(resolve(true).await);
        assert!(!resolve(false).await);
        let mixed = ["93.184.215.14:80", "10.0.0.1:80"].map(|text| text.parse().unwrap());
        assert!(Reachable { allow_private: false }.checked(mixed.to_vec()).is_err());
        assert!(Reachable { allow_private: true }.checked(mixed.to_vec()).is_ok());
    }

    #[test]
    fn addresses_in_urls() {
        let allows = |allow_private, url: &'static str| {
            Reachable { allow_private }.allows_literal(&Uri::from_static(url))
        };
        for url in ["http://127.0.0.1/mcp", "http://[::1]:1/", "http://[::ffff:10.0.0.1]/"] {
            assert!(allows(true, url) && !allows(false, url), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://[fe80::1]/", "http://0.0.0.0/"] {
            assert!(!allows(true, url), "{url}");
        }
        assert!(allows(false, "https://mcp.example/"));
    }
}
