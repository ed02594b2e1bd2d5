//! What outlives a connection of a stream: which records its intake has, and which of them are durable.
//!
//! A sender that reconnects sends again everything that is not durable. Part of that may still lie in the
//! intake's queue, given by the connection before. The lane remembers it, so that the intake sees every stream
//! record once and the new connection acknowledges what the old one delivered.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cx_wire::{Given, LedgerHead};
use tap_block::{Lsn, RunId, StreamId};
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// Runs whose end is remembered; more than a few wait for nothing but a dead disk below.
const RUNS_REMEMBERED: usize = 64;

/// Why a connection ends whose records were lost below.
pub(crate) const FAILED: &str = "records could not be made durable here: see this program's log";

/// One stream's place in a downlink.
#[derive(Debug)]
pub(crate) struct Lane {
    stream: StreamId,
    inner: Mutex<Inner>,
    wake: Notify,
    /// Held by the connection that is being served.
    turn: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The connection in force; completions of older ones only move `durable`.
    connection: u64,
    /// The stream records given to the intake in this process: the last of each run, oldest first.
    given: Vec<Given>,
    durable: Lsn,
    everywhere: Lsn,
    /// Batches of the present connection that became durable since the last [`Lane::take`].
    finished: Vec<u64>,
    /// Why the present connection must end.
    close: Option<String>,
    /// The head of the ledger below that the sender is to be told.
    ledger: Option<LedgerHead>,
    /// The head of another ledger, kept below, that the sender is to be told.
    witnessed: Option<LedgerHead>,
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
    pub(crate) ledger: Option<LedgerHead>,
    pub(crate) witnessed: Option<LedgerHead>,
}

impl Lane {
    pub(crate) fn new(stream: StreamId) -> Self {
        Self { stream, inner: Mutex::default(), wake: Notify::new(), turn: AsyncMutex::default() }
    }

    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    /// For the connection in force: something happened, see [`Lane::take`].
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// One connection at a time.
    pub(crate) const fn turn(&self) -> &AsyncMutex<()> {
        &self.turn
    }

    pub(crate) fn is_current(&self, connection: u64) -> bool {
        self.lock().connection == connection
    }

    /// Until every batch of a broken lane has come back.
    pub(crate) async fn settled(&self) {
        while !self.is_settled() {
            self.changed().await;
        }
    }

    /// A new connection, known by the number given back; one that is open is told to close.
    pub(crate) fn begin(&self) -> u64 {
        let mut inner = self.lock();
        inner.connection += 1;
        inner.finished.clear();
        inner.close = None;
        let connection = inner.connection;
        drop(inner);
        self.wake.notify_one();
        connection
    }

    fn is_settled(&self) -> bool {
        let mut inner = self.lock();
        if inner.broken && inner.open == 0 {
            inner.broken = false;
            inner.given.clear();
        }
        !inner.broken
    }

    /// What is durable; an intake that then reports less has lost records.
    pub(crate) fn floor(&self) -> Lsn {
        self.lock().durable
    }

    /// The records given to the intake by earlier connections, which it needs not get again: its `durable` moves
    /// past them by itself. `floor` was taken before the intake was asked for `durable`.
    pub(crate) fn resume(&self, floor: Lsn, durable: Lsn) -> Vec<Given> {
        let mut inner = self.lock();
        if durable < floor {
            inner.given.clear();
            inner.durable = durable;
        }
        inner.durable = inner.durable.max(durable);
        inner.given.retain(|run| run.last > durable);
        inner.given.clone()
    }

    /// Was nothing ever taken here?
    pub(crate) fn is_unused(&self) -> bool {
        let inner = self.lock();
        inner.given.is_empty() && inner.open == 0 && inner.durable == Lsn::ZERO
    }

    /// The intake is about to get a batch that ends at `last`; false when it must not, since it lost one before.
    pub(crate) fn give(&self, run: RunId, last: Option<Lsn>) -> bool {
        let mut inner = self.lock();
        if inner.broken {
            return false;
        }
        inner.open += 1;
        let Some(last) = last else { return true };
        match inner.given.last_mut() {
            Some(newest) if newest.run == run => newest.last = newest.last.max(last),
            _ => inner.given.push(Given { run, last }),
        }
        if inner.given.len() > RUNS_REMEMBERED {
            inner.given.remove(0);
        }
        true
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
        inner.close = Some(FAILED.to_owned());
        drop(inner);
        self.wake.notify_one();
    }

    pub(crate) fn raise(&self, durable: Lsn, everywhere: Lsn) {
        raise(&mut self.lock(), durable, everywhere);
        self.wake.notify_one();
    }

    pub(crate) fn ledger(&self, head: LedgerHead) {
        self.lock().ledger = Some(head);
        self.wake.notify_one();
    }

    pub(crate) fn witnessed(&self, head: LedgerHead) {
        self.lock().witnessed = Some(head);
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
            ledger: inner.ledger.take(),
            witnessed: inner.witnessed.take(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: RunId = RunId::new(1);
    const B: RunId = RunId::new(2);

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n).unwrap()
    }

    fn lane() -> Lane {
        Lane::new(StreamId::new(1))
    }

    #[test]
    fn a_new_connection_resumes_behind_what_was_given() {
        let lane = lane();
        let first = lane.begin();
        assert!(lane.give(A, Some(lsn(5))) && lane.give(B, Some(lsn(9))));
        lane.finished(first, 0, lsn(5), Lsn::ZERO);
        let (floor, second) = (lane.floor(), lane.begin());
        assert_eq!(lane.resume(floor, lsn(5)), [Given { run: B, last: lsn(9) }]);
        lane.finished(first, 1, lsn(9), lsn(9));
        let news = lane.take(second);
        assert_eq!((news.finished.len(), news.durable, news.everywhere), (0, lsn(9), lsn(9)));
        assert!(lane.take(first).close.is_some(), "the first was replaced");
    }

    #[test]
    fn an_intake_that_lost_records_gets_them_again() {
        let lane = lane();
        let first = lane.begin();
        assert!(lane.give(A, Some(lsn(9))));
        lane.finished(first, 0, lsn(9), Lsn::ZERO);
        assert_eq!(lane.resume(lane.floor(), lsn(4)), []);
        assert_eq!(lane.floor(), lsn(4));
    }

    #[test]
    fn a_failed_batch_breaks_the_lane_until_all_are_back() {
        let lane = lane();
        let connection = lane.begin();
        assert!(lane.give(A, Some(lsn(5))) && lane.give(A, Some(lsn(6))));
        lane.failed();
        assert!(!lane.give(A, Some(lsn(7))), "nothing goes into a hole");
        assert_eq!(lane.take(connection).close.as_deref(), Some(FAILED));
        assert!(!lane.is_settled());
        lane.failed();
        assert!(lane.is_settled());
        assert_eq!(lane.resume(lane.floor(), Lsn::ZERO), []);
    }

    #[test]
    fn strangers_leave_nothing() {
        let lane = lane();
        assert!(lane.is_unused());
        assert!(lane.give(A, None));
        assert!(!lane.is_unused());
    }
}
