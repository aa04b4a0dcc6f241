//! Rich authorization requests (RFC 9396): the one type of `authorization_details` by which an
//! access token carries a person's consent. Its JSON Schema is `docs/mcp-spend.schema.json`.
//!
//! INVARIANT: whatever is unknown is refused: a type, a member, an action. Amounts are whole
//! minor units as strings, beside the asset and the decimal places that they are meant in.

use super::json::{self, Limits};
use crate::{digest::Digest, money::decimal_text, policy::Intent, time::UnixMs};
use serde::Deserialize;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// The type.
pub const TYPE: &str = "urn:countersign:mcp-spend:1";
/// Most details of one token.
const DETAILS_MAX: usize = 8;
/// Most entries of a list.
const LIST_MAX: usize = 64;
/// The longest text, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// What the details of a token come to.
pub type Details = Result<Arc<[SpendDetail]>, NotADetail>;

/// One consent to spend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendDetail {
    #[serde(rename = "type")]
    kind: Kind,
    /// The resource URI of the server: exactly one.
    locations: [Arc<str>; 1],
    actions: [Action; 1],
    /// Tools by name.
    #[serde(rename = "datatypes")]
    pub tools: Vec<Arc<str>>,
    /// Names this consent: later tokens that carry it under the same name carry the same one.
    pub identifier: Arc<str>,
    /// Intents.
    pub intents: Vec<Intent>,
    /// Limits.
    pub spend: Spend,
    /// Who may be paid (CAIP-10); empty for anybody.
    #[serde(default)]
    pub payees: Vec<Arc<str>>,
    /// What for.
    #[serde(default)]
    pub purpose: String,
    #[serde(rename = "exp")]
    exp_s: u64,
    /// Digest of all that it says.
    #[serde(skip, default = "unread")]
    pub content: Digest,
}

fn unread() -> Digest {
    Digest::of(b"")
}

/// Limits, in minor units of one asset.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spend {
    /// CAIP-19.
    pub asset: Arc<str>,
    /// Decimal places of the asset's minor unit: must be those that the gateway knows.
    pub decimals: u8,
    /// The most one call may cost.
    #[serde(with = "decimal_text")]
    pub per_call_max: u128,
    /// Rolling limits.
    #[serde(default)]
    pub budgets: Vec<Rolling>,
    /// The most all calls may cost.
    #[serde(with = "decimal_text")]
    pub total_max: u128,
    /// The most calls.
    #[serde(default)]
    pub max_calls: Option<u64>,
}

/// A rolling limit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// ISO 8601 duration: `P1D`, `PT6H`.
    window: String,
    /// The most within it.
    #[serde(with = "decimal_text")]
    pub max: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Kind {
    #[serde(rename = "urn:countersign:mcp-spend:1")]
    McpSpend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Action {
    #[serde(rename = "tools/call")]
    Call,
}

/// Why `authorization_details` are no consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotADetail {
    /// Not a list of 1 to 8 objects.
    NotAList,
    /// Of a type that is not ours.
    UnknownType,
    /// A member is unknown, missing, or of a form that is not allowed.
    Member,
    /// A list or a text is empty or too long, or `*` stands for tools.
    Length,
    /// A window is no duration of at most 30 days.
    Window,
    /// The token was delegated on (`act`): its person consented to its client.
    Delegated,
}

impl fmt::Display for NotADetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAList => "`authorization_details` is not a list of 1 to 8 objects",
            Self::UnknownType => "an authorization detail is of an unknown type",
            Self::Member => "an authorization detail has an unknown, missing or malformed member",
            Self::Length => "a member of an authorization detail is empty, too long, or `*`",
            Self::Window => "a window is not a duration such as `P1D`, at most 30 days",
            Self::Delegated => "the token was delegated on: the person consented to its client",
        })
    }
}

impl std::error::Error for NotADetail {}

impl SpendDetail {
    /// The server's resource URI.
    #[must_use]
    pub fn location(&self) -> &str {
        let [location] = &self.locations;
        location
    }

    /// Until when.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        UnixMs::from_seconds(self.exp_s)
    }

    fn check(&self) -> Result<(), NotADetail> {
        let is_text = |text: &str| {
            (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        let lists = [&self.tools, &self.payees];
        let texts = lists.into_iter().flatten().chain([&self.identifier, &self.spend.asset]);
        let are_texts = texts.into_iter().all(|text| is_text(text));
        let short = [self.payees.len(), self.spend.budgets.len(), self.intents.len()];
        let are_short = short.into_iter().all(|length| length <= LIST_MAX);
        let has_purpose = self.purpose.is_empty() || is_text(&self.purpose);
        let has_tools = (1..=LIST_MAX).contains(&self.tools.len())
            && !self.intents.is_empty()
            && self.tools.iter().all(|tool| &**tool != "*");
        if !(are_texts && are_short && has_purpose && has_tools) {
            return Err(NotADetail::Length);
        }
        let are_windows = self.spend.budgets.iter().all(|budget| budget.length_ms().is_some());
        if are_windows { Ok(()) } else { Err(NotADetail::Window) }
    }
}

impl Rolling {
    const LONGEST_MS: u64 = 30 * 24 * 3_600_000;

    /// Its length in milliseconds, at most 30 days.
    #[must_use]
    pub fn length_ms(&self) -> Option<u64> {
        let rest = self.window.strip_prefix('P')?;
        let (number, unit_ms) = match rest.strip_prefix('T') {
            None => (rest.strip_suffix('D')?, 24 * 3_600_000),
            Some(time) => match time.strip_suffix('H') {
                Some(hours) => (hours, 3_600_000),
                None => (time.strip_suffix('M')?, 60_000),
            },
        };
        let is_plain = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        let count: u64 = number.parse().ok().filter(|_| is_plain)?;
        count.checked_mul(unit_ms).filter(|ms| *ms <= Self::LONGEST_MS)
    }
}

/// Reads the claim `authorization_details`.
///
/// # Errors
/// See [`NotADetail`].
pub fn parse(claim: &Value) -> Details {
    let items = claim.as_array().ok_or(NotADetail::NotAList)?;
    if !(1..=DETAILS_MAX).contains(&items.len()) {
        return Err(NotADetail::NotAList);
    }
    items.iter().map(one).collect()
}

fn one(item: &Value) -> Result<SpendDetail, NotADetail> {
    let members = item.as_object().ok_or(NotADetail::NotAList)?;
    if members.get("type").and_then(Value::as_str) != Some(TYPE) {
        return Err(NotADetail::UnknownType);
    }
    let detail = SpendDetail::deserialize(item).map_err(|_| NotADetail::Member)?;
    detail.check()?;
    let canonical = json::canonical(item.to_string().as_bytes(), &Limits::REQUEST);
    let canonical = canonical.map_err(|_| NotADetail::Member)?;
    Ok(SpendDetail { content: Digest::of(&canonical), ..detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn detail() -> Value {
        json!({
            "type": TYPE,
            "locations": ["https://gw.example.com/weather/mcp"],
            "actions": ["tools/call"],
            "datatypes": ["get_forecast"],
            "identifier": "trip-2026-12",
            "intents": ["read"],
            "spend": {
                "asset": "eip155:8453/erc20:0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
                "decimals": 6,
                "per_call_max": "50000",
                "budgets": [{"window": "P1D", "max": "1000000"}],
                "total_max": "5000000",
                "max_calls": 200,
            },
            "payees": ["eip155:8453:0x209693Bc6afc0C5328bA36FaF03C514EF312287C"],
            "purpose": "trip planning",
            "exp": 1_798_000_000,
        })
    }

    fn with(pointer: &str, value: Value) -> Details {
        let mut detail = detail();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = detail.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value.is_null() {
            true => parent.remove(name),
            false => parent.insert(name.to_owned(), value),
        };
        parse(&json!([detail]))
    }

    #[test]
    fn a_detail_says_what_it_says() {
        let read = parse(&json!([detail()])).unwrap();
        let [detail] = &*read else { panic!("one") };
        assert_eq!(detail.location(), "https://gw.example.com/weather/mcp");
        assert_eq!((detail.spend.per_call_max, detail.spend.total_max), (50_000, 5_000_000));
        assert_eq!(detail.spend.budgets[0].length_ms(), Some(86_400_000));
        assert_eq!(detail.expires_at(), UnixMs(1_798_000_000_000));
    }

    #[test]
    fn whatever_is_unknown_is_refused() {
        let cases = [
            ("/type", json!("urn:other"), NotADetail::UnknownType),
            ("/type", Value::Null, NotADetail::UnknownType),
            ("/more", json!(1), NotADetail::Member),
            ("/spend/more", json!(1), NotADetail::Member),
            ("/actions", json!(["tools/call", "tools/list"]), NotADetail::Member),
            ("/actions", json!(["resources/read"]), NotADetail::Member),
            ("/locations", json!([]), NotADetail::Member),
            ("/intents", json!(["everything"]), NotADetail::Member),
            ("/intents", json!([]), NotADetail::Length),
            ("/intents", Value::Null, NotADetail::Member),
            ("/identifier", Value::Null, NotADetail::Member),
            ("/identifier", json!(""), NotADetail::Length),
            ("/datatypes", json!([]), NotADetail::Length),
            ("/datatypes", json!(["*"]), NotADetail::Length),
            ("/spend/per_call_max", json!(50_000), NotADetail::Member),
            ("/spend/per_call_max", json!("5e4"), NotADetail::Member),
            ("/spend/per_call_max", json!("050000"), NotADetail::Member),
            ("/spend/per_call_max", json!("-1"), NotADetail::Member),
            ("/spend/per_call_max", json!("٥"), NotADetail::Member),
            ("/spend/total_max", Value::Null, NotADetail::Member),
            ("/spend/decimals", json!(-6), NotADetail::Member),
            ("/spend/budgets", json!([{"window": "P31D", "max": "1"}]), NotADetail::Window),
            ("/spend/budgets", json!([{"window": "PT0H", "max": "1"}]), NotADetail::Window),
            ("/spend/budgets", json!([{"window": "1 day", "max": "1"}]), NotADetail::Window),
            ("/exp", json!("1798000000"), NotADetail::Member),
        ];
        for (pointer, value, error) in cases {
            assert_eq!(with(pointer, value.clone()), Err(error), "{pointer} = {value}");
        }
        assert_eq!(parse(&json!({})), Err(NotADetail::NotAList));
        assert_eq!(parse(&json!([])), Err(NotADetail::NotAList));
        assert_eq!(parse(&json!(["x"])), Err(NotADetail::NotAList));
        let second = json!([detail(), {"type": "urn:other"}]);
        assert_eq!(parse(&second), Err(NotADetail::UnknownType), "one that is unknown spoils all");
    }

    #[test]
    fn windows() {
        let length = |text: &str| Rolling { window: text.to_owned(), max: 1 }.length_ms();
        assert_eq!(length("PT90M"), Some(5_400_000));
        assert_eq!(length("PT6H"), Some(21_600_000));
        assert_eq!(length("P30D"), Some(Rolling::LONGEST_MS));
        for text in ["", "P", "PT", "PD", "P1", "P1M", "PT1S", "P+1D", "P99999999999999999999D"] {
            assert_eq!(length(text), None, "{text}");
        }
    }
}
