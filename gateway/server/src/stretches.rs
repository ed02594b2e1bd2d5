//! The points of a timeline summed up: those that follow each other at one distance are one line, be it a million of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cx_api::{KeptView, StretchView};
use gateway_journal::{Kept, KeptPoint, RetentionPolicy};
use tap_block::VolumeId;

/// Points of settled history, or stretches of them, that a timeline shows.
pub(crate) const SHOWN: usize = 1000;
/// Volumes whose sums are remembered.
const REMEMBERED: usize = 16;

/// What a timeline says of all points, whichever it shows.
#[derive(Debug)]
pub(crate) struct Sums {
    pub(crate) points: u64,
    /// The last [`SHOWN`] of them.
    pub(crate) stretches: Vec<StretchView>,
}

/// What sums were made of.
#[derive(Debug, PartialEq)]
pub(crate) struct SumsOf {
    pub(crate) volume: VolumeId,
    /// The settle that left its points.
    pub(crate) settle: u64,
    pub(crate) policy: RetentionPolicy,
}

/// The last sums that were asked for: the pages of a timeline are asked for one after the other, and all points are gone through once.
#[derive(Debug, Default)]
pub(crate) struct LastSums(Mutex<VecDeque<(SumsOf, Arc<Sums>)>>);

impl LastSums {
    /// Those, or what `make` makes.
    pub(crate) fn of(&self, of: SumsOf, make: impl FnOnce() -> Arc<Sums>) -> Arc<Sums> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, sums)) = known.iter().find(|(known, _)| *known == of) {
            return Arc::clone(sums);
        }
        known.retain(|(known, _)| known.volume != of.volume);
        known.truncate(REMEMBERED - 1);
        let sums = make();
        known.push_front((of, Arc::clone(&sums)));
        sums
    }
}

impl Sums {
    pub(crate) fn new(kept: &Kept, policy: &RetentionPolicy) -> Self {
        Self { points: kept.count(), stretches: stretches(&kept.points, policy).into() }
    }
}

pub(crate) fn last_shown<T>(mut all: Vec<T>) -> Vec<T> {
    all.split_off(all.len().saturating_sub(SHOWN))
}

/// How far a point is from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distance {
    /// It is the next record.
    None,
    /// As points of the tier with this number are.
    Tier(usize),
    /// Farther than those of any.
    Far,
}

/// `points`, ascending, as stretches, the last [`SHOWN`] of them; a tier of the policy that kept them may leave out every other one.
fn stretches(points: &[KeptPoint], policy: &RetentionPolicy) -> VecDeque<StretchView> {
    let view = |p: &KeptPoint| KeptView { lsn: p.lsn, time: p.captured_at };
    let mut found: VecDeque<StretchView> = VecDeque::new();
    let mut of: Option<Distance> = None;
    let mut before: Option<&KeptPoint> = None;
    for point in points {
        let distance = before.replace(point).map(|before| distance(before, point, policy));
        let goes_on = match (of, distance) {
            (_, None | Some(Distance::Far)) => false,
            (of, distance) => of.is_none() || of == distance,
        };
        match found.back_mut().filter(|_| goes_on) {
            Some(stretch) => {
                (stretch.last, of) = (view(point), distance);
                stretch.points += point.count();
                stretch.every_write = distance == Some(Distance::None);
            }
            None => {
                // Points that stand alone may be a million: those that are not shown take no memory.
                found.drain(..(found.len() + 1).saturating_sub(SHOWN));
                let (first, last, points) = (view(point), view(point), point.count());
                found.push_back(StretchView { first, last, points, every_write: false });
                of = None;
            }
        }
    }
    found
}

fn distance(before: &KeptPoint, point: &KeptPoint, policy: &RetentionPolicy) -> Distance {
    if point.first() == before.lsn.next() {
        return Distance::None;
    }
    let apart = point.captured_at.since(before.captured_at);
    let near = |each: Duration| apart < each.saturating_mul(2);
    policy.tiers.iter().position(|tier| near(tier.each)).map_or(Distance::Far, Distance::Tier)
}

#[cfg(test)]
mod tests {
    use tap_block::units::count;
    use tap_block::{Lsn, WallTime};

    use super::*;

    fn point(lsn: u64, seconds: u64) -> KeptPoint {
        let at = WallTime::from_nanos(seconds * 1_000_000_000);
        KeptPoint::new(Lsn::new(lsn).unwrap(), at, at)
    }

    #[test]
    fn pages_go_through_all_points_once_and_again_when_there_are_others() {
        let (sums, made) = (LastSums::default(), std::cell::Cell::new(0));
        let kept = |n| Kept { settled: Lsn::ZERO, points: (1..=n).map(|n| point(n, n)).collect() };
        let page = |volume, settle, policy: &RetentionPolicy, n| {
            let of = SumsOf { volume: VolumeId::new(volume), settle, policy: policy.clone() };
            let found = sums.of(of, || {
                made.set(made.get() + 1);
                Arc::new(Sums::new(&kept(n), policy))
            });
            (found.points, made.get())
        };
        let policy = RetentionPolicy::default();
        let other = RetentionPolicy { tiers: Vec::new(), ..policy.clone() };
        (0..1000).for_each(|_| assert_eq!(page(1, 1, &policy, 9), (9, 1)));
        assert_eq!(page(1, 2, &policy, 10), (10, 2));
        assert_eq!(page(1, 2, &other, 10), (10, 3));
        assert_eq!((page(2, 2, &other, 5), page(1, 2, &other, 10)), ((5, 4), (10, 4)));
        (100..200).for_each(|volume| assert_eq!(page(volume, 2, &policy, 3).0, 3));
        assert_eq!(sums.0.lock().unwrap().len(), REMEMBERED);
    }

    #[test]
    fn a_million_points_are_a_line_and_so_is_each_tier() {
        let policy = RetentionPolicy::default();
        let hourly = (1..=48).map(|n| point(n * 100, n * 3600));
        let (lsn, at) = (10_000, 48 * 3600 + 7200);
        let minutely = (1..=60).map(|n| point(lsn + n * 7, at + n * 60));
        let held = (1..=100_000).map(|n| point(20_000 + n, at + 4000 + n / 100));
        let points: Vec<KeptPoint> =
            hourly.chain(minutely).chain(held).chain([point(900_000, 9_000_000)]).collect();
        let found = stretches(&points, &policy);
        assert_eq!(found.iter().map(|s| s.points).sum::<u64>(), count(points.len()));
        assert!(found.len() <= 6, "{found:?}");
        let longest = found.iter().max_by_key(|s| s.points).unwrap();
        assert!(longest.every_write && longest.points >= 99_999, "{longest:?}");
        assert_eq!(found.back().unwrap().points, 1, "one that stands alone");
        assert_eq!((found[0].first.lsn.get(), found[0].every_write), (100, false));
        assert_eq!(stretches(&[], &policy), []);
    }

    /// Bookmarks of a year, none of them near to another.
    #[test]
    fn of_points_that_stand_alone_only_those_are_gathered_that_are_shown() {
        let policy = RetentionPolicy { tiers: Vec::new(), ..RetentionPolicy::default() };
        let points: Vec<KeptPoint> = (1..=100_000).map(|n| point(n * 10, n * 1000)).collect();
        let found = stretches(&points, &policy);
        assert!(found.capacity() <= 2 * SHOWN, "memory for {}", found.capacity());
        assert_eq!((found.len(), found.back().unwrap().last.lsn.get()), (SHOWN, 1_000_000));
        assert_eq!(found[0].first.lsn.get(), (100_000 - 999) * 10);
    }
}
