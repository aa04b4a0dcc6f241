//! The log: leaves in order, chains unbroken, tiles as the leaves make them.

use super::{Findings, Invariant};
use crate::{
    fault::Fault,
    log::Tree,
    schema::{int, one},
};
use countersign_core::{
    audit::{
        merkle::{Frontier, leaf_hash},
        record::{Kind, Outcome, Record},
        tiles::{TILE_HEIGHT, TILE_WIDTH, encode_hashes},
    },
    digest::Digest,
    ids::{CallId, TransferId},
};
use rusqlite::Connection;
use std::collections::HashMap;

/// What the log tells of one call.
#[derive(Default)]
pub(super) struct Told {
    pub(super) records: Vec<(u64, Kind, Option<Outcome>)>,
    pub(super) transfers: Vec<TransferId>,
    hashes: Vec<Digest>,
}

impl Told {
    pub(super) fn has(&self, kind: Kind, outcome: Option<Outcome>) -> bool {
        self.records.iter().any(|(_, k, o)| *k == kind && (outcome.is_none() || *o == outcome))
    }
}

/// What the log tells of every call.
pub(super) type AllTold = HashMap<CallId, Told>;

/// Leaves read at a time.
const CHUNK: u64 = 4096;

/// Reads the whole log: its size, and what it tells.
pub(super) fn check(conn: &Connection, findings: &mut Findings) -> Result<(u64, AllTold), Fault> {
    let tree = Tree { conn };
    let size = tree.size()?;
    let mut told = AllTold::new();
    let mut frontier = Frontier::new();
    let mut nodes = Vec::new();
    let mut partial = Vec::new();
    let mut next = 0;
    while next < size {
        let leaves = tree.leaves(next, CHUNK)?;
        let Some(last) = leaves.last().map(|leaf| leaf.seq) else { break };
        for leaf in &leaves {
            let gap = format_args!("record {next} is missing").to_string();
            findings.unless(leaf.seq == next, Invariant::LogConsistent, gap);
            next = leaf.seq.saturating_add(1);
            let hash = leaf_hash(&leaf.leaf);
            frontier.append(hash, |node| {
                if node.level > 0 && node.level.is_multiple_of(TILE_HEIGHT) {
                    nodes.push(node);
                }
            });
            partial.push(hash);
            if partial.len() == usize::from(TILE_WIDTH) {
                check_tile(conn, leaf.seq, &std::mem::take(&mut partial), findings)?;
            }
            match Record::decode(&leaf.leaf) {
                Ok(record) => check_record(&record, (leaf.seq, hash), &mut told, findings),
                Err(error) => findings
                    .add(Invariant::LogConsistent, format_args!("record {}: {error}", leaf.seq)),
            }
        }
        next = next.max(last.saturating_add(1));
        for node in nodes.drain(..) {
            let sql = "SELECT hash FROM nodes WHERE level = ? AND idx = ?";
            let stored: Option<[u8; 32]> = one(conn, sql, (node.level, int(node.index)))?;
            let is_same = stored == Some(*node.hash.as_bytes());
            let what = format!("node {}/{} differs", node.level, node.index);
            findings.unless(is_same, Invariant::LogConsistent, what);
        }
    }
    Ok((size, told))
}

fn check_record(
    record: &Record,
    (seq, hash): (u64, Digest),
    told: &mut AllTold,
    findings: &mut Findings,
) {
    let at = |what: &str| format!("record {seq}: {what}");
    findings.unless(record.seq == seq, Invariant::LogConsistent, at("wrong number"));
    let Some(entry) = record.draft.call() else { return };
    let told = told.entry(entry.call).or_default();
    let is_chained = record.prev == told.hashes.last().copied();
    findings.unless(is_chained, Invariant::LogConsistent, at("broken chain"));
    if record.draft.kind == Kind::LedgerImpact {
        let is_whole = record.draft.records == told.hashes;
        findings.unless(is_whole, Invariant::RecordsComplete, at("does not commit to its call"));
    }
    if record.draft.kind == Kind::InvocationStart {
        let is_allowed = [Kind::Quote, Kind::Consent, Kind::Decision]
            .into_iter()
            .all(|kind| told.has(kind, None));
        let is_refused = told.has(Kind::Refusal, None);
        let holds = is_allowed && !is_refused;
        findings.unless(holds, Invariant::StartedWithProofs, at("start without proofs"));
    }
    told.hashes.push(hash);
    told.records.push((seq, record.draft.kind, record.draft.outcome));
    told.transfers.extend(&record.draft.transfers);
}

/// Compares a full tile of leaf hashes, of which `last` is the last leaf, with its row.
fn check_tile(
    conn: &Connection,
    last: u64,
    hashes: &[Digest],
    findings: &mut Findings,
) -> Result<(), Fault> {
    let index = last / u64::from(TILE_WIDTH);
    let stored: Option<Vec<u8>> =
        one(conn, "SELECT hashes FROM tiles WHERE idx = ?", [int(index)])?;
    let is_same = stored.is_some_and(|stored| stored == encode_hashes(hashes));
    let what = format!("tile {index} differs");
    findings.unless(is_same, Invariant::LogConsistent, what);
    Ok(())
}
