//! Work: a solved challenge of ours, or the macaroon that one was exchanged for.
//!
//! Owns what a solution is worth: the check that makes a [`VerifiedWork`]. Whether the free lane
//! has room is the gateway's question; that a challenge is used once, and how many calls a subject
//! has had today, the ledger's.
//!
//! INVARIANT: both forms of one challenge have one key, so that it is good for one call.

use crate::{
    digest::Digest,
    refusal::{Code, Refusal},
    time::UnixMs,
    wire::{
        caveat::{Caveat, Restriction},
        l402::{Credential, L402Id},
        macaroon::Macaroon,
        pow::{Challenge, Key, Presented, Sha1, TTL_MAX_MS},
    },
};

/// Ends the token id of a macaroon that stands for work.
const MARK: &[u8; 4] = b"pow1";

/// As much of a subject's digest as fits into a token id.
type Subject = [u8; 12];

/// Work that was really done, for the call and the subject in its challenge.
#[derive(Debug)]
pub struct VerifiedWork {
    id: [u8; 16],
    call: Digest,
    subject: Subject,
    expires_at: UnixMs,
}

impl VerifiedWork {
    /// Checks a solution: that the challenge is ours, and that it is solved.
    ///
    /// # Errors
    /// [`Code::WorkForeign`], [`Code::WorkTooLittle`].
    pub fn verify(presented: &Presented, key: &Key, sha1: Sha1) -> Result<Self, Refusal> {
        let text = &presented.nonce;
        let challenge = Challenge::open(text, key).map_err(|_| Code::WorkForeign)?;
        if !challenge.is_solved_by(text, &presented.solution, key, sha1) {
            return Err(Code::WorkTooLittle.into());
        }
        let Challenge { id, expires_at, call, subject, .. } = challenge;
        Ok(Self { id, call, subject: short(subject), expires_at })
    }

    /// Checks a macaroon that [`Self::macaroon`] made.
    ///
    /// # Errors
    /// [`Code::CredentialInvalid`], [`Code::PreimageMismatch`], [`Code::CaveatUnknown`].
    pub fn of_credential(credential: &Credential, key: &Key) -> Result<Self, Refusal> {
        let root_key = root_key(&credential.id, key);
        let verified =
            credential.macaroon.verify(&root_key).map_err(|_| Code::CredentialInvalid)?;
        if !credential.is_preimage_right() {
            return Err(Code::PreimageMismatch.into());
        }
        let only = Restriction::of(verified).map_err(|_| Code::CaveatUnknown)?;
        let is_ours = Restriction { valid_until: None, call: None, uses: None, ..only.clone() }
            == Restriction::default();
        let (Some(call), Some(until), true) = (only.call, only.valid_until, is_ours) else {
            return Err(Code::CaveatUnknown.into());
        };
        let (id, rest) = split(&credential.id).ok_or(Code::CredentialInvalid)?;
        Ok(Self { id, call, subject: rest, expires_at: UnixMs::from_seconds(until) })
    }

    /// Whether a credential is a macaroon of work.
    #[must_use]
    pub fn is_credential(credential: &Credential) -> bool {
        split(&credential.id).is_some()
    }

    /// The macaroon that stands for this work, for clients that present macaroons, and the preimage
    /// that goes with it.
    #[must_use]
    pub fn macaroon(&self, key: &Key) -> (Macaroon, [u8; 32]) {
        let preimage = key.derive("preimage", &self.id);
        let mut token_id = [0; 32];
        let bytes = self.id.iter().chain(&self.subject).chain(MARK);
        token_id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let id = L402Id { payment_hash: *Digest::of(&preimage).as_bytes(), token_id };
        let caveats = [
            Caveat::ValidUntil(self.expires_at.seconds()),
            Caveat::Call(self.call),
            Caveat::Uses(1),
        ];
        (Macaroon::mint(&root_key(&id, key), &id.encode()).restrict(&caveats), preimage)
    }

    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// What its one use is counted under.
    #[must_use]
    pub fn key(&self) -> Digest {
        Digest::of_parts(&[b"pow", &self.id])
    }

    /// Whether it was done for this subject and this call.
    ///
    /// # Errors
    /// [`Code::WorkSubject`], [`Code::PaymentOtherCall`].
    pub fn fits(&self, call: Digest, subject: Digest) -> Result<(), Refusal> {
        if self.subject != short(subject) {
            return Err(Code::WorkSubject.into());
        }
        if self.call == call { Ok(()) } else { Err(Code::PaymentOtherCall.into()) }
    }

    /// Whether it is still good. A challenge that ends later than one made now would comes from a
    /// clock that has gone back.
    ///
    /// # Errors
    /// [`Code::WorkExpired`].
    pub fn is_fresh(&self, now: UnixMs) -> Result<(), Refusal> {
        let is_fresh = now < self.expires_at && self.expires_at <= now.plus_ms(TTL_MAX_MS);
        if is_fresh { Ok(()) } else { Err(Code::WorkExpired.into()) }
    }
}

fn short(subject: Digest) -> Subject {
    let mut short = [0; 12];
    short.iter_mut().zip(subject.as_bytes()).for_each(|(to, from)| *to = *from);
    short
}

/// Challenge id and subject in a token id of work.
fn split(id: &L402Id) -> Option<([u8; 16], Subject)> {
    let (challenge, rest) = id.token_id.split_first_chunk()?;
    let (subject, mark) = rest.split_first_chunk()?;
    (mark == MARK).then_some((*challenge, *subject))
}

/// The root key follows from the identifier: nothing is stored.
fn root_key(id: &L402Id, key: &Key) -> [u8; 32] {
    key.derive("macaroon", &id.encode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pow::Solution;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn key() -> Key {
        Key::of(&[7; 32])
    }

    /// Not SHA-1: what a stamp is worth is tested where there is one.
    fn no_sha1(_: &[u8]) -> [u8; 20] {
        [0xff; 20]
    }

    fn challenge() -> Challenge {
        Challenge {
            id: [1; 16],
            expires_at: NOW.plus_ms(60_000),
            difficulty: 300,
            call: Digest::of(b"call"),
            subject: Digest::of(b"subject"),
        }
    }

    fn solve(text: &str, is_good: bool) -> String {
        let challenge = Challenge::open(text, &key()).unwrap();
        let solves = |n: &u32| {
            let solution = Solution::Counter(n.to_string());
            challenge.is_solved_by(text, &solution, &key(), no_sha1) == is_good
        };
        (0..100_000u32).find(solves).unwrap().to_string()
    }

    fn verify(text: &str, solution: &str) -> Result<VerifiedWork, Code> {
        let presented = Presented::of(text, solution).unwrap();
        VerifiedWork::verify(&presented, &key(), no_sha1).map_err(|refusal| refusal.code())
    }

    fn worked() -> VerifiedWork {
        let text = challenge().seal(&key());
        verify(&text, &solve(&text, true)).unwrap()
    }

    #[test]
    fn what_is_below_its_target_edited_or_sealed_by_somebody_else_is_refused() {
        let text = challenge().seal(&key());
        let good = solve(&text, true);
        assert_eq!(verify(&text, &solve(&text, false)).err(), Some(Code::WorkTooLittle));
        let pre_mined = challenge().seal(&Key::of(&[8; 32]));
        assert_eq!(verify(&pre_mined, &good).err(), Some(Code::WorkForeign));
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            assert_eq!(verify(&edited, &good).err(), Some(Code::WorkForeign), "{at}");
        }
        assert_eq!(verify(&format!("{text}="), &good).err(), Some(Code::WorkForeign));
    }

    #[test]
    fn it_is_good_for_its_call_its_subject_and_its_time() {
        let (work, call, subject) = (worked(), Digest::of(b"call"), Digest::of(b"subject"));
        assert!(work.fits(call, subject).is_ok());
        let code = |result: Result<(), Refusal>| result.map_err(|refusal| refusal.code());
        assert_eq!(code(work.fits(Digest::of(b"x"), subject)), Err(Code::PaymentOtherCall));
        assert_eq!(code(work.fits(call, Digest::of(b"x"))), Err(Code::WorkSubject));
        assert_eq!(code(work.is_fresh(NOW)), Ok(()));
        assert_eq!(code(work.is_fresh(work.expires_at())), Err(Code::WorkExpired));
        assert_eq!(code(work.is_fresh(NOW.minus_ms(61_000))), Err(Code::WorkExpired));
    }

    #[test]
    fn its_macaroon_is_the_same_work_and_nothing_else() {
        let work = worked();
        let (macaroon, preimage) = work.macaroon(&key());
        let credential = |macaroon: &Macaroon, preimage| Credential {
            id: L402Id::parse(macaroon.identifier()).unwrap(),
            macaroon_bytes: macaroon.encode(),
            macaroon: macaroon.clone(),
            preimage,
        };
        let read = |credential: &Credential| {
            VerifiedWork::of_credential(credential, &key()).map_err(|refusal| refusal.code())
        };
        let own = credential(&macaroon, preimage);
        assert!(VerifiedWork::is_credential(&own));
        let again = read(&own).unwrap();
        assert_eq!((again.key(), again.call), (work.key(), work.call));
        assert!(again.fits(Digest::of(b"call"), Digest::of(b"subject")).is_ok());
        assert_eq!(read(&credential(&macaroon, [0; 32])).err(), Some(Code::PreimageMismatch));
        let mut other = own.clone();
        other.id.token_id[0] ^= 1;
        assert_eq!(read(&other).err(), Some(Code::CredentialInvalid));
        for (caveat, code) in [
            ("tool=x", Code::CaveatUnknown),
            ("unheard=of", Code::CaveatUnknown),
            ("call=00", Code::CaveatUnknown),
        ] {
            let narrowed = macaroon.clone().attenuate(caveat.as_bytes());
            assert_eq!(read(&credential(&narrowed, preimage)).err(), Some(code), "{caveat}");
        }
        let sooner = macaroon.attenuate(b"valid_until=1");
        let sooner = read(&credential(&sooner, preimage)).unwrap();
        assert!(sooner.is_fresh(NOW).is_err());
    }
}
