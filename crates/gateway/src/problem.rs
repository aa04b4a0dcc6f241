//! Refusals on the wire: RFC 9457 problem details over HTTP, tool results and JSON-RPC errors in
//! MCP. Pure rendering.

use crate::body::Body;
use countersign_core::{
    call::Era,
    refusal::{Charged, Code, Refusal},
    wire::{headers::HEADER_MISMATCH, jsonrpc},
};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{json, value::RawValue};

/// `_meta` key of a refusal's problem object.
pub const REFUSAL_META: &str = "countersign/refusal";

/// The fact that is money to whoever has it: what a credential's holder claims what is owed with.
const BEARER: &str = "refund";

/// The problem as JSON.
#[must_use]
pub fn json(refusal: &Refusal) -> String {
    serde_json::to_string(&refusal.problem()).unwrap_or_else(|_| "{}".to_owned())
}

/// What an agent reads: the sentence, whether money moved, and what to do.
#[must_use]
pub fn prose(refusal: &Refusal) -> String {
    let problem = refusal.problem();
    let charged = match refusal.is_charged() {
        Charged::No => "You were not charged.",
        Charged::Yes => "You were charged.",
        Charged::Unknown => "Whether you were charged is not known yet: do not pay again.",
        Charged::Unused => "Your payment is unused and stays valid.",
    };
    // What is worth money to whoever reads it is for the program, not for its model.
    let facts = refusal.facts().iter().filter(|fact| fact.name != BEARER);
    let facts: String = facts.map(|f| format!("\n{}: {}", f.name, f.value)).collect();
    format!("{}: {}. {charged} Next: {}.{facts}", problem.code, problem.title, problem.next.action)
}

/// An HTTP answer with problem details.
#[must_use]
pub fn http(refusal: &Refusal) -> Response<Body> {
    http_with_body(refusal, json(refusal))
}

/// An HTTP answer with problem details that carry more members.
#[must_use]
pub fn http_with_body(refusal: &Refusal, body: String) -> Response<Body> {
    let mut answer = with_status(refusal, body);
    let kind = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// An HTTP answer with a JSON-RPC error, the problem in its `data`.
#[must_use]
pub fn json_rpc(refusal: &Refusal, id: Option<&str>) -> Response<Body> {
    let mut answer = with_status(refusal, error_message(refusal, id));
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn error_message(refusal: &Refusal, id: Option<&str>) -> String {
    let id = id.and_then(|id| serde_json::from_str::<&RawValue>(id).ok());
    let row = refusal.code().row();
    let message = format!("{}: {}", row.text, row.title);
    jsonrpc::error(id, error_code(refusal.code()), &message, Some(&json(refusal)))
}

fn with_status(refusal: &Refusal, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(body));
    let row = refusal.code().row();
    *answer.status_mut() =
        StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    if refusal.code() == Code::TooLarge {
        // The rest of the body is not read: no other request can follow it on this connection.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.code() == Code::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if let Some(seconds) = refusal.problem().retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// A tool result that an agent can read and act on: `isError`, prose, the problem in `_meta`.
#[must_use]
pub fn tool_result(refusal: &Refusal, era: Era) -> String {
    let mut result = json!({
        "content": [{ "type": "text", "text": prose(refusal) }],
        "isError": true,
        "_meta": { REFUSAL_META: refusal.problem() },
    });
    if let (Era::Modern, Some(members)) = (era, result.as_object_mut()) {
        members.insert("resultType".to_owned(), "complete".into());
    }
    result.to_string()
}

/// The JSON-RPC error code of a refusal; ours lie from −32000 to −32019.
fn error_code(code: Code) -> i64 {
    let is_parse = matches!(code, Code::MalformedJson | Code::TooDeep | Code::DuplicateKey);
    let is_request = matches!(code, Code::Batch | Code::NotJsonRpc | Code::AmbiguousPayment);
    let is_params = matches!(code, Code::MissingModernMeta | Code::UnknownTool);
    if is_parse {
        -32700
    } else if is_request {
        -32600
    } else if is_params {
        -32602
    } else if code == Code::HeaderMismatch {
        HEADER_MISMATCH
    } else if code == Code::InternalFault {
        -32603
    } else {
        -32000
    }
}
