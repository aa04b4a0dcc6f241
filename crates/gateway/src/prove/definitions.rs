//! What tools say of themselves, pinned: name, title, description, schemas, annotations, and the
//! operator's price terms, as one digest.
//!
//! The first definition of a tool that the operator listed is taken as approved: they chose it.
//! That of a tool that only the server's `default` admits waits for a person.
//! INVARIANT: a definition that differs from the approved one stays marked as changed, whatever
//! the server says later, until a person approves what was seen last; restarts do not help.

use crate::{config::Server, gate::Gate};
use countersign_core::{
    digest::Digest,
    money::Assets,
    policy::{Annotations, Pin},
    refusal::{Code, Refusal},
    terms::{Terms, ToolRef},
    time::UnixMs,
    wire::{
        headers::{self, Mirrored},
        json::{self, Limits},
    },
};
use countersign_store::{Note, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Notes of definitions, and of when servers were first seen.
const DEFINITION: &str = "definition";
const SERVER: &str = "server";
/// When the servers of the first start were first seen.
const ALWAYS: UnixMs = UnixMs(0);
/// The most that is kept of a definition to be shown, in bytes.
const SHOWN_MAX: usize = 48 << 10;
/// The largest definition that is read, in bytes.
const READ: Limits = Limits { max_bytes: 1 << 20, max_depth: 64 };
/// The members that are pinned; what else a server adds (`_meta`, icons) is not the tool.
const PINNED: [&str; 6] =
    ["annotations", "description", "inputSchema", "name", "outputSchema", "title"];

/// One tool's definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// What was approved, or seen first.
    pub pinned: Version,
    /// What was seen last, if that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Version>,
    /// Who approved it: a person, or `configuration`. Nobody yet, for what only a default admits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}

/// A definition as it was at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Of all that is pinned.
    pub digest: Digest,
    /// When it was seen first.
    pub at: UnixMs,
    /// Canonical JSON, cut where it is long.
    pub text: String,
    /// What it hints at.
    pub annotations: Annotations,
    /// The arguments that its callers mirror in headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrored: Vec<Mirrored>,
}

/// All that is known of tools.
#[derive(Debug, Default)]
pub struct Definitions {
    // INVARIANT: never ahead of the store.
    tools: Mutex<BTreeMap<ToolRef, Definition>>,
    servers: Mutex<BTreeMap<String, UnixMs>>,
    /// One change after the other.
    writing: tokio::sync::Mutex<()>,
}

/// What the definition of one tool says for a call.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// Where it stands.
    pub pin: Pin,
    /// Digest of what was approved.
    pub digest: Option<Digest>,
    /// Hints of what was approved.
    pub annotations: Annotations,
}

/// What is new of a tool.
enum News {
    /// Nothing of it was approved before.
    First(Definition),
    /// It differs from what was approved.
    Change(Definition),
}

impl Definitions {
    /// What the store holds.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn load(store: &Store) -> Result<Self, Refusal> {
        let fault = |_| Refusal::new(Code::StoreFault);
        let mut tools = BTreeMap::new();
        for (key, body) in store.notes(DEFINITION)? {
            if let Some((server, tool)) = key.split_once('/') {
                let tool = ToolRef { server: server.into(), tool: tool.into() };
                tools.insert(tool, serde_json::from_str(&body).map_err(fault)?);
            }
        }
        let mut servers = BTreeMap::new();
        for (name, body) in store.notes(SERVER)? {
            servers.insert(name, serde_json::from_str(&body).map_err(fault)?);
        }
        let (tools, servers) = (Mutex::new(tools), Mutex::new(servers));
        Ok(Self { tools, servers, writing: tokio::sync::Mutex::default() })
    }

    /// How long a server has been known, in seconds; one that was never noted is new. `None` for
    /// those of the first start.
    #[must_use]
    pub fn server_age_s(&self, name: &str, now: UnixMs) -> Option<u64> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let since = servers.get(name).copied().unwrap_or(now);
        (since != ALWAYS).then(|| now.since_ms(since) / 1000)
    }

    /// What is known of a tool.
    #[must_use]
    pub fn of(&self, tool: &ToolRef, is_listed: bool) -> Pinned {
        let tools = self.lock();
        let Some(known) = tools.get(tool) else {
            // The operator named it: nothing was seen that could differ.
            let pin = if is_listed { Pin::Approved } else { Pin::Unseen };
            return Pinned { pin, digest: None, annotations: Annotations::default() };
        };
        let pin = match (&known.changed, &known.approved_by) {
            (Some(_), _) => Pin::Changed,
            (None, Some(_)) => Pin::Approved,
            (None, None) => Pin::Seen,
        };
        let version = &known.pinned;
        Pinned { pin, digest: Some(version.digest), annotations: version.annotations }
    }

    /// The arguments that callers of a tool mirror in headers: they go by the list that they saw
    /// last, approved or not.
    #[must_use]
    pub fn mirrored(&self, tool: &ToolRef) -> Vec<Mirrored> {
        let tools = self.lock();
        let last = tools.get(tool).map(|known| known.changed.as_ref().unwrap_or(&known.pinned));
        last.map(|version| version.mirrored.clone()).unwrap_or_default()
    }

    /// Every definition.
    #[must_use]
    pub fn list(&self) -> Vec<(ToolRef, Definition)> {
        self.lock().iter().map(|(tool, known)| (tool.clone(), known.clone())).collect()
    }

    /// What is to be written down of what was seen, if it is news.
    fn news(&self, tool: &ToolRef, seen: &Version, is_listed: bool) -> Option<News> {
        let tools = self.lock();
        let Some(known) = tools.get(tool) else {
            let approved_by = is_listed.then(|| "configuration".to_owned());
            return Some(News::First(Definition {
                pinned: seen.clone(),
                changed: None,
                approved_by,
            }));
        };
        let last = known.changed.as_ref().unwrap_or(&known.pinned);
        if last.digest == seen.digest {
            return None;
        }
        // Nobody has approved the first one: what counts is what is there when somebody does.
        if known.approved_by.is_none() {
            return Some(News::First(Definition { pinned: seen.clone(), ..known.clone() }));
        }
        Some(News::Change(Definition { changed: Some(seen.clone()), ..known.clone() }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ToolRef, Definition>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Notes the configured servers, before the first call. Those of the first start have always
    /// been there; those that come later are new.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn meet_servers(&self) -> Result<(), Refusal> {
        let servers = || self.definitions.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = if servers().is_empty() { ALWAYS } else { self.world.now() };
        for name in self.config.servers.keys() {
            let is_known = servers().contains_key(&**name);
            if !is_known {
                self.store.note_put(SERVER, name, &at.0.to_string()).await?;
                servers().insert(name.to_string(), at);
            }
        }
        Ok(())
    }

    /// Pins what a list of tools says, before it is passed on.
    ///
    /// # Errors
    /// `StoreFault` and its kin: a change that cannot be kept is not passed on.
    pub async fn pin(&self, server: &Server, result: &RawValue) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            tools: Vec<&'a RawValue>,
        }
        let Ok(list) = serde_json::from_str::<List<'_>>(result.get()) else { return Ok(()) };
        let now = self.world.now();
        for raw in list.tools {
            let Some((tool, version)) = version((server, &self.config.assets), raw, now) else {
                continue;
            };
            let is_listed = server.tools.contains_key(&tool.tool);
            if self.definitions.news(&tool, &version, is_listed).is_some() {
                self.keep(&tool, &version, is_listed).await?;
            }
        }
        Ok(())
    }

    /// Approves what was seen of a tool last.
    ///
    /// # Errors
    /// `UnknownTool` for one that was never seen; `StoreFault`.
    pub async fn approve_tool(&self, tool: &ToolRef, by: &str) -> Result<Definition, Refusal> {
        let _one = self.definitions.writing.lock().await;
        let found = self.definitions.lock().get(tool).cloned();
        let mut known = found.ok_or(Code::UnknownTool)?;
        known.pinned = known.changed.take().unwrap_or(known.pinned);
        known.approved_by = Some(by.to_owned());
        let body = serde_json::to_string(&known).map_err(|_| Code::InternalFault)?;
        let said = (&*self.config.tenant, "tool.approve", by);
        self.store.note_set((DEFINITION, &tool.to_string()), Some(&body), said).await?;
        self.definitions.lock().insert(tool.clone(), known.clone());
        Ok(known)
    }

    /// Writes down what is new of a tool, with the suspension of its grants if it is a change;
    /// calls see it once it is durable.
    async fn keep(&self, tool: &ToolRef, seen: &Version, is_listed: bool) -> Result<(), Refusal> {
        let _one = self.definitions.writing.lock().await;
        // Another list may have brought it meanwhile.
        let Some(news) = self.definitions.news(tool, seen, is_listed) else { return Ok(()) };
        let (News::First(known) | News::Change(known)) = &news;
        let body = serde_json::to_string(known).map_err(|_| Code::InternalFault)?;
        match &news {
            News::First(_) => self.store.note_put(DEFINITION, &tool.to_string(), &body).await?,
            News::Change(_) => {
                let note = Note { kind: DEFINITION, key: tool.to_string(), body };
                self.store.tool_changed(tool, note).await?;
            }
        }
        self.definitions.lock().insert(tool.clone(), known.clone());
        Ok(())
    }
}

/// What is pinned of a tool that is offered.
fn version(
    (server, assets): (&Server, &Assets),
    raw: &RawValue,
    now: UnixMs,
) -> Option<(ToolRef, Version)> {
    let canonical = json::canonical(raw.get().as_bytes(), &READ).ok()?;
    let mut said: Value = serde_json::from_slice(&canonical).ok()?;
    let members = said.as_object_mut()?;
    members.retain(|name, _| PINNED.contains(&name.as_str()));
    let terms = server.terms(members.get("name")?.as_str()?)?;
    let annotations = members.get("annotations").cloned().unwrap_or_default();
    let annotations = Annotations::deserialize(annotations).unwrap_or_default();
    let mirrored = members.get("inputSchema").map(headers::mirrored).unwrap_or_default();
    members.insert("price".to_owned(), price(&terms, assets).into());
    let mut text = said.to_string();
    let digest = Digest::of_parts(&[b"tool-definition/1", text.as_bytes()]);
    text.truncate(text.floor_char_boundary(SHOWN_MAX));
    Some((terms.tool.clone(), Version { digest, at: now, text, annotations, mirrored }))
}

/// The price terms, as text.
fn price(terms: &Terms, assets: &Assets) -> String {
    let rules = terms.prices.iter().map(|rule| {
        let amounts = rule.amounts.iter().map(|amount| assets.show(amount));
        let amounts = amounts.chain(rule.work.then(|| "work".to_owned()));
        let who = [rule.tenant.as_deref(), rule.agent.as_deref()].map(|who| who.unwrap_or("*"));
        format!("{}: {}", who.join("/"), amounts.collect::<Vec<_>>().join(" or "))
    });
    let rules: Vec<String> = rules.collect();
    if rules.is_empty() {
        "free".to_owned()
    } else {
        format!("{} ({})", rules.join("; "), terms.flow.text())
    }
}

/// What differs between two definitions, line by line: `-` was, `+` is.
#[must_use]
pub fn diff(old: &Version, new: &Version) -> Vec<String> {
    let lines = |version: &Version| -> Vec<String> {
        let value: Result<Value, _> = serde_json::from_str(&version.text);
        let pretty = value.and_then(|value| serde_json::to_string_pretty(&value));
        pretty.unwrap_or_else(|_| version.text.clone()).lines().map(ToOwned::to_owned).collect()
    };
    let (old, new) = (lines(old), lines(new));
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()).saturating_sub(head);
    let tail =
        old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let middle = |lines: &[String], sign: char| -> Vec<String> {
        let end = lines.len().saturating_sub(tail);
        let own = lines.get(head..end).unwrap_or_default();
        own.iter().map(|line| format!("{sign} {line}")).collect()
    };
    [middle(&old, '-'), middle(&new, '+')].concat()
}
