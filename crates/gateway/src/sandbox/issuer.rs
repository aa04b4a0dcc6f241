//! A sandbox OpenID issuer, for demonstrations and tests: one key, made at start and kept in
//! memory; discovery, JWKS, `client_credentials`, and tokens for people minted in the process.
//!
//! Nobody logs in here: whoever holds this value can be anybody. So:
//! INVARIANT: it listens on loopback only.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL},
    },
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use countersign_core::world::World;
use serde_json::{Value, json};
use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};
use subtle::ConstantTimeEq as _;
use tokio::task::JoinHandle;

use super::{SandboxError, listen};
use crate::fetch::form_pairs;

/// How long a machine's token lives, in seconds.
const MACHINE_TTL_S: u64 = 600;

/// A client that may ask for tokens of its own.
#[derive(Clone)]
pub struct SandboxClient {
    /// `client_id`.
    pub id: String,
    /// `client_secret`.
    pub secret: String,
}

impl fmt::Debug for SandboxClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxClient").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whose token to mint, and for what.
#[derive(Clone, Copy, Debug)]
pub struct SandboxToken<'a> {
    /// `sub`: the person, or the client for its own token.
    pub subject: &'a str,
    /// `client_id`.
    pub client: &'a str,
    /// The `act` chain, outermost (the acting agent) first; empty for none.
    pub actors: &'a [&'a str],
    /// `aud`: the resource URI.
    pub audience: &'a str,
    /// `scope`.
    pub scope: &'a str,
    /// `tenant`.
    pub tenant: &'a str,
    /// `roles`.
    pub roles: &'a [&'a str],
    /// A person has logged in: adds `auth_time`.
    pub is_human: bool,
    /// How long it lives, in seconds.
    pub ttl_s: u64,
}

/// A running issuer. It serves until [`SandboxIssuer::stop`] or the end of the process.
#[derive(Debug)]
pub struct SandboxIssuer {
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

/// Starts an issuer; port 0 takes a free one.
///
/// # Errors
/// The address is not on loopback or is taken, or there is no key.
pub async fn start(
    address: SocketAddr,
    clients: Vec<SandboxClient>,
    world: World,
) -> Result<SandboxIssuer, SandboxError> {
    let (listener, url) = listen(address).await?;
    let key = RwLock::new(SigningKey::new(&world)?);
    let inner = Arc::new(Inner { url, key, clients, world });
    let router = Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/.well-known/oauth-authorization-server", get(discovery))
        .route("/jwks", get(jwks))
        .route("/token", post(token))
        .layer(DefaultBodyLimit::max(16 << 10))
        .with_state(Arc::clone(&inner));
    let server = tokio::spawn(async move {
        // It ends with the process or by `stop`; nobody waits for its outcome.
        let _ended = axum::serve(listener, router).await;
    });
    Ok(SandboxIssuer { inner, server })
}

impl SandboxIssuer {
    /// `iss`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// A signed access token.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn mint(&self, token: &SandboxToken<'_>) -> Result<String, SandboxError> {
        self.inner.mint(token)
    }

    /// Replaces the key. Tokens under the old one are no longer good.
    ///
    /// # Errors
    /// No new key could be made.
    pub fn rotate(&self) -> Result<(), SandboxError> {
        let fresh = SigningKey::new(&self.inner.world)?;
        *self.inner.key.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Stops serving.
    pub fn stop(self) {
        self.server.abort();
    }
}

struct Inner {
    url: String,
    key: RwLock<SigningKey>,
    clients: Vec<SandboxClient>,
    world: World,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Inner {
    fn mint(&self, token: &SandboxToken<'_>) -> Result<String, SandboxError> {
        let now_s = self.world.now().seconds();
        let mut claims = json!({
            "iss": self.url,
            "sub": token.subject,
            "client_id": token.client,
            "aud": token.audience,
            "scope": token.scope,
            "tenant": token.tenant,
            "roles": token.roles,
            "iat": now_s,
            "exp": now_s.saturating_add(token.ttl_s),
            "jti": hex::encode(self.world.random::<16>()),
        });
        let act = token.actors.iter().rev().fold(None, |inner: Option<Value>, actor| {
            let mut act = json!({ "sub": actor });
            if let (Some(members), Some(inner)) = (act.as_object_mut(), inner) {
                members.insert("act".to_owned(), inner);
            }
            Some(act)
        });
        if let Some(members) = claims.as_object_mut() {
            members.extend(act.map(|act| ("act".to_owned(), act)));
            members.extend(token.is_human.then(|| ("auth_time".to_owned(), json!(now_s))));
        }
        self.key.read().unwrap_or_else(PoisonError::into_inner).sign(&claims)
    }

    /// The client that a token request authenticates as, by either method of RFC 6749 §2.3.1.
    fn authenticate(&self, headers: &HeaderMap, form: &Form) -> Option<&SandboxClient> {
        let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (id, secret) = match basic {
            Some(basic) => {
                let decoded = STANDARD.decode(basic.strip_prefix("Basic ")?).ok()?;
                let text = String::from_utf8(decoded).ok()?;
                let (id, secret) = text.split_once(':')?;
                (id.to_owned(), secret.to_owned())
            }
            None => (form.get("client_id")?.to_owned(), form.get("client_secret")?.to_owned()),
        };
        self.clients.iter().find(|client| {
            client.id == id && bool::from(client.secret.as_bytes().ct_eq(secret.as_bytes()))
        })
    }
}

struct SigningKey {
    id: String,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    fn new(world: &World) -> Result<Self, SandboxError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let id = format!("sandbox-{}", hex::encode(world.random::<4>()));
        Ok(Self { id, pair: pair.map_err(|_| SandboxError::Key)? })
    }

    fn sign(&self, claims: &Value) -> Result<String, SandboxError> {
        let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let input = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes());
        let signature = signature.map_err(|_| SandboxError::Key)?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    fn jwk(&self) -> Option<Value> {
        let (_, point) = self.pair.public_key().as_ref().split_first()?;
        let (x, y) = point.split_at_checked(32)?;
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        Some(json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": self.id, "x": x, "y": y,
        }))
    }
}

async fn discovery(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let url = &inner.url;
    Json(json!({
        "sandbox": true,
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "token_endpoint": format!("{url}/token"),
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
    }))
}

async fn jwks(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let key = inner.key.read().unwrap_or_else(PoisonError::into_inner).jwk();
    Json(json!({ "keys": key.into_iter().collect::<Vec<_>>() }))
}

/// A form whose members occur once.
struct Form(Vec<(String, String)>);

impl Form {
    fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(n, v)| n == name && !v.is_empty());
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

async fn token(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let form = Form(form_pairs(&String::from_utf8_lossy(&body)));
    let Some(client) = inner.authenticate(&headers, &form) else {
        return oauth_error(StatusCode::UNAUTHORIZED, "invalid_client");
    };
    if form.get("grant_type") != Some("client_credentials") {
        return oauth_error(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let Some(audience) = form.get("resource") else {
        return oauth_error(StatusCode::BAD_REQUEST, "invalid_target");
    };
    let scope = form.get("scope").unwrap_or("");
    let minted = inner.mint(&SandboxToken {
        subject: &client.id,
        client: &client.id,
        actors: &[],
        audience,
        scope,
        tenant: "sandbox",
        roles: &[],
        is_human: false,
        ttl_s: MACHINE_TTL_S,
    });
    let Ok(access_token) = minted else {
        return oauth_error(StatusCode::INTERNAL_SERVER_ERROR, "server_error");
    };
    let answer = json!({
        "sandbox": true,
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": MACHINE_TTL_S,
        "scope": scope,
    });
    no_store((StatusCode::OK, Json(answer)).into_response())
}

fn oauth_error(status: StatusCode, error: &str) -> Response {
    no_store((status, Json(json!({ "error": error }))).into_response())
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
