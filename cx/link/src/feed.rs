//! What an uplink asks of the program above it: the records to send, and what to do with what comes back.

use std::sync::Arc;

use cx_wire::{Answer, AskCode, AskError, Heartbeat, LedgerHead, Question, Refuse, Reply, Welcome};
use tap_block::{Batch, Lsn};
use tokio::sync::{Notify, mpsc};

/// The source of one stream's records towards one receiver, and the place its acknowledgements go to.
///
/// Calls come from one task at a time, in this order: `ready`, then any of `next`, `acked`, `heartbeat` and
/// `ask`, then `lost`, then perhaps `ready` again. None of them may block: a lock held for microseconds is fine,
/// a read from a disk is not (answer `None` from `next`, and call `changed` when the item is there).
pub trait Feed: Send + Sync {
    /// A connection stands. From here on `next` starts behind the last item that the receiver has: skip items up
    /// to and including the last one whose `last_lsn` is at or below `welcome.durable`; everything after it is
    /// sent again, copies included.
    ///
    /// # Errors
    /// For people: why the records the receiver needs cannot be sent. The connection is given up and tried anew.
    fn ready(&self, welcome: &Welcome) -> Result<(), String>;

    /// The next batch; `None` when there is nothing to send now.
    fn next(&self) -> Option<Arc<Batch>>;

    /// Notified (`notify_one`) whenever `next` may have something again.
    fn changed(&self) -> &Notify;

    /// `batches` more items, in the order in which `next` gave them since `ready`, are durable below. Also called
    /// with 0 when only `durable` or `everywhere` moved.
    fn acked(&self, batches: u64, durable: Lsn, everywhere: Lsn);

    /// The connection is gone; items given but not acknowledged will be asked for again after the next `ready`.
    fn lost(&self);

    /// Where the sender stands now; asked for each second and once after each `ready`.
    fn heartbeat(&self) -> Heartbeat;

    /// The receiver asks. Answer whenever it is known, from any thread.
    fn ask(&self, question: Question, reply: AskReply);

    /// The head of the receiver's ledger, to be kept for it. Whoever keeps none lets it go.
    fn ledger(&self, head: LedgerHead) {
        let _ = head;
    }

    /// The head of another receiver's ledger, which this one keeps as well.
    fn witnessed(&self, head: LedgerHead) {
        let _ = head;
    }

    /// The receiver refused this stream. The uplink tries again, slowly, until it is stopped.
    fn refused(&self, refuse: &Refuse) {
        let _ = refuse;
    }
}

/// The way back for the answer to one question. Dropping it unanswered answers [`AskCode::Failed`].
#[derive(Debug)]
pub struct AskReply {
    id: u64,
    answers: Option<mpsc::Sender<Answer>>,
}

impl AskReply {
    /// `answers` has room for every question that may be open at once, so an answer never waits.
    pub(crate) const fn new(id: u64, answers: mpsc::Sender<Answer>) -> Self {
        Self { id, answers: Some(answers) }
    }

    /// Answers. When the connection has gone meanwhile, the answer is for nobody.
    pub fn send(mut self, result: Result<Reply, AskError>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<Reply, AskError>) {
        if let Some(answers) = self.answers.take()
            && answers.try_send(Answer { id: self.id, result }).is_err()
        {
            tracing::debug!(id = self.id, "the connection of a question went before its answer");
        }
    }
}

impl Drop for AskReply {
    fn drop(&mut self) {
        if self.answers.is_some() {
            let detail = "the question was dropped without an answer: ask again";
            self.finish(Err(AskError::new(AskCode::Failed, detail)));
        }
    }
}
