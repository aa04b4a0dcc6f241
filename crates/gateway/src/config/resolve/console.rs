//! The console: its listener, who signs people in, and what their roles are called.

use super::{Vault, is_loopback, issuers, plain, scopes, span, web_url};
use crate::config::{
    Console, Role, SignIn, StepUp,
    raw::{RawConsole, RawIssuer, RawRoles, RawSignIn, RawStepUp},
    report::{At, Report},
    scalar::Span,
    tree::printable,
};
use http::Uri;
use std::{net::SocketAddr, sync::Arc};

/// What the console must fit to.
pub(super) struct Whole<'a> {
    pub(super) listen: Option<SocketAddr>,
    pub(super) public_url: &'a str,
    pub(super) tenant: Option<&'a Arc<str>>,
}

/// The console; `None` when something in it is wrong.
pub(super) fn console(
    raw: &RawConsole,
    whole: &Whole<'_>,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<Console> {
    let at = At::top().key("console");
    let listen = listener(raw, whole, &at, report);
    let public_url = address(raw, listen, whole, &at, report);
    let sign_in = sign_in(&raw.sign_in, whole, vault, &at.key("sign_in"), report);
    let bounds = [Span::seconds(300), Span::seconds(43_200)];
    let session_ms = span(raw.session, Span::seconds(3600), bounds, &at.key("session"), report);
    let clients = raw.api_clients.iter().enumerate();
    let clients: Vec<Option<Arc<str>>> = clients
        .map(|(index, name)| plain(name, &at.key("api_clients").index(index), report))
        .collect();
    let step_up = raw.step_up.as_ref().map(|raw| step_up(raw, &at.key("step_up"), report));
    Some(Console {
        listen: listen?,
        public_url: public_url?,
        sign_in: sign_in?,
        session_ms,
        step_up: match step_up {
            None => None,
            Some(step_up) => Some(step_up?),
        },
        api_clients: clients.into_iter().collect::<Option<_>>()?,
    })
}

fn step_up(raw: &RawStepUp, at: &At, report: &mut Report) -> Option<StepUp> {
    let bounds = [Span::seconds(1), Span::seconds(43_200)];
    let max_age_ms = span(raw.max_age, Span::seconds(300), bounds, &at.key("max_age"), report);
    let values: Vec<Option<Arc<str>>> = raw
        .acr_values
        .iter()
        .enumerate()
        .map(|(index, value)| plain(value, &at.key("acr_values").index(index), report))
        .collect();
    let acr_values: Vec<Arc<str>> = values.into_iter().collect::<Option<_>>()?;
    // They are sent as one list with spaces between.
    if acr_values.iter().any(|value| value.contains(' ')) {
        report.problem(&at.key("acr_values"), "a class has a space in it", "write one a line");
        return None;
    }
    Some(StepUp { above: raw.above.0, max_age_s: max_age_ms / 1000, acr_values })
}

fn listener(
    raw: &RawConsole,
    whole: &Whole<'_>,
    at: &At,
    report: &mut Report,
) -> Option<SocketAddr> {
    let at = at.key("listen");
    let Ok(listen) = raw.listen.parse::<SocketAddr>() else {
        let message = format!("`{}` is not an IP address and a port", printable(&raw.listen));
        report.problem(&at, message, "write it as `127.0.0.1:8403`");
        return None;
    };
    if Some(listen) == whole.listen {
        let hint = "give the console an address or a port that agents do not use";
        report.problem(&at, "this is the public listener's address", hint);
        return None;
    }
    Some(listen)
}

/// How browsers reach it. Cookies and approvals must not travel unencrypted.
fn address(
    raw: &RawConsole,
    listen: Option<SocketAddr>,
    whole: &Whole<'_>,
    at: &At,
    report: &mut Report,
) -> Option<Arc<str>> {
    let at = at.key("public_url");
    let is_local = listen.is_some_and(|listen| listen.ip().is_loopback());
    let text = match (&raw.public_url, listen) {
        (Some(text), _) => text.clone(),
        (None, Some(listen)) if is_local => format!("http://{listen}"),
        (None, None) => return None,
        (None, Some(_)) => {
            let hint = "write the https URL of the proxy in front of it";
            report.problem(&at, "off loopback the console needs its `public_url`", hint);
            return None;
        }
    };
    let uri = web_url(&text, &at, report)?;
    let is_plain = uri.scheme_str() == Some("http");
    if is_plain && !(is_local && is_loopback(&uri)) {
        let hint = "put TLS in front and write `https://`";
        report.problem(&at, "people would sign in and approve unencrypted", hint);
        return None;
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        let hint = "write scheme, host and port only";
        report.problem(&at, "the console's URL has a path or a query", hint);
        return None;
    }
    let url = origin_of(&uri)?;
    if *url == *whole.public_url {
        let hint = "give it a host name or a port of its own";
        report.problem(&at, "this is where agents call: one origin for both is unsafe", hint);
        return None;
    }
    Some(url)
}

fn origin_of(uri: &Uri) -> Option<Arc<str>> {
    let authority = uri.authority()?.as_str().to_ascii_lowercase();
    Some(format!("{}://{authority}", uri.scheme_str()?).into())
}

fn sign_in(
    raw: &RawSignIn,
    whole: &Whole<'_>,
    vault: &Vault<'_>,
    at: &At,
    report: &mut Report,
) -> Option<SignIn> {
    let as_issuer = RawIssuer {
        issuer: raw.issuer.clone(),
        tenant: raw.tenant.clone(),
        tenant_claim: raw.tenant_claim.clone(),
        tenants: raw.tenants.clone(),
        roles_claim: raw.roles_claim.clone(),
        allow_private_network: raw.allow_private_network,
        ..RawIssuer::default()
    };
    let issuer = issuers::issuer(&as_issuer, whole.tenant, at, report);
    let client_id = plain(&raw.client_id, &at.key("client_id"), report);
    let secret = raw.client_secret.as_ref();
    let secret = secret.map(|secret| vault.open(secret, &at.key("client_secret"), report));
    let default = [String::from("profile")];
    let scopes = scopes(raw.scopes.as_deref().unwrap_or(&default), &at.key("scopes"), report);
    let issuer = issuer?;
    Some(SignIn {
        issuer: issuer.issuer,
        client_id: client_id?,
        client_secret: match secret {
            None => None,
            Some(secret) => Some(secret?),
        },
        scopes,
        tenant: issuer.tenant,
        roles_claim: issuer.roles_claim?,
        roles: roles(&raw.roles, &at.key("roles"), report)?,
        allow_private_network: issuer.allow_private_network,
    })
}

/// Which value of the claim gives which role. With none of them written, each role goes by its own
/// name; with one written, those left out are given to nobody.
fn roles(raw: &RawRoles, at: &At, report: &mut Report) -> Option<Vec<(Arc<str>, Role)>> {
    let written = [
        (Role::Approver, &raw.approver),
        (Role::Operator, &raw.operator),
        (Role::Auditor, &raw.auditor),
        (Role::Admin, &raw.admin),
    ];
    if written.iter().all(|(_, values)| values.is_none()) {
        return Some(Role::ALL.into_iter().map(|role| (role.text().into(), role)).collect());
    }
    let mut all = Vec::new();
    for (role, values) in written {
        for (index, value) in values.iter().flatten().enumerate() {
            let value = plain(value, &at.key(role.text()).index(index), report);
            all.push(value.map(|value| (value, role)));
        }
    }
    all.into_iter().collect()
}
