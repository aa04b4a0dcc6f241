//! Clients behind us: whose session it is at the server, where messages for them go, and how far
//! each of their requests has come.
//!
//! Owns what a request that is passed on carries: the client's own bytes, and headers that follow
//! from them. What we send of our own for it (a payment, the same call again) has an id of ours.
//!
//! INVARIANT: a request that its client withdraws before money moves ends there; after that it
//! runs to its end, and only its answer is dropped.

use crate::{
    client::{Client, LEGACY, Outgoing, merged},
    courier::Courier,
    error::{ClientError, TransportError},
    rpc::{Answer, AnswerBody, Ear, Mirror, SESSION, object, set, set_mirrors, set_secret},
    secret::Secret,
};
use countersign_core::wire::{
    headers::PROTOCOL_VERSION,
    json::quote,
    jsonrpc,
    mcp::{ClientCapabilities, META_PROTOCOL_VERSION, Meta, Modern},
};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Most requests of one client at a time.
const MAX_RUNNING: usize = 256;

/// One client behind us.
#[derive(Debug, Default)]
pub(crate) struct Downstream {
    state: Mutex<State>,
    /// One request at a time opens a session again.
    reopening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    running: BTreeMap<String, Arc<Passage>>,
    /// Our own questions to it, by id.
    asked: BTreeMap<String, oneshot::Sender<String>>,
}

/// A legacy session at the server.
#[derive(Clone, Debug)]
struct Session {
    version: String,
    id: Option<Secret>,
    /// The `params` of the client's `initialize`, to open it again.
    opening: String,
    opens_links: bool,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is lost if it ends.
    Free,
    /// Money may be moving.
    Paying,
    /// Its client wants no answer, and it ends.
    Withdrawn,
    /// Its client wants no answer, but it runs to its end.
    Unheard,
}

/// One request of a client behind us.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) of: Arc<Downstream>,
    /// Where messages for the client go.
    pub(crate) out: mpsc::Sender<String>,
    pub(crate) is_modern: bool,
    /// Takes it to the server in our place.
    pub(crate) courier: Option<Courier>,
    progress_token: Option<Box<RawValue>>,
    /// Modern, and its client says that it can show links.
    opens_links: bool,
    steps: AtomicU64,
    stage: Mutex<Stage>,
    withdrawn: Notify,
    upstream_id: Mutex<Option<String>>,
    last: Mutex<Option<Last>>,
}

/// What the server answered last, as it came.
#[derive(Clone, Debug)]
pub(crate) enum Last {
    Result(Box<RawValue>),
    Error(Box<RawValue>),
}

/// A message on its way to the server.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    /// Its id, as JSON.
    pub(crate) id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) body: String,
    /// A modern request mirrors itself in headers.
    pub(crate) mirror: Option<Mirror<'a>>,
    pub(crate) secret_headers: &'a [(HeaderName, String)],
}

#[derive(Deserialize)]
struct Initialize<'a> {
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Initialized {
    #[serde(rename = "protocolVersion")]
    version: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Downstream {
    fn session(&self) -> Option<Session> {
        lock(&self.state).session.clone()
    }

    /// The name of its session, if it opened one that has a name.
    pub(crate) fn session_id(&self) -> Option<Secret> {
        self.session().and_then(|session| session.id)
    }

    /// Whether it opened a session.
    pub(crate) fn has_session(&self) -> bool {
        self.session().is_some()
    }

    /// Counts a request in; `false` when its id is in use or there are too many.
    pub(crate) fn begin(&self, id: &str, passage: &Arc<Passage>) -> bool {
        let mut state = lock(&self.state);
        if state.running.len() >= MAX_RUNNING || state.running.contains_key(id) {
            return false;
        }
        state.running.insert(id.to_owned(), Arc::clone(passage));
        true
    }

    /// Counts a request out.
    pub(crate) fn end(&self, id: &str) {
        lock(&self.state).running.remove(id);
    }

    /// A request that runs.
    pub(crate) fn running(&self, id: &str) -> Option<Arc<Passage>> {
        lock(&self.state).running.get(id).cloned()
    }

    /// Withdraws everything that has not begun to pay.
    pub(crate) fn withdraw_all(&self) {
        for passage in lock(&self.state).running.values() {
            passage.withdraw();
        }
    }

    /// Waits for the client's answer to a question of ours.
    pub(crate) fn expect(&self, id: &str) -> oneshot::Receiver<String> {
        let (answer, answered) = oneshot::channel();
        let mut state = lock(&self.state);
        state.asked.retain(|_, waiting| !waiting.is_closed());
        state.asked.insert(id.to_owned(), answer);
        answered
    }

    /// Takes the client's answer, if it is to a question of ours.
    pub(crate) fn answered(&self, id: &str, message: &str) -> bool {
        let waiting = lock(&self.state).asked.remove(id);
        // Whoever asked may have given up.
        waiting.map(|waiting| drop(waiting.send(message.to_owned()))).is_some()
    }
}

impl Passage {
    /// A request with this `_meta`.
    pub(crate) fn new(of: &Arc<Downstream>, out: &mpsc::Sender<String>, meta: &Meta<'_>) -> Self {
        let modern = Modern::of(meta).ok().flatten();
        Self {
            of: Arc::clone(of),
            out: out.clone(),
            is_modern: meta.get(META_PROTOCOL_VERSION).is_some(),
            courier: None,
            progress_token: meta.get("progressToken").map(ToOwned::to_owned),
            opens_links: modern.is_some_and(|modern| modern.capabilities.elicitation_url),
            steps: AtomicU64::new(1),
            stage: Mutex::new(Stage::Free),
            withdrawn: Notify::new(),
            upstream_id: Mutex::new(None),
            last: Mutex::new(None),
        }
    }

    /// A request that its program sends by itself. Questions of ours do not reach it.
    pub(crate) fn carried(courier: Courier, out: &mpsc::Sender<String>, meta: &Meta<'_>) -> Self {
        let passage = Self::new(&Arc::default(), out, meta);
        Self { courier: Some(courier), opens_links: false, ..passage }
    }

    /// From here on it runs to its end; `false` when it was withdrawn before.
    pub(crate) fn begins_paying(&self) -> bool {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Free {
            *stage = Stage::Paying;
        }
        *stage != Stage::Withdrawn
    }

    /// The client wants no answer any more.
    pub(crate) fn withdraw(&self) {
        let mut stage = lock(&self.stage);
        match *stage {
            Stage::Free => {
                *stage = Stage::Withdrawn;
                self.withdrawn.notify_one();
            }
            Stage::Paying => *stage = Stage::Unheard,
            Stage::Withdrawn | Stage::Unheard => {}
        }
    }

    /// Whether the client waits for an answer.
    pub(crate) fn is_heard(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Free | Stage::Paying)
    }

    /// The id under which the server knows it.
    pub(crate) fn upstream_id(&self) -> Option<String> {
        lock(&self.upstream_id).clone()
    }

    /// What the server answered last.
    pub(crate) fn last(&self) -> Option<Last> {
        lock(&self.last).clone()
    }

    /// Whether its client can show its user a link.
    pub(crate) fn opens_links(&self) -> bool {
        let session = self.of.session();
        self.opens_links || !self.is_modern && session.is_some_and(|session| session.opens_links)
    }

    /// What `work` gives, unless the client wants no answer or has gone, and it may end.
    pub(crate) async fn unless_withdrawn<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let gone = async {
            self.out.closed().await;
            self.withdraw();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.withdrawn.notified() => None,
            () = gone => None,
        }
    }

    /// Tells the client how the request goes, if it wants to know. Ours comes before the server's
    /// own progress, which counts whole steps.
    pub(crate) async fn tell(&self, message: &str) {
        let Some(token) = &self.progress_token else { return };
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let progress = format!("0.{step:06}");
        let params = object(&[
            ("progressToken", token.get()),
            ("progress", &progress),
            ("message", &quote(message)),
        ]);
        let note = jsonrpc::notification("notifications/progress", Some(&params));
        let _gone = self.out.send(note).await;
    }
}

impl Client {
    /// Sends a request that we write for a client behind us.
    pub(crate) async fn send_for(
        &self,
        outgoing: &Outgoing<'_>,
        passage: &Passage,
    ) -> Result<Answer, ClientError> {
        // What its program withdraws by itself is known by its own id.
        let carried = passage.courier.as_ref().map(|courier| courier.id.clone());
        let id = carried.unwrap_or_else(|| self.endpoint.own_id());
        let mut params = outgoing.params.to_owned();
        if outgoing.meta.is_some() || !outgoing.own_meta.is_empty() {
            let meta = merged(outgoing.meta.map_or("{}", RawValue::get), outgoing.own_meta)?;
            params = merged(&params, &[("_meta", &meta)])?;
        }
        let meta = outgoing.meta.and_then(|meta| Meta::parse(meta).ok()).unwrap_or_default();
        let version = meta.text(META_PROTOCOL_VERSION);
        let mirror = version.as_deref().map(|version| Mirror {
            version,
            name: outgoing.name,
            params: outgoing.mirrored,
        });
        let (method, secret_headers) = (outgoing.method, outgoing.secret_headers);
        let body = jsonrpc::request(&id, method, Some(&params));
        let sent = Sent { id: &id, method, body, mirror, secret_headers };
        *lock(&passage.upstream_id) = Some(id.clone());
        let limit = Duration::from_millis(self.options.exchange_timeout_ms);
        let out = &passage.out;
        let passed = match &passage.courier {
            Some(courier) => tokio::time::timeout(limit, self.carry(&sent, courier, out)).await,
            None => tokio::time::timeout(limit, self.pass(&sent, &passage.of, out)).await,
        };
        let answer = passed.unwrap_or(Err(TransportError::TimedOut.into()))?;
        *lock(&passage.last) = match &answer.body {
            AnswerBody::Result(result) => Some(Last::Result(result.clone())),
            AnswerBody::Error(error) => error.raw.clone().map(Last::Error),
            AnswerBody::Object(_) | AnswerBody::Other => None,
        };
        Ok(answer)
    }

    /// Passes a request on and reads its answer. A legacy session that has ended is opened again,
    /// once, as the client opened it: the server has said that it did nothing.
    pub(crate) async fn pass(
        &self,
        sent: &Sent<'_>,
        of: &Downstream,
        out: &mpsc::Sender<String>,
    ) -> Result<Answer, ClientError> {
        let stale = of.session_id();
        let answer = self.pass_once(sent, of, out).await?;
        match stale {
            Some(stale) if answer.status == 404 && sent.mirror.is_none() => {
                self.open_again(of, &stale).await?;
                self.pass_once(sent, of, out).await
            }
            _ => Ok(answer),
        }
    }

    async fn pass_once(
        &self,
        sent: &Sent<'_>,
        of: &Downstream,
        out: &mpsc::Sender<String>,
    ) -> Result<Answer, ClientError> {
        let mut headers = self.headers_for(of, sent.mirror.as_ref(), sent.method)?;
        for (name, value) in sent.secret_headers {
            set_secret(&mut headers, name.clone(), value)?;
        }
        let body = sent.body.clone();
        Ok(self.endpoint.exchange(sent.id, headers, body, Ear::Client(out)).await?)
    }

    /// Passes on what has no answer; the status of the server's.
    pub(crate) async fn tell_for(
        &self,
        of: &Downstream,
        method: &str,
        body: String,
    ) -> Result<u16, ClientError> {
        let headers = self.headers_for(of, None, method)?;
        Ok(self.endpoint.tell(body, headers).await?)
    }

    /// The headers of a message of this client.
    fn headers_for(
        &self,
        of: &Downstream,
        mirror: Option<&Mirror<'_>>,
        method: &str,
    ) -> Result<HeaderMap, ClientError> {
        let mut headers = self.endpoint.headers()?;
        if let Some(mirror) = mirror {
            set_mirrors(&mut headers, method, mirror)?;
        } else if let Some(Session { version, id, .. }) = of.session() {
            set(&mut headers, PROTOCOL_VERSION, &version)?;
            if let Some(id) = id {
                set_secret(&mut headers, HeaderName::from_static(SESSION), id.expose())?;
            }
        }
        Ok(headers)
    }

    /// Opens a client's session as it asks; gives the server's answer.
    pub(crate) async fn open_for(
        &self,
        of: &Downstream,
        (id, params): (&str, &str),
        body: String,
        out: &mpsc::Sender<String>,
    ) -> Result<Answer, ClientError> {
        lock(&of.state).session = None;
        let sent = Sent { id, method: "initialize", body, mirror: None, secret_headers: &[] };
        let answer = self.pass_once(&sent, of, out).await?;
        if let Some((version, id)) = opened(&answer) {
            let (opening, opens_links) = (params.to_owned(), opens_links(params));
            lock(&of.state).session = Some(Session { version, id, opening, opens_links });
        }
        Ok(answer)
    }

    /// Opens a session again in place of one that has ended, unless somebody else did meanwhile.
    async fn open_again(&self, of: &Downstream, stale: &Secret) -> Result<(), ClientError> {
        let _alone = of.reopening.lock().await;
        let Some(session) = of.session() else { return Err(ClientError::Version) };
        if session.id.as_ref() != Some(stale) {
            return Ok(());
        }
        let id = self.endpoint.own_id();
        let body = jsonrpc::request(&id, "initialize", Some(&session.opening));
        let headers = self.endpoint.headers()?;
        let opening = self.endpoint.exchange(&id, headers, body, Ear::Own);
        let answer = self.endpoint.http.in_time(opening).await?;
        let found = opened(&answer).filter(|(version, _)| LEGACY.contains(&&**version));
        let (version, id) = found.ok_or(ClientError::Version)?;
        lock(&of.state).session = Some(Session { version, id, ..session });
        let method = "notifications/initialized";
        self.tell_for(of, method, jsonrpc::notification(method, None)).await.map(drop)
    }

    /// Passes on what the server sends a client by itself, until the stream ends; `false` when
    /// there is none.
    pub(crate) async fn follow_for(
        &self,
        of: &Downstream,
        out: &mpsc::Sender<String>,
    ) -> Result<bool, ClientError> {
        let headers = self.headers_for(of, None, "")?;
        Ok(self.endpoint.follow(headers, out).await?)
    }

    /// Ends a client's session.
    pub(crate) async fn close_for(&self, of: &Downstream) -> Result<(), ClientError> {
        if of.session_id().is_none() {
            return Ok(());
        }
        let headers = self.headers_for(of, None, "")?;
        lock(&of.state).session = None;
        Ok(self.endpoint.end(headers).await?)
    }
}

/// Version and name of the session that an answer opens.
fn opened(answer: &Answer) -> Option<(String, Option<Secret>)> {
    let AnswerBody::Result(result) = &answer.body else { return None };
    let Initialized { version } = serde_json::from_str(result.get()).ok()?;
    let id = answer.headers.get(SESSION).and_then(|value| value.to_str().ok());
    Some((version, id.map(Secret::new)))
}

/// Whether an `initialize` declares `capabilities.elicitation.url`.
fn opens_links(params: &str) -> bool {
    let read = serde_json::from_str::<Initialize<'_>>(params).ok();
    let read = read.and_then(|read| ClientCapabilities::parse(read.capabilities?).ok());
    read.is_some_and(|capabilities| capabilities.elicitation_url)
}
