//! The audit log's rows: leaves, leaf hashes by full tiles of 256, and the nodes of every eighth
//! level above.
//!
//! INVARIANT: a leaf is appended in the transaction of the change it states. Tiles and nodes are
//! written when they are complete; all else of the tree follows from them and from the leaves.

use crate::{fault::Fault, schema::int};
use countersign_core::{
    audit::{
        merkle::{self, Frontier, leaf_hash, node_hash},
        record::{Kind, RecordDraft},
        tiles::{TILE_HEIGHT, TILE_WIDTH, decode_hashes, encode_hashes},
    },
    digest::Digest,
};
use rusqlite::{Connection, OptionalExtension as _};

/// A record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRecord {
    /// Index in the log.
    pub seq: u64,
    /// Canonical JSON.
    pub leaf: Vec<u8>,
}

/// The proof that a record is in the tree of a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// Index of the record.
    pub seq: u64,
    /// Leaves in the tree.
    pub size: u64,
    /// Hash of the leaf.
    pub leaf_hash: Digest,
    /// The audit path.
    pub path: Vec<Digest>,
    /// The tree's root.
    pub root: Digest,
}

/// Where a call's records lie: index and leaf hash each, in log order.
pub(crate) type Chain = Vec<(u64, Digest)>;

/// The growing end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    frontier: Frontier,
    /// Leaf hashes of the tile that is not full yet.
    partial: Vec<Digest>,
}

impl Log {
    pub(crate) const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Appends a record that is not about one call.
    pub(crate) fn append(&mut self, conn: &Connection, draft: &RecordDraft) -> Result<u64, Fault> {
        let leaf = draft.encode(self.size(), None)?;
        self.push(conn, &leaf).map(|(seq, _)| seq)
    }

    /// Appends a call's next record and chains it to the ones before.
    pub(crate) fn extend(
        &mut self,
        conn: &Connection,
        chain: &mut Chain,
        draft: &mut RecordDraft,
    ) -> Result<(), Fault> {
        if draft.kind == Kind::LedgerImpact {
            draft.records = chain.iter().map(|(_, hash)| *hash).collect();
        }
        let leaf = draft.encode(self.size(), chain.last().map(|(_, hash)| *hash))?;
        chain.push(self.push(conn, &leaf)?);
        Ok(())
    }

    fn push(&mut self, conn: &Connection, leaf: &[u8]) -> Result<(u64, Digest), Fault> {
        let seq = self.size();
        let hash = leaf_hash(leaf);
        conn.prepare_cached("INSERT INTO records VALUES (?, ?)")?.execute((int(seq), leaf))?;
        let mut uppers = Vec::new();
        self.frontier.append(hash, |node| {
            if node.level > 0 && node.level.is_multiple_of(TILE_HEIGHT) {
                uppers.push(node);
            }
        });
        self.partial.push(hash);
        if self.partial.len() == usize::from(TILE_WIDTH) {
            let tile = encode_hashes(&std::mem::take(&mut self.partial));
            conn.prepare_cached("INSERT INTO tiles VALUES (?, ?)")?
                .execute((int(seq / u64::from(TILE_WIDTH)), tile))?;
        }
        for node in uppers {
            conn.prepare_cached("INSERT INTO nodes VALUES (?, ?, ?)")?.execute((
                node.level,
                int(node.index),
                node.hash.as_bytes(),
            ))?;
        }
        Ok((seq, hash))
    }

    /// Reads the end of the log.
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let tree = Tree { conn };
        let size = tree.size()?;
        let node = |level, index| tree.node(level, index).ok().flatten();
        let frontier =
            Frontier::restore(size, node).map_err(|_| Fault::Corrupt("log tile missing"))?;
        let rest = size % u64::from(TILE_WIDTH);
        let partial = tree.row(0, size.saturating_sub(rest), rest)?;
        Ok(Self { frontier, partial })
    }
}

/// The tree as stored, for readers.
pub(crate) struct Tree<'a> {
    pub(crate) conn: &'a Connection,
}

impl Tree<'_> {
    /// Leaves in the log.
    pub(crate) fn size(&self) -> Result<u64, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT max(seq) FROM records")?;
        let last: Option<i64> = statement.query_row([], |row| row.get(0))?;
        Ok(last.and_then(|last| u64::try_from(last).ok()).map_or(0, |last| last.saturating_add(1)))
    }

    /// Leaves `first..first + count`, as many as there are.
    pub(crate) fn leaves(&self, first: u64, count: u64) -> Result<Vec<LoggedRecord>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, leaf FROM records WHERE seq >= ? AND seq < ? ORDER BY seq",
        )?;
        let mut rows = statement.query((int(first), int(first.saturating_add(count))))?;
        let mut leaves = Vec::new();
        while let Some(row) = rows.next()? {
            leaves.push(LoggedRecord { seq: crate::schema::uint(row, 0)?, leaf: row.get(1)? });
        }
        Ok(leaves)
    }

    /// One leaf.
    pub(crate) fn leaf(&self, seq: u64) -> Result<Option<Vec<u8>>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT leaf FROM records WHERE seq = ?")?;
        Ok(statement.query_row([int(seq)], |row| row.get(0)).optional()?)
    }

    /// `count` nodes of tree level `8·level` from `first` on, within one tile; as many as there
    /// are.
    pub(crate) fn row(&self, level: u8, first: u64, count: u64) -> Result<Vec<Digest>, Fault> {
        if level > 0 {
            return self.uppers(level, first, count);
        }
        let width = u64::from(TILE_WIDTH);
        if let Some(hashes) = self.tile(first / width)? {
            let skip = usize::try_from(first % width).unwrap_or(usize::MAX);
            let take = usize::try_from(count).unwrap_or(usize::MAX);
            return Ok(hashes.into_iter().skip(skip).take(take).collect());
        }
        let leaves = self.leaves(first, count)?;
        Ok(leaves.iter().map(|record| leaf_hash(&record.leaf)).collect())
    }

    fn uppers(&self, level: u8, first: u64, count: u64) -> Result<Vec<Digest>, Fault> {
        let mut statement = self.conn.prepare_cached(
            "SELECT hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx",
        )?;
        let level = level.saturating_mul(TILE_HEIGHT);
        let end = first.saturating_add(count);
        let mut rows = statement.query((level, int(first), int(end)))?;
        let mut nodes = Vec::new();
        while let Some(row) = rows.next()? {
            nodes.push(Digest::from_bytes(row.get(0)?));
        }
        Ok(nodes)
    }

    fn tile(&self, index: u64) -> Result<Option<Vec<Digest>>, Fault> {
        let mut statement = self.conn.prepare_cached("SELECT hashes FROM tiles WHERE idx = ?")?;
        let found: Option<Vec<u8>> =
            statement.query_row([int(index)], |row| row.get(0)).optional()?;
        let decode = |bytes: Vec<u8>| decode_hashes(&bytes, TILE_WIDTH);
        found.map(decode).transpose().map_err(|_| Fault::Corrupt("log tile"))
    }

    /// A complete node.
    pub(crate) fn node(&self, level: u8, index: u64) -> Result<Option<Digest>, Fault> {
        let height = level % TILE_HEIGHT;
        let (first, span) = (index << height, 1u64 << height);
        let hashes = self.row(level / TILE_HEIGHT, first, span)?;
        let complete = u64::try_from(hashes.len()) == Ok(span);
        Ok(if complete { subtree_root(hashes) } else { None })
    }

    /// The root over the first `size` leaves.
    pub(crate) fn root(&self, size: u64) -> Result<Digest, Fault> {
        merkle::root_at(size, |level, index| self.node(level, index).ok().flatten())
            .map_err(|_| Fault::Corrupt("log tile missing"))
    }

    /// The audit path of a leaf in the tree of `size` leaves; `None` outside of it.
    pub(crate) fn inclusion(&self, seq: u64, size: u64) -> Result<Option<Inclusion>, Fault> {
        let Some(leaf) = self.leaf(seq)?.filter(|_| seq < size) else { return Ok(None) };
        let node = |level, index| self.node(level, index).ok().flatten();
        let path = merkle::inclusion_proof(seq, size, node);
        let path = path.map_err(|_| Fault::Corrupt("log tile missing"))?;
        let root = self.root(size)?;
        Ok(Some(Inclusion { seq, size, leaf_hash: leaf_hash(&leaf), path, root }))
    }
}

/// The root over a power of two of hashes.
fn subtree_root(mut hashes: Vec<Digest>) -> Option<Digest> {
    while hashes.len() > 1 {
        let (pairs, _) = hashes.as_chunks::<2>();
        hashes = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    hashes.first().copied()
}
