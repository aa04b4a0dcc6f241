//! What AuthZEN sends and gets.

use super::super::object::{maybe, object, whole};
use crate::{gate::Gate, prove::supposed::Supposed};
use countersign_core::{
    ids::DecisionId,
    policy::{Obligation, Reason, Tables},
    refusal::Refusal,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Members that only some implementations know.
type Properties = Option<Map<String, Value>>;

/// A subject or a resource.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct Entity {
    /// `agent`, `tool`, or a type of the bundle's own.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// An agent is `tenant/agent`, a tool `server/tool`.
    pub(super) id: String,
    /// Of an agent: `acting_for` (`issuer|subject`), `human`, `roles`, `acr`, `sign_in_age_s`,
    /// `chain_depth`. Of the bundle's own things: what its schema knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) properties: Properties,
}

/// What is searched for: an entity without its name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct Kind {
    /// Its type.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// As of an entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) properties: Properties,
}

/// An action.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct Deed {
    /// Of a tool: an intent, or `call` for whatever the tool does.
    pub(super) name: String,
    /// What the bundle's schema knows as `context.action`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) properties: Properties,
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct Evaluation {
    /// Who.
    #[serde(deserialize_with = "object")]
    pub(super) subject: Entity,
    /// Does what.
    #[serde(deserialize_with = "object")]
    pub(super) action: Deed,
    /// With what.
    #[serde(deserialize_with = "object")]
    pub(super) resource: Entity,
    /// Of a tool's call: `arguments`. Else what the bundle's schema knows.
    #[serde(default)]
    pub(super) context: Properties,
}

/// Several questions, with what they have in common.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [
    { "required": ["evaluations"], "properties": { "evaluations": { "minItems": 1 } } },
    { "required": ["subject", "action", "resource"] },
]))]
pub(in crate::admin) struct Batch {
    #[serde(default, deserialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Entity")]
    subject: Option<Entity>,
    #[serde(default, deserialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Deed")]
    action: Option<Deed>,
    #[serde(default, deserialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Entity")]
    resource: Option<Entity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Properties,
    /// Each as one question, less what is said above; none for one question alone.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub(super) evaluations: Vec<Map<String, Value>>,
    #[serde(default, deserialize_with = "maybe")]
    #[schemars(with = "Options")]
    options: Option<Options>,
}

/// How several are executed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Options {
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// When to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::admin) enum Semantic {
    /// Never.
    #[default]
    ExecuteAll,
    /// At the first no.
    DenyOnFirstDeny,
    /// At the first yes.
    PermitOnFirstPermit,
}

impl Batch {
    pub(super) fn semantic(&self) -> Semantic {
        self.options.as_ref().map(|options| options.evaluations_semantic).unwrap_or_default()
    }

    /// A question with what it has in common with the others. What it says itself replaces the
    /// common one whole (section 7.1.1).
    pub(super) fn complete(&self, mut own: Map<String, Value>) -> Result<Evaluation, String> {
        let common = serde_json::to_value(self).unwrap_or_default();
        for name in ["subject", "action", "resource", "context"] {
            if let (false, Some(value)) = (own.contains_key(name), common.get(name)) {
                own.insert(name.to_owned(), value.clone());
            }
        }
        serde_json::from_value(Value::Object(own)).map_err(|error| error.to_string())
    }
}

/// Which part of what is found.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct Part {
    /// `next_token` of the part before.
    #[serde(default)]
    pub(super) token: Option<String>,
    /// The most results; 0 says nothing.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(range(max = u32::MAX))]
    pub(super) limit: Option<u32>,
}

/// Who may do this with that.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct SubjectSearch {
    #[serde(deserialize_with = "object")]
    pub(super) subject: Kind,
    #[serde(deserialize_with = "object")]
    pub(super) action: Deed,
    #[serde(deserialize_with = "object")]
    pub(super) resource: Entity,
    #[serde(default)]
    pub(super) context: Properties,
    #[serde(default, deserialize_with = "maybe", skip_serializing)]
    #[schemars(with = "Part")]
    pub(super) page: Option<Part>,
}

/// With what somebody may do this.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct ResourceSearch {
    #[serde(deserialize_with = "object")]
    pub(super) subject: Entity,
    #[serde(deserialize_with = "object")]
    pub(super) action: Deed,
    #[serde(deserialize_with = "object")]
    pub(super) resource: Kind,
    #[serde(default)]
    pub(super) context: Properties,
    #[serde(default, deserialize_with = "maybe", skip_serializing)]
    #[schemars(with = "Part")]
    pub(super) page: Option<Part>,
}

/// What somebody may do with this.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::admin) struct ActionSearch {
    #[serde(deserialize_with = "object")]
    pub(super) subject: Entity,
    #[serde(deserialize_with = "object")]
    pub(super) resource: Entity,
    #[serde(default)]
    pub(super) context: Properties,
    #[serde(default, deserialize_with = "maybe", skip_serializing)]
    #[schemars(with = "Part")]
    pub(super) page: Option<Part>,
}

/// What a search found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(in crate::admin) struct Found {
    /// Where it goes on.
    pub(super) page: Next,
    /// Subjects or resources (`type`, `id`), or actions (`name`).
    pub(super) results: Vec<Map<String, Value>>,
}

/// Where a search goes on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(in crate::admin) struct Next {
    /// Empty when there is no more.
    pub(super) next_token: String,
    /// Results in this part.
    pub(super) count: usize,
}

/// An answer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Decided {
    /// Yes or no.
    pub(super) decision: bool,
    context: Why,
}

/// One answer, or one for each question.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::admin) enum Evaluated {
    /// To one question.
    One(Box<Decided>),
    /// In the order of the questions.
    All {
        /// Each one.
        evaluations: Vec<Decided>,
    },
}

/// What an answer rests on.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Why {
    /// Names this answer.
    evaluation_id: String,
    /// When it was given.
    evaluated_at: String,
    /// The code of a no: a refusal's (`docs/refusals`), or a rule's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The rules behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<RuleReason>,
    /// What a yes wants done, or what would make a yes of a no.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    obligations: Vec<Value>,
    /// What a call costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<String>,
    /// What else is known of a no.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, String>,
    /// Who can change a no, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    ask: Option<Ask>,
    /// The request that is open about this very call, after the Access Request and Approval
    /// profile (draft): the agent's own attempt opened it, and its retry goes on once it is
    /// approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_request: Option<AccessRequest>,
}

/// An open request.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct AccessRequest {
    /// The page where people answer it.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// Its identifier.
    id: String,
    /// `pending`.
    status: String,
    /// Until when it can be answered.
    expires_at: String,
}

/// A rule behind an answer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct RuleReason {
    code: String,
    policy: String,
    /// The code as a sentence of the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// How to ask for what was denied.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Ask {
    /// Who must act: `client`, `human` or `operator`.
    actor: String,
    /// What to do.
    action: String,
    /// The page where people do it.
    #[serde(skip_serializing_if = "Option::is_none")]
    form_url: Option<String>,
}

impl Why {
    pub(super) fn of_code(code: &str) -> Self {
        Self { reason: Some(code.to_owned()), ..Self::default() }
    }

    pub(super) fn of_reasons(tables: &Tables, reasons: &[Reason]) -> Self {
        let reason = |reason: &Reason| RuleReason {
            text: tables.reasons.sentence(&reason.code).map(str::to_owned),
            code: reason.code.clone(),
            policy: reason.policy.clone(),
        };
        let first = reasons.first().map(|reason| reason.code.clone());
        Self { reason: first, reasons: reasons.iter().map(reason).collect(), ..Self::default() }
    }

    /// A refusal: its code and facts, and who can change it.
    pub(super) fn of_refusal(gate: &Gate, refusal: &Refusal) -> Self {
        let facts = refusal.facts().iter();
        let facts = facts.map(|fact| (fact.name.to_owned(), fact.value.clone()));
        Self { facts: facts.collect(), ..Self::of_code(refusal.code().text()) }
            .asking(gate, refusal.code())
    }

    /// Who can change it. People do that on the console, where there is one.
    pub(super) fn asking(self, gate: &Gate, code: countersign_core::refusal::Code) -> Self {
        let row = code.row();
        let console = gate.config.console.as_ref();
        let actor = serde_json::to_value(row.actor).ok();
        let actor = actor.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let form_url = console.filter(|_| actor == "human").map(|c| format!("{}/", c.public_url));
        let ask = Ask { actor, action: row.next.to_owned(), form_url };
        Self { reason: Some(code.text().to_owned()), ask: Some(ask), ..self }
    }

    /// With the request that is open about this very call, if one is.
    pub(super) fn requested(self, gate: &Gate, supposed: &Supposed) -> Self {
        let access_request = gate.open_request(supposed).map(|approval| AccessRequest {
            endpoint: gate.approval_url(approval.id),
            id: approval.id.to_string(),
            status: "pending".to_owned(),
            expires_at: approval.expires_at.rfc3339(),
        });
        Self { access_request, ..self }
    }

    pub(super) fn with(mut self, name: &str, value: String) -> Self {
        self.facts.insert(name.to_owned(), value);
        self
    }

    pub(super) fn priced(self, price: String) -> Self {
        Self { price: Some(price), ..self }
    }

    pub(super) fn wanting(self, obligations: &[Obligation]) -> Self {
        let obligations = obligations.iter().zip(1..).filter_map(|(duty, id)| {
            let mut duty = serde_json::to_value(duty).ok()?;
            duty.as_object_mut()?.insert("id".to_owned(), id.to_string().into());
            Some(duty)
        });
        Self { obligations: obligations.collect(), ..self }
    }
}

impl Decided {
    pub(super) fn yes(gate: &Gate, why: Why) -> Self {
        Self::of(gate, true, Why { reason: None, ..why })
    }

    pub(super) fn no(gate: &Gate, why: Why) -> Self {
        Self::of(gate, false, why)
    }

    fn of(gate: &Gate, decision: bool, why: Why) -> Self {
        let now = gate.world.now();
        let evaluation_id = DecisionId::new(now, gate.world.random()).to_string();
        Self { decision, context: Why { evaluation_id, evaluated_at: now.rfc3339(), ..why } }
    }
}

/// Where the API is (section 9).
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Metadata {
    /// The address that this document belongs to.
    pub(super) policy_decision_point: String,
    /// One question.
    pub(super) access_evaluation_endpoint: String,
    /// Several.
    pub(super) access_evaluations_endpoint: String,
    /// Who.
    pub(super) search_subject_endpoint: String,
    /// With what.
    pub(super) search_resource_endpoint: String,
    /// What.
    pub(super) search_action_endpoint: String,
}
