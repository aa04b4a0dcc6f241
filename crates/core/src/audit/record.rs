//! The leaf of the log: one fact about one call, or about the deployment.
//!
//! Canonical JSON (RFC 8785) by construction: members are declared in sorted order, names are
//! ASCII, and values are strings or integers that a double holds exactly. Absent members are
//! omitted. Every string is the caller's to choose, so the caller keeps personal data out of
//! them; argument values and results enter as commitments only.
//!
//! INVARIANT: for every leaf there is exactly one [`Record`], and for every record one leaf:
//! decoding re-encodes and compares.

mod form;
mod leaf;

use super::merkle::leaf_hash;
use crate::{
    digest::Digest,
    ids::{CallId, DecisionId, QuoteId, TransferId},
    money::{Amount, AssetCode, Micros, decimal_text},
    time::UnixMs,
};
use form::Form;
pub(super) use form::micros_text;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

/// The version of the record's form.
pub const RECORD_VERSION: u64 = 1;
/// The longest leaf.
pub const MAX_RECORD_BYTES: usize = 8 * 1024;
/// Most entries of [`RecordDraft::detail`].
pub const MAX_DETAIL_ENTRIES: usize = 32;
/// Most bytes of one value of [`RecordDraft::detail`].
pub const MAX_DETAIL_VALUE_BYTES: usize = 1024;
/// Most bytes of one name of [`RecordDraft::detail`].
pub const MAX_DETAIL_NAME_BYTES: usize = 64;
/// The largest integer that a double and all below it represent exactly (RFC 7493 §2.2).
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const MAX_TIME_MS: u64 = 253_402_300_799_999;

/// What a record states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A price was offered.
    #[serde(rename = "quote")]
    Quote,
    /// A grant or an approval covered the quote, or did not.
    #[serde(rename = "consent")]
    Consent,
    /// Policy was evaluated.
    #[serde(rename = "decision")]
    Decision,
    /// The upstream is about to be called.
    #[serde(rename = "invocation.start")]
    InvocationStart,
    /// The upstream answered, or its answer is in doubt.
    #[serde(rename = "invocation.result")]
    InvocationResult,
    /// What the call did to the ledger. Commits to the call's other records.
    #[serde(rename = "ledger.impact")]
    LedgerImpact,
    /// The answer was no.
    #[serde(rename = "refusal")]
    Refusal,
    /// Money went back.
    #[serde(rename = "refund")]
    Refund,
    /// Refusals before identity, counted over a minute.
    #[serde(rename = "refused.aggregate")]
    RefusedAggregate,
    /// An operator changed something.
    #[serde(rename = "admin")]
    Admin,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Quote,
        Self::Consent,
        Self::Decision,
        Self::InvocationStart,
        Self::InvocationResult,
        Self::LedgerImpact,
        Self::Refusal,
        Self::Refund,
        Self::RefusedAggregate,
        Self::Admin,
    ];

    /// Its name in the log: `invocation.start`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quote => "quote",
            Self::Consent => "consent",
            Self::Decision => "decision",
            Self::InvocationStart => "invocation.start",
            Self::InvocationResult => "invocation.result",
            Self::LedgerImpact => "ledger.impact",
            Self::Refusal => "refusal",
            Self::Refund => "refund",
            Self::RefusedAggregate => "refused.aggregate",
            Self::Admin => "admin",
        }
    }
}

/// How what a record states came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Policy or a person said yes.
    Allowed,
    /// Policy or a person said no.
    Denied,
    /// More is needed: a payment, an approval.
    Challenged,
    /// The upstream answered.
    Succeeded,
    /// The upstream answered with an error, or could not be reached.
    Failed,
    /// Whether the upstream ran is not known.
    InDoubt,
    /// The hold was posted.
    Captured,
    /// The hold was given back.
    Released,
    /// Money is owed to the payer.
    RefundDue,
    /// Money went back to the payer.
    Refunded,
}

impl Outcome {
    /// Its name in the log: `in_doubt`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Challenged => "challenged",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::InDoubt => "in_doubt",
            Self::Captured => "captured",
            Self::Released => "released",
            Self::RefundDue => "refund_due",
            Self::Refunded => "refunded",
        }
    }
}

/// Where one of the four proofs stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofState {
    /// It held.
    Proven,
    /// Configuration asks for none.
    NotRequired,
    /// None was presented.
    Missing,
    /// A person has yet to answer, or a settlement is on its way.
    Pending,
    /// One was presented and did not hold.
    Refused,
    /// The call was refused before it was looked at.
    Unchecked,
}

impl ProofState {
    /// Its name in the log: `not_required`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::NotRequired => "not_required",
            Self::Missing => "missing",
            Self::Pending => "pending",
            Self::Refused => "refused",
            Self::Unchecked => "unchecked",
        }
    }
}

/// One proof's state, and what it rests on: a grant, a decision, a payment reference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofEntry {
    /// The evidence, by reference; never a token, a credential or a name.
    #[serde(rename = "ref")]
    pub reference: Option<Arc<str>>,
    /// Where the proof stood.
    pub state: ProofState,
}

/// The four proofs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofEntries {
    /// Policy permits the call.
    pub authorization: ProofEntry,
    /// A human consented to it.
    pub consent: ProofEntry,
    /// Who calls, and for whom.
    pub identity: ProofEntry,
    /// It is paid.
    pub payment: ProofEntry,
}

/// The tool that a call names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// Digest of the tool's definition as the server gave it.
    pub definition: Option<Digest>,
    /// Its name.
    pub name: Arc<str>,
    /// The server that offers it.
    pub server: Arc<str>,
}

/// An amount in its asset and in the reference unit, both as decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmountEntry {
    /// The asset.
    pub asset: AssetCode,
    /// Reference micros, at the rate pinned in the quote.
    #[serde(with = "form::micros_text")]
    pub micros: Micros,
    /// Minor units of the asset.
    #[serde(with = "decimal_text")]
    pub minor: u128,
}

impl AmountEntry {
    /// An amount and its reference value.
    #[must_use]
    pub fn new(amount: Amount, micros: Micros) -> Self {
        Self { asset: amount.asset, micros, minor: amount.minor }
    }
}

/// What all records of one call share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEntry {
    /// The attempt.
    pub call: CallId,
    /// The call digest; attempts, an approval and the retry share it.
    pub call_digest: Digest,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Tenant.
    pub tenant: Arc<str>,
    /// The delegator's pseudonym: an HMAC under a key that the log's operator holds.
    pub delegator: Option<Digest>,
    /// The agent's identifier.
    pub agent: Option<Arc<str>>,
    /// The tool.
    pub tool: Option<ToolEntry>,
    /// [`commitment`] to the canonical arguments.
    pub arguments: Option<Digest>,
    /// W3C `traceparent`.
    pub trace: Option<Arc<str>>,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One call.
    Call(Arc<CallEntry>),
    /// A tenant.
    Tenant(Arc<str>),
    /// The whole deployment.
    Deployment,
}

/// A record before the log's writer gives it its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordDraft {
    /// What it states.
    pub kind: Kind,
    /// When, by the gateway's clock.
    pub time: UnixMs,
    /// What it is about.
    pub subject: Subject,
    /// How it came out.
    pub outcome: Option<Outcome>,
    /// The quote in question.
    pub quote: Option<QuoteId>,
    /// Money quoted, held, charged or returned.
    pub amount: Option<AmountEntry>,
    /// Digest of the policy bundle.
    pub policy: Option<Digest>,
    /// The policy evaluation.
    pub decision: Option<DecisionId>,
    /// The four proofs.
    pub proofs: Option<ProofEntries>,
    /// [`commitment`] to the result.
    pub result: Option<Digest>,
    /// Ledger transfers that this record's transaction made.
    pub transfers: Vec<TransferId>,
    /// Code of the refusal: `PAY-003`. Exactly on [`Kind::Refusal`].
    pub refusal: Option<Arc<str>>,
    /// Leaf hashes of all earlier records of the call, in log order. Exactly on
    /// [`Kind::LedgerImpact`]; the log's writer, who knows them, fills it in.
    pub records: Vec<Digest>,
    /// Further facts, bounded: names of `[a-z0-9_.-]`, short values.
    pub detail: Arc<Details>,
}

/// Short texts by name.
pub type Details = BTreeMap<Cow<'static, str>, String>;

/// A record read from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Index in the log.
    pub seq: u64,
    /// Leaf hash of the previous record of the same call.
    pub prev: Option<Digest>,
    /// All else.
    pub draft: RecordDraft,
}

/// Why a record has no leaf, or a leaf is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordError {
    /// Longer than [`MAX_RECORD_BYTES`].
    TooLong,
    /// A time or sequence number beyond what JSON carries exactly.
    OutOfRange,
    /// The kind needs a call as its subject, or must not have one.
    Subject,
    /// A previous record without a call.
    Prev,
    /// Commitments to other records on another kind than `ledger.impact`, or none on it.
    Records,
    /// A refusal code on another kind than `refusal`, or none on it.
    Refusal,
    /// Too many details, or one with an unfit name or a long value.
    Detail,
    /// Not JSON of a record's form.
    Malformed,
    /// Another version of the form.
    Version,
    /// The JSON is not in canonical form.
    NotCanonical,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the record is longer than 8 KiB",
            Self::OutOfRange => "a time or number is out of range",
            Self::Subject => "the record's kind does not fit its subject",
            Self::Prev => "a record without a call has no previous record",
            Self::Records => "the commitment to other records does not fit the kind",
            Self::Refusal => "the refusal code does not fit the kind",
            Self::Detail => "the details are too many, too long or badly named",
            Self::Malformed => "not a record",
            Self::Version => "an unknown version of the record's form",
            Self::NotCanonical => "not in canonical form",
        })
    }
}

impl std::error::Error for RecordError {}

impl RecordDraft {
    /// A record that states nothing but its kind yet.
    #[must_use]
    pub fn new(kind: Kind, time: UnixMs, subject: Subject) -> Self {
        Self {
            kind,
            time,
            subject,
            outcome: None,
            quote: None,
            amount: None,
            policy: None,
            decision: None,
            proofs: None,
            result: None,
            transfers: Vec::new(),
            refusal: None,
            records: Vec::new(),
            detail: Arc::default(),
        }
    }

    /// Adds a further fact.
    pub fn note(&mut self, name: impl Into<Cow<'static, str>>, value: String) {
        Arc::make_mut(&mut self.detail).insert(name.into(), value);
    }

    /// The call it is about.
    #[must_use]
    pub fn call(&self) -> Option<&CallEntry> {
        match &self.subject {
            Subject::Call(call) => Some(call),
            Subject::Tenant(_) | Subject::Deployment => None,
        }
    }

    /// The leaf at index `seq`, after the call's previous record `prev` (its leaf hash).
    ///
    /// # Errors
    /// Any [`RecordError`] up to [`RecordError::Detail`].
    pub fn encode(&self, seq: u64, prev: Option<Digest>) -> Result<Vec<u8>, RecordError> {
        self.check(seq, prev)?;
        let leaf = leaf::write(self, seq, prev);
        if leaf.len() > MAX_RECORD_BYTES { Err(RecordError::TooLong) } else { Ok(leaf) }
    }

    fn check(&self, seq: u64, prev: Option<Digest>) -> Result<(), RecordError> {
        if seq > MAX_SAFE_INTEGER || self.time.0 > MAX_TIME_MS {
            return Err(RecordError::OutOfRange);
        }
        let about_call = matches!(self.subject, Subject::Call(_));
        let fits = match self.kind {
            Kind::Quote
            | Kind::Consent
            | Kind::Decision
            | Kind::InvocationStart
            | Kind::InvocationResult
            | Kind::LedgerImpact
            | Kind::Refusal
            | Kind::Refund => about_call,
            Kind::RefusedAggregate => !about_call,
            Kind::Admin => true,
        };
        if !fits {
            return Err(RecordError::Subject);
        }
        if prev.is_some() && !about_call {
            return Err(RecordError::Prev);
        }
        if self.records.is_empty() == (self.kind == Kind::LedgerImpact) {
            return Err(RecordError::Records);
        }
        if self.refusal.is_some() != (self.kind == Kind::Refusal) {
            return Err(RecordError::Refusal);
        }
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        let fits = self.detail.iter().all(|(name, value)| {
            (1..=MAX_DETAIL_NAME_BYTES).contains(&name.len())
                && name.bytes().all(plain)
                && value.len() <= MAX_DETAIL_VALUE_BYTES
        });
        let bounded = self.detail.len() <= MAX_DETAIL_ENTRIES && fits;
        if bounded { Ok(()) } else { Err(RecordError::Detail) }
    }
}

impl Record {
    /// Reads a leaf: a known version, known members only, in canonical form.
    ///
    /// # Errors
    /// Any [`RecordError`].
    pub fn decode(leaf: &[u8]) -> Result<Self, RecordError> {
        if leaf.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong);
        }
        let form: Form<'_> = serde_json::from_slice(leaf).map_err(|_| RecordError::Malformed)?;
        if form.v != RECORD_VERSION {
            return Err(RecordError::Version);
        }
        let record = form.into_record().ok_or(RecordError::Malformed)?;
        let canonical = record.draft.encode(record.seq, record.prev)?;
        if canonical == leaf { Ok(record) } else { Err(RecordError::NotCanonical) }
    }

    /// A record and the hash of its leaf.
    ///
    /// # Errors
    /// As [`Record::decode`].
    pub fn decode_hashed(leaf: &[u8]) -> Result<(Self, Digest), RecordError> {
        Ok((Self::decode(leaf)?, leaf_hash(leaf)))
    }
}

/// HMAC-SHA-256 under a salt used once: commits to `bytes` and tells nothing about them, for as
/// long as the salt is not known. Destroying the salt erases.
#[must_use]
pub fn commitment(salt: &[u8; 32], bytes: &[u8]) -> Digest {
    // RFC 2104 pads a short key with zeros to the hash's block.
    let mut key = [0; 64];
    key.split_at_mut(32).0.copy_from_slice(salt);
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(bytes);
    Digest::from_bytes(mac.finalize().into_bytes().into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8785 over a parsed value, written from its text.
    fn canonicalise(value: &serde_json::Value, out: &mut String) {
        use serde_json::Value;
        match value {
            Value::Object(members) => {
                let mut names: Vec<_> = members.keys().collect();
                names.sort_by_key(|name| name.encode_utf16().collect::<Vec<_>>());
                out.push('{');
                for (i, name) in names.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    canonicalise(&Value::String(name.clone()), out);
                    out.push(':');
                    canonicalise(&members[name], out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    canonicalise(item, out);
                }
                out.push(']');
            }
            Value::String(text) => {
                out.push('"');
                for c in text.chars() {
                    match c {
                        '"' => out.push_str("\\\""),
                        '\\' => out.push_str("\\\\"),
                        '\u{8}' => out.push_str("\\b"),
                        '\t' => out.push_str("\\t"),
                        '\n' => out.push_str("\\n"),
                        '\u{c}' => out.push_str("\\f"),
                        '\r' => out.push_str("\\r"),
                        c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                        c => out.push(c),
                    }
                }
                out.push('"');
            }
            Value::Number(number) => {
                let integer = number.as_u64().expect("no other numbers in a record");
                assert!(integer <= MAX_SAFE_INTEGER);
                out.push_str(&integer.to_string());
            }
            Value::Bool(_) | Value::Null => panic!("not in a record"),
        }
    }

    pub(in crate::audit) fn digest(n: u64) -> Digest {
        Digest::of(&n.to_be_bytes())
    }

    pub(in crate::audit) fn call_entry(n: u64) -> CallEntry {
        CallEntry {
            call: CallId::new(UnixMs(n), [1; 10]),
            call_digest: digest(n),
            attempt: 1,
            tenant: "acme".into(),
            delegator: Some(digest(n + 1)),
            agent: Some("agent-7".into()),
            tool: Some(ToolEntry {
                definition: Some(digest(3)),
                name: "search".into(),
                server: "research".into(),
            }),
            arguments: Some(commitment(&[5; 32], b"{}")),
            trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        }
    }

    /// A record with every member that its kind allows.
    pub(in crate::audit) fn full(kind: Kind) -> RecordDraft {
        let state = |state, reference: Option<&str>| ProofEntry {
            state,
            reference: reference.map(Arc::from),
        };
        let mut draft = RecordDraft::new(
            kind,
            UnixMs(1_790_000_000_123),
            Subject::Call(Arc::new(call_entry(9))),
        );
        draft.outcome = Some(Outcome::Captured);
        draft.quote = Some(QuoteId::from_bytes([2; 16]));
        draft.amount = Some(AmountEntry::new(
            Amount { asset: "USDC".into(), minor: u128::MAX },
            Micros(u64::MAX),
        ));
        draft.policy = Some(digest(4));
        draft.decision = Some(DecisionId::from_bytes([3; 16]));
        draft.proofs = Some(ProofEntries {
            authorization: state(ProofState::Proven, Some("dec_03")),
            consent: state(ProofState::NotRequired, None),
            identity: state(ProofState::Proven, Some("sub")),
            payment: state(ProofState::Pending, Some("0x01")),
        });
        draft.result = Some(digest(5));
        draft.transfers = vec![TransferId::from_bytes([4; 16]), TransferId::from_bytes([5; 16])];
        draft.refusal = (kind == Kind::Refusal).then(|| "PAY-003".into());
        draft.records =
            if kind == Kind::LedgerImpact { (10..15).map(digest).collect() } else { vec![] };
        draft.detail =
            Arc::new([("note".into(), "ünï\u{1f}\n\u{7f}\"\\\u{2028}😀".to_owned())].into());
        draft
    }

    const KINDS: [Kind; 9] = [
        Kind::Quote,
        Kind::Consent,
        Kind::Decision,
        Kind::InvocationStart,
        Kind::InvocationResult,
        Kind::LedgerImpact,
        Kind::Refusal,
        Kind::Refund,
        Kind::Admin,
    ];

    fn assert_canonical(draft: &RecordDraft, seq: u64, prev: Option<Digest>) {
        let leaf = draft.encode(seq, prev).unwrap();
        let value = serde_json::from_slice(&leaf).unwrap();
        let mut canonical = String::new();
        canonicalise(&value, &mut canonical);
        assert_eq!(String::from_utf8(leaf.clone()).unwrap(), canonical);
        let record = Record::decode(&leaf).unwrap();
        assert_eq!(record, Record { seq, prev, draft: draft.clone() });
    }

    #[test]
    fn leaves_are_canonical_and_read_back() {
        for kind in KINDS {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_canonical(&full(kind), 7, Some(digest(1)));
        }
        let time = UnixMs(0);
        for subject in [Subject::Deployment, Subject::Tenant("t".into())] {
            for kind in [Kind::Admin, Kind::RefusedAggregate] {
                assert_canonical(&RecordDraft::new(kind, time, subject.clone()), 0, None);
            }
        }
    }

    #[test]
    fn the_smallest_leaf() {
        let draft = RecordDraft::new(Kind::Admin, UnixMs(1_709_210_096_789), Subject::Deployment);
        let leaf = String::from_utf8(draft.encode(3, None).unwrap()).unwrap();
        assert_eq!(
            leaf,
            r#"{"kind":"admin","seq":3,"time":"2024-02-29T12:34:56.789Z","time_ms":1709210096789,"v":1}"#
        );
    }

    #[test]
    fn members_that_do_not_fit_the_kind_are_refused() {
        let encode = |draft: &RecordDraft| draft.encode(0, None).err();
        for kind in KINDS {
            let mut draft = full(kind);
            draft.records = if kind == Kind::LedgerImpact { vec![] } else { vec![digest(1)] };
            assert_eq!(encode(&draft), Some(RecordError::Records));
            let mut draft = full(kind);
            draft.refusal = if kind == Kind::Refusal { None } else { Some("PAY-003".into()) };
            assert_eq!(encode(&draft), Some(RecordError::Refusal));
            let mut draft = full(kind);
            draft.subject = Subject::Deployment;
            let expected = (kind != Kind::Admin).then_some(RecordError::Subject);
            assert_eq!(encode(&draft), expected);
        }
        let mut draft = full(Kind::Admin);
        draft.kind = Kind::RefusedAggregate;
        assert_eq!(encode(&draft), Some(RecordError::Subject));
        draft.subject = Subject::Tenant("t".into());
        assert_eq!(draft.encode(0, Some(digest(1))), Err(RecordError::Prev));
    }

    #[test]
    fn bounds() {
        let encode = |draft: &RecordDraft| draft.encode(0, None).err();
        let base = || RecordDraft::new(Kind::Admin, UnixMs(0), Subject::Deployment);
        let many = |count: usize, bytes: usize| {
            Arc::new((0..count).map(|i| (format!("n{i}").into(), "x".repeat(bytes))).collect())
        };
        for name in ["", "A", "a b", "ä", "\"", &"a".repeat(65)] {
            let mut draft = base();
            draft.note(name.to_owned(), String::new());
            assert_eq!(encode(&draft), Some(RecordError::Detail), "{name}");
        }
        let mut draft = base();
        draft.note("a", "x".repeat(1025));
        assert_eq!(encode(&draft), Some(RecordError::Detail));
        let mut draft = base();
        draft.detail = many(33, 0);
        assert_eq!(encode(&draft), Some(RecordError::Detail));
        draft.detail = many(8, 1024);
        assert_eq!(encode(&draft), Some(RecordError::TooLong));
        draft.detail = many(7, 1024);
        let room = MAX_RECORD_BYTES - draft.encode(0, None).unwrap().len() - r#","n7":"""#.len();
        draft.note("n7", "x".repeat(room));
        assert_eq!(draft.encode(0, None).unwrap().len(), MAX_RECORD_BYTES);
        draft.note("n7", "x".repeat(room + 1));
        assert_eq!(encode(&draft), Some(RecordError::TooLong));
        assert_eq!(base().encode(MAX_SAFE_INTEGER + 1, None), Err(RecordError::OutOfRange));
        assert!(base().encode(MAX_SAFE_INTEGER, None).is_ok());
        let late = RecordDraft::new(Kind::Admin, UnixMs(MAX_TIME_MS + 1), Subject::Deployment);
        assert_eq!(encode(&late), Some(RecordError::OutOfRange));
        let last = RecordDraft { time: UnixMs(MAX_TIME_MS), ..late };
        assert_canonical(&last, 0, None);
    }

    #[test]
    fn other_spellings_of_a_leaf_are_refused() {
        let leaf = String::from_utf8(full(Kind::Refusal).encode(7, None).unwrap()).unwrap();
        let replace = |from: &str, to: &str| {
            assert!(leaf.contains(from), "{from}");
            Record::decode(leaf.replacen(from, to, 1).as_bytes()).err()
        };
        let malformed = Some(RecordError::Malformed);
        let other_form = Some(RecordError::NotCanonical);
        assert_eq!(replace(r#","v":1"#, r#","v":2"#), Some(RecordError::Version));
        assert_eq!(replace(r#","v":1"#, r#","v":1,"w":1"#), malformed);
        assert_eq!(replace(r#","v":1"#, r#","v":1,"v":1"#), malformed);
        assert_eq!(replace(r#","v":1"#, ""), malformed);
        assert_eq!(replace(r#"{"agent""#, r#"{ "agent""#), other_form);
        assert_eq!(replace(r#""seq":7"#, r#""seq":7.0"#), malformed);
        assert_eq!(replace(".123Z", ".124Z"), other_form);
        assert_eq!(replace("search", "\\u0073earch"), other_form);
        assert_eq!(replace(r#""kind":"refusal""#, r#""kind":"refused""#), malformed);
        assert_eq!(replace(r#""attempt":1,"#, ""), malformed);
        assert_eq!(replace(r#","quote":"#, r#","prev":null,"quote":"#), other_form);
        assert_eq!(replace(r#""minor":"#, r#""minor":"0"#), malformed);
        let upper = leaf.replacen(&digest(9).to_hex(), &digest(9).to_hex().to_uppercase(), 1);
        assert_eq!(Record::decode(upper.as_bytes()).err(), other_form);
        assert_eq!(Record::decode(b"").err(), malformed);
        assert_eq!(Record::decode(&[b' '; 9000]).err(), Some(RecordError::TooLong));
    }

    #[test]
    fn the_commitment_is_hmac_sha_256() {
        // RFC 4231 test case 1, whose 20-byte key padded with zeros is the same HMAC key.
        let mut key = [0u8; 32];
        key[..20].fill(0x0b);
        assert_eq!(
            commitment(&key, b"Hi There").to_hex(),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_ne!(commitment(&[0; 32], b"x"), commitment(&[1; 32], b"x"));
    }

    proptest! {
        #[test]
        fn any_strings_stay_canonical(
            tenant: String, agent: Option<String>, server: String, name: String,
            trace: Option<String>, reference: Option<String>, attempt: u32, ms in 0..=MAX_TIME_MS,
            minor: u128, micros: u64, seq in 0..=MAX_SAFE_INTEGER, prev: Option<u64>,
            detail in prop::collection::btree_map("[a-z0-9_.-]{1,9}", ".{0,20}", 0..5),
        ) {
            let mut draft = full(Kind::InvocationResult);
            draft.time = UnixMs(ms);
            let arc = |text: Option<String>| text.map(Arc::from);
            draft.subject = Subject::Call(Arc::new(CallEntry {
                attempt,
                tenant: tenant.into(),
                agent: arc(agent),
                trace: arc(trace),
                tool: Some(ToolEntry { definition: None, name: name.into(), server: server.into() }),
                ..call_entry(1)
            }));
            draft.amount = Some(AmountEntry { asset: "A".into(), minor, micros: Micros(micros) });
            draft.proofs.as_mut().unwrap().consent.reference = arc(reference);
            let detail = detail.into_iter().map(|(name, value)| (name.into(), value));
            draft.detail = Arc::new(detail.collect());
            assert_canonical(&draft, seq, prev.map(digest));
        }

        #[test]
        fn decoding_anything_never_panics(leaf: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let _ = Record::decode(&leaf);
            let mut leaf = full(Kind::LedgerImpact).encode(1, None).unwrap();
            let at = at.index(leaf.len());
            leaf[at] ^= 1 << bit;
            if let Ok(record) = Record::decode(&leaf) {
                prop_assert_eq!(record.draft.encode(record.seq, record.prev).unwrap(), leaf);
            }
        }
    }
}
