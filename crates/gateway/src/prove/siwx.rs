//! Linking a wallet to a person by a signature of the wallet: Sign-In with X (CAIP-122), in the
//! form of EIP-4361, signed as EIP-191 says.
//!
//! INVARIANT: the message is wholly ours: it follows from the person, the wallet and a nonce of
//! ours, and any other text is refused. The nonce says when it was made, for whom, and ends with
//! its life; that it counts once is the store's rule.

use super::nonce::Nonces;
use crate::{gate::Gate, rails::x402::recover};
use countersign_core::{
    digest::Digest,
    person::Person,
    time::UnixMs,
    wire::eip712::{Address, Signature, keccak256},
};
use http::Uri;

/// A wallet on an EVM chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wallet {
    /// Its address.
    pub(crate) address: Address,
    /// EIP-155 chain id, of those that are paid on.
    pub(crate) chain_id: u64,
}

/// Why a signature links nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotLinked {
    /// The message is not the one that was asked to be signed, or too old.
    Message,
    /// Not 65 bytes in hex, in canonical form.
    Signature,
    /// Another wallet signed.
    OtherWallet,
}

impl NotLinked {
    /// In words, with the member that is wrong.
    pub(crate) const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Message => {
                ("message", "not a message that this gateway asked to sign, or too old")
            }
            Self::Signature => ("signature", "expected 65 bytes in hex: r, s (low), v"),
            Self::OtherWallet => ("signature", "another wallet signed"),
        }
    }
}

impl Gate {
    /// The message that a wallet signs to be linked to a person.
    pub(crate) fn wallet_message(&self, person: &Person, wallet: Wallet) -> String {
        let now = self.world.now();
        let nonce = self.nonces.fresh(about(person, wallet), now, self.world.random());
        message(&self.people_url(), person, wallet, (&nonce, now))
    }

    /// The wallet that signed a message of ours for this person, and the digest of its nonce.
    ///
    /// # Errors
    /// See [`NotLinked`].
    pub(crate) fn wallet_of(
        &self,
        person: &Person,
        text: &str,
        signature: &str,
    ) -> Result<(Wallet, Digest), NotLinked> {
        let (wallet, nonce) = read(text).ok_or(NotLinked::Message)?;
        let made = Nonces::made(nonce).ok_or(NotLinked::Message)?;
        let is_good = self.nonces.is_good(nonce, about(person, wallet), self.world.now());
        if !is_good || text != message(&self.people_url(), person, wallet, (nonce, made)) {
            return Err(NotLinked::Message);
        }
        let bytes = hex::decode(signature.trim_start_matches("0x"));
        let bytes = bytes.map_err(|_| NotLinked::Signature)?;
        let signature = Signature::from_bytes(&bytes).map_err(|_| NotLinked::Signature)?;
        let signer = recover(&personal(text), &signature.to_recoverable());
        if signer.as_ref() != Some(wallet.address.as_bytes()) {
            return Err(NotLinked::OtherWallet);
        }
        Ok((wallet, Digest::of_parts(&[b"siwx", nonce.as_bytes()])))
    }

    /// Where people are: the console's origin, else the gateway's.
    fn people_url(&self) -> String {
        let console = self.config.console.as_ref();
        console.map_or(&self.config.public_url, |console| &console.public_url).to_string()
    }
}

/// What a nonce is bound to.
fn about(person: &Person, wallet: Wallet) -> Digest {
    Digest::of_parts(&[
        b"siwx",
        person.tenant.as_bytes(),
        person.issuer.as_bytes(),
        person.subject.as_bytes(),
        wallet.address.as_bytes(),
        &wallet.chain_id.to_be_bytes(),
    ])
}

/// EIP-4361.
fn message(url: &str, person: &Person, wallet: Wallet, (nonce, made): (&str, UnixMs)) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let domain = uri.as_ref().and_then(Uri::authority).map_or("", |authority| authority.as_str());
    let Wallet { address, chain_id } = wallet;
    let (issuer, subject, tenant) =
        (plain(&person.issuer), plain(&person.subject), plain(&person.tenant));
    let (from, until) = (made.rfc3339(), made.plus_ms(Nonces::LIFE_MS).rfc3339());
    format!(
        "{domain} wants you to sign in with your Ethereum account:\n{address}\n\n\
         Link this wallet to {subject} at {issuer} in {tenant}. It moves no money.\n\n\
         URI: {url}\nVersion: 1\nChain ID: {chain_id}\nNonce: {nonce}\n\
         Issued At: {from}\nExpiration Time: {until}"
    )
}

/// A name within the characters that a statement may have; others as `%` and hexadecimal digits.
fn plain(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'@' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The parts of a message that are not known beforehand.
fn read(text: &str) -> Option<(Wallet, &str)> {
    let mut lines = text.lines();
    let address = Address::from_hex(lines.nth(1)?).ok()?;
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let chain_id = line("Chain ID: ")?.parse().ok()?;
    Some((Wallet { address, chain_id }, line("Nonce: ")?))
}

/// What a wallet signs for a text (EIP-191, version 0x45).
fn personal(text: &str) -> [u8; 32] {
    keccak256(format!("\x19Ethereum Signed Message:\n{}{text}", text.len()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(subject: &str) -> Person {
        Person {
            tenant: "acme".into(),
            issuer: "https://idp.example".into(),
            subject: subject.into(),
        }
    }

    fn wallet() -> Wallet {
        let address = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
        Wallet { address: Address::from_hex(address).unwrap(), chain_id: 84532 }
    }

    /// The digest of EIP-191's own example in ERC-191's reference tests (`hello world`).
    #[test]
    fn personal_messages() {
        assert_eq!(
            hex::encode(personal("hello world")),
            "d9eba16ed0ecae432b71fe008c98cc872bb4cc214d3220a36f365326cf807d68"
        );
    }

    #[test]
    fn the_message_is_that_of_the_standard_and_reads_back() {
        let text =
            message("https://console.example", &person("a d\na"), wallet(), ("00ff", UnixMs(0)));
        expect_test::expect![[r"
            console.example wants you to sign in with your Ethereum account:
            0x209693Bc6afc0C5328bA36FaF03C514EF312287C

            Link this wallet to a%20d%0Aa at https://idp.example in acme. It moves no money.

            URI: https://console.example
            Version: 1
            Chain ID: 84532
            Nonce: 00ff
            Issued At: 1970-01-01T00:00:00.000Z
            Expiration Time: 1970-01-01T00:10:00.000Z"]]
        .assert_eq(&text);
        assert_eq!(read(&text), Some((wallet(), "00ff")));
        assert_ne!(about(&person("ada"), wallet()), about(&person("bob"), wallet()));
    }
}
