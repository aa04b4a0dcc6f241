//! The people and roles that policies name, so that they are known again in records, which do not
//! name them.

use super::Engine;
use countersign_core::policy::Names;
use countersign_store::pseudonym;
use serde_json::Value;
use std::collections::BTreeSet;

impl Engine {
    /// Those that the policies name. People are in it only with the key of their pseudonyms.
    #[must_use]
    pub fn names(&self, key: Option<&[u8; 32]>) -> Names {
        let mut names = Names::default();
        for (of, id) in self.entities() {
            match (of.as_str(), id.split_once('/'), key) {
                ("Human", _, Some(key)) => names.human(pseudonym(key, &id), &id),
                ("Role", Some((tenant, role)), _) => names.role(&unescaped(tenant), role),
                ("Team", Some((tenant, team)), _) => {
                    names.role(&unescaped(tenant), &format!("team:{team}"));
                }
                _ => {}
            }
        }
        names
    }

    /// Whether a policy names a person.
    #[must_use]
    pub fn names_people(&self) -> bool {
        self.entities().iter().any(|(of, id)| of == "Human" && id != "anonymous")
    }

    /// Type and id of every entity that a policy names.
    pub(super) fn entities(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        for policy in self.slices.all() {
            if let Ok(json) = policy.to_json() {
                collect(&json, &mut found);
            }
        }
        found
    }
}

/// Cedar's JSON writes an entity as an object with `type` and `id`.
fn collect(json: &Value, found: &mut BTreeSet<(String, String)>) {
    match json {
        Value::Object(members) => {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            if let (Some(of), Some(id)) = (text("type"), text("id")) {
                found.insert((of.to_owned(), id.to_owned()));
            }
            members.values().for_each(|inner| collect(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The other way round from how a name is written under its owner.
fn unescaped(owner: &str) -> String {
    owner.replace("%2F", "/").replace("%25", "%")
}
