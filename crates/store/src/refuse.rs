//! Refusals: each identified one has its records; those of nobody in particular are counted.
//!
//! INVARIANT: a flood of requests without identity writes one record a minute.

use crate::{
    attempt::{Attempt, draft, entry_of, proofs_of},
    calls,
    fault::Fault,
    quotes::{quote_record, write_refused},
    store::Store,
    writer::{Answer, Batch, Job},
};
use countersign_core::{
    audit::record::{CallEntry, Kind, MAX_DETAIL_ENTRIES, Outcome, RecordDraft, Subject},
    policy::Decided,
    quote::Quote,
    refusal::{Code, Light, Refusal},
    time::UnixMs,
};
use std::{collections::BTreeMap, sync::Arc};

/// Counts of refusals of nobody in particular, over the minute that began at `since`.
#[derive(Debug, Default)]
pub(crate) struct Uncounted {
    since: Option<UnixMs>,
    by_code: BTreeMap<Code, u64>,
}

/// The span of one aggregate record.
pub(crate) const AGGREGATE_MS: u64 = 60_000;

impl Store {
    /// Records a call that was refused; one of nobody in particular is only counted. An attempt
    /// that has records already, because the store refused it after its reservation, keeps those.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn refuse(
        &self,
        attempt: &Attempt,
        quote: Option<&Quote>,
        refusal: &Refusal,
    ) -> Result<(), Refusal> {
        if attempt.principal.is_anonymous() {
            self.count_refusal(refusal.code());
            return Ok(());
        }
        let salt = self.shared().world.random();
        let entry = entry_of(
            attempt.call,
            attempt.call_digest,
            (&attempt.principal, &attempt.tool),
            &attempt.evidence,
            (&self.shared().pseudonym_key, &salt),
        )?;
        let drafts = refused_records(&entry, quote, attempt.decided.as_ref(), refusal);
        let code = refusal.code();
        self.enter(move |batch| {
            if calls::exists(batch, entry.call)? {
                return Ok(());
            }
            write_refused(batch, &entry, &salt, code, drafts)
        })
        .await
    }

    /// Counts a refusal of nobody in particular; written as one record a minute.
    pub fn count_refusal(&self, code: Code) {
        let now = self.shared().world.now();
        let mut counts = self.shared().uncounted();
        counts.since.get_or_insert(now);
        let count = counts.by_code.entry(code).or_default();
        *count = count.saturating_add(1);
        drop(counts);
        self.shared().flush_refusals(false);
    }
}

fn refused_records(
    entry: &Arc<CallEntry>,
    quote: Option<&Quote>,
    decided: Option<&Decided>,
    refusal: &Refusal,
) -> Vec<RecordDraft> {
    let lights = refusal.proofs();
    let stage = |kind, light| {
        let outcome = match light {
            Light::Ok | Light::NotRequired => Outcome::Allowed,
            Light::Missing | Light::Pending => Outcome::Challenged,
            Light::Refused => Outcome::Denied,
            Light::NotReached => return None,
        };
        let mut record = draft(kind, entry);
        record.outcome = Some(outcome);
        record.quote = quote.map(Quote::id);
        Some(record)
    };
    let mut refused = draft(Kind::Refusal, entry);
    refused.outcome = Some(Outcome::Denied);
    refused.refusal = Some(refusal.code().text().into());
    refused.quote = quote.map(Quote::id);
    refused.proofs = Some(proofs_of(lights));
    let mut drafts: Vec<RecordDraft> =
        quote.map(|quote| quote_record(entry, quote)).into_iter().collect();
    drafts.extend(stage(Kind::Consent, lights.consent));
    let mut decision = stage(Kind::Decision, lights.authorization);
    if let (Some(decision), Some(decided)) = (&mut decision, decided) {
        decision.decision = Some(decided.id);
        decision.policy = Some(decided.bundle);
        decision.detail = Arc::clone(&decided.input);
    }
    drafts.extend(decision);
    drafts.push(refused);
    drafts
}

/// The job that writes the counts; `None` when there is nothing to write, or the minute is not
/// over and `force` is not set.
pub(crate) fn aggregate_job(counts: &mut Uncounted, now: UnixMs, force: bool) -> Option<Job> {
    let since = counts.since?;
    if !force && now.since_ms(since) < AGGREGATE_MS {
        return None;
    }
    let by_code = std::mem::take(&mut counts.by_code);
    counts.since = None;
    Some(Box::new(move |batch: &mut Batch<'_>| {
        write_aggregate(batch, since, by_code)?;
        Ok(Answer::none())
    }))
}

fn write_aggregate(
    batch: &mut Batch<'_>,
    since: UnixMs,
    by_code: BTreeMap<Code, u64>,
) -> Result<(), Fault> {
    let mut draft = RecordDraft::new(Kind::RefusedAggregate, batch.now, Subject::Deployment);
    draft.outcome = Some(Outcome::Denied);
    draft.note("since_ms", since.0.to_string());
    let mut counts: Vec<(Code, u64)> = by_code.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let named = MAX_DETAIL_ENTRIES.saturating_sub(2);
    let other = counts.iter().skip(named).fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
    for (code, count) in counts.into_iter().take(named) {
        draft.note(code.text().to_ascii_lowercase(), count.to_string());
    }
    if other > 0 {
        draft.note("other", other.to_string());
    }
    batch.log.append(batch.conn, &draft)?;
    Ok(())
}
