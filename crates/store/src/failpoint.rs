//! Named points at which a test kills the process; nothing in a release build.

/// Aborts the process when `COUNTERSIGN_FAILPOINT` names this point, in debug builds only;
/// `COUNTERSIGN_FAILPOINT_AFTER_MS` later, so that what others do meanwhile has happened.
#[inline]
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("COUNTERSIGN_FAILPOINT").is_some_and(|wanted| wanted == name) {
        let after = std::env::var("COUNTERSIGN_FAILPOINT_AFTER_MS").ok();
        let after_ms = after.and_then(|after| after.parse().ok()).unwrap_or_default();
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
