//! What the admin API answers when it cannot do what was asked: RFC 9457 problem details.
//!
//! Refusals keep their codes. What only concerns the form of an administrator's request has codes
//! of its own: `ADM-001` (a member), `ADM-002` (nothing of that name), `ADM-003` (the state).

use crate::problem;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use countersign_core::refusal::Refusal;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The path's and the store's own refusals.
    Refused(Refusal),
    /// A member of the request is not acceptable.
    Invalid {
        /// Which one; empty for the whole.
        member: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such thing.
    NotFound(&'static str),
    /// What was asked does not fit where the thing stands.
    Conflict(&'static str),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Denied {
    /// A member that is not acceptable.
    pub(super) fn invalid(member: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { member, reason: reason.into() }
    }

    /// Status, code, sentence, what to do.
    fn parts(&self) -> (StatusCode, &'static str, String, &'static str) {
        match self {
            Self::Refused(refusal) => {
                let row = refusal.code().row();
                let status = StatusCode::from_u16(row.status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, row.text, row.title.to_owned(), row.next)
            }
            Self::Invalid { member: "", reason } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "ADM-001", reason.clone(), "mend the request")
            }
            Self::Invalid { member, reason } => {
                let title = format!("`{member}`: {reason}");
                (StatusCode::UNPROCESSABLE_ENTITY, "ADM-001", title, "mend the request")
            }
            Self::NotFound(what) => {
                (StatusCode::NOT_FOUND, "ADM-002", format!("no such {what}"), "list what there is")
            }
            Self::Conflict(why) => {
                let next = "look at its present state";
                (StatusCode::CONFLICT, "ADM-003", (*why).to_owned(), next)
            }
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let (status, code, title, next) = self.parts();
        let body = match &self {
            Self::Refused(refusal) => problem::json(refusal),
            Self::Invalid { .. } | Self::NotFound(_) | Self::Conflict(_) => json!({
                "type": format!("urn:countersign:admin:{code}"),
                "title": title,
                "status": status.as_u16(),
                "code": code,
                "retryable": false,
                "next": { "actor": "operator", "action": next },
            })
            .to_string(),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
