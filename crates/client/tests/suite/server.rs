//! A server that answers as its test says, and remembers what it was asked.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    io,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Seen {
    pub(crate) fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub(crate) fn meta(&self, key: &str) -> &Value {
        &self.body["params"]["_meta"][key]
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What the server does.
pub(crate) enum Reply {
    /// Answers with a status, headers and a body.
    Http(u16, Vec<(&'static str, String)>, String),
    /// Closes the connection.
    Hangup,
    /// Never answers.
    Stall,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let json = ("content-type", "application/json".to_owned());
        Self::Http(status, vec![json], body.to_string())
    }

    pub(crate) fn with(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Http(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Self::Http(status, headers, body)
            }
            other => other,
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts on a free port of this machine. `answer` gets the request and how many came before.
    pub(crate) async fn start(
        answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, record) = (Arc::new(answer), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, record) = (answer.clone(), record.clone());
                let service =
                    service_fn(move |request| respond(request, answer.clone(), record.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The tool calls among them.
    pub(crate) fn calls(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method() == "tools/call").collect()
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Arc<impl Fn(&Seen, usize) -> Reply>,
    record: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    // A form, or nothing, is no JSON.
    let body = serde_json::from_str(&text).unwrap_or_default();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen = Seen { path, headers: head.headers, body, text };
    let before = {
        let mut record = record.lock().unwrap();
        record.push(seen.clone());
        record.iter().filter(|other| other.method() == seen.method()).count() - 1
    };
    match answer(&seen, before) {
        Reply::Http(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(Bytes::from(body))).unwrap())
        }
        Reply::Hangup => Err(io::ErrorKind::ConnectionReset.into()),
        Reply::Stall => std::future::pending().await,
    }
}
