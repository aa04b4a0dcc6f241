//! One issuer: its profile, its discovery document, its keys over time.
//!
//! INVARIANT: keys are fetched at most once in [`PAUSE_MS`], whatever tokens say; an issuer
//! without any keys is asked again after [`RETRY_MS`].
//! INVARIANT: keys older than [`STALE_MS`] verify nothing.

use crate::fetch::{Fetch, FetchError, FetchRules};
use countersign_core::{
    proof::{Header, Profile, TenantRule, TypRule},
    refusal::{Code, Refusal},
    time::UnixMs,
    world::World,
};
use http::Uri;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::keys::KeySet;

/// The least time between two fetches, in milliseconds.
const PAUSE_MS: u64 = 60_000;
/// The same while there are no keys at all.
const RETRY_MS: u64 = 5_000;
/// How long keys are used while the issuer cannot be reached, in milliseconds.
const STALE_MS: u64 = 3_600_000;

/// Where an issuer's keys are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// At the well-known places of OpenID Connect and RFC 8414 under the issuer.
    WellKnown,
    /// A discovery document elsewhere; it must still name the issuer.
    Document(String),
    /// No discovery: the JWKS itself.
    Keys(String),
}

/// One issuer as the operator configures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub discovery: Discovery,
    /// Its tokens carry this audience instead of the resource URI. Needs `clients`.
    pub audience: Option<String>,
    /// Clients whose tokens are accepted; empty for any.
    pub clients: Vec<String>,
    /// Accept tokens whose `typ` is missing or `JWT`.
    pub accept_typ_missing: bool,
    /// The claim with the client's id: `client_id`, `azp`, `appid`.
    pub client_claim: String,
    /// The tenant of its principals.
    pub tenant: TenantRule,
    /// The claim with roles or groups; a name, or a JSON pointer.
    pub roles_claim: Option<String>,
    /// A claim that only a person's token has.
    pub human_claim: Option<String>,
    /// It may be on loopback or in a private network, over plain HTTP too.
    pub allow_private_network: bool,
    /// How far ahead its clock may be, in seconds.
    pub leeway_s: u64,
    /// How often its keys are fetched anew, in seconds; a removed key lives no longer.
    pub refresh_s: u64,
}

impl IssuerConfig {
    /// An issuer that follows RFC 9068, in the tenant `default`.
    #[must_use]
    pub fn new(issuer: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            discovery: Discovery::WellKnown,
            audience: None,
            clients: Vec::new(),
            accept_typ_missing: false,
            client_claim: "client_id".to_owned(),
            tenant: TenantRule::Fixed("default".into()),
            roles_claim: None,
            human_claim: None,
            allow_private_network: false,
            leeway_s: 5,
            refresh_s: 300,
        }
    }
}

/// Why an issuer cannot be configured so. Each names the issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerProblem {
    /// Two entries for one issuer.
    Duplicate(Arc<str>),
    /// Not an `https` URL (or `http` in a private network), and no other place for its keys.
    NotUrl(Arc<str>),
    /// An audience of its own without a list of clients: any of its tokens would do.
    AnyClient(Arc<str>),
}

impl fmt::Display for IssuerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "issuer `{name}` is configured twice"),
            Self::NotUrl(name) => write!(f, "issuer `{name}` is not an https URL"),
            Self::AnyClient(name) => {
                write!(f, "issuer `{name}` has an audience of its own but no list of clients")
            }
        }
    }
}

impl std::error::Error for IssuerProblem {}

/// Why the last fetch of keys failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysProblem {
    /// No answer.
    Fetch(FetchError),
    /// An answer with this status.
    Status(u16),
    /// No discovery document, or one without `issuer` and `jwks_uri`.
    NotDiscovery,
    /// The discovery document is another issuer's.
    OtherIssuer,
    /// No key set.
    NotKeys,
}

impl fmt::Display for KeysProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(error) => error.fmt(f),
            Self::Status(status) => write!(f, "status {status}"),
            Self::NotDiscovery => f.write_str("not a discovery document"),
            Self::OtherIssuer => f.write_str("the discovery document names another issuer"),
            Self::NotKeys => f.write_str("not a key set"),
        }
    }
}

/// How an issuer's keys stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerReport {
    /// `iss`.
    pub issuer: Arc<str>,
    /// Usable keys.
    pub keys: usize,
    /// When they were fetched.
    pub fetched_at: Option<UnixMs>,
    /// Why the last fetch failed, if it did.
    pub problem: Option<KeysProblem>,
}

/// Keys of one fetch.
pub(super) struct Keys {
    pub(super) set: KeySet,
    pub(super) generation: u64,
    fetched_at: UnixMs,
}

/// Where an issuer lets people sign in.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// Where browsers are sent.
    pub authorization_endpoint: String,
    /// Where a code is exchanged.
    pub token_endpoint: String,
    /// It names itself in its answers (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Keys>>,
    attempted_at: Option<UnixMs>,
    problem: Option<KeysProblem>,
}

/// One issuer.
pub(super) struct Issuer {
    config: IssuerConfig,
    profile: Profile,
    fetch: Fetch,
    world: World,
    state: Mutex<State>,
    /// Changes with the keys; read without the lock.
    generation: AtomicU64,
    /// Held during a fetch.
    turn: tokio::sync::Mutex<()>,
}

impl Issuer {
    pub(super) fn new(config: IssuerConfig, world: World) -> Result<Self, IssuerProblem> {
        let name: Arc<str> = config.issuer.as_str().into();
        let is_http = name.starts_with("http://") && config.allow_private_network;
        if config.discovery == Discovery::WellKnown
            && !((name.starts_with("https://") || is_http) && !well_known(&name).is_empty())
        {
            return Err(IssuerProblem::NotUrl(name));
        }
        if config.audience.is_some() && config.clients.is_empty() {
            return Err(IssuerProblem::AnyClient(name));
        }
        let profile = Profile {
            issuer: name,
            typ: match config.accept_typ_missing {
                true => TypRule::AlsoUntyped,
                false => TypRule::AccessToken,
            },
            client_claim: config.client_claim.as_str().into(),
            clients: config.clients.iter().map(|client| client.as_str().into()).collect(),
            tenant: config.tenant.clone(),
            roles_claim: config.roles_claim.as_deref().map(Arc::from),
            human_claim: config.human_claim.as_deref().map(Arc::from),
            leeway_s: config.leeway_s,
        };
        let allow_private = config.allow_private_network;
        Ok(Self {
            config,
            profile,
            fetch: Fetch::new(FetchRules { allow_private, ..FetchRules::PUBLIC }),
            world,
            state: Mutex::default(),
            generation: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub(super) const fn name(&self) -> &Arc<str> {
        &self.profile.issuer
    }

    pub(super) const fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(super) fn audience(&self) -> Option<&str> {
        self.config.audience.as_deref()
    }

    /// Whether another one is configured as this one is.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.config == other.config
    }

    fn refresh_ms(&self) -> u64 {
        self.config.refresh_s.saturating_mul(1000).max(PAUSE_MS)
    }

    /// The generation of the keys: a token verified under another one is verified again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn report(&self) -> IssuerReport {
        let state = self.state();
        IssuerReport {
            issuer: Arc::clone(self.name()),
            keys: state.keys.as_ref().map_or(0, |keys| keys.set.len()),
            fetched_at: state.keys.as_ref().map(|keys| keys.fetched_at),
            problem: state.problem,
        }
    }

    /// The keys to verify a token with this header, fetched anew when they are old or lack its
    /// key, as far as the pause allows. They may still lack it.
    ///
    /// # Errors
    /// [`Code::KeysUnavailable`]
    pub(super) async fn keys_for(self: &Arc<Self>, header: &Header) -> Result<Arc<Keys>, Refusal> {
        let (current, is_due) = {
            let (state, now) = (self.state(), self.world.now());
            (state.keys.clone(), state.is_due(now))
        };
        let lacks_key = current.as_ref().is_none_or(|keys| !keys.set.knows(header));
        let is_old = current
            .as_ref()
            .is_none_or(|keys| self.world.now().since_ms(keys.fetched_at) >= self.refresh_ms());
        if is_due && (lacks_key || is_old) {
            self.refresh().await;
        } else if lacks_key {
            // A fetch that is under way may bring it.
            drop(self.turn.lock().await);
        }
        let now = self.world.now();
        let usable = |keys: &Arc<Keys>| now.since_ms(keys.fetched_at) < STALE_MS;
        let keys = self.state().keys.clone().filter(usable);
        keys.ok_or_else(|| Refusal::new(Code::KeysUnavailable).retry_after_s(RETRY_MS / 1000))
    }

    /// Fetches the keys unless that was just done. Goes on when the caller does not wait.
    pub(super) async fn refresh(self: &Arc<Self>) {
        let issuer = Arc::clone(self);
        let fetching = tokio::spawn(async move {
            let _turn = issuer.turn.lock().await;
            let now = issuer.world.now();
            {
                let mut state = issuer.state();
                if !state.is_due(now) {
                    return;
                }
                state.attempted_at = Some(now);
            }
            let fetched = issuer.fetch_keys().await;
            issuer.install(fetched, now);
        });
        // A fetch that panicked leaves the keys as they are.
        let _ended = fetching.await;
    }

    fn install(&self, fetched: Result<KeySet, KeysProblem>, now: UnixMs) {
        let mut state = self.state();
        match fetched {
            Ok(set) => {
                let is_same = state
                    .keys
                    .as_ref()
                    .is_some_and(|keys| keys.set.fingerprint() == set.fingerprint());
                let generation = self.generation().wrapping_add(u64::from(!is_same));
                state.keys = Some(Arc::new(Keys { set, generation, fetched_at: now }));
                state.problem = None;
                self.generation.store(generation, Ordering::Release);
            }
            Err(problem) => state.problem = Some(problem),
        }
    }

    /// Where people sign in, as its discovery document says now.
    pub(super) async fn endpoints(&self) -> Result<Endpoints, KeysProblem> {
        let mut result = Err(KeysProblem::NotDiscovery);
        for url in well_known(self.name()) {
            result = self.document::<Endpoints>(&url).await;
            match result {
                Ok(_) | Err(KeysProblem::OtherIssuer) => break,
                Err(_) => {}
            }
        }
        result
    }

    async fn fetch_keys(&self) -> Result<KeySet, KeysProblem> {
        let url = match &self.config.discovery {
            Discovery::Keys(url) => url.clone(),
            Discovery::Document(url) => self.jwks_uri(url).await?,
            Discovery::WellKnown => self.discover().await?,
        };
        KeySet::parse(&self.fetch_body(&url).await?).ok_or(KeysProblem::NotKeys)
    }

    /// Tries the well-known places in turn. A document that names another issuer ends the search.
    async fn discover(&self) -> Result<String, KeysProblem> {
        let mut result = Err(KeysProblem::NotDiscovery);
        for url in well_known(self.name()) {
            result = self.jwks_uri(&url).await;
            match result {
                Ok(_) | Err(KeysProblem::OtherIssuer) => break,
                Err(_) => {}
            }
        }
        result
    }

    async fn jwks_uri(&self, url: &str) -> Result<String, KeysProblem> {
        #[derive(Deserialize)]
        struct Keys {
            jwks_uri: String,
        }
        self.document::<Keys>(url).await.map(|document| document.jwks_uri)
    }

    /// A discovery document of this issuer and of no other.
    async fn document<T: DeserializeOwned>(&self, url: &str) -> Result<T, KeysProblem> {
        #[derive(Deserialize)]
        struct Named {
            issuer: String,
        }
        let body = self.fetch_body(url).await?;
        let named: Named = parse(&body)?;
        if named.issuer != **self.name() {
            return Err(KeysProblem::OtherIssuer);
        }
        parse(&body)
    }

    async fn fetch_body(&self, url: &str) -> Result<bytes::Bytes, KeysProblem> {
        let reply = self.fetch.get(url).await.map_err(KeysProblem::Fetch)?;
        match reply.status {
            200 => Ok(reply.body),
            status => Err(KeysProblem::Status(status)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a fetch is allowed. A clock that went back allows one.
    fn is_due(&self, now: UnixMs) -> bool {
        let pause_ms = if self.keys.is_some() { PAUSE_MS } else { RETRY_MS };
        self.attempted_at.is_none_or(|last| now < last || now.since_ms(last) >= pause_ms)
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, KeysProblem> {
    serde_json::from_slice(body).map_err(|_| KeysProblem::NotDiscovery)
}

/// The well-known places of an issuer's discovery document; none when it is not a plain URL.
fn well_known(issuer: &str) -> Vec<String> {
    let Ok(uri) = issuer.parse::<Uri>() else { return Vec::new() };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Vec::new();
    };
    if issuer.contains(['?', '#', '@']) {
        return Vec::new();
    }
    let path = uri.path().trim_end_matches('/');
    let mut urls = vec![
        format!("{scheme}://{authority}{path}/.well-known/openid-configuration"),
        format!("{scheme}://{authority}/.well-known/oauth-authorization-server{path}"),
    ];
    if !path.is_empty() {
        urls.push(format!("{scheme}://{authority}/.well-known/openid-configuration{path}"));
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_places() {
        assert_eq!(
            well_known("https://tenant.idp.example/"),
            [
                "https://tenant.idp.example/.well-known/openid-configuration",
                "https://tenant.idp.example/.well-known/oauth-authorization-server",
            ]
        );
        assert_eq!(
            well_known("https://idp.example/realms/a"),
            [
                "https://idp.example/realms/a/.well-known/openid-configuration",
                "https://idp.example/.well-known/oauth-authorization-server/realms/a",
                "https://idp.example/.well-known/openid-configuration/realms/a",
            ]
        );
        for issuer in ["idp.example/a", "", "https://idp.example/?a=b", "https://a@idp.example/"] {
            assert!(well_known(issuer).is_empty(), "{issuer}");
        }
    }

    #[test]
    fn unsafe_configurations() {
        let world = World::new(|| UnixMs(0), |_| {});
        let build = |config| Issuer::new(config, world.clone()).map(|_| ());
        let name: Arc<str> = "stytch.example/project-1".into();
        assert_eq!(build(IssuerConfig::new(&*name)), Err(IssuerProblem::NotUrl(name.clone())));
        let plain = IssuerConfig::new("http://idp.example");
        assert!(matches!(build(plain.clone()), Err(IssuerProblem::NotUrl(_))));
        build(IssuerConfig { allow_private_network: true, ..plain }).unwrap();

        let keys = Discovery::Keys("https://stytch.example/jwks".into());
        let audience = Some("project-1".to_owned());
        let stytch = IssuerConfig { discovery: keys, audience, ..IssuerConfig::new(&*name) };
        assert_eq!(build(stytch.clone()), Err(IssuerProblem::AnyClient(name)));
        build(IssuerConfig { clients: vec!["client-1".into()], ..stytch }).unwrap();
    }
}
