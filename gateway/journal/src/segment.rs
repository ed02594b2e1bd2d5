//! The header of a segment file: what the file holds, and how the segment before it ended.
//!
//! ```text
//!   0 magic "CGSEGMT" 1   8 xxh3-64 of bytes 16..128   16 store u64      24 segment u32   28 length u32
//!  32 first live u32     36 previous: segment u32      40 its end u32    44 its frames u32
//!  48 hash of its last frame u64                       56 created at u64 64 zero …        little endian
//! ```
//!
//! The previous segment's end stands here because a segment is sealed by the next one: a segment that was open
//! at a crash is never written to again, and what lies behind its last good frame is told apart for ever.

use tap_block::WallTime;
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::Reader;
use crate::error::FormatError;
use crate::units::SegmentId;

/// Bytes before the first frame.
pub const SEGMENT_HEADER: u32 = 4096;

const MAGIC: [u8; 8] = *b"CGSEGMT\x01";
const WHAT: &str = "segment header";
const FIXED: usize = 128;

/// The random number of a store. Bytes of another store are never taken for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(u64);

impl StoreId {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The header of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// The segment in this file.
    pub segment: SegmentId,
    /// Bytes of the file.
    pub length: u32,
    /// The oldest segment that was part of the store when this one began: older ones found are leftovers.
    pub first_live: SegmentId,
    /// How the segment before this one ended; `None` for a store's first.
    pub previous: Option<Sealed>,
    /// When it was begun, on the gateway's clock.
    pub created_at: WallTime,
}

/// How a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Which.
    pub segment: SegmentId,
    /// The byte behind its last frame.
    pub end: u32,
    /// How many frames it holds.
    pub frames: u32,
    /// The hash of its last frame (of its own header when it holds none).
    pub last: u64,
}

impl SegmentHeader {
    /// As the first [`SEGMENT_HEADER`] bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.store.get().to_le_bytes());
        for field in [self.segment.get(), self.length, self.first_live.get()] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let none = Sealed { segment: SegmentId::new(0), end: 0, frames: 0, last: 0 };
        let previous = self.previous.unwrap_or(none);
        for field in [previous.segment.get(), previous.end, previous.frames] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&previous.last.to_le_bytes());
        out.extend_from_slice(&self.created_at.nanos().to_le_bytes());
        out.resize(FIXED, 0);
        let sum = hash_of(&out);
        if let Some(field) = out.get_mut(8..16) {
            field.copy_from_slice(&sum.to_le_bytes());
        }
        out.resize(4096, 0);
        out
    }

    /// The hash that the first frame names as its predecessor's.
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash_of(&self.encode())
    }

    /// Back from bytes (at least 128 of them).
    ///
    /// # Errors
    /// [`FormatError`] when they are no sound header.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes = bytes.get(..FIXED).ok_or(FormatError::Short(WHAT))?;
        let mut r = Reader::new(WHAT, bytes);
        if r.array::<8>()? != MAGIC {
            return Err(FormatError::Magic(WHAT));
        }
        if r.u64()? != hash_of(bytes) {
            return Err(FormatError::Checksum(WHAT));
        }
        let store = StoreId::new(r.u64()?);
        let (segment, length) = (SegmentId::new(r.u32()?), r.u32()?);
        let first_live = SegmentId::new(r.u32()?);
        let sealed =
            Sealed { segment: SegmentId::new(r.u32()?), end: r.u32()?, frames: r.u32()?, last: r.u64()? };
        let previous = (sealed.segment.get() != 0).then_some(sealed);
        let created_at = WallTime::from_nanos(r.u64()?);
        if segment.get() == 0 || length < SEGMENT_HEADER || previous.is_some_and(|p| p.segment >= segment) {
            return Err(FormatError::malformed(WHAT, "numbers that no writer leaves"));
        }
        Ok(Self { store, segment, length, first_live, previous, created_at })
    }
}

fn hash_of(header: &[u8]) -> u64 {
    xxh3_64(header.get(16..FIXED).unwrap_or_default())
}
