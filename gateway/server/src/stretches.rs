//! The points of a timeline summed up: those that follow each other at one distance are one line, be it a million of them.

use std::time::Duration;

use cx_api::{KeptView, StretchView};
use gateway_journal::{KeptPoint, RetentionPolicy};

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

/// `points`, ascending, as stretches; a tier of the policy that kept them may leave out every other one.
pub(crate) fn stretches(points: &[KeptPoint], policy: &RetentionPolicy) -> Vec<StretchView> {
    let view = |p: &KeptPoint| KeptView { lsn: p.lsn, time: p.captured_at };
    let mut found: Vec<(StretchView, Option<Distance>)> = Vec::new();
    let mut before: Option<&KeptPoint> = None;
    for point in points {
        let distance = before.replace(point).map(|before| distance(before, point, policy));
        let goes_on = |of: &Option<Distance>| match (of, distance) {
            (_, None | Some(Distance::Far)) => false,
            (of, distance) => of.is_none() || *of == distance,
        };
        match found.last_mut().filter(|(_, of)| goes_on(of)) {
            Some((stretch, of)) => {
                (stretch.last, *of) = (view(point), distance);
                stretch.points += point.count();
                stretch.every_write = distance == Some(Distance::None);
            }
            None => {
                let stretch = StretchView {
                    first: view(point),
                    last: view(point),
                    points: point.count(),
                    every_write: false,
                };
                found.push((stretch, None));
            }
        }
    }
    found.into_iter().map(|(stretch, _)| stretch).collect()
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
        assert_eq!(found.last().unwrap().points, 1, "one that stands alone");
        assert_eq!((found[0].first.lsn.get(), found[0].every_write), (100, false));
        assert_eq!(stretches(&[], &policy), []);
    }
}
