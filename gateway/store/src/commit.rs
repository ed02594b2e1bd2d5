//! The commit thread: gather, write, sync, take in, publish, tell. In that order, always.
//!
//! Under load the sync of a group runs on a second thread, while the one before it is taken in, the next is laid
//! out, and its units are written. Its headers are written only when the sync is over, for recovery relies on that
//! (`pieces.rs`).
//!
//! ```text
//!  commit thread   lay 2, units 2 │ heads 2 │ take in 1, lay 3, units 3 │ heads 3 │ take in 2, lay 4 …
//!  sync thread    sync 1 ─────────┘         └ sync 2 ───────────────────┘         └ sync 3
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use gateway_journal::meta::OWN_STREAM;
use gateway_journal::{Group, Laid, Sealed, SegmentHeader, SegmentId, SegmentWriter, Start};
use tap_block::units::count;
use tap_block::{Batch, Entry, Lsn, StreamId};
use tap_disk::{FileNo, SegmentFile};
use tracing::{info, warn};

use crate::error::StoreError;
use crate::history::{History, PlacedFrame, forget_over};
use crate::pieces::Pieces;
use crate::queue::{Done, Job, Work};
use crate::segments::Known;
use crate::settle::Pressure;
use crate::store::{Counters, Shared};
use crate::sync::{lock, read, wait_for, write};
use crate::tail::{Durable, Published};

/// The most frames of a group: each takes three slices of one vectored write, of at most 1024.
const GROUP_FRAMES: usize = 256;

/// Where the journal ends.
pub(crate) struct Tail {
    /// The segment that frames go to; `None`: a new one is begun for the next.
    pub(crate) open: Option<Open>,
    /// How the last segment ended.
    pub(crate) sealed: Option<Sealed>,
    /// Behind all that is durable, while none is open.
    pub(crate) behind: Option<(SegmentId, Start)>,
}

/// The open segment.
pub(crate) struct Open {
    /// Behind all that was written.
    pub(crate) writer: SegmentWriter,
    /// Behind all that is durable.
    pub(crate) durable: SegmentWriter,
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) no: FileNo,
    /// The segment's header, until it is written with the first group.
    pub(crate) header: Option<Vec<u8>>,
    /// It was begun for the gateway's own records alone, from what is left to settling.
    pub(crate) lent: bool,
}

/// See the module.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    history: History,
    tail: Tail,
    /// What is due in streams that the pending group changes.
    due: HashMap<StreamId, Lsn>,
    pending: Option<Pending>,
    syncer: Syncer,
}

/// A group that is written, while its sync runs.
struct Pending {
    group: Group,
    members: Vec<Member>,
    /// Behind it.
    after: SegmentWriter,
}

/// A job of the group under way. One that was refused has its outcome already.
struct Member {
    work: Option<Work>,
    done: Done,
    outcome: Result<Lsn, StoreError>,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, history: History, tail: Tail) -> io::Result<Self> {
        let syncer = Syncer::start()?;
        Ok(Self { shared, history, tail, due: HashMap::new(), pending: None, syncer })
    }

    pub(crate) fn run(mut self) {
        let limit = self.shared.config.group_bytes;
        loop {
            let wait = self.pending.is_none();
            match self.shared.queue.take(limit, GROUP_FRAMES, wait) {
                Some(mut jobs) => {
                    self.end_group();
                    while !jobs.is_empty() {
                        self.round(&mut jobs);
                    }
                }
                None if wait => break,
                None => self.settle(),
            }
        }
        if self.shared.config.index_at_stop {
            self.freeze_rest(true);
        }
        lock(&self.shared.ingest).stopped = true;
        self.shared.ingest_changed.notify_all();
        self.shared.keeper.stop();
    }

    /// Closes the group of versions that is being gathered; with `all`, one that holds no versions but other records, too.
    fn freeze_rest(&mut self, all: bool) {
        let behind = self.tail.open.as_ref().map(|open| place_behind(&open.durable));
        let Some(end) = behind.or(self.tail.behind) else { return };
        let mut published = write(&self.shared.published);
        let has_others = |published: &Published| {
            (all && published.active.begun.is_some()) || self.shared.is_scattered(published)
        };
        if published.active.versions() > 0 || has_others(&published) {
            self.history.freeze(&mut published, end);
        }
    }

    /// Closes the group of versions that is being gathered, if anybody asked for it.
    fn end_group(&mut self) {
        let (asked, leave) = self.shared.queue.take_group_ends();
        if asked.is_empty() {
            return;
        }
        self.settle();
        self.freeze_rest(false);
        if leave {
            self.leave();
        }
        drop(lock(&self.shared.ingest));
        self.shared.ingest_changed.notify_all();
        for done in asked {
            done(Ok(Lsn::ZERO));
        }
    }

    /// Commits jobs from the front: as many as the open segment has room for.
    fn round(&mut self, jobs: &mut VecDeque<Job>) {
        if let Err(why) = self.wait_for_index() {
            self.settle();
            return self.refuse_all(jobs, &why);
        }
        self.refuse_history(jobs);
        if jobs.is_empty() {
            return;
        }
        if let Err(why) = self.ensure_open() {
            self.settle();
            return self.refuse_all(jobs, &why);
        }
        let Some(open) = &self.tail.open else { return };
        let (mut group, fresh) = (open.writer.group(), open.header.is_some());
        let members = self.lay(jobs, &mut group);
        if group.frames().is_empty() {
            self.settle();
            if members.is_empty() {
                self.no_room(jobs, fresh);
            }
            return tell(members);
        }
        group.seal();
        self.commit(group, members);
    }

    /// Writes a group behind the one before it, and has it synced.
    fn commit(&mut self, group: Group, mut members: Vec<Member>) {
        let before = self.pending.take();
        let Some(open) = &mut self.tail.open else { return };
        let (file, header) = (Arc::clone(&open.file), open.header.take());
        let overlaps = before.is_some() && !self.syncer.is_over();
        let least = overlaps.then_some(self.shared.config.least_ahead);
        let pieces = pieces_of(header.as_deref(), &group, &members, least);
        let ahead = pieces.write_ahead(&file);
        if before.is_some()
            && let Err(e) = self.syncer.wait()
        {
            members.splice(..0, before.into_iter().flat_map(|b| b.members));
            return self.abandon(&e, members);
        }
        if let Some(before) = &before {
            open.durable = before.after;
        }
        // The group before is durable: now a frame behind it may say so.
        if let Err(e) = ahead.and_then(|()| pieces.write_last(&file)) {
            self.conclude(before);
            return self.abandon(&e, members);
        }
        open.writer.commit(&group);
        let after = open.writer;
        let busy = before.is_some() || self.shared.queue.bytes() > 0;
        self.syncer.begin(&file, busy);
        self.pending = Some(Pending { group, members, after });
        self.conclude(before);
    }

    /// The pending group is durable, or refused, when this returns.
    fn settle(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        match self.syncer.wait() {
            Ok(()) => {
                if let Some(open) = &mut self.tail.open {
                    open.durable = pending.after;
                }
                self.conclude(Some(pending));
            }
            Err(e) => self.abandon(&e, pending.members),
        }
    }

    /// A group is durable: it becomes history, and its members are told.
    fn conclude(&mut self, durable: Option<Pending>) {
        if let Some(Pending { group, mut members, after }) = durable {
            self.take_in(&group, &mut members, &after);
            tell(members);
        }
    }

    /// Versions must not pile up in memory: wait while too many groups wait for the index.
    fn wait_for_index(&mut self) -> Result<(), StoreError> {
        let full = |shared: &Shared| read(&shared.published).frozen.len() >= shared.config.max_groups;
        if !full(&self.shared) {
            return Ok(());
        }
        self.settle();
        let mut state = lock(&self.shared.ingest);
        while full(&self.shared) {
            if let Some(why) = &state.failing {
                return Err(why.clone().into());
            }
            state = wait_for(&self.shared.ingest_changed, state, Duration::from_millis(200));
        }
        Ok(())
    }

    /// History finds no more room. The gateway's own records go on: rules that change, pins, images and holds that end, gates
    /// that let points go are what makes room.
    fn refuse_history(&mut self, jobs: &mut VecDeque<Job>) {
        let begins = self.tail.open.as_ref().is_none_or(|open| open.lent);
        if !begins || self.shared.log_room() != Some(0) {
            if let Some(open) = &mut self.tail.open {
                open.lent = false;
            }
            return;
        }
        self.shared.settling.hurry();
        let (own, history): (VecDeque<Job>, VecDeque<Job>) =
            jobs.drain(..).partition(|job| matches!(job.work, Work::Meta(_)));
        *jobs = own;
        if history.is_empty() {
            return;
        }
        self.settle();
        let text = match self.shared.settling.is_spent() {
            true => {
                "nothing more of it may go: its newest state, images, pins, holds and what policies keep that say when_full = \
                 \"stop\" take all there is; give the disk more room, or let policies keep less"
            }
            false => "what is left is needed to settle old history, which makes room",
        };
        let held = self.shared.said_of_holds().map(|held| format!("; {held}")).unwrap_or_default();
        self.refuse_all(&mut { history }, &StoreError::NoSpace(format!("{text}{held}")));
    }

    fn refuse_all(&self, jobs: &mut VecDeque<Job>, why: &StoreError) {
        self.set_failing(Some(why));
        for job in jobs.drain(..) {
            (job.done)(Err(why.clone()));
        }
    }

    fn set_failing(&self, why: Option<&StoreError>) {
        let mut failing = lock(&self.shared.failing);
        match (why, failing.is_some()) {
            (Some(why), false) => warn!("appends fail: {why}"),
            (None, true) => info!("appends work again"),
            _ => {}
        }
        *failing = why.cloned();
    }

    /// A new segment is begun only when there is something to write into it.
    fn ensure_open(&mut self) -> Result<(), StoreError> {
        self.shared.keeper.begin()?;
        if self.tail.open.is_some() {
            return Ok(());
        }
        let lent = self.shared.log_room() == Some(0);
        if lent && !self.shared.may_lend() {
            let text = "what is left of room is needed to settle old history";
            return Err(StoreError::NoSpace(text.into()));
        }
        if self.shared.pressure() > Pressure::None || read(&self.shared.limits).are_near() {
            self.shared.settling.hurry();
        }
        self.shared.hold_room();
        let pool = self.shared.segments.pool();
        let (no, file) = if lent { pool.take() } else { pool.take_beyond() }?;
        let segment = self.shared.segments.new_id();
        let header = SegmentHeader {
            store: self.history.store,
            segment,
            length: self.shared.config.segment_len,
            first_live: self.first_live().unwrap_or(segment),
            previous: self.tail.sealed,
            created_at: self.history.received(self.shared.age.now()),
        };
        let writer = SegmentWriter::begin(&header);
        self.shared.segments.set(header.segment, Known { file: no, end: writer.sealed().end });
        let header = Some(header.encode());
        self.tail.open = Some(Open { writer, durable: writer, file, no, header, lent });
        Ok(())
    }

    /// The first segment of the log that counts, whether it is there or not: one that is gone may be put back.
    fn first_live(&self) -> Option<SegmentId> {
        let published = read(&self.shared.published);
        let from = published.layout.trail.at().0;
        let gone = published.damage.iter().filter(|d| d.from == 0 && d.segment >= from).map(|d| d.segment);
        gone.chain(self.shared.segments.oldest()).min()
    }

    /// Lays jobs into `group` until the segment is full; those that may not follow are refused.
    fn lay(&mut self, jobs: &mut VecDeque<Job>, group: &mut Group) -> Vec<Member> {
        let now = self.history.received(self.shared.age.now());
        let mut due = std::mem::take(&mut self.due);
        if self.pending.is_none() {
            due.clear();
        }
        let mut members = Vec::with_capacity(jobs.len());
        while let Some(job) = jobs.pop_front() {
            match self.lay_one(&job.work, group, &mut due, now) {
                Ok(true) => {
                    members.push(Member { work: Some(job.work), done: job.done, outcome: Ok(Lsn::ZERO) })
                }
                Ok(false) => {
                    jobs.push_front(job);
                    break;
                }
                Err(why) => members.push(Member { work: None, done: job.done, outcome: Err(why) }),
            }
        }
        self.due = due;
        members
    }

    fn lay_one(
        &self,
        work: &Work,
        group: &mut Group,
        due: &mut HashMap<StreamId, Lsn>,
        now: tap_block::WallTime,
    ) -> Result<bool, StoreError> {
        let stream = match work {
            Work::Batch(batch) => batch.stream,
            Work::Meta(_) => OWN_STREAM,
        };
        let expected = due.get(&stream).copied().unwrap_or_else(|| self.history.due(stream));
        let (laid, next) = match work {
            Work::Batch(batch) => {
                let known = due.contains_key(&stream) || self.history.streams.contains_key(&stream);
                let next = History::admit(batch, expected, known)?;
                (group.push(batch, now), next)
            }
            Work::Meta(records) => {
                (group.push_meta(records, expected, now), expected.plus(count(records.len())))
            }
        };
        if laid {
            due.insert(stream, next);
        }
        Ok(laid)
    }

    /// The first job does not fit behind what the segment holds.
    fn no_room(&mut self, jobs: &mut VecDeque<Job>, fresh: bool) {
        if !fresh {
            return self.close();
        }
        if let Some(job) = jobs.pop_front() {
            let bytes = match &job.work {
                Work::Batch(batch) => batch.weight(),
                Work::Meta(_) => 0,
            };
            let limit = u64::from(self.shared.config.segment_len);
            (job.done)(Err(StoreError::TooLarge { bytes, limit }));
        }
    }

    /// Nothing more is written to the open segment's file.
    fn leave(&mut self) {
        match self.tail.open.as_ref().is_some_and(|open| open.durable.sealed().frames > 0) {
            true => self.close(),
            false => self.give_up_segment(),
        }
    }

    /// Leaves the open segment: the next one says how it ended.
    fn close(&mut self) {
        if let Some(open) = self.tail.open.take() {
            let group = open.writer.group_no();
            self.tail.behind = Some(place_behind(&open.writer));
            self.tail.sealed = Some(open.writer.sealed());
            self.shared.keeper.advance(open.writer.sealed(), group, true);
        }
    }

    /// The group is durable: it becomes history, visible to all at once.
    fn take_in(&mut self, group: &Group, members: &mut [Member], after: &SegmentWriter) {
        let counters = &self.shared.counters;
        Counters::add(&counters.commits, 1);
        Counters::add(&counters.bytes, u64::from(group.end().saturating_sub(group.at())));
        let sealed = after.sealed();
        let end = place_behind(after);
        self.shared.segments.set_end(sealed.segment, sealed.end);
        self.publish(group, members, end);
        self.shared.keeper.advance(sealed, end.1.group, false);
        if !self.tail.open.as_ref().is_some_and(|open| open.lent) {
            self.set_failing(None);
        }
        let streams: Vec<(StreamId, Lsn)> = {
            let published = read(&self.shared.published);
            published.streams.iter().map(|(&id, durable)| (id, durable.lsn)).collect()
        };
        for (stream, lsn) in streams {
            self.shared.waiters.reached(stream, lsn);
        }
    }

    fn publish(&mut self, group: &Group, members: &mut [Member], end: (SegmentId, Start)) {
        self.forget_some_names();
        if !self.history.damage.is_empty() {
            let layout = Arc::clone(&read(&self.shared.published).layout);
            forget_over(&mut self.history.damage, &self.shared.segments, &layout);
        }
        let mut published = write(&self.shared.published);
        let durable = members.iter_mut().filter(|m| m.work.is_some());
        for (laid, member) in group.frames().iter().zip(durable) {
            if let Some(work) = &member.work {
                member.outcome = Ok(take_frame(&mut self.history, &mut published, end.0, laid, work));
                Counters::add(&self.shared.counters.batches, 1);
                Counters::add(&self.shared.counters.records, u64::from(laid.header.entries));
            }
        }
        published.damage.clone_from(&self.history.damage);
        published.catalogue = Arc::clone(&self.history.catalogue);
        if published.active.is_full(&self.shared.config) {
            self.history.freeze(&mut published, end);
            drop(published);
            drop(lock(&self.shared.ingest));
            self.shared.ingest_changed.notify_all();
        }
    }

    /// Those of one volume at a time, and with nothing locked: no commit is late for them.
    fn forget_some_names(&mut self) {
        let Some((volume, gone)) = lock(&self.shared.gone_names).pop_first() else { return };
        self.history.forget_names(&[(volume, gone)].into());
    }

    /// What was written last is not durable, and what is on the disk of it nobody knows: it is refused, and nothing
    /// is ever written behind it. The next segment says where this one ended.
    fn abandon(&mut self, e: &io::Error, members: Vec<Member>) {
        let why = StoreError::from(io::Error::new(e.kind(), e.to_string()));
        self.set_failing(Some(&why));
        self.give_up_segment();
        self.due.clear();
        for member in members {
            (member.done)(member.outcome.and(Err(why.clone())));
        }
    }

    fn give_up_segment(&mut self) {
        let Some(open) = self.tail.open.take() else { return };
        let sealed = open.durable.sealed();
        if sealed.frames > 0 {
            self.tail.behind = Some(place_behind(&open.durable));
            self.tail.sealed = Some(sealed);
            return;
        }
        // Nothing of it was ever durable: it never was.
        self.shared.segments.forget(sealed.segment);
        drop(open.file);
        if let Err(e) = self.shared.segments.pool().give_back(open.no) {
            warn!("a segment file cannot be given back: {e}");
        }
    }
}

/// The thread that syncs, one file at a time.
struct Syncer {
    files: Sender<Arc<SegmentFile>>,
    outcomes: Receiver<io::Result<()>>,
    /// What came of a sync that was made on the spot.
    done: Option<io::Result<()>>,
}

impl Syncer {
    /// It ends when this is dropped.
    fn start() -> io::Result<Self> {
        let (files, todo) = channel::<Arc<SegmentFile>>();
        let (told, outcomes) = channel();
        std::thread::Builder::new().name("store-sync".to_owned()).spawn(move || {
            while let Ok(file) = todo.recv() {
                if told.send(file.sync()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { files, outcomes, done: None })
    }

    /// Has `file` synced: on the thread when there is something else to do meanwhile, else on the spot.
    fn begin(&mut self, file: &Arc<SegmentFile>, busy: bool) {
        if !busy {
            self.done = Some(file.sync());
        } else if self.files.send(Arc::clone(file)).is_err() {
            self.done = Some(Err(io::Error::other("the sync thread is gone")));
        }
    }

    /// The sync begun last was made on the spot.
    const fn is_over(&self) -> bool {
        self.done.is_some()
    }

    /// What came of the sync begun last.
    fn wait(&mut self) -> io::Result<()> {
        let gone = || Err(io::Error::other("the sync thread is gone"));
        self.done.take().unwrap_or_else(|| self.outcomes.recv().unwrap_or_else(|_| gone()))
    }
}

/// Takes one frame in and returns its stream's durable LSN.
fn take_frame(
    history: &mut History,
    published: &mut Published,
    segment: SegmentId,
    laid: &Laid,
    work: &Work,
) -> Lsn {
    let header = &laid.header;
    match work {
        Work::Batch(batch) => {
            let frame =
                PlacedFrame { segment, at: laid.at, header, entries: &batch.entries, lens: &batch.lens };
            history.take(&frame, &published.layout.kept, &mut published.active);
            let span = u64::from(header.span);
            *published.written.entry(header.stream).or_default() += fresh_bytes(batch, span);
        }
        Work::Meta(records) => history.take_meta(laid.at, header, records, &mut published.active),
    }
    let durable: Option<Durable> = history.streams.get(&header.stream).map(|s| s.durable);
    if let Some(durable) = durable {
        published.streams.insert(header.stream, durable);
    }
    durable.map_or(Lsn::ZERO, |d| d.lsn)
}

/// Bytes of a batch's frame without its copies of what the disk held: nothing, when there is nothing else.
fn fresh_bytes(batch: &Batch, span: u64) -> u64 {
    let is_copy = |entry: &Entry| entry.position.is_copy();
    let copies = batch.entries.iter().filter(|e| is_copy(e)).count();
    if copies == 0 || copies == batch.entries.len() {
        return if copies == 0 { span } else { 0 };
    }
    let mut lens = batch.lens.iter();
    let copied = |entry: &Entry| {
        let units = lens.by_ref().take(entry.action.stored_blocks());
        let stored: u64 = units.map(|len| u64::from(*len)).sum();
        if is_copy(entry) { stored } else { 0 }
    };
    span.saturating_sub(batch.entries.iter().map(copied).sum())
}

/// The place behind all that was written.
fn place_behind(writer: &SegmentWriter) -> (SegmentId, Start) {
    let sealed = writer.sealed();
    let start = Start {
        at: sealed.end,
        number: sealed.frames,
        group: writer.group_no(),
        previous: Some(sealed.last),
    };
    (sealed.segment, start)
}

/// What of a group is written when; with the segment's header before its first one.
fn pieces_of<'a>(
    header: Option<&'a [u8]>,
    group: &'a Group,
    members: &'a [Member],
    least: Option<u64>,
) -> Pieces<'a> {
    let bodies = members.iter().filter_map(|m| m.work.as_ref()).map(|work| match work {
        Work::Batch(batch) => &batch.body[..],
        Work::Meta(_) => &[][..],
    });
    let at = if header.is_some() { 0 } else { u64::from(group.at()) };
    let mut pieces = Pieces::begin(at, least);
    pieces.add(header.unwrap_or_default());
    for (laid, body) in group.frames().iter().zip(bodies) {
        pieces.add(&laid.head);
        pieces.add_units(body);
        pieces.add(zeroes(laid));
    }
    pieces
}

fn zeroes(laid: &Laid) -> &'static [u8] {
    static ZEROES: [u8; 4096] = [0; 4096];
    ZEROES.get(..usize::try_from(laid.padding()).unwrap_or(0)).unwrap_or_default()
}

fn tell(members: Vec<Member>) {
    for member in members {
        (member.done)(member.outcome);
    }
}
