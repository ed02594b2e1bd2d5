//! How writes gather into batches, and what the journal adds to the blocks in them.
//!
//! A tap lets records gather for 2 ms, up to a mebibyte of blocks or 1024 records, then sends them as one batch
//! (`tap/agent/src/workers.rs`), which is durable as a whole. In the journal (docs/formats/journal.md) a batch of r records
//! with b blocks of x̄ bytes in their stored form is a frame of `128 + 8 + 10 r + 2 b + b x̄` bytes: head, volume, then
//! tag, time, volume, first block and length of each record, and the length of each block. What one sync makes durable
//! begins at a multiple of 4096. How many batches share a sync depends on the gateway's disk, which no trace knows, so there
//! are two figures: the least, with rounding shared among so many that it is nothing, and the most, each batch synced alone.
//!
//! Where blocks differ in their stored form, so do the sizes of batches of one b, and rounding adds 2048 on average. Where they
//! hardly do (a spread below 1024 bytes for the batch), the size itself says what it adds: batches of 8400 bytes take 12288.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::At;
use crate::numbers::real;

/// For so long records gather.
const GATHER: Duration = Duration::from_millis(2);
/// Blocks of a batch, at most; a longer write is cut.
const BATCH_BLOCKS: u64 = 256;
/// Records of a batch, at most.
const BATCH_RECORDS: u64 = 1024;
const FRAME: f64 = 128.0 + 8.0;
const RECORD: f64 = 10.0;
const LENGTH: f64 = 2.0;
/// Where a sync's bytes begin.
const ALIGN: f64 = 4096.0;

/// See the module. One device's writes are one stream, with batches of its own.
#[derive(Debug, Clone, Default)]
pub struct Batches {
    /// How many batches of so many blocks there were, and the records in them.
    done: BTreeMap<u64, (u64, u64)>,
    /// The batch at hand.
    begun: At,
    blocks: u64,
    records: u64,
}

/// The stored form of a block: bytes on average, and their standard deviation where it is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// On average.
    pub mean: f64,
    /// Of one block.
    pub deviation: Option<f64>,
}

impl Batches {
    /// A write of so many whole blocks.
    pub fn write(&mut self, at: At, mut blocks: u64) {
        if self.records >= BATCH_RECORDS
            || at.since(self.begun) >= GATHER
            || self.blocks + blocks > BATCH_BLOCKS
        {
            self.close();
            self.begun = at;
        }
        while blocks > BATCH_BLOCKS {
            (self.blocks, self.records) = (BATCH_BLOCKS, 1);
            self.close();
            blocks -= BATCH_BLOCKS;
        }
        self.blocks += blocks;
        self.records += 1;
    }

    fn close(&mut self) {
        if self.records > 0 {
            Self::count(&mut self.done, self.blocks, self.records);
        }
        (self.blocks, self.records) = (0, 0);
    }

    fn count(done: &mut BTreeMap<u64, (u64, u64)>, blocks: u64, records: u64) {
        let (count, of_all) = done.entry(blocks).or_default();
        *count += 1;
        *of_all += records;
    }

    /// Adds those of another. The batch at hand is the later one's; the other's has ended.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if other.records > 0 && other.begun >= self.begun {
            std::mem::swap(self, &mut other);
        }
        other.close();
        for (blocks, (batches, records)) in other.done {
            let (count, of_all) = self.done.entry(blocks).or_default();
            *count += batches;
            *of_all += records;
        }
    }

    /// All of them, the one at hand as well: blocks, how many batches, records in them.
    fn all(&self) -> BTreeMap<u64, (u64, u64)> {
        let mut done = self.done.clone();
        if self.records > 0 {
            Self::count(&mut done, self.blocks, self.records);
        }
        done
    }

    /// Blocks of the largest batch.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.done.last_key_value().map_or(0, |(&blocks, _)| blocks).max(self.blocks)
    }

    /// What the journal takes beside the blocks: the least and the most.
    #[must_use]
    pub fn overhead(&self, stored: Stored) -> (f64, f64) {
        let all = self.all();
        let each = all.iter().map(|(&blocks, &(batches, records))| {
            let (added, rounding) = of_one(stored, real(blocks), real(records) / real(batches));
            (real(batches) * added, real(batches) * (added + rounding))
        });
        each.fold((0.0, 0.0), |(least, most), (l, m)| (least + l, most + m))
    }
}

/// What a batch takes beside its blocks, and what rounding adds when it is synced alone.
fn of_one(stored: Stored, blocks: f64, records: f64) -> (f64, f64) {
    let added = FRAME + RECORD * records + LENGTH * blocks;
    let size = added + blocks * stored.mean;
    let alike = stored.deviation.is_some_and(|of_one| of_one * blocks.sqrt() < ALIGN / 4.0);
    (added, if alike { (size / ALIGN).ceil() * ALIGN - size } else { ALIGN / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_gather_for_two_milliseconds_or_a_mebibyte() {
        let mut batches = Batches::default();
        for (micros, blocks) in [(0, 1), (1999, 1), (2000, 2), (2001, 255), (2002, 600), (9000, 1)] {
            batches.write(At::from_nanos(1_000_000_000 + micros * 1000), blocks);
        }
        let expected = [(1, (1, 1)), (2, (2, 3)), (88, (1, 1)), (255, (1, 1)), (256, (2, 2))];
        assert_eq!(batches.all().into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(batches.largest(), 256);
    }

    #[test]
    fn merged_they_are_the_sum_and_the_later_one_goes_on() {
        let at = |micros: u64| At::from_nanos(1_000_000_000 + micros * 1000);
        let of = |writes: &[(u64, u64)]| {
            let mut batches = Batches::default();
            writes.iter().for_each(|&(micros, blocks)| batches.write(at(micros), blocks));
            batches
        };
        let (early, late) = (of(&[(0, 1), (5000, 2), (6000, 3)]), of(&[(9000, 5), (20_000, 7)]));
        for (mut all, other) in [(early.clone(), late.clone()), (late, early), (Batches::default(), of(&[]))]
        {
            let none = all.largest() == 0;
            all.merge(other);
            all.write(at(20_500), 8);
            let expected = [(1, (1, 1)), (5, (2, 3)), (15, (1, 2))];
            let found: Vec<_> = all.all().into_iter().collect();
            assert_eq!(found, if none { vec![(8, (1, 1))] } else { expected.to_vec() });
        }
        // Writes that would have shared a batch are in two.
        let mut split = of(&[(0, 1)]);
        split.merge(of(&[(100, 1)]));
        assert_eq!(split.all().into_iter().collect::<Vec<_>>(), [(1, (2, 2))]);
    }

    #[test]
    fn batches_that_are_alike_are_rounded_up_and_others_by_half() {
        let mut batches = Batches::default();
        (1..=10).for_each(|n| batches.write(At::from_nanos(n * 1_000_000_000), 4));
        // 136 + 10 + 8 + 8400 bytes end in the third page.
        let alike = batches.overhead(Stored { mean: 2100.0, deviation: Some(0.0) });
        assert_eq!(alike, (10.0 * 154.0, 10.0 * (12288.0 - 8400.0)));
        let differing = (10.0 * 154.0, 10.0 * (154.0 + 2048.0));
        assert_eq!(batches.overhead(Stored { mean: 2100.0, deviation: Some(600.0) }), differing);
        assert_eq!(batches.overhead(Stored { mean: 2100.0, deviation: None }), differing);
    }
}
