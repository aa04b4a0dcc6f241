//! The bridge: what a client behind it hears, and what becomes of the money.

use crate::{
    fixture::{
        ask_l402, ask_x402, done, l402, l402_payment, means, modern, options, problem, refuse,
        result, wallet, x402_payment,
    },
    server::{Reply, Seen, Server},
};
use countersign_client::{
    Bridge, BridgeOptions, Ceiling, Observer, Options, SpendLimits, SpendLog,
};
use countersign_core::{
    money::Micros,
    refusal::{Charged, Code},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf},
    sync::watch,
};

/// A client at the other end of the bridge.
struct Desk {
    write: tokio::io::WriteHalf<DuplexStream>,
    read: Lines<BufReader<ReadHalf<DuplexStream>>>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    said: Arc<Mutex<Vec<String>>>,
}

fn desk(server: &Server, options: Options) -> Desk {
    desk_at(&server.url, options, false)
}

fn desk_at(url: &str, options: Options, prefetch: bool) -> Desk {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let hear = Arc::clone(&said);
    let people = BridgeOptions {
        say: Observer::new(move |text| hear.lock().unwrap().push(text.to_owned())),
        open_page: None,
        approval_wait_ms: 3_000,
        prefetch,
    };
    let bridge = Arc::new(Bridge::new(url, options, people).unwrap());
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(ours);
    let (input, output) = tokio::io::split(theirs);
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(bridge.serve_stdio(input, output, stopped));
    Desk { write, read: BufReader::new(read).lines(), stop, served, said }
}

impl Desk {
    async fn send(&mut self, text: &str) {
        self.write.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(10), self.read.next_line());
        line.await.unwrap().unwrap().unwrap()
    }

    async fn ask(&mut self, message: &Value) -> Value {
        self.send(&message.to_string()).await;
        serde_json::from_str(&self.hear().await).unwrap()
    }
}

fn call(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
        "name": "paid", "arguments": {"a": 1}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": 9}}})
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn what_is_not_a_call_passes_as_it_came() {
    let server = Server::start(|seen, _| match seen.method() {
        "x/odd" => Reply::Http(
            200,
            vec![("content-type", "text/event-stream".to_owned())],
            format!(
                "data: {}\n\ndata: {}\n\n",
                r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.50}}"#,
                r#"{"jsonrpc":"2.0","id":"a\u0062","result":{"z":123456789012345678901,"a":1.0,
                 "_meta":{"k":[]}}}"#,
            )
            .replace(",\n", ",\ndata:"),
        ),
        _ => Reply::Http(404, vec![], "gone".to_owned()),
    })
    .await;
    let mut desk = desk(&server, options());
    let sent = r#"{"jsonrpc":"2.0","id":"a\u0062","method":"x/odd","params":{"q":1.0,"n":123456789012345678901}}"#;
    desk.send(sent).await;
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.50}}"#;
    assert_eq!(desk.hear().await, note);
    let answer = desk.hear().await;
    assert!(answer.starts_with(
        r#"{"jsonrpc":"2.0","id":"a\u0062","result":{"z":123456789012345678901,"a":1.0,"#
    ));
    assert_eq!(server.seen()[0].text, sent);
    let refused = desk.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "y"})).await;
    assert_eq!(refused["error"]["code"], -32000);
    let batch = desk.ask(&json!([{"jsonrpc": "2.0", "id": 3, "method": "y"}])).await;
    assert_eq!((&batch["id"], &batch["error"]["code"]), (&Value::Null, &json!(-32600)));
}

#[tokio::test]
async fn a_call_is_paid_once_and_says_so_on_the_way() {
    let server = modern(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => done(seen),
    })
    .await;
    let mut desk = desk(&server, options());
    let progress = desk.ask(&call(1)).await;
    assert_eq!(progress["params"]["progressToken"], 9);
    assert_eq!(progress["params"]["message"], "paying 0.01 USDC");
    let answer: Value = serde_json::from_str(&desk.hear().await).unwrap();
    assert_eq!((&answer["id"], text(&answer)), (&json!(1), "sunny"));
    assert_eq!(answer["result"]["_meta"]["countersign/receipt"], "a.b.c");
    let headers = |seen: &Seen| seen.header("mcp-name").unwrap().to_owned();
    assert!(server.calls().iter().all(|seen| headers(seen) == "paid"));
    assert!(desk.said.lock().unwrap()[0].starts_with("paid 0.01 USDC over x402"));
}

#[tokio::test]
async fn a_second_challenge_ends_the_call() {
    let server = modern(|seen, _| {
        let answer = ask_x402(seen, 10_000);
        let meta = json!({"countersign/refusal": problem(Code::PaymentAmount, Charged::No)});
        match x402_payment(seen) {
            None => answer,
            Some(_) => crate::fixture::ask_x402_with(seen, 10_000, &meta),
        }
    })
    .await;
    let mut desk = desk(&server, options());
    desk.ask(&call(1)).await;
    let answer: Value = serde_json::from_str(&desk.hear().await).unwrap();
    assert_eq!(answer["result"]["isError"], true);
    assert!(text(&answer).contains("you were not charged"), "{}", text(&answer));
    assert_eq!(answer["result"]["_meta"]["countersign/charged"], "no");
    assert!(answer["result"]["structuredContent"].is_null(), "nobody is asked to pay again");
    let paid = server.calls().iter().filter(|seen| x402_payment(seen).is_some()).count();
    assert_eq!(paid, 1);
}

#[tokio::test]
async fn a_call_that_is_withdrawn_is_not_paid_and_one_that_pays_is_finished() {
    let server = modern(|seen, before| match (x402_payment(seen), before) {
        (None, 0) => Reply::Stall,
        (None, _) => ask_x402(seen, 10_000),
        (Some(_), _) => {
            std::thread::sleep(Duration::from_millis(300));
            done(seen)
        }
    })
    .await;
    let mut desk = desk(&server, options());
    desk.send(&call(1).to_string()).await;
    while server.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    desk.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#)
        .await;
    desk.ask(&call(2)).await;
    // It pays: stopping now waits for the answer, and for nothing else.
    desk.stop.send(true).unwrap();
    desk.served.await.unwrap().unwrap();
    let paid = server.calls().iter().filter(|seen| x402_payment(seen).is_some()).count();
    assert_eq!(paid, 1);
    assert!(desk.said.lock().unwrap().iter().any(|said| said.starts_with("paid 0.01 USDC")));
}

#[tokio::test]
async fn a_session_that_the_server_lost_is_opened_again_as_the_client_opened_it() {
    let opened = AtomicUsize::new(0);
    let server = Server::start(move |seen, _| match seen.method() {
        "initialize" => {
            let number = opened.fetch_add(1, Ordering::Relaxed);
            result(seen, &json!({"protocolVersion": "2025-06-18", "capabilities": {}}))
                .with("mcp-session-id", &format!("s{number}"))
        }
        "notifications/initialized" => Reply::Http(202, vec![], String::new()),
        "tools/list" if seen.header("mcp-session-id") == Some("s1") => {
            assert_eq!(seen.header("mcp-protocol-version"), Some("2025-06-18"));
            result(seen, &json!({"tools": []}))
        }
        _ => Reply::Http(404, vec![], String::new()),
    })
    .await;
    let mut desk = desk(&server, options());
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {"roots": {}},
        "clientInfo": {"name": "n", "version": "1"}});
    desk.ask(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})).await;
    desk.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    let listed = desk.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    assert_eq!(listed["result"]["tools"], json!([]));
    let openings: Vec<Value> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.method() == "initialize")
        .map(|seen| seen.body["params"].clone())
        .collect();
    assert_eq!(openings, [params.clone(), params]);
}

#[tokio::test]
async fn a_call_that_waits_for_a_person_is_made_again_and_runs_once_approved() {
    let server = modern(|seen, before| {
        if before < 2 {
            let mut pending = problem(Code::ApprovalPending, Charged::No);
            pending["next"]["url"] = json!("http://127.0.0.1:1/approvals/appr_1");
            let meta = json!({"countersign/refusal": pending});
            return result(seen, &json!({"isError": true, "content": [], "_meta": meta}));
        }
        done(seen)
    })
    .await;
    let mut desk = desk(&server, options());
    let told = desk.ask(&call(1)).await;
    assert!(told["params"]["message"].as_str().unwrap().contains("approvals/appr_1"));
    desk.hear().await;
    let answer: Value = serde_json::from_str(&desk.hear().await).unwrap();
    assert_eq!(text(&answer), "sunny");
    assert!(desk.said.lock().unwrap()[0].contains("http://127.0.0.1:1/approvals/appr_1"));
}

#[tokio::test]
async fn a_page_that_is_not_https_is_shown_to_nobody() {
    for page in ["http://gateway.example/approvals/1", "file:///etc/passwd", "javascript:x"] {
        let server = modern(move |seen, _| {
            let mut pending = problem(Code::ApprovalPending, Charged::No);
            pending["next"]["url"] = json!(page);
            let meta = json!({"countersign/refusal": pending});
            result(seen, &json!({"isError": true, "content": [], "_meta": meta}))
        })
        .await;
        let mut desk = desk(&server, options());
        let answer = desk.ask(&call(1)).await;
        assert_eq!(answer["result"]["_meta"]["countersign/refusal"]["code"], "CNS-008");
        assert_eq!(server.calls().len(), 1, "{page}");
    }
}

#[tokio::test]
async fn a_denial_passes_as_the_server_words_it() {
    let server = modern(|seen, _| refuse(seen, Code::ApprovalDenied, Charged::No)).await;
    let mut desk = desk(&server, options());
    let answer = desk.ask(&call(1)).await;
    let refusal = &answer["result"]["_meta"]["countersign/refusal"];
    assert_eq!(refusal["code"], "CNS-009");
}

#[tokio::test]
async fn an_hour_s_ceiling_and_a_list_of_hosts_hold_for_every_call() {
    let server = modern(|seen, _| match x402_payment(seen) {
        None => ask_x402(seen, 10_000),
        Some(_) => done(seen),
    })
    .await;
    let hour = Ceiling { micros: Some(Micros(10_000)), ..Ceiling::default() };
    let mut limits = SpendLimits { hour, ..SpendLimits::default() };
    let limited = |limits: &SpendLimits| {
        let mut options = options();
        options.spending = SpendLog::in_memory(limits.clone());
        options
    };
    let mut spender = desk(&server, limited(&limits));
    spender.ask(&call(1)).await;
    assert_eq!(text(&serde_json::from_str(&spender.hear().await).unwrap()), "sunny");
    spender.ask(&call(2)).await;
    let over: Value = serde_json::from_str(&spender.hear().await).unwrap();
    assert!(text(&over).contains("too much was spent in this hour"), "{}", text(&over));
    limits.hosts = Some(["gateway.example".to_owned()].into());
    let mut stranger = desk(&server, limited(&limits));
    let denied = stranger.ask(&call(3)).await;
    assert!(text(&denied).contains("not one that may be paid"), "{}", text(&denied));
    let paid = server.calls().iter().filter(|seen| x402_payment(seen).is_some()).count();
    assert_eq!(paid, 1);
}

#[tokio::test]
async fn what_is_not_being_paid_ahead_ends_with_the_program() {
    let wallet = wallet().await;
    let server = Server::start(|seen, _| match (&*seen.path, seen.method()) {
        ("/mcp/quote", _) => Reply::Stall,
        ("/mcp", "tools/call") => match l402_payment(seen) {
            None => ask_l402(seen, &l402(1, 3, &["n_uses=2"]), 3),
            Some(_) => done(seen),
        },
        _ => Reply::Hangup,
    })
    .await;
    let mut options = options();
    options.means = means(Some(&wallet.url));
    let mut desk = desk_at(&format!("{}/mcp", server.url), options, true);
    for id in [1, 2] {
        let mut answer = desk.ask(&call(id)).await;
        while answer["method"] == "notifications/progress" {
            answer = serde_json::from_str(&desk.hear().await).unwrap();
        }
        assert_eq!((&answer["id"], text(&answer)), (&json!(id), "sunny"));
    }
    while !server.seen().iter().any(|seen| seen.path == "/mcp/quote") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    desk.stop.send(true).unwrap();
    let served = tokio::time::timeout(Duration::from_secs(5), desk.served);
    served.await.unwrap().unwrap().unwrap();
    assert_eq!(wallet.seen().len(), 1);
    assert!(!desk.said.lock().unwrap().iter().any(|line| line.contains("ahead")));
}
