//! The layer: what a program that sends its requests itself sees of a payment.

use crate::{
    fixture::{
        ask_l402, ask_x402, done, l402, l402_payment, means, modern, options, payment_required,
        result, wallet, x402_payment,
    },
    server::{Reply, Server},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_client::{BridgeOptions, Observer, Options, Pay, PayClient, PayError, PayLayer};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _};

type Plain = Client<HttpConnector, Full<Bytes>>;

fn layer(options: Options) -> PayLayer {
    let people = BridgeOptions {
        say: Observer::new(|_| ()),
        open_page: None,
        approval_wait_ms: 0,
        prefetch: false,
    };
    PayLayer::new(options, people)
}

fn plain() -> Plain {
    Client::builder(TokioExecutor::new()).build_http()
}

fn message() -> Value {
    json!({"jsonrpc": "2.0", "id": "a7", "method": "tools/call", "params": {
        "name": "paid", "arguments": {"b": 1}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": 9}}})
}

/// An answer: status, headers and body.
struct Got(StatusCode, HeaderMap, String);

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.2).unwrap_or_else(|_| panic!("{}", self.2))
    }
}

async fn send(
    client: &Pay<Plain>,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Got, PayError<hyper_util::client::legacy::Error>> {
    let mut request = Request::post(format!("{url}/mcp")).header("x-own", "1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = client.clone().oneshot(request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok(Got(head.status, head.headers, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn a_call_is_paid_once_in_the_programs_own_words() {
    let server = modern(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => done(seen),
    })
    .await;
    let client = layer(options()).layer(plain());
    let got = send(&client, &server.url, &[], &message().to_string()).await.unwrap();
    assert_eq!((got.0, &got.json()["id"]), (StatusCode::OK, &json!("a7")));
    assert_eq!(got.json()["result"]["_meta"]["countersign/receipt"], "a.b.c");
    let calls = server.calls();
    assert_eq!(calls.len(), 2);
    for seen in &calls {
        assert_eq!((seen.header("x-own"), &seen.body["id"]), (Some("1"), &json!("a7")));
        assert_eq!(seen.body["params"]["arguments"], json!({"b": 1}));
    }
}

#[tokio::test]
async fn what_is_not_paid_passes_as_it_came() {
    let server = Server::start(|seen, _| match seen.method() {
        "tools/call" => Reply::json(401, &json!({"code": "IDN-001", "title": "who?"}))
            .with("www-authenticate", "Bearer resource_metadata=\"https://a.example\""),
        _ => Reply::Http(200, vec![("content-type", "text/plain".into())], seen.text.clone()),
    })
    .await;
    let client = layer(options()).layer(plain());
    let got = send(&client, &server.url, &[], &message().to_string()).await.unwrap();
    assert_eq!(got.0, StatusCode::UNAUTHORIZED);
    assert_eq!(got.1["www-authenticate"], "Bearer resource_metadata=\"https://a.example\"");
    assert_eq!(got.json(), json!({"code": "IDN-001", "title": "who?"}));
    for body in ["not json", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#] {
        let got = send(&client, &server.url, &[], body).await.unwrap();
        assert_eq!(
            (got.2.as_str(), &got.1["content-type"]),
            (body, &"text/plain".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_price_above_the_cap_is_not_paid_and_asks_nobody_else() {
    let server = modern(|_, _| {
        let challenge = STANDARD.encode(payment_required(200_000).to_string());
        Reply::json(402, &json!({"code": "PAY-001"})).with("payment-required", &challenge)
    })
    .await;
    let client = layer(options()).layer(plain());
    let got = send(&client, &server.url, &[], &message().to_string()).await.unwrap();
    assert_eq!((got.0, got.1.get("payment-required")), (StatusCode::PAYMENT_REQUIRED, None));
    let meta = &got.json()["result"]["_meta"];
    assert_eq!(meta["countersign/charged"], "no");
    assert!(meta["countersign/declined"]["offers"][0]["reason"].as_str().unwrap().contains("cap"));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn what_the_server_says_on_the_way_is_heard_before_its_answer() {
    let server = modern(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => {
            let note = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": 9, "progress": 1}});
            let answer = json!({"jsonrpc": "2.0", "id": "a7", "result": {"content": []}});
            let kind = vec![("content-type", "text/event-stream".to_owned())];
            Reply::Http(200, kind, format!("data: {note}\n\ndata: {answer}\n\n"))
        }
    })
    .await;
    let client = layer(options()).layer(plain());
    let accept = [("accept", "application/json, text/event-stream")];
    let got = send(&client, &server.url, &accept, &message().to_string()).await.unwrap();
    assert_eq!(got.1["content-type"], "text/event-stream");
    let events: Vec<Value> = got
        .2
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(events.len(), 3, "{}", got.2);
    assert_eq!(events[0]["params"]["message"], "paying 0.01 USDC");
    assert_eq!(events[1]["params"]["progress"], 1);
    assert_eq!(events[2]["id"], "a7");
    // Whoever takes no events gets the answer alone.
    let got = send(&client, &server.url, &[], &message().to_string()).await.unwrap();
    assert!(got.2.contains(r#""id":"a7""#) && !got.2.contains("paying"), "{}", got.2);
}

#[tokio::test]
async fn a_lost_answer_is_the_clients_error_before_a_payment_and_a_doubt_after() {
    let server = modern(|seen, before| match (x402_payment(seen), before) {
        (None, 0) => Reply::Hangup,
        (None, _) => ask_x402(seen, 10_000),
        (Some(_), 0..=5) => Reply::Hangup,
        (Some(_), _) => done(seen),
    })
    .await;
    let client = layer(options()).layer(plain());
    let message = message().to_string();
    let lost = send(&client, &server.url, &[], &message).await;
    assert!(matches!(lost, Err(PayError::Inner(_))));
    let doubt = send(&client, &server.url, &[], &message).await.unwrap().json();
    assert_eq!(doubt["result"]["_meta"]["countersign/charged"], "unknown", "{doubt}");
    let got = send(&client, &server.url, &[], &message).await.unwrap().json();
    assert_eq!(got["result"]["content"][0]["text"], "sunny", "{got}");
    let payments = server.calls();
    let payments = payments.iter().filter_map(x402_payment).map(|payment| {
        let nonce = payment.payload.authorization.nonce;
        nonce.to_vec()
    });
    let nonces: std::collections::BTreeSet<Vec<u8>> = payments.collect();
    assert_eq!(nonces.len(), 1);
}

#[tokio::test]
async fn credentials_are_the_tokens_own_and_shared_by_all_clients_of_a_layer() {
    let server = modern(|seen, before| match l402_payment(seen) {
        Some(_) => done(seen),
        None => ask_l402(seen, &l402(1 + u8::try_from(before).unwrap(), 3, &["n_uses=3"]), 3),
    })
    .await;
    let purse = wallet().await;
    let mut options = options();
    options.means = means(Some(&purse.url));
    let layer = layer(options);
    let message = message().to_string();
    for (token, paid) in [("Bearer one", 1), ("Bearer one", 1), ("Bearer two", 2)] {
        let client = layer.layer(plain());
        let got = send(&client, &server.url, &[("authorization", token)], &message).await.unwrap();
        assert_eq!(got.json()["result"]["content"][0]["text"], "sunny");
        assert_eq!(purse.seen().len(), paid, "{token}");
    }
    // The token stays in its place.
    assert!(server.calls().iter().all(|seen| seen.header("authorization").is_some()));
    assert!(server.calls().iter().all(|s| s.header("authorization").unwrap().contains("Bearer")));
}

#[tokio::test]
async fn plain_http_to_another_machine_is_not_paid_over() {
    let client = layer(options()).layer(plain());
    let refused = send(&client, "http://tools.example.com", &[], &message().to_string()).await;
    assert!(matches!(refused, Err(PayError::Refused(_))));
}

#[tokio::test]
async fn a_reqwest_client_pays_for_calls_and_sends_the_rest_as_it_is() {
    let server = modern(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => result(seen, &json!({"content": [{"type": "text", "text": "ran"}]})),
    })
    .await;
    let client = PayClient::new(reqwest::Client::new(), &layer(options()));
    let url = format!("{}/mcp", server.url);
    let request = client.plain().post(&url).body(message().to_string()).build().unwrap();
    let response = client.execute(request).await.unwrap();
    assert_eq!((response.url().as_str(), response.status()), (url.as_str(), StatusCode::OK));
    assert!(response.text().await.unwrap().contains("ran"));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    let request = client.plain().post(&url).body(body).build().unwrap();
    let response = client.execute(request).await.unwrap().text().await.unwrap();
    assert!(response.contains("supportedVersions"));
    assert_eq!(server.calls().len(), 2);
}
