//! Loading a bundle: parse, read annotations, lint, validate strictly, index.
//!
//! INVARIANT: an [`Engine`] exists only for a bundle without a single problem; a warning of the
//! validator (a rule that can never apply, text that reads otherwise than it is) is one.

use super::{
    Engine,
    access::Own,
    bundle::{Bundle, INTENTS, REASONS, RISK, SCHEMA, TIERS},
    lint::lint,
    problem::{Flaw, Place, PolicyLoadError, Problem, Source, told},
    rule::Rule,
};
use cedar_policy::{
    Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator, ffi::DetailedError,
};
use countersign_core::policy::{DataError, Lexicon, Reasons, RiskModel, Tables, Tiers};
use std::collections::BTreeMap;

/// Policies under their own ids, each where it stands.
#[derive(Default)]
pub(super) struct Read {
    pub(super) policies: Vec<Policy>,
    pub(super) rules: BTreeMap<String, Rule>,
    places: BTreeMap<String, Place>,
}

pub(super) fn load(bundle: &Bundle) -> Result<Engine, PolicyLoadError> {
    let mut problems = Vec::new();
    let policies = bundle.policies();
    let schema = read_schema(bundle.file(SCHEMA).unwrap_or_default(), &mut problems);
    let read = read_policies(policies, &mut problems);
    if let Some(schema) = &schema {
        validate(schema, &read, policies, &mut problems);
    }
    let tables = read_tables(bundle, &mut problems);
    let own = Own::read(bundle, &mut problems);
    let engine = match (schema, tables) {
        (Some(schema), Some(tables)) if problems.is_empty() => {
            Engine::new(&schema, &read.policies, read.rules, tables, bundle)
        }
        (_, _) => return Err(refused(problems)),
    };
    engine.map(|engine| Engine { own, ..engine }).map_err(|flaw| {
        refused(vec![Problem { source: Source::Schema, place: None, policy: None, flaw }])
    })
}

/// The data files; the built-in ones where the bundle has none of its own.
fn read_tables(bundle: &Bundle, problems: &mut Vec<Problem>) -> Option<Tables> {
    let text = |name, builtin| bundle.file(name).unwrap_or(builtin);
    let mut told = |name, DataError { place, message }: DataError| {
        let place = place.map(|(line, column)| Place { line, column });
        let (source, flaw) = (Source::Data(name), Flaw::Data(message));
        problems.push(Problem { source, place, policy: None, flaw });
    };
    let lexicon = Lexicon::parse(text(INTENTS, Engine::BUILTIN_INTENTS));
    let lexicon = lexicon.map_err(|error| told(INTENTS, error)).ok();
    let risk = RiskModel::parse(text(RISK, Engine::BUILTIN_RISK));
    let risk = risk.map_err(|error| told(RISK, error)).ok();
    let tiers = Tiers::parse(text(TIERS, Engine::BUILTIN_TIERS));
    let tiers = tiers.map_err(|error| told(TIERS, error)).ok();
    let reasons = Reasons::parse(text(REASONS, Engine::BUILTIN_REASONS));
    let reasons = reasons.map_err(|error| told(REASONS, error)).ok();
    Some(Tables { lexicon: lexicon?, risk: risk?, tiers: tiers?, reasons: reasons? })
}

/// In file order; what the validator says once per action about one place is said once.
fn refused(mut problems: Vec<Problem>) -> PolicyLoadError {
    let of_cedar = |problem: &Problem| matches!(problem.flaw, Flaw::Invalid(_));
    problems.sort();
    problems.dedup_by(|b, a| {
        let same_place = (&a.source, &a.place, &a.policy) == (&b.source, &b.place, &b.policy);
        a == b || (same_place && of_cedar(a) && of_cedar(b))
    });
    PolicyLoadError { problems }
}

pub(super) fn read_schema(text: &str, problems: &mut Vec<Problem>) -> Option<Schema> {
    let mut found = |error: &DetailedError| {
        problems.extend(told(error, text).into_iter().map(|(place, message)| Problem {
            source: Source::Schema,
            place,
            policy: None,
            flaw: Flaw::Syntax(message),
        }));
    };
    match Schema::from_cedarschema_str(text) {
        Ok((schema, warnings)) => {
            warnings.for_each(|warning| found(&DetailedError::from(&warning)));
            Some(schema)
        }
        Err(error) => {
            found(&DetailedError::from(&error));
            None
        }
    }
}

pub(super) fn read_policies(text: &str, problems: &mut Vec<Problem>) -> Read {
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            let told = errors.iter().flat_map(|error| told(&DetailedError::from(error), text));
            problems.extend(told.map(|(place, message)| Problem {
                source: Source::Policies,
                place,
                policy: None,
                flaw: Flaw::Syntax(message),
            }));
            return Read::default();
        }
    };
    let mut read = Read::default();
    let mut cursor = 0usize;
    // Cedar numbers policies and templates together, in file order.
    for number in 0..set.num_of_policies().saturating_add(set.num_of_templates()) {
        let number = PolicyId::new(format!("policy{number}"));
        let template = set.template(&number).map(ToString::to_string);
        let policy = set.policy(&number);
        let own = template.clone().or_else(|| policy.map(ToString::to_string)).unwrap_or_default();
        let found = text.get(cursor..).and_then(|rest| rest.find(&own));
        let offset = cursor.saturating_add(found.unwrap_or(0));
        cursor = offset.saturating_add(own.len());
        let place = Place::of(text, offset);
        let flaws = match (policy, template) {
            (Some(policy), None) => read.add(policy, place),
            (_, _) => vec![Flaw::Template],
        };
        let id = policy.and_then(|policy| policy.annotation("id")).map(ToOwned::to_owned);
        problems.extend(flaws.into_iter().map(|flaw| Problem {
            source: Source::Policies,
            place: Some(place),
            policy: id.clone(),
            flaw,
        }));
    }
    read
}

impl Read {
    /// Takes a policy in under its `@id`, and says what is wrong with it on its own.
    fn add(&mut self, policy: &Policy, place: Place) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let id = match policy.annotation("id") {
            Some(id) if is_id(id) => PolicyId::new(id),
            Some(id) => {
                flaws.push(Flaw::BadId(id.to_owned()));
                policy.id().clone()
            }
            None => {
                flaws.push(Flaw::NoId);
                policy.id().clone()
            }
        };
        let policy = policy.new_id(id);
        let (rule, annotation_flaws) = Rule::read(&policy);
        flaws.extend(annotation_flaws);
        flaws.extend(lint(&policy, policy.annotation("obligation")));
        if self.rules.contains_key(&rule.id) {
            flaws.push(Flaw::DuplicateId);
            return flaws;
        }
        self.places.insert(rule.id.clone(), place);
        self.rules.insert(rule.id.clone(), rule);
        self.policies.push(policy);
        flaws
    }
}

fn is_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_/".contains(&b);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(plain)
}

/// Errors and warnings alike.
pub(super) fn validate(schema: &Schema, read: &Read, text: &str, problems: &mut Vec<Problem>) {
    let mut found = |id: &PolicyId, error: &DetailedError| {
        let id = id.to_string();
        for (place, message) in told(error, text) {
            let place = place.or_else(|| read.places.get(&id).copied());
            let said_twice = format!("for policy `{id}`");
            let message = message.strip_prefix(&said_twice).unwrap_or(&message);
            let flaw = Flaw::Invalid(message.trim_start_matches([',', ':', ' ']).to_owned());
            let (source, policy) = (Source::Policies, Some(id.clone()));
            problems.push(Problem { source, place, policy, flaw });
        }
    };
    match PolicySet::from_policies(read.policies.iter().cloned()) {
        Ok(set) => {
            let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
            result.validation_errors().for_each(|e| found(e.policy_id(), &DetailedError::from(e)));
            result
                .validation_warnings()
                .for_each(|w| found(w.policy_id(), &DetailedError::from(w)));
        }
        Err(error) => problems.push(Problem {
            source: Source::Policies,
            place: None,
            policy: None,
            flaw: Flaw::Invalid(error.to_string()),
        }),
    }
}

/// An engine over policies that nothing was asked of, to see what the decision does with what
/// loading refuses.
#[cfg(test)]
pub(super) fn load_unlinted(schema: &str, policies: &str) -> Engine {
    let schema = read_schema(schema, &mut Vec::new()).unwrap();
    let read = read_policies(policies, &mut Vec::new());
    let bundle = Bundle::of_texts("", policies);
    let tables = read_tables(&bundle, &mut Vec::new()).unwrap();
    Engine::new(&schema, &read.policies, read.rules, tables, &bundle).unwrap()
}
