//! Records on their way: what a tap captured, in the order in which it must be applied.

use bytes::Bytes;
use thiserror::Error;

use crate::extent::Extent;
use crate::name::Name;
use crate::stored::{StoredLen, UNIT};
use crate::time::WallTime;
use crate::units::{Epoch, Lsn, MarkId, Position, RunId, StreamId, VolumeId, count, index};

/// Records of one run that travel and are committed together.
///
/// Invariants, checked by [`Batch::validate`]: the stream records among `entries` have contiguous LSNs that
/// start at `first_lsn`; copies stand anywhere between them; write extents are whole blocks; `lens` holds one
/// stored length per block of every [`Action::Write`], in order; `body` is those units one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The stream they belong to.
    pub stream: StreamId,
    /// The tap's life that captured them.
    pub run: RunId,
    /// The fencing number in force.
    pub epoch: Epoch,
    /// The LSN of the first stream record; in a batch of copies only, the LSN the next record will have.
    pub first_lsn: Lsn,
    /// The records.
    pub entries: Vec<Entry>,
    /// Stored lengths of the blocks written, entry after entry, block after block.
    pub lens: Vec<StoredLen>,
    /// Stored units, in the order of `lens`.
    pub body: Bytes,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in history.
    pub position: Position,
    /// When the tap completed it, on the tap's clock, never going back within a run but for where that was set
    /// ([`Marker::ClockSet`]).
    pub captured_at: WallTime,
    /// What happened.
    pub action: Action,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Blocks took new content. The extent is whole blocks (the last may reach past the volume's end, zero there).
    Write {
        /// Where.
        volume: VolumeId,
        /// Whole blocks.
        extent: Extent,
    },
    /// Blocks became zero: a write of zeroes or a trim. Any number of whole blocks.
    Zero {
        /// Where.
        volume: VolumeId,
        /// Whole blocks.
        extent: Extent,
    },
    /// The volume has this many bytes from here on.
    Resize {
        /// Which.
        volume: VolumeId,
        /// Bytes.
        size: u64,
    },
    /// Something about the stream itself.
    Mark(Box<Marker>),
}

/// A record about the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// A tap began to write: the first record of every run.
    RunStart(RunStart),
    /// A named recovery point.
    Bookmark(Bookmark),
    /// From here to the matching [`Marker::SyncEnd`] no point is selectable.
    SyncStart {
        /// Why.
        cause: SyncCause,
    },
    /// Every copy that the sync needed was delivered before this record.
    SyncEnd {
        /// The cause given at the start.
        cause: SyncCause,
        /// Bytes of volume that were copied (zero ranges not counted).
        copied: u64,
        /// The disk was all zeroes when a baseline began, so even the points before it are sound.
        from_zero: bool,
    },
    /// A barrier of the consistency group that the volume is a member of.
    Barrier(BarrierMark),
    /// The source's clock was set, back or ahead: from this record on times are those of the clock as it is now.
    ClockSet {
        /// What it would have shown at this record.
        before: WallTime,
    },
}

/// The most members that a consistency group has.
pub const MAX_MEMBERS: usize = 64;

/// A barrier in the stream of one member: every write that was acknowledged before it is before it, in each of the streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BarrierMark {
    /// The same in every member's stream; the record's time is the same, too.
    pub id: MarkId,
    /// The group.
    pub group: Name,
    /// Its members, ascending; at most [`MAX_MEMBERS`].
    pub members: Vec<VolumeId>,
    /// It is a bookmark as well, of this name in each member.
    pub bookmark: Option<Bookmark>,
}

/// The first record of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStart {
    /// The run before this one, if the tap remembers any.
    pub previous: Option<RunId>,
    /// The last LSN of earlier runs that the tap knows to be durable below it.
    pub durable: Lsn,
    /// The volume protected.
    pub volume: VolumeId,
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub size: u64,
    /// Set when a sync begins with the run: points after the last record received from earlier runs are not
    /// selectable until its end.
    pub sync: Option<SyncCause>,
}

/// A named recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Unique within its volume.
    pub name: Name,
    /// What it promises.
    pub consistency: Consistency,
    /// Free text of its maker.
    pub note: String,
}

/// What an image at a bookmark will look like to the software that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// As after a power cut.
    Crash,
    /// File systems were frozen.
    FileSystem,
    /// The application was quiesced (an AppShot).
    Application,
}

/// Why blocks have to be copied outside the stream of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncCause {
    /// Protection begins.
    Baseline,
    /// The tap ended without a clean stop: what was under way is copied again.
    UncleanStop,
    /// The tap's queues overflowed (bitmap mode).
    Overflow,
    /// A hop lost records that nobody can send again.
    HopLost,
    /// The disk may have changed while no tap watched.
    ChangedUnwatched,
    /// The local disk refused a write, and what it left of it is read back.
    FailedWrite,
}

/// Why a batch is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// LSNs are not contiguous from `first_lsn`.
    #[error("record {found} where {expected} was due")]
    Discontiguous {
        /// The LSN due.
        expected: Lsn,
        /// The LSN there.
        found: Lsn,
    },
    /// An extent that is not whole blocks, or empty.
    #[error("{0} is not a stretch of whole blocks")]
    Unaligned(Extent),
    /// Lengths and body do not belong together.
    #[error("stored lengths and body do not agree")]
    Lengths,
}

impl Batch {
    /// The LSN of the last stream record; `None` when there are only copies.
    #[must_use]
    pub fn last_lsn(&self) -> Option<Lsn> {
        self.last_record().map(|e| e.position.lsn())
    }

    /// The last record of the stream in it; copies are none.
    #[must_use]
    pub fn last_record(&self) -> Option<&Entry> {
        self.entries.iter().rev().find(|e| !e.position.is_copy())
    }

    /// The bytes it takes in a queue, about.
    #[must_use]
    pub fn weight(&self) -> u64 {
        count(self.body.len() + self.lens.len() * 2 + self.entries.len() * size_of::<Entry>())
    }

    /// The entries with the stored lengths and units of their blocks (both empty for all but writes).
    pub fn iter(&self) -> impl Iterator<Item = (&Entry, &[StoredLen], Bytes)> {
        let (mut lens, mut at) = (self.lens.as_slice(), 0usize);
        self.entries.iter().map(move |entry| {
            let blocks = entry.action.stored_blocks().min(lens.len());
            let (mine, rest) = lens.split_at(blocks);
            lens = rest;
            let end = (at + mine.iter().map(|&l| usize::from(l)).sum::<usize>()).min(self.body.len());
            let units = self.body.slice(at..end);
            at = end;
            (entry, mine, units)
        })
    }

    /// Checks the invariants that do not need the units to be read.
    ///
    /// # Errors
    /// The first [`BatchError`] found.
    pub fn validate(&self) -> Result<(), BatchError> {
        let (mut due, mut blocks) = (self.first_lsn, 0);
        for entry in &self.entries {
            if !entry.position.is_copy() {
                let found = entry.position.lsn();
                if found != due {
                    return Err(BatchError::Discontiguous { expected: due, found });
                }
                due = due.next();
            }
            entry.action.check_extent()?;
            blocks += entry.action.stored_blocks();
        }
        let stored: u64 = self.lens.iter().map(|&l| u64::from(l)).sum();
        if blocks != self.lens.len() || stored != count(self.body.len()) {
            return Err(BatchError::Lengths);
        }
        Ok(())
    }
}

impl Action {
    /// How many stored lengths it has in [`Batch::lens`].
    #[must_use]
    pub fn stored_blocks(&self) -> usize {
        match self {
            Self::Write { extent, .. } => index(extent.length()) / UNIT,
            Self::Zero { .. } | Self::Resize { .. } | Self::Mark(_) => 0,
        }
    }

    /// The volume it changes and where, when it changes blocks.
    #[must_use]
    pub fn changes(&self) -> Option<(VolumeId, Extent)> {
        match *self {
            Self::Write { volume, extent } | Self::Zero { volume, extent } => Some((volume, extent)),
            Self::Resize { .. } | Self::Mark(_) => None,
        }
    }

    fn check_extent(&self) -> Result<(), BatchError> {
        match self.changes() {
            Some((_, e)) if e.is_empty() || !e.is_block_aligned() => Err(BatchError::Unaligned(e)),
            _ => Ok(()),
        }
    }
}
