//! The caveats of our L402 macaroons: `k=v`, a closed list.
//!
//! Owns their text form and their conjunction. Does not evaluate: the call, the clock and the use
//! counter are compared with a [`Restriction`] by the rail.
//!
//! INVARIANT: a caveat that we cannot read refuses the credential. Adding a caveat never widens
//! what a credential allows.

use super::macaroon::{Macaroon, Verified};
use crate::{digest::Digest, ids::QuoteId};
use std::fmt;

/// From here on a `valid_until` is milliseconds: seconds reach it in the year 5138, milliseconds
/// did in 1973. Some clients attenuate in milliseconds; read as seconds, their narrower bound
/// would be void.
const FIRST_MILLISECOND_VALUE: u64 = 100_000_000_000;

/// One caveat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caveat {
    /// `valid_until`: seconds since the epoch; milliseconds are read, and rounded down.
    ValidUntil(u64),
    /// `server`: the resource it pays for.
    Server(String),
    /// `tool`: the tool it pays for.
    Tool(String),
    /// `call`: the digest of the one call it pays for.
    Call(Digest),
    /// `arguments`: SHA-256 of the only arguments it pays for, in canonical JSON (RFC 8785).
    Arguments(Digest),
    /// `max_price_msat`: the most that one call may cost, in millisatoshi.
    MaxPrice(u64),
    /// `quote`: the quote it pays.
    Quote(QuoteId),
    /// `n_uses`: how often it may be used, at least once.
    Uses(u32),
    /// `tenant`: whose it is.
    Tenant(String),
    /// `iss`: the issuer of the token under which it was minted.
    Issuer(String),
    /// `sub`: the delegator under whose token it was minted.
    Subject(String),
    /// `agent`: the agent to which it was given.
    Agent(String),
    /// `jti`: the digest of the id of the token under which it was minted.
    TokenId(Digest),
    /// `grant`: the digest of the grant under which it was sold, of its id.
    Grant(Digest),
}

/// Why the caveats of a credential cannot be read, or hold together for no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaveatError {
    /// Not `k=v` in UTF-8.
    Shape,
    /// A key that we do not know.
    Unknown,
    /// A value that its key does not have.
    Value {
        /// The key.
        key: &'static str,
    },
    /// Two caveats that no call can meet at once.
    Unsatisfiable {
        /// Their key.
        key: &'static str,
    },
}

impl fmt::Display for CaveatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.write_str("a caveat is not of the form `key=value`"),
            Self::Unknown => f.write_str("a caveat is unknown"),
            Self::Value { key } => write!(f, "the caveat `{key}` has a malformed value"),
            Self::Unsatisfiable { key } => write!(f, "two caveats `{key}` contradict each other"),
        }
    }
}

impl std::error::Error for CaveatError {}

impl Caveat {
    /// The caveat's key.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::ValidUntil(_) => "valid_until",
            Self::Server(_) => "server",
            Self::Tool(_) => "tool",
            Self::Call(_) => "call",
            Self::Arguments(_) => "arguments",
            Self::MaxPrice(_) => "max_price_msat",
            Self::Quote(_) => "quote",
            Self::Uses(_) => "n_uses",
            Self::Tenant(_) => "tenant",
            Self::Issuer(_) => "iss",
            Self::Subject(_) => "sub",
            Self::Agent(_) => "agent",
            Self::TokenId(_) => "jti",
            Self::Grant(_) => "grant",
        }
    }

    /// Reads one caveat. Values may contain `=`; keys and values have no white space around them.
    ///
    /// # Errors
    /// See [`CaveatError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CaveatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CaveatError::Shape)?;
        let (key, value) = text.split_once('=').ok_or(CaveatError::Shape)?;
        if value.is_empty() || value.trim() != value {
            return Err(CaveatError::Shape);
        }
        let owned = || value.to_owned();
        Ok(match key {
            "valid_until" => Self::ValidUntil(seconds(value)?),
            "server" => Self::Server(owned()),
            "tool" => Self::Tool(owned()),
            "call" => Self::Call(digest("call", value)?),
            "arguments" => Self::Arguments(digest("arguments", value)?),
            "max_price_msat" => Self::MaxPrice(decimal("max_price_msat", value)?),
            "quote" => Self::Quote(value.parse().map_err(|_| CaveatError::Value { key: "quote" })?),
            "n_uses" => Self::Uses(uses(value)?),
            "tenant" => Self::Tenant(owned()),
            "iss" => Self::Issuer(owned()),
            "sub" => Self::Subject(owned()),
            "agent" => Self::Agent(owned()),
            "jti" => Self::TokenId(digest("jti", value)?),
            "grant" => Self::Grant(digest("grant", value)?),
            _ => return Err(CaveatError::Unknown),
        })
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.key())?;
        match self {
            Self::ValidUntil(number) | Self::MaxPrice(number) => number.fmt(f),
            Self::Uses(uses) => uses.fmt(f),
            Self::Call(digest)
            | Self::Arguments(digest)
            | Self::TokenId(digest)
            | Self::Grant(digest) => digest.fmt(f),
            Self::Quote(quote) => quote.fmt(f),
            Self::Server(text)
            | Self::Tool(text)
            | Self::Tenant(text)
            | Self::Issuer(text)
            | Self::Subject(text)
            | Self::Agent(text) => text.fmt(f),
        }
    }
}

impl Macaroon {
    /// The macaroon with these caveats added, in their text form.
    #[must_use]
    pub fn restrict(self, caveats: &[Caveat]) -> Self {
        caveats.iter().fold(self, |m, caveat| m.attenuate(caveat.to_string().as_bytes()))
    }
}

/// Unsigned ASCII decimal without leading zeros.
fn decimal<T: std::str::FromStr>(key: &'static str, value: &str) -> Result<T, CaveatError> {
    let canonical = value.bytes().all(|b| b.is_ascii_digit()) && !value.starts_with('0');
    let number = if canonical { value.parse().ok() } else { None };
    number.ok_or(CaveatError::Value { key })
}

fn seconds(value: &str) -> Result<u64, CaveatError> {
    let value: u64 = decimal("valid_until", value)?;
    Ok(if value < FIRST_MILLISECOND_VALUE { value } else { value / 1000 })
}

fn uses(value: &str) -> Result<u32, CaveatError> {
    decimal("n_uses", value)
}

fn digest(key: &'static str, value: &str) -> Result<Digest, CaveatError> {
    Digest::from_hex(value).map_err(|_| CaveatError::Value { key })
}

/// What all caveats of one credential allow together: for each key its narrowest bound, or its
/// one value. `None` is no restriction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The earliest expiry, in seconds since the epoch.
    pub valid_until: Option<u64>,
    /// The resource.
    pub server: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// The call's digest.
    pub call: Option<Digest>,
    /// The digest of its arguments.
    pub arguments: Option<Digest>,
    /// The smallest cap on the price of one call, in millisatoshi.
    pub max_price_msat: Option<u64>,
    /// The quote.
    pub quote: Option<QuoteId>,
    /// The smallest number of uses.
    pub uses: Option<u32>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The issuer.
    pub issuer: Option<String>,
    /// The delegator.
    pub subject: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The digest of the token's id.
    pub token_id: Option<Digest>,
    /// The digest of the grant.
    pub grant: Option<Digest>,
}

impl Restriction {
    /// Reads all caveats of a credential whose signature is right.
    ///
    /// # Errors
    /// See [`CaveatError`]: the credential allows nothing.
    pub fn of(verified: Verified<'_>) -> Result<Self, CaveatError> {
        let mut all = Self::default();
        for caveat in verified.caveats() {
            all.narrow(Caveat::parse(caveat)?)?;
        }
        Ok(all)
    }

    /// Adds one caveat.
    ///
    /// # Errors
    /// [`CaveatError::Unsatisfiable`] when no call can meet it beside the others.
    pub fn narrow(&mut self, caveat: Caveat) -> Result<(), CaveatError> {
        let key = caveat.key();
        match caveat {
            Caveat::ValidUntil(seconds) => lower(&mut self.valid_until, seconds),
            Caveat::Uses(uses) => lower(&mut self.uses, uses),
            Caveat::Server(text) => return pin(&mut self.server, text, key),
            Caveat::Tool(text) => return pin(&mut self.tool, text, key),
            Caveat::MaxPrice(msat) => lower(&mut self.max_price_msat, msat),
            Caveat::Call(digest) => return pin(&mut self.call, digest, key),
            Caveat::Arguments(digest) => return pin(&mut self.arguments, digest, key),
            Caveat::Quote(quote) => return pin(&mut self.quote, quote, key),
            Caveat::Tenant(text) => return pin(&mut self.tenant, text, key),
            Caveat::Issuer(text) => return pin(&mut self.issuer, text, key),
            Caveat::Subject(text) => return pin(&mut self.subject, text, key),
            Caveat::Agent(text) => return pin(&mut self.agent, text, key),
            Caveat::TokenId(digest) => return pin(&mut self.token_id, digest, key),
            Caveat::Grant(digest) => return pin(&mut self.grant, digest, key),
        }
        Ok(())
    }
}

fn lower<T: Ord + Copy>(bound: &mut Option<T>, other: T) {
    *bound = Some(bound.map_or(other, |bound| bound.min(other)));
}

fn pin<T: PartialEq>(slot: &mut Option<T>, value: T, key: &'static str) -> Result<(), CaveatError> {
    match slot {
        Some(pinned) if *pinned != value => Err(CaveatError::Unsatisfiable { key }),
        Some(_) => Ok(()),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixMs;
    use proptest::prelude::*;

    fn every_caveat() -> Vec<Caveat> {
        let digest = Digest::of(b"x");
        vec![
            Caveat::ValidUntil(1_798_000_000),
            Caveat::Server("https://gw.example/mcp".into()),
            Caveat::Tool("a=b".into()),
            Caveat::Call(digest),
            Caveat::Arguments(digest),
            Caveat::MaxPrice(3_000),
            Caveat::Quote(QuoteId::new(UnixMs(1), [2; 10])),
            Caveat::Uses(1),
            Caveat::Tenant("acme".into()),
            Caveat::Issuer("https://issuer.example/".into()),
            Caveat::Subject("auth0|1".into()),
            Caveat::Agent("bot".into()),
            Caveat::TokenId(digest),
            Caveat::Grant(digest),
        ]
    }

    fn restriction(caveats: &[&str]) -> Result<Restriction, CaveatError> {
        let minted = caveats
            .iter()
            .fold(Macaroon::mint(b"k", b"id"), |m, caveat| m.attenuate(caveat.as_bytes()));
        Restriction::of(minted.verify(b"k").unwrap())
    }

    #[test]
    fn each_caveat_reads_back_from_its_text() {
        for caveat in every_caveat() {
            let text = caveat.to_string();
            assert!(text.starts_with(&format!("{}=", caveat.key())), "{text}");
            assert_eq!(Caveat::parse(text.as_bytes()), Ok(caveat));
        }
        let minted = Macaroon::mint(b"k", b"id").restrict(&every_caveat());
        let all = Restriction::of(minted.verify(b"k").unwrap()).unwrap();
        assert_eq!(all.tool.as_deref(), Some("a=b"));
        assert_eq!((all.uses, all.valid_until), (Some(1), Some(1_798_000_000)));
        assert!(all.server.is_some() && all.call.is_some() && all.quote.is_some());
        assert_eq!((all.arguments, all.max_price_msat), (Some(Digest::of(b"x")), Some(3_000)));
        assert!(all.tenant.is_some() && all.issuer.is_some() && all.subject.is_some());
        assert!(all.agent.is_some() && all.token_id.is_some() && all.grant.is_some());
    }

    #[test]
    fn what_we_do_not_know_is_refused() {
        for text in ["max_sats=5", "services=search:0", "path_prefix=/", "Tool=x", "=x", " tool=x"]
        {
            assert_eq!(restriction(&["tool=x", text]), Err(CaveatError::Unknown), "{text}");
        }
        for text in ["", "tool", "tool=", "tool= x", "tool=x "] {
            assert_eq!(restriction(&[text]), Err(CaveatError::Shape), "{text}");
        }
        assert_eq!(Caveat::parse(b"tool=\xff"), Err(CaveatError::Shape));
        for text in ["-1", "+1", "01", "0", "1.0", "1e3", "4294967296", "١"] {
            let error = restriction(&[&format!("n_uses={text}")]);
            assert_eq!(error, Err(CaveatError::Value { key: "n_uses" }), "{text}");
        }
        for text in [
            "valid_until=x",
            "valid_until=18446744073709551616",
            "call=00",
            "arguments={}",
            "max_price_msat=0",
            "max_price_msat=1.5",
            "max_price_msat=3 sat",
            "quote=q",
        ] {
            assert!(matches!(restriction(&[text]), Err(CaveatError::Value { .. })), "{text}");
        }
    }

    #[test]
    fn repeated_caveats_only_narrow() {
        let all = restriction(&["n_uses=5", "valid_until=100", "n_uses=2", "valid_until=200"]);
        let all = all.unwrap();
        assert_eq!((all.uses, all.valid_until), (Some(2), Some(100)));
        let capped = restriction(&["max_price_msat=900", "max_price_msat=1000"]).unwrap();
        assert_eq!(capped.max_price_msat, Some(900));
        assert!(restriction(&["tool=x", "tool=x"]).is_ok());
        assert_eq!(
            restriction(&["tool=x", "tool=y"]),
            Err(CaveatError::Unsatisfiable { key: "tool" })
        );
    }

    #[test]
    fn a_bound_in_milliseconds_narrows_too() {
        // PyPI `bolthub` attenuates in milliseconds.
        let all = restriction(&["valid_until=1798000000", "valid_until=1797999999999"]).unwrap();
        assert_eq!(all.valid_until, Some(1_797_999_999));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Caveat::parse(&bytes);
        }

        #[test]
        fn adding_a_caveat_never_widens(a in 1u32..9, b in 1u32..9, c in 1u64..9, d in 1u64..9) {
            let texts = [format!("n_uses={a}"), format!("valid_until={c}"),
                format!("n_uses={b}"), format!("valid_until={d}")];
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (before, after) = (restriction(&texts[..2]).unwrap(), restriction(&texts).unwrap());
            prop_assert!(after.uses <= before.uses && after.valid_until <= before.valid_until);
        }
    }
}
