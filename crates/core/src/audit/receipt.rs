//! The receipt that travels with a result in `_meta["countersign/receipt"]`: a compact JWS
//! (RFC 7515) under the log's Ed25519 key (RFC 8037).
//!
//! One key signs checkpoints and receipts. Neither can be taken for the other: a checkpoint's
//! text ends in a newline, and a JWS signing input holds none.

use super::{checkpoint::VerifierKey, record::micros_text};
use crate::{
    digest::Digest,
    ids::{CallId, DecisionId, GrantId, QuoteId},
    money::{Amount, Micros},
    time::UnixMs,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The member of a result's `_meta` that holds the receipt.
pub const RECEIPT_META: &str = "countersign/receipt";
/// The version of the receipt's form.
pub const RECEIPT_VERSION: u64 = 1;
/// The `typ` of the header (RFC 8725 §3.11).
const TYPE: &str = "receipt+jwt";
/// The `alg` of the header (RFC 8037 §3.1).
const ALGORITHM: &str = "EdDSA";
/// The longest receipt that is looked at.
const MAX_RECEIPT_BYTES: usize = 8 * 1024;

/// Where the money of the call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// Charged.
    Captured,
    /// Not charged; the hold was given back.
    Released,
    /// Charged on the rail, and owed back.
    RefundDue,
    /// Charged on the rail, and given back.
    Refunded,
}

/// Where the call's evidence lies in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPosition {
    /// The log: its origin, which is the name of its key.
    pub origin: String,
    /// Index of the call's `ledger.impact` record.
    pub index: u64,
    /// Hash of that leaf.
    pub leaf: Digest,
    /// Leaves under the last checkpoint that the signer had published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What a call cost and where the proof is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`RECEIPT_VERSION`].
    pub v: u64,
    /// The call.
    pub call: CallId,
    /// Its digest.
    pub call_digest: Digest,
    /// The quote that was accepted.
    pub quote: QuoteId,
    /// The policy evaluation that allowed it.
    pub decision: DecisionId,
    /// The human's consent, where one was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// The rail that was paid on.
    pub rail: String,
    /// What was charged, in the asset's minor units.
    pub amount: Amount,
    /// The same in reference micros, as decimal text.
    #[serde(with = "micros_text")]
    pub micros: Micros,
    /// The rail's reference of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_ref: Option<String>,
    /// SHA-256 of the result, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_digest: Option<Digest>,
    /// Where the evidence lies.
    pub log: LogPosition,
    /// When it was signed, in milliseconds since the epoch.
    pub time: UnixMs,
    /// Where the money stands.
    pub state: ReceiptState,
}

/// Why a text is not a receipt of the expected log, or cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptError {
    /// Longer than is looked at.
    TooLong,
    /// Not a compact JWS.
    Malformed,
    /// The header has other members, another type or another algorithm.
    Header,
    /// Signed by another key.
    OtherKey,
    /// The signature is wrong.
    BadSignature,
    /// Signed, but not of a receipt's form.
    NotAReceipt,
    /// Signed, but of another version.
    Version,
    /// The receipt points into another log than its key's.
    OtherOrigin,
}

impl fmt::Display for ReceiptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the receipt is too long",
            Self::Malformed => "not a compact signed token",
            Self::Header => "the header is not that of a receipt",
            Self::OtherKey => "the receipt is signed by another key",
            Self::BadSignature => "the receipt's signature is wrong",
            Self::NotAReceipt => "the signed content is not a receipt",
            Self::Version => "the receipt is of an unknown version",
            Self::OtherOrigin => "the receipt is of another log",
        })
    }
}

impl std::error::Error for ReceiptError {}

/// The whole header: any further member, `crit` included, is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl Receipt {
    /// The receipt as a compact JWS, its `kid` being [`VerifierKey::kid`]. `signature` makes
    /// the key's Ed25519 signature of a text.
    ///
    /// # Errors
    /// [`ReceiptError::OtherOrigin`] unless the key is named as the log's origin;
    /// [`ReceiptError::TooLong`].
    pub fn sign(
        &self,
        key: &VerifierKey,
        signature: impl FnOnce(&[u8]) -> [u8; 64],
    ) -> Result<String, ReceiptError> {
        if self.log.origin != key.name() {
            return Err(ReceiptError::OtherOrigin);
        }
        let header = Header { alg: ALGORITHM.to_owned(), kid: key.kid(), typ: TYPE.to_owned() };
        let header = serde_json::to_vec(&header).map_err(|_| ReceiptError::Malformed)?;
        let payload = serde_json::to_vec(self).map_err(|_| ReceiptError::Malformed)?;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(&header), encode(&payload));
        let token = format!("{signed}.{}", encode(&signature(signed.as_bytes())));
        if token.len() > MAX_RECEIPT_BYTES { Err(ReceiptError::TooLong) } else { Ok(token) }
    }

    /// Reads a receipt of the log that `key` belongs to. Algorithm, type and key are pinned.
    ///
    /// # Errors
    /// Any [`ReceiptError`].
    pub fn verify(token: &str, key: &VerifierKey) -> Result<Self, ReceiptError> {
        if token.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::TooLong);
        }
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| ReceiptError::Malformed);
        let (signed, signature) = token.rsplit_once('.').ok_or(ReceiptError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(ReceiptError::Malformed)?;
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| ReceiptError::Header)?;
        if header.alg != ALGORITHM || header.typ != TYPE {
            return Err(ReceiptError::Header);
        }
        if header.kid != key.kid() {
            return Err(ReceiptError::OtherKey);
        }
        if !key.accepts(signed.as_bytes(), &signature) {
            return Err(ReceiptError::BadSignature);
        }
        let receipt: Self =
            serde_json::from_slice(&payload).map_err(|_| ReceiptError::NotAReceipt)?;
        if receipt.v != RECEIPT_VERSION {
            return Err(ReceiptError::Version);
        }
        let own = receipt.log.origin == key.name();
        if own { Ok(receipt) } else { Err(ReceiptError::OtherOrigin) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::checkpoint::SignerKey, *};
    use proptest::prelude::*;

    fn key() -> SignerKey {
        SignerKey::from_seed("log.example/a", &[7; 32]).unwrap()
    }

    pub(in crate::audit) fn receipt(origin: &str) -> Receipt {
        Receipt {
            v: RECEIPT_VERSION,
            call: CallId::from_bytes([1; 16]),
            call_digest: Digest::of(b"call"),
            quote: QuoteId::from_bytes([2; 16]),
            decision: DecisionId::from_bytes([3; 16]),
            grant: Some(GrantId::from_bytes([4; 16])),
            rail: "x402".into(),
            amount: Amount { asset: "USDC".into(), minor: 10_000 },
            micros: Micros(u64::MAX),
            payment_ref: Some("0xabc".into()),
            result_digest: Some(Digest::of(b"result")),
            log: LogPosition {
                origin: origin.into(),
                index: 5,
                leaf: Digest::of(b"leaf"),
                size: Some(3),
            },
            time: UnixMs(1_790_000_000_123),
            state: ReceiptState::Captured,
        }
    }

    /// A token over any header and payload, rightly signed.
    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(header), encode(payload));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key().sign(signed.as_bytes())))
    }

    pub(in crate::audit) fn sign(
        receipt: &Receipt,
        key: &SignerKey,
    ) -> Result<String, ReceiptError> {
        receipt.sign(key.verifier(), |text| key.sign(text))
    }

    fn verify(token: &str) -> Result<Receipt, ReceiptError> {
        Receipt::verify(token, key().verifier())
    }

    #[test]
    fn a_receipt_round_trips() {
        let full = receipt("log.example/a");
        assert_eq!(verify(&sign(&full, &key()).unwrap()), Ok(full.clone()));
        let mut bare = full;
        (bare.grant, bare.payment_ref, bare.result_digest, bare.log.size) =
            (None, None, None, None);
        bare.state = ReceiptState::Released;
        let token = sign(&bare, &key()).unwrap();
        assert_eq!(verify(&token), Ok(bare));
        assert!(token.starts_with("eyJhbGciOiJFZERTQSIs"), "a common JOSE header");
    }

    #[test]
    fn only_the_one_header_passes() {
        let payload = serde_json::to_string(&receipt("log.example/a")).unwrap();
        let kid = key().verifier().kid();
        let good = format!(r#"{{"typ":"receipt+jwt","alg":"EdDSA","kid":"{kid}"}}"#);
        assert!(verify(&token(&good, &payload)).is_ok());
        let bad = |from: &str, to: &str| {
            assert!(good.contains(from));
            verify(&token(&good.replacen(from, to, 1), &payload)).err()
        };
        for alg in ["none", "nOnE", "HS256", "ES256", "eddsa", "Ed25519", ""] {
            assert_eq!(bad("EdDSA", alg), Some(ReceiptError::Header), "{alg}");
        }
        for typ in ["JWT", "Receipt+JWT", "application/receipt+jwt", "at+jwt", ""] {
            assert_eq!(bad("receipt+jwt", typ), Some(ReceiptError::Header), "{typ}");
        }
        for more in [
            r#"{"crit":["b64"],"#,
            r#"{"b64":false,"#,
            r#"{"jwk":{},"#,
            r#"{"alg":"none","#,
            r#"{"cty":"x","#,
        ] {
            assert_eq!(bad("{", more), Some(ReceiptError::Header), "{more}");
        }
        assert_eq!(bad(r#""typ":"receipt+jwt","#, ""), Some(ReceiptError::Header));
        assert_eq!(bad(&kid, "log.example/a"), Some(ReceiptError::OtherKey));
        assert_eq!(bad(&kid, "../../key"), Some(ReceiptError::OtherKey));
    }

    #[test]
    fn only_the_one_payload_passes() {
        let header =
            format!(r#"{{"typ":"receipt+jwt","alg":"EdDSA","kid":"{}"}}"#, key().verifier().kid());
        let good = serde_json::to_string(&receipt("log.example/a")).unwrap();
        let bad = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            verify(&token(&header, &good.replacen(from, to, 1))).err()
        };
        assert_eq!(bad(r#""v":1"#, r#""v":2"#), Some(ReceiptError::Version));
        assert_eq!(bad(r#""v":1"#, r#""v":1,"w":1"#), Some(ReceiptError::NotAReceipt));
        assert_eq!(bad(r#""v":1"#, r#""v":1,"v":1"#), Some(ReceiptError::NotAReceipt));
        assert_eq!(bad("captured", "paid"), Some(ReceiptError::NotAReceipt));
        assert_eq!(bad("log.example/a", "log.example/b"), Some(ReceiptError::OtherOrigin));
        assert_eq!(bad(r#""minor":"10000""#, r#""minor":10000"#), Some(ReceiptError::NotAReceipt));
        let foreign = sign(&receipt("log.example/b"), &key());
        assert_eq!(foreign, Err(ReceiptError::OtherOrigin));
    }

    #[test]
    fn other_encodings_and_keys_are_refused() {
        let good = sign(&receipt("log.example/a"), &key()).unwrap();
        let signed = good.rsplit_once('.').unwrap().0;
        for bad in [
            String::new(),
            "..".into(),
            format!("{good}="),
            format!("{good}.x"),
            format!(" {good}"),
            format!("{good}\n"),
            signed.to_owned(),
            good.replace('.', ""),
            format!(".{good}"),
        ] {
            let refused = verify(&bad).unwrap_err();
            assert!(matches!(refused, ReceiptError::Malformed | ReceiptError::Header), "{bad}");
        }
        assert_eq!(verify(&format!("{signed}.")), Err(ReceiptError::BadSignature));
        assert_eq!(verify(&"x".repeat(9000)), Err(ReceiptError::TooLong));
        let other = SignerKey::from_seed("log.example/a", &[8; 32]).unwrap();
        let foreign = sign(&receipt("log.example/a"), &other).unwrap();
        assert_eq!(verify(&foreign), Err(ReceiptError::OtherKey));
        let mut long = receipt("log.example/a");
        long.rail = "x".repeat(9000);
        assert_eq!(sign(&long, &key()), Err(ReceiptError::TooLong));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = sign(&receipt("log.example/a"), &key()).unwrap();
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(verify(&text).is_err(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn anything_else_is_refused_without_a_panic(token in "[a-zA-Z0-9_.-]{0,200}") {
            prop_assert!(verify(&token).is_err());
        }
    }
}
