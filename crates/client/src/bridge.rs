//! The bridge: MCP clients that cannot pay, sign in or reach over HTTP talk to a server through
//! it. What they send is passed on as it came; a tool call is paid for where it must and may.
//!
//! Owns what becomes of each message of a client. Sessions are the client's own, in either era.
//!
//! INVARIANT: a client gets one answer to each request that it does not withdraw, and nothing of
//! it that we do not read is lost on the way.
//!
//! Does not: keep answers, speak for a server that is not there.

mod ahead;
mod answer;
mod approval;
mod carry;
mod http;
mod stdio;

use self::ahead::Ahead;
pub(crate) use self::{
    answer::{Answered, Words},
    carry::{Carried, tool_call},
};
use crate::{
    client::{Client, Tool, ToolCall},
    error::ClientError,
    options::Options,
    outcome::Outcome,
    passage::{Downstream, Passage, Sent},
    rpc::{Answer, AnswerBody, Mirror, Observer, one_line},
};
use countersign_core::wire::{
    headers::name_of,
    json::{self, Limits},
    jsonrpc::{self, EnvelopeError, Message, Notification, Request},
    mcp::{self as wire, META_PROTOCOL_VERSION, Meta, with_members},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// JSON-RPC: the message is no request.
const INVALID_REQUEST: i64 = -32600;
/// JSON-RPC: the parameters are not those of the method.
const INVALID_PARAMS: i64 = -32602;
/// Ours: the server did not answer, or not in MCP.
const NO_ANSWER: i64 = -32000;
/// Most tools whose schemas are remembered.
const MAX_TOOLS: usize = 4096;
/// The pause before a server's own stream is opened again.
const FOLLOW_PAUSE: Duration = Duration::from_secs(2);

/// How a bridge deals with people.
#[derive(Clone, Debug)]
pub struct BridgeOptions {
    /// Takes what a person should read, a line at a time.
    pub say: Observer,
    /// Shows a person a page; without it its address is only said.
    pub open_page: Option<Observer>,
    /// Longest wait for an approval, in milliseconds.
    pub approval_wait_ms: u64,
    /// Buy the next credential for several calls once the last use of one was made, instead of
    /// within the call that wants it: [`Client::prepare`]. Not for programs that send their
    /// requests themselves ([`PayLayer`](crate::PayLayer)), whose token is not ours.
    pub prefetch: bool,
}

/// A server, with clients in front of it.
#[derive(Debug)]
pub struct Bridge {
    client: Client,
    options: BridgeOptions,
    tools: Mutex<BTreeMap<String, Tool>>,
}

#[derive(Deserialize)]
struct Cancelled<'a> {
    #[serde(rename = "requestId", borrow)]
    id: &'a RawValue,
}

#[derive(Deserialize)]
struct Listed {
    tools: Vec<Box<RawValue>>,
}

impl Bridge {
    /// A bridge to the server at this URL. Nothing is sent until a client sends something.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], [`ClientError::PlainHttp`], [`ClientError::BadInput`].
    pub fn new(url: &str, options: Options, people: BridgeOptions) -> Result<Self, ClientError> {
        let client = Client::unopened(url, options)?;
        Ok(Self { client, options: people, tools: Mutex::default() })
    }

    /// Signs in, if the server wants it, and ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sign_in(&self) -> Result<bool, ClientError> {
        let (out, _unheard) = mpsc::channel(1);
        let body = jsonrpc::request("0", "ping", None);
        let sent = Sent { id: "0", method: "ping", body, mirror: None, secret_headers: &[] };
        let answer = self.client.pass(&sent, &Downstream::default(), &out).await?;
        Ok(!matches!(answer.status, 401 | 403))
    }

    /// Takes one message of a client to its end; what it is answered goes to `out`, which is let
    /// go of before anything is bought ahead.
    async fn take(&self, of: &Arc<Downstream>, out: mpsc::Sender<String>, text: &str) {
        let max_bytes = self.client.options.max_answer_bytes;
        match Message::parse_relayed(text.as_bytes(), max_bytes) {
            Ok(Message::Request(request)) => self.request(of, out, &request).await,
            Ok(Message::Notification(note)) => self.notification(of, &note, text).await,
            Ok(Message::Response(response)) => {
                let id = response.id.map(RawValue::get).unwrap_or_default();
                if !of.answered(id, text) {
                    self.tell(of, "", one_line(text.as_bytes())).await;
                }
            }
            Err(error) => {
                let code = match error {
                    EnvelopeError::Json(_) => -32700,
                    EnvelopeError::Batch
                    | EnvelopeError::NotJsonRpc
                    | EnvelopeError::BadId
                    | EnvelopeError::BadMember { .. }
                    | EnvelopeError::UnknownMember
                    | EnvelopeError::Ambiguous => INVALID_REQUEST,
                };
                send(&out, jsonrpc::error(None, code, &error.to_string(), None)).await;
            }
        }
    }

    async fn request(
        &self,
        of: &Arc<Downstream>,
        out: mpsc::Sender<String>,
        request: &Request<'_>,
    ) {
        let refuse =
            |message: &str| jsonrpc::error(Some(request.id), INVALID_PARAMS, message, None);
        let meta = match Meta::of_params(request.params) {
            Ok(meta) => meta,
            Err(error) => return send(&out, refuse(&error.to_string())).await,
        };
        let passage = Arc::new(Passage::new(of, &out, &meta));
        let id = request.id.get();
        if !of.begin(id, &passage) {
            let message = "the id is in use, or too many requests are open";
            return send(&out, jsonrpc::error(Some(request.id), INVALID_REQUEST, message, None))
                .await;
        }
        let answered = async {
            match &*request.method {
                "tools/call" => {
                    let (answered, next) = self.call(&passage, request).await;
                    (answered.text, next)
                }
                _ => (self.relay(&passage, &meta, request).await, None),
            }
        };
        let (answer, next) = passage.unless_withdrawn(answered).await.unzip();
        let ahead = next.flatten().and_then(|next| Ahead::begin(self, next, &passage));
        of.end(id);
        if let Some(answer) = answer.filter(|_| passage.is_heard()) {
            send(&out, answer).await;
        }
        drop((passage, out));
        if let Some(ahead) = ahead {
            ahead.buy(self).await;
        }
    }

    /// Passes a request on; gives the answer.
    async fn relay(&self, passage: &Passage, meta: &Meta<'_>, request: &Request<'_>) -> String {
        let (id, method) = (request.id.get(), &*request.method);
        let params = request.params.map(RawValue::get);
        let body = jsonrpc::request(id, method, params);
        let answer = if method == "initialize" {
            let opening = (id, params.unwrap_or("{}"));
            self.client.open_for(&passage.of, opening, body, &passage.out).await
        } else {
            let name = name_of(method, request.params);
            let version = meta.text(META_PROTOCOL_VERSION);
            let name = name.as_deref();
            let mirror = version.as_deref().map(|version| Mirror { version, name, params: &[] });
            let sent = Sent { id, method, body, mirror, secret_headers: &[] };
            self.client.pass(&sent, &passage.of, &passage.out).await
        };
        match answer {
            Ok(answer) => {
                if let (AnswerBody::Result(result), "tools/list") = (&answer.body, method) {
                    self.learn(result);
                }
                relayed(request.id, answer)
            }
            Err(error) => jsonrpc::error(Some(request.id), NO_ANSWER, &error.to_string(), None),
        }
    }

    /// Makes a tool call, and pays for it if it must and may; gives the answer, and the call again
    /// where the next credential for its tool is to be bought.
    async fn call(
        &self,
        passage: &Arc<Passage>,
        request: &Request<'_>,
    ) -> (Answered, Option<ToolCall>) {
        let call = match self.read_call(passage, request.params) {
            Ok(call) => call,
            Err(error) => return (Answered::refused(request.id, &error.to_string()), None),
        };
        let next = self.options.prefetch.then(|| call.alone());
        let outcome = self.call_with_approval(call, passage).await;
        match &outcome {
            Ok(Outcome::Ok(done)) if done.paid.is_none() => {}
            Ok(outcome) => self.say(&answer::one_line(outcome)),
            Err(error) => self.say(&error.to_string()),
        }
        let is_last_use = matches!(&outcome, Ok(Outcome::Ok(done)) if done.is_last_use);
        (Answered::of(request.id, passage, outcome), next.filter(|_| is_last_use))
    }

    fn read_call(
        &self,
        passage: &Arc<Passage>,
        params: Option<&RawValue>,
    ) -> Result<ToolCall, EnvelopeError> {
        let params = params.ok_or(EnvelopeError::BadMember { name: "params" })?;
        // What is paid for must read the same to everybody.
        json::check(params.get().as_bytes(), &Limits::REQUEST)?;
        let read = wire::ToolCall::parse(params)?;
        let arguments = read.arguments.map_or_else(empty, ToOwned::to_owned);
        let others = wire::without_members(params, &["name", "arguments", "_meta"])?;
        let meta = Meta::of_params(Some(params))?;
        let meta = (!meta.is_empty()).then(|| RawValue::from_string(meta.without(&[])));
        let bad = |_| EnvelopeError::BadMember { name: "params" };
        let name = read.name.into_owned();
        let tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        let tool = tools.get(&name).filter(|_| passage.is_modern);
        let mirrored = tool.map(|tool| tool.mirrored(&arguments)).unwrap_or_default();
        Ok(ToolCall {
            name,
            arguments,
            meta: meta.transpose().map_err(bad)?,
            members: Some(RawValue::from_string(others).map_err(bad)?),
            mirrored,
            passage: Some(Arc::clone(passage)),
        })
    }

    /// Remembers the tools of a list, whose schemas say what calls mirror in headers.
    fn learn(&self, result: &RawValue) {
        let Ok(listed) = serde_json::from_str::<Listed>(result.get()) else { return };
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in listed.tools.iter().filter_map(|raw| Tool::read(raw)) {
            if tools.len() < MAX_TOOLS || tools.contains_key(&tool.name) {
                tools.insert(tool.name.clone(), tool);
            }
        }
    }

    async fn notification(&self, of: &Downstream, note: &Notification<'_>, text: &str) {
        if note.method != "notifications/cancelled" {
            return self.tell(of, &note.method, one_line(text.as_bytes())).await;
        }
        let Some(params) = note.params else { return };
        let Ok(Cancelled { id }) = serde_json::from_str(params.get()) else { return };
        let Some(passage) = of.running(id.get()) else { return };
        passage.withdraw();
        // In the modern era the end of the exchange says it.
        if !passage.is_modern {
            let upstream = passage.upstream_id().unwrap_or_else(|| id.get().to_owned());
            let params = with_members(params, &[("requestId", &upstream)]).ok();
            let note = jsonrpc::notification(&note.method, params.as_deref());
            self.tell(of, "", note).await;
        }
    }

    /// Passes on what has no answer. That it was not taken cannot be told to anybody but a person.
    async fn tell(&self, of: &Downstream, method: &str, message: String) {
        match self.client.tell_for(of, method, message).await {
            Ok(200..=299) => {}
            Ok(status) => self.say(&format!("the server answered {method} with HTTP {status}")),
            Err(error) => self.say(&format!("{method}: {error}")),
        }
    }

    /// Passes on what the server sends by itself for as long as it has a stream for that.
    async fn follow(&self, of: &Downstream, out: &mpsc::Sender<String>) {
        while let Ok(true) = self.client.follow_for(of, out).await {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    fn say(&self, text: &str) {
        self.options.say.see(text);
    }
}

async fn send(out: &mpsc::Sender<String>, message: String) {
    // Whoever has gone hears nothing more.
    let _gone = out.send(message).await;
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// A server's answer, under the client's own id.
fn relayed(id: &RawValue, answer: Answer) -> String {
    let nothing = |data: Option<&str>| {
        let message = format!("the server answered with HTTP {}, not in MCP", answer.status);
        jsonrpc::error(Some(id), NO_ANSWER, &message, data)
    };
    match &answer.body {
        AnswerBody::Result(result) => jsonrpc::result(id, &one_line(result.get().as_bytes())),
        AnswerBody::Error(error) => match &error.raw {
            Some(raw) => answer::error(id, raw),
            None => nothing(None),
        },
        AnswerBody::Object(object) => nothing(Some(&one_line(object.get().as_bytes()))),
        AnswerBody::Other => nothing(None),
    }
}
