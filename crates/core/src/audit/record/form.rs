//! The JSON form of a record, flat and in canonical order.

use super::{
    AmountEntry, CallEntry, Kind, Outcome, ProofEntries, RECORD_VERSION, Record, RecordDraft,
    Subject, ToolEntry,
};
use crate::{
    digest::Digest,
    ids::{CallId, DecisionId, QuoteId, TransferId},
    time::UnixMs,
};
use serde::{Deserialize, Serialize, Serializer};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// The leaf's JSON.
// INVARIANT: members are declared in the order of their names (RFC 8785 §3.2.3).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Cow<'a, AmountEntry>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    arguments: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<CallId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    call_digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    delegator: Option<Digest>,
    #[serde(skip_serializing_if = "is_empty_map", default)]
    detail: Cow<'a, BTreeMap<String, String>>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    policy: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    prev: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proofs: Option<Cow<'a, ProofEntries>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<QuoteId>,
    #[serde(skip_serializing_if = "is_empty_slice", default)]
    records: Cow<'a, [Digest]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hex_option")]
    result: Option<Digest>,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Arc<str>>,
    time: Cow<'a, str>,
    time_ms: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<Cow<'a, ToolEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "is_empty_slice", default)]
    transfers: Cow<'a, [TransferId]>,
    pub(super) v: u64,
}

impl<'a> Form<'a> {
    pub(super) fn of(draft: &'a RecordDraft, seq: u64, prev: Option<Digest>) -> Self {
        let call = draft.call();
        let tenant = match &draft.subject {
            Subject::Call(call) => Some(Arc::clone(&call.tenant)),
            Subject::Tenant(tenant) => Some(Arc::clone(tenant)),
            Subject::Deployment => None,
        };
        Self {
            agent: call.and_then(|call| call.agent.clone()),
            amount: draft.amount.as_ref().map(Cow::Borrowed),
            arguments: call.and_then(|call| call.arguments),
            attempt: call.map(|call| call.attempt),
            call: call.map(|call| call.call),
            call_digest: call.map(|call| call.call_digest),
            decision: draft.decision,
            delegator: call.and_then(|call| call.delegator),
            detail: Cow::Borrowed(&draft.detail),
            kind: draft.kind,
            outcome: draft.outcome,
            policy: draft.policy,
            prev,
            proofs: draft.proofs.as_ref().map(Cow::Borrowed),
            quote: draft.quote,
            records: Cow::Borrowed(&draft.records),
            refusal: draft.refusal.clone(),
            result: draft.result,
            seq,
            tenant,
            time: draft.time.rfc3339().into(),
            time_ms: draft.time,
            tool: call.and_then(|call| call.tool.as_ref()).map(Cow::Borrowed),
            trace: call.and_then(|call| call.trace.clone()),
            transfers: Cow::Borrowed(&draft.transfers),
            v: RECORD_VERSION,
        }
    }

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
                    tool: self.tool.map(Cow::into_owned),
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
            amount: self.amount.map(Cow::into_owned),
            policy: self.policy,
            decision: self.decision,
            proofs: self.proofs.map(Cow::into_owned),
            result: self.result,
            transfers: self.transfers.into_owned(),
            refusal: self.refusal,
            records: self.records.into_owned(),
            detail: self.detail.into_owned(),
            ..RecordDraft::new(self.kind, self.time_ms, subject)
        };
        Some(Record { seq: self.seq, prev: self.prev, draft })
    }
}

/// A digest's hex without an allocation: there are up to ten in a record.
pub(super) fn hex_option<S: Serializer>(
    digest: &Option<Digest>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut text = [0; 64];
    let digest = digest.as_ref().map(Digest::as_bytes);
    let written = digest.map(|digest| hex::encode_to_slice(digest, &mut text));
    match (written, std::str::from_utf8(&text)) {
        (Some(Ok(())), Ok(text)) => serializer.serialize_str(text),
        _ => serializer.serialize_none(),
    }
}

fn is_empty_map(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

fn is_empty_slice<T>(slice: &[T]) -> bool {
    slice.is_empty()
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
