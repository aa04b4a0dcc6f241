//! The Lightning rail's side of proof three: invoices with the credentials that paying them
//! completes, and money that a node holds.
//!
//! A call that is paid for by itself is run when its money is held: the request is kept, sealed,
//! until then. Credentials for several calls are paid outright.
//!
//! INVARIANT: a preimage of ours is in no answer; a payer learns it from the network, when the
//! node takes the money.

use super::evidence::HeldInvoice;
use crate::{
    call::Attempt,
    gate::Gate,
    hold::Sealed,
    rails::lightning::{Alarms, Loopd, Node, Nodes, Ready, Takings, Want},
};
use countersign_core::{
    digest::Digest,
    ids::{GrantId, QuoteId},
    proof::{HeldPayment, Identity, Mint, mint},
    quote::{Offer, Quote, Rail},
    refusal::{Code, Refusal},
    terms::Terms,
    time::UnixMs,
    wire::l402::{self, L402Id},
};
use countersign_store::NewCredential;
use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The most offers kept for asking again; beyond, a new invoice is made.
const OPEN_OFFERS_MAX: usize = 10_000;

/// L402.
pub struct L402Rail {
    /// Who makes invoices.
    pub nodes: Nodes,
    /// How long a credential is valid, in milliseconds.
    pub credential_ttl_ms: u64,
    /// Money is held until the call has run, where the node can do it.
    pub hold: bool,
    /// The most that is held at once.
    pub hold_max_msat: u64,
    /// Seals requests that wait for their money.
    pub sealed: Sealed,
    /// What becomes of invoices.
    pub takings: Takings,
    /// What is wrong with nodes.
    pub alarms: Alarms,
    /// Who swaps money in channels for money on the chain.
    pub loopd: Option<Loopd>,
    /// Held by the one rebalance at a time: when the rule was last refused one.
    pub(crate) rebalancing: tokio::sync::Mutex<Option<UnixMs>>,
    /// Offers of open quotes, so that asking again shows the same invoice.
    open: Mutex<HashMap<QuoteId, LightningOffer>>,
    /// Money that is held for calls that run now, by payment hash.
    held: Mutex<HashMap<[u8; 32], u64>>,
}

/// Whether a call may run under money that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It may, until [`L402Rail::end_hold`].
    Now,
    /// It runs already.
    Already,
    /// Too much is held at this moment.
    TooMuch,
}

/// A Lightning offer.
#[derive(Clone, Debug)]
pub struct LightningOffer {
    /// Macaroon and invoice.
    pub challenge: l402::Challenge,
    /// What the invoice asks, in millisatoshi.
    pub amount_msat: u64,
    /// When the invoice lapses.
    pub expires_at: UnixMs,
    /// The grant to which a credential for several calls is tied.
    pub grant: Option<GrantId>,
    /// It was made for a call that could wait for its money, whether it does or not.
    pub may_wait: bool,
}

impl fmt::Debug for L402Rail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L402Rail").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl L402Rail {
    /// The rail over these nodes.
    #[must_use]
    pub fn new(
        nodes: Nodes,
        credential_ttl_ms: u64,
        (hold, hold_max_msat): (bool, u64),
        sealed: Sealed,
        loopd: Option<Loopd>,
    ) -> Self {
        Self {
            nodes,
            credential_ttl_ms,
            hold,
            hold_max_msat,
            sealed,
            takings: Takings::default(),
            alarms: Alarms::default(),
            loopd,
            rebalancing: tokio::sync::Mutex::default(),
            open: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Whether calls under these terms may wait for money that is held.
    #[must_use]
    pub fn may_hold(&self, terms: &Terms) -> bool {
        let can = |node: &Node| node.capabilities().has_hold;
        self.hold && terms.uses.0 == 1 && self.nodes.iter().any(can)
    }

    /// The offer of an open quote.
    #[must_use]
    pub fn offered(&self, quote: QuoteId, now: UnixMs) -> Option<LightningOffer> {
        lock(&self.open).get(&quote).filter(|offer| now < offer.expires_at).cloned()
    }

    /// Keeps the offer of an open quote.
    pub fn keep(&self, quote: QuoteId, offer: &LightningOffer, now: UnixMs) {
        let mut open = lock(&self.open);
        if open.len() >= OPEN_OFFERS_MAX {
            open.retain(|_, offer| now < offer.expires_at);
        }
        if open.len() < OPEN_OFFERS_MAX {
            open.insert(quote, offer.clone());
        }
    }

    /// A call is to run under money that is held.
    pub fn begin_hold(&self, payment_hash: [u8; 32], amount_msat: u64) -> Begun {
        let mut held = lock(&self.held);
        if held.contains_key(&payment_hash) {
            return Begun::Already;
        }
        let sum = held.values().fold(amount_msat, |sum, msat| sum.saturating_add(*msat));
        if sum > self.hold_max_msat {
            return Begun::TooMuch;
        }
        held.insert(payment_hash, amount_msat);
        Begun::Now
    }

    /// The call has ended.
    pub fn end_hold(&self, payment_hash: &[u8; 32]) {
        lock(&self.held).remove(payment_hash);
    }

    /// Whether a call runs under this payment.
    #[must_use]
    pub fn is_running(&self, payment_hash: &[u8; 32]) -> bool {
        lock(&self.held).contains_key(payment_hash)
    }

    /// How many calls run under money that is held, and how much that is.
    #[must_use]
    pub fn holding(&self) -> (usize, u64) {
        let held = lock(&self.held);
        (held.len(), held.values().fold(0, |sum, msat| sum.saturating_add(*msat)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An invoice, and what is kept to settle it.
struct Made {
    node: String,
    ready: Ready,
    request: Option<Vec<u8>>,
}

impl Gate {
    /// The proof that money is held for a credential that is still good.
    ///
    /// # Errors
    /// [`Code::CredentialInvalid`], [`Code::PaymentAmount`].
    pub fn verify_held(&self, held: &HeldInvoice) -> Result<HeldPayment, Refusal> {
        let stored = self.store.credential(held.credential)?;
        let stored = stored.filter(|stored| !stored.revoked).ok_or(Code::CredentialInvalid)?;
        HeldPayment::verify(held.credential, &stored.minted, held.amount_msat)
    }

    /// Whether the invoice of a credential waits for its payment still.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) fn can_be_paid(&self, credential: Digest) -> Result<bool, Refusal> {
        let invoice = self.store.invoice_of(credential)?;
        Ok(invoice.is_some_and(|open| open.request.is_none_or(|request| !request.is_empty())))
    }

    /// A fresh invoice and the credential that paying it completes. Without a node that can make
    /// one, the rail is not in the challenge.
    pub(crate) async fn lightning_offer(
        &self,
        attempt: &Attempt,
        identity: &Identity,
        (quote, grant): (&Quote, Option<GrantId>),
    ) -> Option<(LightningOffer, NewCredential)> {
        let rail = self.rails.l402.as_ref()?;
        let offer = quote.offers().iter().find(|offer| offer.rail == Rail::L402)?;
        let terms = &attempt.call.terms;
        let Made { node, ready, request } = self.invoice(rail, attempt, quote, offer).await?;
        let Ready { invoice, root_key, .. } = ready;
        // A credential for one call lives as long as its invoice can be paid; one for several
        // calls as long as configured.
        let ends = match terms.uses.0 {
            1 => quote.expires_at().max(invoice.expires_at),
            _ => self.world.now().plus_ms(rail.credential_ttl_ms),
        };
        let new = Mint {
            payment_hash: invoice.payment_hash,
            token_id: self.world.random(),
            root_key: &root_key,
            identity,
            tool: &terms.tool,
            quote,
            price: &offer.amount,
            uses: terms.uses,
            grant,
            expires_at: ends,
        };
        let (macaroon, minted) = mint(&new).ok()?;
        let id = L402Id { payment_hash: new.payment_hash, token_id: new.token_id };
        let challenge = l402::Challenge::new(&macaroon, &invoice.bolt11).ok()?;
        let credential = NewCredential {
            key: id.key(),
            root_key,
            payment_hash: Digest::from_bytes(invoice.payment_hash),
            bolt11: invoice.bolt11,
            invoice_expires_at: invoice.expires_at,
            node,
            request,
            minted,
        };
        let expires_at = invoice.expires_at.min(quote.expires_at());
        let amount_msat = invoice.amount_msat;
        let may_wait = attempt.original.is_some();
        Some((LightningOffer { challenge, amount_msat, expires_at, grant, may_wait }, credential))
    }

    /// An invoice for the offer: one that holds the money where that can be, else a plain one.
    async fn invoice(
        &self,
        rail: &L402Rail,
        attempt: &Attempt,
        quote: &Quote,
        offer: &Offer,
    ) -> Option<Made> {
        let tool = &attempt.call.terms.tool;
        let price_msat = u64::try_from(offer.amount.minor).ok()?;
        let original = attempt.original.as_ref();
        let kept = original.and_then(|original| Sealed::keepable(&tool.server, original));
        let want = Want {
            price_msat,
            memo: &tool.to_string(),
            expiry_s: (quote.expires_at().since_ms(self.world.now()) / 1000).max(1),
            may_hold: kept.is_some() && price_msat <= rail.hold_max_msat,
        };
        let (node, ready) = rail.nodes.invoice(&want).await.ok()?;
        let hash = &ready.invoice.payment_hash;
        let times = (self.world.now(), ready.invoice.expires_at);
        rail.takings.shown(*hash, &node.name, times);
        let request = match kept.filter(|_| ready.is_hold) {
            Some(kept) => Some(rail.sealed.seal(kept, (hash, self.world.random()))?),
            None => None,
        };
        Some(Made { node: node.name.to_string(), ready, request })
    }
}
