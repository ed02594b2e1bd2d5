//! Why bytes are not what the journal's format says.

use thiserror::Error;

use crate::units::SegmentId;

/// Why bytes are refused. Whoever reads them knows where they lay and says so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Fewer bytes than the form needs.
    #[error("{0} is cut off")]
    Short(&'static str),
    /// Not this kind of thing at all, or of another version of the format.
    #[error("no {0} of format version 1 here")]
    Magic(&'static str),
    /// Sound, and of a version that only a newer program knows.
    #[error(
        "the {what} is of version {version}, and {known} is the last that this program knows: use a newer one"
    )]
    Newer {
        /// What was being read.
        what: &'static str,
        /// Its version.
        version: u32,
        /// The last version known.
        known: u32,
    },
    /// The checksum does not match.
    #[error("the checksum of the {0} does not match")]
    Checksum(&'static str),
    /// A field that no writer leaves so.
    #[error("{what}: {detail}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// Which field and why.
        detail: String,
    },
    /// Bytes of another store.
    #[error("it belongs to store {found:016x}, not to store {expected:016x}")]
    OtherStore {
        /// The store that was expected.
        expected: u64,
        /// The store found.
        found: u64,
    },
    /// Bytes of another segment, as an earlier life of the file leaves them.
    #[error("it belongs to {found}, not to {expected}")]
    OtherSegment {
        /// The segment that was expected.
        expected: SegmentId,
        /// The segment found.
        found: SegmentId,
    },
    /// A frame that does not follow the one before it.
    #[error("it does not follow the frame before it ({0})")]
    Chain(&'static str),
}

impl FormatError {
    pub(crate) fn malformed(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Malformed { what, detail: detail.into() }
    }
}
