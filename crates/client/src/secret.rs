//! Texts that are never shown: bearer tokens, keys, pass phrases.
//!
//! Owns the reference forms `env:NAME` and `file:PATH`, and the check that a file with a secret
//! belongs to its owner alone.
//!
//! INVARIANT: neither `Debug` nor any error prints what a [`Secret`] holds; `expose` is the only
//! way to it.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

/// Longest secret file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text. Whoever calls this keeps it out of logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Resolves `env:NAME` or `file:PATH`; the file must be readable by its owner only. White
    /// space around the content is dropped.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn from_reference(reference: &str) -> Result<Self, SecretError> {
        let text = match reference.split_once(':') {
            Some(("env", name)) => std::env::var(name).map_err(|_| SecretError::NotSet)?,
            Some(("file", path)) => read_private(Path::new(path))?,
            _ => return Err(SecretError::NotAReference),
        };
        Ok(Self::new(text.trim()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret cannot be had. Carries no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// Neither `env:NAME` nor `file:PATH`.
    NotAReference,
    /// The environment variable is not set, or not text.
    NotSet,
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// Others than the owner may read or write the file.
    TooOpen,
    /// The file is too large to be a secret.
    TooLarge,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAReference => f.write_str("expected `env:NAME` or `file:PATH`"),
            Self::NotSet => f.write_str("the environment variable is not set"),
            Self::Unreadable(kind) => write!(f, "the file cannot be read: {kind}"),
            Self::TooOpen => f.write_str("the file is open to others: set its mode to 0600"),
            Self::TooLarge => f.write_str("the file is too large"),
        }
    }
}

impl std::error::Error for SecretError {}

/// The text of a file that only its owner can open. The mode is read from the open file, so it
/// cannot change between check and use.
///
/// # Errors
/// See [`SecretError`].
pub(crate) fn read_private(path: &Path) -> Result<String, SecretError> {
    let unreadable = |_| SecretError::Unreadable(io::ErrorKind::InvalidData);
    String::from_utf8(read_private_bytes(path)?).map_err(unreadable)
}

/// The bytes of a file that only its owner can open.
pub(crate) fn read_private_bytes(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |error: io::Error| SecretError::Unreadable(error.kind());
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !is_private(&metadata) {
        return Err(SecretError::TooOpen);
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(read).is_ok_and(|read| read <= MAX_FILE_BYTES) {
        Ok(bytes)
    } else {
        Err(SecretError::TooLarge)
    }
}

/// Whether a file belongs to its owner alone.
#[cfg(unix)]
pub(crate) fn is_private(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.is_file() && metadata.permissions().mode().trailing_zeros() >= 6
}

#[cfg(not(unix))]
pub(crate) fn is_private(metadata: &fs::Metadata) -> bool {
    metadata.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("countersign-secret-{}", std::process::id()));
        fs::write(&path, " s3cret\n").unwrap();
        let reference = format!("file:{}", path.display());
        for (mode, open) in [(0o644, true), (0o660, true), (0o604, true), (0o600, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = Secret::from_reference(&reference);
            assert_eq!(read.err(), open.then_some(SecretError::TooOpen), "{mode:o}");
        }
        assert_eq!(Secret::from_reference(&reference).unwrap().expose(), "s3cret");
        fs::remove_file(&path).unwrap();
        assert_eq!(Secret::from_reference("s3cret"), Err(SecretError::NotAReference));
    }
}
