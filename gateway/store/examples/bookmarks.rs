//! What many bookmarks cost a store: memory, commits, settling and the next start.
//!
//! ```text
//! cargo run --release -p gateway-store --example bookmarks -- make DIR 1000000
//! cargo run --release -p gateway-store --example bookmarks -- open DIR
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "an example"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use gateway_journal::{MetaRecord, RetentionPolicy};
use gateway_store::{Store, StoreConfig};
use tap_block::{
    Batch, Bookmark, Clock, Consistency, Lsn, Marker, Monotonic, RunId, RunStart, StreamId, VolumeId,
    WallTime,
};
use testbed_model::BatchBuilder;

const STREAM: StreamId = StreamId::new(5);
const VOLUME: VolumeId = VolumeId::new(6);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Moves when it is told to.
struct ManualClock(AtomicU64);

impl ManualClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> WallTime {
        WallTime::from_nanos(1_700_000_000_000_000_000 + self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir.to_owned());
    (config.settle_each, config.scrub_rate, config.ledger_each) = (None, None, None);
    (config.cold, config.keep_free) = (None, 0);
    if let Some(mib) = std::env::var("SEGMENT_MIB").ok().and_then(|v| v.parse::<u32>().ok()) {
        config.segment_len = mib << 20;
    }
    config
}

/// MiB resident now, and at most so far.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    format!("{} MiB resident, {} at most", of("VmRSS"), of("VmHWM"))
}

/// Milliseconds of processor time so far.
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.split_whitespace().collect();
    (fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()) * 10
}

struct Life {
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    next: Lsn,
    named: u64,
}

impl Life {
    fn open(dir: &Path, at: Duration) -> Self {
        let clock = Arc::new(ManualClock(AtomicU64::new(u64::try_from(at.as_nanos()).unwrap())));
        let begun = Instant::now();
        let store = Store::open(config(dir), Arc::clone(&clock) as _).unwrap();
        println!("open: {} ms ({} of the processor), {}", begun.elapsed().as_millis(), cpu(), resident());
        let next = store.durable(STREAM).map_or(Lsn::new(1).unwrap(), |d| d.lsn.next());
        let named = store.catalogue().volume(VOLUME).map_or(0, |v| v.bookmark_count() as u64);
        Self { store, clock, next, named }
    }

    fn build(&mut self, fill: impl FnOnce(&mut BatchBuilder)) -> Batch {
        let now = self.clock.wall();
        let mut to = BatchBuilder::new(STREAM, VOLUME, RunId::new(1), self.next, now);
        fill(&mut to);
        self.next = to.next_lsn();
        to.build()
    }

    fn append(&self, batch: Batch) {
        let (sender, done) = channel();
        self.store.append(batch, Box::new(move |outcome| drop(sender.send(outcome))));
        done.recv().unwrap().unwrap();
    }

    fn start(&mut self) {
        let name = "web01".parse().unwrap();
        let (previous, durable, sync, size) = (None, Lsn::ZERO, None, 64 << 20);
        let start = RunStart { previous, durable, volume: VOLUME, name, size, sync };
        let batch = self.build(|to| {
            to.mark(Marker::RunStart(start)).write(0, &[1; 4096]);
        });
        self.append(batch);
    }

    fn bookmarks(&mut self, n: u64) {
        let first = self.named;
        self.named += n;
        let batch = self.build(|to| {
            for n in first..first + n {
                // In no order, as most names are.
                let name = format!("job-{:08x}-{n:07}", n.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF);
                let (name, consistency, note) = (name.parse().unwrap(), Consistency::Crash, String::new());
                to.mark(Marker::Bookmark(Bookmark { name, consistency, note }));
                to.write(n % 1000, &[n as u8; 512]);
            }
        });
        self.append(batch);
    }

    fn write(&mut self) {
        let batch = self.build(|to| {
            to.write(7, &[3; 4096]);
        });
        self.append(batch);
    }

    fn rule(&self, record: MetaRecord) {
        let (sender, done) = channel();
        self.store.record(record, Box::new(move |outcome| drop(sender.send(outcome))));
        done.recv().unwrap().unwrap();
    }

    /// The median commit of one bookmark more.
    fn commits(&mut self) {
        let mut took: Vec<Duration> = (0..101)
            .map(|_| {
                let begun = Instant::now();
                self.bookmarks(1);
                begun.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("commit: {} us median, {} us worst of 101", took[50].as_micros(), took[100].as_micros());
    }

    fn settle(&self, what: &str) {
        let mut passes = 0;
        loop {
            let (begun, cpu_before) = (Instant::now(), cpu());
            let made = self.store.settle().unwrap();
            let (took, cpu) = (begun.elapsed().as_millis(), cpu() - cpu_before);
            let made = made.map(|m| (m.groups, m.bytes_written));
            println!("{what}: {took} ms ({cpu} of the processor), {made:?}, {}", resident());
            passes += 1;
            if made.is_none() || passes > 50 {
                return;
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = Path::new(&args[2]);
    if args[1] == "open" {
        let mut life = Life::open(dir, 40 * DAY);
        life.write();
        println!("{} bookmarks", life.named);
        life.settle("pass");
        return;
    }
    let n: u64 = args[3].parse().unwrap();
    std::fs::create_dir_all(dir).unwrap();
    let mut life = Life::open(dir, Duration::ZERO);
    let policy = RetentionPolicy {
        every_write: Duration::from_secs(10),
        tiers: Vec::new(),
        bookmarks: 365 * DAY,
        ..RetentionPolicy::default()
    };
    life.rule(MetaRecord::PolicySet { volume: None, policy: Some(policy) });
    life.start();
    life.commits();
    let begun = Instant::now();
    while life.named < n {
        life.bookmarks(500.min(n - life.named));
        life.clock.advance(Duration::from_millis(50));
    }
    println!("{n} bookmarks: {} ms, {}", begun.elapsed().as_millis(), resident());
    life.commits();
    life.clock.advance(DAY);
    life.write();
    life.settle("settled at first");
    for _ in 0..3 {
        life.bookmarks(10);
        life.clock.advance(DAY);
        life.settle("pass");
    }
    life.commits();
    println!("end: {}", resident());
    let Life { store, .. } = life;
    store.stop();
}
