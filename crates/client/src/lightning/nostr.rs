//! Nostr, as far as a wallet needs it: signed events (NIP-01), and texts for one reader: NIP-44
//! version 2, and the older NIP-04 for wallets that know no other.
//!
//! Pure. INVARIANT: a text is opened only after its authentication holds (NIP-44; NIP-04 has
//! none, but for the event's signature).

use aws_lc_rs::{
    cipher::{
        AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
        PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    constant_time,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20::{
    ChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use countersign_core::{wire::json::quote, world::World};
use hmac::{Hmac, Mac as _};
use secp256k1::{
    Keypair, Message, Parity, PublicKey, Secp256k1, SecretKey, XOnlyPublicKey, ecdh, schnorr,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The longest text that NIP-44 version 2 carries.
const TEXT_BYTES_MAX: usize = 65_535;

/// An event, as it came.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) pubkey: String,
    pub(super) created_at: u64,
    pub(super) kind: u32,
    pub(super) tags: Vec<Vec<String>>,
    pub(super) content: String,
    pub(super) sig: String,
}

/// One of the two ends: our secret, their public key.
pub(super) struct Pair {
    keys: Keypair,
    them: XOnlyPublicKey,
    shared_x: [u8; 32],
}

/// How texts are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    Nip44,
    Nip04,
}

impl Pair {
    pub(super) fn new(secret: &[u8; 32], them: &[u8; 32]) -> Option<Self> {
        let curve = Secp256k1::new();
        let secret = SecretKey::from_slice(secret).ok()?;
        let keys = Keypair::from_secret_key(&curve, &secret);
        let them = XOnlyPublicKey::from_slice(them).ok()?;
        let point = PublicKey::from_x_only_public_key(them, Parity::Even);
        let shared = ecdh::shared_secret_point(&point, &secret);
        let (shared_x, _) = shared.split_first_chunk::<32>()?;
        Some(Self { keys, them, shared_x: *shared_x })
    }

    /// Their public key, in hex.
    pub(super) fn them(&self) -> String {
        hex::encode(self.them.serialize())
    }

    /// An event of ours, as JSON, and its id.
    pub(super) fn event(
        &self,
        (kind, created_at_s): (u32, u64),
        tags: &[Vec<String>],
        content: &str,
        world: &World,
    ) -> (String, String) {
        let us = hex::encode(self.keys.x_only_public_key().0.serialize());
        let digest = digest(&us, (kind, created_at_s), tags, content);
        let curve = Secp256k1::signing_only();
        let message = Message::from_digest(digest);
        let sig = curve.sign_schnorr_with_aux_rand(&message, &self.keys, &world.random());
        let (id, tags) = (hex::encode(digest), tags_json(tags));
        let json = format!(
            r#"{{"id":"{id}","pubkey":"{us}","created_at":{created_at_s},"kind":{kind},"tags":{tags},"content":{},"sig":"{sig}"}}"#,
            quote(content)
        );
        (id, json)
    }

    /// Whether an event is theirs.
    pub(super) fn is_theirs(&self, event: &Event) -> bool {
        let Event { id, pubkey, created_at, kind, tags, content, sig } = event;
        let digest = digest(pubkey, (*kind, *created_at), tags, content);
        let sig = hex::decode(sig).ok().and_then(|sig| schnorr::Signature::from_slice(&sig).ok());
        let Some(sig) = sig.filter(|_| *pubkey == self.them() && *id == hex::encode(digest)) else {
            return false;
        };
        let curve = Secp256k1::verification_only();
        curve.verify_schnorr(&sig, &Message::from_digest(digest), &self.them).is_ok()
    }

    /// Seals a text for them.
    pub(super) fn seal(&self, text: &str, how: Seal, world: &World) -> Option<String> {
        match how {
            Seal::Nip44 => self.seal_44(text, &world.random()),
            Seal::Nip04 => self.seal_04(text, world.random()),
        }
    }

    /// Opens a text of theirs, however it is sealed.
    pub(super) fn open(&self, sealed: &str) -> Option<String> {
        match sealed.split_once("?iv=") {
            Some((text, iv)) => self.open_04(text, iv),
            None => self.open_44(sealed),
        }
    }

    fn seal_44(&self, text: &str, nonce: &[u8; 32]) -> Option<String> {
        let keys = MessageKeys::of(&self.shared_x, nonce)?;
        let mut bytes = padded(text)?;
        ChaCha20::new(&keys.cipher.into(), &keys.iv.into()).apply_keystream(&mut bytes);
        let mac = keys.mac(nonce, &bytes)?;
        Some(STANDARD.encode([&[2u8][..], nonce, &bytes, &mac].concat()))
    }

    fn open_44(&self, sealed: &str) -> Option<String> {
        let bytes = STANDARD.decode(sealed).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<32>()?;
        let (sealed, mac) = rest.split_last_chunk::<32>()?;
        let keys = MessageKeys::of(&self.shared_x, nonce)?;
        if *version != 2
            || constant_time::verify_slices_are_equal(&keys.mac(nonce, sealed)?, mac).is_err()
        {
            return None;
        }
        let mut bytes = sealed.to_vec();
        ChaCha20::new(&keys.cipher.into(), &keys.iv.into()).apply_keystream(&mut bytes);
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || rest.len() != padded_len(length) {
            return None;
        }
        String::from_utf8(rest.get(..length)?.to_vec()).ok()
    }

    fn seal_04(&self, text: &str, iv: [u8; 16]) -> Option<String> {
        let key = UnboundCipherKey::new(&AES_256, &self.shared_x).ok()?;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).ok()?;
        let mut bytes = text.as_bytes().to_vec();
        let context = EncryptionContext::Iv128(iv.into());
        key.less_safe_encrypt(&mut bytes, context).ok()?;
        Some(format!("{}?iv={}", STANDARD.encode(bytes), STANDARD.encode(iv)))
    }

    fn open_04(&self, sealed: &str, iv: &str) -> Option<String> {
        let key = UnboundCipherKey::new(&AES_256, &self.shared_x).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let iv: [u8; 16] = STANDARD.decode(iv).ok()?.try_into().ok()?;
        let mut bytes = STANDARD.decode(sealed).ok()?;
        let plain = key.decrypt(&mut bytes, DecryptionContext::Iv128(iv.into())).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }
}

/// The keys of one NIP-44 message.
struct MessageKeys {
    cipher: [u8; 32],
    iv: [u8; 12],
    mac: [u8; 32],
}

impl MessageKeys {
    fn of(shared_x: &[u8; 32], nonce: &[u8; 32]) -> Option<Self> {
        let conversation = hmac(b"nip44-v2", &[shared_x])?;
        let first = hmac(&conversation, &[nonce, &[1]])?;
        let second = hmac(&conversation, &[&first, nonce, &[2]])?;
        let third = hmac(&conversation, &[&second, nonce, &[3]])?;
        let bytes = [first, second, third].concat();
        let (cipher, rest) = bytes.split_first_chunk::<32>()?;
        let (iv, rest) = rest.split_first_chunk::<12>()?;
        let (mac, _) = rest.split_first_chunk::<32>()?;
        Some(Self { cipher: *cipher, iv: *iv, mac: *mac })
    }

    fn mac(&self, nonce: &[u8; 32], sealed: &[u8]) -> Option<[u8; 32]> {
        hmac(&self.mac, &[nonce, sealed])
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac.finalize().into_bytes().into())
}

/// Length, text, zeros.
fn padded(text: &str) -> Option<Vec<u8>> {
    let length = u16::try_from(text.len()).ok().filter(|length| *length > 0)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(2 + padded_len(text.len()), 0);
    Some(bytes)
}

/// How long a text is made to look.
fn padded_len(length: usize) -> usize {
    if length <= 32 {
        return 32;
    }
    let next_power = length.min(TEXT_BYTES_MAX).next_power_of_two();
    let chunk = if next_power <= 256 { 32 } else { next_power / 8 };
    chunk * length.div_ceil(chunk)
}

/// What an event's signature covers.
fn digest(
    pubkey: &str,
    (kind, created_at_s): (u32, u64),
    tags: &[Vec<String>],
    content: &str,
) -> [u8; 32] {
    let (pubkey, tags, content) = (quote(pubkey), tags_json(tags), quote(content));
    Sha256::digest(format!("[0,{pubkey},{created_at_s},{kind},{tags},{content}]")).into()
}

fn tags_json(tags: &[Vec<String>]) -> String {
    let tag = |tag: &Vec<String>| {
        let items: Vec<String> = tag.iter().map(|item| quote(item)).collect();
        format!("[{}]", items.join(","))
    };
    format!("[{}]", tags.iter().map(tag).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::time::UnixMs;

    fn world() -> World {
        World::new(|| UnixMs(0), |bytes| bytes.fill(9))
    }

    fn bytes(hex: &str) -> [u8; 32] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    fn public(secret: &[u8; 32]) -> [u8; 32] {
        let keys = Keypair::from_seckey_slice(&Secp256k1::new(), secret).unwrap();
        keys.x_only_public_key().0.serialize()
    }

    fn pair(ours: [u8; 32], theirs: [u8; 32]) -> Pair {
        Pair::new(&ours, &public(&theirs)).unwrap()
    }

    /// Vectors of the specification (nip44.vectors.json, `valid.encrypt_decrypt`).
    #[test]
    fn texts_are_sealed_as_nip_44_says() {
        let (one, two) = (bytes(&format!("{:064x}", 1)), bytes(&format!("{:064x}", 2)));
        let conversation = hmac(b"nip44-v2", &[&pair(one, two).shared_x]).unwrap();
        assert_eq!(
            hex::encode(conversation),
            "c41c775356fd92eadc63ff5a0dc1da211b268cbea22316767095b2871ea1412d"
        );
        let sealed = pair(one, two).seal_44("a", &bytes(&format!("{:064x}", 1))).unwrap();
        assert_eq!(
            sealed,
            "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABee0G5VSK0/9YypIObAtDKfYEAjD35uVkHyB0F4DwrcNaCXlCWZKaArsGrY6M9wnuTMxWfp1RTN9Xga8no+kF5Vsb"
        );
        assert_eq!(pair(two, one).open(&sealed).as_deref(), Some("a"));
    }

    #[test]
    fn lengths_are_hidden_as_nip_44_says() {
        let table = [
            (16, 32),
            (32, 32),
            (33, 64),
            (37, 64),
            (45, 64),
            (49, 64),
            (64, 64),
            (65, 96),
            (100, 128),
            (111, 128),
            (200, 224),
            (250, 256),
            (320, 320),
            (383, 384),
            (384, 384),
            (400, 448),
            (500, 512),
            (512, 512),
            (515, 640),
            (700, 768),
            (800, 896),
            (900, 1024),
            (1020, 1024),
            (65536, 65536),
        ];
        for (length, padded) in table {
            assert_eq!(padded_len(length), padded, "{length}");
        }
    }

    #[test]
    fn both_seals_open_for_the_other_end_alone() {
        let (us, them, third) = ([3; 32], [4; 32], [5; 32]);
        for how in [Seal::Nip44, Seal::Nip04] {
            let text = r#"{"method":"pay_invoice","params":{"invoice":"lnbc"}}"#;
            let sealed = pair(us, them).seal(text, how, &world()).unwrap();
            assert_eq!(pair(them, us).open(&sealed).as_deref(), Some(text), "{how:?}");
            assert_ne!(pair(third, us).open(&sealed).as_deref(), Some(text), "{how:?}");
        }
        let sealed = pair(us, them).seal("x", Seal::Nip44, &world()).unwrap();
        let mut altered = STANDARD.decode(&sealed).unwrap();
        altered[40] ^= 1;
        assert_eq!(pair(them, us).open(&STANDARD.encode(altered)), None);
    }

    #[test]
    fn an_event_is_theirs_or_nobody_s() {
        let (us, them) = ([3; 32], [4; 32]);
        let tags = [vec!["p".to_owned(), "ab\"c".to_owned()]];
        let (id, json) = pair(them, us).event((23195, 7), &tags, "line\nbreak", &world());
        let event: Event = serde_json::from_str(&json).unwrap();
        assert_eq!(event.id, id);
        assert!(pair(us, them).is_theirs(&event));
        assert!(!pair(us, [5; 32]).is_theirs(&event));
        for altered in [json.replace("line", "lime"), json.replace("23195", "23194")] {
            assert!(!pair(us, them).is_theirs(&serde_json::from_str(&altered).unwrap()));
        }
    }
}
