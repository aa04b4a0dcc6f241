//! L402 credentials: a macaroon of ours with the preimage of its invoice.
//!
//! Owns what a credential is worth: minting, and the check that makes a [`VerifiedCredential`].
//! Counting uses is the ledger's, under [`VerifiedCredential::key`].
//!
//! INVARIANT: caveats only narrow. Whom a credential speaks for comes from the facts stored when
//! it was minted, never from a caveat: anybody who holds a macaroon can add caveats to it.
//! INVARIANT: an unknown caveat, or one that contradicts what was stored, refuses the credential.

use crate::{
    digest::Digest,
    ids::{GrantId, QuoteId},
    money::Amount,
    quote::Quote,
    refusal::{Code, Refusal},
    terms::{Terms, ToolRef, Uses},
    time::UnixMs,
    wire::{
        caveat::{Caveat, Restriction},
        l402::{Credential, L402Id},
        macaroon::Macaroon,
    },
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::{Delegator, Identity, Principal};

/// What was agreed when a credential was minted. Stored under [`L402Id::key`], beside its root
/// key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minted {
    /// The quote it was minted for.
    pub quote: QuoteId,
    /// What its invoice asked, for all its uses together.
    pub price: Amount,
    /// How many calls it pays for.
    pub uses: u32,
    /// When it ends.
    pub expires_at: UnixMs,
    /// Whom it was minted for, and under which token.
    pub bearer: Option<Bearer>,
}

/// An authenticated principal at minting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// Who.
    #[serde(with = "PrincipalForm")]
    pub principal: Principal,
    /// [`Identity::reference`] of the token, for revocation.
    pub token_reference: Digest,
}

/// The stored form of [`Principal`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "Principal")]
struct PrincipalForm {
    tenant: Arc<str>,
    #[serde(with = "delegator_form")]
    delegator: Option<Delegator>,
    agent: Arc<str>,
    chain: Vec<Arc<str>>,
    roles: Vec<Arc<str>>,
}

mod delegator_form {
    use super::{Arc, Delegator};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Form = Option<(Arc<str>, Arc<str>, bool)>;

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Delegator>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let form: Form = value.as_ref().map(|d| (d.issuer.clone(), d.subject.clone(), d.is_human));
        form.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Delegator>, D::Error> {
        let form = Form::deserialize(deserializer)?;
        Ok(form.map(|(issuer, subject, is_human)| Delegator { issuer, subject, is_human }))
    }
}

/// What a credential is minted from.
#[derive(Clone, Copy, Debug)]
pub struct Mint<'a> {
    /// Of the invoice.
    pub payment_hash: [u8; 32],
    /// Random.
    pub token_id: [u8; 32],
    /// Random, one a credential; stored, and deleted to revoke it.
    pub root_key: &'a [u8; 32],
    /// Who asks.
    pub identity: &'a Identity,
    /// For which tool.
    pub tool: &'a ToolRef,
    /// For which call and price.
    pub quote: &'a Quote,
    /// What the invoice asks.
    pub price: &'a Amount,
    /// How many calls it pays for.
    pub uses: Uses,
    /// The grant that covers the call it is asked for: one that pays for several calls pays under
    /// no other. One call is bound to itself, and its consent is asked for anew in any case.
    pub grant: Option<GrantId>,
    /// When it ends at the latest; a token that ends earlier ends it too.
    pub expires_at: UnixMs,
}

/// A call that a credential is to pay for.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// Who calls.
    pub principal: &'a Principal,
    /// The tool's terms.
    pub terms: &'a Terms,
    /// Canonical JSON of the arguments.
    pub arguments: &'a str,
    /// The call's quote.
    pub quote: &'a Quote,
    /// The grant that covers it, unless none was required.
    pub grant: Option<GrantId>,
    /// When.
    pub at: UnixMs,
}

/// What a credential says of the grant under which it was sold: nothing that names it to others.
#[must_use]
pub fn grant_digest(grant: GrantId) -> Digest {
    Digest::of(grant.as_bytes())
}

/// What one of several calls costs, in the price's minor units: rounded up, a cap must let it pass.
fn share_minor(price: &Amount, uses: u32) -> u128 {
    price.minor.div_ceil(u128::from(uses.max(1)))
}

/// Makes a credential's macaroon and the facts to store with its root key.
///
/// # Errors
/// [`Code::InternalFault`] when the macaroon could not be read back (a name with white space at
/// its ends, or too long): found out here, before anybody pays for it.
pub fn mint(new: &Mint<'_>) -> Result<(Macaroon, Minted), Refusal> {
    let id = L402Id { payment_hash: new.payment_hash, token_id: new.token_id };
    let expires_at = new.identity.expires_at().map_or(new.expires_at, |e| e.min(new.expires_at));
    let bearer = (!new.identity.is_anonymous()).then(|| Bearer {
        principal: new.identity.principal().clone(),
        token_reference: new.identity.reference(),
    });
    let caveats = caveats(new, expires_at, bearer.as_ref());
    let macaroon = Macaroon::mint(new.root_key, &id.encode()).restrict(&caveats);
    let is_readable = Macaroon::decode(&macaroon.encode()).is_ok_and(|read| {
        read.verify(new.root_key).is_ok_and(|verified| Restriction::of(verified).is_ok())
    });
    if !is_readable {
        return Err(Code::InternalFault.into());
    }
    let minted = Minted {
        quote: new.quote.id(),
        price: new.price.clone(),
        uses: new.uses.0,
        expires_at,
        bearer,
    };
    Ok((macaroon, minted))
}

fn caveats(new: &Mint<'_>, expires_at: UnixMs, bearer: Option<&Bearer>) -> Vec<Caveat> {
    let mut caveats = vec![
        Caveat::ValidUntil(expires_at.seconds()),
        Caveat::Server(new.tool.server.to_string()),
        Caveat::Tool(new.tool.tool.to_string()),
        Caveat::Quote(new.quote.id()),
        Caveat::Uses(new.uses.0),
    ];
    caveats.extend(u64::try_from(share_minor(new.price, new.uses.0)).map(Caveat::MaxPrice));
    caveats.extend(match (new.uses.0, new.grant) {
        (1, _) => Some(Caveat::Call(new.quote.call_digest())),
        (_, grant) => grant.map(|grant| Caveat::Grant(grant_digest(grant))),
    });
    if let Some(Bearer { principal, token_reference }) = bearer {
        caveats.push(Caveat::Tenant(principal.tenant.to_string()));
        if let Some(delegator) = &principal.delegator {
            caveats.push(Caveat::Issuer(delegator.issuer.to_string()));
            caveats.push(Caveat::Subject(delegator.subject.to_string()));
        }
        caveats.push(Caveat::Agent(principal.agent.to_string()));
        caveats.push(Caveat::TokenId(*token_reference));
    }
    caveats
}

/// A credential whose signature, preimage and caveats were checked. One that is over proves
/// nothing any more, but it was paid for, and a call that ran under it is still its bearer's.
#[derive(Debug)]
pub struct VerifiedCredential {
    key: Digest,
    bearer: Option<Bearer>,
    restriction: Restriction,
    price: Amount,
    sold: u32,
    uses: u32,
    expires_at: UnixMs,
}

impl VerifiedCredential {
    /// Checks the signature first, in constant time; then the preimage; then every caveat but
    /// time, which is checked where it proves something.
    ///
    /// # Errors
    /// [`Code::CredentialInvalid`], [`Code::PreimageMismatch`], [`Code::CaveatUnknown`].
    pub fn verify(
        credential: &Credential,
        root_key: &[u8; 32],
        minted: &Minted,
    ) -> Result<Self, Refusal> {
        let verified = credential.macaroon.verify(root_key).map_err(|_| Code::CredentialInvalid)?;
        if credential.macaroon.identifier() != credential.id.encode() {
            return Err(Code::CredentialInvalid.into());
        }
        if !credential.is_preimage_right() {
            return Err(Code::PreimageMismatch.into());
        }
        let restriction = Restriction::of(verified).map_err(|_| Code::CaveatUnknown)?;
        agrees(&restriction, minted)?;
        let narrowed = restriction.valid_until.map_or(minted.expires_at, UnixMs::from_seconds);
        let expires_at = narrowed.min(minted.expires_at);
        Ok(Self {
            key: credential.id.key(),
            bearer: minted.bearer.clone(),
            price: minted.price.clone(),
            sold: minted.uses,
            uses: restriction.uses.map_or(minted.uses, |uses| uses.min(minted.uses)),
            restriction,
            expires_at,
        })
    }

    /// SHA-256 of the identifier: what uses are counted under.
    #[must_use]
    pub const fn key(&self) -> Digest {
        self.key
    }

    /// Whom it was minted for.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.bearer.as_ref().map(|bearer| &bearer.principal)
    }

    /// The access token it was minted under.
    #[must_use]
    pub fn token_reference(&self) -> Option<Digest> {
        self.bearer.as_ref().map(|bearer| bearer.token_reference)
    }

    /// How many calls it pays for.
    #[must_use]
    pub const fn uses(&self) -> u32 {
        self.uses
    }

    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self, now: UnixMs) -> bool {
        now >= self.expires_at
    }

    /// Whether it was minted for this tool: only there does it say who comes.
    #[must_use]
    pub fn is_for(&self, tool: &ToolRef) -> bool {
        self.restriction.server.as_deref() == Some(&*tool.server)
            && self.restriction.tool.as_deref() == Some(&*tool.tool)
    }

    /// The grant to which it is tied, as [`grant_digest`].
    #[must_use]
    pub const fn grant(&self) -> Option<Digest> {
        self.restriction.grant
    }

    /// Whether it pays for this call: same principal, or nobody in particular as when it was
    /// bought, same tool, same arguments and grant where it names them, same call where it pays for
    /// one, and the price it was sold at, within its cap. A sensitive tool takes none that pays for
    /// more than one call.
    ///
    /// # Errors
    /// [`Code::QuoteExpired`]; [`Code::CredentialExhausted`] when it was paid for something else
    /// or at another price.
    pub fn covers(&self, call: &Use<'_>, price: &Amount) -> Result<(), Refusal> {
        if self.is_over(call.at) {
            return Err(Code::QuoteExpired.into());
        }
        let (only, principal, tool) = (&self.restriction, call.principal, &call.terms.tool);
        let delegator = principal.delegator.as_ref();
        // What nobody in particular bought is in the books of nobody in particular.
        let is_bearers = match self.principal() {
            Some(bearer) => bearer.key() == principal.key(),
            None => principal.is_anonymous(),
        };
        let fits = is_bearers
            && is_text(&only.tenant, Some(&*principal.tenant))
            && is_text(&only.issuer, delegator.map(|d| &*d.issuer))
            && is_text(&only.subject, delegator.map(|d| &*d.subject))
            && is_text(&only.agent, Some(&*principal.agent))
            && is_text(&only.server, Some(&*tool.server))
            && is_text(&only.tool, Some(&*tool.tool))
            && only.call.is_none_or(|digest| digest == call.quote.call_digest())
            && only.arguments.is_none_or(|digest| digest == Digest::of(call.arguments.as_bytes()))
            && only.grant.is_none_or(|grant| call.grant.map(grant_digest) == Some(grant))
            && only.max_price_msat.is_none_or(|cap| self.costs_minor() <= u128::from(cap))
            && (self.uses == 1 || !call.terms.is_sensitive())
            && self.price == *price;
        if fits { Ok(()) } else { Err(Code::CredentialExhausted.into()) }
    }

    /// What one call takes of what was paid, rounded up.
    fn costs_minor(&self) -> u128 {
        share_minor(&self.price, self.sold)
    }
}

/// Whether a caveat that pins a text is met.
fn is_text(pinned: &Option<String>, actual: Option<&str>) -> bool {
    pinned.as_deref().is_none_or(|pinned| actual == Some(pinned))
}

/// Whether what a caveat says of the minting is what was stored. One added by a holder that says
/// otherwise can never be met.
fn agrees(restriction: &Restriction, minted: &Minted) -> Result<(), Refusal> {
    let token = minted.bearer.as_ref().map(|bearer| bearer.token_reference);
    let agrees = restriction.quote.is_none_or(|quote| quote == minted.quote)
        && restriction.token_id.is_none_or(|id| Some(id) == token);
    if agrees { Ok(()) } else { Err(Code::CaveatUnknown.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        money::Micros,
        quote::{Offer, Rail},
        terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule},
        wire::l402::Challenge,
    };
    use sha2::{Digest as _, Sha256};

    const ROOT: [u8; 32] = [3; 32];
    const PREIMAGE: [u8; 32] = [4; 32];
    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn tool(name: &str) -> ToolRef {
        ToolRef { server: "weather".into(), tool: name.into() }
    }

    fn price(minor: u128) -> Amount {
        Amount { asset: "BTC".into(), minor }
    }

    fn quote_of(call: &[u8]) -> Quote {
        let offer = Offer {
            rail: Rail::L402,
            amount: price(3_000),
            payee: "sandbox".into(),
            micros: Micros(1_800),
            uses: std::num::NonZeroU32::MIN,
        };
        let id = QuoteId::new(NOW, [1; 10]);
        Quote::new(id, Digest::of(call), vec![offer], NOW, NOW.plus_ms(60_000))
    }

    fn terms() -> Terms {
        Terms {
            tool: tool("forecast"),
            resource: "https://gw.example/weather/mcp".into(),
            identity: IdentityRule::Anonymous,
            scopes: Vec::new(),
            consent: ConsentRule::NotRequired,
            prices: Vec::new(),
            flow: Flow::Upfront,
            idempotent: false,
            doubt: DoubtRule::Refund,
            uses: Uses(1),
            intent: None,
            sensitivity: 0,
            is_reversible: false,
            open_world: None,
            deadline_ms: 1_000,
            payer: PayerRule::Any,
            keep_output_schema: false,
            top_up: false,
        }
    }

    fn alice() -> Principal {
        Principal {
            tenant: "acme".into(),
            delegator: Some(Delegator {
                issuer: "https://idp.example/".into(),
                subject: "alice".into(),
                is_human: true,
            }),
            agent: "bot".into(),
            chain: vec!["planner".into()],
            roles: vec!["staff".into()],
        }
    }

    fn mint_for(identity: &Identity, name: &str, uses: u32) -> Result<(Macaroon, Minted), Refusal> {
        mint(&Mint {
            payment_hash: Sha256::digest(PREIMAGE).into(),
            token_id: [5; 32],
            root_key: &ROOT,
            identity,
            tool: &tool(name),
            quote: &quote_of(b"call"),
            price: &price(3_000),
            uses: Uses(uses),
            grant: None,
            expires_at: NOW.plus_ms(300_000),
        })
    }

    fn minted(uses: u32) -> (Macaroon, Minted) {
        mint_for(&Identity::anonymous(&terms()).unwrap(), "forecast", uses).unwrap()
    }

    /// Facts of a credential minted for Alice.
    fn for_alice() -> (Macaroon, Minted) {
        let (macaroon, minted) = minted(1);
        let bearer = Bearer { principal: alice(), token_reference: Digest::of(b"token") };
        (macaroon, Minted { bearer: Some(bearer), ..minted })
    }

    fn present(macaroon: &Macaroon, preimage: [u8; 32]) -> Credential {
        let token = Challenge::new(macaroon, "lnbcrt1").unwrap().token().to_owned();
        Credential::parse(&format!("{token}:{}", hex::encode(preimage))).unwrap()
    }

    fn verify(macaroon: &Macaroon, minted: &Minted) -> Result<VerifiedCredential, Code> {
        VerifiedCredential::verify(&present(macaroon, PREIMAGE), &ROOT, minted)
            .map_err(|refusal| refusal.code())
    }

    /// Nobody's call of the forecast.
    struct Called {
        nobody: Principal,
        terms: Terms,
        quote: Quote,
    }

    impl Called {
        fn new() -> Self {
            Self { nobody: Principal::anonymous(), terms: terms(), quote: quote_of(b"call") }
        }

        fn call(&self) -> Use<'_> {
            let (principal, terms, quote) = (&self.nobody, &self.terms, &self.quote);
            Use { principal, terms, arguments: "{}", quote, grant: None, at: NOW }
        }
    }

    fn pays(credential: &VerifiedCredential, minor: u128, call: &Use<'_>) -> Result<(), Code> {
        credential.covers(call, &price(minor)).map_err(|refusal| refusal.code())
    }

    fn covers(credential: &VerifiedCredential, name: &str, call: &[u8], minor: u128) -> bool {
        let mut called = Called::new();
        (called.terms.tool, called.quote) = (tool(name), quote_of(call));
        pays(credential, minor, &called.call()).is_ok()
    }

    #[test]
    fn a_paid_credential_pays_for_its_call_and_no_other() {
        let (macaroon, minted) = minted(1);
        let credential = verify(&macaroon, &minted).unwrap();
        assert_eq!((credential.uses(), credential.principal()), (1, None));
        assert!(covers(&credential, "forecast", b"call", 3_000));
        assert!(!covers(&credential, "history", b"call", 3_000), "another tool");
        assert!(!covers(&credential, "forecast", b"other", 3_000), "other arguments");
        assert!(!covers(&credential, "forecast", b"call", 4_000), "price raised");
    }

    #[test]
    fn a_bundle_pays_for_other_arguments_too() {
        let (macaroon, minted) = minted(5);
        let credential = verify(&macaroon, &minted).unwrap();
        assert_eq!(credential.uses(), 5);
        assert!(covers(&credential, "forecast", b"other", 3_000));
        assert!(!covers(&credential, "history", b"other", 3_000));
    }

    #[test]
    fn signature_and_preimage_are_checked_in_this_order_and_time_when_it_pays() {
        let (macaroon, minted) = minted(1);
        let credential = present(&macaroon, [6; 32]);
        let code = |root: &[u8; 32]| {
            VerifiedCredential::verify(&credential, root, &minted).unwrap_err().code()
        };
        assert_eq!(code(&[9; 32]), Code::CredentialInvalid);
        assert_eq!(code(&ROOT), Code::PreimageMismatch);
        let credential = verify(&macaroon, &minted).unwrap();
        let (called, at) = (Called::new(), NOW.plus_ms(300_000));
        let late = pays(&credential, 3_000, &Use { at, ..called.call() });
        assert_eq!(late, Err(Code::QuoteExpired));
    }

    #[test]
    fn caveats_added_by_a_holder_only_narrow() {
        let (macaroon, minted) = minted(5);
        let with = |caveat: &str| verify(&macaroon.clone().attenuate(caveat.as_bytes()), &minted);
        assert_eq!(with("n_uses=2").unwrap().uses(), 2);
        assert_eq!(with("n_uses=50").unwrap().uses(), 5);
        assert!(with("valid_until=1794999999").unwrap().is_over(NOW));
        assert_eq!(with("valid_until=9795000000").unwrap().expires_at(), minted.expires_at);
        assert_eq!(with("admin=true").err(), Some(Code::CaveatUnknown));
        assert_eq!(with("tool=history").err(), Some(Code::CaveatUnknown));
        assert_eq!(with(&format!("jti={}", Digest::of(b"t"))).err(), Some(Code::CaveatUnknown));
        let narrowed = with(&format!("call={}", quote_of(b"call").call_digest())).unwrap();
        assert!(covers(&narrowed, "forecast", b"call", 3_000));
        assert!(!covers(&narrowed, "forecast", b"other", 3_000));
    }

    #[test]
    fn arguments_grant_and_price_can_be_narrowed_each() {
        let (macaroon, minted) = minted(5);
        let with = |caveat: String| {
            verify(&macaroon.clone().attenuate(caveat.as_bytes()), &minted).unwrap()
        };
        let (exhausted, called) = (Err(Code::CredentialExhausted), Called::new());
        let one = with(format!("arguments={}", Digest::of(br#"{"city":"Oslo"}"#)));
        let of = |arguments| pays(&one, 3_000, &Use { arguments, ..called.call() });
        assert_eq!(of(r#"{"city":"Oslo"}"#), Ok(()));
        assert_eq!(of(r#"{"city":"Rome"}"#), exhausted);
        let (grant, other) = (GrantId::new(NOW, [1; 10]), GrantId::new(NOW, [2; 10]));
        let tied = with(format!("grant={}", grant_digest(grant)));
        assert_eq!(tied.grant(), Some(grant_digest(grant)));
        for (grant, expected) in
            [(Some(grant), Ok(())), (Some(other), exhausted), (None, exhausted)]
        {
            let under = pays(&tied, 3_000, &Use { grant, ..called.call() });
            assert_eq!(under, expected, "{grant:?}");
        }
        // Five calls for 3000 msat: 600 each.
        let capped = |cap: u32| pays(&with(format!("max_price_msat={cap}")), 3_000, &called.call());
        assert_eq!((capped(600), capped(599)), (Ok(()), exhausted));
    }

    #[test]
    fn it_is_minted_with_its_price_and_its_grant() {
        let (macaroon, _) = minted(2);
        let caveats = Restriction::of(macaroon.verify(&ROOT).unwrap()).unwrap();
        assert_eq!((caveats.max_price_msat, caveats.grant), (Some(1_500), None));
        let (identity, grant) =
            (Identity::anonymous(&terms()).unwrap(), GrantId::new(NOW, [1; 10]));
        let (macaroon, _) = mint(&Mint {
            payment_hash: Sha256::digest(PREIMAGE).into(),
            token_id: [5; 32],
            root_key: &ROOT,
            identity: &identity,
            tool: &tool("forecast"),
            quote: &quote_of(b"call"),
            price: &price(3_001),
            uses: Uses(2),
            grant: Some(grant),
            expires_at: NOW.plus_ms(300_000),
        })
        .unwrap();
        let caveats = Restriction::of(macaroon.verify(&ROOT).unwrap()).unwrap();
        assert_eq!(caveats.grant, Some(grant_digest(grant)));
        assert_eq!(caveats.max_price_msat, Some(1_501), "rounded up: its own price passes");
    }

    #[test]
    fn a_sensitive_tool_takes_credentials_for_one_call_alone() {
        let mut called = Called::new();
        called.terms.sensitivity = Terms::SENSITIVE;
        for (uses, expected) in [(1, Ok(())), (5, Err(Code::CredentialExhausted))] {
            let (macaroon, minted) = minted(uses);
            let credential = verify(&macaroon, &minted).unwrap();
            assert_eq!(pays(&credential, 3_000, &called.call()), expected);
        }
        let (macaroon, minted) = minted(5);
        let narrowed = verify(&macaroon.attenuate(b"n_uses=1"), &minted).unwrap();
        assert_eq!(pays(&narrowed, 3_000, &called.call()), Ok(()));
    }

    #[test]
    fn caveats_never_make_a_principal() {
        let (macaroon, minted) = minted(5);
        let forged = ["tenant=acme", "iss=https://idp.example/", "sub=alice", "agent=bot"]
            .iter()
            .fold(macaroon, |m, caveat| m.attenuate(caveat.as_bytes()));
        let credential = verify(&forged, &minted).unwrap();
        assert_eq!(credential.principal(), None);
        assert!(!covers(&credential, "forecast", b"call", 3_000), "narrowed to alice");
    }

    #[test]
    fn a_named_principal_alone_may_use_it() {
        let (macaroon, minted) = for_alice();
        let credential = verify(&macaroon, &minted).unwrap();
        assert_eq!(credential.principal(), Some(&alice()));
        assert_eq!(credential.token_reference(), Some(Digest::of(b"token")));
        let called = Called::new();
        let by =
            |principal: &Principal| pays(&credential, 3_000, &Use { principal, ..called.call() });
        assert_eq!(by(&alice()), Ok(()));
        let mallory = Principal { agent: "other".into(), ..alice() };
        for other in [mallory, Principal::anonymous()] {
            assert_eq!(by(&other), Err(Code::CredentialExhausted));
        }
    }

    #[test]
    fn what_is_minted_under_a_token_names_its_principal_and_ends_with_it() {
        let (macaroon, facts) = for_alice();
        let mut terms = terms();
        terms.identity = IdentityRule::Human;
        let token = verify(&macaroon, &Minted { expires_at: NOW.plus_ms(50_000), ..facts });
        let identity = Identity::of_credential(&token.unwrap(), &terms, NOW).unwrap();
        let (macaroon, minted) = mint_for(&identity, "forecast", 1).unwrap();
        assert_eq!(minted.expires_at, NOW.plus_ms(50_000));
        assert_eq!(minted.bearer.as_ref().map(|b| &b.principal), Some(&alice()));
        let caveats = Restriction::of(macaroon.verify(&ROOT).unwrap()).unwrap();
        assert_eq!(caveats.subject.as_deref(), Some("alice"));
        assert_eq!(caveats.token_id, Some(identity.reference()));
        let credential = verify(&macaroon, &minted).unwrap();
        assert!(!covers(&credential, "forecast", b"call", 3_000), "not for nobody");
    }

    #[test]
    fn attenuated_copies_share_one_counter() {
        let (macaroon, minted) = minted(5);
        let copy = macaroon.clone().attenuate(b"n_uses=1");
        let (first, second) = (verify(&macaroon, &minted), verify(&copy, &minted));
        assert_eq!(first.unwrap().key(), second.unwrap().key());
    }

    #[test]
    fn facts_read_back_from_their_stored_form() {
        for minted in [minted(5).1, for_alice().1] {
            let stored = serde_json::to_string(&minted).unwrap();
            assert_eq!(serde_json::from_str::<Minted>(&stored).unwrap(), minted);
        }
    }

    #[test]
    fn a_name_that_cannot_be_read_back_is_found_before_anybody_pays() {
        let refused = mint_for(&Identity::anonymous(&terms()).unwrap(), " forecast", 1);
        assert_eq!(refused.unwrap_err().code(), Code::InternalFault);
    }
}
