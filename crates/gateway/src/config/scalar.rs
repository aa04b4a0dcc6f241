//! Values that are written as text: spans, sizes, references to secrets, addresses.
//!
//! Each has one parser, used both to check a file and to read it.

use countersign_core::money::{self, Micros};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};
use sha3::{Digest as _, Keccak256};
use std::{borrow::Cow, fmt, sync::Arc};

/// Kinds of text, as the schema's `format` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Span,
    Size,
    Usd,
    Secret,
}

impl Kind {
    pub(super) fn of_format(format: &str) -> Option<Self> {
        [Self::Span, Self::Size, Self::Usd, Self::Secret]
            .into_iter()
            .find(|kind| kind.format() == format)
    }

    const fn format(self) -> &'static str {
        match self {
            Self::Span => "duration-text",
            Self::Size => "size-text",
            Self::Usd => "usd-text",
            Self::Secret => "secret-reference",
        }
    }

    /// What is wrong with a text of this kind: a sentence and a suggestion. Never quotes what
    /// may be a secret.
    pub(super) fn problem(self, text: &str) -> Option<(String, &'static str)> {
        match self {
            Self::Span => Span::parse(text).is_none().then(|| {
                (
                    format!("`{}` is not a duration", clip(text)),
                    "write it as `500ms`, `30s`, `15m`, `24h` or `7d`",
                )
            }),
            Self::Size => Size::parse(text).is_none().then(|| {
                (
                    format!("`{}` is not a size", clip(text)),
                    "write it as `512 B`, `64 KiB` or `1 MiB`",
                )
            }),
            Self::Usd => Usd::parse(text).is_err().then(|| {
                let message = format!("`{}` is not an amount in USD", clip(text));
                (message, "write it as `10 USD` or `0.50 USD`")
            }),
            Self::Secret => SecretRef::parse(text).is_none().then(|| {
                (
                    "a secret must not stand in this file".to_owned(),
                    "refer to it as `env:NAME` or `file:PATH`",
                )
            }),
        }
    }
}

fn clip(text: &str) -> String {
    super::tree::printable(text)
}

macro_rules! text_schema {
    ($name:ident, $kind:expr, $title:literal, $pattern:literal, $examples:tt) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "format": $kind.format(),
                    "description": $title,
                    "pattern": $pattern,
                    "examples": $examples,
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| D::Error::custom($title))
            }
        }
    };
}

/// A length of time in milliseconds: `15m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub(super) u64);

impl Span {
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    fn parse(text: &str) -> Option<Self> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(unit_at);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        if number.len() > 1 && number.starts_with('0') {
            return None;
        }
        number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Self)
    }
}

/// As people write it, in the largest unit that fits.
pub(super) fn show_span(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = |(unit, _): &&(u64, &str)| ms >= *unit && ms.is_multiple_of(*unit);
    match units.iter().find(fits) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

text_schema!(
    Span,
    Kind::Span,
    "a duration: a whole number and `ms`, `s`, `m`, `h` or `d`",
    "^(0|[1-9][0-9]*)(ms|s|m|h|d)$",
    ["500ms", "30s", "15m", "24h", "7d"]
);

/// A number of bytes: `1 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(unit_at);
        let factor: usize = match unit {
            " B" => 1,
            " KiB" => 1 << 10,
            " MiB" => 1 << 20,
            _ => return None,
        };
        number.parse::<usize>().ok()?.checked_mul(factor).map(Self)
    }
}

/// As people write it.
pub(super) fn show_size(bytes: usize) -> String {
    let units = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = |(unit, _): &&(usize, &str)| bytes >= *unit && bytes.is_multiple_of(*unit);
    match units.iter().find(fits) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

text_schema!(
    Size,
    Kind::Size,
    "a size: a whole number and `KiB` or `MiB`",
    "^[0-9]+ (B|KiB|MiB)$",
    ["64 KiB", "1 MiB"]
);

/// An amount in the reference currency: `10 USD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usd(pub(super) Micros);

impl Usd {
    fn parse(text: &str) -> Result<Self, money::MoneyError> {
        // The unit is required here: a bare number in a file is a mistake waiting.
        if !text.ends_with(" USD") {
            return Err(money::MoneyError::Shape);
        }
        money::parse_micros(text).map(Self)
    }
}

impl From<Usd> for Micros {
    fn from(usd: Usd) -> Self {
        usd.0
    }
}

impl JsonSchema for Usd {
    fn schema_name() -> Cow<'static, str> {
        "Usd".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": Kind::Usd.format(),
            "description": "an amount in the reference currency: a decimal number and `USD`",
            "pattern": "^(0|[1-9][0-9]*)(\\.[0-9]{1,6})? USD$",
            "examples": ["10 USD", "0.50 USD"],
        })
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Where a secret is: `env:NAME` or `file:PATH`, after one word if it is a header
/// (`Bearer env:NAME`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretRef {
    pub(super) scheme: Option<String>,
    pub(super) place: Place,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Env(String),
    File(String),
}

impl SecretRef {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, reference) = match text.split_once(' ') {
            Some((scheme, rest)) if ["Bearer", "Basic"].contains(&scheme) => {
                (Some(scheme.to_owned()), rest)
            }
            _ => (None, text),
        };
        let place = match reference.split_once(':')? {
            ("env", name) if is_env_name(name) => Place::Env(name.to_owned()),
            ("file", path) if is_file_path(path) => Place::File(path.to_owned()),
            _ => return None,
        };
        Some(Self { scheme, place })
    }
}

fn is_env_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && name.bytes().all(word) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn is_file_path(path: &str) -> bool {
    !path.is_empty() && !path.contains(char::is_control)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

text_schema!(
    SecretRef,
    Kind::Secret,
    "a reference to a secret: `env:NAME` or `file:PATH`",
    "^((Bearer|Basic) )?(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$",
    ["env:UPSTREAM_TOKEN", "file:secrets/token"]
);

/// A secret's value. Shows only where it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: Arc<str>,
    origin: Arc<str>,
}

impl Secret {
    pub(super) fn new(value: &str, origin: &Place) -> Self {
        Self { value: value.into(), origin: origin.to_string().into() }
    }

    /// The value. For the one place that sends or signs with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.origin)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.origin)
    }
}

/// An EVM address in its checksummed form (EIP-55).
///
/// # Errors
/// What is wrong: the shape, or a checksum that does not fit (a typing mistake).
pub(super) fn evm_address(text: &str) -> Result<String, &'static str> {
    let shape = "it is not `0x` and 40 hex characters";
    let digits = text.strip_prefix("0x").ok_or(shape)?;
    if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(shape);
    }
    let lower = digits.to_ascii_lowercase();
    if lower.bytes().all(|b| b == b'0') {
        return Err("it is the zero address");
    }
    let hash = hex::encode(Keccak256::digest(lower.as_bytes()));
    let raise = |(c, h): (char, char)| if h >= '8' { c.to_ascii_uppercase() } else { c };
    let checked: String = lower.chars().zip(hash.chars()).map(raise).collect();
    let is_one_case = digits == lower || digits == digits.to_ascii_uppercase();
    if is_one_case || digits == checked {
        Ok(format!("0x{checked}"))
    } else {
        Err("its checksum (EIP-55) does not fit: a character is wrong")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_and_have_a_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("15m", 900_000), ("7d", 604_800_000)] {
            assert_eq!(Span::parse(text), Some(Span(ms)), "{text}");
            assert_eq!(show_span(ms), text);
        }
        assert_eq!(show_span(90_000), "90s");
        let bad =
            ["", "5", "s", "1.5s", "-1s", "+1s", "01s", "1 s", "1M", "1y", "99999999999999999999s"];
        for text in bad {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_references_and_never_shown() {
        for text in ["env:TOKEN", "file:secrets/token", "Bearer env:TOKEN", "Basic file:/x"] {
            assert!(SecretRef::parse(text).is_some(), "{text}");
        }
        let bad = ["hunter2", "env:", "env:1A", "env:A B", "file:", "Env:A", "Token env:A", "$A"];
        for text in bad {
            assert!(SecretRef::parse(text).is_none(), "{text}");
            let (message, hint) = Kind::Secret.problem(text).unwrap();
            assert!(!message.contains(text) && !hint.contains("hunter2"));
        }
        let secret = Secret::new("hunter2", &Place::Env("TOKEN".into()));
        assert_eq!(format!("{secret:?} {secret}"), "Secret(env:TOKEN) env:TOKEN");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""env:TOKEN""#);
    }

    /// The examples of EIP-55.
    #[test]
    fn addresses_are_checked() {
        let good = [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ];
        for address in good {
            assert_eq!(evm_address(address).as_deref(), Ok(address));
            assert_eq!(evm_address(&address.to_lowercase()).as_deref(), Ok(address));
        }
        assert!(evm_address("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD").is_err(), "one letter");
        assert!(evm_address("0x0000000000000000000000000000000000000000").is_err());
        assert!(evm_address("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed").is_err());
    }
}
