//! The two ends of one connection as state machines: what to say, what to make of what was said.
//!
//! ```text
//!   Sender                                   Receiver
//!     Hello ─────────────────────────────────►  Opened → accept / refuse
//!     Ready ◄──────────────────────── Welcome
//!     Data, Heartbeat, Answer ───────────────►  Batch, Heartbeat, Answered
//!     Acked, Asked ◄──────────────── Ack, Ask
//!     Query ─────────────────────────────────►  Queried
//!     Found ◄──────────────────── QueryReply
//! ```
//!
//! A driver hands in messages and the time (`handle_message`, `handle_timeout`) and takes out what results
//! (`poll_event`, `poll_message`, `poll_timeout`) until nothing is left. A machine lives as long as its connection.

use std::time::Duration;

use tap_block::Lsn;

use crate::codec::WireError;

mod receiver;
mod sender;
mod tail;

pub use receiver::{Given, Receiver, ReceiverEvent};
pub use sender::{Sender, SenderEvent};

/// Each end says something at least this often.
pub const KEEPALIVE: Duration = Duration::from_secs(1);
/// A peer that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(10);
/// Questions that may be open at once on a connection; one more is answered by the asker's own end with an error.
pub const MAX_ASKS: usize = 64;
/// The same for queries, which flow the other way.
pub const MAX_QUERIES: usize = 16;

/// Why a session cannot go on. The driver closes the connection; the sender connects again and resumes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A message that has no place here.
    #[error("the peer sent {0} out of turn: it does not speak this protocol")]
    Unexpected(&'static str),
    /// An acknowledgement of more than was sent, or of less than before.
    #[error("the peer acknowledged {acked} batches of {sent}")]
    Acknowledged {
        /// What it says.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// More questions at once than [`MAX_ASKS`].
    #[error("the peer asks more than {MAX_ASKS} questions at once")]
    TooManyAsks,
    /// An answer to nothing.
    #[error("the peer answered question {0}, which is not open")]
    NotAsked(u64),
    /// More queries at once than [`MAX_QUERIES`].
    #[error("the peer has more than {MAX_QUERIES} queries open at once")]
    TooManyQueries,
    /// An answer to nothing, or one that does not fit its query.
    #[error("the peer answered query {0}, which is not open or has another length")]
    NotQueried(u64),
    /// More in flight than the receiver allowed.
    #[error("the peer sent {outstanding} bytes where {credit} were allowed")]
    Credit {
        /// Bytes unacknowledged.
        outstanding: u64,
        /// Bytes allowed.
        credit: u64,
    },
    /// A batch that could never be sent.
    #[error("a batch of {weight} bytes does not fit into a message: batches must stay far below 16 MiB")]
    TooBig {
        /// Its weight.
        weight: u64,
    },
    /// A batch of another stream.
    #[error("the peer sent records of another stream")]
    WrongStream,
    /// Records are missing and nothing explains it.
    #[error("records from {due} to before {found} are missing")]
    Hole {
        /// The record due.
        due: Lsn,
        /// The record that came.
        found: Lsn,
    },
    /// Records that contradict what is there already.
    #[error(
        "the records of {run} from {found} on contradict the history here, which reaches {last}: two taps wrote \
         this stream; stop one of them"
    )]
    SplitHistory {
        /// The run that claims them.
        run: tap_block::RunId,
        /// The first record claimed.
        found: Lsn,
        /// The last record here.
        last: Lsn,
    },
    /// Records of an epoch that is over.
    #[error("records of {found} came after {current}: another site has taken over")]
    Fenced {
        /// Their epoch.
        found: tap_block::Epoch,
        /// The epoch in force.
        current: tap_block::Epoch,
    },
    /// A batch that breaks the rules of batches.
    #[error(transparent)]
    Wire(#[from] WireError),
}

#[cfg(test)]
mod tests;
