//! What a client behind the bridge is told of a tool call: the server's own answer as it came, or
//! what we have to say where there is none for it.
//!
//! Rendering only.

use super::{INVALID_PARAMS, NO_ANSWER};
use crate::{
    cache::Paid,
    error::ClientError,
    means::show_amount,
    outcome::{Declined, InDoubt, Outcome, Refused},
    passage::{Last, Passage},
    problem::REFUSAL_META,
    rpc::{object, one_line as on_one_line},
};
use countersign_core::{
    refusal::Charged,
    wire::{json::quote, jsonrpc},
};
use serde_json::{json, value::RawValue};

/// `_meta` key of what we did not pay, and why.
const DECLINED_META: &str = "countersign/declined";
/// `_meta` key that says whether money moved.
const CHARGED_META: &str = "countersign/charged";

/// The answer to a call, as a message.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) text: String,
    pub(crate) words: Words,
}

/// Whose an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// What the server said, under the client's id.
    Servers,
    /// What we say of the money.
    Ours,
    /// Nobody answered, and nothing was paid.
    Nobodys,
}

impl Answered {
    /// The call is none.
    pub(super) fn refused(id: &RawValue, message: &str) -> Self {
        let text = jsonrpc::error(Some(id), INVALID_PARAMS, message, None);
        Self { text, words: Words::Ours }
    }

    /// The answer that an outcome is.
    pub(super) fn of(
        id: &RawValue,
        passage: &Passage,
        outcome: Result<Outcome, ClientError>,
    ) -> Self {
        let words = match &outcome {
            Ok(Outcome::Ok(_) | Outcome::InputNeeded(_) | Outcome::Failed(_)) => Words::Servers,
            Ok(Outcome::Refused(refused)) if refused.paid.is_none() => Words::Servers,
            Ok(Outcome::Refused(_) | Outcome::Declined(_) | Outcome::Unknown(_)) => Words::Ours,
            Err(ClientError::Transport(_)) => Words::Nobodys,
            Err(_) => Words::Ours,
        };
        Self { text: text(id, passage, outcome), words }
    }
}

fn text(id: &RawValue, passage: &Passage, outcome: Result<Outcome, ClientError>) -> String {
    match outcome {
        Ok(Outcome::Ok(done) | Outcome::InputNeeded(done)) => {
            jsonrpc::result(id, &on_one_line(done.result.get().as_bytes()))
        }
        // A denial is the server's to word; what became of a payment is ours to say.
        Ok(Outcome::Refused(refused)) if refused.paid.is_none() => {
            let said = refused.problem.to_string();
            as_it_came(id, passage).unwrap_or_else(|| {
                let data = refused.problem.raw.as_ref();
                let data = data.map(|raw| on_one_line(raw.get().as_bytes()));
                jsonrpc::error(Some(id), NO_ANSWER, &said, data.as_deref())
            })
        }
        Ok(Outcome::Failed(failed)) => as_it_came(id, passage)
            .unwrap_or_else(|| jsonrpc::error(Some(id), failed.code, &failed.message, None)),
        Ok(outcome @ (Outcome::Refused(_) | Outcome::Declined(_) | Outcome::Unknown(_))) => {
            jsonrpc::result(id, &of_ours(passage, &outcome))
        }
        Err(error) => jsonrpc::error(Some(id), NO_ANSWER, &error.to_string(), None),
    }
}

/// What the server answered last.
fn as_it_came(id: &RawValue, passage: &Passage) -> Option<String> {
    Some(match passage.last()? {
        Last::Result(result) => jsonrpc::result(id, &on_one_line(result.get().as_bytes())),
        Last::Error(raw) => error(id, &raw),
    })
}

/// An error, as it came.
pub(super) fn error(id: &RawValue, raw: &RawValue) -> String {
    let error = on_one_line(raw.get().as_bytes());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// A tool result of ours, which says that the call failed and why.
fn of_ours(passage: &Passage, outcome: &Outcome) -> String {
    let content = json!([{ "type": "text", "text": one_line(outcome) }]).to_string();
    let meta = meta(outcome);
    let mut members = vec![("content", &*content), ("isError", "true"), ("_meta", &*meta)];
    if passage.is_modern {
        members.push(("resultType", "\"complete\""));
    }
    object(&members)
}

fn meta(outcome: &Outcome) -> String {
    let refusal = |raw: &Option<Box<RawValue>>| {
        raw.as_ref().map(|raw| (REFUSAL_META, on_one_line(raw.get().as_bytes())))
    };
    let charged = |charged: Charged| {
        let text = serde_json::to_string(&charged).unwrap_or_else(|_| quote("unknown"));
        (CHARGED_META, text)
    };
    let mut entries = Vec::new();
    match outcome {
        Outcome::Refused(refused) => {
            entries.extend(refusal(&refused.problem.raw));
            entries.extend(refused.charged.map(charged));
        }
        Outcome::Declined(declined) => {
            let offers = declined.offers.iter().map(|offer| {
                json!({
                    "rail": offer.rail.text(),
                    "amount": offer.amount.as_ref().map(show_amount),
                    "reason": offer.reason.to_string(),
                })
            });
            let offers: Vec<_> = offers.collect();
            entries.push((DECLINED_META, json!({ "offers": offers }).to_string()));
            entries.push(charged(Charged::No));
        }
        Outcome::Unknown(doubt) => {
            entries.extend(doubt.problem.as_ref().and_then(|problem| refusal(&problem.raw)));
            entries.push(charged(Charged::Unknown));
        }
        Outcome::Ok(_) | Outcome::InputNeeded(_) | Outcome::Failed(_) => {}
    }
    let entries: Vec<(&str, &str)> = entries.iter().map(|(key, json)| (*key, &**json)).collect();
    object(&entries)
}

/// An outcome in a sentence or two: for the agent, and for whoever reads along.
pub(super) fn one_line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(done) => match &done.paid {
            Some(paid) if paid.earlier => format!("used {}", paid_text(paid)),
            Some(paid) => format!("paid {}", paid_text(paid)),
            None => "done".to_owned(),
        },
        Outcome::InputNeeded(_) => "the server asks for more before it goes on".to_owned(),
        Outcome::Refused(refused) => refused_text(refused),
        Outcome::Declined(declined) => declined_text(declined),
        Outcome::Unknown(doubt) => doubt_text(doubt),
        Outcome::Failed(failed) => format!("the server failed: {}", failed.message),
    }
}

pub(super) fn paid_text(paid: &Paid) -> String {
    format!("{} over {} to {}", show_amount(&paid.amount), paid.rail.text(), paid.payee)
}

fn refused_text(refused: &Refused) -> String {
    let charged = match refused.charged {
        None if refused.paid.is_none() => "nothing was paid",
        Some(Charged::No) => "you were not charged",
        Some(Charged::Yes) => "you were charged",
        Some(Charged::Unused) => "the payment is unused and is presented with the next such call",
        Some(Charged::Unknown) | None => "money may have moved: do not pay again",
    };
    format!("refused: {}; {charged}", refused.problem)
}

fn declined_text(declined: &Declined) -> String {
    let offers = declined.offers.iter().map(|offer| {
        let amount = offer.amount.as_ref().map(show_amount);
        let amount = amount.unwrap_or_else(|| "an unknown amount".to_owned());
        format!("{amount} over {}: {}", offer.rail.text(), offer.reason)
    });
    let offers: Vec<String> = offers.collect();
    match offers.is_empty() {
        true => "payment is asked for, and was not made".to_owned(),
        false => format!("payment is asked for, and was not made: {}", offers.join("; ")),
    }
}

fn doubt_text(doubt: &InDoubt) -> String {
    let cause = match (&doubt.problem, doubt.cause) {
        (Some(problem), _) => problem.to_string(),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => "nobody can tell what became of it".to_owned(),
    };
    let paid = paid_text(&doubt.paid);
    format!(
        "money may have moved ({paid}): {cause}. Repeat the very same call: the same payment is \
         presented again, never a second one"
    )
}
