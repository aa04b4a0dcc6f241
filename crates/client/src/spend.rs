//! What was spent, and what may still be: ceilings for an hour and for a host, the hosts that may
//! be paid, and the log that all of it is counted from.
//!
//! The log is one file of mode 0600, a line of JSON for each step of a payment. Processes that
//! share it take turns by a lock on it, so they share its ceilings. It holds no secret and no
//! argument.
//!
//! INVARIANT: a payment is in the log, durably, before it is made; it counts until a server or a
//! wallet says that nothing was taken.

use crate::{
    cache::{Paid, make_directory},
    error::ClientError,
    secret::is_private,
};
use countersign_core::{
    money::{AssetCode, Micros},
    quote::Rail,
    refusal::Charged,
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The hour of the hourly ceiling, in milliseconds.
const HOUR_MS: u64 = 3_600_000;
/// The day of the ceiling for a host.
const DAY_MS: u64 = 24 * HOUR_MS;

/// The most that may be spent in a time. What is set must hold; what is spent must be measured by
/// at least one of them, unless none is set at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ceiling {
    /// In the reference currency.
    pub micros: Option<Micros>,
    /// In minor units of an asset (BTC: millisatoshi).
    pub per_asset: BTreeMap<AssetCode, u128>,
}

/// What may be spent beyond the caps of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendLimits {
    /// In any 60 minutes, on all hosts together.
    pub hour: Ceiling,
    /// In any 24 hours, on one host.
    pub host_day: Ceiling,
    /// The hosts that may be paid; any when `None`.
    pub hosts: Option<BTreeSet<String>>,
}

/// The log of what was spent. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct SpendLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    limits: SpendLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Up to where the file was read.
    read_to: u64,
    payments: BTreeMap<String, Line>,
}

/// A step of a payment, as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    at: UnixMs,
    /// The payment's reference: a nonce, or an invoice's payment hash.
    id: String,
    host: String,
    tool: String,
    rail: Rail,
    asset: AssetCode,
    /// As text: readers of JSON round large numbers.
    minor: String,
    micros: Option<Micros>,
    outcome: SpendOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<String>,
}

/// How a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SpendOutcome {
    /// About to be made.
    Paying,
    /// Its call was answered.
    Answered,
    /// Its call was refused, and it was taken.
    Charged,
    /// Its call was refused, and it is still good.
    Unused,
    /// Nobody can tell.
    Unknown,
    /// Nothing was taken.
    NotCharged,
}

impl From<Charged> for SpendOutcome {
    fn from(charged: Charged) -> Self {
        match charged {
            Charged::No => Self::NotCharged,
            Charged::Yes => Self::Charged,
            Charged::Unused => Self::Unused,
            Charged::Unknown => Self::Unknown,
        }
    }
}

/// Why a payment may not be made.
#[derive(Clone, Debug)]
pub(crate) enum NotSpent {
    /// A ceiling does not hold, or none measures it.
    Over,
    /// The log cannot be used, so nothing is counted and nothing is paid.
    Log(ClientError),
}

impl SpendLog {
    /// Counts for as long as the process lives.
    #[must_use]
    pub fn in_memory(limits: SpendLimits) -> Self {
        Self(Arc::new(Inner { path: None, limits, state: Mutex::default() }))
    }

    /// Counts over restarts, in a file that is made if it is missing.
    ///
    /// # Errors
    /// [`ClientError::Cache`].
    pub fn open(path: &Path, limits: SpendLimits) -> Result<Self, ClientError> {
        let failed = |error: io::Error| ClientError::Cache(error.kind());
        if let Some(parent) = path.parent() {
            make_directory(parent).map_err(failed)?;
        }
        open_private(path).map_err(failed)?;
        let path = Some(path.to_owned());
        Ok(Self(Arc::new(Inner { path, limits, state: Mutex::default() })))
    }

    /// Whether a host may be paid.
    pub(crate) fn allows(&self, host: &str) -> bool {
        self.0.limits.hosts.as_ref().is_none_or(|hosts| hosts.contains(host))
    }

    /// Counts a payment that is about to be made.
    pub(crate) async fn reserve(
        &self,
        (host, tool): (&str, &str),
        paid: &Paid,
        now: UnixMs,
    ) -> Result<(), NotSpent> {
        let line = Line::new((host, tool), paid, SpendOutcome::Paying, None, now);
        let inner = Arc::clone(&self.0);
        let reserved = tokio::task::spawn_blocking(move || inner.reserve(line)).await;
        let broken = |_| NotSpent::Log(ClientError::Cache(io::ErrorKind::Other));
        reserved.map_err(broken)?
    }

    /// Writes down how a payment stands now.
    pub(crate) async fn note(
        &self,
        (host, tool): (&str, &str),
        paid: &Paid,
        (outcome, receipt): (SpendOutcome, Option<String>),
        now: UnixMs,
    ) {
        let line = Line::new((host, tool), paid, outcome, receipt, now);
        let inner = Arc::clone(&self.0);
        // What was reserved counts; a log that cannot be written refuses the next payment.
        let _unwritten = tokio::task::spawn_blocking(move || inner.note(&line)).await;
    }
}

impl Line {
    fn new(
        (host, tool): (&str, &str),
        paid: &Paid,
        outcome: SpendOutcome,
        receipt: Option<String>,
        at: UnixMs,
    ) -> Self {
        Self {
            at,
            id: paid.reference.clone(),
            host: host.to_owned(),
            tool: tool.to_owned(),
            rail: paid.rail,
            asset: paid.amount.asset.clone(),
            minor: paid.amount.minor.to_string(),
            micros: paid.micros,
            outcome,
            receipt,
        }
    }

    fn counts(&self) -> bool {
        self.outcome != SpendOutcome::NotCharged
    }

    /// What cannot be read is as large as can be.
    fn minor(&self) -> u128 {
        self.minor.parse().unwrap_or(u128::MAX)
    }
}

impl Inner {
    fn reserve(&self, line: Line) -> Result<(), NotSpent> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: io::Error| NotSpent::Log(ClientError::Cache(error.kind()));
        let mut file = self.locked().map_err(failed)?;
        if let Some(file) = &mut file {
            state.catch_up(file).map_err(failed)?;
        }
        state.forget_before(line.at);
        let hour_start = UnixMs(line.at.0.saturating_sub(HOUR_MS));
        let hour = state.payments.values().filter(|past| past.at > hour_start);
        let host_day = state.payments.values().filter(|past| past.host == line.host);
        let limits = &self.limits;
        if !limits.hour.holds(&line, hour) || !limits.host_day.holds(&line, host_day) {
            return Err(NotSpent::Over);
        }
        state.append(file.as_mut(), &line).map_err(failed)
    }

    fn note(&self, line: &Line) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.locked()?;
        if let Some(file) = &mut file {
            state.catch_up(file)?;
        }
        state.append(file.as_mut(), line)
    }

    /// The file, for us alone until it is dropped.
    fn locked(&self) -> io::Result<Option<fs::File>> {
        let Some(path) = &self.path else { return Ok(None) };
        let file = open_private(path)?;
        file.lock()?;
        Ok(Some(file))
    }
}

impl State {
    /// Reads what others have written since. A line that was cut off was not durable, so what it
    /// says did not happen.
    fn catch_up(&mut self, file: &mut fs::File) -> io::Result<()> {
        if file.metadata()?.len() < self.read_to {
            // Somebody has begun it anew; what we know still counts.
            self.read_to = 0;
        }
        file.seek(SeekFrom::Start(self.read_to))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let (whole, _) = text.split_at(end);
        for line in whole.split(|byte| *byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<Line>(line) {
                self.take(line);
            }
        }
        self.read_to = self.read_to.saturating_add(u64::try_from(end).unwrap_or(u64::MAX));
        Ok(())
    }

    /// A later step replaces an earlier one, but not the moment of the payment.
    fn take(&mut self, line: Line) {
        let at = self.payments.get(&line.id).map_or(line.at, |first| first.at);
        self.payments.insert(line.id.clone(), Line { at, ..line });
    }

    fn forget_before(&mut self, now: UnixMs) {
        let start = now.0.saturating_sub(DAY_MS);
        self.payments.retain(|_, past| past.at.0 > start);
    }

    fn append(&mut self, file: Option<&mut fs::File>, line: &Line) -> io::Result<()> {
        if let Some(file) = file {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            if file.metadata()?.len() > self.read_to {
                // After a line that was cut off.
                text.insert(0, b'\n');
            }
            file.seek(SeekFrom::End(0))?;
            file.write_all(&text)?;
            file.sync_data()?;
            self.read_to = file.metadata()?.len();
        }
        self.take(line.clone());
        Ok(())
    }
}

impl Ceiling {
    /// Whether a payment fits above what was spent.
    fn holds<'a>(&self, line: &Line, past: impl Iterator<Item = &'a Line>) -> bool {
        if self.micros.is_none() && self.per_asset.is_empty() {
            return true;
        }
        let (mut micros, mut minor) = (line.micros.unwrap_or(Micros(0)).0, line.minor());
        for past in past.filter(|past| past.counts() && past.id != line.id) {
            micros = micros.saturating_add(past.micros.unwrap_or(Micros(0)).0);
            if past.asset == line.asset {
                minor = minor.saturating_add(past.minor());
            }
        }
        let in_micros = self.micros.filter(|_| line.micros.is_some());
        let in_asset = self.per_asset.get(&line.asset);
        let is_measured = in_micros.is_some() || in_asset.is_some();
        is_measured
            && in_micros.is_none_or(|most| micros <= most.0)
            && in_asset.is_none_or(|most| minor <= *most)
    }
}

/// Opens the log, which belongs to its owner alone.
fn open_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    if is_private(&file.metadata()?) {
        Ok(file)
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::money::Amount;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const AT: (&str, &str) = ("a.example", "paid");

    fn paid(id: &str, cents: u64) -> Paid {
        Paid {
            rail: Rail::X402,
            amount: Amount { asset: "USDC".into(), minor: u128::from(cents) * 10_000 },
            micros: Some(Micros(cents * 10_000)),
            payee: "0x1".into(),
            reference: id.into(),
            earlier: false,
        }
    }

    fn sats(id: &str, sat: u128) -> Paid {
        let amount = Amount { asset: "BTC".into(), minor: sat * 1000 };
        Paid { rail: Rail::L402, amount, micros: None, ..paid(id, 0) }
    }

    fn limits() -> SpendLimits {
        let hour = Ceiling { micros: Some(Micros(30_000)), ..Ceiling::default() };
        SpendLimits { hour, ..SpendLimits::default() }
    }

    fn path(name: &str) -> PathBuf {
        let name = format!("countersign-spend-{name}-{}", std::process::id());
        std::env::temp_dir().join(name).join("spend.jsonl")
    }

    async fn reserve(log: &SpendLog, paid: &Paid, now: UnixMs) -> bool {
        log.reserve(AT, paid, now).await.is_ok()
    }

    #[tokio::test]
    async fn an_hour_is_counted_over_restarts_and_by_all_who_share_the_log() {
        let path = path("hour");
        let _ = fs::remove_dir_all(path.parent().unwrap());
        let (one, two) = (SpendLog::open(&path, limits()), SpendLog::open(&path, limits()));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(reserve(&one, &paid("a", 1), NOW).await);
        assert!(reserve(&two, &paid("b", 2), NOW).await);
        assert!(!reserve(&one, &paid("c", 1), NOW).await, "the other one has spent the rest");
        two.note(AT, &paid("b", 2), (SpendOutcome::NotCharged, None), NOW).await;
        let again = SpendLog::open(&path, limits()).unwrap();
        assert!(reserve(&again, &paid("c", 2), NOW).await, "what was not taken does not count");
        assert!(!reserve(&again, &paid("d", 1), NOW.plus_ms(HOUR_MS - 1)).await);
        assert!(reserve(&again, &paid("d", 1), NOW.plus_ms(HOUR_MS)).await);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 5);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_did_not_happen_and_hides_no_other() {
        let path = path("torn");
        let _ = fs::remove_dir_all(path.parent().unwrap());
        let log = SpendLog::open(&path, limits()).unwrap();
        assert!(reserve(&log, &paid("a", 1), NOW).await);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(r#"{"at":18000"#);
        fs::write(&path, text).unwrap();
        assert!(reserve(&log, &paid("b", 2), NOW).await);
        let again = SpendLog::open(&path, limits()).unwrap();
        assert!(!reserve(&again, &paid("c", 1), NOW).await, "both count");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn what_no_ceiling_measures_is_not_spent_where_there_is_one() {
        let log = SpendLog::in_memory(limits());
        assert!(!reserve(&log, &sats("a", 1), NOW).await);
        assert!(reserve(&SpendLog::in_memory(SpendLimits::default()), &sats("a", 1), NOW).await);
        let mut measured = limits();
        measured.hour.per_asset.insert("BTC".into(), 5_000);
        let log = SpendLog::in_memory(measured);
        assert!(reserve(&log, &sats("a", 3), NOW).await);
        assert!(!reserve(&log, &sats("b", 3), NOW).await);
        assert!(reserve(&log, &sats("a", 3), NOW).await, "the same payment, again");
    }

    #[tokio::test]
    async fn a_host_has_a_day_of_its_own() {
        let host_day = Ceiling { micros: Some(Micros(20_000)), ..Ceiling::default() };
        let hosts = Some(BTreeSet::from(["a.example".to_owned()]));
        let log = SpendLog::in_memory(SpendLimits { host_day, hosts, ..SpendLimits::default() });
        assert!(reserve(&log, &paid("a", 2), NOW).await);
        assert!(!reserve(&log, &paid("b", 1), NOW.plus_ms(DAY_MS - 1)).await);
        assert!(log.reserve(("b.example", "paid"), &paid("b", 2), NOW).await.is_ok());
        assert!(log.allows("a.example") && !log.allows("b.example"));
    }

    #[cfg(unix)]
    #[test]
    fn a_log_that_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = path("open");
        let _ = fs::remove_dir_all(path.parent().unwrap());
        drop(SpendLog::open(&path, limits()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(SpendLog::open(&path, limits()).is_err());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
