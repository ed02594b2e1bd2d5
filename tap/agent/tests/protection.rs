//! A whole tap against a CX that the test plays: what the guest wrote is what history says, over stops, kills and
//! absences of the CX.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cx_link::{
    Address, BatchDone, Downlink, DownlinkHandle, Hub, Intake, Listener, LookupReply, StreamIntake,
};
use cx_wire::{
    AskCode, AskError, Hashes, Heartbeat, Hello, Lookup, Question, RecordSeen, Refuse, RefuseCode, Reply,
    RunSeen, TapState, Welcome,
};
use gateway_front::ListenAddress;
use nbd::client::NbdClient;
use tap_agent::{GroupOf, Limits, Protect, Tap, TapConfig};
use tap_block::{
    Batch, Clock, Consistency, Epoch, Lsn, Marker, RunId, RunStart, StreamId, SyncCause, VolumeId,
};
use tap_disk::RealClock;
use testbed_model::{BatchBuilder, Oracle};

const SIZE: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A CX with the oracle inside. It makes everything "durable" at once, unless told to hold its acknowledgements.
#[derive(Default)]
struct FakeCx {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    oracle: Oracle,
    volume: Option<VolumeId>,
    durable: Lsn,
    run: Option<RunId>,
    link: Option<DownlinkHandle>,
    heartbeat: Option<Heartbeat>,
    /// Queries are answered with what the oracle shows.
    tells: bool,
    queries: usize,
    stream: Option<StreamId>,
    /// Told with each welcome.
    past: Option<Vec<RunSeen>>,
    greetings: usize,
    /// What it says to a tap of a lower epoch than this.
    refuse: Option<(Epoch, RefuseCode)>,
    /// So many were turned away.
    refused: usize,
    hello: Option<Hello>,
    /// The last record taken, or known of below.
    last: Option<RecordSeen>,
    /// What comes is lost on the way, and never acknowledged.
    is_deaf: bool,
    /// Not all of its gateways have answered.
    is_unsure: bool,
    lost: Vec<(Arc<Batch>, BatchDone)>,
}

impl Seen {
    fn take(&mut self, batch: &Batch) {
        self.oracle.apply(batch).unwrap();
        self.run = Some(batch.run);
        let Some(record) = batch.last_record() else { return };
        self.durable = record.position.lsn();
        self.last = Some(RecordSeen { run: batch.run, lsn: self.durable, at: record.captured_at });
    }
}

struct Stream(Arc<FakeCx>);

impl FakeCx {
    async fn listen(hub: &Hub) -> (Arc<Self>, Downlink) {
        let cx = Arc::new(Self::default());
        let downlink = cx.clone().open_on(hub).await;
        (cx, downlink)
    }

    async fn open_on(self: Arc<Self>, hub: &Hub) -> Downlink {
        let listener = Listener::bind(&cx_address(), hub).await.unwrap();
        let downlink = Downlink::new(Arc::new(Door(self)));
        downlink.listen(listener);
        downlink
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.lock().unwrap();
        loop {
            if let Some(value) = found(&seen) {
                return value;
            }
            let (guard, timeout) = self.changed.wait_timeout(seen, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "waited in vain for {what}");
            seen = guard;
        }
    }

    /// Waits until no sync is open and everything the tap gave an LSN has arrived.
    /// Of a heartbeat that is not older than this call: whatever was answered before it is in the head.
    fn wait_for_head(&self) -> Lsn {
        let asked = RealClock.wall();
        self.wait("the head", |s| {
            let beat = s.heartbeat.as_ref().filter(|beat| beat.at >= asked)?;
            let quiet = beat.status.state == TapState::Protected && beat.status.queued_bytes == 0;
            (quiet && beat.head == s.durable).then_some(s.durable)
        })
    }

    /// The tap comes again and again, and says nothing behind its greeting.
    fn wait_for_greetings_in_vain(&self, before: usize) {
        let is_in_vain = self.wait("greetings in vain", |s| {
            let speaks = s.heartbeat.is_some();
            (speaks || s.greetings > before + 1).then_some(!speaks)
        });
        assert!(is_in_vain, "it goes on as if nothing had been");
    }

    async fn ask(&self, question: Question) -> Result<Reply, cx_wire::AskError> {
        let link = self.wait("a connection", |s| s.link.clone());
        link.ask(question, PATIENCE).await
    }

    fn image(&self, lsn: Lsn) -> Vec<u8> {
        let seen = self.seen.lock().unwrap();
        seen.oracle.image_at(seen.volume.unwrap(), lsn)
    }

    fn markers(&self) -> Vec<Marker> {
        self.seen.lock().unwrap().oracle.markers().into_iter().map(|(_, _, m)| m).collect()
    }
}

struct Door(Arc<FakeCx>);

impl Intake for Door {
    fn open(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse> {
        let mut seen = self.0.seen.lock().unwrap();
        if let Some((_, code)) = seen.refuse.filter(|(epoch, _)| hello.epoch < *epoch) {
            seen.refused += 1;
            self.0.changed.notify_all();
            return Err(Refuse { code, detail: "an old copy".to_owned() });
        }
        seen.hello = Some(hello.clone());
        (seen.volume, seen.stream) = (Some(hello.volume), Some(hello.stream));
        seen.greetings += 1;
        self.0.changed.notify_all();
        let known = seen.run.is_some() && !seen.is_unsure;
        let welcome = Welcome {
            durable: seen.durable,
            durable_run: seen.run,
            known,
            credit: 16 << 20,
            store: None,
            past: seen.past.clone(),
            last: seen.last,
        };
        Ok((welcome, Arc::new(Stream(self.0.clone()))))
    }
}

impl StreamIntake for Stream {
    fn attached(&self, link: DownlinkHandle) {
        self.0.seen.lock().unwrap().link = Some(link);
        self.0.changed.notify_all();
    }

    fn batch(&self, batch: Arc<Batch>, done: BatchDone) {
        let mut seen = self.0.seen.lock().unwrap();
        if seen.is_deaf {
            seen.lost.push((batch, done));
            return self.0.changed.notify_all();
        }
        seen.take(&batch);
        done.durable(seen.durable, seen.durable);
        self.0.changed.notify_all();
    }

    fn heartbeat(&self, heartbeat: Heartbeat) {
        self.0.seen.lock().unwrap().heartbeat = Some(heartbeat);
        self.0.changed.notify_all();
    }

    /// The first two get no useful answer: one that has to be repeated, and one from before the run.
    fn query(&self, lookup: Lookup, reply: LookupReply) {
        let mut seen = self.0.seen.lock().unwrap();
        seen.queries += 1;
        let code = if seen.tells { AskCode::Timeout } else { AskCode::Failed };
        if seen.queries == 1 || !seen.tells {
            return reply.send(Err(AskError::new(code, "not now")));
        }
        let image = seen.oracle.image_at(lookup.volume, seen.durable);
        let range = lookup.extent.offset() as usize..(lookup.extent.end() as usize).min(image.len());
        let hashes = cx_delta::hashes(lookup.seed, &image[range]).into();
        let at = if seen.queries == 2 { lookup.after.previous() } else { seen.durable };
        reply.send(Ok(Hashes { at, hashes }));
    }

    fn closed(&self) {
        let mut seen = self.0.seen.lock().unwrap();
        (seen.link, seen.heartbeat) = (None, None);
        self.0.changed.notify_all();
    }
}

struct Bench {
    dir: tempfile::TempDir,
    hub: Hub,
}

impl Bench {
    fn new(content: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = std::fs::File::create(dir.path().join("disk.img")).unwrap();
        disk.write_all(content).unwrap();
        disk.set_len(SIZE as u64).unwrap();
        Self { dir, hub: Hub::new() }
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("tap.sock")
    }

    fn start(&self) -> Tap {
        self.try_start(Limits::default()).unwrap()
    }

    fn try_start(&self, limits: Limits) -> Result<Tap, tap_agent::StartError> {
        self.try_protect(vec![Protect { name: "web01".parse().unwrap(), path: self.disk() }], limits)
    }

    fn try_protect(&self, protect: Vec<Protect>, limits: Limits) -> Result<Tap, tap_agent::StartError> {
        Tap::start(TapConfig { limits, ..self.config(protect) })
    }

    fn config(&self, protect: Vec<Protect>) -> TapConfig {
        TapConfig {
            data: self.dir.path().to_owned(),
            protect,
            listen: vec![ListenAddress::Unix(self.socket())],
            nbd_limits: gateway_front::Limits::default(),
            security: gateway_front::Security::default(),
            iscsi: Vec::new(),
            admission: gateway_iscsi::Admission::default(),
            cx: cx_address(),
            hub: self.hub.clone(),
            limits: Limits::default(),
            groups: Vec::new(),
            group_interval: Duration::from_secs(1),
            profile: None,
        }
    }

    fn guest(&self) -> NbdClient<UnixStream> {
        guest(&self.socket())
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.disk()).unwrap()
    }
}

fn guest(socket: &Path) -> NbdClient<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let export = nbd::client::handshake(&mut stream, b"web01").unwrap();
    NbdClient::new(stream, &export)
}

fn write_at(guest: &mut NbdClient<UnixStream>, offset: u64, data: &[u8]) {
    guest.seek(SeekFrom::Start(offset)).unwrap();
    guest.write_all(data).unwrap();
}

fn cx_address() -> Address {
    Address::Memory("cx".to_owned())
}

fn crash_bookmark(name: &str) -> Question {
    Question::Bookmark {
        name: name.parse().unwrap(),
        consistency: Consistency::Crash,
        note: String::new(),
        wait: PATIENCE,
        group: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_is_the_disk_as_it_was_when_it_was_asked_for() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    let mut guest = bench.guest();
    write_at(&mut guest, 4096, &[1; 8192]);
    write_at(&mut guest, 10_000, &[2; 100]);
    let before = bench.content();
    let Ok(Reply::Bookmarked { lsn, .. }) = cx.ask(crash_bookmark("before")).await else {
        panic!("no bookmark")
    };
    write_at(&mut guest, 0, &[3; 65_536]);
    let head = cx.wait_for_head();
    assert!(cx.image(lsn) == before, "the bookmark shows the disk before the damage");
    assert!(cx.image(head) == bench.content(), "the head shows the disk as it is");
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_write_never_waits_for_the_network() {
    let bench = Bench::new(&[]);
    let tap = bench.start(); // there is no CX at all
    let mut guest = bench.guest();
    for i in 0..200 {
        write_at(&mut guest, i * 4096, &[i as u8; 4096]);
    }
    let mut back = vec![0; 4096];
    guest.seek(SeekFrom::Start(199 * 4096)).unwrap();
    guest.read_exact(&mut back).unwrap();
    assert_eq!(back, [199; 4096]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    drop(guest);
    tap.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_without_a_cx_loses_nothing_and_makes_no_gap() {
    let bench = Bench::new(&[]);
    let tap = bench.start();
    let mut guest = bench.guest();
    write_at(&mut guest, 0, &[5; 1 << 20]);
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await, "everything fits into the spool");
    let tap = bench.start();
    let mut guest = bench.guest();
    write_at(&mut guest, 4096, &[6; 4096]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let syncs: Vec<SyncCause> = cx
        .markers()
        .into_iter()
        .filter_map(|m| match m {
            Marker::SyncStart { cause } => Some(cause),
            Marker::RunStart(run) => run.sync,
            _ => None,
        })
        .collect();
    assert_eq!(syncs, [SyncCause::Baseline]);
    drop(guest);
    tap.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_fit_in_the_queues_goes_to_bitmap_mode_and_heals() {
    let bench = Bench::new(&[]);
    let limits = Limits { queue_bytes: 1 << 20, outbox_bytes: 1 << 20, spool_bytes: 1 << 20 };
    let tap = bench.try_start(limits).unwrap();
    let mut guest = bench.guest();
    for i in 0..SIZE as u64 / 4096 {
        // Noise, or it would all fit once it is compressed.
        let noise: Vec<u8> = (0..4096u64).map(|b| ((b * 7 + i * 13) * (b ^ i) % 251) as u8).collect();
        write_at(&mut guest, i * 4096, &noise);
    }
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let overflowed = |m: &Marker| matches!(m, Marker::SyncEnd { cause: SyncCause::Overflow, .. });
    assert!(cx.markers().iter().any(overflowed), "the gap is shown");
    drop(guest);
    tap.stop(Duration::from_secs(10)).await;
}

/// Stops the tap, changes a block behind its back and starts it again; the bytes that it then copied.
async fn copied_after_an_unwatched_change(tells: bool) -> u64 {
    let noise: Vec<u8> = (0..SIZE as u64).map(|i| (i * 7 % 251 + i / 4096 % 5) as u8).collect();
    let bench = Bench::new(&noise);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    assert!(tap.stop(Duration::from_secs(10)).await);
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    cx.seen.lock().unwrap().tells = tells;
    let mut disk = std::fs::OpenOptions::new().write(true).open(bench.disk()).unwrap();
    disk.seek(SeekFrom::Start((1 << 20) + 100)).unwrap();
    disk.write_all(&[9; 50]).unwrap();
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let resynced = cx.wait("a heartbeat", |s| s.heartbeat.as_ref().map(|h| h.status.resynced_bytes));
    let ended = cx.markers().into_iter().find_map(|m| match m {
        Marker::SyncEnd { cause: SyncCause::ChangedUnwatched, copied, .. } => Some(copied),
        _ => None,
    });
    assert_eq!(ended, Some(resynced));
    assert!(tap.stop(Duration::from_secs(10)).await);
    resynced
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_disk_changed_while_no_tap_watched_only_differences_are_copied() {
    assert_eq!(copied_after_an_unwatched_change(true).await, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_changed_while_no_tap_watched_is_copied_whole_when_nobody_tells_what_is_below() {
    assert_eq!(copied_after_an_unwatched_change(false).await, SIZE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_waits_to_hear_what_is_below_stops_at_once_and_goes_on_later() {
    let bench = Bench::new(&[3; SIZE]);
    let (cx, downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    assert!(tap.stop(Duration::from_secs(10)).await);
    downlink.stop().await;
    std::fs::OpenOptions::new().write(true).open(bench.disk()).unwrap().write_all(&[4; 4096]).unwrap();
    let tap = bench.start(); // nobody to ask
    let mut guest = bench.guest();
    write_at(&mut guest, 1 << 20, &[5; 8192]);
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await, "the sync is left open");
    cx.seen.lock().unwrap().tells = true;
    let _downlink = cx.clone().open_on(&bench.hub).await;
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let resynced = cx.wait("a heartbeat", |s| s.heartbeat.as_ref().map(|h| h.status.resynced_bytes));
    assert_eq!(resynced, 4096, "the guest's write came by itself");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// What the tap keeps of a volume, but for its spool, as a snapshot of its machine has it.
fn copy_state(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in ["state", "marks", "alive"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

impl FakeCx {
    /// A write of the present run to this block that nobody but this CX remembers; a minute later the run was heard last.
    fn take_future(&self, block: u64) {
        let mut seen = self.seen.lock().unwrap();
        let (stream, volume, run) = (seen.stream.unwrap(), seen.volume.unwrap(), seen.run.unwrap());
        let now = RealClock.wall();
        let mut future = BatchBuilder::new(stream, volume, run, seen.durable.next(), now);
        future.write(block, &[8; 4096]);
        seen.take(&future.build());
        seen.past = Some(vec![RunSeen { run, at: now.plus(Duration::from_secs(60)) }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_was_set_back_with_its_disk_compares_all_of_it_with_what_came_after() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    let (state, snapshot) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("snapshot"));
    copy_state(&state, &snapshot);
    assert!(tap.stop(Duration::from_secs(10)).await);
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    copy_state(&snapshot, &state);
    // Far from what the activity log of the snapshot marks.
    cx.take_future((5 << 20) / 4096);
    cx.seen.lock().unwrap().tells = true;
    let before = cx.seen.lock().unwrap().durable;
    assert!(cx.image(before) != bench.content());
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    let told = |m: &Marker| matches!(m, Marker::SyncStart { cause: SyncCause::ChangedUnwatched });
    assert!(cx.markers().iter().any(told), "and the gap says why");
    let resynced = cx.wait("a heartbeat", |s| s.heartbeat.as_ref().map(|h| h.status.resynced_bytes));
    assert_eq!(resynced, 0, "what differs is zero, and the rest was not sent");
    assert!(tap.stop(Duration::from_secs(10)).await);
    let seen = cx.markers().len();
    let tap = bench.start();
    cx.wait("the next run", |s| (s.oracle.markers().len() > seen).then_some(()));
    cx.wait_for_head();
    assert!(!cx.markers()[seen..].iter().any(told), "once");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// Its CX knows something of the killed run, and a gateway that is away may know more, where points may open.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_no_point_opens_before_everybody_below_has_said_what_is_there() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    let (state, snapshot) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("snapshot"));
    copy_state(&state, &snapshot);
    let (killed, before) = (RealClock.wall(), cx.seen.lock().unwrap().durable.plus(1000));
    assert!(tap.stop(Duration::from_secs(10)).await);
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    copy_state(&snapshot, &state);
    let run = {
        let mut seen = cx.seen.lock().unwrap();
        let run = seen.run.unwrap();
        (seen.is_unsure, seen.tells, seen.past) = (true, true, Some(vec![RunSeen { run, at: killed }]));
        run
    };
    let tap = bench.start();
    cx.wait("everything copied", |s| {
        let beat = s.heartbeat.as_ref().filter(|beat| beat.head == s.durable && s.durable > before)?;
        (beat.status.marked_bytes == 0).then_some(())
    });
    let Question::Bookmark { name, consistency, note, group, .. } = crash_bookmark("early") else { panic!() };
    let early = Question::Bookmark { name, consistency, note, wait: Duration::from_millis(500), group };
    assert_eq!(cx.ask(early).await.unwrap_err().code, AskCode::Conflict, "the sync is open");
    {
        let mut seen = cx.seen.lock().unwrap();
        let later = killed.plus(Duration::from_secs(60));
        (seen.is_unsure, seen.past) = (false, Some(vec![RunSeen { run, at: later }]));
    }
    cx.wait("a connection", |s| s.link.clone()).close("the gateway has answered".to_owned());
    let told = |m: &Marker| matches!(m, Marker::SyncStart { cause: SyncCause::ChangedUnwatched });
    let compared = |s: &Seen| s.oracle.markers().iter().any(|(_, _, m)| told(m));
    cx.wait("a comparison of everything", |s| compared(s).then_some(()));
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let ends = |m: &Marker| matches!(m, Marker::SyncEnd { .. });
    let markers = cx.markers();
    let (first, began) =
        (markers.iter().rposition(|m| matches!(m, Marker::RunStart(_))), markers.iter().rposition(told));
    assert!(!markers[first.unwrap()..began.unwrap()].iter().any(ends), "no point opened before");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// Tap and CX were restored from an image that was made when both were stopped; the gateway, which has what came after it, is away
/// until the tap was killed once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_tap_that_was_stopped_hears_of_the_run_that_went_on_from_there_when_it_was_killed_meanwhile()
 {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    assert!(tap.stop(Duration::from_secs(10)).await);
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    let stopped = RealClock.wall();
    {
        let mut seen = cx.seen.lock().unwrap();
        let first = RunSeen { run: seen.run.unwrap(), at: stopped };
        (seen.is_unsure, seen.tells, seen.past) = (true, true, Some(vec![first]));
    }
    let tap = bench.start();
    let begun = |s: &Seen, runs| {
        (s.oracle.markers().iter().filter(|(_, _, m)| matches!(m, Marker::RunStart(_))).count() == runs)
            .then_some(())
    };
    cx.wait("the copy's run", |s| begun(s, 2));
    let (state, killed) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("killed"));
    copy_state(&state, &killed);
    tap.stop(Duration::from_secs(10)).await;
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    copy_state(&killed, &state);
    let tap = bench.start();
    cx.wait("the next run", |s| begun(s, 3));
    {
        let mut seen = cx.seen.lock().unwrap();
        seen.is_unsure = false;
        let other = RunSeen { run: RunId::new(99), at: stopped.plus(Duration::from_secs(60)) };
        seen.past.as_mut().unwrap().push(other);
    }
    cx.wait("a connection", |s| s.link.clone()).close("the gateway has answered".to_owned());
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    let told = |m: &Marker| matches!(m, Marker::SyncStart { cause: SyncCause::ChangedUnwatched });
    assert!(cx.markers().iter().any(told), "what the other one wrote is below, wherever that was");
    assert!(tap.stop(Duration::from_secs(10)).await);
    // Its own runs are no strangers, however often it is restarted.
    let seen = cx.markers().len();
    let tap = bench.start();
    cx.wait("one more run", |s| begun(s, 4));
    cx.wait_for_head();
    assert!(!cx.markers()[seen..].iter().any(told));
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// The tap goes on as if nothing had been, with numbers that are taken below: what it would send counted as sent before.
#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_was_set_back_with_its_memory_sends_nothing_and_compares_all_when_it_is_restarted() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    // What the machine did and sent before it was set back.
    cx.take_future((5 << 20) / 4096);
    let (before, greetings) = {
        let mut seen = cx.seen.lock().unwrap();
        (seen.past, seen.tells) = (None, true);
        (seen.durable, seen.greetings)
    };
    cx.wait("a connection", |s| s.link.clone()).close("the machine is another one now".to_owned());
    write_at(&mut guest(&bench.socket()), 3 << 20, &[9; 4096]);
    cx.wait("greetings in vain", |s| (s.greetings > greetings + 1).then_some(()));
    assert_eq!(cx.seen.lock().unwrap().durable, before);
    assert!(!tap.stop(Duration::from_secs(10)).await, "nothing to go on from");
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    assert!(cx.image(before) != bench.content());
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(head > before && cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

impl FakeCx {
    /// A newer copy of the tap's state went on, in a run of its own.
    fn take_other_run(&self) {
        let mut seen = self.seen.lock().unwrap();
        let (stream, volume, run) = (seen.stream.unwrap(), seen.volume.unwrap(), RunId::new(99));
        let mut other = BatchBuilder::new(stream, volume, run, seen.durable.next(), RealClock.wall());
        let (name, size) = ("web01".parse().unwrap(), SIZE as u64);
        let (previous, durable) = (seen.run, seen.durable);
        other.mark(Marker::RunStart(RunStart { previous, durable, volume, name, size, sync: None }));
        for block in 0..5 {
            other.write(1024 + block, &[9; 4096]);
        }
        seen.take(&other.build());
        seen.tells = true;
        seen.refuse = Some((Epoch::new(2), RefuseCode::SplitHistory));
    }
}

/// A tap whose state is older than what the CX has, and that is refused for that.
async fn refused(bench: &Bench, cx: &Arc<FakeCx>, limits: Limits) -> Tap {
    let tap = bench.start();
    cx.wait_for_head();
    assert!(tap.stop(Duration::from_secs(10)).await);
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    cx.take_other_run();
    let tap = bench.try_start(limits).unwrap();
    cx.wait("a refusal", |s| (s.refused > 0).then_some(()));
    tap
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_that_is_accepted_goes_on_in_a_new_run_with_its_whole_disk_compared() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = refused(&bench, &cx, Limits::default()).await;
    let mut guest = bench.guest();
    write_at(&mut guest, 0, &[1; 300_000]);
    let above = {
        let mut seen = cx.seen.lock().unwrap();
        let above = seen.durable;
        seen.refuse = Some((Epoch::new(2), RefuseCode::BeginAnew { above, epoch: Epoch::new(2) }));
        above
    };
    let before = cx.image(above);
    cx.wait("a new run", |s| s.hello.as_ref().filter(|hello| hello.first_lsn > above).map(|_| ()));
    write_at(&mut guest, 3 << 20, &[2; 5000]);
    guest.flush().unwrap();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(cx.image(above) == before, "what was before stays");
    let hello = cx.seen.lock().unwrap().hello.clone().unwrap();
    assert_eq!((hello.first_lsn, hello.epoch), (above.next(), Epoch::new(2)));
    let begins =
        |m: &Marker| matches!(m, Marker::RunStart(run) if run.sync == Some(SyncCause::ChangedUnwatched));
    assert_eq!(cx.markers().iter().filter(|m| begins(m)).count(), 1);
    let told = format!("restored-{}", above.next().get());
    let says = |m: &Marker| matches!(m, Marker::Bookmark(mark) if mark.name.as_str() == told);
    cx.wait("the bookmark", |s| s.oracle.markers().iter().any(|(_, _, m)| says(m)).then_some(()));
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await);
    // It is the copy that goes on from here.
    let seen = cx.markers().len();
    let tap = bench.start();
    cx.wait("the next run", |s| (s.oracle.markers().len() > seen).then_some(()));
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content() && !cx.markers()[seen..].iter().any(begins));
    assert!(tap.stop(Duration::from_secs(10)).await);
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_all(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_tap_spooled_before_it_was_killed_does_not_have_it_refused_for_ever() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let limits = Limits { outbox_bytes: 256 << 10, ..Limits::default() };
    let tap = refused(&bench, &cx, limits).await;
    let mut guest = bench.guest();
    let (state, killed) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("killed"));
    // Some fifteen records are more than the newer copy wrote.
    write_until_spooled(&bench, &mut guest);
    copy_all(&state, &killed);
    drop(guest);
    tap.stop(Duration::from_secs(10)).await;
    std::fs::remove_dir_all(&state).unwrap();
    copy_all(&killed, &state);
    cx.seen.lock().unwrap().refuse = None;
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// Writes noise in single blocks, no faster than the spool takes it (what finds no room is marked instead), until a file of it is there.
fn write_until_spooled(bench: &Bench, guest: &mut NbdClient<UnixStream>) {
    let spool = bench.dir.path().join("tap/web01/spool");
    let noise: Vec<u8> = (0..64 << 10).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let holds = |path: &Path| std::fs::read(path).unwrap().iter().filter(|byte| **byte != 0).count() > 60_000;
    let files = || std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().path());
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    for (piece, content) in (0u64..).zip(noise.chunks(4096).cycle()) {
        write_at(guest, (piece % 512) << 12, content);
        guest.flush().unwrap();
        if files().any(|file| holds(&file)) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "it waits on the disk");
    }
}

/// The run that was set back goes on in its spool with numbers that are taken below up to somewhere, and are not from there on. The
/// latter would have looked like what came next.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_sends_nothing_that_a_tap_that_was_set_back_with_its_memory_spooled() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.try_start(Limits { outbox_bytes: 256 << 10, ..Limits::default() }).unwrap();
    cx.wait_for_head();
    downlink.stop().await;
    cx.take_future((5 << 20) / 4096);
    let before = {
        let mut seen = cx.seen.lock().unwrap();
        (seen.past, seen.tells) = (None, true);
        seen.durable
    };
    let mut guest = bench.guest();
    write_until_spooled(&bench, &mut guest);
    let greetings = cx.seen.lock().unwrap().greetings;
    let _downlink = cx.clone().open_on(&bench.hub).await;
    cx.wait("greetings in vain", |s| (s.greetings > greetings + 1).then_some(()));
    // One that has not heard of its gateways yet knows less, which makes it no better.
    let future = std::mem::replace(&mut cx.seen.lock().unwrap().durable, Lsn::ZERO.next());
    let greetings = cx.seen.lock().unwrap().greetings;
    cx.wait("more in vain", |s| (s.greetings > greetings + 1).then_some(()));
    assert_eq!(std::mem::replace(&mut cx.seen.lock().unwrap().durable, future), Lsn::ZERO.next());
    drop(guest);
    assert!(!tap.stop(Duration::from_secs(10)).await, "nothing to go on from");
    cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    let next = {
        let seen = cx.seen.lock().unwrap();
        let begins = seen.hello.as_ref().unwrap().first_lsn;
        (seen.oracle.lsns().into_iter().find(|lsn| *lsn > before), begins)
    };
    assert_eq!(next.0, Some(next.1), "nothing comes between what was there and the next run");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// A machine was set back with its memory, and its tap sent a few records into the connection of before, which was dead, until it
/// noticed: as many as the given-up future has, or more. How far that goes.
async fn send_into_a_dead_connection(bench: &Bench, cx: &Arc<FakeCx>, down: Downlink, records: u64) -> Lsn {
    cx.wait_for_head();
    cx.seen.lock().unwrap().is_deaf = true;
    let mut guest = bench.guest();
    for n in 0..records {
        write_at(&mut guest, (3 << 20) + n * 4096, &[9; 4096]);
        guest.flush().unwrap();
        cx.wait("records that are lost", |s| (s.lost.len() as u64 > n).then_some(()));
    }
    cx.seen.lock().unwrap().lost.clear();
    down.stop().await;
    cx.take_future((5 << 20) / 4096);
    let mut seen = cx.seen.lock().unwrap();
    (seen.past, seen.is_deaf, seen.tells) = (None, false, true);
    seen.durable
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_was_set_back_with_its_memory_is_noticed_however_much_it_sent_into_a_dead_connection() {
    for records in [1, 3] {
        let bench = Bench::new(&[7; 100_000]);
        let (cx, downlink) = FakeCx::listen(&bench.hub).await;
        let tap = bench.start();
        let before = send_into_a_dead_connection(&bench, &cx, downlink, records).await;
        let greetings = cx.seen.lock().unwrap().greetings;
        let _downlink = cx.clone().open_on(&bench.hub).await;
        cx.wait_for_greetings_in_vain(greetings);
        assert_eq!(cx.seen.lock().unwrap().durable, before, "nothing is sent");
        assert!(!tap.stop(Duration::from_secs(10)).await, "nothing to go on from");
        cx.wait("the end of the connection", |s| s.link.is_none().then_some(()));
        let tap = bench.start();
        let head = cx.wait_for_head();
        assert!(head > before && cx.image(head) == bench.content(), "the head is the disk as it is");
        assert!(tap.stop(Duration::from_secs(10)).await);
    }
}

/// What the future sent waits in the CX's memory: durable is no more than before, and what the tap sends would be taken for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_was_set_back_hears_of_what_the_cx_has_taken_in_and_not_acknowledged() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    send_into_a_dead_connection(&bench, &cx, downlink, 1).await;
    let greetings = {
        let mut seen = cx.seen.lock().unwrap();
        seen.durable = seen.durable.previous();
        seen.greetings
    };
    let _downlink = cx.clone().open_on(&bench.hub).await;
    cx.wait_for_greetings_in_vain(greetings);
    assert!(!tap.stop(Duration::from_secs(10)).await, "nothing to go on from");
}

/// It is stopped before it hears of that, and leaves its records in the spool.
#[tokio::test(flavor = "multi_thread")]
async fn the_spool_of_a_tap_that_was_set_back_with_its_memory_and_stopped_is_not_taken_for_what_is_below() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    downlink.stop().await;
    cx.take_future((5 << 20) / 4096);
    {
        let mut seen = cx.seen.lock().unwrap();
        (seen.past, seen.tells) = (None, true);
    }
    let mut guest = bench.guest();
    for n in 0..3 {
        write_at(&mut guest, (3 << 20) + n * 4096, &[9; 4096]);
        guest.flush().unwrap();
    }
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await, "everything fits into the spool");
    let _downlink = cx.clone().open_on(&bench.hub).await;
    let tap = bench.start();
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// A connection that is lost with records on their way is no set-back, whatever of them arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_tap_whose_connection_was_lost_goes_on_whatever_of_it_arrived() {
    for arrived in [0, 1, 3] {
        let bench = Bench::new(&[7; 100_000]);
        let (cx, downlink) = FakeCx::listen(&bench.hub).await;
        let tap = bench.start();
        cx.wait_for_head();
        cx.seen.lock().unwrap().is_deaf = true;
        let mut guest = bench.guest();
        for n in 0..3u64 {
            write_at(&mut guest, (3 << 20) + n * 4096, &[9; 4096]);
            guest.flush().unwrap();
            cx.wait("records on their way", |s| (s.lost.len() as u64 > n).then_some(()));
        }
        let lost = std::mem::take(&mut cx.seen.lock().unwrap().lost);
        downlink.stop().await;
        {
            let mut seen = cx.seen.lock().unwrap();
            lost.iter().take(arrived).for_each(|(batch, _)| seen.take(batch));
            seen.is_deaf = false;
        }
        drop(lost);
        let _downlink = cx.clone().open_on(&bench.hub).await;
        let head = cx.wait_for_head();
        assert!(cx.image(head) == bench.content());
        drop(guest);
        assert!(tap.stop(Duration::from_secs(10)).await);
    }
}

/// A tap that was heard, and then wrote what nobody heard of.
async fn unheard(bench: &Bench) -> (Arc<FakeCx>, Tap) {
    let (cx, downlink) = FakeCx::listen(&bench.hub).await;
    let tap = bench.start();
    cx.wait_for_head();
    downlink.stop().await;
    write_at(&mut bench.guest(), 3 << 20, &[9; 8192]);
    (cx, tap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_is_gone_is_missed_and_everything_copied() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, tap) = unheard(&bench).await;
    assert!(tap.stop(Duration::from_secs(10)).await, "everything fits into the spool");
    std::fs::remove_dir_all(bench.dir.path().join("tap/web01/spool")).unwrap();
    let tap = bench.start();
    let _downlink = cx.clone().open_on(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    let lost = |m: &Marker| matches!(m, Marker::SyncStart { cause: SyncCause::HopLost });
    assert!(cx.markers().iter().any(lost), "and the gap is shown");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// The run that was to ask for it is killed while nobody is there to be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_is_gone_is_missed_by_the_run_after_the_next_as_well() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, tap) = unheard(&bench).await;
    assert!(tap.stop(Duration::from_secs(10)).await, "everything fits into the spool");
    let (state, killed) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("killed"));
    std::fs::remove_dir_all(state.join("spool")).unwrap();
    let tap = bench.start();
    copy_state(&state, &killed);
    tap.stop(Duration::from_secs(10)).await;
    std::fs::remove_dir_all(state.join("spool")).unwrap();
    copy_state(&killed, &state);
    cx.seen.lock().unwrap().tells = true;
    let tap = bench.start();
    let _downlink = cx.clone().open_on(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

/// What waited in memory when a tap was killed, and its activity log is lost or damaged: the rest says nothing of it.
async fn killed_without_its_activity_log(harm: fn(&Path)) {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, tap) = unheard(&bench).await;
    let (kept, killed) = (bench.dir.path().join("tap/web01"), bench.dir.path().join("killed"));
    copy_state(&kept, &killed);
    assert!(tap.stop(Duration::from_secs(10)).await);
    copy_state(&killed, &kept);
    std::fs::remove_dir_all(kept.join("spool")).unwrap();
    harm(&kept.join("marks"));
    cx.seen.lock().unwrap().tells = true;
    let tap = bench.start();
    let _downlink = cx.clone().open_on(&bench.hub).await;
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content(), "the head is the disk as it is");
    assert!(tap.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_tap_whose_activity_log_is_gone_compares_all_of_its_disk() {
    killed_without_its_activity_log(|log| std::fs::remove_file(log).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_tap_whose_activity_log_is_damaged_serves_its_disk_and_compares_all_of_it() {
    killed_without_its_activity_log(|log| std::fs::write(log, [3; 12288]).unwrap()).await;
    killed_without_its_activity_log(|log| std::fs::write(log, [0; 12288]).unwrap()).await;
    killed_without_its_activity_log(|log| std::fs::write(log, []).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_shrunk_disk_is_refused_with_what_to_do() {
    let bench = Bench::new(&[1; 8192]);
    let tap = bench.start();
    tap.stop(Duration::from_secs(10)).await;
    std::fs::OpenOptions::new().write(true).open(bench.disk()).unwrap().set_len(4096).unwrap();
    let refused = bench.try_start(Limits::default()).err().unwrap().to_string();
    assert!(refused.contains("shrunk") && refused.contains("give it its old size back"), "{refused}");
    std::fs::remove_file(bench.disk()).unwrap();
    let refused = bench.try_start(Limits::default()).err().unwrap().to_string();
    assert!(refused.contains("does not exist"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_has_one_tap_at_a_time_and_the_next_one_once_it_has_stopped() {
    let bench = Bench::new(&[1; 8192]);
    let first = bench.start();
    let mut guest = bench.guest();
    write_at(&mut guest, 4096, &[2; 4096]);
    // A tap of its own in all but the disk; it is to protect another one before, which it must not keep.
    let second = Bench::new(&[]);
    let disk = |name: &str, path| Protect { name: name.parse().unwrap(), path };
    let both = [disk("own", second.disk()), disk("web01", bench.disk())];
    let refused = second.try_protect(both.to_vec(), Limits::default()).err().unwrap();
    assert!(refused.is_in_use(), "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains(&std::process::id().to_string()) && said.contains("cannot protect web01"),
        "{said}"
    );
    let own = second.try_protect(vec![disk("own", second.disk())], Limits::default()).unwrap();
    assert!(own.stop(Duration::from_secs(10)).await);
    // The guest and the tap itself still have it open, but write to it no more.
    assert!(first.stop(Duration::from_secs(10)).await);
    let now = second.try_protect(vec![disk("web01", bench.disk())], Limits::default()).unwrap();
    assert!(bench.try_start(Limits::default()).err().unwrap().is_in_use());
    assert!(now.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_protected_later_is_used_and_journalled_like_the_first() {
    let bench = Bench::new(&[7; 100_000]);
    let (cx, _downlink) = FakeCx::listen(&bench.hub).await;
    let tap = Tap::start(bench.config(Vec::new())).unwrap();
    let what = Protect { name: "web01".parse().unwrap(), path: bench.disk() };
    let volume = tap.protect(&what).unwrap();
    assert_eq!(tap.volumes(), [volume]);
    assert!(matches!(tap.protect(&what), Err(tap_agent::StartError::Twice(_))));
    let mut guest = bench.guest();
    write_at(&mut guest, 4096, &[1; 8192]);
    let head = cx.wait_for_head();
    assert!(cx.image(head) == bench.content());
    drop(guest);
    assert!(tap.stop(Duration::from_secs(10)).await);
    let other = Protect { name: "web02".parse().unwrap(), path: bench.disk() };
    assert!(matches!(tap.protect(&other), Err(tap_agent::StartError::Stopping)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_is_refused_with_what_to_do() {
    let bench = Bench::new(&[]);
    let refused = |groups: &[(&str, &[&str])]| {
        let group = |(name, members): &(&str, &[&str])| GroupOf {
            name: name.parse().unwrap(),
            members: members.iter().map(|m| m.parse().unwrap()).collect(),
        };
        let disk = |name: &str| Protect { name: name.parse().unwrap(), path: bench.dir.path().join(name) };
        let groups = groups.iter().map(group).collect();
        let config = TapConfig { groups, ..bench.config(vec![disk("a"), disk("b"), disk("c")]) };
        Tap::start(config).err().unwrap().to_string()
    };
    assert!(refused(&[("g", &["a", "elsewhere"])]).contains("of one tap, each given with --protect"));
    assert!(refused(&[("g", &["a"])]).contains("give 2 to 64"));
    assert!(refused(&[("g", &["a", "a"])]).contains("a is in a group already"));
    assert!(refused(&[("g", &["a", "b"]), ("h", &["b", "c"])]).contains("b is in a group already"));
    assert!(refused(&[("g", &["a", "b"]), ("g", &["a", "c"])]).contains("given twice"));
    assert!(
        refused(&[("g", &["a", "b"])]).contains("does not exist"),
        "the groups are right, the disks are not"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn barriers_are_put_over_a_group_with_nobody_to_send_them_to() {
    let bench = Bench::new(&[]);
    let disk = |name: &str| {
        let path = bench.dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(SIZE as u64).unwrap();
        Protect { name: name.parse().unwrap(), path }
    };
    let config = TapConfig {
        groups: vec![GroupOf {
            name: "db".parse().unwrap(),
            members: vec!["web01".parse().unwrap(), "web02".parse().unwrap()],
        }],
        group_interval: Duration::from_millis(1),
        ..bench.config(vec![disk("web01"), disk("web02")])
    };
    let tap = Tap::start(config).unwrap();
    let made = || tap.groups().next().map(|(_, barriers)| barriers.made).unwrap();
    let mut guest = bench.guest();
    for n in 0..5u64 {
        let before = made();
        // A part of a block: it is answered with its LSN like all others.
        while made() == before {
            write_at(&mut guest, n * 512, &[n as u8 + 1; 512]);
        }
    }
    drop(guest);
    assert_eq!(tap.groups().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["db"]);
    assert!(tap.stop(Duration::from_secs(10)).await);
}
