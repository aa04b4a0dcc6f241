//! Objects over their original bytes: split into members, and written member by member.
//!
//! A typed parse and print of what passes through would drop unknown members, turn large integers
//! into floats and lose the order of keys. So values stay raw text, and only the members we own
//! are replaced.

use super::json::{JsonError, quote};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Unexpected, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::HashSet, fmt};

/// One member of an object, over the original bytes.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    /// The key as written, quotes and escapes included.
    pub(super) raw_key: &'a str,
    /// The key, unescaped.
    pub(super) key: Cow<'a, str>,
    /// The value as written.
    pub(super) value: &'a RawValue,
}

/// So many keys are compared one with the other faster than they are hashed.
const FEW: usize = 12;

/// The members of one object, in the order in which they were written.
pub(super) struct Members<'a>(pub(super) Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Splits an object. `None` when the value is no object.
    ///
    /// # Errors
    /// [`JsonError::DuplicateKey`] when it has one key twice.
    pub(super) fn of(raw: &'a RawValue) -> Result<Option<Self>, JsonError> {
        // A raw value is JSON already: what fails here is its type, or an unreadable key.
        if !raw.get().starts_with('{') {
            return Ok(None);
        }
        let members: Self = serde_json::from_str(raw.get()).map_err(|_| JsonError::BadUtf8)?;
        members.refuse_duplicates().map(Some)
    }

    /// The same members, unless one key is there twice.
    pub(super) fn refuse_duplicates(self) -> Result<Self, JsonError> {
        let keys = || self.0.iter().map(|member| &*member.key);
        let is_distinct = if self.0.len() <= FEW {
            keys().enumerate().all(|(index, key)| !keys().take(index).any(|other| other == key))
        } else {
            let mut seen = HashSet::with_capacity(self.0.len());
            keys().all(|key| seen.insert(key))
        };
        if is_distinct { Ok(self) } else { Err(JsonError::DuplicateKey) }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<Member<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                    let raw_key = key.get();
                    let key = unquote(raw_key)
                        .ok_or_else(|| M::Error::invalid_value(Unexpected::Other("key"), &self))?;
                    members.push(Member { raw_key, key, value });
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Self)
    }
}

/// The text of a JSON string literal; `None` when the value is no string, or no Unicode.
pub(super) fn unquote(literal: &str) -> Option<Cow<'_, str>> {
    let content = literal.strip_prefix('"')?.strip_suffix('"')?;
    if content.contains('\\') {
        return serde_json::from_str(literal).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(content))
}

/// Writes one JSON object, member by member, from parts that are JSON already.
pub(super) struct ObjectWriter(String);

impl ObjectWriter {
    /// An empty object.
    pub(super) fn new() -> Self {
        Self::with_capacity(256)
    }

    /// An empty object that will be about this many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self(text)
    }

    /// Appends a member whose value is JSON.
    pub(super) fn raw(mut self, key: &str, value: &str) -> Self {
        self.push(&quote(key), value);
        self
    }

    /// Appends a member whose value is a string.
    pub(super) fn text(self, key: &str, value: &str) -> Self {
        let value = quote(value);
        self.raw(key, &value)
    }

    /// Appends a string member if there is one.
    pub(super) fn text_if(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// Appends a JSON member if there is one.
    pub(super) fn raw_if(self, key: &str, value: Option<&RawValue>) -> Self {
        match value {
            Some(value) => self.raw(key, value.get()),
            None => self,
        }
    }

    /// Appends a member from its JSON key and JSON value.
    pub(super) fn push(&mut self, raw_key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(raw_key);
        self.0.push(':');
        self.0.push_str(value);
    }

    /// The object's text.
    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The members of one object, for reading a known type. `null` counts as absent, as foreign
/// writers of optional members have it.
pub(super) struct Fields<'a>(Vec<Member<'a>>);

/// A member that is missing or has the wrong type.
#[derive(Clone, Copy)]
pub(super) struct BadField(pub(super) &'static str);

impl<'a> Fields<'a> {
    /// The fields of a value that must be an object; `name` is what the error calls it.
    pub(super) fn of(raw: &'a RawValue, name: &'static str) -> Result<Self, BadField> {
        let members = Members::of(raw).ok().flatten().ok_or(BadField(name))?;
        Ok(Self(members.0))
    }

    /// A member, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<&'a RawValue> {
        let member = self.0.iter().find(|m| m.key == name);
        member.map(|m| m.value).filter(|value| value.get() != "null")
    }

    /// A member that must be there.
    pub(super) fn raw(&self, name: &'static str) -> Result<&'a RawValue, BadField> {
        self.find(name).ok_or(BadField(name))
    }

    /// An object, if it is there.
    pub(super) fn object_if(&self, name: &'static str) -> Result<Option<&'a RawValue>, BadField> {
        match self.find(name) {
            Some(value) if !value.get().starts_with('{') => Err(BadField(name)),
            value => Ok(value),
        }
    }

    /// A string.
    pub(super) fn text(&self, name: &'static str) -> Result<String, BadField> {
        self.text_if(name)?.ok_or(BadField(name))
    }

    /// A string, if it is there.
    pub(super) fn text_if(&self, name: &'static str) -> Result<Option<String>, BadField> {
        let text = |value: &RawValue| unquote(value.get()).map(Cow::into_owned);
        self.find(name).map(|value| text(value).ok_or(BadField(name))).transpose()
    }

    /// Any other type, as `serde` reads it.
    pub(super) fn read<T: Deserialize<'a>>(&self, name: &'static str) -> Result<T, BadField> {
        serde_json::from_str(self.raw(name)?.get()).map_err(|_| BadField(name))
    }

    /// The members that are none of `known`.
    pub(super) fn others(&self, known: &[&str]) -> impl Iterator<Item = &Member<'a>> {
        self.0.iter().filter(|m| !known.contains(&&*m.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_bytes() {
        let raw: &RawValue = serde_json::from_str(r#"{ "\u0061" : 1.0 , "b":[ 2 ] }"#).unwrap();
        let members = Members::of(raw).unwrap().unwrap().0;
        assert_eq!((&*members[0].key, members[0].raw_key), ("a", r#""\u0061""#));
        assert_eq!((members[0].value.get(), members[1].value.get()), ("1.0", "[ 2 ]"));
        let twice: &RawValue = serde_json::from_str(r#"{"\u0061":1,"a":2}"#).unwrap();
        assert!(matches!(Members::of(twice), Err(JsonError::DuplicateKey)));
        let list: &RawValue = serde_json::from_str("[]").unwrap();
        assert!(matches!(Members::of(list), Ok(None)));
    }
}
