//! Issuers of access tokens.

use super::{is_loopback, name_of_tenant, plain, secure_url};
use crate::config::{
    Claim, Issuer, Profile, TenantRule, TokenTyp,
    raw::{RawIssuer, RawProfile, RawTokenTyp},
    report::{At, Report},
};
use std::{collections::BTreeSet, sync::Arc};

/// What a kind of issuer does differently.
struct Habits {
    profile: Profile,
    client_claims: &'static [&'static str],
    roles_claim: Option<&'static str>,
    scope_claim: &'static str,
    token_typ: TokenTyp,
}

const fn habits(profile: RawProfile) -> Habits {
    let usual = Habits {
        profile: Profile::Rfc9068,
        client_claims: &["client_id"],
        roles_claim: None,
        scope_claim: "scope",
        token_typ: TokenTyp::AtJwt,
    };
    match profile {
        RawProfile::Rfc9068 => Habits { roles_claim: Some("roles"), ..usual },
        RawProfile::Auth0 => Habits {
            profile: Profile::Auth0,
            client_claims: &["azp", "client_id"],
            roles_claim: Some("permissions"),
            token_typ: TokenTyp::OrJwt,
            ..usual
        },
        RawProfile::Keycloak => Habits {
            profile: Profile::Keycloak,
            client_claims: &["azp", "client_id"],
            roles_claim: Some("/realm_access/roles"),
            token_typ: TokenTyp::OrJwt,
            ..usual
        },
        RawProfile::Entra => Habits {
            profile: Profile::Entra,
            client_claims: &["azp", "appid"],
            roles_claim: Some("roles"),
            scope_claim: "scp",
            token_typ: TokenTyp::OrJwt,
        },
        RawProfile::Okta => Habits {
            profile: Profile::Okta,
            client_claims: &["cid"],
            roles_claim: Some("groups"),
            scope_claim: "scp",
            token_typ: TokenTyp::OrMissing,
        },
        RawProfile::Workos => Habits {
            profile: Profile::Workos,
            roles_claim: Some("roles"),
            token_typ: TokenTyp::OrMissing,
            ..usual
        },
    }
}

/// All issuers; `None` when one is wrong.
pub(super) fn issuers(raw: &[RawIssuer], report: &mut Report) -> Option<Vec<Arc<Issuer>>> {
    let mut names = BTreeSet::new();
    let mut issuers = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let at = At::top().key("issuers").index(index);
        if !names.insert(raw.issuer.as_str()) {
            let hint = "keep one of them";
            report.problem(&at.key("issuer"), "this issuer is listed twice", hint);
        }
        issuers.push(issuer(raw, &at, report).map(Arc::new));
    }
    issuers.into_iter().collect()
}

fn issuer(raw: &RawIssuer, at: &At, report: &mut Report) -> Option<Issuer> {
    let habits = habits(raw.profile.unwrap_or(RawProfile::Rfc9068));
    let url = secure_url(&raw.issuer, &at.key("issuer"), report);
    let jwks_at = at.key("jwks_uri");
    let jwks_uri = raw.jwks_uri.as_deref().map(|text| secure_url(text, &jwks_at, report).ok_or(()));
    let asked = match &jwks_uri {
        Some(Ok(jwks)) => Some(jwks),
        _ => url.as_ref(),
    };
    if asked.is_some_and(is_loopback) && !raw.allow_private_network {
        let hint = "add `allow_private_network: true`";
        report.problem(at, "its keys are on loopback, from where none are fetched", hint);
    }
    if url.as_ref().is_some_and(|url| url.query().is_some()) {
        let hint = "write exactly the token's `iss`";
        report.problem(&at.key("issuer"), "an issuer has no query (RFC 8414)", hint);
    }
    let mut pick = |name: &str, written: &Option<String>, usual: Option<&str>| {
        claim(written.as_deref().or(usual)?, &at.key(name), report)
    };
    let client_claim = pick("client_claim", &raw.client_claim, None);
    let roles_claim = pick("roles_claim", &raw.roles_claim, habits.roles_claim);
    let scope_claim = pick("scope_claim", &raw.scope_claim, Some(habits.scope_claim));
    let tenant_claim = pick("tenant_claim", &raw.tenant_claim, None);
    let audience = raw.audience.as_deref().and_then(|a| plain(a, &at.key("audience"), report));
    Some(Issuer {
        issuer: url.map(|_| raw.issuer.as_str().into())?,
        jwks_uri: jwks_uri.transpose().ok()?,
        profile: habits.profile,
        tenant: tenant(raw, tenant_claim, at, report)?,
        client_claims: match (client_claim, &raw.client_claim) {
            (Some(claim), _) => vec![claim],
            (None, Some(_)) => return None,
            (None, None) => {
                let usual = habits.client_claims.iter();
                usual.map(|name| Claim(vec![(*name).into()])).collect()
            }
        },
        roles_claim,
        scope_claim: scope_claim?,
        audience,
        token_typ: match raw.token_typ {
            None => habits.token_typ,
            Some(RawTokenTyp::AtJwt) => TokenTyp::AtJwt,
            Some(RawTokenTyp::Jwt) => TokenTyp::OrJwt,
            Some(RawTokenTyp::Missing) => TokenTyp::OrMissing,
        },
        allow_private_network: raw.allow_private_network,
    })
}

fn tenant(
    raw: &RawIssuer,
    claim: Option<Claim>,
    at: &At,
    report: &mut Report,
) -> Option<TenantRule> {
    match (&raw.tenant, claim) {
        (Some(_), Some(_)) => {
            let hint = "keep one of them";
            report.problem(at, "`tenant` and `tenant_claim` exclude each other", hint);
            None
        }
        (Some(tenant), None) => {
            name_of_tenant(tenant, &at.key("tenant"), report).map(TenantRule::Fixed)
        }
        (None, Some(claim)) => Some(TenantRule::Claim(claim)),
        (None, None) if raw.tenant_claim.is_some() => None,
        (None, None) => Some(TenantRule::Default),
    }
}

/// `org_id`, or `/realm_access/roles`. A name may hold dots and slashes, as URLs do.
fn claim(text: &str, at: &At, report: &mut Report) -> Option<Claim> {
    let members: Vec<Arc<str>> = match text.strip_prefix('/') {
        Some(path) => path.split('/').map(Arc::from).collect(),
        None => vec![text.into()],
    };
    if members.iter().any(|member| member.is_empty()) || text.contains(char::is_control) {
        let hint = "write a member's name, or a path such as `/realm_access/roles`";
        report.problem(at, "this names no claim", hint);
        return None;
    }
    Some(Claim(members))
}
