//! The outbox of a hop: batches wait here, in order, until every hop below has made them durable.
//!
//! ```text
//!             push                 next / acked                (one cursor pair per consumer)
//!   source ────────► [ forgotten | on disk | being written | memory only ] ◄──── consumers
//!                                ▲ first   ▲ spill_end                   ▲ end
//! ```
//!
//! [`Outbox`] decides what is sent, what is written to disk, what is read back and what may be forgotten;
//! it does none of these itself. A driver (`cx_link::outbox`) owns the disk and the clock.
//!
//! Architecture invariant: pure. Time comes in as `now`; every queue has a limit (see [`Config`]).

mod consumer;
mod item;
mod outbox;

pub use consumer::{ConsumerNo, ConsumerView, Hole};
pub use item::{ItemNo, Reached, Summary};
pub use outbox::{Config, Durable, Full, Load, Next, Outbox, Recovered, RecoveredItem, SpillGroup, Status};
