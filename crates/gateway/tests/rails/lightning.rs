//! L402: from an invoice to a credential.

use countersign_core::{
    digest::Digest,
    ids::QuoteId,
    money::{Amount, Micros},
    proof::{
        Identity, Principal,
        l402::{Mint, Use, VerifiedCredential, mint},
    },
    quote::{Offer, Quote, Rail},
    refusal::Code,
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, Terms, ToolRef, Uses},
    time::UnixMs,
    wire::l402::{Challenge, Credential},
    world::World,
};
use countersign_gateway::{
    rails::lightning::{Ask, Backend, Daemon, HoldEnd, Invoice, InvoiceState, Node, NodeError},
    sandbox::{
        SandboxError,
        lightning::{PayError, SandboxLightning, start},
    },
    world::system,
};
use lightning_invoice::Currency;
use serde_json::{Value, json};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{fetch, loopback};

async fn sandbox(world: World) -> (SandboxLightning, Node) {
    let sandbox = start(loopback(), world, 10_000).await.unwrap();
    let backend = Backend::Sandbox(Daemon::new(fetch(1_000), sandbox.url(), None));
    (sandbox, Node { name: "sandbox".into(), network: Currency::Regtest, backend })
}

async fn plain(node: &Node, amount_msat: u64) -> Result<Invoice, NodeError> {
    node.create(&Ask { amount_msat, memo: "sandbox forecast", expiry_s: 60, hold: None }).await
}

fn tool() -> ToolRef {
    ToolRef { server: "weather".into(), tool: "forecast".into() }
}

fn terms() -> Terms {
    Terms {
        tool: tool(),
        resource: "https://gw.example/weather/mcp".into(),
        identity: IdentityRule::Anonymous,
        scopes: Vec::new(),
        consent: ConsentRule::NotRequired,
        prices: Vec::new(),
        flow: Flow::Upfront,
        idempotent: false,
        doubt: DoubtRule::Refund,
        uses: Uses(1),
        intent: None,
        sensitivity: 0,
        is_reversible: false,
        open_world: None,
        deadline_ms: 1_000,
        payer: PayerRule::Any,
        keep_output_schema: false,
        top_up: false,
    }
}

fn anonymous() -> Identity {
    Identity::anonymous(&terms()).unwrap()
}

#[tokio::test]
async fn an_invoice_is_paid_once_and_tells_its_preimage_to_who_paid() {
    let (sandbox, source) = sandbox(system()).await;
    let invoice = plain(&source, 3_000).await.unwrap();
    assert!(invoice.bolt11.starts_with("lnbcrt"));
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Open));
    let preimage = sandbox.pay(&invoice.bolt11).await.unwrap();
    assert_eq!(*Digest::of(&preimage).as_bytes(), invoice.payment_hash);
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Settled));
    assert_eq!(sandbox.pay(&invoice.bolt11).await, Err(PayError::Paid));
    assert_eq!(sandbox.balances_msat(), (7_000, 3_000));
    assert_eq!(source.lookup(&[0; 32]).await, Ok(InvoiceState::Missing));
    let large = plain(&source, 8_000).await.unwrap();
    assert_eq!(sandbox.pay(&large.bolt11).await, Err(PayError::Balance));
    assert_eq!(sandbox.pay("lnbcrt1").await, Err(PayError::Malformed));
    let (other, elsewhere) = self::sandbox(system()).await;
    let foreign = plain(&elsewhere, 3_000).await.unwrap();
    assert_eq!(sandbox.pay(&foreign.bolt11).await, Err(PayError::Unknown));
    assert_eq!(plain(&source, 0).await, Err(NodeError::Refused));
    other.stop();
    sandbox.stop();
    let refused = plain(&source, 1_000).await;
    assert_eq!(refused, Err(NodeError::Unreachable));
}

#[tokio::test]
async fn held_money_is_taken_or_given_back() {
    let (sandbox, node) = sandbox(system()).await;
    let (node, sandbox) = (&node, Arc::new(sandbox));
    let hold = |preimage: [u8; 32]| async move {
        let hash = *Digest::of(&preimage).as_bytes();
        let ask = Ask { amount_msat: 3_000, memo: "held", expiry_s: 60, hold: Some(hash) };
        let invoice = node.create(&ask).await.unwrap();
        assert_eq!(node.settle(&preimage).await, Ok(HoldEnd::Gone), "nothing is held yet");
        invoice
    };
    let pays = |invoice: &Invoice| {
        let (sandbox, bolt11) = (Arc::clone(&sandbox), invoice.bolt11.clone());
        tokio::spawn(async move { sandbox.pay(&bolt11).await })
    };
    let (first, second) = (hold([1; 32]).await, hold([2; 32]).await);
    let cursor = node.news("").await.unwrap_or_default().cursor;
    let (one, two) = (pays(&first), pays(&second));
    let mut accepted = Vec::new();
    let mut at = cursor;
    while accepted.len() < 2 {
        let news = node.news(&at).await.unwrap();
        accepted.extend(news.accepted);
        at = news.cursor;
    }
    assert!(accepted.contains(&first.payment_hash) && accepted.contains(&second.payment_hash));
    let held = InvoiceState::Accepted { amount_msat: 3_000, blocks_left: None };
    assert_eq!(node.lookup(&first.payment_hash).await, Ok(held));
    assert_eq!(sandbox.balances_msat(), (4_000, 0), "nobody has what is held");
    for _again in 0..2 {
        assert_eq!(node.settle(&[1; 32]).await, Ok(HoldEnd::Settled));
        assert_eq!(node.cancel(&second.payment_hash).await, Ok(HoldEnd::Gone));
    }
    assert_eq!(node.cancel(&first.payment_hash).await, Ok(HoldEnd::Settled));
    assert_eq!(node.settle(&[2; 32]).await, Ok(HoldEnd::Gone));
    assert_eq!(one.await.unwrap(), Ok([1; 32]), "the payer learns the preimage");
    assert_eq!(two.await.unwrap(), Err(PayError::Returned));
    assert_eq!(sandbox.balances_msat(), (7_000, 3_000));
}

#[tokio::test]
async fn a_lapsed_invoice_is_not_paid() {
    let clock = Arc::new(AtomicU64::new(1_795_000_000_000));
    let now = Arc::clone(&clock);
    let random = system();
    let fill = move |bytes: &mut [u8]| {
        for chunk in bytes.chunks_mut(32) {
            chunk.copy_from_slice(&random.random::<32>()[..chunk.len()]);
        }
    };
    let world = World::new(move || UnixMs(now.load(Ordering::Relaxed)), fill);
    let (sandbox, source) = sandbox(world).await;
    let invoice = plain(&source, 3_000).await.unwrap();
    assert_eq!(invoice.expires_at, UnixMs(1_795_000_060_000));
    clock.store(invoice.expires_at.0, Ordering::Relaxed);
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Expired));
    assert_eq!(sandbox.pay(&invoice.bolt11).await, Err(PayError::Expired));
    assert_eq!(sandbox.balances_msat(), (10_000, 0));
    sandbox.stop();
}

#[tokio::test]
async fn a_paid_invoice_makes_its_macaroon_a_credential() {
    let (sandbox, source) = sandbox(system()).await;
    let now = system().now();
    let invoice = plain(&source, 3_000).await.unwrap();
    let price = Amount { asset: "BTC".into(), minor: 3_000 };
    let payee = source.name.to_string();
    let offer = Offer {
        rail: Rail::L402,
        amount: price.clone(),
        payee,
        micros: Micros(1_800),
        uses: NonZeroU32::MIN,
    };
    let id = QuoteId::new(now, [1; 10]);
    let quote = Quote::new(id, Digest::of(b"call"), vec![offer], now, now.plus_ms(60_000));
    let root_key = system().random::<32>();
    let (macaroon, minted) = mint(&Mint {
        payment_hash: invoice.payment_hash,
        token_id: system().random(),
        root_key: &root_key,
        identity: &anonymous(),
        tool: &tool(),
        quote: &quote,
        price: &price,
        uses: Uses(1),
        grant: None,
        expires_at: invoice.expires_at,
    })
    .unwrap();
    let challenge = Challenge::new(&macaroon, &invoice.bolt11).unwrap();

    // The payer: a wallet behind a URL, as L402 clients have it.
    let url = format!("{}/pay", sandbox.url());
    let body = json!({ "invoice": challenge.invoice() }).to_string();
    let http = fetch(1_000);
    let reply = http.post(&url, "application/json", &[], body.clone()).await.unwrap();
    let paid: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(paid["sandbox"], true);
    let text = format!("{}:{}", challenge.token(), paid["preimage"].as_str().unwrap());
    let credential = Credential::parse(&text).unwrap();
    let verified = VerifiedCredential::verify(&credential, &root_key, &minted).unwrap();
    let (nobody, terms) = (Principal::anonymous(), terms());
    let call = Use {
        principal: &nobody,
        terms: &terms,
        arguments: "{}",
        quote: &quote,
        grant: None,
        at: now,
    };
    assert!(verified.covers(&call, &price).is_ok());

    let reply = http.post(&url, "application/json", &[], body).await.unwrap();
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8_lossy(&reply.body).contains("already_paid"));

    let other = plain(&source, 3_000).await.unwrap();
    let preimage = sandbox.pay(&other.bolt11).await.unwrap();
    let text = format!("{}:{}", challenge.token(), hex::encode(preimage));
    let stolen = Credential::parse(&text).unwrap();
    let refused = VerifiedCredential::verify(&stolen, &root_key, &minted).unwrap_err();
    assert_eq!(refused.code(), Code::PreimageMismatch);
    sandbox.stop();
}

#[tokio::test]
async fn the_sandbox_stays_in_its_box() {
    let refused = start("0.0.0.0:0".parse().unwrap(), system(), 0).await;
    assert_eq!(refused.err(), Some(SandboxError::NotLoopback));
}
