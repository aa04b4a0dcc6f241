//! Proof of work over plain HTTP, for clients that do not read it out of a payment challenge: ask
//! for a challenge, hand its solution in, present a macaroon.
//!
//! Neither endpoint decides or counts anything: a challenge is bound to the call that is to be
//! made, and all of that call's proofs are looked at when it comes. The macaroon stands for the
//! same challenge, so that both together are good for one call.

use crate::{
    beside::{self, Asked},
    body::Body,
    config::Server,
    gate::Gate,
    mcp, problem,
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
use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::sync::Arc;

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
        let server = beside::server_at(gate, at)?;
        match step {
            "challenge" => Some(Self::Challenge(server)),
            "verify" => Some(Self::Verify),
            _ => None,
        }
    }
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
        Ok(json) => beside::private(StatusCode::OK, json),
        Err(refusal) => refused(gate, &step, &beside::counted(gate, &head, refusal)),
    }
}

/// A solution that is no good is answered 400 with the word that the form has for it.
fn refused(gate: &Gate, step: &Step, refusal: &Refusal) -> Response<Body> {
    match step {
        Step::Challenge(server) => beside::refused(gate, server, refusal),
        Step::Verify if refusal.code() == Code::FailuresTooMany => problem::http(refusal),
        Step::Verify => {
            let mut body = serde_json::to_value(refusal.problem()).unwrap_or(Value::Null);
            if let Some(members) = body.as_object_mut() {
                members.insert("error".to_owned(), "invalid_solution".into());
            }
            beside::private(StatusCode::BAD_REQUEST, body.to_string())
        }
    }
}

async fn answered(
    gate: &Gate,
    step: &Step,
    head: &Parts,
    body: Incoming,
) -> Result<String, Refusal> {
    let rail = gate.rails.pow.as_ref().ok_or(Code::UnknownServer)?;
    let bytes = beside::read(gate, head, body).await?;
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
    let asked = Asked::read(bytes)?;
    let terms = server.terms(&asked.tool).ok_or(Code::UnknownTool)?;
    let arguments = asked.arguments.as_deref().map_or("{}", RawValue::get);
    let arguments = json::canonical(arguments.as_bytes(), &gate.json_limits())
        .map_err(|error| Refusal::new(Code::MalformedJson).with("detail", error))?;
    let meta = asked.meta.as_deref().map(Meta::parse).transpose().map_err(mcp::refused_envelope)?;
    let meta = meta.unwrap_or_default();
    let evidence = Evidence::of(&head.headers, &meta)?.from(server::peer(head));
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
