//! The MCP client: opens in either era, lists tools, sends requests.
//!
//! Owns the session and the members every request carries. What a paid call does is in
//! [`crate::pay`].

use crate::{
    error::ClientError,
    http::{Http, parse_url},
    options::{EraChoice, Options},
    passage::Passage,
    problem::Problem,
    rpc::{Answer, AnswerBody, Endpoint, Mirror, SESSION, object, set, set_mirrors, set_secret},
    secret::Secret,
    sign_in::Access,
    verdict,
};
use countersign_core::{
    call::Era,
    wire::{
        headers::{HEADER_MISMATCH, PROTOCOL_VERSION},
        json::{self, Limits, quote},
        jsonrpc,
        mcp::{META_CLIENT_CAPABILITIES, META_PROTOCOL_VERSION, with_members},
    },
};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// The modern version.
const MODERN: &str = "2026-07-28";
/// Legacy versions, newest first.
pub(crate) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// `_meta` key of who the client is.
const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// Most pages of a list.
const MAX_PAGES: usize = 100;

/// A connection to one MCP server.
#[derive(Debug)]
pub struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) options: Options,
    session: RwLock<Session>,
}

#[derive(Clone, Debug)]
enum Session {
    Modern,
    Legacy { version: String, id: Option<Secret> },
}

/// A tool call, as text that is sent as it is.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// The arguments: a JSON object.
    pub arguments: Box<RawValue>,
    /// `_meta` to send along: a JSON object. Payments and protocol members are added.
    pub meta: Option<Box<RawValue>>,
    /// Other members of `params` (`inputResponses`, `requestState`): a JSON object.
    pub members: Option<Box<RawValue>>,
    /// Headers that mirror arguments in the modern era: what follows `Mcp-Param-`, and the value.
    pub mirrored: Vec<(String, String)>,
    /// The client behind us that makes it; `None` when it is our own.
    pub(crate) passage: Option<Arc<Passage>>,
}

impl ToolCall {
    /// A call from a JSON text.
    ///
    /// # Errors
    /// [`ClientError::BadInput`] when the text is not a JSON object, or has a key twice.
    pub fn new(name: &str, arguments: &str) -> Result<Self, ClientError> {
        json::check(arguments.as_bytes(), &Limits::REQUEST).map_err(|_| ClientError::BadInput)?;
        let arguments: Box<RawValue> =
            serde_json::from_str(arguments).map_err(|_| ClientError::BadInput)?;
        if !arguments.get().starts_with('{') {
            return Err(ClientError::BadInput);
        }
        let name = name.to_owned();
        let (meta, members, mirrored) = (None, None, Vec::new());
        Ok(Self { name, arguments, meta, members, mirrored, passage: None })
    }

    /// The same call, of nobody behind us, and without what it brings back.
    pub(crate) fn alone(&self) -> Self {
        Self { members: None, passage: None, ..self.clone() }
    }
}

/// A tool, as listed.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: Option<String>,
    /// The whole entry, as it came.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct ToolParts {
    name: String,
    description: Option<String>,
    #[serde(rename = "inputSchema")]
    input_schema: Option<Schema>,
}

#[derive(Default, Deserialize)]
struct Schema {
    #[serde(default)]
    properties: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(rename = "x-mcp-header")]
    header: String,
}

impl Tool {
    pub(crate) fn read(raw: &RawValue) -> Option<Self> {
        let parts: ToolParts = serde_json::from_str(raw.get()).ok()?;
        let ToolParts { name, description, .. } = parts;
        Some(Self { name, description, raw: raw.to_owned() })
    }

    /// The headers in which these arguments are mirrored (`x-mcp-header` of the input schema):
    /// what [`ToolCall::mirrored`] takes.
    #[must_use]
    pub fn mirrored(&self, arguments: &RawValue) -> Vec<(String, String)> {
        let parts: Option<ToolParts> = serde_json::from_str(self.raw.get()).ok();
        let properties = parts.and_then(|parts| parts.input_schema).unwrap_or_default().properties;
        let arguments: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(arguments.get()).unwrap_or_default();
        let mirror = |(name, schema): (&String, &RawValue)| {
            let header = serde_json::from_str::<Annotation>(schema.get()).ok()?.header;
            let value = arguments.get(name).filter(|value| value.get() != "null")?;
            let text = serde_json::from_str::<String>(value.get());
            Some((header, text.unwrap_or_else(|_| value.get().to_owned())))
        };
        properties.iter().map(|(name, schema)| (name, &**schema)).filter_map(mirror).collect()
    }
}

#[derive(Deserialize)]
struct Page {
    tools: Vec<Box<RawValue>>,
    #[serde(rename = "nextCursor")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Discovered {
    #[serde(rename = "supportedVersions")]
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct Initialized {
    #[serde(rename = "protocolVersion")]
    version: String,
}

/// One request, in parts.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a str,
    pub(crate) name: Option<&'a str>,
    /// Members of `params` but `_meta`: a JSON object.
    pub(crate) params: &'a str,
    /// `_meta` of the caller.
    pub(crate) meta: Option<&'a RawValue>,
    /// Entries of `_meta` of ours: key and JSON.
    pub(crate) own_meta: &'a [(&'a str, &'a str)],
    pub(crate) mirrored: &'a [(String, String)],
    /// Headers whose values are secret.
    pub(crate) secret_headers: &'a [(HeaderName, String)],
    /// The client behind us that sends it.
    pub(crate) passage: Option<&'a Passage>,
}

impl Client {
    /// Opens a server by its MCP URL.
    ///
    /// # Errors
    /// See [`ClientError`]; nothing has been paid.
    pub async fn connect(url: &str, options: Options) -> Result<Self, ClientError> {
        let client = Self::unopened(url, options)?;
        match client.options.era {
            EraChoice::Modern if client.discover().await? => {}
            EraChoice::Modern => return Err(ClientError::Version),
            EraChoice::Auto if client.discover().await? => {}
            EraChoice::Auto | EraChoice::Legacy => client.initialize().await?,
        }
        Ok(client)
    }

    /// A client that has sent nothing yet: those behind it open their own sessions.
    pub(crate) fn unopened(url: &str, options: Options) -> Result<Self, ClientError> {
        let uri = parse_url(url, options.allow_plain_http)?;
        merged(&options.capabilities, &[])?;
        let http = Http::new(
            options.connect_timeout_ms,
            options.exchange_timeout_ms,
            options.max_answer_bytes,
        );
        let (bearer, sign_in) = (options.bearer.clone(), options.sign_in.clone());
        let access = Access::new(bearer, sign_in, &uri, options.world.clone());
        let endpoint = Endpoint::new(http, uri, access, options.observer.clone());
        Ok(Self { endpoint, options, session: RwLock::new(Session::Modern) })
    }

    /// Which era the server speaks with us.
    #[must_use]
    pub fn era(&self) -> Era {
        match self.session() {
            Session::Modern => Era::Modern,
            Session::Legacy { .. } => Era::Legacy,
        }
    }

    /// Every tool that the server lists for us.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_tools(&self) -> Result<Vec<Tool>, ClientError> {
        let mut tools = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let params = match &cursor {
                Some(cursor) => object(&[("cursor", &quote(cursor))]),
                None => "{}".to_owned(),
            };
            let page = expect_result(self.send(&Outgoing::plain("tools/list", &params)).await?)?;
            let page: Page = serde_json::from_str(page.get())
                .map_err(|_| ClientError::Transport(crate::error::TransportError::NotMcp))?;
            tools.extend(page.tools.iter().filter_map(|raw| Tool::read(raw)));
            match page.next {
                Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                _ => break,
            }
        }
        Ok(tools)
    }

    fn session(&self) -> Session {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_session(&self, session: Session) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Whether the server speaks the modern era. A 400 that is no modern error, and anything else
    /// that an older server may say to an unknown method, means no.
    async fn discover(&self) -> Result<bool, ClientError> {
        let answer = self.send(&Outgoing::plain("server/discover", "{}")).await?;
        match (&answer.body, answer.status) {
            (AnswerBody::Result(result), 200..=299) => {
                let found = serde_json::from_str::<Discovered>(result.get());
                Ok(found.is_ok_and(|found| found.versions.iter().any(|v| v == MODERN)))
            }
            (_, 401..=403 | 429 | 500..) => Err(refused(answer)),
            (AnswerBody::Error(error), _) if matches!(error.code, HEADER_MISMATCH | -32021) => {
                Err(refused(answer))
            }
            _ => Ok(false),
        }
    }

    /// The legacy opening.
    async fn initialize(&self) -> Result<(), ClientError> {
        let [newest, ..] = LEGACY;
        let params = object(&[
            ("protocolVersion", &quote(newest)),
            ("capabilities", &self.options.capabilities),
            ("clientInfo", &self.client_info()),
        ]);
        let headers = self.endpoint.headers()?;
        let answer = self.endpoint.request("initialize", &params, headers).await?;
        let id = answer.headers.get(SESSION).and_then(|value| value.to_str().ok());
        let id = id.map(Secret::new);
        let result = expect_result(answer)?;
        let found = serde_json::from_str::<Initialized>(result.get());
        let version = found.map_err(|_| ClientError::Version)?.version;
        if !LEGACY.contains(&&*version) {
            return Err(ClientError::Version);
        }
        self.set_session(Session::Legacy { version, id });
        let note = jsonrpc::notification("notifications/initialized", None);
        let headers = self.session_headers("notifications/initialized", None, &[])?;
        self.endpoint.tell(note, headers).await?;
        Ok(())
    }

    fn client_info(&self) -> String {
        let (name, version) = &self.options.name;
        object(&[("name", &quote(name)), ("version", &quote(version))])
    }

    fn session_headers(
        &self,
        method: &str,
        name: Option<&str>,
        mirrored: &[(String, String)],
    ) -> Result<HeaderMap, ClientError> {
        let mut headers = self.endpoint.headers()?;
        match self.session() {
            Session::Modern => {
                let mirror = Mirror { version: MODERN, name, params: mirrored };
                set_mirrors(&mut headers, method, &mirror)?;
            }
            Session::Legacy { version, id } => {
                set(&mut headers, PROTOCOL_VERSION, &version)?;
                if let Some(id) = id {
                    set_secret(&mut headers, HeaderName::from_static(SESSION), id.expose())?;
                }
            }
        }
        Ok(headers)
    }

    /// Sends one request. A legacy session that has ended is opened again, once: the server has
    /// said that it did nothing.
    pub(crate) async fn send(&self, outgoing: &Outgoing<'_>) -> Result<Answer, ClientError> {
        if let Some(passage) = outgoing.passage {
            return self.send_for(outgoing, passage).await;
        }
        let answer = self.send_once(outgoing).await?;
        let has_session = matches!(self.session(), Session::Legacy { id: Some(_), .. });
        if answer.status != 404 || !has_session {
            return Ok(answer);
        }
        self.initialize().await?;
        self.send_once(outgoing).await
    }

    async fn send_once(&self, outgoing: &Outgoing<'_>) -> Result<Answer, ClientError> {
        let mut headers =
            self.session_headers(outgoing.method, outgoing.name, outgoing.mirrored)?;
        for (name, value) in outgoing.secret_headers {
            set_secret(&mut headers, name.clone(), value)?;
        }
        let params = self.params(outgoing)?;
        Ok(self.endpoint.request(outgoing.method, &params, headers).await?)
    }

    /// `params` with its `_meta`.
    fn params(&self, outgoing: &Outgoing<'_>) -> Result<String, ClientError> {
        let (version, info) = (quote(MODERN), self.client_info());
        let mut entries: Vec<(&str, &str)> = outgoing.own_meta.to_vec();
        if matches!(self.session(), Session::Modern) {
            entries.extend([
                (META_PROTOCOL_VERSION, &*version),
                (META_CLIENT_CAPABILITIES, &*self.options.capabilities),
                (META_CLIENT_INFO, &*info),
            ]);
        }
        if entries.is_empty() && outgoing.meta.is_none() {
            return Ok(outgoing.params.to_owned());
        }
        let meta = outgoing.meta.map_or("{}", RawValue::get);
        let meta = merged(meta, &entries)?;
        merged(outgoing.params, &[("_meta", &meta)])
    }
}

impl<'a> Outgoing<'a> {
    /// A request without a name, a payment or headers of its own.
    pub(crate) const fn plain(method: &'a str, params: &'a str) -> Self {
        Self {
            method,
            name: None,
            params,
            meta: None,
            own_meta: &[],
            mirrored: &[],
            secret_headers: &[],
            passage: None,
        }
    }
}

/// A JSON object with these members replaced or added.
pub(crate) fn merged(text: &str, entries: &[(&str, &str)]) -> Result<String, ClientError> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|_| ClientError::BadInput)?;
    with_members(raw, entries).map_err(|_| ClientError::BadInput)
}

/// The result, or the error that the answer is.
fn expect_result(answer: Answer) -> Result<Box<RawValue>, ClientError> {
    match answer.body {
        AnswerBody::Result(result) if answer.status < 400 => Ok(result),
        AnswerBody::Result(_)
        | AnswerBody::Error(_)
        | AnswerBody::Object(_)
        | AnswerBody::Other => Err(refused(answer)),
    }
}

fn refused(answer: Answer) -> ClientError {
    let status = answer.status;
    match verdict::read(answer) {
        verdict::Verdict::Refused(problem) => ClientError::Refused(Box::new(problem)),
        verdict::Verdict::Failed(error) => {
            ClientError::Rpc { code: error.code, message: error.message }
        }
        verdict::Verdict::Pay { problem, .. } => {
            let problem = problem.unwrap_or_else(|| Problem::of_status(402, "payment is required"));
            ClientError::Refused(Box::new(problem))
        }
        verdict::Verdict::Done(_) | verdict::Verdict::InputNeeded(_) => {
            ClientError::Refused(Box::new(Problem::of_status(status, "not what was asked for")))
        }
    }
}
