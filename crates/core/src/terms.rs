//! Terms: what the operator configured for one tool. The rules that let a proof be absent
//! (`free`, `anonymous`, no consent) are here, so that "not required" is always somebody's
//! explicit decision.

use crate::{money::Amount, policy::Intent};
use std::sync::Arc;

/// Names one tool of one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ToolRef {
    /// The server's name in the configuration and in its path.
    pub server: Arc<str>,
    /// The tool's name.
    pub tool: Arc<str>,
}

impl std::fmt::Display for ToolRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.server, self.tool)
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityRule {
    /// A person's delegation.
    Human,
    /// Any verified principal.
    Required,
    /// Anybody.
    Anonymous,
}

/// Whether a grant must cover the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsentRule {
    /// A grant must cover it.
    Required,
    /// Not needed.
    NotRequired,
}

/// Whose wallet may pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayerRule {
    /// Any.
    Any,
    /// One that is linked to the person for whom the agent calls.
    Linked,
}

/// When the payer's money is taken (x402 `extra.paymentFlow`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// Before the side effect.
    Upfront,
    /// After the run; a failed settlement withholds the result.
    Authorization,
}

impl Flow {
    /// The wire's word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Upfront => "upfront",
            Self::Authorization => "authorization",
        }
    }
}

/// What happens to the money of a call nobody knows the outcome of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtRule {
    /// The caller gets it back.
    Refund,
    /// The operator keeps it.
    Capture,
}

/// How many calls one L402 credential pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses(pub u32);

/// A price list entry: the first matching one applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRule {
    /// Only for this tenant.
    pub tenant: Option<Arc<str>>,
    /// Only for this agent.
    pub agent: Option<Arc<str>>,
    /// Alternatives, one an asset.
    pub amounts: Vec<Amount>,
    /// Proof of work will do as well.
    pub work: bool,
    /// The server behind asks the price, and the treasury pays it. Without any of the three it is
    /// free.
    pub upstream: bool,
}

/// What one principal may pay with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price<'a> {
    /// Alternatives, one an asset.
    pub amounts: &'a [Amount],
    /// Proof of work will do as well.
    pub work: bool,
    /// The server behind asks the price, and the treasury pays it.
    pub upstream: bool,
}

impl Price<'_> {
    /// Neither money nor work.
    pub const FREE: Self = Self { amounts: &[], work: false, upstream: false };

    /// Whether nothing is asked.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.amounts.is_empty() && !self.work && !self.upstream
    }
}

/// The operator's terms for one tool.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Which tool.
    pub tool: ToolRef,
    /// The resource URI (RFC 8707, 9728) of the server.
    pub resource: Arc<str>,
    /// Who may call.
    pub identity: IdentityRule,
    /// Scopes the token must have.
    pub scopes: Vec<Arc<str>>,
    /// Whether a grant is needed.
    pub consent: ConsentRule,
    /// Whose wallet may pay.
    pub payer: PayerRule,
    /// Prices; the first matching rule applies; no rule matching is free only if the list is empty.
    pub prices: Vec<PriceRule>,
    /// When money is taken.
    pub flow: Flow,
    /// The operator vouches that running twice with one key is the same as once.
    pub idempotent: bool,
    /// What in-doubt means for the money.
    pub doubt: DoubtRule,
    /// Uses of one L402 credential.
    pub uses: Uses,
    /// The catalogue's intent, when the operator set one.
    pub intent: Option<Intent>,
    /// 0 public to 3 secret.
    pub sensitivity: u8,
    /// What it does can be undone.
    pub is_reversible: bool,
    /// Whether it deals with what is outside of the server's own domain; `None` where the operator
    /// does not say.
    pub open_world: Option<bool>,
    /// The whole call's deadline, in milliseconds.
    pub deadline_ms: u64,
    /// What it earns is the caller's credit; the gateway itself answers it.
    pub top_up: bool,
    /// Keep `outputSchema` and omit `structuredContent` from challenges instead.
    pub keep_output_schema: bool,
}

impl Terms {
    /// From this sensitivity on, one payment is one call.
    pub const SENSITIVE: u8 = 2;

    /// Whether one payment is one call here, whatever was sold.
    #[must_use]
    pub const fn is_sensitive(&self) -> bool {
        self.sensitivity >= Self::SENSITIVE
    }

    /// The price for one principal; `None` when prices are set but none is for this principal (a
    /// refusal, never free).
    #[must_use]
    pub fn price_for(&self, tenant: &str, agent: &str) -> Option<Price<'_>> {
        let fits = |rule: &&PriceRule| {
            rule.tenant.as_deref().is_none_or(|t| t == tenant)
                && rule.agent.as_deref().is_none_or(|a| a == agent)
        };
        if self.prices.is_empty() {
            return Some(Price::FREE);
        }
        self.prices.iter().find(fits).map(|rule| Price {
            amounts: &rule.amounts,
            work: rule.work,
            upstream: rule.upstream,
        })
    }
}
