//! The one value through which time and randomness enter, so that tests can replay them.

use crate::time::UnixMs;
use std::{fmt, sync::Arc};

type Now = dyn Fn() -> UnixMs + Send + Sync;
type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// Time and randomness. Cheap to clone.
#[derive(Clone)]
pub struct World {
    now: Arc<Now>,
    fill: Arc<Fill>,
}

impl World {
    /// A world from its two sources. `fill` must be cryptographically strong outside of tests.
    #[must_use]
    pub fn new(
        now: impl Fn() -> UnixMs + Send + Sync + 'static,
        fill: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), fill: Arc::new(fill) }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        (self.now)()
    }

    /// Fresh random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0u8; N];
        (self.fill)(&mut bytes);
        bytes
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
