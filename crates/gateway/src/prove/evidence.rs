//! Credentials as they came: found, in every form that clients use, but not believed.
//!
//! INVARIANT: a credential that stands in two places must be the same in both; of each header
//! there is one, but for `Authorization`, which may carry one bearer token and one L402
//! credential on two lines, as some payment clients send it.

use super::bring::unacceptable;
use countersign_core::{
    digest::Digest,
    proof::{VerifiedWork, x402::code_of},
    refusal::{Code, Refusal},
    wire::{
        l402::{self, Composite, Credential, L402Error},
        mcp::Meta,
        pow::{self, PowError, Presented},
        x402::{self, PaymentPayload},
    },
};
use http::{HeaderMap, header::AUTHORIZATION};
use serde_json::value::RawValue;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// What a request brought.
pub struct Evidence {
    /// An access token.
    pub bearer: Option<String>,
    /// An L402 credential.
    pub l402: Option<Credential>,
    /// Money that a Lightning node holds for this call. Never from a request: our own word.
    pub held: Option<HeldInvoice>,
    /// A grant that a person signed.
    pub mandate: Option<String>,
    /// The MCP session that it names.
    pub session: Option<String>,
    /// An x402 payment, or why it can be none of ours: said where a payment is wanted.
    pub x402: Option<Result<PaymentPayload, Refusal>>,
    /// Work.
    pub work: Option<Work>,
    /// Credit is to pay: the caller's own name for this payment.
    pub credit: Option<String>,
    /// The invoice that what is owed back for its credential is to pay; not looked into.
    pub refund_invoice: Option<String>,
    /// The address that the request came from.
    pub peer: IpAddr,
}

/// Work as it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// A solved challenge.
    Solution(Presented),
    /// The macaroon that one was exchanged for.
    Credential(Credential),
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            bearer: None,
            l402: None,
            mandate: None,
            session: None,
            x402: None,
            held: None,
            work: None,
            credit: None,
            refund_invoice: None,
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }
}

/// A hold invoice of ours whose money has come.
#[derive(Clone, Copy, Debug)]
pub struct HeldInvoice {
    /// The credential that it buys.
    pub credential: Digest,
    /// What the node holds.
    pub amount_msat: u64,
}

/// `_meta` key of a payment by credit.
pub const META_CREDIT: &str = "countersign/credit";
/// How long the name of a payment by credit is, in bytes.
const CREDIT_BYTES: std::ops::RangeInclusive<usize> = 8..=128;

/// `_meta` key of the invoice that what is owed back is to pay.
pub const META_REFUND_INVOICE: &str = "countersign/refund-invoice";
/// How long such an invoice is at most, in bytes.
const INVOICE_BYTES_MAX: usize = 4096;

/// `_meta` key of a grant that a person signed, a compact JWS.
pub const META_MANDATE: &str = "countersign/consent-grant";

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("bearer", &self.bearer.is_some())
            .field("l402", &self.l402.is_some())
            .field("held", &self.held.is_some())
            .field("mandate", &self.mandate.is_some())
            .field("x402", &self.x402.is_some())
            .field("work", &self.work.is_some())
            .field("credit", &self.credit.is_some())
            .field("refund_invoice", &self.refund_invoice.is_some())
            .finish()
    }
}

impl Evidence {
    /// Finds the credentials of a request.
    ///
    /// # Errors
    /// [`Code::AmbiguousHeaders`], [`Code::AmbiguousPayment`], [`Code::PaymentMalformed`],
    /// [`Code::TokenMalformed`], [`Code::OldVersion`].
    pub fn of(headers: &HeaderMap, meta: &Meta<'_>) -> Result<Self, Refusal> {
        let mut evidence = Self::of_authorization(headers)?;
        evidence.session = single(headers, "mcp-session-id")?.map(str::to_owned);
        if let Some(composite) = single(headers, "x-mcp-auth-composite")? {
            let Composite { identity, payment } =
                l402::parse_composite(composite).map_err(malformed)?;
            evidence.bearer = same(evidence.bearer, identity.map(str::to_owned))?;
            evidence.l402 = same(evidence.l402, payment)?;
        }
        if let Some(raw) = meta.get("ai.bolthub/payment") {
            let credential = l402::parse_mcp_proof(raw).map_err(malformed)?;
            evidence.l402 = same(evidence.l402, Some(credential))?;
        }
        evidence.mandate = meta.get(META_MANDATE).map(mandate).transpose()?;
        let found = x402::PaymentSources {
            payment_signature: single(headers, "payment-signature")?,
            x_payment: single(headers, "x-payment")?,
            meta: meta.get("x402/payment"),
            meta_v1: meta.get("x402.payment"),
        };
        evidence.x402 = match found.payment() {
            Ok(payment) => payment.map(Ok),
            Err(x402::X402Error::Differ) => return Err(refused_x402(x402::X402Error::Differ)),
            Err(error) => Some(Err(refused_x402(error))),
        };
        evidence.find_work(headers, meta)?;
        let said = meta.get(META_CREDIT).map(credit_meta).transpose()?;
        let header = single(headers, "countersign-credit")?.map(credit).transpose()?;
        evidence.credit = same(header, said)?;
        evidence.refund_invoice = meta.get(META_REFUND_INVOICE).map(invoice).transpose()?;
        let rails = [
            evidence.x402.is_some(),
            evidence.l402.is_some(),
            evidence.work.is_some(),
            evidence.credit.is_some(),
        ];
        if rails.into_iter().filter(|is_there| *is_there).count() > 1 {
            return Err(Code::AmbiguousPayment.into());
        }
        Ok(evidence)
    }

    /// The same, from an address.
    #[must_use]
    pub fn from(self, peer: IpAddr) -> Self {
        Self { peer, ..self }
    }

    /// Work in its own header and in `_meta`, or where macaroons are presented.
    fn find_work(&mut self, headers: &HeaderMap, meta: &Meta<'_>) -> Result<(), Refusal> {
        let refused = |error: PowError| Refusal::new(Code::PaymentMalformed).with("detail", error);
        let header = single(headers, "pow-solution")?;
        let header = header.map(Presented::parse).transpose().map_err(refused)?;
        let own = meta.get(pow::META).map(Presented::from_json).transpose().map_err(refused)?;
        let found = same(header, own)?.map(Work::Solution);
        let is_work = self.l402.as_ref().is_some_and(VerifiedWork::is_credential);
        let macaroon = if is_work { self.l402.take().map(Work::Credential) } else { None };
        self.work = same(found, macaroon)?;
        Ok(())
    }

    /// The parts of `Authorization`.
    fn of_authorization(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut evidence = Self::default();
        for value in headers.get_all(AUTHORIZATION) {
            let text = value.to_str().map_err(|_| Code::TokenMalformed)?;
            let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let taken = evidence.bearer.replace(rest.trim().to_owned());
                refuse_second(taken.is_some())?;
            } else if ["l402", "lsat"].contains(&scheme.to_ascii_lowercase().as_str()) {
                let credential = l402::parse_authorization(text).map_err(malformed)?;
                let taken = evidence.l402.replace(credential);
                refuse_second(taken.is_some())?;
            } else {
                return Err(Code::TokenMalformed.into());
            }
        }
        Ok(evidence)
    }
}

/// The bearer token alone, for messages that are only relayed.
///
/// # Errors
/// Those of [`Evidence::of`] that concern `Authorization`.
pub fn bearer(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let evidence = Evidence::of_authorization(headers)?;
    let Some(composite) = single(headers, "x-mcp-auth-composite")? else {
        return Ok(evidence.bearer);
    };
    let composite = l402::parse_composite(composite).map_err(malformed)?;
    same(evidence.bearer, composite.identity.map(str::to_owned))
}

fn refuse_second(is_second: bool) -> Result<(), Refusal> {
    if is_second {
        return Err(Refusal::new(Code::AmbiguousHeaders).with("header", "authorization"));
    }
    Ok(())
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Code::AmbiguousHeaders).with("header", name));
    }
    first.map(|v| v.to_str()).transpose().map_err(|_| Code::PaymentMalformed.into())
}

/// One credential out of two places.
fn same<T: PartialEq>(a: Option<T>, b: Option<T>) -> Result<Option<T>, Refusal> {
    match (a, b) {
        (Some(a), Some(b)) if a == b => Ok(Some(a)),
        (Some(_), Some(_)) => Err(Code::AmbiguousPayment.into()),
        (a, b) => Ok(a.or(b)),
    }
}

fn credit_meta(raw: &RawValue) -> Result<String, Refusal> {
    let text: Result<String, _> = serde_json::from_str(raw.get());
    text.map_err(|_| Code::PaymentMalformed.into()).and_then(|text| credit(&text))
}

/// The caller's name for a payment by credit.
fn credit(text: &str) -> Result<String, Refusal> {
    let is_good = CREDIT_BYTES.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if is_good {
        return Ok(text.to_owned());
    }
    let detail = "a payment by credit is named by 8 to 128 visible ASCII characters";
    Err(Refusal::new(Code::PaymentMalformed).with("detail", detail))
}

fn invoice(raw: &RawValue) -> Result<String, Refusal> {
    let text: Option<String> = serde_json::from_str(raw.get()).ok();
    let text = text.filter(|text| (1..=INVOICE_BYTES_MAX).contains(&text.len()));
    let detail = "an invoice for a refund is a string of at most 4096 bytes";
    text.ok_or_else(|| Refusal::new(Code::PaymentMalformed).with("detail", detail))
}

fn mandate(raw: &RawValue) -> Result<String, Refusal> {
    let text = serde_json::from_str(raw.get());
    text.map_err(|_| unacceptable("a mandate is a string"))
}

fn malformed(error: L402Error) -> Refusal {
    Refusal::new(Code::PaymentMalformed).with("detail", error)
}

fn refused_x402(error: x402::X402Error) -> Refusal {
    Refusal::new(code_of(error)).with("detail", error)
}
