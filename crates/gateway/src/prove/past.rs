//! What happened lately, as far as risk looks at it: in memory, bounded, and rebuilt from
//! the store's calls at start.
//!
//! INVARIANT: what is not known counts as new. Forgetting, for want of room or by a restart, can
//! raise the risk of a call, but never lowers it.
//! INVARIANT: a session's marks are set before the answer that they speak of leaves.

use crate::halves::Halves;
use countersign_core::{
    digest::Digest, money::Micros, policy::Session, terms::ToolRef, time::UnixMs,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Prices of a tool that the median is of.
const PRICES_MAX: usize = 50;
/// Calls of an agent within the last minute that are told apart.
const MINUTE_MAX: usize = 512;
/// Tools and payees that are remembered of an agent.
const KNOWN_MAX: usize = 512;
/// Agents, tools or sessions in each half.
const HALF_MAX: usize = 4_096;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
/// How long a session without a name lasts when nothing happens.
const IDLE_MS: u64 = 30 * MINUTE_MS;

/// The recent past.
#[derive(Debug, Default)]
pub struct Past(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    agents: Halves<Digest, Agent>,
    tools: Halves<ToolRef, Tool>,
    flows: Halves<Digest, Flow>,
}

impl Default for Inner {
    fn default() -> Self {
        let (agents, tools) = (Halves::new(HALF_MAX), Halves::new(HALF_MAX));
        Self { agents, tools, flows: Halves::new(HALF_MAX) }
    }
}

#[derive(Debug, Default)]
struct Agent {
    minute: Minute,
    first_hour: Option<u64>,
    hour: u64,
    this_hour: u64,
    before: u64,
    tools: HashSet<ToolRef>,
    payees: HashSet<Arc<str>>,
}

/// The latest calls, and how often each of them is among these.
#[derive(Debug, Default)]
struct Minute {
    calls: VecDeque<(UnixMs, Digest)>,
    counts: HashMap<Digest, u64>,
}

#[derive(Debug, Default)]
struct Tool {
    prices: VecDeque<Micros>,
    median: Option<Micros>,
    payee: Option<Arc<str>>,
    asset: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Flow {
    is_tainted: bool,
    is_private: bool,
    at: UnixMs,
}

/// A call that ran, or runs now.
#[derive(Clone, Debug)]
pub struct Ran {
    /// `tenant` and agent.
    pub agent: Digest,
    /// Its tool.
    pub tool: ToolRef,
    /// The call digest, where it is known.
    pub call: Digest,
    /// What was paid, with payee and asset; `None` for nothing.
    pub paid: Option<(Micros, Arc<str>, Arc<str>)>,
    /// When.
    pub at: UnixMs,
}

/// What the past says of a call that is about to be decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    /// Median of the tool's latest prices.
    pub median: Option<Micros>,
    /// The agent has never paid this payee.
    pub is_payee_first: bool,
    /// The tool's payee was another one last time.
    pub is_payee_changed: bool,
    /// So was its asset.
    pub is_asset_changed: bool,
    /// The agent has never called the tool.
    pub is_tool_first: bool,
    /// The agent's calls in this hour, this one included.
    pub calls_this_hour: u64,
    /// Its mean in earlier hours.
    pub hourly_mean: Option<u64>,
    /// The same call within a minute, this one included.
    pub same_calls: u64,
    /// The agent's calls within a minute, without this one.
    pub calls_last_minute: u64,
}

impl Glance {
    /// Of a caller whom nobody knows: what all such callers do together says nothing of one.
    #[must_use]
    pub const fn of_nobody(self) -> Self {
        Self {
            is_payee_first: false,
            is_tool_first: false,
            calls_this_hour: 1,
            hourly_mean: None,
            same_calls: 1,
            ..self
        }
    }
}

/// The key of an agent: its name under its tenant.
#[must_use]
pub fn agent_key(tenant: &str, agent: &str) -> Digest {
    Digest::of_parts(&[b"agent", tenant.as_bytes(), agent.as_bytes()])
}

impl Past {
    /// What is known of a call's agent and tool. `offers` are payee and asset of each way to pay.
    #[must_use]
    pub fn glance(
        &self,
        (agent, tool, call): (Digest, &ToolRef, Digest),
        offers: &[(&str, &str)],
        now: UnixMs,
    ) -> Glance {
        let inner = self.lock();
        let mut glance = Glance {
            is_payee_first: !offers.is_empty(),
            is_tool_first: true,
            calls_this_hour: 1,
            same_calls: 1,
            ..Glance::default()
        };
        if let Some(known) = inner.agents.peek(&agent) {
            known.glance(&mut glance, (tool, call), offers, now);
        }
        if let Some(known) = inner.tools.peek(tool) {
            glance.median = known.median;
            let payees = offers.iter().map(|(payee, _)| *payee);
            let assets = offers.iter().map(|(_, asset)| *asset);
            glance.is_payee_changed = is_other(known.payee.as_deref(), payees);
            glance.is_asset_changed = is_other(known.asset.as_deref(), assets);
        }
        glance
    }

    /// Remembers a call that runs.
    pub fn ran(&self, ran: &Ran) {
        let mut inner = self.lock();
        inner.agents.entry(&ran.agent).ran(ran);
        let Some((price, payee, asset)) = &ran.paid else { return };
        let tool = inner.tools.entry(&ran.tool);
        tool.prices.push_back(*price);
        if tool.prices.len() > PRICES_MAX {
            tool.prices.pop_front();
        }
        let mut prices: Vec<Micros> = tool.prices.iter().copied().collect();
        let middle = prices.len() / 2;
        tool.median = Some(*prices.select_nth_unstable(middle).1);
        tool.payee = Some(Arc::clone(payee));
        tool.asset = Some(Arc::clone(asset));
    }

    /// What a session saw. One without a name is all that its principal does without one, and ends
    /// after half an hour of silence.
    #[must_use]
    pub fn session(&self, principal: Digest, id: Option<&str>, now: UnixMs) -> Session {
        let inner = self.lock();
        let flow = inner.flows.peek(&flow_key(principal, id));
        let id = id.map(|id| flow_key(principal, Some(id)));
        match flow.filter(|flow| id.is_some() || now.since_ms(flow.at) < IDLE_MS) {
            Some(flow) => Session {
                id,
                is_tainted: flow.is_tainted,
                is_private: flow.is_private,
                calls_last_minute: 0,
            },
            None => Session { id, ..Session::default() },
        }
    }

    /// Marks a session with what a call's answer can hold. What happens under a name counts for
    /// the nameless session of its principal too: leaving the name out hides nothing.
    pub fn mark(
        &self,
        principal: Digest,
        id: Option<&str>,
        (is_tainted, is_private): (bool, bool),
        now: UnixMs,
    ) {
        let mut inner = self.lock();
        let own = flow_key(principal, id);
        let nameless = flow_key(principal, None);
        for key in [own, nameless].iter().take(if id.is_some() { 2 } else { 1 }) {
            let flow = inner.flows.entry(key);
            let is_over = *key == nameless && now.since_ms(flow.at) >= IDLE_MS;
            flow.is_tainted = is_tainted || (flow.is_tainted && !is_over);
            flow.is_private = is_private || (flow.is_private && !is_over);
            flow.at = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    fn glance(
        &self,
        glance: &mut Glance,
        (tool, call): (&ToolRef, Digest),
        offers: &[(&str, &str)],
        now: UnixMs,
    ) {
        glance.is_tool_first = !self.tools.contains(tool);
        let is_known = |(payee, _): &(&str, &str)| self.payees.contains(*payee);
        glance.is_payee_first = !offers.is_empty() && !offers.iter().all(is_known);
        let hour = now.0 / HOUR_MS;
        let this_hour = if hour == self.hour { self.this_hour } else { 0 };
        let before = self.before.saturating_add(self.this_hour).saturating_sub(this_hour);
        glance.calls_this_hour = this_hour.saturating_add(1);
        let hours = self.first_hour.map_or(0, |first| hour.saturating_sub(first));
        glance.hourly_mean = before.checked_div(hours);
        let (calls, same) = self.minute.count(call, now);
        glance.calls_last_minute = calls;
        glance.same_calls = glance.same_calls.saturating_add(same);
    }

    fn ran(&mut self, ran: &Ran) {
        self.minute.push(ran.call, ran.at);
        let hour = ran.at.0 / HOUR_MS;
        if hour != self.hour {
            self.before = self.before.saturating_add(self.this_hour);
            (self.hour, self.this_hour) = (hour, 0);
        }
        self.this_hour = self.this_hour.saturating_add(1);
        self.first_hour = Some(self.first_hour.map_or(hour, |first| first.min(hour)));
        remember(&mut self.tools, &ran.tool);
        if let Some((_, payee, _)) = &ran.paid {
            remember(&mut self.payees, payee);
        }
    }
}

impl Minute {
    /// How many calls there were within the minute before `now`, and how many of them were `call`.
    fn count(&self, call: Digest, now: UnixMs) -> (u64, u64) {
        let mut counts = (self.calls.len(), self.counts.get(&call).copied().unwrap_or(0));
        for (_, digest) in self.calls.iter().take_while(|(at, _)| now.since_ms(*at) >= MINUTE_MS) {
            counts.0 = counts.0.saturating_sub(1);
            counts.1 = counts.1.saturating_sub(u64::from(*digest == call));
        }
        (u64::try_from(counts.0).unwrap_or(u64::MAX), counts.1)
    }

    fn push(&mut self, call: Digest, now: UnixMs) {
        self.calls.push_back((now, call));
        let count = self.counts.entry(call).or_default();
        *count = count.saturating_add(1);
        let is_over = |at: UnixMs| now.since_ms(at) >= MINUTE_MS;
        while self.calls.len() > MINUTE_MAX
            || self.calls.front().is_some_and(|(at, _)| is_over(*at))
        {
            let Some((_, first)) = self.calls.pop_front() else { break };
            if let Some(count) = self.counts.get_mut(&first) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&first);
                }
            }
        }
    }
}

/// Whether what was last is none of these.
fn is_other<'a>(last: Option<&str>, mut now: impl Iterator<Item = &'a str>) -> bool {
    last.is_some_and(|last| !now.any(|one| one == last))
}

/// What does not fit is new each time.
fn remember<T: Clone + Eq + Hash>(known: &mut HashSet<T>, new: &T) {
    if known.len() < KNOWN_MAX && !known.contains(new) {
        known.insert(new.clone());
    }
}

fn flow_key(principal: Digest, id: Option<&str>) -> Digest {
    match id {
        Some(id) => Digest::of_parts(&[b"session", principal.as_bytes(), id.as_bytes()]),
        None => principal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(count: usize) -> u64 {
        u64::try_from(count).unwrap()
    }

    proptest! {
        #[test]
        fn a_minute_counts_as_if_all_its_calls_were_looked_at(
            steps in prop::collection::vec((0u8..4, 0u64..9_000), 1..700),
            later in 0..2 * MINUTE_MS,
        ) {
            let (mut minute, mut all, mut now) = (Minute::default(), Vec::new(), UnixMs(0));
            let digest = |call: u8| Digest::of(&[call]);
            for (call, pause_ms) in steps {
                // Sometimes nothing passes: more calls than are told apart.
                now = now.plus_ms(if pause_ms < 8_000 { 0 } else { pause_ms });
                minute.push(digest(call), now);
                all.push((now, call));
            }
            let now = now.plus_ms(later);
            let kept = all.iter().rev().take(MINUTE_MAX);
            let recent: Vec<u8> =
                kept.filter(|(at, _)| now.since_ms(*at) < MINUTE_MS).map(|(_, call)| *call).collect();
            for call in 0..4 {
                let same = recent.iter().filter(|other| **other == call).count();
                let counted = minute.count(digest(call), now);
                prop_assert_eq!(counted, (number(recent.len()), number(same)));
            }
            prop_assert_eq!(minute.counts.values().sum::<u64>(), number(minute.calls.len()));
        }
    }
}
