//! Findings while they are collected: with their place as steps, so that their lines can be
//! looked up at the end.

use super::{
    finding::Finding,
    locate,
    source::Format,
    tree::{Step, show},
};
use serde_json::Value;

/// Most lines that are looked up; each costs a reading of the file.
const MOST_LINES: usize = 40;

/// A place in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At(pub(super) Vec<Step>);

impl At {
    /// The top.
    pub(super) const fn top() -> Self {
        Self(Vec::new())
    }

    /// A member of this.
    pub(super) fn key(&self, name: &str) -> Self {
        self.step(Step::Key(name.to_owned()))
    }

    /// An element of this.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

/// What the checker may put right by itself in order to look further. The file stays refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    /// Call the member so.
    Rename(String),
    /// Take this value.
    Replace(String),
    /// Leave it out.
    Drop,
    /// Nothing: looking further would only mislead.
    Stop,
}

/// A finding and its place.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) at: At,
    /// Which of several members of one name, from 0.
    pub(super) occurrence: usize,
    pub(super) finding: Finding,
    pub(super) mend: Mend,
}

impl Found {
    pub(super) fn new(at: At, message: impl Into<String>) -> Self {
        let finding = Finding::new(show(&at.0), message);
        Self { at, occurrence: 0, finding, mend: Mend::Stop }
    }

    pub(super) fn hint(mut self, suggestion: impl Into<String>) -> Self {
        self.finding = self.finding.hint(suggestion);
        self
    }

    pub(super) fn mend(mut self, mend: Mend) -> Self {
        self.mend = mend;
        self
    }
}

/// Problems and warnings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Found>,
    pub(super) warnings: Vec<Found>,
}

impl Report {
    /// Adds a problem with what to do about it.
    pub(super) fn problem(&mut self, at: &At, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Found::new(at.clone(), message).hint(hint));
    }

    /// Adds a warning with what to do about it.
    pub(super) fn warn(&mut self, at: &At, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(Found::new(at.clone(), message).hint(hint));
    }
}

/// The findings with their lines.
pub(super) fn with_lines(found: Vec<Found>, text: &str, format: Format) -> Vec<Finding> {
    let each = found.into_iter().enumerate();
    each.map(|(n, found)| {
        let look = n < MOST_LINES && !found.at.0.is_empty();
        let line = look.then(|| locate::line(text, format, &found.at.0, found.occurrence));
        found.finding.at_line(line.flatten())
    })
    .collect()
}

/// The tree with everything mended, or `None` when something cannot be.
pub(super) fn mended(mut tree: Value, found: &[Found]) -> Option<Value> {
    for Found { at, mend, .. } in found {
        let (last, parents) = at.0.split_last()?;
        let mut node = &mut tree;
        for step in parents {
            node = match step {
                Step::Key(key) => node.get_mut(key)?,
                Step::Index(index) => node.get_mut(index)?,
            };
        }
        let (Step::Key(name), Value::Object(members)) = (last, node) else { return None };
        match mend {
            Mend::Stop => return None,
            Mend::Drop => drop(members.remove(name)),
            Mend::Replace(word) => {
                members.insert(name.clone(), word.as_str().into());
            }
            Mend::Rename(to) => {
                let value = members.remove(name)?;
                members.entry(to).or_insert(value);
            }
        }
    }
    Some(tree)
}
