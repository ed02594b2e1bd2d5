//! What can go wrong in a store, for callers to branch on.

use std::io;

use gateway_journal::{Location, SegmentId};
use tap_block::{BlockNo, Lsn, StreamId, VolumeId};
use thiserror::Error;

use crate::index::IndexError;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// No room for another segment. Nothing accepted is lost; the same records are taken once there is room.
    #[error("the journal has no room ({0}): free some space or raise the limit, it then goes on by itself")]
    NoSpace(String),
    /// The volume's history is full, and its policy says to take no more of it then. The same records are taken once there is
    /// room.
    #[error(
        "the volume's history takes {used} bytes of the {limit} that its policy allows, and the policy says to stop then: raise \
         the limit or keep less, it then goes on by itself"
    )]
    OverLimit {
        /// Bytes that it takes.
        used: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// The operating system refused.
    #[error("the journal's disk failed: {0}")]
    Io(String),
    /// The batch is not the one that is due in its stream.
    #[error("{found} cannot follow here: {expected} is due (or a new run above it); resume from there")]
    Sequence {
        /// The LSN due.
        expected: Lsn,
        /// The batch's first.
        found: Lsn,
    },
    /// The batch breaks a rule.
    #[error("the batch is not valid: {0}")]
    Invalid(String),
    /// The batch does not fit into a segment.
    #[error("a batch of {bytes} bytes does not fit into a segment of {limit}: send smaller ones")]
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// Bytes of a segment.
        limit: u64,
    },
    /// The queue is full.
    #[error("the commit queue is full: wait for acknowledgements before sending more")]
    Overloaded,
    /// The store is being closed.
    #[error("the store is shut down")]
    Stopped,
    /// The point lies ahead of what is durable.
    #[error("{point} is not durable here yet (the last durable is {durable})")]
    NotDurable {
        /// The point asked for.
        point: Lsn,
        /// The last durable one.
        durable: Lsn,
    },
    /// No such volume.
    #[error("the store has no history of {0}")]
    UnknownVolume(VolumeId),
    /// The point was thinned out.
    #[error("{point} is not kept any more; the nearest points that are: {} before, {} after", text(*before), text(*after))]
    Thinned {
        /// The point asked for.
        point: Lsn,
        /// The nearest kept one before it.
        before: Option<Lsn>,
        /// The nearest kept one after it.
        after: Option<Lsn>,
    },
    /// It has to wait for the end of a pass that takes long.
    #[error("history is being settled, which takes its time: try again")]
    Busy,
    /// Whoever asked for it does not want it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// A hold was set while history was settled.
    #[error("the rules changed while history was settled: it is settled anew")]
    RulesChanged,
    /// Records of the gateway's own are lost, and nobody has read of it.
    #[error(
        "records of the gateway's own (number {from} to {to}) are lost, or may be: holds, pins, policies and images made then are \
         gone, so no point is let go of. Look through them (`chronogate hold ls`, `policy show`, `image ls`), make anew what is missing, \
         then say `chronogate verify VOLUME --acknowledge`"
    )]
    OwnLoss {
        /// The number of the first.
        from: u64,
        /// Of the last that is known to be.
        to: u64,
    },
    /// The list of the points that a pass leaves does not fit into a segment.
    #[error(
        "history is not settled: the list of what is kept would take {bytes} bytes, and a segment has room for {limit}: let \
         points go sooner (policies, bookmarks, pins); it then goes on by itself, as it does when a hold ends"
    )]
    ListTooLarge {
        /// Bytes that it would take, about.
        bytes: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// What is left of one region is more than a pass can write.
    #[error(
        "history is not settled: what is left of one region of it takes {bytes} bytes, and {limit} are the most"
    )]
    RegionTooLarge {
        /// Bytes that it takes, about.
        bytes: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// Records that the point needs were lost.
    #[error("the history at that point is damaged: {0}")]
    Damaged(String),
    /// The index failed. It can be deleted: it is built again from the segments.
    #[error(
        "the index failed: {0}; one that is damaged is built again from the segments when the gateway is restarted"
    )]
    Index(String),
    /// What is in the index is not what was written.
    #[error("the index is damaged: {0}; it is built again from the segments when the gateway is restarted")]
    IndexDamaged(String),
    /// The index has no room. Nothing accepted is lost; what it did not take it takes once there is room.
    #[error(
        "the disk of the index is full ({0}): free some space there, everything then goes on by itself; nothing that was taken is \
         lost"
    )]
    IndexFull(String),
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Open(String),
}

impl StoreError {
    /// The same of a store that is not open yet: nothing goes on by itself there.
    pub(crate) fn at_start(self) -> Self {
        let Self::IndexFull(e) = self else { return self };
        Self::Open(format!(
            "the disk of the index is full ({e}): free some space there and start again; nothing is lost"
        ))
    }
}

fn text(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "none".to_owned(), |l| format!("lsn:{}", l.get()))
}

impl From<io::Error> for StoreError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(e.to_string()),
            _ => Self::Io(e.to_string()),
        }
    }
}

impl From<IndexError> for StoreError {
    fn from(e: IndexError) -> Self {
        let text = e.to_string();
        match (e.is_damage(), e.is_full()) {
            (true, _) => Self::IndexDamaged(text),
            (_, true) => Self::IndexFull(text),
            _ => Self::Index(text),
        }
    }
}

/// Why stored blocks are not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// A block's stored form is not what was written.
    #[error("block {} (in {at}) is damaged: {detail}; other blocks and points are not affected", block.get())]
    Damaged {
        /// The block of the volume.
        block: BlockNo,
        /// Where its unit lies.
        at: Location,
        /// What is wrong with it.
        detail: String,
    },
    /// The segment is not part of the store.
    #[error("{0} is not in the store")]
    Gone(SegmentId),
    /// The operating system refused.
    #[error("the journal's disk failed: {0}")]
    Io(String),
}

/// Bytes of the journal that were sound once and are not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: SegmentId,
    /// The first byte.
    pub from: u32,
    /// The byte behind the last.
    pub to: u32,
    /// What is wrong.
    pub detail: String,
    /// Records that are lost with them, as far as is known: stream, first and last LSN.
    pub lost: Vec<(StreamId, Lsn, Lsn)>,
}

impl Damage {
    /// Is it the same place?
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (self.segment, self.from) == (other.segment, other.from)
    }
}
