//! x402 `exact` authorizations (EIP-3009): what we ask for, and the proof that it was given.
//!
//! Owns our offer in x402 form, the challenge that binds it to a call, and the check that makes a
//! [`PaidX402`]. It moves no money, and does not know whether the nonce was used before: that is
//! the ledger's, under [`PaidX402::nonce_key`].
//!
//! A payer signs payer, payee, value, window and nonce, and nothing else: the offer, the resource
//! and the extensions of a payment are unsigned, and no facilitator looks at them. So each is
//! compared here with what we would ask for now.
//!
//! INVARIANT: a [`PaidX402`] comes only from [`PaidX402::verify`], whose last step recovers the
//! signer and compares it with the payer.
//! INVARIANT: two payments are the same if chain, token, payer and nonce are, whatever their bytes.

use crate::{
    digest::Digest,
    money::AssetCode,
    quote::{Offer, Quote, Rail},
    refusal::{Code, Refusal},
    terms::{Flow, Terms},
    time::UnixMs,
    wire::{
        eip712::{Address, Domain, NotASignature, TransferAuthorization},
        json::{Limits, canonical},
        x402::{PaymentPayload, Requirements, X402Error},
    },
};
use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use sha2::Sha256;
use std::{collections::BTreeMap, fmt};

/// The member of `extra` and of our extension's `info` that carries the challenge.
const CHALLENGE: &str = "challenge";
/// Our extension's name.
const EXTENSION: &str = "countersign";

/// Whether a payment must say which call it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// It must echo the challenge, in the offer or in the extensions.
    Required,
    /// It may leave the challenge out; one that is there must be right.
    IfEchoed,
}

/// The operator's terms for one EVM asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X402Terms {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The asset's code in prices.
    pub asset: AssetCode,
    /// The token's contract.
    pub token: Address,
    /// Who is paid. One address belongs to one deployment.
    pub pay_to: Address,
    /// The token's EIP-712 name.
    pub name: String,
    /// The token's EIP-712 version.
    pub version: String,
    /// How long a payer's signature must stay good, in seconds.
    pub max_timeout_s: u64,
    /// How much of it must be left when we look, in seconds: time to settle.
    pub margin_s: u64,
    /// How far ahead of ours a payer's clock may run, in seconds.
    pub skew_s: u64,
    /// Whether payments must echo the challenge.
    pub binding: Binding,
    /// When the money is taken.
    pub flow: Flow,
}

impl X402Terms {
    /// The terms for one tool: its flow; and where the tool runs before the money is taken, its
    /// deadline on top of the times.
    #[must_use]
    pub fn for_tool(&self, tool: &Terms) -> Self {
        let deadline_s = match tool.flow {
            Flow::Upfront => 0,
            Flow::Authorization => tool.deadline_ms.div_ceil(1000),
        };
        Self {
            flow: tool.flow,
            max_timeout_s: self.max_timeout_s.saturating_add(deadline_s),
            margin_s: self.margin_s.saturating_add(deadline_s),
            ..self.clone()
        }
    }

    /// The network in CAIP-2 form.
    #[must_use]
    pub fn network(&self) -> String {
        format!("eip155:{}", self.chain_id)
    }

    /// The domain that payers sign under.
    #[must_use]
    pub fn domain(&self) -> Domain {
        Domain {
            name: self.name.clone(),
            version: self.version.clone(),
            chain_id: self.chain_id,
            token: self.token,
        }
    }

    /// Our offer in x402 form. The same inputs give the same offer, now and when it is paid.
    #[must_use]
    pub fn requirements(&self, offer: &Offer, challenge: &Challenge) -> Requirements {
        self.ask(offer, Some(challenge))
    }

    fn ask(&self, offer: &Offer, challenge: Option<&Challenge>) -> Requirements {
        let mut extra = BTreeMap::from([("name", &*self.name), ("version", &*self.version)]);
        if self.flow != Flow::Authorization {
            extra.insert("paymentFlow", self.flow.text());
        }
        if let Some(challenge) = challenge {
            extra.insert(CHALLENGE, challenge.text());
        }
        Requirements {
            scheme: "exact".into(),
            network: self.network(),
            amount: offer.amount.minor,
            asset: self.token.to_string(),
            pay_to: self.pay_to.to_string(),
            max_timeout_seconds: self.max_timeout_s,
            extra: to_raw_value(&extra).ok(),
            unknown: Vec::new(),
        }
    }
}

/// What ties an offer to one quote, and so to one call: an HMAC over the quote's digest under a
/// key of the deployment. Nobody can make one for a call that we did not quote.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge(String);

impl Challenge {
    /// The challenge of a quote.
    #[must_use]
    pub fn of(key: &[u8; 32], quote: &Quote) -> Self {
        // HMAC-SHA256 pads a key with zeros to its block.
        let mut block = [0u8; 64];
        block.split_at_mut(32).0.copy_from_slice(key);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(b"countersign x402 challenge v1\0");
        mac.update(quote.digest().as_bytes());
        Self(hex::encode(mac.finalize().into_bytes()))
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The `extensions` of our 402, for clients that echo those rather than `extra`.
    #[must_use]
    pub fn extensions(&self) -> Option<Box<RawValue>> {
        let schema = json!({ "type": "object", "properties": { CHALLENGE: { "type": "string" } } });
        let info = json!({ CHALLENGE: self.0 });
        to_raw_value(&json!({ EXTENSION: { "info": info, "schema": schema } })).ok()
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenge")
    }
}

/// The challenge as a payer echoes it in `extra` or in our extension's `info`.
#[derive(Deserialize)]
struct Echo {
    challenge: Option<String>,
}

#[derive(Deserialize)]
struct Extensions {
    countersign: Option<Extension>,
}

#[derive(Deserialize)]
struct Extension {
    info: Option<Echo>,
}

/// A payment whose terms, window and signature were checked.
#[derive(Debug)]
pub struct PaidX402 {
    quote_digest: Digest,
    nonce_key: Digest,
    offer: Offer,
    domain: Domain,
    authorization: TransferAuthorization,
    payload: String,
}

impl PaidX402 {
    /// Checks a payment against one offer of a quote. `challenge` is that of the quote; `recover`
    /// finds the account that signed a digest (`r ‖ s ‖ recovery id`).
    ///
    /// # Errors
    /// [`Code::PaymentTerms`], [`Code::PaymentAmount`], [`Code::PaymentOtherCall`],
    /// [`Code::PaymentWindow`], [`Code::PaymentSignature`]; [`Code::InternalFault`] when offer,
    /// quote and terms do not belong together.
    pub fn verify(
        payment: &PaymentPayload,
        quote: &Quote,
        offer: &Offer,
        terms: &X402Terms,
        challenge: &Challenge,
        now: UnixMs,
        recover: impl FnOnce(&[u8; 32], &[u8; 65]) -> Option<[u8; 20]>,
    ) -> Result<Self, Refusal> {
        belongs(quote, offer, terms)?;
        is_our_offer(payment, offer, terms, challenge)?;
        let authorization = payment.payload.authorization;
        if authorization.to != terms.pay_to {
            return Err(Code::PaymentTerms.into());
        }
        if authorization.value != offer.amount.minor {
            return Err(Code::PaymentAmount.into());
        }
        is_in_window(&authorization, terms, now)?;
        let domain = terms.domain();
        let signature = payment.payload.signature.to_recoverable();
        let signer = recover(&authorization.digest(&domain), &signature);
        if signer != Some(*authorization.from.as_bytes()) {
            return Err(Code::PaymentSignature.into());
        }
        let payload = canonical(payment.to_json().as_bytes(), &Limits::PROOF)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(Code::PaymentMalformed)?;
        Ok(Self {
            quote_digest: quote.digest(),
            nonce_key: nonce_key(&domain, &authorization),
            offer: offer.clone(),
            domain,
            authorization,
            payload,
        })
    }

    /// The quote it was checked against.
    #[must_use]
    pub const fn quote_digest(&self) -> Digest {
        self.quote_digest
    }

    /// Digest of (chain, token, payer, nonce).
    #[must_use]
    pub const fn nonce_key(&self) -> Digest {
        self.nonce_key
    }

    /// The offer it was checked against.
    #[must_use]
    pub const fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What it transfers.
    #[must_use]
    pub const fn amount_minor(&self) -> u128 {
        self.authorization.value
    }

    /// Who pays.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.authorization.from
    }

    /// What was signed, to be looked up on the chain.
    #[must_use]
    pub const fn authorization(&self) -> &TransferAuthorization {
        &self.authorization
    }

    /// Under which domain: which chain and token.
    #[must_use]
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The payload as settled: canonical JSON.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }
}

/// Under which key an authorization can be spent once.
#[must_use]
pub fn nonce_key(domain: &Domain, authorization: &TransferAuthorization) -> Digest {
    Digest::of_parts(&[
        b"eip3009",
        &domain.chain_id.to_be_bytes(),
        domain.token.as_bytes(),
        authorization.from.as_bytes(),
        &authorization.nonce,
    ])
}

/// Our own parts must fit together: anything else is a fault of ours.
fn belongs(quote: &Quote, offer: &Offer, terms: &X402Terms) -> Result<(), Refusal> {
    let belongs = quote.offers().contains(offer)
        && offer.rail == Rail::X402
        && offer.amount.asset == terms.asset
        && Address::from_hex(&offer.payee) == Ok(terms.pay_to);
    if belongs { Ok(()) } else { Err(Code::InternalFault.into()) }
}

/// The accepted offer must be ours, recomputed, and bound to this quote.
fn is_our_offer(
    payment: &PaymentPayload,
    offer: &Offer,
    terms: &X402Terms,
    challenge: &Challenge,
) -> Result<(), Refusal> {
    let accepted = &payment.accepted;
    let evm = accepted.evm().map_err(|_| Code::PaymentTerms)?;
    let is_same_token = evm.chain_id == terms.chain_id && evm.asset == terms.token;
    if !is_same_token || evm.pay_to != terms.pay_to {
        return Err(Code::PaymentTerms.into());
    }
    if accepted.amount != offer.amount.minor {
        return Err(Code::PaymentAmount.into());
    }
    let in_offer = echoed(accepted.extra.as_deref())?;
    let in_extension = echoed_in_extension(payment.extensions.as_deref())?;
    let is_wrong = |echo: &Option<String>| echo.as_ref().is_some_and(|echo| *echo != challenge.0);
    let is_missing = in_offer.is_none() && in_extension.is_none();
    if is_wrong(&in_offer)
        || is_wrong(&in_extension)
        || (is_missing && terms.binding == Binding::Required)
    {
        return Err(Code::PaymentOtherCall.into());
    }
    let ours = terms.ask(offer, in_offer.is_some().then_some(challenge));
    if accepted.matches(&ours) { Ok(()) } else { Err(Code::PaymentTerms.into()) }
}

fn echoed(extra: Option<&RawValue>) -> Result<Option<String>, Refusal> {
    let Some(extra) = extra else { return Ok(None) };
    let echo: Echo = serde_json::from_str(extra.get()).map_err(|_| Code::PaymentTerms)?;
    Ok(echo.challenge)
}

fn echoed_in_extension(extensions: Option<&RawValue>) -> Result<Option<String>, Refusal> {
    let Some(extensions) = extensions else { return Ok(None) };
    let echo: Extensions =
        serde_json::from_str(extensions.get()).map_err(|_| Code::PaymentOtherCall)?;
    Ok(echo.countersign.and_then(|ours| ours.info).and_then(|info| info.challenge))
}

/// Valid now, for long enough to settle, and not for longer than we asked.
fn is_in_window(
    authorization: &TransferAuthorization,
    terms: &X402Terms,
    now: UnixMs,
) -> Result<(), Refusal> {
    let now_s = now.seconds();
    let earliest_end_s = now_s.saturating_add(terms.margin_s);
    let latest_end_s = now_s.saturating_add(terms.max_timeout_s).saturating_add(terms.skew_s);
    let fits = authorization.valid_after_s <= now_s
        && authorization.valid_before_s > earliest_end_s
        && authorization.valid_before_s <= latest_end_s;
    if fits { Ok(()) } else { Err(Code::PaymentWindow.into()) }
}

/// The refusal of a payment that cannot be read.
#[must_use]
pub const fn code_of(error: X402Error) -> Code {
    match error {
        X402Error::OldVersion => Code::OldVersion,
        X402Error::Differ => Code::AmbiguousPayment,
        X402Error::Unsupported => Code::PaymentTerms,
        X402Error::Signature(
            NotASignature::Length | NotASignature::RecoveryId | NotASignature::HighS,
        ) => Code::PaymentSignature,
        X402Error::Base64
        | X402Error::Json(_)
        | X402Error::Member { .. }
        | X402Error::UnknownMember
        | X402Error::Version => Code::PaymentMalformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::QuoteId,
        money::{Amount, Micros},
        terms::{ConsentRule, DoubtRule, IdentityRule, PayerRule, ToolRef, Uses},
        wire::eip712::Signature,
    };
    use serde_json::Value;

    const KEY: [u8; 32] = [7; 32];
    const PAYER: [u8; 20] = [0x11; 20];
    const NOW: UnixMs = UnixMs(1_795_000_000_000);
    const NOW_S: u64 = 1_795_000_000;

    fn terms() -> X402Terms {
        X402Terms {
            chain_id: 84532,
            asset: "USDC".into(),
            token: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".parse().unwrap(),
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

    fn offer() -> Offer {
        Offer {
            rail: Rail::X402,
            amount: Amount { asset: "USDC".into(), minor: 10_000 },
            payee: terms().pay_to.to_string(),
            micros: Micros(10_000),
            uses: std::num::NonZeroU32::MIN,
        }
    }

    fn quote_of(call: &[u8]) -> Quote {
        let id = QuoteId::new(NOW, [1; 10]);
        Quote::new(id, Digest::of(call), vec![offer()], NOW, NOW.plus_ms(60_000))
    }

    fn tool(flow: Flow, deadline_ms: u64) -> Terms {
        Terms {
            tool: ToolRef { server: "weather".into(), tool: "forecast".into() },
            resource: "https://gw.example/weather/mcp".into(),
            identity: IdentityRule::Required,
            scopes: Vec::new(),
            consent: ConsentRule::Required,
            prices: Vec::new(),
            flow,
            idempotent: false,
            doubt: DoubtRule::Refund,
            uses: Uses(1),
            intent: None,
            sensitivity: 0,
            is_reversible: false,
            open_world: None,
            deadline_ms,
            payer: PayerRule::Any,
            keep_output_schema: false,
            top_up: false,
        }
    }

    /// What a stock client sends for our offer, as JSON to be tampered with.
    fn paid(terms: &X402Terms, quote: &Quote) -> Value {
        let accepted = terms.requirements(&offer(), &Challenge::of(&KEY, quote)).to_json();
        json!({
            "x402Version": 2,
            "accepted": serde_json::from_str::<Value>(&accepted).unwrap(),
            "payload": {
                "signature": format!("0x{}1b", "11".repeat(64)),
                "authorization": {
                    "from": format!("0x{}", hex::encode(PAYER)),
                    "to": terms.pay_to.to_string(),
                    "value": "10000",
                    "validAfter": "0",
                    "validBefore": (NOW_S + 60).to_string(),
                    "nonce": format!("0x{}", "22".repeat(32)),
                },
            },
        })
    }

    fn verify(payment: &Value, terms: &X402Terms) -> Result<PaidX402, Code> {
        let payment = PaymentPayload::parse(payment.to_string().as_bytes()).map_err(code_of)?;
        let quote = quote_of(b"this call");
        let challenge = Challenge::of(&KEY, &quote);
        let signed = |_: &[u8; 32], _: &[u8; 65]| Some(PAYER);
        PaidX402::verify(&payment, &quote, &offer(), terms, &challenge, NOW, signed)
            .map_err(|refusal| refusal.code())
    }

    fn refused(change: impl FnOnce(&mut Value)) -> Option<Code> {
        let mut payment = paid(&terms(), &quote_of(b"this call"));
        change(&mut payment);
        verify(&payment, &terms()).err()
    }

    fn set(payment: &mut Value, pointer: &str, value: impl Into<Value>) {
        *payment.pointer_mut(pointer).unwrap() = value.into();
    }

    #[test]
    fn our_offer_paid_as_asked_is_taken() {
        let paid = verify(&paid(&terms(), &quote_of(b"this call")), &terms()).unwrap();
        assert_eq!(paid.quote_digest(), quote_of(b"this call").digest());
        assert_eq!(paid.amount_minor(), 10_000);
        assert_eq!(paid.payer().as_bytes(), &PAYER);
        assert_eq!(paid.offer(), &offer());
        let again = PaymentPayload::parse(paid.payload().as_bytes()).unwrap();
        assert_eq!(again.payload.authorization, *paid.authorization());
    }

    #[test]
    fn every_other_term_is_refused() {
        let other = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
        for (pointer, value, code) in [
            ("/accepted/network", json!("eip155:8453"), Code::PaymentTerms),
            ("/accepted/asset", json!(other), Code::PaymentTerms),
            ("/accepted/payTo", json!(other), Code::PaymentTerms),
            ("/accepted/scheme", json!("upto"), Code::PaymentTerms),
            ("/accepted/maxTimeoutSeconds", json!(3600), Code::PaymentTerms),
            ("/accepted/extra/name", json!("USD Coin"), Code::PaymentTerms),
            ("/accepted/extra/version", json!("1"), Code::PaymentTerms),
            ("/accepted/extra/paymentFlow", json!("authorization"), Code::PaymentTerms),
            ("/accepted/amount", json!("9999"), Code::PaymentAmount),
            ("/accepted/amount", json!("10001"), Code::PaymentAmount),
            ("/payload/authorization/to", json!(other), Code::PaymentTerms),
            ("/payload/authorization/value", json!("9999"), Code::PaymentAmount),
            ("/payload/authorization/value", json!("10001"), Code::PaymentAmount),
            ("/payload/authorization/from", json!(other), Code::PaymentSignature),
            ("/x402Version", json!(1), Code::OldVersion),
            ("/x402Version", json!(3), Code::PaymentMalformed),
        ] {
            assert_eq!(refused(|p| set(p, pointer, value.clone())), Some(code), "{pointer}");
        }
        let decimals = |p: &mut Value| {
            p["accepted"]["extra"]["decimals"] = json!(18);
        };
        assert_eq!(refused(decimals), Some(Code::PaymentTerms));
    }

    #[test]
    fn the_window_must_be_open_long_enough_and_no_longer() {
        for (after, before, code) in [
            (0, NOW_S + 7, None),
            (NOW_S, NOW_S + 90, None),
            (0, NOW_S + 6, Some(Code::PaymentWindow)),
            (0, NOW_S - 1, Some(Code::PaymentWindow)),
            (NOW_S + 1, NOW_S + 60, Some(Code::PaymentWindow)),
            (0, NOW_S + 91, Some(Code::PaymentWindow)),
            (0, NOW_S + 31_536_000, Some(Code::PaymentWindow)),
            (0, u64::MAX, Some(Code::PaymentWindow)),
        ] {
            let change = |p: &mut Value| {
                set(p, "/payload/authorization/validAfter", after.to_string());
                set(p, "/payload/authorization/validBefore", before.to_string());
            };
            assert_eq!(refused(change), code, "{after}..{before}");
        }
    }

    #[test]
    fn a_payment_for_another_call_is_refused() {
        let other = paid(&terms(), &quote_of(b"another call, same price"));
        assert_eq!(verify(&other, &terms()).err(), Some(Code::PaymentOtherCall));
        let foreign = Challenge::of(&[8; 32], &quote_of(b"this call"));
        let change = |p: &mut Value| set(p, "/accepted/extra/challenge", foreign.text());
        assert_eq!(refused(change), Some(Code::PaymentOtherCall));
    }

    #[test]
    fn the_challenge_may_come_back_in_either_place() {
        let challenge = Challenge::of(&KEY, &quote_of(b"this call"));
        let extensions: Value =
            serde_json::from_str(challenge.extensions().unwrap().get()).unwrap();
        let strip = |p: &mut Value| {
            p["accepted"]["extra"].as_object_mut().unwrap().remove("challenge");
        };
        assert_eq!(refused(strip), Some(Code::PaymentOtherCall));
        let move_it = |p: &mut Value| {
            strip(p);
            p["extensions"] = extensions.clone();
        };
        assert_eq!(refused(move_it), None);
        let contradict = |p: &mut Value| {
            p["extensions"] = json!({ "countersign": { "info": { "challenge": "00" } } });
        };
        assert_eq!(refused(contradict), Some(Code::PaymentOtherCall));

        let lenient = X402Terms { binding: Binding::IfEchoed, ..terms() };
        let mut bare = paid(&lenient, &quote_of(b"this call"));
        strip(&mut bare);
        assert!(verify(&bare, &lenient).is_ok());
        let other = paid(&lenient, &quote_of(b"another call"));
        assert_eq!(verify(&other, &lenient).err(), Some(Code::PaymentOtherCall));
    }

    #[test]
    fn the_signer_must_be_the_payer() {
        let quote = quote_of(b"this call");
        let payment = paid(&terms(), &quote).to_string();
        let payment = PaymentPayload::parse(payment.as_bytes()).unwrap();
        let challenge = Challenge::of(&KEY, &quote);
        for answer in [None, Some([0x12; 20])] {
            let verified = PaidX402::verify(
                &payment,
                &quote,
                &offer(),
                &terms(),
                &challenge,
                NOW,
                |digest, signature| {
                    assert_eq!(*digest, payment.payload.authorization.digest(&terms().domain()));
                    assert!(Signature::from_bytes(signature).is_ok());
                    answer
                },
            );
            assert_eq!(verified.unwrap_err().code(), Code::PaymentSignature);
        }
    }

    #[test]
    fn the_malleable_twin_of_a_signature_is_refused() {
        let change = |p: &mut Value| {
            set(p, "/payload/signature", format!("0x{}{}1b", "11".repeat(32), "ff".repeat(32)));
        };
        assert_eq!(refused(change), Some(Code::PaymentSignature));
    }

    #[test]
    fn the_nonce_key_ignores_everything_but_chain_token_payer_and_nonce() {
        let paid_for = |value: &str, before: u64| {
            let mut payment = paid(&terms(), &quote_of(b"this call"));
            set(&mut payment, "/payload/authorization/validBefore", before.to_string());
            set(&mut payment, "/payload/signature", format!("0x{}{value}", "11".repeat(64)));
            verify(&payment, &terms()).unwrap().nonce_key()
        };
        assert_eq!(paid_for("1b", NOW_S + 60), paid_for("1c", NOW_S + 50));
    }

    #[test]
    fn a_tool_that_runs_first_leaves_time_to_settle() {
        let tool = tool(Flow::Authorization, 30_000);
        let longer = terms().for_tool(&tool);
        assert_eq!((longer.margin_s, longer.max_timeout_s), (36, 90));
        let asked = longer.requirements(&offer(), &Challenge::of(&KEY, &quote_of(b"x")));
        assert!(!asked.extra.unwrap().get().contains("paymentFlow"));
    }

    #[test]
    fn parts_that_do_not_belong_together_are_our_fault() {
        let foreign = X402Terms { pay_to: Address::from_bytes([9; 20]), ..terms() };
        let payment = paid(&foreign, &quote_of(b"this call"));
        assert_eq!(verify(&payment, &foreign).err(), Some(Code::InternalFault));
    }
}
