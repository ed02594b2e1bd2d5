//! Which segment lies in which file, and up to where it holds frames.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use gateway_journal::{SegmentId, Start};
use tap_disk::{FileNo, SegmentFile, SegmentPool};

use crate::sync::{read, write};

/// The segments of a store.
pub(crate) struct Segments {
    pool: Arc<SegmentPool>,
    /// The log's, each with the bytes of those before it: asked for once for each group that waits, whenever it is looked whether
    /// there is something to settle.
    known: RwLock<BTreeMap<SegmentId, (Known, u64)>>,
    /// Those bytes are to be counted anew.
    stale: AtomicBool,
    settled: RwLock<BTreeMap<SegmentId, Known>>,
    /// The log's that are gone.
    missed: RwLock<BTreeSet<SegmentId>>,
    /// Settled ones that were gone, or cut off, when the store was opened, whatever stands in for them.
    torn: RwLock<BTreeSet<SegmentId>>,
    /// Settled ones that could not be found when that was last looked at.
    astray: RwLock<BTreeSet<SegmentId>>,
    /// No segment ever had this id or a later one.
    next: AtomicU32,
}

/// A segment's file and the byte behind its last sound frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) file: FileNo,
    pub(crate) end: u32,
}

impl Segments {
    pub(crate) fn new(pool: Arc<SegmentPool>, next: SegmentId) -> Self {
        let (known, settled) = (RwLock::new(BTreeMap::new()), RwLock::new(BTreeMap::new()));
        let (missed, torn, astray) = (RwLock::default(), RwLock::default(), RwLock::default());
        let (stale, next) = (AtomicBool::new(false), AtomicU32::new(next.get()));
        Self { pool, known, stale, settled, missed, torn, astray, next }
    }

    /// An id no segment ever had.
    pub(crate) fn new_id(&self) -> SegmentId {
        SegmentId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn pool(&self) -> &SegmentPool {
        &self.pool
    }

    pub(crate) fn set(&self, segment: SegmentId, known: Known) {
        write(&self.known).insert(segment, (known, 0));
        self.stale.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_end(&self, segment: SegmentId, end: u32) {
        let mut log = write(&self.known);
        let is_last = log.last_key_value().is_some_and(|(last, _)| *last == segment);
        if let Some((known, _)) = log.get_mut(&segment) {
            known.end = end;
            self.stale.fetch_or(!is_last, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget(&self, segment: SegmentId) {
        write(&self.known).remove(&segment);
        self.stale.store(true, Ordering::Relaxed);
    }

    /// It is a segment of the log, and gone.
    pub(crate) fn miss(&self, segment: SegmentId) {
        write(&self.missed).insert(segment);
    }

    pub(crate) fn is_missed(&self, segment: SegmentId) -> bool {
        read(&self.missed).contains(&segment)
    }

    /// It is a settled segment that may be put back.
    pub(crate) fn wait_for(&self, segment: SegmentId) {
        write(&self.torn).insert(segment);
    }

    /// Of files that are gone and not open: what lay there can be read once they are put back.
    pub(crate) fn set_astray(&self, segments: BTreeSet<SegmentId>) {
        *write(&self.astray) = segments;
    }

    pub(crate) fn is_awaited(&self, segment: SegmentId) -> bool {
        read(&self.torn).contains(&segment) || read(&self.astray).contains(&segment)
    }

    pub(crate) fn awaited(&self) -> BTreeSet<SegmentId> {
        &*read(&self.torn) | &*read(&self.astray)
    }

    /// A settled segment that is whole.
    pub(crate) fn set_settled(&self, segment: SegmentId, known: Known) {
        write(&self.settled).insert(segment, known);
    }

    /// Takes a settled segment out of the store.
    pub(crate) fn forget_settled(&self, segment: SegmentId) {
        write(&self.settled).remove(&segment);
    }

    /// Takes the log's segments before `segment` out of the store; their files are the caller's.
    pub(crate) fn forget_before(&self, segment: SegmentId) -> Vec<(SegmentId, Known)> {
        let mut known = write(&self.known);
        let rest = known.split_off(&segment);
        std::mem::replace(&mut *known, rest).into_iter().map(|(id, (known, _))| (id, known)).collect()
    }

    /// A segment of the log.
    pub(crate) fn known(&self, segment: SegmentId) -> Option<Known> {
        read(&self.known).get(&segment).map(|(known, _)| *known)
    }

    /// Any segment.
    fn any(&self, segment: SegmentId) -> Option<Known> {
        self.known(segment).or_else(|| read(&self.settled).get(&segment).copied())
    }

    /// Is it part of the store?
    pub(crate) fn lives(&self, segment: SegmentId) -> bool {
        self.any(segment).is_some()
    }

    /// Bytes that the log has up to a place.
    pub(crate) fn bytes_to(&self, segment: SegmentId, at: u32) -> u64 {
        if self.stale.load(Ordering::Relaxed) {
            let mut log = write(&self.known);
            if self.stale.swap(false, Ordering::Relaxed) {
                count_bytes(&mut log);
            }
        }
        let log = read(&self.known);
        let first = log.first_key_value().map_or(0, |(_, (_, before))| *before);
        let last = log.range(..segment).next_back();
        let through = last.map_or(first, |(_, (known, before))| before + u64::from(known.end));
        through - first + u64::from(at)
    }

    /// Takes the settled segments that are not `live` out of the store; their files are the caller's.
    pub(crate) fn retain_settled(&self, live: &BTreeSet<SegmentId>) -> Vec<(SegmentId, Known)> {
        write(&self.settled).extract_if(.., |id, _| !live.contains(id)).collect()
    }

    /// Every settled segment, the oldest first.
    pub(crate) fn settled(&self) -> Vec<(SegmentId, Known)> {
        read(&self.settled).iter().map(|(id, known)| (*id, *known)).collect()
    }

    /// All that are part of the store.
    pub(crate) fn all(&self) -> BTreeSet<SegmentId> {
        let log: BTreeSet<SegmentId> = read(&self.known).keys().copied().collect();
        log.into_iter().chain(read(&self.settled).keys().copied()).collect()
    }

    /// Segments of the log that nothing is appended to any more: every one but the last.
    pub(crate) fn finished(&self) -> Vec<(SegmentId, Known)> {
        let known = read(&self.known);
        let all = known.iter().map(|(id, (known, _))| (*id, *known));
        all.take(known.len().saturating_sub(1)).collect()
    }

    /// Where the log ends.
    pub(crate) fn durable_end(&self) -> Option<(SegmentId, Start)> {
        let known = read(&self.known);
        let (segment, (last, _)) = known.last_key_value()?;
        Some((*segment, Start { at: last.end, ..Start::of_segment(None) }))
    }

    /// Segments of the log from the first to the last.
    pub(crate) fn log(&self, from: SegmentId, to: SegmentId) -> Vec<(SegmentId, Known)> {
        if from > to {
            return Vec::new();
        }
        read(&self.known).range(from..=to).map(|(id, (known, _))| (*id, *known)).collect()
    }

    pub(crate) fn is_settled(&self, segment: SegmentId) -> bool {
        read(&self.settled).contains_key(&segment)
    }

    pub(crate) fn settled_count(&self) -> usize {
        read(&self.settled).len()
    }

    /// The segment written after this one.
    pub(crate) fn after(&self, segment: SegmentId) -> Option<SegmentId> {
        read(&self.known).range(segment.next()..).next().map(|(id, _)| *id)
    }

    pub(crate) fn oldest(&self) -> Option<SegmentId> {
        read(&self.known).first_key_value().map(|(id, _)| *id)
    }

    pub(crate) fn count(&self) -> usize {
        read(&self.known).len()
    }

    /// Segments of the log before this one.
    pub(crate) fn count_before(&self, segment: SegmentId) -> usize {
        read(&self.known).range(..segment).count()
    }

    /// The segment that lies in a file, and where it ends.
    pub(crate) fn lying_in(&self, file: FileNo) -> Option<(SegmentId, u32)> {
        let of_log =
            || read(&self.known).iter().find(|(_, (k, _))| k.file == file).map(|(id, (k, _))| (*id, k.end));
        let settled = || read(&self.settled).iter().find(|(_, k)| k.file == file).map(|(id, k)| (*id, k.end));
        of_log().or_else(settled)
    }

    /// Is its file there? What cannot be opened for another reason may be.
    pub(crate) fn is_there(&self, segment: SegmentId) -> bool {
        match self.file(segment) {
            Ok(file) => file.is_some(),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Its file; `None` when it is not part of the store.
    pub(crate) fn file(&self, segment: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.any(segment).map(|known| self.pool.get(known.file)).transpose()
    }
}

/// What comes before each segment.
fn count_bytes(log: &mut BTreeMap<SegmentId, (Known, u64)>) {
    let mut through = 0;
    for (known, before) in log.values_mut() {
        *before = through;
        through += u64::from(known.end);
    }
}

#[cfg(test)]
mod tests {
    use tap_disk::{MemoryDir, PoolOptions};

    use super::*;

    #[test]
    fn the_bytes_up_to_a_place_are_those_of_all_before_it() {
        let options = PoolOptions { ready: 0, ..PoolOptions::default() };
        let pool = SegmentPool::over(Box::new(MemoryDir::new()), 4096, options).unwrap();
        let segments = Segments::new(Arc::new(pool), SegmentId::new(1));
        let (id, known) = (SegmentId::new, |end| Known { file: FileNo::new(1), end });
        for (n, end) in [(2, 20), (9, 90), (4, 40), (6, 60)] {
            segments.set(id(n), known(end));
        }
        segments.set_end(id(4), 41);
        segments.set_end(id(9), 91);
        let to = |n| segments.bytes_to(id(n), 5);
        assert_eq!([1, 2, 3, 6, 7, 9, 10].map(to), [5, 5, 25, 66, 126, 126, 217]);
        assert_eq!(segments.forget_before(id(5)).len(), 2);
        assert_eq!([2, 6, 7, 10].map(to), [5, 5, 65, 156], "what is gone counts no more");
        segments.forget(id(6));
        assert_eq!(to(10), 96);
    }
}
