//! L402: from an invoice to a credential.

use countersign_core::{
    digest::Digest,
    ids::QuoteId,
    money::{Amount, Micros},
    proof::{
        Identity, Principal,
        l402::{Mint, VerifiedCredential, mint},
    },
    quote::{Offer, Quote, Rail},
    refusal::Code,
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, Terms, ToolRef, Uses},
    time::UnixMs,
    wire::l402::{Challenge, Credential},
    world::World,
};
use countersign_gateway::{
    rails::lightning::{InvoiceError, InvoiceSource, InvoiceState, SandboxNode},
    sandbox::{
        SandboxError,
        lightning::{PayError, SandboxLightning, start},
    },
    world::system,
};
use serde_json::{Value, json};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{fetch, loopback};

async fn sandbox(world: World) -> (SandboxLightning, InvoiceSource) {
    let sandbox = start(loopback(), world, 10_000).await.unwrap();
    let node = SandboxNode::new(fetch(1_000), sandbox.url());
    (sandbox, InvoiceSource::Sandbox(node))
}

fn tool() -> ToolRef {
    ToolRef { server: "weather".into(), tool: "forecast".into() }
}

fn anonymous() -> Identity {
    Identity::anonymous(&Terms {
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
    })
    .unwrap()
}

#[tokio::test]
async fn an_invoice_is_paid_once_and_tells_its_preimage_to_who_paid() {
    let (sandbox, source) = sandbox(system()).await;
    let invoice = source.create(3_000, "sandbox forecast", 60).await.unwrap();
    assert!(invoice.bolt11.starts_with("lnbcrt"));
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Open));
    let preimage = sandbox.pay(&invoice.bolt11).unwrap();
    assert_eq!(*Digest::of(&preimage).as_bytes(), invoice.payment_hash);
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Settled));
    assert_eq!(sandbox.pay(&invoice.bolt11), Err(PayError::Paid));
    assert_eq!(sandbox.balances_msat(), (7_000, 3_000));
    assert_eq!(source.lookup(&[0; 32]).await, Ok(InvoiceState::Missing));
    let large = source.create(8_000, "sandbox", 60).await.unwrap();
    assert_eq!(sandbox.pay(&large.bolt11), Err(PayError::Balance));
    assert_eq!(sandbox.pay("lnbcrt1"), Err(PayError::Malformed));
    let (other, elsewhere) = self::sandbox(system()).await;
    let foreign = elsewhere.create(3_000, "sandbox", 60).await.unwrap();
    assert_eq!(sandbox.pay(&foreign.bolt11), Err(PayError::Unknown));
    assert_eq!(source.create(0, "sandbox", 60).await, Err(InvoiceError::Refused));
    other.stop();
    sandbox.stop();
    let refused = source.create(1_000, "sandbox", 60).await;
    assert_eq!(refused, Err(InvoiceError::Unreachable));
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
    let invoice = source.create(3_000, "sandbox", 60).await.unwrap();
    assert_eq!(invoice.expires_at, UnixMs(1_795_000_060_000));
    clock.store(invoice.expires_at.0, Ordering::Relaxed);
    assert_eq!(source.lookup(&invoice.payment_hash).await, Ok(InvoiceState::Expired));
    assert_eq!(sandbox.pay(&invoice.bolt11), Err(PayError::Expired));
    assert_eq!(sandbox.balances_msat(), (10_000, 0));
    sandbox.stop();
}

#[tokio::test]
async fn a_paid_invoice_makes_its_macaroon_a_credential() {
    let (sandbox, source) = sandbox(system()).await;
    let now = system().now();
    let invoice = source.create(3_000, "sandbox forecast", 60).await.unwrap();
    let price = Amount { asset: "BTC".into(), minor: 3_000 };
    let payee = source.name().to_owned();
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
    assert!(verified.covers(&Principal::anonymous(), &tool(), &quote, &price, now).is_ok());

    let reply = http.post(&url, "application/json", &[], body).await.unwrap();
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8_lossy(&reply.body).contains("already_paid"));

    let other = source.create(3_000, "sandbox", 60).await.unwrap();
    let preimage = sandbox.pay(&other.bolt11).unwrap();
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
