//! What the admin API answers when it cannot do what was asked: RFC 9457 problem details.
//!
//! The codes are the one table's. What is wrong in this very request stands in the facts, and as a
//! sentence in `detail`.

use crate::problem;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use countersign_core::refusal::{Code, Fact, Family, Refusal};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied(Refusal);

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Code> for Denied {
    fn from(code: Code) -> Self {
        Self(code.into())
    }
}

impl Denied {
    /// A member that is not acceptable; empty for the whole.
    pub(crate) fn invalid(member: &'static str, reason: impl Into<String>) -> Self {
        let refusal = Refusal::new(Code::AdminInvalid);
        let refusal = if member.is_empty() { refusal } else { refusal.with("member", member) };
        Self(refusal.with("reason", reason.into()))
    }

    /// There is no such thing.
    pub(crate) fn not_found(what: &'static str) -> Self {
        Self(Refusal::new(Code::AdminNotFound).with("what", what))
    }

    /// What was asked does not fit where the thing stands.
    pub(crate) fn conflict(reason: &'static str) -> Self {
        Self(Refusal::new(Code::AdminConflict).with("reason", reason))
    }

    /// The refusal.
    pub(crate) const fn refusal(&self) -> &Refusal {
        &self.0
    }

    /// What is wrong in this request, as a sentence; `None` where the code says it all.
    pub(crate) fn detail(&self) -> Option<String> {
        if self.0.code().row().family != Family::Admin || self.0.facts().is_empty() {
            return None;
        }
        let fact = |name: &str| self.0.facts().iter().find(|fact| fact.name == name);
        Some(match (fact("member"), fact("reason")) {
            (Some(member), Some(reason)) => format!("`{}`: {}", member.value, reason.value),
            (None, Some(reason)) => reason.value.clone(),
            (_, None) => {
                let one = |fact: &Fact| match fact.name {
                    "what" => format!("no such {}", fact.value),
                    name => format!("{name}: {}", fact.value),
                };
                self.0.facts().iter().map(one).collect::<Vec<_>>().join("; ")
            }
        })
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let mut problem = serde_json::to_value(self.0.problem()).unwrap_or_default();
        if let (Some(detail), Some(members)) = (self.detail(), problem.as_object_mut()) {
            members.insert("detail".to_owned(), Value::String(detail));
        }
        let mut response = problem::http(&self.0).map(|_body| Body::from(problem.to_string()));
        let code = self.0.code();
        if code == Code::SignInNeeded {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        // Which methods there are is known to the router, which says so.
        response.headers_mut().remove(header::ALLOW);
        response.extensions_mut().insert(code);
        *response.status_mut() =
            StatusCode::from_u16(code.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }
}
