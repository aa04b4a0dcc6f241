//! Telling somebody about a call: the messages that its reservation writes down, and the queue of
//! signed webhooks (Standard Webhooks 1.0: `webhook-id`, `webhook-timestamp`, `webhook-signature`).
//!
//! INVARIANT: what is to be told becomes durable with the call's reservation, never without it; a
//! queue that is full, or a name that nobody configured, refuses the call.
//! INVARIANT: a message carries no argument, no result and no name of a person.

use crate::{
    config::Webhook,
    fetch::{Fetch, FetchRules},
    gate::Gate,
    reload::Gates,
};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_core::{
    policy::Obligation,
    proof::Permit,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::Note;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Notes of what is still to be told.
const NOTICE: &str = "notice";
/// How often the queue is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// Messages of one look.
const ROUND_MAX: usize = 32;
/// The first wait after a failure; each one after is twice as long, up to an hour.
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = 3_600_000;
/// How long it is tried.
const GIVE_UP_MS: u64 = 24 * 3_600_000;
const TIMEOUT_MS: u64 = 5_000;

/// A message to be told, as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notice {
    /// Name of the webhook.
    to: Arc<str>,
    /// The body, as it is signed.
    body: String,
    at: UnixMs,
    next: UnixMs,
    tries: u32,
}

impl Gate {
    /// Whether every obligation can be performed at all.
    ///
    /// # Errors
    /// [`Code::UnknownObligation`] for a webhook that nobody configured.
    pub fn can_perform(&self, obligations: &[Obligation]) -> Result<(), Refusal> {
        for obligation in obligations {
            let Obligation::Notify { to } = obligation else { continue };
            if let Some(name) = to.iter().find(|n| !self.config.webhooks.contains_key(n.as_str())) {
                return Err(Refusal::new(Code::UnknownObligation).with("webhook", name));
            }
        }
        Ok(())
    }

    /// The messages that a call's reservation is to write down.
    ///
    /// # Errors
    /// A message without a form is a fault of ours.
    pub fn notices(&self, permit: &Permit) -> Result<Vec<Note>, Refusal> {
        let names = permit.authorization().obligations().iter().filter_map(|obligation| {
            let Obligation::Notify { to } = obligation else { return None };
            Some(to)
        });
        // Two rules can name the same one: it is told once.
        let names: BTreeSet<&String> = names.flatten().collect();
        names.into_iter().map(|name| self.notice(name, permit)).collect()
    }

    fn notice(&self, to: &str, permit: &Permit) -> Result<Note, Refusal> {
        let (proof, principal) = (permit.authorization(), permit.identity().principal());
        let now = self.world.now();
        let body = serde_json::json!({
            "type": "call.allowed",
            "timestamp": now.rfc3339(),
            "data": {
                "call": permit.call().to_string(),
                "call_digest": permit.quote().call_digest().to_hex(),
                "decision": proof.decision().to_string(),
                "policy": proof.bundle().to_hex(),
                "reasons": proof.reasons(),
                "tenant": principal.tenant,
                "agent": principal.agent,
                "tool": permit.terms().tool.to_string(),
                "price_micros": permit.quote().micros().0.to_string(),
                "input": proof.input(),
            },
        });
        let key = format!("{}.{to}", permit.call());
        note(&to.into(), &key, body.to_string(), now).ok_or_else(|| Code::InternalFault.into())
    }
}

/// A message for the queue; its key is its `webhook-id`.
pub(crate) fn note(to: &Arc<str>, key: &str, body: String, now: UnixMs) -> Option<Note> {
    let notice = Notice { to: Arc::clone(to), body, at: now, next: now, tries: 0 };
    let body = serde_json::to_string(&notice).ok()?;
    Some(Note { kind: NOTICE, key: key.to_owned(), body })
}

/// Tells what is queued, until `stop`.
pub async fn run(gates: &Gates, mut stop: watch::Receiver<bool>) {
    loop {
        let stopped = stop.wait_for(|stop| *stop);
        if tokio::time::timeout(EVERY, stopped).await.is_ok() {
            return;
        }
        let gate = gates.now();
        let Ok(queue) = gate.store.notes(NOTICE) else { continue };
        let now = gate.world.now();
        let due = queue.into_iter().filter_map(|(key, body)| {
            let notice: Notice = serde_json::from_str(&body).ok()?;
            (notice.next <= now).then_some((key, notice))
        });
        for (key, notice) in due.take(ROUND_MAX) {
            // Each as things are configured by then: one that is slow takes its time.
            tell(&gates.now(), &key, notice, now).await;
        }
    }
}

/// Tells one, and removes it or puts it off. What cannot be written is told again: an id says so.
async fn tell(gate: &Gate, key: &str, mut notice: Notice, now: UnixMs) {
    let is_over = now.since_ms(notice.at) >= GIVE_UP_MS;
    let webhook = gate.config.webhooks.get(&notice.to);
    let is_told = match webhook {
        Some(webhook) => post(webhook, key, &notice.body, now).await,
        None => false,
    };
    if is_told || is_over || webhook.is_none() {
        let _again = gate.store.note_remove(NOTICE, key).await;
        return;
    }
    let wait_ms = FIRST_WAIT_MS.saturating_mul(1 << notice.tries.min(12)).min(LONGEST_WAIT_MS);
    notice.tries = notice.tries.saturating_add(1);
    notice.next = now.plus_ms(wait_ms);
    if let Ok(body) = serde_json::to_string(&notice) {
        let _again = gate.store.note_put(NOTICE, key, &body).await;
    }
}

async fn post(webhook: &Webhook, id: &str, body: &str, now: UnixMs) -> bool {
    let timestamp = now.seconds().to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, webhook.secret.expose().as_bytes());
    let signature = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(signature));
    let fetch = Fetch::new(FetchRules {
        allow_private: webhook.allow_private_network,
        timeout_ms: TIMEOUT_MS,
        ..FetchRules::PUBLIC
    });
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", timestamp.as_str()),
        ("webhook-signature", signature.as_str()),
    ];
    let url = webhook.url.to_string();
    let sent = fetch.post(&url, "application/json", &headers, body.to_owned()).await;
    sent.is_ok_and(|reply| (200..300).contains(&reply.status))
}
