//! What taps, CX and gateways say to each other: messages and the session state machines.
//!
//! One connection carries one stream, from the sender (above: tap or CX) to the receiver (below: CX or gateway).
//! Records, heartbeats and answers flow down; acknowledgements and questions flow up. One kind of question, the
//! query for what a stretch of the volume looks like below, flows down.
//!
//! Architecture invariant: bytes in, bytes out. No socket, no clock, no task: `cx-link` drives these machines.

mod codec;
mod columns;
mod copies;
pub mod message;
mod proto;
pub mod session;

pub use codec::{MAX_ENTRIES, MAX_LOOKUP, MAX_MESSAGE, Parts, WireError, decode_batch, encode_batch};
pub use columns::{verify_units, without_records_to};
pub use copies::{Copies, Standing};
pub use message::{
    Accepted, Ack, Answer, Ask, AskCode, AskError, Goodbye, HASH_BYTES, Hashes, Heartbeat, Hello, KnownStore,
    LedgerHead, Lookup, MAX_GATEWAY_NAME, MAX_LEDGERS, MAX_PAST, MAX_REFUSAL, Message, PROTOCOL, Query,
    QueryReply, Question, RecordSeen, Refuse, RefuseCode, Reply, RunSeen, SetBack, SyncProgress, TapState,
    TapStatus, Welcome, Witness,
};
pub use session::{
    Given, KEEPALIVE, MAX_ASKS, MAX_QUERIES, Receiver, ReceiverEvent, SILENCE, Sender, SenderEvent,
    SessionError,
};
