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
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
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

/// What `Mcp-Name` says of a request with this method and these params.
#[must_use]
pub fn name_of<'a>(method: &str, params: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    let (member, _) = named_by(method)?;
    let members = Members::of(params?).ok().flatten()?.0;
    let named = members.into_iter().find(|found| found.key == member)?;
    unquote(named.value.get())
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

/// An argument that a header mirrors, as the tool's input schema says it (`x-mcp-header`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirrored {
    /// The header, in lower case.
    pub header: String,
    /// The names of members that lead to it, from the arguments down.
    pub path: Vec<String>,
}

/// What an input schema has mirrored, along its `properties`. An annotation that is none counts
/// for nothing.
#[must_use]
pub fn mirrored(input_schema: &Value) -> Vec<Mirrored> {
    let mut found = Vec::new();
    collect(input_schema, &mut Vec::new(), &mut found);
    found
}

/// Its depth was limited when it was read.
fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Mirrored>) {
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        path.push(name.clone());
        let header = schema.get("x-mcp-header").and_then(Value::as_str);
        let is_token = |text: &&str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            !text.is_empty() && text.bytes().all(good)
        };
        if let Some(header) = header.filter(is_token) {
            let header = format!("{PARAM}{header}").to_ascii_lowercase();
            found.push(Mirrored { header, path: path.clone() });
        }
        collect(schema, path, found);
        path.pop();
    }
}

impl Mirrored {
    /// Compares what the header says, if it is there, with the argument, if that is.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub fn check(&self, said: Option<&str>, params: Option<&RawValue>) -> Result<(), MirrorError> {
        match (said, self.text(params)) {
            (None, None) => Ok(()),
            (Some(_), None) => Err(MirrorError::Differs { header: PARAM }),
            (said, Some(text)) => equal(PARAM, said, &text),
        }
    }

    /// What the header has to say; `None` where the argument is not there, null, or no text,
    /// number or boolean.
    #[must_use]
    pub fn text<'a>(&self, params: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
        let arguments = arguments(params)?;
        let found = self.path.iter().try_fold(arguments, |at, name| member(at, name))?;
        scalar(found)
    }
}

fn arguments(params: Option<&RawValue>) -> Option<&RawValue> {
    member(params?, "arguments")
}

fn member<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let members = Members::of(object).ok().flatten()?.0;
    members.into_iter().find(|member| member.key == name).map(|member| member.value)
}

/// The text of a string, number or boolean.
fn scalar(json: &RawValue) -> Option<Cow<'_, str>> {
    let text = json.get();
    if text.starts_with(['{', '[']) || text == "null" {
        return None;
    }
    Some(unquote(text).unwrap_or(Cow::Borrowed(text)))
}

/// Whether an `Mcp-Param-*` header says what some argument says: a text, a number or a boolean, at
/// any depth. For a header of which no schema is known to say which argument it mirrors
/// ([`Mirrored`]); the server knows.
///
/// # Errors
/// See [`MirrorError`].
pub fn check_param(value: &str, params: Option<&RawValue>) -> Result<(), MirrorError> {
    let header = PARAM;
    let value = decode(value).ok_or(MirrorError::Malformed { header })?;
    let says = arguments(params).is_some_and(|arguments| says(arguments, &value));
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
    scalar(json).is_some_and(|text| text == wanted)
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

    #[test]
    fn a_schema_says_which_argument_a_header_mirrors() {
        let schema = serde_json::json!({ "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "count": { "type": "integer", "x-mcp-header": "N" },
            "deep": { "properties": { "on": { "type": "boolean", "x-mcp-header": "On" } } },
            "other": { "type": "string" },
            "bad": { "x-mcp-header": "a b" },
            "worse": { "x-mcp-header": 1 },
            "empty": { "x-mcp-header": "" },
            "list": { "items": { "properties": { "x": { "x-mcp-header": "Unreachable" } } } },
        } });
        let all = mirrored(&schema);
        let mut headers: Vec<&str> = all.iter().map(|m| &*m.header).collect();
        headers.sort_unstable();
        assert_eq!(headers, ["mcp-param-n", "mcp-param-on", "mcp-param-region"]);
        let of = |name: &str| all.iter().find(|m| m.header == name).unwrap();
        let params = r#"{"arguments":{"region":"eu","count":42,"deep":{"on":true},"other":"us"}}"#;
        let check = |header: &str, said: Option<&str>, params: &str| {
            of(header).check(said, Some(serde_json::from_str(params).unwrap()))
        };
        let differs = Err(MirrorError::Differs { header: PARAM });
        for (header, said) in
            [("mcp-param-region", "eu"), ("mcp-param-n", "42"), ("mcp-param-on", "true")]
        {
            assert_eq!(check(header, Some(said), params), Ok(()), "{header}");
            let missing = Err(MirrorError::Missing { header: PARAM });
            assert_eq!(check(header, None, params), missing, "{header}");
            // Another argument says it: that is not this one.
            assert_eq!(check(header, Some("us"), params), differs, "{header}");
        }
        assert_eq!(check("mcp-param-region", Some("=?base64?ZXU=?="), params), Ok(()));
        let malformed = Err(MirrorError::Malformed { header: PARAM });
        assert_eq!(check("mcp-param-region", Some("=?base64?!?="), params), malformed);
        for none in [r#"{"arguments":{"region":null}}"#, r#"{"arguments":{"region":["eu"]}}"#, "{}"]
        {
            assert_eq!(check("mcp-param-region", None, none), Ok(()), "{none}");
            assert_eq!(check("mcp-param-region", Some("eu"), none), differs, "{none}");
        }
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
