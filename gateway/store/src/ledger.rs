//! Keeping the ledger: what every segment held when it was finished, entered behind the backs of all others.
//!
//! ```text
//!   segments that are finished and not entered ─► hash (content.rs) ─► entries ─► file (book.rs)
//!   settles that were published ────────────────────────────────────────► │
//!   what others keep of it (anchors.rs) ────────────────────────────────► │
//! ```
//!
//! A thread of its own, after the fact: no commit and no settle waits for it. What there is to do is seen from what is there
//! and not entered yet, so nothing is lost with a crash but the time that it takes. A segment that is recycled before its turn
//! is entered as such.

mod anchors;
mod book;
mod content;
mod file;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gateway_image::Catalogue;
use gateway_journal::ledger::Doubt;
use gateway_journal::ledger::{Event, Hashed, Settled};
use gateway_journal::{Ledger, RetentionPolicy, SegmentId};
use tap_block::WallTime;
use tap_block::units::count;
use tap_disk::step_back;
use tracing::{info, warn};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::segments::Known;
use crate::settle::SettleReport;
use crate::store::Shared;
use crate::sync::{lock, read, wait_for};
use crate::verify::{Finding, is_sound};

pub use anchors::Anchor;
use anchors::Anchors;
pub(crate) use book::{Book, Trouble};
pub(crate) use content::{digest, hash};
pub(crate) use file::FileLedger;
pub use file::{LedgerStore, MemoryLedger};

/// Segments that went are remembered until a settle is entered; of more it is only known up to where the log is settled.
const MOST_GONE: usize = 4096;
/// A segment that could not be hashed is tried again so much later, or when something was put right.
const PUT_OFF: Duration = Duration::from_secs(3600);
/// Segments that are entered with one sync.
const AT_ONCE: usize = 16;
/// Settles whose numbers are remembered until they are entered.
const MOST_DONE: usize = 64;
/// Policies that are named by one entry.
const MOST_POLICIES: usize = 16;

/// See the module.
pub(crate) struct Bookkeeping {
    pub(crate) book: Book,
    anchors: Anchors,
    state: Mutex<State>,
    changed: Condvar,
    /// Goes up whenever a segment is written to that is finished.
    repairs: AtomicU64,
    /// One at a time looks for what there is to do.
    turn: Mutex<()>,
}

#[derive(Default)]
struct State {
    stopped: bool,
    /// Something was heard that is to be answered.
    urgent: bool,
    /// Segments that went since the last settle that was entered.
    gone: BTreeSet<SegmentId>,
    /// What the last settles did, the oldest first.
    done: VecDeque<SettleReport>,
    /// Segments that could not be hashed: when that was tried, and after how many repairs.
    put_off: BTreeMap<SegmentId, (WallTime, u64)>,
    failing: Option<String>,
    /// That the ledger was lost, if it was, is noted among the findings.
    told: bool,
}

/// What there is, as of one moment.
struct Seen {
    layout: Arc<Layout>,
    /// Finished segments, and which settle wrote them.
    finished: BTreeMap<SegmentId, (Known, u64)>,
    /// Segments that settled history is made of, whether they are there or not.
    listed: BTreeSet<SegmentId>,
}

impl Bookkeeping {
    pub(crate) fn new(book: Book) -> Self {
        Self {
            book,
            anchors: Anchors::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            repairs: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    /// Works until it is stopped.
    pub(crate) fn run(&self, shared: &Shared) {
        let Some(each) = shared.config.ledger_each else { return };
        if let Err(e) = step_back() {
            warn!("hashing runs beside all other work instead of behind it: {e}");
        }
        loop {
            let mut state = lock(&self.state);
            if !state.stopped && !state.urgent {
                state = wait_for(&self.changed, state, each);
            }
            if state.stopped {
                return;
            }
            state.urgent = false;
            drop(state);
            let outcome = self.catch_up(shared);
            self.note(&outcome);
        }
    }

    fn note(&self, outcome: &Result<usize, StoreError>) {
        let mut state = lock(&self.state);
        match outcome {
            Err(StoreError::Cancelled) => {}
            Err(e) => {
                if state.failing.is_none() {
                    warn!("the ledger waits for better times: {e}");
                }
                state.failing = Some(e.to_string());
            }
            Ok(_) if state.failing.take().is_some() => info!("the ledger is kept again"),
            Ok(_) => {}
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    fn hurry(&self) {
        lock(&self.state).urgent = true;
        self.changed.notify_all();
    }

    /// Enters everything that is due; how many segments were hashed.
    pub(crate) fn catch_up(&self, shared: &Shared) -> Result<usize, StoreError> {
        let _turn = lock(&self.turn);
        self.begin(shared)?;
        // Before all else: there may be much to hash.
        self.answer(shared)?;
        let seen = Seen::look(shared);
        lock(&self.state).put_off.retain(|id, _| seen.finished.contains_key(id));
        let due: Vec<_> =
            seen.finished.iter().filter(|(id, (known, _))| self.is_due(shared, **id, known.end)).collect();
        let mut hashed = 0;
        for some in due.chunks(AT_ONCE) {
            let repairs = self.repairs.load(Ordering::SeqCst);
            let found =
                some.iter().filter_map(|(id, (known, settle))| self.hash(shared, **id, *known, *settle));
            let events: Vec<Event> = found.collect();
            let n = events.len();
            // Were something put right while it was read, nobody would know which of both was hashed.
            let still = || self.repairs.load(Ordering::SeqCst) == repairs;
            if self.book.enter_all(events, shared.age.now(), still)? {
                hashed += n;
            }
            if lock(&self.state).stopped {
                return Err(StoreError::Cancelled);
            }
        }
        self.enter_settle(shared, &seen)?;
        self.answer(shared)?;
        Ok(hashed)
    }

    /// A ledger that was there and cannot be read any more begins anew, and somebody has to know.
    fn begin(&self, shared: &Shared) -> Result<(), StoreError> {
        let now = shared.age.now();
        self.book.begin_lost(now)?;
        let (known, doubts) = (lock(&self.state).told, self.book.doubts(now));
        for doubt in doubts.iter().filter(|doubt| !known && matches!(doubt, Doubt::Lost(_))) {
            shared.proving.note(Finding::of_doubt(doubt, now));
        }
        lock(&self.state).told = true;
        Ok(())
    }

    fn is_due(&self, shared: &Shared, id: SegmentId, end: u32) -> bool {
        let repairs = self.repairs.load(Ordering::SeqCst);
        let put_off = lock(&self.state).put_off.get(&id).copied();
        let waits = put_off.is_some_and(|(at, then)| then == repairs && shared.age.now().since(at) < PUT_OFF);
        !waits && self.book.hashed(id).is_none_or(|hashed| hashed.end < end)
    }

    /// Hashes a segment; `None` when that is not to be done now.
    fn hash(&self, shared: &Shared, id: SegmentId, known: Known, settle: u64) -> Option<Event> {
        let repairs = self.repairs.load(Ordering::SeqCst);
        let event = self.hash_sound(shared, id, known, settle);
        if event.is_none() {
            lock(&self.state).put_off.insert(id, (shared.age.now(), repairs));
        }
        event
    }

    /// One that is missing, cannot be read or is damaged is what a verification is for: it is not hashed before it is put
    /// right, so that putting it right never looks like a change.
    fn hash_sound(&self, shared: &Shared, id: SegmentId, known: Known, settle: u64) -> Option<Event> {
        let file = shared.segments.pool().get(known.file).ok()?;
        if let Some(before) = self.book.hashed(id)
            && digest(&file, before.end, &shared.queue).ok() != Some(before.digest)
        {
            return None;
        }
        let mut reached = |_| !lock(&self.state).stopped;
        let digest = hash(&file, known.end, &shared.queue, &mut reached).ok().flatten()?;
        let hashed = Hashed { settle, end: known.end, digest };
        let sound = is_sound(self.book.store(), id, &file, hashed, &mut reached);
        // It may have been recycled while it was read.
        (sound && shared.segments.lives(id)).then_some(Event::Sealed(id, hashed))
    }

    /// Segments were taken out of the store, and their files are used again.
    pub(crate) fn gone(&self, segments: impl Iterator<Item = SegmentId>) {
        let mut state = lock(&self.state);
        state.gone.extend(segments);
        while state.gone.len() > MOST_GONE {
            state.gone.pop_first();
        }
    }

    /// A settle was published.
    pub(crate) fn settled(&self, report: &SettleReport) {
        let done = &mut lock(&self.state).done;
        done.push_back(*report);
        while done.len() > MOST_DONE {
            done.pop_front();
        }
    }

    /// Enters what was settled since that was entered last. What it wrote has just been hashed, as far as it can be read.
    fn enter_settle(&self, shared: &Shared, seen: &Seen) -> Result<(), StoreError> {
        let layout = &seen.layout;
        let before = self.book.ask(Ledger::settle);
        if layout.settle <= before {
            return Ok(());
        }
        let gone = lock(&self.state).gone.clone();
        let catalogue = Arc::clone(&read(&shared.published).catalogue);
        let settled = self.book.ask(|ledger| Settled {
            settle: layout.settle,
            log_from: layout.trail.at().0.get(),
            inputs: inputs(ledger, seen),
            outputs: outputs(ledger, layout),
            unhashed: gone.iter().filter(|id| !ledger.segments().contains_key(id)).copied().collect(),
            counts: self.counts(before, layout.settle),
            policies: policies(&catalogue),
        });
        self.book.enter(Event::Settled(Box::new(settled)), shared.age.now())?;
        // What went since it was looked is for the next.
        lock(&self.state).gone.retain(|id| !gone.contains(id) || seen.finished.contains_key(id));
        Ok(())
    }

    /// What the settles behind one up to another did together; `None` when not all of them were heard of.
    fn counts(&self, before: u64, last: u64) -> Option<[u64; 3]> {
        let state = lock(&self.state);
        let known = state.done.back().is_some_and(|report| report.settle >= last);
        let those = state.done.iter().filter(|report| before < report.settle && report.settle <= last);
        let sum = those.fold([0; 3], |[read, kept, dropped], report| {
            [read + report.versions_read, kept + report.versions_kept, dropped + report.points_dropped]
        });
        known.then_some(sum)
    }

    /// A damaged block is about to be written over. What is hashed meanwhile counts for nothing; what was hashed before was
    /// sound then, and is again what it was.
    pub(crate) fn before_repair(&self) {
        self.repairs.fetch_add(1, Ordering::SeqCst);
    }

    /// It is written.
    pub(crate) fn after_repair(&self) {
        self.repairs.fetch_add(1, Ordering::SeqCst);
    }
}

impl Seen {
    fn look(shared: &Shared) -> Self {
        // A settled segment is known before it is whole; whoever publishes it has the turn.
        let _turn = lock(&shared.index_turn);
        let layout = Arc::clone(&read(&shared.published).layout);
        let mut wrote = BTreeMap::new();
        for generation in &layout.generations {
            wrote.extend(generation.segments.iter().map(|s| (s.segment, generation.settle)));
        }
        // One that no generation names holds the manifest.
        let settled = shared.segments.settled().into_iter();
        let settled =
            settled.map(|(id, known)| (id, (known, wrote.get(&id).copied().unwrap_or(layout.settle))));
        let finished =
            settled.chain(shared.segments.finished().into_iter().map(|(id, known)| (id, (known, 0))));
        Self { finished: finished.collect(), layout, listed: wrote.into_keys().collect() }
    }
}

/// Segments that were hashed and that settling took away. One that is missing and should be there stays.
fn inputs(ledger: &Ledger, seen: &Seen) -> Vec<SegmentId> {
    let layout = &seen.layout;
    let log_from = layout.trail.at().0;
    let went = |(id, hashed): &(&SegmentId, &Hashed)| match hashed.settle {
        0 => **id < log_from,
        settle => settle < layout.settle && !seen.listed.contains(id) && !seen.finished.contains_key(id),
    };
    ledger.segments().iter().filter(went).map(|(id, _)| *id).collect()
}

/// Segments of settles that were not entered yet.
fn outputs(ledger: &Ledger, layout: &Layout) -> Vec<SegmentId> {
    let new = |hashed: &Hashed| ledger.settle() < hashed.settle && hashed.settle <= layout.settle;
    ledger.segments().iter().filter(|(_, hashed)| new(hashed)).map(|(id, _)| *id).collect()
}

/// The policies in force, each once.
fn policies(catalogue: &Catalogue) -> Vec<RetentionPolicy> {
    let mut found: Vec<RetentionPolicy> = Vec::new();
    for volume in catalogue.volumes() {
        let policy = catalogue.rules().policy_of(volume.id());
        if !found.contains(&policy) && found.len() < MOST_POLICIES {
            found.push(policy);
        }
    }
    found
}

/// What the ledger covers, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerStatus {
    /// The number of its last entry; 0 before the first.
    pub entries: u64,
    /// Segments of the store that were hashed.
    pub hashed: u64,
    /// Why nothing is entered at the moment.
    pub failing: Option<String>,
    /// What speaks against it and nobody has acknowledged.
    pub doubts: Vec<Doubt>,
}

impl Bookkeeping {
    /// Somebody has read of all that speaks against the ledger.
    pub(crate) fn acknowledge(&self, shared: &Shared) -> Result<(), StoreError> {
        let now = shared.age.now();
        self.book.begin_lost(now)?;
        // Only what was told can have been read of.
        if shared.proving.doubts_ledger() && !self.book.check().is_empty() {
            self.book.begin_anew(self.kept_elsewhere(), now)?;
            shared.proving.ledger_began_anew(now);
            self.hurry();
        }
        if self.book.ask(|ledger| !ledger.doubts().is_empty()) {
            self.book.enter(Event::Acknowledged, now)?;
        }
        Ok(())
    }

    pub(crate) fn status(&self, now: WallTime) -> LedgerStatus {
        let failing = lock(&self.state).failing.clone();
        let doubts = self.book.doubts(now);
        self.book.ask(|ledger| LedgerStatus {
            failing,
            doubts,
            entries: ledger.head().map_or(0, |head| head.number.get()),
            hashed: count(ledger.segments().len()),
        })
    }
}
