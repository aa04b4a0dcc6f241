//! Intents: what a call does, from harmless to powerful, and how that is known.
//!
//! INVARIANT: whoever calls can only raise the intent of a call. Declaring, arguments and a
//! server's own annotations never lower what the operator's catalogue or the tool's name says;
//! only a server that the operator marked as trusted is believed.

use crate::digest::Digest;
use serde::{Deserialize, Serialize};

/// What a call does, from harmless to powerful. The policy's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Returns what is there.
    Read,
    /// Looks something up by a query.
    Search,
    /// Condenses.
    Summarize,
    /// Labels.
    Classify,
    /// Tells somebody.
    Notify,
    /// Takes data out.
    Export,
    /// Changes something.
    Write,
    /// Moves money.
    Spend,
    /// Runs code or commands.
    Execute,
    /// Removes something.
    Delete,
    /// Changes who may do what.
    Admin,
}

impl Intent {
    /// All intents, least powerful first.
    pub const ALL: [Self; 11] = [
        Self::Read,
        Self::Search,
        Self::Summarize,
        Self::Classify,
        Self::Notify,
        Self::Export,
        Self::Write,
        Self::Spend,
        Self::Execute,
        Self::Delete,
        Self::Admin,
    ];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Search => "search",
            Self::Summarize => "summarize",
            Self::Classify => "classify",
            Self::Notify => "notify",
            Self::Export => "export",
            Self::Write => "write",
            Self::Spend => "spend",
            Self::Execute => "execute",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// The intent of a word.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|intent| intent.text() == text)
    }

    /// Whether it can tell, send or change something: more than looking.
    #[must_use]
    pub fn can_change(self) -> bool {
        self >= Self::Notify
    }

    /// Whether it can carry data to somebody else.
    #[must_use]
    pub const fn can_carry_out(self) -> bool {
        match self {
            Self::Notify
            | Self::Export
            | Self::Write
            | Self::Spend
            | Self::Execute
            | Self::Admin => true,
            Self::Read | Self::Search | Self::Summarize | Self::Classify | Self::Delete => false,
        }
    }
}

/// What the derived intent rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentSource {
    /// The operator's catalogue.
    Catalogue,
    /// The tool's annotations.
    Annotations,
    /// The words of the tool's name.
    Lexicon,
    /// Nothing: the intent is unknown, and counts as `execute`.
    Default,
}

impl IntentSource {
    /// All sources, surest first.
    pub const ALL: [Self; 4] = [Self::Catalogue, Self::Annotations, Self::Lexicon, Self::Default];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Catalogue => "catalogue",
            Self::Annotations => "annotations",
            Self::Lexicon => "lexicon",
            Self::Default => "default",
        }
    }
}

/// A tool's own hints (MCP, "ToolAnnotations"); `None` for one that is not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Annotations {
    /// It changes nothing.
    pub read_only_hint: Option<bool>,
    /// It may remove or overwrite.
    pub destructive_hint: Option<bool>,
    /// It deals with what is outside of the server's own domain.
    pub open_world_hint: Option<bool>,
}

/// What a call does, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallIntent {
    /// What the caller says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Intent>,
    /// What the tool and its arguments say.
    pub derived: Intent,
    /// What `derived` rests on, before the arguments.
    pub source: IntentSource,
    /// SHA-256 of the purpose that the caller gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Digest>,
}

impl CallIntent {
    /// The more powerful of what was declared and what was derived.
    #[must_use]
    pub fn effective(&self) -> Intent {
        self.declared.map_or(self.derived, |declared| declared.max(self.derived))
    }

    /// Whether nothing was declared, or what was declared covers what the call does.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.declared.is_none_or(|declared| declared >= self.derived)
    }
}
