//! What Cedar is told about a question: entities, action and context, built without JSON.
//!
//! INVARIANT: the shape is fixed and tried against the schema at load, on every intent; what
//! varies later are values.
//! INVARIANT: a name that a tenant's issuer chooses is written under the tenant, so that no
//! tenant can borrow another's agents or roles.

use super::problem::Flaw;
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
    Schema,
};
use countersign_core::{
    digest::Digest,
    ids::DecisionId,
    money::Micros,
    policy::{Intent, ProofState, Question},
    time::UnixMs,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    error::Error,
    sync::Arc,
};

/// A fact that Cedar cannot be told, and why. The text can hold values: for `check`, not callers.
pub(super) struct Unfit(pub(super) String);

/// The names of the schema that questions are put in.
#[derive(Debug)]
pub(super) struct Vocabulary {
    agent: EntityTypeName,
    human: EntityTypeName,
    role: EntityTypeName,
    server: EntityTypeName,
    tenant: EntityTypeName,
    tool: EntityTypeName,
    intents: HashMap<Intent, EntityUid>,
    actions: HashMap<Intent, EntityUid>,
    /// The schema's actions, for the groups they are in.
    action_entities: Entities,
    valid: EntityUid,
    not_required: EntityUid,
    missing: EntityUid,
}

impl Vocabulary {
    pub(super) fn new(schema: &Schema) -> Result<Self, Flaw> {
        let misfit = |Unfit(text)| Flaw::Misfit(text);
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(unusable).map_err(misfit);
        let (proof, intent, action) = (name("Proof")?, name("Intent")?, name("Action")?);
        let words = |of: &EntityTypeName| {
            Intent::ALL.into_iter().map(|intent| (intent, uid(of, intent.text()))).collect()
        };
        let vocabulary = Self {
            agent: name("Agent")?,
            human: name("Human")?,
            role: name("Role")?,
            server: name("Server")?,
            tenant: name("Tenant")?,
            tool: name("Tool")?,
            intents: words(&intent),
            actions: words(&action),
            action_entities: schema.action_entities().map_err(unusable).map_err(misfit)?,
            valid: uid(&proof, "valid"),
            not_required: uid(&proof, "not_required"),
            missing: uid(&proof, "missing"),
        };
        vocabulary.try_on(schema)?;
        Ok(vocabulary)
    }

    /// Whether a scope that names `wanted` (an action, or a group of them) is about `intent`.
    pub(super) fn is_about(&self, wanted: &EntityUid, intent: Intent) -> bool {
        let within =
            |action| action == wanted || self.action_entities.is_ancestor_of(wanted, action);
        self.actions.get(&intent).is_some_and(within)
    }

    /// Puts sample questions through the schema: every intent, with and without what is optional.
    fn try_on(&self, schema: &Schema) -> Result<(), Flaw> {
        for intent in Intent::ALL {
            for (remaining, declared) in [(None, None), (Some(Micros(1)), Some(intent))] {
                let question = sample(intent, remaining, declared);
                Scene::new(self, &question, Some(schema))
                    .and_then(|scene| {
                        scene.request(self, &BTreeSet::from(["human_confirm"]), Some(schema))
                    })
                    .map_err(|Unfit(text)| Flaw::Misfit(text))?;
            }
        }
        Ok(())
    }

    fn proof(&self, state: ProofState) -> RestrictedExpression {
        RestrictedExpression::new_entity_uid(match state {
            ProofState::Valid => self.valid.clone(),
            ProofState::NotRequired => self.not_required.clone(),
            ProofState::Missing => self.missing.clone(),
        })
    }
}

/// One question as Cedar sees it, but for what is fulfilled.
pub(super) struct Scene<'a> {
    question: &'a Question,
    agent: EntityUid,
    tenant: EntityUid,
    tool: EntityUid,
    server: EntityUid,
    entities: Entities,
}

impl<'a> Scene<'a> {
    /// `schema` is for trying a bundle out; questions of the running gateway have a shape that was
    /// tried.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        question: &'a Question,
        schema: Option<&Schema>,
    ) -> Result<Self, Unfit> {
        let tenant = uid(&vocabulary.tenant, &question.tenant);
        let server = uid(&vocabulary.server, &question.server);
        let human = uid(&vocabulary.human, &question.human);
        let agent = uid(&vocabulary.agent, &under(&question.tenant, &question.agent));
        let tool = uid(&vocabulary.tool, &under(&question.server, &question.tool));
        let role = |name: &Arc<str>| uid(&vocabulary.role, &under(&question.tenant, name));
        let roles: HashSet<EntityUid> = question.roles.iter().map(role).collect();
        // These have no attributes, so Cedar need not know them; a schema that gives them some
        // that are required would ask for what is never said, and is found out here.
        let bare = match schema {
            Some(_) => [&tenant, &server].into_iter().chain(&roles).cloned().collect(),
            None => Vec::new(),
        };
        let bare = bare.into_iter().map(Entity::with_uid);
        let human_in = roles.into_iter().chain([tenant.clone()]).collect();

        let agent_attributes = HashMap::from([
            ("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone())),
            ("acting_for".to_owned(), RestrictedExpression::new_entity_uid(human.clone())),
            ("human".to_owned(), RestrictedExpression::new_bool(question.is_human)),
            ("chain_depth".to_owned(), long(question.chain_depth, "chain depth")?),
        ]);
        let tool_attributes =
            HashMap::from([("sensitivity".to_owned(), long(question.sensitivity, "sensitivity")?)]);
        let action = vocabulary.actions.get(&question.intent);
        let action = action.and_then(|action| vocabulary.action_entities.get(action)).cloned();
        let own = [
            Entity::new_no_attrs(human, human_in),
            Entity::new(agent.clone(), agent_attributes, HashSet::from([tenant.clone()]))
                .map_err(unusable)?,
            Entity::new(tool.clone(), tool_attributes, HashSet::from([server.clone()]))
                .map_err(unusable)?,
        ];
        let entities = Entities::from_entities(own.into_iter().chain(action).chain(bare), schema);
        Ok(Self { question, agent, tenant, tool, server, entities: entities.map_err(unusable)? })
    }

    pub(super) fn entities(&self) -> &Entities {
        &self.entities
    }

    pub(super) fn intent(&self) -> Intent {
        self.question.intent
    }

    /// The principal, the resource and all that they are in: what a scope can name and match.
    pub(super) fn scopes(&self) -> [&EntityUid; 4] {
        [&self.agent, &self.tenant, &self.tool, &self.server]
    }

    pub(super) fn request(
        &self,
        vocabulary: &Vocabulary,
        fulfilled: &BTreeSet<&str>,
        schema: Option<&Schema>,
    ) -> Result<Request, Unfit> {
        let action = vocabulary.actions.get(&self.question.intent).cloned();
        let action = action.ok_or_else(|| Unfit("no such action".to_owned()))?;
        let context = self.context(vocabulary, fulfilled)?;
        Request::new(self.agent.clone(), action, self.tool.clone(), context, schema)
            .map_err(unusable)
    }

    fn context(
        &self,
        vocabulary: &Vocabulary,
        fulfilled: &BTreeSet<&str>,
    ) -> Result<Context, Unfit> {
        let question = self.question;
        let price = record([
            ("micros", long(question.price.0, "price")?),
            ("text", RestrictedExpression::new_string(question.price_text.clone())),
        ])?;
        let proofs = record([
            ("payment", vocabulary.proof(question.payment)),
            ("consent", vocabulary.proof(question.consent)),
        ])?;
        // Effective is the more powerful of declared and derived: what was declared covers what
        // the tool does exactly when it is not below that.
        let covered = question.declared.is_none_or(|declared| declared >= question.intent);
        let declared = question.declared.and_then(|intent| vocabulary.intents.get(&intent));
        let declared = declared.map(|word| RestrictedExpression::new_entity_uid(word.clone()));
        let intent = record(
            [("covered", RestrictedExpression::new_bool(covered))]
                .into_iter()
                .chain(declared.map(|word| ("declared", word))),
        )?;
        let words = fulfilled.iter().map(|word| (*word).to_owned());
        let words = RestrictedExpression::new_set(words.map(RestrictedExpression::new_string));
        let facts = [
            ("price", price),
            ("proofs", proofs),
            ("intent", intent),
            ("fulfilled", words),
            ("now", long(question.now.0, "time")?),
        ];
        // More than Cedar can count is no limit that any price Cedar can count could reach.
        let remaining =
            question.remaining.map(|Micros(left)| i64::try_from(left).unwrap_or(i64::MAX));
        let remaining = remaining.map(|left| ("remaining", RestrictedExpression::new_long(left)));
        let facts = facts.into_iter().chain(remaining);
        Context::from_pairs(facts.map(|(name, value)| (name.to_owned(), value))).map_err(unusable)
    }
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}

/// `owner/name`, one to one: a `/` in the owner is escaped.
fn under(owner: &str, name: &str) -> String {
    if owner.contains(['/', '%']) {
        let owner = owner.replace('%', "%25").replace('/', "%2F");
        return format!("{owner}/{name}");
    }
    format!("{owner}/{name}")
}

fn record<'a>(
    members: impl IntoIterator<Item = (&'a str, RestrictedExpression)>,
) -> Result<RestrictedExpression, Unfit> {
    let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(members).map_err(unusable)
}

fn long(value: impl TryInto<i64>, what: &'static str) -> Result<RestrictedExpression, Unfit> {
    let value = value.try_into().map_err(|_| Unfit(format!("{what} is out of range")))?;
    Ok(RestrictedExpression::new_long(value))
}

/// With the errors behind it: Cedar puts what is of use there.
fn unusable(error: impl Error) -> Unfit {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(inner) = behind {
        text = format!("{text}: {inner}");
        behind = inner.source();
    }
    Unfit(text)
}

fn sample(intent: Intent, remaining: Option<Micros>, declared: Option<Intent>) -> Question {
    Question {
        id: DecisionId::from_bytes([0; 16]),
        call_digest: Digest::from_bytes([0; 32]),
        tenant: "tenant".into(),
        human: "issuer|subject".into(),
        is_human: true,
        roles: vec!["role".into()],
        agent: "agent".into(),
        chain_depth: 1,
        server: "server".into(),
        tool: "tool".into(),
        sensitivity: 0,
        intent,
        declared,
        price: Micros(1),
        price_text: "0.000001 USDC".to_owned(),
        payment: ProofState::Missing,
        consent: ProofState::Valid,
        remaining,
        fulfilled: Vec::new(),
        now: UnixMs(0),
    }
}
