//! The requests under way of one connection.

use crate::reply::To;
use crate::server::Tag;

/// A request under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) to: To,
    pub(crate) cost: u64,
    /// Bytes of memory that it may take.
    pub(crate) memory: u64,
    pub(crate) kind: Kind,
}

/// What the reply depends on.
#[derive(Debug)]
pub(crate) enum Kind {
    /// So many bytes are wanted; in one piece, if the client says so.
    Read { length: u64, whole: bool },
    /// A write or the writing of zeroes, for which being out of range has its own error.
    Write,
    /// Block status of so much at most, of the contexts with these numbers.
    Status { length: u64, contexts: Vec<u32> },
    /// Any other.
    Other,
}

/// The requests under way by tag: slots used again, each use with another generation in the tag, so that a
/// completion that comes twice cannot answer somebody else's request.
#[derive(Debug, Default)]
pub(crate) struct PendingTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    cost: u64,
    memory: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

impl PendingTable {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// What all of them cost.
    pub(crate) const fn cost(&self) -> u64 {
        self.cost
    }

    /// Bytes of memory that all of them may take.
    pub(crate) const fn memory(&self) -> u64 {
        self.memory
    }

    /// Each with the bytes of memory that it may take.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = (Tag, u64)> {
        let numbered = (0..).zip(&self.slots);
        numbered.filter_map(|(no, slot)| Some((tag(slot.generation, no), slot.pending.as_ref()?.memory)))
    }

    pub(crate) fn insert(&mut self, pending: Pending) -> Tag {
        self.cost += pending.cost;
        self.memory += pending.memory;
        let no = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = match self.slots.get_mut(no as usize) {
            Some(slot) => {
                slot.pending = Some(pending);
                slot.generation
            }
            None => 0,
        };
        tag(generation, no)
    }

    pub(crate) fn remove(&mut self, tag: Tag) -> Option<Pending> {
        let no = u32::try_from(tag.get() & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get_mut(no as usize)?;
        if u64::from(slot.generation) != tag.get() >> 32 {
            return None;
        }
        let pending = slot.pending.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(no);
        self.cost -= pending.cost;
        self.memory -= pending.memory;
        Some(pending)
    }
}

fn tag(generation: u32, no: u32) -> Tag {
    Tag::new(u64::from(generation) << 32 | u64::from(no))
}
