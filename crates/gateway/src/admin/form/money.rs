//! The forms of money and calls: accounts, budgets, doubts, refunds, calls, quotes.

use super::super::object::object;
use super::super::schema::{Hex, Id, Money, ScopeForm, Word};
use countersign_core::{
    ids::{CallId, GrantId, QuoteId},
    ledger::{BudgetScope, CallState, OnExceed},
    quote::Rail,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::sync::Arc;

/// One account.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BalanceView {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Account.
    pub account: String,
    /// Credits less debits.
    pub posted: String,
    /// Credits that are pending.
    pub pending_in: String,
    /// Debits that are pending.
    pub pending_out: String,
}

/// One budget as it concerns somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetView {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts: `each delegator`, `tool weather/get_forecast`.
    pub scope: String,
    /// The most.
    pub limit: String,
    /// Within which span.
    pub window: String,
    /// What happens beyond.
    #[schemars(with = "Word<OnExceed>")]
    pub on_exceed: OnExceed,
    /// Percent of the limit at which it is noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<u8>,
    /// It was set while the gateway ran, not by the configuration.
    pub is_set: bool,
    /// Held by calls that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// What it says of the price that was named, or of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<BudgetState>,
    /// What is left; absent until `needs` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,
    /// What must be named to tell what is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// What a budget says of a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetState {
    /// It fits.
    Fits,
    /// It fits, and the part is reached that is to be noted.
    Warns,
    /// Nothing is left, and nothing is wanted.
    UsedUp,
    /// A person would have to confirm it.
    AsksAPerson,
    /// It would be refused.
    Refuses,
}

/// A budget to be set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetRequest {
    /// Its name.
    #[schemars(regex(pattern = "^[a-z0-9-]{1,63}$"))]
    pub name: String,
    /// What it counts; all calls together when absent.
    #[serde(default, deserialize_with = "object")]
    #[schemars(with = "ScopeForm")]
    pub scope: BudgetScope,
    /// The most within the window: `10 USD`.
    #[schemars(with = "Money")]
    pub limit: String,
    /// `24h`, `call`, `session`, `lifetime`, or `day`, `week`, `month` with a zone:
    /// `month@Europe/Berlin`.
    pub window: String,
    /// What happens beyond.
    #[serde(default)]
    #[schemars(with = "Word<OnExceed>")]
    pub on_exceed: OnExceed,
    /// Percent of the limit at which it is noted.
    #[schemars(range(min = 1, max = 99))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<u8>,
}

/// A budget that was ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// Its name.
    pub removed: String,
}

/// A call of which nobody knows the outcome.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DoubtView {
    /// The call.
    #[schemars(with = "Id<CallId>")]
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// What was taken or is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Whether the money was taken.
    pub is_settled: bool,
    /// What the operator's terms say.
    pub rule: Rule,
}

/// A payment of which nobody knows whether it moved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OpenView {
    /// The call.
    #[schemars(with = "Id<CallId>")]
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// `settling`: the call has not run. `finished`: it has.
    #[schemars(with = "Word<CallState>")]
    pub state: CallState,
    /// The rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Word<Rail>>")]
    pub rail: Option<Rail>,
    /// How much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Who pays, by the rail's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payee: Option<String>,
    /// What the payment is found by on the chain: the authorization's nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Until when it can still be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usable_until: Option<String>,
}

/// What you found out of a payment.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoundOut {
    /// The transaction that moved the money; `null` when none did, and none can any more.
    #[schemars(length(min = 1, max = 256))]
    pub reference: Option<String>,
}

/// What becomes of the money of a call in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is owed back.
    Refund,
    /// It is kept.
    Capture,
}

/// An end to a doubt.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// Which.
    pub rule: Rule,
}

/// Where a call stands now.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Standing {
    /// The call.
    #[schemars(with = "Id<CallId>")]
    pub call: CallId,
    /// Its state.
    #[schemars(with = "Word<CallState>")]
    pub state: CallState,
}

/// Money that is owed back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DueView {
    /// The call.
    #[schemars(with = "Id<CallId>")]
    pub call: CallId,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Word<Rail>>")]
    pub rail: Option<Rail>,
    /// How much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Who paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// The rail's reference of what was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<String>,
    /// Who pays it back.
    pub by: Repayer,
}

/// Who pays money back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Repayer {
    /// The gateway, from the treasury of `rails.refund_from`.
    Gateway,
    /// A person, who then records it.
    Operator,
}

impl Repayer {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

/// Money that a credential left when it ended, for whoever holds it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UnclaimedView {
    /// Names it.
    #[schemars(with = "Hex")]
    pub refund: String,
    /// SHA-256 of the credential's identifier.
    #[schemars(with = "Hex")]
    pub credential: String,
    /// Tenant.
    pub tenant: Arc<str>,
    /// How much.
    pub amount: String,
    /// When it came to be owed.
    pub since: String,
    /// The Lightning node that offers it to the holder, once one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_by: Option<String>,
}

/// Money that went back outside of the gateway.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaidBack {
    /// The rail's reference of the payment.
    #[schemars(length(min = 1, max = 256))]
    pub reference: String,
}

/// A refund that is booked as paid.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Claimed {
    /// Which one.
    #[schemars(with = "Hex")]
    pub refund: String,
}

/// A call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CallLine {
    /// The call.
    #[schemars(with = "Id<CallId>")]
    pub call: CallId,
    /// Where it stands.
    #[schemars(with = "Word<CallState>")]
    pub state: CallState,
    /// When it came.
    pub opened_at: String,
    /// When it changed last.
    pub changed_at: String,
    /// Its digest.
    pub call_digest: String,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Pseudonym of the delegator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegator: Option<String>,
    /// Agent.
    pub agent: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// Grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Id<GrantId>>")]
    pub grant: Option<GrantId>,
    /// Rail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Word<Rail>>")]
    pub rail: Option<Rail>,
    /// What was or is to be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Held or spent, in the reference currency.
    pub counted: String,
    /// The rail's reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settlement: Option<String>,
    /// Code of the refusal or of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Indices of its records in the log.
    pub records: Vec<u64>,
}

/// A call with its records.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CallFull {
    /// The call.
    pub call: CallLine,
    /// Its records, in log order.
    #[schemars(with = "Vec<Value>")]
    pub log: Vec<Box<RawValue>>,
}

/// A quote.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct QuoteView {
    /// Identifier.
    #[schemars(with = "Id<QuoteId>")]
    pub id: QuoteId,
    /// The call.
    pub call_digest: String,
    /// Its own digest.
    pub digest: String,
    /// When it was made.
    pub issued_at: String,
    /// When it ends.
    pub expires_at: String,
    /// The ways to pay; none is free.
    pub offers: Vec<OfferView>,
}

/// A way to pay.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OfferView {
    /// The rail.
    #[schemars(with = "Word<Rail>")]
    pub rail: Rail,
    /// Exactly this.
    pub amount: String,
    /// To whom.
    pub payee: String,
    /// Its reference value.
    pub counted: String,
}

/// An L402 credential. What would pay with it is not in it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CredentialView {
    /// SHA-256 of its identifier.
    pub credential: String,
    /// Whose it is; of nobody in particular when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The agent that it was minted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// What its invoice asks, for all its calls together.
    pub price: String,
    /// Calls that it pays for.
    pub uses: u32,
    /// Calls that it paid for.
    pub used: u32,
    /// Whether it was paid, or ended.
    pub state: CredentialState,
    /// When it ends.
    pub expires_at: String,
}

/// How a credential stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialState {
    /// Nobody has shown that its invoice was paid.
    Offered,
    /// It was paid.
    Paid,
    /// Somebody ended it.
    Revoked,
}

impl CredentialState {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Paid => "paid",
            Self::Revoked => "revoked",
        }
    }
}

/// A credential that was ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Revoked {
    /// SHA-256 of its identifier.
    pub credential: String,
}
