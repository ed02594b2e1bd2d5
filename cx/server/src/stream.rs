//! One stream in the CX: its outbox, its gateways, and the nurse that has holes healed.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_link::outbox::{DriverConfig, OutboxDriver, Spilling};
use cx_link::{
    Address, BatchDone, DownlinkHandle, Feed, Hub, LookupReply, StreamIntake, Uplink, UplinkConfig,
    UplinkHandle,
};
use cx_spool::{ConsumerNo, Reached};
use cx_wire::{Heartbeat, Hello, Lookup, Question, RecordSeen, Refuse, RefuseCode, RunSeen, Welcome};
use tap_block::{Batch, Clock, Lsn, RunId};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::acknowledged::Acknowledged;
use crate::feed::{GatewayFeed, Reports, said_of};
use crate::heads::Heads;
use crate::lookup::look_up;
use crate::naming::Naming;
use crate::past::Past;
use crate::status::{GatewayStatus, StreamStatus};
use crate::tap::Tap;

/// What every stream needs of the CX.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) gateways: Vec<(String, Address)>,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Handle,
    pub(crate) heads: Arc<Heads>,
    pub(crate) acknowledged: Arc<Acknowledged>,
}

/// A stream at work.
pub(crate) struct Stream {
    hello: Arc<Mutex<Hello>>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) driver: Arc<OutboxDriver>,
    pub(crate) reports: Arc<Reports>,
    past: Arc<Mutex<Past>>,
    gateways: Vec<(String, Address)>,
    uplinks: Mutex<Vec<UplinkHandle>>,
    nurse: JoinHandle<()>,
    runtime: Handle,
    clock: Arc<dyn Clock>,
}

/// How long to wait before a tap that could not be asked for a resync, or one that was, is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const ASKED_AGAIN: Duration = Duration::from_secs(60);
const RESYNC_LIMIT: Duration = Duration::from_secs(10);
/// How long a stopping CX waits for gateways that are there, and for its own disk.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
const SPILL_LIMIT: Duration = Duration::from_secs(8);

impl Stream {
    /// Opens the outbox, and connects to the gateways. Blocks while the spool is read.
    pub(crate) fn open(hello: Hello, config: DriverConfig, around: &Surroundings) -> io::Result<Arc<Self>> {
        let tap = Arc::new(Tap::default());
        let driver = OutboxDriver::open(config, Arc::clone(&around.clock), tap.clone())?;
        let reports = Arc::new(Reports::new(around.gateways.len()));
        let past = Arc::new(Mutex::new(past(hello.run, &driver)));
        tap.note_refused(&hello, None, around.clock.wall());
        let hello = Arc::new(Mutex::new(hello));
        let nurse = around.runtime.spawn(nurse(Arc::clone(&tap), Arc::clone(&driver), around.gateways.len()));
        let stream = Self {
            hello,
            tap,
            driver,
            reports,
            past,
            gateways: around.gateways.clone(),
            uplinks: Mutex::default(),
            nurse,
            runtime: around.runtime.clone(),
            clock: Arc::clone(&around.clock),
        };
        stream.connect(around);
        Ok(Arc::new(stream))
    }

    fn connect(&self, around: &Surroundings) {
        let (_entered, stream) = (around.runtime.enter(), self.hello().stream);
        let uplinks = self.gateways.iter().enumerate().map(|(at, (name, address))| {
            let feed: Arc<dyn Feed> = Arc::new(GatewayFeed {
                gateway: name.clone(),
                consumer: ConsumerNo::new(at),
                driver: Arc::clone(&self.driver),
                tap: Arc::clone(&self.tap),
                reports: Arc::clone(&self.reports),
                past: Arc::clone(&self.past),
                clock: Arc::clone(&self.clock),
                runtime: around.runtime.clone(),
                naming: Naming::new(Arc::clone(&self.hello)),
                heads: Arc::clone(&around.heads),
                acknowledged: Arc::clone(&around.acknowledged),
                stream,
                store: AtomicU64::new(0),
            });
            let config = UplinkConfig {
                address: address.clone(),
                hub: around.hub.clone(),
                backoff: cx_link::Backoff::default(),
            };
            let hello = Arc::clone(&self.hello);
            Uplink::spawn(config, move || lock(&hello).clone(), feed)
        });
        *lock(&self.uplinks) = uplinks.collect();
    }

    /// The tap's last greeting.
    pub(crate) fn hello(&self) -> Hello {
        lock(&self.hello).clone()
    }

    /// The tap greets anew; the gateways hear of it at their next connection, and by the run's first record.
    pub(crate) fn greet(&self, hello: &Hello) {
        lock(&self.past).greet(hello.run);
        lock(&self.hello).clone_from(hello);
    }

    /// A run that is new here must begin above all that is known: LSNs are never used twice. The gateways would find the same, but
    /// not before something of the run reaches them, and meanwhile the tap would take what it sends for kept.
    pub(crate) fn check_run(&self, hello: &Hello) -> Result<(), Refuse> {
        let known = self.driver.furthest();
        self.tap.check_copy(hello, known.lsn)?;
        let other = known.run.filter(|run| *run != hello.run);
        let Some(run) = other.filter(|_| hello.first_lsn > Lsn::ZERO && hello.first_lsn <= known.lsn) else {
            return Ok(());
        };
        let detail = format!(
            "{}: this tap's {} begins at lsn:{}, but lsn:{} of {run} is here: the tap's state is an old copy, or two taps write this \
             stream; go on with the newest copy of its state; or with this one, if its server was restored: chronogate volume \
             accept-restored {} has the whole disk compared; or stop this tap, remove its state and protect the disk under \
             another name",
            hello.name,
            hello.run,
            hello.first_lsn.get(),
            known.lsn.get(),
            hello.name,
        );
        Err(Refuse { code: RefuseCode::SplitHistory, detail })
    }

    /// What the tap is told: everything up to here is durable below.
    pub(crate) fn welcome(&self, credit: u64) -> Welcome {
        let run = self.hello().run;
        let (known, past) = {
            // A gateway that answers meanwhile is in both or in neither.
            let mut past = lock(&self.past);
            // Until every gateway has said what it has, less may be known here than was acknowledged.
            let known = self.reports.complete();
            (known, past.tell(run, known))
        };
        let durable = self.driver.durable();
        Welcome {
            durable: durable.lsn,
            durable_run: durable.run,
            known,
            credit,
            store: None,
            past: Some(past),
            last: self.last(),
        }
    }

    /// The last record that is here or below, whoever has acknowledged it.
    fn last(&self) -> Option<RecordSeen> {
        let Reached { lsn, run, at } = self.driver.furthest();
        Some(RecordSeen { run: run?, lsn, at: at? })
    }

    /// Ends it: what the gateways do not take within moments goes to disk.
    pub(crate) async fn stop(&self) {
        self.drain().await;
        let driver = Arc::clone(&self.driver);
        let spilled =
            tokio::task::spawn_blocking(move || driver.stop(Spilling::Everything { limit: SPILL_LIMIT }))
                .await;
        if !spilled.unwrap_or(false) {
            tracing::warn!(
                stream = %self.hello().stream,
                "not everything reached the gateways or the spool: the tap will send the rest again"
            );
        }
        self.nurse.abort();
        let uplinks = std::mem::take(&mut *lock(&self.uplinks));
        for uplink in uplinks {
            uplink.stop().await;
        }
    }

    async fn drain(&self) {
        let (driver, gateways) = (&self.driver, self.gateways.len());
        let connected = |at| driver.view(ConsumerNo::new(at)).is_some_and(|v| v.attached);
        let drained = async {
            let mut look = tokio::time::interval(Duration::from_millis(10));
            while !driver.is_drained() && (0..gateways).all(connected) {
                look.tick().await;
            }
        };
        // Late is no error: the spool takes the rest.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
    }

    pub(crate) fn status(&self) -> StreamStatus {
        let (hello, outbox) = (self.hello(), self.driver.status());
        let uplinks = lock(&self.uplinks);
        let gateways = self.gateways.iter().enumerate().map(|(at, (name, address))| {
            let consumer = ConsumerNo::new(at);
            let state = uplinks.get(at).map(|u| u.state().borrow().clone());
            let refused = self.reports.refused(consumer).map(|r| r.detail);
            let set_back = self.reports.was_set_back(consumer).map(said_of);
            let status = GatewayStatus::new(name, address, self.driver.view(consumer), state, refused);
            GatewayStatus { set_back, ..status }
        });
        StreamStatus {
            stream: hello.stream,
            volume: hello.volume,
            name: hello.name,
            tap_connected: self.tap.link().is_some(),
            head: self.tap.head(),
            received: outbox.queue.head,
            durable: self.driver.durable().lsn,
            everywhere: self.driver.everywhere(),
            queued_bytes: outbox.queue.queued_bytes,
            memory_bytes: outbox.queue.memory_bytes,
            spooled_bytes: outbox.queue.spooled_bytes,
            spool_full: outbox.queue.disk_full,
            problem: outbox.problem,
            gateways: gateways.collect(),
        }
    }
}

impl StreamIntake for Stream {
    fn attached(&self, link: DownlinkHandle) {
        self.tap.attached(link);
    }

    fn batch(&self, batch: Arc<Batch>, done: BatchDone) {
        if let Some(last) = batch.entries.last() {
            lock(&self.past).note(RunSeen { run: batch.run, at: last.captured_at });
        }
        let taken = self
            .driver
            .push_with(batch, Box::new(move |durable, everywhere| done.durable(durable.lsn, everywhere)));
        if let Err(full) = taken {
            // The batch's `done` is dropped: the connection closes and the tap keeps what it has.
            tracing::warn!(stream = %self.hello().stream, "{full}");
        }
    }

    fn heartbeat(&self, heartbeat: Heartbeat) {
        let received = self.driver.head();
        lock(&self.past).note(RunSeen { run: self.hello().run, at: heartbeat.at });
        if let Some(head) = self.tap.heard(heartbeat, received, self.clock.monotonic()) {
            (0..self.gateways.len()).for_each(|at| self.driver.expect_head(ConsumerNo::new(at), head));
        }
    }

    fn query(&self, lookup: Lookup, reply: LookupReply) {
        let gateways = lock(&self.uplinks).iter().map(UplinkHandle::querier).collect();
        self.runtime.spawn(async move { reply.send(look_up(gateways, lookup).await) });
    }

    fn closed(&self) {
        self.tap.detached();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.nurse.abort();
    }
}

/// What is known of the runs of a stream whose last one is `run`, before anybody has said anything: what the spool holds the
/// gateways may not have.
fn past(run: RunId, driver: &OutboxDriver) -> Past {
    let mut past = Past::default();
    past.greet(run);
    for (run, at) in driver.ends() {
        past.note(RunSeen { run, at });
    }
    past
}

/// Has holes healed: asks the tap for a resync of everything, again and again, until the sync begins.
async fn nurse(tap: Arc<Tap>, driver: Arc<OutboxDriver>, gateways: usize) {
    loop {
        let broken = (0..gateways).filter_map(|at| driver.view(ConsumerNo::new(at))?.broken_after).min();
        let Some(from) = broken else {
            tap.trouble.notified().await;
            continue;
        };
        let asked = tap.ask(Question::Resync { from, whole: true }, RESYNC_LIMIT).await;
        let pause = match asked {
            Ok(_) => ASKED_AGAIN,
            Err(e) => {
                tracing::warn!(%from, "a gateway waits for a resync, and the tap cannot be asked for it: {e}");
                ASK_AGAIN
            }
        };
        // A tap that comes back is asked at once.
        let _ = tokio::time::timeout(pause, tap.trouble.notified()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
