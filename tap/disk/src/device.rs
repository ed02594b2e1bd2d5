//! A file or block device as a [`BlockDevice`].
//!
//! Writes go into the page cache on the calling thread: one pwrite, no allocation, no lock. Reads are
//! answered on the spot when the page cache has the bytes, otherwise by a bounded pool of threads. Syncs run
//! on the pool too, one at a time: whoever asks while one runs shares the next. Who has nothing else to do meanwhile
//! ([`Ticket::is_alone`]) reads and syncs itself: two hops between threads cost a third of a sync.

mod claim;
mod flush;
mod grow;
mod open;
mod status;
mod zero;

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rustix::io::Errno;
use tap_block::units::{count, index};
use tap_block::{Answer, Answered, BlockDevice, DeviceError, Extent, Geometry, Op, Ticket};

use crate::pool::Pool;
use crate::raw;
use claim::Exclusive;
use flush::Flusher;
use zero::Zeroing;

pub use grow::Growth;
pub use open::{FileIdentity, FileOptions, OpenError};

/// Reads and syncs that wait for a thread; at the limit the submitter does the work itself.
const QUEUE_LIMIT: usize = 256;

/// Zeroing more than this at once goes to the pool; less is done where it is asked for.
const ZERO_INLINE: u64 = 1 << 20;

/// A disk whose content is a file or a block device.
///
/// It keeps the size it had when it was opened until it is told to [grow](FileDevice::grow_to). A file that somebody shrinks underneath is noticed at the
/// next read past its end or flush; from then on writes are refused, because they would grow it again with
/// zeroes nobody wrote.
#[derive(Debug)]
pub struct FileDevice {
    disk: Arc<Disk>,
    pool: Pool,
    exclusive: Exclusive,
}

/// What the operations share, also those on the pool.
#[derive(Debug)]
struct Disk {
    file: File,
    path: PathBuf,
    read_only: bool,
    /// Bytes; more of them only by [`FileDevice::grow_to`].
    size: AtomicU64,
    is_block_device: bool,
    trims: bool,
    /// The file system makes zeroes that stay allocated without writing them.
    zeroes_in_place: bool,
    /// The file system knows non-blocking reads.
    nowait: AtomicBool,
    shrunk: AtomicBool,
    flusher: Flusher,
}

/// A read on its way.
struct Reading {
    extent: Extent,
    buffer: Vec<u8>,
    filled: usize,
}

impl FileDevice {
    /// Does [`Op::Trim`] make zeroes (always) or nothing (always)? Fixed while the device is open.
    #[must_use]
    pub fn trims(&self) -> bool {
        self.disk.trims
    }

    /// Can it make zeroes of any length at once ([`Op::Zero`]'s `fast`)? Fixed while the device is open.
    #[must_use]
    pub fn zeroes_fast(&self, may_trim: bool) -> bool {
        if may_trim { self.disk.trims } else { self.disk.zeroes_in_place }
    }

    /// The next stretch at or after `from` that holds data, as far as the file system knows; all between
    /// reads as zeroes. `None` when only a hole follows. Where holes are unknown, all is data.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn data_extents(&self, from: u64) -> io::Result<Option<Extent>> {
        self.disk.data_extents(from)
    }

    /// What tells this disk from another, and a changed one from the same.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn identity(&self) -> io::Result<FileIdentity> {
        FileIdentity::of(&self.disk.file)
    }

    /// Writes these pieces one behind the other, on the calling thread; `pieces` is used up. What is written when it fails nobody
    /// knows.
    ///
    /// # Errors
    /// As of [`Op::Write`].
    pub fn write_all_at(&self, offset: u64, pieces: &mut [IoSlice<'_>]) -> Result<(), DeviceError> {
        let length = pieces.iter().map(|piece| count(piece.len())).sum();
        let extent = Extent::between(offset, offset.saturating_add(length));
        // Whatever may be trimmed may be written.
        self.geometry().admit(&Op::Trim { extent, fua: false })?;
        self.disk.write_pieces(offset, pieces)
    }

    fn read(&self, extent: Extent, ticket: Ticket) {
        let mut reading = Reading { extent, buffer: vec![0; index(extent.length())], filled: 0 };
        self.disk.read_cached(&mut reading);
        if reading.is_full() {
            return ticket.complete(Ok(Bytes::from(reading.buffer)));
        }
        if ticket.is_alone() {
            return ticket.answer(self.disk.read_rest(reading));
        }
        let disk = Arc::clone(&self.disk);
        self.pool.submit(move || ticket.answer(disk.read_rest(reading)));
    }

    fn flush(&self, ticket: Ticket) {
        let alone = ticket.is_alone();
        if self.disk.flusher.join(ticket) && !(alone && self.disk.run_one_flush()) {
            let disk = Arc::clone(&self.disk);
            self.pool.submit(move || disk.run_flushes());
        }
    }

    /// The end of a write-class operation: at once, or with the next sync.
    fn conclude(&self, done: Result<(), DeviceError>, fua: bool, ticket: Ticket) {
        match done {
            Ok(()) if fua => self.flush(ticket),
            done => ticket.complete(done.map(|()| Bytes::new())),
        }
    }

    fn zero(&self, op: &Op, ticket: Ticket) {
        let (extent, way, fua) = match *op {
            Op::Zero { may_trim, fast: true, .. } if !self.zeroes_fast(may_trim) => {
                return ticket.complete(Err(self.disk.no_fast_zeroes()));
            }
            Op::Zero { extent, fua, may_trim: false, fast } => (extent, Zeroing::Keep { fast }, fua),
            Op::Zero { extent, fua, may_trim: true, fast } => (extent, Zeroing::Punch { fast }, fua),
            Op::Trim { extent, fua } => (extent, Zeroing::Punch { fast: false }, fua),
            _ => return,
        };
        if extent.length() <= ZERO_INLINE {
            return self.conclude(self.disk.zero(extent, way), fua, ticket);
        }
        let disk = Arc::clone(&self.disk);
        self.pool.submit(move || match disk.zero(extent, way) {
            // On the pool already: no second job for the sync.
            Ok(()) if fua => {
                if disk.flusher.join(ticket) {
                    disk.run_flushes();
                }
            }
            done => ticket.complete(done.map(|()| Bytes::new())),
        });
    }

    fn start(&self, op: Op, ticket: Ticket) {
        match op {
            Op::Read { extent } => self.read(extent, ticket),
            Op::Write { offset, data, fua } => self.conclude(self.disk.write(offset, &data), fua, ticket),
            Op::Trim { fua, .. } if !self.disk.trims => self.conclude(Ok(()), fua, ticket),
            Op::Zero { .. } | Op::Trim { .. } => self.zero(&op, ticket),
            Op::Cache { extent } => {
                let disk = Arc::clone(&self.disk);
                self.pool.submit_if_idle(move || disk.fetch(extent));
                ticket.complete(Ok(Bytes::new()));
            }
            Op::Status { extent, maps, most } => {
                let disk = Arc::clone(&self.disk);
                self.pool.submit(move || ticket.answer(disk.status(extent, &maps, most)));
            }
            Op::Copy { .. } => {
                let why = "what a file holds is not shared within it".to_owned();
                ticket.complete(Err(DeviceError::Unsupported(why)));
            }
            Op::Flush => self.flush(ticket),
        }
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn submit(&self, op: Op, ticket: Ticket) {
        match self.geometry().admit(&op) {
            Ok(()) => self.start(op, ticket),
            Err(e) => ticket.complete(Err(e)),
        }
    }
}

impl Disk {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size.load(Ordering::Acquire), read_only: self.read_only }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.refuse_if_shrunk()?;
        self.file.write_all_at(data, offset).map_err(|e| self.failed("write", &e))
    }

    fn write_pieces(&self, mut offset: u64, mut pieces: &mut [IoSlice<'_>]) -> Result<(), DeviceError> {
        self.refuse_if_shrunk()?;
        while !pieces.is_empty() {
            match rustix::io::pwritev(&self.file, pieces, offset) {
                Ok(0) => return Err(self.failed("write", &io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    offset += count(written);
                    IoSlice::advance_slices(&mut pieces, written);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed("write", &e.into())),
            }
        }
        Ok(())
    }

    /// As much as the page cache gives without waiting.
    fn read_cached(&self, reading: &mut Reading) {
        if !self.nowait.load(Ordering::Relaxed) {
            return;
        }
        match raw::read_nowait(&self.file, reading.extent.offset(), &mut reading.buffer) {
            Ok(n) => reading.filled = n,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.nowait.store(false, Ordering::Relaxed);
            }
            // Not in the cache; or a failure, which the blocking read will meet again and report.
            Err(_) => {}
        }
    }

    fn read_rest(&self, mut reading: Reading) -> Answered {
        if reading.filled == 0
            && let Some(sparse) = self.read_around_holes(reading.extent)
        {
            return Ok(sparse);
        }
        let from = reading.extent.offset() + count(reading.filled);
        let rest = reading.buffer.get_mut(reading.filled..).unwrap_or_default();
        match self.file.read_exact_at(rest, from) {
            Ok(()) => Ok(Answer::Data(Bytes::from(reading.buffer))),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.ended_early(reading.extent)),
            Err(e) => Err(self.failed("read", &e)),
        }
    }

    /// The error for a read that met the end of the file. Zeroes are never invented for it.
    fn ended_early(&self, extent: Extent) -> DeviceError {
        match self.check_size() {
            Err(e) => self.failed("read", &e),
            Ok(()) => {
                DeviceError::Io(format!("cannot read {extent} of {}: it ends early", self.path.display()))
            }
        }
    }

    fn refuse_if_shrunk(&self) -> Result<(), DeviceError> {
        if self.shrunk.load(Ordering::Relaxed) {
            return Err(DeviceError::Io(self.shrunk_message()));
        }
        Ok(())
    }

    /// Is all of the disk still there? Once it was not, never again: growing the file back brings back its
    /// size and not its content.
    fn check_size(&self) -> io::Result<()> {
        if !self.is_block_device && self.file.metadata()?.len() < self.geometry().size {
            self.shrunk.store(true, Ordering::Relaxed);
        }
        if self.shrunk.load(Ordering::Relaxed) {
            return Err(io::Error::other(self.shrunk_message()));
        }
        Ok(())
    }

    fn shrunk_message(&self) -> String {
        let (path, size) = (self.path.display(), self.geometry().size);
        format!(
            "{path} has been shrunk below the {size} bytes it had when it was opened; what was behind its \
                 new end is gone: restore the file, then start again"
        )
    }

    fn failed(&self, what: &str, error: &io::Error) -> DeviceError {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                DeviceError::NoSpace(format!("cannot {what} {path}: {error}; make room on its file system"))
            }
            _ => DeviceError::Io(format!("cannot {what} {path}: {error}")),
        }
    }
}

impl Reading {
    fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }
}

#[cfg(test)]
mod tests;
