//! What one end says to the other, as plain values. How they look as bytes is `codec`'s business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tap_block::{
    Batch, BlockNo, Consistency, Epoch, Extent, Lsn, Name, RunId, StreamId, SyncCause, VolumeId, WallTime,
};

/// The protocol this crate speaks. A peer with another number is refused, never guessed at.
pub const PROTOCOL: u32 = 1;

/// Anything that crosses a connection.
///
/// Batches are shared, never copied: an outbox keeps its item until it is acknowledged, while the same value
/// travels through the in-memory transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Sender: what it has to send. The first message of a connection.
    Hello(Hello),
    /// Receiver: go on from here.
    Welcome(Welcome),
    /// Receiver: no, and why. Ends the connection.
    Refuse(Refuse),
    /// Sender: records.
    Data(Arc<Batch>),
    /// Sender: where it stands, each second.
    Heartbeat(Heartbeat),
    /// Receiver: what is durable. Also its sign of life.
    Ack(Ack),
    /// Receiver: a question to the one above.
    Ask(Ask),
    /// Sender: the answer to a question.
    Answer(Answer),
    /// Sender: a question to the one below.
    Query(Query),
    /// Receiver: the answer to it.
    QueryReply(QueryReply),
    /// Either: I am going, on purpose.
    Goodbye(Goodbye),
}

/// What a sender has to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The stream.
    pub stream: StreamId,
    /// The volume protected.
    pub volume: VolumeId,
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub size: u64,
    /// The fencing number in force.
    pub epoch: Epoch,
    /// The tap's present life.
    pub run: RunId,
    /// The first LSN of that run.
    pub first_lsn: Lsn,
    /// Who speaks, for logs and status pages.
    pub sender: String,
}

/// Go on from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The last record that is durable at the receiver or below it; send everything after it.
    pub durable: Lsn,
    /// The run that record belongs to.
    pub durable_run: Option<RunId>,
    /// Does the receiver have any history of this stream?
    pub known: bool,
    /// How many bytes of batches ([`Batch::weight`]) may be unacknowledged at any time.
    pub credit: u64,
    /// The gateway's store, which the sender remembers by the gateway's name; `None`: it has none.
    pub store: Option<u64>,
    /// How far the runs before the one that greets are known here or below, at most [`MAX_PAST`]; `None`: an older program does
    /// not say. A sender that remembers less of a run of its own was set back.
    pub past: Option<Vec<RunSeen>>,
    /// The last record that the receiver took in, durable or not, or knows of below; `None`: it does not know when that was
    /// captured, or an older program does not say. A sender that gave that place to another record was set back.
    pub last: Option<RecordSeen>,
}

/// A record, and what tells it from one that was given the same place by a sender that was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSeen {
    /// The run.
    pub run: RunId,
    /// Its place.
    pub lsn: Lsn,
    /// When it was captured, on the tap's clock.
    pub at: WallTime,
}

/// The last that is known of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSeen {
    /// The run.
    pub run: RunId,
    /// When it was captured or said, on the tap's clock.
    pub at: WallTime,
}

/// No, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuse {
    /// To branch on.
    pub code: RefuseCode,
    /// For people: what happened and what to do.
    pub detail: String,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseCode {
    /// The sender speaks another protocol version, or broke this one.
    Protocol,
    /// The sender's epoch is over: another site took the role.
    Fenced,
    /// The sender's records contradict history that is already durable.
    SplitHistory,
    /// The same, and somebody said that this sender's disk is the one to go on with: it is to begin a new run above this record,
    /// with this epoch, and to have the whole disk compared. To an older peer it is [`RefuseCode::SplitHistory`].
    BeginAnew {
        /// The last record that is known of the stream.
        above: Lsn,
        /// Above that of every other copy of the sender's state.
        epoch: Epoch,
    },
    /// Another stream has this volume name.
    NameTaken,
    /// The receiver is stopping.
    Stopping,
    /// See the detail.
    Other,
}

/// Where a sender stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The last LSN assigned.
    pub head: Lsn,
    /// The tap's wall clock when it said so.
    pub at: WallTime,
    /// What the tap is doing.
    pub status: TapStatus,
    /// The heads of gateways' ledgers that the sender keeps, at most [`MAX_LEDGERS`]; `None`: it keeps none for anybody.
    pub ledgers: Option<Vec<LedgerHead>>,
    /// What other gateways say that they keep of the receiver's ledger, at most [`MAX_LEDGERS`].
    pub witnesses: Vec<Witness>,
    /// The stores that the sender knows by the receiver's name, at most [`MAX_LEDGERS`].
    pub stores: Vec<KnownStore>,
    /// Why the sender does not take the tap's records, in words for people, at most [`MAX_REFUSAL`] bytes; `None`: it does, or
    /// has not heard of the tap.
    pub refused: Option<String>,
    /// The receiver said to have less than it had acknowledged when this connection was made; `None`: it did not, or the sender does
    /// not remember.
    pub set_back: Option<SetBack>,
}

/// A receiver that has less than it acknowledged: its state was put back, or its disk lost what it had written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetBack {
    /// The last record that it acknowledged.
    pub had: Lsn,
    /// The last record that it said to have.
    pub has: Lsn,
}

/// A store that a gateway of a name has, or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownStore {
    /// The store.
    pub store: u64,
    /// When it was last told of, on the clock of whoever knows it.
    pub told: WallTime,
}

/// What a gateway says that it keeps of another's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the sender's configuration; at most [`MAX_GATEWAY_NAME`] bytes.
    pub gateway: String,
    /// What it keeps.
    pub head: LedgerHead,
}

/// Bytes of a gateway's name.
pub const MAX_GATEWAY_NAME: usize = 256;

/// Bytes of the reason in a heartbeat.
pub const MAX_REFUSAL: usize = 1024;

/// Heads of ledgers in a heartbeat.
pub const MAX_LEDGERS: usize = 64;
/// Runs in a welcome.
pub const MAX_PAST: usize = 16;

/// The head of a gateway's ledger of segment hashes. Whoever keeps it can tell later whether the ledger was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerHead {
    /// The gateway's store.
    pub store: u64,
    /// The number of the last entry; below 2^53.
    pub entry: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// When it was made, on the store's own clock.
    pub at: WallTime,
}

/// What a tap is doing, for people and for `lag_bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapStatus {
    /// In one word.
    pub state: TapState,
    /// Bytes waiting in memory.
    pub queued_bytes: u64,
    /// Bytes waiting in the tap's spool.
    pub spooled_bytes: u64,
    /// Bytes of volume that still have to be copied.
    pub marked_bytes: u64,
    /// The copy under way.
    pub sync: Option<SyncProgress>,
    /// Baselines started since protection began.
    pub baselines: u32,
    /// Bytes copied by resyncs since protection began.
    pub resynced_bytes: u64,
}

/// A tap's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TapState {
    /// The initial copy is under way.
    Baseline,
    /// Every write is on its way.
    Protected,
    /// Writes wait in the tap's spool.
    Spooling,
    /// Writes are only marked: history has a gap from here on.
    Bitmap,
    /// Marked blocks are being copied.
    Resync,
    /// Stopped on purpose.
    Stopped,
    /// Another site took over.
    Fenced,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncProgress {
    /// Why it is made.
    pub cause: SyncCause,
    /// Bytes of volume looked at.
    pub done: u64,
    /// Bytes of volume to look at.
    pub total: u64,
}

/// What is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// How many [`Message::Data`] of this connection are durable below, from its first on.
    pub batches: u64,
    /// The last record durable below.
    pub durable: Lsn,
    /// The last record durable at every gateway.
    pub everywhere: Lsn,
    /// The head of the receiver's ledger, for the sender to keep; `None`: there is nothing new.
    pub ledger: Option<LedgerHead>,
    /// The head of another gateway's ledger, which the receiver keeps as the sender once passed it on; one at a time, by turns.
    pub witnessed: Option<LedgerHead>,
}

/// A question to the one above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Chosen by the asker, given back in the answer.
    pub id: u64,
    /// The question.
    pub question: Question,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The last LSN assigned, now.
    Head,
    /// A named recovery point that covers every write acknowledged before now.
    Bookmark {
        /// Unique within the volume.
        name: Name,
        /// What it has to promise.
        consistency: Consistency,
        /// Free text of its maker.
        note: String,
        /// How long to wait for a baseline to end.
        wait: Duration,
        /// It is to be a barrier of this group, in the stream of each of its members; `None`: of the volume alone.
        group: Option<Name>,
    },
    /// Records were lost below: copy again what changed after `from`, or everything.
    Resync {
        /// The last record that is still sound below.
        from: Lsn,
        /// Copy the whole volume.
        whole: bool,
    },
    /// To the CX alone, about a tap that it refused last, because its state is an old copy: it is to go on from there after all.
    AcceptRestored,
    /// What the protected disk holds of a block now: what was damaged below may still be there.
    Block {
        /// Which.
        block: BlockNo,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The question's id.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, AskError>,
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Question::Head`].
    Head {
        /// The last LSN assigned.
        lsn: Lsn,
        /// The tap's wall clock.
        at: WallTime,
        /// What the tap is doing.
        status: TapStatus,
    },
    /// To [`Question::Bookmark`].
    Bookmarked {
        /// The marker's LSN.
        lsn: Lsn,
        /// The marker's time.
        at: WallTime,
    },
    /// To [`Question::Block`].
    Block {
        /// The stored form of the block; empty when it is all zeroes.
        unit: Bytes,
    },
    /// To [`Question::AcceptRestored`].
    Accepted(Accepted),
    /// To anything that has no more to say.
    Done,
}

/// A tap that was refused and is to go on after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// As it greets.
    pub sender: String,
    /// Its run that is refused.
    pub run: RunId,
    /// Since when it is.
    pub since: WallTime,
    /// Where that run would begin: the tap remembers nothing from there on.
    pub first_lsn: Lsn,
    /// The last record that is known of the stream.
    pub known: Lsn,
    /// The fencing number that it gets; every other copy of its state has a lower one.
    pub epoch: Epoch,
}

/// Why a question got no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct AskError {
    /// To branch on.
    pub code: AskCode,
    /// For people: what happened and what to do.
    pub detail: String,
}

impl AskError {
    /// An error with this code and detail.
    #[must_use]
    pub fn new(code: AskCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// The kinds of [`AskError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskCode {
    /// The tap cannot be reached.
    NotReachable,
    /// The name exists, or the state forbids it.
    Conflict,
    /// What the question names does not exist.
    NotFound,
    /// No answer in time.
    Timeout,
    /// It was tried and failed.
    Failed,
}

/// Bytes of one block's hash in [`Hashes`].
pub const HASH_BYTES: usize = 16;

/// A question to the one below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the asker, given back in the answer.
    pub id: u64,
    /// The question.
    pub lookup: Lookup,
}

/// What does a stretch of a volume look like below, at the newest point durable there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// The volume.
    pub volume: VolumeId,
    /// Whole blocks, at least one, at most [`crate::MAX_LOOKUP`] bytes.
    pub extent: Extent,
    /// The point must not be before this record; the one below waits a little for it.
    pub after: Lsn,
    /// The seed of the hashes.
    pub seed: u64,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryReply {
    /// The question's id.
    pub id: u64,
    /// What came of it.
    pub result: Result<Hashes, AskError>,
}

/// What a stretch looks like, as a hash of each block (`cx-delta` says which).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    /// The point: everything up to this record was durable.
    pub at: Lsn,
    /// [`HASH_BYTES`] for each block, in order.
    pub hashes: Bytes,
}

impl Lookup {
    /// Bytes of hashes that answer it.
    #[must_use]
    pub fn hash_bytes(&self) -> usize {
        tap_block::units::index(self.extent.block_count()).saturating_mul(HASH_BYTES)
    }
}

/// A peer that leaves on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// For the log of the one left.
    pub reason: String,
}

impl Message {
    /// What it is, for messages to people.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "a hello",
            Self::Welcome(_) => "a welcome",
            Self::Refuse(_) => "a refusal",
            Self::Data(_) => "records",
            Self::Heartbeat(_) => "a heartbeat",
            Self::Ack(_) => "an acknowledgement",
            Self::Ask(_) => "a question",
            Self::Answer(_) => "an answer",
            Self::Query(_) => "a query",
            Self::QueryReply(_) => "the answer to a query",
            Self::Goodbye(_) => "a goodbye",
        }
    }
}
