//! The journal's bytes: segments, frames, entries and index runs; the only crate that writes the format.
//!
//! ```text
//!  segment file   ┌────────┬───────┬───────┬──── ─ ─ ┐
//!                 │ header │ frame │ frame │ …       │     segment.rs, scan.rs
//!                 └────────┴───────┴───────┴──── ─ ─ ┘
//!  frame          ┌────────┬───────┬────────┬───────┐
//!                 │ header │ table │ units  │  pad  │      frame.rs, table.rs, marker.rs, meta.rs
//!                 └────────┴───────┴────────┴───────┘
//!  settled file   ┌────────┬───────┬───────┬──── ─ ─ ┬──────────┐
//!                 │ header │ run   │ run   │ …       │ manifest │     settled.rs, manifest.rs
//!                 └────────┴───────┴───────┴──── ─ ─ ┴──────────┘
//!  index          runs of versions per region, checkpoints   version.rs, run.rs
//!  pack           blocks of a region that nobody has read for long, compressed together   pack.rs
//!  ledger         what every segment held when it was finished   ledger.rs
//! ```
//!
//! Architecture invariant: bytes in, bytes out; no I/O, no clock. Every decoder answers bad bytes with an
//! error. The format is described in `docs/formats/journal.md` and pinned by golden fixtures.

mod bytes;
pub mod error;
pub mod frame;
pub mod ledger;
pub mod manifest;
pub mod mark;
pub mod marker;
pub mod meta;
mod newer;
pub mod pack;
pub mod policy;
pub mod run;
pub mod scan;
pub mod segment;
pub mod settled;
pub mod shortage;
pub mod table;
pub mod units;
pub mod version;
pub mod writer;

pub use error::FormatError;
pub use frame::{FrameHeader, FrameKind};
pub use ledger::{Digest, EntryNo, Head, LEDGER_FILE, Ledger};
pub use manifest::{
    Generation, Kept, KeptPoint, Manifest, Pieces, RegionPlace, RegionRange, SettledSegment, Share,
};
pub use mark::{Aged, MARK_BYTES, MARK_FILE, Mark, Uncounted};
pub use meta::{GateMove, GateStep, Hold, ImageId, ImageRecord, MetaRecord};
pub use newer::{FORMAT, may_be_rot, newer_frame, newer_header};
pub use policy::{Gate, RetentionPolicy, Tier, WhenFull};
pub use run::GroupNo;
pub use scan::{Expected, Found, SegmentScan, Start};
pub use segment::{SEGMENT_HEADER, Sealed, SegmentHeader, StoreId};
pub use settled::{
    SETTLED_FRAME, SETTLED_FRAME_BYTES, SettledFrame, SettledHeader, SettledKind, SettledWriter,
};
pub use shortage::{ShortOf, Shortage, Went};
pub use table::Records;
pub use units::{Location, REGION_BLOCKS, REGION_BYTES, RegionNo, SegmentId};
pub use version::{Place, Version, versions_of};
pub use writer::{Group, Laid, SegmentWriter};
