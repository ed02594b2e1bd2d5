//! Records about the gateway itself, journalled in its own stream: images and whatever else must survive the
//! loss of the index.

use std::fmt;
use std::time::Duration;

use prost::{Message, Oneof};
use tap_block::{Lsn, Name, StreamId, VolumeId, WallTime};

use crate::error::FormatError;
use crate::policy::{PPolicy, RetentionPolicy, nanos, policy_in, policy_out};

const WHAT: &str = "gateway record";

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
    /// A retention policy is in force from here on.
    PolicySet {
        /// For this volume; `None`: for all that have none of their own.
        volume: Option<VolumeId>,
        /// The policy; `None`: none of its own.
        policy: Option<RetentionPolicy>,
    },
    /// A point is never thinned out, until it is unpinned.
    Pinned {
        /// The volume.
        volume: VolumeId,
        /// The point.
        point: Lsn,
        /// Why, in its maker's words.
        note: String,
    },
    /// A point is an ordinary one again.
    Unpinned {
        /// The volume.
        volume: VolumeId,
        /// The point.
        point: Lsn,
    },
    /// A stretch of history that nobody can delete.
    Held(Hold),
    /// Points came to a gate of a tier, or went through it.
    GateMoved(GateMove),
    /// A bookmark is gone; its point is an ordinary one from here on.
    BookmarkRemoved {
        /// The volume.
        volume: VolumeId,
        /// Where it stood: one made since with the same name is another.
        point: Lsn,
        /// Its name.
        name: Name,
    },
    /// Somebody has read that records of the gateway's own were lost before this one, and has made anew what was missing.
    LossRead,
}

/// Something that happened at a gate: at a tier whose points only go when a hook has handed them on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateMove {
    /// The volume.
    pub volume: VolumeId,
    /// The tier, by the age up to which it keeps points.
    pub keep: Duration,
    /// It concerns points received up to this time, on the store's own clock.
    pub through: WallTime,
    /// When it happened, on the same clock.
    pub at: WallTime,
    /// What happened.
    pub step: GateStep,
}

/// What happens at a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateStep {
    /// The hook is run for the points; their deadline counts from here.
    Begun,
    /// It succeeded: they may go.
    Passed,
    /// It did not in time: they may go all the same.
    Overdue,
    /// There was no room for them: they went without it.
    Overruled,
}

/// A stretch of a volume's history that stays whole until a date. Nothing takes it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The volume.
    pub volume: VolumeId,
    /// From this time on: what was captured since then by the source's clock, and what was received since then by the
    /// store's own. The state that it begins with is held too.
    pub from: WallTime,
    /// Up to this time.
    pub to: WallTime,
    /// Until this date, on the store's own clock.
    pub until: WallTime,
    /// What that clock had been credited with in all, over restarts, as of which `until` is meant: time that no program saw
    /// go by does not count towards the end of a hold.
    pub credited: Duration,
    /// Why, in its maker's words.
    pub note: String,
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
    /// The image that it was cloned from; `None` when it was made of the volume, or by an older program.
    pub parent: Option<ImageId>,
}

#[derive(Clone, PartialEq, Message)]
struct PMeta {
    #[prost(oneof = "PKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    kind: Option<PKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum PKind {
    #[prost(message, tag = "1")]
    ImageCreated(PImage),
    #[prost(message, tag = "2")]
    ImageRemoved(PImageRemoved),
    #[prost(message, tag = "3")]
    PolicySet(PPolicySet),
    #[prost(message, tag = "4")]
    Pinned(PPin),
    #[prost(message, tag = "5")]
    Unpinned(PPin),
    #[prost(message, tag = "6")]
    Held(PHold),
    #[prost(message, tag = "7")]
    GateMoved(PGateMove),
    #[prost(message, tag = "8")]
    BookmarkRemoved(PBookmarkRemoved),
    #[prost(message, tag = "9")]
    LossRead(PLossRead),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PLossRead {}

#[derive(Clone, PartialEq, Message)]
struct PBookmarkRemoved {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(uint64, tag = "2")]
    point: u64,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PGateMove {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(uint64, tag = "2")]
    keep: u64,
    #[prost(fixed64, tag = "3")]
    through: u64,
    #[prost(fixed64, tag = "4")]
    at: u64,
    #[prost(uint32, tag = "5")]
    step: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PPolicySet {
    #[prost(fixed64, optional, tag = "1")]
    volume: Option<u64>,
    #[prost(message, optional, tag = "2")]
    policy: Option<PPolicy>,
}

#[derive(Clone, PartialEq, Message)]
struct PPin {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(uint64, tag = "2")]
    point: u64,
    #[prost(string, tag = "3")]
    note: String,
}

#[derive(Clone, PartialEq, Message)]
struct PHold {
    #[prost(fixed64, tag = "1")]
    volume: u64,
    #[prost(fixed64, tag = "2")]
    from: u64,
    #[prost(fixed64, tag = "3")]
    to: u64,
    #[prost(fixed64, tag = "4")]
    until: u64,
    #[prost(string, tag = "5")]
    note: String,
    #[prost(uint64, tag = "6")]
    credited: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PImage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(fixed64, tag = "3")]
    volume: u64,
    #[prost(fixed64, tag = "4")]
    stream: u64,
    #[prost(uint64, tag = "5")]
    point: u64,
    #[prost(fixed64, tag = "6")]
    at: u64,
    #[prost(bool, tag = "7")]
    writable: bool,
    #[prost(uint64, tag = "8")]
    quota: u64,
    #[prost(fixed64, tag = "9")]
    created_at: u64,
    #[prost(uint64, optional, tag = "10")]
    parent: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PImageRemoved {
    #[prost(uint64, tag = "1")]
    id: u64,
}

impl MetaRecord {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::ImageCreated(image) => PKind::ImageCreated(image_out(image)),
            Self::ImageRemoved { id } => PKind::ImageRemoved(PImageRemoved { id: id.get() }),
            Self::PolicySet { volume, policy } => PKind::PolicySet(PPolicySet {
                volume: volume.map(VolumeId::get),
                policy: policy.as_ref().map(policy_out),
            }),
            Self::Pinned { volume, point, note } => {
                PKind::Pinned(PPin { volume: volume.get(), point: point.get(), note: note.clone() })
            }
            Self::Unpinned { volume, point } => {
                PKind::Unpinned(PPin { volume: volume.get(), point: point.get(), note: String::new() })
            }
            Self::Held(hold) => PKind::Held(PHold {
                volume: hold.volume.get(),
                from: hold.from.nanos(),
                to: hold.to.nanos(),
                until: hold.until.nanos(),
                note: hold.note.clone(),
                credited: nanos(hold.credited),
            }),
            Self::BookmarkRemoved { volume, point, name } => PKind::BookmarkRemoved(PBookmarkRemoved {
                volume: volume.get(),
                point: point.get(),
                name: name.to_string(),
            }),
            Self::LossRead => PKind::LossRead(PLossRead {}),
            Self::GateMoved(moved) => PKind::GateMoved(PGateMove {
                volume: moved.volume.get(),
                keep: nanos(moved.keep),
                through: moved.through.nanos(),
                at: moved.at.nanos(),
                step: step_out(moved.step),
            }),
        };
        PMeta { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from bytes.
    ///
    /// # Errors
    /// [`FormatError`] when they are no record.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let twin = PMeta::decode(bytes).map_err(|e| FormatError::malformed(WHAT, e.to_string()))?;
        match twin.kind.ok_or_else(|| FormatError::malformed(WHAT, "of an unknown kind"))? {
            PKind::ImageCreated(image) => image_in(image).map(Self::ImageCreated),
            PKind::ImageRemoved(gone) => Ok(Self::ImageRemoved { id: ImageId::new(gone.id) }),
            PKind::PolicySet(set) => Ok(Self::PolicySet {
                volume: set.volume.map(VolumeId::new),
                policy: set.policy.as_ref().map(policy_in).transpose()?,
            }),
            PKind::Pinned(pin) => {
                let point = lsn_in(pin.point)?;
                Ok(Self::Pinned { volume: VolumeId::new(pin.volume), point, note: pin.note })
            }
            PKind::Unpinned(pin) => {
                Ok(Self::Unpinned { volume: VolumeId::new(pin.volume), point: lsn_in(pin.point)? })
            }
            PKind::Held(hold) => Ok(Self::Held(Hold {
                volume: VolumeId::new(hold.volume),
                from: WallTime::from_nanos(hold.from),
                to: WallTime::from_nanos(hold.to),
                until: WallTime::from_nanos(hold.until),
                note: hold.note,
                credited: Duration::from_nanos(hold.credited),
            })),
            PKind::BookmarkRemoved(gone) => Ok(Self::BookmarkRemoved {
                volume: VolumeId::new(gone.volume),
                point: lsn_in(gone.point)?,
                name: name_in(&gone.name)?,
            }),
            PKind::LossRead(PLossRead {}) => Ok(Self::LossRead),
            PKind::GateMoved(moved) => Ok(Self::GateMoved(GateMove {
                volume: VolumeId::new(moved.volume),
                keep: Duration::from_nanos(moved.keep),
                through: WallTime::from_nanos(moved.through),
                at: WallTime::from_nanos(moved.at),
                step: step_in(moved.step)?,
            })),
        }
    }
}

const fn step_out(step: GateStep) -> u32 {
    match step {
        GateStep::Begun => 1,
        GateStep::Passed => 2,
        GateStep::Overdue => 3,
        GateStep::Overruled => 4,
    }
}

fn step_in(code: u32) -> Result<GateStep, FormatError> {
    match code {
        1 => Ok(GateStep::Begun),
        2 => Ok(GateStep::Passed),
        3 => Ok(GateStep::Overdue),
        4 => Ok(GateStep::Overruled),
        _ => Err(FormatError::malformed(WHAT, "an unknown step at a gate")),
    }
}

fn lsn_in(raw: u64) -> Result<Lsn, FormatError> {
    Lsn::new(raw).ok_or_else(|| FormatError::malformed(WHAT, "LSN out of range"))
}

fn name_in(text: &str) -> Result<Name, FormatError> {
    text.parse().map_err(|e| FormatError::malformed(WHAT, format!("name: {e}")))
}

fn image_out(image: &ImageRecord) -> PImage {
    PImage {
        id: image.id.get(),
        name: image.name.to_string(),
        volume: image.volume.get(),
        stream: image.stream.get(),
        point: image.point.get(),
        at: image.at.nanos(),
        writable: image.writable,
        quota: image.quota,
        created_at: image.created_at.nanos(),
        parent: image.parent.map(ImageId::get),
    }
}

fn image_in(twin: PImage) -> Result<ImageRecord, FormatError> {
    Ok(ImageRecord {
        id: ImageId::new(twin.id),
        name: name_in(&twin.name)?,
        volume: VolumeId::new(twin.volume),
        stream: StreamId::new(twin.stream),
        point: lsn_in(twin.point)?,
        at: WallTime::from_nanos(twin.at),
        writable: twin.writable,
        quota: twin.quota,
        created_at: WallTime::from_nanos(twin.created_at),
        parent: twin.parent.map(ImageId::new),
    })
}
