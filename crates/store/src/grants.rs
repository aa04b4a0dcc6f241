//! Grants: people's standing consents, and how much of each is used.
//!
//! INVARIANT: a grant's row changes with an `admin` record that carries the approver's pseudonym;
//! its use changes only in the transaction of a call.

use crate::{
    attempt::pseudonym,
    budgets::grant_charges,
    fault::Fault,
    schema::{int, json, to_json, uint},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    audit::record::{Kind, Outcome, RecordDraft, Subject},
    grant::{Grant, GrantStatus, GrantTerms},
    ids::GrantId,
    ledger::Charge,
    money::Micros,
    proof::Principal,
    refusal::{Code, Refusal},
    terms::ToolRef,
    time::UnixMs,
};
use rusqlite::Connection;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// The longest tenant's name, in bytes: it enters records.
const NAME_BYTES_MAX: usize = 512;

/// A grant to be stored.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// Its identifier, made by the caller.
    pub id: GrantId,
    /// What was agreed.
    pub terms: GrantTerms,
    /// The verified person who approved.
    pub approved_by: String,
}

/// All grants.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    by_id: HashMap<GrantId, Arc<Grant>>,
    by_party: HashMap<Party, Vec<GrantId>>,
    dirty: BTreeSet<GrantId>,
}

/// Tenant, issuer, subject, agent.
type Party = (Arc<str>, Arc<str>, Arc<str>, Arc<str>);

impl Grants {
    pub(crate) fn get(&self, id: GrantId) -> Option<&Arc<Grant>> {
        self.by_id.get(&id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Grant>> {
        let mut all: Vec<_> = self.by_id.values().cloned().collect();
        all.sort_by_key(|grant| std::cmp::Reverse(grant.id));
        all
    }

    /// The grants about a principal and tool: usable ones first, then the newest.
    fn about(&self, principal: &Principal, tool: &ToolRef, now: UnixMs) -> Vec<Arc<Grant>> {
        let Some(delegator) = &principal.delegator else { return Vec::new() };
        let party = (
            Arc::clone(&principal.tenant),
            Arc::clone(&delegator.issuer),
            Arc::clone(&delegator.subject),
            Arc::clone(&principal.agent),
        );
        let ids = self.by_party.get(&party).into_iter().flatten();
        let grants = ids.filter_map(|id| self.by_id.get(id));
        let mut found: Vec<_> = grants.filter(|g| g.concerns(principal, tool)).cloned().collect();
        let usable = |grant: &Grant| {
            grant.status == GrantStatus::Active
                && now < grant.terms.expires_at
                && grant.leaves_room(Micros(0)).is_ok()
        };
        found.sort_by_key(|grant| std::cmp::Reverse((usable(grant), grant.id)));
        found
    }

    fn put(&mut self, grant: Grant) {
        let terms = &grant.terms;
        let party = (
            Arc::clone(&terms.tenant),
            Arc::clone(&terms.issuer),
            Arc::clone(&terms.subject),
            Arc::clone(&terms.agent),
        );
        let ids = self.by_party.entry(party).or_default();
        if !ids.contains(&grant.id) {
            ids.push(grant.id);
        }
        self.by_id.insert(grant.id, Arc::new(grant));
    }

    /// Counts a call and its hold.
    pub(crate) fn hold(&mut self, id: GrantId, held: Micros) {
        self.change(id, |grant| {
            grant.used = Micros(grant.used.0.saturating_add(held.0));
            grant.calls = grant.calls.saturating_add(1);
        });
    }

    /// Replaces a hold by what was spent.
    pub(crate) fn settle(&mut self, id: GrantId, held: Micros, spent: Micros) {
        self.change(id, |grant| {
            let used = grant.used.0.saturating_sub(held.0).saturating_add(spent.0);
            grant.used = Micros(used);
        });
    }

    /// Uncounts a call that was released.
    pub(crate) fn forget_call(&mut self, id: GrantId) {
        self.change(id, |grant| grant.calls = grant.calls.saturating_sub(1));
    }

    fn change(&mut self, id: GrantId, change: impl FnOnce(&mut Grant)) {
        if let Some(grant) = self.by_id.get_mut(&id) {
            change(Arc::make_mut(grant));
            self.dirty.insert(id);
        }
    }

    /// The use that this batch changed.
    pub(crate) fn take_dirty(&mut self) -> Vec<Arc<Grant>> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|id| self.by_id.get(&id).cloned()).collect()
    }

    /// Reads all grants.
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut grants = Self::default();
        let mut statement = conn.prepare("SELECT body, used, calls FROM grants")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let grant: Grant = json(row.get_ref(0)?.as_str().unwrap_or(""), "grant")?;
            let (used, calls) = (Micros(uint(row, 1)?), uint(row, 2)?);
            grants.put(Grant { used, calls, ..grant });
        }
        Ok(grants)
    }
}

/// Writes how much of each grant is used.
pub(crate) fn write(conn: &Connection, grants: Vec<Arc<Grant>>) -> Result<(), Fault> {
    for grant in grants {
        conn.prepare_cached("UPDATE grants SET used = ?, calls = ? WHERE id = ?")?.execute((
            int(grant.used.0),
            int(grant.calls),
            grant.id.as_bytes(),
        ))?;
    }
    Ok(())
}

impl Store {
    /// Stores a grant that a verified person approved.
    ///
    /// # Errors
    /// `GrantExpired` for a life that is empty or longer than 30 days; `InternalFault` for an
    /// identifier that is in use; `TooLarge` for a tenant's name that does not fit a record.
    pub async fn grant_create(&self, new: NewGrant) -> Result<Arc<Grant>, Refusal> {
        let life_ms = new.terms.expires_at.since_ms(new.terms.not_before);
        if life_ms == 0 || life_ms > GrantTerms::LONGEST_MS {
            return Err(Refusal::new(Code::GrantExpired).with("life_ms", life_ms));
        }
        if new.terms.tenant.len() > NAME_BYTES_MAX {
            return Err(Code::TooLarge.into());
        }
        self.enter(move |batch| create(batch, new)).await?
    }

    /// Ends a grant; calls that have not started are refused from now on.
    ///
    /// # Errors
    /// `NoGrant` when there is none.
    pub async fn grant_revoke(&self, id: GrantId, by: &str) -> Result<Arc<Grant>, Refusal> {
        self.grant_status(id, GrantStatus::Revoked, by).await
    }

    /// Suspends, resumes or ends a grant. One that was revoked stays so.
    ///
    /// # Errors
    /// `NoGrant` when there is none, `GrantRevoked` when it was revoked before.
    pub async fn grant_status(
        &self,
        id: GrantId,
        status: GrantStatus,
        by: &str,
    ) -> Result<Arc<Grant>, Refusal> {
        let by = by.to_owned();
        self.enter(move |batch| set_status(batch, id, status, &by)).await?
    }

    /// One grant.
    #[must_use]
    pub fn grant(&self, id: GrantId) -> Option<Arc<Grant>> {
        self.shared().state().grants.get(id).cloned()
    }

    /// Every grant, the newest first.
    #[must_use]
    pub fn grants(&self) -> Vec<Arc<Grant>> {
        self.shared().state().grants.all()
    }

    /// The grants that speak of this principal and tool: usable ones first, then the newest.
    #[must_use]
    pub fn grants_for(&self, principal: &Principal, tool: &ToolRef) -> Vec<Arc<Grant>> {
        let now = self.shared().world.now();
        self.shared().state().grants.about(principal, tool, now)
    }

    /// The least that the charges and the grant leave; `None` where nothing limits.
    #[must_use]
    pub fn remaining(
        &self,
        charges: &[Charge],
        grant: Option<GrantId>,
        now: UnixMs,
    ) -> Option<Micros> {
        let state = self.shared().state();
        let mut rooms: Vec<Micros> =
            charges.iter().map(|charge| state.counters.room(charge, now)).collect();
        if let Some(grant) = grant.and_then(|id| state.grants.get(id)) {
            let windows = grant_charges(grant);
            rooms.extend(windows.iter().map(|charge| state.counters.room(charge, now)));
            rooms.extend(grant.terms.total.map(|t| t.minus(grant.used).unwrap_or_default()));
            if grant.terms.max_calls.is_some_and(|max| grant.calls >= max) {
                rooms.push(Micros(0));
            }
        }
        rooms.into_iter().min()
    }
}

fn create(batch: &mut Batch<'_>, new: NewGrant) -> Result<Result<Arc<Grant>, Refusal>, Fault> {
    if batch.state().grants.get(new.id).is_some() {
        return Ok(Err(Code::InternalFault.into()));
    }
    let grant = Grant {
        id: new.id,
        version: 1,
        status: GrantStatus::Active,
        terms: new.terms,
        approved_by: new.approved_by,
        approved_at: batch.now,
        used: Micros(0),
        calls: 0,
    };
    batch
        .conn
        .prepare_cached("INSERT INTO grants VALUES (?, ?, 0, 0)")?
        .execute((grant.id.as_bytes(), to_json(&grant)?))?;
    record(batch, &grant, "grant.create", &grant.approved_by)?;
    let mut state = batch.state();
    let id = grant.id;
    state.grants.put(grant);
    Ok(state.grants.get(id).cloned().ok_or_else(|| Code::InternalFault.into()))
}

fn set_status(
    batch: &mut Batch<'_>,
    id: GrantId,
    status: GrantStatus,
    by: &str,
) -> Result<Result<Arc<Grant>, Refusal>, Fault> {
    let Some(found) = batch.state().grants.get(id).cloned() else {
        return Ok(Err(Code::NoGrant.into()));
    };
    if found.status == status {
        return Ok(Ok(found));
    }
    if found.status == GrantStatus::Revoked {
        return Ok(Err(Code::GrantRevoked.into()));
    }
    let mut grant = Grant::clone(&found);
    grant.status = status;
    grant.version = grant.version.saturating_add(1);
    batch
        .conn
        .prepare_cached("UPDATE grants SET body = ? WHERE id = ?")?
        .execute((to_json(&grant)?, id.as_bytes()))?;
    let action = match status {
        GrantStatus::Active => "grant.resume",
        GrantStatus::Suspended => "grant.suspend",
        GrantStatus::Revoked => "grant.revoke",
    };
    record(batch, &grant, action, by)?;
    let mut state = batch.state();
    state.grants.put(grant);
    Ok(state.grants.get(id).cloned().ok_or_else(|| Code::InternalFault.into()))
}

fn record(batch: &mut Batch<'_>, grant: &Grant, action: &str, by: &str) -> Result<(), Fault> {
    let details = [("grant", grant.id.to_string()), ("version", grant.version.to_string())];
    admin(batch, &grant.terms.tenant, action, by, &details)
}

/// Appends an `admin` record; the person is named by pseudonym.
pub(crate) fn admin(
    batch: &mut Batch<'_>,
    tenant: &Arc<str>,
    action: &str,
    by: &str,
    details: &[(&str, String)],
) -> Result<(), Fault> {
    let mut draft = RecordDraft::new(Kind::Admin, batch.now, Subject::Tenant(Arc::clone(tenant)));
    draft.outcome = (action == "grant.create").then_some(Outcome::Allowed);
    let approver = pseudonym(&batch.shared().pseudonym_key, by).to_hex();
    draft.detail.insert("action".to_owned(), action.to_owned());
    draft.detail.insert("approver".to_owned(), approver);
    for (name, value) in details {
        draft.detail.insert((*name).to_owned(), value.clone());
    }
    batch.log.append(batch.conn, &draft)?;
    Ok(())
}
