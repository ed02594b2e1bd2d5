//! The source's clock, told from the one that only counts seconds: where it was set, back or ahead, a record says so, and times go
//! on from there by the clock as it is. Without that record the time of the stream would stand still after a jump back, and after
//! one ahead nobody could tell it from an hour without a write.

use std::time::Duration;

use tap_block::{Marker, Monotonic, SyncCause, WallTime};

use super::{Now, Splitter, Sync};

/// A smaller jump is none: time stands still for as long, or runs on. It is above a leap second.
const LEAST_JUMP: Duration = Duration::from_secs(2);
/// A clock that is set all the time gets no more records than this lets it; until the next, time stands still when it goes back.
const APART: Duration = Duration::from_secs(60);
/// So many may follow each other at once.
const AT_ONCE: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct SourceClock {
    /// Both clocks when it was last known to be right.
    then: Now,
    /// How many jumps may be told before [`APART`] counts, and since when.
    left: u32,
    since: Monotonic,
}

impl SourceClock {
    pub(super) fn new(now: Now) -> Self {
        Self { then: now, left: AT_ONCE, since: now.monotonic }
    }

    /// What it would show now if nobody had set it, when somebody did; `head` is the time of the last record.
    fn set(&self, now: Now, head: WallTime) -> Option<WallTime> {
        let due = self.then.wall.plus(now.monotonic.since(self.then.monotonic)).max(head);
        let apart = due.since(now.wall).max(now.wall.since(due));
        let may = self.left > 0 || now.monotonic.since(self.since) >= APART;
        (apart > LEAST_JUMP && may).then_some(due)
    }

    fn follow(&mut self, now: Now) {
        let earned = now.monotonic.since(self.since).as_secs() / APART.as_secs();
        let earned = u32::try_from(earned).unwrap_or(AT_ONCE);
        if earned > 0 {
            self.since = now.monotonic;
        }
        self.left = self.left.saturating_add(earned).min(AT_ONCE).saturating_sub(1);
        self.then = now;
    }
}

impl Splitter {
    /// What the clock would show, when it was set and that can be recorded now.
    fn clock_was_set(&self, now: Now) -> Option<WallTime> {
        // To a peer that does not know the record it looks like the end of such a sync.
        let refused = |sync: &Sync| sync.owed || sync.cause == SyncCause::FailedWrite;
        let may = self.lsns_left() > 1 && !self.sync.as_ref().is_some_and(refused);
        self.clock.set(now, self.head_time).filter(|_| may)
    }

    pub(super) fn note_clock(&mut self, now: Now) {
        let Some(before) = self.clock_was_set(now) else { return };
        self.clock.follow(now);
        self.head_time = now.wall;
        self.mark(Marker::ClockSet { before }, now);
    }
}
