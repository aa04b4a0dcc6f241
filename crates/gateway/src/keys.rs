//! The deployment's keys, in files of mode 0600 under the data directory.
//!
//! INVARIANT: a key is made once; a file that is there but unreadable is an error, never replaced.

use anyhow::{Context as _, Result, anyhow, bail};
use aws_lc_rs::signature::Ed25519KeyPair;
use countersign_core::{
    audit::checkpoint::{SignerKey, VerifierKey},
    world::World,
};
use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Everything that signs or keys something.
pub struct Keys {
    /// Signs checkpoints and receipts.
    pub log: SignerKey,
    /// Binds x402 offers to quotes.
    pub challenge: [u8; 32],
    /// Makes pseudonyms of persons for the log.
    pub pseudonym: [u8; 32],
}

/// Signs receipts under the log's key: one a call, so with the fastest implementation at hand.
/// The signatures are the same (Ed25519 is deterministic).
pub struct ReceiptSigner(Ed25519KeyPair);

impl ReceiptSigner {
    /// The signer of a key.
    ///
    /// # Errors
    /// The key's halves do not belong together.
    pub fn of(key: &SignerKey) -> Result<Self> {
        Ed25519KeyPair::from_seed_and_public_key(key.seed(), key.verifier().public())
            .map(Self)
            .map_err(|_| anyhow!("the log key is not usable"))
    }

    /// The Ed25519 signature of a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        let signature = self.0.sign(message);
        for (to, from) in bytes.iter_mut().zip(signature.as_ref()) {
            *to = *from;
        }
        bytes
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiptSigner")
    }
}

/// The keys of a data directory belong to another log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherOrigin {
    /// Whose they are.
    pub of: String,
    /// Whose were wanted.
    pub origin: String,
}

impl fmt::Display for OtherOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, origin } = self;
        write!(f, "the log key is for `{of}`, but `audit.origin` is `{origin}`")
    }
}

impl std::error::Error for OtherOrigin {}

/// Where the public key lies.
#[must_use]
pub fn public_path(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join("log.pub")
}

/// Opens the keys of a data directory, making those that are missing.
///
/// # Errors
/// A file cannot be read or written, is open to others, or holds no key of this log.
pub fn open(data_dir: &Path, origin: &str, world: &World) -> Result<Keys> {
    let dir = data_dir.join("keys");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot create `{}`", dir.display()))?;
    let fresh = || -> Result<String> {
        Ok(SignerKey::from_seed(origin, &world.random())
            .with_context(|| format!("`{origin}` is no name for a log"))?
            .to_secret_string())
    };
    let log: SignerKey = secret(&dir.join("log.key"), fresh)?
        .parse()
        .with_context(|| format!("`{}` holds no log key", dir.join("log.key").display()))?;
    if log.verifier().name() != origin {
        let of = log.verifier().name();
        return Err(OtherOrigin { of: of.to_owned(), origin: origin.to_owned() }.into());
    }
    publish(&public_path(data_dir), log.verifier())?;
    let random = || Ok(hex::encode(world.random::<32>()));
    let challenge = bytes(&secret(&dir.join("challenge.key"), random)?)?;
    let pseudonym = bytes(&secret(&pseudonym_path(data_dir), random)?)?;
    Ok(Keys { log, challenge, pseudonym })
}

/// Where the key of people's pseudonyms lies.
#[must_use]
pub fn pseudonym_path(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join("pseudonym.key")
}

/// The key of people's pseudonyms.
///
/// # Errors
/// There is none, it cannot be read, or is open to others.
pub fn pseudonym(path: &Path) -> Result<[u8; 32]> {
    bytes(&secret(path, || bail!("there is no `{}`", path.display()))?)
}

fn bytes(text: &str) -> Result<[u8; 32]> {
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(text, &mut bytes).context("a key file does not hold 64 hex digits")?;
    Ok(bytes)
}

/// The content of a secret file, made on first use.
fn secret(path: &Path, fresh: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            bail!("`{}` is open to others: chmod 600 it", path.display())
        }
        Ok(_) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read `{}`", path.display()))?;
            Ok(text.trim().to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = fresh()?;
            write_new(path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    }
}

/// Writes a secret into a file that must not exist, for nobody else to read.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn publish(path: &Path, key: &VerifierKey) -> Result<()> {
    let text = format!("{key}\n");
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
