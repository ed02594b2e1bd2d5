//! A frame's table: its records and the stored lengths of their blocks.
//!
//! ```text
//!  volumes   varint n, n × u64
//!  entries   each: tag u8 (kind, 0x80 = copy) · time: zigzag varint after the entry before (the frame's first time
//!            for the first) · copies: zigzag varint, as-of LSN after the last record's before it ·
//!            write, zero: varint volume index, varint block, varint blocks · resize: varint volume index, varint bytes ·
//!            marker: varint length, prost message
//!  lens      one u16 per block written
//! ```
//!
//! A frame of the gateway's own records holds, for each, varint length and prost message.

use tap_block::stored::{MAX_STORED, StoredLen};
use tap_block::units::count;
use tap_block::{Action, BLOCK_SIZE, Batch, Entry, Extent, Lsn, Position, VolumeId, WallTime};

use crate::bytes::{Reader, put_signed, put_varint};
use crate::error::FormatError;
use crate::frame::{FrameHeader, FrameKind};
use crate::marker::{decode_marker, encode_marker};
use crate::meta::MetaRecord;

const WHAT: &str = "frame table";
const KIND_WRITE: u8 = 1;
const KIND_ZERO: u8 = 2;
const KIND_RESIZE: u8 = 3;
const KIND_MARKER: u8 = 4;
const COPY: u8 = 0x80;

/// The records of a frame, without their units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// The records, in order.
    pub entries: Vec<Entry>,
    /// Stored lengths of the blocks written, entry after entry, block after block.
    pub lens: Vec<StoredLen>,
}

impl Records {
    /// The entries, each with its stored lengths and where in the segment its units begin; `body_at` is where
    /// the frame's do ([`FrameHeader::body_at`]).
    pub fn placed(&self, body_at: u32) -> impl Iterator<Item = (&Entry, &[StoredLen], u32)> {
        placed(&self.entries, &self.lens, body_at)
    }
}

/// As [`Records::placed`], for a batch that is being written.
pub fn placed<'a>(
    entries: &'a [Entry],
    lens: &'a [StoredLen],
    body_at: u32,
) -> impl Iterator<Item = (&'a Entry, &'a [StoredLen], u32)> {
    let (mut lens, mut at) = (lens, body_at);
    entries.iter().map(move |entry| {
        let (mine, rest) = lens.split_at(entry.action.stored_blocks().min(lens.len()));
        lens = rest;
        let start = at;
        at = mine.iter().fold(at, |at, &len| at.saturating_add(u32::from(len)));
        (entry, mine, start)
    })
}

/// The earliest and latest time among `entries`.
pub(crate) fn times(entries: &[Entry]) -> (WallTime, WallTime) {
    let first = entries.iter().map(|e| e.captured_at).min().unwrap_or_default();
    let last = entries.iter().map(|e| e.captured_at).max().unwrap_or_default();
    (first, last)
}

/// Appends the table of `batch`.
pub(crate) fn encode_batch(batch: &Batch, first_time: WallTime, out: &mut Vec<u8>) {
    let mut volumes: Vec<VolumeId> = Vec::new();
    for volume in batch.entries.iter().filter_map(|e| volume_of(&e.action)) {
        if volumes.last() != Some(&volume) && !volumes.contains(&volume) {
            volumes.push(volume);
        }
    }
    put_varint(out, count(volumes.len()));
    for volume in &volumes {
        out.extend_from_slice(&volume.get().to_le_bytes());
    }
    let mut state = Deltas { time: first_time, due: batch.first_lsn };
    for entry in &batch.entries {
        encode_entry(entry, &volumes, &mut state, out);
    }
    for len in &batch.lens {
        out.extend_from_slice(&len.to_le_bytes());
    }
}

/// What an entry is written relative to.
struct Deltas {
    time: WallTime,
    due: Lsn,
}

const fn volume_of(action: &Action) -> Option<VolumeId> {
    match action {
        Action::Write { volume, .. } | Action::Zero { volume, .. } | Action::Resize { volume, .. } => {
            Some(*volume)
        }
        Action::Mark(_) => None,
    }
}

fn encode_entry(entry: &Entry, volumes: &[VolumeId], state: &mut Deltas, out: &mut Vec<u8>) {
    let copy = entry.position.is_copy();
    let kind = match entry.action {
        Action::Write { .. } => KIND_WRITE,
        Action::Zero { .. } => KIND_ZERO,
        Action::Resize { .. } => KIND_RESIZE,
        Action::Mark(_) => KIND_MARKER,
    };
    out.push(if copy { kind | COPY } else { kind });
    put_signed(out, entry.captured_at.nanos().wrapping_sub(state.time.nanos()).cast_signed());
    state.time = entry.captured_at;
    if copy {
        let as_of = entry.position.lsn().get();
        put_signed(out, as_of.wrapping_sub(state.due.previous().get()).cast_signed());
    } else {
        state.due = state.due.next();
    }
    if let Some(volume) = volume_of(&entry.action) {
        let place = volumes.iter().position(|&v| v == volume).unwrap_or(usize::MAX);
        put_varint(out, count(place));
    }
    match &entry.action {
        Action::Write { extent, .. } | Action::Zero { extent, .. } => {
            put_varint(out, extent.offset() / BLOCK_SIZE);
            put_varint(out, extent.length() / BLOCK_SIZE);
        }
        Action::Resize { size, .. } => put_varint(out, *size),
        Action::Mark(marker) => {
            let bytes = encode_marker(marker);
            put_varint(out, count(bytes.len()));
            out.extend_from_slice(&bytes);
        }
    }
}

/// The records of a frame; `table` is exactly its table, already checked against the checksum.
///
/// # Errors
/// [`FormatError`] when it is not a table of records that fits `header`.
pub fn decode_records(header: &FrameHeader, table: &[u8]) -> Result<Records, FormatError> {
    if header.kind != FrameKind::Records {
        return Err(FormatError::malformed(WHAT, "of another kind"));
    }
    let mut r = Reader::new(WHAT, table);
    let volumes = decode_volumes(&mut r)?;
    let mut state = Deltas { time: header.first_time, due: header.first_lsn };
    let mut entries = Vec::with_capacity(usize::try_from(header.entries).unwrap_or(0).min(table.len()));
    let mut blocks = 0u64;
    for _ in 0..header.entries {
        let entry = decode_entry(&mut r, &volumes, &mut state)?;
        if let Action::Write { extent, .. } = &entry.action {
            blocks = blocks.saturating_add(extent.block_count());
        }
        entries.push(entry);
    }
    if blocks != u64::from(header.blocks) || count(r.left()) != blocks.saturating_mul(2) {
        return Err(FormatError::malformed(WHAT, "lengths that do not fit its records"));
    }
    let mut lens = Vec::with_capacity(r.left() / 2);
    while !r.is_empty() {
        lens.push(r.u16()?);
    }
    let too_long = lens.iter().any(|&l| usize::from(l) > MAX_STORED);
    if too_long || lens.iter().map(|&l| u64::from(l)).sum::<u64>() != u64::from(header.body) {
        return Err(FormatError::malformed(WHAT, "lengths that do not fit its units"));
    }
    Ok(Records { entries, lens })
}

fn decode_volumes(r: &mut Reader<'_>) -> Result<Vec<VolumeId>, FormatError> {
    let n = r.varint()?;
    if n > count(r.left() / 8) {
        return Err(FormatError::Short(WHAT));
    }
    (0..n).map(|_| r.u64().map(VolumeId::new)).collect()
}

fn decode_entry(r: &mut Reader<'_>, volumes: &[VolumeId], state: &mut Deltas) -> Result<Entry, FormatError> {
    let tag = r.u8()?;
    let captured_at = WallTime::from_nanos(state.time.nanos().wrapping_add(r.signed()?.cast_unsigned()));
    state.time = captured_at;
    let position = if tag & COPY == 0 {
        let position = Position::record(state.due);
        state.due = state.due.next();
        position
    } else {
        let raw = state.due.previous().get().wrapping_add(r.signed()?.cast_unsigned());
        let as_of = Lsn::new(raw).ok_or_else(|| FormatError::malformed(WHAT, "LSN out of range"))?;
        Position::copy_as_of(as_of)
    };
    let action = decode_action(r, tag & !COPY, volumes)?;
    Ok(Entry { position, captured_at, action })
}

fn decode_action(r: &mut Reader<'_>, kind: u8, volumes: &[VolumeId]) -> Result<Action, FormatError> {
    match kind {
        KIND_WRITE => Ok(Action::Write { volume: decode_volume(r, volumes)?, extent: decode_extent(r)? }),
        KIND_ZERO => Ok(Action::Zero { volume: decode_volume(r, volumes)?, extent: decode_extent(r)? }),
        KIND_RESIZE => Ok(Action::Resize { volume: decode_volume(r, volumes)?, size: r.varint()? }),
        KIND_MARKER => {
            let len = usize::try_from(r.varint()?).map_err(|_| FormatError::Short(WHAT))?;
            decode_marker(r.take(len)?).map(|m| Action::Mark(Box::new(m)))
        }
        other => Err(FormatError::malformed(WHAT, format!("unknown record kind {other}"))),
    }
}

fn decode_volume(r: &mut Reader<'_>, volumes: &[VolumeId]) -> Result<VolumeId, FormatError> {
    let place = usize::try_from(r.varint()?).unwrap_or(usize::MAX);
    volumes.get(place).copied().ok_or_else(|| FormatError::malformed(WHAT, "a volume that is not listed"))
}

fn decode_extent(r: &mut Reader<'_>) -> Result<Extent, FormatError> {
    let (first, blocks) = (r.varint()?, r.varint()?);
    let bytes = first.checked_mul(BLOCK_SIZE).zip(blocks.checked_mul(BLOCK_SIZE));
    bytes
        .and_then(|(offset, length)| Extent::new(offset, length))
        .filter(|e| !e.is_empty())
        .ok_or_else(|| FormatError::malformed(WHAT, "an extent out of range"))
}

/// Appends the table of a frame of the gateway's own records.
pub(crate) fn encode_meta(records: &[MetaRecord], out: &mut Vec<u8>) {
    for record in records {
        let bytes = record.encode();
        put_varint(out, count(bytes.len()));
        out.extend_from_slice(&bytes);
    }
}

/// The gateway's own records in a frame; `table` is exactly its table, already checked against the checksum.
///
/// # Errors
/// [`FormatError`] when it is not a table of such records that fits `header`.
pub fn decode_meta(header: &FrameHeader, table: &[u8]) -> Result<Vec<MetaRecord>, FormatError> {
    if header.kind != FrameKind::Meta {
        return Err(FormatError::malformed(WHAT, "of another kind"));
    }
    let mut r = Reader::new(WHAT, table);
    let mut records = Vec::new();
    for _ in 0..header.entries {
        let len = usize::try_from(r.varint()?).map_err(|_| FormatError::Short(WHAT))?;
        records.push(MetaRecord::decode(r.take(len)?)?);
    }
    if r.is_empty() { Ok(records) } else { Err(FormatError::malformed(WHAT, "bytes behind its records")) }
}
