//! x402: one signature a call, whatever the server does.

use crate::{
    fixture::{
        NOW_S, PAYEE, ask_x402, ask_x402_with, checked, directory, done, modern, open, options,
        payment_required, problem, refuse, x402_payment,
    },
    run,
    server::{Reply, Seen, Server},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_client::{Client, DeclineReason, Outcome};
use countersign_core::{
    money::Micros,
    refusal::{Charged, Code},
};
use serde_json::json;
use std::collections::BTreeSet;

/// The distinct nonces that a server was shown, and how often it was shown one.
fn payments(server: &Server) -> (usize, usize) {
    let calls = server.calls();
    let nonces: Vec<_> = calls.iter().filter_map(x402_payment).collect();
    let distinct: BTreeSet<_> = nonces.iter().map(|p| p.payload.authorization.nonce).collect();
    (distinct.len(), nonces.len())
}

async fn connect(call: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> (Server, Client) {
    let server = modern(call).await;
    let client = Client::connect(&server.url, options()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn a_challenge_is_paid_once_and_exactly() {
    let (server, client) = connect(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => done(seen),
    })
    .await;
    let outcome = run(&client).await;
    let Outcome::Ok(done) = outcome else { panic!("{outcome:?}") };
    let paid = done.paid.unwrap();
    assert_eq!((paid.amount.minor, paid.micros), (10_000, Some(Micros(10_000))));
    assert!(!paid.earlier && paid.payee == PAYEE);
    assert!(done.payment_response.unwrap().get().contains("0x1"));
    assert_eq!(payments(&server), (1, 1));
    let shown = x402_payment(&server.calls()[1]).unwrap();
    let authorization = shown.payload.authorization;
    assert_eq!((authorization.value, authorization.valid_before_s), (10_000, NOW_S + 60));
    assert_eq!(shown.extensions.unwrap().get(), r#"{"x-challenge":{"info":{"id":"ch_1"}}}"#);
    assert!(shown.accepted.extra.unwrap().get().contains("ch_1"), "echoed as it came");
    // Nothing is left over: the next call asks anew.
    run(&client).await;
    assert_eq!(payments(&server), (2, 2));
}

#[tokio::test]
async fn an_http_challenge_is_paid_in_its_header() {
    let challenge = STANDARD.encode(payment_required(10_000).to_string());
    let (server, client) = connect(move |seen, _| match seen.header("payment-signature") {
        None => Reply::json(402, &json!({})).with("payment-required", &challenge),
        Some(payment) => {
            checked(&STANDARD.decode(payment).unwrap());
            let response = STANDARD.encode(r#"{"success":true}"#);
            done(seen).with("payment-response", &response)
        }
    })
    .await;
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!(payments(&server), (0, 0), "not in `_meta` as well");
}

#[tokio::test]
async fn a_second_challenge_ends_the_call_dearer_or_not() {
    for second in [10_000, 20_000] {
        let (server, client) =
            connect(move |seen, before| ask_x402(seen, if before == 0 { 10_000 } else { second }))
                .await;
        let outcome = run(&client).await;
        assert_eq!(outcome.exit_code(), 16, "nobody said that nothing was taken: {outcome:?}");
        assert_eq!(payments(&server), (1, 1));
        // The same call shows the same payment, and still makes no other.
        assert_eq!(run(&client).await.exit_code(), 16);
        assert_eq!(payments(&server), (1, 2));
    }
}

#[tokio::test]
async fn a_second_challenge_that_took_nothing_leaves_nothing() {
    let (server, client) = connect(|seen, before| match before {
        0 | 2 => ask_x402(seen, 10_000),
        1 => {
            let refusal = problem(Code::PayerFunds, Charged::No);
            ask_x402_with(seen, 10_000, &json!({"countersign/refusal": refusal}))
        }
        _ => done(seen),
    })
    .await;
    let outcome = run(&client).await;
    let Outcome::Refused(refused) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(refused.problem.known, Some(Code::PayerFunds));
    assert_eq!((refused.charged, outcome.exit_code()), (Some(Charged::No), 10));
    assert_eq!(payments(&server), (1, 1));
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!(payments(&server), (2, 2), "a new call may pay anew");
}

#[tokio::test]
async fn nothing_above_the_cap_and_nothing_unknown_is_paid() {
    let (server, client) = connect(|seen, _| ask_x402(seen, 100_001)).await;
    let outcome = run(&client).await;
    let Outcome::Declined(declined) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(declined.offers[0].reason, DeclineReason::OverCap);
    assert_eq!(declined.offers[0].amount.as_ref().unwrap().minor, 100_001);
    assert_eq!((outcome.exit_code(), payments(&server)), (14, (0, 0)));

    let server = modern(|seen, _| ask_x402(seen, 1)).await;
    let mut unknown = options();
    unknown.means.assets.clear();
    let mut uncapped = options();
    uncapped.means.caps.per_call = None;
    let mut poor = options();
    poor.means.wallets.clear();
    for (options, reason) in [
        (unknown, DeclineReason::UnknownAsset),
        (uncapped, DeclineReason::OverCap),
        (poor, DeclineReason::NoWallet),
    ] {
        let client = Client::connect(&server.url, options).await.unwrap();
        let outcome = run(&client).await;
        let Outcome::Declined(declined) = outcome else { panic!("{outcome:?}") };
        assert_eq!(declined.offers[0].reason, reason);
    }
    assert_eq!(payments(&server), (0, 0));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_with_the_same_payment() {
    let (server, client) = connect(|seen, before| match before {
        0 => ask_x402(seen, 10_000),
        1 | 2 => Reply::Hangup,
        _ => done(seen),
    })
    .await;
    let outcome = run(&client).await;
    assert_eq!(outcome.exit_code(), 0, "{outcome:?}");
    assert_eq!(payments(&server), (1, 3));
    let ids: BTreeSet<_> = server.calls().iter().map(|seen| seen.body["id"].to_string()).collect();
    assert_eq!(ids.len(), 4, "each sending is a request of its own");
}

#[tokio::test]
async fn a_payment_without_an_answer_outlives_the_process() {
    let directory = directory("x402");
    let server = modern(|seen, before| match before {
        0 => ask_x402(seen, 10_000),
        1..=2 => Reply::Stall,
        _ => done(seen),
    })
    .await;
    let mut options = options();
    (options.resends, options.credentials) = (1, open(&directory));
    options.exchange_timeout_ms = 300;
    let client = Client::connect(&server.url, options.clone()).await.unwrap();
    let outcome = run(&client).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(outcome.exit_code(), 16);
    drop(client);

    options.credentials = open(&directory);
    options.exchange_timeout_ms = 10_000;
    assert_eq!(options.credentials.len(), 1);
    let client = Client::connect(&server.url, options).await.unwrap();
    let outcome = run(&client).await;
    let Outcome::Ok(done) = outcome else { panic!("{outcome:?}") };
    assert!(done.paid.unwrap().earlier);
    assert_eq!(payments(&server), (1, 3));
    assert!(open(&directory).is_empty(), "used up");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn an_unknown_settlement_is_asked_about_with_the_same_payment() {
    let (server, client) = connect(|seen, before| match before {
        0 => ask_x402(seen, 10_000),
        1 => refuse(seen, Code::SettlementUnknown, Charged::Unknown),
        2 => refuse(seen, Code::InProgress, Charged::No),
        _ => done(seen),
    })
    .await;
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!(payments(&server), (1, 3));

    let (server, client) = connect(|seen, before| match before {
        0 => ask_x402(seen, 10_000),
        _ => refuse(seen, Code::SettlementUnknown, Charged::Unknown),
    })
    .await;
    let outcome = run(&client).await;
    assert_eq!(outcome.exit_code(), 16, "{outcome:?}");
    assert_eq!(payments(&server), (1, 4), "as often as allowed, then reported");
}

#[tokio::test]
async fn a_call_in_doubt_that_must_not_be_repeated_is_not() {
    let (server, client) = connect(|seen, before| match before {
        0 => ask_x402(seen, 10_000),
        _ => refuse(seen, Code::UpstreamTimeout, Charged::Unknown),
    })
    .await;
    assert_eq!(run(&client).await.exit_code(), 16);
    assert_eq!(payments(&server), (1, 1));
}

#[tokio::test]
async fn two_calls_at_once_make_two_payments() {
    let (server, client) = connect(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => done(seen),
    })
    .await;
    let (first, second) = tokio::join!(run(&client), run(&client));
    assert_eq!((first.exit_code(), second.exit_code()), (0, 0));
    assert_eq!(payments(&server), (2, 2));
}
