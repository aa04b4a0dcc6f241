//! `receipt`: signed receipts of calls, and signed copies of grants, checked with the public key
//! alone.

use super::{
    Shared,
    audit::read_text,
    keys::public_key,
    out::{Out, facts},
    stop::Stop,
};
use crate::admin::receipt as grant_copy;
use countersign_client::{exit, show_amount};
use countersign_core::audit::{
    checkpoint::VerifierKey,
    receipt::{RECEIPT_META, Receipt as CallReceipt, ReceiptState},
};
use serde_json::Value;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Receipt {
    /// Verify a receipt or a grant's signed copy.
    Verify {
        /// The token, or a result that carries it in `_meta`; `-` reads the standard input.
        file: PathBuf,
        /// The log's public key, or a file with it; that of the configuration when absent.
        #[arg(long, value_name = "FILE|KEY")]
        key: Option<String>,
    },
}

impl Receipt {
    /// Does it.
    pub(super) fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        let Self::Verify { file, key } = self;
        let text = read_text(&file)?;
        let token = token(&text)?;
        let key = public_key(shared, key.as_deref())?;
        match CallReceipt::verify(token, &key) {
            Ok(receipt) => out.show(&receipt, of_call),
            Err(error) => match grant_copy::verify(token, &key) {
                Ok(copy) => out.show(&copy, of_grant),
                Err(grant_copy::NotAGrantReceipt::Malformed) => Err(refused(&error, &key)),
                Err(error) => Err(refused(&error, &key)),
            },
        }
    }
}

fn refused(error: &dyn std::fmt::Display, key: &VerifierKey) -> Stop {
    Stop::new(
        exit::TOOL_ERROR,
        format_args!("not verified with the key of `{}`: {error}", key.name()),
    )
}

/// The token in a text: by itself, as a JSON string, or in the `_meta` of a result.
pub(super) fn token(text: &str) -> Result<&str, Stop> {
    let text = text.trim();
    if !text.starts_with(['"', '{']) {
        return Ok(text);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| nothing())?;
    let places = [
        Some(&value),
        value.get("receipt"),
        value.get("_meta").and_then(|meta| meta.get(RECEIPT_META)),
        value.pointer("/result/_meta").and_then(|meta| meta.get(RECEIPT_META)),
    ];
    let found = places.into_iter().flatten().find_map(Value::as_str).ok_or_else(nothing)?;
    // A token has no characters that JSON escapes, so it stands in the text as it is.
    let at = text.find(found).ok_or_else(nothing)?;
    text.get(at..at.saturating_add(found.len())).ok_or_else(nothing)
}

fn nothing() -> Stop {
    Stop::usage("there is no receipt in this text")
        .next("give the token, or the result that carries it")
}

fn of_call(receipt: &CallReceipt) -> String {
    let state = match receipt.state {
        ReceiptState::Captured => "charged",
        ReceiptState::Released => "not charged",
        ReceiptState::RefundDue => "charged, and owed back",
        ReceiptState::Refunded => "charged, and given back",
    };
    facts(&[
        ("verified", Some(format!("receipt of {}", receipt.log.origin))),
        ("call", Some(receipt.call.to_string())),
        ("state", Some(state.to_owned())),
        ("amount", Some(show_amount(&receipt.amount))),
        ("counted", Some(receipt.micros.to_string())),
        ("rail", Some(receipt.rail.clone())),
        ("payment", receipt.payment_ref.clone()),
        ("quote", Some(receipt.quote.to_string())),
        ("grant", receipt.grant.map(|grant| grant.to_string())),
        ("decision", Some(receipt.decision.to_string())),
        ("call digest", Some(receipt.call_digest.to_hex())),
        ("result digest", receipt.result_digest.map(|digest| digest.to_hex())),
        ("log record", Some(receipt.log.index.to_string())),
        ("signed at", Some(receipt.time.rfc3339())),
    ])
}

fn of_grant(copy: &grant_copy::GrantReceipt) -> String {
    let title = format!("verified: a grant's copy, signed by {}\n", copy.iss);
    title + &super::grant::full(&copy.grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_it_travels() {
        let meta = format!(r#"{{"_meta":{{"{RECEIPT_META}":"a.b.c"}}}}"#);
        let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{meta}}}"#);
        for text in ["a.b.c", " a.b.c\n", "\"a.b.c\"", r#"{"receipt":"a.b.c"}"#, &meta, &nested] {
            assert_eq!(token(text).unwrap(), "a.b.c", "{text}");
        }
        for text in ["{}", "{", r#"{"receipt":7}"#] {
            assert_eq!(token(text).unwrap_err().exit(), 2, "{text}");
        }
    }
}
