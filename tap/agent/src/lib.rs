//! The tap: protects disks, serves them to their guests, and sends every write to its CX.
//!
//! ```text
//!   guest ──NBD──► front ──► Volume (splitter + disk) ──► sealer ──► outbox ──► uplink ──► CX
//!                               │        ▲                              │
//!                               └──► the disk itself                 spool on disk
//!                                        keeper: activity log, LSN reservation
//!                                        profiling: what guests do, for the analyzer
//! ```
//!
//! Architecture invariants: a guest's write waits for nothing but its own disk (and, the first time in a while that it
//! touches a region, for the activity log on the tap's disk); no HTTP server and no LSM is linked here.

mod begin;
mod compare;
mod exports;
mod group;
mod local;
mod memory;
mod profiling;
mod proof;
mod protect;
mod restored;
mod sent;
mod state;
mod tap;
mod targets;
mod upstream;
mod volume;
mod waiting;
mod workers;

use std::path::PathBuf;

use tap_block::Name;

pub use group::{Barriers, GroupOf};
pub use profiling::ProfileTo;
pub use protect::ProtectError;
pub use tap::{StartError, Tap, TapConfig, VolumeStatus};

/// A disk to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protect {
    /// The volume's name.
    pub name: Name,
    /// A file or a block device.
    pub path: PathBuf,
}

/// How much may wait, for each volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of captured writes that wait to be sealed; beyond, the volume goes to bitmap mode.
    pub queue_bytes: u64,
    /// Bytes of sealed records in memory; when it is nearly full they go to the tap's spool.
    pub outbox_bytes: u64,
    /// Bytes of spool on the tap's disk.
    pub spool_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue_bytes: 128 << 20, outbox_bytes: 64 << 20, spool_bytes: 4 << 30 }
    }
}
