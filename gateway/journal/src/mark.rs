//! The high-water mark: up to where the journal is known to be durable, kept apart from it.
//!
//! Without it, a disk that loses the end of the journal would look like a crash in the middle of a write.

use prost::Message;

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
    /// 0 is version 1, which does not say so.
    #[prost(uint32, tag = "8")]
    version: u32,
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
        Some(Self { store: StoreId::new(twin.store), durable, group: twin.group, clean: twin.clean })
    }
}
