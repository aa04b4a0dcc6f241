//! Signing in: OAuth 2.1, authorization code with PKCE (RFC 7636), at the issuer that a server
//! names (RFC 9728), in the user's own browser, back to this machine (RFC 8252).
//!
//! Owns when it is done (a 401, or once a 403 that wants more scope), and the tokens: kept in a
//! file of mode 0600, refreshed when they end.
//!
//! INVARIANT: a token is asked for one server (RFC 8707) and sent to no other; an answer counts
//! only for the request that was made here (`state`), from the issuer it went to (RFC 9207).
//!
//! Does not: prove possession (DPoP), keep client secrets.

mod discovery;
mod loopback;

use crate::{
    cache::{make_directory, replace},
    challenge::parameters,
    http::Http,
    rpc::{Answer, Observer},
    secret::{Secret, read_private},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{digest::Digest, time::UnixMs, wire::form::form_encode, world::World};
use discovery::{Issuer, Resource, TokenAnswer};
use http::{StatusCode, Uri, header};
use loopback::Loopback;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Duration,
};

/// After a sign-in that failed, how long none is begun by itself, in milliseconds.
const PAUSE_MS: u64 = 60_000;

/// Who signs in, and how its user is asked.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Where tokens are kept; as long as the process lives when `None`.
    pub directory: Option<PathBuf>,
    /// A client that was registered at the issuer.
    pub client_id: Option<String>,
    /// The address of our client metadata document, for issuers that read those.
    pub client_metadata_url: Option<String>,
    /// Scopes to ask for beside those that the server names.
    pub scopes: Vec<String>,
    /// Takes what a person should read.
    pub say: Observer,
    /// Shows a person a page; without it its address is only said.
    pub open_page: Option<Observer>,
    /// Longest wait for the person, in milliseconds.
    pub wait_ms: u64,
}

/// Why nobody is signed in. Carries no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInError {
    /// The server or the issuer does not answer.
    Unreachable,
    /// What they say of themselves does not fit together, or lacks what is needed.
    Metadata(&'static str),
    /// The issuer knows no way for us to be its client.
    NoClient,
    /// The issuer, or the person, said no: OAuth's error code.
    Denied(String),
    /// The answer was not to our request, or not from the issuer.
    Foreign,
    /// The person did not answer in time.
    TimedOut,
    /// The tokens cannot be kept.
    Disk(std::io::ErrorKind),
}

impl fmt::Display for SignInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the issuer cannot be reached"),
            Self::Metadata(what) => write!(f, "sign-in is not possible: {what}"),
            Self::NoClient => {
                f.write_str("the issuer registers no clients by itself: name one that it knows")
            }
            Self::Denied(code) => write!(f, "the issuer said no: {code}"),
            Self::Foreign => f.write_str("an answer to another sign-in was refused"),
            Self::TimedOut => f.write_str("nobody signed in in time"),
            Self::Disk(kind) => write!(f, "the tokens cannot be kept: {kind}"),
        }
    }
}

impl std::error::Error for SignInError {}

/// The access token of a server, and the way to another one.
#[derive(Debug)]
pub(crate) struct Access {
    bearer: RwLock<Option<Secret>>,
    sign_in: Option<SignIn>,
    world: World,
    /// One sign-in at a time; when the last one failed.
    turn: tokio::sync::Mutex<Option<UnixMs>>,
}

/// The tokens, as they are kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    version: u8,
    /// For people who look at the file.
    server: String,
    /// Whose credentials are looked for while this sign-in lasts.
    principal: String,
    issuer: String,
    token_endpoint: String,
    client_id: String,
    resource: String,
    scopes: BTreeSet<String>,
    access_token: String,
    refresh_token: Option<String>,
}

/// What a server wants of us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    metadata_url: Option<String>,
    scopes: BTreeSet<String>,
    /// A token that it takes, but with more scope.
    more: bool,
}

impl Wanted {
    /// What an answer wants; `None` when it wants no sign-in.
    pub(crate) fn of(answer: &Answer) -> Option<Self> {
        let values = answer.headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut challenges = values.filter_map(|v| parameters(v.to_str().ok()?, &["bearer"]));
        let mut found = challenges.next();
        let error = found.as_ref().and_then(|found| found.get("error").cloned());
        let more = match answer.status {
            401 => false,
            403 if error.as_deref() == Some("insufficient_scope") => true,
            _ => return None,
        };
        // A 401 without a bearer challenge is about something else: a payment credential.
        let found = found.as_mut()?;
        let scope = found.remove("scope").unwrap_or_default();
        let scopes = scope.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect();
        Some(Self { metadata_url: found.remove("resource_metadata"), scopes, more })
    }
}

impl Access {
    /// With this token, or that of an earlier sign-in, or none.
    pub(crate) fn new(
        bearer: Option<Secret>,
        sign_in: Option<SignIn>,
        uri: &Uri,
        world: World,
    ) -> Self {
        // A token that was given is the operator's choice: nobody is asked to sign in.
        let sign_in = sign_in.filter(|_| bearer.is_none());
        let kept = sign_in.as_ref().and_then(|sign_in| sign_in.load(uri));
        let kept = kept.map(|tokens| Secret::new(tokens.access_token));
        let bearer = RwLock::new(bearer.or(kept));
        Self { bearer, sign_in, world, turn: tokio::sync::Mutex::new(None) }
    }

    /// The token to send.
    pub(crate) fn bearer(&self) -> Option<Secret> {
        self.bearer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whose credentials are looked for, where a sign-in says so.
    pub(crate) fn principal(&self, uri: &Uri) -> Option<String> {
        self.sign_in.as_ref()?.load(uri).map(|tokens| tokens.principal)
    }

    /// Gets a token that the server may take in place of the one that was sent; `false` when there
    /// is none to be had.
    pub(crate) async fn renew(
        &self,
        http: &Http,
        uri: &Uri,
        sent: Option<&Secret>,
        wanted: &Wanted,
    ) -> bool {
        let Some(sign_in) = &self.sign_in else { return false };
        let mut failed_at = self.turn.lock().await;
        if self.bearer().as_ref() != sent {
            // Somebody else has renewed it meanwhile.
            return true;
        }
        let now = self.world.now();
        if failed_at.is_some_and(|at| now < at.plus_ms(PAUSE_MS)) {
            return false;
        }
        match sign_in.renew((http, &self.world), uri, wanted).await {
            Ok(token) => {
                *self.bearer.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
                true
            }
            Err(error) => {
                *failed_at = Some(now);
                sign_in.say.see(&format!("not signed in: {error}"));
                false
            }
        }
    }
}

impl SignIn {
    async fn renew(
        &self,
        (http, world): (&Http, &World),
        uri: &Uri,
        wanted: &Wanted,
    ) -> Result<Secret, SignInError> {
        let kept = self.load(uri);
        if let Some(kept) = kept.as_ref().filter(|_| !wanted.more)
            && let Some(tokens) = refresh(http, kept).await?
        {
            return self.keep(uri, tokens);
        }
        let tokens = self.authorize((http, world), uri, wanted, kept.as_ref()).await?;
        self.say.see("signed in");
        self.keep(uri, tokens)
    }

    /// The whole way: discovery, a client, the person's yes, the tokens.
    async fn authorize(
        &self,
        (http, world): (&Http, &World),
        uri: &Uri,
        wanted: &Wanted,
        kept: Option<&Tokens>,
    ) -> Result<Tokens, SignInError> {
        let resource = Resource::find(http, uri, wanted.metadata_url.as_deref()).await?;
        let issuer = Issuer::find(http, &resource).await?;
        let loopback = Loopback::open().await?;
        let redirect = loopback.redirect_uri();
        let client_id = self.client_id(http, &issuer, &redirect).await?;
        let scopes = self.scopes(wanted, kept, (&resource, &issuer));
        let (verifier, state) = (random(world), random(world));
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&verifier));
        let scope = scopes.iter().map(|scope| &**scope).collect::<Vec<_>>().join(" ");
        let mut query = vec![
            ("response_type", "code"),
            ("client_id", &*client_id),
            ("redirect_uri", &*redirect),
            ("state", &*state),
            ("code_challenge", &*challenge),
            ("code_challenge_method", "S256"),
            ("resource", &*resource.resource),
        ];
        if !scopes.is_empty() {
            query.push(("scope", &*scope));
        }
        if scopes.contains("offline_access") {
            // OpenID Connect gives a refresh token only after it has asked.
            query.push(("prompt", "consent"));
        }
        let mark = if issuer.authorization_endpoint.contains('?') { '&' } else { '?' };
        let page = format!("{}{mark}{}", issuer.authorization_endpoint, form_encode(&query));
        self.say.see(&format!("sign in at {page}"));
        if let Some(open) = &self.open_page {
            open.see(&page);
        }
        let limit = Duration::from_millis(self.wait_ms);
        let returned = tokio::time::timeout(limit, loopback.wait(&state)).await;
        let returned = returned.map_err(|_| SignInError::TimedOut)??;
        let code = issuer.code_of(&returned)?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", &*redirect),
            ("client_id", &*client_id),
            ("code_verifier", &*verifier),
            ("resource", &*resource.resource),
        ];
        let answer = discovery::tokens(http, &issuer.token_endpoint, &form).await?;
        let principal = principal(&issuer.issuer, &client_id, &random(world));
        Ok(Tokens {
            version: 1,
            server: server_of(uri),
            principal: kept.map_or(principal, |kept| kept.principal.clone()),
            issuer: issuer.issuer,
            token_endpoint: issuer.token_endpoint,
            client_id,
            resource: resource.resource,
            scopes,
            access_token: answer.access_token,
            refresh_token: answer.refresh_token,
        })
    }

    /// Who we are to the issuer: our metadata document, a registered client, or one that it
    /// registers now (RFC 7591).
    async fn client_id(
        &self,
        http: &Http,
        issuer: &Issuer,
        redirect: &str,
    ) -> Result<String, SignInError> {
        if let Some(url) = self.client_metadata_url.as_ref().filter(|_| issuer.reads_documents) {
            return Ok(url.clone());
        }
        match (&self.client_id, &issuer.registration_endpoint) {
            (Some(id), _) => Ok(id.clone()),
            (None, Some(endpoint)) => discovery::register(http, endpoint, redirect).await,
            (None, None) => Err(SignInError::NoClient),
        }
    }

    /// What to ask for: what the server wants, what we had, and a token that lasts.
    fn scopes(
        &self,
        wanted: &Wanted,
        kept: Option<&Tokens>,
        (resource, issuer): (&Resource, &Issuer),
    ) -> BTreeSet<String> {
        let mut scopes = wanted.scopes.clone();
        if scopes.is_empty() {
            scopes.extend(resource.scopes_supported.iter().cloned());
        }
        scopes.extend(self.scopes.iter().cloned());
        scopes.extend(kept.into_iter().filter(|_| wanted.more).flat_map(|k| k.scopes.clone()));
        if issuer.scopes_supported.iter().any(|scope| scope == "offline_access") {
            scopes.insert("offline_access".to_owned());
        }
        scopes
    }

    fn file(&self, uri: &Uri) -> Option<PathBuf> {
        let name = Digest::of(server_of(uri).as_bytes());
        Some(self.directory.as_ref()?.join(format!("{name}.json")))
    }

    /// The tokens of an earlier sign-in at this server.
    fn load(&self, uri: &Uri) -> Option<Tokens> {
        let text = read_private(&self.file(uri)?).ok()?;
        let tokens: Tokens = serde_json::from_str(&text).ok()?;
        (tokens.version == 1 && tokens.server == server_of(uri)).then_some(tokens)
    }

    fn keep(&self, uri: &Uri, tokens: Tokens) -> Result<Secret, SignInError> {
        let bearer = Secret::new(&*tokens.access_token);
        let Some(file) = self.file(uri) else { return Ok(bearer) };
        let failed = |error: std::io::Error| SignInError::Disk(error.kind());
        if let Some(directory) = file.parent() {
            make_directory(directory).map_err(failed)?;
        }
        let text = serde_json::to_string(&tokens);
        let text = text.map_err(|_| SignInError::Disk(std::io::ErrorKind::InvalidData))?;
        replace(Path::new(&file), &text).map_err(failed)?;
        Ok(bearer)
    }
}

/// The tokens anew, by the refresh token; `None` when it is no longer good.
async fn refresh(http: &Http, kept: &Tokens) -> Result<Option<Tokens>, SignInError> {
    let Some(refresh_token) = &kept.refresh_token else { return Ok(None) };
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &**refresh_token),
        ("client_id", &*kept.client_id),
        ("resource", &*kept.resource),
    ];
    match discovery::tokens(http, &kept.token_endpoint, &form).await {
        Ok(TokenAnswer { access_token, refresh_token, .. }) => {
            let refresh_token = refresh_token.or_else(|| kept.refresh_token.clone());
            Ok(Some(Tokens { access_token, refresh_token, ..kept.clone() }))
        }
        Err(SignInError::Denied(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name for whoever signed in here, where the token has none that we can read.
fn principal(issuer: &str, client_id: &str, random: &str) -> String {
    Digest::of_parts(&[issuer.as_bytes(), client_id.as_bytes(), random.as_bytes()]).to_hex()
}

fn server_of(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    format!("{scheme}://{}{}", authority.to_ascii_lowercase(), uri.path())
}

fn random(world: &World) -> String {
    URL_SAFE_NO_PAD.encode(world.random::<32>())
}

/// Whether a status says that a request succeeded.
fn is_ok(status: StatusCode) -> bool {
    status.is_success()
}
