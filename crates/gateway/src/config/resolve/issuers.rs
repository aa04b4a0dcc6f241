//! Issuers of access tokens.

use super::{is_loopback, name_of_tenant, plain, span, web_url, without_user};
use crate::config::{
    Issuer, Keys, TenantRule, TokenConsent,
    raw::{RawIssuer, RawProfile},
    report::{At, Report},
    scalar::Span,
};
use http::Uri;
use std::{collections::BTreeSet, sync::Arc};

/// What a kind of issuer does differently.
struct Habits {
    client_claim: &'static str,
    roles_claim: &'static str,
    accept_typ_missing: bool,
}

const fn habits(profile: RawProfile) -> Habits {
    let (client_claim, roles_claim, accept_typ_missing) = match profile {
        RawProfile::Rfc9068 => ("client_id", "roles", false),
        RawProfile::Auth0 => ("azp", "permissions", true),
        RawProfile::Keycloak => ("azp", "/realm_access/roles", true),
        RawProfile::Entra => ("azp", "roles", true),
        RawProfile::Okta => ("cid", "groups", true),
        RawProfile::Workos => ("client_id", "roles", true),
    };
    Habits { client_claim, roles_claim, accept_typ_missing }
}

/// All issuers; `None` when one is wrong.
pub(super) fn issuers(
    raw: &[RawIssuer],
    default_tenant: Option<&Arc<str>>,
    report: &mut Report,
) -> Option<Vec<Arc<Issuer>>> {
    let mut names = BTreeSet::new();
    let mut issuers = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let at = At::top().key("issuers").index(index);
        if !names.insert(raw.issuer.as_str()) {
            let hint = "keep one of them";
            report.problem(&at.key("issuer"), "this issuer is listed twice", hint);
        }
        issuers.push(issuer(raw, default_tenant, &at, report).map(Arc::new));
    }
    issuers.into_iter().collect()
}

pub(super) fn issuer(
    raw: &RawIssuer,
    default_tenant: Option<&Arc<str>>,
    at: &At,
    report: &mut Report,
) -> Option<Issuer> {
    let habits = habits(raw.profile.unwrap_or(RawProfile::Rfc9068));
    let name = name(raw, &at.key("issuer"), report);
    let keys = keys(raw, at, report);
    let mut pick = |name: &str, written: Option<&str>| claim(written?, &at.key(name), report);
    let roles = raw.roles_claim.as_deref().unwrap_or(habits.roles_claim);
    let roles_claim = pick("roles_claim", Some(roles));
    let human_claim = pick("human_claim", raw.human_claim.as_deref());
    let tenant_claim = pick("tenant_claim", raw.tenant_claim.as_deref());
    let client_claim = raw.client_claim.as_deref().unwrap_or(habits.client_claim);
    let client_claim = plain(client_claim, &at.key("client_claim"), report);
    let audience = raw.audience.as_deref().and_then(|a| plain(a, &at.key("audience"), report));
    if raw.audience.is_some() && raw.clients.is_empty() {
        let message = "with an audience of its own, any token of this issuer would do";
        let hint = "add `clients` with the ids of those whose tokens are accepted";
        report.problem(&at.key("audience"), message, hint);
    }
    let clients = raw.clients.iter().enumerate();
    let clients = clients.filter_map(|(i, c)| plain(c, &at.key("clients").index(i), report));
    let clients = clients.collect();
    let tenant = tenant(raw, tenant_claim, default_tenant, at, report);
    let bounds = [Span(0), Span::seconds(60)];
    let leeway_ms = span(raw.leeway, Span::seconds(5), bounds, &at.key("leeway"), report);
    if raw.human_claim.is_some() {
        // A wrong claim has been reported; it must not turn into none.
        human_claim.as_ref()?;
    }
    Some(Issuer {
        issuer: name?,
        keys: keys?,
        audience,
        clients,
        accept_typ_missing: raw.accept_typ_missing.unwrap_or(habits.accept_typ_missing),
        client_claim: client_claim?,
        tenant: tenant?,
        roles_claim,
        human_claim,
        allow_private_network: raw.allow_private_network,
        leeway_s: leeway_ms / 1000,
        consent: raw.consent.as_ref().map(|consent| TokenConsent {
            per_call: consent.per_call.into(),
            total: consent.total.into(),
        }),
    })
}

/// What its tokens say in `iss`: a URL, unless something else says where its keys are (RFC 7519
/// §4.1.1; there are issuers whose names have no scheme).
fn name(raw: &RawIssuer, at: &At, report: &mut Report) -> Option<Arc<str>> {
    let has_keys = raw.jwks_uri.is_some() || raw.metadata_url.is_some();
    if !raw.issuer.contains("://") {
        if has_keys {
            return plain(&raw.issuer, at, report);
        }
        let hint = "write it as `https://host.example.com/path`; or, if this is exactly the \
                    token's `iss`, add `jwks_uri`";
        let named = without_user(&raw.issuer);
        let message = format!("`{named}` is no URL at which its keys could be found");
        report.problem(at, message, hint);
        return None;
    }
    let url = place(&raw.issuer, raw.allow_private_network, at, report)?;
    if url.query().is_some() {
        let hint = "write exactly the token's `iss`";
        report.problem(at, "an issuer has no query (RFC 8414)", hint);
    }
    Some(raw.issuer.as_str().into())
}

/// A URL that the gateway fetches for an issuer.
fn place(text: &str, is_private: bool, at: &At, report: &mut Report) -> Option<Uri> {
    let url = web_url(text, at, report)?;
    if !is_private && (is_loopback(&url) || url.scheme_str() == Some("http")) {
        let message = "issuers are asked over https and at public addresses only";
        report.problem(at, message, "write `https://`, or add `allow_private_network: true`");
        return None;
    }
    Some(url)
}

fn keys(raw: &RawIssuer, at: &At, report: &mut Report) -> Option<Keys> {
    let mut url = |name: &str, text: &str| {
        place(text, raw.allow_private_network, &at.key(name), report).map(|_| text.into())
    };
    match (&raw.jwks_uri, &raw.metadata_url) {
        (None, None) => Some(Keys::WellKnown),
        (Some(jwks), None) => url("jwks_uri", jwks).map(Keys::Jwks),
        (None, Some(document)) => url("metadata_url", document).map(Keys::Document),
        (Some(_), Some(_)) => {
            let hint = "keep one of them";
            report.problem(at, "`jwks_uri` and `metadata_url` exclude each other", hint);
            None
        }
    }
}

fn tenant(
    raw: &RawIssuer,
    claim: Option<Arc<str>>,
    default: Option<&Arc<str>>,
    at: &At,
    report: &mut Report,
) -> Option<TenantRule> {
    let tenants = raw.tenants.iter().enumerate();
    let known: Vec<Option<Arc<str>>> = tenants
        .map(|(index, tenant)| name_of_tenant(tenant, &at.key("tenants").index(index), report))
        .collect();
    if !known.is_empty() && raw.tenant_claim.is_none() {
        report.problem(
            &at.key("tenants"),
            "no claim is to name one of these",
            "add `tenant_claim`",
        );
    }
    match (&raw.tenant, &raw.tenant_claim) {
        (Some(_), Some(_)) => {
            let hint = "keep one of them";
            report.problem(at, "`tenant` and `tenant_claim` exclude each other", hint);
            None
        }
        (Some(tenant), None) => {
            name_of_tenant(tenant, &at.key("tenant"), report).map(TenantRule::Fixed)
        }
        (None, Some(_)) => {
            let known = known.into_iter().collect::<Option<_>>()?;
            Some(TenantRule::Claim { name: claim?, known })
        }
        (None, None) => default.map(|tenant| TenantRule::Fixed(Arc::clone(tenant))),
    }
}

/// `org_id`, or `/realm_access/roles`. A name may hold dots and slashes, as URLs do.
fn claim(text: &str, at: &At, report: &mut Report) -> Option<Arc<str>> {
    let path = text.strip_prefix('/').unwrap_or("-");
    if text.is_empty() || path.split('/').any(str::is_empty) || text.contains(char::is_control) {
        let hint = "write a member's name, or a path such as `/realm_access/roles`";
        report.problem(at, "this names no claim", hint);
        return None;
    }
    Some(text.into())
}
