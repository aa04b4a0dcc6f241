//! Duties that come with a decision. Closed: an unknown one denies.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A duty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Obligation {
    /// Interactive: a person confirms this very call.
    HumanConfirm {
        /// How long the request stays open, in seconds.
        ttl_s: u64,
    },
    /// Interactive: several distinct people confirm this very call.
    MOfN {
        /// How many.
        m: u8,
        /// Each has one of these roles, as their issuer writes it; empty for anybody who may
        /// answer.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        roles: Vec<Arc<str>>,
        /// How long the request stays open, in seconds.
        ttl_s: u64,
    },
    /// Interactive: the person signs in anew, or more strongly (RFC 9470).
    StepUp {
        /// Any of these classes of authentication; empty for any class.
        acr_values: Vec<Arc<str>>,
        /// No longer ago than this, in seconds.
        max_age_s: Option<u64>,
    },
    /// Interactive: the agent's spending stays under a tighter budget, counted from the first
    /// call under it.
    TighterBudget {
        /// The most within the window, in micros.
        limit: crate::money::Micros,
        /// Length of the rolling window, in seconds.
        window_s: u64,
    },
    /// Inline: the agent makes no more calls of this tool than this.
    Rate {
        /// How many.
        calls: u32,
        /// Within how many seconds.
        per_s: u64,
    },
    /// Inline: arguments are replaced by null on their way to the server.
    MaskArguments {
        /// JSON pointers (RFC 6901) into the arguments.
        pointers: Vec<String>,
    },
    /// Inline: remove members from the result, and replace what looks like something.
    Redact {
        /// JSON pointers (RFC 6901) into the result.
        pointers: Vec<String>,
        /// Regular expressions; what they match in any text of the result becomes `[redacted]`.
        patterns: Vec<String>,
    },
    /// Inline: cut each array of the result after this many entries.
    CapRows {
        /// The cap.
        rows: u64,
    },
    /// Inline: cut the result's text beyond this many bytes.
    CapBytes {
        /// The cap.
        bytes: u64,
    },
    /// Inline: tell somebody, by a signed webhook.
    Notify {
        /// Names of configured webhooks.
        to: Vec<String>,
    },
    /// Inline: the decision's record says more.
    EnhancedAudit,
}

impl Obligation {
    /// Every word there is.
    pub const WORDS: [&'static str; 11] = [
        "human_confirm",
        "m_of_n",
        "step_up",
        "tighter_budget",
        "rate",
        "mask_arguments",
        "redact",
        "cap_rows",
        "cap_bytes",
        "notify",
        "enhanced_audit",
    ];

    /// Whether something must be shown or done before the call may run.
    #[must_use]
    pub const fn is_interactive(&self) -> bool {
        match self {
            Self::HumanConfirm { .. }
            | Self::MOfN { .. }
            | Self::StepUp { .. }
            | Self::TighterBudget { .. } => true,
            Self::Rate { .. }
            | Self::MaskArguments { .. }
            | Self::Redact { .. }
            | Self::CapRows { .. }
            | Self::CapBytes { .. }
            | Self::Notify { .. }
            | Self::EnhancedAudit => false,
        }
    }

    /// Whether it changes what leaves with the answer.
    #[must_use]
    pub const fn is_about_result(&self) -> bool {
        match self {
            Self::Redact { .. } | Self::CapRows { .. } | Self::CapBytes { .. } => true,
            Self::HumanConfirm { .. }
            | Self::MOfN { .. }
            | Self::StepUp { .. }
            | Self::TighterBudget { .. }
            | Self::Rate { .. }
            | Self::MaskArguments { .. }
            | Self::Notify { .. }
            | Self::EnhancedAudit => false,
        }
    }

    /// The word under which a fulfilled one is reported to policy.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::HumanConfirm { .. } => "human_confirm",
            Self::MOfN { .. } => "m_of_n",
            Self::StepUp { .. } => "step_up",
            Self::TighterBudget { .. } => "tighter_budget",
            Self::Rate { .. } => "rate",
            Self::MaskArguments { .. } => "mask_arguments",
            Self::Redact { .. } => "redact",
            Self::CapRows { .. } => "cap_rows",
            Self::CapBytes { .. } => "cap_bytes",
            Self::Notify { .. } => "notify",
            Self::EnhancedAudit => "enhanced_audit",
        }
    }
}
