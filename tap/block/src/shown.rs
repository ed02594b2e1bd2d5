//! Content that devices show and do not have: what several stand above (their base) needs no copying from one to another.

use std::fmt;
use std::sync::Arc;

use crate::device::{BlockDevice, DeviceError, Geometry, Op, Ticket};

/// What a device stands above. Two that are equal, of devices of one process, have the same content at every place, and always will:
/// a base never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What keeps it.
    pub keeper: usize,
    /// What is kept.
    pub of: u64,
    /// As of when.
    pub point: u64,
}

/// What a device shows somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Of the bytes asked about, so many from the first on are all alike; never none.
    pub length: u64,
    /// They are those of this base from there on; `None`: they are the device's own.
    pub from: Option<(Base, u64)>,
}

/// A device whose [`Op::Copy`] is from a base into it. All else it does not do.
pub struct FromBase {
    device: Arc<dyn BlockDevice>,
    base: Base,
}

impl FromBase {
    /// `device`, to be filled from `base`.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, base: Base) -> Self {
        Self { device, base }
    }
}

impl BlockDevice for FromBase {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        match op {
            Op::Copy { from, to } => self.device.show(self.base, from, to, ticket),
            _ => ticket.answer(Err(unsupported())),
        }
    }
}

impl fmt::Debug for FromBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromBase").field("base", &self.base).finish_non_exhaustive()
    }
}

pub(crate) fn unsupported() -> DeviceError {
    DeviceError::Unsupported("the device shows nothing of that base".to_owned())
}
