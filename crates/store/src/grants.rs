//! Grants: people's standing consents, and how much of each is used.
//!
//! INVARIANT: a grant's row changes with an `admin` record that carries the approver's pseudonym;
//! its use changes only in the transaction of a call.
#![deny(clippy::arithmetic_side_effects)]

use crate::{
    attempt::pseudonym,
    budgets::grant_charges,
    fault::Fault,
    notes::{self, Note},
    schema::{int, json, to_json, uint},
    state::State,
    store::Store,
    writer::Batch,
};
use countersign_core::{
    audit::record::{Kind, Outcome, RecordDraft, Subject},
    digest::Digest,
    grant::{Agreed, Brought, Grant, GrantStatus, GrantTerms},
    ids::GrantId,
    ledger::{Charge, OnExceed},
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
    /// The evidence that it is made of, where it came along with a call.
    pub brought: Option<Brought>,
    /// How people agreed to it here.
    pub agreed: Option<Agreed>,
}

/// All grants.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    pub(crate) by_id: HashMap<GrantId, Arc<Grant>>,
    pub(crate) by_party: HashMap<Party, Vec<GrantId>>,
    pub(crate) by_evidence: HashMap<Digest, GrantId>,
    dirty: BTreeSet<GrantId>,
}

/// Tenant, issuer, subject, agent.
pub(crate) type Party = (Arc<str>, Arc<str>, Arc<str>, Arc<str>);

pub(crate) fn party(terms: &GrantTerms) -> Party {
    (
        Arc::clone(&terms.tenant),
        Arc::clone(&terms.issuer),
        Arc::clone(&terms.subject),
        Arc::clone(&terms.agent),
    )
}

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
        let ids = self.by_party.entry(party(&grant.terms)).or_default();
        if !ids.contains(&grant.id) {
            ids.push(grant.id);
        }
        if let Some(brought) = &grant.brought {
            self.by_evidence.insert(brought.key, grant.id);
        }
        self.by_id.insert(grant.id, Arc::new(grant));
    }

    /// A grant and those that it is a part of, the eldest last.
    pub(crate) fn line(&self, id: GrantId) -> Vec<Arc<Grant>> {
        let mut line: Vec<Arc<Grant>> = Vec::with_capacity(1);
        let mut next = Some(id);
        while let Some(grant) = next.and_then(|id| self.by_id.get(&id))
            && line.len() < GrantTerms::LINE_MAX
        {
            next = grant.terms.bounds.parent;
            line.push(Arc::clone(grant));
        }
        line
    }

    /// Counts a call and its hold: what a child uses is used of its parents, too.
    pub(crate) fn hold(&mut self, id: GrantId, held: Micros) {
        self.change_line(id, |grant| {
            grant.used = Micros(grant.used.0.saturating_add(held.0));
            grant.calls = grant.calls.saturating_add(1);
        });
    }

    /// Replaces a hold by what was spent.
    pub(crate) fn settle(&mut self, id: GrantId, held: Micros, spent: Micros) {
        self.change_line(id, |grant| {
            let used = grant.used.0.saturating_sub(held.0).saturating_add(spent.0);
            grant.used = Micros(used);
        });
    }

    /// Uncounts a call that was released.
    pub(crate) fn forget_call(&mut self, id: GrantId) {
        self.change_line(id, |grant| grant.calls = grant.calls.saturating_sub(1));
    }

    /// Changes a grant and those that it is a part of.
    fn change_line(&mut self, id: GrantId, change: impl Fn(&mut Grant)) {
        // Who still holds one while it changes makes it a copy.
        let ids: Vec<GrantId> = self.line(id).iter().map(|grant| grant.id).collect();
        for id in ids {
            self.change(id, &change);
        }
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
        check_terms(&new.terms)?;
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
        self.enter(move |batch| change_status(batch, id, status, &by, None)).await?
    }

    /// Writes the note of a tool whose definition is another one than people agreed to, and
    /// suspends the active grants that name the tool, all in one transaction. Those for every
    /// tool of a server go on for the others. Returns the suspended.
    ///
    /// # Errors
    /// As [`Self::note_put`]; nothing is suspended then.
    pub async fn tool_changed(&self, tool: &ToolRef, note: Note) -> Result<Vec<GrantId>, Refusal> {
        note.check_size()?;
        let tool = tool.clone();
        self.enter(move |batch| {
            if let Err(refusal) = notes::put(batch, note.kind, &note.key, &note.body)? {
                return Ok(Err(refusal));
            }
            suspend_named(batch, &tool).map(Ok)
        })
        .await?
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

    /// What a charge leaves.
    #[must_use]
    pub fn room(&self, charge: &Charge, now: UnixMs) -> Micros {
        self.shared().state().counters.room(charge, now)
    }

    /// What was spent under a charge's counter within its window, in the order of time.
    #[must_use]
    pub fn spends(&self, charge: &Charge, now: UnixMs) -> Vec<(UnixMs, Micros)> {
        self.shared().state().counters.spends(charge, now)
    }

    /// What is held under a charge's counter now.
    #[must_use]
    pub fn held(&self, charge: &Charge) -> Micros {
        let state = self.shared().state();
        Micros(state.counters.inspect(&charge.key).map_or(0, |(held, ..)| held))
    }

    /// The least that the charges beyond which a call is refused, and the grant, leave, and the
    /// name of what leaves it; `None` where nothing limits.
    #[must_use]
    pub fn tightest(
        &self,
        charges: &[Charge],
        grant: Option<GrantId>,
        now: UnixMs,
    ) -> Option<(Micros, Arc<str>)> {
        let state = self.shared().state();
        let hard = charges.iter().filter(|charge| charge.on_exceed == OnExceed::Deny);
        let budget = hard.map(|c| (state.counters.room(c, now), c)).min_by_key(|(room, _)| *room);
        let of_grant = grant.and_then(|id| grant_room(&state, id, now));
        match (budget, of_grant) {
            (Some((room, charge)), of_grant) if of_grant.is_none_or(|left| room <= left) => {
                Some((room, charge.name().into()))
            }
            (_, of_grant) => of_grant.map(|left| (left, "grant".into())),
        }
    }

    /// The least that a grant and those that it is a part of leave; `None` for no limit.
    #[must_use]
    pub fn grant_left(&self, grant: GrantId, now: UnixMs) -> Option<Micros> {
        grant_room(&self.shared().state(), grant, now)
    }

    /// As [`Self::tightest`], without the name.
    #[must_use]
    pub fn remaining(
        &self,
        charges: &[Charge],
        grant: Option<GrantId>,
        now: UnixMs,
    ) -> Option<Micros> {
        self.tightest(charges, grant, now).map(|(left, _)| left)
    }
}

fn grant_room(state: &State, id: GrantId, now: UnixMs) -> Option<Micros> {
    let mut rooms: Vec<Micros> = Vec::new();
    for grant in state.grants.line(id) {
        let windows = grant_charges(&grant);
        rooms.extend(windows.iter().map(|charge| state.counters.room(charge, now)));
        rooms.extend(grant.terms.total.map(|t| t.minus(grant.used).unwrap_or_default()));
        if grant.terms.max_calls.is_some_and(|max| grant.calls >= max) {
            rooms.push(Micros(0));
        }
    }
    rooms.into_iter().min()
}

/// Whether terms can be a grant at all.
pub(crate) fn check_terms(terms: &GrantTerms) -> Result<(), Refusal> {
    let life_ms = terms.expires_at.since_ms(terms.not_before);
    if life_ms == 0 || life_ms > GrantTerms::LONGEST_MS {
        return Err(Refusal::new(Code::GrantExpired).with("life_ms", life_ms));
    }
    if terms.tenant.len() > NAME_BYTES_MAX {
        return Err(Code::TooLarge.into());
    }
    Ok(())
}

/// A child is no wider than its parent, which is there and usable.
fn is_within(batch: &Batch<'_>, terms: &GrantTerms) -> Result<(), Refusal> {
    let Some(parent) = terms.bounds.parent else { return Ok(()) };
    let line = batch.state().grants.line(parent);
    let refused = |code| Refusal::new(code).with("grant", parent);
    let eldest = line.first().ok_or_else(|| refused(Code::NoGrant))?;
    if line.len() >= GrantTerms::LINE_MAX {
        return Err(refused(Code::NoGrant).with("rule", "too many grants in a line"));
    }
    if eldest.status == GrantStatus::Revoked {
        return Err(refused(Code::GrantRevoked));
    }
    match terms.wider_than(&eldest.terms) {
        Some(dimension) => Err(refused(Code::NoGrant).with("wider_than_parent", dimension)),
        None => Ok(()),
    }
}

fn suspend_named(batch: &mut Batch<'_>, tool: &ToolRef) -> Result<Vec<GrantId>, Fault> {
    let names =
        |grant: &Grant| grant.terms.server == tool.server && grant.terms.tools.contains(&tool.tool);
    let all = batch.state().grants.all();
    let found = all.into_iter().filter(|g| g.status == GrantStatus::Active && names(g));
    let ids: Vec<GrantId> = found.map(|grant| grant.id).collect();
    for id in &ids {
        let reason = Some("definition_changed");
        change_status(batch, *id, GrantStatus::Suspended, "gateway", reason)?.ok();
    }
    Ok(ids)
}

/// Stores a grant whose terms were checked.
pub(crate) fn create(
    batch: &mut Batch<'_>,
    new: NewGrant,
) -> Result<Result<Arc<Grant>, Refusal>, Fault> {
    if batch.state().grants.get(new.id).is_some() {
        return Ok(Err(Code::InternalFault.into()));
    }
    if let Err(refusal) = is_within(batch, &new.terms) {
        return Ok(Err(refusal));
    }
    let grant = Grant {
        id: new.id,
        version: 1,
        status: GrantStatus::Active,
        terms: new.terms,
        approved_by: new.approved_by,
        approved_at: batch.now,
        brought: new.brought,
        agreed: new.agreed,
        used: Micros(0),
        calls: 0,
    };
    batch
        .conn
        .prepare_cached("INSERT INTO grants VALUES (?, ?, 0, 0)")?
        .execute((grant.id.as_bytes(), to_json(&grant)?))?;
    record(batch, &grant, "grant.create", &grant.approved_by, None)?;
    let mut state = batch.state();
    let id = grant.id;
    state.grants.put(grant);
    Ok(state.grants.get(id).cloned().ok_or_else(|| Code::InternalFault.into()))
}

pub(crate) fn change_status(
    batch: &mut Batch<'_>,
    id: GrantId,
    status: GrantStatus,
    by: &str,
    reason: Option<&'static str>,
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
    let action = match status {
        GrantStatus::Active => "grant.resume",
        GrantStatus::Suspended => "grant.suspend",
        GrantStatus::Revoked => "grant.revoke",
    };
    change(batch, grant, action, by, reason).map(Ok)
}

/// Writes a grant that changed, with its record.
pub(crate) fn change(
    batch: &mut Batch<'_>,
    grant: Grant,
    action: &str,
    by: &str,
    reason: Option<&'static str>,
) -> Result<Arc<Grant>, Fault> {
    batch
        .conn
        .prepare_cached("UPDATE grants SET body = ? WHERE id = ?")?
        .execute((to_json(&grant)?, grant.id.as_bytes()))?;
    record(batch, &grant, action, by, reason)?;
    let mut state = batch.state();
    let changed = Arc::new(grant.clone());
    state.grants.put(grant);
    Ok(changed)
}

fn record(
    batch: &mut Batch<'_>,
    grant: &Grant,
    action: &str,
    by: &str,
    reason: Option<&'static str>,
) -> Result<(), Fault> {
    let mut details = vec![("grant", grant.id.to_string()), ("version", grant.version.to_string())];
    details.extend(reason.map(|reason| ("reason", reason.to_owned())));
    details.extend(grant.brought.as_ref().map(|b| ("source", b.source.text().to_owned())));
    details.extend(grant.terms.bounds.parent.map(|parent| ("parent", parent.to_string())));
    admin(batch, &grant.terms.tenant, action, by, &details)
}

/// Appends an `admin` record; the person is named by pseudonym.
pub(crate) fn admin(
    batch: &mut Batch<'_>,
    tenant: &Arc<str>,
    action: &str,
    by: &str,
    details: &[(&'static str, String)],
) -> Result<(), Fault> {
    let mut draft = RecordDraft::new(Kind::Admin, batch.now, Subject::Tenant(Arc::clone(tenant)));
    draft.outcome = (action == "grant.create").then_some(Outcome::Allowed);
    let approver = pseudonym(&batch.shared().pseudonym_key, by).to_hex();
    draft.note("action", action.to_owned());
    draft.note("approver", approver);
    for (name, value) in details {
        draft.note(*name, value.clone());
    }
    batch.log.append(batch.conn, &draft)?;
    Ok(())
}
