//! How far the clock of a tap is from the gateway's, measured as NTP does: the tap's time lies somewhere between a question
//! and its answer.
//!
//! Points carry the tap's time. A time ago and a lag are meant in true time, so both are reckoned with what was measured; how
//! exact that is counts against us, never for us.

use std::time::Duration;

use tap_block::{Monotonic, WallTime};

/// A measurement is held to be right so long; after that the next one counts, however inexact.
const GOOD_FOR: Duration = Duration::from_secs(600);

/// The best that is known of a tap's clock.
#[derive(Debug, Default)]
pub(crate) struct Skew(Option<Measured>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    offset: Offset,
    at: Monotonic,
}

/// The tap's clock minus ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    nanos: i64,
    /// It may be more or less by this.
    error: Duration,
}

impl Skew {
    /// The tap said `told`; it was asked at `asked` by our clock, and the answer was here after `took`.
    pub(crate) fn measure(&mut self, asked: WallTime, took: Duration, told: WallTime, now: Monotonic) {
        let error = took / 2;
        let nanos = difference(told, asked.plus(error));
        let found = Measured { offset: Offset { nanos, error }, at: now };
        // One of the two clocks was set when two measurements contradict each other.
        let holds = |best: &Measured| {
            let apart = Duration::from_nanos(best.offset.nanos.abs_diff(nanos));
            best.offset.error < error
                && now.since(best.at) < GOOD_FOR
                && apart <= best.offset.error.saturating_add(error)
        };
        if !self.0.as_ref().is_some_and(holds) {
            self.0 = Some(found);
        }
    }

    /// `None`: nothing was measured yet.
    pub(crate) fn offset(&self) -> Option<Offset> {
        self.0.map(|measured| measured.offset)
    }
}

impl Offset {
    /// What the tap's clock shows when ours shows `now`.
    pub(crate) fn tap_time(self, now: WallTime) -> WallTime {
        let by = Duration::from_nanos(self.nanos.unsigned_abs());
        if self.nanos < 0 { now.minus(by) } else { now.plus(by) }
    }

    /// The latest that it may show.
    pub(crate) fn latest(self, now: WallTime) -> WallTime {
        self.tap_time(now).plus(self.error)
    }

    /// Seconds; positive when the tap's clock is ahead.
    pub(crate) fn seconds(self) -> f64 {
        let by = Duration::from_nanos(self.nanos.unsigned_abs()).as_secs_f64();
        if self.nanos < 0 { -by } else { by }
    }
}

/// `a` minus `b`, in nanoseconds.
fn difference(a: WallTime, b: WallTime) -> i64 {
    let apart = |by: Duration| i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    if a >= b { apart(a.since(b)) } else { -apart(b.since(a)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MS: Duration = Duration::from_millis(1);

    fn noon() -> WallTime {
        WallTime::parse_rfc3339("2026-11-28T12:00:00Z").unwrap()
    }

    fn after(by: Duration) -> Monotonic {
        Monotonic::default().plus(by)
    }

    #[test]
    fn a_clock_ahead_and_one_behind_are_told_within_half_the_round_trip() {
        for (told, seconds) in [(noon().plus(HOUR), 3600.0), (noon().minus(HOUR), -3600.0)] {
            let mut skew = Skew::default();
            assert_eq!(skew.offset(), None);
            skew.measure(noon(), 20 * MS, told.plus(7 * MS), after(MS));
            let offset = skew.offset().unwrap();
            assert!((offset.seconds() - seconds).abs() <= 0.010, "{offset:?}");
            assert!(offset.latest(noon()) >= told && offset.tap_time(noon()) <= told.plus(10 * MS));
        }
    }

    #[test]
    fn the_most_exact_counts_until_it_is_old_or_contradicted() {
        let mut skew = Skew::default();
        skew.measure(noon(), MS, noon(), after(MS));
        let exact = skew.offset();
        skew.measure(noon(), 80 * MS, noon(), after(2 * MS));
        assert_eq!(skew.offset(), exact, "a slow answer says less");
        skew.measure(noon(), 80 * MS, noon().plus(HOUR), after(3 * MS));
        assert!(skew.offset().unwrap().seconds() > 3590.0, "the clock was set");
        skew.measure(noon(), MS, noon(), after(4 * MS));
        skew.measure(noon(), 80 * MS, noon(), after(GOOD_FOR + 5 * MS));
        assert_ne!(skew.offset(), exact, "it is old");
    }
}
