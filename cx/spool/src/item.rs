//! One batch in the queue: its number, what is known of it without its bytes, and where it is.

use std::fmt;
use std::sync::Arc;

use tap_block::{Action, Batch, Lsn, Marker, Monotonic, RunId, SyncCause, WallTime};

/// The place of a batch in its outbox. Numbers rise by one and are never reused, over restarts too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ItemNo(u64);

impl ItemNo {
    /// The number of the first batch ever.
    pub const FIRST: Self = Self(0);

    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number, for encoding.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number `n` places later.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many items lie between `earlier` and this one; 0 when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for ItemNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item:{}", self.0)
    }
}

impl fmt::Display for ItemNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The last record of a stream that someone has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// Its LSN; zero for none.
    pub lsn: Lsn,
    /// The run that wrote it, when known.
    pub run: Option<RunId>,
    /// When it was captured, when known: a source that was set back gives the same place to another record, not the same time.
    pub at: Option<WallTime>,
}

impl Reached {
    /// The one further on.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let tells_more = other.lsn == self.lsn && self.at.is_none() && other.at.is_some();
        if other.lsn > self.lsn || tells_more { other } else { self }
    }

    /// The one less far on.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.lsn < self.lsn { other } else { self }
    }
}

/// What the outbox needs to know of a batch that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The run that made it.
    pub run: RunId,
    /// When its last record was captured.
    pub at: WallTime,
    /// The first stream record; `None` when there are only copies.
    pub first: Option<Lsn>,
    /// The last stream record.
    pub last: Option<Lsn>,
    /// When that was captured.
    pub last_at: Option<WallTime>,
    /// A receiver that has not got everything up to here cannot take this batch without a hole.
    pub needs: Lsn,
    /// It holds copies, which no LSN tells apart from ones not received.
    pub copies: bool,
    /// It starts a sync of the whole volume, so that a receiver may have missed anything before it.
    pub heals: bool,
    /// Its first record is that of the run.
    pub begins: bool,
    /// [`Batch::weight`].
    pub weight: u64,
}

impl Summary {
    /// The summary of `batch`.
    #[must_use]
    pub fn of(batch: &Batch) -> Self {
        let first = batch.entries.iter().find(|e| !e.position.is_copy());
        let lsn = first.map(|e| e.position.lsn());
        let before = lsn.unwrap_or_default().previous();
        let (needs, heals) = match first.map(|e| Jump::at(&e.action)) {
            Some(Jump::Anything) => (Lsn::ZERO, true),
            Some(Jump::From(durable)) => (durable.min(before), false),
            Some(Jump::None) => (before, false),
            // Copies show the disk as of a record that came before them.
            None => (batch.entries.iter().map(|e| e.position.lsn()).max().unwrap_or_default(), false),
        };
        Self {
            run: batch.run,
            at: batch.entries.last().map_or(WallTime::EPOCH, |last| last.captured_at),
            first: lsn,
            last: batch.last_lsn(),
            last_at: batch.last_record().map(|entry| entry.captured_at),
            needs,
            copies: batch.entries.iter().any(|e| e.position.is_copy()),
            heals,
            begins: first.is_some_and(|e| begins_a_run(&e.action)),
            weight: batch.weight(),
        }
    }
}

impl Summary {
    /// Are its records not behind all that somebody `has` of another run? Those that begin a run may come just there.
    pub(crate) fn contradicts(&self, has: Reached) -> bool {
        let behind = if self.begins { has.lsn } else { has.lsn.next() };
        has.run.is_some_and(|run| run != self.run) && self.first.is_some_and(|first| first <= behind)
    }
}

fn begins_a_run(action: &Action) -> bool {
    matches!(action, Action::Mark(mark) if matches!(**mark, Marker::RunStart(_)))
}

/// How far LSNs may jump just before a record.
enum Jump {
    /// Not at all: the record before it is needed.
    None,
    /// A run may start with a jump, but its tap tells what it knew to be durable below: less is a loss.
    From(Lsn),
    /// A sync of everything begins: whatever is missing before it is a gap already.
    Anything,
}

impl Jump {
    fn at(action: &Action) -> Self {
        let Action::Mark(mark) = action else { return Self::None };
        match mark.as_ref() {
            Marker::RunStart(start) => match start.sync {
                Some(SyncCause::Baseline | SyncCause::HopLost | SyncCause::ChangedUnwatched) => {
                    Self::Anything
                }
                Some(_) | None => Self::From(start.durable),
            },
            Marker::SyncStart { cause: SyncCause::HopLost } => Self::Anything,
            Marker::SyncStart { .. }
            | Marker::SyncEnd { .. }
            | Marker::Bookmark(_)
            | Marker::Barrier(_)
            | Marker::ClockSet { .. } => Self::None,
        }
    }
}

/// Where an item's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory and nowhere else (it may be on its way to the disk).
    Memory,
    /// On disk, synced; maybe in memory as well.
    Disk,
    /// It was on disk and cannot be read any more.
    Lost,
}

/// An item in the queue.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) batch: Option<Arc<Batch>>,
    pub(crate) place: Place,
    pub(crate) summary: Summary,
    /// The last record of this and all earlier items.
    pub(crate) end: Reached,
    /// Bytes pushed up to and including this item.
    pub(crate) end_bytes: u64,
    pub(crate) pushed_at: Monotonic,
}
