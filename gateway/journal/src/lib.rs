//! The journal's bytes: segments, frames, entries and index runs; the only crate that writes the format.
//!
//! ```text
//!  segment file   ┌────────┬───────┬───────┬──── ─ ─ ┐
//!                 │ header │ frame │ frame │ …       │     segment.rs, scan.rs
//!                 └────────┴───────┴───────┴──── ─ ─ ┘
//!  frame          ┌────────┬───────┬────────┬───────┐
//!                 │ header │ table │ units  │  pad  │      frame.rs, table.rs, marker.rs, meta.rs
//!                 └────────┴───────┴────────┴───────┘
//!  index          runs of versions per region, checkpoints   version.rs, run.rs
//! ```
//!
//! Architecture invariant: bytes in, bytes out; no I/O, no clock. Every decoder answers bad bytes with an
//! error. The format is described in `docs/formats/journal.md` and pinned by golden fixtures.

mod bytes;
pub mod error;
pub mod marker;
pub mod meta;
pub mod units;
pub mod version;

pub use error::FormatError;
pub use meta::{ImageId, ImageRecord, MetaRecord};
pub use units::{Location, REGION_BLOCKS, REGION_BYTES, RegionNo, SegmentId};
pub use version::{Place, Version, versions_of};
