//! A sandbox Lightning node and the wallet that pays it: real BOLT11 invoices for regtest, signed
//! with a key made at start, and real preimages; the money is a number in memory.
//!
//! `POST /v1/invoices`, `GET /v1/invoices/{hash}` for the gateway; `POST /pay`, `GET /balances`,
//! `POST /faucet` for whoever plays the payer.
//!
//! INVARIANT: a preimage is told to who pays, and only then; an invoice is paid once.
//! INVARIANT: wallet and node together hold what the faucet gave.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use countersign_core::{digest::Digest, time::UnixMs, world::World};
use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{Secp256k1, SecretKey, SignOnly};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    str::FromStr as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

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
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

struct Made {
    preimage: [u8; 32],
    amount_msat: u64,
    expires_at: UnixMs,
    is_paid: bool,
}

#[derive(Default)]
struct Book {
    invoices: BTreeMap<Digest, Made>,
    wallet_msat: u64,
    node_msat: u64,
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
    let shared = Arc::new(Shared { world, key, curve, book });
    let app = Router::new()
        .route("/v1/invoices", post(create))
        .route("/v1/invoices/{hash}", get(lookup))
        .route("/pay", post(pay))
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

    /// Pays an invoice of this node from the wallet.
    ///
    /// # Errors
    /// See [`PayError`]; nothing moved.
    pub fn pay(&self, bolt11: &str) -> Result<[u8; 32], PayError> {
        self.shared.pay(bolt11)
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

    /// Makes an invoice; `None` when it cannot be written.
    fn create(&self, amount_msat: u64, memo: &str, expiry_s: u64) -> Option<Bolt11Invoice> {
        let preimage = self.world.random::<32>();
        let hash = Digest::of(&preimage);
        let now = self.world.now();
        let invoice = InvoiceBuilder::new(Currency::Regtest)
            .description(memo.to_owned())
            .payment_hash(hash.to_hex().parse().ok()?)
            .payment_secret(PaymentSecret(self.world.random::<32>()))
            .duration_since_epoch(Duration::from_secs(now.seconds()))
            .min_final_cltv_expiry_delta(144)
            .amount_milli_satoshis(amount_msat)
            .expiry_time(Duration::from_secs(expiry_s))
            .build_signed(|message| self.curve.sign_ecdsa_recoverable(message, &self.key))
            .ok()?;
        let expires_at = UnixMs::from_seconds(now.seconds().saturating_add(expiry_s));
        let made = Made { preimage, amount_msat, expires_at, is_paid: false };
        self.book().invoices.insert(hash, made);
        Some(invoice)
    }

    fn pay(&self, bolt11: &str) -> Result<[u8; 32], PayError> {
        let invoice = Bolt11Invoice::from_str(bolt11).map_err(|_| PayError::Malformed)?;
        let hash = Digest::from_hex(&invoice.payment_hash().to_string());
        let hash = hash.map_err(|_| PayError::Malformed)?;
        let now = self.world.now();
        let mut book = self.book();
        let book = &mut *book;
        let made = book.invoices.get_mut(&hash).ok_or(PayError::Unknown)?;
        if invoice.amount_milli_satoshis() != Some(made.amount_msat) {
            return Err(PayError::Unknown);
        }
        if made.is_paid {
            return Err(PayError::Paid);
        }
        if now >= made.expires_at {
            return Err(PayError::Expired);
        }
        let rest = book.wallet_msat.checked_sub(made.amount_msat).ok_or(PayError::Balance)?;
        let sum = book.node_msat.checked_add(made.amount_msat).ok_or(PayError::Balance)?;
        (book.wallet_msat, book.node_msat) = (rest, sum);
        made.is_paid = true;
        Ok(made.preimage)
    }
}

async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        amount_msat: u64,
        memo: String,
        expiry_s: u64,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    let is_sane = request.amount_msat > 0
        && request.memo.len() <= MAX_MEMO_BYTES
        && (1..=MAX_EXPIRY_S).contains(&request.expiry_s);
    if !is_sane || shared.book().invoices.len() >= MAX_INVOICES {
        return refused(StatusCode::BAD_REQUEST, "refused");
    }
    match shared.create(request.amount_msat, &request.memo, request.expiry_s) {
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
    let now = shared.world.now();
    let book = shared.book();
    let made = Digest::from_hex(&hash).ok().and_then(|hash| book.invoices.get(&hash));
    let Some(made) = made else { return refused(StatusCode::NOT_FOUND, "unknown_invoice") };
    let state = if made.is_paid {
        "settled"
    } else if now >= made.expires_at {
        "expired"
    } else {
        "open"
    };
    let amount_msat = made.amount_msat;
    Json(json!({ "sandbox": true, "state": state, "amount_msat": amount_msat })).into_response()
}

async fn pay(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Request {
        invoice: String,
    }
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "malformed_request");
    };
    match shared.pay(&request.invoice) {
        Ok(preimage) => {
            Json(json!({ "sandbox": true, "preimage": hex::encode(preimage) })).into_response()
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, error.text()),
    }
}

async fn balances(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let book = shared.book();
    Json(json!({
        "sandbox": true,
        "wallet_msat": book.wallet_msat,
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
