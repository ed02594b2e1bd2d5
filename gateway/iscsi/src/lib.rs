//! An iSCSI target and its SCSI disks as state machines: bytes in, actions and bytes out.
//!
//! ```text
//!   socket ──► BytesMut ──► Connection::poll_action ──► Resolve, List ──► handle_resolved, handle_list
//!                │                  │
//!                │                  ├──► Submit(device, Op, ticket) ──► the device ──► handle_completion
//!                │                  ├──► Keep(reservations, ticket) ──► the driver's disk ──► the same
//!                │                  └──► Close
//!                │   login/    who, and how      session/   order, data, answers
//!                │   target    who is there      scsi/      one disk: CDBs, work, reservations
//!   socket ◄── writev ◄──── Connection::output
//! ```
//!
//! Written from RFC 7143, SAM-5, SPC-4 and SBC-3; comments name their sections. What is supported is tabled
//! in `docs/protocol-support.md`. A session is one connection, at error recovery level 0.
//!
//! Sessions share two values: a [`Target`] owns who is logged in, a [`LogicalUnit`] what its initiators share
//! (reservations, attentions, claims on blocks). Each has one mutex, held for a look or a change and never
//! while anything is waited for; what has to wait holds a ticket that completes in its connection's queue.
//!
//! Architecture invariant: no socket, clock, thread or random number in here; any sequence of bytes leads to
//! an answer or to [`Action::Close`], never to a panic, and holds no more memory than [`Limits`] says.

mod connection;
mod field;
mod login;
mod neighbours;
mod pdu;
mod scsi;
mod session;
mod target;
mod text;

pub use connection::{Action, CloseReason, Connection, Limits, Refusal, Setup, Wants};
pub use login::chap::{Access, Challenge, Credentials};
pub use login::status::LoginStatus;
pub use neighbours::Neighbours;
pub use pdu::FramingError;
pub use scsi::reservation::InitiatorPort;
pub use scsi::unit::{BlockLength, Identity, LogicalUnit};
pub use tap_block::Output;
pub use target::{Admission, SessionInfo, Target, TargetConfig};
