//! Sessions over TCP and memory: connect, reconnect, credits, and the disk spool behind an outbox.
//!
//! ```text
//!   Feed ◄── Uplink ── cx_wire::Sender ◄──► Connection ◄──► cx_wire::Receiver ── Downlink ──► Intake
//!                                       TCP, or the Hub
//! ```
//!
//! Both ends run the same session machines whatever carries them, so `up` and three processes are one code path.

mod address;
mod feed;
mod intake;
mod lane;

pub use address::{Address, AddressError};
pub use feed::{AskReply, Feed};
pub use intake::{BatchDone, DownlinkHandle, Intake, StreamIntake};
