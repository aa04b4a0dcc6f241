//! Wallets: what a payer pays with, and the file they are kept in.
//!
//! The file is JSON of mode 0600: `{"wallets": [{"kind": "evm", "private_key": …}, {"kind":
//! "lightning", "url": …, "token": …}, {"kind": "lnd", "url": …, "macaroon": …, "certificate": …},
//! {"kind": "phoenixd", "url": …, "password": …}, {"kind": "nwc", "connection": …}]}`, where
//! secrets may be references (`env:NAME`, `file:PATH`); or the same sealed under a pass phrase
//! (PBKDF2-HMAC-SHA-256, AES-256-GCM).
//!
//! INVARIANT: no error carries content of the file.

use crate::{
    evm::EvmWallet,
    lightning::LightningWallet,
    secret::{Secret, SecretError, read_private, read_private_bytes},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    pbkdf2,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::world::World;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

/// Iterations of new files (OWASP's figure for PBKDF2-HMAC-SHA-256).
const ITERATIONS: u32 = 600_000;
/// Most iterations that a file can make us do.
const MAX_ITERATIONS: u32 = 10_000_000;

/// Something that pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wallet {
    /// Signs x402 `exact` payments.
    Evm(EvmWallet),
    /// Pays Lightning invoices.
    Lightning(LightningWallet),
}

/// Why there is no wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalletError {
    /// The file or the variable it is in.
    Secret(SecretError),
    /// Not the JSON of a wallet file.
    Shape,
    /// Not a private key of secp256k1.
    BadKey,
    /// Not https, and not on this machine.
    BadUrl,
    /// Not a certificate in PEM.
    Certificate,
    /// The file is sealed and no pass phrase was given.
    Sealed,
    /// The pass phrase is wrong, or the file was altered.
    Unseal,
}

impl fmt::Display for WalletError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(error) => write!(f, "wallet: {error}"),
            Self::Shape => f.write_str("wallet: not the JSON of a wallet file"),
            Self::BadKey => f.write_str("wallet: not a private key"),
            Self::BadUrl => f.write_str("wallet: the URL must be https, or http on this machine"),
            Self::Certificate => f.write_str("wallet: not a certificate in PEM"),
            Self::Sealed => f.write_str("wallet: the file is sealed: a pass phrase is needed"),
            Self::Unseal => f.write_str("wallet: the pass phrase is wrong or the file altered"),
        }
    }
}

impl std::error::Error for WalletError {}

impl From<SecretError> for WalletError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    wallets: Vec<Entry>,
    sealed: Option<Sealed>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Entry {
    Evm {
        private_key: String,
    },
    Lightning {
        url: String,
        token: Option<String>,
    },
    /// The macaroon as `file:` with the node's own bytes, or in hex; the certificate's path.
    Lnd {
        url: String,
        macaroon: String,
        certificate: Option<PathBuf>,
    },
    Phoenixd {
        url: String,
        password: String,
    },
    Nwc {
        connection: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    iterations: u32,
    salt: String,
    nonce: String,
    ciphertext: String,
}

impl Wallet {
    /// The wallets of a file that only its owner can open.
    ///
    /// # Errors
    /// See [`WalletError`].
    pub fn load(path: &Path, passphrase: Option<&Secret>) -> Result<Vec<Self>, WalletError> {
        Self::parse(&read_private(path)?, passphrase)
    }

    /// The wallets behind `file:PATH` or `env:NAME`. The content may be the JSON of a wallet
    /// file, a private key in hex, the URL of a Lightning wallet, or a Nostr Wallet Connect string.
    ///
    /// # Errors
    /// See [`WalletError`].
    pub fn from_reference(
        reference: &str,
        passphrase: Option<&Secret>,
    ) -> Result<Vec<Self>, WalletError> {
        Self::of_secret(&Secret::from_reference(reference)?, passphrase)
    }

    /// The wallets of a text in one of those forms.
    ///
    /// # Errors
    /// See [`WalletError`].
    pub fn of_secret(
        secret: &Secret,
        passphrase: Option<&Secret>,
    ) -> Result<Vec<Self>, WalletError> {
        let text = secret.expose();
        if text.starts_with('{') {
            Self::parse(text, passphrase)
        } else if text.starts_with("http://") || text.starts_with("https://") {
            Ok(vec![Self::Lightning(LightningWallet::new(text, None)?)])
        } else if text.starts_with("nostr+walletconnect:") {
            Ok(vec![Self::Lightning(LightningWallet::nwc(secret)?)])
        } else {
            Ok(vec![Self::Evm(EvmWallet::from_private_key(secret)?)])
        }
    }

    /// The wallets of a wallet file's text.
    ///
    /// # Errors
    /// See [`WalletError`].
    pub fn parse(text: &str, passphrase: Option<&Secret>) -> Result<Vec<Self>, WalletError> {
        let file: File = serde_json::from_str(text).map_err(|_| WalletError::Shape)?;
        let entries = match file.sealed {
            None => file.wallets,
            Some(_) if !file.wallets.is_empty() => return Err(WalletError::Shape),
            Some(sealed) => {
                let plain = unseal(&sealed, passphrase.ok_or(WalletError::Sealed)?)?;
                let file: File = serde_json::from_str(&plain).map_err(|_| WalletError::Shape)?;
                if file.sealed.is_some() {
                    return Err(WalletError::Shape);
                }
                file.wallets
            }
        };
        entries.into_iter().map(Self::of_entry).collect()
    }

    fn of_entry(entry: Entry) -> Result<Self, WalletError> {
        match entry {
            Entry::Evm { private_key } => {
                EvmWallet::from_private_key(&resolve(private_key)?).map(Self::Evm)
            }
            Entry::Lightning { url, token } => {
                let token = token.map(resolve).transpose()?;
                LightningWallet::new(&url, token).map(Self::Lightning)
            }
            Entry::Lnd { url, macaroon, certificate } => {
                let macaroon = macaroon_of(&macaroon)?;
                let pem = certificate.map(|path| read_public(&path)).transpose()?;
                LightningWallet::lnd(&url, macaroon, pem.as_deref()).map(Self::Lightning)
            }
            Entry::Phoenixd { url, password } => {
                LightningWallet::phoenixd(&url, resolve(password)?).map(Self::Lightning)
            }
            Entry::Nwc { connection } => {
                LightningWallet::nwc(&resolve(connection)?).map(Self::Lightning)
            }
        }
    }
}

/// A macaroon in hex: written out, or that of a file, which nodes write as bytes.
fn macaroon_of(text: &str) -> Result<Secret, WalletError> {
    let Some(path) = text.strip_prefix("file:") else { return resolve(text.to_owned()) };
    let bytes = read_private_bytes(Path::new(path))?;
    match std::str::from_utf8(&bytes).map(str::trim) {
        Ok(text) if hex::decode(text).is_ok() => Ok(Secret::new(text)),
        Ok(_) | Err(_) => Ok(Secret::new(hex::encode(bytes))),
    }
}

fn read_public(path: &Path) -> Result<String, WalletError> {
    std::fs::read_to_string(path).map_err(|error| SecretError::Unreadable(error.kind()).into())
}

/// A value written out, or a reference to it.
fn resolve(text: String) -> Result<Secret, WalletError> {
    if text.starts_with("env:") || text.starts_with("file:") {
        return Ok(Secret::from_reference(&text)?);
    }
    Ok(Secret::new(text))
}

/// Seals the text of a wallet file under a pass phrase. The result is the text of a file that
/// [`Wallet::load`] reads.
///
/// # Errors
/// [`WalletError::Shape`] when the text is not that of an unsealed wallet file.
pub fn seal(text: &str, passphrase: &Secret, world: &World) -> Result<String, WalletError> {
    let file: File = serde_json::from_str(text).map_err(|_| WalletError::Shape)?;
    if file.sealed.is_some() {
        return Err(WalletError::Shape);
    }
    let (salt, nonce) = (world.random::<16>(), world.random::<12>());
    let key = key(passphrase, &salt, ITERATIONS).ok_or(WalletError::Shape)?;
    let mut bytes = text.as_bytes().to_vec();
    let nonce_value = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce_value, Aad::from(aad(ITERATIONS)), &mut bytes)
        .map_err(|_| WalletError::Shape)?;
    let sealed = Sealed {
        iterations: ITERATIONS,
        salt: hex::encode(salt),
        nonce: hex::encode(nonce),
        ciphertext: STANDARD.encode(&bytes),
    };
    let sealed = serde_json::to_string(&sealed).map_err(|_| WalletError::Shape)?;
    Ok(format!(r#"{{"sealed":{sealed}}}"#))
}

fn unseal(sealed: &Sealed, passphrase: &Secret) -> Result<String, WalletError> {
    let salt = hex::decode(&sealed.salt).map_err(|_| WalletError::Shape)?;
    let mut nonce = [0u8; 12];
    hex::decode_to_slice(&sealed.nonce, &mut nonce).map_err(|_| WalletError::Shape)?;
    let mut bytes = STANDARD.decode(&sealed.ciphertext).map_err(|_| WalletError::Shape)?;
    let key = key(passphrase, &salt, sealed.iterations).ok_or(WalletError::Shape)?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plain = key
        .open_in_place(nonce, Aad::from(aad(sealed.iterations)), &mut bytes)
        .map_err(|_| WalletError::Unseal)?;
    String::from_utf8(plain.to_vec()).map_err(|_| WalletError::Unseal)
}

/// The key of a pass phrase; `None` for a number of iterations that nobody means.
fn key(passphrase: &Secret, salt: &[u8], iterations: u32) -> Option<LessSafeKey> {
    let iterations = NonZeroU32::new(iterations).filter(|n| n.get() <= MAX_ITERATIONS)?;
    let mut bytes = [0u8; 32];
    let phrase = passphrase.expose().as_bytes();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, phrase, &mut bytes);
    UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)
}

fn aad(iterations: u32) -> Vec<u8> {
    format!("countersign wallet v1 pbkdf2-sha256 {iterations} aes-256-gcm").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::time::UnixMs;

    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    fn text() -> String {
        format!(
            r#"{{"wallets":[{{"kind":"evm","private_key":"{KEY}"}},
                {{"kind":"lightning","url":"http://127.0.0.1:9735/","token":"t0k3n"}}]}}"#
        )
    }

    #[test]
    fn a_file_gives_its_wallets_and_shows_none_of_its_secrets() {
        let wallets = Wallet::parse(&text(), None).unwrap();
        let shown = format!("{wallets:?}");
        assert_eq!(wallets.len(), 2);
        assert!(!shown.contains("ac0974") && !shown.contains("t0k3n"), "{shown}");
        assert!(shown.contains("127.0.0.1:9735/pay"), "{shown}");
    }

    #[test]
    fn what_is_not_a_wallet_file_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"wallet":[]}"#,
            r#"{"wallets":[{"kind":"evm"}]}"#,
            r#"{"wallets":[{"kind":"evm","private_key":"0x00"}]}"#,
            r#"{"wallets":[{"kind":"evm","private_key":"00","extra":1}]}"#,
            r#"{"wallets":[{"kind":"lightning","url":"http://wallet.example"}]}"#,
        ] {
            assert!(Wallet::parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sealed_file_opens_with_its_pass_phrase_only() {
        let world = World::new(|| UnixMs(0), |bytes| bytes.fill(7));
        let phrase = Secret::new("correct horse");
        let sealed = seal(&text(), &phrase, &world).unwrap();
        assert!(!sealed.contains("ac0974"));
        assert_eq!(Wallet::parse(&sealed, Some(&phrase)).unwrap().len(), 2);
        assert_eq!(Wallet::parse(&sealed, None).err(), Some(WalletError::Sealed));
        let wrong = Secret::new("battery staple");
        assert_eq!(Wallet::parse(&sealed, Some(&wrong)).err(), Some(WalletError::Unseal));
        let altered = sealed.replace("600000", "600001");
        assert_eq!(Wallet::parse(&altered, Some(&phrase)).err(), Some(WalletError::Unseal));
    }
}
