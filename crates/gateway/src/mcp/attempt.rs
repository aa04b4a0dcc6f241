//! From a `tools/call` to an attempt: what is called, what came along as evidence, and what is
//! forwarded of it.
//!
//! INVARIANT: credentials, and what is between the caller and us, are never forwarded.

use super::{
    Stopped,
    era::{era, forwardable, single},
    refused_envelope,
};
use crate::{
    call::{Attempt, Original},
    config::Server,
    gate::Gate,
    prove::{
        Evidence,
        evidence::{META_CREDIT, META_MANDATE, META_REFUND_INVOICE},
        state,
    },
    server,
    upstream::SESSION,
};
use bytes::Bytes;
use countersign_core::{
    call::{Call, Era},
    refusal::{Code, Refusal},
    terms::ToolRef,
    wire::{
        json,
        jsonrpc::{self, Message},
        mcp::{self as wire, ClientCapabilities, Meta, Modern, ToolCall},
        pow, x402,
    },
};
use http::request::Parts;
use serde_json::value::RawValue;
use std::sync::Arc;

/// `_meta` keys that carry credentials, or are between the caller and us: never forwarded.
pub(super) const CREDENTIALS: [&str; 8] = [
    "x402/payment",
    "x402.payment",
    "ai.bolthub/payment",
    "org.paymentauth/credential",
    pow::META,
    META_MANDATE,
    META_CREDIT,
    META_REFUND_INVOICE,
];

/// `_meta` key under which a client declares what a call is for.
const INTENT: &str = "countersign/intent";

pub(super) async fn attempt(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    request: &jsonrpc::Request<'_>,
) -> Result<Attempt, Stopped> {
    let params = request
        .params
        .ok_or_else(|| Refusal::new(Code::NotJsonRpc).with("detail", "`params` is missing"))?;
    let tool = ToolCall::parse(params).map_err(refused_envelope)?;
    let named = ToolRef { server: Arc::clone(&server.name), tool: (*tool.name).into() };
    let era = era(head, request, &tool.meta, &gate.definitions.mirrored(&named))?;
    Ok(attempt_of(gate, server, head, &tool, (request.id.get(), era))?)
}

/// A question about a call with these `params`: an attempt that ends before anything is sent, and
/// that is answered in plain HTTP, whatever era the call will be of.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn question(
    gate: &Gate,
    server: &Server,
    head: &Parts,
    params: &RawValue,
) -> Result<Attempt, Refusal> {
    let tool = ToolCall::parse(params).map_err(refused_envelope)?;
    let attempt = attempt_of(gate, server, head, &tool, ("null", Era::Legacy))?;
    Ok(Attempt { is_question: true, ..attempt })
}

fn attempt_of(
    gate: &Gate,
    server: &Server,
    head: &Parts,
    tool: &ToolCall<'_>,
    (request_id, era): (&str, Era),
) -> Result<Attempt, Refusal> {
    if tool.other("task").is_some() {
        // Its result would be fetched by messages that are only relayed.
        let detail = "task-augmented calls are not accepted";
        return Err(Refusal::new(Code::NotJsonRpc).with("detail", detail));
    }
    let terms = server.terms(&tool.name).ok_or(Code::UnknownTool)?;
    let arguments = tool.arguments.map_or("{}", RawValue::get);
    let canonical = json::canonical(arguments.as_bytes(), &gate.json_limits())
        .map_err(|error| refused_envelope(error.into()))?;
    let evidence = Evidence::of(&head.headers, &tool.meta)?.from(server::peer(head));
    let now = gate.world.now();
    let returned = returned(tool);
    let params = forwarded_params(tool);
    let params = if returned.is_some() { without_ours(&params)? } else { params };
    let input = if returned.is_some() { None } else { input(gate, tool)? };
    let has_input = input.is_some();
    let arguments = String::from_utf8_lossy(&canonical).into_owned();
    let (declared, purpose) = declared(&tool.meta);
    let policy = gate.policy.engine();
    let said = (declared.as_deref(), purpose.as_deref());
    let intent = gate.intent(&policy, server, &terms, &arguments, said);
    let call = Call {
        id: countersign_core::ids::CallId::new(now, gate.world.random()),
        terms,
        arguments,
        input,
        request_id: request_id.to_owned(),
        intent,
        purpose,
        traceparent: tool.meta.text("traceparent").map(|text| text.into_owned()),
        era,
        at: now,
        params,
    };
    let message = jsonrpc::request(&call.request_id, "tools/call", Some(&call.params));
    let client = Client::of(gate, server, head, &tool.meta)?;
    Ok(Attempt {
        call,
        evidence,
        headers: forwardable(&head.headers, era).into_owned(),
        message: Bytes::from(message),
        original: None,
        is_question: false,
        // A server's own question is not lost for ours: then the answer says where to approve.
        can_ask: !has_input && client.opens_links,
        has_extension: client.reads_extension,
        returned,
        session: single(&head.headers, SESSION.as_str())?.map(str::to_owned),
        progress: None,
        policy,
    })
}

/// The attempt with its request as it came, where it may have to wait for its money.
pub(super) fn waiting(gate: &Gate, attempt: Attempt, head: &Parts, body: &Bytes) -> Attempt {
    let may_wait = gate.rails.l402.as_ref().is_some_and(|rail| rail.may_hold(&attempt.call.terms));
    let original = may_wait.then(|| Original {
        headers: head.headers.clone(),
        body: body.clone(),
        peer: server::peer(head),
    });
    Attempt { original, ..attempt }
}

/// A request that waited for its money, as a new attempt.
///
/// # Errors
/// What is wrong with it by now.
pub(crate) async fn again(
    gate: &Arc<Gate>,
    server: &Arc<Server>,
    head: &Parts,
    body: &Bytes,
) -> Result<Attempt, Refusal> {
    match Message::parse(body, &gate.json_limits()).map_err(refused_envelope)? {
        Message::Request(request) if request.method == "tools/call" => {
            attempt(gate, server, head, &request).await.map_err(|stopped| stopped.refusal)
        }
        Message::Request(_) | Message::Notification(_) | Message::Response(_) => {
            Err(Code::NotJsonRpc.into())
        }
    }
}

/// A request state of ours that the client brings back.
fn returned(tool: &ToolCall<'_>) -> Option<String> {
    let state: String = serde_json::from_str(tool.other("requestState")?.get()).ok()?;
    state::is_ours(&state).then_some(state)
}

/// The params without what answers us.
fn without_ours(params: &str) -> Result<String, Refusal> {
    let raw: &RawValue = serde_json::from_str(params).map_err(|_| Code::NotJsonRpc)?;
    wire::without_members(raw, &["requestState", "inputResponses"]).map_err(refused_envelope)
}

/// Answers to the server's own questions, canonically: they are a part of the call.
fn input(gate: &Gate, tool: &ToolCall<'_>) -> Result<Option<String>, Refusal> {
    let parts = ["inputResponses", "requestState"].map(|name| tool.other(name));
    if parts.iter().all(Option::is_none) {
        return Ok(None);
    }
    let texts = parts.map(|part| part.map_or("null", RawValue::get));
    let both = format!("[{},{}]", texts[0], texts[1]);
    let canonical = json::canonical(both.as_bytes(), &gate.json_limits())
        .map_err(|error| refused_envelope(error.into()))?;
    Ok(Some(String::from_utf8_lossy(&canonical).into_owned()))
}

/// What the client said that it can do: with this request, or when its session began.
#[derive(Clone, Copy, Default)]
struct Client {
    /// It can show its user a link.
    opens_links: bool,
    /// It knows the x402 extension, which is of the modern era.
    reads_extension: bool,
}

impl Client {
    fn of(gate: &Gate, server: &Server, head: &Parts, meta: &Meta<'_>) -> Result<Self, Refusal> {
        let modern = Modern::of(meta)
            .map_err(|error| Refusal::new(Code::MissingModernMeta).with("detail", error))?;
        if let Some(Modern { capabilities, .. }) = modern {
            return Ok(Self {
                opens_links: capabilities.elicitation_url,
                reads_extension: capabilities.has_extension(x402::EXTENSION),
            });
        }
        let Some(id) = single(&head.headers, SESSION.as_str())? else { return Ok(Self::default()) };
        let sessions = gate.upstream(&server.name).map(|upstream| &upstream.sessions);
        let initialize = sessions.ok().and_then(|sessions| sessions.initialize_of(id));
        let opens_links = initialize.is_some_and(|initialize| {
            let message = Message::parse(&initialize, &gate.json_limits());
            let Ok(Message::Request(request)) = message else { return false };
            request.params.is_some_and(opens_links)
        });
        Ok(Self { opens_links, reads_extension: false })
    }
}

/// Whether an `initialize` declares `capabilities.elicitation.url`.
fn opens_links(params: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Initialize<'a> {
        #[serde(borrow)]
        capabilities: &'a RawValue,
    }
    let read = serde_json::from_str::<Initialize<'_>>(params.get());
    let read = read.ok().and_then(|read| ClientCapabilities::parse(read.capabilities).ok());
    read.is_some_and(|capabilities| capabilities.elicitation_url)
}

/// The params without credentials; the original bytes where there are none.
fn forwarded_params(tool: &ToolCall<'_>) -> String {
    if tool.meta.is_empty() {
        return wire::rewrite_params(tool, None);
    }
    wire::rewrite_params(tool, Some(&tool.meta.without(&CREDENTIALS)))
}

/// The intent and the purpose that the caller declares.
fn declared(meta: &Meta<'_>) -> (Option<String>, Option<String>) {
    #[derive(Default, serde::Deserialize)]
    struct Raw {
        intent: Option<String>,
        purpose: Option<String>,
    }
    let raw = meta.get(INTENT).and_then(|raw| serde_json::from_str::<Raw>(raw.get()).ok());
    let Raw { intent, purpose } = raw.unwrap_or_default();
    (intent, purpose)
}
