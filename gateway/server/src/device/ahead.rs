//! Reading ahead: whoever reads an image from front to back finds what comes next in the page cache.
//!
//! The kernel reads ahead within a file, but an image's blocks lie in many places, and where the next ones lie only its
//! map knows.

use tap_block::Extent;

/// So much is fetched before it is asked for.
const AHEAD: u64 = 8 << 20;
/// Reads that are no further apart than this go on with one another: clients have several under way.
const NEAR: u64 = 2 << 20;
/// After so much in a row somebody seems to read from front to back.
const IN_A_ROW: u64 = 256 << 10;

/// How an image is read. One reader is followed; a second one elsewhere makes it begin anew.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where the row began.
    start: u64,
    /// Behind the furthest read in it.
    end: u64,
    /// Bytes read in it.
    run: u64,
    /// Up to where it was fetched.
    fetched: u64,
}

impl Ahead {
    /// Notes a read; what is to be fetched now, if anything is.
    pub(super) fn note(&mut self, read: Extent, size: u64) -> Option<Extent> {
        let goes_on =
            read.offset() <= self.end.saturating_add(NEAR) && self.end <= read.end().saturating_add(NEAR);
        if !goes_on {
            *self = Self { start: read.offset(), end: read.end(), run: read.length(), fetched: 0 };
            return None;
        }
        self.run += read.length();
        self.end = self.end.max(read.end());
        // Somebody who leaves much out does not read from front to back; whoever reads the same again does not get on.
        let length = self.end.saturating_sub(self.start);
        if self.run / 4 * 3 > length || self.run < length / 4 * 3 && length > NEAR {
            *self = Self { start: read.offset(), end: read.end(), run: read.length(), fetched: self.fetched };
            return None;
        }
        let from = self.fetched.max(self.end);
        let to = self.end.saturating_add(AHEAD).min(size);
        // Half of it at least, so that small reads do not ask for it each time.
        let due = self.run >= IN_A_ROW
            && self.run >= length / 4 * 3
            && from < to
            && (to - from >= AHEAD / 2 || to == size);
        if !due {
            return None;
        }
        self.fetched = to;
        Some(Extent::between(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 64 * MIB;

    fn at(offset: u64, length: u64) -> Extent {
        Extent::between(offset, offset + length)
    }

    #[test]
    fn what_comes_next_is_fetched_once() {
        let mut ahead = Ahead::default();
        let mut fetched = Vec::new();
        for n in 0..SIZE / (64 << 10) {
            fetched.extend(ahead.note(at(n * (64 << 10), 64 << 10), SIZE));
        }
        assert!(fetched.len() < 20, "{fetched:?}");
        assert_eq!(fetched.first().map(|e| e.offset()), Some(IN_A_ROW));
        assert!(fetched.windows(2).all(|two| two[0].end() == two[1].offset()), "{fetched:?}");
        assert_eq!(fetched.last().map(|e| e.end()), Some(SIZE));
    }

    #[test]
    fn reads_in_flight_may_overtake_each_other() {
        let mut ahead = Ahead::default();
        let fetched: Vec<_> =
            [0, 2, 1, 3, 5, 4].into_iter().filter_map(|n| ahead.note(at(n * MIB, MIB), SIZE)).collect();
        assert!(!fetched.is_empty());
    }

    /// Bytes fetched for each byte asked for, of reads of 4 KiB.
    fn fetched_for(offsets: impl Iterator<Item = u64>, size: u64) -> f64 {
        let (mut ahead, mut fetched, mut asked) = (Ahead::default(), 0, 0);
        for offset in offsets {
            fetched += ahead.note(at(offset, 4096), size).map_or(0, Extent::length);
            asked += 4096;
        }
        fetched as f64 / asked as f64
    }

    #[test]
    fn random_and_sparse_reads_fetch_little() {
        let mut random = testbed_model::Random::new(1);
        for size in [64 * MIB, 256 * MIB, 1024 * MIB] {
            let offsets: Vec<u64> = (0..100_000).map(|_| random.below(size / 4096) * 4096).collect();
            assert!(fetched_for(offsets.into_iter(), size) < 0.1, "random over {size}");
        }
        let zones: Vec<u64> =
            (0..100_000u64).map(|n| (n / 1000 * 16 * MIB) + random.below(4096) * 4096).collect();
        assert!(fetched_for(zones.into_iter(), 10 << 30) < 0.1, "random in zones");
        assert!(fetched_for((0..5000).map(|n| n * 2 * MIB), 10 << 30) < 0.1, "a block here and there");
        assert!(fetched_for((0..5000).map(|n| n * 128 * 1024), 10 << 30) < 0.1, "one block in 32");
    }

    #[test]
    fn the_same_read_again_is_no_progress() {
        let mut ahead = Ahead::default();
        for _ in 0..1000 {
            assert_eq!(ahead.note(at(0, 4096), SIZE), None);
        }
    }
}
