//! Access tokens: which strings are one (RFC 9068), and what they say.
//!
//! Owns the form of a compact JWS, the header and claim rules, and each issuer's profile of
//! explicit loosenesses. It holds no keys and computes no signature: whoever verifies passes a
//! function that does.
//!
//! INVARIANT: a [`VerifiedToken`] exists only after that function said yes to the exact bytes
//! whose claims it carries, and after every claim rule held.
//! INVARIANT: nothing of a token's text enters an error.
//!
//! ECDSA signatures are malleable: one token has two valid byte forms. Revocation and replay
//! therefore go by [`VerifiedToken::reference`], which does not depend on the signature.

mod claims;
mod id;
mod strict;

use crate::{
    digest::Digest,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

use super::Principal;
use crate::wire::rar::Details;
pub use id::{ExpectedId, SignedIn};

/// The longest token looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The longest key id, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;
/// What a header may say. `crit`, `b64`, `jku`, `jwk`, `x5u`, `x5c`, `zip`, `cty` and everything
/// not yet invented are not here. The thumbprints are let pass and mean nothing.
const HEADER_MEMBERS: [&str; 5] = ["alg", "typ", "kid", "x5t", "x5t#S256"];

/// Signature algorithms an access token may use. There is no symmetric one and no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PSS with SHA-256.
    Ps256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// ECDSA over P-384 with SHA-384.
    Es384,
    /// Ed25519, named `EdDSA` (RFC 8037) or `Ed25519` (RFC 9864).
    Ed25519,
}

impl Algorithm {
    /// The algorithm of a header's or a key's `alg`; exact case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }
}

/// What a token's header says about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub key_id: Option<Arc<str>>,
}

/// Which `typ` an issuer's access tokens carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypRule {
    /// `at+jwt` or `application/at+jwt` (RFC 9068).
    AccessToken,
    /// Also `JWT` and none at all. Tokens that look like another kind are still refused.
    AlsoUntyped,
}

/// Where a principal's tenant comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantRule {
    /// Everybody from this issuer is in one tenant.
    Fixed(Arc<str>),
    /// A claim names it.
    Claim {
        /// The claim's name, or a JSON pointer that starts with `/`.
        name: Arc<str>,
        /// The tenants there are; empty for any.
        known: Vec<Arc<str>>,
    },
}

/// One issuer's tokens: its name, and each looseness spelt out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `iss`, byte for byte.
    pub issuer: Arc<str>,
    /// Accepted `typ`.
    pub typ: TypRule,
    /// The claim with the client's id: `client_id`, else `azp` or `appid`.
    pub client_claim: Arc<str>,
    /// Clients whose tokens are accepted; empty for any.
    pub clients: Vec<Arc<str>>,
    /// The tenant.
    pub tenant: TenantRule,
    /// The claim with the delegator's roles or groups; a name, or a JSON pointer.
    pub roles_claim: Option<Arc<str>>,
    /// A claim that only a person's token has (`auth_time`, `amr`); without it a token is a
    /// program's.
    pub human_claim: Option<Arc<str>>,
    /// How far ahead of us the issuer's clock may be, for `nbf` and `iat`. `exp` has no leeway.
    pub leeway_s: u64,
}

impl Profile {
    /// RFC 9068 to the letter, everybody in one tenant.
    #[must_use]
    pub fn strict(issuer: impl Into<Arc<str>>, tenant: impl Into<Arc<str>>) -> Self {
        Self {
            issuer: issuer.into(),
            typ: TypRule::AccessToken,
            client_claim: "client_id".into(),
            clients: Vec::new(),
            tenant: TenantRule::Fixed(tenant.into()),
            roles_claim: None,
            human_claim: None,
            leeway_s: 5,
        }
    }
}

/// What a token must match: its issuer's profile, and the resource it is presented to.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer.
    pub profile: &'a Profile,
    /// The resource URI, byte for byte.
    pub audience: &'a str,
}

/// Why a token is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    TooLarge,
    /// Not three parts in the base64url alphabet.
    NotCompact,
    /// A part is not canonical base64url.
    Encoding,
    /// A part is not a JSON object.
    Json,
    /// A member occurs twice.
    DuplicateMember,
    /// Nested too deep.
    TooDeep,
    /// The header has a member that is not allowed.
    HeaderMember,
    /// `kid` is not a short string.
    KeyId,
    /// `alg` is missing, unknown, `none` or symmetric.
    Algorithm,
    /// The token is of another kind: ID token, DPoP proof, logout token, ID-JAG.
    Type,
    /// No usable key of the issuer has this id and algorithm.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// Issued by somebody else.
    Issuer,
    /// For another resource.
    Audience,
    /// For a client that is not accepted.
    Client,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies ahead.
    NotYetValid,
    /// A claim is missing or of the wrong type.
    Claim(&'static str),
    /// `act` is nested too deep.
    ActorDepth,
    /// `cnf` is present: the token is no plain bearer token.
    SenderConstrained,
    /// No tenant, or one that is not known.
    Tenant,
}

impl TokenError {
    /// The refusal's code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::TooLarge => Code::TokenTooLarge,
            Self::NotCompact
            | Self::Encoding
            | Self::Json
            | Self::DuplicateMember
            | Self::TooDeep
            | Self::KeyId => Code::TokenMalformed,
            Self::HeaderMember => Code::TokenHeader,
            Self::Algorithm | Self::UnknownKey | Self::Signature => Code::TokenSignature,
            Self::Type => Code::TokenType,
            Self::Issuer => Code::TokenIssuer,
            Self::Audience | Self::Client => Code::TokenAudience,
            Self::Expired | Self::NotYetValid => Code::TokenExpired,
            Self::Claim(_) => Code::TokenClaim,
            Self::ActorDepth => Code::ChainTooDeep,
            Self::SenderConstrained => Code::SenderConstrained,
            Self::Tenant => Code::TenantUnknown,
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::TooLarge => "longer than 16 KiB",
            Self::NotCompact => "not a compact JWS",
            Self::Encoding => "not base64url",
            Self::Json => "not a JSON object",
            Self::DuplicateMember => "a member occurs twice",
            Self::TooDeep => "nested too deep",
            Self::HeaderMember => "a header member is not allowed",
            Self::KeyId => "`kid` is not a short string",
            Self::Algorithm => "`alg` is not accepted",
            Self::Type => "`typ` is not `at+jwt`, or the claims are those of another kind",
            Self::UnknownKey => "no key of the issuer fits `kid` and `alg`",
            Self::Signature => "the signature does not verify",
            Self::Issuer => "`iss` is not a configured issuer",
            Self::Audience => "`aud` is not this resource",
            Self::Client => "the client is not accepted",
            Self::Expired => "`exp` has passed",
            Self::NotYetValid => "`nbf` or `iat` lies ahead",
            Self::Claim(name) => return write!(f, "`{name}` is missing or of the wrong type"),
            Self::ActorDepth => "`act` is nested deeper than 5",
            Self::SenderConstrained => "`cnf` is present",
            Self::Tenant => "no known tenant",
        };
        f.write_str(text)
    }
}

impl std::error::Error for TokenError {}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::new(error.code()).with("reason", error)
    }
}

/// A well-formed token that nobody has verified. It proves nothing; it says where to look.
pub struct UnverifiedToken<'a> {
    header: Header,
    typ: Option<String>,
    issuer: Arc<str>,
    claims: Map<String, Value>,
    payload: Vec<u8>,
    signing_input: &'a str,
    signature: Vec<u8>,
}

/// Claims stay out of logs.
impl fmt::Debug for UnverifiedToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedToken").field("header", &self.header).finish_non_exhaustive()
    }
}

impl<'a> UnverifiedToken<'a> {
    /// Takes a compact JWS apart.
    ///
    /// # Errors
    /// What is wrong with its form or header, or an `iss` that is no string.
    pub fn parse(jwt: &'a str) -> Result<Self, TokenError> {
        if jwt.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let in_alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if !jwt.bytes().all(in_alphabet) {
            return Err(TokenError::NotCompact);
        }
        let (signing_input, signature) = jwt.rsplit_once('.').ok_or(TokenError::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenError::NotCompact)?;
        if header.is_empty() || payload.is_empty() || payload.contains('.') {
            return Err(TokenError::NotCompact);
        }
        let (header, typ) = read_header(&strict::object(&decode(header)?)?)?;
        let payload = decode(payload)?;
        let claims = strict::object(&payload)?;
        let issuer = claims::text(&claims, "iss")?.into();
        let signature = decode(signature)?;
        Ok(Self { header, typ, issuer, claims, payload, signing_input, signature })
    }

    /// Who it says issued it.
    #[must_use]
    pub const fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// Which key it says signed it.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Verifies it. `verify_signature` gets the header, the signing input and the signature.
    ///
    /// # Errors
    /// The first rule that does not hold; cheap rules come before the signature, and claims are
    /// judged only after it.
    pub fn verify(
        self,
        expected: &Expected<'_>,
        now: UnixMs,
        verify_signature: impl FnOnce(&Header, &str, &[u8]) -> Result<(), TokenError>,
    ) -> Result<VerifiedToken, TokenError> {
        if self.issuer != expected.profile.issuer {
            return Err(TokenError::Issuer);
        }
        check_typ(self.typ.as_deref(), expected.profile.typ)?;
        verify_signature(&self.header, self.signing_input, &self.signature)?;
        claims::judge(&self.claims, &self.payload, expected, now)
    }
}

/// A token whose signature and claims were checked.
#[derive(Debug)]
pub struct VerifiedToken {
    principal: Principal,
    client: Arc<str>,
    scopes: Vec<Arc<str>>,
    reference: Digest,
    expires_at: UnixMs,
    sign_in: SignIn,
    details: Option<Details>,
}

/// How and when the delegating person signed in, by the token's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignIn {
    /// `acr`: the class of authentication.
    pub acr: Option<Arc<str>>,
    /// `auth_time`.
    pub at: Option<UnixMs>,
}

impl VerifiedToken {
    /// Parses and verifies a compact JWS; see [`UnverifiedToken::verify`].
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn verify(
        jwt: &str,
        expected: &Expected<'_>,
        now: UnixMs,
        verify_signature: impl FnOnce(&Header, &str, &[u8]) -> Result<(), TokenError>,
    ) -> Result<Self, TokenError> {
        UnverifiedToken::parse(jwt)?.verify(expected, now, verify_signature)
    }

    /// The reference of the token that this issuer gave this `jti`: what a revocation names.
    #[must_use]
    pub fn reference_of(issuer: &str, token_id: &str) -> Digest {
        Digest::of_parts(&[b"token-id", issuer.as_bytes(), token_id.as_bytes()])
    }

    /// Whom it names.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The client it was issued to.
    #[must_use]
    pub const fn client(&self) -> &Arc<str> {
        &self.client
    }

    /// Its scopes.
    #[must_use]
    pub fn scopes(&self) -> &[Arc<str>] {
        &self.scopes
    }

    /// Digest of (iss, jti), or of (iss, claims) when there is no `jti`.
    #[must_use]
    pub const fn reference(&self) -> Digest {
        self.reference
    }

    /// `exp`.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// How and when the person signed in.
    #[must_use]
    pub const fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }

    /// The consent that it carries (`authorization_details`, RFC 9396), or why that is none.
    /// Whether its issuer is trusted for that is not asked here.
    #[must_use]
    pub const fn details(&self) -> Option<&Details> {
        self.details.as_ref()
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Encoding)
}

fn read_header(header: &Map<String, Value>) -> Result<(Header, Option<String>), TokenError> {
    if header.keys().any(|name| !HEADER_MEMBERS.contains(&name.as_str())) {
        return Err(TokenError::HeaderMember);
    }
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(Algorithm::from_name)
        .ok_or(TokenError::Algorithm)?;
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= MAX_KEY_ID_BYTES => {
            Some(kid.as_str().into())
        }
        Some(_) => return Err(TokenError::KeyId),
    };
    let typ = match header.get("typ") {
        None => None,
        Some(Value::String(typ)) => Some(typ.to_ascii_lowercase()),
        Some(_) => return Err(TokenError::Type),
    };
    Ok((Header { algorithm, key_id }, typ))
}

fn check_typ(typ: Option<&str>, rule: TypRule) -> Result<(), TokenError> {
    match (typ, rule) {
        (Some("at+jwt" | "application/at+jwt"), _) | (None | Some("jwt"), TypRule::AlsoUntyped) => {
            Ok(())
        }
        (_, TypRule::AccessToken | TypRule::AlsoUntyped) => Err(TokenError::Type),
    }
}

#[cfg(test)]
mod tests;
