//! The vocabulary every Chronogate crate shares: units, extents, write records, the stored form of a
//! block, and the contract of a block device.
//!
//! ```text
//!   guest write ──► Extent ──► Entry (Position, Action) ──► Batch ──► wire ──► journal
//!                     │                     │
//!                     └── BlockDevice       └── stored units: lz4 + checksum per 4 KiB block
//! ```
//!
//! Architecture invariant: nothing here does I/O, reads a clock, draws a random number or spawns a
//! thread. Production servers link this crate, so it stays small.

pub mod batch;
pub mod device;
pub mod extent;
pub mod extent_map;
pub mod faulty;
pub mod memory;
pub mod name;
pub mod output;
pub mod shown;
pub mod status;
pub mod stored;
pub mod time;
pub mod units;
mod unread;

pub use batch::{
    Action, BarrierMark, Batch, BatchError, Bookmark, Consistency, Entry, MAX_MEMBERS, Marker, RunStart,
    SyncCause,
};
pub use device::{
    Answer, Answered, BlockDevice, CompletionQueue, DeviceError, Geometry, Op, Outcome, Part, Ticket,
};
pub use extent::Extent;
pub use extent_map::{ExtentMap, ExtentSet};
pub use name::{Name, NameError};
pub use output::Output;
pub use shown::{Base, FromBase, Shown};
pub use status::{Map, State, Stretch, Stretches};
pub use time::{Clock, Monotonic, WallTime};
pub use units::{BLOCK_SIZE, BlockNo, Epoch, Lsn, MarkId, Position, RunId, StreamId, VolumeId};
pub use unread::Unread;
