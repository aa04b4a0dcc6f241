//! What the reasons of policies mean, in sentences for people (`reasons.json` of a bundle).

use super::data::{self, DataError};
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Sentences by the word of a policy's `@reason`.
#[derive(Debug)]
pub struct Reasons {
    sentences: BTreeMap<String, String>,
    digest: Digest,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    reasons: BTreeMap<String, String>,
}

/// The longest sentence, in bytes.
const SENTENCE_MAX: usize = 300;

impl Reasons {
    /// Reads `reasons.json`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let raw: Raw = data::parse(text)?;
        data::version(raw.v)?;
        for (word, sentence) in &raw.reasons {
            let is_plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            if word.is_empty() || !word.bytes().all(is_plain) {
                return Err(DataError::rule(format!(
                    "`{word}` is no word of `A`-`Z`, `0`-`9`, `_`"
                )));
            }
            let is_shown = !sentence.is_empty() && !sentence.chars().any(char::is_control);
            if sentence.len() > SENTENCE_MAX || !is_shown {
                let message = format!("`{word}`: a sentence has from 1 to {SENTENCE_MAX} bytes");
                return Err(DataError::rule(message));
            }
        }
        Ok(Self { sentences: raw.reasons, digest: Digest::of(text.as_bytes()) })
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What a reason means.
    #[must_use]
    pub fn sentence(&self, reason: &str) -> Option<&str> {
        self.sentences.get(reason).map(String::as_str)
    }

    /// Every reason that has a sentence.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.sentences.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::Reasons;

    #[test]
    fn reasons_are_words_with_sentences() {
        let text = include_str!("../../../gateway/policy/reasons.json");
        let reasons = Reasons::parse(text).unwrap();
        assert!(reasons.words().all(|word| reasons.sentence(word).is_some()));
        assert_eq!(reasons.sentence("NO_SUCH_REASON"), None);
        let refused = |text: &str| Reasons::parse(text).unwrap_err().to_string();
        assert!(refused(r#"{"v":1,"reasons":{"low":"x"}}"#).contains("`low` is no word"));
        assert!(refused(r#"{"v":1,"reasons":{"LOW":""}}"#).contains("from 1 to 300"));
    }
}
