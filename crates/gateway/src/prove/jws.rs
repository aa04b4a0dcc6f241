//! What people sign with keys of their own: a compact JWS (RFC 7515) under EdDSA or ES256.
//!
//! INVARIANT: the header has `alg`, `kid` and `typ` and nothing else; the key decides the
//! algorithm and the header must name it; what is signed is judged only after the signature.

use crate::admin::form::Jwk;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::wire::json::{self, Limits};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The longest one that is looked at, in bytes.
const BYTES_MAX: usize = 16 << 10;

/// Why a text is not what somebody signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSigned {
    /// Not a compact JWS with the wanted header.
    Form,
    /// Of another type.
    Type,
    /// The header names another algorithm than the key's.
    Algorithm,
    /// The signature is wrong.
    Signature,
    /// The payload is not JSON of the wanted form: an unknown member, one twice, one missing.
    Payload,
}

impl fmt::Display for NotSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "not a compact JWS whose header has `alg`, `kid` and `typ` alone",
            Self::Type => "`typ` is not the one that is wanted here",
            Self::Algorithm => "`alg` is not the key's",
            Self::Signature => "the signature is wrong",
            Self::Payload => "a member of the payload is unknown, missing, double or malformed",
        })
    }
}

/// The whole header: any further member is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// Something that nobody has verified yet.
pub(crate) struct Unverified<'a> {
    header: Header,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes one apart.
    pub(crate) fn parse(text: &'a str, typ: &str) -> Result<Self, NotSigned> {
        if text.len() > BYTES_MAX {
            return Err(NotSigned::Form);
        }
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| NotSigned::Form);
        let (signed, signature) = text.rsplit_once('.').ok_or(NotSigned::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(NotSigned::Form)?;
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| NotSigned::Form)?;
        if header.typ != typ {
            return Err(NotSigned::Type);
        }
        Ok(Self { header, signed, payload: decode(payload)?, signature: decode(signature)? })
    }

    /// Which key it says signed it.
    pub(crate) fn kid(&self) -> &str {
        &self.header.kid
    }

    /// What is signed: the same for every signature of it.
    pub(crate) const fn signed(&self) -> &'a str {
        self.signed
    }

    /// What it says, once the signature is known to be the key's.
    pub(crate) fn verify<T: DeserializeOwned>(&self, key: &PublicKey) -> Result<T, NotSigned> {
        if self.header.alg != key.algorithm() {
            return Err(NotSigned::Algorithm);
        }
        key.verify(self.signed.as_bytes(), &self.signature)?;
        json::check(&self.payload, &Limits::REQUEST).map_err(|_| NotSigned::Payload)?;
        serde_json::from_slice(&self.payload).map_err(|_| NotSigned::Payload)
    }
}

/// A key that a person signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Ed25519.
    Ed25519([u8; 32]),
    /// P-256: an uncompressed point.
    P256([u8; 65]),
}

impl PublicKey {
    /// The key of a JWK.
    pub(crate) fn from_jwk(jwk: &str) -> Option<Self> {
        Self::of(serde_json::from_str(jwk).ok()?)
    }

    /// The same of one that was read.
    pub(crate) fn of(jwk: Jwk) -> Option<Self> {
        let Jwk { kty, crv, x, y, alg, purpose, kid: _ } = jwk;
        let coordinate =
            |text: &str| -> Option<[u8; 32]> { URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok() };
        let key = match (&*kty, &*crv, y) {
            ("OKP", "Ed25519", None) => Self::Ed25519(coordinate(&x)?),
            ("EC", "P-256", Some(y)) => {
                let mut point = [4; 65];
                let (_, rest) = point.split_at_mut(1);
                rest.copy_from_slice(&[coordinate(&x)?, coordinate(&y)?].concat());
                Self::P256(point)
            }
            _ => return None,
        };
        let fits = alg.is_none_or(|alg| alg == key.algorithm())
            && purpose.is_none_or(|purpose| purpose == "sig");
        fits.then_some(key)
    }

    /// Its JWK, members in the order of RFC 7638.
    pub(crate) fn jwk(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ed25519(x) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x)),
            Self::P256(point) => {
                let (x, y) = point.split_at(1).1.split_at(32);
                let (x, y) = (text(x), text(y));
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        }
    }

    /// Its thumbprint (RFC 7638, SHA-256).
    pub(crate) fn thumbprint(&self) -> String {
        sha256(self.jwk().as_bytes())
    }

    /// Its name as an `iss` (RFC 9278).
    pub(crate) fn uri(&self) -> String {
        format!("urn:ietf:params:oauth:jwk-thumbprint:sha-256:{}", self.thumbprint())
    }

    const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
        }
    }

    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), NotSigned> {
        let verified = match self {
            Self::Ed25519(x) => UnparsedPublicKey::new(&ED25519, x).verify(signed, signature),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
        };
        verified.map_err(|_| NotSigned::Signature)
    }
}

/// SHA-256 as base64url, as RFC 7638 and RFC 9901 write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use serde_json::{Value, json};

    /// Signs as a person would.
    pub(crate) fn sign(seed: u8, header: &Value, payload: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = SigningKey::from_bytes(&[seed; 32]).sign(signed.as_bytes()).to_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public half.
    pub(crate) fn key(seed: u8) -> PublicKey {
        PublicKey::Ed25519(SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes())
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Said {
        a: u8,
    }

    fn read(text: &str, seed: u8) -> Result<Said, NotSigned> {
        Unverified::parse(text, "test+jwt")?.verify(&key(seed))
    }

    #[test]
    fn only_what_the_key_signed_is_read() {
        let header = json!({"alg": "EdDSA", "kid": "k", "typ": "test+jwt"});
        let good = sign(7, &header, &json!({"a": 1}));
        assert_eq!(read(&good, 7), Ok(Said { a: 1 }));
        assert_eq!(read(&good, 8), Err(NotSigned::Signature));
        for at in (0..good.len()).step_by(5) {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(read(&String::from_utf8(bytes).unwrap(), 7).is_err(), "{at}");
        }
        for (member, value) in [("alg", "none"), ("alg", "ES256"), ("alg", "Ed25519")] {
            let mut other = header.clone();
            other[member] = json!(value);
            assert_eq!(read(&sign(7, &other, &json!({"a": 1})), 7), Err(NotSigned::Algorithm));
        }
        for member in ["crit", "jwk", "b64", "x5c", "jku"] {
            let mut other = header.clone();
            other[member] = json!([]);
            assert_eq!(read(&sign(7, &other, &json!({"a": 1})), 7), Err(NotSigned::Form));
        }
        let other = json!({"alg": "EdDSA", "kid": "k", "typ": "at+jwt"});
        assert_eq!(read(&sign(7, &other, &json!({"a": 1})), 7), Err(NotSigned::Type));
        let more = sign(7, &header, &json!({"a": 1, "b": 2}));
        assert_eq!(read(&more, 7), Err(NotSigned::Payload));
    }

    /// RFC 7638, section 3.1, is RSA; the Ed25519 one is RFC 8037, appendix A.3.
    #[test]
    fn thumbprints() {
        let jwk =
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let key = PublicKey::from_jwk(jwk).unwrap();
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(PublicKey::from_jwk(&key.jwk()), Some(key));
    }

    #[test]
    fn only_public_keys_of_two_kinds() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let refused = [
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","d":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","alg":"ES256"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","use":"enc"}}"#),
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}"}}"#),
            r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned(),
            r#"{"kty":"oct","k":"AAAA"}"#.to_owned(),
        ];
        for jwk in refused {
            assert_eq!(PublicKey::from_jwk(&jwk), None, "{jwk}");
        }
    }
}
