//! Who looks at a page: the session behind a request's cookie, and what its forms say.
//!
//! INVARIANT: nothing changes but by a POST that carries the session's own form key and comes from
//! the console's own origin.

use super::{Console, page::Failed, session::Session, sign_in::go};
use crate::{
    admin::{
        actor::{Actor, Need},
        denied::Denied,
    },
    fetch::{form_encode, form_pairs},
};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use countersign_core::refusal::{Code, Refusal};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) session: Arc<Session>,
}

impl Visitor {
    /// Who.
    pub(super) fn actor(&self) -> &Actor {
        &self.session.actor
    }

    /// Whether they may.
    pub(super) fn may(&self, need: Need) -> Result<(), Failed> {
        Ok(self.actor().may(need)?)
    }
}

impl FromRequestParts<Arc<Console>> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        console: &Arc<Console>,
    ) -> Result<Self, Response> {
        let secret = cookie(&parts.headers, super::COOKIE);
        match secret.and_then(|secret| console.session_of(secret)) {
            Some(session) => Ok(Self { session }),
            None => Err(sign_in_first(parts)),
        }
    }
}

/// Pages lead to the sign-in and back; what a script asked for sends the whole page there.
fn sign_in_first(parts: &Parts) -> Response {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let is_page = parts.method == Method::GET && !parts.headers.contains_key("hx-request");
    if is_page {
        return go(&format!("/sign-in?{}", form_encode(&[("to", path)])));
    }
    let mut response = Failed::from(Refusal::new(Code::SignInNeeded)).into_response();
    response.headers_mut().insert("hx-redirect", HeaderValue::from_static("/sign-in"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// A form that somebody sent.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl Posted {
    /// A field; `None` when it is missing or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// A field's text, or an empty one.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }
}

impl FromRequest<Arc<Console>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, console).await?;
        let refuse = |code: Code| Failed::from(Refusal::new(code)).into_response();
        if !is_own_origin(&parts.headers, &console.config.public_url) {
            return Err(refuse(Code::FormStale));
        }
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_none_or(|kind| !kind.starts_with("application/x-www-form-urlencoded")) {
            return Err(Failed::from(Denied::invalid("", "expected a form")).into_response());
        }
        let bytes = Bytes::from_request(Request::from_parts(parts, body), console).await;
        let bytes = bytes.map_err(|_| refuse(Code::TooLarge))?;
        let fields = form_pairs(std::str::from_utf8(&bytes).unwrap_or(""));
        let posted = Self { visitor, fields };
        let key = posted.get("form_key").unwrap_or("").as_bytes();
        if !bool::from(key.ct_eq(posted.visitor.session.form_key.as_bytes())) {
            return Err(refuse(Code::FormStale));
        }
        Ok(posted)
    }
}

/// Whether a browser says that a request comes from a page of ours. Each of the two headers, where
/// there is one, must say so; one of them there must be.
fn is_own_origin(headers: &HeaderMap, public_url: &str) -> bool {
    let one = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let origin = one("origin").map(|origin| origin == public_url);
    let site = one("sec-fetch-site").map(|site| site == "same-origin");
    origin.unwrap_or(true) && site.unwrap_or(true) && (origin.is_some() || site.is_some())
}

/// A cookie's value; `None` when it is missing or comes twice.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(n, _)| n.trim() == name).map(|(_, value)| value.trim());
    found.next().filter(|_| found.next().is_none())
}

/// A cookie of this host alone, over TLS (or on loopback), out of reach of scripts.
pub(super) fn fresh(name: &str, value: &str, seconds: u64) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}")
}

/// The end of a cookie.
pub(super) fn expired(name: &str) -> String {
    fresh(name, "", 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn cookies_are_read_whole_and_once() {
        let found = headers(&[("cookie", "a=1; __Host-x=secret"), ("cookie", "b=2")]);
        assert_eq!(cookie(&found, "__Host-x"), Some("secret"));
        assert_eq!(cookie(&found, "b"), Some("2"));
        assert_eq!(cookie(&found, "x"), None);
        assert_eq!(cookie(&headers(&[("cookie", "a=1; a=2")]), "a"), None);
    }

    #[test]
    fn forms_of_other_sites_are_told_apart() {
        let own = "https://console.example";
        let says = |pairs: &[(&'static str, &'static str)]| is_own_origin(&headers(pairs), own);
        assert!(says(&[("origin", "https://console.example")]));
        assert!(says(&[("sec-fetch-site", "same-origin")]));
        assert!(!says(&[]));
        assert!(!says(&[("origin", "null")]));
        assert!(!says(&[("origin", "https://console.example.evil")]));
        assert!(!says(&[("origin", "https://console.example"), ("sec-fetch-site", "cross-site")]));
        assert!(!says(&[("sec-fetch-site", "same-site")]));
    }
}
