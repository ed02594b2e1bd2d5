//! Batches as columns and back.
//!
//! Records of one batch resemble each other: the next position is two further, the time a few microseconds later,
//! the volume the same. One column per property keeps a record at about 15 bytes and needs no allocation per
//! record in either direction.

use std::vec::IntoIter;

use tap_block::stored::{MAX_STORED, StoredLen, UNIT_HEADER};
use tap_block::units::index;
use tap_block::{
    Action, Batch, BatchError, Entry, Epoch, Extent, Lsn, Marker, Position, RunId, StreamId, VolumeId,
    WallTime,
};

use crate::codec::{MAX_ENTRIES, WireError};
use crate::proto;

const WRITE: u8 = 1;
const ZERO: u8 = 2;
const RESIZE: u8 = 3;
const MARK: u8 = 4;

/// Everything of a batch but its body.
pub(crate) fn pack(batch: &Batch) -> proto::Batch {
    let mut packer = Packer::new(batch);
    for entry in &batch.entries {
        packer.entry(entry);
    }
    packer.finish()
}

struct Packer {
    out: proto::Batch,
    kinds: Vec<u8>,
    position: u64,
    time: u64,
}

impl Packer {
    fn new(batch: &Batch) -> Self {
        let n = batch.entries.len();
        let out = proto::Batch {
            stream: batch.stream.get(),
            run: batch.run.get(),
            epoch: batch.epoch.get(),
            first_lsn: batch.first_lsn.get(),
            positions: Vec::with_capacity(n),
            times: Vec::with_capacity(n),
            volume: Vec::with_capacity(n),
            offsets: Vec::with_capacity(n),
            lengths: Vec::with_capacity(n),
            lens: batch.lens.iter().map(|&l| u32::from(l)).collect(),
            ..proto::Batch::default()
        };
        let position = Position::record(batch.first_lsn).get();
        Self { out, kinds: Vec::with_capacity(n), position, time: 0 }
    }

    fn entry(&mut self, entry: &Entry) {
        let (position, time) = (entry.position.get(), entry.captured_at.nanos());
        self.out.positions.push(position.wrapping_sub(self.position).cast_signed());
        self.out.times.push(time.wrapping_sub(self.time).cast_signed());
        (self.position, self.time) = (position, time);
        match &entry.action {
            Action::Write { volume, extent } => self.change(WRITE, *volume, *extent),
            Action::Zero { volume, extent } => self.change(ZERO, *volume, *extent),
            Action::Resize { volume, size } => {
                self.kinds.push(RESIZE);
                self.volume(*volume);
                self.out.lengths.push(*size);
            }
            Action::Mark(marker) => {
                self.kinds.push(MARK);
                self.out.markers.push(proto::Marker::from(&**marker));
            }
        }
    }

    fn change(&mut self, kind: u8, volume: VolumeId, extent: Extent) {
        self.kinds.push(kind);
        self.volume(volume);
        self.out.offsets.push(extent.offset());
        self.out.lengths.push(extent.length());
    }

    fn volume(&mut self, volume: VolumeId) {
        let known = self.out.volumes.iter().position(|&v| v == volume.get());
        let at = known.unwrap_or_else(|| {
            self.out.volumes.push(volume.get());
            self.out.volumes.len() - 1
        });
        self.out.volume.push(u32::try_from(at).unwrap_or(u32::MAX));
    }

    fn finish(self) -> proto::Batch {
        proto::Batch { kinds: self.kinds.into(), ..self.out }
    }
}

/// A checked batch.
pub(crate) fn unpack(from: proto::Batch) -> Result<Batch, WireError> {
    if from.kinds.len() > MAX_ENTRIES {
        return Err(WireError::TooManyEntries(from.kinds.len()));
    }
    let lens = from.lens.iter().map(|&l| stored_len(l)).collect::<Result<Vec<_>, _>>()?;
    let first_lsn = proto::lsn(from.first_lsn)?;
    let batch = Batch {
        stream: StreamId::new(from.stream),
        run: RunId::new(from.run),
        epoch: Epoch::new(from.epoch),
        first_lsn,
        body: from.body.clone(),
        entries: entries(from, Position::record(first_lsn))?,
        lens,
    };
    check(&batch)?;
    Ok(batch)
}

/// The rules of a batch that is about to be taken, whichever way it came.
///
/// Beyond [`Batch::validate`]: something in it (an empty batch weighs nothing, so no credit would bound it), LSNs from 1 up to the limit, nothing so long that a sum overflows, and no copy of a
/// disk state whose records are still to come.
pub(crate) fn check(batch: &Batch) -> Result<(), WireError> {
    if batch.entries.is_empty() {
        return Err(WireError::Missing("a record in the batch"));
    }
    let mut due = batch.first_lsn.get();
    for entry in &batch.entries {
        let lsn = entry.position.lsn().get();
        if entry.action.stored_blocks() > batch.lens.len() {
            return Err(BatchError::Lengths.into());
        }
        if entry.position.is_copy() {
            if lsn >= due {
                return Err(WireError::CopyAhead { as_of: lsn, due });
            }
            continue;
        }
        if lsn == 0 {
            return Err(WireError::OutOfRange { what: "record LSN", value: lsn });
        }
        due = due.saturating_add(1);
    }
    if due > Lsn::LIMIT {
        return Err(WireError::OutOfRange { what: "record LSN", value: due });
    }
    Ok(batch.validate()?)
}

fn entries(from: proto::Batch, first: Position) -> Result<Vec<Entry>, WireError> {
    let kinds = from.kinds.clone();
    let mut columns = Columns::new(from, first);
    let entries = kinds.iter().map(|&kind| columns.entry(kind)).collect::<Result<Vec<_>, _>>()?;
    if columns.are_empty() { Ok(entries) } else { Err(WireError::Columns) }
}

/// Reads the columns side by side.
struct Columns {
    position: u64,
    time: u64,
    volumes: Vec<u64>,
    positions: IntoIter<i64>,
    times: IntoIter<i64>,
    volume: IntoIter<u32>,
    offsets: IntoIter<u64>,
    lengths: IntoIter<u64>,
    markers: IntoIter<proto::Marker>,
}

impl Columns {
    fn new(from: proto::Batch, first: Position) -> Self {
        Self {
            position: first.get(),
            time: 0,
            volumes: from.volumes,
            positions: from.positions.into_iter(),
            times: from.times.into_iter(),
            volume: from.volume.into_iter(),
            offsets: from.offsets.into_iter(),
            lengths: from.lengths.into_iter(),
            markers: from.markers.into_iter(),
        }
    }

    fn entry(&mut self, kind: u8) -> Result<Entry, WireError> {
        self.position = self.position.wrapping_add(next(&mut self.positions)?.cast_unsigned());
        self.time = self.time.wrapping_add(next(&mut self.times)?.cast_unsigned());
        let action = match kind {
            WRITE => Action::Write { volume: self.volume()?, extent: self.extent()? },
            ZERO => Action::Zero { volume: self.volume()?, extent: self.extent()? },
            RESIZE => Action::Resize { volume: self.volume()?, size: next(&mut self.lengths)? },
            MARK => Action::Mark(Box::new(Marker::try_from(next(&mut self.markers)?)?)),
            other => return Err(WireError::OutOfRange { what: "kind of record", value: u64::from(other) }),
        };
        let position = Position::from_raw(self.position)
            .ok_or(WireError::OutOfRange { what: "position", value: self.position })?;
        Ok(Entry { position, captured_at: WallTime::from_nanos(self.time), action })
    }

    fn volume(&mut self) -> Result<VolumeId, WireError> {
        let at = u64::from(next(&mut self.volume)?);
        let id = self.volumes.get(index(at));
        id.map(|&id| VolumeId::new(id)).ok_or(WireError::OutOfRange { what: "volume index", value: at })
    }

    fn extent(&mut self) -> Result<Extent, WireError> {
        let (offset, length) = (next(&mut self.offsets)?, next(&mut self.lengths)?);
        Extent::new(offset, length).ok_or(WireError::OutOfRange { what: "extent offset", value: offset })
    }

    fn are_empty(&self) -> bool {
        let numbers = self.positions.len() + self.times.len() + self.offsets.len() + self.lengths.len();
        numbers + self.volume.len() + self.markers.len() == 0
    }
}

fn next<T>(column: &mut IntoIter<T>) -> Result<T, WireError> {
    column.next().ok_or(WireError::Columns)
}

/// A block is stored in no bytes (all zero) or in a header and some.
fn stored_len(raw: u32) -> Result<StoredLen, WireError> {
    let bad = WireError::OutOfRange { what: "stored length", value: u64::from(raw) };
    let len = StoredLen::try_from(raw).map_err(|_| bad.clone())?;
    let sound = len == 0 || (UNIT_HEADER + 1..=MAX_STORED).contains(&usize::from(len));
    if sound { Ok(len) } else { Err(bad) }
}

/// Verifies the checksum of every stored unit of a batch: what came over a network may have been changed by it.
///
/// # Errors
/// [`WireError::Damaged`] with the first bad block.
pub fn verify_units(batch: &Batch) -> Result<(), WireError> {
    for (entry, lens, units) in batch.iter() {
        let (Some((_, extent)), false) = (entry.action.changes(), lens.is_empty()) else { continue };
        let mut rest = units.as_ref();
        for (no, &len) in extent.blocks().zip(lens) {
            let damaged = WireError::Damaged { block: no.get() };
            let (unit, after) = rest.split_at_checked(usize::from(len)).ok_or_else(|| damaged.clone())?;
            if len > 0 {
                tap_block::stored::verify(no, unit).map_err(|_| damaged)?;
            }
            rest = after;
        }
    }
    Ok(())
}

/// Leaves out the stream records up to `last`; copies stay, they may come twice. `None` when nothing is left.
#[must_use]
pub fn without_records_to(batch: &Batch, last: Lsn) -> Option<Batch> {
    let keep = |e: &Entry| e.position.is_copy() || e.position.lsn() > last;
    let (mut entries, mut lens, mut body) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, mine, units) in batch.iter().filter(|(e, ..)| keep(e)) {
        entries.push(entry.clone());
        lens.extend_from_slice(mine);
        body.extend_from_slice(&units);
    }
    let first_lsn = batch.first_lsn.max(last.next());
    (!entries.is_empty()).then(|| Batch { first_lsn, entries, lens, body: body.into(), ..header(batch) })
}

fn header(batch: &Batch) -> Batch {
    Batch {
        stream: batch.stream,
        run: batch.run,
        epoch: batch.epoch,
        first_lsn: batch.first_lsn,
        entries: Vec::new(),
        lens: Vec::new(),
        body: bytes::Bytes::new(),
    }
}

#[cfg(test)]
mod tests;
