//! Where a caller without a good token learns how to get one: protected resource metadata
//! (RFC 9728) and the `WWW-Authenticate: Bearer` challenge (RFC 6750).
//!
//! INVARIANT: a challenge names only public facts: the metadata's URL, scopes, a fixed sentence.

use countersign_core::refusal::{Code, Fact, Refusal};
use http::Uri;
use serde::Serialize;
use std::{fmt::Write as _, sync::Arc};

/// The well-known path before a resource's own path.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The resource URI of a server, which is the audience of its tokens.
#[must_use]
pub fn resource(public_url: &str, server: &str) -> String {
    format!("{}/{server}/mcp", public_url.trim_end_matches('/'))
}

/// The URL of a server's metadata: the well-known path inserted before the resource's path.
#[must_use]
pub fn url(public_url: &str, server: &str) -> String {
    let base = public_url.trim_end_matches('/');
    let path = base.parse::<Uri>().map(|uri| uri.path().trim_end_matches('/').to_owned());
    let path = path.unwrap_or_default();
    let origin = base.strip_suffix(path.as_str()).unwrap_or(base);
    format!("{origin}{WELL_KNOWN}{path}/{server}/mcp")
}

/// The metadata document of a resource. An issuer whose name is no URL is not named in it: nobody
/// could find out more about it (RFC 9728 §2, RFC 8414 §2).
#[must_use]
pub fn document(resource: &str, issuers: &[&str], scopes: &[Arc<str>]) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        resource: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        authorization_servers: Vec<&'a str>,
        #[serde(skip_serializing_if = "<[Arc<str>]>::is_empty")]
        scopes_supported: &'a [Arc<str>],
        bearer_methods_supported: [&'static str; 1],
    }
    let document = Document {
        resource,
        authorization_servers: issuers.iter().copied().filter(|iss| iss.contains("://")).collect(),
        scopes_supported: scopes,
        bearer_methods_supported: ["header"],
    };
    // Strings and lists always serialize.
    serde_json::to_string(&document).unwrap_or_default()
}

/// The challenge that goes with a refusal of identity. Without a token there is no `error`
/// (RFC 6750 §3.1). `scope` names those of the server; to a token that is too small, every scope
/// that the operation needs, and no other.
#[must_use]
pub fn www_authenticate(metadata_url: &str, scopes: &[Arc<str>], refusal: &Refusal) -> String {
    let code = refusal.code();
    let mut challenge = format!("Bearer resource_metadata=\"{}\"", quotable(metadata_url));
    let is_needed = |fact: &&Fact| code == Code::ScopeMissing && fact.name == "scope";
    let scope = match refusal.facts().iter().find(is_needed) {
        Some(fact) => quotable(&fact.value),
        None => quotable(&scopes.join(" ")),
    };
    if !scope.is_empty() {
        // Writing to a String cannot fail.
        let _ok = write!(challenge, ", scope=\"{scope}\"");
    }
    let error = if code == Code::TokenMissing {
        return challenge;
    } else if code == Code::ScopeMissing {
        "insufficient_scope"
    } else if code == Code::HumanRequired || code == Code::StepUpRequired {
        "insufficient_user_authentication"
    } else if code == Code::TokenInQuery {
        "invalid_request"
    } else {
        "invalid_token"
    };
    let description = quotable(code.row().title);
    let _ok = write!(challenge, ", error=\"{error}\", error_description=\"{description}\"");
    // RFC 9470 section 3: what the sign-in must be.
    for fact in refusal.facts().iter().filter(|fact| ["acr_values", "max_age"].contains(&fact.name))
    {
        let _ok = write!(challenge, ", {}=\"{}\"", fact.name, quotable(&fact.value));
    }
    challenge
}

/// What may stand between quotes unescaped.
fn quotable(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_path_aware() {
        let origin = "https://gw.example.com";
        assert_eq!(resource(origin, "weather"), "https://gw.example.com/weather/mcp");
        assert_eq!(
            url(origin, "weather"),
            "https://gw.example.com/.well-known/oauth-protected-resource/weather/mcp"
        );
        assert_eq!(url("https://gw.example.com/", "weather"), url(origin, "weather"));
        assert_eq!(
            url("https://gw.example.com/pay/", "weather"),
            "https://gw.example.com/.well-known/oauth-protected-resource/pay/weather/mcp"
        );
    }

    #[test]
    fn the_document() {
        let resource = resource("https://gw.example.com", "weather");
        let scopes = ["mcp:tools".into(), "mcp:call".into()];
        assert_eq!(
            document(&resource, &["https://idp.example/"], &scopes),
            r#"{"resource":"https://gw.example.com/weather/mcp","#.to_owned()
                + r#""authorization_servers":["https://idp.example/"],"#
                + r#""scopes_supported":["mcp:tools","mcp:call"],"#
                + r#""bearer_methods_supported":["header"]}"#
        );
        assert_eq!(
            document(&resource, &["idp.example/project-1"], &[]),
            r#"{"resource":"https://gw.example.com/weather/mcp","#.to_owned()
                + r#""bearer_methods_supported":["header"]}"#
        );
    }

    #[test]
    fn challenges() {
        let challenge = |scopes: &[Arc<str>], code: Code| {
            www_authenticate("https://gw/m", scopes, &code.into())
        };
        assert_eq!(
            challenge(&[], Code::TokenMissing),
            r#"Bearer resource_metadata="https://gw/m""#
        );
        assert_eq!(
            challenge(&["a".into(), "b".into()], Code::ScopeMissing),
            r#"Bearer resource_metadata="https://gw/m", scope="a b", error="insufficient_scope", "#
                .to_owned()
                + r#"error_description="the access token lacks a scope""#
        );
        assert_eq!(
            challenge(&["a\"\r\nX: y".into()], Code::TokenSignature),
            r#"Bearer resource_metadata="https://gw/m", scope="aX: y", error="invalid_token", "#
                .to_owned()
                + r#"error_description="the access token's signature is not valid""#
        );
        let small = Refusal::new(Code::ScopeMissing).with("scope", "b");
        let asked = www_authenticate("https://gw/m", &["a".into(), "b".into()], &small);
        assert!(asked.contains(r#", scope="b", error="insufficient_scope""#), "{asked}");
        let step_up = Refusal::new(Code::StepUpRequired).with("acr_values", "mfa hw");
        let asked = www_authenticate("https://gw/m", &[], &step_up.with("max_age", 600));
        assert!(asked.contains(r#"error="insufficient_user_authentication""#), "{asked}");
        assert!(asked.ends_with(r#", acr_values="mfa hw", max_age="600""#), "{asked}");
    }
}
