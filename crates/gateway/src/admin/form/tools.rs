//! Forms of tools, the tiers that they and their callers stand in, and the rules that refuse them.

use crate::{
    admin::schema::{Hex, Word},
    prove::standing::Party,
};
use countersign_core::policy::Tier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tool, and the definition that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolName {
    /// `server/tool`.
    #[schemars(regex(pattern = "^[^/]+/.+$"))]
    pub tool: String,
    /// Digest of what is approved; that of the last one seen when absent.
    #[schemars(with = "Option<Hex>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What a tool says of itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ToolView {
    /// `server/tool`.
    pub tool: String,
    /// `approved`, `seen` (by nobody approved) or `changed`.
    pub status: String,
    /// Digest of what was seen last.
    pub digest: String,
    /// Who approved, or `configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it was seen first.
    pub seen_at: String,
    /// Lines that were (`-`) and are (`+`), when it changed.
    pub diff: Vec<String>,
}

/// A word on a tier.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTier {
    /// Whose.
    #[schemars(with = "Word<Party>")]
    pub party: Party,
    /// `tenant/agent`, `issuer|subject`, or a server's name.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// The tier; that of the bundle when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Word<Tier>>")]
    pub tier: Option<Tier>,
}

/// A tier that differs from the bundle's.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TierView {
    /// Whose.
    #[schemars(with = "Word<Party>")]
    pub party: Party,
    /// `tenant/agent`, `issuer|subject`, or a server's name.
    pub name: String,
    /// Which.
    #[schemars(with = "Word<Tier>")]
    pub tier: Tier,
    /// Why behaviour lowered it; absent where a person set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Until when; absent where a person set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// How often a rule refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RuleView {
    /// Its id.
    pub policy: String,
    /// How often.
    pub refused: u64,
    /// Of how many calls that policy was asked about.
    pub decisions: u64,
    /// The same in percent, rounded down.
    pub percent: u64,
    /// It refused ten times at least, and one call in ten: a rule to be looked at.
    pub too_often: bool,
    /// Since when that is counted: the start of the gateway.
    pub since: String,
}
