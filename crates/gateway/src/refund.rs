//! What is owed back for credentials, over Lightning: whoever shows the credential and its preimage
//! is given a BOLT12 refund, which any wallet that speaks it turns into money once; or has an
//! invoice of its own paid ([`crate::payback`]).
//!
//! Credit comes first where it is kept (`credit: true`): what is owed to somebody who is known is
//! theirs to spend at once, and is not here. Money that is only held, and authorizations that were
//! never settled, are owed to nobody.
//!
//! INVARIANT: the store has written which node offers a refund before that node is asked, and one
//! key is one refund at the node: whatever crashes, it is offered once, and booked once.

use crate::{
    gate::Gate,
    payback::Shown,
    prove::Evidence,
    rails::lightning::{Give, Given},
};
use countersign_core::{
    digest::Digest,
    proof::VerifiedCredential,
    refusal::{Code, Refusal},
};
use countersign_store::Refund;
use std::collections::BTreeSet;

/// How long a refund can be claimed.
const EXPIRY_S: u64 = 365 * 24 * 3_600;
/// What sending one may cost: a hundredth of it, and at least this.
const FEE_MIN_MSAT: u64 = 10_000;
/// Refunds looked up in one round.
const LOOKUPS: u32 = 100;

impl Gate {
    /// A refusal of a credential that is over or revoked, with what is owed back for it.
    pub(crate) async fn owing(&self, evidence: &Evidence, refusal: Refusal) -> Refusal {
        let is_over = matches!(refusal.code(), Code::QuoteExpired | Code::CredentialInvalid);
        let Some(credential) = evidence.l402.as_ref().filter(|_| is_over) else { return refusal };
        // Who has both the macaroon and the preimage has paid, whatever it is worth now.
        let stored = self.store.credential(credential.id.key()).ok().flatten();
        let is_theirs = stored.is_some_and(|stored| {
            VerifiedCredential::verify(credential, &stored.root_key, &stored.minted).is_ok()
        });
        if !is_theirs {
            return refusal;
        }
        let owed = self.store.refunds_of(credential.id.key()).unwrap_or_default();
        match &evidence.refund_invoice {
            None => self.offering(refusal, &owed).await,
            Some(bolt11) => self.invoiced(refusal, bolt11, credential.id.key(), &owed).await,
        }
    }

    /// With a BOLT12 refund of what is owed, or with how much an invoice must ask.
    async fn offering(&self, refusal: Refusal, owed: &[Refund]) -> Refusal {
        for refund in owed {
            if let Some(given) = self.give(refund).await.filter(|given| given.is_open) {
                return self.telling(refusal.with("refund", given.refund), Some(refund));
            }
        }
        let (under_way, open): (Vec<&Refund>, Vec<&Refund>) =
            owed.iter().partition(|refund| self.is_paying_back(refund));
        match open.into_iter().find(|refund| self.pays_invoice(refund)) {
            None if !under_way.is_empty() => refusal.with("refund", "on its way"),
            payable => self.telling(refusal, payable),
        }
    }

    /// With what became of the invoice that was shown.
    async fn invoiced(
        &self,
        refusal: Refusal,
        bolt11: &str,
        credential: Digest,
        owed: &[Refund],
    ) -> Refusal {
        let shown = self.pay_shown(bolt11, credential, owed).await;
        match shown.unwrap_or(Shown::Unpaid("it could not be written down: show it again")) {
            Shown::Paid => refusal.with("refund", "paid"),
            Shown::UnderWay => refusal.with("refund", "on its way"),
            Shown::Unpaid(why) => self.telling(refusal.with("refund_invoice", why), owed.first()),
        }
    }

    fn telling(&self, refusal: Refusal, owed: Option<&Refund>) -> Refusal {
        match owed {
            Some(refund) => refusal.with("owed", self.config.assets.show(&refund.amount)),
            None => refusal,
        }
    }

    /// Offers a refund, once.
    async fn give(&self, refund: &Refund) -> Option<Given> {
        let nodes = &self.rails.l402.as_ref()?.nodes;
        let willing = nodes.iter().find(|node| node.can_give())?;
        let name = self.store.offer_refund(refund.key, &willing.name).await.ok()??;
        let amount_msat = u64::try_from(refund.amount.minor).ok()?;
        let max_fee_msat = (amount_msat / 100).max(FEE_MIN_MSAT);
        let key = refund.key.to_hex();
        let give = Give { key: &key, amount_msat, expiry_s: EXPIRY_S, max_fee_msat };
        nodes.named(&name)?.give(&give).await.ok()
    }

    /// Looks at some of the refunds that nodes offer, and books those that were taken. Some are
    /// never taken, and must not keep others: which ones is chance.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) async fn book_refunds(&self) -> Result<(), Refusal> {
        let Some(rail) = &self.rails.l402 else { return Ok(()) };
        let mut silent = BTreeSet::new();
        let after = Digest::from_bytes(self.world.random());
        for refund in self.store.offered_refunds(after, LOOKUPS)? {
            let node = refund.node.as_deref().and_then(|name| rail.nodes.named(name));
            let Some(node) = node.filter(|node| !silent.contains(&*node.name)) else { continue };
            match node.given(&refund.key.to_hex()).await {
                Ok(Some(Given { taken: Some(hash), .. })) => {
                    self.store.refund_paid(refund.key, &hash).await?;
                }
                Ok(_) => {}
                Err(_silent) => drop(silent.insert(&*node.name)),
            }
        }
        Ok(())
    }
}
