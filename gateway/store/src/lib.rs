//! Segments and the fjall index: append, commit, index, recover, read.
//!
//! ```text
//!  append ─► queue ─► commit thread: pwritev, fdatasync ─► history ─► published tail ─► done
//!                                                                    │ closed groups
//!                                    region_map ◄── tail + index ◄── index thread (fjall, in bulk)
//!                                    read_units ◄── segments ◄─► settle thread: old history in block order
//!                                                        ├─────► scrub thread: is it what was written?
//!                                                        └─────► ledger thread: what every segment held, hashed
//! ```
//!
//! Architecture invariants: nothing is acknowledged before it is durable, in the tail and published; nothing that
//! counts is ever written behind bytes that a crash or a failed sync left undecided; the index holds nothing that the
//! segments do not.

mod age;
mod changes;
mod chunks;
mod commit;
mod config;
mod elapsed;
mod error;
mod heat;
mod history;
mod index;
mod ingest;
mod keeper;
mod layout;
mod ledger;
mod leftover;
mod maps;
mod mark;
mod names;
mod offers;
mod pieces;
mod points;
mod queue;
mod read;
mod recover;
mod reserve;
mod segments;
mod settle;
mod settled;
mod state;
mod status;
mod store;
mod sync;
mod tail;
mod times;
mod usage;
mod verify;
mod wait;

pub use config::{Cold, StoreConfig};
pub use elapsed::Elapsed;
pub use error::{Damage, ReadError, StoreError};
pub use index::{FjallOpener, IndexError, IndexOpener, IndexStore, MemoryIndex, Row, Table};
pub use layout::KeptPoints;
pub use ledger::{Anchor, LedgerStatus, LedgerStore, MemoryLedger};
pub use mark::{MarkStore, MemoryMark};
pub use points::OpenPoint;
pub use queue::Done;
pub use read::{ReadMode, UnitRead};
pub use settle::{AtGate, HeldUp, HeldWhat, LimitState, Preview, SettleReport, VolumeLimit};
pub use status::StoreStatus;
pub use store::{FreeSpace, Parts, Store};
pub use tail::Durable;
pub use usage::VolumeBytes;
pub use verify::{
    Finding, FindingKind, MOST_FINDINGS, Offered, Progress, Proof, Repair, Scope, StoredUnit, VerifyReport,
    Watch,
};
pub use wait::Waiting;
