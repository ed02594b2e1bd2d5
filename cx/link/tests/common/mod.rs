//! A feed and an intake that keep everything in memory, for the tests of the link.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cx_link::{
    Address, AskReply, Backoff, BatchDone, Downlink, DownlinkHandle, Feed, Hub, Intake, Listener,
    LookupReply, StreamIntake, Uplink, UplinkConfig, UplinkHandle,
};
use cx_wire::{
    AskError, Hashes, Heartbeat, Hello, Lookup, PROTOCOL, Question, Refuse, RefuseCode, Reply, TapState,
    TapStatus, Welcome,
};
use tap_block::{Batch, Epoch, Lsn, RunId, StreamId, WallTime};
use testbed_model::Workload;
use tokio::sync::{Notify, watch};

pub const CREDIT: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

pub fn status() -> TapStatus {
    TapStatus {
        state: TapState::Protected,
        queued_bytes: 0,
        spooled_bytes: 0,
        marked_bytes: 0,
        sync: None,
        baselines: 1,
        resynced_bytes: 0,
    }
}

pub fn hello(work: &Workload) -> Hello {
    Hello {
        protocol: PROTOCOL,
        stream: work.stream(),
        volume: work.volume(),
        name: "web01".parse().unwrap(),
        size: work.size(),
        epoch: Epoch::new(0),
        run: work.run(),
        first_lsn: Lsn::ZERO.next(),
        sender: "a test".to_owned(),
    }
}

/// About `batches` batches, a restart and copies among them.
pub fn history(seed: u64, batches: usize) -> (Workload, Vec<Arc<Batch>>) {
    let mut work = Workload::new(seed);
    let mut all = vec![work.begin()];
    for n in 0..batches {
        all.push(match n % 7 {
            6 => work.copies(),
            5 if n % 3 == 0 => work.restart(1000, None),
            _ => work.batch(5),
        });
    }
    (work, all.into_iter().filter(|b| !b.entries.is_empty()).map(Arc::new).collect())
}

/// Sends a fixed history.
#[derive(Default)]
pub struct TestFeed {
    inner: Mutex<FeedState>,
    changed: Notify,
    pub acked: watch::Sender<usize>,
    pub everywhere: watch::Sender<Lsn>,
    pub lost: watch::Sender<usize>,
    pub refusals: watch::Sender<usize>,
}

#[derive(Default)]
struct FeedState {
    items: Vec<Arc<Batch>>,
    next: usize,
    acked: usize,
}

impl TestFeed {
    pub fn new(items: &[Arc<Batch>]) -> Arc<Self> {
        let feed = Self::default();
        feed.inner.lock().unwrap().items = items.to_vec();
        Arc::new(feed)
    }

    pub fn push(&self, batch: Arc<Batch>) {
        self.inner.lock().unwrap().items.push(batch);
        self.changed.notify_one();
    }

    pub async fn all_acked(&self) {
        let all = self.inner.lock().unwrap().items.len();
        until(&self.acked, |&n| n == all).await;
    }
}

/// Waits for a watched value to satisfy something.
pub async fn until<T: Clone + std::fmt::Debug>(watched: &watch::Sender<T>, mut ok: impl FnMut(&T) -> bool) {
    let mut watched = watched.subscribe();
    let reached = tokio::time::timeout(LIMIT, watched.wait_for(|v| ok(v))).await.map(|r| r.map(|_| ()));
    assert!(matches!(reached, Ok(Ok(()))), "not reached: {:?}", watched.borrow().clone());
}

impl Feed for TestFeed {
    fn ready(&self, welcome: &Welcome) -> Result<(), String> {
        let mut inner = self.inner.lock().unwrap();
        let has = |b: &Arc<Batch>| b.last_lsn().is_some_and(|l| l <= welcome.durable);
        inner.next = inner.items.iter().rposition(has).map_or(0, |at| at + 1);
        inner.acked = inner.next;
        self.acked.send_replace(inner.acked);
        Ok(())
    }

    fn next(&self) -> Option<Arc<Batch>> {
        let mut inner = self.inner.lock().unwrap();
        let item = inner.items.get(inner.next).cloned();
        inner.next += usize::from(item.is_some());
        item
    }

    fn changed(&self) -> &Notify {
        &self.changed
    }

    fn acked(&self, batches: u64, durable: Lsn, everywhere: Lsn) {
        let mut inner = self.inner.lock().unwrap();
        let before = inner.acked;
        inner.acked += usize::try_from(batches).unwrap();
        assert!(inner.acked <= inner.next, "more acknowledged than sent");
        for batch in &inner.items[before..inner.acked] {
            assert!(batch.last_lsn().is_none_or(|l| l <= durable), "acknowledged past durable");
        }
        self.acked.send_replace(inner.acked);
        self.everywhere.send_replace(everywhere);
    }

    fn lost(&self) {
        self.lost.send_modify(|n| *n += 1);
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            head: Lsn::ZERO,
            at: WallTime::EPOCH,
            status: status(),
            ledgers: None,
            witnesses: Vec::new(),
            stores: Vec::new(),
            refused: None,
            set_back: None,
        }
    }

    fn ask(&self, question: Question, reply: AskReply) {
        match question {
            Question::Head => {
                reply.send(Ok(Reply::Head { lsn: Lsn::ZERO, at: WallTime::EPOCH, status: status() }))
            }
            Question::Resync { .. } | Question::Block { .. } | Question::AcceptRestored => drop(reply),
            Question::Bookmark { .. } => std::mem::forget(reply),
        }
    }

    fn refused(&self, _: &Refuse) {
        self.refusals.send_modify(|n| *n += 1);
    }
}

/// Takes one stream; makes batches durable when told to, or at once.
#[derive(Default)]
pub struct TestIntake {
    inner: Mutex<IntakeState>,
    /// Make batches durable at once?
    pub eager: AtomicBool,
    pub received: watch::Sender<usize>,
    pub heartbeats: watch::Sender<usize>,
    pub link: watch::Sender<Option<DownlinkHandle>>,
    pub closed: watch::Sender<usize>,
    pub refuse: AtomicBool,
    /// Queries that nobody answers.
    pub unanswered: Mutex<Vec<LookupReply>>,
}

#[derive(Default)]
struct IntakeState {
    taken: Vec<Arc<Batch>>,
    waiting: Vec<(Arc<Batch>, BatchDone)>,
    durable: Lsn,
    run: Option<RunId>,
}

impl TestIntake {
    pub fn new(eager: bool) -> Arc<Self> {
        let intake = Self::default();
        intake.eager.store(eager, Ordering::SeqCst);
        Arc::new(intake)
    }

    pub fn taken(&self) -> Vec<Arc<Batch>> {
        self.inner.lock().unwrap().taken.clone()
    }

    /// Makes everything waiting durable, the last first.
    pub fn settle(&self) {
        let waiting = std::mem::take(&mut self.inner.lock().unwrap().waiting);
        let last = waiting.iter().rev().find_map(|(b, _)| Some((b.last_lsn()?, b.run)));
        for (_, done) in waiting.into_iter().rev() {
            self.make_durable(done, last);
        }
    }

    /// The durable LSN and the run it belongs to move together.
    fn make_durable(&self, done: BatchDone, last: Option<(Lsn, RunId)>) {
        let durable = {
            let mut inner = self.inner.lock().unwrap();
            if let Some((lsn, run)) = last.filter(|(lsn, _)| *lsn > inner.durable) {
                (inner.durable, inner.run) = (lsn, Some(run));
            }
            inner.durable
        };
        done.durable(durable, durable);
    }

    /// The disk is gone: what waits will never be durable.
    pub fn fail(&self) {
        let mut inner = self.inner.lock().unwrap();
        let lost = std::mem::take(&mut inner.waiting);
        let keep = inner.taken.len() - lost.len();
        inner.taken.truncate(keep);
        drop(inner);
        drop(lost);
    }

    pub async fn link(&self) -> DownlinkHandle {
        // It may have gone again between the wait and the look.
        loop {
            until(&self.link, Option::is_some).await;
            if let Some(link) = self.link.borrow().clone() {
                return link;
            }
        }
    }
}

/// So that both traits can hold the same value.
pub struct Shared(pub Arc<TestIntake>);

impl Intake for Shared {
    fn open(&self, _: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        if self.0.refuse.load(Ordering::SeqCst) {
            return Err(Refuse { code: RefuseCode::Fenced, detail: "not today".to_owned() });
        }
        let inner = self.0.inner.lock().unwrap();
        let (durable, durable_run) = (inner.durable, inner.run);
        let welcome = Welcome {
            durable,
            durable_run,
            known: durable_run.is_some(),
            credit: CREDIT,
            store: None,
            past: None,
            last: None,
        };
        Ok((welcome, Arc::new(Self(Arc::clone(&self.0)))))
    }
}

impl StreamIntake for Shared {
    fn attached(&self, link: DownlinkHandle) {
        self.0.link.send_replace(Some(link));
    }

    fn batch(&self, batch: Arc<Batch>, done: BatchDone) {
        self.0.inner.lock().unwrap().taken.push(Arc::clone(&batch));
        if self.0.eager.load(Ordering::SeqCst) {
            self.0.make_durable(done, batch.last_lsn().map(|lsn| (lsn, batch.run)));
        } else {
            self.0.inner.lock().unwrap().waiting.push((batch, done));
        }
        self.0.received.send_modify(|n| *n += 1);
    }

    fn heartbeat(&self, _: Heartbeat) {
        self.0.heartbeats.send_modify(|n| *n += 1);
    }

    /// By its seed: 1 is answered, 2 is dropped, others are left open.
    fn query(&self, lookup: Lookup, reply: LookupReply) {
        match lookup.seed {
            1 => reply.send(Ok(Hashes { at: lookup.after, hashes: vec![7; lookup.hash_bytes()].into() })),
            2 => drop(reply),
            _ => self.0.unanswered.lock().unwrap().push(reply),
        }
    }

    fn closed(&self) {
        self.0.link.send_replace(None);
        self.0.closed.send_modify(|n| *n += 1);
    }
}

/// A receiving program.
pub struct Below {
    pub intake: Arc<TestIntake>,
    pub downlink: Downlink,
    pub address: Address,
}

pub async fn below(at: &str, hub: &Hub, eager: bool) -> Below {
    let intake = TestIntake::new(eager);
    let listener = Listener::bind(&at.parse().unwrap(), hub).await.unwrap();
    let address = listener.address().clone();
    let downlink = Downlink::new(Arc::new(Shared(Arc::clone(&intake))));
    downlink.listen(listener);
    Below { intake, downlink, address }
}

pub fn uplink(to: &Address, hub: &Hub, work: &Workload, feed: &Arc<TestFeed>) -> UplinkHandle {
    let backoff = Backoff { first: Duration::from_millis(5), limit: Duration::from_millis(50) };
    let config = UplinkConfig { address: to.clone(), hub: hub.clone(), backoff };
    let hello = hello(work);
    Uplink::spawn(config, move || hello.clone(), Arc::clone(feed) as Arc<dyn Feed>)
}

pub async fn ask(link: &DownlinkHandle, question: Question, millis: u64) -> Result<Reply, AskError> {
    link.ask(question, Duration::from_millis(millis)).await
}

pub fn other_stream(hello: &Hello) -> Hello {
    Hello { stream: StreamId::new(hello.stream.get() ^ 1), ..hello.clone() }
}
