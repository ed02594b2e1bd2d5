//! What a contestant did in a round, and what several rounds say together.

use std::time::Duration;

/// Bytes, of memory or of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Bytes(pub(crate) u64);

/// How many times as fast as the other.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Ratio(pub(crate) f64);

/// One round of one contestant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    /// Operations done.
    pub(crate) ops: u64,
    /// In this time.
    pub(crate) elapsed: Duration,
    /// Processor time that the server took for them.
    pub(crate) cpu: Duration,
    /// How long the client waited for an operation.
    pub(crate) latency: Latency,
    /// What the server held in memory at the end.
    pub(crate) memory: Bytes,
    /// Processors that programs outside of the benchmark kept busy: how far to trust it.
    pub(crate) others: f64,
}

/// Waiting times of one round.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    /// Half of the operations were faster.
    pub(crate) median: Duration,
    /// One in a hundred was slower.
    pub(crate) p99: Duration,
    /// The slowest.
    pub(crate) max: Duration,
}

/// The middle of some numbers, the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Sample {
    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        per(to_float(self.ops), self.elapsed.as_secs_f64())
    }

    /// Microseconds of the server's processor time for each operation.
    pub(crate) fn cpu_per_op(&self) -> f64 {
        per(self.cpu.as_secs_f64() * 1e6, to_float(self.ops))
    }
}

impl Bytes {
    /// In MiB.
    pub(crate) fn mib(self) -> f64 {
        to_float(self.0) / f64::from(1 << 20)
    }
}

impl Latency {
    /// Of waiting times in any order.
    pub(crate) fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or_default();
        Self { median: at(50), p99: at(99), max: waits.last().copied().unwrap_or_default() }
    }
}

impl Spread {
    /// Of at least one number; zeroes of none.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
        let (low, high) = (at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2));
        Self { median: f64::midpoint(low, high), least: at(0), greatest: at(sorted.len().saturating_sub(1)) }
    }
}

/// `part` for each of `whole`; nothing for none.
fn per(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// Counts here stay far below the 2^53 up to which this is exact.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn to_float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, greatest: 3.0 });
        assert!((Spread::of([4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert!(Spread::of([]).median.abs() < 1e-9);
    }

    #[test]
    fn percentiles_of_waits() {
        let latency = Latency::of((0..200).rev().map(Duration::from_micros).collect());
        assert_eq!(latency.median, Duration::from_micros(100));
        assert_eq!(latency.p99, Duration::from_micros(198));
        assert_eq!(latency.max, Duration::from_micros(199));
    }
}
