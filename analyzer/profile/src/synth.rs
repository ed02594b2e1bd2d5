//! A made-up trace whose answers are known: steady writes with a burst every so often.
//!
//! Each second has `base` writes and, in the first `burst_seconds` of each `period`, `burst` writes, evenly spread;
//! one in `read_every` I/Os is a read beside them. The same seed gives the same trace.

use crate::event::{At, DeviceNo, Event, Kind};

/// What to make up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Where the clock begins.
    pub start: At,
    /// How many I/Os.
    pub count: u64,
    /// Writes in a quiet second; at least 1.
    pub base: u64,
    /// Writes in a second of a burst.
    pub burst: u64,
    /// How long a burst is, in seconds.
    pub burst_seconds: u64,
    /// From one burst's beginning to the next, in seconds; 0 for no bursts.
    pub period: u64,
    /// The length of each I/O, in bytes.
    pub length: u64,
    /// The size of the device, in bytes.
    pub size: u64,
    /// Every so many-th I/O is a read; 0 for none.
    pub read_every: u64,
    /// Where the offsets come from.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            start: At::from_nanos(0),
            count: 1_000_000,
            base: 100,
            burst: 10_000,
            burst_seconds: 5,
            period: 60,
            length: 4096,
            size: 64 << 30,
            read_every: 0,
            seed: 1,
        }
    }
}

impl Plan {
    /// The I/Os, in order.
    #[must_use]
    pub fn events(self) -> Events {
        Events { plan: self, made: 0, second: 0, of_second: 0, random: self.seed }
    }

    /// I/Os in a second of the trace.
    #[must_use]
    pub fn rate(&self, second: u64) -> u64 {
        let bursts = self.period > 0 && second % self.period < self.burst_seconds;
        if bursts { self.burst.max(1) } else { self.base.max(1) }
    }
}

/// See [`Plan::events`].
#[derive(Debug, Clone)]
pub struct Events {
    plan: Plan,
    made: u64,
    second: u64,
    of_second: u64,
    random: u64,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.made >= self.plan.count {
            return None;
        }
        let rate = self.plan.rate(self.second);
        let nanos = self.second * 1_000_000_000 + self.of_second * 1_000_000_000 / rate;
        // A linear congruential generator (Knuth, MMIX): only its high bits are used.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let places = (self.plan.size / self.plan.length.max(1)).max(1);
        let read = self.plan.read_every > 0 && self.made % self.plan.read_every == self.plan.read_every - 1;
        let event = Event {
            at: At::from_nanos(self.plan.start.nanos() + nanos),
            device: DeviceNo::new(0),
            kind: if read { Kind::Read } else { Kind::Write },
            offset: (self.random >> 24) % places * self.plan.length,
            length: self.plan.length,
            latency: None,
        };
        self.made += 1;
        self.of_second += 1;
        if self.of_second >= rate {
            (self.second, self.of_second) = (self.second + 1, 0);
        }
        Some(event)
    }
}
