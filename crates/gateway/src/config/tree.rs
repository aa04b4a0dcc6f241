//! The generic tree of a configuration file: read with limits, duplicates noticed, lines found.
//!
//! INVARIANT: the tree has at most [`MAX_NODES`] nodes, whatever aliases the file uses.

use super::{finding::Finding, source::Format};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt};

/// Most values in one file, aliases expanded.
const MAX_NODES: usize = 200_000;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A member.
    Key(String),
    /// An element.
    Index(usize),
}

/// Writes steps as people do: `issuers[0].tenant`.
pub(super) fn show(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&printable(key));
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// A name as it may be shown: no control characters, at most 80 characters.
pub(super) fn printable(text: &str) -> String {
    let mut shown: String =
        text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > 80 {
        shown.push('…');
    }
    shown
}

/// A file as a tree, and the members that occur twice.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Value,
    pub(super) duplicates: Vec<Vec<Step>>,
}

impl Tree {
    /// Reads a text.
    ///
    /// # Errors
    /// The text is not of the format, or is too large or too deep.
    pub(super) fn read(text: &str, format: Format) -> Result<Self, Finding> {
        let state = RefCell::new(State::default());
        let root = format.with(text, Grow { state: &state })?;
        Ok(Self { root, duplicates: state.into_inner().duplicates })
    }
}

#[derive(Default)]
struct State {
    nodes: usize,
    path: Vec<Step>,
    duplicates: Vec<Vec<Step>>,
}

/// Builds one node.
#[derive(Clone, Copy)]
struct Grow<'s> {
    state: &'s RefCell<State>,
}

impl Grow<'_> {
    fn enter(self, step: Step) {
        self.state.borrow_mut().path.push(step);
    }

    fn leave(self) {
        self.state.borrow_mut().path.pop();
    }
}

impl<'de> DeserializeSeed<'de> for Grow<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let nodes = {
            let mut state = self.state.borrow_mut();
            state.nodes = state.nodes.saturating_add(1);
            state.nodes
        };
        if nodes > MAX_NODES {
            return Err(de::Error::custom("the file has too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Grow<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true, false, a list or a mapping")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.enter(Step::Index(list.len()));
            let element = seq.next_element_seed(self)?;
            self.leave();
            match element {
                Some(element) => list.push(element),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.enter(Step::Key(key.clone()));
            let value = map.next_value_seed(self)?;
            if members.insert(key, value).is_some() {
                let mut state = self.state.borrow_mut();
                let path = state.path.clone();
                state.duplicates.push(path);
            }
            self.leave();
        }
        Ok(Value::Object(members))
    }
}
