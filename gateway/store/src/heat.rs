//! When each segment was last read by an image, so that what nobody reads can be packed.
//!
//! It is not kept over a restart: what is packed too soon is read a little more slowly, until it is written anew.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use gateway_journal::SegmentId;
use tap_block::WallTime;

use crate::sync::{read, write};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Heat(RwLock<HashMap<SegmentId, AtomicU64>>);

impl Heat {
    /// It is read now.
    pub(crate) fn note(&self, segment: SegmentId, now: WallTime) {
        if let Some(last) = read(&self.0).get(&segment) {
            last.fetch_max(now.nanos(), Ordering::Relaxed);
            return;
        }
        write(&self.0).entry(segment).or_default().fetch_max(now.nanos(), Ordering::Relaxed);
    }

    /// When it was read last; the epoch when nobody knows of a read.
    pub(crate) fn last(&self, segment: SegmentId) -> WallTime {
        let known = read(&self.0);
        known.get(&segment).map_or(WallTime::EPOCH, |last| WallTime::from_nanos(last.load(Ordering::Relaxed)))
    }

    /// These are no part of the store any more.
    pub(crate) fn forget(&self, gone: impl Iterator<Item = SegmentId>) {
        let mut known = write(&self.0);
        for segment in gone {
            known.remove(&segment);
        }
    }
}
