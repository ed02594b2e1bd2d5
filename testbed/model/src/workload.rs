//! Histories drawn from a seed: what a tap could have sent, with everything that makes them hard.
//!
//! A [`Workload`] plays a tap and its disk. The disk has content before protection begins, so a baseline
//! has something to copy; copies are read as of one LSN and may be delivered long after later writes.

use std::time::Duration;

use tap_block::stored::UNIT;
use tap_block::units::{count, index};
use tap_block::{
    BLOCK_SIZE, BarrierMark, Batch, Bookmark, Consistency, Lsn, Marker, Name, RunId, RunStart, StreamId,
    SyncCause, VolumeId, WallTime,
};

use crate::builder::{BatchBuilder, blocks_in};
use crate::random::Random;

/// A tap and its disk, played from a seed.
#[derive(Debug, Clone)]
pub struct Workload {
    random: Random,
    stream: StreamId,
    volume: VolumeId,
    name: Name,
    run: RunId,
    next: Lsn,
    now: WallTime,
    disk: Vec<u8>,
    started_from_zero: bool,
    sync: Option<Sync>,
    bookmarks: u64,
}

/// A baseline or resync under way.
#[derive(Debug, Clone)]
struct Sync {
    cause: SyncCause,
    /// Blocks still to be read from the disk.
    unread: Vec<u64>,
    /// Read, not delivered: as of which LSN, which block, what.
    undelivered: Vec<(Lsn, u64, Vec<u8>)>,
    copied: u64,
}

impl Workload {
    /// A disk of 64 blocks and a bit, with content.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_size(seed, 64 * BLOCK_SIZE + 512)
    }

    /// A disk of this size with content in about half of its blocks.
    #[must_use]
    pub fn with_size(seed: u64, size: u64) -> Self {
        let mut workload = Self::blank(seed, size);
        let mut disk = std::mem::take(&mut workload.disk);
        for block in disk.chunks_mut(UNIT) {
            if workload.random.one_in(2) {
                workload.random.fill(block);
                workload.started_from_zero = false;
            }
        }
        workload.disk = disk;
        workload
    }

    /// A disk of this size, all zeroes.
    #[must_use]
    pub fn blank(seed: u64, size: u64) -> Self {
        let mut random = Random::new(seed);
        let (stream, volume) = (StreamId::new(random.next()), VolumeId::new(random.next()));
        Self {
            run: RunId::new(random.next()),
            name: known_name("web01"),
            random,
            stream,
            volume,
            next: Lsn::ZERO.next(),
            now: WallTime::from_nanos(1_700_000_000_000_000_000),
            disk: vec![0; index(size)],
            started_from_zero: true,
            sync: None,
            bookmarks: 0,
        }
    }

    /// Under another name than `web01`; to be said before its first record.
    #[must_use]
    pub fn named(self, name: Name) -> Self {
        Self { name, ..self }
    }

    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        self.stream
    }

    /// The volume.
    #[must_use]
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The run under way.
    #[must_use]
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// The LSN that the next stream record gets.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The latest capture time.
    #[must_use]
    pub const fn now(&self) -> WallTime {
        self.now
    }

    /// What is on the disk now: the image at the last LSN, once no sync is running.
    #[must_use]
    pub fn disk(&self) -> &[u8] {
        &self.disk
    }

    /// The size now.
    #[must_use]
    pub fn size(&self) -> u64 {
        count(self.disk.len())
    }

    /// Is a baseline or resync running?
    #[must_use]
    pub const fn syncing(&self) -> bool {
        self.sync.is_some()
    }

    /// The first run: a [`Marker::RunStart`] with a baseline.
    pub fn begin(&mut self) -> Batch {
        let whole = (0..blocks_in(self.disk.len())).collect();
        self.run_start(None, Some(SyncCause::Baseline), whole)
    }

    /// A new run of the same tap. `jump` LSNs are left out, as after an unclean stop; `sync` begins with it.
    pub fn restart(&mut self, jump: u64, sync: Option<SyncCause>) -> Batch {
        let previous = self.run;
        self.run = RunId::new(self.random.next());
        self.next = self.next.plus(jump);
        let blocks = blocks_in(self.disk.len());
        let some = (0..blocks).filter(|_| self.random.one_in(3)).collect();
        // After a hop lost records a tap copies all there is.
        let wanted = if sync == Some(SyncCause::HopLost) { (0..blocks).collect() } else { some };
        self.run_start(Some(previous), sync, wanted)
    }

    /// About `records` records: writes, zeroes, trims over several blocks, and some of the copies due.
    pub fn batch(&mut self, records: usize) -> Batch {
        let mut to = self.builder();
        for _ in 0..records {
            self.read_copies();
            self.deliver_copies(&mut to, 2);
            self.change(&mut to);
        }
        self.close(to)
    }

    /// Copies only: some of those that are due (no entries at all when none is).
    pub fn copies(&mut self) -> Batch {
        let mut to = self.builder();
        self.read_copies();
        self.deliver_copies(&mut to, 8);
        self.close(to)
    }

    /// A bookmark.
    pub fn bookmark(&mut self, name: &Name) -> Batch {
        let mut to = self.builder();
        to.mark(Marker::Bookmark(Bookmark {
            name: name.clone(),
            consistency: Consistency::Crash,
            note: String::new(),
        }));
        self.close(to)
    }

    /// A barrier of its group, at the time that is the mark's number: later than everything before it.
    pub fn barrier(&mut self, mark: BarrierMark) -> Batch {
        self.now = WallTime::from_nanos(mark.id.get());
        let mut to = BatchBuilder::new(self.stream, self.volume, self.run, self.next, self.now);
        to.mark(Marker::Barrier(mark));
        self.now = self.now.plus(Duration::from_nanos(1));
        self.close(to)
    }

    /// The volume grows by `blocks` blocks.
    pub fn grow(&mut self, blocks: u64) -> Batch {
        self.disk.resize(self.disk.len() + index(blocks * BLOCK_SIZE), 0);
        let mut to = self.builder();
        to.resize(self.size());
        self.close(to)
    }

    /// The volume becomes smaller by `blocks` blocks. Not while a sync runs.
    pub fn shrink(&mut self, blocks: u64) -> Batch {
        self.disk.truncate(self.disk.len().saturating_sub(index(blocks * BLOCK_SIZE)));
        let mut to = self.builder();
        to.resize(self.size());
        self.close(to)
    }

    /// Delivers every copy due and ends the sync; a batch with no entries when none runs.
    pub fn end_sync(&mut self) -> Batch {
        let mut to = self.builder();
        while self.sync.as_ref().is_some_and(|s| !s.unread.is_empty()) {
            self.read_copies();
        }
        self.deliver_copies(&mut to, usize::MAX);
        if let Some(sync) = self.sync.take() {
            let from_zero = sync.cause == SyncCause::Baseline && self.started_from_zero;
            to.mark(Marker::SyncEnd { cause: sync.cause, copied: sync.copied, from_zero });
        }
        self.close(to)
    }

    /// A whole history of about `records` records in batches of random length: a baseline under writes,
    /// bookmarks, growth, restarts with and without a resync. Its last sync has ended.
    pub fn history(&mut self, records: usize) -> Vec<Batch> {
        let mut batches = vec![self.begin()];
        let mut left = records;
        while left > 0 {
            let n = (1 + index(self.random.below(12))).min(left);
            left -= n;
            batches.push(self.batch(n));
            self.something_else(&mut batches);
        }
        batches.push(self.end_sync());
        batches.retain(|b| !b.entries.is_empty());
        batches
    }

    fn something_else(&mut self, batches: &mut Vec<Batch>) {
        match self.random.below(16) {
            0 => batches.push(self.end_sync()),
            1 | 2 => {
                self.bookmarks += 1;
                let name = known_name(&format!("mark-{}", self.bookmarks));
                batches.push(self.bookmark(&name));
            }
            3 => batches.push(self.grow(2)),
            4 => batches.push(self.copies()),
            // A sync that is cut short by a restart would leave its copies owing: end it first.
            5 => {
                batches.push(self.end_sync());
                let (jump, sync) = match self.random.below(3) {
                    0 => (0, None),
                    1 => (1000, None),
                    _ => (1000, Some(SyncCause::UncleanStop)),
                };
                batches.push(self.restart(jump, sync));
            }
            _ => {}
        }
    }

    fn run_start(&mut self, previous: Option<RunId>, sync: Option<SyncCause>, blocks: Vec<u64>) -> Batch {
        self.sync = sync.map(|cause| Sync { cause, unread: blocks, undelivered: Vec::new(), copied: 0 });
        let mut to = self.builder();
        to.mark(Marker::RunStart(RunStart {
            previous,
            durable: self.next.previous(),
            volume: self.volume,
            name: self.name.clone(),
            size: self.size(),
            sync,
        }));
        self.close(to)
    }

    fn builder(&mut self) -> BatchBuilder {
        self.now = self.now.plus(Duration::from_millis(self.random.below(5)));
        BatchBuilder::new(self.stream, self.volume, self.run, self.next, self.now)
    }

    fn close(&mut self, to: BatchBuilder) -> Batch {
        self.next = to.next_lsn();
        to.build()
    }

    /// One change of the disk and its record.
    fn change(&mut self, to: &mut BatchBuilder) {
        self.now = self.now.plus(Duration::from_micros(self.random.below(900)));
        to.at(self.now);
        let blocks = blocks_in(self.disk.len());
        let first = self.random.below(blocks);
        let length = (1 + self.random.below(4)).min(blocks - first);
        if self.random.one_in(5) {
            self.put(first, &vec![0; index(length) * UNIT]);
            to.zero(first, length);
        } else {
            let data = self.content(index(length) * UNIT, first);
            self.put(first, &data);
            to.write(first, &data);
        }
        self.next = to.next_lsn();
    }

    /// Noise, text that shrinks well, or zeroes; zero past the end of the disk.
    fn content(&mut self, length: usize, first: u64) -> Vec<u8> {
        let mut data = vec![0; length];
        for block in data.chunks_mut(UNIT) {
            match self.random.below(4) {
                0 => self.random.fill(block),
                1 => {}
                _ => {
                    let [word, ..] = self.random.next().to_le_bytes();
                    block.fill(word);
                }
            }
        }
        let on_disk = self.disk.len().saturating_sub(index(first) * UNIT);
        data.iter_mut().skip(on_disk).for_each(|b| *b = 0);
        data
    }

    fn put(&mut self, first: u64, data: &[u8]) {
        for (to, from) in self.disk.iter_mut().skip(index(first) * UNIT).zip(data) {
            *to = *from;
        }
    }

    /// Reads a few of the blocks that the sync still has to read, as of the last LSN.
    fn read_copies(&mut self) {
        let as_of = self.next.previous();
        let n = index(self.random.below(4));
        let Some(sync) = &mut self.sync else { return };
        let keep = sync.unread.len().saturating_sub(n);
        for block in sync.unread.split_off(keep) {
            let content = self.disk.chunks(UNIT).nth(index(block)).unwrap_or_default().to_vec();
            sync.undelivered.push((as_of, block, content));
        }
    }

    /// Delivers at most `limit` copies, in any order.
    fn deliver_copies(&mut self, to: &mut BatchBuilder, limit: usize) {
        let Some(sync) = &mut self.sync else { return };
        self.random.shuffle(&mut sync.undelivered);
        let keep = sync.undelivered.len().saturating_sub(limit);
        for (as_of, block, content) in sync.undelivered.split_off(keep) {
            if tap_block::stored::is_zero(&content) {
                to.copy_zero(as_of, block, 1);
            } else {
                sync.copied += count(content.len());
                to.copy(as_of, block, &content);
            }
        }
    }
}

/// A name known to be valid; the generator's own, so there is nothing to report.
fn known_name(text: &str) -> Name {
    text.parse().unwrap_or_else(|_| known_name("invalid"))
}
