//! What went for want of room though policies would have kept it.

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, WallTime};

use crate::json;

/// Points of a volume that went for want of room, told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortageView {
    /// What went.
    pub went: WentShort,
    /// What was too small.
    pub of: ShortOf,
    /// The first of them.
    #[serde(with = "json::lsn")]
    pub first_lsn: Lsn,
    /// The last of them; points that were kept may lie between the two.
    #[serde(with = "json::lsn")]
    pub last_lsn: Lsn,
    /// How many.
    pub points: u64,
    /// When the first of them went.
    #[serde(with = "json::text")]
    pub since: WallTime,
    /// When the last of them did.
    #[serde(with = "json::text")]
    pub until: WallTime,
    /// All of that in words.
    pub said: String,
}

/// What went for want of room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WentShort {
    /// Points between others: history was thinned out sooner than its policy says.
    Thinned,
    /// The oldest points.
    Oldest,
    /// Bookmarks.
    Bookmarks,
}

/// What room was short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShortOf {
    /// The journal: its disk, or the limit of all of it.
    Journal,
    /// The limit that the volume's own policy sets.
    Limit,
}
