//! How Lightning money stands: who is told when a node needs them, and how more room to receive is
//! had.

pub mod rebalance;

use crate::{
    gate::Gate,
    notify,
    prove::lightning::L402Rail,
    rails::lightning::{Alert, Change},
};
use serde_json::{Value, json};
use std::sync::Arc;

impl Gate {
    /// Looks at every node's figures, and tells what begins and what ends to be wrong.
    pub(crate) async fn ring(&self, rail: &L402Rail) {
        let l402 = self.config.rails.l402.as_ref();
        let Some(alerts) = l402.and_then(|l402| l402.alerts.as_ref()) else { return };
        let now = self.world.now();
        for (node, sight) in rail.nodes.sights() {
            let Some(sight) = sight else { continue };
            let figures = rail.takings.figures(&node, now);
            let changes = rail.alarms.look((&node, &sight, &figures), &alerts.thresholds, now);
            let Some(webhook) = &alerts.webhook else { continue };
            for change in &changes {
                self.tell_alert(webhook, &node, change).await;
            }
        }
    }

    /// Puts the message into the queue of signed webhooks. One that finds no place there stands in
    /// the status and in the metrics all the same.
    async fn tell_alert(&self, webhook: &Arc<str>, node: &str, change: &Change) {
        let now = self.world.now();
        let body = json!({
            "type": "lightning.alert",
            "timestamp": now.rfc3339(),
            "data": alert(node, change),
        });
        let key = format!("alert_{}", hex::encode(self.world.random::<16>()));
        if let Some(note) = notify::note(webhook, &key, body.to_string(), now) {
            let _no_place = self.store.note_put(note.kind, &note.key, &note.body).await;
        }
    }
}

/// An alert as it is told.
fn alert(node: &str, change: &Change) -> Value {
    let unit = match change.alert {
        Alert::Unreachable => None,
        Alert::InboundLow | Alert::OutboundLow => Some("msat"),
        Alert::SuccessLow => Some("percent"),
        Alert::Slow => Some("ms"),
    };
    let mut data = json!({
        "node": node,
        "alert": change.alert.text(),
        "state": if change.is_raised { "raised" } else { "ended" },
        "since": change.since.rfc3339(),
    });
    if let (Some(unit), Some((figure, threshold)), Some(members)) =
        (unit, change.beyond, data.as_object_mut())
    {
        members.insert(format!("figure_{unit}"), figure.into());
        members.insert(format!("threshold_{unit}"), threshold.into());
    }
    data
}
