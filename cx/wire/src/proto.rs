//! The protobuf twins of the messages. Private: everything outside works with checked types.
//!
//! Rules of this format: a field number is never reused; a new field is optional and its absence means what it
//! meant before; ids and times are `fixed64` because they use all their bits. The golden tests hold the bytes.

use bytes::Bytes;
use prost::{Message, Oneof};

mod from_wire;
mod to_wire;

pub(crate) use from_wire::lsn;

/// The field of [`Envelope`] that holds a batch.
pub(crate) const DATA: u32 = 15;
/// The field of [`Batch`] that holds the stored units. The last one, so that the bytes before it are the head.
pub(crate) const BODY: u32 = 15;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Body {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    #[prost(message, tag = "3")]
    Refuse(Refuse),
    #[prost(message, tag = "4")]
    Heartbeat(Heartbeat),
    #[prost(message, tag = "5")]
    Ack(Ack),
    #[prost(message, tag = "6")]
    Ask(Ask),
    #[prost(message, tag = "7")]
    Answer(Answer),
    #[prost(message, tag = "8")]
    Goodbye(Goodbye),
    #[prost(message, tag = "9")]
    Query(Query),
    #[prost(message, tag = "10")]
    QueryReply(QueryReply),
    #[prost(message, tag = "15")]
    Data(Batch),
}

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(fixed64, tag = "2")]
    stream: u64,
    #[prost(fixed64, tag = "3")]
    volume: u64,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(uint64, tag = "5")]
    size: u64,
    #[prost(uint32, tag = "6")]
    epoch: u32,
    #[prost(fixed64, tag = "7")]
    run: u64,
    #[prost(uint64, tag = "8")]
    first_lsn: u64,
    #[prost(string, tag = "9")]
    sender: String,
}

#[derive(Clone, PartialEq, Message)]
struct Welcome {
    #[prost(uint64, tag = "1")]
    durable: u64,
    #[prost(fixed64, optional, tag = "2")]
    durable_run: Option<u64>,
    #[prost(bool, tag = "3")]
    known: bool,
    #[prost(uint64, tag = "4")]
    credit: u64,
    /// Absent when the receiver is no gateway.
    #[prost(fixed64, optional, tag = "5")]
    store: Option<u64>,
    /// Absent when the receiver does not know of it.
    #[prost(message, optional, tag = "6")]
    past: Option<Past>,
    #[prost(message, optional, tag = "7")]
    last: Option<RecordSeen>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RecordSeen {
    #[prost(fixed64, tag = "1")]
    run: u64,
    #[prost(uint64, tag = "2")]
    lsn: u64,
    #[prost(fixed64, tag = "3")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Past {
    #[prost(message, repeated, tag = "1")]
    runs: Vec<RunSeen>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RunSeen {
    #[prost(fixed64, tag = "1")]
    run: u64,
    #[prost(fixed64, tag = "2")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Refuse {
    /// 0 is any code that the reader does not know.
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    detail: String,
    /// Present when the sender is to begin anew.
    #[prost(message, optional, tag = "3")]
    anew: Option<Anew>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Anew {
    #[prost(uint64, tag = "1")]
    above: u64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Heartbeat {
    #[prost(uint64, tag = "1")]
    head: u64,
    #[prost(fixed64, tag = "2")]
    at: u64,
    #[prost(message, optional, tag = "3")]
    status: Option<TapStatus>,
    /// Absent when the sender keeps no heads.
    #[prost(message, optional, tag = "4")]
    ledgers: Option<LedgerHeads>,
    #[prost(message, repeated, tag = "5")]
    witnesses: Vec<Witness>,
    #[prost(message, repeated, tag = "6")]
    stores: Vec<KnownStore>,
    #[prost(string, optional, tag = "7")]
    refused: Option<String>,
    #[prost(message, optional, tag = "8")]
    set_back: Option<SetBack>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SetBack {
    #[prost(uint64, tag = "1")]
    had: u64,
    #[prost(uint64, tag = "2")]
    has: u64,
}

#[derive(Clone, PartialEq, Message)]
struct KnownStore {
    #[prost(fixed64, tag = "1")]
    store: u64,
    #[prost(fixed64, tag = "2")]
    told: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Witness {
    #[prost(string, tag = "1")]
    gateway: String,
    #[prost(message, optional, tag = "2")]
    head: Option<LedgerHead>,
}

#[derive(Clone, PartialEq, Message)]
struct LedgerHeads {
    #[prost(message, repeated, tag = "1")]
    heads: Vec<LedgerHead>,
}

#[derive(Clone, PartialEq, Message)]
struct LedgerHead {
    #[prost(fixed64, tag = "1")]
    store: u64,
    #[prost(uint64, tag = "2")]
    entry: u64,
    #[prost(bytes = "bytes", tag = "3")]
    hash: Bytes,
    #[prost(fixed64, tag = "4")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TapStatus {
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(uint64, tag = "2")]
    queued_bytes: u64,
    #[prost(uint64, tag = "3")]
    spooled_bytes: u64,
    #[prost(uint64, tag = "4")]
    marked_bytes: u64,
    #[prost(message, optional, tag = "5")]
    sync: Option<SyncProgress>,
    #[prost(uint32, tag = "6")]
    baselines: u32,
    #[prost(uint64, tag = "7")]
    resynced_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SyncProgress {
    #[prost(uint32, tag = "1")]
    cause: u32,
    #[prost(uint64, tag = "2")]
    done: u64,
    #[prost(uint64, tag = "3")]
    total: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Ack {
    #[prost(uint64, tag = "1")]
    batches: u64,
    #[prost(uint64, tag = "2")]
    durable: u64,
    #[prost(uint64, tag = "3")]
    everywhere: u64,
    #[prost(message, optional, tag = "4")]
    ledger: Option<LedgerHead>,
    #[prost(message, optional, tag = "5")]
    witnessed: Option<LedgerHead>,
}

#[derive(Clone, PartialEq, Message)]
struct Ask {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "Question", tags = "2, 3, 4, 5, 6")]
    question: Option<Question>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Question {
    #[prost(message, tag = "2")]
    Head(Nothing),
    #[prost(message, tag = "3")]
    Bookmark(AskBookmark),
    #[prost(message, tag = "4")]
    Resync(AskResync),
    #[prost(message, tag = "5")]
    Block(AskBlock),
    #[prost(message, tag = "6")]
    AcceptRestored(Nothing),
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct AskBookmark {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    consistency: u32,
    #[prost(string, tag = "3")]
    note: String,
    #[prost(uint64, tag = "4")]
    wait_nanos: u64,
    /// Absent: of the volume alone.
    #[prost(string, optional, tag = "5")]
    group: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AskResync {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(bool, tag = "2")]
    whole: bool,
}

#[derive(Clone, PartialEq, Message)]
struct AskBlock {
    #[prost(uint64, tag = "1")]
    block: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7")]
    outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Outcome {
    #[prost(message, tag = "2")]
    Failed(Failure),
    #[prost(message, tag = "3")]
    Head(Heartbeat),
    #[prost(message, tag = "4")]
    Bookmarked(Bookmarked),
    #[prost(message, tag = "5")]
    Done(Nothing),
    #[prost(message, tag = "6")]
    Block(Block),
    #[prost(message, tag = "7")]
    Accepted(Accepted),
}

#[derive(Clone, PartialEq, Message)]
struct Accepted {
    #[prost(string, tag = "1")]
    sender: String,
    #[prost(fixed64, tag = "2")]
    run: u64,
    #[prost(fixed64, tag = "3")]
    since: u64,
    #[prost(uint64, tag = "4")]
    first_lsn: u64,
    #[prost(uint64, tag = "5")]
    known: u64,
    #[prost(uint32, tag = "6")]
    epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Failure {
    /// 0 is any code that the reader does not know.
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    detail: String,
}

#[derive(Clone, PartialEq, Message)]
struct Block {
    #[prost(bytes = "bytes", tag = "1")]
    unit: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Bookmarked {
    #[prost(uint64, tag = "1")]
    lsn: u64,
    #[prost(fixed64, tag = "2")]
    at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Query {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(fixed64, tag = "2")]
    volume: u64,
    #[prost(uint64, tag = "3")]
    offset: u64,
    #[prost(uint64, tag = "4")]
    length: u64,
    #[prost(uint64, tag = "5")]
    after: u64,
    #[prost(fixed64, tag = "6")]
    seed: u64,
}

#[derive(Clone, PartialEq, Message)]
struct QueryReply {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(oneof = "Found", tags = "2, 3")]
    found: Option<Found>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Found {
    #[prost(message, tag = "2")]
    Failed(Failure),
    #[prost(message, tag = "3")]
    Hashes(Hashes),
}

#[derive(Clone, PartialEq, Message)]
struct Hashes {
    #[prost(uint64, tag = "1")]
    at: u64,
    #[prost(bytes = "bytes", tag = "2")]
    hashes: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Goodbye {
    #[prost(string, tag = "1")]
    reason: String,
}

/// A batch as columns: one value per record in each, small where neighbours resemble each other. See `columns`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Batch {
    #[prost(fixed64, tag = "1")]
    pub(crate) stream: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) run: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) epoch: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) first_lsn: u64,
    /// The volumes that records name by their index here.
    #[prost(fixed64, repeated, tag = "5")]
    pub(crate) volumes: Vec<u64>,
    /// One byte per record: `columns::Kind`.
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) kinds: Bytes,
    /// Positions, each as the distance from the one before, the first from that of `first_lsn`.
    #[prost(sint64, repeated, tag = "7")]
    pub(crate) positions: Vec<i64>,
    /// Capture times, each as the distance from the one before, the first from 0.
    #[prost(sint64, repeated, tag = "8")]
    pub(crate) times: Vec<i64>,
    /// Of records that name a volume: its index in `volumes`.
    #[prost(uint32, repeated, tag = "9")]
    pub(crate) volume: Vec<u32>,
    /// Of writes and zeroes: the offset in bytes.
    #[prost(uint64, repeated, tag = "10")]
    pub(crate) offsets: Vec<u64>,
    /// Of writes and zeroes: the length in bytes. Of resizes: the size.
    #[prost(uint64, repeated, tag = "11")]
    pub(crate) lengths: Vec<u64>,
    /// Of marks: the marker.
    #[prost(message, repeated, tag = "12")]
    pub(crate) markers: Vec<Marker>,
    /// Stored lengths.
    #[prost(uint32, repeated, tag = "13")]
    pub(crate) lens: Vec<u32>,
    #[prost(bytes = "bytes", tag = "15")]
    pub(crate) body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Marker {
    #[prost(oneof = "Mark", tags = "1, 2, 3, 4")]
    mark: Option<Mark>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Mark {
    #[prost(message, boxed, tag = "1")]
    RunStart(Box<RunStart>),
    #[prost(message, boxed, tag = "2")]
    Bookmark(Box<Bookmark>),
    #[prost(message, tag = "3")]
    SyncStart(SyncStart),
    #[prost(message, tag = "4")]
    SyncEnd(SyncEnd),
}

#[derive(Clone, PartialEq, Message)]
struct Barrier {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(fixed64, repeated, tag = "3")]
    members: Vec<u64>,
    #[prost(message, optional, boxed, tag = "4")]
    bookmark: Option<Box<Bookmark>>,
}

#[derive(Clone, PartialEq, Message)]
struct RunStart {
    #[prost(fixed64, optional, tag = "1")]
    previous: Option<u64>,
    #[prost(uint64, tag = "2")]
    durable: u64,
    #[prost(fixed64, tag = "3")]
    volume: u64,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(uint64, tag = "5")]
    size: u64,
    /// 0 when no sync begins with the run.
    #[prost(uint32, tag = "6")]
    sync: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Bookmark {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    consistency: u32,
    #[prost(string, tag = "3")]
    note: String,
}

#[derive(Clone, PartialEq, Message)]
struct SyncStart {
    #[prost(uint32, tag = "1")]
    cause: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SyncEnd {
    #[prost(uint32, tag = "1")]
    cause: u32,
    #[prost(uint64, tag = "2")]
    copied: u64,
    #[prost(bool, tag = "3")]
    from_zero: bool,
    /// It is a barrier's mark, and no sync ends. A peer that does not know them skips the field: what it sees is the end of a
    /// sync that is not open, which changes nothing.
    #[prost(message, optional, boxed, tag = "4")]
    barrier: Option<Box<Barrier>>,
    /// The source's clock was set, and no sync ends; as with a barrier.
    #[prost(message, optional, tag = "5")]
    clock: Option<ClockSet>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ClockSet {
    #[prost(fixed64, tag = "1")]
    before: u64,
}
