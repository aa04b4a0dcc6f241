//! What a facilitator answers.

use super::{X402Error, number, raw_value};
use crate::wire::{
    base64,
    json::{self, Limits},
    object::{Fields, ObjectWriter},
};
use serde_json::value::RawValue;

/// A facilitator's answer to `POST /settle`, and the receipt that a payer gets.
#[derive(Clone, Debug)]
pub struct SettleResponse {
    /// Whether the money has moved.
    pub success: bool,
    /// Why not.
    pub error_reason: Option<String>,
    /// Whose it was.
    pub payer: Option<String>,
    /// The transaction; empty when there is none.
    pub transaction: String,
    /// CAIP-2.
    pub network: String,
    /// What moved, if it is not what was authorized, in atomic units.
    pub amount: Option<u128>,
    /// Extensions by name: an object.
    pub extensions: Option<Box<RawValue>>,
}

impl SettleResponse {
    /// Reads a settlement.
    ///
    /// # Errors
    /// See [`X402Error`]; a success without a transaction among them.
    pub fn parse(text: &[u8]) -> Result<Self, X402Error> {
        json::check(text, &Limits::REQUEST)?;
        let fields = Fields::of(raw_value(text)?, "settlement")?;
        let success: bool = fields.read("success")?;
        let transaction = fields.text_if("transaction")?;
        let transaction = match transaction {
            Some(transaction) if !(success && transaction.is_empty()) => transaction,
            None if !success => String::new(),
            _ => return Err(X402Error::Member { name: "transaction" }),
        };
        let amount = fields.find("amount").map(|_| number(&fields, "amount")).transpose()?;
        Ok(Self {
            success,
            error_reason: fields.text_if("errorReason")?,
            payer: fields.text_if("payer")?,
            transaction,
            network: fields.text("network")?,
            amount,
            extensions: fields.object_if("extensions")?.map(ToOwned::to_owned),
        })
    }

    /// Reads the value of [`super::PAYMENT_RESPONSE`].
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn from_header(value: &str) -> Result<Self, X402Error> {
        Self::parse(&base64::decode(value.trim()).ok_or(X402Error::Base64)?)
    }

    /// Its JSON: the value of `_meta` [`super::META_PAYMENT_RESPONSE`].
    #[must_use]
    pub fn to_json(&self) -> String {
        let amount = self.amount.map(|amount| amount.to_string());
        ObjectWriter::new()
            .raw("success", if self.success { "true" } else { "false" })
            .text_if("errorReason", self.error_reason.as_deref())
            .text_if("payer", self.payer.as_deref())
            .text("transaction", &self.transaction)
            .text("network", &self.network)
            .text_if("amount", amount.as_deref())
            .raw_if("extensions", self.extensions.as_deref())
            .finish()
    }

    /// The value of [`super::PAYMENT_RESPONSE`].
    #[must_use]
    pub fn to_header(&self) -> String {
        base64::encode(self.to_json().as_bytes())
    }
}

/// A facilitator's answer to `POST /verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyResponse {
    /// Whether the payment is good.
    pub is_valid: bool,
    /// Why not.
    pub invalid_reason: Option<String>,
    /// Whose it is.
    pub payer: Option<String>,
}

impl VerifyResponse {
    /// Reads a verification.
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn parse(text: &[u8]) -> Result<Self, X402Error> {
        json::check(text, &Limits::REQUEST)?;
        let fields = Fields::of(raw_value(text)?, "verification")?;
        Ok(Self {
            is_valid: fields.read("isValid")?,
            invalid_reason: fields.text_if("invalidReason")?,
            payer: fields.text_if("payer")?,
        })
    }
}

/// A facilitator's answer to `GET /supported`.
#[derive(Clone, Debug)]
pub struct SupportedResponse {
    /// What it settles.
    pub kinds: Vec<SupportedKind>,
    /// The extensions it knows.
    pub extensions: Vec<String>,
    /// Its accounts by network pattern: an object.
    pub signers: Option<Box<RawValue>>,
}

/// One kind of payment that a facilitator settles.
#[derive(Clone, Debug)]
pub struct SupportedKind {
    /// The protocol's version.
    pub version: u64,
    /// `exact`.
    pub scheme: String,
    /// CAIP-2, or a name of version 1.
    pub network: String,
    /// What the scheme adds: an object.
    pub extra: Option<Box<RawValue>>,
}

impl SupportedResponse {
    /// Reads what a facilitator supports.
    ///
    /// # Errors
    /// See [`X402Error`].
    pub fn parse(text: &[u8]) -> Result<Self, X402Error> {
        json::check(text, &Limits::REQUEST)?;
        let fields = Fields::of(raw_value(text)?, "supported")?;
        let kinds: Vec<&RawValue> = fields.read("kinds")?;
        let kind = |raw| {
            let fields = Fields::of(raw, "kinds")?;
            Ok(SupportedKind {
                version: fields.read("x402Version")?,
                scheme: fields.text("scheme")?,
                network: fields.text("network")?,
                extra: fields.object_if("extra")?.map(ToOwned::to_owned),
            })
        };
        let extensions = fields.find("extensions").map(|_| fields.read("extensions"));
        Ok(Self {
            kinds: kinds.into_iter().map(kind).collect::<Result<_, X402Error>>()?,
            extensions: extensions.transpose()?.unwrap_or_default(),
            signers: fields.object_if("signers")?.map(ToOwned::to_owned),
        })
    }

    /// Whether it settles version 2 of this scheme on this network.
    #[must_use]
    pub fn settles(&self, scheme: &str, network: &str) -> bool {
        let is_it =
            |k: &SupportedKind| k.version == 2 && k.scheme == scheme && k.network == network;
        self.kinds.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlements_are_read_and_written() {
        let text = r#"{"success":true,"payer":"0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC","transaction":"0x4a9b","network":"eip155:84532"}"#;
        let read = SettleResponse::parse(text.as_bytes()).unwrap();
        assert_eq!(read.to_json(), text);
        assert_eq!(SettleResponse::from_header(&read.to_header()).unwrap().to_json(), text);
        let failed = r#"{"success":false,"errorReason":"nonce used","errorMessage":"long","payer":null,"transaction":"","network":"eip155:84532"}"#;
        let failed = SettleResponse::parse(failed.as_bytes()).unwrap();
        assert_eq!(failed.error_reason.as_deref(), Some("nonce used"));
        assert_eq!((failed.payer, &*failed.transaction), (None, ""));
        let short = r#"{"success":false,"network":"eip155:84532","amount":"7"}"#;
        assert_eq!(SettleResponse::parse(short.as_bytes()).unwrap().amount, Some(7));
    }

    #[test]
    fn a_success_that_proves_nothing_is_refused() {
        let member = |name| Some(X402Error::Member { name });
        for (text, error) in [
            (r#"{"success":true,"network":"n"}"#, member("transaction")),
            (r#"{"success":true,"transaction":"","network":"n"}"#, member("transaction")),
            (r#"{"success":"true","transaction":"0x","network":"n"}"#, member("success")),
            (r#"{"transaction":"0x","network":"n"}"#, member("success")),
            (r#"{"success":true,"transaction":"0x"}"#, member("network")),
            (r#"{"success":false,"network":"n","amount":"-1"}"#, member("amount")),
            ("[]", member("settlement")),
        ] {
            assert_eq!(SettleResponse::parse(text.as_bytes()).err(), error, "{text}");
        }
        let twice = br#"{"success":false,"success":true,"transaction":"0x","network":"n"}"#;
        assert!(matches!(SettleResponse::parse(twice), Err(X402Error::Json(_))));
    }

    #[test]
    fn verifications_and_support_are_read() {
        let read = VerifyResponse::parse(br#"{"isValid":false,"invalidReason":"x","payer":null}"#);
        let expected =
            VerifyResponse { is_valid: false, invalid_reason: Some("x".into()), payer: None };
        assert_eq!(read, Ok(expected));
        assert!(VerifyResponse::parse(br#"{"isValid":1}"#).is_err());
        assert!(VerifyResponse::parse(b"{}").is_err());
        // As captured from a facilitator on crate `r402`.
        let text = br#"{"extensions":["eip2612GasSponsoring","erc20ApprovalGasSponsoring"],"kinds":[{"network":"eip155:84532","scheme":"exact","x402Version":2}],"signers":{"eip155:*":["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"]}}"#;
        let supported = SupportedResponse::parse(text).unwrap();
        assert!(supported.settles("exact", "eip155:84532"));
        assert!(!supported.settles("exact", "eip155:8453"));
        assert_eq!(supported.extensions.len(), 2);
    }
}
