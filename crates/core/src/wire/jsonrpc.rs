//! JSON-RPC 2.0 envelopes over the original bytes (MCP basic protocol, both eras).
//!
//! Owns which messages we admit and how we write our own. The values inside stay raw text, so
//! what is forwarded is what came. What `params` mean for MCP is in [`super::mcp`].
//!
//! INVARIANT: a message is admitted only when every reader, however lenient, must see the same
//! method, id and payload in it: one object, exact member names, no member twice, no unknown one.

use super::{
    json::{self, JsonError, Limits, quote},
    object::{Member, Members, ObjectWriter, unquote},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// One JSON-RPC message.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// Expects an answer.
    Request(Request<'a>),
    /// Expects none.
    Notification(Notification<'a>),
    /// An answer.
    Response(Response<'a>),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// A string or an integer, as written.
    pub id: &'a RawValue,
    /// The method.
    pub method: Cow<'a, str>,
    /// The parameters: an object, if there.
    pub params: Option<&'a RawValue>,
}

/// A notification.
#[derive(Clone, Debug)]
pub struct Notification<'a> {
    /// The method.
    pub method: Cow<'a, str>,
    /// The parameters: an object, if there.
    pub params: Option<&'a RawValue>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// A string or an integer, as written; `None` when an error names no request.
    pub id: Option<&'a RawValue>,
    /// The `result`, or the `error` object.
    pub outcome: Result<&'a RawValue, &'a RawValue>,
}

/// Why a text is not a message we admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Not JSON within the limits, or an object has one key twice.
    Json(JsonError),
    /// An array of messages; MCP has none since 2025-06-18.
    Batch,
    /// Not an object, or `jsonrpc` is not `"2.0"`.
    NotJsonRpc,
    /// The id is missing, null, fractional, or otherwise neither a string nor an integer.
    BadId,
    /// A member has the wrong type, or is missing.
    BadMember {
        /// Which.
        name: &'static str,
    },
    /// A member that the envelope does not have, `Method` for `method` included; or one whose
    /// name differs only in case from one that we read.
    UnknownMember,
    /// Both a request and a response, both a result and an error, or none of them.
    Ambiguous,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::Batch => f.write_str("batches are not accepted: send one message a request"),
            Self::NotJsonRpc => f.write_str("not a JSON-RPC 2.0 message"),
            Self::BadId => f.write_str("`id` must be a string or an integer"),
            Self::BadMember { name } => write!(f, "`{name}` is missing or has the wrong type"),
            Self::UnknownMember => f.write_str("a member is unknown, or differs only in case"),
            Self::Ambiguous => f.write_str("neither one request nor one response"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

impl From<JsonError> for EnvelopeError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl<'a> Message<'a> {
    /// Parses a message that we will decide on: the whole text passes [`json::check`] first, so
    /// no key is there twice at any depth.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn parse(text: &'a [u8], limits: &Limits) -> Result<Self, EnvelopeError> {
        json::check(text, limits)?;
        Self::split(text)
    }

    /// Parses a message that we only relay (an upstream's answer). Size, syntax and the envelope
    /// are checked; the values inside are not, because real servers put halves of surrogate pairs
    /// there, and refusing them would lose an answer that was paid for.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; never [`JsonError::TooDeep`].
    pub fn parse_relayed(text: &'a [u8], max_bytes: usize) -> Result<Self, EnvelopeError> {
        if text.len() > max_bytes {
            return Err(JsonError::TooLarge.into());
        }
        Self::split(text)
    }

    fn split(text: &'a [u8]) -> Result<Self, EnvelopeError> {
        let text = std::str::from_utf8(text).map_err(|_| JsonError::BadUtf8)?;
        let members = match serde_json::from_str::<Members<'_>>(text) {
            Ok(members) => members.refuse_duplicates()?,
            Err(_) => return Err(no_object(text)),
        };
        Envelope::collect(members)?.message()
    }
}

/// Why a text is no object whose keys can be read.
fn no_object(text: &str) -> EnvelopeError {
    match serde_json::from_str::<&RawValue>(text) {
        Err(error) => JsonError::Syntax { offset: offset(text, &error) }.into(),
        Ok(raw) if raw.get().starts_with('[') => EnvelopeError::Batch,
        Ok(raw) if raw.get().starts_with('{') => JsonError::BadUtf8.into(),
        Ok(_) => EnvelopeError::NotJsonRpc,
    }
}

/// Bytes before the place where `error` was found.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)
}

/// The members of an envelope, by name.
#[derive(Default)]
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    fn collect(members: Members<'a>) -> Result<Self, EnvelopeError> {
        let mut envelope = Self::default();
        for Member { key, value, .. } in members.0 {
            let slot = match &*key {
                "jsonrpc" => &mut envelope.jsonrpc,
                "id" => &mut envelope.id,
                "method" => &mut envelope.method,
                "params" => &mut envelope.params,
                "result" => &mut envelope.result,
                "error" => &mut envelope.error,
                _ => return Err(EnvelopeError::UnknownMember),
            };
            *slot = Some(value);
        }
        Ok(envelope)
    }

    fn message(self) -> Result<Message<'a>, EnvelopeError> {
        let version = self.jsonrpc.and_then(|raw| unquote(raw.get()));
        if version.as_deref() != Some("2.0") {
            return Err(EnvelopeError::NotJsonRpc);
        }
        match (self.method, self.result, self.error) {
            (Some(method), None, None) => {
                let method = unquote(method.get()).filter(|method| !method.is_empty());
                let method = method.ok_or(EnvelopeError::BadMember { name: "method" })?;
                let params = self.params;
                if params.is_some_and(|params| !params.get().starts_with('{')) {
                    return Err(EnvelopeError::BadMember { name: "params" });
                }
                Ok(match self.id {
                    Some(id) => Message::Request(Request { id: checked_id(id)?, method, params }),
                    None => Message::Notification(Notification { method, params }),
                })
            }
            (None, Some(result), None) if self.params.is_none() => {
                let id = checked_id(self.id.ok_or(EnvelopeError::BadId)?)?;
                Ok(Message::Response(Response { id: Some(id), outcome: Ok(result) }))
            }
            (None, None, Some(error)) if self.params.is_none() => {
                if !error.get().starts_with('{') {
                    return Err(EnvelopeError::BadMember { name: "error" });
                }
                // An error that answers nobody has a null id, or since 2026-07-28 none.
                let id = self.id.filter(|id| id.get() != "null").map(checked_id).transpose()?;
                Ok(Message::Response(Response { id, outcome: Err(error) }))
            }
            _ => Err(EnvelopeError::Ambiguous),
        }
    }
}

/// The id, if it is a string or an integer.
fn checked_id(id: &RawValue) -> Result<&RawValue, EnvelopeError> {
    let text = id.get();
    let is_integer = || text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
    if text.starts_with('"') || is_integer() { Ok(id) } else { Err(EnvelopeError::BadId) }
}

/// A request from parts that are JSON already. `id` is a JSON string or integer, `params` a JSON
/// object.
#[must_use]
pub fn request(id: &str, method: &str, params: Option<&str>) -> String {
    let envelope = ObjectWriter::new().text("jsonrpc", "2.0").raw("id", id).text("method", method);
    match params {
        Some(params) => envelope.raw("params", params).finish(),
        None => envelope.finish(),
    }
}

/// A notification; `params` is a JSON object.
#[must_use]
pub fn notification(method: &str, params: Option<&str>) -> String {
    let envelope = ObjectWriter::new().text("jsonrpc", "2.0").text("method", method);
    match params {
        Some(params) => envelope.raw("params", params).finish(),
        None => envelope.finish(),
    }
}

/// A response with a result; `result` is a JSON object.
#[must_use]
pub fn result(id: &RawValue, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

/// An error response; `id` is `None` when the request's could not be read, `data` is JSON.
#[must_use]
pub fn error(id: Option<&RawValue>, code: i64, message: &str, data: Option<&str>) -> String {
    let id = id.map_or("null", RawValue::get);
    let message = quote(message);
    let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}{data}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Message<'_>, EnvelopeError> {
        Message::parse(text.as_bytes(), &Limits::REQUEST)
    }

    #[test]
    fn the_three_kinds_keep_their_original_bytes() {
        let text = r#" {"jsonrpc":"2.0", "id" : "a\u0062" ,"method":"tools\/call","params":{ "n": 1.0 }} "#;
        let Ok(Message::Request(request)) = parse(text) else { panic!() };
        assert_eq!(request.id.get(), r#""a\u0062""#);
        assert_eq!(request.method, "tools/call");
        assert_eq!(request.params.unwrap().get(), r#"{ "n": 1.0 }"#);

        let text = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let Ok(Message::Notification(n)) = parse(text) else { panic!() };
        assert!(matches!(n.method, Cow::Borrowed("notifications/initialized")));
        assert!(n.params.is_none());

        let text = r#"{"id":-7,"jsonrpc":"2.0","result":{"x": 123456789012345678901234567890}}"#;
        let Ok(Message::Response(response)) = parse(text) else { panic!() };
        assert_eq!(response.id.unwrap().get(), "-7");
        assert_eq!(response.outcome.unwrap().get(), r#"{"x": 123456789012345678901234567890}"#);

        let text = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#;
        let Ok(Message::Response(response)) = parse(text) else { panic!() };
        assert!(response.id.is_none() && response.outcome.is_err());
    }

    #[test]
    fn a_key_twice_is_refused_among_few_and_among_many() {
        let result = |keys: usize, last: usize| {
            let members: Vec<String> = (0..keys).map(|n| format!(r#""k{n}":{n}"#)).collect();
            let text = format!(r#"{{{},"k{last}":0}}"#, members.join(","));
            let raw: &RawValue = serde_json::from_str(&text).unwrap();
            Members::of(raw).map(|members| members.unwrap().0.len())
        };
        for keys in [1, 11, 12, 13, 40] {
            assert_eq!(result(keys, keys), Ok(keys + 1), "{keys} and another");
            for again in [0, keys - 1] {
                assert_eq!(result(keys, again), Err(JsonError::DuplicateKey), "{keys}, {again}");
            }
        }
    }

    #[test]
    fn everything_two_readers_could_read_differently_is_refused() {
        use EnvelopeError::{Ambiguous, BadId, Batch, NotJsonRpc, UnknownMember};
        let bad = |name| EnvelopeError::BadMember { name };
        let twice = EnvelopeError::Json(JsonError::DuplicateKey);
        let table = [
            (r#"[{"jsonrpc":"2.0","id":1,"method":"a"}]"#, Batch),
            ("[]", Batch),
            ("1", NotJsonRpc),
            (r#""x""#, NotJsonRpc),
            ("{}", NotJsonRpc),
            (r#"{"id":1,"method":"a"}"#, NotJsonRpc),
            (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, NotJsonRpc),
            (r#"{"jsonrpc":2.0,"id":1,"method":"a"}"#, NotJsonRpc),
            (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, BadId),
            (r#"{"jsonrpc":"2.0","id":1.0,"method":"a"}"#, BadId),
            (r#"{"jsonrpc":"2.0","id":1e3,"method":"a"}"#, BadId),
            (r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, BadId),
            (r#"{"jsonrpc":"2.0","id":true,"method":"a"}"#, BadId),
            (r#"{"jsonrpc":"2.0","result":{}}"#, BadId),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, bad("method")),
            (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, bad("method")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[]}"#, bad("params")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":null}"#, bad("params")),
            (r#"{"jsonrpc":"2.0","id":1,"error":null}"#, bad("error")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#, UnknownMember),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1}"#, UnknownMember),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, Ambiguous),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, Ambiguous),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#, Ambiguous),
            (r#"{"jsonrpc":"2.0","id":1}"#, Ambiguous),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"a"}"#, twice),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, twice),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":{"y":1,"y":2}}}"#, twice),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"x":{}"#,
            "[".repeat(10_000)
        );
        assert_eq!(parse(&deep).unwrap_err(), JsonError::TooDeep.into());
    }

    #[test]
    fn a_relayed_answer_may_hold_what_a_request_may_not() {
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{"text":"\ud83d","a":1,"a":2}}"#;
        assert!(Message::parse_relayed(text.as_bytes(), 1000).is_ok());
        assert!(parse(text).is_err());
        let refused = |text: &str, max| Message::parse_relayed(text.as_bytes(), max).unwrap_err();
        assert_eq!(refused(text, 10), JsonError::TooLarge.into());
        assert_eq!(refused("{\n  \"a\": x}", 100), JsonError::Syntax { offset: 9 }.into());
        let twice = r#"{"jsonrpc":"2.0","id":1,"result":{},"result":{}}"#;
        assert_eq!(refused(twice, 1000), JsonError::DuplicateKey.into());
        let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}"#, "[".repeat(100_000));
        assert!(Message::parse_relayed(deep.as_bytes(), 1 << 20).is_err());
    }

    #[test]
    fn our_own_envelopes_are_exact() {
        let id: &RawValue = serde_json::from_str(r#""x\u0000""#).unwrap();
        assert_eq!(
            request("1", "tools/call", Some(r#"{"name":"a"}"#)),
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#
        );
        assert_eq!(notification("n", None), r#"{"jsonrpc":"2.0","method":"n"}"#);
        assert_eq!(result(id, "{}"), r#"{"jsonrpc":"2.0","id":"x\u0000","result":{}}"#);
        assert_eq!(
            error(None, -32600, "a \"b\"", Some("[1]")),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a \"b\"","data":[1]}}"#
        );
        assert_eq!(
            error(Some(id), -32600, "", None),
            r#"{"jsonrpc":"2.0","id":"x\u0000","error":{"code":-32600,"message":""}}"#
        );
    }

    proptest! {
        #[test]
        fn what_we_write_we_read(method in "\\PC{1,20}", id in any::<i64>(), text in any::<String>()) {
            let params = format!(r#"{{"t":{}}}"#, quote(&text));
            let written = request(&id.to_string(), &method, Some(&params));
            let Ok(Message::Request(read)) = parse(&written) else { panic!("{written}") };
            prop_assert_eq!(read.method, method);
            prop_assert_eq!(read.params.unwrap().get(), params);
            prop_assert_eq!(read.id.get(), id.to_string());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::parse(&bytes, &Limits::REQUEST);
            let _ = Message::parse_relayed(&bytes, 1000);
        }
    }
}
