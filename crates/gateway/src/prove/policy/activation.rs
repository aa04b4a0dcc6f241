//! Putting a bundle in force: at start, by an operator, and back again.
//!
//! INVARIANT: a bundle is in force only once the store says so; when anything fails, what was in
//! force stays.
//! INVARIANT: revisions rise. Going back is an act of its own, recorded with its reason, and does
//! not lower the revision that the next bundle must be above.

use super::{
    Bundle, BundleError, Engine, Files, Live,
    live::{open, reopen},
    shadow::resume,
};
use crate::{
    config::{Config, PolicySource},
    gate::Gate,
};
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::{NewPolicy, Store};

/// Who put in force what stands in the configuration.
const BY_CONFIGURATION: &str = "configuration";

impl Live {
    /// What is in force at start: what was activated last; else, or where its revision is higher,
    /// what the configuration names.
    ///
    /// # Errors
    /// It cannot be used: then no call can be decided, and the gateway does not start.
    pub fn start(config: &Config, store: &Store, now: UnixMs) -> Result<Self, BundleError> {
        let live = Self::in_force(config, store, now)?;
        match resume(store, config.policy_key.as_ref(), now) {
            Ok(shadow) => live.cast(shadow),
            Err(error) => live.misses(&error),
        }
        Ok(live)
    }

    fn in_force(config: &Config, store: &Store, now: UnixMs) -> Result<Self, BundleError> {
        let key = config.policy_key.as_ref();
        let configured = match &config.policy {
            PolicySource::Builtin => None,
            PolicySource::Dir(dir) => Some(Bundle::read(dir)?),
        };
        let kept = store.policies().map_err(unkept)?;
        let highest = kept.iter().map(|kept| kept.revision).max();
        if let Some(bundle) = &configured
            && (highest.is_none() || bundle.revision() > highest)
        {
            let engine = open(bundle, key, now)?;
            let new = to_keep(bundle, &engine, BY_CONFIGURATION)?;
            return Ok(Self::new(engine, new));
        }
        match kept.iter().find(|kept| kept.is_in_force) {
            Some(kept) => {
                let body = store.policy(kept.revision).map_err(unkept)?.unwrap_or_default();
                Ok(Self::new(reopen(&body, key, now)?, None))
            }
            None => Ok(Self::new(Engine::of(&Bundle::builtin())?, None)),
        }
    }
}

impl Gate {
    /// Records that the configuration's bundle is in force, when it was not so before.
    ///
    /// # Errors
    /// `StoreFault`.
    pub async fn keep_policy(&self) -> Result<(), Refusal> {
        let mut changing = self.policy.changing.lock().await;
        let Some(new) = changing.take() else { return Ok(()) };
        let revision = new.revision;
        let kept = self.store.policy_activate(new).await?;
        Ok(kept.map_err(|highest| BundleError::NotAbove { revision, highest })?)
    }

    /// Puts a bundle in force.
    ///
    /// # Errors
    /// [`Code::BundleRefused`] with the step that failed and why; `StoreFault`.
    pub async fn activate(&self, files: Files, by: &str) -> Result<(), Refusal> {
        let bundle = Bundle::of_files(files)?;
        let _changing = self.policy.changing.lock().await;
        let (key, now) = (self.config.policy_key.clone(), self.world.now());
        let (bundle, engine) = off_the_path(move || {
            let engine = open(&bundle, key.as_ref(), now)?;
            Ok((bundle, engine))
        })
        .await?;
        let new = to_keep(&bundle, &engine, by)?.ok_or(BundleError::NoManifest)?;
        let revision = new.revision;
        let kept = self.store.policy_activate(new).await?;
        kept.map_err(|highest| BundleError::NotAbove { revision, highest })?;
        self.policy.replace(engine, now);
        Ok(())
    }

    /// Puts a bundle in force again that was so before.
    ///
    /// # Errors
    /// As [`Self::activate`].
    pub async fn roll_back(&self, revision: u64, by: &str, reason: &str) -> Result<(), Refusal> {
        let _changing = self.policy.changing.lock().await;
        let body = self.store.policy(revision)?.ok_or(BundleError::NothingKept)?;
        let (key, now) = (self.config.policy_key.clone(), self.world.now());
        let engine = off_the_path(move || reopen(&body, key.as_ref(), now)).await?;
        self.store.policy_roll_back(revision, by, reason).await?;
        self.policy.replace(engine, now);
        Ok(())
    }
}

/// Checks of a large bundle take long: calls go on beside them.
pub(super) async fn off_the_path<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, Refusal> {
    let checked = tokio::task::spawn_blocking(check).await;
    Ok(checked.map_err(|_| Refusal::new(Code::InternalFault))??)
}

/// What the store keeps of a bundle; `None` without a manifest.
pub(super) fn to_keep(
    bundle: &Bundle,
    engine: &Engine,
    by: &str,
) -> Result<Option<NewPolicy>, BundleError> {
    let Some(revision) = bundle.revision() else { return Ok(None) };
    let body = serde_json::to_string(&bundle.to_files())
        .map_err(|error| BundleError::Unreadable(error.to_string()))?;
    let (digest, by): (Digest, _) = (engine.bundle_digest(), by.to_owned());
    Ok(Some(NewPolicy { revision, digest, body, by }))
}

pub(super) fn unkept(refusal: Refusal) -> BundleError {
    BundleError::Unreadable(format!("the store: {refusal}"))
}
