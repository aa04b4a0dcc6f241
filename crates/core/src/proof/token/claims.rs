//! The rules of an access token's claims. Called after the signature was verified, and only then.

use super::{Expected, Profile, SignIn, TenantRule, TokenError, TypRule, VerifiedToken};
use crate::{
    digest::Digest,
    proof::{Delegator, Principal},
    time::UnixMs,
    wire::rar::{self, NotADetail},
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The longest chain of actors.
const MAX_ACTORS: usize = 5;

pub(super) type Claims = Map<String, Value>;

/// Applies every rule. `payload` are the signed bytes of `claims`.
pub(super) fn judge(
    claims: &Claims,
    payload: &[u8],
    expected: &Expected<'_>,
    now: UnixMs,
) -> Result<VerifiedToken, TokenError> {
    let profile = expected.profile;
    refuse_other_kinds(claims, profile.typ)?;
    let expires_at = check_times(claims, profile.leeway_s, now)?;
    check_audience(claims, expected.audience)?;
    if claims.contains_key("cnf") {
        return Err(TokenError::SenderConstrained);
    }
    let subject = text(claims, "sub")?;
    let client = named_text(claims, &profile.client_claim, "client_id")?;
    if !profile.clients.is_empty() && !profile.clients.iter().any(|c| **c == *client) {
        return Err(TokenError::Client);
    }
    let actors = read_actors(claims, &profile.issuer)?;
    let is_human = is_human(claims, subject, client, &actors, profile);
    let details = claims.get("authorization_details").map(|claim| match actors.is_empty() {
        true => rar::parse(claim),
        false => Err(NotADetail::Delegated),
    });
    let mut actors = actors.into_iter().map(Arc::from);
    let principal = Principal {
        tenant: read_tenant(claims, &profile.tenant)?,
        delegator: Some(Delegator {
            issuer: profile.issuer.clone(),
            subject: subject.into(),
            is_human,
        }),
        agent: actors.next().unwrap_or_else(|| client.into()),
        chain: actors.collect(),
        roles: read_roles(claims, profile.roles_claim.as_deref())?,
    };
    Ok(VerifiedToken {
        principal,
        client: client.into(),
        scopes: read_scopes(claims)?,
        reference: read_reference(claims, payload, &profile.issuer)?,
        expires_at,
        sign_in: SignIn {
            acr: claims.get("acr").and_then(clean_text).map(Arc::from),
            at: claims.get("auth_time").and_then(Value::as_u64).map(UnixMs::from_seconds),
        },
        details,
    })
}

/// A claim that must be a non-empty string without control characters.
pub(super) fn text<'a>(claims: &'a Claims, name: &'static str) -> Result<&'a str, TokenError> {
    named_text(claims, name, name)
}

fn named_text<'a>(
    claims: &'a Claims,
    name: &str,
    public_name: &'static str,
) -> Result<&'a str, TokenError> {
    claims.get(name).and_then(clean_text).ok_or(TokenError::Claim(public_name))
}

pub(super) fn clean_text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

/// ID, refresh, logout tokens and DPoP proofs are signed by the same keys. Some say what they are
/// in a claim; where `typ` does not, their own claims tell.
fn refuse_other_kinds(claims: &Claims, typ: TypRule) -> Result<(), TokenError> {
    let says = |name: &str, access: &str| match claims.get(name) {
        None => true,
        Some(Value::String(kind)) => kind.eq_ignore_ascii_case(access),
        Some(_) => false,
    };
    let mut is_access = says("typ", "Bearer") && says("token_use", "access");
    is_access &= ["events", "htm", "htu"].iter().all(|name| !claims.contains_key(*name));
    if typ == TypRule::AlsoUntyped {
        is_access &=
            ["nonce", "at_hash", "c_hash", "s_hash"].iter().all(|name| !claims.contains_key(*name));
    }
    if is_access { Ok(()) } else { Err(TokenError::Type) }
}

pub(super) fn check_times(
    claims: &Claims,
    leeway_s: u64,
    now: UnixMs,
) -> Result<UnixMs, TokenError> {
    let seconds = |name: &'static str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(TokenError::Claim(name)),
    };
    let expires_s = seconds("exp")?.ok_or(TokenError::Claim("exp"))?;
    let issued_s = seconds("iat")?.ok_or(TokenError::Claim("iat"))?;
    let not_before_s = seconds("nbf")?.unwrap_or(0);
    let expires_at = UnixMs::from_seconds(expires_s);
    if now >= expires_at {
        return Err(TokenError::Expired);
    }
    let latest_s = now.seconds().saturating_add(leeway_s);
    if issued_s > latest_s || not_before_s > latest_s {
        return Err(TokenError::NotYetValid);
    }
    Ok(expires_at)
}

fn check_audience(claims: &Claims, audience: &str) -> Result<(), TokenError> {
    let is_ours = match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => {
            if !many.iter().all(Value::is_string) {
                return Err(TokenError::Claim("aud"));
            }
            many.iter().filter(|one| one.as_str() == Some(audience)).count() == 1
        }
        Some(_) | None => return Err(TokenError::Claim("aud")),
    };
    if is_ours { Ok(()) } else { Err(TokenError::Audience) }
}

/// The `act` chain (RFC 8693), outermost first. An actor of another issuer is refused, since its
/// `sub` would be taken for one of ours.
fn read_actors<'a>(claims: &'a Claims, issuer: &str) -> Result<Vec<&'a str>, TokenError> {
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(actor) = next {
        if actors.len() == MAX_ACTORS {
            return Err(TokenError::ActorDepth);
        }
        let actor = actor.as_object().ok_or(TokenError::Claim("act"))?;
        if actor.get("iss").is_some_and(|iss| iss.as_str() != Some(issuer)) {
            return Err(TokenError::Claim("act"));
        }
        actors.push(named_text(actor, "sub", "act")?);
        next = actor.get("act");
    }
    Ok(actors)
}

/// Whether the subject is a person. RFC 9068: a client's own token has the client as subject.
/// Issuers that give such tokens another subject mark them in ways of their own; where even that
/// is missing, the operator names a claim that only a person's token has.
fn is_human(
    claims: &Claims,
    subject: &str,
    client: &str,
    actors: &[&str],
    profile: &Profile,
) -> bool {
    let claim = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or("");
    let is_program = subject == client
        || ["client_id", "azp", "appid"].iter().any(|name| claim(name) == subject)
        || actors.contains(&subject)
        || subject.strip_suffix("@clients").is_some_and(|id| id == client)
        || matches!(claim("gty"), "client-credentials" | "client_credentials")
        || claim("idtyp") == "app"
        || claim("preferred_username").starts_with("service-account-");
    let is_marked = profile.human_claim.as_deref().is_none_or(|name| {
        lookup(claims, name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
    });
    !is_program && is_marked
}

pub(super) fn read_tenant(claims: &Claims, rule: &TenantRule) -> Result<Arc<str>, TokenError> {
    match rule {
        TenantRule::Fixed(tenant) => Ok(tenant.clone()),
        TenantRule::Claim { name, known } => {
            let tenant = lookup(claims, name).and_then(clean_text).ok_or(TokenError::Tenant)?;
            if known.is_empty() || known.iter().any(|one| **one == *tenant) {
                Ok(tenant.into())
            } else {
                Err(TokenError::Tenant)
            }
        }
    }
}

pub(super) fn read_roles(claims: &Claims, name: Option<&str>) -> Result<Vec<Arc<str>>, TokenError> {
    const WRONG: TokenError = TokenError::Claim("roles");
    match name.and_then(|name| lookup(claims, name)) {
        None => Ok(Vec::new()),
        Some(Value::Array(roles)) => {
            roles.iter().map(|role| clean_text(role).map(Arc::from).ok_or(WRONG)).collect()
        }
        Some(role) => Ok(vec![clean_text(role).ok_or(WRONG)?.into()]),
    }
}

/// `scope`, else `scp`: words in a string, or an array of words.
fn read_scopes(claims: &Claims) -> Result<Vec<Arc<str>>, TokenError> {
    const WRONG: TokenError = TokenError::Claim("scope");
    let words = |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(Arc::from).collect();
    match claims.get("scope").or_else(|| claims.get("scp")) {
        None => Ok(Vec::new()),
        Some(Value::String(scopes)) => Ok(words(scopes)),
        Some(Value::Array(scopes)) => {
            scopes.iter().map(|scope| clean_text(scope).map(Arc::from).ok_or(WRONG)).collect()
        }
        Some(_) => Err(WRONG),
    }
}

fn read_reference(claims: &Claims, payload: &[u8], issuer: &str) -> Result<Digest, TokenError> {
    match claims.get("jti") {
        None => Ok(Digest::of_parts(&[b"claims", issuer.as_bytes(), payload])),
        Some(_) => Ok(VerifiedToken::reference_of(issuer, text(claims, "jti")?)),
    }
}

/// A claim by name, or by JSON pointer when the name starts with `/`.
fn lookup<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = pointer.split_once('/').map_or((pointer, None), |(a, b)| (a, Some(b)));
    let value = claims.get(&*first.replace("~1", "/").replace("~0", "~"))?;
    rest.map_or(Some(value), |rest| value.pointer(&format!("/{rest}")))
}
