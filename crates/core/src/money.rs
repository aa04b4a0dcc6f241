//! Money: integer minor units of a named asset, and the reference unit budgets count in.
//!
//! INVARIANT: no float, no unchecked arithmetic, no implicit conversion between assets.
#![deny(clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// An asset's configured code: `USDC`, `BTC`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetCode(pub Arc<str>);

impl fmt::Display for AssetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for AssetCode {
    fn from(code: &str) -> Self {
        Self(code.into())
    }
}

/// An amount in an asset's minor units (USDC: 10⁻⁶, BTC: millisatoshi).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// The asset.
    pub asset: AssetCode,
    /// Minor units.
    #[serde(with = "decimal_text")]
    pub minor: u128,
}

/// Millionths of the reference currency, in which budgets, caps and policy count.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// Checked sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// What is left of `self` after `other`, or `None` when `other` is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", decimal(u128::from(self.0), 6))
    }
}

/// An asset as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Its code.
    pub code: AssetCode,
    /// CAIP-19 identifier, or `sandbox:…`.
    pub caip: Arc<str>,
    /// Decimal places of the minor unit below the unit named by the code.
    pub decimals: u8,
    /// Reference micros for one whole unit, as a rational.
    pub rate: Rate,
}

/// Reference micros per minor unit, as a ratio pinned into each quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Micros.
    pub micros: u64,
    /// Minor units that they are worth.
    pub per_minor: u64,
}

impl Rate {
    /// The reference value, rounded up: against the spender.
    #[must_use]
    pub fn micros_of(self, minor: u128) -> Option<Micros> {
        let product = minor.checked_mul(u128::from(self.micros))?;
        let value = product.div_ceil(u128::from(self.per_minor).max(1));
        u64::try_from(value).ok().map(Micros)
    }
}

/// Why a text is not money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoneyError {
    /// Not of the form `<decimal> <unit>`.
    Shape,
    /// The unit is not configured.
    UnknownUnit(String),
    /// More decimal places than the asset has.
    TooPrecise {
        /// The places the unit has.
        places: u8,
    },
    /// The number does not fit.
    TooLarge,
}

impl fmt::Display for MoneyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.write_str("expected a decimal number, a space and a unit"),
            Self::UnknownUnit(unit) => write!(f, "no asset or unit `{unit}` is configured"),
            Self::TooPrecise { places } => write!(f, "the unit has {places} decimal places"),
            Self::TooLarge => f.write_str("the amount is too large"),
        }
    }
}

impl std::error::Error for MoneyError {}

/// The assets of one configuration, by code; knows the units people write.
#[derive(Clone, Debug, Default)]
pub struct Assets(BTreeMap<AssetCode, Asset>);

impl Assets {
    /// Adds or replaces an asset.
    pub fn insert(&mut self, asset: Asset) {
        self.0.insert(asset.code.clone(), asset);
    }

    /// The asset of a code.
    #[must_use]
    pub fn get(&self, code: &AssetCode) -> Option<&Asset> {
        self.0.get(code)
    }

    /// Every asset, by code.
    pub fn iter(&self) -> impl Iterator<Item = &Asset> {
        self.0.values()
    }

    /// Parses `"0.01 USDC"`, `"3 sat"`.
    ///
    /// # Errors
    /// Malformed text, an unknown unit, too many decimal places, or a number that does not fit.
    pub fn parse(&self, text: &str) -> Result<Amount, MoneyError> {
        let (number, unit) = text.split_once(' ').ok_or(MoneyError::Shape)?;
        let (asset, places) = self.unit(unit)?;
        Ok(Amount { asset, minor: parse_decimal(number, places)? })
    }

    /// The asset behind a unit and the decimal places of that unit's number.
    fn unit(&self, unit: &str) -> Result<(AssetCode, u8), MoneyError> {
        let unknown = || MoneyError::UnknownUnit(unit.to_owned());
        let (code, places) = match unit {
            "sat" => (AssetCode::from("BTC"), Some(3)),
            "msat" => (AssetCode::from("BTC"), Some(0)),
            code => (AssetCode::from(code), None),
        };
        let asset = self.0.get(&code).ok_or_else(unknown)?;
        Ok((code, places.unwrap_or(asset.decimals)))
    }

    /// The amount as people write it: `0.01 USDC`, `3 sat`.
    #[must_use]
    pub fn show(&self, amount: &Amount) -> String {
        if &*amount.asset.0 == "BTC" {
            return format!("{} sat", decimal(amount.minor, 3));
        }
        let decimals = self.0.get(&amount.asset).map_or(0, |asset| asset.decimals);
        format!("{} {}", decimal(amount.minor, decimals), amount.asset)
    }

    /// The reference value of an amount at the configured rate.
    #[must_use]
    pub fn micros(&self, amount: &Amount) -> Option<Micros> {
        self.0.get(&amount.asset)?.rate.micros_of(amount.minor)
    }
}

/// Parses `"10 USD"` (or a bare `"10"`) into reference micros.
///
/// # Errors
/// Malformed text, another unit, more than six decimal places, or a number that does not fit.
pub fn parse_micros(text: &str) -> Result<Micros, MoneyError> {
    let number = match text.split_once(' ') {
        None => text,
        Some((number, "USD")) => number,
        Some((_, unit)) => return Err(MoneyError::UnknownUnit(unit.to_owned())),
    };
    u64::try_from(parse_decimal(number, 6)?).map(Micros).map_err(|_| MoneyError::TooLarge)
}

/// Parses an unsigned ASCII decimal into units of 10^-`places`. No sign, exponent, separators,
/// surplus leading zeros or non-ASCII digits.
///
/// # Errors
/// See [`MoneyError`].
pub fn parse_decimal(text: &str, places: u8) -> Result<u128, MoneyError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits_only = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let surplus_zero = whole.len() > 1 && whole.starts_with('0');
    if !digits_only(whole) || !digits_only(fraction) || surplus_zero {
        return Err(MoneyError::Shape);
    }
    let fraction = fraction.trim_end_matches('0');
    let missing = usize::from(places).checked_sub(fraction.len());
    let missing = missing.ok_or(MoneyError::TooPrecise { places })?;
    let padded = format!("{whole}{fraction}{}", "0".repeat(missing));
    padded.parse().map_err(|_| MoneyError::TooLarge)
}

/// Writes units of 10^-`places` as a plain decimal without trailing zeros.
#[must_use]
pub fn decimal(minor: u128, places: u8) -> String {
    let places = usize::from(places);
    let width = places.saturating_add(1);
    let digits = format!("{minor:0>width$}");
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(places));
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// `u128` as a decimal string in JSON.
pub mod decimal_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes the number as a string.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads a string of ASCII digits.
    ///
    /// # Errors
    /// Anything else than an unsigned decimal that fits.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        super::parse_decimal(&text, 0).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assets() -> Assets {
        let mut assets = Assets::default();
        let usd = Rate { micros: 1, per_minor: 1 };
        let asset = |code: &str, decimals, rate| Asset {
            code: code.into(),
            caip: "sandbox:x".into(),
            decimals,
            rate,
        };
        assets.insert(asset("USDC", 6, usd));
        assets.insert(asset("BTC", 11, Rate { micros: 600, per_minor: 1000 }));
        assets
    }

    #[test]
    fn people_write_units_and_read_them_back() {
        let assets = assets();
        for (text, minor) in [("0.01 USDC", 10_000), ("3 sat", 3_000), ("1.5 sat", 1_500)] {
            let amount = assets.parse(text).unwrap();
            assert_eq!(amount.minor, minor, "{text}");
            assert_eq!(assets.show(&amount), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let assets = assets();
        let bad = [
            "1",
            "1USDC",
            "-1 USDC",
            "+1 USDC",
            "1e3 USDC",
            "01 USDC",
            ".5 USDC",
            "1. USDC",
            "1,0 USDC",
            "0.0000001 USDC",
            "1 EUR",
            "NaN USDC",
            "١ USDC",
            " 1 USDC",
            "1  USDC",
            "340282366920938463463374607431768211456 msat",
        ];
        for text in bad {
            assert!(assets.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_round_against_the_spender() {
        let rate = Rate { micros: 600, per_minor: 1000 };
        assert_eq!(rate.micros_of(1), Some(Micros(1)));
        assert_eq!(rate.micros_of(3_000), Some(Micros(1_800)));
        assert_eq!(rate.micros_of(u128::MAX), None);
    }

    proptest! {
        #[test]
        fn decimal_round_trips(minor in any::<u128>(), places in 0u8..20) {
            prop_assert_eq!(parse_decimal(&decimal(minor, places), places), Ok(minor));
        }
    }
}
