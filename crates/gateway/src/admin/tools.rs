//! What tools say of themselves: where each definition stands, what changed, and a person's word.

use super::{
    actor::{Actor, Need},
    ask::Sent,
    denied::Denied,
    form::{Items, ToolName, ToolView},
    page::{Listed, Order},
};
use crate::{
    gate::Gate,
    prove::definitions::{Definition, diff},
};
use axum::{Extension, Json, extract::State};
use countersign_core::terms::ToolRef;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// Which tools.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// `server/tool`; all when absent.
    tool: Option<String>,
    /// Only those that wait for a person.
    #[serde(default)]
    waiting: bool,
}

/// Lists definitions, with what changed.
pub(super) async fn list(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Listed(filter, page): Listed<Filter>,
) -> Result<Json<Items<ToolView>>, Denied> {
    actor.may(Need::See)?;
    let all = gate.definitions.list().into_iter().map(|(tool, known)| view(&tool, &known));
    let items = all.filter(|view| {
        filter.tool.as_ref().is_none_or(|tool| *tool == view.tool)
            && (!filter.waiting || view.status != "approved")
    });
    let keyed = items.map(|view| (view.tool.clone(), view));
    Ok(Json(page.cut(Order::Rising, keyed, |view| view)))
}

/// Approves what was seen of a tool last. For those who run the deployment: its tools are
/// everybody's.
pub(super) async fn approve(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Sent(ToolName { tool, digest }): Sent<ToolName>,
) -> Result<Json<ToolView>, Denied> {
    actor.may_here()?;
    let Some((server, name)) = tool.split_once('/') else {
        return Err(Denied::invalid("tool", "write `server/tool`"));
    };
    let tool = ToolRef { server: server.into(), tool: name.into() };
    let all = gate.definitions.list();
    let found = all.iter().find(|(known, _)| *known == tool);
    let (_, known) = found.ok_or_else(|| Denied::not_found("tool"))?;
    // What is approved is what was looked at.
    let last = known.changed.as_ref().unwrap_or(&known.pinned).digest.to_hex();
    if digest.is_some_and(|digest| digest != last) {
        return Err(Denied::conflict("the definition has changed again: look at it first"));
    }
    let known = gate.approve_tool(&tool, &actor.text()).await?;
    Ok(Json(view(&tool, &known)))
}

fn view(tool: &ToolRef, known: &Definition) -> ToolView {
    let status = match (&known.changed, &known.approved_by) {
        (Some(_), _) => "changed",
        (None, Some(_)) => "approved",
        (None, None) => "seen",
    };
    let last = known.changed.as_ref().unwrap_or(&known.pinned);
    let difference = known.changed.as_ref().map(|new| diff(&known.pinned, new));
    ToolView {
        tool: tool.to_string(),
        status: status.to_owned(),
        digest: last.digest.to_hex(),
        approved_by: known.approved_by.clone(),
        seen_at: last.at.rfc3339(),
        diff: difference.unwrap_or_default(),
    }
}
