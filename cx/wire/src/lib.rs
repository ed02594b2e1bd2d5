//! What taps, CX and gateways say to each other: messages and the session state machines.
//!
//! One connection carries one stream, from the sender (above: tap or CX) to the receiver (below: CX or gateway).
//! Records, heartbeats and answers flow down; acknowledgements and questions flow up.
//!
//! Architecture invariant: bytes in, bytes out. No socket, no clock, no task: `cx-link` drives these machines.

mod codec;
mod columns;
pub mod message;
mod proto;
pub mod session;

pub use codec::{MAX_ENTRIES, MAX_MESSAGE, Parts, WireError, decode_batch, encode_batch};
pub use columns::{verify_units, without_records_to};
pub use message::{
    Ack, Answer, Ask, AskCode, AskError, Goodbye, Heartbeat, Hello, Message, PROTOCOL, Question, Refuse,
    RefuseCode, Reply, SyncProgress, TapState, TapStatus, Welcome,
};
pub use session::{
    Given, KEEPALIVE, MAX_ASKS, Receiver, ReceiverEvent, SILENCE, Sender, SenderEvent, SessionError,
};
