//! Approvals that come to people: a signed webhook when one is opened, and a signed answer back.
//! After OpenID CIBA: `auth_req_id`, `binding_message`, `expires_in`.
//!
//! INVARIANT: a message is durable with the approval that it tells of, and holds what the page
//! shows but no argument and no name of a person.
//! INVARIANT: an answer is a person's by the key that is registered for them; it counts once, for
//! the content that it names, and as far as the same person's at the page would: for the requests
//! of agents that act for them, this once, never as a grant.

use crate::{
    admin::{
        actor::Actor,
        approvals::{self, Said},
        form::Reply,
    },
    body::{self, Body},
    gate::Gate,
    notify, problem,
    prove::{
        bring::unacceptable,
        jws::{PublicKey, Unverified},
    },
};
use countersign_core::{
    approval::Ask,
    digest::Digest,
    ids::ApprovalId,
    person::LinkKind,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::Note;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

/// Where answers are sent.
pub(crate) const PATH: &str = "/consent/answer";
/// The `typ` of an answer.
const TYPE: &str = "consent-answer+jwt";
/// The largest answer, in bytes.
const BYTES_MAX: usize = 16 << 10;
/// The longest an answer may be good, and how far ahead a signer's clock may be, in seconds.
const LIFE_S: u64 = 600;
const SKEW_S: u64 = 60;

/// What a person signs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    iss: String,
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
    auth_req_id: ApprovalId,
    content: String,
    answer: Word,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Approve,
    Deny,
}

impl Gate {
    /// The messages that tell of an approval, for those who want them.
    pub(crate) fn push_notes(&self, id: ApprovalId, ask: &Ask, ttl_ms: u64) -> Vec<Note> {
        let delegator = format!("{}|{}", ask.issuer, ask.subject);
        let wanted = self.config.push.iter().filter(|push| {
            push.tenant.as_ref().is_none_or(|tenant| *tenant == ask.tenant)
                && push.delegator.as_ref().is_none_or(|person| **person == *delegator)
        });
        let now = self.world.now();
        let note = |to: &std::sync::Arc<str>| {
            let body = self.push_body(id, ask, ttl_ms, now);
            notify::note(to, &format!("{id}.{to}"), body, now)
        };
        wanted.filter_map(|push| note(&push.webhook)).collect()
    }

    fn push_body(&self, id: ApprovalId, ask: &Ask, ttl_ms: u64, now: UnixMs) -> String {
        let until = now.plus_ms(ttl_ms).rfc3339();
        let (tool, payees) = (format!("{}/{}", ask.server, ask.tool), ask.payees.join(", "));
        let to = if payees.is_empty() { String::new() } else { format!(" to {payees}") };
        let binding_message =
            format!("{} asks to call {tool} for {}{to}, until {until}", ask.agent, ask.price);
        json!({
            "type": "approval.requested",
            "timestamp": now.rfc3339(),
            "data": {
                "auth_req_id": id.to_string(),
                "binding_message": binding_message,
                "expires_in": ttl_ms / 1000,
                "content": ask.content(None).to_hex(),
                "tenant": ask.tenant,
                "agent": ask.agent,
                "tool": tool,
                "intent": ask.intent.text(),
                "price": ask.price,
                "payees": ask.payees,
                "needed": ask.quorum.needed,
                "link": self.approval_url(id),
                "answer_to": format!("{}{PATH}", self.config.public_url),
            },
        })
        .to_string()
    }
}

/// Answers the endpoint that takes people's answers.
pub(crate) async fn answer(gate: &Gate, request: Request<Incoming>) -> Response<Body> {
    match take(gate, request).await {
        Ok(said) => {
            let mut answer = Response::new(Body::full(said));
            let kind = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
        Err(refusal) => {
            gate.store.count_refusal(refusal.code());
            problem::http(&refusal)
        }
    }
}

async fn take(gate: &Gate, request: Request<Incoming>) -> Result<String, Refusal> {
    if request.method() != Method::POST {
        return Err(Code::MethodNotAllowed.into());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if kind != Some("application/jose") {
        return Err(Code::UnsupportedMedia.into());
    }
    let timeout = std::time::Duration::from_millis(gate.config.limits.body_timeout_ms);
    let reading = body::read(Body::Relay(request.into_body()), BYTES_MAX);
    let bytes = tokio::time::timeout(timeout, reading).await.map_err(|_| Code::TooLarge)?;
    let bytes = bytes.map_err(|_| Code::TooLarge)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| unacceptable("not a compact JWS"))?;
    let (actor, said) = verify(gate, text)?;
    let used = Digest::of_parts(&[b"answer", said.iss.as_bytes(), said.jti.as_bytes()]);
    let found = gate.store.approval(said.auth_req_id);
    let found = found.filter(|approval| actor.may_see(approval));
    let found = found.ok_or_else(|| Refusal::new(Code::AdminNotFound).with("what", "approval"))?;
    if found.content.to_hex() != said.content {
        return Err(unacceptable("`content` is not what is asked now"));
    }
    if !gate.store.approval_returned(found.id, used).await? {
        return Err(unacceptable("this answer was given before, or the request has ended"));
    }
    let reply = Reply { reason: said.reason, content: Some(said.content), grant: None };
    let word = match said.answer {
        Word::Approve => Said::Yes,
        Word::Deny => Said::No,
    };
    let answered = approvals::answer(gate, found.id, &actor, reply, word).await;
    let answered = answered.map_err(|denied| denied.refusal().clone())?;
    let standing = json!({ "auth_req_id": answered.id.to_string(), "status": answered.status });
    Ok(standing.to_string())
}

/// Whose answer it is, and that it is for us and now.
fn verify(gate: &Gate, text: &str) -> Result<(Actor, Answer), Refusal> {
    let unverified = Unverified::parse(text.trim_end(), TYPE)?;
    let link = gate.store.link(LinkKind::Key, unverified.kid());
    let link = link.ok_or_else(|| unacceptable("the key is not registered for anybody"))?;
    let key = PublicKey::from_jwk(&link.public).ok_or(Code::InternalFault)?;
    let said: Answer = unverified.verify(&key)?;
    let now_s = gate.world.now().seconds();
    let against = if said.iss != key.uri() {
        "`iss` is not the key that signed"
    } else if said.aud != format!("{}{PATH}", gate.config.public_url) {
        "`aud` is not where answers are sent"
    } else if said.iat > now_s.saturating_add(SKEW_S) {
        "`iat` lies ahead"
    } else if now_s >= said.exp {
        "`exp` has passed"
    } else if said.exp > said.iat.saturating_add(LIFE_S) {
        "`exp` is more than ten minutes after `iat`"
    } else if said.jti.is_empty() || said.jti.len() > 256 {
        "`jti` is empty or too long"
    } else {
        let person = &link.person;
        let who = (&*person.issuer, &*person.subject, &*person.subject);
        // A key says who it is, and nothing of roles.
        return Ok((Actor::person(who, person.tenant.clone(), Vec::new(), &[]), said));
    };
    Err(unacceptable(against))
}
