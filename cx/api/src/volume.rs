//! A protected disk as the API shows it.

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, SyncCause, VolumeId, WallTime};

use crate::json;
use crate::verification::ProofView;

/// A protected disk, its state and how far behind its history is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Drawn at random when protection began.
    #[serde(with = "json::text")]
    pub id: VolumeId,
    /// Its name.
    #[serde(with = "json::text")]
    pub name: Name,
    /// Bytes, at the head.
    pub size: u64,
    /// What its tap is doing; `unknown` when nothing was heard for 3 s.
    pub state: VolumeState,
    /// The last LSN the tap assigned, asked of the tap; null when it cannot be reached.
    #[serde(with = "json::lsn_or_null")]
    pub head_lsn: Option<Lsn>,
    /// The last LSN durable here. Reaches `head_lsn` only when no baseline or resync is running.
    #[serde(with = "json::lsn")]
    pub durable_lsn: Lsn,
    /// When the record at `durable_lsn` was captured; null before the first.
    #[serde(with = "json::text_or_null")]
    pub durable_time: Option<WallTime>,
    /// Now minus the latest tap time up to which everything is durable here; null when unknown.
    #[serde(with = "json::seconds_or_null")]
    pub lag_seconds: Option<f64>,
    /// How far the clock of its source is ahead of the gateway's, as measured (behind: negative); null when it was not.
    #[serde(default)]
    pub clock_offset_seconds: Option<f64>,
    /// Bytes captured or marked at the tap and not yet durable here; null when unknown.
    pub lag_bytes: Option<u64>,
    /// Baselines ever started.
    pub baseline_count: u32,
    /// Bytes ever copied again by resyncs.
    pub resynced_bytes: u64,
    /// The baseline or resync that is running; null when none is.
    pub sync: Option<SyncView>,
    /// Stretches of history lost, oldest first.
    pub gaps: Vec<GapView>,
    /// When all of its history was last read and checked; null when it never was.
    #[serde(default)]
    pub verified: Option<ProofView>,
    /// Findings of verifications that still are, those of the store as a whole included.
    #[serde(default)]
    pub damaged: u64,
    /// Bytes that its history takes in the journal.
    #[serde(default)]
    pub history_bytes: u64,
    /// The limit that its policy sets; null when there is none.
    #[serde(default)]
    pub history_limit: Option<LimitView>,
}

/// A tap whose state is an old copy, and that is to go on all the same: it begins anew, and its whole disk is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedView {
    /// The volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The tap, as it greets.
    pub tap: String,
    /// Since when it is refused.
    #[serde(with = "json::text")]
    pub refused_since: WallTime,
    /// The last LSN that its state knows of.
    #[serde(with = "json::lsn")]
    pub knows_lsn: Lsn,
    /// When the record at `knows_lsn` was captured: so old is the copy; null when history does not show that.
    #[serde(with = "json::text_or_null")]
    pub knows_time: Option<WallTime>,
    /// The last LSN of the history, above which the tap goes on.
    #[serde(with = "json::lsn")]
    pub history_lsn: Lsn,
    /// The fencing number that the tap gets; every other copy of its state has a lower one, and is refused from here on.
    pub epoch: u32,
}

/// What a volume's history may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// Bytes.
    pub bytes: u64,
    /// What is done about it.
    pub state: LimitState,
}

/// What is done about a volume's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitState {
    /// Nothing: there is room.
    Fits,
    /// Its history is thinned sooner than its policy says.
    Thinning,
    /// Its oldest points go.
    Purging,
    /// It is full and nothing more may go.
    Stuck,
    /// No more of its history is taken until there is room.
    Stopped,
}

impl LimitState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Thinning => "thinning",
            Self::Purging => "purging",
            Self::Stuck => "stuck",
            Self::Stopped => "stopped",
        }
    }
}

/// What a volume's tap is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// The initial copy is running.
    Baseline,
    /// Every write is on its way or durable.
    Protected,
    /// Writes wait in a spool on disk.
    Spooling,
    /// The queues are full: changed regions are marked, their history is being lost.
    Bitmap,
    /// Marked regions are being copied.
    Resync,
    /// The tap said goodbye.
    Stopped,
    /// Another tap took over.
    Fenced,
    /// Nothing was heard lately.
    Unknown,
}

impl VolumeState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Protected => "protected",
            Self::Spooling => "spooling",
            Self::Bitmap => "bitmap",
            Self::Resync => "resync",
            Self::Stopped => "stopped",
            Self::Fenced => "fenced",
            Self::Unknown => "unknown",
        }
    }
}

/// A baseline or resync under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncView {
    /// Why.
    #[serde(with = "json::text")]
    pub cause: SyncCause,
    /// Bytes looked at or copied so far.
    pub done_bytes: u64,
    /// Bytes to look at in all.
    pub total_bytes: u64,
}

/// A stretch of history that was lost: no point inside is selectable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapView {
    /// The last sound LSN before it.
    #[serde(with = "json::lsn")]
    pub from_lsn: Lsn,
    /// The first sound LSN after it; null while it is open.
    #[serde(with = "json::lsn_or_null")]
    pub to_lsn: Option<Lsn>,
    /// When it began; null when no record tells.
    #[serde(with = "json::text_or_null")]
    pub from: Option<WallTime>,
    /// When it was healed; null while it is open.
    #[serde(with = "json::text_or_null")]
    pub to: Option<WallTime>,
    /// Why.
    #[serde(with = "json::text")]
    pub cause: SyncCause,
    /// Bytes copied to heal it.
    pub bytes: u64,
}
