//! The ledger's vocabulary: states of a call, budgets, transfers.
#![deny(clippy::arithmetic_side_effects)]

use crate::{
    ids::GrantId, money::Micros, policy::Intent, proof::Principal, terms::ToolRef, time::UnixMs,
};
use jiff::{Span, Timestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, sync::Arc};

/// Where a call stands, durably. External effects happen only between a durable intent and a
/// durable outcome; what each state means after a crash is in [`CallState::recovery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// Refused; nothing is held.
    Refused,
    /// Money is held, nothing was sent.
    Reserved,
    /// A settlement may be on its way.
    Settling,
    /// Paid; the tool has not started.
    Settled,
    /// The tool ran once or not at all.
    Starting,
    /// The outcome is stored.
    Finished,
    /// The hold is posted.
    Captured,
    /// The hold is voided; nothing was taken.
    Released,
    /// Started, outcome unknown.
    InDoubt,
    /// The payer must get money back.
    RefundDue,
    /// The payer got it back.
    Refunded,
}

/// What recovery does with a state found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing: a final state.
    Nothing,
    /// Void the hold.
    Release,
    /// Ask the rail, or settle again with the same authorization.
    Settle,
    /// The tool never started: start is no longer wanted, so refund.
    Refund,
    /// Run again if the operator vouches for idempotency, else in doubt.
    InDoubt,
    /// Post the stored outcome.
    Capture,
}

impl CallState {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::Reserved,
        Self::Settling,
        Self::Settled,
        Self::Starting,
        Self::Finished,
        Self::Captured,
        Self::Released,
        Self::InDoubt,
        Self::RefundDue,
        Self::Refunded,
    ];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reserved => "reserved",
            Self::Settling => "settling",
            Self::Settled => "settled",
            Self::Starting => "starting",
            Self::Finished => "finished",
            Self::Captured => "captured",
            Self::Released => "released",
            Self::InDoubt => "in_doubt",
            Self::RefundDue => "refund_due",
            Self::Refunded => "refunded",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.text() == text)
    }

    /// What to do after a crash.
    #[must_use]
    pub const fn recovery(self) -> Recovery {
        match self {
            Self::Reserved => Recovery::Release,
            Self::Settling => Recovery::Settle,
            Self::Settled => Recovery::Refund,
            Self::Starting => Recovery::InDoubt,
            Self::Finished => Recovery::Capture,
            Self::Refused
            | Self::Captured
            | Self::Released
            | Self::InDoubt
            | Self::RefundDue
            | Self::Refunded => Recovery::Nothing,
        }
    }
}

/// The longest value of a budget's scope, in bytes.
const SCOPE_BYTES_MAX: usize = 512;

/// The calls that a budget counts. A value counts that one, `*` each one by itself, nothing all
/// together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetScope {
    /// Tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// Team: a role or group of the delegator. Who has several is counted in each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// Delegator (`iss|sub`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegator: Option<Arc<str>>,
    /// Agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Arc<str>>,
    /// Server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Arc<str>>,
    /// Tool (`server/tool`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Arc<str>>,
    /// Intent, by its word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Arc<str>>,
    /// Grant, by its identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Arc<str>>,
}

impl BudgetScope {
    /// Each dimension with what is wanted of it.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &Option<Arc<str>>); 8] {
        [
            ("tenant", &self.tenant),
            ("team", &self.team),
            ("delegator", &self.delegator),
            ("agent", &self.agent),
            ("server", &self.server),
            ("tool", &self.tool),
            ("intent", &self.intent),
            ("grant", &self.grant),
        ]
    }

    /// The values that can name nothing: the dimension of each, and what is expected there.
    pub fn unreadable(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.parts().into_iter().filter_map(|(dimension, value)| {
            let value = value.as_deref().filter(|value| *value != "*")?;
            expected_of(dimension, value).map(|expected| (dimension, expected))
        })
    }
}

/// What is expected of a dimension where its value cannot be read.
fn expected_of(dimension: &str, value: &str) -> Option<&'static str> {
    // A control character separates the parts of a counter's key.
    if value.is_empty() || value.len() > SCOPE_BYTES_MAX || value.contains(char::is_control) {
        return Some("1 to 512 bytes without control characters");
    }
    let (is_good, expected) = match dimension {
        "delegator" => (
            value == "anonymous" || value.contains('|'),
            "an issuer, `|` and a subject, as in `https://idp.example.com|alice`",
        ),
        "intent" => {
            (Intent::from_text(value).is_some(), "a word of the vocabulary, such as `write`")
        }
        "grant" => (value.parse::<GrantId>().is_ok(), "a grant's identifier"),
        _ => return None,
    };
    (!is_good).then_some(expected)
}

/// How often a fixed window begins anew, at the start of the day in its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// Each day.
    Day,
    /// Each Monday.
    Week,
    /// On the first of each month.
    Month,
}

/// A time zone of the IANA database, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl std::str::FromStr for Zone {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        TimeZone::get(name).map(Self).map_err(|_| ())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(|()| D::Error::custom("unknown time zone"))
    }
}

/// A window of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// How often it begins.
    pub every: Every,
    /// Where.
    pub zone: Zone,
}

impl Calendar {
    /// When the window that `now` lies in began; the epoch where the calendar ends, so that
    /// everything counts.
    #[must_use]
    pub fn start(&self, now: UnixMs) -> UnixMs {
        self.started(now).unwrap_or_default()
    }

    fn started(&self, now: UnixMs) -> Option<UnixMs> {
        let now = Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?;
        let date = self.zone.0.to_datetime(now).date();
        let first = match self.every {
            Every::Day => date,
            Every::Week => {
                let days = i64::from(date.weekday().to_monday_zero_offset());
                date.checked_sub(Span::new().days(days)).ok()?
            }
            Every::Month => date.first_of_month(),
        };
        let start = first.to_zoned_datetime(self.zone.0.clone()).ok()?.timestamp().as_millisecond();
        u64::try_from(start).ok().map(UnixMs)
    }

    /// No window of this kind is longer, in milliseconds.
    #[must_use]
    pub const fn longest_ms(&self) -> u64 {
        const DAY_MS: u64 = 86_400_000;
        match self.every {
            Every::Day => DAY_MS.saturating_mul(2),
            Every::Week => DAY_MS.saturating_mul(8),
            Every::Month => DAY_MS.saturating_mul(32),
        }
    }
}

/// How a budget's window moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// One call.
    PerCall,
    /// Any span of this many milliseconds.
    Rolling(u64),
    /// By the calendar.
    Fixed(Calendar),
    /// From the beginning.
    Lifetime,
    /// From the beginning of the caller's session: the MCP session, else the access token.
    Session,
}

/// What happens when a budget would be exceeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// The call is refused.
    #[default]
    Deny,
    /// A person must confirm this very call.
    Confirm,
}

/// A budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub scope: BudgetScope,
    /// The most within the window.
    pub limit: Micros,
    /// The window.
    pub window: Window,
    /// What happens beyond.
    #[serde(default)]
    pub on_exceed: OnExceed,
    /// Percent of the limit at which it is noted, from 1 to 99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_percent: Option<u8>,
}

/// One budget as it applies to one call: a counter's key and its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Counter: the budget's name and the concrete values of its scope.
    pub key: String,
    /// The most within the window.
    pub limit: Micros,
    /// The window.
    pub window: Window,
    /// What happens beyond.
    pub on_exceed: OnExceed,
    /// Percent of the limit at which it is noted.
    pub warn_percent: Option<u8>,
}

impl Charge {
    /// A charge that is refused beyond its limit.
    #[must_use]
    pub const fn hard(key: String, limit: Micros, window: Window) -> Self {
        Self { key, limit, window, on_exceed: OnExceed::Deny, warn_percent: None }
    }

    /// The budget's name.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.key.split('\u{1f}').next().unwrap_or_default();
        name.strip_prefix("budget:").unwrap_or(name)
    }

    /// Whether using `used` of the limit is to be noted.
    #[must_use]
    pub fn warns_at(&self, used: Micros) -> bool {
        let Some(percent) = self.warn_percent else { return false };
        let part = |of: Micros, times: u128| u128::from(of.0).saturating_mul(times);
        part(used, 100) >= part(self.limit, percent.into())
    }
}

/// What budgets know of a call.
#[derive(Clone, Copy, Debug)]
pub struct Spender<'a> {
    /// Whose call.
    pub principal: &'a Principal,
    /// What is called.
    pub tool: &'a ToolRef,
    /// What it does.
    pub intent: Intent,
    /// In which session: the MCP session, else the access token.
    pub session: &'a str,
    /// Under which grant.
    pub grant: Option<GrantId>,
}

impl Budget {
    /// The counters this call falls into: none when the budget is not about it, several when its
    /// delegator is in several teams.
    #[must_use]
    pub fn charges(&self, spender: &Spender<'_>) -> Vec<Charge> {
        let charge = |key| Charge {
            key,
            limit: self.limit,
            // A session's counter is its own: it counts from its beginning.
            window: if self.window == Window::Session {
                Window::Lifetime
            } else {
                self.window.clone()
            },
            on_exceed: self.on_exceed,
            warn_percent: self.warn_percent,
        };
        if self.scope.team.is_none() {
            return self.key(spender, None).map(charge).into_iter().collect();
        }
        let teams = spender.principal.roles.iter();
        teams.filter_map(|team| self.key(spender, Some(team))).map(charge).collect()
    }

    /// The counter's key; `None` when the budget is not about this spender.
    fn key(&self, spender: &Spender<'_>, team: Option<&str>) -> Option<String> {
        let (principal, tool) = (spender.principal, spender.tool);
        let mut key = String::with_capacity(192);
        key.extend(["budget:", &*self.name]);
        for (name, wanted) in self.scope.parts() {
            let Some(wanted) = wanted else { continue };
            key.extend(["\u{1f}", name, "="]);
            let from = key.len();
            match name {
                "tenant" => key.push_str(&principal.tenant),
                "team" => key.push_str(team?),
                "delegator" => key.push_str(&principal.delegator_text()),
                "agent" => key.push_str(&principal.agent),
                "server" => key.push_str(&tool.server),
                "tool" => key.extend([&*tool.server, "/", &*tool.tool]),
                "intent" => key.push_str(spender.intent.text()),
                _ => key.push_str(&spender.grant?.to_string()),
            }
            if &**wanted != "*" && key.get(from..) != Some(&**wanted) {
                return None;
            }
        }
        if self.window == Window::Session {
            key.extend(["\u{1f}session=", spender.session]);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(every: Every, zone: &str, at: &str) -> String {
        let at = u64::try_from(at.parse::<Timestamp>().unwrap().as_millisecond()).unwrap();
        Calendar { every, zone: zone.parse().unwrap() }.start(UnixMs(at)).rfc3339()
    }

    #[test]
    fn windows_of_the_calendar_begin_where_people_live() {
        let berlin = |every, at| start(every, "Europe/Berlin", at);
        assert_eq!(berlin(Every::Day, "2026-06-10T21:59:59Z"), "2026-06-09T22:00:00.000Z");
        assert_eq!(berlin(Every::Day, "2026-06-10T22:00:00Z"), "2026-06-10T22:00:00.000Z");
        // The clocks go back on 25 October 2026: a day of 25 hours.
        assert_eq!(berlin(Every::Day, "2026-10-25T22:59:59Z"), "2026-10-24T22:00:00.000Z");
        assert_eq!(berlin(Every::Week, "2026-06-14T21:59:59Z"), "2026-06-07T22:00:00.000Z");
        assert_eq!(berlin(Every::Month, "2026-11-24T01:00:00Z"), "2026-10-31T23:00:00.000Z");
        assert_eq!(start(Every::Month, "UTC", "2026-03-01T00:00:00Z"), "2026-03-01T00:00:00.000Z");
        assert!("Europe/Atlantis".parse::<Zone>().is_err());
    }
}
