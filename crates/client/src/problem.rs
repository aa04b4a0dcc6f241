//! Refusals as a client reads them: problem details of this gateway, and what HTTP alone says.
//!
//! Owns the mapping from codes and statuses to families. Anything unknown is kept as text.
//!
//! INVARIANT: whether money moved is never guessed to be "no": what is not said is `None`, and a
//! word that is not known reads as unknown.

use countersign_core::refusal::{Charged, Code, Family};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt;

/// The `_meta` member that holds the problem details of a refusal.
pub const REFUSAL_META: &str = "countersign/refusal";

/// One refusal, as the server told it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Stable code, `PAY-003`; empty when the server gave none.
    pub code: String,
    /// The same, if this version knows it.
    pub known: Option<Code>,
    /// Which part of the path says no.
    pub family: Family,
    /// Public sentence.
    pub title: String,
    /// HTTP status.
    pub status: Option<u16>,
    /// Whether money moved, if the server said so.
    pub charged: Option<Charged>,
    /// Can the same request succeed later.
    pub retryable: bool,
    /// Seconds to wait.
    pub retry_after_s: Option<u64>,
    /// What to do.
    pub next: Option<String>,
    /// Where to do it.
    pub url: Option<String>,
    /// The call, as the server names it.
    pub call_id: Option<String>,
    /// The object itself, if there was one.
    pub raw: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Wire {
    code: String,
    #[serde(default)]
    title: String,
    detail: Option<String>,
    status: Option<u16>,
    charged: Option<String>,
    #[serde(default)]
    retryable: bool,
    retry_after: Option<u64>,
    next: Option<NextWire>,
    call_id: Option<String>,
}

#[derive(Deserialize)]
struct NextWire {
    action: Option<String>,
    url: Option<String>,
}

impl Problem {
    /// Reads problem details; `None` when the object has no `code` of that kind.
    #[must_use]
    pub fn parse(raw: &RawValue) -> Option<Self> {
        let wire: Wire = serde_json::from_str(raw.get()).ok()?;
        let known = Code::from_text(&wire.code);
        let family = known.map(|code| code.row().family);
        let family = family.or_else(|| family_of_prefix(&wire.code));
        let (next, url) = wire.next.map(|next| (next.action, next.url)).unwrap_or_default();
        Some(Self {
            family: family.or_else(|| wire.status.map(family_of_status))?,
            known,
            code: wire.code,
            title: match wire.detail {
                Some(detail) => format!("{}: {detail}", wire.title),
                None => wire.title,
            },
            status: wire.status,
            charged: wire.charged.as_deref().map(charged_of),
            retryable: wire.retryable,
            retry_after_s: wire.retry_after,
            next,
            url,
            call_id: wire.call_id,
            raw: Some(raw.to_owned()),
        })
    }

    /// What an HTTP status says by itself.
    #[must_use]
    pub fn of_status(status: u16, title: &str) -> Self {
        Self {
            code: String::new(),
            known: None,
            family: family_of_status(status),
            title: title.to_owned(),
            status: Some(status),
            charged: None,
            retryable: matches!(status, 402 | 429 | 503),
            retry_after_s: None,
            next: None,
            url: None,
            call_id: None,
            raw: None,
        }
    }

    /// A denial with a link to where a person can agree (JSON-RPC −32042, MCP 2025-11-25).
    #[must_use]
    pub(crate) fn of_elicitation(message: &str, url: Option<String>) -> Self {
        let mut problem = Self::of_status(403, message);
        problem.family = Family::Consent;
        problem.retryable = true;
        problem.url = url;
        problem
    }

    /// The same request with the same payment is what the server asks for. Where it says that a
    /// repetition cannot succeed, there is none, whatever became of the money.
    pub(crate) fn asks_to_repeat(&self) -> bool {
        let waits =
            [Code::SettlementUnknown, Code::FacilitatorDown, Code::InProgress, Code::DecisionStale];
        self.retryable && self.charged == Some(Charged::Unknown)
            || self.known.is_some_and(|code| waits.contains(&code))
    }

    /// The L402 credential that was shown is no good, whatever it cost.
    pub(crate) fn refuses_credential(&self) -> bool {
        let bad = [
            Code::CredentialInvalid,
            Code::CaveatUnknown,
            Code::PreimageMismatch,
            Code::CredentialExhausted,
        ];
        self.known.is_some_and(|code| bad.contains(&code))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.is_empty(), self.status) {
            (false, _) => write!(f, "{}: {}", self.code, self.title)?,
            (true, Some(status)) => write!(f, "HTTP {status}: {}", self.title)?,
            (true, None) => f.write_str(&self.title)?,
        }
        if let Some(next) = &self.next {
            write!(f, "; {next}")?;
        }
        if let Some(url) = &self.url {
            write!(f, " ({url})")?;
        }
        Ok(())
    }
}

fn charged_of(text: &str) -> Charged {
    match text {
        "no" => Charged::No,
        "yes" => Charged::Yes,
        "unused" => Charged::Unused,
        _ => Charged::Unknown,
    }
}

/// Codes of a later version keep their families.
fn family_of_prefix(code: &str) -> Option<Family> {
    match code.split_once('-')?.0 {
        "REQ" => Some(Family::Request),
        "IDN" => Some(Family::Identity),
        "CNS" => Some(Family::Consent),
        "PAY" => Some(Family::Payment),
        "POL" => Some(Family::Policy),
        "BUD" => Some(Family::Budget),
        "UPS" => Some(Family::Upstream),
        "SYS" => Some(Family::Fault),
        "ADM" => Some(Family::Admin),
        _ => None,
    }
}

const fn family_of_status(status: u16) -> Family {
    match status {
        401 => Family::Identity,
        402 => Family::Payment,
        403 => Family::Policy,
        429 => Family::Budget,
        400..=499 => Family::Request,
        _ => Family::Upstream,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::refusal::Refusal;

    #[test]
    fn every_refusal_of_the_gateway_reads_back() {
        for code in Code::ALL {
            let refusal = Refusal::new(*code).charged(Charged::Unused).retry_after_s(3);
            let text = serde_json::to_string(&refusal.problem()).unwrap();
            let raw: Box<RawValue> = serde_json::from_str(&text).unwrap();
            let problem = Problem::parse(&raw).unwrap();
            assert_eq!(problem.known, Some(*code));
            assert_eq!(problem.family, code.row().family);
            assert_eq!(problem.charged, Some(Charged::Unused));
            assert_eq!((problem.retry_after_s, problem.status), (Some(3), Some(code.row().status)));
            assert_eq!(Some(code.row().family), family_of_prefix(code.text()));
        }
    }

    #[test]
    fn what_is_not_known_is_never_taken_for_no() {
        let parse =
            |text: &str| Problem::parse(&serde_json::from_str::<Box<RawValue>>(text).unwrap());
        let later = parse(r#"{"code":"PAY-999","charged":"perhaps"}"#).unwrap();
        assert_eq!((later.family, later.charged), (Family::Payment, Some(Charged::Unknown)));
        assert!(!later.asks_to_repeat(), "nothing says that it may be repeated");
        let later = parse(r#"{"code":"PAY-999","charged":"perhaps","retryable":true}"#).unwrap();
        assert!(later.asks_to_repeat());
        assert_eq!(parse(r#"{"code":"PAY-999"}"#).unwrap().charged, None);
        assert!(parse(r#"{"code":"what"}"#).is_none());
        assert!(parse("{}").is_none());
    }
}
