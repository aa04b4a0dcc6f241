//! Budgets, as they are written.

use crate::config::scalar::{Span, Usd};
use schemars::JsonSchema;
use serde::Deserialize;

/// A budget.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Budget")]
pub(in crate::config) struct RawBudget {
    /// Its name.
    pub(in crate::config) name: String,
    /// Whose spending it counts. Default: everybody's together.
    #[serde(default)]
    pub(in crate::config) scope: RawScope,
    /// The most within the window.
    pub(in crate::config) limit: Usd,
    /// Length of the rolling window; `{every, zone}` of the calendar; `call`, `session` or
    /// `lifetime`.
    pub(in crate::config) window: RawWindow,
    /// `deny`, or `confirm`: a person must confirm each call beyond it. Default: `deny`.
    #[serde(default)]
    pub(in crate::config) on_exceed: RawOnExceed,
    /// Percent of the limit at which it is noted in the log. Default: none.
    #[schemars(range(min = 1, max = 99))]
    pub(in crate::config) warn: Option<u8>,
}

/// A value counts that one; `*` counts each one by itself; nothing counts all together.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Scope")]
pub(in crate::config) struct RawScope {
    /// Tenant.
    pub(in crate::config) tenant: Option<String>,
    /// Person: issuer and subject, `iss|sub`.
    pub(in crate::config) delegator: Option<String>,
    /// Agent.
    pub(in crate::config) agent: Option<String>,
    /// Team: a role or group of the person. Who has several is counted in each.
    pub(in crate::config) team: Option<String>,
    /// Server.
    pub(in crate::config) server: Option<String>,
    /// Tool: `server/tool`.
    pub(in crate::config) tool: Option<String>,
    /// Intent.
    pub(in crate::config) intent: Option<String>,
    /// Grant, by its identifier.
    pub(in crate::config) grant: Option<String>,
}

/// A budget's window.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Window")]
pub(in crate::config) enum RawWindow {
    Word(RawWindowWord),
    Calendar(RawCalendar),
    Rolling(Span),
}

/// `call`: each call by itself; `session`: from the beginning of the MCP session, else of the
/// access token; `lifetime`: from the beginning.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WindowWord")]
pub(in crate::config) enum RawWindowWord {
    Call,
    Session,
    Lifetime,
}

/// A window of the calendar.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Calendar")]
pub(in crate::config) struct RawCalendar {
    /// How often it begins anew.
    pub(in crate::config) every: RawEvery,
    /// IANA time zone, such as `Europe/Berlin`. Default: `UTC`.
    pub(in crate::config) zone: Option<String>,
}

/// At the start of each day, of each Monday, of the first of each month.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Every")]
pub(in crate::config) enum RawEvery {
    Day,
    Week,
    Month,
}

/// What happens when a budget would be exceeded.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "OnExceed")]
pub(in crate::config) enum RawOnExceed {
    #[default]
    Deny,
    Confirm,
}
