//! L402: a challenge that asks for a Lightning payment, and the credential that proves it.
//!
//! Owns the forms on the wire: `WWW-Authenticate`, `Authorization`, the composite header, the MCP
//! `_meta` form, the macaroon's identifier. Does not decide: who issued a macaroon, whether it is
//! spent or revoked, and whether its caveats fit the call are questions for the rail. What its
//! caveats say is in [`super::caveat`].
//!
//! A credential that is bad is answered 401; one that is missing, exhausted or for another call
//! 402, because clients cache one credential per host and present it everywhere.

use super::{
    base64,
    json::{JsonError, Limits, check, quote},
    macaroon::{Macaroon, MacaroonError},
    object::{Members, ObjectWriter, unquote},
};
use crate::digest::Digest;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// `_meta` key of the MCP form, for challenge and proof alike.
pub const META_PAYMENT: &str = "ai.bolthub/payment";
/// Name of the header that carries identity and payment together.
pub const COMPOSITE: &str = "X-MCP-Auth-Composite";

/// The identifier of an L402 macaroon: 66 bytes, big-endian `u16` version 0, payment hash, token
/// id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L402Id {
    /// SHA-256 of the preimage that paying the invoice reveals.
    pub payment_hash: [u8; 32],
    /// Random, chosen at minting.
    pub token_id: [u8; 32],
}

impl L402Id {
    /// The 66 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 66] {
        let mut bytes = [0; 66];
        let (hash, token) = bytes.split_at_mut(2).1.split_at_mut(32);
        hash.copy_from_slice(&self.payment_hash);
        token.copy_from_slice(&self.token_id);
        bytes
    }

    /// Reads an identifier.
    ///
    /// # Errors
    /// [`L402Error::Identifier`]: another length or another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, L402Error> {
        let fields = bytes.strip_prefix(&[0, 0]).and_then(|rest| rest.split_at_checked(32));
        let (hash, token) = fields.ok_or(L402Error::Identifier)?;
        let payment_hash = hash.try_into().map_err(|_| L402Error::Identifier)?;
        let token_id = token.try_into().map_err(|_| L402Error::Identifier)?;
        Ok(Self { payment_hash, token_id })
    }

    /// What use counters and root keys are stored under: attenuated copies share it.
    #[must_use]
    pub fn key(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

/// Why a text is not an L402 credential, or cannot stand in a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L402Error {
    /// Another scheme: no L402 credential was presented.
    OtherScheme,
    /// Not `<macaroon>:<preimage>`.
    Shape,
    /// More than one macaroon. We never issue two for one payment.
    SeveralMacaroons,
    /// The macaroon is not base64.
    Base64,
    /// The macaroon is none.
    Macaroon(MacaroonError),
    /// The macaroon's identifier is not of ours.
    Identifier,
    /// The preimage is not 64 hex characters.
    Preimage,
    /// The invoice is not plain bech32 text.
    Invoice,
    /// The proof is not JSON within the limits.
    Json(JsonError),
    /// The composite header has a part that is neither identity nor payment, a part without its
    /// value, or no part.
    Composite,
    /// The composite header has one part twice.
    SeveralParts,
}

impl fmt::Display for L402Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherScheme => f.write_str("not an L402 credential"),
            Self::Shape => f.write_str("expected `<macaroon>:<preimage>`"),
            Self::SeveralMacaroons => f.write_str("expected one macaroon, found several"),
            Self::Base64 => f.write_str("the macaroon is not base64"),
            Self::Macaroon(error) => error.fmt(f),
            Self::Identifier => f.write_str("the macaroon's identifier is not an L402 identifier"),
            Self::Preimage => f.write_str("the preimage is not 64 hex characters"),
            Self::Invoice => f.write_str("the invoice is not a BOLT11 text"),
            Self::Json(error) => error.fmt(f),
            Self::Composite => f.write_str("expected `Identity <token>`, `Payment <credential>`"),
            Self::SeveralParts => f.write_str("the composite header has one part twice"),
        }
    }
}

impl std::error::Error for L402Error {}

/// A macaroon and a preimage, as presented: nothing about them is verified. Both are secrets, so
/// `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The macaroon.
    pub macaroon: Macaroon,
    /// Its identifier.
    pub id: L402Id,
    /// Its bytes.
    pub macaroon_bytes: Vec<u8>,
    /// What paying the invoice revealed, if the claim is true.
    pub preimage: [u8; 32],
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.id.key())
    }
}

impl Credential {
    /// Reads `<macaroon>:<preimage>`: base64 of either alphabet, padded or not, and 64 hex
    /// characters after the last colon.
    ///
    /// # Errors
    /// See [`L402Error`].
    pub fn parse(text: &str) -> Result<Self, L402Error> {
        let (macaroon, preimage) = text.rsplit_once(':').ok_or(L402Error::Shape)?;
        let (macaroon, preimage_hex) = (macaroon.trim(), preimage.trim());
        let mut preimage = [0; 32];
        hex::decode_to_slice(preimage_hex, &mut preimage).map_err(|_| L402Error::Preimage)?;
        if macaroon.contains(',') {
            return Err(L402Error::SeveralMacaroons);
        }
        let macaroon_bytes = base64::decode(macaroon).ok_or(L402Error::Base64)?;
        let macaroon = Macaroon::decode(&macaroon_bytes).map_err(L402Error::Macaroon)?;
        let id = L402Id::parse(macaroon.identifier())?;
        Ok(Self { macaroon, id, macaroon_bytes, preimage })
    }

    /// Whether the preimage is that of the payment hash in the identifier.
    #[must_use]
    pub fn is_preimage_right(&self) -> bool {
        let hash: [u8; 32] = Sha256::digest(self.preimage).into();
        hash.ct_eq(&self.id.payment_hash).into()
    }
}

/// Reads the value of an `Authorization` header: `L402` or `LSAT` in any case, then a credential.
///
/// # Errors
/// [`L402Error::OtherScheme`] when it is none of ours; else the credential is bad.
pub fn parse_authorization(value: &str) -> Result<Credential, L402Error> {
    let value = value.trim();
    let (scheme, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    if !is_l402(scheme) {
        return Err(L402Error::OtherScheme);
    }
    Credential::parse(rest)
}

fn is_l402(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("L402") || scheme.eq_ignore_ascii_case("LSAT")
}

/// What a challenge offers: this macaroon, once this invoice is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    token: String,
    invoice: String,
}

impl Challenge {
    /// A challenge of a minted macaroon and the BOLT11 invoice whose payment hash it names.
    ///
    /// # Errors
    /// [`L402Error::Invoice`]: the invoice has other characters than ASCII letters and digits,
    /// and would break out of its quotes.
    pub fn new(macaroon: &Macaroon, invoice: &str) -> Result<Self, L402Error> {
        if invoice.is_empty() || !invoice.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(L402Error::Invoice);
        }
        Ok(Self { token: base64::encode(&macaroon.encode()), invoice: invoice.to_owned() })
    }

    /// The macaroon in base64.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The invoice.
    #[must_use]
    pub fn invoice(&self) -> &str {
        &self.invoice
    }

    /// The value of `WWW-Authenticate`. Exactly this form is the one that every tested client
    /// reads; it goes first, and no other challenge beside it.
    #[must_use]
    pub fn header(&self) -> String {
        let Self { token, invoice } = self;
        format!(r#"L402 macaroon="{token}", invoice="{invoice}", version="0", token="{token}""#)
    }

    /// The value of `_meta["ai.bolthub/payment"]`: JSON. `amount_sat` is what the invoice asks,
    /// `expires_at_ms` when it lapses, in milliseconds since the epoch.
    #[must_use]
    pub fn mcp_meta(&self, resource: &str, amount_sat: u64, expires_at_ms: u64) -> String {
        let (amount, expires) = (amount_sat.to_string(), expires_at_ms.to_string());
        let price = ObjectWriter::new().raw("amount", &amount).text("asset", "sat").finish();
        let offer = ObjectWriter::new()
            .text("scheme", "l402")
            .raw("amount", &amount)
            .text("asset", "sat")
            .text("token", &self.token)
            .text("invoice", &self.invoice)
            .raw("expiresAt", &expires)
            .text("wwwAuthenticate", &self.header())
            .finish();
        ObjectWriter::new()
            .text("status", "payment_required")
            .text("version", "0.1")
            .raw("price", &price)
            .text("resource", resource)
            .raw("offers", &format!("[{offer}]"))
            .raw("expiresAt", &expires)
            .finish()
    }

    /// The JSON body of a 402 that answers the composite header.
    #[must_use]
    pub fn composite_body(&self) -> String {
        ObjectWriter::new()
            .text("error", "payment_required")
            .text("invoice", &self.invoice)
            .text("macaroon", &self.token)
            .finish()
    }
}

/// Reads the retry's `_meta["ai.bolthub/payment"]`:
/// `{"scheme": "l402", "proof": "<token>:<preimage>"}`.
///
/// # Errors
/// [`L402Error::OtherScheme`] when the proof is of another rail; else the credential is bad.
pub fn parse_mcp_proof(proof: &RawValue) -> Result<Credential, L402Error> {
    check(proof.get().as_bytes(), &Limits::PROOF).map_err(L402Error::Json)?;
    let members = Members::of(proof).map_err(L402Error::Json)?.ok_or(L402Error::Shape)?.0;
    let text = |key: &str| {
        let member = members.iter().find(|m| m.key == key);
        member.and_then(|m| unquote(m.value.get())).ok_or(L402Error::Shape)
    };
    if !text("scheme")?.eq_ignore_ascii_case("l402") {
        return Err(L402Error::OtherScheme);
    }
    Credential::parse(&text("proof")?)
}

/// The `_meta["ai.bolthub/payment"]` of a retry (JSON), for a client that pays.
#[must_use]
pub fn mcp_proof(token: &str, preimage: &[u8; 32]) -> String {
    let proof = quote(&format!("{token}:{}", hex::encode(preimage)));
    format!(r#"{{"scheme":"l402","proof":{proof}}}"#)
}

/// The value of `Authorization` for a client that pays.
#[must_use]
pub fn authorization(token: &str, preimage: &[u8; 32]) -> String {
    format!("L402 {token}:{}", hex::encode(preimage))
}

/// The parts of a composite header, each validated on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composite<'a> {
    /// The identity token, unverified.
    pub identity: Option<&'a str>,
    /// The payment credential, unverified.
    pub payment: Option<Credential>,
}

/// Reads `Identity <jwt>, Payment <macaroon>:<preimage>`: any order, any white space, any case of
/// the two words, either part alone.
///
/// # Errors
/// [`L402Error::Composite`], [`L402Error::SeveralParts`], or what is wrong with the payment.
pub fn parse_composite(value: &str) -> Result<Composite<'_>, L402Error> {
    let mut composite = Composite::default();
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, rest) = part.split_once([' ', '\t']).ok_or(L402Error::Composite)?;
        let rest = rest.trim();
        let is_second = if name.eq_ignore_ascii_case("Identity") {
            if rest.contains(char::is_whitespace) {
                return Err(L402Error::Composite);
            }
            composite.identity.replace(rest).is_some()
        } else if name.eq_ignore_ascii_case("Payment") {
            composite.payment.replace(Credential::parse(rest)?).is_some()
        } else {
            return Err(L402Error::Composite);
        };
        if is_second {
            return Err(L402Error::SeveralParts);
        }
    }
    let is_empty = composite.identity.is_none() && composite.payment.is_none();
    if is_empty { Err(L402Error::Composite) } else { Ok(composite) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::jsonrpc;
    use proptest::prelude::*;

    const PREIMAGE: [u8; 32] = [7; 32];
    const HEX: &str = "0707070707070707070707070707070707070707070707070707070707070707";

    fn minted() -> Macaroon {
        let payment_hash = Sha256::digest(PREIMAGE).into();
        let id = L402Id { payment_hash, token_id: [0xff; 32] };
        Macaroon::mint(b"root", &id.encode()).attenuate(b"tool=x")
    }

    fn token() -> String {
        base64::encode(&minted().encode())
    }

    #[test]
    fn identifiers_are_66_bytes_of_version_zero() {
        let id = L402Id { payment_hash: [1; 32], token_id: [2; 32] };
        let bytes = id.encode();
        assert_eq!(L402Id::parse(&bytes), Ok(id));
        for bad in [&bytes[..65], &[&bytes[..], &[0]].concat(), &[1; 66], &[]] {
            assert_eq!(L402Id::parse(bad), Err(L402Error::Identifier));
        }
    }

    #[test]
    fn the_challenge_has_the_one_form_that_every_client_reads() {
        let challenge = Challenge::new(&minted(), "lnbc30n1abc").unwrap();
        let t = token();
        assert_eq!(
            challenge.header(),
            format!(r#"L402 macaroon="{t}", invoice="lnbc30n1abc", version="0", token="{t}""#)
        );
        for bad in ["", "lnbc\"x", "lnbc\r\nX: y", "lnbc 1", "lnbcé"] {
            assert_eq!(Challenge::new(&minted(), bad), Err(L402Error::Invoice), "{bad}");
        }
        assert_eq!(
            challenge.composite_body(),
            format!(r#"{{"error":"payment_required","invoice":"lnbc30n1abc","macaroon":"{t}"}}"#)
        );
        let header = quote(&challenge.header());
        assert_eq!(
            challenge.mcp_meta("search", 21, 1_798_000_000_000),
            format!(
                r#"{{"status":"payment_required","version":"0.1","price":{{"amount":21,"asset":"sat"}},"resource":"search","offers":[{{"scheme":"l402","amount":21,"asset":"sat","token":"{t}","invoice":"lnbc30n1abc","expiresAt":1798000000000,"wwwAuthenticate":{header}}}],"expiresAt":1798000000000}}"#
            )
        );
    }

    #[test]
    fn every_form_of_a_credential_that_clients_send_is_read() {
        let t = token();
        let url_safe = t.replace('+', "-").replace('/', "_");
        assert_ne!(t, url_safe);
        let bare = t.trim_end_matches('=');
        for value in [
            format!("L402 {t}:{HEX}"),
            format!("lsat   {url_safe}:{HEX}"),
            format!("LSAT\t{bare}:{}", HEX.to_uppercase()),
            format!(" l402 {}:{HEX} ", url_safe.trim_end_matches('=')),
            authorization(&t, &PREIMAGE),
        ] {
            let credential = parse_authorization(&value).unwrap();
            assert_eq!(credential.macaroon, minted());
            assert_eq!(credential.macaroon_bytes, minted().encode());
            assert!(credential.is_preimage_right());
        }
        let other = Credential::parse(&format!("{t}:{}", "00".repeat(32))).unwrap();
        assert!(!other.is_preimage_right());
        assert!(!format!("{other:?}").contains(&t));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let t = token();
        let foreign = base64::encode(&Macaroon::mint(b"r", b"short").encode());
        let table = [
            ("Bearer abc".to_owned(), L402Error::OtherScheme),
            (String::new(), L402Error::OtherScheme),
            (format!("L402{t}:{HEX}"), L402Error::OtherScheme),
            ("L402".to_owned(), L402Error::Shape),
            (format!("L402 {t}"), L402Error::Shape),
            (format!("L402 {t}:"), L402Error::Preimage),
            (format!("L402 {t}:{}", HEX.split_at(2).1), L402Error::Preimage),
            (format!("L402 {t}:{HEX}00"), L402Error::Preimage),
            (format!("L402 {t}:{}zz", HEX.split_at(2).1), L402Error::Preimage),
            (format!("L402 {t},{t}:{HEX}"), L402Error::SeveralMacaroons),
            (format!("L402 {t} {t}:{HEX}"), L402Error::Base64),
            (format!("L402 {HEX}:{t}:{HEX}"), L402Error::Base64),
            (format!("L402 :{HEX}"), L402Error::Macaroon(MacaroonError::Short)),
            (format!("L402 AAAA:{HEX}"), L402Error::Macaroon(MacaroonError::Version)),
            (format!("L402 {foreign}:{HEX}"), L402Error::Identifier),
        ];
        for (value, expected) in table {
            assert_eq!(parse_authorization(&value), Err(expected), "{value}");
        }
    }

    #[test]
    fn composite_parts_come_in_any_order_case_and_spacing() {
        let t = token();
        for value in [
            format!("Identity a.b.c, Payment {t}:{HEX}"),
            format!("  payment  {t}:{HEX}  ,\tIDENTITY\ta.b.c ,"),
            format!("Payment {t}:{HEX},Identity a.b.c"),
            format!("Payment {t} : {HEX} , Identity a.b.c"),
        ] {
            let composite = parse_composite(&value).unwrap();
            assert_eq!(composite.identity, Some("a.b.c"));
            assert_eq!(composite.payment.unwrap().macaroon, minted());
        }
        assert_eq!(parse_composite("Identity a.b.c").unwrap().payment, None);
        assert_eq!(parse_composite(&format!("Payment {t}:{HEX}")).unwrap().identity, None);
        let table = [
            (String::new(), L402Error::Composite),
            (" , ".to_owned(), L402Error::Composite),
            ("Identity a, identity b".to_owned(), L402Error::SeveralParts),
            (format!("Payment {t}:{HEX}, Payment {t}:{HEX}"), L402Error::SeveralParts),
            ("Identity".to_owned(), L402Error::Composite),
            ("Identity a b".to_owned(), L402Error::Composite),
            ("Bearer a".to_owned(), L402Error::Composite),
            (format!("Payment {t},{t}:{HEX}"), L402Error::Shape),
            (format!("Identity a, Payment {t}"), L402Error::Shape),
        ];
        for (value, expected) in table {
            assert_eq!(parse_composite(&value), Err(expected), "{value}");
        }
    }

    #[test]
    fn the_mcp_proof_is_read_back() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let proof = mcp_proof(&token(), &PREIMAGE);
        assert_eq!(parse_mcp_proof(&raw(&proof)).unwrap().macaroon, minted());
        let table = [
            (r#"{"scheme":"x402","proof":"a:b"}"#, L402Error::OtherScheme),
            (r#"{"scheme":"l402"}"#, L402Error::Shape),
            (r#"{"proof":"a:b"}"#, L402Error::Shape),
            (r#""a:b""#, L402Error::Shape),
            (r#"{"scheme":"l402","proof":"a:b"}"#, L402Error::Preimage),
            (
                r#"{"scheme":"x","scheme":"l402","proof":"a:b"}"#,
                L402Error::Json(JsonError::DuplicateKey),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse_mcp_proof(&raw(text)), Err(expected), "{text}");
        }
    }

    #[test]
    fn what_we_write_is_json() {
        let challenge = Challenge::new(&minted(), "lnbc1").unwrap();
        let meta = challenge.mcp_meta("a \"b\"", u64::MAX, 1);
        assert!(check(meta.as_bytes(), &Limits::REQUEST).is_ok());
        let id: &RawValue = serde_json::from_str("1").unwrap();
        let answer = jsonrpc::result(id, &format!(r#"{{"_meta":{{"{META_PAYMENT}":{meta}}}}}"#));
        assert!(check(answer.as_bytes(), &Limits::REQUEST).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,60}", value in "(L402|Identity|Payment|[a-z]|:|,| ){0,12}") {
            let _ = parse_authorization(&text);
            let _ = parse_authorization(&value);
            let _ = parse_composite(&text);
            let _ = parse_composite(&value);
        }
    }
}
