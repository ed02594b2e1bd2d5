//! The gateway as a whole, for people (`status`) and for watchdogs (`/healthz`).
//!
//! State is proof: what nobody has verified or heard of lately is `unknown`, never "fine".

use serde::{Deserialize, Serialize};
use tap_block::{Name, WallTime};

use crate::json;
use crate::volume::{VolumeState, VolumeView};

/// The gateway at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// The program's version.
    pub version: String,
    /// When this gateway started.
    #[serde(with = "json::text")]
    pub started: WallTime,
    /// The gateway's clock as it answered.
    #[serde(with = "json::text")]
    pub now: WallTime,
    /// The worst of what follows.
    pub health: Health,
    /// Why it is not `ok`, and what to do, one sentence each.
    pub reasons: Vec<String>,
    /// Every volume.
    pub volumes: Vec<VolumeView>,
    /// How many images exist.
    pub images: u64,
    /// How many jobs are running.
    pub jobs_running: u64,
    /// How many NBD connections are open.
    pub nbd_connections: u64,
    /// NBD URIs without an export name.
    pub nbd: Vec<String>,
    /// Where history is kept.
    pub journal: JournalView,
}

/// The store behind the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalView {
    /// Segment files in use.
    pub segments: u64,
    /// Bytes those files take.
    pub bytes: u64,
    /// Bytes free on its file system; null when they cannot be read.
    pub free_bytes: Option<u64>,
    /// Records ever made durable.
    pub records: u64,
    /// Places found damaged.
    pub damaged: u64,
    /// Those of them of which reads were refused, or of which records are lost. Of all others no read is refused.
    #[serde(default)]
    pub refused: u64,
}

/// How well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Everything that is known is well, and recently known.
    Ok,
    /// Works, with less protection than asked for (baseline, resync, spooling, a gap being healed).
    Degraded,
    /// Nothing was heard of a volume lately: it may or may not be well.
    Unknown,
    /// Cannot take or serve history.
    Failing,
}

impl Health {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Failing => "failing",
        }
    }
}

/// The answer of `/healthz`: 503 when `failing`, else 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthView {
    /// The worst of what follows.
    pub health: Health,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
    /// Every volume in short.
    pub volumes: Vec<VolumeHealth>,
}

/// A volume in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeHealth {
    /// Its name.
    #[serde(with = "json::text")]
    pub name: Name,
    /// What its tap is doing.
    pub state: VolumeState,
    /// How far behind; null when unknown.
    #[serde(with = "json::seconds_or_null")]
    pub lag_seconds: Option<f64>,
    /// The last point that was verified to be sound; null when none ever was.
    #[serde(with = "json::text_or_null")]
    pub verified: Option<WallTime>,
}

impl From<&StatusView> for HealthView {
    fn from(status: &StatusView) -> Self {
        let volumes = status.volumes.iter().map(VolumeHealth::from).collect();
        Self { health: status.health, reasons: status.reasons.clone(), volumes }
    }
}

impl From<&VolumeView> for VolumeHealth {
    fn from(volume: &VolumeView) -> Self {
        Self {
            name: volume.name.clone(),
            state: volume.state,
            lag_seconds: volume.lag_seconds,
            verified: volume.verified.filter(|_| volume.damaged == 0).map(|proof| proof.time),
        }
    }
}

/// The gateway's own clock, by which history ages and holds run, and what it was not credited with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElapsedView {
    /// What that clock shows.
    #[serde(with = "json::text")]
    pub age: WallTime,
    /// What the machine's clock shows.
    #[serde(with = "json::text")]
    pub machine: WallTime,
    /// By how much the machine's clock went on while the gateway was down; null when all of that is counted.
    pub went_seconds: Option<u64>,
    /// How much of it is not counted.
    pub uncounted_seconds: u64,
    /// How much of that may be confirmed: no more than leads up to what the machine's clock shows now.
    pub creditable_seconds: u64,
    /// Holds that would be over then: of which volume, and until when.
    pub holds_ending: Vec<String>,
}

/// Confirms that time went by that was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElapsedConfirm {
    /// How much.
    pub seconds: u64,
}

/// The stores that the gateway has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresView {
    /// The id of the one in use.
    pub store: String,
    /// Those that were here before, or meanwhile.
    pub others: Vec<OtherStoreView>,
}

/// A store that was in use, and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherStoreView {
    /// Its id.
    pub store: String,
    /// Who knows of it.
    pub known_by: String,
    /// When it was last told of, on the clock of whoever knows of it.
    #[serde(with = "json::text")]
    pub last: WallTime,
    /// Somebody said that it is gone: it is not missed any more.
    pub confirmed_gone: bool,
}

/// Says that a store that was here is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreGone {
    /// Its id.
    pub store: String,
}
