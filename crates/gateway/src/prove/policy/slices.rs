//! The index: which policies a question needs to be put to.
//!
//! A policy is stored once, under the rarest entity that it names (an agent, a person, a role, a
//! team, a tenant, a tool, a server) or under none, and there by the intents its scope is about. A
//! question is put to what is stored under none and under its own entities.
//!
//! INVARIANT: a policy that matches is looked at. Its scope names an entity `e` as `== e`, `in e`
//! or `is T in e`, or a part of its `when` that must hold does so of the principal, the resource,
//! or whom the principal acts for; that is so only if `e` is one of them or what they are in, and
//! those are the ones that are looked up. What is passed over could not fail either: linted
//! conditions cannot.

use super::{
    explain::conjuncts,
    facts::{Scene, Vocabulary},
    problem::Flaw,
};
use cedar_policy::{
    ActionConstraint, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};
use countersign_core::policy::Intent;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Policies by intent; an intent without any has no entry.
type Shelf = HashMap<Intent, Arc<PolicySet>>;

/// All policies of a bundle.
#[derive(Debug)]
pub(super) struct Slices {
    anywhere: Shelf,
    scoped: HashMap<EntityUid, Shelf>,
}

impl Slices {
    pub(super) fn new(policies: &[Policy], vocabulary: &Vocabulary) -> Result<Self, Flaw> {
        let scopes: Vec<Vec<EntityUid>> = policies.iter().map(named).collect();
        let mut uses: HashMap<&EntityUid, usize> = HashMap::new();
        for entity in scopes.iter().flatten() {
            let count = uses.entry(entity).or_default();
            *count = count.saturating_add(1);
        }
        let mut anywhere = Vec::new();
        let mut scoped: HashMap<EntityUid, Vec<&Policy>> = HashMap::new();
        for (policy, scope) in policies.iter().zip(&scopes) {
            match scope.iter().min_by_key(|entity| uses.get(entity)) {
                Some(rarest) => scoped.entry(rarest.clone()).or_default().push(policy),
                None => anywhere.push(policy),
            }
        }
        let shelve = |(entity, on): (_, Vec<&Policy>)| Ok((entity, shelf(&on, vocabulary)?));
        Ok(Self {
            anywhere: shelf(&anywhere, vocabulary)?,
            scoped: scoped.into_iter().map(shelve).collect::<Result<_, Flaw>>()?,
        })
    }

    /// Every policy, some of them more than once.
    pub(super) fn all(&self) -> impl Iterator<Item = &Policy> {
        let shelves = std::iter::once(&self.anywhere).chain(self.scoped.values());
        shelves.flat_map(HashMap::values).flat_map(|set| set.policies())
    }

    /// The non-empty sets that the question needs to be put to.
    pub(super) fn looked_at(&self, scene: &Scene<'_>) -> impl Iterator<Item = &PolicySet> {
        let intent = scene.intent();
        let own = scene.scopes().iter().filter_map(|entity| self.scoped.get(entity));
        let shelves = std::iter::once(&self.anywhere).chain(own);
        shelves.filter_map(move |shelf| shelf.get(&intent)).map(Arc::as_ref)
    }
}

/// Intents with the same policies share one set.
fn shelf(policies: &[&Policy], vocabulary: &Vocabulary) -> Result<Shelf, Flaw> {
    let mut shelf = Shelf::new();
    let mut sets: HashMap<Vec<bool>, Arc<PolicySet>> = HashMap::new();
    for intent in Intent::ALL {
        let chosen: Vec<bool> = policies.iter().map(|p| is_about(p, intent, vocabulary)).collect();
        if !chosen.contains(&true) {
            continue;
        }
        let set = match sets.get(&chosen) {
            Some(set) => Arc::clone(set),
            None => {
                let members = policies.iter().zip(&chosen).filter(|(_, is_in)| **is_in);
                let members = members.map(|(policy, _)| (*policy).clone());
                let set = PolicySet::from_policies(members);
                Arc::new(set.map_err(|error| Flaw::Invalid(error.to_string()))?)
            }
        };
        sets.insert(chosen, Arc::clone(&set));
        shelf.insert(intent, set);
    }
    Ok(shelf)
}

/// The entities that a policy names as what the principal or the resource is, or is in.
fn named(policy: &Policy) -> Vec<EntityUid> {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Eq(entity)
        | PrincipalConstraint::In(entity)
        | PrincipalConstraint::IsIn(_, entity) => Some(entity),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Eq(entity)
        | ResourceConstraint::In(entity)
        | ResourceConstraint::IsIn(_, entity) => Some(entity),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    };
    principal.into_iter().chain(resource).chain(required(policy)).collect()
}

/// Those that a `when` asks for: `resource == Tool::"a/b" && ...`.
fn required(policy: &Policy) -> Vec<EntityUid> {
    let Ok(json) = policy.to_json() else { return Vec::new() };
    let Some(Value::Array(conditions)) = json.get("conditions") else { return Vec::new() };
    let parts = conditions.iter().flat_map(conjuncts);
    parts.filter(|(kind, _)| *kind == "when").filter_map(|(_, part)| entity_of(part)).collect()
}

/// The entity in `principal == e`, `principal in e`, and the same of the resource and of
/// `principal.acting_for` and `principal.tenant`.
fn entity_of(part: &Value) -> Option<EntityUid> {
    let sides = part.get("==").or_else(|| part.get("in"))?;
    let named = sides.get("right")?.get("Value")?.get("__entity")?;
    let is_looked_up = is_looked_up(sides.get("left")?);
    is_looked_up.then(|| EntityUid::from_json(named.clone()).ok()).flatten()
}

fn is_looked_up(left: &Value) -> bool {
    let variable = |of: &Value| of.get("Var").and_then(Value::as_str).map(str::to_owned);
    if let Some(variable) = variable(left) {
        return matches!(&*variable, "principal" | "resource");
    }
    let Some(member) = left.get(".") else { return false };
    let of = member.get("left").and_then(variable);
    let name = member.get("attr").and_then(Value::as_str);
    of.as_deref() == Some("principal") && matches!(name, Some("acting_for" | "tenant"))
}

fn is_about(policy: &Policy, intent: Intent, vocabulary: &Vocabulary) -> bool {
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(action) => vocabulary.is_about(&action, intent),
        ActionConstraint::In(actions) => {
            actions.iter().any(|action| vocabulary.is_about(action, intent))
        }
    }
}
