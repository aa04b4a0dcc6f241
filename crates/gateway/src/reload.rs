//! The gate as it is now: one configuration, replaced whole while the gateway runs.
//!
//! INVARIANT: a request and a change take the gate once and keep to it: none sees half of another
//! configuration, and a call ends under the terms that it began with. A page that is only looked at
//! may take it more than once.
//! INVARIANT: a configuration takes effect whole, or nothing of it does. What is bound to the
//! process (its listeners, its files, its rails) takes a new start, and is refused here by name.

use crate::{
    config::{self, Config, PolicySource, Rails, ReadFrom, Warning},
    gate::Gate,
    prove::policy::Bundle,
    start,
};
use axum::extract::FromRef;
use countersign_core::{
    money::Assets,
    refusal::{Code, Refusal},
};
use std::sync::{
    Arc, PoisonError, RwLock, Weak,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Mutex;

/// The most that is said of why a file is refused, in bytes.
const REASON_BYTES_MAX: usize = 8 << 10;

/// The gate as it is now. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Gates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: RwLock<Arc<Gate>>,
    /// The longest that a tool may take, or might when a call of it began, in milliseconds.
    longest_deadline_ms: AtomicU64,
    /// One change after the other.
    changing: Mutex<()>,
}

/// The same, for who only changes it: it does not keep the gateway from ending.
#[derive(Clone, Debug)]
pub struct WeakGates(Weak<Inner>);

impl WeakGates {
    /// The gate, while it is served.
    #[must_use]
    pub fn upgrade(&self) -> Option<Gates> {
        self.0.upgrade().map(Gates)
    }
}

/// A configuration that took effect.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// What was read.
    pub read_from: ReadFrom,
    /// What works in it, though perhaps not as meant.
    pub warnings: Vec<Warning>,
}

impl Gates {
    /// Begins with a gate.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        let longest_deadline_ms = AtomicU64::new(longest_deadline_ms(&gate.config));
        let (now, changing) = (RwLock::new(gate), Mutex::default());
        Self(Arc::new(Inner { now, longest_deadline_ms, changing }))
    }

    /// A handle that does not count.
    #[must_use]
    pub fn downgrade(&self) -> WeakGates {
        WeakGates(Arc::downgrade(&self.0))
    }

    /// The gate for what begins now.
    #[must_use]
    pub fn now(&self) -> Arc<Gate> {
        // The lock guards one pointer, which is whole at any time.
        Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The longest that a call under way may still take, in milliseconds.
    pub(crate) fn longest_deadline_ms(&self) -> u64 {
        self.0.longest_deadline_ms.load(Ordering::Relaxed)
    }

    /// The gate itself, once nobody else has it.
    ///
    /// # Errors
    /// Somebody has.
    pub(crate) fn last(self) -> Result<Gate, Self> {
        let inner = Arc::try_unwrap(self.0).map_err(Self)?;
        let gate = inner.now.into_inner().unwrap_or_else(PoisonError::into_inner);
        Arc::try_unwrap(gate).map_err(Self::new)
    }

    /// Reads the configuration's file again and puts it in force, on somebody's word.
    ///
    /// # Errors
    /// [`Code::ConfigRefused`] with why; what was in force stays so. `StoreFault`.
    pub async fn reload(&self, by: &str) -> Result<Reloaded, Refusal> {
        let _one = self.0.changing.lock().await;
        let gate = self.now();
        let file = gate.config.read_from.as_ref().map(|from| from.file.clone());
        let file = file.ok_or_else(|| refused("it was not read from a file"))?;
        let read = tokio::task::spawn_blocking(move || config::load(&file)).await;
        let read = read.map_err(|_panicked| Code::InternalFault)?;
        let (config, mut warnings) = read.map_err(refused)?;
        let read_from = config.read_from.clone().ok_or(Code::InternalFault)?;
        let fixed = needs_start(&gate.config, &config);
        if !fixed.is_empty() {
            let fixed = fixed.join("`, `");
            return Err(refused(format!("a change of `{fixed}` takes a new start")));
        }
        warnings.extend(other_bundle(&gate, &config));
        let next = Arc::new(start::reopen(&gate, config).map_err(refused)?);
        gate.store.configured(read_from.digest, by).await?;
        let longest_ms = longest_deadline_ms(&next.config);
        self.0.longest_deadline_ms.fetch_max(longest_ms, Ordering::Relaxed);
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        next.meet_servers().await?;
        Ok(Reloaded { read_from, warnings })
    }
}

/// Handlers that want the gate get the one of now.
impl FromRef<Gates> for Arc<Gate> {
    fn from_ref(gates: &Gates) -> Self {
        gates.now()
    }
}

fn refused(why: impl ToString) -> Refusal {
    let mut why = why.to_string();
    why.truncate(why.floor_char_boundary(REASON_BYTES_MAX));
    Refusal::new(Code::ConfigRefused).with("reason", why)
}

/// That the directory of policies holds something else than what decides: bundles are put in force
/// by an act of their own.
fn other_bundle(gate: &Gate, config: &Config) -> Option<Warning> {
    let PolicySource::Dir(dir) = &config.policy else { return None };
    let message = match Bundle::read(dir) {
        Ok(bundle) if bundle.digest() == gate.policy.engine().bundle_digest() => return None,
        Ok(_) => "it holds another bundle than the one in force, which goes on deciding".to_owned(),
        Err(error) => format!("the bundle in force goes on deciding: {error}"),
    };
    let suggestion = "put it in force with `countersign policy activate`, or by a new start";
    let suggestion = Some(suggestion.to_owned());
    Some(Warning { path: "policy.dir".to_owned(), line: None, message, suggestion })
}

fn longest_deadline_ms(config: &Config) -> u64 {
    let deadlines = config.servers.values().map(|server| server.longest_deadline_ms());
    deadlines.max().unwrap_or(0)
}

/// The members that differ and cannot change while the process runs.
fn needs_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let tokens = |config: &Config| config.rails.x402.as_ref().map(|x402| x402.tokens.clone());
    // What is not written down of the log follows the address that clients use.
    let audit = if old.public_url == new.public_url { "audit" } else { "public_url" };
    let members = [
        ("admin_socket", old.admin_socket == new.admin_socket),
        ("assets", tokens(old) == tokens(new) && has_same_units(&old.assets, &new.assets)),
        (audit, old.audit == new.audit),
        ("console", old.console == new.console),
        ("credit", old.credit == new.credit),
        ("data_dir", old.data_dir == new.data_dir),
        ("limits", old.limits == new.limits),
        ("listen", old.listen == new.listen),
        ("metrics", old.metrics == new.metrics),
        ("policy", old.policy == new.policy && old.policy_key == new.policy_key),
        ("rails", without_tokens(&old.rails) == without_tokens(&new.rails)),
        ("sandbox", old.sandbox == new.sandbox),
        ("treasuries", has_same_wallets(old, new)),
    ];
    members.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

/// Rails but for what they have of `assets`.
fn without_tokens(rails: &Rails) -> Rails {
    let mut rails = rails.clone();
    if let Some(x402) = &mut rails.x402 {
        x402.tokens.clear();
    }
    rails
}

/// What is booked in an asset stays as much as it was.
fn has_same_units(old: &Assets, new: &Assets) -> bool {
    old.iter().all(|old| new.get(&old.code).is_none_or(|new| new.decimals == old.decimals))
}

/// A payment under way is looked up at the wallet that made it.
fn has_same_wallets(old: &Config, new: &Config) -> bool {
    old.treasuries
        .iter()
        .all(|(name, old)| new.treasuries.get(name).is_some_and(|new| new.wallets == old.wallets))
}
