//! Calls that wait for a person: the page is shown, and the same call is made again until it runs,
//! is denied, or nobody answered in time.
//!
//! INVARIANT: only pages over https, or of this machine, are shown. That a client agrees to show
//! one approves nothing: the server alone says when somebody has.

use super::Bridge;
use crate::{
    client::ToolCall,
    error::ClientError,
    http::parse_url,
    outcome::Outcome,
    passage::Passage,
    problem::{Problem, REFUSAL_META},
    rpc::object,
};
use countersign_core::{
    refusal::{Code, Family},
    wire::{json::quote, jsonrpc},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The first pause before the call is made again; each later one is longer, up to the last.
const FIRST_PAUSE_MS: u64 = 1_000;
const LAST_PAUSE_MS: u64 = 5_000;

/// What a call waits for.
struct Pending {
    url: String,
    message: String,
    /// The server asks through the client (2026-07-28).
    is_input: bool,
}

#[derive(Deserialize)]
struct InputParts {
    #[serde(rename = "_meta", default)]
    meta: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "requestState")]
    state: Option<String>,
}

#[derive(Deserialize)]
struct Elicited {
    result: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    action: String,
}

impl Bridge {
    /// Makes a call; where a person must approve it, waits for that, and makes the same call again.
    pub(super) async fn call_with_approval(
        &self,
        mut call: ToolCall,
        passage: &Arc<Passage>,
    ) -> Result<Outcome, ClientError> {
        let came_back = is_ours(&call);
        let outcome = self.client.call_tool(&call).await?;
        let Some(pending) = Pending::of(&outcome) else { return Ok(outcome) };
        if pending.is_input && !came_back {
            // The client shows the page by itself, and comes back with the same call.
            return Ok(outcome);
        }
        let may_wait = if came_back {
            true
        } else if passage.opens_links() {
            self.elicit(passage, &pending).await
        } else {
            self.show(&pending);
            true
        };
        if !may_wait {
            return Ok(outcome);
        }
        passage.tell(&format!("waiting for an approval: {}", pending.url)).await;
        // What was brought back counts once.
        call.members = None;
        self.wait(&call, passage, &pending.url, outcome).await
    }

    async fn wait(
        &self,
        call: &ToolCall,
        passage: &Passage,
        url: &str,
        mut last: Outcome,
    ) -> Result<Outcome, ClientError> {
        let (mut waited_ms, mut pause_ms) = (0u64, FIRST_PAUSE_MS);
        while waited_ms < self.options.approval_wait_ms {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            waited_ms = waited_ms.saturating_add(pause_ms);
            pause_ms = pause_ms.saturating_add(FIRST_PAUSE_MS).min(LAST_PAUSE_MS);
            match self.client.call_tool(call).await? {
                outcome if Pending::of(&outcome).is_some_and(|pending| pending.url == url) => {
                    last = outcome;
                    passage.tell(&format!("waiting for an approval: {url}")).await;
                }
                outcome => return Ok(outcome),
            }
        }
        self.say("nobody has answered yet: once somebody has, the same call runs");
        Ok(last)
    }

    /// Shows the page to whoever sits here.
    fn show(&self, pending: &Pending) {
        self.say(&format!("{}: approve it at {}", pending.message, pending.url));
        if let Some(open) = &self.options.open_page {
            open.see(&pending.url);
        }
    }

    /// Asks the client to show the page; `false` when its user does not want to.
    async fn elicit(&self, passage: &Passage, pending: &Pending) -> bool {
        let id = self.client.endpoint.own_id();
        let params = object(&[
            ("mode", &quote("url")),
            ("elicitationId", &id),
            ("url", &quote(&pending.url)),
            ("message", &quote(&pending.message)),
        ]);
        let answered = passage.of.expect(&id);
        let request = jsonrpc::request(&id, "elicitation/create", Some(&params));
        if passage.out.send(request).await.is_err() {
            return false;
        }
        let limit = Duration::from_millis(self.options.approval_wait_ms);
        let Ok(Ok(answer)) = tokio::time::timeout(limit, answered).await else { return false };
        let answer = serde_json::from_str::<Elicited>(&answer).ok();
        match answer.and_then(|answer| answer.result) {
            Some(result) => result.action == "accept",
            // It says that it can, and cannot.
            None => {
                self.show(pending);
                true
            }
        }
    }
}

impl Pending {
    /// What an outcome says that a person must do at a page; `None` when it says nothing of it.
    fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Refused(refused) if refused.paid.is_none() => {
                Self::of_problem(&refused.problem, false)
            }
            Outcome::InputNeeded(asked) if asked.paid.is_none() => {
                let parts: InputParts = serde_json::from_str(asked.result.get()).ok()?;
                Self::of_problem(&Problem::parse(parts.meta.get(REFUSAL_META)?)?, true)
            }
            Outcome::Ok(_)
            | Outcome::InputNeeded(_)
            | Outcome::Refused(_)
            | Outcome::Declined(_)
            | Outcome::Unknown(_)
            | Outcome::Failed(_) => None,
        }
    }

    fn of_problem(problem: &Problem, is_input: bool) -> Option<Self> {
        let is_over =
            matches!(problem.known, Some(Code::ApprovalDenied | Code::ApproverNotEligible));
        if problem.family != Family::Consent || is_over {
            return None;
        }
        // Another page is nobody's to open: the denial passes as the server words it.
        let url = problem.url.clone().filter(|url| parse_url(url, false).is_ok())?;
        let message = problem.title.clone();
        Some(Self { url, message, is_input })
    }
}

/// Whether a call brings back a request state of this gateway.
fn is_ours(call: &ToolCall) -> bool {
    let members = call.members.as_deref();
    let read = members.and_then(|raw| serde_json::from_str::<State>(raw.get()).ok());
    read.and_then(|read| read.state).is_some_and(|state| state.starts_with("countersign1."))
}
