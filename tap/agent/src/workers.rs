//! The threads of a volume: the sealer turns captured records into batches, the copier reads what must be copied, the
//! keeper makes state durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cx_link::outbox::OutboxDriver;
use tap_block::{BlockDevice, Clock, Lsn, Name, Op, WallTime};
use tap_disk::RealClock;
use tap_splitter::seal::Identity;
use tap_splitter::{Anew, Captured, Event, Progress, seal};

use crate::memory::Memory;
use crate::proof::{self, Proof};
use crate::restored;
use crate::upstream::{Counters, Room};
use crate::volume::{Chore, Life, Volume, describe};

/// A batch has about this many bytes at most.
const BATCH_BYTES: u64 = 1 << 20;
/// And this many records.
const BATCH_RECORDS: usize = 1024;
/// Records gather this long before they are sealed, unless there are many: a batch costs a round through every
/// hop and a sync at the gateway, whatever its size.
const GATHER: Duration = Duration::from_millis(2);
/// With this much waiting, nothing is waited for.
const PLENTY: u64 = 256 << 10;
/// An idle thread looks around this often.
const IDLE: Duration = Duration::from_millis(500);
/// Between two notes that the tap watches: what is known below of a killed run is measured by the last one.
const NOTED_EACH: Duration = Duration::from_millis(250);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the volume stops and everything captured is in the outbox; false if some of it did not fit in time.
pub(crate) fn spawn_sealer(
    volume: Arc<Volume>,
    outbox: Arc<OutboxDriver>,
    room: Arc<Room>,
    give_up: Arc<AtomicBool>,
) -> std::io::Result<JoinHandle<bool>> {
    let name = format!("seal-{}", volume.name());
    thread::Builder::new().name(name).spawn(move || {
        let sealer = Sealer { volume, outbox, room, give_up };
        sealer.run()
    })
}

struct Sealer {
    volume: Arc<Volume>,
    outbox: Arc<OutboxDriver>,
    room: Arc<Room>,
    give_up: Arc<AtomicBool>,
}

impl Sealer {
    fn run(&self) -> bool {
        let mut next = Lsn::ZERO;
        while let Some((whose, records)) = self.gather() {
            if !records.is_empty() {
                next = records
                    .iter()
                    .rev()
                    .find(|r| !r.position.is_copy())
                    .map_or(next, |r| r.position.lsn().next());
                if !self.push(whose, next, records) {
                    return false;
                }
            }
            self.volume.wake_copier();
        }
        true
    }

    fn gather(&self) -> Option<(Identity, Vec<Captured>)> {
        let queued = self.volume.wait_for_records(IDLE);
        if queued > 0 && queued < PLENTY {
            self.volume.linger(GATHER);
        }
        self.volume.take(BATCH_BYTES, BATCH_RECORDS)
    }

    /// Waits for room as long as it takes: meanwhile the splitter's queue fills and the volume goes to bitmap mode.
    fn push(&self, whose: Identity, next: Lsn, records: Vec<Captured>) -> bool {
        let batch = Arc::new(seal(whose, next, records));
        while self.outbox.push(Arc::clone(&batch)).is_err() {
            if self.give_up.load(Ordering::Acquire) {
                return false;
            }
            self.room.wait(IDLE);
        }
        true
    }
}

/// Runs until the volume stops: begins the reads of what must be copied outside the stream of writes.
pub(crate) fn spawn_copier(volume: Arc<Volume>) -> std::io::Result<JoinHandle<()>> {
    let name = format!("copy-{}", volume.name());
    thread::Builder::new().name(name).spawn(move || while volume.copy(IDLE) {})
}

/// Runs until told to end: marks, reservations, the note that the tap watches, flushes that let marks be cleared.
pub(crate) fn spawn_keeper(
    volume: Arc<Volume>,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
    proof: Arc<Proof>,
    end: Arc<AtomicBool>,
) -> std::io::Result<JoinHandle<()>> {
    let name = format!("keep-{}", volume.name());
    thread::Builder::new().name(name).spawn(move || {
        let mut keeper =
            Keeper { volume, memory, counters, proof, shown: Shown::default(), ended: None, shrunk: false };
        let (mut noted, mut last) = (WallTime::EPOCH, WallTime::EPOCH);
        while !end.load(Ordering::Acquire) {
            if let Some(chore) = keeper.volume.next_chore(NOTED_EACH) {
                keeper.carry_out(chore);
            }
            let now = RealClock.wall();
            if now.since(noted).max(noted.since(now)) >= NOTED_EACH {
                noted = now;
                keeper.note_alive(now);
            }
            if now.since(last).max(last.since(now)) >= RETRY {
                last = now;
                keeper.each_second(now);
            }
        }
    })
}

struct Keeper {
    volume: Arc<Volume>,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
    proof: Arc<Proof>,
    shown: Shown,
    /// A sync has ended; its end is at or before this LSN.
    ended: Option<Lsn>,
    /// The disk is smaller than it was, and that was said.
    shrunk: bool,
}

impl Keeper {
    fn carry_out(&self, chore: Chore) {
        match chore {
            Chore::Marks { generation, marks } => {
                let durable = self.keep("the activity log", self.memory.store_marks(&marks));
                self.volume.apply(Event::MarksPersisted { generation, durable });
            }
            Chore::Bound(bound) => {
                let kept =
                    self.keep("the LSN reservation", self.memory.update(|s| s.bound = s.bound.max(bound)));
                self.volume.apply(Event::BoundPersisted { bound: kept.then_some(bound) });
            }
            Chore::Anew { life, anew } => self.begin_anew(life, &anew),
        }
    }

    /// The activity log says by now that everything may differ.
    fn begin_anew(&self, life: Life, anew: &Anew) {
        let noted = self.memory.update(|s| {
            proof::descend(&mut s.lineage, s.run);
            (s.run, s.epoch, s.first) = (life.whose.run, life.whose.epoch, life.first);
            (s.bound, s.clean, s.sync) = (anew.bound, None, anew.run.sync);
            s.unproven.clear();
        });
        let durable = self.keep("the beginning of a new run", noted);
        self.volume.anew_persisted(durable);
        if durable {
            restored::bookmark(&self.volume, life);
        }
    }

    /// Says whether it worked; if not, pauses, so that a broken disk is not asked a thousand times a second.
    fn keep(&self, what: &str, done: std::io::Result<()>) -> bool {
        if let Err(e) = &done {
            tracing::error!(volume = %self.volume.name(), "cannot keep {what}: {e}; writes wait until it works");
            self.volume.linger(RETRY);
        }
        done.is_ok()
    }

    fn note_alive(&self, now: WallTime) {
        let changed_ns = self.volume.disk().identity().ok().map(|id| id.ctime_ns);
        if let Err(e) = self.memory.note_alive(now, changed_ns) {
            tracing::warn!(volume = %self.volume.name(), "cannot note that the tap watches: {e}");
        }
    }

    fn each_second(&mut self, now: WallTime) {
        // What follows from a proof that failed is on the disk before the question is forgotten.
        let proven = self.proof.is_over() && self.volume.has_kept_marks();
        self.watch_size();
        // Only when the activity log covers what came is the disk what a restart expects.
        let size = if self.volume.has_kept_marks() { self.volume.geometry().size } else { 0 };
        let snapshot = self.volume.snapshot();
        if snapshot.wants_flush {
            self.flush(snapshot.head);
        }
        self.volume.tick();
        let (everywhere, resynced) =
            (self.counters.everywhere(), self.counters.resynced_before + snapshot.resynced);
        self.shown.show(self.volume.name(), snapshot.sync, now);
        let sync = snapshot.sync.map(|p| p.cause);
        self.ended = if sync.is_some() { None } else { self.ended.or(Some(snapshot.head)) };
        // A sync is over when its end is durable everywhere: until then a restart goes on with it.
        let over = self.ended.is_some_and(|end| everywhere >= end);
        let kept = self.memory.update_if_changed(|s| {
            s.resynced = resynced;
            if proven {
                self.proof.settle(&mut s.unproven, &mut s.lineage);
            }
            s.disk.size = s.disk.size.max(size);
            if sync.is_some() || over {
                s.sync = sync;
            }
            if everywhere.get() > s.everywhere.get() + EVERYWHERE_STEP {
                s.everywhere = everywhere;
            }
        });
        self.keep("the tap's state", kept);
    }

    /// A disk that grew is followed. One that somebody cuts while it is in use fails reads, writes and flushes behind the cut: said once, loudly.
    fn watch_size(&mut self) {
        self.volume.follow_size();
        let (known, now) = (self.volume.geometry().size, self.volume.disk().identity());
        let shrunk = now.is_ok_and(|id| id.size < known);
        if shrunk && !self.shrunk {
            tracing::error!(
                volume = %self.volume.name(),
                "the protected disk has shrunk below its {known} bytes while it is in use: operations behind its end fail; \
                 give it its size back and restart the tap, which copies what changed"
            );
        }
        self.shrunk = shrunk;
    }

    fn flush(&self, head: Lsn) {
        match tap_block::device::run(self.volume.disk(), Op::Flush) {
            Ok(_) => self.volume.apply(Event::Flushed { head }),
            Err(e) => tracing::error!(volume = %self.volume.name(), "flushing the protected disk: {e}"),
        }
    }
}

/// What was said of a sync under way, so that its progress is shown now and then, and its end once.
#[derive(Debug, Default)]
struct Shown {
    running: bool,
    last: WallTime,
}

/// Between two lines about a sync.
const SHOW_EACH: Duration = Duration::from_secs(5);

impl Shown {
    fn show(&mut self, volume: &Name, sync: Option<Progress>, now: WallTime) {
        match sync {
            Some(p) if !self.running || now.since(self.last) >= SHOW_EACH => {
                let percent = p.done.saturating_mul(100).checked_div(p.total).unwrap_or(100);
                tracing::info!(%volume, "{}: {percent} % of {} MiB", describe(p.cause), p.total >> 20);
                (self.running, self.last) = (true, now);
            }
            None if self.running => {
                tracing::info!(%volume, "copied; every point from here on can be opened");
                self.running = false;
            }
            _ => {}
        }
    }
}

/// `everywhere` is informative in the state: it is not worth a sync for fewer records than this.
const EVERYWHERE_STEP: u64 = 1 << 16;
