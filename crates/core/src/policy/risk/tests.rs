use super::*;
use proptest::prelude::*;

fn builtin() -> RiskModel {
    RiskModel::parse(include_str!("../../../../gateway/policy/risk.json")).unwrap()
}

/// A person's agent reads something public, free of charge, as it always does, and says so.
fn quiet() -> Signals {
    Signals {
        intent: Intent::Read,
        source: IntentSource::Catalogue,
        is_declared: true,
        is_mismatch: false,
        sensitivity: Some(0),
        price: Micros(0),
        cap: None,
        median: None,
        is_payee_first: false,
        is_payee_changed: false,
        is_asset_changed: false,
        is_tool_first: false,
        server_age_s: None,
        is_definition_unapproved: false,
        calls_this_hour: 1,
        hourly_mean: None,
        same_calls: 1,
        budget_percent: 0,
        is_tainted: false,
        is_private: false,
        assurance: 3,
        extra_hops: 0,
        sign_in_age_s: None,
    }
}

fn score(change: impl FnOnce(&mut Signals)) -> u8 {
    let mut signals = quiet();
    change(&mut signals);
    builtin().assess(&signals).score
}

#[test]
fn each_signal_has_its_points() {
    assert_eq!(score(|_| {}), 0);
    assert_eq!(score(|s| s.intent = Intent::Search), 5);
    assert_eq!(score(|s| s.intent = Intent::Write), 25, "15, and 10 for what can change");
    assert_eq!(score(|s| s.intent = Intent::Spend), 30);
    assert_eq!(score(|s| s.intent = Intent::Delete), 40);
    assert_eq!(score(|s| s.intent = Intent::Admin), 45);
    let unknown = |s: &mut Signals| (s.intent, s.source) = (Intent::Execute, IntentSource::Default);
    assert_eq!(score(unknown), 50, "30, 10 for what can change, 10 for what is unknown");
    assert_eq!(score(|s| s.sensitivity = Some(3)), 25);
    assert_eq!(score(|s| s.sensitivity = None), 15);
    let priced = |price, cap: Option<u64>, median: Option<u64>| {
        score(|s| {
            (s.price, s.cap, s.median) = (Micros(price), cap.map(Micros), median.map(Micros));
        })
    };
    assert_eq!(priced(50, Some(100), None), 0, "half is not over half");
    assert_eq!(priced(51, Some(100), None), 5);
    assert_eq!(priced(81, Some(100), None), 10);
    assert_eq!(priced(19, None, Some(10)), 0);
    assert_eq!(priced(20, None, Some(10)), 10);
    assert_eq!(priced(100, None, Some(10)), 30);
    assert_eq!(priced(1, None, Some(0)), 30, "it was free");
    assert_eq!(score(|s| (s.price, s.is_payee_changed) = (Micros(1), true)), 25);
    assert_eq!(score(|s| s.is_payee_changed = true), 0, "nothing is paid");
    assert_eq!(score(|s| s.server_age_s = Some(86_399)), 10);
    assert_eq!(score(|s| s.server_age_s = Some(86_400)), 0);
    let rate = |calls, mean| score(|s| (s.calls_this_hour, s.hourly_mean) = (calls, Some(mean)));
    assert_eq!((rate(29, 1), rate(30, 10), rate(30, 3), rate(30, 11)), (0, 5, 15, 0));
    assert_eq!((score(|s| s.same_calls = 4), score(|s| s.same_calls = 5)), (0, 15));
    assert_eq!((score(|s| s.budget_percent = 80), score(|s| s.budget_percent = 95)), (5, 10));
    assert_eq!((score(|s| s.assurance = 0), score(|s| s.assurance = 9)), (20, 0));
    assert_eq!(score(|s| s.extra_hops = 1000), 25, "capped");
    assert_eq!(score(|s| s.is_declared = false), 5);
    assert_eq!(score(|s| s.is_mismatch = true), 20);
}

#[test]
fn points_are_told_and_capped_by_group() {
    let mut signals = quiet();
    signals.is_tool_first = true;
    signals.server_age_s = Some(0);
    signals.is_definition_unapproved = true;
    let risk = builtin().assess(&signals);
    let points: Vec<_> = risk.points.iter().map(|p| (p.code.code(), p.points)).collect();
    assert_eq!(points, [("TOOL_FIRST", 10), ("SERVER_NEW", 10), ("DEFINITION_UNAPPROVED", 15)],);
    assert_eq!((risk.score, &*risk.band), (25, "low"));
    let raised = builtin().raised(risk, 200);
    assert_eq!((raised.score, &*raised.band), (100, "critical"));
}

#[test]
fn codes_are_what_the_wire_says() {
    let text = serde_json::to_string(&Signal::PriceNearCap).unwrap();
    assert_eq!(text, format!("\"{}\"", Signal::PriceNearCap.code()));
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let text = include_str!("../../../../gateway/policy/risk.json");
    let refused = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed);
        RiskModel::parse(&changed).unwrap_err().to_string()
    };
    assert!(refused("\"at\": 50", "\"at\": 90").contains("steps must rise"));
    assert!(refused("\"from\": 0", "\"from\": 1").contains("the first is from 0"));
    assert!(refused("\"read\": 0,", "").contains("`read` is missing"));
    assert!(refused("[20, 10, 5, 0]", "[0, 10, 5, 0]").contains("must fall"));
    assert!(refused("\"hop\": 5", "\"hop\": 5.5").contains("expected u8"));
    assert!(refused("\"hop\": 5", "\"hop\": 500").contains("expected u8"));
}

/// The same call with one signal more.
fn more(mut s: Signals, which: usize, by: u64) -> Signals {
    match which {
        0 => s.is_declared = false,
        1 => s.is_mismatch = true,
        2 => s.sensitivity = s.sensitivity.map(|level| level.saturating_add(1).min(3)),
        3 => s.is_payee_first = true,
        4 => s.is_payee_changed = true,
        5 => s.is_asset_changed = true,
        6 => s.is_tool_first = true,
        7 => s.server_age_s = Some(0),
        8 => s.is_definition_unapproved = true,
        9 => s.calls_this_hour = s.calls_this_hour.saturating_add(by),
        10 => s.same_calls = s.same_calls.saturating_add(by),
        11 => s.budget_percent = s.budget_percent.saturating_add(by),
        12 => s.is_tainted = true,
        13 => s.is_private = true,
        14 => s.assurance = s.assurance.saturating_sub(1),
        15 => s.extra_hops = s.extra_hops.saturating_add(by),
        16 => s.sign_in_age_s = Some(s.sign_in_age_s.unwrap_or(0).saturating_add(by)),
        17 => s.price = Micros(s.price.0.saturating_add(by)),
        18 => s.cap = Some(s.cap.map_or(Micros(by), |cap| Micros(cap.0.min(by)))),
        19 => s.source = IntentSource::Default,
        _ => s.median = Some(s.median.map_or(Micros(by), |median| Micros(median.0.min(by)))),
    }
    s
}

fn any_signals() -> impl Strategy<Value = Signals> {
    let flags = proptest::collection::vec(any::<bool>(), 9);
    let counts = proptest::collection::vec(prop_oneof![0u64..200, any::<u64>()], 9);
    (0..11usize, 0..4usize, 0..5u8, 0..4u8, flags, counts).prop_map(
        |(intent, source, sensitivity, assurance, flags, counts)| Signals {
            intent: Intent::ALL[intent],
            source: IntentSource::ALL[source],
            is_declared: flags[0],
            is_mismatch: flags[1],
            sensitivity: (sensitivity < 4).then_some(sensitivity),
            price: Micros(counts[0]),
            cap: flags[2].then_some(Micros(counts[1])),
            median: flags[3].then_some(Micros(counts[2])),
            is_payee_first: flags[4],
            is_payee_changed: flags[5],
            is_asset_changed: flags[6],
            is_tool_first: flags[7],
            server_age_s: flags[8].then_some(counts[3]),
            is_definition_unapproved: flags[0],
            calls_this_hour: counts[4],
            hourly_mean: flags[1].then_some(counts[5]),
            same_calls: counts[6],
            budget_percent: counts[7],
            is_tainted: flags[2],
            is_private: flags[3],
            assurance,
            extra_hops: counts[8] % 9,
            sign_in_age_s: flags[4].then_some(counts[8]),
        },
    )
}

proptest! {
    #[test]
    fn one_more_signal_never_lowers_the_score(
        signals in any_signals(), which in 0..21usize, by in prop_oneof![0u64..100_000, any::<u64>()],
    ) {
        let model = builtin();
        let before = model.assess(&signals).score;
        let after = model.assess(&more(signals, which, by)).score;
        prop_assert!(after >= before, "{which}: {before} to {after}");
        prop_assert!(after <= SCORE_MAX);
    }
}

#[test]
fn each_signal_says_something_of_its_own() {
    let mut loud = quiet();
    (loud.intent, loud.source, loud.is_declared) = (Intent::Delete, IntentSource::Default, false);
    (loud.is_mismatch, loud.sensitivity, loud.price) = (true, Some(3), Micros(100));
    (loud.cap, loud.median) = (Some(Micros(100)), Some(Micros(1)));
    (loud.is_payee_first, loud.is_payee_changed, loud.is_asset_changed) = (true, true, true);
    (loud.is_tool_first, loud.server_age_s) = (true, Some(0));
    (loud.is_definition_unapproved, loud.is_tainted, loud.is_private) = (true, true, true);
    (loud.calls_this_hour, loud.hourly_mean, loud.same_calls) = (1000, Some(1), 1000);
    (loud.budget_percent, loud.assurance, loud.extra_hops) = (100, 0, 3);
    loud.sign_in_age_s = Some(u64::MAX);
    let risk = builtin().raised(builtin().assess(&loud), 1);
    let said: std::collections::BTreeSet<_> =
        risk.points.iter().map(|point| point.code.sentence()).collect();
    assert_eq!(said.len(), risk.points.len());
    // One intent has one source: that the name told it is the only thing that is not so.
    assert_eq!(said.len(), 23);
    assert!(!said.contains(Signal::IntentFromName.sentence()));
}
