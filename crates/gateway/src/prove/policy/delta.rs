//! Where two bundles answer otherwise: counted by answer, policy and tool, with examples.
//!
//! INVARIANT: bounded. What is beyond the rows that are kept is counted together.

use super::Engine;
use countersign_core::{
    ids::CallId,
    policy::{Answer, Obligation, Recorded},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Rows at most.
const ROWS_MAX: usize = 500;
/// Calls that stand as examples for one row.
const EXAMPLES_MAX: usize = 5;

/// What was compared, and what came out otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Decisions that were compared.
    pub compared: u64,
    /// Those that came out otherwise.
    pub changed: u64,
    /// How, the most frequent first.
    pub rows: Vec<Row>,
    /// Changed ones beyond the rows that are kept.
    pub beyond: u64,
    /// Compared ones by tenant, of as many tenants as rows are kept.
    pub tenants: BTreeMap<Arc<str>, u64>,
}

/// One kind of change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What the one answers: `allow`, `challenge for human_confirm`.
    pub from: String,
    /// What the other answers.
    pub to: String,
    /// The policies behind it: those that now refuse or ask; for a mere allow those that no longer
    /// do.
    pub policies: Vec<String>,
    /// Whose calls.
    pub tenant: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// How often.
    pub count: u64,
    /// Some of the calls, the latest ones.
    pub calls: Vec<CallId>,
}

/// One question's two answers.
#[derive(Debug)]
pub struct Compared {
    from: Side,
    to: Side,
    tenant: Arc<str>,
    tool: String,
}

/// An answer, and who gave it.
#[derive(Debug)]
struct Side {
    text: String,
    policies: BTreeSet<String>,
}

impl Side {
    fn is_plain_allow(&self) -> bool {
        self.text == "allow"
    }
}

impl Engine {
    /// Puts a decided question to this engine, by its own numbers.
    #[must_use]
    pub fn compare(&self, recorded: Recorded) -> Compared {
        let tenant = Arc::clone(&recorded.question.tenant);
        let tool = format!("{}/{}", recorded.question.server, recorded.question.tool);
        let words = recorded.obligations.iter().map(String::as_str);
        let from = Side {
            text: phrase(recorded.answer.text(), words),
            policies: recorded.policies.into_iter().collect(),
        };
        let question = recorded.question.by(&self.tables);
        let decision = self.decide(&question);
        let to = Side {
            text: answer_text(&decision.answer),
            policies: decision.reasons.into_iter().map(|reason| reason.policy).collect(),
        };
        Compared { from, to, tenant, tool }
    }
}

impl Delta {
    /// Counts what was compared.
    pub fn count(&mut self, compared: Compared, call: CallId) {
        let Compared { from, to, tenant, tool } = compared;
        if self.tenants.len() < ROWS_MAX || self.tenants.contains_key(&tenant) {
            let count = self.tenants.entry(Arc::clone(&tenant)).or_default();
            *count = count.saturating_add(1);
        }
        self.compared = self.compared.saturating_add(1);
        if from.text == to.text {
            return;
        }
        self.changed = self.changed.saturating_add(1);
        let behind = if to.is_plain_allow() { from.policies } else { to.policies };
        let policies: Vec<String> = behind.into_iter().collect();
        let is_same = |row: &&mut Row| {
            (&row.from, &row.to, &row.tool) == (&from.text, &to.text, &tool)
                && (&row.tenant, &row.policies) == (&tenant, &policies)
        };
        if let Some(row) = self.rows.iter_mut().find(is_same) {
            row.count = row.count.saturating_add(1);
            if row.calls.len() >= EXAMPLES_MAX {
                row.calls.remove(0);
            }
            row.calls.push(call);
        } else if self.rows.len() < ROWS_MAX {
            let (from, to) = (from.text, to.text);
            self.rows.push(Row { from, to, policies, tenant, tool, count: 1, calls: vec![call] });
        } else {
            self.beyond = self.beyond.saturating_add(1);
        }
        self.rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    }
}

impl Delta {
    /// What concerns one tenant. Rows beyond those that are kept are nobody's.
    #[must_use]
    pub fn of_tenant(mut self, tenant: &str) -> Self {
        self.rows.retain(|row| &*row.tenant == tenant);
        self.tenants.retain(|name, _| &**name == tenant);
        let changed = self.rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.count));
        let compared = self.tenants.values().copied().next().unwrap_or(0);
        Self { compared, changed, beyond: 0, ..self }
    }
}

/// An answer in words.
#[must_use]
pub fn answer_text(answer: &Answer) -> String {
    phrase(answer.word().text(), answer.obligations().iter().map(Obligation::word))
}

/// `allow with redact`, `challenge for human_confirm`, `deny`.
fn phrase<'a>(word: &str, duties: impl Iterator<Item = &'a str>) -> String {
    let duties: BTreeSet<&str> = duties.collect();
    if duties.is_empty() {
        return word.to_owned();
    }
    let joined = duties.into_iter().collect::<Vec<_>>().join(", ");
    let link = if word == "challenge" { "for" } else { "with" };
    format!("{word} {link} {joined}")
}
