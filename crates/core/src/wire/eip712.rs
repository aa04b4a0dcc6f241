//! What an EIP-3009 payer signs: Keccak-256, addresses, signatures as bytes, and the EIP-712
//! digest of `TransferWithAuthorization`.
//!
//! Owns encoding only. Whether a signature belongs to an address is decided by a recovery
//! function that the caller brings (the curve is no dependency of the rules).
//!
//! INVARIANT: a [`Signature`] is in its one canonical form (`s` in the lower half of the order,
//! one recovery bit), so that no second signature can be made from it without the key.

use sha3::{Digest as _, Keccak256};
use std::{fmt, str::FromStr};

/// Half of the order of secp256k1: the largest `s` of a canonical signature.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

const DOMAIN_TYPE: &[u8] =
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const TRANSFER_TYPE: &[u8] = b"TransferWithAuthorization(address from,address to,uint256 value,\
uint256 validAfter,uint256 validBefore,bytes32 nonce)";

/// Keccak-256, the hash of Ethereum (not SHA3-256).
#[must_use]
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// A number as a 32-byte word, as the ABI writes it.
#[must_use]
pub fn word(value: u128) -> [u8; 32] {
    let mut word = [0u8; 32];
    word.split_at_mut(16).1.copy_from_slice(&value.to_be_bytes());
    word
}

/// An account or a contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address([u8; 20]);

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnAddress {
    /// Not `0x` and 40 hex characters.
    Shape,
    /// Mixed case whose EIP-55 checksum is wrong: a typing error.
    Checksum,
}

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "expected `0x` and 40 hex characters",
            Self::Checksum => "the address's EIP-55 checksum is wrong",
        })
    }
}

impl std::error::Error for NotAnAddress {}

impl Address {
    /// The address with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The address of an uncompressed public key (x and y, without the leading 4).
    #[must_use]
    pub fn of_public_key(key: &[u8; 64]) -> Self {
        Self::of_word(&keccak256(key))
    }

    /// The last 20 bytes of a word: how the ABI and event topics carry addresses.
    #[must_use]
    pub fn of_word(word: &[u8; 32]) -> Self {
        let mut bytes = [0u8; 20];
        bytes.copy_from_slice(word.split_at(12).1);
        Self(bytes)
    }

    /// Reads `0x` and 40 hex characters of any case, as machines send them.
    ///
    /// # Errors
    /// [`NotAnAddress::Shape`].
    pub fn from_hex(text: &str) -> Result<Self, NotAnAddress> {
        let digits = text.strip_prefix("0x").ok_or(NotAnAddress::Shape)?;
        let mut bytes = [0u8; 20];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotAnAddress::Shape)?;
        Ok(Self(bytes))
    }

    /// The 20 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// The address as an ABI word.
    #[must_use]
    pub fn to_word(self) -> [u8; 32] {
        let mut word = [0u8; 32];
        word.split_at_mut(12).1.copy_from_slice(&self.0);
        word
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    /// Reads what a person typed: mixed case must carry its EIP-55 checksum.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let address = Self::from_hex(text)?;
        let digits = || text.bytes().skip(2);
        let is_mixed =
            digits().any(|b| b.is_ascii_uppercase()) && digits().any(|b| b.is_ascii_lowercase());
        if is_mixed && text != address.to_string() {
            return Err(NotAnAddress::Checksum);
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    /// EIP-55: a letter is upper case where the hash of the lower-case text has a nibble above 7.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = hex::encode(self.0);
        let hash = hex::encode(keccak256(lower.as_bytes()));
        f.write_str("0x")?;
        for (c, nibble) in lower.chars().zip(hash.chars()) {
            let is_upper = matches!(nibble, '8'..='9' | 'a'..='f');
            fmt::Write::write_char(f, if is_upper { c.to_ascii_uppercase() } else { c })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The EIP-712 domain of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The token's name for signatures.
    pub name: String,
    /// The token's version for signatures.
    pub version: String,
    /// Its chain.
    pub chain_id: u64,
    /// Its contract.
    pub token: Address,
}

impl Domain {
    /// The domain separator.
    #[must_use]
    pub fn separator(&self) -> [u8; 32] {
        let words = [
            keccak256(DOMAIN_TYPE),
            keccak256(self.name.as_bytes()),
            keccak256(self.version.as_bytes()),
            word(u128::from(self.chain_id)),
            self.token.to_word(),
        ];
        keccak256(words.as_flattened())
    }
}

/// An EIP-3009 authorization to move tokens, as plain values. Naming one proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferAuthorization {
    /// Who pays.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much, in the token's minor units.
    pub value: u128,
    /// Valid after this second.
    pub valid_after_s: u64,
    /// Valid before this second.
    pub valid_before_s: u64,
    /// Chosen by the payer; once per payer and token.
    pub nonce: [u8; 32],
}

impl TransferAuthorization {
    /// The EIP-712 digest that the payer signs.
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> [u8; 32] {
        let words = [
            keccak256(TRANSFER_TYPE),
            self.from.to_word(),
            self.to.to_word(),
            word(self.value),
            word(u128::from(self.valid_after_s)),
            word(u128::from(self.valid_before_s)),
            self.nonce,
        ];
        let mut signed = [0u8; 66];
        let (prefix, rest) = signed.split_at_mut(2);
        let (separator, message) = rest.split_at_mut(32);
        prefix.copy_from_slice(&[0x19, 0x01]);
        separator.copy_from_slice(&domain.separator());
        message.copy_from_slice(&keccak256(words.as_flattened()));
        keccak256(&signed)
    }
}

/// A recoverable signature in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    r: [u8; 32],
    s: [u8; 32],
    is_odd: bool,
}

/// Why bytes are not a signature that a token accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotASignature {
    /// Not 65 bytes (a contract wallet's signature is longer).
    Length,
    /// `v` is none of 27, 28, 0, 1.
    RecoveryId,
    /// `s` lies in the upper half of the order: the malleable twin of a signature.
    HighS,
}

impl Signature {
    /// Reads `r ‖ s ‖ v`.
    ///
    /// # Errors
    /// [`NotASignature`]; tokens refuse the same.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotASignature> {
        let bytes: &[u8; 65] = bytes.try_into().map_err(|_| NotASignature::Length)?;
        let (mut r, mut s) = ([0u8; 32], [0u8; 32]);
        let (first, rest) = bytes.split_at(32);
        let (second, v) = rest.split_at(32);
        r.copy_from_slice(first);
        s.copy_from_slice(second);
        let is_odd = match v {
            [0 | 27] => false,
            [1 | 28] => true,
            _ => return Err(NotASignature::RecoveryId),
        };
        if s > HALF_ORDER {
            return Err(NotASignature::HighS);
        }
        Ok(Self { r, s, is_odd })
    }

    /// `r ‖ s ‖ recovery id`, the last being 0 or 1.
    #[must_use]
    pub fn to_recoverable(self) -> [u8; 65] {
        self.with_last(self.recovery_id())
    }

    /// `r ‖ s ‖ v`, the last being 27 or 28, as Ethereum writes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 65] {
        self.with_last(self.v())
    }

    fn with_last(self, last: u8) -> [u8; 65] {
        let mut bytes = [last; 65];
        let (first, rest) = bytes.split_at_mut(32);
        first.copy_from_slice(&self.r);
        rest.split_at_mut(32).0.copy_from_slice(&self.s);
        bytes
    }

    /// `r`.
    #[must_use]
    pub const fn r(&self) -> &[u8; 32] {
        &self.r
    }

    /// `s`.
    #[must_use]
    pub const fn s(&self) -> &[u8; 32] {
        &self.s
    }

    /// 0 or 1.
    #[must_use]
    pub fn recovery_id(&self) -> u8 {
        u8::from(self.is_odd)
    }

    /// 27 or 28.
    #[must_use]
    pub fn v(&self) -> u8 {
        27u8.saturating_add(self.recovery_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn keccak_is_not_sha3() {
        let empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";
        assert_eq!(hex::encode(keccak256(b"")), empty);
    }

    #[test]
    fn the_types_hash_to_the_constants_that_tokens_carry() {
        let transfer = "7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267";
        assert_eq!(hex::encode(keccak256(TRANSFER_TYPE)), transfer);
        let domain = "8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f";
        assert_eq!(hex::encode(keccak256(DOMAIN_TYPE)), domain);
    }

    #[test]
    fn usdc_on_base_has_its_published_domain_separator() {
        let domain = Domain {
            name: "USD Coin".into(),
            version: "2".into(),
            chain_id: 8453,
            token: address("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
        };
        let published = "02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f";
        assert_eq!(hex::encode(domain.separator()), published);
    }

    #[test]
    fn addresses_show_their_checksum_and_refuse_a_wrong_one() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            assert_eq!(address(text).to_string(), text);
            assert_eq!(address(&text.to_lowercase()), address(text));
        }
        let typo = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD";
        assert_eq!(typo.parse::<Address>(), Err(NotAnAddress::Checksum));
        assert!(Address::from_hex(typo).is_ok());
        for bad in ["", "0x", "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x5aAe", "0Xzz"] {
            assert_eq!(bad.parse::<Address>(), Err(NotAnAddress::Shape), "{bad}");
        }
    }

    #[test]
    fn signatures_have_one_form() {
        let mut bytes = [1u8; 65];
        bytes[64] = 28;
        let signature = Signature::from_bytes(&bytes).unwrap();
        assert_eq!(signature.to_bytes(), bytes);
        assert_eq!(signature.to_recoverable()[64], 1);
        bytes[64] = 1;
        assert_eq!(Signature::from_bytes(&bytes).unwrap(), signature);
        bytes[64] = 2;
        assert_eq!(Signature::from_bytes(&bytes), Err(NotASignature::RecoveryId));
        assert_eq!(Signature::from_bytes(&bytes[..64]), Err(NotASignature::Length));
        bytes[64] = 27;
        bytes[32..64].copy_from_slice(&HALF_ORDER);
        assert!(Signature::from_bytes(&bytes).is_ok());
        bytes[63] += 1;
        assert_eq!(Signature::from_bytes(&bytes), Err(NotASignature::HighS));
    }
}
