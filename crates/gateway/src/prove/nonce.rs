//! Nonces that we gave out: to whom and for what is under our HMAC, so that nothing is kept.
//!
//! INVARIANT: a nonce is good for what it was made for, for [`Nonces::LIFE_MS`]. That it counts
//! once is up to whoever takes it, who keeps what it was taken for.

use aws_lc_rs::hmac;
use countersign_core::{digest::Digest, time::UnixMs};
use std::fmt;

/// Makes and checks them.
#[derive(Clone)]
pub struct Nonces(hmac::Key);

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces")
    }
}

/// Bytes of the moment, and of randomness, before the tag.
const HEAD: usize = 16;
/// Bytes of the tag.
const TAG: usize = 16;

impl Nonces {
    /// How long one is good: ten minutes, in milliseconds.
    pub const LIFE_MS: u64 = 600_000;

    /// Those of a deployment, from a secret of its own.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        let key = Digest::of_parts(&[b"countersign nonces", secret]);
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))
    }

    /// A fresh one: hexadecimal digits.
    #[must_use]
    pub fn fresh(&self, about: Digest, now: UnixMs, random: [u8; 8]) -> String {
        let head = [now.0.to_be_bytes(), random].concat();
        let tag = self.tag(about, &head);
        hex::encode([head.as_slice(), tag.as_ref().get(..TAG).unwrap_or_default()].concat())
    }

    /// When one was made, by its own word.
    pub(crate) fn made(nonce: &str) -> Option<UnixMs> {
        let bytes = hex::decode(nonce).ok()?;
        bytes.first_chunk().map(|ms| UnixMs(u64::from_be_bytes(*ms)))
    }

    /// Whether it is one of ours about this, and not too old.
    #[must_use]
    pub fn is_good(&self, nonce: &str, about: Digest, now: UnixMs) -> bool {
        let Ok(bytes) = hex::decode(nonce) else { return false };
        let Some((head, tag)) = bytes.split_at_checked(HEAD) else { return false };
        let expected = self.tag(about, head);
        let is_ours: bool =
            subtle::ConstantTimeEq::ct_eq(expected.as_ref().get(..TAG).unwrap_or_default(), tag)
                .into();
        is_ours && Self::made(nonce).is_some_and(|made| now.since_ms(made) < Self::LIFE_MS)
    }

    fn tag(&self, about: Digest, head: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, &[about.as_bytes().as_slice(), head].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_for_one_thing_and_a_while() {
        let (nonces, about) = (Nonces::of(&[1; 32]), Digest::of(b"alice"));
        let nonce = nonces.fresh(about, UnixMs(1_000), [9; 8]);
        assert!(nonces.is_good(&nonce, about, UnixMs(1_000)));
        assert!(nonces.is_good(&nonce, about, UnixMs(1_000 + Nonces::LIFE_MS - 1)));
        assert!(!nonces.is_good(&nonce, about, UnixMs(1_000 + Nonces::LIFE_MS)));
        assert!(!nonces.is_good(&nonce, Digest::of(b"bob"), UnixMs(1_000)));
        assert!(!Nonces::of(&[2; 32]).is_good(&nonce, about, UnixMs(1_000)));
        for at in 0..nonce.len() {
            let mut bytes = nonce.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(bytes).unwrap();
            assert!(!nonces.is_good(&other, about, UnixMs(1_000)), "{at}");
        }
        let (head, _) = nonce.split_at(32);
        for other in ["", "00", "zz", head] {
            assert!(!nonces.is_good(other, about, UnixMs(1_000)));
        }
    }
}
