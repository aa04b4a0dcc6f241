//! Proof three: was this quote satisfied. Verifies what was brought; makes the challenge when
//! nothing was, or when it is no good.
//!
//! INVARIANT: a challenge is made only after consent, policy and budget have said yes.

use crate::{
    allowance::Caller,
    answer::Done,
    call::Attempt as CallAttempt,
    gate::{Gate, Presented},
    prove::{
        Evidence, Known,
        evidence::Work,
        lightning::{L402Rail, LightningOffer},
    },
    rails::{
        pow::{PowRail, sha1},
        x402::{Facilitator, SignedPayment, VerifyOutcome, recover},
    },
};
use countersign_core::{
    call::Call,
    digest::Digest,
    ids::{GrantId, QuoteId},
    ledger::CallState,
    money::AssetCode,
    policy::Decided,
    proof::{
        FreeUse, Identity, PaidX402, Payment, Principal, Use, VerifiedCredential, VerifiedWork,
        X402Challenge, X402Terms, credit_key, x402::nonce_key,
    },
    quote::{Offer, Quote, Rail},
    refusal::{Charged, Code, Light, Refusal},
    wire::{
        json::{self, Limits},
        pow,
        x402::{PaymentPayload, Requirements},
    },
};
use countersign_store::{Attempt, CallView, Challenge as StoredChallenge, quota_used};
use serde_json::value::RawValue;
use std::collections::HashMap;
use tokio::sync::Semaphore;

/// The rails that are open.
#[derive(Debug, Default)]
pub struct Rails {
    /// Stablecoins.
    pub x402: Option<X402Rail>,
    /// Lightning.
    pub l402: Option<L402Rail>,
    /// Work.
    pub pow: Option<PowRail>,
}

/// x402.
#[derive(Debug)]
pub struct X402Rail {
    /// What is taken, by asset.
    pub terms: HashMap<AssetCode, X402Terms>,
    /// Who verifies and settles.
    pub facilitator: Facilitator,
    /// Keys the binding of offers to quotes.
    pub challenge_key: [u8; 32],
    /// Room for questions to the facilitator: a slow one must not gather what waits for it.
    pub verifying: Semaphore,
}

/// The most payments that a facilitator verifies at once; more are refused, not queued.
pub const VERIFYING_MAX: usize = 64;
/// When to come back, in seconds, after being one too many.
const BUSY_S: u64 = 1;

/// The ways to satisfy a quote, ready for the wire.
#[derive(Debug)]
pub struct Challenge {
    /// The quote.
    pub quote: Quote,
    /// x402: what to sign for, one of these, and extensions that bind it.
    pub x402: Option<(Vec<Requirements>, Option<Box<RawValue>>)>,
    /// Lightning: what to pay, and the credential that paying completes.
    pub l402: Option<LightningOffer>,
    /// Work: what to solve.
    pub pow: Option<pow::Challenge>,
}

impl Rails {
    /// The rail that takes an asset, and its payee.
    #[must_use]
    pub fn takes(&self, asset: &AssetCode) -> Option<(Rail, String)> {
        if let Some(terms) = self.x402.as_ref().and_then(|x402| x402.terms.get(asset)) {
            return Some((Rail::X402, terms.pay_to.to_string()));
        }
        let l402 = self.l402.as_ref().filter(|_| &*asset.0 == "BTC")?;
        Some((Rail::L402, l402.nodes.payee()?.to_string()))
    }
}

impl Gate {
    /// The proof that the quote is satisfied.
    ///
    /// # Errors
    /// [`Code::PaymentRequired`] when nothing was brought; what is wrong with what was.
    pub async fn pay(
        &self,
        call: &Call,
        identity: &Identity,
        (quote, grant): (&Quote, Option<GrantId>),
        credential: Option<Presented>,
        evidence: &Evidence,
        is_begun: bool,
    ) -> Result<Payment, Refusal> {
        if quote.is_free() {
            return Payment::not_required(quote);
        }
        if quote.of_treasury().is_some() {
            let per_call = self.treasury(&call.terms.tool.server)?.limits.per_call;
            return Payment::by_treasury(&call.terms, identity.principal(), quote, per_call);
        }
        if let Some(payment) = &evidence.x402 {
            let payment = payment.as_ref().map_err(Clone::clone)?;
            let caller = Caller::new(Some(identity.principal()), evidence.peer);
            let paid = Box::pin(self.verify_x402(call, payment, quote, &caller, is_begun)).await?;
            return Payment::x402(paid, quote, call.terms.flow);
        }
        if let Some(held) = &evidence.held {
            return Payment::held(self.verify_held(held)?, identity.principal(), quote);
        }
        if let Some(request) = &evidence.credit {
            return self.pay_by_credit(request, call, identity, quote);
        }
        let now = self.world.now();
        if let Some(work) = self.work(evidence) {
            let (rail, work) = work?;
            let subject = self.subject(rail, identity.principal(), evidence);
            let free = FreeUse { subject, daily_quota: rail.daily_quota() };
            let payment = Payment::work(&work, free, quote, now)?;
            if !is_begun {
                self.free_calls_left(rail, subject)?;
                rail.admit(&work, &self.world)?;
            }
            return Ok(payment);
        }
        let credential = credential.ok_or(Code::PaymentRequired)??;
        let (principal, at) = (identity.principal(), now);
        let (terms, arguments) = (&*call.terms, &*call.arguments);
        Payment::l402(&credential, &Use { principal, terms, arguments, quote, grant, at })
    }

    /// Credit, in the first of the quote's assets of which there is enough.
    fn pay_by_credit(
        &self,
        request: &str,
        call: &Call,
        identity: &Identity,
        quote: &Quote,
    ) -> Result<Payment, Refusal> {
        if !self.config.credit || call.terms.top_up {
            return Err(Code::PaymentTerms.into());
        }
        if identity.is_anonymous() {
            return Err(Code::TokenMissing.into());
        }
        let principal = identity.principal();
        let has_enough = |offer: &&Offer| {
            let cost = offer.for_one_call().amount;
            self.store.credit(principal, &cost.asset) >= cost.minor
        };
        let offer = quote.for_money().find(has_enough);
        let offer =
            offer.ok_or_else(|| Refusal::new(Code::PayerFunds).with("paid_from", "credit"))?;
        Payment::credit(request, principal, offer, quote)
    }

    /// The work that came along, checked for all but whom and what it was done for; `None` when
    /// none did.
    fn work(&self, evidence: &Evidence) -> Option<Result<(&PowRail, VerifiedWork), Refusal>> {
        let work = evidence.work.as_ref()?;
        let Some(rail) = &self.rails.pow else { return Some(Err(Code::PaymentTerms.into())) };
        let verified = match work {
            Work::Solution(presented) => VerifiedWork::verify(presented, rail.key(), sha1),
            Work::Credential(credential) => VerifiedWork::of_credential(credential, rail.key()),
        };
        Some(verified.map(|work| (rail, work)))
    }

    /// Whose free calls are counted: a person's, whatever agents it has; a client's without a
    /// person; else those of the address.
    pub(crate) fn subject(
        &self,
        rail: &PowRail,
        principal: &Principal,
        evidence: &Evidence,
    ) -> Digest {
        match &principal.delegator {
            Some(person) => Digest::of_parts(&[
                principal.tenant.as_bytes(),
                person.issuer.as_bytes(),
                person.subject.as_bytes(),
            ]),
            None if principal.is_anonymous() => rail.subject_of(evidence.peer),
            None => principal.key(),
        }
    }

    /// How many calls the subject has had today, if it has one left.
    ///
    /// # Errors
    /// [`Code::FreeQuotaUsed`]; the reservation looks again.
    pub(crate) fn free_calls_left(&self, rail: &PowRail, subject: Digest) -> Result<u32, Refusal> {
        let used = self.store.free_calls(subject, self.world.now())?;
        let quota = rail.daily_quota();
        if used < quota { Ok(used) } else { Err(quota_used(quota)) }
    }

    /// A challenge to solve for this call, where work is among the quote's offers.
    ///
    /// # Errors
    /// [`Code::FreeQuotaUsed`].
    pub(crate) fn work_offer(
        &self,
        principal: &Principal,
        evidence: &Evidence,
        quote: &Quote,
    ) -> Result<Option<pow::Challenge>, Refusal> {
        let is_offered = quote.offers().iter().any(|offer| offer.rail == Rail::Pow);
        let Some(rail) = self.rails.pow.as_ref().filter(|_| is_offered) else { return Ok(None) };
        let subject = self.subject(rail, principal, evidence);
        let used = self.free_calls_left(rail, subject)?;
        Ok(Some(rail.challenge(quote.call_digest(), subject, used, &self.world)))
    }

    /// Checks a payment here, then asks whoever settles.
    async fn verify_x402(
        &self,
        call: &Call,
        payment: &PaymentPayload,
        quote: &Quote,
        caller: &Caller,
        is_begun: bool,
    ) -> Result<PaidX402, Refusal> {
        let rail = self.rails.x402.as_ref().ok_or(Code::PaymentTerms)?;
        let (offer, terms) = rail.accepted(quote, payment).ok_or(Code::PaymentTerms)?;
        let challenge = X402Challenge::of(&rail.challenge_key, quote);
        let now = self.world.now();
        let terms = terms.for_tool(&call.terms);
        let paid = PaidX402::verify(payment, quote, offer, &terms, &challenge, now, recover)?;
        // What we took already, the facilitator would only call used.
        if is_begun {
            return Ok(paid);
        }
        self.may_fail(caller)?;
        let signed = SignedPayment::from_stored(paid.payload()).ok_or(Code::InternalFault)?;
        let busy = |_full| Refusal::new(Code::Overloaded).retry_after_s(BUSY_S);
        let _place = rail.verifying.try_acquire().map_err(busy)?;
        match rail.facilitator.verify(&signed).await {
            VerifyOutcome::Valid => Ok(paid),
            VerifyOutcome::Invalid(decline) => Err(decline.code().into()),
            VerifyOutcome::Unavailable => Err(Code::FacilitatorDown.into()),
        }
    }

    /// Whether a good prepaid credential came along that is not used up.
    pub(crate) fn has_uses(&self, known: &Known) -> bool {
        known
            .prepaid
            .is_some_and(|(key, uses)| self.store.uses_of(key).is_ok_and(|used| used < uses))
    }

    /// That the prepaid credential of a call has a use left, where it was sold for several: what
    /// its reservation would find.
    ///
    /// # Errors
    /// [`Code::CredentialExhausted`].
    pub(crate) fn leaves_use(&self, known: &Known) -> Result<(), Refusal> {
        let is_for_several = known.prepaid.is_some_and(|(_, uses)| uses > 1);
        let has_paid = known.lights.payment == Light::Ok;
        if has_paid && is_for_several && !self.has_uses(known) {
            return Err(Code::CredentialExhausted.into());
        }
        Ok(())
    }

    /// The ways to pay, durable before they are shown. A new refusal code is recorded with it.
    ///
    /// # Errors
    /// [`Code::TooManyOpenQuotes`], [`Code::NoRail`] when no offer can be made right now.
    pub(crate) async fn challenge(
        &self,
        attempt: &CallAttempt,
        known: &Known,
        quote: Quote,
        refusal: &Refusal,
    ) -> Result<Challenge, Refusal> {
        let call = &attempt.call;
        let lights = known.lights_after(refusal);
        // The path's proof went into its permit, if it came that far: the credential that is
        // minted here rests on one of its own.
        let (identity, _) = self.identify(&call.terms, &attempt.evidence).await?;
        let x402 = self.x402_offers(call, &quote);
        let pow = self.work_offer(identity.principal(), &attempt.evidence, &quote);
        let now = self.world.now();
        let rail = self.rails.l402.as_ref();
        let open_now = self.store.open_quote(identity.key(), quote.call_digest(), now);
        let open_now = open_now.filter(|open| open.quote.id() == quote.id());
        let credential = open_now.as_ref().and_then(|open| open.credential);
        let can_be_paid =
            credential.map_or(Ok(false), |credential| self.can_be_paid(credential))?;
        let open = rail.filter(|_| can_be_paid).and_then(|rail| rail.offered(quote.id(), now));
        let grant = known.grant.filter(|_| call.terms.uses.0 > 1);
        // What was made for a question keeps no call that could wait for its money.
        let fits = |offer: &LightningOffer| offer.may_wait || attempt.original.is_none();
        let open = open.filter(|offer| offer.grant == grant && fits(offer));
        let is_open = open_now.is_some();
        let is_known = self.store.quote_by_id(quote.id())?.is_some();
        let stored = self::attempt(call, identity.principal(), known.decided.clone());
        let wants_lightning = quote.offers().iter().any(|offer| offer.rail == Rail::L402);
        let caller = Caller::new(Some(identity.principal()), attempt.evidence.peer);
        let mint = (wants_lightning && open.is_none()).then(|| self.may_mint(&caller));
        let may_mint = matches!(mint, Some(Ok(())));
        let is_complete = !may_mint;
        if is_open && is_complete && (x402.is_some() || open.is_some() || pow.is_ok()) {
            self.store.refuse(&stored, Some(&quote), refusal).await?;
            return Ok(Challenge { quote, x402, l402: open, pow: pow.ok().flatten() });
        }
        // It is over, or its Lightning offer is gone (paid, given back, a restart): the same price
        // under a new one.
        let quote = if is_known { self.requote(&quote) } else { quote };
        let x402 = if is_known { self.x402_offers(call, &quote) } else { x402 };
        let covered = (&quote, grant);
        let (l402, credential) = match may_mint {
            true => self.lightning_offer(attempt, &identity, covered).await.unzip(),
            false => (None, None),
        };
        let pow = match pow {
            Err(no_more) if x402.is_none() && l402.is_none() => {
                self.store.refuse(&stored, Some(&quote), &no_more).await?;
                return Err(no_more);
            }
            pow => pow.ok().flatten(),
        };
        if x402.is_none() && l402.is_none() && pow.is_none() {
            let limited = mint.and_then(Result::err);
            return Err(limited.unwrap_or_else(|| Code::NoRail.into()));
        }
        let challenge = StoredChallenge {
            attempt: stored,
            quote: quote.clone(),
            credential,
            lights,
            code: refusal.code(),
        };
        self.store.challenge(challenge).await?;
        if let (Some(rail), Some(offer)) = (rail, &l402) {
            rail.keep(quote.id(), offer, now);
        }
        Ok(Challenge { quote, x402, l402, pow })
    }

    /// The same offers under a new identifier and expiry.
    fn requote(&self, quote: &Quote) -> Quote {
        let now = self.world.now();
        let id = QuoteId::new(now, self.world.random());
        let expires = now.plus_ms(self.config.limits.quote_ttl_ms);
        Quote::new(id, quote.call_digest(), quote.offers().to_vec(), now, expires)
    }

    /// What became of this very call under this very payment before: its outcome, found even when
    /// the quote and the payment's window are over, so that a lost answer is never paid twice; or
    /// the quote under which it can be carried on.
    ///
    /// # Errors
    /// [`Code::StoreFault`]; [`Code::ResultTooLarge`] when the outcome was too large to keep; where
    /// the earlier call stands, when nobody can carry it on.
    pub fn repeat(
        &self,
        call: &Call,
        principal: &Principal,
        evidence: &Evidence,
        credential: Option<&Presented>,
    ) -> Result<Repeat, Refusal> {
        let digest = || call.digest(principal);
        if self.is_bought(call, principal) {
            return self.bought_before(digest());
        }
        let key = match (&evidence.x402, credential) {
            (Some(Ok(payment)), _) => self.taken_before(payment, digest())?,
            (None, Some(Ok(credential))) if credential.uses() == 1 => Some(credential.key()),
            _ => match &evidence.credit {
                Some(request) => Some(credit_key(principal, request)),
                None => self.work_key(principal, evidence, digest),
            },
        };
        let Some(key) = key else { return Ok(Repeat::Fresh) };
        let digest = digest();
        if let Some(stored) = self.store.outcome_for(key, digest)? {
            return Done::replayed(stored).map(|done| Repeat::Done(Box::new(done)));
        }
        let Some(call) = self.store.standing_for(key, digest)? else { return Ok(Repeat::Fresh) };
        match (call.state, self.store.quote_of(call.call)?) {
            (CallState::Settling | CallState::Starting, Some(quote)) => {
                Ok(Repeat::Again(Box::new(Earlier { call, quote })))
            }
            _ => Err(unfinished(&call)),
        }
    }

    /// The key of work that was done for this very call by its subject.
    fn work_key(
        &self,
        principal: &Principal,
        evidence: &Evidence,
        digest: impl Fn() -> Digest,
    ) -> Option<Digest> {
        let (rail, work) = self.work(evidence)?.ok()?;
        let subject = self.subject(rail, principal, evidence);
        work.fits(digest(), subject).is_ok().then(|| work.key())
    }

    /// A refused payment may have been taken by the same call's twin meanwhile: then that one's
    /// outcome, or where it stands, is the answer.
    ///
    /// # Errors
    /// `refusal`, or where the twin stands.
    pub async fn twin(
        &self,
        call: &Call,
        principal: &Principal,
        evidence: &Evidence,
        refusal: Refusal,
    ) -> Result<Box<Done>, Refusal> {
        self.store.catch_up().await?;
        match self.repeat(call, principal, evidence, None)? {
            Repeat::Fresh => Err(refusal),
            Repeat::Done(done) => Ok(done),
            Repeat::Again(earlier) => Err(unfinished(&earlier.call)),
        }
    }

    /// The key of an x402 payment that was taken for this very call, as it was taken: an
    /// authorization is public once it is settled, the challenge that it echoes is not, and only
    /// who presents both is told what became of it.
    fn taken_before(
        &self,
        payment: &PaymentPayload,
        digest: Digest,
    ) -> Result<Option<Digest>, Refusal> {
        let Some(rail) = &self.rails.x402 else { return Ok(None) };
        let Ok(evm) = payment.accepted.evm() else { return Ok(None) };
        let terms =
            rail.terms.values().find(|t| t.token == evm.asset && t.chain_id == evm.chain_id);
        let Some(terms) = terms else { return Ok(None) };
        let key = nonce_key(&terms.domain(), &payment.payload.authorization);
        let payload = json::canonical(payment.to_json().as_bytes(), &Limits::PROOF);
        let payload = payload.ok().and_then(|payload| String::from_utf8(payload).ok());
        let taken = self.store.payload_of(key, digest)?;
        Ok((taken.is_some() && taken == payload).then_some(key))
    }

    fn x402_offers(
        &self,
        call: &Call,
        quote: &Quote,
    ) -> Option<(Vec<Requirements>, Option<Box<RawValue>>)> {
        let rail = self.rails.x402.as_ref()?;
        let challenge = X402Challenge::of(&rail.challenge_key, quote);
        let offers = rail.offers(quote);
        let offers: Vec<_> = offers
            .map(|(offer, terms)| terms.for_tool(&call.terms).requirements(offer, &challenge))
            .collect();
        if offers.is_empty() { None } else { Some((offers, challenge.extensions())) }
    }
}

impl X402Rail {
    /// The offers of a quote that this rail takes, with their terms.
    fn offers<'a>(&'a self, quote: &'a Quote) -> impl Iterator<Item = (&'a Offer, &'a X402Terms)> {
        let on_rail = quote.offers().iter().filter(|offer| offer.rail == Rail::X402);
        on_rail.filter_map(|offer| Some((offer, self.terms.get(&offer.amount.asset)?)))
    }

    /// The one of them whose token a payer says it accepted. What else it says is looked at with
    /// the payment.
    fn accepted<'a>(
        &'a self,
        quote: &'a Quote,
        payment: &PaymentPayload,
    ) -> Option<(&'a Offer, &'a X402Terms)> {
        let said = payment.accepted.evm().ok()?;
        let is_said =
            |terms: &X402Terms| terms.chain_id == said.chain_id && terms.token == said.asset;
        self.offers(quote).find(|(_, terms)| is_said(terms))
    }
}

/// Under which key a credential's uses are counted, and how many it has.
#[must_use]
pub fn prepaid(credential: &VerifiedCredential) -> (Digest, u32) {
    (credential.key(), credential.uses())
}

/// What became of a call under the payment that came with it.
#[derive(Debug)]
pub enum Repeat {
    /// Nothing: it is new.
    Fresh,
    /// It ran: its outcome.
    Done(Box<Done>),
    /// It was begun, and may be carried on.
    Again(Box<Earlier>),
}

/// A call that was begun.
#[derive(Debug)]
pub struct Earlier {
    /// Where it stands.
    pub call: CallView,
    /// The quote that was paid.
    pub quote: Quote,
}

/// What a repeated request under one payment is told while its call has no outcome. None of it
/// asks for another payment.
#[must_use]
pub fn unfinished(earlier: &CallView) -> Refusal {
    // Plain Lightning money has moved before the call came.
    let is_settled =
        earlier.settlement.is_some() || earlier.is_prepaid || earlier.rail == Some(Rail::L402);
    let (code, charged) = match earlier.state {
        CallState::Settling => (Code::SettlementUnknown, Charged::Unknown),
        CallState::Finished if !is_settled => (Code::SettlementUnknown, Charged::Unknown),
        CallState::InDoubt if is_settled => (Code::UpstreamTimeout, Charged::Yes),
        CallState::InDoubt if earlier.rail == Some(Rail::Treasury) => {
            (Code::UpstreamTimeout, Charged::Unknown)
        }
        CallState::InDoubt => (Code::UpstreamTimeout, Charged::No),
        CallState::RefundDue => (Code::PaymentUsed, Charged::Yes),
        CallState::Released | CallState::Refunded | CallState::Refused => {
            (Code::PaymentUsed, Charged::No)
        }
        CallState::Reserved
        | CallState::Settled
        | CallState::Starting
        | CallState::Finished
        | CallState::Captured => (Code::InProgress, Charged::Unknown),
    };
    Refusal::new(code).charged(charged).with("earlier", earlier.call).retry_after_s(10)
}

/// The attempt as the store records it.
#[must_use]
pub fn attempt(call: &Call, principal: &Principal, decided: Option<Decided>) -> Attempt {
    Attempt {
        call: call.id,
        call_digest: call.digest(principal),
        principal: principal.clone(),
        tool: call.terms.tool.clone(),
        evidence: crate::conclude::evidence(call),
        decided,
    }
}
