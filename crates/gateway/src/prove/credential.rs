//! Verifies L402 credentials against what was minted: each of several calls once, not every time.
//!
//! INVARIANT: a credential is answered from memory only for the same bytes, and only while what is
//! stored of it is the very value that it was verified against.

use crate::{gate::Gate, halves::Halves};
use countersign_core::{
    digest::Digest,
    proof::VerifiedCredential,
    refusal::{Code, Refusal},
    wire::l402::Credential,
};
use countersign_store::Credential as Stored;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Credentials in each half.
const HALF_MAX: usize = 4_096;

/// Credentials of several calls that were verified before.
#[derive(Debug)]
pub struct Credentials(Mutex<Halves<Digest, Known>>);

/// Held weakly: what the store lets go takes its root key along.
#[derive(Debug)]
struct Known {
    against: Weak<Stored>,
    verified: Arc<VerifiedCredential>,
}

impl Default for Credentials {
    fn default() -> Self {
        Self(Mutex::new(Halves::new(HALF_MAX)))
    }
}

impl Credentials {
    fn verify(
        &self,
        credential: &Credential,
        stored: &Arc<Stored>,
    ) -> Result<Arc<VerifiedCredential>, Refusal> {
        let verify = || VerifiedCredential::verify(credential, &stored.root_key, &stored.minted);
        if stored.minted.uses == 1 {
            return verify().map(Arc::new);
        }
        let bytes = Digest::of_parts(&[&credential.macaroon_bytes, &credential.preimage]);
        let known = self.known().peek(&bytes).and_then(|known| known.of(stored));
        if let Some(verified) = known {
            return Ok(verified);
        }
        let verified = Arc::new(verify()?);
        let known = Known { against: Arc::downgrade(stored), verified: Arc::clone(&verified) };
        self.known().put(bytes, known);
        Ok(verified)
    }

    fn known(&self) -> MutexGuard<'_, Halves<Digest, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn of(&self, stored: &Arc<Stored>) -> Option<Arc<VerifiedCredential>> {
        let is_same = std::ptr::eq(self.against.as_ptr(), Arc::as_ptr(stored));
        is_same.then(|| Arc::clone(&self.verified))
    }
}

impl Gate {
    /// Checks an L402 credential against what was minted.
    ///
    /// # Errors
    /// [`Code::CredentialInvalid`] and its kin.
    pub fn verify_credential(
        &self,
        credential: &Credential,
    ) -> Result<Arc<VerifiedCredential>, Refusal> {
        let stored = self.store.credential(credential.id.key())?.ok_or(Code::CredentialInvalid)?;
        let verified = self.credentials.verify(credential, &stored)?;
        match stored.revoked {
            true => Err(Refusal::new(Code::CredentialInvalid).with("cause", "revoked")),
            false => Ok(verified),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{
        ids::QuoteId,
        money::Amount,
        proof::Minted,
        time::UnixMs,
        wire::{caveat::Caveat, l402::L402Id, macaroon::Macaroon},
    };

    const ROOT: [u8; 32] = [3; 32];
    const PREIMAGE: [u8; 32] = [4; 32];

    fn id() -> L402Id {
        L402Id { payment_hash: *Digest::of(&PREIMAGE).as_bytes(), token_id: [5; 32] }
    }

    fn stored(uses: u32) -> Arc<Stored> {
        let minted = Minted {
            quote: QuoteId::from_bytes([1; 16]),
            price: Amount { asset: "BTC".into(), minor: 3_000 },
            uses,
            expires_at: UnixMs(1_795_000_000_000),
            bearer: None,
        };
        Arc::new(Stored {
            key: id().key(),
            root_key: ROOT,
            payment_hash: Digest::of(&PREIMAGE),
            bolt11: String::new(),
            minted,
            revoked: false,
            used_by: None,
            closed: false,
        })
    }

    fn presented(root: &[u8; 32], caveats: &[Caveat], preimage: [u8; 32]) -> Credential {
        let macaroon = Macaroon::mint(root, &id().encode()).restrict(caveats);
        let macaroon_bytes = macaroon.encode();
        Credential { macaroon, id: id(), macaroon_bytes, preimage }
    }

    #[test]
    fn a_copy_is_verified_once_while_what_is_stored_stays() {
        let (known, stored_once) = (Credentials::default(), stored(5));
        let whole = presented(&ROOT, &[], PREIMAGE);
        let first = known.verify(&whole, &stored_once).unwrap();
        assert!(Arc::ptr_eq(&first, &known.verify(&whole, &stored_once).unwrap()));
        let anew = known.verify(&whole, &stored(5)).unwrap();
        assert!(!Arc::ptr_eq(&first, &anew), "it is stored anew");
        let narrowed = presented(&ROOT, &[Caveat::Uses(2)], PREIMAGE);
        assert_eq!(known.verify(&narrowed, &stored_once).unwrap().uses(), 2);
        assert_eq!(known.verify(&whole, &stored_once).unwrap().uses(), 5);
    }

    #[test]
    fn what_is_no_good_beside_a_good_one_stays_so() {
        let (known, stored) = (Credentials::default(), stored(5));
        known.verify(&presented(&ROOT, &[], PREIMAGE), &stored).unwrap();
        let code = |credential: &Credential| known.verify(credential, &stored).unwrap_err().code();
        assert_eq!(code(&presented(&ROOT, &[], [9; 32])), Code::PreimageMismatch);
        let forged = presented(&[8; 32], &[], PREIMAGE);
        assert_eq!([code(&forged), code(&forged)], [Code::CredentialInvalid; 2]);
    }

    #[test]
    fn one_of_a_single_call_is_not_kept() {
        let (known, stored) = (Credentials::default(), stored(1));
        let credential = presented(&ROOT, &[], PREIMAGE);
        let verify = || known.verify(&credential, &stored).unwrap();
        assert!(!Arc::ptr_eq(&verify(), &verify()));
    }
}
