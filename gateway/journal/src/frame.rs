//! A frame: one batch of one stream as it lies in a segment.
//!
//! ```text
//!   0 magic "CGFRAME" 1   8 xxh3-64 of bytes 16..128 and the table
//!  16 store u64          24 segment u32   28 number u32     32 hash of the frame before u64
//!  40 kind u16           42 following u16 44 group u32      48 table bytes u32   52 body bytes u32
//!  56 span u32           60 entries u32   64 blocks u32     68 epoch u32         72 stream u64
//!  80 run u64            88 first LSN u64 96 first time u64 104 last time u64   112 received at u64
//! 120 zero               128 table … body (stored units) … zeroes up to span         little endian
//! ```
//!
//! Frames that were made durable by one sync form a group. A group begins at a multiple of 4 KiB, so that a
//! sector once durable is never written again; its last frame's span reaches to the next such multiple. Within
//! a group frames begin at multiples of 8. Store, segment, number and the hash of the frame before tell a live
//! frame from what an earlier life of the file left behind.

use tap_block::{Epoch, Lsn, RunId, StreamId, WallTime};
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::Reader;
use crate::error::FormatError;
use crate::segment::StoreId;
use crate::units::SegmentId;

/// Bytes of a frame before its table.
pub const FRAME_HEADER: usize = 128;
/// The same, for places in a segment.
pub const FRAME_HEADER_BYTES: u32 = 128;
/// The first bytes of every frame.
pub const FRAME_MAGIC: [u8; 8] = *b"CGFRAME\x01";
/// Groups begin at multiples of this.
pub const GROUP_ALIGN: u32 = 4096;
/// Frames begin at multiples of this.
pub const FRAME_ALIGN: u32 = 8;

const WHAT: &str = "frame header";
const KIND_RECORDS: u16 = 1;
const KIND_META: u16 = 2;

/// What a frame's table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Records of a tap's stream.
    Records,
    /// Records of the gateway's own stream.
    Meta,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// The segment it lies in.
    pub segment: SegmentId,
    /// Its number within the segment, from 0.
    pub number: u32,
    /// The hash of the frame before it; of the segment's header for the first.
    pub previous: u64,
    /// What its table holds.
    pub kind: FrameKind,
    /// How many frames of its group come after it.
    pub following: u16,
    /// The number of its group within the segment, from 1.
    pub group: u32,
    /// Bytes of its table.
    pub table: u32,
    /// Bytes of its units.
    pub body: u32,
    /// Bytes from its first to the next frame's.
    pub span: u32,
    /// Records in its table.
    pub entries: u32,
    /// Stored lengths in its table.
    pub blocks: u32,
    /// The stream of its records.
    pub stream: StreamId,
    /// The run that wrote them.
    pub run: RunId,
    /// The fencing number in force.
    pub epoch: Epoch,
    /// The LSN of its first stream record.
    pub first_lsn: Lsn,
    /// The earliest time in its table.
    pub first_time: WallTime,
    /// The latest time in its table.
    pub last_time: WallTime,
    /// When the gateway took it, never going back within a store.
    pub received_at: WallTime,
}

impl FrameHeader {
    /// Where in the segment its units begin when the frame begins at `at`.
    #[must_use]
    pub const fn body_at(&self, at: u32) -> u32 {
        at.saturating_add(FRAME_HEADER_BYTES).saturating_add(self.table)
    }

    /// Bytes of header, table and units together.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.body_at(0).saturating_add(self.body)
    }

    /// Writes the header into the first [`FRAME_HEADER`] bytes of `frame`, which the table follows, and returns
    /// the frame's hash.
    pub(crate) fn seal_into(&self, frame: &mut [u8]) -> u64 {
        let mut head = Vec::with_capacity(FRAME_HEADER);
        head.extend_from_slice(&FRAME_MAGIC);
        head.extend_from_slice(&[0; 8]);
        head.extend_from_slice(&self.store.get().to_le_bytes());
        head.extend_from_slice(&self.segment.get().to_le_bytes());
        head.extend_from_slice(&self.number.to_le_bytes());
        head.extend_from_slice(&self.previous.to_le_bytes());
        head.extend_from_slice(&self.kind.code().to_le_bytes());
        head.extend_from_slice(&self.following.to_le_bytes());
        for field in
            [self.group, self.table, self.body, self.span, self.entries, self.blocks, self.epoch.get()]
        {
            head.extend_from_slice(&field.to_le_bytes());
        }
        let times = [self.first_time.nanos(), self.last_time.nanos(), self.received_at.nanos()];
        for field in [self.stream.get(), self.run.get(), self.first_lsn.get()].into_iter().chain(times) {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.resize(FRAME_HEADER, 0);
        if let Some(to) = frame.get_mut(..FRAME_HEADER) {
            to.copy_from_slice(&head);
        }
        let sum = xxh3_64(frame.get(16..).unwrap_or_default());
        if let Some(to) = frame.get_mut(8..16) {
            to.copy_from_slice(&sum.to_le_bytes());
        }
        sum
    }

    /// Reads a header without its checksum, which covers the table too: see [`check_sum`].
    ///
    /// # Errors
    /// [`FormatError`] when `bytes` do not begin with a header whose lengths make sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes.get(..FRAME_HEADER).ok_or(FormatError::Short(WHAT))?);
        if r.array::<8>()? != FRAME_MAGIC {
            return Err(FormatError::Magic("frame"));
        }
        let _sum = r.u64()?;
        let (store, segment, number) = (StoreId::new(r.u64()?), SegmentId::new(r.u32()?), r.u32()?);
        let previous = r.u64()?;
        let (kind, following, group) = (FrameKind::of(r.u16()?)?, r.u16()?, r.u32()?);
        let (table, body, span) = (r.u32()?, r.u32()?, r.u32()?);
        let (entries, blocks, epoch) = (r.u32()?, r.u32()?, Epoch::new(r.u32()?));
        let (stream, run) = (StreamId::new(r.u64()?), RunId::new(r.u64()?));
        let first_lsn = Lsn::new(r.u64()?).ok_or_else(|| FormatError::malformed(WHAT, "LSN out of range"))?;
        let mut time = || r.u64().map(WallTime::from_nanos);
        let (first_time, last_time, received_at) = (time()?, time()?, time()?);
        let header = Self {
            store,
            segment,
            number,
            previous,
            kind,
            following,
            group,
            table,
            body,
            span,
            entries,
            blocks,
            stream,
            run,
            epoch,
            first_lsn,
            first_time,
            last_time,
            received_at,
        };
        header.check_lengths().map(|()| header)
    }

    fn check_lengths(&self) -> Result<(), FormatError> {
        let used = u64::from(FRAME_HEADER_BYTES) + u64::from(self.table) + u64::from(self.body);
        let span = u64::from(self.span);
        let aligned = self.span.is_multiple_of(FRAME_ALIGN);
        if span < used || span - used >= u64::from(GROUP_ALIGN) || !aligned || self.group == 0 {
            return Err(FormatError::malformed(WHAT, "lengths that do not fit together"));
        }
        if u64::from(self.entries) * 2 > u64::from(self.table) {
            return Err(FormatError::malformed(WHAT, "more records than its table has room for"));
        }
        Ok(())
    }
}

impl FrameKind {
    const fn code(self) -> u16 {
        match self {
            Self::Records => KIND_RECORDS,
            Self::Meta => KIND_META,
        }
    }

    fn of(code: u16) -> Result<Self, FormatError> {
        match code {
            KIND_RECORDS => Ok(Self::Records),
            KIND_META => Ok(Self::Meta),
            other => Err(FormatError::malformed(WHAT, format!("unknown kind {other}"))),
        }
    }
}

/// Checks the checksum of a header and its table, given together and exactly; returns the frame's hash.
///
/// # Errors
/// [`FormatError`] when it does not match.
pub fn check_sum(header_and_table: &[u8]) -> Result<u64, FormatError> {
    let mut r = Reader::new(WHAT, header_and_table);
    r.take(8)?;
    let sum = r.u64()?;
    let covered = header_and_table.get(16..).ok_or(FormatError::Short(WHAT))?;
    if xxh3_64(covered) == sum { Ok(sum) } else { Err(FormatError::Checksum("frame")) }
}
