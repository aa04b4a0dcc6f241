//! `lightning`: how nodes stand, what room to receive costs, and buying it.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::{
    admin::form::{Items, LightningView, NodeStatus, RoomAsked},
    liquidity::rebalance::{Advice, Offer, Rebalance, Stage},
    rails::lightning::Means,
};
use countersign_client::exit;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Lightning {
    /// Balances of the nodes, how payments go, and the rebalances of the last months.
    Show,
    /// Ask what room to receive costs, without buying it.
    Quote(Room),
    /// What the configured rule and the loop daemon advise now.
    Suggest,
    /// Buy room to receive, within the configured limits.
    Rebalance(Room),
}

/// Room to receive.
#[derive(Debug, clap::Args)]
pub(super) struct Room {
    /// How: `loop` (a swap), `lsps1` (a channel that is bought) or `lsps2` (one that opens with a
    /// payment).
    #[arg(long, value_parser = means)]
    via: Means,
    /// How much, in satoshi.
    #[arg(long, value_name = "SAT")]
    amount_sat: u64,
    /// The most that it may cost. Without it what is configured.
    #[arg(long, value_name = "SAT")]
    max_fee_sat: Option<u64>,
}

fn means(text: &str) -> Result<Means, String> {
    Means::from_text(text).ok_or_else(|| "write loop, lsps1 or lsps2".to_owned())
}

impl From<Room> for RoomAsked {
    fn from(Room { via, amount_sat, max_fee_sat }: Room) -> Self {
        Self { via, amount_sat, max_fee_sat }
    }
}

impl Lightning {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Show => {
                let view: LightningView = link.get("/v1/lightning").await?;
                out.show(&view, shown)
            }
            Self::Quote(room) => {
                let asked = RoomAsked::from(room);
                let offer: Offer = link.post("/v1/lightning/quote", &asked).await?;
                out.show(&offer, offered)
            }
            Self::Suggest => {
                let advice: Items<Advice> = link.get("/v1/lightning/suggest").await?;
                out.show(&advice, advised)
            }
            Self::Rebalance(room) => {
                let asked = RoomAsked::from(room);
                let done: Rebalance = link.post("/v1/lightning/rebalances", &asked).await?;
                out.show(&done, |done| rebalanced(std::slice::from_ref(done)))?;
                match done.stage {
                    Stage::Accepted | Stage::Done => Ok(()),
                    Stage::Failed => Err(Stop::silent(exit::TOOL_ERROR)),
                    Stage::Begun | Stage::Unknown => Err(Stop::silent(exit::UNKNOWN_SETTLEMENT)),
                }
            }
        }
    }
}

fn sat(msat: Option<u64>) -> String {
    msat.map_or_else(String::new, |msat| (msat / 1000).to_string())
}

fn shown(view: &LightningView) -> String {
    let row = |node: &NodeStatus| {
        let paid = match node.success_percent {
            Some(percent) => format!("{percent} %"),
            None => String::new(),
        };
        let ms = |ms: Option<u64>| ms.map_or_else(String::new, |ms| format!("{ms} ms"));
        let state = match &node.problem {
            Some(problem) => problem.clone(),
            None => node.alerts.join(", "),
        };
        vec![
            node.name.clone(),
            sat(node.inbound_msat),
            sat(node.outbound_msat),
            node.invoices_ready.to_string(),
            paid,
            ms(node.p50_ms),
            ms(node.p99_ms),
            state,
        ]
    };
    let heads = ["node", "receives sat", "sends sat", "ready", "paid", "p50", "p99", "state"];
    let nodes = table(&heads, &view.nodes.iter().map(row).collect::<Vec<_>>());
    if view.rebalances.is_empty() {
        return nodes;
    }
    format!("{nodes}\n\n{}", rebalanced(&view.rebalances))
}

fn rebalanced(all: &[Rebalance]) -> String {
    let row = |one: &Rebalance| {
        vec![
            one.at.clone(),
            one.via.text().to_owned(),
            one.amount_sat.to_string(),
            one.fee_sat.to_string(),
            one.stage.text().to_owned(),
            one.by.clone(),
            one.reference.clone().unwrap_or_default(),
        ]
    };
    let heads = ["at", "via", "sat", "fee sat", "stage", "by", "reference"];
    table(&heads, &all.iter().map(row).collect::<Vec<_>>())
}

fn offered(offer: &Offer) -> String {
    let fee = match offer.via {
        Means::Lsps2 => format!("at most {} sat", offer.fee_sat),
        Means::Loop => format!("{} sat, routing not counted", offer.fee_sat),
        Means::Lsps1 => format!("{} sat", offer.fee_sat),
    };
    facts(&[
        ("via", Some(offer.via.text().to_owned())),
        ("room", Some(format!("{} sat", offer.amount_sat))),
        ("costs", Some(fee)),
        ("reference", offer.reference.clone()),
    ])
}

fn advised(advice: &Items<Advice>) -> String {
    let row = |one: &Advice| {
        vec![
            one.from.clone(),
            one.via.text().to_owned(),
            one.amount_sat.to_string(),
            one.max_fee_sat.to_string(),
            one.because.clone(),
        ]
    };
    let heads = ["advised by", "via", "sat", "fee at most", "because"];
    table(&heads, &advice.items.iter().map(row).collect::<Vec<_>>())
}
