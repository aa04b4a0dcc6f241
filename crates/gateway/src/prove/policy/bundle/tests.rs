use super::*;
use crate::prove::policy::{open, run_trials};
use proptest::prelude::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
const TRIAL: &str = r#"{"version": 1, "tests": [
  {"name": "a dear call is confirmed", "question": {"price": 2000000},
   "expect": {"answer": "challenge", "obligations": ["human_confirm"]}},
  {"name": "a session with both is closed", "question": {"consent": "missing"},
   "expect": {"answer": "deny", "reasons": ["CONSENT_MISSING"]}}]}"#;

fn key(seed: u8) -> SignerKey {
    SignerKey::from_seed("acme.example/policy", &[seed; 32]).unwrap()
}

fn signed(revision: u64, end: Option<UnixMs>) -> Bundle {
    let mut files = Bundle::builtin().to_files();
    files.insert("tests/first.json".to_owned(), TRIAL.to_owned());
    let mut bundle = Bundle::of_files(files).unwrap();
    bundle.seal(revision, None, end).unwrap();
    bundle.sign(&key(1)).unwrap();
    bundle
}

fn cause(bundle: Result<Bundle, BundleError>, now: UnixMs) -> &'static str {
    let opened = bundle.and_then(|bundle| open(&bundle, Some(key(1).verifier()), now));
    opened.map_or_else(|error| error.cause(), |_| "")
}

#[test]
fn what_was_sealed_and_signed_is_accepted_and_its_tests_run() {
    let bundle = signed(7, None);
    let engine = open(&bundle, Some(key(1).verifier()), NOW).unwrap();
    assert_eq!(engine.manifest().unwrap().revision, 7);
    assert_eq!(run_trials(&bundle, &engine).unwrap().len(), 2);
    assert_eq!(Bundle::of_files(bundle.to_files()), Ok(bundle));
}

#[test]
fn each_step_refuses_what_is_its_own() {
    let changed = |name: &str, text: &str| {
        let mut files = signed(7, None).to_files();
        files.insert(name.to_owned(), text.to_owned());
        cause(Bundle::of_files(files), NOW)
    };
    assert_eq!(changed("policies.txt", ""), "form");
    assert_eq!(changed("tests/../x.json", ""), "form");
    assert_eq!(changed(MANIFEST, "{}"), "form");
    assert_eq!(changed(SIGNATURE, "no note"), "signature");
    let manifest = signed(8, None).to_files().remove(MANIFEST).unwrap();
    assert_eq!(changed(MANIFEST, &manifest), "digest", "another manifest under the signature");
    assert_eq!(changed(POLICIES, "permit (principal, action, resource);"), "digest");
    assert_eq!(changed(RISK, "{}"), "digest", "a file that the manifest does not list so");

    let without = |name: &str| {
        let mut files = signed(7, None).to_files();
        files.remove(name);
        cause(Bundle::of_files(files), NOW)
    };
    assert_eq!(without(SIGNATURE), "signature");
    assert_eq!(without(MANIFEST), "form");
    assert_eq!(without("tests/first.json"), "digest");

    let mut other = signed(7, None);
    other.sign(&key(2)).unwrap();
    assert_eq!(cause(Ok(other), NOW), "signature");
    assert_eq!(cause(Ok(signed(7, Some(NOW))), NOW), "validity");
}

#[test]
fn bad_policies_data_and_tests_are_told_apart() {
    let made = |name: &str, text: &str| {
        let mut files = Bundle::builtin().to_files();
        files.insert(name.to_owned(), text.to_owned());
        let mut bundle = Bundle::of_files(files).unwrap();
        bundle.seal(1, None, None).unwrap();
        bundle.sign(&key(1)).unwrap();
        open(&bundle, Some(key(1).verifier()), NOW).unwrap_err()
    };
    assert_eq!(made(POLICIES, "permit (principal, action, resource);").cause(), "policies");
    let risk = made(RISK, "{\n  \"version\": 2\n}");
    assert_eq!(risk.cause(), "policies");
    assert!(risk.to_string().starts_with("risk.json"), "{risk}");
    let test = |text: &str| {
        let error = made("tests/a.json", text);
        assert_eq!(error.cause(), "tests", "{error}");
        error.to_string()
    };
    let one = |question: &str, expect: &str| {
        test(&format!(
            r#"{{"version":1,"tests":[{{"name":"n","question":{question},"expect":{expect}}}]}}"#
        ))
    };
    assert!(one("{}", r#"{"answer":"deny"}"#).contains("expected Deny, got Allow"));
    assert!(one("{}", r#"{"answer":"allow","reasons":["X"]}"#).contains("expected reasons [X]"));
    assert!(one(r#"{"pryce":1}"#, r#"{"answer":"allow"}"#).contains("unknown field `pryce`"));
    assert!(one("[]", r#"{"answer":"allow"}"#).contains("not an object"));
    assert!(test("{}").contains("missing field"));
    assert!(test(r#"{"version":2,"tests":[]}"#).contains("version 2 is unknown"));
}

/// The default bundle answers its own tests, and each of its rules decides one of them.
#[test]
fn the_default_bundle_answers_its_tests_and_each_rule_decides_one() {
    let mut files = Bundle::builtin().to_files();
    let tests = include_str!("../../../../policy/tests/default.json");
    files.insert("tests/default.json".to_owned(), tests.to_owned());
    let bundle = Bundle::of_files(files).unwrap();
    let engine = Engine::of(&bundle).unwrap();
    let trials = run_trials(&bundle, &engine).unwrap();
    let failed: Vec<_> = trials.iter().filter(|trial| trial.failure.is_some()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let decided: Vec<&String> = trials.iter().flat_map(|trial| &trial.decided_by).collect();
    let untried: Vec<&str> =
        engine.rule_ids().filter(|id| !decided.iter().any(|by| by == id)).collect();
    assert!(untried.is_empty(), "decided no test: {untried:?}");
}

#[test]
fn out_of_its_time_a_bundle_denies() {
    let engine = Engine::of(&signed(1, Some(NOW))).unwrap();
    let mut question = Engine::sample_question();
    question.now = UnixMs(NOW.0 - 1);
    assert!(matches!(engine.decide(&question).answer, countersign_core::policy::Answer::Allow(_)));
    question.now = NOW;
    let decision = engine.decide(&question);
    assert!(matches!(decision.answer, countersign_core::policy::Answer::Deny(_)));
    assert_eq!(decision.reasons[0].code, "BUNDLE_NOT_VALID");
}

#[test]
fn revisions_and_times_that_make_no_sense_are_refused() {
    let mut bundle = Bundle::builtin();
    assert_eq!(bundle.seal(0, None, None).unwrap_err().cause(), "form");
    assert_eq!(bundle.seal(1 << 53, None, None).unwrap_err().cause(), "form");
    assert_eq!(bundle.seal(1, Some(NOW), Some(NOW)).unwrap_err().cause(), "form");
    assert_eq!(bundle.sign(&key(1)).unwrap_err(), BundleError::NoManifest);
}

proptest! {
    /// Whatever byte of whatever file is changed, the bundle is not accepted.
    #[test]
    fn no_byte_can_be_changed(at in any::<prop::sample::Index>(), pick in any::<prop::sample::Index>(), to in b' '..b'~') {
        let mut files = signed(7, None).to_files();
        let name = files.keys().nth(pick.index(files.len())).unwrap().clone();
        let mut bytes = files[&name].clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        files.insert(name, text);
        let opened = Bundle::of_files(files).and_then(|bundle| bundle.check_seal(Some(key(1).verifier())));
        prop_assert!(opened.is_err());
    }
}
