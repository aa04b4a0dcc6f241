//! Held Lightning payments: money that a node holds for an invoice of ours, to be taken when the
//! call has run, or given back.
//!
//! Owns the preimage of such invoices and the check that makes a [`HeldPayment`]. That the node
//! holds the money is the rail's word; which call it was asked for, the credential's stored facts.
//!
//! INVARIANT: the preimage leaves us only towards the node, to settle. A credential with it is
//! proof that its call has run and that its outcome is kept.

use crate::{
    digest::Digest,
    quote::{Offer, Quote},
    refusal::{Code, Refusal},
};
use std::fmt;

use super::{Minted, Principal};

/// The preimage of a hold invoice, from its credential's root key: nothing else has to be kept.
#[must_use]
pub fn hold_preimage(root_key: &[u8; 32]) -> [u8; 32] {
    *Digest::of_parts(&[b"countersign hold invoice", root_key]).as_bytes()
}

/// A payment that a node holds.
pub struct HeldPayment {
    key: Digest,
    minted: Minted,
    payload: String,
}

impl fmt::Debug for HeldPayment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPayment").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a stored payload begins with.
const PAYLOAD: &str = "l402-hold:";

impl HeldPayment {
    /// The node says that it holds `amount_msat` for the invoice of a credential, by its `key`,
    /// that was minted for one call.
    ///
    /// # Errors
    /// [`Code::PaymentAmount`] when less is held than was asked; [`Code::PaymentTerms`] for a
    /// credential that pays for several calls: those are paid outright.
    pub fn verify(key: Digest, minted: &Minted, amount_msat: u64) -> Result<Self, Refusal> {
        if minted.uses != 1 {
            return Err(Code::PaymentTerms.into());
        }
        if u128::from(amount_msat) < minted.price.minor {
            return Err(Code::PaymentAmount.into());
        }
        let payload = format!("{PAYLOAD}{key}");
        Ok(Self { key, minted: minted.clone(), payload })
    }

    /// Whether it was asked for under this very quote, for this principal and price.
    pub(super) fn covers(
        &self,
        principal: &Principal,
        quote: &Quote,
        offer: &Offer,
    ) -> Result<(), Refusal> {
        let bearer = self.minted.bearer.as_ref().map(|bearer| &bearer.principal);
        let is_theirs = match bearer {
            Some(bearer) => bearer.key() == principal.key(),
            None => principal.key() == Principal::anonymous().key(),
        };
        if !is_theirs || self.minted.quote != quote.id() {
            return Err(Code::PaymentOtherCall.into());
        }
        if self.minted.price != offer.amount {
            return Err(Code::PaymentAmount.into());
        }
        Ok(())
    }

    /// SHA-256 of its credential's identifier: what is counted as used.
    #[must_use]
    pub const fn key(&self) -> Digest {
        self.key
    }

    /// What the ledger keeps to settle with: names the credential, holds no secret.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// The credential that a stored payload names; none for another rail's.
    #[must_use]
    pub fn key_of(payload: &str) -> Option<Digest> {
        Digest::from_hex(payload.strip_prefix(PAYLOAD)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::QuoteId,
        money::{Amount, Micros},
        quote::Rail,
        time::UnixMs,
    };

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn offer(minor: u128) -> Offer {
        Offer {
            rail: Rail::L402,
            amount: Amount { asset: "BTC".into(), minor },
            payee: "sandbox".into(),
            micros: Micros(1_800),
            uses: std::num::NonZeroU32::MIN,
        }
    }

    fn quote(seed: u8) -> Quote {
        let id = QuoteId::new(NOW, [seed; 10]);
        Quote::new(id, Digest::of(b"call"), vec![offer(3_000)], NOW, NOW.plus_ms(60_000))
    }

    fn held(uses: u32, amount_msat: u64) -> Result<HeldPayment, Code> {
        let minted = Minted {
            quote: quote(1).id(),
            price: offer(3_000).amount,
            uses,
            expires_at: NOW.plus_ms(60_000),
            bearer: None,
        };
        HeldPayment::verify(Digest::of(b"identifier"), &minted, amount_msat)
            .map_err(|refusal| refusal.code())
    }

    #[test]
    fn what_is_held_pays_its_own_quote_alone() {
        let (nobody, held) = (Principal::anonymous(), held(1, 3_000).unwrap());
        let code = |quote: &Quote, offer: &Offer| {
            held.covers(&nobody, quote, offer).map_err(|refusal| refusal.code())
        };
        assert_eq!(code(&quote(1), &offer(3_000)), Ok(()));
        assert_eq!(code(&quote(2), &offer(3_000)), Err(Code::PaymentOtherCall));
        assert_eq!(code(&quote(1), &offer(4_000)), Err(Code::PaymentAmount));
        let alice = Principal { agent: "bot".into(), ..Principal::anonymous() };
        let refused = held.covers(&alice, &quote(1), &offer(3_000)).unwrap_err();
        assert_eq!(refused.code(), Code::PaymentOtherCall);
    }

    #[test]
    fn too_little_and_bundles_are_not_held() {
        assert_eq!(held(1, 2_999).err(), Some(Code::PaymentAmount));
        assert_eq!(held(2, 3_000).err(), Some(Code::PaymentTerms));
        assert!(held(1, 3_001).is_ok(), "payers may pay a little more (BOLT 4)");
    }

    #[test]
    fn a_payload_names_its_credential() {
        let held = held(1, 3_000).unwrap();
        assert_eq!(HeldPayment::key_of(held.payload()), Some(held.key()));
        assert_eq!(HeldPayment::key_of("{}"), None);
        assert_ne!(hold_preimage(&[1; 32]), hold_preimage(&[2; 32]));
    }
}
