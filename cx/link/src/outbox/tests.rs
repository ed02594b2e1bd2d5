//! The driver with its thread: groups reach the disk, come back, survive kills; a bad disk is reported.

use std::sync::mpsc;

use tap_disk::{MemoryDir, PoolOptions, RealClock, SegmentPool};
use tempfile::TempDir;

use super::spool::tests::batch;
use super::*;

const A: ConsumerNo = ConsumerNo::new(0);
const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn config(dir: Option<PathBuf>) -> DriverConfig {
    DriverConfig {
        dir,
        segment_len: 256 << 10,
        consumers: 1,
        retry: Duration::from_millis(20),
        outbox: Config {
            memory_limit: MIB,
            spill_after: Some(Duration::from_millis(20)),
            spill_above: MIB / 2,
            disk_limit: 8 * MIB,
            read_ahead: 64 << 10,
            detect_holes: true,
        },
    }
}

/// Remembers what it is told, and lets a test wait for it.
#[derive(Default)]
struct Watcher {
    seen: Mutex<(Reached, Lsn, Vec<Hole>)>,
    changed: Condvar,
}

impl OutboxObserver for Watcher {
    fn progress(&self, durable: Reached, everywhere: Lsn) {
        let mut seen = self.seen.lock().unwrap();
        seen.0 = seen.0.max(durable);
        seen.1 = seen.1.max(everywhere);
        self.changed.notify_all();
    }

    fn hole(&self, hole: Hole) {
        self.seen.lock().unwrap().2.push(hole);
        self.changed.notify_all();
    }
}

impl Watcher {
    fn wait(&self, what: impl Fn(&(Reached, Lsn, Vec<Hole>)) -> bool) {
        let seen = self.seen.lock().unwrap();
        let (seen, late) = self.changed.wait_timeout_while(seen, SOON, |seen| !what(seen)).unwrap();
        assert!(!late.timed_out(), "{seen:?}");
    }

    fn wait_durable(&self, n: u64) {
        self.wait(|seen| seen.0.lsn.get() >= n);
    }
}

struct World {
    folder: TempDir,
    watcher: Arc<Watcher>,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), watcher: Arc::default() }
    }

    fn open(&self) -> Arc<OutboxDriver> {
        self.open_with(|_| {})
    }

    fn open_with(&self, change: impl FnOnce(&mut DriverConfig)) -> Arc<OutboxDriver> {
        let mut config = config(Some(self.folder.path().join("spool")));
        change(&mut config);
        OutboxDriver::open(config, Arc::new(RealClock), self.watcher.clone()).unwrap()
    }

    fn over(&self, dir: &MemoryDir) -> Arc<OutboxDriver> {
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let pool = SegmentPool::over(Box::new(dir.clone()), 256 << 10, options).unwrap();
        let spool = Spool::over(pool, &self.folder.path().join("mark")).unwrap();
        OutboxDriver::over(config(None), Some(spool), Arc::new(RealClock), self.watcher.clone()).unwrap()
    }
}

fn welcome(durable: u64) -> Welcome {
    let run = (durable > 0).then_some(tap_block::RunId::new(7));
    Welcome {
        durable: lsn(durable),
        durable_run: run,
        known: durable > 0,
        credit: MIB,
        store: None,
        past: None,
        last: None,
    }
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n).unwrap()
}

/// The next batch, also when it has to be read from disk first.
fn take(driver: &OutboxDriver) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        loop {
            if let Some(batch) = driver.next(A) {
                return batch.first_lsn.get();
            }
            tokio::time::timeout(SOON, driver.changed(A).notified()).await.unwrap();
        }
    })
}

#[test]
fn what_is_acknowledged_at_once_is_done_at_once_and_writes_nothing() {
    let world = World::new();
    let driver = world.open_with(|c| c.outbox.spill_after = Some(SOON));
    driver.ready(A, &welcome(0));
    let (done, is_done) = mpsc::channel();
    for n in 1..=3 {
        let done = done.clone();
        driver.push_with(batch(n, 100), Box::new(move |d, e| done.send((n, d.lsn, e)).unwrap())).unwrap();
    }
    assert_eq!((take(&driver), take(&driver), take(&driver)), (1, 2, 3));
    driver.acked(A, 2, lsn(2), lsn(2));
    assert_eq!(is_done.try_iter().collect::<Vec<_>>(), [(1, lsn(2), lsn(2)), (2, lsn(2), lsn(2))]);
    driver.acked(A, 1, lsn(3), lsn(3));
    assert_eq!(is_done.try_iter().count(), 1);
    assert!(driver.is_drained());
    assert!(driver.stop(Spilling::Nothing));
    let files = std::fs::read_dir(world.folder.path().join("spool")).unwrap();
    let names: Vec<_> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["mark"], "no spool file was made");
}

#[test]
fn what_nobody_takes_is_durable_on_disk_and_comes_back_after_a_kill() {
    let world = World::new();
    let driver = world.open();
    let (done, is_done) = mpsc::channel();
    for n in 1..=50 {
        let done = done.clone();
        driver.push_with(batch(n, 3000), Box::new(move |_, _| done.send(n).unwrap())).unwrap();
    }
    world.watcher.wait_durable(50);
    for n in 1..=50 {
        assert_eq!(is_done.recv_timeout(SOON).unwrap(), n);
    }
    drop(driver);
    let driver = world.open();
    assert_eq!(driver.head(), lsn(50));
    let durable = driver.durable();
    assert_eq!((durable.lsn, durable.run), (lsn(50), Some(tap_block::RunId::new(7))));
    assert!(durable.at.is_some(), "a record that was spooled is known with its time");
    driver.push(batch(51, 3000)).unwrap();
    driver.ready(A, &welcome(10));
    let got: Vec<_> = (0..41).map(|_| take(&driver)).collect();
    assert_eq!(got, (11..=51).collect::<Vec<_>>());
    driver.acked(A, 41, lsn(51), lsn(51));
    assert!(driver.is_drained());
    assert!(driver.stop(Spilling::Nothing));
    assert!(world.open().is_drained(), "nothing of it is left");
}

#[test]
fn a_kill_at_any_moment_leaves_what_was_durable() {
    for pushed in [1, 7, 30, 90] {
        let world = World::new();
        let driver = world.open_with(|c| c.outbox.spill_after = Some(Duration::ZERO));
        for n in 1..=pushed {
            driver.push(batch(n, 2000)).unwrap();
        }
        world.watcher.wait_durable(1);
        let durable = driver.durable().lsn;
        drop(driver);
        let driver = world.open();
        assert!(driver.head() >= durable && driver.head().get() <= pushed);
        driver.ready(A, &welcome(0));
        for n in 1..=durable.get() {
            assert_eq!(take(&driver), n);
        }
    }
}

#[test]
fn a_long_backlog_goes_through_a_small_memory() {
    let world = World::new();
    let driver = world.open_with(|c| c.outbox.memory_limit = 64 << 10);
    let mut n = 1;
    while n <= 300 {
        match driver.push(batch(n, 4000)) {
            Ok(_) => n += 1,
            Err(Full) => world.watcher.wait_durable(n - 1),
        }
    }
    world.watcher.wait_durable(300);
    let status = driver.status().queue;
    assert!(status.spooled_bytes > 300 * 4000 && status.memory_bytes == 0, "{status:?}");
    driver.ready(A, &welcome(0));
    for n in 1..=300 {
        assert_eq!(take(&driver), n);
        driver.acked(A, 1, lsn(n), lsn(n));
    }
    assert!(driver.is_drained());
}

#[test]
fn a_clean_stop_puts_everything_on_disk() {
    let world = World::new();
    let driver = world.open_with(|c| c.outbox.spill_after = None);
    for n in 1..=20 {
        driver.push(batch(n, 1000)).unwrap();
    }
    assert_eq!(driver.durable().lsn, lsn(0));
    assert!(driver.stop(Spilling::Everything { limit: SOON }));
    assert_eq!(world.open().head(), lsn(20));
}

#[test]
fn without_a_disk_a_stop_says_that_something_is_left() {
    let driver = OutboxDriver::open(config(None), Arc::new(RealClock), Arc::new(Watcher::default())).unwrap();
    driver.push(batch(1, 100)).unwrap();
    assert!(!driver.stop(Spilling::Everything { limit: SOON }));
}

#[test]
fn a_failing_disk_is_reported_and_tried_again() {
    let world = World::new();
    let dir = MemoryDir::new();
    let driver = world.over(&dir);
    dir.fail_syncs(true);
    driver.push(batch(1, 1000)).unwrap();
    let state = driver.shared.lock();
    let wait = driver.shared.settled.wait_timeout_while(state, SOON, |s| s.problem.is_none()).unwrap();
    assert!(!wait.1.timed_out());
    drop(wait);
    assert!(driver.status().problem.unwrap().contains("free space or repair"));
    assert_eq!(driver.durable().lsn, lsn(0), "nothing counts that is not on the disk");
    dir.fail_syncs(false);
    world.watcher.wait_durable(1);
    assert_eq!(driver.status().problem, None);
}

#[test]
fn a_full_disk_makes_the_queue_full_and_room_comes_back() {
    let world = World::new();
    let dir = MemoryDir::new();
    dir.set_capacity(256 << 10);
    let driver = world.over(&dir);
    let mut n = 1;
    while driver.push(batch(n, 4000)).is_ok() || driver.status().queue.memory_bytes < MIB / 2 {
        n += 1;
        assert!(n < 10_000, "{:?}", driver.status());
    }
    assert_eq!(driver.push(batch(n, 4000)), Err(Full));
    driver.ready(A, &welcome(0));
    assert_eq!(take(&driver), 1, "what is there can be sent");
    dir.set_capacity(1 << 30);
    world.watcher.wait(|seen| seen.0.lsn.get() + 2 >= n);
    assert!(driver.room() > MIB / 2);
}

#[test]
fn an_item_that_cannot_be_read_back_is_told_as_a_hole() {
    let world = World::new();
    let dir = MemoryDir::new();
    let driver = world.over(&dir);
    for n in 1..=3 {
        driver.push(batch(n, 1000)).unwrap();
    }
    world.watcher.wait_durable(3);
    drop(driver);
    let driver = world.over(&dir);
    dir.fail_reads(true);
    driver.ready(A, &welcome(1));
    assert!(driver.next(A).is_none());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        while driver.next(A).is_none() && driver.view(A).unwrap().broken_after.is_none() {
            tokio::time::timeout(SOON, driver.changed(A).notified()).await.unwrap();
        }
    });
    world.watcher.wait(|seen| seen.2 == [Hole { consumer: A, after: lsn(1) }]);
}

#[test]
fn what_can_never_be_durable_is_dropped_not_done() {
    struct Dropped(mpsc::Sender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let world = World::new();
    let driver = world.open_with(|c| c.outbox.spill_after = None);
    let (sender, dropped) = mpsc::channel();
    let token = Dropped(sender);
    driver
        .push_with(
            batch(1, 100),
            Box::new(move |_, _| panic!("never done: {}", std::mem::size_of_val(&token))),
        )
        .unwrap();
    assert!(dropped.try_recv().is_err());
    driver.stop(Spilling::Nothing);
    dropped.recv_timeout(SOON).unwrap();
}
