//! Proof that what is kept is what was written: when a volume was last verified, what was found, and putting it right.

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, VolumeId, WallTime};

use crate::json;
use crate::problem::Problem;
use crate::retention::ExtentView;

/// The last time that all of a volume's history was read and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofView {
    /// When that began.
    #[serde(with = "json::text")]
    pub checked: WallTime,
    /// Up to this record.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When that record was captured.
    #[serde(with = "json::text")]
    pub time: WallTime,
}

/// The newest entry of the store's ledger that somebody else keeps. What was hashed until then cannot be changed unseen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorView {
    /// The number of the entry.
    pub entry: u64,
    /// When it was made, on the store's own clock.
    #[serde(with = "json::text")]
    pub time: WallTime,
    /// Who keeps it.
    #[serde(rename = "where")]
    pub place: String,
}

/// Asks for a volume's history to be read and checked. The answer is a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationCreate {
    /// Of which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// Up to this POINT; null: all of it.
    #[serde(default)]
    pub to: Option<String>,
}

/// What is known of the soundness of a volume's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationView {
    /// The volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// When all of it was last read and checked; null when it never was.
    pub verified: Option<ProofView>,
    /// Up to where somebody else vouches for the store's ledger; null when nobody does.
    #[serde(default)]
    pub anchored: Option<AnchorView>,
    /// Findings that still are.
    pub open: u64,
    /// Findings that are over, and nobody has said yet that they have read of them.
    pub over: u64,
    /// The first thousand of both.
    pub findings: Vec<FindingView>,
}

/// Something that is not as it was written, or was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingView {
    /// What it is.
    pub kind: FindingKind,
    /// Where in the volume; null when that is not known, or it is the store's as a whole.
    pub extent: Option<ExtentView>,
    /// Which version of the block: a number to give back, see `unit` and `repairs`.
    pub version: Option<u64>,
    /// The first point that shows it; null when none is known to.
    #[serde(with = "json::lsn_or_null")]
    pub from_lsn: Option<Lsn>,
    /// The last one; null: the newest does.
    #[serde(with = "json::lsn_or_null")]
    pub to_lsn: Option<Lsn>,
    /// When the first one was captured.
    #[serde(with = "json::text_or_null")]
    pub from: Option<WallTime>,
    /// When the last one was.
    #[serde(with = "json::text_or_null")]
    pub to: Option<WallTime>,
    /// The segment of the store it lies in.
    pub segment: u32,
    /// The first byte there.
    pub from_byte: u32,
    /// The byte behind the last.
    pub to_byte: u32,
    /// What is wrong.
    pub detail: String,
    /// When it was found.
    #[serde(with = "json::text")]
    pub found: WallTime,
    /// Since when it is known to be over; null while it is not.
    #[serde(with = "json::text_or_null")]
    pub over: Option<WallTime>,
}

/// Kinds of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// A stored block: its reads are refused.
    Block,
    /// The head of a frame: its blocks are read by the index, which could not be built again without it.
    Frame,
    /// The header of a segment.
    Header,
    /// The manifest of settled history, or its copy.
    Manifest,
    /// The index says something else than the segments.
    Index,
    /// A segment that is not there.
    Missing,
    /// A segment whose content is not what was entered in the ledger, and in which no other damage was found.
    Altered,
    /// The ledger of segments itself.
    Ledger,
}

impl FindingKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Frame => "frame",
            Self::Header => "header",
            Self::Manifest => "manifest",
            Self::Index => "index",
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Ledger => "ledger",
        }
    }
}

/// The stored form of one version of a block, the same at every gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitView {
    /// The volume's id: names may be given twice, ids are not.
    #[serde(with = "json::text")]
    pub volume_id: VolumeId,
    /// In hex.
    pub unit: String,
}

/// Puts a damaged block right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairCreate {
    /// The id of the volume that the unit is of, as it came with it.
    #[serde(with = "json::text")]
    pub volume_id: VolumeId,
    /// The block's first byte in the volume.
    pub offset: u64,
    /// Which version of it.
    pub version: u64,
    /// Its stored form from elsewhere, in hex.
    pub unit: String,
}

/// What a repair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairView {
    /// Places that were put right; 0 when none was damaged any more.
    pub places: u64,
}

/// Asks for the stored form of several versions of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitsAsk {
    /// Which: [`crate::paths::MAX_UNITS`] at most.
    pub blocks: Vec<VersionAt>,
}

/// A version of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionAt {
    /// The block's first byte in the volume.
    pub offset: u64,
    /// Which version of it.
    pub version: u64,
}

/// The stored forms of several versions of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsView {
    /// The volume's id: names may be given twice, ids are not.
    #[serde(with = "json::text")]
    pub volume_id: VolumeId,
    /// In the order in which they were asked for.
    pub units: Vec<UnitFound>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFound {
    /// In hex; null when it is not to be had.
    pub unit: Option<String>,
    /// Why not; null when it is.
    pub error: Option<Problem>,
}

/// Puts several damaged blocks right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairsCreate {
    /// The id of the volume that the units are of, as it came with them.
    #[serde(with = "json::text")]
    pub volume_id: VolumeId,
    /// Which: [`crate::paths::MAX_UNITS`] at most.
    pub blocks: Vec<RepairOf>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairOf {
    /// The block's first byte in the volume.
    pub offset: u64,
    /// Which version of it.
    pub version: u64,
    /// Its stored form from elsewhere, in hex.
    pub unit: String,
}

/// What several repairs did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairsView {
    /// In the order in which they were asked for.
    pub blocks: Vec<RepairedView>,
}

/// What one of them did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairedView {
    /// Places that were put right, 0 when none was damaged any more; null when it was not.
    pub places: Option<u64>,
    /// Why not; null when it was.
    pub error: Option<Problem>,
}
