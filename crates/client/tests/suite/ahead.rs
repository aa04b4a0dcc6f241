//! What is had before its call is made: prices, work, credentials for several calls.

use crate::{
    call,
    fixture::{
        NOW_S, ask_l402, directory, done, l402, l402_payment, means, open, options, paid,
        payment_required, problem, result, wallet,
    },
    run,
    server::{Reply, Seen, Server},
};
use countersign_client::{
    Ceiling, Client, DeclineReason, Options, Outcome, Prepared, Quoted, SpendLimits, SpendLog,
    ToolCall,
};
use countersign_core::{
    quote::Rail,
    refusal::{Charged, Code},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// A server that takes work for `paid`, of this difficulty, and for nothing else.
async fn server(target: &'static str) -> Server {
    Server::start(move |seen, _| match (&*seen.path, seen.method()) {
        ("/mcp/pow/challenge", _) if seen.body["tool"] == "paid" => Reply::json(
            200,
            &json!({"scheme": "pow", "algorithm": "SHA-256", "nonce": "n0", "target": target,
                "expiresAt": (NOW_S + 60) * 1000}),
        ),
        ("/mcp/pow/challenge", _) => Reply::json(402, &problem(Code::PaymentTerms, Charged::No)),
        (_, "server/discover") => result(seen, &json!({"supportedVersions": ["2026-07-28"]})),
        _ => done(seen),
    })
    .await
}

async fn client(server: &Server) -> Client {
    Client::connect(&format!("{}/mcp", server.url), options()).await.unwrap()
}

const EASY: &str = "0fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const HARD: &str = "00000000000fffffffffffffffffffffffffffffffffffffffffffffffffffff";

#[tokio::test]
async fn a_call_that_was_prepared_shows_its_work_at_once_and_once() {
    let server = server(EASY).await;
    let client = client(&server).await;
    for earlier in [false, true] {
        let prepared = client.prepare(&call()).await.unwrap();
        assert!(matches!(prepared, Prepared::Ready(paid) if paid.earlier == earlier));
    }
    let asked = |path: &str| server.seen().iter().filter(|seen| seen.path == path).count();
    assert_eq!((asked("/mcp/pow/challenge"), server.calls().len()), (1, 0));
    let outcome = run(&client).await;
    let Outcome::Ok(done) = outcome else { panic!("{outcome:?}") };
    let paid = done.paid.unwrap();
    assert_eq!((paid.rail, paid.earlier), (Rail::Pow, true));
    let shown = |n: usize| server.calls()[n].meta("countersign/pow").as_str().map(str::to_owned);
    assert!(shown(0).unwrap().starts_with("n0:"));
    run(&client).await;
    assert_eq!(shown(1), None);
}

#[tokio::test]
async fn nothing_is_done_ahead_where_no_work_is_taken_or_too_much() {
    let server = server(HARD).await;
    let client = client(&server).await;
    let other = ToolCall::new("other", "{}").unwrap();
    for call in [call(), other] {
        assert!(matches!(client.prepare(&call).await.unwrap(), Prepared::Nothing));
    }
    assert!(server.calls().is_empty());
}

/// A server before which a call of `paid` costs three sat for this many calls, and more each time.
async fn selling(uses: &'static str) -> Server {
    let sold = std::sync::atomic::AtomicU8::new(0);
    let next = move || sold.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
    Server::start(move |seen, _| match (&*seen.path, seen.method()) {
        ("/mcp/quote", _) => {
            let offer = l402(next(), 3, &["tool=paid", uses]);
            let mut body = problem(Code::PaymentRequired, Charged::No);
            body["invoice"] = offer.invoice().into();
            body["macaroon"] = offer.token().into();
            Reply::json(402, &body).with("www-authenticate", &offer.header())
        }
        (_, "server/discover") => result(seen, &json!({"supportedVersions": ["2026-07-28"]})),
        (_, "tools/call") => match l402_payment(seen) {
            None => ask_l402(seen, &l402(next(), 3, &["tool=paid", uses]), 3),
            Some(_) => done(seen),
        },
        _ => Reply::json(404, &problem(Code::UnknownServer, Charged::No)),
    })
    .await
}

async fn with(server: &Server, options: Options) -> Client {
    Client::connect(&format!("{}/mcp", server.url), options).await.unwrap()
}

fn paying(wallet: &Server) -> Options {
    let mut options = options();
    options.means = means(Some(&wallet.url));
    options
}

/// How often an endpoint was asked.
fn asked(server: &Server, path: &str) -> usize {
    server.seen().iter().filter(|seen| seen.path == path).count()
}

/// The invoices whose credentials the calls showed, in order.
fn shown(server: &Server) -> Vec<Option<u8>> {
    server.calls().iter().map(l402_payment).collect()
}

fn is_pay(seen: &&Seen) -> bool {
    seen.path == "/pay"
}

#[tokio::test]
async fn a_price_is_asked_without_a_call() {
    let answer = |status: u16, body: Value| {
        Server::start(move |seen, _| match (&*seen.path, seen.method()) {
            ("/mcp/quote", _) => {
                assert_eq!(seen.body["tool"], "paid");
                assert!(seen.text.contains(r#""b":123456789012345678901"#));
                Reply::json(status, &body)
            }
            (_, "server/discover") => result(seen, &json!({"supportedVersions": ["2026-07-28"]})),
            _ => Reply::Hangup,
        })
    };
    let quote = async |status, body| {
        let server = answer(status, body).await;
        with(&server, options()).await.quote(&call()).await.unwrap()
    };
    let free = quote(200, json!({"due": false, "ran": false})).await;
    assert!(matches!(free, Some(Quoted::NothingDue)));
    let mut asking = problem(Code::PaymentRequired, Charged::No);
    let (offer, x402) = (l402(1, 3, &["n_uses=1"]), payment_required(10_000));
    asking["invoice"] = offer.invoice().into();
    asking["macaroon"] = offer.token().into();
    for (key, value) in x402.as_object().unwrap() {
        asking[key] = value.clone();
    }
    let Some(Quoted::Asked(offers)) = quote(402, asking).await else { panic!() };
    let offers: Vec<_> =
        offers.iter().map(|o| (o.rail, o.amount.as_ref().map(|amount| amount.minor))).collect();
    assert_eq!(offers, [(Rail::X402, Some(10_000)), (Rail::L402, Some(3_000))]);
    let refused = quote(403, problem(Code::NoGrant, Charged::No)).await;
    assert!(matches!(refused, Some(Quoted::Refused(problem)) if problem.code == "CNS-001"));
    let unknown = quote(404, problem(Code::UnknownTool, Charged::No)).await;
    assert!(matches!(unknown, Some(Quoted::Refused(_))));
    // Not this gateway, or an older one; and somebody who charges for any address.
    for (status, body) in [
        (404, problem(Code::UnknownServer, Charged::No)),
        (405, problem(Code::MethodNotAllowed, Charged::No)),
        (404, json!({})),
        (200, json!({"ok": true})),
        (402, json!({"invoice": offer.invoice(), "macaroon": offer.token()})),
    ] {
        assert!(quote(status, body).await.is_none(), "{status}");
    }
}

#[tokio::test]
async fn a_credential_for_several_calls_is_bought_ahead_and_shown_at_once() {
    let (wallet, server) = (wallet().await, selling("n_uses=2").await);
    let client = with(&server, paying(&wallet)).await;
    for earlier in [false, true] {
        let prepared = client.prepare(&call()).await.unwrap();
        let Prepared::Ready(paid) = prepared else { panic!("{prepared:?}") };
        assert_eq!((paid.rail, paid.amount.minor, paid.earlier), (Rail::L402, 3_000, earlier));
    }
    assert_eq!((asked(&server, "/mcp/quote"), wallet.seen().len()), (1, 1));
    // Other arguments are as good.
    let other = ToolCall::new("paid", r#"{"c":1}"#).unwrap();
    for (call, is_last) in [(call(), false), (other, true)] {
        let outcome = client.call_tool(&call).await.unwrap();
        let Outcome::Ok(done) = outcome else { panic!("{outcome:?}") };
        assert_eq!((done.paid.unwrap().earlier, done.is_last_use), (true, is_last));
    }
    assert_eq!((shown(&server), wallet.seen().len()), (vec![Some(1), Some(1)], 1));
}

#[tokio::test]
async fn what_is_bound_to_one_call_is_not_bought_ahead() {
    let wallet = wallet().await;
    for uses in ["n_uses=1", "call=00"] {
        let server = selling(uses).await;
        let client = with(&server, paying(&wallet)).await;
        assert!(matches!(client.prepare(&call()).await.unwrap(), Prepared::Nothing));
        // Who has no Lightning wallet does not even ask.
        let client = with(&server, options()).await;
        assert!(matches!(client.prepare(&call()).await.unwrap(), Prepared::Nothing));
        assert_eq!(asked(&server, "/mcp/quote"), 1);
    }
    assert!(wallet.seen().is_empty());
}

#[tokio::test]
async fn caps_hosts_limits_and_the_wallet_say_no_ahead_as_in_a_call() {
    let (good, bad) = (
        wallet().await,
        Server::start(|_, _| Reply::json(402, &json!({"error": "no route"}))).await,
    );
    let limited = |limits| {
        let mut options = paying(&good);
        options.spending = SpendLog::in_memory(limits);
        options
    };
    let hour = Ceiling { per_asset: [("BTC".into(), 2_999)].into(), ..Ceiling::default() };
    let hosts = Some(["elsewhere.example".to_owned()].into());
    let mut capped = paying(&good);
    capped.means.caps.per_asset.insert("BTC".into(), 2_999);
    for (options, reason) in [
        (capped, DeclineReason::OverCap),
        (limited(SpendLimits { hour, ..SpendLimits::default() }), DeclineReason::OverCeiling),
        (limited(SpendLimits { hosts, ..SpendLimits::default() }), DeclineReason::HostNotAllowed),
        (paying(&bad), DeclineReason::WalletRefused),
    ] {
        let server = selling("n_uses=2").await;
        let cache = options.credentials.clone();
        let prepared = with(&server, options).await.prepare(&call()).await.unwrap();
        let Prepared::Not(outcome) = prepared else { panic!("{prepared:?}") };
        let Outcome::Declined(declined) = *outcome else { panic!("{outcome:?}") };
        assert_eq!(declined.offers[0].reason, reason);
        assert!(cache.is_empty());
    }
    assert!(good.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_bought_for_all_who_want_one_at_the_same_time() {
    // A wallet that takes its time.
    let slow = Server::start(|seen, _| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        Reply::json(200, &json!({"preimage": paid(seen)}))
    })
    .await;
    for is_ahead in [true, false] {
        let paid_before = slow.seen().len();
        let server = selling("n_uses=9").await;
        let client = Arc::new(with(&server, paying(&slow)).await);
        let mut all = tokio::task::JoinSet::new();
        for n in 0..4 {
            let client = client.clone();
            all.spawn(async move {
                if is_ahead && n % 2 == 0 {
                    let prepared = client.prepare(&call()).await.unwrap();
                    assert!(matches!(prepared, Prepared::Ready(_)), "{prepared:?}");
                } else {
                    let call = ToolCall::new("paid", &format!(r#"{{"n":{n}}}"#)).unwrap();
                    assert_eq!(client.call_tool(&call).await.unwrap().exit_code(), 0);
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        assert_eq!(slow.seen().len() - paid_before, 1, "ahead: {is_ahead}");
    }
}

#[tokio::test]
async fn an_invoice_that_may_be_paid_ahead_is_the_one_that_the_next_call_asks_about() {
    let wallet = Server::start(|seen, before| match before {
        _ if seen.path.starts_with("/payments/") => Reply::json(404, &json!({})),
        0 => Reply::Stall,
        _ => Reply::json(200, &json!({"preimage": paid(seen)})),
    })
    .await;
    let (server, directory) = (selling("n_uses=2").await, directory("ahead"));
    let mut options = paying(&wallet);
    options.exchange_timeout_ms = 500;
    options.credentials = open(&directory);
    let prepared = with(&server, options.clone()).await.prepare(&call()).await.unwrap();
    let Prepared::Not(outcome) = prepared else { panic!("{prepared:?}") };
    assert!(matches!(*outcome, Outcome::Unknown(_)), "{outcome:?}");
    // Another process, later.
    options.credentials = open(&directory);
    let client = with(&server, options).await;
    let prepared = client.prepare(&call()).await.unwrap();
    assert!(matches!(prepared, Prepared::Ready(_)), "nothing is bought beside it: {prepared:?}");
    assert_eq!(run(&client).await.exit_code(), 0);
    assert_eq!((shown(&server), asked(&server, "/mcp/quote")), (vec![Some(1)], 1));
    let seen = wallet.seen();
    let invoices: Vec<_> = seen.iter().filter(is_pay).map(|seen| &seen.body["invoice"]).collect();
    assert!(invoices.len() == 2 && invoices[0] == invoices[1], "{invoices:?}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn an_invoice_whose_payer_was_dropped_is_not_lost_to_another() {
    let wallet = Server::start(|_, _| Reply::Stall).await;
    let server = selling("n_uses=2").await;
    let client = Arc::new(with(&server, paying(&wallet)).await);
    let dropped = tokio::spawn({
        let client = client.clone();
        async move { run(&client).await }
    });
    while wallet.seen().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    dropped.abort();
    let outcome = run(&client).await;
    let Outcome::Declined(declined) = outcome else { panic!("{outcome:?}") };
    assert_eq!(declined.offers[0].reason, DeclineReason::UnderWay);
    assert!(matches!(client.prepare(&call()).await.unwrap(), Prepared::Nothing));
    assert_eq!(wallet.seen().len(), 1);
}
