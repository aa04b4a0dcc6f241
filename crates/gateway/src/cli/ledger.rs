//! `ledger`, `calls`: money and calls as the running gateway keeps them.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::admin::form::{
    BalanceView, CallFull, CallLine, Claimed, DoubtView, DueView, FoundOut, Items, OpenView,
    PaidBack, Resolution, Rule, Standing, UnclaimedView,
};
use countersign_core::ids::CallId;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ledger {
    /// Every account's balance.
    Balance,
    /// Calls that started and of which nobody knows the outcome.
    InDoubt,
    /// End a doubt, once you know what the tool did.
    Resolve {
        /// The call.
        call: CallId,
        /// `refund`: what was taken is owed back. `capture`: it is kept.
        #[arg(value_parser = rule)]
        rule: Rule,
    },
    /// Payments of which nobody knows whether they moved.
    Unsettled,
    /// End one, once you found out.
    Settle {
        /// The call.
        call: CallId,
        /// The transaction that moved the money.
        #[arg(long, required_unless_present = "unpaid", conflicts_with = "unpaid")]
        reference: Option<String>,
        /// None did, and none can any more.
        #[arg(long)]
        unpaid: bool,
    },
    /// Money of calls that is owed back.
    Refunds,
    /// Record that you paid a call's money back.
    Refunded {
        /// The call.
        call: CallId,
        /// The payment's reference on its rail.
        #[arg(long)]
        reference: String,
    },
    /// Money that ended credentials left for whoever holds them.
    Unclaimed,
    /// Record that you paid the holder.
    Claimed {
        /// Which, as `ledger unclaimed` names it.
        refund: String,
        /// The payment's reference on its rail.
        #[arg(long)]
        reference: String,
    },
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Calls {
    /// The latest calls, the newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Those before this one.
        #[arg(long)]
        before: Option<CallId>,
    },
    /// One call with its records.
    Show {
        /// The call.
        id: CallId,
    },
}

fn rule(text: &str) -> Result<Rule, &'static str> {
    match text {
        "refund" => Ok(Rule::Refund),
        "capture" => Ok(Rule::Capture),
        _ => Err("expected `refund` or `capture`"),
    }
}

impl Ledger {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Balance => {
                let found: Items<BalanceView> = link.list("/v1/ledger/balances", None).await?;
                out.show(&found, |found| balances(&found.items))
            }
            Self::InDoubt => {
                let found: Items<DoubtView> = link.list("/v1/ledger/in-doubt", None).await?;
                out.show(&found, |found| doubts(&found.items))
            }
            Self::Resolve { call, rule } => {
                let path = format!("/v1/ledger/in-doubt/{call}");
                stands(out, &link.post(&path, &Resolution { rule }).await?)
            }
            Self::Unsettled => {
                let found: Items<OpenView> = link.list("/v1/ledger/unsettled", None).await?;
                out.show(&found, |found| unsettled(&found.items))
            }
            Self::Settle { call, reference, unpaid: _ } => {
                let path = format!("/v1/ledger/unsettled/{call}");
                stands(out, &link.post(&path, &FoundOut { reference }).await?)
            }
            Self::Refunds => {
                let found: Items<DueView> = link.list("/v1/ledger/refunds", None).await?;
                out.show(&found, |found| dues(&found.items))
            }
            Self::Refunded { call, reference } => {
                let path = format!("/v1/ledger/refunds/{call}");
                stands(out, &link.post(&path, &PaidBack { reference }).await?)
            }
            Self::Unclaimed => {
                let found: Items<UnclaimedView> = link.list("/v1/ledger/unclaimed", None).await?;
                out.show(&found, |found| unclaimed(&found.items))
            }
            Self::Claimed { refund, reference } => {
                let path = format!("/v1/ledger/unclaimed/{refund}");
                let booked: Claimed = link.post(&path, &PaidBack { reference }).await?;
                out.show(&booked, |booked| format!("{} is booked as paid", booked.refund))
            }
        }
    }
}

impl Calls {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List { limit, before } => {
                let before = before.map(|call| format!("?before={call}")).unwrap_or_default();
                let path = format!("/v1/calls{before}");
                let found: Items<CallLine> = link.list(&path, Some(limit)).await?;
                out.show(&found, |found| calls(&found.items))
            }
            Self::Show { id } => {
                let found: CallFull = link.get(&format!("/v1/calls/{id}")).await?;
                out.show(&found, call)
            }
        }
    }
}

fn stands(out: Out, standing: &Standing) -> Result<(), Stop> {
    out.show(standing, |standing| format!("{} is {}", standing.call, standing.state.text()))
}

fn balances(items: &[BalanceView]) -> String {
    let row = |item: &BalanceView| {
        vec![
            item.tenant.to_string(),
            item.account.clone(),
            item.posted.clone(),
            item.pending_in.clone(),
            item.pending_out.clone(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["tenant", "account", "posted", "pending in", "pending out"], &rows)
}

fn doubts(items: &[DoubtView]) -> String {
    let row = |item: &DoubtView| {
        let taken = if item.is_settled { "taken" } else { "held" };
        let amount = item.amount.as_ref().map(|amount| format!("{amount} {taken}"));
        let rule = match item.rule {
            Rule::Refund => "refund",
            Rule::Capture => "capture",
        };
        vec![
            item.call.to_string(),
            item.tool.clone(),
            amount.unwrap_or_else(|| "free".to_owned()),
            rule.to_owned(),
            item.tenant.to_string(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["call", "tool", "money", "terms say", "tenant"], &rows)
}

fn unsettled(items: &[OpenView]) -> String {
    let row = |item: &OpenView| {
        vec![
            item.call.to_string(),
            item.state.text().to_owned(),
            item.amount.clone().unwrap_or_default(),
            item.payer.clone().unwrap_or_default(),
            item.nonce.clone().unwrap_or_default(),
            item.usable_until.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["call", "state", "amount", "payer", "nonce", "usable until"], &rows)
}

fn dues(items: &[DueView]) -> String {
    let row = |item: &DueView| {
        vec![
            item.call.to_string(),
            item.amount.clone().unwrap_or_default(),
            item.rail.map(|rail| rail.text().to_owned()).unwrap_or_default(),
            item.payer.clone().unwrap_or_default(),
            item.settlement.clone().unwrap_or_default(),
            item.by.text().to_owned(),
            item.tenant.to_string(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["call", "owed", "rail", "to", "taken by", "paid back by", "tenant"], &rows)
}

fn unclaimed(items: &[UnclaimedView]) -> String {
    let row = |item: &UnclaimedView| {
        vec![
            item.refund.clone(),
            item.amount.clone(),
            item.since.clone(),
            item.offered_by.clone().unwrap_or_default(),
            item.credential.clone(),
            item.tenant.to_string(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["refund", "owed", "since", "offered by", "credential", "tenant"], &rows)
}

fn calls(items: &[CallLine]) -> String {
    let row = |item: &CallLine| {
        vec![
            item.call.to_string(),
            item.opened_at.clone(),
            item.state.text().to_owned(),
            item.tool.clone(),
            item.agent.to_string(),
            item.price.clone().unwrap_or_default(),
            item.code.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["call", "at", "state", "tool", "agent", "price", "code"], &rows)
}

fn call(found: &CallFull) -> String {
    let line = &found.call;
    let mut text = facts(&[
        ("call", Some(line.call.to_string())),
        ("state", Some(line.state.text().to_owned())),
        ("tool", Some(line.tool.clone())),
        ("tenant", Some(line.tenant.to_string())),
        ("agent", Some(line.agent.to_string())),
        ("for", line.delegator.clone()),
        ("price", line.price.clone()),
        ("counted", Some(line.counted.clone())),
        ("rail", line.rail.map(|rail| rail.text().to_owned())),
        ("settlement", line.settlement.clone()),
        ("grant", line.grant.map(|grant| grant.to_string())),
        ("code", line.code.clone()),
        ("digest", Some(line.call_digest.clone())),
        ("opened", Some(line.opened_at.clone())),
        ("changed", Some(line.changed_at.clone())),
    ]);
    for record in &found.log {
        text.push('\n');
        text.push_str(&super::audit::line(record));
    }
    text
}
