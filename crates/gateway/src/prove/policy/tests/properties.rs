//! Random bundles against a second, naive reading of the rules.

use super::{super::facts::Scene, *};
use cedar_policy::{Authorizer, PolicySet};
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

static BUILTIN: LazyLock<Engine> = LazyLock::new(builtin);

#[derive(Clone, Debug)]
struct Generated {
    permits: bool,
    principal: Option<&'static str>,
    actions: Option<Vec<Intent>>,
    resource: Option<&'static str>,
    above: Option<u64>,
    duty: Option<usize>,
}

const DUTIES: [(&str, &str); 3] = [
    ("human_confirm", "{\\\"ttl_s\\\":60}"),
    ("redact", "{\\\"pointers\\\":[\\\"/a\\\"]}"),
    ("cap_bytes", "{\\\"bytes\\\":9}"),
];

impl Generated {
    fn text(&self, id: usize) -> String {
        let duty = self.duty.filter(|_| !self.permits).map(|duty| DUTIES[duty]);
        let effect = if self.permits { "permit" } else { "forbid" };
        let actions = self.actions.iter().map(|intents| {
            let names = intents.iter().map(|i| format!("Action::\"{}\"", i.text()));
            format!(" in [{}]", names.collect::<Vec<_>>().join(", "))
        });
        format!(
            "@id(\"{id}\") @reason(\"R\") {} {effect} (principal {}, action{}, resource {}) {} {};\n",
            duty.map_or(String::new(), |(word, params)| format!(
                "@obligation(\"{word}\") @params(\"{params}\")"
            )),
            self.principal.unwrap_or_default(),
            actions.collect::<String>(),
            self.resource.unwrap_or_default(),
            self.above.map_or(String::new(), |n| format!("when {{ context.price.micros > {n} }}")),
            duty.map_or(String::new(), |(word, _)| format!(
                "unless {{ context.fulfilled.contains(\"{word}\") }}"
            )),
        )
    }

    fn matches(&self, q: &Question) -> bool {
        let principal = self.principal.is_none_or(|scope| {
            scope.contains(&format!("\"{}\"", q.tenant))
                || scope.contains(&format!("\"{}/{}\"", q.tenant, q.agent))
                || scope == "is Agent"
        });
        let resource = self.resource.is_none_or(|scope| {
            scope.contains(&format!("\"{}\"", q.server))
                || scope.contains(&format!("\"{}/{}\"", q.server, q.tool))
        });
        let action = self.actions.as_ref().is_none_or(|list| list.contains(&q.intent));
        principal && resource && action && self.above.is_none_or(|n| q.price.0 > n)
    }
}

/// `A` allowed, `C` challenged, `D` denied, and the inline obligations that apply.
fn expected(rules: &[Generated], q: &Question) -> (char, Vec<&'static str>) {
    let matched: Vec<_> = rules.iter().filter(|rule| rule.matches(q)).collect();
    let forbids = || matched.iter().filter(|rule| !rule.permits);
    let hard = forbids().any(|rule| rule.duty.is_none());
    if hard || !matched.iter().any(|rule| rule.permits) {
        return ('D', vec![]);
    }
    let due = |duty: usize| forbids().any(|rule| rule.duty == Some(duty));
    if due(0) && !q.fulfilled.iter().any(|word| &**word == "human_confirm") {
        return ('C', vec!["human_confirm"]);
    }
    ('A', (1..3).filter(|duty| due(*duty)).map(|duty| DUTIES[duty].0).collect())
}

fn got(decision: &Decision) -> (char, Vec<&'static str>) {
    let words = |list: &[Obligation]| list.iter().map(Obligation::word).collect();
    match &decision.answer {
        Answer::Allow(obligations) => ('A', words(obligations)),
        Answer::Challenge(obligations) => ('C', words(obligations)),
        Answer::Deny(DenyCause::Rule) => ('D', vec![]),
        Answer::Deny(cause) => panic!("{cause:?}"),
    }
}

fn rule() -> impl Strategy<Value = Generated> {
    let principal = select(vec![
        "in Tenant::\"acme\"",
        "in Tenant::\"other\"",
        "is Agent in Tenant::\"acme\"",
        "is Agent",
        "== Agent::\"acme/bot\"",
        "== Agent::\"other/bot\"",
        "in Agent::\"acme/bot\"",
    ]);
    let resource = select(vec![
        "in Server::\"files\"",
        "in Server::\"mail\"",
        "is Tool in Server::\"mail\"",
        "== Tool::\"files/get\"",
        "== Tool::\"mail/get\"",
        "in Tool::\"mail/get\"",
    ]);
    let actions = vec(select(Intent::ALL.to_vec()), 1..4);
    (
        prop::bool::weighted(0.6),
        option::of(principal),
        option::of(actions),
        option::of(resource),
        option::of(0u64..4),
        option::weighted(0.8, 0usize..3),
    )
        .prop_map(|(permits, principal, actions, resource, above, duty)| Generated {
            permits,
            principal,
            actions,
            resource,
            above,
            duty,
        })
}

fn asked() -> impl Strategy<Value = Question> {
    let words = vec![vec![], vec!["human_confirm"], vec!["redact", "cap_bytes", "x"]];
    (
        select(vec!["acme", "other"]),
        select(vec!["bot", "else"]),
        select(vec!["files", "mail"]),
        select(vec!["get", "put"]),
        select(Intent::ALL.to_vec()),
        0u64..5,
        select(words),
    )
        .prop_map(|(tenant, agent, server, tool, intent, price, words)| Question {
            tenant: tenant.into(),
            agent: agent.into(),
            server: server.into(),
            tool: tool.into(),
            intent,
            price: Micros(price),
            fulfilled: words.into_iter().map(Into::into).collect(),
            ..question()
        })
}

fn engine(rules: &[Generated]) -> Engine {
    let text = rules.iter().enumerate().map(|(id, rule)| rule.text(id));
    with(&text.collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The index, Cedar and the algorithm together say what a naive reading says.
    #[test]
    fn decides_as_a_naive_reading_does(rules in vec(rule(), 0..10), asks in vec(asked(), 12)) {
        let engine = engine(&rules);
        for q in asks {
            prop_assert_eq!(got(&engine.decide(&q)), expected(&rules, &q), "{:?}", q);
        }
    }

    /// Cedar's own authorizer, asked about all policies at once, finds the same ones decisive.
    #[test]
    fn the_same_rules_match_as_cedar_itself_finds(
        rules in vec(rule(), 0..10), asks in vec(asked(), 12),
    ) {
        for engine in [&engine(&rules), &*BUILTIN] {
            let own: BTreeMap<_, _> = engine.slices.all().map(|p| (p.id().clone(), p)).collect();
            let all = PolicySet::from_policies(own.into_values().cloned()).unwrap();
            for q in &asks {
                let scene = Scene::new(&engine.vocabulary, q, None).ok().unwrap();
                let words: BTreeSet<_> = q.fulfilled.iter().map(|word| &**word).collect();
                let request = scene.request(&engine.vocabulary, &words, None).ok().unwrap();
                let theirs = Authorizer::new().is_authorized(&request, &all, scene.entities());
                prop_assert_eq!(theirs.diagnostics().errors().count(), 0);
                let theirs: BTreeSet<String> =
                    theirs.diagnostics().reason().map(ToString::to_string).collect();
                let ours = engine.evaluate(&scene, &words).ok().unwrap();
                let decisive = if ours.forbids.is_empty() { ours.permits } else { ours.forbids };
                let ours: BTreeSet<String> =
                    decisive.into_iter().map(|rule| rule.id.clone()).collect();
                prop_assert_eq!(ours, theirs, "{:?}", q);
            }
        }
    }

    /// Taking every annotated forbid away allows no less; so fulfilling them all, which only
    /// takes them away, never allows what was denied without them.
    #[test]
    fn obligations_never_grant(rules in vec(rule(), 0..10), asks in vec(asked(), 12)) {
        let plain: Vec<_> =
            rules.iter().filter(|r| r.permits || r.duty.is_none()).cloned().collect();
        let (all, plain) = (engine(&rules), engine(&plain));
        for mut q in asks {
            let is_denied = got(&plain.decide(&q)).0 == 'D';
            prop_assert_eq!(got(&all.decide(&q)).0 == 'D', is_denied);
            q.fulfilled = DUTIES.iter().map(|(word, _)| (*word).into()).collect();
            prop_assert_eq!(got(&all.decide(&q)).0, if is_denied { 'D' } else { 'A' });
        }
    }

    #[test]
    fn one_more_forbid_never_allows_more(
        rules in vec(rule(), 0..8), mut more in rule(), asks in vec(asked(), 12),
    ) {
        more.permits = false;
        let fewer = engine(&rules);
        let more = engine(&[rules, vec![more]].concat());
        let rank = |answer| match answer { 'D' => 0, 'C' => 1, _ => 2 };
        for q in asks {
            prop_assert!(rank(got(&more.decide(&q)).0) <= rank(got(&fewer.decide(&q)).0));
        }
    }
}
