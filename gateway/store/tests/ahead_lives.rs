//! Lives of a store on a disk that is slow to sync: while a sync runs, more is written, and none of that is durable by it. Writes and
//! syncs fail, and the power is cut between any two of them, with any part of what was not synced on the disk. What was acknowledged
//! is there, what is served is what was written, and nothing of it is taken for damage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::lab::policy;
use common::{Disk, ManualClock, Outcome, cases, outcome, try_image};
use gateway_journal::MetaRecord;
use gateway_store::{MarkStore as _, MemoryIndex, MemoryLedger, MemoryMark, Parts, Store};
use tap_block::{Action, Batch, Lsn, Marker, StreamId, SyncCause};
use tap_disk::{FileNo, Medium, PoolOptions, SegmentDir, SegmentFile, SegmentPool};
use testbed_model::{Oracle, Random, Workload};

const PAGE: usize = 4096;

/// What a reader sees of a file, and what is on the disk.
#[derive(Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

/// A disk; see the module.
#[derive(Clone)]
struct Sea(Arc<Mutex<Water>>);

struct Water {
    files: BTreeMap<FileNo, Content>,
    random: Random,
    /// Writes and syncs so far.
    moves: u64,
    /// At this one the power is cut.
    cut_at: u64,
    cut: Option<Box<dyn FnOnce() -> Left + Send>>,
    left: Option<Left>,
    /// One in so many writes and syncs fails; 0: none.
    failing: u64,
}

/// What is left behind a cut, and what was acknowledged by then.
struct Left {
    files: BTreeMap<FileNo, Content>,
    index: MemoryIndex,
    mark: Option<Vec<u8>>,
    manifest: Option<Vec<u8>>,
    ledger: Vec<u8>,
    acknowledged: Vec<u64>,
}

impl Sea {
    fn new(files: BTreeMap<FileNo, Content>, seed: u64) -> Self {
        let random = Random::new(seed);
        let (moves, cut_at, failing) = (0, u64::MAX, 0);
        Self(Arc::new(Mutex::new(Water { files, random, moves, cut_at, cut: None, left: None, failing })))
    }

    fn lock(&self) -> MutexGuard<'_, Water> {
        self.0.lock().unwrap()
    }

    fn file(&self, no: FileNo, len: u64) -> SegmentFile {
        SegmentFile::over(Box::new(Swimmer(self.clone(), no)), format!("sea/{no}"), len)
    }
}

impl Water {
    /// Something is about to be written or synced; does that fail?
    fn step(&mut self) -> bool {
        self.moves += 1;
        if self.moves == self.cut_at
            && let Some(cut) = self.cut.take()
        {
            let left = cut();
            self.left = Some(Left { files: self.wreck(), ..left });
        }
        self.failing > 0 && self.random.one_in(self.failing)
    }

    /// Of what was not synced, some pages.
    fn wreck(&mut self) -> BTreeMap<FileNo, Content> {
        let odds = 1 + self.random.below(4);
        let mut files = self.files.clone();
        for content in files.values_mut() {
            mix(&mut self.random, content, odds);
            content.now.clone_from(&content.durable);
        }
        files
    }
}

/// Some of the pages get to the disk.
fn mix(random: &mut Random, content: &mut Content, odds: u64) {
    for (old, new) in content.durable.chunks_mut(PAGE).zip(content.now.chunks(PAGE)) {
        if old != new && random.one_in(odds) {
            old.copy_from_slice(new);
        }
    }
}

impl SegmentDir for Sea {
    fn list(&self) -> io::Result<Vec<FileNo>> {
        Ok(self.lock().files.keys().copied().collect())
    }

    fn create(&self, no: FileNo, len: u64) -> io::Result<SegmentFile> {
        let zeroes = vec![0; len as usize];
        self.lock().files.insert(no, Content { now: zeroes.clone(), durable: zeroes });
        Ok(self.file(no, len))
    }

    fn open(&self, no: FileNo) -> io::Result<SegmentFile> {
        let len = self.lock().files.get(&no).map(|content| content.now.len() as u64);
        len.map(|len| self.file(no, len)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, no: FileNo) -> io::Result<()> {
        self.lock().files.remove(&no).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Swimmer(Sea, FileNo);

impl Medium for Swimmer {
    fn write(&self, offset: u64, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut water = self.0.lock();
        let fails = water.step();
        let mut bytes: Vec<u8> = data.iter().flat_map(|d| d.iter().copied()).collect();
        if fails {
            let some = water.random.below(bytes.len() as u64) as usize;
            bytes.truncate(some);
        }
        let content = water.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
        content.now[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        if fails { Err(io::Error::other("a write fails")) } else { Ok(bytes.len()) }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let water = self.0.lock();
        let content = water.files.get(&self.1).ok_or(io::ErrorKind::NotFound)?;
        let mut from = content.now.get(offset as usize..).unwrap_or_default();
        io::Read::read(&mut from, into)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.read(offset, into)
    }

    fn will_need(&self, _: u64, _: u64) {}

    fn sync(&self) -> io::Result<()> {
        let (begun, patience) = {
            let mut water = self.0.lock();
            if water.step() {
                let water = &mut *water;
                let content = water.files.get_mut(&self.1).ok_or(io::ErrorKind::NotFound)?;
                mix(&mut water.random, content, 2);
                return Err(io::Error::other("a sync fails"));
            }
            let patience = water.random.below(4) * 5;
            (water.files.get(&self.1).ok_or(io::ErrorKind::NotFound)?.now.clone(), patience)
        };
        // What is written from here on this sync knows nothing of.
        (0..patience).for_each(|_| std::thread::yield_now());
        if let Some(content) = self.0.lock().files.get_mut(&self.1) {
            content.durable = begun;
        }
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

fn starts_run(batch: &Batch) -> bool {
    let start = |mark: &Marker| matches!(mark, Marker::RunStart(_));
    batch.entries.first().is_some_and(|e| matches!(&e.action, Action::Mark(mark) if start(mark)))
}

/// A tap: what it has sent, and how far that is known to be safe.
struct Tap {
    workload: Workload,
    oracle: Oracle,
    sent: Vec<Batch>,
    names: Vec<(String, Lsn)>,
    safe: Arc<AtomicU64>,
}

impl Tap {
    fn new(seed: u64) -> Self {
        let (oracle, safe) = (Oracle::new(), Arc::default());
        let mut this =
            Self { workload: Workload::new(seed), oracle, sent: Vec::new(), names: Vec::new(), safe };
        let begin = [this.workload.begin(), this.workload.end_sync()];
        begin.into_iter().for_each(|batch| this.take(batch));
        this
    }

    fn take(&mut self, batch: Batch) {
        if !batch.entries.is_empty() {
            self.oracle.apply(&batch).unwrap();
            self.sent.push(batch);
        }
    }

    fn stream(&self) -> StreamId {
        self.workload.stream()
    }

    /// Something more to send.
    fn go_on(&mut self, random: &mut Random) {
        match random.below(12) {
            0 => {
                let name = format!("b{}", self.names.len());
                let batch = self.workload.bookmark(&name.parse().unwrap());
                self.names.push((name, batch.first_lsn));
                self.take(batch);
            }
            1 => {
                let (jump, cause) = (random.below(2) * 1000, SyncCause::UncleanStop);
                let end = self.workload.end_sync();
                self.take(end);
                let start = self.workload.restart(jump, Some(cause).filter(|_| jump > 0));
                self.take(start);
                for batch in [self.workload.batch(3), self.workload.end_sync()] {
                    self.take(batch);
                }
            }
            _ => {
                let records = 1 + random.below(9) as usize;
                let batch = self.workload.batch(records);
                self.take(batch);
            }
        }
    }

    /// Sends what is not known to be there, but no run behind something that may be refused: it would explain what is missing.
    fn send(&self, store: &Store) -> Vec<Outcome> {
        let there = store.durable(self.stream()).map_or(Lsn::ZERO, |durable| durable.lsn);
        let is_missing = |batch: &&Batch| batch.last_lsn().is_some_and(|last| last > there);
        let first = self.sent.iter().position(|batch| is_missing(&batch)).unwrap_or(self.sent.len());
        let missing = self.sent[first..].iter().enumerate();
        let together = missing.take_while(|(n, batch)| *n == 0 || !starts_run(batch));
        together.map(|(_, batch)| self.send_one(store, batch)).collect()
    }

    fn send_one(&self, store: &Store, batch: &Batch) -> Outcome {
        let (sender, receiver) = channel();
        let safe = Arc::clone(&self.safe);
        let done = move |outcome: Result<Lsn, _>| {
            if let Ok(lsn) = outcome {
                safe.fetch_max(lsn.get(), Ordering::SeqCst);
            }
            drop(sender.send(outcome));
        };
        store.append(batch.clone(), Box::new(done));
        receiver
    }

    /// What is there is exact, and there is no less of it than was said.
    fn check(&self, store: &Store, safe: u64, random: &mut Random, what: &str) {
        let (volume, durable) = (self.workload.volume(), store.durable(self.stream()));
        let durable = durable.map_or(Lsn::ZERO, |durable| durable.lsn);
        assert!(durable.get() >= safe, "{what}: {safe} was acknowledged, {durable} is there");
        let catalogue = store.catalogue();
        let Some(known) = catalogue.volume(volume) else { return };
        let points = self.oracle.lsns().into_iter().filter(|lsn| *lsn <= durable);
        let points: Vec<Lsn> = points.filter(|lsn| known.selectable(*lsn).is_ok()).collect();
        let some = (0..6).filter_map(|_| points.get(random.below(points.len().max(1) as u64) as usize));
        for lsn in some.chain(points.last()) {
            if store.check_kept(volume, *lsn).is_ok() {
                let image = try_image(store, volume, *lsn).unwrap_or_else(|e| panic!("{what}: {lsn}: {e}"));
                assert!(image == self.oracle.image_at(volume, *lsn), "{what}: the image at {lsn} is wrong");
            }
        }
        for (name, lsn) in self.names.iter().filter(|(_, lsn)| *lsn <= durable) {
            let found = known.bookmark_named(&name.parse().unwrap()).map(|there| there.at.lsn);
            let is_kept = store.check_kept(volume, *lsn).is_ok();
            assert!(found == is_kept.then_some(*lsn), "{what}: {name} at {lsn} is at {found:?}, {is_kept}");
        }
        let beyond = known.bookmarks().filter(|(_, there)| there.at.lsn > durable).count();
        assert_eq!(beyond, 0, "{what}");
    }
}

/// One store, from life to life.
struct Lives {
    random: Random,
    disk: Disk,
    clock: Arc<ManualClock>,
    sea: Sea,
    taps: Vec<Tap>,
    said: String,
}

impl Lives {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let clock = Arc::new(ManualClock::default());
        let mut disk = Disk { clock: Arc::clone(&clock) as _, ..Disk::small() };
        disk.config.cold = None;
        disk.config.least_ahead = [1, 4096, 20_000][random.below(3) as usize];
        disk.config.group_bytes = [1, 60_000, 1 << 20][random.below(3) as usize];
        disk.config.group_versions = [40, 300][random.below(2) as usize];
        disk.config.index_at_stop = random.one_in(2);
        let taps = (0..3).map(|n| Tap::new(seed * 3 + n)).collect();
        let sea = Sea::new(BTreeMap::new(), random.below(1 << 40));
        Self { random, disk, clock, sea, taps, said: format!("seed {seed}") }
    }

    fn open(&self) -> Arc<Store> {
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let len = u64::from(self.disk.config.segment_len);
        let segments = SegmentPool::over(Box::new(self.sea.clone()), len, options).unwrap();
        let parts = Parts { segments, ..self.disk.parts() };
        Store::open_on(self.disk.config.clone(), Arc::clone(&self.disk.clock), parts)
            .unwrap_or_else(|e| panic!("{}: {e}", self.said))
    }

    /// The power will be cut.
    fn arm(&mut self) {
        let disk = self.disk.clone();
        let safe: Vec<_> = self.taps.iter().map(|tap| Arc::clone(&tap.safe)).collect();
        let mut water = self.sea.lock();
        water.cut_at = water.moves + 1 + self.random.below(60);
        water.failing = [0, 0, 40, 15][self.random.below(4) as usize];
        water.cut = Some(Box::new(move || Left {
            files: BTreeMap::new(),
            // First: nothing that is in it is younger than the segments.
            index: disk.index.snapshot(),
            mark: disk.mark.load(),
            manifest: disk.manifest.load(),
            ledger: gateway_store::LedgerStore::load(&disk.ledger).unwrap(),
            acknowledged: safe.iter().map(|safe| safe.load(Ordering::SeqCst)).collect(),
        }));
    }

    fn live(&mut self) {
        let store = self.open();
        self.check(&store, None);
        if self.random.one_in(3) {
            let keep = [policy(1_000_000, &[], 0), policy(10, &[(20, 5000)], 3000)];
            let policy = Some(keep[self.random.below(2) as usize].clone());
            store.record(MetaRecord::PolicySet { volume: None, policy }, Box::new(|_| {}));
        }
        self.arm();
        for _ in 0..20 {
            let mut waiting = Vec::new();
            for n in 0..self.taps.len() {
                for _ in 0..self.random.below(8) {
                    self.taps[n].go_on(&mut self.random);
                }
                waiting.extend(self.taps[n].send(&store));
            }
            waiting.iter().for_each(|waiting| drop(outcome(waiting)));
            self.clock.advance(Duration::from_secs(self.random.below(20)));
            if self.random.one_in(4) {
                let _ = store.settle();
            }
            if self.sea.lock().left.is_some() {
                break;
            }
        }
        drop(store);
        self.end();
    }

    /// The next life begins with what is left.
    fn end(&mut self) {
        let (left, moves) = {
            let mut water = self.sea.lock();
            (water.left.take(), water.moves)
        };
        let seed = self.random.below(1 << 40);
        let Some(left) = left else {
            // It ended in order.
            self.said += &format!("; stopped after {moves}");
            let files = self.sea.lock().files.clone();
            self.sea = Sea::new(files, seed);
            return;
        };
        self.said += &format!("; cut at {moves}");
        self.sea = Sea::new(left.files, seed);
        self.disk.index = left.index;
        self.disk.mark = Arc::new(MemoryMark::holding(left.mark));
        self.disk.manifest = Arc::new(MemoryMark::holding(left.manifest));
        self.disk.ledger = MemoryLedger::holding(left.ledger);
        for (tap, safe) in self.taps.iter_mut().zip(&left.acknowledged) {
            tap.safe = Arc::new(AtomicU64::new(*safe));
        }
        if self.random.one_in(5) {
            self.said += ", the index is gone";
            self.disk.index = MemoryIndex::new();
        }
        let store = self.open();
        self.check(&store, Some(&left.acknowledged));
        // A start that wrote nothing changes nothing.
        if self.random.one_in(3) {
            drop(store);
            self.check(&self.open(), None);
        }
    }

    fn check(&self, store: &Store, acknowledged: Option<&[u64]>) {
        let mut random = Random::new(self.said.len() as u64);
        assert_eq!(store.status().damage, [], "{}", self.said);
        for (n, tap) in self.taps.iter().enumerate() {
            let safe = acknowledged.map_or_else(|| tap.safe.load(Ordering::SeqCst), |all| all[n]);
            tap.check(store, safe, &mut random, &self.said);
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_whatever_was_on_its_way() {
    let first: u64 = std::env::var("FIRST_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    for seed in first..first + u64::from(cases(4)) {
        let mut lives = Lives::new(seed);
        (0..6).for_each(|_| lives.live());
    }
}
