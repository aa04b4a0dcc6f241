//! The headers in which a modern (2026-07-28) MCP request mirrors its body, for routers that do
//! not parse bodies.
//!
//! Owns the comparison, and the encoding of values. Rule on a header and forward the body, and the
//! two must be one: any absence or difference is refused (HTTP 400, JSON-RPC
//! [`HEADER_MISMATCH`]). Legacy requests have no mirrors, and theirs are not to be trusted.

use super::{
    base64,
    object::{Members, unquote},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// JSON-RPC code for headers that do not mirror the body.
pub const HEADER_MISMATCH: i64 = -32020;
/// Name of the header with the protocol version.
pub const PROTOCOL_VERSION: &str = "MCP-Protocol-Version";
/// Name of the header with the method.
pub const METHOD: &str = "Mcp-Method";
/// Name of the header with the tool, prompt, resource or task.
pub const NAME: &str = "Mcp-Name";
/// Prefix of the headers that mirror arguments annotated with `x-mcp-header`.
pub const PARAM: &str = "Mcp-Param-";

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

/// The mirror headers as received. The caller refuses a header that is there twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mirrors<'a> {
    /// `MCP-Protocol-Version`.
    pub protocol_version: Option<&'a str>,
    /// `Mcp-Method`.
    pub method: Option<&'a str>,
    /// `Mcp-Name`.
    pub name: Option<&'a str>,
}

/// Why the headers do not mirror the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorError {
    /// Required, and not there.
    Missing {
        /// Which header.
        header: &'static str,
    },
    /// There, but not decodable, or there without an argument to mirror.
    Malformed {
        /// Which header.
        header: &'static str,
    },
    /// Says something else than the body.
    Differs {
        /// Which header.
        header: &'static str,
    },
}

impl fmt::Display for MirrorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { header } => write!(f, "the header `{header}` is missing"),
            Self::Malformed { header } => write!(f, "the header `{header}` cannot be read"),
            Self::Differs { header } => write!(f, "the header `{header}` differs from the body"),
        }
    }
}

impl std::error::Error for MirrorError {}

impl Mirrors<'_> {
    /// Compares the headers with a body's method, params and `_meta` protocol version.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub fn check(
        &self,
        method: &str,
        params: Option<&RawValue>,
        protocol_version: &str,
    ) -> Result<(), MirrorError> {
        equal(PROTOCOL_VERSION, self.protocol_version, protocol_version)?;
        equal(METHOD, self.method, method)?;
        let Some((member, required)) = named_by(method) else { return Ok(()) };
        if self.name.is_none() && !required {
            return Ok(());
        }
        let members = params.and_then(|params| Members::of(params).ok().flatten());
        let members = members.map(|members| members.0).unwrap_or_default();
        let value = members.iter().find(|m| m.key == member).and_then(|m| unquote(m.value.get()));
        // A body without its own name is refused as such, by whoever reads its params.
        let value = value.ok_or(MirrorError::Differs { header: NAME })?;
        equal(NAME, self.name, &value)
    }
}

/// The member of `params` that `Mcp-Name` mirrors, and whether the header must be there. The
/// specification asks for it on three methods; SDKs send it on more.
fn named_by(method: &str) -> Option<(&'static str, bool)> {
    match method {
        "tools/call" | "prompts/get" => Some(("name", true)),
        "resources/read" => Some(("uri", true)),
        "resources/subscribe" | "resources/unsubscribe" => Some(("uri", false)),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some(("taskId", false)),
        _ => None,
    }
}

fn equal(header: &'static str, found: Option<&str>, expected: &str) -> Result<(), MirrorError> {
    let found = found.ok_or(MirrorError::Missing { header })?;
    let found = decode(found).ok_or(MirrorError::Malformed { header })?;
    if found == expected { Ok(()) } else { Err(MirrorError::Differs { header }) }
}

/// Whether an `Mcp-Param-*` header says what some argument says: a text, a number or a boolean, at
/// any depth. Which one it must be stands in the tool's schema (`x-mcp-header`) and is compared by
/// the server; what no argument says is refused here.
///
/// # Errors
/// See [`MirrorError`].
pub fn check_param(value: &str, params: Option<&RawValue>) -> Result<(), MirrorError> {
    let header = PARAM;
    let value = decode(value).ok_or(MirrorError::Malformed { header })?;
    let arguments = params.and_then(|params| {
        let members = Members::of(params).ok().flatten()?.0;
        members.into_iter().find(|member| member.key == "arguments").map(|member| member.value)
    });
    let says = arguments.is_some_and(|arguments| says(arguments, &value));
    if says { Ok(()) } else { Err(MirrorError::Differs { header }) }
}

/// Whether JSON is, or holds, a scalar with this text. Its depth was limited when it was read.
fn says(json: &RawValue, wanted: &str) -> bool {
    let text = json.get();
    if text.starts_with('{') {
        let members = Members::of(json).ok().flatten().map(|members| members.0);
        return members.unwrap_or_default().iter().any(|member| says(member.value, wanted));
    }
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
        return items.into_iter().any(|item| says(item, wanted));
    }
    text != "null" && unquote(text).unwrap_or(Cow::Borrowed(text)) == wanted
}

/// The text that a mirrored header value stands for: itself, or what `=?base64?…?=` wraps
/// (standard alphabet, padded). `None` when it is neither.
#[must_use]
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.bytes().all(|b| (0x20..=0x7e).contains(&b) || b == b'\t') {
        return None;
    }
    match value.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) {
        Some(wrapped) => {
            let bytes = base64::decode_standard(wrapped)?;
            String::from_utf8(bytes).ok().map(Cow::Owned)
        }
        None => Some(Cow::Borrowed(value)),
    }
}

/// The header value for a text: itself, or wrapped where it could not travel bare or would be
/// taken for a wrapped one.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    let printable = text.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if printable && !text.starts_with(PREFIX) && text.trim() == text {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{PREFIX}{}{SUFFIX}", base64::encode(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERSION: &str = "2026-07-28";

    fn check(method: &str, name: Option<&str>, params: &str) -> Result<(), MirrorError> {
        let params: &RawValue = serde_json::from_str(params).unwrap();
        let mirrors = Mirrors { protocol_version: Some(VERSION), method: Some(method), name };
        mirrors.check(method, Some(params), VERSION)
    }

    #[test]
    fn the_header_must_say_what_the_body_says() {
        let differs = Err(MirrorError::Differs { header: NAME });
        let missing = Err(MirrorError::Missing { header: NAME });
        let malformed = Err(MirrorError::Malformed { header: NAME });
        let params = r#"{"name":"paid","arguments":{}}"#;
        assert_eq!(check("tools/call", Some("paid"), params), Ok(()));
        assert_eq!(check("tools/call", Some("free"), params), differs);
        assert_eq!(check("tools/call", Some("Paid"), params), differs);
        assert_eq!(check("tools/call", None, params), missing);
        assert_eq!(check("tools/call", Some("paid"), r#"{"name":1}"#), differs);
        assert_eq!(check("tools/call", Some("paid"), "[]"), differs);
        assert_eq!(check("tools/call", Some("=?base64?cGFpZA==?="), params), Ok(()));
        assert_eq!(check("tools/call", Some("=?base64?ZnJlZQ==?="), params), differs);
        for bad in ["=?base64?cGFpZA?=", "=?base64?%%?=", "=?base64?/w==?=", "pa\u{e9}", "a\n"] {
            assert_eq!(check("tools/call", Some(bad), params), malformed, "{bad}");
        }
        // The marker is case-sensitive: this is a name, and another one.
        assert_eq!(check("tools/call", Some("=?BASE64?cGFpZA==?="), params), differs);
        assert_eq!(check("resources/read", Some("file:///x"), r#"{"uri":"file:///x"}"#), Ok(()));
        assert_eq!(check("tools/list", None, "{}"), Ok(()));
        assert_eq!(check("tasks/get", None, r#"{"taskId":"t"}"#), Ok(()));
        assert_eq!(check("tasks/get", Some("u"), r#"{"taskId":"t"}"#), differs);
    }

    #[test]
    fn version_and_method_are_required_and_exact() {
        let mirrors = Mirrors { protocol_version: Some(VERSION), method: None, name: None };
        let missing = |header| Err(MirrorError::Missing { header });
        let differs = |header| Err(MirrorError::Differs { header });
        assert_eq!(mirrors.check("tools/list", None, VERSION), missing(METHOD));
        let mirrors = Mirrors { method: Some("tools/call"), ..mirrors };
        assert_eq!(mirrors.check("tools/list", None, VERSION), differs(METHOD));
        assert_eq!(mirrors.check("tools/call", None, "2025-11-25"), differs(PROTOCOL_VERSION));
        let none = Mirrors::default();
        assert_eq!(none.check("tools/list", None, VERSION), missing(PROTOCOL_VERSION));
    }

    #[test]
    fn a_parameter_says_what_some_argument_says() {
        let params = r#"{"name":"t","arguments":{"region":"eu","n":42,"deep":{"on":true,
            "texts":["Hello, 世界"]},"none":null},"_meta":{"secret":"us"}}"#;
        let check = |value| check_param(value, Some(serde_json::from_str(params).unwrap()));
        for value in ["eu", "42", "true", "=?base64?SGVsbG8sIOS4lueVjA==?="] {
            assert_eq!(check(value), Ok(()), "{value}");
        }
        for value in ["us", "EU", "42.0", "null", "region", "{}", "", "=?base64?!?="] {
            assert!(check(value).is_err(), "{value}");
        }
        assert!(check_param("eu", None).is_err());
    }

    proptest! {
        #[test]
        fn encoded_values_travel_and_read_back(text in any::<String>()) {
            let value = encode(&text);
            prop_assert!(value.bytes().all(|b| (0x20..=0x7e).contains(&b)));
            prop_assert_eq!(decode(&value), Some(Cow::Borrowed(&*text)));
        }

        #[test]
        fn no_value_breaks_it(value in any::<String>()) {
            let _ = decode(&value);
        }
    }
}
