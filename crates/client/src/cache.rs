//! Credentials that are paid for and not used up, or that may be: kept so that no call is paid
//! twice, over restarts too.
//!
//! One file each, of mode 0600, named by the digest of origin, path, tool, principal and (where
//! the credential pays for one call) arguments; replaced by an atomic rename. Without a directory
//! they live as long as the process.
//!
//! INVARIANT: what is about to be paid is on disk before it is. What is presented is held by one
//! call at a time, unless it pays for several. Of those one is bought at a time, and none over an
//! invoice that somebody may be paying.

use crate::{challenge::Channel, error::ClientError, lightning::MacaroonTerms};
use countersign_core::{
    digest::Digest,
    money::{Amount, Micros},
    quote::Rail,
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// How long a call may hold a credential before another may present it, in milliseconds. A call
/// that was dropped half way gives it back like this.
const HOLD_MS: u64 = 600_000;
/// Longest wait for a purchase of somebody else: a Lightning payment takes seconds, or fails.
const PURCHASE_WAIT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 30_000 });
/// Most credentials read at opening.
const MAX_ENTRIES: usize = 10_000;

/// What was paid, or promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// On which rail.
    pub rail: Rail,
    /// How much.
    pub amount: Amount,
    /// Its reference value, where a rate is known.
    pub micros: Option<Micros>,
    /// To whom: an address, or a Lightning node.
    pub payee: String,
    /// The EIP-3009 nonce, or the invoice's payment hash, in hex.
    pub reference: String,
    /// Paid during an earlier call.
    #[serde(skip)]
    pub earlier: bool,
}

impl Paid {
    /// Whether it was money, and not work.
    #[must_use]
    pub fn is_money(&self) -> bool {
        self.rail != Rail::Pow
    }
}

/// A kept credential. `Debug` shows none of its secrets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) version: u8,
    pub(crate) key: Digest,
    /// For people who look at the file.
    pub(crate) server: String,
    pub(crate) tool: String,
    pub(crate) expires_at: UnixMs,
    /// Calls it still pays for; `None` when it does not say.
    pub(crate) uses_left: Option<u32>,
    pub(crate) channel: Channel,
    pub(crate) paid: Paid,
    pub(crate) proof: Proof,
}

/// What proves the payment.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Proof {
    /// About to be paid, or paid and the preimage lost.
    Invoice { token: String, invoice: String },
    /// Paid.
    L402 { token: String, preimage: Digest },
    /// Signed: the JSON of a `PaymentPayload`.
    X402 { payload: String },
    /// Done.
    Work { nonce: String, solution: String },
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({}, {})", self.tool, self.key)
    }
}

impl Entry {
    /// Whether it was sold for several calls.
    fn is_for_several(&self) -> bool {
        let Proof::L402 { token, .. } = &self.proof else { return false };
        MacaroonTerms::read(token).is_some_and(|terms| terms.is_for_several())
    }

    /// Presented by several calls at once if it pays for several.
    fn is_shared(&self) -> bool {
        matches!(self.proof, Proof::L402 { .. }) && self.uses_left != Some(1)
    }
}

/// The names under which a credential for one call can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// With the arguments.
    pub(crate) call: Digest,
    /// Without.
    pub(crate) tool: Digest,
}

/// Credentials. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct CredentialCache {
    directory: Option<Arc<Path>>,
    entries: Arc<Mutex<BTreeMap<Digest, Held>>>,
    /// Held by whoever buys under that name.
    buying: Arc<Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

/// What is kept under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing that is good.
    Empty,
    /// What a call may present now.
    Ready,
    /// A call presents the last use of it.
    LastUse,
    /// An invoice that somebody else may be paying.
    InDoubt,
}

/// Nobody else buys under the same name until it is dropped.
pub(crate) type Buying = OwnedMutexGuard<()>;

#[derive(Debug)]
struct Held {
    entry: Entry,
    /// Nobody else presents it before.
    taken_until: Option<UnixMs>,
}

impl CredentialCache {
    /// Kept in memory only: what a crash finds there is lost.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { directory: None, entries: Arc::default(), buying: Arc::default() }
    }

    /// Kept in a directory, which is made with mode 0700 if it is missing. Files that are not of
    /// this form are left alone; expired ones are removed.
    ///
    /// # Errors
    /// [`ClientError::Cache`].
    pub fn open(directory: &Path, now: UnixMs) -> Result<Self, ClientError> {
        let failed = |error: io::Error| ClientError::Cache(error.kind());
        make_directory(directory).map_err(failed)?;
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(directory).map_err(failed)?.take(MAX_ENTRIES) {
            let path = file.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(text) = crate::secret::read_private(&path) else { continue };
            let Ok(entry) = serde_json::from_str::<Entry>(&text) else { continue };
            if entry.version != 1 {
                continue;
            }
            if entry.expires_at <= now {
                fs::remove_file(&path).map_err(failed)?;
                continue;
            }
            entries.insert(entry.key, Held { entry, taken_until: None });
        }
        let directory = Some(Arc::from(directory));
        Ok(Self { directory, entries: Arc::new(Mutex::new(entries)), buying: Arc::default() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The credential for a call, if there is one that nobody else holds.
    pub(crate) fn take(&self, scope: &Scope, now: UnixMs) -> Option<Entry> {
        let mut entries = self.lock();
        for key in [&scope.call, &scope.tool] {
            let Some(held) = entries.get_mut(key) else { continue };
            if held.entry.expires_at <= now || held.taken_until.is_some_and(|until| until > now) {
                continue;
            }
            if !held.entry.is_shared() {
                held.taken_until = Some(now.plus_ms(HOLD_MS));
            }
            return Some(held.entry.clone());
        }
        None
    }

    /// What is in the place of a credential that is about to be bought.
    pub(crate) fn place(&self, key: &Digest, now: UnixMs) -> Place {
        let entries = self.lock();
        match entries.get(key).filter(|held| held.entry.expires_at > now) {
            None => Place::Empty,
            Some(held) if held.taken_until.is_none_or(|until| until <= now) => Place::Ready,
            Some(held) if matches!(held.entry.proof, Proof::Invoice { .. }) => Place::InDoubt,
            Some(_) => Place::LastUse,
        }
    }

    /// Waits until nobody buys under this name; `None` when that takes too long.
    pub(crate) async fn buying(&self, key: Digest) -> Option<Buying> {
        let turn = {
            let mut buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
            // Whose count is one is waited for by nobody.
            buying.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(buying.entry(key).or_default())
        };
        tokio::time::timeout(PURCHASE_WAIT, turn.lock_owned()).await.ok()
    }

    /// Waits for whoever buys under this name, if anybody does, but not for long.
    pub(crate) async fn bought(&self, key: &Digest) {
        let turn = {
            let buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
            buying.get(key).cloned()
        };
        if let Some(turn) = turn {
            let _late = tokio::time::timeout(PURCHASE_WAIT, turn.lock_owned()).await;
        }
    }

    /// Keeps a credential, held by the call that paid for it. On disk when this returns.
    pub(crate) async fn keep(&self, entry: Entry, now: UnixMs) -> Result<(), ClientError> {
        let text = serde_json::to_string(&entry).map_err(|_| ClientError::BadInput)?;
        let key = entry.key;
        let taken_until = (!entry.is_shared()).then(|| now.plus_ms(HOLD_MS));
        {
            // Files of expired credentials go at the next opening.
            let mut entries = self.lock();
            entries.retain(|_, held| held.entry.expires_at > now);
            entries.insert(key, Held { entry, taken_until });
        }
        self.on_disk(key, move |path| replace(&path, &text)).await
    }

    /// Gives a credential back: another call may present it.
    pub(crate) fn release(&self, key: &Digest) {
        if let Some(held) = self.lock().get_mut(key) {
            held.taken_until = None;
        }
    }

    /// Counts one use; the last one drops the credential. Whether that was the last of several.
    pub(crate) async fn used(&self, entry: &Entry) -> Result<bool, ClientError> {
        let left = {
            let mut entries = self.lock();
            let held = entries.get_mut(&entry.key).map(|held| &mut held.entry);
            let Some(held) = held.filter(|held| held.paid.reference == entry.paid.reference) else {
                return Ok(false);
            };
            // Counted at once: others use it at the same time.
            held.uses_left = held.uses_left.map(|uses| uses.saturating_sub(1));
            held.clone()
        };
        match (&left.proof, left.uses_left) {
            (Proof::L402 { .. }, None) => {
                self.release(&entry.key);
                Ok(false)
            }
            (Proof::L402 { .. }, Some(uses)) if uses > 0 => {
                let text = serde_json::to_string(&left).map_err(|_| ClientError::BadInput)?;
                self.on_disk(left.key, move |path| replace(&path, &text)).await?;
                self.release(&left.key);
                Ok(false)
            }
            (
                Proof::L402 { .. }
                | Proof::X402 { .. }
                | Proof::Invoice { .. }
                | Proof::Work { .. },
                _,
            ) => {
                self.forget(entry).await?;
                Ok(entry.is_for_several())
            }
        }
    }

    /// Drops a credential.
    pub(crate) async fn forget(&self, entry: &Entry) -> Result<(), ClientError> {
        {
            let mut entries = self.lock();
            // Another call may have paid for a new one meanwhile.
            let is_it = |held: &Held| held.entry.paid.reference == entry.paid.reference;
            if !entries.get(&entry.key).is_some_and(is_it) {
                return Ok(());
            }
            entries.remove(&entry.key);
        }
        self.on_disk(entry.key, |path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Held>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn on_disk(
        &self,
        key: Digest,
        act: impl FnOnce(PathBuf) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ClientError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let path = directory.join(format!("{key}.json"));
        let done = tokio::task::spawn_blocking(move || act(path)).await;
        let done = done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        done.map_err(|error| ClientError::Cache(error.kind()))
    }
}

#[cfg(unix)]
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Writes beside the file, makes it durable, and renames it into place.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_000_000);

    fn entry(uses_left: Option<u32>, proof: Proof) -> Entry {
        Entry {
            version: 1,
            key: Digest::of(b"call"),
            server: "https://a.example/mcp".into(),
            tool: "paid".into(),
            expires_at: NOW.plus_ms(2 * HOLD_MS),
            uses_left,
            channel: Channel::Meta,
            paid: Paid {
                rail: Rail::L402,
                amount: Amount { asset: "BTC".into(), minor: 3_000 },
                micros: None,
                payee: "02aa".into(),
                reference: "ff".into(),
                earlier: false,
            },
            proof,
        }
    }

    fn l402() -> Proof {
        Proof::L402 { token: "t0k3n".into(), preimage: Digest::of(b"x") }
    }

    fn scope() -> Scope {
        Scope { call: Digest::of(b"call"), tool: Digest::of(b"tool") }
    }

    #[tokio::test]
    async fn what_pays_for_one_call_is_held_by_one_call() {
        let signed = Proof::X402 { payload: "{}".into() };
        for entry in [entry(Some(1), l402()), entry(Some(1), signed)] {
            let cache = CredentialCache::in_memory();
            cache.keep(entry.clone(), NOW).await.unwrap();
            assert!(cache.take(&scope(), NOW).is_none(), "whoever paid holds it");
            cache.release(&entry.key);
            assert!(cache.take(&scope(), NOW).is_some());
            assert!(cache.take(&scope(), NOW).is_none());
            assert!(cache.take(&scope(), NOW.plus_ms(HOLD_MS)).is_some(), "its call was dropped");
            assert!(cache.take(&scope(), NOW.plus_ms(2 * HOLD_MS)).is_none(), "expired");
            cache.used(&entry).await.unwrap();
            assert!(cache.is_empty());
        }
    }

    #[tokio::test]
    async fn what_pays_for_several_calls_is_shared_and_counted() {
        let cache = CredentialCache::in_memory();
        let entry = entry(Some(3), l402());
        cache.keep(entry.clone(), NOW).await.unwrap();
        assert!(cache.take(&scope(), NOW).is_some() && cache.take(&scope(), NOW).is_some());
        for left in [2, 1, 0] {
            cache.used(&entry).await.unwrap();
            assert_eq!(cache.take(&scope(), NOW).map_or(0, |e| e.uses_left.unwrap()), left);
        }
    }

    #[tokio::test]
    async fn uses_at_once_are_each_counted() {
        let cache = CredentialCache::in_memory();
        let entry = entry(Some(40), l402());
        cache.keep(entry.clone(), NOW).await.unwrap();
        let using = (0..39).map(|_| {
            let (cache, entry) = (cache.clone(), entry.clone());
            tokio::spawn(async move { cache.used(&entry).await.unwrap() })
        });
        for used in using.collect::<Vec<_>>() {
            assert!(!used.await.unwrap());
        }
        assert_eq!(cache.take(&scope(), NOW).unwrap().uses_left, Some(1));
    }

    #[tokio::test]
    async fn one_is_bought_at_a_time_and_waited_for_so_long_and_no_longer() {
        let cache = CredentialCache::in_memory();
        let key = scope().tool;
        cache.bought(&key).await;
        let first = cache.buying(key).await.unwrap();
        assert!(cache.clone().buying(key).await.is_none(), "it takes too long");
        cache.bought(&key).await;
        assert!(cache.buying(scope().call).await.is_some(), "another tool is not concerned");
        let (waiting, clone) = (key, cache.clone());
        let second = tokio::spawn(async move { clone.buying(waiting).await.is_some() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
        assert!(cache.buying(key).await.is_some());
    }

    #[tokio::test]
    async fn a_place_is_empty_ready_or_somebodys() {
        let cache = CredentialCache::in_memory();
        let invoice = Proof::Invoice { token: "t0k3n".into(), invoice: "lnbc".into() };
        let key = scope().call;
        let place = || cache.place(&key, NOW);
        assert_eq!(place(), Place::Empty);
        for (uses, proof, first) in
            [(2, l402(), Place::Ready), (1, l402(), Place::LastUse), (2, invoice, Place::InDoubt)]
        {
            let entry = entry(Some(uses), proof);
            cache.keep(entry.clone(), NOW).await.unwrap();
            assert_eq!(place(), first);
            cache.release(&key);
            assert_eq!(place(), Place::Ready);
            assert_eq!(cache.place(&key, entry.expires_at), Place::Empty, "it has expired");
            cache.forget(&entry).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_newer_credential_is_not_dropped_for_an_older_one() {
        let cache = CredentialCache::in_memory();
        let older = entry(Some(1), l402());
        let mut newer = older.clone();
        newer.paid.reference = "ee".into();
        cache.keep(newer, NOW).await.unwrap();
        cache.forget(&older).await.unwrap();
        cache.used(&older).await.unwrap();
        assert_eq!(cache.len(), 1);
        assert!(!format!("{cache:?}").contains("t0k3n"));
    }

    #[tokio::test]
    async fn files_come_back_unless_they_have_expired_or_are_open_to_others() {
        let directory =
            std::env::temp_dir().join(format!("countersign-cache-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let cache = CredentialCache::open(&directory, NOW).unwrap();
        let entry = entry(Some(2), l402());
        cache.keep(entry.clone(), NOW).await.unwrap();
        fs::write(directory.join("other.json"), "{}").unwrap();
        let again = CredentialCache::open(&directory, NOW).unwrap();
        assert_eq!(again.take(&scope(), NOW).unwrap().uses_left, Some(2));
        assert!(CredentialCache::open(&directory, entry.expires_at).unwrap().is_empty());
        assert!(CredentialCache::open(&directory, NOW).unwrap().is_empty(), "its file is gone");
        fs::remove_dir_all(&directory).unwrap();
    }
}
