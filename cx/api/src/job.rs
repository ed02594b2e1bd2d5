//! Long work: started by one request, watched and cancelled by others.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tap_block::{Lsn, Name, WallTime};

use crate::json;
use crate::problem::Problem;

/// The number of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(u64);

impl JobId {
    /// The job with this number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Writes a moment of a volume to a file or device on the gateway's machine.
    Restore,
    /// Reads a volume's history and checks it.
    Verify,
    /// Makes an image's flat local copy.
    Materialize,
    /// Makes an image a volume of its own.
    Commit,
    /// Has a volume's tap copy the whole disk anew.
    Resync,
}

impl JobKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Materialize => "materialize",
            Self::Commit => "commit",
            Self::Resync => "resync",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At work.
    Running,
    /// Asked to end, not ended yet.
    Cancelling,
    /// Ended well: all of it is durable.
    Done,
    /// Ended with `error`.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

impl JobState {
    /// Will it change no more?
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// On which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// The moment it works on.
    #[serde(with = "json::lsn")]
    pub lsn: Lsn,
    /// The file or device it writes; empty when it writes none.
    pub path: String,
    /// Where what it made is used over NBD; empty until then, and when it makes nothing of the kind.
    #[serde(default)]
    pub uris: Vec<String>,
    /// Bytes dealt with so far, those found done by an earlier attempt included.
    pub done_bytes: u64,
    /// Bytes to deal with in all.
    pub total_bytes: u64,
    /// When it began.
    #[serde(with = "json::text")]
    pub started: WallTime,
    /// When it ended; null before that.
    #[serde(with = "json::text_or_null")]
    pub ended: Option<WallTime>,
    /// Why it failed; null otherwise.
    pub error: Option<Problem>,
}

/// Asks for a physical image: a moment of a volume as a sparse file (or onto a device).
///
/// The same request again goes on where an interrupted one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreCreate {
    /// Of which volume.
    #[serde(with = "json::text")]
    pub volume: Name,
    /// A POINT.
    pub at: String,
    /// Absolute, on the gateway's machine.
    pub path: String,
}
