//! Budgets: whose spending they limit, over which window.

use super::{name, span};
use crate::config::{
    finding::nearest,
    raw::{
        RawBudget, RawCalendar, RawDefault, RawDefaultWord, RawEvery, RawOnExceed, RawScope,
        RawServer, RawWindow, RawWindowWord,
    },
    report::{At, Report},
    scalar::Span,
    tree::printable,
};
use countersign_core::ledger::{Budget, BudgetScope, Calendar, Every, OnExceed, Window};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) fn budgets(
    raw: &[RawBudget],
    servers: &BTreeMap<String, RawServer>,
    report: &mut Report,
) -> Vec<Budget> {
    let mut names = BTreeSet::new();
    let mut budgets = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let at = At::top().key("budgets").index(index);
        if !names.insert(raw.name.as_str()) {
            let message = format!("a budget named `{}` exists", printable(&raw.name));
            report.problem(&at.key("name"), message, "choose another name");
        }
        if raw.limit.0.0 == 0 {
            let hint = "raise it, or remove the tools' prices";
            report.problem(&at.key("limit"), "a budget of zero refuses everything", hint);
        }
        let window = window(&raw.window, &at.key("window"), report);
        if raw.warn.is_some_and(|percent| !(1..=99).contains(&percent)) {
            let hint = "write a percentage from 1 to 99";
            report.problem(&at.key("warn"), "no percentage below the limit", hint);
        }
        let on_exceed = match raw.on_exceed {
            RawOnExceed::Deny => OnExceed::Deny,
            RawOnExceed::Confirm => OnExceed::Confirm,
        };
        let scope = budget_scope(&raw.scope, &at.key("scope"), servers, report);
        if let Some(name) = name(&raw.name, &at.key("name"), report) {
            let (limit, warn_percent) = (raw.limit.0, raw.warn);
            budgets.push(Budget { name, scope, limit, window, on_exceed, warn_percent });
        }
    }
    budgets
}

fn window(raw: &RawWindow, at: &At, report: &mut Report) -> Window {
    match raw {
        RawWindow::Word(RawWindowWord::Call) => Window::PerCall,
        RawWindow::Word(RawWindowWord::Session) => Window::Session,
        RawWindow::Word(RawWindowWord::Lifetime) => Window::Lifetime,
        RawWindow::Rolling(written) => {
            let bounds = [Span::seconds(1), Span::seconds(366 * 86_400)];
            Window::Rolling(span(Some(*written), *written, bounds, at, report))
        }
        RawWindow::Calendar(RawCalendar { every, zone }) => {
            let every = match every {
                RawEvery::Day => Every::Day,
                RawEvery::Week => Every::Week,
                RawEvery::Month => Every::Month,
            };
            match zone.as_deref().unwrap_or("UTC").parse() {
                Ok(zone) => Window::Fixed(Calendar { every, zone }),
                Err(()) => {
                    let hint = "write a name of the IANA database, such as `Europe/Berlin`";
                    report.problem(&at.key("zone"), "unknown time zone", hint);
                    Window::Lifetime
                }
            }
        }
    }
}

fn budget_scope(
    raw: &RawScope,
    at: &At,
    servers: &BTreeMap<String, RawServer>,
    report: &mut Report,
) -> BudgetScope {
    let named = |value: &Option<String>| value.as_deref().map(Arc::from);
    let scope = BudgetScope {
        tenant: named(&raw.tenant),
        team: named(&raw.team),
        delegator: named(&raw.delegator),
        agent: named(&raw.agent),
        server: named(&raw.server),
        tool: named(&raw.tool),
        intent: named(&raw.intent),
        grant: named(&raw.grant),
    };
    for (dimension, expected) in scope.unreadable() {
        let message = format!("expected {expected}");
        report.problem(&at.key(dimension), message, "write one, or `*` for each by itself");
    }
    if scope.server.as_deref().is_some_and(|name| name != "*" && !servers.contains_key(name)) {
        let hint = "write the name of a configured server, or `*` for each by itself";
        report.problem(&at.key("server"), "no such server is configured", hint);
    }
    if let Some(tool) = scope.tool.as_deref().filter(|tool| *tool != "*") {
        let all: Vec<String> = servers
            .iter()
            .flat_map(|(name, server)| server.tools.keys().map(move |t| format!("{name}/{t}")))
            .collect();
        // Where tools that are not listed are offered too, any name may be one.
        let server = tool.split_once('/').and_then(|(server, _)| servers.get(server));
        let is_open = server.is_some_and(|server| {
            !matches!(server.default, None | Some(RawDefault::Word(RawDefaultWord::Refuse)))
        });
        if !is_open && !all.iter().any(|known| known == tool) {
            let message = format!("no tool `{}` is configured", printable(tool));
            let near = nearest(tool, all.iter().map(String::as_str));
            let hint = near.map_or_else(
                || "write `server/tool`, or `*` for each tool by itself".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            report.problem(&at.key("tool"), message, hint);
        }
    }
    scope
}
