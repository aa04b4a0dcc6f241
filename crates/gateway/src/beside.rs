//! Endpoints beside a server's MCP endpoint, in plain HTTP: whose they are, and the call that they
//! are asked about.
//!
//! Owns the form of such a request, and the answers that all of them share. Decides nothing.

use crate::{
    allowance::Caller,
    body::{self, Body},
    config::Server,
    gate::Gate,
    problem,
    prove::identity::query_has_token,
    server,
};
use bytes::Bytes;
use countersign_core::{
    refusal::{Code, Refusal},
    wire::json::{self, quote},
};
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The call that is to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) tool: String,
    pub(crate) arguments: Option<Box<RawValue>>,
    /// What the call says of itself, and the credentials that it carries there.
    #[serde(rename = "_meta")]
    pub(crate) meta: Option<Box<RawValue>>,
}

impl Asked {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Code::MalformedJson`].
    pub(crate) fn read(bytes: &Bytes) -> Result<Self, Refusal> {
        serde_json::from_slice(bytes).map_err(|_| {
            let detail = "expected `tool`, `arguments` and `_meta`, as the call will have them";
            Refusal::new(Code::MalformedJson).with("detail", detail)
        })
    }

    /// The `params` of the call.
    pub(crate) fn params(&self) -> String {
        let arguments = self.arguments.as_deref().map_or("{}", RawValue::get);
        let meta = self.meta.as_deref().map_or("{}", RawValue::get);
        format!(r#"{{"name":{},"arguments":{arguments},"_meta":{meta}}}"#, quote(&self.tool))
    }
}

/// The server of `/{server}/`, without its first slash. With one server alone its name may be left
/// out.
pub(crate) fn server_at(gate: &Gate, at: &str) -> Option<Arc<Server>> {
    match at.strip_suffix('/') {
        Some(name) => gate.server(name),
        None if at.is_empty() && gate.config.servers.len() == 1 => {
            gate.config.servers.values().next().cloned()
        }
        None => None,
    }
}

/// The body of a POST, which is JSON.
///
/// # Errors
/// [`Code::MethodNotAllowed`], [`Code::TokenInQuery`], [`Code::TooLarge`],
/// [`Code::MalformedJson`].
pub(crate) async fn read(gate: &Gate, head: &Parts, body: Incoming) -> Result<Bytes, Refusal> {
    if query_has_token(&head.uri) {
        return Err(Code::TokenInQuery.into());
    }
    if head.method != Method::POST {
        return Err(Code::MethodNotAllowed.into());
    }
    let limits = gate.json_limits();
    let patience_ms = gate.config.limits.body_timeout_ms;
    let bytes = body::read_from_client(body, limits.max_bytes, patience_ms).await?;
    json::check(&bytes, &limits)
        .map_err(|error| Refusal::new(Code::MalformedJson).with("detail", error))?;
    Ok(bytes)
}

/// A refusal of nobody in particular, counted; one too many failed payments is answered as that.
pub(crate) fn counted(gate: &Gate, head: &Parts, refusal: Refusal) -> Refusal {
    let refusal = gate.borne(&Caller::new(None, server::peer(head)), refusal);
    gate.store.count_refusal(refusal.code());
    refusal
}

/// Such a refusal's answer.
pub(crate) fn refused(gate: &Gate, server: &Server, refusal: &Refusal) -> Response<Body> {
    let mut answer = problem::http(refusal);
    gate.challenge_identity(server, refusal, answer.headers_mut());
    answer
}

/// An answer that nobody keeps.
pub(crate) fn private(status: StatusCode, json: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(json));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    answer
}
