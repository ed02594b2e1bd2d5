//! What must be copied outside the stream of writes, and the copies under way.
//!
//! A copy is an optimistic read: it is thrown away if a write to its extent was under way when it began or
//! started meanwhile. After [`TRIES`] such failures the extent is held like a write's, so that even a block
//! that is written all the time gets copied.

use tap_block::{Extent, ExtentSet, Lsn};

use crate::holds::Holder;

/// Optimistic reads of one extent before it is held.
pub(crate) const TRIES: u8 = 3;
/// More separate dirty extents than this and they are kept coarser, so that bitmap mode needs bounded memory.
const MAX_EXTENTS: usize = 65_536;

#[derive(Debug)]
pub(crate) struct ActiveCopy {
    pub(crate) holder: Holder,
    pub(crate) extent: Extent,
    pub(crate) as_of: Lsn,
    pub(crate) tries: u8,
    /// A write came in between; the content read is not to be used.
    pub(crate) spoiled: bool,
    /// Its extent is held: nothing can come in between.
    pub(crate) locked: bool,
}

#[derive(Debug)]
pub(crate) struct Copies {
    /// Still to be copied and not being copied.
    dirty: ExtentSet,
    active: Vec<ActiveCopy>,
    grain: u64,
}

impl Copies {
    pub(crate) fn new(dirty: ExtentSet) -> Self {
        Self { dirty, active: Vec::new(), grain: tap_block::BLOCK_SIZE }
    }

    /// `extent` must be copied (again).
    pub(crate) fn mark(&mut self, extent: Extent, size: u64) {
        let coarse = extent.aligned_to(self.grain);
        self.dirty.insert(Extent::between(coarse.offset(), coarse.end().min(size.max(extent.end()))));
        if self.dirty.count() > MAX_EXTENTS {
            self.coarsen(size);
        }
    }

    fn coarsen(&mut self, size: u64) {
        self.grain *= 16;
        let old = std::mem::take(&mut self.dirty);
        for extent in old.iter() {
            let coarse = extent.aligned_to(self.grain);
            self.dirty.insert(Extent::between(coarse.offset(), coarse.end().min(size.max(extent.end()))));
        }
    }

    /// A write to `extent` starts: every copy of it under way is worthless, unless it holds its extent.
    pub(crate) fn spoil(&mut self, extent: Extent) {
        for copy in self.active.iter_mut().filter(|c| c.extent.overlaps(extent)) {
            copy.spoiled |= !copy.locked;
        }
    }

    /// The next extent to copy, at most `limit` bytes of whole blocks; taken out of the dirty set.
    pub(crate) fn take_next(&mut self, limit: u64) -> Option<Extent> {
        let first = self.dirty.first()?;
        let end = first.end().min((first.offset() / limit + 1) * limit);
        let piece = Extent::between(first.offset(), end);
        self.dirty.remove(piece);
        Some(piece)
    }

    pub(crate) fn begin(&mut self, copy: ActiveCopy) {
        self.active.push(copy);
    }

    pub(crate) fn find(&mut self, holder: Holder) -> Option<&mut ActiveCopy> {
        self.active.iter_mut().find(|c| c.holder == holder)
    }

    pub(crate) fn is_active(&self, holder: Holder) -> bool {
        self.active.iter().any(|c| c.holder == holder)
    }

    pub(crate) fn finish(&mut self, holder: Holder) -> Option<ActiveCopy> {
        let i = self.active.iter().position(|c| c.holder == holder)?;
        Some(self.active.swap_remove(i))
    }

    /// Nothing to copy and nothing being copied?
    pub(crate) fn done(&self) -> bool {
        self.dirty.is_empty() && self.active.is_empty()
    }

    /// Is a byte of `extent` dirty or being copied?
    pub(crate) fn concerns(&self, extent: Extent) -> bool {
        self.dirty.overlaps(extent) || self.active.iter().any(|c| c.extent.overlaps(extent))
    }

    /// Bytes still to be copied, those under way included.
    pub(crate) fn bytes(&self) -> u64 {
        self.dirty.bytes() + self.active.iter().map(|c| c.extent.length()).sum::<u64>()
    }

    pub(crate) fn active(&self) -> usize {
        self.active.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_marks_are_kept_coarser_and_lose_nothing() {
        let size = 1 << 40;
        let mut copies = Copies::new(ExtentSet::new());
        let blocks: Vec<u64> = (0..100_000u64).map(|i| i * 5 * 4096).collect();
        for &b in &blocks {
            copies.mark(Extent::between(b, b + 4096), size);
        }
        assert!(copies.dirty.count() <= MAX_EXTENTS);
        assert!(blocks.iter().all(|&b| copies.concerns(Extent::between(b, b + 1))));
    }
}
