//! The MCP result that asks for payment, in the forms that all known clients read.

use super::{META_ERROR, PaymentRequired};
use crate::wire::{json::quote, object::ObjectWriter};

/// How a result says that it is one (MCP `resultType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultForm {
    /// Up to 2025-11-25: not at all.
    Legacy,
    /// 2026-07-28: `complete`.
    Modern,
    /// 2026-07-28, to a client that declares [`super::EXTENSION`]: `payment_required`, with the
    /// challenge in `paymentRequired`.
    Extension,
}

/// An MCP result that asks for payment. It runs nothing and is not an error of JSON-RPC.
#[derive(Clone, Copy, Debug)]
pub struct McpChallenge<'a> {
    /// The x402 offers; `None` when only other rails are offered, in `meta`.
    pub required: Option<&'a PaymentRequired>,
    /// For people and models.
    pub prose: &'a str,
    /// The result's form.
    pub form: ResultForm,
    /// Whether `structuredContent` carries the challenge. Not for a tool with an `outputSchema`
    /// that its clients have seen: one SDK validates errors against it, and throws.
    pub has_structured_content: bool,
    /// Further `_meta` entries: plain key, JSON value.
    pub meta: &'a [(&'a str, &'a str)],
}

impl McpChallenge<'_> {
    /// The `result` of the JSON-RPC response. All known clients find the challenge in it: as
    /// `structuredContent`, as the text of `content[0]`, or in `_meta`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let required = self.required.map(PaymentRequired::to_json);
        let required = required.as_deref();
        let error = required.map(|required| (META_ERROR, required));
        let entries = error.iter().chain(self.meta);
        let meta = entries.fold(ObjectWriter::new(), |out, (key, value)| out.raw(key, value));
        if let (ResultForm::Extension, Some(required)) = (self.form, required) {
            return ObjectWriter::new()
                .text("resultType", "payment_required")
                .raw("paymentRequired", required)
                .raw("_meta", &meta.finish())
                .finish();
        }
        let text = |text: &str| format!(r#"{{"type":"text","text":{}}}"#, quote(text));
        let content: Vec<String> = required.into_iter().chain([self.prose]).map(text).collect();
        let out = match self.form {
            ResultForm::Legacy => ObjectWriter::new(),
            ResultForm::Modern | ResultForm::Extension => {
                ObjectWriter::new().text("resultType", "complete")
            }
        };
        let out = out.raw("content", &format!("[{}]", content.join(",")));
        let out = match required {
            Some(required) if self.has_structured_content => out.raw("structuredContent", required),
            _ => out,
        };
        out.raw("isError", "true").raw("_meta", &meta.finish()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::x402::{Requirements, Resource};
    use serde_json::value::RawValue;

    fn required() -> PaymentRequired {
        let offer = Requirements {
            scheme: "exact".into(),
            network: "eip155:84532".into(),
            amount: 10_000,
            asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".into(),
            pay_to: "0x90F79bf6EB2c4f870365E785982E1f101E93b906".into(),
            max_timeout_seconds: 300,
            extra: RawValue::from_string(r#"{"name":"USDC","version":"2"}"#.into()).ok(),
            unknown: Vec::new(),
        };
        PaymentRequired {
            error: Some("Payment required to access this tool".into()),
            resource: Resource {
                url: "mcp://tool/financial_analysis".into(),
                description: Some("Advanced financial analysis".into()),
                mime_type: Some("application/json".into()),
            },
            accepts: vec![offer],
            extensions: None,
        }
    }

    /// As the reference server's MCP result was captured.
    const GOLDEN: &str = r#"{"x402Version":2,"error":"Payment required to access this tool","resource":{"url":"mcp://tool/financial_analysis","description":"Advanced financial analysis","mimeType":"application/json"},"accepts":[{"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payTo":"0x90F79bf6EB2c4f870365E785982E1f101E93b906","maxTimeoutSeconds":300,"extra":{"name":"USDC","version":"2"}}]}"#;

    #[test]
    fn every_known_client_finds_the_challenge() {
        let required = required();
        assert_eq!(required.to_json(), GOLDEN);
        let challenge = McpChallenge {
            required: Some(&required),
            prose: "Pay 0.01 USDC.",
            form: ResultForm::Legacy,
            has_structured_content: true,
            meta: &[("ai.bolthub/payment", "{}")],
        };
        let text = quote(GOLDEN);
        let content = format!(
            r#""content":[{{"type":"text","text":{text}}},{{"type":"text","text":"Pay 0.01 USDC."}}]"#
        );
        let meta = format!(r#""_meta":{{"x402/error":{GOLDEN},"ai.bolthub/payment":{{}}}}"#);
        assert_eq!(
            challenge.to_json(),
            format!(r#"{{{content},"structuredContent":{GOLDEN},"isError":true,{meta}}}"#)
        );
        let modern =
            McpChallenge { form: ResultForm::Modern, has_structured_content: false, ..challenge };
        assert_eq!(
            modern.to_json(),
            format!(r#"{{"resultType":"complete",{content},"isError":true,{meta}}}"#)
        );
        let extension = McpChallenge { form: ResultForm::Extension, ..challenge };
        assert_eq!(
            extension.to_json(),
            format!(r#"{{"resultType":"payment_required","paymentRequired":{GOLDEN},{meta}}}"#)
        );
        let other_rail = McpChallenge { required: None, ..extension };
        assert_eq!(
            other_rail.to_json(),
            r#"{"resultType":"complete","content":[{"type":"text","text":"Pay 0.01 USDC."}],"isError":true,"_meta":{"ai.bolthub/payment":{}}}"#
        );
    }
}
