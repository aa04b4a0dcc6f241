//! The Rust MCP SDK as a client, in both eras, against the running binary: prices listed, a free
//! tool, a refusal it can read, and a call that it pays for in the MCP form.

use super::running::{WALLET, start};
use countersign_core::wire::{
    eip712::{Domain, TransferAuthorization},
    x402::{ExactEvm, META_PAYMENT, PaymentPayload, PaymentRequired},
};
use countersign_gateway::rails::evm::Signer;
use rmcp::{
    RoleClient,
    model::{CallToolRequestParams, CallToolResult, ProtocolVersion, RequestMetaObject},
    service::{ClientLifecycleMode, RunningService, serve_client_with_lifecycle},
    transport::{
        StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::{Value, json};
use std::{fs, time::SystemTime};

type Session = RunningService<RoleClient, ()>;

async fn connect(url: &str, token: &str, lifecycle: ClientLifecycleMode) -> Session {
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(token);
    let transport = StreamableHttpClientTransport::from_config(config);
    serve_client_with_lifecycle((), transport, lifecycle).await.unwrap()
}

async fn call(session: &Session, tool: &'static str, payment: Option<Value>) -> CallToolResult {
    let mut params = CallToolRequestParams::new(tool);
    params.arguments = json!({ "city": "Oslo" }).as_object().cloned();
    params.meta = payment.map(|payment| {
        let meta = json!({ META_PAYMENT: payment });
        serde_json::from_value::<RequestMetaObject>(meta).unwrap()
    });
    session.call_tool(params).await.unwrap()
}

/// Signs for the first offer of a challenge, as a wallet does.
fn pay(result: &CallToolResult) -> Value {
    let asked = result.structured_content.as_ref().unwrap().to_string();
    let asked = PaymentRequired::parse(asked.as_bytes()).unwrap();
    let accepted = asked.accepts[0].clone();
    let extra: Value = serde_json::from_str(accepted.extra.as_ref().unwrap().get()).unwrap();
    let text = |name: &str| extra[name].as_str().unwrap().to_owned();
    let (evm, signer) = (accepted.evm().unwrap(), Signer::from_secret(WALLET).unwrap());
    let domain = Domain {
        name: text("name"),
        version: text("version"),
        chain_id: evm.chain_id,
        token: evm.asset,
    };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let authorization = TransferAuthorization {
        from: signer.address(),
        to: evm.pay_to,
        value: accepted.amount,
        valid_after_s: 0,
        valid_before_s: now.as_secs() + 60,
        nonce: countersign_core::digest::Digest::of(&now.as_nanos().to_be_bytes())
            .as_bytes()
            .to_owned(),
    };
    let signature = signer.authorize(&authorization, &domain).unwrap();
    let payload = ExactEvm { authorization, signature };
    let payment = PaymentPayload { resource: None, accepted, payload, extensions: None };
    serde_json::from_str(&payment.to_json()).unwrap()
}

fn text(result: &CallToolResult) -> String {
    serde_json::to_string(&result.content).unwrap()
}

async fn converse(session: &Session) {
    let tools = session.list_all_tools().await.unwrap();
    let listed = tools.iter().find(|tool| tool.name == "get_forecast").unwrap();
    let meta = serde_json::to_string(&listed.meta).unwrap();
    assert!(meta.contains("0.01 USDC"), "{meta}");
    let free = call(session, "status", None).await;
    assert_ne!(free.is_error, Some(true), "{free:?}");
    let asked = call(session, "get_forecast", None).await;
    assert_eq!(asked.is_error, Some(true));
    let paid = pay(&asked);
    let ran = call(session, "get_forecast", Some(paid.clone())).await;
    assert_ne!(ran.is_error, Some(true), "{ran:?}");
    assert!(text(&ran).contains("temperature"), "{ran:?}");
    let meta = serde_json::to_value(&ran.meta).unwrap();
    assert!(meta["countersign/receipt"].is_string(), "{meta}");
    let again = call(session, "get_forecast", Some(paid)).await;
    assert_eq!(text(&again), text(&ran), "the same payment fetches the same outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_sdk_calls_pays_and_reads_refusals_in_both_eras() {
    let running = tokio::task::block_in_place(|| start("rmcp"));
    let token = fs::read_to_string(running.site.path("token")).unwrap();
    let modern =
        ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::LATEST] };
    let first = connect(&running.url, token.trim(), ClientLifecycleMode::Initialize).await;
    let refused = call(&first, "get_forecast", None).await;
    assert_eq!(refused.is_error, Some(true));
    assert!(text(&refused).contains("CNS-001"), "no grant yet: {refused:?}");
    running.create_grant();
    converse(&first).await;
    first.cancel().await.unwrap();
    let second = connect(&running.url, token.trim(), modern).await;
    converse(&second).await;
    second.cancel().await.unwrap();
}
