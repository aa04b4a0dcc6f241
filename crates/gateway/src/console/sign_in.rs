//! Signing in and out at a browser.
//!
//! What a sign-in must remember until its answer comes (where to go on, when it started) stands in
//! a cookie of that browser; state, nonce and PKCE verifier are derived from the cookie under a key
//! of this process. So nothing is kept for those who never come back, and an answer fits only the
//! browser that asked.
//!
//! INVARIANT: a sign-in always opens a new session, and ends the one that was there.
//! INVARIANT: after it the browser goes on to a page of the console, never elsewhere.

use super::{
    Console,
    page::Failed,
    session::Entry,
    visitor::{cookie, expired, fresh},
};
use crate::{
    admin::actor::Actor,
    config::StepUp,
    fetch::{form_encode, form_pairs},
    prove::identity::SignInProblem,
};
use aws_lc_rs::hmac;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Its cookie.
const COOKIE: &str = "__Host-countersign-sign-in";
/// How long a person may take at the issuer, in milliseconds.
const PATIENCE_MS: u64 = 600_000;
/// What the cookie of a sign-in ends with of which more is asked.
const STEP_UP: &str = ".up";
/// The longest path to go on to, in bytes.
const PATH_BYTES_MAX: usize = 512;

/// A sign-in that is going on, as its browser's cookie says it.
struct Journey<'a> {
    cookie: &'a str,
    key: &'a hmac::Key,
}

impl Journey<'_> {
    /// A value that belongs to this sign-in alone.
    fn derive(&self, what: &str) -> String {
        let mut context = hmac::Context::with_key(self.key);
        context.update(what.as_bytes());
        context.update(&[0]);
        context.update(self.cookie.as_bytes());
        URL_SAFE_NO_PAD.encode(context.sign())
    }

    fn state(&self) -> String {
        self.derive("state")
    }

    fn nonce(&self) -> String {
        self.derive("nonce")
    }

    fn verifier(&self) -> String {
        self.derive("verifier")
    }

    /// Whether more was asked of it than of any sign-in.
    fn is_step_up(&self) -> bool {
        self.cookie.ends_with(STEP_UP)
    }

    /// Where to go on, unless its time is over.
    fn goal(&self, now: UnixMs) -> Option<String> {
        let cookie = self.cookie.strip_suffix(STEP_UP).unwrap_or(self.cookie);
        let (until, rest) = cookie.split_once('.')?;
        let (_random, path) = rest.split_once('.')?;
        let until = UnixMs(until.parse().ok()?);
        let path = String::from_utf8(URL_SAFE_NO_PAD.decode(path).ok()?).ok()?;
        (now < until).then(|| own_path(&path))
    }
}

/// A path of the console; its front page for anything else.
fn own_path(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.?=&%:~".contains(c);
    let is_own = path.starts_with('/') && !path.starts_with("//") && !path.starts_with("/sign-");
    if is_own && path.len() <= PATH_BYTES_MAX && path.chars().all(is_plain) {
        return path.to_owned();
    }
    "/".to_owned()
}

/// Sends the browser to the issuer.
pub(super) async fn start(
    State(console): State<Arc<Console>>,
    uri: Uri,
) -> Result<Response, Failed> {
    let pairs = form_pairs(uri.query().unwrap_or(""));
    let path = pairs.iter().find(|(name, _)| name == "to").map_or("/", |(_, path)| path);
    let until = console.gate().world.now().plus_ms(PATIENCE_MS).0;
    let random = URL_SAFE_NO_PAD.encode(console.gate().world.random::<16>());
    let path = URL_SAFE_NO_PAD.encode(own_path(path));
    let is_asked = pairs.iter().any(|(name, _)| name == "step_up");
    let step_up = console.config.step_up.as_ref().filter(|_| is_asked);
    let end = step_up.map_or("", |_| STEP_UP);
    let value = format!("{until}.{random}.{path}{end}");
    let journey = Journey { cookie: &value, key: &console.key };
    let endpoints = console.endpoints().await.map_err(failed)?;
    let config = &console.config.sign_in;
    let mut scope = "openid".to_owned();
    for word in &config.scopes {
        scope.push(' ');
        scope.push_str(word);
    }
    let challenge = URL_SAFE_NO_PAD.encode(Digest::of(journey.verifier().as_bytes()).as_bytes());
    let (max_age, classes) = step_up.map_or_else(Default::default, asked);
    let mut query = vec![
        ("response_type", "code"),
        ("client_id", &config.client_id),
        ("scope", &scope),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let (state, nonce) = (journey.state(), journey.nonce());
    let redirect = console.redirect_uri();
    query.extend([("redirect_uri", &*redirect), ("state", &*state), ("nonce", &*nonce)]);
    let more = [("max_age", &*max_age), ("acr_values", &*classes)];
    query.extend(more.into_iter().filter(|(_, value)| !value.is_empty()));
    let query = form_encode(&query);
    let endpoint = &endpoints.authorization_endpoint;
    let sign = if endpoint.contains('?') { '&' } else { '?' };
    let mut response = go(&format!("{endpoint}{sign}{query}"));
    append(&mut response, &fresh(COOKIE, &value, PATIENCE_MS / 1000));
    Ok(response)
}

/// What a stronger sign-in is asked for with.
fn asked(step_up: &StepUp) -> (String, String) {
    (step_up.max_age_s.to_string(), step_up.acr_values.join(" "))
}

/// Where a person signs in anew, as a yes to this request wants it.
pub(super) fn step_up_to(path: &str) -> String {
    format!("/sign-in?{}", form_encode(&[("to", path), ("step_up", "1")]))
}

/// The issuer's answer: opens a session.
pub(super) async fn finish(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failed> {
    let refused =
        |reason: &str| Failed::from(Refusal::new(Code::SignInFailed).with("reason", reason));
    let pairs = form_pairs(uri.query().unwrap_or(""));
    let single = |name: &str| {
        let mut found = pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        found.next().filter(|_| found.next().is_none())
    };
    let value = cookie(&headers, COOKIE).ok_or_else(|| refused("no sign-in was begun here"))?;
    let journey = Journey { cookie: value, key: &console.key };
    let goal = journey.goal(console.gate().world.now());
    let goal = goal.ok_or_else(|| refused("the sign-in took too long"))?;
    let state = single("state").unwrap_or("");
    if !bool::from(state.as_bytes().ct_eq(journey.state().as_bytes())) {
        return Err(refused("the answer is to another sign-in"));
    }
    let endpoints = console.endpoints().await.map_err(failed)?;
    let named = single("iss");
    let must_name = endpoints.authorization_response_iss_parameter_supported;
    if named.map_or(must_name, |named| named != &*console.config.sign_in.issuer) {
        return Err(refused("the answer is another issuer's"));
    }
    let code = single("code").ok_or_else(|| refused("the issuer did not sign you in"))?;
    let _place = console.exchanges.acquire().await;
    let redirect = console.redirect_uri();
    let step_up = console.config.step_up.as_ref().filter(|_| journey.is_step_up());
    let (verifier, nonce) = (journey.verifier(), journey.nonce());
    let redeemed = console.provider.redeem(code, &verifier, &redirect, &nonce, step_up).await;
    let signed = redeemed.map_err(failed)?;
    let entry = Entry { at: signed.at, acr: signed.acr };
    let config = &console.config.sign_in;
    let who = (&*config.issuer, &*signed.subject, &*signed.name);
    let actor = Actor::person(who, signed.tenant, signed.roles, &config.roles);
    let actor = console.as_it_may(actor);
    if let Some(before) = cookie(&headers, super::COOKIE) {
        console.sessions.end(before);
    }
    let secret = console.sessions.open(actor, entry);
    let mut response = go(&goal);
    append(&mut response, &fresh(super::COOKIE, &secret, console.config.session_ms / 1000));
    append(&mut response, &expired(COOKIE));
    Ok(response)
}

fn failed(problem: SignInProblem) -> Failed {
    Refusal::new(Code::SignInFailed).with("reason", problem).into()
}

/// Sends a browser on.
pub(super) fn go(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// Adds a cookie.
pub(super) fn append(response: &mut Response, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_the_console_are_gone_on_to() {
        assert_eq!(own_path("/approvals/appr_1"), "/approvals/appr_1");
        assert_eq!(own_path("/live?state=refused"), "/live?state=refused");
        for foreign in [
            "//evil.example",
            "https://evil.example",
            "\\\\evil",
            "/\\evil.example",
            "",
            "evil",
            "/a\r\nset-cookie: x",
            "/sign-in",
            "/x y",
            "javascript:alert(1)",
        ] {
            assert_eq!(own_path(foreign), "/", "{foreign}");
        }
        assert_eq!(own_path(&format!("/{}", "a".repeat(600))), "/");
    }

    #[test]
    fn an_answer_fits_one_browser_and_one_time() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        let journey = |cookie| Journey { cookie, key: &key };
        let a = journey("2000.AAAA.L2xpdmU");
        assert_eq!(a.goal(UnixMs(1999)).as_deref(), Some("/live"));
        assert_eq!(a.goal(UnixMs(2000)), None);
        let values = [a.state(), a.nonce(), a.verifier(), journey("2000.AAAB.L2xpdmU").state()];
        let distinct: std::collections::BTreeSet<_> = values.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(a.verifier().len(), 43, "RFC 7636 wants 43 to 128 characters");
        assert_eq!(journey("junk").goal(UnixMs(0)), None);
        let up = journey("2000.AAAA.L2xpdmU.up");
        assert_eq!((up.goal(UnixMs(0)).as_deref(), up.is_step_up()), (Some("/live"), true));
        assert_ne!(up.nonce(), a.nonce(), "what was asked is part of it");
    }
}
