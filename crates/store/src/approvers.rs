//! People whose answers count no more.
//!
//! INVARIANT: from the moment somebody is withdrawn, no answer of theirs is taken, and none that
//! they gave and that was not used stands, until they are reinstated; a restart changes nothing.

use crate::{
    approvals,
    attempt::pseudonym,
    fault::Fault,
    grants::admin,
    notes,
    schema::{json, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    approval::{Approval, Approver},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// The kind of their notes.
const KIND: &str = "approver.withdrawn";
/// The longest name of an issuer or a person, in bytes.
const NAME_BYTES_MAX: usize = 512;

/// A person whose answers count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawnApprover {
    /// Who.
    pub who: Approver,
    /// Since when.
    pub at: UnixMs,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Withdrawn(HashMap<(Option<Arc<str>>, Arc<str>), UnixMs>);

impl Withdrawn {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut all = Self::default();
        for (_, body) in notes::read(conn, KIND)? {
            let WithdrawnApprover { who, at } = json(&body, "withdrawn approver")?;
            all.0.insert(key(&who), at);
        }
        Ok(all)
    }

    /// Since when a person's answers count no more.
    pub(crate) fn since(&self, who: &Approver) -> Option<UnixMs> {
        self.0.get(&key(who)).copied()
    }

    /// Takes back what such a person said of an approval; whether they had said anything.
    pub(crate) fn strike(&self, approval: &mut Approval) -> bool {
        approval.strike(|given| self.since(&given.by).is_some())
    }
}

fn key(who: &Approver) -> (Option<Arc<str>>, Arc<str>) {
    (who.issuer.clone(), Arc::clone(&who.subject))
}

/// The note's key: exact, whatever the names hold.
fn note_key(who: &Approver) -> Result<String, Fault> {
    to_json(&(&who.issuer, &who.subject))
}

impl Store {
    /// Takes no more answers of a person, and voids those that they gave: what rests on them and
    /// was not used waits for others, or is over. Returns how many approvals that concerned.
    ///
    /// # Errors
    /// `TooLarge`, `Overloaded`, `StoreFault`.
    pub async fn approver_withdraw(&self, who: Approver, by: &Approver) -> Result<usize, Refusal> {
        if who.subject.len() > NAME_BYTES_MAX
            || who.issuer.as_ref().is_some_and(|i| i.len() > NAME_BYTES_MAX)
        {
            return Err(Code::TooLarge.into());
        }
        let by = by.to_string();
        self.enter(move |batch| withdraw(batch, who, &by)).await?
    }

    /// Takes a person's answers again; whether they had been withdrawn.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn approver_reinstate(&self, who: Approver, by: &Approver) -> Result<bool, Refusal> {
        let by = by.to_string();
        self.enter(move |batch| {
            if batch.state().withdrawn.0.remove(&key(&who)).is_none() {
                return Ok(false);
            }
            notes::remove(batch, KIND, &note_key(&who)?)?;
            record(batch, "approver.reinstate", &by, &who, Vec::new())?;
            Ok(true)
        })
        .await
    }

    /// Since when a person's answers count no more; `None` while they do.
    #[must_use]
    pub fn approver_withdrawn_at(&self, who: &Approver) -> Option<UnixMs> {
        self.shared().state().withdrawn.since(who)
    }

    /// Everybody whose answers count no more.
    #[must_use]
    pub fn approvers_withdrawn(&self) -> Vec<WithdrawnApprover> {
        let state = self.shared().state();
        let all = state.withdrawn.0.iter().map(|((issuer, subject), at)| {
            let (issuer, subject) = (issuer.clone(), Arc::clone(subject));
            WithdrawnApprover { who: Approver { issuer, subject, roles: Vec::new() }, at: *at }
        });
        all.collect()
    }
}

fn withdraw(
    batch: &mut Batch<'_>,
    who: Approver,
    by: &str,
) -> Result<Result<usize, Refusal>, Fault> {
    let note = WithdrawnApprover { who, at: batch.now };
    let note_key = note_key(&note.who)?;
    if let Err(refusal) = notes::put(batch, KIND, &note_key, &to_json(&note)?)? {
        return Ok(Err(refusal));
    }
    batch.state().withdrawn.0.insert(key(&note.who), note.at);
    let count = approvals::strike(batch, by)?;
    record(batch, "approver.withdraw", by, &note.who, vec![("approvals", count.to_string())])?;
    Ok(Ok(count))
}

/// Names of persons stay out of the log.
fn record(
    batch: &mut Batch<'_>,
    action: &str,
    by: &str,
    who: &Approver,
    mut details: Vec<(&'static str, String)>,
) -> Result<(), Fault> {
    let person = pseudonym(&batch.shared().pseudonym_key, &who.to_string());
    details.push(("person", person.to_hex()));
    admin(batch, &"gateway".into(), action, by, &details)
}
