//! Which era a message speaks, and the headers that go with it.
//!
//! INVARIANT: the body decides; headers are only checked against it, and what nothing has compared
//! with the body is not forwarded.

use countersign_core::{
    call::Era,
    refusal::{Code, Refusal},
    wire::{
        headers::{METHOD, MirrorError, Mirrored, Mirrors, check_param},
        jsonrpc,
        mcp::{Meta, Modern},
    },
};
use http::{HeaderMap, HeaderName, request::Parts};
use std::borrow::Cow;

/// Which era the message speaks, with its mirrored headers checked against the body; those of
/// arguments against what `schema` says that they mirror.
pub(super) fn era(
    head: &Parts,
    request: &jsonrpc::Request<'_>,
    meta: &Meta<'_>,
    schema: &[Mirrored],
) -> Result<Era, Refusal> {
    let modern = Modern::of(meta)
        .map_err(|error| Refusal::new(Code::MissingModernMeta).with("detail", error))?;
    let Some(modern) = modern else { return legacy(&head.headers, &request.method) };
    let mirrors = Mirrors {
        protocol_version: single(&head.headers, "mcp-protocol-version")?,
        method: single(&head.headers, "mcp-method")?,
        name: single(&head.headers, "mcp-name")?,
    };
    let differs = |error| Refusal::new(Code::HeaderMismatch).with("detail", error);
    mirrors.check(&request.method, request.params, &modern.protocol_version).map_err(differs)?;
    for mirrored in schema {
        let said = single(&head.headers, &mirrored.header)?;
        mirrored.check(said, request.params).map_err(differs)?;
    }
    let is_known = |name: &HeaderName| schema.iter().any(|known| known.header == name.as_str());
    for name in head.headers.keys().filter(|name| is_param(name) && !is_known(name)) {
        let value = single(&head.headers, name.as_str())?.unwrap_or_default();
        check_param(value, request.params).map_err(differs)?;
    }
    Ok(Era::Modern)
}

/// A request without the modern members is a legacy one, unless its headers are of the modern era:
/// who routes by them must not be told another era than who reads the body. `initialize` is how
/// the legacy era opens, whatever the client goes on to speak.
fn legacy(headers: &HeaderMap, method: &str) -> Result<Era, Refusal> {
    let version = single(headers, "mcp-protocol-version")?;
    let is_modern = version.is_some_and(|version| version >= MODERN)
        || single(headers, "mcp-method")?.is_some();
    if is_modern && method != "initialize" {
        let detail = "the headers are of a protocol that wants members in `_meta`";
        return Err(Refusal::new(Code::MissingModernMeta).with("detail", detail));
    }
    Ok(Era::Legacy)
}

/// The first protocol version that mirrors its requests in headers. Versions are dates: later ones
/// sort behind it.
const MODERN: &str = "2026-07-28";

/// The headers to forward. In the legacy era nothing has compared the mirrored ones with the body,
/// so they stay here.
pub(super) fn forwardable(headers: &HeaderMap, era: Era) -> Cow<'_, HeaderMap> {
    let is_mirror = |name: &str| name.starts_with("mcp-name") || name.starts_with("mcp-method");
    let has_mirror = headers.keys().any(|name| is_mirror(name.as_str()) || is_param(name));
    if era == Era::Modern || !has_mirror {
        return Cow::Borrowed(headers);
    }
    let kept = headers.iter().filter(|(name, _)| !is_mirror(name.as_str()) && !is_param(name));
    Cow::Owned(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The headers to forward with what is no request: of a notification its method may be mirrored,
/// and is compared; nothing else is, so it stays here.
pub(super) fn forwardable_beside<'a>(
    headers: &'a HeaderMap,
    method: Option<&str>,
) -> Result<Cow<'a, HeaderMap>, Refusal> {
    let said = single(headers, "mcp-method")?;
    let mut kept = forwardable(headers, Era::Legacy);
    if let Some((said, method)) = said.zip(method) {
        if said != method {
            let differs = MirrorError::Differs { header: METHOD };
            return Err(Refusal::new(Code::HeaderMismatch).with("detail", differs));
        }
        let mirror = HeaderName::from_static("mcp-method");
        kept.to_mut().extend(headers.get(&mirror).map(|value| (mirror, value.clone())));
    }
    Ok(kept)
}

fn is_param(name: &HeaderName) -> bool {
    name.as_str().starts_with("mcp-param-")
}

/// The value of a header that may be there once.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Code::AmbiguousHeaders).with("header", name));
    }
    first
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| Refusal::new(Code::HeaderMismatch).with("header", name))
}
