//! Whether a client that holds more than its minimum, while others wait for memory, gets on with it.

use std::task::Context;
use std::time::Duration;

use tap_block::units::count;

use crate::front::Limits;
use crate::patience::Patience;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Patience,
    /// What it has taken and sent, of what is due.
    moved: u64,
    due: u64,
}

impl Pace {
    pub(crate) fn new(in_need: Duration) -> Self {
        Self { patience: Patience::in_need(in_need), moved: 0, due: 0 }
    }

    /// The client took or sent so much.
    pub(crate) fn note_moved(&mut self, bytes: usize) {
        self.moved += count(bytes);
    }

    /// It need not hurry.
    pub(crate) fn rest(&mut self) {
        (self.moved, self.due) = (0, 0);
        self.patience.end();
    }

    /// It is the one that is waited for, and holds `held`.
    pub(crate) fn keep(&mut self, held: u64, limits: &Limits) {
        if self.moved >= self.due {
            (self.moved, self.due) = (0, limits.due_in_need(held));
            self.patience.end();
        }
        self.patience.begin();
    }

    /// Has it kept others waiting for too long?
    pub(crate) fn is_over(&mut self, cx: &mut Context<'_>, is_need: impl Fn() -> bool) -> bool {
        self.patience.is_over(cx, is_need)
    }
}
