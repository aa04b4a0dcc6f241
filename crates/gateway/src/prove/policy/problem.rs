//! What can be wrong with a bundle, and where.

use cedar_policy::ffi::DetailedError;
use countersign_core::policy::Obligation;
use std::fmt;

/// A bundle that was refused, with everything that is wrong with it, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLoadError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// In which file.
    pub source: Source,
    /// Where, if it can be said.
    pub place: Option<Place>,
    /// The policy's id, if it has one.
    pub policy: Option<String>,
    /// What.
    pub flaw: Flaw,
}

/// A file of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The schema.
    Schema,
    /// The policies.
    Policies,
    /// A file with numbers or words.
    Data(&'static str),
}

/// A line and a column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What is wrong. Texts are Cedar's own, or the words that were found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// The text does not parse.
    Syntax(String),
    /// Numbers or words are not as they must be.
    Data(String),
    /// The policy does not fit the schema, or can never apply.
    Invalid(String),
    /// The schema does not fit what the gateway says about a call.
    Misfit(String),
    /// A template: there is nothing here that links one.
    Template,
    /// No `@id`.
    NoId,
    /// An `@id` that is not a plain word.
    BadId(String),
    /// A second policy with this `@id`.
    DuplicateId,
    /// No `@reason`.
    NoReason,
    /// A `@reason` that is not an upper-case word.
    BadReason(String),
    /// An annotation that means nothing here.
    UnknownAnnotation(String),
    /// An `@obligation` that does not exist.
    UnknownObligation(String),
    /// An `@obligation` on a `permit`.
    ObligationOnPermit,
    /// `@params` without `@obligation`.
    ParamsAlone,
    /// `@params` that do not fit the obligation.
    BadParams(String),
    /// An annotated forbid without its escape; carries the obligation.
    NoEscape(String),
    /// `context.fulfilled` anywhere else than in the escape.
    FulfilledElsewhere,
    /// `context` as a value of its own.
    WholeContext,
    /// An operator that can fail.
    Operator(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(text) | Self::Invalid(text) | Self::Data(text) => f.write_str(text),
            Self::Misfit(text) => {
                write!(f, "the schema does not fit what the gateway says about a call: {text}")
            }
            Self::Template => f.write_str("templates are not supported: write the policy out"),
            Self::NoId => f.write_str("the policy has no `@id(\"...\")`"),
            Self::BadId(id) => {
                write!(f, "`@id` is `{id}`: use up to 128 letters, digits and `.`, `-`, `_`, `/`")
            }
            Self::DuplicateId => f.write_str("another policy above has the same `@id`"),
            Self::NoReason => f.write_str("the policy has no `@reason(\"...\")`"),
            Self::BadReason(reason) => {
                write!(f, "`@reason` is `{reason}`: use up to 64 of `A`-`Z`, `0`-`9`, `_`")
            }
            Self::UnknownAnnotation(name) => {
                write!(f, "unknown annotation `@{name}`: use id, reason, obligation, params")
            }
            Self::UnknownObligation(word) => {
                write!(
                    f,
                    "unknown obligation `{word}`: use one of {}",
                    Obligation::WORDS.join(", ")
                )
            }
            Self::ObligationOnPermit => {
                f.write_str("a `permit` cannot carry an `@obligation`: put it on a `forbid`")
            }
            Self::ParamsAlone => f.write_str("`@params` without an `@obligation`"),
            Self::BadParams(text) => write!(f, "`@params` do not fit the obligation: {text}"),
            Self::NoEscape(word) => write!(
                f,
                "needs a clause `unless {{ context.fulfilled.contains(\"{word}\") }}` of its own"
            ),
            Self::FulfilledElsewhere => f.write_str(
                "`context.fulfilled` may only stand in the `unless` of its own `@obligation`",
            ),
            Self::WholeContext => f.write_str("`context` may only be used by its members"),
            Self::Operator(operator) => write!(
                f,
                "`{operator}` may not be used: it can fail, and Cedar skips a rule that fails"
            ),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::Schema => f.write_str("schema")?,
            Source::Policies => f.write_str("policies")?,
            Source::Data(name) => f.write_str(name)?,
        }
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        match &self.policy {
            Some(policy) => write!(f, ": `{policy}`: {}", self.flaw),
            None => write!(f, ": {}", self.flaw),
        }
    }
}

impl fmt::Display for PolicyLoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let line_break = if at == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyLoadError {}

impl Place {
    /// The place of a byte offset; past the end, the end.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.get(line_start..).map_or(0, |rest| rest.chars().count());
        Self { line, column: column.saturating_add(1) }
    }
}

/// Cedar's message and its place, with the messages inside it. It quotes the file: what could
/// make a terminal show something else is escaped.
pub(super) fn told(error: &DetailedError, text: &str) -> Vec<(Option<Place>, String)> {
    let place = error.source_locations.first().map(|label| Place::of(text, label.loc.start));
    let message = match &error.help {
        Some(help) => format!("{} ({help})", error.message),
        None => error.message.clone(),
    };
    let is_sly = |c: &char| c.is_control() || ('\u{200b}'..='\u{206f}').contains(c);
    let shown = |c: char| if is_sly(&c) { c.escape_unicode().to_string() } else { c.to_string() };
    let message = message.chars().map(shown).collect();
    let related = error.related.iter().flat_map(|inner| told(inner, text));
    std::iter::once((place, message)).chain(related).collect()
}
