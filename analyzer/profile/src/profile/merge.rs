//! Two profiles into one, as if all had been one trace: of hosts, of devices, of one run behind the other.

use std::collections::BTreeMap;

use super::{Losses, Profile, Traffic, between};
use crate::bins::{BIN, Bins};
use crate::event::{At, DeviceNo};
use crate::model::batches::Batches;

/// Why two profiles cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A second of one lies across two seconds of the other.
    #[error(
        "these profiles count their seconds from moments that are {0} ns off whole seconds of each other: \
         make both from the same beginning, or join their files by time"
    )]
    Seconds(u64),
}

impl Profile {
    /// Seconds are counted from here, as if a first record stood here. Profiles that are to be merged need that: the parts of a
    /// trace have each a first record of their own.
    pub fn begin(&mut self, at: At) {
        if self.first.is_none() {
            self.first = Some(at);
            self.last = at;
        }
    }

    /// Adds all that another profile holds. A device of the same number is the same device; both are best begun at the same
    /// moment ([`Profile::begin`]).
    ///
    /// The result is the profile of all events of both, but for what takes them in order: the exact requirement is not known of two
    /// that both have writes (the one by the second is), and where both wrote the same *block* of one device by turns, what thinning saves of it
    /// is a little low. Writes that would have shared a batch are in two when they are in different profiles: one batch more for
    /// each seam. Joining the files by time keeps all of these.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was changed.
    pub fn merge(&mut self, mut other: Self) -> Result<(), MergeError> {
        let (Some(mine), Some(theirs)) = (self.first, other.first) else {
            if self.first.is_none() {
                std::mem::swap(self, &mut other);
            }
            self.merge_labels(other);
            return Ok(());
        };
        let (behind, ahead) = (between(theirs, mine), between(mine, theirs));
        let apart = behind.max(ahead);
        if apart % BIN != 0 {
            return Err(MergeError::Seconds(apart % BIN));
        }
        let later = (behind / BIN, ahead / BIN);
        self.settle();
        other.settle();
        self.bins = shifted(std::mem::take(&mut self.bins), later.0);
        self.bins.merge(&other.bins, later.1);
        self.current.0 = self.current.0.saturating_add(later.0);
        self.merge_ends(&other);
        self.merge_batches(std::mem::take(&mut other.batches));
        self.coalescing.merge(std::mem::take(&mut other.coalescing), later);
        self.merge_exact(&mut other);
        self.first = Some(mine.min(theirs));
        self.last = self.last.max(other.last);
        self.merge_labels(other);
        Ok(())
    }

    /// All that is a sum or a list. Every field is named: a new one has to say how it is merged.
    fn merge_labels(&mut self, other: Self) {
        let Self {
            sources,
            devices,
            tally,
            losses,
            writes,
            reads,
            flushes,
            discards,
            write_sizes,
            read_sizes,
            latency,
            sequential_writes,
            backwards,
            whole_bytes,
            contents,
            reach,
            summed,
            coalescing: _,
            batches: _,
            ends: _,
            first: _,
            last: _,
            bins: _,
            current: _,
            exact: _,
        } = other;
        for source in sources {
            if !self.sources.contains(&source) {
                self.sources.push(source);
            }
        }
        self.devices.extend(devices);
        self.tally.add(&tally);
        self.losses.merge(losses);
        self.writes.merge(writes);
        self.reads.merge(reads);
        self.flushes += flushes;
        self.discards.merge(discards);
        self.write_sizes.merge(&write_sizes);
        self.read_sizes.merge(&read_sizes);
        self.latency.merge(&latency);
        self.sequential_writes += sequential_writes;
        self.backwards += backwards;
        self.whole_bytes = self.whole_bytes.saturating_add(whole_bytes);
        self.contents.merge(contents);
        for (device, theirs) in reach {
            let mine = self.reach.entry(device).or_default();
            *mine = theirs.max(*mine);
        }
        self.summed |= summed;
    }

    fn merge_batches(&mut self, other: BTreeMap<DeviceNo, Batches>) {
        for (device, theirs) in other {
            self.batches.entry(device).or_default().merge(theirs);
        }
    }

    /// The exact requirement needs the events of both in order.
    fn merge_exact(&mut self, other: &mut Self) {
        if self.writes.count == 0 {
            std::mem::swap(&mut self.exact, &mut other.exact);
        } else if other.writes.count > 0 {
            self.exact.clear();
        }
    }

    /// Where each device was written last; a run that goes on where the one before ended is one.
    fn merge_ends(&mut self, other: &Self) {
        for (&device, &theirs) in &other.ends {
            let Some(mine) = self.ends.get_mut(&device) else {
                self.ends.insert(device, theirs);
                continue;
            };
            let (earlier, later) =
                if mine.end_at <= theirs.begin_at { (*mine, theirs) } else { (theirs, *mine) };
            let apart = earlier.end_at <= later.begin_at;
            self.sequential_writes += u64::from(apart && earlier.end == later.begin);
            let last = if earlier.end_at <= later.end_at { later } else { earlier };
            *mine = Run { end: last.end, end_at: last.end_at, ..earlier };
        }
    }
}

/// Where the first write to a device began and the last one ended, and when they came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) begin: u64,
    pub(super) begin_at: At,
    pub(super) end: u64,
    pub(super) end_at: At,
}

fn shifted(bins: Bins, later: u64) -> Bins {
    if later == 0 {
        return bins;
    }
    let mut moved = Bins::default();
    moved.merge(&bins, later);
    moved
}

impl Traffic {
    fn merge(&mut self, other: Self) {
        self.add(other.count, other.bytes);
    }
}

impl Losses {
    const fn merge(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.nanos = self.nanos.saturating_add(other.nanos);
    }
}
