//! Approvals: a person's yes or no to one very call.
//!
//! INVARIANT: an approval is consumed by one reservation, in its transaction; a decision stands;
//! pending ones survive a restart, and a principal has a bounded number of them.

use crate::{
    fault::Fault,
    grants::admin,
    schema::{int, json, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    ids::ApprovalId,
    policy::Intent,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Nobody has answered.
    Pending,
    /// Yes; not used yet.
    Approved,
    /// No.
    Denied,
    /// Nobody answered, or nobody used the answer, in time.
    Expired,
    /// Used by one call.
    Consumed,
}

/// A request that a person approve one call.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    /// Its identifier, made by the caller; that of an open request for the same call is kept.
    pub id: ApprovalId,
    /// The principal.
    pub principal: Digest,
    /// The call.
    pub call_digest: Digest,
    /// The quote, where there is one.
    pub quote_digest: Option<Digest>,
    /// Tenant, to be shown.
    pub tenant: Arc<str>,
    /// Delegator, to be shown.
    pub delegator: Arc<str>,
    /// Agent, to be shown.
    pub agent: Arc<str>,
    /// `server/tool`, to be shown.
    pub tool: String,
    /// Price, to be shown.
    pub price: String,
    /// Intent, to be shown.
    pub intent: Intent,
    /// How long it stays open, and then how long the answer may be used, in milliseconds.
    pub ttl_ms: u64,
}

/// An approval as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Identifier.
    pub id: ApprovalId,
    /// The principal.
    pub principal: Digest,
    /// The call.
    pub call_digest: Digest,
    /// The quote, where there is one.
    pub quote_digest: Option<Digest>,
    /// Tenant.
    pub tenant: Arc<str>,
    /// Delegator.
    pub delegator: Arc<str>,
    /// Agent.
    pub agent: Arc<str>,
    /// `server/tool`.
    pub tool: String,
    /// Price as shown.
    pub price: String,
    /// Intent.
    pub intent: Intent,
    /// When it was asked for.
    pub requested_at: UnixMs,
    /// When it ends.
    pub expires_at: UnixMs,
    /// Where it stands.
    pub status: ApprovalStatus,
    /// The verified person who answered.
    pub approver: Option<String>,
    /// What they said.
    pub reason: Option<String>,
    /// When they answered.
    pub decided_at: Option<UnixMs>,
}

/// A person's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approve,
    /// No.
    Deny,
}

/// The approvals in memory: those that are open, usable, or ended a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Approvals {
    by_id: HashMap<ApprovalId, Approval>,
    by_call: HashMap<(Digest, Digest), ApprovalId>,
}

/// How long one that ended stays in memory, so that its requester learns the answer.
const REMEMBER_MS: u64 = 3_600_000;

impl Approval {
    /// As it is at `now`: an unanswered or unused one expires.
    fn at(&self, now: UnixMs) -> Self {
        let mut seen = self.clone();
        let is_open = matches!(self.status, ApprovalStatus::Pending | ApprovalStatus::Approved);
        if is_open && now >= self.expires_at {
            seen.status = ApprovalStatus::Expired;
        }
        seen
    }
}

impl Approvals {
    fn for_call(&self, principal: Digest, call: Digest, now: UnixMs) -> Option<Approval> {
        let id = self.by_call.get(&(principal, call))?;
        self.by_id.get(id).map(|approval| approval.at(now))
    }

    /// Whether a call of this principal may use the approval.
    pub(crate) fn check(
        &self,
        id: ApprovalId,
        (principal, call): (Digest, Digest),
        now: UnixMs,
    ) -> Result<(), Code> {
        let approval = self.by_id.get(&id).map(|approval| approval.at(now));
        let Some(approval) = approval else { return Err(Code::ApprovalExpired) };
        if approval.principal != principal || approval.call_digest != call {
            return Err(Code::ApprovalPending);
        }
        match approval.status {
            ApprovalStatus::Approved => Ok(()),
            ApprovalStatus::Pending | ApprovalStatus::Consumed => Err(Code::ApprovalPending),
            ApprovalStatus::Denied => Err(Code::ApprovalDenied),
            ApprovalStatus::Expired => Err(Code::ApprovalExpired),
        }
    }

    fn pending_of(&self, principal: Digest, now: UnixMs) -> usize {
        let pending = |approval: &&Approval| {
            approval.principal == principal
                && approval.status == ApprovalStatus::Pending
                && now < approval.expires_at
        };
        self.by_id.values().filter(pending).count()
    }

    fn put(&mut self, approval: Approval) {
        self.by_call.insert((approval.principal, approval.call_digest), approval.id);
        self.by_id.insert(approval.id, approval);
    }

    /// Forgets what ended a while ago; rows stay.
    pub(crate) fn prune(&mut self, now: UnixMs) {
        let before = now.minus_ms(REMEMBER_MS);
        self.by_id.retain(|_, approval| before < approval.expires_at);
        let by_id = &self.by_id;
        self.by_call.retain(|_, id| by_id.contains_key(id));
    }

    /// Reads those that are open, usable, or ended a short while ago.
    pub(crate) fn load(conn: &Connection, now: UnixMs) -> Result<Self, Fault> {
        let mut approvals = Self::default();
        let mut statement =
            conn.prepare("SELECT body FROM approvals WHERE expires_at > ? ORDER BY id")?;
        let mut rows = statement.query([int(now.minus_ms(REMEMBER_MS).0)])?;
        while let Some(row) = rows.next()? {
            approvals.put(json(row.get_ref(0)?.as_str().unwrap_or(""), "approval")?);
        }
        Ok(approvals)
    }
}

/// Marks approvals as used; they were checked before.
pub(crate) fn consume(batch: &Batch<'_>, ids: &[ApprovalId]) -> Result<(), Fault> {
    for id in ids {
        let mut state = batch.state();
        let Some(approval) = state.approvals.by_id.get_mut(id) else { continue };
        approval.status = ApprovalStatus::Consumed;
        let changed = approval.clone();
        drop(state);
        save(batch, &changed)?;
    }
    Ok(())
}

fn save(batch: &Batch<'_>, approval: &Approval) -> Result<(), Fault> {
    batch.conn.prepare_cached("INSERT OR REPLACE INTO approvals VALUES (?, ?, ?)")?.execute((
        approval.id.as_bytes(),
        to_json(approval)?,
        int(approval.expires_at.0),
    ))?;
    Ok(())
}

impl Store {
    /// Asks a person to approve a call. A request that is pending for the same principal and call
    /// is returned instead of a second one.
    ///
    /// # Errors
    /// `RateLimited` with too many pending requests of one principal.
    pub async fn approval_open(&self, request: ApprovalRequest) -> Result<Approval, Refusal> {
        if request.tenant.len() > 512 {
            return Err(Code::TooLarge.into());
        }
        self.enter(move |batch| open(batch, request)).await?
    }

    /// Records a verified person's answer. The caller has checked that the person may answer.
    ///
    /// # Errors
    /// `ApprovalExpired` when there is nothing open to answer, or it was answered before.
    pub async fn approval_decide(
        &self,
        id: ApprovalId,
        verdict: Verdict,
        approver: &str,
        reason: Option<&str>,
    ) -> Result<Approval, Refusal> {
        let (approver, reason) = (approver.to_owned(), reason.map(str::to_owned));
        self.enter(move |batch| decide(batch, id, verdict, approver, reason)).await?
    }

    /// One approval.
    #[must_use]
    pub fn approval(&self, id: ApprovalId) -> Option<Approval> {
        let now = self.shared().world.now();
        self.shared().state().approvals.by_id.get(&id).map(|approval| approval.at(now))
    }

    /// Open approvals and those that ended a short while ago, the newest first.
    #[must_use]
    pub fn approvals(&self) -> Vec<Approval> {
        let now = self.shared().world.now();
        let state = self.shared().state();
        let mut all: Vec<_> = state.approvals.by_id.values().map(|a| a.at(now)).collect();
        drop(state);
        all.sort_by_key(|approval| std::cmp::Reverse(approval.id));
        all
    }

    /// The latest approval of a principal for a call.
    #[must_use]
    pub fn approval_for(
        &self,
        principal: Digest,
        call_digest: Digest,
        now: UnixMs,
    ) -> Option<Approval> {
        self.shared().state().approvals.for_call(principal, call_digest, now)
    }
}

fn open(
    batch: &mut Batch<'_>,
    request: ApprovalRequest,
) -> Result<Result<Approval, Refusal>, Fault> {
    let (now, limit) = (batch.now, batch.shared().limits.pending_approvals_per_principal);
    let mut state = batch.state();
    state.approvals.prune(now);
    let open = state.approvals.for_call(request.principal, request.call_digest, now);
    if let Some(open) = open.filter(|open| open.status == ApprovalStatus::Pending) {
        return Ok(Ok(open));
    }
    let is_taken = state.approvals.by_id.contains_key(&request.id);
    if is_taken || state.approvals.pending_of(request.principal, now) >= limit {
        let code = if is_taken { Code::InternalFault } else { Code::RateLimited };
        return Ok(Err(Refusal::new(code).with("pending_approvals", limit)));
    }
    drop(state);
    let approval = Approval {
        id: request.id,
        principal: request.principal,
        call_digest: request.call_digest,
        quote_digest: request.quote_digest,
        tenant: request.tenant,
        delegator: request.delegator,
        agent: request.agent,
        tool: request.tool,
        price: request.price,
        intent: request.intent,
        requested_at: now,
        expires_at: now.plus_ms(request.ttl_ms),
        status: ApprovalStatus::Pending,
        approver: None,
        reason: None,
        decided_at: None,
    };
    save(batch, &approval)?;
    batch.state().approvals.put(approval.clone());
    Ok(Ok(approval))
}

fn decide(
    batch: &mut Batch<'_>,
    id: ApprovalId,
    verdict: Verdict,
    approver: String,
    reason: Option<String>,
) -> Result<Result<Approval, Refusal>, Fault> {
    let now = batch.now;
    let found = batch.state().approvals.by_id.get(&id).map(|approval| approval.at(now));
    let Some(mut approval) = found.filter(|found| found.status == ApprovalStatus::Pending) else {
        return Ok(Err(Code::ApprovalExpired.into()));
    };
    let action = match verdict {
        Verdict::Approve => "approval.approve",
        Verdict::Deny => "approval.deny",
    };
    let details = [("approval", id.to_string()), ("call_digest", approval.call_digest.to_hex())];
    admin(batch, &approval.tenant, action, &approver, &details)?;
    approval.status = match verdict {
        Verdict::Approve => ApprovalStatus::Approved,
        Verdict::Deny => ApprovalStatus::Denied,
    };
    if verdict == Verdict::Approve {
        let ttl_ms = approval.expires_at.since_ms(approval.requested_at);
        approval.expires_at = now.plus_ms(ttl_ms);
    }
    approval.approver = Some(approver);
    approval.reason = reason;
    approval.decided_at = Some(now);
    save(batch, &approval)?;
    batch.state().approvals.put(approval.clone());
    Ok(Ok(approval))
}
