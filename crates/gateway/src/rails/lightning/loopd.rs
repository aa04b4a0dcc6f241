//! Loop (`loopd`), over its REST API: swaps of money in channels for money on the chain, which make
//! room for what is to be received.
//!
//! INVARIANT: the limits of a swap add up to what it may cost, not more.

use super::{
    NodeError,
    grpc::{Gateway, Number},
    read,
};
use crate::{config::Secret, fetch::Fetch};
use http::Method;
use serde::Deserialize;
use serde_json::json;

/// Blocks within which a swap is to be swept: the daemon's own default.
const SWEEP_BLOCKS: u32 = 9;

/// The daemon.
#[derive(Clone, Debug)]
pub struct Loopd(Gateway);

/// What a swap costs, but for routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapCost {
    /// The server's fee.
    pub swap_fee_sat: u64,
    /// The part of it that is paid first.
    pub prepay_sat: u64,
    /// The chain's fee, as it is estimated.
    pub miner_fee_sat: u64,
}

impl SwapCost {
    /// All of it.
    #[must_use]
    pub const fn total_sat(&self) -> u64 {
        self.swap_fee_sat.saturating_add(self.miner_fee_sat)
    }
}

impl Loopd {
    /// The daemon at `url`, by a macaroon in hex.
    #[must_use]
    pub fn new(fetch: Fetch, url: &str, macaroon: Secret) -> Self {
        Self(Gateway::new(fetch, url, macaroon))
    }

    /// What swapping so much costs.
    ///
    /// # Errors
    /// No usable answer, or more or less than the server swaps.
    pub async fn quote(&self, amount_sat: u64) -> Result<SwapCost, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            swap_fee_sat: Number,
            #[serde(default)]
            prepay_amt_sat: Number,
            #[serde(default)]
            htlc_sweep_fee_sat: Number,
        }
        let path = format!("/v1/loop/out/quote/{amount_sat}?conf_target={SWEEP_BLOCKS}");
        let told: Told = read(&self.0.ask(Method::GET, &path, None).await?)?;
        Ok(SwapCost {
            swap_fee_sat: told.swap_fee_sat.0,
            prepay_sat: told.prepay_amt_sat.0,
            miner_fee_sat: told.htlc_sweep_fee_sat.0,
        })
    }

    /// Begins a swap to the node's own wallet, under a label of ours; its identifier.
    ///
    /// # Errors
    /// [`NodeError::Refused`]: it was not begun. Any other: it may have been.
    pub async fn swap(
        &self,
        (amount_sat, max_fee_sat): (u64, u64),
        cost: &SwapCost,
        label: &str,
    ) -> Result<String, NodeError> {
        #[derive(Deserialize)]
        struct Begun {
            id: String,
        }
        let Some(spare_sat) = max_fee_sat.checked_sub(cost.total_sat()) else {
            return Err(NodeError::Refused);
        };
        let (miner, prepay) = (spare_sat / 2, spare_sat / 10);
        let routing = spare_sat.saturating_sub(miner).saturating_sub(prepay);
        let text = |sat: u64| sat.to_string();
        let body = json!({
            "amt": text(amount_sat),
            "max_swap_fee": text(cost.swap_fee_sat),
            "max_prepay_amt": text(cost.prepay_sat),
            "max_miner_fee": text(cost.miner_fee_sat.saturating_add(miner)),
            "max_swap_routing_fee": text(routing),
            "max_prepay_routing_fee": text(prepay),
            "sweep_conf_target": SWEEP_BLOCKS,
            "label": label,
            "initiator": "countersign",
        });
        let reply = self.0.ask(Method::POST, "/v1/loop/out", Some(body)).await?;
        Ok(read::<Begun>(&reply)?.id)
    }

    /// What the daemon itself would swap, by the rules that it was given: amount and the most that
    /// each may cost, in satoshi.
    ///
    /// # Errors
    /// No usable answer. A daemon without rules refuses.
    pub async fn suggestions(&self) -> Result<Vec<(u64, u64)>, NodeError> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default)]
            loop_out: Vec<Swap>,
        }
        #[derive(Deserialize)]
        struct Swap {
            #[serde(default)]
            amt: Number,
            #[serde(default)]
            max_swap_fee: Number,
            #[serde(default)]
            max_miner_fee: Number,
            #[serde(default)]
            max_swap_routing_fee: Number,
            #[serde(default)]
            max_prepay_routing_fee: Number,
        }
        let told: Told = read(&self.0.ask(Method::GET, "/v1/auto/suggest", None).await?)?;
        let cost = |swap: &Swap| {
            [swap.max_miner_fee.0, swap.max_swap_routing_fee.0, swap.max_prepay_routing_fee.0]
                .into_iter()
                .fold(swap.max_swap_fee.0, u64::saturating_add)
        };
        Ok(told.loop_out.iter().map(|swap| (swap.amt.0, cost(swap))).collect())
    }
}
