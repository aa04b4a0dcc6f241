//! Proof three: this quote was satisfied.

use crate::{
    digest::Digest,
    money::Micros,
    quote::{Offer, Quote, Rail},
    refusal::{Code, Refusal},
    terms::{Flow, Terms},
    time::UnixMs,
};

use super::{HeldPayment, PaidX402, Principal, Use, VerifiedCredential, VerifiedWork};

/// What must stay unused for this payment to count: at most `max_uses` calls carry the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// Global key of the payment.
    pub key: Digest,
    /// How many calls it pays for.
    pub max_uses: u32,
}

/// One of the calls that a subject may have for work in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeUse {
    /// A digest of the identity, or of the address of somebody unknown.
    pub subject: Digest,
    /// How many a day.
    pub daily_quota: u32,
}

/// What is still to be done on the rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing: free, or the money has moved already.
    Done,
    /// The rail must take the money, when the flow says.
    Due(Flow),
    /// The treasury must pay the server behind.
    Outward,
}

#[derive(Debug)]
enum Paid {
    NotRequired,
    X402 { paid: Box<PaidX402>, flow: Flow },
    L402 { key: Digest, uses: u32 },
    Held(Box<HeldPayment>),
    Work { key: Digest, free: FreeUse },
    Treasury { key: Digest },
    Credit { key: Digest },
}

/// Payment of one quote.
#[derive(Debug)]
pub struct Payment {
    quote_digest: Digest,
    call_digest: Digest,
    offer: Option<Offer>,
    paid: Paid,
}

impl Payment {
    /// The quote is free.
    ///
    /// # Errors
    /// [`Code::PaymentRequired`] when it is not.
    pub fn not_required(quote: &Quote) -> Result<Self, Refusal> {
        if quote.is_free() {
            Ok(Self::stamp(quote, None, Paid::NotRequired))
        } else {
            Err(Code::PaymentRequired.into())
        }
    }

    /// A verified x402 authorization for one of the quote's offers.
    ///
    /// # Errors
    /// [`Code::PaymentOtherCall`] when it was verified against another quote,
    /// [`Code::PaymentAmount`] or [`Code::PaymentTerms`] when it is not the offer.
    pub fn x402(paid: PaidX402, quote: &Quote, flow: Flow) -> Result<Self, Refusal> {
        if paid.quote_digest() != quote.digest() {
            return Err(Code::PaymentOtherCall.into());
        }
        let offer = paid.offer().clone();
        if paid.amount_minor() != offer.amount.minor {
            return Err(Code::PaymentAmount.into());
        }
        Ok(Self::stamp(quote, Some(offer), Paid::X402 { paid: Box::new(paid), flow }))
    }

    /// A verified L402 credential whose scope covers this call.
    ///
    /// # Errors
    /// [`Code::QuoteExpired`] when it is over; [`Code::CredentialExhausted`] when it was paid for
    /// something else or at another price.
    pub fn l402(credential: &VerifiedCredential, call: &Use<'_>) -> Result<Self, Refusal> {
        let offer = offer_on(call.quote, Rail::L402)?;
        credential.covers(call, &offer.amount)?;
        let paid = Paid::L402 { key: credential.key(), uses: credential.uses() };
        Ok(Self::stamp(call.quote, Some(offer), paid))
    }

    /// Money that a Lightning node holds for one of the quote's offers: taken when the call has
    /// run, given back when it has not.
    ///
    /// # Errors
    /// [`Code::PaymentOtherCall`] when it was paid for another quote or by another principal;
    /// [`Code::PaymentAmount`] when the price is another one by now.
    pub fn held(held: HeldPayment, principal: &Principal, quote: &Quote) -> Result<Self, Refusal> {
        let offer = offer_on(quote, Rail::L402)?;
        held.covers(principal, quote, &offer)?;
        Ok(Self::stamp(quote, Some(offer), Paid::Held(Box::new(held))))
    }

    /// Verified work that was done for this call by this subject. It stands for money alone:
    /// identity, consent and authorization are proven as for any other call.
    ///
    /// # Errors
    /// [`Code::PaymentTerms`] when work is not offered; [`Code::WorkExpired`],
    /// [`Code::WorkSubject`], [`Code::PaymentOtherCall`].
    pub fn work(
        work: &VerifiedWork,
        free: FreeUse,
        quote: &Quote,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let offer = offer_on(quote, Rail::Pow)?;
        work.fits(quote.call_digest(), free.subject)?;
        work.is_fresh(now)?;
        Ok(Self::stamp(quote, Some(offer), Paid::Work { key: work.key(), free }))
    }

    /// The organisation pays what a server behind asks: the operator's terms say so for this
    /// caller, and the price is within what the treasury may pay for one call. No money has moved;
    /// it moves under the hold alone.
    ///
    /// # Errors
    /// [`Code::PaymentTerms`] when the terms or the quote say otherwise; [`Code::BudgetExceeded`]
    /// above `per_call`.
    pub fn by_treasury(
        terms: &Terms,
        principal: &Principal,
        quote: &Quote,
        per_call: Micros,
    ) -> Result<Self, Refusal> {
        let offer = offer_on(quote, Rail::Treasury)?;
        let price = terms.price_for(&principal.tenant, &principal.agent);
        if !price.is_some_and(|price| price.upstream) {
            return Err(Code::PaymentTerms.into());
        }
        if quote.micros() > per_call {
            let refusal = Refusal::new(Code::BudgetExceeded).with("limit", per_call);
            return Err(refusal.with("price", quote.micros()));
        }
        let key = Digest::of_parts(&[b"treasury", quote.id().as_bytes()]);
        Ok(Self::stamp(quote, Some(offer), Paid::Treasury { key }))
    }

    /// Credit of this principal, for one of the quote's offers in money: what one call costs. That
    /// there is enough is checked where it is spent. `request` is the caller's own name for this
    /// payment, so that a repeated request is not paid twice.
    ///
    /// # Errors
    /// [`Code::PaymentTerms`] when the offer is not one of the quote's, or asks no money.
    pub fn credit(
        request: &str,
        principal: &Principal,
        offer: &Offer,
        quote: &Quote,
    ) -> Result<Self, Refusal> {
        if !quote.for_money().any(|one| one == offer) {
            return Err(Code::PaymentTerms.into());
        }
        let key = credit_key(principal, request);
        Ok(Self::stamp(quote, Some(offer.for_one_call()), Paid::Credit { key }))
    }

    fn stamp(quote: &Quote, offer: Option<Offer>, paid: Paid) -> Self {
        Self { quote_digest: quote.digest(), call_digest: quote.call_digest(), offer, paid }
    }

    /// The quote it satisfies.
    #[must_use]
    pub const fn quote_digest(&self) -> Digest {
        self.quote_digest
    }

    /// The call it is for.
    #[must_use]
    pub const fn call_digest(&self) -> Digest {
        self.call_digest
    }

    /// The offer it satisfies; none when free.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// What must not be used again.
    #[must_use]
    pub fn nonce(&self) -> Option<Nonce> {
        match &self.paid {
            Paid::NotRequired => None,
            Paid::X402 { paid, .. } => Some(Nonce { key: paid.nonce_key(), max_uses: 1 }),
            Paid::L402 { key, uses } => Some(Nonce { key: *key, max_uses: *uses }),
            Paid::Held(held) => Some(Nonce { key: held.key(), max_uses: 1 }),
            Paid::Work { key, .. } | Paid::Treasury { key } | Paid::Credit { key } => {
                Some(Nonce { key: *key, max_uses: 1 })
            }
        }
    }

    /// What of a daily quota it uses up, when it is work.
    #[must_use]
    pub const fn free_use(&self) -> Option<FreeUse> {
        match &self.paid {
            Paid::Work { free, .. } => Some(*free),
            Paid::NotRequired
            | Paid::X402 { .. }
            | Paid::L402 { .. }
            | Paid::Held(_)
            | Paid::Treasury { .. }
            | Paid::Credit { .. } => None,
        }
    }

    /// Whether the payer's credit pays.
    #[must_use]
    pub const fn is_credit(&self) -> bool {
        matches!(self.paid, Paid::Credit { .. })
    }

    /// What the rail must still do.
    #[must_use]
    pub const fn settlement(&self) -> Settlement {
        match &self.paid {
            Paid::NotRequired | Paid::L402 { .. } | Paid::Work { .. } | Paid::Credit { .. } => {
                Settlement::Done
            }
            Paid::X402 { flow, .. } => Settlement::Due(*flow),
            Paid::Held(_) => Settlement::Due(Flow::Authorization),
            Paid::Treasury { .. } => Settlement::Outward,
        }
    }

    /// Who pays, by the rail's address, where the rail tells.
    #[must_use]
    pub fn payer(&self) -> Option<String> {
        match &self.paid {
            Paid::X402 { paid, .. } => Some(paid.payer().to_string()),
            Paid::NotRequired
            | Paid::L402 { .. }
            | Paid::Held(_)
            | Paid::Work { .. }
            | Paid::Treasury { .. }
            | Paid::Credit { .. } => None,
        }
    }

    /// What to settle with, now and again after a crash: for x402 the payload as the client sent
    /// it, canonical JSON; for held money [`HeldPayment::payload`].
    #[must_use]
    pub fn settle_payload(&self) -> Option<&str> {
        match &self.paid {
            Paid::X402 { paid, .. } => Some(paid.payload()),
            Paid::Held(held) => Some(held.payload()),
            Paid::NotRequired
            | Paid::L402 { .. }
            | Paid::Work { .. }
            | Paid::Treasury { .. }
            | Paid::Credit { .. } => None,
        }
    }
}

/// Under which key a payment by credit is counted as used.
#[must_use]
pub fn credit_key(principal: &Principal, request: &str) -> Digest {
    Digest::of_parts(&[b"credit", principal.key().as_bytes(), request.as_bytes()])
}

fn offer_on(quote: &Quote, rail: Rail) -> Result<Offer, Refusal> {
    let offer = quote.offers().iter().find(|offer| offer.rail == rail);
    offer.cloned().ok_or_else(|| Code::PaymentTerms.into())
}
