//! The handle that verbs are called on, and what its threads share.

use crate::{
    accounts::Accounts,
    fault::Fault,
    open::Claim,
    options::Limits,
    publish::Published,
    refuse::{Uncounted, aggregate_job},
    state::State,
    writer::{Answer, Batch, Job},
};
use countersign_core::{
    refusal::{Charged, Code, Refusal},
    world::World,
};
use rusqlite::Connection;
use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
    thread::JoinHandle,
};
use tokio::sync::{mpsc, oneshot, watch};

/// The durable verbs. Cheap to clone; the store closes when the last handle is gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) queue: mpsc::Sender<Job>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the writer, the publisher and every handle share.
pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) limits: Limits,
    pub(crate) pseudonym_key: [u8; 32],
    pub(crate) dir: PathBuf,
    pub(crate) durable_size: AtomicU64,
    pub(crate) published: Published,
    state: Mutex<State>,
    accounts: Mutex<Accounts>,
    uncounted: Mutex<Uncounted>,
    readers: Mutex<Vec<Connection>>,
    poison: watch::Sender<Option<Arc<str>>>,
    /// Wakes and stops the publisher; both close with the writer.
    publisher: Mutex<Option<(SyncSender<()>, SyncSender<()>)>>,
    /// Keeps other processes out until both threads are gone.
    _claim: Claim,
    queue: mpsc::WeakSender<Job>,
}

/// Connections kept for readers.
const READERS_MAX: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        (world, limits, pseudonym_key): (World, Limits, [u8; 32]),
        (dir, claim): (PathBuf, Claim),
        (state, accounts): (State, Accounts),
        sizes: (u64, u64),
        publisher: (SyncSender<()>, SyncSender<()>),
        queue: mpsc::WeakSender<Job>,
    ) -> Self {
        Self {
            world,
            limits,
            pseudonym_key,
            dir,
            durable_size: AtomicU64::new(sizes.0),
            published: Published::new(sizes.1),
            state: Mutex::new(state),
            accounts: Mutex::new(accounts),
            uncounted: Mutex::default(),
            readers: Mutex::default(),
            poison: watch::Sender::new(None),
            publisher: Mutex::new(Some(publisher)),
            _claim: claim,
            queue,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The accounts; apart from the state, since their rows are written as they are booked.
    pub(crate) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.accounts)
    }

    pub(crate) fn uncounted(&self) -> MutexGuard<'_, Uncounted> {
        lock(&self.uncounted)
    }

    pub(crate) fn poison(&self, why: &str) {
        self.poison.send_replace(Some(why.into()));
    }

    fn is_poisoned(&self) -> bool {
        self.poison.borrow().is_some()
    }

    pub(crate) fn wake_publisher(&self) {
        if let Some((publisher, _)) = &*lock(&self.publisher) {
            // Full means that it is awake already.
            let _ = publisher.try_send(());
        }
    }

    /// Ends the publisher, after one last checkpoint.
    pub(crate) fn stop_publisher(&self) {
        lock(&self.publisher).take();
    }

    /// Queues the aggregate record of refusals before identity, when its minute is over.
    pub(crate) fn flush_refusals(&self, force: bool) {
        let Some(queue) = self.queue.upgrade() else { return };
        self.flush_refusals_to(&queue, force);
    }

    fn flush_refusals_to(&self, queue: &mpsc::Sender<Job>, force: bool) {
        let Ok(permit) = queue.try_reserve() else { return };
        let mut counts = self.uncounted();
        if let Some(job) = aggregate_job(&mut counts, self.world.now(), force) {
            permit.send(job);
        }
    }

    /// Queues work of the store's own, unless the queue is full.
    pub(crate) fn enqueue(&self, job: Job) {
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.try_send(job);
        }
    }

    /// Runs a read on a connection of its own.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let kept = lock(&self.readers).pop();
        let conn = match kept {
            Some(conn) => conn,
            None => crate::open::reader(&self.dir)?,
        };
        let result = work(&conn)?;
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_MAX {
            readers.push(conn);
        }
        Ok(result)
    }
}

impl Store {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Resolves when the database has failed: nothing will be durable any more, and the process
    /// should exit and recover. Never resolves otherwise, while a handle exists.
    pub async fn poisoned(&self) -> Arc<str> {
        let mut poison = self.0.shared.poison.subscribe();
        let why = poison.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_else(|| "closed".into())
    }

    /// Writes what is counted, publishes the log and ends the store's threads, once this is the
    /// last handle; otherwise only writes and publishes nothing.
    pub async fn close(self) {
        self.0.shared.flush_refusals_to(&self.0.queue, true);
        let Ok(inner) = Arc::try_unwrap(self.0) else { return };
        let Inner { queue, shared, threads, .. } = inner;
        drop(queue);
        let (done, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let handles = std::mem::take(&mut *lock(&threads));
            for handle in handles {
                let _ = handle.join();
            }
            drop(shared);
            let _ = done.send(());
        });
        let _ = ended.await;
    }

    /// Whether nobody else has a handle.
    #[must_use]
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Waits until everything that memory shows now is on disk, for a read of the disk that must
    /// not be behind it.
    ///
    /// # Errors
    /// `Overloaded`, `StoreFault`.
    pub async fn catch_up(&self) -> Result<(), Refusal> {
        self.enter(|_| Ok(())).await
    }

    /// A verb that begins something: refused at once when the queue is full.
    pub(crate) async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.enter_or(work, |_| None).await
    }

    /// As [`Self::enter`]; what the caller did not wait for is handed to `abandoned`.
    pub(crate) async fn enter_or<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
        abandoned: fn(T) -> Option<Job>,
    ) -> Result<T, Refusal> {
        let (job, answer) = job(work, abandoned);
        match self.0.queue.try_send(job) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(Code::Overloaded.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Code::StoreFault.into()),
        }
        answer.await.map_err(|_| unanswered())
    }

    /// A verb that carries on what was begun: waits for room in the queue.
    pub(crate) async fn carry_on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
        abandoned: fn(T) -> Option<Job>,
    ) -> Result<T, Refusal> {
        let (job, answer) = job(work, abandoned);
        if self.0.queue.send(job).await.is_err() {
            return Err(Code::StoreFault.into());
        }
        answer.await.map_err(|_| unanswered())
    }

    /// A read of the disk.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Refusal> {
        if self.shared().is_poisoned() {
            return Err(Code::StoreFault.into());
        }
        self.shared().read(work).map_err(|_| Code::StoreFault.into())
    }

    /// Records under the last checkpoint that was published.
    #[must_use]
    pub fn published_size(&self) -> u64 {
        self.0.shared.published.size.load(Ordering::Acquire)
    }
}

/// The writer broke with this verb in its hands: what an error left on the disk may turn out to
/// be durable at the next start.
fn unanswered() -> Refusal {
    Refusal::new(Code::StoreFault).charged(Charged::Unknown)
}

fn job<T: Send + 'static>(
    work: impl FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
    abandoned: fn(T) -> Option<Job>,
) -> (Job, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    let job = move |batch: &mut Batch<'_>| {
        let result = work(batch)?;
        Ok(Answer::new(move || sender.send(result).err().and_then(abandoned)))
    };
    (Box::new(job), receiver)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.shared.dir).finish_non_exhaustive()
    }
}
