//! What a session may hold in memory, whatever its limits are: a task for which there is not enough waits before it is given room,
//! and those that have room never wait for more. So each of them ends when the disk and the initiator do their part, and gives back
//! what the next one waits for.
//!
//! Counted is what tasks have room for, and answers until their last byte is written. What comes unasked of tasks that have no
//! room yet is not: it has a limit of its own, and to wait for memory for it would be to wait while one holds some.

use tap_block::{Output, Unread};

use super::Session;
use super::task::Task;

/// See the module.
#[derive(Debug)]
pub(super) struct Memory {
    allowed: u64,
    /// What would be held with the next task, which waits because that is more than is allowed.
    short: Option<u64>,
    unread: Unread,
    /// What was under way when the session ended.
    pub(super) left: Vec<(u64, u64)>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { allowed: u64::MAX, short: None, unread: Unread::default(), left: Vec::new() }
    }
}

impl Memory {
    /// What is new in `output` is an answer.
    pub(super) fn note(&mut self, output: &Output) {
        self.unread.note(output);
    }

    /// May so much be held in all?
    pub(super) fn has(&mut self, total: u64) -> bool {
        self.short = (total > self.allowed).then_some(total);
        self.short.is_none()
    }

    /// Nothing waits, as far as is known.
    pub(super) const fn settle(&mut self) {
        self.short = None;
    }
}

impl Session {
    pub(crate) fn allow(&mut self, bytes: u64) {
        self.memory.allowed = bytes;
    }

    pub(crate) fn lacks(&self) -> Option<u64> {
        self.memory.short.filter(|_| !self.ended)
    }

    pub(crate) fn held(&mut self, output: &Output) -> u64 {
        self.memory.unread.note(output);
        self.reserved + self.memory.unread.held(output)
    }

    /// Has it asked for data that has not come?
    pub(crate) fn awaits_data(&self) -> bool {
        self.tasks.values().any(|task| task.reserved > 0 && !task.out.is_whole())
    }

    /// What it waits for, by the tags of the tickets, with the bytes that it may hold.
    pub(crate) fn under_way(&self) -> Vec<(u64, u64)> {
        if self.ended {
            return self.memory.left.clone();
        }
        self.tasks.values().flat_map(parts).collect()
    }
}

/// A task's operations, each with an equal part of what it holds.
fn parts(task: &Task) -> impl Iterator<Item = (u64, u64)> {
    let holds = task.reserved.max(u64::from(task.out.wanted));
    let part = holds.div_ceil(tap_block::units::count(task.tags().count()).max(1));
    task.tags().map(move |tag| (tag, part))
}
