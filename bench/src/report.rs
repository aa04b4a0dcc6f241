//! What is printed: a table for each number of callers, then every ratio beside its target.

use crate::{disk, options::Options, sample::Sample};
use anyhow::Result;
use std::collections::BTreeMap;

/// Things measured beside each other.
#[derive(Debug)]
pub(crate) struct Section {
    title: &'static str,
    labels: Vec<&'static str>,
    /// By callers, then by label, in the order of the rounds.
    samples: BTreeMap<usize, Vec<Vec<Sample>>>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug)]
struct Verdict {
    what: &'static str,
    callers: usize,
    values: Vec<f64>,
    target: f64,
    /// The target is the least, not the most.
    is_least: bool,
}

/// Where this runs.
pub(crate) fn machine(dir: &disk::Dir, options: &Options) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    println!("cores: {cores}, shared by load, upstream, and what is measured");
    println!("disk: {:.0} appends of 4 KiB a second, each synced", dir.syncs_per_s()?);
    println!(
        "rounds: {}, each {:.1} s after {:.1} s of load that is not counted",
        options.rounds,
        options.time.as_secs_f64(),
        options.warm.as_secs_f64()
    );
    Ok(())
}

impl Section {
    pub(crate) fn new(title: &'static str, labels: &[&'static str]) -> Self {
        Self { title, labels: labels.to_vec(), samples: BTreeMap::new(), verdicts: Vec::new() }
    }

    /// Adds a round's measurement of the label at `index`.
    pub(crate) fn push(&mut self, callers: usize, index: usize, sample: Sample) {
        let fresh = || vec![Vec::new(); self.labels.len()];
        let of_callers = self.samples.entry(callers).or_insert_with(fresh);
        if let Some(rounds) = of_callers.get_mut(index) {
            rounds.push(sample);
        }
    }

    /// The table of one number of callers.
    pub(crate) fn print(&self, callers: usize) {
        println!("\n{}, {callers} callers", self.title);
        println!(
            "  {:<26} {:>22} {:>17} {:>17} {:>20}",
            "", "calls/s (min-max)", "p50 ms (min-max)", "p99 ms (min-max)", "CPU µs (min-max)"
        );
        let Some(samples) = self.samples.get(&callers) else { return };
        for (label, rounds) in self.labels.iter().zip(samples) {
            let column = |digits: usize, value: fn(&Sample) -> f64| {
                let values: Vec<f64> = rounds.iter().map(value).collect();
                let Some([min, median, max]) = spread(&values) else { return String::new() };
                format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
            };
            println!(
                "  {:<26} {:>22} {:>17} {:>17} {:>20}  {}",
                label,
                column(0, |sample| sample.rate),
                column(1, |sample| sample.p50_ms),
                column(1, |sample| sample.p99_ms),
                column(1, Sample::total_cpu_us),
                threads(rounds),
            );
        }
    }

    /// Adds the ratios of two labels' throughput, round by round.
    pub(crate) fn compare(&mut self, what: &'static str, of: usize, to: usize, target: f64) {
        for (callers, samples) in &self.samples {
            let (Some(of), Some(to)) = (samples.get(of), samples.get(to)) else { continue };
            let values = of.iter().zip(to).map(|(of, to)| of.rate / to.rate.max(1.0)).collect();
            let verdict = Verdict { what, callers: *callers, values, target, is_least: true };
            self.verdicts.push(verdict);
        }
    }

    /// Adds a label's CPU a call.
    pub(crate) fn limit(&mut self, what: &'static str, of: usize, target: f64) {
        for (callers, samples) in &self.samples {
            let Some(of) = samples.get(of) else { continue };
            let values = of.iter().map(Sample::total_cpu_us).collect();
            let verdict = Verdict { what, callers: *callers, values, target, is_least: false };
            self.verdicts.push(verdict);
        }
    }
}

/// Every ratio beside its target.
pub(crate) fn targets(sections: &[Section]) {
    println!("\n{:<26} {:>8}   {:>24}   target", "", "callers", "median (min-max)");
    for verdict in sections.iter().flat_map(|section| &section.verdicts) {
        let Some([min, median, max]) = spread(&verdict.values) else { continue };
        let (sign, is_met) = match verdict.is_least {
            true => ("at least", median >= verdict.target),
            false => ("under", median < verdict.target),
        };
        let met = if is_met { "met" } else { "missed" };
        let spread = format!("{median:.2} ({min:.2}-{max:.2})");
        println!(
            "{:<26} {:>8}   {spread:>24}   {sign} {}: {met}",
            verdict.what, verdict.callers, verdict.target
        );
    }
}

/// Least, median, most.
fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    let median = (sorted.get(below)? + sorted.get(above)?) / 2.0;
    Some([*sorted.first()?, median, *sorted.last()?])
}

/// Medians of the CPU by thread name, the largest first.
fn threads(rounds: &[Sample]) -> String {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, us) in rounds.iter().flat_map(|sample| &sample.cpu_us) {
        by_name.entry(name).or_default().push(*us);
    }
    let median = |(name, values): (&str, Vec<f64>)| Some((spread(&values)?[1], name.to_owned()));
    let mut medians: Vec<(f64, String)> = by_name.into_iter().filter_map(median).collect();
    medians.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = medians.iter().filter(|(us, _)| *us >= 0.05);
    let shown: Vec<String> = shown.map(|(us, name)| format!("{name} {us:.1}")).collect();
    shown.join(", ")
}
