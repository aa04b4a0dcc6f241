//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a change that its sender named is
//! made once, however often it is sent, and answered alike each time.
//!
//! INVARIANT: that a named request began is durable before it does anything. Whoever sends it again
//! gets its answer, or is told that there is none; it is never begun again.
//! INVARIANT: names are their actor's own; the same name with anything else in it is refused.

use super::{actor::Actor, denied::Denied, policies::BODY_BYTES_MAX};
use crate::gate::Gate;
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
};
use countersign_store::{Begun, Given, Named, failpoint};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use std::sync::Arc;

/// The header.
const HEADER: &str = "idempotency-key";
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// What a key looks like: a string of RFC 8941, or the same without its quotes.
pub(super) const PATTERN: &str = r#"^("[ !#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255})$"#;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Does a named change once. What is not named, or changes nothing, goes on as it is.
pub(super) async fn once(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let key = match key_of(request.headers()) {
        Ok(Some(key)) if is_change(&request) => key,
        Ok(_) => return next.run(request).await,
        Err(denied) => return denied.into_response(),
    };
    match named(gate, &key, request, next).await {
        Ok(response) => response,
        Err(denied) => denied.into_response(),
    }
}

/// Whether a request can change anything: AuthZEN asks by POST.
fn is_change(request: &Request) -> bool {
    request.method() == Method::POST && !request.uri().path().starts_with("/access/")
}

async fn named(
    gate: Arc<Gate>,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Denied> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| Refusal::new(Code::TooLarge))?;
    let actor = parts.extensions.get::<Actor>().ok_or(Code::InternalFault)?;
    let named = Named {
        actor: Digest::of(actor.text().as_bytes()),
        name: Digest::of(key.as_bytes()),
        request: digest(&parts, &body),
    };
    match gate.store.once_begin(named).await? {
        Begun::Now => {}
        Begun::Answered(given) => return again(given),
        Begun::Unanswered => return Err(Code::KeyUnanswered.into()),
        Begun::Other => return Err(Code::KeyReused.into()),
    }
    let request = Request::from_parts(parts, Body::from(body));
    // It goes on when its caller has gone, so that its answer is there when they ask again.
    let doing = tokio::spawn(async move { act(&gate, named, request, next).await });
    doing.await.map_err(|_| Code::InternalFault)?
}

/// Does it, and keeps its answer. What may or may not have been done stays without one.
async fn act(gate: &Gate, named: Named, request: Request, next: Next) -> Result<Response, Denied> {
    let (parts, body) = next.run(request).await.into_parts();
    failpoint("named.done");
    let body = to_bytes(body, usize::MAX).await.map_err(|_| Refusal::new(Code::InternalFault))?;
    let code = parts.extensions.get::<Code>();
    let is_undone = matches!(code, Some(Code::Overloaded | Code::RateLimited));
    if is_undone {
        gate.store.once_forget(named).await?;
    } else if !parts.status.is_server_error() {
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let given = Given { status: parts.status.as_u16(), kind, body: body.to_vec() };
        gate.store.once_answer(named, given).await?;
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// An answer that was given before.
fn again(given: Given) -> Result<Response, Denied> {
    let mut response = Response::new(Body::from(given.body));
    *response.status_mut() =
        StatusCode::from_u16(given.status).map_err(|_| Refusal::new(Code::InternalFault))?;
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&given.kind) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// All that a request says.
fn digest(parts: &Parts, body: &Bytes) -> Digest {
    let said = [parts.method.as_str(), &parts.uri.to_string(), &Digest::of(body).to_hex()];
    Digest::of(said.join("\n").as_bytes())
}

/// The name of a request, without its quotes.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Denied> {
    let mut lines = headers.get_all(HEADER).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::new(Code::AmbiguousHeaders).with("header", HEADER).into());
    }
    let key = line.to_str().ok().and_then(|line| {
        let quoted = line.strip_prefix('"').and_then(|line| line.strip_suffix('"'));
        let is_good = |b: u8| match b {
            b' ' => quoted.is_some(),
            b'"' | b'\\' => false,
            other => other.is_ascii_graphic(),
        };
        let key = quoted.unwrap_or(line);
        let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(is_good);
        is_key.then(|| key.to_owned())
    });
    let why = "expected a string of 1 to 255 printable characters, such as a UUID";
    key.map(Some).ok_or_else(|| Denied::invalid("Idempotency-Key", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lines: &[&'static str]) -> Result<Option<String>, Denied> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, HeaderValue::from_static(line));
        }
        key_of(&headers)
    }

    #[test]
    fn a_key_is_a_string_with_or_without_its_quotes() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for line in ["\"8e03978e-40d5\"", "8e03978e-40d5", "\"two words\"", "a,b;c"] {
            let read = key(&[line]).unwrap().unwrap();
            assert_eq!(read, line.trim_matches('"'));
            assert!(pattern.is_match(line), "{line}");
        }
        for line in ["", "\"\"", "two words", "\"a", "a\"", "\"a\\\"\"", "\"a\"; p=1"] {
            assert!(key(&[line]).is_err(), "{line}");
            assert!(!pattern.is_match(line), "{line}");
        }
        assert_eq!(key(&[]).unwrap(), None);
        assert!(key(&["a", "a"]).is_err(), "one name for one request");
    }
}
