//! Listeners that serve any [`BlockDevice`](tap_block::BlockDevice) over NBD or iSCSI; the tap's front door
//! and the gateway's.
//!
//! ```text
//!   Front ── acceptor thread ──► one thread a connection: socket ◄─► gateway_nbd::Server ──► BlockDevice
//!                                     ▲                                                          │
//!                                     └───────────────── Mailbox ◄── completions of any thread ──┘
//! ```
//!
//! Each connection has an OS thread with a runtime of its own, so that a disk that blocks stalls the client
//! that asked and nobody else, and so that a request which completes at once costs no hop between threads.
//!
//! Architecture invariant: what a client can make the front hold is bounded by [`Limits`], and no client,
//! slow or hostile, is waited for by another.

mod access;
mod address;
mod budget;
mod busy_poll;
mod channel;
mod connection;
mod ended;
mod exports;
mod front;
mod iscsi;
mod landing;
mod listener;
mod mailbox;
mod pace;
mod patience;
mod remains;
mod sessions;
mod tls;
mod turn;

pub use access::{Access, Clients, Grant, Pattern};
pub use address::{AddressError, ListenAddress, Portal, PortalError};
pub use budget::{Memory, MemoryUse};
pub use exports::{ClientId, Export, ExportEntry, Exports, OpenError};
pub use front::{Drained, Front, FrontHandle, Limits};
pub use gateway_nbd::Tls;
pub use iscsi::{IscsiLimits, Targets};
pub use listener::ListenError;
pub use sessions::SessionInfo;
pub use tls::{Security, TlsError};
