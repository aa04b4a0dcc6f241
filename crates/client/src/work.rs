//! Solving proof of work: several threads, with progress, until it is found, given up or too late.
//!
//! Owns the search. Whether a challenge is worth it is decided in [`crate::means`].
//!
//! INVARIANT: no thread outlives the search: dropping it (Ctrl-C, a timeout) stops them all.

use countersign_core::wire::pow::first_eight;
use sha2::{Digest as _, Sha256};
use std::{
    fmt,
    io::Write as _,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Hashes between two looks at whether to go on.
const STRIDE: u64 = 4096;
/// Time between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkProgress {
    /// Hashes made.
    pub hashes: u64,
    /// Hashes that it takes on average. Half of all searches take 0.7 of that, one in twenty three
    /// times as many.
    pub expected: u64,
    /// It is over, found or not.
    pub is_over: bool,
}

/// How to search.
#[derive(Clone, Default)]
pub struct Solver {
    /// Threads; as many as there are cores when `None`.
    pub threads: Option<NonZeroUsize>,
    /// Is told of progress, ten times a second.
    pub observer: Option<WorkObserver>,
}

/// Receives the progress of a search.
pub type WorkObserver = Arc<dyn Fn(WorkProgress) + Send + Sync>;

impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What the threads of one search share.
#[derive(Default)]
struct Search {
    is_over: AtomicBool,
    hashes: AtomicU64,
    found: Mutex<Option<String>>,
}

/// Ends the search with whoever waits for it.
struct Ending(Arc<Search>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Solver {
    /// A text whose hash after `nonce` begins with a number of at most `target`; `None` when none
    /// was found within `within`. Dropped, it stops.
    pub async fn solve(&self, nonce: &str, target: u64, within: Duration) -> Option<String> {
        let search = Arc::new(Search::default());
        let _ending = Ending(Arc::clone(&search));
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = self.threads.unwrap_or_else(cores).get();
        let mut running = Vec::with_capacity(threads);
        for first in 0..threads {
            let (search, start) = (Arc::clone(&search), Sha256::new().chain_update(nonce));
            let (first, step) = (u64::try_from(first).ok()?, u64::try_from(threads).ok()?);
            running
                .push(tokio::task::spawn_blocking(move || search.run(&start, target, first, step)));
        }
        let ended = async {
            for thread in running {
                let _panicked = thread.await;
            }
        };
        tokio::pin!(ended);
        let deadline = tokio::time::sleep(within);
        tokio::pin!(deadline);
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        // A search may be over before the first tick: it is told of all the same.
        self.report(&search, target, false);
        loop {
            tokio::select! {
                () = &mut ended => break,
                () = &mut deadline => break,
                _ = ticks.tick() => self.report(&search, target, false),
            }
        }
        self.report(&search, target, true);
        search.found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn report(&self, search: &Search, target: u64, is_over: bool) {
        if let Some(observer) = &self.observer {
            let hashes = search.hashes.load(Ordering::Relaxed);
            observer(WorkProgress { hashes, expected: expected(target), is_over });
        }
    }
}

impl Search {
    /// Tries every `step`th number from `first` on.
    fn run(&self, start: &Sha256, target: u64, first: u64, step: u64) {
        let mut number = first;
        while !self.is_over.load(Ordering::Relaxed) {
            for _ in 0..STRIDE {
                let mut text = [0u8; 20];
                let mut rest = text.as_mut_slice();
                let _fits = write!(rest, "{number}");
                let left = rest.len();
                let digits = text.split_at(text.len().saturating_sub(left)).0;
                let hash = start.clone().chain_update(digits).finalize();
                if first_eight(&hash).is_some_and(|head| head <= target) {
                    let found = String::from_utf8_lossy(digits).into_owned();
                    *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                    self.is_over.store(true, Ordering::Relaxed);
                    return;
                }
                number = number.wrapping_add(step);
            }
            self.hashes.fetch_add(STRIDE, Ordering::Relaxed);
        }
    }
}

/// Hashes that a target takes on average.
#[must_use]
pub(crate) const fn expected(target: u64) -> u64 {
    match u64::MAX.checked_div(target) {
        Some(hashes) => hashes,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_is_found_solves_it_whatever_the_number_of_threads() {
        let target = u64::MAX / 5_000;
        for threads in [1, 3] {
            let solver = Solver { threads: NonZeroUsize::new(threads), observer: None };
            let found = solver.solve("nonce", target, LONG).await.unwrap();
            let hash = Sha256::new().chain_update("nonce").chain_update(&found).finalize();
            assert!(first_eight(&hash).unwrap() <= target);
        }
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "it measures")]
    async fn it_tells_of_progress_and_gives_up_in_time() {
        let seen: Arc<Mutex<Vec<WorkProgress>>> = Arc::default();
        let observer: WorkObserver = {
            let seen = Arc::clone(&seen);
            Arc::new(move |progress| seen.lock().unwrap().push(progress))
        };
        let solver = Solver { threads: NonZeroUsize::new(2), observer: Some(observer) };
        let begun = Instant::now();
        let found = solver.solve("nonce", 0, Duration::from_millis(350)).await;
        assert_eq!(found, None);
        assert!(begun.elapsed() < Duration::from_secs(20));
        let seen = seen.lock().unwrap();
        assert!(seen.len() >= 3, "{seen:?}");
        let last = seen.last().unwrap();
        assert!(last.is_over && last.hashes > 0 && last.expected == u64::MAX);
        assert!(seen.iter().rev().skip(1).all(|progress| !progress.is_over));
    }

    #[tokio::test]
    async fn a_search_that_is_dropped_stops() {
        let search = Arc::new(Search::default());
        let thread = {
            let search = Arc::clone(&search);
            tokio::task::spawn_blocking(move || search.run(&Sha256::new(), 0, 0, 1))
        };
        drop(Ending(search));
        tokio::time::timeout(LONG, thread).await.unwrap().unwrap();
    }
}
