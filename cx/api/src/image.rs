//! Images: a moment, served as a disk.

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, WallTime};

use crate::json;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Unique, never used again.
    pub id: u64,
    /// Its export name.
    #[serde(with = "json::text")]
    pub name: Name,
    /// Of which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The moment it shows.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When that was; null for LSN 0.
    #[serde(with = "json::text_or_null")]
    pub time: Option<WallTime>,
    /// Bytes.
    pub size: u64,
    /// May it be written to (copy on write, history is never touched)?
    pub writable: bool,
    /// The most bytes its writes may take; null when read-only.
    pub quota_bytes: Option<u64>,
    /// Bytes its writes take now; null when read-only.
    pub used_bytes: Option<u64>,
    /// Bytes from its start that its flat local copy has; null when it is not materialized.
    #[serde(default)]
    pub materialized_bytes: Option<u64>,
    /// When it was made.
    #[serde(with = "json::text")]
    pub created: WallTime,
    /// The image that it was cloned from, also when that is gone; null when it was made of the volume.
    #[serde(default)]
    pub parent_id: Option<u64>,
    /// That image's name; null when there is none, or it is gone.
    #[serde(with = "json::text_or_null", default)]
    pub parent: Option<Name>,
    /// Where to open it: the first of `uris`, empty when no NBD listener is configured.
    pub uri: String,
    /// Every URI that serves it: NBD, then iSCSI.
    pub uris: Vec<String>,
}

/// The most that a quota may be: no volume is as large.
pub const MAX_QUOTA: u64 = 1 << 56;

/// Asks for an image of an image: what it shows now, written blocks included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageClone {
    /// Read/write?
    #[serde(default)]
    pub writable: bool,
    /// Its export name; the gateway chooses one when null.
    #[serde(with = "json::text_or_null", default)]
    pub name: Option<Name>,
    /// The most bytes that what is written on it may take, what it begins with included; the gateway chooses when null.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
}

/// Asks to make a volume of an image, which is then no image any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCommit {
    /// The volume's name.
    #[serde(with = "json::text")]
    pub name: Name,
}

/// Asks for an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCreate {
    /// Of which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// A POINT: `now`, an RFC 3339 time, `-10m`, `lsn:N` or a bookmark's name.
    pub at: String,
    /// Read/write?
    #[serde(default)]
    pub writable: bool,
    /// Its export name; the gateway chooses one when null. Digits alone would read as an id: refused.
    #[serde(with = "json::text_or_null", default)]
    pub name: Option<Name>,
    /// The most bytes its writes may take; the gateway chooses when null.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
}
