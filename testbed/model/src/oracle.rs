//! Every record ever delivered, kept with plain content and replayed from the start for every question.
//! Slow and simple on purpose: a reader must see at a glance that it is right.

use tap_block::stored::{UNIT, UnitError, unpack};
use tap_block::units::index;
use tap_block::{Action, Batch, Bookmark, Extent, Lsn, Marker, Position, VolumeId, WallTime};
use thiserror::Error;

/// All history, in the order of delivery.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    delivered: Vec<Record>,
}

#[derive(Debug, Clone)]
struct Record {
    position: Position,
    captured_at: WallTime,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    /// Bytes at an offset; zero records are kept as the zeroes they stand for.
    Bytes {
        volume: VolumeId,
        offset: usize,
        data: Vec<u8>,
    },
    Size {
        volume: VolumeId,
        size: usize,
    },
    Mark(Marker),
}

/// Why a batch cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OracleError {
    /// It breaks the rules of batches.
    #[error(transparent)]
    Batch(#[from] tap_block::BatchError),
    /// A stored unit in it is not sound.
    #[error("the unit of block {0}: {1}")]
    Unit(u64, UnitError),
}

impl Oracle {
    /// No history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every record of `batch`.
    ///
    /// # Errors
    /// [`OracleError`] when the batch is not sound; nothing of it is kept then.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), OracleError> {
        batch.validate()?;
        let mut records = Vec::new();
        for (entry, lens, units) in batch.iter() {
            let mut add = |change| {
                records.push(Record { position: entry.position, captured_at: entry.captured_at, change });
            };
            match &entry.action {
                Action::Write { volume, extent } => {
                    let data = plain(*extent, lens, &units)?;
                    add(Change::Bytes { volume: *volume, offset: index(extent.offset()), data });
                }
                Action::Zero { volume, extent } => {
                    let data = vec![0; index(extent.length())];
                    add(Change::Bytes { volume: *volume, offset: index(extent.offset()), data });
                }
                Action::Resize { volume, size } => add(Change::Size { volume: *volume, size: index(*size) }),
                Action::Mark(marker) => {
                    if let Marker::RunStart(run) = &**marker {
                        add(Change::Size { volume: run.volume, size: index(run.size) });
                    }
                    add(Change::Mark((**marker).clone()));
                }
            }
        }
        self.delivered.append(&mut records);
        Ok(())
    }

    /// The disk as it was just after the record at `point`.
    #[must_use]
    pub fn image_at(&self, volume: VolumeId, point: Lsn) -> Vec<u8> {
        let mut disk = Vec::new();
        for record in self.replay(point) {
            match &record.change {
                Change::Size { volume: v, size } if *v == volume => disk.resize(*size, 0),
                Change::Bytes { volume: v, offset, data } if *v == volume => put(&mut disk, *offset, data),
                _ => {}
            }
        }
        disk
    }

    /// The volume's size just after the record at `point`; 0 before its first record.
    #[must_use]
    pub fn size_at(&self, volume: VolumeId, point: Lsn) -> u64 {
        tap_block::units::count(self.image_at(volume, point).len())
    }

    /// The greatest LSN of a stream record delivered; [`Lsn::ZERO`] before the first.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        let records = self.delivered.iter().filter(|r| !r.position.is_copy());
        records.map(|r| r.position.lsn()).max().unwrap_or(Lsn::ZERO)
    }

    /// Every LSN of a stream record, in order, once.
    #[must_use]
    pub fn lsns(&self) -> Vec<Lsn> {
        let records = self.delivered.iter().filter(|r| !r.position.is_copy());
        let mut lsns: Vec<Lsn> = records.map(|r| r.position.lsn()).collect();
        lsns.sort_unstable();
        lsns.dedup();
        lsns
    }

    /// Every marker in order, with its LSN and time.
    #[must_use]
    pub fn markers(&self) -> Vec<(Lsn, WallTime, Marker)> {
        let all = self.replay(Lsn::ZERO.plus(Lsn::LIMIT)).into_iter();
        let marks = all.filter_map(|r| match &r.change {
            Change::Mark(marker) => Some((r.position.lsn(), r.captured_at, marker.clone())),
            _ => None,
        });
        marks.collect()
    }

    /// The bookmarks in order, with their LSNs.
    #[must_use]
    pub fn bookmarks(&self) -> Vec<(Lsn, Bookmark)> {
        let marks = self.markers().into_iter();
        let bookmarks = marks.filter_map(|(lsn, _, marker)| match marker {
            Marker::Bookmark(bookmark) => Some((lsn, bookmark)),
            _ => None,
        });
        bookmarks.collect()
    }

    /// When the stream record at `lsn` was captured.
    #[must_use]
    pub fn time_of(&self, lsn: Lsn) -> Option<WallTime> {
        let mut records = self.delivered.iter().filter(|r| !r.position.is_copy());
        records.find(|r| r.position.lsn() == lsn).map(|r| r.captured_at)
    }

    /// The last record captured at or before `time`.
    #[must_use]
    pub fn lsn_at(&self, time: WallTime) -> Option<Lsn> {
        let records = self.delivered.iter().filter(|r| !r.position.is_copy() && r.captured_at <= time);
        records.map(|r| r.position.lsn()).max()
    }

    /// What is visible at `point`, by position, and in the order of delivery where positions are equal.
    fn replay(&self, point: Lsn) -> Vec<&Record> {
        let mut seen: Vec<&Record> = self.delivered.iter().filter(|r| r.position.visible_at(point)).collect();
        seen.sort_by_key(|r| r.position); // a stable sort
        seen
    }
}

/// Writes `data` at `offset`; what lies past the disk's end is not part of it.
fn put(disk: &mut [u8], offset: usize, data: &[u8]) {
    for (to, from) in disk.iter_mut().skip(offset).zip(data) {
        *to = *from;
    }
}

/// The plain content of a write.
fn plain(extent: Extent, lens: &[u16], mut units: &[u8]) -> Result<Vec<u8>, OracleError> {
    let mut data = vec![0; index(extent.length())];
    for ((block, &len), out) in extent.blocks().zip(lens).zip(data.chunks_mut(UNIT)) {
        let bad = |e| OracleError::Unit(block.get(), e);
        let (unit, rest) = units.split_at_checked(usize::from(len)).ok_or(bad(UnitError::Malformed))?;
        if len > 0 {
            unpack(block, unit, out).map_err(bad)?;
        }
        units = rest;
    }
    Ok(data)
}
