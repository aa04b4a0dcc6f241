//! Inline obligations: what a decision demands of arguments on their way in and of results on
//! their way out.
//!
//! INVARIANT: what an obligation is about and cannot be read does not pass: neither arguments nor
//! a result.
//! INVARIANT: redacting and capping reach all of a result: text blocks, embedded resources,
//! structured content, `_meta`, and whatever else it holds.

use bytes::Bytes;
use countersign_core::{
    call::Call,
    ledger::{Charge, Window},
    money::Micros,
    policy::Obligation,
    proof::Principal,
    refusal::Code,
    wire::{
        headers::{Mirrored, encode},
        jsonrpc,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;
use serde_json::{Map, Value, value::RawValue};
use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// What stands where something was.
const REDACTED: &str = "[redacted]";

/// Applies the obligations to a result, a tool's own error included.
///
/// # Errors
/// [`Code::UnknownObligation`] for one that is not inline or a result that cannot be read.
pub fn result(obligations: &[Obligation], result: &str) -> Result<String, Code> {
    if !obligations.iter().any(Obligation::is_about_result) {
        return if obligations.iter().any(Obligation::is_interactive) {
            Err(Code::UnknownObligation)
        } else {
            Ok(result.to_owned())
        };
    }
    let mut value: Value = serde_json::from_str(result).map_err(|_| Code::UnknownObligation)?;
    for obligation in obligations {
        match obligation {
            Obligation::Redact { pointers, patterns } => {
                redact(&mut value, pointers);
                for pattern in patterns {
                    replace(&mut value, &*compiled(pattern)?);
                }
            }
            Obligation::CapRows { rows } => {
                let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                cap_rows(&mut value, rows);
            }
            Obligation::CapBytes { bytes } => {
                cap_bytes(&mut value, usize::try_from(*bytes).unwrap_or(usize::MAX));
            }
            Obligation::Rate { .. }
            | Obligation::MaskArguments { .. }
            | Obligation::Notify { .. }
            | Obligation::EnhancedAudit => {}
            Obligation::HumanConfirm { .. }
            | Obligation::MOfN { .. }
            | Obligation::StepUp { .. }
            | Obligation::TighterBudget { .. } => return Err(Code::UnknownObligation),
        }
    }
    Ok(value.to_string())
}

/// A JSON-RPC error under obligations on results: its code alone, since nothing says where in its
/// words the kept back parts are.
///
/// # Errors
/// [`Code::UnknownObligation`] for an error that cannot be read.
pub fn error(obligations: &[Obligation], error: &str) -> Result<String, Code> {
    if !obligations.iter().any(Obligation::is_about_result) {
        return Ok(error.to_owned());
    }
    let value: Value = serde_json::from_str(error).map_err(|_| Code::UnknownObligation)?;
    let code = value.get("code").and_then(Value::as_i64).ok_or(Code::UnknownObligation)?;
    Ok(serde_json::json!({ "code": code, "message": "withheld by policy" }).to_string())
}

/// The `params` of a call with what the obligations mask replaced by null; `None` when nothing is
/// to be masked.
///
/// # Errors
/// [`Code::UnknownObligation`] for params that cannot be read.
pub fn masked(obligations: &[Obligation], params: &str) -> Result<Option<String>, Code> {
    let pointers = obligations.iter().filter_map(|obligation| {
        let Obligation::MaskArguments { pointers } = obligation else { return None };
        Some(pointers)
    });
    let pointers: Vec<&String> = pointers.flatten().collect();
    if pointers.is_empty() {
        return Ok(None);
    }
    let mut params: Value = serde_json::from_str(params).map_err(|_| Code::UnknownObligation)?;
    if let Some(arguments) = params.get_mut("arguments") {
        for pointer in pointers {
            if let Some(hidden) = arguments.pointer_mut(pointer) {
                *hidden = Value::Null;
            }
        }
    }
    Ok(Some(params.to_string()))
}

/// The message to send in place of the call's own.
#[must_use]
pub fn message(call: &Call, masked: &str) -> Bytes {
    Bytes::from(jsonrpc::request(&call.request_id, "tools/call", Some(masked)))
}

/// The headers of a message with these params: those that mirror arguments say what is left of
/// them, by the tool's schema. One that the schema does not name stays here: it could say what is
/// masked.
#[must_use]
pub fn mirrors_of(masked: &str, schema: &[Mirrored], headers: &HeaderMap) -> HeaderMap {
    let params: Option<&RawValue> = serde_json::from_str(masked).ok();
    let is_mirror = |name: &HeaderName| name.as_str().starts_with("mcp-param-");
    let kept = headers.iter().filter(|(name, _)| !is_mirror(name));
    let mut own: HeaderMap = HeaderMap::with_capacity(headers.len());
    own.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    for mirrored in schema {
        let text = mirrored.text(params);
        let value = text.and_then(|text| HeaderValue::from_str(&encode(&text)).ok());
        let name = HeaderName::from_bytes(mirrored.header.as_bytes());
        if let (Some(value), Ok(name)) = (value, name)
            && headers.contains_key(&name)
        {
            own.insert(name, value);
        }
    }
    own
}

/// The counter of a tighter budget: one for each limit and window of an agent.
#[must_use]
pub fn charge(principal: &Principal, limit: Micros, window_s: u64) -> Charge {
    let key = format!(
        "policy\u{1f}{}\u{1f}{}\u{1f}{}\u{1f}{window_s}",
        principal.tenant, principal.agent, limit.0
    );
    Charge::hard(key, limit, Window::Rolling(window_s.saturating_mul(1000)))
}

/// The counters of all tighter budgets among the obligations.
#[must_use]
pub fn charges(principal: &Principal, obligations: &[Obligation]) -> Vec<Charge> {
    let budgets = obligations.iter().filter_map(|obligation| {
        let Obligation::TighterBudget { limit, window_s } = obligation else { return None };
        Some((*limit, *window_s))
    });
    budgets.map(|(limit, window_s)| charge(principal, limit, window_s)).collect()
}

/// The names and kinds of arguments, without their values.
#[must_use]
pub fn shape(arguments: &str) -> String {
    let mut shape = String::new();
    let Ok(value) = serde_json::from_str::<Value>(arguments) else { return shape };
    for (name, value) in value.as_object().into_iter().flatten() {
        let kind = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(_) => "number".to_owned(),
            Value::String(text) => format!("string:{}", text.len()),
            Value::Array(items) => format!("array:{}", items.len()),
            Value::Object(members) => format!("object:{}", members.len()),
        };
        let gap = if shape.is_empty() { "" } else { " " };
        let _ = write!(shape, "{gap}{name}={kind}");
    }
    shape
}

/// Patterns, compiled once. They were tried when the bundle was loaded.
fn compiled(pattern: &str) -> Result<Arc<Regex>, Code> {
    static KNOWN: OnceLock<Mutex<HashMap<String, Arc<Regex>>>> = OnceLock::new();
    let mut known =
        KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = known.get(pattern) {
        return Ok(Arc::clone(regex));
    }
    let regex = Arc::new(Regex::new(pattern).map_err(|_| Code::UnknownObligation)?);
    // Bundles come and go: a table that only grew would be a leak.
    if known.len() >= 256 {
        known.clear();
    }
    known.insert(pattern.to_owned(), Arc::clone(&regex));
    Ok(regex)
}

/// Replaces what the pointers name by null. Text blocks may repeat the structured content, so
/// they are replaced by its remaining structure, or by nothing where there is none. So are the
/// texts of embedded resources.
fn redact(result: &mut Value, pointers: &[String]) {
    if pointers.is_empty() {
        return;
    }
    for pointer in pointers {
        if let Some(hidden) = result.pointer_mut(pointer) {
            *hidden = Value::Null;
        }
    }
    let structured = result.get("structuredContent").map(Value::to_string).unwrap_or_default();
    for block in result.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(text) = block.get_mut("text") {
            *text = Value::String(structured.clone());
        }
        if let Some(resource) = block.get_mut("resource").and_then(Value::as_object_mut) {
            for name in ["text", "blob"] {
                if let Some(text) = resource.get_mut(name) {
                    *text = Value::String(String::new());
                }
            }
        }
    }
}

/// Replaces what the pattern matches in every text, names of members included. Numbers are looked
/// at as they are written.
fn replace(value: &mut Value, pattern: &Regex) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(clean) = pattern.replace_all(text, REDACTED) {
                *text = clean;
            }
        }
        Value::Number(number) => {
            if pattern.is_match(&number.to_string()) {
                *value = REDACTED.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, pattern)),
        Value::Object(members) => {
            if members.keys().any(|name| pattern.is_match(name)) {
                let old = std::mem::take(members);
                let clean = |name: String| pattern.replace_all(&name, REDACTED).into_owned();
                members.extend(old.into_iter().map(|(name, value)| (clean(name), value)));
            }
            members.values_mut().for_each(|item| replace(item, pattern));
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// Cuts every list in what the tool answered after `rows` entries, and lists that are written as
/// JSON, or as lines, in its texts.
fn cap_rows(result: &mut Value, rows: usize) {
    let Some(members) = result.as_object_mut() else { return };
    for (name, value) in members.iter_mut() {
        // The blocks themselves are no rows: each of their texts is cut.
        if name == "content" {
            for block in value.as_array_mut().into_iter().flatten() {
                cap_lists(block, rows);
            }
        } else {
            cap_lists(value, rows);
        }
    }
}

fn cap_lists(value: &mut Value, rows: usize) {
    match value {
        Value::Array(items) => {
            items.truncate(rows);
            items.iter_mut().for_each(|item| cap_lists(item, rows));
        }
        Value::Object(members) => members.values_mut().for_each(|item| cap_lists(item, rows)),
        Value::String(text) => {
            if let Ok(mut inner @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text)
            {
                cap_lists(&mut inner, rows);
                *text = inner.to_string();
            } else if text.lines().count() > rows {
                *text = text.lines().take(rows).collect::<Vec<_>>().join("\n");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Cuts every text of the content after `bytes` bytes, at a character's end. What is longer than
/// that and cannot be cut (binary data, structure) is left out whole.
fn cap_bytes(result: &mut Value, bytes: usize) {
    let Some(members) = result.as_object_mut() else { return };
    for block in members.get_mut("content").and_then(Value::as_array_mut).into_iter().flatten() {
        cap_block(block, bytes);
    }
    members.retain(|name, value| name == "content" || value.to_string().len() <= bytes);
}

fn cap_block(block: &mut Value, bytes: usize) {
    let Some(members) = block.as_object_mut() else { return };
    cut(members, "text", bytes);
    if let Some(resource) = members.get_mut("resource").and_then(Value::as_object_mut) {
        cut(resource, "text", bytes);
        drop_long(resource, bytes);
    }
    drop_long(members, bytes);
}

fn cut(members: &mut Map<String, Value>, name: &str, bytes: usize) {
    if let Some(Value::String(text)) = members.get_mut(name) {
        text.truncate(text.floor_char_boundary(bytes));
    }
}

/// Empties binary data, and removes what else is long.
fn drop_long(members: &mut Map<String, Value>, bytes: usize) {
    for name in ["data", "blob"] {
        if let Some(Value::String(data)) = members.get_mut(name)
            && data.len() > bytes
        {
            data.clear();
        }
    }
    let kept = ["type", "text", "resource", "data", "blob", "uri", "mimeType", "name"];
    members.retain(|name, value| kept.contains(&name.as_str()) || value.to_string().len() <= bytes);
}

#[cfg(test)]
mod tests;
