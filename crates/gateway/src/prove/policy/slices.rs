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
};
use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use cedar_policy_core::ast::{Expr, ExprKind, Literal};
use countersign_core::policy::Intent;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Policies by intent; an intent without any has no entry.
type Shelf = HashMap<Intent, Vec<Arc<Stored>>>;

/// A policy, ready to be put questions to.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) policy: Policy,
    /// What its scope asks for and its conditions, as one expression.
    pub(super) condition: Expr,
}

/// All policies of a bundle.
#[derive(Debug)]
pub(super) struct Slices {
    anywhere: Shelf,
    scoped: HashMap<EntityUid, Shelf>,
}

impl Slices {
    pub(super) fn new(policies: &[Policy], vocabulary: &Vocabulary) -> Self {
        let scopes: Vec<Vec<EntityUid>> = policies.iter().map(named).collect();
        let mut uses: HashMap<&EntityUid, usize> = HashMap::new();
        for entity in scopes.iter().flatten() {
            let count = uses.entry(entity).or_default();
            *count = count.saturating_add(1);
        }
        let mut anywhere = Vec::new();
        let mut scoped: HashMap<EntityUid, Vec<Arc<Stored>>> = HashMap::new();
        for (policy, scope) in policies.iter().zip(&scopes) {
            let stored = Arc::new(Stored::of(policy));
            match scope.iter().min_by_key(|entity| uses.get(entity)) {
                Some(rarest) => scoped.entry(rarest.clone()).or_default().push(stored),
                None => anywhere.push(stored),
            }
        }
        let shelve = |(entity, on): (_, Vec<_>)| (entity, shelf(&on, vocabulary));
        Self {
            anywhere: shelf(&anywhere, vocabulary),
            scoped: scoped.into_iter().map(shelve).collect(),
        }
    }

    /// Every policy, some of them more than once.
    pub(super) fn all(&self) -> impl Iterator<Item = &Policy> {
        let shelves = std::iter::once(&self.anywhere).chain(self.scoped.values());
        shelves.flat_map(HashMap::values).flatten().map(|stored| &stored.policy)
    }

    /// Those that the question needs to be put to.
    pub(super) fn looked_at(&self, scene: &Scene<'_>) -> impl Iterator<Item = &Stored> {
        let intent = scene.intent();
        let own = scene.scopes().iter().filter_map(|entity| self.scoped.get(entity));
        let shelves = std::iter::once(&self.anywhere).chain(own);
        shelves.filter_map(move |shelf| shelf.get(&intent)).flatten().map(Arc::as_ref)
    }
}

impl Stored {
    /// The condition comes from the policy's JSON, which is the same without places in its text:
    /// the evaluator copies the place of each expression that it looks at.
    fn of(policy: &Policy) -> Self {
        let written = condition(policy);
        let json = policy.to_json().ok();
        let plain = json.and_then(|json| Policy::from_json(None, json).ok());
        let plain = plain.as_ref().map(condition).filter(|plain| *plain == written);
        let condition = asking(plain.unwrap_or(written));
        Self { policy: policy.clone(), condition }
    }
}

/// Without the parts of a scope that ask for nothing: `true && (true && (true && when))`.
fn asking(condition: Expr) -> Expr {
    let ExprKind::And { left, right } = condition.expr_kind() else { return condition };
    let rest = asking(right.as_ref().clone());
    if is_true(left) { rest } else { Expr::and(left.as_ref().clone(), rest) }
}

fn is_true(expr: &Expr) -> bool {
    matches!(expr.expr_kind(), ExprKind::Lit(Literal::Bool(true)))
}

fn condition(policy: &Policy) -> Expr {
    let policy: &cedar_policy_core::ast::Policy = policy.as_ref();
    policy.condition()
}

fn shelf(policies: &[Arc<Stored>], vocabulary: &Vocabulary) -> Shelf {
    let about = |intent| {
        let chosen = policies.iter().filter(|stored| is_about(&stored.policy, intent, vocabulary));
        (intent, chosen.cloned().collect::<Vec<_>>())
    };
    Intent::ALL.into_iter().map(about).filter(|(_, chosen)| !chosen.is_empty()).collect()
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
