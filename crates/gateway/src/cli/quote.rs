//! `quote`: what a call would cost, asked without paying.
//!
//! A gateway says it without making the call. INVARIANT: a server that cannot is sent the call only
//! when it lists a price for the tool, or the caller said so: a free one would run.

use super::{
    call::{Target, as_json, refusal_lines},
    out::{Out, table},
    stop::Stop,
};
use countersign_client::{
    Client, Outcome, Quoted as Told, Tool, ToolCall, exit, family_exit_code, show_amount,
};
use countersign_core::{money::Amount, quote::Rail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

/// `_meta` member in which a tool's price is listed.
const PRICE_META: &str = "countersign/price";

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(super) struct Quote {
    #[command(flatten)]
    target: Target,
    /// Of a server that says its prices only to calls, ask even if no price is listed: a tool that
    /// wants no money then runs.
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
        let mut options = self.target.options()?;
        // Work would be done, and the call would run.
        options.means.caps.work = 0;
        let client = Client::connect(&self.target.url, options).await?;
        let tools = client.list_tools().await?;
        let tool = tools.iter().find(|tool| tool.name == self.target.tool).ok_or_else(|| {
            let known: Vec<&str> = tools.iter().map(|tool| &*tool.name).collect();
            Stop::new(exit::REQUEST, format_args!("the server lists no tool `{}`", call.name))
                .next(format!("it lists: {}", known.join(", ")))
        })?;
        match client.quote(&call).await? {
            Some(told) => show(call.name, listed(tool), &told, out),
            None => self.by_calling(&client, call, listed(tool), out).await,
        }
    }

    /// Asks by the call itself.
    async fn by_calling(
        &self,
        client: &Client,
        call: ToolCall,
        listed: Option<Value>,
        out: Out,
    ) -> Result<(), Stop> {
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

/// Shows what a gateway says of a call.
fn show(tool: String, listed: Option<Value>, told: &Told, out: Out) -> Result<(), Stop> {
    let text = |amount: &Option<Amount>| amount.as_ref().map(show_amount);
    let (asked, shown) = match told {
        Told::NothingDue => {
            (json!({ "outcome": "nothing_due" }), "nothing is to be paid for it".to_owned())
        }
        Told::Asked(offers) => {
            let each = offers
                .iter()
                .map(|offer| json!({ "rail": offer.rail.text(), "amount": text(&offer.amount) }));
            let asked = json!({ "outcome": "asked", "offers": each.collect::<Vec<_>>() });
            let rows = offers.iter().map(|offer| (offer.rail, text(&offer.amount)));
            (asked, priced(rows))
        }
        Told::Refused(problem) => {
            let raw = problem.raw.as_deref().map(RawValue::get);
            let raw: Value = raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default();
            (
                json!({ "outcome": "refused", "problem": raw }),
                refusal_lines(problem, problem.charged).join("\n"),
            )
        }
    };
    out.show(&Quoted { tool, listed, asked: Some(asked) }, |_| shown)?;
    match told {
        Told::NothingDue | Told::Asked(_) => Ok(()),
        Told::Refused(problem) => Err(Stop::silent(family_exit_code(problem.family))),
    }
}

/// Offers as a table.
fn priced(offers: impl Iterator<Item = (Rail, Option<String>)>) -> String {
    let row = |(rail, amount): (Rail, Option<String>)| {
        let unpriced = if rail == Rail::Pow { "work" } else { "?" };
        vec![rail.text().to_owned(), amount.unwrap_or_else(|| unpriced.to_owned())]
    };
    table(&["rail", "price"], &offers.map(row).collect::<Vec<_>>())
}

fn listed(tool: &Tool) -> Option<Value> {
    let mut listed: Listed = serde_json::from_str(tool.raw.get()).ok()?;
    listed.meta.remove(PRICE_META)
}

fn as_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Declined(declined) if !declined.offers.is_empty() => {
            let offers = declined.offers.iter();
            priced(offers.map(|offer| (offer.rail, offer.amount.as_ref().map(show_amount))))
        }
        Outcome::Declined(_) => "payment is asked for in a form that is not understood".to_owned(),
        Outcome::Ok(_) => "free: the tool ran".to_owned(),
        Outcome::Refused(refused) => format!("refused: {}", refused.problem),
        Outcome::InputNeeded(_) => "the server asks for more before it says a price".to_owned(),
        Outcome::Unknown(_) | Outcome::Failed(_) => "the server failed".to_owned(),
    }
}
