//! What MCP puts into JSON-RPC: tool calls, `_meta`, client capabilities, results, lists.
//!
//! Owns the reading of what we decide on (name, arguments, `_meta`) and the edits we make to what
//! passes through. Everything that is not ours is forwarded as the bytes that came.
//!
//! INVARIANT: no member that we read has a second spelling beside it that a reader which folds
//! case would take instead.

use super::{
    json::quote,
    jsonrpc::EnvelopeError,
    object::{Member, Members, ObjectWriter, unquote},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt::Write as _};

/// `_meta` key of the protocol version that a modern request speaks.
pub const META_PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key of the capabilities that the client declares with each modern request.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The parameters of a `tools/call`.
#[derive(Clone, Debug)]
pub struct ToolCall<'a> {
    /// The tool.
    pub name: Cow<'a, str>,
    /// The arguments: an object, if there.
    pub arguments: Option<&'a RawValue>,
    /// The `_meta`; empty when absent.
    pub meta: Meta<'a>,
    members: Vec<Member<'a>>,
}

impl<'a> ToolCall<'a> {
    /// Reads the `params` of a `tools/call`.
    ///
    /// # Errors
    /// A member twice; a wrong type; a member like `Name` or `argumentſ`, which equals one of ours
    /// but for its case.
    pub fn parse(params: &'a RawValue) -> Result<Self, EnvelopeError> {
        let members = object(params, "params")?;
        refuse_folded(&members, &["name", "arguments", "_meta"])?;
        let find = |key: &str| members.iter().find(|m| m.key == key).map(|m| m.value);
        let bad = |name| EnvelopeError::BadMember { name };
        let name = find("name").and_then(|raw| unquote(raw.get())).filter(|name| !name.is_empty());
        let name = name.ok_or(bad("name"))?;
        let arguments = find("arguments");
        if arguments.is_some_and(|raw| !raw.get().starts_with('{')) {
            return Err(bad("arguments"));
        }
        let meta = find("_meta").map(Meta::parse).transpose()?.unwrap_or_default();
        Ok(Self { name, arguments, meta, members })
    }

    /// A member that is none of `name`, `arguments` and `_meta`: `task`, `inputResponses`,
    /// `requestState`.
    #[must_use]
    pub fn other(&self, key: &str) -> Option<&'a RawValue> {
        let ours = ["name", "arguments", "_meta"].contains(&key);
        self.members.iter().find(|m| !ours && m.key == key).map(|m| m.value)
    }
}

/// The `params` to forward: every member as it came and in its place, but `_meta` replaced by
/// `meta` (a JSON object), or left out.
#[must_use]
pub fn rewrite_params(call: &ToolCall<'_>, meta: Option<&str>) -> String {
    let mut out = ObjectWriter::new();
    let mut pending = meta;
    for member in &call.members {
        if member.key != "_meta" {
            out.push(member.raw_key, member.value.get());
        } else if let Some(meta) = pending.take() {
            out.push(member.raw_key, meta);
        }
    }
    if let Some(meta) = pending {
        out.push("\"_meta\"", meta);
    }
    out.finish()
}

/// An object without these members; all else as it came.
///
/// # Errors
/// Not an object, or a key twice.
pub fn without_members(raw: &RawValue, names: &[&str]) -> Result<String, EnvelopeError> {
    let mut out = ObjectWriter::new();
    for member in object(raw, "params")?.iter().filter(|m| !names.contains(&&*m.key)) {
        out.push(member.raw_key, member.value.get());
    }
    Ok(out.finish())
}

/// The members of a `_meta`, in their order.
#[derive(Clone, Debug, Default)]
pub struct Meta<'a>(Vec<Member<'a>>);

impl<'a> Meta<'a> {
    /// Reads a `_meta` object.
    ///
    /// # Errors
    /// Not an object, or a key twice.
    pub fn parse(raw: &'a RawValue) -> Result<Self, EnvelopeError> {
        object(raw, "_meta").map(Self)
    }

    /// The `_meta` of any `params`; empty when there is none.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and a member like `_Meta`.
    pub fn of_params(params: Option<&'a RawValue>) -> Result<Self, EnvelopeError> {
        let Some(params) = params else { return Ok(Self::default()) };
        let members = object(params, "params")?;
        refuse_folded(&members, &["_meta"])?;
        let meta = members.iter().find(|m| m.key == "_meta");
        meta.map_or_else(|| Ok(Self::default()), |meta| Self::parse(meta.value))
    }

    /// The value of a key, by its exact name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|m| m.key == key).map(|m| m.value)
    }

    /// The value of a key, if it is a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key).and_then(|raw| unquote(raw.get()))
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|m| (&*m.key, m.value))
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object without these keys, in whatever case they are written; all else as it came.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> String {
        let dropped: Vec<String> = keys.iter().map(|key| fold(key)).collect();
        let mut out = ObjectWriter::new();
        for member in self.0.iter().filter(|m| !dropped.contains(&fold(&m.key))) {
            out.push(member.raw_key, member.value.get());
        }
        out.finish()
    }
}

/// What a modern (2026-07-28) request says of itself in `_meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modern<'a> {
    /// The protocol version. Whether we speak it is the caller's to decide.
    pub protocol_version: Cow<'a, str>,
    /// What the client can do.
    pub capabilities: ClientCapabilities<'a>,
}

impl<'a> Modern<'a> {
    /// Reads the modern members; `None` when neither is there, which is how a legacy client
    /// opens.
    ///
    /// # Errors
    /// One of the two is missing or has the wrong type (JSON-RPC −32602, HTTP 400).
    pub fn of(meta: &Meta<'a>) -> Result<Option<Self>, EnvelopeError> {
        let version = meta.get(META_PROTOCOL_VERSION);
        let capabilities = meta.get(META_CLIENT_CAPABILITIES);
        if version.is_none() && capabilities.is_none() {
            return Ok(None);
        }
        let bad = |name| EnvelopeError::BadMember { name };
        let protocol_version = version.and_then(|raw| unquote(raw.get()));
        let protocol_version = protocol_version.ok_or(bad(META_PROTOCOL_VERSION))?;
        let capabilities = capabilities.ok_or(bad(META_CLIENT_CAPABILITIES))?;
        let capabilities = ClientCapabilities::parse(capabilities)?;
        Ok(Some(Self { protocol_version, capabilities }))
    }
}

/// What a client declares that it can do: with each modern request, or once in a legacy
/// `initialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCapabilities<'a> {
    /// It can open a link for its user (`elicitation.url`).
    pub elicitation_url: bool,
    /// The names of its extensions.
    pub extensions: Vec<Cow<'a, str>>,
}

impl<'a> ClientCapabilities<'a> {
    /// Reads a capabilities object.
    ///
    /// # Errors
    /// A wrong type on the way to what we read.
    pub fn parse(raw: &'a RawValue) -> Result<Self, EnvelopeError> {
        let mut read = Self::default();
        for member in object(raw, "clientCapabilities")? {
            match &*member.key {
                "elicitation" => {
                    let modes = object(member.value, "elicitation")?;
                    read.elicitation_url =
                        modes.iter().any(|m| m.key == "url" && m.value.get().starts_with('{'));
                }
                "extensions" => {
                    let extensions = object(member.value, "extensions")?;
                    read.extensions = extensions.into_iter().map(|m| m.key).collect();
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Whether an extension is declared.
    #[must_use]
    pub fn has_extension(&self, name: &str) -> bool {
        self.extensions.iter().any(|extension| extension == name)
    }
}

/// An object with these members replaced in place or appended; all else as it came. Keys are
/// plain text, values JSON.
///
/// # Errors
/// Not an object, or a key twice.
pub fn with_members(raw: &RawValue, entries: &[(&str, &str)]) -> Result<String, EnvelopeError> {
    Ok(merge(&object(raw, "result")?, entries))
}

/// A result with these entries in its `_meta`, replaced or added; all else as it came. Keys are
/// plain text, values JSON.
///
/// # Errors
/// The result or its `_meta` is no object, or has a key twice.
pub fn add_result_meta(
    result: &RawValue,
    entries: &[(&str, &str)],
) -> Result<String, EnvelopeError> {
    let members = object(result, "result")?;
    let meta = members.iter().find(|m| m.key == "_meta").map(|m| object(m.value, "_meta"));
    let meta = merge(&meta.transpose()?.unwrap_or_default(), entries);
    Ok(merge(&members, &[("_meta", &meta)]))
}

/// What to change about one tool of a `tools/list`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolEdit {
    /// Leave the tool out.
    pub hide: bool,
    /// Leave out its `outputSchema`, against which some clients validate even errors.
    pub drop_output_schema: bool,
    /// Entries for its `_meta`: plain key, JSON value.
    pub meta: Vec<(String, String)>,
}

/// The result of a `tools/list` with each tool edited as `edit` says of its name; all else as it
/// came. Tools of `own`, by name, come after the last of them, unless one of theirs has the name.
///
/// # Errors
/// `tools` is no array of objects that each have a `name`: what cannot be read cannot be hidden.
pub fn edit_tools_list(
    result: &RawValue,
    own: &[(&str, String)],
    mut edit: impl FnMut(&str) -> ToolEdit,
) -> Result<String, EnvelopeError> {
    let bad = EnvelopeError::BadMember { name: "tools" };
    let members = object(result, "result")?;
    let tools = members.iter().find(|m| m.key == "tools").ok_or(bad)?;
    let mut tools: Vec<&RawValue> = serde_json::from_str(tools.value.get()).map_err(|_| bad)?;
    let is_last = !members.iter().any(|m| m.key == "nextCursor");
    let theirs: Vec<Option<String>> = tools.iter().map(|tool| name_of(tool)).collect();
    let is_new = |name: &str| !theirs.iter().flatten().any(|theirs| theirs == name);
    for (_, tool) in own.iter().filter(|(name, _)| is_last && is_new(name)) {
        tools.push(serde_json::from_str(tool).map_err(|_| bad)?);
    }
    let mut edited = String::from("[");
    for tool in tools {
        let Some(tool) = edit_tool(tool, &mut edit)? else { continue };
        let comma = if edited.len() > 1 { "," } else { "" };
        let _ = write!(edited, "{comma}{tool}");
    }
    edited.push(']');
    Ok(merge(&members, &[("tools", &edited)]))
}

fn name_of(tool: &RawValue) -> Option<String> {
    let members = object(tool, "tools").ok()?;
    let name = members.iter().find(|m| m.key == "name").and_then(|m| unquote(m.value.get()));
    name.map(Cow::into_owned)
}

/// One tool, edited; `None` when it is hidden.
fn edit_tool(
    tool: &RawValue,
    edit: &mut impl FnMut(&str) -> ToolEdit,
) -> Result<Option<String>, EnvelopeError> {
    let mut members = object(tool, "tools")?;
    let name = members.iter().find(|m| m.key == "name").and_then(|m| unquote(m.value.get()));
    let edit = edit(&name.ok_or(EnvelopeError::BadMember { name: "name" })?);
    if edit.hide {
        return Ok(None);
    }
    members.retain(|m| !(edit.drop_output_schema && m.key == "outputSchema"));
    if edit.meta.is_empty() {
        return Ok(Some(merge(&members, &[])));
    }
    let meta = members.iter().find(|m| m.key == "_meta").map(|m| object(m.value, "_meta"));
    let entries: Vec<(&str, &str)> = edit.meta.iter().map(|(k, v)| (&**k, &**v)).collect();
    let meta = merge(&meta.transpose()?.unwrap_or_default(), &entries);
    Ok(Some(merge(&members, &[("_meta", &meta)])))
}

/// The members, with these entries replaced in place or appended.
fn merge(members: &[Member<'_>], entries: &[(&str, &str)]) -> String {
    let length = |key: &str, value: &str| key.len() + value.len() + 4;
    let own: usize = members.iter().map(|m| length(m.raw_key, m.value.get())).sum();
    let new: usize = entries.iter().map(|(key, value)| length(key, value)).sum();
    let mut out = ObjectWriter::with_capacity(own + new + 2);
    for member in members {
        let replaced = entries.iter().find(|(key, _)| *key == member.key);
        out.push(member.raw_key, replaced.map_or(member.value.get(), |(_, value)| value));
    }
    for (key, value) in entries {
        if !members.iter().any(|m| m.key == *key) {
            out.push(&quote(key), value);
        }
    }
    out.finish()
}

/// The members of a value that must be an object.
fn object<'a>(raw: &'a RawValue, name: &'static str) -> Result<Vec<Member<'a>>, EnvelopeError> {
    Ok(Members::of(raw)?.ok_or(EnvelopeError::BadMember { name })?.0)
}

/// Refuses a member that differs from one of `known` only in case.
fn refuse_folded(members: &[Member<'_>], known: &[&str]) -> Result<(), EnvelopeError> {
    let is_twin = |m: &Member<'_>| {
        !known.contains(&&*m.key) && known.iter().any(|name| is_same_folded(&m.key, name))
    };
    if members.iter().any(is_twin) { Err(EnvelopeError::UnknownMember) } else { Ok(()) }
}

fn is_same_folded(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    fold(a) == fold(b)
}

/// A text without its case. Upper first, so that `ſ` and `K` (Kelvin) fold to `s` and `k`, as
/// they do in parsers that match names without case.
fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::JsonError;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    const PARAMS: &str = r#"{"task":{"ttl":1.0}, "name":"g\u0065t", "_meta":{"\u0061":1.50,"x402/payment":"p","progressToken":9007199254740993},"arguments":{"n": 9007199254740993 },"requestState":"s"}"#;

    #[test]
    fn what_is_not_ours_is_forwarded_as_it_came() {
        let call = ToolCall::parse(raw(PARAMS)).unwrap();
        assert_eq!(call.name, "get");
        assert_eq!(call.arguments.unwrap().get(), r#"{"n": 9007199254740993 }"#);
        assert_eq!(call.other("task").unwrap().get(), r#"{"ttl":1.0}"#);
        assert!(call.other("name").is_none() && call.other("x").is_none());
        assert_eq!(call.meta.text("x402/payment").unwrap(), "p");
        assert_eq!(call.meta.get("a").unwrap().get(), "1.50");
        let meta = call.meta.without(&["X402/Payment"]);
        assert_eq!(meta, r#"{"\u0061":1.50,"progressToken":9007199254740993}"#);
        assert_eq!(
            rewrite_params(&call, Some(&meta)),
            r#"{"task":{"ttl":1.0},"name":"g\u0065t","_meta":{"\u0061":1.50,"progressToken":9007199254740993},"arguments":{"n": 9007199254740993 },"requestState":"s"}"#
        );
        assert_eq!(
            rewrite_params(&call, None),
            r#"{"task":{"ttl":1.0},"name":"g\u0065t","arguments":{"n": 9007199254740993 },"requestState":"s"}"#
        );
        let bare = ToolCall::parse(raw(r#"{"name":"a"}"#)).unwrap();
        assert!(bare.arguments.is_none() && bare.meta.is_empty());
        assert_eq!(rewrite_params(&bare, Some("{}")), r#"{"name":"a","_meta":{}}"#);
    }

    #[test]
    fn second_spellings_and_wrong_types_are_refused() {
        let refused = |text| ToolCall::parse(raw(text)).unwrap_err();
        let bad = |name| EnvelopeError::BadMember { name };
        for text in [
            r#"{"name":"free","Name":"paid"}"#,
            r#"{"name":"a","ARGUMENTS":{}}"#,
            r#"{"name":"a","argument\u017f":{}}"#,
            r#"{"name":"a","_Meta":{}}"#,
        ] {
            assert_eq!(refused(text), EnvelopeError::UnknownMember, "{text}");
        }
        assert_eq!(refused(r#"{"name":"a","n\u0061me":"b"}"#), JsonError::DuplicateKey.into());
        assert_eq!(
            refused(r#"{"name":"a","_meta":{"k":1,"k":2}}"#),
            JsonError::DuplicateKey.into()
        );
        assert_eq!(refused("{}"), bad("name"));
        assert_eq!(refused(r#"{"name":""}"#), bad("name"));
        assert_eq!(refused(r#"{"name":["a"]}"#), bad("name"));
        assert_eq!(refused(r#"{"name":"a","arguments":null}"#), bad("arguments"));
        assert_eq!(refused(r#"{"name":"a","arguments":"{}"}"#), bad("arguments"));
        assert_eq!(refused(r#"{"name":"a","_meta":null}"#), bad("_meta"));
        assert_eq!(refused("[]"), bad("params"));
        assert!(Meta::of_params(Some(raw(r#"{"_META":{}}"#))).is_err());
        assert!(Meta::of_params(Some(raw(r#"{"uri":"x"}"#))).unwrap().is_empty());
        assert!(Meta::of_params(None).unwrap().is_empty());
    }

    #[test]
    fn the_era_is_read_from_the_request() {
        let modern = |text: &'static str| Modern::of(&Meta::parse(raw(text)).unwrap());
        assert_eq!(modern(r#"{"progressToken":1}"#), Ok(None));
        let read = modern(
            r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"extensions":{"org.x402/payment":{}}}}"#,
        );
        let read = read.unwrap().unwrap();
        assert_eq!(read.protocol_version, "2026-07-28");
        assert!(read.capabilities.elicitation_url);
        assert!(read.capabilities.has_extension("org.x402/payment"));
        assert!(!read.capabilities.has_extension("org.x402"));
        let form_only = ClientCapabilities::parse(raw(r#"{"elicitation":{}}"#)).unwrap();
        assert_eq!(form_only, ClientCapabilities::default());
        for text in [
            r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#,
            r#"{"io.modelcontextprotocol/clientCapabilities":{}}"#,
            r#"{"io.modelcontextprotocol/protocolVersion":1,"io.modelcontextprotocol/clientCapabilities":{}}"#,
            r#"{"io.modelcontextprotocol/protocolVersion":"v","io.modelcontextprotocol/clientCapabilities":[]}"#,
            r#"{"io.modelcontextprotocol/protocolVersion":"v","io.modelcontextprotocol/clientCapabilities":{"elicitation":true}}"#,
        ] {
            assert!(modern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn results_gain_meta_and_keep_the_rest() {
        let result = raw(r#"{"content":[{"x":1.0}],"_meta":{"k":1e2,"r":0},"z":null}"#);
        assert_eq!(
            add_result_meta(result, &[("r", "{}"), ("n", "2")]).unwrap(),
            r#"{"content":[{"x":1.0}],"_meta":{"k":1e2,"r":{},"n":2},"z":null}"#
        );
        assert_eq!(add_result_meta(raw("{}"), &[("r", "1")]).unwrap(), r#"{"_meta":{"r":1}}"#);
        assert!(add_result_meta(raw(r#"{"_meta":[]}"#), &[]).is_err());
        assert!(add_result_meta(raw("[]"), &[]).is_err());
        let list = raw(r#"{"ttlMs":5,"tools":[]}"#);
        assert_eq!(
            with_members(list, &[("ttlMs", "0"), ("cacheScope", "\"private\"")]).unwrap(),
            r#"{"ttlMs":0,"tools":[],"cacheScope":"private"}"#
        );
    }

    #[test]
    fn tools_are_hidden_and_edited_one_by_one() {
        let list = raw(
            r#"{"tools":[{"name":"free","inputSchema":{"a": 1}},{"name":"secret"},{"x-v":1.0,"name":"paid","outputSchema":{},"_meta":{"o":1}}],"nextCursor":"c"}"#,
        );
        let edited = edit_tools_list(list, &[], |name| ToolEdit {
            hide: name == "secret",
            drop_output_schema: name == "paid",
            meta: if name == "paid" { vec![("p".into(), "\"3 sat\"".into())] } else { vec![] },
        });
        assert_eq!(
            edited.unwrap(),
            r#"{"tools":[{"name":"free","inputSchema":{"a": 1}},{"x-v":1.0,"name":"paid","_meta":{"o":1,"p":"3 sat"}}],"nextCursor":"c"}"#
        );
        let refused = |text| edit_tools_list(raw(text), &[], |_| ToolEdit::default()).is_err();
        for text in [
            "{}",
            r#"{"tools":{}}"#,
            r#"{"tools":[1]}"#,
            r#"{"tools":[{}]}"#,
            r#"{"tools":[{"name":1}]}"#,
            r#"{"tools":[{"name":"secret","name":"free"}]}"#,
        ] {
            assert!(refused(text), "{text}");
        }
    }
}
