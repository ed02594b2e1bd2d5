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
    /// Behind the furthest read in a row.
    end: u64,
    /// Bytes read in a row.
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
            *self = Self { end: read.end(), run: read.length(), fetched: 0 };
            return None;
        }
        self.run += read.end().saturating_sub(self.end);
        self.end = self.end.max(read.end());
        let from = self.fetched.max(self.end);
        let to = self.end.saturating_add(AHEAD).min(size);
        // Half of it at least, so that small reads do not ask for it each time.
        let due = self.run >= IN_A_ROW && from < to && (to - from >= AHEAD / 2 || to == size);
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

    #[test]
    fn random_reads_fetch_nothing() {
        let mut ahead = Ahead::default();
        for n in 0..1000 {
            let offset = (n * 7919 % 16) * 4 * MIB;
            assert_eq!(ahead.note(at(offset, 4096), SIZE), None);
        }
    }

    #[test]
    fn the_same_read_again_is_no_progress() {
        let mut ahead = Ahead::default();
        for _ in 0..1000 {
            assert_eq!(ahead.note(at(0, 4096), SIZE), None);
        }
    }
}
