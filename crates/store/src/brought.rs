//! Grants made of evidence that came along with calls: one of each, however often it comes.
//!
//! INVARIANT: what comes under a name that was seen before is the grant that was made then, with
//! what it has used; one that was revoked or suspended stays so.

use crate::{
    fault::Fault,
    grants::{Grants, NewGrant, change, change_status, check_terms, create, party},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    grant::{Grant, GrantStatus, GrantTerms},
    refusal::{Code, Refusal},
    time::UnixMs,
};
use std::sync::Arc;

/// The most unexpired grants of one person and agent that came along with calls.
const BROUGHT_MAX: usize = 64;

impl Grants {
    /// The grant that was made of this evidence, whether or not it still holds.
    pub(crate) fn of_evidence(&self, key: Digest) -> Option<&Arc<Grant>> {
        self.by_evidence.get(&key).and_then(|id| self.by_id.get(id))
    }

    /// Whether a person and an agent have as many grants that came along as they may.
    fn is_full(&self, terms: &GrantTerms, now: UnixMs) -> bool {
        let ids = self.by_party.get(&party(terms)).into_iter().flatten();
        let grants = ids.filter_map(|id| self.by_id.get(id));
        let counts = |grant: &&Arc<Grant>| grant.brought.is_some() && now < grant.terms.expires_at;
        grants.filter(counts).count() >= BROUGHT_MAX
    }
}

impl Store {
    /// The grant of evidence that came along with a call: the one that was made of it before, or a
    /// new one. A later token that carries the same consent lets it live longer, with what it has
    /// used; one that was revoked stays so.
    ///
    /// # Errors
    /// As [`Self::grant_create`]; `ConsentEvidence` when something else came under the same name,
    /// `RateLimited` when this person and agent brought too many.
    pub async fn grant_bring(&self, new: NewGrant) -> Result<Arc<Grant>, Refusal> {
        check_terms(&new.terms)?;
        self.enter(move |batch| bring(batch, new)).await?
    }

    /// The grant that was made of this evidence, whether or not it still holds.
    #[must_use]
    pub fn grant_of_evidence(&self, key: Digest) -> Option<Arc<Grant>> {
        self.shared().state().grants.of_evidence(key).cloned()
    }
}

/// Suspends what rests on a person's key that no longer counts.
pub(crate) fn suspend_signed(batch: &mut Batch<'_>, key: &str, by: &str) -> Result<(), Fault> {
    let signed = |grant: &Arc<Grant>| {
        let signer = grant.brought.as_ref().and_then(|brought| brought.signer.as_deref());
        grant.status == GrantStatus::Active && signer == Some(key)
    };
    let all = batch.state().grants.all();
    for grant in all.into_iter().filter(signed) {
        change_status(batch, grant.id, GrantStatus::Suspended, by, Some("key_ended"))?.ok();
    }
    Ok(())
}

/// Finds the grant of evidence, lets it live as long as the evidence now says, or makes it.
fn bring(batch: &mut Batch<'_>, new: NewGrant) -> Result<Result<Arc<Grant>, Refusal>, Fault> {
    let Some(brought) = &new.brought else { return create(batch, new) };
    let found = batch.state().grants.of_evidence(brought.key).cloned();
    let Some(found) = found else {
        if batch.state().grants.is_full(&new.terms, batch.now) {
            return Ok(Err(Refusal::new(Code::RateLimited).with("grants", BROUGHT_MAX)));
        }
        return create(batch, new);
    };
    if found.brought.as_ref().is_none_or(|earlier| earlier.content != brought.content) {
        let refusal = Refusal::new(Code::ConsentEvidence).with("grant", found.id);
        return Ok(Err(refusal.with("rule", "another consent came under this name before")));
    }
    let longest = found.terms.not_before.plus_ms(GrantTerms::LONGEST_MS);
    let expires_at = new.terms.expires_at.min(longest);
    if found.status != GrantStatus::Active || expires_at <= found.terms.expires_at {
        return Ok(Ok(found));
    }
    let mut grant = Grant::clone(&found);
    grant.terms.expires_at = expires_at;
    // The version stays: calls under way rest on the same consent.
    change(batch, grant, "grant.prolong", &new.approved_by, None).map(Ok)
}
