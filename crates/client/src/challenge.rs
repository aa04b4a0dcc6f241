//! What a server asks to be paid, wherever it says so: the MCP result (`structuredContent`, the
//! first text, `_meta`), the headers of an HTTP 402, or its body; and the work that it takes instead.
//!
//! Owns reading. Whether an offer is paid is decided in [`crate::means`].
//!
//! INVARIANT: two x402 challenges in one answer that differ in their offers are refused, so that
//! nobody pays one and is held to the other.

use crate::rpc::{Answer, AnswerBody};
use countersign_core::{
    time::UnixMs,
    wire::{
        l402, pow,
        x402::{self, META_ERROR, PAYMENT_REQUIRED, PaymentRequired},
    },
};
use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Most offers of one kind that are looked at.
const MAX_OFFERS: usize = 16;

/// Where a challenge was found, and so where its payment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    /// `params._meta`.
    Meta,
    /// HTTP headers.
    Header,
}

/// What a server asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Challenge {
    pub(crate) x402: Option<(PaymentRequired, Channel)>,
    pub(crate) l402: Vec<(L402Offer, Channel)>,
    pub(crate) work: Option<(Box<WorkOffer>, Channel)>,
    /// The server's own words.
    pub(crate) message: Option<String>,
}

/// A macaroon for a paid invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct L402Offer {
    pub(crate) token: String,
    pub(crate) invoice: String,
    /// What the offer says beside the invoice.
    pub(crate) amount_sat: Option<u64>,
}

/// Something to solve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkOffer {
    pub(crate) nonce: String,
    /// The largest first eight bytes of a hash that solves it.
    pub(crate) target: u64,
    pub(crate) expires_at: UnixMs,
}

impl WorkOffer {
    /// Reads an offer of SHA-256; anything else is none that we solve.
    pub(crate) fn read(raw: &RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Form {
            nonce: String,
            target: String,
            algorithm: String,
            expires_at: u64,
        }
        let form: Form = serde_json::from_str(raw.get()).ok()?;
        let head = form.target.get(..16).filter(|_| form.target.len() == 64)?;
        let target = u64::from_str_radix(head, 16).ok()?;
        let is_ours = form.algorithm == "SHA-256" && !form.nonce.is_empty();
        let Form { nonce, expires_at, .. } = form;
        is_ours.then_some(Self { nonce, target, expires_at: UnixMs(expires_at) })
    }
}

/// Why a challenge is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoChallenge {
    /// Nothing is asked.
    Absent,
    /// Two places ask for different things.
    Contradictory,
}

/// The parts of a tool result that can ask for payment.
#[derive(Deserialize)]
pub(crate) struct ResultParts<'a> {
    #[serde(rename = "isError", default)]
    pub(crate) is_error: bool,
    #[serde(rename = "resultType", default)]
    pub(crate) result_type: Option<String>,
    #[serde(rename = "structuredContent", borrow)]
    structured: Option<&'a RawValue>,
    #[serde(rename = "paymentRequired", borrow)]
    payment_required: Option<&'a RawValue>,
    #[serde(default, borrow)]
    content: Vec<&'a RawValue>,
    #[serde(rename = "_meta", default, borrow)]
    pub(crate) meta: BTreeMap<String, &'a RawValue>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

#[derive(Deserialize)]
struct L402Meta {
    #[serde(default)]
    offers: Vec<L402MetaOffer>,
}

#[derive(Deserialize)]
struct L402MetaOffer {
    scheme: String,
    amount: Option<u64>,
    asset: Option<String>,
    #[serde(default)]
    token: String,
    #[serde(default)]
    invoice: String,
}

#[derive(Deserialize)]
struct CompositeBody {
    invoice: String,
    macaroon: String,
}

#[derive(Deserialize)]
struct WorkBody {
    pow: Box<RawValue>,
}

/// The challenge of an answer.
pub(crate) fn of_answer(answer: &Answer) -> Result<Challenge, NoChallenge> {
    let mut found = Found::default();
    if answer.status == 402 {
        found.headers(&answer.headers);
        if let AnswerBody::Object(body) = &answer.body {
            found.x402(PaymentRequired::parse(body.get().as_bytes()), Channel::Header);
            if let Ok(body) = serde_json::from_str::<CompositeBody>(body.get()) {
                let CompositeBody { invoice, macaroon } = body;
                let offer = L402Offer { token: macaroon, invoice, amount_sat: None };
                found.l402(offer, Channel::Header);
            }
            if let Ok(body) = serde_json::from_str::<WorkBody>(body.get()) {
                found.work(&body.pow, Channel::Header);
            }
        }
    }
    if let AnswerBody::Result(result) = &answer.body
        && let Ok(parts) = serde_json::from_str::<ResultParts<'_>>(result.get())
        && (parts.is_error || parts.result_type.as_deref() == Some("payment_required"))
    {
        found.result(&parts);
    }
    found.finish()
}

#[derive(Default)]
struct Found {
    x402: Vec<(PaymentRequired, Channel)>,
    l402: Vec<(L402Offer, Channel)>,
    work: Option<(Box<WorkOffer>, Channel)>,
}

impl Found {
    fn work(&mut self, raw: &RawValue, channel: Channel) {
        if let Some(offer) = WorkOffer::read(raw) {
            self.work = Some((Box::new(offer), channel));
        }
    }

    fn x402(&mut self, read: Result<PaymentRequired, x402::X402Error>, channel: Channel) {
        if let Ok(required) = read {
            self.x402.push((required, channel));
        }
    }

    fn l402(&mut self, offer: L402Offer, channel: Channel) {
        let is_empty = offer.token.is_empty() || offer.invoice.is_empty();
        let is_known = self
            .l402
            .iter()
            .any(|(known, _)| known.token == offer.token && known.invoice == offer.invoice);
        if !is_empty && !is_known && self.l402.len() < MAX_OFFERS {
            self.l402.push((offer, channel));
        }
    }

    fn result(&mut self, parts: &ResultParts<'_>) {
        let objects = [parts.structured, parts.payment_required];
        let objects = objects.into_iter().chain([parts.meta.get(META_ERROR).copied()]);
        for raw in objects.flatten() {
            self.x402(PaymentRequired::parse(raw.get().as_bytes()), Channel::Meta);
        }
        let first = parts.content.first().map(|raw| serde_json::from_str::<Text>(raw.get()));
        if let Some(Ok(Text { kind, text })) = first
            && kind == "text"
        {
            self.x402(PaymentRequired::parse(text.as_bytes()), Channel::Meta);
        }
        if let Some(raw) = parts.meta.get(pow::META) {
            self.work(raw, Channel::Meta);
        }
        let meta = parts.meta.get(l402::META_PAYMENT);
        let meta = meta.and_then(|raw| serde_json::from_str::<L402Meta>(raw.get()).ok());
        for offer in meta.into_iter().flat_map(|meta| meta.offers).take(MAX_OFFERS) {
            // An amount in anything but sat cannot be compared with the invoice.
            let is_sat = offer.asset.as_deref().is_none_or(|asset| asset == "sat");
            if offer.scheme.eq_ignore_ascii_case("l402") && is_sat {
                let L402MetaOffer { token, invoice, amount: amount_sat, .. } = offer;
                self.l402(L402Offer { token, invoice, amount_sat }, Channel::Meta);
            }
        }
    }

    fn headers(&mut self, headers: &HeaderMap) {
        for value in headers.get_all(PAYMENT_REQUIRED) {
            if let Ok(value) = value.to_str() {
                self.x402(PaymentRequired::from_header(value), Channel::Header);
            }
        }
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            let parameters = value.to_str().ok().and_then(l402_parameters);
            if let Some(offer) = parameters.and_then(|parameters| l402_of(&parameters)) {
                self.l402(offer, Channel::Header);
            }
        }
    }

    /// One challenge of all that was found. The first place is the one that is paid in.
    fn finish(self) -> Result<Challenge, NoChallenge> {
        let offers = |required: &PaymentRequired| -> Vec<String> {
            required.accepts.iter().map(x402::Requirements::to_json).collect()
        };
        let mut found = self.x402.into_iter();
        let x402 = found.next();
        if let Some((first, _)) = &x402
            && found.any(|(other, _)| offers(&other) != offers(first))
        {
            return Err(NoChallenge::Contradictory);
        }
        if x402.is_none() && self.l402.is_empty() && self.work.is_none() {
            return Err(NoChallenge::Absent);
        }
        let message = x402.as_ref().and_then(|(required, _)| required.error.clone());
        Ok(Challenge { x402, l402: self.l402, work: self.work, message })
    }
}

/// The parameters of the L402 (or LSAT) challenge in a `WWW-Authenticate` value.
fn l402_parameters(value: &str) -> Option<BTreeMap<String, String>> {
    parameters(value, &["l402", "lsat"])
}

/// The parameters after one of these schemes.
pub(crate) fn parameters(value: &str, schemes: &[&str]) -> Option<BTreeMap<String, String>> {
    let lower = value.to_ascii_lowercase();
    let starts = schemes.iter().filter_map(|scheme| {
        let at = lower.find(&format!("{scheme} "))?;
        let before = value.get(..at)?.trim_end();
        (before.is_empty() || before.ends_with(',')).then_some(at + scheme.len())
    });
    let mut rest = value.get(starts.min()?..)?;
    let mut read = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((key, after)) = rest.split_once('=') else { return Some(read) };
        let key = key.trim();
        // A word before the key is the next scheme.
        if key.is_empty() || key.contains([' ', '"', ',']) {
            return Some(read);
        }
        let (text, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find([',', ' ']).unwrap_or(after.len())),
        };
        read.insert(key.to_ascii_lowercase(), text.to_owned());
        rest = after;
    }
}

/// The offer, unless its two names for the macaroon disagree.
fn l402_of(parameters: &BTreeMap<String, String>) -> Option<L402Offer> {
    let (macaroon, token) = (parameters.get("macaroon"), parameters.get("token"));
    if let (Some(macaroon), Some(token)) = (macaroon, token)
        && macaroon != token
    {
        return None;
    }
    let token = macaroon.or(token)?.clone();
    Some(L402Offer { token, invoice: parameters.get("invoice")?.clone(), amount_sat: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn required(amount: u32) -> String {
        format!(
            r#"{{"x402Version":2,"error":"pay","resource":{{"url":"mcp://tool/x"}},"accepts":[{{
            "scheme":"exact","network":"eip155:84532","amount":"{amount}",
            "asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,
            "extra":{{"name":"USDC","version":"2","challenge":"c1"}}}}]}}"#
        )
    }

    fn answer(result: &str) -> Answer {
        let body = AnswerBody::Result(serde_json::from_str(result).unwrap());
        Answer { status: 200, headers: HeaderMap::new(), body }
    }

    #[test]
    fn every_form_in_a_result_is_read_and_they_must_agree() {
        let r = required(10_000);
        let text = serde_json::to_string(&r).unwrap();
        let l402 = r#"{"status":"payment_required","offers":[{"scheme":"l402","amount":3,
            "asset":"sat","token":"T","invoice":"lnbc1"}]}"#;
        for result in [
            format!(r#"{{"isError":true,"structuredContent":{r},"content":[]}}"#),
            format!(r#"{{"isError":true,"content":[{{"type":"text","text":{text}}}]}}"#),
            format!(r#"{{"isError":true,"_meta":{{"x402/error":{r}}}}}"#),
            format!(r#"{{"resultType":"payment_required","paymentRequired":{r}}}"#),
        ] {
            let read = of_answer(&answer(&result)).unwrap();
            let (read, channel) = read.x402.unwrap();
            assert_eq!((read.accepts[0].amount, channel), (10_000, Channel::Meta), "{result}");
        }
        let both = format!(
            r#"{{"isError":true,"_meta":{{"x402/error":{r},"ai.bolthub/payment":{l402}}}}}"#
        );
        let read = of_answer(&answer(&both)).unwrap();
        assert_eq!(read.l402[0].0.amount_sat, Some(3));
        let other = required(20_000);
        let differ = format!(
            r#"{{"isError":true,"structuredContent":{r},"_meta":{{"x402/error":{other}}}}}"#
        );
        assert_eq!(of_answer(&answer(&differ)).err(), Some(NoChallenge::Contradictory));
    }

    #[test]
    fn work_is_read_from_a_result_and_from_a_402() {
        let offer = format!(
            r#"{{"scheme":"pow","algorithm":"SHA-256","nonce":"n","target":"00ff{}","expiresAt":9}}"#,
            "f".repeat(60)
        );
        let expected =
            WorkOffer { nonce: "n".into(), target: u64::MAX >> 8, expires_at: UnixMs(9) };
        let result = format!(r#"{{"isError":true,"_meta":{{"countersign/pow":{offer}}}}}"#);
        let read = of_answer(&answer(&result)).unwrap();
        assert_eq!(read.work, Some((Box::new(expected.clone()), Channel::Meta)));
        let body = AnswerBody::Object(
            serde_json::from_str(&format!(r#"{{"code":"PAY-001","pow":{offer}}}"#)).unwrap(),
        );
        let answer = Answer { status: 402, headers: HeaderMap::new(), body };
        assert_eq!(of_answer(&answer).unwrap().work, Some((Box::new(expected), Channel::Header)));
        for other in [offer.replace("SHA-256", "SHA-1"), offer.replace("00ff", "é")] {
            let raw = RawValue::from_string(other).unwrap();
            assert_eq!(WorkOffer::read(&raw), None);
        }
    }

    #[test]
    fn a_result_that_is_no_error_asks_for_nothing() {
        let result = format!(r#"{{"structuredContent":{},"content":[]}}"#, required(1));
        assert_eq!(of_answer(&answer(&result)).err(), Some(NoChallenge::Absent));
        let text = r#"{"isError":true,"content":[{"type":"text","text":"no such file"}]}"#;
        assert_eq!(of_answer(&answer(text)).err(), Some(NoChallenge::Absent));
    }

    #[test]
    fn headers_of_a_402_are_read_in_all_their_forms() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
            }
            let answer = Answer { status: 402, headers, body: AnswerBody::Other };
            let challenge = of_answer(&answer);
            challenge.map(|c| c.l402.into_iter().map(|(o, _)| (o.token, o.invoice)).collect())
        };
        let one = vec![("AgE=".to_owned(), "lnbc1".to_owned())];
        for value in [
            r#"L402 macaroon="AgE=", invoice="lnbc1", version="0", token="AgE=""#,
            r#"LSAT macaroon="AgE=",invoice="lnbc1""#,
            r#"l402 version="0", token=AgE=, invoice=lnbc1"#,
            r#"Bearer realm="x", L402 macaroon="AgE=", invoice="lnbc1", Basic realm="y""#,
        ] {
            assert_eq!(read(&[value]), Ok(one.clone()), "{value}");
        }
        let pair = [
            r#"LSAT macaroon="AgE=", invoice="lnbc1""#,
            r#"L402 macaroon="AgE=", invoice="lnbc1""#,
        ];
        assert_eq!(read(&pair), Ok(one), "one offer in two spellings");
        for value in [r#"Bearer realm="L402 x""#, r#"L402 macaroon="A", token="B", invoice="c""#] {
            assert_eq!(read(&[value]), Err(NoChallenge::Absent), "{value}");
        }
    }
}
