//! Sessions over TCP and memory: connect, reconnect, credits, and the disk spool behind an outbox.
//!
//! ```text
//!   Feed ◄── Uplink ── cx_wire::Sender ◄──► Connection ◄──► cx_wire::Receiver ── Downlink ──► Intake
//!                                       TCP, or the Hub
//! ```
//!
//! Both ends run the same session machines whatever carries them, so `up` and three processes are one code path.

mod address;
mod connection;
mod downlink;
mod feed;
mod hub;
mod intake;
mod lane;
pub mod outbox;
mod query;
mod tcp;
mod timing;
mod uplink;

pub use address::{Address, AddressError};
pub use connection::{Closed, Connection, Listener, connect};
pub use downlink::Downlink;
pub use feed::{AskReply, Feed};
pub use hub::Hub;
pub use intake::{BatchDone, DownlinkHandle, Intake, StreamIntake};
pub use query::{Found, LookupReply, Querier};
pub use uplink::{Backoff, Uplink, UplinkConfig, UplinkHandle, UplinkState};
