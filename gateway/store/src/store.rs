//! The store as its users see it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use gateway_image::{Catalogue, Passed, RegionMap};
use gateway_journal::{
    Head, Hold, LEDGER_FILE, Location, MARK_FILE, MetaRecord, RegionNo, SegmentId, StoreId,
};
use tap_block::{Batch, BlockNo, Clock, ExtentSet, Lsn, Position, StreamId, VolumeId, WallTime};
use tap_disk::{DiskDir, PoolOptions, SameDir, SegmentDir as _, SegmentPool, ensure_dir, free_space};
use tracing::warn;

use crate::age::Age;
use crate::commit::Committer;
use crate::config::StoreConfig;
use crate::error::{ReadError, StoreError};
use crate::heat::Heat;
use crate::history::GoneNames;
use crate::index::{HealingIndex, Holding, IndexOpener, PinnedOpener};
use crate::ingest::{IngestState, Ingester};
use crate::keeper::Keeper;
use crate::layout::KeptPoints;
use crate::ledger::{Anchor, Book, Bookkeeping, FileLedger, LedgerStatus, LedgerStore};
use crate::maps::MapCache;
use crate::mark::{FileMark, MarkStore, SmallFile};
use crate::offers::Offers;
use crate::points::{OpenPoint, Points};
use crate::queue::{Done, Job, Queue, Work};
use crate::read::{ReadMode, UnitRead};
use crate::reserve::Reserving;
use crate::segments::Segments;
use crate::settle::{
    AtGate, HeldUp, Limits, Preview, SettleReport, Settling, VolumeLimit, at_gates, at_gates_of, hold_on,
    preview,
};
use crate::sync::{lock, read};
use crate::tail::{Durable, Published};
use crate::usage::{self, VolumeBytes};
use crate::verify::{
    self, Finding, Offered, Proof, Proving, Repair, Scope, Scrubbing, StoredUnit, VerifyReport, Watch,
};
use crate::wait::{Waiters, Waiting};
use crate::{changes, maps, recover, times};

/// The journal and its index.
///
/// One thread commits, one brings versions into the index, one keeps the high-water mark. Dropping the last
/// handle stops it in order.
pub struct Store {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the readers share.
pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) segments: Segments,
    pub(crate) index: HealingIndex,
    pub(crate) queue: Queue,
    pub(crate) published: RwLock<Published>,
    pub(crate) waiters: Waiters,
    pub(crate) maps: Mutex<MapCache>,
    pub(crate) ingest: Mutex<IngestState>,
    pub(crate) ingest_changed: Condvar,
    /// Who adds versions to the index, and who takes settled ones away, take turns.
    pub(crate) index_turn: Mutex<()>,
    /// Held from when a settle looks at the holds until readers see what it left.
    pub(crate) counting: Mutex<()>,
    pub(crate) points: Points,
    /// Barrier marks and bookmarks that are thinned out, which the commit thread has not forgotten yet.
    pub(crate) gone_names: Mutex<GoneNames>,
    pub(crate) age: Age,
    /// Where a copy of the manifest is kept.
    pub(crate) manifests: Box<dyn MarkStore>,
    pub(crate) settling: Settling,
    /// Volumes whose policies have limits, as of the last look.
    pub(crate) limits: RwLock<Limits>,
    /// Holds for which no room is made, as of the last look.
    pub(crate) held_up: Mutex<Vec<HeldUp>>,
    /// Segments of which something cannot be read: since when, and when that was found last.
    pub(crate) unreadable: Mutex<BTreeMap<SegmentId, (WallTime, WallTime)>>,
    pub(crate) proving: Proving,
    pub(crate) scrubbing: Scrubbing,
    pub(crate) bookkeeping: Bookkeeping,
    /// Which segments are read.
    pub(crate) heat: Heat,
    pub(crate) offers: Offers,
    pub(crate) keeper: Keeper,
    pub(crate) free: FreeSpace,
    pub(crate) counters: Counters,
    /// Why appends fail at the moment.
    pub(crate) failing: Mutex<Option<StoreError>>,
}

/// What was verified, and what was found.
const PROOFS_FILE: &str = "VERIFIED";
/// The copy of the manifest of settled history.
const MANIFEST_FILE: &str = "SETTLED";

/// Asks how many bytes are free where segments are made; `None` when nobody knows.
pub type FreeSpace = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// What a store is made of; tests bring their own.
pub struct Parts {
    /// The segment files.
    pub segments: SegmentPool,
    /// The index.
    pub index: Box<dyn IndexOpener>,
    /// The high-water mark.
    pub mark: Box<dyn MarkStore>,
    /// The copy of the manifest of settled history.
    pub manifest: Box<dyn MarkStore>,
    /// What was verified, and what was found.
    pub proofs: Box<dyn MarkStore>,
    /// The ledger.
    pub ledger: Box<dyn LedgerStore>,
    /// Free space, for the status.
    pub free: FreeSpace,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) map_hits: AtomicU64,
    pub(crate) map_misses: AtomicU64,
    pub(crate) blocks_read: AtomicU64,
    pub(crate) blocks_ahead: AtomicU64,
    pub(crate) blocks_damaged: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl Store {
    /// Opens the store in `config.dir`, or makes one. Whoever calls holds the directory's lock.
    ///
    /// # Errors
    /// When the directory or its files cannot be used at all; damage within is not an error.
    pub fn open(config: StoreConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, StoreError> {
        let dir = config.dir.clone();
        ensure_dir(&dir)?;
        let same = SameDir::of(&dir)?;
        let free = |dir: &PathBuf| -> FreeSpace {
            let dir = dir.clone();
            Box::new(move || free_space(&dir).ok())
        };
        let files = DiskDir::open(&dir.join("seg"))?;
        let config = on_its_disk(config, &files, free_space(&dir).ok())?;
        let holding = Holding::of(config.segment_len, config.keep_free);
        let segments = Reserving { dir: files, keep_free: config.keep_free, free: free(&dir) };
        let options = PoolOptions {
            ready: config.spare_segments,
            max_files: config.max_segments,
            ..PoolOptions::default()
        };
        let parts = Parts {
            segments: SegmentPool::over(Box::new(segments), u64::from(config.segment_len), options)?,
            index: Box::new(PinnedOpener::new(&dir, "fjall", config.index_cache, holding)?),
            mark: Box::new(FileMark::open(&dir.join(MARK_FILE))?),
            manifest: Box::new(SmallFile::new(&same, dir.join(MANIFEST_FILE))),
            proofs: Box::new(SmallFile::new(&same, dir.join(PROOFS_FILE))),
            ledger: Box::new(FileLedger::new(&same, dir.join(LEDGER_FILE))),
            free: free(&dir),
        };
        Self::open_on(config, clock, parts)
    }

    /// Opens a store made of these parts.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        config: StoreConfig,
        clock: Arc<dyn Clock>,
        parts: Parts,
    ) -> Result<Arc<Self>, StoreError> {
        let found = recover::recover(&config, parts.segments, &*parts.index, &*parts.mark, &*parts.manifest);
        let mut found = found.map_err(StoreError::at_start)?;
        let fresh = found.segments.count() + found.segments.settled_count() == 0;
        let book = Book::open(parts.ledger, found.mark.store, fresh);
        let keeper = Keeper::new(parts.mark, found.mark);
        let age = Age::new(clock, found.last_received, found.mark.aged).remembering(found.credited());
        let age = age_of(age, &keeper);
        found.credit(age.credited());
        let shared = Arc::new(Shared {
            bookkeeping: Bookkeeping::new(book),
            heat: Heat::new(age.now()),
            offers: Offers::default(),
            queue: Queue::new(config.max_queue),
            maps: Mutex::new(MapCache::new(config.map_cache)),
            age,
            config,
            segments: found.segments,
            index: HealingIndex::new(parts.index, found.index),
            published: RwLock::new(found.published),
            waiters: Waiters::default(),
            ingest: Mutex::default(),
            ingest_changed: Condvar::new(),
            index_turn: Mutex::default(),
            counting: Mutex::default(),
            points: Points::default(),
            gone_names: Mutex::default(),
            manifests: parts.manifest,
            settling: Settling::new(found.settler),
            limits: RwLock::default(),
            held_up: Mutex::default(),
            unreadable: Mutex::default(),
            proving: Proving::new(parts.proofs),
            scrubbing: Scrubbing::default(),
            keeper,
            free: parts.free,
            counters: Counters::default(),
            failing: Mutex::default(),
        });
        shared.note_found(&found.headless);
        if let Err(e) = shared.note_torn(&found.torn) {
            warn!("which blocks lay in segments that are torn is not known before the next start: {e}");
        }
        usage::count_old_groups(&shared);
        shared.find_limits();
        shared.hold_room();
        let committer = Committer::new(Arc::clone(&shared), found.history, found.tail)?;
        let ingester = Ingester::new(Arc::clone(&shared), found.brought);
        let keeper = Arc::clone(&shared);
        let settler = Arc::clone(&shared);
        let scrubber = Arc::clone(&shared);
        let bookkeeper = Arc::clone(&shared);
        let threads = vec![
            spawn("store-commit", move || committer.run())?,
            spawn("store-index", move || ingester.run())?,
            spawn("store-mark", move || keeper.keeper.run(&keeper.age))?,
            spawn("store-settle", move || settler.settling.run(&settler))?,
            spawn("store-scrub", move || scrubber.scrubbing.run(&scrubber))?,
            spawn("store-ledger", move || bookkeeper.bookkeeping.run(&bookkeeper))?,
        ];
        Ok(Arc::new(Self { shared, threads: Mutex::new(threads) }))
    }

    /// Commits `batch`; `done` is told when it is durable, in the index and published, in the order of the
    /// appends. Never blocks.
    pub fn append(&self, batch: Batch, done: Done) {
        match batch
            .validate()
            .map_err(|e| StoreError::Invalid(e.to_string()))
            .and_then(|()| in_reach(&batch))
            .and_then(|()| self.check_limit(batch.stream))
        {
            Ok(()) => self.shared.queue.push(Job { work: Work::Batch(batch), done }),
            Err(why) => done(Err(why)),
        }
    }

    fn check_limit(&self, stream: StreamId) -> Result<(), StoreError> {
        match read(&self.shared.limits).stopped(stream) {
            Some((used, limit)) => Err(StoreError::OverLimit { used, limit }),
            None => Ok(()),
        }
    }

    /// Would a batch of this stream find room for a segment to begin?
    #[must_use]
    pub fn has_room_for(&self, stream: StreamId) -> bool {
        self.check_limit(stream).is_ok() && !self.shared.is_scarce() && !self.shared.index.is_ill()
    }

    /// Commits a record of the gateway's own stream, as [`Store::append`].
    pub fn record(&self, record: MetaRecord, done: Done) {
        self.record_all(vec![record], done);
    }

    /// Commits several, which count together: nobody ever sees some of them without the others.
    pub fn record_all(&self, records: Vec<MetaRecord>, done: Done) {
        let is_hold = records.iter().any(|record| matches!(record, MetaRecord::Held(_)));
        let done = if is_hold { self.told_after_settle(done) } else { done };
        self.shared.queue.push(Job { work: Work::Meta(records), done });
    }

    /// A settle that did not see a hold may be on its way to the disk: whoever makes the hold is told when that is over, and
    /// what it let go is seen to be gone.
    fn told_after_settle(&self, done: Done) -> Done {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |outcome| {
            if let Some(shared) = shared.upgrade() {
                drop(lock(&shared.counting));
            }
            done(outcome);
        })
    }

    /// How far a stream is durable; `None` when the store has no history of it.
    #[must_use]
    pub fn durable(&self, stream: StreamId) -> Option<Durable> {
        read(&self.shared.published).streams.get(&stream).copied()
    }

    /// Every stream and how far it is durable.
    #[must_use]
    pub fn streams(&self) -> Vec<(StreamId, Durable)> {
        read(&self.shared.published).streams.iter().map(|(&id, &durable)| (id, durable)).collect()
    }

    /// Which store it is: the same for as long as it lives, and no other's.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.shared.bookkeeping.book.store()
    }

    /// Calls once when `lsn` of `stream` is durable: at once if it is, on the commit thread otherwise. Dropping
    /// what is returned calls it off.
    pub fn when_durable(&self, stream: StreamId, lsn: Lsn, call: Box<dyn FnOnce() + Send>) -> Waiting {
        let waiting = self.shared.waiters.add(stream, lsn, call);
        if let Some(durable) = self.durable(stream) {
            self.shared.waiters.reached(stream, durable.lsn);
        }
        waiting
    }

    /// Blocks until `lsn` of `stream` is durable; false after `timeout`.
    #[must_use]
    pub fn wait_durable(&self, stream: StreamId, lsn: Lsn, timeout: Duration) -> bool {
        let (sender, receiver) = std::sync::mpsc::channel();
        let _waiting = self.when_durable(
            stream,
            lsn,
            Box::new(move || {
                let _ = sender.send(());
            }),
        );
        receiver.recv_timeout(timeout).is_ok()
    }

    /// What history holds, as of the last commit.
    #[must_use]
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&read(&self.shared.published).catalogue)
    }

    /// Where each block of a region lies at `point`. May read the index.
    ///
    /// # Errors
    /// When the point is not durable, or cannot be known.
    pub fn region_map(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
    ) -> Result<Arc<RegionMap>, StoreError> {
        self.shared.region_map(volume, region, point)
    }

    /// The same, for whoever wants to know only what is stored and passes on: it takes no place in the cache.
    ///
    /// # Errors
    /// As [`region_map`](Self::region_map).
    pub fn region_map_in_passing(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
    ) -> Result<Arc<RegionMap>, StoreError> {
        self.shared.gathered_map(volume, region, point, false)
    }

    /// The first region from `from` on that may hold something at `point`; those before it hold nothing. `None`: nor does any
    /// behind it. Costs about as much as one map.
    ///
    /// # Errors
    /// As [`region_map`](Self::region_map).
    pub fn next_region(
        &self,
        volume: VolumeId,
        from: RegionNo,
        point: Lsn,
    ) -> Result<Option<RegionNo>, StoreError> {
        self.shared.next_region(volume, from, point)
    }

    /// The map if it is at hand. Never blocks on a disk.
    #[must_use]
    pub fn region_map_cached(
        &self,
        volume: VolumeId,
        region: RegionNo,
        point: Lsn,
    ) -> Option<Arc<RegionMap>> {
        self.shared.cached_map(volume, region, point)
    }

    /// Reads units, checks and decodes them: each into the block of `out` that begins at its `into`.
    /// `Ok(false)`: not all of them were in the page cache, and [`ReadMode::Cached`] was asked for; what is in
    /// `out` is then undefined.
    ///
    /// # Errors
    /// [`ReadError`] for the first unit that cannot be served.
    pub fn read_units(&self, units: &[UnitRead], mode: ReadMode, out: &mut [u8]) -> Result<bool, ReadError> {
        self.shared.read_units(units, mode, out)
    }

    /// The last record of `stream` captured at or before `time`. Reads frames' tables: may block.
    ///
    /// # Errors
    /// When the index or the journal cannot be read there.
    pub fn lsn_at(&self, stream: StreamId, time: WallTime) -> Result<Option<Passed>, StoreError> {
        times::lsn_at(&self.shared, stream, time)
    }

    /// When the record at `lsn` was captured; `None` when there is none. Reads frames' tables: may block.
    ///
    /// # Errors
    /// When the index or the journal cannot be read there.
    pub fn time_of(&self, stream: StreamId, lsn: Lsn) -> Result<Option<WallTime>, StoreError> {
        times::time_of(&self.shared, stream, lsn)
    }

    /// Settles what policies allow, one pass; `None` when there is nothing to do. Blocks, for as long as it takes to
    /// rewrite what is settled.
    ///
    /// # Errors
    /// When it was not possible; nothing is changed then.
    pub fn settle(&self) -> Result<Option<SettleReport>, StoreError> {
        self.shared.end_old_group();
        self.shared.settling.pass(&self.shared)
    }

    /// Looks soon whether there is something to settle: rules have changed.
    pub fn settle_soon(&self) {
        self.shared.settling.hurry();
    }

    /// The regions of a volume that history holds anything of; the others are zero at every point. `None` when that is not known.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn held_regions(&self, volume: VolumeId) -> Result<Option<BTreeSet<RegionNo>>, StoreError> {
        changes::held(&self.shared, volume)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The hold, of those in force, that a point of a volume is part of.
    ///
    /// # Errors
    /// When the volume is unknown, or the segments cannot be read.
    pub fn hold_on(&self, volume: VolumeId, point: Lsn) -> Result<Option<Hold>, StoreError> {
        hold_on(&self.shared, volume, point, self.age())
    }

    /// Keeps a point readable for as long as what is returned lives.
    ///
    /// # Errors
    /// [`StoreError::Thinned`] when it is not kept any more, with the nearest ones that are.
    pub fn open_point(&self, volume: VolumeId, point: Lsn) -> Result<OpenPoint, StoreError> {
        Points::open(&self.shared, volume, point)
    }

    /// The blocks that changed between two points, in whatever order they are given; blocks written with what they held
    /// already may be among them. Reads frames' tables, and maps for settled history: may block.
    ///
    /// # Errors
    /// [`StoreError::Thinned`] when one of the points is not kept, and when the journal or the index cannot be read.
    pub fn changed(&self, volume: VolumeId, a: Lsn, b: Lsn) -> Result<ExtentSet, StoreError> {
        changes::between(&self.shared, volume, a.min(b), a.max(b))
    }

    /// Is the point one that is kept?
    ///
    /// # Errors
    /// [`StoreError::Thinned`] when it is not.
    pub fn check_kept(&self, volume: VolumeId, point: Lsn) -> Result<(), StoreError> {
        let published = read(&self.shared.published);
        let known = published.catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?;
        published.layout.check(known, point)
    }

    /// Are all records here that the point needs?
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when some are lost.
    pub fn check_whole(&self, volume: VolumeId, point: Lsn) -> Result<(), StoreError> {
        let published = read(&self.shared.published);
        let known = published.catalogue.volume(volume).ok_or(StoreError::UnknownVolume(volume))?;
        maps::refuse_if_lost(known, &published.damage, point)?;
        maps::refuse_if_lost(known, published.layout.trail.damage(), point)
    }

    /// The first record of a stream that is lost and that its newest point needs; `None` when nothing is, or a whole copy made up
    /// for it.
    #[must_use]
    pub fn wound(&self, stream: StreamId) -> Option<Lsn> {
        let published = read(&self.shared.published);
        let (known, durable) = (published.catalogue.volume_of(stream)?, published.streams.get(&stream)?);
        let damage = published.damage.iter().chain(published.layout.trail.damage());
        let lost = damage.flat_map(|d| &d.lost).filter(|(of, ..)| *of == stream).map(|(_, from, _)| *from);
        let lost = lost.filter(|from| *from <= durable.lsn);
        // Settled segments are gone, and the index was built from what is left of them.
        let lost = lost.chain(published.layout.lost_of(known.id()));
        lost.filter(|from| !maps::healed(known, *from, durable.lsn)).min()
    }

    /// The last record before a block that the stream's newest point shows, that is damaged, and that cannot be shown to be what the
    /// disk holds: a whole copy of the disk makes later points whole. `None` when there is none. Reads the index: may block.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn head_wound(&self, stream: StreamId) -> Result<Option<Lsn>, StoreError> {
        let volume = read(&self.shared.published).catalogue.volume_of(stream).map(|v| v.id());
        volume.map_or(Ok(None), |volume| self.shared.head_wound(volume))
    }

    /// Is there such a block, as of when that was last looked at?
    #[must_use]
    pub fn is_head_wounded(&self, volume: VolumeId) -> bool {
        self.shared.proving.is_head_wounded(volume)
    }

    /// What is left of a volume's settled history; `None` when nothing of it is settled. There may be a million points: they are
    /// shared, not copied.
    #[must_use]
    pub fn kept(&self, volume: VolumeId) -> Option<KeptPoints> {
        KeptPoints::of(Arc::clone(&read(&self.shared.published).layout), volume)
    }

    /// What each volume's history takes in the journal.
    #[must_use]
    pub fn usage(&self) -> BTreeMap<VolumeId, VolumeBytes> {
        read(&self.shared.published).usage()
    }

    /// What setting these policies would let go. Goes through settled history: may take a while.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn preview(&self, policies: &[MetaRecord]) -> Result<Vec<Preview>, StoreError> {
        preview(&self.shared, policies)
    }

    /// Every gate of a tier, and what waits there. Goes through the kept points of volumes that have some: may take a while.
    #[must_use]
    pub fn gates(&self) -> Vec<AtGate> {
        at_gates(&self.shared)
    }

    /// Those of one volume.
    #[must_use]
    pub fn gates_of(&self, volume: VolumeId) -> Vec<AtGate> {
        at_gates_of(&self.shared, volume)
    }

    /// Bytes that a stream's frames have taken since the store was opened, without their copies of what the disk held.
    #[must_use]
    pub fn written(&self, stream: StreamId) -> u64 {
        read(&self.shared.published).written.get(&stream).copied().unwrap_or(0)
    }

    /// Every volume whose policy has a limit, as of when that was last looked at.
    #[must_use]
    pub fn limits(&self) -> BTreeMap<VolumeId, VolumeLimit> {
        read(&self.shared.limits).views()
    }

    /// Holds for which the log is not settled, or a full store makes no room, as of when that was last looked at.
    #[must_use]
    pub fn held_up(&self) -> Vec<HeldUp> {
        self.shared.held_up()
    }

    /// Reads everything in `scope` from the disk and checks it; what is found is noted. Blocks; `watch` is told of the
    /// progress.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when `watch` ended it, and when the index or the journal cannot be used. Damage is no
    /// error: the report lists it.
    pub fn verify(&self, scope: Scope, watch: &mut Watch<'_>) -> Result<VerifyReport, StoreError> {
        self.shared.verify(scope, watch)
    }

    /// When all of a volume's history was last read and checked.
    #[must_use]
    pub fn proof(&self, volume: VolumeId) -> Option<Proof> {
        self.shared.proving.proof(volume)
    }

    /// What was found of a volume, and of the store as a whole, and is not acknowledged.
    #[must_use]
    pub fn findings(&self, volume: VolumeId) -> Vec<Finding> {
        self.shared.proving.findings(volume)
    }

    /// What was found and is over need not be listed any more, as far as somebody has `read` of it; neither need what speaks against
    /// the ledger. Records of the gateway's own that are lost no longer keep history from being settled, nor do segments that are
    /// gone and listed, until they are there again. Blocks until that is durable.
    ///
    /// # Errors
    /// When that cannot be entered in the ledger, or in the journal: what is not entered stays as it is.
    pub fn acknowledge(&self, volume: VolumeId, read: impl Fn(&Finding) -> bool) -> Result<(), StoreError> {
        self.shared.bookkeeping.acknowledge(&self.shared)?;
        if self.shared.refuse_unread_loss().is_err() {
            let (tell, told) = std::sync::mpsc::channel();
            let done = move |outcome| drop(tell.send(outcome));
            self.record(MetaRecord::LossRead, Box::new(done));
            told.recv().map_err(|_| StoreError::Stopped)??;
        }
        self.shared.acknowledge(volume, read);
        Ok(())
    }

    /// Are records of the gateway's own lost, of images maybe, and has nobody read of it?
    #[must_use]
    pub fn has_own_loss(&self) -> bool {
        self.shared.refuse_unread_loss().is_err()
    }

    /// These will be read soon: the disk may begin to. Nothing waits for it, and what fails is met when they are read.
    pub fn will_need(&self, units: Vec<Location>) {
        self.shared.will_need(units);
    }

    /// The stored form of a version of a block; `None` when there is none here.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub fn stored_unit(
        &self,
        volume: VolumeId,
        block: BlockNo,
        position: Position,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.stored_units(volume, &[(block, position)])?.pop().unwrap_or(Ok(None))
    }

    /// The same of several versions, each with an outcome of its own.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn stored_units(
        &self,
        volume: VolumeId,
        wanted: &[(BlockNo, Position)],
    ) -> Result<Vec<StoredUnit>, StoreError> {
        verify::stored_units(&self.shared, volume, wanted)
    }

    /// Puts damaged versions of blocks right with their stored forms from elsewhere; for each, in how many places. Those of
    /// one region together cost little more than one of them when they lie in packs.
    ///
    /// # Errors
    /// [`StoreError::Busy`] for all of them; [`StoreError::Invalid`] for one that is not the stored form of that version; and for
    /// one that cannot be written.
    pub fn repair(
        &self,
        volume: VolumeId,
        repairs: &[Repair],
        offered: Offered,
    ) -> Result<Vec<Result<usize, StoreError>>, StoreError> {
        verify::repair(&self.shared, volume, repairs, offered)
    }

    /// Enters into the ledger what is due; how many segments were hashed. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn keep_ledger(&self) -> Result<usize, StoreError> {
        self.shared.bookkeeping.catch_up(&self.shared)
    }

    /// What the ledger covers.
    #[must_use]
    pub fn ledger(&self) -> LedgerStatus {
        self.shared.bookkeeping.status(self.shared.age.now())
    }

    /// The newest entry of the ledger that somebody else keeps.
    #[must_use]
    pub fn anchored(&self) -> Option<Anchor> {
        self.shared.bookkeeping.anchored()
    }

    /// `place` says which heads of ledgers it keeps, this store's among them. It is answered by and by; never blocks.
    pub fn hear_heads(&self, place: &str, heads: &[(StoreId, Head)]) {
        self.shared.bookkeeping.hear(place, heads, false);
    }

    /// Another gateway says, through who knows both, which head of this store's ledger it keeps. It is told nothing itself, so it
    /// may be behind. It is compared by and by; never blocks.
    pub fn hear_witness(&self, place: &str, head: (StoreId, Head)) {
        self.shared.bookkeeping.hear(place, &[head], true);
    }

    /// The head that `place` is to be told; `None` when it has all there is, or has not said what it has. Never blocks.
    #[must_use]
    pub fn head_for(&self, place: &str) -> Option<(StoreId, Head)> {
        self.shared.bookkeeping.tell(place)
    }

    /// A head of another store that this one keeps, the next after `store`; `None` when it keeps none. Never blocks.
    #[must_use]
    pub fn witnessed_after(&self, store: StoreId) -> Option<(StoreId, Head)> {
        self.shared.bookkeeping.witnessed_after(store)
    }

    /// The time on the store's own clock, on which history ages.
    #[must_use]
    pub fn age(&self) -> WallTime {
        self.shared.age.now()
    }

    /// What that clock has been credited with in all, which no hold runs by.
    #[must_use]
    pub fn credited(&self) -> Duration {
        self.shared.age.credited()
    }

    /// Bytes of the file system that others may take without the journal having to make room for itself; `None` when nobody
    /// knows.
    #[must_use]
    pub fn room_for_others(&self) -> Option<u64> {
        self.shared.room_for_others()
    }

    /// Commits what waits, takes no more, and notes that the journal ends in order. Idempotent.
    pub fn stop(&self) {
        self.shared.queue.close();
        self.shared.settling.stop();
        self.shared.scrubbing.stop();
        self.shared.bookkeeping.stop();
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

/// With segments as long as those that are there, and else as the disk's room asks for.
fn on_its_disk(config: StoreConfig, files: &DiskDir, free: Option<u64>) -> Result<StoreConfig, StoreError> {
    let lens: Vec<u64> = files.list()?.iter().filter_map(|no| Some(files.open(*no).ok()?.len())).collect();
    let there: u64 = lens.iter().sum();
    let room = free.map_or(u64::MAX, |free| there.saturating_add(free).saturating_sub(config.keep_free));
    // One that was cut off is no measure.
    let longest = lens.into_iter().max().and_then(|len| u32::try_from(len).ok());
    Ok(config.fitted(longest.filter(|len| *len > 0), room))
}

/// The longest extent one record may have: it becomes a version in every region it touches.
const LONGEST: u64 = 1 << 40;

fn in_reach(batch: &Batch) -> Result<(), StoreError> {
    let far = batch.entries.iter().filter_map(|e| e.action.changes()).find(|(_, extent)| {
        extent.length() > LONGEST || extent.end() > u64::from(u32::MAX) * gateway_journal::REGION_BYTES
    });
    match far {
        Some((_, extent)) => {
            Err(StoreError::Invalid(format!("{extent} is more than a record may cover, or too far out")))
        }
        None => Ok(()),
    }
}

/// The store's own clock, once its credit for the restart is noted: one that cannot be noted is not given.
fn age_of(age: Age, keeper: &Keeper) -> Age {
    match keeper.note_age(&age) {
        Ok(()) => age,
        Err(e) => {
            warn!(
                "how far the store's own clock is cannot be noted, so the time it was down is not counted: {e}"
            );
            age.uncredited()
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StoreError::from)
}
