//! An external policy decision point, asked over OpenID AuthZEN 1.0 (Access Evaluation API).
//!
//! INVARIANT: it narrows: it is asked only about what the embedded policy lets pass, and only its
//! `true` lets that stand; silence, lateness, redirects and nonsense are no. Where it is configured
//! to decide alone the embedded policy is not asked, and only its `true` lets a call go on.
//! INVARIANT: what it may cost is bounded: time and size of an answer, questions under way, and
//! how often one that does not answer is asked.
//!
//! It sees no argument values, only their digest within the call's. Does not cache answers.

use crate::{
    config::Pdp as PdpConfig,
    fetch::{Fetch, FetchRules, Reply},
};
use countersign_core::{
    policy::Question,
    refusal::{Code, Refusal},
    time::UnixMs,
    wire::json::{self, Limits},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Questions under way; more are refused, not queued.
const UNDER_WAY_MAX: usize = 256;
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Failures in a row after which it is left alone.
const FAILURES_MAX: u32 = 5;
/// How long it is left alone, in milliseconds.
const REST_MS: u64 = 2_000;

/// One decision point.
#[derive(Debug)]
pub struct Pdp {
    fetch: Fetch,
    url: String,
    authorization: Option<Arc<str>>,
    is_sole: bool,
    places: Semaphore,
    health: Mutex<Health>,
}

/// How it has answered lately.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<UnixMs>,
}

/// Its answer. Members besides `decision` are allowed by the specification and mean nothing here.
#[derive(Deserialize)]
struct Evaluated {
    decision: bool,
}

/// Why there is no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unusable(&'static str);

impl Pdp {
    /// The decision point of a configuration.
    #[must_use]
    pub fn new(config: &PdpConfig) -> Self {
        let fetch = Fetch::new(FetchRules {
            allow_private: config.allow_private_network,
            max_bytes: ANSWER_BYTES_MAX,
            timeout_ms: config.timeout_ms,
        });
        Self {
            fetch,
            url: config.url.to_string(),
            authorization: config.bearer.as_ref().map(|b| format!("Bearer {}", b.expose()).into()),
            is_sole: config.is_sole,
            places: Semaphore::new(UNDER_WAY_MAX),
            health: Mutex::default(),
        }
    }

    /// Whether it decides alone.
    #[must_use]
    pub const fn is_sole(&self) -> bool {
        self.is_sole
    }

    /// Its yes.
    ///
    /// # Errors
    /// [`Code::ExternalDenied`]; [`Code::ExternalUnavailable`] saying in a word why there is no
    /// usable answer.
    pub async fn ask(&self, question: &Question, now: UnixMs) -> Result<(), Refusal> {
        let unusable = |Unusable(why)| Refusal::new(Code::ExternalUnavailable).with("reason", why);
        self.is_rested(now).map_err(unusable)?;
        let _place = self.places.try_acquire().map_err(|_| unusable(Unusable("busy")))?;
        let answer = self.evaluate(question).await;
        self.remember(answer.is_ok(), now);
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(Code::ExternalDenied.into()),
            Err(why) => Err(unusable(why)),
        }
    }

    async fn evaluate(&self, question: &Question) -> Result<bool, Unusable> {
        let id = question.id.to_string();
        // A decision is never cached, there neither.
        let mut headers = vec![("x-request-id", id.as_str()), ("cache-control", "no-cache")];
        headers.extend(self.authorization.as_deref().map(|value| ("authorization", value)));
        let body = request(question).to_string();
        let reply = self.fetch.post(&self.url, "application/json", &headers, body).await;
        read(&reply.map_err(|_| Unusable("unreachable"))?, &id)
    }

    fn is_rested(&self, now: UnixMs) -> Result<(), Unusable> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = health.rests_until.is_some_and(|until| now < until);
        if rests { Err(Unusable("left alone after failures")) } else { Ok(()) }
    }

    fn remember(&self, has_answered: bool, now: UnixMs) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if has_answered {
            *health = Health::default();
            return;
        }
        health.failures = health.failures.saturating_add(1);
        let is_out = health.failures >= FAILURES_MAX;
        health.rests_until = is_out.then(|| now.plus_ms(REST_MS));
    }
}

/// A whole answer of the form that the specification gives it, and nothing near it.
fn read(reply: &Reply, id: &str) -> Result<bool, Unusable> {
    if reply.status != 200 {
        return Err(Unusable("status"));
    }
    if reply.content_type.as_deref() != Some("application/json") {
        return Err(Unusable("content type"));
    }
    // An answer may name its question; then it must be this one.
    let named = reply.headers.get("x-request-id").map(|named| named.as_bytes() == id.as_bytes());
    if named == Some(false) {
        return Err(Unusable("answer to another question"));
    }
    json::check(&reply.body, &Limits::PROOF).map_err(|_| Unusable("not JSON"))?;
    let read: Result<Evaluated, _> = serde_json::from_slice(&reply.body);
    read.map(|answer| answer.decision).map_err(|_| Unusable("no decision"))
}

/// The question as AuthZEN puts it. Policies of some services see no `context` (Cerbos), so it
/// stands among the resource's properties too; some look for the tenant there (Permit.io).
pub(super) fn request(question: &Question) -> Value {
    let context = context(question);
    json!({
        "subject": {
            "type": "agent",
            "id": format!("{}/{}", question.tenant, question.agent),
            "properties": {
                "tenant": question.tenant,
                "acting_for": question.human,
                "human": question.is_human,
                "roles": question.roles,
                "acr": question.acr,
                "assurance": question.assurance,
                "chain_depth": question.chain_depth,
                "trust": question.trust,
            },
        },
        "action": { "name": question.intent.text(), "properties": { "source": question.source } },
        "resource": {
            "type": "tool",
            "id": format!("{}/{}", question.server, question.tool),
            "properties": {
                "tenant": question.tenant,
                "server": question.server,
                "tool": question.tool,
                "sensitivity": question.sensitivity,
                "open_world": question.is_open_world,
                "reversible": question.is_reversible,
                "definition": question.pin,
                "context": context,
            },
        },
        "context": context,
    })
}

fn context(question: &Question) -> Value {
    json!({
        "evaluation": question.id,
        "call_digest": question.call_digest,
        "price": { "micros": question.price, "text": question.price_text },
        "proofs": {
            "identity": question.identity,
            "payment": question.payment,
            "consent": question.consent,
        },
        "grant": question.grant,
        "remaining": question.remaining,
        "tightest": question.tightest,
        "resource": question.resource,
        "arguments_digest": question.arguments,
        "derived": question.derived,
        "declared": question.declared,
        "purpose": question.purpose,
        "risk": question.risk,
        "session": question.session,
        "fulfilled": question.fulfilled,
        "now_ms": question.now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::policy::Engine;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    fn reply(status: u16, kind: &str, body: &str) -> Reply {
        Reply {
            status,
            content_type: Some(kind.to_owned()),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn only_a_whole_true_is_a_yes() {
        let read_it = |status, kind, body| read(&reply(status, kind, body), "id");
        const JSON: &str = "application/json";
        assert_eq!(read_it(200, JSON, r#"{"decision":true}"#), Ok(true));
        assert_eq!(read_it(200, JSON, r#"{"decision":true,"context":{"a":1}}"#), Ok(true));
        assert_eq!(read_it(200, JSON, r#"{"decision":false}"#), Ok(false));
        for body in [
            "",
            "true",
            "{}",
            "[]",
            r#"{"decision":"true"}"#,
            r#"{"decision":1}"#,
            r#"{"decision":null}"#,
            r#"{"Decision":true}"#,
            r#"{"decision":false,"decision":true}"#,
            r#"{"decision":true}{"decision":true}"#,
            r#"{"decision":true"#,
        ] {
            assert!(read_it(200, JSON, body).is_err(), "{body}");
        }
        let yes = r#"{"decision":true}"#;
        for (status, kind) in
            [(201, JSON), (204, JSON), (403, JSON), (500, JSON), (200, "text/html")]
        {
            assert!(read_it(status, kind, yes).is_err(), "{status} {kind}");
        }
        let mut other = reply(200, JSON, yes);
        other.headers.insert("x-request-id", HeaderValue::from_static("another"));
        assert!(read(&other, "id").is_err());
        assert_eq!(read(&other, "another"), Ok(true));
    }

    #[test]
    fn what_is_asked_names_everybody_and_mirrors_the_context() {
        let request = request(&Engine::sample_question());
        let text = |at: &str| request.pointer(at).and_then(Value::as_str).map(str::to_owned);
        assert_eq!(text("/subject/id").as_deref(), Some("tenant/agent"));
        assert_eq!(text("/action/name").as_deref(), Some("read"));
        assert_eq!(text("/resource/id").as_deref(), Some("server/tool"));
        assert_eq!(request.pointer("/context/price/micros"), Some(&json!(1)));
        assert_eq!(request.pointer("/resource/properties/context"), request.pointer("/context"));
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_left_alone_for_a_while() {
        let pdp = Pdp::new(&PdpConfig {
            url: "http://127.0.0.1:9/access/v1/evaluation".parse().unwrap(),
            bearer: None,
            timeout_ms: 200,
            is_sole: false,
            allow_private_network: true,
        });
        let question = Engine::sample_question();
        let reason = async |now| {
            let refusal = pdp.ask(&question, UnixMs(now)).await.unwrap_err();
            assert_eq!(refusal.code(), Code::ExternalUnavailable);
            refusal.facts().first().unwrap().value.clone()
        };
        for now in 0..5 {
            assert_eq!(reason(now).await, "unreachable");
        }
        assert_eq!(reason(5).await, "left alone after failures");
        assert_eq!(reason(4 + REST_MS).await, "unreachable");
    }
}
