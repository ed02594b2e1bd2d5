//! How often all kept points are gone through to find out whether it is worth it to go through settled history: a million of them not with
//! each look that finds nothing to do.

use std::time::Duration;

use tap_block::WallTime;

/// So many are looked at as often as anybody asks.
const FEW: usize = 100_000;
/// Of more, so long for each of them lies between two looks: a million are looked at every hundred seconds.
const EACH: Duration = Duration::from_micros(100);

/// When that was last done.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<WallTime>);

impl Pace {
    /// Are so many points to be looked at now? Then they are.
    pub(super) fn is_due(&mut self, points: usize, now: WallTime) -> bool {
        let pause = EACH.saturating_mul(u32::try_from(points).unwrap_or(u32::MAX));
        let is_due = points <= FEW || self.0.is_none_or(|last| now.since(last) >= pause);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_are_looked_at_seldom_and_few_whenever_somebody_asks() {
        let looks = |points, seconds: u64| {
            let mut pace = Pace::default();
            let at = |n: u64| WallTime::from_nanos(n * 10_000_000_000);
            (0..seconds / 10).filter(|n| pace.is_due(points, at(*n))).count()
        };
        assert_eq!((looks(100, 3600), looks(FEW, 3600)), (360, 360));
        assert_eq!((looks(1_000_000, 3600), looks(10_000_000, 3600)), (36, 4));
    }
}
