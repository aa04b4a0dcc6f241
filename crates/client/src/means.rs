//! What a payer pays with and how much: wallets, known assets, caps; and the choice of an offer.
//!
//! Owns the one decision to pay. Signs and sends nothing.
//!
//! INVARIANT: an offer is chosen only if its asset is known, a wallet can pay it, and every cap
//! that applies holds; at least one cap must apply.

use crate::{
    challenge::{Challenge, Channel, L402Offer, WorkOffer},
    evm::EvmWallet,
    lightning::{LightningWallet, OfferFault, Payable},
    wallet::Wallet,
    work,
};
use countersign_core::{
    money::{Amount, Asset, AssetCode, Micros, Rate, decimal},
    quote::{Offer, Rail},
    time::UnixMs,
    wire::{
        eip712::Domain,
        x402::{EvmTerms, PaymentRequired, Requirements},
    },
};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The longest validity of a signature that we give, whatever an offer asks, in seconds.
const MAX_WINDOW_S: u64 = 900;

/// An asset that may be spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAsset {
    /// The code that caps name.
    pub code: AssetCode,
    /// CAIP-19: `eip155:8453/erc20:0x…`. Not looked at for Lightning, whose asset is `BTC`.
    pub caip: Arc<str>,
    /// What it is worth; `None` when only a cap in the asset itself can apply.
    pub rate: Option<Rate>,
}

impl From<&Asset> for KnownAsset {
    fn from(asset: &Asset) -> Self {
        Self { code: asset.code.clone(), caip: asset.caip.clone(), rate: Some(asset.rate) }
    }
}

/// The most that one call may cost. Each cap that is set must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// In the reference currency; applies to assets with a rate.
    pub per_call: Option<Micros>,
    /// In minor units of an asset (BTC: millisatoshi).
    pub per_asset: BTreeMap<AssetCode, u128>,
    /// Hashes that a call may take on average where the server takes work instead of money. Within
    /// it work is done before anything is paid; zero for none.
    pub work: u64,
}

impl Default for Caps {
    /// Ten cents, or a second or two of work.
    fn default() -> Self {
        Self { per_call: Some(Micros(100_000)), per_asset: BTreeMap::new(), work: 8_000_000 }
    }
}

/// What a payer pays with.
#[derive(Clone, Debug)]
pub struct Means {
    /// Wallets, in order of preference.
    pub wallets: Vec<Wallet>,
    /// Assets that may be spent.
    pub assets: Vec<KnownAsset>,
    /// Caps.
    pub caps: Caps,
    /// Pay on this rail only.
    pub rail: Option<Rail>,
}

impl Default for Means {
    /// No wallet; USDC on Base and on Base Sepolia; bitcoin without a rate; ten cents a call.
    fn default() -> Self {
        let asset = |code: &str, caip: &str, rate| KnownAsset {
            code: code.into(),
            caip: caip.into(),
            rate,
        };
        let dollar = Some(Rate { micros: 1, per_minor: 1 });
        let base = "eip155:8453/erc20:0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
        let sepolia = "eip155:84532/erc20:0x036CbD53842c5426634e7929541eC2318f3dCF7e";
        let bitcoin = "bip122:000000000019d6689c085ae165831e93/slip44:0";
        let assets = vec![
            asset("USDC", base, dollar),
            asset("USDC", sepolia, dollar),
            asset("BTC", bitcoin, None),
        ];
        Self { wallets: Vec::new(), assets, caps: Caps::default(), rail: None }
    }
}

/// Why nothing was paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// No wallet is configured, or none for these offers.
    NoWallet,
    /// Another rail was chosen.
    OtherRail,
    /// The offer's asset is not among the known ones.
    UnknownAsset,
    /// A cap does not hold, or none applies.
    OverCap,
    /// With it, more would be spent in an hour, or on this host, than may be.
    OverCeiling,
    /// The host is not one that may be paid.
    HostNotAllowed,
    /// The offer is of a scheme, network or transfer method that we do not pay.
    Unsupported,
    /// The offer's parts do not fit together.
    BadOffer(OfferFault),
    /// Two places of one answer ask for different things.
    Contradictory,
    /// The wallet was asked and paid nothing.
    WalletRefused,
    /// The work was not done before its challenge expired.
    WorkUnfinished,
    /// Another payment for the same tool has not ended.
    UnderWay,
}

impl fmt::Display for DeclineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWallet => f.write_str("no wallet can pay this offer"),
            Self::OtherRail => f.write_str("another rail was chosen"),
            Self::UnknownAsset => f.write_str("the asset is not one that may be spent"),
            Self::OverCap => f.write_str("the price is above the cap, or no cap is set for it"),
            Self::OverCeiling => f.write_str("too much was spent in this hour, or on this host"),
            Self::HostNotAllowed => f.write_str("the host is not one that may be paid"),
            Self::Unsupported => f.write_str("the offer is of a kind that is not paid"),
            Self::BadOffer(fault) => write!(f, "the offer is not valid: {fault}"),
            Self::Contradictory => f.write_str("the challenge contradicts itself"),
            Self::WalletRefused => f.write_str("the wallet did not pay"),
            Self::WorkUnfinished => f.write_str("the work was not done in time"),
            Self::UnderWay => f.write_str("another payment for this tool has not ended"),
        }
    }
}

/// One offer, and why it was not paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferSummary {
    /// Its rail.
    pub rail: Rail,
    /// What it asks, if that could be read; the asset is as the server wrote it when unknown.
    pub amount: Option<Amount>,
    /// The reason.
    pub reason: DeclineReason,
}

/// The offer to pay, with what pays it.
#[derive(Debug)]
pub(crate) enum Choice<'a> {
    X402(Box<X402Choice<'a>>),
    L402(Box<L402Choice<'a>>),
    Work(&'a WorkOffer, Channel),
}

#[derive(Debug)]
pub(crate) struct X402Choice<'a> {
    pub(crate) wallet: &'a EvmWallet,
    pub(crate) required: &'a PaymentRequired,
    pub(crate) offer: &'a Requirements,
    pub(crate) terms: EvmTerms,
    pub(crate) domain: Domain,
    pub(crate) window_s: u64,
    pub(crate) channel: Channel,
    pub(crate) price: Price,
}

#[derive(Debug)]
pub(crate) struct L402Choice<'a> {
    pub(crate) wallet: &'a LightningWallet,
    pub(crate) offer: &'a L402Offer,
    pub(crate) payable: Payable,
    pub(crate) channel: Channel,
    pub(crate) price: Price,
}

/// What an offer costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    pub(crate) amount: Amount,
    pub(crate) micros: Option<Micros>,
}

/// What the EIP-712 domain of the token is called, and how the transfer is made.
#[derive(Deserialize)]
struct Extra {
    name: String,
    version: String,
    #[serde(rename = "assetTransferMethod")]
    method: Option<String>,
}

impl Means {
    /// The cheapest offer that can be paid: by reference value, those without one last; of
    /// equals the first.
    pub(crate) fn choose<'a>(
        &'a self,
        challenge: &'a Challenge,
        now: UnixMs,
    ) -> Result<Choice<'a>, Vec<OfferSummary>> {
        let mut choices: Vec<Choice<'a>> = Vec::new();
        let mut declined = Vec::new();
        let x402 = challenge.x402.as_ref();
        let x402 = x402.iter().flat_map(|(required, channel)| {
            required.accepts.iter().map(move |offer| (required, offer, *channel))
        });
        for (required, offer, channel) in x402 {
            match self.x402(required, offer, channel) {
                Ok(choice) => choices.push(choice),
                Err(summary) => declined.push(summary),
            }
        }
        for (offer, channel) in &challenge.l402 {
            match self.l402(offer, *channel, now) {
                Ok(choice) => choices.push(choice),
                Err(summary) => declined.push(summary),
            }
        }
        if let Some((offer, channel)) = &challenge.work {
            match self.work(offer) {
                Ok(()) => choices.push(Choice::Work(offer, *channel)),
                Err(summary) => declined.push(summary),
            }
        }
        choices.into_iter().min_by_key(Choice::rank).ok_or(declined)
    }

    /// Whether another rail was chosen.
    fn excludes(&self, rail: Rail) -> bool {
        self.rail.is_some_and(|chosen| chosen != rail)
    }

    /// Whether an offer of work is within what may be computed.
    pub(crate) fn work(&self, offer: &WorkOffer) -> Result<(), OfferSummary> {
        let reason = if self.excludes(Rail::Pow) {
            DeclineReason::OtherRail
        } else if work::expected(offer.target) > self.caps.work {
            DeclineReason::OverCap
        } else {
            return Ok(());
        };
        Err(OfferSummary { rail: Rail::Pow, amount: Some(Offer::work().amount), reason })
    }

    fn x402<'a>(
        &'a self,
        required: &'a PaymentRequired,
        offer: &'a Requirements,
        channel: Channel,
    ) -> Result<Choice<'a>, OfferSummary> {
        let named = Amount { asset: AssetCode::from(&*offer.asset), minor: offer.amount };
        let declined =
            |reason| OfferSummary { rail: Rail::X402, amount: Some(named.clone()), reason };
        if self.excludes(Rail::X402) {
            return Err(declined(DeclineReason::OtherRail));
        }
        let terms = offer.evm().map_err(|_| declined(DeclineReason::Unsupported))?;
        let extra = offer.extra.as_deref().map(|raw| serde_json::from_str::<Extra>(raw.get()));
        let Some(Ok(extra)) = extra else { return Err(declined(DeclineReason::Unsupported)) };
        if extra.method.is_some_and(|method| method != "eip3009") {
            return Err(declined(DeclineReason::Unsupported));
        }
        let caip = format!("{}/erc20:{}", offer.network, offer.asset);
        let asset = self.assets.iter().find(|asset| asset.caip.eq_ignore_ascii_case(&caip));
        let asset = asset.ok_or_else(|| declined(DeclineReason::UnknownAsset))?;
        let wallet = self.wallets.iter().find_map(|wallet| match wallet {
            Wallet::Evm(wallet) => Some(wallet),
            Wallet::Lightning(_) => None,
        });
        let wallet = wallet.ok_or_else(|| declined(DeclineReason::NoWallet))?;
        let price = self.price(asset, offer.amount).map_err(declined)?;
        let Extra { name, version, .. } = extra;
        let domain = Domain { name, version, chain_id: terms.chain_id, token: terms.asset };
        let window_s = offer.max_timeout_seconds.min(MAX_WINDOW_S);
        let choice =
            X402Choice { wallet, required, offer, terms, domain, window_s, channel, price };
        Ok(Choice::X402(Box::new(choice)))
    }

    fn l402<'a>(
        &'a self,
        offer: &'a L402Offer,
        channel: Channel,
        now: UnixMs,
    ) -> Result<Choice<'a>, OfferSummary> {
        let bitcoin = AssetCode::from("BTC");
        let offered_msat = offer.amount_sat.and_then(|sat| sat.checked_mul(1000));
        let named =
            offered_msat.map(|msat| Amount { asset: bitcoin.clone(), minor: u128::from(msat) });
        let declined = |reason| OfferSummary { rail: Rail::L402, amount: named.clone(), reason };
        if self.excludes(Rail::L402) {
            return Err(declined(DeclineReason::OtherRail));
        }
        if offer.amount_sat.is_some() && offered_msat.is_none() {
            return Err(declined(DeclineReason::BadOffer(OfferFault::Amount)));
        }
        let payable = Payable::check(&offer.token, &offer.invoice, offered_msat, now)
            .map_err(|fault| declined(DeclineReason::BadOffer(fault)))?;
        let asset = self.bitcoin().map_err(&declined)?;
        let wallet = self.lightning();
        let wallet = wallet.ok_or_else(|| declined(DeclineReason::NoWallet))?;
        let price = self.price(asset, u128::from(payable.amount_msat)).map_err(declined)?;
        Ok(Choice::L402(Box::new(L402Choice { wallet, offer, payable, channel, price })))
    }

    /// The key that signs transfers.
    pub(crate) fn evm(&self) -> Option<&EvmWallet> {
        self.wallets.iter().find_map(|wallet| match wallet {
            Wallet::Evm(wallet) => Some(wallet),
            Wallet::Lightning(_) => None,
        })
    }

    /// The wallet that pays invoices.
    pub(crate) fn lightning(&self) -> Option<&LightningWallet> {
        self.wallets.iter().find_map(|wallet| match wallet {
            Wallet::Lightning(wallet) => Some(wallet),
            Wallet::Evm(_) => None,
        })
    }

    /// The price in bitcoin, if at least one cap applies and all that apply hold.
    pub(crate) fn bitcoin_price(&self, amount_msat: u64) -> Result<Price, DeclineReason> {
        self.price(self.bitcoin()?, u128::from(amount_msat))
    }

    fn bitcoin(&self) -> Result<&KnownAsset, DeclineReason> {
        let asset = self.assets.iter().find(|asset| &*asset.code.0 == "BTC");
        asset.ok_or(DeclineReason::UnknownAsset)
    }

    /// The price, if at least one cap applies and all that apply hold.
    fn price(&self, asset: &KnownAsset, minor: u128) -> Result<Price, DeclineReason> {
        let in_asset = self.caps.per_asset.get(&asset.code);
        let over = |cap: &u128| minor > *cap;
        let micros = match asset.rate {
            Some(rate) => Some(rate.micros_of(minor).ok_or(DeclineReason::OverCap)?),
            None => None,
        };
        let in_micros = micros.zip(self.caps.per_call);
        let none_applies = in_asset.is_none() && in_micros.is_none();
        let is_over = in_micros.is_some_and(|(micros, cap)| micros > cap);
        if none_applies || is_over || in_asset.is_some_and(over) {
            return Err(DeclineReason::OverCap);
        }
        Ok(Price { amount: Amount { asset: asset.code.clone(), minor }, micros })
    }
}

/// An amount as people write it, where its asset is known by its code or by its contract.
#[must_use]
pub fn show_amount(amount: &Amount) -> String {
    let known = Means::default().assets;
    let contract = format!("/erc20:{}", amount.asset).to_ascii_lowercase();
    let asset = known.iter().find(|known| known.caip.to_ascii_lowercase().ends_with(&contract));
    match &*asset.map_or(&amount.asset, |asset| &asset.code).0 {
        "BTC" => format!("{} sat", decimal(amount.minor, 3)),
        "USDC" => format!("{} USDC", decimal(amount.minor, 6)),
        "USD" => format!("{} USD", decimal(amount.minor, 6)),
        asset => format!("{} minor units of {asset}", amount.minor),
    }
}

impl L402Choice<'_> {
    /// It, not paid.
    pub(crate) fn declined(&self, reason: DeclineReason) -> OfferSummary {
        OfferSummary { rail: Rail::L402, amount: Some(self.price.amount.clone()), reason }
    }
}

impl Choice<'_> {
    /// What it costs; work costs nothing.
    pub(crate) const fn price(&self) -> Option<&Price> {
        match self {
            Self::X402(choice) => Some(&choice.price),
            Self::L402(choice) => Some(&choice.price),
            Self::Work(..) => None,
        }
    }

    /// It, not paid.
    pub(crate) fn declined(&self, reason: DeclineReason) -> OfferSummary {
        let rail = match self {
            Self::X402(_) => Rail::X402,
            Self::L402(_) => Rail::L402,
            Self::Work(..) => Rail::Pow,
        };
        let amount = self.price().map_or_else(|| Offer::work().amount, |p| p.amount.clone());
        OfferSummary { rail, amount: Some(amount), reason }
    }

    /// Cheapest first, work before money; what has no reference value comes last.
    fn rank(&self) -> (bool, Option<Micros>) {
        match self.price() {
            Some(price) => (price.micros.is_none(), price.micros),
            None => (false, None),
        }
    }
}
