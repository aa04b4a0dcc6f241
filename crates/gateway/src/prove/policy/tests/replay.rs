//! Recorded decisions, put to another engine.

use super::*;
use crate::prove::policy::{Delta, Row};
use countersign_core::{
    ids::CallId,
    policy::{AnswerWord, Recorded},
};

fn recorded(question: Question, engine: &Engine) -> Recorded {
    let question = question.by(engine.tables());
    let decision = engine.decide(&question);
    let duties = decision.answer.obligations().iter();
    Recorded {
        question,
        answer: decision.answer.word(),
        obligations: duties.map(|duty| duty.word().to_owned()).collect(),
        policies: decision.reasons.into_iter().map(|reason| reason.policy).collect(),
    }
}

fn delta(questions: Vec<Question>, old: &str, new: &str) -> Delta {
    let (old, new, mut delta) = (with(old), with(new), Delta::default());
    for (at, question) in questions.into_iter().enumerate() {
        let call = CallId::from_bytes([u8::try_from(at).unwrap(); 16]);
        delta.count(new.compare(recorded(question, &old)), call);
    }
    delta
}

fn row(delta: &Delta) -> &Row {
    assert_eq!(delta.rows.len(), 1, "{delta:?}");
    &delta.rows[0]
}

#[test]
fn the_same_policies_change_nothing() {
    let policies = [ALLOW, CONFIRM, REDACT].join("\n");
    let found = delta(vec![question(); 3], &policies, &policies);
    assert_eq!((found.compared, found.changed, found.rows.len()), (3, 0, 0));
}

#[test]
fn a_change_names_who_is_behind_it() {
    let found = delta(vec![question(); 8], ALLOW, &[ALLOW, CONFIRM].join("\n"));
    let Row { from, to, policies, tool, count, calls, .. } = row(&found);
    assert_eq!((from.as_str(), to.as_str()), ("allow", "challenge for human_confirm"));
    assert_eq!(
        (policies.as_slice(), tool.as_str(), *count),
        (&["confirm".to_owned()][..], "files/read_file", 8)
    );
    assert_eq!(calls.last(), Some(&CallId::from_bytes([7; 16])), "the latest stay");
    assert!(calls.len() < 8);

    let found = delta(vec![question()], &[ALLOW, STOP].join("\n"), ALLOW);
    assert_eq!(
        (row(&found).to.as_str(), &row(&found).policies[..]),
        ("allow", &["stop".to_owned()][..])
    );
    let found = delta(vec![question()], ALLOW, &[ALLOW, REDACT].join("\n"));
    assert_eq!(row(&found).to, "allow with redact", "a new duty is a change");
}

#[test]
fn rows_have_a_limit_and_nothing_is_lost_beyond() {
    let tools = (0..1_200).map(|at| Question { tool: format!("t{at}").into(), ..question() });
    let (old, new, mut found) = (with(ALLOW), with(STOP), Delta::default());
    for question in tools {
        found.count(new.compare(recorded(question, &old)), CallId::from_bytes([0; 16]));
    }
    assert_eq!((found.changed, found.rows.len(), found.beyond), (1_200, 500, 700));
}

#[test]
fn people_and_roles_that_policies_name_are_known_again() {
    let engine = with(
        r#"
        @id("a") @reason("A") permit (principal, action, resource)
        when { principal.acting_for in Role::"ac%2Fme/finance" || principal.acting_for in Team::"acme/pay" };
        @id("b") @reason("B") forbid (principal, action, resource)
        when { principal.acting_for == Human::"https://id.acme.example|alice" };"#,
    );
    assert!(engine.names_people() && !builtin().names_people());
    let found = format!("{:?}", engine.names(Some(&[1; 32])));
    for known in ["\"finance\"", "\"team:pay\"", "id.acme.example|alice"] {
        assert!(found.contains(known), "{known} in {found}");
    }
    assert!(!format!("{:?}", engine.names(None)).contains("alice"));
    assert_eq!(AnswerWord::Deny.text(), "deny");
}
