//! Which segment lies in which file, and up to where it holds frames.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use gateway_journal::{SegmentId, Start};
use tap_disk::{FileNo, SegmentFile, SegmentPool};

use crate::sync::{read, write};

/// The segments of a store.
pub(crate) struct Segments {
    pool: SegmentPool,
    /// The log's.
    known: RwLock<BTreeMap<SegmentId, Known>>,
    settled: RwLock<BTreeMap<SegmentId, Known>>,
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
    pub(crate) fn new(pool: SegmentPool, next: SegmentId) -> Self {
        let (known, settled) = (RwLock::new(BTreeMap::new()), RwLock::new(BTreeMap::new()));
        Self { pool, known, settled, next: AtomicU32::new(next.get()) }
    }

    /// An id no segment ever had.
    pub(crate) fn new_id(&self) -> SegmentId {
        SegmentId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) const fn pool(&self) -> &SegmentPool {
        &self.pool
    }

    pub(crate) fn set(&self, segment: SegmentId, known: Known) {
        write(&self.known).insert(segment, known);
    }

    pub(crate) fn set_end(&self, segment: SegmentId, end: u32) {
        if let Some(known) = write(&self.known).get_mut(&segment) {
            known.end = end;
        }
    }

    pub(crate) fn forget(&self, segment: SegmentId) {
        write(&self.known).remove(&segment);
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
        std::mem::replace(&mut *known, rest).into_iter().collect()
    }

    /// A segment of the log.
    pub(crate) fn known(&self, segment: SegmentId) -> Option<Known> {
        read(&self.known).get(&segment).copied()
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
        read(&self.known).range(..segment).map(|(_, known)| u64::from(known.end)).sum::<u64>() + u64::from(at)
    }

    /// Takes the settled segments that are not `live` out of the store; their files are the caller's.
    pub(crate) fn retain_settled(&self, live: &BTreeSet<SegmentId>) -> Vec<(SegmentId, Known)> {
        write(&self.settled).extract_if(.., |id, _| !live.contains(id)).collect()
    }

    /// Every settled segment, the oldest first.
    pub(crate) fn settled(&self) -> Vec<(SegmentId, Known)> {
        read(&self.settled).iter().map(|(id, known)| (*id, *known)).collect()
    }

    /// Segments of the log that nothing is appended to any more: every one but the last.
    pub(crate) fn finished(&self) -> Vec<(SegmentId, Known)> {
        let known = read(&self.known);
        let all = known.iter().map(|(id, known)| (*id, *known));
        all.take(known.len().saturating_sub(1)).collect()
    }

    /// Where the log ends.
    pub(crate) fn durable_end(&self) -> Option<(SegmentId, Start)> {
        let known = read(&self.known);
        let (segment, last) = known.last_key_value()?;
        Some((*segment, Start { at: last.end, ..Start::of_segment(None) }))
    }

    /// Segments of the log from the first to the last.
    pub(crate) fn log(&self, from: SegmentId, to: SegmentId) -> Vec<(SegmentId, Known)> {
        if from > to {
            return Vec::new();
        }
        read(&self.known).range(from..=to).map(|(id, known)| (*id, *known)).collect()
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

    /// Its file; `None` when it is not part of the store.
    pub(crate) fn file(&self, segment: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.any(segment).map(|known| self.pool.get(known.file)).transpose()
    }
}
