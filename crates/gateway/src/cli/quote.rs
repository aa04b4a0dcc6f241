//! `quote`: what a call would cost, asked without paying.
//!
//! INVARIANT: a tool is asked only when the server lists a price for it, or the caller said so: a
//! free one would run.

use super::{
    call::{Target, as_json},
    out::{Out, table},
    stop::Stop,
};
use countersign_client::{Client, Outcome, Tool, exit, show_amount};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `_meta` member in which a tool's price is listed.
const PRICE_META: &str = "countersign/price";

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Quote {
    #[command(flatten)]
    target: Target,
    /// Ask even if no price is listed: a tool that wants no money then runs.
    #[arg(long)]
    run_if_free: bool,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default, rename = "_meta")]
    meta: serde_json::Map<String, Value>,
}

/// What a call would cost.
#[derive(Serialize)]
struct Quoted {
    tool: String,
    /// What the server lists, where it does.
    listed: Option<Value>,
    /// What it answered when it was asked.
    asked: Option<Value>,
}

impl Quote {
    /// Asks, and shows the offers.
    pub(super) async fn run(self, out: Out) -> Result<(), Stop> {
        let call = self.target.call()?;
        let client = Client::connect(&self.target.url, self.target.options()?).await?;
        let tools = client.list_tools().await?;
        let tool = tools.iter().find(|tool| tool.name == self.target.tool).ok_or_else(|| {
            let known: Vec<&str> = tools.iter().map(|tool| &*tool.name).collect();
            Stop::new(exit::REQUEST, format_args!("the server lists no tool `{}`", call.name))
                .next(format!("it lists: {}", known.join(", ")))
        })?;
        let listed = listed(tool);
        if listed.is_none() && !self.run_if_free {
            let quoted = Quoted { tool: call.name, listed: None, asked: None };
            return out.show(&quoted, |quoted| {
                format!(
                    "no price is listed for {}: it is free, or the server lists none. It was not \
                     asked, since a free tool would run; --run-if-free asks it.",
                    quoted.tool
                )
            });
        }
        let outcome = client.call_tool(&call).await?;
        let asked = as_json(&outcome);
        out.show(&Quoted { tool: call.name, listed, asked: Some(asked) }, |_| as_text(&outcome))?;
        match outcome {
            Outcome::Ok(_) | Outcome::Declined(_) => Ok(()),
            Outcome::InputNeeded(_)
            | Outcome::Refused(_)
            | Outcome::Unknown(_)
            | Outcome::Failed(_) => Err(Stop::silent(outcome.exit_code())),
        }
    }
}

fn listed(tool: &Tool) -> Option<Value> {
    let mut listed: Listed = serde_json::from_str(tool.raw.get()).ok()?;
    listed.meta.remove(PRICE_META)
}

fn as_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Declined(declined) if !declined.offers.is_empty() => {
            let row = |offer: &countersign_client::OfferSummary| {
                let amount = offer.amount.as_ref().map(show_amount);
                vec![offer.rail.text().to_owned(), amount.unwrap_or_else(|| "?".to_owned())]
            };
            table(&["rail", "price"], &declined.offers.iter().map(row).collect::<Vec<_>>())
        }
        Outcome::Declined(_) => "payment is asked for in a form that is not understood".to_owned(),
        Outcome::Ok(_) => "free: the tool ran".to_owned(),
        Outcome::Refused(refused) => format!("refused: {}", refused.problem),
        Outcome::InputNeeded(_) => "the server asks for more before it says a price".to_owned(),
        Outcome::Unknown(_) | Outcome::Failed(_) => "the server failed".to_owned(),
    }
}
