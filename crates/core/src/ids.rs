//! Identifiers: 16 bytes, made by the caller (48-bit milliseconds then 80 random bits, so they
//! sort by time), written as a prefix and 32 hex characters.

use crate::{digest::lower_hex, time::UnixMs};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// Why a text is not an identifier of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId {
    /// The prefix that was expected.
    pub expected_prefix: &'static str,
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected `{}_` and 32 hex characters", self.expected_prefix)
    }
}

impl std::error::Error for NotAnId {}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// An identifier from the moment it was made and 10 random bytes.
            #[must_use]
            pub fn new(now: UnixMs, random: [u8; 10]) -> Self {
                let mut bytes = [0u8; 16];
                let (time, rest) = bytes.split_at_mut(6);
                let ms = now.0.to_be_bytes();
                time.copy_from_slice(ms.split_at(2).1);
                rest.copy_from_slice(&random);
                Self(bytes)
            }

            /// The identifier with these bytes (from a store).
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The text form without an allocation: leaves are made of these.
            fn text_in<'a>(&self, text: &'a mut [u8; concat!($prefix, "_").len() + 32]) -> &'a str {
                let (prefix, digits) = text.split_at_mut(concat!($prefix, "_").len());
                prefix.copy_from_slice(concat!($prefix, "_").as_bytes());
                lower_hex(&self.0, digits);
                std::str::from_utf8(text).unwrap_or_default()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.text_in(&mut [0; concat!($prefix, "_").len() + 32]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let refused = NotAnId { expected_prefix: $prefix };
                let digits = text.strip_prefix(concat!($prefix, "_")).ok_or(refused)?;
                let mut bytes = [0u8; 16];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| refused)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.text_in(&mut [0; concat!($prefix, "_").len() + 32]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

id!(/** One attempt at a tool call. */ CallId, "call");
id!(/** A price offered for one call. */ QuoteId, "quote");
id!(/** A human's standing consent. */ GrantId, "grant");
id!(/** A request that a human approve one call. */ ApprovalId, "appr");
id!(/** One policy evaluation. */ DecisionId, "dec");
id!(/** One ledger transfer. */ TransferId, "xfer");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_sorts_by_time() {
        let early = CallId::new(UnixMs(1_000), [0xff; 10]);
        let late = CallId::new(UnixMs(2_000), [0; 10]);
        assert!(early < late);
        assert_eq!(early.to_string().parse::<CallId>(), Ok(early));
        assert!("quote_00".parse::<CallId>().is_err());
        assert!("call_zz000000000000000000000000000000".parse::<CallId>().is_err());
    }
}
