//! A sandbox x402 facilitator: real signatures, windows, nonces and balances, on a ledger in
//! memory; and faults on demand, for tests.
//!
//! `POST /verify`, `POST /settle`, `GET /supported` as facilitators have them; `GET /balances`,
//! `POST /faucet`, `POST /fault` for whoever plays with it.
//!
//! INVARIANT: it settles test networks only. A payer who signs for a real network has signed away
//! real money, whoever shows the signature to the chain.
//! INVARIANT: balances of a token add up to what its faucet gave.

use crate::rails::x402::{Decline, SignedPayment, Transfer, recover};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use countersign_core::{
    digest::Digest, proof::x402::nonce_key, wire::eip712::Address, world::World,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::task::JoinHandle;

use super::{SandboxError, listen};

/// Base Sepolia: what stock clients know as a test network.
pub const SANDBOX_CHAIN_ID: u64 = 84532;
/// The token that stock clients know as USDC there.
pub const SANDBOX_TOKEN: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/// Most accounts and nonces that it remembers.
const MAX_ENTRIES: usize = 100_000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Every payment is called valid; none settles.
    SettleFails,
    /// The money moves, and the answer never comes.
    SettleTimesOutPaid,
    /// The money does not move, and no answer comes.
    SettleTimesOutUnpaid,
    /// The money moves, and the answer says `pending`.
    SettlePending,
    /// The money does not move, and the answer says that it has.
    LiesPaid,
    /// The money moves, and the answer says that it has not.
    LiesUnpaid,
    /// The money moves, and the answer says that its transaction reverted.
    LiesReverted,
    /// The answer comes twice in one body.
    AnswersTwice,
    /// The answer is another payer's.
    OtherPayer,
    /// The money moves, and the answer is a 500.
    ServerError,
    /// No answer to anything.
    Stalls,
}

/// A running sandbox facilitator.
#[derive(Debug)]
pub struct SandboxFacilitator {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    world: World,
    ledger: Mutex<Ledger>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// An account of a token.
type Account = (Address, Address);

#[derive(Debug, Default)]
struct Ledger {
    /// What an account has when it is first seen.
    faucet_minor: u128,
    balances: BTreeMap<Account, u128>,
    /// Transactions by nonce key.
    spent: BTreeMap<Digest, String>,
    /// What goes wrong, and how often still.
    fault: Option<(Fault, u32)>,
}

/// Starts on a loopback address. Accounts have `faucet_minor` of every token when first seen.
///
/// # Errors
/// The address is not on loopback, or cannot be bound.
pub async fn start(
    address: SocketAddr,
    world: World,
    faucet_minor: u128,
) -> Result<SandboxFacilitator, SandboxError> {
    let (listener, url) = listen(address).await?;
    let ledger = Mutex::new(Ledger { faucet_minor, ..Ledger::default() });
    let shared = Arc::new(Shared { world, ledger });
    let app = Router::new()
        .route("/verify", post(verify))
        .route("/settle", post(settle))
        .route("/supported", get(supported))
        .route("/balances", get(balances))
        .route("/faucet", post(faucet))
        .route("/fault", post(fault))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(Arc::clone(&shared));
    let task = tokio::spawn(async move {
        let _ended = axum::serve(listener, app).await;
    });
    Ok(SandboxFacilitator { url, shared, task })
}

impl SandboxFacilitator {
    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What an account has of a token.
    #[must_use]
    pub fn balance(&self, token: Address, account: Address) -> u128 {
        self.shared.ledger().balance(token, account)
    }

    /// Sets what an account has of a token.
    pub fn fund(&self, token: Address, account: Address, minor: u128) {
        self.shared.ledger().balances.insert((token, account), minor);
    }

    /// How many payments have settled.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.shared.ledger().spent.len()
    }

    /// Lets the next `times` requests that it concerns go wrong.
    pub fn fail(&self, fault: Fault, times: u32) {
        self.shared.ledger().fault = Some((fault, times));
    }

    /// Stops listening.
    pub fn stop(self) {
        self.task.abort();
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks everything that a token checks, as of now.
    fn check(&self, payment: &SignedPayment) -> Result<(), Decline> {
        let Transfer { domain, authorization, signature } = payment.transfer();
        if domain.chain_id != SANDBOX_CHAIN_ID || !payment.is_as_accepted() {
            return Err(Decline::Terms);
        }
        let signer = recover(&authorization.digest(domain), &signature.to_recoverable());
        if signer != Some(*authorization.from.as_bytes()) {
            return Err(Decline::Signature);
        }
        let now_s = self.world.now().seconds();
        if authorization.valid_after_s > now_s || authorization.valid_before_s <= now_s {
            return Err(Decline::Window);
        }
        let ledger = self.ledger();
        if ledger.spent.contains_key(&nonce_key(domain, authorization)) {
            return Err(Decline::Used);
        }
        if ledger.balance(domain.token, authorization.from) < authorization.value {
            return Err(Decline::Funds);
        }
        Ok(())
    }
}

impl Ledger {
    fn balance(&self, token: Address, account: Address) -> u128 {
        self.balances.get(&(token, account)).copied().unwrap_or(self.faucet_minor)
    }

    /// Moves the money, once a nonce.
    fn transfer(&mut self, payment: &SignedPayment) -> Result<String, Decline> {
        let Transfer { domain, authorization, .. } = payment.transfer();
        let key = nonce_key(domain, authorization);
        if let Some(transaction) = self.spent.get(&key) {
            return Ok(transaction.clone());
        }
        if self.spent.len() >= MAX_ENTRIES || self.balances.len() >= MAX_ENTRIES {
            return Err(Decline::OperatorGas);
        }
        let (token, value) = (domain.token, authorization.value);
        let (from, to) = (authorization.from, authorization.to);
        let rest = self.balance(token, from).checked_sub(value).ok_or(Decline::Funds)?;
        let payee = if from == to { rest } else { self.balance(token, to) };
        let sum = payee.checked_add(value).ok_or(Decline::Reverted)?;
        self.balances.insert((token, from), rest);
        self.balances.insert((token, to), sum);
        let transaction = format!("sandbox:{key}");
        self.spent.insert(key, transaction.clone());
        Ok(transaction)
    }

    /// The fault of this request, if it is one of those it concerns.
    fn take_fault(&mut self, concerns: impl FnOnce(Fault) -> bool) -> Option<Fault> {
        let (fault, times) = self.fault?;
        if !concerns(fault) {
            return None;
        }
        self.fault = times.checked_sub(1).filter(|left| *left > 0).map(|left| (fault, left));
        Some(fault)
    }
}

/// The payment of a request, read against the requirements that the caller sent beside it.
fn payment_of(body: &[u8]) -> Option<SignedPayment> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Request {
        payment_payload: Value,
        payment_requirements: Value,
    }
    let mut request: Request = serde_json::from_slice(body).ok()?;
    let payload = request.payment_payload.as_object_mut()?;
    payload.insert("accepted".to_owned(), request.payment_requirements);
    SignedPayment::from_stored(&request.payment_payload.to_string())
}

async fn verify(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let fault = shared.ledger().take_fault(|fault| fault == Fault::Stalls);
    if fault.is_some() {
        return never().await;
    }
    let Some(payment) = payment_of(&body) else { return malformed() };
    let is_blind = matches!(shared.ledger().fault, Some((Fault::SettleFails, _)));
    let checked = if is_blind { Ok(()) } else { shared.check(&payment) };
    let reason = checked.err().map(Decline::text);
    let payer = payment.payer().to_string();
    Json(json!({
        "sandbox": true, "isValid": reason.is_none(), "invalidReason": reason, "payer": payer,
    }))
    .into_response()
}

async fn settle(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Some(payment) = payment_of(&body) else { return malformed() };
    let fault = shared.ledger().take_fault(|_| true);
    let move_money = || match shared.check(&payment) {
        // Settling the same payment again answers as the first time.
        Ok(()) | Err(Decline::Used) => shared.ledger().transfer(&payment),
        Err(decline) => Err(decline),
    };
    match fault {
        None => answer(&payment, move_money()),
        Some(Fault::SettleFails) => answer(&payment, Err(Decline::Funds)),
        Some(Fault::SettleTimesOutUnpaid | Fault::Stalls) => never().await,
        Some(Fault::SettleTimesOutPaid) => {
            let _unseen = move_money();
            never().await
        }
        Some(Fault::ServerError) => {
            let _unseen = move_money();
            (StatusCode::INTERNAL_SERVER_ERROR, "sandbox error").into_response()
        }
        Some(Fault::SettlePending) => failed(&payment, "settlement_pending", &move_money()),
        Some(Fault::LiesUnpaid) => failed(&payment, "unexpected_settle_error", &move_money()),
        Some(Fault::LiesReverted) => failed(&payment, Decline::Reverted.text(), &move_money()),
        Some(Fault::LiesPaid) => answer(&payment, Ok("sandbox:lie".to_owned())),
        Some(Fault::AnswersTwice) => {
            let text = settled(&payment, &move_money()).to_string();
            format!("{text}{text}").into_response()
        }
        Some(Fault::OtherPayer) => {
            let mut told = settled(&payment, &move_money());
            if let Some(payer) = told.get_mut("payer") {
                *payer = format!("0x{}", "9".repeat(40)).into();
            }
            Json(told).into_response()
        }
    }
}

fn answer(payment: &SignedPayment, moved: Result<String, Decline>) -> Response {
    Json(settled(payment, &moved)).into_response()
}

fn settled(payment: &SignedPayment, moved: &Result<String, Decline>) -> Value {
    let told = match moved {
        Ok(transaction) => payment.receipt(transaction),
        Err(decline) => payment.failure(*decline),
    };
    let mut told: Value = serde_json::from_str(&told.to_json()).unwrap_or(Value::Null);
    if let Some(members) = told.as_object_mut() {
        members.insert("sandbox".to_owned(), true.into());
    }
    told
}

/// A failure in other words than what happened.
fn failed(payment: &SignedPayment, reason: &str, moved: &Result<String, Decline>) -> Response {
    let mut told = settled(payment, moved);
    if let Some(members) = told.as_object_mut() {
        members.insert("success".to_owned(), false.into());
        members.insert("errorReason".to_owned(), reason.into());
    }
    Json(told).into_response()
}

async fn never() -> Response {
    std::future::pending().await
}

fn malformed() -> Response {
    let told = json!({
        "sandbox": true,
        "isValid": false, "invalidReason": "invalid_payload",
        "success": false, "errorReason": "invalid_payload", "transaction": "", "network": "",
    });
    (StatusCode::BAD_REQUEST, Json(told)).into_response()
}

async fn supported() -> Json<Value> {
    let network = format!("eip155:{SANDBOX_CHAIN_ID}");
    Json(json!({
        "sandbox": true,
        "kinds": [{ "x402Version": 2, "scheme": "exact", "network": network }],
        "extensions": [],
        "signers": {},
    }))
}

async fn balances(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let ledger = shared.ledger();
    let balances: Vec<Value> = ledger
        .balances
        .iter()
        .map(|((token, account), minor)| {
            json!({
                "asset": token.to_string(),
                "account": account.to_string(),
                "amount": minor.to_string(),
            })
        })
        .collect();
    Json(json!({ "sandbox": true, "settled": ledger.spent.len(), "balances": balances }))
}

async fn faucet(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        account: String,
        asset: Option<String>,
        amount: String,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else { return malformed() };
    let token = request.asset.as_deref().unwrap_or(SANDBOX_TOKEN);
    let (Ok(token), Ok(account)) = (Address::from_hex(token), Address::from_hex(&request.account))
    else {
        return malformed();
    };
    let mut ledger = shared.ledger();
    let sum = request.amount.parse().ok();
    let sum = sum.and_then(|more| ledger.balance(token, account).checked_add(more));
    match sum {
        Some(sum) if ledger.balances.len() < MAX_ENTRIES => {
            ledger.balances.insert((token, account), sum);
            Json(json!({ "sandbox": true, "amount": sum.to_string() })).into_response()
        }
        Some(_) | None => malformed(),
    }
}

async fn fault(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        fault: Option<Fault>,
        times: Option<u32>,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else { return malformed() };
    shared.ledger().fault = request.fault.map(|fault| (fault, request.times.unwrap_or(1)));
    Json(json!({ "sandbox": true })).into_response()
}
