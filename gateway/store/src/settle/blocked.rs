//! Regions of settled history that are not rewritten for now, while everything around them is: something of them is missing, and
//! nobody would know that any more once they were.

use gateway_journal::{Generation, RegionPlace, RegionRange};

use crate::tail::Published;

/// Stretches, and the settle that wrote what is missing there.
#[derive(Debug, Default)]
pub(super) struct Blocked(Vec<(u64, RegionRange)>);

impl Blocked {
    /// What the index does not know because it was built without it.
    pub(super) fn of(published: &Published) -> Self {
        let layout = &*published.layout;
        let lost =
            layout.lost.iter().map(|lost| (lost.settle, RegionRange { first: lost.from, last: lost.to }));
        let within = |(settle, range): (u64, RegionRange)| {
            let here = layout.generations.iter().filter(move |g| g.settle == settle);
            here.filter_map(move |g| Some((settle, intersection(g.range, range)?)))
        };
        Self(lost.flat_map(within).collect())
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
