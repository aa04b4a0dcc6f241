//! CPU time of a process, by the names of its threads, as Linux counts it.
//!
//! Threads that ended are not counted: the processes measured here keep theirs.

use std::{collections::BTreeMap, fs};

/// CPU time so far, in nanoseconds, by thread name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    /// Of a process; empty where the system does not say.
    pub(crate) fn of(process: u32) -> Self {
        Self::read(&format!("/proc/{process}/task")).unwrap_or_default()
    }

    /// Of this process.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id())
    }

    fn read(tasks: &str) -> Option<Self> {
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for task in fs::read_dir(tasks).ok()?.flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
            // A thread that ended in between is left out.
            let (Some(name), Some(time)) = (read("comm"), read("schedstat")) else { continue };
            let time: u64 = time.split(' ').next()?.parse().ok()?;
            *times.entry(name.trim().to_owned()).or_default() += time;
        }
        Some(Self(times))
    }

    /// Microseconds a call by thread name, since an earlier reading.
    pub(crate) fn since(&self, earlier: &Self, calls: u64) -> BTreeMap<String, f64> {
        let of = |(name, time): (&String, &u64)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            (name.clone(), time.saturating_sub(before) as f64 / 1e3 / calls.max(1) as f64)
        };
        self.0.iter().map(of).collect()
    }
}
