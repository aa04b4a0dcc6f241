//! One measurement.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Median latency, in milliseconds.
    pub(crate) p50_ms: f64,
    /// 99th percentile.
    pub(crate) p99_ms: f64,
    /// CPU of the process that was measured, in microseconds a call, by thread name.
    pub(crate) cpu_us: BTreeMap<String, f64>,
}

impl Sample {
    /// From the latencies of the calls that ended in `time`.
    pub(crate) fn new(
        mut latencies_us: Vec<u32>,
        time: Duration,
        cpu_us: BTreeMap<String, f64>,
    ) -> Self {
        latencies_us.sort_unstable();
        let quantile = |per_mille: usize| {
            let index = latencies_us.len().saturating_sub(1) * per_mille / 1000;
            latencies_us.get(index).map_or(0.0, |us| f64::from(*us) / 1e3)
        };
        Self {
            rate: latencies_us.len() as f64 / time.as_secs_f64(),
            p50_ms: quantile(500),
            p99_ms: quantile(990),
            cpu_us,
        }
    }

    /// CPU of all threads, in microseconds a call.
    pub(crate) fn total_cpu_us(&self) -> f64 {
        self.cpu_us.values().sum()
    }
}
