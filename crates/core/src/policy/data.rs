//! The data files of a bundle beside its policies: how they are read.
//!
//! INVARIANT: a file with an unknown member, another version or a number that makes no sense is
//! refused whole.

use serde::de::DeserializeOwned;
use std::fmt;

/// The version of the files' forms.
const VERSION: u32 = 1;

/// What is wrong with a data file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataError {
    /// Line and column, both from 1, where they can be said.
    pub place: Option<(usize, usize)>,
    /// What.
    pub message: String,
}

impl DataError {
    /// Something that the form allows and sense does not.
    pub(super) fn rule(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into() }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{line}:{column}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for DataError {}

pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, DataError> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let at = format!(" at line {} column {}", error.line(), error.column());
        let message = message.strip_suffix(&at).unwrap_or(&message).to_owned();
        DataError { place: Some((error.line(), error.column())), message }
    })
}

pub(super) fn version(v: u32) -> Result<(), DataError> {
    if v == VERSION {
        return Ok(());
    }
    Err(DataError::rule(format!("version {v} is unknown: this is version {VERSION}")))
}
