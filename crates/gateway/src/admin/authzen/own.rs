//! The gateway's own subjects and resources: agents that call tools.

use super::{
    super::actor::Actor,
    form::{Decided, Evaluation, Why},
    text,
};
use crate::{gate::Gate, prove::supposed::Supposed};
use countersign_core::{
    policy::{Answer, Intent},
    proof::{Delegator, Principal, SignIn},
    refusal::Code,
    terms::ToolRef,
    wire::json,
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The type of agents.
pub(super) const AGENT: &str = "agent";
/// The type of tools.
pub(super) const TOOL: &str = "tool";
/// The action of whatever a tool does.
const CALL: &str = "call";
/// Nobody in particular, as the gateway itself names them to others.
const ANONYMOUS: &str = "anonymous";
/// The longest chain of delegation that is supposed.
const DEPTH_MAX: u64 = 64;

/// Whether a question is about an agent and a tool.
pub(super) fn is_own(asked: &Evaluation) -> bool {
    asked.subject.kind == AGENT && asked.resource.kind == TOOL
}

/// What would become of the call.
pub(super) async fn decide(gate: &Gate, actor: &Actor, asked: &Evaluation) -> Decided {
    let supposed = match supposed(gate, asked) {
        Ok(supposed) if actor.sees(&supposed.principal.tenant) => supposed,
        Ok(_) => return Decided::no(gate, Why::of_code("SUBJECT_UNKNOWN")),
        Err(code) => return Decided::no(gate, Why::of_code(code)),
    };
    let outlook = match gate.suppose(&supposed).await {
        Ok(outlook) => outlook,
        Err(refusal) => {
            let why = Why::of_refusal(gate, &refusal).requested(gate, &supposed);
            return Decided::no(gate, why);
        }
    };
    let engine = gate.policy.engine();
    let decision = &outlook.decision;
    let is_allowed = outlook.is_allowed();
    let why = Why::of_reasons(engine.tables(), &decision.reasons).priced(outlook.price);
    match &decision.answer {
        Answer::Allow(duties) if is_allowed => Decided::yes(gate, why.wanting(duties)),
        Answer::Allow(_) => {
            let over = outlook.over.join(", ");
            let why = why.asking(gate, Code::ApprovalPending).with("over_budgets", over);
            Decided::no(gate, why.requested(gate, &supposed))
        }
        Answer::Challenge(duties) => {
            let why = why.wanting(duties).asking(gate, Code::ApprovalPending);
            Decided::no(gate, why.requested(gate, &supposed))
        }
        Answer::Deny(_) => Decided::no(gate, why),
    }
}

/// The call that is asked about; the code of what is not known or not usable.
fn supposed(gate: &Gate, asked: &Evaluation) -> Result<Supposed, &'static str> {
    let (tenant, agent) = asked.subject.id.split_once('/').ok_or("SUBJECT_UNKNOWN")?;
    let (server, tool) = asked.resource.id.split_once('/').ok_or("RESOURCE_UNKNOWN")?;
    let said = asked.subject.properties.as_ref();
    let declared = match asked.action.name.as_str() {
        CALL => None,
        name => Some(Intent::from_text(name).ok_or("ACTION_UNKNOWN")?.text().to_owned()),
    };
    let arguments = match asked.context.as_ref().and_then(|context| context.get("arguments")) {
        None => "{}".to_owned(),
        Some(Value::Object(arguments)) => {
            let text = Value::Object(arguments.clone()).to_string();
            let canonical = json::canonical(text.as_bytes(), &gate.json_limits());
            let canonical = canonical.map_err(|_| "FACTS_UNUSABLE")?;
            String::from_utf8_lossy(&canonical).into_owned()
        }
        Some(_) => return Err("FACTS_UNUSABLE"),
    };
    let unusable = "FACTS_UNUSABLE";
    let depth = number(said, "chain_depth").map_err(|()| unusable)?.unwrap_or(0);
    let age_s = number(said, "sign_in_age_s").map_err(|()| unusable)?;
    let chain = usize::try_from(depth.min(DEPTH_MAX)).unwrap_or(0);
    Ok(Supposed {
        principal: Principal {
            tenant: tenant.into(),
            delegator: delegator(said).map_err(|()| unusable)?,
            agent: agent.into(),
            chain: vec![Arc::from("?"); chain],
            roles: roles(said).map_err(|()| unusable)?,
        },
        sign_in: SignIn {
            acr: text(said, "acr").map(Arc::from),
            at: age_s.map(|age_s| gate.world.now().minus_ms(age_s.saturating_mul(1000))),
        },
        tool: ToolRef { server: server.into(), tool: tool.into() },
        declared,
        arguments,
    })
}

type Said<'a> = Option<&'a Map<String, Value>>;

/// For whom the agent acts: nobody is known where nothing is said.
fn delegator(said: Said<'_>) -> Result<Option<Delegator>, ()> {
    let Some(acting_for) = said.and_then(|said| said.get("acting_for")) else { return Ok(None) };
    if acting_for == ANONYMOUS {
        return Ok(None);
    }
    let (issuer, subject) = acting_for.as_str().and_then(|text| text.split_once('|')).ok_or(())?;
    let is_human = match said.and_then(|said| said.get("human")) {
        None => false,
        Some(human) => human.as_bool().ok_or(())?,
    };
    Ok(Some(Delegator { issuer: issuer.into(), subject: subject.into(), is_human }))
}

fn roles(said: Said<'_>) -> Result<Vec<Arc<str>>, ()> {
    let Some(roles) = said.and_then(|said| said.get("roles")) else { return Ok(Vec::new()) };
    let roles = roles.as_array().ok_or(())?;
    roles.iter().map(|role| role.as_str().map(Arc::from).ok_or(())).collect()
}

fn number(said: Said<'_>, name: &str) -> Result<Option<u64>, ()> {
    said.and_then(|said| said.get(name)).map(|value| value.as_u64().ok_or(())).transpose()
}
