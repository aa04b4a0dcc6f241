//! What a client is told before it connects.
//!
//! Owns the defaults. Time and randomness come from the [`World`] that the caller brings.

use crate::{
    cache::CredentialCache,
    means::Means,
    rpc::Observer,
    secret::Secret,
    sign_in::SignIn,
    spend::{SpendLimits, SpendLog},
    work::Solver,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{digest::Digest, world::World};
use serde::Deserialize;

/// Which era of MCP to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EraChoice {
    /// 2026-07-28 if the server does, else `initialize`.
    Auto,
    /// 2026-07-28 only.
    Modern,
    /// `initialize` only.
    Legacy,
}

/// How to connect, whom to be, and what to pay with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time and randomness.
    pub world: World,
    /// The access token.
    pub bearer: Option<Secret>,
    /// How to get one where none is given and the server wants one.
    pub sign_in: Option<SignIn>,
    /// Which era.
    pub era: EraChoice,
    /// Wallets, assets, caps.
    pub means: Means,
    /// Where credentials are kept.
    pub credentials: CredentialCache,
    /// What was spent, and what may still be.
    pub spending: SpendLog,
    /// Whose credentials these are; read from the token when `None`.
    pub principal: Option<String>,
    /// The client capabilities that are declared: a JSON object.
    pub capabilities: String,
    /// The name and version that the client goes by.
    pub name: (String, String),
    /// Takes notifications.
    pub observer: Option<Observer>,
    /// Does work, where that is taken instead of money.
    pub solver: Solver,
    /// Allow plain http to other machines.
    pub allow_plain_http: bool,
    /// Longest wait for a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest exchange, from request to answer, in milliseconds.
    pub exchange_timeout_ms: u64,
    /// Largest answer.
    pub max_answer_bytes: usize,
    /// How often the same payment is sent again when its answer is lost or unknown.
    pub resends: u32,
    /// The pause before the first of them, in milliseconds; each later one doubles it.
    pub resend_pause_ms: u64,
}

impl Options {
    /// No token, no wallet, either era, credentials in memory.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            world,
            bearer: None,
            sign_in: None,
            era: EraChoice::Auto,
            means: Means::default(),
            credentials: CredentialCache::in_memory(),
            spending: SpendLog::in_memory(SpendLimits::default()),
            principal: None,
            capabilities: "{}".to_owned(),
            name: ("countersign".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            observer: None,
            solver: Solver::default(),
            allow_plain_http: false,
            connect_timeout_ms: 10_000,
            exchange_timeout_ms: 60_000,
            max_answer_bytes: 16 << 20,
            resends: 3,
            resend_pause_ms: 500,
        }
    }

    /// Whose credentials are looked for. A token's claims are not verified here: a wrong guess
    /// finds nothing, or is refused.
    pub(crate) fn principal(
        &self,
        bearer: Option<&Secret>,
        signed_in: impl FnOnce() -> Option<String>,
    ) -> String {
        if let Some(principal) = &self.principal {
            return principal.clone();
        }
        let Some(bearer) = bearer else { return "anonymous".to_owned() };
        let token = bearer.expose();
        let named = claims(token).or_else(signed_in);
        named.unwrap_or_else(|| Digest::of(token.as_bytes()).to_hex())
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    client_id: Option<String>,
    azp: Option<String>,
}

/// Issuer, subject and client of a JWT.
fn claims(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let agent = claims.client_id.or(claims.azp).unwrap_or_default();
    let parts = [claims.iss.as_bytes(), claims.sub.as_bytes(), agent.as_bytes()];
    Some(Digest::of_parts(&parts).to_hex())
}
