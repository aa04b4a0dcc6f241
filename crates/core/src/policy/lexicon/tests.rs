use super::*;

fn builtin() -> Lexicon {
    Lexicon::parse(include_str!("../../../../gateway/policy/intents.json")).unwrap()
}

fn with_domains() -> Lexicon {
    let text = include_str!("../../../../gateway/policy/intents.json");
    let own = text.replace(r#""domains": []"#, r#""domains": ["acme.example"]"#);
    assert_ne!(text, own);
    Lexicon::parse(&own).unwrap()
}

fn name(name: &str) -> (Intent, IntentSource) {
    builtin().of_tool(name, &ToolWord::default())
}

#[test]
fn names_are_read_by_words_never_by_parts() {
    use Intent::{Delete, Execute, Read, Search};
    use IntentSource::{Default, Lexicon};
    assert_eq!(name("get_forecast"), (Read, Lexicon));
    assert_eq!(name("getAndDeleteUser"), (Delete, Lexicon));
    assert_eq!(name("getHTTPDelete"), (Delete, Lexicon), "an acronym ends before a word");
    assert_eq!(name("searchWeb"), (Search, Lexicon));
    assert_eq!(name("targeting"), (Execute, Default), "no word of its own");
    assert_eq!(name("undeleted"), (Execute, Default));
    assert_eq!(name(""), (Execute, Default));
    assert_eq!(name("get_d\u{435}lete"), (Execute, Default), "letters that look like others");
}

#[test]
fn the_catalogue_counts_first_and_a_stranger_only_raises() {
    let lexicon = builtin();
    let hint = |read_only, destructive| Annotations {
        read_only_hint: read_only,
        destructive_hint: destructive,
        open_world_hint: None,
    };
    let read = |tool: &str, catalogue, annotations, is_trusted| {
        lexicon.of_tool(tool, &ToolWord { catalogue, annotations, is_trusted }).0
    };
    let harmless = hint(Some(true), None);
    assert_eq!(read("delete_all", Some(Intent::Read), hint(None, Some(true)), true), Intent::Read);
    assert_eq!(read("delete_all", None, harmless, false), Intent::Delete, "a lie is no use");
    assert_eq!(read("frobnicate", None, harmless, false), Intent::Execute);
    assert_eq!(read("frobnicate", None, harmless, true), Intent::Read);
    assert_eq!(read("search_web", None, harmless, true), Intent::Search);
    assert_eq!(read("delete_all", None, harmless, true), Intent::Read, "trusted is believed");
    assert_eq!(read("get_it", None, hint(Some(false), Some(true)), false), Intent::Delete);
    assert_eq!(read("get_it", None, hint(Some(false), None), false), Intent::Write);
    assert_eq!(read("get_it", None, hint(None, None), false), Intent::Read);
    assert_eq!(read("grant_role", None, hint(Some(false), Some(true)), true), Intent::Admin);
}

#[test]
fn statements_that_write_raise() {
    let lexicon = builtin();
    let of = |arguments: &str| lexicon.of_arguments(arguments);
    let sql = |text: &str| of(&serde_json::json!({ "sql": text }).to_string());
    assert_eq!(sql("SELECT a FROM b"), None);
    assert_eq!(sql("DELETE FROM b"), Some(Intent::Delete));
    assert_eq!(sql("/*! DELETE */ FROM b"), Some(Intent::Delete), "comments that are run");
    assert_eq!(sql("WITH x AS (DELETE FROM b RETURNING 1) SELECT 1"), Some(Intent::Delete));
    assert_eq!(sql("SELECT 1; DROP TABLE b"), Some(Intent::Delete));
    assert_eq!(sql("GRANT ALL ON a TO b"), Some(Intent::Admin));
    assert_eq!(sql("SELECT a INTO b FROM c"), Some(Intent::Write));
    assert_eq!(of(r#"{"a":[{"sql_text":"update a set b=1"}]}"#), Some(Intent::Write));
    let query = |text: &str| of(&serde_json::json!({ "query": text }).to_string());
    assert_eq!(query("how do I update my passport, or delete it?"), None);
    assert_eq!(query("delete from b"), Some(Intent::Delete));
    assert_eq!(query("TRUNCATE b"), Some(Intent::Delete));
    assert_eq!(query("select a from b"), None);
}

#[test]
fn methods_and_recipients_raise() {
    let of = |arguments: &str| builtin().of_arguments(arguments);
    assert_eq!(of(r#"{"method":"GET"}"#), None);
    assert_eq!(of(r#"{"request":{"httpMethod":" delete "}}"#), Some(Intent::Delete));
    assert_eq!(of(r#"{"X-HTTP-Method-Override":"PATCH"}"#), Some(Intent::Write));
    assert_eq!(of(r#"{"method":"average"}"#), None);
    assert_eq!(of(r#"{"to":"London"}"#), None);
    assert_eq!(of(r#"{"to":"a@b.example"}"#), Some(Intent::Notify));
    assert_eq!(of("{}"), None);
    assert_eq!(of("nonsense"), Some(Intent::Execute));
    let of = |arguments: &str| with_domains().of_arguments(arguments);
    assert_eq!(of(r#"{"to":"Bob <bob@acme.example>"}"#), Some(Intent::Notify));
    assert_eq!(of(r#"{"to":"bob@eu.ACME.example."}"#), Some(Intent::Notify));
    assert_eq!(of(r#"{"to":["a@acme.example","a@acme.example.evil"]}"#), Some(Intent::Export));
    assert_eq!(of(r#"{"cc":"a@notacme.example"}"#), Some(Intent::Export));
}

#[test]
fn declarations_go_through_the_same_words() {
    let lexicon = builtin();
    assert_eq!(lexicon.declared("read"), Intent::Read);
    assert_eq!(lexicon.declared("look up the weather, then delete it"), Intent::Delete);
    assert_eq!(lexicon.declared("whatever"), Intent::Execute);
}

#[test]
fn files_that_make_no_sense_are_refused() {
    let text = include_str!("../../../../gateway/policy/intents.json");
    let refused = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed);
        Lexicon::parse(&changed).unwrap_err().to_string()
    };
    assert!(refused("\"v\": 1", "\"v\": 2").contains("version 2 is unknown"));
    assert!(refused("\"lexicon\"", "\"lexicom\"").contains("unknown field `lexicom`"));
    assert!(refused("\"search\": [", "\"search\": [\"get\", ").contains("stands under"));
    assert!(refused("\"get\"", "\"Get\"").contains("no lower-case word"));
    assert!(refused("\"outside\": \"export\"", "\"outside\": \"read\"").contains("less powerful"));
}

proptest::proptest! {
    /// More arguments never make a call less powerful.
    #[test]
    fn another_argument_never_lowers(
        a in "[a-zA-Z_]{1,8}", b in "(sql|query|method|to|x)", text in "[a-zA-Z@. ]{0,30}",
        more in "(DELETE FROM a|GRANT x TO b|POST|a@b.c|[a-z ]{0,9})",
    ) {
        let lexicon = builtin();
        let one = serde_json::json!({ a.clone(): text }).to_string();
        let two = serde_json::json!({ a: text, format!("{b}_2"): more }).to_string();
        proptest::prop_assert!(lexicon.of_arguments(&two) >= lexicon.of_arguments(&one));
    }
}
