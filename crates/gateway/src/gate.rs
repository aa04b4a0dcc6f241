//! The gate: everything a call needs under one configuration, opened whole.
//!
//! Owns the parts; the path itself is in [`crate::call`], each proof's step in [`crate::prove`].

use crate::{
    config::{Config, Server},
    keys::ReceiptSigner,
    places::Places,
    prove::{
        Evidence, credential::Credentials, definitions::Definitions, evidence, identity::Verifier,
        metadata, nonce::Nonces, past::Past, patience::Patience, payment::Rails, pdp::Pdp,
        policy::Live, provider::Provider, standing::Standing, state::StateKey,
    },
    upstream::Upstream,
};
use countersign_client::Buyer;
use countersign_core::{
    audit::checkpoint::SignerKey,
    call::Call,
    digest::Digest,
    ids::{GrantId, QuoteId},
    ledger::{Charge, Spender},
    proof::{Identity, Principal, VerifiedCredential},
    quote::{Offer, Quote, Rail},
    refusal::{Code, Family, Refusal},
    terms::Terms,
    wire::json::Limits,
    world::World,
};
use countersign_store::Store;
use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

/// An L402 credential that was brought: verified, or why paying anew would mend it.
pub type Presented = Result<Arc<VerifiedCredential>, Refusal>;

/// Everything a call needs.
#[derive(Debug)]
pub struct Gate {
    /// What the operator wants.
    pub config: Config,
    /// Time and randomness.
    pub world: World,
    /// Durable state.
    pub store: Store,
    /// Access tokens.
    pub verifier: Verifier,
    /// Those of programs that use the admin API, where any may.
    pub programs: Option<Verifier>,
    /// Policy.
    pub policy: Arc<Live>,
    /// Who else must say yes.
    pub pdp: Option<Pdp>,
    /// Who may add to a call's risk.
    pub risk_provider: Option<Provider>,
    /// What happened lately.
    pub past: Arc<Past>,
    /// How many failed payments are borne.
    pub patience: Arc<Patience>,
    /// How far everybody is trusted.
    pub standing: Arc<Standing>,
    /// What tools say of themselves.
    pub definitions: Arc<Definitions>,
    /// L402 credentials that were verified.
    pub credentials: Credentials,
    /// Money.
    pub rails: Arc<Rails>,
    /// Event streams that are open, by principal.
    pub streams: Arc<Mutex<Places<Digest>>>,
    /// Each call under way holds a receiver of it, until its answer is made.
    pub calling: watch::Sender<()>,
    /// Servers behind, by name.
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    /// What pays servers that charge, by treasury.
    pub buyers: HashMap<Arc<str>, Buyer>,
    /// Seals request states.
    pub state_key: Arc<StateKey>,
    /// Makes nonces.
    pub nonces: Nonces,
    /// The log's own key.
    pub signer: SignerKey,
    /// The same, for receipts.
    pub receipts: Arc<ReceiptSigner>,
}

impl Gate {
    /// A configured server.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<Arc<Server>> {
        self.config.servers.get(name).cloned()
    }

    /// The way to a configured server.
    ///
    /// # Errors
    /// A server without a way is a fault of ours.
    pub fn upstream(&self, server: &str) -> Result<&Upstream, Refusal> {
        let way = self.upstreams.get(server);
        way.map(|way| &**way).ok_or_else(|| Code::InternalFault.into())
    }

    /// Limits on JSON that clients send.
    #[must_use]
    pub const fn json_limits(&self) -> Limits {
        Limits {
            max_bytes: self.config.limits.body_bytes,
            max_depth: self.config.limits.json_depth,
        }
    }

    /// The budgets that a call is charged to.
    #[must_use]
    pub fn charges(
        &self,
        call: &Call,
        identity: &Identity,
        grant: Option<GrantId>,
        evidence: &Evidence,
    ) -> Vec<Charge> {
        let token = identity.reference().to_hex();
        self.charged(&Spender {
            principal: identity.principal(),
            tool: &call.terms.tool,
            intent: call.intent(),
            session: evidence.session.as_deref().unwrap_or(&token),
            grant,
        })
    }

    /// The budgets that a spender is charged to.
    #[must_use]
    pub fn charged(&self, spender: &Spender<'_>) -> Vec<Charge> {
        let set = self.store.budgets();
        let all = self.config.budgets.iter().chain(set.iter().map(|budget| &**budget));
        all.flat_map(|budget| budget.charges(spender)).collect()
    }

    /// A quote's price as people write it.
    #[must_use]
    pub fn price_text(&self, quote: &Quote) -> String {
        if quote.is_free() {
            return "free".to_owned();
        }
        let offers = quote.offers().iter().map(|offer| match offer.rail {
            Rail::Pow => "proof of work".to_owned(),
            Rail::X402 | Rail::L402 | Rail::Treasury => self.config.assets.show(&offer.amount),
        });
        offers.collect::<Vec<_>>().join(" or ")
    }

    /// Proof one: by token, by credential, or by the operator's leave. A credential that is only
    /// spent or over (402) does not stand in the way of another proof: paying anew mends it, and
    /// [`Gate::pay`] says so with a challenge.
    ///
    /// # Errors
    /// What is wrong with the evidence; [`Code::TokenMissing`] where there is none and one is
    /// needed.
    pub async fn identify(
        &self,
        terms: &Terms,
        evidence: &Evidence,
    ) -> Result<(Identity, Option<Presented>), Refusal> {
        let now = self.world.now();
        let presented = match &evidence.l402 {
            Some(credential) => match self.verify_credential(credential) {
                Err(refusal) if refusal.code().row().status != 402 => return Err(refusal),
                verified => Some(verified),
            },
            None => None,
        };
        let identity = match (&evidence.bearer, &presented) {
            (Some(token), _) => {
                let token = self.verifier.verify(token, &terms.resource).await?;
                Identity::of_token(&token, terms, now)?
            }
            (None, Some(Ok(credential))) => Identity::of_credential(credential, terms, now)?,
            (None, Some(Err(_)) | None) => Identity::anonymous(terms)?,
        };
        Ok((identity, presented))
    }

    /// Whom a relayed message is from.
    ///
    /// # Errors
    /// As [`Gate::identify`], under the server's relay rule.
    pub async fn identify_relay(
        &self,
        server: &Server,
        headers: &HeaderMap,
    ) -> Result<Principal, Refusal> {
        let Some(token) = evidence::bearer(headers)? else {
            return match server.relay.anonymous {
                true => Ok(Principal::anonymous()),
                false => Err(Code::TokenMissing.into()),
            };
        };
        let token = self.verifier.verify(&token, &server.resource).await?;
        let missing = server.relay.scopes.iter().any(|scope| !token.scopes().contains(scope));
        if missing {
            let wanted: Vec<&str> = server.relay.scopes.iter().map(|s| &**s).collect();
            return Err(Refusal::new(Code::ScopeMissing).with("scope", wanted.join(" ")));
        }
        Ok(token.principal().clone())
    }

    /// The price for this caller and these arguments: the open quote of the same call, or a new
    /// one.
    ///
    /// # Errors
    /// [`Code::NoPrice`], [`Code::NoRail`], [`Code::AssetUnknown`].
    pub fn quote(&self, call: &Call, identity: &Identity) -> Result<Quote, Refusal> {
        self.price(call, (identity.principal(), identity.key()))
    }

    /// The price for whoever calls, with their key.
    ///
    /// # Errors
    /// As [`Gate::quote`].
    pub fn price(
        &self,
        call: &Call,
        (principal, key): (&Principal, Digest),
    ) -> Result<Quote, Refusal> {
        let now = self.world.now();
        let digest = call.digest(principal);
        if let Some(open) = self.store.open_quote(key, digest, now) {
            return Ok(open.quote.clone());
        }
        let price = call.terms.price_for(&principal.tenant, &principal.agent);
        let price = price.ok_or(Code::NoPrice)?;
        if price.upstream {
            let why = "its server says the price when it is called";
            return Err(Refusal::new(Code::PriceUnusable).with("why", why));
        }
        let mut offers = Vec::with_capacity(price.amounts.len().saturating_add(1));
        for amount in price.amounts {
            let Some((rail, payee)) = self.rails.takes(&amount.asset) else { continue };
            let micros = self.config.assets.micros(amount).ok_or(Code::AssetUnknown)?;
            let uses = match rail {
                Rail::L402 => NonZeroU32::new(call.terms.uses.0).unwrap_or(NonZeroU32::MIN),
                Rail::X402 | Rail::Pow | Rail::Treasury => NonZeroU32::MIN,
            };
            offers.push(Offer { rail, amount: amount.clone(), payee, micros, uses });
        }
        if price.work && self.rails.pow.is_some() {
            offers.push(Offer::work());
        }
        if offers.is_empty() && !price.is_free() {
            return Err(Code::NoRail.into());
        }
        let id = QuoteId::new(now, self.world.random());
        let expires = now.plus_ms(self.config.limits.quote_ttl_ms);
        Ok(Quote::new(id, digest, offers, now, expires))
    }

    /// RFC 9728 metadata for a path suffix (`/{server}/mcp`).
    #[must_use]
    pub fn resource_metadata(&self, suffix: &str) -> Option<String> {
        let name = suffix.strip_prefix('/')?.strip_suffix("/mcp")?;
        let server = self.config.servers.get(name)?;
        let issuers: Vec<&str> = self.config.issuers.iter().map(|i| &*i.issuer).collect();
        Some(metadata::document(&server.resource, &issuers, &scopes_of(server)))
    }

    /// Adds `WWW-Authenticate: Bearer` to a refusal of identity.
    pub fn challenge_identity(&self, server: &Server, refusal: &Refusal, headers: &mut HeaderMap) {
        if refusal.code().row().family != Family::Identity
            || refusal.code() == Code::KeysUnavailable
        {
            return;
        }
        let url = metadata::url(&self.config.public_url, &server.name);
        let value = metadata::www_authenticate(&url, &scopes_of(server), refusal);
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
    }
}

/// Every scope that a tool of the server can want.
fn scopes_of(server: &Server) -> Vec<Arc<str>> {
    let mut scopes = server.relay.scopes.clone();
    let of_tools = server.tools.values().flat_map(|terms| terms.scopes.iter());
    for scope in of_tools {
        if !scopes.contains(scope) {
            scopes.push(Arc::clone(scope));
        }
    }
    scopes
}
