//! Request states (2026-07-28, `input_required`): what a client brings back after its user was
//! shown where to approve.
//!
//! INVARIANT: a state is sealed (ChaCha20-Poly1305), bound to principal and call digest, ends with
//! its approval and counts once. It proves nothing but that we asked: the approval alone counts.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{digest::Digest, ids::ApprovalId};
use std::fmt;

/// What our states begin with; a server's own pass through.
const PREFIX: &str = "countersign1.";

/// Seals and opens states.
pub struct StateKey(LessSafeKey);

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey")
    }
}

impl StateKey {
    /// The key of a deployment, from a secret of its own.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Option<Self> {
        let key = Digest::of_parts(&[b"countersign request state", secret]);
        UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes()).ok().map(LessSafeKey::new).map(Self)
    }

    /// A state for whoever asks: opaque text.
    #[must_use]
    pub fn seal(
        &self,
        approval: ApprovalId,
        (principal, call): (Digest, Digest),
        nonce: [u8; 12],
    ) -> Option<String> {
        let mut sealed = approval.as_bytes().to_vec();
        let bound = Aad::from(bound(principal, call));
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(nonce_value, bound, &mut sealed).ok()?;
        let bytes = [nonce.as_slice(), &sealed].concat();
        Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The approval of a state that we sealed for this principal and call.
    #[must_use]
    pub fn open(&self, state: &str, (principal, call): (Digest, Digest)) -> Option<ApprovalId> {
        let bytes = URL_SAFE_NO_PAD.decode(state.strip_prefix(PREFIX)?).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<12>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let bound = Aad::from(bound(principal, call));
        let opened = self.0.open_in_place(nonce, bound, &mut sealed).ok()?;
        (&*opened).try_into().ok().map(ApprovalId::from_bytes)
    }
}

/// Whether a state is one of ours.
#[must_use]
pub fn is_ours(state: &str) -> bool {
    state.starts_with(PREFIX)
}

fn bound(principal: Digest, call: Digest) -> [u8; 32] {
    *Digest::of_parts(&[b"tools/call", principal.as_bytes(), call.as_bytes()]).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_opens_for_its_principal_and_call_alone() {
        let key = StateKey::of(&[7; 32]).unwrap();
        let (id, alice, bob) =
            (ApprovalId::from_bytes([1; 16]), Digest::of(b"a"), Digest::of(b"b"));
        let call = Digest::of(b"call");
        let state = key.seal(id, (alice, call), [9; 12]).unwrap();
        assert!(is_ours(&state));
        assert_eq!(key.open(&state, (alice, call)), Some(id));
        assert_eq!(key.open(&state, (bob, call)), None);
        assert_eq!(key.open(&state, (alice, Digest::of(b"other"))), None);
        assert_eq!(StateKey::of(&[8; 32]).unwrap().open(&state, (alice, call)), None);
        for at in (PREFIX.len()..state.len()).step_by(3) {
            let mut bytes = state.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.open(&String::from_utf8(bytes).unwrap(), (alice, call)), None, "{at}");
        }
    }
}
