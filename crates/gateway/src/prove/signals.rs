//! From what the gateway knows to what a decision is made of: intent, risk, trust, session; and
//! back, from what a call did to what will be known of its caller.

use super::{
    definitions::Pinned,
    past::{Ran, agent_key},
    policy::Engine,
    standing::{Standing, behaviour_of},
};
use crate::{call::Attempt, config::Server, gate::Gate};
use countersign_core::{
    call::Call,
    digest::Digest,
    ledger::{CallState, Charge},
    money::Micros,
    policy::{Behaviour, CallIntent, Covered, History, Session, ToolWord, Trust},
    proof::{Identity, Principal, SignIn},
    quote::{Quote, Rail},
    refusal::{Code, Refusal},
    terms::{Terms, ToolRef},
    time::UnixMs,
};
use countersign_store::Hold;
use std::sync::Arc;

/// Calls of the store that the past is rebuilt from.
const RECALLED: u32 = 2_000;
/// From this level on, data is private.
const PRIVATE: u8 = 2;

/// Who calls, as far as a decision looks at it. It proves nothing: an [`Identity`] does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) principal: &'a Principal,
    pub(super) sign_in: &'a SignIn,
}

impl<'a> From<&'a Identity> for Caller<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self { principal: identity.principal(), sign_in: identity.sign_in() }
    }
}

impl Caller<'_> {
    const fn is_anonymous(&self) -> bool {
        self.principal.delegator.is_none()
    }
}

/// All that is about one call before it is decided.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    pub(super) policy: &'a Engine,
    pub(super) call: &'a Call,
    pub(super) caller: Caller<'a>,
    pub(super) quote: &'a Quote,
    pub(super) grant: Option<Covered>,
    /// A person has looked, or will look, at this very call before it runs.
    pub(super) is_judged: bool,
    pub(super) remaining: Option<Micros>,
    /// The name of what leaves that.
    pub(super) tightest: Option<Arc<str>>,
    /// What the call is charged to.
    pub(super) charges: &'a [Charge],
    pub(super) session: Session,
    pub(super) pinned: Pinned,
    pub(super) now: UnixMs,
}

impl Gate {
    /// What a call does, and how that is known.
    #[must_use]
    pub fn intent(
        &self,
        policy: &Engine,
        server: &Server,
        terms: &Terms,
        arguments: &str,
        (declared, purpose): (Option<&str>, Option<&str>),
    ) -> CallIntent {
        let lexicon = &policy.tables().lexicon;
        let is_listed = server.tools.contains_key(&terms.tool.tool);
        let word = ToolWord {
            catalogue: terms.intent,
            annotations: self.definitions.of(&terms.tool, is_listed).annotations,
            is_trusted: server.trusts_annotations,
        };
        let (of_tool, source) = lexicon.of_tool(&terms.tool.tool, &word);
        let raised = lexicon.of_arguments(arguments);
        CallIntent {
            declared: declared.map(|words| lexicon.declared(words)),
            derived: raised.map_or(of_tool, |raised| raised.max(of_tool)),
            source,
            purpose: purpose.map(|purpose| Digest::of(purpose.as_bytes())),
        }
    }

    /// What is known of a tool's definition.
    pub(super) fn pinned(&self, terms: &Terms) -> Pinned {
        let server = self.config.servers.get(&terms.tool.server);
        let is_listed = server.is_some_and(|server| server.tools.contains_key(&terms.tool.tool));
        self.definitions.of(&terms.tool, is_listed)
    }

    /// Whether a tool deals with what is outside of its server's domain: as the operator says,
    /// else as a trusted server says, else it does.
    pub(super) fn is_open_world(&self, terms: &Terms, pinned: &Pinned) -> bool {
        let server = self.config.servers.get(&terms.tool.server);
        let trusts = server.is_some_and(|server| server.trusts_annotations);
        let hinted = pinned.annotations.open_world_hint.filter(|_| trusts);
        terms.open_world.or(hinted).unwrap_or(true)
    }

    /// The session's marks. Callers whom nobody knows share none but what they name.
    pub(super) fn session_of(&self, attempt: &Attempt, identity: &Identity) -> Session {
        if identity.is_anonymous() && attempt.session.is_none() {
            return Session::default();
        }
        self.past.session(identity.key(), attempt.session.as_deref(), self.world.now())
    }

    /// What is unusual about a call, and how often its agent called lately.
    pub(super) fn history(&self, picture: &Picture<'_>) -> (History, u64) {
        let Picture { call, caller, quote, now, .. } = picture;
        let principal = caller.principal;
        let offers: Vec<(&str, &str)> =
            quote.for_money().map(|o| (o.payee.as_str(), &*o.amount.asset.0)).collect();
        let agent = agent_key(&principal.tenant, &principal.agent);
        let about = (agent, &call.terms.tool, quote.call_digest());
        let glance = self.past.glance(about, &offers, *now);
        // A person who named the tool for this agent has judged what it does, that it is new, and
        // whom it pays.
        let is_judged = picture.is_judged || self.is_tool_named(picture);
        let glance = if caller.is_anonymous() { glance.of_nobody() } else { glance };
        let history = History {
            is_judged,
            median: glance.median,
            is_payee_first: glance.is_payee_first && !is_judged,
            is_payee_changed: glance.is_payee_changed,
            is_asset_changed: glance.is_asset_changed,
            is_tool_first: glance.is_tool_first && !is_judged,
            server_age_s: self.definitions.server_age_s(&call.terms.tool.server, *now),
            calls_this_hour: glance.calls_this_hour,
            hourly_mean: glance.hourly_mean,
            same_calls: glance.same_calls,
            budget_percent: self.budget_percent(picture),
        };
        (history, glance.calls_last_minute)
    }

    /// Whether the grant names the tool.
    fn is_tool_named(&self, picture: &Picture<'_>) -> bool {
        let grant = picture.grant.as_ref().and_then(|grant| self.store.grant(grant.id));
        grant.is_some_and(|grant| grant.terms.tools.contains(&picture.call.terms.tool.tool))
    }

    /// How full the fullest window is after this call.
    fn budget_percent(&self, picture: &Picture<'_>) -> u64 {
        let (price, charges) = (picture.quote.micros(), picture.charges);
        if price == Micros(0) {
            return 0;
        }
        let percent = |charge: &Charge| {
            let left = self.store.room(charge, picture.now).0.saturating_sub(price.0);
            let used = charge.limit.0.saturating_sub(left);
            let percent = u128::from(used).saturating_mul(100).checked_div(charge.limit.0.into());
            percent.and_then(|percent| u64::try_from(percent).ok()).unwrap_or(100)
        };
        charges.iter().map(percent).max().unwrap_or(0)
    }

    /// How far everybody in a call is trusted. What that allows is `Question::by`'s.
    pub(super) fn trust(&self, picture: &Picture<'_>) -> Trust {
        let Picture { call, caller, now, .. } = picture;
        let tiers = &picture.policy.tables().tiers;
        let (principal, start) = (caller.principal, tiers.start());
        Trust {
            agent: self.standing.agent(tiers, &agent_name(principal), *now),
            human: match caller.is_anonymous() {
                true => start.anonymous,
                false => self.standing.human(tiers, &principal.delegator_text()),
            },
            consent: if picture.grant.is_some() || picture.is_judged {
                start.granted
            } else {
                start.ungranted
            },
            server: self.standing.server(tiers, &call.terms.tool.server),
            may: false,
            price_cap: Micros(0),
            max_risk: 0,
        }
    }

    /// Remembers a call that runs now, and marks its session with what it may bring back.
    pub fn remember(&self, hold: &Hold, attempt: &Attempt) {
        let (permit, now) = (hold.permit(), self.world.now());
        let (principal, terms) = (permit.identity().principal(), permit.terms());
        // Work pays nobody: it says nothing of whom the tool lets be paid.
        let offer = permit.payment().offer().filter(|offer| offer.rail != Rail::Pow);
        self.past.ran(&Ran {
            agent: agent_key(&principal.tenant, &principal.agent),
            tool: terms.tool.clone(),
            call: permit.quote().call_digest(),
            paid: offer.map(|offer| {
                (offer.micros, offer.payee.as_str().into(), Arc::clone(&offer.amount.asset.0))
            }),
            at: now,
        });
        let is_untrusted = self.is_open_world(terms, &self.pinned(terms));
        let marks = (is_untrusted, terms.sensitivity >= PRIVATE);
        self.past.mark(permit.identity().key(), attempt.session.as_deref(), marks, now);
    }

    /// Rebuilds the past from the calls of the store, the latest ones.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn recall(&self) -> Result<(), Refusal> {
        let calls = self.store.calls(None, None, RECALLED)?;
        for view in calls.iter().rev() {
            if !has_run(view.state) {
                continue;
            }
            let earned = view.price.as_ref().filter(|_| view.rail != Some(Rail::Treasury));
            let paid = earned.and_then(|amount| {
                let (_, payee) = self.rails.takes(&amount.asset)?;
                Some((view.micros, payee.into(), Arc::clone(&amount.asset.0)))
            });
            let tool = ToolRef { server: Arc::clone(&view.server), tool: Arc::clone(&view.tool) };
            let agent = agent_key(&view.tenant, &view.agent);
            self.past.ran(&Ran { agent, tool, call: view.call_digest, paid, at: view.opened_at });
        }
        Ok(())
    }

    /// Counts a refusal against its caller's agent.
    pub async fn misbehaved(&self, principal: Option<&Principal>, code: Code) {
        if let (Some(principal), Some(behaviour)) = (principal, behaviour_of(code)) {
            self.behaved(principal, behaviour).await;
        }
    }

    /// Counts a behaviour against its agent; a fall is written down, and holds at once all the
    /// same when that fails.
    pub(super) async fn behaved(&self, principal: &Principal, behaviour: Behaviour) {
        // Nobody in particular has no standing: everybody would share it.
        if principal.delegator.is_none() {
            return;
        }
        let (name, now) = (agent_name(principal), self.world.now());
        let policy = self.policy.engine();
        let tiers = &policy.tables().tiers;
        if let Some(fallen) = self.standing.behaved(tiers, &name, behaviour, now) {
            let _unwritten = Standing::keep(&self.store, &name, &fallen).await;
        }
    }
}

fn has_run(state: CallState) -> bool {
    matches!(
        state,
        CallState::Starting | CallState::Finished | CallState::Captured | CallState::InDoubt
    )
}

/// An agent under its tenant; a `/` in the tenant's name cannot make two names one, since the
/// agent's own are unique under the issuer that the tenant comes from.
#[must_use]
pub(super) fn agent_name(principal: &Principal) -> String {
    format!("{}/{}", principal.tenant, principal.agent)
}

/// 0 nobody, 1 a program, 2 a person, 3 a person whose sign-in the token speaks of, class and all.
pub(super) fn assurance(caller: Caller<'_>) -> u8 {
    let Some(delegator) = &caller.principal.delegator else { return 0 };
    let sign_in = caller.sign_in;
    match (delegator.is_human, sign_in.acr.is_some() && sign_in.at.is_some()) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 3,
    }
}
