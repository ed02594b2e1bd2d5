//! The disk tier: items in recycled segment files, written in groups with one sync, found again after a crash.
//!
//! Used by one thread at a time. What it does on errors: a group that could not be written or synced leaves the
//! file it went to behind; the next one starts a new file. A record that cannot be read is reported as lost.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cx_spool::{ItemNo, Reached, Recovered, RecoveredItem, SpillGroup, Summary};
use tap_block::Batch;
use tap_block::units::{count, index};
use tap_disk::{Durability, FileNo, PoolOptions, SegmentFile, SegmentPool, SlottedFile};

use super::record::{GRAIN, HEADER, Header, Knowledge, Record};

/// Where a sound record lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: FileNo,
    offset: u64,
    len: u64,
}

/// The file being written.
struct Tail {
    no: FileNo,
    file: Arc<SegmentFile>,
    at: u64,
}

pub(crate) struct Spool {
    pool: SegmentPool,
    mark: SlottedFile,
    marked: Knowledge,
    tail: Option<Tail>,
    places: BTreeMap<ItemNo, Place>,
    /// The last item of each file.
    files: BTreeMap<FileNo, ItemNo>,
    forgotten: ItemNo,
}

/// Room for [`Knowledge`] and what later versions add to it.
const MARK_BYTES: usize = 256;
const MARK_FILE: &str = "mark";

impl Spool {
    /// Opens the spool in `dir`, and finds what it holds.
    pub(crate) fn open(dir: &Path, segment_len: u64, disk_limit: u64) -> io::Result<(Self, Recovered)> {
        tap_disk::ensure_dir(dir)?;
        // Bytes are limited by the outbox; this is the backstop against files that hold little.
        let max_files = index(disk_limit / segment_len.max(1)).saturating_mul(2).saturating_add(4);
        let options = PoolOptions { ready: 1, max_files, max_spare: 2, max_open: 16 };
        let pool = SegmentPool::open_with(dir, segment_len, options)?;
        Self::over(pool, &dir.join(MARK_FILE))
    }

    /// The spool in a pool, with its mark at `mark`.
    pub(crate) fn over(pool: SegmentPool, mark: &Path) -> io::Result<(Self, Recovered)> {
        let mark = SlottedFile::open(mark, MARK_BYTES)?;
        let marked = mark.load().and_then(|m| Knowledge::decode_mark(&m)).unwrap_or_default();
        let (places, files) = (BTreeMap::new(), BTreeMap::new());
        let forgotten = marked.forgotten;
        let mut spool = Self { pool, mark, marked, tail: None, places, files, forgotten };
        let recovered = spool.recover()?;
        Ok((spool, recovered))
    }

    /// Writes and syncs a group.
    pub(crate) fn append(&mut self, group: &SpillGroup) -> io::Result<()> {
        let known =
            Knowledge { forgotten: group.forgotten, synced: group.synced, everywhere: group.everywhere };
        let mut written = Vec::with_capacity(group.items.len());
        let result = self.write_all(group, known, &mut written).and_then(|()| self.sync_tail());
        if result.is_err() {
            self.tail = None;
            return result;
        }
        self.places.extend(written);
        let synced = group.items.last().map_or(known.synced, |(no, _)| no.next());
        self.store_mark(Knowledge { synced, ..known }, Durability::Unsynced)
    }

    /// Reads an item back; `None` when it is not there or not sound.
    pub(crate) fn read(&self, no: ItemNo) -> Option<Arc<Batch>> {
        let place = self.places.get(&no)?;
        let file = self.pool.get(place.file).ok()?;
        let record = read_bytes(&file, place.offset, place.len).ok()?;
        let header = Header::decode(&record).filter(|h| h.item == no && h.record_len() == place.len)?;
        header.batch(record).map(Arc::new)
    }

    /// Items below `to` are not needed any more: their files are recycled.
    pub(crate) fn forget(&mut self, to: ItemNo, everywhere: Reached) -> io::Result<()> {
        self.forgotten = self.forgotten.max(to);
        self.places = self.places.split_off(&self.forgotten);
        let tail = self.tail.as_ref().map(|t| t.no);
        let free: Vec<FileNo> = self
            .files
            .iter()
            .filter(|(no, last)| **last < self.forgotten && Some(**no) != tail)
            .map(|(no, _)| *no)
            .collect();
        // Before a file is written again the mark must say that nothing in it counts.
        let durability = if free.is_empty() { Durability::Unsynced } else { Durability::Synced };
        self.store_mark(Knowledge { forgotten: self.forgotten, everywhere, ..self.marked }, durability)?;
        for no in free {
            self.files.remove(&no);
            self.pool.give_back(no)?;
        }
        Ok(())
    }

    /// Everything known is on the disk.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.mark.store(&self.marked.encode_mark(), Durability::Synced)
    }

    fn write_all(
        &mut self,
        group: &SpillGroup,
        known: Knowledge,
        written: &mut Vec<(ItemNo, Place)>,
    ) -> io::Result<()> {
        for (no, batch) in &group.items {
            let record = Record::new(*no, known, batch).ok_or_else(|| too_large(*no))?;
            written.push((*no, self.write(*no, &record)?));
        }
        Ok(())
    }

    fn write(&mut self, no: ItemNo, record: &Record) -> io::Result<Place> {
        let len = record.len();
        if len > self.pool.file_len() {
            return Err(too_large(no));
        }
        if self.tail.as_ref().is_none_or(|t| t.at + len > self.pool.file_len()) {
            self.sync_tail()?;
            let (no, file) = self.pool.take()?;
            self.tail = Some(Tail { no, file, at: 0 });
        }
        let Some(tail) = self.tail.as_mut() else { return Err(io::Error::other("no file to write to")) };
        let place = Place { file: tail.no, offset: tail.at, len };
        self.files.insert(tail.no, no);
        tail.file.write_at(tail.at, &record.slices())?;
        tail.at = (tail.at + len).next_multiple_of(GRAIN);
        Ok(place)
    }

    fn sync_tail(&self) -> io::Result<()> {
        self.tail.as_ref().map_or(Ok(()), |t| t.file.sync())
    }

    fn store_mark(&mut self, known: Knowledge, durability: Durability) -> io::Result<()> {
        let known = self.marked.join(known);
        if known != self.marked || durability == Durability::Synced {
            self.marked = known;
            self.mark.store(&known.encode_mark(), durability)?;
        }
        Ok(())
    }
}

// --- recovery ---

/// What a scan found.
#[derive(Default)]
struct Scan {
    sound: BTreeMap<ItemNo, (Place, Summary)>,
    known: Knowledge,
}

impl Spool {
    /// Looks at every file; keeps what counts, erases a torn tail, recycles the rest.
    fn recover(&mut self) -> io::Result<Recovered> {
        let mut scan = Scan { known: self.marked, ..Scan::default() };
        for no in self.pool.list() {
            let file = self.pool.get(no)?;
            scan.file(no, &file);
        }
        let (recovered, end) = scan.assess();
        scan.known.forgotten = recovered.first;
        self.adopt(scan, end)?;
        Ok(recovered)
    }

    /// Everything below `end` that is needed stays; what lies behind was never acknowledged to anybody, and its
    /// numbers will be given anew.
    fn adopt(&mut self, scan: Scan, end: ItemNo) -> io::Result<()> {
        let zeroes = [0; HEADER];
        for (no, (place, _)) in &scan.sound {
            if *no >= scan.known.forgotten && *no < end {
                self.places.insert(*no, *place);
                let last = self.files.entry(place.file).or_insert(*no);
                *last = (*last).max(*no);
            } else if *no >= end {
                let file = self.pool.get(place.file)?;
                file.write_at(place.offset, &[IoSlice::new(&zeroes)])?;
                file.sync()?;
            }
        }
        // What a killed process left in the page cache counts from here on, so it has to be on the disk.
        for no in self.files.keys() {
            self.pool.get(*no)?.sync()?;
        }
        self.forgotten = scan.known.forgotten;
        let known = Knowledge { synced: end, ..scan.known };
        self.store_mark(known, Durability::Synced)?;
        for no in self.pool.list() {
            if !self.files.contains_key(&no) {
                self.pool.give_back(no)?;
            }
        }
        Ok(())
    }
}

impl Scan {
    /// Collects the sound records of a file. What cannot be read is no record; whether one is missing shows later.
    fn file(&mut self, no: FileNo, file: &SegmentFile) {
        let mut offset = 0;
        while offset + count(HEADER) <= file.len() {
            offset = self.record(no, file, offset).unwrap_or(offset + GRAIN);
        }
    }

    /// The record at `offset`, if a sound one is there; where the next one starts.
    fn record(&mut self, no: FileNo, file: &SegmentFile, offset: u64) -> Option<u64> {
        let header = Header::decode(&read_bytes(file, offset, count(HEADER)).ok()?)?;
        let len = header.record_len();
        if len > file.len() - offset {
            return None;
        }
        let batch = header.batch(read_bytes(file, offset, len).ok()?)?;
        self.known = self.known.join(header.known);
        self.sound.insert(header.item, (Place { file: no, offset, len }, Summary::of(&batch)));
        Some((offset + len).next_multiple_of(GRAIN))
    }

    /// What counts, in order, with what is missing; and the number after the last.
    fn assess(&self) -> (Recovered, ItemNo) {
        let (floor, synced) = (self.known.forgotten, self.known.synced);
        let everywhere = self.known.everywhere;
        // A long stretch of lost items at the start is one lost item: it makes the same hole.
        let first = self.sound.range(floor..).next().map_or(synced.max(floor), |(no, _)| *no);
        let first = if first > floor { ItemNo::new(first.get().saturating_sub(1)) } else { first };
        let mut items = Vec::new();
        let mut no = first;
        loop {
            match self.sound.get(&no).filter(|_| no >= floor) {
                Some((_, summary)) => items.push(RecoveredItem::Sound(*summary)),
                None if no < synced => items.push(RecoveredItem::Lost),
                None => break,
            }
            no = no.next();
        }
        (Recovered { first, items, everywhere }, no)
    }
}

fn read_bytes(file: &SegmentFile, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(index(len));
    file.read_at(offset, &mut bytes)?;
    Ok(bytes.freeze())
}

fn too_large(no: ItemNo) -> io::Error {
    let text = format!("{no} is larger than a spool file: make batches smaller or spool files larger");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
pub(crate) mod tests;
