//! Budgets: what they leave, for all together or for whoever is named; and setting them.
//!
//! INVARIANT: those of the configuration stay as they are; a budget that is set has another name.

use super::{
    actor::{Actor, Need},
    ask::{Named, Sent},
    denied::Denied,
    form::{BudgetRequest, BudgetState, BudgetView, Items, Removed, parse_span, show_span},
    grants,
    page::{Listed, Order},
    schema::Money,
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State};
use countersign_core::{
    ids::GrantId,
    ledger::{Budget, BudgetScope, Calendar, Charge, Every, OnExceed, Spender, Window},
    money::Micros,
    policy::Intent,
    proof::{Delegator, Principal},
    terms::ToolRef,
    time::UnixMs,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{str::FromStr, sync::Arc};

/// The longest rolling window.
const LONGEST_MS: u64 = 366 * 86_400_000;

/// For whom. What is not named is not looked for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct For {
    /// Tenant.
    tenant: Option<Arc<str>>,
    /// A role or group of the person.
    team: Option<Arc<str>>,
    /// `iss|sub`, or `anonymous`.
    delegator: Option<Arc<str>>,
    /// Agent.
    agent: Option<Arc<str>>,
    /// Server.
    server: Option<Arc<str>>,
    /// `server/tool`.
    tool: Option<Arc<str>>,
    /// Intent, by its word.
    intent: Option<Arc<str>>,
    /// Grant, by its identifier.
    grant: Option<Arc<str>>,
    /// Session.
    session: Option<Arc<str>>,
    /// A price, to be told what would become of it.
    #[schemars(with = "Option<Money>")]
    amount: Option<String>,
}

/// Lists the budgets that concern whoever is named.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(mut whom, page): Listed<For>,
) -> Result<Json<Items<BudgetView>>, Denied> {
    actor.may(Need::See)?;
    if let Some(tenant) = actor.tenant() {
        // What other tenants spend is not theirs to see.
        if whom.tenant.as_deref().is_some_and(|asked| asked != tenant) {
            return Err(Denied::not_found("tenant"));
        }
        whom.tenant = Some(tenant.into());
    }
    let amount = whom.amount.as_deref().map(|text| grants::money(&gate, "amount", text));
    let amount = amount.transpose()?;
    let set = gate.store.budgets();
    let declared = gate.config.budgets.iter().map(|budget| (budget, false));
    let all = declared.chain(set.iter().map(|budget| (&**budget, true)));
    let items = all.filter_map(|(budget, is_set)| view(&gate, budget, is_set, &whom, amount));
    let keyed = items.map(|view| (view.name.to_string(), view));
    Ok(Json(page.cut(Order::Rising, keyed, |view| view)))
}

/// All budgets, as they concern the actor's tenant.
pub(crate) fn seen_by(gate: &Gate, actor: &Actor) -> Vec<BudgetView> {
    let whom = For { tenant: actor.tenant().map(Arc::from), ..For::default() };
    let set = gate.store.budgets();
    let declared = gate.config.budgets.iter().map(|budget| (budget, false));
    let all = declared.chain(set.iter().map(|budget| (&**budget, true)));
    all.filter_map(|(budget, is_set)| view(gate, budget, is_set, &whom, None)).collect()
}

/// How a budget was used up within its window: what was left after each of its parts.
#[derive(Debug)]
pub(crate) struct BurnDown {
    pub(crate) name: Arc<str>,
    pub(crate) window: String,
    pub(crate) limit: Micros,
    /// From the beginning of the window to now.
    pub(crate) left: Vec<(UnixMs, Micros)>,
}

/// Budgets that are drawn, and points of each.
const DRAWN_MAX: usize = 20;
const POINTS_MAX: usize = 60;

/// The burn-down of each budget that concerns the actor's tenant and that has one counter, within
/// a window that begins in time.
pub(crate) fn burn_downs(gate: &Gate, actor: &Actor) -> Vec<BurnDown> {
    let whom = For { tenant: actor.tenant().map(Arc::from), ..For::default() };
    let set = gate.store.budgets();
    let all = gate.config.budgets.iter().chain(set.iter().map(|budget| &**budget));
    all.filter_map(|budget| burn_down(gate, budget, &whom)).take(DRAWN_MAX).collect()
}

fn burn_down(gate: &Gate, budget: &Budget, whom: &For) -> Option<BurnDown> {
    let parts = budget.scope.parts();
    for (dimension, _) in parts {
        whom.value(&budget.scope, dimension)?;
    }
    let now = gate.world.now();
    let since = match &budget.window {
        Window::Rolling(length_ms) => now.minus_ms(*length_ms),
        Window::Fixed(calendar) => calendar.start(now),
        Window::PerCall | Window::Lifetime | Window::Session => return None,
    };
    let charge = whom.charge(budget).filter(|_| whom.needs(budget).is_empty())?;
    let spends = gate.store.spends(&charge, now);
    let mut left = vec![(since, charge.limit)];
    let mut rest = charge.limit.0;
    for part in spends.chunks(spends.len().div_ceil(POINTS_MAX).max(1)) {
        let sum = part.iter().fold(0u64, |sum, (_, micros)| sum.saturating_add(micros.0));
        rest = rest.saturating_sub(sum);
        left.extend(part.last().map(|(at, _)| (*at, Micros(rest))));
    }
    // What is held now counts too.
    left.push((now, gate.store.room(&charge, now)));
    let window = show_window(&budget.window);
    Some(BurnDown { name: Arc::clone(&budget.name), window, limit: charge.limit, left })
}

/// Sets one, or replaces one that was set.
pub(super) async fn set(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(request): Sent<BudgetRequest>,
) -> Result<Json<BudgetView>, Denied> {
    may_set(&actor)?;
    let budget = budget(&gate, request)?;
    let set = gate.store.budget_set(budget, &actor.approver()).await?;
    let shown = view(&gate, &set, true, &For::default(), None);
    shown.map(Json).ok_or(Denied::not_found("budget"))
}

/// Ends one that was set.
pub(super) async fn remove(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Named(Name(name)): Named<Name>,
) -> Result<Json<Removed>, Denied> {
    may_set(&actor)?;
    if gate.config.budgets.iter().any(|budget| *budget.name == *name) {
        return Err(Denied::conflict("the configuration declares this budget: remove it there"));
    }
    if !gate.store.budget_remove(&name, &actor.approver()).await? {
        return Err(Denied::not_found("budget"));
    }
    Ok(Json(Removed { removed: name }))
}

/// A budget's name.
#[derive(Debug, JsonSchema)]
pub(super) struct Name(#[schemars(regex(pattern = "^[a-z0-9-]{1,63}$"))] String);

impl FromStr for Name {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_good = (1..=63).contains(&name.len()) && name.bytes().all(good);
        is_good.then(|| Self(name.to_owned())).ok_or(())
    }
}

/// Budgets bind every tenant, so those who see only one set none.
fn may_set(actor: &Actor) -> Result<(), Denied> {
    actor.may(Need::Administer)?;
    if actor.is_local() { Ok(()) } else { Err(Denied::not_found("budget")) }
}

fn budget(gate: &Gate, request: BudgetRequest) -> Result<Budget, Denied> {
    let name = &request.name;
    if name.parse::<Name>().is_err() {
        return Err(Denied::invalid("name", "use `a` to `z`, `0` to `9` and `-`, at most 63"));
    }
    if gate.config.budgets.iter().any(|budget| *budget.name == **name) {
        return Err(Denied::conflict("the configuration declares a budget of this name"));
    }
    if let Some((dimension, expected)) = request.scope.unreadable().next() {
        let reason = format!("`{dimension}`: expected {expected}, or `*` for each by itself");
        return Err(Denied::invalid("scope", reason));
    }
    let named = |value: &Option<Arc<str>>| value.clone().filter(|value| **value != *"*");
    if named(&request.scope.server).is_some_and(|server| gate.server(&server).is_none()) {
        return Err(Denied::invalid("scope", "`server`: no such server is configured"));
    }
    let is_tool = |tool: &str| {
        let (server, tool) = tool.split_once('/')?;
        gate.server(server)?.terms(tool)
    };
    if named(&request.scope.tool).is_some_and(|tool| is_tool(&tool).is_none()) {
        return Err(Denied::invalid("scope", "`tool`: no such `server/tool` is configured"));
    }
    let limit = grants::money(gate, "limit", &request.limit)?;
    if request.warn.is_some_and(|percent| !(1..=99).contains(&percent)) {
        return Err(Denied::invalid("warn", "expected a percentage from 1 to 99"));
    }
    Ok(Budget {
        name: name.as_str().into(),
        scope: request.scope,
        limit,
        window: parse_window(&request.window)
            .ok_or_else(|| Denied::invalid("window", WINDOW_HINT))?,
        on_exceed: request.on_exceed,
        warn_percent: request.warn,
    })
}

const WINDOW_HINT: &str =
    "expected a span such as `24h`, `call`, `session`, `lifetime`, or `month@Europe/Berlin`";

/// A window as people write it.
pub(crate) fn parse_window(text: &str) -> Option<Window> {
    let calendar = |every| {
        let (_, zone) = text.split_once('@').unwrap_or((text, "UTC"));
        Some(Window::Fixed(Calendar { every, zone: zone.parse().ok()? }))
    };
    match text.split('@').next()? {
        "call" => Some(Window::PerCall),
        "session" => Some(Window::Session),
        "lifetime" => Some(Window::Lifetime),
        "day" => calendar(Every::Day),
        "week" => calendar(Every::Week),
        "month" => calendar(Every::Month),
        span => {
            let ms = parse_span(span).filter(|ms| (1000..=LONGEST_MS).contains(ms))?;
            Some(Window::Rolling(ms))
        }
    }
}

/// The same, shown.
pub(crate) fn show_window(window: &Window) -> String {
    match window {
        Window::PerCall => "call".to_owned(),
        Window::Rolling(ms) => show_span(*ms),
        Window::Fixed(Calendar { every: Every::Day, zone }) => format!("day@{zone}"),
        Window::Fixed(Calendar { every: Every::Week, zone }) => format!("week@{zone}"),
        Window::Fixed(Calendar { every: Every::Month, zone }) => format!("month@{zone}"),
        Window::Lifetime => "ever".to_owned(),
        Window::Session => "session".to_owned(),
    }
}

impl For {
    fn named(&self, dimension: &str) -> Option<&Arc<str>> {
        match dimension {
            "tenant" => self.tenant.as_ref(),
            "team" => self.team.as_ref(),
            "delegator" => self.delegator.as_ref(),
            "agent" => self.agent.as_ref(),
            "server" => self.server.as_ref(),
            "tool" => self.tool.as_ref(),
            "intent" => self.intent.as_ref(),
            _ => self.grant.as_ref(),
        }
    }

    /// The value that a budget is looked at for; `None` where it is about somebody else.
    fn value(&self, scope: &BudgetScope, dimension: &'static str) -> Option<Arc<str>> {
        let wanted = scope.parts().into_iter().find(|(name, _)| *name == dimension);
        let wanted = wanted.and_then(|(_, wanted)| wanted.clone());
        match (wanted, self.named(dimension).cloned()) {
            (Some(wanted), Some(named)) if *wanted != *"*" && wanted != named => None,
            (Some(wanted), None) if *wanted != *"*" => Some(wanted),
            (_, named) => Some(named.unwrap_or_default()),
        }
    }

    /// What must be named besides to tell what is left.
    fn needs(&self, budget: &Budget) -> Vec<String> {
        let each = |(name, wanted): &(&str, &Option<Arc<str>>)| {
            wanted.as_deref() == Some("*") && self.named(name).is_none()
        };
        let mut needs: Vec<String> =
            budget.scope.parts().into_iter().filter(each).map(|(name, _)| name.into()).collect();
        if budget.window == Window::Session && self.session.is_none() {
            needs.push("session".to_owned());
        }
        needs
    }

    /// The counter of a call by whoever is named.
    fn charge(&self, budget: &Budget) -> Option<Charge> {
        let value = |dimension| self.value(&budget.scope, dimension);
        let delegator = value("delegator")?;
        // Joined again by a `|`, whichever one it was split at.
        let delegator = delegator.split_once('|').map(|(issuer, subject)| Delegator {
            issuer: issuer.into(),
            subject: subject.into(),
            is_human: true,
        });
        let (tool, server) = (value("tool")?, value("server")?);
        let (of_tool, name) = tool.split_once('/').unwrap_or((&server, ""));
        let server = if server.is_empty() { of_tool } else { &*server };
        let grant = value("grant")?.parse::<GrantId>().ok();
        let principal = Principal {
            tenant: value("tenant")?,
            delegator,
            agent: value("agent")?,
            chain: Vec::new(),
            roles: vec![value("team")?],
        };
        let spender = Spender {
            principal: &principal,
            tool: &ToolRef { server: server.into(), tool: name.into() },
            intent: Intent::from_text(&value("intent")?).unwrap_or(Intent::Read),
            session: self.session.as_deref().unwrap_or_default(),
            grant,
        };
        budget.charges(&spender).into_iter().next()
    }
}

/// A budget as it concerns whoever is named; `None` when it is about somebody else.
fn view(
    gate: &Gate,
    budget: &Budget,
    is_set: bool,
    whom: &For,
    amount: Option<Micros>,
) -> Option<BudgetView> {
    let parts = budget.scope.parts();
    for (dimension, _) in parts {
        whom.value(&budget.scope, dimension)?;
    }
    let needs = whom.needs(budget);
    let charge = whom.charge(budget).filter(|_| needs.is_empty());
    let now = gate.world.now();
    let left = charge
        .as_ref()
        .map(|charge| (gate.store.room(charge, now), gate.store.held(charge), charge));
    let shown = |(name, wanted): (&str, &Option<Arc<str>>)| match wanted.as_deref()? {
        "*" => Some(format!("each {name}")),
        value => Some(format!("{name} {value}")),
    };
    let scope: Vec<String> = parts.into_iter().filter_map(shown).collect();
    Some(BudgetView {
        name: Arc::clone(&budget.name),
        scope: if scope.is_empty() { "all".to_owned() } else { scope.join(", ") },
        limit: budget.limit.to_string(),
        window: show_window(&budget.window),
        on_exceed: budget.on_exceed,
        warn: budget.warn_percent,
        is_set,
        remaining: left.as_ref().map(|(room, ..)| room.to_string()),
        held: left.as_ref().map(|(_, held, _)| held.to_string()),
        state: left.map(|(room, _, charge)| state(charge, room, amount.unwrap_or_default())),
        needs,
    })
}

fn state(charge: &Charge, room: Micros, amount: Micros) -> BudgetState {
    let used = Micros(charge.limit.0.saturating_sub(room.0).saturating_add(amount.0));
    match (room < amount || used.0 > charge.limit.0, charge.on_exceed) {
        (true, OnExceed::Deny) => BudgetState::Refuses,
        (true, OnExceed::Confirm) => BudgetState::AsksAPerson,
        (false, _) if room.0 == 0 => BudgetState::UsedUp,
        (false, _) if charge.warns_at(used) => BudgetState::Warns,
        (false, _) => BudgetState::Fits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            on_exceed: OnExceed::Deny,
            warn_percent: Some(80),
        }
    }

    #[test]
    fn the_counter_is_that_of_a_call_by_whoever_is_named() {
        let whom = For { delegator: Some("https://i|auth0|ada".into()), ..For::default() };
        let charge = whom.charge(&budget(Some("*"), None)).unwrap();
        assert_eq!(charge.key, "budget:b\u{1f}delegator=https://i|auth0|ada");
        let charge = whom.charge(&budget(None, Some("weather/get_forecast"))).unwrap();
        assert_eq!(charge.key, "budget:b\u{1f}tool=weather/get_forecast");
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_foreign_is_left_out() {
        let each = budget(Some("*"), Some("*"));
        assert_eq!(For::default().needs(&each), ["delegator", "tool"]);
        let whom = For { tool: Some("a/b".into()), ..For::default() };
        assert!(whom.value(&budget(None, Some("a/c")).scope, "tool").is_none());
    }

    #[test]
    fn windows_read_as_they_are_shown() {
        for text in ["24h", "call", "session", "day@Europe/Berlin", "week@UTC", "month@Asia/Tokyo"]
        {
            assert_eq!(show_window(&parse_window(text).unwrap()), text);
        }
        for text in ["", "year@UTC", "day@Nowhere", "0s", "999d", "-1h"] {
            assert_eq!(parse_window(text), None, "{text}");
        }
    }

    #[test]
    fn what_would_become_of_a_price_is_said() {
        let charge = Charge {
            warn_percent: Some(80),
            ..Charge::hard("k".into(), Micros(100), Window::PerCall)
        };
        let fits = |room, amount| state(&charge, Micros(room), Micros(amount));
        assert_eq!(fits(100, 10), BudgetState::Fits);
        assert_eq!(fits(30, 10), BudgetState::Warns);
        assert_eq!(fits(30, 31), BudgetState::Refuses);
        assert_eq!(fits(0, 0), BudgetState::UsedUp);
    }
}
