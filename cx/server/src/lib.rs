//! The CX: takes streams from taps, spools them when it must, and forwards each to every gateway.
//!
//! ```text
//!   tap ──► Intake ──► OutboxDriver ──► GatewayFeed ──► Uplink ──► gateway   (one Uplink per stream and gateway)
//!    ▲        │ durable: every gateway, or the spool                  │
//!    └────────┴── asks, resyncs after a hole ◄────────────────────────┤
//!                heads of gateways' ledgers, kept and passed on ◄─────┤
//!                what each has acknowledged: does it still have it ◄──┘
//! ```
//!
//! In the normal state a batch passes through without a copy or a write to disk. Architecture invariants: nothing is
//! acknowledged upstream that is not durable below; no task of the runtime waits for a disk.

mod acknowledged;
mod books;
mod cx;
mod feed;
mod heads;
mod intake;
mod lookup;
mod naming;
mod past;
mod status;
mod stream;
mod tap;

pub use cx::{Cx, CxConfig, CxError, CxHandle, Limits};
pub use status::{CxStatus, GatewayStatus, StreamStatus};
