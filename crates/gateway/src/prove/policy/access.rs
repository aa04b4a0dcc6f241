//! Questions about things of a bundle's own, as OpenID AuthZEN puts them: may this `user` do
//! `can_read` with this `document`.
//!
//! They have a schema (`access.cedarschema`) and policies (`access.cedar`) of their own. What the
//! bundle says of things stands in `access.json`, in Cedar's form of entities. A question may add
//! attributes that the schema knows and the bundle does not say.
//!
//! INVARIANT: what the bundle says of a thing is not overridden by a question.
//! INVARIANT: an unknown kind or action, a value of another type, an error of a rule: each is no.
//! Calls of tools are not decided here; nothing here lets one run.

use super::{
    Engine,
    bundle::{ACCESS, Bundle},
    load::{Read as PoliciesRead, read_policies, read_schema, validate},
    problem::{Flaw, Problem, Source},
    rule::{Duty, Rule},
};
use cedar_policy::{
    AuthorizationError, Authorizer, Context, Effect, Entities, EntityId, EntityTypeName, EntityUid,
    PolicySet, Request, Schema, SchemaFragment,
};
use countersign_core::{policy::Reason, time::UnixMs};
use serde_json::{Map, Value, json};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

/// The entity that actions are.
const ACTION: &str = "Action";

/// A thing that a question is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// Its type.
    pub kind: String,
    /// Its name.
    pub id: String,
    /// What the question says of it.
    pub properties: Map<String, Value>,
}

/// A question about a bundle's own things.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Who.
    pub subject: Thing,
    /// Does what.
    pub action: String,
    /// How.
    pub action_properties: Map<String, Value>,
    /// With what.
    pub resource: Thing,
    /// Under which circumstances.
    pub context: Map<String, Value>,
    /// When.
    pub now: UnixMs,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Yes or no.
    pub is_allowed: bool,
    /// The rules behind it.
    pub reasons: Vec<Reason>,
}

/// Members of a record that the schema knows, each with its type's own form.
type Shape = Map<String, Value>;

/// An action of the namespace.
#[derive(Debug)]
struct Action {
    subjects: BTreeSet<String>,
    resources: BTreeSet<String>,
    context: Shape,
}

/// A bundle's own things.
#[derive(Debug)]
pub(super) struct Own {
    schema: Schema,
    policies: PolicySet,
    pub(super) rules: BTreeMap<String, Rule>,
    kinds: BTreeMap<String, Shape>,
    actions: BTreeMap<String, Action>,
    entities: Entities,
    /// What the bundle says, by kind and name.
    known: BTreeMap<(String, String), Map<String, Value>>,
}

/// Why a question cannot be put.
struct Unputtable(&'static str);

impl Own {
    /// Reads them; `None` where the bundle has none, or something is wrong with them.
    pub(super) fn read(bundle: &Bundle, problems: &mut Vec<Problem>) -> Option<Self> {
        let [schema, policies, entities] = ACCESS.map(|name| bundle.file(name));
        if schema.is_none() && policies.is_none() && entities.is_none() {
            return None;
        }
        let [schema_file, policies_file, entities_file] = ACCESS.map(Source::Data);
        let mut found = Vec::new();
        let text = schema.unwrap_or_default();
        let schema = read_schema(text, &mut found);
        own_source(&mut found, schema_file, problems);
        let text_of_policies = policies.unwrap_or_default();
        let read = read_policies(text_of_policies, &mut found);
        if let Some(schema) = &schema {
            validate(schema, &read, text_of_policies, &mut found);
        }
        found.extend(read.rules.values().filter(|rule| rule.duty != Duty::None).map(|rule| {
            let flaw = Flaw::UnknownAnnotation("obligation".to_owned());
            let policy = Some(rule.id.clone());
            Problem { source: policies_file, place: None, policy, flaw }
        }));
        own_source(&mut found, policies_file, problems);
        let mut told = |source, flaw| {
            problems.push(Problem { source, place: None, policy: None, flaw });
        };
        let schema = schema?;
        let own = Self::of(text, schema, read, entities.unwrap_or("[]"));
        own.map_err(|(flaw, is_data)| {
            told(if is_data { entities_file } else { schema_file }, flaw);
        })
        .ok()
    }

    fn of(
        text: &str,
        schema: Schema,
        read: PoliciesRead,
        entities: &str,
    ) -> Result<Self, (Flaw, bool)> {
        let wrong = |error: &dyn std::error::Error| (Flaw::Misfit(error.to_string()), false);
        let fragment = SchemaFragment::from_cedarschema_str(text).map_err(|e| wrong(&e))?.0;
        let all = fragment.to_json_value().map_err(|e| wrong(&e))?;
        // Types of AuthZEN are plain words: those of the schema that are in no namespace.
        let none = Value::Null;
        let own = all.get("").unwrap_or(&none);
        let types = own.get("commonTypes");
        let members = |name: &str| own.get(name).and_then(Value::as_object).into_iter().flatten();
        let kind =
            |(name, kind): (&String, &Value)| (name.clone(), shape(kind.get("shape"), types));
        let action = |(name, action): (&String, &Value)| {
            let applies = action.get("appliesTo")?;
            let names = |of: &str| applies.get(of).and_then(Value::as_array).map(|all| plain(all));
            let (subjects, resources) = (names("principalTypes")?, names("resourceTypes")?);
            let context = shape(applies.get("context"), types);
            Some((name.clone(), Action { subjects, resources, context }))
        };
        let kinds = members("entityTypes").map(kind).collect();
        let actions = members("actions").filter_map(action).collect();
        let (entities, known) = read_entities(entities, &schema).map_err(|flaw| (flaw, true))?;
        let policies = PolicySet::from_policies(read.policies).map_err(|e| wrong(&e))?;
        Ok(Self { schema, policies, rules: read.rules, kinds, actions, entities, known })
    }

    fn put(&self, access: &Access) -> Result<(Request, Cow<'_, Entities>), Unputtable> {
        let kind = |thing: &Thing| self.kinds.get(&thing.kind).ok_or(Unputtable("TYPE_UNKNOWN"));
        let shapes = [kind(&access.subject)?, kind(&access.resource)?];
        let action = self.actions.get(&access.action).ok_or(Unputtable("ACTION_UNKNOWN"))?;
        let is_about = action.subjects.contains(&access.subject.kind)
            && action.resources.contains(&access.resource.kind);
        if !is_about {
            return Err(Unputtable("ACTION_UNKNOWN"));
        }
        let entities = self.with([&access.subject, &access.resource], shapes)?;
        let uid = action_uid(&access.action).ok_or(Unputtable("ACTION_UNKNOWN"))?;
        let mut said = access.context.clone();
        said.insert("action".to_owned(), Value::Object(access.action_properties.clone()));
        let context = known_members(&said, &action.context);
        let context = Context::from_json_value(context, Some((&self.schema, &uid)));
        let context = context.map_err(|_| Unputtable("FACTS_UNUSABLE"))?;
        let subject = thing_uid(&access.subject).ok_or(Unputtable("TYPE_UNKNOWN"))?;
        let resource = thing_uid(&access.resource).ok_or(Unputtable("TYPE_UNKNOWN"))?;
        let request = Request::new(subject, uid, resource, context, Some(&self.schema));
        Ok((request.map_err(|_| Unputtable("FACTS_UNUSABLE"))?, entities))
    }

    /// What the bundle says, with what a question adds; as it is where nothing is added.
    fn with(
        &self,
        things: [&Thing; 2],
        shapes: [&Shape; 2],
    ) -> Result<Cow<'_, Entities>, Unputtable> {
        let added = things.into_iter().zip(shapes);
        let added: Vec<Value> =
            added.filter_map(|(thing, shape)| self.added(thing, shape)).collect();
        if added.is_empty() {
            return Ok(Cow::Borrowed(&self.entities));
        }
        let unusable = Unputtable("FACTS_UNUSABLE");
        let added = Entities::from_json_value(Value::Array(added), Some(&self.schema));
        let Ok(added) = added else { return Err(unusable) };
        let all = self.entities.clone().upsert_entities(added, Some(&self.schema));
        all.map(Cow::Owned).map_err(|_| unusable)
    }

    /// A thing with what the bundle says of it, and what the question adds; `None` where it adds
    /// nothing.
    fn added(&self, thing: &Thing, shape: &Shape) -> Option<Value> {
        let known = self.known.get(&(thing.kind.clone(), thing.id.clone()));
        let part = |name: &str| known.and_then(|known| known.get(name)).cloned();
        let own = part("attrs").and_then(|own| own.as_object().cloned()).unwrap_or_default();
        let said = known_members(&thing.properties, shape);
        let mut attributes = said.as_object().cloned().unwrap_or_default();
        if known.is_some() && attributes.keys().all(|name| own.contains_key(name)) {
            return None;
        }
        attributes.extend(own);
        Some(json!({
            "uid": { "type": thing.kind, "id": thing.id },
            "attrs": attributes,
            "parents": part("parents").unwrap_or_else(|| json!([])),
        }))
    }
}

impl Engine {
    /// Decides a question about the bundle's own things. Total: what cannot be decided is a no.
    #[must_use]
    pub fn decide_access(&self, access: &Access) -> Answered {
        let no = |code: &str| Answered {
            is_allowed: false,
            reasons: vec![Reason { code: code.to_owned(), policy: "gateway".to_owned() }],
        };
        if self.manifest.as_ref().is_some_and(|m| m.check_time(access.now).is_err()) {
            return no("BUNDLE_NOT_VALID");
        }
        let Some(own) = &self.own else { return no("TYPE_UNKNOWN") };
        let (request, entities) = match own.put(access) {
            Ok(put) => put,
            Err(Unputtable(why)) => return no(why),
        };
        let response = Authorizer::new().is_authorized(&request, &own.policies, &entities);
        let errors = response.diagnostics().errors().map(|error| match error {
            AuthorizationError::PolicyEvaluationError(error) => error.policy_id().to_string(),
        });
        // INVARIANT: Cedar skips a rule that errors, a forbid too; here the error denies.
        let broken: BTreeSet<String> = errors.collect();
        if !broken.is_empty() {
            let reason = |policy| Reason { code: "RULE_ERROR".to_owned(), policy };
            return Answered {
                is_allowed: false,
                reasons: broken.into_iter().map(reason).collect(),
            };
        }
        let ids = response.diagnostics().reason().map(ToString::to_string);
        let mut matched: Vec<&Rule> = ids.filter_map(|id| own.rules.get(&id)).collect();
        matched.sort_by(|a, b| a.id.cmp(&b.id));
        let (permits, forbids): (Vec<_>, Vec<_>) =
            matched.into_iter().partition(|rule| rule.effect == Effect::Permit);
        let reasons = |rules: Vec<&Rule>| rules.into_iter().map(Rule::reason).collect();
        match (permits.is_empty(), forbids.is_empty()) {
            (_, false) => Answered { is_allowed: false, reasons: reasons(forbids) },
            (true, true) => no("NO_PERMIT"),
            (false, true) => Answered { is_allowed: true, reasons: reasons(permits) },
        }
    }

    /// The names of all things of a kind that the bundle says something of.
    pub fn things(&self, kind: &str) -> impl Iterator<Item = &str> {
        let known = self.own.iter().flat_map(|own| own.known.keys());
        known.filter(move |(of, _)| of == kind).map(|(_, id)| id.as_str())
    }

    /// The names of all actions of one kind on another.
    pub fn actions_between(&self, subject: &str, resource: &str) -> impl Iterator<Item = &str> {
        let actions = self.own.iter().flat_map(|own| &own.actions);
        let is_about = move |(_, action): &(&String, &Action)| {
            action.subjects.contains(subject) && action.resources.contains(resource)
        };
        actions.filter(is_about).map(|(name, _)| name.as_str())
    }
}

/// Problems of a file of one's own are said with its name.
fn own_source(found: &mut Vec<Problem>, source: Source, problems: &mut Vec<Problem>) {
    problems.extend(found.drain(..).map(|problem| Problem { source, ..problem }));
}

/// The members of a record type, whether it stands in place or under a name of its own.
fn shape(kind: Option<&Value>, types: Option<&Value>) -> Shape {
    let attributes = |kind: &Value| kind.get("attributes").and_then(Value::as_object).cloned();
    let Some(kind) = kind else { return Shape::new() };
    let named = || {
        let name = kind.get("name").or_else(|| kind.get("type"))?.as_str()?;
        attributes(types?.get(name)?)
    };
    attributes(kind).or_else(named).unwrap_or_default()
}

/// Names without their namespace.
fn plain(names: &[Value]) -> BTreeSet<String> {
    let names = names.iter().filter_map(Value::as_str);
    names.map(|name| name.rsplit("::").next().unwrap_or(name).to_owned()).collect()
}

/// The members that a shape knows, records within it likewise; what is `null` is not said.
fn known_members(said: &Map<String, Value>, shape: &Shape) -> Value {
    let known = shape.iter().filter_map(|(name, kind)| {
        let value = said.get(name).filter(|value| !value.is_null())?;
        let inner = kind.get("attributes").and_then(Value::as_object);
        Some((
            name.clone(),
            match (inner, value) {
                (Some(inner), Value::Object(value)) => known_members(value, inner),
                (_, value) => value.clone(),
            },
        ))
    });
    Value::Object(known.collect())
}

fn thing_uid(thing: &Thing) -> Option<EntityUid> {
    let kind: EntityTypeName = thing.kind.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(&thing.id)))
}

fn action_uid(name: &str) -> Option<EntityUid> {
    let kind: EntityTypeName = ACTION.parse().ok()?;
    Some(EntityUid::from_type_name_and_id(kind, EntityId::new(name)))
}

/// Entities as Cedar reads them, and as they were written.
type Read = (Entities, BTreeMap<(String, String), Map<String, Value>>);

fn read_entities(text: &str, schema: &Schema) -> Result<Read, Flaw> {
    let entities = Entities::from_json_str(text, Some(schema))
        .map_err(|error| Flaw::Data(format!("{error}: {}", inner(&error))))?;
    let list: Vec<Map<String, Value>> =
        serde_json::from_str(text).map_err(|error| Flaw::Data(error.to_string()))?;
    let mut known = BTreeMap::new();
    for entity in list {
        let uid = entity.get("uid");
        let part = |name: &str| uid.and_then(|uid| uid.get(name)?.as_str()).unwrap_or_default();
        if part("type").is_empty() {
            let form = "write each `uid` as `{\"type\": \"…\", \"id\": \"…\"}`";
            return Err(Flaw::Data(form.to_owned()));
        }
        known.insert((part("type").to_owned(), part("id").to_owned()), entity.clone());
    }
    Ok((entities, known))
}

/// What is behind an error: Cedar puts what is of use there.
fn inner(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests;
