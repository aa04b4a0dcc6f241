//! The publisher: signs a checkpoint about every second while the log grows, and writes it with
//! its tiles as files (C2SP tlog-tiles) into `log/` beside the database.
//!
//! INVARIANT: only durable rows are published, and a checkpoint only after its tiles. Files
//! follow from rows: those that a power cut took are written again when the store opens.

use crate::{fault::Fault, log::Tree, options::LogOptions, store::Shared, sweep};
use countersign_core::{
    audit::{
        checkpoint::Checkpoint,
        tiles::{
            CHECKPOINT_PATH, TILE_WIDTH, Tile, TileKind, encode_entries, encode_hashes,
            tiles_between,
        },
    },
    time::UnixMs,
};
use rusqlite::Connection;
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

/// The directory of the published log.
pub(crate) const LOG_DIR: &str = "log";
/// The file that says up to which size all tiles are synced.
pub(crate) const SYNCED: &str = "log-synced";
/// Files of one round that are synced at once; more are synced together later.
const SYNC_NOW_MAX: usize = 12;
/// Rounds after which deferred files are synced.
const SYNC_ROUNDS: u32 = 60;

/// How far the log is published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) size: AtomicU64,
}

impl Published {
    pub(crate) const fn new(size: u64) -> Self {
        Self { size: AtomicU64::new(size) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
}

/// Why a round failed; it is tried again with the next one.
#[derive(Debug)]
enum Failure {
    Io,
    Rows,
    Note,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<Fault> for Failure {
    fn from(_: Fault) -> Self {
        Self::Rows
    }
}

/// What the publisher thread owns.
pub(crate) struct Publisher {
    pub(crate) options: LogOptions,
    pub(crate) dir: PathBuf,
    /// Tiles up to this size are written.
    pub(crate) written: u64,
    pub(crate) deferred: Vec<PathBuf>,
    pub(crate) rounds: u32,
}

impl Publisher {
    /// Works until the writer is gone, and publishes what it left.
    pub(crate) fn run(mut self, shared: &Shared, wake: &Receiver<()>, stop: &Receiver<()>) {
        let mut swept = shared.world.now();
        let interval = Duration::from_millis(self.options.interval_ms.max(1));
        // A log without records has a checkpoint too: whoever looks can tell it from a lost one.
        let _later = self.round(shared, false);
        loop {
            let woken = wake.recv_timeout(Duration::from_secs(60));
            if self.round(shared, false).is_err() {
                // Its files are incomplete: write them again with the next round.
                self.written = self.written.min(shared.published.size());
            }
            let now = shared.world.now();
            if now.since_ms(swept) >= 60_000 {
                swept = now;
                shared.enqueue(sweep::job());
                shared.flush_refusals(false);
            }
            let is_over = woken == Err(RecvTimeoutError::Disconnected)
                || stop.recv_timeout(interval) == Err(RecvTimeoutError::Disconnected);
            if is_over {
                let _ = self.round(shared, true);
                return;
            }
        }
    }

    fn round(&mut self, shared: &Shared, is_last: bool) -> Result<(), Failure> {
        let size = shared.durable_size.load(Ordering::Acquire);
        let is_first = size == 0 && !self.dir.join(LOG_DIR).join(CHECKPOINT_PATH).exists();
        if self.written < size || shared.published.size() < size || is_first {
            let now = shared.world.now();
            shared.read(|conn| Ok(self.publish(conn, size, now)))??;
            shared.published.size.store(size, Ordering::Release);
        }
        self.rounds = self.rounds.saturating_add(1);
        let is_due = is_last || self.rounds >= SYNC_ROUNDS;
        if is_due && self.written == size {
            self.sync_deferred()?;
        }
        Ok(())
    }

    /// Writes the tiles that the tree grew by, then its checkpoint.
    fn publish(&mut self, conn: &Connection, size: u64, now: UnixMs) -> Result<(), Failure> {
        let tree = Tree { conn };
        let tiles = tiles_between(self.written, size);
        let sync = tiles.len() <= SYNC_NOW_MAX;
        for tile in &tiles {
            let path = self.dir.join(LOG_DIR).join(tile.path());
            write_file(&path, &content(&tree, tile)?, sync)?;
            if !sync {
                self.deferred.push(path);
            }
            if tile.width() == TILE_WIDTH {
                let partial = self.dir.join(LOG_DIR).join(format!("{}.p", tile.path()));
                // Usually there is none; the full tile has replaced it.
                let _ = fs::remove_dir_all(partial);
            }
        }
        self.written = size;
        let origin = self.options.signer.verifier().name().to_owned();
        let checkpoint = Checkpoint { origin, size, root: tree.root(size)?, time: Some(now) };
        let note = checkpoint.sign(&self.options.signer).map_err(|_| Failure::Note)?;
        write_file(&self.dir.join(LOG_DIR).join(CHECKPOINT_PATH), note.as_bytes(), true)?;
        Ok(())
    }

    fn sync_deferred(&mut self) -> Result<(), Failure> {
        for path in std::mem::take(&mut self.deferred) {
            match File::open(&path) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let size = self.written.to_string();
        write_file(&self.dir.join(SYNCED), size.as_bytes(), true)?;
        self.rounds = 0;
        Ok(())
    }
}

fn content(tree: &Tree<'_>, tile: &Tile) -> Result<Vec<u8>, Failure> {
    let (first, width) = (tile.first_node(), u64::from(tile.width()));
    match tile.kind() {
        TileKind::Entries => {
            let leaves = tree.leaves(first, width)?;
            let bytes = encode_entries(leaves.iter().map(|record| record.leaf.as_slice()));
            bytes.map_err(|_| Failure::Rows)
        }
        TileKind::Hashes { level } => Ok(encode_hashes(&tree.row(level, first, width)?)),
    }
}

/// Writes a file under a temporary name, syncs it where asked, and gives it its name.
pub(crate) fn write_file(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    crate::open::make_dir(parent)?;
    let temporary = path.with_extension("tmp");
    let mut file = crate::open::private_file(&temporary)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&temporary, path)?;
    if sync {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}
