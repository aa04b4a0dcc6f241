//! Where the browser comes back to: a listener on this machine, for one answer (RFC 8252).
//!
//! INVARIANT: what does not carry our `state` is turned away and ends nothing.

use super::SignInError;
use countersign_core::wire::form::form_pairs;
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// The path of the redirect.
const PATH: &str = "/callback";
/// The longest request head that is read.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a browser may take to send one.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listener.
pub(super) struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    /// Listens on a free port.
    pub(super) async fn open() -> Result<Self, SignInError> {
        let failed = |error: std::io::Error| SignInError::Disk(error.kind());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self { listener, port })
    }

    /// Where the issuer should send the browser.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// The parameters of the answer with this `state`.
    pub(super) async fn wait(self, state: &str) -> Result<BTreeMap<String, String>, SignInError> {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else { continue };
            let answered = tokio::time::timeout(PATIENCE, answer(stream, state)).await;
            if let Ok(Some(parameters)) = answered {
                return Ok(parameters);
            }
        }
    }
}

/// Answers one request; gives its parameters if it is the one.
async fn answer(mut stream: TcpStream, state: &str) -> Option<BTreeMap<String, String>> {
    let head = read_head(&mut stream).await?;
    let target = head.lines().next()?.strip_prefix("GET ")?.split(' ').next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameters: BTreeMap<String, String> = form_pairs(query).into_iter().collect();
    let is_ours = path == PATH && parameters.get("state").is_some_and(|found| found == state);
    let (status, text) = match (is_ours, parameters.contains_key("code")) {
        (true, true) => ("200 OK", "You are signed in. You can close this page."),
        (true, false) => ("200 OK", "You are not signed in. You can close this page."),
        (false, _) => ("404 Not Found", "Nothing is waited for here."),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    // Whether the browser reads it changes nothing.
    let _unread = stream.write_all(answer.as_bytes()).await;
    let _unread = stream.shutdown().await;
    is_ours.then_some(parameters)
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut chunk = [0u8; 2048];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        head.extend_from_slice(chunk.get(..read)?);
        if head.len() > HEAD_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(port: u16, target: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn only_the_answer_that_was_waited_for_ends_the_wait() {
        let loopback = Loopback::open().await.unwrap();
        let port = loopback.port;
        assert_eq!(loopback.redirect_uri(), format!("http://127.0.0.1:{port}/callback"));
        let waiting = tokio::spawn(async move { loopback.wait("s").await });
        for target in ["/favicon.ico", "/callback?code=c&state=other", "/callback?code=c"] {
            assert!(get(port, target).await.starts_with("HTTP/1.1 404"), "{target}");
        }
        let page = get(port, "/callback?code=c%2B1&state=s&iss=https%3A%2F%2Fi").await;
        assert!(page.contains("You are signed in"), "{page}");
        let found = waiting.await.unwrap().unwrap();
        assert_eq!((&*found["code"], &*found["iss"]), ("c+1", "https://i"));
    }
}
