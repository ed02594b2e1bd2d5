//! The splitter: lets every write of a guest pass to its own disk, gives it its place in history, and knows
//! what must be copied again when that was not possible.
//!
//! ```text
//!   Submit ─► hold extent ─► region marked? ─► Start ─► Written ─► (Fill edges) ─► LSN ─► queue ─► seal ─► Batch
//!                │                │                        │                         │
//!             waits for        PersistRegions         Acknowledge                no room: dirty,
//!             overlapping                             (the guest)                no LSN, copied later
//! ```
//!
//! One [`Splitter`] per protected volume, one owner, synchronous: [`Splitter::apply`] takes an [`Event`] and
//! appends the [`Action`]s that the driver (`tap-agent`) must carry out. Nothing here does I/O or reads a
//! clock. The rules are those of the design, section 3; each has a property test in `tests/`.

mod compare;
mod copies;
mod holds;
mod queue;
mod regions;
pub mod seal;
mod splitter;

pub use compare::Compared;
pub use queue::{Captured, Content};
pub use regions::{RegionMarks, RegionSize};
pub use seal::seal;
pub use splitter::{
    Action, Anew, BookmarkId, Change, Config, CopyId, CopyTask, Event, Mode, Now, OpId, Progress, Splitter,
    Start,
};
