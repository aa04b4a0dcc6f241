//! The built-in facilitator before a node and a token that misbehave.

use axum::{Json, Router, routing::post};
use countersign_core::wire::eip712::keccak256;
use countersign_gateway::rails::{
    evm::{Chain, EvmFacilitator, EvmLimits, RpcFault, Signer},
    x402::{
        Attempt, AuthorizationState, Decline, Facilitator, Remote, SettleOutcome, SignedPayment,
        Transfer, VerifyOutcome,
    },
};
use countersign_gateway::{
    sandbox::facilitator::{Fault, SANDBOX_CHAIN_ID, start},
    world::system,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    fetch, loopback,
    x402::{PAYER, signed, terms},
};

const USED: &str = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5";
const CANCELED: &str = "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81";
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

/// What is odd about the node or its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oddity {
    /// Nothing.
    Honest,
    /// A transfer that is not made does not revert.
    SilentToken,
    /// The token moves less than was signed.
    ShortToken,
    /// Transactions are taken and never mined.
    NeverMines,
    /// Transactions are taken, and the answer is a page of HTML.
    GarbledAnswer,
    /// The first transaction is refused, its nonce being stale.
    StaleNonce,
    /// The account for gas is empty.
    NoGas,
    /// The payer cancels before the transaction is mined, which then reverts.
    Cancelled,
    /// The newest block is later than the window.
    LateBlock,
}

struct Node {
    oddity: Oddity,
    transfer: Transfer,
    is_used: bool,
    logs: Vec<Value>,
    receipts: BTreeMap<String, Value>,
    sent: u32,
}

fn text(word: &[u8; 32]) -> String {
    format!("0x{}", hex::encode(word))
}

fn quantity(value: u128) -> Value {
    json!(format!("{value:#x}"))
}

impl Node {
    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, (i64, &'static str)> {
        let is_state = params[0]["data"].as_str().is_some_and(|d| d.starts_with("0xe94a0102"));
        let is_balance = params[0]["data"].as_str().is_some_and(|d| d.starts_with("0x70a08231"));
        match method {
            "eth_chainId" => Ok(quantity(u128::from(SANDBOX_CHAIN_ID))),
            "eth_getBlockByNumber" => Ok(json!({
                "number": "0x10",
                "timestamp": quantity(u128::from(self.time_s())),
                "baseFeePerGas": "0x3b9aca00",
            })),
            "eth_call" if is_state => Ok(json!(format!("0x{:064x}", u8::from(self.is_used)))),
            "eth_call" if is_balance => Ok(json!(format!("0x{:064x}", 1_000_000))),
            "eth_call" | "eth_estimateGas" if self.is_used || self.oddity == Oddity::LateBlock => {
                Err((3, "execution reverted"))
            }
            "eth_call" => Ok(json!("0x")),
            "eth_estimateGas" => Ok(json!("0x15f90")),
            "eth_maxPriorityFeePerGas" => Err((-32601, "method not found")),
            "eth_getTransactionCount" => Ok(quantity(u128::from(self.sent))),
            "eth_getLogs" => Ok(json!(self.logs)),
            "eth_getTransactionReceipt" => {
                let hash = params[0].as_str().unwrap();
                Ok(self.receipts.get(hash).cloned().unwrap_or(Value::Null))
            }
            "eth_sendRawTransaction" => self.send(params[0].as_str().unwrap()),
            _ => Err((-32601, "method not found")),
        }
    }

    fn time_s(&self) -> u64 {
        let late = if self.oddity == Oddity::LateBlock { 600 } else { 0 };
        system().now().seconds() + late
    }

    fn send(&mut self, raw: &str) -> Result<Value, (i64, &'static str)> {
        self.sent += 1;
        let hash = text(&keccak256(&hex::decode(&raw[2..]).unwrap()));
        let value = self.transfer.authorization.value;
        match self.oddity {
            Oddity::StaleNonce if self.sent == 1 => return Err((-32000, "nonce too low")),
            Oddity::NoGas => return Err((-32000, "insufficient funds for gas * price + value")),
            Oddity::NeverMines => {}
            Oddity::SilentToken => self.mine(&hash, true, vec![]),
            Oddity::ShortToken => self.pay(&hash, value - 1),
            Oddity::Cancelled => {
                self.cancel();
                self.mine(&hash, false, vec![]);
            }
            Oddity::Honest | Oddity::GarbledAnswer | Oddity::StaleNonce | Oddity::LateBlock => {
                self.pay(&hash, value)
            }
        }
        Ok(json!(hash))
    }

    fn log(&self, topics: &[String], data: &str, hash: &str) -> Value {
        let address = self.transfer.domain.token.to_string().to_lowercase();
        json!({ "address": address, "topics": topics, "data": data, "transactionHash": hash })
    }

    fn cancel(&mut self) {
        let authorization = self.transfer.authorization;
        let topics =
            [CANCELED.to_owned(), text(&authorization.from.to_word()), text(&authorization.nonce)];
        self.is_used = true;
        self.logs = vec![self.log(&topics, "0x", "0x01")];
    }

    fn pay(&mut self, hash: &str, value: u128) {
        let authorization = self.transfer.authorization;
        let from = text(&authorization.from.to_word());
        let used = [USED.to_owned(), from.clone(), text(&authorization.nonce)];
        let moved = [TRANSFER.to_owned(), from, text(&authorization.to.to_word())];
        let used = self.log(&used, "0x", hash);
        let moved = self.log(&moved, &format!("0x{value:064x}"), hash);
        self.is_used = true;
        self.logs = vec![used.clone()];
        self.mine(hash, true, vec![used, moved]);
    }

    fn mine(&mut self, hash: &str, is_success: bool, logs: Vec<Value>) {
        let status = if is_success { "0x1" } else { "0x0" };
        let receipt = json!({ "status": status, "blockNumber": "0x10", "logs": logs });
        self.receipts.insert(hash.to_owned(), receipt);
    }
}

type Shared = Arc<Mutex<Node>>;

async fn node(oddity: Oddity, payment: &SignedPayment) -> (Shared, String) {
    let shared = Arc::new(Mutex::new(Node {
        oddity,
        transfer: payment.transfer().clone(),
        is_used: false,
        logs: Vec::new(),
        receipts: BTreeMap::new(),
        sent: 0,
    }));
    let state = Arc::clone(&shared);
    let handler = move |Json(request): Json<Value>| {
        let state = Arc::clone(&state);
        async move {
            let method = request["method"].as_str().unwrap();
            let answer = state.lock().unwrap().answer(method, &request["params"]);
            let is_send = method == "eth_sendRawTransaction";
            match answer {
                Ok(_) if is_send && oddity == Oddity::GarbledAnswer => "<html>".to_owned(),
                Ok(result) => json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string(),
                Err((code, message)) => {
                    json!({ "id": 1, "error": { "code": code, "message": message } }).to_string()
                }
            }
        }
    };
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().route("/", post(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (shared, url)
}

fn chain(url: &str) -> Chain {
    Chain::new(fetch(1_000), url.to_owned(), SANDBOX_CHAIN_ID)
}

fn facilitator(url: &str) -> EvmFacilitator {
    let limits = EvmLimits { settle_ms: 300, ..EvmLimits::default() };
    EvmFacilitator::new(chain(url), Signer::from_secret(PAYER).unwrap(), limits)
}

fn is_settled(outcome: &SettleOutcome) -> bool {
    matches!(outcome, SettleOutcome::Settled { .. })
}

#[tokio::test]
async fn only_the_tokens_own_events_are_a_payment() {
    for (oddity, told, sent) in [
        (Oddity::SilentToken, SettleOutcome::Failed(Decline::Reverted), 1),
        (Oddity::ShortToken, SettleOutcome::Unknown, 1),
        (Oddity::NeverMines, SettleOutcome::Unknown, 1),
        (Oddity::Cancelled, SettleOutcome::Failed(Decline::Cancelled), 1),
        (Oddity::NoGas, SettleOutcome::Failed(Decline::OperatorGas), 1),
        (Oddity::LateBlock, SettleOutcome::Failed(Decline::Window), 0),
    ] {
        let payment = signed(1);
        let (node, url) = node(oddity, &payment).await;
        let outcome = facilitator(&url).settle(payment.transfer(), Attempt::First).await;
        assert_eq!(outcome, told, "{oddity:?}");
        assert_eq!(node.lock().unwrap().sent, sent, "{oddity:?}");
    }
}

#[tokio::test]
async fn a_node_that_stumbles_does_not_lose_a_payment() {
    for (oddity, sent) in [(Oddity::Honest, 1), (Oddity::GarbledAnswer, 1), (Oddity::StaleNonce, 2)]
    {
        let payment = signed(2);
        let (node, url) = node(oddity, &payment).await;
        let facilitator = facilitator(&url);
        assert_eq!(facilitator.check(terms().token).await, Ok(()));
        assert_eq!(facilitator.verify(payment.transfer()).await, VerifyOutcome::Valid);
        assert_eq!(facilitator.lookup(payment.transfer()).await, AuthorizationState::Unused);
        let first = facilitator.settle(payment.transfer(), Attempt::First).await;
        assert!(is_settled(&first), "{oddity:?}: {first:?}");
        let again = facilitator.settle(payment.transfer(), Attempt::Again).await;
        assert_eq!(again, first, "{oddity:?}");
        assert_eq!(node.lock().unwrap().sent, sent, "{oddity:?}: nothing is sent again");
        let verified = facilitator.verify(payment.transfer()).await;
        assert_eq!(verified, VerifyOutcome::Invalid(Decline::Used));
    }
}

#[tokio::test]
async fn a_transaction_that_was_stuck_is_found_when_it_is_mined() {
    let payment = signed(3);
    let (node, url) = node(Oddity::NeverMines, &payment).await;
    let facilitator = facilitator(&url);
    let transfer = payment.transfer();
    assert_eq!(facilitator.settle(transfer, Attempt::First).await, SettleOutcome::Unknown);
    node.lock().unwrap().pay("0xlate", transfer.authorization.value);
    let again = facilitator.settle(transfer, Attempt::Again).await;
    assert_eq!(again, SettleOutcome::Settled { transaction: "0xlate".into() });
}

#[tokio::test]
async fn another_chain_is_not_ours() {
    let payment = signed(4);
    let (_, url) = node(Oddity::Honest, &payment).await;
    let limits = EvmLimits::default();
    let signer = || Signer::from_secret(PAYER).unwrap();
    let base = EvmFacilitator::new(Chain::new(fetch(500), url, 8453), signer(), limits);
    assert_eq!(base.check(terms().token).await, Err(RpcFault::Nonsense));
    let terms_differ = VerifyOutcome::Invalid(Decline::Terms);
    assert_eq!(base.verify(payment.transfer()).await, terms_differ);
    let nowhere = facilitator("http://127.0.0.1:9");
    assert_eq!(nowhere.verify(payment.transfer()).await, VerifyOutcome::Unavailable);
    let lost = nowhere.settle(payment.transfer(), Attempt::First).await;
    assert_eq!(lost, SettleOutcome::Unknown);
}

#[tokio::test]
async fn a_facilitator_is_believed_only_as_far_as_the_chain_goes() {
    let payment = signed(5);
    let sandbox = start(loopback(), system(), 1_000_000).await.unwrap();
    let remote = |url: &str| {
        let remote = Remote::new(fetch(400), sandbox.url(), None).checked_on(chain(url));
        Facilitator::Remote(remote)
    };
    // It says that it has paid; the chain's window has passed without.
    let (_, late) = node(Oddity::LateBlock, &payment).await;
    sandbox.fail(Fault::LiesPaid, 1);
    let told = remote(&late).settle(&payment, Attempt::First).await;
    assert_eq!(told, SettleOutcome::Failed(Decline::Window));

    // It does not answer; the chain has the payment.
    let (state, url) = node(Oddity::Honest, &payment).await;
    state.lock().unwrap().pay("0xpaid", payment.transfer().authorization.value);
    sandbox.fail(Fault::SettleTimesOutPaid, 1);
    let told = remote(&url).settle(&payment, Attempt::First).await;
    assert_eq!(told, SettleOutcome::Settled { transaction: "0xpaid".into() });

    // It does not answer; the payer has cancelled.
    let (state, url) = node(Oddity::Honest, &payment).await;
    state.lock().unwrap().cancel();
    sandbox.fail(Fault::Stalls, 1);
    let told = remote(&url).settle(&payment, Attempt::First).await;
    assert_eq!(told, SettleOutcome::Failed(Decline::Cancelled));
    sandbox.stop();
}
