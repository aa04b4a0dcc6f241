use super::*;
use crate::{
    audit::record::RecordDraft,
    audit::record::{CallEntry, Kind, Subject, ToolEntry},
    ids::{CallId, DecisionId, GrantId, QuoteId},
    money::Micros,
    policy::{
        Answer, AnswerWord, Covered, IntentSource, Obligation, Pin, Reason, Resource, RiskModel,
        Signal, Tables, Tier,
    },
    time::UnixMs,
};
use proptest::prelude::*;
use std::sync::Arc;

const PSEUDONYM: Digest = Digest::from_bytes([7; 32]);

fn tables() -> Tables {
    Tables {
        lexicon: crate::policy::Lexicon::parse(include_str!(
            "../../../../gateway/policy/intents.json"
        ))
        .unwrap(),
        risk: RiskModel::parse(include_str!("../../../../gateway/policy/risk.json")).unwrap(),
        tiers: crate::policy::Tiers::parse(include_str!("../../../../gateway/policy/tiers.json"))
            .unwrap(),
        reasons: crate::policy::Reasons::parse(include_str!(
            "../../../../gateway/policy/reasons.json"
        ))
        .unwrap(),
    }
}

prop_compose! {
    fn any_history()(
        flags in any::<[bool; 5]>(),
        numbers in any::<[u64; 3]>(),
        some in any::<[Option<u64>; 3]>(),
    ) -> History {
        let [is_judged, is_payee_first, is_payee_changed, is_asset_changed, is_tool_first] = flags;
        History {
            is_judged, is_payee_first, is_payee_changed, is_asset_changed, is_tool_first,
            median: some[0].map(Micros), server_age_s: some[1], hourly_mean: some[2],
            calls_this_hour: numbers[0], same_calls: numbers[1], budget_percent: numbers[2],
        }
    }
}

prop_compose! {
    fn any_question()(
        history in any_history(),
        picks in any::<[prop::sample::Index; 10]>(),
        flags in any::<[bool; 5]>(),
        (price, now, calls) in any::<(u64, u64, u64)>(),
        (acr, remaining, age) in any::<(bool, Option<u64>, Option<u64>)>(),
        (declared, grant, fulfilled) in any::<(Option<prop::sample::Index>, Option<(u64, u64)>, bool)>(),
        roles in prop::collection::vec("[a-z: |]{1,20}", 0..ROLES_MAX),
        (assurance, chain_depth, sensitivity) in (0..4u8, any::<u32>(), 0..4u8),
    ) -> Question {
        let tier = |at: usize| Tier::ALL[picks[at].index(4)];
        let intent = |pick: prop::sample::Index| Intent::ALL[pick.index(11)];
        Question {
            id: DecisionId::from_bytes([3; 16]),
            call_digest: Digest::from_bytes([4; 32]),
            tenant: "acme".into(),
            human: "https://issuer.example|mallory".into(),
            is_human: flags[0],
            roles: roles.iter().map(|role| role.as_str().into()).collect(),
            acr: acr.then(|| "urn:example mfa=1".into()),
            sign_in_age_s: age,
            agent: "bot".into(),
            assurance, chain_depth,
            server: "files".into(),
            tool: "read_file".into(),
            resource: Resource { kind: "mcp".into(), id: "https://gw.example/files/mcp".into() },
            arguments: Digest::from_bytes([0; 32]),
            sensitivity,
            is_reversible: flags[1],
            is_open_world: flags[2],
            definition: None,
            pin: Pin::ALL[picks[0].index(4)],
            intent: intent(picks[1]),
            derived: intent(picks[9]),
            declared: declared.map(intent),
            source: IntentSource::ALL[picks[2].index(4)],
            purpose: None,
            quote: QuoteId::from_bytes([5; 16]),
            terms: Digest::from_bytes([0; 32]),
            price: Micros(price),
            price_text: "0.01 USDC or 7 sat".to_owned(),
            identity: ProofState::ALL[picks[9].index(3)],
            payment: ProofState::ALL[picks[3].index(3)],
            consent: ProofState::ALL[picks[4].index(3)],
            grant: grant.map(|(cap, end)| Covered {
                id: GrantId::from_bytes([0; 16]), per_call: Micros(cap), expires_at: UnixMs(end),
                remaining: remaining.map(Micros),
                intents: Intent::ALL[..picks[9].index(11)].to_vec(),
            }),
            remaining: remaining.map(Micros),
            tightest: remaining.map(|_| "team a month".into()),
            history,
            risk: Risk::default(),
            trust: Trust {
                agent: tier(5), human: tier(6), consent: tier(7), server: tier(8),
                may: false, price_cap: Micros(0), max_risk: 0,
            },
            session: Session {
                id: flags[4].then(|| Digest::from_bytes([6; 32])),
                is_tainted: flags[3], is_private: flags[4], calls_last_minute: calls,
            },
            fulfilled: if fulfilled { vec!["human_confirm".into()] } else { Vec::new() },
            now: UnixMs(now),
        }
    }
}

fn decision(question: &Question) -> Decision {
    Decision {
        id: question.id,
        call_digest: question.call_digest,
        answer: Answer::Challenge(vec![Obligation::HumanConfirm { ttl_s: 300 }]),
        reasons: vec![Reason { code: "DEAR".to_owned(), policy: "spend.confirm".to_owned() }],
        bundle: Digest::from_bytes([1; 32]),
        revision: Some(7),
        took_ms: 1,
        at: question.now,
        input: Arc::default(),
    }
}

fn record(question: &Question) -> RecordDraft {
    let call = CallEntry {
        call: CallId::from_bytes([2; 16]),
        call_digest: question.call_digest,
        attempt: 1,
        tenant: Arc::clone(&question.tenant),
        delegator: Some(PSEUDONYM),
        agent: Some(Arc::clone(&question.agent)),
        tool: Some(ToolEntry {
            definition: None,
            name: Arc::clone(&question.tool),
            server: Arc::clone(&question.server),
        }),
        arguments: None,
        trace: None,
    };
    let mut draft = RecordDraft::new(Kind::Decision, UnixMs(1), Subject::Call(Arc::new(call)));
    draft.decision = Some(question.id);
    draft.quote = Some(question.quote);
    draft.detail = Arc::new(recorded(question, &decision(question)));
    draft
}

fn names(question: &Question) -> Names {
    let mut names = Names::default();
    names.human(PSEUDONYM, &question.human);
    question.roles.iter().for_each(|role| names.role(&question.tenant, role));
    names
}

proptest! {
    /// What is read back is what was asked, by the same numbers.
    #[test]
    fn a_record_holds_the_whole_question(question in any_question()) {
        let tables = tables();
        let question = question.by(&tables);
        let draft = record(&question);
        prop_assert!(draft.encode(1, None).is_ok());
        let read = Recorded::read(&draft, &names(&question)).unwrap();
        prop_assert_eq!(read.answer, AnswerWord::Challenge);
        prop_assert_eq!(&read.obligations, &["human_confirm"]);
        prop_assert_eq!(&draft.detail["obligations"], "human_confirm#1");
        prop_assert_eq!(&draft.detail["bundle.revision"], "7");
        prop_assert_eq!(&read.policies, &["spend.confirm"]);
        let again = read.question.by(&tables);
        prop_assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(question).unwrap());
    }

    #[test]
    fn no_name_of_a_person_and_no_role_is_recorded(question in any_question()) {
        let text = String::from_utf8(record(&question).encode(1, None).unwrap()).unwrap();
        prop_assert!(!text.contains("issuer.example") && !text.contains("mallory"));
        let told = |role: &Arc<str>| role.len() > 12 && text.contains(&**role);
        prop_assert!(!question.roles.iter().any(told));
    }

    #[test]
    fn reading_anything_never_panics(name in "[a-z.]{1,9}", text in ".{0,30}", question in any_question()) {
        let mut draft = record(&question);
        let names: Vec<_> = draft.detail.keys().cloned().collect();
        let at = name.len() % names.len();
        draft.note(names[at].clone(), text);
        let _ = Recorded::read(&draft, &Names::default());
    }
}

fn question() -> Question {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    any_question().new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

#[test]
fn what_is_missing_is_said() {
    let read = |change: fn(&mut RecordDraft)| {
        let mut draft = record(&question());
        change(&mut draft);
        Recorded::read(&draft, &Names::default()).unwrap_err()
    };
    assert_eq!(read(|draft| draft.decision = None), NotRecorded::NotAsked);
    assert_eq!(read(|draft| draft.detail = Arc::default()), NotRecorded::Older);
    let without = read(|draft| drop(Arc::make_mut(&mut draft.detail).remove("history")));
    assert_eq!(without, NotRecorded::Malformed("history"));
    assert_eq!(without.to_string(), "`history` is not of its form");
}

#[test]
fn what_did_not_fit_is_not_guessed() {
    let long = Question { acr: Some("x".repeat(500).into()), ..question() };
    let read = Recorded::read(&record(&long), &Names::default());
    assert_eq!(read.unwrap_err(), NotRecorded::Cut);
    let roles = (0..=ROLES_MAX).map(|at| format!("role-{at}").into()).collect();
    let many = Question { roles, ..question() };
    let read = Recorded::read(&record(&many), &Names::default());
    assert!(read.is_ok(), "no policy names a role, so none matters");
    let read = Recorded::read(&record(&many), &names(&many));
    assert_eq!(read.unwrap_err(), NotRecorded::Roles);
}

#[test]
fn other_numbers_count_anew() {
    let question = Question {
        history: History { is_tool_first: true, ..History::default() },
        price: Micros(0),
        ..question()
    };
    let risk = include_str!("../../../../gateway/policy/risk.json");
    let changed = risk.replacen("\"tool_first\": 10", "\"tool_first\": 0", 1);
    assert_ne!(risk, changed);
    let other = Tables { risk: RiskModel::parse(&changed).unwrap(), ..tables() };
    let (one, two) = (question.clone().by(&tables()).risk, question.by(&other).risk);
    assert!(one.points.iter().any(|point| point.code == Signal::ToolFirst));
    assert!(!two.points.iter().any(|point| point.code == Signal::ToolFirst));
    assert_ne!(one.model, two.model);
}

#[test]
fn a_detail_is_cut_by_what_it_takes_in_a_record() {
    for (text, bytes) in [("a", 400), ("ä", 400), ("\u{1}", 66), ("\"", 200)] {
        let mut details = Details::default();
        add(&mut details, [("x", text.repeat(500))]);
        assert_eq!(details["x"].len(), bytes, "{text:?}");
    }
    assert_eq!(fitting("as it is", 400), 8);
}

proptest! {
    #[test]
    fn whatever_a_caller_sends_all_details_fit_a_record(mut question in any_question()) {
        let long: Arc<str> = "\u{1}\"".repeat(2_000).into();
        question.roles = vec![Arc::clone(&long); 64];
        (question.acr, question.tightest) = (Some(Arc::clone(&long)), Some(Arc::clone(&long)));
        question.price_text = long.to_string();
        question.resource.id = Arc::clone(&long);
        question.fulfilled = vec![Arc::clone(&long); 3];
        let mut decision = decision(&question);
        let reason = Reason { code: long.to_string(), policy: long.to_string() };
        decision.reasons = vec![reason; 9];
        let mut details = recorded(&question, &decision);
        prop_assert!(details["facts"].starts_with(CUT), "{}", details["facts"]);
        add(&mut details, ["a", "b", "c", "d"].map(|name| (name, long.to_string())));
        let bytes = serde_json::to_string(&details).unwrap().len();
        prop_assert!(bytes <= DETAILS_BYTES_MAX + 64, "{}", bytes);
    }
}
