//! Files and devices: block devices over files, crash-safe small files, recycled segment files, the real clock.
//!
//! ```text
//!   FileDevice ── a protected disk: BlockDevice over a file or block device
//!   SegmentPool ─ SegmentFile ── the journal's and the spool's fixed-size, recycled files
//!   small_file, SlottedFile ── state of a few kilobytes that survives a crash
//!   AppendFile ── a small file that only grows
//!   HeldRoom ── room that nobody else can take
//!   set_aside ── what cannot be read is kept under another name
//!   DirLock ── one instance per data directory
//!   private_socket ── a listener that only its owner may connect to
//!   Pool ── bounded worker threads for what may block
//! ```
//!
//! Architecture invariant: this is the only crate that calls fsync and fdatasync, so that every rule about
//! durability (what an error means, when the directory needs a sync too) stands in one place, `sync.rs`.

mod append_file;
mod aside;
mod clock;
mod device;
mod dir;
mod held_room;
mod lock;
mod pool;
mod priority;
mod raw;
mod segment;
mod segment_pool;
mod slotted;
mod socket;
mod sync;

pub mod small_file;

#[cfg(test)]
mod testing;

pub use append_file::AppendFile;
pub use aside::{set_aside, was_set_aside};
pub use clock::RealClock;
pub use device::{FileDevice, FileIdentity, FileOptions, Growth, OpenError};
pub use dir::{SameDir, ensure_dir, free_space};
pub use held_room::HeldRoom;
pub use lock::{DirLock, LockError};
pub use pool::Pool;
pub use priority::step_back;
pub use segment::{DiskDir, Medium, MemoryDir, SegmentDir, SegmentFile, SegmentIdentity};
pub use segment_pool::{Astray, FileNo, PoolOptions, SegmentPool};
pub use slotted::{Durability, SlottedFile};
pub use socket::private_socket;
