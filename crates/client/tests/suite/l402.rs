//! L402: what is checked before an invoice is paid, and what is kept after.

use crate::{
    fixture::{
        NOW_S, ask_l402, credential, directory, done, invoice, l402, l402_payment, macaroon, means,
        modern, open, options, paid, preimage, refuse, wallet,
    },
    run,
    server::{Reply, Seen, Server},
};
use countersign_client::{Client, DeclineReason, OfferFault, Options, Outcome, Secret, ToolCall};
use countersign_core::{
    refusal::{Charged, Code},
    wire::l402::Challenge,
};
use serde_json::json;

fn paying(wallet: &Server) -> Options {
    let mut options = options();
    options.means = means(Some(&wallet.url));
    options
}

async fn connect(
    wallet: &Server,
    call: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
) -> (Server, Client) {
    let server = modern(call).await;
    let client = Client::connect(&server.url, paying(wallet)).await.unwrap();
    (server, client)
}

/// The invoices whose credentials a server was shown, in order.
fn shown(server: &Server) -> Vec<Option<u8>> {
    server.calls().iter().map(l402_payment).collect()
}

#[tokio::test]
async fn a_credential_for_several_calls_is_paid_once() {
    let wallet = wallet().await;
    let (server, client) = connect(&wallet, |seen, _| match l402_payment(seen) {
        None => {
            let n = u8::try_from(seen.body["id"].as_u64().unwrap()).unwrap();
            ask_l402(seen, &l402(n, 3, &["tool=paid", "n_uses=2"]), 3)
        }
        Some(_) => done(seen),
    })
    .await;
    for _ in 0..3 {
        let outcome = run(&client).await;
        assert_eq!(outcome.paid().unwrap().amount.minor, 3_000, "{outcome:?}");
        assert_eq!(outcome.exit_code(), 0);
    }
    assert_eq!(wallet.seen().len(), 2);
    assert_eq!(shown(&server), [None, Some(2), Some(2), None, Some(5)]);
}

#[tokio::test]
async fn an_offer_whose_parts_do_not_fit_is_not_paid() {
    let wallet = wallet().await;
    let expired = format!("valid_until={}", NOW_S - 1);
    let foreign = Challenge::new(&macaroon(1, &[]), &invoice(2, 3_000)).unwrap();
    let cases = [
        (l402(1, 4, &[]), 3, DeclineReason::BadOffer(OfferFault::Amount)),
        (foreign, 3, DeclineReason::BadOffer(OfferFault::PaymentHash)),
        (l402(1, 3, &[&expired]), 3, DeclineReason::BadOffer(OfferFault::Expired)),
        (l402(1, 101, &[]), 101, DeclineReason::OverCap),
    ];
    for (challenge, offered_sat, reason) in cases {
        let (_server, client) =
            connect(&wallet, move |seen, _| ask_l402(seen, &challenge, offered_sat)).await;
        let outcome = run(&client).await;
        let Outcome::Declined(declined) = outcome else { panic!("{outcome:?}") };
        assert_eq!(declined.offers[0].reason, reason);
    }
    assert_eq!(wallet.seen().len(), 0);
}

#[tokio::test]
async fn the_header_form_is_paid_in_the_header_unless_a_token_is_there() {
    let wallet = wallet().await;
    for bearer in [None, Some(Secret::new("t0k3n"))] {
        let has_bearer = bearer.is_some();
        let server = modern(move |seen, before| {
            let authorization = seen.header("authorization").map(str::to_owned);
            match (before, authorization) {
                (0, _) => {
                    let challenge = l402(1, 3, &[]).header();
                    Reply::json(402, &json!({})).with("www-authenticate", &challenge)
                }
                (_, Some(value)) if has_bearer => {
                    assert_eq!((&*value, l402_payment(seen)), ("Bearer t0k3n", Some(1)));
                    done(seen)
                }
                (_, value) => {
                    assert_eq!(credential(value.unwrap().strip_prefix("L402 ").unwrap()), 1);
                    done(seen)
                }
            }
        })
        .await;
        let mut options = paying(&wallet);
        options.bearer = bearer;
        let client = Client::connect(&server.url, options).await.unwrap();
        assert_eq!(run(&client).await.exit_code(), 0);
    }
}

#[tokio::test]
async fn what_is_paid_and_unused_is_shown_by_the_next_call() {
    let (wallet, directory) = (wallet().await, directory("l402"));
    let server = modern(|seen, before| match before {
        0 => ask_l402(seen, &l402(1, 3, &["n_uses=1"]), 3),
        1 => refuse(seen, Code::NoGrant, Charged::Unused),
        _ => match l402_payment(seen) {
            Some(_) => done(seen),
            None => refuse(seen, Code::NoGrant, Charged::No),
        },
    })
    .await;
    let mut options = paying(&wallet);
    options.credentials = open(&directory);
    let client = Client::connect(&server.url, options.clone()).await.unwrap();
    let outcome = run(&client).await;
    let Outcome::Refused(refused) = &outcome else { panic!("{outcome:?}") };
    assert_eq!((refused.charged, outcome.exit_code()), (Some(Charged::Unused), 12));

    #[cfg(unix)]
    for file in std::fs::read_dir(&directory).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    options.credentials = open(&directory);
    let client = Client::connect(&server.url, options).await.unwrap();
    // Other arguments are another call, and other white space is not.
    let other = ToolCall::new("paid", r#"{"a":"y"}"#).unwrap();
    assert_eq!(client.call_tool(&other).await.unwrap().exit_code(), 12);
    let same = ToolCall::new("paid", r#"{ "a": "x", "b": 123456789012345678901 }"#).unwrap();
    let outcome = client.call_tool(&same).await.unwrap();
    assert!(outcome.paid().unwrap().earlier && outcome.exit_code() == 0, "{outcome:?}");
    assert_eq!(shown(&server), [None, Some(1), None, Some(1)]);
    assert_eq!((wallet.seen().len(), open(&directory).len()), (1, 0));
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_kept_credential_that_is_refused_is_dropped_before_anything_is_paid() {
    for by_status in [false, true] {
        let wallet = wallet().await;
        let (server, client) = connect(&wallet, move |seen, before| match (before, by_status) {
            (0, _) => ask_l402(seen, &l402(1, 3, &[]), 3),
            (2, false) => refuse(seen, Code::CredentialInvalid, Charged::No),
            (2, true) => Reply::json(401, &json!({})),
            (3, _) => ask_l402(seen, &l402(2, 3, &[]), 3),
            _ => done(seen),
        })
        .await;
        assert_eq!(run(&client).await.exit_code(), 0);
        assert_eq!(run(&client).await.exit_code(), 0);
        assert_eq!(shown(&server), [None, Some(1), Some(1), None, Some(2)]);
        assert_eq!(wallet.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_second_challenge_ends_the_call() {
    let wallet = wallet().await;
    let (server, client) = connect(&wallet, |seen, before| {
        ask_l402(seen, &l402(u8::try_from(before + 1).unwrap(), 3, &["n_uses=1"]), 3)
    })
    .await;
    let outcome = run(&client).await;
    let Outcome::Refused(refused) = &outcome else { panic!("{outcome:?}") };
    assert_eq!((refused.charged, outcome.exit_code()), (Some(Charged::Unused), 10));
    assert_eq!((wallet.seen().len(), shown(&server)), (1, vec![None, Some(1)]));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_with_the_same_credential() {
    let wallet = wallet().await;
    let (server, client) = connect(&wallet, |seen, before| match before {
        0 => ask_l402(seen, &l402(1, 3, &["n_uses=1"]), 3),
        1 => Reply::Hangup,
        _ => done(seen),
    })
    .await;
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!((wallet.seen().len(), shown(&server)), (1, vec![None, Some(1), Some(1)]));
}

#[tokio::test]
async fn an_invoice_that_may_be_paid_is_asked_about_before_another_is() {
    // It cannot be asked about payments, and recognises the invoice when it is to pay it again.
    let wallet = Server::start(|seen, before| match before {
        _ if seen.path.starts_with("/payments/") => Reply::json(404, &json!({})),
        0 => Reply::Stall,
        2 => Reply::json(200, &json!({"preimage": "07".repeat(32)})),
        _ => Reply::json(200, &json!({"preimage": paid(seen)})),
    })
    .await;
    let server = modern(|seen, _| match l402_payment(seen) {
        None => ask_l402(seen, &l402(1, 3, &["n_uses=1"]), 3),
        Some(_) => done(seen),
    })
    .await;
    let mut options = paying(&wallet);
    options.exchange_timeout_ms = 1_000;
    let client = Client::connect(&server.url, options).await.unwrap();
    for _ in 0..2 {
        let outcome = run(&client).await;
        assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    }
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!(shown(&server), [None, Some(1)], "one challenge, one credential");
    let is_pay = |seen: &&Seen| seen.path == "/pay";
    let seen = wallet.seen();
    let invoices: Vec<_> = seen.iter().filter(is_pay).map(|seen| seen.body.clone()).collect();
    assert!(invoices.len() == 3 && invoices.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_wallet_that_says_what_it_paid_is_not_asked_to_pay_again() {
    let wallet = Server::start(|seen, _| match seen.path.starts_with("/payments/") {
        true => Reply::json(200, &json!({"state": "paid", "preimage": hex::encode(preimage(1))})),
        false => Reply::Stall,
    })
    .await;
    let server = modern(|seen, _| match l402_payment(seen) {
        None => ask_l402(seen, &l402(1, 3, &["n_uses=1"]), 3),
        Some(_) => done(seen),
    })
    .await;
    let mut options = paying(&wallet);
    options.exchange_timeout_ms = 1_000;
    let client = Client::connect(&server.url, options).await.unwrap();
    let outcome = run(&client).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!(shown(&server), [None, Some(1)], "one challenge, one credential");
    let paths: Vec<_> = wallet.seen().iter().map(|seen| seen.path.clone()).collect();
    assert!(paths.len() == 2 && paths[0] == "/pay", "{paths:?}");
}

#[tokio::test]
async fn a_wallet_that_says_no_costs_nothing() {
    let wallet = Server::start(|_, _| Reply::json(402, &json!({"error": "no route"}))).await;
    let (_server, client) = connect(&wallet, |seen, _| ask_l402(seen, &l402(1, 3, &[]), 3)).await;
    let outcome = run(&client).await;
    let Outcome::Declined(declined) = &outcome else { panic!("{outcome:?}") };
    assert_eq!(declined.offers[0].reason, DeclineReason::WalletRefused);
    assert_eq!(outcome.exit_code(), 10);
}
