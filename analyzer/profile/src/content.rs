//! What the bytes of writes are like, sampled where they pass: how far they shrink, and which were written before.
//!
//! Every whole block is counted, and all-zero ones, which do not travel, are told apart. Of the others one in 16 is drawn at
//! random and packed as the tap packs it for the way; and each whose xxh3 begins with four zero bits leaves its hash, every time
//! that it is written. The first sample is of writes and says what compression saves; the second is of contents, so that all
//! writes of one content are in it or none: only so it says how many are distinct. [`crate::model::content`] reads them.

use tap_block::BlockNo;
use tap_block::stored::{UNIT, is_zero, pack};
use tap_block::units::{count, index};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::{At, DeviceNo};
use crate::numbers::mix;

/// One write in 2^4 is packed, one content in 2^4 leaves its hash.
pub const SHARE_BITS: u8 = 4;
/// Hashes after which what was sampled should be taken: a frame then stays far below its limit.
const FULL: usize = 8192;

/// What was sampled of the writes to one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// When the first of them was submitted.
    pub from: At,
    /// When the last was.
    pub to: At,
    /// To which device.
    pub device: DeviceNo,
    /// Whole blocks written.
    pub blocks: u64,
    /// Those that were all zeroes.
    pub zeroes: u64,
    /// The drawn ones, packed.
    pub packed: Packed,
    /// A hash is there when it begins with so many zero bits.
    pub share_bits: u8,
    /// Hashes of blocks that were not all zeroes, one for each time that one was written.
    pub hashes: Vec<u64>,
}

/// Blocks that were packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// How many.
    pub count: u64,
    /// The bytes that they take on the way.
    pub bytes: u64,
    /// The sum of the squares of these.
    pub squares: u64,
}

impl Packed {
    fn add(&mut self, stored: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(stored);
        self.squares = self.squares.saturating_add(stored.saturating_mul(stored));
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.squares = self.squares.saturating_add(other.squares);
    }
}

/// Samples the writes to one device.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    now: Content,
    /// Blocks seen, which decides who is drawn.
    seen: u64,
    unit: Vec<u8>,
}

impl Sampler {
    /// For a device; two with the same `seed` draw the same.
    #[must_use]
    pub fn new(device: DeviceNo, seed: u64) -> Self {
        let now = Content { device, share_bits: SHARE_BITS, ..Content::default() };
        Self { now, seen: mix(seed), unit: Vec::new() }
    }

    /// Looks at a write. Blocks that it covers in part only are left out.
    pub fn write(&mut self, at: At, offset: u64, data: &[u8]) {
        let unit = count(UNIT);
        let skip = index(offset.next_multiple_of(unit) - offset);
        if self.now.blocks == 0 {
            self.now.from = at;
        }
        self.now.to = self.now.to.max(at);
        let whole = data.get(skip..).unwrap_or(&[]).chunks_exact(UNIT);
        for (no, block) in (offset.div_ceil(unit)..).map(BlockNo::new).zip(whole) {
            self.block(no, block);
        }
    }

    fn block(&mut self, no: BlockNo, block: &[u8]) {
        self.now.blocks += 1;
        if is_zero(block) {
            self.now.zeroes += 1;
            return;
        }
        self.seen = self.seen.wrapping_add(1);
        if mix(self.seen).leading_zeros() >= u32::from(SHARE_BITS) {
            self.unit.clear();
            self.now.packed.add(u64::from(pack(no, block, &mut self.unit)));
        }
        let hash = xxh3_64(block);
        if hash.leading_zeros() >= u32::from(SHARE_BITS) {
            self.now.hashes.push(hash);
        }
    }

    /// Should it be taken now, lest it become too much for a frame?
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.now.hashes.len() >= FULL
    }

    /// What was sampled since the last time; `None` when no whole block was written.
    pub fn take(&mut self) -> Option<Content> {
        let fresh = Content { device: self.now.device, share_bits: SHARE_BITS, ..Content::default() };
        let taken = std::mem::replace(&mut self.now, fresh);
        (taken.blocks > 0).then_some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_counted_and_zeroes_told_apart() {
        let mut sampler = Sampler::new(DeviceNo::new(3), 1);
        let mut data = vec![0; 3 * UNIT + 100];
        data[UNIT..].fill(7);
        sampler.write(At::from_nanos(5), 8192, &data);
        // 100 bytes up to the boundary, a whole block, a part of one.
        sampler.write(At::from_nanos(9), 4096 * 10 - 100, &vec![9; 100 + UNIT + 5]);
        let content = sampler.take().unwrap();
        assert_eq!((content.blocks, content.zeroes, content.device), (4, 1, DeviceNo::new(3)));
        assert_eq!((content.from, content.to), (At::from_nanos(5), At::from_nanos(9)));
        assert_eq!(sampler.take(), None);
        sampler.write(At::from_nanos(10), 1, &[1; 4096]);
        assert_eq!(sampler.take(), None, "no block of it is whole");
    }

    #[test]
    fn a_sixteenth_is_drawn_whatever_the_content() {
        let mut sampler = Sampler::new(DeviceNo::new(0), 7);
        sampler.write(At::from_nanos(0), 0, &vec![1; 16_000 * UNIT]);
        let content = sampler.take().unwrap();
        assert!((850..1150).contains(&content.packed.count), "{}", content.packed.count);
        let each = content.packed.bytes / content.packed.count;
        assert!(each < 100 && content.packed.squares == each * each * content.packed.count);
        assert!(content.hashes.is_empty() || content.hashes.len() == 16_000, "one content, all or none");
    }
}
