//! Moments and spans, in milliseconds since the Unix epoch. No clock lives here.

use serde::{Deserialize, Serialize};

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The moment `ms` milliseconds later; saturates at the end of time.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The moment `ms` milliseconds earlier; saturates at the epoch.
    #[must_use]
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Whole seconds since the epoch (JWT `NumericDate`, EIP-3009 windows).
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// A moment from whole seconds since the epoch; saturates.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, as audit records and problem details write it.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let (days, ms_of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (s, ms) = (ms_of_day / 1000, ms_of_day % 1000);
        // Each record of a call has one: formatting machinery would take twenty times as long.
        let mut text = String::with_capacity(24);
        match year / 100 {
            century @ 0..100 => push_two(&mut text, century),
            century => text.push_str(&century.to_string()),
        }
        push_two(&mut text, year % 100);
        let parts = [('-', month), ('-', day), ('T', s / 3600), (':', s / 60 % 60), (':', s % 60)];
        for (before, number) in parts {
            text.push(before);
            push_two(&mut text, number);
        }
        text.push('.');
        push_digit(&mut text, ms / 100);
        push_two(&mut text, ms % 100);
        text.push('Z');
        text
    }
}

/// A number below a hundred.
fn push_two(text: &mut String, number: u64) {
    push_digit(text, number / 10);
    push_digit(text, number % 10);
}

fn push_digit(text: &mut String, digit: u64) {
    text.push(u8::try_from(digit % 10).map_or('0', |digit| char::from(b'0' + digit)));
}

/// Proleptic Gregorian date of a day count since the epoch (Howard Hinnant's algorithm).
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::{UnixMs, civil_from_days};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rfc3339_is_what_formatting_writes(at_ms in 0u64..500_000_000_000_000) {
            let (year, month, day) = civil_from_days(at_ms / 86_400_000);
            let (s, ms) = (at_ms / 1000 % 86_400, at_ms % 1000);
            let (hour, minute, second) = (s / 3600, s / 60 % 60, s % 60);
            let date = format!("{year:04}-{month:02}-{day:02}");
            let time = format!("{hour:02}:{minute:02}:{second:02}.{ms:03}");
            prop_assert_eq!(UnixMs(at_ms).rfc3339(), format!("{date}T{time}Z"));
        }
    }

    #[test]
    fn rfc3339_of_known_moments() {
        assert_eq!(UnixMs(0).rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixMs(1_709_210_096_789).rfc3339(), "2024-02-29T12:34:56.789Z");
        assert_eq!(UnixMs(1_798_675_199_999).rfc3339(), "2026-12-30T23:59:59.999Z");
        assert_eq!(UnixMs(253_402_300_799_999).rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!(UnixMs(253_402_300_800_000).rfc3339(), "10000-01-01T00:00:00.000Z");
    }
}
