//! Signed checkpoints: the log's size and root at a moment, under the log's Ed25519 key.
//!
//! Formats: C2SP signed-note (<https://c2sp.org/signed-note>), C2SP tlog-checkpoint
//! (<https://c2sp.org/tlog-checkpoint>), and for key strings those of Go's
//! `golang.org/x/mod/sumdb/note`. The key's name is the log's origin.
//!
//! INVARIANT: the text of a note is handed out only after its signature has been verified.

use crate::{digest::Digest, time::UnixMs};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// Signature type of plain Ed25519 in key strings and key ids (signed-note, "Signature types").
const ED25519: u8 = 0x01;
const SIGNER_PREFIX: &str = "PRIVATE+KEY+";
const SIGNATURE_PREFIX: &str = "\u{2014} ";
const TIME_PREFIX: &str = "time ";

/// Bytes of a note that are looked at; 16 post-quantum signatures fit many times.
const MAX_NOTE_BYTES: usize = 1 << 20;
/// Signatures of a note that are looked at (as in Go's note package).
const MAX_SIGNATURES: usize = 100;

/// Why a text is not a note key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyError {
    /// Not `name+hash+base64` (behind `PRIVATE+KEY+` for a signer).
    Shape,
    /// The name is empty or holds a space, a control character or a plus.
    Name,
    /// The hash is not that of name and key.
    Hash,
    /// Another algorithm than Ed25519.
    Algorithm,
    /// Not a usable Ed25519 key.
    Key,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "expected a name, a hash and a base64 key, joined by `+`",
            Self::Name => "the key's name is empty or holds a space or a plus",
            Self::Hash => "the key's hash is not that of its name and bytes",
            Self::Algorithm => "the key is not of the Ed25519 type",
            Self::Key => "not a usable Ed25519 key",
        })
    }
}

impl std::error::Error for KeyError {}

/// Why a note or checkpoint is not accepted, or cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteError {
    /// Not text, a blank line and signature lines.
    Malformed,
    /// More bytes or signatures than are looked at.
    TooLarge,
    /// No signature by the expected key.
    NotSigned,
    /// A signature that claims the expected key is wrong.
    BadSignature,
    /// The signed text is not a checkpoint.
    NotACheckpoint,
    /// The checkpoint is of another log than the key's name says.
    OtherOrigin,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a signed note",
            Self::TooLarge => "the note is too large",
            Self::NotSigned => "the note is not signed by the expected key",
            Self::BadSignature => "the signature by the expected key is wrong",
            Self::NotACheckpoint => "the signed text is not a checkpoint",
            Self::OtherOrigin => "the checkpoint is of another log",
        })
    }
}

impl std::error::Error for NoteError {}

/// The public key of a log: `name+hash+base64(0x01 ‖ key)`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

impl VerifierKey {
    /// A key from its name and 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Name`], or [`KeyError::Key`] for bytes that are no point or a weak one.
    pub fn new(name: &str, public: &[u8; 32]) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(public).map_err(|_| KeyError::Key)?;
        if key.is_weak() {
            return Err(KeyError::Key);
        }
        Self::of(name, key)
    }

    fn of(name: &str, key: VerifyingKey) -> Result<Self, KeyError> {
        let excluded = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.contains(excluded) {
            return Err(KeyError::Name);
        }
        let id = key_id(name, key.as_bytes());
        Ok(Self { name: name.to_owned(), id, key })
    }

    /// The key's name, which is the origin of the log it signs for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of SHA-256(name ‖ 0x0a ‖ 0x01 ‖ key) (signed-note, "Signatures").
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// `name+hash`: the `kid` of what this key signs outside of notes.
    #[must_use]
    pub fn kid(&self) -> String {
        format!("{}+{}", self.name, hex::encode(self.id))
    }

    /// Checks an Ed25519 signature (RFC 8032, strict: no small-order points).
    pub(super) fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.kid(), encode_key(self.key.as_bytes()))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, hash, bytes) = split_key(text)?;
        let key = Self::new(name, &bytes)?;
        if hash == hex::encode(key.id) { Ok(key) } else { Err(KeyError::Hash) }
    }
}

/// The private key of a log: `PRIVATE+KEY+name+hash+base64(0x01 ‖ seed)`.
///
/// Its `Debug` shows the public half only; the seed is wiped when it is dropped.
#[derive(Clone)]
pub struct SignerKey {
    key: SigningKey,
    verifier: VerifierKey,
}

impl SignerKey {
    /// A key from its name and 32 random bytes.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::of(name, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The key string to store. It is a secret.
    #[must_use]
    pub fn to_secret_string(&self) -> String {
        format!("{SIGNER_PREFIX}{}+{}", self.verifier.kid(), encode_key(self.key.as_bytes()))
    }

    /// The 32 bytes of the private key, for another implementation of Ed25519. They are a secret.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// The Ed25519 signature of a message.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer of {}", self.verifier)
    }
}

impl FromStr for SignerKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(SIGNER_PREFIX).ok_or(KeyError::Shape)?;
        let (name, hash, seed) = split_key(rest)?;
        let key = Self::from_seed(name, &seed)?;
        if hash == hex::encode(key.verifier.id) { Ok(key) } else { Err(KeyError::Hash) }
    }
}

/// Signs a text as a note: the text, a blank line, one signature line.
///
/// # Errors
/// [`NoteError::Malformed`] when the text does not end in a newline or holds other control
/// characters; [`NoteError::TooLarge`].
pub fn sign_note(text: &str, key: &SignerKey) -> Result<String, NoteError> {
    let signed = [&key.verifier.id[..], &key.sign(text.as_bytes())].concat();
    let line = format!("{SIGNATURE_PREFIX}{} {}", key.verifier.name, STANDARD.encode(signed));
    let note = format!("{text}\n{line}\n");
    split_note(&note)?;
    Ok(note)
}

/// The text of a note, once a signature by `key` has been verified. Signatures by other keys
/// are ignored.
///
/// # Errors
/// Any [`NoteError`] but those about checkpoints.
pub fn open_note<'a>(note: &'a str, key: &VerifierKey) -> Result<&'a str, NoteError> {
    let (text, signatures) = split_note(note)?;
    let mut verified = false;
    for (count, line) in signatures.lines().enumerate() {
        if count >= MAX_SIGNATURES {
            return Err(NoteError::TooLarge);
        }
        let rest = line.strip_prefix(SIGNATURE_PREFIX).ok_or(NoteError::Malformed)?;
        let (name, signed) = rest.split_once(' ').ok_or(NoteError::Malformed)?;
        let signed = STANDARD.decode(signed).map_err(|_| NoteError::Malformed)?;
        let (id, signature) = signed.split_first_chunk().ok_or(NoteError::Malformed)?;
        if name.is_empty() || signature.is_empty() {
            return Err(NoteError::Malformed);
        }
        if name == key.name && *id == key.id {
            if !key.accepts(text.as_bytes(), signature) {
                return Err(NoteError::BadSignature);
            }
            verified = true;
        }
    }
    if verified { Ok(text) } else { Err(NoteError::NotSigned) }
}

/// The head of a log: so many leaves, with this root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// The log's identity; equals the name of the key that signs.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The RFC 6962 root over them.
    pub root: Digest,
    /// When it was signed, by the log's clock: the extension line `time <unix ms>`.
    pub time: Option<UnixMs>,
}

impl Checkpoint {
    /// The checkpoint as a signed note.
    ///
    /// # Errors
    /// [`NoteError::OtherOrigin`] unless the key is named as the origin.
    pub fn sign(&self, key: &SignerKey) -> Result<String, NoteError> {
        if self.origin != key.verifier.name {
            return Err(NoteError::OtherOrigin);
        }
        sign_note(&self.text(), key)
    }

    /// Reads a signed checkpoint of the log that `key` belongs to.
    ///
    /// # Errors
    /// Any [`NoteError`].
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let text = open_note(note, key)?;
        let checkpoint = Self::parse(text).ok_or(NoteError::NotACheckpoint)?;
        if checkpoint.origin == key.name { Ok(checkpoint) } else { Err(NoteError::OtherOrigin) }
    }

    /// The signed text: origin, size, root, and the time where there is one.
    fn text(&self) -> String {
        let root = STANDARD.encode(self.root.as_bytes());
        let mut text = format!("{}\n{}\n{root}\n", self.origin, self.size);
        if let Some(time) = self.time {
            text.push_str(&format!("{TIME_PREFIX}{}\n", time.0));
        }
        text
    }

    /// Accepts exactly what [`Self::text`] writes: an unknown extension line is refused.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let root: [u8; 32] = STANDARD.decode(root).ok()?.try_into().ok()?;
        let time = match lines.next() {
            Some(line) => Some(UnixMs(line.strip_prefix(TIME_PREFIX)?.parse().ok()?)),
            None => None,
        };
        let root = Digest::from_bytes(root);
        let parsed = Self { origin: origin.to_owned(), size: size.parse().ok()?, root, time };
        (!origin.is_empty() && parsed.text() == text).then_some(parsed)
    }
}

/// The text of a note with its final newline, and its signature lines.
fn split_note(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLarge);
    }
    if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return Err(NoteError::Malformed);
    }
    let blank = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
    let (text, rest) = note.split_at_checked(blank + 1).ok_or(NoteError::Malformed)?;
    let signatures = rest.strip_prefix('\n').ok_or(NoteError::Malformed)?;
    let shaped = signatures.ends_with('\n') && signatures.len() > 1;
    if shaped { Ok((text, signatures)) } else { Err(NoteError::Malformed) }
}

/// Name, hash and 32 key bytes of `name+hash+base64(0x01 ‖ bytes)`.
fn split_key(text: &str) -> Result<(&str, &str, [u8; 32]), KeyError> {
    let (name, rest) = text.split_once('+').ok_or(KeyError::Shape)?;
    let (hash, key) = rest.split_once('+').ok_or(KeyError::Shape)?;
    let key = STANDARD.decode(key).map_err(|_| KeyError::Shape)?;
    let (algorithm, key) = key.split_first().ok_or(KeyError::Shape)?;
    if *algorithm != ED25519 {
        return Err(KeyError::Algorithm);
    }
    Ok((name, hash, key.try_into().map_err(|_| KeyError::Key)?))
}

fn encode_key(bytes: &[u8; 32]) -> String {
    STANDARD.encode([&[ED25519][..], bytes].concat())
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(public);
    let digest: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The worked example of Go's `golang.org/x/mod/sumdb/note`.
    const SIGNER: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const PETER: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFY\
                         C2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const ENOCH: &str = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGr\
                         Q5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

    fn peter() -> (SignerKey, VerifierKey) {
        (SIGNER.parse().unwrap(), VERIFIER.parse().unwrap())
    }

    fn log() -> SignerKey {
        SignerKey::from_seed("log.example/a", &[7; 32]).unwrap()
    }

    fn head() -> Checkpoint {
        let (origin, root) = ("log.example/a".to_owned(), Digest::of(b"root"));
        Checkpoint { origin, size: 20_852_163, root, time: Some(UnixMs(1_790_000_000_123)) }
    }

    #[test]
    fn keys_and_note_are_those_of_go() {
        let (signer, verifier) = peter();
        assert_eq!(signer.verifier(), &verifier);
        assert_eq!(verifier.to_string(), VERIFIER);
        assert_eq!(signer.to_secret_string(), SIGNER);
        assert_eq!(hex::encode(verifier.id()), "c74f20a3");
        let note = sign_note(TEXT, &signer).unwrap();
        assert_eq!(note, format!("{TEXT}\n{PETER}"));
        assert_eq!(open_note(&note, &verifier), Ok(TEXT));
        assert!(!format!("{signer:?}").contains("AYEKFALV"), "the seed is not shown");
    }

    #[test]
    fn signatures_by_others_are_ignored_and_do_not_count() {
        let (_, verifier) = peter();
        for note in [format!("{TEXT}\n{PETER}{ENOCH}"), format!("{TEXT}\n{ENOCH}{PETER}")] {
            assert_eq!(open_note(&note, &verifier), Ok(TEXT));
        }
        let note = format!("{TEXT}\n{ENOCH}");
        assert_eq!(open_note(&note, &verifier), Err(NoteError::NotSigned));
        let renamed = format!("{TEXT}\n{}", PETER.replace("PeterNeumann", "Peter"));
        assert_eq!(open_note(&renamed, &verifier), Err(NoteError::NotSigned));
    }

    #[test]
    fn one_wrong_signature_by_the_key_spoils_the_note() {
        let (signer, verifier) = peter();
        let other = sign_note("another text\n", &signer).unwrap();
        let wrong = other.strip_prefix("another text\n\n").unwrap();
        let note = format!("{TEXT}\n{PETER}{wrong}");
        assert_eq!(open_note(&note, &verifier), Err(NoteError::BadSignature));
    }

    #[test]
    fn what_is_not_a_note_is_malformed() {
        let (_, verifier) = peter();
        let line = PETER.trim_end();
        for note in [
            String::new(),
            "\n\n".into(),
            TEXT.into(),
            format!("{TEXT}\n"),
            format!("{TEXT}{PETER}"),
            format!("{TEXT}\n{line}"),
            format!("{TEXT}\n{PETER}\n"),
            format!("{TEXT}\n{PETER} \n"),
            format!("{TEXT}\n- x AAAAAAA=\n"),
            format!("{TEXT}\n— x\n"),
            format!("{TEXT}\n— x AAAA\n"),
            format!("{TEXT}\n— x AAAAAA==\n"),
            format!("{TEXT}\r\n{PETER}"),
            format!("{TEXT}\t\n{PETER}"),
            format!("{TEXT}\n{line}=\n"),
            format!("{TEXT}\n{}\n", line.trim_end_matches('=')),
        ] {
            assert_eq!(open_note(&note, &verifier), Err(NoteError::Malformed), "{note:?}");
        }
        let many = format!("{TEXT}\n{}", ENOCH.repeat(101));
        assert_eq!(open_note(&many, &verifier), Err(NoteError::TooLarge));
        let long = format!("{}\n{PETER}", "x\n".repeat(MAX_NOTE_BYTES));
        assert_eq!(open_note(&long, &verifier), Err(NoteError::TooLarge));
        assert_eq!(sign_note("no newline", &peter().0), Err(NoteError::Malformed));
    }

    #[test]
    fn mangled_keys_are_refused() {
        let part = |text: &'static str, range| text.get::<std::ops::Range<usize>>(range).unwrap();
        for end in 0..VERIFIER.len() {
            assert!(part(VERIFIER, 0..end).parse::<VerifierKey>().is_err());
            assert!(part(VERIFIER, end + 1..VERIFIER.len()).parse::<VerifierKey>().is_err());
        }
        for at in 0..VERIFIER.len() {
            let mut bytes = VERIFIER.as_bytes().to_vec();
            bytes[at] += 1;
            assert!(String::from_utf8(bytes).unwrap().parse::<VerifierKey>().is_err());
        }
        for at in 0..SIGNER.len() {
            let mut bytes = SIGNER.as_bytes().to_vec();
            bytes[at] += 1;
            assert!(String::from_utf8(bytes).unwrap().parse::<SignerKey>().is_err());
            assert!(part(SIGNER, 0..at).parse::<SignerKey>().is_err());
        }
        // From Go's tests: a key too long, and an unknown algorithm, each with a fitting hash.
        for key in [
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(key.parse::<VerifierKey>().is_err());
        }
        for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb"] {
            assert_eq!(SignerKey::from_seed(name, &[1; 32]).err(), Some(KeyError::Name));
        }
        // The neutral element verifies anything for some messages.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(VerifierKey::new("x", &neutral).err(), Some(KeyError::Key));
    }

    #[test]
    fn a_checkpoint_round_trips() {
        let key = log();
        for time in [None, Some(UnixMs(0)), Some(UnixMs(1_790_000_000_123))] {
            for size in [0, 1, u64::MAX] {
                let head = Checkpoint { time, size, ..head() };
                let note = head.sign(&key).unwrap();
                assert_eq!(Checkpoint::open(&note, key.verifier()), Ok(head));
            }
        }
        let note = head().sign(&key).unwrap();
        let lines: Vec<_> = note.lines().collect();
        assert_eq!(lines[..2], ["log.example/a", "20852163"]);
        assert_eq!(lines[3..5], ["time 1790000000123", ""]);
        assert!(lines[5].starts_with("— log.example/a "));
    }

    #[test]
    fn a_signed_text_of_another_form_is_no_checkpoint() {
        let key = log();
        let root = STANDARD.encode([0; 32]);
        for text in [
            "log.example/a\n1\n".to_owned(),
            format!("log.example/a\n01\n{root}\n"),
            format!("log.example/a\n+1\n{root}\n"),
            format!("log.example/a\n-1\n{root}\n"),
            format!("log.example/a\n18446744073709551616\n{root}\n"),
            format!("log.example/a\n1\n{}\n", STANDARD.encode([0; 31])),
            format!("log.example/a\n1\n{root}\ntime 01\n"),
            format!("log.example/a\n1\n{root}\nx\n"),
            format!("log.example/a\n1\n{root}\ntime 1\ntime 2\n"),
            format!("\n1\n{root}\n"),
            format!("log.example/a\n1\n{root}\n\n"),
        ] {
            let note = sign_note(&text, &key).unwrap();
            let opened = Checkpoint::open(&note, key.verifier());
            assert_eq!(opened, Err(NoteError::NotACheckpoint), "{text:?}");
        }
        let other = sign_note(&format!("log.example/b\n1\n{root}\n"), &key).unwrap();
        let opened = Checkpoint::open(&other, key.verifier());
        assert_eq!(opened, Err(NoteError::OtherOrigin));
        let foreign = Checkpoint { origin: "log.example/b".into(), ..head() };
        assert_eq!(foreign.sign(&key), Err(NoteError::OtherOrigin));
    }

    #[test]
    fn a_foreign_key_of_the_same_name_does_not_open_it() {
        let other = SignerKey::from_seed("log.example/a", &[8; 32]).unwrap();
        let note = head().sign(&other).unwrap();
        assert_eq!(Checkpoint::open(&note, log().verifier()), Err(NoteError::NotSigned));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let key = log();
        let note = head().sign(&key).unwrap();
        for at in 0..note.len() * 8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(Checkpoint::open(&text, key.verifier()).is_err(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn anything_else_is_refused_without_a_panic(note in "(?s).{0,200}") {
            prop_assert!(Checkpoint::open(&note, log().verifier()).is_err());
            prop_assert!(note.parse::<VerifierKey>().is_err());
        }
    }
}
