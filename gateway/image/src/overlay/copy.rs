//! Copying on an overlay: what some blocks show is shown by others as well, and no byte is moved.

use std::collections::HashMap;

use tap_block::{BLOCK_SIZE, BlockNo, Extent};

use super::{Change, FromImage, Overlay, Slot, SlotNo, extent_of};

/// How much further on the image below has what is shown; wraps around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift(u64);

/// How many blocks have a slot besides the first, where there are any.
#[derive(Debug, Clone, Default)]
pub(super) struct Users {
    besides: HashMap<SlotNo, u64>,
    total: u64,
}

impl Shift {
    pub(super) const fn of(part: FromImage) -> Self {
        Self(part.at.wrapping_sub(part.extent.offset()))
    }

    /// Where what is shown at `offset` is in the image.
    pub(super) const fn place(self, offset: u64) -> u64 {
        offset.wrapping_add(self.0)
    }

    pub(super) const fn to(self, extent: Extent) -> FromImage {
        FromImage { extent, at: self.place(extent.offset()) }
    }
}

impl Users {
    /// Of slots in order, one for each block that has one.
    pub(super) fn of(slots: &[SlotNo]) -> Self {
        let mut users = Self::default();
        for pair in slots.windows(2) {
            if let [one, next] = pair
                && one == next
            {
                users.one_more(*next);
            }
        }
        users
    }

    pub(super) fn are_many(&self, slot: SlotNo) -> bool {
        self.total > 0 && self.besides.contains_key(&slot)
    }

    /// Users that are not the first of their slot.
    pub(super) const fn besides(&self) -> u64 {
        self.total
    }

    fn one_more(&mut self, slot: SlotNo) {
        *self.besides.entry(slot).or_default() += 1;
        self.total += 1;
    }

    /// One lets it go; does somebody else have it still?
    pub(super) fn one_less(&mut self, slot: SlotNo) -> bool {
        if self.total == 0 {
            return false;
        }
        let Some(besides) = self.besides.get_mut(&slot) else { return false };
        *besides -= 1;
        if *besides == 0 {
            self.besides.remove(&slot);
        }
        self.total -= 1;
        true
    }
}

impl Overlay {
    /// What the blocks from `to` on have to be to show what whole blocks show in `from` now. No slot may be lent for those
    /// meanwhile. [`Overlay::show`] makes it so; the slots among it are not written again from here on.
    #[must_use]
    pub fn copied(&mut self, from: Extent, to: BlockNo) -> Vec<Change> {
        for (_, slot) in self.slots.range_mut(BlockNo::holding(from.offset())..BlockNo::holding(from.end())) {
            slot.sealed = true;
        }
        let there = |extent: Extent| {
            let start = to.offset() + (extent.offset() - from.offset());
            Extent::between(start, start + extent.length())
        };
        let gap = |gap: Extent| Change::Image(FromImage { extent: there(gap), at: gap.offset() });
        let (mut changes, mut done) = (Vec::new(), from.offset());
        for change in self.changes_within(from) {
            let extent = change.extent();
            changes.extend((done < extent.offset()).then(|| gap(Extent::between(done, extent.offset()))));
            changes.push(shown_at(change, there(extent)));
            done = extent.end();
        }
        changes.extend((done < from.end()).then(|| gap(Extent::between(done, from.end()))));
        changes
    }

    /// The blocks of a copy, which are neighbours, are this now. Needs no room.
    pub fn show(&mut self, changes: &[Change]) {
        let ends = changes.first().zip(changes.last());
        let Some(extent) = ends.map(|(a, b)| Extent::between(a.extent().offset(), b.extent().end())) else {
            return;
        };
        // Before anything is let go: it may be what a block further on is to show.
        for change in changes {
            if let Change::Slot { slot, .. } = change {
                self.users.one_more(*slot);
            }
        }
        self.clear(extent);
        for change in changes {
            match *change {
                Change::Slot { block, slot, sum } => {
                    self.slots.insert(block, Slot { no: slot, sum, sealed: true });
                }
                Change::Zero(extent) => self.zeroes.insert(extent),
                Change::Image(part) => self.images.insert(part.extent, Shift::of(part)),
            }
        }
    }

    /// What is written within whole blocks, in order.
    fn changes_within(&self, extent: Extent) -> Vec<Change> {
        let zeroes = self.zeroes.within(extent).map(Change::Zero);
        let images = self.images.within(extent).map(|(e, shift)| Change::Image(shift.to(e)));
        let slots = self.slots_within(extent);
        let slots = slots.map(|(&block, slot)| Change::Slot { block, slot: slot.no, sum: slot.sum });
        let mut all: Vec<Change> = zeroes.chain(images).chain(slots).collect();
        all.sort_by_key(|change| change.extent().offset());
        all
    }

    /// The block of the image below that this one shows where nothing is written.
    pub(super) fn shown_of(&self, block: BlockNo) -> BlockNo {
        let found = self.images.touching(extent_of(block)).next();
        found.map_or(block, |(_, shift)| BlockNo::new(shift.place(block.offset()) / BLOCK_SIZE))
    }
}

/// The same, shown in `extent`.
fn shown_at(change: Change, extent: Extent) -> Change {
    match change {
        Change::Slot { slot, sum, .. } => {
            Change::Slot { block: BlockNo::holding(extent.offset()), slot, sum }
        }
        Change::Zero(_) => Change::Zero(extent),
        Change::Image(FromImage { at, .. }) => Change::Image(FromImage { extent, at }),
    }
}
