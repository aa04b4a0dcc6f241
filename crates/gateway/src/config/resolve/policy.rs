//! Policy: where the bundle is, who signs it, and who else is asked.

use super::{Vault, beside, secure_url};
use crate::config::{
    Pdp, PolicySource, RiskProvider,
    raw::{RawPdp, RawPolicy, RawRiskProvider},
    report::{At, Report},
    scalar::Span,
    tree::printable,
};
use countersign_core::audit::checkpoint::VerifierKey;
use http::HeaderValue;
use std::path::Path;

pub(super) fn source(raw: &RawPolicy, dir: &Path, report: &mut Report) -> PolicySource {
    let Some(written) = &raw.dir else { return PolicySource::Builtin };
    let path = beside(dir, written);
    if !path.is_dir() {
        let message = format!("`{}` is not a directory", printable(written));
        let hint = "give the bundle's directory, or leave `policy` out for the built-in one";
        report.problem(&At::top().key("policy").key("dir"), message, hint);
    }
    PolicySource::Dir(path)
}

pub(super) fn pdp(raw: Option<&RawPdp>, vault: &Vault<'_>, report: &mut Report) -> Option<Pdp> {
    let raw = raw?;
    let at = At::top().key("policy").key("pdp");
    let url = secure_url(&raw.url, &at.key("url"), report);
    let bearer = raw.bearer.as_ref().map(|bearer| vault.open(bearer, &at.key("bearer"), report));
    let timeout_ms = raw.timeout.map_or(500, |Span(ms)| ms);
    if !(10..=5_000).contains(&timeout_ms) {
        let message = "the time is not from 10ms to 5s";
        report.problem(&at.key("timeout"), message, "every call waits for the answer");
    }
    let (is_sole, allow_private_network) = (raw.sole, raw.allow_private_network);
    if is_sole {
        let message = "the policies of the bundle do not decide: nothing confirms, caps or taints";
        report.warn(&at.key("sole"), message, "leave `sole` out unless that service says it all");
    }
    // INVARIANT: what is written and cannot be used ends the configuration, it is not left out.
    Some(Pdp { url: url?, bearer: bearer.flatten(), timeout_ms, is_sole, allow_private_network })
}

pub(super) fn risk_provider(
    raw: Option<&RawRiskProvider>,
    vault: &Vault<'_>,
    report: &mut Report,
) -> Option<RiskProvider> {
    let raw = raw?;
    let at = At::top().key("policy").key("risk_provider");
    let url = secure_url(&raw.url, &at.key("url"), report);
    let opened = raw.authorization.as_ref().map(|value| {
        let value = vault.open(value, &at.key("authorization"), report);
        value.filter(|value| is_header(value.expose(), &at.key("authorization"), report))
    });
    let allow_private_network = raw.allow_private_network;
    Some(RiskProvider { url: url?, authorization: opened.flatten(), allow_private_network })
}

fn is_header(value: &str, at: &At, report: &mut Report) -> bool {
    let fits = HeaderValue::from_str(value).is_ok();
    if !fits {
        report.problem(at, "not the value of a header", "write `Bearer` and the token in one line");
    }
    fits
}

pub(super) fn key(raw: &RawPolicy, report: &mut Report) -> Option<VerifierKey> {
    let parsed = raw.key.as_deref()?.parse::<VerifierKey>();
    let told = |error| {
        let message = format!("not the public key of a signer: {error}");
        let hint = "write what `countersign policy key` prints: `name+hash+base64`";
        report.problem(&At::top().key("policy").key("key"), message, hint);
    };
    parsed.map_err(told).ok()
}
