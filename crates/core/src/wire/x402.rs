//! x402 version 2: what is offered, what is paid, and what a facilitator answers.
//!
//! Owns the JSON types, the places in which clients put a payment, and the forms in which we ask
//! for one (HTTP headers and MCP results). Reads lexically and strictly. Does not decide: whether
//! a payment covers a quote, whether its window is open, and whether its signature is right are
//! questions for the rail ([`super::eip712`] has what is signed).
//!
//! INVARIANT: members that we do not know are either echoed as they came (`extra`, `extensions`,
//! those of an offer) or refused (those of what is signed); none is understood by accident.

use super::{
    base64,
    eip712::{Address, NotASignature, Signature, TransferAuthorization},
    json::{self, JsonError, Limits},
    object::{BadField, Fields, ObjectWriter, unquote},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

mod challenge;
mod facilitator;

pub use challenge::{McpChallenge, ResultForm};
pub use facilitator::{SettleResponse, SupportedKind, SupportedResponse, VerifyResponse};

/// HTTP header of a 402 with a [`PaymentRequired`].
pub const PAYMENT_REQUIRED: &str = "PAYMENT-REQUIRED";
/// HTTP header of a retry with a [`PaymentPayload`].
pub const PAYMENT_SIGNATURE: &str = "PAYMENT-SIGNATURE";
/// HTTP header of an answer with a [`SettleResponse`].
pub const PAYMENT_RESPONSE: &str = "PAYMENT-RESPONSE";
/// HTTP header in which version 1 sends its payment.
pub const X_PAYMENT: &str = "X-PAYMENT";
/// `_meta` key of a request with a payment: an object, or its base64.
pub const META_PAYMENT: &str = "x402/payment";
/// `_meta` key in which a version 1 client sends its payment.
pub const META_PAYMENT_V1: &str = "x402.payment";
/// `_meta` key of a result with a [`SettleResponse`].
pub const META_PAYMENT_RESPONSE: &str = "x402/payment-response";
/// `_meta` key of a result with a [`PaymentRequired`], which one client reads instead.
pub const META_ERROR: &str = "x402/error";
/// The client extension for [`ResultForm::Extension`].
pub const EXTENSION: &str = "org.x402/payment";

/// Why a text is not of x402, or not of what we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X402Error {
    /// A header or a string is not base64.
    Base64,
    /// Not JSON within the limits, or a key twice.
    Json(JsonError),
    /// A member is missing, or malformed.
    Member {
        /// Which.
        name: &'static str,
    },
    /// A member beside those that are signed.
    UnknownMember,
    /// Version 1: its payments name no offer, so they cannot be matched with ours.
    OldVersion,
    /// A version that we do not know.
    Version,
    /// Not scheme `exact` on an `eip155` network.
    Unsupported,
    /// The signature is none of an account's.
    Signature(NotASignature),
    /// Two places carry payments that differ.
    Differ,
}

impl fmt::Display for X402Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base64 => f.write_str("the payment is not base64"),
            Self::Json(error) => error.fmt(f),
            Self::Member { name } => write!(f, "`{name}` is missing or malformed"),
            Self::UnknownMember => f.write_str("the payload has a member that is not signed"),
            Self::OldVersion => f.write_str("x402 version 1 is not accepted: use version 2"),
            Self::Version => f.write_str("the x402 version is unknown"),
            Self::Unsupported => f.write_str("only scheme `exact` on `eip155` networks is taken"),
            Self::Signature(_) => f.write_str("`signature` is malformed"),
            Self::Differ => f.write_str("two payments were sent, and they differ"),
        }
    }
}

impl std::error::Error for X402Error {}

impl From<JsonError> for X402Error {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

impl From<BadField> for X402Error {
    fn from(BadField(name): BadField) -> Self {
        Self::Member { name }
    }
}

/// What is paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its URL; for a tool `mcp://…` or the endpoint's.
    pub url: String,
    /// For people.
    pub description: Option<String>,
    /// Of the answer.
    pub mime_type: Option<String>,
}

impl Resource {
    fn read(raw: &RawValue) -> Result<Self, X402Error> {
        let fields = Fields::of(raw, "resource")?;
        Ok(Self {
            url: fields.text("url")?,
            description: fields.text_if("description")?,
            mime_type: fields.text_if("mimeType")?,
        })
    }

    fn to_json(&self) -> String {
        ObjectWriter::new()
            .text("url", &self.url)
            .text_if("description", self.description.as_deref())
            .text_if("mimeType", self.mime_type.as_deref())
            .finish()
    }
}

/// One way to pay (an item of `accepts`, or the `accepted` of a payment).
#[derive(Clone, Debug)]
pub struct Requirements {
    /// `exact`.
    pub scheme: String,
    /// CAIP-2: `eip155:8453`.
    pub network: String,
    /// In the asset's atomic units.
    pub amount: u128,
    /// The token's contract.
    pub asset: String,
    /// The payee.
    pub pay_to: String,
    /// How long the payer's signature must stay good, in seconds.
    pub max_timeout_seconds: u64,
    /// `name`, `version`, `paymentFlow`, and our challenge id: an object.
    pub extra: Option<Box<RawValue>>,
    /// Members that we do not know, echoed when we are the payer.
    pub unknown: Vec<(String, Box<RawValue>)>,
}

/// The typed part of an offer on an EVM chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvmTerms {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// The payee.
    pub pay_to: Address,
}

impl Requirements {
    const MEMBERS: [&str; 7] =
        ["scheme", "network", "amount", "asset", "payTo", "maxTimeoutSeconds", "extra"];

    fn read(raw: &RawValue, name: &'static str) -> Result<Self, X402Error> {
        let fields = Fields::of(raw, name)?;
        let others = fields.others(&Self::MEMBERS);
        Ok(Self {
            scheme: fields.text("scheme")?,
            network: fields.text("network")?,
            amount: number(&fields, "amount")?,
            asset: fields.text("asset")?,
            pay_to: fields.text("payTo")?,
            max_timeout_seconds: fields.read("maxTimeoutSeconds")?,
            extra: fields.object_if("extra")?.map(ToOwned::to_owned),
            unknown: others.map(|m| (m.key.clone().into_owned(), m.value.to_owned())).collect(),
        })
    }

    /// The offer's JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let out = ObjectWriter::new()
            .text("scheme", &self.scheme)
            .text("network", &self.network)
            .text("amount", &self.amount.to_string())
            .text("asset", &self.asset)
            .text("payTo", &self.pay_to)
            .raw("maxTimeoutSeconds", &self.max_timeout_seconds.to_string())
            .raw_if("extra", self.extra.as_deref());
        self.unknown.iter().fold(out, |out, (key, value)| out.raw(key, value.get())).finish()
    }

    /// Chain, token and payee.
    ///
    /// # Errors
    /// [`X402Error::Unsupported`] when it is not `exact` on `eip155`; a malformed address.
    pub fn evm(&self) -> Result<EvmTerms, X402Error> {
        let chain = self.network.strip_prefix("eip155:").filter(|_| self.scheme == "exact");
        let chain_id = chain.and_then(decimal).ok_or(X402Error::Unsupported)?;
        let address =
            |text: &str, name| Address::from_hex(text).map_err(|_| X402Error::Member { name });
        Ok(EvmTerms {
            chain_id: u64::try_from(chain_id).map_err(|_| X402Error::Unsupported)?,
            asset: address(&self.asset, "asset")?,
            pay_to: address(&self.pay_to, "payTo")?,
        })
    }

    /// Whether this, which a payer claims to have accepted, is `ours`: every member the same, the
    /// case of addresses aside, `extra` compared canonically, and nothing more.
    #[must_use]
    pub fn matches(&self, ours: &Self) -> bool {
        let (Ok(theirs_evm), Ok(ours_evm)) = (self.evm(), ours.evm()) else { return false };
        theirs_evm == ours_evm
            && self.amount == ours.amount
            && self.max_timeout_seconds == ours.max_timeout_seconds
            && is_same_json(self.extra.as_deref(), ours.extra.as_deref())
            && self.unknown.is_empty()
            && ours.unknown.is_empty()
    }
}

fn is_same_json(a: Option<&RawValue>, b: Option<&RawValue>) -> bool {
    let form = |raw: &RawValue| json::canonical(raw.get().as_bytes(), &Limits::PROOF);
    match (a.map(form), b.map(form)) {
        (Some(Ok(a)), Some(Ok(b))) => a == b,
        (None, None) => true,
        _ => false,
    }
}

/// What we ask for: the body of a 402.
#[derive(Clone, Debug)]
pub struct PaymentRequired {
    /// Why, for people.
    pub error: Option<String>,
    /// For what.
    pub resource: Resource,
    /// In which ways.
    pub accepts: Vec<Requirements>,
    /// Extensions by name: an object.
    pub extensions: Option<Box<RawValue>>,
}

impl PaymentRequired {
    /// Reads a 402 of an upstream.
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn parse(text: &[u8]) -> Result<Self, X402Error> {
        json::check(text, &Limits::REQUEST)?;
        let raw = raw_value(text)?;
        let fields = versioned(raw, "PaymentRequired")?;
        let accepts: Vec<&RawValue> = fields.read("accepts")?;
        Ok(Self {
            error: fields.text_if("error")?,
            resource: Resource::read(fields.raw("resource")?)?,
            accepts: accepts
                .into_iter()
                .map(|raw| Requirements::read(raw, "accepts"))
                .collect::<Result<_, _>>()?,
            extensions: fields.object_if("extensions")?.map(ToOwned::to_owned),
        })
    }

    /// Reads the value of [`PAYMENT_REQUIRED`].
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn from_header(value: &str) -> Result<Self, X402Error> {
        Self::parse(&base64::decode(value.trim()).ok_or(X402Error::Base64)?)
    }

    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let accepts: Vec<String> = self.accepts.iter().map(Requirements::to_json).collect();
        ObjectWriter::new()
            .raw("x402Version", "2")
            .text_if("error", self.error.as_deref())
            .raw("resource", &self.resource.to_json())
            .raw("accepts", &format!("[{}]", accepts.join(",")))
            .raw_if("extensions", self.extensions.as_deref())
            .finish()
    }

    /// The value of [`PAYMENT_REQUIRED`].
    #[must_use]
    pub fn to_header(&self) -> String {
        base64::encode(self.to_json().as_bytes())
    }
}

/// What an `exact` payment on an EVM chain signs, and the signature. A bearer instrument until it
/// is settled: `Debug` leaves the signature out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExactEvm {
    /// The EIP-3009 authorization.
    pub authorization: TransferAuthorization,
    /// By `authorization.from`, if the claim is true.
    pub signature: Signature,
}

impl fmt::Debug for ExactEvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactEvm").field("authorization", &self.authorization).finish()
    }
}

impl ExactEvm {
    fn read(raw: &RawValue) -> Result<Self, X402Error> {
        let payload = Fields::of(raw, "payload")?;
        refuse_others(&payload, &["signature", "authorization"])?;
        let signed = Fields::of(payload.raw("authorization")?, "authorization")?;
        refuse_others(&signed, &["from", "to", "value", "validAfter", "validBefore", "nonce"])?;
        let address =
            |name| Address::from_hex(&signed.text(name)?).map_err(|_| X402Error::Member { name });
        let seconds =
            |name| u64::try_from(number(&signed, name)?).map_err(|_| X402Error::Member { name });
        let authorization = TransferAuthorization {
            from: address("from")?,
            to: address("to")?,
            value: number(&signed, "value")?,
            valid_after_s: seconds("validAfter")?,
            valid_before_s: seconds("validBefore")?,
            nonce: bytes(&signed, "nonce")?,
        };
        let signature: [u8; 65] = bytes(&payload, "signature")?;
        let signature = Signature::from_bytes(&signature).map_err(X402Error::Signature)?;
        Ok(Self { authorization, signature })
    }

    fn to_json(self) -> String {
        let TransferAuthorization { from, to, value, valid_after_s, valid_before_s, nonce } =
            self.authorization;
        let authorization = ObjectWriter::new()
            .text("from", &from.to_string())
            .text("to", &to.to_string())
            .text("value", &value.to_string())
            .text("validAfter", &valid_after_s.to_string())
            .text("validBefore", &valid_before_s.to_string())
            .text("nonce", &format!("0x{}", hex::encode(nonce)))
            .finish();
        ObjectWriter::new()
            .text("signature", &format!("0x{}", hex::encode(self.signature.to_bytes())))
            .raw("authorization", &authorization)
            .finish()
    }
}

fn refuse_others(fields: &Fields<'_>, known: &[&str]) -> Result<(), X402Error> {
    match fields.others(known).next() {
        Some(_) => Err(X402Error::UnknownMember),
        None => Ok(()),
    }
}

/// A payment: read, not verified. Only `payload` is signed.
#[derive(Clone, Debug)]
pub struct PaymentPayload {
    /// For what, as the payer echoes it.
    pub resource: Option<Resource>,
    /// Which offer, as the payer echoes it.
    pub accepted: Requirements,
    /// The money.
    pub payload: ExactEvm,
    /// Extensions by name, as the payer echoes them: an object.
    pub extensions: Option<Box<RawValue>>,
}

impl PaymentPayload {
    /// Reads the JSON of a payment.
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn parse(text: &[u8]) -> Result<Self, X402Error> {
        json::check(text, &Limits::PROOF)?;
        let fields = versioned(raw_value(text)?, "payment")?;
        let accepted = Requirements::read(fields.raw("accepted")?, "accepted")?;
        accepted.evm()?;
        Ok(Self {
            resource: fields.find("resource").map(Resource::read).transpose()?,
            accepted,
            payload: ExactEvm::read(fields.raw("payload")?)?,
            extensions: fields.object_if("extensions")?.map(ToOwned::to_owned),
        })
    }

    /// Its JSON. Addresses come in EIP-55 form.
    #[must_use]
    pub fn to_json(&self) -> String {
        let out = ObjectWriter::new().raw("x402Version", "2");
        let out = match &self.resource {
            Some(resource) => out.raw("resource", &resource.to_json()),
            None => out,
        };
        out.raw("accepted", &self.accepted.to_json())
            .raw("payload", &self.payload.to_json())
            .raw_if("extensions", self.extensions.as_deref())
            .finish()
    }

    /// The value of [`PAYMENT_SIGNATURE`].
    #[must_use]
    pub fn to_header(&self) -> String {
        base64::encode(self.to_json().as_bytes())
    }

    /// The body of a facilitator's `POST /verify` and `POST /settle`.
    #[must_use]
    pub fn facilitator_request(&self, offer: &Requirements) -> String {
        ObjectWriter::new()
            .raw("x402Version", "2")
            .raw("paymentPayload", &self.to_json())
            .raw("paymentRequirements", &offer.to_json())
            .finish()
    }
}

/// The places in which a request can carry a payment, as received.
#[derive(Clone, Copy, Debug, Default)]
pub struct PaymentSources<'a> {
    /// The header [`PAYMENT_SIGNATURE`].
    pub payment_signature: Option<&'a str>,
    /// The header [`X_PAYMENT`].
    pub x_payment: Option<&'a str>,
    /// `_meta` [`META_PAYMENT`].
    pub meta: Option<&'a RawValue>,
    /// `_meta` [`META_PAYMENT_V1`].
    pub meta_v1: Option<&'a RawValue>,
}

impl PaymentSources<'_> {
    /// The one payment of a request, wherever it is; `None` when there is none.
    ///
    /// # Errors
    /// [`X402Error::Differ`] when two places disagree; [`X402Error::OldVersion`]; what is wrong
    /// with the payment.
    pub fn payment(&self) -> Result<Option<PaymentPayload>, X402Error> {
        let mut texts = Vec::new();
        for header in [self.payment_signature, self.x_payment].into_iter().flatten() {
            texts.push(Cow::Owned(base64::decode(header.trim()).ok_or(X402Error::Base64)?));
        }
        for raw in [self.meta, self.meta_v1].into_iter().flatten() {
            texts.push(match unquote(raw.get()) {
                Some(text) => Cow::Owned(base64::decode(text.trim()).ok_or(X402Error::Base64)?),
                None => Cow::Borrowed(raw.get().as_bytes()),
            });
        }
        let Some((first, others)) = texts.split_first() else { return Ok(None) };
        if !others.is_empty() {
            let form = json::canonical(first, &Limits::PROOF)?;
            for other in others {
                if json::canonical(other, &Limits::PROOF)? != form {
                    return Err(X402Error::Differ);
                }
            }
        }
        PaymentPayload::parse(first).map(Some)
    }
}

/// The fields of an object of version 2.
fn versioned<'a>(raw: &'a RawValue, name: &'static str) -> Result<Fields<'a>, X402Error> {
    let fields = Fields::of(raw, name)?;
    match fields.raw("x402Version")?.get() {
        "2" => Ok(fields),
        "1" => Err(X402Error::OldVersion),
        _ => Err(X402Error::Version),
    }
}

/// A text that passed [`json::check`], as one raw value.
fn raw_value(text: &[u8]) -> Result<&RawValue, X402Error> {
    serde_json::from_slice(text).map_err(|_| X402Error::Json(JsonError::Syntax { offset: 0 }))
}

/// A `uint256` in decimal, as a string; ours end at 128 bits.
fn number(fields: &Fields<'_>, name: &'static str) -> Result<u128, X402Error> {
    decimal(&fields.text(name)?).ok_or(X402Error::Member { name })
}

/// Unsigned ASCII decimal: no sign, no leading zeros.
fn decimal(text: &str) -> Option<u128> {
    let is_canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_canonical { text.parse().ok() } else { None }
}

/// `0x` and exactly so many bytes in hex.
fn bytes<const N: usize>(fields: &Fields<'_>, name: &'static str) -> Result<[u8; N], X402Error> {
    let text = fields.text(name)?;
    let mut bytes = [0; N];
    let digits = text.strip_prefix("0x").ok_or(X402Error::Member { name })?;
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| X402Error::Member { name })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::json::quote;
    use proptest::prelude::*;

    /// As npm `agents` 0.32.0 sent it to a test chain.
    const BASE64: &str = "eyJ4NDAyVmVyc2lvbiI6MiwicGF5bG9hZCI6eyJhdXRob3JpemF0aW9uIjp7ImZyb20iOiIweDNDNDRDZERkQjZhOTAwZmEyYjU4NWRkMjk5ZTAzZDEyRkE0MjkzQkMiLCJ0byI6IjB4OTBGNzliZjZFQjJjNGY4NzAzNjVFNzg1OTgyRTFmMTAxRTkzYjkwNiIsInZhbHVlIjoiMTAwMDAiLCJ2YWxpZEFmdGVyIjoiMCIsInZhbGlkQmVmb3JlIjoiMTc5NTQ2MjA4OCIsIm5vbmNlIjoiMHg3NzgyMzZkODExYmEwZDRkNTdmYzdjODE4ZTc0NWZhYjBkMmM1ZWEwYWJlYjBkNzA5YzExMGM1NmZkMWEzODExIn0sInNpZ25hdHVyZSI6IjB4NDdkMTY2NzVlZmI1MGQ5M2Y1ZGEzNDY2ZjNlOTE5MWM3ZGYzOTM4NjZjZTgzYTU3ZDliZjc1MzE1Yjk5ODA3ZTZjNzcyNzcxM2M4ZWQ4OTYwNTdiMWIxYzk3YWE5Zjc0YjNkNjJjYzRkMjk5MGIyYThmMDA3NDM5M2Y0OWJjZmUxYyJ9LCJyZXNvdXJjZSI6eyJ1cmwiOiJ4NDAyOi8vc3F1YXJlIiwiZGVzY3JpcHRpb24iOiJzcXVhcmVzIiwibWltZVR5cGUiOiJhcHBsaWNhdGlvbi9qc29uIn0sImFjY2VwdGVkIjp7InNjaGVtZSI6ImV4YWN0IiwibmV0d29yayI6ImVpcDE1NTo4NDUzMiIsImFtb3VudCI6IjEwMDAwIiwiYXNzZXQiOiIweDAzNkNiRDUzODQyYzU0MjY2MzRlNzkyOTU0MWVDMjMxOGYzZENGN2UiLCJwYXlUbyI6IjB4OTBGNzliZjZFQjJjNGY4NzAzNjVFNzg1OTgyRTFmMTAxRTkzYjkwNiIsIm1heFRpbWVvdXRTZWNvbmRzIjozMDAsImV4dHJhIjp7Im5hbWUiOiJVU0RDIiwidmVyc2lvbiI6IjIifX19";
    const NONCE: &str = "0x778236d811ba0d4d57fc7c818e745fab0d2c5ea0abeb0d709c110c56fd1a3811";

    fn json() -> String {
        String::from_utf8(base64::decode(BASE64).unwrap()).unwrap()
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn meta(value: &RawValue) -> Result<Option<PaymentPayload>, X402Error> {
        PaymentSources { meta: Some(value), ..PaymentSources::default() }.payment()
    }

    fn offer() -> Requirements {
        PaymentPayload::parse(json().as_bytes()).unwrap().accepted
    }

    #[test]
    fn a_payment_is_read_from_wherever_clients_put_it() {
        let object = raw(&json());
        let string = raw(&quote(BASE64));
        let none = PaymentSources::default();
        assert!(none.payment().unwrap().is_none());
        for sources in [
            PaymentSources { payment_signature: Some(BASE64), ..none },
            PaymentSources { x_payment: Some(BASE64), ..none },
            PaymentSources { meta: Some(&object), ..none },
            PaymentSources { meta: Some(&string), ..none },
            PaymentSources { meta_v1: Some(&object), ..none },
            PaymentSources {
                payment_signature: Some(BASE64),
                x_payment: Some(BASE64),
                meta: Some(&object),
                meta_v1: Some(&string),
            },
        ] {
            let payment = sources.payment().unwrap().unwrap();
            let TransferAuthorization { value, valid_after_s, valid_before_s, nonce, .. } =
                payment.payload.authorization;
            assert_eq!((value, valid_after_s, valid_before_s), (10_000, 0, 1_795_462_088));
            assert_eq!(format!("0x{}", hex::encode(nonce)), NONCE);
            assert_eq!(payment.resource.unwrap().url, "x402://square");
        }
    }

    #[test]
    fn two_payments_must_be_one() {
        let spaced = raw(&json().replace(",\"", " , \""));
        let same = PaymentSources {
            payment_signature: Some(BASE64),
            meta: Some(&spaced),
            ..PaymentSources::default()
        };
        assert!(same.payment().unwrap().is_some());
        let changed = raw(&json().replace("10000", "10001"));
        let differ = PaymentSources { meta: Some(&changed), ..same };
        assert_eq!(differ.payment().err(), Some(X402Error::Differ));
    }

    #[test]
    fn version_1_is_refused_as_such() {
        let v1 = r#"{"x402Version":1,"scheme":"exact","network":"base-sepolia","payload":{}}"#;
        let header = base64::encode(v1.as_bytes());
        let sources = PaymentSources { x_payment: Some(&header), ..PaymentSources::default() };
        assert_eq!(sources.payment().err(), Some(X402Error::OldVersion));
        let v3 = json().replace("\"x402Version\":2", "\"x402Version\":3");
        assert_eq!(meta(&raw(&v3)).err(), Some(X402Error::Version));
        let text = json().replace("\"x402Version\":2", "\"x402Version\":\"2\"");
        assert_eq!(meta(&raw(&text)).err(), Some(X402Error::Version));
    }

    #[test]
    fn what_is_signed_is_read_to_the_letter() {
        let member = |name| X402Error::Member { name };
        let from = "\"from\":\"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC\"";
        let lower = json().replace(from, &from.to_lowercase());
        assert!(meta(&raw(&lower)).is_ok(), "any case");
        let value = |text: &str| (r#""value":"10000""#.to_owned(), format!(r#""value":{text}"#));
        let nonce = |text: &str| (NONCE.to_owned(), text.to_owned());
        let table = [
            (value("10000"), member("value")),
            (value(r#""010000""#), member("value")),
            (value(r#""+1""#), member("value")),
            (value(r#""-1""#), member("value")),
            (value(r#""1e4""#), member("value")),
            (value(r#""1.0""#), member("value")),
            (value(r#""""#), member("value")),
            (value(r#"" 1""#), member("value")),
            (value(r#""0x10""#), member("value")),
            (value(r#""١""#), member("value")),
            (value(r#""340282366920938463463374607431768211456""#), member("value")),
            (nonce(NONCE.split_at(64).0), member("nonce")),
            (nonce(NONCE.split_at(2).1), member("nonce")),
            (nonce(&format!("{NONCE}00")), member("nonce")),
            (nonce(&NONCE.replace("0x7", "0xg")), member("nonce")),
            ((from.into(), r#""from":"0x3C44""#.into()), member("from")),
            ((from.into(), r#""from":null"#.into()), member("from")),
            ((r#""validAfter":"0""#.into(), r#""validAfter":0"#.into()), member("validAfter")),
            (("1795462088".into(), "18446744073709551616".into()), member("validBefore")),
            ((r#""value""#.into(), r#""extra":1,"value""#.into()), X402Error::UnknownMember),
            (
                (r#""signature""#.into(), r#""permit2Authorization":{},"signature""#.into()),
                X402Error::UnknownMember,
            ),
            (("bcfe1c\"".into(), "bcfe1c00\"".into()), member("signature")),
            (
                ("bcfe1c\"".into(), "bcfe1d\"".into()),
                X402Error::Signature(NotASignature::RecoveryId),
            ),
            ((r#""scheme":"exact""#.into(), r#""scheme":"upto""#.into()), X402Error::Unsupported),
            (("eip155:84532".into(), "solana:x".into()), X402Error::Unsupported),
            (("eip155:84532".into(), "eip155:084532".into()), X402Error::Unsupported),
            ((r#""amount":"10000""#.into(), r#""amount":10000"#.into()), member("amount")),
            (("\"accepted\"".into(), "\"Accepted\"".into()), member("accepted")),
            (
                ("\"payload\"".into(), "\"payload\":{},\"payload\"".into()),
                X402Error::Json(JsonError::DuplicateKey),
            ),
        ];
        for ((old, new), expected) in table {
            let text = json().replace(&old, &new);
            assert_ne!(text, json(), "{old}");
            assert_eq!(meta(&raw(&text)).err(), Some(expected), "{new}");
        }
        for (text, expected) in [
            (r#""not base64!""#, X402Error::Base64),
            ("7", member("payment")),
            ("[]", member("payment")),
            ("{}", member("x402Version")),
        ] {
            assert_eq!(meta(&raw(text)).err(), Some(expected), "{text}");
        }
        let long = format!(r#"{{"x":"{}"}}"#, "a".repeat(17_000));
        assert_eq!(meta(&raw(&long)).err(), Some(JsonError::TooLarge.into()));
    }

    #[test]
    fn the_echoed_offer_must_be_ours() {
        let ours = offer();
        assert!(offer().matches(&ours));
        let lower = Requirements { asset: ours.asset.to_lowercase(), ..offer() };
        assert!(lower.matches(&ours), "addresses have no case");
        let spaced =
            Requirements { extra: Some(raw(r#"{"version":"2","name":"USDC"}"#)), ..offer() };
        assert!(spaced.matches(&ours), "members have no order");
        let others = [
            Requirements { amount: 9_999, ..offer() },
            Requirements { network: "eip155:8453".into(), ..offer() },
            Requirements { pay_to: ours.asset.clone(), ..offer() },
            Requirements { asset: ours.pay_to.clone(), ..offer() },
            Requirements { max_timeout_seconds: 301, ..offer() },
            Requirements { scheme: "upto".into(), ..offer() },
            Requirements { extra: None, ..offer() },
            Requirements { extra: Some(raw(r#"{"name":"USDC","version":"1"}"#)), ..offer() },
            Requirements { unknown: vec![("x".into(), raw("1"))], ..offer() },
        ];
        for other in others {
            assert!(!other.matches(&ours), "{other:?}");
        }
    }

    #[test]
    fn payments_are_written_as_facilitators_read_them() {
        let payment = PaymentPayload::parse(json().as_bytes()).unwrap();
        let again = PaymentPayload::parse(payment.to_json().as_bytes()).unwrap();
        assert_eq!(again.payload, payment.payload);
        let canonical = |text: &str| json::canonical(text.as_bytes(), &Limits::REQUEST).unwrap();
        assert_eq!(canonical(&payment.to_json()), canonical(&json()), "nothing lost");
        let body = payment.facilitator_request(&offer());
        assert!(
            body.starts_with(r#"{"x402Version":2,"paymentPayload":{"x402Version":2,"#),
            "{body}"
        );
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["paymentRequirements"], body["paymentPayload"]["accepted"]);
        let header = payment.to_header();
        let sources = PaymentSources { payment_signature: Some(&header), ..Default::default() };
        assert_eq!(sources.payment().unwrap().unwrap().payload, payment.payload);
        assert!(!format!("{payment:?}").contains("bcfe1c"), "no signature in logs");
    }

    #[test]
    fn unknown_members_of_an_offer_are_echoed() {
        let text = r#"{"x402Version":2,"resource":{"url":"u"},"accepts":[{"scheme":"exact","network":"solana:5","amount":"1","asset":"a","payTo":"p","maxTimeoutSeconds":60,"extra":{"feePayer":1.0},"outputSchema":{"n":1.50}}],"extensions":{"x":{"info":1.0}}}"#;
        let read = PaymentRequired::parse(text.as_bytes()).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(PaymentRequired::from_header(&read.to_header()).unwrap().to_json(), text);
        assert_eq!(read.accepts[0].evm(), Err(X402Error::Unsupported));
        let v1 = r#"{"x402Version":1,"accepts":[]}"#;
        assert_eq!(PaymentRequired::parse(v1.as_bytes()).err(), Some(X402Error::OldVersion));
    }

    proptest! {
        #[test]
        fn no_change_of_a_byte_breaks_it(at in 0usize..800, byte in any::<u8>()) {
            let mut text = json().into_bytes();
            if let Some(slot) = text.get_mut(at) {
                *slot = byte;
            }
            if let Ok(payment) = PaymentPayload::parse(&text) {
                let again = PaymentPayload::parse(payment.to_json().as_bytes()).unwrap();
                prop_assert_eq!(again.payload, payment.payload);
            }
        }

        #[test]
        fn no_text_breaks_it(text in any::<String>(), value in "[A-Za-z0-9+/=]{0,40}") {
            let _ = PaymentRequired::parse(text.as_bytes());
            let sources = PaymentSources { payment_signature: Some(&value), ..Default::default() };
            let _ = sources.payment();
        }
    }
}
