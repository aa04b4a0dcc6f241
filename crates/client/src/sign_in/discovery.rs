//! What servers and issuers say of themselves, and the requests that follow from it: resource
//! metadata (RFC 9728), issuer metadata (RFC 8414 and OpenID Connect), registration (RFC 7591),
//! tokens.
//!
//! INVARIANT: metadata counts only for the address it was asked for, and every address in it is
//! https, or of this machine.

use super::{SignInError, is_ok};
use crate::http::{Http, parse_url};
use countersign_core::wire::form::form_encode;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use std::collections::BTreeMap;

/// A protected resource.
#[derive(Debug, Deserialize)]
pub(super) struct Resource {
    pub(super) resource: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    pub(super) scopes_supported: Vec<String>,
}

/// An authorization server.
#[derive(Debug, Deserialize)]
pub(super) struct Issuer {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    pub(super) registration_endpoint: Option<String>,
    #[serde(default)]
    pub(super) scopes_supported: Vec<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default, rename = "client_id_metadata_document_supported")]
    pub(super) reads_documents: bool,
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    names_itself: bool,
}

/// What the token endpoint gives.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    pub(super) access_token: String,
    token_type: String,
    pub(super) refresh_token: Option<String>,
}

#[derive(Deserialize)]
struct OAuthError {
    error: String,
}

#[derive(Deserialize)]
struct Registered {
    client_id: String,
}

impl Resource {
    /// The metadata of a server, where it says it is, or at its well-known places.
    pub(super) async fn find(
        http: &Http,
        uri: &Uri,
        named: Option<&str>,
    ) -> Result<Self, SignInError> {
        let origin = origin(uri);
        let path = uri.path().trim_end_matches('/');
        let well_known = format!("{origin}/.well-known/oauth-protected-resource");
        let places = match named {
            Some(named) => vec![named.to_owned()],
            None => vec![format!("{well_known}{path}"), well_known],
        };
        let found: Self = first(http, &places).await?;
        // Nobody else's metadata may send us to its issuer with our server's name.
        let named: Uri = found.resource.parse().map_err(|_| BAD_RESOURCE)?;
        let own = uri.path().strip_prefix(named.path().trim_end_matches('/'));
        let is_ours = own.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if self::origin(&named) != origin || !is_ours {
            return Err(BAD_RESOURCE);
        }
        Ok(found)
    }
}

const BAD_RESOURCE: SignInError =
    SignInError::Metadata("the server's metadata is that of another resource");

impl Issuer {
    /// The metadata of the issuer that a resource names first.
    pub(super) async fn find(http: &Http, resource: &Resource) -> Result<Self, SignInError> {
        let named = resource.authorization_servers.first();
        let named = named.ok_or(SignInError::Metadata("the server names no issuer"))?;
        let bad = || SignInError::Metadata("the issuer's address is not https");
        let uri = parse_url(named, false).map_err(|_| bad())?;
        let (origin, path) = (origin(&uri), uri.path().trim_end_matches('/'));
        let places = [
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
            format!("{origin}/.well-known/openid-configuration{path}"),
            format!("{origin}{path}/.well-known/openid-configuration"),
        ];
        let found: Self = first(http, &places).await?;
        if found.issuer != *named {
            return Err(SignInError::Metadata("the issuer's metadata is that of another issuer"));
        }
        if !found.code_challenge_methods_supported.iter().any(|method| method == "S256") {
            return Err(SignInError::Metadata("the issuer does not say that it checks PKCE"));
        }
        for address in [&found.authorization_endpoint, &found.token_endpoint] {
            parse_url(address, false).map_err(|_| bad())?;
        }
        Ok(found)
    }

    /// The code of an answer that came back, if it is this issuer's and a yes.
    pub(super) fn code_of(
        &self,
        returned: &BTreeMap<String, String>,
    ) -> Result<String, SignInError> {
        match returned.get("iss") {
            Some(issuer) if *issuer != self.issuer => return Err(SignInError::Foreign),
            None if self.names_itself => return Err(SignInError::Foreign),
            Some(_) | None => {}
        }
        if let Some(error) = returned.get("error") {
            return Err(SignInError::Denied(word(error)));
        }
        returned.get("code").cloned().ok_or(SignInError::Foreign)
    }
}

/// Registers a client of this machine.
pub(super) async fn register(
    http: &Http,
    endpoint: &str,
    redirect: &str,
) -> Result<String, SignInError> {
    let body = json!({
        "client_name": "Countersign",
        "redirect_uris": [redirect],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    });
    let json = HeaderValue::from_static("application/json");
    let registered: Registered = post(http, endpoint, json, body.to_string()).await?;
    Ok(registered.client_id)
}

/// Asks the token endpoint.
pub(super) async fn tokens(
    http: &Http,
    endpoint: &str,
    form: &[(&str, &str)],
) -> Result<TokenAnswer, SignInError> {
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    let answer: TokenAnswer = post(http, endpoint, kind, form_encode(form)).await?;
    if answer.token_type.eq_ignore_ascii_case("bearer") {
        Ok(answer)
    } else {
        Err(SignInError::Metadata("the issuer gave a token of another kind"))
    }
}

async fn post<T: DeserializeOwned>(
    http: &Http,
    address: &str,
    kind: HeaderValue,
    body: String,
) -> Result<T, SignInError> {
    let uri = address_of(address)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let asked = async {
        let response = http.send(Method::POST, &uri, headers, body).await?;
        let status = response.status();
        Ok((status, http.read(response.into_body()).await?))
    };
    let (status, body) = http.in_time(asked).await.map_err(|_| SignInError::Unreachable)?;
    if !is_ok(status) {
        let error = serde_json::from_slice::<OAuthError>(&body);
        let error = error.map_or_else(|_| status.as_str().to_owned(), |error| word(&error.error));
        return Err(if status.is_server_error() {
            SignInError::Unreachable
        } else {
            SignInError::Denied(error)
        });
    }
    serde_json::from_slice(&body).map_err(|_| SignInError::Metadata("the issuer's answer"))
}

/// The first of these places that answers with what is looked for.
async fn first<T: DeserializeOwned>(http: &Http, places: &[String]) -> Result<T, SignInError> {
    let mut error = SignInError::Metadata("no metadata was found");
    for place in places {
        let uri = address_of(place)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let asked = async {
            let response = http.send(Method::GET, &uri, headers, String::new()).await?;
            let status = response.status();
            Ok((status, http.read(response.into_body()).await?))
        };
        match http.in_time(asked).await {
            Ok((status, body)) if is_ok(status) => {
                if let Ok(found) = serde_json::from_slice(&body) {
                    return Ok(found);
                }
            }
            Ok(_) => {}
            Err(_) => error = SignInError::Unreachable,
        }
    }
    Err(error)
}

fn address_of(text: &str) -> Result<Uri, SignInError> {
    let bad = SignInError::Metadata("an address is neither https nor of this machine");
    parse_url(text, false).map_err(|_| bad)
}

fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    format!("{scheme}://{}", authority.to_ascii_lowercase())
}

/// An error code, as OAuth allows it to be; nothing else reaches a person.
fn word(text: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.chars().filter(is_plain).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(names_itself: bool) -> Issuer {
        let text = json!({"issuer": "https://i.example", "authorization_endpoint": "https://i.example/a",
            "token_endpoint": "https://i.example/t", "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": names_itself});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_answer_counts_from_its_issuer_alone() {
        let answer = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let good = answer(&[("code", "c"), ("iss", "https://i.example")]);
        assert_eq!(issuer(true).code_of(&good), Ok("c".to_owned()));
        let other = answer(&[("code", "c"), ("iss", "https://evil.example")]);
        assert_eq!(issuer(false).code_of(&other), Err(SignInError::Foreign));
        let silent = answer(&[("code", "c")]);
        assert_eq!(issuer(true).code_of(&silent), Err(SignInError::Foreign));
        assert_eq!(issuer(false).code_of(&silent), Ok("c".to_owned()));
        let denied = answer(&[("error", "access_denied\u{1b}[2J<script>")]);
        let code = SignInError::Denied("access_denied2Jscript".to_owned());
        assert_eq!(issuer(false).code_of(&denied), Err(code));
    }
}
