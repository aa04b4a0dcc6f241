//! The portable copy of a grant: a compact JWS (RFC 7515) of type `consent-grant+jwt` under the
//! log's Ed25519 key (RFC 8037). The row in the store stays authoritative.
//!
//! INVARIANT: its type tells it apart from a call's receipt, which the same key signs.

use super::form::GrantView;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use countersign_core::{
    audit::checkpoint::{SignerKey, VerifierKey},
    grant::Grant,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, sync::Arc};

/// The `typ` of its header.
pub const TYPE: &str = "consent-grant+jwt";
/// The longest receipt that is looked at.
const MAX_BYTES: usize = 64 * 1024;

/// The whole header: any further member is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantReceipt {
    /// The gateway: its log's origin.
    pub iss: Arc<str>,
    /// When it was signed, in seconds since the epoch.
    pub iat: u64,
    /// From when the grant holds.
    pub nbf: u64,
    /// Until when.
    pub exp: u64,
    /// The grant.
    pub jti: String,
    /// For whom the agent acts: the delegator's `iss` and `sub`.
    pub sub_id: Value,
    /// What was agreed.
    pub grant: GrantView,
}

/// Why a text is no receipt of a grant by this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAGrantReceipt {
    /// Not a compact JWS of this type.
    Malformed,
    /// Signed by another key.
    OtherKey,
    /// The signature is wrong.
    BadSignature,
}

impl fmt::Display for NotAGrantReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a signed copy of a grant",
            Self::OtherKey => "the copy is signed by another key",
            Self::BadSignature => "the copy's signature is wrong",
        })
    }
}

impl std::error::Error for NotAGrantReceipt {}

/// Signs a grant as it is at `now`.
///
/// # Errors
/// `InternalFault`: the key has no usable form.
pub(super) fn sign(grant: &Grant, key: &SignerKey, now: UnixMs) -> Result<String, Refusal> {
    let terms = &grant.terms;
    let receipt = GrantReceipt {
        iss: key.verifier().name().into(),
        iat: now.seconds(),
        nbf: terms.not_before.seconds(),
        exp: terms.expires_at.seconds(),
        jti: grant.id.to_string(),
        sub_id: serde_json::json!({
            "format": "iss_sub", "iss": &*terms.issuer, "sub": &*terms.subject,
        }),
        grant: GrantView::of(grant, now),
    };
    let header =
        Header { alg: "EdDSA".to_owned(), kid: key.verifier().kid(), typ: TYPE.to_owned() };
    let fault = |_| Refusal::new(Code::InternalFault);
    let header = serde_json::to_vec(&header).map_err(fault)?;
    let payload = serde_json::to_vec(&receipt).map_err(fault)?;
    let signing = signing_key(key).ok_or(Code::InternalFault)?;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = signing.sign(signed.as_bytes()).to_bytes();
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The key that a signer's text holds: `…+base64(0x01 ‖ seed)`.
fn signing_key(key: &SignerKey) -> Option<SigningKey> {
    let text = key.to_secret_string();
    let bytes = STANDARD.decode(text.splitn(5, '+').nth(4)?).ok()?;
    let (_algorithm, seed) = bytes.split_first()?;
    Some(SigningKey::from_bytes(seed.try_into().ok()?))
}

/// Reads a copy that `key` signed. Algorithm, type and key are pinned.
///
/// # Errors
/// See [`NotAGrantReceipt`].
pub fn verify(token: &str, key: &VerifierKey) -> Result<GrantReceipt, NotAGrantReceipt> {
    let malformed = NotAGrantReceipt::Malformed;
    if token.len() > MAX_BYTES {
        return Err(malformed);
    }
    let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
    let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(malformed)?;
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
    if header.alg != "EdDSA" || header.typ != TYPE {
        return Err(malformed);
    }
    if header.kid != key.kid() {
        return Err(NotAGrantReceipt::OtherKey);
    }
    let public = VerifyingKey::from_bytes(key.public()).map_err(|_| malformed)?;
    let signature = Signature::from_slice(&decode(signature)?).map_err(|_| malformed)?;
    public
        .verify_strict(signed.as_bytes(), &signature)
        .map_err(|_| NotAGrantReceipt::BadSignature)?;
    serde_json::from_slice(&decode(payload)?).map_err(|_| malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{
        digest::Digest,
        grant::{Agreed, Bounds, GrantStatus, GrantTerms, WindowLimit},
        ids::GrantId,
        money::Micros,
        policy::Intent,
    };

    fn key(seed: u8) -> SignerKey {
        SignerKey::from_seed("gateway.example/log", &[seed; 32]).unwrap()
    }

    fn grant() -> Grant {
        Grant {
            id: GrantId::from_bytes([1; 16]),
            version: 1,
            status: GrantStatus::Active,
            terms: GrantTerms {
                tenant: "default".into(),
                issuer: "https://issuer.example".into(),
                subject: "ada".into(),
                agent: "planner".into(),
                server: "weather".into(),
                tools: vec!["get_forecast".into()],
                intents: vec![Intent::Read],
                per_call: Micros(50_000),
                windows: vec![WindowLimit { length_ms: 86_400_000, limit: Micros(1_000_000) }],
                total: None,
                max_calls: Some(20),
                purpose: "trip".into(),
                bounds: Bounds::default(),
                not_before: UnixMs(1_798_000_000_000),
                expires_at: UnixMs(1_798_086_400_000),
            },
            approved_by: "os:1000:ada".into(),
            approved_at: UnixMs(1_798_000_000_000),
            brought: None,
            agreed: Some(Agreed {
                m: 1,
                eligible: Vec::new(),
                got: vec!["os:1000:ada".to_owned()],
                shown: Digest::of(b"shown"),
                definitions: [("get_forecast".into(), Digest::of(b"definition"))].into(),
            }),
            used: Micros(0),
            calls: 0,
        }
    }

    #[test]
    fn a_copy_verifies_with_the_public_key_alone() {
        for seed in 0..40 {
            let token = sign(&grant(), &key(seed), UnixMs(1_798_000_000_000)).unwrap();
            let read = verify(&token, key(seed).verifier()).unwrap();
            assert_eq!(read.grant.windows, ["1 USD/24h"]);
            assert_eq!((read.exp - read.nbf, &*read.iss), (86_400, "gateway.example/log"));
        }
    }

    #[test]
    fn other_keys_types_and_bits_are_noticed() {
        let token = sign(&grant(), &key(7), UnixMs(1_798_000_000_000)).unwrap();
        let foreign = verify(&token, key(8).verifier());
        assert_eq!(foreign, Err(NotAGrantReceipt::OtherKey));
        assert!(
            countersign_core::audit::receipt::Receipt::verify(&token, key(7).verifier()).is_err(),
            "a grant's copy is no call's receipt"
        );
        for at in (0..token.len()).step_by(7) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(&changed, key(7).verifier()).is_err(), "{at}");
        }
    }
}
