//! Recovery points and bookmarks.

use serde::{Deserialize, Serialize};
use tap_block::{Consistency, Lsn, Name, WallTime};

use crate::json;

/// A POINT resolved, and frozen by that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// On which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The bookmark's name when the POINT was one, else null.
    #[serde(with = "json::text_or_null")]
    pub name: Option<Name>,
    /// The LSN meant.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When the record there was captured; null for LSN 0, before the first.
    #[serde(with = "json::text_or_null")]
    pub time: Option<WallTime>,
}

/// A named recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookmarkView {
    /// On which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// Unique on its volume.
    #[serde(with = "json::text")]
    pub name: Name,
    /// Its own place in the order of writes.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// When the tap made it.
    #[serde(with = "json::text")]
    pub time: WallTime,
    /// What it promises.
    #[serde(with = "json::text")]
    pub consistency: Consistency,
    /// Free text of its maker.
    pub note: String,
    /// False when it lies in a gap or before the baseline's end: it cannot be opened.
    pub selectable: bool,
}

/// Asks for a bookmark that covers every write acknowledged before the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BookmarkCreate {
    /// Its name.
    #[serde(with = "json::text")]
    pub name: Name,
    /// What the maker has made sure of.
    #[serde(with = "json::text", default = "crash")]
    pub consistency: Consistency,
    /// Free text.
    #[serde(default)]
    pub note: String,
    /// How long to wait for a baseline or resync to end.
    #[serde(default = "a_minute")]
    pub wait_seconds: u32,
}

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 4096;
/// The longest wait for a baseline that one request may ask for.
pub const MAX_WAIT_SECONDS: u32 = 24 * 3600;

fn crash() -> Consistency {
    Consistency::Crash
}

fn a_minute() -> u32 {
    60
}
