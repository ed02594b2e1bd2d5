//! The high-water mark: up to where the journal is known to be durable, kept apart from it.
//!
//! Without it, a disk that loses the end of the journal would look like a crash in the middle of a write.

use std::fmt;
use std::time::Duration;

use prost::Message;
use tap_block::WallTime;

use crate::segment::{Sealed, StoreId};
use crate::units::SegmentId;

/// The file in a store's directory that holds it.
pub const MARK_FILE: &str = "MARK";
/// Bytes that the file's slots have room for.
pub const MARK_BYTES: usize = 256;

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The store.
    pub store: StoreId,
    /// The last segment and where it was durable up to; `None` before the first.
    pub durable: Option<Sealed>,
    /// The group its last frame belongs to.
    pub group: u32,
    /// The store was stopped in order, and nothing was written after this.
    pub clean: bool,
    /// How far the store's own clock was; `None` from programs that did not note it.
    pub aged: Option<Aged>,
}

/// How far the store's own clock is, on which history ages, and what it may still be credited with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aged {
    /// What the store's own clock said.
    pub at: WallTime,
    /// What the machine's clock said then.
    pub wall: WallTime,
    /// How much time that no program saw go by may still be counted.
    pub budget: Duration,
    /// How much of it was counted over all restarts, which no hold has run by.
    pub credited: Duration,
    /// What was last not counted.
    pub uncounted: Option<Uncounted>,
}

/// Time that went by while the store was closed, if the machine's clock is right, and was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncounted {
    /// When that was noticed, on the store's own clock.
    pub noticed: WallTime,
    /// By how much the machine's clock went on.
    pub went: Duration,
    /// How much of it is not counted.
    pub uncounted: Duration,
}

impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the clock went on by {} while the gateway was down; {} of them are not counted for retention and holds: things \
             are kept longer. If this machine's clock is wrong, set it",
            in_words(self.went),
            in_words(self.uncounted)
        )
    }
}

/// In the largest unit that says enough of it.
fn in_words(time: Duration) -> String {
    match time.as_secs() / 3600 {
        0 => format!("{} minutes", time.as_secs() / 60),
        hours @ 1..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

#[derive(Clone, PartialEq, Message)]
struct PMark {
    #[prost(fixed64, tag = "1")]
    store: u64,
    #[prost(uint32, tag = "2")]
    segment: u32,
    #[prost(uint32, tag = "3")]
    end: u32,
    #[prost(uint32, tag = "4")]
    frames: u32,
    #[prost(fixed64, tag = "5")]
    last: u64,
    #[prost(uint32, tag = "6")]
    group: u32,
    #[prost(bool, tag = "7")]
    clean: bool,
    #[prost(message, optional, tag = "8")]
    aged: Option<PAged>,
    /// 0 is version 1, which does not say so.
    #[prost(uint32, tag = "9")]
    version: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PAged {
    #[prost(fixed64, tag = "1")]
    at: u64,
    #[prost(fixed64, tag = "2")]
    wall: u64,
    #[prost(uint64, tag = "3")]
    budget: u64,
    #[prost(fixed64, tag = "4")]
    noticed: u64,
    #[prost(uint64, tag = "5")]
    went: u64,
    #[prost(uint64, tag = "6")]
    uncounted: u64,
    #[prost(uint64, tag = "7")]
    credited: u64,
}

impl PAged {
    fn of(aged: &Aged) -> Self {
        let uncounted = aged.uncounted;
        Self {
            at: aged.at.nanos(),
            wall: aged.wall.nanos(),
            budget: nanos(aged.budget),
            noticed: uncounted.map_or(0, |u| u.noticed.nanos()),
            went: uncounted.map_or(0, |u| nanos(u.went)),
            uncounted: uncounted.map_or(0, |u| nanos(u.uncounted)),
            credited: nanos(aged.credited),
        }
    }

    fn back(self) -> Aged {
        let uncounted = Uncounted {
            noticed: WallTime::from_nanos(self.noticed),
            went: Duration::from_nanos(self.went),
            uncounted: Duration::from_nanos(self.uncounted),
        };
        Aged {
            at: WallTime::from_nanos(self.at),
            wall: WallTime::from_nanos(self.wall),
            budget: Duration::from_nanos(self.budget),
            credited: Duration::from_nanos(self.credited),
            uncounted: (self.uncounted > 0).then_some(uncounted),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The only version so far.
const VERSION: u32 = 1;

impl Mark {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let none = Sealed { segment: SegmentId::new(0), end: 0, frames: 0, last: 0 };
        let at = self.durable.unwrap_or(none);
        PMark {
            store: self.store.get(),
            segment: at.segment.get(),
            end: at.end,
            frames: at.frames,
            last: at.last,
            group: self.group,
            clean: self.clean,
            aged: self.aged.as_ref().map(PAged::of),
            version: 0,
        }
        .encode_to_vec()
    }

    /// The version of a mark that only a newer program knows. What is read must be sound: a mark has no checksum of its own.
    #[must_use]
    pub fn newer(bytes: &[u8]) -> Option<u32> {
        PMark::decode(bytes).ok().map(|twin| twin.version).filter(|&version| version > VERSION)
    }

    /// Back from bytes; `None` when they are no mark.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let twin = PMark::decode(bytes).ok()?;
        let segment = SegmentId::new(twin.segment);
        let at = Sealed { segment, end: twin.end, frames: twin.frames, last: twin.last };
        let durable = (twin.segment != 0).then_some(at);
        let (store, aged) = (StoreId::new(twin.store), twin.aged.map(PAged::back));
        Some(Self { store, durable, group: twin.group, clean: twin.clean, aged })
    }
}
