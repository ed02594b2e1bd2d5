//! Which stretches of the disk have an operation under way, and who waits for them.

use std::collections::VecDeque;

use tap_block::{Extent, ExtentMap};

use crate::splitter::{CopyId, OpId};

/// Who holds or waits: an operation or a copy, by the number its owner gave it.
pub(crate) type Holder = u64;

/// Whose number it is.
pub(crate) enum Owner {
    Op(OpId),
    Copy(CopyId),
}

pub(crate) const fn op_holder(op: OpId) -> Holder {
    op.0 * 2
}

pub(crate) const fn copy_holder(copy: CopyId) -> Holder {
    copy.0 * 2 + 1
}

pub(crate) const fn owner_of(holder: Holder) -> Owner {
    if holder.is_multiple_of(2) { Owner::Op(OpId(holder / 2)) } else { Owner::Copy(CopyId(holder / 2)) }
}

/// Exclusive holds on extents. Overlapping requests are granted in the order in which they came, so nobody
/// starves; everything else is granted at once.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    held: ExtentMap<Holder>,
    waiting: VecDeque<(Holder, Extent)>,
}

impl Holds {
    /// Takes `extent` for `holder` and returns true, or queues the request and returns false.
    pub(crate) fn acquire(&mut self, holder: Holder, extent: Extent) -> bool {
        let free = !self.held.overlaps(extent) && !self.waiting.iter().any(|(_, e)| e.overlaps(extent));
        if free {
            self.held.insert(extent, holder);
        } else {
            self.waiting.push_back((holder, extent));
        }
        free
    }

    /// Gives `extent` back and appends those who hold theirs from now on.
    pub(crate) fn release(&mut self, extent: Extent, granted: &mut Vec<Holder>) {
        self.held.remove(extent);
        if self.waiting.is_empty() {
            return;
        }
        let mut still: VecDeque<(Holder, Extent)> = VecDeque::new();
        while let Some((holder, wanted)) = self.waiting.pop_front() {
            if self.held.overlaps(wanted) || still.iter().any(|(_, e)| e.overlaps(wanted)) {
                still.push_back((holder, wanted));
            } else {
                self.held.insert(wanted, holder);
                granted.push(holder);
            }
        }
        self.waiting = still;
    }

    /// Is any byte of `extent` held or waited for?
    pub(crate) fn busy(&self, extent: Extent) -> bool {
        self.held.overlaps(extent) || self.waiting.iter().any(|(_, e)| e.overlaps(extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_holders_go_in_order_and_others_do_not_wait() {
        let e = Extent::between;
        let mut holds = Holds::default();
        let mut granted = Vec::new();
        assert!(holds.acquire(1, e(0, 10)));
        assert!(!holds.acquire(2, e(5, 15)));
        assert!(!holds.acquire(3, e(12, 20)), "behind 2, or 2 could starve");
        assert!(holds.acquire(4, e(30, 40)));
        holds.release(e(0, 10), &mut granted);
        assert_eq!(granted, [2]);
        holds.release(e(5, 15), &mut granted);
        assert_eq!(granted, [2, 3]);
        assert!(holds.busy(e(19, 20)) && !holds.busy(e(20, 30)));
    }
}
