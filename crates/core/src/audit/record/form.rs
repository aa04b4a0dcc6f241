//! Reads the JSON form of a record: flat, each member known.

use super::{
    AmountEntry, CallEntry, Details, Kind, Outcome, ProofEntries, Record, RecordDraft, Subject,
    ToolEntry,
};
use crate::{
    digest::Digest,
    ids::{CallId, DecisionId, QuoteId, TransferId},
    time::UnixMs,
};
use serde::Deserialize;
use std::{borrow::Cow, sync::Arc};

/// The leaf's JSON, as `leaf` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form<'a> {
    agent: Option<Arc<str>>,
    amount: Option<AmountEntry>,
    arguments: Option<Digest>,
    attempt: Option<u32>,
    call: Option<CallId>,
    call_digest: Option<Digest>,
    decision: Option<DecisionId>,
    delegator: Option<Digest>,
    #[serde(default)]
    detail: Details,
    kind: Kind,
    outcome: Option<Outcome>,
    policy: Option<Digest>,
    prev: Option<Digest>,
    proofs: Option<ProofEntries>,
    quote: Option<QuoteId>,
    #[serde(default)]
    records: Vec<Digest>,
    refusal: Option<Arc<str>>,
    result: Option<Digest>,
    seq: u64,
    tenant: Option<Arc<str>>,
    /// Follows from `time_ms`: another one shows when the record is encoded again.
    #[serde(rename = "time")]
    _time: Cow<'a, str>,
    time_ms: UnixMs,
    tool: Option<ToolEntry>,
    trace: Option<Arc<str>>,
    #[serde(default)]
    transfers: Vec<TransferId>,
    pub(super) v: u64,
}

impl Form<'_> {
    /// The record; `None` where members of a call are there in part. What is lost here, such as
    /// members of a call without a call, shows when the record is encoded again.
    pub(super) fn into_record(self) -> Option<Record> {
        let subject = match (self.call, self.call_digest, self.attempt, self.tenant) {
            (Some(call), Some(call_digest), Some(attempt), Some(tenant)) => {
                Subject::Call(Arc::new(CallEntry {
                    call,
                    call_digest,
                    attempt,
                    tenant,
                    delegator: self.delegator,
                    agent: self.agent,
                    tool: self.tool,
                    arguments: self.arguments,
                    trace: self.trace,
                }))
            }
            (None, None, None, Some(tenant)) => Subject::Tenant(tenant),
            (None, None, None, None) => Subject::Deployment,
            _ => return None,
        };
        let draft = RecordDraft {
            outcome: self.outcome,
            quote: self.quote,
            amount: self.amount,
            policy: self.policy,
            decision: self.decision,
            proofs: self.proofs,
            result: self.result,
            transfers: self.transfers,
            refusal: self.refusal,
            records: self.records,
            detail: Arc::new(self.detail),
            ..RecordDraft::new(self.kind, self.time_ms, subject)
        };
        Some(Record { seq: self.seq, prev: self.prev, draft })
    }
}

/// [`Micros`] as decimal text, since they can exceed what a double holds.
pub(in crate::audit) mod micros_text {
    use crate::money::{Micros, decimal_text};
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(in crate::audit) fn serialize<S: Serializer>(
        micros: &Micros,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        decimal_text::serialize(&u128::from(micros.0), serializer)
    }

    pub(in crate::audit) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Micros, D::Error> {
        let value = decimal_text::deserialize(deserializer)?;
        u64::try_from(value).map(Micros).map_err(D::Error::custom)
    }
}
