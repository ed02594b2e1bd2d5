//! The contract of a block device.
//!
//! Completion-based and object-safe: an operation goes in with a [`Ticket`], its outcome comes out of the
//! ticket's [`CompletionQueue`]. No async, no threads: a file, io_uring, an overlay, a simulator and a memory
//! device all fit, and a device that has the answer at hand completes before `submit` returns.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use thiserror::Error;

use crate::extent::Extent;

/// A disk.
///
/// Operations complete in any order and overlapping ones in flight have no order at all, so whoever needs
/// order waits for a completion; a [`Op::Flush`] makes durable everything that had completed, for any client,
/// before it was submitted.
pub trait BlockDevice: Send + Sync {
    /// Size and abilities as they are now.
    fn geometry(&self) -> Geometry;

    /// Starts `op`; its outcome reaches `ticket` exactly once, maybe before this returns.
    /// Extents outside the device are answered with [`DeviceError::OutOfRange`], writes to a read-only one
    /// with [`DeviceError::ReadOnly`].
    fn submit(&self, op: Op, ticket: Ticket);
}

/// What a device is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes.
    pub size: u64,
    /// Every write-class operation is refused.
    pub read_only: bool,
}

/// An operation. Extents are bytes, of any alignment; an empty extent succeeds and does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Answered with exactly the extent's bytes.
    Read {
        /// Where.
        extent: Extent,
    },
    /// `data` at `offset`.
    Write {
        /// The first byte.
        offset: u64,
        /// What to write.
        data: Bytes,
        /// Durable before it completes.
        fua: bool,
    },
    /// The extent reads as zeroes afterwards.
    Zero {
        /// Where.
        extent: Extent,
        /// Durable before it completes.
        fua: bool,
        /// The space need not stay allocated.
        may_trim: bool,
    },
    /// The client has no use for the extent's content any more. A device either makes it zeroes or leaves it.
    Trim {
        /// Where.
        extent: Extent,
        /// Durable before it completes.
        fua: bool,
    },
    /// See [`BlockDevice`].
    Flush,
}

/// What came of an operation: the data of a read, nothing for the others.
pub type Outcome = Result<Bytes, DeviceError>;

/// Why an operation failed. Protocol fronts map these to their own codes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// A write-class operation on a read-only device.
    #[error("the device is read-only")]
    ReadOnly,
    /// Not all of the extent is on the device.
    #[error("{extent} is not all within the device's {size} bytes")]
    OutOfRange {
        /// The extent asked for.
        extent: Extent,
        /// The device's size.
        size: u64,
    },
    /// No room (a full file system, an overlay at its quota).
    #[error("no space left: {0}")]
    NoSpace(String),
    /// Stored data failed its check and is not served.
    #[error("damaged data at {extent}: {detail}")]
    Damaged {
        /// Where on the device.
        extent: Extent,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The operating system refused.
    #[error("I/O error: {0}")]
    Io(String),
    /// The device is being closed.
    #[error("the device is shut down")]
    Stopped,
}

impl Op {
    /// Where it works; `None` for a flush or an extent past the end of the number space.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Self::Read { extent } | Self::Zero { extent, .. } | Self::Trim { extent, .. } => Some(*extent),
            Self::Write { offset, data, .. } => Extent::new(*offset, crate::units::count(data.len())),
            Self::Flush => None,
        }
    }

    /// Does it change the device?
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Trim { .. })
    }
}

impl Geometry {
    /// The checks every device makes before it starts an operation.
    ///
    /// # Errors
    /// [`DeviceError::ReadOnly`] or [`DeviceError::OutOfRange`].
    pub fn admit(&self, op: &Op) -> Result<(), DeviceError> {
        if self.read_only && op.is_write() {
            return Err(DeviceError::ReadOnly);
        }
        if matches!(op, Op::Flush) {
            return Ok(());
        }
        match op.extent() {
            Some(extent) if extent.end() <= self.size => Ok(()),
            Some(extent) => Err(DeviceError::OutOfRange { extent, size: self.size }),
            None => {
                Err(DeviceError::OutOfRange { extent: Extent::between(u64::MAX, u64::MAX), size: self.size })
            }
        }
    }
}

/// Where outcomes go. Implementations must not block and must not call back into a device.
pub trait CompletionQueue: Send + Sync {
    /// The operation submitted with `tag` is over.
    fn complete(&self, tag: u64, outcome: Outcome);
}

/// The right, and duty, to complete one operation. One that is dropped completes with
/// [`DeviceError::Stopped`], so no client waits for ever.
pub struct Ticket {
    tag: u64,
    queue: Option<Arc<dyn CompletionQueue>>,
}

impl Ticket {
    /// A ticket that completes `tag` in `queue`.
    #[must_use]
    pub fn new(tag: u64, queue: Arc<dyn CompletionQueue>) -> Self {
        Self { tag, queue: Some(queue) }
    }

    /// Hands over the outcome.
    pub fn complete(mut self, outcome: Outcome) {
        if let Some(queue) = self.queue.take() {
            queue.complete(self.tag, outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.complete(self.tag, Err(DeviceError::Stopped));
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.tag)
    }
}

/// Runs one operation and blocks the calling thread until it is over. For tools, tests and worker threads;
/// never on a thread that the device needs to make progress.
pub fn run(device: &dyn BlockDevice, op: Op) -> Outcome {
    #[derive(Default)]
    struct Slot {
        outcome: Mutex<Option<Outcome>>,
        there: Condvar,
    }
    impl CompletionQueue for Slot {
        fn complete(&self, _: u64, outcome: Outcome) {
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            self.there.notify_one();
        }
    }
    let slot = Arc::new(Slot::default());
    device.submit(op, Ticket::new(0, slot.clone()));
    let mut outcome = slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match outcome.take() {
            Some(done) => return done,
            None => outcome = slot.there.wait(outcome).unwrap_or_else(PoisonError::into_inner),
        }
    }
}
