//! Barriers of a consistency group, as one of its members sees them.
//!
//! A write gets its LSN before it is answered, so a mark that is put into every member's stream at one moment parts what was
//! answered before it from what was not: whoever wrote because of an answer wrote behind the mark. The one exception is a
//! write that is answered before its last block is completed from the disk. While a barrier waits for those to catch up, new
//! ones are answered with their LSN; nothing else waits.

use std::time::Duration;

use tap_block::{BarrierMark, Marker, WallTime};

use super::{Action, Captured, Content, Mode, Now, OpId, Position, Splitter, Standing};

/// The grain of time.
const TICK: Duration = Duration::from_nanos(1);

impl Splitter {
    /// Can a barrier's mark be put here now?
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.sync.is_some() || self.mode == Mode::Bitmap || self.lsns_left() == 0 {
            Standing::Refused
        } else if self.is_caught_up() {
            Standing::Ready
        } else {
            Standing::Behind
        }
    }

    /// The earliest time that a mark may have: later than every record before it by the same clock.
    #[must_use]
    pub fn earliest_mark(&self, now: Now) -> WallTime {
        self.head_time.plus(TICK).max(now.wall)
    }

    /// Does a barrier keep back the answer to this write? [`Action::Answer`] ends it.
    #[must_use]
    pub fn keeps_back(&self, op: OpId) -> bool {
        self.kept_back.contains(&op)
    }

    fn is_caught_up(&self) -> bool {
        self.filling.len() == self.kept_back.len()
    }

    /// The mark's time is its own: records before it are earlier, those behind it later, in each member alike.
    pub(super) fn put_barrier(&mut self, mark: BarrierMark, at: WallTime) {
        self.head = self.head.next();
        let content = Content::Mark(Marker::Barrier(mark));
        self.queue.push(Captured { position: Position::record(self.head), captured_at: at, content });
        self.head_time = at.plus(TICK);
    }

    pub(super) fn let_go(&mut self, actions: &mut Vec<Action>) {
        self.held = false;
        actions.extend(std::mem::take(&mut self.kept_back).into_iter().map(Action::Answer));
    }

    /// A write that waited for its edges has its LSN, or gets none.
    pub(super) fn filled_up(&mut self, id: OpId, actions: &mut Vec<Action>) {
        if !self.filling.remove(&id) {
            return;
        }
        if self.kept_back.remove(&id) {
            actions.push(Action::Answer(id));
        } else if self.held && self.is_caught_up() {
            actions.push(Action::CaughtUp);
        }
    }
}
