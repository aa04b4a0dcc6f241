//! Lightning wallets against doubles of their interfaces, made from what is published about them:
//! LND's REST reference and phoenixd's. No real node is behind any of them.

use crate::{
    fixture::{
        ask_l402, directory, done, invoice, l402, l402_payment, modern, open, options,
        payment_hash, preimage,
    },
    run,
    server::{Reply, Server},
};
use countersign_client::{Client, DeclineReason, LightningWallet, Outcome, Secret, Wallet};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A server that asks for an invoice, once paid answers.
async fn shop() -> Server {
    modern(|seen, _| match l402_payment(seen) {
        None => ask_l402(seen, &l402(1, 3, &["n_uses=1"]), 3),
        Some(1) => done(seen),
        Some(other) => panic!("{other}"),
    })
    .await
}

/// A call at the shop from this wallet; credentials in this directory, so that the same call can
/// come again.
async fn buy(shop: &Server, wallet: LightningWallet, name: &std::path::Path) -> Outcome {
    let mut options = options();
    options.means.wallets = vec![Wallet::Lightning(wallet)];
    options.credentials = open(name);
    options.exchange_timeout_ms = 2_000;
    run(&Client::connect(&shop.url, options).await.unwrap()).await
}

fn reason(outcome: &Outcome) -> Option<&DeclineReason> {
    match outcome {
        Outcome::Declined(declined) => declined.offers.first().map(|offer| &offer.reason),
        _ => None,
    }
}

fn hex_preimage() -> String {
    hex::encode(preimage(1))
}

fn lnd(url: &str) -> LightningWallet {
    LightningWallet::lnd(url, Secret::new("0201"), None).unwrap()
}

fn settled(status: &str) -> Value {
    json!({"result": {"payment_hash": hex::encode(payment_hash(1)), "status": status,
        "payment_preimage": hex_preimage(), "failure_reason": "FAILURE_REASON_NONE"}})
}

#[tokio::test]
async fn lnd_pays_within_a_fee_under_its_macaroon() {
    let shop = shop().await;
    let node = Server::start(|seen, _| {
        assert_eq!(seen.header("grpc-metadata-macaroon"), Some("0201"));
        assert_eq!(seen.path, "/v2/router/send");
        assert_eq!(seen.body["payment_request"], invoice(1, 3_000));
        assert_eq!(seen.body["fee_limit_msat"], "5000");
        Reply::json(200, &settled("SUCCEEDED"))
    })
    .await;
    let directory = directory("lnd-pays");
    assert!(matches!(buy(&shop, lnd(&node.url), &directory).await, Outcome::Ok(_)));
}

#[tokio::test]
async fn what_lnd_answered_too_late_is_looked_up_and_not_paid_again() {
    let shop = shop().await;
    let tracked = AtomicUsize::new(0);
    let node = Server::start(move |seen, _| match &*seen.path {
        "/v2/router/send" => Reply::Hangup,
        path => {
            assert!(path.starts_with("/v2/router/track/") && path.contains('='), "{path}");
            match tracked.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::json(200, &settled("IN_FLIGHT")),
                _ => Reply::json(200, &settled("SUCCEEDED")),
            }
        }
    })
    .await;
    let directory = directory("lnd-late");
    let first = buy(&shop, lnd(&node.url), &directory).await;
    assert!(matches!(first, Outcome::Unknown(_)), "{first:?}");
    let again = buy(&shop, lnd(&node.url), &directory).await;
    assert!(matches!(again, Outcome::Ok(_)), "{again:?}");
    let sent = node.seen().iter().filter(|seen| seen.path == "/v2/router/send").count();
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn what_lnd_refuses_or_fails_was_not_paid() {
    for answer in [
        (200, settled("FAILED")),
        (400, json!({"code": 3, "message": "invoice expired", "details": []})),
        (403, json!({"code": 7, "message": "permission denied"})),
        (200, json!({"error": {"code": 6, "message": "payment is in transition"}})),
    ] {
        let shop = shop().await;
        let node = Server::start(move |seen, _| match &*seen.path {
            "/v2/router/send" => Reply::json(answer.0, &answer.1),
            _ => Reply::json(404, &json!({"error": {"code": 5, "message": "not initiated"}})),
        })
        .await;
        let outcome = buy(&shop, lnd(&node.url), &directory("lnd-no")).await;
        assert_eq!(reason(&outcome), Some(&DeclineReason::WalletRefused), "{outcome:?}");
    }
}

fn phoenixd(url: &str) -> LightningWallet {
    LightningWallet::phoenixd(url, Secret::new("pw")).unwrap()
}

fn paid_by_phoenixd() -> Value {
    json!({"recipientAmountSat": 3, "routingFeeSat": 0, "paymentId": "p",
        "paymentHash": hex::encode(payment_hash(1)), "paymentPreimage": hex_preimage()})
}

#[tokio::test]
async fn phoenixd_pays_a_form_under_its_password() {
    let shop = shop().await;
    let daemon = Server::start(|seen, _| {
        assert_eq!(seen.header("authorization"), Some("Basic OnB3"));
        assert_eq!(
            (&*seen.path, &*seen.text),
            ("/payinvoice", &*format!("invoice={}", invoice(1, 3_000)))
        );
        Reply::json(200, &paid_by_phoenixd())
    })
    .await;
    let outcome = buy(&shop, phoenixd(&daemon.url), &directory("phoenixd-pays")).await;
    assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
}

#[tokio::test]
async fn what_phoenixd_says_nothing_of_is_looked_up() {
    let by_hash = format!("/payments/outgoingbyhash/{}", hex::encode(payment_hash(1)));
    let found = |paid: bool, completed: Value| {
        json!({"type": "outgoing_payment", "paymentId": "p", "isPaid": paid,
            "preimage": if paid { json!(hex_preimage()) } else { Value::Null },
            "completedAt": completed})
    };
    let (paid, open_, failed) =
        (found(true, json!(7)), found(false, Value::Null), found(false, json!(7)));
    for (answer, is_ok, is_unknown) in [
        (Some(paid), true, false),
        (Some(open_), false, true),
        (Some(failed), false, false),
        (None, false, false),
    ] {
        let (shop, path) = (shop().await, by_hash.clone());
        let daemon = Server::start(move |seen, _| match &*seen.path {
            "/payinvoice" => Reply::json(200, &json!({"paymentHash": "x", "reason": "already"})),
            other => {
                assert_eq!(other, path);
                match &answer {
                    Some(answer) => Reply::json(200, answer),
                    None => Reply::Http(404, vec![], "Not found".to_owned()),
                }
            }
        })
        .await;
        let outcome = buy(&shop, phoenixd(&daemon.url), &directory("phoenixd-looks")).await;
        assert_eq!(matches!(outcome, Outcome::Ok(_)), is_ok, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Unknown(_)), is_unknown, "{outcome:?}");
    }
}
