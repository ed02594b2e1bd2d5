//! A trace folded into what the models need, in bounded memory.

mod merge;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::bins::{BIN, Bin, Bins};
use crate::cgp::{Clock, Record, Source, Tally};
use crate::event::{At, DeviceNo, Event, Kind};
use crate::histogram::Histogram;
use crate::model::batches::{Batches, Stored};
use crate::model::coalescing::Coalescing;
use crate::model::content::Contents;
use crate::model::requirement::{Rate, Requirement};
use merge::Run;

pub use merge::MergeError;

/// Count and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// I/Os.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, count: u64, bytes: u64) {
        self.count = self.count.saturating_add(count);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What was lost on the way into the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Events that a recorder dropped.
    pub events: u64,
    /// Nanoseconds in which a recorder did not run, or was not sure.
    pub nanos: u64,
}

/// See the module. [`Profile::take`] what a `.cgp` holds, or [`Profile::event`] by event; ask at any time.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Where it was recorded, one for each file that was taken.
    pub sources: Vec<Source>,
    /// Names of devices.
    pub devices: BTreeMap<DeviceNo, String>,
    /// What imports took and rejected.
    pub tally: Tally,
    /// What recorders lost.
    pub losses: Losses,
    /// All writes.
    pub writes: Traffic,
    /// All reads.
    pub reads: Traffic,
    /// All flushes.
    pub flushes: u64,
    /// All discards.
    pub discards: Traffic,
    /// Sizes of writes.
    pub write_sizes: Histogram,
    /// Sizes of reads.
    pub read_sizes: Histogram,
    /// How long I/Os took, in nanoseconds.
    pub latency: Histogram,
    /// Writes that began where the device's write before ended.
    pub sequential_writes: u64,
    /// Events that came later than one with a later time. They count in their second; the exact figure takes them as
    /// of the time they came.
    pub backwards: u64,
    /// Bytes of all writes, each rounded out to whole blocks: what travels is whole blocks.
    pub whole_bytes: u64,
    /// What was seen of their content.
    pub contents: Contents,
    coalescing: Coalescing,
    batches: BTreeMap<DeviceNo, Batches>,
    ends: HashMap<DeviceNo, Run>,
    /// Where the furthest write to each device ended.
    reach: HashMap<DeviceNo, u64>,
    first: Option<At>,
    last: At,
    bins: Bins,
    current: (u64, Bin),
    exact: Vec<Requirement>,
    /// Is there a second that is known as a sum only?
    summed: bool,
}

impl Profile {
    /// Nothing yet; the exact requirement will be known for these RPOs.
    #[must_use]
    pub fn new(rpos: &[Duration]) -> Self {
        Self { exact: rpos.iter().map(|&rpo| Requirement::new(rpo)).collect(), ..Self::default() }
    }

    /// Takes what a frame of a `.cgp` holds. Events should come in order of time.
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Source(source) => self.sources.push(source),
            Record::Device { device, name } => {
                self.devices.insert(device, name);
            }
            Record::Events(events) => events.iter().for_each(|event| self.event(event)),
            Record::Counters { at, bin, .. } => self.second(at, bin),
            Record::Loss { from, to, events } => {
                self.losses.events = self.losses.events.saturating_add(events);
                self.losses.nanos = self.losses.nanos.saturating_add(between(from, to));
            }
            Record::Tally(tally) => self.tally.add(&tally),
            Record::Content(content) => self.contents.add(&content),
        }
    }

    /// Takes one I/O.
    pub fn event(&mut self, event: &Event) {
        let second = self.second_of(event.at);
        match event.kind {
            Kind::Write => self.write(event, second),
            Kind::Read => {
                self.reads.add(1, event.length);
                self.read_sizes.add(event.length);
            }
            Kind::Flush => self.flushes += 1,
            Kind::Discard => self.discards.add(1, event.length),
        }
        if let Some(nanos) = event.latency {
            self.latency.add(nanos);
        }
        if second != self.current.0 {
            self.put_current();
            self.current.0 = second;
        }
        self.current.1.add(event);
    }

    fn write(&mut self, event: &Event, second: u64) {
        self.writes.add(1, event.length);
        self.write_sizes.add(event.length);
        let end = event.offset.saturating_add(event.length);
        let whole = whole_blocks(event.offset, end);
        self.whole_bytes = self.whole_bytes.saturating_add(whole);
        self.batches.entry(event.device).or_default().write(event.at, whole / tap_block::BLOCK_SIZE);
        let reach = self.reach.entry(event.device).or_default();
        *reach = end.max(*reach);
        if let Some(run) = self.ends.get_mut(&event.device) {
            self.sequential_writes += u64::from(run.end == event.offset);
            (run.end, run.end_at) = (end, event.at);
        } else {
            let (begin, at) = (event.offset, event.at);
            self.ends.insert(event.device, Run { begin, begin_at: at, end, end_at: at });
        }
        self.coalescing.write(event, second);
        for requirement in &mut self.exact {
            requirement.arrive(event.at, event.length);
        }
    }

    /// Takes a second's traffic of which only the sums are known: it ends the exact figures.
    fn second(&mut self, at: At, bin: Bin) {
        self.summed = true;
        self.writes.add(u64::from(bin.writes), bin.write_bytes);
        // Where they lie is not known; a file system writes whole blocks.
        self.whole_bytes = self.whole_bytes.saturating_add(bin.write_bytes);
        self.reads.add(u64::from(bin.reads), bin.read_bytes);
        let second = self.second_of(at);
        self.bins.add(second, bin);
    }

    /// The second that a moment lies in, counted from the first record. A moment before that counts as it.
    fn second_of(&mut self, at: At) -> u64 {
        let first = *self.first.get_or_insert(at);
        if at < self.last {
            self.backwards += 1;
        }
        self.last = self.last.max(at);
        between(first, at) / BIN
    }

    fn put_current(&mut self) {
        let (second, bin) = std::mem::take(&mut self.current);
        if bin != Bin::default() {
            self.bins.add(second, bin);
        }
    }

    /// The traffic by the second.
    pub fn bins(&mut self) -> &Bins {
        self.settle();
        &self.bins
    }

    /// Puts the second at hand into the bins; it goes on after that.
    pub(crate) fn settle(&mut self) {
        let second = self.current.0;
        self.put_current();
        self.current.0 = second;
    }

    /// The bins, as of the last [`Profile::settle`].
    pub(crate) const fn settled(&self) -> &Bins {
        &self.bins
    }

    /// The exact requirement for an RPO that was given to [`Profile::new`]. `None` when the trace is of sums, or had
    /// so strange a shape that only a lower bound is known.
    #[must_use]
    pub fn exact(&self, rpo: Duration) -> Option<Rate> {
        let known = self.exact.iter().find(|r| r.rpo() == rpo && !r.is_lower_bound());
        known.filter(|_| !self.summed).map(Requirement::rate)
    }

    /// Bytes up to the furthest write of each device, in all: the disks are at least so large.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.reach.values().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }

    /// What a journal takes for all writes beside the blocks: the least and the most.
    #[must_use]
    pub fn framing(&self, stored: Stored) -> (f64, f64) {
        let each = self.batches.values().map(|batches| batches.overhead(stored));
        each.fold((0.0, 0.0), |(least, most), (l, m)| (least + l, most + m))
    }

    /// Blocks of the largest batch of any device.
    #[must_use]
    pub fn largest_batch(&self) -> u64 {
        self.batches.values().map(Batches::largest).max().unwrap_or(0)
    }

    /// What thinning keeps.
    #[must_use]
    pub const fn coalescing(&self) -> &Coalescing {
        &self.coalescing
    }

    /// The first record's time; `None` without records.
    #[must_use]
    pub const fn first(&self) -> Option<At> {
        self.first
    }

    /// Seconds from the first record to the last.
    #[must_use]
    pub fn duration_seconds(&self) -> f64 {
        self.nanos() as f64 / 1e9 + if self.summed { 1.0 } else { 0.0 }
    }

    /// How many bins the trace spans, those without traffic as well.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        if self.first.is_some() { self.nanos() / BIN + 1 } else { 0 }
    }

    fn nanos(&self) -> u64 {
        self.first.map_or(0, |first| between(first, self.last))
    }

    /// Do the times of all sources count from 1970, so that hours and weekdays are known?
    #[must_use]
    pub fn has_wall_clock(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(|s| s.clock == Clock::Wall)
    }
}

/// Bytes of the blocks that a stretch touches.
const fn whole_blocks(from: u64, end: u64) -> u64 {
    let block = tap_block::BLOCK_SIZE;
    if from >= end { 0 } else { (end.div_ceil(block) - from / block).saturating_mul(block) }
}

/// Nanoseconds; 0 when `from` lies behind `to`.
const fn between(from: At, to: At) -> u64 {
    to.nanos().saturating_sub(from.nanos())
}
