//! A log in memory, for tests: written honestly, or of any leaves and signed all the same.

use super::{
    checkpoint::{Checkpoint, SignerKey},
    merkle::{Frontier, leaf_hash},
    receipt::{Receipt, tests::receipt},
    record::{
        CallEntry, Kind, Outcome, Record, RecordDraft, Subject,
        tests::{call_entry, full},
    },
    tiles::{CHECKPOINT_PATH, TILE_HEIGHT, TileKind, encode_entries, encode_hashes, tiles_between},
};
use crate::{digest::Digest, ids::CallId, time::UnixMs};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, LazyLock},
};

pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn call(n: u64) -> CallId {
    call_entry(n).call
}

/// Records of one call, of these kinds; captured.
pub(super) fn draft(call: CallId, kinds: &[Kind]) -> Vec<RecordDraft> {
    let entry = CallEntry { call, ..call_entry(1) };
    let subject = Subject::Call(Arc::new(entry));
    let draft = |kind: &Kind| {
        let outcome = if *kind == Kind::LedgerImpact {
            Some(Outcome::Captured)
        } else {
            (*kind == Kind::InvocationResult).then_some(Outcome::Succeeded)
        };
        RecordDraft { subject: subject.clone(), outcome, records: vec![], ..full(*kind) }
    };
    kinds.iter().map(draft).collect()
}

#[derive(Default)]
pub(super) struct TestLog {
    pub(super) leaves: Vec<Vec<u8>>,
    frontier: Frontier,
    nodes: HashMap<(u8, u64), Digest>,
    calls: HashMap<CallId, Vec<Digest>>,
}

impl TestLog {
    pub(super) const ORIGIN: &str = "log.example/a";

    pub(super) fn key() -> &'static SignerKey {
        static KEY: LazyLock<SignerKey> =
            LazyLock::new(|| SignerKey::from_seed(TestLog::ORIGIN, &[7; 32]).unwrap());
        &KEY
    }

    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A log of any leaves.
    pub(super) fn of(leaves: Vec<Vec<u8>>) -> Self {
        let mut log = Self::new();
        for leaf in leaves {
            log.append(leaf);
        }
        log
    }

    fn append(&mut self, leaf: Vec<u8>) -> Digest {
        let hash = leaf_hash(&leaf);
        let nodes = &mut self.nodes;
        self.frontier.append(hash, |node| {
            nodes.insert((node.level, node.index), node.hash);
        });
        self.leaves.push(leaf);
        hash
    }

    /// What the log's writer does.
    pub(super) fn write(&mut self, mut draft: RecordDraft) {
        let call = draft.call().map(|entry| entry.call);
        let earlier = call.and_then(|call| self.calls.get(&call)).cloned().unwrap_or_default();
        if draft.kind == Kind::LedgerImpact {
            draft.records = earlier.clone();
        }
        let leaf = draft.encode(self.size(), earlier.last().copied()).unwrap();
        let hash = self.append(leaf);
        if let Some(call) = call {
            self.calls.entry(call).or_default().push(hash);
        }
    }

    pub(super) fn write_all(&mut self, drafts: Vec<RecordDraft>) {
        drafts.into_iter().for_each(|draft| self.write(draft));
    }

    pub(super) fn executed(&mut self, n: u64) {
        self.write_all(draft(
            call(n),
            &[
                Kind::Quote,
                Kind::Consent,
                Kind::Decision,
                Kind::InvocationStart,
                Kind::InvocationResult,
                Kind::LedgerImpact,
            ],
        ));
    }

    pub(super) fn refused(&mut self, n: u64) {
        let kinds = [Kind::Quote, Kind::Consent, Kind::Decision, Kind::Refusal];
        self.write_all(draft(call(n), &kinds));
    }

    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(super) fn head(&self) -> Checkpoint {
        Checkpoint {
            origin: Self::ORIGIN.into(),
            size: self.size(),
            root: self.frontier.root(),
            time: Some(UnixMs(1_790_000_000_999)),
        }
    }

    pub(super) fn checkpoint(&self) -> String {
        self.head().sign(Self::key()).unwrap()
    }

    /// A receipt for the call whose record lies at `index`.
    pub(super) fn receipt(&self, index: u64) -> Receipt {
        let leaf = &self.leaves[usize::try_from(index).unwrap()];
        let mut receipt = receipt(Self::ORIGIN);
        receipt.log.index = index;
        receipt.log.leaf = leaf_hash(leaf);
        let record = Record::decode(leaf).unwrap();
        let entry = record.draft.call().unwrap();
        (receipt.call, receipt.call_digest) = (entry.call, entry.call_digest);
        receipt
    }

    pub(super) fn entries(&self, range: Range<usize>) -> Vec<u8> {
        encode_entries(self.leaves[range].iter().map(Vec::as_slice)).unwrap()
    }

    pub(super) fn files(&self) -> Files {
        let mut files = Files::from([(CHECKPOINT_PATH.into(), self.checkpoint().into_bytes())]);
        for tile in tiles_between(0, self.size()) {
            let nodes = tile.first_node()..tile.first_node() + u64::from(tile.width());
            let content = match tile.kind() {
                TileKind::Entries => {
                    let start = usize::try_from(nodes.start).unwrap();
                    self.entries(start..start + usize::from(tile.width()))
                }
                TileKind::Hashes { level } => {
                    let level = level * TILE_HEIGHT;
                    encode_hashes(&nodes.map(|i| self.nodes[&(level, i)]).collect::<Vec<_>>())
                }
            };
            files.insert(tile.path(), content);
        }
        files
    }
}
