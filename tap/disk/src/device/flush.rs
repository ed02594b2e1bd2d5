//! Syncs of a device: one runs at a time, and everybody who asks meanwhile shares the next one.

use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tap_block::{DeviceError, Outcome, Ticket};

use super::Disk;
use crate::sync;

/// Who waits for a sync. As many as the clients have operations in flight, which the fronts bound.
#[derive(Debug, Default)]
pub(super) struct Flusher {
    state: Mutex<State>,
    /// Why a sync failed, once one has. The kernel reports lost pages once and then forgets them, so no
    /// later success means anything.
    failed: OnceLock<DeviceError>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Ticket>,
    running: bool,
}

impl Flusher {
    /// Puts `ticket` into the next sync. `true`: the caller has to see to it that
    /// [`Disk::run_flushes`] runs.
    pub(super) fn join(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        state.waiting.push(ticket);
        !std::mem::replace(&mut state.running, true)
    }

    /// Those who wait now; `None`, and nobody is running any more, when there are none.
    pub(super) fn next(&self) -> Option<Vec<Ticket>> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return None;
        }
        Some(std::mem::take(&mut state.waiting))
    }

    /// Does nobody wait? Then nobody is running any more.
    pub(super) fn is_done(&self) -> bool {
        let mut state = self.lock();
        state.running = !state.waiting.is_empty();
        !state.running
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Syncs until nobody waits for one. All who joined before a sync began had their writes done by then,
    /// so it covers them.
    pub(super) fn run_flushes(&self) {
        while let Some(tickets) = self.flusher.next() {
            self.sync_for(tickets);
        }
    }

    /// Syncs once. `false`: others have joined meanwhile, and the caller has to see to it that
    /// [`run_flushes`](Self::run_flushes) runs.
    pub(super) fn run_one_flush(&self) -> bool {
        let Some(tickets) = self.flusher.next() else { return true };
        self.sync_for(tickets);
        self.flusher.is_done()
    }

    pub(super) fn sync_for(&self, tickets: Vec<Ticket>) {
        let outcome = self.sync();
        for ticket in tickets {
            ticket.complete(outcome.clone());
        }
    }

    fn sync(&self) -> Outcome {
        if self.read_only {
            return Ok(Bytes::new());
        }
        if let Some(earlier) = self.flusher.failed.get() {
            return Err(earlier.clone());
        }
        self.check_size().map_err(|e| self.failed("flush", &e))?;
        sync::data(&self.file).map(|()| Bytes::new()).map_err(|e| self.sync_failed(&e))
    }

    pub(super) fn sync_failed(&self, e: &io::Error) -> DeviceError {
        let error = match self.failed("flush", e) {
            DeviceError::Io(text) => DeviceError::Io(format!(
                "{text}; writes since the last flush may be lost: check the disk, then start again"
            )),
            other => other,
        };
        self.flusher.failed.get_or_init(|| error).clone()
    }
}
