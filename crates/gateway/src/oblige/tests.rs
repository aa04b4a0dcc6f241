use super::*;
use proptest::prelude::*;
use serde_json::json;

fn redaction(pointers: &[&str], patterns: &[&str]) -> Obligation {
    Obligation::Redact {
        pointers: pointers.iter().map(ToString::to_string).collect(),
        patterns: patterns.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn redacted_members_leave_neither_as_structure_nor_as_text() {
    let result = r#"{"content":[{"type":"text","text":"{\"name\":\"Ada\",\"iban\":\"DE1\"}"},{"type":"resource","resource":{"uri":"a:b","text":"DE1"}}],"structuredContent":{"name":"Ada","iban":"DE1"}}"#;
    let redacted = super::result(&[redaction(&["/structuredContent/iban"], &[])], result).unwrap();
    assert!(!redacted.contains("DE1"), "{redacted}");
    assert!(redacted.contains("Ada"));
}

#[test]
fn patterns_reach_everything() {
    let result = json!({
        "content": [
            { "type": "text", "text": "card 4111111111111111." },
            { "type": "resource", "resource": { "uri": "a:b", "text": "4111111111111111" } },
        ],
        "structuredContent": { "n": 4_111_111_111_111_111u64, "4111111111111111": ["4111111111111111"] },
        "_meta": { "x": "4111111111111111" },
    });
    let clean = super::result(&[redaction(&[], &[r"\d{16}"])], &result.to_string()).unwrap();
    assert!(!clean.contains("4111"), "{clean}");
    assert!(clean.contains("card [redacted]."));
}

#[test]
fn texts_are_cut_at_a_character() {
    let duty = Obligation::CapBytes { bytes: 3 };
    let cut = result(&[duty], r#"{"content":[{"type":"text","text":"aéé"}]}"#).unwrap();
    assert!(cut.contains("\"aé\""), "{cut}");
}

#[test]
fn what_is_long_leaves_nowhere() {
    let long = "x".repeat(500);
    let whole = json!({
        "content": [
            { "type": "text", "text": long },
            { "type": "image", "data": long, "mimeType": "image/png" },
            { "type": "resource", "resource": { "uri": "a:b", "text": long, "_meta": { "y": long } } },
            { "type": "resource", "resource": { "uri": "a:b", "blob": long }, "annotations": { "z": long } },
        ],
        "structuredContent": { "a": long },
        "_meta": { "m": long },
        "other": long,
    });
    let cut = result(&[Obligation::CapBytes { bytes: 100 }], &whole.to_string()).unwrap();
    assert!(!cut.contains(&"x".repeat(101)), "{cut}");
    assert!(cut.contains(&"x".repeat(100)));
}

#[test]
fn rows_are_cut_wherever_they_are() {
    let whole = json!({
        "content": [
            { "type": "text", "text": "[1,2,3]" },
            { "type": "text", "text": "a\nb\nc" },
            { "type": "text", "text": "kept" },
        ],
        "structuredContent": { "rows": [[1, 2, 3], 2, 3] },
        "_meta": { "more": [1, 2, 3] },
    });
    let cut = result(&[Obligation::CapRows { rows: 2 }], &whole.to_string()).unwrap();
    let cut: Value = serde_json::from_str(&cut).unwrap();
    assert_eq!(cut["content"][0]["text"], "[1,2]");
    assert_eq!(cut["content"][1]["text"], "a\nb");
    assert_eq!(cut["content"][2]["text"], "kept");
    assert_eq!(cut["structuredContent"]["rows"], json!([[1, 2], 2]));
    assert_eq!(cut["_meta"]["more"], json!([1, 2]));
}

#[test]
fn masked_arguments_do_not_go_on() {
    let duty = [Obligation::MaskArguments { pointers: vec!["/ssn".into(), "/a/b".into()] }];
    let params = r#"{"name":"t","arguments":{"ssn":"1","a":{"b":2,"c":3}},"_meta":{}}"#;
    let sent = masked(&duty, params).unwrap().unwrap();
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["arguments"], json!({ "ssn": null, "a": { "b": null, "c": 3 } }));
    assert_eq!(masked(&[Obligation::EnhancedAudit], params).unwrap(), None);
    assert_eq!(masked(&duty, "nonsense"), Err(Code::UnknownObligation));
}

#[test]
fn headers_mirror_what_is_left_of_the_arguments() {
    let schema = countersign_core::wire::headers::mirrored(&json!({ "properties": {
        "ssn": { "x-mcp-header": "Ssn" },
        "region": { "x-mcp-header": "Region" },
        "a": { "properties": { "b": { "x-mcp-header": "B" }, "c": { "x-mcp-header": "C" } } },
        "more": { "x-mcp-header": "More" },
    } }));
    let duty = [Obligation::MaskArguments { pointers: vec!["/ssn".into(), "/a/b".into()] }];
    let params =
        r#"{"name":"t","arguments":{"ssn":"123","region":"Köln","a":{"b":"123","c":true}}}"#;
    let sent = masked(&duty, params).unwrap().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("mcp-name", "t"),
        ("mcp-param-ssn", "123"),
        ("mcp-param-region", "=?base64?S8O2bG4=?="),
        ("mcp-param-b", "123"),
        ("mcp-param-c", "true"),
        ("mcp-param-unknown", "123"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let left = mirrors_of(&sent, &schema, &headers);
    let mut left: Vec<(&str, &str)> =
        left.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [("mcp-name", "t"), ("mcp-param-c", "true"), ("mcp-param-region", "=?base64?S8O2bG4=?="),]
    );
    assert_eq!(mirrors_of(&sent, &[], &headers).len(), 1, "nothing is known: nothing is said");
}

#[test]
fn shapes_have_no_values() {
    assert_eq!(shape(r#"{"a":"secret","b":[1],"c":{}}"#), "a=string:6 b=array:1 c=object:0");
}

#[test]
fn what_cannot_be_read_does_not_leave() {
    let duty = [redaction(&["/a"], &[])];
    assert_eq!(result(&duty, "nonsense"), Err(Code::UnknownObligation));
    assert_eq!(error(&duty, "{}"), Err(Code::UnknownObligation));
    let interactive = [Obligation::HumanConfirm { ttl_s: 1 }];
    assert_eq!(result(&interactive, "{}"), Err(Code::UnknownObligation));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<u64>().prop_map(Value::from),
        "[a-z0-9 ]{0,12}(SECRET)?[a-z]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(
                "(content|text|resource|[a-z]{1,4}|SECRET)",
                inner,
                0..4
            )
            .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_pattern_never_leaves(value in any_value()) {
        let clean = result(&[redaction(&[], &["SECRET"])], &value.to_string()).unwrap();
        prop_assert!(!clean.contains("SECRET"));
    }
}
