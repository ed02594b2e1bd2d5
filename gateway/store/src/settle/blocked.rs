//! Regions of settled history that are not rewritten for now, while everything around them is: something of them is missing, and
//! nobody would know that any more once they were.

use std::collections::BTreeSet;

use gateway_journal::{Generation, RegionPlace, RegionRange, SegmentId, SettledSegment};

use super::Pressure;
use crate::layout::Layout;
use crate::store::Shared;
use crate::tail::Published;

/// Stretches, and the settle that wrote what is missing there.
#[derive(Debug, Default)]
pub(super) struct Blocked(Vec<(u64, RegionRange)>);

/// Is it waited for segments that are gone and may be put back?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// As long as nobody gives them up.
    Always,
    /// Unless there would be no room for want of what they block: that is more than a small part of all.
    IfSmall,
    /// No: what lay there is put right from elsewhere.
    Never,
}

impl Wait {
    pub(super) fn under(pressure: Pressure) -> Self {
        if pressure == Pressure::Purge { Self::IfSmall } else { Self::Always }
    }
}

/// What is waited for is small as long as it blocks no more than one in so many segments.
const SMALL: usize = 4;

impl Blocked {
    /// What the index does not know because it was built without it, and what lies in segments that are waited for.
    pub(super) fn of(shared: &Shared, published: &Published, wanted: RegionRange, wait: Wait) -> Self {
        let layout = &*published.layout;
        let lost =
            layout.lost.iter().map(|lost| (lost.settle, RegionRange { first: lost.from, last: lost.to }));
        let within = |(settle, range): (u64, RegionRange)| {
            let here = layout.generations.iter().filter(move |g| g.settle == settle);
            here.filter_map(move |g| Some((settle, intersection(g.range, range)?)))
        };
        let mut blocked = Self(lost.flat_map(within).collect());
        let gone = if wait == Wait::Never { BTreeSet::new() } else { shared.waited_for(layout) };
        let waits = segments(layout).filter(|(_, s)| gone.contains(&s.segment));
        let waits = waits.map(|(g, s)| (g.settle, RegionRange { first: s.first, last: s.last }));
        let waits = Self(waits.flat_map(within).collect());
        if wait == Wait::Always || waits.is_small(layout, wanted) {
            blocked.0.extend(waits.0);
        }
        blocked
    }

    /// Does it block no more than a small part of the segments that lie there?
    fn is_small(&self, layout: &Layout, wanted: RegionRange) -> bool {
        let range = |(g, s): (&Generation, &SettledSegment)| {
            let lies = intersection(RegionRange { first: s.first, last: s.last }, g.range)?;
            Some((s.segment, intersection(lies, wanted)?))
        };
        let there: Vec<(SegmentId, RegionRange)> = segments(layout).filter_map(range).collect();
        let is_blocked = |lies: RegionRange| self.0.iter().any(|(_, of)| intersection(*of, lies).is_some());
        let blocked = there.iter().filter(|(_, lies)| is_blocked(*lies));
        let [blocked, all] = [blocked.collect::<Vec<_>>(), there.iter().collect()]
            .map(|of| of.into_iter().map(|(segment, _)| *segment).collect::<BTreeSet<_>>().len());
        blocked * SMALL <= all
    }

    /// Is there anything of it in a generation?
    pub(super) fn is_in(&self, generation: &Generation) -> bool {
        self.0.iter().any(|(settle, range)| {
            *settle == generation.settle && intersection(*range, generation.range).is_some()
        })
    }

    pub(super) fn ranges(&self) -> Vec<RegionRange> {
        self.0.iter().map(|(_, range)| *range).collect()
    }

    /// The first part of `range` that may be rewritten, and in which anything lies.
    pub(super) fn first_part(
        &self,
        mut range: RegionRange,
        generations: &[Generation],
    ) -> Option<RegionRange> {
        let blocked = self.ranges();
        loop {
            let part = first_part(range, &blocked)?;
            if generations.iter().any(|g| intersection(g.range, part).is_some()) {
                return Some(part);
            }
            range.first = RegionRange::after(part.last).filter(|first| *first <= range.last)?;
        }
    }
}

fn segments(layout: &Layout) -> impl Iterator<Item = (&Generation, &SettledSegment)> {
    layout.generations.iter().flat_map(|g| g.segments.iter().map(move |s| (g, s)))
}

fn intersection(a: RegionRange, b: RegionRange) -> Option<RegionRange> {
    let range = RegionRange { first: a.first.max(b.first), last: a.last.min(b.last) };
    (range.first <= range.last).then_some(range)
}

/// The first part of `range` with nothing of these in it; `None`: there is none.
pub(super) fn first_part(mut range: RegionRange, without: &[RegionRange]) -> Option<RegionRange> {
    while let Some(in_the_way) = without.iter().find(|of| of.holds(range.first)) {
        range.first = RegionRange::after(in_the_way.last)?;
    }
    let next = without.iter().map(|of| of.first).filter(|first: &RegionPlace| range.holds(*first)).min();
    range.last = next.and_then(RegionRange::before).unwrap_or(range.last);
    (range.first <= range.last).then_some(range)
}

#[cfg(test)]
mod tests {
    use gateway_journal::RegionNo;
    use tap_block::{VolumeId, WallTime};

    use super::*;

    fn range(first: u32, last: u32) -> RegionRange {
        let place = |region| (VolumeId::new(1), RegionNo::new(region));
        RegionRange { first: place(first), last: place(last) }
    }

    fn generation(settle: u64, range: RegionRange) -> Generation {
        let (segments, shares, at) = (Vec::new(), Vec::new(), WallTime::EPOCH);
        Generation { settle, range, segments, shares, at, packs: false }
    }

    #[test]
    fn what_blocks_more_than_a_quarter_of_the_segments_that_lie_there_is_not_small() {
        let segment = |n: u32| {
            let RegionRange { first, last } = range(n * 10, n * 10 + 9);
            SettledSegment { segment: SegmentId::new(n), end: 100, frames: 1, first, last, warm: 0 }
        };
        let of = |settle, from: u32, to: u32| {
            let segments = (from..to).map(segment).collect();
            Generation { segments, ..generation(settle, range(from * 10, to * 10 - 1)) }
        };
        // Parts of one generation may share a segment.
        let layout = Layout { generations: vec![of(1, 0, 6), of(1, 5, 8)], ..Layout::default() };
        let is_small = |first, last, wanted| Blocked(vec![(1, range(first, last))]).is_small(&layout, wanted);
        assert!(is_small(3, 19, RegionRange::ALL), "two of eight");
        assert!(!is_small(3, 20, RegionRange::ALL));
        assert!(!is_small(3, 19, range(0, 69)), "two of seven");
        assert!(is_small(3, 19, range(20, 79)), "none of six");
    }

    #[test]
    fn what_is_not_rewritten_is_passed_over_and_all_around_it_is() {
        let blocked = Blocked(vec![(1, range(3, 5)), (2, range(5, 6)), (1, range(20, 30))]);
        let all = [generation(1, range(0, 12)), generation(2, range(15, 40))];
        let first = |from, to| blocked.first_part(range(from, to), &all);
        assert_eq!(first(0, 40), Some(range(0, 2)));
        assert_eq!(first(3, 40), Some(range(7, 19)));
        assert_eq!(first(13, 14), None, "nothing lies there");
        assert_eq!(first(20, 40), Some(range(31, 40)));
        assert_eq!(first(21, 30), None);
        assert!(blocked.is_in(&all[0]) && !blocked.is_in(&all[1]), "what its own settle wrote is whole");
    }
}
