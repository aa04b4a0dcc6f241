//! The system's clock and randomness. The only place that reads either.

use countersign_core::{time::UnixMs, world::World};
use std::time::{SystemTime, UNIX_EPOCH};

/// The real world.
#[must_use]
pub fn system() -> World {
    World::new(now, fill)
}

#[allow(clippy::disallowed_methods, reason = "the one Clock value reads the clock here")]
fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A process without randomness cannot make keys, nonces or identifiers: it must not go on.
#[allow(clippy::panic, reason = "no safe way to continue without entropy")]
fn fill(bytes: &mut [u8]) {
    if aws_lc_rs::rand::fill(bytes).is_err() {
        panic!("the operating system gives no randomness");
    }
}
