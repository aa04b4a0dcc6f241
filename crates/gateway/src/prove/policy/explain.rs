//! Why a question is answered as it is: the rules that decided, and of the others the one that
//! came nearest to a permit, with the clauses that did not hold and the values in them.
//!
//! For people who write policies: slower than a decision, and never on a call's path. Values are
//! those of the question that was given.

use super::{Broken, Engine, facts::Scene};
use cedar_policy::{
    Authorizer, Decision as Verdict, Effect, Entities, Expression, Policy, PolicySet, Request,
    eval_expression,
};
use countersign_core::policy::{Decision, Question};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A decision and what stands behind it.
#[derive(Debug)]
pub struct Explanation {
    /// What was decided.
    pub decision: Decision,
    /// Clauses of the rules that decided, as they held.
    pub decided: Vec<Clauses>,
    /// The permit that came nearest, if none was given.
    pub nearest: Option<Clauses>,
}

/// Clauses of one policy: of one that decided those that held, of one that did not those that
/// failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clauses {
    /// The policy.
    pub policy: String,
    /// The clauses.
    pub clauses: Vec<Clause>,
}

/// One clause, and what the names in it stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// Its text: `when { ... }` or `unless { ... }`.
    pub text: String,
    /// Values by name.
    pub values: BTreeMap<String, String>,
}

/// A request, ready to be asked of single clauses.
struct Stand<'a> {
    request: Request,
    entities: &'a Entities,
}

impl Engine {
    /// Decides, and says why.
    #[must_use]
    pub fn explain(&self, question: &Question) -> Explanation {
        let decision = self.decide(question);
        let (decided, nearest) = self.behind(question, &decision).unwrap_or_default();
        Explanation { decision, decided, nearest }
    }

    /// The policies as Cedar writes them, by `policy ID`; blanks and comments do not count.
    #[must_use]
    pub fn policy_texts(&self) -> BTreeMap<String, String> {
        let texts = self.slices.all().map(|policy| {
            let text = policy.to_json().map(|json| json.to_string()).unwrap_or_default();
            (format!("policy {}", policy.id()), text)
        });
        texts.collect()
    }

    fn behind(
        &self,
        question: &Question,
        decision: &Decision,
    ) -> Result<(Vec<Clauses>, Option<Clauses>), Broken> {
        let scene = Scene::new(&self.vocabulary, question, None)?;
        let words: BTreeSet<&str> = question.fulfilled.iter().map(|word| &**word).collect();
        let request = scene.request(&self.vocabulary, &words, None)?;
        let stand = Stand { request, entities: scene.entities() };
        // Those too that a decision passes over: one of them may have come nearest.
        let policies: BTreeMap<String, &Policy> =
            self.slices.all().map(|policy| (policy.id().to_string(), policy)).collect();
        let policies: Vec<&Policy> = policies.into_values().collect();
        let mut decided = Vec::new();
        for reason in &decision.reasons {
            let rule = policies.iter().find(|policy| policy.id().to_string() == reason.policy);
            decided.extend(rule.and_then(|policy| stand.clauses(policy, true)));
        }
        let is_permitted = policies.iter().any(|policy| {
            policy.effect() == Effect::Permit && stand.holds((*policy).clone()) == Some(true)
        });
        if is_permitted {
            return Ok((decided, None));
        }
        let permits = policies.iter().filter(|policy| policy.effect() == Effect::Permit);
        let failing = permits.filter_map(|policy| stand.clauses(policy, false));
        Ok((decided, failing.min_by_key(|near| near.clauses.len())))
    }
}

impl Stand<'_> {
    /// The clauses that hold, or those that do not; `None` when the scope does not match.
    fn clauses(&self, policy: &Policy, wanted: bool) -> Option<Clauses> {
        let Ok(Value::Object(mut whole)) = policy.to_json() else { return None };
        let Some(Value::Array(conditions)) = whole.remove("conditions") else { return None };
        whole.insert("conditions".to_owned(), json!([]));
        whole.insert("effect".to_owned(), json!("permit"));
        whole.remove("annotations");
        let scope = Policy::from_json(None, Value::Object(whole)).ok()?;
        if self.holds(scope) != Some(true) {
            return None;
        }
        let parts = conditions.iter().flat_map(conjuncts);
        let clauses = parts.filter_map(|(kind, body)| self.clause(kind, body, wanted)).collect();
        Some(Clauses { policy: policy.id().to_string(), clauses })
    }

    fn clause(&self, kind: &str, body: &Value, wanted: bool) -> Option<Clause> {
        let alone = json!({
            "effect": "permit", "principal": {"op": "All"}, "action": {"op": "All"},
            "resource": {"op": "All"}, "conditions": [{"kind": kind, "body": body}],
        });
        let alone = Policy::from_json(None, alone).ok()?;
        let text = alone.to_string();
        if self.holds(alone)? != wanted {
            return None;
        }
        let from = text.find(&format!("{kind} {{"))?;
        let text = text.get(from..)?.trim_end().trim_end_matches(';').to_owned();
        let mut names = BTreeSet::new();
        paths(body, &mut names);
        let value = |name: String| {
            let expression: Expression = name.parse().ok()?;
            let value = eval_expression(&self.request, self.entities, &expression).ok()?;
            Some((name, value.to_string()))
        };
        Some(Clause { text, values: names.into_iter().filter_map(value).collect() })
    }

    /// Whether a policy matches; `None` when it cannot be put.
    fn holds(&self, policy: Policy) -> Option<bool> {
        let effect = policy.effect();
        let set = PolicySet::from_policies([policy]).ok()?;
        let response = Authorizer::new().is_authorized(&self.request, &set, self.entities);
        Some(match effect {
            Effect::Permit => response.decision() == Verdict::Allow,
            Effect::Forbid => response.diagnostics().reason().next().is_some(),
        })
    }
}

/// The parts of a condition that each must hold: of a `when` those joined by `&&`.
pub(super) fn conjuncts(condition: &Value) -> Vec<(&str, &Value)> {
    let (Some(kind), Some(body)) =
        (condition.get("kind").and_then(Value::as_str), condition.get("body"))
    else {
        return Vec::new();
    };
    let mut parts = Vec::new();
    let mut waiting = vec![body];
    while let Some(part) = waiting.pop() {
        let joined = part.get("&&").filter(|_| kind == "when");
        match joined.and_then(|both| Some((both.get("left")?, both.get("right")?))) {
            Some((left, right)) => waiting.extend([right, left]),
            None => parts.push((kind, part)),
        }
    }
    parts
}

/// The attributes that an expression reads, as Cedar writes them: `context.price.micros`.
fn paths(body: &Value, found: &mut BTreeSet<String>) {
    if let Some(path) = path(body) {
        found.insert(path);
        return;
    }
    match body {
        Value::Object(members) => members.values().for_each(|inner| paths(inner, found)),
        Value::Array(items) => items.iter().for_each(|inner| paths(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn path(body: &Value) -> Option<String> {
    let access = body.get(".")?;
    let (left, name) = (access.get("left")?, access.get("attr")?.as_str()?);
    let base = match left.get("Var") {
        Some(variable) => variable.as_str()?.to_owned(),
        None => path(left)?,
    };
    Some(format!("{base}.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{money::Micros, policy::Answer};

    const SOME: &str = r#"
        @id("cheap") @reason("CHEAP") permit (principal, action, resource)
        when { context.price.micros <= 500 && resource.sensitivity < 2 };
        @id("known") @reason("KNOWN") permit (principal, action == Action::"write", resource);
        @id("open") @reason("TOO_OPEN") forbid (principal, action, resource)
        when { resource.open_world && context.price.micros > 10000 };"#;

    fn asked(price: u64, sensitivity: u8) -> Explanation {
        let engine = Engine::load(Engine::BUILTIN_SCHEMA, SOME).unwrap();
        let mut question = Engine::sample_question();
        (question.price, question.sensitivity) = (Micros(price), sensitivity);
        engine.explain(&question)
    }

    #[test]
    fn the_nearest_permit_is_named_with_the_values_that_failed() {
        let said = asked(501, 0);
        assert!(matches!(said.decision.answer, Answer::Deny(_)));
        let near = said.nearest.unwrap();
        assert_eq!(near.policy, "cheap");
        assert_eq!(near.clauses.len(), 1, "the other clause holds");
        assert!(near.clauses[0].text.contains("<= 500"), "{near:?}");
        let expected = [("context.price.micros".to_owned(), "501".to_owned())];
        assert_eq!(near.clauses[0].values, BTreeMap::from(expected));
        assert_eq!(asked(501, 3).nearest.unwrap().clauses.len(), 2);
    }

    #[test]
    fn what_decided_is_shown_with_the_values_that_held() {
        let said = asked(20_000, 0);
        assert_eq!(said.decided[0].policy, "open");
        assert_eq!(said.decided[0].clauses.len(), 2);
        assert_eq!(said.decided[0].clauses[0].values["resource.open_world"], "true");
        let allowed = asked(500, 0);
        assert!(matches!(allowed.decision.answer, Answer::Allow(_)));
        assert_eq!((allowed.decided[0].policy.as_str(), allowed.nearest), ("cheap", None));
    }
}
