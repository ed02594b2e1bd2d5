//! When each segment was last read by an image, so that what nobody reads can be packed.
//!
//! It is not kept over a restart: then everything counts as read.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway_journal::SegmentId;
use tap_block::WallTime;

use crate::sync::{read, write};

/// See the module.
#[derive(Debug)]
pub(crate) struct Heat {
    last: RwLock<HashMap<SegmentId, AtomicU64>>,
    /// Whatever was read before, nobody knows.
    since: WallTime,
}

impl Heat {
    /// Of a store that is opened now.
    pub(crate) fn new(since: WallTime) -> Self {
        Self { last: RwLock::default(), since }
    }

    /// It is read now.
    pub(crate) fn note(&self, segment: SegmentId, now: WallTime) {
        if let Some(last) = read(&self.last).get(&segment) {
            last.fetch_max(now.nanos(), Ordering::Relaxed);
            return;
        }
        write(&self.last).entry(segment).or_default().fetch_max(now.nanos(), Ordering::Relaxed);
    }

    /// When it was read last; when the store was opened, if nobody has read it since.
    pub(crate) fn last(&self, segment: SegmentId) -> WallTime {
        let known = read(&self.last);
        let last = known.get(&segment).map(|last| WallTime::from_nanos(last.load(Ordering::Relaxed)));
        last.map_or(self.since, |last| last.max(self.since))
    }

    /// These are no part of the store any more.
    pub(crate) fn forget(&self, gone: impl Iterator<Item = SegmentId>) {
        let mut known = write(&self.last);
        for segment in gone {
            known.remove(&segment);
        }
    }
}
