//! What budgets leave: for all together, or for whoever is named.

use super::{
    ask::Asked,
    form::{BudgetView, Items, show_span},
};
use crate::gate::Gate;
use axum::{Json, extract::State};
use countersign_core::{
    ledger::{Budget, Window},
    proof::{Delegator, Principal},
    terms::ToolRef,
};
use serde::Deserialize;
use std::sync::Arc;

/// For whom. What is not named is not looked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct For {
    tenant: Option<Arc<str>>,
    /// `iss|sub`, or `anonymous`.
    delegator: Option<Arc<str>>,
    agent: Option<Arc<str>>,
    /// `server/tool`.
    tool: Option<Arc<str>>,
}

/// Lists the budgets that concern whoever is named.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Asked(whom): Asked<For>,
) -> Json<Items<BudgetView>> {
    let now = gate.world.now();
    let remaining = |found: &Found| {
        let charge = found.budget.charge(&found.principal, &found.tool)?;
        gate.store.remaining(&[charge], None, now)
    };
    let found = gate.config.budgets.iter().filter_map(|budget| Found::of(budget, &whom));
    let items = found.map(|found| {
        let left = found.needs.is_empty().then(|| remaining(&found)).flatten();
        found.view(left.map(|left| left.to_string()))
    });
    Json(Items { items: items.collect() })
}

/// A budget, and whom it is looked at for.
struct Found<'a> {
    budget: &'a Budget,
    principal: Principal,
    tool: ToolRef,
    needs: Vec<&'static str>,
}

impl<'a> Found<'a> {
    /// `None` when the budget is about somebody else.
    fn of(budget: &'a Budget, whom: &For) -> Option<Self> {
        let scope = &budget.scope;
        let mut needs = Vec::new();
        let mut pick = |name, wanted: &Option<Arc<str>>, named: &Option<Arc<str>>| match (
            wanted.as_deref(),
            named,
        ) {
            (Some("*"), None) => {
                needs.push(name);
                Some(Arc::from(""))
            }
            (Some("*") | None, named) => Some(named.clone().unwrap_or_default()),
            (Some(wanted), Some(named)) if *wanted != **named => None,
            (Some(wanted), _) => Some(Arc::from(wanted)),
        };
        let tenant = pick("tenant", &scope.tenant, &whom.tenant)?;
        let delegator = pick("delegator", &scope.delegator, &whom.delegator)?;
        let agent = pick("agent", &scope.agent, &whom.agent)?;
        let tool = pick("tool", &scope.tool, &whom.tool)?;
        // Joined again by a `|`, whichever one it was split at.
        let delegator = delegator.split_once('|').map(|(issuer, subject)| Delegator {
            issuer: issuer.into(),
            subject: subject.into(),
            is_human: true,
        });
        let (server, tool) = tool.split_once('/').unwrap_or((&tool, ""));
        let tool = ToolRef { server: server.into(), tool: tool.into() };
        let principal =
            Principal { tenant, delegator, agent, chain: Vec::new(), roles: Vec::new() };
        Some(Self { budget, principal, tool, needs })
    }

    fn view(&self, remaining: Option<String>) -> BudgetView {
        let scope = &self.budget.scope;
        let parts = [
            ("tenant", &scope.tenant),
            ("delegator", &scope.delegator),
            ("agent", &scope.agent),
            ("tool", &scope.tool),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter_map(|(name, value)| match value.as_deref()? {
                "*" => Some(format!("each {name}")),
                value => Some(format!("{name} {value}")),
            })
            .collect();
        BudgetView {
            name: Arc::clone(&self.budget.name),
            scope: if parts.is_empty() { "all".to_owned() } else { parts.join(", ") },
            limit: self.budget.limit.to_string(),
            window: match self.budget.window {
                Window::Rolling(ms) => show_span(ms),
                Window::Lifetime => "ever".to_owned(),
            },
            remaining,
            needs: self.needs.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::{ledger::BudgetScope, money::Micros};

    fn budget(delegator: Option<&str>, tool: Option<&str>) -> Budget {
        Budget {
            name: "b".into(),
            scope: BudgetScope {
                delegator: delegator.map(Arc::from),
                tool: tool.map(Arc::from),
                ..BudgetScope::default()
            },
            limit: Micros(1_000_000),
            window: Window::Rolling(86_400_000),
        }
    }

    #[test]
    fn the_counter_is_that_of_a_call_by_whoever_is_named() {
        let whom = For { delegator: Some("https://i|auth0|ada".into()), ..For::default() };
        let each = budget(Some("*"), None);
        let found = Found::of(&each, &whom).unwrap();
        let charge = each.charge(&found.principal, &found.tool).unwrap();
        assert_eq!(charge.key, "budget:b\u{1f}https://i|auth0|ada");
        let one = budget(None, Some("weather/get_forecast"));
        let found = Found::of(&one, &whom).unwrap();
        let charge = one.charge(&found.principal, &found.tool).unwrap();
        assert_eq!(charge.key, "budget:b\u{1f}weather/get_forecast");
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_foreign_is_left_out() {
        let each = budget(Some("*"), Some("*"));
        let found = Found::of(&each, &For::default()).unwrap();
        assert_eq!(found.view(None).needs, ["delegator", "tool"]);
        assert_eq!(found.view(None).scope, "each delegator, each tool");
        let whom = For { tool: Some("a/b".into()), ..For::default() };
        assert!(Found::of(&budget(None, Some("a/c")), &whom).is_none());
    }
}
