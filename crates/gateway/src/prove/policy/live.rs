//! What is in force: one engine, replaced whole.
//!
//! INVARIANT: whoever decides takes the engine once and uses it to the end, so no decision sees
//! half of a change.

use super::{Bundle, BundleError, Engine, Files, shadow::Shadow, trial};
use countersign_core::{audit::checkpoint::VerifierKey, time::UnixMs};
use countersign_store::NewPolicy;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;

/// The bundle that answers beside, or why the one that was set does not.
#[derive(Debug, Default)]
struct Cast {
    shadow: Option<Arc<Shadow>>,
    missing: Option<String>,
}

/// The engine in force.
#[derive(Debug)]
pub struct Live {
    engine: RwLock<Arc<Engine>>,
    shadow: RwLock<Cast>,
    /// Held from the first look at what is in force until it is replaced; holds what is in force
    /// since start and has not been recorded yet.
    pub(super) changing: Mutex<Option<NewPolicy>>,
}

impl Live {
    /// Puts a first engine in force.
    #[must_use]
    pub fn new(engine: Engine, unrecorded: Option<NewPolicy>) -> Self {
        let (engine, changing) = (RwLock::new(Arc::new(engine)), Mutex::new(unrecorded));
        Self { engine, shadow: RwLock::default(), changing }
    }

    /// The engine in force now.
    #[must_use]
    pub fn engine(&self) -> Arc<Engine> {
        // The lock guards one pointer, which is whole at any time.
        Arc::clone(&self.engine.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, engine: Engine, now: UnixMs) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(engine);
        if let Some(shadow) = self.shadow() {
            shadow.begin(now);
        }
    }

    /// The bundle that answers beside it.
    #[must_use]
    pub fn shadow(&self) -> Option<Arc<Shadow>> {
        self.shadow.read().unwrap_or_else(PoisonError::into_inner).shadow.clone()
    }

    /// Why the shadow bundle that was set does not answer.
    #[must_use]
    pub fn missing_shadow(&self) -> Option<String> {
        self.shadow.read().unwrap_or_else(PoisonError::into_inner).missing.clone()
    }

    pub(super) fn cast(&self, shadow: Option<Shadow>) {
        let cast = Cast { shadow: shadow.map(Arc::new), missing: None };
        *self.shadow.write().unwrap_or_else(PoisonError::into_inner) = cast;
    }

    pub(super) fn misses(&self, error: &BundleError) {
        let cast = Cast { shadow: None, missing: Some(error.to_string()) };
        *self.shadow.write().unwrap_or_else(PoisonError::into_inner) = cast;
    }
}

/// Takes a bundle through every check but that of its revision: signature, digests, validity,
/// schema, policies, data, lint, and its own tests.
///
/// # Errors
/// The first step that fails, with all that is wrong there.
pub fn open(
    bundle: &Bundle,
    key: Option<&VerifierKey>,
    now: UnixMs,
) -> Result<Engine, BundleError> {
    bundle.check_seal(key)?;
    if let Some(manifest) = bundle.manifest() {
        manifest.check_time(now)?;
    }
    let engine = Engine::of(bundle)?;
    trial::check(bundle, &engine).map_err(BundleError::Trials)?;
    Ok(engine)
}

/// As [`open`], of files as they were kept.
pub(super) fn reopen(
    text: &str,
    key: Option<&VerifierKey>,
    now: UnixMs,
) -> Result<Engine, BundleError> {
    let files: Files = serde_json::from_str(text)
        .map_err(|error| BundleError::Unreadable(format!("what is kept: {error}")))?;
    open(&Bundle::of_files(files)?, key, now)
}
