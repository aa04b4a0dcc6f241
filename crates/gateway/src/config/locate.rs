//! Lines: where in the file the member at a path begins.
//!
//! Parsers tell positions only in errors. So the file is read once more, along the path, and the
//! reading is made to fail exactly there.

use super::{source::Format, tree::Step};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, fmt};

/// The line of the `occurrence`-th (from 0) member or element at a path, else of its nearest
/// ancestor.
pub(super) fn line(text: &str, format: Format, path: &[Step], occurrence: usize) -> Option<u32> {
    let mut path = path;
    let mut occurrence = occurrence;
    while let Some((_, parent)) = path.split_last() {
        let found = Cell::new(false);
        let seek = Seek { path, occurrence, found: &found };
        if let Err(stopped) = format.with(text, seek)
            && found.get()
        {
            return stopped.line;
        }
        path = parent;
        occurrence = 0;
    }
    None
}

/// Follows a path and fails at its end.
#[derive(Clone, Copy)]
struct Seek<'a> {
    path: &'a [Step],
    occurrence: usize,
    found: &'a Cell<bool>,
}

impl Seek<'_> {
    fn stop<E: de::Error>(self) -> E {
        self.found.set(true);
        E::custom("here")
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.path.split_first() else { return Err(self.stop()) };
        let Step::Index(wanted) = step else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        for _ in 0..*wanted {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        seq.next_element_seed(Self { path: rest, ..self })?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.path.split_first() else { return Err(self.stop()) };
        let wanted = match step {
            Step::Key(key) => key.as_str(),
            Step::Index(_) => "\u{0}",
        };
        let seen = Cell::new(0);
        let key = Key { wanted, is_last: rest.is_empty(), seen: &seen, seek: self };
        while let Some(is_wanted) = map.next_key_seed(key)? {
            if is_wanted {
                map.next_value_seed(Self { path: rest, ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl Seek<'_> {
    fn scalar<E: de::Error>(self) -> Result<(), E> {
        if self.path.is_empty() { Err(self.stop()) } else { Ok(()) }
    }
}

/// A member's name; reading fails at the one looked for when it ends the path.
#[derive(Clone, Copy)]
struct Key<'a> {
    wanted: &'a str,
    is_last: bool,
    seen: &'a Cell<usize>,
    seek: Seek<'a>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        if key != self.wanted {
            return Ok(false);
        }
        let seen = self.seen.replace(self.seen.get().saturating_add(1));
        if self.is_last && seen == self.seek.occurrence {
            return Err(self.seek.stop());
        }
        Ok(!self.is_last)
    }
}
