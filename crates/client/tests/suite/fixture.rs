//! Challenges, invoices, macaroons and answers, made as servers make them.

use crate::server::{Reply, Seen, Server};
use countersign_client::{
    CredentialCache, EvmWallet, LightningWallet, Means, Options, Secret, Wallet,
};
use countersign_core::{
    refusal::{Charged, Code, Refusal},
    time::UnixMs,
    wire::{
        eip712::{Address, Domain},
        l402::{Challenge, Credential, L402Id},
        macaroon::Macaroon,
        x402::PaymentPayload,
    },
    world::World,
};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use secp256k1::{Message, Secp256k1, SecretKey, ecdsa};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub(crate) const NOW_S: u64 = 1_798_000_000;
pub(crate) const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub(crate) const PAYER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
pub(crate) const PAYEE: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
pub(crate) const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// A world whose clock stands and whose randomness counts.
pub(crate) fn world() -> World {
    let drawn = AtomicU64::new(1);
    World::new(
        || UnixMs::from_seconds(NOW_S),
        move |bytes| {
            let seed = drawn.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let digest: [u8; 32] = Sha256::digest(seed).into();
            bytes.iter_mut().zip(digest.iter().cycle()).for_each(|(to, from)| *to = *from);
        },
    )
}

/// Quick options: short pauses, an EVM wallet, caps of ten cents and a hundred sat.
pub(crate) fn options() -> Options {
    let mut options = Options::new(world());
    options.exchange_timeout_ms = 10_000;
    options.resend_pause_ms = 1;
    options.means = means(None);
    options
}

pub(crate) fn means(lightning: Option<&str>) -> Means {
    let mut means = Means::default();
    means.caps.per_asset.insert("BTC".into(), 100_000);
    means.wallets = match lightning {
        Some(url) => vec![Wallet::Lightning(LightningWallet::new(url, None).unwrap())],
        None => vec![Wallet::Evm(EvmWallet::from_private_key(&Secret::new(KEY)).unwrap())],
    };
    means
}

/// A directory of credentials of its own.
pub(crate) fn directory(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("countersign-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

pub(crate) fn open(directory: &std::path::Path) -> CredentialCache {
    CredentialCache::open(directory, UnixMs::from_seconds(NOW_S)).unwrap()
}

/// A server that speaks the modern era and leaves tool calls to its test.
pub(crate) async fn modern(call: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |seen, before| match seen.method() {
        "server/discover" => result(
            seen,
            &json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private"}),
        ),
        "tools/call" => call(seen, before),
        other => panic!("{other}"),
    })
    .await
}

pub(crate) fn result(seen: &Seen, result: &Value) -> Reply {
    Reply::json(200, &json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": result}))
}

/// A tool's answer, with a receipt.
pub(crate) fn done(seen: &Seen) -> Reply {
    result(
        seen,
        &json!({"content": [{"type": "text", "text": "sunny"}], "_meta": {
            "countersign/receipt": "a.b.c",
            "x402/payment-response": {"success": true, "transaction": "0x1", "network": "x"}}}),
    )
}

pub(crate) fn payment_required(amount: u64) -> Value {
    json!({"x402Version": 2, "error": "Payment required",
        "resource": {"url": "mcp://tool/paid", "mimeType": "application/json"},
        "accepts": [{"scheme": "exact", "network": "eip155:84532", "amount": amount.to_string(),
            "asset": USDC, "payTo": PAYEE, "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2", "challenge": "ch_1"}}],
        "extensions": {"x-challenge": {"info": {"id": "ch_1"}}}})
}

/// The x402 challenge as a tool result.
pub(crate) fn ask_x402(seen: &Seen, amount: u64) -> Reply {
    ask_x402_with(seen, amount, &json!({}))
}

pub(crate) fn ask_x402_with(seen: &Seen, amount: u64, meta: &Value) -> Reply {
    let challenge = payment_required(amount);
    let mut meta = meta.clone();
    meta["x402/error"] = challenge.clone();
    result(
        seen,
        &json!({"isError": true, "structuredContent": challenge, "_meta": meta,
            "content": [{"type": "text", "text": challenge.to_string()}]}),
    )
}

/// A refusal as a tool result.
pub(crate) fn refuse(seen: &Seen, code: Code, charged: Charged) -> Reply {
    let meta = json!({"countersign/refusal": problem(code, charged)});
    result(seen, &json!({"isError": true, "content": [], "_meta": meta}))
}

pub(crate) fn problem(code: Code, charged: Charged) -> Value {
    serde_json::to_value(Refusal::new(code).charged(charged).problem()).unwrap()
}

/// The payment in `_meta`, if it is one that a facilitator would take.
pub(crate) fn x402_payment(seen: &Seen) -> Option<PaymentPayload> {
    let meta = seen.meta("x402/payment");
    (!meta.is_null()).then(|| checked(meta.to_string().as_bytes()))
}

/// Reads a payment and recovers its signer.
pub(crate) fn checked(text: &[u8]) -> PaymentPayload {
    let payment = PaymentPayload::parse(text).unwrap();
    let domain = Domain {
        name: "USDC".into(),
        version: "2".into(),
        chain_id: 84532,
        token: Address::from_hex(USDC).unwrap(),
    };
    let authorization = payment.payload.authorization;
    let bytes = payment.payload.signature.to_recoverable();
    let (compact, id) = bytes.split_at(64);
    let id = ecdsa::RecoveryId::from_i32(i32::from(id[0])).unwrap();
    let signature = ecdsa::RecoverableSignature::from_compact(compact, id).unwrap();
    let message = Message::from_digest(authorization.digest(&domain));
    let curve = Secp256k1::verification_only();
    let key = curve.recover_ecdsa(&message, &signature).unwrap().serialize_uncompressed();
    let signer = Address::of_public_key(key[1..].try_into().unwrap());
    assert_eq!((signer, &*signer.to_string()), (authorization.from, PAYER));
    payment
}

/// The preimage of the n-th invoice.
pub(crate) fn preimage(n: u8) -> [u8; 32] {
    [n; 32]
}

pub(crate) fn payment_hash(n: u8) -> [u8; 32] {
    Sha256::digest(preimage(n)).into()
}

/// A signed invoice.
pub(crate) fn invoice(n: u8, msat: u64) -> String {
    let hash = lightning_invoice_hash(n);
    let key = SecretKey::from_slice(&[9; 32]).unwrap();
    InvoiceBuilder::new(Currency::Regtest)
        .description("a call".into())
        .amount_milli_satoshis(msat)
        .payment_hash(hash)
        .payment_secret(PaymentSecret([8; 32]))
        .duration_since_epoch(Duration::from_secs(NOW_S))
        .expiry_time(Duration::from_secs(300))
        .min_final_cltv_expiry_delta(18)
        .build_signed(|message| Secp256k1::new().sign_ecdsa_recoverable(message, &key))
        .unwrap()
        .to_string()
}

/// The invoice crate names its hash type only through its own signatures.
fn lightning_invoice_hash<H: FromDigest>(n: u8) -> H {
    H::from_digest(payment_hash(n))
}

pub(crate) trait FromDigest {
    fn from_digest(digest: [u8; 32]) -> Self;
}

impl<H: std::str::FromStr> FromDigest for H
where
    H::Err: std::fmt::Debug,
{
    fn from_digest(digest: [u8; 32]) -> Self {
        hex::encode(digest).parse().unwrap()
    }
}

/// A macaroon for the n-th invoice.
pub(crate) fn macaroon(n: u8, caveats: &[&str]) -> Macaroon {
    let id = L402Id { payment_hash: payment_hash(n), token_id: [n; 32] };
    let minted = Macaroon::mint(b"root", &id.encode());
    caveats.iter().fold(minted, |minted, caveat| minted.attenuate(caveat.as_bytes()))
}

pub(crate) fn l402(n: u8, sat: u64, caveats: &[&str]) -> Challenge {
    Challenge::new(&macaroon(n, caveats), &invoice(n, sat * 1000)).unwrap()
}

/// The L402 challenge as a tool result.
pub(crate) fn ask_l402(seen: &Seen, challenge: &Challenge, offered_sat: u64) -> Reply {
    let meta = challenge.mcp_meta("mcp://tool/paid", offered_sat, (NOW_S + 300) * 1000);
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let meta = json!({"ai.bolthub/payment": meta});
    result(seen, &json!({"isError": true, "content": [], "_meta": meta}))
}

/// The credential in `_meta`, and the number of its invoice.
pub(crate) fn l402_payment(seen: &Seen) -> Option<u8> {
    let proof = seen.meta("ai.bolthub/payment")["proof"].as_str()?;
    Some(credential(proof))
}

pub(crate) fn credential(text: &str) -> u8 {
    let credential = Credential::parse(text).unwrap();
    assert!(credential.is_preimage_right());
    credential.preimage[0]
}

/// A wallet that pays every invoice; its preimage is looked up among the first few.
pub(crate) async fn wallet() -> Server {
    Server::start(|seen, _| Reply::json(200, &json!({"preimage": paid(seen)}))).await
}

/// The preimage of the invoice that is asked for.
pub(crate) fn paid(seen: &Seen) -> String {
    let invoice: lightning_invoice::Bolt11Invoice =
        seen.body["invoice"].as_str().unwrap().parse().unwrap();
    let hash = invoice.payment_hash().to_string();
    let n = (1..=9).find(|n| hex::encode(payment_hash(*n)) == hash).unwrap();
    hex::encode(preimage(n))
}
