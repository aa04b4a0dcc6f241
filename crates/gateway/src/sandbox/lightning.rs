//! A sandbox Lightning node and the wallet that pays it: real BOLT11 invoices for regtest, signed
//! with a key made at start, and real preimages; the money is a number in memory.
//!
//! For the gateway it answers as `countersign-lightning` does: `/v1/invoices`, with `settle` and
//! `cancel` for money that is held, `/v1/events`, `/v1/balances`. `POST /pay`, `GET
//! /payments/{hash}`, `GET /balances`, `POST /faucet` are for whoever plays the payer.
//!
//! INVARIANT: a preimage is told to who pays, and only then; an invoice is paid once.
//! INVARIANT: wallet, node and what is held are together what the faucet gave.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use countersign_core::{digest::Digest, time::UnixMs, world::World};
use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{Secp256k1, SecretKey, SignOnly};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    str::FromStr as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinHandle};

use super::{SandboxError, listen};

/// Most invoices that it remembers.
const MAX_INVOICES: usize = 100_000;
/// Longest memo, in bytes.
const MAX_MEMO_BYTES: usize = 600;
/// Longest life of an invoice, in seconds.
const MAX_EXPIRY_S: u64 = 86_400;

/// A running sandbox node with its wallet.
#[derive(Debug)]
pub struct SandboxLightning {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    world: World,
    key: SecretKey,
    curve: Secp256k1<SignOnly>,
    book: Mutex<Book>,
    /// Something changed: wallets and followers look again.
    changed: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

struct Made {
    /// Ours for a plain invoice; the gateway's, once it settles, for one that holds.
    preimage: Option<[u8; 32]>,
    is_hold: bool,
    amount_msat: u64,
    expires_at: UnixMs,
    state: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Open,
    Accepted,
    Settled,
    Cancelled,
}

#[derive(Serialize)]
struct Event {
    cursor: u64,
    kind: &'static str,
    payment_hash: String,
    amount_msat: u64,
}

#[derive(Default)]
struct Book {
    invoices: BTreeMap<Digest, Made>,
    events: Vec<Event>,
    wallet_msat: u64,
    held_msat: u64,
    node_msat: u64,
}

impl Book {
    fn tell(&mut self, kind: &'static str, hash: Digest, amount_msat: u64) {
        let cursor = u64::try_from(self.events.len()).unwrap_or(u64::MAX).saturating_add(1);
        self.events.push(Event { cursor, kind, payment_hash: hash.to_hex(), amount_msat });
    }
}

/// Why the wallet does not pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayError {
    /// Not a BOLT11 invoice.
    Malformed,
    /// Not of this node: there is no route.
    Unknown,
    /// Lapsed.
    Expired,
    /// Paid before.
    Paid,
    /// The wallet has too little.
    Balance,
    /// The money was held, and came back.
    Returned,
    /// The money is held, and nobody has said yet what becomes of it.
    Held,
}

impl PayError {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_invoice",
            Self::Unknown => "unknown_invoice",
            Self::Expired => "expired_invoice",
            Self::Paid => "already_paid",
            Self::Balance => "insufficient_balance",
            Self::Returned => "payment_returned",
            Self::Held => "payment_pending",
        }
    }
}

/// Starts on a loopback address, with this much in the wallet.
///
/// # Errors
/// The address is not on loopback, or cannot be bound; no key.
pub async fn start(
    address: SocketAddr,
    world: World,
    wallet_msat: u64,
) -> Result<SandboxLightning, SandboxError> {
    let (listener, url) = listen(address).await?;
    let key = SecretKey::from_slice(&world.random::<32>()).map_err(|_| SandboxError::Key)?;
    let book = Mutex::new(Book { wallet_msat, ..Book::default() });
    let curve = Secp256k1::signing_only();
    let changed = Notify::new();
    let shared = Arc::new(Shared { world, key, curve, book, changed });
    let app = Router::new()
        .route("/v1/invoices", post(create))
        .route("/v1/invoices/{hash}", get(lookup))
        .route("/v1/invoices/{hash}/settle", post(settle))
        .route("/v1/invoices/{hash}/cancel", post(cancel))
        .route("/v1/events", get(events))
        .route("/v1/balances", get(liquidity))
        .route("/pay", post(pay))
        .route("/payments/{hash}", get(payment))
        .route("/balances", get(balances))
        .route("/faucet", post(faucet))
        .layer(DefaultBodyLimit::max(16 << 10))
        .with_state(Arc::clone(&shared));
    let task = tokio::spawn(async move {
        let _ended = axum::serve(listener, app).await;
    });
    Ok(SandboxLightning { url, shared, task })
}

impl SandboxLightning {
    /// Its URL, the wallet's too.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the wallet and the node have, in millisatoshi.
    #[must_use]
    pub fn balances_msat(&self) -> (u64, u64) {
        let book = self.shared.book();
        (book.wallet_msat, book.node_msat)
    }

    /// Pays an invoice of this node from the wallet; waits while the money is held.
    ///
    /// # Errors
    /// See [`PayError`].
    pub async fn pay(&self, bolt11: &str) -> Result<[u8; 32], PayError> {
        self.shared.pay(bolt11).await
    }

    /// Stops listening.
    pub fn stop(self) {
        self.task.abort();
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an invoice; `None` when it cannot be written, or its hash is in use.
    fn create(&self, request: &CreateRequest) -> Option<Bolt11Invoice> {
        let preimage = self.world.random::<32>();
        let hash = match &request.payment_hash {
            Some(hash) => Digest::from_hex(hash).ok()?,
            None => Digest::of(&preimage),
        };
        let is_hold = request.payment_hash.is_some();
        let now = self.world.now();
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description(request.memo.clone())
            .payment_hash(hash.to_hex().parse().ok()?)
            .payment_secret(PaymentSecret(self.world.random::<32>()))
            .duration_since_epoch(Duration::from_secs(now.seconds()))
            .min_final_cltv_expiry_delta(144)
            .amount_milli_satoshis(request.amount_msat)
            .expiry_time(Duration::from_secs(request.expiry_s))
            .build_signed(|message| self.curve.sign_ecdsa_recoverable(message, &self.key))
            .ok()?;
        let expires_at = UnixMs::from_seconds(now.seconds().saturating_add(request.expiry_s));
        let made = Made {
            preimage: (!is_hold).then_some(preimage),
            is_hold,
            amount_msat: request.amount_msat,
            expires_at,
            state: Stage::Open,
        };
        let mut book = self.book();
        if book.invoices.contains_key(&hash) {
            return None;
        }
        book.invoices.insert(hash, made);
        Some(invoice)
    }

    /// Pays, and waits for the end of a payment that is held.
    async fn pay(&self, bolt11: &str) -> Result<[u8; 32], PayError> {
        let hash = self.send(bolt11)?;
        tokio::time::timeout(PAY_WAIT, self.ended(hash)).await.unwrap_or(Err(PayError::Held))
    }

    async fn ended(&self, hash: Digest) -> Result<[u8; 32], PayError> {
        loop {
            let changed = self.changed.notified();
            let ended = self.book().invoices.get(&hash).map(|made| (made.state, made.preimage));
            match ended {
                Some((Stage::Settled, Some(preimage))) => return Ok(preimage),
                Some((Stage::Accepted, _)) => {}
                Some(_) | None => return Err(PayError::Returned),
            }
            let _changed_or_late = tokio::time::timeout(PAY_LOOK, changed).await;
        }
    }

    /// Sends the money of an invoice: a plain one is settled with it.
    fn send(&self, bolt11: &str) -> Result<Digest, PayError> {
        let invoice = Bolt11Invoice::from_str(bolt11).map_err(|_| PayError::Malformed)?;
        let hash = Digest::from_hex(&invoice.payment_hash().to_string());
        let hash = hash.map_err(|_| PayError::Malformed)?;
        let now = self.world.now();
        let mut book = self.book();
        let book = &mut *book;
        let made = book.invoices.get_mut(&hash).ok_or(PayError::Unknown)?;
        let amount_msat = made.amount_msat;
        if invoice.amount_milli_satoshis() != Some(amount_msat) {
            return Err(PayError::Unknown);
        }
        match made.state {
            Stage::Open => {}
            Stage::Cancelled => return Err(PayError::Returned),
            Stage::Accepted | Stage::Settled => return Err(PayError::Paid),
        }
        if now >= made.expires_at {
            return Err(PayError::Expired);
        }
        let rest = book.wallet_msat.checked_sub(amount_msat).ok_or(PayError::Balance)?;
        let (to, state, kind) = match made.is_hold {
            true => (&mut book.held_msat, Stage::Accepted, "accepted"),
            false => (&mut book.node_msat, Stage::Settled, "settled"),
        };
        *to = to.checked_add(amount_msat).ok_or(PayError::Balance)?;
        book.wallet_msat = rest;
        made.state = state;
        book.tell(kind, hash, amount_msat);
        self.changed.notify_waiters();
        Ok(hash)
    }

    /// Takes what is held, or gives it back; `None` when it is neither held nor ended so before.
    fn end(&self, hash: Digest, preimage: Option<[u8; 32]>) -> Option<()> {
        let mut book = self.book();
        let book = &mut *book;
        let made = book.invoices.get_mut(&hash).filter(|made| made.is_hold)?;
        let (wanted, kind) = match preimage {
            Some(_) => (Stage::Settled, "settled"),
            None => (Stage::Cancelled, "cancelled"),
        };
        if made.state == wanted {
            return Some(());
        }
        match (made.state, wanted) {
            (Stage::Accepted, _) => {
                let to = match preimage {
                    Some(_) => &mut book.node_msat,
                    None => &mut book.wallet_msat,
                };
                *to = to.checked_add(made.amount_msat)?;
                book.held_msat = book.held_msat.checked_sub(made.amount_msat)?;
            }
            (Stage::Open, Stage::Cancelled) => {}
            (Stage::Open | Stage::Settled | Stage::Cancelled, _) => return None,
        }
        (made.state, made.preimage) = (wanted, preimage);
        let amount_msat = made.amount_msat;
        book.tell(kind, hash, amount_msat);
        self.changed.notify_waiters();
        Some(())
    }
}

/// How long a wallet waits for the end of a payment that is held, and between two looks at it.
const PAY_WAIT: Duration = Duration::from_secs(60);
const PAY_LOOK: Duration = Duration::from_secs(1);
/// The longest that a follower waits, in seconds.
const WAIT_MAX_S: u64 = 60;

#[derive(Deserialize)]
struct CreateRequest {
    amount_msat: u64,
    memo: String,
    expiry_s: u64,
    payment_hash: Option<String>,
}

async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<CreateRequest>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    let is_sane = request.amount_msat > 0
        && request.memo.len() <= MAX_MEMO_BYTES
        && (1..=MAX_EXPIRY_S).contains(&request.expiry_s);
    if !is_sane || shared.book().invoices.len() >= MAX_INVOICES {
        return refused(StatusCode::BAD_REQUEST, "refused");
    }
    match shared.create(&request) {
        Some(invoice) => Json(json!({
            "sandbox": true,
            "bolt11": invoice.to_string(),
            "payment_hash": invoice.payment_hash().to_string(),
        }))
        .into_response(),
        None => refused(StatusCode::BAD_REQUEST, "refused"),
    }
}

async fn lookup(State(shared): State<Arc<Shared>>, Path(hash): Path<String>) -> Response {
    match Digest::from_hex(&hash) {
        Ok(hash) => shared.shown(hash),
        Err(_) => refused(StatusCode::NOT_FOUND, "unknown_invoice"),
    }
}

async fn settle(
    State(shared): State<Arc<Shared>>,
    Path(hash): Path<String>,
    body: Bytes,
) -> Response {
    #[derive(Deserialize)]
    struct Request {
        preimage: String,
    }
    let request = serde_json::from_slice::<Request>(&body).ok();
    let preimage = request.and_then(|request| hex::decode(request.preimage).ok());
    let preimage = preimage.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let (Some(preimage), Ok(hash)) = (preimage, Digest::from_hex(&hash)) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    if Digest::of(&preimage) != hash {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "wrong_preimage");
    }
    match shared.end(hash, Some(preimage)) {
        Some(()) => shared.shown(hash),
        None => refused(StatusCode::CONFLICT, "not_held"),
    }
}

async fn cancel(State(shared): State<Arc<Shared>>, Path(hash): Path<String>) -> Response {
    let Ok(hash) = Digest::from_hex(&hash) else {
        return refused(StatusCode::NOT_FOUND, "unknown_invoice");
    };
    match shared.end(hash, None) {
        Some(()) => shared.shown(hash),
        None => refused(StatusCode::CONFLICT, "settled"),
    }
}

impl Shared {
    /// An invoice as it stands.
    fn shown(&self, hash: Digest) -> Response {
        let now = self.world.now();
        let book = self.book();
        let Some(made) = book.invoices.get(&hash) else {
            return refused(StatusCode::NOT_FOUND, "unknown_invoice");
        };
        let received = match made.state {
            Stage::Accepted | Stage::Settled => Some(made.amount_msat),
            Stage::Open | Stage::Cancelled => None,
        };
        let is_lapsed = made.state == Stage::Open && now >= made.expires_at;
        let state = if is_lapsed { json!("expired") } else { json!(made.state) };
        Json(json!({
            "sandbox": true,
            "state": state,
            "amount_msat": made.amount_msat,
            "amount_received_msat": received,
        }))
        .into_response()
    }
}

async fn events(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Response {
    let until = tokio::time::Instant::now() + Duration::from_secs(asked.wait_s.min(WAIT_MAX_S));
    loop {
        let changed = shared.changed.notified();
        let news = {
            let book = shared.book();
            let after = book.events.iter().filter(|event| event.cursor > asked.cursor);
            let found: Vec<Value> = after.take(EVENTS_MAX).map(|event| json!(event)).collect();
            found
        };
        if !news.is_empty() || tokio::time::timeout_at(until, changed).await.is_err() {
            let last = news.last().and_then(|event| event.get("cursor")?.as_u64());
            let cursor = last.unwrap_or(asked.cursor);
            return Json(json!({ "sandbox": true, "cursor": cursor, "events": news }))
                .into_response();
        }
    }
}

/// The most events in one answer.
const EVENTS_MAX: usize = 200;

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    cursor: u64,
    #[serde(default)]
    wait_s: u64,
}

/// What the node can receive: all that the wallet has.
async fn liquidity(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let book = shared.book();
    Json(json!({
        "sandbox": true,
        "inbound_msat": book.wallet_msat,
        "outbound_msat": book.node_msat,
    }))
}

async fn pay(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        invoice: String,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    match shared.pay(&request.invoice).await {
        Ok(preimage) => {
            Json(json!({ "sandbox": true, "preimage": hex::encode(preimage) })).into_response()
        }
        Err(PayError::Held) => refused(StatusCode::GATEWAY_TIMEOUT, PayError::Held.text()),
        Err(error) => refused(StatusCode::BAD_REQUEST, error.text()),
    }
}

/// What the wallet did about an invoice.
async fn payment(State(shared): State<Arc<Shared>>, Path(hash): Path<String>) -> Response {
    let hash = Digest::from_hex(&hash).ok();
    let book = shared.book();
    let made = hash.and_then(|hash| book.invoices.get(&hash));
    let (state, preimage) = match made.map(|made| (made.state, made.preimage)) {
        Some((Stage::Settled, Some(preimage))) => ("paid", Some(hex::encode(preimage))),
        Some((Stage::Accepted | Stage::Settled, _)) => ("pending", None),
        Some((Stage::Open | Stage::Cancelled, _)) | None => ("unpaid", None),
    };
    Json(json!({ "sandbox": true, "state": state, "preimage": preimage })).into_response()
}

async fn balances(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let book = shared.book();
    Json(json!({
        "sandbox": true,
        "wallet_msat": book.wallet_msat,
        "held_msat": book.held_msat,
        "node_msat": book.node_msat,
        "invoices": book.invoices.len(),
    }))
}

async fn faucet(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        amount_msat: u64,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    let mut book = shared.book();
    match book.wallet_msat.checked_add(request.amount_msat) {
        Some(sum) => {
            book.wallet_msat = sum;
            Json(json!({ "sandbox": true, "wallet_msat": sum })).into_response()
        }
        None => refused(StatusCode::BAD_REQUEST, "refused"),
    }
}

fn refused(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "sandbox": true, "error": error }))).into_response()
}
