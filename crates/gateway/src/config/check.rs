//! Checks a tree against the published schema and reports everything that does not fit.
//!
//! Deserialization alone stops at the first mistake and knows no path. This walk understands the
//! part of JSON Schema that the schema generator emits, no more; anything it lets through,
//! deserialization still refuses.

use super::{
    finding::nearest,
    report::{At, Found, Mend},
    scalar::Kind,
    tree::printable,
};
use serde_json::{Map, Value};

/// Everything in `value` that does not fit `schema`.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<Found> {
    let walk = Walk { root: schema };
    walk.check(schema, value, &At::top())
}

struct Walk<'a> {
    root: &'a Value,
}

impl<'a> Walk<'a> {
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        // References of the generator never form a cycle; the bound is for the reader.
        for _ in 0..8 {
            let Some(name) = schema.get("$ref").and_then(Value::as_str) else { break };
            let name = name.trim_start_matches("#/$defs/");
            let Some(found) = self.root.get("$defs").and_then(|defs| defs.get(name)) else { break };
            schema = found;
        }
        schema
    }

    fn check(&self, schema: &'a Value, value: &Value, at: &At) -> Vec<Found> {
        let schema = self.resolve(schema);
        for union in ["anyOf", "oneOf"] {
            if let Some(Value::Array(alternatives)) = schema.get(union) {
                return self.check_union(alternatives, value, at);
            }
        }
        if !fits_type(schema, value) {
            return vec![mismatch(at, &type_words(schema), value)];
        }
        match value {
            Value::Object(members) => self.check_object(schema, members, at),
            Value::Array(list) => {
                let Some(items) = schema.get("items") else { return Vec::new() };
                let each = list.iter().enumerate();
                each.flat_map(|(i, v)| self.check(items, v, &at.index(i))).collect()
            }
            Value::String(text) => check_text(schema, text, at),
            Value::Number(number) => check_number(schema, number, at),
            Value::Bool(_) | Value::Null => Vec::new(),
        }
    }

    fn check_object(&self, schema: &'a Value, members: &Map<String, Value>, at: &At) -> Vec<Found> {
        let known = schema.get("properties").and_then(Value::as_object);
        let mut all = Vec::new();
        let mut meant = Vec::new();
        for (name, value) in members {
            let here = at.key(name);
            if let Some(schema) = known.and_then(|known| known.get(name)) {
                all.extend(self.check(schema, value, &here));
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => {
                    let unknown = unknown_member(here, name, members, known);
                    if let Mend::Rename(to) = &unknown.mend {
                        meant.push(to.clone());
                    }
                    all.push(unknown);
                }
                Some(schema) => all.extend(self.check(schema, value, &here)),
                None => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let required = required.filter_map(Value::as_str);
        for name in required {
            if members.contains_key(name) || meant.iter().any(|meant| meant == name) {
                continue;
            }
            let missing = Found::new(at.clone(), format!("`{name}` is missing"));
            let description = known.and_then(|known| known.get(name)?.get("description"));
            all.push(match description.and_then(Value::as_str) {
                Some(text) => missing.hint(format!("it is: {}", first_sentence(text))),
                None => missing,
            });
        }
        all
    }

    /// The alternative that the value comes nearest to decides what is reported.
    fn check_union(&self, alternatives: &'a [Value], value: &Value, at: &At) -> Vec<Found> {
        let alternatives: Vec<&Value> = alternatives.iter().map(|a| self.resolve(a)).collect();
        if let Value::String(text) = value {
            let words = words(&alternatives);
            let only_words = alternatives.iter().all(|a| is_words(a) || !fits_type(a, value));
            if words.contains(&text.as_str()) {
                return Vec::new();
            }
            if !words.is_empty() && only_words {
                return vec![not_a_word(at, text, &words)];
            }
        }
        if let Value::Object(members) = value
            && let Some(tags) = tags(&alternatives)
            && !members.keys().any(|key| tags.contains(&key.as_str()))
        {
            return vec![not_tagged(at, members, &tags)];
        }
        let fitting: Vec<&Value> = alternatives
            .iter()
            .copied()
            .filter(|a| fits_type(a, value) && !(value.is_string() && is_words(a)))
            .collect();
        let tried = fitting.iter().map(|schema| self.check(schema, value, at));
        match tried.min_by_key(Vec::len) {
            Some(nearest) => nearest,
            None => {
                let mut types: Vec<String> = alternatives.iter().map(|a| type_words(a)).collect();
                types.dedup();
                vec![mismatch(at, &types.join(" or "), value)]
            }
        }
    }
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    let sentence = text.split_once(". ").map_or(text.as_str(), |(first, _)| first);
    sentence.trim_end_matches('.').to_owned()
}

fn unknown_member(
    at: At,
    name: &str,
    members: &Map<String, Value>,
    known: Option<&Map<String, Value>>,
) -> Found {
    let names: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let found = Found::new(at, format!("unknown member `{}`", printable(name)));
    match nearest(name, names.iter().copied()) {
        Some(near) if members.contains_key(near) => found.hint(meant(near)).mend(Mend::Drop),
        Some(near) => found.hint(meant(near)).mend(Mend::Rename(near.to_owned())),
        None => found.hint(format!("known here: {}", quoted(&names))).mend(Mend::Drop),
    }
}

fn meant(word: &str) -> String {
    format!("did you mean `{word}`?")
}

fn not_a_word(at: &At, text: &str, words: &[&str]) -> Found {
    let message = format!("`{}` is none of {}", printable(text), quoted(words));
    let found = Found::new(at.clone(), message);
    match nearest(text, words.iter().copied()) {
        Some(near) => found.hint(meant(near)).mend(Mend::Replace(near.to_owned())),
        None => found,
    }
}

fn not_tagged(at: &At, members: &Map<String, Value>, tags: &[&str]) -> Found {
    let one_of = if tags.len() > 1 { "one of " } else { "" };
    let found = Found::new(at.clone(), format!("expected {one_of}{}", quoted(tags)));
    match members.keys().find_map(|key| nearest(key, tags.iter().copied())) {
        Some(near) => found.hint(meant(near)),
        None => found,
    }
}

pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The member that tells alternatives apart, one each, when they are all tagged so.
fn tags<'a>(alternatives: &[&'a Value]) -> Option<Vec<&'a str>> {
    let objects = alternatives.iter().filter(|a| a.get("type").is_some_and(|t| t == "object"));
    let tags: Option<Vec<&str>> = objects
        .map(|schema| match schema.get("required")?.as_array()?.as_slice() {
            [only] if schema.get("properties")?.as_object()?.len() == 1 => only.as_str(),
            _ => None,
        })
        .collect();
    tags.filter(|tags| !tags.is_empty())
}

fn is_words(schema: &Value) -> bool {
    schema.get("enum").is_some() || schema.get("const").is_some()
}

/// The words that alternatives allow.
fn words<'a>(alternatives: &[&'a Value]) -> Vec<&'a str> {
    let listed = |schema: &&'a Value| {
        let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        several.chain(schema.get("const")).filter_map(Value::as_str).collect::<Vec<_>>()
    };
    alternatives.iter().flat_map(listed).collect()
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits_type(schema: &Value, value: &Value) -> bool {
    let fits = |name: &str| match (name, value) {
        ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("null", Value::Null) => true,
        ("integer", Value::Number(number)) => number.is_u64() || number.is_i64(),
        _ => false,
    };
    let types = types(schema);
    types.is_empty() || types.into_iter().any(fits)
}

fn type_words(schema: &Value) -> String {
    let word = |name: &str| match name {
        "string" => "text",
        "boolean" => "`true` or `false`",
        "integer" => "a whole number",
        "object" => "a mapping",
        "array" => "a list",
        _ => "",
    };
    let words: Vec<&str> = types(schema).into_iter().map(word).filter(|w| !w.is_empty()).collect();
    words.join(" or ")
}

fn mismatch(at: &At, expected: &str, value: &Value) -> Found {
    let (is, is_scalar) = match value {
        Value::Null => ("nothing", false),
        Value::Bool(_) => ("`true` or `false`", true),
        Value::Number(_) => ("a number", true),
        Value::String(_) => ("text", false),
        Value::Array(_) => ("a list", false),
        Value::Object(_) => ("a mapping", false),
    };
    let expected = expected.trim_start_matches(" or ").trim_end_matches(" or ");
    let found = Found::new(at.clone(), format!("expected {expected}, found {is}"));
    if is_scalar && expected.contains("text") { found.hint("put it in quotes") } else { found }
}

fn check_text(schema: &Value, text: &str, at: &At) -> Vec<Found> {
    let words = words(&[schema]);
    if !words.is_empty() && !words.contains(&text) {
        return vec![not_a_word(at, text, &words)];
    }
    let kind = schema.get("format").and_then(Value::as_str).and_then(Kind::of_format);
    match kind.and_then(|kind| kind.problem(text)) {
        Some((message, hint)) => {
            vec![Found::new(at.clone(), message).hint(hint).mend(Mend::Drop)]
        }
        None => Vec::new(),
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, at: &At) -> Vec<Found> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64).map(i128::from);
    let Some(value) = number.as_i128() else { return Vec::new() };
    let low = bound("minimum").filter(|low| value < *low);
    let high = bound("maximum").filter(|high| value > *high);
    let message = match (low, high) {
        (Some(low), _) => format!("{value} is less than {low}"),
        (_, Some(high)) => format!("{value} is more than {high}"),
        (None, None) => return Vec::new(),
    };
    vec![Found::new(at.clone(), message).mend(Mend::Drop)]
}
