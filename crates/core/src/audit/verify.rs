//! The offline verifier: everything an outsider can check about a log from its published files
//! and its public key.
//!
//! It recomputes every leaf hash and the root, checks that each leaf is a record in canonical
//! form at its own index, that each call's records are complete and chained, and that the log
//! continues a checkpoint or holds a receipt that was kept elsewhere. A log's tail can be cut
//! without a trace inside the log: only a kept checkpoint or receipt shows it, so the report
//! says how far the log is attested.

use super::{
    calls::{CallCounts, Calls, OpenCall},
    checkpoint::{Checkpoint, NoteError, VerifierKey},
    finding::{Finding, Findings},
    merkle::{Frontier, leaf_hash},
    receipt::Receipt,
    record::{Kind, Record},
    tiles::{
        CHECKPOINT_PATH, TILE_HEIGHT, TILE_WIDTH, Tile, TileKind, decode_entries, decode_hashes,
    },
};
use crate::{digest::Digest, time::UnixMs};
use serde::Serialize;

/// Reads one published file by its path below the log's prefix; `None` when there is none.
pub type ReadFile<'a, E> = dyn Fn(&str) -> Result<Option<Vec<u8>>, E> + 'a;

/// What was kept from the past to hold the log to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// A signed checkpoint, as text.
    pub kept: Option<&'a str>,
    /// A signed receipt, as a compact JWS.
    pub receipt: Option<&'a str>,
}

/// How far the log is attested by its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attested {
    /// Records up to this index, exclusive.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
    /// When the checkpoint was signed.
    pub time: Option<UnixMs>,
    /// When the last record was written.
    pub last_record: Option<UnixMs>,
    /// Leaves under the kept checkpoint that the log was shown to continue.
    pub continues: Option<u64>,
    /// Whether the log holds the kept receipt's record.
    pub holds_receipt: bool,
}

/// What the verifier found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's published checkpoint, where its signature holds.
    pub checkpoint: Option<Checkpoint>,
    /// How far the log is attested; `None` when its root is not the signed one.
    pub attested: Option<Attested>,
    /// Records read.
    pub records: u64,
    /// The calls they tell of.
    pub calls: CallCounts,
    /// Calls that are in progress or in doubt, by their last index.
    pub open: Vec<OpenCall>,
    /// All that is wrong, up to a bound.
    pub findings: Vec<Finding>,
    /// Findings beyond the bound.
    pub findings_omitted: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.attested.is_some()
    }
}

/// Verifies a log from its files. Reading ends early where both the leaves and the hashes of a
/// range are missing.
///
/// # Errors
/// Those of `read`. What is wrong with the log is in the report.
pub fn verify_log<E>(
    read: &ReadFile<'_, E>,
    key: &VerifierKey,
    options: &Options<'_>,
) -> Result<Report, E> {
    let mut findings = Findings::default();
    let published = match read(CHECKPOINT_PATH)? {
        None => Err(Finding::MissingCheckpoint),
        Some(bytes) => {
            open_checkpoint(&bytes, key).map_err(|reason| Finding::BadCheckpoint { reason })
        }
    };
    let kept = options.kept.map(|note| {
        Checkpoint::open(note, key).map_err(|reason| Finding::BadKeptCheckpoint { reason })
    });
    let receipt = options
        .receipt
        .map(|token| Receipt::verify(token, key).map_err(|reason| Finding::BadReceipt { reason }));
    let checkpoint = keep(published, &mut findings);
    let kept = kept.and_then(|kept| keep(kept, &mut findings));
    let receipt = receipt.and_then(|receipt| keep(receipt, &mut findings));
    let Some(checkpoint) = checkpoint else {
        return Ok(Report::new(None, None, Scan::new(0, None, None, findings)));
    };
    let mut scan = Scan::new(checkpoint.size, kept.as_ref(), receipt.as_ref(), findings);
    scan.read_leaves(read)?;
    let Some(tree) = scan.judge(&checkpoint.root) else {
        scan.compare_sizes(kept.as_ref(), receipt.as_ref());
        return Ok(Report::new(Some(checkpoint), None, scan));
    };
    scan.read_upper_tiles(read, &tree)?;
    let sized = scan.compare_sizes(kept.as_ref(), receipt.as_ref());
    let continues = kept.filter(|_| sized.kept).filter(|kept| scan.continues(kept, &tree));
    let held = receipt.filter(|_| sized.receipt).filter(|receipt| scan.holds(receipt, &tree));
    let attested = Attested {
        size: checkpoint.size,
        root: checkpoint.root,
        time: checkpoint.time,
        last_record: scan.last_record,
        continues: continues.map(|kept| kept.size),
        holds_receipt: held.is_some(),
    };
    Ok(Report::new(Some(checkpoint), Some(attested), scan))
}

impl Report {
    fn new(checkpoint: Option<Checkpoint>, attested: Option<Attested>, scan: Scan) -> Self {
        let (calls, open) = scan.calls.finish();
        Self {
            checkpoint,
            attested,
            records: scan.records,
            calls,
            open,
            findings: scan.findings.list,
            findings_omitted: scan.findings.omitted,
        }
    }
}

/// Reads a checkpoint file.
pub(super) fn open_checkpoint(bytes: &[u8], key: &VerifierKey) -> Result<Checkpoint, NoteError> {
    let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed)?;
    Checkpoint::open(note, key)
}

/// A tile's content and width: the tile itself, or the full one that has replaced it.
pub(super) fn fetch<E>(read: &ReadFile<'_, E>, tile: Tile) -> Result<Option<(Vec<u8>, u16)>, E> {
    if let Some(bytes) = read(&tile.path())? {
        return Ok(Some((bytes, tile.width())));
    }
    let full = tile.full();
    if full == tile {
        return Ok(None);
    }
    Ok(read(&full.path())?.map(|bytes| (bytes, full.width())))
}

/// The leaves of a fetched bundle that belong to `tile`.
pub(super) fn leaves_of(fetched: &(Vec<u8>, u16), tile: Tile) -> Option<Vec<&[u8]>> {
    let mut leaves = decode_entries(&fetched.0, fetched.1).ok()?;
    leaves.truncate(usize::from(tile.width()));
    Some(leaves)
}

/// The hashes of a fetched tile that belong to `tile`.
pub(super) fn hashes_of(fetched: &(Vec<u8>, u16), tile: Tile) -> Option<Vec<Digest>> {
    let mut hashes = decode_hashes(&fetched.0, fetched.1).ok()?;
    hashes.truncate(usize::from(tile.width()));
    Some(hashes)
}

fn keep<T>(result: Result<T, Finding>, findings: &mut Findings) -> Option<T> {
    result.map_err(|finding| findings.push(finding)).ok()
}

/// Tiles of 256 over so many nodes.
fn tile_indices(nodes: u64) -> std::ops::Range<u64> {
    0..nodes.div_ceil(u64::from(TILE_WIDTH))
}

/// A tree built from one source of leaf hashes: the leaves, or the hash tiles.
struct Tree {
    frontier: Frontier,
    /// Complete nodes of tile levels 1 and up.
    levels: Vec<Vec<Digest>>,
    kept: Option<(u64, Option<Digest>)>,
    receipt: Option<(u64, Option<Digest>)>,
}

impl Tree {
    fn new(kept: Option<&Checkpoint>, receipt: Option<&Receipt>) -> Self {
        Self {
            frontier: Frontier::new(),
            levels: Vec::new(),
            kept: kept.map(|kept| (kept.size, None)),
            receipt: receipt.map(|receipt| (receipt.log.index, None)),
        }
    }

    fn append(&mut self, leaf: Digest) {
        self.note_kept_root();
        let levels = &mut self.levels;
        let index = self.frontier.append(leaf, |node| {
            if node.level == 0 || node.level % TILE_HEIGHT != 0 {
                return;
            }
            let level = usize::from(node.level / TILE_HEIGHT - 1);
            match levels.get_mut(level) {
                Some(row) => row.push(node.hash),
                // The first complete node of a level comes after those of all levels below.
                None => levels.push(vec![node.hash]),
            }
        });
        if let Some((at, found)) = &mut self.receipt
            && *at == index
        {
            *found = Some(leaf);
        }
    }

    /// Keeps the root when the tree has the kept checkpoint's size.
    fn note_kept_root(&mut self) {
        if let Some((size, root)) = &mut self.kept
            && *size == self.frontier.size()
        {
            *root = Some(self.frontier.root());
        }
    }
}

/// Which of the kept things lie within the log.
struct Within {
    kept: bool,
    receipt: bool,
}

/// One pass over the log.
struct Scan {
    size: u64,
    from_leaves: Option<Tree>,
    from_tiles: Option<Tree>,
    // Indices at which a leaf's hash is not the one in its tile.
    differing: Vec<u64>,
    calls: Calls,
    records: u64,
    last_record: Option<UnixMs>,
    receipt: Option<(u64, Option<Record>)>,
    findings: Findings,
}

impl Scan {
    fn new(
        size: u64,
        kept: Option<&Checkpoint>,
        receipt: Option<&Receipt>,
        findings: Findings,
    ) -> Self {
        Self {
            size,
            from_leaves: Some(Tree::new(kept, receipt)),
            from_tiles: Some(Tree::new(kept, receipt)),
            differing: Vec::new(),
            calls: Calls::default(),
            records: 0,
            last_record: None,
            receipt: receipt.map(|receipt| (receipt.log.index, None)),
            findings,
        }
    }

    /// Reads entry bundles and hash tiles of level 0, side by side.
    fn read_leaves<E>(&mut self, read: &ReadFile<'_, E>) -> Result<(), E> {
        for index in tile_indices(self.size) {
            if !self.read_range(read, index)? {
                self.findings.push(Finding::RootUnknown);
                (self.from_leaves, self.from_tiles) = (None, None);
                break;
            }
        }
        Ok(())
    }

    /// Reads one bundle and its hash tile; false when neither is there.
    fn read_range<E>(&mut self, read: &ReadFile<'_, E>, index: u64) -> Result<bool, E> {
        let bundle = Tile::in_tree(TileKind::Entries, index, self.size);
        let tile = Tile::in_tree(TileKind::Hashes { level: 0 }, index, self.size);
        let (Some(bundle), Some(tile)) = (bundle, tile) else { return Ok(true) };
        let fetched = fetch(read, bundle)?;
        let leaves = fetched.as_ref().and_then(|fetched| leaves_of(fetched, bundle));
        if leaves.is_none() {
            let path = bundle.path();
            self.findings.push(match fetched {
                None => Finding::MissingBundle { path },
                Some(_) => Finding::MalformedBundle { path },
            });
        }
        let hashes = self.read_hashes(read, tile)?;
        let own: Option<Vec<Digest>> =
            leaves.as_ref().map(|leaves| leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
        let (Some(from_leaves), Some(from_tiles)) =
            (own.as_ref().or(hashes.as_ref()), hashes.as_ref().or(own.as_ref()))
        else {
            return Ok(false);
        };
        let first = tile.first_node();
        for ((leaf, hash), at) in from_leaves.iter().zip(from_tiles).zip(first..) {
            if leaf != hash {
                self.differing.push(at);
            }
            self.from_leaves.iter_mut().for_each(|tree| tree.append(*leaf));
            self.from_tiles.iter_mut().for_each(|tree| tree.append(*hash));
        }
        for ((leaf, hash), at) in leaves.iter().flatten().zip(from_leaves).zip(first..) {
            self.read_record(at, leaf, *hash);
        }
        Ok(true)
    }

    /// Reads a hash tile; a finding when it is missing or has another width.
    fn read_hashes<E>(
        &mut self,
        read: &ReadFile<'_, E>,
        tile: Tile,
    ) -> Result<Option<Vec<Digest>>, E> {
        let fetched = fetch(read, tile)?;
        let hashes = fetched.as_ref().and_then(|fetched| hashes_of(fetched, tile));
        if hashes.is_none() {
            let path = tile.path();
            self.findings.push(match fetched {
                None => Finding::MissingTile { path },
                Some(_) => Finding::AlteredTile { path },
            });
        }
        Ok(hashes)
    }

    fn read_record(&mut self, index: u64, leaf: &[u8], hash: Digest) {
        let record = match Record::decode(leaf) {
            Ok(record) => record,
            Err(reason) => return self.findings.push(Finding::BadRecord { index, reason }),
        };
        self.records += 1;
        if record.seq != index {
            self.findings.push(Finding::WrongSequence { index, seq: record.seq });
        }
        self.calls.observe(index, hash, &record, &mut self.findings);
        self.last_record = Some(record.draft.time);
        if let Some((at, found)) = &mut self.receipt
            && *at == index
        {
            *found = Some(record);
        }
    }

    /// The tree that has the signed root, and who is to blame where leaves and tiles differ.
    fn judge(&mut self, root: &Digest) -> Option<Tree> {
        let (mut leaves, mut tiles) = (self.from_leaves.take()?, self.from_tiles.take()?);
        leaves.note_kept_root();
        tiles.note_kept_root();
        if leaves.frontier.root() == *root {
            let mut indices: Vec<_> =
                self.differing.iter().map(|index| index / u64::from(TILE_WIDTH)).collect();
            indices.dedup();
            for index in indices {
                let tile = Tile::in_tree(TileKind::Hashes { level: 0 }, index, self.size);
                if let Some(path) = tile.map(|tile| tile.path()) {
                    self.findings.push(Finding::AlteredTile { path });
                }
            }
            return Some(leaves);
        }
        let tiles_fit = tiles.frontier.root() == *root;
        if !tiles_fit {
            self.findings.push(Finding::RootMismatch);
        }
        for &index in &self.differing {
            self.findings.push(match tiles_fit {
                true => Finding::AlteredLeaf { index },
                false => Finding::LeafNotInTile { index },
            });
        }
        tiles_fit.then_some(tiles)
    }

    /// Compares the hash tiles above level 0 with the tree.
    fn read_upper_tiles<E>(&mut self, read: &ReadFile<'_, E>, tree: &Tree) -> Result<(), E> {
        for (level, row) in (1..).zip(&tree.levels) {
            for (index, expected) in (0..).zip(row.chunks(usize::from(TILE_WIDTH))) {
                let tile = Tile::in_tree(TileKind::Hashes { level }, index, self.size);
                let Some(tile) = tile else { continue };
                if self.read_hashes(read, tile)?.is_some_and(|hashes| hashes != expected) {
                    self.findings.push(Finding::AlteredTile { path: tile.path() });
                }
            }
        }
        Ok(())
    }

    /// Whether the log is as long as it was when something was kept.
    fn compare_sizes(&mut self, kept: Option<&Checkpoint>, receipt: Option<&Receipt>) -> Within {
        let size = self.size;
        let longer = kept.map(|kept| kept.size).filter(|kept| *kept > size);
        if let Some(kept) = longer {
            self.findings.push(Finding::ShorterThanKept { size, kept });
        }
        let beyond = receipt.map(|receipt| receipt.log.index).filter(|index| *index >= size);
        if let Some(index) = beyond {
            self.findings.push(Finding::ReceiptBeyondLog { index, size });
        }
        Within { kept: longer.is_none(), receipt: beyond.is_none() }
    }

    /// Whether the tree's beginning is the kept checkpoint's tree.
    fn continues(&mut self, kept: &Checkpoint, tree: &Tree) -> bool {
        let same = tree.kept.and_then(|(_, root)| root) == Some(kept.root);
        if !same {
            self.findings.push(Finding::Forked { size: kept.size });
        }
        same
    }

    /// Whether the receipt's record is in the tree and tells of the same call.
    fn holds(&mut self, receipt: &Receipt, tree: &Tree) -> bool {
        let index = receipt.log.index;
        let same_leaf = tree.receipt.and_then(|(_, leaf)| leaf) == Some(receipt.log.leaf);
        let record = self.receipt.as_ref().and_then(|(_, record)| record.as_ref());
        // A missing or altered leaf is a finding of its own; its hash still says which it was.
        let same_call = record.is_none_or(|record| {
            record.draft.kind == Kind::LedgerImpact
                && record.draft.call().is_some_and(|call| {
                    call.call == receipt.call && call.call_digest == receipt.call_digest
                })
        });
        let holds = same_leaf && same_call;
        if !holds {
            self.findings.push(Finding::ReceiptMismatch { index });
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        checkpoint::{NoteError, SignerKey},
        receipt::{ReceiptError, tests::sign},
        record::{Outcome, RecordDraft, RecordError, Subject},
        testlog::{Files, TestLog, call, draft},
    };
    use super::*;
    use proptest::prelude::*;
    use std::{convert::Infallible, sync::LazyLock};

    fn verify(files: &Files, options: &Options<'_>) -> Report {
        let read = |path: &str| Ok::<_, Infallible>(files.get(path).cloned());
        let Ok(report) = verify_log(&read, TestLog::key().verifier(), options);
        report
    }

    fn findings(files: &Files) -> Vec<Finding> {
        verify(files, &Options::default()).findings
    }

    /// Executed, refused, released and open calls, interleaved; 372 records.
    static LARGE: LazyLock<TestLog> = LazyLock::new(|| {
        let mut log = TestLog::new();
        for n in 0..36 {
            log.executed(n);
            log.refused(1000 + n);
            log.write(RecordDraft::new(Kind::Admin, UnixMs(n), Subject::Deployment));
        }
        log.write_all(draft(call(5000), &[Kind::Quote, Kind::Consent, Kind::Decision]));
        log.write_all(draft(call(5001), &[Kind::Quote]));
        for n in 100..103 {
            log.executed(n);
        }
        log
    });

    fn small() -> TestLog {
        let mut log = TestLog::new();
        log.executed(1);
        log.refused(2);
        log
    }

    #[test]
    fn a_sound_log_is_attested_to_its_end() {
        let report = verify(&LARGE.files(), &Options::default());
        assert_eq!(report.findings, []);
        assert!(report.is_sound());
        let attested = report.attested.unwrap();
        assert_eq!(attested.size, LARGE.size());
        assert_eq!(report.records, LARGE.size());
        assert_eq!(attested.root, report.checkpoint.unwrap().root);
        assert_eq!((attested.continues, attested.holds_receipt), (None, false));
        let counts = CallCounts { executed: 39, refused: 36, released: 0, open: 2 };
        assert_eq!(report.calls, counts);
        let open: Vec<_> = report.open.iter().map(|open| (open.call, open.kind)).collect();
        assert_eq!(open, [(call(5000), Kind::Decision), (call(5001), Kind::Quote)]);
    }

    #[test]
    fn logs_of_every_size_around_a_tile_are_sound() {
        for size in [0, 1, 2, 255, 256, 257, 512, 513] {
            let mut log = TestLog::new();
            for n in 0..size {
                log.write(RecordDraft::new(Kind::Admin, UnixMs(n), Subject::Deployment));
            }
            let report = verify(&log.files(), &Options::default());
            assert!(report.is_sound(), "{size}: {:?}", report.findings);
        }
    }

    #[test]
    fn a_partial_tile_may_have_been_replaced_by_the_full_one() {
        let mut log = small();
        let early = log.files();
        for n in 10..60 {
            log.executed(n);
        }
        let mut files = log.files();
        files.insert(CHECKPOINT_PATH.into(), early[CHECKPOINT_PATH].clone());
        let report = verify(&files, &Options::default());
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.records, u64::try_from(small().leaves.len()).unwrap());
    }

    #[test]
    fn any_flipped_bit_is_noticed_in_a_small_log() {
        let log = small();
        let files = log.files();
        for (path, bytes) in &files {
            // Every seventh byte, so that each bit of a byte has its turn.
            for at in (0..bytes.len()).step_by(7) {
                let mut files = files.clone();
                files.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
                assert!(!verify(&files, &Options::default()).is_sound(), "{path} byte {at}");
            }
            let mut files = files.clone();
            files.get_mut(path).unwrap().pop();
            assert!(!verify(&files, &Options::default()).is_sound(), "{path} cut");
            files.get_mut(path).unwrap().extend([0; 33]);
            assert!(!verify(&files, &Options::default()).is_sound(), "{path} extended");
            files.remove(path);
            assert!(!verify(&files, &Options::default()).is_sound(), "{path} removed");
        }
    }

    #[test]
    fn an_altered_leaf_is_named_and_so_is_an_altered_tile() {
        let mut log = small();
        let files = log.files();
        let leaf = String::from_utf8(log.leaves[3].clone()).unwrap();
        log.leaves[3] = leaf.replace("research", "rESEARCH").into_bytes();
        let mut altered = files.clone();
        altered.insert("tile/entries/000.p/10".into(), log.entries(0..10));
        assert_eq!(
            findings(&altered),
            [
                Finding::BrokenChain { index: 4, call: call(1) },
                Finding::WrongCommitment { index: 5, call: call(1) },
                Finding::AlteredLeaf { index: 3 },
            ]
        );
        let mut altered = files.clone();
        altered.get_mut("tile/0/000.p/10").unwrap()[40] ^= 1;
        let path = "tile/0/000.p/10".to_owned();
        assert_eq!(findings(&altered), [Finding::AlteredTile { path }]);
        let mut altered = LARGE.files();
        altered.get_mut("tile/1/000.p/1").unwrap()[4] ^= 1;
        let path = "tile/1/000.p/1".to_owned();
        assert_eq!(findings(&altered), [Finding::AlteredTile { path }]);
    }

    #[test]
    fn leaf_and_tile_altered_alike_do_not_fit_the_signed_root() {
        let mut log = small();
        let checkpoint = log.files()[CHECKPOINT_PATH].clone();
        let leaf = String::from_utf8(log.leaves[9].clone()).unwrap();
        log.leaves[9] = leaf.replace("research", "rESEARCH").into_bytes();
        let mut files = TestLog::of(log.leaves).files();
        files.insert(CHECKPOINT_PATH.into(), checkpoint);
        let report = verify(&files, &Options::default());
        assert_eq!(report.findings, [Finding::RootMismatch]);
        assert_eq!(report.attested, None);
    }

    #[test]
    fn missing_files_are_named() {
        let sound = LARGE.files();
        for path in sound.keys() {
            let mut files = sound.clone();
            files.remove(path);
            let path = path.clone();
            let expected = if path == CHECKPOINT_PATH {
                Finding::MissingCheckpoint
            } else if path.contains("entries") {
                Finding::MissingBundle { path }
            } else {
                Finding::MissingTile { path }
            };
            assert_eq!(findings(&files).first(), Some(&expected));
        }
        let mut files = sound.clone();
        files.remove("tile/entries/000");
        files.remove("tile/0/000");
        assert_eq!(
            findings(&files),
            [
                Finding::MissingBundle { path: "tile/entries/000".into() },
                Finding::MissingTile { path: "tile/0/000".into() },
                Finding::RootUnknown,
            ]
        );
    }

    #[test]
    fn a_record_dropped_by_the_key_s_owner_shows_in_the_records() {
        for drop in 0..6u64 {
            let mut log = small();
            log.leaves.remove(usize::try_from(drop).unwrap());
            let found = findings(&TestLog::of(log.leaves).files());
            assert!(found.contains(&Finding::WrongSequence { index: drop, seq: drop + 1 }));
            let seen = found.iter().any(|finding| {
                matches!(finding, Finding::BrokenChain { .. } | Finding::WrongCommitment { .. })
            });
            assert!(seen || drop == 5, "{drop}: {found:?}");
        }
    }

    #[test]
    fn reordered_records_show() {
        for (a, b) in [(0, 1), (3, 4), (4, 5), (1, 8), (6, 9)] {
            let mut log = small();
            log.leaves.swap(a, b);
            let found = findings(&TestLog::of(log.leaves).files());
            let index = u64::try_from(a).unwrap();
            let seq = u64::try_from(b).unwrap();
            assert!(found.contains(&Finding::WrongSequence { index, seq }));
            assert!(found.iter().any(|f| matches!(f, Finding::BrokenChain { .. })), "{found:?}");
        }
    }

    #[test]
    fn a_log_written_anew_without_a_call_is_a_fork_of_what_was_kept() {
        let (mut honest, mut cheat) = (TestLog::new(), TestLog::new());
        for n in 0..60 {
            honest.executed(n);
            if n != 30 {
                cheat.executed(n);
            }
        }
        let kept = honest.checkpoint();
        for n in 60..70 {
            cheat.executed(n);
        }
        let alone = verify(&cheat.files(), &Options::default());
        assert!(alone.is_sound(), "without anything kept it cannot be told");
        let options = Options { kept: Some(&kept), ..Options::default() };
        let report = verify(&cheat.files(), &options);
        assert_eq!(report.findings, [Finding::Forked { size: honest.size() }]);
        assert_eq!(report.attested.unwrap().continues, None);
    }

    #[test]
    fn a_cut_tail_shows_against_a_kept_checkpoint_and_a_receipt() {
        let log = &*LARGE;
        let kept = log.checkpoint();
        let last = log.size() - 1;
        let token = sign(&log.receipt(last), TestLog::key()).unwrap();
        let kept_only = Options { kept: Some(&kept), receipt: None };
        let both = Options { kept: Some(&kept), receipt: Some(&token) };
        let report = verify(&log.files(), &both);
        assert_eq!(report.findings, []);
        let attested = report.attested.unwrap();
        assert_eq!((attested.continues, attested.holds_receipt), (Some(log.size()), true));
        for size in [0, 1, 256, last] {
            // Signed anew by the key's owner, or an older copy: it looks the same.
            let cut = TestLog::of(log.leaves[..usize::try_from(size).unwrap()].to_vec());
            let shorter = Finding::ShorterThanKept { size, kept: log.size() };
            let beyond = Finding::ReceiptBeyondLog { index: last, size };
            assert!(verify(&cut.files(), &Options::default()).is_sound());
            let expected = [shorter, beyond];
            assert_eq!(verify(&cut.files(), &both).findings, expected);
            assert_eq!(verify(&cut.files(), &kept_only).findings, expected[..1]);
            // Tail cut, checkpoint left as it was.
            let mut files = cut.files();
            files.insert(CHECKPOINT_PATH.into(), log.files()[CHECKPOINT_PATH].clone());
            assert!(!verify(&files, &Options::default()).is_sound());
        }
    }

    #[test]
    fn every_earlier_checkpoint_is_continued() {
        for size in 0..LARGE.size() {
            let early = TestLog::of(LARGE.leaves[..usize::try_from(size).unwrap()].to_vec());
            if size % 37 == 0 || size == 256 {
                let kept = early.checkpoint();
                let options = Options { kept: Some(&kept), receipt: None };
                let report = verify(&LARGE.files(), &options);
                assert!(report.is_sound());
                assert_eq!(report.attested.unwrap().continues, Some(size));
            }
        }
    }

    #[test]
    fn a_foreign_key_attests_nothing() {
        let log = small();
        let files = log.files();
        let foreign = SignerKey::from_seed(TestLog::ORIGIN, &[9; 32]).unwrap();
        let read = |path: &str| Ok::<_, Infallible>(files.get(path).cloned());
        let Ok(report) = verify_log(&read, foreign.verifier(), &Options::default());
        let reason = NoteError::NotSigned;
        assert_eq!(report.findings, [Finding::BadCheckpoint { reason }]);
        assert_eq!((report.attested, report.records), (None, 0));
        let head = Checkpoint { root: Digest::of(b""), ..log.head() };
        let note = head.sign(&foreign).unwrap();
        let token = sign(&log.receipt(5), &foreign).unwrap();
        let options = Options { kept: Some(&note), receipt: Some(&token) };
        assert_eq!(
            verify(&files, &options).findings,
            [
                Finding::BadKeptCheckpoint { reason },
                Finding::BadReceipt { reason: ReceiptError::OtherKey },
            ]
        );
    }

    #[test]
    fn a_receipt_for_another_record_is_a_mismatch() {
        let log = small();
        let good = log.receipt(5);
        let check = |receipt: &Receipt| {
            let token = sign(receipt, TestLog::key()).unwrap();
            let options = Options { kept: None, receipt: Some(&token) };
            verify(&log.files(), &options).findings
        };
        assert_eq!(check(&good), []);
        let mut bad = good.clone();
        bad.log.leaf = Digest::of(b"other");
        assert_eq!(check(&bad), [Finding::ReceiptMismatch { index: 5 }]);
        let mut bad = good.clone();
        bad.call_digest = Digest::of(b"other");
        assert_eq!(check(&bad), [Finding::ReceiptMismatch { index: 5 }]);
        let mut bad = good.clone();
        bad.call = call(77);
        assert_eq!(check(&bad), [Finding::ReceiptMismatch { index: 5 }]);
        assert_eq!(check(&log.receipt(4)), [Finding::ReceiptMismatch { index: 4 }]);
        let mut bad = good;
        bad.log.index = 4;
        assert_eq!(check(&bad), [Finding::ReceiptMismatch { index: 4 }]);
    }

    #[test]
    fn a_leaf_that_is_no_record_is_named() {
        let mut leaves = small().leaves;
        leaves.push(b"{}".to_vec());
        leaves.push(leaves[0].clone());
        let found = findings(&TestLog::of(leaves).files());
        assert_eq!(
            found,
            [
                Finding::BadRecord { index: 10, reason: RecordError::Malformed },
                Finding::WrongSequence { index: 11, seq: 0 },
                Finding::BrokenChain { index: 11, call: call(1) },
                Finding::AfterClosing { index: 11, call: call(1) },
            ]
        );
    }

    #[test]
    fn the_stages_of_a_call() {
        use Kind::{
            Admin, Consent, Decision, InvocationResult as Result, InvocationStart as Start,
            LedgerImpact as Impact, Quote, Refund, Refusal,
        };
        let missing = |index, kind| Finding::MissingStage { index, call: call(1), kind };
        let cases: &[(&[Kind], &[Finding])] = &[
            (&[Quote, Consent, Decision, Start, Result, Impact, Refund, Admin], &[]),
            (&[Quote, Consent, Decision, Start, Start, Result, Impact], &[]),
            (&[Quote, Consent, Decision, Start, Result, Refusal, Impact], &[]),
            (&[Refusal], &[]),
            (&[Quote, Consent, Decision, Refusal, Impact], &[missing(4, Start)]),
            (&[Consent, Decision, Start, Result, Impact], &[missing(2, Quote)]),
            (&[Quote, Decision, Start, Result, Impact], &[missing(2, Consent)]),
            (&[Quote, Consent, Start, Result, Impact], &[missing(2, Decision)]),
            (&[Quote, Consent, Decision, Result, Impact], &[missing(3, Start), missing(4, Start)]),
            (&[Quote, Consent, Decision, Start, Impact], &[missing(4, Result)]),
            (
                &[Quote, Consent, Decision, Refusal, Start, Result, Impact],
                &[Finding::StartedAfterRefusal { index: 4, call: call(1) }],
            ),
            (
                &[Quote, Consent, Decision, Start, Result, Impact, Result],
                &[Finding::AfterClosing { index: 6, call: call(1) }],
            ),
        ];
        for (kinds, expected) in cases {
            let mut log = TestLog::new();
            log.write_all(draft(call(1), kinds));
            assert_eq!(findings(&log.files()), *expected, "{kinds:?}");
        }
        let mut log = TestLog::new();
        let mut drafts = draft(call(1), &[Quote, Consent, Decision, Impact]);
        drafts[3].outcome = Some(Outcome::Released);
        log.write_all(drafts);
        let report = verify(&log.files(), &Options::default());
        assert!(report.is_sound());
        assert_eq!(report.calls.released, 1);
    }

    #[test]
    fn a_call_in_doubt_is_listed_until_it_is_closed() {
        let mut log = TestLog::new();
        let mut drafts = draft(
            call(1),
            &[
                Kind::Quote,
                Kind::Consent,
                Kind::Decision,
                Kind::InvocationStart,
                Kind::InvocationResult,
                Kind::LedgerImpact,
            ],
        );
        drafts[4].outcome = Some(Outcome::InDoubt);
        let impact = drafts.pop().unwrap();
        log.write_all(drafts);
        let report = verify(&log.files(), &Options::default());
        assert!(report.is_sound());
        let open: Vec<_> = report.open.iter().map(|open| (open.call, open.in_doubt)).collect();
        assert_eq!(open, [(call(1), true)]);
        log.write(impact);
        let report = verify(&log.files(), &Options::default());
        assert_eq!((report.open.len(), report.calls.executed), (0, 1));
    }

    #[test]
    fn a_commitment_that_leaves_a_record_out_is_wrong() {
        let mut log = TestLog::new();
        log.executed(1);
        let record = Record::decode(&log.leaves[5]).unwrap();
        let mut commits = [record.draft.records.clone(), vec![], vec![]];
        commits[0].remove(2);
        commits[1] = record.draft.records.iter().rev().copied().collect();
        commits[2] = [&record.draft.records[..], &record.draft.records[..1]].concat();
        for records in commits {
            let draft = RecordDraft { records, ..record.draft.clone() };
            let mut leaves = log.leaves.clone();
            leaves[5] = draft.encode(5, record.prev).unwrap();
            let wrong = Finding::WrongCommitment { index: 5, call: call(1) };
            assert_eq!(findings(&TestLog::of(leaves).files()), [wrong]);
        }
    }

    #[test]
    fn findings_are_bounded_and_counted() {
        let log = TestLog::of(vec![b"x".to_vec(); 1200]);
        let report = verify(&log.files(), &Options::default());
        assert_eq!((report.findings.len(), report.findings_omitted), (1000, 200));
        assert!(!report.is_sound());
    }

    #[test]
    fn a_checkpoint_of_absurd_size_ends_at_the_first_gap() {
        let head = Checkpoint { size: u64::MAX, ..small().head() };
        let note = head.sign(TestLog::key()).unwrap();
        let files = Files::from([(CHECKPOINT_PATH.to_owned(), note.into_bytes())]);
        assert_eq!(findings(&files).len(), 3);
    }

    #[test]
    fn errors_of_the_reader_are_passed_on() {
        let read = |_: &str| Err("disk on fire");
        let result = verify_log(&read, TestLog::key().verifier(), &Options::default());
        assert_eq!(result, Err("disk on fire"));
    }

    #[test]
    fn a_report_in_json() {
        let mut log = small();
        log.leaves.swap(0, 1);
        let report = verify(&TestLog::of(log.leaves).files(), &Options::default());
        let json = serde_json::to_value(&report).unwrap();
        let finding = serde_json::json!({"finding": "wrong_sequence", "index": 0, "seq": 1});
        assert_eq!(json["findings"][0], finding);
        assert_eq!(json["calls"]["refused"], 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_flipped_bit_is_noticed_in_a_large_log(
            file: prop::sample::Index, at: prop::sample::Index, bit in 0..8u8,
        ) {
            let mut files = LARGE.files();
            let file = file.index(files.len());
            let (path, bytes) = files.iter_mut().nth(file).unwrap();
            let (path, at) = (path.clone(), at.index(bytes.len()));
            bytes[at] ^= 1 << bit;
            prop_assert!(!verify(&files, &Options::default()).is_sound(), "{} {}", path, at);
        }
    }
}
