//! One receiver below: how far it was sent to, how far it is durable, what was read back for it.

use std::collections::VecDeque;
use std::sync::Arc;

use tap_block::{Batch, Lsn};

use crate::item::{ItemNo, Reached};

/// A consumer's place in its outbox: the order in which they were added, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerNo(usize);

impl ConsumerNo {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: usize) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0
    }
}

/// Records that a consumer has not got and that nobody can send again: its history breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Who misses them.
    pub consumer: ConsumerNo,
    /// The last record it has.
    pub after: Lsn,
}

/// A consumer as shown in a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerView {
    /// It is connected.
    pub attached: bool,
    /// Up to here it is durable, as it said last.
    pub durable: Lsn,
    /// Up to here everything is durable at every gateway below it, as it said last.
    pub everywhere: Lsn,
    /// Bytes it has not acknowledged yet.
    pub pending_bytes: u64,
    /// Its history broke off after this LSN; nothing is sent until a sync of everything begins.
    pub broken_after: Option<Lsn>,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) attached: bool,
    /// The next item to send.
    pub(crate) next: ItemNo,
    /// Every item below is durable there.
    pub(crate) acked: ItemNo,
    /// The last record it has been sent on this connection or said to have.
    pub(crate) position: Lsn,
    pub(crate) durable: Reached,
    pub(crate) everywhere: Lsn,
    pub(crate) broken: Option<Lsn>,
    /// Read back from disk: consecutive items from `next` on.
    pub(crate) window: VecDeque<(ItemNo, Arc<Batch>)>,
    pub(crate) window_bytes: u64,
    pub(crate) loading: bool,
    /// Tells results of loads asked for before a rewind.
    pub(crate) turn: u64,
}

impl Consumer {
    pub(crate) const fn new(start: ItemNo, durable: Reached) -> Self {
        Self {
            attached: false,
            next: start,
            acked: start,
            position: Lsn::ZERO,
            durable,
            everywhere: Lsn::ZERO,
            broken: None,
            window: VecDeque::new(),
            window_bytes: 0,
            loading: false,
            turn: 0,
        }
    }

    /// Forgets what was read back, and results still to come.
    pub(crate) fn clear_window(&mut self) {
        self.window.clear();
        self.window_bytes = 0;
        self.loading = false;
        self.turn += 1;
    }

    /// The item after the last one read back.
    pub(crate) fn window_end(&self) -> ItemNo {
        self.window.back().map_or(self.next, |(no, _)| no.next()).max(self.next)
    }

    /// Takes `no` out of the window, and whatever stands before it.
    pub(crate) fn take_from_window(&mut self, no: ItemNo) -> Option<Arc<Batch>> {
        while let Some((found, batch)) = self.window.pop_front_if(|(found, _)| *found <= no) {
            self.window_bytes = self.window_bytes.saturating_sub(batch.weight());
            if found == no {
                return Some(batch);
            }
        }
        None
    }

    /// Moves both cursors: everything below `to` is this consumer's no more.
    pub(crate) fn skip_to(&mut self, to: ItemNo) {
        self.clear_window();
        self.next = to;
        self.acked = to;
    }
}
