//! Segments that are gone and that somebody has read of: history is settled past them. Of what was listed to them those are given up, and
//! those of the log before one of them that nothing names (a header names the segment before it, and no other).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use gateway_journal::SegmentId;

/// Stretches of numbers, ascending, with something between any two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GivenUp(Vec<(SegmentId, SegmentId)>);

impl GivenUp {
    /// What goes with these that are `gone`, as long as these `others` are there or are named by what nobody has read of. Those that are
    /// `settled` are no part of the log, and nothing before them is.
    pub(crate) fn with(
        gone: &BTreeSet<SegmentId>,
        others: &BTreeSet<SegmentId>,
        settled: &BTreeSet<SegmentId>,
    ) -> Self {
        let (mut all, kept) = (Self::default(), others | &(settled - gone));
        for &last in gone {
            if settled.contains(&last) {
                all.add((last, last));
                continue;
            }
            let of_log = |known: &&SegmentId| !settled.contains(known);
            let before = [gone, others].iter().filter_map(|of| of.range(..last).rfind(of_log)).max();
            let mut first = before.map_or(SegmentId::new(0), |before| before.next());
            // What is settled may have a number between two of the log.
            for there in kept.range(first..last) {
                all.add_between(first, *there);
                first = there.next();
            }
            all.add((first, last));
        }
        all
    }

    fn add_between(&mut self, first: SegmentId, behind: SegmentId) {
        if first < behind {
            self.add((first, SegmentId::new(behind.get() - 1)));
        }
    }

    pub(crate) fn holds(&self, segment: SegmentId) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= segment);
        behind.checked_sub(1).and_then(|n| self.0.get(n)).is_some_and(|(_, last)| segment <= *last)
    }

    /// Those of both.
    pub(crate) fn extend(&mut self, more: &Self) {
        more.0.iter().for_each(|range| self.add(*range));
    }

    fn add(&mut self, (mut first, mut last): (SegmentId, SegmentId)) {
        let touches = |(a, b): &(SegmentId, SegmentId)| *a <= last.next() && first <= b.next();
        let (touched, mut apart): (Vec<_>, Vec<_>) = self.0.drain(..).partition(touches);
        for (a, b) in touched {
            (first, last) = (first.min(a), last.max(b));
        }
        let n = apart.partition_point(|(a, _)| *a < first);
        apart.insert(n, (first, last));
        self.0 = apart;
    }

    /// Those that are there again are waited for like any other when they go another time.
    pub(crate) fn without(&self, there: &BTreeSet<SegmentId>) -> Self {
        let mut left = Self::default();
        for &(mut first, last) in &self.0 {
            for back in there.range(RangeInclusive::new(first, last)) {
                left.add_between(first, *back);
                first = back.next();
            }
            if first <= last {
                left.add((first, last));
            }
        }
        left
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// First and last, one after the other.
    pub(super) fn encode(&self) -> Vec<u32> {
        self.0.iter().flat_map(|(first, last)| [first.get(), last.get()]).collect()
    }

    pub(super) fn decode(numbers: &[u32]) -> Option<Self> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        let mut all = Self::default();
        for &[first, last] in pairs {
            (first <= last).then_some(())?;
            all.add((SegmentId::new(first), SegmentId::new(last)));
        }
        rest.is_empty().then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(of: &[u32]) -> BTreeSet<SegmentId> {
        of.iter().map(|n| SegmentId::new(*n)).collect()
    }

    fn all(given_up: &GivenUp) -> Vec<u32> {
        (0..60).filter(|n| given_up.holds(SegmentId::new(*n))).collect()
    }

    #[test]
    fn what_nothing_names_goes_with_the_one_behind_it_and_nothing_else_does() {
        // 3 and 20 of the log are there; 9 and 17 are gone, and 13 as well, which nobody has read of; 6 and 15 are settled.
        let (others, settled) = (set(&[3, 6, 13, 20]), set(&[6, 15]));
        let with = |gone: &[u32]| GivenUp::with(&set(gone), &others, &settled);
        assert_eq!(all(&with(&[9])), [4, 5, 7, 8, 9]);
        assert_eq!(all(&with(&[17])), [14, 16, 17]);
        assert_eq!(all(&with(&[15])), [15], "a settled one is not behind anything");
        assert_eq!(all(&with(&[9, 15, 17])), [4, 5, 7, 8, 9, 14, 15, 16, 17]);
        assert_eq!(all(&GivenUp::with(&set(&[5]), &set(&[]), &set(&[]))), [0, 1, 2, 3, 4, 5]);
        assert!(GivenUp::with(&set(&[]), &others, &settled).is_empty());
    }

    #[test]
    fn what_is_back_is_given_up_no_more() {
        let mut given_up = GivenUp::default();
        for range in [(4, 9), (20, 20), (10, 12), (30, 40), (2, 2), (19, 31)] {
            given_up.add((SegmentId::new(range.0), SegmentId::new(range.1)));
        }
        assert_eq!(given_up.encode(), [2, 2, 4, 12, 19, 40]);
        let left = given_up.without(&set(&[1, 2, 4, 8, 12, 41]));
        assert_eq!(left.encode(), [5, 7, 9, 11, 19, 40]);
        assert_eq!(GivenUp::decode(&left.encode()), Some(left.clone()));
        assert_eq!((GivenUp::decode(&[1]), GivenUp::decode(&[3, 2])), (None, None));
        let mut both = left.clone();
        both.extend(&given_up);
        assert_eq!(both, given_up);
    }
}
