//! The proof of one call: its closing record with an audit path to a signed checkpoint, and the
//! records to which the closing one commits. Whoever has the log's public key can check it
//! without the log.

use super::{
    calls::Calls,
    checkpoint::{Checkpoint, NoteError, VerifierKey},
    finding::{Finding, Findings},
    merkle::{MerkleError, inclusion_proof, leaf_hash, verify_inclusion},
    record::{Kind, Record, RecordError},
    tiles::{CHECKPOINT_PATH, TILE_WIDTH, Tile, TileKind, node_from_tile},
    verify::{ReadFile, fetch, hashes_of, leaves_of, open_checkpoint},
};
use crate::{digest::Digest, ids::CallId};
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, collections::HashMap, fmt};

/// The version of the bundle's form.
pub const PROOF_VERSION: u64 = 1;
/// Hashes in the longest audit path.
const MAX_PATH: usize = 64;

/// A proof as it travels, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofBundle {
    /// [`PROOF_VERSION`].
    pub v: u64,
    /// The signed checkpoint.
    pub checkpoint: String,
    /// Index of the call's `ledger.impact` record.
    pub index: u64,
    /// That leaf.
    pub leaf: String,
    /// Its audit path, from the leaf up.
    pub path: Vec<Digest>,
    /// The leaves to which it commits, in log order.
    pub records: Vec<String>,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenCall {
    /// The checkpoint that attests it.
    pub checkpoint: Checkpoint,
    /// Hash of the `ledger.impact` leaf, as a receipt names it.
    pub leaf: Digest,
    /// The `ledger.impact` record.
    pub impact: Record,
    /// The call's other records, in log order.
    pub records: Vec<Record>,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofError {
    /// Another version of the form.
    Version,
    /// The checkpoint is not one of this log's key.
    Checkpoint(NoteError),
    /// A leaf is not a record.
    Record(RecordError),
    /// The leaf is not a `ledger.impact` record, or not at this index.
    NotAnImpact,
    /// The leaf is not in the signed tree.
    Inclusion(MerkleError),
    /// A record is of another call.
    OtherCall,
    /// The records are not all and only those of the call.
    Incomplete(Finding),
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("the proof is of an unknown version"),
            Self::Checkpoint(reason) => write!(f, "checkpoint: {reason}"),
            Self::Record(reason) => write!(f, "record: {reason}"),
            Self::NotAnImpact => f.write_str("the leaf is not the closing record at this index"),
            Self::Inclusion(reason) => write!(f, "audit path: {reason}"),
            Self::OtherCall => f.write_str("a record is of another call"),
            Self::Incomplete(finding) => write!(f, "{finding}"),
        }
    }
}

impl std::error::Error for ProofError {}

/// Why a proof cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProveError<E> {
    /// A file could not be read.
    Read(E),
    /// A file is missing or malformed.
    File {
        /// Its path.
        path: String,
    },
    /// The checkpoint is not one of this log's key.
    Checkpoint(NoteError),
    /// The log has no closing record of this call, or none at this index.
    NotFound,
    /// A node that the audit path needs is missing.
    Tree(MerkleError),
    /// The log does not prove the call: what was read does not verify.
    Unsound(ProofError),
}

impl<E: fmt::Display> fmt::Display for ProveError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "{error}"),
            Self::File { path } => write!(f, "`{path}` is missing or malformed"),
            Self::Checkpoint(reason) => write!(f, "checkpoint: {reason}"),
            Self::NotFound => f.write_str("the log has no closing record of this call"),
            Self::Tree(reason) => write!(f, "{reason}"),
            Self::Unsound(reason) => write!(f, "the log does not prove the call: {reason}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ProveError<E> {}

/// Which call to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The call whose `ledger.impact` record has this index (a receipt names it).
    Index(u64),
    /// The call of this identifier; the log is searched from its end.
    Call(CallId),
}

/// Makes the proof of a closed call from a log's published files. The proof has been verified
/// when it is returned.
///
/// # Errors
/// See [`ProveError`].
pub fn prove_call<E>(
    read: &ReadFile<'_, E>,
    key: &VerifierKey,
    target: Target,
) -> Result<ProofBundle, ProveError<E>> {
    let missing = || ProveError::File { path: CHECKPOINT_PATH.to_owned() };
    let note = read(CHECKPOINT_PATH).map_err(ProveError::Read)?.ok_or_else(missing)?;
    let size = open_checkpoint(&note, key).map_err(ProveError::Checkpoint)?.size;
    let found = find(read, size, target)?;
    let path = audit_path(read, found.index, size)?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| ProveError::NotFound);
    let bundle = ProofBundle {
        v: PROOF_VERSION,
        checkpoint: text(note)?,
        index: found.index,
        leaf: text(found.leaf)?,
        path,
        records: found.records.into_iter().flatten().map(text).collect::<Result<_, _>>()?,
    };
    verify_proof(&bundle, key).map_err(ProveError::Unsound)?;
    Ok(bundle)
}

/// Checks a proof with the log's public key alone.
///
/// # Errors
/// See [`ProofError`].
pub fn verify_proof(bundle: &ProofBundle, key: &VerifierKey) -> Result<ProvenCall, ProofError> {
    if bundle.v != PROOF_VERSION {
        return Err(ProofError::Version);
    }
    let checkpoint = Checkpoint::open(&bundle.checkpoint, key).map_err(ProofError::Checkpoint)?;
    let decode = |leaf: &str| Record::decode_hashed(leaf.as_bytes()).map_err(ProofError::Record);
    let (impact, leaf) = decode(&bundle.leaf)?;
    if impact.draft.kind != Kind::LedgerImpact || impact.seq != bundle.index {
        return Err(ProofError::NotAnImpact);
    }
    if bundle.path.len() > MAX_PATH {
        return Err(ProofError::Inclusion(MerkleError::WrongLength));
    }
    verify_inclusion(&leaf, bundle.index, checkpoint.size, &bundle.path, &checkpoint.root)
        .map_err(ProofError::Inclusion)?;
    let (mut calls, mut findings) = (Calls::default(), Findings::default());
    let mut records = Vec::new();
    for text in &bundle.records {
        let (record, hash) = decode(text)?;
        if record.draft.call().map(|call| call.call) != impact.draft.call().map(|call| call.call) {
            return Err(ProofError::OtherCall);
        }
        calls.observe(record.seq, hash, &record, &mut findings);
        records.push(record);
    }
    calls.observe(impact.seq, leaf, &impact, &mut findings);
    match findings.list.into_iter().next() {
        Some(finding) => Err(ProofError::Incomplete(finding)),
        None => Ok(ProvenCall { checkpoint, leaf, impact, records }),
    }
}

/// A closing record and, in the order of its commitment, the leaves it commits to.
struct Found {
    index: u64,
    leaf: Vec<u8>,
    commits: Vec<Digest>,
    records: Vec<Option<Vec<u8>>>,
}

impl Found {
    /// The leaf as a closing record that fits the target.
    fn closing(leaf: &[u8], index: u64, target: Target) -> Option<Self> {
        let fits = match target {
            Target::Index(wanted) => index == wanted,
            // Most leaves are of other calls: look for the text before reading the record.
            Target::Call(call) => std::str::from_utf8(leaf)
                .is_ok_and(|text| text.contains(&format!("\"call\":\"{call}\""))),
        };
        let record = fits.then(|| Record::decode(leaf).ok()).flatten()?;
        if record.draft.kind != Kind::LedgerImpact {
            return None;
        }
        let commits = record.draft.records;
        let records = vec![None; commits.len()];
        Some(Self { index, leaf: leaf.to_vec(), commits, records })
    }

    /// Takes an earlier leaf, if it is one of the call's.
    fn take(&mut self, leaf: &[u8]) {
        let hash = leaf_hash(leaf);
        let places = self.commits.iter().zip(&mut self.records);
        for (_, place) in places.filter(|(commit, _)| **commit == hash) {
            *place = Some(leaf.to_vec());
        }
    }

    fn is_complete(&self) -> bool {
        self.records.iter().all(Option::is_some)
    }
}

/// Searches the bundles backwards.
fn find<E>(read: &ReadFile<'_, E>, size: u64, target: Target) -> Result<Found, ProveError<E>> {
    let last = match target {
        Target::Index(index) => index.min(size.saturating_sub(1)),
        Target::Call(_) => size.saturating_sub(1),
    };
    let mut found: Option<Found> = None;
    for index in (0..=last / u64::from(TILE_WIDTH)).rev() {
        let Some(bundle) = Tile::in_tree(TileKind::Entries, index, size) else { break };
        let malformed = || ProveError::File { path: bundle.path() };
        let fetched = fetch(read, bundle).map_err(ProveError::Read)?.ok_or_else(malformed)?;
        let leaves = leaves_of(&fetched, bundle).ok_or_else(malformed)?;
        let numbered: Vec<_> = (bundle.first_node()..).zip(leaves).collect();
        for (at, leaf) in numbered.into_iter().rev() {
            match &mut found {
                None => found = Found::closing(leaf, at, target),
                Some(found) => found.take(leaf),
            }
        }
        match found {
            Some(found) if found.is_complete() => return Ok(found),
            None if matches!(target, Target::Index(_)) => break,
            _ => {}
        }
    }
    // Where a record was not found the proof is incomplete, which its verification says.
    found.ok_or(ProveError::NotFound)
}

/// The audit path of a leaf, from the hash tiles.
fn audit_path<E>(
    read: &ReadFile<'_, E>,
    index: u64,
    size: u64,
) -> Result<Vec<Digest>, ProveError<E>> {
    let tiles: RefCell<HashMap<Tile, Vec<Digest>>> = RefCell::default();
    let failure = RefCell::new(None);
    let fail = |error| *failure.borrow_mut() = Some(error);
    let node = |level, index| {
        let tile = Tile::holding_node(level, index, size)?;
        if let Some(hashes) = tiles.borrow().get(&tile) {
            return node_from_tile(level, index, hashes);
        }
        let fetched = fetch(read, tile).map_err(|error| fail(ProveError::Read(error))).ok()?;
        let Some(hashes) = fetched.and_then(|fetched| hashes_of(&fetched, tile)) else {
            fail(ProveError::File { path: tile.path() });
            return None;
        };
        let hash = node_from_tile(level, index, &hashes);
        tiles.borrow_mut().insert(tile, hashes);
        hash
    };
    let path = inclusion_proof(index, size, node);
    path.map_err(|error| failure.take().unwrap_or(ProveError::Tree(error)))
}

#[cfg(test)]
mod tests {
    use super::super::{
        checkpoint::SignerKey,
        testlog::{Files, TestLog, call},
    };
    use super::*;
    use std::convert::Infallible;

    fn log() -> TestLog {
        let mut log = TestLog::new();
        for n in 0..45 {
            log.executed(n);
            log.refused(1000 + n);
        }
        log
    }

    fn prove(files: &Files, target: Target) -> Result<ProofBundle, ProveError<Infallible>> {
        let read = |path: &str| Ok::<_, Infallible>(files.get(path).cloned());
        prove_call(&read, TestLog::key().verifier(), target)
    }

    fn verify(bundle: &ProofBundle) -> Result<ProvenCall, ProofError> {
        verify_proof(bundle, TestLog::key().verifier())
    }

    #[test]
    fn every_executed_call_is_proved_by_index_and_by_identifier() {
        let (log, size) = (log(), log().size());
        let files = log.files();
        for n in 0..45u64 {
            let index = n * 10 + 5;
            let bundle = prove(&files, Target::Index(index)).unwrap();
            assert_eq!(prove(&files, Target::Call(call(n))), Ok(bundle.clone()));
            let json = serde_json::to_vec(&bundle).unwrap();
            let read: ProofBundle = serde_json::from_slice(&json).unwrap();
            let proven = verify(&read).unwrap();
            assert_eq!(proven.checkpoint.size, size);
            assert_eq!(proven.leaf, log.receipt(index).log.leaf);
            let kinds: Vec<_> = proven.records.iter().map(|r| r.draft.kind.name()).collect();
            let expected =
                ["quote", "consent", "decision", "invocation.start", "invocation.result"];
            assert_eq!(kinds, expected);
        }
    }

    #[test]
    fn what_is_not_a_closed_call_has_no_proof() {
        let files = log().files();
        for target in [
            Target::Index(0),
            Target::Index(9),
            Target::Index(450),
            Target::Index(u64::MAX),
            Target::Call(call(1000)),
            Target::Call(call(9999)),
        ] {
            assert_eq!(prove(&files, target), Err(ProveError::NotFound), "{target:?}");
        }
        let empty = TestLog::new().files();
        assert_eq!(prove(&empty, Target::Index(0)), Err(ProveError::NotFound));
        assert_eq!(prove(&empty, Target::Call(call(0))), Err(ProveError::NotFound));
    }

    #[test]
    fn a_call_whose_records_span_bundles_is_proved() {
        let mut log = TestLog::new();
        let mut drafts = super::super::testlog::draft(
            call(7),
            &[
                Kind::Quote,
                Kind::Consent,
                Kind::Decision,
                Kind::InvocationStart,
                Kind::InvocationResult,
                Kind::LedgerImpact,
            ],
        );
        let impact = drafts.pop().unwrap();
        log.write_all(drafts);
        for n in 100..200 {
            log.executed(n);
        }
        log.write(impact);
        let bundle = prove(&log.files(), Target::Call(call(7))).unwrap();
        assert_eq!(bundle.index, 605);
        assert_eq!(verify(&bundle).unwrap().records.len(), 5);
    }

    #[test]
    fn missing_or_altered_files_give_no_proof() {
        let sound = log().files();
        let target = Target::Index(15);
        for path in ["checkpoint", "tile/entries/000", "tile/0/000", "tile/0/001.p/194"] {
            let mut files = sound.clone();
            files.remove(path);
            let path = path.to_owned();
            assert_eq!(prove(&files, target), Err(ProveError::File { path }));
        }
        let before: usize = log().leaves[..15].iter().map(|leaf| leaf.len() + 2).sum();
        for (path, at) in [
            ("checkpoint", 20),
            ("tile/0/000", 16 * 32),
            ("tile/0/001.p/194", 0),
            ("tile/entries/000", before + 100),
            ("tile/entries/000", before - 100),
        ] {
            let mut files = sound.clone();
            files.get_mut(path).unwrap()[at] ^= 1;
            assert!(prove(&files, target).is_err(), "{path}");
        }
        let mut fork = log();
        fork.executed(500);
        let mut files = sound;
        files.insert("checkpoint".into(), fork.files()["checkpoint"].clone());
        assert!(prove(&files, target).is_err());
    }

    #[test]
    fn a_bundle_changed_in_any_part_is_refused() {
        let bundle = prove(&log().files(), Target::Index(25)).unwrap();
        assert!(verify(&bundle).is_ok());
        let json = serde_json::to_vec(&bundle).unwrap();
        for at in (0..json.len()).step_by(5) {
            let mut json = json.clone();
            json[at] ^= 1 << (at % 7);
            if let Ok(changed) = serde_json::from_slice::<ProofBundle>(&json)
                && changed != bundle
            {
                assert!(verify(&changed).is_err(), "{at}");
            }
        }
        let change = |change: &dyn Fn(&mut ProofBundle)| {
            let mut bundle = bundle.clone();
            change(&mut bundle);
            verify(&bundle).unwrap_err()
        };
        let without_last = change(&|b| drop(b.records.pop()));
        assert!(matches!(without_last, ProofError::Incomplete(Finding::BrokenChain { .. })));
        for at in 0..5 {
            let without = change(&|b| drop(b.records.remove(at)));
            assert!(matches!(without, ProofError::Incomplete(_)));
        }
        assert!(matches!(change(&|b| b.records.swap(0, 1)), ProofError::Incomplete(_)));
        let twice = change(&|b| b.records.insert(0, b.records[0].clone()));
        assert!(matches!(twice, ProofError::Incomplete(_)));
        let foreign = String::from_utf8(log().leaves[0].clone()).unwrap();
        assert_eq!(change(&|b| b.records.push(foreign.clone())), ProofError::OtherCall);
        assert_eq!(change(&|b| b.index = 24), ProofError::NotAnImpact);
        assert_eq!(change(&|b| b.v = 2), ProofError::Version);
        let length = ProofError::Inclusion(MerkleError::WrongLength);
        assert_eq!(change(&|b| b.path.truncate(3)), length);
        assert_eq!(change(&|b| b.path = vec![b.path[0]; 65]), length);
        let other = SignerKey::from_seed(TestLog::ORIGIN, &[9; 32]).unwrap();
        let refused = verify_proof(&bundle, other.verifier());
        assert_eq!(refused, Err(ProofError::Checkpoint(NoteError::NotSigned)));
    }
}
