//! What outlives a connection of a stream: which records its intake has, and which of them are durable.
//!
//! A sender that reconnects sends again everything that is not durable. Part of that may still lie in the
//! intake's queue, given by the connection before. The lane remembers it, so that the intake sees every stream
//! record once and the new connection acknowledges what the old one delivered.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tap_block::{Lsn, RunId, StreamId};
use tokio::sync::Notify;

/// One stream's place in a downlink.
#[derive(Debug)]
pub(crate) struct Lane {
    stream: StreamId,
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The connection in force; completions of older ones only move `durable`.
    connection: u64,
    /// The last stream record given to the intake in this process.
    given: Option<(RunId, Lsn)>,
    durable: Lsn,
    everywhere: Lsn,
    /// Batches of the present connection that became durable since the last [`Lane::take`].
    finished: Vec<u64>,
    /// Why the present connection must end.
    close: Option<String>,
    /// Batches given and neither durable nor failed.
    open: u64,
    /// The intake lost a batch: what it was given counts for nothing.
    broken: bool,
}

/// What happened since the last look.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) finished: Vec<u64>,
    pub(crate) durable: Lsn,
    pub(crate) everywhere: Lsn,
    pub(crate) close: Option<String>,
}

impl Lane {
    pub(crate) fn new(stream: StreamId) -> Self {
        Self { stream, inner: Mutex::default(), wake: Notify::new() }
    }

    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    pub(crate) const fn wake(&self) -> &Notify {
        &self.wake
    }

    /// A new connection, known by the number given back; whatever was open before is of the past. Also what was
    /// durable so far: an intake that then reports less has lost records.
    pub(crate) fn begin(&self) -> (u64, Lsn) {
        let mut inner = self.lock();
        inner.connection += 1;
        inner.finished.clear();
        inner.close = None;
        (inner.connection, inner.durable)
    }

    /// Have all the batches of a broken lane come back? Until then a new connection has to wait.
    pub(crate) fn is_settled(&self) -> bool {
        let mut inner = self.lock();
        if inner.broken && inner.open == 0 {
            (inner.broken, inner.given) = (false, None);
        }
        !inner.broken
    }

    /// The last record given to the intake by earlier connections, which it needs not get again: its `durable`
    /// moves past it by itself. `floor` is what [`Lane::begin`] said, `durable` what the intake says now.
    pub(crate) fn resume(&self, floor: Lsn, durable: Lsn) -> Option<(RunId, Lsn)> {
        let mut inner = self.lock();
        if durable < floor {
            (inner.given, inner.durable) = (None, durable);
        }
        inner.durable = inner.durable.max(durable);
        inner.given.filter(|&(_, lsn)| lsn > durable)
    }

    /// The intake is about to get a batch that ends at `last`.
    pub(crate) fn give(&self, run: RunId, last: Option<Lsn>) {
        let mut inner = self.lock();
        inner.open += 1;
        if let Some(last) = last {
            inner.given = Some((run, last));
        }
    }

    pub(crate) fn finished(&self, connection: u64, number: u64, durable: Lsn, everywhere: Lsn) {
        let mut inner = self.lock();
        inner.open = inner.open.saturating_sub(1);
        if connection == inner.connection && !inner.broken {
            inner.finished.push(number);
        }
        raise(&mut inner, durable, everywhere);
        drop(inner);
        self.wake.notify_one();
    }

    pub(crate) fn failed(&self) {
        let mut inner = self.lock();
        inner.open = inner.open.saturating_sub(1);
        inner.broken = true;
        inner.close = Some("records could not be made durable here: see this program's log".to_owned());
        drop(inner);
        self.wake.notify_one();
    }

    pub(crate) fn raise(&self, durable: Lsn, everywhere: Lsn) {
        raise(&mut self.lock(), durable, everywhere);
        self.wake.notify_one();
    }

    pub(crate) fn close(&self, connection: u64, reason: String) {
        let mut inner = self.lock();
        if connection == inner.connection {
            inner.close = Some(reason);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// What `connection` has to act on; one that was replaced is told to close.
    pub(crate) fn take(&self, connection: u64) -> News {
        let mut inner = self.lock();
        if connection != inner.connection {
            let close = Some("another connection of the same stream took its place".to_owned());
            return News { close, ..News::default() };
        }
        News {
            finished: std::mem::take(&mut inner.finished),
            durable: inner.durable,
            everywhere: inner.everywhere,
            close: inner.close.take(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(inner: &mut Inner, durable: Lsn, everywhere: Lsn) {
    inner.durable = inner.durable.max(durable);
    inner.everywhere = inner.everywhere.max(everywhere);
}
