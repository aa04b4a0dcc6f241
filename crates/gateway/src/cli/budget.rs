//! `budget`: limits on spending, what they leave, and setting them.

use super::{
    link::Link,
    out::{Out, table},
    stop::Stop,
};
use crate::{
    admin::form::{BudgetRequest, BudgetState, BudgetView, Items},
    fetch::form_encode,
};
use countersign_core::ledger::{BudgetScope, OnExceed};
use serde_json::json;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Budget {
    /// What budgets leave, for all together or for whoever is named.
    Show(Whom),
    /// What each budget says of a price, for whoever is named.
    Explain {
        /// The price: `0.05 USD`.
        amount: String,
        #[command(flatten)]
        whom: Whom,
    },
    /// Set a budget, or replace one that was set; it holds from the next call.
    Set(Box<Set>),
    /// End a budget that was set.
    Remove {
        /// Its name.
        name: String,
    },
}

/// For whom.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Whom {
    /// Tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Team: a role or group of the person.
    #[arg(long)]
    team: Option<String>,
    /// Person: `issuer|subject`.
    #[arg(long)]
    delegator: Option<String>,
    /// Agent.
    #[arg(long)]
    agent: Option<String>,
    /// Server.
    #[arg(long)]
    server: Option<String>,
    /// Tool: `server/tool`.
    #[arg(long)]
    tool: Option<String>,
    /// Intent.
    #[arg(long)]
    intent: Option<String>,
    /// Grant.
    #[arg(long)]
    grant: Option<String>,
    /// Session.
    #[arg(long)]
    session: Option<String>,
}

/// A budget. `*` counts each value by itself; what is not named is counted together.
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Its name.
    name: String,
    /// The most within the window: `10 USD`.
    #[arg(long, value_name = "MONEY")]
    limit: String,
    /// `24h`, `call`, `session`, `lifetime`, or `day`, `week`, `month` with a zone:
    /// `month@Europe/Berlin`.
    #[arg(long)]
    window: String,
    /// Beyond it a person must confirm each call; without this it is refused.
    #[arg(long)]
    confirm: bool,
    /// Percent of the limit at which it is noted in the log.
    #[arg(long, value_name = "PERCENT")]
    warn: Option<u8>,
    #[command(flatten)]
    scope: Whom,
}

impl Budget {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Show(whom) => {
                let found: Items<BudgetView> = link.list(&whom.path(None), None).await?;
                out.show(&found, |found| lines(&found.items))
            }
            Self::Explain { amount, whom } => {
                let found: Items<BudgetView> = link.list(&whom.path(Some(&amount)), None).await?;
                out.show(&found, |found| sentences(&amount, &found.items))
            }
            Self::Set(set) => {
                let done: BudgetView = link.post("/v1/budgets", &set.request()).await?;
                out.show(&done, |done| lines(std::slice::from_ref(done)))
            }
            Self::Remove { name } => {
                let path = format!("/v1/budgets/{name}/remove");
                let done: serde_json::Value = link.post(&path, &json!({})).await?;
                out.show(&done, |_| format!("{name} is removed"))
            }
        }
    }
}

impl Whom {
    fn path(&self, amount: Option<&str>) -> String {
        let named = [
            ("tenant", self.tenant.as_deref()),
            ("team", self.team.as_deref()),
            ("delegator", self.delegator.as_deref()),
            ("agent", self.agent.as_deref()),
            ("server", self.server.as_deref()),
            ("tool", self.tool.as_deref()),
            ("intent", self.intent.as_deref()),
            ("grant", self.grant.as_deref()),
            ("session", self.session.as_deref()),
            ("amount", amount),
        ];
        let pairs: Vec<(&str, &str)> =
            named.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        format!("/v1/budgets?{}", form_encode(&pairs))
    }
}

impl Set {
    fn request(self) -> BudgetRequest {
        let Whom { tenant, team, delegator, agent, server, tool, intent, grant, .. } = self.scope;
        let scope = BudgetScope {
            tenant: tenant.map(Into::into),
            team: team.map(Into::into),
            delegator: delegator.map(Into::into),
            agent: agent.map(Into::into),
            server: server.map(Into::into),
            tool: tool.map(Into::into),
            intent: intent.map(Into::into),
            grant: grant.map(Into::into),
        };
        BudgetRequest {
            name: self.name,
            scope,
            limit: self.limit,
            window: self.window,
            on_exceed: if self.confirm { OnExceed::Confirm } else { OnExceed::Deny },
            warn: self.warn,
        }
    }
}

fn left(item: &BudgetView) -> String {
    match (&item.remaining, item.needs.is_empty()) {
        (Some(left), _) => left.clone(),
        (None, true) => item.limit.clone(),
        (None, false) => format!("give --{}", item.needs.join(" and --")),
    }
}

fn lines(items: &[BudgetView]) -> String {
    let row = |item: &BudgetView| {
        let limit = item.limit.clone();
        vec![item.name.to_string(), item.scope.clone(), limit, item.window.clone(), left(item)]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    table(&["budget", "counts", "limit", "within", "left"], &rows)
}

fn sentences(amount: &str, items: &[BudgetView]) -> String {
    let sentence = |item: &BudgetView| {
        let says = match item.state {
            Some(BudgetState::Fits) => "fits",
            Some(BudgetState::Warns) => "fits, and is noted",
            Some(BudgetState::UsedUp) => "nothing is left",
            Some(BudgetState::AsksAPerson) => "a person would have to confirm it",
            Some(BudgetState::Refuses) => "would be refused",
            None => "cannot be told",
        };
        vec![item.name.to_string(), says.to_owned(), left(item), item.window.clone()]
    };
    if items.is_empty() {
        return format!("no budget concerns {amount}");
    }
    let rows: Vec<_> = items.iter().map(sentence).collect();
    table(&["budget", amount, "left", "within"], &rows)
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
            on_exceed: OnExceed::Deny,
            warn: None,
            is_set: false,
            held: None,
            state: None,
            remaining: None,
            needs: vec!["delegator".into()],
        };
        let all = BudgetView {
            name: "all".into(),
            scope: "all".into(),
            remaining: Some("9.5 USD".into()),
            state: Some(BudgetState::Refuses),
            needs: Vec::new(),
            ..each.clone()
        };
        expect![[r#"
            BUDGET       COUNTS          LIMIT   WITHIN  LEFT
            each-person  each delegator  10 USD  24h     give --delegator
            all          all             10 USD  24h     9.5 USD"#]]
        .assert_eq(&lines(&[each.clone(), all.clone()]));
        expect![[r#"
            BUDGET       10 USD            LEFT              WITHIN
            each-person  cannot be told    give --delegator  24h
            all          would be refused  9.5 USD           24h"#]]
        .assert_eq(&sentences("10 USD", &[each, all]));
    }
}
