//! The contract of a block device.
//!
//! Completion-based and object-safe: an operation goes in with a [`Ticket`], its outcome comes out of the
//! ticket's [`CompletionQueue`]. No async, no threads: a file, io_uring, an overlay, a simulator and a memory
//! device all fit, and a device that has the answer at hand completes before `submit` returns.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::extent::Extent;
use crate::name::Name;
use crate::shown::{Base, Shown, unsupported};
use crate::status::{Map, Stretch};
use crate::units::{count, index};

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

    /// Starts all of `batch`, in its order, and empties it. What came together may be done together: one by one each would cost
    /// its own system calls.
    fn submit_all(&self, batch: &mut Vec<(Op, Ticket)>) {
        batch.drain(..).for_each(|(op, ticket)| self.submit(op, ticket));
    }

    /// Can it tell what changed since the bookmark `name` ([`Map::ChangedSince`])? May block.
    fn has_bookmark(&self, _name: &Name) -> bool {
        false
    }

    /// What it shows at the start of `extent`, where it can tell without waiting for a disk. By the time that is used it may have
    /// been written over.
    fn shown(&self, _extent: Extent) -> Option<Shown> {
        None
    }

    /// From here on it shows at `to` what `base` has at `from`, without moving it; or [`DeviceError::Unsupported`], and nothing is
    /// changed: it stands above another one, or those are no whole blocks.
    fn show(&self, _base: Base, _from: Extent, _to: u64, ticket: Ticket) {
        ticket.answer(Err(unsupported()));
    }

    /// The newest bookmarks of which it can tell that, at most so many, the newest first. May block.
    fn newest_bookmarks(&self, _most: usize) -> Vec<Name> {
        Vec::new()
    }
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
        /// At once, whatever its length, or not at all: then [`DeviceError::Unsupported`], and nothing is changed.
        fast: bool,
    },
    /// The client has no use for the extent's content any more. A device either makes it zeroes or leaves it.
    Trim {
        /// Where.
        extent: Extent,
        /// Durable before it completes.
        fua: bool,
    },
    /// The client will read this soon. A device may begin to fetch it or do nothing; it completes at once.
    Cache {
        /// Where.
        extent: Extent,
    },
    /// What `from` holds is held by as many bytes from `to` on as well; should they overlap, as if all of it was read before any is
    /// written. A device does it without moving the content, or answers [`DeviceError::Unsupported`] and has changed nothing.
    Copy {
        /// Where from.
        from: Extent,
        /// The first byte of where to.
        to: u64,
    },
    /// What its maps say of the extent; changes nothing. Answered with [`Answer::Status`].
    ///
    /// A device bounds what it looks at for one operation: the answer covers the extent from its start on, not
    /// always to its end, and at least one byte of it.
    Status {
        /// Where; not empty.
        extent: Extent,
        /// Which maps.
        maps: Arc<[Map]>,
        /// Stretches of each map at most.
        most: usize,
    },
    /// See [`BlockDevice`].
    Flush,
}

/// What came of an operation, where the content of a read is wanted as one run of bytes: nothing for the others.
pub type Outcome = Result<Bytes, DeviceError>;

/// What came of an operation, as it reaches a [`CompletionQueue`].
pub type Answered = Result<Answer, DeviceError>;

/// What an operation gave. A read may be answered in any of the first three ways, of exactly the extent's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The content of a read; nothing for what is neither read nor status.
    Data(Bytes),
    /// All of what is read is zeroes, so many bytes of them.
    Zeroes(u64),
    /// The content of a read in order, for long zeroes in between.
    Parts(Vec<Part>),
    /// For each map asked for, in that order, its stretches from the extent's start on.
    Status(Vec<Vec<Stretch>>),
}

/// A part of what is read; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Data(Bytes),
    /// So many zeroes.
    Zeroes(u64),
}

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
    /// Not as it was asked for (see [`Op::Zero`]'s `fast`, and [`Op::Copy`]).
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The device is being closed.
    #[error("the device is shut down")]
    Stopped,
}

impl Part {
    /// Bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        match self {
            Self::Data(data) => count(data.len()),
            Self::Zeroes(length) => *length,
        }
    }
}

impl Answer {
    /// Bytes of content.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Data(data) => count(data.len()),
            Self::Zeroes(length) => *length,
            Self::Parts(parts) => parts.iter().map(Part::length).fold(0, u64::saturating_add),
            Self::Status(_) => 0,
        }
    }

    /// The content as one run of bytes: as it is where it came so, else copied together.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Data(data) => data,
            Self::Zeroes(length) => BytesMut::zeroed(index(length)).freeze(),
            Self::Parts(parts) => {
                let length = parts.iter().map(Part::length).fold(0, u64::saturating_add);
                let mut all = BytesMut::with_capacity(index(length));
                for part in parts {
                    match part {
                        Part::Data(data) => all.extend_from_slice(&data),
                        Part::Zeroes(zeroes) => all.resize(all.len() + index(zeroes), 0),
                    }
                }
                all.freeze()
            }
            Self::Status(_) => Bytes::new(),
        }
    }

    /// `data`, of which the stretches `holes` (within it, in order) are zeroes: those are left out.
    #[must_use]
    pub fn without_holes(data: Bytes, holes: impl IntoIterator<Item = Range<usize>>) -> Self {
        let (length, mut at, mut parts) = (data.len(), 0, Vec::new());
        for hole in holes {
            if hole.len() == length {
                return Self::Zeroes(count(length));
            }
            if at < hole.start {
                parts.push(Part::Data(data.slice(at..hole.start)));
            }
            parts.push(Part::Zeroes(count(hole.len())));
            at = hole.end;
        }
        if parts.is_empty() {
            return Self::Data(data);
        }
        if at < length {
            parts.push(Part::Data(data.slice(at..)));
        }
        Self::Parts(parts)
    }
}

impl From<Bytes> for Answer {
    fn from(data: Bytes) -> Self {
        Self::Data(data)
    }
}

impl Op {
    /// Where it works (of a copy: where to); `None` for a flush or an extent past the end of the number space.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        match self {
            Self::Read { extent }
            | Self::Zero { extent, .. }
            | Self::Trim { extent, .. }
            | Self::Cache { extent }
            | Self::Status { extent, .. } => Some(*extent),
            Self::Write { offset, data, .. } => Extent::new(*offset, count(data.len())),
            Self::Copy { from, to } => Extent::new(*to, from.length()),
            Self::Flush => None,
        }
    }

    /// Does it change the device?
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Trim { .. } | Self::Copy { .. })
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
        if let Op::Copy { from, .. } = op
            && from.end() > self.size
        {
            return Err(DeviceError::OutOfRange { extent: *from, size: self.size });
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
    fn complete(&self, tag: u64, answered: Answered);
}

/// The right, and duty, to complete one operation. One that is dropped completes with
/// [`DeviceError::Stopped`], so no client waits for ever.
pub struct Ticket {
    tag: u64,
    queue: Option<Arc<dyn CompletionQueue>>,
    lone: bool,
}

impl Ticket {
    /// A ticket that completes `tag` in `queue`.
    #[must_use]
    pub fn new(tag: u64, queue: Arc<dyn CompletionQueue>) -> Self {
        Self { tag, queue: Some(queue), lone: false }
    }

    /// The same; the thread that submits has nothing else to do until this is answered, so the device may take the time it needs
    /// right there.
    #[must_use]
    pub const fn alone(mut self) -> Self {
        self.lone = true;
        self
    }

    /// Does the thread that submits wait for nothing else?
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.lone
    }

    /// Hands over the outcome.
    pub fn complete(self, outcome: Outcome) {
        self.answer(outcome.map(Answer::Data));
    }

    /// Hands over what came of it, in whatever form.
    pub fn answer(mut self, answered: Answered) {
        if let Some(queue) = self.queue.take() {
            queue.complete(self.tag, answered);
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

/// Runs one operation and blocks the calling thread until it is over; what was read comes as one run of bytes. For tools,
/// tests and worker threads; never on a thread that the device needs to make progress.
pub fn run(device: &dyn BlockDevice, op: Op) -> Outcome {
    ask(device, op).map(Answer::into_bytes)
}

/// The same, with the answer as the device gave it.
pub fn ask(device: &dyn BlockDevice, op: Op) -> Answered {
    #[derive(Default)]
    struct Slot {
        outcome: Mutex<Option<Answered>>,
        there: Condvar,
    }
    impl CompletionQueue for Slot {
        fn complete(&self, _: u64, outcome: Answered) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_left_out_and_read_as_zeroes_all_the_same() {
        let data = Bytes::from_static(b"\0\0ab\0\0\0cd");
        let answer = |holes: &[Range<usize>]| Answer::without_holes(data.clone(), holes.iter().cloned());
        assert_eq!(answer(&[]), Answer::Data(data.clone()));
        let cut = answer(&[0..2, 4..7]);
        let Answer::Parts(parts) = &cut else { panic!("{cut:?}") };
        assert_eq!(parts.iter().map(Part::length).collect::<Vec<_>>(), [2, 2, 3, 2]);
        assert_eq!((cut.length(), cut.into_bytes()), (9, data.clone()));
        assert_eq!(
            Answer::without_holes(Bytes::from_static(&[0; 5]), std::iter::once(0..5)),
            Answer::Zeroes(5)
        );
        assert_eq!(Answer::Zeroes(5).into_bytes(), [0; 5][..]);
    }
}
