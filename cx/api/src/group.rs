//! Consistency groups, and the points that all of their members share.

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, WallTime};

use crate::json;

/// A consistency group: volumes of one tap whose writes depend on one another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name, as the tap gives it.
    #[serde(with = "json::text")]
    pub name: Name,
    /// Its members.
    pub volumes: Vec<String>,
    /// How many points can be opened in every member.
    pub point_count: u64,
    /// The oldest of them; null when there is none.
    pub oldest: Option<GroupPointView>,
    /// The newest of them.
    pub newest: Option<GroupPointView>,
    /// How long ago that was, never less than it is; null when there is none, or when the tap's clock is not known.
    pub age_seconds: Option<f64>,
    /// The members have one retention policy. With several, fewer of their points are kept in all.
    pub one_policy: bool,
}

/// A barrier over a group that can be opened in every member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPointView {
    /// The group.
    #[serde(with = "json::text")]
    pub group: Name,
    /// A POINT of each member: `mark:NUMBER`.
    pub point: String,
    /// When the tap made it.
    #[serde(with = "json::text")]
    pub time: WallTime,
    /// The bookmark's name when it is one, else null.
    #[serde(with = "json::text_or_null")]
    pub bookmark: Option<Name>,
    /// Its place in each member.
    pub members: Vec<MemberPointView>,
}

/// A group's point in one of its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPointView {
    /// The member.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// Just after this record.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// The export that shows it: `VOLUME@mark:NUMBER`.
    pub export: String,
}
