//! Why a command ends before its work is done: an exit code, a sentence, and what to do next.

use super::out::{Out, note};
use crate::keys::OtherOrigin;
use countersign_client::{ClientError, Problem, exit, family_exit_code};
use countersign_core::refusal::Charged;
use countersign_store::OpenError;
use serde_json::json;
use std::{collections::BTreeMap, fmt};

/// The data directory cannot be used: the command and its configuration may be right.
const DATA: u8 = 18;
/// The gateway cannot serve, or can no longer: the command and its configuration may be right.
const SERVING: u8 = 19;

/// An end with an exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    exit: u8,
    code: Option<String>,
    message: String,
    next: Option<String>,
}

impl Stop {
    /// The command could not be done as it was asked for.
    #[must_use]
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// The arguments are no command.
    #[must_use]
    pub fn arguments(error: &clap::Error) -> Self {
        let page = error.to_string();
        let (mut said, mut next) = (Vec::new(), "see --help".to_owned());
        for line in page.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.strip_prefix("Usage: ") {
                Some(usage) => next = format!("usage: {usage}"),
                None if line.starts_with("For more information") => {}
                None => said.push(line.trim_start_matches("error: ")),
            }
        }
        Self::usage(said.join("; ")).coded("USAGE").next(next)
    }

    /// The gateway could not serve, or had to end.
    #[must_use]
    pub fn serving(error: &anyhow::Error) -> Self {
        Self::new(SERVING, format!("{error:#}")).coded("NOT-SERVING")
    }

    /// The far side did not answer.
    #[must_use]
    pub fn unreachable(message: impl fmt::Display) -> Self {
        Self::new(exit::UPSTREAM, message)
    }

    /// What was looked at is not as it should be; all is said already.
    #[must_use]
    pub const fn failed() -> Self {
        Self::silent(exit::TOOL_ERROR)
    }

    /// Nobody reads the output any more.
    #[must_use]
    pub const fn quiet() -> Self {
        Self::silent(exit::OK)
    }

    /// This program broke.
    #[must_use]
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(exit::TOOL_ERROR, error)
    }

    /// All is said already.
    #[must_use]
    pub const fn silent(exit: u8) -> Self {
        Self { exit, code: None, message: String::new(), next: None }
    }

    /// An end with a sentence. It has its exit code's word, and what to do of that, until it is
    /// given others.
    #[must_use]
    pub fn new(exit: u8, message: impl fmt::Display) -> Self {
        let (code, next) = said_of(exit);
        let [code, next] = [code, next].map(|text| text.map(str::to_owned));
        Self { exit, code, message: message.to_string(), next }
    }

    /// Adds a word for programs.
    #[must_use]
    pub fn coded(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> u8 {
        self.exit
    }

    /// Says it on the standard error: to people, unless programs read both outputs.
    pub fn say(&self, out: Out) {
        if self.message.is_empty() {
            return;
        }
        match out.beside() {
            Out::Text => note(&self.to_string()),
            Out::Json => {
                let parts = [
                    ("code", self.code.as_ref()),
                    ("message", Some(&self.message)),
                    ("next", self.next.as_ref()),
                ];
                let said = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
                let said: BTreeMap<&str, &String> = said.collect();
                note(&json!({ "error": said, "exit": self.exit }).to_string());
            }
        }
    }
}

/// The word and the advice of an exit code.
const fn said_of(code: u8) -> (Option<&'static str>, Option<&'static str>) {
    match code {
        exit::TOOL_ERROR => (Some("FAILED"), None),
        exit::USAGE => (Some("USAGE"), Some("see --help")),
        exit::PAYMENT => (Some("PAYMENT"), None),
        exit::IDENTITY => (Some("IDENTITY"), Some("give a token with --bearer")),
        exit::CONSENT => (Some("CONSENT"), None),
        exit::POLICY => (Some("POLICY"), None),
        exit::BUDGET => (Some("BUDGET"), None),
        exit::UPSTREAM => {
            (Some("UPSTREAM"), Some("check the address, and that an MCP server answers there"))
        }
        exit::UNKNOWN_SETTLEMENT => {
            (Some("UNKNOWN-SETTLEMENT"), Some("do not pay again: repeat the very same call"))
        }
        exit::REQUEST => (Some("REQUEST"), Some("see --help")),
        _ => (None, None),
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error: ")?;
        if let Some(code) = &self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Stop {}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        // The causes, from the outermost in.
        let said = format!("{error:#}");
        if let Some(OtherOrigin { of, .. }) = error.downcast_ref() {
            let next = format!("write `audit: {{ origin: {of} }}`, or choose a new `data_dir`");
            return Self::new(DATA, said).coded("DATA-OTHER-KEY").next(next);
        }
        match error.downcast_ref::<OpenError>() {
            Some(why) => Self::new(DATA, said).coded(why.code()).next(why.next()),
            None => Self::usage(said),
        }
    }
}

impl From<&Problem> for Stop {
    fn from(problem: &Problem) -> Self {
        let is_own = problem.code.starts_with("ADM-");
        let exit = match problem.charged {
            Some(Charged::Unknown) => exit::UNKNOWN_SETTLEMENT,
            _ if is_own => exit::USAGE,
            _ => family_exit_code(problem.family),
        };
        let next = match (&problem.next, &problem.url) {
            (Some(next), Some(url)) => Some(format!("{next} ({url})")),
            (next, url) => next.clone().or_else(|| url.clone()),
        };
        let stop = Self::new(exit, &problem.title);
        let code = Some(problem.code.clone()).filter(|code| !code.is_empty());
        Self { code: code.or(stop.code), next: next.or(stop.next), ..stop }
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        if let ClientError::Refused(problem) = &error {
            return Self::from(&**problem);
        }
        let stop = Self::new(error.exit_code(), &error);
        if matches!(error, ClientError::PlainHttp) {
            return stop.next("use https, or allow it with --allow-plain-http");
        }
        stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::refusal::{Code, Refusal};
    use serde_json::value::RawValue;

    fn problem(refusal: &Refusal) -> Problem {
        let text = serde_json::to_string(&refusal.problem()).unwrap();
        Problem::parse(&RawValue::from_string(text).unwrap()).unwrap()
    }

    #[test]
    fn refusals_end_with_their_family_s_code_and_what_to_do() {
        let stop = Stop::from(&problem(&Refusal::new(Code::NoGrant)));
        assert_eq!(stop.exit(), 12);
        expect_test::expect![[r#"
            error: CNS-001: no grant covers this call
              next: approve a grant for this agent and tool"#]]
        .assert_eq(&stop.to_string());
        let unknown = Refusal::new(Code::UpstreamTimeout).charged(Charged::Unknown);
        assert_eq!(Stop::from(&problem(&unknown)).exit(), 16);
    }
}
