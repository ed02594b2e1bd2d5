//! `.cgp`: a profile as bytes.
//!
//! ```text
//!  file    ┌───────┬───────┬──── ─ ─ ┐    no header of its own: files that are put behind each other are a file
//!          │ frame │ frame │ …       │
//!          └───────┴───────┴──── ─ ─ ┘
//!  frame   ┌──────────┬─────────┬──────┬───────────┬─────────────┬──────────┬──────┐   little endian
//!          │ "cgpf" 4 │ version │ kind │ 0       2 │ body len  4 │ xxh3   8 │ body │
//!          │          │       1 │    1 │           │             │ of all   │      │
//!          └──────────┴─────────┴──────┴───────────┴─────────────┴──────────┴──────┘
//! ```
//!
//! The checksum covers the twelve bytes before it and the body. Every frame can be read alone: a recorder that is
//! killed loses the frame it was writing, and a reader goes on behind a damaged one and says how many bytes it lost.
//! The format is described in `docs/formats/cgp.md` and pinned by golden fixtures: version 1 frames stay readable.

mod body;
mod frame;

pub use body::{Clock, Mode, Record, Source, Tally};
pub use frame::{Found, MAX_BODY, Reader, VERSION, encode};

/// How many events go into one frame.
pub const EVENTS_PER_FRAME: usize = 8192;

/// Why the bytes of a frame are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CgpError {
    /// A newer program wrote it.
    #[error(
        "a newer analyzer wrote this profile (format {found}; this one reads up to {VERSION}): read it with that one"
    )]
    Newer {
        /// The version of the frame.
        found: u8,
    },
    /// Its checksum holds, but not what it says.
    #[error("a frame of this profile says what cannot be ({0}): it was not written by an analyzer")]
    Body(&'static str),
    /// More than a frame may hold.
    #[error("{0} bytes are more than a frame holds")]
    TooLong(usize),
}
