//! The todo scenario and the certification scenario's fixture, as published by the working group.

use super::*;
use crate::prove::policy::Bundle;
use serde_json::Value;

fn bundle() -> Bundle {
    let mut files = Bundle::builtin().to_files();
    let own = [
        ("access.cedarschema", include_str!("../../../../tests/authzen/access.cedarschema")),
        ("access.cedar", include_str!("../../../../tests/authzen/access.cedar")),
        ("access.json", include_str!("../../../../tests/authzen/access.json")),
    ];
    files.extend(own.map(|(name, text)| (name.to_owned(), text.to_owned())));
    Bundle::of_files(files).unwrap()
}

fn engine() -> Engine {
    Engine::of(&bundle()).unwrap()
}

fn thing(value: &Value) -> Thing {
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    let properties = value.get("properties").and_then(Value::as_object).cloned();
    Thing { kind: text("type"), id: text("id"), properties: properties.unwrap_or_default() }
}

fn access(request: &Value) -> Access {
    let action = &request["action"];
    let map = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    Access {
        subject: thing(&request["subject"]),
        action: action["name"].as_str().unwrap().to_owned(),
        action_properties: map(action.get("properties")),
        resource: thing(&request["resource"]),
        context: map(request.get("context")),
        now: UnixMs(1),
    }
}

#[test]
fn the_todo_scenario_is_decided_as_published() {
    let engine = engine();
    let todo: Value =
        serde_json::from_str(include_str!("../../../../tests/authzen/todo.json")).unwrap();
    let cases = todo["evaluation"].as_array().unwrap();
    assert_eq!(cases.len(), 40);
    for case in cases {
        let answered = engine.decide_access(&access(&case["request"]));
        assert_eq!(answered.is_allowed, case["expected"].as_bool().unwrap(), "{case} {answered:?}");
    }
}

/// Who does what with which record, and what they say of it: `alice write record-2`.
fn certified(line: &str, said: [Value; 3]) -> Answered {
    let [subject, action, resource]: [&str; 3] =
        line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let [of_subject, of_action, of_resource] = said;
    engine().decide_access(&access(&json!({
        "subject": { "type": "user", "id": subject, "properties": of_subject },
        "action": { "name": action, "properties": of_action },
        "resource": { "type": "record", "id": resource, "properties": of_resource },
        "context": { "time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1" },
    })))
}

#[test]
fn the_certification_fixture_is_decided_as_asked_for() {
    let nothing = || json!({});
    let archived = || json!({ "status": "archived" });
    for (line, said, expected) in [
        ("alice read record-1", [nothing(), nothing(), nothing()], true),
        ("alice write record-1", [nothing(), nothing(), nothing()], true),
        ("bob read record-1", [nothing(), nothing(), nothing()], true),
        ("bob write record-1", [nothing(), nothing(), nothing()], false),
        ("alice write record-2", [nothing(), nothing(), archived()], false),
        ("bob write record-2", [json!({ "role": "admin" }), nothing(), archived()], true),
        ("alice delete record-1", [nothing(), json!({ "soft": true }), nothing()], true),
        ("alice delete record-1", [nothing(), json!({ "soft": false }), nothing()], false),
        ("alice delete record-1", [nothing(), nothing(), nothing()], false),
    ] {
        let answered = certified(line, said);
        assert_eq!(answered.is_allowed, expected, "{line}: {answered:?}");
    }
}

#[test]
fn what_the_bundle_says_is_not_overridden_and_nonsense_is_a_no() {
    let code = |line: &str, said: [Value; 3]| {
        let answered = certified(line, said);
        assert!(!answered.is_allowed, "{line}");
        answered.reasons[0].code.clone()
    };
    let nothing = || json!({});
    // The bundle says that it is archived; nobody talks it into being active.
    assert_eq!(
        code("alice write record-2", [nothing(), nothing(), json!({ "status": "active" })]),
        "NO_PERMIT"
    );
    assert_eq!(
        code("carol write record-2", [json!({ "role": 7 }), nothing(), nothing()]),
        "FACTS_UNUSABLE"
    );
    assert_eq!(code("alice burn record-1", [nothing(), nothing(), nothing()]), "ACTION_UNKNOWN");
    assert_eq!(
        code("alice can_read_user record-1", [nothing(), nothing(), nothing()]),
        "ACTION_UNKNOWN"
    );
    let mut other = access(&json!({
        "subject": { "type": "Agent", "id": "acme/bot" }, "action": { "name": "read" },
        "resource": { "type": "record", "id": "record-1" },
    }));
    assert_eq!(engine().decide_access(&other).reasons[0].code, "TYPE_UNKNOWN");
    other.subject.kind = "user".to_owned();
    let builtin = Engine::builtin().unwrap();
    assert_eq!(builtin.decide_access(&other).reasons[0].code, "TYPE_UNKNOWN");
}

#[test]
fn things_and_actions_are_listed() {
    let engine = engine();
    assert_eq!(engine.things("record").collect::<Vec<_>>(), ["record-1", "record-2"]);
    assert_eq!(engine.things("nothing").count(), 0);
    let actions: Vec<&str> = engine.actions_between("user", "record").collect();
    assert_eq!(actions, ["delete", "read", "write"]);
}

#[test]
fn calls_of_tools_are_decided_beside_them_as_before() {
    let (own, builtin) = (engine(), Engine::builtin().unwrap());
    let question = Engine::sample_question();
    assert_eq!(own.decide(&question).answer, builtin.decide(&question).answer);
}

#[test]
fn entities_that_do_not_fit_the_schema_are_refused() {
    for entities in [
        "{}",
        r#"[{"uid":{"type":"user","id":"a"},"attrs":{"email":7},"parents":[]}]"#,
        r#"[{"uid":{"type":"nobody","id":"a"},"attrs":{},"parents":[]}]"#,
        r#"[{"uid":{"type":"Tenant","id":"a"},"attrs":{},"parents":[]}]"#,
    ] {
        let mut files = bundle().to_files();
        files.insert("access.json".to_owned(), entities.to_owned());
        assert!(Engine::of(&Bundle::of_files(files).unwrap()).is_err(), "{entities}");
    }
}

#[test]
fn a_bundle_tests_what_it_says_of_things_of_its_own() {
    let trials = |expected: &str, subject: &str| {
        let tests = format!(
            r#"{{"version":1,"tests":[{{"name":"t","access":{{"subject":{{"type":"user","id":"{subject}"}},
                "action":{{"name":"write"}},"resource":{{"type":"record","id":"record-1"}}}},
                "expect":{{"answer":"{expected}"}}}}]}}"#
        );
        let mut files = bundle().to_files();
        files.insert("tests/access.json".to_owned(), tests);
        let bundle = Bundle::of_files(files).unwrap();
        let engine = Engine::of(&bundle).unwrap();
        crate::prove::policy::run_trials(&bundle, &engine).unwrap().remove(0)
    };
    assert_eq!(trials("allow", "alice").failure, None);
    assert_eq!(trials("allow", "alice").decided_by, ["record.write"]);
    assert_eq!(trials("deny", "bob").failure, None);
    assert!(trials("allow", "bob").failure.is_some());
    assert!(engine().rule_ids().any(|id| id == "record.write"));
}
