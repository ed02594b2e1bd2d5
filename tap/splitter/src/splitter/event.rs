//! What the splitter is told and what it asks for: the vocabulary between it and its driver.

use bytes::Bytes;
use tap_block::{BarrierMark, Bookmark, Extent, ExtentSet, Lsn, Monotonic, RunStart, SyncCause, WallTime};

use crate::compare::Compared;
use crate::regions::RegionMarks;

/// A guest's operation; the driver counts them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// A copy under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CopyId(pub u64);

/// A bookmark asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BookmarkId(pub u64);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For people and recovery points.
    pub wall: WallTime,
    /// For timers.
    pub monotonic: Monotonic,
}

/// What does not change while the tap lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The volume's size in bytes.
    pub size: u64,
    /// Bytes of captured records that may wait for the sealer; beyond, the volume goes to bitmap mode.
    pub queue_limit: u64,
    /// Bytes per copy.
    pub copy_size: u64,
}

/// How a run begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// The first record of the run; its `sync` opens one from the start.
    pub run: RunStart,
    /// The LSN it takes.
    pub first_lsn: Lsn,
    /// LSNs below this one are durably reserved.
    pub bound: Lsn,
    /// The activity log as it is on disk.
    pub marks: RegionMarks,
    /// What must be copied.
    pub dirty: ExtentSet,
    /// Nothing of this volume was ever sent: zeroes need not be copied.
    pub fresh: bool,
    /// What must be copied may be compared first with what the receivers have.
    pub compare: bool,
    /// The receivers' history may go on beyond what this tap remembers: a sync that begins with the run ends only after
    /// [`Event::Proven`], or after what [`Event::SetBack`] asks for.
    pub unproven: bool,
}

/// A new run in the midst of a tap's life: the receivers do not take the present one, whose records contradict what they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anew {
    /// The first record of the run; its `sync` is [`SyncCause::ChangedUnwatched`].
    pub run: RunStart,
    /// The LSN it takes: above all that the receivers have.
    pub first_lsn: Lsn,
    /// LSNs below this one are reserved once the beginning is durable.
    pub bound: Lsn,
}

/// What a write-class operation does to its extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Takes this content.
    Write(Bytes),
    /// Becomes zeroes.
    Zero,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A guest wants to change `extent` (not empty, on the disk). [`Action::Start`] says when it may.
    Submit {
        /// A new number.
        op: OpId,
        /// Bytes.
        extent: Extent,
        /// To what.
        change: Change,
    },
    /// The local disk is done with it. Once this is applied the guest may have its answer.
    Written {
        /// Which.
        op: OpId,
        /// All of it is on the disk; false for a failed or short write.
        whole: bool,
    },
    /// The answer to [`Action::Fill`].
    Filled {
        /// Which.
        op: OpId,
        /// The extent that was to be read.
        extent: Extent,
        /// Its content; `None` when it cannot be read.
        content: Option<Bytes>,
    },
    /// The answer to [`Action::PersistMarks`].
    MarksPersisted {
        /// Which set.
        generation: u64,
        /// False when it failed; it is asked for again.
        durable: bool,
    },
    /// The answer to [`Action::PersistBound`].
    BoundPersisted {
        /// The new bound; `None` when it failed; it is asked for again.
        bound: Option<Lsn>,
    },
    /// The answer to a [`CopyTask`].
    CopyRead {
        /// Which.
        copy: CopyId,
        /// Its content; `None` when it cannot be read.
        content: Option<Bytes>,
        /// How that differs from what the receivers have, if it was compared.
        compared: Option<Compared>,
    },
    /// Every record up to `everywhere` is durable at every gateway.
    Durable {
        /// The last such record.
        everywhere: Lsn,
    },
    /// The local disk was flushed when the head was `head`.
    Flushed {
        /// [`Splitter::head`] when the flush was submitted.
        head: Lsn,
    },
    /// A recovery point behind everything acknowledged so far is wanted.
    Bookmark {
        /// A new number.
        id: BookmarkId,
        /// Name and promise.
        bookmark: Bookmark,
    },
    /// A hop lost records: this must be copied again.
    Resync {
        /// Stretches of the volume.
        dirty: ExtentSet,
    },
    /// The receivers' history ends where this tap believes that it does.
    Proven,
    /// The receivers have records that the tap knows nothing of: it and its disk were set back to an older state, and everything
    /// may differ.
    SetBack {
        /// Stretches of the volume.
        dirty: ExtentSet,
    },
    /// The present run ends as if it had never been, and another begins: what was captured and not taken is let go, and the whole
    /// disk is compared with what the receivers have. [`Action::PersistAnew`] comes once the activity log says so.
    BeginAnew(Box<Anew>),
    /// The answer to [`Action::PersistAnew`]: from here on records are the new run's. False when it failed; it is asked for again.
    AnewPersisted {
        /// Whether it worked.
        durable: bool,
    },
    /// The disk has become larger. To be told before anybody uses what came; see [`crate::Splitter::size`].
    Grow {
        /// Bytes.
        size: u64,
        /// Blocks of what came that may hold something other than zeroes.
        data: ExtentSet,
    },
    /// The clock is looked at, as with every event. To be told each member of a group before [`crate::Splitter::earliest_mark`] is
    /// asked.
    Clock,
    /// A barrier's mark is put here. To be told only where [`crate::Splitter::takes_marks`], in the same moment for every member
    /// of the group.
    Barrier {
        /// The mark.
        mark: BarrierMark,
        /// Its time: not before [`crate::Splitter::earliest_mark`] of any member.
        at: WallTime,
    },
    /// Time went by: marks are cleared, late work is started.
    Tick,
}

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run the operation on the local disk, then [`Event::Written`].
    Start(OpId),
    /// The guest may have its answer: the operation has its LSN, or never gets one.
    Answer(OpId),
    /// Read `extent` from the local disk, then [`Event::Filled`].
    Fill {
        /// For which operation.
        op: OpId,
        /// One block, cut at the volume's end.
        extent: Extent,
    },
    /// Make this set of marks durable, then [`Event::MarksPersisted`].
    PersistMarks {
        /// The set's number.
        generation: u64,
        /// The set.
        marks: RegionMarks,
    },
    /// Make the reservation durable, then [`Event::BoundPersisted`].
    PersistBound(Lsn),
    /// Make the beginning of the new run durable, then [`Event::AnewPersisted`].
    PersistAnew(Box<Anew>),
    /// Read the extent, then [`Event::CopyRead`] (a copy that has to be read again, or now holds its extent).
    Copy(CopyTask),
    /// The bookmark has its place.
    Bookmarked {
        /// Which.
        id: BookmarkId,
        /// Its LSN.
        lsn: Lsn,
        /// Its time.
        at: WallTime,
    },
    /// The bookmark cannot be placed now: a sync is open. Ask again after its end.
    BookmarkRefused(BookmarkId),
    /// The queue was empty and is not any more.
    Wake,
}

/// A stretch to be read from the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyTask {
    /// Which copy.
    pub copy: CopyId,
    /// What to read (cut at the volume's end).
    pub extent: Extent,
    /// Blocks that every receiver has as they are read need no copy, if they had them so when this record was
    /// durable there. Ask before reading: a read waits for nobody. An answer counts for every later read as well.
    pub compare: Option<Lsn>,
}

/// What the volume is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every write gets its place in history.
    Streaming,
    /// No room: writes are only noted as dirty.
    Bitmap,
}

/// How far an open sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Why it runs.
    pub cause: SyncCause,
    /// Bytes of volume done.
    pub done: u64,
    /// Bytes of volume in all, as known now.
    pub total: u64,
}
