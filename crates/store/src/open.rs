//! Opening: the directory, the lock, the database and its durability, what a crash left, and the
//! two threads.
//!
//! INVARIANT: a store opens only when each commit will be synced, no other process has it, and
//! its log holds at least what was published, unchanged.

use crate::{
    accounts::Accounts,
    approvals::Approvals,
    approvers::Withdrawn,
    budgets::Counters,
    calls,
    credentials::Credentials,
    declared::Declared,
    fault::{Fault, OpenError},
    grants::Grants,
    links::Links,
    log::{Log, Tree},
    options::{Durability, LogOptions, Options},
    payback::Paybacks,
    publish::{LOG_DIR, Publisher, SYNCED},
    quotes::Quotes,
    recover, schema,
    state::State,
    store::{Inner, Shared, Store},
    writer::{Answer, Batch, Job, Writer},
};
use countersign_core::{
    audit::{checkpoint::Checkpoint, record::Record, tiles::CHECKPOINT_PATH},
    time::UnixMs,
    world::World,
};
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::Path,
    sync::{Arc, Mutex, mpsc::sync_channel},
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

const DATABASE: &str = "countersign.db";

/// A directory that is this process's alone, until this is dropped or the process ends, however it
/// ends.
///
/// INVARIANT: the directory itself is locked, so that there is no file whose removal would let a
/// second process in beside the first.
#[derive(Debug)]
pub struct Claim {
    _held: File,
}

impl Claim {
    /// Claims a directory, which is made when it is not there. Waits five seconds for a process
    /// that is just ending.
    ///
    /// # Errors
    /// Another process has it, or it cannot be used.
    pub fn on(dir: &Path) -> Result<Self, OpenError> {
        own_dir(dir)?;
        let file = File::open(dir)?;
        for _ in 0..250 {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _held: file }),
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Err(OpenError::Locked)
    }
}

impl Store {
    /// Opens the store in a directory, recovers what a crash left, and starts its threads.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options, world: World) -> Result<Self, OpenError> {
        let claim = Claim::on(&options.dir)?;
        Self::open_claimed(claim, options, world)
    }

    /// The same in the directory that was claimed before.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_claimed(claim: Claim, options: Options, world: World) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        own_dir(&dir.join(LOG_DIR))?;
        drop(private_file_kept(&dir.join(DATABASE))?);
        let conn = writer_connection(&dir.join(DATABASE), options.durability)?;
        let log = Log::load(&conn)?;
        let published = check_published(&dir, &options.log, &conn, log.size())?;
        let state = load(&conn, &options, world.now())?;
        let last = state.counters.latest().max(last_record_time(&conn, log.size())?);
        let (wake, woken) = sync_channel(1);
        let (stop, stopped) = sync_channel(1);
        let (queue, jobs) = mpsc::channel(options.limits.queue_max.max(1));
        let shared = Arc::new(Shared::new(
            (world, options.limits, options.log.pseudonym_key),
            (dir.clone(), claim),
            (state, Accounts::load(&conn)?),
            (log.size(), published),
            (wake, stop),
            queue.downgrade(),
        ));
        let mut writer = Writer::new(conn, log, last)?;
        writer.recover(&shared)?;
        // The names of new files are durable, too.
        File::open(&dir)?.sync_all()?;
        let written = synced_size(&dir).min(published);
        let publisher =
            Publisher { options: options.log, dir, written, deferred: Vec::new(), rounds: 0 };
        let threads = start(writer, publisher, &shared, jobs, (woken, stopped))?;
        shared.wake_publisher();
        Ok(Self::new(Inner { queue, shared, threads: Mutex::new(threads) }))
    }
}

type Ends = (std::sync::mpsc::Receiver<()>, std::sync::mpsc::Receiver<()>);

fn start(
    writer: Writer,
    publisher: Publisher,
    shared: &Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    (woken, stopped): Ends,
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let for_writer = Arc::clone(shared);
    let writing = thread::Builder::new().name("ledger".to_owned()).spawn(move || {
        writer.run(&for_writer, jobs);
        for_writer.stop_publisher();
    })?;
    let for_publisher = Arc::clone(shared);
    let publishing = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || publisher.run(&for_publisher, &woken, &stopped))?;
    Ok(vec![writing, publishing])
}

impl Writer {
    /// Does what needs nobody, in one transaction, before anything else.
    fn recover(&mut self, shared: &Shared) -> Result<(), Fault> {
        let job: Job = Box::new(|batch: &mut Batch<'_>| {
            recover::at_open(batch)?;
            Ok(Answer::none())
        });
        self.commit(shared, vec![job])?;
        Ok(())
    }
}

fn load(conn: &Connection, options: &Options, now: UnixMs) -> Result<State, OpenError> {
    let mut state = State {
        quotes: Quotes::load(conn, now)?,
        credentials: Credentials::load(conn, now, options.limits.credentials_in_memory)?,
        grants: Grants::load(conn)?,
        links: Links::load(conn)?,
        approvals: Approvals::load(conn, now)?,
        withdrawn: Withdrawn::load(conn)?,
        counters: Counters::load(conn, now)?,
        declared: Declared::load(conn)?,
        ..State::default()
    };
    calls::load(conn, &mut state)?;
    state.paybacks = Paybacks::load(conn, &mut state.counters)?;
    Ok(state)
}

/// A connection that reads only.
pub(crate) fn reader(dir: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(dir.join(DATABASE), flags)?;
    conn.set_prepared_statement_cache_capacity(32);
    settle_plans(&conn)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    Ok(conn)
}

/// Whether a data directory has a database: one that can be read, and is of this version or an
/// older one. Reads its schema alone, and needs no claim on the directory.
///
/// # Errors
/// [`OpenError::Database`], [`OpenError::NewerSchema`].
pub fn has_database(dir: &Path) -> Result<bool, OpenError> {
    if !dir.join(DATABASE).exists() {
        return Ok(false);
    }
    let conn = reader(dir)?;
    steps_from(&conn)?;
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(true)
}

/// The steps that lead from the database's version to this program's.
pub(crate) fn steps_from(conn: &Connection) -> Result<&'static [&'static str], OpenError> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps = usize::try_from(version).ok().and_then(|version| schema::STEPS.get(version..));
    steps.ok_or(OpenError::NewerSchema(version))
}

/// A statement is planned once, not again for the values that it is given.
fn settle_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn writer_connection(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_prepared_statement_cache_capacity(128);
    settle_plans(&conn)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    // After a commit that split a page, SQLite walks its whole cache: 64 MiB took 70 µs of it.
    let mode = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    conn.execute_batch(&format!(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = {mode};
         PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1; PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = 0;
         PRAGMA journal_size_limit = 67108864;"
    ))?;
    check_durability(&conn, durability)?;
    let steps = steps_from(&conn)?;
    conn.execute_batch(&format!("BEGIN IMMEDIATE;{}COMMIT;", steps.concat()))?;
    Ok(conn)
}

/// What the pragmas came to counts, not what was asked.
fn check_durability(conn: &Connection, durability: Durability) -> Result<(), OpenError> {
    let journal: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let synchronous: i64 = conn.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    let is_full = journal == "wal" && synchronous >= 2;
    match durability {
        Durability::Normal => Ok(()),
        Durability::Full if is_full => Ok(()),
        Durability::Full => Err(OpenError::NotDurable),
    }
}

/// The size under the published checkpoint, once the log is known to begin with what it attests.
fn check_published(
    dir: &Path,
    options: &LogOptions,
    conn: &Connection,
    stored: u64,
) -> Result<u64, OpenError> {
    let note = match fs::read_to_string(dir.join(LOG_DIR).join(CHECKPOINT_PATH)) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let checkpoint =
        Checkpoint::open(&note, options.signer.verifier()).map_err(OpenError::Checkpoint)?;
    let published = checkpoint.size;
    if published > stored {
        return Err(OpenError::RolledBack { published, stored });
    }
    if (Tree { conn }).root(published)? != checkpoint.root {
        return Err(OpenError::Forked { published });
    }
    Ok(published)
}

/// The size up to which all published files are known to be on disk.
fn synced_size(dir: &Path) -> u64 {
    let text = fs::read_to_string(dir.join(SYNCED));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn last_record_time(conn: &Connection, size: u64) -> Result<UnixMs, OpenError> {
    let Some(last) = size.checked_sub(1) else { return Ok(UnixMs(0)) };
    let leaf = Tree { conn }.leaf(last)?.ok_or(OpenError::Corrupt("log"))?;
    let record = Record::decode(&leaf).map_err(|_| OpenError::Corrupt("record"))?;
    Ok(record.draft.time)
}

/// The store's directory: made, or made private.
fn own_dir(path: &Path) -> io::Result<()> {
    make_dir(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A directory of mode 0700, with those above it.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.recursive(true).create(path)
}

/// A file of mode 0600, emptied.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().truncate(true), path)
}

/// A file of mode 0600, as it is.
fn private_file_kept(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().truncate(false), path)
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.create(true).read(true).write(true).open(path)
}
