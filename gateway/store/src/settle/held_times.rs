//! Which times the holds of a volume are of: however many there are, they are brought together once, and each point is looked at
//! once.

use gateway_image::catalogue::Rules;
use gateway_image::retention::Stretches;
use gateway_journal::KeptPoint;
use tap_block::{VolumeId, WallTime};

/// Stretches of time, both ends included: ascending and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeldTimes(Vec<(WallTime, WallTime)>);

impl HeldTimes {
    /// Of the holds on a volume that are in force.
    pub(super) fn of(rules: &Rules, volume: VolumeId, now: WallTime) -> Self {
        Self::together(rules.holds_of(volume, now).map(|hold| (hold.from, hold.to)).collect())
    }

    pub(super) fn together(mut stretches: Vec<(WallTime, WallTime)>) -> Self {
        stretches.sort_unstable();
        let mut apart: Vec<(WallTime, WallTime)> = Vec::new();
        for (from, to) in stretches {
            match apart.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = to.max(*end),
                None => apart.push((from, to.max(from))),
            }
        }
        Self(apart)
    }

    /// Is there no hold?
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is some of the time between the two held?
    pub(super) fn meet(&self, from: WallTime, to: WallTime) -> bool {
        self.begun(to).is_some_and(|(_, end)| from <= end)
    }

    /// Was the point captured in a stretch, or received in one, whenever the other was?
    pub(super) fn hold(&self, point: &KeptPoint) -> bool {
        self.within(point.received_at).is_some() || self.within(point.captured_at).is_some()
    }

    /// What is held of points that follow each other: those captured or received in a stretch, from the first to the last of each
    /// run of them, and the last before a stretch, which is what it begins with.
    pub(super) fn points<'a>(&self, offered: impl Iterator<Item = &'a KeptPoint>) -> Stretches {
        if self.is_empty() {
            return Stretches::default();
        }
        let (mut held, mut offered, mut open) = (Vec::new(), offered.peekable(), false);
        let mut before = None;
        while let Some(point) = offered.next() {
            let inside = self.hold(point) || self.hold_of_run(before, point);
            match held.last_mut().filter(|_| open && inside) {
                Some((_, last)) => *last = point.lsn,
                None if inside || self.begin_with(point, offered.peek().copied()) => {
                    held.push((point.first(), point.lsn));
                }
                None => {}
            }
            (open, before) = (inside, Some(point));
        }
        Stretches::of(held)
    }

    /// Is anything held of what a listed point stands for? It was captured, and received, after what is listed before it.
    fn hold_of_run(&self, before: Option<&KeptPoint>, point: &KeptPoint) -> bool {
        let from = before.map_or((WallTime::EPOCH, WallTime::EPOCH), |p| (p.captured_at, p.received_at));
        point.is_run() && (self.meet(from.0, point.captured_at) || self.meet(from.1, point.received_at))
    }

    /// Does a stretch begin behind a point that is in none, and before what follows it?
    fn begin_with(&self, point: &KeptPoint, next: Option<&KeptPoint>) -> bool {
        let Some(next) = next else {
            return self.0.last().is_some_and(|(from, _)| point.captured_at < *from);
        };
        let begun = self.begun(next.captured_at);
        let received = self.within(next.received_at);
        [begun, received].into_iter().flatten().any(|(from, _)| point.captured_at < from)
    }

    /// The stretch that a time is in.
    fn within(&self, at: WallTime) -> Option<(WallTime, WallTime)> {
        self.begun(at).filter(|(_, to)| at <= *to)
    }

    /// The last stretch that has begun at a time.
    fn begun(&self, at: WallTime) -> Option<(WallTime, WallTime)> {
        let begun = self.0.partition_point(|(from, _)| *from <= at);
        begun.checked_sub(1).and_then(|n| self.0.get(n)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tap_block::Lsn;

    use super::*;

    fn at(seconds: u64) -> WallTime {
        WallTime::from_nanos(seconds * 1_000_000_000)
    }

    fn points(times: &[(u64, u64)]) -> Vec<KeptPoint> {
        let point = |(n, &(captured, received)): (u64, &(u64, u64))| {
            KeptPoint::new(Lsn::new(n).unwrap(), at(captured), at(received))
        };
        (1..).zip(times).map(point).collect()
    }

    fn times(holds: &[(u64, u64)]) -> HeldTimes {
        HeldTimes::together(holds.iter().map(|&(from, to)| (at(from), at(to))).collect())
    }

    /// What holds of these times hold of points captured and received at those.
    fn holds_of(holds: &[(u64, u64)], of: &[(u64, u64)]) -> Vec<u64> {
        let points = points(of);
        let held = times(holds).points(points.iter());
        points.iter().filter(|p| held.hold(p.lsn)).map(|p| p.lsn.get()).collect()
    }

    fn holds(of: &[(u64, u64)]) -> Vec<u64> {
        holds_of(&[(100, 200)], of)
    }

    #[test]
    fn a_hold_is_of_what_was_captured_then_whenever_it_came() {
        assert_eq!(holds(&[(90, 90), (120, 120), (200, 200), (201, 201)]), [1, 2, 3]);
        assert_eq!(holds(&[(90, 500), (120, 500), (190, 501), (210, 502)]), [1, 2, 3], "after an outage");
        assert_eq!(holds(&[(9, 120), (1000, 201)]), [1], "nor does a source's wrong clock matter");
    }

    #[test]
    fn a_hold_begins_with_the_state_that_its_stretch_began_with() {
        assert_eq!(holds(&[(50, 50), (90, 90), (300, 300)]), [2], "nothing was written meanwhile");
        assert_eq!(holds(&[(50, 50), (90, 90)]), [2], "nor since");
        assert_eq!(holds(&[(300, 300)]), [0u64; 0]);
    }

    #[test]
    fn a_run_is_held_as_a_whole_if_any_of_it_may_be() {
        let run = |lsn, before, seconds| KeptPoint {
            before,
            ..KeptPoint::new(Lsn::new(lsn).unwrap(), at(seconds), at(seconds))
        };
        let all = [run(1, 0, 10), run(50, 48, 50), run(60, 0, 60), run(90, 20, 90), run(91, 0, 91)];
        let held = |from, to| {
            let held = times(&[(from, to)]).points(all.iter());
            all.iter().filter(|p| held.hold_any(p)).map(|p| p.lsn.get()).collect::<Vec<_>>()
        };
        assert_eq!(held(20, 30), [1, 50], "and what it began with");
        assert_eq!(held(5, 9), [0u64; 0]);
        assert_eq!(held(61, 62), [60, 90]);
        assert!(times(&[(20, 30)]).points(all.iter()).hold(Lsn::new(2).unwrap()));
    }

    #[test]
    fn holds_that_overlap_are_one_stretch() {
        assert_eq!(times(&[(50, 60), (10, 20), (15, 30), (30, 31)]), times(&[(10, 31), (50, 60)]));
        assert!(times(&[(10, 20)]).meet(at(20), at(30)) && times(&[(10, 20)]).meet(at(5), at(10)));
        assert!(!times(&[(10, 20), (40, 50)]).meet(at(21), at(39)));
    }

    /// As holds are meant, each looked at on its own.
    fn one_by_one(from: u64, to: u64, offered: &[KeptPoint]) -> Vec<u64> {
        let within = |time: WallTime| at(from) <= time && time <= at(to);
        let (mut held, mut before) = (Vec::new(), None);
        for point in offered {
            let inside = within(point.received_at) || within(point.captured_at);
            if inside || point.captured_at >= at(from) {
                held.extend(before.take());
            } else {
                before = Some(point.lsn.get());
            }
            held.extend(inside.then_some(point.lsn.get()));
        }
        held.extend(before);
        held
    }

    proptest! {
        #[test]
        fn many_holds_are_what_each_of_them_is(
            holds in prop::collection::vec((0u64..60, 0u64..20), 0..6),
            of in prop::collection::vec((0u64..80, 0u64..80), 0..40),
        ) {
            let holds: Vec<_> = holds.into_iter().map(|(from, long)| (from, from + long)).collect();
            let points = points(&of);
            let mut each: Vec<u64> =
                holds.iter().flat_map(|&(from, to)| one_by_one(from, to, &points)).collect();
            each.sort_unstable();
            each.dedup();
            prop_assert_eq!(holds_of(&holds, &of), each);
        }
    }
}
