//! One receiver below: how far it was sent to, how far it is durable, what was read back for it.

use std::collections::VecDeque;
use std::sync::Arc;

use tap_block::{Batch, Lsn, Monotonic};

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

/// Items that are not for a consumer: from the hole in its history to the sync that heals it, or to whatever comes
/// while that is still awaited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Skip {
    pub(crate) from: ItemNo,
    pub(crate) to: Option<ItemNo>,
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
    /// When it last acknowledged an item.
    pub(crate) progress_at: Monotonic,
    pub(crate) durable: Reached,
    pub(crate) everywhere: Lsn,
    pub(crate) broken: Option<Lsn>,
    /// In order; none is behind `acked`, the last one alone may be open.
    pub(crate) skips: VecDeque<Skip>,
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
            progress_at: Monotonic::from_nanos(0),
            durable,
            everywhere: Lsn::ZERO,
            broken: None,
            skips: VecDeque::new(),
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

    /// Moves both cursors over what is not for this consumer; `end` is the number of the next item to come. What was
    /// sent before a hole still has to be acknowledged before anything behind it counts.
    pub(crate) fn pass(&mut self, end: ItemNo) {
        for skip in &self.skips {
            let to = skip.to.unwrap_or(end);
            if skip.from <= self.next && self.next < to {
                self.next = to;
            }
        }
        while let Some(skip) = self.skips.front().copied().filter(|skip| skip.from <= self.acked) {
            self.acked = self.acked.max(skip.to.unwrap_or(end));
            if skip.to.is_none() {
                break;
            }
            self.skips.pop_front();
        }
    }

    /// One more item is durable there.
    pub(crate) fn acked_one(&mut self, end: ItemNo) {
        if self.acked < self.next {
            self.acked = self.acked.next();
            self.pass(end);
        }
    }

    /// From `next` on nothing is for this consumer, up to the healing sync `to` or until one comes.
    pub(crate) fn skip(&mut self, to: Option<ItemNo>, end: ItemNo) {
        self.clear_window();
        self.skips.push_back(Skip { from: self.next, to });
        self.pass(end);
    }

    /// A sync of everything begins at `no`: the consumer goes on there.
    pub(crate) fn heal(&mut self, no: ItemNo) {
        self.broken = None;
        if let Some(skip) = self.skips.back_mut() {
            skip.to = Some(no);
        }
    }

    /// Sends again from the first item that is not acknowledged. A hole that lies ahead again will be found again; one
    /// that was passed stays, unless the consumer now has `everything`.
    pub(crate) fn restart(&mut self, everything: bool) {
        let passed = self.skips.front().is_some_and(|skip| skip.to.is_none() && skip.from <= self.acked);
        if everything || !passed {
            self.skips.clear();
            self.broken = None;
        }
        self.clear_window();
        self.next = self.acked;
    }

    /// Sends again from `first` on, acknowledged or not.
    pub(crate) fn restart_at(&mut self, first: ItemNo) {
        self.acked = first;
        self.restart(true);
    }
}
