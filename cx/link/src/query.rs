//! Queries, which go from above to below: asked through an uplink, answered by a stream's intake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cx_wire::{AskCode, AskError, Hashes, Lookup, QueryReply};
use tokio::sync::{mpsc, oneshot};

/// What came of a query.
pub type Found = Result<Hashes, AskError>;

/// A query on its way to the connection's task.
pub(crate) type OpenQuery = (Lookup, oneshot::Sender<Found>);

/// Asks the receiver of an uplink. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Querier {
    /// The connection that stands.
    open: Arc<Mutex<Option<mpsc::Sender<OpenQuery>>>>,
}

impl Querier {
    /// Asks what a stretch looks like below and waits for the answer, at most for `limit`.
    ///
    /// # Errors
    /// The answer's own error, or that there was none in time or no connection.
    pub async fn query(&self, lookup: Lookup, limit: Duration) -> Found {
        let connection = self.lock().clone().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            connection.send((lookup, answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(late(limit)))
    }

    pub(crate) fn open(&self, connection: mpsc::Sender<OpenQuery>) {
        *self.lock() = Some(connection);
    }

    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<OpenQuery>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone() -> AskError {
    AskError::new(
        AskCode::NotReachable,
        "the connection to the receiver is down: check that it runs, then try again",
    )
}

fn late(limit: Duration) -> AskError {
    AskError::new(
        AskCode::Timeout,
        format!("no answer from the receiver within {limit:?}: check its load, then try again"),
    )
}

/// The way back for the answer to one query. Dropping it unanswered answers [`AskCode::Failed`].
#[derive(Debug)]
pub struct LookupReply {
    id: u64,
    replies: Option<mpsc::Sender<QueryReply>>,
}

impl LookupReply {
    /// `replies` has room for every query that may be open at once, so an answer never waits.
    pub(crate) const fn new(id: u64, replies: mpsc::Sender<QueryReply>) -> Self {
        Self { id, replies: Some(replies) }
    }

    /// Answers. When the connection has gone meanwhile, the answer is for nobody.
    pub fn send(mut self, result: Found) {
        self.finish(result);
    }

    fn finish(&mut self, result: Found) {
        if let Some(replies) = self.replies.take()
            && replies.try_send(QueryReply { id: self.id, result }).is_err()
        {
            tracing::debug!(id = self.id, "the connection of a query went before its answer");
        }
    }
}

impl Drop for LookupReply {
    fn drop(&mut self) {
        if self.replies.is_some() {
            let detail = "the query was dropped without an answer: ask again";
            self.finish(Err(AskError::new(AskCode::Failed, detail)));
        }
    }
}
