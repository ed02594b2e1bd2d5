//! One protected volume: the splitter, its disk, and everything that waits for one of them.
//!
//! The splitter lives behind one lock that is held for microseconds; no I/O happens under it. Local operations
//! run on the thread that brought them (a page-cache write costs less than a hop), their completions on
//! whatever thread they come from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use cx_wire::{AskCode, AskError, Hashes};
use tap_block::{
    Answer, Answered, BLOCK_SIZE, BlockDevice, Bookmark, Clock, CompletionQueue, DeviceError, Extent,
    ExtentSet, Geometry, Lsn, Monotonic, Name, Op, Outcome, Ticket, WallTime,
};
use tap_disk::{FileDevice, RealClock};
use tap_splitter::seal::Identity;
use tap_splitter::{
    Action, Anew, BookmarkId, Captured, Change, CopyId, CopyTask, Event, Mode, Now, OpId, Progress,
    RegionMarks, Splitter,
};

use crate::compare::{Inquiry, compare};
use crate::group::Group;
use crate::local;
use crate::profiling::Probe;

mod together;

pub(crate) use together::{Locked, together};

/// After a read for a copy failed, the next is tried this much later.
const COPY_PAUSE: Duration = Duration::from_secs(1);

/// While a volume stops, what is still under way is looked for this often.
const LAST_LOOKS: Duration = Duration::from_millis(5);

/// What an answer to a bookmark request looks like.
pub(crate) type BookmarkReply = Box<dyn FnOnce(Result<(Lsn, WallTime), AskError>) + Send>;

/// A protected volume as the rest of the tap sees it. As a [`BlockDevice`] it is the disk the guest uses.
pub(crate) struct Volume {
    name: Name,
    disk: Arc<FileDevice>,
    clock: RealClock,
    core: Mutex<Core>,
    /// Records wait, or the volume stops.
    sealable: Condvar,
    /// Something must be made durable, or the volume stops.
    chores_there: Condvar,
    /// A copy may be possible, or the volume stops.
    copyable: Condvar,
    /// Nobody but [`Volume::stop`] notifies this one: a wait on it is a pause that a stop cuts short.
    paused: Condvar,
    /// Every write that was answered has its LSN, while a barrier waits for that.
    /// Who finds out what the gateways have; without one, nothing is compared.
    inquiry: OnceLock<Inquiry>,
    /// The consistency group that it is a member of.
    group: OnceLock<Weak<Group>>,
    /// One at a time looks whether the disk has grown.
    sizing: Mutex<()>,
    /// Who is told what guests do; without one, nobody is.
    probe: OnceLock<Probe>,
    /// Handed to the disk as the place for completions.
    me: Weak<Volume>,
}

/// One life of a tap: whose its records are, and where they begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) whose: Identity,
    pub(crate) first: Lsn,
}

struct Core {
    splitter: Splitter,
    life: Life,
    /// The one that is to begin in its place.
    next_life: Option<Life>,
    next_tag: u64,
    /// What runs on the local disk, by the tag of its completion.
    running: HashMap<u64, Running>,
    /// Submitted by a guest and not yet answered.
    guests: HashMap<OpId, Guest>,
    next_op: u64,
    chores: VecDeque<Chore>,
    bookmarks: HashMap<BookmarkId, Wanted>,
    next_bookmark: u64,
    copy_after: Monotonic,
    /// The copier was woken since it last looked.
    copy_wanted: bool,
    /// Copies that are not read before it is known what the gateways have there.
    asked: HashMap<CopyId, CopyTask>,
    /// What they have, where that is known, until the copy is over.
    told: HashMap<CopyId, Hashes>,
    stopping: bool,
}

/// What must be made durable before the splitter goes on.
#[derive(Debug)]
pub(crate) enum Chore {
    Marks { generation: u64, marks: RegionMarks },
    Bound(Lsn),
    Anew { life: Life, anew: Box<Anew> },
}

struct Guest {
    op: Option<Op>,
    ticket: Ticket,
    /// What came of it, while a barrier keeps the answer back.
    outcome: Option<Outcome>,
}

enum Running {
    Guest(OpId),
    Fill(OpId, Extent),
    Copy(CopyTask),
}

struct Wanted {
    bookmark: Bookmark,
    reply: BookmarkReply,
    deadline: Monotonic,
    /// It is with the splitter, behind acknowledged writes that have no LSN yet.
    placed: bool,
}

/// What to do once the lock is released.
#[derive(Default)]
struct Later {
    /// On the local disk, by tag; true for one that this thread may wait for.
    disk: Vec<(u64, Op, bool)>,
    /// What a guest submits on this thread, which waits for nothing else.
    alone: Option<OpId>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// A moment's view, for heartbeats and status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) head: Lsn,
    pub(crate) at: WallTime,
    pub(crate) covered: Option<WallTime>,
    pub(crate) mode: Mode,
    pub(crate) sync: Option<Progress>,
    pub(crate) queued: u64,
    pub(crate) dirty: u64,
    pub(crate) resynced: u64,
    pub(crate) wants_flush: bool,
}

impl Volume {
    pub(crate) fn new(
        name: Name,
        disk: Arc<FileDevice>,
        life: Life,
        begin: impl FnOnce(Now, &mut Vec<Action>) -> Splitter,
    ) -> Arc<Self> {
        let mut actions = Vec::new();
        let splitter = begin(now(&RealClock), &mut actions);
        let core = Core {
            splitter,
            life,
            next_life: None,
            next_tag: 0,
            running: HashMap::new(),
            guests: HashMap::new(),
            next_op: 0,
            chores: VecDeque::new(),
            bookmarks: HashMap::new(),
            next_bookmark: 0,
            copy_after: Monotonic::default(),
            copy_wanted: false,
            asked: HashMap::new(),
            told: HashMap::new(),
            stopping: false,
        };
        let volume = Arc::new_cyclic(|me| Self {
            name,
            disk,
            clock: RealClock,
            core: Mutex::new(core),
            sealable: Condvar::new(),
            chores_there: Condvar::new(),
            copyable: Condvar::new(),
            paused: Condvar::new(),
            inquiry: OnceLock::new(),
            group: OnceLock::new(),
            sizing: Mutex::new(()),
            probe: OnceLock::new(),
            me: me.clone(),
        });
        volume.change(|volume, core, later| volume.carry_out(core, actions, later));
        volume
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn disk(&self) -> &FileDevice {
        &self.disk
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = now(&self.clock);
        let core = self.lock();
        let s = &core.splitter;
        Snapshot {
            head: s.head(),
            at: now.wall,
            covered: s.covered(now),
            mode: s.mode(),
            sync: s.progress(),
            queued: s.queued_bytes(),
            dirty: s.dirty_bytes(),
            resynced: s.resynced_bytes(),
            wants_flush: s.wants_flush(now),
        }
    }

    /// Tells the splitter something.
    pub(crate) fn apply(&self, event: Event) {
        self.change(|volume, core, later| volume.feed(core, event, later));
    }

    /// Waits up to `patience` for records; the bytes that wait.
    pub(crate) fn wait_for_records(&self, patience: Duration) -> u64 {
        let mut core = self.lock();
        if core.splitter.queued_bytes() == 0 {
            let patience = if core.stopping { patience.min(LAST_LOOKS) } else { patience };
            (core, _) = self.sealable.wait_timeout(core, patience).unwrap_or_else(PoisonError::into_inner);
        }
        core.splitter.queued_bytes()
    }

    /// Waits while more records come in, unless the volume stops.
    pub(crate) fn linger(&self, time: Duration) {
        let core = self.lock();
        if !core.stopping {
            drop(self.paused.wait_timeout(core, time).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Takes about `bytes` of records, and whose they are; `None` once the volume stops and nothing is left.
    pub(crate) fn take(&self, bytes: u64, records: usize) -> Option<(Identity, Vec<Captured>)> {
        let mut core = self.lock();
        let mut taken = Vec::new();
        core.splitter.take(bytes, records, now(&self.clock), &mut taken);
        let over = core.stopping && taken.is_empty() && core.splitter.is_quiet();
        let whose = core.life.whose;
        drop(core);
        (!over).then_some((whose, taken))
    }

    /// Waits up to `patience` for something that must be made durable.
    pub(crate) fn next_chore(&self, patience: Duration) -> Option<Chore> {
        let mut core = self.lock();
        if core.chores.is_empty() {
            (core, _) =
                self.chores_there.wait_timeout(core, patience).unwrap_or_else(PoisonError::into_inner);
        }
        core.chores.pop_front()
    }

    /// Time went by: late bookmarks are refused, waiting ones tried again, copies begun.
    pub(crate) fn tick(&self) {
        self.change(|volume, core, later| {
            volume.feed(core, Event::Tick, later);
            volume.review_bookmarks(core, later);
        });
    }

    /// Begins the copies there is room for, and waits up to `patience` for more to be possible; false once the volume
    /// stops.
    pub(crate) fn copy(&self, patience: Duration) -> bool {
        self.change(|volume, core, later| volume.start_copies(core, later));
        let mut core = self.lock();
        if !core.stopping && !core.copy_wanted {
            (core, _) = self.copyable.wait_timeout(core, patience).unwrap_or_else(PoisonError::into_inner);
        }
        core.copy_wanted = false;
        !core.stopping
    }

    /// A copy may be possible: one ended, room was made, or there is more to copy.
    pub(crate) fn wake_copier(&self) {
        self.lock().copy_wanted = true;
        self.copyable.notify_one();
    }

    /// Places a bookmark behind every write acknowledged before now; waits up to `wait` for a sync to end.
    pub(crate) fn bookmark(&self, bookmark: Bookmark, wait: Duration, reply: BookmarkReply) {
        self.change(|volume, core, later| {
            core.next_bookmark += 1;
            let deadline = volume.clock.monotonic().plus(wait);
            let wanted = Wanted { bookmark, reply, deadline, placed: false };
            core.bookmarks.insert(BookmarkId(core.next_bookmark), wanted);
            volume.review_bookmarks(core, later);
        });
    }

    /// Copies these stretches again, because a hop below lost records.
    pub(crate) fn resync(&self, dirty: ExtentSet) {
        self.apply(Event::Resync { dirty });
    }

    /// Compares these stretches with what is below, because the disk was set back.
    pub(crate) fn set_back(&self, dirty: ExtentSet) {
        self.apply(Event::SetBack { dirty });
    }

    /// The present life.
    pub(crate) fn life(&self) -> Life {
        self.lock().life
    }

    /// Has the present life end as if it had never been, and another begin, which compares the whole disk with what is below. False
    /// when one is about to already.
    pub(crate) fn begin_anew(&self, life: Life, anew: Anew) -> bool {
        let mut is_first = false;
        self.change(|volume, core, later| {
            is_first = core.next_life.is_none();
            if is_first {
                core.next_life = Some(life);
                volume.feed(core, Event::BeginAnew(Box::new(anew)), later);
            }
        });
        is_first
    }

    /// The new life is in the tap's state: it begins. Not when that failed.
    pub(crate) fn anew_persisted(&self, durable: bool) {
        self.change(|volume, core, later| {
            if let Some(life) = core.next_life.take_if(|_| durable) {
                core.life = life;
            }
            volume.feed(core, Event::AnewPersisted { durable }, later);
        });
        self.wake_copier();
    }

    /// Takes over the size of a disk that was made larger; whoever opens it from here on sees it. One that was made smaller keeps
    /// its size, and fails behind its end.
    pub(crate) fn follow_size(&self) {
        let _one = self.sizing.lock().unwrap_or_else(PoisonError::into_inner);
        let growth = match self.disk.growth() {
            Ok(None) => return,
            Ok(Some(growth)) => growth,
            Err(e) => return tracing::warn!(volume = %self.name, "looking whether the disk has grown: {e}"),
        };
        let size = growth.size;
        self.change(|volume, core, later| {
            let (size, data) = (growth.size, growth.data);
            volume.feed(core, Event::Grow { size, data }, later);
            // Nobody writes to what came before history knows of it.
            volume.disk.grow_to(core.splitter.size());
        });
        if self.geometry().size == size {
            tracing::info!(volume = %self.name, size, "the protected disk has grown");
        }
        self.wake_copier();
    }

    /// Is the activity log on the disk as it should be?
    pub(crate) fn has_kept_marks(&self) -> bool {
        self.lock().splitter.has_kept_marks()
    }

    /// It is a member of this group from here on.
    pub(crate) fn join(&self, group: &Arc<Group>) {
        // Twice would be a mistake that whoever forms groups has ruled out.
        let _ = self.group.set(Arc::downgrade(group));
    }

    /// The consistency group that it is a member of.
    pub(crate) fn group(&self) -> Option<Arc<Group>> {
        self.group.get()?.upgrade()
    }

    /// From here on what guests do is told.
    pub(crate) fn observe(&self, probe: Probe) {
        // Twice would be a mistake without consequences: the first one stays.
        let _ = self.probe.set(probe);
    }

    /// From here on copies may be compared first.
    pub(crate) fn compare_with(&self, inquiry: Inquiry) {
        // Twice would be a mistake without consequences: the first one stays.
        let _ = self.inquiry.set(inquiry);
    }

    /// The answer to an inquiry; `None` when there is none: the stretch is copied as a whole.
    pub(crate) fn told(&self, copy: CopyId, found: Option<Hashes>) {
        self.change(|_, core, later| {
            // One that came too late for a copy that was given up.
            let Some(task) = core.asked.remove(&copy) else { return };
            core.told.extend(found.map(|found| (copy, found)));
            core.read_copy(task, later);
        });
    }

    /// No new operation is accepted; threads that wait are woken.
    pub(crate) fn stop(&self) {
        self.change(|volume, core, later| {
            core.stopping = true;
            for copy in std::mem::take(&mut core.asked).into_keys() {
                volume.feed(core, Event::CopyRead { copy, content: None, compared: None }, later);
            }
        });
        self.sealable.notify_all();
        self.chores_there.notify_all();
        self.copyable.notify_all();
        self.paused.notify_all();
    }

    /// Lets another tap have the disk of a volume that was stopped, unless a write that it took could still reach it: then the disk
    /// is free when the volume is gone.
    pub(crate) fn let_go(&self) {
        let core = self.lock();
        if core.stopping && core.guests.is_empty() {
            self.disk.release();
        }
    }

    /// Nothing under way and nothing captured waits.
    pub(crate) fn is_quiet(&self) -> bool {
        let core = self.lock();
        core.splitter.is_quiet() && core.chores.is_empty()
    }

    /// The activity log as it should be on disk.
    pub(crate) fn marks(&self) -> RegionMarks {
        self.lock().splitter.marks().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core under its lock, and does what follows after it is released.
    fn change(&self, change: impl FnOnce(&Self, &mut Core, &mut Later)) {
        let mut later = Later::default();
        change(self, &mut self.lock(), &mut later);
        self.follow(later);
    }

    /// Does what follows from a change.
    fn follow(&self, later: Later) {
        for answer in later.answers {
            answer();
        }
        if later.disk.is_empty() {
            return;
        }
        let Some(me) = self.me.upgrade() else { return };
        local::run(later.disk.into_iter().map(|(tag, op, alone)| {
            let ticket = Ticket::new(tag, Arc::clone(&me) as _);
            let ticket = if alone { ticket.alone() } else { ticket };
            (Arc::clone(&self.disk) as Arc<dyn BlockDevice>, op, ticket)
        }));
    }

    fn feed(&self, core: &mut Core, event: Event, later: &mut Later) {
        let mut actions = Vec::new();
        core.splitter.apply(event, now(&self.clock), &mut actions);
        self.carry_out(core, actions, later);
    }

    fn carry_out(&self, core: &mut Core, actions: Vec<Action>, later: &mut Later) {
        for action in actions {
            match action {
                Action::Start(id) => {
                    if let Some(op) = core.guests.get_mut(&id).and_then(|g| g.op.take()) {
                        later.disk.push((core.run(Running::Guest(id)), op, later.alone == Some(id)));
                    }
                }
                Action::Fill { op, extent } => {
                    later.disk.push((core.run(Running::Fill(op, extent)), Op::Read { extent }, false));
                }
                Action::Copy(task) => core.read_copy(task, later),
                Action::PersistMarks { generation, marks } => {
                    self.chore(core, Chore::Marks { generation, marks })
                }
                Action::PersistBound(bound) => self.chore(core, Chore::Bound(bound)),
                Action::PersistAnew(anew) => {
                    if let Some(life) = core.next_life {
                        self.chore(core, Chore::Anew { life, anew });
                    }
                }
                Action::Bookmarked { id, lsn, at } => {
                    if let Some(wanted) = core.bookmarks.remove(&id) {
                        later.answers.push(Box::new(move || (wanted.reply)(Ok((lsn, at)))));
                    }
                }
                Action::BookmarkRefused(id) => {
                    if let Some(wanted) = core.bookmarks.get_mut(&id) {
                        wanted.placed = false;
                    }
                }
                Action::Wake => self.sealable.notify_one(),
                Action::Answer(id) => core.answer(id, later),
            }
        }
    }

    fn chore(&self, core: &mut Core, chore: Chore) {
        core.chores.push_back(chore);
        self.chores_there.notify_one();
    }

    fn start_copies(&self, core: &mut Core, later: &mut Later) {
        if core.stopping || self.clock.monotonic() < core.copy_after {
            return;
        }
        let Core { splitter, told, .. } = &mut *core;
        told.retain(|copy, _| splitter.is_copying(*copy));
        while let Some(task) = core.splitter.next_copy() {
            // The gateways are asked before the disk is read: a read is soon over, whoever writes meanwhile.
            if self.inquiry.get().is_some_and(|inquiry| inquiry.ask(task)) {
                core.asked.insert(task.copy, task);
            } else {
                core.read_copy(task, later);
            }
        }
    }

    fn review_bookmarks(&self, core: &mut Core, later: &mut Later) {
        if core.bookmarks.is_empty() {
            return;
        }
        let (now, syncing) = (self.clock.monotonic(), core.splitter.progress());
        let ready = |w: &Wanted| !w.placed && syncing.is_none();
        let due: Vec<BookmarkId> =
            core.bookmarks.iter().filter(|(_, w)| ready(w)).map(|(id, _)| *id).collect();
        for id in due {
            let Some(wanted) = core.bookmarks.get_mut(&id) else { continue };
            wanted.placed = true;
            let bookmark = wanted.bookmark.clone();
            self.feed(core, Event::Bookmark { id, bookmark }, later);
        }
        let late = |w: &Wanted| !w.placed && (w.deadline <= now);
        let late: Vec<BookmarkId> =
            core.bookmarks.iter().filter(|(_, w)| late(w)).map(|(id, _)| *id).collect();
        for wanted in late.into_iter().filter_map(|id| core.bookmarks.remove(&id)) {
            let error = too_early(syncing);
            later.answers.push(Box::new(move || (wanted.reply)(Err(error))));
        }
    }

    fn submit_change(&self, extent: Extent, change: Change, op: Op, ticket: Ticket) {
        self.change(|volume, core, later| {
            if core.stopping {
                return; // the ticket completes with Stopped as it is dropped
            }
            core.next_op += 1;
            let id = OpId(core.next_op);
            later.alone = ticket.is_alone().then_some(id);
            core.guests.insert(id, Guest { op: Some(op), ticket, outcome: None });
            volume.feed(core, Event::Submit { op: id, extent, change }, later);
        });
    }

    fn guest_done(&self, id: OpId, outcome: Outcome) {
        self.change(|volume, core, later| {
            if let Some(guest) = core.guests.get_mut(&id) {
                guest.outcome = Some(outcome);
                let whole = matches!(guest.outcome, Some(Ok(_)));
                volume.feed(core, Event::Written { op: id, whole }, later);
            }
        });
    }

    fn copy_done(&self, task: CopyTask, outcome: Outcome) {
        let content =
            outcome.inspect_err(|e| tracing::warn!(volume = %self.name, "reading for a copy: {e}")).ok();
        let told = self.lock().told.get(&task.copy).cloned();
        let seed = self.inquiry.get().map_or(0, Inquiry::seed);
        let compared =
            content.as_ref().zip(told).and_then(|(c, found)| compare(seed, task.extent, c, &found));
        let copy = task.copy;
        self.change(|volume, core, later| {
            if content.is_none() {
                core.copy_after = volume.clock.monotonic().plus(COPY_PAUSE);
            }
            volume.feed(core, Event::CopyRead { copy, content, compared }, later);
            volume.review_bookmarks(core, later);
        });
        self.wake_copier();
    }
}

impl Core {
    /// The guest hears what came of its operation.
    fn answer(&mut self, id: OpId, later: &mut Later) {
        if let Some(Guest { ticket, outcome: Some(outcome), .. }) = self.guests.remove(&id) {
            later.answers.push(Box::new(move || ticket.complete(outcome)));
        }
    }

    fn run(&mut self, what: Running) -> u64 {
        self.next_tag += 1;
        self.running.insert(self.next_tag, what);
        self.next_tag
    }

    fn read_copy(&mut self, task: CopyTask, later: &mut Later) {
        later.disk.push((self.run(Running::Copy(task)), Op::Read { extent: task.extent }, false));
    }
}

impl CompletionQueue for Volume {
    fn complete(&self, tag: u64, answered: Answered) {
        let outcome = answered.map(Answer::into_bytes);
        let what = self.lock().running.remove(&tag);
        match what {
            Some(Running::Guest(id)) => self.guest_done(id, outcome),
            Some(Running::Fill(op, extent)) => {
                let content = outcome.ok();
                self.apply(Event::Filled { op, extent, content });
            }
            Some(Running::Copy(task)) => self.copy_done(task, outcome),
            None => {}
        }
    }
}

impl BlockDevice for Volume {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        if let Err(refused) = self.geometry().admit(&op) {
            return ticket.complete(Err(refused));
        }
        if let Some(probe) = self.probe.get() {
            probe.note(&op);
        }
        match op {
            Op::Read { .. } | Op::Cache { .. } | Op::Status { .. } | Op::Flush => {
                self.disk.submit(op, ticket);
            }
            Op::Write { ref data, .. } if data.is_empty() => ticket.complete(Ok(Bytes::new())),
            Op::Write { offset, ref data, .. } => {
                let (extent, data) =
                    (Extent::between(offset, offset + tap_block::units::count(data.len())), data.clone());
                self.submit_change(extent, Change::Write(data), op, ticket);
            }
            // What is written has to pass through here.
            Op::Copy { .. } => {
                let why = "what is copied on a protected disk is captured as it is written".to_owned();
                ticket.complete(Err(DeviceError::Unsupported(why)));
            }
            Op::Zero { extent, .. } if extent.is_empty() => ticket.complete(Ok(Bytes::new())),
            // Refused before it starts: what failed on the disk would be read again as a whole.
            Op::Zero { may_trim, fast: true, .. } if !self.disk.zeroes_fast(may_trim) => {
                ticket.complete(Err(DeviceError::Unsupported("the disk cannot make zeroes fast".to_owned())));
            }
            Op::Zero { extent, fua, may_trim, .. } => {
                let op = Op::Zero { extent, fua, may_trim, fast: false };
                self.submit_change(extent, Change::Zero, op, ticket);
            }
            Op::Trim { extent, fua } => match self.trimmable(extent) {
                Some(extent) => {
                    let op = Op::Zero { extent, fua, may_trim: true, fast: false };
                    self.submit_change(extent, Change::Zero, op, ticket);
                }
                None => ticket.complete(Ok(Bytes::new())),
            },
        }
    }
}

impl Volume {
    /// A trim is executed as guaranteed zeroes of whole blocks, or not at all.
    fn trimmable(&self, extent: Extent) -> Option<Extent> {
        let size = self.geometry().size;
        let start = extent.offset().checked_next_multiple_of(BLOCK_SIZE)?;
        let end = if extent.end() == size { size } else { extent.end() / BLOCK_SIZE * BLOCK_SIZE };
        (self.disk.trims() && start < end).then(|| Extent::between(start, end))
    }
}

pub(crate) fn too_early(sync: Option<Progress>) -> AskError {
    let detail = match sync {
        Some(p) => format!(
            "no recovery point can be made while {} is under way ({} of {} bytes done): wait for its end, or wait longer with \
             --wait",
            describe(p.cause),
            p.done,
            p.total
        ),
        None => "the sync that forbade a recovery point has just ended: try again".to_owned(),
    };
    AskError::new(AskCode::Conflict, detail)
}

/// A sync, for messages to people.
pub(crate) fn describe(cause: tap_block::SyncCause) -> &'static str {
    match cause {
        tap_block::SyncCause::Baseline => "the baseline",
        _ => "a resync",
    }
}

/// Both clocks at this moment.
pub(crate) fn now(clock: &impl Clock) -> Now {
    Now { wall: clock.wall(), monotonic: clock.monotonic() }
}
