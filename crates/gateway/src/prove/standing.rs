//! How far agents, people and servers are trusted: where they start (the bundle), what a person
//! said since, and what behaviour took away for a time.
//!
//! INVARIANT: behaviour only lowers. A person's word replaces the start, and ends what behaviour
//! took away; both outlive a restart.

use countersign_core::{
    policy::{Behaviour, Reason, Tier, Tiers},
    refusal::{Code, Family, Refusal},
    time::UnixMs,
};
use countersign_store::Store;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Notes of tiers that people set, and of tiers that fell.
const SET: &str = "tier";
const FALLEN: &str = "fallen";
/// Agents whose behaviour is counted at once.
const AGENTS_MAX: usize = 10_000;

/// Whose tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// `tenant/agent`.
    Agent,
    /// `issuer|subject`.
    Human,
    /// A server's name.
    Server,
}

impl Party {
    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Human => "human",
            Self::Server => "server",
        }
    }
}

/// A tier that behaviour lowered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallen {
    /// Because of what.
    pub because: Behaviour,
    /// To what.
    pub tier: Tier,
    /// When.
    pub at: UnixMs,
    /// Until when.
    pub until: UnixMs,
}

/// Everybody's standing.
#[derive(Debug, Default)]
pub struct Standing(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: BTreeMap<String, Tier>,
    fallen: BTreeMap<String, Fallen>,
    events: HashMap<(String, Behaviour), VecDeque<UnixMs>>,
    refusals: BTreeMap<String, u64>,
    /// Calls that policy was asked about, since when.
    decisions: u64,
    since: UnixMs,
}

impl Standing {
    /// What the store holds.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn load(store: &Store, now: UnixMs) -> Result<Self, Refusal> {
        let fault = |_| Refusal::new(Code::StoreFault);
        let mut inner = Inner { since: now, ..Inner::default() };
        for (key, body) in store.notes(SET)? {
            inner.set.insert(key, serde_json::from_str(&body).map_err(fault)?);
        }
        for (key, body) in store.notes(FALLEN)? {
            inner.fallen.insert(key, serde_json::from_str(&body).map_err(fault)?);
        }
        Ok(Self(Mutex::new(inner)))
    }

    /// An agent's tier now.
    #[must_use]
    pub fn agent(&self, tiers: &Tiers, key: &str, now: UnixMs) -> Tier {
        let inner = self.lock();
        let start = inner.set_for(Party::Agent, key).unwrap_or_else(|| tiers.agent(key));
        let fallen = Behaviour::ALL.iter().filter_map(|because| inner.fallen(key, *because));
        fallen.filter(|fallen| now < fallen.until).map(|fallen| fallen.tier).fold(start, Tier::min)
    }

    /// A person's ceiling.
    #[must_use]
    pub fn human(&self, tiers: &Tiers, key: &str) -> Tier {
        self.lock().set_for(Party::Human, key).unwrap_or_else(|| tiers.human(key))
    }

    /// A server's tier.
    #[must_use]
    pub fn server(&self, tiers: &Tiers, name: &str) -> Tier {
        self.lock().set_for(Party::Server, name).unwrap_or_else(|| tiers.server(name))
    }

    /// Counts a behaviour of an agent; the fall that it leads to, if it does, which is yet to be
    /// written down.
    #[must_use]
    pub fn behaved(
        &self,
        tiers: &Tiers,
        key: &str,
        because: Behaviour,
        now: UnixMs,
    ) -> Option<Fallen> {
        let rule = *tiers.fall(because)?;
        let mut inner = self.lock();
        let event = (key.to_owned(), because);
        if inner.events.len() >= AGENTS_MAX && !inner.events.contains_key(&event) {
            let since = now.minus_ms(rule.within_s.saturating_mul(1000));
            inner.events.retain(|_, times| times.back().is_some_and(|at| *at > since));
        }
        let times = inner.events.entry(event).or_default();
        let since = now.minus_ms(rule.within_s.saturating_mul(1000));
        while times.front().is_some_and(|at| *at <= since) {
            times.pop_front();
        }
        times.push_back(now);
        if u32::try_from(times.len()).unwrap_or(u32::MAX) < rule.count {
            return None;
        }
        // Counted out: what follows counts towards the next fall.
        times.clear();
        let start = inner.set_for(Party::Agent, key).unwrap_or_else(|| tiers.agent(key));
        let until = now.plus_ms(rule.for_s.saturating_mul(1000));
        let fallen = Fallen { because, tier: start.lowered(rule.steps), at: now, until };
        inner.fallen.insert(fallen_key(key, because), fallen.clone());
        Some(fallen)
    }

    /// Everybody that a person or behaviour moved: party, name, tier; and falls that hold now.
    #[must_use]
    pub fn list(&self, now: UnixMs) -> (BTreeMap<String, Tier>, BTreeMap<String, Fallen>) {
        let inner = self.lock();
        let holds = |(_, fallen): &(&String, &Fallen)| now < fallen.until;
        let fallen = inner.fallen.iter().filter(holds);
        (inner.set.clone(), fallen.map(|(key, fallen)| (key.clone(), fallen.clone())).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A person's word on somebody's tier; `None` goes back to the bundle's. It ends what behaviour
    /// took away.
    ///
    /// # Errors
    /// `TooLarge`, `Overloaded`, `StoreFault`.
    pub async fn set(
        &self,
        store: &Store,
        (party, name): (Party, &str),
        tier: Option<Tier>,
        (tenant, by): (&str, &str),
    ) -> Result<(), Refusal> {
        let key = set_key(party, name);
        let body = tier.map(|tier| serde_json::to_string(&tier)).transpose();
        let body = body.map_err(|_| Code::InternalFault)?;
        store.note_set((SET, &key), body.as_deref(), (tenant, "tier.set", by)).await?;
        match tier {
            Some(tier) => self.lock().set.insert(key, tier),
            None => self.lock().set.remove(&key),
        };
        if party == Party::Agent {
            for because in Behaviour::ALL {
                let key = fallen_key(name, because);
                store.note_remove(FALLEN, &key).await?;
                self.lock().fallen.remove(&key);
            }
        }
        Ok(())
    }

    /// Counts a call that policy was asked about.
    pub fn asked(&self) {
        let mut inner = self.lock();
        inner.decisions = inner.decisions.saturating_add(1);
    }

    /// How many calls policy was asked about, and since when that is counted: since the start.
    #[must_use]
    pub fn decisions(&self) -> (u64, UnixMs) {
        let inner = self.lock();
        (inner.decisions, inner.since)
    }

    /// Counts the rules that refused a call.
    pub fn refused_by(&self, reasons: &[Reason]) {
        let mut inner = self.lock();
        for reason in reasons {
            // As many as there are rules: ids come from the bundle.
            let count = inner.refusals.entry(reason.policy.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// How often each rule refused since the start, the most often first.
    #[must_use]
    pub fn refusals(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> =
            self.lock().refusals.iter().map(|(rule, count)| (rule.clone(), *count)).collect();
        all.sort_by_key(|(rule, count)| (std::cmp::Reverse(*count), rule.clone()));
        all
    }

    /// Writes a fall down.
    ///
    /// # Errors
    /// `TooLarge`, `Overloaded`, `StoreFault`.
    pub async fn keep(store: &Store, key: &str, fallen: &Fallen) -> Result<(), Refusal> {
        let body = serde_json::to_string(fallen).map_err(|_| Code::InternalFault)?;
        store.note_put(FALLEN, &fallen_key(key, fallen.because), &body).await
    }
}

impl Inner {
    fn fallen(&self, agent: &str, because: Behaviour) -> Option<&Fallen> {
        if self.fallen.is_empty() {
            return None;
        }
        self.fallen.get(&fallen_key(agent, because))
    }

    fn set_for(&self, party: Party, name: &str) -> Option<Tier> {
        if self.set.is_empty() {
            return None;
        }
        self.set.get(&set_key(party, name)).copied()
    }
}

fn fallen_key(agent: &str, because: Behaviour) -> String {
    format!("{}:{agent}", because.text())
}

fn set_key(party: Party, name: &str) -> String {
    format!("{}:{name}", party.text())
}

/// What a refusal says of an agent's behaviour.
#[must_use]
pub fn behaviour_of(code: Code) -> Option<Behaviour> {
    if matches!(code, Code::Forbidden | Code::ApprovalDenied) {
        return Some(Behaviour::Denied);
    }
    if code == Code::IntentMismatch {
        return Some(Behaviour::IntentMismatch);
    }
    // What is only missing, late or not in the agent's hands is no misbehaviour.
    let is_harmless = matches!(
        code,
        Code::PaymentRequired
            | Code::QuoteExpired
            | Code::CredentialExhausted
            | Code::SettlementUnknown
            | Code::FacilitatorDown
            | Code::NoRail
            | Code::NoPrice
            | Code::WorkExpired
            | Code::FreeQuotaUsed
            | Code::FreeLaneFull
    );
    let is_payment = code.row().family == Family::Payment && !is_harmless;
    is_payment.then_some(Behaviour::PaymentFailed)
}
