//! Searches (section 8): who may, with what, and what. Each candidate is decided as a question of
//! its own, so that what is found is what an evaluation would say.
//!
//! Candidates are what the gateway knows: agents by their grants, tools by the configuration,
//! things of the bundle's own by the bundle.

use super::{
    super::{
        actor::{Actor, Need},
        denied::Denied,
        page::Page,
    },
    Posed, decide,
    form::{
        ActionSearch, Deed, Entity, Evaluation, Found, Next, Part, ResourceSearch, SubjectSearch,
    },
    invalid,
    own::{AGENT, TOOL},
};
use crate::gate::Gate;
use axum::{Extension, Json, extract::State};
use countersign_core::policy::Intent;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Candidates that one request decides.
const DECIDED_MAX: usize = 500;
/// The same where an external service is asked about each.
const ASKED_MAX: usize = 50;
/// Candidates after which others get their turn.
const TURN: usize = 8;

/// A question by each candidate's key, with the result that a yes to it makes.
type Candidates = BTreeMap<String, (Evaluation, Value)>;

/// Who may do this with that.
pub(in crate::admin) async fn subjects(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Posed(asked): Posed<SubjectSearch>,
) -> Result<Json<Found>, Denied> {
    actor.may(Need::See)?;
    let kind = &asked.subject.kind;
    let is_own = kind == AGENT && asked.resource.kind == TOOL;
    let mut all: Vec<(String, Map<String, Value>)> = Vec::new();
    if is_own {
        let grants = gate.store.grants();
        let seen = grants.iter().filter(|grant| actor.sees(&grant.terms.tenant));
        all.extend(seen.map(|grant| {
            let terms = &grant.terms;
            let acting_for = json!(format!("{}|{}", terms.issuer, terms.subject));
            let said = [("acting_for".to_owned(), acting_for), ("human".to_owned(), json!(true))];
            (format!("{}/{}", terms.tenant, terms.agent), said.into_iter().collect())
        }));
    } else {
        all.extend(gate.policy.engine().things(kind).map(|id| (id.to_owned(), Map::new())));
    }
    let candidate = |(id, own): (String, Map<String, Value>)| {
        let mut properties = asked.subject.properties.clone().unwrap_or_default();
        properties.extend(own.clone());
        let subject = Entity { kind: kind.clone(), id: id.clone(), properties: Some(properties) };
        let question = Evaluation {
            subject,
            action: asked.action.clone(),
            resource: asked.resource.clone(),
            context: asked.context.clone(),
        };
        let result = match own.is_empty() {
            true => json!({ "type": kind, "id": id }),
            false => json!({ "type": kind, "id": id, "properties": own }),
        };
        (
            format!(
                "{id}\u{1f}{}",
                own.get("acting_for").map(Value::to_string).unwrap_or_default()
            ),
            (question, result),
        )
    };
    let all = all.into_iter().map(candidate).collect();
    find(&gate, &actor, all, (&asked, asked.page.as_ref())).await
}

/// With what somebody may do this.
pub(in crate::admin) async fn resources(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Posed(asked): Posed<ResourceSearch>,
) -> Result<Json<Found>, Denied> {
    actor.may(Need::See)?;
    let kind = &asked.resource.kind;
    let names: Vec<String> = if kind == TOOL && asked.subject.kind == AGENT {
        let servers = gate.config.servers.iter();
        let tools = servers.flat_map(|(name, server)| {
            server.tools.keys().map(move |tool| format!("{name}/{tool}"))
        });
        tools.collect()
    } else {
        gate.policy.engine().things(kind).map(str::to_owned).collect()
    };
    let candidate = |id: String| {
        let properties = asked.resource.properties.clone();
        let question = Evaluation {
            subject: asked.subject.clone(),
            action: asked.action.clone(),
            resource: Entity { kind: kind.clone(), id: id.clone(), properties },
            context: asked.context.clone(),
        };
        let result = json!({ "type": kind, "id": id });
        (id, (question, result))
    };
    let all = names.into_iter().map(candidate).collect();
    find(&gate, &actor, all, (&asked, asked.page.as_ref())).await
}

/// What somebody may do with this.
pub(in crate::admin) async fn actions(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Posed(asked): Posed<ActionSearch>,
) -> Result<Json<Found>, Denied> {
    actor.may(Need::See)?;
    let (subject, resource) = (&asked.subject.kind, &asked.resource.kind);
    let names: Vec<String> = if subject == AGENT && resource == TOOL {
        Intent::ALL.iter().map(|intent| intent.text().to_owned()).collect()
    } else {
        let engine = gate.policy.engine();
        engine.actions_between(subject, resource).map(str::to_owned).collect()
    };
    let candidate = |name: String| {
        let question = Evaluation {
            subject: asked.subject.clone(),
            action: Deed { name: name.clone(), properties: None },
            resource: asked.resource.clone(),
            context: asked.context.clone(),
        };
        let result = json!({ "name": name });
        (name, (question, result))
    };
    let all = names.into_iter().map(candidate).collect();
    find(&gate, &actor, all, (&asked, asked.page.as_ref())).await
}

/// The part of the candidates that was asked for, as far as they may. The rest of the request is
/// the name of what is found, so that a token goes on with nothing else.
async fn find<T: Serialize>(
    gate: &Gate,
    actor: &Actor,
    all: Candidates,
    (asked, part): (&T, Option<&Part>),
) -> Result<Json<Found>, Denied> {
    let part = part.cloned().unwrap_or_default();
    let name = serde_json::to_string(asked).unwrap_or_default();
    let token = part.token.filter(|token| !token.is_empty());
    let limit = part.limit.filter(|limit| *limit > 0);
    let limit = limit.map(|limit| limit.min(super::super::page::LIMIT_MAX));
    let page = Page::of(&name, limit, token)
        .map_err(|_| invalid("`page.token` is not one that this search gave"))?;
    let most = usize::try_from(page.limit()).unwrap_or(usize::MAX);
    let decided_max = if gate.pdp.is_some() { ASKED_MAX } else { DECIDED_MAX };
    let mut results = Vec::new();
    let mut last = None;
    let due = all.iter().filter(|(key, _)| page.after().is_none_or(|after| key.as_str() > after));
    let mut left = due.clone().count();
    for (number, (key, (question, result))) in due.enumerate() {
        if results.len() >= most || number >= decided_max {
            break;
        }
        if number % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        if decide(gate, actor, question).await.decision {
            results.extend(result.as_object().cloned());
        }
        last = Some(key);
        left = left.saturating_sub(1);
    }
    let next = last.filter(|_| left > 0).map(|key| page.cursor(key));
    let page = Next { next_token: next.unwrap_or_default(), count: results.len() };
    Ok(Json(Found { page, results }))
}
