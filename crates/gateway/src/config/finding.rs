//! What is wrong with a configuration, for the person who wrote it.
//!
//! INVARIANT: a finding never carries the value of a member that may hold a secret.

use std::fmt;

/// Most findings that are reported at once.
const MOST: usize = 40;

/// One problem, or one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `servers.weather.tools.get_forecast.price`; empty for the whole file.
    pub path: String,
    /// Line in the file, where it is known.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub suggestion: Option<String>,
}

/// Something that works, though perhaps not as meant.
pub type Warning = Finding;

impl Finding {
    /// A finding about the member at a path.
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), line: None, message: message.into(), suggestion: None }
    }

    /// Adds what to do.
    pub(super) fn hint(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds the line.
    pub(super) fn at_line(mut self, line: Option<u32>) -> Self {
        self.line = line;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// Why a configuration is refused: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub file: String,
    /// What is wrong, in the file's order; never empty.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub more: usize,
}

impl ConfigErrors {
    /// Sorts, and keeps the first [`MOST`].
    pub(super) fn new(file: impl Into<String>, mut findings: Vec<Finding>) -> Self {
        sort(&mut findings);
        let more = findings.len().saturating_sub(MOST);
        findings.truncate(MOST);
        Self { file: file.into(), findings, more }
    }
}

/// In the file's order; findings without a line by path, after the others.
pub(super) fn sort(findings: &mut Vec<Finding>) {
    findings
        .sort_by_cached_key(|f| (f.line.unwrap_or(u32::MAX), f.path.clone(), f.message.clone()));
    findings.dedup();
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.findings.len().saturating_add(self.more);
        let problems = if count == 1 { "problem" } else { "problems" };
        write!(f, "{}: {count} {problems}", self.file)?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The known word nearest to an unknown one, if any is near.
pub(super) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let lower: String = unknown.chars().take(64).flat_map(char::to_lowercase).collect();
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.chars().count() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}
