//! Opening a server in either era, listing, and calls that cost nothing.

use crate::{
    call,
    fixture::{done, modern, options, refuse, result},
    run,
    server::{Reply, Server},
};
use countersign_client::{Client, ClientError, EraChoice, Observer, Outcome, Secret};
use countersign_core::{
    call::Era,
    refusal::{Charged, Code},
};
use serde_json::json;
use std::sync::{Arc, Mutex};

#[tokio::test]
async fn a_modern_request_carries_its_meta_its_mirrors_and_the_bytes_of_its_arguments() {
    let server = modern(|seen, _| done(seen)).await;
    let mut options = options();
    options.bearer = Some(Secret::new("t0k3n"));
    let client = Client::connect(&server.url, options).await.unwrap();
    assert_eq!(client.era(), Era::Modern);
    let mut call = call();
    call.name = "wetter für".to_owned();
    call.mirrored = vec![("City".into(), "Köln".into())];
    let outcome = client.call_tool(&call).await.unwrap();
    let Outcome::Ok(done) = &outcome else { panic!("{outcome:?}") };
    assert!(done.paid.is_none() && !done.is_error);
    assert_eq!(done.receipt.as_ref().unwrap().get(), r#""a.b.c""#);
    assert_eq!(outcome.exit_code(), 0);
    let seen = &server.calls()[0];
    assert!(seen.text.contains(r#""arguments":{"b":123456789012345678901,"a":"x"}"#));
    assert_eq!(seen.meta("io.modelcontextprotocol/protocolVersion"), "2026-07-28");
    assert_eq!(seen.meta("io.modelcontextprotocol/clientCapabilities"), &json!({}));
    assert_eq!(seen.meta("io.modelcontextprotocol/clientInfo")["name"], "countersign");
    assert_eq!(seen.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-name"), Some("=?base64?d2V0dGVyIGbDvHI=?="));
    assert_eq!(seen.header("mcp-param-city"), Some("=?base64?S8O2bG4=?="));
    assert_eq!(seen.header("authorization"), Some("Bearer t0k3n"));
}

/// A legacy server whose session ends after its first call, and which streams its answers.
async fn legacy() -> Server {
    Server::start(|seen, before| match seen.method() {
        "server/discover" => Reply::json(
            400,
            &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "no"}}),
        ),
        "initialize" => {
            let reply = result(seen, &json!({"protocolVersion": "2025-11-25"}));
            reply.with("mcp-session-id", &format!("s{before}"))
        }
        "notifications/initialized" | "" => Reply::Http(202, vec![], String::new()),
        "tools/list" if seen.body["params"]["cursor"].is_null() => {
            result(seen, &json!({"tools": [{"name": "a"}], "nextCursor": "2"}))
        }
        "tools/list" => result(
            seen,
            &json!({"tools": [{"name": "b", "inputSchema": {"properties":
                {"city": {"type": "string", "x-mcp-header": "City"}}}}]}),
        ),
        "tools/call" if before > 0 && seen.header("mcp-session-id") == Some("s0") => {
            Reply::json(404, &json!({"error": "gone"}))
        }
        "tools/call" => {
            let answer =
                json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": {"content": []}});
            let stream = format!(
                "data: {}\n\ndata: {}\n\ndata: {answer}\n\n",
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}),
                json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}),
            );
            Reply::Http(200, vec![("content-type", "text/event-stream".into())], stream)
        }
        other => panic!("{other}"),
    })
    .await
}

#[tokio::test]
async fn an_older_server_is_opened_the_older_way_and_opened_again_when_its_session_ends() {
    let server = legacy().await;
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = notes.clone();
    let mut options = options();
    options.observer = Some(Observer::new(move |text| sink.lock().unwrap().push(text.into())));
    let client = Client::connect(&server.url, options).await.unwrap();
    assert_eq!(client.era(), Era::Legacy);
    let tools = client.list_tools().await.unwrap();
    assert_eq!(tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(), ["a", "b"]);
    let arguments = serde_json::value::to_raw_value(&json!({"city": "Ulm"})).unwrap();
    assert_eq!(tools[1].mirrored(&arguments), [("City".to_owned(), "Ulm".to_owned())]);
    for _ in 0..2 {
        assert_eq!(run(&client).await.exit_code(), 0);
    }
    assert_eq!(notes.lock().unwrap().len(), 2);
    let calls = server.calls();
    let sessions: Vec<_> = calls.iter().filter_map(|seen| seen.header("mcp-session-id")).collect();
    assert_eq!(sessions, ["s0", "s0", "s1"]);
    assert!(calls[0].header("mcp-method").is_none(), "no mirrors in the older era");
    assert!(calls[0].body["params"]["_meta"].is_null());
    let pongs = server.seen().into_iter().filter(|seen| seen.body["id"] == "p");
    assert_eq!(
        pongs.map(|seen| seen.body["result"].clone()).collect::<Vec<_>>(),
        [json!({}), json!({})]
    );
}

#[tokio::test]
async fn what_is_no_older_server_is_not_opened_the_older_way() {
    for (status, exit_code) in [(401, 11), (403, 13), (429, 14), (503, 15)] {
        let server = Server::start(move |_, _| Reply::json(status, &json!({}))).await;
        let error = Client::connect(&server.url, options()).await.unwrap_err();
        assert_eq!(error.exit_code(), exit_code, "{error}");
        assert_eq!(server.seen().len(), 1);
    }
    let server = Server::start(|_, _| Reply::json(400, &json!({}))).await;
    let mut modern_only = options();
    modern_only.era = EraChoice::Modern;
    let error = Client::connect(&server.url, modern_only).await.unwrap_err();
    assert!(matches!(error, ClientError::Version));
}

#[tokio::test]
async fn refusals_keep_their_family() {
    for (code, exit_code) in
        [(Code::NoGrant, 12), (Code::Forbidden, 13), (Code::BudgetExceeded, 14)]
    {
        let server = modern(move |seen, _| refuse(seen, code, Charged::No)).await;
        let client = Client::connect(&server.url, options()).await.unwrap();
        let outcome = run(&client).await;
        assert_eq!(outcome.exit_code(), exit_code, "{outcome:?}");
        assert_eq!(server.calls().len(), 1);
    }
}

#[tokio::test]
async fn a_lost_answer_to_an_unpaid_call_is_not_repeated() {
    let server = modern(|_, _| Reply::Hangup).await;
    let client = Client::connect(&server.url, options()).await.unwrap();
    let error = client.call_tool(&call()).await.unwrap_err();
    assert_eq!(error.exit_code(), 15);
    assert_eq!(server.calls().len(), 1);
}
