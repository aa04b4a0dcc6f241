//! What Cedar is told about a question: entities, action and context, built without JSON.
//!
//! INVARIANT: the shape is fixed and tried against the schema at load, on every intent; what
//! varies later are values.
//! INVARIANT: a name that a tenant's issuer chooses is written under the tenant, so that no
//! tenant can borrow another's agents or roles.

use super::{Engine, problem::Flaw};
use crate::halves::Halves;
use cedar_policy::{
    Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use cedar_policy_core::ast::{self, Value};
use countersign_core::{
    digest::Digest,
    ids::{DecisionId, GrantId, QuoteId},
    money::Micros,
    policy::{
        Covered, History, Intent, IntentSource, Pin, ProofState, Question, Resource, Risk, Session,
        Tier, Trust,
    },
    time::UnixMs,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
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
    team: EntityTypeName,
    tenant: EntityTypeName,
    tool: EntityTypeName,
    /// Where a definition stands.
    pins: HashMap<Pin, EntityUid>,
    /// What an intent rests on.
    sources: HashMap<IntentSource, Value>,
    intents: HashMap<Intent, Value>,
    actions: HashMap<Intent, EntityUid>,
    /// The schema's actions, for the groups they are in.
    action_entities: Entities,
    valid: Value,
    not_required: Value,
    missing: Value,
    /// Entities made before: the same cast has the same ones.
    known: Mutex<Halves<Cast, Arc<Stage>>>,
}

/// What the entities of a question are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cast {
    tenant: Arc<str>,
    human: Arc<str>,
    is_human: bool,
    roles: Vec<Arc<str>>,
    agent: Arc<str>,
    chain_depth: u32,
    assurance: u8,
    server: Arc<str>,
    tool: Arc<str>,
    sensitivity: u8,
    is_reversible: bool,
    is_open_world: bool,
    pin: Pin,
    intent: Intent,
}

impl Cast {
    fn of(question: &Question) -> Self {
        Self {
            tenant: Arc::clone(&question.tenant),
            human: Arc::clone(&question.human),
            is_human: question.is_human,
            roles: question.roles.clone(),
            agent: Arc::clone(&question.agent),
            chain_depth: question.chain_depth,
            assurance: question.assurance,
            server: Arc::clone(&question.server),
            tool: Arc::clone(&question.tool),
            sensitivity: question.sensitivity,
            is_reversible: question.is_reversible,
            is_open_world: question.is_open_world,
            pin: question.pin,
            intent: question.intent,
        }
    }
}

/// Casts in each half.
const KNOWN_HALF: usize = 4_096;

/// The entities of a question, and the names of some of them.
#[derive(Debug)]
struct Stage {
    agent: EntityUid,
    tool: EntityUid,
    /// Those, whom the agent acts for, and all that they are in.
    scopes: Vec<EntityUid>,
    entities: Entities,
}

impl Vocabulary {
    pub(super) fn new(schema: &Schema) -> Result<Self, Flaw> {
        let misfit = |Unfit(text)| Flaw::Misfit(text);
        let name = |text: &str| text.parse::<EntityTypeName>().map_err(unusable).map_err(misfit);
        let (proof, intent, action) = (name("Proof")?, name("Intent")?, name("Action")?);
        let word = |of: &EntityTypeName, text| Value::from(ast::EntityUID::from(uid(of, text)));
        let (definition, source) = (name("Definition")?, name("IntentSource")?);
        let pin = |pin: Pin| (pin, uid(&definition, pin.text()));
        let rests_on = |on: IntentSource| (on, word(&source, on.text()));
        let vocabulary = Self {
            agent: name("Agent")?,
            human: name("Human")?,
            role: name("Role")?,
            server: name("Server")?,
            team: name("Team")?,
            pins: [Pin::Unseen, Pin::Seen, Pin::Approved, Pin::Changed].map(pin).into(),
            sources: IntentSource::ALL.map(rests_on).into(),
            tenant: name("Tenant")?,
            tool: name("Tool")?,
            intents: Intent::ALL.map(|known| (known, word(&intent, known.text()))).into(),
            actions: Intent::ALL.map(|known| (known, uid(&action, known.text()))).into(),
            action_entities: schema.action_entities().map_err(unusable).map_err(misfit)?,
            valid: word(&proof, "valid"),
            not_required: word(&proof, "not_required"),
            missing: word(&proof, "missing"),
            known: Mutex::new(Halves::new(KNOWN_HALF)),
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
            for is_full in [false, true] {
                let question = sample(intent, is_full);
                Scene::new(self, &question, Some(schema))
                    .and_then(|scene| {
                        scene.request(self, &BTreeSet::from(["human_confirm"]), Some(schema))
                    })
                    .map_err(|Unfit(text)| Flaw::Misfit(text))?;
            }
        }
        Ok(())
    }

    fn proof(&self, state: ProofState) -> Value {
        match state {
            ProofState::Valid => self.valid.clone(),
            ProofState::NotRequired => self.not_required.clone(),
            ProofState::Missing => self.missing.clone(),
        }
    }
}

impl Stage {
    fn new(
        vocabulary: &Vocabulary,
        question: &Question,
        schema: Option<&Schema>,
    ) -> Result<Self, Unfit> {
        let tenant = uid(&vocabulary.tenant, &question.tenant);
        let server = uid(&vocabulary.server, &question.server);
        let human = uid(&vocabulary.human, &question.human);
        let agent = uid(&vocabulary.agent, &under(&question.tenant, &question.agent));
        let tool = uid(&vocabulary.tool, &under(&question.server, &question.tool));
        let role = |name: &Arc<str>| match name.strip_prefix(TEAM) {
            Some(team) => uid(&vocabulary.team, &under(&question.tenant, team)),
            None => uid(&vocabulary.role, &under(&question.tenant, name)),
        };
        let roles: HashSet<EntityUid> = question.roles.iter().map(role).collect();
        // These have no attributes, so Cedar need not know them; a schema that gives them some
        // that are required would ask for what is never said, and is found out here.
        let bare = match schema {
            Some(_) => [&tenant, &server].into_iter().chain(&roles).cloned().collect(),
            None => Vec::new(),
        };
        let bare = bare.into_iter().map(Entity::with_uid);
        let of_all = [&agent, &tool, &tenant, &server, &human].into_iter();
        let scopes = of_all.chain(&roles).cloned().collect();
        let human_in = roles.into_iter().chain([tenant.clone()]).collect();

        let agent_attributes = HashMap::from([
            ("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone())),
            ("acting_for".to_owned(), RestrictedExpression::new_entity_uid(human.clone())),
            ("human".to_owned(), RestrictedExpression::new_bool(question.is_human)),
            ("chain_depth".to_owned(), expressed(question.chain_depth, "chain depth")?),
            ("assurance".to_owned(), expressed(question.assurance, "assurance")?),
        ]);
        let pin = vocabulary.pins.get(&question.pin).cloned();
        let pin = pin.ok_or_else(|| Unfit("no such definition".to_owned()))?;
        let tool_attributes = HashMap::from([
            ("sensitivity".to_owned(), expressed(question.sensitivity, "sensitivity")?),
            ("reversible".to_owned(), RestrictedExpression::new_bool(question.is_reversible)),
            ("open_world".to_owned(), RestrictedExpression::new_bool(question.is_open_world)),
            ("definition".to_owned(), RestrictedExpression::new_entity_uid(pin)),
        ]);
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
        Ok(Self { agent, tool, scopes, entities: entities.map_err(unusable)? })
    }
}

/// One question as Cedar sees it, but for what is fulfilled.
pub(super) struct Scene<'a> {
    question: &'a Question,
    stage: Arc<Stage>,
}

impl<'a> Scene<'a> {
    /// `schema` is for trying a bundle out; questions of the running gateway have a shape that was
    /// tried.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        question: &'a Question,
        schema: Option<&Schema>,
    ) -> Result<Self, Unfit> {
        if schema.is_some() {
            let stage = Arc::new(Stage::new(vocabulary, question, schema)?);
            return Ok(Self { question, stage });
        }
        let cast = Cast::of(question);
        let known = || vocabulary.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = known().get(&cast) {
            return Ok(Self { question, stage });
        }
        let stage = Arc::new(Stage::new(vocabulary, question, None)?);
        known().put(cast, Arc::clone(&stage));
        Ok(Self { question, stage })
    }

    pub(super) fn entities(&self) -> &Entities {
        &self.stage.entities
    }

    pub(super) fn intent(&self) -> Intent {
        self.question.intent
    }

    /// The principal, the resource, whom the principal acts for, and all that they are in: what a
    /// policy can name and match.
    pub(super) fn scopes(&self) -> &[EntityUid] {
        &self.stage.scopes
    }

    pub(super) fn request(
        &self,
        vocabulary: &Vocabulary,
        fulfilled: &BTreeSet<&str>,
        schema: Option<&Schema>,
    ) -> Result<Request, Unfit> {
        let action = vocabulary.actions.get(&self.question.intent).cloned();
        let action = action.ok_or_else(|| Unfit("no such action".to_owned()))?;
        let context = self.context(vocabulary, fulfilled)?.into();
        Request::new(self.stage.agent.clone(), action, self.stage.tool.clone(), context, schema)
            .map_err(unusable)
    }

    /// As values: by expressions, Cedar's own way to them, it costs more than twice as much.
    fn context(
        &self,
        vocabulary: &Vocabulary,
        fulfilled: &BTreeSet<&str>,
    ) -> Result<ast::Context, Unfit> {
        let question = self.question;
        // Effective is the more powerful of declared and derived: what was declared covers what
        // the tool does exactly when it is not below that.
        let covered = question.declared.is_none_or(|declared| declared >= question.intent);
        let declared = question.declared.and_then(|intent| vocabulary.intents.get(&intent));
        let source = vocabulary.sources.get(&question.source);
        let derived = vocabulary.intents.get(&question.derived);
        let words = [("declared", declared), ("derived", derived), ("source", source)].into_iter();
        let words = words.filter_map(|(name, word)| Some((name, word?.clone())));
        let price = [
            ("micros", long(question.price.0, "price")?),
            ("text", Value::from(&*question.price_text)),
        ];
        let proofs = [
            ("identity", vocabulary.proof(question.identity)),
            ("payment", vocabulary.proof(question.payment)),
            ("consent", vocabulary.proof(question.consent)),
        ];
        let facts = [
            ("resource", resource(&question.resource)),
            ("price", record(price)),
            ("proofs", record(proofs)),
            ("intent", record([("covered", covered.into())].into_iter().chain(words))),
            ("risk", risk(question)?),
            ("trust", trust(&question.trust)?),
            ("session", session(question)?),
            ("sign_in", sign_in(question)?),
            ("fulfilled", Value::set(fulfilled.iter().map(|word| Value::from(*word)), None)),
            ("now", long(question.now.0, "time")?),
        ];
        // More than Cedar can count is no limit that any price Cedar can count could reach.
        let remaining =
            question.remaining.map(|Micros(left)| i64::try_from(left).unwrap_or(i64::MAX));
        let tightest = question.tightest.as_deref().map(Value::from);
        let grant =
            question.grant.as_ref().map(|grant| covered_by(vocabulary, grant)).transpose()?;
        let optional =
            [("remaining", remaining.map(Value::from)), ("tightest", tightest), ("grant", grant)];
        let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let facts = facts.into_iter().chain(optional);
        let facts = facts.map(|(name, value)| (name.into(), value)).collect();
        Ok(ast::Context::Value(Arc::new(facts)))
    }
}

fn risk(question: &Question) -> Result<Value, Unfit> {
    Ok(record([
        ("score", long(question.risk.score, "risk")?),
        ("band", Value::from(&*question.risk.band)),
    ]))
}

fn trust(trust: &Trust) -> Result<Value, Unfit> {
    let tier = |tier: Tier| Value::from(i64::from(tier.level()));
    Ok(record([
        ("tier", tier(trust.effective())),
        ("agent", tier(trust.agent)),
        ("human", tier(trust.human)),
        ("consent", tier(trust.consent)),
        ("server", tier(trust.server)),
        ("may", trust.may.into()),
        ("price_cap", long(trust.price_cap.0, "price cap")?),
        ("max_risk", long(trust.max_risk, "risk")?),
    ]))
}

fn session(question: &Question) -> Result<Value, Unfit> {
    Ok(record([
        ("tainted", question.session.is_tainted.into()),
        ("private", question.session.is_private.into()),
        ("calls_last_minute", long(question.session.calls_last_minute, "calls")?),
    ]))
}

fn sign_in(question: &Question) -> Result<Value, Unfit> {
    let acr = question.acr.as_deref().map(|acr| ("acr", Value::from(acr)));
    let age_s = question.sign_in_age_s.map(|age_s| long(age_s, "age")).transpose()?;
    Ok(record(acr.into_iter().chain(age_s.map(|age_s| ("age_s", age_s)))))
}

fn resource(resource: &Resource) -> Value {
    record([("type", Value::from(&*resource.kind)), ("id", Value::from(&*resource.id))])
}

fn covered_by(vocabulary: &Vocabulary, grant: &Covered) -> Result<Value, Unfit> {
    // More than Cedar can count is above every price that it can count.
    let amount = |micros: Micros| Value::from(i64::try_from(micros.0).unwrap_or(i64::MAX));
    let intents = grant.intents.iter().filter_map(|intent| vocabulary.intents.get(intent));
    let left = grant.remaining.map(|left| ("remaining", amount(left)));
    let known = [
        ("per_call", amount(grant.per_call)),
        ("intents", Value::set(intents.cloned(), None)),
        ("expires_at", long(grant.expires_at.0, "expiry")?),
    ];
    Ok(record(known.into_iter().chain(left)))
}

/// What a role begins with that is a team.
const TEAM: &str = "team:";

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

fn record<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::record(members, None)
}

fn number(value: impl TryInto<i64>, what: &'static str) -> Result<i64, Unfit> {
    value.try_into().map_err(|_| Unfit(format!("{what} is out of range")))
}

fn long(value: impl TryInto<i64>, what: &'static str) -> Result<Value, Unfit> {
    number(value, what).map(Value::from)
}

fn expressed(value: impl TryInto<i64>, what: &'static str) -> Result<RestrictedExpression, Unfit> {
    number(value, what).map(RestrictedExpression::new_long)
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

/// A question with all that is optional, or without.
fn sample(intent: Intent, is_full: bool) -> Question {
    let role = if is_full { "role" } else { "team:team" };
    Question {
        roles: vec![role.into()],
        acr: is_full.then(|| "acr".into()),
        sign_in_age_s: is_full.then_some(1),
        intent,
        derived: intent,
        declared: is_full.then_some(intent),
        grant: is_full.then_some(Covered {
            id: GrantId::from_bytes([0; 16]),
            per_call: Micros(1),
            remaining: Some(Micros(1)),
            intents: vec![intent],
            expires_at: UnixMs(1),
        }),
        remaining: is_full.then_some(Micros(1)),
        tightest: is_full.then(|| "budget".into()),
        ..Engine::sample_question()
    }
}

impl Engine {
    /// A harmless question, to be changed: somebody's agent reads something for next to nothing.
    #[must_use]
    pub fn sample_question() -> Question {
        Question {
            id: DecisionId::from_bytes([0; 16]),
            call_digest: Digest::from_bytes([0; 32]),
            tenant: "tenant".into(),
            human: "issuer|subject".into(),
            is_human: true,
            roles: Vec::new(),
            acr: None,
            sign_in_age_s: None,
            agent: "agent".into(),
            assurance: 2,
            chain_depth: 1,
            server: "server".into(),
            tool: "tool".into(),
            resource: Resource { kind: Resource::MCP.into(), id: "https://gateway/mcp".into() },
            arguments: Digest::from_bytes([0; 32]),
            sensitivity: 0,
            is_reversible: false,
            is_open_world: true,
            definition: None,
            pin: Pin::Approved,
            intent: Intent::Read,
            derived: Intent::Read,
            declared: None,
            source: IntentSource::Lexicon,
            purpose: None,
            quote: QuoteId::from_bytes([0; 16]),
            terms: Digest::from_bytes([0; 32]),
            price: Micros(1),
            price_text: "0.000001 USDC".to_owned(),
            identity: ProofState::Valid,
            payment: ProofState::Missing,
            consent: ProofState::Valid,
            grant: None,
            remaining: None,
            tightest: None,
            history: History::default(),
            risk: Risk { band: "low".into(), ..Risk::default() },
            trust: Trust {
                agent: Tier::T3,
                human: Tier::T3,
                consent: Tier::T3,
                server: Tier::T3,
                may: true,
                price_cap: Micros(25_000_000),
                max_risk: 69,
            },
            session: Session::default(),
            fulfilled: Vec::new(),
            now: UnixMs(0),
        }
    }
}
