//! The form of a configuration that was read again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A configuration that took effect.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReloadView {
    /// The file that was read.
    pub file: String,
    /// SHA-256 of what it held.
    pub digest: String,
    /// What works in it, though perhaps not as meant.
    pub warnings: Vec<String>,
}
