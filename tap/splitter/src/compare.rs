//! Which blocks of a sync may be told from hashes instead of being copied.
//!
//! A receiver says what a block looked like at a point `at`. When that is what the disk holds, the block needs no
//! copy, if nothing that is still on its way can change it there to something else:
//!
//! - Records and copies made before the sync began are delivered before the record that began it (`since`): an
//!   answer counts only when `at` is that record or a later one.
//! - A write since then that has an LSN is on its way as a record. What the disk holds is what the last such record
//!   says, so the block ends as the disk has it, whether the answer saw that record or not.
//! - A write since then that has *no* LSN (bitmap mode, a failed write) changed the disk and no record says so: a
//!   record before it may still come and undo what the answer showed. Such blocks are copied whatever it says.

use bytes::Bytes;
use tap_block::units::index;
use tap_block::{Extent, ExtentSet, Lsn};

/// More separate stretches without records than this and nothing is compared any more, so that a long bitmap mode
/// needs bounded memory.
const MAX_STRETCHES: usize = 16_384;

/// What a receiver was asked, and what came of it: the differences to what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The point at which the receiver looked.
    pub at: Lsn,
    /// Whole blocks that are not there as they were read here; all others of the stretch are.
    pub differs: ExtentSet,
}

/// What a copy found on the disk.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) content: Bytes,
    pub(crate) compared: Option<Compared>,
}

impl Read {
    /// The content of `piece`, whole blocks of the `whole` that was read; shorter where that was cut.
    pub(crate) fn of(&self, piece: Extent, whole: Extent) -> Bytes {
        let place = |at: u64| index(at - whole.offset()).min(self.content.len());
        self.content.slice(place(piece.offset())..place(piece.end()))
    }
}

/// The comparison that a sync may make.
#[derive(Debug)]
pub(crate) struct Comparison {
    since: Lsn,
    /// Changed since then without a record.
    unrecorded: ExtentSet,
}

impl Comparison {
    /// For a sync that the record `since` begins.
    pub(crate) fn new(since: Lsn) -> Self {
        Self { since, unrecorded: ExtentSet::new() }
    }

    /// The point an answer must have reached.
    pub(crate) fn since(&self) -> Lsn {
        self.since
    }

    /// `blocks` were changed, and no record says how. False when there are too many to remember: compare no more.
    pub(crate) fn changed_without_record(&mut self, blocks: Extent) -> bool {
        self.unrecorded.insert(blocks);
        self.unrecorded.count() <= MAX_STRETCHES
    }

    /// The blocks of `extent` that need no copy.
    pub(crate) fn same(&self, extent: Extent, compared: &Compared) -> ExtentSet {
        let mut same = ExtentSet::new();
        if compared.at >= self.since {
            same.insert(extent);
            compared.differs.iter().for_each(|e| same.remove(e));
            self.unrecorded.within(extent).for_each(|e| same.remove(e));
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = tap_block::BLOCK_SIZE;

    fn blocks(from: u64, to: u64) -> Extent {
        Extent::between(from * B, to * B)
    }

    fn same(comparison: &Comparison, at: u64, differs: &[Extent]) -> Vec<Extent> {
        let compared = Compared { at: Lsn::ZERO.plus(at), differs: differs.iter().copied().collect() };
        comparison.same(blocks(2, 10), &compared).iter().collect()
    }

    #[test]
    fn only_what_a_late_enough_answer_shows_and_a_record_explains() {
        let mut c = Comparison::new(Lsn::ZERO.plus(50));
        assert_eq!(same(&c, 49, &[]), []);
        assert_eq!(same(&c, 50, &[blocks(3, 4)]), [blocks(2, 3), blocks(4, 10)]);
        assert!(c.changed_without_record(blocks(9, 20)));
        assert_eq!(same(&c, 60, &[blocks(3, 4)]), [blocks(2, 3), blocks(4, 9)]);
    }

    #[test]
    fn what_cannot_be_remembered_ends_the_comparison() {
        let mut c = Comparison::new(Lsn::ZERO);
        let mut remembered = (0..).map(|i| c.changed_without_record(blocks(2 * i, 2 * i + 1)));
        assert_eq!(remembered.by_ref().take_while(|kept| *kept).count(), MAX_STRETCHES);
    }
}
