//! The splitter against the oracle: whatever the order of completions, failures, syncs and crashes, the image
//! at every selectable LSN is the disk as it was when that LSN was given.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tap_block::units::{count, index};
use tap_block::{
    BLOCK_SIZE, BarrierMark, Batch, Bookmark, Consistency, Epoch, Extent, ExtentSet, Lsn, MarkId, Marker,
    Monotonic, Name, RunId, RunStart, StreamId, SyncCause, VolumeId, WallTime,
};
use tap_splitter::seal::Identity;
use tap_splitter::{
    Action, Anew, BookmarkId, Change, Compared, Config, CopyId, CopyTask, Event, Mode, Now, OpId,
    RegionMarks, RegionSize, Splitter, Start, seal,
};
use testbed_model::{BatchBuilder, Oracle, Random};

const SIZE: u64 = (2 << 20) + 3 * BLOCK_SIZE + 512;
const VOLUME: VolumeId = VolumeId::new(7);
const STREAM: StreamId = StreamId::new(8);

/// The disk at an LSN, and the stretches whose content was in motion then.
struct Snapshot {
    lsn: Lsn,
    disk: Vec<u8>,
    moving: Vec<Extent>,
}

struct Pending {
    extent: Extent,
    change: Change,
    started: bool,
    applied: bool,
    /// A block is to be read that it covers in part.
    has_edges: bool,
}

/// A driver whose tasks are carried out in random order; what survives a kill is kept apart from what does not.
struct World {
    random: Random,
    // survives
    disk: Vec<u8>,
    durable_marks: RegionMarks,
    bound: Lsn,
    oracle: Oracle,
    snapshots: Vec<Snapshot>,
    delivered: Lsn,
    run: u64,
    baselined: bool,
    /// Sealed, and not yet at the receiver; a kill loses the newer part.
    wire: VecDeque<Batch>,
    // dies with the process
    splitter: Splitter,
    ops: BTreeMap<OpId, Pending>,
    tasks: Vec<Action>,
    next_op: u64,
    now: Now,
    bookmarks: Vec<(Lsn, WallTime)>,
    /// What the receiver had at a point, as it told when a copy began.
    told: BTreeMap<CopyId, (Lsn, Vec<u8>)>,
    /// The local disk fails now and then.
    failing: bool,
    /// Others change the disk while no tap watches, and what must be copied is compared first.
    unwatched: bool,
    /// Blocks that were found to be the same.
    same: u64,
    /// The disk is made larger now and then, by somebody else.
    grows: bool,
    /// Its size as the tap remembers it durably.
    known: u64,
    /// The receiver takes nothing of this run, until another begins.
    refused: bool,
}

impl World {
    fn new(seed: u64, fill: bool) -> Self {
        let mut random = Random::new(seed);
        let mut disk = vec![0u8; index(SIZE)];
        let mut dirty = ExtentSet::new();
        if fill {
            for _ in 0..6 {
                let at = random.below(SIZE / BLOCK_SIZE) * BLOCK_SIZE;
                let extent = Extent::between(at, at + BLOCK_SIZE);
                disk[index(at)..index(extent.end().min(SIZE))].fill(0xbb);
                dirty.insert(extent);
            }
        }
        let marks = RegionMarks::repeat(true, RegionSize::for_volume(SIZE).count(SIZE));
        let now = Now { wall: WallTime::from_nanos(1_000), monotonic: Monotonic::from_nanos(1_000) };
        let bound = Lsn::ZERO.plus(1 << 20);
        let mut tasks = Vec::new();
        let start =
            start(1, None, Lsn::ZERO.next(), bound, marks.clone(), dirty, Some(SyncCause::Baseline), true);
        let splitter = Splitter::start(config(), start, now, &mut tasks);
        Self {
            random,
            disk,
            durable_marks: marks,
            bound,
            oracle: Oracle::new(),
            snapshots: Vec::new(),
            delivered: Lsn::ZERO,
            run: 1,
            baselined: false,
            wire: VecDeque::new(),
            splitter,
            ops: BTreeMap::new(),
            tasks,
            next_op: 0,
            now,
            bookmarks: Vec::new(),
            told: BTreeMap::new(),
            failing: true,
            unwatched: false,
            same: 0,
            grows: false,
            known: SIZE,
            refused: false,
        }
    }

    fn size(&self) -> u64 {
        count(self.disk.len())
    }

    /// With or without content in what comes.
    fn grow(&mut self) {
        let old = self.size();
        let new = old + (1 + self.random.below(600)) * 512;
        self.disk.resize(index(new), 0);
        let mut data = ExtentSet::new();
        if self.random.below(2) == 0 {
            let at = old + self.random.below(new - old);
            let extent = Extent::between(at, (at + 9000).min(new));
            self.disk[index(at)..index(extent.end())].fill(0xcc);
            data.insert(extent.to_blocks());
        }
        self.apply(Event::Grow { size: new, data });
        assert_eq!(self.splitter.size(), new);
    }

    fn apply(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.splitter.apply(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Start(id) => self.ops.get_mut(&id).unwrap().started = true,
                Action::Bookmarked { lsn, at, .. } => self.bookmarks.push((lsn, at)),
                Action::Wake | Action::BookmarkRefused(_) | Action::Answer(_) => {}
                task => self.tasks.push(task),
            }
        }
        self.snapshot();
    }

    fn snapshot(&mut self) {
        if self.refused {
            return;
        }
        let head = self.splitter.head();
        let known = self.snapshots.last().is_some_and(|s| s.lsn == head);
        if known || self.splitter.progress().is_some() || self.splitter.dirty_bytes() > 0 {
            return;
        }
        let moving = self.ops.values().map(|p| p.extent.to_blocks()).collect();
        self.snapshots.push(Snapshot { lsn: head, disk: self.disk.clone(), moving });
    }

    fn step(&mut self) {
        let pause = self.random.below(3_000_000_000);
        self.now.wall = self.now.wall.plus(Duration::from_nanos(pause));
        self.now.monotonic = self.now.monotonic.plus(Duration::from_nanos(pause));
        if self.unwatched && self.random.below(30) == 0 {
            self.arrive();
        }
        if self.grows && self.random.below(40) == 0 {
            self.grow();
        }
        match self.random.below(17) {
            0..=4 => self.submit(),
            5..=8 => self.complete_some_op(),
            9..=11 => self.carry_out_some_task(),
            12 => self.deliver(),
            13 => self.begin_copy(),
            14 => self.housekeeping(),
            15 => self.barrier(),
            _ => {
                let name: Name = format!("b{}", self.next_op).parse().unwrap();
                let bookmark = Bookmark { name, consistency: Consistency::Crash, note: String::new() };
                self.next_op += 1;
                self.apply(Event::Bookmark { id: BookmarkId(self.next_op), bookmark });
            }
        }
    }

    /// A mark, where one may be put: in time between all that is before and behind it.
    fn barrier(&mut self) {
        if !self.splitter.takes_marks() {
            return;
        }
        let at = self.splitter.earliest_mark(self.now);
        let (id, group) = (MarkId::new(at.nanos()), "db".parse().unwrap());
        let mark = BarrierMark { id, group, members: vec![VOLUME], bookmark: None };
        self.apply(Event::Barrier { mark, at });
        assert!(self.splitter.earliest_mark(self.now) > at, "what comes behind a mark is later");
    }

    fn submit(&mut self) {
        if self.ops.len() >= 8 {
            return;
        }
        let sectors = self.size() / 512;
        // Crowd the operations, so that they overlap.
        let start =
            if self.random.below(2) == 0 { self.random.below(40) } else { self.random.below(sectors) };
        let most = if self.random.below(8) == 0 { 600 } else { 20 };
        let end = (start + 1 + self.random.below(most)).min(sectors);
        let mut extent = Extent::between(start * 512, end * 512);
        if self.random.below(2) == 0 {
            extent = Extent::between(extent.to_blocks().offset(), extent.to_blocks().end().min(self.size()));
        }
        let change = match self.random.below(4) {
            0 => Change::Zero,
            _ => Change::Write(self.some_content(extent)),
        };
        self.next_op += 1;
        let op = OpId(self.next_op);
        let cut = |at: u64| !at.is_multiple_of(BLOCK_SIZE);
        let has_edges = cut(extent.offset()) || (cut(extent.end()) && extent.end() != self.size());
        let pending = Pending { extent, change: change.clone(), started: false, applied: false, has_edges };
        self.ops.insert(op, pending);
        self.apply(Event::Submit { op, extent, change });
    }

    /// Of few, where contents should meet again.
    fn some_byte(&mut self) -> u8 {
        let kinds = if self.unwatched { 2 } else { 255 };
        self.random.below(kinds) as u8 + 1
    }

    fn complete_some_op(&mut self) {
        let started: Vec<OpId> = self.ops.iter().filter(|(_, p)| p.started).map(|(id, _)| *id).collect();
        if started.is_empty() {
            return;
        }
        let id = started[index(self.random.below(count(started.len())))];
        let pending = self.ops.get_mut(&id).unwrap();
        let range = index(pending.extent.offset())..index(pending.extent.end());
        let fails = self.failing && self.random.below(12) == 0;
        if !pending.applied {
            let short = if fails { range.len() / 2 } else { range.len() };
            let range = range.start..range.start + short;
            match &pending.change {
                Change::Zero => self.disk[range].fill(0),
                Change::Write(data) => self.disk[range].copy_from_slice(&data[..short]),
            }
            if self.random.below(3) == 0 && !fails {
                pending.applied = true; // on the disk already, reported later
                return;
            }
        }
        let whole = pending.applied || !fails;
        let edges = pending.has_edges;
        pending.started = false;
        if !edges || !whole {
            self.ops.remove(&id);
        }
        self.apply(Event::Written { op: id, whole });
        self.forget_filled();
    }

    /// Operations whose edges were read are over.
    fn forget_filled(&mut self) {
        let filling = |id: &OpId| self.tasks.iter().any(|t| matches!(t, Action::Fill { op, .. } if op == id));
        let over: Vec<OpId> = self
            .ops
            .iter()
            .filter(|(id, p)| p.applied && !p.started && !filling(id))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.ops.remove(&id);
        }
    }

    fn carry_out_some_task(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let task = self.tasks.swap_remove(index(self.random.below(count(self.tasks.len()))));
        match task {
            Action::Fill { op, extent } => {
                let content = self.read(extent);
                let left = self.tasks.iter().any(|t| matches!(t, Action::Fill { op: o, .. } if *o == op));
                if !left {
                    self.ops.remove(&op);
                }
                self.apply(Event::Filled { op, extent, content });
            }
            Action::PersistMarks { generation, marks } => {
                let durable = self.random.below(6) != 0;
                if durable {
                    self.durable_marks = marks;
                }
                self.apply(Event::MarksPersisted { generation, durable });
            }
            Action::PersistBound(bound) => {
                self.bound = bound;
                self.apply(Event::BoundPersisted { bound: Some(bound) });
            }
            Action::PersistAnew(anew) => {
                assert!(self.durable_marks.all(), "the activity log comes first");
                let durable = self.random.below(3) != 0;
                if durable {
                    (self.bound, self.run, self.refused) = (anew.bound, self.run + 2, false);
                }
                self.apply(Event::AnewPersisted { durable });
            }
            Action::Copy(CopyTask { copy, extent, .. }) => {
                let content = self.read(extent);
                let compared = content.as_ref().and_then(|c| self.compare(copy, extent, c));
                self.apply(Event::CopyRead { copy, content, compared });
            }
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, extent: Extent) -> Option<Bytes> {
        let range = index(extent.offset())..index(extent.end());
        (!self.failing || self.random.below(15) != 0).then(|| Bytes::copy_from_slice(&self.disk[range]))
    }

    fn begin_copy(&mut self) {
        // The receiver is asked before the disk is read; it may be far behind, and may not answer.
        let answers = self.random.below(5) != 0;
        self.begin_copy_asking(answers);
    }

    fn begin_copy_asking(&mut self, answers: bool) {
        if let Some(task) = self.splitter.next_copy() {
            if task.compare.is_some() && answers {
                self.told.insert(task.copy, (self.delivered, self.oracle.image_at(VOLUME, self.delivered)));
            }
            self.tasks.push(Action::Copy(task));
        }
    }

    fn compare(&mut self, copy: CopyId, extent: Extent, content: &[u8]) -> Option<Compared> {
        let (at, image) = self.told.get(&copy)?;
        let mut image = image.clone();
        image.resize(image.len().max(index(extent.end())), 0xee);
        let there = &image[index(extent.offset())..index(extent.end())];
        let block = BLOCK_SIZE as usize;
        let pairs = content.chunks(block).zip(there.chunks(block)).zip(extent.blocks());
        let (mut differs, mut same) = (ExtentSet::new(), 0);
        for ((mine, theirs), no) in pairs {
            if mine == theirs {
                same += 1;
            } else {
                differs.insert(Extent::between(no.offset(), no.offset() + BLOCK_SIZE));
            }
        }
        self.same += same;
        Some(Compared { at: *at, differs })
    }

    fn deliver(&mut self) {
        let (mut records, next) = (Vec::new(), self.splitter.head().next());
        self.splitter.take(1 << 19, 64, self.now, &mut records);
        if records.is_empty() || self.refused {
            return;
        }
        let whose =
            Identity { stream: STREAM, volume: VOLUME, run: RunId::new(self.run), epoch: Epoch::new(1) };
        self.wire.push_back(seal(whose, next, records));
        if !self.unwatched {
            self.arrive();
        }
    }

    fn arrive(&mut self) {
        let Some(batch) = self.wire.pop_front() else { return };
        self.oracle.apply(&batch).unwrap();
        self.delivered = batch.last_lsn().unwrap_or(self.delivered);
        if batch.entries.iter().any(|e| matches!(&e.action, tap_block::Action::Mark(m) if is_baseline_end(m)))
        {
            self.baselined = true;
        }
        self.snapshot();
    }

    fn housekeeping(&mut self) {
        let head = self.splitter.head();
        let everywhere = if self.refused { Lsn::ZERO } else { self.delivered };
        self.apply(Event::Durable { everywhere });
        self.apply(Event::Flushed { head });
        self.apply(Event::Tick);
        if self.splitter.has_kept_marks() {
            self.known = self.splitter.size();
        }
    }

    fn kill(&mut self) {
        // What was under way may or may not have reached the disk.
        for pending in std::mem::take(&mut self.ops).into_values().filter(|p| p.started && !p.applied) {
            if self.random.below(2) == 0 {
                let range = index(pending.extent.offset())..index(pending.extent.end());
                match &pending.change {
                    Change::Zero => self.disk[range].fill(0),
                    Change::Write(data) => self.disk[range].copy_from_slice(data),
                }
            }
        }
        // So does what waits in the spool, the newer part of which is lost.
        self.wire.truncate(index(self.random.below(count(self.wire.len()) + 1)));
        let kept = self.wire.iter().rev().find_map(Batch::last_lsn).unwrap_or(self.delivered);
        self.snapshots.retain(|s| s.lsn <= kept);
        let changed = self.unwatched && self.random.below(3) != 0;
        if changed {
            self.change_unwatched();
        }
        let changed = changed || self.known != self.size();
        self.known = self.size();
        self.start_again(changed);
    }

    fn start_again(&mut self, changed: bool) {
        let (region, mut dirty) = (RegionSize::for_volume(self.size()), ExtentSet::new());
        self.durable_marks.resize(region.count(self.size()), false);
        for i in self.durable_marks.iter_ones() {
            let extent = region.extent(i, self.size());
            dirty.insert(extent.to_blocks());
        }
        let mut cause = if self.baselined { SyncCause::UncleanStop } else { SyncCause::Baseline };
        if changed {
            dirty.insert(Extent::between(0, self.size()).to_blocks());
            self.durable_marks.fill(true);
            cause = if self.baselined { SyncCause::ChangedUnwatched } else { SyncCause::Baseline };
        }
        let first = self.bound;
        self.bound = first.plus(1 << 20);
        self.run += 1;
        let previous = Some(RunId::new(self.run - 1));
        let marks = self.durable_marks.clone();
        self.tasks.clear();
        self.told.clear();
        let mut start = Start {
            compare: self.unwatched && cause != SyncCause::Baseline,
            ..start(self.run, previous, first, self.bound, marks, dirty, Some(cause), false)
        };
        start.run.size = self.size();
        // Room for little, so that bitmap mode comes between.
        let queue_limit = if self.unwatched { 120_000 } else { config().queue_limit };
        let config = Config { queue_limit, size: self.size(), ..config() };
        self.splitter = Splitter::start(config, start, self.now, &mut self.tasks);
    }

    fn change_unwatched(&mut self) {
        let there = self.oracle.image_at(VOLUME, self.delivered);
        for _ in 0..self.random.below(4) {
            let at = self.random.below(SIZE / BLOCK_SIZE) * BLOCK_SIZE;
            let end = (at + (1 + self.random.below(16)) * BLOCK_SIZE).min(SIZE);
            let byte = self.some_byte() - 1;
            self.disk[index(at)..index(end)].fill(byte);
        }
        // Back to what the receiver has now, though records that say otherwise are on their way.
        if self.baselined && self.random.below(2) == 0 {
            let end = index(self.random.below(40) * BLOCK_SIZE);
            self.disk[..end].copy_from_slice(&there[..end]);
        }
    }

    /// Content for a write; now and then what the receiver has there, so that what is on its way is undone.
    fn some_content(&mut self, extent: Extent) -> Bytes {
        let undone = self.unwatched && self.baselined && self.random.below(2) == 0;
        if !undone {
            return Bytes::from(vec![self.some_byte(); index(extent.length())]);
        }
        let there = self.oracle.image_at(VOLUME, self.delivered);
        Bytes::copy_from_slice(&there[index(extent.offset())..index(extent.end())])
    }

    /// Lets everything come to its end, without further failures of the device.
    fn quiesce(&mut self) {
        self.failing = false;
        for round in 0..100_000 {
            if self.ops.is_empty()
                && self.splitter.is_quiet()
                && self.splitter.progress().is_none()
                && self.splitter.dirty_bytes() == 0
                && self.wire.is_empty()
                && !self.refused
            {
                return;
            }
            self.complete_some_op();
            self.carry_out_some_task();
            self.deliver();
            self.arrive();
            self.begin_copy();
            assert!(round < 99_999, "it never comes to rest: {:?}", self.splitter);
        }
    }

    fn check(&self) {
        let sound = selectable(&self.oracle);
        let mut checked = 0;
        for snapshot in self.snapshots.iter().filter(|s| s.lsn <= self.delivered && sound(s.lsn)) {
            let mut image = self.oracle.image_at(VOLUME, snapshot.lsn);
            let mut disk = snapshot.disk.clone();
            for moving in &snapshot.moving {
                let range = index(moving.offset())..index(moving.end()).min(disk.len());
                image[range.clone()].fill(0);
                disk[range].fill(0);
            }
            assert!(
                image == disk,
                "{:?} differs first at byte {:?}",
                snapshot.lsn,
                image.iter().zip(&disk).position(|(a, b)| a != b)
            );
            checked += 1;
        }
        assert!(checked > 0);
        let head = self.oracle.image_at(VOLUME, self.splitter.head());
        assert!(head == self.disk, "the head differs from the disk");
    }
}

fn is_baseline_end(marker: &Marker) -> bool {
    matches!(marker, Marker::SyncEnd { cause: SyncCause::Baseline, .. })
}

/// Which LSNs no sync forbids.
fn selectable(oracle: &Oracle) -> impl Fn(Lsn) -> bool {
    let mut closed: Vec<(Lsn, Lsn)> = Vec::new();
    for (lsn, _, marker) in oracle.markers() {
        let opens = matches!(&marker, Marker::SyncStart { .. })
            || matches!(&marker, Marker::RunStart(run) if run.sync.is_some());
        let open = closed.last().is_some_and(|(_, end)| *end == Lsn::ZERO.plus(Lsn::LIMIT));
        if opens && !open {
            closed.push((lsn, Lsn::ZERO.plus(Lsn::LIMIT)));
        } else if let (Marker::SyncEnd { .. }, Some(last)) = (&marker, closed.last_mut()) {
            last.1 = lsn;
        }
    }
    move |lsn| !closed.iter().any(|(from, to)| *from <= lsn && lsn < *to)
}

fn config() -> Config {
    Config { size: SIZE, queue_limit: 600_000, copy_size: 128 << 10 }
}

#[allow(clippy::too_many_arguments, reason = "names every part of a start")]
fn start(
    run: u64,
    previous: Option<RunId>,
    first_lsn: Lsn,
    bound: Lsn,
    marks: RegionMarks,
    dirty: ExtentSet,
    sync: Option<SyncCause>,
    fresh: bool,
) -> Start {
    let _ = run;
    let name = "web01".parse().unwrap();
    let run = RunStart { previous, durable: first_lsn.previous(), volume: VOLUME, name, size: SIZE, sync };
    Start { run, first_lsn, bound, marks, dirty, fresh, compare: false, unproven: false }
}

#[test]
fn every_selectable_point_is_the_disk_as_it_was() {
    for seed in 0..40 {
        let mut world = World::new(seed, seed % 3 != 0);
        for _ in 0..300 {
            world.step();
        }
        world.quiesce();
        world.check();
    }
}

#[test]
fn after_kills_at_any_step_the_healed_head_is_the_disk() {
    for seed in 1000..1040 {
        let mut world = World::new(seed, seed % 3 != 0);
        for _ in 0..4 {
            for _ in 0..world.random.below(120) {
                world.step();
            }
            world.kill();
        }
        for _ in 0..60 {
            world.step();
        }
        world.quiesce();
        world.check();
    }
}

#[test]
fn a_disk_that_grows_has_its_size_and_content_at_every_point() {
    for seed in 3000..3040 {
        let mut world = World::new(seed, seed % 3 != 0);
        world.grows = true;
        for _ in 0..3 {
            for _ in 0..world.random.below(200) {
                world.step();
            }
            if seed % 2 == 0 {
                world.kill();
            }
        }
        (0..100).for_each(|_| world.step());
        world.quiesce();
        world.check();
        assert!(world.size() > SIZE);
    }
}

#[test]
fn after_unwatched_changes_only_differences_are_copied_and_the_head_is_the_disk() {
    let (mut same, mut overflows) = (0, 0);
    for seed in 2000..2060 {
        let mut world = World::new(seed, true);
        world.unwatched = true;
        if seed % 4 != 0 {
            world.quiesce();
            world.failing = true;
        }
        for _ in 0..4 {
            for _ in 0..world.random.below(150) {
                world.step();
                overflows += u64::from(world.splitter.mode() == Mode::Bitmap);
            }
            world.kill();
        }
        for _ in 0..world.random.below(100) {
            world.step();
        }
        world.quiesce();
        world.check();
        same += world.same;
    }
    assert!(same > 1000, "{same} blocks were found the same");
    assert!(overflows > 100, "bitmap mode was met while comparing: {overflows}");
}

impl World {
    /// A protected disk whose first block says 1, at both ends.
    fn scripted(seed: u64) -> Self {
        let mut world = Self::new(seed, true);
        (world.failing, world.unwatched) = (false, true);
        world.write(0, 8, 1);
        world.quiesce();
        world
    }

    /// Another copy of the tap went on from what the receiver has, and this one, which is refused, is to go on after all.
    fn begin_anew(&mut self) {
        self.wire.clear();
        let from = self.delivered;
        self.snapshots.retain(|s| s.lsn <= from);
        let name = "web01".parse().unwrap();
        let start = RunStart { previous: None, durable: from, volume: VOLUME, name, size: SIZE, sync: None };
        let mut future =
            BatchBuilder::new(STREAM, VOLUME, RunId::new(self.run + 1), from.next(), self.now.wall);
        future.mark(Marker::RunStart(start.clone()));
        for _ in 0..self.random.below(40) {
            let (block, byte) = (self.random.below(SIZE / BLOCK_SIZE), self.some_byte());
            future.write(block, &[byte; 4096]);
        }
        let future = future.build();
        self.oracle.apply(&future).unwrap();
        self.delivered = future.last_lsn().unwrap();
        let (first_lsn, sync) = (self.delivered.next(), Some(SyncCause::ChangedUnwatched));
        let anew = Anew { run: RunStart { sync, ..start }, first_lsn, bound: first_lsn.plus(1 << 20) };
        self.refused = true;
        self.apply(Event::BeginAnew(Box::new(anew)));
    }

    /// Writes sectors, and sees to everything that this asks for.
    fn write(&mut self, from: u64, sectors: u64, byte: u8) {
        let extent = Extent::between(from * 512, (from + sectors) * 512);
        let change = Change::Write(Bytes::from(vec![byte; index(extent.length())]));
        self.next_op += 1;
        let op = OpId(self.next_op);
        let (started, applied, has_edges) = (false, false, false);
        self.ops.insert(op, Pending { extent, change: change.clone(), started, applied, has_edges });
        self.apply(Event::Submit { op, extent, change });
        while !self.ops.is_empty() {
            self.complete_some_op();
            self.carry_out_some_task();
        }
    }

    fn copy_one(&mut self) {
        let before = self.same;
        self.begin_copy_asking(true);
        while !self.tasks.is_empty() {
            self.carry_out_some_task();
        }
        assert!(self.same > before, "the receiver was asked and had the same");
    }
}

#[test]
fn a_copy_that_goes_on_after_all_leaves_what_was_before_and_ends_as_its_disk() {
    let mut same = 0;
    for seed in 5000..5040 {
        let mut world = World::new(seed, seed % 3 != 0);
        for _ in 0..world.random.below(300) {
            world.step();
        }
        world.unwatched = seed % 2 == 0;
        world.begin_anew();
        for _ in 0..150 {
            world.step();
        }
        if seed % 4 == 0 && !world.refused {
            world.kill();
        }
        for _ in 0..60 {
            world.step();
        }
        world.quiesce();
        world.check();
        same += world.same;
    }
    assert!(same > 1000, "{same} blocks were found the same");
}

#[test]
fn what_is_on_its_way_from_an_earlier_run_is_not_compared_away() {
    let mut world = World::scripted(1);
    world.write(0, 8, 2);
    world.deliver(); // into the spool, no further
    world.disk[..4096].fill(1); // somebody undoes it while no tap watches
    world.start_again(true);
    world.copy_one();
    world.quiesce();
    world.check();
}

#[test]
fn what_was_undone_without_a_record_is_not_compared_away() {
    let mut world = World::scripted(2);
    world.start_again(true);
    world.deliver();
    world.arrive();
    world.write(0, 8, 2);
    world.deliver();
    world.write(3000, 80, 3); // waits in the queue
    world.write(1000, 600, 3); // more than there is room for
    assert_eq!(world.splitter.mode(), Mode::Bitmap);
    world.write(0, 8, 1);
    world.deliver();
    world.housekeeping();
    assert_eq!(world.splitter.mode(), Mode::Streaming);
    world.copy_one();
    world.quiesce();
    world.check();
}

#[test]
fn an_all_zero_disk_is_selectable_from_lsn_0() {
    let mut world = World::new(1, false);
    world.quiesce();
    let ends: Vec<_> = world.oracle.markers().into_iter().map(|(lsn, _, m)| (lsn.get(), m)).collect();
    let end = Marker::SyncEnd { cause: SyncCause::Baseline, copied: 0, from_zero: true };
    assert_eq!(ends.last(), Some(&(2, end)));
}

#[test]
fn overflow_keeps_the_oldest_records_and_heals() {
    let mut world = World::new(5, false);
    world.failing = false;
    world.quiesce();
    let before = world.splitter.head();
    while world.splitter.mode() == Mode::Streaming {
        world.submit();
        world.complete_some_op();
        while !world.tasks.is_empty() {
            world.carry_out_some_task();
        }
    }
    assert!(world.splitter.head() > before, "records before the overflow are kept");
    world.quiesce();
    world.check();
    let causes: Vec<_> = world
        .oracle
        .markers()
        .into_iter()
        .filter_map(|(_, _, m)| match m {
            Marker::SyncEnd { cause, .. } => Some(cause),
            _ => None,
        })
        .collect();
    assert_eq!(causes.last(), Some(&SyncCause::Overflow));
}

#[test]
fn a_resync_is_announced_only_once_a_kill_cannot_forget_its_rest() {
    let now = Now { wall: WallTime::from_nanos(1_000), monotonic: Monotonic::from_nanos(1_000) };
    let (first, bound, mut actions) = (Lsn::ZERO.next(), Lsn::ZERO.plus(1 << 20), Vec::new());
    let start = start(1, None, first, bound, RegionMarks::new(), ExtentSet::new(), None, false);
    let mut splitter = Splitter::start(config(), start, now, &mut actions);
    let whole: ExtentSet = std::iter::once(Extent::between(0, SIZE).to_blocks()).collect();
    splitter.apply(Event::Resync { dirty: whole }, now, &mut actions);
    assert_eq!((splitter.head(), splitter.progress()), (first, None), "the activity log comes first");
    let asked = actions.iter().find_map(|action| match action {
        Action::PersistMarks { generation, marks } => Some((*generation, marks.clone())),
        _ => None,
    });
    let (generation, marks) = asked.unwrap();
    assert!(marks.all() && marks.len() == RegionSize::for_volume(SIZE).count(SIZE));
    splitter.apply(Event::MarksPersisted { generation, durable: true }, now, &mut actions);
    assert_eq!(splitter.progress().unwrap().cause, SyncCause::HopLost);
    assert!(splitter.dirty_bytes() >= SIZE && splitter.head() == first.next());
}

#[test]
fn a_sync_that_waits_for_proof_ends_with_it_or_compares_everything() {
    let now = Now { wall: WallTime::from_nanos(1_000), monotonic: Monotonic::from_nanos(1_000) };
    let (first, bound) = (Lsn::ZERO.plus(100), Lsn::ZERO.plus(1 << 20));
    let begin = || {
        let (none, sync) = (ExtentSet::new(), Some(SyncCause::UncleanStop));
        let start = start(2, Some(RunId::new(1)), first, bound, RegionMarks::new(), none, sync, false);
        Splitter::start(config(), Start { compare: true, unproven: true, ..start }, now, &mut Vec::new())
    };
    let mut proven = begin();
    assert_eq!(proven.progress().unwrap().cause, SyncCause::UncleanStop, "though there is nothing to copy");
    proven.apply(Event::Proven, now, &mut Vec::new());
    assert_eq!((proven.progress(), proven.head()), (None, first.next()));
    let (mut set_back, mut actions) = (begin(), Vec::new());
    let whole: ExtentSet = std::iter::once(Extent::between(0, SIZE).to_blocks()).collect();
    set_back.apply(Event::SetBack { dirty: whole }, now, &mut actions);
    assert_eq!((set_back.head(), set_back.dirty_bytes()), (first, 0), "the activity log comes first");
    let asked = |action: &Action| match action {
        Action::PersistMarks { generation, marks } if marks.all() => Some(*generation),
        _ => None,
    };
    let generation = actions.iter().find_map(asked).unwrap();
    set_back.apply(Event::MarksPersisted { generation, durable: true }, now, &mut actions);
    // Told as a sync of its own, and from there on compared.
    assert_eq!(set_back.head(), first.next());
    assert!(set_back.dirty_bytes() >= SIZE && set_back.progress().is_some());
    assert_eq!(set_back.next_copy().unwrap().compare, Some(set_back.head()));
}

#[test]
fn a_hop_lost_during_another_sync_gets_an_end_of_its_own() {
    let mut world = World::new(5, true);
    world.failing = false;
    world.apply(Event::Resync { dirty: std::iter::once(Extent::between(0, SIZE).to_blocks()).collect() });
    world.quiesce();
    world.check();
    let mut ends = world.oracle.markers().into_iter().filter_map(|(_, _, m)| match m {
        Marker::SyncEnd { cause, .. } => Some(cause),
        _ => None,
    });
    assert_eq!((ends.next(), ends.next()), (Some(SyncCause::Baseline), Some(SyncCause::HopLost)));
}
