//! JSON Schemas of what the API's forms take from `core`, which knows no schemas: words,
//! identifiers, and two groups of optional members.
//!
//! INVARIANT: words are those that the types themselves read; the groups' members are compared
//! with the types by the tests below.

use super::form::MONEY;
use countersign_core::ids::NotAnId;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};
use std::{any::type_name, borrow::Cow, cell::Cell, marker::PhantomData, str::FromStr};

/// The last part of a type's path.
fn short_name<T>() -> Cow<'static, str> {
    type_name::<T>().rsplit("::").next().unwrap_or("Word").into()
}

/// One word of an enum's.
pub(super) struct Word<T>(PhantomData<T>);

impl<T: DeserializeOwned> JsonSchema for Word<T> {
    fn schema_name() -> Cow<'static, str> {
        short_name::<T>()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": words::<T>() })
    }
}

/// The words that an enum is read from.
pub(super) fn words<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let seen = Cell::new(&[][..]);
    let _asked = T::deserialize(Asking(&seen));
    seen.get()
}

/// Reads nothing, and notes which words an enum would read.
struct Asking<'a>(&'a Cell<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Asking<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.set(words);
        Err(Error::custom("asked"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// An identifier.
pub(super) struct Id<T>(PhantomData<T>);

impl<T: FromStr<Err = NotAnId>> JsonSchema for Id<T> {
    fn schema_name() -> Cow<'static, str> {
        short_name::<T>()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let prefix = "".parse::<T>().err().map_or("", |refused| refused.expected_prefix);
        json_schema!({
            "type": "string",
            "pattern": format!("^{prefix}_[0-9a-fA-F]{{32}}$"),
            "examples": [format!("{prefix}_01a1ee565e000000000000000000000a")],
        })
    }
}

/// A SHA-256 in hex.
pub(super) struct Hex;

impl JsonSchema for Hex {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

/// Money as people write it.
pub(super) struct Money;

impl JsonSchema for Money {
    fn schema_name() -> Cow<'static, str> {
        "Money".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": MONEY, "examples": ["0.05 USD"] })
    }
}

/// What is empty is not written.
fn all_optional(schema: &mut Schema) {
    schema.remove("required");
}

/// The members of [`countersign_core::grant::Bounds`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = all_optional)]
#[schemars(rename = "Bounds", description = "What narrows a grant further.")]
#[allow(dead_code, reason = "read for its schema alone")]
#[derive(Default)]
pub(super) struct BoundsForm {
    /// The purpose that a call must declare, as a code.
    #[schemars(length(min = 1, max = 512))]
    purpose_code: Option<String>,
    /// Who may be paid: every offer of a quote must be to one of them.
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    payees: Vec<String>,
    /// Wallets that may pay, as addresses, or `linked`: only on rails that tell the payer.
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    payers: Vec<String>,
    /// What must hold of the arguments: all of it.
    #[schemars(length(max = 64))]
    arguments: Vec<ArgumentForm>,
    /// The most agents that may stand between the acting one and the person.
    max_depth: Option<u8>,
    /// Only in this session: an MCP session, else the reference of an access token.
    #[schemars(length(min = 1, max = 512))]
    session: Option<String>,
    /// The grant that it is a part of: what it uses is used of that one, too.
    #[schemars(with = "Option<Id<countersign_core::ids::GrantId>>")]
    #[serde(default)]
    parent: Option<String>,
}

/// The members of [`countersign_core::grant::ArgumentRule`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ArgumentRule")]
#[schemars(description = "A member of the arguments and the values that it may have.")]
#[allow(dead_code, reason = "read for its schema alone")]
struct ArgumentForm {
    /// JSON pointer (RFC 6901) into the arguments.
    #[schemars(length(max = 512), regex(pattern = "^/"))]
    pointer: String,
    /// The values that it may have.
    #[schemars(length(max = 64))]
    one_of: Vec<serde_json::Value>,
}

/// The members of [`countersign_core::ledger::BudgetScope`].
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "BudgetScope", transform = all_optional)]
#[schemars(description = "A value counts that one, `*` each one by itself, nothing all together.")]
#[allow(dead_code, reason = "read for its schema alone")]
pub(super) struct ScopeForm {
    /// Tenant.
    #[schemars(length(min = 1, max = 512))]
    tenant: Option<String>,
    /// Team: a role or group of the delegator. Who has several is counted in each.
    #[schemars(length(min = 1, max = 512))]
    team: Option<String>,
    /// Delegator (`iss|sub`).
    #[schemars(length(min = 1, max = 512))]
    delegator: Option<String>,
    /// Agent.
    #[schemars(length(min = 1, max = 512))]
    agent: Option<String>,
    /// Server.
    #[schemars(length(min = 1, max = 512))]
    server: Option<String>,
    /// Tool (`server/tool`).
    #[schemars(length(min = 1, max = 512))]
    tool: Option<String>,
    /// Intent, by its word.
    #[schemars(length(min = 1, max = 512))]
    intent: Option<String>,
    /// Grant, by its identifier.
    #[schemars(length(min = 1, max = 512))]
    grant: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{
        grant::{ArgumentRule, Bounds, GrantStatus},
        ids::GrantId,
        ledger::BudgetScope,
        policy::Intent,
    };
    use serde::Serialize;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn schema<T: JsonSchema>() -> Value {
        let settings = schemars::generate::SchemaSettings::draft2020_12();
        settings.into_generator().into_root_schema_for::<T>().to_value()
    }

    #[test]
    fn words_are_those_that_the_types_read() {
        assert_eq!(words::<GrantStatus>(), ["active", "suspended", "revoked"]);
        assert_eq!(words::<Intent>(), Intent::ALL.map(Intent::text));
        assert_eq!(words::<String>(), <[&str; 0]>::default());
        for word in words::<Intent>() {
            assert!(serde_json::from_value::<Intent>(json!(word)).is_ok(), "{word}");
        }
    }

    #[test]
    fn identifiers_name_their_kind() {
        let pattern = "^grant_[0-9a-fA-F]{32}$";
        assert_eq!(schema::<Id<GrantId>>().pointer("/pattern"), Some(&json!(pattern)));
    }

    fn says_the_same<T: Serialize, S: JsonSchema>(full: &T) {
        let members = serde_json::to_value(full).unwrap();
        let members: BTreeSet<String> = members.as_object().unwrap().keys().cloned().collect();
        let said = schema::<S>();
        let said: BTreeSet<String> =
            said.pointer("/properties").unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(said, members);
    }

    #[test]
    fn groups_have_the_members_of_their_types() {
        let rule = ArgumentRule { pointer: "/a".into(), one_of: vec![json!(1)] };
        says_the_same::<_, ArgumentForm>(&rule);
        says_the_same::<_, BoundsForm>(&Bounds {
            purpose_code: Some("p".into()),
            payees: vec!["a".into()],
            payers: vec!["b".into()],
            arguments: vec![rule],
            max_depth: Some(1),
            session: Some("s".into()),
            parent: Some(GrantId::from_bytes([0; 16])),
        });
        let all: BudgetScope = serde_json::from_value(json!({
            "tenant": "a", "team": "a", "delegator": "a", "agent": "a", "server": "a",
            "tool": "a", "intent": "a", "grant": "a",
        }))
        .unwrap();
        says_the_same::<_, ScopeForm>(&all);
    }
}
