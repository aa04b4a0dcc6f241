//! Threads that serve connections, one for each processor, each with a runtime of its own.
//!
//! A connection stays on its thread, and so do the upstream's connections that its requests use:
//! what a request wakes is woken where it runs, without a look at another processor's queue.

use std::{
    cell::Cell,
    fmt::{self, Formatter},
    io,
    num::NonZeroUsize,
    sync::Arc,
    thread,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

thread_local! {
    /// Which lane this thread is.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// How many there are: one a processor that we may use.
fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// All lanes. They end when this is dropped, with what still runs on them.
#[derive(Debug)]
pub(crate) struct Lanes(Vec<Lane>);

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// To spawn on it.
    pub(crate) handle: Handle,
    /// Its thread ends when nobody has this: as many have it as use the lane.
    open: Arc<oneshot::Sender<()>>,
}

impl Lanes {
    /// Starts them.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        (0..count()).map(Lane::start).collect::<io::Result<_>>().map(Self)
    }

    /// The one that the fewest connections use.
    pub(crate) fn freest(&self) -> Option<Lane> {
        self.0.iter().min_by_key(|lane| Arc::strong_count(&lane.open)).cloned()
    }
}

impl Lane {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel();
        let serve = move || drive(index, &runtime, closed);
        thread::Builder::new().name(format!("lane-{index}")).spawn(serve)?;
        Ok(Self { handle, open: Arc::new(open) })
    }
}

fn drive(index: usize, runtime: &Runtime, closed: oneshot::Receiver<()>) {
    HERE.set(Some(index));
    let _dropped = runtime.block_on(closed);
}

/// One value for each lane, and one for everywhere else: connections that a lane keeps for itself.
pub(crate) struct Each<T> {
    lanes: Box<[T]>,
    elsewhere: T,
}

impl<T> Each<T> {
    /// As many as are needed.
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self { lanes: (0..count()).map(|_| make()).collect(), elsewhere: make() }
    }

    /// That of the thread that asks.
    pub(crate) fn here(&self) -> &T {
        HERE.get().and_then(|index| self.lanes.get(index)).unwrap_or(&self.elsewhere)
    }
}

impl<T> fmt::Debug for Each<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn each_lane_keeps_its_own_and_connections_spread() {
        let made = AtomicUsize::new(0);
        let each = Arc::new(Each::new(|| made.fetch_add(1, Relaxed)));
        let lanes = Lanes::start().unwrap();
        let used: Vec<Lane> = (0..count()).map(|_| lanes.freest().unwrap()).collect();
        let elsewhere = *each.here();
        let here = |lane: &Lane| {
            let each = Arc::clone(&each);
            let (tell, told) = std::sync::mpsc::channel();
            lane.handle.spawn(async move { tell.send(*each.here()) });
            told.recv().unwrap()
        };
        let mut all: Vec<usize> = used.iter().map(here).chain([elsewhere]).collect();
        all.sort_unstable();
        assert_eq!(all, (0..=count()).collect::<Vec<_>>());
    }

    #[test]
    fn a_lane_outlives_a_panic_and_ends_with_its_last_user() {
        let lanes = Lanes::start().unwrap();
        let lane = lanes.freest().unwrap();
        drop(lanes);
        let (kept, gone) = std::sync::mpsc::channel::<()>();
        let broke = lane.handle.spawn(async { std::panic::resume_unwind(Box::new("broke")) });
        lane.handle.spawn(async move {
            let _kept = kept;
            assert!(broke.await.is_err_and(|why: tokio::task::JoinError| why.is_panic()));
            std::future::pending::<()>().await;
        });
        let still = std::time::Duration::from_millis(50);
        let waiting = Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        assert_eq!(gone.recv_timeout(still), waiting, "it is in use");
        drop(lane);
        assert!(gone.recv().is_err(), "what ran on it is dropped");
    }
}
