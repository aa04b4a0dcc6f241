//! Approvals: people's yes or no to one very call.
//!
//! INVARIANT: an approval is consumed by one reservation, in its transaction, and given back only
//! when that call never ran; answers of several people count only for one content; pending ones
//! survive a restart, and those who ask have a bounded number of them.

use crate::{
    approvers::Withdrawn,
    fault::Fault,
    grants::{self, admin},
    notes::{self, Note},
    schema::{int, json, one, to_json},
    state::State,
    store::Store,
    writer::Batch,
};
use countersign_core::{
    approval::{Approval, ApprovalStatus, Approver, Ask, AskKind, Given, offers_digest},
    digest::Digest,
    grant::{Agreed, GrantTerms},
    ids::{ApprovalId, CallId, GrantId},
    policy::Risk,
    proof::Permit,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use rusqlite::Connection;
use std::{collections::HashMap, sync::Arc};

/// A request that people approve one call.
#[derive(Clone, Debug)]
pub struct ApprovalRequest {
    /// Its identifier, made by the caller; that of an open request for the same call is kept.
    pub id: ApprovalId,
    /// The principal.
    pub principal: Digest,
    /// What is asked.
    pub ask: Ask,
    /// Canonical JSON of the arguments, to be shown.
    pub arguments: Arc<str>,
    /// Why, in stable words.
    pub reasons: Vec<String>,
    /// The risk that policy saw in the call.
    pub risk: Option<Risk>,
    /// How long it stays open, and then how long the answer may be used, in milliseconds.
    pub ttl_ms: u64,
    /// Messages that tell of it, queued if it is opened.
    pub tell: Vec<Note>,
}

/// What a person says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes: as it is proposed.
    Approve,
    /// Yes, and by a grant on these terms from now on. Other terms than those proposed void the
    /// answers that others gave.
    Grant(Box<GrantTerms>),
    /// No.
    Deny,
}

/// A person's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Who, verified by the caller.
    pub by: Approver,
    /// What they say.
    pub verdict: Verdict,
    /// Why; a denial's reason is told to the agent.
    pub reason: Option<String>,
    /// The content that they were shown, where it is known.
    pub content: Option<Digest>,
}

/// The approvals in memory: those that are open, usable, or ended a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Approvals {
    by_id: HashMap<ApprovalId, Approval>,
    by_call: HashMap<(Digest, Digest, AskKind), ApprovalId>,
}

/// How long one that ended stays in memory, so that its requester learns the answer.
const REMEMBER_MS: u64 = 3_600_000;
/// Over how long requests of one agent are counted, in milliseconds.
const ASKING_MS: u64 = 3_600_000;
/// The longest name in a request, in bytes: tenants enter records.
const NAME_BYTES_MAX: usize = 512;
/// Arguments kept to be shown, in bytes.
const ARGUMENT_BYTES_MAX: usize = 16 << 10;

impl Approvals {
    fn for_call(
        &self,
        (principal, call, kind): (Digest, Digest, AskKind),
        now: UnixMs,
    ) -> Option<Approval> {
        let id = self.by_call.get(&(principal, call, kind))?;
        self.by_id.get(id).map(|approval| approval.at(now))
    }

    /// Whether a call of this principal, at these offers, may use the approval.
    fn check(
        &self,
        id: ApprovalId,
        (principal, call, offers): (Digest, Digest, Digest),
        now: UnixMs,
    ) -> Result<(), Code> {
        let approval = self.by_id.get(&id).map(|approval| approval.at(now));
        let Some(approval) = approval else { return Err(Code::ApprovalExpired) };
        let ask = &approval.ask;
        if approval.principal != principal || ask.call_digest != call || ask.offers != offers {
            return Err(Code::ApprovalPending);
        }
        match approval.status {
            ApprovalStatus::Approved => Ok(()),
            ApprovalStatus::Pending | ApprovalStatus::Consumed | ApprovalStatus::Void => {
                Err(Code::ApprovalPending)
            }
            ApprovalStatus::Denied => Err(Code::ApprovalDenied),
            ApprovalStatus::Expired => Err(Code::ApprovalExpired),
        }
    }

    fn count(&self, wanted: impl Fn(&Approval) -> bool) -> usize {
        self.by_id.values().filter(|approval| wanted(approval)).count()
    }

    fn put(&mut self, approval: Approval) {
        let ask = &approval.ask;
        self.by_call.insert((approval.principal, ask.call_digest, ask.kind), approval.id);
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

/// The approvals that a permit rests on.
pub(crate) fn of(permit: &Permit) -> Vec<ApprovalId> {
    let mut ids = permit.authorization().approvals().to_vec();
    ids.extend(permit.consent().approval().filter(|id| !ids.contains(id)));
    ids
}

/// Whether a permit may use the approvals that it rests on.
pub(crate) fn check(batch: &Batch<'_>, permit: &Permit, principal: Digest) -> Result<(), Refusal> {
    let state = batch.state();
    let about = (principal, permit.quote().call_digest(), offers_digest(permit.quote()));
    for id in of(permit) {
        if let Err(code) = state.approvals.check(id, about, batch.now) {
            return Err(Refusal::new(code).with("approval", id));
        }
    }
    Ok(())
}

/// Whether one of these approvals was given in the knowledge that the budget would be exceeded.
pub(crate) fn knew(batch: &Batch<'_>, ids: &[ApprovalId], budget: &str) -> bool {
    let state = batch.state();
    let found = ids.iter().filter_map(|id| state.approvals.by_id.get(id));
    found.flat_map(|approval| &approval.ask.over).any(|name| &**name == budget)
}

/// Marks approvals as used; they were checked before.
pub(crate) fn consume(batch: &Batch<'_>, ids: &[ApprovalId], call: CallId) -> Result<(), Fault> {
    change(batch, ids, |approval, _| {
        approval.status = ApprovalStatus::Consumed;
        approval.used_by = Some(call);
    })
}

/// Gives back what a call used that never ran, as far as those who agreed still may.
pub(crate) fn give_back(batch: &Batch<'_>, ids: &[ApprovalId], call: CallId) -> Result<(), Fault> {
    change(batch, ids, |approval, withdrawn| {
        if approval.used_by == Some(call) {
            approval.status = ApprovalStatus::Approved;
            approval.used_by = None;
            withdrawn.strike(approval);
        }
    })
}

fn change(
    batch: &Batch<'_>,
    ids: &[ApprovalId],
    change: impl Fn(&mut Approval, &Withdrawn),
) -> Result<(), Fault> {
    for id in ids {
        let mut state = batch.state();
        let State { approvals, withdrawn, .. } = &mut *state;
        let Some(approval) = approvals.by_id.get_mut(id) else { continue };
        change(approval, withdrawn);
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
    /// Asks people to approve a call. A request that is pending for the same principal, call and
    /// content is returned instead of a second one; one for other content is void from now on.
    ///
    /// # Errors
    /// `RateLimited` with too many pending requests of one principal, or too many requests of one
    /// agent within an hour.
    pub async fn approval_open(&self, request: ApprovalRequest) -> Result<Approval, Refusal> {
        let ask = &request.ask;
        let names = [&ask.tenant, &ask.issuer, &ask.subject, &ask.agent, &ask.server, &ask.tool];
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Code::TooLarge.into());
        }
        self.enter(move |batch| open(batch, request)).await?
    }

    /// Records a verified person's answer. With enough of them the approval may be used, and the
    /// grant that it proposes is made, in the same transaction.
    ///
    /// # Errors
    /// `ApproverNotEligible` when this person's yes does not count; `ApprovalExpired` when there is
    /// nothing open to answer, or something else than what they were shown.
    pub async fn approval_answer(
        &self,
        id: ApprovalId,
        answer: Answer,
    ) -> Result<Approval, Refusal> {
        let grant = GrantId::new(self.shared().world.now(), self.shared().world.random());
        self.enter(move |batch| decide(batch, id, answer, grant)).await?
    }

    /// A request state of this approval came back: whether for the first time.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn approval_returned(&self, id: ApprovalId, state: Digest) -> Result<bool, Refusal> {
        self.enter(move |batch| returned(batch, id, state)).await
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

    /// The latest approvals of a principal for a call: one of each kind.
    #[must_use]
    pub fn approvals_for(
        &self,
        principal: Digest,
        call_digest: Digest,
        now: UnixMs,
    ) -> Vec<Approval> {
        let state = self.shared().state();
        let of = |kind| state.approvals.for_call((principal, call_digest, kind), now);
        [AskKind::Consent, AskKind::Confirm].into_iter().filter_map(of).collect()
    }

    /// The one of the same principal and tool that people agreed to last, before this one, however
    /// long ago: what an approver compares with. Looks at durable rows, and can block on the disk.
    ///
    /// # Errors
    /// `StoreFault`.
    pub fn approval_before(&self, approval: &Approval) -> Result<Option<Approval>, Refusal> {
        // The terms of the index `approvals_agreed`, word for word.
        let sql = "SELECT body FROM approvals
                   WHERE json_extract(body, '$.principal') = ?
                     AND json_extract(body, '$.ask.server') = ?
                     AND json_extract(body, '$.ask.tool') = ? AND id < ?
                     AND json_extract(body, '$.status') IN ('approved', 'consumed')
                   ORDER BY id DESC LIMIT 1";
        self.read(|conn| {
            let ask = &approval.ask;
            let about = (approval.principal.to_hex(), &*ask.server, &*ask.tool);
            let params = (about.0, about.1, about.2, approval.id.as_bytes());
            let body: Option<String> = one(conn, sql, params)?;
            body.map(|body| json(&body, "approval")).transpose()
        })
    }
}

fn open(
    batch: &mut Batch<'_>,
    request: ApprovalRequest,
) -> Result<Result<Approval, Refusal>, Fault> {
    let ApprovalRequest { id, principal, ask, arguments, reasons, risk, ttl_ms, tell } = request;
    let now = batch.now;
    batch.state().approvals.prune(now);
    let key = (principal, ask.call_digest, ask.kind);
    let earlier = batch.state().approvals.for_call(key, now);
    if let Some(open) = earlier.as_ref().filter(|a| a.status == ApprovalStatus::Pending)
        && open.asks(&ask)
    {
        return Ok(Ok(open.clone()));
    }
    if let Err(refusal) = has_room(batch, id, principal, &ask) {
        return Ok(Err(refusal));
    }
    if let Err(refusal) = queue(batch, &tell)? {
        return Ok(Err(refusal));
    }
    if let Some(earlier) = earlier {
        void(batch, earlier)?;
    }
    let kept = arguments.floor_char_boundary(ARGUMENT_BYTES_MAX);
    let approval = Approval {
        id,
        principal,
        content: ask.content(None),
        ask,
        arguments: arguments.get(..kept).unwrap_or_default().into(),
        reasons,
        risk,
        proposal: None,
        yes: Vec::new(),
        no: None,
        grant: None,
        used_by: None,
        states: Vec::new(),
        requested_at: now,
        answer_by: now.plus_ms(ttl_ms),
        expires_at: now.plus_ms(ttl_ms),
        status: ApprovalStatus::Pending,
    };
    save(batch, &approval)?;
    batch.state().approvals.put(approval.clone());
    Ok(Ok(approval))
}

/// Queues all messages, or none.
fn queue(batch: &Batch<'_>, tell: &[Note]) -> Result<Result<(), Refusal>, Fault> {
    for (index, note) in tell.iter().enumerate() {
        if let Err(refusal) = notes::put(batch, note.kind, &note.key, &note.body)? {
            for queued in tell.iter().take(index) {
                notes::remove(batch, queued.kind, &queued.key)?;
            }
            return Ok(Err(refusal));
        }
    }
    Ok(Ok(()))
}

/// Whether one more may be asked: a flood of requests ends here, not at a person.
fn has_room(
    batch: &Batch<'_>,
    id: ApprovalId,
    principal: Digest,
    ask: &Ask,
) -> Result<(), Refusal> {
    let (now, limits) = (batch.now, &batch.shared().limits);
    let state = batch.state();
    if state.approvals.by_id.contains_key(&id) {
        return Err(Code::InternalFault.into());
    }
    let pending = state.approvals.count(|a| {
        let is_pending = a.status == ApprovalStatus::Pending && now < a.expires_at;
        a.principal == principal && is_pending && a.ask.call_digest != ask.call_digest
    });
    let most = limits.pending_approvals_per_principal;
    if pending >= most {
        return Err(Refusal::new(Code::RateLimited).with("pending_approvals", most));
    }
    let asked = state.approvals.count(|a| {
        (&a.ask.tenant, &a.ask.agent) == (&ask.tenant, &ask.agent)
            && now.since_ms(a.requested_at) < ASKING_MS
    });
    let most = limits.asks_per_agent_per_hour;
    if asked >= most {
        return Err(Refusal::new(Code::RateLimited).with("asks_per_hour", most));
    }
    Ok(())
}

/// What was shown has changed: answers that were not used count no more.
fn void(batch: &mut Batch<'_>, mut earlier: Approval) -> Result<(), Fault> {
    if !matches!(earlier.status, ApprovalStatus::Pending | ApprovalStatus::Approved) {
        return Ok(());
    }
    earlier.status = ApprovalStatus::Void;
    note(batch, &earlier, "approval.void", "gateway")?;
    keep(batch, earlier)
}

fn keep(batch: &Batch<'_>, approval: Approval) -> Result<(), Fault> {
    save(batch, &approval)?;
    batch.state().approvals.by_id.insert(approval.id, approval);
    Ok(())
}

fn note(batch: &mut Batch<'_>, approval: &Approval, action: &str, by: &str) -> Result<(), Fault> {
    let mut details = vec![
        ("approval", approval.id.to_string()),
        ("call_digest", approval.ask.call_digest.to_hex()),
        ("content", approval.content.to_hex()),
        ("agreed", format!("{}/{}", approval.yes.len(), approval.ask.quorum.needed)),
    ];
    details.extend(approval.grant.map(|grant| ("grant", grant.to_string())));
    admin(batch, &approval.ask.tenant, action, by, &details)
}

fn decide(
    batch: &mut Batch<'_>,
    id: ApprovalId,
    answer: Answer,
    grant: GrantId,
) -> Result<Result<Approval, Refusal>, Fault> {
    let now = batch.now;
    let found = batch.state().approvals.by_id.get(&id).map(|approval| approval.at(now));
    let Some(mut approval) = found.filter(|found| found.status == ApprovalStatus::Pending) else {
        return Ok(Err(Refusal::new(Code::ApprovalExpired).with("approval", id)));
    };
    if answer.content.is_some_and(|shown| shown != approval.content) {
        let refusal = Refusal::new(Code::ApprovalExpired).with("approval", id);
        return Ok(Err(refusal.with("rule", "what was shown has changed since")));
    }
    if batch.state().withdrawn.since(&answer.by).is_some() {
        let refusal = Refusal::new(Code::ApproverNotEligible).with("approval", id);
        return Ok(Err(refusal.with("rule", "this person's answers were withdrawn")));
    }
    let given = Given { by: answer.by, reason: answer.reason, at: now };
    let refused = match answer.verdict {
        Verdict::Deny => {
            deny(&mut approval, given);
            None
        }
        // Others may have proposed a grant since: a plain yes to it must name what it says yes to.
        Verdict::Approve if approval.proposal.is_some() && answer.content.is_none() => {
            let refusal = Refusal::new(Code::ApprovalExpired).with("approval", id);
            return Ok(
                Err(refusal.with("rule", "a grant was proposed: say which content you saw")),
            );
        }
        Verdict::Approve => agree(&mut approval, given, now).err(),
        Verdict::Grant(terms) => {
            if let Err(refusal) = may_become(&approval, &terms) {
                return Ok(Err(refusal));
            }
            propose(&mut approval, *terms);
            agree(&mut approval, given, now).err()
        }
    };
    if let Some(refusal) = refused {
        return Ok(Err(refusal));
    }
    conclude(batch, approval, grant)
}

/// Makes the grant that enough people agreed to, and records the answer. A grant that cannot be
/// made, say since its parent ended, refuses the answer, and nothing has changed.
fn conclude(
    batch: &mut Batch<'_>,
    mut approval: Approval,
    grant: GrantId,
) -> Result<Result<Approval, Refusal>, Fault> {
    let by = approval.last().map(|given| given.by.to_string()).unwrap_or_default();
    let is_agreed = approval.status == ApprovalStatus::Approved;
    if let Some(terms) = approval.proposal.clone().filter(|_| is_agreed) {
        let approved_by: Vec<String> = approval.yes.iter().map(|g| g.by.to_string()).collect();
        let agreed = agreed(&approval, approved_by.clone());
        let approved_by = approved_by.join(", ");
        let new =
            grants::NewGrant { id: grant, terms, approved_by, brought: None, agreed: Some(agreed) };
        if let Err(refusal) = grants::create(batch, new)? {
            return Ok(Err(refusal));
        }
        approval.grant = Some(grant);
    }
    let is_denied = approval.status == ApprovalStatus::Denied;
    let action = if is_denied { "approval.deny" } else { "approval.approve" };
    note(batch, &approval, action, &by)?;
    keep(batch, approval.clone())?;
    Ok(Ok(approval))
}

/// What people agreed to, as the grant's row keeps it.
fn agreed(approval: &Approval, got: Vec<String>) -> Agreed {
    let ask = &approval.ask;
    Agreed {
        m: ask.quorum.needed,
        eligible: ask.quorum.roles.clone(),
        got,
        shown: approval.content,
        definitions: ask
            .definition
            .map(|digest| (Arc::clone(&ask.tool), digest))
            .into_iter()
            .collect(),
    }
}

fn deny(approval: &mut Approval, given: Given) {
    approval.status = ApprovalStatus::Denied;
    approval.no = Some(given);
}

fn agree(approval: &mut Approval, given: Given, now: UnixMs) -> Result<(), Refusal> {
    approval.admits(&given.by)?;
    approval.yes.push(given);
    if approval.yes.len() >= usize::from(approval.ask.quorum.needed) {
        approval.status = ApprovalStatus::Approved;
        approval.expires_at = now.plus_ms(approval.answer_by.since_ms(approval.requested_at));
    }
    Ok(())
}

/// A grant that comes of a request is for whoever asked, and covers what was asked.
fn may_become(approval: &Approval, terms: &GrantTerms) -> Result<(), Refusal> {
    let ask = &approval.ask;
    let is_theirs = (&terms.tenant, &terms.issuer, &terms.subject, &terms.agent, &terms.server)
        == (&ask.tenant, &ask.issuer, &ask.subject, &ask.agent, &ask.server);
    let covers = terms.tools.iter().any(|tool| *tool == ask.tool || &**tool == "*")
        && terms.intents.contains(&ask.intent)
        && terms.per_call >= ask.micros;
    if !is_theirs || !covers {
        let refusal = Refusal::new(Code::NoGrant).with("approval", approval.id);
        return Err(refusal.with("rule", "the grant would not cover the call that is asked for"));
    }
    grants::check_terms(terms)
}

/// Other terms than those proposed are other content: nobody has agreed to it yet.
fn propose(approval: &mut Approval, terms: GrantTerms) {
    let content = approval.ask.content(Some(&terms));
    if content != approval.content {
        approval.content = content;
        approval.yes.clear();
    }
    approval.proposal = Some(terms);
}

/// Most request states of one approval.
const STATES_MAX: usize = 64;

fn returned(batch: &Batch<'_>, id: ApprovalId, used: Digest) -> Result<bool, Fault> {
    let found = batch.state().approvals.by_id.get(&id).cloned();
    let Some(mut approval) = found else { return Ok(false) };
    let is_over = approval.at(batch.now).status == ApprovalStatus::Expired;
    if is_over || approval.states.contains(&used) || approval.states.len() >= STATES_MAX {
        return Ok(false);
    }
    approval.states.push(used);
    keep(batch, approval)?;
    Ok(true)
}

/// Takes back what withdrawn people said of approvals that were not used. Returns how many
/// approvals that concerned.
pub(crate) fn strike(batch: &mut Batch<'_>, by: &str) -> Result<usize, Fault> {
    let state = batch.state();
    let is_unused = |approval: &&Approval| {
        let is_open = matches!(approval.status, ApprovalStatus::Pending | ApprovalStatus::Approved);
        is_open && approval.grant.is_none()
    };
    let unused = state.approvals.by_id.values().filter(is_unused).cloned();
    let struck =
        unused.filter_map(|mut approval| state.withdrawn.strike(&mut approval).then_some(approval));
    let struck: Vec<Approval> = struck.collect();
    drop(state);
    let count = struck.len();
    for approval in struck {
        note(batch, &approval, "approval.withdraw", by)?;
        keep(batch, approval)?;
    }
    Ok(count)
}
