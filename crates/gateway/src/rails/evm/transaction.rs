//! EIP-1559 transactions: RLP, signing, hash. Pure.
//!
//! Owns the bytes of one kind of transaction: a call of a contract without value or access list.
//! About a hundred lines instead of a general Ethereum library, whose cold build would be the
//! longest of the whole program and whose interface moves between minor versions.

use countersign_core::wire::eip712::{
    Address, Domain, Signature, TransferAuthorization, keccak256,
};
use secp256k1::{Message, PublicKey, Secp256k1, SecretKey, SignOnly};
use std::fmt;

/// A key: pays the gas of a facilitator, or signs transfers of its own tokens.
pub struct Signer {
    key: SecretKey,
    curve: Secp256k1<SignOnly>,
    address: Address,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.address)
    }
}

/// The secret is not 64 hex characters naming a scalar of the curve. Says nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the signing key is not 64 hex characters of a secp256k1 key")
    }
}

impl std::error::Error for NotAKey {}

impl Signer {
    /// Reads 64 hex characters, with `0x` or without, white space around them ignored.
    ///
    /// # Errors
    /// [`NotAKey`].
    pub fn from_secret(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotAKey)?;
        let key = SecretKey::from_slice(&bytes).map_err(|_| NotAKey)?;
        let curve = Secp256k1::signing_only();
        let address = address_of(&PublicKey::from_secret_key(&curve, &key));
        Ok(Self { key, curve, address })
    }

    /// Its account.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a transfer of its own tokens: what a payer does. `None` never happens: libsecp256k1
    /// makes canonical signatures.
    #[must_use]
    pub fn authorize(
        &self,
        authorization: &TransferAuthorization,
        domain: &Domain,
    ) -> Option<Signature> {
        let (is_odd, compact) = self.sign(&authorization.digest(domain));
        Signature::from_bytes(&[compact.as_slice(), &[u8::from(is_odd)]].concat()).ok()
    }

    /// Signs a digest: recovery bit and `r ‖ s`, with `s` low.
    fn sign(&self, digest: &[u8; 32]) -> (bool, [u8; 64]) {
        let message = Message::from_digest(*digest);
        let signature = self.curve.sign_ecdsa_recoverable(&message, &self.key);
        let (id, bytes) = signature.serialize_compact();
        (id.to_i32() == 1, bytes)
    }
}

/// The account of a public key.
pub(crate) fn address_of(key: &PublicKey) -> Address {
    let mut coordinates = [0u8; 64];
    coordinates.copy_from_slice(key.serialize_uncompressed().split_at(1).1);
    Address::of_public_key(&coordinates)
}

/// A contract call to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContractCall {
    pub chain_id: u64,
    pub nonce: u64,
    pub max_priority_fee_wei: u128,
    pub max_fee_wei: u128,
    pub gas_limit: u64,
    pub to: Address,
    pub data: Vec<u8>,
}

/// A signed transaction as a node takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawTransaction {
    pub bytes: Vec<u8>,
    pub hash: [u8; 32],
}

impl ContractCall {
    pub(crate) fn sign(&self, signer: &Signer) -> RawTransaction {
        let fields = self.fields();
        let (is_odd, signature) = signer.sign(&keccak256(&typed(&fields)));
        let (r, s) = signature.split_at(32);
        let mut signed = fields;
        number(&mut signed, u128::from(is_odd));
        trimmed(&mut signed, r);
        trimmed(&mut signed, s);
        let bytes = typed(&signed);
        let hash = keccak256(&bytes);
        RawTransaction { bytes, hash }
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len().saturating_add(96));
        number(&mut out, u128::from(self.chain_id));
        number(&mut out, u128::from(self.nonce));
        number(&mut out, self.max_priority_fee_wei);
        number(&mut out, self.max_fee_wei);
        number(&mut out, u128::from(self.gas_limit));
        string(&mut out, self.to.as_bytes());
        number(&mut out, 0);
        string(&mut out, &self.data);
        header(&mut out, 0xc0, 0); // no access list
        out
    }
}

/// `2 ‖ RLP list of already encoded fields`.
fn typed(fields: &[u8]) -> Vec<u8> {
    let mut out = vec![0x02];
    header(&mut out, 0xc0, fields.len());
    out.extend_from_slice(fields);
    out
}

fn number(out: &mut Vec<u8>, value: u128) {
    trimmed(out, &value.to_be_bytes());
}

/// A big-endian number of any width: without leading zeros, zero being empty.
fn trimmed(out: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    string(out, bytes.split_at(zeros).1);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes {
        [byte @ 0..=0x7f] => out.push(*byte),
        _ => {
            header(out, 0x80, bytes.len());
            out.extend_from_slice(bytes);
        }
    }
}

/// The RLP header of a string (`0x80`) or list (`0xc0`) of `length` bytes.
fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=55) => out.push(kind.saturating_add(short)),
        Ok(_) | Err(_) => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let digits = bytes.split_at(zeros).1;
            let count = u8::try_from(digits.len()).unwrap_or(8);
            out.push(kind.saturating_add(55).saturating_add(count));
            out.extend_from_slice(digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rlp(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        string(&mut out, bytes);
        hex::encode(out)
    }

    #[test]
    fn rlp_follows_its_published_examples() {
        assert_eq!(rlp(b"dog"), "83646f67");
        assert_eq!(rlp(b""), "80");
        assert_eq!(rlp(&[0x0f]), "0f");
        let text = b"Lorem ipsum dolor sit amet, consectetur adipisicing elit";
        assert_eq!(rlp(text), format!("b838{}", hex::encode(text)));
        let mut out = Vec::new();
        number(&mut out, 1024);
        number(&mut out, 0);
        assert_eq!(hex::encode(out), "82040080");
        assert!(rlp(&[7; 1024]).starts_with("b9040007"));
    }

    #[test]
    fn a_key_is_read_and_never_shown() {
        let text = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
        let signer = Signer::from_secret(&format!(" {text}\n")).unwrap();
        assert_eq!(signer.address().to_string(), "0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
        assert_eq!(format!("{signer:?}"), "Signer(0x70997970C51812dc3A010C7d01b50e0d17dc79C8)");
        for bad in ["", "0x", "59c6", &"0".repeat(64), &"f".repeat(64)] {
            assert_eq!(Signer::from_secret(bad).err(), Some(NotAKey), "{bad}");
        }
    }

    // Made with viem 2: account.signTransaction({type: 'eip1559', chainId: 84532, nonce: 7, ...}).
    #[test]
    fn a_transaction_is_the_one_another_library_makes() {
        let key = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
        let call = ContractCall {
            chain_id: 84532,
            nonce: 7,
            max_priority_fee_wei: 1_000_000,
            max_fee_wei: 2_000_000_000,
            gas_limit: 120_000,
            to: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".parse().unwrap(),
            data: (0..=255).collect(),
        };
        let raw = call.sign(&Signer::from_secret(key).unwrap());
        expect_test::expect_file!["../../../tests/golden/eip1559.txt"].assert_eq(&format!(
            "0x{}\n0x{}\n",
            hex::encode(&raw.bytes),
            hex::encode(raw.hash)
        ));
    }
}
