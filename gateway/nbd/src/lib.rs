//! The server side of the NBD protocol as a state machine: bytes in, actions and bytes out.
//!
//! ```text
//!   socket ──► BytesMut ──► Server::poll_action ──► Resolve, List ──► handle_resolved, handle_list
//!                                   │               Bookmarks ──────► handle_bookmarks
//!                                   ├──► Submit(tag, Op) ──► the device ──► handle_completion
//!                                   └──► Close
//!   socket ◄── writev ◄──── Server::output (headers gathered, read data by reference)
//! ```
//!
//! Written from the specification (`doc/proto.md` of the NBD project); comments name its sections in
//! quotation marks. What is supported is tabled in `docs/protocol-support.md`.
//!
//! Architecture invariant: no socket, clock, thread or random number in here; any sequence of bytes leads to
//! an answer or to [`Action::Close`], never to a panic, and holds no more memory than [`Limits`] says.
//!
//! Simple, structured and extended replies are three encodings in `reply.rs`, of which the handshake settles one for the
//! whole connection. Extended headers are the specification's extension of that name; the contexts of QEMU are in
//! `contexts.rs`. TLS is an action between two options after which the handshake starts
//! afresh; its bytes are the driver's affair.

mod contexts;
mod handshake;
mod pending;
mod proto;
mod reply;
mod request;
mod server;
mod transmission;

pub use server::{Action, CloseReason, ExportInfo, Limits, ListEntry, Refusal, Server, Tag, Tls, Wants};
pub use tap_block::Output;
