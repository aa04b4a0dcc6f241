//! One attempt as the audit log sees it: digests, commitments, pseudonyms.
//!
//! INVARIANT: argument values and names of persons end here; what leaves is an HMAC.

use countersign_core::{
    audit::record::{
        CallEntry, Kind, ProofEntries, ProofEntry, ProofState, RecordDraft, Subject, ToolEntry,
        commitment,
    },
    digest::Digest,
    ids::CallId,
    policy::Decided,
    proof::Principal,
    refusal::{Code, Light, Lights, Refusal},
    terms::ToolRef,
    time::UnixMs,
    wire::json::escaped_bytes,
};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::sync::Arc;

/// Most bytes, as JSON, of the names that a record carries; keeps every leaf below its limit.
const NAMES_BYTES_MAX: usize = 3 * 1024;

/// What the records of an attempt carry beyond its proofs.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// 1 for the first attempt.
    pub attempt: u32,
    /// W3C `traceparent`.
    pub trace: Option<Arc<str>>,
    /// Canonical JSON of the arguments; only a commitment to it is kept.
    pub arguments: Arc<str>,
    /// Digest of the tool's definition.
    pub definition: Option<Digest>,
}

/// An attempt that has no permit: refused, or asked to pay.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The attempt.
    pub call: CallId,
    /// The call digest.
    pub call_digest: Digest,
    /// Who calls.
    pub principal: Principal,
    /// What.
    pub tool: ToolRef,
    /// The rest.
    pub evidence: Evidence,
    /// What policy decided, if it was asked.
    pub decided: Option<Decided>,
}

/// The entry that all records of an attempt share, and the salt of its argument commitment.
pub(crate) fn entry_of(
    call: CallId,
    call_digest: Digest,
    (principal, tool): (&Principal, &ToolRef),
    evidence: &Evidence,
    (pseudonym_key, salt): (&[u8; 32], &[u8; 32]),
) -> Result<Arc<CallEntry>, Refusal> {
    // What is no `traceparent` (W3C Trace Context section 3.2) is none.
    let is_trace = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let trace = evidence.trace.clone();
    let trace = trace.filter(|trace| trace.len() <= 128 && trace.bytes().all(is_trace));
    let names = [&principal.tenant, &principal.agent, &tool.server, &tool.tool];
    if names.iter().map(|name| escaped_bytes(name)).sum::<usize>() > NAMES_BYTES_MAX {
        return Err(Refusal::new(Code::TooLarge).call(call));
    }
    let has_delegator = principal.delegator.is_some();
    Ok(Arc::new(CallEntry {
        call,
        call_digest,
        attempt: evidence.attempt.max(1),
        tenant: Arc::clone(&principal.tenant),
        delegator: has_delegator.then(|| pseudonym(pseudonym_key, &principal.delegator_text())),
        agent: Some(Arc::clone(&principal.agent)),
        tool: Some(ToolEntry {
            definition: evidence.definition,
            name: Arc::clone(&tool.tool),
            server: Arc::clone(&tool.server),
        }),
        arguments: Some(commitment(salt, evidence.arguments.as_bytes())),
        trace,
    }))
}

/// The pseudonym of a person.
#[must_use]
pub fn pseudonym(key: &[u8; 32], name: &str) -> Digest {
    let mut block = [0u8; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into());
    mac.update(name.as_bytes());
    Digest::from_bytes(mac.finalize().into_bytes().into())
}

/// A record of a call; the writer sets its moment.
pub(crate) fn draft(kind: Kind, entry: &Arc<CallEntry>) -> RecordDraft {
    RecordDraft::new(kind, UnixMs(0), Subject::Call(Arc::clone(entry)))
}

/// The proofs of an attempt that was refused.
pub(crate) fn proofs_of(lights: Lights) -> ProofEntries {
    let entry = |light| ProofEntry {
        reference: None,
        state: match light {
            Light::Ok => ProofState::Proven,
            Light::NotRequired => ProofState::NotRequired,
            Light::Missing => ProofState::Missing,
            Light::Refused => ProofState::Refused,
            Light::Pending => ProofState::Pending,
            Light::NotReached => ProofState::Unchecked,
        },
    };
    ProofEntries {
        authorization: entry(lights.authorization),
        consent: entry(lights.consent),
        identity: entry(lights.identity),
        payment: entry(lights.payment),
    }
}
