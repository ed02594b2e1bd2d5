//! How a moment becomes a disk, as pure logic: points in time, the catalogue of what history holds, region maps,
//! read plans and the overlay of a read/write image.
//!
//! ```text
//!  "web01@-10m" ─► Point ─► Catalogue (selectable?) ─► Lsn
//!  Versions of a region ─► RegionMap at that Lsn ─► plan_read ─► pieces: zeroes, or units in segments
//! ```
//!
//! Architecture invariant: no I/O and no clock; the store and the gateway bring both.

pub mod catalogue;
pub mod gate;
pub mod group;
pub mod overlay;
pub mod plan;
pub mod point;
pub mod region;
pub mod retention;

pub use catalogue::{Catalogue, NotSelectable, Origin, Passed};
pub use group::{Group, GroupPoint};
pub use overlay::{Overlay, QuotaReached};
pub use plan::{Piece, Source, plan_read, regions};
pub use point::{Point, PointError, VolumePoint};
pub use region::{RegionMap, RegionMapBuilder};
