//! Signing people in by OpenID Connect: authorization code with PKCE (OpenID Connect Core 1.0
//! §3.1, RFC 7636, RFC 9207).
//!
//! Owns what is asked of the issuer and how its answers are believed. Browsers, cookies and
//! sessions are the console's.
//!
//! INVARIANT: no code, token or secret enters an error.

use super::issuer::{Endpoints, Issuer, IssuerConfig, IssuerProblem, KeysProblem};
use crate::{
    config::{SignIn, StepUp},
    fetch::{Fetch, FetchError, FetchRules, form_encode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::{
    proof::{ExpectedId, MAX_TOKEN_BYTES, SignedIn, TokenError, UnverifiedToken},
    world::World,
};
use serde::Deserialize;
use std::{fmt, sync::Arc};

/// Why somebody was not signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInProblem {
    /// The issuer's discovery document cannot be had.
    Discovery(KeysProblem),
    /// The issuer's endpoints are not URLs that may be used.
    Endpoint,
    /// The code could not be exchanged.
    Exchange(FetchError),
    /// The issuer refused the code with this status.
    Refused(u16),
    /// The answer holds no ID token.
    NoToken,
    /// The ID token is not valid for this sign-in.
    Token(TokenError),
    /// The issuer's keys cannot be had.
    Keys,
}

impl fmt::Display for SignInProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery(problem) => write!(f, "the issuer's discovery: {problem}"),
            Self::Endpoint => f.write_str("the issuer's endpoints cannot be used"),
            Self::Exchange(error) => write!(f, "the issuer's token endpoint: {error}"),
            Self::Refused(status) => write!(f, "the issuer refused the code with {status}"),
            Self::NoToken => f.write_str("the issuer gave no ID token"),
            Self::Token(error) => write!(f, "the ID token: {error}"),
            Self::Keys => f.write_str("the issuer's keys cannot be had"),
        }
    }
}

impl std::error::Error for SignInProblem {}

/// The issuer that signs people in.
pub struct Provider {
    issuer: Arc<Issuer>,
    config: SignIn,
    fetch: Fetch,
    world: World,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(&self.config.issuer).finish()
    }
}

impl Provider {
    /// Nothing is fetched until somebody signs in.
    ///
    /// # Errors
    /// The issuer is configured in a way that could not be safe.
    pub fn new(config: SignIn, world: World) -> Result<Self, IssuerProblem> {
        let allow_private_network = config.allow_private_network;
        let issuer = IssuerConfig { allow_private_network, ..IssuerConfig::new(&*config.issuer) };
        let rules = FetchRules { allow_private: allow_private_network, ..FetchRules::PUBLIC };
        let issuer = Arc::new(Issuer::new(issuer, world.clone())?);
        Ok(Self { issuer, config, fetch: Fetch::new(rules), world })
    }

    /// Where it lets people sign in.
    ///
    /// # Errors
    /// It cannot be asked, or names places that are no https URLs.
    pub async fn endpoints(&self) -> Result<Endpoints, SignInProblem> {
        let found = self.issuer.endpoints().await.map_err(SignInProblem::Discovery)?;
        let is_usable = |url: &str| {
            let is_plain = url.starts_with("http://") && self.config.allow_private_network;
            (url.starts_with("https://") || is_plain) && !url.contains(['#', '@', ' ', '"'])
        };
        if !is_usable(&found.authorization_endpoint) || !is_usable(&found.token_endpoint) {
            return Err(SignInProblem::Endpoint);
        }
        Ok(found)
    }

    /// Exchanges a code for the person who signed in. `step_up`: what was asked of the sign-in.
    ///
    /// # Errors
    /// See [`SignInProblem`].
    pub async fn redeem(
        &self,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
        nonce: &str,
        step_up: Option<&StepUp>,
    ) -> Result<SignedIn, SignInProblem> {
        let endpoints = self.endpoints().await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
            ("client_id", &self.config.client_id),
        ];
        let form = form_encode(&form);
        let password = self.config.client_secret.as_ref().map(|secret| self.basic(secret.expose()));
        let headers: Vec<_> = password.iter().map(|value| ("authorization", &**value)).collect();
        let kind = "application/x-www-form-urlencoded";
        let reply = self.fetch.post(&endpoints.token_endpoint, kind, &headers, form).await;
        let reply = reply.map_err(SignInProblem::Exchange)?;
        if reply.status != 200 {
            return Err(SignInProblem::Refused(reply.status));
        }
        #[derive(Deserialize)]
        struct Tokens {
            id_token: String,
        }
        let tokens: Tokens =
            serde_json::from_slice(&reply.body).map_err(|_| SignInProblem::NoToken)?;
        self.believe(&tokens.id_token, nonce, step_up).await
    }

    /// The client's password, both halves form-encoded (RFC 6749 §2.3.1).
    fn basic(&self, secret: &str) -> String {
        let encode = |text: &str| form_encode(&[("", text)]).split_off(1);
        let pair = format!("{}:{}", encode(&self.config.client_id), encode(secret));
        format!("Basic {}", STANDARD.encode(pair))
    }

    async fn believe(
        &self,
        jwt: &str,
        nonce: &str,
        step_up: Option<&StepUp>,
    ) -> Result<SignedIn, SignInProblem> {
        if jwt.len() > MAX_TOKEN_BYTES {
            return Err(SignInProblem::Token(TokenError::TooLarge));
        }
        let token = UnverifiedToken::parse(jwt).map_err(SignInProblem::Token)?;
        let keys = self.issuer.keys_for(token.header()).await;
        let keys = keys.map_err(|_| SignInProblem::Keys)?;
        let expected = ExpectedId {
            issuer: &self.config.issuer,
            client: &self.config.client_id,
            nonce,
            tenant: &self.config.tenant,
            roles_claim: &self.config.roles_claim,
            leeway_s: 5,
            max_age_s: step_up.map(|step_up| step_up.max_age_s),
            acr_values: step_up.map_or(&[], |step_up| &step_up.acr_values),
        };
        let signed = token.verify_id(&expected, self.world.now(), |header, input, signature| {
            keys.set.verify(header, input, signature)
        });
        signed.map_err(SignInProblem::Token)
    }
}
