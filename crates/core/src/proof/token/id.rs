//! ID tokens: who has just signed in (OpenID Connect Core 1.0, §2 and §3.1.3.7).
//!
//! Owns the rules of an ID token's claims. An ID token says who sits at a browser; it opens no
//! tool and stands for no agent, and an access token is never taken for one.
//!
//! INVARIANT: a [`SignedIn`] exists only for a token of this issuer, for this client alone, with
//! the nonce of this very sign-in, signed and not expired.

use super::{
    Header, TenantRule, TokenError, UnverifiedToken,
    claims::{self, Claims},
};
use crate::time::UnixMs;
use serde_json::Value;
use std::sync::Arc;

/// How old an ID token may be: it was made for the sign-in that is going on.
const MAX_AGE_S: u64 = 600;

/// What an ID token must match.
#[derive(Clone, Debug)]
pub struct ExpectedId<'a> {
    /// The issuer, byte for byte.
    pub issuer: &'a str,
    /// The client that asked for it: its only audience.
    pub client: &'a str,
    /// The nonce of the sign-in.
    pub nonce: &'a str,
    /// Where the person's tenant comes from.
    pub tenant: &'a TenantRule,
    /// The claim with the person's roles or groups: a name, or a JSON pointer.
    pub roles_claim: &'a str,
    /// How far ahead of us the issuer's clock may be.
    pub leeway_s: u64,
    /// How long ago the person may have signed in, where that was asked for: then it must be said.
    pub max_age_s: Option<u64>,
    /// Classes that were asked for, of which the sign-in must be one; empty for any.
    pub acr_values: &'a [Arc<str>],
}

/// A person who has just signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// `sub`.
    pub subject: Arc<str>,
    /// A name to show: `name`, else `preferred_username`, else `email`, else `sub`.
    pub name: Arc<str>,
    /// The tenant.
    pub tenant: Arc<str>,
    /// Roles or groups, in the issuer's words.
    pub roles: Vec<Arc<str>>,
    /// When they signed in at the issuer, which may be long before now.
    pub at: Option<UnixMs>,
    /// The class of that sign-in.
    pub acr: Option<Arc<str>>,
}

impl UnverifiedToken<'_> {
    /// Verifies it as an ID token. `verify_signature` gets the header, the signing input and the
    /// signature.
    ///
    /// # Errors
    /// The first rule that does not hold; claims are judged only after the signature.
    pub fn verify_id(
        self,
        expected: &ExpectedId<'_>,
        now: UnixMs,
        verify_signature: impl FnOnce(&Header, &str, &[u8]) -> Result<(), TokenError>,
    ) -> Result<SignedIn, TokenError> {
        if *self.issuer != *expected.issuer {
            return Err(TokenError::Issuer);
        }
        if !matches!(self.typ.as_deref(), None | Some("jwt")) {
            return Err(TokenError::Type);
        }
        verify_signature(&self.header, self.signing_input, &self.signature)?;
        judge(&self.claims, expected, now)
    }
}

fn judge(claims: &Claims, expected: &ExpectedId<'_>, now: UnixMs) -> Result<SignedIn, TokenError> {
    claims::check_times(claims, expected.leeway_s, now)?;
    let issued_s = claims.get("iat").and_then(Value::as_u64).unwrap_or(0);
    if now.seconds().saturating_sub(issued_s) > MAX_AGE_S {
        return Err(TokenError::Expired);
    }
    check_client(claims, expected.client)?;
    // Random text of ours that this browser alone was given.
    if claims::text(claims, "nonce")? != expected.nonce {
        return Err(TokenError::Claim("nonce"));
    }
    if ["events", "act", "htm", "cnf"].iter().any(|name| claims.contains_key(*name)) {
        return Err(TokenError::Type);
    }
    let (at, acr) = sign_in(claims, expected, now)?;
    let subject = claims::text(claims, "sub")?;
    let shown = ["name", "preferred_username", "email"];
    let name = shown.iter().find_map(|name| claims::clean_text(claims.get(*name)?));
    Ok(SignedIn {
        subject: subject.into(),
        name: name.filter(|name| name.len() <= 200).unwrap_or(subject).into(),
        tenant: claims::read_tenant(claims, expected.tenant)?,
        roles: claims::read_roles(claims, Some(expected.roles_claim))?,
        at,
        acr,
    })
}

/// When and how they signed in, held to what was asked for (OpenID Connect Core 1.0 §3.1.3.7, 12
/// and 13).
fn sign_in(
    claims: &Claims,
    expected: &ExpectedId<'_>,
    now: UnixMs,
) -> Result<(Option<UnixMs>, Option<Arc<str>>), TokenError> {
    let at_s = match claims.get("auth_time") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_u64().ok_or(TokenError::Claim("auth_time"))?),
    };
    // What lies ahead is not a sign-in that was.
    if at_s.is_some_and(|at| at > now.seconds().saturating_add(expected.leeway_s)) {
        return Err(TokenError::Claim("auth_time"));
    }
    if let Some(max_age_s) = expected.max_age_s {
        let age_s = at_s.map(|at| now.seconds().saturating_sub(at));
        if age_s.is_none_or(|age| age > max_age_s.saturating_add(expected.leeway_s)) {
            return Err(TokenError::Claim("auth_time"));
        }
    }
    let acr = claims.get("acr").and_then(claims::clean_text);
    let is_one = |acr: &str| expected.acr_values.iter().any(|value| **value == *acr);
    if !expected.acr_values.is_empty() && !acr.is_some_and(is_one) {
        return Err(TokenError::Claim("acr"));
    }
    Ok((at_s.map(|at| UnixMs(at.saturating_mul(1000))), acr.map(Arc::from)))
}

/// The client is the one audience, and, where it is said, the authorized party.
fn check_client(claims: &Claims, client: &str) -> Result<(), TokenError> {
    let is_alone = match claims.get("aud") {
        Some(Value::String(one)) => one == client,
        Some(Value::Array(many)) => matches!(many.as_slice(), [one] if one == client),
        Some(_) | None => return Err(TokenError::Claim("aud")),
    };
    let is_party = claims.get("azp").is_none_or(|party| party == client);
    if is_alone && is_party { Ok(()) } else { Err(TokenError::Audience) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(header), part(claims))
    }

    fn good() -> Value {
        json!({
            "iss": "https://idp.example", "sub": "ada", "aud": "console", "nonce": "n-1",
            "exp": 1_795_000_300u64, "iat": 1_795_000_000u64, "name": "Ada L.",
            "org": "acme", "roles": ["finance"],
        })
    }

    fn verify(header: &Value, claims: &Value) -> Result<SignedIn, TokenError> {
        verify_stepped(header, claims, None, &[])
    }

    fn verify_stepped(
        header: &Value,
        claims: &Value,
        max_age_s: Option<u64>,
        acr_values: &[Arc<str>],
    ) -> Result<SignedIn, TokenError> {
        let expected = ExpectedId {
            issuer: "https://idp.example",
            client: "console",
            nonce: "n-1",
            tenant: &TenantRule::Claim { name: "org".into(), known: vec![] },
            roles_claim: "roles",
            leeway_s: 5,
            max_age_s,
            acr_values,
        };
        let token = token(header, claims);
        UnverifiedToken::parse(&token)?.verify_id(&expected, NOW, |_, _, _| Ok(()))
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_person_is_named() {
        let signed = verify(&json!({ "alg": "RS256", "kid": "k" }), &good()).unwrap();
        assert_eq!((&*signed.subject, &*signed.name, &*signed.tenant), ("ada", "Ada L.", "acme"));
        assert_eq!(signed.roles, ["finance".into()]);
        let array = with("aud", json!(["console"]));
        verify(&json!({ "alg": "RS256", "typ": "JWT" }), &array).unwrap();
    }

    #[test]
    fn every_other_token_is_refused() {
        let header = json!({ "alg": "RS256" });
        let refused = |claims: Value| verify(&header, &claims).unwrap_err();
        assert_eq!(refused(with("nonce", json!("n-2"))), TokenError::Claim("nonce"));
        assert_eq!(refused(with("nonce", Value::Null)), TokenError::Claim("nonce"));
        assert_eq!(refused(with("iss", json!("https://other"))), TokenError::Issuer);
        assert_eq!(refused(with("aud", json!("agent"))), TokenError::Audience);
        assert_eq!(refused(with("aud", json!(["console", "agent"]))), TokenError::Audience);
        assert_eq!(refused(with("aud", json!(7))), TokenError::Claim("aud"));
        assert_eq!(refused(with("azp", json!("agent"))), TokenError::Audience);
        assert_eq!(refused(with("exp", json!(1_795_000_000u64))), TokenError::Expired);
        assert_eq!(refused(with("iat", json!(1_794_999_000u64))), TokenError::Expired);
        assert_eq!(refused(with("iat", json!(1_795_000_060u64))), TokenError::NotYetValid);
        assert_eq!(refused(with("sub", json!(""))), TokenError::Claim("sub"));
        assert_eq!(refused(with("org", Value::Null)), TokenError::Tenant);
        assert_eq!(refused(with("roles", json!(7))), TokenError::Claim("roles"));
        assert_eq!(refused(with("events", json!({}))), TokenError::Type);
        assert_eq!(refused(with("act", json!({ "sub": "bot" }))), TokenError::Type);
        for typ in ["at+jwt", "logout+jwt", "dpop+jwt"] {
            let header = json!({ "alg": "RS256", "typ": typ });
            assert_eq!(verify(&header, &good()).unwrap_err(), TokenError::Type, "{typ}");
        }
        assert!(verify(&json!({ "alg": "none" }), &good()).is_err());
        assert!(verify(&json!({ "alg": "HS256" }), &good()).is_err());
    }

    #[test]
    fn what_was_asked_of_the_sign_in_must_be_said() {
        let header = json!({ "alg": "RS256" });
        let mfa: [Arc<str>; 1] = ["mfa".into()];
        let says = |at: Value, acr: Value, max_age_s, acr_values| {
            let mut claims = with("auth_time", at);
            claims["acr"] = acr;
            verify_stepped(&header, &claims, max_age_s, acr_values)
        };
        let then = json!(1_794_999_700u64);
        let signed = says(then.clone(), json!("mfa"), Some(300), &mfa).unwrap();
        assert_eq!(signed.at, Some(UnixMs(1_794_999_700_000)));
        assert_eq!(signed.acr.as_deref(), Some("mfa"));
        let unasked = says(Value::Null, Value::Null, None, &[]).unwrap();
        assert_eq!((unasked.at, unasked.acr), (None, None));
        for (at, acr, what) in [
            (json!(1_794_999_694u64), json!("mfa"), "auth_time"),
            (json!(1_795_000_006u64), json!("mfa"), "auth_time"),
            (Value::Null, json!("mfa"), "auth_time"),
            (json!("1794999700"), json!("mfa"), "auth_time"),
            (then.clone(), json!("pwd"), "acr"),
            (then.clone(), json!(["mfa"]), "acr"),
            (then, Value::Null, "acr"),
        ] {
            let refused = says(at, acr, Some(300), &mfa).unwrap_err();
            assert_eq!(refused, TokenError::Claim(what));
        }
    }
}
