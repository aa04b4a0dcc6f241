//! The decision engine: embedded Cedar over one bundle of schema and policies.
//!
//! Owns how a [`Question`] becomes a [`Decision`]. Loading and its checks are in `load` and
//! `lint`, what Cedar is told in `facts`, the index in `slices`.
//!
//! INVARIANT: no permit, no call. An evaluation error, an unknown obligation, a fact that does
//! not fit: each denies.
//! INVARIANT: obligations never grant. `context.fulfilled` is read only by the escape of an
//! annotated forbid (`lint` refuses any other use), so meeting one only takes a forbid away.
//! INVARIANT: a policy that is not looked at could not have matched (`slices`).
//!
//! Does not cache decisions, hold evidence, perform obligations, or ask anybody outside.

mod access;
mod activation;
mod bundle;
mod delta;
mod duties;
mod explain;
mod facts;
mod invariant;
mod lint;
mod live;
mod load;
mod named;
mod problem;
mod rule;
pub mod shadow;
mod slices;
#[cfg(test)]
mod tests;
mod trial;

pub use self::{
    access::{Access, Answered, Thing},
    bundle::{Bundle, BundleError, Files, Manifest},
    delta::{Compared, Delta, Row, answer_text},
    explain::{Clause, Clauses, Explanation},
    invariant::{BUILTIN_INVARIANTS, Proof, Refuted, Unproved, prove},
    live::{Live, open},
    problem::{Flaw, Place, PolicyLoadError, Problem, Source},
    trial::{Trial, TrialFailure, run as run_trials},
};

use self::{
    facts::{Scene, Unfit, Vocabulary},
    rule::{Duty, Rule},
    slices::{Slices, Stored},
};
use cedar_policy::{Effect, Schema};
use cedar_policy_core::{
    ast::{Literal, SlotEnv, Value, ValueKind},
    evaluator::Evaluator,
    extensions::Extensions,
};
use countersign_core::{
    digest::Digest,
    policy::{Answer, Decision, DenyCause, Obligation, Question, Reason, Tables},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One loaded bundle, ready to decide. Immutable: reloading builds another one.
#[derive(Debug)]
pub struct Engine {
    vocabulary: Vocabulary,
    rules: BTreeMap<String, Rule>,
    slices: Slices,
    /// Words that evidence can be about: the interactive obligations some rule asks for. An
    /// inline one is met by the call itself, so a claim that it is met already counts for nothing.
    evidence: BTreeSet<&'static str>,
    tables: Tables,
    digest: Digest,
    manifest: Option<Manifest>,
    /// Things of the bundle's own, besides calls of tools.
    own: Option<access::Own>,
}

/// The rules that matched, each list by id.
struct Matched<'a> {
    permits: Vec<&'a Rule>,
    forbids: Vec<&'a Rule>,
}

/// The answer and its reasons.
type Verdict = (Answer, Vec<Reason>);

/// Policy could not be evaluated, and why.
struct Broken(Vec<Reason>);

impl Engine {
    /// The default bundle's schema. Policies of one's own are usually written against it.
    pub const BUILTIN_SCHEMA: &str = include_str!("../../policy/schema.cedarschema");
    /// The default bundle's policies.
    pub const BUILTIN_POLICIES: &str = include_str!("../../policy/policies.cedar");
    /// The default bundle's words of intents.
    pub const BUILTIN_INTENTS: &str = include_str!("../../policy/intents.json");
    /// The default bundle's numbers of risk.
    pub const BUILTIN_RISK: &str = include_str!("../../policy/risk.json");
    /// The default bundle's tiers of trust.
    pub const BUILTIN_TIERS: &str = include_str!("../../policy/tiers.json");
    /// The default bundle's sentences for reasons.
    pub const BUILTIN_REASONS: &str = include_str!("../../policy/reasons.json");

    /// Loads a bundle: parsed, linted, validated strictly, and tried on every intent.
    ///
    /// # Errors
    /// Everything that is wrong with it, not only the first thing.
    pub fn of(bundle: &Bundle) -> Result<Self, PolicyLoadError> {
        load::load(bundle)
    }

    /// Loads a schema and policies, with the data of the default bundle.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn load(schema: &str, policies: &str) -> Result<Self, PolicyLoadError> {
        Self::of(&Bundle::of_texts(schema, policies))
    }

    /// Loads the default bundle.
    ///
    /// # Errors
    /// None, as the tests show; the bundle goes through the same checks as any other.
    pub fn builtin() -> Result<Self, PolicyLoadError> {
        Self::of(&Bundle::builtin())
    }

    /// The bundle's data.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The bundle's manifest, if it has one.
    #[must_use]
    pub const fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// SHA-256 over all files.
    #[must_use]
    pub const fn bundle_digest(&self) -> Digest {
        self.digest
    }

    /// The ids of all policies.
    pub fn rule_ids(&self) -> impl Iterator<Item = &str> {
        let own = self.own.iter().flat_map(|own| own.rules.keys());
        self.rules.keys().chain(own).map(String::as_str)
    }

    /// The bundle in sentences: how many policies there are, and what each obligation does.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let count = |wanted: fn(&Rule) -> bool| self.rules.values().filter(|r| wanted(r)).count();
        let permits = count(|rule| rule.effect == Effect::Permit);
        let conditional = count(|rule| rule.duty != Duty::None);
        let total = self.rules.len();
        let outright = total.saturating_sub(permits).saturating_sub(conditional);
        let summary = format!(
            "Policies: {total}. {permits} permit, {outright} forbid, {conditional} forbid until \
             an obligation is met."
        );
        let duties = self.rules.values().filter_map(Rule::sentence);
        std::iter::once(summary).chain(duties).collect()
    }

    /// Decides one attempt. Total: whatever cannot be decided is denied, with the reason.
    #[must_use]
    pub fn decide(&self, question: &Question) -> Decision {
        let verdict = self.answer(question);
        let (answer, reasons) =
            verdict.unwrap_or_else(|Broken(reasons)| (Answer::Deny(DenyCause::Error), reasons));
        Decision {
            id: question.id,
            call_digest: question.call_digest,
            answer,
            reasons,
            bundle: self.digest,
            revision: self.manifest.as_ref().map(|manifest| manifest.revision),
            at: question.now,
            took_ms: 0,
            input: Arc::default(),
        }
    }

    /// The form of a decision that the external service took alone: its yes, without duties. No
    /// policy is asked, so only whoever has that yes may take it.
    pub(in crate::prove) fn decided_outside(&self, question: &Question) -> Decision {
        let reason = Reason { code: "EXTERNAL_PERMIT".to_owned(), policy: "pdp".to_owned() };
        Decision {
            id: question.id,
            call_digest: question.call_digest,
            answer: Answer::Allow(Vec::new()),
            reasons: vec![reason],
            bundle: self.digest,
            revision: self.manifest.as_ref().map(|manifest| manifest.revision),
            at: question.now,
            took_ms: 0,
            input: Arc::default(),
        }
    }

    /// The algorithm, in order: what holds now, what no obligation can change, what would hold
    /// once they were met, and who must act for that.
    fn answer(&self, question: &Question) -> Result<Verdict, Broken> {
        if let Some(manifest) = &self.manifest {
            manifest.check_time(question.now).map_err(|_| Broken::not_in_force())?;
        }
        let scene = Scene::new(&self.vocabulary, question, None)?;
        let words = question.fulfilled.iter().map(|word| &**word);
        let evidence: BTreeSet<&str> = words.filter(|word| self.evidence.contains(word)).collect();

        let now = self.evaluate(&scene, &evidence)?;
        if now.forbids.is_empty() {
            return Ok(now.unconditional());
        }
        if now.forbids.iter().any(|rule| rule.duty == Duty::None) {
            let hard = now.forbids.iter().filter(|rule| rule.duty == Duty::None);
            return Ok(denied(DenyCause::Rule, hard.map(|rule| rule.reason())));
        }
        let duties: Vec<&Obligation> = now.forbids.iter().filter_map(|r| r.duty.known()).collect();
        if duties.len() < now.forbids.len() {
            let unknown = now.forbids.iter().filter(|rule| rule.duty.known().is_none());
            return Ok(denied(DenyCause::Obligation, unknown.map(|rule| rule.reason())));
        }

        // INVARIANT: nobody is asked to approve a call that would be denied all the same.
        let met = duties.iter().map(|duty| duty.word());
        let assumed: BTreeSet<&str> = evidence.iter().copied().chain(met).collect();
        let then = self.evaluate(&scene, &assumed)?;
        if !then.forbids.is_empty() || then.permits.is_empty() {
            return Ok(then.unconditional());
        }
        Ok(conditional(&duties, &now.forbids, &then.permits))
    }

    /// One full evaluation with these obligations taken as met.
    fn evaluate(
        &self,
        scene: &Scene<'_>,
        fulfilled: &BTreeSet<&str>,
    ) -> Result<Matched<'_>, Broken> {
        let request = scene.request(&self.vocabulary, fulfilled, None)?;
        let (request, entities) = (request.as_ref().clone(), scene.entities().as_ref());
        let evaluator = Evaluator::new(request, entities, Extensions::all_available());
        let mut matched = Matched { permits: Vec::new(), forbids: Vec::new() };
        let mut errors = BTreeSet::new();
        for Stored { policy, condition } in self.slices.looked_at(scene) {
            let id: &str = policy.id().as_ref();
            let held = evaluator.interpret(condition, &SlotEnv::new());
            match (held.ok().as_ref().and_then(as_bool), self.rules.get(id)) {
                (Some(false), _) => {}
                (Some(true), Some(rule)) if rule.effect == Effect::Permit => {
                    matched.permits.push(rule);
                }
                (Some(true), Some(rule)) => matched.forbids.push(rule),
                (Some(true), None) | (None, _) => {
                    errors.insert(id.to_owned());
                }
            }
        }
        // INVARIANT: Cedar would skip a rule that errors, a forbid too; here the error denies.
        if !errors.is_empty() {
            let reason = |policy| Reason { code: "RULE_ERROR".to_owned(), policy };
            return Err(Broken(errors.into_iter().map(reason).collect()));
        }
        matched.permits.sort_by(|a, b| a.id.cmp(&b.id));
        matched.forbids.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(matched)
    }

    fn new(
        schema: &Schema,
        policies: &[cedar_policy::Policy],
        rules: BTreeMap<String, Rule>,
        tables: Tables,
        bundle: &Bundle,
    ) -> Result<Self, Flaw> {
        let vocabulary = Vocabulary::new(schema)?;
        let slices = Slices::new(policies, &vocabulary);
        let duties = rules.values().filter_map(|rule| rule.duty.known());
        let evidence = duties.filter(|d| d.is_interactive()).map(Obligation::word).collect();
        let (digest, manifest) = (bundle.digest(), bundle.manifest().cloned());
        let own = None;
        Ok(Self { vocabulary, rules, slices, evidence, tables, digest, manifest, own })
    }
}

fn as_bool(value: &Value) -> Option<bool> {
    match value.value_kind() {
        ValueKind::Lit(Literal::Bool(bool)) => Some(*bool),
        ValueKind::Lit(_)
        | ValueKind::Set(_)
        | ValueKind::Record(_)
        | ValueKind::ExtensionValue(_) => None,
    }
}

impl Broken {
    /// The bundle is used outside of the time it was made for.
    fn not_in_force() -> Self {
        Self(vec![Reason { code: "BUNDLE_NOT_VALID".to_owned(), policy: "gateway".to_owned() }])
    }
}

impl From<Unfit> for Broken {
    fn from(_: Unfit) -> Self {
        Self(vec![Reason { code: "FACTS_UNUSABLE".to_owned(), policy: "gateway".to_owned() }])
    }
}

impl Matched<'_> {
    /// Deny overrides; no permit denies.
    fn unconditional(&self) -> Verdict {
        if !self.forbids.is_empty() {
            return denied(DenyCause::Rule, self.forbids.iter().map(|rule| rule.reason()));
        }
        if self.permits.is_empty() {
            let reason = Reason { code: "NO_PERMIT".to_owned(), policy: "default".to_owned() };
            return denied(DenyCause::Rule, std::iter::once(reason));
        }
        (Answer::Allow(Vec::new()), self.permits.iter().map(|rule| rule.reason()).collect())
    }
}

fn denied(cause: DenyCause, reasons: impl Iterator<Item = Reason>) -> Verdict {
    (Answer::Deny(cause), reasons.collect())
}

/// The answer when only obligations stand between the call and its permits: a challenge if
/// somebody must act first, else the call may run and the gateway performs them.
fn conditional(duties: &[&Obligation], forbids: &[&Rule], permits: &[&Rule]) -> Verdict {
    let (interactive, inline): (Vec<_>, Vec<_>) =
        duties::merged(duties).into_iter().partition(Obligation::is_interactive);
    if interactive.is_empty() {
        let because = permits.iter().chain(forbids).map(|rule| rule.reason());
        return (Answer::Allow(inline), because.collect());
    }
    let asks = |rule: &&&Rule| rule.duty.known().is_some_and(Obligation::is_interactive);
    let because = forbids.iter().filter(asks).map(|rule| rule.reason());
    (Answer::Challenge(interactive), because.collect())
}
