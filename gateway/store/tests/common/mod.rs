//! A store on memory, and reading whole images out of it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

pub mod files;
pub mod lab;
pub mod steps;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_journal::RegionNo;
use gateway_store::{
    Cold, FreeSpace, MemoryIndex, MemoryLedger, MemoryMark, Offered, Parts, ReadMode, Repair, Store,
    StoreConfig, StoreError, UnitRead,
};
use tap_block::stored::UNIT;
use tap_block::{Batch, BlockNo, Clock, Lsn, Monotonic, Position, VolumeId, WallTime};
use tap_disk::{MemoryDir, PoolOptions, SegmentDir as _, SegmentPool};

/// A clock that moves a millisecond each time it is asked.
#[derive(Debug, Default)]
pub struct StepClock(Mutex<u64>);

impl Clock for StepClock {
    fn wall(&self) -> WallTime {
        let mut now = self.0.lock().unwrap();
        *now += 1_000_000;
        WallTime::from_nanos(1_700_000_000_000_000_000 + *now)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(*self.0.lock().unwrap())
    }
}

/// A clock that moves when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<u64>);

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += u64::try_from(by.as_nanos()).unwrap();
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> WallTime {
        WallTime::from_nanos(1_700_000_000_000_000_000 + *self.0.lock().unwrap())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_nanos(*self.0.lock().unwrap())
    }
}

/// Everything that outlives a store.
#[derive(Clone)]
pub struct Disk {
    pub dir: MemoryDir,
    pub index: MemoryIndex,
    pub mark: Arc<MemoryMark>,
    pub manifest: Arc<MemoryMark>,
    pub proofs: Arc<MemoryMark>,
    pub ledger: MemoryLedger,
    pub clock: Arc<dyn Clock>,
    pub config: StoreConfig,
    /// Bytes that segment files may take together; `None`: as many as they like.
    pub capacity: Option<Arc<AtomicU64>>,
}

impl Disk {
    /// Small segments and groups, so that little history meets every boundary.
    pub fn small() -> Self {
        let mut config = StoreConfig::new("/nowhere".into());
        config.segment_len = 512 << 10;
        config.group_versions = 40;
        config.least_ahead = 1;
        config.checkpoint_versions = 60;
        config.spare_segments = 0;
        config.settle_each = None;
        // What a crash leaves is what is to be found again.
        config.index_at_stop = false;
        config.cold = Some(Cold {
            after: Duration::from_secs(500),
            unread: Duration::from_secs(100),
            pause: Duration::ZERO,
        });
        config.scrub_rate = None;
        config.ledger_each = None;
        config.settle_reserve = 0;
        // Settled history is gone through in many passes.
        config.settle_at_once = 32 << 10;
        let clock = Arc::new(StepClock::default());
        let (mark, manifest, proofs) = (Arc::default(), Arc::default(), Arc::default());
        let (dir, index, ledger) = (MemoryDir::new(), MemoryIndex::new(), MemoryLedger::default());
        Self { dir, index, mark, manifest, proofs, ledger, clock, config, capacity: None }
    }

    /// From here on others leave so many bytes of the disk to segment files.
    pub fn leave(&mut self, bytes: u64) {
        self.dir.set_capacity(bytes);
        self.capacity.get_or_insert_default().store(bytes, Ordering::SeqCst);
    }

    /// Bytes that segment files take.
    pub fn taken(&self) -> u64 {
        self.dir.list().unwrap().len() as u64 * u64::from(self.config.segment_len)
    }

    fn free(&self) -> FreeSpace {
        let this = self.clone();
        Box::new(move || Some(this.capacity.as_ref()?.load(Ordering::SeqCst).saturating_sub(this.taken())))
    }

    pub fn pool(&self) -> SegmentPool {
        let options = PoolOptions { ready: self.config.spare_segments, ..PoolOptions::default() };
        SegmentPool::over(Box::new(self.dir.clone()), u64::from(self.config.segment_len), options).unwrap()
    }

    pub fn open(&self) -> Arc<Store> {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Arc<Store>, StoreError> {
        Store::open_on(self.config.clone(), Arc::clone(&self.clock), self.parts())
    }

    /// What a store here is made of.
    pub fn parts(&self) -> Parts {
        Parts {
            segments: self.pool(),
            index: Box::new(self.index.clone()),
            mark: Box::new(Arc::clone(&self.mark)),
            manifest: Box::new(Arc::clone(&self.manifest)),
            proofs: Box::new(Arc::clone(&self.proofs)),
            ledger: Box::new(self.ledger.clone()),
            free: self.free(),
        }
    }
}

pub type Outcome = Receiver<Result<Lsn, StoreError>>;

pub fn send(store: &Store, batch: &Batch) -> Outcome {
    let (sender, receiver) = channel();
    store.append(batch.clone(), Box::new(move |outcome| drop(sender.send(outcome))));
    receiver
}

pub fn outcome(waiting: &Outcome) -> Result<Lsn, StoreError> {
    waiting.recv_timeout(Duration::from_secs(30)).unwrap()
}

pub fn append(store: &Store, batch: &Batch) -> Result<Lsn, StoreError> {
    outcome(&send(store, batch))
}

pub fn append_all(store: &Store, batches: &[Batch]) {
    let waiting: Vec<Outcome> = batches.iter().map(|b| send(store, b)).collect();
    for waiting in waiting {
        outcome(&waiting).unwrap();
    }
}

/// One block put right; in how many places.
pub fn repair_one(
    store: &Store,
    volume: VolumeId,
    (block, position): (BlockNo, Position),
    unit: &[u8],
    offered: Offered,
) -> Result<usize, StoreError> {
    let repairs = [Repair { block, position, unit: unit.to_vec() }];
    store.repair(volume, &repairs, offered)?.pop().unwrap()
}

/// The volume at `point`, block by block as an image reads it.
pub fn image(store: &Store, volume: VolumeId, point: Lsn) -> Vec<u8> {
    try_image(store, volume, point).unwrap()
}

pub fn try_image(store: &Store, volume: VolumeId, point: Lsn) -> Result<Vec<u8>, String> {
    let catalogue = store.catalogue();
    let Some(known) = catalogue.volume(volume) else { return Ok(Vec::new()) };
    let size = usize::try_from(known.size_at(point)).unwrap();
    let blocks = size.div_ceil(UNIT);
    let mut out = vec![0; blocks * UNIT];
    let mut units = Vec::new();
    for n in 0..blocks {
        let (region, within) = RegionNo::holding(tap_block::BlockNo::new(n as u64)).unwrap();
        let map = store.region_map(volume, region, point).map_err(|e| e.to_string())?;
        if let Some(at) = map.unit(within) {
            units.push(UnitRead { block: tap_block::BlockNo::new(n as u64), at, into: n * UNIT });
            // Whoever asks where anything is must not be led past it.
            if n % 37 == 0 {
                let next = store.next_region(volume, region, point).map_err(|e| e.to_string())?;
                assert_eq!(next, Some(region));
            }
        }
    }
    assert!(store.read_units(&units, ReadMode::Blocking, &mut out).map_err(|e| e.to_string())?);
    out.truncate(size);
    Ok(out)
}

/// How many cases a property is tried on: `n`, or as many as `PROPTEST_CASES` says.
pub fn cases(n: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(n)
}
