//! Records about the gateway itself, journalled in its own stream: images and whatever else must survive the
//! loss of the index.

use std::fmt;

use tap_block::{Lsn, Name, StreamId, VolumeId, WallTime};

/// The stream of the gateway's own records. No tap ever draws this number.
pub const OWN_STREAM: StreamId = StreamId::new(0);

/// The number of an image, unique and ever increasing in the life of a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(u64);

impl ImageId {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image {}", self.0)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A record of the gateway's own stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaRecord {
    /// An image was made.
    ImageCreated(ImageRecord),
    /// An image, and its overlay with it, is gone.
    ImageRemoved {
        /// Which.
        id: ImageId,
    },
}

/// An image: a frozen point of a volume under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Its number.
    pub id: ImageId,
    /// Its name, unique among the gateway's images.
    pub name: Name,
    /// The volume it shows.
    pub volume: VolumeId,
    /// The stream the volume belongs to.
    pub stream: StreamId,
    /// The moment it shows.
    pub point: Lsn,
    /// When the record at `point` was captured.
    pub at: WallTime,
    /// It has an overlay for writes.
    pub writable: bool,
    /// Bytes the overlay may take; 0 when read-only.
    pub quota: u64,
    /// When it was made, on the gateway's clock.
    pub created_at: WallTime,
}
