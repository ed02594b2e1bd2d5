//! Which segment lies in which file, and up to where it holds frames.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, RwLock};

use gateway_journal::SegmentId;
use tap_disk::{FileNo, SegmentFile, SegmentPool};

use crate::sync::{read, write};

/// The segments of a store.
pub(crate) struct Segments {
    pool: SegmentPool,
    known: RwLock<BTreeMap<SegmentId, Known>>,
}

/// A segment's file and the byte behind its last sound frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) file: FileNo,
    pub(crate) end: u32,
}

impl Segments {
    pub(crate) const fn new(pool: SegmentPool) -> Self {
        Self { pool, known: RwLock::new(BTreeMap::new()) }
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

    pub(crate) fn known(&self, segment: SegmentId) -> Option<Known> {
        read(&self.known).get(&segment).copied()
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

    /// Its file; `None` when it is not part of the store.
    pub(crate) fn file(&self, segment: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.known(segment).map(|known| self.pool.get(known.file)).transpose()
    }
}
