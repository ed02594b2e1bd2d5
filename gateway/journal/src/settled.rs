//! Settled segments: history rewritten in block order, and the manifest that says which of them count.
//!
//! ```text
//!  file     header (4096), frames; written once, whole, and never again until the file is recycled
//!  header    0 magic "CGSETTL" 1   8 xxh3-64 of bytes 16..128   16 store u64      24 segment u32   28 length u32
//!           32 settle u64         40 end u32                    44 frames u32     48 hash of its last frame u64
//!           56 manifest at u32 (0: none)                        60 zero …
//!  frame     0 magic "CGSFRAM" 1   8 xxh3-64 of 16..64 + table  16 store u64      24 segment u32   28 number u32
//!           32 kind u16 (1 run, 2 manifest, 3 piece of one)     34 zero u16        36 table u32      40 body u32      44 span u32
//!           48 volume u64         56 region u32                 60 zero u32       64 table, body, zeroes
//!  run      table: a run of versions whose places are in this frame's body; body: their units, copied verbatim, and packs
//!           (pack.rs), of which several versions of the run are members, one after the other
//! ```
//!
//! A header is written when its segment is whole, so a file without one never counted. The last segment of a settle
//! holds the manifest, and its header is what publishes it: one sector, synced after everything else.
//! Little endian.

use xxhash_rust::xxh3::xxh3_64;

use tap_block::VolumeId;

use crate::bytes::Reader;
use crate::error::FormatError;
use crate::frame::FRAME_ALIGN;
use crate::run::{decode_run, encode_run};
use crate::segment::{SEGMENT_HEADER, StoreId};
use crate::units::{Location, RegionNo, SegmentId};
use crate::version::{Place, Version};

const HEADER_MAGIC: [u8; 8] = *b"CGSETTL\x01";
const FRAME_MAGIC: [u8; 8] = *b"CGSFRAM\x01";
const HEADER: &str = "settled segment's header";
const FRAME: &str = "settled frame";
const FIXED: usize = 128;
const KIND_RUN: u16 = 1;
const KIND_MANIFEST: u16 = 2;
const KIND_PIECE: u16 = 3;

/// Bytes of a settled frame's header.
pub const SETTLED_FRAME: usize = 64;
/// The same, for places in a segment.
pub const SETTLED_FRAME_BYTES: u32 = 64;

/// The header of a settled segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// The segment in this file.
    pub segment: SegmentId,
    /// Bytes of the file.
    pub length: u32,
    /// The settle that wrote it: ever increasing, from 1.
    pub settle: u64,
    /// The byte behind its last frame.
    pub end: u32,
    /// How many frames it holds.
    pub frames: u32,
    /// The hash of its last frame.
    pub last: u64,
    /// Where the frame with the settle's manifest begins; `None` in all segments of a settle but its last.
    pub manifest: Option<u32>,
}

impl SettledHeader {
    /// As the first [`SEGMENT_HEADER`] bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(&HEADER_MAGIC);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.store.get().to_le_bytes());
        out.extend_from_slice(&self.segment.get().to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.settle.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&self.frames.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
        out.extend_from_slice(&self.manifest.unwrap_or(0).to_le_bytes());
        out.resize(FIXED, 0);
        put_sum(&mut out);
        out.resize(4096, 0);
        out
    }

    /// Back from bytes (at least 128 of them).
    ///
    /// # Errors
    /// [`FormatError`] when they are no sound header.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes = bytes.get(..FIXED).ok_or(FormatError::Short(HEADER))?;
        let mut r = Reader::new(HEADER, bytes);
        if r.array::<8>()? != HEADER_MAGIC {
            return Err(FormatError::Magic(HEADER));
        }
        if r.u64()? != xxh3_64(bytes.get(16..).unwrap_or_default()) {
            return Err(FormatError::Checksum(HEADER));
        }
        let store = StoreId::new(r.u64()?);
        let (segment, length, settle) = (SegmentId::new(r.u32()?), r.u32()?, r.u64()?);
        let (end, frames, last) = (r.u32()?, r.u32()?, r.u64()?);
        let manifest = Some(r.u32()?).filter(|&at| at != 0);
        let inside = SEGMENT_HEADER <= end && end <= length && manifest.is_none_or(|at| at < end);
        if segment.get() == 0 || settle == 0 || !inside {
            return Err(FormatError::malformed(HEADER, "numbers that no writer leaves"));
        }
        Ok(Self { store, segment, length, settle, end, frames, last, manifest })
    }
}

fn put_sum(bytes: &mut [u8]) -> u64 {
    let sum = xxh3_64(bytes.get(16..).unwrap_or_default());
    if let Some(field) = bytes.get_mut(8..16) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
    sum
}

/// What a settled frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledKind {
    /// Versions of a region, with their units.
    Run(VolumeId, RegionNo),
    /// The manifest of the settle, or where its pieces lie.
    Manifest,
    /// A piece of a manifest that is longer than a segment.
    Piece,
}

/// A settled frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledFrame {
    /// The store it belongs to.
    pub store: StoreId,
    /// The segment it lies in.
    pub segment: SegmentId,
    /// Its number within the segment, from 0.
    pub number: u32,
    /// What it holds.
    pub kind: SettledKind,
    /// Bytes of its table.
    pub table: u32,
    /// Bytes of its units.
    pub body: u32,
    /// Bytes from its first to the next frame's.
    pub span: u32,
}

impl SettledFrame {
    /// Could a frame begin with these bytes?
    #[must_use]
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&FRAME_MAGIC)
    }

    /// Reads a header without its checksum, which covers the table too: see [`check_settled`].
    ///
    /// # Errors
    /// [`FormatError`] when `bytes` do not begin with a header whose lengths make sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(FRAME, bytes.get(..SETTLED_FRAME).ok_or(FormatError::Short(FRAME))?);
        if r.array::<8>()? != FRAME_MAGIC {
            return Err(FormatError::Magic(FRAME));
        }
        let _sum = r.u64()?;
        let (store, segment, number) = (StoreId::new(r.u64()?), SegmentId::new(r.u32()?), r.u32()?);
        let (kind, _, table, body, span) = (r.u16()?, r.u16()?, r.u32()?, r.u32()?, r.u32()?);
        let (volume, region) = (VolumeId::new(r.u64()?), RegionNo::new(r.u32()?));
        let kind = match kind {
            KIND_RUN => SettledKind::Run(volume, region),
            KIND_MANIFEST => SettledKind::Manifest,
            KIND_PIECE => SettledKind::Piece,
            other => return Err(FormatError::malformed(FRAME, format!("unknown kind {other}"))),
        };
        let used = u64::from(SETTLED_FRAME_BYTES) + u64::from(table) + u64::from(body);
        if u64::from(span) != used.next_multiple_of(u64::from(FRAME_ALIGN)) {
            return Err(FormatError::malformed(FRAME, "lengths that do not fit together"));
        }
        Ok(Self { store, segment, number, kind, table, body, span })
    }
}

/// Checks the checksum of a settled frame's header and table, given together and exactly; returns the frame's hash.
///
/// # Errors
/// [`FormatError`] when it does not match.
pub fn check_settled(header_and_table: &[u8]) -> Result<u64, FormatError> {
    let mut r = Reader::new(FRAME, header_and_table);
    r.take(8)?;
    let sum = r.u64()?;
    let covered = header_and_table.get(16..).ok_or(FormatError::Short(FRAME))?;
    if xxh3_64(covered) == sum { Ok(sum) } else { Err(FormatError::Checksum(FRAME)) }
}

/// Lays frames into one settled segment: the one place that makes them.
#[derive(Debug, Clone, Copy)]
pub struct SettledWriter {
    store: StoreId,
    segment: SegmentId,
    length: u32,
    settle: u64,
    end: u32,
    frames: u32,
    last: u64,
    manifest: Option<u32>,
}

/// A frame laid out: `head` (header and table) and the units go to `at`, one after the other, then `padding` zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledLaid {
    /// Where it begins.
    pub at: u32,
    /// Header and table as bytes.
    pub head: Vec<u8>,
    /// Zeroes behind the units.
    pub padding: u32,
    /// The versions, in their new places.
    pub versions: Vec<Version>,
}

impl SettledWriter {
    /// At the start of a file of `length` bytes.
    #[must_use]
    pub const fn begin(store: StoreId, segment: SegmentId, length: u32, settle: u64) -> Self {
        Self { store, segment, length, settle, end: SEGMENT_HEADER, frames: 0, last: 0, manifest: None }
    }

    /// The segment.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        self.segment
    }

    /// Bytes left.
    #[must_use]
    pub const fn room(&self) -> u32 {
        self.length.saturating_sub(self.end)
    }

    /// Lays a run: `versions` of one region, whose units will stand in their order in the body. Versions that follow each
    /// other and have one pack's place share that pack. `None` when the segment has no room for it.
    pub fn run(&mut self, volume: VolumeId, region: RegionNo, versions: &[Version]) -> Option<SettledLaid> {
        let mut placed = versions.to_vec();
        // Offsets have a fixed width: a first draft tells how long the table is.
        let _ = place(&mut placed, self.segment, 0)?;
        let mut table = Vec::new();
        encode_run(&placed, &mut table);
        let table_len = u32::try_from(table.len()).ok()?;
        let body_at = self.end.checked_add(SETTLED_FRAME_BYTES)?.checked_add(table_len)?;
        let body = place(&mut placed, self.segment, body_at)?;
        table.clear();
        encode_run(&placed, &mut table);
        let laid = self.lay(SettledKind::Run(volume, region), &table, body)?;
        Some(SettledLaid { versions: placed, ..laid })
    }

    /// Lays the manifest. `None` when the segment has no room for it.
    pub fn manifest(&mut self, manifest: &[u8]) -> Option<SettledLaid> {
        let laid = self.lay(SettledKind::Manifest, manifest, 0)?;
        self.manifest = Some(laid.at);
        Some(laid)
    }

    /// Lays a piece of a manifest. `None` when the segment has no room for it.
    pub fn piece(&mut self, piece: &[u8]) -> Option<SettledLaid> {
        self.lay(SettledKind::Piece, piece, 0)
    }

    /// The header of the segment as it stands.
    #[must_use]
    pub const fn header(&self) -> SettledHeader {
        SettledHeader {
            store: self.store,
            segment: self.segment,
            length: self.length,
            settle: self.settle,
            end: self.end,
            frames: self.frames,
            last: self.last,
            manifest: self.manifest,
        }
    }

    fn lay(&mut self, kind: SettledKind, table: &[u8], body: u32) -> Option<SettledLaid> {
        let table_len = u32::try_from(table.len()).ok()?;
        let used = SETTLED_FRAME_BYTES.checked_add(table_len)?.checked_add(body)?;
        let span = used.checked_next_multiple_of(FRAME_ALIGN)?;
        let end = self.end.checked_add(span).filter(|&e| e <= self.length)?;
        let (code, volume, region) = match kind {
            SettledKind::Run(volume, region) => (KIND_RUN, volume, region),
            SettledKind::Manifest => (KIND_MANIFEST, VolumeId::new(0), RegionNo::new(0)),
            SettledKind::Piece => (KIND_PIECE, VolumeId::new(0), RegionNo::new(0)),
        };
        let mut head = Vec::with_capacity(SETTLED_FRAME + table.len());
        head.extend_from_slice(&FRAME_MAGIC);
        head.extend_from_slice(&[0; 8]);
        head.extend_from_slice(&self.store.get().to_le_bytes());
        head.extend_from_slice(&self.segment.get().to_le_bytes());
        head.extend_from_slice(&self.frames.to_le_bytes());
        head.extend_from_slice(&code.to_le_bytes());
        head.extend_from_slice(&[0; 2]);
        for field in [table_len, body, span] {
            head.extend_from_slice(&field.to_le_bytes());
        }
        head.extend_from_slice(&volume.get().to_le_bytes());
        head.extend_from_slice(&region.get().to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(table);
        self.last = put_sum(&mut head);
        let laid = SettledLaid { at: self.end, head, padding: span - used, versions: Vec::new() };
        (self.end, self.frames) = (end, self.frames.saturating_add(1));
        Some(laid)
    }
}

/// Gives the units of `versions` their places from `at` on; the bytes they take together. Neighbours in one pack stay in one.
fn place(versions: &mut [Version], segment: SegmentId, at: u32) -> Option<u32> {
    let (mut offset, mut shared) = (at, None);
    for version in versions {
        let Place::Unit(location) = &mut version.place else {
            shared = None;
            continue;
        };
        let own = match shared.filter(|(before, _)| before == location) {
            Some((_, placed)) => placed,
            None => {
                let placed = Location { segment, offset, ..*location };
                offset = offset.checked_add(location.bytes())?;
                placed
            }
        };
        shared = location.is_pack().then_some((*location, own));
        *location = own;
    }
    offset.checked_sub(at)
}

/// The versions of a settled run; every unit lies in the frame's own body.
///
/// # Errors
/// [`FormatError`] when `table` is no run, or a unit lies elsewhere.
pub fn decode_settled_run(frame: &SettledFrame, at: u32, table: &[u8]) -> Result<Vec<Version>, FormatError> {
    let mut versions = Vec::new();
    decode_run(table, |v| versions.push(v))?;
    let from = at.saturating_add(SETTLED_FRAME_BYTES).saturating_add(frame.table);
    let to = from.saturating_add(frame.body);
    let inside = |v: &Version| match v.place {
        Place::Zero => true,
        Place::Unit(l) => {
            l.segment == frame.segment
                && from <= l.offset
                && l.offset.checked_add(l.bytes()).is_some_and(|end| end <= to)
        }
    };
    if versions.iter().all(inside) {
        Ok(versions)
    } else {
        Err(FormatError::malformed(FRAME, "a unit outside its frame"))
    }
}

#[cfg(test)]
mod tests;
