//! What an answer to `tools/call` means: it ran, it wants money, or it is refused.
//!
//! Owns the order in which the parts of an answer are looked at. Pure.

use crate::{
    challenge::{self, Challenge, NoChallenge, ResultParts, parameters},
    outcome::Completed,
    problem::{Problem, REFUSAL_META},
    rpc::{Answer, AnswerBody, RpcError},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::{
    audit::receipt::RECEIPT_META,
    wire::x402::{META_PAYMENT_RESPONSE, PAYMENT_RESPONSE},
};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;

/// URL elicitation of MCP 2025-11-25: consent is needed.
const ELICITATION_REQUIRED: i64 = -32042;

/// What an answer means.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The tool answered.
    Done(Completed),
    /// The server wants to go on after an input.
    InputNeeded(Completed),
    /// The server wants to be paid.
    Pay { challenge: Result<Challenge, NoChallenge>, problem: Option<Problem> },
    /// The server says no.
    Refused(Problem),
    /// The server failed.
    Failed(RpcError),
}

#[derive(Deserialize)]
struct ElicitationData {
    #[serde(default)]
    elicitations: Vec<Elicitation>,
}

#[derive(Deserialize)]
struct Elicitation {
    url: Option<String>,
}

/// Reads an answer.
pub(crate) fn read(answer: Answer) -> Verdict {
    let asked = challenge::of_answer(&answer);
    let Answer { status, headers, body } = answer;
    let problem = problem_of(&body);
    match asked {
        Err(NoChallenge::Absent) => {}
        challenge => return Verdict::Pay { challenge, problem },
    }
    if let Some(problem) = problem {
        return Verdict::Refused(problem);
    }
    match body {
        AnswerBody::Result(result) if status < 400 => completed(result, &headers),
        AnswerBody::Error(error) if error.code == ELICITATION_REQUIRED => {
            let data = error.data.as_deref();
            let data = data.and_then(|raw| serde_json::from_str::<ElicitationData>(raw.get()).ok());
            let url = data.and_then(|data| data.elicitations.into_iter().find_map(|e| e.url));
            Verdict::Refused(Problem::of_elicitation(&error.message, url))
        }
        AnswerBody::Error(error) if !matches!(status, 401..=403 | 429 | 500..) => {
            Verdict::Failed(error)
        }
        AnswerBody::Result(_)
        | AnswerBody::Error(_)
        | AnswerBody::Object(_)
        | AnswerBody::Other => Verdict::Refused(of_http(status, &headers)),
    }
}

/// Our problem details, wherever they are.
fn problem_of(body: &AnswerBody) -> Option<Problem> {
    match body {
        AnswerBody::Result(result) => {
            let parts: ResultParts<'_> = serde_json::from_str(result.get()).ok()?;
            Problem::parse(parts.meta.get(REFUSAL_META).filter(|_| parts.is_error)?)
        }
        AnswerBody::Error(error) => {
            let data = error.data.as_deref()?;
            let nested = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>;
            let nested = nested(data.get()).ok();
            let nested = nested.and_then(|members| members.get(REFUSAL_META).copied());
            Problem::parse(nested.unwrap_or(data))
        }
        AnswerBody::Object(object) => Problem::parse(object),
        AnswerBody::Other => None,
    }
}

/// What a status says that comes with nothing else.
fn of_http(status: u16, headers: &HeaderMap) -> Problem {
    let title = match status {
        401 => "authentication is required",
        402 => "payment is required, in a form that is not understood",
        403 => "the server denies access",
        429 => "too many requests",
        _ => "the answer is not MCP",
    };
    let mut problem = Problem::of_status(status, title);
    let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    problem.retry_after_s = seconds.and_then(|text| text.trim().parse().ok());
    let challenges = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let mut bearer = challenges.filter_map(|value| parameters(value.to_str().ok()?, &["bearer"]));
    problem.url = bearer.find_map(|mut found| found.remove("resource_metadata"));
    problem
}

fn completed(result: Box<RawValue>, headers: &HeaderMap) -> Verdict {
    let Ok(parts) = serde_json::from_str::<ResultParts<'_>>(result.get()) else {
        return Verdict::Refused(Problem::of_status(502, "the result is not a tool result"));
    };
    let is_error = parts.is_error;
    let is_final = parts.result_type.as_deref().is_none_or(|kind| kind == "complete");
    let member = |key: &str| parts.meta.get(key).map(|raw| (*raw).to_owned());
    let (receipt, told) = (member(RECEIPT_META), member(META_PAYMENT_RESPONSE));
    let payment_response = told.or_else(|| payment_response(headers));
    let (paid, is_last_use) = (None, false);
    let completed = Completed { result, is_error, paid, is_last_use, receipt, payment_response };
    if is_final { Verdict::Done(completed) } else { Verdict::InputNeeded(completed) }
}

fn payment_response(headers: &HeaderMap) -> Option<Box<RawValue>> {
    let value = headers.get(PAYMENT_RESPONSE)?.to_str().ok()?;
    serde_json::from_slice(&STANDARD.decode(value.trim()).ok()?).ok()
}
