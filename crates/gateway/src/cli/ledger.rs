//! `ledger`, `calls`, `credential`: money and calls as the running gateway keeps them.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::{
    admin::form::{
        BalanceView, BudgetView, CallFull, CallLine, DoubtView, DueView, Items, PaidBack,
        Resolution, Revoked, Rule, Standing,
    },
    fetch::form_encode,
};
use countersign_core::{digest::Digest, ids::CallId};
use serde_json::json;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Ledger {
    /// Every account's balance.
    Balance,
    /// What budgets leave.
    Budgets(Budgets),
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
    /// Money that is owed back.
    Refunds,
    /// Record that you paid a call's money back.
    Refunded {
        /// The call.
        call: CallId,
        /// The payment's reference on its rail.
        #[arg(long)]
        reference: String,
    },
}

/// For whom.
#[derive(Debug, clap::Args)]
pub(super) struct Budgets {
    /// Tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Person: `issuer|subject`.
    #[arg(long)]
    delegator: Option<String>,
    /// Agent.
    #[arg(long)]
    agent: Option<String>,
    /// Tool: `server/tool`.
    #[arg(long)]
    tool: Option<String>,
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

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Credential {
    /// End a credential; what is unused of it stays owed.
    Revoke {
        /// SHA-256 of its identifier, in hex.
        #[arg(value_parser = digest)]
        id: Digest,
    },
}

fn rule(text: &str) -> Result<Rule, &'static str> {
    match text {
        "refund" => Ok(Rule::Refund),
        "capture" => Ok(Rule::Capture),
        _ => Err("expected `refund` or `capture`"),
    }
}

fn digest(text: &str) -> Result<Digest, &'static str> {
    Digest::from_hex(text).map_err(|_| "expected 64 hex digits")
}

impl Ledger {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Balance => {
                let found: Items<BalanceView> = link.get("/v1/ledger/balances").await?;
                out.show(&found, |found| balances(&found.items))
            }
            Self::Budgets(whom) => {
                let found: Items<BudgetView> = link.get(&whom.path()).await?;
                out.show(&found, |found| budgets(&found.items))
            }
            Self::InDoubt => {
                let found: Items<DoubtView> = link.get("/v1/ledger/in-doubt").await?;
                out.show(&found, |found| doubts(&found.items))
            }
            Self::Resolve { call, rule } => {
                let path = format!("/v1/ledger/in-doubt/{call}");
                stands(out, &link.post(&path, &Resolution { rule }).await?)
            }
            Self::Refunds => {
                let found: Items<DueView> = link.get("/v1/ledger/refunds").await?;
                out.show(&found, |found| dues(&found.items))
            }
            Self::Refunded { call, reference } => {
                let path = format!("/v1/ledger/refunds/{call}");
                stands(out, &link.post(&path, &PaidBack { reference }).await?)
            }
        }
    }
}

impl Calls {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List { limit, before } => {
                let before = before.map(|call| format!("&before={call}")).unwrap_or_default();
                let path = format!("/v1/calls?limit={limit}{before}");
                let found: Items<CallLine> = link.get(&path).await?;
                out.show(&found, |found| calls(&found.items))
            }
            Self::Show { id } => {
                let found: CallFull = link.get(&format!("/v1/calls/{id}")).await?;
                out.show(&found, call)
            }
        }
    }
}

impl Credential {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        let Self::Revoke { id } = self;
        let path = format!("/v1/credentials/{id}/revoke");
        let revoked: Revoked = link.post(&path, &json!({})).await?;
        out.show(&revoked, |revoked| format!("{} is revoked", revoked.credential))
    }
}

impl Budgets {
    fn path(&self) -> String {
        let named = [
            ("tenant", &self.tenant),
            ("delegator", &self.delegator),
            ("agent", &self.agent),
            ("tool", &self.tool),
        ];
        let pairs: Vec<(&str, &str)> =
            named.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
        format!("/v1/budgets?{}", form_encode(&pairs))
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

fn budgets(items: &[BudgetView]) -> String {
    let row = |item: &BudgetView| {
        let left = match (&item.remaining, item.needs.is_empty()) {
            (Some(left), _) => left.clone(),
            (None, true) => item.limit.clone(),
            (None, false) => format!("give --{}", item.needs.join(" and --")),
        };
        vec![
            item.name.to_string(),
            item.scope.clone(),
            item.limit.clone(),
            item.window.clone(),
            left,
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["budget", "counts", "limit", "within", "left"], &rows)
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

fn dues(items: &[DueView]) -> String {
    let row = |item: &DueView| {
        vec![
            item.call.to_string(),
            item.amount.clone().unwrap_or_default(),
            item.rail.map(|rail| rail.text().to_owned()).unwrap_or_default(),
            item.payer.clone().unwrap_or_default(),
            item.settlement.clone().unwrap_or_default(),
            item.tenant.to_string(),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["call", "owed", "rail", "to", "taken by", "tenant"], &rows)
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

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn budgets_say_what_is_left_or_what_to_name() {
        let each = BudgetView {
            name: "each-person".into(),
            scope: "each delegator".into(),
            limit: "10 USD".into(),
            window: "24h".into(),
            remaining: None,
            needs: vec!["delegator".into()],
        };
        let all = BudgetView {
            name: "all".into(),
            scope: "all".into(),
            remaining: Some("9.5 USD".into()),
            needs: Vec::new(),
            ..each.clone()
        };
        expect![[r#"
            BUDGET       COUNTS          LIMIT   WITHIN  LEFT
            each-person  each delegator  10 USD  24h     give --delegator
            all          all             10 USD  24h     9.5 USD"#]]
        .assert_eq(&budgets(&[each, all]));
    }
}
