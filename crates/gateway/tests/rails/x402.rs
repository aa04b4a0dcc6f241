//! x402: from a signature to a settlement, and every way a facilitator can behave.

use countersign_core::{
    digest::Digest,
    ids::QuoteId,
    money::{Amount, Micros},
    proof::{
        Payment,
        x402::{Binding, Challenge, PaidX402, X402Terms},
    },
    quote::{Offer, Quote, Rail},
    refusal::{Code, Refusal},
    terms::Flow,
    time::UnixMs,
    wire::{
        eip712::{Address, Domain, Signature, TransferAuthorization},
        x402::{ExactEvm, PaymentPayload},
    },
};
use countersign_gateway::{
    rails::{
        evm::Signer,
        x402::{
            Attempt, Decline, Facilitator, Remote, SettleOutcome, SignedPayment, VerifyOutcome,
            recover,
        },
    },
    sandbox::{
        SandboxError,
        facilitator::{Fault, SANDBOX_CHAIN_ID, SANDBOX_TOKEN, SandboxFacilitator, start},
    },
    world::system,
};

use super::{fetch, loopback};

/// A published development key: worthless.
pub(crate) const PAYER: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
const CHALLENGE_KEY: [u8; 32] = [7; 32];

pub(crate) fn terms() -> X402Terms {
    X402Terms {
        chain_id: SANDBOX_CHAIN_ID,
        asset: "USDC".into(),
        token: SANDBOX_TOKEN.parse().unwrap(),
        pay_to: "0x90F79bf6EB2c4f870365E785982E1f101E93b906".parse().unwrap(),
        name: "USDC".into(),
        version: "2".into(),
        max_timeout_s: 60,
        margin_s: 6,
        skew_s: 30,
        binding: Binding::Required,
        flow: Flow::Upfront,
    }
}

fn quote_of(call: &[u8], now: UnixMs) -> Quote {
    let offer = Offer {
        rail: Rail::X402,
        amount: Amount { asset: "USDC".into(), minor: 10_000 },
        payee: terms().pay_to.to_string(),
        micros: Micros(10_000),
        uses: std::num::NonZeroU32::MIN,
    };
    let id = QuoteId::new(now, [1; 10]);
    Quote::new(id, Digest::of(call), vec![offer], now, now.plus_ms(60_000))
}

/// A payment as a stock client makes it: signed, the offer echoed.
fn payload(payer: &Signer, quote: &Quote, nonce: [u8; 32], now: UnixMs) -> PaymentPayload {
    let terms = terms();
    let offer = &quote.offers()[0];
    let challenge = Challenge::of(&CHALLENGE_KEY, quote);
    let authorization = TransferAuthorization {
        from: payer.address(),
        to: terms.pay_to,
        value: offer.amount.minor,
        valid_after_s: 0,
        valid_before_s: now.seconds() + terms.max_timeout_s,
        nonce,
    };
    let signature = payer.authorize(&authorization, &terms.domain()).unwrap();
    PaymentPayload {
        resource: None,
        accepted: terms.requirements(offer, &challenge),
        payload: ExactEvm { authorization, signature },
        extensions: None,
    }
}

fn prove(payment: &PaymentPayload, quote: &Quote, now: UnixMs) -> Result<PaidX402, Refusal> {
    let challenge = Challenge::of(&CHALLENGE_KEY, quote);
    PaidX402::verify(payment, quote, &quote.offers()[0], &terms(), &challenge, now, recover)
}

/// A payment proven, stored and read back, as before a settlement.
pub(crate) fn signed(nonce: u8) -> SignedPayment {
    let now = system().now();
    let quote = quote_of(b"call", now);
    let payment = payload(&Signer::from_secret(PAYER).unwrap(), &quote, [nonce; 32], now);
    let paid = prove(&payment, &quote, now).unwrap();
    SignedPayment::from_stored(paid.payload()).unwrap()
}

async fn sandbox() -> (SandboxFacilitator, Facilitator) {
    let sandbox = start(loopback(), system(), 1_000_000).await.unwrap();
    let remote = Remote::new(fetch(400), sandbox.url(), None);
    (sandbox, Facilitator::Remote(remote))
}

fn balances(sandbox: &SandboxFacilitator, payment: &SignedPayment) -> (u128, u128) {
    let token = terms().token;
    (sandbox.balance(token, payment.payer()), sandbox.balance(token, terms().pay_to))
}

#[test]
fn signatures_of_stock_clients_recover_to_their_payer() {
    // What an MCP client and two HTTP clients sent on a test chain.
    let captured = [
        (
            "10000",
            1_795_460_792,
            "c3073415f76b006c12f956d0a047a8fb074e58c686b7f585fe5cb648712be4bc",
            "b99ed66007ff92c6e11e8d06b71802d3fdff297e4697d30bb5ab47b6720968ed\
             3b3708cb2f8215721bcaa7e88e43a6d834eb37e3fda97b8b2aa17e9170a28cca1b",
        ),
        (
            "10000",
            1_795_460_739,
            "4ad3c19aba3f276b0aaa4eb0225b211a03e216a5e3a5adf5e6c751f4253e5639",
            "71c7d3456fbd474313b0a140a2d2fe4c0d0b34a5e1a5f8f63613cc0219397725\
             43344cb6cf0121949b6a7b17446587f69e9a75ff54b68ccce2b8136da981421d1c",
        ),
        (
            "100000",
            1_795_460_579,
            "0f0aaaae1bae85f3bff3e4976f99b923c78c0a3245de52d311ce07a833085768",
            "09bb5cc8d6b9c730d5ffef5f9d9ca8ad58aa40f95d1c2a19d5bff0dd95196fe8\
             027a6ead8b6290227cd95d5f803a30de55b4ab205804e3786fceeaffdd55d1ec1b",
        ),
    ];
    let payer: Address = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC".parse().unwrap();
    for (value, valid_before_s, nonce, signature) in captured {
        let mut bytes = [0; 32];
        hex::decode_to_slice(nonce, &mut bytes).unwrap();
        let authorization = TransferAuthorization {
            from: payer,
            to: terms().pay_to,
            value: value.parse().unwrap(),
            valid_after_s: 0,
            valid_before_s,
            nonce: bytes,
        };
        let signature = Signature::from_bytes(&hex::decode(signature).unwrap()).unwrap();
        let signer = recover(&authorization.digest(&terms().domain()), &signature.to_recoverable());
        assert_eq!(signer, Some(*payer.as_bytes()));
        let other = Domain { version: "1".into(), ..terms().domain() };
        let signer = recover(&authorization.digest(&other), &signature.to_recoverable());
        assert_ne!(signer, Some(*payer.as_bytes()));
    }
}

#[test]
fn a_signature_proves_one_call_at_one_price() {
    let now = system().now();
    let payer = Signer::from_secret(PAYER).unwrap();
    let quote = quote_of(b"call", now);
    let good = payload(&payer, &quote, [1; 32], now);
    let paid = prove(&good, &quote, now).unwrap();
    assert_eq!(paid.payer(), payer.address());
    assert!(Payment::x402(paid, &quote, Flow::Upfront).is_ok());

    let code = |payment: &PaymentPayload, quote: &Quote| {
        prove(payment, quote, now).err().map(|refusal| refusal.code())
    };
    let other = quote_of(b"same price, another call", now);
    assert_eq!(code(&good, &other), Some(Code::PaymentOtherCall));
    let mut later = good.clone();
    later.payload.authorization.valid_before_s -= 1;
    assert_eq!(code(&later, &quote), Some(Code::PaymentSignature));
    let mut stranger = good.clone();
    stranger.payload.authorization.from = Address::from_bytes([1; 20]);
    assert_eq!(code(&stranger, &quote), Some(Code::PaymentSignature));
    let paid = prove(&good, &quote, now).unwrap();
    let refused = Payment::x402(paid, &other, Flow::Upfront).unwrap_err();
    assert_eq!(refused.code(), Code::PaymentOtherCall);
}

#[tokio::test]
async fn a_payment_settles_once_however_often_it_is_settled() {
    let (sandbox, facilitator) = sandbox().await;
    assert!(facilitator.is_ready("eip155:84532", terms().token).await);
    assert!(!facilitator.is_ready("eip155:8453", terms().token).await);
    let payment = signed(1);
    assert_eq!(facilitator.verify(&payment).await, VerifyOutcome::Valid);
    let attempts = (0..8).map(|_| facilitator.settle(&payment, Attempt::Again));
    let mut transactions = Vec::new();
    for outcome in join_all(attempts).await {
        let SettleOutcome::Settled { transaction } = outcome else { panic!("{outcome:?}") };
        transactions.push(transaction);
    }
    transactions.dedup();
    assert_eq!(transactions.len(), 1);
    assert!(transactions[0].starts_with("sandbox:"));
    assert_eq!(balances(&sandbox, &payment), (990_000, 1_010_000));
    assert_eq!(sandbox.settled(), 1);
    assert_eq!(facilitator.verify(&payment).await, VerifyOutcome::Invalid(Decline::Used));
    let receipt = payment.receipt(&transactions[0]).to_json();
    assert!(receipt.contains(r#""success":true"#) && receipt.contains("eip155:84532"));
    sandbox.stop();
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in pinned.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn an_open_end_is_unknown_and_settling_again_finds_out() {
    let funds = SettleOutcome::Failed(Decline::Funds);
    for (fault, told, moved) in [
        (Fault::SettleFails, funds, false),
        (Fault::SettleTimesOutPaid, SettleOutcome::Unknown, true),
        (Fault::SettleTimesOutUnpaid, SettleOutcome::Unknown, false),
        (Fault::SettlePending, SettleOutcome::Unknown, true),
        (Fault::LiesUnpaid, SettleOutcome::Unknown, true),
        (Fault::LiesReverted, SettleOutcome::Unknown, true),
        (Fault::AnswersTwice, SettleOutcome::Unknown, true),
        (Fault::OtherPayer, SettleOutcome::Unknown, true),
        (Fault::ServerError, SettleOutcome::Unknown, true),
        (Fault::Stalls, SettleOutcome::Unknown, false),
    ] {
        let (sandbox, facilitator) = sandbox().await;
        let payment = signed(2);
        sandbox.fail(fault, 1);
        assert_eq!(facilitator.settle(&payment, Attempt::First).await, told, "{fault:?}");
        assert_eq!(sandbox.settled(), usize::from(moved), "{fault:?}");
        let again = facilitator.settle(&payment, Attempt::Again).await;
        assert!(matches!(again, SettleOutcome::Settled { .. }), "{fault:?}: {again:?}");
        assert_eq!(balances(&sandbox, &payment), (990_000, 1_010_000), "{fault:?}");
        sandbox.stop();
    }
}

#[tokio::test]
async fn a_refusal_after_an_unknown_end_stays_unknown() {
    let (sandbox, facilitator) = sandbox().await;
    let payment = signed(3);
    sandbox.fail(Fault::SettleFails, 2);
    let first = facilitator.settle(&payment, Attempt::First).await;
    assert_eq!(first, SettleOutcome::Failed(Decline::Funds));
    let again = facilitator.settle(&payment, Attempt::Again).await;
    assert_eq!(again, SettleOutcome::Unknown);
    assert_eq!(facilitator.lookup(&payment).await, None);
    sandbox.stop();
}

#[tokio::test]
async fn verification_passes_and_settlement_fails() {
    let (sandbox, facilitator) = sandbox().await;
    let payment = signed(4);
    sandbox.fund(terms().token, payment.payer(), 9_999);
    let funds = Decline::Funds;
    assert_eq!(facilitator.verify(&payment).await, VerifyOutcome::Invalid(funds));
    sandbox.fail(Fault::SettleFails, 1);
    assert_eq!(facilitator.verify(&payment).await, VerifyOutcome::Valid);
    assert_eq!(
        facilitator.settle(&payment, Attempt::First).await,
        SettleOutcome::Failed(Decline::Funds)
    );
    assert_eq!(Decline::Funds.code(), Code::PayerFunds);
    assert_eq!(balances(&sandbox, &payment).0, 9_999);
    sandbox.fail(Fault::Stalls, 1);
    assert_eq!(facilitator.verify(&payment).await, VerifyOutcome::Unavailable);
    sandbox.stop();
    let nobody = Facilitator::Remote(Remote::new(fetch(400), "http://127.0.0.1:9", None));
    assert_eq!(nobody.verify(&payment).await, VerifyOutcome::Unavailable);
    assert_eq!(nobody.settle(&payment, Attempt::First).await, SettleOutcome::Unknown);
}

#[tokio::test]
async fn the_sandbox_stays_in_its_box() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = start(address.parse().unwrap(), system(), 0).await;
        assert_eq!(refused.err(), Some(SandboxError::NotLoopback), "{address}");
    }
    let (sandbox, _) = sandbox().await;
    let http = fetch(1_000);
    for path in ["supported", "balances"] {
        let reply = http.get(&format!("{}/{path}", sandbox.url())).await.unwrap();
        assert!(String::from_utf8_lossy(&reply.body).contains(r#""sandbox":true"#), "{path}");
    }
    let url = format!("{}/settle", sandbox.url());
    let reply = http.post(&url, "application/json", &[], "{}").await.unwrap();
    assert_eq!(reply.status, 400);
    assert!(String::from_utf8_lossy(&reply.body).contains(r#""sandbox":true"#));
    sandbox.stop();
}
