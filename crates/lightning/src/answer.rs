//! Every no of the API: a closed set of codes, each with its HTTP status.
//!
//! A message is for people, says nothing of amounts and holds no secret.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ldk_node::NodeError;
use serde_json::json;
use std::{borrow::Cow, io};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Code {
    BadRequest,
    Unauthorized,
    NotFound,
    Exists,
    NotHeld,
    NotHold,
    Cancelled,
    Settled,
    CursorGone,
    TooLarge,
    BadInvoice,
    BadRefund,
    WrongPreimage,
    WrongNetwork,
    InsufficientFunds,
    NoLiquiditySource,
    LiquidityFeeTooHigh,
    PeerUnreachable,
    LiquidityProvider,
    ChainSource,
    Pending,
    Stopping,
    Fault,
}

/// A no.
#[derive(Debug)]
pub(crate) struct No {
    pub(crate) code: Code,
    message: Cow<'static, str>,
    cursor: Option<u64>,
}

pub(crate) type Answer<T> = Result<T, No>;

/// A no of this code.
pub(crate) fn no(code: Code, message: impl Into<Cow<'static, str>>) -> No {
    No { code, message: message.into(), cursor: None }
}

/// The journal does not reach back that far; it goes on from this cursor.
pub(crate) fn cursor_gone(cursor: u64) -> No {
    let message = Cow::from("the journal was shortened beyond this cursor");
    No { code: Code::CursorGone, message, cursor: Some(cursor) }
}

impl Code {
    fn says(self) -> (u16, &'static str) {
        match self {
            Code::BadRequest => (400, "bad_request"),
            Code::Unauthorized => (401, "unauthorized"),
            Code::NotFound => (404, "not_found"),
            Code::Exists => (409, "exists"),
            Code::NotHeld => (409, "not_held"),
            Code::NotHold => (409, "not_hold"),
            Code::Cancelled => (409, "cancelled"),
            Code::Settled => (409, "settled"),
            Code::CursorGone => (410, "cursor_gone"),
            Code::TooLarge => (413, "too_large"),
            Code::BadInvoice => (422, "bad_invoice"),
            Code::BadRefund => (422, "bad_refund"),
            Code::WrongPreimage => (422, "wrong_preimage"),
            Code::WrongNetwork => (422, "wrong_network"),
            Code::InsufficientFunds => (422, "insufficient_funds"),
            Code::NoLiquiditySource => (422, "no_liquidity_source"),
            Code::LiquidityFeeTooHigh => (422, "liquidity_fee_too_high"),
            Code::Fault => (500, "fault"),
            Code::PeerUnreachable => (502, "peer_unreachable"),
            Code::LiquidityProvider => (502, "liquidity_provider"),
            Code::ChainSource => (502, "chain_source"),
            Code::Pending => (503, "pending"),
            Code::Stopping => (503, "stopping"),
        }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let (status, word) = self.code.says();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut error = json!({ "code": word, "message": self.message });
        if let (Some(cursor), Some(error)) = (self.cursor, error.as_object_mut()) {
            error.insert("cursor".to_owned(), cursor.into());
        }
        (status, Json(json!({ "error": error }))).into_response()
    }
}

/// What the node's errors mean to a caller; all others are a fault.
const KNOWN: [(NodeError, Code); 15] = [
    (NodeError::NotRunning, Code::Stopping),
    (NodeError::ConnectionFailed, Code::PeerUnreachable),
    (NodeError::InsufficientFunds, Code::InsufficientFunds),
    (NodeError::LiquiditySourceUnavailable, Code::NoLiquiditySource),
    (NodeError::LiquidityRequestFailed, Code::LiquidityProvider),
    (NodeError::LiquidityFeeTooHigh, Code::LiquidityFeeTooHigh),
    (NodeError::InvalidInvoice, Code::BadInvoice),
    (NodeError::InvalidAmount, Code::BadInvoice),
    (NodeError::InvalidRefund, Code::BadRefund),
    (NodeError::InvoiceRequestCreationFailed, Code::BadRefund),
    (NodeError::InvalidSocketAddress, Code::BadRequest),
    (NodeError::ChannelCreationFailed, Code::BadRequest),
    (NodeError::TxSyncFailed, Code::ChainSource),
    (NodeError::TxSyncTimeout, Code::ChainSource),
    (NodeError::FeerateEstimationUpdateFailed, Code::ChainSource),
];

impl From<NodeError> for No {
    fn from(error: NodeError) -> No {
        let known = KNOWN.iter().find(|(known, _)| *known == error);
        no(known.map_or(Code::Fault, |(_, code)| *code), error.to_string())
    }
}

/// Nothing that the disk did not take was done; but what was before it may have been.
impl From<io::Error> for No {
    fn from(_: io::Error) -> No {
        no(Code::Fault, "the journal could not be written")
    }
}
