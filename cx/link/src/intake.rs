//! What a downlink asks of the program below it: take records, say when they are durable.

use std::sync::Arc;
use std::time::Duration;

use cx_wire::{AskCode, AskError, Heartbeat, Hello, LedgerHead, Lookup, Question, Refuse, Reply, Welcome};
use tap_block::{Batch, Lsn, StreamId};
use tokio::sync::{mpsc, oneshot};

use crate::lane::Lane;
use crate::query::LookupReply;

/// A program that takes streams: a CX or a gateway.
pub trait Intake: Send + Sync {
    /// A sender wants to deliver this stream. May block: called on a thread made for that, never while another
    /// connection of the same stream is open.
    ///
    /// `Welcome::durable` must be no less than what was ever acknowledged, unless records were lost.
    ///
    /// # Errors
    /// The refusal to send.
    fn open(&self, hello: &Hello) -> Result<(Welcome, Arc<dyn StreamIntake>), Refuse>;
}

/// One stream's intake during one connection. Calls come from one task at a time: `attached`, then any of `batch`,
/// `heartbeat` and `query`, then `closed`. None of them may block.
pub trait StreamIntake: Send + Sync {
    /// The connection stands; the handle is for questions and for acknowledgements from elsewhere.
    fn attached(&self, link: DownlinkHandle);

    /// Records, valid, in order, without repetition of stream records that this process was already given (over an
    /// earlier connection, too). Copies may come twice. A jump in LSNs only at a `RunStart` of a new run, or at a
    /// `SyncStart` after a hop lost records. Queue it: the sender's credit bounds the queue.
    fn batch(&self, batch: Arc<Batch>, done: BatchDone);

    /// Where the sender stands.
    fn heartbeat(&self, heartbeat: Heartbeat);

    /// The sender wants to know what a stretch looks like here. Answer whenever it is known, from any thread; the
    /// session bounds how many are open. A program that does not say refuses, and the sender does without.
    fn query(&self, lookup: Lookup, reply: LookupReply) {
        let detail = format!("this program does not tell what {} looks like: do without", lookup.extent);
        reply.send(Err(AskError::new(AskCode::NotFound, detail)));
    }

    /// The connection is gone. Batches already given stay given: go on and call their `done`.
    fn closed(&self);
}

/// To be called once a batch is durable, from any thread, in any order; the acknowledgement is sent in order.
///
/// It outlives its connection: called after a reconnect, it acknowledges the same records to the new connection.
/// Dropped instead, it says that the batch could *not* be made durable: the connection is closed, and everything
/// after what [`Intake::open`] reports next time is sent again. A batch or two may still come before
/// [`StreamIntake::closed`]: drop theirs as well. The stream is not opened again before all have come back.
#[derive(Debug)]
pub struct BatchDone {
    lane: Option<Arc<Lane>>,
    connection: u64,
    number: u64,
}

impl BatchDone {
    pub(crate) const fn new(lane: Arc<Lane>, connection: u64, number: u64) -> Self {
        Self { lane: Some(lane), connection, number }
    }

    /// The batch is durable; so is everything up to `durable`, and up to `everywhere` at every gateway.
    pub fn durable(mut self, durable: Lsn, everywhere: Lsn) {
        if let Some(lane) = self.lane.take() {
            lane.finished(self.connection, self.number, durable, everywhere);
        }
    }
}

impl Drop for BatchDone {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.failed();
        }
    }
}

/// A question on its way to the connection's task.
pub(crate) type OpenQuestion = (Question, oneshot::Sender<Result<Reply, AskError>>);

/// One connection of a stream, seen from below.
#[derive(Debug, Clone)]
pub struct DownlinkHandle {
    lane: Arc<Lane>,
    connection: u64,
    questions: mpsc::Sender<OpenQuestion>,
}

impl DownlinkHandle {
    pub(crate) const fn new(lane: Arc<Lane>, connection: u64, questions: mpsc::Sender<OpenQuestion>) -> Self {
        Self { lane, connection, questions }
    }

    /// The stream it carries.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.lane.stream()
    }

    /// Tells the sender that everything up to `everywhere` is durable at every gateway.
    pub fn ack_everywhere(&self, everywhere: Lsn) {
        self.lane.raise(Lsn::ZERO, everywhere);
    }

    /// Tells the sender the head of the ledger here, for it to keep.
    pub fn tell_ledger(&self, head: LedgerHead) {
        self.lane.ledger(head);
    }

    /// Tells the sender the head of another ledger that is kept here.
    pub fn tell_witnessed(&self, head: LedgerHead) {
        self.lane.witnessed(head);
    }

    /// Closes the connection, if it is still this one; the sender comes back by itself.
    pub fn close(&self, reason: impl Into<String>) {
        self.lane.close(self.connection, reason.into());
    }

    /// Asks the one above and waits for its answer, at most for `limit`.
    ///
    /// # Errors
    /// The answer's own error, or that there was none in time or no connection.
    pub async fn ask(&self, question: Question, limit: Duration) -> Result<Reply, AskError> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.questions.send((question, answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(late(limit)))
    }
}

fn gone() -> AskError {
    AskError::new(
        AskCode::NotReachable,
        "the connection to the tap is down: check that the tap runs, then try again",
    )
}

fn late(limit: Duration) -> AskError {
    AskError::new(
        AskCode::Timeout,
        format!("no answer from the tap within {limit:?}: check its load, then try again"),
    )
}
