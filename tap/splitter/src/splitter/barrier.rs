//! Barriers of a consistency group, as one of its members sees them.
//!
//! A write gets its LSN before it is answered, so a mark that is put into every member's stream at one moment parts what was
//! answered before it from what was not: whoever wrote because of an answer wrote behind the mark.

use std::time::Duration;

use tap_block::{BarrierMark, Marker, WallTime};

use super::{Captured, Content, Mode, Now, Position, Splitter};

/// The grain of time.
const TICK: Duration = Duration::from_nanos(1);

impl Splitter {
    /// Can a barrier's mark be put here now? Not while a sync is open: no point in it is a disk that ever was.
    #[must_use]
    pub fn takes_marks(&self) -> bool {
        self.sync.is_none() && self.mode == Mode::Streaming && self.lsns_left() > 0
    }

    /// The earliest time that a mark may have: later than every record before it by the same clock.
    #[must_use]
    pub fn earliest_mark(&self, now: Now) -> WallTime {
        self.head_time.plus(TICK).max(now.wall)
    }

    /// The mark's time is its own: records before it are earlier, those behind it later, in each member alike.
    pub(super) fn put_barrier(&mut self, mark: BarrierMark, at: WallTime) {
        self.head = self.head.next();
        let content = Content::Mark(Marker::Barrier(mark));
        self.queue.push(Captured { position: Position::record(self.head), captured_at: at, content });
        self.head_time = at.plus(TICK);
    }
}
