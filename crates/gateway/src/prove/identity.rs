//! Verifies access tokens against the configured issuers and their published keys.
//!
//! Owns the issuers, their keys and the cache of verified tokens. The rules of a token are
//! `core`'s; whether the principal may do anything is not asked here. Nobody asks an issuer whether
//! it has revoked a token: it counts until it ends, or its issuer's keys or configuration do.
//!
//! INVARIANT: a token is answered from the cache only for the same bytes and the same resource,
//! for at most [`CACHE_MS`], never past `exp`, and never after its issuer's keys changed.
//! INVARIANT: the issuer is picked by exact match on the configured list; a token's `iss` never
//! becomes a URL.

mod issuer;
mod keys;
mod sign_in;

pub use issuer::{Discovery, Endpoints, IssuerConfig, IssuerProblem, IssuerReport, KeysProblem};
pub use sign_in::{Provider, SignInProblem};

use crate::{fetch::form_pairs, halves::Halves};
use countersign_core::{
    digest::Digest,
    proof::{Expected, MAX_TOKEN_BYTES, TokenError, UnverifiedToken, VerifiedToken},
    refusal::{Code, Refusal},
    time::UnixMs,
    world::World,
};
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use issuer::Issuer;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How long a verified token is taken from the cache, in milliseconds.
pub const CACHE_MS: u64 = 60_000;
/// Tokens in each half of the cache.
const CACHE_HALF: usize = 16_384;

/// Verifies tokens of several issuers.
pub struct Verifier {
    issuers: Vec<Arc<Issuer>>,
    /// Only valid tokens get in, so a flood of bad ones drives nobody out.
    cache: Mutex<Halves<Digest, Entry>>,
    world: World,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.report()).finish()
    }
}

impl Verifier {
    /// A verifier. Nothing is fetched until a token needs it, or [`Verifier::warm`].
    ///
    /// # Errors
    /// An issuer is configured in a way that could not be safe.
    pub fn new(configs: Vec<IssuerConfig>, world: World) -> Result<Self, IssuerProblem> {
        let mut issuers: Vec<Arc<Issuer>> = Vec::with_capacity(configs.len());
        for config in configs {
            if issuers.iter().any(|issuer| **issuer.name() == *config.issuer) {
                return Err(IssuerProblem::Duplicate(config.issuer.into()));
            }
            issuers.push(Arc::new(Issuer::new(config, world.clone())?));
        }
        Ok(Self { issuers, cache: Mutex::new(Halves::new(CACHE_HALF)), world })
    }

    /// Another one of these issuers, with nothing in its cache. Of an issuer that did not change,
    /// the keys are kept.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(&self, configs: Vec<IssuerConfig>) -> Result<Self, IssuerProblem> {
        let mut next = Self::new(configs, self.world.clone())?;
        for issuer in &mut next.issuers {
            if let Some(same) = self.issuers.iter().find(|old| old.is_as(issuer)) {
                *issuer = Arc::clone(same);
            }
        }
        Ok(next)
    }

    /// Fetches every issuer's keys, so that the first call need not wait.
    pub async fn warm(&self) -> Vec<IssuerReport> {
        for issuer in &self.issuers {
            issuer.refresh().await;
        }
        self.report()
    }

    /// How each issuer's keys stand.
    #[must_use]
    pub fn report(&self) -> Vec<IssuerReport> {
        self.issuers.iter().map(|issuer| issuer.report()).collect()
    }

    /// Verifies a bearer token presented to the resource `audience`.
    ///
    /// # Errors
    /// A code of [`TokenError::code`], or [`Code::KeysUnavailable`].
    pub async fn verify(
        &self,
        bearer: &str,
        audience: &str,
    ) -> Result<Arc<VerifiedToken>, Refusal> {
        if bearer.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge.into());
        }
        let key = Digest::of_parts(&[audience.as_bytes(), bearer.as_bytes()]);
        if let Some(token) = self.known(&key) {
            return Ok(token);
        }
        let token = UnverifiedToken::parse(bearer)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name() == token.issuer());
        let issuer = issuer.ok_or(TokenError::Issuer)?;
        let keys = issuer.keys_for(token.header()).await?;
        let audience = issuer.audience().unwrap_or(audience);
        let expected = Expected { profile: issuer.profile(), audience };
        let now = self.world.now();
        let token = token.verify(&expected, now, |header, input, signature| {
            keys.set.verify(header, input, signature)
        })?;
        let token = Arc::new(token);
        self.cache().put(
            key,
            Entry {
                token: Arc::clone(&token),
                issuer: Arc::clone(issuer),
                generation: keys.generation,
                until: token.expires_at().min(now.plus_ms(CACHE_MS)),
            },
        );
        Ok(token)
    }

    fn known(&self, key: &Digest) -> Option<Arc<VerifiedToken>> {
        let cache = self.cache();
        let entry = cache.peek(key)?;
        let is_good =
            self.world.now() < entry.until && entry.generation == entry.issuer.generation();
        is_good.then(|| Arc::clone(&entry.token))
    }

    fn cache(&self) -> MutexGuard<'_, Halves<Digest, Entry>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry {
    token: Arc<VerifiedToken>,
    issuer: Arc<Issuer>,
    generation: u64,
    until: UnixMs,
}

/// The bearer token of a request. L402 credentials, which share the header, are left alone.
///
/// # Errors
/// [`Code::AmbiguousHeaders`] for two bearer tokens, on two lines or joined by a comma;
/// [`Code::TokenMalformed`] for any other scheme.
pub fn bearer_of(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut bearer = None;
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| Code::TokenMalformed)?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        let hides_another = rest.split(',').skip(1).any(|part| {
            part.trim_start().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
        });
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        if hides_another || is_bearer && (bearer.is_some() || rest.contains(',')) {
            return Err(Refusal::new(Code::AmbiguousHeaders).with("header", "authorization"));
        }
        if is_bearer {
            bearer = Some(rest.trim());
        } else if !["l402", "lsat"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err(Code::TokenMalformed.into());
        }
    }
    match bearer {
        Some("") => Err(Code::TokenMalformed.into()),
        bearer => Ok(bearer),
    }
}

/// Whether a query carries something that is, or looks like, an access token.
#[must_use]
pub fn query_has_token(uri: &Uri) -> bool {
    const NAMES: [&str; 5] = ["access_token", "id_token", "bearer", "authorization", "jwt"];
    let is_token = |(name, value): (String, String)| {
        NAMES.contains(&name.to_ascii_lowercase().as_str())
            || value.starts_with("eyJ") && value.matches('.').count() >= 2
    };
    uri.query().is_some_and(|query| form_pairs(query).into_iter().any(is_token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn bearer(values: &[&'static str]) -> Result<Option<String>, Code> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        bearer_of(&headers).map(|b| b.map(str::to_owned)).map_err(|refusal| refusal.code())
    }

    #[test]
    fn bearers() {
        let token = Ok(Some("a.b.c".to_owned()));
        assert_eq!(bearer(&[]), Ok(None));
        assert_eq!(bearer(&["Bearer a.b.c"]), token);
        assert_eq!(bearer(&["bEARER  a.b.c"]), token);
        assert_eq!(bearer(&["L402 mac:pre"]), Ok(None));
        assert_eq!(bearer(&["LSAT mac:pre", "Bearer a.b.c"]), token);
        let ambiguous = Err(Code::AmbiguousHeaders);
        assert_eq!(bearer(&["Bearer a.b.c", "Bearer a.b.c"]), ambiguous);
        assert_eq!(bearer(&["Bearer a.b.c, Bearer d.e.f"]), ambiguous);
        assert_eq!(bearer(&["Bearer a.b.c,d.e.f"]), ambiguous);
        assert_eq!(bearer(&["L402 mac:pre, Bearer d.e.f"]), ambiguous);
        let malformed = Err(Code::TokenMalformed);
        assert_eq!(bearer(&["Bearer"]), malformed);
        assert_eq!(bearer(&["Bearer "]), malformed);
        assert_eq!(bearer(&["Basic YTpi"]), malformed);
        assert_eq!(bearer(&["DPoP a.b.c"]), malformed);
        assert_eq!(bearer(&["a.b.c"]), malformed);
    }

    #[test]
    fn queries() {
        let has = |uri: &'static str| query_has_token(&Uri::from_static(uri));
        assert!(has("/x/mcp?access_token=a"));
        assert!(has("/x/mcp?a=1&Access%5Ftoken=a"));
        assert!(has("/x/mcp?t=eyJhbGciOiJub25lIn0.e30."));
        assert!(!has("/x/mcp"));
        assert!(!has("/x/mcp?a=1&token_count=3"));
    }
}
