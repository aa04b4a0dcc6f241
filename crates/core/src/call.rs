//! A parsed `tools/call`: what was asked, before anybody knows who asks.

use crate::{
    digest::Digest,
    ids::CallId,
    policy::Intent,
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
    /// The JSON-RPC `id`, as it came.
    pub request_id: String,
    /// The `params` to forward: original bytes, less the credentials.
    pub params: String,
    /// Intent and purpose the caller declared.
    pub declared: Option<Declared>,
    /// W3C trace context from `_meta.traceparent`.
    pub traceparent: Option<String>,
    /// Which era.
    pub era: Era,
    /// When it arrived.
    pub at: UnixMs,
}

/// What the caller says the call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// A word of the vocabulary, if it was one.
    pub intent: Option<Intent>,
    /// Free text or a code.
    pub purpose: Option<String>,
}

impl Call {
    /// The digest every proof of this call is bound to (design §3).
    #[must_use]
    pub fn digest(&self, principal: &Principal) -> Digest {
        let delegator = principal.delegator.as_ref();
        call_digest(&CallParts {
            resource: &self.terms.resource,
            tool: &self.terms.tool,
            arguments: &self.arguments,
            delegator: delegator.map_or(("", ""), |d| (&*d.issuer, &*d.subject)),
            agent: &principal.agent,
            tenant: &principal.tenant,
        })
    }

    /// The call's intent: the operator's catalogue, else the tool name's tokens, else `execute`;
    /// a more powerful declared intent raises it, a weaker one never lowers it.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let derived = self.terms.intent.unwrap_or_else(|| lexicon(&self.terms.tool.tool));
        let declared = self.declared.as_ref().and_then(|d| d.intent);
        declared.map_or(derived, |intent| intent.max(derived))
    }

    /// Whether the declared intent covers what the tool does.
    #[must_use]
    pub fn is_intent_covered(&self) -> bool {
        let derived = self.terms.intent.unwrap_or_else(|| lexicon(&self.terms.tool.tool));
        self.declared.as_ref().and_then(|d| d.intent).is_none_or(|intent| intent >= derived)
    }
}

/// The intent that free words declare: a word of the vocabulary, else as a tool's name is read.
#[must_use]
pub fn intent_of_words(words: &str) -> Intent {
    Intent::from_text(words).unwrap_or_else(|| lexicon(words))
}

/// Intent of a tool's name, by whole tokens, never substrings; the most powerful token wins.
fn lexicon(tool: &str) -> Intent {
    let token_intent = |token: &str| match token {
        "get" | "read" | "fetch" | "list" | "show" | "describe" | "echo" | "status" | "ping"
        | "add" | "sum" | "forecast" => Some(Intent::Read),
        "search" | "find" | "query" | "lookup" => Some(Intent::Search),
        "summarize" | "summary" => Some(Intent::Summarize),
        "classify" | "label" => Some(Intent::Classify),
        "notify" | "send" | "email" | "post" => Some(Intent::Notify),
        "export" | "download" | "dump" => Some(Intent::Export),
        "write" | "create" | "update" | "set" | "put" | "insert" | "edit" => Some(Intent::Write),
        "buy" | "pay" | "spend" | "transfer" | "order" => Some(Intent::Spend),
        "run" | "exec" | "execute" | "shell" | "eval" => Some(Intent::Execute),
        "delete" | "remove" | "drop" | "destroy" => Some(Intent::Delete),
        "admin" | "grant" | "revoke" | "configure" => Some(Intent::Admin),
        _ => None,
    };
    tokens(tool).iter().filter_map(|token| token_intent(token)).max().unwrap_or(Intent::Execute)
}

/// Splits `getForecast_v2` into `get`, `forecast`, `v2`.
fn tokens(name: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut previous_lower = false;
    for c in name.chars() {
        let boundary = !c.is_alphanumeric() || (c.is_uppercase() && previous_lower);
        if boundary {
            tokens.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(token) = tokens.last_mut()
        {
            token.extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_by_tokens_never_by_substrings() {
        assert_eq!(lexicon("get_forecast"), Intent::Read);
        assert_eq!(lexicon("getAndDeleteUser"), Intent::Delete);
        assert_eq!(lexicon("targeting"), Intent::Execute, "no token of its own");
        assert_eq!(lexicon("undeleted"), Intent::Execute);
        assert_eq!(lexicon("searchWeb"), Intent::Search);
    }
}
