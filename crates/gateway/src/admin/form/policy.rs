//! Forms of policy bundles.

use crate::prove::policy::Row;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A bundle to be put in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleFiles {
    /// Texts by file name, manifest and signature among them.
    pub files: BTreeMap<String, String>,
}

/// A bundle to go back to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoBack {
    /// Its revision.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub revision: u64,
    /// Why.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// The policy in force, and what was so before.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PolicyView {
    /// Digest of the bundle in force.
    pub digest: String,
    /// Its revision; none of the built-in one and of a directory without a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Until when it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// The key that must have signed the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The bundle in sentences.
    pub says: Vec<String>,
    /// What is kept to go back to, the highest revision first.
    pub kept: Vec<KeptView>,
}

/// A bundle that is kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeptView {
    /// Its revision.
    pub revision: u64,
    /// Its digest.
    pub digest: String,
    /// When it was activated.
    pub activated_at: String,
    /// By whom.
    pub activated_by: String,
    /// It is in force now.
    pub is_in_force: bool,
}

/// The shadow bundle, if one is set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShadowView {
    /// It.
    pub shadow: Option<ShadowBundle>,
}

/// A bundle that answers beside the one in force, and decides nothing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShadowBundle {
    /// Its digest.
    pub digest: String,
    /// Its revision.
    pub revision: u64,
    /// When it was set.
    pub set_at: String,
    /// By whom.
    pub set_by: String,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Since when it counts: since it was set, or another bundle was put in force.
    pub since: String,
    /// Decisions that were compared.
    pub compared: u64,
    /// Those that it answered otherwise.
    pub changed: u64,
    /// Decisions that were not compared, because too many waited.
    pub dropped: u64,
    /// How it answered otherwise, the most frequent first.
    pub rows: Vec<ChangeView>,
    /// Changed ones beyond these.
    pub beyond: u64,
}

/// One kind of change.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChangeView {
    /// What the bundle in force answered: `allow`, `challenge for human_confirm`.
    pub from: String,
    /// What the other answers.
    pub to: String,
    /// The policies behind it: those that now refuse or ask; for a mere allow those that no longer
    /// do.
    pub policies: Vec<String>,
    /// Whose calls.
    pub tenant: String,
    /// `server/tool`.
    pub tool: String,
    /// How often.
    pub count: u64,
    /// Some of the calls, the latest ones.
    pub calls: Vec<String>,
}

impl From<Row> for ChangeView {
    fn from(row: Row) -> Self {
        Self {
            from: row.from,
            to: row.to,
            policies: row.policies,
            tenant: row.tenant.to_string(),
            tool: row.tool,
            count: row.count,
            calls: row.calls.iter().map(ToString::to_string).collect(),
        }
    }
}
