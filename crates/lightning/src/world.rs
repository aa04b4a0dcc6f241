//! The system's clock and randomness. The only place of the daemon's own code that reads either.

use std::{
    fs::File,
    io::{self, Read as _},
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 32 random bytes of the operating system.
pub(crate) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
