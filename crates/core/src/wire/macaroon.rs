//! Macaroons in the V2 binary form of `libmacaroons`: first-party caveats only.
//!
//! Owns the codec, minting, attenuation and the signature check. What a caveat means is in
//! [`super::caveat`].
//!
//! INVARIANT: what a macaroon allows is read only from [`Verified`], and that comes only from a
//! signature check that passed.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq as _;

/// Longest encoding that we read, in bytes.
pub const MAX_BYTES: usize = 8 << 10;
/// Most caveats that we read or write.
pub const MAX_CAVEATS: usize = 64;

const VERSION: u8 = 2;
const END: u8 = 0;
const LOCATION: u8 = 1;
const IDENTIFIER: u8 = 2;
const VERIFICATION_ID: u8 = 4;
const SIGNATURE: u8 = 6;
/// Every implementation derives the HMAC key from the root key with this one first.
const KEY_GENERATOR: &[u8; 32] = b"macaroons-key-generator\0\0\0\0\0\0\0\0\0";

/// A macaroon whose signature nobody has checked, or that we have just made. It is a bearer
/// secret: `Debug` shows no more than its size.
#[derive(Clone, PartialEq, Eq)]
pub struct Macaroon {
    location: Option<Vec<u8>>,
    identifier: Vec<u8>,
    caveats: Vec<Vec<u8>>,
    signature: [u8; 32],
}

impl fmt::Debug for Macaroon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Macaroon({} caveats)", self.caveats.len())
    }
}

/// Why bytes are not a macaroon we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacaroonError {
    /// They end too early.
    Short,
    /// They go on after the signature.
    Trailing,
    /// Longer than [`MAX_BYTES`], or more caveats than [`MAX_CAVEATS`].
    TooLarge,
    /// Not the V2 binary form.
    Version,
    /// A field that does not belong there.
    Field {
        /// Its tag.
        tag: u8,
    },
    /// A length that is not written in the shortest way, or that fits no field.
    Length,
    /// A third-party caveat.
    ThirdParty,
}

impl fmt::Display for MacaroonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the macaroon is cut off"),
            Self::Trailing => f.write_str("there are bytes after the macaroon"),
            Self::TooLarge => f.write_str("the macaroon is too large"),
            Self::Version => f.write_str("not a version 2 binary macaroon"),
            Self::Field { tag } => write!(f, "the macaroon has an unexpected field {tag}"),
            Self::Length => f.write_str("the macaroon has a malformed length"),
            Self::ThirdParty => f.write_str("third-party caveats are not accepted"),
        }
    }
}

impl std::error::Error for MacaroonError {}

/// The macaroon does not bear the signature of this root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the macaroon's signature is wrong")
    }
}

impl std::error::Error for BadSignature {}

/// The caveats of a macaroon whose signature is right.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    caveats: &'a [Vec<u8>],
}

impl<'a> Verified<'a> {
    /// The caveats, in the order in which they were added.
    #[must_use]
    pub const fn caveats(&self) -> &'a [Vec<u8>] {
        self.caveats
    }
}

impl Macaroon {
    /// A macaroon without caveats.
    #[must_use]
    pub fn mint(root_key: &[u8], identifier: &[u8]) -> Self {
        Self {
            location: None,
            identifier: identifier.to_vec(),
            caveats: Vec::new(),
            signature: initial_signature(root_key, identifier),
        }
    }

    /// The macaroon with one more first-party caveat. Needs no key: whoever holds a macaroon can
    /// narrow it.
    #[must_use]
    pub fn attenuate(mut self, caveat: &[u8]) -> Self {
        self.signature = hmac(&self.signature, caveat);
        self.caveats.push(caveat.to_vec());
        self
    }

    /// The public identifier, under which the root key is stored.
    #[must_use]
    pub fn identifier(&self) -> &[u8] {
        &self.identifier
    }

    /// The caveats as they stand there, for whoever shows them: nobody has checked that they are
    /// those of the mint.
    #[must_use]
    pub fn unverified_caveats(&self) -> &[Vec<u8>] {
        &self.caveats
    }

    /// Checks the signature, in constant time.
    ///
    /// # Errors
    /// It was not made with this root key over exactly these caveats in this order.
    pub fn verify(&self, root_key: &[u8]) -> Result<Verified<'_>, BadSignature> {
        let start = initial_signature(root_key, &self.identifier);
        let expected = self.caveats.iter().fold(start, |key, caveat| hmac(&key, caveat));
        if bool::from(expected.ct_eq(&self.signature)) {
            Ok(Verified { caveats: &self.caveats })
        } else {
            Err(BadSignature)
        }
    }

    /// The V2 binary form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        if let Some(location) = &self.location {
            put_field(&mut out, LOCATION, location);
        }
        put_field(&mut out, IDENTIFIER, &self.identifier);
        out.push(END);
        for caveat in &self.caveats {
            put_field(&mut out, IDENTIFIER, caveat);
            out.push(END);
        }
        // The list of caveats ends with a byte that the printed format leaves out.
        out.push(END);
        put_field(&mut out, SIGNATURE, &self.signature);
        out
    }

    /// Reads the V2 binary form, and nothing after it.
    ///
    /// # Errors
    /// See [`MacaroonError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MacaroonError> {
        if bytes.len() > MAX_BYTES {
            return Err(MacaroonError::TooLarge);
        }
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(MacaroonError::Version);
        }
        let mut tag = reader.byte()?;
        let mut location = None;
        if tag == LOCATION {
            location = Some(reader.data()?.to_vec());
            tag = reader.byte()?;
        }
        expect(tag, IDENTIFIER)?;
        let identifier = reader.data()?.to_vec();
        expect(reader.byte()?, END)?;
        let caveats = reader.caveats()?;
        expect(reader.byte()?, SIGNATURE)?;
        let signature = reader.data()?.try_into().map_err(|_| MacaroonError::Length)?;
        if !reader.0.is_empty() {
            return Err(MacaroonError::Trailing);
        }
        Ok(Self { location, identifier, caveats, signature })
    }
}

/// Bytes still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, MacaroonError> {
        let (first, rest) = self.0.split_first().ok_or(MacaroonError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    /// A length in base 128, low digits first, and that many bytes.
    fn data(&mut self) -> Result<&'a [u8], MacaroonError> {
        let low = self.byte()?;
        let mut length = usize::from(low & 0x7f);
        if low >= 0x80 {
            // Two digits reach past the longest macaroon.
            let high = self.byte()?;
            if high == 0 || high >= 0x80 {
                return Err(MacaroonError::Length);
            }
            length |= usize::from(high) << 7;
        }
        let (data, rest) = self.0.split_at_checked(length).ok_or(MacaroonError::Short)?;
        self.0 = rest;
        Ok(data)
    }

    /// Caveats up to the end of their list.
    fn caveats(&mut self) -> Result<Vec<Vec<u8>>, MacaroonError> {
        let mut caveats = Vec::new();
        loop {
            match self.byte()? {
                END => return Ok(caveats),
                IDENTIFIER if caveats.len() >= MAX_CAVEATS => return Err(MacaroonError::TooLarge),
                IDENTIFIER => caveats.push(self.data()?.to_vec()),
                // Only a third party has a location of its own.
                LOCATION => return Err(MacaroonError::ThirdParty),
                tag => return Err(MacaroonError::Field { tag }),
            }
            match self.byte()? {
                END => {}
                VERIFICATION_ID => return Err(MacaroonError::ThirdParty),
                tag => return Err(MacaroonError::Field { tag }),
            }
        }
    }
}

fn expect(tag: u8, expected: u8) -> Result<(), MacaroonError> {
    if tag == expected { Ok(()) } else { Err(MacaroonError::Field { tag }) }
}

fn put_field(out: &mut Vec<u8>, tag: u8, data: &[u8]) {
    out.push(tag);
    let mut length = data.len();
    loop {
        let digit = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        out.push(if length == 0 { digit } else { digit | 0x80 });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(data);
}

fn initial_signature(root_key: &[u8], identifier: &[u8]) -> [u8; 32] {
    hmac(&hmac(KEY_GENERATOR, root_key), identifier)
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // HMAC-SHA256 takes keys of up to 64 bytes as they are, zero-padded.
    let mut block = [0u8; 64];
    block.split_at_mut(32).0.copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::base64;
    use proptest::prelude::*;

    /// Encoded by the crate `macaroon` 0.3.0; under which root key is not recorded.
    const VECTOR: &str = "AgJCAACrq6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq83Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3NAAIVc2VydmljZXM9bWNwX3NlYXJjaDowAAIhbWNwX3NlYXJjaF92YWxpZF91bnRpbD0xOTk5OTk5OTk5AAAGIBaIyNhd9jgFE2PC5gOopDVueLz6JCrEL4Je4qOZToa7";

    fn vector_identifier() -> Vec<u8> {
        [&[0, 0][..], &[0xab; 32], &[0xcd; 32]].concat()
    }

    #[test]
    fn reads_and_writes_what_other_implementations_do() {
        let bytes = base64::decode(VECTOR).unwrap();
        assert_eq!(bytes.len(), 165);
        let read = Macaroon::decode(&bytes).unwrap();
        assert_eq!(read.identifier(), vector_identifier());
        assert_eq!(read.caveats.len(), 2);
        assert_eq!(read.caveats[0], b"services=mcp_search:0");
        assert_eq!(read.encode(), bytes);
        assert_eq!(format!("{read:?}"), "Macaroon(2 caveats)");
    }

    /// A macaroon that PyPI `pymacaroons` and npm `macaroon` make of the same: `e2e/macaroons.test.mjs`
    /// holds them to it.
    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        root_key: String,
        identifier: String,
        location: Option<String>,
        caveats: Vec<String>,
        macaroon: String,
        signature: String,
    }

    #[test]
    fn mints_and_verifies_as_other_implementations_do() {
        let text = include_str!("../../tests/vectors/macaroons.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
        assert!(vectors.len() >= 8);
        for vector in vectors {
            let [root, identifier] =
                [&vector.root_key, &vector.identifier].map(|text| hex::decode(text).unwrap());
            let mut minted = vector
                .caveats
                .iter()
                .fold(Macaroon::mint(&root, &identifier), |m, c| m.attenuate(c.as_bytes()));
            minted.location = vector.location.map(String::into_bytes);
            assert_eq!(base64::encode(&minted.encode()), vector.macaroon, "{}", vector.name);
            assert_eq!(hex::encode(minted.signature), vector.signature, "{}", vector.name);
            let bytes = base64::decode(&vector.macaroon).unwrap();
            let read = Macaroon::decode(&bytes).unwrap();
            assert_eq!(read.encode(), bytes, "{}", vector.name);
            let verified = read.verify(&root).unwrap();
            assert!(verified.caveats().iter().eq(vector.caveats.iter().map(String::as_bytes)));
            assert!(read.verify(&[&root[..], &[0]].concat()).is_err(), "another root key");
        }
    }

    #[test]
    fn an_empty_location_is_as_good_as_none() {
        let mut located = Macaroon::mint(b"root", b"id").attenuate(b"a=1");
        located.location = Some(Vec::new());
        let read = Macaroon::decode(&located.encode()).unwrap();
        assert_eq!(read.verify(b"root").unwrap().caveats(), [b"a=1"]);
    }

    #[test]
    fn the_signature_covers_the_caveats_and_their_order() {
        let minted = Macaroon::mint(b"root", b"id").attenuate(b"a=1").attenuate(b"b=2");
        assert_eq!(minted.verify(b"root").unwrap().caveats(), [b"a=1", b"b=2"]);
        let forged = |change: &dyn Fn(&mut Macaroon)| {
            let mut copy = minted.clone();
            change(&mut copy);
            copy.verify(b"root").is_err()
        };
        assert!(minted.verify(b"other").is_err());
        assert!(forged(&|m| drop(m.caveats.pop())));
        assert!(forged(&|m| m.caveats.swap(0, 1)));
        assert!(forged(&|m| m.caveats.push(b"c=3".to_vec())));
        assert!(forged(&|m| m.identifier.push(0)));
        assert!(forged(&|m| m.signature[31] ^= 1));
        // The location is a hint that the signature leaves out.
        assert!(!forged(&|m| m.location = Some(b"x".to_vec())));
    }

    #[test]
    fn every_malformed_form_is_refused() {
        let good = base64::decode(VECTOR).unwrap();
        for end in 0..good.len() {
            assert_eq!(Macaroon::decode(&good[..end]), Err(MacaroonError::Short), "{end}");
        }
        let mut trailing = good.clone();
        trailing.push(0);
        assert_eq!(Macaroon::decode(&trailing), Err(MacaroonError::Trailing));
        assert_eq!(Macaroon::decode(b"MDAxMW"), Err(MacaroonError::Version));
        assert_eq!(Macaroon::decode(&vec![2; MAX_BYTES + 1]), Err(MacaroonError::TooLarge));
        let third = [2, 2, 1, 7, 0, 2, 1, 7, 4, 1, 7, 0, 0, 6, 0];
        assert_eq!(Macaroon::decode(&third), Err(MacaroonError::ThirdParty));
        let located = [2, 2, 1, 7, 0, 1, 1, 7, 2, 1, 7, 0, 0, 6, 0];
        assert_eq!(Macaroon::decode(&located), Err(MacaroonError::ThirdParty));
        let overlong = [2, 2, 0x81, 0, 7, 0, 0, 6, 0];
        assert_eq!(Macaroon::decode(&overlong), Err(MacaroonError::Length));
        let short_signature = [2, 2, 1, 7, 0, 0, 6, 1, 9];
        assert_eq!(Macaroon::decode(&short_signature), Err(MacaroonError::Length));
        let no_end_of_caveats = [2, 2, 1, 7, 0, 6, 0];
        assert_eq!(Macaroon::decode(&no_end_of_caveats), Err(MacaroonError::Field { tag: 6 }));
    }

    #[test]
    fn caveats_are_counted() {
        let many = |count| (0..count).fold(Macaroon::mint(b"r", b"i"), |m, _| m.attenuate(b"a=1"));
        assert!(Macaroon::decode(&many(MAX_CAVEATS).encode()).is_ok());
        let error = Macaroon::decode(&many(MAX_CAVEATS + 1).encode());
        assert_eq!(error, Err(MacaroonError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_minted_reads_back_and_verifies(
            root in any::<[u8; 32]>(),
            identifier in prop::collection::vec(any::<u8>(), 0..300),
            caveats in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        ) {
            let minted = caveats.iter()
                .fold(Macaroon::mint(&root, &identifier), |m, caveat| m.attenuate(caveat));
            let read = Macaroon::decode(&minted.encode()).unwrap();
            prop_assert_eq!(&read, &minted);
            prop_assert_eq!(read.verify(&root).unwrap().caveats(), &caveats[..]);
        }

        #[test]
        fn one_encoding_each(bytes in prop::collection::vec(0u8..8, 0..40), sig in any::<[u8; 32]>()) {
            let tail = [&[0, 6, 32][..], &sig].concat();
            for bytes in [bytes.clone(), [&[2, 2, 1, 7, 0][..], &bytes, &tail].concat()] {
                if let Ok(read) = Macaroon::decode(&bytes) {
                    prop_assert_eq!(read.encode(), bytes);
                }
            }
        }
    }
}
