//! An outbox that works: the pure queue of `cx-spool`, a thread for its disk, and the pieces of a [`Feed`](crate::Feed)
//! for each consumer.
//!
//! ```text
//!   push ──► Mutex<Outbox> ◄── next, acked ── Uplink (one per consumer)
//!                 │  ▲
//!            Job  ▼  │ done
//!              disk thread ── Spool: SegmentPool, mark
//! ```
//!
//! Architecture invariant: nobody but the disk thread waits for a disk. The lock is held for microseconds;
//! callbacks run without it.

mod record;
mod spool;
mod worker;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cx_spool::{
    Config, ConsumerNo, ConsumerView, Full, Hole, ItemNo, Load, Next, Outbox, Reached, Recovered,
};
use cx_wire::{RecordSeen, Welcome};
use tap_block::{Batch, Clock, Lsn, Monotonic, RunId, WallTime};
use tokio::sync::Notify;

use spool::Spool;

/// How an outbox is to work.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The spool's own folder, made when it is missing; `None`: memory only.
    pub dir: Option<PathBuf>,
    /// The size of a spool file. No batch may be larger.
    pub segment_len: u64,
    /// How many receivers there are.
    pub consumers: usize,
    /// How long a failing disk is left alone before it is tried again.
    pub retry: Duration,
    /// The queue's limits.
    pub outbox: Config,
}

impl DriverConfig {
    /// The usual size of a spool file: more than the largest message.
    pub const SEGMENT_LEN: u64 = 32 << 20;
}

/// Who wants to know how an outbox gets on. Called from any thread, without a lock held; must not block.
pub trait OutboxObserver: Send + Sync {
    /// Every record up to `durable` is durable below or in the spool, and up to `everywhere` at every gateway. Also
    /// called when only room came.
    fn progress(&self, durable: Reached, everywhere: Lsn) {
        let _ = (durable, everywhere);
    }

    /// Records are missing that this hop cannot send; the consumer gets nothing until a sync of everything begins.
    fn hole(&self, hole: Hole) {
        let _ = hole;
    }
}

/// What is called once an item is durable below: with the last record durable and the last one durable everywhere.
pub type WhenDurable = Box<dyn FnOnce(Reached, Lsn) + Send>;

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spilling {
    /// Write everything that waits to disk first, for as long as this at most.
    Everything {
        /// The most it may take.
        limit: Duration,
    },
    /// Leave what is in memory to whoever sent it.
    Nothing,
}

/// Numbers to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverStatus {
    /// The queue.
    pub queue: cx_spool::Status,
    /// What is wrong with the disk, if anything: what happened and what to do.
    pub problem: Option<String>,
}

/// The outbox of one stream at one hop, at work. Dropped without [`OutboxDriver::stop`] it ends as if killed.
pub struct OutboxDriver {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// The disk thread waits here.
    work: Condvar,
    /// Whoever waits for the disk thread.
    settled: Condvar,
    changed: Vec<Notify>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn OutboxObserver>,
    retry: Duration,
}

/// The number of no run.
const NOBODY: RunId = RunId::new(0);

struct State {
    outbox: Outbox,
    waiting: VecDeque<(ItemNo, WhenDurable)>,
    loads: VecDeque<Load>,
    /// What other runs made is not taken.
    only: Option<RunId>,
    holes: Vec<Hole>,
    told: (Reached, Lsn, u64),
    /// The disk thread sleeps, until then at the latest.
    asleep: Option<Monotonic>,
    retry_at: Option<Monotonic>,
    problem: Option<String>,
    end: Option<End>,
    dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Killed,
}

impl OutboxDriver {
    /// Opens the spool, takes up what it holds, and starts the disk thread. Blocks while it reads.
    ///
    /// # Errors
    /// When the spool's folder or files cannot be opened or read.
    pub fn open(
        config: DriverConfig,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn OutboxObserver>,
    ) -> io::Result<Arc<Self>> {
        let opened = match &config.dir {
            Some(dir) => Some(Spool::open(dir, config.segment_len, config.outbox.disk_limit)?),
            None => None,
        };
        Self::over(config, opened, clock, observer)
    }

    fn over(
        config: DriverConfig,
        opened: Option<(Spool, Recovered)>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn OutboxObserver>,
    ) -> io::Result<Arc<Self>> {
        let mut limits = config.outbox;
        if opened.is_none() {
            limits.disk_limit = 0;
        }
        let (spool, found) = opened.unzip();
        let outbox = Outbox::recovered(limits, config.consumers, found.unwrap_or_default());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { dead: spool.is_none(), ..State::new(outbox) }),
            work: Condvar::new(),
            settled: Condvar::new(),
            changed: std::iter::repeat_with(Notify::new).take(config.consumers).collect(),
            clock,
            observer,
            retry: config.retry,
        });
        let thread = spool.map(|spool| worker::start(Arc::clone(&shared), spool)).transpose()?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(thread) }))
    }

    /// Takes the next batch; never waits for a disk.
    ///
    /// # Errors
    /// [`Full`] when memory is full and the disk is not fast enough, full or failing.
    pub fn push(&self, batch: Arc<Batch>) -> Result<ItemNo, Full> {
        self.shared.push(batch, None)
    }

    /// Takes the next batch, and calls `done` when it is durable below. `done` is dropped when it never will be:
    /// with the error, and at the end.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push_with(&self, batch: Arc<Batch>, done: WhenDurable) -> Result<ItemNo, Full> {
        self.shared.push(batch, Some(done))
    }

    /// Bytes that can be pushed before it is full.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.shared.lock().outbox.room()
    }

    /// The last record taken, or found in the spool.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.shared.lock().outbox.head()
    }

    /// The last record up to which everything is durable below or in the spool.
    #[must_use]
    pub fn durable(&self) -> Reached {
        self.shared.lock().outbox.durable_below().reached
    }

    /// The last record of the stream that is known here: that anybody has below, or that was taken in.
    #[must_use]
    pub fn furthest(&self) -> Reached {
        self.shared.lock().outbox.furthest()
    }

    /// The runs of what is held here, in order, and when the last record of each was captured.
    #[must_use]
    pub fn ends(&self) -> Vec<(RunId, WallTime)> {
        self.shared.lock().outbox.ends()
    }

    /// The last record up to which everything is durable at every gateway.
    #[must_use]
    pub fn everywhere(&self) -> Lsn {
        self.shared.lock().outbox.everywhere()
    }

    /// Every consumer has acknowledged everything.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shared.lock().outbox.is_drained()
    }

    /// Numbers to show.
    #[must_use]
    pub fn status(&self) -> DriverStatus {
        let state = self.shared.lock();
        DriverStatus { queue: state.outbox.status(), problem: state.problem.clone() }
    }

    /// What is known of `consumer`.
    #[must_use]
    pub fn view(&self, consumer: ConsumerNo) -> Option<ConsumerView> {
        self.shared.lock().outbox.view(consumer)
    }

    /// The source has nothing waiting and its last record is `head`: does `consumer` miss something?
    pub fn expect_head(&self, consumer: ConsumerNo, head: Lsn) {
        let mut state = self.shared.lock();
        let hole = state.outbox.expect_head(consumer, head);
        state.holes.extend(hole);
        self.shared.settle(state);
    }

    /// `consumer` lost records that it acknowledged; it has them up to `has`. [`OutboxObserver::hole`] is called.
    pub fn abandon(&self, consumer: ConsumerNo, has: Reached) {
        let mut state = self.shared.lock();
        let hole = state.outbox.abandon(consumer, has);
        state.holes.extend(hole);
        self.shared.settle(state);
    }

    /// Does what waits from before the run `own` contradict what is below, so that it will never be taken?
    #[must_use]
    pub fn contradicts(&self, own: RunId, welcome: &Welcome) -> bool {
        let has = reached(welcome);
        self.shared.lock().outbox.contradicts(own, has)
    }

    /// Is another record here at the place of this one? Its source was set back then, and made it a second time.
    #[must_use]
    pub fn contradicts_record(&self, seen: &RecordSeen) -> bool {
        let has = Reached { lsn: seen.lsn, run: Some(seen.run), at: Some(seen.at) };
        self.shared.lock().outbox.contradicts_record(has)
    }

    /// Lets go of everything that other runs than `run` made, and takes no more of them. To be called while nobody is connected.
    pub fn keep_only(&self, run: RunId) {
        let mut state = self.shared.lock();
        state.only = Some(run);
        state.outbox.let_go_before(Some(run));
        self.shared.settle(state);
    }

    /// Lets go of everything, and of all that comes, until [`OutboxDriver::keep_only`]. To be called while nobody is connected.
    pub fn keep_nothing(&self) {
        let mut state = self.shared.lock();
        state.only = Some(NOBODY);
        state.outbox.let_go_before(None);
        self.shared.settle(state);
    }

    /// [`Feed::ready`](crate::Feed::ready).
    pub fn ready(&self, consumer: ConsumerNo, welcome: &Welcome) {
        let mut state = self.shared.lock();
        let has = reached(welcome);
        let hole = state.outbox.rewind(consumer, has);
        state.holes.extend(hole);
        self.shared.settle(state);
        self.changed(consumer).notify_one();
    }

    /// [`Feed::next`](crate::Feed::next).
    #[must_use]
    pub fn next(&self, consumer: ConsumerNo) -> Option<Arc<Batch>> {
        self.shared.next(consumer)
    }

    /// [`Feed::changed`](crate::Feed::changed).
    #[must_use]
    pub fn changed(&self, consumer: ConsumerNo) -> &Notify {
        static NOBODY: Notify = Notify::const_new();
        self.shared.changed.get(consumer.get()).unwrap_or(&NOBODY)
    }

    /// [`Feed::acked`](crate::Feed::acked).
    pub fn acked(&self, consumer: ConsumerNo, batches: u64, durable: Lsn, everywhere: Lsn) {
        let mut state = self.shared.lock();
        state.outbox.acked(consumer, batches, durable, everywhere, self.shared.clock.monotonic());
        self.shared.settle(state);
    }

    /// [`Feed::lost`](crate::Feed::lost).
    pub fn lost(&self, consumer: ConsumerNo) {
        let mut state = self.shared.lock();
        state.outbox.detach(consumer);
        self.shared.settle(state);
    }

    /// Ends it. Blocks until the disk thread is done; true when everything taken is durable below or on the disk.
    pub fn stop(&self, spilling: Spilling) -> bool {
        if let Spilling::Everything { limit } = spilling {
            self.shared.spill_all(limit);
        }
        let durable = self.shared.lock().outbox.is_all_durable();
        self.end(End::Clean);
        durable
    }

    fn end(&self, how: End) {
        self.shared.end(how);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the spool's disk thread died: see the message before; restart this program");
        }
    }
}

impl Drop for OutboxDriver {
    fn drop(&mut self) {
        self.end(End::Killed);
    }
}

/// What whoever welcomes so has.
fn reached(welcome: &Welcome) -> Reached {
    let (lsn, run) = (welcome.durable, welcome.durable_run);
    let last = welcome.last.filter(|last| last.lsn == lsn && Some(last.run) == run);
    Reached { lsn, run, at: last.map(|last| last.at) }
}

impl State {
    fn new(outbox: Outbox) -> Self {
        let told = (outbox.durable_below().reached, outbox.everywhere(), outbox.room());
        Self {
            outbox,
            waiting: VecDeque::new(),
            loads: VecDeque::new(),
            only: None,
            holes: Vec::new(),
            told,
            asleep: None,
            retry_at: None,
            problem: None,
            end: None,
            dead: false,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, batch: Arc<Batch>, done: Option<WhenDurable>) -> Result<ItemNo, Full> {
        let mut state = self.lock();
        if state.only.is_some_and(|run| batch.run != run) {
            return Ok(state.outbox.end());
        }
        let no = state.outbox.push(batch, self.clock.monotonic())?;
        state.waiting.extend(done.map(|d| (no, d)));
        self.settle(state);
        self.changed.iter().for_each(Notify::notify_one);
        Ok(no)
    }

    fn next(&self, consumer: ConsumerNo) -> Option<Arc<Batch>> {
        let mut state = self.lock();
        let next = state.outbox.next(consumer);
        if let Next::Batch(_, batch) = next {
            self.ask_disk(&mut state);
            return Some(batch);
        }
        if let Next::Hole(hole) = next {
            state.holes.push(hole);
        }
        self.settle(state);
        None
    }

    /// After any change: calls whom it concerns, without the lock.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        self.ask_disk(&mut state);
        let (durable, everywhere) = (state.outbox.durable_below(), state.outbox.everywhere());
        let mut done = Vec::new();
        while let Some((_, call)) = state.waiting.pop_front_if(|(no, _)| *no < durable.item) {
            done.push(call);
        }
        let holes = std::mem::take(&mut state.holes);
        let now = (durable.reached, everywhere, state.outbox.room());
        let progress = now.0 != state.told.0 || now.1 != state.told.1 || now.2 > state.told.2;
        state.told = now;
        drop(state);
        for call in done {
            call(durable.reached, everywhere);
        }
        if progress {
            self.observer.progress(durable.reached, everywhere);
        }
        for hole in holes {
            self.observer.hole(hole);
        }
    }

    /// Wakes the disk thread if it has to do something sooner than it knows.
    fn ask_disk(&self, state: &mut State) {
        while let Some(load) = state.outbox.poll_load() {
            state.loads.push_back(load);
        }
        let Some(until) = state.asleep else { return };
        let due = state.outbox.spill_due(self.clock.monotonic());
        if !state.loads.is_empty() || due.is_some_and(|due| due < until) {
            state.asleep = None;
            self.work.notify_one();
        }
    }

    fn spill_all(&self, limit: Duration) {
        let until = self.clock.monotonic().plus(limit);
        let mut state = self.lock();
        state.outbox.spill_all();
        // A disk that failed a while ago gets one more chance.
        state.outbox.resume_spill();
        self.ask_disk(&mut state);
        loop {
            let left = until.since(self.clock.monotonic());
            let hopeless = state.dead || (state.problem.is_some() && state.retry_at.is_some());
            if state.outbox.is_all_durable() || hopeless || left.is_zero() {
                return;
            }
            state = self.settled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn end(&self, how: End) {
        let mut state = self.lock();
        state.end.get_or_insert(how);
        state.asleep = None;
        let dropped = std::mem::take(&mut state.waiting);
        drop(state);
        self.work.notify_one();
        drop(dropped);
    }
}

#[cfg(test)]
mod tests;
