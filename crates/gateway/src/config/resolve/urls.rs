//! URLs as they may be written: the gateway's own, and those of whom it asks.

use crate::config::{
    report::{At, Report},
    tree::printable,
};
use http::Uri;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub(super) fn public_url(
    written: Option<&str>,
    listen: Option<SocketAddr>,
    report: &mut Report,
) -> Option<Arc<str>> {
    let at = At::top().key("public_url");
    let Some(text) = written else {
        let listen = listen?;
        if listen.ip().is_unspecified() || listen.port() == 0 {
            let message = "`public_url` is missing, and `listen` does not say how to get here";
            report.problem(&at, message, "write it as `https://gateway.example.com`");
            return None;
        }
        return Some(format!("http://{listen}").into());
    };
    let uri = web_url(text, &at, report)?;
    let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
    if has_path {
        let hint = "write scheme, host and port only; each server is at `/{name}/mcp` below it";
        report.problem(&at, "the public URL has a path or a query", hint);
        return None;
    }
    if uri.scheme_str() == Some("http") && !is_loopback(&uri) {
        let hint = "put TLS in front and write `https://`";
        report.warn(&at, "tokens and payments would travel unencrypted", hint);
    }
    let authority = uri.authority()?.as_str().to_ascii_lowercase();
    Some(format!("{}://{authority}", uri.scheme_str()?).into())
}

/// An `http` or `https` URL without user or fragment.
pub(super) fn web_url(text: &str, at: &At, report: &mut Report) -> Option<Uri> {
    let parsed = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|h| !h.is_empty()));
    let Some(uri) = parsed.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https"))) else {
        let message = format!("`{}` is not an http or https URL", without_user(text));
        report.problem(at, message, "write it as `https://host.example.com/path`");
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let hint = "remove `user:password@`; secrets are given by reference";
        report.problem(at, "a secret must not stand in this file", hint);
        return None;
    }
    if text.contains('#') {
        report.problem(at, "the URL has a fragment", "remove `#` and what follows");
        return None;
    }
    Some(uri)
}

/// A URL as it may be shown: nothing before an `@`, no query.
pub(super) fn without_user(text: &str) -> String {
    let text = text.rsplit('@').next().unwrap_or(text);
    printable(text.split('?').next().unwrap_or(text))
}

/// Like [`web_url`], but plain `http` only on loopback.
pub(super) fn secure_url(text: &str, at: &At, report: &mut Report) -> Option<Uri> {
    let uri = web_url(text, at, report)?;
    if uri.scheme_str() == Some("http") && !is_loopback(&uri) {
        report.problem(at, "plain http is accepted on loopback only", "write `https://`");
        return None;
    }
    Some(uri)
}

/// Whether a URL's host is this machine, by what is written.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}
