//! Proof of work: a challenge that costs computing instead of money, and the forms in which its
//! solution comes back.
//!
//! A challenge is one line of text under our HMAC, so that nothing has to be remembered of it:
//! `base64url(version | key id | challenge id | expiry | D | call digest | subject | tag)`. It is
//! solved by a text such that `be_u64(sha256(challenge || text)) <= u64::MAX / D`. Two older
//! forms solve the same challenge: a hashcash v1 stamp whose resource it is, and ALTCHA, whose
//! salt it is.
//!
//! Owns the forms on the wire and the arithmetic. Whom and what a challenge is for, and whether it
//! was solved before, is decided elsewhere.
//!
//! INVARIANT: the fields of a challenge can be read only through [`Challenge::open`], after its tag
//! was compared.

use super::{
    base64,
    json::{Limits, check},
    object::ObjectWriter,
};
use crate::{digest::Digest, time::UnixMs};
use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// `_meta` key of a challenge in a result, and of its solution in the retry.
pub const META: &str = "countersign/pow";
/// HTTP header of a challenge.
pub const CHALLENGE: &str = "PoW-Challenge";
/// HTTP header of a solution.
pub const SOLUTION: &str = "PoW-Solution";
/// The longest a challenge is good, in milliseconds.
pub const TTL_MAX_MS: u64 = 120_000;

/// Longest text that solves a challenge.
const COUNTER_MAX: usize = 64;
/// Longest hashcash stamp.
const STAMP_MAX: usize = 512;
const VERSION: u8 = 1;
/// Bytes of a challenge before its tag, and of the tag.
const BODY: usize = 101;
const TAG: usize = 16;

/// SHA-1, for hashcash stamps; the caller brings it.
pub type Sha1 = fn(&[u8]) -> [u8; 20];

/// What seals challenges.
#[derive(Clone)]
pub struct Key {
    id: [u8; 4],
    secret: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", hex::encode(self.id))
    }
}

impl Key {
    /// The key that belongs to a secret of the deployment.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        let secret = hmac(secret, &[b"countersign/pow/1"]);
        let [a, b, c, d, ..] = hmac(&secret, &[b"id"]);
        Self { id: [a, b, c, d], secret }
    }

    /// A keyed digest for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        hmac(&self.secret, &[purpose.as_bytes(), b"|", bytes])
    }
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC-SHA256 takes keys of up to 64 bytes as they are, zero-padded.
    let mut block = [0u8; 64];
    block.split_at_mut(32).0.copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Why a text is no solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowError {
    /// None of the forms.
    Shape,
    /// Not a hashcash v1 stamp.
    Stamp,
    /// Not the payload of ALTCHA.
    Altcha,
    /// The challenge in the solution is not the one beside it.
    Differ,
}

impl fmt::Display for PowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "expected `<nonce>:<solution>`, a hashcash stamp or an ALTCHA payload",
            Self::Stamp => "not a hashcash stamp of version 1",
            Self::Altcha => "not an ALTCHA payload",
            Self::Differ => "the solution names another nonce than the one beside it",
        })
    }
}

impl std::error::Error for PowError {}

/// The text is not a challenge under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// What is to be solved, by whom and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Random: a challenge is good for one call.
    pub id: [u8; 16],
    /// When it ends.
    pub expires_at: UnixMs,
    /// Hashes that it takes on average.
    pub difficulty: u64,
    /// The call, as [`crate::call::Call::digest`] has it: tool, arguments and principal.
    pub call: Digest,
    /// Who asked: a digest of the identity, or of the address of somebody unknown.
    pub subject: Digest,
}

impl Challenge {
    /// Its text, under a key.
    #[must_use]
    pub fn seal(&self, key: &Key) -> String {
        let mut bytes = Vec::with_capacity(BODY + TAG);
        bytes.push(VERSION);
        bytes.extend(key.id);
        bytes.extend(self.id);
        bytes.extend(self.expires_at.0.to_be_bytes());
        bytes.extend(self.difficulty.to_be_bytes());
        bytes.extend(self.call.as_bytes());
        bytes.extend(self.subject.as_bytes());
        let tag = tag(key, &bytes);
        bytes.extend(tag);
        base64::encode_url(&bytes)
    }

    /// Reads a text that this key sealed.
    ///
    /// # Errors
    /// [`Foreign`]: anything else, another spelling of the same bytes included.
    pub fn open(text: &str, key: &Key) -> Result<Self, Foreign> {
        let bytes = base64::decode(text).filter(|bytes| base64::encode_url(bytes) == text);
        let bytes = bytes.ok_or(Foreign)?;
        let (body, found) = bytes.split_at_checked(BODY).ok_or(Foreign)?;
        if !bool::from(tag(key, body).ct_eq(found)) {
            return Err(Foreign);
        }
        let mut fields = Fields(body);
        if fields.take::<1>()? != [VERSION] || fields.take::<4>()? != key.id {
            return Err(Foreign);
        }
        Ok(Self {
            id: fields.take()?,
            expires_at: UnixMs(u64::from_be_bytes(fields.take()?)),
            difficulty: u64::from_be_bytes(fields.take()?),
            call: Digest::from_bytes(fields.take()?),
            subject: Digest::from_bytes(fields.take()?),
        })
    }

    /// The largest first eight bytes of a hash that solves it.
    #[must_use]
    pub const fn target(&self) -> u64 {
        u64::MAX / if self.difficulty == 0 { 1 } else { self.difficulty }
    }

    /// Leading zero bits that are always enough.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        // What has so many is at most `2^(64 - bits) - 1`, which must not exceed the target.
        u64::BITS - (self.target().saturating_add(1).ilog2())
    }

    /// Whether a solution solves this challenge, whose text is `text`.
    #[must_use]
    pub fn is_solved_by(&self, text: &str, solution: &Solution, key: &Key, sha1: Sha1) -> bool {
        match solution {
            Solution::Counter(counter) => {
                let hash = Sha256::new().chain_update(text).chain_update(counter).finalize();
                first_eight(&hash).is_some_and(|head| head <= self.target())
            }
            Solution::Stamp(stamp) => {
                let bits = stamp_bits(stamp).map(|claimed| claimed.max(self.bits()));
                let zeros = first_eight(&sha1(stamp.as_bytes())).map(u64::leading_zeros);
                bits.zip(zeros).is_some_and(|(bits, zeros)| zeros >= bits)
            }
            Solution::Altcha(payload) => {
                let own = Altcha::of(self, text, key);
                payload.algorithm == "SHA-256"
                    && payload.salt == own.salt
                    && payload.challenge == own.challenge
                    && payload.signature == own.signature
                    && payload.number == own.number
            }
        }
    }

    /// The offer, as JSON: in a result's `_meta`, in a 402's body, from the endpoint.
    #[must_use]
    pub fn offer(&self, key: &Key) -> String {
        let text = self.seal(key);
        let altcha = Altcha::of(self, &text, key);
        let altcha = ObjectWriter::new()
            .text("algorithm", "SHA-256")
            .text("challenge", &altcha.challenge)
            .raw("maxnumber", &altcha.most.to_string())
            .text("salt", &altcha.salt)
            .text("signature", &altcha.signature)
            .finish();
        ObjectWriter::new()
            .text("scheme", "pow")
            .text("version", "1")
            .text("algorithm", "SHA-256")
            .text("nonce", &text)
            .text("target", &format!("{:016x}{}", self.target(), "f".repeat(48)))
            .raw("bits", &self.bits().to_string())
            .raw("difficulty", &self.difficulty.to_string())
            .raw("expiresAt", &self.expires_at.0.to_string())
            .raw("altcha", &altcha)
            .finish()
    }

    /// The value of the header that carries the offer.
    #[must_use]
    pub fn header(&self, key: &Key) -> String {
        let (text, target) = (self.seal(key), self.target());
        format!(
            r#"nonce="{text}", target="{target:016x}{}", bits={}, expires={}"#,
            "f".repeat(48),
            self.bits(),
            self.expires_at.0
        )
    }
}

fn tag(key: &Key, body: &[u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    let mac = key.derive("challenge", body);
    tag.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
    tag
}

/// The first eight bytes of a hash, as a number.
#[must_use]
pub fn first_eight(hash: &[u8]) -> Option<u64> {
    hash.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Bytes still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Foreign> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Foreign)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// ALTCHA's form of a challenge: find the number whose hash after the salt is this one.
struct Altcha {
    salt: String,
    challenge: String,
    signature: String,
    number: u64,
    most: u64,
}

impl Altcha {
    /// The number follows from the challenge and our key. Tried from zero on it is found after `D`
    /// hashes on average. The salt ends in a sign that is no digit: no digit of the number can be
    /// taken for one of the expiry.
    fn of(challenge: &Challenge, text: &str, key: &Key) -> Self {
        let most = challenge.difficulty.saturating_mul(2).saturating_sub(1);
        let draw = first_eight(&key.derive("altcha", text.as_bytes())).unwrap_or(0);
        let number = (u128::from(draw) * (u128::from(most) + 1)) >> 64;
        let number = u64::try_from(number).unwrap_or(most);
        let salt = format!("{text}?expires={}&", challenge.expires_at.seconds());
        let hash = Digest::of(format!("{salt}{number}").as_bytes()).to_hex();
        let signature = hex::encode(key.derive("altcha-signature", hash.as_bytes()));
        Self { salt, challenge: hash, signature, number, most }
    }
}

/// What ALTCHA's clients send: base64 of this JSON.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct AltchaPayload {
    algorithm: String,
    challenge: String,
    number: u64,
    salt: String,
    signature: String,
}

/// A claim to have solved a challenge.
#[derive(Clone, PartialEq, Eq)]
pub enum Solution {
    /// The text that was found.
    Counter(String),
    /// A hashcash v1 stamp.
    Stamp(String),
    /// ALTCHA.
    Altcha(AltchaPayload),
}

/// A solution with the challenge that it names, as they came: nothing is believed. Whoever holds it
/// can use it, so `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented {
    /// The challenge's text.
    pub nonce: String,
    /// The solution.
    pub solution: Solution,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented")
    }
}

impl Presented {
    /// Reads `<nonce>:<solution>`, a hashcash stamp, or ALTCHA's payload.
    ///
    /// # Errors
    /// See [`PowError`].
    pub fn parse(text: &str) -> Result<Self, PowError> {
        if text.starts_with("1:") {
            return Self::stamp(text);
        }
        match text.split_once(':') {
            Some((nonce, counter)) => Self::counter(nonce, counter),
            None => Self::altcha(text),
        }
    }

    /// Reads the value of the retry's `_meta` entry: such a text, or `{nonce, solution}`.
    ///
    /// # Errors
    /// See [`PowError`].
    pub fn from_json(raw: &RawValue) -> Result<Self, PowError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Pair { nonce: String, solution: String },
        }
        check(raw.get().as_bytes(), &Limits::PROOF).map_err(|_| PowError::Shape)?;
        match serde_json::from_str(raw.get()).map_err(|_| PowError::Shape)? {
            Form::Text(text) => Self::parse(&text),
            Form::Pair { nonce, solution } => Self::of(&nonce, &solution),
        }
    }

    /// Reads a solution beside the challenge that it is for.
    ///
    /// # Errors
    /// See [`PowError`].
    pub fn of(nonce: &str, solution: &str) -> Result<Self, PowError> {
        let read = if solution.starts_with("1:") {
            Self::stamp(solution)?
        } else if solution.len() > COUNTER_MAX {
            Self::altcha(solution)?
        } else {
            Self::counter(nonce, solution)?
        };
        if read.nonce == nonce { Ok(read) } else { Err(PowError::Differ) }
    }

    fn counter(nonce: &str, counter: &str) -> Result<Self, PowError> {
        let is_plain = counter.bytes().all(|byte| byte.is_ascii_graphic());
        if counter.is_empty() || counter.len() > COUNTER_MAX || !is_plain {
            return Err(PowError::Shape);
        }
        let (nonce, counter) = (nonce.to_owned(), counter.to_owned());
        Ok(Self { nonce, solution: Solution::Counter(counter) })
    }

    /// `1:bits:date:resource:extension:random:counter`.
    fn stamp(stamp: &str) -> Result<Self, PowError> {
        let fields: Vec<&str> = stamp.split(':').collect();
        let [_, _, _, resource, _, _, _] = fields.as_slice() else { return Err(PowError::Stamp) };
        if stamp.len() > STAMP_MAX || !stamp.is_ascii() || stamp_bits(stamp).is_none() {
            return Err(PowError::Stamp);
        }
        let (nonce, stamp) = ((*resource).to_owned(), stamp.to_owned());
        Ok(Self { nonce, solution: Solution::Stamp(stamp) })
    }

    fn altcha(text: &str) -> Result<Self, PowError> {
        let bytes = base64::decode(text).ok_or(PowError::Altcha)?;
        check(&bytes, &Limits::PROOF).map_err(|_| PowError::Altcha)?;
        let payload: AltchaPayload =
            serde_json::from_slice(&bytes).map_err(|_| PowError::Altcha)?;
        let nonce = payload.salt.split('?').next().unwrap_or_default().to_owned();
        Ok(Self { nonce, solution: Solution::Altcha(payload) })
    }

    /// The value of the header, or of the `_meta` entry as a text, for a client that found a
    /// counter.
    #[must_use]
    pub fn text(nonce: &str, counter: &str) -> String {
        format!("{nonce}:{counter}")
    }
}

/// The bits that a stamp claims.
fn stamp_bits(stamp: &str) -> Option<u32> {
    stamp.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    fn key() -> Key {
        Key::of(&[7; 32])
    }

    fn challenge(difficulty: u64) -> Challenge {
        Challenge {
            id: [1; 16],
            expires_at: UnixMs(1_795_000_060_000),
            difficulty,
            call: Digest::of(b"call"),
            subject: Digest::of(b"subject"),
        }
    }

    /// A hash with so many leading zeros.
    fn zeros<const N: usize>(bits: u32) -> [u8; N] {
        let mut hash = [0xff; N];
        let head = u64::MAX.checked_shr(bits).unwrap_or(0).to_be_bytes();
        hash.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        hash
    }

    fn sha1_of_20_zeros(_: &[u8]) -> [u8; 20] {
        zeros(20)
    }

    #[test]
    fn a_challenge_is_one_line_that_reads_back() {
        let text = challenge(50_000).seal(&key());
        assert_eq!(text.len(), 156);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(Challenge::open(&text, &key()), Ok(challenge(50_000)));
        assert_eq!(Challenge::open("", &key()), Err(Foreign));
        let offer: serde_json::Value =
            serde_json::from_str(&challenge(50_000).offer(&key())).unwrap();
        assert_eq!(offer["nonce"], text);
        assert_eq!(offer["target"].as_str().unwrap().len(), 64);
        assert_eq!((&offer["bits"], &offer["altcha"]["maxnumber"]), (&16.into(), &99_999.into()));
    }

    #[test]
    fn every_form_of_a_solution_is_read_and_nothing_else() {
        let text = challenge(1).seal(&key());
        let stamp = format!("1:20:261201:{text}::rand:c0");
        let payload = STANDARD.encode(format!(
            r#"{{"algorithm":"SHA-256","challenge":"c","number":7,"salt":"{text}?expires=1&","signature":"s"}}"#
        ));
        for form in [format!("{text}:17"), stamp.clone(), payload.clone()] {
            let read = Presented::parse(&form).unwrap();
            assert_eq!(read.nonce, text, "{form}");
            let raw = RawValue::from_string(serde_json::to_string(&form).unwrap()).unwrap();
            assert!(Presented::from_json(&raw).unwrap() == read);
        }
        for solution in ["17", &stamp, &payload] {
            assert!(Presented::of(&text, solution).is_ok(), "{solution}");
        }
        let pair = format!(r#"{{"nonce":"{text}","solution":"17"}}"#);
        assert!(Presented::from_json(&RawValue::from_string(pair).unwrap()).is_ok());
        assert_eq!(Presented::of("other", &stamp).err(), Some(PowError::Differ));
        assert_eq!(Presented::of("other", &payload).err(), Some(PowError::Differ));
        for bad in ["", "x", "n:", "n:a b", "n:\u{7}", "1:20:d:r:e:c", "1:x:d:r:e:r:c", "1:::::::"]
        {
            assert!(Presented::parse(bad).is_err(), "{bad}");
        }
        assert!(Presented::parse(&format!("n:{}", "9".repeat(65))).is_err());
    }

    #[test]
    fn a_stamp_needs_the_bits_that_it_claims_and_those_that_are_asked() {
        let solved = |difficulty, claimed: &str| {
            let challenge = challenge(difficulty);
            let text = challenge.seal(&key());
            let stamp = Solution::Stamp(format!("1:{claimed}:261201:{text}::rand:c0"));
            challenge.is_solved_by(&text, &stamp, &key(), sha1_of_20_zeros)
        };
        assert!(solved(1 << 20, "20") && solved(1 << 20, "0") && solved(1_000_000, "20"));
        assert!(!solved(1 << 20, "21"), "claims more than it has");
        assert!(!solved((1 << 20) + 1, "20"), "asked for 21");
    }

    #[test]
    fn altcha_has_one_number_and_every_member_counts() {
        let challenge = challenge(500);
        let text = challenge.seal(&key());
        let offer: serde_json::Value = serde_json::from_str(&challenge.offer(&key())).unwrap();
        let offer = &offer["altcha"];
        let (salt, hash) = (offer["salt"].as_str().unwrap(), offer["challenge"].as_str().unwrap());
        let is_it = |n: &u64| Digest::of(format!("{salt}{n}").as_bytes()).to_hex() == hash;
        let number = (0..=offer["maxnumber"].as_u64().unwrap()).find(is_it).unwrap();
        let payload = |edit: fn(&mut AltchaPayload)| {
            let mut payload = AltchaPayload {
                algorithm: "SHA-256".into(),
                challenge: hash.into(),
                number,
                salt: salt.into(),
                signature: offer["signature"].as_str().unwrap().into(),
            };
            edit(&mut payload);
            challenge.is_solved_by(&text, &Solution::Altcha(payload), &key(), sha1_of_20_zeros)
        };
        assert!(payload(|_| {}));
        assert!(!payload(|p| p.number += 1));
        assert!(!payload(|p| p.algorithm = "SHA-1".into()));
        assert!(!payload(|p| p.challenge.push('0')));
        assert!(!payload(|p| p.salt = p.salt.replace('&', "&&")));
        assert!(!payload(|p| p.signature.clear()));
    }

    proptest! {
        #[test]
        fn so_many_zero_bits_are_enough_and_one_less_is_not_always(difficulty in 2u64..1 << 40) {
            let challenge = challenge(difficulty);
            let bits = challenge.bits();
            prop_assert!(first_eight(&zeros::<32>(bits)).unwrap() <= challenge.target());
            prop_assert!(first_eight(&zeros::<32>(bits - 1)).unwrap() > challenge.target());
        }

        #[test]
        fn reading_never_panics(text in ".{0,200}") {
            let _ = Presented::parse(&text);
            let _ = Challenge::open(&text, &key());
        }
    }
}
