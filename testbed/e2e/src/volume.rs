//! What `volume show -o json` says.

use anyhow::{Context, Result};
use serde_json::Value;

/// The fields that scripts rely on.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeState {
    /// Bytes.
    pub size: u64,
    /// The last LSN that the tap gave; `None` when the tap cannot be reached.
    pub head: Option<u64>,
    /// The last LSN durable at the gateway.
    pub durable: u64,
    /// One word.
    pub state: String,
    /// Baselines ever begun.
    pub baselines: u64,
    /// Bytes ever copied again.
    pub resynced: u64,
    /// What history lost.
    pub gaps: Vec<Gap>,
}

/// A stretch of history lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The last sound LSN before it.
    pub from: u64,
    /// The first sound LSN after it; `None` while it is open.
    pub to: Option<u64>,
    /// Why.
    pub cause: String,
}

impl VolumeState {
    /// Reads the JSON.
    ///
    /// # Errors
    /// Names the field that is missing or of the wrong type.
    pub fn read(value: &Value) -> Result<Self> {
        let gaps =
            value.get("gaps").and_then(Value::as_array).context("volume show without a list of gaps")?;
        Ok(Self {
            size: number(value, "size")?,
            head: optional(value, "head_lsn")?,
            durable: number(value, "durable_lsn")?,
            state: text(value, "state")?,
            baselines: number(value, "baseline_count")?,
            resynced: number(value, "resynced_bytes")?,
            gaps: gaps.iter().map(Gap::read).collect::<Result<_>>()?,
        })
    }

    /// Everything written is kept, and nothing is being copied.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.state == "protected" && self.head == Some(self.durable)
    }

    /// Does history miss this point?
    #[must_use]
    pub fn lost(&self, lsn: u64) -> bool {
        self.gaps.iter().any(|g| g.from < lsn && g.to.is_none_or(|to| lsn < to))
    }
}

impl Gap {
    fn read(value: &Value) -> Result<Self> {
        Ok(Self {
            from: number(value, "from_lsn")?,
            to: optional(value, "to_lsn")?,
            cause: text(value, "cause")?,
        })
    }
}

/// A number field.
///
/// # Errors
/// When it is missing or no number.
pub fn number(value: &Value, key: &str) -> Result<u64> {
    value.get(key).and_then(Value::as_u64).with_context(|| format!("no number {key} in {value}"))
}

/// A text field.
///
/// # Errors
/// When it is missing or no text.
pub fn text(value: &Value, key: &str) -> Result<String> {
    let found = value.get(key).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no text {key} in {value}"))
}

/// A field that is there, and a number or null.
fn optional(value: &Value, key: &str) -> Result<Option<u64>> {
    match value.get(key) {
        Some(Value::Null) => Ok(None),
        _ => number(value, key).map(Some),
    }
}
