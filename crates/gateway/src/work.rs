//! Proof of work over plain HTTP, for clients that do not read it out of a payment challenge: ask
//! for a challenge, hand its solution in, present a macaroon.
//!
//! Neither endpoint decides or counts anything: a challenge is bound to the call that is to be
//! made, and all of that call's proofs are looked at when it comes. The macaroon stands for the
//! same challenge, so that both together are good for one call.

use crate::{
    allowance::Caller,
    body::{self, Body, ReadError},
    config::Server,
    gate::Gate,
    problem,
    prove::Evidence,
    rails::pow::{PowRail, sha1},
    server,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_core::{
    call,
    proof::VerifiedWork,
    refusal::{Code, Refusal},
    wire::{json, mcp::Meta, pow::Presented},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{sync::Arc, time::Duration};

/// An endpoint.
#[derive(Debug)]
pub(crate) enum Step {
    /// `/{server}/mcp/pow/challenge`.
    Challenge(Arc<Server>),
    /// `/{server}/mcp/pow/verify`.
    Verify,
}

impl Step {
    /// The endpoint at a path. With one server alone its name may be left out.
    pub(crate) fn of(gate: &Gate, path: &str) -> Option<Self> {
        gate.rails.pow.as_ref()?;
        let (at, step) = path.strip_prefix('/')?.rsplit_once("mcp/pow/")?;
        let server = match at.strip_suffix('/') {
            Some(name) => gate.server(name)?,
            None if at.is_empty() && gate.config.servers.len() == 1 => {
                gate.config.servers.values().next().cloned()?
            }
            None => return None,
        };
        match step {
            "challenge" => Some(Self::Challenge(server)),
            "verify" => Some(Self::Verify),
            _ => None,
        }
    }
}

/// What a challenge is asked for: the call that is to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    tool: String,
    arguments: Option<Box<RawValue>>,
}

/// A solution that is handed in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Solved {
    nonce: String,
    solution: String,
}

/// Answers one request.
pub(crate) async fn answer(gate: &Gate, step: Step, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match answered(gate, &step, &head, body).await {
        Ok(json) => private(StatusCode::OK, json),
        Err(refusal) => {
            let refusal = gate.borne(&Caller::new(None, server::peer(&head)), refusal);
            gate.store.count_refusal(refusal.code());
            refused(gate, &step, &refusal)
        }
    }
}

/// A solution that is no good is answered 400 with the word that the form has for it.
fn refused(gate: &Gate, step: &Step, refusal: &Refusal) -> Response<Body> {
    let server = match step {
        Step::Challenge(server) => server,
        Step::Verify if refusal.code() == Code::FailuresTooMany => return problem::http(refusal),
        Step::Verify => {
            let mut body = serde_json::to_value(refusal.problem()).unwrap_or(Value::Null);
            if let Some(members) = body.as_object_mut() {
                members.insert("error".to_owned(), "invalid_solution".into());
            }
            return private(StatusCode::BAD_REQUEST, body.to_string());
        }
    };
    let mut answer = problem::http(refusal);
    gate.challenge_identity(server, refusal, answer.headers_mut());
    answer
}

async fn answered(
    gate: &Gate,
    step: &Step,
    head: &Parts,
    body: Incoming,
) -> Result<String, Refusal> {
    if head.method != Method::POST {
        return Err(Code::MethodNotAllowed.into());
    }
    let rail = gate.rails.pow.as_ref().ok_or(Code::UnknownServer)?;
    let limits = gate.json_limits();
    let patience = Duration::from_millis(gate.config.limits.body_timeout_ms);
    let read = tokio::time::timeout(patience, body::read(body, limits.max_bytes)).await;
    let bytes = read.unwrap_or(Err(ReadError::Broken)).map_err(|error| match error {
        ReadError::TooLarge => Code::TooLarge,
        ReadError::Broken => Code::MalformedJson,
    })?;
    json::check(&bytes, &limits)
        .map_err(|error| Refusal::new(Code::MalformedJson).with("detail", error))?;
    match step {
        Step::Challenge(server) => challenge(gate, rail, server, head, &bytes).await,
        Step::Verify => verify(gate, rail, &bytes),
    }
}

/// A challenge for a call, for whoever asks.
async fn challenge(
    gate: &Gate,
    rail: &PowRail,
    server: &Server,
    head: &Parts,
    bytes: &Bytes,
) -> Result<String, Refusal> {
    let asked: Asked = serde_json::from_slice(bytes).map_err(|_| {
        let detail = "expected `tool` and `arguments`, as the call will have them";
        Refusal::new(Code::MalformedJson).with("detail", detail)
    })?;
    let terms = server.terms(&asked.tool).ok_or(Code::UnknownTool)?;
    let arguments = asked.arguments.as_deref().map_or("{}", RawValue::get);
    let arguments = json::canonical(arguments.as_bytes(), &gate.json_limits())
        .map_err(|error| Refusal::new(Code::MalformedJson).with("detail", error))?;
    let evidence = Evidence::of(&head.headers, &Meta::default())?.from(server::peer(head));
    let (identity, _) = gate.identify(&terms, &evidence).await?;
    let principal = identity.principal();
    let price = terms.price_for(&principal.tenant, &principal.agent).ok_or(Code::NoPrice)?;
    if !price.work {
        return Err(Code::PaymentTerms.into());
    }
    let arguments = String::from_utf8_lossy(&arguments);
    let subject = gate.subject(rail, principal, &evidence);
    let used = gate.free_calls_left(rail, subject)?;
    let digest = call::digest(&terms, &arguments, principal);
    Ok(rail.challenge(digest, subject, used, &gate.world).offer(rail.key()))
}

/// A macaroon for a solution.
fn verify(gate: &Gate, rail: &PowRail, bytes: &Bytes) -> Result<String, Refusal> {
    let solved: Solved = serde_json::from_slice(bytes).map_err(|_| {
        Refusal::new(Code::PaymentMalformed).with("detail", "expected `nonce` and `solution`")
    })?;
    let presented = Presented::of(&solved.nonce, &solved.solution)
        .map_err(|error| Refusal::new(Code::PaymentMalformed).with("detail", error))?;
    let work = VerifiedWork::verify(&presented, rail.key(), sha1)?;
    let now = gate.world.now();
    work.is_fresh(now)?;
    let (macaroon, preimage) = work.macaroon(rail.key());
    let json = serde_json::json!({
        "macaroon": STANDARD.encode(macaroon.encode()),
        "ttl": work.expires_at().since_ms(now) / 1000,
        "preimage": hex::encode(preimage),
    });
    Ok(json.to_string())
}

fn private(status: StatusCode, json: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(json));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    answer
}
