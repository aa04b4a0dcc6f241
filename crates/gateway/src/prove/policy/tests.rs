//! Decisions of the default bundle and of small bundles of their own, refused bundles, and the
//! properties every bundle has.

use super::{Engine, PolicyLoadError, load::load_unlinted};
use crate::prove::ask::Wanted;
use countersign_core::{
    digest::Digest,
    ids::DecisionId,
    money::Micros,
    policy::{Answer, Decision, DenyCause, Intent, Obligation, ProofState, Question, Risk},
    time::UnixMs,
};
use expect_test::{Expect, expect};
use std::sync::Arc;

mod properties;
mod replay;
mod speed;

/// Alice's agent reads a public file for a cent.
fn question() -> Question {
    Question {
        id: DecisionId::from_bytes([7; 16]),
        call_digest: Digest::of(b"call"),
        tenant: "acme".into(),
        human: "https://id.acme.example|alice".into(),
        roles: vec!["finance".into()],
        agent: "invoice-bot".into(),
        server: "files".into(),
        tool: "read_file".into(),
        price: Micros(10_000),
        price_text: "0.01 USDC".to_owned(),
        remaining: Some(Micros(5_000_000)),
        now: UnixMs(1_790_000_000_000),
        ..Engine::sample_question()
    }
}

fn builtin() -> Engine {
    Engine::builtin().unwrap()
}

fn with(policies: &str) -> Engine {
    Engine::load(Engine::BUILTIN_SCHEMA, policies).unwrap()
}

/// The answer and the ids of its reasons, in one line.
fn line(decision: &Decision) -> String {
    let ids: Vec<&str> = decision.reasons.iter().map(|reason| &*reason.policy).collect();
    format!("{:?} by {}", decision.answer, ids.join(", "))
}

const ALLOW: &str = r#"@id("allow") @reason("ALLOWED") permit (principal, action, resource);"#;
const CONFIRM: &str = r#"@id("confirm") @reason("CONFIRM") @obligation("human_confirm")
    @params("{\"ttl_s\":60}") forbid (principal, action, resource)
    unless { context.fulfilled.contains("human_confirm") };"#;
const REDACT: &str = r#"@id("redact") @reason("PRIVATE") @obligation("redact")
    @params("{\"pointers\":[\"/iban\"]}") forbid (principal, action, resource)
    unless { context.fulfilled.contains("redact") };"#;
const CAP: &str = r#"@id("cap") @reason("LONG") @obligation("cap_bytes")
    @params("{\"bytes\":4096}") forbid (principal, action, resource)
    unless { context.fulfilled.contains("cap_bytes") };"#;
const STOP: &str = r#"@id("stop") @reason("STOPPED") forbid (principal, action, resource);"#;

mod default_bundle {
    use super::*;

    fn check(change: impl FnOnce(&mut Question), expected: &Expect) {
        let mut question = question();
        change(&mut question);
        expected.assert_eq(&line(&builtin().decide(&question)));
    }

    #[test]
    fn what_is_in_its_limits_may_run() {
        check(|_| {}, &expect!["Allow([]) by call.within-limits"]);
        check(|q| q.remaining = None, &expect!["Allow([]) by call.within-limits"]);
        check(|q| q.remaining = Some(q.price), &expect!["Allow([]) by call.within-limits"]);
        check(|q| q.payment = ProofState::Valid, &expect!["Allow([]) by call.within-limits"]);
        check(|q| q.consent = ProofState::NotRequired, &expect!["Allow([]) by call.within-limits"]);
        check(|q| q.declared = Some(Intent::Read), &expect!["Allow([]) by call.within-limits"]);
    }

    #[test]
    fn what_is_outside_may_not() {
        check(|q| q.remaining = Some(Micros(9_999)), &expect!["Deny(Rule) by budget.exceeded"]);
        check(|q| q.consent = ProofState::Missing, &expect!["Deny(Rule) by consent.missing"]);
        check(
            |q| {
                q.intent = Intent::Write;
                q.declared = Some(Intent::Read);
            },
            &expect!["Deny(Rule) by intent.mismatch"],
        );
    }

    #[test]
    fn what_is_secret_needs_a_person() {
        check(|q| q.sensitivity = 3, &expect!["Allow([]) by call.within-limits"]);
        let machine = |q: &mut Question| (q.sensitivity, q.is_human) = (3, false);
        check(machine, &expect!["Deny(Rule) by secret.needs-person"]);
        check(|q| q.is_human = false, &expect!["Allow([]) by call.within-limits"]);
    }

    #[test]
    fn what_is_dear_or_powerful_is_confirmed() {
        check(|q| q.price = Micros(1_000_000), &expect!["Allow([]) by call.within-limits"]);
        check(
            |q| q.price = Micros(1_000_001),
            &expect!["Challenge([HumanConfirm { ttl_s: 300 }]) by spend.confirm"],
        );
        check(
            |q| q.intent = Intent::Delete,
            &expect!["Challenge([HumanConfirm { ttl_s: 300 }]) by power.confirm"],
        );
        check(
            |q| (q.intent, q.price) = (Intent::Admin, Micros(2_000_000)),
            &expect!["Challenge([HumanConfirm { ttl_s: 300 }]) by power.confirm, spend.confirm"],
        );
        check(
            |q| (q.intent, q.fulfilled) = (Intent::Admin, vec!["human_confirm".into()]),
            &expect!["Allow([]) by call.within-limits"],
        );
    }

    #[test]
    fn a_doomed_call_is_not_put_to_a_person() {
        check(
            |q| (q.price, q.remaining) = (Micros(2_000_000), Some(Micros(1))),
            &expect!["Deny(Rule) by budget.exceeded"],
        );
    }

    #[test]
    fn numbers_that_cedar_cannot_count_deny() {
        check(|q| q.price = Micros(u64::MAX), &expect!["Deny(Error) by gateway"]);
        check(|q| q.now = UnixMs(u64::MAX), &expect!["Deny(Error) by gateway"]);
        check(
            |q| q.remaining = Some(Micros(u64::MAX)),
            &expect!["Allow([]) by call.within-limits"],
        );
    }

    #[test]
    fn names_may_be_any_text() {
        for text in ["", "\"", "a/b", "%2F", "\u{202e}", "\\", "\n", "ünï"] {
            let mut question = question();
            (question.tenant, question.agent) = (text.into(), text.into());
            (question.server, question.tool) = (text.into(), text.into());
            (question.human, question.roles) = (text.into(), vec![text.into(), text.into()]);
            question.price_text = text.to_owned();
            assert!(matches!(builtin().decide(&question).answer, Answer::Allow(_)), "{text:?}");
        }
    }

    /// A person is asked about risk where somebody agreed, where money goes, and where something is
    /// done; a free look that needs nobody's leave goes on.
    #[test]
    fn risk_is_asked_about_but_for_free_looks() {
        let ask = |score, consent, price, intent| {
            let question = Question {
                risk: Risk { score, ..Risk::default() },
                consent,
                price: Micros(price),
                intent,
                trust: question().trust,
                ..question()
            };
            match builtin().decide(&question).answer {
                Answer::Allow(_) => "allow".to_owned(),
                Answer::Challenge(duties) => {
                    duties.iter().map(Obligation::word).collect::<Vec<_>>().join(" ")
                }
                Answer::Deny(_) => "deny".to_owned(),
            }
        };
        let (valid, open) = (ProofState::Valid, ProofState::NotRequired);
        for (consent, price, intent) in
            [(valid, 0, Intent::Read), (open, 1, Intent::Read), (open, 0, Intent::Write)]
        {
            assert_eq!(ask(69, consent, price, intent), "allow");
            assert_eq!(ask(70, consent, price, intent), "human_confirm");
            assert_eq!(ask(80, consent, price, intent), "human_confirm m_of_n");
            assert_eq!(ask(90, consent, price, intent), "deny");
        }
        assert_eq!(ask(89, open, 0, Intent::Search), "allow");
        assert_eq!(ask(90, open, 0, Intent::Search), "deny");
    }

    #[test]
    fn nobody_in_particular_is_not_asked_about_risk() {
        let answer = |score| {
            let question = Question {
                risk: Risk { score, ..Risk::default() },
                identity: ProofState::NotRequired,
                consent: ProofState::NotRequired,
                intent: Intent::Execute,
                ..question()
            };
            builtin().decide(&question).answer
        };
        assert!(matches!(answer(89), Answer::Allow(_)));
        assert!(matches!(answer(90), Answer::Deny(_)));
    }

    #[test]
    fn several_rules_want_people_whom_all_of_them_admit() {
        let rule = |id: &str, params: &str| {
            format!(
                r#"@id("{id}") @reason("X") @obligation("m_of_n") @params("{}")
                forbid (principal, action, resource)
                unless {{ context.fulfilled.contains("m_of_n") }};"#,
                params.replace('"', "\\\"")
            )
        };
        let permit = r#"@id("p") @reason("P") permit (principal, action, resource);"#;
        let asked = |params: &[&str]| {
            let rules = params.iter().enumerate().map(|(at, p)| rule(&format!("r{at}"), p));
            let engine = with(&rules.chain([permit.to_owned()]).collect::<String>());
            match engine.decide(&question()).answer {
                Answer::Challenge(duties) => duties,
                Answer::Allow(_) | Answer::Deny(_) => panic!("nobody is asked"),
            }
        };
        let wanted = |m, roles: &[&str]| Obligation::MOfN {
            m,
            roles: roles.iter().map(|role| Arc::from(*role)).collect(),
            ttl_s: 300,
        };
        let (two, three) = (r#"{"m":2,"roles":["a","b"]}"#, r#"{"m":3,"roles":["b","c"]}"#);
        assert_eq!(asked(&[two]), [wanted(2, &["a", "b"])]);
        assert_eq!(asked(&[two, three]), [wanted(3, &["b"])]);
        assert_eq!(asked(&[r#"{"m":2}"#, three]), [wanted(3, &["b", "c"])]);
        let apart = asked(&[two, r#"{"m":2,"roles":["c"]}"#]);
        assert_eq!(apart, [wanted(2, &["a", "b"]), wanted(2, &["c"])]);
        assert!(Wanted::by(&apart, Vec::new()).is_none(), "no approval meets both: refused");
        let quorum = Wanted::by(&asked(&[two]), Vec::new()).unwrap().quorum;
        assert_eq!((quorum.needed, quorum.roles.len()), (2, 2));
    }

    #[test]
    fn describes_itself() {
        let expected = expect![[r#"
            Policies: 13. 1 permit, 8 forbid, 4 forbid until an obligation is met.
            `power.confirm`: a person confirms the call within 300 s.
            `risk.severe`: 2 different people confirm the call within 300 s.
            `spend.confirm`: a person confirms the call within 300 s.
            `tier.above`: a person confirms the call within 300 s."#]];
        expected.assert_eq(&builtin().describe().join("\n"));
    }

    #[test]
    fn may_be_shared_by_threads() {
        const fn shared<T: Send + Sync>() {}
        shared::<Engine>();
    }

    #[test]
    fn a_decision_carries_its_call_its_moment_and_its_bundle() {
        let (engine, question) = (builtin(), question());
        let decision = engine.decide(&question);
        assert_eq!((decision.id, decision.at), (question.id, question.now));
        assert_eq!(decision.call_digest, question.call_digest);
        assert_eq!(decision.bundle, engine.bundle_digest());
        assert_ne!(engine.bundle_digest(), with(ALLOW).bundle_digest());
    }
}

mod obligations {
    use super::*;

    fn check(policies: &[&str], fulfilled: &[&str], expected: &Expect) {
        let mut question = question();
        question.fulfilled = fulfilled.iter().map(|word| (*word).into()).collect();
        expected.assert_eq(&line(&with(&policies.join("\n")).decide(&question)));
    }

    #[test]
    fn interactive_ones_challenge_until_they_are_fulfilled() {
        let confirm = &[ALLOW, CONFIRM][..];
        check(confirm, &[], &expect!["Challenge([HumanConfirm { ttl_s: 60 }]) by confirm"]);
        check(confirm, &["human_confirm"], &expect!["Allow([]) by allow"]);
        check(
            confirm,
            &["step_up", "confirm"],
            &expect!["Challenge([HumanConfirm { ttl_s: 60 }]) by confirm"],
        );
    }

    #[test]
    fn inline_ones_come_with_the_allowance() {
        check(
            &[ALLOW, REDACT, CAP],
            &[],
            &expect![
                r#"Allow([Redact { pointers: ["/iban"], patterns: [] }, CapBytes { bytes: 4096 }]) by allow, cap, redact"#
            ],
        );
    }

    #[test]
    fn inline_ones_cannot_be_claimed_as_met() {
        check(
            &[ALLOW, REDACT],
            &["redact"],
            &expect![[r#"Allow([Redact { pointers: ["/iban"], patterns: [] }]) by allow, redact"#]],
        );
    }

    #[test]
    fn both_kinds_challenge_first_and_then_apply() {
        let both = &[ALLOW, CONFIRM, REDACT][..];
        check(both, &[], &expect!["Challenge([HumanConfirm { ttl_s: 60 }]) by confirm"]);
        check(
            both,
            &["human_confirm"],
            &expect![[r#"Allow([Redact { pointers: ["/iban"], patterns: [] }]) by allow, redact"#]],
        );
    }

    #[test]
    fn without_a_permit_nothing_is_asked() {
        check(&[CONFIRM], &[], &expect!["Deny(Rule) by default"]);
        check(&[REDACT], &[], &expect!["Deny(Rule) by default"]);
        check(&[CONFIRM, REDACT], &["human_confirm"], &expect!["Deny(Rule) by default"]);
        check(&[ALLOW, CONFIRM, STOP], &[], &expect!["Deny(Rule) by stop"]);
        check(&[ALLOW, REDACT, STOP], &["human_confirm"], &expect!["Deny(Rule) by stop"]);
        check(&[""], &[], &expect!["Deny(Rule) by default"]);
    }

    #[test]
    fn the_strictest_of_a_kind_counts() {
        let longer = CONFIRM.replace(r#""confirm""#, r#""later""#).replace("60", "90");
        let wider = REDACT.replace(r#""redact")"#, r#""more")"#).replace("/iban", "/bic");
        let wider = wider.replace(r#"@obligation("more")"#, r#"@obligation("redact")"#);
        let wider = wider.replace(r#"contains("more")"#, r#"contains("redact")"#);
        let tighter = CAP.replace(r#"@id("cap")"#, r#"@id("tight")"#).replace("4096", "10");
        check(
            &[ALLOW, CONFIRM, &longer],
            &[],
            &expect!["Challenge([HumanConfirm { ttl_s: 60 }]) by confirm, later"],
        );
        check(
            &[ALLOW, REDACT, &wider, CAP, &tighter],
            &[],
            &expect![[
                r#"Allow([Redact { pointers: ["/bic", "/iban"], patterns: [] }, CapBytes { bytes: 10 }]) by allow, cap, more, redact, tight"#
            ]],
        );
    }

    /// Loading refuses these; were one there all the same, it would deny.
    #[test]
    fn what_loading_refuses_denies() {
        let check = |policies: &[&str], expected: Expect| {
            let engine = load_unlinted(Engine::BUILTIN_SCHEMA, &policies.join("\n"));
            expected.assert_eq(&line(&engine.decide(&question())));
        };
        let unknown = CONFIRM.replace("human_confirm", "dance");
        check(&[ALLOW, &unknown], expect!["Deny(Obligation) by confirm"]);
        let malformed = CONFIRM.replace("60", "soon");
        check(&[ALLOW, &malformed], expect!["Deny(Obligation) by confirm"]);
        let inescapable = CONFIRM.replace("fulfilled.contains", "fulfilled.containsAll");
        let inescapable = inescapable.replace(r#"("human_confirm") };"#, r#"(["else"]) };"#);
        check(&[ALLOW, &inescapable], expect!["Deny(Rule) by confirm"]);
        let granting = r#"@id("grant") @reason("GRANTED") permit (principal, action, resource)
            when { context.fulfilled.contains("human_confirm") };"#;
        check(&[granting], expect!["Deny(Rule) by default"]);
    }

    #[test]
    fn a_rule_that_errors_denies() {
        let overflows = r#"when { context.now + 9223372036854775807 > 0 };"#;
        let forbid = format!(
            r#"@id("bad") @reason("BAD") forbid (principal, action, resource) {overflows}"#
        );
        let permit = forbid.replace("forbid", "permit");
        let late = r#"@id("late") @reason("LATE") forbid (principal, action, resource) when {
            context.fulfilled.contains("human_confirm") && context.now + 9223372036854775807 > 0 };"#;
        for policies in [vec![ALLOW, &*forbid], vec![ALLOW, &*permit], vec![&*forbid, STOP]] {
            let engine = load_unlinted(Engine::BUILTIN_SCHEMA, &policies.join("\n"));
            expect!["Deny(Error) by bad"].assert_eq(&line(&engine.decide(&question())));
        }
        let engine = load_unlinted(Engine::BUILTIN_SCHEMA, &[ALLOW, CONFIRM, late].join("\n"));
        expect!["Deny(Error) by late"].assert_eq(&line(&engine.decide(&question())));
    }
}

/// A tenant's issuer chooses the names of its agents and roles.
#[test]
fn no_tenant_borrows_the_names_of_another() {
    let engine = with(
        r#"@id("role") @reason("ROLE") permit (principal, action, resource)
        when { principal.acting_for in Role::"acme/finance" };
        @id("agent") @reason("AGENT") permit (principal == Agent::"acme/bot", action, resource);"#,
    );
    let ask = |tenant: &str, role: &str, agent: &str| {
        let (tenant, roles, agent) = (tenant.into(), vec![role.into()], agent.into());
        line(&engine.decide(&Question { tenant, roles, agent, ..question() }))
    };
    assert_eq!(ask("acme", "finance", "x"), "Allow([]) by role");
    assert_eq!(ask("acme", "x", "bot"), "Allow([]) by agent");
    for (tenant, prefix) in [("evil", ""), ("evil", "acme/"), ("acme/", ""), ("acme/x", "../")] {
        let (role, agent) = (format!("{prefix}finance"), format!("{prefix}bot"));
        assert_eq!(ask(tenant, &role, &agent), "Deny(Rule) by default", "{tenant} {prefix}");
    }
}

mod refused_bundles {
    use super::*;

    fn check(policies: &str, expected: &Expect) {
        let refused = Engine::load(Engine::BUILTIN_SCHEMA, policies);
        expected.assert_eq(&refused.map(|_| ()).unwrap_err().to_string());
    }

    /// Each condition, and below it what is wrong with a forbid that has it.
    fn check_conditions(conditions: &[&str], expected: &Expect) {
        let told = conditions.iter().map(|condition| {
            let head = r#"@id("x") @reason("X") forbid (principal, action, resource)"#;
            let refused = with_condition(head, condition).map(|_| ()).unwrap_err().to_string();
            format!("{}\n    {}\n", condition.escape_debug(), refused.replace("policies:", ""))
        });
        expected.assert_eq(&told.collect::<String>());
    }

    fn with_condition(head: &str, condition: &str) -> Result<Engine, PolicyLoadError> {
        Engine::load(Engine::BUILTIN_SCHEMA, &format!("{head}\nwhen {{ {condition} }};"))
    }

    #[test]
    fn syntax_errors_with_their_places() {
        check(
            "permit (principal, action resource);\n\nforbid (principl, action, resource);",
            &expect!["policies:1:27: unexpected token `resource`"],
        );
    }

    #[test]
    fn every_problem_at_once() {
        check(
            r#"// first
@reason("A") permit (principal, action, resource);

@id("b") permit (principal, action, resource)
when { principal.shoe == 3 };
@id("b") @reason("lower") @sometimes forbid (principal, action == Action::"fly", resource);
  @id("d e") @reason("D") @params("{}") forbid (principal == ?principal, action, resource);
  @id("d e") @reason("D") @params("{}") forbid (principal, action, resource);
"#,
            &expect![[r#"
                policies:2:1: the policy has no `@id("...")`
                policies:4:1: `b`: the policy has no `@reason("...")`
                policies:5:8: `b`: attribute `shoe` on entity type `Agent` not found (did you mean `human`?)
                policies:6:1: `b`: another policy above has the same `@id`
                policies:6:1: `b`: `@reason` is `lower`: use up to 64 of `A`-`Z`, `0`-`9`, `_`
                policies:6:1: `b`: unknown annotation `@sometimes`: use id, reason, obligation, params
                policies:7:3: templates are not supported: write the policy out
                policies:8:3: `d e`: `@id` is `d e`: use up to 128 letters, digits and `.`, `-`, `_`, `/`
                policies:8:3: `d e`: `@params` without an `@obligation`"#]],
        );
    }

    #[test]
    fn obligations_that_do_not_hold_together() {
        let bad = [
            CONFIRM.replace("human_confirm", "dance"),
            CONFIRM.replace("forbid", "permit"),
            CONFIRM.replace("60", "0"),
            CONFIRM.replace("60", "1.5"),
            CONFIRM.replace("ttl_s", "ttl"),
            CONFIRM.replace("60}", "60"),
            CONFIRM.replace(r#"contains("human_confirm")"#, r#"contains("redact")"#),
            CONFIRM.replace("unless", "when"),
            CONFIRM.replace("context.fulfilled", "!context.fulfilled"),
            REDACT.replace("[\\\"/iban\\\"]", "[]"),
            REDACT.replace("/iban", "iban"),
            REDACT.replace("/iban", "/~2"),
            CAP.replace("4096", "-1"),
            CAP.replace("4096", "0"),
            CAP.replace(r#"@params("{\"bytes\":4096}")"#, ""),
        ];
        check(
            &bad.iter()
                .enumerate()
                .map(|(at, policy)| policy.replacen("@id(\"", &format!("@id(\"{at}."), 1))
                .collect::<Vec<_>>()
                .join("\n"),
            &expect![[r#"
                policies:1:1: `0.confirm`: unknown obligation `dance`: use one of human_confirm, m_of_n, step_up, tighter_budget, rate, mask_arguments, redact, cap_rows, cap_bytes, notify, enhanced_audit
                policies:4:1: `1.confirm`: a `permit` cannot carry an `@obligation`: put it on a `forbid`
                policies:7:1: `2.confirm`: `@params` do not fit the obligation: `ttl_s` is from 1 to 86400
                policies:10:1: `3.confirm`: `@params` do not fit the obligation: invalid type: floating point `1.5`, expected u64 at line 1 column 12
                policies:13:1: `4.confirm`: `@params` do not fit the obligation: unknown field `ttl`, expected `ttl_s` at line 1 column 6
                policies:16:1: `5.confirm`: `@params` do not fit the obligation: EOF while parsing an object at line 1 column 11
                policies:19:1: `6.confirm`: needs a clause `unless { context.fulfilled.contains("human_confirm") }` of its own
                policies:19:1: `6.confirm`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
                policies:22:1: `7.confirm`: needs a clause `unless { context.fulfilled.contains("human_confirm") }` of its own
                policies:22:1: `7.confirm`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
                policies:25:1: `8.confirm`: needs a clause `unless { context.fulfilled.contains("human_confirm") }` of its own
                policies:25:1: `8.confirm`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
                policies:28:1: `9.redact`: `@params` do not fit the obligation: `pointers` or `patterns` is needed
                policies:31:1: `10.redact`: `@params` do not fit the obligation: `iban` is not a JSON pointer (RFC 6901)
                policies:34:1: `11.redact`: `@params` do not fit the obligation: `/~2` is not a JSON pointer (RFC 6901)
                policies:37:1: `12.cap`: `@params` do not fit the obligation: invalid value: integer `-1`, expected u64 at line 1 column 11
                policies:40:1: `13.cap`: `@params` do not fit the obligation: `bytes` is at least 1
                policies:43:1: `14.cap`: `@params` do not fit the obligation: missing field `bytes` at line 1 column 2"#]],
        );
    }

    #[test]
    fn conditions_that_can_fail_or_grant() {
        let conditions = [
            "context.price.micros + 1 > 2",
            "context.price.micros - context.now > 2",
            "context.price.micros * 2 > 2",
            "-context.price.micros > 2",
            "context.remaining > 2",
            "context.fulfilled.contains(\"human_confirm\")",
            "context.fulfilled.isEmpty()",
            "context has fulfilled && context[\"fulfilled\"].contains(\"a\")",
            "context == context",
            "(if true then context else context).now > 1",
        ];
        check_conditions(
            &conditions,
            &expect![[r#"
            context.price.micros + 1 > 2
                1:1: `x`: `+` may not be used: it can fail, and Cedar skips a rule that fails
            context.price.micros - context.now > 2
                1:1: `x`: `-` may not be used: it can fail, and Cedar skips a rule that fails
            context.price.micros * 2 > 2
                1:1: `x`: `*` may not be used: it can fail, and Cedar skips a rule that fails
            -context.price.micros > 2
                1:1: `x`: `-` may not be used: it can fail, and Cedar skips a rule that fails
            context.remaining > 2
                2:8: `x`: unable to guarantee safety of access to optional attribute `remaining` in context for Action::"admin" (try testing for the attribute's presence with `context has remaining && ..`)
            context.fulfilled.contains(\"human_confirm\")
                1:1: `x`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
            context.fulfilled.isEmpty()
                1:1: `x`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
            context has fulfilled && context[\"fulfilled\"].contains(\"a\")
                1:1: `x`: `context.fulfilled` may only stand in the `unless` of its own `@obligation`
            context == context
                1:1: `x`: `context` may only be used by its members
            (if true then context else context).now > 1
                1:1: `x`: `context` may only be used by its members
        "#]],
        );
    }

    #[test]
    fn what_can_never_apply_or_reads_otherwise_than_it_is() {
        let conditions = [
            "context.proofs.consent == Proof::\"vaild\"",
            "principal in Role::\"acme/finance\"",
            "context.price.text == \"1\u{202e}\"",
            "principal.human == 1",
        ];
        check_conditions(
            &conditions,
            &expect![[r#"
            context.proofs.consent == Proof::\"vaild\"
                2:34: `x`: entity `Proof::"vaild"` is of an enumerated entity type, but `"vaild"` is not declared as a valid eid (valid entity eids: "valid", "not_required", "missing")
            principal in Role::\"acme/finance\"
                1:1: `x`: policy is impossible: the policy expression evaluates to false for all valid requests
            context.price.text == \"1\u{202e}\"
                2:30: `x`: string `"1\u{202e}"` contains BIDI control characters
            principal.human == 1
                2:8: `x`: the types Bool and Long are not compatible (for policy `x`, both operands to a `==` expression must have compatible types. Types must be exactly equal to be compatible)
        "#]],
        );
    }

    #[test]
    fn schemas_that_do_not_fit() {
        let changes = [
            ("entity Tenant;", "entity Tenant"),
            ("now: Long,", "now: Strin,"),
            ("now: Long,", "now: String,"),
            ("remaining?: Long", "remaining: Long"),
            ("\"delete\", \"admin\"\n    appliesTo", "\"delete\"\n    appliesTo"),
            ("entity Human in [Role, Team, Tenant];", "entity Human in [Team, Tenant];"),
            ("sensitivity: Long", "sensitivity: String"),
            ("entity Tenant;", "entity Tenant = { plan: String };"),
        ];
        let told = changes.iter().map(|(from, to)| {
            let schema = Engine::BUILTIN_SCHEMA.replace(from, to);
            assert_ne!(schema, Engine::BUILTIN_SCHEMA);
            let refused = Engine::load(&schema, ALLOW).map(|_| ()).unwrap_err().to_string();
            format!("{}\n    {refused}\n", to.escape_debug())
        });
        expect![[r#"
            entity Tenant
                schema:8:1: error parsing schema: unexpected token `entity`
            now: Strin,
                schema:92:10: failed to resolve type: Strin (`Strin` has not been declared as a common or entity type)
            now: String,
                schema: the schema does not fit what the gateway says about a call: context `{fulfilled: ["human_confirm"], intent: {covered: true, derived: Intent::"read", source: IntentSource::"lexicon"}, now: 0, price: {micros: 1, text: "0.000001 USDC"}, proofs: {consent: Proof::"valid", identity: Proof::"valid", payment: Proof::"missing"}, .. }` is not valid for `Action::"read"`
            remaining: Long
                schema: the schema does not fit what the gateway says about a call: context `{fulfilled: ["human_confirm"], intent: {covered: true, derived: Intent::"read", source: IntentSource::"lexicon"}, now: 0, price: {micros: 1, text: "0.000001 USDC"}, proofs: {consent: Proof::"valid", identity: Proof::"valid", payment: Proof::"missing"}, .. }` is not valid for `Action::"read"`
            \"delete\"\n    appliesTo
                schema: the schema does not fit what the gateway says about a call: request's action `Action::"admin"` is not declared in the schema
            entity Human in [Team, Tenant];
                schema: the schema does not fit what the gateway says about a call: entity does not conform to the schema: `Human::"issuer|subject"` is not allowed to have an ancestor of type `Role` according to the schema
            sensitivity: String
                schema: the schema does not fit what the gateway says about a call: entity does not conform to the schema: in attribute `sensitivity` on `Tool::"server/tool"`, type mismatch: value was expected to have type string, but it actually has type long: `0`
            entity Tenant = { plan: String };
                schema: the schema does not fit what the gateway says about a call: entity does not conform to the schema: expected entity `Tenant::"tenant"` to have attribute `plan`, but it does not
        "#]].assert_eq(&told.collect::<String>());
    }

    #[test]
    fn a_wider_schema_fits() {
        let schema = Engine::BUILTIN_SCHEMA.replace("now: Long,", "now: Long, mood?: String,");
        let schema = format!("{schema}\nentity Robot;\naction repair;");
        Engine::load(&schema, ALLOW).unwrap();
    }

    #[test]
    fn actions_may_be_in_groups_of_groups() {
        let groups = r#"
            action any;
            action look in [any];
            action search in [look]
                appliesTo { principal: [Agent], resource: [Tool], context: Facts };
            action read,"#;
        let schema = Engine::BUILTIN_SCHEMA.replace(r#"action "read", "search","#, groups);
        let look = r#"@id("look") @reason("LOOK")
            permit (principal, action in Action::"any", resource);"#;
        let engine = Engine::load(&schema, look).unwrap();
        let ask = |intent| line(&engine.decide(&Question { intent, ..question() }));
        expect!["Allow([]) by look"].assert_eq(&ask(Intent::Search));
        expect!["Deny(Rule) by default"].assert_eq(&ask(Intent::Read));
    }
}
