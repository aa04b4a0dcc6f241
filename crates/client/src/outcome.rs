//! How a call ended, and the exit code that says so.
//!
//! Owns the types a caller reads and one pure mapping. Nothing here acts.

use crate::{
    cache::Paid,
    error::{ClientError, TransportError},
    means::OfferSummary,
    problem::Problem,
};
use countersign_core::refusal::{Charged, Family};
use serde_json::value::RawValue;

/// How a call ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The tool answered.
    Ok(Box<Completed>),
    /// The server asks for something before it goes on (`resultType`), with what it gave.
    InputNeeded(Box<Completed>),
    /// The server said no.
    Refused(Box<Refused>),
    /// We did not pay.
    Declined(Box<Declined>),
    /// Money may have moved, and nobody could tell. The payment is kept: the same call presents
    /// it again, and does not pay anew, for as long as it is good.
    Unknown(Box<InDoubt>),
    /// The server answered with a JSON-RPC error that is no refusal.
    Failed(Box<Failed>),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Completed {
    /// The result, as it came.
    pub result: Box<RawValue>,
    /// The tool says of itself that it failed.
    pub is_error: bool,
    /// What it cost.
    pub paid: Option<Paid>,
    /// It was the last call that a credential for several paid for: [`Client::prepare`] buys the
    /// next one.
    ///
    /// [`Client::prepare`]: crate::Client::prepare
    pub is_last_use: bool,
    /// `_meta["countersign/receipt"]`: a compact JWS, as JSON.
    pub receipt: Option<Box<RawValue>>,
    /// `_meta["x402/payment-response"]`, or the header of the same content.
    pub payment_response: Option<Box<RawValue>>,
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What the server said.
    pub problem: Problem,
    /// What was presented with the call.
    pub paid: Option<Paid>,
    /// Whether money moved for it; `None` when nothing was presented and nothing said.
    pub charged: Option<Charged>,
}

/// A challenge that was not paid.
#[derive(Clone, Debug)]
pub struct Declined {
    /// Each offer with the reason; empty when the challenge could not be read.
    pub offers: Vec<OfferSummary>,
    /// The server's refusal, if it gave one beside the challenge.
    pub problem: Option<Problem>,
    /// The server's own words.
    pub message: Option<String>,
}

/// A payment whose fate is not known.
#[derive(Clone, Debug)]
pub struct InDoubt {
    /// The payment.
    pub paid: Paid,
    /// What the server said last.
    pub problem: Option<Problem>,
    /// Why there is no answer.
    pub cause: Option<TransportError>,
}

/// A JSON-RPC error.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its code.
    pub code: i64,
    /// Its message.
    pub message: String,
    /// Its data.
    pub data: Option<Box<RawValue>>,
    /// What was presented with the call.
    pub paid: Option<Paid>,
}

/// Exit codes of `countersign call`.
pub mod exit {
    /// The tool answered.
    pub const OK: u8 = 0;
    /// The tool answered that it failed.
    pub const TOOL_ERROR: u8 = 1;
    /// The call could not be made as it was asked for.
    pub const USAGE: u8 = 2;
    /// Payment.
    pub const PAYMENT: u8 = 10;
    /// Identity.
    pub const IDENTITY: u8 = 11;
    /// Consent.
    pub const CONSENT: u8 = 12;
    /// Policy.
    pub const POLICY: u8 = 13;
    /// Budget or cap.
    pub const BUDGET: u8 = 14;
    /// The far side: the server behind, the gateway, the way there.
    pub const UPSTREAM: u8 = 15;
    /// Money may have moved: do not pay again.
    pub const UNKNOWN_SETTLEMENT: u8 = 16;
    /// The request itself was refused.
    pub const REQUEST: u8 = 17;
}

/// The exit code of a refusal's family.
#[must_use]
pub const fn family_exit_code(family: Family) -> u8 {
    match family {
        Family::Request | Family::Admin => exit::REQUEST,
        Family::Identity => exit::IDENTITY,
        Family::Consent => exit::CONSENT,
        Family::Payment => exit::PAYMENT,
        Family::Policy => exit::POLICY,
        Family::Budget => exit::BUDGET,
        Family::Upstream | Family::Fault => exit::UPSTREAM,
    }
}

impl Outcome {
    /// The exit code. A doubt about money outranks everything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use crate::means::DeclineReason::{OverCap, OverCeiling};
        match self {
            Self::Ok(completed) if completed.is_error => exit::TOOL_ERROR,
            Self::Ok(_) => exit::OK,
            Self::InputNeeded(_) => exit::CONSENT,
            Self::Refused(refused) if refused.charged == Some(Charged::Unknown) => {
                exit::UNKNOWN_SETTLEMENT
            }
            Self::Refused(refused) => family_exit_code(refused.problem.family),
            Self::Declined(declined) => {
                let is_cap = |reason| matches!(reason, &OverCap | &OverCeiling);
                let over = declined.offers.iter().any(|offer| is_cap(&offer.reason));
                if over { exit::BUDGET } else { exit::PAYMENT }
            }
            Self::Unknown(_) => exit::UNKNOWN_SETTLEMENT,
            Self::Failed(failed) if failed.paid.as_ref().is_some_and(Paid::is_money) => {
                exit::UNKNOWN_SETTLEMENT
            }
            Self::Failed(_) => exit::UPSTREAM,
        }
    }

    /// What was presented or paid.
    #[must_use]
    pub fn paid(&self) -> Option<&Paid> {
        match self {
            Self::Ok(completed) | Self::InputNeeded(completed) => completed.paid.as_ref(),
            Self::Refused(refused) => refused.paid.as_ref(),
            Self::Declined(_) => None,
            Self::Unknown(doubt) => Some(&doubt.paid),
            Self::Failed(failed) => failed.paid.as_ref(),
        }
    }
}

impl ClientError {
    /// The exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Transport(_) | Self::Rpc { .. } | Self::Version => exit::UPSTREAM,
            Self::Refused(problem) => family_exit_code(problem.family),
            Self::BadUrl
            | Self::PlainHttp
            | Self::BadInput
            | Self::Wallet(_)
            | Self::Secret(_)
            | Self::Cache(_) => exit::USAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::refusal::Code;

    fn refused(code: Code, charged: Option<Charged>) -> Outcome {
        let text = serde_json::to_string(&countersign_core::refusal::Refusal::new(code).problem());
        let raw: Box<RawValue> = serde_json::from_str(&text.unwrap()).unwrap();
        let problem = Problem::parse(&raw).unwrap();
        Outcome::Refused(Box::new(Refused { problem, paid: None, charged }))
    }

    #[test]
    fn each_family_has_its_exit_code_and_doubt_outranks_it() {
        for (code, exit_code) in [
            (Code::PaymentRequired, 10),
            (Code::TokenMissing, 11),
            (Code::NoGrant, 12),
            (Code::Forbidden, 13),
            (Code::BudgetExceeded, 14),
            (Code::UpstreamTimeout, 15),
            (Code::StoreFault, 15),
            (Code::UnknownTool, 17),
        ] {
            assert_eq!(refused(code, None).exit_code(), exit_code, "{code}");
            assert_eq!(refused(code, Some(Charged::Unknown)).exit_code(), 16, "{code}");
        }
    }
}
