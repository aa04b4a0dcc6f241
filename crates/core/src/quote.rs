//! Quotes: a price for one call, bound to its digest, with an expiry.

use crate::{
    digest::Digest,
    ids::QuoteId,
    money::{Amount, Micros},
    terms::ToolRef,
    time::UnixMs,
    wire::json::push_quoted,
};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// A way to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rail {
    /// x402 v2 `exact`.
    X402,
    /// Lightning invoice and macaroon.
    L402,
    /// Proof of work, instead of money.
    Pow,
    /// The organisation's own wallet, which pays a server that charges us.
    Treasury,
}

impl Rail {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::X402 => "x402",
            Self::L402 => "l402",
            Self::Pow => "pow",
            Self::Treasury => "treasury",
        }
    }
}

/// One way to satisfy a quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The rail.
    pub rail: Rail,
    /// Exactly this.
    pub amount: Amount,
    /// To whom: an address on x402; the invoice source's name on L402; nobody for work; whom the
    /// server behind names, where the treasury pays it.
    pub payee: String,
    /// Value in reference micros.
    pub micros: Micros,
    /// Calls that it pays for; at least one.
    pub uses: NonZeroU32,
}

impl Offer {
    /// Work instead of money: it costs nothing, and pays for one call.
    #[must_use]
    pub fn work() -> Self {
        Self {
            rail: Rail::Pow,
            amount: Amount { asset: "USD".into(), minor: 0 },
            payee: String::new(),
            micros: Micros(0),
            uses: NonZeroU32::MIN,
        }
    }

    /// What a server behind asks, which the treasury pays for one call.
    #[must_use]
    pub const fn treasury(amount: Amount, payee: String, micros: Micros) -> Self {
        Self { rail: Rail::Treasury, amount, payee, micros, uses: NonZeroU32::MIN }
    }

    /// Whether what is asked now may be paid under this offer: to the same payee, in the same
    /// asset, and not more. What is quoted is the most, less is welcome.
    #[must_use]
    pub fn covers(&self, asked: &Self) -> bool {
        self.rail == asked.rail
            && self.amount.asset == asked.amount.asset
            && self.payee == asked.payee
            && asked.uses == self.uses
            && asked.amount.minor <= self.amount.minor
            && asked.micros <= self.micros
    }

    /// The same for one of its calls, rounded against the payer.
    #[must_use]
    pub fn for_one_call(&self) -> Self {
        let uses = u128::from(self.uses.get());
        let minor = self.amount.minor.div_ceil(uses);
        let amount = Amount { asset: self.amount.asset.clone(), minor };
        Self { amount, micros: self.share(), uses: NonZeroU32::MIN, ..self.clone() }
    }

    /// What one call counts for, in reference micros, rounded against the spender.
    #[must_use]
    pub fn share(&self) -> Micros {
        Micros(self.micros.0.div_ceil(u64::from(self.uses.get())))
    }
}

/// A price for one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    id: QuoteId,
    call_digest: Digest,
    offers: Vec<Offer>,
    issued_at: UnixMs,
    expires_at: UnixMs,
    digest: Digest,
}

impl Quote {
    /// A quote over these offers; none means free.
    #[must_use]
    pub fn new(
        id: QuoteId,
        call_digest: Digest,
        offers: Vec<Offer>,
        issued_at: UnixMs,
        expires_at: UnixMs,
    ) -> Self {
        let digest = quote_digest(id, call_digest, &offers, expires_at);
        Self { id, call_digest, offers, issued_at, expires_at, digest }
    }

    /// Its identifier.
    #[must_use]
    pub const fn id(&self) -> QuoteId {
        self.id
    }

    /// The call it is for.
    #[must_use]
    pub const fn call_digest(&self) -> Digest {
        self.call_digest
    }

    /// The ways to pay.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The ways to pay with money.
    pub fn for_money(&self) -> impl Iterator<Item = &Offer> {
        self.offers.iter().filter(|offer| offer.rail != Rail::Pow)
    }

    /// What the treasury is to pay, where it pays.
    #[must_use]
    pub fn of_treasury(&self) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.rail == Rail::Treasury)
    }

    /// Nothing is to be paid.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.offers.is_empty()
    }

    /// The most that this call can cost, in reference micros: what holds, caps and policy count.
    #[must_use]
    pub fn micros(&self) -> Micros {
        self.offers.iter().map(Offer::share).max().unwrap_or_default()
    }

    /// The most that is asked for at once, in reference micros: more than one call's price where
    /// an offer pays for several.
    #[must_use]
    pub fn asked(&self) -> Micros {
        self.offers.iter().map(|offer| offer.micros).max().unwrap_or_default()
    }

    /// When it was made.
    #[must_use]
    pub const fn issued_at(&self) -> UnixMs {
        self.issued_at
    }

    /// When it ends.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// Its digest (design §3).
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

/// SHA-256(call digest ‖ quote id ‖ every offer ‖ expiry), parts length-prefixed.
fn quote_digest(id: QuoteId, call: Digest, offers: &[Offer], expires_at: UnixMs) -> Digest {
    let mut parts: Vec<Vec<u8>> = vec![call.as_bytes().to_vec(), id.as_bytes().to_vec()];
    for offer in offers {
        parts.push(offer.rail.text().into());
        parts.push(offer.amount.asset.0.as_bytes().to_vec());
        parts.push(offer.amount.minor.to_be_bytes().to_vec());
        parts.push(offer.payee.clone().into_bytes());
        parts.push(offer.uses.get().to_be_bytes().to_vec());
    }
    parts.push(expires_at.0.to_be_bytes().to_vec());
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Digest::of_parts(&slices)
}

/// Inputs of the call digest.
#[derive(Clone, Copy, Debug)]
pub struct CallParts<'a> {
    /// Resource URI of the server.
    pub resource: &'a str,
    /// Which tool.
    pub tool: &'a ToolRef,
    /// Canonical JSON of the arguments.
    pub arguments: &'a str,
    /// `(iss, sub)` of the delegator; empty when anonymous.
    pub delegator: (&'a str, &'a str),
    /// Agent.
    pub agent: &'a str,
    /// Tenant.
    pub tenant: &'a str,
}

/// `SHA-256(JCS({resource, tool, arguments, delegator, agent, tenant}))` (design §3), the tool as
/// `server/tool`. The members
/// are written in their sorted order, so the canonical arguments are spliced in as they are.
#[must_use]
pub fn call_digest(parts: &CallParts<'_>) -> Digest {
    let mut canonical = Vec::with_capacity(parts.arguments.len().saturating_add(512));
    let text = |out: &mut Vec<u8>, before: &str, text: &str| {
        out.extend_from_slice(before.as_bytes());
        push_quoted(out, text);
    };
    text(&mut canonical, r#"{"agent":"#, parts.agent);
    canonical.extend_from_slice(br#","arguments":"#);
    canonical.extend_from_slice(parts.arguments.as_bytes());
    text(&mut canonical, r#","delegator":["#, parts.delegator.0);
    text(&mut canonical, ",", parts.delegator.1);
    text(&mut canonical, r#"],"resource":"#, parts.resource);
    text(&mut canonical, r#","tenant":"#, parts.tenant);
    text(&mut canonical, r#","tool":"#, &parts.tool.to_string());
    canonical.push(b'}');
    Digest::of(&canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(rail: Rail, micros: u64, uses: u32) -> Offer {
        Offer {
            rail,
            amount: Amount { asset: "USDC".into(), minor: micros.into() },
            payee: "payee".to_owned(),
            micros: Micros(micros),
            uses: NonZeroU32::new(uses).unwrap(),
        }
    }

    fn quote(offers: Vec<Offer>) -> Quote {
        let id = QuoteId::new(UnixMs(1), [7; 10]);
        Quote::new(id, Digest::of(b"call"), offers, UnixMs(1), UnixMs(2))
    }

    #[test]
    fn a_share_is_rounded_against_the_spender() {
        for (micros, uses, share) in
            [(10, 1, 10), (10, 3, 4), (9, 3, 3), (1, 3, 1), (0, 3, 0), (u64::MAX, 2, 1 << 63)]
        {
            let offer = offer(Rail::L402, micros, uses);
            assert_eq!(offer.share(), Micros(share), "{micros} by {uses}");
            let all = u128::from(share) * u128::from(uses);
            assert!(all >= u128::from(micros), "all shares are not less than the whole");
        }
    }

    #[test]
    fn a_treasury_pays_what_was_quoted_or_less_and_nobody_else() {
        let asked = |minor: u128, payee: &str, asset: &str| {
            let micros = Micros(u64::try_from(minor).unwrap());
            Offer::treasury(Amount { asset: asset.into(), minor }, payee.to_owned(), micros)
        };
        let quoted = asked(10, "payee", "USDC");
        for (minor, payee, asset, is_covered) in [
            (10, "payee", "USDC", true),
            (9, "payee", "USDC", true),
            (11, "payee", "USDC", false),
            (10, "other", "USDC", false),
            (10, "payee", "BTC", false),
        ] {
            let now = asked(minor, payee, asset);
            assert_eq!(quoted.covers(&now), is_covered, "{minor} {asset} to {payee}");
        }
        // The same money can be worth more by now: what it counts for is capped as well.
        let dearer = Offer { micros: Micros(11), ..asked(10, "payee", "USDC") };
        assert!(!quoted.covers(&dearer));
        assert!(!quoted.covers(&Offer { rail: Rail::X402, ..asked(1, "payee", "USDC") }));
    }

    #[test]
    fn a_call_counts_its_share_and_is_asked_for_the_whole() {
        let bundle = quote(vec![offer(Rail::L402, 30, 3)]);
        assert_eq!((bundle.micros(), bundle.asked()), (Micros(10), Micros(30)));
        let one = quote(vec![offer(Rail::X402, 12, 1)]);
        assert_eq!((one.micros(), one.asked()), (Micros(12), Micros(12)));
        let free = quote(Vec::new());
        assert!(free.is_free());
        assert_eq!((free.micros(), free.asked()), (Micros(0), Micros(0)));
    }

    #[test]
    fn of_several_offers_the_dearest_counts_each_way() {
        // The dearest call and the dearest payment are not the same offer.
        let both = quote(vec![offer(Rail::X402, 12, 1), offer(Rail::L402, 30, 3)]);
        assert_eq!((both.micros(), both.asked()), (Micros(12), Micros(30)));
    }

    #[test]
    fn what_an_offer_says_is_in_the_digest() {
        let digest = |offer| quote(vec![offer]).digest();
        let one = digest(offer(Rail::L402, 30, 3));
        assert_eq!(one, digest(offer(Rail::L402, 30, 3)));
        for other in [offer(Rail::X402, 30, 3), offer(Rail::L402, 31, 3), offer(Rail::L402, 30, 2)]
        {
            assert_ne!(one, digest(other));
        }
    }
}
