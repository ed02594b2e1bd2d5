//! The state of one protected volume and its transitions.

use std::collections::HashMap;

use bytes::Bytes;
use tap_block::{BLOCK_SIZE, Bookmark, Extent, ExtentSet, Lsn, Marker, Position, SyncCause, WallTime};

use crate::compare::{Compared, Comparison, Read};
use crate::copies::{ActiveCopy, Copies, TRIES};
use crate::holds::{Holds, Owner, copy_holder, op_holder, owner_of};
use crate::queue::{Captured, Content, Queue};
use crate::regions::{RegionMarks, RegionSize, Regions};

mod anew;
mod barrier;
mod clock;
mod event;
mod op;

use anew::Waiting;
use clock::SourceClock;
use op::Op;

pub use event::{
    Action, Anew, BookmarkId, Change, Config, CopyId, CopyTask, Event, Mode, Now, OpId, Progress, Start,
};

/// LSNs are reserved in steps of this many: one durable write for a million records.
pub(crate) const RESERVATION: u64 = 1 << 20;
/// The longest record; longer writes become several.
pub(crate) const MAX_RECORD: u64 = 1 << 20;
/// Markers may use these last LSNs of a reservation when writes may not any more.
const SPARE_LSNS: u64 = 64;
/// Copies under way at a time.
const MAX_COPIES: usize = 4;

#[derive(Debug)]
struct Sync {
    cause: SyncCause,
    done: u64,
    /// Bytes copied that were not zero.
    copied: u64,
    from_zero: bool,
    /// Its start could not get an LSN yet.
    owed: bool,
    /// The last moment before it that history covers; `None` when that was before this run.
    covered: Option<WallTime>,
    /// What else was found meanwhile and told as the beginning of a sync: it waits for an end of that name.
    joined: Vec<SyncCause>,
}

impl Sync {
    fn is_owed(sync: Option<&Self>) -> bool {
        sync.is_some_and(|s| s.owed)
    }
}

#[derive(Debug)]
struct PendingBookmark {
    id: BookmarkId,
    bookmark: Bookmark,
}

/// The splitter of one volume. See the crate's page.
#[derive(Debug)]
pub struct Splitter {
    config: Config,
    ops: HashMap<OpId, Op>,
    holds: Holds,
    regions: Regions,
    /// Operations that wait for marks.
    unmarked: Vec<OpId>,
    bookmarks: Vec<PendingBookmark>,
    queue: Queue,
    copies: Copies,
    /// Lost by a hop; copied as soon as the activity log has it.
    lost: ExtentSet,
    /// What the receivers have of it may be the future of a disk that was set back; compared as soon as the activity log has it.
    doubted: ExtentSet,
    /// Another run is to begin.
    anew: Option<Waiting>,
    /// It is not known yet whether the receivers' history ends where this run begins: the sync that the run began with waits.
    unproven: bool,
    next_copy: u64,
    head: Lsn,
    head_time: WallTime,
    clock: SourceClock,
    bound: Lsn,
    bound_asked: bool,
    mode: Mode,
    sync: Option<Sync>,
    /// Where the newest sync began: a copy as of an earlier LSN could show at sound points what came later.
    floor: Lsn,
    fresh: bool,
    everywhere: Lsn,
    flushed: Lsn,
    resynced: u64,
    /// What the open sync may compare.
    comparison: Option<Comparison>,
}

impl Splitter {
    /// Begins a run: its first record is queued at once.
    #[must_use]
    pub fn start(config: Config, start: Start, now: Now, actions: &mut Vec<Action>) -> Self {
        let sync = start.run.sync.map(|cause| Sync {
            cause,
            done: 0,
            copied: 0,
            from_zero: cause == SyncCause::Baseline && start.fresh && start.dirty.is_empty(),
            owed: false,
            covered: None,
            joined: Vec::new(),
        });
        let mut splitter = Self {
            ops: HashMap::new(),
            holds: Holds::default(),
            regions: Regions::new(config.size, start.marks, start.first_lsn),
            unmarked: Vec::new(),
            bookmarks: Vec::new(),
            queue: Queue::new(config.queue_limit),
            copies: Copies::new(start.dirty),
            lost: ExtentSet::new(),
            doubted: ExtentSet::new(),
            anew: None,
            unproven: start.unproven,
            next_copy: 0,
            head: start.first_lsn.previous(),
            head_time: now.wall,
            clock: SourceClock::new(now),
            bound: start.bound,
            bound_asked: false,
            mode: Mode::Streaming,
            sync,
            floor: Lsn::ZERO,
            fresh: start.fresh,
            everywhere: Lsn::ZERO,
            flushed: Lsn::ZERO,
            resynced: 0,
            comparison: start.compare.then(|| Comparison::new(start.first_lsn)),
            config,
        };
        splitter.mark(Marker::RunStart(start.run), now);
        splitter.settle(now, actions);
        splitter
    }

    /// Applies one event; what must be done is appended to `actions`, in order.
    pub fn apply(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        let was_empty = self.queue.is_empty();
        // A barrier's time was agreed upon by all members.
        if !matches!(event, Event::Barrier { .. }) {
            self.note_clock(now);
        }
        match event {
            Event::Submit { op, extent, change } => self.submit(op, extent, change, now, actions),
            Event::Written { op, whole } => self.written(op, whole, now, actions),
            Event::Filled { op, extent, content } => self.filled(op, extent, content, now, actions),
            Event::MarksPersisted { generation, durable } => {
                self.marks_persisted(generation, durable, now, actions)
            }
            Event::BoundPersisted { bound } => {
                self.bound_asked = false;
                self.bound = bound.unwrap_or(self.bound).max(self.bound);
            }
            Event::CopyRead { copy, content, compared } => {
                let read = content.map(|content| Read { content, compared });
                self.copy_read(copy, read, now, actions);
            }
            Event::Durable { everywhere } => self.everywhere = self.everywhere.max(everywhere),
            Event::Flushed { head } => self.flushed = self.flushed.max(head),
            Event::Bookmark { id, bookmark } => self.bookmarks.push(PendingBookmark { id, bookmark }),
            Event::Resync { dirty } => {
                dirty.iter().for_each(|extent| self.regions.want_just(extent));
                self.lost = dirty.iter().chain(self.lost.iter()).collect();
            }
            Event::Proven => self.unproven = false,
            Event::SetBack { dirty } => {
                dirty.iter().for_each(|extent| self.regions.want_just(extent));
                self.doubted = dirty;
            }
            Event::BeginAnew(anew) => self.want_anew(*anew),
            Event::AnewPersisted { durable } => self.anew_persisted(durable, now),
            Event::Grow { size, data } => self.grow(size, &data, now),
            Event::Clock => {}
            Event::Barrier { mark, at } => self.put_barrier(mark, at),
            Event::Tick => self.clear_marks(now),
        }
        self.settle(now, actions);
        if was_empty && !self.queue.is_empty() {
            actions.push(Action::Wake);
        }
    }

    /// Takes captured records for sealing: about `bytes` of them, at most `records`.
    pub fn take(&mut self, bytes: u64, records: usize, now: Now, out: &mut Vec<Captured>) {
        self.queue.take(bytes, records, out);
        self.leave_bitmap_if_roomy(now);
    }

    /// The next stretch to copy, when there is one and room for it. Answer with [`Event::CopyRead`].
    pub fn next_copy(&mut self) -> Option<CopyTask> {
        let room = !Sync::is_owed(self.sync.as_ref())
            && self.queue.bytes() <= self.queue.limit() / 4
            && self.copies.active() < MAX_COPIES;
        if !room || self.mode == Mode::Bitmap {
            return None;
        }
        let extent = self.copies.take_next(self.config.copy_size)?;
        self.next_copy += 1;
        let (copy, spoiled) = (CopyId(self.next_copy), self.holds.busy(extent));
        let holder = copy_holder(copy);
        self.copies.begin(ActiveCopy { holder, extent, as_of: self.head, tries: 1, spoiled, locked: false });
        Some(self.task(copy, extent))
    }

    /// Bytes of the volume. Less than an [`Event::Grow`] said when its record could get no LSN: it is to be told again.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.config.size
    }

    /// Is the activity log on the disk as it should be?
    #[must_use]
    pub fn has_kept_marks(&self) -> bool {
        self.regions.is_kept()
    }

    /// The last LSN given.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.head
    }

    /// Streaming or not.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The open sync, if any.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        let sync = self.sync.as_ref()?;
        Some(Progress { cause: sync.cause, done: sync.done, total: sync.done + self.copies.bytes() })
    }

    /// Bytes of captured records waiting.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queue.bytes()
    }

    /// Bytes of volume that must still be copied.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.copies.bytes()
    }

    /// Bytes copied by this run for any sync but a baseline.
    #[must_use]
    pub fn resynced_bytes(&self) -> u64 {
        self.resynced
    }

    /// No operation is under way and nothing captured waits: a clean stop may follow.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.ops.is_empty() && self.queue.is_empty() && self.copies.active() == 0
    }

    /// Is the copy still under way? One that is may be read again.
    #[must_use]
    pub fn is_copying(&self, copy: CopyId) -> bool {
        self.copies.is_active(copy_holder(copy))
    }

    /// The activity log as it should be on disk.
    #[must_use]
    pub fn marks(&self) -> &RegionMarks {
        self.regions.marks()
    }

    /// How the volume is cut into regions.
    #[must_use]
    pub fn region_size(&self) -> RegionSize {
        self.regions.region()
    }

    /// The latest moment up to which the records up to [`Splitter::head`] are all that happened; `None` while
    /// a sync runs that began with the run itself.
    #[must_use]
    pub fn covered(&self, now: Now) -> Option<WallTime> {
        self.sync.as_ref().map_or(Some(now.wall), |s| s.covered)
    }

    /// Would a flush of the local disk let marks be cleared?
    #[must_use]
    pub fn wants_flush(&self, now: Now) -> bool {
        self.regions.flush_would_clear(self.flushed, self.everywhere, now.monotonic)
    }

    // ---- operations ----

    fn submit(&mut self, id: OpId, extent: Extent, change: Change, now: Now, actions: &mut Vec<Action>) {
        let op = Op::new(extent, change, self.config.size);
        let blocks = op.blocks;
        self.ops.insert(id, op);
        if self.holds.acquire(op_holder(id), blocks) {
            self.granted(id, blocks, now, actions);
        }
    }

    /// The operation holds its blocks: it may start as soon as their regions are marked.
    fn granted(&mut self, id: OpId, blocks: Extent, now: Now, actions: &mut Vec<Action>) {
        self.copies.spoil(blocks);
        if self.regions.ready(blocks) {
            actions.push(Action::Start(id));
        } else {
            self.regions.want(blocks, now.monotonic);
            self.unmarked.push(id);
        }
    }

    fn written(&mut self, id: OpId, whole: bool, now: Now, actions: &mut Vec<Action>) {
        let Some(op) = self.ops.get(&id) else { return };
        if !whole {
            self.give_up(id, now, actions);
        } else if op.is_complete() {
            self.capture(id, now, actions);
        } else {
            actions.extend(op.edges().map(|extent| Action::Fill { op: id, extent }));
        }
    }

    fn filled(
        &mut self,
        id: OpId,
        extent: Extent,
        content: Option<Bytes>,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        match content {
            Some(content) if content.len() == tap_block::units::index(extent.length()) => {
                op.fill(extent, content);
                if op.is_complete() {
                    self.capture(id, now, actions);
                }
            }
            _ => self.give_up(id, now, actions),
        }
    }

    /// What it left on the disk is not known: no LSN, and its blocks are copied.
    fn give_up(&mut self, id: OpId, now: Now, actions: &mut Vec<Action>) {
        if let Some(op) = self.ops.remove(&id) {
            self.open_sync(SyncCause::FailedWrite, now);
            self.mark_unrecorded(op.blocks);
            self.finish(id, op.blocks, now, actions);
        }
    }

    /// The disk has it: it gets its place in history, or is noted as dirty when there is no room.
    fn capture(&mut self, id: OpId, now: Now, actions: &mut Vec<Action>) {
        let Some(op) = self.ops.remove(&id) else { return };
        let blocks = op.blocks;
        if self.mode == Mode::Streaming && !self.has_room(&op) {
            self.enter_bitmap(now);
        }
        match self.mode {
            Mode::Streaming => {
                op.for_each_piece(|content| self.push_record(content, now));
                self.regions.touch(blocks, self.head, now.monotonic);
            }
            Mode::Bitmap => self.mark_unrecorded(blocks),
        }
        self.finish(id, blocks, now, actions);
    }

    /// The disk has something there that no record says.
    fn mark_unrecorded(&mut self, blocks: Extent) {
        self.copies.mark(blocks, self.config.size);
        self.comparison.take_if(|c| !c.changed_without_record(blocks));
    }

    fn has_room(&self, op: &Op) -> bool {
        let (records, data) = op.cost();
        self.queue.admits(records, data) && self.lsns_left() > records + SPARE_LSNS
    }

    fn finish(&mut self, id: OpId, blocks: Extent, now: Now, actions: &mut Vec<Action>) {
        actions.push(Action::Answer(id));
        self.release(blocks, now, actions);
    }

    fn release(&mut self, blocks: Extent, now: Now, actions: &mut Vec<Action>) {
        let mut granted = Vec::new();
        self.holds.release(blocks, &mut granted);
        for holder in granted {
            match owner_of(holder) {
                Owner::Op(op) => {
                    let Some(blocks) = self.ops.get(&op).map(|o| o.blocks) else { continue };
                    self.granted(op, blocks, now, actions);
                }
                Owner::Copy(copy) => self.copy_locked(copy, actions),
            }
        }
    }

    fn marks_persisted(&mut self, generation: u64, durable: bool, now: Now, actions: &mut Vec<Action>) {
        if durable {
            self.regions.persisted(generation);
        } else {
            self.regions.persist_failed(generation);
        }
        for id in std::mem::take(&mut self.unmarked) {
            let Some(blocks) = self.ops.get(&id).map(|o| o.blocks) else { continue };
            self.granted(id, blocks, now, actions);
        }
    }

    fn clear_marks(&mut self, now: Now) {
        let (holds, copies, lost, doubted) = (&self.holds, &self.copies, &self.lost, &self.doubted);
        let sound = self.everywhere.min(self.flushed);
        let anew = self.anew.is_some();
        let waits = |e| anew || copies.concerns(e) || lost.overlaps(e) || doubted.overlaps(e);
        self.regions.clear(sound, now.monotonic, |e| holds.busy(e) || waits(e));
    }

    // ---- copies ----

    fn task(&self, copy: CopyId, extent: Extent) -> CopyTask {
        let compare = self.comparison.as_ref().map(Comparison::since);
        CopyTask {
            copy,
            extent: Extent::between(extent.offset(), extent.end().min(self.config.size)),
            compare,
        }
    }

    fn copy_read(&mut self, id: CopyId, read: Option<Read>, now: Now, actions: &mut Vec<Action>) {
        let head = self.head;
        let busy = self.copies.find(copy_holder(id)).map(|c| self.holds.busy(c.extent));
        let Some(copy) = self.copies.find(copy_holder(id)) else { return };
        if copy.spoiled && read.is_some() && copy.tries < TRIES {
            (copy.tries, copy.as_of, copy.spoiled) = (copy.tries + 1, head, busy.unwrap_or(true));
            let extent = copy.extent;
            actions.push(Action::Copy(self.task(id, extent)));
        } else if copy.spoiled && read.is_some() {
            let extent = copy.extent;
            if self.holds.acquire(copy_holder(id), extent) {
                self.copy_locked(id, actions);
            }
        } else {
            self.copy_done(id, read, now, actions);
        }
    }

    /// The copy holds its extent: what it reads now cannot be spoiled.
    fn copy_locked(&mut self, id: CopyId, actions: &mut Vec<Action>) {
        let head = self.head;
        if let Some(copy) = self.copies.find(copy_holder(id)) {
            (copy.locked, copy.spoiled, copy.as_of) = (true, false, head);
            let extent = copy.extent;
            actions.push(Action::Copy(self.task(id, extent)));
        }
    }

    fn copy_done(&mut self, id: CopyId, read: Option<Read>, now: Now, actions: &mut Vec<Action>) {
        let Some(copy) = self.copies.finish(copy_holder(id)) else { return };
        match read.filter(|_| copy.as_of >= self.floor && !Sync::is_owed(self.sync.as_ref())) {
            Some(read) => self.push_copy(&copy, &read, now),
            None => self.copies.mark(copy.extent, self.config.size),
        }
        if copy.locked {
            self.release(copy.extent, now, actions);
        }
    }

    fn push_copy(&mut self, copy: &ActiveCopy, read: &Read, now: Now) {
        let position = Position::copy_as_of(copy.as_of);
        let mut copied = 0;
        for extent in self.to_copy(copy.extent, read.compared.as_ref()).iter() {
            op::split_at_zeroes(extent, &read.of(extent, copy.extent), |piece| {
                if let Content::Write { extent, .. } = &piece {
                    copied += extent.length();
                } else if self.fresh {
                    return; // a gateway that has nothing shows zeroes anyway
                }
                self.queue.push(Captured { position, captured_at: self.head_time, content: piece });
            });
        }
        // Durable once the record after the as-of LSN is: delivery is in order.
        self.regions.touch(copy.extent, self.head.next(), now.monotonic);
        if let Some(sync) = &mut self.sync {
            sync.done += copy.extent.length();
            sync.copied += copied;
        }
        if self.sync.as_ref().is_none_or(|s| s.cause != SyncCause::Baseline) {
            self.resynced += copied;
        }
    }

    /// What the receivers do not have.
    fn to_copy(&self, extent: Extent, compared: Option<&Compared>) -> ExtentSet {
        let mut rest: ExtentSet = std::iter::once(extent).collect();
        if let (Some(comparison), Some(compared)) = (&self.comparison, compared) {
            comparison.same(extent, compared).iter().for_each(|same| rest.remove(same));
        }
        rest
    }

    // ---- history ----

    fn lsns_left(&self) -> u64 {
        self.bound.get().saturating_sub(self.head.get() + 1)
    }

    fn push_record(&mut self, content: Content, now: Now) {
        self.head = self.head.next();
        self.head_time = self.head_time.max(now.wall);
        let position = Position::record(self.head);
        self.queue.push(Captured { position, captured_at: self.head_time, content });
    }

    fn mark(&mut self, marker: Marker, now: Now) {
        self.push_record(Content::Mark(marker), now);
    }

    fn enter_bitmap(&mut self, now: Now) {
        self.mode = Mode::Bitmap;
        self.open_sync(SyncCause::Overflow, now);
    }

    /// From here on the disk has content that no record says: copies read from now on must not show at the
    /// points before, so the marker's LSN parts them.
    fn open_sync(&mut self, cause: SyncCause, now: Now) {
        self.fresh = false; // a block that is zero now may not be zero in history
        if self.sync.is_some() {
            return;
        }
        let owed = self.lsns_left() == 0;
        self.sync = Some(Sync {
            cause,
            done: 0,
            copied: 0,
            from_zero: false,
            owed,
            covered: Some(now.wall),
            joined: Vec::new(),
        });
        if !owed {
            self.mark(Marker::SyncStart { cause }, now);
            self.floor = self.head;
        }
    }

    /// What came with content is copied: no record says it.
    fn grow(&mut self, size: u64, data: &ExtentSet, now: Now) {
        if size <= self.config.size || self.lsns_left() == 0 {
            return;
        }
        self.config.size = size;
        self.regions.grow(size, self.head.next());
        self.push_record(Content::Resize { size }, now);
        if !data.is_empty() {
            self.open_sync(SyncCause::ChangedUnwatched, now);
        }
        for extent in data.iter() {
            self.regions.want_just(extent);
            self.mark_unrecorded(extent);
        }
    }

    /// What a hop lost is copied once the activity log says so: whoever hears that this sync began believes its end,
    /// and a kill in between must not leave the rest out.
    fn resync_lost(&mut self, now: Now) {
        if self.lost.is_empty() || !self.lost.iter().all(|extent| self.regions.ready(extent)) {
            return;
        }
        self.open_sync(SyncCause::HopLost, now);
        self.join_sync(SyncCause::HopLost, now);
        // What is lost below is not known there either: it is copied, not compared.
        self.comparison = None;
        let lost = std::mem::take(&mut self.lost);
        lost.iter().for_each(|extent| self.copies.mark(extent, self.config.size));
    }

    /// The disk was set back, and the receivers have what it held afterwards: everything is compared once the activity log says
    /// so, for the same reason.
    fn compare_doubted(&mut self, now: Now) {
        if self.doubted.is_empty() || !self.doubted.iter().all(|extent| self.regions.ready(extent)) {
            return;
        }
        self.open_sync(SyncCause::ChangedUnwatched, now);
        self.join_sync(SyncCause::ChangedUnwatched, now);
        self.unproven = false;
        // A hop that lost records need not have what its hashes would be of.
        let is_lost = |s: &Sync| s.cause == SyncCause::HopLost || s.joined.contains(&SyncCause::HopLost);
        self.comparison = (!self.sync.as_ref().is_some_and(is_lost)).then(|| Comparison::new(self.head));
        let doubted = std::mem::take(&mut self.doubted);
        doubted.iter().for_each(|extent| self.copies.mark(extent, self.config.size));
    }

    /// Tells of a cause that came while a sync of another was open already; both end together. A hop that lost records takes
    /// nothing more until it sees this marker.
    fn join_sync(&mut self, cause: SyncCause, now: Now) {
        let spare = self.lsns_left() > 0;
        let Some(sync) = self.sync.as_mut().filter(|s| s.cause != cause) else { return };
        if spare {
            sync.joined.retain(|joined| *joined != cause);
            sync.joined.push(cause);
            self.mark(Marker::SyncStart { cause }, now);
            self.floor = self.head;
        }
    }

    fn leave_bitmap_if_roomy(&mut self, now: Now) {
        let roomy = self.queue.bytes() <= self.queue.limit() / 8 && self.lsns_left() > SPARE_LSNS;
        if !roomy || (self.mode == Mode::Streaming && !Sync::is_owed(self.sync.as_ref())) {
            return;
        }
        self.mode = Mode::Streaming;
        if let Some(sync) = self.sync.as_mut().filter(|s| s.owed) {
            sync.owed = false;
            let cause = sync.cause;
            self.mark(Marker::SyncStart { cause }, now);
            self.floor = self.head;
        }
    }

    /// What follows from the state itself, whatever event led to it.
    fn settle(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.leave_bitmap_if_roomy(now);
        self.resync_lost(now);
        self.compare_doubted(now);
        let waits = self.unproven || !self.doubted.is_empty();
        if self.mode == Mode::Streaming && !waits && self.copies.done() && self.lsns_left() > 1 {
            self.end_sync(now);
        }
        if !self.bookmarks.is_empty() {
            self.place_bookmarks(now, actions);
        }
        if let Some((generation, marks)) = self.regions.poll_persist() {
            actions.push(Action::PersistMarks { generation, marks });
        }
        self.ask_for_anew(actions);
        if !self.bound_asked && self.lsns_left() < RESERVATION / 2 {
            self.bound_asked = true;
            actions.push(Action::PersistBound(self.head.plus(RESERVATION)));
        }
    }

    fn end_sync(&mut self, now: Now) {
        let Some(Sync { cause, copied, from_zero, joined, .. }) = self.sync.take() else { return };
        (self.fresh, self.comparison) = (false, None);
        self.mark(Marker::SyncEnd { cause, copied, from_zero }, now);
        for cause in joined {
            self.mark(Marker::SyncEnd { cause, copied, from_zero: false }, now);
        }
    }

    fn place_bookmarks(&mut self, now: Now, actions: &mut Vec<Action>) {
        for PendingBookmark { id, bookmark } in std::mem::take(&mut self.bookmarks) {
            if self.sync.is_some() || self.lsns_left() == 0 {
                actions.push(Action::BookmarkRefused(id));
                continue;
            }
            self.mark(Marker::Bookmark(bookmark), now);
            actions.push(Action::Bookmarked { id, lsn: self.head, at: self.head_time });
        }
    }
}

/// Rounds `extent` out to whole blocks.
pub(crate) const fn whole_blocks(extent: Extent) -> Extent {
    extent.aligned_to(BLOCK_SIZE)
}
