//! An issuer's public keys (RFC 7517), and signatures under them.
//!
//! INVARIANT: a key verifies one algorithm, which the key decides and the token must name.
//! INVARIANT: symmetric keys, and keys published with their private part, verify nothing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{
    digest::Digest,
    proof::{Algorithm, Header, TokenError},
};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::Value;

/// The most keys looked at.
const MAX_KEYS: usize = 64;
/// Members that only a private or symmetric key has.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The usable keys of one JWKS document.
pub(super) struct KeySet {
    keys: Vec<Key>,
    fingerprint: Digest,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    public: DecodingKey,
}

impl KeySet {
    /// Parses a JWKS document. A key that cannot be used is left out. A document may well have no
    /// key left: the issuer has withdrawn them all.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let Document { keys } = serde_json::from_slice(document).ok()?;
        if keys.len() > MAX_KEYS {
            return None;
        }
        let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
        Some(Self { keys, fingerprint: Digest::of(document) })
    }

    /// Equal for equal documents.
    pub(super) const fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// How many keys there are.
    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key has this id, whatever its algorithm: if not, newer keys could help.
    pub(super) fn knows(&self, header: &Header) -> bool {
        header.key_id.is_none()
            || self.keys.iter().any(|key| key.id.as_deref() == header.key_id.as_deref())
    }

    /// Verifies a signature with the one key that fits. None, or two, verify nothing.
    pub(super) fn verify(
        &self,
        header: &Header,
        signing_input: &str,
        signature: &[u8],
    ) -> Result<(), TokenError> {
        let fits = |key: &&Key| {
            key.algorithm == header.algorithm
                && (header.key_id.is_none() || key.id.as_deref() == header.key_id.as_deref())
        };
        let mut fitting = self.keys.iter().filter(fits);
        let (Some(key), None) = (fitting.next(), fitting.next()) else {
            return Err(TokenError::UnknownKey);
        };
        let is_good = jsonwebtoken::crypto::verify(
            &URL_SAFE_NO_PAD.encode(signature),
            signing_input.as_bytes(),
            &key.public,
            jwa(key.algorithm),
        );
        match is_good {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }
}

impl Key {
    fn parse(jwk: &Value) -> Option<Self> {
        let members = jwk.as_object()?;
        if PRIVATE_MEMBERS.iter().any(|name| members.contains_key(*name)) {
            return None;
        }
        let member = |name: &str| members.get(name).and_then(Value::as_str);
        let is_for_signing = member("use").is_none_or(|purpose| purpose == "sig")
            && members.get("key_ops").is_none_or(|operations| {
                operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"))
            });
        if !is_for_signing {
            return None;
        }
        let coordinate = |name: &str, bytes: usize| {
            member(name).filter(|text| URL_SAFE_NO_PAD.decode(text).is_ok_and(|b| b.len() == bytes))
        };
        let (own, public) = match (member("kty")?, member("crv")) {
            ("RSA", None) => {
                let own = match member("alg") {
                    Some("PS256") => Algorithm::Ps256,
                    _ => Algorithm::Rs256,
                };
                (own, DecodingKey::from_rsa_components(member("n")?, member("e")?))
            }
            ("EC", Some("P-256")) => (
                Algorithm::Es256,
                DecodingKey::from_ec_components(coordinate("x", 32)?, coordinate("y", 32)?),
            ),
            ("EC", Some("P-384")) => (
                Algorithm::Es384,
                DecodingKey::from_ec_components(coordinate("x", 48)?, coordinate("y", 48)?),
            ),
            ("OKP", Some("Ed25519")) => {
                (Algorithm::Ed25519, DecodingKey::from_ed_components(coordinate("x", 32)?))
            }
            _ => return None,
        };
        if members.contains_key("alg") && member("alg").and_then(Algorithm::from_name) != Some(own)
        {
            return None;
        }
        Some(Self { id: member("kid").map(str::to_owned), algorithm: own, public: public.ok()? })
    }
}

const fn jwa(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::Ed25519 => jsonwebtoken::Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usable(key: Value) -> bool {
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap().len() == 1
    }

    #[test]
    fn which_keys_are_usable() {
        let x = URL_SAFE_NO_PAD.encode([1u8; 32]);
        let n = URL_SAFE_NO_PAD.encode([1u8; 256]);
        assert!(usable(json!({"kty": "OKP", "crv": "Ed25519", "x": x})));
        assert!(usable(json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "Ed25519"})));
        assert!(usable(json!({"kty": "EC", "crv": "P-256", "x": x, "y": x, "use": "sig"})));
        assert!(usable(json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "PS256"})));
        for key in [
            json!({"kty": "oct", "k": x}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": x, "d": x}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "d": n}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "HS256"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": 7}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "use": "enc"}),
            json!({"kty": "RSA", "n": n, "e": "AQAB", "key_ops": ["encrypt"]}),
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": x, "alg": "ES384"}),
            json!({"kty": "EC", "crv": "P-384", "x": x, "y": x}),
            json!({"kty": "EC", "crv": "secp256k1", "x": x, "y": x}),
            json!({"kty": "OKP", "crv": "X25519", "x": x}),
            json!("key"),
        ] {
            assert!(!usable(key.clone()), "{key}");
        }
    }

    #[test]
    fn which_documents_are_key_sets() {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([1u8; 32])});
        let many = json!({ "keys": vec![key; MAX_KEYS + 1] }).to_string();
        for document in ["", "[]", "{}", r#"{"keys":{}}"#, &many] {
            assert!(KeySet::parse(document.as_bytes()).is_none());
        }
        assert_eq!(KeySet::parse(br#"{"keys":[]}"#).unwrap().len(), 0);
    }
}
