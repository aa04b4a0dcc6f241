//! Work that is done before its call is made.

use crate::{
    call,
    fixture::{NOW_S, done, options, problem, result},
    run,
    server::{Reply, Server},
};
use countersign_client::{Client, Outcome, ToolCall};
use countersign_core::{
    quote::Rail,
    refusal::{Charged, Code},
};
use serde_json::json;

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
    assert!(client.prepare(&call()).await.unwrap());
    assert!(client.prepare(&call()).await.unwrap(), "it is there already");
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
    assert!(!client.prepare(&call()).await.unwrap(), "more than may be computed");
    assert!(!client.prepare(&ToolCall::new("other", "{}").unwrap()).await.unwrap());
    assert!(server.calls().is_empty());
}
