//! The words of intents (`intents.json` of a bundle): how a tool's name, a caller's declaration
//! and the arguments of a call are read.
//!
//! Names are read by whole words, never by parts of words; the most powerful word wins, and a
//! name without a known word is unknown, which counts as `execute`. Arguments only raise.
//!
//! Does not know what a tool really does. A name lies as easily as an annotation: what matters is
//! put in the operator's catalogue.

use super::{
    data::DataError,
    intent::{Annotations, Intent, IntentSource},
};
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// How names, declarations and arguments are read.
#[derive(Debug)]
pub struct Lexicon {
    words: HashMap<String, Intent>,
    sql: Sql,
    http: Escalator,
    recipients: Recipients,
    digest: Digest,
}

/// `intents.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    v: u32,
    /// Words of names, by intent.
    lexicon: BTreeMap<Intent, Vec<String>>,
    arguments: RawArguments,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawArguments {
    /// Statements of SQL.
    sql: RawSql,
    /// HTTP methods: the whole value counts.
    http: RawEscalator,
    /// Addresses of people.
    recipients: Recipients,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawEscalator {
    /// Arguments whose name has one of these words.
    names: Vec<String>,
    /// Words of their values, by the intent that they raise a call to.
    words: BTreeMap<Intent, Vec<String>>,
}

/// Every word of a statement counts, also within quotes and comments, since dialects differ in
/// what they take for one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawSql {
    /// Arguments whose name has one of these words hold statements.
    names: Vec<String>,
    /// Those whose name has one of these may hold words of people as well: a statement is told by
    /// its first word, and by a second one or by being short.
    perhaps: Vec<String>,
    /// First words of statements.
    openers: Vec<String>,
    /// Words that come later in statements.
    structure: Vec<String>,
    /// Words by the intent that they raise a call to.
    words: BTreeMap<Intent, Vec<String>>,
}

#[derive(Debug)]
struct Sql {
    sure: Escalator,
    perhaps: Vec<String>,
    openers: Vec<String>,
    structure: Vec<String>,
}

#[derive(Debug)]
struct Escalator {
    names: Vec<String>,
    words: HashMap<String, Intent>,
}

/// Arguments that name people.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Recipients {
    /// Arguments whose name has one of these words.
    names: Vec<String>,
    /// Mail domains of one's own, with their subdomains. None: nothing counts as outside.
    domains: Vec<String>,
    /// What a call is raised to when all recipients are of one's own domains.
    inside: Intent,
    /// What it is raised to when one is not.
    outside: Intent,
}

/// What the operator and the server say about one tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToolWord {
    /// The operator's catalogue.
    pub catalogue: Option<Intent>,
    /// The tool's annotations.
    pub annotations: Annotations,
    /// Whether the operator believes them.
    pub is_trusted: bool,
}

impl Lexicon {
    /// Reads `intents.json`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let raw: Raw = super::data::parse(text)?;
        super::data::version(raw.v)?;
        if raw.arguments.recipients.outside < raw.arguments.recipients.inside {
            return Err(DataError::rule("`outside` is less powerful than `inside`"));
        }
        Ok(Self {
            words: by_word(&raw.lexicon)?,
            sql: Sql::from_raw(raw.arguments.sql)?,
            http: Escalator::of(raw.arguments.http)?,
            recipients: raw.arguments.recipients,
            digest: Digest::of(text.as_bytes()),
        })
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The intent that free words declare: a word of the vocabulary, else as a name is read.
    #[must_use]
    pub fn declared(&self, words: &str) -> Intent {
        let known = Intent::from_text(words.trim());
        known.or_else(|| self.of_name(words)).unwrap_or(Intent::Execute)
    }

    /// What a tool does, as its name and those who speak for it say; the first of these that says
    /// something counts.
    #[must_use]
    pub fn of_tool(&self, name: &str, word: &ToolWord) -> (Intent, IntentSource) {
        if let Some(intent) = word.catalogue {
            return (intent, IntentSource::Catalogue);
        }
        let by_name = self.of_name(name);
        let hinted = hinted(&word.annotations, by_name);
        if let (true, Some(intent)) = (word.is_trusted, hinted) {
            return (intent, IntentSource::Annotations);
        }
        let (intent, source) = match by_name {
            Some(intent) => (intent, IntentSource::Lexicon),
            None => (Intent::Execute, IntentSource::Default),
        };
        // A server that nobody vouches for may only say that its tool does more.
        match hinted {
            Some(more) if more > intent => (more, source),
            Some(_) | None => (intent, source),
        }
    }

    /// What the arguments raise a call to, if anything.
    #[must_use]
    pub fn of_arguments(&self, arguments: &str) -> Option<Intent> {
        if arguments.len() <= 2 {
            return None;
        }
        // Not to be read: the parser before this one would have refused it.
        let Ok(value) = serde_json::from_str::<Value>(arguments) else {
            return Some(Intent::Execute);
        };
        let mut raised = None;
        self.look_at(&value, &mut raised);
        raised
    }

    fn look_at(&self, value: &Value, raised: &mut Option<Intent>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.look_at(item, raised)),
            Value::Object(members) => {
                for (name, value) in members {
                    let words = words_of(name);
                    let named = |names: &[String]| words.iter().any(|word| names.contains(word));
                    if named(&self.sql.sure.names) {
                        *raised = (*raised).max(texts(value, &|text| self.sql.of(text, true)));
                    }
                    if named(&self.sql.perhaps) {
                        *raised = (*raised).max(texts(value, &|text| self.sql.of(text, false)));
                    }
                    if named(&self.http.names) {
                        *raised = (*raised).max(texts(value, &|text| self.http.whole(text)));
                    }
                    if named(&self.recipients.names) {
                        *raised = (*raised).max(texts(value, &|text| self.recipients.of(text)));
                    }
                    self.look_at(value, raised);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The most powerful word of a name. One with letters beyond ASCII is not read at all: they
    /// can look like others.
    fn of_name(&self, name: &str) -> Option<Intent> {
        if !name.is_ascii() {
            return None;
        }
        words_of(name).iter().filter_map(|word| self.words.get(word).copied()).max()
    }
}

/// What annotations say a tool does; `by_name` tells harmless intents apart.
fn hinted(annotations: &Annotations, by_name: Option<Intent>) -> Option<Intent> {
    match (annotations.read_only_hint, annotations.destructive_hint) {
        (Some(true), _) => {
            Some(by_name.filter(|intent| !intent.can_change()).unwrap_or(Intent::Read))
        }
        (_, Some(true)) => Some(by_name.unwrap_or(Intent::Delete).max(Intent::Delete)),
        (Some(false), _) => Some(by_name.unwrap_or(Intent::Execute).max(Intent::Write)),
        (None, _) => None,
    }
}

impl Escalator {
    fn of(raw: RawEscalator) -> Result<Self, DataError> {
        Ok(Self { names: raw.names, words: by_word(&raw.words)? })
    }

    fn whole(&self, text: &str) -> Option<Intent> {
        self.words.get(&text.trim().to_ascii_lowercase()).copied()
    }
}

/// Words of a statement that is short enough to be one whatever it says.
const SHORT_WORDS: usize = 3;

impl Sql {
    fn from_raw(raw: RawSql) -> Result<Self, DataError> {
        Ok(Self {
            sure: Escalator { names: raw.names, words: by_word(&raw.words)? },
            perhaps: raw.perhaps,
            openers: raw.openers,
            structure: raw.structure,
        })
    }

    fn words(text: &str) -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
    }

    fn of(&self, text: &str, is_sure: bool) -> Option<Intent> {
        let words = Self::words(text);
        if !is_sure && !self.is_statement(&words) {
            return None;
        }
        words.iter().filter_map(|word| self.sure.words.get(word).copied()).max()
    }

    fn is_statement(&self, words: &[String]) -> bool {
        let opens = words.first().is_some_and(|first| self.openers.contains(first));
        let goes_on = words.iter().skip(1).any(|word| self.structure.contains(word));
        opens && (goes_on || words.len() <= SHORT_WORDS)
    }
}

impl Recipients {
    /// Of a text with addresses in it.
    fn of(&self, text: &str) -> Option<Intent> {
        let domains = text.split([',', ';', ' ', '<', '>', '"', '\t', '\n', '\r', '(', ')']);
        let mut domains = domains.filter_map(|word| word.rsplit_once('@')).map(|(_, at)| at);
        let first = domains.next()?;
        let is_own = |domain: &str| {
            let domain = domain.trim_end_matches('.').to_ascii_lowercase();
            self.domains.iter().any(|own| {
                domain == *own || domain.strip_suffix(own).is_some_and(|sub| sub.ends_with('.'))
            })
        };
        let all_own = self.domains.is_empty() || (is_own(first) && domains.all(is_own));
        Some(if all_own { self.inside } else { self.outside })
    }
}

/// The most powerful that `read` finds in the strings of a value.
fn texts(value: &Value, read: &impl Fn(&str) -> Option<Intent>) -> Option<Intent> {
    match value {
        Value::String(text) => read(text),
        Value::Array(items) => items.iter().filter_map(|item| texts(item, read)).max(),
        Value::Object(members) => members.values().filter_map(|item| texts(item, read)).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn by_word(lists: &BTreeMap<Intent, Vec<String>>) -> Result<HashMap<String, Intent>, DataError> {
    let mut words = HashMap::new();
    for (intent, list) in lists {
        for word in list {
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if word.is_empty() || !word.bytes().all(is_plain) {
                return Err(DataError::rule(format!("`{word}` is no lower-case word")));
            }
            if let Some(other) = words.insert(word.clone(), *intent)
                && other != *intent
            {
                let both = [other.text(), intent.text()].join("` and `");
                return Err(DataError::rule(format!("`{word}` stands under `{both}`")));
            }
        }
    }
    Ok(words)
}

/// Splits `getHTTPForecast_v2` into `get`, `http`, `forecast`, `v2`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut was_lower, mut was_upper) = (false, false);
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let ends_acronym = was_upper && rest.peek().is_some_and(|next| next.is_lowercase());
        let starts = c.is_uppercase() && (was_lower || ends_acronym);
        if !c.is_alphanumeric() || starts {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase() || c.is_ascii_digit();
        was_upper = c.is_uppercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests;
