//! The tables, and the conversions between Rust's integers and SQLite's.
//!
//! Minor units are 16-byte big-endian blobs, identifiers and digests are blobs, moments are
//! milliseconds. Rows of `records`, `tiles`, `nodes` and `transfers`
//! are never changed.

use crate::fault::Fault;
use rusqlite::{Connection, Row, types::FromSql};

/// What each version of the tables, in `PRAGMA user_version`, adds to the one before. A step that
/// was released is never changed.
pub(crate) const STEPS: [&str; 17] = [
    FIRST,
    // Approvals of the first form end: their calls ask anew.
    "UPDATE approvals SET expires_at = 0; PRAGMA user_version = 2;",
    "CREATE TABLE notes (
       kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key)
     ) STRICT, WITHOUT ROWID; PRAGMA user_version = 3;",
    "CREATE TABLE budgets (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
     PRAGMA user_version = 4;",
    "CREATE TABLE policies (
       revision INTEGER PRIMARY KEY, digest BLOB NOT NULL, at INTEGER NOT NULL,
       by_whom TEXT NOT NULL, body TEXT NOT NULL, in_force INTEGER NOT NULL
     ) STRICT; PRAGMA user_version = 5;",
    "CREATE TABLE once (
       actor BLOB NOT NULL, name BLOB NOT NULL, request BLOB NOT NULL, expires_at INTEGER NOT NULL,
       status INTEGER, kind TEXT, body BLOB, PRIMARY KEY (actor, name)
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX once_ended ON once (expires_at); PRAGMA user_version = 6;",
    "CREATE TABLE shadow (
       id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, digest BLOB NOT NULL,
       at INTEGER NOT NULL, by_whom TEXT NOT NULL, body TEXT NOT NULL, report TEXT NOT NULL
     ) STRICT; PRAGMA user_version = 7;",
    "CREATE TABLE links (n INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
     PRAGMA user_version = 8;",
    "CREATE TABLE invoices (
       payment_hash BLOB PRIMARY KEY, credential BLOB NOT NULL, node TEXT NOT NULL, request BLOB,
       expires_at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX invoices_lapsed ON invoices (expires_at);
     CREATE INDEX invoices_bought ON invoices (credential); PRAGMA user_version = 9;",
    // The last request that people agreed to, of one principal and tool.
    "CREATE INDEX approvals_agreed ON approvals (
       json_extract(body, '$.principal'), json_extract(body, '$.ask.server'),
       json_extract(body, '$.ask.tool'), id
     ) WHERE json_extract(body, '$.status') IN ('approved', 'consumed'); PRAGMA user_version = 10;",
    "CREATE INDEX calls_of_tenant ON calls (json_extract(facts, '$.tenant'), id);
     PRAGMA user_version = 11;",
    "CREATE TABLE free_calls (
       day INTEGER NOT NULL, subject BLOB NOT NULL, calls INTEGER NOT NULL,
       PRIMARY KEY (day, subject)
     ) STRICT, WITHOUT ROWID; PRAGMA user_version = 12;",
    // A list in a partial index's condition, and JSON in an index, cost every call a table in
    // memory and a parse.
    "ALTER TABLE calls ADD COLUMN tenant TEXT;
     UPDATE calls SET tenant = json_extract(facts, '$.tenant');
     DROP INDEX calls_of_tenant;
     CREATE INDEX calls_of_tenant ON calls (tenant, id);
     DROP INDEX calls_live;
     CREATE INDEX calls_live ON calls (n)
       WHERE state <> 0 AND state <> 6 AND state <> 7 AND state <> 10; PRAGMA user_version = 13;",
    "CREATE TABLE refunds (
       key BLOB PRIMARY KEY, credential BLOB NOT NULL, tenant TEXT NOT NULL, asset TEXT NOT NULL,
       minor BLOB NOT NULL, node TEXT, paid INTEGER NOT NULL, at INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX refunds_owed ON refunds (credential) WHERE paid = 0;
     CREATE INDEX refunds_offered ON refunds (at) WHERE paid = 0 AND node IS NOT NULL;
     PRAGMA user_version = 14;",
    "CREATE TABLE paybacks (
       subject BLOB PRIMARY KEY, treasury TEXT NOT NULL, counter TEXT NOT NULL,
       micros INTEGER NOT NULL, reference TEXT NOT NULL UNIQUE, payload TEXT NOT NULL,
       paid INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX paybacks_open ON paybacks (subject) WHERE paid = 0; PRAGMA user_version = 15;",
    // Looked up from any key on, so that offers which nobody takes keep no others.
    "DROP INDEX refunds_offered;
     CREATE INDEX refunds_offered ON refunds (key) WHERE paid = 0 AND node IS NOT NULL;
     PRAGMA user_version = 16;",
    // By moment first: what one commit spends lies together, however many counters it has.
    "ALTER TABLE spends RENAME TO spends_by_counter;
     CREATE TABLE spends (
       at INTEGER NOT NULL, counter INTEGER NOT NULL, micros INTEGER NOT NULL,
       PRIMARY KEY (at, counter)
     ) STRICT, WITHOUT ROWID;
     INSERT INTO spends SELECT at, counter, micros FROM spends_by_counter ORDER BY at, counter;
     DROP TABLE spends_by_counter; PRAGMA user_version = 17;",
];

/// The first version.
const FIRST: &str = "
CREATE TABLE records (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL) STRICT;
CREATE TABLE tiles (idx INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
CREATE TABLE nodes (
  level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE calls (
  n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, state INTEGER NOT NULL,
  opened_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, facts TEXT NOT NULL,
  records BLOB NOT NULL, salt BLOB NOT NULL, result_salt BLOB, settlement TEXT, spent INTEGER,
  paid BLOB, code TEXT
) STRICT;
CREATE INDEX calls_live ON calls (n) WHERE state IN (1, 2, 3, 4, 5, 8, 9);
CREATE TABLE outcomes (
  n INTEGER PRIMARY KEY, is_error INTEGER NOT NULL, digest BLOB NOT NULL, result BLOB,
  paid BLOB NOT NULL, expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE nonces (
  key BLOB PRIMARY KEY, uses INTEGER NOT NULL, max_uses INTEGER NOT NULL, call BLOB NOT NULL,
  call_digest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE quotes (
  id BLOB PRIMARY KEY, principal BLOB NOT NULL, body TEXT NOT NULL, credential BLOB,
  expires_at INTEGER NOT NULL, closed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE credentials (
  key BLOB PRIMARY KEY, body TEXT NOT NULL, root_key BLOB NOT NULL, revoked INTEGER NOT NULL,
  tenant TEXT, closed INTEGER NOT NULL, expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_used ON credentials (expires_at)
  WHERE closed = 0 AND tenant IS NOT NULL;
CREATE INDEX credentials_unused ON credentials (expires_at) WHERE tenant IS NULL;
CREATE TABLE grants (
  id BLOB PRIMARY KEY, body TEXT NOT NULL, used INTEGER NOT NULL, calls INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE approvals (
  id BLOB PRIMARY KEY, body TEXT NOT NULL, expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE counters (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, total INTEGER NOT NULL,
  longest_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE spends (
  counter INTEGER NOT NULL, at INTEGER NOT NULL, micros INTEGER NOT NULL,
  PRIMARY KEY (counter, at)
) STRICT, WITHOUT ROWID;
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, asset TEXT NOT NULL, name TEXT NOT NULL,
  posted BLOB NOT NULL, pending_in BLOB NOT NULL, pending_out BLOB NOT NULL,
  UNIQUE (tenant, asset, name)
) STRICT;
CREATE TABLE transfers (
  id BLOB PRIMARY KEY, subject BLOB NOT NULL, kind INTEGER NOT NULL, debit INTEGER NOT NULL,
  credit INTEGER NOT NULL, minor BLOB NOT NULL, pending BLOB, at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// SQLite's integer for an unsigned one; saturates.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An unsigned column.
pub(crate) fn uint(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// Minor units, as stored.
pub(crate) fn minor_blob(minor: u128) -> [u8; 16] {
    minor.to_be_bytes()
}

/// A signed balance, as stored.
pub(crate) fn balance_blob(balance: i128) -> [u8; 16] {
    balance.to_be_bytes()
}

/// A JSON column.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|_| Fault::Corrupt(what))
}

/// The JSON of a value of ours.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|_| Fault::Corrupt("value without a JSON form"))
}

/// One value of the first row, if there is a row.
pub(crate) fn one<T: FromSql>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Option<T>> {
    use rusqlite::OptionalExtension as _;
    conn.prepare_cached(sql)?.query_row(params, |row| row.get(0)).optional()
}
