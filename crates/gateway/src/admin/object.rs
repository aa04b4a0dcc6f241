//! Objects, read as objects: the library behind our forms would take a list of values for one, too.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Number, Value};

/// A form that must be an object.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<T, D::Error> {
    let members = Map::<String, Value>::deserialize(from)?;
    serde_json::from_value(Value::Object(members)).map_err(D::Error::custom)
}

/// One that need not be there, but is an object if it is.
pub(super) fn maybe<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    object(from).map(Some)
}

/// One that need not be there, or is `null`, or an object.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(from)?;
    let read = members.map(|members| serde_json::from_value(Value::Object(members)));
    read.transpose().map_err(D::Error::custom)
}

/// A whole number, which JSON may also write with a fraction of nothing.
pub(super) fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(from)? else { return Ok(None) };
    let text = number.to_string();
    let whole = text.strip_suffix(".0").unwrap_or(&text).parse();
    whole.map(Some).map_err(|_| D::Error::custom("expected a whole number below 2^32"))
}

/// A whole text that is one object.
pub(super) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let members: Map<String, Value> = serde_json::from_slice(text)?;
    serde_json::from_value(Value::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    struct Inner {
        a: u8,
    }

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    struct Form {
        #[serde(deserialize_with = "object")]
        inner: Inner,
        #[serde(default, deserialize_with = "maybe")]
        other: Option<Inner>,
        #[serde(default, deserialize_with = "whole")]
        count: Option<u32>,
        #[serde(default, deserialize_with = "nullable")]
        last: Option<Inner>,
    }

    #[test]
    fn a_list_is_no_object() {
        let good = read::<Form>(br#"{"inner":{"a":1},"count":5.0,"last":null}"#).unwrap();
        assert_eq!(good, Form { inner: Inner { a: 1 }, other: None, count: Some(5), last: None });
        for bad in [
            r#"[{"a":1}]"#,
            r#"{"inner":[1]}"#,
            r#"{"inner":{"a":1},"other":[1]}"#,
            r#"{"inner":{"a":1},"other":null}"#,
            r#"{"inner":{"a":1},"last":[1]}"#,
            r#"{"inner":{"a":1},"count":5.5}"#,
            r#"{"inner":{"a":1},"count":-1}"#,
            r#"{"inner":{"a":1},"count":1e99}"#,
        ] {
            assert!(read::<Form>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
