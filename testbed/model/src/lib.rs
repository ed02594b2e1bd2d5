//! The oracle: replays every record into memory, obviously correct; and the generator of histories that
//! the property tests of the other crates feed to their subject and to the oracle alike.
//!
//! ```text
//!   Workload (seed) ──► Batch ──┬──► Oracle ──► image_at(volume, lsn) ──┐
//!     or BatchBuilder           └──► the crate under test ──────────────┴─► must be equal
//! ```
//!
//! Architecture invariant: it imports `tap-block` and nothing else of ours, so that no mistake of a crate
//! under test can be repeated here.

pub mod builder;
pub mod found;
pub mod oracle;
pub mod random;
pub mod workload;

pub use builder::BatchBuilder;
pub use oracle::{Oracle, OracleError};
pub use random::Random;
pub use workload::Workload;
