//! A parsed `tools/call`: what was asked, before anybody knows who asks.

use crate::{
    digest::Digest,
    ids::CallId,
    policy::{CallIntent, Intent},
    proof::Principal,
    quote::{CallParts, call_digest},
    terms::Terms,
    time::UnixMs,
};
use std::sync::Arc;

/// Which of MCP's two eras a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 2025-11-25 and older: `initialize`, sessions.
    Legacy,
    /// 2026-07-28: stateless.
    Modern,
}

/// One attempt at a tool call.
#[derive(Debug)]
pub struct Call {
    /// This attempt.
    pub id: CallId,
    /// The operator's terms for the tool.
    pub terms: Arc<Terms>,
    /// Canonical JSON of the arguments (`{}` when absent).
    pub arguments: String,
    /// Canonical JSON of `inputResponses` to the server's own questions, and its `requestState`.
    pub input: Option<String>,
    /// The JSON-RPC `id`, as it came.
    pub request_id: String,
    /// The `params` to forward: original bytes, less the credentials.
    pub params: String,
    /// What it does, and how that is known.
    pub intent: CallIntent,
    /// What the caller says it is for: free text or a code.
    pub purpose: Option<String>,
    /// W3C trace context from `_meta.traceparent`.
    pub traceparent: Option<String>,
    /// Which era.
    pub era: Era,
    /// When it arrived.
    pub at: UnixMs,
}

impl Call {
    /// The digest every proof of this call is bound to (design §3).
    #[must_use]
    pub fn digest(&self, principal: &Principal) -> Digest {
        // Answers to a server's questions are as much of the call as its arguments.
        let with_input = self
            .input
            .as_ref()
            .map(|input| format!(r#"{{"arguments":{},"input":{input}}}"#, self.arguments));
        digest(&self.terms, with_input.as_ref().unwrap_or(&self.arguments), principal)
    }

    /// What the call does: the more powerful of what was declared and what was derived.
    #[must_use]
    pub fn intent(&self) -> Intent {
        self.intent.effective()
    }
}

/// The digest of a call of a tool with these arguments, in canonical JSON.
#[must_use]
pub fn digest(terms: &Terms, arguments: &str, principal: &Principal) -> Digest {
    let delegator = principal.delegator.as_ref();
    call_digest(&CallParts {
        resource: &terms.resource,
        tool: &terms.tool,
        arguments,
        delegator: delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject)),
        agent: &principal.agent,
        tenant: &principal.tenant,
    })
}
