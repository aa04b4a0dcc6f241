//! When a Lightning node needs a person: thresholds that were crossed, by node.
//!
//! INVARIANT: an alert is told once when it begins, and once when it has ended for a while; figures
//! that hover about a threshold do not ring each time.

use super::{Figures, NodeError, Sight};
use countersign_core::time::UnixMs;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An alert ends when nothing was wrong for so long, in milliseconds.
const CALM_MS: u64 = 60_000;
/// Fewer payments than this say nothing of how many succeed or how long they take.
const ENDED_MIN: u64 = 20;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alert {
    /// The node gives no answer.
    Unreachable,
    /// It can receive too little.
    InboundLow,
    /// It can send too little.
    OutboundLow,
    /// Too many invoices lapse.
    SuccessLow,
    /// Payments take too long to come.
    Slow,
}

impl Alert {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Unreachable, Self::InboundLow, Self::OutboundLow, Self::SuccessLow, Self::Slow];

    /// Its word.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::InboundLow => "inbound_low",
            Self::OutboundLow => "outbound_low",
            Self::SuccessLow => "success_low",
            Self::Slow => "slow",
        }
    }
}

/// From where on something is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Less than this can be received.
    pub inbound_below_msat: Option<u64>,
    /// Less than this can be sent.
    pub outbound_below_msat: Option<u64>,
    /// Fewer of a hundred invoices are paid.
    pub success_below_percent: Option<u8>,
    /// One of a hundred payments takes longer.
    pub p99_above_ms: Option<u64>,
}

/// A figure beyond its threshold; none for a node without an answer.
type Beyond = Option<(u64, u64)>;

impl Thresholds {
    /// What is wrong with a node.
    fn crossed(&self, sight: &Sight, figures: &Figures) -> BTreeMap<Alert, Beyond> {
        let below = |figure: u64, least: Option<u64>| {
            least.filter(|least| figure < *least).map(|least| Some((figure, least)))
        };
        let has_enough = figures.ended >= ENDED_MIN;
        let percent = figures.success_percent.filter(|_| has_enough).map(u64::from);
        let slow = figures.p99_ms.filter(|_| has_enough).zip(self.p99_above_ms);
        let (unreachable, inbound, outbound) = match sight.balances {
            Err(NodeError::Unsupported) => (None, None, None),
            Err(_) => (Some(None), None, None),
            Ok(balances) => (
                None,
                below(balances.inbound_msat, self.inbound_below_msat),
                below(balances.outbound_msat, self.outbound_below_msat),
            ),
        };
        let success =
            percent.and_then(|percent| below(percent, self.success_below_percent.map(u64::from)));
        [
            (Alert::Unreachable, unreachable),
            (Alert::InboundLow, inbound),
            (Alert::OutboundLow, outbound),
            (Alert::SuccessLow, success),
            (Alert::Slow, slow.filter(|(p99, most)| p99 > most).map(Some)),
        ]
        .into_iter()
        .filter_map(|(alert, beyond)| Some((alert, beyond?)))
        .collect()
    }
}

/// The alerts that stand.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<BTreeMap<(Arc<str>, Alert), Standing>>);

#[derive(Clone, Copy, Debug)]
struct Standing {
    since: UnixMs,
    beyond: Beyond,
    /// Since when nothing is wrong any more.
    calm_since: Option<UnixMs>,
}

/// An alert that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub alert: Alert,
    /// It begins; else it ends.
    pub is_raised: bool,
    /// Since when it stands.
    pub since: UnixMs,
    /// The figure, and the threshold that it is beyond.
    pub beyond: Beyond,
}

impl Alarms {
    /// Looks at a node; what began or ended.
    pub fn look(
        &self,
        (node, sight, figures): (&Arc<str>, &Sight, &Figures),
        thresholds: &Thresholds,
        now: UnixMs,
    ) -> Vec<Change> {
        let crossed = thresholds.crossed(sight, figures);
        let mut standing = self.lock();
        let mut changes = Vec::new();
        for alert in Alert::ALL {
            let key = (Arc::clone(node), alert);
            match (crossed.get(&alert), standing.get_mut(&key)) {
                (None, None) => {}
                (Some(beyond), None) => {
                    let fresh = Standing { since: now, beyond: *beyond, calm_since: None };
                    standing.insert(key, fresh);
                    let beyond = *beyond;
                    changes.push(Change { alert, is_raised: true, since: now, beyond });
                }
                (Some(beyond), Some(known)) => (known.beyond, known.calm_since) = (*beyond, None),
                (None, Some(known)) => {
                    let calm_since = *known.calm_since.get_or_insert(now);
                    if now.since_ms(calm_since) >= CALM_MS {
                        let Standing { since, beyond, .. } = *known;
                        standing.remove(&key);
                        changes.push(Change { alert, is_raised: false, since, beyond });
                    }
                }
            }
        }
        changes
    }

    /// The alerts of a node that stand.
    #[must_use]
    pub fn standing(&self, node: &str) -> Vec<Alert> {
        let standing = self.lock();
        standing.keys().filter(|(of, _)| **of == *node).map(|(_, alert)| *alert).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Arc<str>, Alert), Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rails::lightning::Balances;

    const NOW: UnixMs = UnixMs(1_795_000_000_000);

    fn sees(inbound_msat: u64) -> Sight {
        Sight { at: NOW, balances: Ok(Balances { inbound_msat, outbound_msat: 9_000 }) }
    }

    #[test]
    fn an_alert_is_told_when_it_begins_and_when_it_has_been_calm_for_a_while() {
        let (alarms, node) = (Alarms::default(), Arc::from("ldk"));
        let limits = Thresholds { inbound_below_msat: Some(5_000), ..Thresholds::default() };
        let figures = Figures::default();
        let look = |sight: Sight, ms: u64| {
            let changes = alarms.look((&node, &sight, &figures), &limits, NOW.plus_ms(ms));
            changes.iter().map(|c| (c.alert, c.is_raised, c.beyond)).collect::<Vec<_>>()
        };
        assert!(look(sees(5_000), 0).is_empty());
        let low = (Alert::InboundLow, true, Some((4_999, 5_000)));
        assert_eq!(look(sees(4_999), 1), [low]);
        assert!(look(sees(1_000), 2).is_empty(), "it is known");
        assert_eq!(alarms.standing("ldk"), [Alert::InboundLow]);
        assert!(alarms.standing("lnd").is_empty());
        assert!(look(sees(6_000), 1_000).is_empty());
        assert!(look(sees(4_000), 60_000).is_empty(), "it hovers");
        assert!(look(sees(6_000), 61_000).is_empty());
        let gone = Sight { at: NOW, balances: Err(NodeError::Unreachable) };
        let ended = (Alert::InboundLow, false, Some((4_000, 5_000)));
        assert_eq!(look(gone, 121_000), [(Alert::Unreachable, true, None), ended]);
        assert_eq!(alarms.standing("ldk"), [Alert::Unreachable]);
    }

    #[test]
    fn rates_need_some_payments_to_say_anything() {
        let limits = Thresholds {
            success_below_percent: Some(80),
            p99_above_ms: Some(30_000),
            outbound_below_msat: Some(10_000),
            ..Thresholds::default()
        };
        let figures = Figures {
            ended: 19,
            success_percent: Some(79),
            p99_ms: Some(30_001),
            ..Figures::default()
        };
        let crossed =
            |figures: Figures| limits.crossed(&sees(0), &figures).into_keys().collect::<Vec<_>>();
        assert_eq!(crossed(figures), [Alert::OutboundLow]);
        let all = [Alert::OutboundLow, Alert::SuccessLow, Alert::Slow];
        assert_eq!(crossed(Figures { ended: 20, ..figures }), all);
        let good =
            Figures { success_percent: Some(80), p99_ms: Some(30_000), ended: 20, ..figures };
        assert_eq!(crossed(good), [Alert::OutboundLow]);
    }
}
