//! Answers to `tools/call`: a result with its receipt, a denial that an agent can act on, or a
//! challenge in every form that a client may read. Rendering only, but for signing receipts.

use crate::{
    body::Body,
    call::{Attempt, Refused},
    config::{PaymentForm, Server},
    gate::Gate,
    problem,
    prove::payment::Challenge,
};
use countersign_core::{
    approval::ApprovalStatus,
    audit::receipt::{LogPosition, RECEIPT_META, RECEIPT_VERSION, Receipt, ReceiptState},
    call::Era,
    money::Amount,
    quote::Rail,
    refusal::{Charged, Code, Family, Refusal},
    wire::{
        json::quote,
        jsonrpc, l402, mcp, pow,
        x402::{self, McpChallenge, PaymentRequired, Resource, ResultForm},
    },
};
use countersign_store::Captured;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::{json, value::RawValue};

/// `_meta` key that says whether money moved, on results that carry no receipt.
const CHARGED_META: &str = "countersign/charged";
/// `_meta` key of a repeated request's outcome: the call that really ran.
const REPLAY_META: &str = "countersign/replay-of";

/// How a call ended that ran.
#[derive(Debug)]
pub enum Done {
    /// Captured: the result with its receipt.
    Captured(Captured),
    /// The outcome of the same call, run before: the same result and receipt.
    Replayed(Captured),
    /// The tool reported an error: passed on, not charged unless it says so.
    ToolError(String, Charged),
    /// The server answered with a JSON-RPC error: passed on.
    ProtocolError(String, Charged),
}

impl Done {
    /// A stored outcome.
    ///
    /// # Errors
    /// [`Code::ResultTooLarge`] when the result was too large to keep.
    pub fn replayed(stored: Captured) -> Result<Self, Refusal> {
        match &stored.result {
            Some(_) => Ok(Self::Replayed(stored)),
            None => Err(Refusal::new(Code::ResultTooLarge).charged(Charged::Yes)),
        }
    }

    /// What its money did, where it is an x402 client's to read.
    fn x402_settlement(&self) -> Option<&str> {
        match self {
            Self::Captured(captured) | Self::Replayed(captured) => x402_settlement(captured),
            Self::ToolError(..) | Self::ProtocolError(..) => None,
        }
    }
}

/// How payment is asked for and denials are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Inside MCP: tool results.
    Mcp,
    /// By HTTP status and headers, for payment clients that wrap `fetch`.
    Http,
}

impl Form {
    /// By configuration, else by what the client shows: MCP clients must name event streams in
    /// `Accept` (transports, "Sending Messages"), wrappers of plain HTTP do not; a credential in an
    /// HTTP header is answered in HTTP.
    #[must_use]
    pub fn of(server: &Server, head: &Parts) -> Self {
        let in_header = head.headers.contains_key(x402::PAYMENT_SIGNATURE)
            || head.headers.contains_key(l402::COMPOSITE)
            || head.headers.contains_key(pow::SOLUTION)
            || has_l402(head);
        match server.payment_form {
            PaymentForm::Mcp => Self::Mcp,
            PaymentForm::Http => Self::Http,
            PaymentForm::Auto if in_header || !accepts_events(&head.headers) => Self::Http,
            PaymentForm::Auto => Self::Mcp,
        }
    }
}

/// Whether the client reads event streams.
#[must_use]
fn accepts_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.contains("text/event-stream")))
}

fn has_l402(head: &Parts) -> bool {
    head.headers.get_all(header::AUTHORIZATION).iter().any(|value| {
        let scheme = value.as_bytes().get(..4);
        scheme.is_some_and(|s| s.eq_ignore_ascii_case(b"L402") || s.eq_ignore_ascii_case(b"LSAT"))
    })
}

/// What a call's answer needs of its question.
#[derive(Clone, Debug)]
pub struct Shape {
    id: Box<RawValue>,
    era: Era,
    form: Form,
    resource: Resource,
    has_structured_content: bool,
    can_stream: bool,
    can_ask: bool,
    has_extension: bool,
}

impl Shape {
    /// Of a call.
    #[must_use]
    pub fn of(attempt: &Attempt, form: Form) -> Self {
        let call = &attempt.call;
        let id = RawValue::from_string(call.request_id.clone());
        let url = match form {
            Form::Mcp => format!("mcp://tool/{}", call.terms.tool.tool),
            Form::Http => call.terms.resource.to_string(),
        };
        Self {
            id: id.unwrap_or_else(|_| RawValue::NULL.to_owned()),
            era: call.era,
            form,
            resource: Resource {
                url,
                description: Some(call.terms.tool.to_string()),
                mime_type: Some("application/json".to_owned()),
            },
            has_structured_content: !call.terms.keep_output_schema,
            can_stream: form == Form::Mcp && accepts_events(&attempt.headers),
            can_ask: form == Form::Mcp && attempt.can_ask && attempt.returned.is_none(),
            has_extension: attempt.has_extension,
        }
    }

    /// Whether events may come before the answer.
    #[must_use]
    pub const fn can_stream(&self) -> bool {
        self.can_stream
    }
}

/// The HTTP answer to a call.
#[must_use]
pub fn of(
    gate: &Gate,
    server: &Server,
    shape: &Shape,
    taken: &Result<Done, Refused>,
) -> Response<Body> {
    let message = message_of(gate, shape, taken);
    let mut answer = match taken {
        Ok(done) => {
            let mut answer = json(StatusCode::OK, message);
            add_payment_response(&mut answer, done);
            answer
        }
        Err(refused) => refusal(gate, shape, refused, message),
    };
    if let Err(refused) = taken {
        gate.challenge_identity(server, &refused.refusal, answer.headers_mut());
    }
    answer
}

/// Status and headers by form: within MCP only identity and malformed messages leave 200.
fn refusal(gate: &Gate, shape: &Shape, refused: &Refused, message: String) -> Response<Body> {
    let code = refused.refusal.code();
    let is_protocol_level = matches!(code.row().family, Family::Identity | Family::Request);
    let mut answer = match (shape.form, &refused.challenge) {
        (Form::Mcp, _) if !is_protocol_level => json(StatusCode::OK, message),
        (Form::Mcp, _) => problem::json_rpc(&refused.refusal, Some(shape.id.get())),
        (Form::Http, None) => problem::http(&refused.refusal),
        (Form::Http, Some(challenge)) => http_challenge(gate, shape, &refused.refusal, challenge),
    };
    let private = HeaderValue::from_static("no-store, private");
    answer.headers_mut().insert(header::CACHE_CONTROL, private);
    answer
}

/// The answer as a JSON-RPC message, also for the end of an event stream.
#[must_use]
pub fn message_of(gate: &Gate, shape: &Shape, taken: &Result<Done, Refused>) -> String {
    match taken {
        Ok(Done::Captured(captured)) => captured_message(gate, shape, captured, false),
        Ok(Done::Replayed(captured)) => captured_message(gate, shape, captured, true),
        Ok(Done::ToolError(result, charged)) => {
            let charged = charged_text(*charged);
            result_message(shape, result, &[(CHARGED_META, charged.as_str())])
        }
        Ok(Done::ProtocolError(error, charged)) => {
            // What was taken must be said; an error that cost nothing passes as it came.
            let error = match charged {
                Charged::No => error.clone(),
                Charged::Yes | Charged::Unknown | Charged::Unused => {
                    let data = format!("{{{}:{}}}", quote(CHARGED_META), charged_text(*charged));
                    with_members(error, &[("data", &data)])
                }
            };
            format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, shape.id.get())
        }
        Err(refused) => asking(gate, shape, &refused.refusal)
            .unwrap_or_else(|| jsonrpc::result(&shape.id, &refused_result(gate, shape, refused))),
    }
}

/// The JSON-RPC code of URLElicitationRequired (2025-11-25); not used in the modern era.
const URL_ELICITATION_REQUIRED: i64 = -32042;

/// A request that the client show its user where to approve; `None` where nobody can be asked, or
/// the client cannot do it.
fn asking(gate: &Gate, shape: &Shape, refusal: &Refusal) -> Option<String> {
    if !shape.can_ask {
        return None;
    }
    let id = refusal.facts().iter().find(|fact| fact.name == "approval")?.value.parse().ok()?;
    let approval = gate.store.approval(id)?;
    if approval.status != ApprovalStatus::Pending {
        return None;
    }
    let (url, problem) = (gate.approval_url(id)?, refusal.problem());
    let ask = &approval.ask;
    let message = format!("Approve {}/{} for {}: {}", ask.server, ask.tool, ask.agent, ask.price);
    Some(match shape.era {
        Era::Modern => {
            let params = json!({ "mode": "url", "url": url, "message": message });
            let request = json!({ "method": "elicitation/create", "params": params });
            let result = json!({
                "resultType": "input_required",
                "inputRequests": { "approve": request },
                "requestState": gate.request_state(&approval)?,
                "_meta": { problem::REFUSAL_META: problem },
            });
            jsonrpc::result(&shape.id, &result.to_string())
        }
        Era::Legacy => {
            let elicitation = json!({
                "mode": "url", "elicitationId": id.to_string(), "url": url, "message": message,
            });
            let data = json!({ "elicitations": [elicitation], problem::REFUSAL_META: problem })
                .to_string();
            let title = refusal.code().row().title;
            jsonrpc::error(Some(&shape.id), URL_ELICITATION_REQUIRED, title, Some(&data))
        }
    })
}

fn charged_text(charged: Charged) -> String {
    serde_json::to_string(&charged).unwrap_or_else(|_| "\"unknown\"".to_owned())
}

/// The tool's result, its bytes as they came, with entries added to its `_meta`.
fn result_message(shape: &Shape, result: &str, entries: &[(&str, &str)]) -> String {
    let raw: Option<&RawValue> = serde_json::from_str(result).ok();
    let extended = raw.and_then(|raw| mcp::add_result_meta(raw, entries).ok());
    jsonrpc::result(&shape.id, extended.as_deref().unwrap_or(result))
}

/// `_meta` keys in which only the gateway speaks.
const OURS: [&str; 10] = [
    "countersign/price",
    "countersign/intent",
    RECEIPT_META,
    problem::REFUSAL_META,
    CHARGED_META,
    REPLAY_META,
    x402::META_PAYMENT_RESPONSE,
    x402::META_ERROR,
    l402::META_PAYMENT,
    pow::META,
];

/// A server's result without what only the gateway may say; its bytes as they came otherwise.
#[must_use]
pub fn in_its_own_name(result: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let meta = serde_json::from_str::<Head<'_>>(result).ok().and_then(|head| head.meta);
    let meta = meta.and_then(|meta| mcp::Meta::parse(meta).ok());
    let Some(meta) = meta else { return result.to_owned() };
    let own = meta.without(&OURS);
    if meta.iter().all(|(key, _)| !OURS.iter().any(|ours| ours.eq_ignore_ascii_case(key))) {
        return result.to_owned();
    }
    with_members(result, &[("_meta", &own)])
}

fn captured_message(gate: &Gate, shape: &Shape, captured: &Captured, is_again: bool) -> String {
    let result = String::from_utf8_lossy(captured.result.as_deref().unwrap_or_default());
    let receipt = receipt(gate, captured).map(|receipt| quote(&receipt));
    let call = quote(&captured.call.to_string());
    let mut entries: Vec<(&str, &str)> = Vec::with_capacity(3);
    if is_again {
        entries.push((REPLAY_META, &call));
    }
    if let Some(receipt) = &receipt {
        entries.push((RECEIPT_META, receipt));
    }
    if let Some(settlement) = x402_settlement(captured) {
        entries.push((x402::META_PAYMENT_RESPONSE, settlement));
    }
    result_message(shape, &result, &entries)
}

/// The facilitator's answer, as it came.
fn x402_settlement(captured: &Captured) -> Option<&str> {
    let settlement = captured.settlement.as_ref().filter(|_| captured.rail == Some(Rail::X402));
    settlement.map(|settlement| settlement.raw.as_str())
}

/// The signed receipt of a captured call.
fn receipt(gate: &Gate, captured: &Captured) -> Option<String> {
    let amount = captured.paid.clone().unwrap_or_else(|| Amount { asset: "USD".into(), minor: 0 });
    let receipt = Receipt {
        v: RECEIPT_VERSION,
        call: captured.call,
        call_digest: captured.call_digest,
        quote: captured.quote,
        decision: captured.decision,
        grant: captured.grant,
        rail: captured.rail.map_or("none", |rail| rail.text()).to_owned(),
        amount,
        micros: captured.micros,
        payment_ref: match &captured.settlement {
            Some(settlement) => Some(settlement.transaction.clone()),
            None => captured.payment.map(|key| key.to_hex()),
        },
        result_digest: Some(captured.result_digest),
        log: LogPosition {
            origin: gate.signer.verifier().name().to_owned(),
            index: captured.index,
            leaf: captured.leaf,
            size: Some(captured.published),
        },
        time: gate.world.now(),
        state: ReceiptState::Captured,
    };
    receipt.sign(gate.signer.verifier(), |text| gate.receipts.sign(text)).ok()
}

/// A refusal as a tool result, with its challenge when there is one.
fn refused_result(gate: &Gate, shape: &Shape, refused: &Refused) -> String {
    let Some(challenge) = &refused.challenge else {
        return problem::tool_result(&refused.refusal, shape.era);
    };
    let required = payment_required(shape, &refused.refusal, challenge);
    let lightning = challenge.l402.as_ref().map(|offer| {
        let sat = offer.amount_msat.div_ceil(1000);
        offer.challenge.mcp_meta(&shape.resource.url, sat, offer.expires_at.0)
    });
    let problem = problem::json(&refused.refusal);
    let work_offer;
    let mut meta = vec![(problem::REFUSAL_META, problem.as_str())];
    if let Some(lightning) = &lightning {
        meta.push((l402::META_PAYMENT, lightning.as_str()));
    }
    let work = work(gate, challenge);
    if let Some((challenge, key)) = work {
        work_offer = challenge.offer(key);
        meta.push((pow::META, &work_offer));
    }
    let form = match (shape.era, shape.has_extension) {
        (Era::Legacy, _) => ResultForm::Legacy,
        (Era::Modern, false) => ResultForm::Modern,
        (Era::Modern, true) => ResultForm::Extension,
    };
    McpChallenge {
        required: required.as_ref(),
        prose: &problem::prose(&refused.refusal),
        form,
        has_structured_content: shape.has_structured_content,
        meta: &meta,
    }
    .to_json()
}

/// What is to be solved, and the key that seals it.
fn work<'a>(
    gate: &'a Gate,
    challenge: &'a Challenge,
) -> Option<(&'a pow::Challenge, &'a pow::Key)> {
    challenge.pow.as_ref().zip(gate.rails.pow.as_ref().map(|rail| rail.key()))
}

fn payment_required(
    shape: &Shape,
    refusal: &Refusal,
    challenge: &Challenge,
) -> Option<PaymentRequired> {
    let (offers, extensions) = challenge.x402.as_ref()?;
    Some(PaymentRequired {
        error: Some(refusal.to_string()),
        resource: shape.resource.clone(),
        accepts: offers.clone(),
        extensions: extensions.clone(),
    })
}

/// HTTP 402: x402 in its header, L402 in the one form that all its clients read, work in a header
/// of its own (the first `WWW-Authenticate` must be L402's), and the problem as the body.
fn http_challenge(
    gate: &Gate,
    shape: &Shape,
    refusal: &Refusal,
    challenge: &Challenge,
) -> Response<Body> {
    let mut body = problem::json(refusal);
    if let Some(offer) = &challenge.l402 {
        body = with_members(
            &body,
            &[
                ("error", "\"payment_required\""),
                ("invoice", &quote(offer.challenge.invoice())),
                ("macaroon", &quote(offer.challenge.token())),
            ],
        );
    }
    if let Some((challenge, key)) = work(gate, challenge) {
        body = with_members(&body, &[("pow", &challenge.offer(key))]);
    }
    let mut answer = problem::http_with_body(refusal, body);
    let headers = answer.headers_mut();
    if let Some(required) = payment_required(shape, refusal, challenge) {
        insert(headers, x402::PAYMENT_REQUIRED, &required.to_header());
    }
    if let Some(offer) = &challenge.l402 {
        insert(headers, "www-authenticate", &offer.challenge.header());
    }
    if let Some((challenge, key)) = work(gate, challenge) {
        insert(headers, pow::CHALLENGE, &challenge.header(key));
    }
    answer
}

fn with_members(object: &str, members: &[(&str, &str)]) -> String {
    let raw: Option<&RawValue> = serde_json::from_str(object).ok();
    let extended = raw.and_then(|raw| mcp::with_members(raw, members).ok());
    extended.unwrap_or_else(|| object.to_owned())
}

fn add_payment_response(answer: &mut Response<Body>, done: &Done) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let private = HeaderValue::from_static("no-store, private");
    answer.headers_mut().insert(header::CACHE_CONTROL, private);
    if let Some(settlement) = done.x402_settlement() {
        insert(answer.headers_mut(), x402::PAYMENT_RESPONSE, &STANDARD.encode(settlement));
    }
}

/// A value that is no header value is left out: the body says the same.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

fn json(status: StatusCode, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::full(body));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
