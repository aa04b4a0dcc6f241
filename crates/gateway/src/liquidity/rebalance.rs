//! More room to receive: what it costs, what is advised, and buying it, by a person's word or by a
//! configured rule.
//!
//! INVARIANT: one rebalance at a time; each is durable, with who wants it, before anybody is asked
//! to move money, and none costs more, and all of a day move no more, than is configured; policy
//! has said yes to each.
//! INVARIANT: what may have been begun counts, and is never begun again by itself.

use crate::{
    config::{RebalanceLimits, Rule},
    gate::Gate,
    prove::{lightning::L402Rail, policy::Engine},
    rails::lightning::{Means, NodeError, Order, Paid, SwapCost},
};
use countersign_core::{
    digest::Digest,
    ids::DecisionId,
    money::Amount,
    policy::{Intent, IntentSource, ProofState, Question},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Notes of rebalances.
const REBALANCE: &str = "lightning.rebalance";
/// How long a rebalance counts, in milliseconds, and how long it is remembered.
const DAY_MS: u64 = 24 * 3_600_000;
const KEPT_MS: u64 = 90 * DAY_MS;
/// Who wants what the configured rule does.
const RULE: &str = "rule";
/// The rule does nothing for so long after a rebalance, in milliseconds: a swap takes its time.
const REST_MS: u64 = 3_600_000;
/// Nor for so long after it was refused, in milliseconds: asking what a channel costs orders it.
const RETRY_MS: u64 = 300_000;

/// How a rebalance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is being asked for, or the gateway ended before it knew.
    Begun,
    /// The loop daemon has it; it says how it ends.
    Accepted,
    /// The channel is paid for.
    Done,
    /// No money moved.
    Failed,
    /// Nobody knows whether money moved.
    Unknown,
}

impl Stage {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// A rebalance, as stored and as shown.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Rebalance {
    /// When it was asked for.
    pub at: String,
    #[serde(skip, default)]
    moment: UnixMs,
    /// How.
    pub via: Means,
    /// How much room.
    pub amount_sat: u64,
    /// The most that it may cost.
    pub max_fee_sat: u64,
    /// What it costs, but for routing.
    pub fee_sat: u64,
    /// Who wanted it: a person, or `rule`.
    pub by: String,
    /// How it stands.
    pub stage: Stage,
    /// What the other side calls it.
    pub reference: Option<String>,
}

/// What room to receive costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offer {
    /// How.
    pub via: Means,
    /// How much room.
    pub amount_sat: u64,
    /// What it costs, but for routing; for `lsps2` at most this.
    pub fee_sat: u64,
    /// What the other side calls it.
    pub reference: Option<String>,
}

/// What is advised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    /// Who advises: `rule`, or `loop`.
    pub from: String,
    /// How.
    pub via: Means,
    /// How much room.
    pub amount_sat: u64,
    /// The most that it may cost.
    pub max_fee_sat: u64,
    /// Why.
    pub because: String,
}

/// What was offered, with what it takes to have it.
enum Found {
    Swap(SwapCost),
    Channel(Order),
    JustInTime { max_fee_sat: u64 },
}

impl Found {
    const fn fee_sat(&self) -> u64 {
        match self {
            Self::Swap(cost) => cost.total_sat(),
            Self::Channel(order) => order.fee_sat,
            Self::JustInTime { max_fee_sat } => *max_fee_sat,
        }
    }
}

impl L402Rail {
    async fn find(
        &self,
        via: Means,
        amount_sat: u64,
        max_fee_sat: Option<u64>,
    ) -> Result<Found, Refusal> {
        let node = || {
            let ours = |error| unavailable(via, error);
            self.nodes.liquid().ok_or_else(|| ours(NodeError::Unsupported))
        };
        match via {
            Means::Loop => {
                let loopd = self.loopd.as_ref();
                let loopd = loopd.ok_or_else(|| unavailable(via, NodeError::Unsupported))?;
                let cost = loopd.quote(amount_sat).await;
                cost.map(Found::Swap).map_err(|error| unavailable(via, error))
            }
            Means::Lsps1 => {
                let order = node()?.order(amount_sat).await;
                order.map(Found::Channel).map_err(|error| unavailable(via, error))
            }
            Means::Lsps2 => {
                let Some(max_fee_sat) = max_fee_sat else {
                    return Err(invalid(
                        "max_fee_sat",
                        "a provider says only whether it is enough",
                    ));
                };
                let msat = |sat: u64| sat.saturating_mul(1000);
                let open = node()?.just_in_time(msat(amount_sat), msat(max_fee_sat)).await;
                open.map_err(|error| unavailable(via, error))?;
                Ok(Found::JustInTime { max_fee_sat })
            }
        }
    }
}

impl Gate {
    /// What room for so much costs.
    ///
    /// # Errors
    /// [`Code::AdminInvalid`]; [`Code::AdminConflict`] for what cannot be had, or not now.
    pub(crate) async fn room_quote(
        &self,
        via: Means,
        amount_sat: u64,
        max_fee_sat: Option<u64>,
    ) -> Result<Offer, Refusal> {
        let rail = self.rails.l402.as_ref().ok_or_else(nothing)?;
        let found = rail.find(via, some(amount_sat)?, max_fee_sat).await?;
        let reference = match &found {
            Found::Channel(order) => Some(order.id.clone()),
            Found::Swap(_) | Found::JustInTime { .. } => None,
        };
        Ok(Offer { via, amount_sat, fee_sat: found.fee_sat(), reference })
    }

    /// What the configured rule and the loop daemon advise now.
    ///
    /// # Errors
    /// [`Code::AdminConflict`] without Lightning.
    pub(crate) async fn room_advice(&self) -> Result<Vec<Advice>, Refusal> {
        let rail = self.rails.l402.as_ref().ok_or_else(nothing)?;
        let mut advice: Vec<Advice> = self.rule_advice(rail).into_iter().collect();
        if let Some(loopd) = &rail.loopd {
            // A daemon without rules of its own has no advice.
            for (amount_sat, max_fee_sat) in loopd.suggestions().await.unwrap_or_default() {
                let because = "the loop daemon's own rules".to_owned();
                let from = "loop".to_owned();
                advice.push(Advice { from, via: Means::Loop, amount_sat, max_fee_sat, because });
            }
        }
        Ok(advice)
    }

    fn rule_advice(&self, rail: &L402Rail) -> Option<Advice> {
        let limits = self.config.rails.l402.as_ref()?.rebalance.as_ref()?;
        let Rule { via, amount_sat, inbound_below_sat } = limits.rule?;
        let known = rail.nodes.sights().into_iter().filter_map(|(_, sight)| sight?.balances.ok());
        // What all nodes together can receive; of a node that gives no answer nothing is known.
        let inbound_sat =
            known.map(|balances| balances.inbound_msat / 1000).reduce(u64::saturating_add)?;
        (inbound_sat < inbound_below_sat).then(|| Advice {
            from: RULE.to_owned(),
            via,
            amount_sat,
            max_fee_sat: limits.max_fee_sat,
            because: format!("{inbound_sat} sat can be received, less than {inbound_below_sat}"),
        })
    }

    /// Does what the rule advises, unless something was done lately.
    pub(crate) async fn rebalance_by_rule(&self, rail: &L402Rail) {
        let Some(Advice { via, amount_sat, max_fee_sat, .. }) = self.rule_advice(rail) else {
            return;
        };
        let now = self.world.now();
        let latest = self.rebalances().ok().and_then(|all| all.into_iter().map(|r| r.moment).max());
        let refused = *rail.rebalancing.lock().await;
        let rests = |at: Option<UnixMs>, ms| at.is_some_and(|at| now.since_ms(at) < ms);
        if rests(latest, REST_MS) || rests(refused, RETRY_MS) {
            return;
        }
        let wanted = (via, amount_sat, Some(max_fee_sat));
        // What comes of it stands in the list.
        if self.rebalance(wanted, RULE).await.is_err() {
            *rail.rebalancing.lock().await = Some(now);
        }
    }

    /// Buys room to receive, within the configured limits.
    ///
    /// # Errors
    /// [`Code::AdminInvalid`], [`Code::AdminConflict`]: nothing was begun.
    pub(crate) async fn rebalance(
        &self,
        (via, amount_sat, max_fee_sat): (Means, u64, Option<u64>),
        by: &str,
    ) -> Result<Rebalance, Refusal> {
        let rail = self.rails.l402.as_ref().ok_or_else(nothing)?;
        let l402 = self.config.rails.l402.as_ref();
        let limits = l402.and_then(|l402| l402.rebalance.as_ref());
        let limits = limits
            .ok_or_else(|| conflict("no limits are configured: set `rails.l402.rebalance`"))?;
        if via == Means::Lsps2 {
            return Err(invalid("via", "such a channel opens by itself with a payment that comes"));
        }
        let max_fee_sat = max_fee_sat.unwrap_or(limits.max_fee_sat).min(limits.max_fee_sat);
        let _one = rail.rebalancing.lock().await;
        self.fits_day(some(amount_sat)?, limits).await?;
        let found = rail.find(via, amount_sat, None).await?;
        if found.fee_sat() > max_fee_sat {
            let reason = format!("it costs {} sat, more than {max_fee_sat}", found.fee_sat());
            return Err(Refusal::new(Code::AdminConflict).with("reason", reason));
        }
        self.agree(&self.question_of_room((via, amount_sat), found.fee_sat(), by)?).await?;
        let now = self.world.now();
        let key = format!("{}-{}", now.0, hex::encode(self.world.random::<6>()));
        let mut rebalance = Rebalance {
            at: now.rfc3339(),
            moment: now,
            via,
            amount_sat,
            max_fee_sat,
            fee_sat: found.fee_sat(),
            by: by.to_owned(),
            stage: Stage::Begun,
            reference: None,
        };
        let body = serde_json::to_string(&rebalance).map_err(|_| Code::InternalFault)?;
        let said = (&*self.config.tenant, REBALANCE, by);
        self.store.note_set((REBALANCE, &key), Some(&body), said).await?;
        (rebalance.stage, rebalance.reference) =
            buy(rail, &found, (amount_sat, max_fee_sat), &key).await;
        let body = serde_json::to_string(&rebalance).map_err(|_| Code::InternalFault)?;
        self.store.note_put(REBALANCE, &key, &body).await?;
        Ok(rebalance)
    }

    /// What policy is asked: whether who wants it may spend the fee, with the gateway as the agent.
    /// A person's word, or the rule's that a person wrote, is their confirmation.
    fn question_of_room(
        &self,
        (via, amount_sat): (Means, u64),
        fee_sat: u64,
        by: &str,
    ) -> Result<Question, Refusal> {
        let now = self.world.now();
        let what = format!("{via:?} {amount_sat}");
        let fee = Amount { asset: "BTC".into(), minor: u128::from(fee_sat) * 1000 };
        Ok(Question {
            id: DecisionId::new(now, self.world.random()),
            tenant: Arc::clone(&self.config.tenant),
            human: by.into(),
            is_human: by != RULE,
            agent: "countersign".into(),
            server: "countersign".into(),
            tool: "rebalance".into(),
            arguments: Digest::of(what.as_bytes()),
            intent: Intent::Spend,
            derived: Intent::Spend,
            source: IntentSource::Catalogue,
            is_open_world: false,
            price: self.config.assets.micros(&fee).ok_or(Code::InternalFault)?,
            price_text: self.config.assets.show(&fee),
            payment: ProofState::NotRequired,
            fulfilled: vec!["human_confirm".into()],
            now,
            ..Engine::sample_question()
        })
    }

    /// Whether so much more may be moved today. Forgets what is long over.
    async fn fits_day(&self, amount_sat: u64, limits: &RebalanceLimits) -> Result<(), Refusal> {
        let now = self.world.now();
        let mut moved_sat = amount_sat;
        for (key, rebalance) in self.kept_rebalances()? {
            let age_ms = now.since_ms(rebalance.moment);
            if age_ms >= KEPT_MS {
                self.store.note_remove(REBALANCE, &key).await?;
            } else if age_ms < DAY_MS && rebalance.stage != Stage::Failed {
                moved_sat = moved_sat.saturating_add(rebalance.amount_sat);
            }
        }
        if moved_sat > limits.max_per_day_sat {
            let reason = format!(
                "it would make {moved_sat} sat within a day, more than {}",
                limits.max_per_day_sat
            );
            return Err(Refusal::new(Code::AdminConflict).with("reason", reason));
        }
        Ok(())
    }

    /// All rebalances that are remembered, the newest first.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) fn rebalances(&self) -> Result<Vec<Rebalance>, Refusal> {
        let mut all: Vec<Rebalance> =
            self.kept_rebalances()?.into_iter().map(|(_, rebalance)| rebalance).collect();
        all.sort_by_key(|rebalance| std::cmp::Reverse(rebalance.moment));
        Ok(all)
    }

    fn kept_rebalances(&self) -> Result<Vec<(String, Rebalance)>, Refusal> {
        let notes = self.store.notes(REBALANCE)?.into_iter();
        let read = |(key, body): (String, String)| {
            let mut rebalance: Rebalance =
                serde_json::from_str(&body).map_err(|_| Code::InternalFault)?;
            // The key begins with the moment.
            let moment = key.split_once('-').and_then(|(ms, _)| ms.parse().ok());
            rebalance.moment = UnixMs(moment.ok_or(Code::InternalFault)?);
            Ok((key, rebalance))
        };
        notes.map(read).collect()
    }
}

/// Asks for what was found: how that stands, and what the other side calls it.
async fn buy(
    rail: &L402Rail,
    found: &Found,
    money: (u64, u64),
    key: &str,
) -> (Stage, Option<String>) {
    let (_, max_fee_sat) = money;
    match found {
        Found::Swap(cost) => {
            let Some(loopd) = &rail.loopd else { return (Stage::Failed, None) };
            match loopd.swap(money, cost, key).await {
                Ok(id) => (Stage::Accepted, Some(id)),
                Err(NodeError::Refused | NodeError::Unsupported) => (Stage::Failed, None),
                Err(NodeError::Unreachable | NodeError::Nonsense) => (Stage::Unknown, None),
            }
        }
        Found::Channel(order) => {
            let Some(node) = rail.nodes.liquid() else { return (Stage::Failed, None) };
            let spare_msat = max_fee_sat.saturating_sub(order.fee_sat).saturating_mul(1000);
            let stage = match node.pay(&order.invoice.bolt11, spare_msat).await {
                Ok(Paid::Done) => Stage::Done,
                Ok(Paid::Failed) | Err(NodeError::Refused | NodeError::Unsupported) => {
                    Stage::Failed
                }
                Ok(Paid::Pending) | Err(NodeError::Unreachable | NodeError::Nonsense) => {
                    Stage::Unknown
                }
            };
            (stage, Some(order.id.clone()))
        }
        Found::JustInTime { .. } => (Stage::Failed, None),
    }
}

/// An amount that is one.
fn some(amount_sat: u64) -> Result<u64, Refusal> {
    let fits = amount_sat > 0 && amount_sat <= 2_100_000_000_000_000;
    if fits { Ok(amount_sat) } else { Err(invalid("amount_sat", "no amount of satoshi")) }
}

fn invalid(member: &'static str, reason: &'static str) -> Refusal {
    Refusal::new(Code::AdminInvalid).with("member", member).with("reason", reason)
}

fn conflict(reason: &'static str) -> Refusal {
    Refusal::new(Code::AdminConflict).with("reason", reason)
}

fn nothing() -> Refusal {
    conflict("no Lightning node is configured")
}

fn unavailable(via: Means, error: NodeError) -> Refusal {
    conflict(match (via, error) {
        (Means::Loop, NodeError::Unsupported) => {
            "no loop daemon is configured: set `rails.l402.loop`"
        }
        (_, NodeError::Unsupported) => "no node buys channels: it takes `countersign-lightning`",
        (Means::Loop, NodeError::Refused) => "the loop daemon refuses, this amount maybe",
        (_, NodeError::Refused) => {
            "the provider refuses, or none is configured, or it wants more than that"
        }
        (Means::Loop, NodeError::Unreachable) => "the loop daemon cannot be reached",
        (_, NodeError::Unreachable) => "the Lightning node or its provider cannot be reached",
        (_, NodeError::Nonsense) => "what was answered makes no sense",
    })
}
