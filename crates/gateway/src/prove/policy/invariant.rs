//! Invariants of a bundle, proved for every request there can be, or refuted by one.
//!
//! `cedar-policy-symcc` puts the question to the SMT solver cvc5, which runs as a process of its
//! own: offline, never on a call's path. An invariant is a Cedar policy: a `forbid` says what is
//! never allowed, a `permit` what holds of everything that is allowed.
//!
//! INVARIANT: "allowed" is meant after all obligations that can be met, so a proof holds whatever
//! people confirm. A policy that could fail to be evaluated is a finding of its own.
//!
//! What is assumed of requests is what the gateway itself makes sure of ([`assumed`]): numbers are
//! in range, the tier of a call is the least of four and allows what `tiers.json` says. A
//! counterexample is put to the engine as well: `confirmed` says that a call as the gateway makes
//! them is answered so.

mod counterexample;

use super::{Bundle, Engine, bundle::SCHEMA, facts::Scene};
use cedar_policy::{Authorizer, Effect, Policy, PolicyId, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet, solver::LocalSolver,
};
use countersign_core::policy::{Answer, Intent, Question, Tier, Tiers};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};

/// What is proved when nothing else is asked for.
pub const BUILTIN_INVARIANTS: &str = include_str!("invariant/builtin.cedar");

/// One invariant and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// Its `@id`.
    pub invariant: String,
    /// It holds for every request.
    pub holds: bool,
    /// The policy that could fail, where that is what was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// A request for which it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterexample: Option<Refuted>,
}

/// A request that refutes an invariant.
#[derive(Clone, Debug, Serialize)]
pub struct Refuted {
    /// As `policy explain` takes it.
    pub question: Value,
    /// The engine answers it so; else it has a form that the gateway never gives a request.
    pub confirmed: bool,
}

/// Why nothing was proved.
#[derive(Debug)]
pub enum Unproved {
    /// The solver could not be started.
    NoSolver(String),
    /// The invariants are no policies, or do not fit the bundle's schema.
    Invariants(String),
    /// The solver gave no answer.
    Solver(String),
}

/// Proves or refutes each invariant.
///
/// # Errors
/// [`Unproved`].
pub async fn prove(bundle: &Bundle, engine: &Engine, text: &str) -> Result<Vec<Proof>, Unproved> {
    let invariants = read(text)?;
    let (schema, _) = Schema::from_cedarschema_str(bundle.file(SCHEMA).unwrap_or_default())
        .map_err(|error| Unproved::Invariants(error.to_string()))?;
    let solver = LocalSolver::cvc5().map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Unproved::NoSolver(cause.unwrap_or_else(|| error.to_string()))
    })?;
    let compiler = CedarSymCompiler::new(solver).map_err(unsolved)?;
    let assumptions = read(&assumed(&engine.tables.tiers))?;
    let mut own: Vec<Policy> = Vec::new();
    for policy in engine.slices.all() {
        if !own.iter().any(|known| known.id() == policy.id()) {
            own.push(policy.clone());
        }
    }
    let envs: Vec<RequestEnv> = schema.request_envs().collect();
    let mut prover = Prover { engine, schema, compiler, envs };
    let mut proofs = vec![prover.never_fails(&own).await?];
    let known: Vec<Policy> = own.into_iter().chain(assumptions).collect();
    for invariant in invariants {
        proofs.push(prover.holds(&known, invariant).await?);
    }
    Ok(proofs)
}

struct Prover<'a> {
    engine: &'a Engine,
    schema: Schema,
    compiler: CedarSymCompiler<LocalSolver>,
    envs: Vec<RequestEnv>,
}

impl Prover<'_> {
    /// Whatever the engine would deny because of an error, Cedar would skip.
    async fn never_fails(&mut self, own: &[Policy]) -> Result<Proof, Unproved> {
        for policy in own {
            for env in &self.envs {
                let compiled = CompiledPolicy::compile(policy, env, &self.schema);
                // A scope that does not fit an action never matches there.
                let Ok(compiled) = compiled else { continue };
                if !self.compiler.check_never_errors_opt(&compiled).await.map_err(unsolved)? {
                    let policy = Some(policy.id().to_string());
                    let invariant = "gateway.no-errors".to_owned();
                    return Ok(Proof { invariant, holds: false, policy, counterexample: None });
                }
            }
        }
        let invariant = "gateway.no-errors".to_owned();
        Ok(Proof { invariant, holds: true, policy: None, counterexample: None })
    }

    async fn holds(&mut self, known: &[Policy], invariant: Policy) -> Result<Proof, Unproved> {
        let id = invariant.annotation("id").unwrap_or_default().to_owned();
        let claim = match invariant.effect() {
            Effect::Permit => vec![invariant.clone()],
            Effect::Forbid => vec![invariant.clone(), everything()?],
        };
        let (bundle, claim) = (set(known.to_vec())?, set(claim)?);
        for env in &self.envs {
            let compile = |policies: &PolicySet| {
                let compiled = CompiledPolicySet::compile(policies, env, &self.schema);
                compiled.map_err(|error| Unproved::Invariants(format!("{error}")))
            };
            let (bundle, claim) = (compile(&bundle)?, compile(&claim)?);
            let found = self.compiler.check_implies_with_counterexample_opt(&bundle, &claim);
            if let Some(found) = found.await.map_err(unsolved)? {
                let refuted = self.refuted(&found, &invariant);
                let counterexample = Some(refuted);
                return Ok(Proof { invariant: id, holds: false, policy: None, counterexample });
            }
        }
        Ok(Proof { invariant: id, holds: true, policy: None, counterexample: None })
    }

    fn refuted(&self, found: &cedar_policy_symcc::Env, invariant: &Policy) -> Refuted {
        let question = counterexample::patch(found);
        let asked = Engine::patched_question(&question);
        let confirmed = asked.is_ok_and(|asked| self.engine.allows_against(&asked, invariant));
        Refuted { question, confirmed }
    }
}

impl Engine {
    /// Whether it allows a request that the invariant says is never allowed.
    fn allows_against(&self, question: &Question, invariant: &Policy) -> bool {
        let is_allowed = matches!(self.decide(question).answer, Answer::Allow(_));
        let Ok(scene) = Scene::new(&self.vocabulary, question, None) else { return false };
        let words: BTreeSet<&str> = question.fulfilled.iter().map(|word| &**word).collect();
        let Ok(request) = scene.request(&self.vocabulary, &words, None) else { return false };
        let Ok(alone) = set(vec![invariant.clone()]) else { return false };
        let response = Authorizer::new().is_authorized(&request, &alone, scene.entities());
        let is_matched = response.diagnostics().reason().next().is_some();
        is_allowed && is_matched == (invariant.effect() == Effect::Forbid)
    }
}

/// Policies under their own ids.
fn read(text: &str) -> Result<Vec<Policy>, Unproved> {
    let set: PolicySet = text
        .parse()
        .map_err(|error: cedar_policy::ParseErrors| Unproved::Invariants(error.to_string()))?;
    let named = |policy: &Policy| {
        let id = policy
            .annotation("id")
            .ok_or_else(|| Unproved::Invariants("every invariant has an `@id`".to_owned()))?;
        Ok(policy.new_id(PolicyId::new(format!("invariant/{id}"))))
    };
    set.policies().map(named).collect()
}

fn set(policies: Vec<Policy>) -> Result<PolicySet, Unproved> {
    PolicySet::from_policies(policies).map_err(|error| Unproved::Invariants(error.to_string()))
}

fn everything() -> Result<Policy, Unproved> {
    let mut all = read("@id(\"everything\") permit (principal, action, resource);")?;
    all.pop().ok_or_else(|| Unproved::Invariants("nothing".to_owned()))
}

fn unsolved(error: cedar_policy_symcc::err::Error) -> Unproved {
    Unproved::Solver(error.to_string())
}

/// What requests never are, as policies that forbid it: so nothing is proved or refuted by them.
fn assumed(tiers: &Tiers) -> String {
    let mut text = String::from(include_str!("invariant/assumed.cedar"));
    for rule in Tier::ALL.into_iter().filter_map(|tier| tiers.rule(tier)) {
        let level = rule.tier.level();
        let is_tier = format!("context.trust.tier == {level}");
        let price_cap = rule.price.unwrap_or_default().0;
        let _ = writeln!(
            text,
            "@id(\"tier-{level}-allows\") forbid (principal, action, resource) when {{ {is_tier} \
             && (context.trust.price_cap != {price_cap} || context.trust.max_risk != {}) }};",
            rule.max_risk,
        );
        if rule.price.is_none() {
            let _ = writeln!(
                text,
                "@id(\"tier-{level}-free\") forbid (principal, action, resource) when {{ {is_tier} \
                 && context.trust.may && context.price.micros > 0 }};",
            );
        }
        for intent in Intent::ALL.into_iter().filter(|intent| !rule.intents.contains(intent)) {
            let is_undone = rule.reversible && !matches!(intent, Intent::Spend | Intent::Admin);
            let but = if is_undone { " && !resource.reversible" } else { "" };
            let word = intent.text();
            let _ = writeln!(
                text,
                "@id(\"tier-{level}-{word}\") forbid (principal, action == Action::\"{word}\", \
                 resource) when {{ {is_tier} && context.trust.may{but} }};",
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{money::Micros, policy::Trust};

    /// What is assumed of requests holds of those that the gateway makes: of every tier, intent
    /// and kind of price.
    #[test]
    fn no_question_of_the_gateway_is_assumed_away() {
        let engine = Engine::builtin().unwrap();
        let assumed = set(read(&assumed(&engine.tables.tiers)).unwrap()).unwrap();
        let mut looked_at = 0;
        for tier in Tier::ALL {
            for intent in Intent::ALL {
                for (is_reversible, price) in [(false, 0), (true, 0), (false, 7), (true, 9_000_000)]
                {
                    let sample = Engine::sample_question();
                    let trust = Trust { agent: tier, ..sample.trust };
                    let price = Micros(price);
                    let asked = Question { trust, intent, is_reversible, price, ..sample };
                    let asked = asked.by(&engine.tables);
                    let scene = Scene::new(&engine.vocabulary, &asked, None).ok().unwrap();
                    let request = scene.request(&engine.vocabulary, &BTreeSet::new(), None);
                    let request = request.ok().unwrap();
                    let said =
                        Authorizer::new().is_authorized(&request, &assumed, scene.entities());
                    let reasons: Vec<_> = said.diagnostics().reason().collect();
                    assert!(reasons.is_empty(), "{tier} {intent:?}: {reasons:?}");
                    assert_eq!(said.diagnostics().errors().count(), 0);
                    looked_at += 1;
                }
            }
        }
        assert_eq!(looked_at, 4 * 11 * 4);
    }

    #[test]
    fn an_invariant_has_a_name() {
        assert!(matches!(
            read("forbid (principal, action, resource);"),
            Err(Unproved::Invariants(why)) if why.contains("@id")
        ));
        assert_eq!(read(BUILTIN_INVARIANTS).unwrap().len(), 3);
    }
}
