//! Lightning wallets, behind one enum; and what an invoice and its macaroon must say before it is
//! paid.
//!
//! INVARIANT: an invoice is paid only as [`Payable`], which says: its amount is set and is the
//! offer's, its payment hash is the one in the macaroon's identifier, and it has not expired. A
//! preimage is returned only if it hashes to that payment hash.
//! INVARIANT: an invoice that may have been paid is looked up by its payment hash before anything
//! else; what cannot be found out stays unknown.

mod lnd;
mod nostr;
mod nwc;
mod phoenixd;
mod plain;

use crate::{http::Http, secret::Secret, wallet::WalletError};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use countersign_core::{
    digest::Digest,
    time::UnixMs,
    wire::{l402::L402Id, macaroon::Macaroon},
    world::World,
};
use lightning_invoice::Bolt11Invoice;
use lnd::Lnd;
use nwc::Nwc;
use phoenixd::Phoenixd;
use plain::Plain;
use sha2::{Digest as _, Sha256};
use std::{fmt, time::Duration};

/// What a payment may cost beside its amount, at least, in millisatoshi; and its part of the
/// amount, where that is more.
const FEE_FLOOR_MSAT: u64 = 5_000;
const FEE_PART: u64 = 100;

/// A wallet that pays invoices.
#[derive(Clone, PartialEq, Eq)]
pub struct LightningWallet(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Plain(Plain),
    Lnd(Box<Lnd>),
    Phoenixd(Phoenixd),
    Nwc(Box<Nwc>),
}

/// What a wallet is reached with.
pub(crate) struct Purse<'a> {
    pub(crate) http: &'a Http,
    pub(crate) world: &'a World,
}

/// What a wallet knows of a payment.
pub(crate) enum Lookup {
    Paid([u8; 32]),
    /// Never begun, or ended without money.
    Not,
    Unknown,
    /// It cannot be asked: it recognises an invoice when it is to pay it again.
    Silent,
}

impl LightningWallet {
    /// The wallet at `{url}/pay`, with a bearer token if it wants one. Plain http is taken only on
    /// this machine; so with all of them.
    ///
    /// # Errors
    /// [`WalletError::BadUrl`].
    pub fn new(url: &str, token: Option<Secret>) -> Result<Self, WalletError> {
        Plain::new(url, token).map(Kind::Plain).map(Self)
    }

    /// An LND node over REST; its macaroon in hex, its certificate in PEM where no authority
    /// vouches for it.
    ///
    /// # Errors
    /// [`WalletError::BadUrl`], [`WalletError::Shape`], [`WalletError::Certificate`].
    pub fn lnd(
        url: &str,
        macaroon: Secret,
        certificate: Option<&str>,
    ) -> Result<Self, WalletError> {
        Lnd::new(url, macaroon, certificate).map(|lnd| Self(Kind::Lnd(Box::new(lnd))))
    }

    /// phoenixd, with its password.
    ///
    /// # Errors
    /// [`WalletError::BadUrl`].
    pub fn phoenixd(url: &str, password: Secret) -> Result<Self, WalletError> {
        Phoenixd::new(url, password).map(Kind::Phoenixd).map(Self)
    }

    /// The wallet of a Nostr Wallet Connect string.
    ///
    /// # Errors
    /// [`WalletError::Shape`], [`WalletError::BadKey`], [`WalletError::BadUrl`].
    pub fn nwc(connection: &Secret) -> Result<Self, WalletError> {
        Nwc::new(connection).map(|nwc| Self(Kind::Nwc(Box::new(nwc))))
    }

    /// Tells it from others: digest of where it is reached, or of its key. Its credentials may
    /// change.
    pub(crate) fn identity(&self) -> Digest {
        let (kind, at) = match &self.0 {
            Kind::Plain(wallet) => ("plain", wallet.pay.to_string()),
            Kind::Lnd(node) => ("lnd", node.url.to_string()),
            Kind::Phoenixd(daemon) => ("phoenixd", daemon.url.to_string()),
            Kind::Nwc(wallet) => ("nwc", hex::encode(wallet.wallet)),
        };
        Digest::of_parts(&[kind.as_bytes(), at.as_bytes()])
    }

    /// Pays an invoice that was never given to it.
    pub(crate) async fn pay(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        match &self.0 {
            Kind::Plain(wallet) => wallet.pay(purse, invoice, payment_hash).await,
            Kind::Lnd(node) => {
                let read: Option<Bolt11Invoice> = invoice.parse().ok();
                let msat = read.and_then(|invoice| invoice.amount_milli_satoshis()).unwrap_or(0);
                let max_fee_msat = (msat / FEE_PART).max(FEE_FLOOR_MSAT);
                node.pay(invoice, payment_hash, max_fee_msat).await
            }
            Kind::Phoenixd(daemon) => daemon.pay(purse, invoice, payment_hash).await,
            Kind::Nwc(wallet) => wallet.pay(purse, invoice, payment_hash).await,
        }
    }

    /// Pays an invoice that it may have paid before: asks about that first.
    pub(crate) async fn pay_again(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        match self.lookup(purse, payment_hash).await {
            Lookup::Paid(preimage) => Ok(preimage),
            Lookup::Not => self.pay(purse, invoice, payment_hash).await,
            Lookup::Unknown => Err(PayError::Unknown),
            // Its no may mean that it has paid before.
            Lookup::Silent => {
                self.pay(purse, invoice, payment_hash).await.map_err(|_| PayError::Unknown)
            }
        }
    }

    /// What became of a payment that may have been begun.
    pub(crate) async fn lookup(&self, purse: &Purse<'_>, payment_hash: &[u8; 32]) -> Lookup {
        match &self.0 {
            Kind::Plain(wallet) => wallet.lookup(purse, payment_hash).await,
            Kind::Lnd(node) => node.lookup(payment_hash).await,
            Kind::Phoenixd(daemon) => daemon.lookup(purse, payment_hash).await,
            Kind::Nwc(wallet) => wallet.lookup(purse, payment_hash).await,
        }
    }
}

impl fmt::Debug for LightningWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Plain(wallet) => write!(f, "LightningWallet({})", wallet.pay),
            Kind::Lnd(node) => write!(f, "LightningWallet(lnd {})", node.url),
            Kind::Phoenixd(daemon) => write!(f, "LightningWallet(phoenixd {})", daemon.url),
            Kind::Nwc(wallet) => write!(f, "LightningWallet(nwc {wallet:?})"),
        }
    }
}

/// A preimage, if it is one of this payment hash.
fn known(hex: &str, payment_hash: &[u8; 32]) -> Option<[u8; 32]> {
    let mut preimage = [0u8; 32];
    hex::decode_to_slice(hex, &mut preimage).ok()?;
    let hash: [u8; 32] = Sha256::digest(preimage).into();
    (hash == *payment_hash).then_some(preimage)
}

/// Why there is no preimage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PayError {
    /// The wallet said no, or was not reached: nothing was paid.
    Refused,
    /// It may have paid.
    Unknown,
}

/// Why an L402 offer is not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferFault {
    /// The token is not a macaroon with an L402 identifier.
    Token,
    /// The invoice is not BOLT11, or its signature is wrong.
    Invoice,
    /// The invoice leaves the amount to the payer.
    NoAmount,
    /// The invoice asks another amount than the offer.
    Amount,
    /// The invoice has another payment hash than the macaroon.
    PaymentHash,
    /// The invoice or the macaroon has expired.
    Expired,
}

impl fmt::Display for OfferFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "its token is not an L402 macaroon",
            Self::Invoice => "its invoice is not valid",
            Self::NoAmount => "its invoice has no amount",
            Self::Amount => "its invoice asks another amount than the offer",
            Self::PaymentHash => "its invoice and its macaroon do not belong together",
            Self::Expired => "it has expired",
        })
    }
}

/// What an invoice says.
pub(crate) struct Invoiced {
    pub(crate) payment_hash: [u8; 32],
    pub(crate) amount_msat: u64,
    /// The receiving node's public key, in hex.
    pub(crate) payee: String,
    pub(crate) expires_at: UnixMs,
}

impl Invoiced {
    /// Reads an invoice: checksum, signature and required fields are the parser's business.
    pub(crate) fn read(bolt11: &str) -> Result<Self, OfferFault> {
        let invoice: Bolt11Invoice = bolt11.parse().map_err(|_| OfferFault::Invoice)?;
        let amount_msat = invoice.amount_milli_satoshis().ok_or(OfferFault::NoAmount)?;
        let payment_hash: &[u8] = invoice.payment_hash().as_ref();
        let payment_hash = payment_hash.try_into().map_err(|_| OfferFault::Invoice)?;
        let end = invoice.expires_at().map(|end: Duration| end.as_secs()).unwrap_or(u64::MAX);
        let payee = invoice.get_payee_pub_key().to_string();
        Ok(Self { payment_hash, amount_msat, payee, expires_at: UnixMs::from_seconds(end) })
    }
}

/// An invoice that may be paid for an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payable {
    pub(crate) payment_hash: [u8; 32],
    pub(crate) amount_msat: u64,
    /// The receiving node's public key, in hex.
    pub(crate) payee: String,
    pub(crate) invoice_expires_at: UnixMs,
    pub(crate) terms: MacaroonTerms,
}

impl Payable {
    /// Checks an offer's parts against each other.
    pub(crate) fn check(
        token: &str,
        invoice: &str,
        offered_msat: Option<u64>,
        now: UnixMs,
    ) -> Result<Self, OfferFault> {
        let terms = MacaroonTerms::read(token).ok_or(OfferFault::Token)?;
        let Invoiced { payment_hash, amount_msat, payee, expires_at } = Invoiced::read(invoice)?;
        if offered_msat.is_some_and(|offered| offered != amount_msat) {
            return Err(OfferFault::Amount);
        }
        if payment_hash != terms.payment_hash {
            return Err(OfferFault::PaymentHash);
        }
        if expires_at <= now || terms.expires_at.is_some_and(|end| end <= now) {
            return Err(OfferFault::Expired);
        }
        Ok(Self { payment_hash, amount_msat, payee, invoice_expires_at: expires_at, terms })
    }

    /// Whether what it buys is good for several calls, and so bound to none.
    pub(crate) fn is_for_several(&self) -> bool {
        self.terms.is_for_several()
    }
}

/// What the holder of a macaroon can read in it. Nobody vouches for it: it decides what is kept
/// and for how long, never what is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MacaroonTerms {
    pub(crate) payment_hash: [u8; 32],
    pub(crate) expires_at: Option<UnixMs>,
    /// How many calls it pays for; `None` when it does not say.
    pub(crate) uses: Option<u32>,
}

impl MacaroonTerms {
    /// Reads a token: base64 of either alphabet, padded or not.
    pub(crate) fn read(token: &str) -> Option<Self> {
        let bytes = decode_base64(token)?;
        let macaroon = Macaroon::decode(&bytes).ok()?;
        let id = L402Id::parse(macaroon.identifier()).ok()?;
        let mut terms = Self { payment_hash: id.payment_hash, expires_at: None, uses: None };
        for caveat in caveats(&macaroon.encode(), macaroon.identifier().len()) {
            terms.narrow(&caveat);
        }
        Some(terms)
    }

    /// Whether it is good for several calls.
    pub(crate) fn is_for_several(&self) -> bool {
        self.uses != Some(1)
    }

    /// Takes one caveat into account; later ones only narrow.
    fn narrow(&mut self, caveat: &str) {
        let Some((key, value)) = caveat.split_once('=') else { return };
        let number = value.trim().parse::<u64>().ok();
        match (key.trim(), number) {
            ("n_uses", Some(uses)) => {
                let uses = u32::try_from(uses).unwrap_or(u32::MAX);
                self.uses = Some(self.uses.map_or(uses, |known| known.min(uses)));
            }
            ("call", _) => self.uses = Some(1),
            (key, Some(end)) if is_expiry(key) => {
                // Seconds until the year 5138; milliseconds since 1973.
                let end =
                    if end < 100_000_000_000 { UnixMs::from_seconds(end) } else { UnixMs(end) };
                self.expires_at = Some(self.expires_at.map_or(end, |known| known.min(end)));
            }
            _ => {}
        }
    }
}

fn is_expiry(key: &str) -> bool {
    matches!(key, "expires_at" | "expires" | "exp" | "expiry" | "valid_until")
        || key.ends_with("_valid_until")
}

/// The caveats of a macaroon that has been decoded and encoded again, so its fields are known to
/// follow one another as they must.
fn caveats(encoded: &[u8], identifier_len: usize) -> Vec<String> {
    let mut rest = encoded.get(1..).unwrap_or_default();
    let mut fields = Vec::new();
    while let Some((tag, after)) = rest.split_first() {
        if *tag == 0 {
            rest = after;
            continue;
        }
        let Some((data, after)) = field(after) else { break };
        if *tag == 2 {
            fields.push(data);
        }
        rest = after;
    }
    debug_assert!(fields.first().is_some_and(|id| id.len() == identifier_len));
    fields.iter().skip(1).filter_map(|f| String::from_utf8(f.to_vec()).ok()).collect()
}

/// A length in base 128, low digits first, and that many bytes.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (low, rest) = bytes.split_first()?;
    if *low < 0x80 {
        return rest.split_at_checked(usize::from(*low));
    }
    let (high, rest) = rest.split_first()?;
    rest.split_at_checked(usize::from(low & 0x7f) | usize::from(*high) << 7)
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Base64 of either alphabet, padded or not.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD as PADDED, URL_SAFE_NO_PAD};

    #[test]
    fn caveats_only_narrow_and_what_is_not_known_is_passed_over() {
        let id = L402Id { payment_hash: [0xfb; 32], token_id: [0xff; 32] };
        let long = format!("server=https://{}.example/mcp", "a".repeat(300));
        let caveats = [
            &*long,
            "valid_until=1798000300",
            "n_uses=5",
            "n_uses=3",
            "n_uses=4",
            "valid_until=1798000100000",
            "valid_until=1798000200",
            "unheard=of",
            "no sign",
        ];
        let macaroon = Macaroon::mint(b"root", &id.encode());
        let read = |macaroon: &Macaroon| MacaroonTerms::read(&PADDED.encode(macaroon.encode()));
        let bare = MacaroonTerms { payment_hash: [0xfb; 32], expires_at: None, uses: None };
        assert_eq!(read(&macaroon), Some(bare));
        let macaroon = caveats.iter().fold(macaroon, |m, caveat| m.attenuate(caveat.as_bytes()));
        let terms = read(&macaroon).unwrap();
        assert_eq!((terms.expires_at, terms.uses), (Some(UnixMs(1_798_000_100_000)), Some(3)));
        let one_call = read(&macaroon.clone().attenuate(b"call=00")).unwrap();
        assert_eq!(one_call.uses, Some(1));
        let url_safe = URL_SAFE_NO_PAD.encode(macaroon.encode());
        assert_eq!(MacaroonTerms::read(&url_safe), Some(terms));
        assert_eq!(MacaroonTerms::read("AgJCAACrq6ur"), None);
    }
}
