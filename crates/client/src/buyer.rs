//! Paying for calls that somebody else sends: what a server asks, the one payment that answers it,
//! and what the server said then; and paying back, an invoice or a transfer that nobody is shown.
//! The gateway's treasury is such a buyer.
//!
//! Owns reading, signing and paying; neither sends calls nor keeps anything. Whoever does, keeps an
//! [`Order`] before it is paid or shown, and pays no other for that call.
//!
//! INVARIANT: an [`Order`] is one payment: the same signature or the same invoice, however often it
//! is paid or presented.

use crate::{
    cache::{Paid, Proof},
    challenge::{self, Channel, NoChallenge},
    evm::EvmWallet,
    http::Http,
    lightning::{Invoiced, LightningWallet, Lookup, PayError, Purse},
    means::{Choice, DeclineReason, L402Choice, Means, OfferSummary, X402Choice},
    outcome::Completed,
    pay::{header_of, meta_of},
    problem::Problem,
    rpc::{Answer, read_body},
    verdict::{self, Verdict},
};
use bytes::Bytes;
use countersign_core::{
    digest::Digest,
    money::{Amount, Micros},
    quote::Rail,
    refusal::Charged,
    time::UnixMs,
    wire::{
        eip712::{Address, Domain, Signature, TransferAuthorization},
        x402,
    },
    world::World,
};
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// How long asking a wallet may take, in milliseconds: a Lightning payment looks for its way.
const WALLET_MS: u64 = 75_000;
/// Largest answer of a wallet.
const WALLET_BYTES_MAX: usize = 1 << 20;
/// Most of a server's receipt that is kept.
const WORD_BYTES_MAX: usize = 16 << 10;
/// The longest validity of what an invoice buys, where it does not say, in milliseconds.
const UNDATED_MS: u64 = 86_400_000;

/// A server's answer to a call.
#[derive(Debug)]
pub struct Reply(Answer);

impl Reply {
    /// An answer as it came: the body whole, or the last event of its stream. `id` is the call's.
    #[must_use]
    pub fn new(status: u16, headers: HeaderMap, id: &str, body: &[u8]) -> Self {
        let body = read_body(id, &Bytes::copy_from_slice(body));
        Self(Answer { status, headers, body })
    }
}

/// What a server asks to be paid for one call, and how it would be paid.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How much.
    pub amount: Amount,
    /// Its reference value.
    pub micros: Micros,
    /// To whom: an address, or a Lightning node.
    pub payee: String,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    X402 {
        required: Box<x402::PaymentRequired>,
        offer: Box<x402::Requirements>,
        domain: Domain,
        window_s: u64,
        channel: Channel,
    },
    L402 {
        token: String,
        invoice: String,
        payment_hash: [u8; 32],
        expires_at: UnixMs,
        channel: Channel,
    },
}

/// Why an answer to an unpaid call asks for nothing that is paid.
#[derive(Clone, Debug)]
pub enum NotAsked {
    /// It asks for nothing: the server did what it was asked for.
    Answered,
    /// It says no.
    Refused(Box<Problem>),
    /// It failed.
    Failed,
    /// It asks for what is not paid, offer by offer.
    Unusable(Vec<OfferSummary>),
}

/// One payment, to be kept before it is made.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Marks what is stored as a payment outward.
    outward: u8,
    paid: Paid,
    expires_at: UnixMs,
    channel: Channel,
    proof: Proof,
    /// The Lightning wallet that pays it; of an order kept by an earlier version it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wallet: Option<Digest>,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({:?}, {})", self.paid.rail, self.paid.reference)
    }
}

impl Order {
    /// What is paid.
    #[must_use]
    pub const fn paid(&self) -> &Paid {
        &self.paid
    }

    /// Until when it can be used.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// Whether presenting it is paying it: a signature, which the server takes to its rail.
    #[must_use]
    pub const fn is_paid_by_showing(&self) -> bool {
        matches!(self.proof, Proof::X402 { .. })
    }

    /// As it is kept: a bearer instrument.
    #[must_use]
    pub fn to_stored(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From how it was kept; `None` for anything else.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|order: &Self| order.outward == 1)
    }

    fn voucher(&self, proof: &Proof) -> Option<Voucher> {
        match self.channel {
            Channel::Meta => meta_of(proof).map(|(key, json)| Voucher::Meta(key, json)),
            Channel::Header => header_of(proof).map(|(name, value)| Voucher::Header(name, value)),
        }
    }
}

/// What shows that an order is paid.
#[derive(Clone)]
pub enum Voucher {
    /// A member of `_meta`: key and JSON.
    Meta(&'static str, String),
    /// A header.
    Header(HeaderName, String),
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voucher(…)")
    }
}

/// Why an order is not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpaid {
    /// The wallet did not pay, and will not.
    Refused,
    /// It may have paid.
    Unknown,
}

impl From<PayError> for Unpaid {
    fn from(error: PayError) -> Self {
        match error {
            PayError::Refused => Self::Refused,
            PayError::Unknown => Self::Unknown,
        }
    }
}

/// Where an order stands at our own wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is paid.
    Paid,
    /// It was never begun, or ended without money.
    Unpaid,
    /// Nobody knows.
    Unknown,
}

/// What a server said of the payment that came with a call.
#[derive(Clone, Debug, Default)]
pub struct Word {
    /// Whether it took the money; `None` when it does not say.
    pub charged: Option<Charged>,
    /// The transaction on its rail.
    pub transaction: Option<String>,
    /// Its receipts, as they came: a JSON object.
    pub raw: String,
    /// The code of its refusal.
    pub code: Option<String>,
}

/// What a server answered to a call with a payment.
#[derive(Debug)]
pub enum Heard {
    /// A result of the tool, its own error among them.
    Result(Box<RawValue>, Word),
    /// A JSON-RPC error.
    Error(Box<RawValue>, Word),
    /// No, or a second challenge.
    Refused(Word),
}

/// What pays.
#[derive(Clone)]
pub struct Buyer {
    means: Means,
    http: Http,
    world: World,
}

impl fmt::Debug for Buyer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buyer({:?})", self.means.wallets)
    }
}

impl Buyer {
    /// Pays from these means; work is not done.
    #[must_use]
    pub fn new(mut means: Means, world: World) -> Self {
        means.caps.work = 0;
        Self { means, http: Http::new(10_000, WALLET_MS, WALLET_BYTES_MAX), world }
    }

    /// What an answer to an unpaid call asks.
    ///
    /// # Errors
    /// See [`NotAsked`].
    pub fn read(&self, reply: Reply) -> Result<Asked, NotAsked> {
        let found = challenge::of_answer(&reply.0);
        let mut asked = match found {
            Ok(asked) => asked,
            Err(NoChallenge::Contradictory) => return Err(NotAsked::Unusable(Vec::new())),
            Err(NoChallenge::Absent) => {
                return Err(match verdict::read(reply.0) {
                    Verdict::Done(_) | Verdict::InputNeeded(_) => NotAsked::Answered,
                    Verdict::Refused(problem) => NotAsked::Refused(Box::new(problem)),
                    Verdict::Failed(_) | Verdict::Pay { .. } => NotAsked::Failed,
                });
            }
        };
        asked.work = None;
        match self.means.choose(&asked, self.world.now()) {
            Ok(choice) => Asked::of(&choice, self.world.now()).ok_or(NotAsked::Failed),
            Err(offers) => Err(NotAsked::Unusable(offers)),
        }
    }

    /// The payment that answers what is asked: signed, not shown; or an invoice, not paid.
    /// `has_token`: `Authorization` is taken by the server's own token.
    #[must_use]
    pub fn order(&self, asked: &Asked, has_token: bool) -> Option<Order> {
        match &asked.way {
            Way::X402 { required, offer, domain, window_s, channel } => {
                self.signed(asked, (required, offer), domain, (*window_s, *channel))
            }
            Way::L402 { token, invoice, payment_hash, expires_at, channel } => Some(Order {
                outward: 1,
                paid: asked.paid(Rail::L402, payment_hash),
                expires_at: *expires_at,
                channel: if has_token { Channel::Meta } else { *channel },
                proof: Proof::Invoice { token: token.clone(), invoice: invoice.clone() },
                wallet: self.means.lightning().map(LightningWallet::identity),
            }),
        }
    }

    fn signed(
        &self,
        asked: &Asked,
        (required, offer): (&x402::PaymentRequired, &x402::Requirements),
        domain: &Domain,
        (window_s, channel): (u64, Channel),
    ) -> Option<Order> {
        let (now, nonce) = (self.world.now(), self.world.random::<32>());
        let wallet = self.means.evm()?;
        let transfer = TransferAuthorization {
            from: wallet.address(),
            to: offer.evm().ok()?.pay_to,
            value: offer.amount,
            valid_after_s: 0,
            valid_before_s: now.seconds().saturating_add(window_s),
            nonce,
        };
        let payload = x402::PaymentPayload {
            resource: Some(required.resource.clone()),
            accepted: offer.clone(),
            payload: self.sign(transfer, domain)?,
            extensions: required.extensions.clone(),
        };
        Some(Order {
            outward: 1,
            paid: asked.paid(Rail::X402, &nonce),
            expires_at: UnixMs::from_seconds(transfer.valid_before_s),
            channel,
            proof: Proof::X402 { payload: payload.to_json() },
            wallet: None,
        })
    }

    /// The payment of an invoice that buys nothing.
    ///
    /// # Errors
    /// It is no invoice with an amount; the cap does not hold; no wallet pays invoices.
    pub fn order_of_invoice(&self, bolt11: &str) -> Result<Order, DeclineReason> {
        let invoice = Invoiced::read(bolt11).map_err(DeclineReason::BadOffer)?;
        let wallet = self.means.lightning().ok_or(DeclineReason::NoWallet)?;
        let price = self.means.bitcoin_price(invoice.amount_msat)?;
        let paid = Paid {
            rail: Rail::L402,
            amount: price.amount,
            micros: price.micros,
            payee: invoice.payee,
            reference: hex::encode(invoice.payment_hash),
            earlier: false,
        };
        Ok(Order {
            outward: 1,
            paid,
            expires_at: invoice.expires_at,
            channel: Channel::Meta,
            // There is no token that its preimage would complete.
            proof: Proof::Invoice { token: String::new(), invoice: bolt11.to_owned() },
            wallet: Some(wallet.identity()),
        })
    }

    /// The account that transfers are signed for; none without a key.
    #[must_use]
    pub fn account(&self) -> Option<Address> {
        self.means.evm().map(EvmWallet::address)
    }

    /// Whether a wallet pays invoices.
    #[must_use]
    pub fn pays_invoices(&self) -> bool {
        self.means.lightning().is_some()
    }

    /// Signs a transfer of [`Self::account`]. Caps and intents are the caller's business, as is a
    /// nonce that lets no more than one of those it signs move money.
    #[must_use]
    pub fn sign(&self, transfer: TransferAuthorization, domain: &Domain) -> Option<x402::ExactEvm> {
        let wallet = self.means.evm().filter(|wallet| wallet.address() == transfer.from)?;
        let signature = Signature::from_bytes(&wallet.sign(&transfer, domain)).ok()?;
        Some(x402::ExactEvm { authorization: transfer, signature })
    }

    /// Pays an order that was never begun.
    ///
    /// # Errors
    /// See [`Unpaid`].
    pub async fn pay(&self, order: &Order) -> Result<Voucher, Unpaid> {
        self.paying(order, false).await
    }

    /// Pays an order that may have been begun before: the wallet is asked about it first.
    ///
    /// # Errors
    /// See [`Unpaid`].
    pub async fn pay_again(&self, order: &Order) -> Result<Voucher, Unpaid> {
        self.paying(order, true).await
    }

    /// The wallet that pays an order: another one in its place knows nothing of what it paid.
    fn wallet_of(&self, order: &Order) -> Option<&LightningWallet> {
        let is_its = |wallet: &&LightningWallet| {
            order.wallet.is_none_or(|identity| identity == wallet.identity())
        };
        self.means.lightning().filter(is_its)
    }

    async fn paying(&self, order: &Order, is_again: bool) -> Result<Voucher, Unpaid> {
        let Proof::Invoice { token, invoice } = &order.proof else {
            return order.voucher(&order.proof).ok_or(Unpaid::Refused);
        };
        let purse = Purse { http: &self.http, world: &self.world };
        let hash = order.hash().ok_or(Unpaid::Refused)?;
        let wallet = self.wallet_of(order).ok_or(Unpaid::Unknown)?;
        let preimage = match is_again {
            false => wallet.pay(&purse, invoice, &hash).await?,
            true => wallet.pay_again(&purse, invoice, &hash).await?,
        };
        let proof = Proof::L402 { token: token.clone(), preimage: Digest::from_bytes(preimage) };
        // It is paid, and what cannot be shown was bought for nothing: nobody pays it again.
        order.voucher(&proof).ok_or(Unpaid::Unknown)
    }

    /// Where an order stands. What our own wallet cannot say is unknown.
    pub async fn standing(&self, order: &Order) -> Standing {
        let (Some(hash), Some(wallet)) = (order.hash(), self.wallet_of(order)) else {
            return Standing::Unknown;
        };
        let purse = Purse { http: &self.http, world: &self.world };
        match wallet.lookup(&purse, &hash).await {
            Lookup::Paid(_) => Standing::Paid,
            Lookup::Not => Standing::Unpaid,
            Lookup::Unknown | Lookup::Silent => Standing::Unknown,
        }
    }

    /// Whether the Lightning wallet answers; `None` where there is none. It is asked about a payment
    /// that nobody made, and moves nothing.
    pub async fn is_answering(&self) -> Option<bool> {
        let wallet = self.means.lightning()?;
        let purse = Purse { http: &self.http, world: &self.world };
        let found = wallet.lookup(&purse, &self.world.random::<32>()).await;
        Some(matches!(found, Lookup::Not | Lookup::Silent))
    }

    /// What an answer to a paid call comes to.
    #[must_use]
    pub fn hear(reply: Reply) -> Heard {
        match verdict::read(reply.0) {
            Verdict::Done(done) | Verdict::InputNeeded(done) => {
                let word = Word::of_result(&done);
                Heard::Result(done.result, word)
            }
            Verdict::Failed(error) => {
                let raw = error.raw.unwrap_or_else(|| RawValue::NULL.to_owned());
                let word = Word { charged: charged_in(error.data.as_deref()), ..Word::default() };
                Heard::Error(raw, word)
            }
            Verdict::Refused(problem) => Heard::Refused(Word::of_problem(Some(problem))),
            Verdict::Pay { problem, .. } => Heard::Refused(Word::of_problem(problem)),
        }
    }
}

impl Asked {
    fn of(choice: &Choice<'_>, now: UnixMs) -> Option<Self> {
        let price = choice.price()?.clone();
        let micros = price.micros?;
        let (payee, way) = match choice {
            Choice::X402(choice) => {
                let X402Choice { required, offer, terms, domain, window_s, channel, .. } =
                    &**choice;
                let way = Way::X402 {
                    required: Box::new((*required).clone()),
                    offer: Box::new((*offer).clone()),
                    domain: domain.clone(),
                    window_s: *window_s,
                    channel: *channel,
                };
                (terms.pay_to.to_string(), way)
            }
            Choice::L402(choice) => {
                let L402Choice { offer, payable, channel, .. } = &**choice;
                let undated = now.plus_ms(UNDATED_MS);
                let way = Way::L402 {
                    token: offer.token.clone(),
                    invoice: offer.invoice.clone(),
                    payment_hash: payable.payment_hash,
                    expires_at: payable.terms.expires_at.unwrap_or(undated),
                    channel: *channel,
                };
                (payable.payee.clone(), way)
            }
            Choice::Work(..) => return None,
        };
        Some(Self { amount: price.amount, micros, payee, way })
    }

    fn paid(&self, rail: Rail, reference: &[u8; 32]) -> Paid {
        Paid {
            rail,
            amount: self.amount.clone(),
            micros: Some(self.micros),
            payee: self.payee.clone(),
            reference: hex::encode(reference),
            earlier: false,
        }
    }
}

impl Order {
    /// The payment hash of its invoice.
    fn hash(&self) -> Option<[u8; 32]> {
        let mut hash = [0u8; 32];
        let is_invoice = self.paid.rail == Rail::L402;
        hex::decode_to_slice(&self.paid.reference, &mut hash).ok().filter(|()| is_invoice)?;
        Some(hash)
    }
}

#[derive(Deserialize)]
struct Settled {
    success: bool,
    transaction: Option<String>,
}

impl Word {
    fn of_result(done: &Completed) -> Self {
        let settled = done.payment_response.as_deref();
        let settled = settled.and_then(|raw| serde_json::from_str::<Settled>(raw.get()).ok());
        let said = charged_in(meta_of_result(&done.result));
        let settles = settled.as_ref().map(|settled| match settled.success {
            true => Charged::Yes,
            false => Charged::No,
        });
        // A result that is no error is what was paid for.
        let charged = settles.or(said).or((!done.is_error).then_some(Charged::Yes));
        let raw = |raw: &Option<Box<RawValue>>| {
            raw.as_ref().map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())
        };
        let kept = format!(
            r#"{{"payment_response":{},"receipt":{}}}"#,
            raw(&done.payment_response),
            raw(&done.receipt)
        );
        let kept = if kept.len() <= WORD_BYTES_MAX { kept } else { "{}".to_owned() };
        let transaction = settled.and_then(|settled| settled.transaction);
        Self { charged, transaction, raw: kept, code: None }
    }

    fn of_problem(problem: Option<Problem>) -> Self {
        let charged = problem.as_ref().and_then(|problem| problem.charged);
        // Only a code that is one of ours is repeated: the rest is the server's own text.
        let code = problem.and_then(|problem| problem.known).map(|code| code.text().to_owned());
        Self { charged, transaction: None, raw: "{}".to_owned(), code }
    }
}

/// `countersign/charged` of an object.
fn charged_in(object: Option<&RawValue>) -> Option<Charged> {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "countersign/charged")]
        charged: String,
    }
    let said: Said = serde_json::from_str(object?.get()).ok()?;
    Some(match &*said.charged {
        "no" => Charged::No,
        "yes" => Charged::Yes,
        "unused" => Charged::Unused,
        _ => Charged::Unknown,
    })
}

fn meta_of_result(result: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    serde_json::from_str::<Head<'_>>(result.get()).ok()?.meta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lightning::OfferFault,
        means::{Caps, KnownAsset},
        wallet::Wallet,
    };
    use countersign_core::money::Rate;

    /// The specification's example, of 2500 micro-bitcoin.
    const INVOICE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5\
        qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxq\
        zpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3\
        qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";

    fn buyer(wallets: Vec<Wallet>, per_call: u64) -> Buyer {
        let asset = KnownAsset {
            code: "BTC".into(),
            caip: "".into(),
            rate: Some(Rate { micros: 60_000_000_000, per_minor: 100_000_000_000 }),
        };
        let caps = Caps { per_call: Some(Micros(per_call)), ..Caps::default() };
        let world = World::new(|| UnixMs(0), |bytes| bytes.fill(7));
        Buyer::new(Means { wallets, assets: vec![asset], caps, rail: None }, world)
    }

    fn at(url: &str) -> Wallet {
        Wallet::Lightning(LightningWallet::new(url, None).unwrap())
    }

    #[test]
    fn an_order_is_paid_and_asked_about_at_its_own_wallet_alone() {
        let own = buyer(vec![at("http://127.0.0.1:1")], 150_000_000);
        let other = buyer(vec![at("http://127.0.0.1:2")], 150_000_000);
        let order = own.order_of_invoice(INVOICE).unwrap();
        let stored = Order::from_stored(&order.to_stored()).unwrap();
        assert!(own.wallet_of(&stored).is_some());
        assert!(other.wallet_of(&stored).is_none());
        let earlier = Order { wallet: None, ..order };
        let stored = Order::from_stored(&earlier.to_stored()).unwrap();
        assert!(other.wallet_of(&stored).is_some(), "an earlier version did not say");
    }

    #[test]
    fn an_invoice_that_buys_nothing_is_an_order_within_the_cap() {
        let buyer_of = |per_call| buyer(vec![at("http://127.0.0.1:1")], per_call);
        let order = buyer_of(150_000_000).order_of_invoice(INVOICE).unwrap();
        let paid = order.paid();
        assert_eq!((paid.amount.minor, paid.micros), (250_000_000, Some(Micros(150_000_000))));
        assert!(paid.reference.starts_with("00010203") && !order.is_paid_by_showing());
        let stored = Order::from_stored(&order.to_stored()).unwrap();
        assert_eq!(stored.hash(), order.hash());
        let dear = buyer_of(149_999_999).order_of_invoice(INVOICE);
        assert_eq!(dear.unwrap_err(), DeclineReason::OverCap);
        let none = buyer(Vec::new(), 150_000_000).order_of_invoice(INVOICE);
        assert_eq!(none.unwrap_err(), DeclineReason::NoWallet);
        let bad = buyer_of(1).order_of_invoice("lnbc1");
        assert_eq!(bad.unwrap_err(), DeclineReason::BadOffer(OfferFault::Invoice));
    }
}
