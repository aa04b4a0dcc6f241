//! OpenID AuthZEN Authorization API 1.0, as a server: what policy says, for other enforcement
//! points of the operator.
//!
//! A subject of type `agent` and a resource of type `tool` are the gateway's own: everything about
//! them is what the gateway knows ([`crate::prove::supposed`]). All other types are those of the
//! bundle in force ([`crate::prove::policy::Access`]).
//!
//! INVARIANT: an answer has no effect and is no permit: a real call is decided anew.
//! INVARIANT: what cannot be decided is a no. Only a request that is none is an error, and then 400
//! (section 10.1.2 of the specification), never a decision.

mod form;
mod own;
mod search;

pub(super) use form::{
    ActionSearch, Batch, Evaluated, Evaluation, Found, ResourceSearch, SubjectSearch,
};
pub(crate) use form::{Decided, Metadata};
pub(super) use search::{actions, resources, subjects};

use super::{
    actor::{Actor, Need},
    denied::Denied,
    object,
};
use crate::{
    gate::Gate,
    prove::policy::{Access, Thing},
};
use axum::{
    Extension, Json,
    extract::{FromRequest, Request, State},
    middleware::Next,
    response::Response,
};
use countersign_core::{
    refusal::{Code, Refusal},
    wire::json::Limits,
};
use form::{Entity, Semantic, Why};
use http::{HeaderName, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The largest request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// Evaluations of one request.
const EVALUATIONS_MAX: usize = 256;
/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest name of a request, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// A request of AuthZEN. Members that are not known are passed over, as the specification wants.
#[derive(Debug)]
pub(super) struct Posed<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Posed<T> {
    type Rejection = Denied;

    async fn from_request(request: Request, state: &S) -> Result<Self, Denied> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if kind != Some("application/json") {
            return Err(invalid("the content type is not `application/json`"));
        }
        let limits = Limits { max_bytes: BODY_BYTES_MAX, ..Limits::REQUEST };
        let bytes = super::ask::body(request, state, &limits).await?;
        read(&bytes).map(Self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Denied> {
    object::read(bytes).map_err(|error| invalid(error.to_string()))
}

fn invalid(reason: impl Into<String>) -> Denied {
    Refusal::new(Code::AuthzenInvalid).with("reason", reason.into()).into()
}

/// Gives an answer the name that its request has, so that one finds the other.
pub(crate) async fn echo(request: Request, next: Next) -> Response {
    let named = request.headers().get(&REQUEST_ID).cloned();
    let named = named.filter(|id| id.len() <= REQUEST_ID_BYTES_MAX);
    let mut response = next.run(request).await;
    if let Some(id) = named {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Decides one (section 6).
pub(super) async fn evaluation(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Posed(asked): Posed<Evaluation>,
) -> Result<Json<Decided>, Denied> {
    actor.may(Need::See)?;
    Ok(Json(decide(&gate, &actor, &asked).await))
}

/// Decides several (section 7); one alone where there is no list of them.
pub(super) async fn evaluations(
    State(gate): State<Arc<Gate>>,
    Extension(actor): Extension<Actor>,
    Posed(batch): Posed<Batch>,
) -> Result<Json<Evaluated>, Denied> {
    actor.may(Need::See)?;
    if batch.evaluations.len() > EVALUATIONS_MAX {
        return Err(invalid("at most 256 evaluations in one request"));
    }
    if batch.evaluations.is_empty() {
        let alone = batch.complete(Map::new()).map_err(invalid)?;
        return Ok(Json(Evaluated::One(Box::new(decide(&gate, &actor, &alone).await))));
    }
    let semantic = batch.semantic();
    let mut decided = Vec::with_capacity(batch.evaluations.len());
    for item in batch.evaluations.clone() {
        let one = match batch.complete(item) {
            Ok(asked) => decide(&gate, &actor, &asked).await,
            Err(reason) => {
                Decided::no(&gate, Why::of_code("REQUEST_INCOMPLETE").with("reason", reason))
            }
        };
        let is_last = match semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !one.decision,
            Semantic::PermitOnFirstPermit => one.decision,
        };
        decided.push(one);
        if is_last {
            break;
        }
    }
    Ok(Json(Evaluated::All { evaluations: decided }))
}

/// Decides one.
async fn decide(gate: &Gate, actor: &Actor, asked: &Evaluation) -> Decided {
    if own::is_own(asked) {
        return own::decide(gate, actor, asked).await;
    }
    let engine = gate.policy.engine();
    let answered = engine.decide_access(&Access {
        subject: thing(&asked.subject),
        action: asked.action.name.clone(),
        action_properties: asked.action.properties.clone().unwrap_or_default(),
        resource: thing(&asked.resource),
        context: asked.context.clone().unwrap_or_default(),
        now: gate.world.now(),
    });
    let why = Why::of_reasons(engine.tables(), &answered.reasons);
    if answered.is_allowed { Decided::yes(gate, why) } else { Decided::no(gate, why) }
}

fn thing(entity: &Entity) -> Thing {
    Thing {
        kind: entity.kind.clone(),
        id: entity.id.clone(),
        properties: entity.properties.clone().unwrap_or_default(),
    }
}

/// Where everything is (section 9), by the console's address: without it there is no way here over
/// the network.
pub(crate) async fn metadata(State(gate): State<Arc<Gate>>) -> Result<Json<Metadata>, Denied> {
    metadata_of(&gate).map(Json)
}

/// As [`metadata`].
pub(crate) fn metadata_of(gate: &Gate) -> Result<Metadata, Denied> {
    let console = gate.config.console.as_ref().ok_or(Denied::not_found("console"))?;
    let base = format!("{}/api", console.public_url);
    let at = |path: &str| format!("{base}/access/v1/{path}");
    Ok(Metadata {
        access_evaluation_endpoint: at("evaluation"),
        access_evaluations_endpoint: at("evaluations"),
        search_subject_endpoint: at("search/subject"),
        search_resource_endpoint: at("search/resource"),
        search_action_endpoint: at("search/action"),
        policy_decision_point: base,
    })
}

/// A string member of an object.
fn text<'a>(of: Option<&'a Map<String, Value>>, name: &str) -> Option<&'a str> {
    of?.get(name)?.as_str()
}
