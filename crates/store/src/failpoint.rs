//! Named points at which a test kills the process; nothing in a release build.

/// Aborts the process when `COUNTERSIGN_FAILPOINT` names this point, in debug builds only.
#[inline]
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("COUNTERSIGN_FAILPOINT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
