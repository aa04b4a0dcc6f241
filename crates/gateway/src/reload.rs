//! The gate as it is now: one configuration, replaced whole while the gateway runs.
//!
//! INVARIANT: whoever begins something takes the gate once and keeps to it: no request sees half
//! of a change, and a call ends under the terms that it began with.
//! INVARIANT: a configuration takes effect whole, or nothing of it does. What is bound to the
//! process (its listeners, its files, its rails) takes a new start, and is refused here by name.

use crate::{
    config::{self, Config, ReadFrom, Warning},
    gate::Gate,
    start,
};
use axum::extract::FromRef;
use countersign_core::refusal::{Code, Refusal};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;

/// The most that is said of why a file is refused, in bytes.
const REASON_BYTES_MAX: usize = 8 << 10;

/// The gate as it is now. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Gates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    now: RwLock<Arc<Gate>>,
    /// One change after the other.
    changing: Mutex<()>,
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
        Self(Arc::new(Inner { now: RwLock::new(gate), changing: Mutex::default() }))
    }

    /// The gate for what begins now.
    #[must_use]
    pub fn now(&self) -> Arc<Gate> {
        // The lock guards one pointer, which is whole at any time.
        Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner))
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
        let (config, warnings) = read.map_err(|_panicked| Code::InternalFault)?.map_err(refused)?;
        let read_from = config.read_from.clone().ok_or(Code::InternalFault)?;
        let fixed = needs_start(&gate.config, &config);
        if !fixed.is_empty() {
            let fixed = fixed.join("`, `");
            return Err(refused(format!("a change of `{fixed}` takes a new start")));
        }
        let next = start::reopen(&gate, config).map_err(refused)?;
        next.meet_servers().await?;
        next.store.configured(read_from.digest, by).await?;
        let moved = gate.upstreams.iter().filter(|(name, way)| {
            next.upstreams.get(*name).is_none_or(|next| !Arc::ptr_eq(way, next))
        });
        let moved: Vec<_> = moved.map(|(name, _)| Arc::clone(name)).collect();
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        // Another server knows nothing of them.
        moved.iter().for_each(|name| gate.sessions.forget(name));
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

/// The members that differ and cannot change while the process runs.
fn needs_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let members = [
        ("admin_socket", old.admin_socket == new.admin_socket),
        ("audit", old.audit == new.audit),
        ("console", old.console == new.console),
        ("credit", old.credit == new.credit),
        ("data_dir", old.data_dir == new.data_dir),
        ("limits", old.limits == new.limits),
        ("listen", old.listen == new.listen),
        ("metrics", old.metrics == new.metrics),
        ("policy", old.policy == new.policy && old.policy_key == new.policy_key),
        ("rails", old.rails == new.rails),
        ("sandbox", old.sandbox == new.sandbox),
    ];
    members.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}
