//! Bringing together what lies scattered: a long write over blocks that many small ones wrote takes slots side by side, behind all
//! others, instead of going to hundreds of places. What the blocks had comes free when they have the new ones, as with any other
//! slot that is replaced.
//!
//! The data file grows by that, and not by more than is given back: as soon as an eighth of the quota lies free, the free slots
//! are used up first.

use tap_block::units::count;

use super::{Asked, Lent, Overlay, SlotNo};

/// Fewer blocks are written where they lie.
const LONG: usize = 64;
/// With so many blocks to a place on average a write is none that is scattered.
const TOGETHER: usize = 8;
/// Of the quota.
const MOST_FREE: u64 = 8;

impl Overlay {
    /// The same with slots side by side that nobody had. `None`: those that it would get lie together well enough, or too many lie
    /// free.
    #[must_use]
    pub fn gathered(&self, asked: &Asked) -> Option<Asked> {
        let many = asked.loans.len();
        let left_free = count(self.free.len().saturating_add(many));
        if many < LONG || left_free > self.quota_blocks / MOST_FREE || self.places(asked) * TOGETHER <= many {
            return None;
        }
        let mut loans = asked.loans.clone();
        for loan in loans.iter_mut().filter(|loan| loan.kind == Lent::Own) {
            loan.kind = Lent::Another;
        }
        Some(Asked { loans, is_gathered: true })
    }

    /// How many stretches of the data file are written.
    fn places(&self, asked: &Asked) -> usize {
        let free = self.free.get(self.free.len().saturating_sub(asked.slots())..).unwrap_or_default();
        let mut free = free.to_vec();
        free.sort_unstable();
        let mut others = free.into_iter().chain((self.next..).map(SlotNo));
        let slots = asked.loans.iter().filter_map(|loan| match loan.kind {
            Lent::Own => Some(loan.slot),
            Lent::Another | Lent::First => others.next(),
        });
        let slots: Vec<SlotNo> = slots.collect();
        slots.chunk_by(|a, b| a.get() + 1 == b.get()).count()
    }
}
