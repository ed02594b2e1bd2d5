//! Traffic by the second: what everything but the exact requirement is computed from.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use crate::event::{Event, Kind};

/// Nanoseconds in a bin.
pub const BIN: u64 = 1_000_000_000;

/// The traffic of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bin {
    /// Bytes written.
    pub write_bytes: u64,
    /// Writes.
    pub writes: u32,
    /// Reads.
    pub reads: u32,
    /// Bytes read.
    pub read_bytes: u64,
}

impl Bin {
    /// Counts one I/O.
    pub fn add(&mut self, event: &Event) {
        match event.kind {
            Kind::Write => {
                self.write_bytes = self.write_bytes.saturating_add(event.length);
                self.writes = self.writes.saturating_add(1);
            }
            Kind::Read => {
                self.read_bytes = self.read_bytes.saturating_add(event.length);
                self.reads = self.reads.saturating_add(1);
            }
            Kind::Flush | Kind::Discard => {}
        }
    }
}

impl AddAssign for Bin {
    fn add_assign(&mut self, other: Self) {
        self.write_bytes = self.write_bytes.saturating_add(other.write_bytes);
        self.writes = self.writes.saturating_add(other.writes);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.reads = self.reads.saturating_add(other.reads);
    }
}

/// Bins of one second each, numbered from the trace's first record. A second without traffic takes no memory, so a
/// gap of years costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bins {
    map: BTreeMap<u64, Bin>,
}

impl Bins {
    /// Adds traffic to second `number`.
    pub fn add(&mut self, number: u64, bin: Bin) {
        *self.map.entry(number).or_default() += bin;
    }

    /// Adds all that another holds, `later` seconds later.
    pub fn merge(&mut self, other: &Self, later: u64) {
        for (number, bin) in other.iter() {
            self.add(number.saturating_add(later), bin);
        }
    }

    /// Those with traffic, in order of time.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, Bin)> + '_ {
        self.map.iter().map(|(&number, &bin)| (number, bin))
    }

    /// Those with writes, in order of time, as (second, bytes).
    pub fn written(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.iter().filter(|(_, bin)| bin.write_bytes > 0).map(|(number, bin)| (number, bin.write_bytes))
    }

    /// Bytes written in the busiest second.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.written().map(|(_, bytes)| bytes).max().unwrap_or(0)
    }

    /// Bytes written in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.written().fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// How many seconds had traffic.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Was there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
