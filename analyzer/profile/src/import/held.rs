//! How long an I/O took, where a trace tells its beginning and its end apart: I/Os wait here, in the order in which they
//! were submitted, until their end is known.
//!
//! An end that never comes (the trace stopped, the record was dropped) must not hold up those behind it, nor fill the
//! memory: an I/O goes on without a latency when it has waited for `patience`, or when too many wait.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{At, DeviceNo, Event, Kind};

/// The most that wait at once: far more than disks have in flight.
const MOST: usize = 1 << 16;

/// I/Os in the order of their submission, each until its end is known.
#[derive(Debug)]
pub(super) struct Held {
    /// The I/O, and whether it is done.
    queue: VecDeque<(Event, bool)>,
    /// The number of the first in the queue.
    first: u64,
    patience: Duration,
}

impl Held {
    pub(super) const fn new(patience: Duration) -> Self {
        Self { queue: VecDeque::new(), first: 0, patience }
    }

    /// Submitted: the number by which its end names it.
    pub(super) fn submit(&mut self, event: Event) -> u64 {
        self.queue.push_back((event, false));
        self.first + tap_block::units::count(self.queue.len()) - 1
    }

    /// The I/O of a number, while it waits.
    fn waiting(&mut self, number: u64) -> Option<&mut (Event, bool)> {
        let at = number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok())?;
        self.queue.get_mut(at)
    }

    /// It has ended.
    pub(super) fn end(&mut self, number: u64, at: At) {
        if let Some((event, done)) = self.waiting(number) {
            event.latency = Some(at.nanos().saturating_sub(event.at.nanos()));
            *done = true;
        }
    }

    /// Its end is not to be known.
    fn pass(&mut self, number: u64) {
        if let Some((_, done)) = self.waiting(number) {
            *done = true;
        }
    }

    /// Appends those that need not wait any longer.
    pub(super) fn release(&mut self, now: At, out: &mut Vec<Event>) {
        while let Some((event, done)) = self.queue.front() {
            if !done && self.queue.len() <= MOST && now <= event.at.plus(self.patience) {
                return;
            }
            out.extend(self.queue.pop_front().map(|(event, _)| event));
            self.first += 1;
        }
    }

    /// Appends all that are left.
    pub(super) fn release_all(&mut self, out: &mut Vec<Event>) {
        self.first += tap_block::units::count(self.queue.len());
        out.extend(self.queue.drain(..).map(|(event, _)| event));
    }

    /// The number of the first that waits.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }
}

/// The end of a request as the kernel tells it. Requests are made of several I/Os, or of a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// When.
    pub at: At,
    /// On which device.
    pub device: DeviceNo,
    /// What it was.
    pub kind: Kind,
    /// Where it began, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// I/Os and the requests that carried them: an I/O has ended with the request that holds its last byte.
#[derive(Debug)]
pub struct Latencies {
    held: Held,
    /// Numbers of those that wait, by device, kind and last byte.
    places: BTreeMap<(DeviceNo, Kind, u64, u64), At>,
    now: At,
}

impl Latencies {
    /// An I/O waits for its end for `patience` at most.
    #[must_use]
    pub const fn new(patience: Duration) -> Self {
        Self { held: Held::new(patience), places: BTreeMap::new(), now: At::from_nanos(0) }
    }

    /// Submitted; in order of time.
    pub fn submit(&mut self, event: Event) {
        self.now = self.now.max(event.at);
        let number = self.held.submit(event);
        if event.length == 0 {
            // A flush has no place to be known by.
            return self.held.pass(number);
        }
        self.places
            .insert((event.device, event.kind, last_byte(event.offset, event.length), number), event.at);
        if self.places.len() > 2 * MOST {
            let first = self.held.first();
            self.places.retain(|&(.., number), _| number >= first);
        }
    }

    /// Done; a request that began before an I/O was submitted is not its end.
    pub fn complete(&mut self, end: &Completion) {
        self.now = self.now.max(end.at);
        if end.length == 0 {
            return;
        }
        let place = |at: u64, number: u64| (end.device, end.kind, at, number);
        let last = last_byte(end.offset, end.length).max(end.offset);
        let range = place(end.offset, 0)..=place(last, u64::MAX);
        let ended: Vec<_> =
            self.places.range(range).filter(|(_, at)| **at <= end.at).map(|(place, _)| *place).collect();
        for place in ended {
            self.places.remove(&place);
            self.held.end(place.3, end.at);
        }
    }

    /// Appends those whose latency is known, or is not waited for any longer; in the order in which they were submitted.
    pub fn release(&mut self, out: &mut Vec<Event>) {
        self.held.release(self.now, out);
    }

    /// Appends all that are left.
    pub fn release_all(&mut self, out: &mut Vec<Event>) {
        self.held.release_all(out);
        self.places.clear();
    }
}

const fn last_byte(offset: u64, length: u64) -> u64 {
    offset.saturating_add(length).saturating_sub(1)
}

#[cfg(test)]
mod tests;
