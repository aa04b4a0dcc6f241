//! The EVM wallet: one key that signs EIP-3009 transfers.
//!
//! Owns the key. What is signed is the exact transfer of an offer that was chosen and capped
//! elsewhere.
//!
//! INVARIANT: the key leaves this module in no form; `Debug` shows the address.

use crate::{secret::Secret, wallet::WalletError};
use countersign_core::wire::eip712::{Address, Domain, TransferAuthorization};
use secp256k1::{Message, Secp256k1, SecretKey, SignOnly};
use std::{fmt, sync::Arc};

/// A key that pays.
#[derive(Clone)]
pub struct EvmWallet {
    key: SecretKey,
    address: Address,
    curve: Arc<Secp256k1<SignOnly>>,
}

/// The same address, and so the same key.
impl PartialEq for EvmWallet {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for EvmWallet {}

impl EvmWallet {
    /// The wallet of a private key: 64 hex characters, with or without `0x`.
    ///
    /// # Errors
    /// [`WalletError::BadKey`].
    pub fn from_private_key(key: &Secret) -> Result<Self, WalletError> {
        let text = key.expose();
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
            .map_err(|_| WalletError::BadKey)?;
        let key = SecretKey::from_slice(&bytes).map_err(|_| WalletError::BadKey)?;
        let curve = Secp256k1::signing_only();
        let public = key.public_key(&curve).serialize_uncompressed();
        let (_, point) = public.split_first().ok_or(WalletError::BadKey)?;
        let address = Address::of_public_key(point.try_into().map_err(|_| WalletError::BadKey)?);
        Ok(Self { key, address, curve: Arc::new(curve) })
    }

    /// The address that pays.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Signs a transfer: `r ‖ s ‖ v`.
    pub(crate) fn sign(&self, transfer: &TransferAuthorization, domain: &Domain) -> [u8; 65] {
        let message = Message::from_digest(transfer.digest(domain));
        let signature = self.curve.sign_ecdsa_recoverable(&message, &self.key);
        let (id, compact) = signature.serialize_compact();
        let v = if id.to_i32() % 2 == 0 { 27 } else { 28 };
        let mut bytes = [v; 65];
        bytes.split_at_mut(64).0.copy_from_slice(&compact);
        bytes
    }
}

impl fmt::Debug for EvmWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EvmWallet({})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::wire::eip712::Signature;
    use secp256k1::ecdsa;

    /// The first account of every development chain.
    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn the_address_and_the_signature_belong_to_the_key() {
        let wallet = EvmWallet::from_private_key(&Secret::new(KEY)).unwrap();
        assert_eq!(wallet.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        assert!(!format!("{wallet:?}").contains("ac0974"));
        let domain = Domain {
            name: "USDC".into(),
            version: "2".into(),
            chain_id: 84532,
            token: Address::from_bytes([3; 20]),
        };
        let transfer = TransferAuthorization {
            from: wallet.address(),
            to: Address::from_bytes([4; 20]),
            value: 10_000,
            valid_after_s: 0,
            valid_before_s: 1_798_000_000,
            nonce: [5; 32],
        };
        let signature = Signature::from_bytes(&wallet.sign(&transfer, &domain)).unwrap();
        let bytes = signature.to_recoverable();
        let (compact, id) = bytes.split_at(64);
        let id = ecdsa::RecoveryId::from_i32(i32::from(id[0])).unwrap();
        let signature = ecdsa::RecoverableSignature::from_compact(compact, id).unwrap();
        let message = Message::from_digest(transfer.digest(&domain));
        let curve = Secp256k1::verification_only();
        let key = curve.recover_ecdsa(&message, &signature).unwrap().serialize_uncompressed();
        let point: &[u8; 64] = key[1..].try_into().unwrap();
        assert_eq!(Address::of_public_key(point), wallet.address());
    }

    #[test]
    fn bad_keys_are_refused() {
        for key in ["", "0x", "00", &"0".repeat(64), &"f".repeat(64), &"g".repeat(64)] {
            assert!(EvmWallet::from_private_key(&Secret::new(key)).is_err(), "{key}");
        }
    }
}
