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

/// Items that are not for a consumer: from a hole in its history to the sync that heals it, or to where the queue had to
/// give them up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Skip {
    pub(crate) from: ItemNo,
    pub(crate) to: ItemNo,
}

/// A history that broke off. What lies behind the hole stays in the queue: it is acknowledged to the source only when it
/// is on disk, so that a hole that was none costs nothing and a true one is a gap and no more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken {
    /// The first item behind it.
    pub(crate) at: ItemNo,
    /// The last record before the hole.
    pub(crate) after: Lsn,
    /// Nothing but a sync of everything ends it, whatever comes next.
    pub(crate) until_healed: bool,
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
    pub(crate) broken: Option<Broken>,
    /// Ascending; none is behind `acked`.
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

    /// Moves both cursors over what is not for this consumer. What was sent before a hole still has to be acknowledged
    /// before anything behind it counts.
    pub(crate) fn pass(&mut self) {
        for skip in &self.skips {
            if skip.from <= self.next && self.next < skip.to {
                self.next = skip.to;
            }
        }
        while let Some(skip) = self.skips.pop_front_if(|skip| skip.from <= self.acked) {
            self.acked = self.acked.max(skip.to);
        }
    }

    /// One more item is durable there.
    pub(crate) fn acked_one(&mut self) {
        if self.acked < self.next {
            self.acked = self.acked.next();
            self.pass();
        }
    }

    /// The next item is durable there without having been sent on this connection.
    pub(crate) fn has_next(&mut self) {
        self.next = self.next.next();
        self.acked = self.next;
        self.pass();
    }

    /// A sync of everything begins at `to`: the consumer goes on there once it was sent what lies before the hole.
    pub(crate) fn heal(&mut self, to: ItemNo) {
        if let Some(broken) = self.broken.take() {
            self.skip(broken.at, to);
        }
    }

    /// There is no room to keep what lies behind the hole: the items before `end` are let go.
    pub(crate) fn give_up(&mut self, end: ItemNo) {
        if let Some(broken) = &mut self.broken {
            let from = std::mem::replace(&mut broken.at, end);
            broken.until_healed = true;
            self.skip(from, end);
        }
    }

    /// From `from` to `to` nothing is for this consumer.
    pub(crate) fn skip(&mut self, from: ItemNo, to: ItemNo) {
        self.clear_window();
        // After a reconnect one may begin before those that lie ahead still.
        let at = self.skips.partition_point(|skip| skip.from <= from);
        self.skips.insert(at, Skip { from, to });
        self.pass();
    }

    /// Sends again from the first item that is not acknowledged. A hole stays, unless the consumer now has
    /// `everything`.
    pub(crate) fn restart(&mut self, everything: bool) {
        if everything {
            self.skips.clear();
            self.broken = None;
        }
        self.clear_window();
        self.next = self.acked;
        self.pass();
    }

    /// Sends again from `first` on, acknowledged or not.
    pub(crate) fn restart_at(&mut self, first: ItemNo) {
        self.acked = first;
        self.restart(true);
    }
}
