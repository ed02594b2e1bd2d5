//! Versions as the index keeps them: a run is a region's versions from one group, in the order of delivery; a
//! checkpoint is a region's whole map after a group.
//!
//! ```text
//!  run         form u8, 0 u8×3, count u32, base position u64, base segment u32, 0 u32
//!              form 1: first u16, blocks u16, position − base u32, segment − base u16, len u16, offset u32
//!              form 2: first u16, blocks u16, len u16, 0 u16, position u64, segment u32, offset u32
//!  checkpoint  group u64, run                                               len 0 = zeroes, little endian
//! ```

use tap_block::Position;
use tap_block::units::count;

use crate::bytes::Reader;
use crate::error::FormatError;
use crate::units::{Location, SegmentId};
use crate::version::{Place, Version};

const WHAT: &str = "index run";
const NARROW: u8 = 1;
const WIDE: u8 = 2;
const HEADER: usize = 24;
const NARROW_BYTES: usize = 16;
const WIDE_BYTES: usize = 24;

/// A group of the index: the versions that were brought in together. Ever increasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupNo(u64);

impl GroupNo {
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

    /// The group after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Appends `versions` as a run.
pub fn encode_run(versions: &[Version], out: &mut Vec<u8>) {
    let base_position = versions.iter().map(|v| v.position.get()).min().unwrap_or(0);
    let base_segment = versions.iter().filter_map(segment_of).min().unwrap_or(0);
    let narrow = versions.iter().all(|v| narrow_fields(v, base_position, base_segment).is_some());
    out.extend_from_slice(&[if narrow { NARROW } else { WIDE }, 0, 0, 0]);
    out.extend_from_slice(&u32::try_from(versions.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&base_position.to_le_bytes());
    out.extend_from_slice(&base_segment.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for version in versions {
        match narrow_fields(version, base_position, base_segment).filter(|_| narrow) {
            Some((position, segment)) => put_narrow(version, position, segment, out),
            None => put_wide(version, out),
        }
    }
}

const fn segment_of(version: &Version) -> Option<u32> {
    match version.place {
        Place::Zero => None,
        Place::Unit(at) => Some(at.segment.get()),
    }
}

fn narrow_fields(version: &Version, base_position: u64, base_segment: u32) -> Option<(u32, u16)> {
    let position = u32::try_from(version.position.get().checked_sub(base_position)?).ok()?;
    let segment =
        u16::try_from(segment_of(version).unwrap_or(base_segment).checked_sub(base_segment)?).ok()?;
    Some((position, segment))
}

const fn len_and_offset(version: &Version) -> (u16, u32) {
    match version.place {
        Place::Zero => (0, 0),
        Place::Unit(at) => (at.len, at.offset),
    }
}

fn put_narrow(version: &Version, position: u32, segment: u16, out: &mut Vec<u8>) {
    let (len, offset) = len_and_offset(version);
    out.extend_from_slice(&version.first.to_le_bytes());
    out.extend_from_slice(&version.blocks.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&segment.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
}

fn put_wide(version: &Version, out: &mut Vec<u8>) {
    let (len, offset) = len_and_offset(version);
    for field in [version.first, version.blocks, len, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&version.position.get().to_le_bytes());
    out.extend_from_slice(&segment_of(version).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
}

/// Hands every version of a run to `each`, in the order of delivery.
///
/// # Errors
/// [`FormatError`] when `bytes` are no run; versions before the bad place were handed out.
pub fn decode_run(bytes: &[u8], mut each: impl FnMut(Version)) -> Result<(), FormatError> {
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(FormatError::Short(WHAT))?;
    let mut r = Reader::new(WHAT, header);
    let [form, ..] = r.array::<4>()?;
    let (n, base_position, base_segment) = (r.u32()?, r.u64()?, r.u32()?);
    let width = match form {
        NARROW => NARROW_BYTES,
        WIDE => WIDE_BYTES,
        other => return Err(FormatError::malformed(WHAT, format!("unknown form {other}"))),
    };
    if count(body.len()) != u64::from(n) * count(width) {
        return Err(FormatError::malformed(WHAT, "its length does not fit its count"));
    }
    let bad = || FormatError::malformed(WHAT, "a version that no writer leaves");
    if form == NARROW {
        for fields in body.as_chunks::<NARROW_BYTES>().0 {
            each(narrow(fields, base_position, base_segment).ok_or_else(bad)?);
        }
    } else {
        for fields in body.as_chunks::<WIDE_BYTES>().0 {
            each(wide(fields).ok_or_else(bad)?);
        }
    }
    Ok(())
}

fn narrow(fields: &[u8; NARROW_BYTES], base_position: u64, base_segment: u32) -> Option<Version> {
    let &[f0, f1, b0, b1, p0, p1, p2, p3, s0, s1, l0, l1, o0, o1, o2, o3] = fields;
    let position = base_position.checked_add(u64::from(u32::from_le_bytes([p0, p1, p2, p3])))?;
    let segment = base_segment.checked_add(u32::from(u16::from_le_bytes([s0, s1])))?;
    let (len, offset) = (u16::from_le_bytes([l0, l1]), u32::from_le_bytes([o0, o1, o2, o3]));
    version([f0, f1], [b0, b1], position, segment, offset, len)
}

fn wide(fields: &[u8; WIDE_BYTES]) -> Option<Version> {
    let mut r = Reader::new(WHAT, fields);
    let (first, blocks, len, _) = (r.array().ok()?, r.array().ok()?, r.u16().ok()?, r.u16().ok()?);
    let (position, segment, offset) = (r.u64().ok()?, r.u32().ok()?, r.u32().ok()?);
    version(first, blocks, position, segment, offset, len)
}

fn version(
    first: [u8; 2],
    blocks: [u8; 2],
    position: u64,
    segment: u32,
    offset: u32,
    len: u16,
) -> Option<Version> {
    let place = match len {
        0 => Place::Zero,
        len => Place::Unit(Location { segment: SegmentId::new(segment), offset, len }),
    };
    let (first, blocks) = (u16::from_le_bytes(first), u16::from_le_bytes(blocks));
    let version = Version { first, blocks, position: Position::from_raw(position)?, place };
    version.is_sound().then_some(version)
}

/// Appends a checkpoint: a region's map after `group` and all groups before it.
pub fn encode_checkpoint(group: GroupNo, map: &[Version], out: &mut Vec<u8>) {
    out.extend_from_slice(&group.get().to_le_bytes());
    encode_run(map, out);
}

/// Hands every version of a checkpoint to `each` and returns its group.
///
/// # Errors
/// As [`decode_run`].
pub fn decode_checkpoint(bytes: &[u8], each: impl FnMut(Version)) -> Result<GroupNo, FormatError> {
    let (group, run) = bytes.split_first_chunk::<8>().ok_or(FormatError::Short(WHAT))?;
    decode_run(run, each)?;
    Ok(GroupNo(u64::from_le_bytes(*group)))
}
