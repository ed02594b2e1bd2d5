//! A gateway and a tap that keep everything in memory, for the tests of the CX.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cx_link::outbox::{DriverConfig, OutboxDriver, OutboxObserver};
use cx_link::{
    Address, AskReply, Backoff, BatchDone, Downlink, DownlinkHandle, Feed, Hub, Intake, Listener,
    LookupReply, Querier, StreamIntake, Uplink, UplinkConfig, UplinkHandle,
};
use cx_server::{Cx, CxConfig, CxHandle, CxStatus, Limits};
use cx_spool::{Config, ConsumerNo, Reached};
use cx_wire::{
    AskError, Hashes, Heartbeat, Hello, Lookup, PROTOCOL, Question, RecordSeen, Refuse, Reply, TapState,
    TapStatus, Welcome,
};
use tap_block::{Action, Batch, Epoch, Lsn, Marker, RunId, RunStart, SyncCause, VolumeId, WallTime};
use tap_disk::RealClock;
use tempfile::TempDir;
use testbed_model::{BatchBuilder, Oracle, Workload};
use tokio::sync::{Notify, watch};

pub const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Waits for `condition`, looking again whenever `changed` says so.
pub async fn until(what: &str, changed: &watch::Sender<()>, mut condition: impl FnMut() -> bool) {
    let mut changes = changed.subscribe();
    let reached = async {
        while !condition() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A place for one CX, its gateways and its tap.
pub struct World {
    pub data: TempDir,
    pub hub: Hub,
    pub gateways: Vec<Arc<Gateway>>,
    pub limits: Limits,
    listen: Address,
}

impl World {
    pub fn new(gateways: usize) -> Self {
        let hub = Hub::new();
        let limits = Limits {
            credit: MIB,
            spill_after: Duration::from_millis(20),
            spill_above: MIB / 2,
            spool_limit: 64 * MIB,
            segment_len: MIB,
        };
        Self {
            data: tempfile::tempdir().unwrap(),
            gateways: (0..gateways).map(|n| Gateway::new(&hub, n)).collect(),
            hub,
            limits,
            listen: "mem:cx".parse().unwrap(),
        }
    }

    /// Over sockets; the gateways are started.
    pub async fn over_tcp(&mut self) {
        self.listen = "127.0.0.1:0".parse().unwrap();
        for gateway in &self.gateways {
            *gateway.address.lock().unwrap() = self.listen.clone();
            gateway.start().await;
        }
    }

    pub fn listen_at(&mut self, address: Address) {
        self.listen = address;
    }

    /// The spool is never used.
    pub fn patient(mut self) -> Self {
        self.limits.spill_after = SOON * 10;
        self
    }

    pub fn config(&self) -> CxConfig {
        CxConfig {
            data: self.data.path().join("cx"),
            listen: vec![self.listen.clone()],
            gateways: self.gateways.iter().map(|g| (g.name.clone(), g.address())).collect(),
            hub: self.hub.clone(),
            limits: self.limits,
        }
    }

    pub async fn cx(&self) -> CxHandle {
        Cx::start(self.config()).await.unwrap()
    }

    /// A CX in a runtime of its own, to be killed.
    pub fn doomed_cx(&self) -> DoomedCx {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = self.config();
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move { sender.send(Cx::start(config).await.unwrap()).unwrap() });
        let handle = receiver.recv_timeout(SOON).unwrap();
        DoomedCx { runtime: Some(runtime), handle: Some(handle) }
    }

    pub async fn tap(&self, seed: u64) -> Tap {
        Tap::new(self, Workload::new(seed))
    }

    /// The tap of `seed` in a later life, with the state that it had before it wrote anything.
    pub async fn tap_set_back(&self, seed: u64) -> Tap {
        let mut work = Workload::new(seed);
        drop((work.begin(), work.restart(0, None)));
        Tap::new(self, work)
    }

    /// Names of the files in the spools.
    pub fn spool_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        for stream in std::fs::read_dir(self.data.path().join("cx/streams")).unwrap() {
            for file in std::fs::read_dir(stream.unwrap().path().join("spool")).unwrap() {
                names.push(file.unwrap().file_name().into_string().unwrap());
            }
        }
        names.retain(|name| name != "mark");
        names
    }
}

pub struct DoomedCx {
    runtime: Option<tokio::runtime::Runtime>,
    handle: Option<CxHandle>,
}

impl DoomedCx {
    pub fn status(&self) -> CxStatus {
        self.handle.as_ref().unwrap().status()
    }

    /// As `kill -9` would: nothing is written or said any more.
    pub async fn kill(mut self) {
        let (handle, runtime) = (self.handle.take(), self.runtime.take().unwrap());
        tokio::task::spawn_blocking(move || {
            drop(handle);
            runtime.shutdown_timeout(SOON);
        })
        .await
        .unwrap();
    }
}

/// What a gateway does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Store,
    Hold,
}

/// A gateway that survives its own restarts.
pub struct Gateway {
    pub name: String,
    address: Mutex<Address>,
    hub: Hub,
    state: Mutex<GatewayState>,
    pub changed: watch::Sender<()>,
    downlink: Mutex<Option<Downlink>>,
}

struct GatewayState {
    store: Oracle,
    /// Every batch stored, as it came.
    stored: Vec<Batch>,
    durable: Reached,
    mode: Mode,
    held: Vec<(Arc<Batch>, BatchDone)>,
    refuse: Option<Refuse>,
    link: Option<DownlinkHandle>,
    heartbeats: Vec<Heartbeat>,
    hellos: Vec<Hello>,
    store_id: Option<u64>,
}

impl Gateway {
    pub fn new(hub: &Hub, n: usize) -> Arc<Self> {
        let state = GatewayState {
            store: Oracle::new(),
            stored: Vec::new(),
            durable: Reached::default(),
            mode: Mode::Store,
            held: Vec::new(),
            refuse: None,
            link: None,
            heartbeats: Vec::new(),
            hellos: Vec::new(),
            store_id: None,
        };
        Arc::new(Self {
            name: format!("gw{n}"),
            address: Mutex::new(format!("mem:gw{n}").parse().unwrap()),
            hub: hub.clone(),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            downlink: Mutex::default(),
        })
    }

    pub async fn start(self: &Arc<Self>) {
        let downlink = Downlink::new(Arc::new(GatewayIntake(Arc::clone(self))));
        let address = self.address();
        let listener = Listener::bind(&address, &self.hub).await.unwrap();
        *self.address.lock().unwrap() = listener.address().clone();
        downlink.listen(listener);
        *self.downlink.lock().unwrap() = Some(downlink);
    }

    fn address(&self) -> Address {
        self.address.lock().unwrap().clone()
    }

    /// Ends as a crash would: what it holds and has not stored is gone.
    pub async fn stop(&self) {
        let downlink = self.downlink.lock().unwrap().take().unwrap();
        self.state.lock().unwrap().held.clear();
        downlink.stop().await;
        self.state.lock().unwrap().held.clear();
    }

    fn with<T>(&self, act: impl FnOnce(&mut GatewayState) -> T) -> T {
        let result = act(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    pub fn set_mode(&self, mode: Mode) {
        let held = self.with(|s| {
            s.mode = mode;
            if mode == Mode::Store { std::mem::take(&mut s.held) } else { Vec::new() }
        });
        held.into_iter().for_each(|(batch, done)| self.store(&batch, done));
    }

    /// From here on it says which store it has.
    pub fn has_store(&self, id: u64) {
        self.with(|s| s.store_id = Some(id));
    }

    pub fn set_refuse(&self, refuse: Option<Refuse>) {
        self.with(|s| s.refuse = refuse);
    }

    /// Forgets the history after its first `batches` batches, as a disk that was put back would.
    pub fn roll_back(&self, batches: usize) {
        self.with(|s| {
            s.stored.truncate(batches);
            s.store = Oracle::new();
            s.durable = Reached::default();
            for batch in &s.stored {
                s.store.apply(batch).unwrap();
                s.durable = s.durable.max(reached(batch));
            }
        });
    }

    /// Takes writes of the present run that neither the tap nor the CX remember, since both were set back with their memory. The last.
    pub fn take_future(&self, records: u64) -> RecordSeen {
        let last = self.state.lock().unwrap().stored.last().cloned().unwrap();
        let volume = last.entries.iter().find_map(|entry| entry.action.changes()).unwrap().0;
        let (next, at) = (self.durable().next(), WallTime::from_nanos(77_000_000_000));
        let mut future = BatchBuilder::new(last.stream, volume, last.run, next, at);
        for _ in 0..records {
            future.write(0, &[8; 4096]);
        }
        let batch = future.build();
        self.with(|s| {
            s.store.apply(&batch).unwrap();
            s.durable = reached(&batch);
            s.stored.push(batch);
            RecordSeen { run: last.run, lsn: s.durable.lsn, at: s.durable.at.unwrap() }
        })
    }

    pub fn durable(&self) -> Lsn {
        self.state.lock().unwrap().durable.lsn
    }

    pub fn held(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }

    pub fn stored(&self) -> usize {
        self.state.lock().unwrap().stored.len()
    }

    pub fn hellos(&self) -> Vec<Hello> {
        self.state.lock().unwrap().hellos.clone()
    }

    pub fn heartbeats(&self) -> Vec<Heartbeat> {
        self.state.lock().unwrap().heartbeats.clone()
    }

    pub fn link(&self) -> Option<DownlinkHandle> {
        self.state.lock().unwrap().link.clone()
    }

    pub async fn wait_durable(&self, lsn: Lsn) {
        until(&format!("{} durable at {}", lsn, self.name), &self.changed, || self.durable() >= lsn).await;
    }

    /// Every image after `from` is what the tap's disk was.
    pub fn check_against(&self, truth: &Oracle, volume: VolumeId, from: Lsn) {
        let state = self.state.lock().unwrap();
        let points: Vec<Lsn> = truth.lsns().into_iter().filter(|lsn| *lsn > from).collect();
        assert_eq!(state.store.last_lsn(), truth.last_lsn());
        // The oracle replays everything for each point: a few of them, the last among them.
        for lsn in points.iter().rev().step_by(points.len() / 6 + 1).copied() {
            assert!(
                state.store.image_at(volume, lsn) == truth.image_at(volume, lsn),
                "{} at {lsn}",
                self.name
            );
        }
    }

    pub fn lsns(&self) -> Vec<Lsn> {
        self.state.lock().unwrap().store.lsns()
    }

    fn store(&self, batch: &Arc<Batch>, done: BatchDone) {
        let durable = self.with(|s| {
            let first = batch.entries.iter().find(|e| !e.position.is_copy()).map(|e| &e.action);
            let starts = matches!(first, Some(Action::Mark(m)) if matches!(**m, Marker::RunStart(_)));
            assert!(starts || !s.stored.is_empty(), "a gateway knows a volume by a run's first record");
            s.store.apply(batch).unwrap();
            s.stored.push(Batch::clone(batch));
            s.durable = s.durable.max(reached(batch));
            s.durable.lsn
        });
        done.durable(durable, durable);
    }
}

fn reached(batch: &Batch) -> Reached {
    let last = batch.last_record().map(|entry| (entry.position.lsn(), entry.captured_at));
    last.map(|(lsn, at)| Reached { lsn, run: Some(batch.run), at: Some(at) }).unwrap_or_default()
}

struct GatewayIntake(Arc<Gateway>);

impl Intake for GatewayIntake {
    fn open(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        let opened = self.0.with(|s| {
            s.hellos.push(hello.clone());
            s.refuse.clone().map_or(Ok(s.durable), Err)
        })?;
        let known = opened.lsn > Lsn::ZERO;
        let welcome = Welcome {
            durable: opened.lsn,
            durable_run: opened.run,
            known,
            credit: MIB,
            store: self.0.with(|s| s.store_id),
            past: None,
            last: opened.run.zip(opened.at).map(|(run, at)| RecordSeen { run, lsn: opened.lsn, at }),
        };
        Ok((welcome, Arc::new(Self(Arc::clone(&self.0)))))
    }
}

impl StreamIntake for GatewayIntake {
    fn attached(&self, link: DownlinkHandle) {
        self.0.with(|s| s.link = Some(link));
    }

    fn batch(&self, batch: Arc<Batch>, done: BatchDone) {
        let store = self.0.with(|s| match s.mode {
            Mode::Store => Some(done),
            Mode::Hold => {
                s.held.push((Arc::clone(&batch), done));
                None
            }
        });
        if let Some(done) = store {
            self.0.store(&batch, done);
        }
    }

    fn heartbeat(&self, heartbeat: Heartbeat) {
        self.0.with(|s| s.heartbeats.push(heartbeat));
    }

    /// Tells hashes of the image that it has.
    fn query(&self, lookup: Lookup, reply: LookupReply) {
        let found = self.0.with(|s| {
            let at = s.durable.lsn;
            let image = s.store.image_at(lookup.volume, at);
            let (from, to) = (lookup.extent.offset() as usize, lookup.extent.end() as usize);
            Hashes { at, hashes: cx_delta::hashes(lookup.seed, &image[from..to.min(image.len())]).into() }
        });
        reply.send(Ok(found));
    }

    fn closed(&self) {
        self.0.with(|s| s.link = None);
    }
}

/// A tap with a workload, a memory outbox and an uplink to the CX.
pub struct Tap {
    pub work: Workload,
    /// Set once the workload was left behind: what to write next, and in which run.
    own: Option<Own>,
    pub truth: Oracle,
    /// All batches made, in order.
    pub made: Vec<Batch>,
    outbox: Arc<OutboxDriver>,
    pub shared: Arc<TapShared>,
    uplink: Option<UplinkHandle>,
}

#[derive(Clone, Copy)]
struct Own {
    run: RunId,
    next: Lsn,
}

pub struct TapShared {
    pub changed: watch::Sender<()>,
    heartbeat: Mutex<Heartbeat>,
    asked: Mutex<Vec<Question>>,
    progress: Mutex<(Lsn, Lsn)>,
    refused: Mutex<Option<Refuse>>,
    welcome: Mutex<Option<Welcome>>,
}

impl OutboxObserver for TapShared {
    fn progress(&self, durable: Reached, everywhere: Lsn) {
        let mut progress = self.progress.lock().unwrap();
        *progress = (progress.0.max(durable.lsn), progress.1.max(everywhere));
        drop(progress);
        self.changed.send_replace(());
    }
}

struct TapFeed {
    outbox: Arc<OutboxDriver>,
    shared: Arc<TapShared>,
}

const CX: ConsumerNo = ConsumerNo::new(0);

impl Feed for TapFeed {
    fn ready(&self, welcome: &Welcome) -> Result<(), String> {
        self.outbox.ready(CX, welcome);
        *self.shared.welcome.lock().unwrap() = Some(welcome.clone());
        self.shared.changed.send_replace(());
        Ok(())
    }

    fn next(&self) -> Option<Arc<Batch>> {
        self.outbox.next(CX)
    }

    fn changed(&self) -> &Notify {
        self.outbox.changed(CX)
    }

    fn acked(&self, batches: u64, durable: Lsn, everywhere: Lsn) {
        self.outbox.acked(CX, batches, durable, everywhere);
    }

    fn lost(&self) {
        self.outbox.lost(CX);
    }

    fn heartbeat(&self) -> Heartbeat {
        let mut beat = self.shared.heartbeat.lock().unwrap().clone();
        beat.status.queued_bytes = self.outbox.status().queue.memory_bytes;
        beat
    }

    fn ask(&self, question: Question, reply: AskReply) {
        self.shared.asked.lock().unwrap().push(question.clone());
        self.shared.changed.send_replace(());
        let beat = self.heartbeat();
        reply.send(match question {
            Question::Head => Ok(Reply::Head { lsn: beat.head, at: beat.at, status: beat.status }),
            _ => Ok(Reply::Done),
        });
    }

    fn refused(&self, refuse: &Refuse) {
        *self.shared.refused.lock().unwrap() = Some(refuse.clone());
        self.shared.changed.send_replace(());
    }
}

impl Tap {
    fn new(world: &World, mut work: Workload) -> Self {
        let status = TapStatus {
            state: TapState::Protected,
            queued_bytes: 0,
            spooled_bytes: 0,
            marked_bytes: 0,
            sync: None,
            baselines: 1,
            resynced_bytes: 0,
        };
        let shared = Arc::new(TapShared {
            changed: watch::Sender::new(()),
            heartbeat: Mutex::new(Heartbeat {
                head: Lsn::ZERO,
                at: WallTime::EPOCH,
                status,
                ledgers: None,
                witnesses: Vec::new(),
                stores: Vec::new(),
                refused: None,
                set_back: None,
            }),
            asked: Mutex::default(),
            progress: Mutex::default(),
            refused: Mutex::default(),
            welcome: Mutex::default(),
        });
        let config = DriverConfig {
            dir: None,
            segment_len: MIB,
            consumers: 1,
            retry: SOON,
            outbox: Config {
                memory_limit: 256 * MIB,
                spill_after: None,
                spill_above: u64::MAX,
                disk_limit: 0,
                read_ahead: MIB,
                detect_holes: false,
            },
        };
        let outbox = OutboxDriver::open(config, Arc::new(RealClock), shared.clone()).unwrap();
        let first = work.begin();
        let mut tap =
            Self { work, own: None, truth: Oracle::new(), made: Vec::new(), outbox, shared, uplink: None };
        tap.push(first);
        tap.connect(world);
        tap
    }

    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            stream: self.work.stream(),
            volume: self.work.volume(),
            name: "web01".parse().unwrap(),
            size: self.work.size(),
            epoch: Epoch::new(0),
            run: self.work.run(),
            first_lsn: Lsn::ZERO.next(),
            sender: "a test".to_owned(),
        }
    }

    pub fn connect(&mut self, world: &World) {
        self.connect_as(world, self.hello());
    }

    /// The same, with another greeting.
    pub fn connect_as(&mut self, world: &World, hello: Hello) {
        let feed = Arc::new(TapFeed { outbox: Arc::clone(&self.outbox), shared: Arc::clone(&self.shared) });
        let backoff = Backoff { first: Duration::from_millis(10), limit: Duration::from_millis(50) };
        let config = UplinkConfig { address: world.listen.clone(), hub: world.hub.clone(), backoff };
        self.uplink = Some(Uplink::spawn(config, move || hello.clone(), feed));
    }

    pub async fn disconnect(&mut self) {
        self.uplink.take().unwrap().stop().await;
    }

    pub fn push(&mut self, batch: Batch) {
        if batch.entries.is_empty() {
            return;
        }
        self.truth.apply(&batch).unwrap();
        self.made.push(batch.clone());
        let mut beat = self.shared.heartbeat.lock().unwrap();
        beat.head = batch.last_lsn().unwrap_or(beat.head);
        beat.at = self.work.now();
        drop(beat);
        self.outbox.push(Arc::new(batch)).unwrap();
    }

    /// Some writes, and copies while a sync runs.
    pub fn write(&mut self, batches: usize) {
        for n in 0..batches {
            if self.own.is_some() {
                let data = vec![u8::try_from(n % 200).unwrap() + 1; 4096];
                self.push_own(|to| to.write(n as u64 % 64, &data));
                continue;
            }
            let batch = if n % 5 == 4 { self.work.copies() } else { self.work.batch(6) };
            self.push(batch);
        }
    }

    pub fn end_sync(&mut self) {
        let end = self.work.end_sync();
        self.push(end);
    }

    /// What a tap does when it is asked for a resync: a marker that says that records were lost, here a new run's
    /// first or one of the same run, then a copy of everything, and the end.
    pub fn resync(&mut self, same_run: bool) -> Lsn {
        let (previous, next, disk) = (self.work.run(), self.work.next_lsn(), self.work.disk().to_vec());
        let run = if same_run { previous } else { RunId::new(previous.get() ^ 1) };
        self.own = Some(Own { run, next });
        let cause = SyncCause::HopLost;
        let start = RunStart {
            previous: Some(previous),
            durable: self.durable(),
            volume: self.work.volume(),
            name: "web01".parse().unwrap(),
            size: self.work.size(),
            sync: Some(cause),
        };
        let marker = if same_run { Marker::SyncStart { cause } } else { Marker::RunStart(start) };
        self.push_own(|to| to.mark(marker));
        self.push_own(|to| to.copy(next, 0, &disk));
        self.push_own(|to| to.mark(Marker::SyncEnd { cause, copied: disk.len() as u64, from_zero: false }));
        self.head()
    }

    fn push_own(&mut self, fill: impl FnOnce(&mut BatchBuilder) -> &mut BatchBuilder) {
        let Own { run, next } = self.own.unwrap();
        let mut to = BatchBuilder::new(self.work.stream(), self.work.volume(), run, next, self.work.now());
        fill(&mut to);
        self.own = Some(Own { run, next: to.next_lsn() });
        self.push(to.build());
    }

    pub fn head(&self) -> Lsn {
        self.truth.last_lsn()
    }

    pub fn durable(&self) -> Lsn {
        self.shared.progress.lock().unwrap().0
    }

    pub fn everywhere(&self) -> Lsn {
        self.shared.progress.lock().unwrap().1
    }

    /// The way to ask what is below.
    pub fn querier(&self) -> Querier {
        self.uplink.as_ref().unwrap().querier()
    }

    pub fn is_drained(&self) -> bool {
        self.outbox.is_drained()
    }

    pub fn asked(&self) -> Vec<Question> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The last welcome.
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.welcome.lock().unwrap().clone()
    }

    pub fn refused(&self) -> Option<Refuse> {
        self.shared.refused.lock().unwrap().clone()
    }

    /// The CX acknowledged everything.
    pub async fn wait_acked(&self) {
        until("everything acknowledged", &self.shared.changed, || self.is_drained()).await;
    }

    pub async fn wait_everywhere(&self) {
        until("everything everywhere", &self.shared.changed, || self.everywhere() == self.head()).await;
    }
}

pub async fn ask_head(gateway: &Gateway) -> Result<Reply, AskError> {
    gateway.link().unwrap().ask(Question::Head, SOON).await
}

pub fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}
