//! Newtypes for places in the journal and in a volume's index.

use std::fmt;

use tap_block::stored::StoredLen;
use tap_block::units::index;
use tap_block::{BLOCK_SIZE, BlockNo};

/// Blocks in a region: the index keeps versions in runs per region.
pub const REGION_BLOCKS: u16 = 4096;
/// Bytes of a volume that a region covers (16 MiB).
pub const REGION_BYTES: u64 = REGION_BLOCKS as u64 * BLOCK_SIZE;

/// A segment: unique and ever increasing in the life of a store. A file is reused under a new id, so the id
/// tells live bytes in a file from those of its earlier life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u32);

impl SegmentId {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The segment written after this one; saturates (2^32 segments of 64 MiB are 256 PiB).
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a stored unit lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// In which segment.
    pub segment: SegmentId,
    /// At which byte of it.
    pub offset: u32,
    /// How many bytes, or, from 8000 (hex) on, a pack's (see [`Self::bytes`]); never 0 (an all-zero block is
    /// [`Place::Zero`](crate::Place::Zero)).
    pub len: StoredLen,
}

impl Location {
    const PACK: StoredLen = 1 << 15;
    /// A pack's bytes are a multiple of this.
    pub const PACK_ALIGN: u32 = 8;

    /// Of a pack of so many bytes; `None` when they are too many, or none, or no multiple of [`Self::PACK_ALIGN`].
    #[must_use]
    pub fn of_pack(segment: SegmentId, offset: u32, bytes: u32) -> Option<Self> {
        let eights =
            StoredLen::try_from(bytes / Self::PACK_ALIGN).ok().filter(|&n| 0 < n && n < Self::PACK)?;
        bytes.is_multiple_of(Self::PACK_ALIGN).then_some(Self { segment, offset, len: Self::PACK | eights })
    }

    /// Does it hold several blocks (see [`pack`](crate::pack))?
    #[must_use]
    pub const fn is_pack(self) -> bool {
        self.len & Self::PACK != 0
    }

    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self.is_pack() {
            true => (self.len & !Self::PACK) as u32 * Self::PACK_ALIGN,
            false => self.len as u32,
        }
    }

    /// The byte behind it.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.offset.saturating_add(self.bytes())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}+{}", self.segment, self.offset, self.bytes())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A stretch of [`REGION_BLOCKS`] blocks of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionNo(u32);

impl RegionNo {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The region that holds `block`, and the block's number within it. `None` past the last region
    /// (2^56 bytes, far beyond any volume).
    #[must_use]
    pub fn holding(block: BlockNo) -> Option<(Self, u16)> {
        let region = u32::try_from(block.get() / u64::from(REGION_BLOCKS)).ok()?;
        let within = u16::try_from(block.get() % u64::from(REGION_BLOCKS)).ok()?;
        Some((Self(region), within))
    }

    /// Its `within`-th block.
    #[must_use]
    pub fn block(self, within: u16) -> BlockNo {
        BlockNo::new(u64::from(self.0) * u64::from(REGION_BLOCKS) + u64::from(within))
    }

    /// Its first byte in the volume.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 as u64 * REGION_BYTES
    }
}

/// [`REGION_BLOCKS`] as an index.
#[must_use]
pub(crate) const fn region_blocks() -> usize {
    index(REGION_BLOCKS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_again_from_its_region() {
        for raw in [0, 1, 4095, 4096, 1 << 30, (1 << 44) - 1] {
            let (region, within) = RegionNo::holding(BlockNo::new(raw)).unwrap();
            assert_eq!(region.block(within).get(), raw);
            assert_eq!(region.offset() / REGION_BYTES, u64::from(region.get()));
        }
        assert!(RegionNo::holding(BlockNo::new(1 << 44)).is_none());
    }
}
