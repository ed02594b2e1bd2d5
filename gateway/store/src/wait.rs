//! Waiting for a record to become durable.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tap_block::{Lsn, StreamId};

use crate::sync::lock;

type Call = Box<dyn FnOnce() + Send>;

/// Who waits for what.
#[derive(Default)]
pub(crate) struct Waiters {
    list: Arc<Mutex<Vec<Waiter>>>,
    next: AtomicU64,
}

struct Waiter {
    id: u64,
    stream: StreamId,
    lsn: Lsn,
    call: Call,
}

/// The right to be called; dropping it calls the call off.
#[must_use]
pub struct Waiting {
    id: u64,
    list: Weak<Mutex<Vec<Waiter>>>,
}

impl Waiters {
    pub(crate) fn add(&self, stream: StreamId, lsn: Lsn, call: Call) -> Waiting {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.list).push(Waiter { id, stream, lsn, call });
        Waiting { id, list: Arc::downgrade(&self.list) }
    }

    /// `lsn` of `stream` is durable.
    pub(crate) fn reached(&self, stream: StreamId, lsn: Lsn) {
        let due: Vec<Waiter> = {
            let mut list = lock(&self.list);
            list.extract_if(.., |w| w.stream == stream && w.lsn <= lsn).collect()
        };
        due.into_iter().for_each(|waiter| (waiter.call)());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(list) = self.list.upgrade() {
            lock(&list).retain(|waiter| waiter.id != self.id);
        }
    }
}
