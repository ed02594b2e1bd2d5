//! Stretches of a volume, in bytes, half open.

use std::fmt;

use crate::units::{BLOCK_SIZE, BlockNo};

/// `[offset, offset + length)` in bytes. The end never overflows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    offset: u64,
    length: u64,
}

impl Extent {
    /// `None` when `offset + length` overflows.
    #[must_use]
    pub const fn new(offset: u64, length: u64) -> Option<Self> {
        match offset.checked_add(length) {
            Some(_) => Some(Self { offset, length }),
            None => None,
        }
    }

    /// From `start` to `end`; empty at `start` when `end` lies before it.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Self {
        Self { offset: start, length: end.saturating_sub(start) }
    }

    /// The first byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// The byte behind the last.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// No bytes at all?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Do they share a byte?
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }

    /// The bytes both have; `None` when there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let (start, end) = (self.offset.max(other.offset), self.end().min(other.end()));
        (start < end).then(|| Self::between(start, end))
    }

    /// Is every byte of `other` in here?
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// Rounded out to whole blocks (at the very end of the number space, rounded as far as there are bytes).
    #[must_use]
    pub const fn to_blocks(self) -> Self {
        self.aligned_to(BLOCK_SIZE)
    }

    /// Rounded out to multiples of `grain`, a power of two.
    #[must_use]
    pub const fn aligned_to(self, grain: u64) -> Self {
        let start = self.offset & !(grain - 1);
        let end = match self.end().checked_add(grain - 1) {
            Some(e) => e & !(grain - 1),
            None => self.end(),
        };
        Self::between(start, end)
    }

    /// Is it whole blocks?
    #[must_use]
    pub const fn is_block_aligned(self) -> bool {
        self.offset.is_multiple_of(BLOCK_SIZE) && self.length.is_multiple_of(BLOCK_SIZE)
    }

    /// How many blocks it touches.
    #[must_use]
    pub const fn block_count(self) -> u64 {
        if self.length == 0 { 0 } else { (self.end() - 1) / BLOCK_SIZE - self.offset / BLOCK_SIZE + 1 }
    }

    /// The blocks it touches, in order.
    pub fn blocks(self) -> impl Iterator<Item = BlockNo> {
        let first = self.offset / BLOCK_SIZE;
        (first..first + self.block_count()).map(BlockNo::new)
    }

    /// Cuts it at every multiple of `grain` bytes (not zero), in order.
    pub fn split_at_multiples(self, grain: u64) -> impl Iterator<Item = Self> {
        let end = self.end();
        let mut start = self.offset;
        std::iter::from_fn(move || {
            if start >= end {
                return None;
            }
            let boundary = (start / grain).saturating_add(1).saturating_mul(grain);
            let piece = Self::between(start, end.min(boundary));
            start = piece.end();
            Some(piece)
        })
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} to {}", self.offset, self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(offset: u64, length: u64) -> Extent {
        Extent::new(offset, length).unwrap()
    }

    #[test]
    fn blocks_are_the_ones_touched() {
        assert_eq!(e(4095, 2).block_count(), 2);
        assert_eq!(e(4096, 4096).block_count(), 1);
        assert_eq!(e(5, 0).block_count(), 0);
        assert_eq!(e(5, 1).to_blocks(), e(0, 4096));
        assert_eq!(e(4095, 2).blocks().map(BlockNo::get).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn splitting_loses_nothing() {
        let pieces: Vec<_> = e(10, 100).split_at_multiples(64).collect();
        assert_eq!(pieces, [e(10, 54), e(64, 46)]);
        assert_eq!(e(64, 64).split_at_multiples(64).collect::<Vec<_>>(), [e(64, 64)]);
    }

    #[test]
    fn the_far_end_does_not_overflow() {
        assert!(Extent::new(u64::MAX, 1).is_none());
        let far = e(u64::MAX - 5, 5);
        assert_eq!(far.to_blocks().end(), u64::MAX);
        assert_eq!(far.split_at_multiples(4096).count(), 1);
    }
}
